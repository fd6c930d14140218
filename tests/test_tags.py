"""The whole road of the profile `levir-cc-tags`: captions and object tags in, sentences out, no image anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from pipeline.cache.reader import Cache
from pipeline.datasets.no_change import implies_change
from pipeline.datasets.records import read_prepared
from pipeline.errors import CacheError, CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.training.checkpoints import read_card
from pipeline.vision.grounding.cache import SCHEMA
from stages import caption, describe, evaluate, prepare, scenes, semantics, train
from stages.profiles import WITHOUT_IMAGES, profile_sections
from stages.settings import CaptionSettings
from tests.datasets import fakes
from tests.datasets.reference import reference

ENGINE = EngineSettings(device="cpu")
SMALL = [
    "prepare.vocabulary.min_count=1",
    "train.epochs=60",
    "train.label_smoothing=0.0",
    "train.batch_size=2",
    "train.decay_every=60",
    "train.validate_every=60",
    "train.learning_rate=3.0e-3",
    "train.captions_per_pair=all",
    "train.hold_out=0.0",
    "train.captioner.decoder.width=32",
    "train.captioner.decoder.dropout=0.0",
    "train.captioner.release.dropout=0.0",
    "caption.split=train",
    "evaluate.meteor=never",
]
PATHS = Paths.under(name="tags")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fakes.levir_tags(tmp_path / "data")


def run(root: Path, *changes: str) -> dict[str, str]:
    """Run the profile's stages in a small size; return the sentence of each pair."""
    sections = profile_sections("levir-cc-tags", str(root), [*SMALL, *changes])
    prepare.run(sections["prepare"], PATHS, engine=ENGINE)
    semantics.run(sections["semantics"], PATHS, engine=ENGINE)
    train.run(sections["train"], PATHS, engine=ENGINE)
    caption.run(sections["caption"], PATHS, engine=ENGINE)
    return {row["image_id"]: row["caption"] for row in json.loads((PATHS.captions / "seed-1.json").read_text())}


def test_tags_alone_tell_changed_pairs_from_unchanged_ones(root: Path) -> None:
    said = run(root)
    assert not PATHS.scenes.exists()
    pairs = {pair.id: pair for pair in read_prepared(PATHS.prepared).split("train")}
    assert said.keys() == pairs.keys() and len(said) == 4
    for name, pair in pairs.items():
        assert implies_change(said[name]) == bool(pair.changed), (name, said[name])
    card = read_card(PATHS.models / "seed-1")
    assert card.inputs and "scenes" not in card.inputs and "images" not in card.inputs
    # Tags that changed are noticed: the model was trained on others.
    path = root / "object_tags_train.json"
    path.write_text(path.read_text().replace("Forest", "Airport"))
    sections = profile_sections("levir-cc-tags", str(root), SMALL)
    semantics.run(sections["semantics"], PATHS, engine=ENGINE)
    with pytest.raises(CacheError, match=r"another object_tags_train\.json"):
        caption.run(sections["caption"], PATHS, engine=ENGINE)
    with pytest.raises(CheckpointError, match=r"were imported \(tags\)"):
        describe.run(CaptionSettings(), Path("a.png"), Path("b.png"), PATHS.models / "seed-1", PATHS, engine=ENGINE)


def test_a_trained_model_is_scored_and_the_fusion_can_be_the_papers(root: Path) -> None:
    paper = ["train.captioner.fusion=paper", "train.captioner.paper.dates_apart=true", "train.epochs=2"]
    assert len(run(root, *paper)) == 4
    sections = profile_sections("levir-cc-tags", str(root), SMALL)
    evaluate.run(sections["evaluate"], PATHS, engine=ENGINE)
    assert PATHS.metrics.is_file()


def test_rows_of_an_experiment_need_no_scenes_either(root: Path) -> None:
    done = CliRunner().invoke(app, ["init", "levir-cc-tags", "--root", str(root)])
    assert done.exit_code == 0
    sections = profile_sections("levir-cc-tags", str(root), SMALL)
    prepare.run(sections["prepare"], PATHS, engine=ENGINE)
    semantics.run(sections["semantics"], PATHS, engine=ENGINE)
    changes = [*SMALL, "train.epochs=2", "train.validate_every=2", "engine.device=cpu"]
    command = ["experiment", "seeds", "--seeds", "1,2", "--resamples", "20"]
    command += [part for change in changes for part in ("--set", change)]

    def output(*extra: str) -> str:
        done = CliRunner().invoke(app, [*command, *extra])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    assert "active settings: to do in " in output("--dry-run")
    assert "| active settings |" in output()
    assert "active settings: done in " in output("--dry-run")
    row = json.loads(Path("artifacts/experiments/seeds/table.json").read_text())["rows"][0]
    assert row["scores"]["all"]["bleu_4"]["deviation"] is not None and not PATHS.scenes.exists()
    # What a row itself asks for, and is not there, is named.
    scenes_asked = output("--dry-run", "--set", "train.captioner.scene.features=cached")
    assert "cannot be run" in scenes_asked and "scenes.h5" in scenes_asked


def test_stages_that_need_pixels_refuse(root: Path) -> None:
    sections = profile_sections("levir-cc-tags", str(root))
    prepare.run(sections["prepare"], PATHS, engine=ENGINE)
    with pytest.raises(DataError, match="without its images"):
        scenes.run(sections["scenes"], PATHS, engine=ENGINE)


def test_init_tells_what_runs(root: Path) -> None:
    done = CliRunner().invoke(app, ["init", "levir-cc-tags", "--root", str(root)])
    command = " && ".join(f"sagecc {stage}" for stage in WITHOUT_IMAGES)
    assert done.exit_code == 0 and f"next: {command}" in done.stdout and "before" not in done.stdout
    assert "sagecc semantics" in Path("params.yaml").read_text(encoding="utf-8").partition("\n\n")[0]


@pytest.mark.reference_data
def test_real_tags_belong_to_the_real_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = reference("levir_cc")
    monkeypatch.chdir(tmp_path)
    sections = profile_sections("levir-cc-tags", str(root))
    prepare.run(sections["prepare"], PATHS, engine=ENGINE)
    path = semantics.run(sections["semantics"], PATHS, engine=ENGINE)
    with Cache.open(path, SCHEMA) as cache:
        assert len(cache.ids) == 8_148 and cache.missing.size == 0
