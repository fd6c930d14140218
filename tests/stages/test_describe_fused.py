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
from pipeline.paths import Paths
from pipeline.training.settings import TrainSettings
from pipeline.vision.regions.settings import Store
from stages import caption, describe, masks, matches, regions, scenes, semantics, train
from stages.settings import CaptionSettings, MasksSettings, MatchesSettings, RegionsSettings, SemanticsSettings
from tests.worlds import cache_world
from tests.worlds.mask_data import THRESHOLDS, lively_weights
from tests.worlds.scene_data import make_data
from tests.worlds.semantic_data import write_grounding

ENGINE = EngineSettings(device="cpu")
SEARCH: dict[str, Any] = {"beams": 2, "n_best": 2, "max_length": 8}


@pytest.fixture(params=["paper", "release", "release with a head of its own"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with a fusion over caches that every stage has made of random pictures."""
    monkeypatch.chdir(tmp_path)
    prepared, backbone = make_data(tmp_path, 3)
    build_vocabulary(["a road is built"], VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    sam, paths = lively_weights(tmp_path), paths_of()
    assert prepared == tmp_path / paths.prepared
    scenes.run(backbone, paths, engine=ENGINE)
    masks.run(MasksSettings(sam=sam, generator=THRESHOLDS), paths, engine=ENGINE)
    fusion, _, learned = request.param.partition(" ")
    store: Store = "grids" if learned else "vectors"
    regions.run(RegionsSettings(batch_size=2, store=store), paths, engine=ENGINE)
    matches.run(MatchesSettings(method="nearest", batch_size=2), paths, engine=ENGINE)
    naming = SemanticsSettings(grounding=write_grounding(tmp_path), sam=sam, top_q=3, batch_size=2)
    semantics.run(naming, paths, engine=ENGINE)
    cache_world.write_graph(paths.graph, prepared)
    captioner = cache_world.captioner(fusion, descriptor_width=8 if learned else None)
    settings = TrainSettings(epochs=1, batch_size=2, captioner=captioner)
    return train.run(settings, paths, engine=ENGINE) / "seed-1"


def paths_of() -> Paths:
    return Paths.under().at(prepared=Path("prepared"), models=Path("models"), captions=Path("captions"))


def say(model: Path, pair: str = "pair_001", graph: Path | None = None) -> describe.Description:
    before, after = (Path("images", date, f"{pair}.png") for date in "AB")
    paths = paths_of() if graph is None else paths_of().at(graph=graph)
    return describe.run(GenerationSettings(**SEARCH), before, after, model, paths, engine=ENGINE)


def test_says_the_same_as_the_caption_stage(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = caption.run(CaptionSettings(split="train", **SEARCH), paths_of(), engine=ENGINE)
    capfd.readouterr()
    for expected in json.loads((written / "seed-1.json").read_text()):
        description = say(model, expected["image_id"])
        assert description.sentences == [row["caption"] for row in expected["n_best"]]
        assert description.scores == pytest.approx([row["score"] for row in expected["n_best"]], abs=5e-3)
    assert capfd.readouterr().err == "", "stages of one pair are none of the user's business"


def test_leaves_nothing_behind(model: Path) -> None:
    def files() -> set[Path]:
        return set(Path().rglob("*"))

    before = files()
    say(model)
    assert files() == before


def test_other_weights_than_the_trainings_are_refused(model: Path) -> None:
    lively_weights(Path.cwd(), seed=4)
    with pytest.raises(
        CacheError, match=r"masks were made with other weights \(sam\) than those that seed-1"
    ) as caught:
        say(model)
    assert caught.value.where == str(model / "settings.json") and "bring back the weights" in caught.value.fix


def test_another_graph_is_refused(model: Path) -> None:
    cache_world.write_graph(Path("other"), Path("prepared"), engine="llm")
    with pytest.raises(CacheError, match="graph is not the one"):
        say(model, graph=Path("other"))


def _imported(card: dict[str, Any]) -> None:
    card["semantics"]["caches"]["semantics"]["settings"] = {"source": {"kind": "tags", "file": "tags.json"}}


def _aligned(card: dict[str, Any]) -> None:
    card["semantics"]["caches"]["semantics"]["settings"]["space"] = "aligned"


def _without_masks(card: dict[str, Any]) -> None:
    del card["regions"]["caches"]["masks"]


def _of_another_version(card: dict[str, Any]) -> None:
    card["regions"]["caches"]["masks"]["settings"]["colour"] = "red"


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
def test_inputs_that_two_images_do_not_give_is_refused(
    model: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = model / "settings.json"
    card = json.loads(path.read_text())
    change(card["inputs"])
    path.write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=message) as caught:
        say(model)
    assert "--model" in caught.value.fix and "sagecc caption" in caught.value.fix
