from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from cli.main import app
from cli.options import Settings
from pipeline.cache.reader import Cache
from pipeline.datasets.records import read_prepared
from pipeline.errors import SettingsError
from pipeline.evaluation import report as evaluation
from pipeline.experiments.rows import Experiment
from pipeline.files import sha256_file
from pipeline.paths import Paths
from pipeline.training import run as training
from pipeline.training.distributed import Interrupted
from pipeline.vision.matching.build import learned_matcher
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from stages import caption, experiment, graph, matches, train
from stages.experiment import RowsFailedError
from stages.settings import GraphSettings, MatchesSettings
from tests.stages.training_runs import Impatient, forget, no_training
from tests.vision.matching.region_data import matcher_settings
from tests.worlds import cache_world
from tests.worlds import experiment_data as data
from tests.worlds.text_encoder import write_bert

pytestmark = pytest.mark.usefixtures("one_thread")

OUTPUT = Path("experiments/tiny")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def sources(project: Path) -> Paths:
    return data.make(project)


def plans(described: Experiment, *changes: str) -> list[experiment.Plan]:
    settings = Settings(data.PARAMS, experiment.assignments(described, changes))
    return experiment.plan(described, settings.document, where="params.yaml")


@pytest.fixture
def run(sources: Paths, no_java: None) -> Run:
    """Run an experiment of the given rows and return table.json."""

    def run(*rows: dict[str, Any], changes: Sequence[str] = (), **options: Any) -> dict[str, Any]:
        described = data.experiment(*rows)
        table = experiment.run(described, plans(described, *changes), sources, OUTPUT, resamples=50, **options)
        assert table == OUTPUT / "table.md"
        document: dict[str, Any] = json.loads((OUTPUT / "table.json").read_text())
        return document

    return run


def tables() -> dict[str, bytes]:
    return {name: (OUTPUT / name).read_bytes() for name in ("table.md", "table.json", "table.png", "times.json")}


def folder(row: dict[str, Any]) -> Path:
    return OUTPUT / row["folder"]


def test_rows_become_a_table_and_each_run_can_be_made_again(run: Run) -> None:
    document = run()
    rows = document["rows"]
    assert [row["label"] for row in rows] == ["baseline", "+ MCL", "+ CGR"]
    assert (document["split"], document["seeds"], document["pairs"]["changed"]) == ("train", [1, 2], 3)
    assert len({row["folder"] for row in rows}) == 3 and rows[0]["against_row_above"] is None
    assert rows[0]["against_first_row"] is None and rows[1]["against_first_row"] == rows[1]["against_row_above"]
    for metric, compared in rows[2]["against_first_row"].items():
        means = [row["scores"]["changed"][metric]["mean"] for row in (rows[2], rows[0])]
        assert compared["difference"] == pytest.approx(means[0] - means[1], abs=0.02)
    for above, row in pairwise(rows):
        for metric, compared in row["against_row_above"].items():
            means = [each["scores"]["changed"][metric]["mean"] for each in (row, above)]
            assert compared["difference"] == pytest.approx(means[0] - means[1], abs=0.02)
            assert 0 < compared["p"] <= 1 and compared["low"] <= compared["high"]
        assert row["scores"]["all"]["rouge_l"]["deviation"] is not None
        assert set(row["by_seed"]["changed"]) == {"1", "2"} and 0 <= row["change_flag"]["accuracy"]["mean"] <= 100

    text = (OUTPUT / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| + CGR | ")]
    assert len(lines) == 10 and lines[0].count("±") == 3
    assert experiment.summary(OUTPUT / "table.md").count("\n| ") == 5
    times = json.loads((OUTPUT / "times.json").read_text())
    assert times.keys() == {"baseline", "+ MCL", "+ CGR"} and times["+ CGR"]["2"] > 0

    last = folder(rows[2])
    assert {path.name for path in last.iterdir()} == {
        *("params.yaml", "repeat.sh", "models", "curves", "captions", "metrics.json", "plots", "times.json"),
        "run.json",
    }
    assert yaml.safe_load((last / "params.yaml").read_text())["train"]["seeds"] == [1, 2]
    forget()
    commands = (last / "repeat.sh").read_text().replace("$out", "again").splitlines()
    commands = [line for line in commands if line.startswith("sagecc ")]
    assert [line.split()[1] for line in commands] == ["matches", "graph", "train", "caption", "evaluate"]
    for line in commands:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, (result.output, result.exception)
    for name in ("metrics.json", "captions/seed-2.json", "models/seed-1/model.safetensors"):
        assert Path("again", name).read_bytes() == (last / name).read_bytes()


def test_the_same_rows_give_the_same_bytes(run: Run) -> None:
    run()
    first = tables()
    forget()
    shutil.rmtree(OUTPUT)
    run()
    again = tables()
    assert again["table.json"] == first["table.json"] and again["table.png"] == first["table.png"]


def test_finished_rows_are_not_run_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    first = tables()
    for stage in (train, caption, graph):
        monkeypatch.setattr(stage, "run", no_training)
    shutil.rmtree(".work")
    run()
    assert tables() == first


def test_another_label_or_order_is_the_same_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run({"label": "one", "set": data.PLAIN}, {"label": "two", "set": data.MOTION})["rows"]
    monkeypatch.setattr(train, "run", no_training)
    again = run({"label": "second", "set": data.MOTION}, {"label": "first", "set": data.PLAIN})["rows"]
    assert [row["folder"] for row in again] == [row["folder"] for row in reversed(rows)]


def test_other_settings_or_inputs_are_another_run(run: Run, sources: Paths) -> None:
    row = {"label": "all", "set": ()}
    folders = {run(row)["rows"][0]["folder"]}
    for change in ("caption.beams=2", "train.seeds=[1]", "train.epochs=1", "evaluate.constant_candidates=5"):
        folders.add(run(row, changes=[change])["rows"][0]["folder"])
    cache_world.write_semantics(sources.semantics, sources.prepared, weights="1" * 64)
    folders.add(run(row)["rows"][0]["folder"])
    assert len(folders) == 6


def test_one_more_seed_trains_only_that_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"label": "plain", "set": data.PLAIN}
    run(row)
    trained = []
    real = train.train_seeds
    monkeypatch.setattr(train, "train_seeds", lambda job, ranks: (trained.extend(job.seeds), real(job, ranks)))
    document = run(row, changes=["train.seeds=[1,2,5]"])
    assert trained == [5] and document["seeds"] == [1, 2, 5]
    assert set(json.loads((OUTPUT / "times.json").read_text())["plain"]) == {"1", "2", "5"}


def test_damaged_scores_are_made_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    document = run()
    metrics = folder(document["rows"][0]) / "metrics.json"
    metrics.write_text("{}")
    monkeypatch.setattr(train, "train_seeds", no_training)
    assert run() == document and metrics.read_text() != "{}"


def test_a_failed_row_says_why_and_stops_no_other(run: Run, sources: Paths) -> None:
    sources.semantics.unlink()
    with pytest.raises(RowsFailedError, match="1 of 3 rows failed") as caught:
        run({"label": "broken", "set": ()}, *data.ROWS[:2])
    assert caught.value.exit_code == 2 and caught.value.where == str(OUTPUT / "table.md")
    rows = json.loads((OUTPUT / "table.json").read_text())["rows"]
    assert rows[0]["failed"] and "semantics.h5" in rows[0]["reason"] and "sagecc semantics" in rows[0]["reason"]
    assert rows[1]["against_row_above"] is None and rows[2]["against_row_above"] is not None
    text = (OUTPUT / "table.md").read_text()
    assert "| broken | failed | – |" in text and f"**broken** {rows[0]['reason']}" in text
    cache_world.write_semantics(sources.semantics, sources.prepared)
    rows = run({"label": "broken", "set": ()}, *data.ROWS[:2])["rows"]
    assert "reason" not in rows[0] and rows[1]["against_row_above"] is not None


def test_rows_are_compared_on_the_pairs_that_all_of_them_describe(run: Run, sources: Paths) -> None:
    rows = ({"label": "scenes", "set": data.PLAIN}, {"label": "all", "set": ()})
    cache_world.write_semantics(sources.semantics, sources.prepared, missing=[5])
    document = run(*rows)
    whole, part = document["rows"]
    assert (whole["pairs"]["changed"], whole["left_out"]) == (3, [])
    assert (part["pairs"]["changed"], part["left_out"]) == (2, ["p2"])
    assert document["bootstrap"]["left_out"] == ["p2"] and document["pairs"]["changed"] == 3
    text = (OUTPUT / "table.md").read_text()
    assert "all: 1. Rows are compared" in text and "without 1." in text
    assert set(part["against_row_above"]) == {"bleu_4", "cider_d"}
    # By hand: both rows without the pair, scored on the same two.
    said = {row["label"]: json.loads((folder(row) / "captions/seed-1.json").read_text()) for row in document["rows"]}
    pairs = [pair for pair in read_prepared(sources.prepared).split("train") if pair.id in ("p0", "p3")]
    one_seed = run(*rows, changes=["train.seeds=[1]"])["rows"][1]["against_row_above"]
    scores = {
        label: evaluation.evaluate(
            {1: {row["image_id"]: row["caption"] for row in captions}}, pairs, [], java=None
        ).scores["words"]["changed"]
        for label, captions in said.items()
    }
    for metric, compared in one_seed.items():
        difference = scores["all"]["model"][metric] - scores["scenes"]["model"][metric]
        assert compared["difference"] == pytest.approx(difference, abs=0.02)


def test_memory_that_runs_out_fails_the_row_and_a_slip_in_the_code_does_not_hide(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> Callable[..., None]:
        def run(*arguments: object, **options: object) -> None:
            raise error

        return run

    monkeypatch.setattr(train, "run", fail(MemoryError("20 GiB\nand more")))
    with pytest.raises(RowsFailedError):
        run({"label": "large", "set": data.PLAIN})
    assert "out of memory: 20 GiB |" not in (OUTPUT / "table.md").read_text()
    assert json.loads((OUTPUT / "table.json").read_text())["rows"][0]["reason"] == "out of memory: 20 GiB"
    assert (OUTPUT / "table.png").is_file()
    monkeypatch.setattr(train, "run", fail(TypeError("slip")))
    with pytest.raises(TypeError, match="slip"):
        run({"label": "large", "set": data.PLAIN})


def test_interrupted_between_rows_and_within_one_it_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run()
    shutil.rmtree(OUTPUT)
    forget()
    calls = []
    real = train.run

    def second_is_killed(*arguments: Any, **options: Any) -> Path:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "run", second_is_killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    with monkeypatch.context() as patch:
        patch.setattr(training, "Loop", Impatient)
        with pytest.raises(Interrupted):
            run()
    calls.clear()
    calls.append(())
    trained = []
    monkeypatch.setattr(train, "run", lambda *a, **o: (trained.append(a[1].models), real(*a, **o))[1])
    assert run() == whole
    assert trained == [folder(row) / "models" for row in whole["rows"][1:]]


def test_only_the_chosen_rows_are_run(run: Run, sources: Paths) -> None:
    described = data.experiment()
    before = list(experiment.status(plans(described), sources, OUTPUT))
    assert before[0].startswith("1  baseline: to do in experiments/tiny/")
    assert before[2].endswith("+ MCL: to do, and so are matches or graph of its own")
    rows = run(rows=[3])["rows"]
    assert [row.get("reason") for row in rows] == ["not run", "not run", None]
    assert "| baseline | not run |" in (OUTPUT / "table.md").read_text()
    after = [line for line in experiment.status(plans(described), sources, OUTPUT) if line[0] != " "]
    assert "to do in" in after[0] and "to do in" in after[1] and "+ CGR: done in" in after[2]
    rows = run(rows=[1])["rows"]
    assert "scores" in rows[0] and "scores" in rows[2]
    with pytest.raises(SettingsError, match="no row 4"):
        run(rows=[4])
    sources.semantics.unlink()
    assert "cannot be run" in "".join(experiment.status(plans(described), sources, OUTPUT))


def test_graphs_are_made_for_rows_that_ask_for_others_and_taken_where_they_fit(run: Run, sources: Paths) -> None:
    shutil.rmtree(sources.graph)
    settings = Settings(data.PARAMS, None)
    graph.run(settings.section("graph", GraphSettings), sources, engine=settings.engine)
    kinds = [{"label": kind, "set": (f"models.graph_encoder.kind={kind}",)} for kind in ("rgcn", "gcn")]
    rows = run(*kinds, changes=["train.seeds=[1]"])["rows"]
    made = sorted(path.name.partition("-")[0] for path in (OUTPUT / "inputs").iterdir())
    assert made == ["graph", "matches"]
    assert "sagecc graph" not in (folder(rows[0]) / "repeat.sh").read_text()
    assert "sagecc graph" in (folder(rows[1]) / "repeat.sh").read_text()
    assert rows[0]["scores"]["all"]["bleu_4"]["deviation"] is None


def test_graphs_and_matches_of_other_code_are_made_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"label": "all", "set": ("train.epochs=1",)}
    key = run(row)["rows"][0]["folder"]
    made: list[str] = []
    for name, stage in (("graph", graph), ("matches", matches)):
        real = stage.run
        monkeypatch.setattr(stage, "run", lambda *a, real=real, name=name, **o: (made.append(name), real(*a, **o))[1])
    # The stage `matches` is asked in any case, and answers that its cache is up to date.
    assert run(row)["rows"][0]["folder"] == key and "graph" not in made
    made.clear()
    edited = {"graph": "1" * 64, "matches": "2" * 64}
    real_digest = experiment.stage_digest
    monkeypatch.setattr(experiment, "stage_digest", lambda stage, *c: edited.get(stage) or real_digest(stage, *c))
    run(row)
    assert sorted(made) == ["graph", "matches"]


def set_params(**sections: Any) -> None:
    data.PARAMS.write_text(yaml.safe_dump(yaml.safe_load(data.PARAMS.read_text()) | sections))


def test_matches_of_other_weights_are_made_again(run: Run, sources: Paths) -> None:
    layout = matcher_settings("superglue", weights="matcher.safetensors")

    def write_weights(seed: int) -> None:
        save_file(learned_matcher(layout, cache_world.WIDTH, seed=seed).state_dict(), layout.weights)

    write_weights(1)
    set_params(matches=layout.model_dump(mode="json"))
    settings = Settings(data.PARAMS, None)
    matches.run(settings.section("matches", MatchesSettings), sources, engine=settings.engine)
    row = {"label": "regions", "set": (*data.MOTION, "train.epochs=1")}
    first = run(row)["rows"][0]["folder"]
    assert not (OUTPUT / "inputs").exists()
    write_weights(2)
    assert "matches or graph of its own" in next(experiment.status(plans(data.experiment(row)), sources, OUTPUT))
    second = run(row)["rows"][0]["folder"]
    (own,) = (OUTPUT / "inputs").iterdir()
    with Cache.open(own, MATCHES) as remade, Cache.open(sources.matches, MATCHES) as stale:
        assert remade.provenance.weights["matcher"] == sha256_file(Path(layout.weights))
        assert not np.array_equal(remade.rows("confidences", range(6))[0], stale.rows("confidences", range(6))[0])
    # The row's own matches are judged by the weights as well.
    write_weights(3)
    third = run(row)["rows"][0]["folder"]
    assert len({first, second, third}) == 3
    Path(layout.weights).unlink()
    assert "weights of SuperGlue are not there" in next(experiment.status(plans(data.experiment(row)), sources, OUTPUT))


def test_graphs_of_another_text_encoder_are_made_again(run: Run, sources: Paths) -> None:
    encoder = write_bert(Path("bert"), seed=1)
    params = yaml.safe_load(data.PARAMS.read_text())
    set_params(models=params["models"] | {"text_encoder": {"encoder": str(encoder)}})
    shutil.rmtree(sources.graph)
    settings = Settings(data.PARAMS, None)
    graph.run(settings.section("graph", GraphSettings), sources, engine=settings.engine)
    inputs = [f"{data.INPUTS}.regions=false", f"{data.INPUTS}.semantics=false"]
    row = {"label": "graph", "set": (*inputs, "train.epochs=1")}
    first = run(row)["rows"][0]["folder"]
    assert not (OUTPUT / "inputs").exists()
    write_bert(encoder, seed=2)
    second = run(row)["rows"][0]["folder"]
    assert first != second and len(list((OUTPUT / "inputs").iterdir())) == 1
    assert run(row)["rows"][0]["folder"] == second


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.epoch=3", "did you mean `epochs`"),
        ("trian.epochs=3", "unknown section `trian`"),
        ("train.epochs=0", "`train.epochs`"),
        ("train.epochs", "cannot read 'train.epochs'"),
        ("masks.generator.points_per_side=8", "a row cannot change `masks`"),
        ("evaluate.meteor=never", None),
        ("evaluate.ids=true", "a row cannot change `evaluate`"),
        ("train.seeds=[4]", "`train.seeds` must be the same"),
        ("caption.split=val", "`caption.split` must be the same"),
    ],
)
def test_what_no_row_may_set_is_refused_before_anything_runs(sources: Paths, change: str, said: str | None) -> None:
    described = data.experiment({"label": "first"}, {"label": "second", "set": (change,)})
    if said is None:
        assert len(plans(described)) == 2
        return
    with pytest.raises(SettingsError) as caught:
        plans(described)
    assert said in str(caught.value) and "'second'" in str(caught.value.where)


def test_what_comes_later_wins(sources: Paths) -> None:
    described = data.experiment(
        {"label": "a", "set": ("train.epochs=5",)}, {"label": "b"}, set=["train.epochs=3"], seeds=[7]
    )
    assert [(row.train.epochs, row.train.seeds) for row in plans(described)] == [(5, (7,)), (3, (7,))]
    assert [row.train.epochs for row in plans(described, "train.epochs=4")] == [5, 4]
    settings = Settings(data.PARAMS, experiment.assignments(described, (), "8,9"))
    assert experiment.plan(described, settings.document, where="x")[0].train.seeds == (8, 9)
