from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.attention import _count, _training
from pipeline.cache.schema import Provenance
from pipeline.cache.writer import pack
from pipeline.datasets.records import Pair, read_prepared, write_prepared
from pipeline.errors import DataError
from pipeline.training.inference import SCHEMA
from pipeline.training.settings import TrainSettings
from stages.profiles import profile_sections
from tests.worlds.region_data import units_of


def write(folder: Path, *, masks: bool = True) -> Path:
    """Two changed pairs and an unchanged one of 4×4 pixels, and attention maps of two words at a grid of 2×2."""
    changed = np.zeros((4, 4), np.uint8)
    changed[:2, :2] = 255
    Image.fromarray(changed).save(folder / "change.png")
    pairs = [
        Pair(
            id=f"p{number}",
            split="test",
            before="a.png",
            after="b.png",
            changed=number < 2,
            change_mask="change.png" if masks else None,
        )
        for number in range(3)
    ]
    write_prepared(folder / "prepared", "folder", str(folder), pairs)
    there = np.array([[0.5, 0.5], [0.0, 0.0]], np.float16)
    units = []
    for number in range(3):
        regions = {
            f"{name}_{field}": np.zeros((0, *shape), dtype)
            for name in ("motion", "semantics")
            for field, shape, dtype in (("date", (), np.uint8), ("row", (), np.int32), ("share", (1,), np.float16))
        }
        cells = np.broadcast_to(there if number else there.T, (2, 1, 2, 2)).astype(np.float16)
        change = there if number < 2 else there[::-1]
        nodes = np.zeros((2, 1, 0), np.float16)
        units.append({"word": np.zeros(2, np.int32), "cells": cells, "change": change, "nodes": nodes, **regions})
    made = Provenance("explanation", SCHEMA.version, {}, "0" * 64)
    return pack(folder / "seed-1.explanation.h5", SCHEMA, made, ["p0", "p1", "p2"], units_of(SCHEMA, units))


def test_what_falls_on_changed_pixels_is_counted_over_changed_pairs(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = _count(read_prepared(tmp_path / "prepared"), path)
    assert found.mass == pytest.approx(0.5) and found.even == pytest.approx(0.25)
    # Half of the attention on a quarter of the pixels, half on three quarters.
    assert found.density == pytest.approx(3.0)
    # Of the three unchanged cells of a pair one has the changed one's score, two have a lower one; p2 does not count.
    assert found.auc == pytest.approx((0.5 + 2) / 3)


@pytest.mark.parametrize("biased", [True, False])
def test_scenes_alone_are_trained_whatever_the_active_fusion(biased: bool) -> None:
    active = profile_sections("synthetic", None)["train"]
    assert isinstance(active, TrainSettings) and active.captioner.input_names() != ("scenes",)
    settings = _training(active, (1, 2), biased=biased)
    assert settings.input_names() == ("scenes",) and settings.seeds == (1, 2)
    assert settings.captioner.model_dump()["decoder"]["spatial_bias"] is biased
    assert settings.epochs == active.epochs


def test_a_data_set_without_change_masks_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, masks=False)
    with pytest.raises(DataError, match="pair p0 has no change mask"):
        _count(read_prepared(tmp_path / "prepared"), path)
