from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import files
from pipeline.cache import columns, writer
from pipeline.cache.columns import DeferredErrorFile
from pipeline.cache.reader import Cache
from pipeline.cache.schema import Field, Schema
from pipeline.cache.writer import pack
from pipeline.errors import DataError, OutputError
from tests.cache.contents import IDS, SCHEMA, Units, arrays, provenance, write

ROOT = Path(__file__).parents[2]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_content_has_the_same_bytes_in_other_processes_at_other_times(tmp_path: Path) -> None:
    first = sha256(write(tmp_path / "first.h5"))
    time.sleep(1.1)
    code = "import sys; from pathlib import Path; from tests.cache.contents import write; write(Path(sys.argv[1]))"
    other = tmp_path / "elsewhere" / "second.h5"
    subprocess.run([sys.executable, "-c", code, str(other)], cwd=ROOT, check=True)
    assert sha256(other) == first
    assert sha256(write(tmp_path / "third.h5", seed=1)) != first


@pytest.mark.parametrize("block", [1, 100, 1 << 30])
def test_bytes_do_not_depend_on_the_size_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    expected = sha256(write(tmp_path / "expected.h5"))
    monkeypatch.setattr(columns, "_BLOCK", block)
    assert sha256(write(tmp_path / "found.h5")) == expected


def test_nothing_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    content = write(tmp_path / "here.h5").read_bytes()
    assert str(tmp_path).encode() not in content
    assert os.uname().nodename.encode() not in content


def test_missing_units_leave_zeros_or_nothing(tmp_path: Path) -> None:
    with Cache.open(write(tmp_path / "c.h5", missing=[0, 3]), SCHEMA) as cache:
        assert cache.missing.tolist() == [0, 3]
        assert not cache.row("features", 0).any()
        assert cache.row("vectors", 3).shape == (0, 4)
        np.testing.assert_array_equal(cache.row("vectors", 5), arrays()[5]["vectors"])


def test_nothing_but_missing_units_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every item was skipped"):
        write(tmp_path / "c.h5", missing=range(6))
    assert not list(tmp_path.iterdir())


def test_a_cache_of_no_items(tmp_path: Path) -> None:
    path = pack(tmp_path / "c.h5", SCHEMA, provenance(), [], Units(SCHEMA, []))
    with Cache.open(path, SCHEMA) as cache:
        assert len(cache) == 0
        assert cache.rows("vectors", [])[0].shape == (0, 4)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("field", ["vectors", "scores"])
def test_values_must_be_finite(tmp_path: Path, field: str, value: float) -> None:
    contents = arrays()
    contents[2][field][0] = value
    with pytest.raises(DataError, match=f"{field} holds a value that is not finite") as caught:
        pack(tmp_path / "c.h5", SCHEMA, provenance(), IDS, Units(SCHEMA, contents))
    assert "é-2" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_largest_finite_values_are_kept(tmp_path: Path) -> None:
    contents = arrays()
    contents[2]["vectors"][0] = [65504, -65504, 6e-8, -0.0]
    path = pack(tmp_path / "c.h5", SCHEMA, provenance(), IDS, Units(SCHEMA, contents))
    with Cache.open(path, SCHEMA) as cache:
        assert cache.row("vectors", 2).tobytes() == contents[2]["vectors"].tobytes()


@pytest.mark.parametrize("ids", [("a", "b", "a"), ("a", "", "b"), ("a", "b\0", "c")])
def test_ids_must_tell_items_apart(tmp_path: Path, ids: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="the id"):
        pack(tmp_path / "c.h5", SCHEMA, provenance(), ids, Units(SCHEMA, arrays()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scores", np.zeros(2, np.float64)),
        ("scores", np.zeros((2, 1), np.float32)),
        ("vectors", np.zeros((2, 5), np.float16)),
        ("features", np.zeros((3, 3), np.float16)),
    ],
)
def test_arrays_must_keep_to_the_schema(tmp_path: Path, name: str, value: np.ndarray) -> None:
    contents = arrays()
    contents[0][name] = value
    with pytest.raises(ValueError, match=name):
        pack(tmp_path / "c.h5", SCHEMA, provenance(), IDS, Units(SCHEMA, contents))
    assert not list(tmp_path.iterdir())


def test_later_units_must_have_the_shape_of_the_first(tmp_path: Path) -> None:
    contents = arrays()
    contents[4]["features"] = np.zeros((4, 2), np.float16)
    with pytest.raises(ValueError, match="features"):
        pack(tmp_path / "c.h5", SCHEMA, provenance(), IDS, Units(SCHEMA, contents))


def test_shapes_may_be_left_open(tmp_path: Path) -> None:
    schema = Schema("things", 3, "pair", (Field("features", "float16", None),))
    units = Units(schema, [{"features": np.ones((2, 5), np.float16)}])
    with Cache.open(pack(tmp_path / "c.h5", schema, provenance(), ["a"], units), schema) as cache:
        assert cache.schema.field("features").shape == (2, 5)


def test_units_and_provenance_must_fit_the_schema(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 units for 3 items"):
        pack(tmp_path / "c.h5", SCHEMA, provenance(), IDS, Units(SCHEMA, arrays()[:5]))
    with pytest.raises(ValueError, match="provenance of other"):
        write(tmp_path / "c.h5", stage="other")


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left, foreign = tmp_path / ".c.h5.abc.partial", tmp_path / ".d.h5.abc.partial"
    left.touch()
    foreign.touch()
    write(tmp_path / "c.h5")
    assert not left.exists()
    assert foreign.exists()


class _Slow(Units):
    """Before it gives its last unit, another run packs the same output from other values."""

    def __init__(self, path: Path) -> None:
        super().__init__(SCHEMA, arrays())
        self.path = path

    def read(self, unit: int) -> Mapping[str, Any]:
        if unit == len(self) - 1:
            write(self.path, seed=1)
        return super().read(unit)


def test_two_runs_with_one_output_both_end_and_the_later_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    pack(path, SCHEMA, provenance(), IDS, _Slow(path))
    assert sha256(path) == sha256(write(tmp_path / "expected.h5"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.h5", "expected.h5"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_outputs_that_are_no_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.h5"
    {"pipe": os.mkfifo, "folder": Path.mkdir, "loop": lambda path: path.symlink_to("c.h5")}[kind](path)
    with pytest.raises(OutputError):
        write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["c.h5"]


class TestFullDisk:
    """The disk fills up: the error says so, nothing is left, and the process lives on and ends well."""

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            (errno.ENOSPC, "the disk is full"),
            (errno.EDQUOT, "your quota is used up"),
            (errno.EIO, "input/output error"),
        ],
        ids=["ENOSPC", "EDQUOT", "EIO"],
    )
    def test_at_every_block(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str) -> None:
        write_all = DeferredErrorFile._write_all
        left = [0]

        def limited(self: DeferredErrorFile, view: memoryview) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(number, os.strerror(number))
            return write_all(self, view)

        monkeypatch.setattr(DeferredErrorFile, "_write_all", limited)
        writes = 0
        while True:
            left[0] = writes
            try:
                write(tmp_path / "c.h5")
            except OutputError as error:
                assert said in error.what
                assert not list(tmp_path.iterdir())
                writes += 1 if number == errno.ENOSPC else 4
            else:
                break
        assert writes > 5

    @pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a tiny file system")
    def test_on_a_tiny_file_system(self, tmp_path: Path) -> None:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)], check=False).returncode:
            pytest.skip("mounting is not allowed here")
        # 700,000 random codes of two bits do not fit, and being compressed they are not counted beforehand.
        code = (
            "import sys; from pathlib import Path\n"
            "from tests.cache.contents import write\n"
            "from pipeline.errors import OutputError\n"
            "try: write(Path(sys.argv[1]))\n"
            "except OutputError as error: print(error.what)\n"
        )
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "c.h5")],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout.strip()) == (0, "the disk is full"), done.stderr
            assert not list(tmp_path.iterdir())
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)

    def test_with_a_limit_on_file_sizes(self, tmp_path: Path) -> None:
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from tests.cache.contents import write\n"
            "from pipeline.errors import OutputError\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: write(Path(sys.argv[1]))\n"
            "except OutputError as error: print(error.what)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "c.h5")], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout.strip()) == (
            0,
            "cannot write: File too large for the file system or for `ulimit -f`",
        ), done.stderr
        assert not list(tmp_path.iterdir())

    def test_what_cannot_fit_is_refused_before_anything_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = writer.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage._replace(free=100))
        monkeypatch.setattr(writer, "_write", lambda *_: pytest.fail("it was written"))
        with pytest.raises(OutputError, match="the disk is full"):
            write(tmp_path / "c.h5")
        assert not list(tmp_path.iterdir())


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "_new_file", refuse)
    with pytest.raises(OutputError, match="no permission"):
        write(tmp_path / "c.h5")


def test_no_permission_to_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="no permission"):
        write(tmp_path / "c.h5")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "file" / "c.h5")


def test_an_older_cache_stays_when_packing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.h5")
    before = sha256(path)
    contents = arrays(1)
    contents[5]["scores"][:] = np.nan
    with pytest.raises(DataError):
        pack(path, SCHEMA, provenance(), IDS, Units(SCHEMA, contents))
    assert sha256(path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.h5"]


def test_a_disk_that_loses_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = writer._write

    def lossy(temporary: Path, *rest: object) -> None:
        written(temporary, *rest)
        data = bytearray(temporary.read_bytes())
        place = data.index(arrays()[0]["vectors"].tobytes())
        data[place] ^= 1
        temporary.write_bytes(data)

    monkeypatch.setattr(writer, "_write", lossy)
    with pytest.raises(OutputError, match="vectors is not what was written"):
        write(tmp_path / "c.h5")
    assert not list(tmp_path.iterdir())


def test_a_key_press_inside_a_write_is_kept_until_hdf5_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(self: DeferredErrorFile, view: memoryview) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(DeferredErrorFile, "_write_all", pressed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "c.h5")
    assert not list(tmp_path.iterdir())
