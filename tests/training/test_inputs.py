from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import Field

from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.records import read_prepared
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import CacheError, CheckpointError, DataError, SettingsError
from pipeline.paths import Paths
from pipeline.training.inputs import SOURCES, CacheCard, Inputs, SourceCard, check_cards, open_cache, open_inputs
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from tests.captioners.toy import ToySettings
from tests.worlds import cache_world, world

CPU = torch.device("cpu")
MODEL = Path("models/tiny/seed-1")


def test_a_captioner_without_a_fusion_opens_scenes_alone(paths):
    absent = paths.at(**dict.fromkeys(("masks", "regions", "matches", "semantics", "graph"), Path("no")))
    inputs = open_inputs(absent, world.TINY, training=True)
    assert list(inputs.sources) == ["scenes"] and inputs.shapes == {"scenes": world.SHAPE}


def test_inputs_come_in_the_order_in_which_the_captioner_names_them(paths):
    inputs = open_inputs(paths, cache_world.captioner(), training=True)
    assert list(inputs.sources) == list(inputs.cards()) == ["scenes", "regions", "semantics", "graph"]
    assert inputs.shapes == {"scenes": world.SHAPE, "regions": (6,), "semantics": (5,), "graph": (4, 3)}
    assert inputs.vocabulary.sha256 == Vocabulary.load(paths.prepared / "vocabulary.json").sha256


def test_a_captioner_of_another_kind_opens_what_it_names(paths):
    inputs = open_inputs(paths, ToySettings(), training=True)
    assert inputs.shapes == {"scenes": world.SHAPE, "maps": (4, 2, 4)}
    stores = inputs.stores(inputs.data.split("train"), CPU)
    batch = {name: store.take(np.array([2, 0])) for name, store in stores.items()}
    assert batch["scenes"].shape == (2, 2, *world.SHAPE) and batch["maps"].shape == (2, 2, 2, 4)


class WeatherSettings(CaptionerSettings):
    """A captioner that reads what nobody provides."""

    captioner: ClassVar[str] = "tests.captioners.toy:ToyCaptioner"
    kind: Literal["weather"] = Field("weather", description="which captioner")

    def input_names(self) -> tuple[str, ...]:
        return ("scenes", "weather")


def test_an_input_that_nobody_provides_is_refused_with_those_there_are(paths):
    with pytest.raises(SettingsError, match="'weather': unknown input source") as caught:
        open_inputs(paths, WeatherSettings(), training=True)
    assert "scenes, images, maps, regions, semantics, graph" in caught.value.what


def test_every_source_is_registered_under_its_own_name():
    assert SOURCES.names == ("scenes", "images", "maps", "regions", "semantics", "graph")
    assert [SOURCES.resolve(name).name for name in SOURCES] == list(SOURCES)


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_card_survives_json(paths, prepared, name):
    masks = cache_world.write_masks(paths.masks, prepared)
    cache_world.write_regions(paths.regions, prepared, masks=masks)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    card = open_inputs(paths, cache_world.captioner(), (name,), training=True).cards()[name]
    assert SourceCard.model_validate_json(card.model_dump_json()) == card
    assert card.caches or card.files
    # The order of the stages decides in which order `describe` runs them.
    assert list(SourceCard.model_validate_json(card.model_dump_json()).caches) == list(card.caches)


def test_pairs_are_available_that_every_source_has(paths):
    world.write_scenes(paths.scenes, paths.prepared, missing=[5])
    inputs = open_inputs(paths, cache_world.captioner(), training=True)
    assert [pair.id for pair in inputs.available(inputs.data.pairs)] == ["p0", "p1", "p3", "p4", "p5"]
    alone = open_inputs(paths, cache_world.captioner(), ("regions", "graph"), training=True)
    assert alone.available(inputs.data.pairs) == list(inputs.data.pairs)


def test_a_missing_prepared_folder_is_named(paths):
    with pytest.raises(DataError) as caught:
        open_inputs(paths.at(prepared=Path("nowhere")), world.TINY, training=True)
    assert "nowhere" in str(caught.value.where) and "sagecc prepare" in caught.value.fix


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["p0", "p1", "p2", "p3", "p4"], "'p5' is not in it"), (["p1", "p0", "p2", "p3", "p4", "p5"], "another order")],
)
def test_a_cache_that_lacks_a_pair_or_mixes_them_up_is_refused(paths, ids, message):
    cache_world.write_semantics(paths.semantics, paths.prepared, ids=ids)
    data = read_prepared(paths.prepared)
    with pytest.raises(CacheError, match=f"the semantics are not those of the prepared pairs: .*{message}") as caught:
        open_cache(paths.semantics, SEMANTICS, {"pairs.jsonl": data.card.pairs_sha256}, data)
    assert caught.value.where == str(paths.semantics) and "sagecc semantics" in caught.value.fix


CARDS = {
    "scenes": SourceCard(
        shape=(8, 2, 2),
        caches={
            "scenes": CacheCard(
                settings={"backbone": "mini", "size": None},
                settings_hash="a" * 64,
                weights={"backbone": "0" * 64},
                upstream={"pairs.jsonl": "1" * 64},
            )
        },
    ),
    "regions": SourceCard(
        shape=(6,),
        caches={
            stage: CacheCard(settings={}, settings_hash="b" * 64, weights={"sam": "0" * 64}, upstream={upstream: "2"})
            for stage, upstream in (("masks", "pairs.jsonl"), ("regions", "masks.h5"), ("matches", "regions.h5"))
        },
    ),
    "graph": SourceCard(shape=(4, 3), files={"graph.json": "3", "graph.h5": "4", "encoder.safetensors": "5"}),
}


def check(current: dict[str, SourceCard], **options: bool) -> None:
    check_cards(CARDS, current, model=MODEL, paths=Paths.under(), **options)


def with_cache(name: str, stage: str, **changes: object) -> dict[str, SourceCard]:
    """The cards, with one cache changed."""
    caches = {**CARDS[name].caches, stage: CARDS[name].caches[stage].model_copy(update=changes)}
    return {**CARDS, name: CARDS[name].model_copy(update={"caches": caches})}


def with_graph(**changes: object) -> dict[str, SourceCard]:
    return {**CARDS, "graph": CARDS["graph"].model_copy(update=changes)}


def test_equal_inputs_are_accepted():
    check(CARDS)
    check(CARDS, same_pairs=True)
    # A trained captioner keeps its graph encoder: the pretrained one is not read any more.
    check(with_graph(files={"graph.json": "3", "graph.h5": "4"}))
    # Masks may lie beside the regions at one time and not at another.
    without_masks = {stage: cache for stage, cache in CARDS["regions"].caches.items() if stage != "masks"}
    check({**CARDS, "regions": CARDS["regions"].model_copy(update={"caches": without_masks})}, same_pairs=True)


def test_other_settings_are_named_with_their_stage():
    current = with_cache(
        "scenes", "scenes", settings={"backbone": "mini", "size": 64, "mean": 1}, settings_hash="c" * 64
    )
    with pytest.raises(
        CacheError,
        match=r"the scenes were made with other settings \(mean, size\) than those that seed-1 was trained on",
    ) as caught:
        check(current)
    assert caught.value.where == str(Paths.under().scenes)
    assert "sagecc scenes" in caught.value.fix and str(MODEL / "settings.json") in caught.value.fix
    assert "sagecc train" in caught.value.fix
    check(current, settings=False)


@pytest.mark.parametrize("stage", ["masks", "regions", "matches"])
def test_other_weights_are_named_with_their_stage(stage):
    current = with_cache("regions", stage, weights={"sam": "9" * 64})
    for options in ({}, {"settings": False}, {"same_pairs": True}):
        with pytest.raises(CacheError, match=rf"the {stage} were made with other weights \(sam\)") as caught:
            check(current, **options)
        if "settings" in options:
            assert caught.value.where == str(MODEL / "settings.json") and "bring back the weights" in caught.value.fix
        else:
            assert caught.value.where == str(getattr(Paths.under(), stage)) and f"sagecc {stage}" in caught.value.fix


def test_another_upstream_counts_for_the_same_pairs_only():
    current = with_cache("regions", "regions", upstream={"masks.h5": "7"})
    check(current)
    with pytest.raises(CacheError, match=r"the regions were made with another masks\.h5") as caught:
        check(current, same_pairs=True)
    assert caught.value.where == str(Paths.under().regions)


@pytest.mark.parametrize("name", ["graph.json", "graph.h5"])
def test_another_graph_is_refused(name):
    with pytest.raises(CacheError, match=f"the graph is not the one that seed-1 was trained with: {name}") as caught:
        check(with_graph(files={**CARDS["graph"].files, name: "8"}))
    assert caught.value.where == str(Paths.under().graph) and "sagecc train" in caught.value.fix


def test_another_shape_is_refused():
    current = {**CARDS, "regions": CARDS["regions"].model_copy(update={"shape": (9,)})}
    with pytest.raises(CheckpointError, match=r"reads regions of shape \(6,\), and these have \(9,\)") as caught:
        check(current)
    assert caught.value.where == str(MODEL / "settings.json") and "sagecc train" in caught.value.fix


def test_cards_of_opened_inputs_agree_with_themselves(paths):
    def cards() -> dict[str, SourceCard]:
        inputs: Inputs = open_inputs(paths, cache_world.captioner(), training=False)
        return inputs.cards()

    trained = open_inputs(paths, cache_world.captioner(), training=True).cards()
    check_cards(trained, cards(), model=MODEL, paths=paths, same_pairs=True)
    cache_world.write_graph(paths.graph, paths.prepared, engine="llm")
    with pytest.raises(CacheError, match=r"seed-1 was trained with: graph\.h5, graph\.json"):
        check_cards(trained, cards(), model=MODEL, paths=paths, same_pairs=True)
