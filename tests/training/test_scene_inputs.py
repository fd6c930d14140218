from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cache.reader import Cache
from pipeline.datasets.records import read_prepared
from pipeline.errors import CacheError, DataError
from pipeline.files import sha256_file
from pipeline.paths import Paths
from pipeline.training import scene_inputs
from pipeline.training.inputs import InputSource, open_inputs
from pipeline.training.scene_inputs import ImageSource, MapSource, SceneSource, backbone_of
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.scenes.settings import BackboneSettings
from tests.worlds import cache_world, world

CPU = torch.device("cpu")
ORDER = ["p4", "p0", "p5", "p2"]
"""Some of the pairs, in another order than the caches'."""


def opened(paths: Paths, name: str) -> InputSource:
    return open_inputs(paths, world.TINY, (name,), training=True).sources[name]


def stored(source: InputSource, paths: Paths, residency: str = "auto", ids: list[str] = ORDER) -> torch.Tensor:
    """All that a store of these pairs hands out, in their order."""
    data = read_prepared(paths.prepared)
    store = source.store([data.pairs[data.index[name]] for name in ids], CPU, residency)
    return store.take(np.arange(len(ids)))


@pytest.mark.parametrize("residency", ["device", "host", "file"])
def test_scenes_are_the_features_of_both_dates(paths, residency):
    source = opened(paths, "scenes")
    assert isinstance(source, SceneSource) and source.shape == world.SHAPE and source.stages == ("scenes",)
    batch = stored(source, paths, residency)
    features = world.Features(12, world.SHAPE, 0, ()).values.reshape(6, 2, *world.SHAPE)
    assert batch.dtype == torch.float16
    np.testing.assert_array_equal(batch.numpy(), features[[4, 0, 5, 2]])


def test_the_card_of_scenes_names_their_cache(paths):
    card = opened(paths, "scenes").card()
    assert card.shape == world.SHAPE and list(card.caches) == ["scenes"] and not card.files
    assert card.caches["scenes"].weights == {"backbone": "0" * 64}
    assert backbone_of(card.caches["scenes"].settings) == BackboneSettings()
    assert card.caches["scenes"].upstream == {"pairs.jsonl": sha256_file(paths.prepared / "pairs.jsonl")}


@pytest.mark.parametrize("unit", [6, 7])
def test_pairs_whose_images_were_skipped_are_not_available(paths, unit):
    world.write_scenes(paths.scenes, paths.prepared, missing=[unit])
    data = read_prepared(paths.prepared)
    assert [pair.id for pair in opened(paths, "scenes").available(data.pairs)] == ["p0", "p1", "p2", "p4", "p5"]
    assert [pair.id for pair in opened(paths, "images").available(data.pairs[2:4])] == ["p2"]


def test_scenes_of_other_pairs_are_refused(paths):
    world.write_pairs(paths.prepared, captions=(("other",), *world.CAPTIONS[1:]))
    for name in ("scenes", "images"):
        with pytest.raises(CacheError, match=r"pairs\.jsonl") as caught:
            opened(paths, name)
        assert caught.value.where == str(paths.scenes) and "sagecc scenes" in caught.value.fix


SIDE = 16


@pytest.fixture
def images(paths: Paths) -> dict[str, np.ndarray]:
    """Random images of all pairs, (2, H, W, 3) by id, named with their digests in pairs.jsonl."""
    random, digests, pixels = np.random.default_rng(0), {}, {}
    for pair in read_prepared(paths.prepared).pairs:
        pixels[pair.id] = random.integers(256, size=(2, SIDE, SIDE, 3), dtype=np.uint8)
        for field, name, values in zip(("before", "after"), (pair.before, pair.after), pixels[pair.id], strict=True):
            path = Path("images") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
            digests.setdefault(pair.id, {})[field] = sha256_file(path)
    world.write_pairs(paths.prepared, sha256=digests, root=str(Path("images").absolute()))
    world.write_scenes(paths.scenes, paths.prepared)
    return pixels


@pytest.mark.parametrize("residency", ["device", "host", "file"])
def test_images_are_the_pixels_of_both_dates(paths, images, residency):
    source = opened(paths, "images")
    assert isinstance(source, ImageSource) and source.backbone == BackboneSettings()
    batch = stored(source, paths, residency)
    assert batch.shape == (4, 2, 3, SIDE, SIDE) and batch.dtype == torch.uint8
    for values, name in zip(batch.numpy(), ORDER, strict=True):
        np.testing.assert_array_equal(values, images[name].transpose(0, 3, 1, 2))


def test_images_have_the_shape_and_card_of_their_scenes(paths, images):
    inputs = open_inputs(paths, world.TINY, ("images",), training=True)
    source = inputs.sources["images"]
    assert source.shape == world.SHAPE and source.card() == opened(paths, "scenes").card()
    # The backbone makes scenes of them before the captioner sees them.
    assert inputs.shapes == {"scenes": world.SHAPE}
    assert set(inputs.cards()) == {"images"}


def test_images_are_decoded_once(paths, images, monkeypatch):
    first = stored(opened(paths, "images"), paths)

    def refuse(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(scene_inputs, "_decode", refuse)
    assert torch.equal(stored(opened(paths, "images"), paths), first)
    with pytest.raises(AssertionError, match="decoded again"):
        stored(opened(paths, "images"), paths, ids=ORDER[:2])


def test_an_image_that_changed_since_prepare_is_refused(paths, images):
    Image.fromarray(images["p0"][0]).save("images/A/p5.png")
    with pytest.raises(DataError, match="changed") as caught:
        stored(opened(paths, "images"), paths)
    assert caught.value.where.endswith("A/p5.png")
    assert not list(paths.work.glob("images/*.npy"))


@pytest.mark.parametrize("residency", ["device", "host", "file"])
def test_maps_are_the_categories_of_both_dates(paths, residency):
    source = opened(paths, "maps")
    assert isinstance(source, MapSource) and source.stages == ("semantics",)
    height, width = cache_world.MAP_SIZE
    assert source.shape == (cache_world.PROMPTS + 1, height, width)
    batch = stored(source, paths, residency)
    assert batch.shape == (4, 2, height, width) and batch.dtype == torch.uint8
    expected = [[cache_world._semantic_arrays(2 * int(name[1:]) + date)["map"] for date in (0, 1)] for name in ORDER]
    np.testing.assert_array_equal(batch.numpy(), np.array(expected))
    assert len(batch.unique()) == cache_world.PROMPTS + 1


def test_the_card_of_maps_names_their_cache(paths):
    source = opened(paths, "maps")
    card = source.card()
    assert card.shape == source.shape and list(card.caches) == ["semantics"] and not card.files
    with Cache.open(paths.semantics, SEMANTICS) as cache:
        assert card.caches["semantics"].settings_hash == cache.provenance.settings_hash


def test_semantic_regions_without_maps_are_refused(paths):
    cache_world.write_semantics(paths.semantics, paths.prepared, spoil=cache_world.without_maps)
    with pytest.raises(CacheError, match="imported and come without maps") as caught:
        opened(paths, "maps")
    assert caught.value.where == str(paths.semantics) and "semantics.source.kind: images" in caught.value.fix


def test_maps_of_other_pairs_are_refused(paths):
    world.write_pairs(paths.prepared, captions=(("other",), *world.CAPTIONS[1:]))
    with pytest.raises(CacheError, match=r"pairs\.jsonl") as caught:
        opened(paths, "maps")
    assert caught.value.where == str(paths.semantics) and "sagecc semantics" in caught.value.fix


@pytest.mark.parametrize("unit", [8, 9])
def test_maps_of_a_skipped_pair_are_refused(paths, unit):
    cache_world.write_semantics(paths.semantics, paths.prepared, missing=[unit])
    source = opened(paths, "maps")
    with pytest.raises(CacheError, match="'p4' was skipped when `sagecc semantics`") as caught:
        stored(source, paths)
    assert caught.value.where == str(paths.semantics) and "semantics.failures.json" in caught.value.fix
    assert len(stored(source, paths, ids=["p0", "p3"])) == 2


def test_another_process_opens_the_files_anew_and_refuses_replaced_ones(paths):
    for name, write in (("scenes", world.write_scenes), ("maps", cache_world.write_semantics)):
        source = opened(paths, name)
        copy = pickle.loads(pickle.dumps(source))
        assert torch.equal(stored(copy, paths), stored(source, paths))
        late = pickle.loads(pickle.dumps(source))
        write(paths.scenes if name == "scenes" else paths.semantics, paths.prepared, weights="1" * 64)
        with pytest.raises(CacheError, match="replaced"):
            stored(late, paths)
