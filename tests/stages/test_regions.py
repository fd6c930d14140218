from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.cache.reader import Cache, cache_sha256
from pipeline.cache.schema import Expectation
from pipeline.config import settings_hash
from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import read_prepared
from pipeline.errors import ResourceError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.regions.cache import SCHEMA, read_regions
from pipeline.vision.regions.descriptor import DescriptorHead, apply_head, build_head, region_grids
from pipeline.vision.regions.settings import HeadSettings, RoiSettings
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.cache import read_masks
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import GeneratorSettings
from stages import masks as masks_stage
from stages import regions
from stages.settings import MasksSettings
from tests.places import at
from tests.vision.regions.plain import align, pool
from tests.worlds.region_data import SQUARE, Bitmaps, images_of, make, settings, write_masks, write_pairs, write_sam

INLINE = EngineSettings(device="cpu")
MIXED = [(64, 64), (40, 96), (200, 128)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("embeddings", [False, True])
def test_descriptors_against_a_plain_loop(folder: Path, embeddings: bool) -> None:
    prepared, masks, sam = make(folder, MIXED, embeddings=embeddings)
    path = regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    data = read_prepared(prepared)
    encoder = ImageEncoder(build_sam(sam), sam, "cpu")
    compared = 0
    with Cache.open(path, SCHEMA) as cache, Cache.open(masks, MASKS) as source:
        assert cache.ids == tuple(pair.id for pair in data.pairs)
        for unit, file in enumerate(images_of(data)):
            actual, expected = read_regions(cache, unit), read_masks(source, unit)
            assert len(actual) == len(expected) == unit % 5
            assert actual.size == expected.size
            for name in ("boxes", "centroids", "areas"):
                np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
            np.testing.assert_array_equal(actual.scores, expected.predicted_iou)
            assert actual.descriptors.shape == (unit % 5, 64)
            assert actual.descriptors.dtype == np.float16
            height, width = expected.size
            scale = 16 / max(height, width)
            rows, columns = -(-height * 16 // max(height, width)), -(-width * 16 // max(height, width))
            feature = encoder.encode([read_rgb(file)])[0, :, :rows, :columns].double().numpy()
            for box, vector in zip(expected.boxes, actual.descriptors, strict=True):
                plain = pool(align(feature, box.astype(float) * scale, 14, 0), 7).mean((1, 2))
                np.testing.assert_allclose(vector, plain, atol=4e-3)
                compared += 1
        assert cache.row("grids", 1).shape == (1, 0, 7, 7)
    assert compared == 10


def test_stored_embeddings_and_encoding_again_agree(folder: Path) -> None:
    prepared, masks, sam = make(folder, MIXED)
    stored = write_masks(folder / "stored.h5", prepared, sam, embeddings=True)
    paths = [
        regions.run(
            settings(),
            at(prepared=prepared, masks=source, regions=folder / f"{source.stem}-regions.h5"),
            engine=INLINE,
        )
        for source in (masks, stored)
    ]
    with Cache.open(paths[0], SCHEMA) as one, Cache.open(paths[1], SCHEMA) as two:
        for unit in range(6):
            np.testing.assert_allclose(one.row("descriptors", unit), two.row("descriptors", unit), atol=2e-3)


def test_after_the_masks_stage(folder: Path) -> None:
    prepared, sam = write_pairs(folder, MIXED), write_sam(folder)
    # An untrained model is sure of nothing.
    anything = GeneratorSettings(
        points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0, mask_nms_thresh=None
    )
    rows = []
    for stored in (False, True):
        chosen = MasksSettings(sam=sam, generator=anything, store_embeddings=stored)
        actual = masks_stage.run(chosen, at(prepared=prepared, masks=folder / f"masks-{stored}.h5"), engine=INLINE)
        path = regions.run(
            settings(),
            at(prepared=prepared, masks=actual, regions=folder / f"regions-{stored}.h5"),
            engine=INLINE,
        )
        with Cache.open(path, SCHEMA) as cache, Cache.open(actual, MASKS) as source:
            assert np.array_equal(cache.offsets("regions"), source.offsets("masks"))
            rows.append(cache.rows("descriptors", range(len(cache)))[0])
    assert len(rows[0]) > 6
    np.testing.assert_allclose(rows[0], rows[1], atol=2e-3)


def test_provenance_names_everything_it_is_made_of(folder: Path) -> None:
    prepared, masks, sam = make(folder)
    head = folder / "head.safetensors"
    conv = HeadSettings(kind="conv", width=16, weights=str(head))
    save_file(DescriptorHead(64, conv).state_dict(), head)
    chosen = settings(head=conv)
    path = regions.run(chosen, at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    with Cache.open(path, SCHEMA, expect=Expectation(settings_hash=settings_hash(chosen))) as cache:
        assert cache.provenance.weights == {"sam": sha256_file(Path(sam.weights)), "head": sha256_file(head)}
        assert cache.provenance.upstream == {
            "pairs.jsonl": read_prepared(prepared).card.pairs_sha256,
            "masks.h5": cache_sha256(masks, MASKS),
        }
        assert cache.row("descriptors", 3).shape == (3, 16)


def test_grids_are_what_the_descriptors_are_made_of(folder: Path) -> None:
    prepared, masks, _ = make(folder)
    head = HeadSettings(kind="conv", width=16, seed=3, normalise=True)
    chosen = settings(store="grids", head=head)
    with Cache.open(
        regions.run(chosen, at(prepared=prepared, masks=masks, regions=folder / "r.h5"), engine=INLINE),
        SCHEMA,
    ) as cache:
        grids = cache.row("grids", 4)
        assert grids.shape == (4, 64, 7, 7)
        expected = apply_head(build_head(64, head), torch.from_numpy(grids).float())
        np.testing.assert_allclose(cache.row("descriptors", 4), expected.numpy(), atol=2e-3)


def test_mask_pooling_leaves_the_surroundings_out(folder: Path) -> None:
    def holed(unit: int, height: int, width: int) -> Bitmaps:
        masks = np.zeros((1, height, width), dtype=np.bool_)
        masks[0, :, :8] = masks[0, -8:, :] = True
        return masks

    prepared, masks, _ = make(folder, SQUARE[:1], masks=holed)
    plain, weighted = (
        regions.run(
            settings(roi=RoiSettings(mask_pooling=m)),
            at(prepared=prepared, masks=masks, regions=folder / f"{m}.h5"),
            engine=INLINE,
        )
        for m in (False, True)
    )
    with Cache.open(plain, SCHEMA) as one, Cache.open(weighted, SCHEMA) as two:
        assert np.abs(one.row("descriptors", 0) - two.row("descriptors", 0)).max() > 0.01


def test_no_masks_at_all(folder: Path) -> None:
    prepared, masks, _ = make(folder, masks=lambda _, height, width: np.zeros((0, height, width), np.bool_))
    path = regions.run(
        settings(store="grids"),
        at(prepared=prepared, masks=masks, regions=folder / "regions.h5"),
        engine=INLINE,
    )
    with Cache.open(path, SCHEMA) as cache:
        assert read_regions(cache, 0).descriptors.shape == (0, 64)
        assert cache.row("grids", 5).shape == (0, 64, 7, 7)


def test_the_room_it_takes_is_told(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepared, masks, _ = make(folder)
    regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "regions.h5"), engine=INLINE)
    told = capfd.readouterr().err
    # 0 + 1 + 2 + 3 + 4 + 0 regions; 160 bytes each with vectors, 6,432 with grids; six images, so 3.33 regions a pair.
    assert "10 regions, 1.7 an image" in told
    assert "vectors 533 bytes a pair, 5.4 MB for all of LEVIR-CC" in told
    assert "grids 21.4 kB a pair, 216.1 MB for all of LEVIR-CC" in told


def test_out_of_memory_goes_on_with_fewer_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared, masks, _ = make(folder)
    expected = regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "a.h5"), engine=INLINE)
    shutil.rmtree(folder / ".work")
    encode = ImageEncoder.encode

    def cramped(self: ImageEncoder, images: list[object]) -> torch.Tensor:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, images)

    monkeypatch.setattr(ImageEncoder, "encode", cramped)
    actual = regions.run(settings(), at(prepared=prepared, masks=masks, regions=folder / "b.h5"), engine=INLINE)
    assert "going on with 1 images per pass" in capfd.readouterr().err
    with Cache.open(expected, SCHEMA) as one, Cache.open(actual, SCHEMA) as two:
        for unit in range(6):
            np.testing.assert_allclose(one.row("descriptors", unit), two.row("descriptors", unit), atol=2e-3)


@pytest.mark.parametrize("embeddings", [False, True])
def test_pooling_that_runs_out_of_memory_goes_on_with_fewer_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], embeddings: bool
) -> None:
    prepared, masks, _ = make(folder, embeddings=embeddings)
    pooling = settings(roi=RoiSettings(mask_pooling=True))
    expected = regions.run(pooling, at(prepared=prepared, masks=masks, regions=folder / "a.h5"), engine=INLINE)
    shutil.rmtree(folder / ".work")
    room = {"images": 1}

    def cramped(features: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if len(features) > room["images"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return region_grids(features, *given, **named)

    monkeypatch.setattr("pipeline.vision.regions.worker.region_grids", cramped)
    actual = regions.run(pooling, at(prepared=prepared, masks=masks, regions=folder / "b.h5"), engine=INLINE)
    assert capfd.readouterr().err.count("going on with 1 images per pass") == 1
    with Cache.open(expected, SCHEMA) as one, Cache.open(actual, SCHEMA) as two:
        for unit in range(6):
            np.testing.assert_allclose(one.row("descriptors", unit), two.row("descriptors", unit), atol=2e-3)
            np.testing.assert_array_equal(one.row("boxes", unit), two.row("boxes", unit))
    shutil.rmtree(folder / ".work")
    room["images"] = 0
    skipping = EngineSettings(device="cpu", on_bad_item="skip")
    with pytest.raises(ResourceError, match="one at a time"):
        regions.run(pooling, at(prepared=prepared, masks=masks, regions=folder / "c.h5"), engine=skipping)
    assert not (folder / "c.failures.json").exists()
