from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.datasets.world.events import PLANNERS
from pipeline.datasets.world.pair import WorldPair, make_pair
from pipeline.datasets.world.settings import LAND_CLASSES, OBJECT_CLASSES, WorldSettings


def _same(first: WorldPair, second: WorldPair) -> bool:
    arrays = zip(
        (*first.images, *first.semantic, *first.instances),
        (*second.images, *second.semantic, *second.instances),
        strict=True,
    )
    return all(np.array_equal(a, b) for a, b in arrays) and first.captions == second.captions


@pytest.mark.parametrize(("size", "metres"), [(128, 1.0), (256, 0.5), (64, 1.5)])
def test_shapes_and_types(size: int, metres: float) -> None:
    pair = make_pair(WorldSettings(size=size, ground_sample_distance=metres, train=2), "train", 1)
    for picture in pair.images:
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
    for land, instances in zip(pair.semantic, pair.instances, strict=True):
        assert land.shape == instances.shape == (size, size)
        assert (land.dtype, instances.dtype) == (np.uint8, np.uint16)
        assert land.max() < len(LAND_CLASSES)
    assert pair.change.shape == (size, size)
    assert len(pair.captions) == 5


def test_a_pair_depends_on_seed_split_and_index_alone() -> None:
    settings = WorldSettings(train=8, val=8)
    assert _same(make_pair(settings, "train", 3), make_pair(settings, "train", 3))
    assert not _same(make_pair(settings, "train", 3), make_pair(settings, "train", 4))
    assert not _same(make_pair(settings, "train", 3), make_pair(settings, "val", 3))
    assert not _same(make_pair(settings, "train", 3), make_pair(WorldSettings(train=8, seed=1), "train", 3))


def test_no_pair_beyond_the_split() -> None:
    with pytest.raises(IndexError, match="no pair 4"):
        make_pair(WorldSettings(train=4), "train", 4)


def test_half_of_the_pairs_are_unchanged(world_pairs: list[WorldPair]) -> None:
    assert sum(pair.changed for pair in world_pairs) == len(world_pairs) / 2


@pytest.mark.parametrize(("share", "changed"), [(0.0, 6), (1.0, 0), (0.5, 3)])
def test_the_share_of_unchanged_pairs_is_exact(share: float, changed: int) -> None:
    settings = WorldSettings(train=6, unchanged_share=share)
    assert sum(make_pair(settings, "train", index).changed for index in range(6)) == changed


def test_events_are_of_many_kinds(changed_pairs: list[WorldPair]) -> None:
    kinds = Counter(event.kind for pair in changed_pairs for event in pair.events)
    assert set(kinds) == set(PLANNERS)
    assert kinds.most_common(1)[0][1] < 0.45 * len(changed_pairs)
    assert 0.05 < np.mean([len(pair.events) == 2 for pair in changed_pairs]) < 0.4


def test_the_change_mask_is_where_the_label_maps_differ(world_pairs: list[WorldPair]) -> None:
    for pair in world_pairs:
        land, instances = pair.semantic[0] != pair.semantic[1], pair.instances[0] != pair.instances[1]
        assert np.array_equal(pair.change, land | instances)


def test_unchanged_pairs_have_empty_masks_and_different_pictures(world_pairs: list[WorldPair]) -> None:
    unchanged = [pair for pair in world_pairs if not pair.changed]
    assert not any(pair.change.any() for pair in unchanged)
    assert not any(pair.appeared or pair.disappeared for pair in unchanged)
    differences = [np.abs(pair.images[0].astype(int) - pair.images[1]).mean() for pair in unchanged]
    assert np.median(differences) > 8


def test_pixel_differences_hardly_tell_changed_from_unchanged(world_pairs: list[WorldPair]) -> None:
    differences = np.array([np.abs(pair.images[0].astype(int) - pair.images[1]).mean() for pair in world_pairs])
    changed = np.array([pair.changed for pair in world_pairs])
    wins = (differences[changed][:, None] > differences[~changed][None, :]).mean()
    assert wins < 0.75


def test_without_nuisances_an_unchanged_pair_is_one_picture_twice() -> None:
    still = {"season": 0, "light": 0, "sun": 0, "shift_pixels": 0, "noise": 0, "cars": 0}
    settings = WorldSettings.model_validate({"train": 2, "unchanged_share": 1.0, "nuisances": still})
    pair = make_pair(settings, "train", 0)
    assert np.array_equal(*pair.images)


@pytest.mark.parametrize("nuisance", ["season", "light", "sun", "shift_pixels", "noise", "cars"])
def test_each_nuisance_alone_changes_the_picture(nuisance: str) -> None:
    strengths = {name: 0.0 for name in ("season", "light", "sun", "shift_pixels", "noise", "cars")}
    strengths[nuisance] = 2.0
    # Several scenes: not every one has a road for cars.
    settings = WorldSettings.model_validate({"train": 4, "seed": 1, "unchanged_share": 1.0, "nuisances": strengths})
    pairs = [make_pair(settings, "train", index) for index in range(4)]
    assert any((pair.images[0] != pair.images[1]).mean() > 0.002 for pair in pairs)


def test_objects_describe_their_pixels(world_pairs: list[WorldPair]) -> None:
    for pair in world_pairs[:40]:
        for objects, instances, land in zip(pair.objects, pair.instances, pair.semantic, strict=True):
            assert {item.id for item in objects} == set(np.unique(instances).tolist()) - {0}
            for item in objects:
                rows, columns = np.nonzero(instances == item.id)
                left, top, right, bottom = item.box
                assert (left, top) == (columns.min(), rows.min())
                assert (right, bottom) == (columns.max() + 1, rows.max() + 1)
                assert item.area == len(rows)
                assert item.centroid == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=0.01)
                # Where an object is seen, the land is of its class.
                assert (land[rows, columns] == OBJECT_CLASSES[item.kind]).all()


def test_correspondences_are_the_objects_of_both_dates(world_pairs: list[WorldPair]) -> None:
    for pair in world_pairs:
        before, after = ({item.id: item.kind for item in date} for date in pair.objects)
        assert set(pair.correspondences) == set(before) & set(after)
        assert set(pair.appeared) == set(after) - set(before)
        assert set(pair.disappeared) == set(before) - set(after)
        assert all(before[number] == after[number] for number in pair.correspondences)


def test_corresponding_objects_keep_their_place(world_pairs: list[WorldPair]) -> None:
    for pair in world_pairs:
        before, after = ({item.id: item for item in date} for date in pair.objects)
        altered = {number for event in pair.events for number in event.altered}
        for number in set(pair.correspondences) - altered:
            if before[number].kind in ("house", "building", "pond", "playground"):
                shift = np.subtract(before[number].centroid, after[number].centroid)
                # A tree that is felled may uncover a little of a roof.
                assert np.abs(shift).max() < 3
