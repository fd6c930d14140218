"""From what a cache was made, and what its reader expects it to have been made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import CacheError


@dataclass(frozen=True)
class Provenance:
    """From what a cache was made.

    Attributes:
        stage: Name of the stage that wrote it.
        schema_version: The schema's version.
        settings: The stage's settings, JSON-able.
        settings_hash: `pipeline.config.settings_hash` of them.
        weights: SHA-256 of every weight file, by its name.
        upstream: SHA-256 of every input, by its name.
        items: Number of items (pairs); `pack` sets it.
        complete: Whether the file was written to its end; `pack` sets it.
    """

    stage: str
    schema_version: int
    settings: Mapping[str, Any]
    settings_hash: str
    weights: Mapping[str, str] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    items: int = 0
    complete: bool = False


@dataclass(frozen=True)
class Expectation:
    """What a reader expects of a cache.

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
        """Compare.

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
        self, expected: Mapping[str, str], found: Mapping[str, str], what: str, stage: str, path: Path
    ) -> None:
        for name, digest in expected.items():
            if found.get(name) == digest:
                continue
            seen = _short(found[name]) if name in found else "none"
            raise CacheError(
                f"made from {what}: {name} is {seen} instead of {_short(digest)}", where=path, fix=self.fix(stage)
            )


def _short(digest: str) -> str:
    return f"{digest[:12]}…"
