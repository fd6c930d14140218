from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.schema import DTYPES
from pipeline.errors import CacheError
from pipeline.execution.shards import ShardStore, write_shard


def results() -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return {
        "one": {name: random.integers(0, 100, (3, 2)).astype(name) for name in sorted(DTYPES)},
        "two": {"empty": np.zeros((0, 4), np.float16), "scalar": np.array(7, np.int64)},
        "three": {"turned": np.arange(6, dtype=np.int32).reshape(2, 3).T},
    }


def test_everything_a_cache_may_hold_comes_back(tmp_path: Path) -> None:
    write_shard(tmp_path, results())
    store, dropped = ShardStore.scan(tmp_path)
    assert dropped == 0
    assert len(store) == 3
    for key, arrays in results().items():
        stored = store.read(key)
        assert store.shapes(key) == {name: array.shape for name, array in arrays.items()}
        for name, array in arrays.items():
            assert stored[name].dtype == array.dtype
            np.testing.assert_array_equal(stored[name], array)
    assert store.lengths("two") == {"empty": 0}


def test_types_that_no_cache_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complex"):
        write_shard(tmp_path, {"key": {"x": np.zeros(3, np.complex64)}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_shards_are_dropped(tmp_path: Path, keep: int) -> None:
    path = tmp_path / write_shard(tmp_path, results())
    path.write_bytes(path.read_bytes()[:keep])
    store, dropped = ShardStore.scan(tmp_path)
    assert (dropped, len(store)) == (1, 0)
    assert not path.exists()


def test_any_damage_is_noticed_when_scanned_or_read(tmp_path: Path) -> None:
    path = tmp_path / write_shard(tmp_path, results())
    good = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(good), 200):
        bad = bytearray(good)
        bad[place] ^= 0xFF
        path.write_bytes(bad)
        store, _ = ShardStore.scan(tmp_path)
        for key, arrays in results().items():
            if key not in store:
                continue
            try:
                stored = store.read(key)
            except CacheError:
                continue
            assert all(name in arrays and stored[name].tobytes() == arrays[name].tobytes() for name in stored)


def test_a_damaged_shard_is_removed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / write_shard(tmp_path, results())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    store, dropped = ShardStore.scan(tmp_path)
    assert dropped == 0
    with pytest.raises(CacheError, match="damaged"):
        for key in results():
            store.read(key)
    assert not path.exists()


def test_leftovers_of_unfinished_writing_are_removed(tmp_path: Path) -> None:
    write_shard(tmp_path, results())
    leftover = tmp_path / ".abc.safetensors.xyz.partial"
    leftover.touch()
    ShardStore.scan(tmp_path)
    assert not leftover.exists()
    assert len(list(tmp_path.iterdir())) == 1
