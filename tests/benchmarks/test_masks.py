from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import _sams, masks
from pipeline.vision.sam.postprocess import pack
from pipeline.vision.sam.settings import SamSettings


def test_both_sides_find_the_same_and_every_part_is_timed() -> None:
    case = _sams.Case(SamSettings(weights="absent", encoder_size=64), points=4, side=64, images=2, reference_images=1)
    measured = masks._measure("tiny", case, "fp32", 1)
    assert measured.equal_counts
    assert measured.iou > 0.999
    figures = measured.figures
    assert figures["tiny_masks"] > 0
    assert figures["tiny_hours"] == pytest.approx(masks.LEVIR_CC / figures["tiny_images_per_s"] / 3600)
    parts = ("encoder", "decoder", "masks", "filtering", "nms", "packing", "rest")
    assert all(figures[f"tiny_{part}_ms"] > 0 for part in parts)


def test_masks_that_differ_are_told() -> None:
    bitmaps = np.zeros((2, 4, 4), dtype=np.bool_)
    bitmaps[0, :2], bitmaps[1, 2:] = True, True
    scores = torch.ones(2)
    ours = pack(torch.from_numpy(bitmaps), scores, scores)
    assert _sams.mean_iou(ours, list(bitmaps[::-1])) == 1
    assert _sams.mean_iou(ours, [np.ones((4, 4), dtype=np.bool_)]) == 0.5
    assert _sams.mean_iou(ours, []) == 0
