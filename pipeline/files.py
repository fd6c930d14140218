"""Atomic writing of files and folders, JSON files, and hashes of content."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from pipeline.errors import DataError, OutputError
from pipeline.system_errors import reading, writing_error
from pipeline.targets import Target, resolve_target, write_through

_CHUNK = 1 << 20
_LONGEST_NAME = 200
"""Bytes of a name beside which the random part of a temporary name has room in a file system's 255."""
NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF})
"""What a file system without locks (of this kind of file) answers."""


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableError: It cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder whose names match `pattern`, sorted; none where there is no such folder.

    Unlike `Path.glob`, it does not take a folder that cannot be read for an empty one.

    Raises:
        UnreadableError: The folder is there and cannot be listed.
    """
    try:
        with reading(folder), os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if fnmatch(entry.name, pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []


def canonical_json(value: Any) -> str:
    """Return `value` as JSON in the form that hashes are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(*parts: Any) -> str:
    """Return a 64-digit key of JSON-able `parts`: equal parts, equal key."""
    return sha256_bytes(canonical_json(parts).encode())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success flush it to disk and rename it to `path`, or write it through to a stream.

    Readers see the old file or the new one, never a part. On any exception the temporary file is removed. The new file
    gets the permissions of the one that it replaces, or those that the umask leaves. What a link, a device, a pipe or a
    descriptor means is in `pipeline.targets.resolve_target`; other names of a hard-linked file keep the old content.

    Raises:
        BrokenPipeError: `path` is standard output, and its reader has gone.
        OutputError: The folder cannot be written, the disk is full, or `path` cannot be replaced by a file.
        UnreadableError: Within the block, another file could not be read.
    """
    target = resolve_target(path)
    if target.file is None:
        with _streamed(target) as temporary:
            yield temporary
        return
    name: Path | None = None
    handle = -1
    made: list[Path] = []
    try:
        made = _make_folders(target.file.parent)
        name, handle = _new_file(target.file)
        yield name
        _adopt(name, target)
        _sync(name)
        name.replace(target.file)
        made = []
        _sync(target.file.parent)
    except OSError as error:
        raise writing_error(error, path, target.file, name) from error
    finally:
        if name is not None:
            with suppress(OSError):
                name.unlink()
        _close(handle)
        _remove_empty(made)


@contextmanager
def _streamed(target: Target) -> Iterator[Path]:
    """Yield a temporary file, which is copied to the stream once it is whole."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        raise OutputError(
            "no folder for temporary files can be written", where="TMPDIR", fix="set TMPDIR to a folder with free space"
        ) from error
    name: Path | None = None
    try:
        try:
            handle, made = tempfile.mkstemp(prefix="sagecc-", dir=folder)
            os.close(handle)
            name = Path(made)
            yield name
        except OSError as error:
            raise writing_error(error, folder) from error
        with name.open("rb") as source:
            write_through(source, target)
    finally:
        if name is not None:
            with suppress(OSError):
                name.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`; those of writers at work are locked, and stay."""
    file = resolve_target(path).file or path
    for leftover in list_files(file.parent, f"{glob.escape(_stem(file))}.*.partial"):
        remove_dead(leftover)


def remove_dead(leftover: Path) -> None:
    """Remove a temporary file or folder unless its writer is at work; where the file system has no locks, let it be."""
    with suppress(OSError), _dead(leftover) as handle:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()


@contextmanager
def _dead(leftover: Path) -> Iterator[int]:
    """Lock a temporary file or folder, and yield its descriptor; BlockingIOError where its writer is at work."""
    handle = os.open(leftover, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
    finally:
        _close(handle)


def _stem(path: Path) -> str:
    """Return how the names of temporary files of `path` begin."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{sha256_bytes(os.fsencode(name))[:32]}"
    return f".{name}"


def _new_file(path: Path) -> tuple[Path, int]:
    """Make a temporary file beside `path`; return it and a descriptor that locks it as long as it is open."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        name = path.with_name(f"{_stem(path)}.{secrets.token_hex(4)}.partial")
        handle = os.open(name, flags, 0o666)
        if _locked(name, handle):
            return name, handle


def _new_folder(path: Path) -> tuple[Path, int]:
    """Make a temporary folder beside `path`, as `_new_file` does."""
    while True:
        name = path.with_name(f"{_stem(path)}.{secrets.token_hex(4)}.partial")
        name.mkdir()
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _locked(name, handle):
            return name, handle


def _locked(name: Path, handle: int) -> bool:
    """Lock a new temporary file; False if another process took it for a leftover in between, and removed it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(handle), name.stat()):
            return True
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        _close(handle)
        raise
    _close(handle)
    return False


def _close(handle: int) -> None:
    if handle >= 0:
        with suppress(OSError):
            os.close(handle)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the outermost first."""
    new = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    folder.mkdir(parents=True, exist_ok=True)
    return new[::-1]


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def _adopt(name: Path, target: Target) -> None:
    """Give the new file the permissions of the one that it replaces."""
    if target.owner is not None and target.mode is not None:
        info = name.stat()
        if (info.st_uid, info.st_gid) != target.owner:
            with suppress(OSError):  # only root gives files away
                os.chown(name, *target.owner)
        if stat.S_IMODE(info.st_mode) != target.mode:
            name.chmod(target.mode)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, where the file system can."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder that may be written and not listed
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    finally:
        os.close(handle)


def keep_copy(path: Path) -> Path:
    """Copy a file to `<name>.bak` beside it, or to `.bak2` and so on where that name holds an other copy.

    Returns:
        The copy.

    Raises:
        OutputError: It cannot be written.
        UnreadableError: The file, or an earlier copy, cannot be read.
    """
    with reading(path):
        content = path.read_bytes()
    number = 1
    while True:
        copy = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not os.path.lexists(copy):
            break
        if copy.is_file() and sha256_file(copy) == sha256_bytes(content):
            return copy
        number += 1
    with atomic_path(copy) as temporary:
        temporary.write_bytes(content)
    return copy


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
        UnreadableError: It is there and cannot be read.
    """
    try:
        with reading(path):
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
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise DataError(f"not valid JSON ({error})", where=path, fix=fix) from error


@contextmanager
def atomic_folder(path: Path, *, replaces: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, replacing an older result.

    Readers see the old folder or the new one, never a part. On any exception the temporary folder is removed and the
    old one stays as it was. What killed writers of `path` left is removed; an older result that one of them had put
    aside is brought back.

    Args:
        path: The folder to write.
        replaces: Names that an older result may hold. A folder that holds anything else is not replaced, so that a
            mistyped output does not delete other files.

    Raises:
        OutputError: The folder cannot be written, the disk is full, or `path` holds other files.
        UnreadableError: Within the block, another file could not be read.
    """
    temporary: Path | None = None
    handle = -1
    made: list[Path] = []
    given = path
    try:
        # A link to a folder elsewhere stays a link: its target is what is replaced.
        path = Path(os.path.realpath(path))
        _recover(path)
        mode = _check_replaceable(path, given, replaces)
        made = _make_folders(path.parent)
        temporary, handle = _new_folder(path)
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        for folder, _, files in os.walk(temporary):
            for name in files:
                _sync(Path(folder, name))
            _sync(Path(folder))
        _replace_folder(temporary, path)
        made = []
        _sync(path.parent)
    except OSError as error:
        raise writing_error(error, given, path, temporary) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        _close(handle)
        _remove_empty(made)


def _check_replaceable(path: Path, given: Path, replaces: Collection[str]) -> int | None:
    """Return the permission bits of the folder that is to be replaced, None where there is none."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(info.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISDIR(info.st_mode):
        kind = "file" if stat.S_ISREG(info.st_mode) else "device, pipe or socket"
        raise OutputError(f"the output is a {kind}, not a folder", where=given, fix="choose another output")
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in replaces)
    if foreign:
        raise OutputError(
            f"the output folder holds other files ({', '.join(foreign[:3])})", where=given, fix="choose an empty folder"
        )
    return stat.S_IMODE(info.st_mode)


def _recover(path: Path) -> None:
    """Bring back an older result that a killed writer had put aside, and remove what others left."""
    stem = glob.escape(_stem(path))
    old = f"{stem}.{'[0-9a-f]' * 8}.old"
    for aside in list_files(path.parent, old):
        with suppress(BlockingIOError, PermissionError), _dead(aside):
            if not os.path.lexists(path):
                aside.rename(path)
    for leftover in [*list_files(path.parent, old), *list_files(path.parent, f"{stem}.*.partial")]:
        remove_dead(leftover)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`. An older folder is exchanged in one step, or where that is not possible put aside."""
    if not path.exists():
        new.rename(path)
        return
    if _exchange(new, path):
        return  # the older one now has the temporary name, and is removed
    aside = new.with_suffix(".old")
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _locked(path, handle)
        path.rename(aside)
        try:
            new.rename(path)
        except OSError:
            aside.rename(path)
            raise
    finally:
        _close(handle)
    shutil.rmtree(aside, ignore_errors=True)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""From Linux's fcntl.h and fs.h, for renameat2(2)."""


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
