from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.vision.sam.examples import SegmentedImages, batches, boxes_of, prompted, segment


def squares(count: int, size: int = 32) -> SegmentedImages:
    """Images of a road across open ground, and a house below it."""
    instances = np.zeros((size, size), dtype=np.uint16)
    land_cover = np.ones((size, size), dtype=np.uint8)
    instances[10:14], land_cover[10:14] = 4, 4
    instances[20:26, 6:16], land_cover[20:26, 6:16] = 9, 5
    segments, surfaces = segment(instances, land_cover)
    generator = torch.Generator().manual_seed(0)
    return SegmentedImages(
        images=torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8),
        land_cover=torch.from_numpy(land_cover).repeat(count, 1, 1),
        segments=torch.from_numpy(segments).repeat(count, 1, 1),
        surfaces=torch.from_numpy(surfaces).repeat(count, 1, 1),
    )


def test_segments_are_objects_and_connected_open_ground() -> None:
    segments = squares(1).segments[0]
    assert sorted(segments.unique().tolist()) == [-2, -1, 1, 2]
    assert (segments > 0).sum() == 4 * 32 + 6 * 10
    assert segments[0, 0] != segments[31, 31]
    assert len(segments[10:14].unique()) == 1


def test_an_image_full_of_objects_has_no_open_ground() -> None:
    segments, _ = segment(np.full((4, 4), 7, dtype=np.uint16), np.zeros((4, 4), dtype=np.uint8))
    assert (segments > 0).all()


def test_a_surface_joins_the_objects_of_a_class_that_touch() -> None:
    instances = np.array([[1, 1, 0], [0, 0, 2], [0, 0, 2]], dtype=np.uint16)
    land_cover = np.array([[4, 4, 1], [1, 1, 4], [1, 1, 4]], dtype=np.uint8)
    segments, surfaces = segment(instances, land_cover)
    assert segments[0, 1] != segments[1, 2]
    assert surfaces[0, 1] == surfaces[1, 2]
    # The open corner and the open rest touch by a corner only: two grounds, one surface.
    assert segments[0, 2] != segments[1, 1]
    assert surfaces[0, 2] == surfaces[1, 1]
    assert (surfaces > 0).all()


def test_targets_hold_their_points_and_boxes_hold_their_targets() -> None:
    batch = prompted(squares(3), 5, 4, np.random.default_rng(0))
    assert batch.pixels.shape == (3, 3, 32, 32)
    assert batch.points.shape == (3, 5, 2)
    assert batch.boxes.shape == (3, 4, 4)
    assert batch.targets.shape == (3, 9, 2, 32, 32)
    for image in range(3):
        for prompt, (x, y) in enumerate(batch.points[image].tolist()):
            target, surface = batch.targets[image, 4 + prompt]
            assert target[y, x]
            assert surface[y, x]
            assert torch.equal(target, batch.segments[image] == batch.segments[image, y, x])
    exact = boxes_of(batch.targets[:, :4, 0].flatten(0, 1)).view(3, 4, 4)
    sides = (exact[..., 2:] - exact[..., :2]).repeat(1, 1, 2)
    moved = (batch.boxes - exact).abs() / sides
    assert 0 < moved.max() < 0.5
    assert batch.boxes.min() >= 0
    assert batch.boxes.max() <= 32


def test_boxes_are_exclusive_to_the_right_and_below() -> None:
    mask = torch.zeros((2, 6, 8), dtype=torch.bool)
    mask[0, 1:3, 2:7] = True
    mask[1, 5, 0] = True
    assert boxes_of(mask).tolist() == [[2, 1, 7, 3], [0, 5, 1, 6]]


def test_turning_moves_images_and_maps_together() -> None:
    images = squares(1)
    turned = images.turned(1, True)
    assert torch.equal(turned.images[0, 0], torch.rot90(images.images[0, 0]).flip(-1))
    assert torch.equal(turned.segments[0], torch.rot90(images.segments[0]).flip(-1))
    assert torch.equal(turned.surfaces[0], torch.rot90(images.surfaces[0]).flip(-1))
    assert torch.equal(turned.land_cover[0], torch.rot90(images.land_cover[0]).flip(-1))


def test_batches_hold_every_image_once_and_repeat_themselves() -> None:
    images = squares(7)
    # Squares know their number by their brightness, which colour changes keep apart.
    images.images.copy_((torch.arange(7, dtype=torch.uint8) * 40)[:, None, None, None].expand_as(images.images))

    def run(seed: int) -> list[torch.Tensor]:
        return [part.pixels for part in batches(images, 3, 2, 1, np.random.default_rng(seed))]

    first, again, other = run(0), run(0), run(1)
    assert [len(part) for part in first] == [3, 3]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_small_segments_are_not_asked_for() -> None:
    images = squares(1)
    images.segments[0, 0, 0] = 77
    batch = prompted(images, 200, 0, np.random.default_rng(0))
    assert 77 not in batch.segments[0][batch.points[0, :, 1], batch.points[0, :, 0]]
    assert len(batch.segments[0][batch.points[0, :, 1], batch.points[0, :, 0]].unique()) == 4


def test_no_prompts_at_all() -> None:
    batch = prompted(squares(2), 0, 0, np.random.default_rng(0))
    assert batch.targets.shape[1] == 0
    assert batch.points.shape == (2, 0, 2)


@pytest.mark.parametrize("area", [7, 8])
def test_the_smallest_segment_that_is_asked_for_has_eight_pixels(area: int) -> None:
    images = squares(1)
    images.segments.zero_()
    images.segments[0, 0, :area] = 5
    batch = prompted(images, 300, 0, np.random.default_rng(0))
    asked = (batch.segments[0][batch.points[0, :, 1], batch.points[0, :, 0]] == 5).any()
    assert bool(asked) == (area == 8)
