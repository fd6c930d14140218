"""Caption files in the style of Karpathy's COCO splits, as LEVIR-CC, WHU-CDC, SECOND-CC and Dubai-CC have them.

`{"images": [{"filename", "split", "sentences": [{"raw", "tokens"}]}]}`, with `filepath`, `changeflag`, `sentids` and
various ids beside them. A sentence may also be a text by itself. Ids are not read, since each file numbers from zero;
pairs and images are joined by file stem.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.paths import clean_text, inner_path
from pipeline.datasets.records import Split
from pipeline.datasets.texts import keys_of, read_json_text, shown
from pipeline.errors import DataError

_SPLIT_NAMES: Final[dict[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

_LIKE_VAL: Final = frozenset({"dev", "development", "eval", "evaluation", "holdout", "hold-out"})
"""What others call a validation split; these are not taken for it, since some mean the test split."""

# With a point or comma, as spreadsheets write whole numbers beside empty cells.
_FLAGS: Final[dict[str, bool]] = {
    **dict.fromkeys(("0", "0.0", "0,0", "false", "no", "unchanged"), False),
    **dict.fromkeys(("1", "1.0", "1,0", "true", "yes", "changed"), True),
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


def close_name(name: str, names: Iterable[str]) -> str | None:
    """Return the nearest of some names, None where none is near."""
    return next(iter(difflib.get_close_matches(name.strip().casefold(), list(names), n=1, cutoff=0.6)), None)


def parse_split(value: Any, where: str) -> Split | None:
    """Parse a split; None or an empty text gives None.

    Raises:
        DataError: It is not the name of a split.
    """
    if value is None or value == "":
        return None
    split = split_named(value) if isinstance(value, str) else None
    if split is None:
        text = value.strip().lower() if isinstance(value, str) else ""
        near = "val" if text in _LIKE_VAL else close_name(text, _SPLIT_NAMES)
        guess = f"write {_SPLIT_NAMES[near]} if that is meant; " if near else ""
        raise DataError(
            f"{shown(value)} is no split",
            where=where,
            fix=f"{guess}splits are train, val and test, or training, valid, validation and testing",
        )
    return split


def parse_flag(value: Any, where: str) -> bool | None:
    """Parse a change flag: 0 or 1, true or false, yes or no, also as text; None or an empty text gives None.

    Raises:
        DataError: It is anything else.
    """
    if value is None or value == "":
        return None
    flag = _FLAGS.get(str(value).strip().lower()) if isinstance(value, str | int | float) else None
    if flag is None:
        raise DataError(
            f"{shown(value)} is no change flag", where=where, fix="write 0 or no (unchanged), 1 or yes (changed)"
        )
    return flag


def read_captions(path: Path) -> list[CaptionEntry]:
    """Read a caption file.

    Returns:
        Its entries in file order; duplicates are kept.

    Raises:
        DataError: It is missing, empty, in another encoding, truncated, of another schema, or names a path outside its
            root.
        UnreadableError: It cannot be read.
    """
    return parse_captions(read_json_text(path, fix="set prepare.captions to the name of the caption file"), path)


def parse_captions(document: Any, path: Path) -> list[CaptionEntry]:
    """Read the parsed content of a caption file; see `read_captions`."""
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        inside = (
            "" if not isinstance(document, dict) or "images" not in document else f", but `images` is {shown(images)}"
        )
        raise DataError(
            f"the caption file has another schema: no list `images`; it is {keys_of(document)}{inside}",
            where=path,
            fix=_document_advice(document) or _FIX,
        )
    if not images:
        raise DataError("the caption file lists no images: `images` is empty", where=path, fix=_FIX)
    return [_parse_image(image, f"{path}, images[{number}]", document) for number, image in enumerate(images)]


def _document_advice(document: Any) -> str | None:
    """Guess what a document without a list `images` is meant for."""
    if isinstance(document, list) and document and isinstance(document[0], dict):
        if {"before", "after"} <= document[0].keys():
            return (
                "this is a list of pairs: write one object per line into a .jsonl file, and name it in prepare.captions"
            )
        if "sentences" in document[0] or "filename" in document[0]:
            return 'put the list into an object: {"images": […]}'
    if isinstance(document, dict):
        if {"before", "after"} <= document.keys():
            return "this is a pair of a list: name a file with one such object per line .jsonl"
        near = next((key for key in document if key.strip().casefold() in ("images", "image", "data", "pairs")), None)
        inner = next((key for key, value in document.items() if isinstance(value, dict) and "images" in value), None)
        if inner is not None:
            return f"move what {shown(inner)} holds to the top"
        if near is not None:
            return f"rename {shown(near)} to `images`; {_FIX}"
    return None


def _parse_image(image: Any, where: str, document: dict[str, Any]) -> CaptionEntry:
    if not isinstance(image, dict):
        raise _schema_error(f"an image is no object but {shown(image)}", where)
    name = image.get("filename")
    if not isinstance(name, str):
        raise _schema_error(
            f"an image has no `filename`; it has {_keys(image)}", where, _rename(image, "filename", _LIKE_FILENAME)
        )
    file = inner_path(name, where)
    folder = image.get("filepath")
    if folder is not None and not isinstance(folder, str):
        raise _schema_error(f"`filepath` is no text but {shown(folder)}", where)
    folders = (*(inner_path(folder, where).parts if folder else ()), *file.parts[:-1])
    sentences = image.get("sentences")
    if not isinstance(sentences, list):
        what = f"an image has no list `sentences`; it has {_keys(image)}"
        if "sentences" in image:
            what = f"`sentences` is no list but {shown(sentences)}"
        fix = _rename(image, "sentences", _LIKE_SENTENCES)
        if "annotations" in document:
            fix = "its captions are in `annotations`, as COCO has them: put them into each image's `sentences`"
        raise _schema_error(what, where, fix)
    return CaptionEntry(
        stem=unicodedata.normalize("NFC", file.stem),
        split=parse_split(image.get("split"), where),
        folder_split=next((split for name in folders if (split := split_named(name))), None),
        captions=tuple(_parse_sentence(sentence, f"{where}.sentences[{i}]") for i, sentence in enumerate(sentences)),
        changed=parse_flag(image.get("changeflag"), where),
    )


_LIKE_FILENAME: Final = ("file_name", "file", "image", "name", "image_name", "img")
_LIKE_SENTENCES: Final = ("captions", "caption", "sentence", "texts", "text", "descriptions")


def _rename(image: dict[str, Any], key: str, others: Iterable[str]) -> str | None:
    near = next((other for other in image if other.strip().casefold() in (key, *others)), None)
    return f"rename {shown(near)} to `{key}`; {_FIX}" if near is not None and near != key else None


def _keys(values: dict[str, Any]) -> str:
    return keys_of(values).removeprefix("an object with ")


def _schema_error(what: str, where: str, fix: str | None = None) -> DataError:
    return DataError(f"the caption file has another schema: {what}", where=where, fix=fix or _FIX)


def _parse_sentence(sentence: Any, where: str) -> str:
    """Return `raw`, or the joined `tokens` where there is no raw text."""
    if isinstance(sentence, str):
        return clean_text(sentence, where)
    raw = sentence.get("raw") if isinstance(sentence, dict) else None
    if isinstance(raw, str) and raw.strip():
        return clean_text(raw, where)
    tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return clean_text(" ".join(tokens), where)
    if isinstance(raw, str):
        return ""
    raise _schema_error(
        f"a sentence has neither `raw` nor `tokens` as text; it is {shown(sentence)}",
        where,
        "write its text as `raw`, or remove it",
    )
