"""Import of tags: words for what an image shows, best first, as semantic regions.

A tag becomes the vector [v; s·v; c·v]: v by the text encoder, s = 1 − rank / number of tags, 1 for the best, and c the
score s of the same tag at the other date, 0 where it is absent: equal words are taken for the same thing, so that no
matcher is needed to tell what appeared, disappeared or stayed. All of it is linear in v, so that the mean of a date's
regions is a bag of tags with and without weights.

Character n-grams, hashed, are the default for v. The captioner's projection must be able to separate any two tags: the
52 tags of LEVIR-CC have a condition number of 5 under the hash and of 15 under all-MiniLM-L6-v2, whose vectors lie in a
narrow cone (cosines of 0.26 on average, up to 0.83).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.caption_graph.settings import TextEncoderSettings
from pipeline.caption_graph.text_encoders import build_text_encoder
from pipeline.datasets.nearest import folded
from pipeline.datasets.paths import clean_text
from pipeline.datasets.records import Pair
from pipeline.datasets.texts import keys_of, read_json_text, shown
from pipeline.errors import DataError
from pipeline.execution.compute import WorkItem
from pipeline.files import content_key, sha256_file
from pipeline.vision.external.arrays import (
    DATES,
    SETTING,
    Unit,
    check_missing,
    resolve_file,
    semantic_fields,
    units_of,
    validate_embeddings,
)
from pipeline.vision.external.settings import SourceSettings

_FIX: Final = 'the file must hold {"NAME.png": {"before": ["tag", …], "after": ["tag", …]}, …}'

Tags = tuple[tuple[str, int, float], ...]
"""The tags of one date, best first, each with its number and its score at the other date."""


@dataclass(frozen=True)
class TagItems:
    """Tags to import.

    Attributes:
        items: One per date of every pair; the payload is `Tags`.
        upstream: SHA-256 of the files, by name.
    """

    items: list[WorkItem]
    upstream: dict[str, str]


def list_tags(pairs: Sequence[Pair], settings: SourceSettings, root: Path) -> TagItems:
    """Read the tag files of all splits of the pairs.

    Tags are numbered in alphabetical order over all pairs.

    Raises:
        DataError: A file is missing, damaged or of another form, names a stem twice or leads out of `root`, or a date
            has no tags.
    """
    units = units_of(pairs)
    template = settings.file or ""
    names = dict.fromkeys(unit.fill(template) for unit in units)
    paths = {name: resolve_file(root, name, "file", settings.links) for name in names}
    files = {name: read_tags(path) for name, path in paths.items()}
    tags_of_units = [
        files[unit.fill(template)].get(unicodedata.normalize("NFC", unit.stem), {}).get(unit.date, ()) for unit in units
    ]
    missing = [unit for unit, tags in zip(units, tags_of_units, strict=True) if not tags]
    check_missing(missing, settings, "tags", root / template, _near_name(missing, files, template))
    numbers = {tag: number for number, tag in enumerate(sorted({tag for tags in tags_of_units for tag in tags}))}
    if not numbers:
        raise DataError("there is no tag for any pair", where=root / template, fix=_FIX)
    payloads: list[Tags] = []
    for before, after in zip(tags_of_units[::2], tags_of_units[1::2], strict=True):
        payloads += [_with_counterparts(before, after, numbers), _with_counterparts(after, before, numbers)]
    items = [
        WorkItem(key=content_key(payload), label=unit.label, payload=payload)
        for unit, payload in zip(units, payloads, strict=True)
    ]
    return TagItems(items, {name: sha256_file(path) for name, path in paths.items()})


def _near_name(missing: Sequence[Unit], files: Mapping[str, Mapping[str, object]], template: str) -> str | None:
    """Name what a file has in the place of the first date that has no tags."""
    if not missing:
        return None
    stems = files[missing[0].fill(template)]
    if missing[0].stem in stems or not stems:
        return None
    near = next((stem for stem in stems if folded(stem) == folded(missing[0].stem)), None)
    if near is not None:
        return f"the file has {near}: capitals count"
    return f"the file has no {missing[0].stem}, but {next(iter(stems))}, say"


def _with_counterparts(tags: Sequence[str], other_date: Sequence[str], numbers: Mapping[str, int]) -> Tags:
    scores = dict(zip(other_date, rank_scores(len(other_date)).tolist(), strict=True))
    return tuple((tag, numbers[tag], scores.get(tag, 0.0)) for tag in tags)


def read_tags(path: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read a tag file.

    Returns:
        The tags by stem and date, best first; a date may be absent.

    Raises:
        DataError: It is missing, no JSON, of another form, or names a stem, or a tag of a date, twice.
    """
    document = read_json_text(path, fix=f"correct {SETTING}.file")
    if not isinstance(document, dict):
        raise DataError(f"the tag file has another form: no object but {keys_of(document)}", where=path, fix=_FIX)
    tags_by_stem: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, dates in document.items():
        where = f"{path}, {name!r}"
        stem = unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).stem)
        if stem in tags_by_stem:
            raise DataError(f"the stem {stem!r} stands twice", where=where, fix="keep one of them")
        if not isinstance(dates, dict) or not set(dates) <= set(DATES):
            raise DataError(
                f"the tag file has another form: an entry is no {{before, after}} but {keys_of(dates)}",
                where=where,
                fix=_FIX,
            )
        tags_by_stem[stem] = {date: _parse(tags, f"{where}, {date}") for date, tags in dates.items()}
    return tags_by_stem


def _parse(tags: Any, where: str) -> tuple[str, ...]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.strip() for tag in tags):
        raise DataError(
            f"the tag file has another form: tags are no list of words but {shown(tags)}", where=where, fix=_FIX
        )
    cleaned = tuple(clean_text(tag, where) for tag in tags)
    duplicate = next((tag for tag in cleaned if cleaned.count(tag) > 1), None)
    if duplicate is not None:
        raise DataError(f"the tag {duplicate!r} stands twice", where=where, fix="keep it at one rank")
    return cleaned


class TagWorker:
    """Embeds tags as semantic regions; see `pipeline.execution.compute.Worker`.

    Args:
        settings: The text encoder.
    """

    batch_size = 1

    def __init__(self, settings: TextEncoderSettings) -> None:
        self._encoder = build_text_encoder(settings)
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def load(self, payload: Tags) -> Tags:
        """Return the payload, which holds all data."""
        return payload

    def compute(self, loaded: Sequence[Tags]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of semantics.h5 of each date."""
        return [self._fields(tags) for tags in loaded]

    def _fields(self, tags: Tags) -> dict[str, NDArray[Any]]:
        scores = rank_scores(len(tags))
        vectors = (
            np.stack([self._vector(tag) for tag, _, _ in tags])
            if tags
            else np.zeros((0, self._encoder.width), np.float32)
        )
        counterparts = np.array([score for _, _, score in tags], np.float32)
        embeddings = np.concatenate([vectors, scores[:, None] * vectors, counterparts[:, None] * vectors], axis=1)
        category = np.array([number for _, number, _ in tags], np.int32)
        return semantic_fields(validate_embeddings(embeddings, None, "tags"), scores, category)

    def _vector(self, tag: str) -> NDArray[np.float32]:
        if tag not in self._vectors:
            self._vectors[tag] = self._encoder.encode([tag])[0]
        return self._vectors[tag]


def rank_scores(count: int) -> NDArray[np.float32]:
    """Return the score of each rank of `count` tags: 1 for the best, falling evenly, 1 / count for the last."""
    return (1 - np.arange(count) / max(count, 1)).astype(np.float32)


def text_weights(settings: TextEncoderSettings) -> Mapping[str, str]:
    """Return the SHA-256 of the text encoder by name, for the provenance of a cache; a hashed one has no weights."""
    identity = build_text_encoder(settings).identity
    return {"text_encoder": content_key(identity)} if "files" in identity else {}
