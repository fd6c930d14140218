"""The rules on the real captions: share of captions with a triple, time, and accuracy against labels by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks._graph_captions import DUBAI, LABELS, LEVIR, present
from benchmarks.graph_accuracy import score_labels
from benchmarks.graph_sizes import coverage
from pipeline.caption_graph.triples.normalisation import canonical
from tests.caption_graph.triples.sample_captions import draw

_LABELS = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]


def _needed(files: Sequence[Path]) -> None:
    if not present(files):
        pytest.skip(f"no reference captions at {files[0]}; set SAGECC_REFERENCE_DATA to their folder")


def test_labels_follow_the_convention() -> None:
    for label in _LABELS:
        assert label.keys() == {"pair", "sentence", "part", "triples"}
        for triple in label["triples"]:
            key = (triple["head"], triple["relation"], triple["tail"])
            assert canonical(*key) == (*key, triple["family"])
    halves = [label["part"] for label in _LABELS]
    assert (halves.count("dev"), halves.count("final")) == (80, 80)


@pytest.mark.reference_data
def test_the_labelled_captions_are_the_ones_drawn() -> None:
    _needed(LEVIR)
    assert draw(*LEVIR) == [{key: label[key] for key in ("pair", "sentence", "part")} for label in _LABELS]


@pytest.mark.reference_data
@pytest.mark.parametrize("files", [LEVIR, DUBAI], ids=["LEVIR-CC", "Dubai-CC"])
def test_coverage_and_time(files: Sequence[Path]) -> None:
    _needed(files)
    covered, changed, _, seconds = coverage(files)
    assert covered >= 0.97 * changed
    assert seconds < 60


@pytest.mark.reference_data
@pytest.mark.parametrize("part", ["dev", "final"])
def test_accuracy_against_labels(part: str) -> None:
    _needed(LEVIR)
    table = score_labels(part)
    assert table["head, tail"].f1 >= 0.90
    assert table["family"].f1 >= 0.90
    assert table["triple"].f1 >= 0.75
