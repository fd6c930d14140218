"""Another captioner, in one file (tests/captioners/toy.py) and one registry line, goes the whole way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.captioners.settings import GenerationSettings
from pipeline.config import parse_section
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.training.settings import TrainSettings
from stages import caption, describe, evaluate, scenes, semantics, train
from stages.settings import CaptionSettings, EvaluateSettings, SemanticsSettings
from tests.captioners import toy
from tests.worlds.mask_data import lively_weights
from tests.worlds.scene_data import make_data
from tests.worlds.semantic_data import write_grounding

ENGINE = EngineSettings(device="cpu")


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with toy.registered():
        yield


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Four pairs of random pictures with their scenes and semantic maps."""
    monkeypatch.chdir(tmp_path)
    paths = Paths.under(tmp_path).at(prepared=tmp_path / "prepared")
    prepared, backbone = make_data(tmp_path, 4)
    assert prepared == paths.prepared
    build_vocabulary(["a road is built"], VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    scenes.run(backbone, paths, engine=ENGINE)
    naming = SemanticsSettings(grounding=write_grounding(tmp_path), sam=lively_weights(tmp_path), batch_size=2)
    semantics.run(naming, paths, engine=ENGINE)
    return paths


def settings(**captioner: object) -> TrainSettings:
    values = {"epochs": 2, "batch_size": 2, "captioner": {"kind": "toy", **captioner}}
    return parse_section(values, "train", TrainSettings)


def test_it_trains_captions_is_scored_and_describes_a_pair(paths: Paths) -> None:
    model = train.run(settings(width=8), paths, engine=ENGINE) / "seed-1"
    card = json.loads((model / "settings.json").read_text())
    assert list(card["inputs"]) == ["scenes", "maps"] and card["train"]["captioner"] == {"kind": "toy", "width": 8}
    search = {"beams": 2, "n_best": 2, "max_length": 8}
    caption.run(CaptionSettings(split="train", **search), paths, engine=ENGINE)
    rows = json.loads((paths.captions / "seed-1.json").read_text())
    assert [row["image_id"] for row in rows] == [f"pair_{index:03d}" for index in range(4)]
    evaluate.run(EvaluateSettings(meteor="never", examples=0), paths, engine=ENGINE)
    assert json.loads(paths.metrics.read_text())["words"]["all"]
    images = [Path("images", date, "pair_001.png") for date in "AB"]
    description = describe.run(GenerationSettings(**search), *images, model, paths, engine=ENGINE)
    assert description.sentences == [entry["caption"] for entry in rows[1]["n_best"]]
    assert description.scores == pytest.approx([entry["score"] for entry in rows[1]["n_best"]], abs=5e-3)


def test_it_goes_on_where_it_was_and_is_not_trained_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    model = train.run(settings(), paths, engine=ENGINE) / "seed-1"
    before = (model / "model.safetensors").read_bytes()
    monkeypatch.setattr(train, "train_seeds", lambda *arguments: pytest.fail("it is trained again"))
    train.run(settings(), paths, engine=ENGINE)
    assert (model / "model.safetensors").read_bytes() == before


def test_attention_maps_that_it_does_not_have_are_refused(paths: Paths) -> None:
    train.run(settings(), paths, engine=ENGINE)
    with pytest.raises(SettingsError, match="toy gives no attention maps"):
        caption.run(CaptionSettings(split="train", max_length=8), paths, engine=ENGINE, explain=True)
    assert not paths.captions.exists()
