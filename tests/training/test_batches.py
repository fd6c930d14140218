from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.datasets.vocabulary import END, START
from pipeline.training.batches import (
    BatchLoader,
    CaptionTable,
    caption_table,
    learning_rate,
    plan_epoch,
    plan_in_order,
    samples_of,
    step_seed,
)
from pipeline.training.stores import ArrayStore, GraphStore, PackedRegions, PairArray, RegionStore, store_array
from tests.captioners.fused import make_graph, make_regions

CPU = torch.device("cpu")


class Letters:
    """One token per letter."""

    def encode(self, caption: str) -> list[int]:
        return [START, *(4 + ord(letter) - ord("a") for letter in caption), END]


@pytest.fixture
def table() -> CaptionTable:
    return caption_table([("ab", "c"), ("abcde",), ("a", "b", "c"), ("dd", "ee"), ("f",)], Letters())


def test_table_holds_each_caption_padded(table):
    assert table.tokens.shape == (9, 7)
    assert table.tokens[0].tolist() == [START, 4, 5, END, 0, 0, 0]
    assert table.lengths.tolist() == [4, 3, 7, 3, 3, 3, 4, 4, 3]
    assert table.counts.tolist() == [2, 1, 3, 2, 1]


def test_table_refuses_a_pair_without_captions():
    with pytest.raises(ValueError, match="without captions"):
        caption_table([("a",), ()], Letters())


def test_learning_rate_is_halved_every_five_epochs():
    rates = [learning_rate(1e-4, epoch, every=5, factor=0.5) for epoch in range(11)]
    assert rates == [1e-4] * 5 + [5e-5] * 5 + [2.5e-5]


def test_each_pair_comes_once_with_all_its_captions(table):
    steps = plan_epoch(table, batch_size=2, captions_per_pair="all", seed=1, epoch=0)
    assert [len(step.pairs) for step in steps] == [2, 2, 1]
    assert sorted(np.concatenate([step.pairs for step in steps])) == [0, 1, 2, 3, 4]
    for step in steps:
        for position, pair in enumerate(step.pairs):
            rows = step.captions[step.owners == position].tolist()
            assert rows == list(range(table.offsets[pair], table.offsets[pair + 1]))
        assert step.width == table.lengths[step.captions].max()


def test_one_caption_per_pair_is_drawn_anew_each_epoch(table):
    drawn = set()
    for epoch in range(40):
        for step in plan_epoch(table, batch_size=5, captions_per_pair="one", seed=1, epoch=epoch):
            assert step.owners.tolist() == list(range(len(step.pairs)))
            for pair, caption in zip(step.pairs, step.captions, strict=True):
                assert table.offsets[pair] <= caption < table.offsets[pair + 1]
                drawn.add(int(caption))
    assert drawn == set(range(9))


def test_each_caption_is_a_sample_with_its_pair(table):
    for epoch in range(3):
        steps = plan_epoch(table, batch_size=4, captions_per_pair="each", seed=1, epoch=epoch)
        # A plain loop: every caption of every pair, shuffled, four at a time.
        samples = [(pair, caption) for pair, count in enumerate(table.counts) for caption in range(count)]
        order = np.random.default_rng([1, epoch]).permutation(len(samples))
        assert [len(step.captions) for step in steps] == [4, 4, 1]
        for number, step in enumerate(steps):
            expected = [samples[i] for i in order[4 * number : 4 * number + 4]]
            assert step.pairs.tolist() == [pair for pair, _ in expected]
            assert step.captions.tolist() == [table.offsets[pair] + caption for pair, caption in expected]
            assert step.owners.tolist() == list(range(len(expected)))
            assert step.width == max(table.lengths[step.captions])


def test_samples_are_pairs_or_captions(table):
    assert {how: samples_of(table, how) for how in ("all", "one", "each")} == {"all": 5, "one": 5, "each": 9}


def test_order_follows_from_seed_and_epoch_alone(table):
    def order(seed: int, epoch: int) -> list[int]:
        return [
            int(p)
            for s in plan_epoch(table, batch_size=2, captions_per_pair="all", seed=seed, epoch=epoch)
            for p in s.pairs
        ]

    assert order(1, 3) == order(1, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(4)}) > 8


@pytest.mark.parametrize("captions_per_pair", ["all", "each"])
@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_each_step_and_none_is_idle(table, world, captions_per_pair):
    alone = plan_epoch(table, batch_size=4, captions_per_pair=captions_per_pair, seed=1, epoch=0)
    shared = [
        plan_epoch(table, batch_size=4, captions_per_pair=captions_per_pair, seed=1, epoch=0, rank=rank, world=world)
        for rank in range(world)
    ]
    for index, step in enumerate(alone):
        parts = [plan[index] for plan in shared]
        assert all(len(part.pairs) for part in parts)
        assert set(np.concatenate([part.pairs for part in parts])) == set(step.pairs)
        assert set(np.concatenate([part.captions for part in parts])) == set(step.captions)


def test_plan_in_order_covers_everything(table):
    steps = plan_in_order(table, 2)
    assert [step.pairs.tolist() for step in steps] == [[0, 1], [2, 3], [4]]
    assert np.concatenate([step.captions for step in steps]).tolist() == list(range(9))


def test_step_seeds_differ_and_repeat():
    seeds = {step_seed(*numbers) for numbers in itertools.product((1, 2), (0, 1), (0, 1), (0, 1))}
    assert len(seeds) == 16
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def array_store(array: np.ndarray, rows: list[int], residency: str) -> ArrayStore:
    return store_array(PairArray(array, np.array(rows), [f"pair {row}" for row in rows], "scenes.h5"), CPU, residency)


def features(pairs: int = 9) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(pairs, 2, 3, 2, 2)) * 20).astype(np.float16)


@pytest.mark.parametrize("residency", ["device", "host", "file"])
def test_loaders_give_the_same_batches_and_count_the_wait(residency):
    table = CaptionTable(
        np.arange(1, 25, dtype=np.int32).reshape(6, 4), np.array([4, 3, 2, 4, 3, 2]), np.array([0, 2, 3, 5, 6])
    )
    array = features()
    loader = BatchLoader({"scenes": array_store(array, [1, 2, 3, 4], residency)}, table, CPU)
    steps = plan_epoch(table, batch_size=3, captions_per_pair="all", seed=1, epoch=0)
    batches = list(loader.batches(steps))
    assert len(batches) == len(steps) == 2
    for step, batch in zip(steps, batches, strict=True):
        assert batch.inputs.keys() == {"scenes"} and batch.pairs == len(step.pairs)
        np.testing.assert_array_equal(batch.inputs["scenes"].numpy(), array[step.pairs + 1])
        np.testing.assert_array_equal(batch.tokens.numpy(), table.tokens[step.captions, : step.width])
        np.testing.assert_array_equal(batch.owners.numpy(), step.owners)
    assert loader.waited > 0


def test_a_loader_that_is_closed_early_reads_no_further():
    table = CaptionTable(np.ones((9, 3), np.int32), np.full(9, 3), np.arange(10))
    store = array_store(features(), list(range(9)), "file")
    requests = []
    take = store.take
    store.take = lambda pairs: requests.append(pairs) or take(pairs)
    loader = BatchLoader({"scenes": store}, table, CPU)
    batches = loader.batches(plan_epoch(table, batch_size=1, captions_per_pair="all", seed=1, epoch=0))
    next(batches)
    batches.close()
    assert len(requests) <= 3


@pytest.mark.parametrize("residency", ["device", "file"])
def test_a_loader_hands_out_each_steps_inputs(residency):
    table = CaptionTable(np.ones((4, 3), np.int32), np.full(4, 3), np.arange(5))
    stores = {
        "scenes": array_store(features(4), list(range(4)), residency),
        "regions": RegionStore(PackedRegions.of(make_regions((2, 0, 4, 1), 5, seed=10)), "regions", CPU, residency),
        "semantics": RegionStore(PackedRegions.of(make_regions((3, 1, 0, 5), 7, seed=20)), "semantics", CPU, residency),
        "graph": GraphStore(make_graph(), CPU),
    }
    loader = BatchLoader(stores, table, CPU)
    steps = plan_epoch(table, batch_size=3, captions_per_pair="all", seed=1, epoch=0)
    for step, batch in zip(steps, loader.batches(steps), strict=True):
        expected = {name: store.take(step.pairs) for name, store in stores.items()}
        assert batch.inputs.keys() == expected.keys()
        assert len(batch.inputs["regions"]) == len(batch.inputs["scenes"]) == batch.pairs
        assert torch.equal(batch.inputs["scenes"], expected["scenes"])
        assert torch.equal(batch.inputs["regions"].features, expected["regions"].features)
        assert torch.equal(batch.inputs["semantics"].mask, expected["semantics"].mask)
        assert batch.inputs["graph"] is expected["graph"]
