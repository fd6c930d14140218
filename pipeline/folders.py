"""Folders that are whole or absent."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.files import output_error


@contextmanager
def atomic_folder(path: Path, *, replaces: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it into place, instead of what was there.

    Readers see the old folder or the new one, never a part. On any exception the temporary folder is removed and the
    old one stays as it was.

    Args:
        path: The folder to write.
        replaces: Names that an older result may hold. A folder that holds anything else is not replaced, so that a
            mistyped output never costs other files.

    Raises:
        OutputError: The place cannot be written, the disk is full, or the folder there holds other files.
    """
    temporary: Path | None = None
    try:
        # A link to a folder elsewhere stays a link: its target is what is replaced.
        path = path.resolve()
        _refuse_foreign(path, replaces)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        yield temporary
        temporary.chmod(0o755)
        _exchange(temporary, path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _refuse_foreign(path: Path, replaces: Collection[str]) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise OutputError("the output is a file, not a folder", where=path, fix="choose another output")
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in replaces)
    if foreign:
        raise OutputError(
            f"the output folder holds other files ({', '.join(foreign[:3])})", where=path, fix="choose an empty folder"
        )


def _exchange(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`; POSIX renames a folder over an empty one only, so the old one steps aside."""
    if not path.exists():
        new.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)
