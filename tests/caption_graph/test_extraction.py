from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.caption_graph.extraction import check_language, read_text_captions
from pipeline.caption_graph.settings import ExtractionSettings
from pipeline.caption_graph.triples.records import Caption
from pipeline.errors import DataError, SettingsError


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


def captions(*texts: str) -> list[Caption]:
    return [Caption(pair=str(number), sentence=0, text=text) for number, text in enumerate(texts)]


def test_captions_that_the_rules_cannot_read_are_told_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    rules, llm = ExtractionSettings(), ExtractionSettings(engine="llm")
    for texts in (("एक इमारत बनाई गई है",), ("新建了一栋房子", "Ein neues Haus wurde gebaut")):
        with pytest.raises(SettingsError, match="no caption is English") as caught:
            check_language(captions(*texts), rules)
        assert "graph.build.extraction.engine: llm" in str(caught.value.fix)
        check_language(captions(*texts), llm)
    assert capsys.readouterr().err == ""
    check_language(captions("एक इमारत बनाई गई है", "a house is built", "no change", "..."), rules)
    assert "1 of 4 captions (25.0%) are not English" in capsys.readouterr().err
    check_language(captions(*["a house is built"] * 300, "stuff"), rules)
    check_language([], rules)
    assert capsys.readouterr().err == ""
