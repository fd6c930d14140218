"""Our masks against those of segment_anything's own generator, with the same weights and settings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.amg import calculate_stability_score

from benchmarks._random_sam import lively_sam, picture
from pipeline.datasets.images import read_rgb
from pipeline.datasets.world.pair import make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import ResourceError
from pipeline.vision.sam import amg, postprocess
from pipeline.vision.sam.amg import View, every, grid
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.decoder import PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.generator import MaskGenerator
from pipeline.vision.sam.settings import PUBLISHED_GENERATOR, GeneratorSettings, SamSettings
from tests.datasets.reference import reference

EVERYTHING = PUBLISHED_GENERATOR.model_copy(
    update={
        "points_per_side": 6,
        "predicted_iou": 0.5,
        "stability": 0.6,
        "stability_offset": 0.15,
        "box_nms": 1.0,
        "crop_nms": 1.0,
        "keep": 4096,
    }
)
"""Thresholds that masks of random weights pass in numbers."""


@pytest.fixture(scope="module")
def sam() -> Sam:
    return lively_sam(SamSettings())


@pytest.fixture(scope="module")
def world() -> list[NDArray[np.uint8]]:
    pair = make_pair(WorldSettings(size=96, train=2), "train", 1)
    return list(pair.images)


def _changed(**changes: Any) -> GeneratorSettings:
    return EVERYTHING.model_copy(update=changes)


def _reference(
    sam: Sam, settings: GeneratorSettings, points: list[NDArray[np.float64]] | None = None
) -> SamAutomaticMaskGenerator:
    return SamAutomaticMaskGenerator(
        sam,
        points_per_side=None if points else settings.points_per_side,
        point_grids=points,
        pred_iou_thresh=settings.predicted_iou,
        stability_score_thresh=settings.stability,
        stability_score_offset=settings.stability_offset,
        box_nms_thresh=settings.box_nms,
        crop_n_layers=settings.crop_layers,
        crop_nms_thresh=settings.crop_nms,
        crop_overlap_ratio=settings.crop_overlap,
        crop_n_points_downscale_factor=settings.crop_points_downscale,
        min_mask_region_area=settings.min_region_area,
    )


def _same(found: MaskSet, expected: Sequence[dict[str, Any]]) -> None:
    """Assert equal numbers of masks, a mean IoU of matched masks of 0.99 and more, and the same scores."""
    assert len(found) == len(expected)
    assert len(expected) > 0
    ours = found.bitmaps().reshape(len(found), -1).astype(np.float32)
    theirs = np.stack([record["segmentation"].ravel() for record in expected]).astype(np.float32)
    shared = ours @ theirs.T
    iou = shared / (ours.sum(1)[:, None] + theirs.sum(1)[None] - shared)
    assert min(iou.max(axis=0).mean(), iou.max(axis=1).mean()) >= 0.999
    for name, values in (("predicted_iou", found.predicted_iou), ("stability_score", found.stability)):
        np.testing.assert_allclose(np.sort(values), np.sort([record[name] for record in expected]), atol=2e-3)
    best = iou.argmax(axis=1)
    left, top, wide, tall = np.array([expected[number]["bbox"] for number in best]).T
    assert np.abs(found.boxes - np.stack([left, top, left + wide + 1, top + tall + 1], axis=1)).mean() < 0.05


@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        _changed(box_nms=0.97),
        _changed(predicted_iou=0, stability=0.5),
        _changed(min_region_area=30, box_nms=0.98),
        _changed(stability_offset=0.3, stability=0.3, points_per_side=5),
    ],
    ids=["plain", "nms", "all", "cleaned", "offset"],
)
def test_masks_are_the_references(sam: Sam, world: list[NDArray[np.uint8]], settings: GeneratorSettings) -> None:
    images = [*world, picture(128, 128), picture(64, 100)]
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    theirs = _reference(sam, settings)
    for image, masks in zip(images, found, strict=True):
        assert masks.size == image.shape[:2]
        _same(masks, theirs.generate(image))


@pytest.mark.parametrize("overlap", [0.2, 512 / 1500])
def test_masks_of_crops_are_the_references(sam: Sam, overlap: float) -> None:
    settings = _changed(
        crop_layers=1, crop_overlap=overlap, crop_points_downscale=2, predicted_iou=0, stability=0.3, crop_nms=0.97
    )
    image = picture(150, 190, seed=4)
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    _same(found, _reference(sam, settings).generate(image))


def test_masks_of_the_published_layout_are_the_references(world: list[NDArray[np.uint8]]) -> None:
    sam_settings = SamSettings(variant="vit_b", encoder_size=128)
    sam = lively_sam(sam_settings)
    settings = _changed(points_per_side=4, predicted_iou=0, stability=0.3, stability_offset=0.2)
    found = MaskGenerator(sam, sam_settings, settings, "cpu").generate(world)
    theirs = _reference(sam, settings)
    for image, masks in zip(world, found, strict=True):
        _same(masks, theirs.generate(image))


def test_of_masks_that_overlap_the_better_one_stays(sam: Sam, world: list[NDArray[np.uint8]]) -> None:
    every_mask, left = (
        MaskGenerator(sam, SamSettings(), settings, "cpu").generate(world[:1])[0]
        for settings in (EVERYTHING, _changed(mask_nms=0.8))
    )
    rows = [int(np.flatnonzero((every_mask.bitmaps() == mask).all((1, 2)))[0]) for mask in left.bitmaps()]
    assert rows == sorted(rows)
    assert rows[0] == 0
    assert 1 < len(left) < len(every_mask)


def test_a_coarse_stride_asks_what_no_mask_covers(sam: Sam) -> None:
    settings = _changed(points_per_side=7, coarse_stride=3)
    image = picture(128, 128, seed=5)
    places = grid(7, (128, 128), (128, 128)) / 128
    first = every(7, 3)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    asked = torch.from_numpy(128 * places[first])[:, None]
    logits, iou, _ = predictor.predict_torch(asked, torch.ones(len(first), 1), return_logits=True)
    offset = settings.stability_offset
    passed = (iou > settings.predicted_iou) & (calculate_stability_score(logits, 0.0, offset) >= settings.stability)
    shown = (logits[passed] > offset).any(0).numpy()
    columns, rows = (128 * places).astype(int).T
    rest = np.setdiff1d(np.flatnonzero(~shown[rows, columns]), first)
    assert 0 < len(rest) < 45
    expected = _reference(sam, settings, [places[np.union1d(first, rest)]]).generate(image)
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image, image])
    for masks in found:
        _same(masks, expected)


@pytest.mark.reference_data
def test_masks_of_real_images_are_the_references(sam: Sam) -> None:
    files = sorted(reference("levir_cd_samples", "A").glob("*.png"))[:2]
    files += sorted(reference("levir_cc", "images").rglob("*.png"))[:2]
    images = [read_rgb(file) for file in files]
    # Else there would be nothing to compare, and nothing to fail.
    assert len(images) == 4
    found = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate(images)
    theirs = _reference(sam, EVERYTHING)
    for image, masks in zip(images, found, strict=True):
        _same(masks, theirs.generate(image))


def test_masks_of_half_precision_are_near(sam: Sam) -> None:
    image, settings = picture(128, 128), _changed(predicted_iou=0, stability=0)
    exact = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    half = MaskGenerator(sam, SamSettings(), settings, "cpu", precision="bf16").generate([image])[0]
    assert abs(len(half) - len(exact)) <= 2
    ours, theirs = (masks.bitmaps().reshape(len(masks), -1).astype(np.float32) for masks in (half, exact))
    shared = ours @ theirs.T
    assert (shared / (ours.sum(1)[:, None] + theirs.sum(1)[None] - shared)).max(axis=1).mean() > 0.9


def test_batches_do_not_show(sam: Sam) -> None:
    images = [picture(64, 64, seed=1), picture(64, 80, seed=2), picture(64, 64, seed=3)]
    generator = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu")
    whole = generator.generate(images)
    other = generator.generate([images[2], images[0], images[0]])
    for name, array in whole[0].arrays().items():
        np.testing.assert_array_equal(other[1].arrays()[name], array, err_msg=name)
    known = generator.generate(images, generator.encode(images))
    np.testing.assert_array_equal(known[1].counts, whole[1].counts)


@pytest.mark.parametrize("prompts", [1, 7, 36, 5000])
def test_passes_of_any_size_find_the_same(sam: Sam, prompts: int) -> None:
    images = [picture(64, 64, seed=1), picture(64, 80, seed=2), picture(64, 64, seed=3)]
    expected = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate(images)
    settings = _changed(prompts_per_pass=prompts, images_per_pass=2)
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    for mine, theirs in zip(found, expected, strict=True):
        assert len(mine) == len(theirs) > 0
        np.testing.assert_allclose(mine.predicted_iou, theirs.predicted_iou, atol=1e-5)
        assert np.abs(mine.areas - theirs.areas).max() <= 2


def test_the_best_are_kept_in_order(sam: Sam) -> None:
    image = picture(128, 128)
    everything = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate([image])[0]
    assert len(everything) > 5
    assert (np.diff(everything.predicted_iou) <= 0).all()
    few = MaskGenerator(sam, SamSettings(), _changed(keep=5), "cpu").generate([image])[0]
    np.testing.assert_array_equal(few.bitmaps(), everything.bitmaps()[:5])
    middling = np.sort(everything.areas)[2:-2]
    limits = _changed(min_area=int(middling[0]), max_area_share=float(middling[-1]) / image[..., 0].size)
    some = MaskGenerator(sam, SamSettings(), limits, "cpu").generate([image])[0]
    assert sorted(some.areas.tolist()) == middling.tolist()


@pytest.mark.parametrize("image", [np.zeros((64, 64, 3), np.uint8), np.full((50, 90, 3), 255, np.uint8)])
def test_blank_images_are_images(sam: Sam, image: NDArray[np.uint8]) -> None:
    settings = _changed(predicted_iou=0, stability=0.3)
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    _same(found, _reference(sam, settings).generate(image))


@pytest.mark.parametrize("changes", [{"predicted_iou": 1.0}, {"stability": 1.0}, {"min_area": 10**6}])
def test_images_without_masks_have_none(sam: Sam, changes: dict[str, Any]) -> None:
    settings = _changed(crop_layers=1, points_per_side=3, min_region_area=5, stability_offset=4.0, **changes)
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([picture(64, 80), picture(30, 30)])
    assert [len(masks) for masks in found] == [0, 0]
    assert found[0].bitmaps().shape == (0, 64, 80)
    assert found[0].counts.shape == (0,)


def test_running_out_of_memory_halves_the_passes(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _changed(prompts_per_pass=32, images_per_pass=2)
    images = [picture(64, 64, seed=1), picture(64, 64, seed=2)]
    expected = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    decode, encode = PromptDecoder.decode, ImageEncoder.encode
    seen: list[int] = []

    def little_memory(self: PromptDecoder, images: Any, sparse: torch.Tensor) -> Any:
        seen.append(sparse.shape[0] * sparse.shape[1])
        if seen[-1] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(self, images, sparse)

    def one_image(self: ImageEncoder, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(self, images)

    monkeypatch.setattr(PromptDecoder, "decode", little_memory)
    monkeypatch.setattr(ImageEncoder, "encode", one_image)
    generator = MaskGenerator(sam, SamSettings(), settings, "cpu")
    found = generator.generate(images)
    said = capsys.readouterr().err
    assert "going on with 1 images per pass" in said
    assert "going on with 8 prompts per pass" in said
    assert seen[:2] == [32, 16]
    assert set(seen[2:]) == {8}
    for mine, theirs in zip(found, expected, strict=True):
        assert len(mine) == len(theirs)
        assert np.abs(mine.areas - theirs.areas).max() <= 2
    generator.generate(images)
    assert "memory ran out" not in capsys.readouterr().err


def _little_room(monkeypatch: pytest.MonkeyPatch, where: str, most: int) -> None:
    """Let one step of the generator run out of memory where it is given more than `most` at once."""
    owner, name, argument = {
        "low resolution": (PromptDecoder, "logits", 2),
        "full size": (View, "drawn", 1),
        "packing": (postprocess, "pack", 0),
    }[where]
    done = getattr(owner, name)

    def cramped(*given: Any) -> Any:
        if len(given[argument]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return done(*given)

    monkeypatch.setattr(owner, name, cramped)


@pytest.mark.parametrize(
    ("where", "least", "said"),
    [
        ("low resolution", 2, "going on with 2 prompts drawn at once"),
        ("full size", 3, "masks measured at once"),
        ("packing", 3, "masks drawn at once at the image's size"),
    ],
)
@pytest.mark.parametrize("crops", [0, 1])
def test_drawing_goes_on_with_less_at_once(
    sam: Sam,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    least: int,
    said: str,
    crops: int,
) -> None:
    settings = _changed(crop_layers=crops, predicted_iou=0, stability=0.3, min_region_area=20 * crops, keep=12)
    images = [picture(140, 110, seed=1), picture(64, 64, seed=2)]
    expected = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    assert min(map(len, expected)) > 4
    _little_room(monkeypatch, where, least)
    generator = MaskGenerator(sam, SamSettings(), settings, "cpu")
    found = generator.generate(images)
    told = capsys.readouterr().err
    assert said in told
    assert "images whose masks" not in told
    for mine, theirs in zip(found, expected, strict=True):
        assert len(mine) == len(theirs)
        np.testing.assert_allclose(mine.predicted_iou, theirs.predicted_iou, atol=1e-5)
        np.testing.assert_allclose(mine.stability, theirs.stability, atol=2e-3)
        assert np.abs(mine.areas - theirs.areas).max() <= 2
        assert mine.bitmaps().shape == theirs.bitmaps().shape
    generator.generate(images)
    assert "memory ran out" not in capsys.readouterr().err


@pytest.mark.parametrize("where", ["low resolution", "full size", "packing"])
def test_a_mask_that_does_not_fit_at_all_is_told(sam: Sam, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    _little_room(monkeypatch, where, 0)
    generator = MaskGenerator(sam, SamSettings(), _changed(points_per_side=3), "cpu")
    with pytest.raises(ResourceError, match="one at a time") as caught:
        generator.generate([picture(64, 64, seed=1)] * 2)
    assert "smaller" in str(caught.value.fix) or "encoder_size" in str(caught.value.fix)


def test_comparing_masks_goes_on_with_fewer_at_once(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, image = _changed(mask_nms=0.8), picture(128, 128)
    expected = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    whole = amg.best_by_mask

    def cramped(masks: torch.Tensor, overlap: float, at_once: int) -> torch.Tensor:
        if at_once > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(masks, overlap, at_once)

    monkeypatch.setattr(amg, "best_by_mask", cramped)
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    assert "masks compared at once" in capsys.readouterr().err
    np.testing.assert_array_equal(found.bitmaps(), expected.bitmaps())


def test_large_images_are_drawn_few_masks_at_once(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    whole = View.drawn

    def counting(self: View, logits: torch.Tensor) -> torch.Tensor:
        result = whole(self, logits)
        drawn.append(result.numel())
        return result

    monkeypatch.setattr(View, "drawn", counting)
    settings = _changed(points_per_side=3, predicted_iou=0, stability=0)
    found = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([picture(1500, 1400)])[0]
    assert len(found) > 4
    # Two masks at most, where the encoder's 128 pixels alone would allow all 27.
    assert max(drawn) <= 2 * 1500 * 1400


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_a_compiled_model_finds_the_same_masks(sam: Sam) -> None:
    image, settings = picture(96, 128, seed=6), _changed(points_per_side=4)
    plain = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    compiled = MaskGenerator(sam, SamSettings(), settings, "cpu", compiled=True).generate([image])[0]
    _alike(compiled, plain, 0.99)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_masks(sam: Sam, world: list[NDArray[np.uint8]]) -> None:
    images = [*world, picture(64, 100)]
    here = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate(images)
    there = MaskGenerator(sam, SamSettings(), EVERYTHING, "cuda").generate(images)
    for mine, theirs in zip(there, here, strict=True):
        _alike(mine, theirs, 0.98)


def _alike(found: MaskSet, expected: MaskSet, least: float) -> None:
    """Assert equal numbers of masks, but for one that may lie at a threshold, and that each has its like."""
    assert len(expected) > 4
    assert abs(len(found) - len(expected)) <= 1
    ours, theirs = (masks.bitmaps().reshape(len(masks), -1).astype(np.float32) for masks in (found, expected))
    shared = ours @ theirs.T
    iou = shared / (ours.sum(1)[:, None] + theirs.sum(1)[None] - shared)
    few, many = sorted((iou.max(axis=0), iou.max(axis=1)), key=len)
    assert few.min() >= least
    assert np.sort(many)[len(many) - len(few) :].min() >= least
