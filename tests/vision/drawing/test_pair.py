from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.vision.drawing.canvas import (
    APPEARED,
    MATCHES,
    PAPER,
    REGIONS,
    VANISHED,
    beside,
    category_colours,
    contact_sheet,
    font,
    shortened,
    stacked,
    titled,
)
from pipeline.vision.drawing.pair import (
    KINDS,
    DrawnMatches,
    DrawnPair,
    DrawnRegions,
    DrawnSemantics,
    draw_legend,
    draw_masks,
    draw_matches,
    draw_pair,
    draw_semantic_map,
    draw_semantic_regions,
    draw_sheet,
)
from tests.worlds.region_data import mask_set

NAMES = ("building", "road")
CATEGORIES = ["building", "road", "vegetation"]
NONE = np.zeros(0, dtype=np.int32)


def image(height: int = 64, width: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(60, 120, (height, width, 3), dtype=np.uint8)


def rectangles(*boxes: tuple[int, int, int, int], height: int = 64, width: int = 64) -> NDArray[np.bool_]:
    masks = np.zeros((len(boxes), height, width), dtype=np.bool_)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def has(picture: Image.Image, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    pixels: NDArray[np.bool_] = (np.asarray(picture) == colour).all(2)
    return pixels


def drawn(masks: NDArray[np.bool_], seed: int = 0) -> DrawnRegions:
    return DrawnRegions(image(*masks.shape[1:], seed), masks, mask_set(masks).centroids)


def semantics() -> DrawnSemantics:
    masks = rectangles((4, 4, 30, 30))
    values = masks[0].astype(np.uint8) * 2
    return DrawnSemantics(masks, mask_set(masks).boxes, np.array([1]), np.array([0.8]), values)


def full() -> DrawnPair:
    regions = drawn(rectangles((2, 2, 20, 20), (30, 30, 50, 50))), drawn(rectangles((2, 2, 20, 20)), 1)
    matches = DrawnMatches(np.array([[0, 0]]), np.array([1]), np.zeros(0, np.int32))
    return DrawnPair("pair: a house has gone", regions, matches, (semantics(), semantics()), NAMES)


def test_rows_are_added_for_what_is_known() -> None:
    whole, matched, plain = full(), replace(full(), semantics=None), replace(full(), matches=None, semantics=None)
    assert whole.kinds == KINDS
    assert matched.kinds == ("masks", "matches")
    assert plain.kinds == ("masks",)
    pictures = [draw_pair(pair, zoom=4) for pair in (plain, matched, whole)]
    assert len({picture.width for picture in pictures}) == 1
    heights = [picture.height for picture in pictures]
    assert heights[0] + 256 < heights[1] < heights[2] - 2 * 256
    assert has(pictures[1], VANISHED).any()
    assert not has(pictures[1], APPEARED).any()
    assert has(pictures[2], category_colours(NAMES)[1]).any()
    assert pictures[2].tobytes() == draw_pair(full(), zoom=4).tobytes()


def test_a_pair_without_anything() -> None:
    nothing = drawn(np.zeros((0, 48, 64), dtype=np.bool_))
    none = np.zeros(0, np.int32)
    empty = DrawnSemantics(nothing.masks, np.zeros((0, 4)), none, np.zeros(0), np.zeros((48, 64), np.uint8))
    matches = DrawnMatches(np.zeros((0, 2), int), none, none)
    picture = draw_pair(DrawnPair("nothing", (nothing, nothing), matches, (empty, empty), NAMES))
    assert picture.width == 2 * 512 + 24


def test_sheets_of_several_pairs() -> None:
    sheet = draw_sheet([full(), full()], KINDS, zoom=2)
    # Seven pictures of 128 pixels' width, of which the matches are two, and a gap of 24 between them.
    assert sheet.width > 8 * 128
    assert sheet.height > 2 * 128
    assert sheet.tobytes() == draw_sheet([full(), full()], KINDS, zoom=2).tobytes()
    assert draw_sheet([full()], ["masks"], zoom=2).height < sheet.height
    with pytest.raises(ValueError, match="nothing is known of the maps"):
        draw_sheet([replace(full(), semantics=None)], ["maps"])
    with pytest.raises(ValueError, match="at least one"):
        draw_sheet([], KINDS)


def test_masks() -> None:
    masks = rectangles((0, 0, 60, 60), (10, 10, 20, 20))
    picture = draw_masks(image(), masks)
    assert picture.size == (512, 512)
    # The small mask's outline lies above the large mask, whatever the order.
    assert has(picture, REGIONS[1])[80:160, 80:160].any()
    assert has(draw_masks(image(), masks[::-1]), REGIONS[0])[80:160, 80:160].any()
    assert draw_masks(image(), masks).tobytes() == picture.tobytes()


def test_no_masks() -> None:
    expected = Image.fromarray(image(40, 64)).resize((512, 320), Image.Resampling.BICUBIC)
    picture = draw_masks(image(40, 64), np.zeros((0, 40, 64), dtype=np.bool_))
    assert picture.tobytes() == expected.tobytes()


def test_matches() -> None:
    before = drawn(rectangles((2, 2, 14, 14), (40, 40, 60, 60)))
    after = drawn(rectangles((30, 4, 50, 20), (4, 3, 16, 15), (2, 40, 20, 60)), 1)
    matched = np.array([[0, 1]], dtype=np.int32)
    picture = draw_matches(before, after, matched, np.array([1]), np.array([0, 2]), zoom=4)
    width = 64 * 4
    gap = picture.width - 2 * width
    assert gap > 0
    assert picture.height == width
    vanished, appeared = has(picture, VANISHED), has(picture, APPEARED)
    assert vanished[:, :width].any()
    assert not vanished[:, width:].any()
    assert appeared[:, -width:].any()
    assert not appeared[:, :-width].any()
    outline = has(picture, MATCHES[0])
    assert outline[:, :width].any()
    assert outline[:, -width:].any()
    # The line crosses the gap at the height of both centroids.
    column = np.asarray(picture)[:, width + gap // 2]
    crossed = np.flatnonzero((column != PAPER).any(1))
    assert crossed.size
    assert abs(crossed.mean() - 4 * (8 + 9) / 2) < 3
    again = draw_matches(before, after, matched, np.array([1]), np.array([0, 2]), zoom=4)
    assert again.tobytes() == picture.tobytes()


@pytest.mark.parametrize("sides", [(0, 0), (0, 1), (1, 0)])
def test_matches_of_empty_sets(sides: tuple[int, int]) -> None:
    before, after = (drawn(rectangles(*[(8, 8, 20, 20)] * count)) for count in sides)
    picture = draw_matches(before, after, np.zeros((0, 2), np.int32), np.arange(sides[0]), np.arange(sides[1]), zoom=2)
    assert has(picture, VANISHED).any() == bool(sides[0])
    assert has(picture, APPEARED).any() == bool(sides[1])


def test_semantic_regions() -> None:
    masks = rectangles((0, 0, 30, 30), (34, 34, 64, 60))
    boxes = mask_set(masks).boxes
    picture = draw_semantic_regions(image(), masks, boxes, np.array([2, 0]), np.array([0.5, 0.75]), CATEGORIES)
    colours = category_colours(CATEGORIES)
    assert has(picture, colours[2])[:240, :240].any()
    assert has(picture, colours[0])[272:, 272:].any()
    assert not has(picture, colours[1]).any()
    other = draw_semantic_regions(image(), masks, boxes, np.array([2, 0]), np.array([0.5, 0.85]), CATEGORIES)
    assert other.tobytes() != picture.tobytes()
    none = draw_semantic_regions(image(), masks[:0], boxes[:0], NONE, np.zeros(0), CATEGORIES)
    assert none.tobytes() == draw_masks(image(), masks[:0]).tobytes()


def test_semantic_map_and_legend() -> None:
    values = np.zeros((64, 64), dtype=np.uint8)
    values[:32] = 1
    values[40:, :32] = 3
    picture = draw_semantic_map(image(), values, CATEGORIES)
    bare = draw_semantic_map(image(), values, CATEGORIES, legend=False)
    assert bare.size == (512, 512)
    assert picture.width == 512
    assert picture.height > 512
    pixels = np.asarray(bare).astype(int)
    building = np.array(category_colours(CATEGORIES)[0])
    assert np.abs(pixels[:256] - building).mean() < 60 < np.abs(pixels[256:] - building).mean()
    legend = np.asarray(picture)[512:]
    for category, occurs in enumerate((True, False, True)):
        assert (legend == category_colours(CATEGORIES)[category]).all(2).any() == occurs


def test_legend_wraps_and_says_when_there_is_nothing() -> None:
    names = [f"category number {i}" for i in range(12)]
    values = np.arange(12, dtype=np.uint8).repeat(4).reshape(6, 8) + 1
    wide, narrow = draw_legend([values], names, 3000), draw_legend([values], names, 300)
    assert narrow.height > 3 * wide.height
    nothing = draw_legend([np.zeros((4, 4), np.uint8)], names, 300)
    assert (np.asarray(nothing) != PAPER).any()


def test_sheets() -> None:
    tile = Image.new("RGB", (100, 50), (1, 2, 3))
    assert beside([tile, tile], gap=10).size == (210, 50)
    assert stacked([tile, tile], gap=10).size == (100, 110)
    assert titled(tile, "before").height > 50
    plain = contact_sheet([[tile, tile], [tile, tile]])
    assert has(plain, (1, 2, 3)).sum() == 4 * 100 * 50
    full = contact_sheet([[tile, tile], [tile, tile]], ["before", "after"], ["one pair", "another pair"])
    assert full.height > plain.height
    assert has(full, (1, 2, 3)).sum() == 4 * 100 * 50
    assert (
        full.tobytes()
        == contact_sheet([[tile, tile], [tile, tile]], ["before", "after"], ["one pair", "another pair"]).tobytes()
    )
    for wrong in ([], [[]]):
        with pytest.raises(ValueError, match="at least one"):
            contact_sheet(wrong)
    with pytest.raises(ValueError, match="1 titles"):
        contact_sheet([[tile, tile]], ["before"])
    with pytest.raises(ValueError, match="2 captions"):
        contact_sheet([[tile]], captions=["a", "b"])


def test_long_captions_are_cut_at_words() -> None:
    text = shortened("several villas are built along the road", font(16), 150)
    assert text.endswith(" …")
    assert font(16).getlength(text) <= 150
    assert shortened("short", font(16), 150) == "short"
