"""merges.yaml: which names became which, for people to read, change, and give back as their own decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.errors import DataError
from pipeline.files import write_text

_KINDS: Final = ("entities", "relations")
_HEAD: Final = """\
# Names of the captions that became one; the name before the colon stays. To decide otherwise, copy this file, change
# it, and name the copy in `graph.build.merge.overrides`. What your file names is settled by it alone; `name: []` keeps
# a name to itself. All other names are merged as the settings say.
"""
_FIX: Final = "write `entities:` and `relations:`, each with lines `name: [other name, ...]`"


@dataclass(frozen=True)
class MergeMap:
    """Which names became which.

    Attributes:
        entities: Other names by the name that stays; a name that stands alone need not be listed.
        relations: The same for relations.
    """

    entities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    relations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def targets(self, kind: str) -> dict[str, str]:
        """Return the name that stays, by every listed name of `kind` ("entities" or "relations")."""
        clusters: Mapping[str, tuple[str, ...]] = getattr(self, kind)
        return {name: stays for stays, others in clusters.items() for name in (stays, *others)}


def write_merges(path: Path, merges: MergeMap) -> Path:
    """Write merges.yaml; names that stand alone are left out."""
    lines = [_HEAD]
    for kind in _KINDS:
        clusters = {stays: others for stays, others in getattr(merges, kind).items() if others}
        lines.append(f"{kind}:" + ("" if clusters else " {}") + "\n")
        for stays, others in clusters.items():
            lines.append(f"  {_scalar(stays)}: [{', '.join(map(_scalar, others))}]\n")
    return write_text(path, "".join(lines))


def read_merges(path: Path) -> MergeMap:
    """Read merges.yaml or a file of the same form.

    Raises:
        DataError: It is missing, not YAML, not of this form, or gives a name two places.
    """
    try:
        document = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=path, fix="correct the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise DataError("the map of names is not valid YAML", where=place, fix=_FIX) from error
    if document is None:
        document = {}
    if not isinstance(document, dict) or (unknown := [str(key) for key in document if key not in _KINDS]):
        what = f"it holds `{unknown[0]}`" if isinstance(document, dict) else "it is no mapping"
        raise DataError(f"this is no map of names: {what}", where=path, fix=_FIX)
    return MergeMap(**{kind: _clusters(document.get(kind), kind, path) for kind in _KINDS})


def _clusters(value: Any, kind: str, path: Path) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"`{kind}` is no mapping of names", where=path, fix=_FIX)
    clusters: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for stays, others in value.items():
        members = [] if others is None else others
        if not isinstance(stays, str) or not isinstance(members, list) or not all(isinstance(m, str) for m in members):
            raise DataError(f"`{kind}`: the entry {stays!r} is not a name with a list of names", where=path, fix=_FIX)
        for name in (stays, *members):
            if name in seen or not name.strip():
                what = "stands in two places" if name in seen else "is empty"
                raise DataError(f"`{kind}`: the name {name!r} {what}", where=path, fix="keep one of them")
            seen.add(name)
        clusters[stays] = tuple(members)
    return clusters


def _scalar(name: str) -> str:
    """Write a name as YAML reads it back as text: quoted where it could be taken for something else."""
    return yaml.safe_dump(name, default_flow_style=True, width=10_000, allow_unicode=True).split("\n")[0]
