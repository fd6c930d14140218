"""Captions from any file: one a line, or a data set's caption file."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.karpathy import read_captions
from pipeline.errors import DataError
from pipeline.language.triples.records import Caption


def read_text_captions(path: Path) -> list[Caption]:
    """Read captions: `.json` is a caption file of a data set, anything else holds one caption a line.

    Captions of lines have the line's number, from 1, as their pair; empty lines are passed over.

    Raises:
        DataError: The file is missing, not UTF-8, of another schema, or holds no caption.
    """
    if path.suffix.lower() == ".json":
        captions = [
            Caption(pair=entry.stem, sentence=number, text=text)
            for entry in read_captions(path)
            for number, text in enumerate(entry.captions)
        ]
    else:
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(f"cannot read: {error.strerror or error}", where=path, fix="correct the path") from error
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: byte {error.start} cannot be decoded", where=path) from error
        captions = [
            Caption(pair=str(number), sentence=0, text=line.strip())
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    if not captions:
        raise DataError("the file holds no caption", where=path, fix="write one caption a line")
    return captions
