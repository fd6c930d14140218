"""Tags: words for what an image shows, best first, as semantic regions.

A tag becomes the vector [v; s·v; c·v]: v by the text encoder, s = 1 − rank / number of tags, 1 for the best, and c the
score s of the same tag at the other date, 0 where it is not there: equal words are the same thing, so that no matcher
is needed to tell what came, went or stayed. All that is linear in the vector, and the mean of a date's regions is a
bag of tags with and without weights.
Character n-grams, hashed, are the default for v. What is needed of it is that the captioner's projection can tell any
two tags apart: the 52 tags of LEVIR-CC have a condition number of 5 under it and of 15 under all-MiniLM-L6-v2, whose
vectors lie in a narrow cone (cosines of 0.26 on average, up to 0.83).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.caption_graph.settings import TextEncoderSettings
from pipeline.caption_graph.text_encoders import build_text_encoder
from pipeline.datasets.paths import clean_text
from pipeline.datasets.records import Pair
from pipeline.errors import DataError
from pipeline.execution.compute import Item
from pipeline.files import content_key, read_json, sha256_file
from pipeline.vision.external.arrays import DATES, SETTING, check_missing, checked, fields, file_of, units_of
from pipeline.vision.external.settings import SourceSettings

_FIX: Final = 'the file must hold {"NAME.png": {"before": ["tag", …], "after": ["tag", …]}, …}'

Tags = tuple[tuple[str, int, float], ...]
"""The tags of one date, best first, each with its number and its score at the other date."""


@dataclass(frozen=True)
class TagItems:
    """What there is to import.

    Attributes:
        items: One per date of every pair; the payload is `Tags`.
        upstream: SHA-256 of the files, by name.
    """

    items: list[Item]
    upstream: dict[str, str]


def list_tags(pairs: Sequence[Pair], settings: SourceSettings, root: Path) -> TagItems:
    """Read the tag files of the splits that there are.

    A tag's number is its place among all tags of the pairs in alphabetical order.

    Raises:
        DataError: A file is missing, damaged or of another form, names a stem twice or leads out of `root`, or a date
            has no tags.
    """
    units = list(units_of(pairs))
    pattern = settings.file or ""
    names = dict.fromkeys(unit.fill(pattern) for unit in units)
    paths = {name: file_of(root, name, "file") for name in names}
    known = {name: read_tags(path) for name, path in paths.items()}
    found = [known[unit.fill(pattern)].get(unit.stem, {}).get(unit.date, ()) for unit in units]
    missing = [unit for unit, tags in zip(units, found, strict=True) if not tags]
    check_missing(missing, settings, "tags", root / pattern)
    numbers = {tag: number for number, tag in enumerate(sorted({tag for tags in found for tag in tags}))}
    if not numbers:
        raise DataError("there is no tag for any pair", where=root / pattern, fix=_FIX)
    items = []
    for place, (unit, tags) in enumerate(zip(units, found, strict=True)):
        # Dates alternate: 2i is the counterpart of 2i + 1.
        other = found[place ^ 1]
        elsewhere = dict(zip(other, rank_scores(len(other)).tolist(), strict=True))
        payload: Tags = tuple((tag, numbers[tag], elsewhere.get(tag, 0.0)) for tag in tags)
        items.append(Item(key=content_key(payload), label=unit.label, payload=payload))
    return TagItems(items, {name: sha256_file(path) for name, path in paths.items()})


def read_tags(path: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read a tag file.

    Returns:
        By stem and date, the tags, best first; a date may be absent.

    Raises:
        DataError: It is missing, no JSON, of another form, or names a stem or a date's tag twice.
    """
    document = read_json(path, fix=f"correct {SETTING}.file")
    if not isinstance(document, dict):
        raise DataError("the tag file has another form: no object", where=path, fix=_FIX)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, dates in document.items():
        where = f"{path}, {name!r}"
        stem = PurePosixPath(name).stem
        if stem in found:
            raise DataError(f"the stem {stem!r} stands twice", where=where, fix="keep one of them")
        if not isinstance(dates, dict) or not set(dates) <= set(DATES):
            raise DataError("the tag file has another form: an entry is no {before, after}", where=where, fix=_FIX)
        found[stem] = {date: _parse(tags, f"{where}, {date}") for date, tags in dates.items()}
    return found


def _parse(tags: Any, where: str) -> tuple[str, ...]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.strip() for tag in tags):
        raise DataError("the tag file has another form: tags are no list of words", where=where, fix=_FIX)
    cleaned = tuple(clean_text(tag, where) for tag in tags)
    twice = next((tag for tag in cleaned if cleaned.count(tag) > 1), None)
    if twice is not None:
        raise DataError(f"the tag {twice!r} stands twice", where=where, fix="keep it at one rank")
    return cleaned


class TagWorker:
    """Makes regions of tags; see `pipeline.execution.compute.Worker`.

    Args:
        settings: The text encoder.
    """

    batch_size = 1

    def __init__(self, settings: TextEncoderSettings) -> None:
        self._encoder = build_text_encoder(settings)
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def load(self, payload: Tags) -> Tags:
        """Return the tags: they are at hand."""
        return payload

    def compute(self, loaded: Sequence[Tags]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of semantics.h5 of each date."""
        return [self._fields(tags) for tags in loaded]

    def _fields(self, tags: Tags) -> dict[str, NDArray[Any]]:
        scores = rank_scores(len(tags))
        vectors = np.stack([self._vector(tag) for tag, _, _ in tags]) if tags else self._none()
        counterparts = np.array([score for _, _, score in tags], np.float32)
        embeddings = np.concatenate([vectors, scores[:, None] * vectors, counterparts[:, None] * vectors], axis=1)
        category = np.array([number for _, number, _ in tags], np.int32)
        return fields(checked(embeddings, None, "tags"), scores, category)

    def _vector(self, tag: str) -> NDArray[np.float32]:
        if tag not in self._vectors:
            self._vectors[tag] = self._encoder.encode([tag])[0]
        return self._vectors[tag]

    def _none(self) -> NDArray[np.float32]:
        return np.zeros((0, self._encoder.width), np.float32)


def rank_scores(count: int) -> NDArray[np.float32]:
    """Return the score of each rank of `count` tags: 1 for the best, falling evenly, 1 / count for the last."""
    return (1 - np.arange(count) / max(count, 1)).astype(np.float32)


def text_weights(settings: TextEncoderSettings) -> Mapping[str, str]:
    """Return the SHA-256 of the text encoder, as a cache names its weights; a hashed one has none."""
    identity = build_text_encoder(settings).identity
    return {"text_encoder": content_key(identity)} if "files" in identity else {}
