"""Where unfinished and finished shards live between runs, outside of what DVC empties."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.cache.provenance import Provenance
from pipeline.errors import OutputError
from pipeline.files import content_key, output_error

_LOCK = ".lock"
_PAID = "llm"
"""Answers of language models, which cost money to ask again."""


def work_folder(root: Path, provenance: Provenance) -> Path:
    """Return `root/<stage>/<hash>` for a cache that is to be made.

    The hash is taken of everything that all items' results depend on: stage, schema version, settings and weights. What
    a single result depends on is in its item's key instead, so that one changed input recomputes one item.
    """
    stage, version = provenance.stage, provenance.schema_version
    return root / stage / content_key(stage, version, provenance.settings_hash, dict(provenance.weights))[:32]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make `folder` and keep other runs out of it; a killed run keeps nobody out.

    Raises:
        OutputError: The folder cannot be written, or another run is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / _LOCK).open("wb")
    except OSError as error:
        raise output_error(error, folder) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                "another run is at work here", where=folder, fix="wait until it ends, or end it, and run again"
            ) from error
        except OSError:
            # Some network file systems know no locks; two runs would then do the same work twice, to the same result.
            pass
        yield


def work_sizes(root: Path) -> dict[str, int]:
    """Return the bytes that each stage keeps under `root`, by stage."""
    stages = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {
        stage.name: sum(file.stat().st_size for file in stage.rglob("*") if file.is_file() and not file.is_symlink())
        for stage in stages
    }


def clean(root: Path, stage: str | None = None) -> int:
    """Remove the shards of one stage, or of all; finished caches stay, and stay usable.

    Paid answers of language models (`llm`) are removed only when they are named.

    Returns:
        The bytes freed.

    Raises:
        OutputError: Something cannot be removed.
    """
    sizes = work_sizes(root)
    names = [name for name in sizes if name == stage or (stage is None and name != _PAID)]
    for name in names:
        try:
            shutil.rmtree(root / name)
        except OSError as error:
            raise output_error(error, root / name) from error
    return sum(sizes[name] for name in names)
