"""Generated captions as the stage `caption` leaves them: one COCO results file per seed, and their provenance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.records import SPLITS, Split
from pipeline.errors import DataError
from pipeline.files import read_json

CAPTION_AGAIN: Final = "run `sagecc caption`"
_SEED: Final = re.compile(r"seed-(\d+)\.json")


@dataclass(frozen=True)
class GeneratedCaptions:
    """Captions of one split by models that differ in their seed.

    Attributes:
        split: The split that was captioned.
        seeds: For each seed, in rising order, a caption by pair id.
    """

    split: Split
    seeds: Mapping[int, Mapping[str, str]]


def read_captions(folder: Path) -> GeneratedCaptions:
    """Read `seed-<n>.json` files, each `[{"image_id": pair id, "caption": sentence, …}]`, and `provenance.json`.

    Raises:
        DataError: The folder holds no captions, a file is damaged or of another form, a pair is captioned twice by
            one seed, or the provenance names no split.
    """
    provenance = read_json(folder / "provenance.json", fix=CAPTION_AGAIN)
    split = provenance.get("split") if isinstance(provenance, dict) else None
    if split not in SPLITS:
        raise DataError(
            f"the provenance names no split (given: {split!r})", where=folder / "provenance.json", fix=CAPTION_AGAIN
        )
    found = {int(match[1]): path for path in folder.iterdir() if (match := _SEED.fullmatch(path.name))}
    if not found:
        raise DataError("no captions: there is no seed-<n>.json here", where=folder, fix=CAPTION_AGAIN)
    return GeneratedCaptions(split, {seed: _read(found[seed]) for seed in sorted(found)})


def check_pairs(captions: GeneratedCaptions, pairs: Iterable[str], folder: Path) -> None:
    """See that every seed captions exactly `pairs`.

    Raises:
        DataError: A caption is of an unknown pair or of another split, or a pair has none.
    """
    wanted = set(pairs)
    for seed, by_pair in captions.seeds.items():
        for problem, ids in (
            (f"captions of pairs that the split {captions.split!r} does not hold", by_pair.keys() - wanted),
            (f"pairs of the split {captions.split!r} without a caption", wanted - by_pair.keys()),
        ):
            if ids:
                raise DataError(
                    f"{problem}: {len(ids)}, first {min(ids)!r}",
                    where=folder / f"seed-{seed}.json",
                    fix=f"{CAPTION_AGAIN} on the same prepared data set",
                )


def _read(path: Path) -> dict[str, str]:
    rows = read_json(path, fix=CAPTION_AGAIN)
    if not isinstance(rows, list):
        raise DataError("not COCO results: a list is wanted", where=path, fix=CAPTION_AGAIN)
    captions: dict[str, str] = {}
    for position, row in enumerate(rows):
        pair, caption = _entry(row, path, position)
        if pair in captions:
            raise DataError(f"the pair {pair!r} is captioned twice", where=path, fix=CAPTION_AGAIN)
        captions[pair] = caption
    return captions


def _entry(row: Any, path: Path, position: int) -> tuple[str, str]:
    pair, caption = (row.get("image_id"), row.get("caption")) if isinstance(row, dict) else (None, None)
    if not isinstance(pair, str) or not isinstance(caption, str):
        raise DataError(
            "not COCO results: each entry wants an `image_id` and a `caption`, both text",
            where=f"{path}, entry {position}",
            fix=CAPTION_AGAIN,
        )
    return pair, caption
