from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.links import LinkRule, check_link, lost_link
from pipeline.errors import DataError

HASH = "94" + "57deb8f55ef86d069959600e85594a"
STORES = {
    f"cache/files/md5/{HASH[:2]}/{HASH[2:]}": "dvc pull",
    f"old-cache/{HASH[:2]}/{HASH[2:]}": "dvc pull",
    f".git/annex/objects/Xx/1Y/MD5E-s153--{HASH}.png/MD5E-s153--{HASH}.png": "git annex get",
    f"hub/blobs/{'a' * 40}": "download the data set again",
    f"hub/blobs/{'b' * 64}": "download the data set again",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "images").mkdir(parents=True)
    return tmp_path / "root"


def link(root: Path, target: str | Path) -> Path:
    path = root / "images" / "a.png"
    path.symlink_to(target)
    return path


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("store", STORES)
def test_links_into_stores_of_contents_may_lead_out(tmp_path: Path, root: Path, store: str) -> None:
    check_link(link(root, put(tmp_path / store)), root, "inside")


@pytest.mark.parametrize("store", STORES)
def test_what_a_store_lacks_is_told_with_how_to_fetch_it(tmp_path: Path, root: Path, store: str) -> None:
    with pytest.raises(DataError, match="a link that leads nowhere") as caught:
        check_link(link(root, tmp_path / store), root, "follow")
    assert STORES[store] in (caught.value.fix or "")


@pytest.mark.parametrize(
    "target",
    [
        "outside.png",
        f"{HASH[:2]}/{HASH[2:]}.png",
        f"{HASH[:2]}/{HASH[2:]}/secret",
        "blobs/aaaa",
        "annex/objects/a/b/c/d",
    ],
)
def test_links_out_of_the_root_are_refused_unless_followed(tmp_path: Path, root: Path, target: str) -> None:
    path = link(root, put(tmp_path / target))
    with pytest.raises(DataError, match=f"a link leads out of the root, to {tmp_path / target}") as caught:
        check_link(path, root, "inside", "semantics.source.links")
    assert "set semantics.source.links: follow" in (caught.value.fix or "")
    check_link(path, root, "follow")


def test_links_within_the_root_and_a_root_that_is_a_link(tmp_path: Path, root: Path) -> None:
    put(root / "store" / "b.png")
    path = link(root, "../store/b.png")
    check_link(path, root, "inside")
    (tmp_path / "link").symlink_to(root)
    check_link(tmp_path / "link" / "images" / "a.png", tmp_path / "link", "inside")


def test_a_folder_that_is_a_link_out(tmp_path: Path, root: Path) -> None:
    put(tmp_path / "outside" / "b.png")
    (root / "more").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="a link leads out"):
        check_link(root / "more" / "b.png", root, "inside")


@pytest.mark.parametrize("rule", ["inside", "follow"])
def test_a_link_to_itself_has_its_own_words(root: Path, rule: LinkRule) -> None:
    with pytest.raises(DataError, match="a link that leads back to itself"):
        check_link(link(root, "a.png"), root, rule)


def test_what_is_no_link_is_not_lost(root: Path) -> None:
    assert lost_link(root) is None
    assert lost_link(root / "nowhere.png") is None
    assert lost_link(put(root / "a.png")) is None
    lost = lost_link(link(root, "gone.png"))
    assert lost is not None and lost.fix == "mount the storage that it leads to, or put the file itself there"
