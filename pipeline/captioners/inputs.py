"""What goes into a captioner's encoder (regions, graph) and what its decoder reads (the memory).

Both dates' regions of a pair stand in one padded set. Inputs are checked once, before they are computed with.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.captioners.settings import SageCCSettings
from pipeline.errors import CheckpointError, DataError, SettingsError
from pipeline.graph_encoders.tensors import GraphTensors


@dataclass(frozen=True)
class Regions:
    """Regions of B pairs, those of both dates together, padded to N for each pair; N may be 0.

    Attributes:
        features: (B, N, d) floating: descriptors Z of equation (8), the flattened grids they are made of, or embeddings
            E of equation (11).
        mask: (B, N) boolean, True at a region; the other fields are not read elsewhere.
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
        counts = torch.tensor([len(values) for values in features])
        optional = {"dates": dates, "centroids": centroids, "scores": scores, "rows": rows}
        for name, columns in optional.items():
            if columns is not None and [len(values) for values in columns] != counts.tolist():
                raise DataError(
                    f"`{name}` are not of as many regions as `features`",
                    where=f"regions.{name}",
                    fix="bring all fields of the regions from the same rows of their cache",
                )
        mask = torch.arange(int(counts.max())) < counts[:, None]

        def pad(columns: Sequence[Tensor] | None) -> Tensor | None:
            return None if columns is None else pad_sequence(list(columns), batch_first=True)

        return cls(
            pad_sequence(list(features), batch_first=True),
            mask.to(features[0].device),
            **{name: pad(columns) for name, columns in optional.items()},
        )

    def select(self, rows: Tensor) -> Regions:
        """Return the regions of pairs `rows`, (M,) integers; a pair may come several times."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Regions:
        """Return the same on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    def drop_regions(self, share: float) -> Regions:
        """Return the same without `share` of the regions, drawn by torch's global generator on their device."""
        return replace(self, mask=self.mask & (torch.rand(self.mask.shape, device=self.mask.device) >= share))

    def map(self, change: Callable[[Tensor], Tensor]) -> Regions:
        """Return the same with `change` made to every tensor (B, N, …)."""
        return replace(self, **{name: change(tensor) for name, tensor in self._tensors().items()})

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def check_values(self, name: str, counts: Sequence[int] | None = None) -> None:
        """Check the values.

        Args:
            name: What the regions are called in a message.
            counts: Regions of each pair, where those of several pairs stand one after the other as those of one.

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
                if counts is not None:
                    ends = list(itertools.accumulate(counts))
                    pair = bisect.bisect_right(ends, region)
                    region -= ends[pair] - counts[pair]
                expected = {"dates": "0 or 1", "centroids": "shares of the image from 0 to 1"}.get(
                    column, "finite numbers"
                )
                raise DataError(
                    f"region {region} of pair {pair} of the batch has {column} that are not {expected}",
                    where=f"{name}.{column}",
                    fix="compute the cache it comes from anew",
                )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _misfit(name: str, tensor: Tensor, expected: str) -> DataError:
    actual = f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
    return DataError(
        f"`{name}` of regions must be {expected}, not {actual}",
        where=f"regions.{name}",
        fix="bring all fields of the regions from the same rows of their cache",
    )


@dataclass(frozen=True)
class SideInputs:
    """What a fusion joins with the scenes of B pairs; None: not read.

    Attributes:
        regions: Regions without a counterpart at the other date, U_1 and U_2 of equation (10).
        semantics: Regions that text prompts name, of equation (12).
        graph: The caption graph of equations (13) and (14); all pairs share it.
    """

    regions: Regions | None = None
    semantics: Regions | None = None
    graph: GraphTensors | None = None

    def drop_regions(self, share: float) -> SideInputs:
        """Return the same without `share` of the regions; see `Regions.drop_regions`."""
        return replace(
            self,
            regions=None if self.regions is None else self.regions.drop_regions(share),
            semantics=None if self.semantics is None else self.semantics.drop_regions(share),
        )


InputT = TypeVar("InputT", Regions, GraphTensors)
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each input, by the name of its source: what a captioner has to know before it is built."""

_STAGES = {"regions": "matches", "semantics": "semantics", "graph": "graph"}
_NAMES = {"regions": "unmatched regions", "semantics": "semantic regions", "graph": "a caption graph"}


def check_shapes(settings: SageCCSettings, shapes: Shapes) -> None:
    """Make sure that a captioner can be built.

    Raises:
        SettingsError: The settings read an input of which `shapes` knows nothing.
    """
    for name in settings.input_names():
        if name not in shapes:
            noun, stage = _NAMES.get(name, name), _STAGES.get(name, name)
            raise SettingsError(
                f"the captioner (fusion: {settings.fusion}) reads {noun}, and there are none",
                where=f"inputs.{name}",
                fix=f"run `sagecc {stage}`, or switch {name} off in the captioner's settings",
            )


def validate_inputs(settings: SageCCSettings, shapes: Shapes, inputs: Mapping[str, Any], pairs: int) -> SideInputs:
    """Return the side inputs of a batch if they fit.

    Values are checked on the CPU only: on a GPU each check would make the host wait, and the stores check before.

    Args:
        settings: What the captioner reads, and how.
        shapes: Shapes that it was built for.
        inputs: By the name of their source; others than those that the settings read are ignored.
        pairs: Number B of pairs of the batch.

    Raises:
        DataError: An input that is read is missing, is of other pairs, or holds values that no cache should hold.
        CheckpointError: An input is of another shape than the captioner was built for.
    """
    chosen = settings.inputs
    regions = _input("regions", inputs, Regions) if chosen.regions else None
    semantics = _input("semantics", inputs, Regions) if chosen.semantics else None
    graph = _input("graph", inputs, GraphTensors) if chosen.graph else None
    for name, of_kind in (("regions", regions), ("semantics", semantics)):
        if of_kind is None:
            continue
        if len(of_kind) != pairs:
            raise DataError(
                f"{_NAMES[name]} of {len(of_kind)} pairs cannot go with scenes of {pairs}",
                where=f"inputs.{name}",
                fix="take both from the same pairs",
            )
        _check_width(name, "of width {}", of_kind.features.shape[2], shapes[name][0])
        _check_dates(name, of_kind, settings)
        if of_kind.features.device.type == "cpu":
            of_kind.check_values(f"inputs.{name}")
    if regions is not None and settings.fusion == "paper" and regions.centroids is None:
        raise _without("regions", "centroids", "give the centroids of `regions`, divided by the image's size")
    if semantics is not None and chosen.top_q is not None and semantics.scores is None:
        raise _without("semantics", "scores", "give the similarities of `semantics`, or set inputs.top_q: null")
    if graph is not None:
        features, relations = shapes["graph"]
        _check_width("graph", "with node features of width {}", graph.features.shape[1], features)
        _check_width("graph", "of {} relations", graph.relations, relations)
        check_graph(graph)
    return SideInputs(regions, semantics, graph)


def check_graph(graph: GraphTensors) -> None:
    """Check the values of a graph that lies on the CPU.

    Raises:
        DataError: A node feature is not finite.
    """
    if graph.features.device.type != "cpu":
        return
    wrong = ~graph.features.isfinite().all(1)
    if wrong.any():
        raise DataError(
            f"node {int(wrong.nonzero()[0])} of the graph has features that are not finite numbers",
            where="inputs.graph.features",
            fix="run `sagecc graph`",
        )


def _input(name: str, inputs: Mapping[str, Any], kind: type[InputT]) -> InputT:
    value = inputs.get(name)
    if not isinstance(value, kind):
        raise DataError(
            f"the captioner reads {_NAMES[name]}, and none are given",
            where=f"inputs.{name}",
            fix=f"run `sagecc {_STAGES[name]}`, or train a captioner with inputs.{name}: false",
        )
    return value


def _check_width(name: str, what: str, actual: int, expected: int) -> None:
    if actual != expected:
        raise CheckpointError(
            f"the captioner reads {_NAMES[name]} {what.format(expected)}, given {what.format(actual)}",
            where=f"inputs.{name}",
            fix=f"use the output of `sagecc {_STAGES[name]}` that the captioner was trained with, or train it on this",
        )


def _check_dates(name: str, regions: Regions, settings: SageCCSettings) -> None:
    apart = settings.fusion == "paper" and settings.paper.dates_apart
    if regions.dates is None and (settings.inputs.date_embedding or apart):
        key = "paper.dates_apart" if apart else "inputs.date_embedding"
        raise _without(name, "dates", f"say of which date each region is, or set {key}: false")


def _without(name: str, field: str, fix: str) -> DataError:
    return DataError(f"{_NAMES[name]} come without {field}", where=f"inputs.{name}.{field}", fix=fix)


@dataclass(frozen=True)
class Memory:
    """Encoded pairs, from which captions are decoded.

    Attributes:
        tokens: X = flatten(E_img) of equation (6), (B, h·w, C_e), row by row; a fusion by tokens appends others, so
            that they are (B, S, C_e).
        change: M_map of section 3.2, (B, h, w) float32 in [0, 1]; 0 where nothing changed.
        consistency: C_map = 1 − M_map, (B, h, w) float32.
        condition: r of equation (17), (B, D); None without a fusion by one vector.
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
