from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError, UnreadableError
from pipeline.vision.external.arrays import ArrayItems, ArrayWorker, list_hdf5, list_npy
from pipeline.vision.external.settings import SourceSettings
from tests.vision.external.example_pairs import LABELS, PAIRS

WIDTH = 4
DATES = {"before": "A", "after": "B"}


def embeddings(stem: str, date: str) -> NDArray[np.float32]:
    random = np.random.default_rng(sum(f"{stem}{date}".encode()))
    return random.normal(size=(sum(stem.encode()) % 3, WIDTH)).astype(np.float32)


def npy_path(root: Path, stem: str, date: str) -> Path:
    return root / "features" / stem.split("_")[0] / DATES[date] / f"{stem}.npy"


@pytest.fixture(params=["npy", "hdf5"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, kind: str) -> Path:
    for pair in PAIRS:
        for date in DATES:
            write_array(tmp_path, kind, pair.id, date, embeddings(pair.id, date))
    return tmp_path


def write_array(root: Path, kind: str, stem: str, date: str, array: Any) -> None:
    """Write one date's array, in place of an earlier one."""
    if kind == "npy":
        path = npy_path(root, stem, date)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
        return
    with h5py.File(root / "features.h5", "a") as file:
        name = f"{DATES[date]}/{stem}"
        if name in file:
            del file[name]
        file[name] = array


def delete_array(root: Path, kind: str, stem: str, date: str) -> None:
    if kind == "npy":
        npy_path(root, stem, date).unlink()
        return
    with h5py.File(root / "features.h5", "a") as file:
        del file[f"{DATES[date]}/{stem}"]


def list_arrays(root: Path, kind: str, **changes: object) -> ArrayItems:
    npy = {"before": "features/{split}/A/{stem}.npy", "after": "features/{split}/B/{stem}.npy"}
    hdf5 = {"file": "features.h5", "before": "A/{stem}", "after": "B/{id}"}
    values = {"kind": kind, **(npy if kind == "npy" else hdf5), **changes}
    return (list_npy if kind == "npy" else list_hdf5)(PAIRS, SourceSettings.model_validate(values), root)


def load_arrays(root: Path, kind: str, **changes: object) -> list[dict[str, NDArray[Any]]]:
    listed = list_arrays(root, kind, **changes)
    worker = ArrayWorker(listed.width)
    try:
        return [worker.compute([worker.load(item.payload)])[0] for item in listed.items]
    finally:
        worker.close()


def test_every_date_gets_its_array(root: Path, kind: str) -> None:
    listed = list_arrays(root, kind)
    assert [item.label for item in listed.items] == LABELS and listed.width == WIDTH
    units = [(pair.id, date) for pair in PAIRS for date in DATES]
    for (stem, date), arrays in zip(units, load_arrays(root, kind), strict=True):
        expected = embeddings(stem, date)
        np.testing.assert_array_equal(arrays["embeddings"], expected.astype(np.float16))
        assert arrays["scores"].tolist() == [1.0] * len(expected) and arrays["selected"].all()


def test_a_changed_array_changes_its_key_and_what_is_upstream(root: Path, kind: str) -> None:
    first = list_arrays(root, kind)
    write_array(root, kind, "train_2", "after", np.ones((2, WIDTH), np.float32))
    second = list_arrays(root, kind)
    assert first.upstream != second.upstream
    changed = [i for i, (a, b) in enumerate(zip(first.items, second.items, strict=True)) if a.key != b.key]
    assert changed == ([3] if kind == "npy" else [0, 1, 2, 3, 4, 5])


def test_missing_arrays_are_named_unless_allowed(root: Path, kind: str) -> None:
    delete_array(root, kind, "train_1", "before")
    with pytest.raises(DataError, match=r"1 dates have no (array|data set): train_1 before"):
        list_arrays(root, kind)
    first = load_arrays(root, kind, allow_missing=True)[0]
    assert first["embeddings"].shape == (0, WIDTH)
    with pytest.raises(DataError, match="for any pair"):
        list_arrays(root, kind, before="no/{stem}", after="none/{stem}", allow_missing=True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, WIDTH + 1), np.float32), "5 wide instead of 4"),
        (np.full((1, WIDTH), np.nan, np.float32), "NaN or infinity"),
        (np.full((1, WIDTH), np.inf, np.float64), "NaN or infinity"),
        (np.full((1, WIDTH), 1e6, np.float32), "half precision ends"),
        (np.zeros(WIDTH, np.float32), "must be an array"),
        (np.zeros((2, WIDTH), np.int64), "of floats"),
        (np.float32(3), "must be an array"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(root: Path, kind: str, array: Any, message: str) -> None:
    write_array(root, kind, "val_1", "after", array)
    with pytest.raises(DataError, match=message) as caught:
        load_arrays(root, kind)
    assert "val_1" in str(caught.value.where) and caught.value.fix


def test_the_width_asked_for_is_looked_at(root: Path, kind: str) -> None:
    with pytest.raises(DataError, match="4 wide instead of 256"):
        load_arrays(root, kind, width=256)


def test_truncated_files_are_refused(root: Path, kind: str) -> None:
    write_array(root, kind, "val_1", "after", np.ones((40, WIDTH), np.float32))
    path = npy_path(root, "val_1", "after") if kind == "npy" else root / "features.h5"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole") as caught:
        load_arrays(root, kind)
    assert caught.value.where == str(path) and caught.value.fix
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a whole"):
        load_arrays(root, kind)


def test_names_that_leave_the_root_are_refused(root: Path, kind: str) -> None:
    name = "before" if kind == "npy" else "file"
    with pytest.raises(DataError, match="leaves its folder"):
        list_arrays(root, kind, **{name: "../features"})


@pytest.mark.parametrize("kind", ["npy"])
def test_pickled_arrays_are_never_loaded(root: Path, kind: str) -> None:
    np.save(npy_path(root, "val_1", "after"), np.array([[{}, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="without objects") as caught:
        load_arrays(root, kind)
    assert "allow_pickle=False" in str(caught.value.fix)


@pytest.mark.parametrize("kind", ["npy"])
def test_a_file_that_changes_underway_is_refused(root: Path, kind: str) -> None:
    listed = list_arrays(root, kind)
    write_array(root, kind, "val_1", "after", np.ones((3, WIDTH), np.float32))
    with pytest.raises(DataError, match="changed while"):
        ArrayWorker(WIDTH).load(listed.items[5].payload)


@pytest.mark.parametrize("kind", ["hdf5"])
def test_values_in_other_files_are_refused(root: Path, kind: str) -> None:
    with h5py.File(root / "other.h5", "w") as file:
        file["a"] = np.ones((1, WIDTH), np.float32)
    delete_array(root, kind, "val_1", "after")
    with h5py.File(root / "features.h5", "a") as file:
        file["B/val_1"] = h5py.ExternalLink("other.h5", "a")
    with pytest.raises(DataError, match="in another file"):
        load_arrays(root, kind)


@pytest.mark.parametrize("kind", ["hdf5"])
def test_a_missing_file_is_named(root: Path, kind: str) -> None:
    with pytest.raises(DataError, match="not there") as caught:
        list_arrays(root, kind, file="features_{split}.h5")
    assert "features_train.h5" in str(caught.value.where)


def _locked(path: Path) -> AbstractContextManager[IO[bytes]]:
    stream = path.open("rb")
    fcntl.flock(stream, fcntl.LOCK_EX)
    return stream


@pytest.mark.parametrize("kind", ["hdf5"])
def test_a_file_that_another_program_holds_is_told_and_can_be_read_all_the_same(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    with _locked(root / "features.h5"):
        with pytest.raises(UnreadableError, match="another program holds this HDF5 file locked") as caught:
            list_arrays(root, kind)
        assert "HDF5_USE_FILE_LOCKING=FALSE" in (caught.value.fix or "")
        # HDF5 reads the variable once, when it is loaded.
        code = "import h5py, sys; print(len(h5py.File(sys.argv[1], 'r')))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(root / "features.h5")],
            env=os.environ | {"HDF5_USE_FILE_LOCKING": "FALSE"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "2\n", done.stderr
    assert list_arrays(root, kind).items


@pytest.mark.parametrize("kind", ["hdf5"])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_hindrance(
    root: Path, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = h5py.File.__init__

    def without_locks(self: h5py.File, *arguments: object, **options: object) -> None:
        if isinstance(arguments[0], Path) and options.get("locking") is not False:
            raise OSError(number, f"Unable to synchronously open file (unable to lock file, errno = {number})")
        begin(self, *arguments, **options)

    monkeypatch.setattr(h5py.File, "__init__", without_locks)
    assert list_arrays(root, kind).items


def test_the_file_that_is_missing_is_named_with_the_nearest(root: Path, kind: str) -> None:
    if kind == "hdf5":
        delete_array(root, kind, "train_1", "before")
        message = r"no data set: train_1 before \(the file has no A/train_1\)"
    else:
        path = npy_path(root, "train_1", "before")
        path.rename(path.with_name("Train_1.npy"))
        message = r"train_1\.npy is not there; `features/train/A/Train_1\.npy` is there: capitals count\)"
    with pytest.raises(DataError, match=message):
        list_arrays(root, kind)


def test_links_into_a_store_are_read_and_others_if_the_settings_say_so(
    root: Path, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    path = npy_path(root, "train_1", "before") if kind == "npy" else root / "features.h5"
    store = outside / "files" / "md5" / "94" / ("0" * 30)
    store.parent.mkdir(parents=True)
    expected = load_arrays(root, kind)
    path.rename(store)
    path.symlink_to(store)
    assert str(load_arrays(root, kind)) == str(expected)
    store.rename(outside / "own")
    with pytest.raises(DataError, match="a link that leads nowhere"):
        list_arrays(root, kind)
    path.unlink()
    path.symlink_to(outside / "own")
    with pytest.raises(DataError, match="a link leads out of the root") as caught:
        list_arrays(root, kind)
    assert "set semantics.source.links: follow" in (caught.value.fix or "")
    assert str(load_arrays(root, kind, links="follow")) == str(expected)
