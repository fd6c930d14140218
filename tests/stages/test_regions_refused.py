from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.reader import Cache
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.errors import CacheError, CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.vision.regions.cache import SCHEMA, read_regions
from stages import regions
from tests.places import at
from tests.worlds.region_data import make, settings, write_image, write_sam

INLINE = EngineSettings(device="cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_weights_must_be_those_of_the_masks(folder: Path) -> None:
    prepared, masks, sam = make(folder)
    write_sam(folder, seed=1)
    with pytest.raises(CheckpointError, match="not those that the masks were made with") as caught:
        regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    assert "sagecc masks" in str(caught.value.fix)
    Path(sam.weights).unlink()
    with pytest.raises(CheckpointError, match="are not there") as caught:
        regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    assert "masks.store_embeddings=true" in str(caught.value.fix)
    assert not (folder / "regions.h5").exists()


def test_stored_embeddings_need_no_weights_and_no_images(folder: Path) -> None:
    prepared, masks, sam = make(folder, embeddings=True)
    Path(sam.weights).unlink()
    shutil.rmtree(folder / "images")
    regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)


def test_embeddings_of_another_size_are_refused(folder: Path) -> None:
    prepared, masks, _ = make(folder, embeddings=True, spoil=lambda embedding: embedding[:, ::2, ::2])
    with pytest.raises(CacheError, match="64×8×8, where mini gives 64×16×16"):
        regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)


def test_masks_of_another_data_set_are_refused(folder: Path) -> None:
    prepared, masks, _ = make(folder)
    data = read_prepared(prepared)
    write_prepared(prepared, "folder", data.card.root, data.pairs[:2])
    with pytest.raises(CacheError, match=r"another input: pairs\.jsonl") as caught:
        regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    assert caught.value.fix == "run `sagecc masks`"
    with pytest.raises(CacheError):
        regions.run(
            settings(),
            at(prepared=prepared, masks=folder / "none.h5", regions=folder / "regions.h5"),
            engine=INLINE,
        )


def test_an_image_that_changed_since_prepare_is_refused(folder: Path) -> None:
    prepared, masks, _ = make(folder)
    write_image(folder / "images" / "A" / "pair_002.png", 64, 64, np.random.default_rng(7))
    with pytest.raises(DataError, match="changed since"):
        regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)


def test_images_whose_masks_were_skipped(folder: Path) -> None:
    prepared, masks, _ = make(folder, missing=[3])
    with pytest.raises(DataError, match="masks of this image were skipped"):
        regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    skipping = EngineSettings(device="cpu", on_bad_item="skip")
    path = regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=skipping)
    with Cache.open(path, SCHEMA) as cache:
        assert cache.missing.tolist() == [3]
        assert len(read_regions(cache, 3)) == 0
        assert len(read_regions(cache, 4)) == 4
