from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.captioners.inputs import Regions
from pipeline.errors import CacheError, DataError, OutputError
from pipeline.training import stores
from pipeline.training.stores import (
    GraphStore,
    PackedRegions,
    PairArray,
    RegionStore,
    choose_residency,
    not_finite,
    store_array,
)
from tests.captioners.fused import make_graph, make_regions

CPU = torch.device("cpu")
RESIDENCIES = ("device", "host", "file")


def features(pairs: int = 9, dtype: type = np.float16) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(pairs, 2, 3, 2, 2)) * 20
    return values.astype(dtype)


def pair_array(array: np.ndarray, rows: list[int]) -> PairArray:
    return PairArray(array, np.array(rows), [f"pair {row}" for row in rows], "scenes.h5")


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_residencies_give_the_same_batches(residency, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_CHUNK_BYTES", 100)  # several chunks
    np.save(tmp_path / "array.npy", features(dtype=dtype))
    array = np.load(tmp_path / "array.npy", mmap_mode="r")
    store = store_array(pair_array(array, [5, 0, 8, 3]), CPU, residency)
    batch = store.take(np.array([3, 0, 3]))
    assert store.residency == residency and len(store) == 4
    assert store.nbytes == 4 * array[0].nbytes and store.prefetch == (residency != "device")
    assert batch.dtype == torch.from_numpy(np.empty(0, dtype)).dtype
    np.testing.assert_array_equal(batch.numpy(), array[[3, 5, 3]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_feature_that_is_no_number_is_refused_with_its_pair(residency, bad):
    array = features()
    array[6, 1, 2, 1, 0] = bad
    with pytest.raises(CacheError, match="pair 6") as caught:
        store_array(pair_array(array, [2, 6, 4]), CPU, residency).take(np.array([2, 1]))
    assert caught.value.where == "scenes.h5" and "sagecc scenes" in caught.value.fix


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_not_finite_agrees_with_numpy(dtype):
    values = features(dtype=dtype)
    values[1, 0, 0, 0, 0] = np.finfo(dtype).max
    values[2, 0, 0, 0, 0] = np.nan
    values[3, 1, 2, 1, 1] = -np.inf
    np.testing.assert_array_equal(not_finite(values), ~np.isfinite(values).all(axis=(1, 2, 3, 4)))


def test_the_size_decides_the_residency(monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr(stores.psutil, "virtual_memory", lambda: Memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    gpu = torch.device("cuda", 0)
    assert [choose_residency(size, CPU) for size in (500, 501)] == ["device", "file"]
    assert [choose_residency(size, gpu) for size in (60, 61, 500, 501)] == ["device", "host", "host", "file"]


def test_auto_takes_the_residency_that_the_size_decides(monkeypatch):
    for residency in RESIDENCIES:
        monkeypatch.setattr(stores, "choose_residency", lambda nbytes, device, residency=residency: residency)
        assert store_array(pair_array(features(), [0, 1]), CPU).residency == residency


def test_what_does_not_fit_says_which_setting_helps(monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(OutputError, match="do not fit in device memory") as caught:
        store_array(pair_array(features(), [0]), CPU, "device")
    assert "train.data" in caught.value.fix


COUNTS = (2, 0, 4, 1)


def regions() -> Regions:
    return make_regions(COUNTS, 5, seed=10)


@pytest.mark.parametrize("residency", ["auto", "device", "host", "file"])
@pytest.mark.parametrize("pairs", [[2, 0, 2], [1], [3, 1, 0, 2]])
def test_gathered_regions_are_the_pairs_own_trimmed_to_the_longest(residency, pairs):
    whole = regions()
    store = RegionStore(PackedRegions.of(whole), "regions", CPU, residency)
    batch = store.take(np.array(pairs))
    assert len(store) == 4
    assert batch.mask.shape == (len(pairs), max(COUNTS[pair] for pair in pairs))
    for row, pair in enumerate(pairs):
        count = COUNTS[pair]
        assert batch.mask[row].tolist() == [True] * count + [False] * (batch.mask.shape[1] - count)
        for field in ("features", "dates", "centroids", "scores", "rows"):
            values = getattr(batch, field)[row]
            assert torch.equal(values[:count], getattr(whole, field)[pair, :count])
            assert not values[count:].any()


def test_regions_are_kept_without_padding():
    whole = regions()
    packed = PackedRegions.of(whole)
    assert packed.nbytes == whole.nbytes * sum(COUNTS) // (len(COUNTS) * max(COUNTS))
    assert RegionStore(packed, "regions", CPU).nbytes == packed.nbytes
    again = packed.padded()
    for field in ("features", "mask", "dates", "centroids", "scores", "rows"):
        values = getattr(whole, field)
        assert torch.equal(getattr(again, field)[whole.mask], values[whole.mask]), field
        assert getattr(again, field).shape == values.shape


def test_pairs_without_any_region():
    packed = PackedRegions.of(make_regions((0, 0), 5, seed=1))
    batch = RegionStore(packed, "regions", CPU).take(np.array([1, 0, 1]))
    assert batch.features.shape == (3, 0, 5) and batch.mask.shape == (3, 0)


def test_fields_that_are_not_known_stay_so():
    batch = RegionStore(PackedRegions.of(replace(regions(), centroids=None, rows=None)), "semantics", CPU).take(
        np.array([2])
    )
    assert batch.centroids is None and batch.rows is None and batch.scores is not None


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_regions_on_the_cpu_are_never_read_ahead(residency):
    store = RegionStore(PackedRegions.of(regions()), "regions", CPU, residency)
    assert store.residency == "device" and not store.prefetch


def test_regions_that_do_not_fit_on_a_gpu_stay_in_host_memory(monkeypatch):
    monkeypatch.setattr(stores, "choose_residency", lambda nbytes, device: "file")
    store = RegionStore(PackedRegions.of(regions()), "regions", torch.device("meta"))
    assert store.residency == "host" and store.prefetch and "in host memory" in store.describe()


@pytest.mark.parametrize("name", ["regions", "semantics"])
def test_regions_that_are_no_numbers_are_refused(name):
    spoilt = regions()
    spoilt.features[2, 1, 2] = torch.nan
    with pytest.raises(DataError, match="region 1 of pair 2 of the batch has features") as caught:
        RegionStore(PackedRegions.of(spoilt), name, CPU)
    assert caught.value.where == f"inputs.{name}.features"


def test_regions_that_do_not_fit_say_which_setting_helps(monkeypatch):
    def refuse(self: Regions, device: torch.device) -> Regions:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Regions, "to", refuse)
    with pytest.raises(OutputError, match="GiB of regions do not fit in device memory") as caught:
        RegionStore(PackedRegions.of(regions()), "regions", CPU, "device")
    assert caught.value.where == "train.data: device" and "host" in caught.value.fix


def test_every_step_has_the_same_graph():
    graph = make_graph()
    store = GraphStore(replace(graph, stated=torch.arange(12)), CPU)
    batch = store.take(np.array([1, 0]))
    assert batch is store.take(np.array([2]))
    for field in ("features", "edge_index", "edge_type"):
        assert torch.equal(getattr(batch, field), getattr(graph, field))
    assert batch.relations == 4 and torch.equal(batch.stated, torch.arange(12))
    assert store.residency == "device" and not store.prefetch
    assert store.nbytes == 5 * 6 * 4 + 2 * 12 * 8 + 12 * 8


def test_a_graph_that_is_no_number_is_refused():
    features = make_graph().features.clone()
    features[4, 1] = torch.inf
    with pytest.raises(DataError, match="node 4 of the graph"):
        GraphStore(replace(make_graph(), features=features), CPU)


@pytest.mark.parametrize(
    ("residency", "where"), [("device", "on the device"), ("host", "in host memory"), ("file", "in the file")]
)
def test_stores_tell_their_size_and_residency(residency, where):
    array = np.zeros((2, 2, 3, 512, 512), np.float16)
    assert store_array(pair_array(array, [0, 1]), CPU, residency).describe() == f"6 MiB {where}"
    assert (
        RegionStore(PackedRegions.of(regions()), "regions", CPU, residency).describe()
        == "7 regions, 0 MiB on the device"
    )
    assert GraphStore(make_graph(), CPU).describe() == "5 nodes"
