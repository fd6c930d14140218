"""What link prediction is measured against: frequencies, counted and learned, and DistMult without messages.

Which triples are held out of the pretraining.

Link prediction measured: the rank of the true node among all, other true ones left out.

How often a node stands in a place, as a score: what the number of messages says and their mean forgets.

Pretraining by link prediction: the encoder's states must tell which triples are true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.graph_encoders.encoders import GraphEncoder, GraphTensors
from pipeline.graph_encoders.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.runtime import one_thread


class Split(NamedTuple):
    """Positions (·,) of the triples to learn from, to choose the epoch by, and to measure on; each rising."""

    train: Tensor
    val: Tensor
    test: Tensor


def split_triples(triples: Tensor, val_share: float, test_share: float, seed: int) -> Split:
    """Draw triples to hold out; every node and relation keeps at least one triple to learn from.

    So a relation that occurs once, or a node with one edge, is never held out, and a small graph holds out fewer
    triples than asked, or none.
    """
    order = torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed))
    wanted = [round(len(triples) * share) for share in (val_share, test_share)]
    nodes = torch.bincount(triples[:, [0, 2]].flatten())
    relations = torch.bincount(triples[:, 1])
    parts: list[list[int]] = [[], [], []]
    for position in order.tolist():
        head, relation, tail = triples[position].tolist()
        uses = 2 if head == tail else 1
        spare = nodes[head] > uses and nodes[tail] > uses and relations[relation] > 1
        part = 1 if len(parts[1]) < wanted[0] else 2 if len(parts[2]) < wanted[1] else 0
        if not spare or part == 0:
            parts[0].append(position)
            continue
        parts[part].append(position)
        nodes[head] -= 1
        nodes[tail] -= 1
        relations[relation] -= 1
    return Split(*(torch.tensor(sorted(part), dtype=torch.long) for part in parts))


Scorer = Callable[[Tensor, bool], Tensor]
"""From triples (E, 3) and whether tails are sought (else heads) to the scores (E, N) of all nodes in their place."""


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


def rank(scorer: Scorer, triples: Tensor, known: Tensor, nodes: int) -> Ranking:
    """Rank the tail and the head of every triple among all nodes, without the others that are true as well.

    Equal scores share the mean of their ranks, so that a constant scorer gains nothing. The filtered setting is that of
    Bordes et al., "Translating embeddings for modeling multi-relational data" (2013).

    Args:
        scorer: Scores all nodes in the place of the tail, or of the head.
        triples: (E, 3) to rank; at least one.
        known: (K, 3) all true triples, those of `triples` among them.
        nodes: N.

    Raises:
        ValueError: There is nothing to rank.
    """
    if not len(triples):
        raise ValueError("there are no triples to rank")
    ranks = torch.cat([_ranks(scorer, triples, known, nodes, tails) for tails in (True, False)])
    first, third, tenth = (float((ranks <= most).double().mean()) for most in (1, 3, 10))
    return Ranking(float((1 / ranks).mean()), first, third, tenth, len(ranks))


def true_places(triples: Tensor, known: Tensor, nodes: int, tails: bool) -> Tensor:
    """Return (E, N) bool: which nodes make a known triple in the place of the tail, or of the head."""
    given, sought = (0, 2) if tails else (2, 0)
    keys = known[:, given] * (int(max(known[:, 1].max(), triples[:, 1].max())) + 1) + known[:, 1]
    wanted = triples[:, given] * (int(max(known[:, 1].max(), triples[:, 1].max())) + 1) + triples[:, 1]
    same = (wanted[:, None] == keys[None, :]).double()
    places = torch.zeros(len(known), nodes, dtype=torch.double)
    places[torch.arange(len(known)), known[:, sought]] = 1
    return same @ places > 0


def _ranks(scorer: Scorer, triples: Tensor, known: Tensor, nodes: int, tails: bool) -> Tensor:
    scores = scorer(triples, tails).double()
    truth = triples[:, 2 if tails else 0, None]
    own = scores.gather(1, truth)
    rivals = ~true_places(triples, known, nodes, tails)
    better = ((scores > own) & rivals).sum(1)
    equal = ((scores == own) & rivals).sum(1)
    return 1 + better + equal / 2


_COUNTS = 4


class Popularity(nn.Module):
    """The score Σ_k w_k log(1 + n_k) of a node as the tail, or as the head, of a relation.

    n_1 is the number of edges of the relation that end, or begin, at the node, n_2 that of any relation's edges; n_3
    and n_4 are the same sums of log(1 + times stated). Equation (15) takes means over neighbours, which do not tell one
    neighbour from twenty, and DistMult can learn such counts only node by node.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((2, _COUNTS), 0.5))

    def forward(self, visible: GraphTensors, tails: bool) -> Tensor:
        """Return the scores (R, N) of all nodes in the place of the tail, or of the head, given the visible edges."""
        ends = visible.edge_index[1 if tails else 0]
        places = visible.edge_type * visible.nodes + ends
        ones = torch.ones(len(places))
        stated = ones if visible.stated is None else visible.stated.float()
        counts = []
        for values in (ones, stated.log1p()):
            table = torch.zeros(visible.relations * visible.nodes).index_add(0, places, values)
            table = table.view(visible.relations, visible.nodes)
            counts += [table, table.sum(0).expand_as(table)]
        return torch.stack(counts, dim=-1).log1p() @ self.weights[0 if tails else 1]


class LinkPredictor(nn.Module):
    """An encoder under DistMult: the score of t as the tail of h and r is Σ_k (e_hk R_rk + b_rk) e_tk.

    Yang et al., "Embedding entities and relations for learning and inference in knowledge bases" (2015), on states of
    length 1, with the vectors b_r added, which say what a relation's tails look like whatever the head. For heads R and
    b are others, so that asking for a head is another question than asking for a tail.

    Args:
        encoder: Gives the nodes' states.
        relations: Number of relations.
        dropout: Of what is compared with the candidates' states.
        popularity: Whether scores add how often a node stands in the place, as `Popularity` learns it.
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
        """Return the scores given the visible edges: messages flow over them, and they alone are counted."""
        # Without this, states that gather many messages are long, and the first scores so far apart that pretraining
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
    """A pretrained encoder.

    Attributes:
        encoder: In evaluation mode, with the weights of the best validation.
        predictor: The encoder with what predicts links from its states.
        split: Which triples were held out.
        val: Best validation, None where no triple could be held out.
        test: The same weights on the test triples, None where there are none.
        epoch: Passes after which the weights were kept.
        history: Loss and validation of every validated epoch.
    """

    encoder: GraphEncoder
    predictor: LinkPredictor
    split: Split
    val: Ranking | None
    test: Ranking | None
    epoch: int
    history: list[dict[str, Any]]

    def values(self) -> dict[str, Any]:
        """Return what was measured, as JSON values."""
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

    Each pass hides a random share of the training triples as edges and asks for their tails and heads among all nodes
    (softmax over nodes, other true ones left out). What is predicted is thus never read off an edge.

    Args:
        graph: Nodes, features, triples.
        encoder: The encoder.
        settings: Duration, rates, shares.
        progress: Told after each pass.
    """
    split = split_triples(graph.triples, settings.val_share, settings.test_share, settings.seed)
    seen = graph.with_edges(split.train)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        states = GraphEncoder(encoder, graph.features.shape[1], graph.relations)
        model = LinkPredictor(states, graph.relations, settings.dropout, popularity=settings.popularity)
        optimizer = _optimizer(model, settings)
        others = [_other_places(seen, tails) for tails in (True, False)]
        best, epoch_kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}, 0
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
                    best_val, epoch_kept = val, epoch
            if progress is not None:
                progress(1)
        model.load_state_dict(best)
        model.eval()
        test = evaluate(model, seen, graph.triples[split.test], graph.triples)
    return Pretrained(model.encoder, model, split, best_val, test, epoch_kept, history)


def evaluate(model: LinkPredictor, seen: GraphTensors, triples: Tensor, known: Tensor) -> Ranking | None:
    """Rank `triples` given the edges of `seen` alone; None where there are none to rank."""
    if not len(triples):
        return None
    model.eval()
    with torch.inference_mode():
        return rank(model(seen), triples, known, seen.nodes)


def _optimizer(model: LinkPredictor, settings: PretrainingSettings) -> torch.optim.Optimizer:
    counted = [] if model.popularity is None else list(model.popularity.parameters())
    rest = [parameter for parameter in model.parameters() if not any(parameter is other for other in counted)]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if counted:
        # A handful of numbers that a hundred of Adam's steps must bring to their place, and that need no restraint.
        groups.append({"params": counted, "lr": 10 * settings.learning_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _other_places(graph: GraphTensors, tails: bool) -> Tensor:
    """Return (E, N) bool: which nodes other than its own make a true triple of each edge."""
    triples = graph.triples
    if not len(triples):
        return torch.zeros(0, graph.nodes, dtype=torch.bool)
    places = true_places(triples, triples, graph.nodes, tails)
    places[torch.arange(len(triples)), triples[:, 2 if tails else 0]] = False
    return places


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
    asked = graph.triples[hidden]
    losses = [
        _cross_entropy(score(asked, tails), asked[:, 2 if tails else 0], true[hidden], settings.label_smoothing)
        for tails, true in zip((True, False), others, strict=True)
    ]
    loss = torch.stack(losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _cross_entropy(scores: Tensor, truth: Tensor, others: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy among the truth and the nodes that are false, with label smoothing over those."""
    logs = F.log_softmax(scores.masked_fill(others, float("-inf")), dim=1)
    own = logs.gather(1, truth[:, None])[:, 0]
    rest = logs.masked_fill(others, 0.0).sum(1) / (~others).sum(1)
    return -((1 - smoothing) * own + smoothing * rest).mean()


def frequency_ranking(graph: GraphTensors, settings: PretrainingSettings) -> Ranking | None:
    """Rank the test triples by how often a node stands in the sought place of the relation in the training triples.

    Nodes that are equally frequent there are told apart by their frequency in that place of any relation. None where
    no triple could be held out.
    """
    split = split_triples(graph.triples, settings.val_share, settings.test_share, settings.seed)
    if not len(split.test):
        return None
    seen = graph.triples[split.train]

    def score(triples: Tensor, tails: bool) -> Tensor:
        sought = seen[:, 2 if tails else 0]
        table = torch.zeros(graph.relations, graph.nodes, dtype=torch.double)
        table.index_put_((seen[:, 1], sought), torch.ones(len(sought), dtype=torch.double), accumulate=True)
        anywhere = table.sum(0)
        return table[triples[:, 1]] + anywhere / (2 * anywhere.max())

    return rank(score, graph.triples[split.test], graph.triples, graph.nodes)


def popularity_alone(graph: GraphTensors, settings: PretrainingSettings) -> Pretrained:
    """Pretrain nothing but `Popularity`: every node has the same state."""
    same = replace(graph, features=torch.zeros(graph.nodes, 1))
    constant = GraphEncoderSettings(kind="none", widths=(1,), inverse=False)
    return pretrain(same, constant, settings.model_copy(update={"popularity": True}))


def without_messages(graph: GraphTensors, encoder: GraphEncoderSettings, settings: PretrainingSettings) -> Pretrained:
    """Pretrain DistMult with a free vector per node of the encoder's last width: no features, no messages."""
    free = replace(graph, features=torch.eye(graph.nodes))
    alone = encoder.model_copy(update={"kind": "none", "widths": encoder.widths[-1:], "inverse": False})
    return pretrain(free, alone, settings)
