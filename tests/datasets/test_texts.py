from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from pipeline.datasets.texts import keys_of, read_json_text, read_text, shown
from pipeline.errors import DataError

TEXT = "before,after\nA/é.png,B/é.png\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
    ],
)
def test_encodings_with_a_mark(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list").write_bytes(data)
    assert read_text(tmp_path / "list") == TEXT


@pytest.mark.parametrize(
    ("data", "what", "advice"),
    [
        (b"", "the file is empty", "write it again"),
        (b" \n\0", "the file is empty", "write it again"),
        (TEXT.encode("cp1252"), "0xe9 in line 2 (é in Windows-1252)", "save it as UTF-8 (in Excel: file type `CSV UTF"),
        (TEXT.encode("utf-16-le"), "UTF-16 without a byte order mark", "save it as UTF-8"),
        (TEXT.encode("utf-16")[:-1], "not whole UTF-16", "copy it again"),
        (b"PK\3\4\0\0[Content_Types].xml\xff", "an Excel workbook", "save it as `CSV UTF-8`"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "save it as `CSV UTF-8`"),
        (b"PK\3\4\0\0mimetypeapplication/vnd.oasis.opendocument\xff", "a LibreOffice document", "save it as CSV"),
        (b"\x89HDF\r\n\x1a\n\0", "an HDF5 or netCDF file, not a text", ""),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html>sign in</html>", "an HTML page", "download the file again"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(tmp_path: Path, data: bytes, what: str, advice: str) -> None:
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_text(tmp_path / "list")
    assert what in caught.value.what
    assert advice in (caught.value.fix or "")


def test_a_file_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read: No such file") as caught:
        read_text(tmp_path / "nowhere", fix="set it")
    assert caught.value.fix == "set it"
    with pytest.raises(DataError, match="cannot read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ('{"a": 1}\n{"a": 2}\n', "this is JSON Lines"),
        ('{"a": [1, 2], "b": "x', "copy it again"),
        ('{"a": [1, 2,]}', "remove the comma before it"),
        ("{'a': 1}", "JSON has double quotes"),
        ("before,after\n", "this is no JSON; a list of pairs that is a table is named .csv"),
        ("nothing", "this is no JSON"),
        ('{"a" 1}', "set prepare.captions"),
    ],
)
def test_json_that_is_none_is_shown_with_a_guess(tmp_path: Path, text: str, advice: str) -> None:
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(DataError, match=r"not valid JSON \(line .*\): `") as caught:
        read_json_text(tmp_path / "captions.json", fix="set prepare.captions")
    assert advice in (caught.value.fix or "")


def test_values_in_messages() -> None:
    assert shown("a\tb\n") == "`a\\tb\\n`"
    assert shown({"raw": None}) == '`{"raw": null}`'
    assert shown("x" * 100) == f"`{'x' * 59}…`"
    assert keys_of({"a": 1, "b": 2}) == "an object with the keys `a`, `b`"
    assert keys_of([{"a": 1}]) == "a list of 1, the first of which is an object with the keys `a`"
    assert (keys_of({}), keys_of([]), keys_of(5)) == ("an empty object", "an empty list", "`5`")
