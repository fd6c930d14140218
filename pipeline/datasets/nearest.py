"""Guesses for a file that is not where a list or caption file says: the nearest name that is there, and why."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb "
_SIMILAR: Final = 0.8
_NUMBER: Final = re.compile(r"\d+")


class FolderNames:
    """The names in the folders below a root, each folder listed once.

    Args:
        root: The folder that paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[PurePosixPath, tuple[str, ...]] = {}

    def in_folder(self, folder: PurePosixPath) -> tuple[str, ...]:
        """Return the names in a folder, sorted; none where there is no such folder, or it cannot be read."""
        if folder not in self._listed:
            try:
                self._listed[folder] = tuple(sorted(path.name for path in (self._root / folder).iterdir()))
            except OSError:
                self._listed[folder] = ()
        return self._listed[folder]

    def is_file(self, path: PurePosixPath) -> bool:
        """Whether there is such a file."""
        return path.name in self.in_folder(path.parent) and (self._root / path).is_file()

    def same_text(self, name: str) -> str | None:
        """Return the file whose path is the same text in another Unicode form (é as one character or as two)."""
        return self._matched(name, lambda text: unicodedata.normalize("NFC", text))

    def folder_like(self, name: str) -> str | None:
        """Return the folder whose path is the same but for capitals and Unicode forms."""
        return next((str(path) for path in self._equal(name, folded) if (self._root / path).is_dir()), None)

    def guess(self, name: str, beside: str = ".") -> str | None:
        """Guess why a file is not there.

        Args:
            name: Its path relative to the root.
            beside: Folder of the list that names it, relative to the root.

        Returns:
            In words: what is there instead, and how it differs; None where nothing is near.
        """
        path = PurePosixPath(name)
        for near, why in self._candidates(path, PurePosixPath(beside)):
            if near is not None:
                return f"`{near}` is there: {why}"
        # A name with another number is another image.
        numbers = _NUMBER.findall(path.name)
        alike = [each for each in self.in_folder(path.parent) if _NUMBER.findall(each) == numbers]
        close = difflib.get_close_matches(path.name, alike, n=1, cutoff=_SIMILAR)
        return f"the nearest name is `{path.parent / close[0]}`" if close else None

    def _candidates(self, path: PurePosixPath, beside: PurePosixPath) -> Iterator[tuple[str | None, str]]:
        name = path.as_posix()
        yield self._matched(name, folded), "capitals count"
        plain = unquote(name)
        yield self._first([plain] if plain != name else []), "% codes are not decoded"
        bare = "/".join(part.strip(_QUOTES) for part in path.parts)
        yield self._first([bare] if bare != name else []), "without quotes and spaces"
        yield self._other_ending(path), "the ending differs"
        shorter = (PurePosixPath(*path.parts[start:]).as_posix() for start in range(1, len(path.parts)))
        yield self._first(shorter), "paths are relative to prepare.root"
        yield self._first([(beside / path).as_posix()]), "paths are relative to prepare.root, not to the list"
        folders = [(PurePosixPath(folder) / path).as_posix() for folder in self.in_folder(PurePosixPath("."))]
        yield self._first(folders), "paths are relative to prepare.root and name the folder"

    def _first(self, names: Iterable[str]) -> str | None:
        return next((name for name in names if self.is_file(PurePosixPath(name))), None)

    def _matched(self, name: str, form: Callable[[str], str]) -> str | None:
        return self._first(path.as_posix() for path in self._equal(name, form))

    def _equal(self, name: str, form: Callable[[str], str]) -> list[PurePosixPath]:
        """Return what is equal to `name`, part by part, in a form of both."""
        equal = [PurePosixPath(".")]
        for part in PurePosixPath(name).parts:
            wanted = form(part)
            equal = [folder / near for folder in equal for near in self.in_folder(folder) if form(near) == wanted]
        return equal

    def _other_ending(self, path: PurePosixPath) -> str | None:
        names = self.in_folder(path.parent)
        near = [name for name in names if folded(PurePosixPath(name).stem) in (folded(path.stem), folded(path.name))]
        return self._first((path.parent / name).as_posix() for name in near)


def folded(text: str) -> str:
    """Return a text without its capitals, in Unicode's composed form, for comparison."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
