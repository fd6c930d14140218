from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import CacheError, CheckpointError
from pipeline.execution.settings import EngineSettings
from pipeline.training.region_inputs import EvidencePaths
from pipeline.training.settings import TrainSettings
from pipeline.vision.regions.settings import Store
from stages import caption, describe, masks, matches, regions, scenes, semantics, train
from stages.settings import CaptionSettings, MasksSettings, MatchesSettings, RegionsSettings, SemanticsSettings
from tests.stages.mask_data import THRESHOLDS, lively_weights
from tests.stages.scene_data import make_data
from tests.stages.semantic_data import write_grounding
from tests.training import evidence_world

ENGINE = EngineSettings(device="cpu")
SEARCH: dict[str, Any] = {"beams": 2, "n_best": 2, "max_length": 8}


@pytest.fixture(params=["paper", "release", "release with a head of its own"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with a fusion over caches that every stage has made of random pictures."""
    monkeypatch.chdir(tmp_path)
    prepared, backbone = make_data(tmp_path, 3)
    build_vocabulary(["a road is built"], VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    sam, where = lively_weights(tmp_path), caches()
    scenes.run(backbone, prepared, Path("scenes.h5"), engine=ENGINE)
    found = masks.run(MasksSettings(sam=sam, generator=THRESHOLDS), prepared, Path("masks.h5"), engine=ENGINE)
    fusion, _, learned = request.param.partition(" ")
    store: Store = "grids" if learned else "vectors"
    regions.run(RegionsSettings(batch_size=2, store=store), prepared, found, where.regions, engine=ENGINE)
    matches.run(MatchesSettings(method="nearest", batch_size=2), where.regions, where.matches, engine=ENGINE)
    naming = SemanticsSettings(grounding=write_grounding(tmp_path), sam=sam, q=3, batch_size=2)
    semantics.run(naming, prepared, where.semantics, engine=ENGINE, masks=found)
    evidence_world.write_graph(where.graph, prepared)
    captioner = evidence_world.captioner(fusion, descriptor_width=8 if learned else None)
    settings = TrainSettings(epochs=1, batch_size=2, captioner=captioner)
    models = train.run(settings, prepared, Path("scenes.h5"), Path("models"), engine=ENGINE, **where.by_stage())
    return models / "seed-1"


def caches() -> EvidencePaths:
    return evidence_world.paths(Path())


def say(model: Path, pair: str = "pair_001", **options: Any) -> describe.Description:
    before, after = (Path("images", date, f"{pair}.png") for date in "AB")
    options = {"graph": caches().graph} | options
    return describe.run(GenerationSettings(**SEARCH), before, after, model, engine=ENGINE, **options)


def test_says_the_same_as_the_caption_stage(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings, where = CaptionSettings(split="train", **SEARCH), caches().by_stage()
    inputs = (Path("prepared"), Path("scenes.h5"), model.parent)
    written = caption.run(settings, *inputs, Path("captions"), engine=ENGINE, **where)
    capfd.readouterr()
    for expected in json.loads((written / "seed-1.json").read_text()):
        found = say(model, expected["image_id"])
        assert found.sentences == [row["caption"] for row in expected["n_best"]]
        assert found.scores == pytest.approx([row["score"] for row in expected["n_best"]], abs=5e-3)
    assert capfd.readouterr().err == "", "stages of one pair are none of the user's business"


def test_leaves_nothing_behind(model: Path) -> None:
    def files() -> set[Path]:
        return set(Path().rglob("*"))

    before = files()
    say(model)
    assert files() == before


def test_other_weights_than_the_trainings_are_refused(model: Path) -> None:
    lively_weights(Path.cwd(), seed=4)
    with pytest.raises(CacheError, match="were made with other weights than those that seed-1 was trained on"):
        say(model)


def test_another_graph_is_refused(model: Path) -> None:
    evidence_world.write_graph(Path("other"), Path("prepared"), engine="llm")
    with pytest.raises(CacheError, match="graph is not the one"):
        say(model, graph=Path("other"))


def _imported(card: dict[str, Any]) -> None:
    card["caches"]["semantics"]["settings"] = {"source": {"kind": "tags", "file": "tags.json"}}


def _aligned(card: dict[str, Any]) -> None:
    card["caches"]["semantics"]["settings"]["space"] = "aligned"


def _without_masks(card: dict[str, Any]) -> None:
    card["masks"] = None


def _of_another_version(card: dict[str, Any]) -> None:
    card["masks"]["settings"]["colour"] = "red"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_imported, r"were imported \(tags\)"),
        (_aligned, "fitted to its data set"),
        (_without_masks, "does not say how the masks were made"),
        (_of_another_version, "this version does not know"),
    ],
)
@pytest.mark.parametrize("model", ["release"], indirect=True)
def test_evidence_that_two_images_do_not_give_is_refused(
    model: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = model / "settings.json"
    card = json.loads(path.read_text())
    change(card["evidence"])
    path.write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=message) as caught:
        say(model)
    assert "--model" in caught.value.fix and "sagecc caption" in caught.value.fix
