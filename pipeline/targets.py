"""What the name of an output stands for: a file that is replaced, or a stream that is written through.

A device, a pipe or a descriptor must not be replaced by a file: `/dev/stdout` would be gone for the whole machine.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pipeline.errors import OutputError
from pipeline.system_errors import output_error

STDOUT: Final = Path("/dev/stdout")
"""Standard output as the name of an output, on every system; the command line puts it in place of `-`."""

_MOST_LINKS = 40
"""Links that are followed one after the other, as the kernel does."""
_DESCRIPTORS = re.compile(r"/proc/(\d+)(/task/\d+)?/fd|/dev/fd")
_STORED = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30,}(\.dir)?|[0-9a-f]{40,}")
"""How content-addressed stores (DVC's cache, git-annex, hubs of weights) name a file."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Target:
    """What an output is written to.

    Attributes:
        path: The name that was given.
        file: The regular file, there or not, that is replaced; None for a stream.
        descriptor: The descriptor of this process that a stream is; None for a device or pipe, which is opened.
        mode: Permission bits of the file that is replaced, which the new one gets; None: as the umask says.
        owner: User and group of the file that is replaced.
    """

    path: Path
    file: Path | None = None
    descriptor: int | None = None
    mode: int | None = None
    owner: tuple[int, int] | None = None


def resolve_target(path: Path) -> Target:
    """Return what `path` stands for. Links are followed, but for those into a content-addressed store.

    A link that DVC made leads to its cache, which must stay as it is: such a link is itself replaced.

    Raises:
        OutputError: It is a folder, a socket, a disk, a loop of links, or a file that is write-protected.
    """
    try:
        return _resolve(path)
    except OSError as error:
        raise output_error(error, path) from error


def _resolve(path: Path) -> Target:
    if path == STDOUT:
        return Target(path, descriptor=1)
    current = path
    for links in range(_MOST_LINKS):
        folder = Path(os.path.realpath(current.parent))
        current = folder / current.name
        if (match := _DESCRIPTORS.fullmatch(str(folder))) and current.name.isdecimal():
            if match[1] in (None, str(os.getpid())):
                return Target(path, descriptor=int(current.name))
            return Target(path)
        try:
            info = os.lstat(current)
        except FileNotFoundError:
            if links and not folder.is_dir():
                raise OutputError(
                    f"a link leads to {current}, in a folder that is not there", where=path, fix="remove the link"
                ) from None
            return Target(path, file=current)
        if not stat.S_ISLNK(info.st_mode):
            return _of(path, current, info)
        if _leads_to_store(current):
            return Target(path, file=current)
        current = folder / current.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _of(path: Path, file: Path, info: os.stat_result) -> Target:
    kind, mode = info.st_mode, stat.S_IMODE(info.st_mode)
    if stat.S_ISCHR(kind) or stat.S_ISFIFO(kind):
        return Target(path)
    if not stat.S_ISREG(kind):
        name = "a folder" if stat.S_ISDIR(kind) else "a socket" if stat.S_ISSOCK(kind) else "a disk"
        raise OutputError(f"the output is {name}, not a file", where=path, fix="name a file, or - for standard output")
    if mode & 0o222:
        return Target(path, file=file, mode=mode, owner=(info.st_uid, info.st_gid))
    if info.st_nlink > 1:
        # A hard link into DVC's cache is write-protected; the new file takes its name, the cache keeps the old one.
        return Target(path, file=file)
    raise OutputError(
        f"the output is write-protected (mode {mode:04o})",
        where=path,
        fix=f"remove it, make it writable (`chmod u+w {path}`), or choose another output",
    )


def _leads_to_store(link: Path) -> bool:
    goal = link.parent / link.readlink()
    if {".dvc", ".git"} & set(goal.parts) or _STORED.fullmatch(f"{goal.parent.name}/{goal.name}"):
        return True
    if _STORED.fullmatch(goal.name):
        return True
    try:
        info = goal.stat()
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and not info.st_mode & 0o222


def require_file(path: Path) -> None:
    """Refuse an output that is no regular file, where the result is read back from it.

    Raises:
        OutputError: `path` is a stream, or see `resolve_target`.
    """
    if resolve_target(path).file is None:
        raise OutputError(
            "this output is read again from its file, so it cannot be a pipe, a device or standard output",
            where=path,
            fix="name a file",
        )


def is_stdout(path: Path | None) -> bool:
    """Tell whether what is written to `path` goes where this process's standard output goes."""
    if path is None:
        return False
    try:
        target = resolve_target(path)
    except OutputError:
        return False
    if target.file is not None:
        return False
    if target.descriptor == 1:
        return True
    try:
        goal = path.stat() if target.descriptor is None else os.fstat(target.descriptor)
        return os.path.samestat(goal, os.fstat(1)) and not os.path.samestat(goal, Path(os.devnull).stat())
    except OSError:
        return False


def drop_stdout() -> None:
    """Give up standard output, which cannot be written: at its exit Python would try once more, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def write_through(source: BinaryIO, target: Target) -> None:
    """Copy `source` to a stream: a descriptor of this process, a pipe or a device.

    Raises:
        BrokenPipeError: Standard output was closed by the program that reads it.
        OutputError: The stream cannot be written, or another pipe's reader has gone.
    """
    try:
        descriptor = _open_stream(target)
        try:
            while block := source.read(_CHUNK):
                _write_all(descriptor, block)
        finally:
            os.close(descriptor)
    except BrokenPipeError as error:
        if target.descriptor == 1:
            raise
        raise OutputError("the program that reads the output ended before its end", where=target.path) from error
    except OSError as error:
        raise output_error(error, target.path) from error


def _open_stream(target: Target) -> int:
    if target.descriptor is not None:
        if target.descriptor == 1:
            if sys.stdout is None:
                raise OSError(errno.EBADF, "standard output is closed")
            sys.stdout.flush()
        return fcntl.fcntl(target.descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY
    try:
        descriptor = os.open(target.path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO or not stat.S_ISFIFO(target.path.stat().st_mode):
            raise
        print(f"waiting for a program that reads {target.path}", file=sys.stderr)
        return os.open(target.path, flags)
    os.set_blocking(descriptor, True)
    return descriptor


def _write_all(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
