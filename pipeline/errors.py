"""The project's own exceptions: what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class SageccError(Exception):
    """A mistake that the user can mend; the command line prints it without a traceback.

    Args:
        what: What is wrong, in one sentence without a full stop.
        where: The file, field or item in which it is wrong.
        fix: What to do: a command, a setting, or a file to look at.
    """

    exit_code: ClassVar[int] = 2
    """What the command line exits with."""

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.fix is not None:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders on the Dask engine; the default would drop the keyword arguments.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception of another library says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _rebuild(kind: type[SageccError], what: str, where: str | None, fix: str | None) -> SageccError:
    return kind(what, where=where, fix=fix)


class UnreadableError(SageccError):
    """A file that could not be read this time: no permission, an error of the disk, too many open files.

    Its content is unknown. So this is no kind of DataError, CacheError or CheckpointError, after which a file may be
    removed or made again.
    """


class SettingsError(SageccError):
    """A settings file, key or value that cannot be used."""


class DataError(SageccError):
    """A data set, caption file or image that is missing, damaged or contradicts itself."""


class CacheError(SageccError):
    """A cache that is missing, damaged, unfinished, or made from other settings, weights or inputs."""


class CheckpointError(SageccError):
    """Weights that are missing, damaged, or belong to another model."""


class OutputError(SageccError):
    """A result that cannot be written: no space, no permission, a name that is taken."""


class ServiceError(SageccError):
    """Something outside the project that is missing or failed: Java, a Dask scheduler, an endpoint."""


class ResourceError(SageccError):
    """Work that this machine has no room for, however little of it is done at once; no fault of what is worked on."""
