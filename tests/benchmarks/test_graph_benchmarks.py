from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks import _graph_captions as real
from benchmarks import graph_accuracy, graph_links, graph_sizes
from pipeline.errors import DataError
from pipeline.graph_encoders.settings import PretrainingSettings

SENTENCES = (
    *(
        f"a {head} {verb} {preposition} the {tail}"
        for head in ("house", "road", "lake")
        for tail in ("grass", "bareland", "trees")
        for verb, preposition in (("is built", "on"), ("appears", "beside"), ("is demolished", "near"))
    ),
    "there is no difference",
)
ABSENT = (Path("absent") / "captions.json",)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    images = [
        {"filename": f"{number}.png", "split": split, "sentences": [{"raw": text} for text in SENTENCES]}
        for number, split in enumerate(("train", "train", "val"))
    ]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": images}))
    return path


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_with", "_less"):
        monkeypatch.setattr(graph_links, name, partial(_short, getattr(graph_links, name)))


def _short(settings: Callable[[int], PretrainingSettings], seed: int) -> PretrainingSettings:
    return settings(seed).model_copy(update={"epochs": 2})


def test_links_prints_every_predictor_both_ways(captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert graph_links.main(["--captions", str(captions), "--seeds", "2", "--min-count", "1"]) == 0
    text, differences = capsys.readouterr().out.split("\nR-GCN with popularity, minus:\n")
    rows = {cells[1].strip(): cells for line in text.splitlines() if len(cells := line.split("|")) == 5}
    for name in ("DistMult, no messages", "R-GCN", "GCN", "GAT", "GraphSAGE", "MoNet"):
        assert all(re.fullmatch(r" 0\.\d{3} ± 0\.\d{3} | 1\.000 ± 0\.\d{3} ", cell) for cell in rows[name][2:4]), name
    assert rows["frequency"][2].strip() == rows["popularity alone"][3].strip() == ""
    assert differences.count(" of 2 |") == 6


def test_links_need_triples_to_hold_out(captions: Path) -> None:
    graph = real.GraphMaker(real.real_captions([captions], "train")).tensors(1)
    with pytest.raises(DataError, match="too small"):
        graph_links.measure(graph.with_edges(slice(1)), 1, quick=True)


def test_without_popularity_settings_are_valid() -> None:
    assert not PretrainingSettings(**graph_links._WITHOUT).popularity


def test_sizes_of_given_captions(captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert graph_sizes.main(["--captions", str(captions), "--quick"]) == 0
    assert "100.00% of 27" in capsys.readouterr().out
    covered, changed, everything, seconds = graph_sizes.coverage([captions])
    assert (covered, changed, everything) == (27, 27, 84)
    assert seconds > 0


def test_accuracy_on_synthetic_captions() -> None:
    table = graph_accuracy.score_synthetic(4)
    assert table["head, tail"].expected > 5
    assert table["triple"].f1 > 0.7


def test_without_captions_all_say_why_they_measure_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert graph_links.main(["--captions", *map(str, ABSENT)]) == 0
    assert graph_sizes.main(["--captions", *map(str, ABSENT)]) == 0
    monkeypatch.setattr(graph_accuracy, "score_synthetic", lambda pairs: graph_accuracy.agreement({}, {}))
    assert graph_accuracy.main(["--captions", *map(str, ABSENT)]) == 0
    messages = capsys.readouterr()
    assert messages.err.count("skipped: no reference captions") == 3
    assert "SAGECC_REFERENCE_DATA" in messages.err
    assert "synthetic gold" in messages.out
    assert "labels" not in messages.out
    with pytest.raises(DataError, match="no reference captions"):
        real.real_captions(ABSENT)


def test_figures_have_plain_names(captions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "LEVIR", (captions,))
    monkeypatch.setattr(graph_links, "_K", 1)
    figures = graph_links.run(quick=True)
    assert {"mrr_frequency", "mrr_rgcn", "mrr_rgcn_popularity", "mrr_distmult_no_messages"} <= set(figures)
    assert all(re.fullmatch(r"[a-z_]+", name) and 0 < value <= 1 for name, value in figures.items())
