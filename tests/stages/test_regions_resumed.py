from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.reader import Cache
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.regions.cache import SCHEMA
from pipeline.vision.regions.settings import RoiSettings
from pipeline.vision.regions.worker import RegionWorker
from stages import regions
from tests.places import at
from tests.worlds.region_data import Bitmaps, make, random_masks, settings, write_image, write_masks, write_sam

INLINE = EngineSettings(device="cpu")
MIXED = [(64, 64), (40, 96), (200, 128)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded_units(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    units: list[int] = []
    load = RegionWorker.load

    def counting(self: RegionWorker, image: object) -> object:
        units.append(image.unit)
        return load(self, image)

    monkeypatch.setattr(RegionWorker, "load", counting)
    return units


@pytest.mark.parametrize("embeddings", [False, True])
def test_batches_do_not_show_in_the_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch, embeddings: bool) -> None:
    prepared, masks, sam = make(folder, [*MIXED, (64, 64), (64, 64)], embeddings=embeddings)
    whole = sha256_file(
        regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "a.h5"), engine=INLINE)
    )
    shutil.rmtree(folder / ".work")
    data = read_prepared(prepared)
    # Some images are done before, so that the others fall into batches differently.
    write_prepared(folder / "few", "folder", data.card.root, data.pairs[1:3])
    few = write_masks(
        folder / "few.h5",
        folder / "few",
        sam,
        embeddings=embeddings,
        masks=lambda unit, height, width: random_masks(unit + 2, height, width),
    )
    regions.run(settings(), at(prepared=folder / "few", masks=few, regions=folder / "b.h5"), engine=INLINE)
    units = loaded_units(monkeypatch)
    assert (
        sha256_file(regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "c.h5"), engine=INLINE))
        == whole
    )
    assert units == [0, 1, 6, 7, 8, 9]


def test_second_run_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, masks, _ = make(folder)
    path = regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    before = path.stat().st_mtime_ns

    def refuse(*_: object) -> None:
        raise RuntimeError("a model was loaded")

    monkeypatch.setattr(RegionWorker, "__init__", refuse)
    regions.run(settings(), at(prepared=prepared, masks=masks, regions=path), engine=INLINE)
    assert path.stat().st_mtime_ns == before
    path.unlink()
    regions.run(settings(), at(prepared=prepared, masks=masks, regions=path), engine=INLINE)


def test_one_changed_image_recomputes_that_image_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, masks, sam = make(folder)
    regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    data = read_prepared(prepared)
    changed = write_image(data.root / "B" / "pair_001.png", 64, 64, np.random.default_rng(9))
    pair = data.pairs[1].model_copy(update={"sha256": {**data.pairs[1].sha256, "after": changed}})
    write_prepared(prepared, "folder", data.card.root, [data.pairs[0], pair, data.pairs[2]])
    write_masks(masks, prepared, sam)
    units = loaded_units(monkeypatch)
    regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    assert units == [3]


@pytest.mark.parametrize("mask_pooling", [False, True])
def test_masks_that_change_recompute_their_images_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mask_pooling: bool
) -> None:
    prepared, masks, sam = make(folder)
    chosen = settings(roi=RoiSettings(mask_pooling=mask_pooling))
    regions.run(chosen, at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)

    def one_other(unit: int, height: int, width: int) -> Bitmaps:
        bitmaps = random_masks(unit, height, width)
        if unit == 4:
            bitmaps[2] = ~bitmaps[2]
        return bitmaps

    write_masks(masks, prepared, sam, masks=one_other)
    units = loaded_units(monkeypatch)
    regions.run(chosen, at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    assert units == [4]


def test_other_settings_weights_or_sam_never_reuse_shards(folder: Path) -> None:
    prepared, masks, sam = make(folder)
    first = regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "a.h5"), engine=INLINE)
    coarse = settings(roi=RoiSettings(output_size=7, sampling_ratio=1))
    second = regions.run(coarse, at(prepared=prepared, masks=masks, regions=folder / "b.h5"), engine=INLINE)
    larger = sam.model_copy(update={"encoder_size": 192})
    third = regions.run(
        settings(),
        at(prepared=prepared, masks=write_masks(folder / "m2.h5", prepared, larger), regions=folder / "c.h5"),
        engine=INLINE,
    )
    write_sam(folder, seed=1)
    fourth = regions.run(
        settings(),
        at(prepared=prepared, masks=write_masks(folder / "m3.h5", prepared, sam), regions=folder / "d.h5"),
        engine=INLINE,
    )
    rows = []
    for path in (first, second, third, fourth):
        with Cache.open(path, SCHEMA) as cache:
            rows.append(cache.row("descriptors", 3).tobytes())
    assert len(set(rows)) == 4
