"""What link prediction is measured against: frequencies, counted and learned, and DistMult without messages."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.graphs.pretraining import Pretrained, pretrain
from pipeline.graphs.ranking import Ranking, rank
from pipeline.graphs.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.graphs.splits import split_triples
from pipeline.graphs.tensors import GraphTensors


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
