from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.audit import Audit
from pipeline.datasets.listing import list_images, shared_layout
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.unread_files import files_not_read, images_not_listed
from pipeline.errors import DataError
from pipeline.files import write_json
from tests.datasets.fakes import save
from tests.datasets.raster.pictures import PIXELS

READ = ("a.png", "b.JPG", "c.tif")
SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini", ".gitignore", "._a.png")
COMPANIONS = ("a.pgw", "a.png.aux.xml", "b.JPG.aux.xml", "b.jgw", "c.tif.ovr", "c.tif.msk", "c.TFW", "a.png.dvc")
NOT_READ = {
    "a.webp": "a .webp file",
    "d.pgw": "a .pgw file",
    "e": "a file;",
    "f.png.bak": "a .bak file",
    "g.txt": "a .txt file",
    ".h.png": "hidden",
    "deeper": "a folder",
    "broken.txt": "a link to a file that is not there",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "A"
    (folder / "deeper").mkdir(parents=True)
    (folder / "broken.txt").symlink_to("nowhere.txt")
    for name in (*READ, *SYSTEM, *COMPANIONS, *NOT_READ):
        if not (folder / name).is_symlink() and not (folder / name).is_dir():
            (folder / name).touch()
    return tmp_path


def test_every_file_is_read_or_named_with_its_reason(root: Path) -> None:
    reasons = {path.name: reason for path, reason in files_not_read(root, "A")}
    assert reasons.keys() == NOT_READ.keys()
    for name, words in NOT_READ.items():
        assert words in reasons[name]


def test_they_are_noted_while_images_are_listed(root: Path) -> None:
    audit = Audit()
    assert set(list_images(root, "A", audit)) == {"a", "b", "c"}
    assert audit.count("file-not-taken") == len(NOT_READ)
    assert f"A/a.webp: {'a .webp file; PNG, JPEG and TIFF are read'}" in audit.items("file-not-taken")


def test_two_formats_of_one_name_are_noted(root: Path) -> None:
    (root / "A" / "a.tif").touch()
    audit = Audit()
    assert list_images(root, "A", audit)["a"] == "A/a.png"
    assert audit.items("duplicate-name") == ("A/a.tif beside A/a.png",)


def test_a_folder_of_other_formats_is_told(tmp_path: Path) -> None:
    for folder in "AB":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.webp").touch()
    with pytest.raises(DataError, match=r"no images in A and B, but 2 that cannot be taken \(A/x\.webp: a \.webp file"):
        shared_layout(tmp_path, "A", "B", Audit())


def test_no_folder(tmp_path: Path) -> None:
    assert list(files_not_read(tmp_path, "none")) == []


def test_images_that_a_list_does_not_name(tmp_path: Path) -> None:
    for name in ("s1/a.png", "s1/b.png", "s1/c.png", "s1/notes.txt", "s2/d.png"):
        save(tmp_path / name, PIXELS) if name.endswith("png") else (tmp_path / name).touch()
    assert list(images_not_listed(tmp_path, {"s1/a.png", "s1/b.png"})) == ["s1/c.png"]
    (tmp_path / "pairs.csv").write_text("before,after\ns1/a.png,s1/b.png\n")
    settings = DatasetSettings(dataset="folder", root=str(tmp_path), captions="pairs.csv")
    audit = Audit()
    assert ADAPTERS.resolve("folder").list_pairs(settings, audit).pairs
    assert audit.items("file-not-taken") == ("s1/c.png: pairs.csv does not name it",)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A name in another encoding cannot stand in a record, and its note can be written."""
    (tmp_path / "A").mkdir()
    for name in (b"\xff.png", b"\xfe.webp"):
        Path(os.fsdecode(os.fsencode(tmp_path / "A") + b"/" + name)).touch()
    audit = Audit()
    assert list_images(tmp_path, "A", audit) == {}
    assert audit.items("file-not-taken") == (
        "A/\\udcfe.webp: its name is not UTF-8",
        "A/\\udcff.png: its name is not UTF-8",
    )
    assert "\\udcff" in write_json(tmp_path / "audit.json", audit.report(())).read_text()
