from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.caption_graph.store import read_graph, read_tensors
from pipeline.caption_graph.triples.records import read_triples
from pipeline.config import parse_section, render_params
from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.records import Pair, write_prepared
from pipeline.errors import DataError, SettingsError
from stages import graph as stage
from stages.settings import GraphSettings
from tests.places import at
from tests.stages.graph_data import CAPTIONS, HASHED, make, prepare, run

_LEVIR = (
    Path(__file__).parents[2]
    / os.environ.get("SAGECC_REFERENCE_DATA", "../shared/data")
    / "levir_cc"
    / "LevirCCcaptions.json"
)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return prepare(
        tmp_path / "prepared", {"train": CAPTIONS, "val": ("a villa appears", "houses are built along a road")}
    )


def test_the_graph_is_made_of_training_captions_alone(prepared: Path, tmp_path: Path) -> None:
    output = run(make(), prepared, tmp_path / "graph")
    assert {path.name for path in output.iterdir()} == set(stage.OUTPUTS)
    assert {triple.pair.partition("-")[0] for triple in read_triples(output / "triples.jsonl")} == {"train"}
    stored = read_graph(output)
    triples = {stored.graph.key(edge): edge.count for edge in stored.graph.edges}
    assert triples[("house", "build-along", "road")] == 3
    assert "villa" not in stored.graph.entity_index
    assert (stored.about["engine"], stored.about["model"], stored.about["captions"]) == ("rules", None, 15)
    assert read_tensors(output).features.shape == (len(stored.graph.entities), 256)
    assert "entities" in stage.summary(output)[0]


def test_the_same_settings_give_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    one, two = (run(make(), prepared, tmp_path / name) for name in ("one", "two"))
    for name in stage.OUTPUTS:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
        assert str(tmp_path).encode() not in (one / name).read_bytes(), name


def test_the_encoder_can_be_loaded_again(prepared: Path, tmp_path: Path) -> None:
    import torch

    from pipeline.graph_encoders.encoders import GraphEncoder
    from pipeline.graph_encoders.tensors import tensors_of
    from pipeline.weights import load_tensors

    settings = make()
    output = run(settings, prepared, tmp_path / "graph")
    graph = tensors_of(read_tensors(output))
    weights, about = load_tensors(output / "encoder.safetensors")
    encoder = GraphEncoder(settings.encoder, graph.features.shape[1], graph.relations)
    encoder.load_state_dict(weights)
    assert torch.isfinite(encoder.eval()(graph)).all()
    assert about["encoder"] == settings.encoder.model_dump(mode="json")


def test_own_decisions_about_names_come_first(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("entities: {dwelling: [house]}\nrelations: {make-along: [build-along]}\n")
    settings = make(merge={"text": HASHED, "overrides": str(tmp_path / "own.yaml")})
    output = run(settings, prepared, tmp_path / "graph")
    graph = read_graph(output).graph
    assert graph.entities[graph.entity_index["house"]].name == "dwelling"
    assert "dwelling: [house]" in (output / "merges.yaml").read_text()
    assert str(tmp_path) not in (output / "graph.json").read_text()


def test_without_training_captions_there_is_no_graph(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "prepared", {"train": (), "val": CAPTIONS})
    with pytest.raises(DataError, match="no training pair has a caption"):
        run(make(), prepared, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_captions_in_another_language_are_told_before_anything_is_read(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "prepared", {"train": ("es wurde ein Haus gebaut", "एक इमारत बनाई गई है")})
    with pytest.raises(SettingsError, match="no caption is English"):
        run(make(), prepared, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


@pytest.mark.parametrize("captions", [("house", "Straße"), ("there is no change",)])
def test_captions_without_triples_are_told(tmp_path: Path, captions: tuple[str, ...]) -> None:
    prepared = prepare(tmp_path / "prepared", {"train": captions})
    with pytest.raises(DataError, match="no triple was found"):
        run(make(), prepared, tmp_path / "graph")


@pytest.mark.parametrize("captions", [("a house appears",), ("a house is replaced by another house",)])
def test_a_graph_too_small_to_hold_triples_out_is_built_without_a_measure(
    tmp_path: Path, captions: tuple[str, ...]
) -> None:
    output = run(make(min_count=1), prepare(tmp_path / "prepared", {"train": captions}), tmp_path / "graph")
    assert len(read_graph(output).graph.edges) == 1
    assert json.loads((output / "links.json").read_text())["test"] is None
    sizes, links = stage.summary(output)
    assert "1 relations, 1 triples" in sizes
    assert "too few triples" in links


def test_a_k_that_leaves_nothing_leaves_the_old_graph(prepared: Path, tmp_path: Path) -> None:
    output = run(make(), prepared, tmp_path / "graph")
    before = (output / "graph.json").read_bytes()
    with pytest.raises(DataError, match="k = 5000"):
        run(make(min_count=5000), prepared, output)
    assert (output / "graph.json").read_bytes() == before


def test_coverage_of_other_captions(prepared: Path, tmp_path: Path) -> None:
    output = run(make(), prepared, tmp_path / "graph")
    measured = stage.measure_coverage(make(), at(prepared=prepared, graph=output), "val")
    assert (measured.captions, measured.changed, measured.with_triple) == (6, 6, 6)
    assert measured.all_entities == 3
    assert ("villa", 3) in measured.unknown[0]
    with pytest.raises(DataError, match="no captions"):
        stage.measure_coverage(make(), at(prepared=prepared, graph=output), "test")


def test_a_dry_run_asks_nothing(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert stage.estimate(make(), at(prepared=prepared)) is None
    estimate = stage.estimate(make(extraction={"engine": "llm"}, llm={"model": "m"}), at(prepared=prepared))
    assert estimate is not None
    assert estimate.items == 4
    with pytest.raises(SettingsError):
        stage.estimate(make(extraction={"engine": "llm"}), at(prepared=prepared))


def test_settings_of_pace_do_not_count_as_another_result() -> None:
    plain = make(extraction={"engine": "llm"}, llm={"model": "m"})
    faster = make(extraction={"engine": "llm"}, llm={"model": "m", "traffic": {"concurrency": 32}})
    other = make(extraction={"engine": "llm"}, llm={"model": "n"})
    assert plain.result_values() == faster.result_values() != other.result_values()
    assert make().result_values() == make(llm={"model": "m"}).result_values()


def test_settings_can_be_written_as_params() -> None:
    import yaml

    text = render_params({"graph": GraphSettings()}, heading="x")
    assert parse_section(yaml.safe_load(text)["graph"], "graph", GraphSettings) == GraphSettings()


def test_the_stage_is_light_to_import() -> None:
    script = "import sys, stages.graph; print(sorted({'spacy', 'openai'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.reference_data
def test_real_captions_make_a_graph_of_the_papers_size(tmp_path: Path) -> None:
    if not _LEVIR.is_file():
        pytest.skip(f"no reference captions at {_LEVIR}; set SAGECC_REFERENCE_DATA to their folder")
    pairs = [
        Pair(id=entry.stem, split=entry.split or "train", before="a", after="b", captions=entry.captions)
        for entry in read_captions(_LEVIR)
        if entry.split == "train"
    ]
    write_prepared(tmp_path / "prepared", "levir-cc", "images", pairs)
    output = run(GraphSettings(), tmp_path / "prepared", tmp_path / "graph")
    graph = read_graph(output).graph
    assert 30 <= len(graph.entities) <= 60
    assert 25 <= len(graph.relations) <= 60
    assert json.loads((output / "links.json").read_text())["test"]["mrr"] > 0.5
