from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.captioners.evidence import Evidence
from pipeline.errors import DataError
from pipeline.training import evidence_store
from pipeline.training.captions import CaptionTable
from pipeline.training.evidence_store import EvidenceStore
from pipeline.training.feed import Feed
from pipeline.training.places import PairSource, open_store
from pipeline.training.schedule import plan_epoch
from tests.captioners.fused import make_evidence

CPU = torch.device("cpu")
MOTION, SEMANTICS = (2, 0, 4, 1), (3, 1, 0, 5)


def stored() -> Evidence:
    return make_evidence(MOTION, SEMANTICS)


@pytest.mark.parametrize("place", ["auto", "device", "host", "file"])
@pytest.mark.parametrize("pairs", [[2, 0, 2], [1], [3, 1, 0, 2]])
def test_gathered_evidence_is_the_pairs_own_trimmed_to_the_longest(place, pairs):
    evidence = stored()
    found = EvidenceStore(evidence, CPU, place).take(np.array(pairs))
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
    graph_alone = EvidenceStore(Evidence(graph=evidence.graph), CPU)
    assert graph_alone.take(np.array([1])).pairs is None and graph_alone.nbytes == 0
    assert str(graph_alone) == "a graph of 5 nodes"
    semantics_alone = EvidenceStore(Evidence(semantics=evidence.semantics), CPU)
    assert semantics_alone.take(np.array([3, 1])).motion is None
    assert "9 semantic regions" in str(semantics_alone)


def test_what_does_not_fit_on_a_gpu_stays_in_host_memory(monkeypatch):
    monkeypatch.setattr(evidence_store, "choose_place", lambda nbytes, device: "file")
    store = EvidenceStore(Evidence(motion=stored().motion), torch.device("meta"))
    assert store.place == "host" and store.prefetch and "in host memory" in str(store)
    assert not EvidenceStore(stored(), CPU).prefetch


def test_what_is_no_number_is_refused():
    evidence = stored()
    evidence.motion.features[0, 1, 2] = torch.nan
    with pytest.raises(DataError, match="features"):
        EvidenceStore(evidence, CPU)


@pytest.mark.parametrize("place", ["device", "file"])
def test_a_feed_hands_out_each_steps_evidence(place):
    array = np.random.default_rng(0).normal(size=(4, 2, 3, 2, 2)).astype(np.float16)
    source = PairSource(array, np.arange(4), [f"p{row}" for row in range(4)], "scenes.h5")
    table = CaptionTable(np.ones((4, 3), np.int32), np.full(4, 3), np.arange(5))
    store = EvidenceStore(stored(), CPU, place)
    feed = Feed(open_store(source, CPU, place), table, store)
    steps = plan_epoch(table, batch=3, one_caption=False, seed=1, epoch=0)
    for step, batch in zip(steps, feed.batches(steps), strict=True):
        expected = store.take(step.pairs)
        assert batch.evidence is not None and batch.evidence.pairs == len(batch.inputs)
        assert torch.equal(batch.evidence.motion.features, expected.motion.features)
        assert torch.equal(batch.evidence.semantics.mask, expected.semantics.mask)
