from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CacheError, DataError, OutputError, SageccError
from pipeline.files import (
    atomic_folder,
    atomic_path,
    canonical_json,
    content_key,
    read_json,
    sha256_file,
    write_json,
    write_text,
)


def test_error_says_what_where_and_fix() -> None:
    error = DataError("no such image", where=Path("a/b.png"), fix="put it there")
    assert str(error).splitlines() == ["no such image", "  where: a/b.png", "  fix:   put it there"]


def test_error_survives_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(CacheError("stale", where="x.h5", fix="again")))
    assert type(error) is CacheError
    assert (error.what, error.where, error.fix) == ("stale", "x.h5", "again")


def test_atomic_path_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_text(target, "old")
    with pytest.raises(ValueError, match="stop"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission"), (errno.EIO, "cannot write")],
)
def test_refusal_of_the_operating_system_is_explained(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(OutputError, match=said) as caught, atomic_path(tmp_path / "x"):
        raise OSError(number, "refused")
    assert caught.value.where == str(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError):
        write_text(tmp_path / "file" / "x", "text")


def test_project_errors_pass_through_atomic_path(tmp_path: Path) -> None:
    with pytest.raises(SageccError, match="mine"), atomic_path(tmp_path / "x"):
        raise DataError("mine")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_content_key_depends_on_content_alone(value: object) -> None:
    def reordered(x: object) -> object:
        if isinstance(x, dict):
            return {key: reordered(x[key]) for key in reversed(list(x))}
        return [reordered(inner) for inner in x] if isinstance(x, list) else x

    assert content_key(value) == content_key(reordered(value))
    assert len(content_key(value)) == 64


def test_canonical_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_json_round_trip(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", {"b": 1, "a": ["é"]})
    assert read_json(path) == {"b": 1, "a": ["é"]}
    assert path.read_text(encoding="utf-8").index('"b"') < path.read_text(encoding="utf-8").index('"a"')
    assert sha256_file(path) == sha256_file(write_json(tmp_path / "y.json", {"b": 1, "a": ["é"]}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1', "line 1, column 8"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "not valid"),
    ],
)
def test_broken_json_is_a_data_error(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_json(path)


def test_missing_json_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "none.json", fix="run it again")
    assert caught.value.fix == "run it again"


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
    monkeypatch.setattr("pipeline.files._exchange", lambda *_: False)

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

    monkeypatch.setattr("pipeline.files._new_folder", refuse)
    with pytest.raises(OutputError, match=message):
        fill(tmp_path / "out")
    assert names(tmp_path) == []
