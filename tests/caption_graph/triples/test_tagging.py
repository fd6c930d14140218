"""A trained spaCy pipeline in place of the word lists; the ones here are made of hand-written tags."""

from __future__ import annotations

from pathlib import Path

import pytest
import spacy

from pipeline.caption_graph.settings import RulesSettings
from pipeline.caption_graph.triples.records import Caption
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.caption_graph.triples.tagging import pipeline_sha256
from pipeline.errors import SettingsError

_SENTENCE = "a flurgle is zarbed near the florp ."


def _pipeline(folder: Path, tags: dict[str, str]) -> str:
    language = spacy.blank("en")
    ruler = language.add_pipe("attribute_ruler") if tags else None
    for word, tag in tags.items():
        ruler.add(patterns=[[{"LOWER": word}]], attrs={"TAG": tag})
    language.to_disk(folder)
    return str(folder)


def _keys(pipeline: str | None) -> list[tuple[str, str, str]]:
    extractor = RulesExtractor(RulesSettings(pipeline=pipeline))
    return [triple.key for triple in extractor.extract([Caption(pair="p", sentence=0, text=_SENTENCE)])]


def test_the_pipelines_tags_decide(tmp_path: Path) -> None:
    tags = {"a": "DT", "house": "NN", "is": "VBZ", "flurgle": "NN", "zarbed": "VBN", "florp": "NN"}
    assert _keys(_pipeline(tmp_path / "verbs", tags)) == [("flurgle", "zarbed-near", "florp")]
    assert _keys(_pipeline(tmp_path / "adjectives", {**tags, "zarbed": "JJ"})) == [("flurgle", "become-near", "florp")]


def test_another_pipeline_in_the_same_folder_has_another_digest(tmp_path: Path) -> None:
    first = pipeline_sha256(_pipeline(tmp_path / "one", {"house": "NN"}))
    assert first == pipeline_sha256(_pipeline(tmp_path / "two", {"house": "NN"}))
    assert first != pipeline_sha256(_pipeline(tmp_path / "one", {"house": "JJ"}))
    with pytest.raises(SettingsError, match="en_absent_model"):
        pipeline_sha256("en_absent_model")


def test_an_absent_pipeline_is_named_with_a_cure() -> None:
    with pytest.raises(SettingsError, match="en_absent_model") as caught:
        _keys("en_absent_model")
    assert caught.value.fix is not None and "spacy download" in caught.value.fix


def test_a_pipeline_without_tags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not tag"):
        _keys(_pipeline(tmp_path / "bare", {}))
