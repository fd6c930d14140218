"""How long threads of OpenMP spin at a barrier before they sleep.

torch computes with GNU's OpenMP, whose threads wait for each other by spinning, long enough that an idle machine
loses nothing. Where other processes want the same cores, a thread then burns its share of a core while the one it
waits for has none. A short spin loses little on an idle machine and much less on a busy one; docs/results.md, "Two
threads beside other work", has the figures.
"""

from __future__ import annotations

import os
from typing import Final

SPIN_COUNT: Final = "10000"
"""Turns of the waiting loop (`GOMP_SPINCOUNT`; GNU's own: 300,000)."""


def shorten_spinning() -> bool:
    """Let threads of this process and of its children sleep sooner; to be called before torch is loaded.

    Returns:
        False, with nothing changed, where the environment decides already (`GOMP_SPINCOUNT` or `OMP_WAIT_POLICY`).
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return False
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    return True
