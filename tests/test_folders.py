from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.folders import atomic_folder

OURS = ("a.txt", "sub")


def fill(path: Path, text: str = "new") -> None:
    with atomic_folder(path, replaces=OURS) as folder:
        (folder / "a.txt").write_text(text)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_new_folder(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "out")
    assert (tmp_path / "x" / "out" / "a.txt").read_text() == "new"
    assert names(tmp_path / "x") == ["out"]
    assert (tmp_path / "x" / "out").stat().st_mode & 0o777 == 0o755


def test_older_result_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "old").touch()
    fill(out)
    assert names(out) == ["a.txt"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_older_result(tmp_path: Path, error: type[BaseException]) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(error), atomic_folder(tmp_path / "out", replaces=OURS) as folder:
        (folder / "a.txt").write_text("half")
        raise error
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_rename_that_fails_brings_the_older_result_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="no permission"):
        fill(tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"other files \(thesis\.tex\)"):
        fill(tmp_path)
    assert names(tmp_path) == ["thesis.tex"]


def test_output_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="a file, not a folder"):
        fill(tmp_path / "out")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "disk") == ["a.txt"]


def test_parent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        fill(tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="no permission"):
            fill(tmp_path / "out")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("number", "message"), [(13, "no permission"), (28, "the disk is full"), (30, "no permission")]
)
def test_refusals_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(OutputError, match=message):
        fill(tmp_path / "out")
    assert names(tmp_path) == []
