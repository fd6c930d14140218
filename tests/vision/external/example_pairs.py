"""Pairs of three names, without images, and the labels of their dates."""

from __future__ import annotations

from pipeline.datasets.records import Pair

PAIRS = tuple(
    Pair(id=stem, split=split, before=f"images/{split}/A/{stem}.png", after=f"images/{split}/B/{stem}.png")
    for stem, split in (("train_1", "train"), ("train_2", "train"), ("val_1", "val"))
)
LABELS = [f"{pair.id} {date}" for pair in PAIRS for date in ("before", "after")]
