"""Writing on a bad or full disk, beside another writer, and after one that was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import OutputError, UnreadableError
from pipeline.files import atomic_folder, atomic_path, keep_copy, remove_leftovers, write_text
from tests.faults import FAILED_WRITES, error_names, failing

OURS = ("a.txt", "sub")


def fill(path: Path, text: str = "new") -> None:
    with atomic_folder(path, replaces=OURS) as folder:
        (folder / "a.txt").write_text(text)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.parametrize("number", FAILED_WRITES, ids=error_names(FAILED_WRITES))
@pytest.mark.parametrize("after", [0, 1])
def test_a_write_that_fails_leaves_the_earlier_file_alone(tmp_path: Path, number: int, after: int) -> None:
    target = tmp_path / "result.json"
    write_text(target, "old")
    with (
        failing(number, lambda path: path.name.endswith(".partial"), after=after, writes=True),
        pytest.raises(OutputError) as caught,
    ):
        write_text(target, "new")
    assert caught.value.where == str(target)
    assert caught.value.fix
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.parametrize("number", FAILED_WRITES, ids=error_names(FAILED_WRITES))
def test_a_folder_that_cannot_be_written_leaves_the_earlier_one_alone(tmp_path: Path, number: int) -> None:
    fill(tmp_path / "out", "old")
    with (
        failing(number, lambda path: path.name == "a.txt", after=0, writes=True),
        pytest.raises(OutputError) as caught,
    ):
        fill(tmp_path / "out", "new")
    assert caught.value.where == str(tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_read_that_fails_within_the_block_names_the_file_that_was_read(tmp_path: Path, number: int) -> None:
    (tmp_path / "source").write_text("text")
    with (
        failing(number, tmp_path / "source"),
        pytest.raises(UnreadableError) as caught,
        atomic_path(tmp_path / "target") as temporary,
    ):
        shutil.copyfile(tmp_path / "source", temporary)
    assert caught.value.where == str(tmp_path / "source")
    assert names(tmp_path) == ["source"]


def test_leftovers_of_dead_writers_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    target = tmp_path / "cache.h5"
    dead, other = tmp_path / ".cache.h5.0a.partial", tmp_path / ".other.h5.0a.partial"
    dead.touch()
    other.touch()
    with atomic_path(target) as temporary:
        temporary.write_text("first")
        remove_leftovers(target)
        assert not dead.exists()
        assert other.exists()
        assert temporary.exists()
    assert target.read_text() == "first"


def test_a_writer_in_another_process_keeps_its_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('slow'); print('begun', flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as slow:
        assert slow.stdout is not None
        assert slow.stdout.readline() == "begun\n"
        remove_leftovers(tmp_path / "out")
        write_text(tmp_path / "out", "quick")
        slow.communicate("go on\n")
    assert slow.returncode == 0
    assert (tmp_path / "out").read_text() == "slow"
    assert names(tmp_path) == ["out"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".out.0a.partial").touch()
    write_text(tmp_path / "out", "new")
    fill(tmp_path / "folder")
    remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == [".out.0a.partial", "folder", "out"]  # whether its writer lives cannot be told


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_names_in_a_folder_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").readlink()))
    write_text(tmp_path / "file", "text")
    assert flushed[-1] == tmp_path
    assert flushed[0].suffix == ".partial"
    flushed.clear()
    with atomic_folder(tmp_path / "folder", replaces=OURS) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "plain").write_text("text")
    assert flushed[-1] == tmp_path
    assert {path.name for path in flushed} >= {"plain", "sub"}


def test_a_folder_that_cannot_be_flushed_is_told(tmp_path: Path) -> None:
    with failing(errno.EIO, tmp_path, writes=True), pytest.raises(OutputError, match="input/output error"):
        write_text(tmp_path / "file", "text")


def test_an_older_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "probe").mkdir()
    if not files._exchange(tmp_path / "probe", tmp_path / "out"):
        pytest.skip("this file system exchanges no names")
    files._exchange(tmp_path / "probe", tmp_path / "out")
    (tmp_path / "probe").rmdir()
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("there was a moment without the folder"))
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_where_names_cannot_be_exchanged_the_older_folder_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    fill(tmp_path / "out", "old")
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_folder_that_a_killed_writer_put_aside_is_brought_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.0123abcd.old")  # killed between the two renames
    (tmp_path / ".out.0123abcd.partial").mkdir()
    with pytest.raises(ValueError, match="fails too"), atomic_folder(tmp_path / "out", replaces=OURS):
        raise ValueError("fails too")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_what_a_killed_writer_could_not_remove_is_removed(tmp_path: Path) -> None:
    fill(tmp_path / "out", "new")
    for name in (".out.0123abcd.old", ".out.0123abcd.partial", ".out.mine.old", ".other.0123abcd.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").touch()
    fill(tmp_path / "out", "newer")
    assert names(tmp_path) == [".other.0123abcd.partial", ".out.mine.old", "out"]


def test_a_folder_keeps_its_permissions(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    (tmp_path / "out").chmod(0o2770)
    fill(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o2770


def test_a_loop_of_links_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(OutputError, match="leads back to itself"):
        fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()


def test_a_pipe_is_no_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    with pytest.raises(OutputError, match="pipe"):
        fill(tmp_path / "out")


def test_earlier_copies_of_settings_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for text in ("one", "two", "two", "one"):
        path.write_text(text)
        assert keep_copy(path).read_text() == text
    assert names(tmp_path) == ["params.yaml", "params.yaml.bak", "params.yaml.bak2"]
