from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation
from pipeline.config import settings_hash
from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.errors import CheckpointError, DataError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.sam.cache import SCHEMA, read_masks
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.generator import MaskGenerator
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import SamSettings
from pipeline.vision.sam.worker import MaskWorker
from stages import masks
from stages.profiles import profile_sections
from stages.settings import MasksSettings
from tests.places import at
from tests.worlds.mask_data import THRESHOLDS, lively_weights
from tests.worlds.region_data import write_image, write_pairs

INLINE = EngineSettings(device="cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _make(folder: Path, pairs: int, **generator: Any) -> tuple[Path, MasksSettings]:
    prepared = write_pairs(folder, [(64, 64)] * pairs)
    return prepared, MasksSettings(sam=lively_weights(folder), generator=THRESHOLDS.model_copy(update=generator))


def test_masks_are_the_generators(folder: Path) -> None:
    prepared = write_pairs(folder, [(64, 64), (40, 90)])
    settings = MasksSettings(sam=lively_weights(folder), generator=THRESHOLDS)
    path = masks.run(settings, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    data = read_prepared(prepared)
    sam = build_sam(settings.sam)
    generator = MaskGenerator(sam, settings.sam, THRESHOLDS, "cpu")
    with Cache.open(path, SCHEMA, expect=Expectation(settings_hash=settings_hash(settings))) as cache:
        assert cache.ids == tuple(pair.id for pair in data.pairs)
        assert cache.provenance.upstream == {"pairs.jsonl": data.card.pairs_sha256}
        assert cache.provenance.weights == {"sam": sha256_file(Path(settings.sam.weights))}
        for index, pair in enumerate(data.pairs):
            for date, name in enumerate((pair.before, pair.after)):
                image = read_rgb(data.root / name)
                predicted, expected = read_masks(cache, 2 * index + date), generator.generate([image] * 4)[0]
                assert predicted.size == image.shape[:2]
                assert 0 < len(predicted) <= THRESHOLDS.max_masks
                np.testing.assert_array_equal(predicted.bitmaps(), expected.bitmaps())
                np.testing.assert_allclose(predicted.predicted_iou, expected.predicted_iou, atol=1e-6)
                assert cache.row("embedding", 2 * index + date).size == 0


def test_embeddings_are_kept_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared, settings = _make(folder, 1)
    settings = settings.model_copy(update={"store_embeddings": True})
    path = masks.run(settings, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    assert "embeddings take 32,768 bytes an image, 65,536 for 2 images" in capsys.readouterr().err
    data = read_prepared(prepared)
    image = read_rgb(data.root / data.pairs[0].after)
    expected = ImageEncoder(build_sam(settings.sam), settings.sam, "cpu").encode([image])[0].numpy()
    with Cache.open(path, SCHEMA) as cache:
        assert cache.memory_map("embedding").shape == (2, 64, 16, 16)
        np.testing.assert_allclose(cache.row("embedding", 1), expected, atol=2e-3)


def test_batches_do_not_show_in_the_bytes(folder: Path) -> None:
    prepared, settings = _make(folder, 5)
    whole = sha256_file(masks.run(settings, at(prepared=prepared, masks=folder / "a.h5"), engine=INLINE))
    shutil.rmtree(folder / ".work")
    data = read_prepared(prepared)
    few = folder / "few"
    write_prepared(few, "folder", data.card.root, data.pairs[1:3])
    masks.run(settings, at(prepared=few, masks=folder / "b.h5"), engine=INLINE)
    assert sha256_file(masks.run(settings, at(prepared=prepared, masks=folder / "c.h5"), engine=INLINE)) == whole


def test_second_run_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, settings = _make(folder, 1)
    path = masks.run(settings, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("a model was loaded")

    monkeypatch.setattr(MaskWorker, "__init__", refuse)
    # DVC empties the output first: the shards are still there, so no model is needed.
    path.unlink()
    masks.run(settings, at(prepared=prepared, masks=path), engine=INLINE)


def test_other_settings_and_weights_never_reuse_shards(folder: Path) -> None:
    prepared, settings = _make(folder, 1)
    masks.run(settings, at(prepared=prepared, masks=folder / "a.h5"), engine=INLINE)
    other = settings.model_copy(update={"generator": THRESHOLDS.model_copy(update={"stability_score_thresh": 0.3})})
    masks.run(other, at(prepared=prepared, masks=folder / "b.h5"), engine=INLINE)
    lively_weights(folder, seed=4)
    masks.run(settings, at(prepared=prepared, masks=folder / "c.h5"), engine=INLINE)
    counts = []
    for name in "abc":
        with Cache.open(folder / f"{name}.h5", SCHEMA) as cache:
            counts.append(read_masks(cache, 0).counts.tolist())
    assert counts[0] != counts[1]
    assert counts[0] != counts[2]


def test_an_image_without_masks_and_a_blank_one_are_images(folder: Path) -> None:
    prepared, settings = _make(folder, 2, pred_iou_thresh=1.0, stability_score_thresh=1.0)
    with Cache.open(
        masks.run(settings, at(prepared=prepared, masks=folder / "none.h5"), engine=INLINE), SCHEMA
    ) as cache:
        assert [len(read_masks(cache, unit)) for unit in range(4)] == [0] * 4
        assert cache.missing.size == 0
        assert read_masks(cache, 0).size == (64, 64)
    data = read_prepared(prepared)
    blank = data.root / data.pairs[0].after
    Image.fromarray(np.full((64, 64, 3), 255, np.uint8)).save(blank)
    changed = data.pairs[0].model_copy(update={"sha256": {**data.pairs[0].sha256, "after": sha256_file(blank)}})
    write_prepared(prepared, "folder", data.card.root, [changed, data.pairs[1]])
    permissive = settings.model_copy(update={"generator": THRESHOLDS.model_copy(update={"pred_iou_thresh": 0.0})})
    with Cache.open(
        masks.run(permissive, at(prepared=prepared, masks=folder / "some.h5"), engine=INLINE), SCHEMA
    ) as cache:
        assert len(read_masks(cache, 1)) > 0


def test_no_more_masks_than_the_limit(folder: Path) -> None:
    prepared, settings = _make(folder, 1, max_masks=3)
    with Cache.open(
        masks.run(settings, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE), SCHEMA
    ) as cache:
        predicted = read_masks(cache, 0)
        assert len(predicted) == 3
        assert (np.diff(predicted.predicted_iou) <= 0).all()


def test_a_bad_image_is_fatal_or_skipped(folder: Path) -> None:
    prepared, settings = _make(folder, 2)
    (folder / "images" / "B" / "pair_001.png").write_bytes(b"")
    with pytest.raises(DataError, match="empty") as caught:
        masks.run(settings, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    assert "or set engine.on_bad_item to skip" in str(caught.value.fix)
    assert not str(caught.value.fix).startswith("mend them")
    assert not (folder / "masks.h5").exists()
    skipping = EngineSettings(device="cpu", on_bad_item="skip")
    with Cache.open(
        masks.run(settings, at(prepared=prepared, masks=folder / "masks.h5"), engine=skipping), SCHEMA
    ) as cache:
        assert cache.missing.tolist() == [3]
        assert len(read_masks(cache, 3)) == 0
        assert len(read_masks(cache, 2)) > 0


def test_an_image_that_changed_since_prepare_is_refused(folder: Path) -> None:
    prepared, settings = _make(folder, 1)
    write_image(folder / "images" / "A" / "pair_000.png", 64, 64, np.random.default_rng(7))
    with pytest.raises(DataError, match="changed since"):
        masks.run(settings, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)


def test_wrong_inputs_are_refused(folder: Path) -> None:
    prepared, settings = _make(folder, 1)
    absent = settings.model_copy(update={"sam": SamSettings(weights="sam_vit_h_4b8939.pth")})
    with pytest.raises(CheckpointError, match="not there"):
        masks.run(absent, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    uneven = settings.model_copy(update={"sam": settings.sam.model_copy(update={"encoder_size": 100})})
    with pytest.raises(SettingsError, match="no multiple"):
        masks.run(uneven, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    state = build_sam(SamSettings(), random_weights=True).state_dict()
    save_file({name: tensor for name, tensor in state.items() if "neck" not in name}, folder / "part.safetensors")
    torch.save("no weights", folder / "text.pth")
    for name, reason in (("part.safetensors", "not a SAM mini"), ("text.pth", "not a state dict")):
        wrong = settings.model_copy(update={"sam": SamSettings(weights=str(folder / name))})
        with pytest.raises(CheckpointError, match=reason):
            masks.run(wrong, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    write_prepared(folder / "empty", "folder", "images", [])
    with pytest.raises(DataError, match="no pairs"):
        masks.run(settings, at(prepared=folder / "empty", masks=folder / "masks.h5"), engine=INLINE)
    assert not (folder / "masks.h5").exists()


@pytest.mark.parametrize("profile", ["levir-cc", "levir-mci", "dubai-cc", "whu-cdc", "second-cc"])
def test_defaults_are_the_papers_and_the_published_ones(profile: str) -> None:
    section = profile_sections(profile, "anywhere")["masks"]
    assert isinstance(section, MasksSettings)
    chosen = section.generator
    assert (
        chosen.max_masks,
        chosen.pred_iou_thresh,
        chosen.stability_score_thresh,
        chosen.box_nms_thresh,
    ) == (
        50,
        0.88,
        0.95,
        0.7,
    )
    assert (
        chosen.points_per_side,
        chosen.coarse_stride,
        chosen.crop_n_layers,
        chosen.min_mask_region_area,
    ) == (
        32,
        1,
        0,
        0,
    )
