from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.captioners.inputs import Evidence
from pipeline.errors import CacheError, DataError, OutputError
from pipeline.training import stores
from pipeline.training.batches import CaptionTable, BatchLoader, plan_epoch
from pipeline.training.stores import EvidenceStore, PairSource, choose_place, not_finite, open_store
from tests.captioners.fused import make_evidence

CPU = torch.device("cpu")
PLACES = ("device", "host", "file")


def features(pairs: int = 9, dtype: type = np.float16) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(pairs, 2, 3, 2, 2)) * 20
    return values.astype(dtype)


def source(array: np.ndarray, rows: list[int]) -> PairSource:
    return PairSource(array, np.array(rows), [f"pair {row}" for row in rows], "scenes.h5")


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
@pytest.mark.parametrize("place", PLACES)
def test_places_give_the_same_batches(place, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_CHUNK_BYTES", 100)  # several chunks
    np.save(tmp_path / "array.npy", features(dtype=dtype))
    array = np.load(tmp_path / "array.npy", mmap_mode="r")
    store = open_store(source(array, [5, 0, 8, 3]), CPU, place)
    batch = store.take(np.array([3, 0, 3]))
    assert store.place == place and len(store) == 4
    assert batch.dtype == torch.from_numpy(np.empty(0, dtype)).dtype
    np.testing.assert_array_equal(batch.numpy(), array[[3, 5, 3]])


@pytest.mark.parametrize("place", PLACES)
def test_feeds_give_the_same_batches_and_count_the_wait(place):
    table = CaptionTable(
        np.arange(1, 25, dtype=np.int32).reshape(6, 4), np.array([4, 3, 2, 4, 3, 2]), np.array([0, 2, 3, 5, 6])
    )
    array = features()
    feed = BatchLoader(open_store(source(array, [1, 2, 3, 4]), CPU, place), table)
    steps = plan_epoch(table, batch_size=3, one_caption=False, seed=1, epoch=0)
    batches = list(feed.batches(steps))
    assert len(batches) == len(steps) == 2
    for step, batch in zip(steps, batches, strict=True):
        np.testing.assert_array_equal(batch.inputs.numpy(), array[step.pairs + 1])
        np.testing.assert_array_equal(batch.tokens.numpy(), table.tokens[step.captions, : step.width])
        np.testing.assert_array_equal(batch.owners.numpy(), step.owners)
    assert feed.waited > 0


def test_a_feed_that_is_closed_early_reads_no_further():
    table = CaptionTable(np.ones((9, 3), np.int32), np.full(9, 3), np.arange(10))
    store = open_store(source(features(), list(range(9))), CPU, "file")
    taken = []
    take = store.take
    store.take = lambda pairs: taken.append(pairs) or take(pairs)
    batches = BatchLoader(store, table).batches(plan_epoch(table, batch_size=1, one_caption=False, seed=1, epoch=0))
    next(batches)
    batches.close()
    assert len(taken) <= 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", PLACES)
def test_a_feature_that_is_no_number_is_refused_with_its_pair(place, bad):
    array = features()
    array[6, 1, 2, 1, 0] = bad
    with pytest.raises(CacheError, match="pair 6") as caught:
        open_store(source(array, [2, 6, 4]), CPU, place).take(np.array([2, 1]))
    assert caught.value.where == "scenes.h5" and "sagecc scenes" in caught.value.fix


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_not_finite_agrees_with_numpy(dtype):
    values = features(dtype=dtype)
    values[1, 0, 0, 0, 0] = np.finfo(dtype).max
    values[2, 0, 0, 0, 0] = np.nan
    values[3, 1, 2, 1, 1] = -np.inf
    np.testing.assert_array_equal(not_finite(values), ~np.isfinite(values).all(axis=(1, 2, 3, 4)))


def test_the_size_decides_the_place(monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr(stores.psutil, "virtual_memory", lambda: Memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    gpu = torch.device("cuda", 0)
    assert [choose_place(size, CPU) for size in (500, 501)] == ["device", "file"]
    assert [choose_place(size, gpu) for size in (60, 61, 500, 501)] == ["device", "host", "host", "file"]


def test_what_does_not_fit_says_which_setting_helps(monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(OutputError, match="do not fit in device memory") as caught:
        open_store(source(features(), [0]), CPU, "device")
    assert "train.data" in caught.value.fix


CPU_EVIDENCE_STORE = torch.device("cpu")
MOTION, SEMANTICS = (2, 0, 4, 1), (3, 1, 0, 5)


def stored() -> Evidence:
    return make_evidence(MOTION, SEMANTICS)


@pytest.mark.parametrize("place", ["auto", "device", "host", "file"])
@pytest.mark.parametrize("pairs", [[2, 0, 2], [1], [3, 1, 0, 2]])
def test_gathered_evidence_is_the_pairs_own_trimmed_to_the_longest(place, pairs):
    evidence = stored()
    found = EvidenceStore(evidence, CPU_EVIDENCE_STORE, place).take(np.array(pairs))
    for name, counts in (("motion", MOTION), ("semantics", SEMANTICS)):
        part, whole = getattr(found, name), getattr(evidence, name)
        assert part.mask.shape == (len(pairs), max(counts[pair] for pair in pairs))
        for row, pair in enumerate(pairs):
            count = counts[pair]
            assert part.mask[row].tolist() == [True] * count + [False] * (part.mask.shape[1] - count)
            for field in ("features", "dates", "centroids", "scores"):
                assert torch.equal(getattr(part, field)[row, :count], getattr(whole, field)[pair, :count])
    assert found.graph is evidence.graph or torch.equal(found.graph.features, evidence.graph.features)


def test_parts_may_be_missing():
    evidence = stored()
    graph_alone = EvidenceStore(Evidence(graph=evidence.graph), CPU_EVIDENCE_STORE)
    assert graph_alone.take(np.array([1])).pairs is None and graph_alone.nbytes == 0
    assert str(graph_alone) == "a graph of 5 nodes"
    semantics_alone = EvidenceStore(Evidence(semantics=evidence.semantics), CPU_EVIDENCE_STORE)
    assert semantics_alone.take(np.array([3, 1])).motion is None
    assert "9 semantic regions" in str(semantics_alone)


def test_what_does_not_fit_on_a_gpu_stays_in_host_memory(monkeypatch):
    monkeypatch.setattr(stores, "choose_place", lambda nbytes, device: "file")
    store = EvidenceStore(Evidence(motion=stored().motion), torch.device("meta"))
    assert store.place == "host" and store.prefetch and "in host memory" in str(store)
    assert not EvidenceStore(stored(), CPU_EVIDENCE_STORE).prefetch


def test_what_is_no_number_is_refused():
    evidence = stored()
    evidence.motion.features[0, 1, 2] = torch.nan
    with pytest.raises(DataError, match="features"):
        EvidenceStore(evidence, CPU_EVIDENCE_STORE)


@pytest.mark.parametrize("place", ["device", "file"])
def test_a_feed_hands_out_each_steps_evidence(place):
    array = np.random.default_rng(0).normal(size=(4, 2, 3, 2, 2)).astype(np.float16)
    source = PairSource(array, np.arange(4), [f"p{row}" for row in range(4)], "scenes.h5")
    table = CaptionTable(np.ones((4, 3), np.int32), np.full(4, 3), np.arange(5))
    store = EvidenceStore(stored(), CPU_EVIDENCE_STORE, place)
    feed = BatchLoader(open_store(source, CPU_EVIDENCE_STORE, place), table, store)
    steps = plan_epoch(table, batch_size=3, one_caption=False, seed=1, epoch=0)
    for step, batch in zip(steps, feed.batches(steps), strict=True):
        expected = store.take(step.pairs)
        assert batch.evidence is not None and batch.evidence.pairs == len(batch.inputs)
        assert torch.equal(batch.evidence.motion.features, expected.motion.features)
        assert torch.equal(batch.evidence.semantics.mask, expected.semantics.mask)
