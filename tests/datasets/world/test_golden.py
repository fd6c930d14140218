from __future__ import annotations

import json

from tests.datasets.world.make_golden import PATH, golden


def test_captions_and_label_maps_are_the_pinned_ones() -> None:
    pinned = json.loads(PATH.read_text(encoding="utf-8"))
    assert golden() == pinned, (
        "the world has changed; if it was meant to, run python -m tests.datasets.world.make_golden"
    )
