"""Checks of paths and texts from a data set's files: paths stay within the root, texts can be written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.errors import DataError

_DRIVE: Final = re.compile(r"^[A-Za-z]:")
_REFUSED: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def inner_path(text: str, where: str) -> PurePosixPath:
    """Parse a path from a data set's file: relative, without `..`, of writable characters.

    Args:
        text: The path as it stands in the file.
        where: File and entry, for the error.

    Raises:
        DataError: It is empty, absolute, has `..`, a backslash or control characters.
    """
    fix = "correct the file: paths are relative to the data set's root, with forward slashes"
    if any(unicodedata.category(sign) in _REFUSED for sign in text):
        raise DataError(f"the path {text!r} has characters that no path should have", where=where, fix=fix)
    if "\\" in text:
        raise DataError(f"the path {text!r} has a backslash", where=where, fix=fix)
    path = PurePosixPath(text)
    if path.is_absolute() or _DRIVE.match(text):
        raise DataError(f"the path {text!r} is absolute", where=where, fix=fix)
    if ".." in path.parts:
        raise DataError(f"the path {text!r} leaves its folder with `..`", where=where, fix=fix)
    if not path.name.strip("."):
        raise DataError(f"{text!r} names no file", where=where, fix=fix)
    return path


def refuse_outside(path: Path, root: Path) -> None:
    """Raise if the links of a file or folder lead out of the data set's root.

    Raises:
        DataError: `path`, all links followed, does not lie within `root`, all links followed.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            "a link leads out of the data set's root",
            where=path,
            fix="copy the file into the root, or move the root up",
        )


def files_in(root: Path, folder: str) -> Iterator[Path]:
    """Yield the files directly in `root/folder`, sorted by name, without hidden ones; none if it does not exist.

    Raises:
        DataError: The folder or a file in it is a link that leads out of `root`, or it cannot be read.
    """
    directory = root / folder
    try:
        if not directory.is_dir():
            return
        refuse_outside(directory, root)
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read the folder: {error.strerror or error}", where=directory) from error
    for path in paths:
        if path.is_symlink():
            refuse_outside(path, root)
        if path.is_file():
            yield path


def check_root(root: Path) -> None:
    """Check that a data set's root is a folder with something in it.

    Raises:
        DataError: It is missing, no folder, or empty.
    """
    fix = "set prepare.root to the folder of the data set"
    try:
        if not root.is_dir():
            raise DataError("the data set's root is not a folder", where=root, fix=fix)
        if next(root.iterdir(), None) is None:
            raise DataError("the data set's root is empty", where=root, fix=fix)
    except OSError as error:
        raise DataError(f"cannot read the data set's root: {error.strerror or error}", where=root, fix=fix) from error


def clean_text(text: str, where: str) -> str:
    """Return a text as one line without spaces at its ends.

    Raises:
        DataError: It cannot be written as UTF-8 (a lone surrogate from a JSON escape).
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "a text holds half a character (a lone surrogate)", where=where, fix="correct the file"
        ) from error
    return " ".join(text.split())
