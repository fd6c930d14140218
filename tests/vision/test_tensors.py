from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.vision.tensors import TensorBatch, boxes_of_masks, rotate_and_flip


@dataclass(frozen=True)
class Points(TensorBatch):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class NamedPoints(TensorBatch):
    points: Points
    names: Tensor


@pytest.fixture
def batch() -> NamedPoints:
    return NamedPoints(Points(torch.arange(4.0), torch.arange(8).view(4, 2)), torch.tensor([9, 8, 7, 6]))


def test_rows_are_selected_in_nested_batches(batch: NamedPoints) -> None:
    selected = batch.select(torch.tensor([2, 0]))
    assert len(batch) == 4 and len(selected) == 2
    assert selected.points.x.tolist() == [2, 0]
    assert selected.points.y.tolist() == [[4, 5], [0, 1]]
    assert batch.select(slice(1, 3)).names.tolist() == [8, 7]


def test_batches_are_concatenated(batch: NamedPoints) -> None:
    whole = NamedPoints.cat([batch.select(slice(0, 1)), batch.select(slice(1, 4))])
    assert type(whole.points) is Points
    for joined, original in ((whole.points.x, batch.points.x), (whole.points.y, batch.points.y)):
        assert torch.equal(joined, original)
    assert torch.equal(whole.names, batch.names)


def test_batch_moves_to_a_device(batch: NamedPoints) -> None:
    moved = batch.to(torch.device("meta"))
    assert {moved.points.x.device.type, moved.points.y.device.type, moved.names.device.type} == {"meta"}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarter_turns", range(4))
def test_rotation_is_numpys(quarter_turns: int, mirrored: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7), dtype=np.uint8)
    expected = np.rot90(images, quarter_turns, axes=(2, 3))
    expected = expected[..., ::-1] if mirrored else expected
    np.testing.assert_array_equal(rotate_and_flip(torch.from_numpy(images), quarter_turns, mirrored), expected)


def test_boxes_end_behind_the_last_pixel() -> None:
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1, 1:6, 0:8:7] = True
    assert boxes_of_masks(masks).tolist() == [[3, 2, 4, 3], [0, 1, 8, 6]]
    assert boxes_of_masks(masks[:0]).shape == (0, 4)
