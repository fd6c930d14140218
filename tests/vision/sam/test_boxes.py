from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from pipeline.errors import ResourceError
from pipeline.vision.sam.boxes import box_batch_size, masks_from_boxes
from pipeline.vision.sam.decoder import Decoded, ImageTokens, PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.settings import SamSettings
from tests.vision.sam.random_sam import random_image, random_sam

SIZES = [(128, 128), (90, 200), (64, 64)]


@pytest.fixture(scope="module")
def sam() -> Sam:
    return random_sam(SamSettings())


def _boxes(count: int, height: int, width: int) -> np.ndarray:
    corners = np.sort(np.random.default_rng(count).random((count, 2, 2)), axis=1)
    return (corners * [width, height]).reshape(count, 4)


def test_masks_are_segment_anythings(sam: Sam) -> None:
    images = [random_image(*size, seed=number) for number, size in enumerate(SIZES)]
    boxes = [_boxes(count, *size) for count, size in zip((2, 7, 0), SIZES, strict=True)]
    embeddings = ImageEncoder(sam, SamSettings(), "cpu").encode(images)
    results = masks_from_boxes(PromptDecoder(sam, "cpu"), embeddings, boxes, SIZES, boxes_per_pass=4)
    predictor = SamPredictor(sam)
    for image, image_boxes, size, masks in zip(images, boxes, SIZES, results, strict=True):
        assert masks.bitmaps.shape == (len(image_boxes), *size)
        assert masks.predicted_iou.dtype == np.float32
        if len(image_boxes) == 0:
            continue
        predictor.set_image(image)
        transformed = predictor.transform.apply_boxes_torch(torch.from_numpy(image_boxes), size)
        expected, iou, _ = predictor.predict_torch(None, None, transformed, multimask_output=False)
        assert (masks.bitmaps != expected[:, 0].numpy()).mean() < 1e-4
        np.testing.assert_allclose(masks.predicted_iou, iou[:, 0].numpy(), atol=1e-4)
        assert 0 < masks.bitmaps.mean() < 1


def test_masks_do_not_depend_on_other_images_or_boxes(sam: Sam) -> None:
    images = [random_image(128, 128, seed=seed) for seed in range(2)]
    encoder, decoder = ImageEncoder(sam, SamSettings(), "cpu"), PromptDecoder(sam, "cpu")
    few, many = _boxes(3, 128, 128), _boxes(21, 128, 128)
    sizes = [(128, 128)] * 2
    one = masks_from_boxes(decoder, encoder.encode(images), [few, many], sizes)[0]
    two = masks_from_boxes(decoder, encoder.encode(images), [few, many[:0]], sizes)[0]
    np.testing.assert_array_equal(one.bitmaps, two.bitmaps)
    np.testing.assert_array_equal(one.predicted_iou, two.predicted_iou)


def test_lists_that_do_not_fit_are_refused(sam: Sam) -> None:
    with pytest.raises(ValueError, match="2 embeddings, 1 lists of boxes and 2 sizes"):
        masks_from_boxes(PromptDecoder(sam, "cpu"), torch.zeros(2, 64, 16, 16), [_boxes(1, 8, 8)], [(8, 8)] * 2)


def test_boxes_that_do_not_fit_into_memory_go_in_smaller_passes(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [random_image(*size, seed=number) for number, size in enumerate(SIZES)]
    boxes = [_boxes(count, *size) for count, size in zip((5, 19, 0), SIZES, strict=True)]
    embeddings, decoder = ImageEncoder(sam, SamSettings(), "cpu").encode(images), PromptDecoder(sam, "cpu")
    expected = masks_from_boxes(decoder, embeddings, boxes, SIZES)
    decode = PromptDecoder.decode
    shapes: list[tuple[int, ...]] = []
    capacity = {"boxes": 50}

    def decode_few(self: PromptDecoder, images: ImageTokens, prompts: torch.Tensor) -> Decoded:
        shapes.append(tuple(prompts.shape[:2]))
        if prompts.shape[0] * prompts.shape[1] > capacity["boxes"]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(self, images, prompts)

    monkeypatch.setattr(PromptDecoder, "decode", decode_few)
    batch_size = box_batch_size()
    for capacity["boxes"], shape in ((50, (3, 16)), (20, (1, 16)), (5, (1, 3))):
        results = masks_from_boxes(decoder, embeddings, boxes, SIZES, batch_size=batch_size)
        assert shapes[-1] == shape
        for masks, reference in zip(results, expected, strict=True):
            assert masks.bitmaps.shape == reference.bitmaps.shape
            assert (masks.bitmaps != reference.bitmaps).sum() <= 1e-3 * reference.bitmaps.size
            np.testing.assert_allclose(masks.predicted_iou, reference.predicted_iou, atol=1e-4)
    assert capsys.readouterr().err.count("memory ran out") == 4
    capacity["boxes"] = 0
    with pytest.raises(ResourceError, match="boxes per pass"):
        masks_from_boxes(decoder, embeddings, boxes, SIZES, batch_size=batch_size)
