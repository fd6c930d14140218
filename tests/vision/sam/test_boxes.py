from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from benchmarks._random_sam import lively_sam, picture
from pipeline.vision.sam.boxes import masks_from_boxes
from pipeline.vision.sam.decoding import PromptDecoder
from pipeline.vision.sam.encoding import ImageEncoder
from pipeline.vision.sam.settings import SamSettings

SIZES = [(128, 128), (90, 200), (64, 64)]


@pytest.fixture(scope="module")
def sam() -> Sam:
    return lively_sam(SamSettings())


def _boxes(count: int, height: int, width: int) -> np.ndarray:
    corners = np.sort(np.random.default_rng(count).random((count, 2, 2)), axis=1)
    return (corners * [width, height]).reshape(count, 4)


def test_masks_are_segment_anythings(sam: Sam) -> None:
    images = [picture(*size, seed=number) for number, size in enumerate(SIZES)]
    boxes = [_boxes(count, *size) for count, size in zip((2, 7, 0), SIZES, strict=True)]
    embeddings = ImageEncoder(sam, SamSettings(), "cpu").encode(images)
    found = masks_from_boxes(PromptDecoder(sam, "cpu"), embeddings, boxes, SIZES, boxes_per_pass=4)
    predictor = SamPredictor(sam)
    for image, mine, size, masks in zip(images, boxes, SIZES, found, strict=True):
        assert masks.bitmaps.shape == (len(mine), *size)
        assert masks.predicted_iou.dtype == np.float32
        if len(mine) == 0:
            continue
        predictor.set_image(image)
        transformed = predictor.transform.apply_boxes_torch(torch.from_numpy(mine), size)
        expected, iou, _ = predictor.predict_torch(None, None, transformed, multimask_output=False)
        assert (masks.bitmaps != expected[:, 0].numpy()).mean() < 1e-4
        np.testing.assert_allclose(masks.predicted_iou, iou[:, 0].numpy(), atol=1e-4)
        assert 0 < masks.bitmaps.mean() < 1


def test_masks_do_not_depend_on_other_images_or_boxes(sam: Sam) -> None:
    images = [picture(128, 128, seed=seed) for seed in range(2)]
    encoder, decoder = ImageEncoder(sam, SamSettings(), "cpu"), PromptDecoder(sam, "cpu")
    mine, others = _boxes(3, 128, 128), _boxes(21, 128, 128)
    sizes = [(128, 128)] * 2
    one = masks_from_boxes(decoder, encoder.encode(images), [mine, others], sizes)[0]
    two = masks_from_boxes(decoder, encoder.encode(images), [mine, others[:0]], sizes)[0]
    np.testing.assert_array_equal(one.bitmaps, two.bitmaps)
    np.testing.assert_array_equal(one.predicted_iou, two.predicted_iou)


def test_lists_that_do_not_fit_are_refused(sam: Sam) -> None:
    with pytest.raises(ValueError, match="2 embeddings, 1 lists of boxes and 2 sizes"):
        masks_from_boxes(PromptDecoder(sam, "cpu"), torch.zeros(2, 64, 16, 16), [_boxes(1, 8, 8)], [(8, 8)] * 2)
