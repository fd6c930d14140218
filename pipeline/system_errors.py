"""Errors of the operating system in words: what could not be read or written, why, and what to do.

A failed read is not damage: of a file that cannot be read nothing is known, so it is neither removed nor made again.
`failed_read` tells the two apart where a library reports both alike.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OutputError, SageccError, UnreadableError

_CHUNK = 1 << 20
_AGAIN = "run the same command again; if it repeats, "

_WORDS: dict[int, tuple[str, str]] = {
    errno.EACCES: ("no permission", ""),
    errno.EPERM: ("no permission", ""),
    errno.EIO: (
        "the disk or file system reports an input/output error (EIO)",
        f"{_AGAIN}check the disk (`dmesg`, `smartctl`) or the network mount",
    ),
    errno.ESTALE: (
        "the network file system no longer knows the file (ESTALE)",
        f"{_AGAIN}mount the file system again",
    ),
    errno.ENFILE: ("too many open files on this machine (ENFILE)", "end other programs and run the same command again"),
    errno.ENOLCK: ("the file system gives no locks (ENOLCK)", f"{_AGAIN}work on another file system"),
    errno.EAGAIN: ("another program holds the file (EAGAIN)", "wait until it ends and run the same command again"),
    errno.ETIMEDOUT: (
        "the file system did not answer in time (ETIMEDOUT)",
        f"{_AGAIN}check the network mount",
    ),
    errno.ENOMEM: ("the machine's memory is used up (ENOMEM)", "end other programs, or raise the limit (`ulimit -v`)"),
    errno.ELOOP: ("a link that leads back to itself (ELOOP)", "remove the link or correct where it leads"),
    errno.ENOTCONN: ("the file system is not connected (ENOTCONN)", "mount it again"),
    errno.EHOSTDOWN: ("the file system's server is down (EHOSTDOWN)", f"{_AGAIN}check the network mount"),
    errno.EREMOTEIO: ("the file system's server reports an error (EREMOTEIO)", f"{_AGAIN}check the network mount"),
    errno.ECONNRESET: ("the file system's server hung up (ECONNRESET)", f"{_AGAIN}check the network mount"),
    errno.EBUSY: ("it is in use or a mount point (EBUSY)", "end what uses it, or choose another place"),
    errno.ENODEV: ("the device is not there (ENODEV)", "connect it, or choose another file"),
    errno.ENXIO: ("the device is not there (ENXIO)", "connect it, or choose another file"),
    errno.EUCLEAN: ("the file system is damaged (EUCLEAN)", "check it (`fsck`)"),
    errno.ENOSYS: ("the file system cannot do this (ENOSYS)", "work on another file system"),
    errno.EOPNOTSUPP: ("the file system cannot do this (EOPNOTSUPP)", "work on another file system"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter name"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "correct the path"),
    errno.EISDIR: ("it is a folder, not a file", "name a file"),
    errno.EEXIST: ("a file, or a link that leads nowhere, is in the way", "remove it or correct the path"),
    errno.ENOENT: ("there is no such file or folder", "correct the path"),
    errno.EBADF: ("it is not open for this", "correct the redirection of the command"),
}
"""What an error number says, and what to do about it."""
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})
"""There is no such file: nothing that could be lost."""
_FAILED = frozenset(_WORDS) - _MISSING | {errno.EMFILE}
"""A library's error with one of these numbers is a failed read; with another, the file is read through to find out."""
_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_TEMPORARY = frozenset({".partial", ".old"})
"""How the names end that writing makes beside a final name."""
_NUMBER = re.compile(r"errno = (\d+)|os error (\d+)|\[Errno (\d+)\]")
"""How HDF5, Rust's libraries and Python write an error number."""


def read_error(error: OSError, path: Path) -> UnreadableError:
    """Return the project's error for an OSError raised while reading `path`."""
    what, fix = _told(error, path)
    return UnreadableError(f"cannot read: {what}", where=path, fix=fix or "change its rights, or run as its owner")


def output_error(error: OSError, path: Path) -> OutputError:
    """Return the project's error for an OSError raised while writing `path`."""
    number = number_of(error)
    if number == errno.ENOSPC:
        return OutputError("the disk is full", where=path, fix="free some space and run the same command again")
    if number == errno.EDQUOT:
        return OutputError(
            "the disk is full: your quota is used up", where=path, fix="free some space and run the same command again"
        )
    if number == errno.EFBIG:
        return OutputError(
            "cannot write: File too large for the file system or for `ulimit -f`",
            where=path,
            fix="raise the limit, or choose an output on another file system",
        )
    if number == errno.EROFS:
        return OutputError(
            "no permission to write here: the file system is read-only", where=path, fix="choose another output"
        )
    if number in (errno.EACCES, errno.EPERM) or isinstance(error, PermissionError):
        return OutputError("no permission to write here", where=path, fix="choose another output or change its rights")
    what, fix = _told(error, path)
    return OutputError(f"cannot write: {what}", where=path, fix=fix or None)


def refusal(error: OSError) -> SageccError | None:
    """Return the project's error for an OSError that nothing has told better; None if it is not the system's."""
    number = number_of(error)
    if number is None:
        return None
    name = error.filename if isinstance(error.filename, str) else None
    if number in _OF_WRITING:
        return output_error(error, Path(name or "standard output"))
    what, fix = _told(error, Path(name or ""))
    return SageccError(f"the operating system refuses: {what}", where=name, fix=fix or "change its rights")


def writing_error(error: OSError, path: Path, *own: Path | None) -> OutputError | UnreadableError:
    """Return the project's error for an OSError raised while `path` was being made, perhaps from other files.

    Args:
        error: The error.
        path: The final name.
        own: Other names that the writing itself uses; an error that names none of them is one of reading another file.
    """
    if isinstance(error.filename, str) and number_of(error) not in _OF_WRITING | _MISSING:
        name = Path(error.filename).absolute()
        places = [place.absolute() for place in (path, *own) if place is not None]
        # The temporary name beside the final one, where not even that could be made.
        if name.suffix in _TEMPORARY and name.parent in {place.parent for place in places}:
            return output_error(error, path)
        if not any(name == place or name in place.parents or place in name.parents for place in places):
            return read_error(error, name)
    return output_error(error, path)


def failed_read(error: BaseException, path: Path) -> UnreadableError | None:
    """Return the project's error if `error` arose because `path` could not be read; None if it was read and is wrong.

    Libraries report both alike. The error number decides, where there is one; elsewhere the file is read through.
    """
    cause: BaseException | None = error
    while cause is not None:
        number = number_of(cause)
        if number in _FAILED:
            return read_error(OSError(number, os.strerror(number or 0)), path)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    try:
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as stream:
                while stream.read(_CHUNK):
                    pass
    except OSError as second:
        return None if number_of(second) in _MISSING else read_error(second, path)
    return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a failed read of `path` within the block into UnreadableError; of a missing file the OSError stays.

    Raises:
        UnreadableError: The file cannot be read; see there.
    """
    try:
        yield
    except OSError as error:
        if number_of(error) in _MISSING:
            raise
        raise read_error(error, path) from error


def number_of(error: BaseException) -> int | None:
    """Return the error number of an exception, from its text where a library gives it there only."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    if isinstance(error, PermissionError):
        return errno.EACCES
    match = _NUMBER.search(str(error))
    return int(next(filter(None, match.groups()))) if match else None


def _told(error: OSError, path: Path) -> tuple[str, str]:
    number = number_of(error)
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission{_rights(path)}", ""
    if number == errno.EMFILE:
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        raised = f"`ulimit -n {most}`" if most > limit else "by whoever sets it"
        return (
            f"too many open files: the limit of this process (`ulimit -n`) is {limit:,}",
            f"raise the limit ({raised}), or lower engine.workers, and run the same command again",
        )
    if number in _WORDS:
        return _WORDS[number]
    return str(error.strerror or error), "run the same command again"


def _rights(path: Path) -> str:
    try:
        info = path.stat()
    except OSError:
        return " to look into its folder"
    return f" (mode {stat.S_IMODE(info.st_mode):04o}, owner {info.st_uid}; this process is user {os.geteuid()})"
