from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.captioners.evidence import EvidenceWidths
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.records import read_prepared
from pipeline.errors import CacheError, DataError
from pipeline.training.evidence import EvidenceCaches, EvidencePaths, open_evidence
from pipeline.training.evidence_reading import read_evidence
from tests.training import evidence_world, world

NOWHERE = EvidencePaths(Path("no"), Path("no"), Path("no"), Path("no"))


@pytest.fixture
def where(project: Path, prepared: Path) -> EvidencePaths:
    return evidence_world.write_all(project, prepared)


def opened(
    where: EvidencePaths, prepared: Path, captioner: CaptionerSettings | None = None, *, training: bool = True
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
