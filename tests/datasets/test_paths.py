from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.paths import check_root, files_in, inner_path
from pipeline.errors import DataError


def test_inner_paths_pass() -> None:
    assert inner_path("images/train/a..b.png", "list").as_posix() == "images/train/a..b.png"


@pytest.mark.parametrize(
    "text", ["/a", "a/../b", "..", "a\\..\\b", "D:a.png", "\\\\host\\a", "s3://bucket/a.png", "a\tb", "", " ", "."]
)
def test_others_do_not(text: str) -> None:
    with pytest.raises(DataError) as caught:
        inner_path(text, "list, line 3")
    assert caught.value.where == "list, line 3"


def test_files_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "c").mkdir()
    assert [path.name for path in files_in(tmp_path, ".")] == ["a.png", "b.png"]
    assert list(files_in(tmp_path, "nowhere")) == []


def test_links_within_the_root_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").touch()
    (tmp_path / "images").symlink_to("store")
    assert [path.name for path in files_in(tmp_path, "images")] == ["a.png"]


def test_a_folder_that_is_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
    (outside / "a.png").touch()
    (root / "images").symlink_to(outside)
    with pytest.raises(DataError, match="a link leads out") as caught:
        list(files_in(root, "images"))
    assert "prepare.links: follow" in (caught.value.fix or "")
    assert [path.name for path in files_in(root, "images", "follow")] == ["a.png"]


def test_links_to_files_are_yielded_wherever_they_lead(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/nowhere")
    (tmp_path / "b.png").symlink_to("b.png")
    assert [path.name for path in files_in(tmp_path, ".")] == ["a.png", "b.png"]


@pytest.mark.parametrize("text", ["a\\b.png", " a/b.png ", "./a/b.png", "{root}/a/b.png", "{link}/a/b.png"])
def test_what_plainly_means_a_path_within_the_root(tmp_path: Path, text: str) -> None:
    (tmp_path / "store").mkdir()
    root = tmp_path / "root"
    root.symlink_to("store")
    text = text.format(root=root.resolve(), link=root)
    assert inner_path(text, "list", root).as_posix() == "a/b.png"


@pytest.mark.parametrize("text", ["/data/own/A/p0.png", "C:\\own\\A\\p0.png", "../own/A/p0.png"])
def test_a_path_that_leaves_the_root_is_told_with_its_end_within(tmp_path: Path, text: str) -> None:
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "p0.png").touch()
    with pytest.raises(DataError) as caught:
        inner_path(text, "list", tmp_path)
    assert caught.value.fix == f"write A/p0.png: paths are relative to the data set's root, {tmp_path}"


def test_root_must_be_a_folder_with_something_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        check_root(tmp_path / "nowhere")
    with pytest.raises(DataError, match="empty"):
        check_root(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a folder"):
        check_root(tmp_path / "file")
    check_root(tmp_path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("own", "set prepare.root to {folder}/Own: capitals and spaces count"),
        ("Own ", "set prepare.root to {folder}/Own: capitals and spaces count"),
        ("own/deep", "set prepare.root to {folder}/Own/deep: capitals and spaces count"),
        ("other/deep", "set prepare.root to the folder of the data set; of this path {folder} is there"),
        ("tracked", "fetch it with `dvc pull {folder}/tracked.dvc`"),
        ("s3://bucket", "download the data set, and set prepare.root to its folder on this machine"),
    ],
)
def test_a_root_that_is_not_there_is_told_with_what_is_near(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / "Own").mkdir()
    (tmp_path / "tracked.dvc").touch()
    with pytest.raises(DataError, match="it is not there") as caught:
        check_root(Path(name) if "://" in name else tmp_path / name)
    assert caught.value.fix == advice.format(folder=tmp_path)


def test_a_root_that_is_an_archive_or_a_lost_link(tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match="it is a zip archive"):
        check_root(tmp_path / "own.zip")
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(DataError, match="root is a link that leads nowhere"):
        check_root(tmp_path / "lost")
