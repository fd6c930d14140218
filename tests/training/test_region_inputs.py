from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.captioners.inputs import Regions
from pipeline.captioners.settings import SageCCSettings, SideInputSettings
from pipeline.errors import CacheError, CheckpointError, DataError, SettingsError
from pipeline.files import sha256_file
from pipeline.graph_encoders.settings import GraphEncoderSettings
from pipeline.paths import Paths
from pipeline.training import region_inputs
from pipeline.training.inputs import Inputs, open_inputs
from pipeline.training.region_inputs import ENCODER, GraphSource, RegionSource, SemanticSource
from pipeline.training.stores import GraphStore, RegionStore
from pipeline.vision.matching.settings import AssignmentSettings
from stages import graph as stage
from tests.worlds import cache_world, world
from tests.worlds.cache_world import COUNTS, SIZE

CPU = torch.device("cpu")
NO_FILE = Path("no")


def opened(paths: Paths, captioner: SageCCSettings | None = None, *, training: bool = True) -> Inputs:
    """What a captioner reads beside the scenes."""
    captioner = captioner or cache_world.captioner()
    names = [name for name in captioner.input_names() if name != "scenes"]
    return open_inputs(paths, captioner, names, training=training)


def test_shapes_and_cards_say_what_was_opened(paths):
    inputs = opened(paths)
    assert inputs.shapes == {"regions": (6,), "semantics": (5,), "graph": (4, 3)}
    assert [type(source) for source in inputs.sources.values()] == [RegionSource, SemanticSource, GraphSource]
    cards = inputs.cards()
    caches = {name: list(card.caches) for name, card in cards.items()}
    assert caches == {"regions": ["regions", "matches"], "semantics": ["semantics"], "graph": []}
    assert set(cards["graph"].files) == {"graph.json", "graph.h5", "encoder.safetensors"}
    assert not cards["regions"].files and not cards["semantics"].files
    assert set(cards["regions"].caches["matches"].upstream) == {"regions.h5"}
    assert all(str(Path.cwd()) not in card.model_dump_json() for card in cards.values())


def test_the_card_names_the_masks_that_lie_beside_the_regions(paths, prepared):
    masks = cache_world.write_masks(paths.masks, prepared, weights="2" * 64)
    cache_world.write_regions(paths.regions, prepared, masks=masks)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    caches = opened(paths).cards()["regions"].caches
    assert list(caches) == ["masks", "regions", "matches"] and caches["masks"].weights == {"sam": "2" * 64}


def test_a_head_to_be_trained_asks_for_grids(paths, prepared):
    learning = cache_world.captioner(descriptor_width=8)
    with pytest.raises(CacheError, match="7×7 grids") as caught:
        opened(paths, learning)
    assert "sagecc regions --set regions.store=grids" in caught.value.fix and "null" in caught.value.fix
    cache_world.write_regions(paths.regions, prepared, spoil=cache_world.with_grids)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    assert opened(paths, learning).shapes["regions"] == (2 * 49,)
    assert opened(paths).shapes["regions"] == (6,)


@pytest.mark.parametrize(
    ("choice", "needed"),
    [
        ({"semantics": False, "graph": False}, {"regions", "matches"}),
        ({"regions": False, "graph": False}, {"semantics"}),
        ({"regions": False, "semantics": False}, {"graph"}),
    ],
)
def test_what_is_not_read_need_not_exist(paths, choice, needed):
    absent = {"regions", "matches", "semantics", "graph"} - needed
    inputs = opened(paths.at(**dict.fromkeys(absent, NO_FILE)), cache_world.captioner(**choice))
    caches = {stage for card in inputs.cards().values() for stage in card.caches}
    assert caches | ({"graph"} & inputs.sources.keys()) == needed


@pytest.mark.parametrize("stage", ["regions", "matches", "semantics", "graph"])
def test_what_is_missing_is_named_with_its_command(paths, stage):
    (paths.graph / "graph.h5" if stage == "graph" else getattr(paths, stage)).unlink()
    with pytest.raises((CacheError, DataError)) as caught:
        opened(paths)
    assert f"sagecc {stage}" in caught.value.fix and stage in caught.value.where


@pytest.mark.parametrize("stage", ["regions", "semantics", "graph"])
def test_caches_of_another_data_set_are_refused(paths, project, stage):
    other = world.write_pairs(project / "other", captions=(("other",), *world.CAPTIONS[1:]))
    write = {
        "regions": cache_world.write_regions,
        "semantics": cache_world.write_semantics,
        "graph": cache_world.write_graph,
    }[stage]
    write(getattr(paths, stage), other)
    with pytest.raises(CacheError, match=r"pairs\.jsonl") as caught:
        opened(paths)
    assert f"sagecc {stage}" in caught.value.fix


def test_matches_of_other_regions_are_refused(paths, prepared):
    cache_world.write_regions(paths.regions, prepared, weights="1" * 64)
    with pytest.raises(CacheError, match=r"regions\.h5") as caught:
        opened(paths)
    assert caught.value.where == str(paths.matches) and "sagecc matches" in caught.value.fix


def test_regions_of_other_masks_are_refused(paths, prepared):
    masks = cache_world.write_masks(paths.masks, prepared)
    cache_world.write_regions(paths.regions, prepared, masks=masks)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    opened(paths)
    cache_world.write_masks(masks, prepared, weights="1" * 64)
    with pytest.raises(CacheError, match=r"masks\.h5") as caught:
        opened(paths)
    assert caught.value.where == str(paths.regions) and "sagecc regions" in caught.value.fix


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["p0", "p1", "p2", "p3", "p4"], "'p5' is not in it"), (["p1", "p0", "p2", "p3", "p4", "p5"], "another order")],
)
@pytest.mark.parametrize("stage", ["regions", "matches", "semantics"])
def test_caches_that_lack_a_pair_or_mix_them_up_are_refused(paths, prepared, stage, ids, message):
    if stage == "matches":
        cache_world.write_matches(paths.matches, paths.regions, prepared, ids=ids)
    elif stage == "regions":
        cache_world.write_regions(paths.regions, prepared, ids=ids)
        cache_world.write_matches(paths.matches, paths.regions, prepared)
    else:
        cache_world.write_semantics(paths.semantics, prepared, ids=ids)
    with pytest.raises(CacheError, match=f"the {stage} are not.*{message}") as caught:
        opened(paths)
    assert f"sagecc {stage}" in caught.value.fix


def test_another_process_opens_the_files_anew_and_refuses_replaced_ones(paths, prepared):
    ids = ["p0", "p4"]
    sources = opened(paths).sources
    copy = pickle.loads(pickle.dumps(sources))
    for name in ("regions", "semantics"):
        assert torch.equal(sources[name].read(ids).padded().features, copy[name].read(ids).padded().features)
    assert torch.equal(sources["graph"].tensors.features, copy["graph"].tensors.features)
    late = pickle.loads(pickle.dumps(sources))
    cache_world.write_semantics(paths.semantics, prepared, weights="1" * 64)
    with pytest.raises(CacheError, match="replaced"):
        late["semantics"].read(ids)


def test_a_trained_captioner_keeps_its_graph_whatever_pairs_it_describes(paths, project):
    other = world.write_pairs(project / "other", captions=(("other",), *world.CAPTIONS[1:]))
    cache_world.write_graph(paths.graph, other)
    graph = opened(paths, training=False).sources["graph"]
    assert graph.pretrained() is None and set(graph.card().files) == {"graph.json", "graph.h5"}


IDS = ["p4", "p0", "p1", "p5", "p2", "p3"]
"""All pairs, in another order than the caches'."""


def read(paths: Paths, ids: list[str] = IDS, **settings: Any) -> dict[str, Regions]:
    """The regions of pairs, by the name of their source."""
    sources = opened(paths, cache_world.captioner(**settings)).sources
    return {name: source.read(ids).padded() for name, source in sources.items() if name != "graph"}


def rows_of(regions: Regions, position: int) -> list[tuple]:
    """What a pair has, padding left out, in its order."""
    mask = regions.mask[position]
    fields = [regions.features, regions.dates, regions.centroids, regions.scores]
    return [
        tuple(None if field is None else field[position, k].tolist() for field in fields)
        for k in range(len(mask))
        if mask[k]
    ]


def test_regions_that_changed_in_their_values_alone_are_noticed(paths, prepared):
    masks = cache_world.write_masks(paths.masks, prepared)
    cache_world.write_regions(paths.regions, prepared, masks=masks)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    read(paths)

    def other_scores(unit, arrays):
        arrays["scores"] = arrays["scores"] / 2

    cache_world.write_regions(paths.regions, prepared, masks=masks, spoil=other_scores)
    with pytest.raises(CacheError, match=r"regions\.h5") as caught:
        read(paths)
    assert caught.value.where == str(paths.matches) and "sagecc matches" in caught.value.fix


def test_no_cache_is_read_through_to_see_whether_it_changed(paths, prepared, monkeypatch):
    masks = cache_world.write_masks(paths.masks, prepared)
    cache_world.write_regions(paths.regions, prepared, masks=masks)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    hashed = []
    monkeypatch.setattr(region_inputs, "sha256_file", lambda path: (hashed.append(path.name), sha256_file(path))[1])
    opened(paths).cards()
    assert set(hashed) == {"graph.json", "graph.h5", "encoder.safetensors"}


@pytest.mark.parametrize("rule", ["paper", "release"])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("max_masks", [None, 1, 2, 3, 9])
def test_unmatched_regions_against_a_plain_loop(paths, prepared, max_masks, threshold, rule):
    stage = AssignmentSettings(unmatched=rule)
    cache_world.write_matches(paths.matches, paths.regions, prepared, assignment=stage)
    regions = read(paths, max_masks=max_masks, match_threshold=threshold)["regions"]
    tau = stage.threshold if threshold is None else threshold
    for position, name in enumerate(IDS):
        pair = int(name[1:])
        table = cache_world.confidences(pair).astype(np.float32)
        before, after = (min(count, max_masks or count) for count in COUNTS[pair])
        expected = []
        for date, count, others in ((0, before, after), (1, after, before)):
            arrays = cache_world._region_arrays(2 * pair + date)
            for k in range(count):
                row = [(table[k, o] if date == 0 else table[o, k]) for o in range(others)]
                if rule == "paper":
                    alone = not any(value > tau for value in row)
                else:
                    alone = not any(
                        value > tau
                        and value == max(row)
                        and value == max(table[p, o] if date == 0 else table[o, p] for p in range(count))
                        for o, value in enumerate(row)
                    )
                if alone:
                    x, y = arrays["centroids"][k]
                    share = [float(np.float32(x / SIZE[1])), float(np.float32(y / SIZE[0]))]
                    expected.append((arrays["descriptors"][k].tolist(), date, share, None))
        assert rows_of(regions, position) == expected


def test_semantic_regions_against_a_plain_loop(paths):
    regions = read(paths)["semantics"]
    total = 0
    for position, name in enumerate(IDS):
        expected = []
        for date in (0, 1):
            arrays = cache_world._semantic_arrays(2 * int(name[1:]) + date)
            for k in range(len(arrays["selected"])):
                if arrays["selected"][k]:
                    best = float(arrays["similarity"][k].max())
                    expected.append((arrays["embeddings"][k].tolist(), date, None, best))
        assert rows_of(regions, position) == expected
        total += len(expected)
    assert total > 5 and regions.features.dtype == torch.float16


def test_pairs_without_any_region_are_fine(paths):
    both = read(paths, ["p1", "p2"])
    assert both["regions"].mask[0].sum() == 0 and both["semantics"].mask[1].sum() == 0
    alone = read(paths, ["p1"])
    assert alone["regions"].features.shape == (1, 0, cache_world.WIDTH)


def test_a_data_set_without_any_region_is_fine(paths, prepared, monkeypatch):
    monkeypatch.setattr(cache_world, "COUNTS", ((0, 0),) * 6)
    monkeypatch.setattr(cache_world, "NAMED", ((0, 0),) * 6)
    cache_world.write_all(paths.regions.parent, prepared)
    regions = read(paths)
    assert regions["regions"].features.shape == (6, 0, cache_world.WIDTH)
    assert regions["semantics"].features.shape == (6, 0, cache_world.EMBEDDING)
    assert opened(paths).shapes["regions"] == (cache_world.WIDTH,)


@pytest.mark.parametrize(("stage", "unit"), [("regions", 8), ("regions", 9), ("matches", 4), ("semantics", 9)])
def test_a_pair_that_a_stage_skipped_is_refused(paths, prepared, stage, unit):
    if stage == "semantics":
        cache_world.write_semantics(paths.semantics, prepared, missing=[unit])
    else:
        if stage == "regions":
            cache_world.write_regions(paths.regions, prepared, missing=[unit])
        missing = [unit] if stage == "matches" else []
        cache_world.write_matches(paths.matches, paths.regions, prepared, missing=missing)
    with pytest.raises(CacheError, match=f"'p4' was skipped when `sagecc {stage}`") as caught:
        read(paths)
    assert caught.value.where == str(getattr(paths, stage)) and f"{stage}.failures.json" in caught.value.fix
    read(paths, ["p0", "p3"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ("regions", "descriptors"),
        ("regions", "centroids"),
        ("semantics", "embeddings"),
        ("semantics", "similarity"),
    ],
)
def test_values_that_are_no_numbers_are_refused_with_pair_and_stage(paths, prepared, stage, field, value):
    if stage == "regions":
        cache_world.spoil(paths.regions, cache_world._region_arrays(9)[field][2], value)
        cache_world.write_matches(paths.matches, paths.regions, prepared)
    else:
        arrays = cache_world._semantic_arrays(8)
        cache_world.spoil(paths.semantics, arrays[field][int(arrays["selected"].argmax())], value)
    with pytest.raises(CacheError, match=f"{field} of pair 'p4' in {stage} hold NaN") as caught:
        read(paths, match_threshold=0.99)
    assert f"sagecc {stage}" in caught.value.fix


def test_centroids_outside_of_the_image_are_refused(paths, prepared):
    def spoil(unit: int, arrays: dict) -> None:
        arrays["centroids"][:, 1] += SIZE[0] if unit == 4 else 0

    cache_world.write_regions(paths.regions, prepared, spoil=spoil)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    with pytest.raises(CacheError, match=r"'p2' in regions lie outside"):
        read(paths, match_threshold=0.99)


def test_each_input_is_read_by_itself(paths):
    inputs = opened(paths, cache_world.captioner(regions=False, graph=False))
    assert list(inputs.sources) == ["semantics"]
    assert len(inputs.sources["semantics"].read(IDS)) == 6


@pytest.mark.parametrize("with_rows", [False, True])
@pytest.mark.parametrize("name", ["regions", "semantics"])
def test_regions_tell_their_rows_where_they_are_asked_to(paths, name, with_rows):
    source = opened(paths).sources[name]
    regions = source.read(IDS, with_rows=with_rows).padded()
    if not with_rows:
        assert regions.rows is None
        return
    field = "descriptors" if name == "regions" else "embeddings"
    arrays_of = cache_world._region_arrays if name == "regions" else cache_world._semantic_arrays
    for position, pair in enumerate(IDS):
        for k in regions.mask[position].nonzero()[:, 0].tolist():
            stored = arrays_of(2 * int(pair[1:]) + int(regions.dates[position, k]))[field]
            assert torch.equal(regions.features[position, k], torch.from_numpy(stored[regions.rows[position, k]]))


def test_stores_hold_the_pairs_in_the_order_asked_for(paths):
    inputs = opened(paths)
    pairs = [inputs.data.pairs[inputs.data.index[name]] for name in IDS]
    stores = inputs.stores(pairs, CPU, "device", with_rows=True)
    positions = np.array([3, 0])
    for name in ("regions", "semantics"):
        store, source = stores[name], inputs.sources[name]
        assert isinstance(store, RegionStore) and len(store) == 6
        batch, expected = store.take(positions), source.read([IDS[3], IDS[0]], with_rows=True).padded()
        for field in ("features", "mask", "dates", "rows"):
            assert torch.equal(getattr(batch, field), getattr(expected, field)), field
    assert isinstance(stores["graph"], GraphStore)
    assert torch.equal(stores["graph"].take(positions).features, inputs.sources["graph"].tensors.features)
    assert inputs.stores(pairs, CPU)["regions"].take(positions).rows is None


def test_grids_come_in_the_place_of_descriptors(paths, prepared):
    cache_world.write_regions(paths.regions, prepared, spoil=cache_world.with_grids)
    cache_world.write_matches(paths.matches, paths.regions, prepared)
    plain, grids = (read(paths, descriptor_width=width)["regions"] for width in (None, 8))
    for name in ("mask", "dates", "centroids"):
        assert torch.equal(getattr(plain, name), getattr(grids, name))
    assert grids.features.shape == (*plain.mask.shape, 2 * 49) and grids.features.dtype == torch.float16
    seen = 0
    for position, name in enumerate(IDS):
        for k in plain.mask[position].nonzero()[:, 0].tolist():
            unit = 2 * int(name[1:]) + int(plain.dates[position, k])
            arrays = cache_world._region_arrays(unit)
            cache_world.with_grids(unit, arrays)
            row = int((arrays["descriptors"] == plain.features[position, k].numpy()).all(1).argmax())
            assert np.array_equal(grids.features[position, k].numpy(), arrays["grids"][row].ravel())
            seen += 1
    assert seen > 5


def side_input_settings(**changes: object) -> SideInputSettings:
    encoder = {**cache_world.ENCODER_SETTINGS.model_dump(), **changes}
    return SideInputSettings.model_validate({"graph_encoder": encoder})


def read_graph_source(
    folder: Path, settings: SideInputSettings | None = None, *, with_weights: bool = True
) -> GraphSource:
    settings = settings or side_input_settings()
    return GraphSource.read(folder, settings, pairs_sha256=None, with_weights=with_weights)


@pytest.fixture
def graph(project: Path, prepared: Path) -> Path:
    return cache_world.write_graph(project / "graph", prepared)


def test_graph_and_weights_are_read_with_their_digests(graph):
    source = read_graph_source(graph)
    assert source.tensors.features.shape == (4, cache_world.NODE) and source.tensors.relations == 3
    assert source.shape == (4, 3)
    assert source.pretrained() and source.pretrained() is source.weights
    assert (
        source.card().files
        == source.digests
        == {name: sha256_file(graph / name) for name in ("graph.json", "graph.h5", ENCODER)}
    )
    assert ENCODER == stage.ENCODER


def test_weights_are_read_where_the_settings_say_so(graph):
    (graph / ENCODER).unlink()
    with pytest.raises(CheckpointError, match="not there") as caught:
        read_graph_source(graph)
    assert "pretrained_graph: false" in caught.value.fix
    for source in (
        read_graph_source(graph, with_weights=False),
        read_graph_source(graph, SideInputSettings(pretrained_graph=False)),
    ):
        assert source.weights is None and set(source.digests) == {"graph.json", "graph.h5"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "gcn"}, "kind: rgcn"),
        ({"widths": (8, 8)}, r"widths: \[8, 6\]"),
        ({"inverse": False}, "inverse: True"),
        ({"bases": None}, "bases: 2"),
    ],
)
def test_weights_of_another_encoder_are_refused_with_what_to_set(graph, changes, said):
    with pytest.raises(SettingsError, match="differs from the captioner's") as caught:
        read_graph_source(graph, side_input_settings(**changes))
    assert caught.value.where == "models.graph_encoder"
    assert re.search(said, caught.value.fix) and "sagecc graph" in caught.value.fix


@pytest.mark.parametrize("changes", [{"dropout": 0.0}, {"readout": "attention"}, {"heads": 2}, {"kernels": 9}])
def test_what_does_not_show_in_the_weights_may_differ(graph, changes):
    assert read_graph_source(graph, side_input_settings(**changes)).weights is not None


def test_heads_count_where_there_are_any(graph, prepared):
    encoder = GraphEncoderSettings(kind="gat", widths=(8, 6), heads=2)
    cache_world.write_graph(graph, prepared, encoder=encoder)
    with pytest.raises(SettingsError, match="heads"):
        read_graph_source(graph, side_input_settings(kind="gat", heads=4))
    assert read_graph_source(graph, side_input_settings(kind="gat", heads=2, bases=None)).weights is not None


def test_an_encoder_of_another_graph_is_refused(graph, prepared):
    weights = (graph / ENCODER).read_bytes()
    cache_world.write_graph(graph, prepared, engine="llm")
    (graph / ENCODER).write_bytes(weights)
    with pytest.raises(CheckpointError, match="another graph") as caught:
        read_graph_source(graph)
    assert "sagecc graph" in caught.value.fix


def test_a_graph_without_node_features_is_refused(graph, prepared):
    cache_world.write_graph(graph, prepared, width=0)
    with pytest.raises(CacheError, match="no features") as caught:
        read_graph_source(graph)
    assert caught.value.where == str(graph / "graph.h5") and "sagecc graph" in caught.value.fix


def test_a_node_whose_features_are_no_numbers_is_named(graph):
    cache_world.spoil(graph / "graph.h5", read_graph_source(graph).tensors.features[1].numpy(), np.nan)
    with pytest.raises(CacheError, match="the node 'tree' hold NaN"):
        read_graph_source(graph)
