"""Pair records, the common form of all data sets, and the folder of a prepared data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import DataError
from pipeline.files import read_json, sha256_file, write_json, write_text

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

PREPARE_AGAIN = "run `sagecc prepare`"


class Pair(BaseModel):
    """Two co-registered images of one place at two dates, with captions, change flag and masks.

    All paths are POSIX paths relative to the data set's root. `sha256` maps each path field that is set to the
    SHA-256 of its file, so that a changed image is noticed wherever the pair is used. In a data set prepared without
    images (`DatasetCard.images`) it is empty, and `before` and `after` are the paths that the images would have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    split: Split
    before: str
    after: str
    captions: tuple[str, ...] = ()
    changed: bool | None = None
    """The change flag: whether anything of interest changes; None where unknown."""
    semantic_before: str | None = None
    semantic_after: str | None = None
    """Index maps or palette images of land-cover classes per date."""
    change_mask: str | None = None
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class DatedImage:
    """One date of a pair.

    Attributes:
        unit: Its row in caches with one row per image: 2i + t for pair i at date t.
        label: Its name in messages.
        path: The file, absolute: workers of a Dask cluster may have another working directory.
        sha256: Hash of the file when the data set was prepared.
    """

    unit: int
    label: str
    path: Path
    sha256: str


class DatasetCard(BaseModel):
    """Content of dataset.json, the description of a prepared data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The data set's name, a key of `pipeline.datasets.adapters.ADAPTERS`."""
    root: str
    """Folder that the pairs' paths are relative to; relative to the project folder or absolute, as it was given."""
    pairs: dict[str, int]
    """Number of pairs per split."""
    pairs_sha256: str
    """SHA-256 of pairs.jsonl."""
    images: bool = True
    """Whether the data set was prepared with its images; written only if not."""
    no_change: dict[str, tuple[str, ...]] = {}
    """Sentences that deny a change, by language; see `prepare.no_change_sentences`. Written only if there are any."""


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: the folder that `sagecc prepare` wrote.

    Attributes:
        folder: Holds pairs.jsonl, vocabulary.json, audit.json and dataset.json.
        card: The content of dataset.json.
        pairs: All pairs, in file order: train, val, test, and by id within a split.
    """

    folder: Path
    card: DatasetCard
    pairs: tuple[Pair, ...]

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""
        return Path(self.card.root)

    @property
    def vocabulary_path(self) -> Path:
        """The vocabulary that belongs to these pairs."""
        return self.folder / "vocabulary.json"

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each pair by id; the order of rows in every cache."""
        return {pair.id: position for position, pair in enumerate(self.pairs)}

    def require_images(self) -> None:
        """Raise unless the data set was prepared with its images; for stages that read them.

        Raises:
            DataError: It was prepared without its images.
        """
        if not self.card.images:
            raise DataError(
                "the data set was prepared without its images",
                where=self.folder,
                fix="put the images there, set prepare.images: read and run `sagecc prepare`",
            )

    def require_pairs(self) -> None:
        """Raise if the data set has no pairs.

        Raises:
            DataError: It has none.
        """
        if not self.pairs:
            fix = f"look at audit.json and {PREPARE_AGAIN}"
            raise DataError("the data set has no pairs", where=self.folder, fix=fix)

    def images(self) -> Iterator[DatedImage]:
        """Yield both dates of every pair, in the order of their units."""
        for number, pair in enumerate(self.pairs):
            for date, (name, file) in enumerate((("before", pair.before), ("after", pair.after))):
                # Links are not followed: a file in DVC's cache has no ending, and no files beside it that speak of it.
                yield DatedImage(
                    2 * number + date, f"{pair.id} {name}", (self.root / file).absolute(), pair.sha256[name]
                )

    def split(self, split: Split) -> tuple[Pair, ...]:
        """Return the pairs of one split, in file order."""
        return tuple(pair for pair in self.pairs if pair.split == split)


def write_prepared(
    folder: Path,
    name: str,
    root: str,
    pairs: Iterable[Pair],
    *,
    images: bool = True,
    no_change: Mapping[str, tuple[str, ...]] | None = None,
) -> DatasetCard:
    """Write pairs.jsonl and dataset.json; pairs are sorted by split, then by id.

    Args:
        folder: Folder to write into.
        name: The data set's name.
        root: Folder that the pairs' paths are relative to.
        pairs: In any order.
        images: Whether the data set is prepared with its images.
        no_change: Its sentences that deny a change, by language.

    Raises:
        DataError: Two pairs share an id.
        OutputError: The folder cannot be written.
    """
    ordered = sorted(pairs, key=lambda pair: (SPLITS.index(pair.split), pair.id))
    seen: set[str] = set()
    for pair in ordered:
        if pair.id in seen:
            raise DataError(f"two pairs have the id {pair.id!r}", where=folder)
        seen.add(pair.id)
    lines = [json.dumps(pair.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n" for pair in ordered]
    path = write_text(folder / "pairs.jsonl", "".join(lines))
    counts: dict[str, int] = {split: sum(pair.split == split for pair in ordered) for split in SPLITS}
    card = DatasetCard(
        name=name,
        root=root,
        pairs=counts,
        pairs_sha256=sha256_file(path),
        images=images,
        no_change=dict(no_change or {}),
    )
    usual = {name for name, is_usual in (("images", images), ("no_change", not no_change)) if is_usual}
    write_json(folder / "dataset.json", card.model_dump(mode="json", exclude=usual))
    return card


def read_prepared(folder: Path) -> Prepared:
    """Read a folder that `sagecc prepare` wrote.

    Raises:
        DataError: A file is missing, damaged, or pairs.jsonl is not the one that dataset.json describes.
    """
    path = folder / "pairs.jsonl"
    try:
        card = DatasetCard.model_validate(read_json(folder / "dataset.json", fix=PREPARE_AGAIN))
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        pairs = tuple(Pair.model_validate_json(line) for line in lines)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or error.title
        raise DataError(f"not a prepared data set: {key}: {first['msg']}", where=folder, fix=PREPARE_AGAIN) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the pair records: {error}", where=path, fix=PREPARE_AGAIN) from error
    if sha256_file(path) != card.pairs_sha256:
        raise DataError("pairs.jsonl is not the one that dataset.json describes", where=path, fix=PREPARE_AGAIN)
    return Prepared(folder=folder, card=card, pairs=pairs)
