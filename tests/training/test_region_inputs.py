from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.captioners.inputs import EvidenceWidths, Regions
from pipeline.captioners.settings import SageCCSettings, SideInputSettings
from pipeline.datasets.records import read_prepared
from pipeline.errors import CacheError, CheckpointError, DataError, SettingsError
from pipeline.files import sha256_file
from pipeline.graph_encoders.settings import GraphEncoderSettings
from pipeline.training.region_inputs import (
    ENCODER,
    EvidenceCaches,
    EvidencePaths,
    open_evidence,
    read_evidence,
    read_source,
)
from pipeline.vision.matching.settings import AssignmentSettings
from stages import graph as stage
from tests.training import evidence_world, world
from tests.training.evidence_world import COUNTS, SIZE

NOWHERE = EvidencePaths(Path("no"), Path("no"), Path("no"), Path("no"))


@pytest.fixture
def where(project: Path, prepared: Path) -> EvidencePaths:
    return evidence_world.write_all(project, prepared)


def opened(
    where: EvidencePaths, prepared: Path, captioner: SageCCSettings | None = None, *, training: bool = True
) -> EvidenceCaches:
    found = open_evidence(captioner or evidence_world.captioner(), where, read_prepared(prepared), training=training)
    assert found is not None
    return found


def test_without_a_fusion_no_file_is_looked_at(prepared):
    assert open_evidence(world.TINY, NOWHERE, read_prepared(prepared), training=True) is None


def test_widths_and_card_say_what_was_opened(where, prepared):
    found = opened(where, prepared)
    assert found.widths == EvidenceWidths(motion=6, semantics=5, nodes=4, relations=3)
    card = found.card()
    assert set(card.caches) == {"regions", "matches", "semantics"}
    assert set(card.graph) == {"graph.json", "graph.h5", "encoder.safetensors"}
    assert set(card.caches["matches"].upstream) == {"regions.h5"}
    assert str(Path.cwd()) not in card.model_dump_json()


def test_a_head_to_be_trained_asks_for_grids(where, prepared):
    learning = evidence_world.captioner(descriptor_width=8)
    with pytest.raises(CacheError, match="7×7 grids") as caught:
        opened(where, prepared, learning)
    assert "sagecc regions --set regions.store=grids" in caught.value.fix and "null" in caught.value.fix
    evidence_world.write_regions(where.regions, prepared, spoil=evidence_world.with_grids)
    evidence_world.write_matches(where.matches, where.regions, prepared)
    assert opened(where, prepared, learning).widths.motion == 2 * 49
    assert opened(where, prepared).widths.motion == 6


@pytest.mark.parametrize(
    ("taken", "needed"),
    [
        ({"semantics": False, "graph": False}, {"regions", "matches"}),
        ({"motion": False, "graph": False}, {"semantics"}),
        ({"motion": False, "semantics": False}, {"graph"}),
    ],
)
def test_what_is_not_taken_need_not_be_there(where, prepared, taken, needed):
    kept = {stage: path if stage in needed else Path("no") for stage, path in where.by_stage().items()}
    found = opened(EvidencePaths(**kept), prepared, evidence_world.captioner(**taken))
    assert set(found.caches) | ({"graph"} if found.graph else set()) == needed


@pytest.mark.parametrize("stage", ["regions", "matches", "semantics", "graph"])
def test_what_is_missing_is_named_with_its_command(where, prepared, stage):
    (where.graph / "graph.h5" if stage == "graph" else where.by_stage()[stage]).unlink()
    with pytest.raises((CacheError, DataError)) as caught:
        opened(where, prepared)
    assert f"sagecc {stage}" in caught.value.fix and stage in caught.value.where


@pytest.mark.parametrize("stage", ["regions", "semantics", "graph"])
def test_caches_of_another_data_set_are_refused(where, prepared, project, stage):
    other = world.write_pairs(project / "other", captions=(("other",), *world.CAPTIONS[1:]))
    write = {
        "regions": evidence_world.write_regions,
        "semantics": evidence_world.write_semantics,
        "graph": evidence_world.write_graph,
    }[stage]
    write(where.by_stage()[stage], other)
    with pytest.raises(CacheError, match=r"pairs\.jsonl") as caught:
        opened(where, prepared)
    assert f"sagecc {stage}" in caught.value.fix


def test_matches_of_other_regions_are_refused(where, prepared):
    evidence_world.write_regions(where.regions, prepared, weights="1" * 64)
    with pytest.raises(CacheError, match=r"regions\.h5") as caught:
        opened(where, prepared)
    assert caught.value.where == str(where.matches) and "sagecc matches" in caught.value.fix


def test_regions_of_other_masks_are_refused(where, prepared):
    masks = evidence_world.write_masks(where.regions.with_name("masks.h5"), prepared)
    evidence_world.write_regions(where.regions, prepared, masks=masks)
    evidence_world.write_matches(where.matches, where.regions, prepared)
    opened(where, prepared)
    evidence_world.write_masks(masks, prepared, weights="1" * 64)
    with pytest.raises(CacheError, match=r"masks\.h5") as caught:
        opened(where, prepared)
    assert caught.value.where == str(where.regions) and "sagecc regions" in caught.value.fix


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["p0", "p1", "p2", "p3", "p4"], "'p5' is not in it"), (["p1", "p0", "p2", "p3", "p4", "p5"], "another order")],
)
@pytest.mark.parametrize("stage", ["regions", "matches", "semantics"])
def test_caches_that_lack_a_pair_or_mix_them_up_are_refused(where, prepared, stage, ids, message):
    if stage == "matches":
        evidence_world.write_matches(where.matches, where.regions, prepared, ids=ids)
    elif stage == "regions":
        evidence_world.write_regions(where.regions, prepared, ids=ids)
        evidence_world.write_matches(where.matches, where.regions, prepared)
    else:
        evidence_world.write_semantics(where.semantics, prepared, ids=ids)
    with pytest.raises(CacheError, match=f"the {stage} are not.*{message}") as caught:
        opened(where, prepared)
    assert f"sagecc {stage}" in caught.value.fix


def test_another_process_opens_the_files_anew_and_refuses_replaced_ones(where, prepared):
    ids = ["p0", "p4"]
    found = opened(where, prepared)
    copy = pickle.loads(pickle.dumps(found))
    one, two = read_evidence(found, ids), read_evidence(copy, ids)
    assert np.array_equal(one.motion.features, two.motion.features)
    late = pickle.loads(pickle.dumps(found))
    evidence_world.write_semantics(where.semantics, prepared, weights="1" * 64)
    with pytest.raises(CacheError, match="replaced"):
        read_evidence(late, ids)


def test_a_trained_captioner_keeps_its_graph_whatever_pairs_it_describes(where, prepared, project):
    other = world.write_pairs(project / "other", captions=(("other",), *world.CAPTIONS[1:]))
    evidence_world.write_graph(where.graph, other)
    found = opened(where, prepared, training=False)
    assert found.graph is not None and found.graph.weights is None


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


def settings(**changes: object) -> SideInputSettings:
    encoder = {**evidence_world.ENCODER_SETTINGS.model_dump(), **changes}
    return SideInputSettings.model_validate({"graph_encoder": encoder})


def read_graph_source(folder: Path, wanted: SideInputSettings | None = None, *, weights: bool = True):
    return read_source(folder, wanted or settings(), pairs_sha256=None, weights=weights)


@pytest.fixture
def graph(project: Path, prepared: Path) -> Path:
    return evidence_world.write_graph(project / "graph", prepared)


def test_graph_and_weights_are_read_with_their_digests(graph):
    found = read_graph_source(graph)
    assert found.tensors.features.shape == (4, evidence_world.NODE) and found.tensors.relations == 3
    assert found.weights is not None and found.weights
    assert found.digests == {name: sha256_file(graph / name) for name in ("graph.json", "graph.h5", ENCODER)}
    assert ENCODER == stage.ENCODER


def test_weights_are_read_where_they_are_wanted(graph):
    (graph / ENCODER).unlink()
    with pytest.raises(CheckpointError, match="not there") as caught:
        read_graph_source(graph)
    assert "pretrained_graph: false" in caught.value.fix
    for found in (
        read_graph_source(graph, weights=False),
        read_graph_source(graph, SideInputSettings(pretrained_graph=False)),
    ):
        assert found.weights is None and set(found.digests) == {"graph.json", "graph.h5"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "gcn"}, "kind: rgcn"),
        ({"widths": (8, 8)}, r"widths: \[8, 6\]"),
        ({"inverse": False}, "inverse: True"),
        ({"bases": None}, "bases: 2"),
    ],
)
def test_weights_of_another_encoder_are_refused_with_what_to_set(graph, changes, said):
    with pytest.raises(SettingsError, match="differs from the captioner's") as caught:
        read_graph_source(graph, settings(**changes))
    assert caught.value.where == "models.graph_encoder"
    import re

    assert re.search(said, caught.value.fix) and "sagecc graph" in caught.value.fix


@pytest.mark.parametrize("changes", [{"dropout": 0.0}, {"readout": "attention"}, {"heads": 2}, {"kernels": 9}])
def test_what_does_not_show_in_the_weights_may_differ(graph, changes):
    assert read_graph_source(graph, settings(**changes)).weights is not None


def test_heads_count_where_there_are_any(graph, prepared):
    there = GraphEncoderSettings(kind="gat", widths=(8, 6), heads=2)
    evidence_world.write_graph(graph, prepared, encoder=there)
    with pytest.raises(SettingsError, match="heads"):
        read_graph_source(graph, settings(kind="gat", heads=4))
    assert read_graph_source(graph, settings(kind="gat", heads=2, bases=None)).weights is not None


def test_an_encoder_of_another_graph_is_refused(graph, prepared):
    weights = (graph / ENCODER).read_bytes()
    evidence_world.write_graph(graph, prepared, engine="llm")
    (graph / ENCODER).write_bytes(weights)
    with pytest.raises(CheckpointError, match="another graph") as caught:
        read_graph_source(graph)
    assert "sagecc graph" in caught.value.fix


def test_a_graph_without_node_features_is_refused(graph, prepared):
    evidence_world.write_graph(graph, prepared, width=0)
    with pytest.raises(CacheError, match="no features") as caught:
        read_graph_source(graph)
    assert caught.value.where == str(graph / "graph.h5") and "sagecc graph" in caught.value.fix


def test_a_node_whose_features_are_no_numbers_is_named(graph):
    evidence_world.spoil(graph / "graph.h5", read_graph_source(graph).tensors.features[1].numpy(), np.nan)
    with pytest.raises(CacheError, match="the node 'tree' hold NaN"):
        read_graph_source(graph)
