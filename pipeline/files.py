"""Atomic writing of files and folders, JSON files, and hashes of content."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, OutputError

_CHUNK = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Return `value` as JSON in the form that hashes are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(*parts: Any) -> str:
    """Return a 64-digit key of JSON-able `parts`: equal parts, equal key."""
    return sha256_bytes(canonical_json(parts).encode())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush the file to disk and rename it to `path`.

    Readers see the old file or the new one, never a part. On any exception the temporary file is removed.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`; call it only while no other writer is at work."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        leftover.unlink(missing_ok=True)


def output_error(error: OSError, path: Path) -> OutputError:
    """Return the project's error for an OSError raised while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError("the disk is full", where=path, fix="free some space and run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError("no permission to write here", where=path, fix="choose another output or change its rights")
    return OutputError(f"cannot write: {error.strerror or error}", where=path)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON with a final newline, keys in the order given."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, fix: str | None = None) -> Any:
    """Read a JSON file.

    Raises:
        DataError: It is missing, not UTF-8, truncated or not JSON; the message says where.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=path, fix=fix) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte {error.start} cannot be decoded", where=path, fix=fix) from error
    except (json.JSONDecodeError, RecursionError) as error:
        position = (
            f"line {error.lineno}, column {error.colno}: {error.msg}"
            if isinstance(error, json.JSONDecodeError)
            else "nested too deeply"
        )
        raise DataError(f"not valid JSON ({position})", where=path, fix=fix) from error


@contextmanager
def atomic_folder(path: Path, *, replaces: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, replacing an older result.

    Readers see the old folder or the new one, never a part. On any exception the temporary folder is removed and the
    old one stays as it was.

    Args:
        path: The folder to write.
        replaces: Names that an older result may hold. A folder that holds anything else is not replaced, so that a
            mistyped output does not delete other files.

    Raises:
        OutputError: The folder cannot be written, the disk is full, or `path` holds other files.
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
    """Rename `new` to `path`. POSIX renames a folder over an empty one only, so an older one is moved aside first."""
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
