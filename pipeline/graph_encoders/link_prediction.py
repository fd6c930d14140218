"""Pretraining of the graph encoder by link prediction: split, DistMult, filtered ranking, and baselines.

In the order of the data: triples are held out, a predictor scores all nodes as a triple's head or tail, the true node
is ranked, `pretrain` puts these together. At the end stand the baselines: counted and learned frequencies, and DistMult
without messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.graph_encoders.encoders import GraphEncoder
from pipeline.graph_encoders.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.graph_encoders.tensors import GraphTensors
from pipeline.runtime import one_thread


class TripleSplit(NamedTuple):
    """Positions (·,) of the training, validation and test triples; each in rising order."""

    train: Tensor
    val: Tensor
    test: Tensor


def split_triples(triples: Tensor, val_share: float, test_share: float, seed: int) -> TripleSplit:
    """Draw triples to hold out; every node and relation keeps at least one training triple.

    A small graph therefore holds out fewer triples than its shares say, or none.
    """
    order = torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed))
    val_count, test_count = (round(len(triples) * share) for share in (val_share, test_share))
    nodes = torch.bincount(triples[:, [0, 2]].flatten())
    relations = torch.bincount(triples[:, 1])
    train: list[int] = []
    val: list[int] = []
    test: list[int] = []
    for position in order.tolist():
        head, relation, tail = triples[position].tolist()
        uses = 2 if head == tail else 1
        spare = nodes[head] > uses and nodes[tail] > uses and relations[relation] > 1
        if not spare or (len(val) >= val_count and len(test) >= test_count):
            train.append(position)
            continue
        (val if len(val) < val_count else test).append(position)
        nodes[head] -= 1
        nodes[tail] -= 1
        relations[relation] -= 1
    return TripleSplit(*(torch.tensor(sorted(positions), dtype=torch.long) for positions in (train, val, test)))


Scorer = Callable[[Tensor, bool], Tensor]
"""Map triples (E, 3) and whether tails (else heads) are predicted to the scores (E, N) of all nodes."""


@dataclass(frozen=True)
class Ranking:
    """Filtered link prediction over heads and tails.

    Attributes:
        mrr: Mean of one over the rank.
        hits_1: Share of ranks of 1.
        hits_3: Share of ranks up to 3.
        hits_10: Share of ranks up to 10.
        ranks: Number of ranks: two per triple.
    """

    mrr: float
    hits_1: float
    hits_3: float
    hits_10: float
    ranks: int

    def values(self) -> Mapping[str, float]:
        """Return all numbers by name."""
        return asdict(self)


def rank_triples(scorer: Scorer, triples: Tensor, true_triples: Tensor, nodes: int) -> Ranking:
    """Rank the tail and the head of every triple among all nodes, other true ones left out.

    Equal scores share their mean rank, so that a constant scorer gains nothing. The filtered setting is that of
    Bordes et al., "Translating embeddings for modeling multi-relational data" (2013).

    Args:
        scorer: Scores all nodes as the tail, or as the head.
        triples: (E, 3) to rank; at least one.
        true_triples: (K, 3), those of `triples` among them.
        nodes: N.

    Raises:
        ValueError: There is nothing to rank.
    """
    if not len(triples):
        raise ValueError("there are no triples to rank")
    ranks = torch.cat([_ranks(scorer, triples, true_triples, nodes, tails) for tails in (True, False)])
    first, third, tenth = (float((ranks <= most).double().mean()) for most in (1, 3, 10))
    return Ranking(float((1 / ranks).mean()), first, third, tenth, len(ranks))


def true_nodes(triples: Tensor, true_triples: Tensor, nodes: int, tails: bool) -> Tensor:
    """Return (E, N) bool: the nodes that make each triple true as its tail, or as its head."""
    given, predicted = (0, 2) if tails else (2, 0)
    relations = int(max(true_triples[:, 1].max(), triples[:, 1].max())) + 1
    keys = true_triples[:, given] * relations + true_triples[:, 1]
    queries = triples[:, given] * relations + triples[:, 1]
    same = (queries[:, None] == keys[None, :]).double()
    one_hot = torch.zeros(len(true_triples), nodes, dtype=torch.double)
    one_hot[torch.arange(len(true_triples)), true_triples[:, predicted]] = 1
    return same @ one_hot > 0


def _ranks(scorer: Scorer, triples: Tensor, true_triples: Tensor, nodes: int, tails: bool) -> Tensor:
    scores = scorer(triples, tails).double()
    truth = triples[:, 2 if tails else 0, None]
    own = scores.gather(1, truth)
    rivals = ~true_nodes(triples, true_triples, nodes, tails)
    better = ((scores > own) & rivals).sum(1)
    equal = ((scores == own) & rivals).sum(1)
    return 1 + better + equal / 2


_COUNTS = 4


class Popularity(nn.Module):
    """Score Σ_k w_k log(1 + n_k) of a node as the tail, or as the head, of a relation.

    n_1 is the number of edges of the relation that end, or begin, at the node, n_2 that of any relation's edges; n_3
    and n_4 are the same sums of log(1 + times stated). Equation (15) averages over neighbours and so loses their
    number, which DistMult can learn only node by node.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((2, _COUNTS), 0.5))

    def forward(self, visible: GraphTensors, tails: bool) -> Tensor:
        """Return the scores (R, N) of all nodes as each relation's tail, or as its head, given the visible edges."""
        ends = visible.edge_index[1 if tails else 0]
        cells = visible.edge_type * visible.nodes + ends
        ones = torch.ones(len(cells))
        stated = ones if visible.stated is None else visible.stated.float()
        counts = []
        for values in (ones, stated.log1p()):
            table = torch.zeros(visible.relations * visible.nodes).index_add(0, cells, values)
            table = table.view(visible.relations, visible.nodes)
            counts += [table, table.sum(0).expand_as(table)]
        return torch.stack(counts, dim=-1).log1p() @ self.weights[0 if tails else 1]


class LinkPredictor(nn.Module):
    """Encoder under DistMult: the score of t as the tail of h and r is Σ_k (e_hk R_rk + b_rk) e_tk.

    Yang et al., "Embedding entities and relations for learning and inference in knowledge bases" (2015), on states of
    length 1, with a vector b_r per relation that does not depend on the head. Heads are predicted with an R and b of
    their own.

    Args:
        encoder: Gives the nodes' states.
        relations: Number of relations.
        dropout: Dropout of the query vector.
        popularity: Whether `Popularity` is added to the scores.
    """

    def __init__(
        self, encoder: GraphEncoder, relations: int, dropout: float = 0.0, *, popularity: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = dropout
        self.relation = nn.Parameter(torch.empty(2, max(relations, 1), encoder.width))
        self.offset = nn.Parameter(torch.zeros(2, max(relations, 1), encoder.width))
        nn.init.normal_(self.relation, std=encoder.width**-0.5)
        self.popularity = Popularity() if popularity else None

    def forward(self, visible: GraphTensors) -> Scorer:
        """Return the scorer given the visible edges: messages flow over these, and only these are counted."""
        # Without normalisation, states with many messages are long, and the first scores so far apart that pretraining
        # only unlearns them.
        states = F.normalize(self.encoder(visible))
        popular = None if self.popularity is None else [self.popularity(visible, tails) for tails in (True, False)]

        def score(triples: Tensor, tails: bool) -> Tensor:
            side, given = (0, triples[:, 0]) if tails else (1, triples[:, 2])
            relation = triples[:, 1]
            query = states[given] * self.relation[side, relation] + self.offset[side, relation]
            scores = F.dropout(query, self.dropout, self.training) @ states.T
            return scores if popular is None else scores + popular[side][relation]

        return score


@dataclass(frozen=True)
class Pretrained:
    """Pretrained encoder.

    Attributes:
        encoder: In evaluation mode, with the weights of the best validation.
        predictor: The encoder with DistMult on its states.
        split: The triples that were held out.
        val: Best validation, None where no triple could be held out.
        test: The same weights on the test triples, None where there are none.
        epoch: Epoch of these weights.
        history: Loss and validation of every validated epoch.
    """

    encoder: GraphEncoder
    predictor: LinkPredictor
    split: TripleSplit
    val: Ranking | None
    test: Ranking | None
    epoch: int
    history: list[dict[str, Any]]

    def values(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return {
            "triples": dict(zip(self.split._fields, map(len, self.split), strict=True)),
            "epoch": self.epoch,
            "val": None if self.val is None else self.val.values(),
            "test": None if self.test is None else self.test.values(),
            "history": self.history,
        }


def pretrain(
    graph: GraphTensors,
    encoder: GraphEncoderSettings,
    settings: PretrainingSettings,
    *,
    progress: Callable[[int], None] | None = None,
) -> Pretrained:
    """Pretrain a graph encoder on the CPU, on one thread: the same inputs give the same bytes anywhere.

    Each epoch hides a random share of the training triples as edges and predicts their tails and heads among all nodes
    (softmax over nodes, other true ones left out), so no predicted triple is visible as an edge.

    Args:
        graph: Nodes, features, triples.
        encoder: The encoder.
        settings: Duration, rates, shares.
        progress: Called after each epoch.
    """
    split = split_triples(graph.triples, settings.val_share, settings.test_share, settings.seed)
    seen = graph.with_edges(split.train)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        graph_encoder = GraphEncoder(encoder, graph.features.shape[1], graph.relations)
        model = LinkPredictor(graph_encoder, graph.relations, settings.dropout, popularity=settings.popularity)
        optimizer = _optimizer(model, settings)
        others = [_other_true_nodes(seen, tails) for tails in (True, False)]
        best, best_epoch = {name: tensor.clone() for name, tensor in model.state_dict().items()}, 0
        best_val: Ranking | None = None
        history: list[dict[str, Any]] = []
        for epoch in range(1, settings.epochs + 1 if len(split.train) else 1):
            loss = _step(model, seen, others, settings, optimizer)
            last = epoch == settings.epochs
            if epoch % settings.validate_every == 0 or last:
                val = evaluate(model, seen, graph.triples[split.val], graph.triples)
                history.append({"epoch": epoch, "loss": loss, "mrr": None if val is None else val.mrr})
                if val is None or best_val is None or val.mrr > best_val.mrr:
                    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                    best_val, best_epoch = val, epoch
            if progress is not None:
                progress(1)
        model.load_state_dict(best)
        model.eval()
        test = evaluate(model, seen, graph.triples[split.test], graph.triples)
    return Pretrained(model.encoder, model, split, best_val, test, best_epoch, history)


def evaluate(model: LinkPredictor, seen: GraphTensors, triples: Tensor, true_triples: Tensor) -> Ranking | None:
    """Rank `triples` given the edges of `seen` alone; None where there are none to rank."""
    if not len(triples):
        return None
    model.eval()
    with torch.inference_mode():
        return rank_triples(model(seen), triples, true_triples, seen.nodes)


def _optimizer(model: LinkPredictor, settings: PretrainingSettings) -> torch.optim.Optimizer:
    popularity = [] if model.popularity is None else list(model.popularity.parameters())
    others = [parameter for parameter in model.parameters() if not any(parameter is other for other in popularity)]
    groups: list[dict[str, Any]] = [{"params": others}]
    if popularity:
        # Eight numbers that must converge within a hundred of Adam's steps and need no regularisation.
        groups.append({"params": popularity, "lr": 10 * settings.learning_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _other_true_nodes(graph: GraphTensors, tails: bool) -> Tensor:
    """Return (E, N) bool: which nodes other than its own make a true triple of each edge."""
    triples = graph.triples
    if not len(triples):
        return torch.zeros(0, graph.nodes, dtype=torch.bool)
    others = true_nodes(triples, triples, graph.nodes, tails)
    others[torch.arange(len(triples)), triples[:, 2 if tails else 0]] = False
    return others


def _step(
    model: LinkPredictor,
    graph: GraphTensors,
    others: Sequence[Tensor],
    settings: PretrainingSettings,
    optimizer: torch.optim.Optimizer,
) -> float:
    model.train()
    hidden = torch.rand(len(graph.triples)) < settings.hidden_edges
    if bool(hidden.any()):
        score = model(graph.with_edges(~hidden))
    else:
        hidden, score = ~hidden, model(graph)
    targets = graph.triples[hidden]
    losses = [
        _cross_entropy(score(targets, tails), targets[:, 2 if tails else 0], true[hidden], settings.label_smoothing)
        for tails, true in zip((True, False), others, strict=True)
    ]
    loss = torch.stack(losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _cross_entropy(scores: Tensor, truth: Tensor, others: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy over the true node and the false ones, with label smoothing over the latter."""
    logs = F.log_softmax(scores.masked_fill(others, float("-inf")), dim=1)
    own = logs.gather(1, truth[:, None])[:, 0]
    rest = logs.masked_fill(others, 0.0).sum(1) / (~others).sum(1)
    return -((1 - smoothing) * own + smoothing * rest).mean()


def frequency_ranking(graph: GraphTensors, settings: PretrainingSettings) -> Ranking | None:
    """Rank the test triples by how often a node is the relation's tail, or head, in the training triples.

    Ties are broken by how often it is the tail, or head, of any relation. None where no triple could be held out.
    """
    split = split_triples(graph.triples, settings.val_share, settings.test_share, settings.seed)
    if not len(split.test):
        return None
    seen = graph.triples[split.train]

    def score(triples: Tensor, tails: bool) -> Tensor:
        ends = seen[:, 2 if tails else 0]
        table = torch.zeros(graph.relations, graph.nodes, dtype=torch.double)
        table.index_put_((seen[:, 1], ends), torch.ones(len(ends), dtype=torch.double), accumulate=True)
        anywhere = table.sum(0)
        return table[triples[:, 1]] + anywhere / (2 * anywhere.max())

    return rank_triples(score, graph.triples[split.test], graph.triples, graph.nodes)


def popularity_alone(graph: GraphTensors, settings: PretrainingSettings) -> Pretrained:
    """Pretrain `Popularity` alone: every node has the same state."""
    same = replace(graph, features=torch.zeros(graph.nodes, 1))
    constant = GraphEncoderSettings(kind="none", widths=(1,), inverse=False)
    return pretrain(same, constant, settings.model_copy(update={"popularity": True}))


def without_messages(graph: GraphTensors, encoder: GraphEncoderSettings, settings: PretrainingSettings) -> Pretrained:
    """Pretrain DistMult with a free vector per node, as wide as the encoder's states: no features, no messages."""
    free = replace(graph, features=torch.eye(graph.nodes))
    alone = encoder.model_copy(update={"kind": "none", "widths": encoder.widths[-1:], "inverse": False})
    return pretrain(free, alone, settings)
