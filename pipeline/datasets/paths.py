"""Checks of paths and texts from a data set's files: paths stay within the root, texts can be written."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.contents import name_contents
from pipeline.datasets.links import LinkRule, check_link, lost_link
from pipeline.errors import DataError
from pipeline.system_errors import read_error, reading

_DRIVE: Final = re.compile(r"^[A-Za-z]:")
_ADDRESS: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_REFUSED: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_FIX: Final = "correct the file: paths are relative to the data set's root"


def inner_path(text: str, where: str, root: Path | None = None) -> PurePosixPath:
    """Parse a path from a data set's file: relative, without `..`, of writable characters.

    Spaces around it are dropped, and backslashes are taken for slashes, as Windows has them.

    Args:
        text: The path as it stands in the file.
        where: File and entry, for the error.
        root: The data set's root: an absolute path within it is taken as relative to it.

    Raises:
        DataError: It is empty, an address, absolute, has `..` or control characters.
    """
    if any(unicodedata.category(sign) in _REFUSED for sign in text):
        raise DataError(f"the path {text!r} has characters that no path should have", where=where, fix=_FIX)
    path = PurePosixPath(text.strip().replace("\\", "/"))
    if _ADDRESS.match(text):
        fix = "download the file into the data set's root and write its path there"
        raise DataError(f"the path {text!r} is an address", where=where, fix=fix)
    if path.is_absolute() and root is not None:
        path = _within(path, root) or path
    if path.is_absolute() or _DRIVE.match(text):
        raise DataError(f"the path {text!r} is absolute", where=where, fix=_relative_advice(path, root))
    if ".." in path.parts:
        raise DataError(f"the path {text!r} leaves its folder with `..`", where=where, fix=_relative_advice(path, root))
    if not path.name.strip("."):
        raise DataError(f"{text!r} names no file", where=where, fix=_FIX)
    return path


def _within(path: PurePosixPath, root: Path) -> PurePosixPath | None:
    """Return an absolute path relative to the root, which it may name with or without its links; None outside."""
    for base in (root.absolute(), Path(os.path.realpath(root))):
        if path.is_relative_to(base) and path != PurePosixPath(base):
            return path.relative_to(base)
    return None


def _relative_advice(path: PurePosixPath, root: Path | None) -> str:
    """Say what to write in the place of a path that leaves the root: its end, where that is a file within."""
    if root is not None:
        for start in range(1, len(path.parts)):
            inner = PurePosixPath(*path.parts[start:])
            if ".." not in inner.parts and (root / inner).is_file():
                return f"write {inner}: paths are relative to the data set's root, {root}"
    return f"{_FIX}; where images lie outside it, set prepare.root to a folder that holds them all"


def files_in(root: Path, folder: str, rule: LinkRule = "inside") -> Iterator[Path]:
    """Yield the files directly in `root/folder`, sorted by name, without hidden ones; none if it does not exist.

    Links to files are yielded as they are, also those that lead nowhere: `check_link` tells of them file by file.

    Args:
        root: The data set's root.
        folder: The folder within.
        rule: Where the folder may lead if it is a link.

    Raises:
        DataError: The folder is a link that leads nowhere, or to where it may not.
        UnreadableError: It cannot be read.
    """
    directory = root / folder
    check_link(directory, root, rule)
    try:
        if not directory.is_dir():
            return
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise read_error(error, directory) from error
    for path in paths:
        if path.is_file() or lost_link(path):
            yield path


def check_root(root: Path) -> None:
    """Check that a data set's root is a folder with something in it.

    Raises:
        DataError: It is missing, no folder, or empty; the message says what is near.
        UnreadableError: It cannot be read.
    """
    fix = "set prepare.root to the folder of the data set"
    if lost := lost_link(root):
        raise DataError(f"the data set's root is {lost.what}", where=root, fix=lost.fix)
    try:
        with reading(root):
            if next(root.iterdir(), None) is None:
                raise DataError("the data set's root is empty", where=root, fix=_pulled(root) or fix)
    except FileNotFoundError:
        raise DataError(
            "the data set's root is not a folder: it is not there", where=root.absolute(), fix=_near(root) or fix
        ) from None
    except NotADirectoryError:
        raise DataError(f"the data set's root is not a folder: {_named(root)}", where=root, fix=fix) from None


def _named(path: Path) -> str:
    if not path.is_file():
        return f"a part of the path {path.parent} is a file"
    with reading(path), path.open("rb") as stream:
        name, _ = name_contents(stream.read(1024))
    return f"it is {name or 'a file'}"


def _near(root: Path) -> str | None:
    """Guess what a root that is not there should be: DVC's, or a folder of nearly the same name."""
    text = str(root)
    if _ADDRESS.match(text) or re.match(r"^[a-z0-9]+:/", text):
        return "download the data set, and set prepare.root to its folder on this machine"
    if pulled := _pulled(root):
        return pulled
    above = root.absolute()
    while not above.parent.is_dir():
        above = above.parent
    wanted = _folded(above.name)
    try:
        near = [path for path in sorted(above.parent.iterdir()) if path.is_dir() and _folded(path.name) == wanted]
    except OSError:
        near = []
    if near:
        return f"set prepare.root to {near[0] / root.absolute().relative_to(above)}: capitals and spaces count"
    return f"set prepare.root to the folder of the data set; of this path {above.parent} is there"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().strip("\"'").casefold())


def _pulled(root: Path) -> str | None:
    """Return how to fetch a root that DVC tracks and has not brought here."""
    pointer = root.parent / f"{root.name}.dvc"
    return f"fetch it with `dvc pull {pointer}`" if root.name and pointer.is_file() else None


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
