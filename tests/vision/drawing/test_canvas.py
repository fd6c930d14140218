from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import OutputError
from pipeline.vision.drawing.canvas import (
    APPEARED,
    BLUE,
    GREEN,
    INK,
    MATCHES,
    PAPER,
    REGIONS,
    VANISHED,
    YELLOW,
    Canvas,
    Colour,
    category_colours,
    readable_on,
    save_png,
    zoom_for,
)

BLACK = np.zeros((16, 24, 3), dtype=np.uint8)


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((16, 24), dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(("side", "zoom"), [(64, 8), (128, 4), (256, 2), (300, 1), (1024, 1)])
def test_zoom(side: int, zoom: int) -> None:
    assert zoom_for(side, side // 2) == zoom


def test_tints_and_outlines_stay_within_the_mask() -> None:
    canvas = Canvas(BLACK, 4)
    mask = square(2, 3, 6)
    canvas.tint(mask, (200, 100, 50), 0.5)
    pixels = np.asarray(canvas.picture())
    assert pixels.shape == (64, 96, 3)
    inside = mask.repeat(4, 0).repeat(4, 1)
    assert (pixels[inside] == (100, 50, 25)).all()
    assert (pixels[~inside] == 0).all()
    canvas.outline(mask, (10, 20, 30), 2)
    pixels = np.asarray(canvas.picture())
    edge = (pixels == (10, 20, 30)).all(2)
    assert edge.sum() == 24 * 24 - 20 * 20
    assert edge[8, 12]
    assert not (edge & ~inside).any()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a mask of"):
        Canvas(BLACK).tint(np.zeros((16, 16), dtype=np.bool_), BLUE, 0.5)


def test_fade_takes_the_colour_out() -> None:
    canvas = Canvas(np.full((8, 8, 3), (90, 0, 0), dtype=np.uint8), 1)
    canvas.fade(0.5)
    assert (np.asarray(canvas.picture()) == 142).all()


def test_signs_are_drawn_at_the_place() -> None:
    canvas = Canvas(BLACK, 8)
    canvas.sign((12.0, 8.0), "plus")
    plus = np.asarray(canvas.picture())
    assert (plus[64, 96] == PAPER).all()
    assert (plus[64 - 8, 96] == PAPER).all()
    canvas = Canvas(BLACK, 8)
    canvas.sign((12.0, 8.0), "minus")
    minus = np.asarray(canvas.picture())
    assert (minus[64, 96 - 8] == PAPER).all()
    assert (minus[64 - 8, 96] != PAPER).all()
    rows, columns = np.nonzero(plus.any(2))
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (128, 192)


def test_labels_never_lie_on_each_other() -> None:
    canvas = Canvas(np.zeros((40, 40, 3), dtype=np.uint8), 4)
    box = (5.0, 5.0, 30.0, 30.0)
    drawn = [canvas.label(box, "road 0.91", YELLOW) for _ in range(8)]
    # Four corners and the middle; then there is no room.
    assert 1 <= sum(drawn) <= 5
    assert not drawn[-1]


def test_labels_stay_within_the_picture() -> None:
    canvas = Canvas(BLACK, 8)
    assert canvas.label((20.0, 13.0, 30.0, 20.0), "building 0.50", YELLOW)
    yellow = (np.asarray(canvas.picture()) == YELLOW).all(2)
    assert yellow.any()
    assert not yellow[:, :5].any()


def luminance(colour: Colour) -> float:
    """Relative luminance by WCAG 2."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_labels_are_legible() -> None:
    for colour in {*REGIONS, *MATCHES, *category_colours([str(i) for i in range(14)])}:
        lighter, darker = sorted((luminance(colour), luminance(readable_on(colour))), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) > 3.4, colour


def seen_by_deuteranopes(colour: Colour) -> np.ndarray:
    """Simulate deuteranopia (Viénot, Brettel and Mollon 1999) in linear RGB."""
    linear = (np.array(colour) / 255) ** 2.2
    matrix = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    return 255 * (matrix @ linear).clip(0, 1) ** (1 / 2.2)


def test_appeared_and_vanished_differ_without_red_and_green() -> None:
    distance = np.linalg.norm(seen_by_deuteranopes(VANISHED) - seen_by_deuteranopes(APPEARED))
    assert distance > 80
    # A red and a green of equal luminance do not.
    assert np.linalg.norm(seen_by_deuteranopes((200, 60, 0)) - seen_by_deuteranopes((90, 115, 0))) < 40
    assert not {VANISHED, APPEARED} & set(MATCHES)


def test_categories_have_colours_of_their_own() -> None:
    names = ["building", "road", "vegetation", "water", "bareland", "house", "swimming pool", "playground", "x", "y"]
    colours = category_colours(names)
    assert len(set(colours)) == len(names)
    assert colours[2] == GREEN
    assert colours[3] == BLUE
    assert category_colours(names) == colours
    assert len(category_colours([str(i) for i in range(40)])) == 40
    assert category_colours([]) == ()


def test_png_is_whole_and_the_same_every_time(tmp_path: Path) -> None:
    picture = Canvas(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).picture()
    one, two = (save_png(picture, tmp_path / name).read_bytes() for name in ("a.png", "sub/b.png"))
    assert one == two
    with Image.open(tmp_path / "a.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_png(picture, tmp_path / "file" / "c.png")


def test_ink_on_light_and_paper_on_dark() -> None:
    assert readable_on(YELLOW) == INK
    assert readable_on(BLUE) == PAPER
