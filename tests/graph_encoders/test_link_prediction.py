from __future__ import annotations

import math

import pytest
import torch

from pipeline.graph_encoders.encoders import GraphEncoder
from pipeline.graph_encoders.link_prediction import (
    LinkPredictor,
    Popularity,
    frequency_ranking,
    popularity_alone,
    pretrain,
    rank_triples,
    split_triples,
    without_messages,
)
from pipeline.graph_encoders.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.graph_encoders.tensors import GraphTensors

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
    scores = popularity(make(stated), tails)
    for relation in range(2):
        for node in range(3):
            edges = [
                (kind, int(stated[row]) if stated is not None else 1)
                for row, (head, kind, tail) in enumerate(TRIPLES.tolist())
                if (tail if tails else head) == node
            ]
            here = [times for kind, times in edges if kind == relation]
            sums = [len(here), len(edges), sum(map(math.log1p, here)), sum(math.log1p(times) for _, times in edges)]
            assert scores[relation, node].item() == pytest.approx(
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


def test_popularity_without_edges_is_zero() -> None:
    assert not Popularity()(make().with_edges(slice(0)), True).any()


def test_popularity_alone_scores_nodes_by_their_counts() -> None:
    # Node 0 is the tail of most triples, nodes 1 to 39 are heads of two each.
    rng = torch.Generator().manual_seed(0)
    heads = torch.arange(1, 40).repeat(2)
    tails = torch.where(torch.rand(78, generator=rng) < 0.8, 0, torch.randint(1, 40, (78,), generator=rng))
    graph = GraphTensors(torch.zeros(40, 1), torch.stack([heads, tails]), torch.arange(2).repeat(39), 2)
    pretrained = popularity_alone(graph, PretrainingSettings(epochs=20, validate_every=10))
    scores = pretrained.predictor(graph)(torch.tensor([[5, 0, 0]]), True)[0]
    assert scores.argmax() == 0
    counts = torch.bincount(tails[graph.edge_type == 0], minlength=40) * 100 + torch.bincount(tails, minlength=40)
    for value in counts.unique():
        assert torch.allclose(scores[counts == value], scores[counts == value][0])


def test_popularity_can_be_left_out() -> None:
    settings = PretrainingSettings(epochs=1, popularity=False)
    assert pretrain(make(), GraphEncoderSettings(widths=(4,)), settings).predictor.popularity is None


SMALL = GraphEncoderSettings(widths=(16,))
SHORT = PretrainingSettings(epochs=30, validate_every=10)


def blocks(size: int = 8) -> GraphTensors:
    """Two kinds of nodes, three relations: 0 within the first kind, 1 from it to the second, 2 within the second."""
    rng = torch.Generator().manual_seed(0)
    triples = [
        (head, relation, tail)
        for relation, (heads, tails) in enumerate(((0, 0), (0, size), (size, size)))
        for head in range(heads, heads + size)
        for tail in range(tails, tails + size)
        if head != tail and torch.rand(1, generator=rng) < 0.8
    ]
    table = torch.tensor(triples)
    return GraphTensors(torch.randn(2 * size, 6, generator=rng), table[:, [0, 2]].T, table[:, 1], 3)


def test_ranks_leave_out_other_true_triples() -> None:
    true_triples = torch.tensor([[0, 0, 1], [0, 0, 2]])
    scores = torch.tensor([[0.1, 0.5, 0.9, 0.7]])

    def score(triples: torch.Tensor, tails: bool) -> torch.Tensor:
        return scores.expand(len(triples), 4)

    ranking = rank_triples(score, true_triples[:1], true_triples, 4)
    # Tail 1 has 0.5: node 3 is better, node 2 is true as well. Head 0 has the least score: rank 4.
    assert ranking.mrr == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert (ranking.hits_1, ranking.hits_3, ranking.hits_10, ranking.ranks) == (0.0, 0.5, 1.0, 2)


def test_a_constant_scorer_gets_the_mean_rank() -> None:
    true_triples = torch.tensor([[0, 0, 1]])
    ranking = rank_triples(lambda triples, tails: torch.zeros(len(triples), 5), true_triples, true_triples, 5)
    assert ranking.mrr == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no triples"):
        rank_triples(lambda triples, tails: torch.zeros(0, 5), true_triples[:0], true_triples, 5)


def test_filtering_against_a_plain_loop() -> None:
    graph = blocks()
    scores = torch.rand(2, len(graph.triples), graph.nodes, generator=torch.Generator().manual_seed(1))
    expected = []
    true_triples = {tuple(triple) for triple in graph.triples.tolist()}
    for side in (0, 1):
        for number, (head, relation, tail) in enumerate(graph.triples.tolist()):
            own = scores[side, number, (tail, head)[side]]
            rivals = [
                node
                for node in range(graph.nodes)
                if ((head, relation, node) if side == 0 else (node, relation, tail)) not in true_triples
            ]
            expected.append(1 / (1 + sum(float(scores[side, number, node] > own) for node in rivals)))
    ranking = rank_triples(lambda _, tails: scores[0 if tails else 1], graph.triples, graph.triples, graph.nodes)
    assert ranking.mrr == pytest.approx(sum(expected) / len(expected))


def test_every_node_and_relation_keeps_a_training_triple() -> None:
    triples = torch.cat([blocks().triples, torch.tensor([[0, 3, 15], [1, 4, 16]])])
    split = split_triples(triples, 0.2, 0.2, seed=3)
    assert len(split.val) == len(split.test) == round(0.2 * len(triples))
    assert sorted(torch.cat(split).tolist()) == list(range(len(triples)))
    train = triples[split.train]
    assert set(train[:, 1].tolist()) == {0, 1, 2, 3, 4}
    assert set(train[:, [0, 2]].flatten().tolist()) == set(triples[:, [0, 2]].flatten().tolist())
    assert all(torch.equal(a, b) for a, b in zip(split, split_triples(triples, 0.2, 0.2, seed=3), strict=True))


def test_pretraining_learns_and_is_reproducible() -> None:
    graph, settings = blocks(), SHORT.model_copy(update={"learning_rate": 0.03, "popularity": False})
    one, two = (pretrain(graph, SMALL, settings) for _ in range(2))
    untrained = pretrain(graph, SMALL, settings.model_copy(update={"epochs": 0}))
    assert one.test is not None
    assert untrained.test is not None
    assert one.test.mrr > untrained.test.mrr + 0.1
    assert one.history == two.history
    for name, tensor in one.encoder.state_dict().items():
        assert torch.equal(tensor, two.encoder.state_dict()[name]), name
    assert one.history[0]["loss"] > one.history[-1]["loss"]


def test_pretraining_leaves_torchs_state_alone() -> None:
    torch.manual_seed(1)
    threads, expected = torch.get_num_threads(), torch.get_rng_state()
    pretrain(blocks(), SMALL, SHORT.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.get_rng_state(), expected)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("nodes", "triples"),
    [(1, []), (1, [[0, 0, 0]]), (3, [[0, 0, 1]]), (3, [[0, 0, 1], [0, 0, 2], [1, 1, 2]])],
    ids=["no edge", "one node", "one edge", "a relation that occurs once"],
)
def test_tiny_graphs_are_pretrained_without_ranking(nodes: int, triples: list[list[int]]) -> None:
    table = torch.tensor(triples, dtype=torch.long).reshape(-1, 3)
    graph = GraphTensors(torch.eye(nodes), table[:, [0, 2]].T, table[:, 1], 2)
    pretrained = pretrain(graph, SMALL, SHORT.model_copy(update={"epochs": 2}))
    assert (pretrained.val, pretrained.test) == (None, None)
    assert torch.isfinite(pretrained.encoder(graph)).all()
    assert frequency_ranking(graph, SHORT) is None


def test_baselines_measure_on_the_same_triples() -> None:
    graph = blocks()
    frequency, free = frequency_ranking(graph, SHORT), without_messages(graph, SMALL, SHORT)
    assert frequency is not None
    assert free.test is not None
    assert frequency.ranks == free.test.ranks == 2 * len(free.split.test)
    assert 0.15 < frequency.mrr < 1
