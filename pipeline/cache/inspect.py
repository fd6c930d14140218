"""Description of a cache for people, from the file alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.cache import layout
from pipeline.cache.schema import Field

if TYPE_CHECKING:
    from rich.console import RenderableType

_SAMPLE = 4 << 20
"""Bytes of a field that its statistics are taken of."""


@dataclass(frozen=True)
class Values:
    """Statistics of a field, over a sample of blocks spread over its rows.

    Attributes:
        minimum: Smallest value seen.
        mean: Mean of the values seen.
        maximum: Largest value seen.
        share: Share of the rows that were looked at.
    """

    minimum: float
    mean: float
    maximum: float
    share: float


@dataclass(frozen=True)
class Lengths:
    """Statistics of the number of ragged rows per unit."""

    minimum: int
    mean: float
    maximum: int
    empty: int


@dataclass(frozen=True)
class FieldDescription:
    """One data set.

    Attributes:
        name: Its name.
        shape: Rows first.
        dtype: NumPy name of its type.
        unit: Unit of its values.
        description: What they mean.
        offsets: Name of the offsets of a ragged field, None for a dense one.
        compression: None where it is contiguous.
        stored: Bytes in the file.
        values: None where it is empty.
        lengths: None where it is dense.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    description: str
    offsets: str | None
    compression: str | None
    stored: int
    values: Values | None
    lengths: Lengths | None


@dataclass(frozen=True)
class Description:
    """Contents of a cache.

    Attributes:
        path: The file.
        size: Its bytes.
        attributes: The root attributes as text, settings indented.
        items: Number of items.
        units: Number of units.
        missing: Ids (with the date, where units are images) of the units that were skipped.
        fields: The data sets.
    """

    path: Path
    size: int
    attributes: dict[str, str]
    items: int
    units: int
    missing: tuple[str, ...]
    fields: tuple[FieldDescription, ...]


def describe(path: Path) -> Description:
    """Describe a cache of any stage from the file alone.

    Raises:
        CacheError: The file is missing, damaged, unfinished, or no cache.
    """
    fix = "make it again with the command that wrote it"
    with layout.damage_named(path, fix), h5py.File(path, "r", locking=False) as file:
        header = layout.read_header(file, path, fix)
        fields = tuple(_describe_field(file[field.name], field, header) for field in header.schema.fields)
        size = file.id.get_filesize()
    return Description(
        path=path,
        size=size,
        attributes=_attributes(header),
        items=len(header.ids),
        units=header.units,
        missing=tuple(_missing(header)),
        fields=fields,
    )


def render(description: Description) -> RenderableType:
    """Return the description as rich tables, ready to print."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    attributes = Table(
        title=f"{description.path} ({_bytes(description.size)})", title_justify="left", show_header=False
    )
    for name, value in description.attributes.items():
        attributes.add_row(name, Text(value))
    fields = Table(
        title=f"{description.items:,} items, {description.units:,} units, {len(description.missing):,} missing",
        title_justify="left",
    )
    for heading in ("field", "shape", "type", "unit", "bytes", "min / mean / max", "rows a unit"):
        fields.add_column(heading)
    for field in description.fields:
        fields.add_row(
            Text(field.name),
            Text(" × ".join(map(str, field.shape))),
            Text(field.dtype + (f" {field.compression}" if field.compression else "")),
            Text(field.unit),
            _bytes(field.stored),
            "" if field.values is None else _values(field.values),
            "" if field.lengths is None else _lengths(field.lengths),
        )
    # Under the table, not in it: a sentence in a narrow column is unreadable.
    meanings = [Text(f"{field.name}: {field.description}") for field in description.fields if field.description]
    shown: list[RenderableType] = [attributes, fields, *meanings]
    if description.missing:
        first = ", ".join(description.missing[:20])
        more = f" and {len(description.missing) - 20:,} more" if len(description.missing) > 20 else ""
        shown.append(Text(f"missing: {first}{more}"))
    return Group(*shown)


def _attributes(header: layout.Header) -> dict[str, str]:
    provenance = header.provenance
    return {
        "stage": provenance.stage,
        "schema version": str(provenance.schema_version),
        "unit": header.schema.unit,
        "settings": "\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in provenance.settings.items()),
        "settings hash": provenance.settings_hash,
        **{f"weights {name}": digest for name, digest in provenance.weights.items()},
        **{f"upstream {name}": digest for name, digest in provenance.upstream.items()},
        "code": provenance.code,
        "complete": "yes" if provenance.complete else "no",
    }


def _missing(header: layout.Header) -> Iterator[str]:
    for unit in header.missing.tolist():
        item, date = divmod(unit, header.schema.units_per_item)
        yield header.ids[item] + (f" ({'after' if date else 'before'})" if header.schema.unit == "image" else "")


def _describe_field(dataset: h5py.Dataset, field: Field, header: layout.Header) -> FieldDescription:
    lengths = None if field.offsets is None else np.diff(header.offsets[field.offsets])
    return FieldDescription(
        name=field.name,
        shape=dataset.shape,
        dtype=field.dtype,
        unit=field.unit,
        description=field.description,
        offsets=field.offsets,
        compression=field.compression,
        stored=header.extents[field.name].stored,
        values=_sampled(dataset),
        lengths=None if lengths is None or not lengths.size else _spread(lengths),
    )


def _spread(lengths: npt.NDArray[np.int64]) -> Lengths:
    return Lengths(int(lengths.min()), float(lengths.mean()), int(lengths.max()), int((lengths == 0).sum()))


def _sampled(dataset: h5py.Dataset) -> Values | None:
    """Return statistics of up to 16 blocks of rows at even distances."""
    if not dataset.size:
        return None
    rows = dataset.shape[0]
    sample = max(1, _SAMPLE // (dataset.nbytes // rows))
    if sample >= rows:
        starts, step = [0], rows
    else:
        step = max(1, sample // 16)
        starts = sorted({int(start) for start in np.linspace(0, rows - step, num=min(16, rows))})
    blocks: list[npt.NDArray[Any]] = [dataset[start : start + step].astype(np.float64) for start in starts]
    count = sum(block.shape[0] for block in blocks)
    return Values(
        minimum=min(float(block.min()) for block in blocks),
        mean=sum(float(block.mean()) * block.shape[0] for block in blocks) / count,
        maximum=max(float(block.max()) for block in blocks),
        share=min(count / rows, 1.0),
    )


def _values(values: Values) -> str:
    share = "" if values.share == 1 else f" ({values.share:.1%} seen)"
    return f"{values.minimum:.4g} / {values.mean:.4g} / {values.maximum:.4g}{share}"


def _lengths(lengths: Lengths) -> str:
    return f"{lengths.minimum}–{lengths.maximum}, mean {lengths.mean:.1f}, {lengths.empty} empty"


def _bytes(count: int) -> str:
    size = float(count)
    for name in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {name}"
        size /= 1024
    return f"{size:,.4g} GiB"
