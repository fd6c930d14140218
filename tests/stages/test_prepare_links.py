"""Data sets of links: as DVC makes them, in a root that is one, to other storage, to nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import parse_section
from pipeline.datasets.images import read_unchanged
from pipeline.datasets.records import read_prepared
from pipeline.errors import DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from stages.prepare import run
from stages.settings import PrepareSettings
from tests.datasets import fakes
from tests.places import at

ENGINE = EngineSettings(workers=1)
DVC = Path(sys.executable).parent / "dvc"
LIST = "before;after;caption\nA/place_0.png;B/place_0.tif;a house\n"


def prepare(root: Path, out: Path, **changes: Any) -> str:
    """Prepare a data set and return the hash of its records."""
    values = {"dataset": "folder", "root": str(root), "vocabulary": {"min_count": 1}, **changes}
    run(parse_section(values, "prepare", PrepareSettings), at(prepared=out), engine=ENGINE)
    return sha256_file(out / "pairs.jsonl")


def into_store(file: Path, store: Path) -> None:
    """Move a file into a store of contents, as DVC does, and link to it."""
    digest = sha256_file(file)[:32]
    target = store / "files" / "md5" / digest[:2] / digest[2:]
    target.parent.mkdir(parents=True, exist_ok=True)
    file.rename(target)
    file.symlink_to(target)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = fakes.two_folders(tmp_path / "data", pairs=3)
    (root / "pairs.csv").write_text(LIST)
    return root


@pytest.mark.parametrize("captions", [None, "pairs.csv"])
def test_a_data_set_in_a_store_is_prepared_as_its_copy(data: Path, tmp_path: Path, captions: str | None) -> None:
    copied = prepare(data, tmp_path / "copied", captions=captions)
    for file in [path for path in data.rglob("*") if path.is_file()]:
        into_store(file, tmp_path / "store")
    assert prepare(data, tmp_path / "linked", captions=captions) == copied
    prepared = read_prepared(tmp_path / "linked")
    for image in prepared.images():
        # Named by the data set, not by the store: an image's ending, and the files beside it, speak of it.
        assert image.path.parent.parent == data
        read_unchanged(image.path, image.sha256)
    (tmp_path / "root").symlink_to(data)
    assert prepare(tmp_path / "root", tmp_path / "through", captions=captions) == copied


def test_a_file_that_the_store_lacks_is_told_and_the_others_counted(data: Path, tmp_path: Path) -> None:
    for file in sorted((data / "A").iterdir()):
        into_store(file, tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"a link that leads nowhere: .* \(and 2 more") as caught:
        prepare(data, tmp_path / "out")
    assert "dvc pull" in (caught.value.fix or "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["file", "folder", "mask"])
def test_links_to_other_storage_are_followed_if_the_settings_say_so(tmp_path: Path, what: str) -> None:
    root = fakes.levir_mci(tmp_path / "data")
    name = {"file": "images/train/A/train_000001.png", "folder": "images/train/B", "mask": "images/train/label"}[what]
    link = root / name
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    changes: dict[str, Any] = {"dataset": "levir-mci", "captions": None}
    with pytest.raises(DataError, match=f"a link leads out of the root, to {tmp_path}/elsewhere") as caught:
        prepare(root, tmp_path / "out", **changes)
    assert caught.value.where == str(link)
    assert "prepare.links: follow" in (caught.value.fix or "")
    prepare(root, tmp_path / "out", links="follow", **changes)


@pytest.mark.parametrize("links", ["inside", "follow"])
@pytest.mark.parametrize("entry", ["../outside.png", "{outside}", "A/../../outside.png"])
def test_what_a_list_names_stays_in_the_root_whatever_the_links(
    data: Path, tmp_path: Path, links: str, entry: str
) -> None:
    (data / "A" / "place_0.png").rename(tmp_path / "outside.png")
    entry = entry.format(outside=tmp_path / "outside.png")
    (data / "pairs.csv").write_text(f"before,after\n{entry},B/place_0.tif\n")
    with pytest.raises(DataError, match=r"is absolute|leaves its folder with `\.\.`"):
        prepare(data, tmp_path / "out", captions="pairs.csv", links=links)


def test_a_caption_file_that_is_a_link_out(data: Path, tmp_path: Path) -> None:
    (data / "pairs.csv").rename(tmp_path / "pairs.csv")
    (data / "pairs.csv").symlink_to(tmp_path / "pairs.csv")
    with pytest.raises(DataError, match="a link leads out of the root"):
        prepare(data, tmp_path / "out", captions="pairs.csv")
    prepare(data, tmp_path / "out", captions="pairs.csv", links="follow")
    prepare(data, tmp_path / "out", captions=str(tmp_path / "pairs.csv"))


@pytest.mark.parametrize("links", ["inside", "follow"])
def test_a_link_to_itself(data: Path, tmp_path: Path, links: str) -> None:
    image = data / "A" / "place_0.png"
    image.unlink()
    image.symlink_to(image.name)
    for captions in (None, "pairs.csv"):
        with pytest.raises(DataError, match="a link that leads back to itself") as caught:
            prepare(data, tmp_path / "out", captions=captions, links=links)
        assert caught.value.where == str(image)


@pytest.mark.skipif(not DVC.is_file(), reason="needs DVC")
def test_data_that_dvc_tracks_by_links(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = prepare(data, tmp_path / "copied", captions="pairs.csv")
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    for command in (
        "init -q --no-scm",
        f"config cache.dir {tmp_path}/shared/storage",
        "config cache.type symlink",
        "add -q data",
    ):
        subprocess.run([DVC, *command.split()], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (data / "A" / "place_0.png").is_symlink() and (data / "pairs.csv").is_symlink()
    monkeypatch.chdir(tmp_path)
    assert prepare(Path("data"), tmp_path / "linked", captions="pairs.csv") == copied
