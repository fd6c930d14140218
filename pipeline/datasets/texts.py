"""Text and JSON files of users: decoded by their byte order mark, and errors that show what is in them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any, Final

from pipeline.contents import name_contents
from pipeline.errors import DataError
from pipeline.system_errors import reading

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OLD_OFFICE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PLACEHOLDERS: Final = frozenset(
    {"a Git LFS pointer", "a git-annex pointer", "a DVC pointer", "an HTML page", "an XML document"}
)
"""Texts that stand in the place of the file that is wanted."""
_SAVE: Final = "save it as UTF-8 (in Excel: file type `CSV UTF-8`)"


def shown(value: Any, limit: int = 60) -> str:
    """Return a text as it is, or a value as JSON, between backticks and cut to `limit` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return f"`{line if len(line) <= limit else line[: limit - 1] + '…'}`"


def keys_of(values: Any) -> str:
    """Say what an object's keys are, or which other kind of value it is."""
    if isinstance(values, dict):
        names = list(values)
        listed = ", ".join(shown(name, 30) for name in names[:8]) + (" …" if len(names) > 8 else "")
        return f"an object with the keys {listed}" if names else "an empty object"
    if isinstance(values, list):
        return f"a list of {len(values):,}, the first of which is {keys_of(values[0])}" if values else "an empty list"
    return shown(values)


def read_text(path: Path, *, fix: str | None = None) -> str:
    """Read a text file: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Args:
        path: The file.
        fix: What to do if it is not there.

    Raises:
        DataError: It is missing, empty, in another encoding, or no text; the message says what it is.
        UnreadableError: It cannot be read.
    """
    try:
        with reading(path):
            data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=path, fix=fix) from error
    if not data.strip(b"\0 \t\r\n"):
        raise DataError("the file is empty", where=path, fix="write it again, or copy it again")
    return _decoded(data, path)


def _decoded(data: bytes, path: Path) -> str:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in data:
        raise _binary(data, path) or DataError(
            "the text is UTF-16 without a byte order mark, or no text at all", where=path, fix=_SAVE
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _other_encoding(data, path, error, encoding) from error
    name, advice = name_contents(data) if encoding.startswith("utf-8") else ("", "")
    if name in _PLACEHOLDERS:
        raise DataError(f"the file is {name}", where=path, fix=advice)
    return text


def _other_encoding(data: bytes, path: Path, error: UnicodeDecodeError, encoding: str) -> DataError:
    if encoding != "utf-8":
        return DataError(f"the file is damaged: not whole {encoding.upper()}", where=path, fix="copy it again")
    binary = _binary(data, path)
    if binary is not None:
        return binary
    byte = data[error.start : error.start + 1]
    line = data[: error.start].count(b"\n") + 1
    meant = byte.decode("cp1252", errors="replace")
    return DataError(
        f"not UTF-8: byte {error.start} cannot be decoded, 0x{byte.hex()} in line {line} ({meant} in Windows-1252)",
        where=path,
        fix=_SAVE,
    )


def _binary(data: bytes, path: Path) -> DataError | None:
    if data.startswith(_OLD_OFFICE) or (data.startswith(b"PK") and b"[Content_Types].xml" in data[:4096]):
        return DataError("the file is an Excel workbook", where=path, fix="save it as `CSV UTF-8`")
    if data.startswith(b"PK") and b"opendocument" in data[:256]:
        return DataError("the file is a LibreOffice document", where=path, fix="save it as CSV in UTF-8")
    name, advice = name_contents(data)
    if name and name not in ("a text", "a JSON text"):
        return DataError(f"the file is {name}, not a text", where=path, fix=advice)
    return None


def read_json_text(path: Path, *, fix: str | None = None) -> Any:
    """Read a JSON file of a user; errors say what it looks like instead.

    Args:
        path: The file.
        fix: What to do if it is not there.

    Raises:
        DataError: It is missing, empty, in another encoding, or no JSON.
        UnreadableError: It cannot be read.
    """
    text = read_text(path, fix=fix)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError("not valid JSON (nested too deeply)", where=path, fix=fix) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        line = text.split("\n")[error.lineno - 1]
        raise DataError(
            f"not valid JSON ({place}: {error.msg}): {shown(line[max(0, error.colno - 30) :].strip())}",
            where=path,
            fix=_json_advice(text, error) or fix,
        ) from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise DataError(f"not valid JSON ({error})", where=path, fix=fix) from error


def _json_advice(text: str, error: json.JSONDecodeError) -> str | None:
    if error.msg == "Extra data" and text[error.pos] == "{":
        return "this is JSON Lines: name it .jsonl if it is a list of pairs; a caption file is one object"
    rest = text[error.pos :].strip()
    if not rest or (error.pos and rest.isalpha()) or error.msg.startswith("Unterminated string"):
        return "the file ends too early: copy it again"
    if not text.lstrip().startswith(("{", "[", "'")):
        return "this is no JSON; a list of pairs that is a table is named .csv"
    before = text[: error.pos].rstrip()
    if before.endswith(",") and text[error.pos] in "]}":
        return "remove the comma before it"
    if text[error.pos] == "'":
        return "JSON has double quotes: write it with `json.dump`"
    return None
