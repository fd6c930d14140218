from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.caption_files import CaptionEntry, parse_captions, read_captions
from pipeline.errors import DataError
from tests.datasets import fakes

WHERE = Path("captions.json")


def one(**changes: Any) -> dict[str, Any]:
    image = {"filename": "a.png", "split": "train", "sentences": [{"raw": "a house is built ."}], **changes}
    return {"images": [{key: value for key, value in image.items() if value != "absent"}]}


def test_reads_a_whole_entry() -> None:
    document = {"images": [fakes.entry("train_000016", "train", True, 3)]}
    assert parse_captions(document, WHERE) == [
        CaptionEntry("train_000016", "train", "train", tuple(f"{text} ." for text in fakes.CHANGED), True)
    ]


@pytest.mark.parametrize("key", ["changeflag", "filepath", "sentids", "imgid"])
def test_optional_keys_may_lack(key: str) -> None:
    image = fakes.entry("a", "train", True, 0)
    del image[key]
    (entry,) = parse_captions({"images": [image]}, WHERE)
    assert len(entry.captions) == 5
    assert entry.changed is (None if key == "changeflag" else True)
    assert entry.folder_split == (None if key == "filepath" else "train")


def test_number_of_sentences_is_free() -> None:
    (entry,) = parse_captions(one(sentences=[]), WHERE)
    assert entry.captions == ()


def test_tokens_stand_in_for_missing_raw_text() -> None:
    (entry,) = parse_captions(one(sentences=[{"tokens": ["a", "house"]}, {"raw": " ", "tokens": ["b"]}]), WHERE)
    assert entry.captions == ("a house", "b")


def test_stem_comes_from_the_name_and_split_from_the_folder() -> None:
    (entry,) = parse_captions(one(filename="images/val/A/x.1.png", split="absent"), WHERE)
    assert (entry.stem, entry.split, entry.folder_split) == ("x.1", None, "val")


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        None,
        {"images": {}},
        {"images": ["a"]},
        {"annotations": []},
        one(filename="absent"),
        one(filename=7),
        one(sentences="absent"),
        one(sentences={"raw": "x"}),
        one(sentences=[5]),
        one(sentences=[None]),
        one(sentences=[{"raw": float("nan")}]),
        one(sentences=[{"caption": "x"}]),
        one(sentences=[{"tokens": [1]}]),
        one(filepath=3),
    ],
)
def test_other_schema(document: Any) -> None:
    with pytest.raises(DataError, match="schema") as caught:
        parse_captions(document, WHERE)
    assert caught.value.where is not None
    assert caught.value.where.startswith("captions.json")


def test_no_images() -> None:
    with pytest.raises(DataError, match="lists no images"):
        parse_captions({"images": []}, WHERE)


LEAVING = ["/etc/passwd", "../a.png", "x/../../a.png", "C:/a.png", "..\\a.png", "a\0.png", "a\nb.png", "\ud800.png"]


@pytest.mark.parametrize("name", [*LEAVING, "", ".", ".."])
def test_file_names_that_leave_the_root(name: str) -> None:
    with pytest.raises(DataError, match=r"the path|names no file"):
        parse_captions(one(filename=name), WHERE)


@pytest.mark.parametrize("name", LEAVING)
def test_folders_that_leave_the_root(name: str) -> None:
    with pytest.raises(DataError, match="the path"):
        parse_captions(one(filepath=name), WHERE)


@pytest.mark.parametrize("flag", ["maybe", 2, -1, 0.5, [], {}])
def test_flags_that_are_none(flag: Any) -> None:
    with pytest.raises(DataError, match="is no change flag"):
        parse_captions(one(changeflag=flag), WHERE)


@pytest.mark.parametrize("split", ["dev", 1, ["train"]])
def test_unknown_split(split: Any) -> None:
    with pytest.raises(DataError, match="is no split"):
        parse_captions(one(split=split), WHERE)


def test_lone_surrogate_in_a_caption() -> None:
    with pytest.raises(DataError, match="half a character"):
        parse_captions(one(sentences=[{"raw": "a \ud83d house"}]), WHERE)


def test_line_separators_in_a_caption_become_spaces() -> None:
    (entry,) = parse_captions(one(sentences=[{"raw": "a\u2028house\x85is\nbuilt"}]), WHERE)
    assert entry.captions == ("a house is built",)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    text = json.dumps(one())
    for length in range(0, len(text), 7):
        path.write_text(text[:length])
        with pytest.raises(DataError, match="not valid JSON" if length else "the file is empty") as caught:
            read_captions(path)
        assert "copy it again" in (caught.value.fix or "")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes('{"images": ["caf\u00e9"]}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_captions(path)


def test_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(one()), encoding="utf-8-sig")
    assert len(read_captions(path)) == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_NEAR = st.fixed_dictionaries(
    {},
    optional={
        "filename": st.sampled_from(["a.png", "../x", "", "b"]) | _JSON,
        "filepath": st.sampled_from(["train", "val"]) | _JSON,
        "split": st.sampled_from(["train", "val", "test"]) | _JSON,
        "changeflag": st.sampled_from([0, 1]) | _JSON,
        "sentences": st.lists(
            st.fixed_dictionaries({}, optional={"raw": st.text() | _JSON, "tokens": st.lists(st.text()) | _JSON})
            | _JSON,
            max_size=3,
        ),
    },
)


@given(_JSON | st.fixed_dictionaries({"images": st.lists(_NEAR | _JSON, max_size=3) | _JSON}))
def test_any_json_gives_entries_or_a_data_error(document: Any) -> None:
    try:
        entries = parse_captions(document, WHERE)
    except DataError:
        return
    for entry in entries:
        assert entry.stem
        for text in (entry.stem, *entry.captions):
            text.encode("utf-8")
            assert len(text.splitlines()) <= 1


@given(st.binary(max_size=200))
def test_any_bytes_give_entries_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data)
    with pytest.raises(DataError):
        read_captions(path)


@pytest.mark.parametrize(
    ("document", "what", "advice"),
    [
        ([], "it is an empty list", "the caption file must hold"),
        (
            [one()["images"][0]],
            "it is a list of 1, the first of which is an object with the keys `filename`",
            "into an",
        ),
        ([{"before": "a.png", "after": "b.png"}], "the keys `before`, `after`", "this is a list of pairs"),
        ({"before": "a.png", "after": "b.png"}, "the keys `before`, `after`", "with one such object per line .jsonl"),
        ({"Images": []}, "it is an object with the keys `Images`", "rename `Images` to `images`"),
        ({"data": []}, "it is an object with the keys `data`", "rename `data` to `images`"),
        ({"dataset": one()}, "it is an object with the keys `dataset`", "move what `dataset` holds to the top"),
        ({"images": None}, "the keys `images`, but `images` is `null`", "the caption file must hold"),
        ({"images": ["a.png"]}, "an image is no object but `a.png`", "the caption file must hold"),
        (
            {"images": [{"file_name": "a.png", "id": 1}], "annotations": []},
            "an image has no `filename`; it has the keys `file_name`, `id`",
            "rename `file_name` to `filename`",
        ),
        (
            {"images": [{"filename": "a.png", "captions": ["x"]}]},
            "an image has no list `sentences`; it has the keys `filename`, `captions`",
            "rename `captions` to `sentences`",
        ),
        (
            {"images": [{"filename": "a.png"}], "annotations": []},
            "an image has no list `sentences`",
            "its captions are in `annotations`, as COCO has them",
        ),
        (one(sentences=None), "`sentences` is no list but `null`", "the caption file must hold"),
        (one(sentences=[5]), "a sentence has neither `raw` nor `tokens` as text; it is `5`", "write its text as `raw`"),
        (one(sentences=[{"raw": float("nan")}]), 'it is `{"raw": NaN}`', "write its text as `raw`, or remove it"),
        (one(sentences=[{"raw": None}]), 'it is `{"raw": null}`', "write its text as `raw`, or remove it"),
        (one(sentences=[{"caption": "x"}]), 'it is `{"caption": "x"}`', "write its text as `raw`, or remove it"),
        (one(split="dev"), "`dev` is no split", "write val if that is meant"),
        (one(split=["train"]), '`["train"]` is no split', "splits are train, val and test"),
        (one(changeflag="maybe"), "`maybe` is no change flag", "write 0 or no"),
    ],
)
def test_what_was_found_is_shown_with_the_cure(document: Any, what: str, advice: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_captions(document, WHERE)
    assert what in caught.value.what
    assert advice in (caught.value.fix or "")


def test_sentences_may_be_texts_and_names_those_of_windows() -> None:
    document = {"images": [{"filename": "train\\a.png", "sentences": ["a  house ", ""], "split": "Valid "}]}
    assert parse_captions(document, WHERE) == [CaptionEntry("a", "val", "train", ("a house", ""))]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_with_a_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(one()), encoding=encoding)
    assert len(read_captions(tmp_path / "captions.json")) == 1


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text('{"filename": "a.png"}\n{"filename": "b.png"}\n')
    with pytest.raises(DataError, match="not valid JSON") as caught:
        read_captions(tmp_path / "captions.json")
    assert (caught.value.fix or "").startswith("this is JSON Lines")
