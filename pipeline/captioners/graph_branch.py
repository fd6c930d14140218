"""The caption graph inside a captioner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from pipeline.captioners.fusion_settings import EvidenceSettings
from pipeline.errors import CheckpointError
from pipeline.graphs.tensors import GraphTensors


class GraphBranch(nn.Module):
    """Graph encoder of equation (15), with the readout of (16) where one vector is asked for.

    Args:
        settings: The encoder, its readout, and whether it is frozen; a readout that has weights learns all the same.
        features: Width g of the node features.
        relations: Number R of relations.
        readout: Whether the graph becomes one vector or keeps a state for each node.
    """

    def __init__(self, settings: EvidenceSettings, features: int, relations: int, *, readout: bool) -> None:
        # PyTorch Geometric takes seconds to import, and most captioners have no graph.
        from pipeline.graphs.encoders import GraphEncoder, Readout

        super().__init__()
        self.frozen = settings.frozen_graph
        self.encoder = GraphEncoder(settings.graph_encoder, features, relations)
        self.encoder.requires_grad_(not self.frozen)
        self.width = self.encoder.width
        self.readout = Readout(settings.graph_encoder, self.width) if readout else None

    def forward(self, graph: GraphTensors) -> tuple[Tensor, Tensor | None]:
        """Return F_kg (width,) and the weights of the nodes in it, (V,); or the nodes' states H (V, width) and None.

        They are float32 under autocast too.
        """
        if graph.features.dtype != torch.float32:
            graph = replace(graph, features=graph.features.float())
        # One small graph serves the whole batch: half precision would gain nothing.
        with torch.autocast(graph.features.device.type, enabled=False):
            states: Tensor = self.encoder(graph)
            if self.readout is None:
                return states, None
            read: tuple[Tensor, Tensor] = self.readout(states)
        return read

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a pretrained encoder, those in encoder.safetensors.

        Raises:
            CheckpointError: They are of another encoder.
        """
        try:
            self.encoder.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise CheckpointError(
                "the pretrained graph encoder has other layers than the captioner's",
                where="evidence.graph_encoder",
                fix="give it the settings of `graph.encoder`, or run `sagecc graph` with these",
            ) from error
