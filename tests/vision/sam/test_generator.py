"""Masks against those of segment_anything's own generator, with the same weights and settings."""

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

from pipeline.datasets.images import read_rgb
from pipeline.datasets.world.pair import make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import ResourceError
from pipeline.vision.sam import amg, postprocess
from pipeline.vision.sam.amg import CropView, coarse_indices, point_grid
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.decoder import PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.generator import MaskGenerator
from pipeline.vision.sam.settings import PUBLISHED_GENERATOR, GeneratorSettings, SamSettings
from tests.datasets.reference import reference
from tests.vision.sam.random_sam import random_image, random_sam

EVERYTHING = PUBLISHED_GENERATOR.model_copy(
    update={
        "points_per_side": 6,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.6,
        "stability_score_offset": 0.15,
        "box_nms_thresh": 1.0,
        "crop_nms_thresh": 1.0,
        "max_masks": 4096,
    }
)
"""Thresholds that masks of random weights pass in numbers."""


@pytest.fixture(scope="module")
def sam() -> Sam:
    return random_sam(SamSettings())


@pytest.fixture(scope="module")
def world() -> list[NDArray[np.uint8]]:
    pair = make_pair(WorldSettings(size=96, train=2), "train", 1)
    return list(pair.images)


def _changed(**changes: Any) -> GeneratorSettings:
    return EVERYTHING.model_copy(update=changes)


_SHARED = (
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
    "min_mask_region_area",
)
"""Settings that are arguments of the reference."""


def _reference(
    sam: Sam, settings: GeneratorSettings, points: list[NDArray[np.float64]] | None = None
) -> SamAutomaticMaskGenerator:
    return SamAutomaticMaskGenerator(
        sam,
        points_per_side=None if points else settings.points_per_side,
        point_grids=points,
        **settings.model_dump(include=set(_SHARED)),
    )


def _pairwise_iou(ours: MaskSet, theirs: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the IoU (M, N) of each of our M masks with each of N others (N, H, W)."""
    a, b = (bitmaps.reshape(len(bitmaps), -1).astype(np.float32) for bitmaps in (ours.bitmaps(), theirs))
    shared = a @ b.T
    iou: NDArray[np.float32] = shared / (a.sum(1)[:, None] + b.sum(1)[None] - shared)
    return iou


def _assert_same(masks: MaskSet, expected: Sequence[dict[str, Any]]) -> None:
    """Assert equal numbers of masks, a mean IoU of matched masks of 0.999 and more, and the same scores."""
    assert len(masks) == len(expected)
    assert len(expected) > 0
    iou = _pairwise_iou(masks, np.stack([record["segmentation"] for record in expected]))
    assert min(iou.max(axis=0).mean(), iou.max(axis=1).mean()) >= 0.999
    for name, values in (("predicted_iou", masks.predicted_iou), ("stability_score", masks.stability)):
        np.testing.assert_allclose(np.sort(values), np.sort([record[name] for record in expected]), atol=2e-3)
    left, top, width, height = np.array([expected[number]["bbox"] for number in iou.argmax(axis=1)]).T
    assert np.abs(masks.boxes - np.stack([left, top, left + width + 1, top + height + 1], axis=1)).mean() < 0.05


@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        _changed(box_nms_thresh=0.97),
        _changed(pred_iou_thresh=0, stability_score_thresh=0.5),
        _changed(min_mask_region_area=30, box_nms_thresh=0.98),
        _changed(stability_score_offset=0.3, stability_score_thresh=0.3, points_per_side=5),
    ],
    ids=["plain", "nms", "all", "cleaned", "offset"],
)
def test_masks_are_the_references(sam: Sam, world: list[NDArray[np.uint8]], settings: GeneratorSettings) -> None:
    images = [*world, random_image(128, 128), random_image(64, 100)]
    results = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    theirs = _reference(sam, settings)
    for image, masks in zip(images, results, strict=True):
        assert masks.size == image.shape[:2]
        _assert_same(masks, theirs.generate(image))


@pytest.mark.parametrize("overlap", [0.2, 512 / 1500])
def test_masks_of_crops_are_the_references(sam: Sam, overlap: float) -> None:
    settings = _changed(
        crop_n_layers=1,
        crop_overlap_ratio=overlap,
        crop_n_points_downscale_factor=2,
        pred_iou_thresh=0,
        stability_score_thresh=0.3,
        crop_nms_thresh=0.97,
    )
    image = random_image(150, 190, seed=4)
    masks = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    _assert_same(masks, _reference(sam, settings).generate(image))


def test_masks_of_the_published_layout_are_the_references(world: list[NDArray[np.uint8]]) -> None:
    sam_settings = SamSettings(variant="vit_b", encoder_size=128)
    sam = random_sam(sam_settings)
    settings = _changed(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0.3, stability_score_offset=0.2)
    results = MaskGenerator(sam, sam_settings, settings, "cpu").generate(world)
    theirs = _reference(sam, settings)
    for image, masks in zip(world, results, strict=True):
        _assert_same(masks, theirs.generate(image))


def test_of_masks_that_overlap_the_better_one_remains(sam: Sam, world: list[NDArray[np.uint8]]) -> None:
    everything, remaining = (
        MaskGenerator(sam, SamSettings(), settings, "cpu").generate(world[:1])[0]
        for settings in (EVERYTHING, _changed(mask_nms_thresh=0.8))
    )
    rows = [int(np.flatnonzero((everything.bitmaps() == mask).all((1, 2)))[0]) for mask in remaining.bitmaps()]
    assert rows == sorted(rows)
    assert rows[0] == 0
    assert 1 < len(remaining) < len(everything)


def test_a_coarse_stride_prompts_with_uncovered_points(sam: Sam) -> None:
    settings = _changed(points_per_side=7, coarse_stride=3)
    image = random_image(128, 128, seed=5)
    points = point_grid(7, (128, 128), (128, 128)) / 128
    coarse = coarse_indices(7, 3)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    prompts = torch.from_numpy(128 * points[coarse])[:, None]
    logits, iou, _ = predictor.predict_torch(prompts, torch.ones(len(coarse), 1), return_logits=True)
    offset = settings.stability_score_offset
    stability = calculate_stability_score(logits, 0.0, offset)
    passes = (iou > settings.pred_iou_thresh) & (stability >= settings.stability_score_thresh)
    covered = (logits[passes] > offset).any(0).numpy()
    columns, rows = (128 * points).astype(int).T
    uncovered = np.setdiff1d(np.flatnonzero(~covered[rows, columns]), coarse)
    assert 0 < len(uncovered) < 45
    expected = _reference(sam, settings, [points[np.union1d(coarse, uncovered)]]).generate(image)
    for masks in MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image, image]):
        _assert_same(masks, expected)


@pytest.mark.reference_data
def test_masks_of_real_images_are_the_references(sam: Sam) -> None:
    files = sorted(reference("levir_cd_samples", "A").glob("*.png"))[:2]
    files += sorted(reference("levir_cc", "images").rglob("*.png"))[:2]
    images = [read_rgb(file) for file in files]
    # Else there would be nothing to compare, and nothing to fail.
    assert len(images) == 4
    results = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate(images)
    theirs = _reference(sam, EVERYTHING)
    for image, masks in zip(images, results, strict=True):
        _assert_same(masks, theirs.generate(image))


def test_masks_of_half_precision_are_near(sam: Sam) -> None:
    image, settings = random_image(128, 128), _changed(pred_iou_thresh=0, stability_score_thresh=0)
    exact = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    half = MaskGenerator(sam, SamSettings(), settings, "cpu", precision="bf16").generate([image])[0]
    assert abs(len(half) - len(exact)) <= 2
    assert _pairwise_iou(half, exact.bitmaps()).max(axis=1).mean() > 0.9


def test_masks_do_not_depend_on_the_other_images_of_a_batch(sam: Sam) -> None:
    images = [random_image(64, 64, seed=1), random_image(64, 80, seed=2), random_image(64, 64, seed=3)]
    generator = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu")
    whole = generator.generate(images)
    other = generator.generate([images[2], images[0], images[0]])
    for name, array in whole[0].arrays().items():
        np.testing.assert_array_equal(other[1].arrays()[name], array, err_msg=name)
    from_embeddings = generator.generate(images, generator.encode(images))
    np.testing.assert_array_equal(from_embeddings[1].counts, whole[1].counts)


@pytest.mark.parametrize("points", [1, 7, 36, 5000])
def test_passes_of_any_size_give_the_same_masks(sam: Sam, points: int) -> None:
    images = [random_image(64, 64, seed=1), random_image(64, 80, seed=2), random_image(64, 64, seed=3)]
    expected = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate(images)
    settings = _changed(points_per_batch=points, images_per_batch=2)
    results = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    for masks, other in zip(results, expected, strict=True):
        assert len(masks) == len(other) > 0
        np.testing.assert_allclose(masks.predicted_iou, other.predicted_iou, atol=1e-5)
        assert np.abs(masks.areas - other.areas).max() <= 2


def test_the_best_are_selected_in_order(sam: Sam) -> None:
    image = random_image(128, 128)
    everything = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate([image])[0]
    assert len(everything) > 5
    assert (np.diff(everything.predicted_iou) <= 0).all()
    few = MaskGenerator(sam, SamSettings(), _changed(max_masks=5), "cpu").generate([image])[0]
    np.testing.assert_array_equal(few.bitmaps(), everything.bitmaps()[:5])
    middling = np.sort(everything.areas)[2:-2]
    limits = _changed(min_area=int(middling[0]), max_area_share=float(middling[-1]) / image[..., 0].size)
    limited = MaskGenerator(sam, SamSettings(), limits, "cpu").generate([image])[0]
    assert sorted(limited.areas.tolist()) == middling.tolist()


@pytest.mark.parametrize("image", [np.zeros((64, 64, 3), np.uint8), np.full((50, 90, 3), 255, np.uint8)])
def test_masks_of_blank_images_are_the_references(sam: Sam, image: NDArray[np.uint8]) -> None:
    settings = _changed(pred_iou_thresh=0, stability_score_thresh=0.3)
    masks = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    _assert_same(masks, _reference(sam, settings).generate(image))


@pytest.mark.parametrize("changes", [{"pred_iou_thresh": 1.0}, {"stability_score_thresh": 1.0}, {"min_area": 10**6}])
def test_images_without_masks_have_none(sam: Sam, changes: dict[str, Any]) -> None:
    settings = _changed(
        crop_n_layers=1, points_per_side=3, min_mask_region_area=5, stability_score_offset=4.0, **changes
    )
    results = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([random_image(64, 80), random_image(30, 30)])
    assert [len(masks) for masks in results] == [0, 0]
    assert results[0].bitmaps().shape == (0, 64, 80)
    assert results[0].counts.shape == (0,)


def test_running_out_of_memory_halves_the_passes(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _changed(points_per_batch=32, images_per_batch=2)
    images = [random_image(64, 64, seed=1), random_image(64, 64, seed=2)]
    expected = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    decode, encode = PromptDecoder.decode, ImageEncoder.encode
    prompts_per_pass: list[int] = []

    def decode_few(self: PromptDecoder, images: Any, prompts: torch.Tensor) -> Any:
        prompts_per_pass.append(prompts.shape[0] * prompts.shape[1])
        if prompts_per_pass[-1] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(self, images, prompts)

    def encode_one(self: ImageEncoder, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(self, images)

    monkeypatch.setattr(PromptDecoder, "decode", decode_few)
    monkeypatch.setattr(ImageEncoder, "encode", encode_one)
    generator = MaskGenerator(sam, SamSettings(), settings, "cpu")
    results = generator.generate(images)
    messages = capsys.readouterr().err
    assert "going on with 1 images per pass" in messages
    assert "going on with 8 prompts per pass" in messages
    assert prompts_per_pass[:2] == [32, 16]
    assert set(prompts_per_pass[2:]) == {8}
    for masks, other in zip(results, expected, strict=True):
        assert len(masks) == len(other)
        assert np.abs(masks.areas - other.areas).max() <= 2
    generator.generate(images)
    assert "memory ran out" not in capsys.readouterr().err


def _limit_memory(monkeypatch: pytest.MonkeyPatch, step: str, limit: int) -> None:
    """Let one step of the generator run out of memory where it is given more than `limit` masks or prompts at once."""
    owner, name, argument = {
        "low resolution": (PromptDecoder, "logits", 2),
        "full size": (CropView, "upsampled", 1),
        "packing": (postprocess, "pack", 0),
    }[step]
    function = getattr(owner, name)

    def limited(*arguments: Any) -> Any:
        if len(arguments[argument]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return function(*arguments)

    monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize(
    ("step", "limit", "message"),
    [
        ("low resolution", 2, "going on with 2 prompts drawn at once"),
        ("full size", 3, "masks measured at once"),
        ("packing", 3, "masks drawn at once at the image's size"),
    ],
)
@pytest.mark.parametrize("crops", [0, 1])
def test_drawing_goes_on_with_smaller_batches(
    sam: Sam,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    limit: int,
    message: str,
    crops: int,
) -> None:
    settings = _changed(
        crop_n_layers=crops,
        pred_iou_thresh=0,
        stability_score_thresh=0.3,
        min_mask_region_area=20 * crops,
        max_masks=12,
    )
    images = [random_image(140, 110, seed=1), random_image(64, 64, seed=2)]
    expected = MaskGenerator(sam, SamSettings(), settings, "cpu").generate(images)
    assert min(map(len, expected)) > 4
    _limit_memory(monkeypatch, step, limit)
    generator = MaskGenerator(sam, SamSettings(), settings, "cpu")
    results = generator.generate(images)
    messages = capsys.readouterr().err
    assert message in messages
    assert "images whose masks" not in messages
    for masks, other in zip(results, expected, strict=True):
        assert len(masks) == len(other)
        np.testing.assert_allclose(masks.predicted_iou, other.predicted_iou, atol=1e-5)
        np.testing.assert_allclose(masks.stability, other.stability, atol=2e-3)
        assert np.abs(masks.areas - other.areas).max() <= 2
        assert masks.bitmaps().shape == other.bitmaps().shape
    generator.generate(images)
    assert "memory ran out" not in capsys.readouterr().err


@pytest.mark.parametrize("step", ["low resolution", "full size", "packing"])
def test_a_single_mask_that_does_not_fit_is_an_error(sam: Sam, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    _limit_memory(monkeypatch, step, 0)
    generator = MaskGenerator(sam, SamSettings(), _changed(points_per_side=3), "cpu")
    with pytest.raises(ResourceError, match="one at a time") as caught:
        generator.generate([random_image(64, 64, seed=1)] * 2)
    assert "smaller" in str(caught.value.fix) or "encoder_size" in str(caught.value.fix)


def test_comparing_masks_goes_on_with_smaller_blocks(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, image = _changed(mask_nms_thresh=0.8), random_image(128, 128)
    expected = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    mask_nms = amg.mask_nms

    def limited(masks: torch.Tensor, iou_threshold: float, block_size: int) -> torch.Tensor:
        if block_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return mask_nms(masks, iou_threshold, block_size)

    monkeypatch.setattr(amg, "mask_nms", limited)
    masks = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    assert "masks compared at once" in capsys.readouterr().err
    np.testing.assert_array_equal(masks.bitmaps(), expected.bitmaps())


def test_masks_of_large_images_are_upsampled_few_at_once(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels: list[int] = []
    upsampled = CropView.upsampled

    def counting(self: CropView, logits: torch.Tensor) -> torch.Tensor:
        result = upsampled(self, logits)
        pixels.append(result.numel())
        return result

    monkeypatch.setattr(CropView, "upsampled", counting)
    settings = _changed(points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)
    masks = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([random_image(1500, 1400)])[0]
    assert len(masks) > 4
    # Two masks at most, where the encoder's 128 pixels alone would allow all 27.
    assert max(pixels) <= 2 * 1500 * 1400


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_a_compiled_model_gives_the_same_masks(sam: Sam) -> None:
    image, settings = random_image(96, 128, seed=6), _changed(points_per_side=4)
    plain = MaskGenerator(sam, SamSettings(), settings, "cpu").generate([image])[0]
    compiled = MaskGenerator(sam, SamSettings(), settings, "cpu", compiled=True).generate([image])[0]
    _assert_similar(compiled, plain, 0.99)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_masks(sam: Sam, world: list[NDArray[np.uint8]]) -> None:
    images = [*world, random_image(64, 100)]
    on_cpu = MaskGenerator(sam, SamSettings(), EVERYTHING, "cpu").generate(images)
    on_gpu = MaskGenerator(sam, SamSettings(), EVERYTHING, "cuda").generate(images)
    for masks, other in zip(on_gpu, on_cpu, strict=True):
        _assert_similar(masks, other, 0.98)


def _assert_similar(masks: MaskSet, expected: MaskSet, min_iou: float) -> None:
    """Assert equal numbers of masks, but for one that may lie at a threshold, each matched by `min_iou`."""
    assert len(expected) > 4
    assert abs(len(masks) - len(expected)) <= 1
    iou = _pairwise_iou(masks, expected.bitmaps())
    fewer, more = sorted((iou.max(axis=0), iou.max(axis=1)), key=len)
    assert fewer.min() >= min_iou
    assert np.sort(more)[len(more) - len(fewer) :].min() >= min_iou
