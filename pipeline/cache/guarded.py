"""A file for HDF5 to write to that never fails while HDF5 looks on."""

from __future__ import annotations

from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


class GuardedFile:
    """A raw file whose first failure is kept, and after which writing is only pretended.

    HDF5 cannot close a file whose writes fail: on a full disk it leaks the descriptor, raises errors without a number,
    and crashes the interpreter at its exit. So the failure is kept from it: it goes on and closes in peace, and
    whoever drives it calls `check` after every block to learn of the failure. A key press (KeyboardInterrupt) that
    arrives inside a write is treated the same.

    Offers what h5py asks of a file object; see "Python file-like objects" in its manual.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._raw = FileIO(path, mode)
        self._failure: BaseException | None = None

    def __enter__(self) -> GuardedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def check(self) -> None:
        """Raise the first failure, if there was one; an OSError has its number."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: memoryview) -> int:
        """Write all of `data` at the present position."""
        view = memoryview(data).cast("B")
        return self._try(lambda: self._write_all(view), len(view))

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        return self._try(lambda: self._raw.truncate(size), size or 0)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from the present position."""
        return self._raw.readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._raw.tell()

    def flush(self) -> None:
        """Nothing is buffered here; `pipeline.files.atomic_path` flushes to disk."""

    def _write_all(self, view: memoryview) -> int:
        done = 0
        while done < len(view):
            done += self._raw.write(view[done:])
        return done

    def _try(self, action: Callable[[], _T], pretended: _T) -> _T:
        if self._failure is not None:
            return pretended
        try:
            return action()
        except BaseException as failure:  # a key press too; `check` raises it
            self._failure = failure
            return pretended
