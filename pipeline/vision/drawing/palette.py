"""Colours that readers with and without full colour vision tell apart (Okabe and Ito 2008; Tol's muted ones after)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Colour = tuple[int, int, int]

ORANGE: Final[Colour] = (230, 159, 0)
SKY: Final[Colour] = (86, 180, 233)
GREEN: Final[Colour] = (0, 158, 115)
YELLOW: Final[Colour] = (240, 228, 66)
BLUE: Final[Colour] = (0, 114, 178)
VERMILION: Final[Colour] = (213, 94, 0)
PURPLE: Final[Colour] = (204, 121, 167)
GREY: Final[Colour] = (150, 150, 150)
INDIGO: Final[Colour] = (51, 34, 136)
OLIVE: Final[Colour] = (153, 153, 51)
WINE: Final[Colour] = (136, 34, 85)
ROSE: Final[Colour] = (204, 102, 119)
TEAL: Final[Colour] = (68, 170, 153)
SAND: Final[Colour] = (221, 204, 119)

INK: Final[Colour] = (32, 36, 42)
QUIET: Final[Colour] = (96, 104, 114)
PAPER: Final[Colour] = (255, 255, 255)

VANISHED: Final = VERMILION
"""Regions before without a counterpart after, U1; their sign is a minus."""
APPEARED: Final[Colour] = (40, 205, 150)
"""Regions after without a counterpart before, U2; their sign is a plus. Lighter than the trees it may lie on."""

REGIONS: Final[tuple[Colour, ...]] = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
"""Masks take these in turn."""
MATCHES: Final[tuple[Colour, ...]] = (SKY, YELLOW, PURPLE, BLUE, ORANGE, TEAL, ROSE)
"""Matches take these in turn; the colours of what vanished and appeared are not among them."""

_CATEGORIES: Final[tuple[Colour, ...]] = (
    VERMILION, SKY, GREEN, YELLOW, PURPLE, BLUE, ORANGE, GREY, WINE, TEAL, SAND, INDIGO, ROSE, OLIVE,
)  # fmt: skip
# What readers of maps expect; the first word found in a category's name decides.
_CUSTOMARY: Final[tuple[tuple[str, Colour], ...]] = (
    ("pool", SKY),
    ("water", BLUE),
    ("pond", BLUE),
    ("river", BLUE),
    ("parking", PURPLE),
    ("pavement", PURPLE),
    ("road", GREY),
    ("building", VERMILION),
    ("house", VERMILION),
    ("playground", ORANGE),
    ("tree", GREEN),
    ("wood", GREEN),
    ("vegetation", GREEN),
    ("grass", OLIVE),
    ("bare", SAND),
)


def category_colours(names: Sequence[str]) -> tuple[Colour, ...]:
    """Return a colour per category: the customary one where there is one and it is free, else the next free one.

    There are fourteen; beyond that they come round again.
    """
    chosen: dict[int, Colour] = {}
    for index, name in enumerate(names):
        wish = next((colour for word, colour in _CUSTOMARY if word in name.lower()), None)
        if wish is not None and wish not in chosen.values():
            chosen[index] = wish
    free = [colour for colour in _CATEGORIES if colour not in chosen.values()]
    rest = [index for index in range(len(names)) if index not in chosen]
    for position, index in enumerate(rest):
        chosen[index] = free[position] if position < len(free) else _CATEGORIES[index % len(_CATEGORIES)]
    return tuple(chosen[index] for index in range(len(names)))
