from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.captioners.evidence import Evidence, EvidenceWidths
from pipeline.captioners.regions import Regions
from pipeline.captioners.sage_cc import SageCC
from pipeline.errors import CheckpointError, DataError, SettingsError
from tests.captioners.fused import WIDTHS, fused_settings, make_evidence, make_fused, make_graph, make_regions
from tests.captioners.small import SCENE, VOCABULARY

FUSIONS = ["paper", "release"]


def without(regions: Regions, field: str) -> Regions:
    return replace(regions, **{field: None})


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("part", "stage"), [("motion", "matches"), ("semantics", "semantics"), ("graph", "graph")])
def test_what_is_asked_for_has_to_be_there(scenes, fusion, part, stage):
    model = make_fused(fusion)
    with pytest.raises(DataError, match=r"takes .*none are given") as caught:
        model.encode(scenes, replace(make_evidence(), **{part: None}))
    assert caught.value.where == f"evidence.{part}"
    assert f"sagecc {stage}" in caught.value.fix
    with pytest.raises(DataError, match="none are given"):
        model.encode(scenes)
    make_fused(fusion, evidence={part: False}).encode(scenes, replace(make_evidence(), **{part: None}))


@pytest.mark.parametrize("part", ["motion", "semantics", "graph"])
def test_a_captioner_is_not_built_for_what_there_is_not(part):
    missing = replace(WIDTHS, nodes=None) if part == "graph" else replace(WIDTHS, **{part: None})
    with pytest.raises(SettingsError, match=r"fusion: paper asks for .*no such data") as caught:
        SageCC(fused_settings("paper"), VOCABULARY, SCENE, missing)
    assert caught.value.where == f"evidence.{part}"
    SageCC(fused_settings("paper", evidence={part: False}), VOCABULARY, SCENE, missing)
    with pytest.raises(SettingsError):
        SageCC(fused_settings("release"), VOCABULARY, SCENE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion": make_regions((1, 1, 1), 4, 0)}, "takes descriptors of width 5, given descriptors of width 4"),
        ({"semantics": make_regions((1, 1, 1), 5, 0)}, "takes embeddings of width 7, given embeddings of width 5"),
        (
            {"graph": replace(make_graph(), features=torch.zeros(5, 3))},
            "takes node features of width 6, given node features of width 3",
        ),
        ({"graph": replace(make_graph(), relations=9)}, "takes a graph of 4 relations, given a graph of 9 relations"),
    ],
)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_other_widths_are_refused(scenes, fusion, changes, message):
    with pytest.raises(CheckpointError, match=message):
        make_fused(fusion).encode(scenes, replace(make_evidence(), **changes))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_values_that_are_no_numbers_are_named(scenes, fusion):
    evidence = make_evidence()
    evidence.semantics.features[1, 0, 2] = torch.nan
    with pytest.raises(DataError, match="region 0 of pair 1 of the batch has features that are not finite") as caught:
        make_fused(fusion).encode(scenes, evidence)
    assert caught.value.where == "evidence.semantics.features"
    make_fused(fusion, evidence={"semantics": False}).encode(scenes, evidence)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_regions_of_other_pairs_are_refused(scenes, fusion):
    with pytest.raises(DataError, match="regions of 3 pairs cannot go with scenes of 2"):
        make_fused(fusion).encode(scenes[:2], make_evidence())


def test_fields_that_the_settings_use_have_to_be_there(scenes):
    evidence = make_evidence()
    bare = replace(evidence, motion=without(evidence.motion, "centroids"))
    with pytest.raises(DataError, match="motion regions come without centroids"):
        make_fused("paper").encode(scenes, bare)
    make_fused("release").encode(scenes, bare)

    for part in ("motion", "semantics"):
        bare = replace(evidence, **{part: without(getattr(evidence, part), "dates")})
        with pytest.raises(DataError, match="regions come without dates"):
            make_fused("paper").encode(scenes, bare)
        undated = make_fused("paper", evidence={"date_embedding": False})
        undated.encode(scenes, bare)
        with pytest.raises(DataError, match="regions come without dates") as caught:
            make_fused("paper", evidence={"date_embedding": False}, paper={"dates_apart": True}).encode(scenes, bare)
        assert "paper.dates_apart" in caught.value.fix

    bare = replace(evidence, semantics=without(evidence.semantics, "scores"))
    with pytest.raises(DataError, match="semantic regions come without scores"):
        make_fused("paper", evidence={"top_q": 2}).encode(scenes, bare)
    make_fused("paper").encode(scenes, bare)


def test_a_captioner_without_fusion_looks_at_no_evidence(model, scenes):
    odd = Evidence(make_regions((1,), 2, 0))
    assert torch.equal(model.encode(scenes, odd).tokens, model.encode(scenes).tokens)
    assert model.fusion is None
    assert EvidenceWidths() == model.widths
