from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.records import read_prepared
from pipeline.errors import DataError
from pipeline.paths import Paths
from pipeline.training import run
from pipeline.training.inputs import Inputs, open_inputs
from pipeline.training.run import Choice, Job, choose_pairs, hold_out, seed_key, training_key
from tests.captioners.toy import ToySettings
from tests.worlds import cache_world, world


def opened(paths: Paths, captioner: CaptionerSettings | None = None) -> Inputs:
    return open_inputs(paths, captioner or cache_world.captioner(), training=True)


def key(inputs: Inputs, *, code: str = "0" * 64, **changes: Any) -> str:
    return training_key(world.train_settings(captioner=cache_world.captioner(), **changes), inputs, code)


def test_the_key_follows_settings_and_code_but_neither_seeds_nor_where_inputs_are_kept(paths: Paths) -> None:
    inputs = opened(paths)
    assert key(inputs) == key(opened(paths)) == key(inputs, seeds=(3, 4), data="file")
    others = [key(inputs, epochs=9), key(inputs, learning_rate=1e-4), key(inputs, hold_out=0.1)]
    others += [key(inputs, code="1" * 64)]
    assert len({key(inputs), *others}) == 5
    assert len({seed_key(key(inputs), seed) for seed in range(4)}) == 4


def test_the_key_follows_the_captioner(paths: Paths) -> None:
    inputs, settings = opened(paths, world.TINY), world.train_settings()
    toy = world.train_settings(captioner=ToySettings())
    keys = [training_key(settings, inputs, ""), training_key(toy, opened(paths, ToySettings()), "")]
    keys += [training_key(toy, inputs, "")]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("change", ["scenes", "regions", "matches", "semantics", "graph", "encoder", "captions"])
def test_the_key_follows_every_input(paths: Paths, change: str) -> None:
    before, prepared = key(opened(paths)), paths.prepared
    if change == "scenes":
        world.write_scenes(paths.scenes, prepared, weights="1" * 64)
    elif change == "regions":
        cache_world.write_regions(paths.regions, prepared, weights="1" * 64)
        cache_world.write_matches(paths.matches, paths.regions, prepared)
    elif change == "matches":
        cache_world.write_matches(paths.matches, paths.regions, prepared, weights="1" * 64)
    elif change == "semantics":
        cache_world.write_semantics(paths.semantics, prepared, weights="1" * 64)
    elif change == "graph":
        cache_world.write_graph(paths.graph, prepared, engine="llm")
    elif change == "encoder":
        cache_world.write_encoder(paths.graph, seed=5)
    else:
        world.write_pairs(prepared, captions=(("other",), *world.CAPTIONS[1:]))
        world.write_scenes(paths.scenes, prepared)
        cache_world.write_all(prepared.parent, prepared)
    assert key(opened(paths)) != before


@pytest.mark.parametrize("stage", ["scenes", "regions", "matches", "semantics"])
def test_the_key_follows_what_a_cache_lacks(paths: Paths, stage: str) -> None:
    def write(**skipped: list[int]) -> str:
        world.write_scenes(paths.scenes, paths.prepared, missing=skipped.get("scenes", []))
        cache_world.write_regions(paths.regions, paths.prepared, missing=skipped.get("regions", []))
        cache_world.write_matches(paths.matches, paths.regions, paths.prepared, missing=skipped.get("matches", []))
        cache_world.write_semantics(paths.semantics, paths.prepared, missing=skipped.get("semantics", []))
        return key(opened(paths))

    complete = write()
    assert write(**{stage: [2]}) != write(**{stage: [3]}) != complete
    assert write() == complete


def test_the_key_follows_what_was_computed(paths: Paths) -> None:
    # Settings, weights and inputs are the same: the code that computed it was another.
    before = key(opened(paths))
    world.write_scenes(paths.scenes, paths.prepared, seed=1)
    assert key(opened(paths)) != before


def test_a_job_is_picklable_for_the_processes_that_share_it(paths: Paths) -> None:
    inputs = opened(paths)
    job = Job(world.train_settings(), (1, 2), inputs, "key", paths.work, paths.models, None)
    copy = pickle.loads(pickle.dumps(job))
    assert (copy.settings, copy.seeds, copy.key, copy.models) == (job.settings, job.seeds, job.key, job.models)
    assert copy.inputs.shapes == inputs.shapes and copy.inputs.cards() == inputs.cards()
    assert copy.inputs.data.pairs == inputs.data.pairs and copy.inputs.vocabulary.sha256 == inputs.vocabulary.sha256


def chosen(paths: Paths, **changes: Any) -> Choice:
    return choose_pairs(opened(paths, world.TINY), world.train_settings(**changes))


def ids(pairs: list[Any]) -> list[str]:
    return [pair.id for pair in pairs]


def test_the_splits_are_learnt_from_and_validated_on(paths: Paths) -> None:
    choice = chosen(paths)
    assert ids(choice.train) == ["p0", "p1", "p2", "p3"] and ids(choice.validation) == ["p4"]
    assert choice.validated_on == "val" and not choice.remarks


def test_pairs_without_captions_or_scenes_are_left_out_and_counted(paths: Paths) -> None:
    world.write_pairs(paths.prepared, captions=(world.CAPTIONS[0], (), *world.CAPTIONS[2:]))
    world.write_scenes(paths.scenes, paths.prepared, missing=[6, 8])
    choice = chosen(paths)
    assert ids(choice.train) == ids(choice.validation) == ["p0", "p2"] and choice.validated_on == "train"
    assert choice.validation is choice.train
    remarks = "\n".join(choice.remarks)
    assert "1 train pairs have no scenes" in remarks and "1 train pairs have no captions" in remarks
    assert "1 val pairs have no scenes" in remarks and "the training pairs are validated on instead" in remarks


def test_overfit_and_hold_out_choose_among_the_training_pairs(paths: Paths) -> None:
    overfit = chosen(paths, overfit=2)
    assert ids(overfit.train) == ids(overfit.validation) == ["p0", "p1"] and overfit.validated_on == "train"
    held_out = chosen(paths, hold_out=0.25)
    learnt, validated = hold_out(read_prepared(paths.prepared).split("train"), 0.25)
    assert (held_out.train, held_out.validation) == (learnt, validated) and held_out.validated_on == "held-out"
    assert len(validated) == 1 and len(learnt) == 3


def test_without_any_usable_pair_there_is_no_training(paths: Paths) -> None:
    world.write_pairs(paths.prepared, captions=((), (), (), (), *world.CAPTIONS[4:]))
    world.write_scenes(paths.scenes, paths.prepared)
    with pytest.raises(DataError, match="both captions and all inputs") as caught:
        chosen(paths)
    assert caught.value.where == str(paths.prepared)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    moments = iter(range(0, 100, 5))
    monkeypatch.setattr(run.time, "perf_counter", lambda: float(next(moments)))
    return tmp_path / run.SECONDS


def test_an_interrupted_run_counts_and_the_next_one_adds_to_it(file: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run.timed(file, goes_on=False):
        raise KeyboardInterrupt
    with run.timed(file, goes_on=True):
        pass
    assert run.read_seconds(file) == 10.0
    with run.timed(file, goes_on=False):
        pass
    assert run.read_seconds(file) == 5.0


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"seconds": "long"}), json.dumps({"seconds": None})])
def test_what_is_no_time_is_none(file: Path, content: str) -> None:
    assert run.read_seconds(file) is None
    file.write_text(content)
    assert run.read_seconds(file) is None
