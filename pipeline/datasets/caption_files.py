"""Caption files in the style of Karpathy's COCO splits, as LEVIR-CC, WHU-CDC, SECOND-CC and Dubai-CC have them.

`{"images": [{"filename", "split", "sentences": [{"raw", "tokens"}]}]}`, with `filepath`, `changeflag`, `sentids` and
various ids beside them. Ids are not read, since each file numbers from zero; pairs and images are joined by file stem.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.paths import clean_text, inner_path
from pipeline.datasets.records import Split
from pipeline.errors import DataError
from pipeline.files import read_json

_SPLIT_NAMES: Final[dict[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

_FIX: Final = 'the caption file must hold {"images": [{"filename", "split", "sentences": [{"raw"}]}]}'


@dataclass(frozen=True)
class CaptionEntry:
    """A pair of a caption file.

    Attributes:
        stem: File name without folder and suffix.
        split: The split that the entry gives, if any.
        folder_split: The split whose name is a folder of the entry's path, if any.
        captions: Its sentences, in file order, white space normalised.
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
    """Parse a split; None or an empty text gives None.

    Raises:
        DataError: It is not the name of a split.
    """
    if value is None or value == "":
        return None
    split = split_named(value) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"{value!r} is no split", where=where, fix="use train, val or test")
    return split


def parse_flag(value: Any, where: str) -> bool | None:
    """Parse a change flag: 0 or 1, true or false, also as text; None or an empty text gives None.

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


def read_captions(path: Path) -> list[CaptionEntry]:
    """Read a caption file.

    Returns:
        Its entries in file order; duplicates are kept.

    Raises:
        DataError: It is missing, not UTF-8, truncated, of another schema, or names a path outside its root.
    """
    return parse_captions(read_json(path, fix="set prepare.captions to the name of the caption file"), path)


def parse_captions(document: Any, path: Path) -> list[CaptionEntry]:
    """Read the parsed content of a caption file; see `read_captions`."""
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise DataError("the caption file has another schema: no list `images`", where=path, fix=_FIX)
    if not images:
        raise DataError("the caption file lists no images", where=path, fix=_FIX)
    return [_parse_image(image, f"{path}, images[{number}]") for number, image in enumerate(images)]


def _parse_image(image: Any, where: str) -> CaptionEntry:
    if not isinstance(image, dict):
        raise DataError("the caption file has another schema: an image is no object", where=where, fix=_FIX)
    name = image.get("filename")
    if not isinstance(name, str):
        raise DataError("the caption file has another schema: an image has no `filename`", where=where, fix=_FIX)
    file = inner_path(name, where)
    folder = image.get("filepath")
    if folder is not None and not isinstance(folder, str):
        raise DataError("the caption file has another schema: `filepath` is no text", where=where, fix=_FIX)
    folders = (*(inner_path(folder, where).parts if folder else ()), *file.parts[:-1])
    sentences = image.get("sentences")
    if not isinstance(sentences, list):
        raise DataError("the caption file has another schema: an image has no list `sentences`", where=where, fix=_FIX)
    return CaptionEntry(
        stem=file.stem,
        split=parse_split(image.get("split"), where),
        folder_split=next((split for name in folders if (split := split_named(name))), None),
        captions=tuple(_parse_sentence(sentence, f"{where}.sentences[{i}]") for i, sentence in enumerate(sentences)),
        changed=parse_flag(image.get("changeflag"), where),
    )


def _parse_sentence(sentence: Any, where: str) -> str:
    """Return `raw`, or the joined `tokens` where there is no raw text."""
    raw = sentence.get("raw") if isinstance(sentence, dict) else None
    if isinstance(raw, str) and raw.strip():
        return clean_text(raw, where)
    tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return clean_text(" ".join(tokens), where)
    if isinstance(raw, str):
        return ""
    raise DataError(
        "the caption file has another schema: a sentence has neither `raw` nor `tokens`", where=where, fix=_FIX
    )
