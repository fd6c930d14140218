"""Contents of a stage's cache (`Schema`), what it was made from (`Provenance`), and what its reader expects of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.config import Section, settings_hash
from pipeline.errors import CacheError

Compression = Literal["gzip"]
CacheUnit = Literal["image", "pair", "node"]

DTYPES = frozenset(
    ["float16", "float32", "float64"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
RESERVED = frozenset(["ids", "missing"])
"""Names of the data sets that every cache has."""


@dataclass(frozen=True)
class Field:
    """One data set of a cache.

    Attributes:
        name: Name of the data set.
        dtype: NumPy name of the element type, one of `DTYPES`; stored little-endian.
        shape: Shape of one row; −1 stands for a length that is decided when the cache is written, None for a shape of
            which nothing is known before.
        offsets: None for a dense field (row u belongs to unit u). Otherwise the name of an int64 data set of
            units + 1 entries: rows `offsets[u]:offsets[u + 1]` belong to unit u. Fields may share one.
        unit: Physical unit or scale of the values: "px", "probability", "1" for none.
        description: What the values mean.
        compression: None keeps the data set contiguous, as everything must be that training reads; "gzip" is for
            what compresses well and is read rarely.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None = ()
    offsets: str | None = None
    unit: str = "1"
    description: str = ""
    compression: Compression | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"field {self.name}: dtype {self.dtype} is not one of {', '.join(sorted(DTYPES))}")
        if any(length < -1 for length in self.shape or ()):
            raise ValueError(f"field {self.name}: lengths in shape {self.shape} must be −1 or more")
        if self.compression not in (None, *get_args(Compression)):
            raise ValueError(f"field {self.name}: unknown compression {self.compression}")

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, where it is decided; ValueError where it is not."""
        if self.shape is None or -1 in self.shape:
            raise ValueError(f"field {self.name}: its shape {self.shape} is not decided")
        return self.shape

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether rows of `shape` fit this field's shape, None fitting every shape and −1 every length."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            length in (-1, actual) for length, actual in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Schema:
    """Contents of the cache of one stage.

    Attributes:
        stage: Name of the stage that writes it.
        version: Version of the format alone; rises when fields or their meaning change, so that older caches and
            shards are no longer accepted. Changed code is known by `Provenance.code`.
        unit: "image": unit 2i + t is item i at date t (0 before, 1 after). "pair", "node": unit i is item i, a
            pair of images or a node of the caption graph.
        fields: In the order in which they are stored.
    """

    stage: str
    version: int
    unit: CacheUnit
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        if self.unit not in get_args(CacheUnit):
            raise ValueError(f"schema {self.stage}: unit must be image, pair or node, not {self.unit}")
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names):
            raise ValueError(f"schema {self.stage}: two fields share a name")
        for name in (*names, *self.offset_names):
            if not name or "/" in name or name.startswith(".") or name in RESERVED:
                raise ValueError(f"schema {self.stage}: {name!r} cannot be the name of a field")
        if clash := set(names) & set(self.offset_names):
            raise ValueError(f"schema {self.stage}: {', '.join(sorted(clash))} names both a field and offsets")

    @property
    def units_per_item(self) -> int:
        """Two dates, or the item itself."""
        return 2 if self.unit == "image" else 1

    @property
    def offset_names(self) -> tuple[str, ...]:
        """Names of the offsets data sets, in order of first use."""
        return tuple(dict.fromkeys(field.offsets for field in self.fields if field.offsets is not None))

    def field(self, name: str) -> Field:
        """Return the field called `name`; KeyError if there is none."""
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(f"stage {self.stage} has no field {name!r}; it has {', '.join(f.name for f in self.fields)}")


@dataclass(frozen=True)
class Provenance:
    """Everything that a cache was made from.

    Attributes:
        stage: Name of the stage that wrote it.
        schema_version: The schema's version.
        settings: The stage's settings, JSON-able.
        settings_hash: `pipeline.config.settings_hash` of them.
        weights: SHA-256 of every weight file, by its name.
        upstream: SHA-256 of every input, by its name.
        code: `pipeline.code.code_digest` of the code that computed it.
        items: Number of items (pairs); `pack` sets it.
        complete: Whether the file was written to its end; `pack` sets it.
    """

    stage: str
    schema_version: int
    settings: Mapping[str, Any]
    settings_hash: str
    weights: Mapping[str, str] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    items: int = 0
    complete: bool = False

    @classmethod
    def of(
        cls,
        schema: Schema,
        settings: Section,
        *,
        code: str,
        weights: Mapping[str, str] | None = None,
        upstream: Mapping[str, str] | None = None,
    ) -> Provenance:
        """Return the provenance of a cache that a stage is about to make.

        Args:
            schema: What the cache holds.
            settings: The stage's section.
            code: Digest of the stage's code.
            weights: SHA-256 of every weight file, by its name.
            upstream: SHA-256 of every input, by its name.
        """
        return cls(
            stage=schema.stage,
            schema_version=schema.version,
            settings=settings.model_dump(mode="json"),
            settings_hash=settings_hash(settings),
            weights=weights or {},
            upstream=upstream or {},
            code=code,
        )


@dataclass(frozen=True)
class Expectation:
    """Settings, weights and inputs that a reader expects a cache to have been made from.

    Attributes:
        settings_hash: Hash of the settings it must have been made with; None accepts any.
        weights: SHA-256 by name that the cache must name the same; names that are not mentioned are not checked.
        upstream: The same for its inputs.
        repair: Command that makes the cache anew; named in every error.
    """

    settings_hash: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    repair: str | None = None

    def check(self, provenance: Provenance, path: Path) -> None:
        """Compare the expectation with the provenance of the cache at `path`.

        Raises:
            CacheError: The cache was made with other settings, weights or inputs; the first difference is named.
        """
        if self.settings_hash is not None and self.settings_hash != provenance.settings_hash:
            raise CacheError(
                f"made with other settings ({_short(provenance.settings_hash)} instead of "
                f"{_short(self.settings_hash)})",
                where=path,
                fix=self.fix(provenance.stage),
            )
        self._compare(self.weights, provenance.weights, "other weights", provenance.stage, path)
        self._compare(self.upstream, provenance.upstream, "another input", provenance.stage, path)

    def fix(self, stage: str) -> str:
        """Return what to do about a cache of `stage` that cannot be used."""
        return f"run `{self.repair or f'sagecc {stage}'}`"

    def _compare(
        self, expected: Mapping[str, str], actual: Mapping[str, str], what: str, stage: str, path: Path
    ) -> None:
        for name, digest in expected.items():
            if actual.get(name) == digest:
                continue
            used = _short(actual[name]) if name in actual else "none"
            raise CacheError(
                f"made from {what}: {name} is {used} instead of {_short(digest)}", where=path, fix=self.fix(stage)
            )


def _short(digest: str) -> str:
    return f"{digest[:12]}…"
