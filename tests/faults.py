"""Files whose reading or writing fails as on a bad disk, a lost mount or a crowded machine.

`failing` lets calls of the operating system for chosen paths fail with a chosen error number, within this process:
`open` (and with it pathlib, Pillow, PyTorch's own files …), `os.open`, `os.scandir`, `os.fsync`, `h5py.File`. Libraries
that open files in C do not see it, but for h5py.

Example:
    with failing(errno.EIO, shard, after=2):
        ...  # the third read of the shard raises OSError(EIO)
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pytest

FAILED_READS = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOLCK,
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.ENOMEM,
    errno.ELOOP,
    errno.ENOTCONN,
)
"""What a read may fail with although the file is there and whole."""
FAILED_WRITES = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Chosen = Path | Callable[[Path], bool]


def error_names(numbers: tuple[int, ...]) -> list[str]:
    """Return the names of error numbers, as ids of parameters."""
    return [errno.errorcode[number] for number in numbers]


@contextmanager
def failing(number: int, chosen: Chosen, *, after: int | None = None, writes: bool = False) -> Iterator[None]:
    """Let reads of the chosen files fail within the block.

    Args:
        number: The error number.
        chosen: The file or folder, or whether a path is one of those that fail.
        after: None: they cannot even be opened. Otherwise how many reads (with `writes`, writes) succeed before.
        writes: Writing fails instead: opening and reading succeed.
    """

    def is_chosen(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        whole = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - links are not to be followed
        return chosen(whole) if callable(chosen) else whole == chosen.absolute()

    def refusal(path: Any = None) -> OSError:
        return OSError(number, os.strerror(number), None if path is None else os.fspath(path))

    class Failing(io.FileIO):
        calls = 0

        def _count(self) -> None:
            self.calls += 1
            if self.calls > (after or 0):
                raise refusal()

        def readinto(self, buffer: Any, /) -> Any:
            if not writes:
                self._count()
            return super().readinto(buffer)

        def read(self, size: int | None = -1, /) -> Any:
            if not writes:
                self._count()
            return super().read(-1 if size is None else size)

        def readall(self) -> Any:
            if not writes:
                self._count()
            return super().readall()

        def write(self, data: Any, /) -> Any:
            if writes:
                self._count()
            return super().write(data)

    true_open, true_os_open, true_scandir, true_fsync = builtins.open, os.open, os.scandir, os.fsync
    true_hdf5 = h5py.File.__init__

    def open_(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if not is_chosen(file):
            return true_open(file, mode, buffering, *rest, **named)
        if after is None and not writes:
            raise refusal(file)
        raw: Any = Failing(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **named)

    def os_open(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if is_chosen(path) and after is None and not writes:
            raise refusal(path)
        return true_os_open(path, flags, *rest, **named)

    def scandir(path: Any = ".") -> Any:
        if is_chosen(path) and not writes:
            raise refusal(path)
        return true_scandir(path)

    def fsync(handle: Any) -> None:
        if writes and is_chosen(Path(f"/proc/self/fd/{handle}").readlink()):
            raise refusal()
        true_fsync(handle)

    def hdf5(self: Any, name: Any, *rest: Any, **named: Any) -> None:
        if is_chosen(name) and not writes:
            text = f"Unable to synchronously open file (errno = {number}, error message = '{os.strerror(number)}')"
            raise OSError(number, text)
        true_hdf5(self, name, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", open_)
        patch.setattr(io, "open", open_)
        patch.setattr(os, "open", os_open)
        patch.setattr(os, "scandir", scandir)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(h5py.File, "__init__", hdf5)
        yield
