"""Import of embeddings that others computed: one array per date, in `.npy` files or in HDF5 files.

`tags` shares the first part: the dates to import for, their files, and the fields of semantics.h5.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.links import LinkRule, check_link
from pipeline.datasets.nearest import FolderNames
from pipeline.datasets.paths import inner_path
from pipeline.datasets.records import Pair
from pipeline.errors import DataError, SageccError, UnreadableError, first_line
from pipeline.execution.compute import WorkItem
from pipeline.files import content_key, sha256_bytes, sha256_file
from pipeline.system_errors import failed_read, number_of, reading
from pipeline.vision.external.settings import SourceSettings

Date = Literal["before", "after"]
DATES: Final[tuple[Date, Date]] = ("before", "after")
SETTING: Final = "semantics.source"

_NPY_FIX: Final = "write it again with numpy.save(file, array, allow_pickle=False)"


@dataclass(frozen=True)
class Unit:
    """One date of one pair.

    Attributes:
        pair: The pair.
        date: Which of the two.
    """

    pair: Pair
    date: Date

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"{self.pair.id} {self.date}"

    @property
    def stem(self) -> str:
        """Stem of the image's file."""
        return Path(getattr(self.pair, self.date)).stem

    def fill(self, template: str) -> str:
        """Return a template with its fields replaced by the pair's split, stem and id."""
        values = {"{split}": self.pair.split, "{stem}": self.stem, "{id}": self.pair.id}
        for field, value in values.items():
            template = template.replace(field, value)
        return template


def units_of(pairs: Sequence[Pair]) -> list[Unit]:
    """Return both dates of every pair, in the order of the cache's units."""
    return [Unit(pair, date) for pair in pairs for date in DATES]


def resolve_file(root: Path, name: str, setting: str, links: LinkRule = "inside") -> Path:
    """Return the path of a file, which need not exist.

    Args:
        root: Folder that it lies in.
        name: Its path within the folder.
        setting: Setting that names it, for errors.
        links: Where links may lead.

    Raises:
        DataError: The name leads out of the folder, or a link where it may not.
    """
    path = root / inner_path(name, f"{SETTING}.{setting}", root)
    check_link(path, root, links, f"{SETTING}.links")
    return path


def check_missing(
    missing: Sequence[Unit], settings: SourceSettings, what: str, where: Path, wanted: str | None = None
) -> None:
    """Check that no date is missing, unless the settings allow it.

    Args:
        missing: The dates without data.
        settings: Whether that is allowed.
        what: What they lack, as the message has it.
        where: File or folder in which it was looked for.
        wanted: What was looked for, and what is there instead.

    Raises:
        DataError: Dates are missing; the first ones are named.
    """
    if not missing or settings.allow_missing:
        return
    labels = ", ".join(unit.label for unit in missing[:3]) + (" …" if len(missing) > 3 else "")
    raise DataError(
        f"{len(missing):,} dates have no {what}: {labels}" + (f" ({wanted})" if wanted else ""),
        where=where,
        fix=f"put them there, or set {SETTING}.allow_missing: true to give these dates no regions",
    )


def validate_embeddings(array: NDArray[Any], width: int | None, where: str) -> NDArray[np.float16]:
    """Check embeddings and convert them to the cache's type.

    Args:
        array: The array of the file.
        width: Required width; None: any.
        where: File, for errors.

    Returns:
        (J, width) float16.

    Raises:
        DataError: It is no matrix of floats, of another width, or holds a value that is not finite in half precision.
    """
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"embeddings must be an array (regions, width) of floats, not {array.shape} of {array.dtype}",
            where=where,
            fix="store one row per region",
        )
    if width is not None and array.shape[1] != width:
        raise DataError(
            f"the embeddings are {array.shape[1]} wide instead of {width}",
            where=where,
            fix=f"store all of one width, or correct {SETTING}.width",
        )
    if not np.isfinite(array).all():
        raise DataError("the embeddings hold NaN or infinity", where=where, fix="compute this file again")
    with np.errstate(over="ignore"):
        half: NDArray[np.float16] = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise DataError(
            f"the embeddings reach {np.abs(array).max():.3g}, and half precision ends at 65504",
            where=where,
            fix="scale all of them by one factor",
        )
    return half


def semantic_fields(
    embeddings: NDArray[np.float16], scores: NDArray[np.float32], category: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    """Return the fields of semantics.h5 for one date, regions in order of falling score.

    Imported regions have no position: boxes and sizes are zero, masks and maps are empty, and all regions
    are selected. Their similarity to a prompt is their score.

    Args:
        embeddings: (J, width).
        scores: (J,) in [0, 1].
        category: (J,) from 0.
    """
    count = len(embeddings)
    return {
        "boxes": np.zeros((count, 4), np.float32),
        "scores": scores,
        "category": category,
        "runs": np.zeros(count, np.int32),
        "counts": np.zeros(0, np.uint32),
        "embeddings": embeddings,
        "descriptors": np.zeros((count, 0), np.float16),
        "similarity": scores[:, None].astype(np.float16),
        "selected": np.ones(count, np.uint8),
        "map": np.zeros((0, 0), np.uint8),
        "map_score": np.zeros((0, 0), np.uint8),
        "size": np.zeros(2, np.int32),
    }


@dataclass(frozen=True)
class Array:
    """Address of the embeddings of one date.

    Attributes:
        path: The file, absolute: workers of a cluster may have another working directory.
        sha256: Hash of the file when the arrays were listed.
        name: The data set of an HDF5 file; None for a `.npy` file.
    """

    path: Path
    sha256: str
    name: str | None = None

    @property
    def where(self) -> str:
        """Name for messages."""
        return str(self.path) if self.name is None else f"{self.path}, data set {self.name}"


@dataclass(frozen=True)
class ArrayItems:
    """Arrays to import.

    Attributes:
        items: One per date of every pair; the payload is an `Array`, or None where there is none.
        width: Width of all embeddings.
        upstream: SHA-256 of each HDF5 file by its name, or of all `.npy` files together.
    """

    items: list[WorkItem]
    width: int
    upstream: dict[str, str]


def list_npy(pairs: Sequence[Pair], settings: SourceSettings, root: Path) -> ArrayItems:
    """List the `.npy` file of every date.

    Raises:
        DataError: A date has none, all are missing, one leads out of `root`, or the first cannot be used.
    """
    units = units_of(pairs)
    arrays: list[Array | None] = []
    for unit in units:
        path = resolve_file(root, unit.fill(getattr(settings, unit.date)), unit.date, settings.links)
        arrays.append(Array(path.absolute(), sha256_file(path)) if path.is_file() else None)
    items, width = _work_items(units, arrays, settings, "array", root, _wanted_file(units, arrays, settings, root))
    return ArrayItems(items, width, {"arrays": content_key([array.sha256 if array else None for array in arrays])})


def _wanted_file(
    units: Sequence[Unit], arrays: Sequence[Array | None], settings: SourceSettings, root: Path
) -> str | None:
    """Name the first file that is not there, and the nearest one that is."""
    unit = next((unit for unit, array in zip(units, arrays, strict=True) if array is None), None)
    if unit is None:
        return None
    name = unit.fill(getattr(settings, unit.date))
    near = FolderNames(root).guess(name)
    return f"{name} is not there" + (f"; {near}" if near else "")


def list_hdf5(pairs: Sequence[Pair], settings: SourceSettings, root: Path) -> ArrayItems:
    """List the data set of every date.

    Raises:
        DataError: A file is missing or damaged, a date has no data set, all are missing, or the first cannot be used.
    """
    units = units_of(pairs)
    template = settings.file or ""
    names = dict.fromkeys(unit.fill(template) for unit in units)
    paths = {name: resolve_file(root, name, "file", settings.links) for name in names}
    hashes = {}
    for name, path in paths.items():
        if not path.is_file():
            near = FolderNames(root).guess(name)
            raise DataError(
                f"the file is not there{f'; {near}' if near else ''}", where=path, fix=f"correct {SETTING}.file"
            )
        hashes[name] = sha256_file(path)
    files = {name: _Hdf5File(path.absolute()) for name, path in paths.items()}
    arrays: list[Array | None] = []
    try:
        for unit in units:
            file, dataset = unit.fill(template), unit.fill(getattr(settings, unit.date))
            exists = files[file].has(dataset)
            arrays.append(Array(files[file].path, hashes[file], dataset) if exists else None)
    finally:
        for opened in files.values():
            opened.close()
    wanted = next(
        (unit.fill(getattr(settings, unit.date)) for unit, array in zip(units, arrays, strict=True) if not array), None
    )
    items, width = _work_items(
        units, arrays, settings, "data set", root / template, wanted and f"the file has no {wanted}"
    )
    return ArrayItems(items, width, hashes)


def _work_items(
    units: Sequence[Unit],
    arrays: Sequence[Array | None],
    settings: SourceSettings,
    what: str,
    where: Path,
    wanted: str | None,
) -> tuple[list[WorkItem], int]:
    """Return one item per date and the width of all embeddings, by default that of the first array."""
    missing = [unit for unit, array in zip(units, arrays, strict=True) if array is None]
    check_missing(missing, settings, what, where, wanted)
    width = settings.width
    if width is None:
        first = next((array for array in arrays if array is not None), None)
        if first is None:
            raise DataError(f"there is no {what} for any pair", where=where, fix=f"correct {SETTING}")
        reader = ArrayWorker(None)
        width = reader.load(first).shape[1]
        reader.close()
    items = []
    for unit, array in zip(units, arrays, strict=True):
        content = None if array is None else [array.sha256, array.name]
        items.append(WorkItem(key=content_key(width, content), label=unit.label, payload=array))
    return items, width


class ArrayWorker:
    """Reads arrays of embeddings; see `pipeline.execution.compute.Worker`.

    Regions keep the order of the array; their score is 1.

    Args:
        width: Required width; None: any.
    """

    batch_size = 1

    def __init__(self, width: int | None) -> None:
        self._width = width
        self._files: dict[Path, _Hdf5File] = {}

    def load(self, payload: Array | None) -> NDArray[np.float16]:
        """Read one date's embeddings, (J, width); a missing date has none.

        Raises:
            DataError: The file is damaged, pickled or has changed, or the array cannot be used; see
                `validate_embeddings`.
        """
        if payload is None:
            return np.zeros((0, self._width or 0), np.float16)
        if payload.name is None:
            return validate_embeddings(read_npy(payload), self._width, payload.where)
        file = self._files.setdefault(payload.path, _Hdf5File(payload.path))
        return validate_embeddings(file.read(payload.name, payload.where), self._width, payload.where)

    def compute(self, loaded: Sequence[NDArray[np.float16]]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of semantics.h5 of each date."""
        return [
            semantic_fields(embeddings, np.ones(len(embeddings), np.float32), np.zeros(len(embeddings), np.int32))
            for embeddings in loaded
        ]

    def close(self) -> None:
        """Close the HDF5 files."""
        for file in self._files.values():
            file.close()


def read_npy(array: Array) -> NDArray[Any]:
    """Read a `.npy` file; pickled objects are never loaded.

    Raises:
        DataError: It is gone, has changed, is truncated, or holds objects.
        UnreadableError: It cannot be read.
    """
    try:
        with reading(array.path):
            data = array.path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=array.path) from error
    if sha256_bytes(data) != array.sha256:
        raise DataError("the file changed while it was imported", where=array.path, fix="run `sagecc semantics` again")
    try:
        _check_length(data)
        values: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError) as error:
        raise DataError(
            f"not a whole .npy file without objects ({first_line(error)})", where=array.path, fix=_NPY_FIX
        ) from error
    return values


def _check_length(data: bytes) -> None:
    """Raise ValueError for a file that is shorter than its header says, before memory for its array is allocated."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    expected, available = int(np.prod(shape, dtype=object)) * dtype.itemsize, len(data) - stream.tell()
    if not dtype.hasobject and available < expected:
        raise ValueError(f"the header announces {expected:,} bytes of values, the file has {available:,}")


@dataclass(frozen=True)
class _Hdf5File:
    """An external HDF5 file, opened when it is first read."""

    path: Path

    @cached_property
    def _opened(self) -> h5py.File:
        try:
            with reading(self.path), self.path.open("rb") as stream:
                stream.read(1)
            return h5py.File(self.path, "r")
        except OSError as error:
            number = number_of(error)
            if number in (errno.EAGAIN, errno.EACCES):
                raise UnreadableError(
                    "another program holds this HDF5 file locked",
                    where=self.path,
                    fix="wait until it is closed; if no program writes to it, run again with "
                    "HDF5_USE_FILE_LOCKING=FALSE in the environment",
                ) from error
            if number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                # The file system has no locks, so nobody can hold one.
                return h5py.File(self.path, "r", locking=False)
            raise self._failed(error) or DataError(
                f"not a whole HDF5 file ({first_line(error)})", where=self.path, fix="copy it again"
            ) from error

    def has(self, name: str) -> bool:
        try:
            return isinstance(self._opened.get(name), h5py.Dataset)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise self._damaged(error, f"{self.path}, data set {name}") from error

    def read(self, name: str, where: str) -> NDArray[Any]:
        try:
            dataset = self._opened[name]
            if dataset.file.filename != self._opened.filename or dataset.external or dataset.is_virtual:
                raise DataError("the data set's values lie in another file", where=where, fix="copy them into this one")
            values: NDArray[Any] = np.asarray(dataset[()])
        except (KeyError, OSError, RuntimeError, ValueError, TypeError) as error:
            raise self._damaged(error, where) from error
        return values

    def close(self) -> None:
        if "_opened" in self.__dict__:
            self._opened.close()

    def _damaged(self, error: Exception, where: str) -> SageccError:
        return self._failed(error) or DataError(
            f"cannot be read ({first_line(error)})", where=where, fix="copy the file again"
        )

    def _failed(self, error: Exception) -> UnreadableError | None:
        return failed_read(error, self.path)
