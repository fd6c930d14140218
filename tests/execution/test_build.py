from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import Cache
from pipeline.errors import DataError
from pipeline.execution import build_cache, clean, work_folder, work_sizes
from pipeline.execution.build import failures_path
from pipeline.execution.items import Item
from pipeline.files import sha256_file
from tests.execution.workers import SCHEMA, Refuses, Squares, engine, item, items, provenance

IDS = [str(index) for index in range(10)]


def build(folder: Path, todo: list[Item] | None = None, make: object = Squares, **changes: object) -> Path:
    arguments = {"provenance": provenance(), "engine": engine(), "work": folder / ".work", **changes}
    return build_cache(
        folder / "squares.h5", SCHEMA, ids=IDS, items=todo or items(10), make_worker=make, title="squares", **arguments
    )


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
    [{"settings_hash": "t"}, {"weights": {"w": "1"}}, {"upstream": {"pairs": "2"}}, {"settings": {"a": 1}}],
)
def test_anything_else_in_its_provenance_makes_it_anew(tmp_path: Path, change: dict[str, object]) -> None:
    path = build(tmp_path)
    build(tmp_path, provenance=provenance(**change))
    with Cache.open(path, SCHEMA) as cache:
        name, value = next(iter(change.items()))
        assert getattr(cache.provenance, name) == value


def test_other_settings_or_weights_never_meet_the_same_shards(tmp_path: Path) -> None:
    folders = {
        work_folder(tmp_path, provenance(**change))
        for change in (
            {},
            {"settings_hash": "t"},
            {"weights": {"w": "1"}},
            {"weights": {"w": "2"}},
            {"schema_version": 2},
        )
    }
    assert len(folders) == 5
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
            title="squares",
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
