from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cache.reader import Cache
from pipeline.errors import DataError, OutputError, ResourceError, SageccError
from pipeline.execution import compute
from pipeline.execution.build import build_cache, clean, exclusive, failures_path, work_folder, work_sizes
from pipeline.execution.compute import WorkItem
from pipeline.files import sha256_file
from tests.execution import squares_stage
from tests.execution.killing import run_and_kill, survive_kills
from tests.execution.resuming import run_items
from tests.execution.workers import SCHEMA, Refuses, Squares, engine, item, items, provenance

IDS = [str(index) for index in range(10)]


def build(folder: Path, todo: list[WorkItem] | None = None, make: object = Squares, **changes: object) -> Path:
    arguments = {"provenance": provenance(), "engine": engine(), "work": folder / ".work", **changes}
    return build_cache(folder / "squares.h5", SCHEMA, ids=IDS, items=todo or items(10), make_worker=make, **arguments)


def computed(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("computed")


def test_the_cache_holds_each_items_arrays(tmp_path: Path) -> None:
    with Cache.open(build(tmp_path), SCHEMA) as cache:
        assert cache.ids == tuple(IDS)
        for unit, one in enumerate(items(10)):
            values = np.array(one.payload, np.float32)
            np.testing.assert_array_equal(cache.row("squares", unit), np.stack([values, values**2], axis=1))
            assert cache.row("total", unit) == values.sum()


def test_a_cache_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    path = build(tmp_path)
    before = path.stat().st_mtime_ns
    clean(tmp_path / ".work")
    build(tmp_path, make=Refuses)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change",
    [
        {"settings_hash": "t"},
        {"weights": {"w": "1"}},
        {"upstream": {"pairs": "2"}},
        {"settings": {"a": 1}},
        {"code": "c"},
    ],
)
def test_anything_else_in_its_provenance_makes_it_anew(tmp_path: Path, change: dict[str, object]) -> None:
    path = build(tmp_path)
    build(tmp_path, provenance=provenance(**change))
    with Cache.open(path, SCHEMA) as cache:
        name, value = next(iter(change.items()))
        assert getattr(cache.provenance, name) == value


def test_other_settings_weights_or_code_never_meet_the_same_shards(tmp_path: Path) -> None:
    folders = {
        work_folder(tmp_path, provenance(**change))
        for change in (
            {},
            {"settings_hash": "t"},
            {"weights": {"w": "1"}},
            {"weights": {"w": "2"}},
            {"schema_version": 2},
            {"code": "c"},
            {"code": "d"},
        )
    }
    assert len(folders) == 7
    assert work_folder(tmp_path, provenance(upstream={"pairs": "2"})) in folders

    log = tmp_path / "log"
    build(tmp_path, make=partial(Squares, log, batch_size=1))
    first = computed(log)
    build(tmp_path, make=partial(Squares, log, batch_size=1), provenance=provenance(settings_hash="t"))
    assert computed(log) == 2 * first


def test_one_changed_item_is_computed_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    make = partial(Squares, log, batch_size=1)
    path = build(tmp_path, make=make)
    first = computed(log)
    todo = [*items(10)[:9], item([3.0], "changed")]
    build(tmp_path, todo, make=make, provenance=provenance(upstream={"pairs": "2"}))
    assert computed(log) == first + 1
    with Cache.open(path, SCHEMA) as cache:
        assert cache.row("total", 9) == 3


def test_a_fatal_item_leaves_no_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of"):
        build(tmp_path, [*items(10)[:9], item([-1.0], "bad")])
    assert not list(tmp_path.glob("*.h5"))
    assert not list(tmp_path.glob(".*.partial"))


def test_skipped_items_are_missing_and_listed_beside(tmp_path: Path) -> None:
    todo = [item([-1.0], "bad"), *items(10)[1:]]
    path = build(tmp_path, todo, engine=engine(on_bad_item="skip"))
    with Cache.open(path, SCHEMA) as cache:
        assert cache.missing.tolist() == [0]
        assert cache.row("total", 0) == 0
        assert cache.row("squares", 0).shape == (0, 2)
    listed = json.loads(failures_path(path).read_text(encoding="utf-8"))
    assert listed == [{"unit": 0, "item": "bad", "reason": "negative (a number)"}]
    build(tmp_path, todo, make=Refuses, engine=engine(on_bad_item="skip"))
    with pytest.raises(DataError):
        build(tmp_path, todo)
    build(tmp_path, provenance=provenance(upstream={"pairs": "2"}))
    assert not failures_path(path).exists()


def test_a_shard_damaged_at_rest_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(tmp_path)
    expected = sha256_file(path)
    path.unlink()
    shard = next((tmp_path / ".work").glob("*/*/*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert sha256_file(build(tmp_path)) == expected
    assert "a shard is damaged" in capsys.readouterr().err


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    path = build(tmp_path)
    expected = sha256_file(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert sha256_file(build(tmp_path)) == expected


def test_fields_that_share_offsets_must_have_equal_lengths(tmp_path: Path) -> None:
    class Uneven(Squares):
        def compute(self, loaded: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
            return [{**arrays, "more": np.zeros(7, np.float32)} for arrays in super().compute(loaded)]

    from dataclasses import replace

    more = replace(SCHEMA, fields=(*SCHEMA.fields, replace(SCHEMA.fields[1], name="more", shape=())))
    with pytest.raises(ValueError, match="differ in length"):
        build_cache(
            tmp_path / "squares.h5",
            more,
            provenance(),
            IDS,
            items(10),
            Uneven,
            work=tmp_path / ".work",
            engine=engine(),
        )


def test_as_many_items_as_units(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="9 items for 10 pairs"):
        build(tmp_path, items(9))


def test_work_can_be_measured_and_removed(tmp_path: Path) -> None:
    build(tmp_path)
    work = tmp_path / ".work"
    sizes = work_sizes(work)
    assert list(sizes) == ["squares"]
    assert sizes["squares"] > 0
    assert clean(work, "other") == 0
    assert clean(work, "squares") == sizes["squares"]
    assert work_sizes(work) == {}
    assert work_sizes(tmp_path / "none") == {}


def lines(log: Path, what: str) -> int:
    return log.read_text(encoding="utf-8").count(what) if log.exists() else 0


def test_results_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    store = run_items(items(30), Squares, work=tmp_path, engine=engine(), group=7)
    for one in items(30):
        values = np.array(one.payload, np.float32)
        stored = store.read(one.key)
        np.testing.assert_array_equal(stored["squares"], np.stack([values, values**2], axis=1))
        assert store.lengths(one.key) == {"squares": len(values)}


def test_nothing_to_do_builds_no_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_items(items(9), Squares, work=tmp_path, engine=engine())
    capsys.readouterr()
    store = run_items(items(9), Refuses, work=tmp_path, engine=engine())
    assert len(store) == len({one.key for one in items(9)})
    assert capsys.readouterr().err.count("\n") == 1


def test_equal_items_are_computed_once_and_a_changed_one_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    make = partial(Squares, log, batch_size=1)
    run = partial(run_items, make_worker=make, work=tmp_path / "work", engine=engine())
    run([item([1.0], "a"), item([1.0], "b"), item([2.0], "c")])
    assert lines(log, "computed") == 2
    store = run([item([1.0], "a"), item([5.0], "b"), item([2.0], "c")])
    assert lines(log, "computed") == 3
    assert store.read(item([5.0]).key)["total"] == 5


@pytest.mark.parametrize("bad", [-1.0, 13.0])
def test_a_bad_item_is_fatal_after_all_others_are_done(tmp_path: Path, bad: float) -> None:
    todo = [*items(6), item([bad], "the bad one"), *items(12)[6:]]
    with pytest.raises(DataError, match=r"1 of \d+ items failed.*\n    the bad one: ") as caught:
        run_items(todo, Squares, work=tmp_path, engine=engine())
    assert "on_bad_item" in str(caught.value)
    good = [one for one in todo if one.label != "the bad one"]
    store = run_items(good, Refuses, work=tmp_path, engine=engine())
    assert all(one.key in store for one in good)


def test_bad_items_can_be_skipped(tmp_path: Path) -> None:
    bad = [item([-1.0], "cannot load"), item([13.0], "cannot compute")]
    store = run_items([bad[0], *items(5), bad[1]], Squares, work=tmp_path, engine=engine(on_bad_item="skip"))
    reasons = {key: failure.reason for key, failure in store.failures.items()}
    assert reasons == {bad[0].key: "negative (a number)", bad[1].key: "ZeroDivisionError: thirteen"}
    assert all(one.key in store for one in items(5))
    assert bad[0].key not in store


def test_many_failures_are_counted(tmp_path: Path) -> None:
    bad = [item([-float(number)], f"bad {number}") for number in range(1, 9)]
    with pytest.raises(DataError, match="and 3 more"):
        run_items(bad, Squares, work=tmp_path, engine=engine())


def test_a_worker_that_always_fails_is_a_fault_of_the_program(tmp_path: Path) -> None:
    bad = [item([13.0, float(number)]) for number in range(200, 240)]
    with pytest.raises(RuntimeError, match=r"every item fails: ZeroDivisionError(.|\n)*in compute"):
        run_items(bad, Squares, work=tmp_path, engine=engine(on_bad_item="skip"), group=8)


def test_results_depend_neither_on_batches_nor_on_shards(tmp_path: Path) -> None:
    todo = items(21)
    stores = [
        run_items(todo, partial(Squares, batch_size=size), work=tmp_path / name, engine=engine(), group=group)
        for name, size, group in (("a", 4, 32), ("b", 1, 3), ("c", 30, 1))
    ]
    for one in todo:
        first, *others = [store.read(one.key) for store in stores]
        assert all(first[name].tobytes() == other[name].tobytes() for other in others for name in first)


def test_slow_work_is_written_before_the_shard_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_SHARD_SECONDS", 0.0)
    list(compute.compute_shards(Squares(batch_size=1), items(4), 100, tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_shards_stay_when_the_run_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = Squares.compute
    calls = iter(range(100))

    def interrupted(self: Squares, loaded: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return computed(self, loaded)

    monkeypatch.setattr(Squares, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_items(items(40), Squares, work=tmp_path, engine=engine(), group=4)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not list(tmp_path.glob("*.partial"))


def test_corrupt_shards_are_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    make = partial(Squares, log)
    work = tmp_path / "work"
    run_items(items(8), make, work=work, engine=engine(), group=4)
    victim = next(work.glob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:100])
    store = run_items(items(8), make, work=work, engine=engine(), group=4)
    assert "dropped 1 unreadable shard" in capsys.readouterr().err
    assert all(one.key in store for one in items(8))
    assert lines(log, "built") == 2


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(OutputError, match="another run"):
        run_items(items(2), Squares, work=tmp_path, engine=engine())


def test_a_work_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        run_items(items(2), Squares, work=tmp_path / "file" / "work", engine=engine())
    assert str(tmp_path) in str(caught.value)


def test_errors_of_building_a_worker_pass_through(tmp_path: Path) -> None:
    def fails() -> Squares:
        raise SageccError("no weights")

    with pytest.raises(SageccError, match="no weights"):
        run_items(items(2), fails, work=tmp_path, engine=engine())


def test_loading_runs_ahead_by_two_batches_at_most(tmp_path: Path) -> None:
    read_indices: list[int] = []

    def source() -> object:
        for index in range(20):
            read_indices.append(index)
            yield WorkItem(key=str(index), label="", payload=[float(100 + index)])

    results = compute.compute_shards(Squares(batch_size=2), source(), 2, tmp_path)
    next(results)
    assert len(read_indices) <= 2 + 2 * 2 + 1
    results.close()


class NoRoom(Squares):
    """Runs out of a GPU's memory over every batch."""

    def compute(self, loaded: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        super().compute(loaded)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("on_bad_item", ["fatal", "skip"])
def test_a_gpu_without_room_is_no_fault_of_the_items(tmp_path: Path, on_bad_item: str) -> None:
    log = tmp_path / "log"
    todo = [item([-1.0], "a bad one"), *items(9)]
    with pytest.raises(ResourceError, match="ran out while computing a batch of 4") as caught:
        run_items(todo, partial(NoRoom, log), work=tmp_path / "work", engine=engine(on_bad_item=on_bad_item))
    assert caught.value.exit_code == 2
    assert "batch_size" in str(caught.value.fix)
    # Alone an item is padded to the same size.
    assert lines(log, "computed") == 1


def test_a_gpu_without_room_for_the_model_is_told(tmp_path: Path) -> None:
    def loads() -> Squares:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(ResourceError, match="while loading the models"):
        run_items(items(2), loads, work=tmp_path, engine=engine())


ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.long
def test_inline_survives_twenty_kills_with_the_same_bytes(tmp_path: Path) -> None:
    expected = sha256_file(squares_stage.run(tmp_path / "whole", seconds=0))
    folder = tmp_path / "killed"
    resumed = []

    def check(moment: float) -> None:
        assert sha256_file(folder / "squares.h5") == expected, f"killed after {moment:.3f} s"
        assert not list(folder.glob(".*.partial"))

    def finish() -> None:
        resumed.append(len(list((folder / ".work").glob("*/*/*.safetensors"))))
        squares_stage.run(folder, seconds=0)

    killed = survive_kills(
        [sys.executable, "-m", "tests.execution.squares_stage", str(folder), "inline"],
        lambda: shutil.rmtree(folder, ignore_errors=True),
        check,
        window=(0.0, 0.5),
        ready="ready",
        finish=finish,
    )
    assert killed >= 5
    assert any(0 < shards < 12 for shards in resumed)


def test_local_engine_survives_kills_with_the_same_bytes(tmp_path: Path) -> None:
    expected = sha256_file(squares_stage.run(tmp_path / "whole", seconds=0))
    folder = tmp_path / "killed"
    for moment in (2.5, 4.0):
        run_and_kill(
            [sys.executable, "-m", "tests.execution.squares_stage", str(folder), "local"], moment, ready="ready"
        )
    assert sha256_file(squares_stage.run(folder, "inline", seconds=0)) == expected
