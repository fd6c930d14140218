"""Stage `graph` with a language model for extraction and merging, against the endpoint of the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.caption_graph.merging import read_merges
from pipeline.caption_graph.store import read_graph, read_tensors
from pipeline.caption_graph.triples.records import read_triples
from pipeline.datasets.records import Pair, write_prepared
from pipeline.errors import DataError, ServiceError
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from stages import graph as stage
from stages.settings import GraphSettings, render_sections
from tests.caption_graph.llm.captions import make_captions, oracle
from tests.caption_graph.llm.server import Endpoint, Fault
from tests.places import at
from tests.stages.graph_data import HASHED, make

ROOT = Path(__file__).parents[2]
KEY = "sk-stage-5b0c77d1"
COUNT = 200  # captions, ten to a request


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")  # answers are stored in the working folder


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(oracle, key=KEY) as server:
        yield server


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    texts: dict[str, list[str]] = {}
    for caption in make_captions(COUNT):
        texts.setdefault(caption.pair, []).append(caption.text)
    pairs = [Pair(id=name, split="train", before="a", after="b", captions=tuple(t)) for name, t in texts.items()]
    write_prepared(tmp_path / "prepared", "folder", "images", pairs)
    return tmp_path / "prepared"


PATHS = Paths.under()


def settings_for(endpoint: Endpoint, **llm: Any) -> GraphSettings:
    traffic = {"concurrency": 4, "backoff": 0.01, "backoff_limit": 0.05, "retries": 2}
    return make(
        extraction={"engine": "llm"},
        llm={"base_url": endpoint.address, "model": "m", "captions_per_request": 10, "traffic": traffic, **llm},
        # All names are shown to the model together, so that its clusters are known: the same first letter, the same.
        merge={"by": "llm", "propose": -1.0, "text": HASHED},
    )


def run(settings: GraphSettings, prepared: Path, output: Path) -> dict[str, bytes]:
    stage.run(settings, at(prepared=prepared, graph=output), engine=EngineSettings())
    return {name: (output / name).read_bytes() for name in stage.OUTPUTS}


def test_both_roads_through_the_model_and_the_second_time_through_none(
    endpoint: Endpoint, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(endpoint)
    first = run(settings, prepared, tmp_path / "graph")
    asked = len(endpoint.log)
    assert sum("caption" in item for exchange in endpoint.log for item in exchange.items) == COUNT
    assert any("names" in item for exchange in endpoint.log for item in exchange.items)

    monkeypatch.delenv("OPENAI_API_KEY")
    assert run(settings, prepared, tmp_path / "again") == first
    assert len(endpoint.log) == asked

    stored = read_graph(tmp_path / "graph")
    about = stored.about
    assert (about["engine"], about["model"], about["merged_by"], about["merge_model"]) == ("llm", "m", "llm", "m")
    assert {triple.engine for triple in read_triples(tmp_path / "graph" / stage.TRIPLES)} == {"llm"}
    assert len(read_tensors(tmp_path / "graph").features) == len(stored.graph.entities)
    assert "(m)" in stage.summary(tmp_path / "graph")[0]
    # "bareland" and "building" begin with the same letter, and so on; merged names lead to one node.
    merges = read_merges(tmp_path / "graph" / stage.MERGES)
    assert {len({name[0] for name in (stays, *others)}) for stays, others in merges.entities.items()} == {1}
    assert stored.graph.entity_index["field"] == stored.graph.entity_index["factory"]

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(PATHS.answers.name in path.parts for path in written)
    assert not any(KEY.encode() in path.read_bytes() for path in written)


def test_an_interrupted_stage_goes_on_where_it_was(endpoint: Endpoint, prepared: Path, tmp_path: Path) -> None:
    settings = settings_for(endpoint)
    whole = run(settings, prepared, tmp_path / "whole")
    shutil.rmtree(PATHS.work)
    endpoint.log.clear()
    endpoint.fault = lambda items, seen: Fault(status=429) if len(endpoint.answered) >= 8 else None
    with pytest.raises(ServiceError, match="429"):
        run(settings, prepared, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()
    endpoint.fault = lambda items, seen: None
    assert run(settings, prepared, tmp_path / "graph") == whole
    captions = [item["caption"] for exchange in endpoint.answered for item in exchange.items if "caption" in item]
    assert len(captions) == len(set(captions)) == COUNT


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_was(endpoint: Endpoint, prepared: Path, tmp_path: Path) -> None:
    settings = settings_for(endpoint)
    whole = run(settings, prepared, tmp_path / "whole")
    shutil.rmtree(PATHS.work)
    endpoint.log.clear()
    Path("params.yaml").write_text(render_sections({"graph": settings}, heading="Test."), encoding="utf-8")
    command = [sys.executable, "-c", "from cli.main import main; main()", "graph", "--prepared", str(prepared)]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "graph")], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )

    def kill_midway() -> None:
        if len(endpoint.answered) >= 8:
            process.kill()

    endpoint.after = kill_midway
    assert process.wait(timeout=120) == -signal.SIGKILL
    endpoint.after = lambda: None
    assert not (tmp_path / "graph").exists()
    stored = {
        entry["item"]["caption"]
        for path in PATHS.answers.glob("triples-*/answers/*.json")
        for entry in json.loads(path.read_text(encoding="utf-8"))["answers"]
    }
    before = len(endpoint.log)
    assert run(settings, prepared, tmp_path / "graph") == whole
    asked = {item.get("caption") for exchange in endpoint.log[before:] for item in exchange.items}
    assert stored
    assert stored.isdisjoint(asked)


def test_a_refused_or_missing_key_leaves_the_old_graph(
    endpoint: Endpoint, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(make(), at(prepared=prepared, graph=tmp_path / "graph"), engine=EngineSettings())
    before = (tmp_path / "graph" / "graph.json").read_bytes()
    for key, said, cure in (("sk-wrong", "401", "OPENAI_API_KEY"), (None, "no API key", "export OPENAI_API_KEY")):
        monkeypatch.delenv("OPENAI_API_KEY")
        if key is not None:
            monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ServiceError, match=said) as caught:
            run(settings_for(endpoint), prepared, tmp_path / "graph")
        assert cure in str(caught.value.fix)
        assert (tmp_path / "graph" / "graph.json").read_bytes() == before
    assert endpoint.answered == []


def test_captions_without_an_answer_can_be_skipped(endpoint: Endpoint, prepared: Path, tmp_path: Path) -> None:
    endpoint.oracle = lambda item: {} if "villa" in item.get("caption", "") else oracle(item)
    settings = settings_for(endpoint, rounds=0)
    with pytest.raises(ServiceError, match="20 of 200 distinct captions got no usable answer"):
        run(settings, prepared, tmp_path / "graph")
    extraction = settings.build.extraction.model_copy(update={"on_bad_caption": "skip"})
    build = settings.build.model_copy(update={"extraction": extraction})
    run(settings.model_copy(update={"build": build}), prepared, tmp_path / "graph")
    assert read_graph(tmp_path / "graph").about["captions_with_triples"] == COUNT - 20


def test_a_dry_run_of_merging_alone_counts_its_first_round(endpoint: Endpoint, prepared: Path, tmp_path: Path) -> None:
    extracting = settings_for(endpoint).build
    rules = extracting.extraction.model_copy(update={"engine": "rules"})
    build = extracting.model_copy(update={"extraction": rules})
    settings = settings_for(endpoint).model_copy(update={"build": build})
    estimated = stage.estimate(settings, at(prepared=prepared))
    assert estimated is not None
    assert endpoint.log == []
    run(settings, prepared, tmp_path / "graph")
    asked = {(item["kind"], *item["names"]) for exchange in endpoint.log for item in exchange.items}
    assert (estimated.what, estimated.stored) == ("groups", 0)
    assert 0 < estimated.items <= len(asked)
    about = read_graph(tmp_path / "graph").about
    assert (about["engine"], about["model"], about["merged_by"], about["merge_model"]) == ("rules", None, "llm", "m")


def test_own_prompts_count_by_their_content(endpoint: Endpoint, tmp_path: Path) -> None:
    values = []
    for folder, text in (("one", "Find triples."), ("two", "Find triples."), ("three", "Find all triples.")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "triples.md").write_text(text)
        (tmp_path / folder / "merges.md").write_text("Merge.")
        values.append(settings_for(endpoint, prompts=str(tmp_path / folder)).result_values())
    assert values[0] == values[1] != values[2]
    assert str(tmp_path) not in json.dumps(values)
    (tmp_path / "one" / "merges.md").unlink()
    with pytest.raises(DataError, match="cannot read the prompt"):
        settings_for(endpoint, prompts=str(tmp_path / "one")).result_values()
