from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.captioners.inputs import Evidence, EvidenceWidths, Regions
from pipeline.captioners.sage_cc import SageCC
from pipeline.errors import CheckpointError, DataError, SettingsError
from tests.captioners.fused import (
    WIDTHS,
    fused_settings,
    make_evidence,
    make_fused,
    make_graph,
    make_regions,
    padded_further,
)
from tests.captioners.small import SCENE, VOCABULARY


def test_padding_keeps_every_region_in_its_place():
    rows = [torch.randn(count, 3) for count in (2, 0, 4)]
    regions = Regions.padded(rows, dates=[torch.ones(len(x), dtype=torch.long) for x in rows])
    assert regions.features.shape == (3, 4, 3)
    assert regions.mask.sum(1).tolist() == [2, 0, 4]
    for pair, expected in enumerate(rows):
        assert torch.equal(regions.features[pair][regions.mask[pair]], expected)
        assert regions.dates[pair][regions.mask[pair]].tolist() == [1] * len(expected)


def test_no_regions_at_all():
    regions = Regions.padded([torch.zeros(0, 3), torch.zeros(0, 3)])
    assert regions.features.shape == (2, 0, 3)
    assert regions.mask.shape == (2, 0)
    assert regions.select(torch.tensor([1, 1, 0])).features.shape == (3, 0, 3)
    regions.check_values("motion")


@pytest.mark.parametrize("field", ["dates", "centroids", "scores", "rows"])
def test_fields_of_other_regions_are_refused(field):
    features = [torch.zeros(2, 3), torch.zeros(4, 3)]
    with pytest.raises(DataError, match=f"`{field}` are not of as many regions"):
        Regions.padded(features, **{field: [torch.zeros(4, 2), torch.zeros(2, 2)]})
    with pytest.raises(DataError, match=f"`{field}` are not of as many regions"):
        Regions.padded(features, **{field: [torch.zeros(2, 2)]})


def test_select_takes_all_fields_along():
    regions = make_regions((2, 0, 4), 3, seed=0)
    rows = torch.tensor([2, 0, 2])
    chosen = regions.select(rows)
    for name in ("features", "mask", "dates", "centroids", "scores", "rows"):
        assert torch.equal(getattr(chosen, name), getattr(regions, name)[rows])
    assert len(chosen) == 3
    assert torch.equal(chosen.to(torch.device("cpu")).features, chosen.features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(2, 3)}, "features.*must be .pairs, regions, width. of floats, not .2, 3."),
        ({"features": torch.zeros(2, 3, 4, dtype=torch.long)}, "of int64"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask.*.2, 3. of booleans, not .2, 4."),
        ({"mask": torch.ones(2, 3)}, "mask.*not .2, 3. of float32"),
        ({"dates": torch.zeros(2, 3)}, "dates.*of int64, not"),
        ({"centroids": torch.zeros(2, 3)}, "centroids.*.2, 3, 2. of floats"),
        ({"scores": torch.zeros(2, 1)}, "scores.*.2, 3. of floats"),
        ({"rows": torch.zeros(2, 3)}, "rows.*of int64, not"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(changes, message):
    fields = {"features": torch.zeros(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.bool), **changes}
    with pytest.raises(DataError, match=message):
        Regions(**fields)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("features", torch.nan, "region 3 of pair 2 .* features that are not finite numbers"),
        ("centroids", 1.5, "region 3 of pair 2 .* centroids that are not shares of the image"),
        ("centroids", torch.nan, "centroids"),
        ("scores", torch.inf, "scores that are not finite"),
        ("dates", 2, "dates that are not 0 or 1"),
    ],
)
def test_values_that_cannot_be_are_named(field, value, message):
    regions = make_regions((2, 0, 4), 3, seed=0)
    regions.check_values("motion")
    getattr(regions, field)[2, 3] = value
    with pytest.raises(DataError, match=message) as caught:
        regions.check_values("motion")
    assert caught.value.where == f"motion.{field}"
    getattr(regions, field)[2, 3] = 0


def test_padding_may_hold_anything():
    padded_further(make_regions((2, 0, 4), 3, seed=0), 2).check_values("motion")


def test_thinning_leaves_out_about_the_share_and_nothing_else():
    regions = make_regions((40, 0, 60), 3, seed=0)
    torch.manual_seed(0)
    thin = regions.drop_regions(0.25)
    assert 55 < int(thin.mask.sum()) < 95
    assert not (thin.mask & ~regions.mask).any()
    assert torch.equal(thin.features, regions.features)
    assert torch.equal(regions.drop_regions(0.0).mask, regions.mask)


def test_widths_and_pairs_are_told():
    evidence = make_evidence()
    assert evidence.widths == WIDTHS
    assert evidence.pairs == 3
    assert Evidence(semantics=make_regions((1, 0), 4, seed=0)).widths == EvidenceWidths(semantics=4)
    assert Evidence(graph=make_graph()).pairs is None
    assert Evidence().widths == EvidenceWidths()


def test_no_pairs_are_a_number_of_pairs():
    assert make_evidence().select(torch.tensor([], dtype=torch.long)).pairs == 0


def test_select_keeps_the_graph_for_all():
    evidence = make_evidence()
    chosen = evidence.select(torch.tensor([2, 2]))
    assert chosen.graph is evidence.graph
    assert torch.equal(chosen.motion.features, evidence.motion.features[[2, 2]])
    assert torch.equal(chosen.semantics.mask, evidence.semantics.mask[[2, 2]])


def test_regions_of_other_pairs_are_refused():
    with pytest.raises(DataError, match="motion regions of 2 pairs cannot go with semantic regions of 3"):
        Evidence(make_regions((1, 2), 5, seed=0), make_regions((1, 2, 0), 5, seed=0))


def test_moving_moves_everything():
    there = replace(make_evidence(), graph=None).to(torch.device("meta"))
    assert {there.motion.features.device.type, there.semantics.scores.device.type} == {"meta"}
    here = make_evidence()
    again = here.to(torch.device("cpu"))
    assert torch.equal(again.graph.edge_index, here.graph.edge_index)


@pytest.mark.parametrize("part", ["motion", "semantics"])
def test_values_are_checked_before_they_leave_the_cpu(part):
    evidence = make_evidence()
    getattr(evidence, part).features[0, 1, 2] = torch.nan
    with pytest.raises(DataError, match="region 1 of pair 0"):
        evidence.to(torch.device("meta"))


def test_nodes_that_are_no_numbers_are_named():
    evidence = make_evidence()
    features = evidence.graph.features.clone()
    features[3, 0] = torch.inf
    with pytest.raises(DataError, match="node 3 of the graph"):
        Evidence(graph=replace(evidence.graph, features=features)).check_values()


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
def test_regions_of_other_pairs_are_refused_evidence_checks(scenes, fusion):
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
