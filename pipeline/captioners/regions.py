"""Regions of pairs as padded tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.errors import DataError


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
        for field, tensor in self._tensors().items():
            values = tensor.flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)
            wrong = ~values.isfinite()
            if field in ("dates", "centroids"):
                wrong |= (values < 0) | (values > 1)
            faulty = wrong.any(2) & self.mask
            if faulty.any():
                pair, region = faulty.nonzero()[0].tolist()
                asked = {"dates": "0 or 1", "centroids": "shares of the image from 0 to 1"}.get(field, "finite numbers")
                raise DataError(
                    f"region {region} of pair {pair} of the batch has {field} that are not {asked}",
                    where=f"{name}.{field}",
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
