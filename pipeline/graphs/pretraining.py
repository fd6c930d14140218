"""Pretraining by link prediction: the encoder's states must tell which triples are true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.graphs.encoders import GraphEncoder
from pipeline.graphs.popularity import Popularity
from pipeline.graphs.ranking import Ranking, Scorer, rank, true_places
from pipeline.graphs.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.graphs.splits import Split, split_triples
from pipeline.graphs.tensors import GraphTensors
from pipeline.threads import one_thread


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
