from __future__ import annotations

import math

import pytest
import torch

from pipeline.graphs.baselines import popularity_alone
from pipeline.graphs.encoders import GraphEncoder
from pipeline.graphs.popularity import Popularity
from pipeline.graphs.pretraining import LinkPredictor, pretrain
from pipeline.graphs.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.graphs.tensors import GraphTensors

TRIPLES = torch.tensor([[0, 0, 1], [2, 0, 1], [0, 1, 1], [1, 1, 2]])
STATED = torch.tensor([5, 1, 2, 7])


def make(stated: torch.Tensor | None = STATED) -> GraphTensors:
    return GraphTensors(torch.eye(3), TRIPLES[:, [0, 2]].T, TRIPLES[:, 1], 2, stated)


@pytest.mark.parametrize("stated", [STATED, None], ids=["counted", "once each"])
@pytest.mark.parametrize("tails", [True, False])
def test_popularity_against_a_plain_loop(stated: torch.Tensor | None, tails: bool) -> None:
    popularity = Popularity()
    with torch.no_grad():
        popularity.weights.copy_(torch.arange(8.0).view(2, 4))
    weights = popularity.weights[0 if tails else 1].tolist()
    found = popularity(make(stated), tails)
    for relation in range(2):
        for node in range(3):
            edges = [
                (kind, int(stated[row]) if stated is not None else 1)
                for row, (head, kind, tail) in enumerate(TRIPLES.tolist())
                if (tail if tails else head) == node
            ]
            here = [times for kind, times in edges if kind == relation]
            sums = [len(here), len(edges), sum(map(math.log1p, here)), sum(math.log1p(times) for _, times in edges)]
            assert found[relation, node].item() == pytest.approx(
                sum(w * math.log1p(n) for w, n in zip(weights, sums, strict=True)), abs=1e-5
            )


def test_scores_add_popularity_of_the_visible_edges_alone() -> None:
    encoder = GraphEncoder(GraphEncoderSettings(widths=(4,)), 3, 2)
    plain, counting = (LinkPredictor(encoder, 2, popularity=popularity).eval() for popularity in (False, True))
    counting.load_state_dict({**counting.state_dict(), **plain.state_dict()})
    for visible in (make(), make().with_edges(slice(1))):
        for tails in (True, False):
            added = counting(visible)(TRIPLES, tails) - plain(visible)(TRIPLES, tails)
            expected = counting.popularity(visible, tails)[TRIPLES[:, 1]]
            assert torch.allclose(added, expected, atol=1e-5)


def test_no_edges_make_nothing_popular() -> None:
    assert not Popularity()(make().with_edges(slice(0)), True).any()


def test_alone_it_knows_nodes_by_their_counts_only() -> None:
    # Node 0 is the tail of most triples, nodes 1 to 39 are heads of two each.
    rng = torch.Generator().manual_seed(0)
    heads = torch.arange(1, 40).repeat(2)
    tails = torch.where(torch.rand(78, generator=rng) < 0.8, 0, torch.randint(1, 40, (78,), generator=rng))
    graph = GraphTensors(torch.zeros(40, 1), torch.stack([heads, tails]), torch.arange(2).repeat(39), 2)
    found = popularity_alone(graph, PretrainingSettings(epochs=20, validate_every=10))
    scores = found.predictor(graph)(torch.tensor([[5, 0, 0]]), True)[0]
    assert scores.argmax() == 0
    counts = torch.bincount(tails[graph.edge_type == 0], minlength=40) * 100 + torch.bincount(tails, minlength=40)
    for value in counts.unique():
        assert torch.allclose(scores[counts == value], scores[counts == value][0])


def test_it_can_be_left_out() -> None:
    settings = PretrainingSettings(epochs=1, popularity=False)
    assert pretrain(make(), GraphEncoderSettings(widths=(4,)), settings).predictor.popularity is None
