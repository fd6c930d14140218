"""What the name of an output stands for: streams are written through, links into stores replaced, the rest refused."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.cache.writer import require_file
from pipeline.errors import OutputError
from pipeline.files import atomic_path, write_text
from pipeline.targets import STDOUT, is_stdout, resolve_target

ROOT = Path(__file__).parents[1]
STORED = "files/md5/ab/cdef00112233445566778899aabbcc"


def _device(path: Path, minor: int) -> Path:
    """Make a device like /dev/null (3) or /dev/full (7) in the test's own folder."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    except PermissionError:
        pytest.skip("only root makes devices")
    try:
        path.open("wb").close()
    except OSError:
        pytest.skip("devices are not allowed on this file system")
    return path


def test_a_device_and_a_link_to_it_are_written_through(tmp_path: Path) -> None:
    device, link = _device(tmp_path / "null", 3), tmp_path / "link"
    link.symlink_to("null")
    before = device.stat()
    for path in (device, link):
        write_text(path, "text")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert device.stat().st_ino == before.st_ino
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"null", "link"}


def test_a_device_that_is_full(tmp_path: Path) -> None:
    device = _device(tmp_path / "full", 7)
    with pytest.raises(OutputError, match="the disk is full"):
        write_text(device, "text")
    assert stat.S_ISCHR(device.stat().st_mode)


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_through(tmp_path: Path, linked: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    name = pipe
    if linked:
        name = tmp_path / "link"
        name.symlink_to(pipe)
    text: list[str] = []
    reader = threading.Thread(target=lambda: text.append(pipe.read_text()))
    reader.start()
    write_text(name, "x" * 200_000)
    reader.join(timeout=10)
    assert text == ["x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_nothing_reaches_a_pipe_when_the_work_fails(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="half"), atomic_path(tmp_path / "pipe") as temporary:
        temporary.write_text("half")
        raise ValueError("half")
    assert not temporary.exists()


def test_a_pipe_whose_reader_leaves(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["head", "-c1", pipe], stdout=subprocess.DEVNULL) as reader:
        with pytest.raises(OutputError, match="ended before its end"):
            write_text(pipe, "x" * 1_000_000)
        reader.wait(timeout=10)


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}"])
def test_a_descriptor_is_written_where_it_stands(tmp_path: Path, name: str) -> None:
    if not Path(name.format(0)).parent.is_dir():
        pytest.skip("no such folder here")
    with (tmp_path / "log").open("w") as log:
        log.write("first\n")
        log.flush()
        write_text(Path(name.format(log.fileno())), "second\n")
        log.write("third\n")
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\n"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_descriptor_that_is_closed() -> None:
    with pytest.raises(OutputError, match="not open"):
        write_text(Path("/dev/fd/987"), "text")


def test_what_is_no_file_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to("folder")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("none/deep/file")
    with socket.socket(socket.AF_UNIX) as opened:
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        opened.bind("socket")
    listed = {path.name for path in tmp_path.iterdir()}
    for name, said in {
        "folder": "a folder, not a file",
        "to-folder": "a folder, not a file",
        "socket": "a socket, not a file",
        "loop": "a link that leads back to itself",
        "nowhere": "a folder that is not there",
        "folder/../loop/x": "a link that leads back to itself",
    }.items():
        with pytest.raises(OutputError, match=said) as caught, atomic_path(tmp_path / name):
            pytest.fail("the work was done")
        assert caught.value.fix
    assert {path.name for path in tmp_path.iterdir()} == listed


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("goal", [STORED, "ab/cdef00112233445566778899aabbcc", ".dvc/cache/x", "blobs/" + "0f" * 20])
def test_a_link_into_a_store_is_replaced(tmp_path: Path, goal: str, exists: bool) -> None:
    stored = tmp_path / goal
    stored.parent.mkdir(parents=True)
    if exists:
        stored.write_text("stored")
    link = tmp_path / "out.json"
    link.symlink_to(stored)
    write_text(link, "new")
    assert not link.is_symlink()
    assert link.read_text() == "new"
    assert stored.read_text() == "stored" if exists else not stored.exists()


def test_a_link_to_a_protected_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "kept").chmod(0o444)
    (tmp_path / "out").symlink_to("kept")
    write_text(tmp_path / "out", "new")
    assert ((tmp_path / "kept").read_text(), (tmp_path / "out").is_symlink()) == ("kept", False)


@pytest.mark.parametrize("exists", [True, False])
def test_another_link_stays_a_link(tmp_path: Path, exists: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if exists:
        (disk / "file").write_text("old")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("disk/file")
    write_text(tmp_path / "one", "new")
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "two").is_symlink()
    assert (disk / "file").read_text() == "new"
    assert [path.name for path in disk.iterdir()] == ["file"]


def test_a_hard_link_leaves_the_other_name_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("old")
    (tmp_path / "cache").chmod(0o444)  # as DVC's cache has it
    os.link(tmp_path / "cache", tmp_path / "out")
    write_text(tmp_path / "out", "new")
    assert ((tmp_path / "cache").read_text(), (tmp_path / "out").read_text()) == ("old", "new")
    assert (tmp_path / "out").stat().st_mode & 0o200


def test_a_protected_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    (tmp_path / "out").chmod(0o444)
    with pytest.raises(OutputError, match=r"write-protected \(mode 0444\)"):
        write_text(tmp_path / "out", "new")
    assert (tmp_path / "out").read_text() == "kept"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "deep" / "out", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deep" / "out").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    (tmp_path / "out").write_text("old")
    (tmp_path / "out").chmod(mode)
    write_text(tmp_path / "out", "new")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_a_replaced_file_to_its_owner(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    os.chown(tmp_path / "out", 65534, 65534)
    write_text(tmp_path / "out", "new")
    info = (tmp_path / "out").stat()
    assert (info.st_uid, info.st_gid) == (65534, 65534)


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 127), "new")
    assert (tmp_path / ("é" * 127)).read_text() == "new"
    with pytest.raises(OutputError, match="the name is too long"):
        write_text(tmp_path / ("é" * 128), "new")


def test_a_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"), atomic_path(tmp_path / "a" / "b" / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_what_is_read_again_must_be_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", STDOUT):
        with pytest.raises(OutputError, match="read again"):
            require_file(path)
    require_file(tmp_path / "new.h5")


def test_standard_output_is_known_by_its_names(tmp_path: Path) -> None:
    assert is_stdout(STDOUT)
    assert is_stdout(Path("/dev/fd/1"))
    assert not is_stdout(Path("/dev/fd/2987"))
    assert not is_stdout(tmp_path / "out")
    assert not is_stdout(None)
    assert resolve_target(STDOUT).descriptor == 1


_WRITE = "from pipeline.targets import STDOUT; from pipeline.files import write_text; write_text(STDOUT, 'x')"


def test_standard_output_that_was_closed() -> None:
    done = subprocess.run(
        f'exec "{sys.executable}" -c "{_WRITE}" >&-', shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "not open" in done.stderr
    assert "OutputError" in done.stderr
