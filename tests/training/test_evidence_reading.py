from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.captioners.regions import Regions
from pipeline.errors import CacheError
from pipeline.training.evidence import EvidencePaths
from pipeline.training.evidence_reading import read_evidence
from pipeline.vision.matching.settings import AssignmentSettings
from tests.training import evidence_world
from tests.training.evidence_world import COUNTS, SIZE
from tests.training.test_evidence import opened, where  # noqa: F401 - pytest finds fixtures by name

IDS = ["p4", "p0", "p1", "p5", "p2", "p3"]
"""All pairs, in another order than the caches'."""


def read(where: EvidencePaths, prepared: Path, ids: list[str] = IDS, **settings: object):
    return read_evidence(opened(where, prepared, evidence_world.captioner(**settings)), ids)


def rows_of(regions: Regions, position: int) -> list[tuple]:
    """What a pair has, padding left out, in its order."""
    mask = regions.mask[position]
    fields = [regions.features, regions.dates, regions.centroids, regions.scores]
    return [
        tuple(None if field is None else field[position, k].tolist() for field in fields)
        for k in range(len(mask))
        if mask[k]
    ]


@pytest.mark.parametrize("rule", ["paper", "release"])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("kept", [None, 1, 2, 3, 9])
def test_motion_regions_against_a_plain_loop(where, prepared, kept, threshold, rule):
    stage = AssignmentSettings(unmatched=rule)
    evidence_world.write_matches(where.matches, where.regions, prepared, assignment=stage)
    found = read(where, prepared, masks_kept=kept, match_threshold=threshold).motion
    tau = stage.threshold if threshold is None else threshold
    for position, name in enumerate(IDS):
        pair = int(name[1:])
        table = evidence_world.confidences(pair).astype(np.float32)
        before, after = (min(count, kept or count) for count in COUNTS[pair])
        expected = []
        for date, count, others in ((0, before, after), (1, after, before)):
            arrays = evidence_world._region_arrays(2 * pair + date)
            for k in range(count):
                row = [(table[k, o] if date == 0 else table[o, k]) for o in range(others)]
                if rule == "paper":
                    alone = not any(value > tau for value in row)
                else:
                    alone = not any(
                        value > tau
                        and value == max(row)
                        and value == max(table[p, o] if date == 0 else table[o, p] for p in range(count))
                        for o, value in enumerate(row)
                    )
                if alone:
                    x, y = arrays["centroids"][k]
                    share = [float(np.float32(x / SIZE[1])), float(np.float32(y / SIZE[0]))]
                    expected.append((arrays["descriptors"][k].tolist(), date, share, None))
        assert rows_of(found, position) == expected


def test_semantic_regions_against_a_plain_loop(where, prepared):
    found = read(where, prepared).semantics
    total = 0
    for position, name in enumerate(IDS):
        expected = []
        for date in (0, 1):
            arrays = evidence_world._semantic_arrays(2 * int(name[1:]) + date)
            for k in range(len(arrays["selected"])):
                if arrays["selected"][k]:
                    best = float(arrays["similarity"][k].max())
                    expected.append((arrays["embeddings"][k].tolist(), date, None, best))
        assert rows_of(found, position) == expected
        total += len(expected)
    assert total > 5 and found.features.dtype == torch.float16


def test_pairs_without_any_region_are_fine(where, prepared):
    found = read(where, prepared, ["p1", "p2"])
    assert found.motion.mask[0].sum() == 0 and found.semantics.mask[1].sum() == 0
    alone = read(where, prepared, ["p1"])
    assert alone.motion.features.shape == (1, 0, evidence_world.WIDTH)


def test_a_data_set_without_any_region_is_fine(where, prepared, monkeypatch):
    monkeypatch.setattr(evidence_world, "COUNTS", ((0, 0),) * 6)
    monkeypatch.setattr(evidence_world, "NAMED", ((0, 0),) * 6)
    evidence_world.write_all(where.regions.parent, prepared)
    found = read(where, prepared)
    assert found.motion.features.shape == (6, 0, evidence_world.WIDTH)
    assert found.semantics.features.shape == (6, 0, evidence_world.EMBEDDING)
    assert found.widths.motion == evidence_world.WIDTH


@pytest.mark.parametrize(("stage", "unit"), [("regions", 8), ("regions", 9), ("matches", 4), ("semantics", 9)])
def test_a_pair_that_a_stage_skipped_is_refused(where, prepared, stage, unit):
    if stage == "semantics":
        evidence_world.write_semantics(where.semantics, prepared, missing=[unit])
    else:
        if stage == "regions":
            evidence_world.write_regions(where.regions, prepared, missing=[unit])
        missing = [unit] if stage == "matches" else []
        evidence_world.write_matches(where.matches, where.regions, prepared, missing=missing)
    with pytest.raises(CacheError, match=f"'p4' was skipped when `sagecc {stage}`") as caught:
        read(where, prepared)
    assert caught.value.where == str(where.by_stage()[stage]) and f"{stage}.failures.json" in caught.value.fix
    read(where, prepared, ["p0", "p3"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ("regions", "descriptors"),
        ("regions", "centroids"),
        ("semantics", "embeddings"),
        ("semantics", "similarity"),
    ],
)
def test_values_that_are_no_numbers_are_refused_with_pair_and_stage(where, prepared, stage, field, value):
    if stage == "regions":
        evidence_world.spoil(where.regions, evidence_world._region_arrays(9)[field][2], value)
        evidence_world.write_matches(where.matches, where.regions, prepared)
    else:
        arrays = evidence_world._semantic_arrays(8)
        evidence_world.spoil(where.semantics, arrays[field][int(arrays["selected"].argmax())], value)
    with pytest.raises(CacheError, match=f"{field} of pair 'p4' in {stage} hold NaN") as caught:
        read(where, prepared, match_threshold=0.99)
    assert f"sagecc {stage}" in caught.value.fix


def test_centroids_outside_of_the_image_are_refused(where, prepared):
    def spoil(unit: int, arrays: dict) -> None:
        arrays["centroids"][:, 1] += SIZE[0] if unit == 4 else 0

    evidence_world.write_regions(where.regions, prepared, spoil=spoil)
    evidence_world.write_matches(where.matches, where.regions, prepared)
    with pytest.raises(CacheError, match=r"'p2' in regions lie outside"):
        read(where, prepared, match_threshold=0.99)


def test_each_part_is_read_by_itself(where, prepared):
    found = read(where, prepared, motion=False, graph=False)
    assert found.motion is None and found.graph is None and found.pairs == 6


def test_grids_come_in_the_place_of_descriptors(where, prepared):
    evidence_world.write_regions(where.regions, prepared, spoil=evidence_world.with_grids)
    evidence_world.write_matches(where.matches, where.regions, prepared)
    plain, grids = read(where, prepared).motion, read(where, prepared, descriptor_width=8).motion
    for name in ("mask", "dates", "centroids"):
        assert torch.equal(getattr(plain, name), getattr(grids, name))
    assert grids.features.shape == (*plain.mask.shape, 2 * 49) and grids.features.dtype == torch.float16
    seen = 0
    for position, name in enumerate(IDS):
        for k in plain.mask[position].nonzero()[:, 0].tolist():
            unit = 2 * int(name[1:]) + int(plain.dates[position, k])
            arrays = evidence_world._region_arrays(unit)
            evidence_world.with_grids(unit, arrays)
            row = int((arrays["descriptors"] == plain.features[position, k].numpy()).all(1).argmax())
            assert np.array_equal(grids.features[position, k].numpy(), arrays["grids"][row].ravel())
            seen += 1
    assert seen > 5
