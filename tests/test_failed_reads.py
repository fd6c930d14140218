"""A failed read is not damage: whatever file cannot be read, the error says so and the file stays as it is."""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import torch

from pipeline import checkpoints
from pipeline.cache.reader import Cache
from pipeline.checkpoints import Checkpoint, fetch
from pipeline.datasets.records import Pair
from pipeline.errors import SageccError, UnreadableError
from pipeline.execution.build import build_cache, work_folder
from pipeline.execution.compute import WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.execution.shards import ShardStore, find_shards, write_shard
from pipeline.files import list_files, read_json, sha256_file, write_json
from pipeline.training.checkpoints import Progress, is_complete, load_state, save_state
from pipeline.vision.external.arrays import list_hdf5, list_npy
from pipeline.vision.external.settings import SourceSettings
from pipeline.weights import load_state_dict, load_tensors, save_tensors
from tests.cache.contents import SCHEMA, write
from tests.cache.contents import provenance as cache_provenance
from tests.faults import FAILED_READS, error_names, failing

ROOT = Path(__file__).parents[1]
WORDS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "input/output error",
    errno.ESTALE: "network file system",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.ENOLCK: "locks",
    errno.EAGAIN: "another program holds",
    errno.ETIMEDOUT: "did not answer in time",
    errno.ENOMEM: "memory",
    errno.ELOOP: "link",
    errno.ENOTCONN: "not connected",
}


@dataclass(frozen=True)
class Case:
    """A file, and a reader of it that must leave it alone."""

    file: Path
    read: Callable[[], object]


def _shard(folder: Path) -> Path:
    return folder / write_shard(folder, {"a": {"x": np.arange(50_000)}, "b": {"x": np.arange(3)}})


def shard_header(folder: Path) -> Case:
    return Case(_shard(folder), lambda: ShardStore.scan(folder))


def shard_listed_by_a_worker(folder: Path) -> Case:
    return Case(_shard(folder), lambda: list(find_shards(folder, "")))


def shard_arrays(folder: Path) -> Case:
    path = _shard(folder)
    store, _ = ShardStore.scan(folder)
    return Case(path, lambda: store.read("a"))


@functools.cache
def _content() -> bytes:
    with TemporaryDirectory() as folder:
        return write(Path(folder) / "things.h5").read_bytes()


def _cache(folder: Path) -> Path:
    path = folder / "things.h5"
    path.write_bytes(_content())
    return path


def cache(folder: Path) -> Case:
    path = _cache(folder)
    return Case(path, lambda: Cache.open(path, SCHEMA))


def cache_values(folder: Path) -> Case:
    path = _cache(folder)
    opened = Cache.open(path, SCHEMA)
    return Case(path, lambda: opened.row("codes", 2))


def finished_cache_of_a_stage(folder: Path) -> Case:
    path = _cache(folder)
    return Case(path, lambda: _build(path))


def _build(path: Path) -> Path:
    def refuse() -> object:
        raise AssertionError("a cache that cannot be read is computed again")

    items = [WorkItem(f"{unit}", f"{unit}", None) for unit in range(6)]
    return build_cache(
        path,
        SCHEMA,
        cache_provenance(),
        ("a", "é-2", "c" * 40),
        items,
        refuse,  # type: ignore[arg-type]
        work=path.parent / ".work",
        engine=EngineSettings(),
    )


def tensors(folder: Path) -> Case:
    path = save_tensors(folder / "w.safetensors", {"a": torch.zeros(3)})
    return Case(path, lambda: load_tensors(path, fix="delete it"))


def weights(folder: Path) -> Case:
    path = save_tensors(folder / "w.safetensors", {"a": torch.zeros(3)})
    return Case(path, lambda: load_state_dict(path))


def pickled_weights(folder: Path) -> Case:
    path = folder / "w.pth"
    torch.save({"a": torch.zeros(3)}, path)
    return Case(path, lambda: load_state_dict(path))


def training_state(folder: Path) -> Case:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    save_state(folder / "state.safetensors", Progress(), model, optimizer, {})
    return Case(folder / "state.safetensors", lambda: load_state(folder / "state.safetensors", model, optimizer))


def trained_model(folder: Path) -> Case:
    path = write_json(folder / "settings.json", {})
    return Case(path, lambda: is_complete(folder, "key"))


def fetched_checkpoint(folder: Path) -> Case:
    (folder / "net.pth").write_bytes(b"weights")
    checkpoint = Checkpoint("net", "net.pth", "https://example.invalid/net.pth", "0" * 8, 1.0, "MIT", "nothing")
    patch = pytest.MonkeyPatch()

    def read() -> None:
        with patch.context() as context:
            context.setitem(checkpoints.CHECKPOINTS, "net", checkpoint)
            fetch("net", folder=folder, opener=lambda _: pytest.fail("it is downloaded again"))

    return Case(folder / "net.pth", read)


def json_file(folder: Path) -> Case:
    path = write_json(folder / "x.json", {})
    return Case(path, lambda: read_json(path))


def hashed_file(folder: Path) -> Case:
    path = write_json(folder / "x.json", {})
    return Case(path, lambda: sha256_file(path))


def _pair() -> Pair:
    return Pair(id="one", split="train", before="A/one.png", after="B/one.png", captions=(), changed=None, sha256={})


def imported_array(folder: Path) -> Case:
    for name in ("before", "after"):
        np.save(folder / f"one_{name}.npy", np.ones((2, 3), np.float32))
    settings = SourceSettings(kind="npy", before="{id}_before.npy", after="{id}_after.npy")
    return Case(folder / "one_before.npy", lambda: list_npy([_pair()], settings, folder))


def imported_hdf5(folder: Path) -> Case:
    with h5py.File(folder / "f.h5", "w") as file:
        file["one/a"] = file["one/b"] = np.ones((2, 3), np.float32)
    settings = SourceSettings(kind="hdf5", file="f.h5", before="{id}/a", after="{id}/b")
    return Case(folder / "f.h5", lambda: list_hdf5([_pair()], settings, folder))


CASES = (
    shard_header,
    shard_listed_by_a_worker,
    shard_arrays,
    cache,
    cache_values,
    finished_cache_of_a_stage,
    tensors,
    weights,
    pickled_weights,
    training_state,
    trained_model,
    fetched_checkpoint,
    json_file,
    hashed_file,
    imported_array,
    imported_hdf5,
)


@pytest.mark.parametrize("number", FAILED_READS, ids=error_names(FAILED_READS))
@pytest.mark.parametrize("make", CASES)
def test_what_cannot_be_opened_is_told_and_stays(tmp_path: Path, make: Callable[[Path], Case], number: int) -> None:
    _check(make(tmp_path), number, None)


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=["EIO", "ESTALE"])
@pytest.mark.parametrize("make", [shard_header, shard_arrays, cache, cache_values, json_file, hashed_file])
def test_a_read_that_fails_half_way_is_told_and_the_file_stays(
    tmp_path: Path, make: Callable[[Path], Case], number: int, after: int
) -> None:
    case = make(tmp_path)
    _check(case, number, after, may_succeed=after > 0)


def _check(case: Case, number: int, after: int | None, *, may_succeed: bool = False) -> None:
    before, others = case.file.read_bytes(), set(case.file.parent.iterdir())
    with failing(number, case.file, after=after):
        try:
            case.read()
            assert may_succeed
        except UnreadableError as error:
            assert WORDS[number] in error.what
            assert error.where is not None
            assert error.fix
    assert case.file.read_bytes() == before
    assert set(case.file.parent.iterdir()) - {case.file.with_name(".work")} == others


@pytest.mark.parametrize("number", FAILED_READS, ids=error_names(FAILED_READS))
def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path: Path, number: int) -> None:
    path = _shard(tmp_path)
    with failing(number, tmp_path):
        for read in (lambda: ShardStore.scan(tmp_path), lambda: list_files(tmp_path, "*")):
            with pytest.raises(UnreadableError, match=WORDS[number]):
                read()
    assert path.is_file()


def test_files_that_are_not_there_are_no_failed_read(tmp_path: Path) -> None:
    assert list_files(tmp_path / "none", "*") == []
    with pytest.raises(FileNotFoundError):
        sha256_file(tmp_path / "none")
    assert not is_complete(tmp_path / "none", "key")


def test_damage_is_still_damage_when_the_file_can_be_read(tmp_path: Path) -> None:
    path = _shard(tmp_path)
    path.write_bytes(b"\x10" + path.read_bytes()[1:])
    assert ShardStore.scan(tmp_path)[1] == 1
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/mem")
@pytest.mark.parametrize("make", [c for c in CASES if c not in (cache_values, imported_array, imported_hdf5)])
def test_an_input_output_error_of_the_system_itself(tmp_path: Path, make: Callable[[Path], Case]) -> None:
    case = make(tmp_path)
    case.file.unlink()
    case.file.symlink_to("/proc/self/mem")  # reading it from its beginning fails with EIO
    with pytest.raises(UnreadableError, match="input/output error"):
        case.read()
    assert case.file.is_symlink()


_AS_NOBODY = """
import os, sys
from pathlib import Path
from pipeline.errors import SageccError
from pipeline.execution.shards import ShardStore
os.setgid(65534); os.setuid(65534)
try:
    ShardStore.scan(Path(sys.argv[1]))
except SageccError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")
def test_shards_of_another_user_stay(tmp_path: Path) -> None:
    path = _shard(tmp_path)
    path.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "no permission (mode 0600, owner 0; this process is user 65534)" in done.stdout, done.stderr
    assert path.is_file()


_FEW_FILES = """
import os, resource, sys
from pathlib import Path
from pipeline.errors import SageccError
from pipeline.execution.shards import ShardStore
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 4096))
kept = []
try:
    while True:
        kept.append(open(os.devnull))
except OSError:
    kept.pop().close()
try:
    ShardStore.scan(folder)
    kept.append(open(os.devnull))
    ShardStore.scan(folder)
except SageccError as error:
    print(error)
"""


def test_the_limit_of_open_files_is_named(tmp_path: Path) -> None:
    path = _shard(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _FEW_FILES, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "too many open files: the limit of this process (`ulimit -n`) is 32" in done.stdout, done.stderr
    assert "`ulimit -n 4096`" in done.stdout
    assert path.is_file()


def test_a_damaged_shard_that_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _shard(tmp_path)
    path.write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SageccError, match="no permission"):
        ShardStore.scan(tmp_path)


def test_work_of_a_build_survives_a_failed_read(tmp_path: Path) -> None:
    folder = work_folder(tmp_path / ".work", cache_provenance())
    folder.mkdir(parents=True)
    path = _shard(folder)
    with failing(errno.EIO, path), pytest.raises(UnreadableError, match="input/output error"):
        _build(tmp_path / "things.h5")
    assert path.is_file()
    assert not (tmp_path / "things.h5").exists()
