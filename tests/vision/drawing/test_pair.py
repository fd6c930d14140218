from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.vision.drawing.pair import KINDS, DrawnMatches, DrawnPair, DrawnSemantics, draw_pair, draw_sheet
from pipeline.vision.drawing.palette import APPEARED, VANISHED, category_colours
from tests.stages.region_data import mask_set
from tests.vision.drawing.test_pictures import drawn, has, rectangles

NAMES = ("building", "road")


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
    assert whole.known == KINDS
    assert matched.known == ("masks", "matches")
    assert plain.known == ("masks",)
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
