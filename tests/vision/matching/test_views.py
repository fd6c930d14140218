from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.vision.matching.example_settings import AppearanceSettings, ExampleSettings, ViewSettings
from pipeline.vision.matching.views import (
    MaskedImage,
    RegionLayer,
    change_appearance,
    counterparts_by_origin,
    edit_regions,
    make_example,
    misregistration,
    strong_warp,
    warp_image,
    warp_masks,
)
from tests.vision.matching.pictures import NOTHING, PLAIN, UNTOUCHED, picture


def layer(regions: int = 6) -> RegionLayer:
    source = picture(np.random.default_rng(0), regions=regions)
    return RegionLayer(source.masks, tuple(frozenset([number]) for number in range(regions)), source.scores)


def test_untouched_regions_are_their_own_counterparts() -> None:
    one = layer()
    same = edit_regions(one, UNTOUCHED, np.random.default_rng(0))
    assert np.array_equal(same.masks, one.masks)
    assert counterparts_by_origin(one, same, 0.5).tolist() == list(range(6))


def test_dropped_regions_have_no_counterpart() -> None:
    one = layer()
    fewer = one.select(np.array([4, 1]))
    assert counterparts_by_origin(one, fewer, 0.5).tolist() == [-1, 1, -1, -1, 0, -1]
    assert counterparts_by_origin(fewer, one, 0.5).tolist() == [4, 1]
    assert len(edit_regions(one, UNTOUCHED.model_copy(update={"drop": 1.0}), np.random.default_rng(0))) == 0
    assert counterparts_by_origin(one, one.select(np.array([], dtype=int)), 0.5).tolist() == [-1] * 6
    assert counterparts_by_origin(one.select(np.array([], dtype=int)), one, 0.5).tolist() == []


def test_a_split_keeps_every_pixel_and_the_larger_part_keeps_the_counterpart() -> None:
    one = layer(1)
    for seed in range(20):
        split = edit_regions(one, UNTOUCHED.model_copy(update={"split": 1.0}), np.random.default_rng(seed))
        assert np.array_equal(split.masks.sum(0), one.masks[0].astype(int))
        assert set(split.origins) == {frozenset([0])}
        shares = split.masks.sum((1, 2)) / one.masks.sum()
        assert shares[0] == shares.max()
        assert counterparts_by_origin(one, split, 0.5).tolist() == [0 if shares[0] >= 0.5 else -1]


def test_a_merge_joins_neighbours_and_what_they_are_made_of() -> None:
    one = layer(2)
    joined = edit_regions(one, UNTOUCHED.model_copy(update={"merge": 1.0}), np.random.default_rng(0))
    assert len(joined) == 1
    assert joined.origins == (frozenset([0, 1]),)
    assert np.array_equal(joined.masks[0], one.masks.any(0))
    areas = one.masks.sum((1, 2))
    numbers = counterparts_by_origin(one, joined, 0.5).tolist()
    for number in (0, 1):
        expected = areas[number] / areas.sum() >= 0.5 and areas[number] == areas.max()
        assert (numbers[number] == 0) == expected


def test_another_thing_in_the_same_place_is_no_counterpart() -> None:
    one = layer()
    other = RegionLayer(one.masks, tuple(frozenset([number + 10]) for number in range(6)), one.scores)
    assert counterparts_by_origin(one, other, 0.5).tolist() == [-1] * 6


def test_what_is_covered_is_gone_if_too_little_is_left() -> None:
    one = layer(1)
    y, x = np.nonzero(one.masks[0])
    cover = np.zeros_like(one.masks[0])
    cover[:, : x.min() + 2] = True
    uncovered = one.covered_by(cover, 0.5)
    assert not (uncovered.masks[0] & cover).any()
    cover[:, : x.max()] = True
    assert len(one.covered_by(cover, 0.5)) == 0
    with pytest.raises(IndexError):
        one.select(np.array([3]))
    assert y.size


def other(rng: np.random.Generator) -> MaskedImage:
    return picture(np.random.default_rng([99, int(rng.integers(100))]))


def test_without_chance_both_views_are_the_image() -> None:
    source = picture(np.random.default_rng(1))
    before, after, counterpart = make_example(source, other, NOTHING, 50, np.random.default_rng(2))
    assert np.array_equal(before.image, after.image)
    # Turned or mirrored, but the same pixels.
    assert np.array_equal(np.sort(before.image.reshape(-1, 3), axis=0), np.sort(source.image.reshape(-1, 3), axis=0))
    assert counterpart.tolist() == list(range(5))
    np.testing.assert_array_equal(before.scores, source.scores)
    for mask, box, centroid in zip(before.masks, before.boxes, before.centroids, strict=True):
        y, x = np.nonzero(mask)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert centroid.tolist() == pytest.approx([x.mean() + 0.5, y.mean() + 0.5])
        assert len(np.unique(before.image[mask], axis=0)) == 1


def test_a_homography_moves_picture_and_masks_together() -> None:
    settings = NOTHING.model_copy(update={"views": ViewSettings(shift=3, warped_share=0.5)})
    checked = 0
    for seed in range(12):
        source = picture(np.random.default_rng(seed))
        views = make_example(source, other, settings, 50, np.random.default_rng(seed))
        before, after, counterpart = views
        for row, column in enumerate(counterpart.tolist()):
            if column < 0:
                continue
            colours = [np.median(view.image[view.masks[k]], axis=0) for view, k in ((before, row), (after, column))]
            np.testing.assert_allclose(*colours, atol=3)
            checked += 1
        hidden = set(range(len(after))) - set(counterpart.tolist())
        assert len(before) - (counterpart >= 0).sum() + len(hidden) <= 5
    assert checked > 30


def test_regions_painted_in_are_matched_only_when_both_views_have_them() -> None:
    edits = UNTOUCHED.model_copy(update={"paste": 8.0, "replace": 0.5})
    settings = NOTHING.model_copy(update={"edits": edits})
    matched = unmatched = 0
    for seed in range(10):
        source = picture(np.random.default_rng(seed))
        before, after, counterpart = make_example(source, other, settings, 50, np.random.default_rng(seed))
        for row, column in enumerate(counterpart.tolist()):
            if column >= 0:
                pixels = [np.median(view.image[view.masks[k]], axis=0) for view, k in ((before, row), (after, column))]
                assert np.array_equal(*pixels)
                matched += 1
            else:
                unmatched += 1
    assert matched > 20
    assert unmatched > 5


def test_the_same_draw_gives_the_same_example() -> None:
    source, settings = picture(np.random.default_rng(0)), ExampleSettings()
    one, same, another = (make_example(source, other, settings, 50, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(one[0].image, same[0].image)
    assert np.array_equal(one[1].boxes, same[1].boxes)
    assert np.array_equal(one[2], same[2])
    assert not np.array_equal(one[0].image, another[0].image)


@pytest.mark.parametrize("regions", [0, 1])
def test_images_with_few_regions(regions: int) -> None:
    source = picture(np.random.default_rng(0), regions=regions)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        before, after, counterpart = make_example(source, lambda _: source, ExampleSettings(), 50, rng)
        assert len(before) == len(before.boxes) == len(counterpart)
        assert after.masks.shape == (len(after), 64, 64)


def test_images_that_are_not_square_and_boxes_that_stay_within() -> None:
    source = picture(np.random.default_rng(0), regions=6, size=(48, 96))
    settings = ExampleSettings(edits=UNTOUCHED.model_copy(update={"jitter": 0.5, "paste": 3.0}))
    for seed in range(10):
        for view in make_example(source, lambda _: source, settings, 50, np.random.default_rng(seed))[:2]:
            assert view.image.shape == (48, 96, 3)
            left, top, right, bottom = view.boxes.T
            assert (left >= 0).all() and (left < right).all() and (right <= 96).all()
            assert (top >= 0).all() and (top < bottom).all() and (bottom <= 48).all()


def test_a_view_keeps_its_best_regions() -> None:
    source = picture(np.random.default_rng(0), regions=8)
    before, _, counterpart = make_example(source, other, NOTHING, 3, np.random.default_rng(0))
    assert np.array_equal(np.sort(before.scores), np.sort(source.scores)[-3:])
    assert counterpart.tolist() == [0, 1, 2]


def test_appearance_changes_what_is_seen_and_not_where() -> None:
    source = picture(np.random.default_rng(0))
    image = torch.from_numpy(source.image).permute(2, 0, 1).float() / 255
    masks = torch.from_numpy(source.masks)
    assert np.array_equal(change_appearance(image, masks, PLAIN, np.random.default_rng(0)), source.image)
    light = AppearanceSettings(season=0, shadow=0, blur=0, noise=0)
    lit = change_appearance(image, masks, light, np.random.default_rng(0))
    assert not np.array_equal(lit, source.image)
    for mask in source.masks:
        assert len(np.unique(lit[mask], axis=0)) == 1
    dark = AppearanceSettings(light=0, season=0, blur=0, noise=0)
    shaded = np.stack([change_appearance(image, masks, dark, np.random.default_rng(seed)) for seed in range(8)])
    darker = (shaded < source.image).any(-1)
    assert darker.any()
    assert (shaded <= source.image).all()


def test_warps_do_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    corners = torch.tensor([[0.0, 0, 1], [63, 0, 1], [63, 63, 1], [0, 63, 1]], dtype=torch.float64)

    def moved(homography: torch.Tensor) -> torch.Tensor:
        warped = corners @ homography.double().T
        return (warped[:, :2] / warped[:, 2:] - corners[:, :2]).abs().max()

    for _ in range(20):
        assert moved(misregistration((64, 64), ViewSettings(shift=2), rng)) <= 2.0 + 1e-6
    assert max(float(moved(strong_warp((64, 64), ViewSettings(), rng))) for _ in range(20)) > 6
    image = torch.rand(3, 20, 30)
    same = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(warp_image(image, same), image, rtol=0, atol=1e-5)
    shift = torch.tensor([[1.0, 0, 2], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[0, 4:8, 10:15] = True
    assert torch.equal(warp_masks(masks, shift), masks.roll(2, 2))
    assert warp_masks(masks[:0], shift).shape == (0, 20, 30)
