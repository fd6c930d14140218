from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.paths import check_root, files_in, inner_path, refuse_outside
from pipeline.errors import DataError


def test_inner_paths_pass() -> None:
    assert inner_path("images/train/a..b.png", "list").as_posix() == "images/train/a..b.png"


@pytest.mark.parametrize("text", ["/a", "a/../b", "..", "D:a.png", "a\\b", "a\tb", "", "."])
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


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_out_of_the_root_are_refused(tmp_path: Path, what: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "a.png").touch()
    root.mkdir()
    if what == "folder":
        (root / "images").symlink_to(outside)
    else:
        (root / "images").mkdir()
        (root / "images" / "a.png").symlink_to(outside / "a.png")
    with pytest.raises(DataError, match="a link leads out"):
        list(files_in(root, "images"))


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").touch()
    (tmp_path / "root").symlink_to("store")
    refuse_outside(tmp_path / "root" / "a.png", tmp_path / "root")


def test_root_must_be_a_folder_with_something_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        check_root(tmp_path / "nowhere")
    with pytest.raises(DataError, match="empty"):
        check_root(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a folder"):
        check_root(tmp_path / "file")
    check_root(tmp_path)
