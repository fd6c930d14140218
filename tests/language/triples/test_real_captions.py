"""The rules on the real captions: share of captions with a triple, time, and accuracy against labels by hand."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets.karpathy import read_captions
from pipeline.language.no_change import implies_change
from pipeline.language.triples.agreement import Agreement, agreement
from pipeline.language.triples.conventions import canonical
from pipeline.language.triples.records import Caption
from pipeline.language.triples.rules import RulesExtractor
from tests.language.triples.sample_captions import draw

_ROOT = Path(__file__).parents[3]
_DATA = _ROOT / os.environ.get("SAGECC_REFERENCE_DATA", "../shared/data")
_LEVIR = _DATA / "levir_cc" / "LevirCCcaptions.json"
_DUBAI = [_DATA / "dubai_cc" / f"{split}_Dubai_CC.json" for split in ("Train", "Validation")]
_LABELS = [
    json.loads(line)
    for line in (Path(__file__).with_name("labels_levir_cc.jsonl")).read_text(encoding="utf-8").splitlines()
]


def _needed(*paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            pytest.skip(f"no reference captions at {path}; set SAGECC_REFERENCE_DATA to their folder")


def _captions(*paths: Path) -> list[Caption]:
    return [
        Caption(pair=entry.stem, sentence=number, text=text)
        for path in paths
        for entry in read_captions(path)
        for number, text in enumerate(entry.captions)
    ]


def _coverage(captions: list[Caption]) -> float:
    changed = {caption.text: caption for caption in captions if implies_change(caption.text)}
    found = RulesExtractor().extract(list(changed.values()))
    return len({(triple.pair, triple.sentence) for triple in found}) / len(changed)


def test_labels_follow_the_convention() -> None:
    for label in _LABELS:
        assert label.keys() == {"pair", "sentence", "part", "triples"}
        for triple in label["triples"]:
            parts = (triple["head"], triple["relation"], triple["tail"])
            assert canonical(*parts) == (*parts, triple["family"])
    parts_of = [label["part"] for label in _LABELS]
    assert (parts_of.count("dev"), parts_of.count("final")) == (80, 80)


@pytest.mark.reference_data
def test_the_labelled_captions_are_the_ones_drawn() -> None:
    _needed(_LEVIR)
    assert draw(_LEVIR) == [{key: label[key] for key in ("pair", "sentence", "part")} for label in _LABELS]


@pytest.mark.reference_data
def test_coverage_and_time_on_levir_cc() -> None:
    _needed(_LEVIR)
    captions = _captions(_LEVIR)
    start = time.perf_counter()
    coverage = _coverage(captions)
    assert coverage >= 0.97
    assert time.perf_counter() - start < 60


@pytest.mark.reference_data
def test_coverage_on_dubai_cc() -> None:
    _needed(*_DUBAI)
    assert _coverage(_captions(*_DUBAI)) >= 0.97


@pytest.mark.reference_data
@pytest.mark.parametrize("part", ["dev", "final"])
def test_accuracy_against_labels(part: str) -> None:
    _needed(_LEVIR)
    table = score(part)
    assert table["head, tail"].f1 >= 0.90
    assert table["family"].f1 >= 0.90
    assert table["triple"].f1 >= 0.75


def score(part: str) -> dict[str, Agreement]:
    """Compare the rules with the labels of one part."""
    labels: dict[Any, list[dict[str, str]]] = {
        (label["pair"], label["sentence"]): label["triples"] for label in _LABELS if label["part"] == part
    }
    expected = {
        key: [(t["head"], t["relation"], t["tail"], t["family"]) for t in triples] for key, triples in labels.items()
    }
    found: dict[Any, list[tuple[str, str, str, str]]] = {}
    captions = [caption for caption in _captions(_LEVIR) if (caption.pair, caption.sentence) in labels]
    for triple in RulesExtractor().extract(captions):
        found.setdefault((triple.pair, triple.sentence), []).append((*triple.key, triple.family))
    return agreement(found, expected)
