from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from pipeline.datasets.nearest import FolderNames

CAFE = unicodedata.normalize("NFD", "café")


@pytest.fixture
def names(tmp_path: Path) -> FolderNames:
    for name in (
        "before/a.png",
        "after/a.png",
        f"before/{CAFE}.png",
        "before/one two.png",
        "lists/x.png",
        "b/house.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return FolderNames(tmp_path)


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("Before/A.PNG", "`before/a.png` is there: capitals count"),
        ("before/one%20two.png", "`before/one two.png` is there: % codes are not decoded"),
        ("'before/a.png'", "`before/a.png` is there: without quotes and spaces"),
        ("before/a.jpg", "`before/a.png` is there: the ending differs"),
        ("before/a", "`before/a.png` is there: the ending differs"),
        ("own/before/a.png", "`before/a.png` is there: paths are relative to prepare.root"),
        ("x.png", "`lists/x.png` is there: paths are relative to prepare.root, not to the list"),
        ("a.png", "`after/a.png` is there: paths are relative to prepare.root and name the folder"),
        ("b/hause.png", "the nearest name is `b/house.png`"),
        ("b/house2.png", None),
        ("nowhere/at/all.png", None),
    ],
)
def test_guesses(names: FolderNames, name: str, guess: str | None) -> None:
    assert names.guess(name, "lists") == guess


def test_the_same_text_in_another_unicode_form(names: FolderNames) -> None:
    assert names.same_text("before/café.png") == f"before/{CAFE}.png"
    assert names.same_text("Before/café.png") is None
    assert names.folder_like("BEFORE") == "before"
