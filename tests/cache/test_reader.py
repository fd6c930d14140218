from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.cache.columns import DeferredErrorFile
from pipeline.cache.reader import Cache, cache_sha256
from pipeline.cache.schema import Expectation
from pipeline.cache.writer import pack
from pipeline.errors import CacheError
from tests.cache.contents import IDS, SCHEMA, Units, arrays, provenance, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "things.h5")


@pytest.fixture
def cache(path: Path) -> Iterator[Cache]:
    with Cache.open(path, SCHEMA) as opened:
        yield opened


def test_every_row_comes_back(cache: Cache) -> None:
    assert len(cache) == 6
    for unit, expected in enumerate(arrays()):
        for name, values in expected.items():
            stored = cache.row(name, unit)
            assert stored.dtype == values.dtype
            np.testing.assert_array_equal(stored, values)


def test_several_units_in_any_order_with_repetitions(cache: Cache) -> None:
    wanted = [5, 0, 1, 0, 2]
    for name in ("vectors", "scores", "codes"):
        flat, lengths = cache.rows(name, wanted)
        np.testing.assert_array_equal(flat, np.concatenate([arrays()[unit][name] for unit in wanted]))
        assert lengths.tolist() == [len(arrays()[unit][name]) for unit in wanted]
    flat, lengths = cache.rows("features", np.array(wanted))
    np.testing.assert_array_equal(flat, np.stack([arrays()[unit]["features"] for unit in wanted]))
    assert lengths.tolist() == [1] * 5


def test_the_digest_tells_caches_apart_by_all_that_they_hold(tmp_path: Path, path: Path) -> None:
    with Cache.open(path, SCHEMA) as cache:
        again = cache_sha256(write(tmp_path / "again.h5"), SCHEMA)
        assert cache.sha256 == again == cache_sha256(path, SCHEMA)
    variants: list[dict[str, Any]] = [
        {"seed": 1},
        {"missing": [4]},
        {"settings": {"size": 5}},
        {"settings_hash": "1" * 64},
        {"weights": {"backbone": "1" * 64}},
        {"upstream": {"pairs.jsonl": "1" * 64}},
        {"code": "1" * 64},
    ]
    digests = {cache_sha256(write(tmp_path / f"{row}.h5", **changes), SCHEMA) for row, changes in enumerate(variants)}
    assert len(digests | {again}) == len(variants) + 1


def test_one_changed_value_of_any_field_changes_the_digest(tmp_path: Path, path: Path) -> None:
    digests = {cache_sha256(path, SCHEMA)}
    for name in ("features", "vectors", "scores", "codes"):
        contents = arrays()
        contents[5 if name != "codes" else 4][name].flat[-1] += 1
        changed = pack(tmp_path / f"{name}.h5", SCHEMA, provenance(), IDS, Units(SCHEMA, contents))
        digests.add(cache_sha256(changed, SCHEMA))
    # Other places of the same rows.
    contents = arrays()
    for name in ("vectors", "scores"):
        contents[0][name], contents[2][name] = (
            np.concatenate([contents[0][name], contents[2][name]]),
            contents[2][name][:0],
        )
    moved = pack(tmp_path / "moved.h5", SCHEMA, provenance(), IDS, Units(SCHEMA, contents))
    digests.add(cache_sha256(moved, SCHEMA))
    ids = pack(tmp_path / "ids.h5", SCHEMA, provenance(), ("b", *IDS[1:]), Units(SCHEMA, arrays()))
    digests.add(cache_sha256(ids, SCHEMA))
    assert len(digests) == 7


def test_the_digest_reads_no_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda data, *key: (read.append(data.name), real(data, *key))[1])
    cache_sha256(path, SCHEMA)
    assert set(read) == {"/ids", "/missing", "/offsets", "/code_offsets"}


def test_the_digests_of_the_values_are_those_that_verify_compares(path: Path) -> None:
    # What `Cache.sha256` trusts: values that are not what was written are noticed by `verify`, and by nothing else.
    values = arrays()[0]["features"]
    data = path.read_bytes()
    assert data.count(values.tobytes()) == 1
    digest = cache_sha256(path, SCHEMA)
    path.write_bytes(data.replace(values.tobytes(), (values + 1).tobytes()))
    with Cache.open(path, SCHEMA) as cache:
        assert cache.sha256 == digest
        with pytest.raises(CacheError, match="features"):
            cache.verify()


def test_nothing_asked_nothing_given(cache: Cache) -> None:
    for name, shape in (("features", (0, 3, 2)), ("vectors", (0, 4)), ("codes", (0,))):
        flat, lengths = cache.rows(name, [])
        assert (flat.shape, lengths.shape) == (shape, (0,))
        assert flat.dtype == cache.schema.field(name).dtype


def test_rows_are_copies_and_maps_are_read_only(cache: Cache) -> None:
    cache.row("vectors", 0)[:] = 0
    np.testing.assert_array_equal(cache.row("vectors", 0), arrays()[0]["vectors"])
    with pytest.raises(ValueError, match="read-only"):
        cache.memory_map("vectors")[:] = 0


@pytest.mark.parametrize("units", [[-1], [6], [0, 6]])
def test_units_out_of_range(cache: Cache, units: list[int]) -> None:
    for name in ("features", "vectors", "codes"):
        with pytest.raises(IndexError, match="cache of 6"):
            cache.rows(name, units)


def test_unknown_fields_are_named(cache: Cache) -> None:
    with pytest.raises(KeyError, match="things has no field 'vector'"):
        cache.rows("vector", [0])


def test_a_memory_map_is_the_file(cache: Cache, path: Path) -> None:
    mapped = cache.memory_map("vectors")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, np.concatenate([unit["vectors"] for unit in arrays()]))
    with h5py.File(path) as file:
        start = file["vectors"].id.get_offset()
    np.testing.assert_array_equal(mapped, np.memmap(path, np.float16, "r", start, mapped.shape))
    assert mapped.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="compressed"):
        cache.memory_map("codes")


def test_tensors_are_copies(cache: Cache) -> None:
    torch = pytest.importorskip("torch")
    for name in ("vectors", "codes"):
        tensor = cache.tensor(name, "cpu")
        np.testing.assert_array_equal(tensor.numpy(), np.concatenate([unit[name] for unit in arrays()]))
        tensor.zero_()
    assert cache.tensor("vectors", torch.device("cpu")).any()


def test_items_are_found_by_id_and_date(cache: Cache) -> None:
    assert cache.ids == IDS
    assert cache.index == {"a": 0, "é-2": 1, "c" * 40: 2}
    assert (cache.unit("é-2"), cache.unit("é-2", 1)) == (2, 3)
    with pytest.raises(CacheError, match="does not hold 'b'"):
        cache.unit("b")


def test_offsets_and_provenance_are_those_written(cache: Cache) -> None:
    assert cache.offsets("offsets").tolist() == [0, 2, 2, 3, 6, 6, 10]
    assert cache.provenance == provenance(items=3, complete=True)
    assert cache.schema == replace(SCHEMA, fields=(replace(SCHEMA.fields[0], shape=(3, 2)), *SCHEMA.fields[1:]))


def _first_vector(cache: Cache) -> list[float]:
    return [*cache.row("vectors", 0)[0].tolist(), float(cache.row("codes", 0)[0])]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_it_travels_to_other_processes(cache: Cache, method: str) -> None:
    here = _first_vector(cache)
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        assert pool.submit(_first_vector, cache).result() == here
    assert len(pickle.dumps(cache)) < 5_000


def test_a_copy_opens_the_file_only_when_it_reads(cache: Cache, path: Path) -> None:
    copy = pickle.loads(pickle.dumps(cache))
    path.unlink()
    assert copy.ids == IDS
    with pytest.raises(CacheError, match="does not exist"):
        copy.row("vectors", 0)


def test_a_copy_refuses_a_file_that_was_replaced(cache: Cache, path: Path) -> None:
    copy = pickle.loads(pickle.dumps(cache))
    write(path, seed=1)
    with pytest.raises(CacheError, match="replaced"):
        copy.row("vectors", 0)


def test_an_open_cache_outlives_its_replacement(cache: Cache, path: Path) -> None:
    cache.row("vectors", 0)
    write(path, seed=1)
    np.testing.assert_array_equal(cache.row("vectors", 0), arrays()[0]["vectors"])


def test_arrays_outlive_the_cache(path: Path) -> None:
    with Cache.open(path, SCHEMA) as cache:
        mapped = cache.memory_map("vectors")
        cache.row("codes", 0)
    np.testing.assert_array_equal(mapped[:2], arrays()[0]["vectors"])
    np.testing.assert_array_equal(cache.row("vectors", 0), arrays()[0]["vectors"])
    cache.close()
    cache.close()


def test_closing_leaves_no_descriptor(path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        with Cache.open(path, SCHEMA) as cache:
            cache.row("codes", 0)
            cache.row("vectors", 0)
    assert len(list(descriptors.iterdir())) == before


class TestRefusal:
    """Every cache that is not what the reader expects is refused with the command that makes it anew."""

    def refused(self, path: Path, match: str, schema: object = SCHEMA, **expected: object) -> None:
        with pytest.raises(CacheError, match=match) as caught:
            Cache.open(path, schema, expect=Expectation(**{"repair": "sagecc things --again", **expected}))
        assert "sagecc things --again" in str(caught.value)
        assert str(path) in str(caught.value)

    def test_accepted(self, path: Path) -> None:
        expected = provenance()
        Cache.open(
            path, SCHEMA, expect=Expectation(expected.settings_hash, expected.weights, expected.upstream)
        ).close()

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.h5", "does not exist")

    def test_stage(self, path: Path) -> None:
        self.refused(path, "of stage things, not of others", replace(SCHEMA, stage="others"))

    def test_schema_version(self, path: Path) -> None:
        self.refused(path, "schema version 3 of stage things; this program reads 4", replace(SCHEMA, version=4))

    def test_fields(self, path: Path) -> None:
        self.refused(path, "other fields", replace(SCHEMA, fields=SCHEMA.fields[:2]))
        self.refused(path, "other fields", replace(SCHEMA, unit="pair"))

    @pytest.mark.parametrize(
        "change", [{"dtype": "float32"}, {"shape": (5,)}, {"shape": ()}, {"offsets": "code_offsets"}]
    )
    def test_kind_of_field(self, path: Path, change: dict[str, object]) -> None:
        fields = tuple(replace(field, **change) if field.name == "vectors" else field for field in SCHEMA.fields)
        self.refused(path, "field vectors is float16", replace(SCHEMA, fields=fields))

    def test_settings(self, path: Path) -> None:
        self.refused(path, r"other settings \(555555555555… instead of 888888888888…\)", settings_hash="8" * 64)

    def test_weights(self, path: Path) -> None:
        self.refused(path, "other weights: backbone is 666666666666… instead", weights={"backbone": "8" * 64})
        self.refused(path, "other weights: more is none instead", weights={"more": "8" * 64})

    def test_upstream(self, path: Path) -> None:
        self.refused(path, "another input: pairs.jsonl is 7777", upstream={"pairs.jsonl": "8" * 64})

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
    def test_truncated(self, path: Path, share: float) -> None:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        self.refused(path, "truncated, damaged")

    def test_not_hdf5(self, path: Path) -> None:
        path.write_bytes(b"no such thing" * 100)
        self.refused(path, "truncated, damaged")

    def test_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "cannot be read")

    def test_foreign_hdf5(self, path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["x"] = 1
        self.refused(path, "not a cache of this project")

    def test_another_projects_cache(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs["format"] = np.bytes_("other-cache")
        self.refused(path, "not a cache of this project")

    def test_contradictory_number_of_items(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs.modify("items", 4)
        self.refused(path, "3 ids for 4 items")

    @pytest.mark.parametrize("missing", [[3, 0], [0, 6], [-1, 0], [3, 3]])
    def test_contradictory_missing_units(self, tmp_path: Path, missing: list[int]) -> None:
        from pipeline.cache.layout import digest

        path = write(tmp_path / "c.h5", missing=[0, 3])
        with h5py.File(path, "r+") as file:
            file["missing"][...] = missing
            file["missing"].attrs["sha256"] = np.bytes_(digest(np.array(missing)))
        self.refused(path, "missing is not a rising list")

    def test_format_version(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs.modify("format_version", 2)
        self.refused(path, "file format version 2; this program reads 1")

    def test_unfinished(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs.modify("complete", np.bool_(False))
        self.refused(path, "unfinished")

    def test_without_the_mark(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file.attrs["complete"]
        self.refused(path, "unfinished")

    def test_written_before_the_code_was_noted(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file.attrs["code"]
        self.refused(path, "written by an earlier version")

    def test_still_being_written(self, path: Path) -> None:
        with h5py.File(path, "r+", libver="v110") as file:
            file.attrs.modify("complete", np.bool_(False))
            file.flush()
            copy = path.with_name("copy.h5")
            shutil.copyfile(path, copy)
            self.refused(copy, "still")
        with DeferredErrorFile(path, "w") as guard, h5py.File(guard, "w") as file:
            file["features"] = np.zeros(10)
            self.refused(path, "still being written")

    @pytest.mark.parametrize("name", ["offsets", "ids", "missing"])
    def test_changed_index(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path / "c.h5", missing=[0, 3])
        with h5py.File(path, "r+") as file:
            file[name][...] = file[name][...][::-1]
        self.refused(path, f"{name} is not what was written")

    @pytest.mark.parametrize(
        ("offsets", "match"),
        [
            ([0, 2, 1, 3, 6, 6, 10], "not a rising list of 7"),
            ([1, 2, 2, 3, 6, 6, 10], "not a rising list of 7"),
            ([0, 2, 2, 3, 6, 6, 11], "vectors has 10 rows instead of 11"),
        ],
    )
    def test_contradictory_offsets(self, path: Path, offsets: list[int], match: str) -> None:
        from pipeline.cache.layout import digest

        with h5py.File(path, "r+") as file:
            file["offsets"][...] = offsets
            file["offsets"].attrs["sha256"] = np.bytes_(digest(np.array(offsets)))
        self.refused(path, match)


def test_verify_reads_everything_through(cache: Cache, path: Path) -> None:
    cache.verify()
    data = bytearray(path.read_bytes())
    data[data.index(arrays()[0]["vectors"].tobytes())] ^= 1
    path.write_bytes(data)
    with Cache.open(path, SCHEMA) as changed, pytest.raises(CacheError, match="vectors is not what was written"):
        changed.verify()
