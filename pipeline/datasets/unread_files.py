"""Files and folders among a data set's images that are not read, so that none is passed over without a word."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.datasets.images import IMAGE_SUFFIXES
from pipeline.datasets.links import lost_link
from pipeline.errors import DataError

_SYSTEM: Final = frozenset(
    {"thumbs.db", "desktop.ini", ".ds_store", ".directory", ".gitignore", ".gitkeep", ".dvcignore"}
)
"""Files that file managers, Git and DVC leave in every folder, in lower case."""

_COMPANIONS: Final = frozenset(
    {".aux.xml", ".msk", ".ovr", ".wld", ".prj", ".tab", ".dvc"}
    | {f".{ending}" for ending in ("pgw", "pngw", "jgw", "jpgw", "jpegw", "tfw", "tifw", "tiffw")}
)
"""Endings of files that belong to an image of the same name: coordinates, masks, overviews, pointers of DVC."""


def files_not_read(root: Path, folder: str) -> Iterator[tuple[Path, str]]:
    """Yield what lies directly in `root/folder` and is no image that is read, sorted by name, with the reason.

    Left out are the files of file managers, Git and DVC, and those that belong to an image of the same name.

    Raises:
        DataError: The folder cannot be read.
    """
    directory = root / folder
    try:
        paths = sorted(directory.iterdir()) if directory.is_dir() else []
        stems = {path.stem for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}
        for path in paths:
            if (reason := _reason(path, stems)) is not None:
                yield path, reason
    except OSError as error:
        raise DataError(f"cannot read the folder: {error.strerror or error}", where=directory) from error


def images_not_listed(root: Path, listed: Collection[str]) -> Iterator[str]:
    """Yield the images that lie beside those of a list and that the list does not name, sorted.

    Args:
        root: The data set's root.
        listed: Paths of the list's images, relative to the root.

    Yields:
        Paths relative to the root.

    Raises:
        DataError: A folder cannot be read.
    """
    for folder in sorted({PurePosixPath(name).parent for name in listed}):
        directory = root / folder
        try:
            paths = sorted(directory.iterdir()) if directory.is_dir() else []
        except OSError as error:
            raise DataError(f"cannot read the folder: {error.strerror or error}", where=directory) from error
        for path in paths:
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._") and name not in listed:
                yield name


def has_text_name(path: Path) -> bool:
    """Whether a file's name is UTF-8, so that records can hold it."""
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _reason(path: Path, stems: Collection[str]) -> str | None:
    suffix = path.suffix.lower()
    if path.name.lower() in _SYSTEM or path.name.startswith("._"):
        return None
    if lost_link(path):
        # The link of an image is told where the images are read.
        return None if suffix in IMAGE_SUFFIXES else "a link to a file that is not there"
    if path.is_dir():
        return None if path.name.startswith(".") else "a folder; images are looked for in the folder above it alone"
    if not path.is_file():
        return "no regular file"
    if not has_text_name(path):
        return "its name is not UTF-8"
    if suffix in IMAGE_SUFFIXES:
        return "hidden, since its name begins with a dot" if path.name.startswith(".") else None
    if _belongs_to_image(path.name, stems):
        return None
    return f"{'a file' if not suffix else f'a {suffix} file'}; PNG, JPEG and TIFF are read"


def _belongs_to_image(name: str, stems: Collection[str]) -> bool:
    """Whether a name is that of an image with an ending more (`a.png.aux.xml`), or in its place (`a.pgw`)."""
    lower = name.lower()
    for ending in _COMPANIONS:
        if lower.endswith(ending):
            base = name[: -len(ending)]
            if base in stems or (Path(base).suffix.lower() in IMAGE_SUFFIXES and Path(base).stem in stems):
                return True
    return False
