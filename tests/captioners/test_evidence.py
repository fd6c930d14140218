from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.captioners.evidence import Evidence, EvidenceWidths
from pipeline.errors import DataError
from tests.captioners.fused import WIDTHS, make_evidence, make_graph, make_regions


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
