from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.caption_graph.extraction import read_text_captions
from pipeline.errors import DataError


def test_captions_of_text_and_of_caption_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one house\n\n a road \n")
    assert [(c.pair, c.text) for c in read_text_captions(tmp_path / "a.txt")] == [("1", "one house"), ("3", "a road")]
    sentences = [{"raw": "a"}, {"raw": "b"}]
    document = {"images": [{"filename": "x.png", "split": "test", "sentences": sentences}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert [(c.pair, c.sentence) for c in read_text_captions(tmp_path / "a.json")] == [("x", 0), ("x", 1)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.txt", b" \n", "holds no caption"), ("a.txt", b"\xff\xfe", "not UTF-8"), ("b.txt", None, "cannot read")],
)
def test_files_without_captions_are_refused(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_text_captions(tmp_path / name)
