"""What an encoder hands to a decoder.

Regions of pairs as padded tensors.

What is known of pairs beside their scenes: regions of both dates, and the graph of the training captions.

Does the evidence fit the captioner?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.captioners.settings import CaptionerSettings
from pipeline.errors import CheckpointError, DataError, SettingsError
from pipeline.graph_encoders.encoders import GraphTensors


@dataclass(frozen=True)
class Regions:
    """Regions of B pairs, those of both dates together, padded to N for each pair; N may be 0.

    Attributes:
        features: (B, N, d) floating: descriptors Z of equation (8), the flattened grids they are made of, or embeddings
            E of equation (11).
        mask: (B, N) boolean, True at a region; what the other fields hold elsewhere is never looked at.
        dates: (B, N) int64, 0 before and 1 after; None where not known.
        centroids: (B, N, 2) floating, K of equation (9) as shares of the image: x rightwards, y downwards, both in
            [0, 1]; None where not known.
        scores: (B, N) floating, the largest similarity to a prompt, max_k S of equation (12); None where not known.
        rows: (B, N) int64, which of its image's regions each one is in the cache that it comes from; for explanations,
            and else None.

    Raises:
        DataError: A field has another shape than `features` asks for, or a type it cannot have.
    """

    features: Tensor
    mask: Tensor
    dates: Tensor | None = None
    centroids: Tensor | None = None
    scores: Tensor | None = None
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or not self.features.is_floating_point():
            raise _misfit("features", self.features, "(pairs, regions, width) of floats")
        grid = self.features.shape[:2]
        if self.mask.shape != grid or self.mask.dtype != torch.bool:
            raise _misfit("mask", self.mask, f"{tuple(grid)} of booleans")
        for name, tensor in (("dates", self.dates), ("rows", self.rows)):
            if tensor is not None and (tensor.shape != grid or tensor.dtype != torch.int64):
                raise _misfit(name, tensor, f"{tuple(grid)} of int64")
        for name, tensor, shape in (("centroids", self.centroids, (*grid, 2)), ("scores", self.scores, grid)):
            if tensor is not None and (tensor.shape != shape or not tensor.is_floating_point()):
                raise _misfit(name, tensor, f"{tuple(shape)} of floats")

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def padded(
        cls,
        features: Sequence[Tensor],
        *,
        dates: Sequence[Tensor] | None = None,
        centroids: Sequence[Tensor] | None = None,
        scores: Sequence[Tensor] | None = None,
        rows: Sequence[Tensor] | None = None,
    ) -> Self:
        """Pad the regions of single pairs, n_i of them, to the longest.

        Args:
            features: For each pair (n_i, d); one pair at least.
            dates: For each pair (n_i,).
            centroids: For each pair (n_i, 2).
            scores: For each pair (n_i,).
            rows: For each pair (n_i,).

        Raises:
            DataError: A field has another number of regions than `features`.
        """
        counts = torch.tensor([len(found) for found in features])
        others = {"dates": dates, "centroids": centroids, "scores": scores, "rows": rows}
        for name, given in others.items():
            if given is not None and [len(found) for found in given] != counts.tolist():
                raise DataError(
                    f"`{name}` are not of as many regions as `features`",
                    where=f"regions.{name}",
                    fix="bring all fields of the regions from the same rows of their cache",
                )
        mask = torch.arange(int(counts.max())) < counts[:, None]

        def pad(given: Sequence[Tensor] | None) -> Tensor | None:
            return None if given is None else pad_sequence(list(given), batch_first=True)

        return cls(
            pad_sequence(list(features), batch_first=True),
            mask.to(features[0].device),
            **{name: pad(given) for name, given in others.items()},
        )

    def select(self, rows: Tensor) -> Regions:
        """Return the regions of pairs `rows`, (M,) integers; a pair may come several times."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Regions:
        """Return the same on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    def thinned(self, share: float) -> Regions:
        """Return the same without `share` of the regions, drawn by torch's global generator on their device."""
        return replace(self, mask=self.mask & (torch.rand(self.mask.shape, device=self.mask.device) >= share))

    def map(self, change: Callable[[Tensor], Tensor]) -> Regions:
        """Return the same with `change` made to every tensor (B, N, …)."""
        return replace(self, **{name: change(tensor) for name, tensor in self._tensors().items()})

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def check_values(self, name: str) -> None:
        """Look for values that no cache should hold.

        Args:
            name: What the regions are called in a message.

        Raises:
            DataError: A region's value is not finite, or a date or a centroid is out of range; pair and region are
                named by their rows.
        """
        for column, tensor in self._tensors().items():
            values = tensor.flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)
            wrong = ~values.isfinite()
            if column in ("dates", "centroids"):
                wrong |= (values < 0) | (values > 1)
            faulty = wrong.any(2) & self.mask
            if faulty.any():
                pair, region = faulty.nonzero()[0].tolist()
                asked = {"dates": "0 or 1", "centroids": "shares of the image from 0 to 1"}.get(
                    column, "finite numbers"
                )
                raise DataError(
                    f"region {region} of pair {pair} of the batch has {column} that are not {asked}",
                    where=f"{name}.{column}",
                    fix="compute the cache it comes from anew",
                )

    def _tensors(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def _misfit(name: str, tensor: Tensor, wanted: str) -> DataError:
    given = f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
    return DataError(
        f"`{name}` of regions must be {wanted}, not {given}",
        where=f"regions.{name}",
        fix="bring all fields of the regions from the same rows of their cache",
    )


@dataclass(frozen=True)
class EvidenceWidths:
    """How wide the fields of `Evidence` are: what a model has to know of them before it is built.

    Attributes:
        motion: Width d of the descriptors of motion regions, or C·49 where the captioner makes them of 7×7 grids; None
            where there are none.
        semantics: Width e of the embeddings of semantic regions; None where there are none.
        nodes: Width g of the node features; None where there is no graph.
        relations: Number R of the graph's relations; None where there is no graph.
    """

    motion: int | None = None
    semantics: int | None = None
    nodes: int | None = None
    relations: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What a batch of B pairs brings beside its scenes.

    Attributes:
        motion: Regions without a counterpart at the other date, U_1 and U_2 of equation (10).
        semantics: Regions that text prompts name, of equation (12).
        graph: The caption graph of equations (13) and (14); all pairs share it.

    Raises:
        DataError: Motion and semantic regions are of different numbers of pairs.
    """

    motion: Regions | None = None
    semantics: Regions | None = None
    graph: GraphTensors | None = None

    def __post_init__(self) -> None:
        if self.motion is not None and self.semantics is not None and len(self.motion) != len(self.semantics):
            raise DataError(
                f"motion regions of {len(self.motion)} pairs cannot go with semantic regions of {len(self.semantics)}",
                where="evidence",
                fix="take both from the same pairs",
            )

    @property
    def pairs(self) -> int | None:
        """B; None where nothing but the graph is known."""
        regions = self.semantics if self.motion is None else self.motion
        return None if regions is None else len(regions)

    @property
    def widths(self) -> EvidenceWidths:
        """How wide the fields are."""
        return EvidenceWidths(
            motion=None if self.motion is None else self.motion.features.shape[2],
            semantics=None if self.semantics is None else self.semantics.features.shape[2],
            nodes=None if self.graph is None else self.graph.features.shape[1],
            relations=None if self.graph is None else self.graph.relations,
        )

    def select(self, rows: Tensor) -> Evidence:
        """Return the evidence of pairs `rows`, (M,) integers; a pair may come several times."""
        return Evidence(
            motion=None if self.motion is None else self.motion.select(rows),
            semantics=None if self.semantics is None else self.semantics.select(rows),
            graph=self.graph,
        )

    def thinned(self, share: float) -> Evidence:
        """Return the same without `share` of the regions; see `Regions.thinned`."""
        return Evidence(
            motion=None if self.motion is None else self.motion.thinned(share),
            semantics=None if self.semantics is None else self.semantics.thinned(share),
            graph=self.graph,
        )

    def to(self, device: torch.device) -> Evidence:
        """Return the same on `device`.

        Values are checked before they leave the CPU: on a GPU each check would make the host wait.

        Raises:
            DataError: As in `check_values`.
        """
        if device.type != "cpu":
            self.check_values()
        return Evidence(
            motion=None if self.motion is None else self.motion.to(device),
            semantics=None if self.semantics is None else self.semantics.to(device),
            graph=None if self.graph is None else _graph_to(self.graph, device),
        )

    def check_values(self) -> None:
        """Look for values that no cache should hold, in what lies on the CPU.

        Raises:
            DataError: A value is not finite, or a date or a centroid is out of range.
        """
        for name, regions in (("motion", self.motion), ("semantics", self.semantics)):
            if regions is not None and regions.features.device.type == "cpu":
                regions.check_values(f"evidence.{name}")
        if self.graph is not None and self.graph.features.device.type == "cpu":
            wrong = ~self.graph.features.isfinite().all(1)
            if wrong.any():
                raise DataError(
                    f"node {int(wrong.nonzero()[0])} of the graph has features that are not finite numbers",
                    where="evidence.graph.features",
                    fix="run `sagecc graph`",
                )


def _graph_to(graph: GraphTensors, device: torch.device) -> GraphTensors:
    stated = None if graph.stated is None else graph.stated.to(device)
    features, index, kinds = (x.to(device) for x in (graph.features, graph.edge_index, graph.edge_type))
    return GraphTensors(features, index, kinds, graph.relations, stated)


PartT = TypeVar("PartT")

_SOURCES = {"motion": "matches", "semantics": "semantics", "graph": "graph"}
_NAMES = {"motion": "motion regions", "semantics": "semantic regions", "graph": "a caption graph"}


def check_widths(settings: CaptionerSettings, widths: EvidenceWidths) -> None:
    """Make sure that a captioner can be built.

    Raises:
        SettingsError: The settings ask for something that there is none of.
    """
    known = {
        "motion": widths.motion is not None,
        "semantics": widths.semantics is not None,
        "graph": widths.nodes is not None and widths.relations is not None,
    }
    for part, there in known.items():
        if getattr(settings.evidence, part) and not there:
            raise SettingsError(
                f"fusion: {settings.fusion} asks for {_NAMES[part]}, and there are no such data",
                where=f"evidence.{part}",
                fix=f"run `sagecc {_SOURCES[part]}`, or set evidence.{part}: false",
            )


def checked_evidence(
    settings: CaptionerSettings, widths: EvidenceWidths, evidence: Evidence | None, pairs: int
) -> Evidence:
    """Return the evidence of a batch if it fits.

    Values are looked at on the CPU only: on a GPU each look would make the host wait, and `Evidence.to` looks before.

    Args:
        settings: What the captioner takes, and how.
        widths: Widths that it was built for.
        evidence: What is given; parts that are not taken are not looked at.
        pairs: Number B of pairs of the batch.

    Raises:
        DataError: Something that is taken is missing, is of other pairs, or holds values that no cache should hold.
        CheckpointError: Something is of another width than the captioner was built for.
    """
    chosen = settings.evidence
    given = Evidence() if evidence is None else evidence
    taken = Evidence(
        motion=_present("motion", given.motion) if chosen.motion else None,
        semantics=_present("semantics", given.semantics) if chosen.semantics else None,
        graph=_present("graph", given.graph) if chosen.graph else None,
    )
    if taken.pairs not in (None, pairs):
        raise DataError(
            f"regions of {taken.pairs} pairs cannot go with scenes of {pairs}",
            where="evidence",
            fix="take both from the same pairs",
        )
    _check_fit(taken, widths)
    if taken.motion is not None:
        if settings.fusion == "paper" and taken.motion.centroids is None:
            raise _without("motion", "centroids", "take the centroids of `regions`, divided by the image's size")
        _check_dates("motion", taken.motion, settings)
    if taken.semantics is not None:
        if chosen.top_q is not None and taken.semantics.scores is None:
            raise _without("semantics", "scores", "take the similarities of `semantics`, or set evidence.top_q: null")
        _check_dates("semantics", taken.semantics, settings)
    taken.check_values()
    return taken


def _present(part: str, given: PartT | None) -> PartT:
    if given is None:
        raise DataError(
            f"the captioner takes {_NAMES[part]}, and none are given",
            where=f"evidence.{part}",
            fix=f"run `sagecc {_SOURCES[part]}`, or train a captioner with evidence.{part}: false",
        )
    return given


def _check_fit(taken: Evidence, widths: EvidenceWidths) -> None:
    there = taken.widths
    for part, what, found, wanted in (
        ("motion", "descriptors of width {}", there.motion, widths.motion),
        ("semantics", "embeddings of width {}", there.semantics, widths.semantics),
        ("graph", "node features of width {}", there.nodes, widths.nodes),
        ("graph", "a graph of {} relations", there.relations, widths.relations),
    ):
        if found is not None and found != wanted:
            raise CheckpointError(
                f"the captioner takes {what.format(wanted)}, given {what.format(found)}",
                where=f"evidence.{part}",
                fix=f"use what `sagecc {_SOURCES[part]}` made when the captioner was trained, or train it on this",
            )


def _check_dates(part: str, regions: Regions, settings: CaptionerSettings) -> None:
    apart = settings.fusion == "paper" and settings.paper.dates_apart
    if regions.dates is None and (settings.evidence.date_embedding or apart):
        key = "paper.dates_apart" if apart else "evidence.date_embedding"
        raise _without(part, "dates", f"say of which date each region is, or set {key}: false")


def _without(part: str, field: str, fix: str) -> DataError:
    return DataError(f"{_NAMES[part]} come without {field}", where=f"evidence.{part}.{field}", fix=fix)


@dataclass(frozen=True)
class Memory:
    """Encoded pairs, from which captions are decoded.

    Attributes:
        tokens: X = flatten(E_img) of equation (6), (B, h·w, C_e), row by row; a fusion by tokens appends others, so
            that they are (B, S, C_e).
        change: M_map of section 3.2, (B, h, w) float32 in [0, 1]; 0 where nothing changed.
        consistency: C_map = 1 − M_map, (B, h, w) float32.
        condition: r of equation (17), (B, D); None where nothing but the scene is known.
        mask: (B, S) boolean, False at tokens that pad; None where there are none such.
        sections: What the tokens are, in their order: names and numbers of tokens, the image's h·w first; empty
            where the tokens are the image's alone.
        shares: With r, how much each of the regions and nodes counts in it, (B, N) by "motion", "semantics", "nodes".
    """

    tokens: Tensor
    change: Tensor
    consistency: Tensor
    condition: Tensor | None = None
    mask: Tensor | None = None
    sections: tuple[tuple[str, int], ...] = ()
    shares: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.tokens.device

    def select(self, rows: Tensor) -> Memory:
        """Return the memory of pairs `rows`, (N,) integers; a pair may come several times."""
        return Memory(
            tokens=self.tokens[rows],
            change=self.change[rows],
            consistency=self.consistency[rows],
            condition=None if self.condition is None else self.condition[rows],
            mask=None if self.mask is None else self.mask[rows],
            sections=self.sections,
            shares={name: weights[rows] for name, weights in self.shares.items()},
        )
