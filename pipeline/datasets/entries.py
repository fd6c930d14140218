"""What a caption file says about a pair, before any image is looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pipeline.datasets.records import Split
from pipeline.errors import DataError

_SPLIT_NAMES: Final[dict[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Entry:
    """One pair as a caption file names it.

    Attributes:
        stem: File name without folder and suffix; pairs and images are joined by it.
        split: The split it is given to, if any.
        folder_split: The split that the folder it names stands for, if any.
        captions: Its sentences, in file order, white space tidied.
        changed: Its change flag, if it has one.
    """

    stem: str
    split: Split | None = None
    folder_split: Split | None = None
    captions: tuple[str, ...] = ()
    changed: bool | None = None


def split_named(text: str) -> Split | None:
    """Return the split that a word stands for ("validation" is val), None for any other word."""
    return _SPLIT_NAMES.get(text.strip().lower())


def parse_split(value: Any, where: str) -> Split | None:
    """Read a split from a file; None or an empty text says nothing.

    Raises:
        DataError: It is no split's name.
    """
    if value is None or value == "":
        return None
    split = split_named(value) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"{value!r} is no split", where=where, fix="use train, val or test")
    return split


def parse_flag(value: Any, where: str) -> bool | None:
    """Read a change flag from a file: 0 or 1, true or false, also as text; None or an empty text says nothing.

    Raises:
        DataError: It is anything else.
    """
    if value is None or value == "":
        return None
    flags = {"0": False, "1": True, "false": False, "true": True}
    flag = flags.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if flag is None:
        raise DataError(f"{value!r} is no change flag", where=where, fix="use 0 (unchanged) or 1 (changed)")
    return flag
