from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.records import Pair
from pipeline.datasets.world import LAND_CLASSES, export_world
from pipeline.errors import DataError, OutputError

WHITE = (255, 255, 255)
SECOND = {
    "grassland": (0, 128, 0),
    "tree": (0, 255, 0),
    "bareland": (128, 128, 128),
    "road": (128, 128, 128),
    "pavement": (128, 128, 128),
    "water": (0, 0, 255),
    "building": (128, 0, 0),
    "playground": (255, 0, 0),
}


def _captions(path: Path) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = json.loads(path.read_text())["images"]
    return images


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image)


def _check_schema(images: list[dict[str, Any]], pairs: list[Pair]) -> None:
    assert [image["filename"] for image in images] == [f"{pair.id}.png" for pair in pairs]
    numbers = [number for image in images for number in image["sentids"]]
    assert numbers == list(range(5 * len(pairs)))
    for position, (image, pair) in enumerate(zip(images, pairs, strict=True)):
        assert (image["filepath"], image["split"], image["imgid"]) == (pair.split, pair.split, position)
        assert image["changeflag"] == int(bool(pair.changed))
        for sentence, caption, number in zip(image["sentences"], pair.captions, image["sentids"], strict=True):
            assert sentence == {
                "tokens": caption.split(),
                "raw": f" {caption} .",
                "imgid": position,
                "sentid": number,
            }


def test_levir_cc(world_folder: tuple[Path, list[Pair]], tmp_path: Path) -> None:
    folder, pairs = world_folder
    path = export_world(folder, "levir-cc", tmp_path / "out")
    assert path == tmp_path / "out/LevirCCcaptions.json"
    _check_schema(_captions(path), pairs)
    for pair in pairs:
        for date, source in (("A", pair.before), ("B", pair.after)):
            target = tmp_path / f"out/images/{pair.split}/{date}/{pair.id}.png"
            assert target.read_bytes() == (folder / source).read_bytes()


def test_second_cc(world_folder: tuple[Path, list[Pair]], tmp_path: Path) -> None:
    folder, pairs = world_folder
    path = export_world(folder, "second-cc", tmp_path / "out")
    assert path == tmp_path / "out/SECOND-CC-AUG.json"
    _check_schema(_captions(path), pairs)
    for pair in pairs:
        assert pair.semantic_before and pair.semantic_after and pair.change_mask
        unchanged = _pixels(folder / pair.change_mask) == 0
        for date, source, semantic in (
            ("A", pair.before, pair.semantic_before),
            ("B", pair.after, pair.semantic_after),
        ):
            picture = tmp_path / f"out/{pair.split}/rgb/{date}/{pair.id}.png"
            assert picture.read_bytes() == (folder / source).read_bytes()
            colours = _pixels(tmp_path / f"out/{pair.split}/sem/{date}/{pair.id}.png")
            assert (colours[unchanged] == WHITE).all()
            land = _pixels(folder / semantic)
            for value, name in enumerate(LAND_CLASSES):
                assert (colours[(land == value) & ~unchanged] == SECOND[name]).all()


def test_an_occupied_output_is_refused(world_folder: tuple[Path, list[Pair]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        export_world(world_folder[0], "levir-cc", tmp_path)
    with pytest.raises(OutputError, match="not empty"):
        export_world(world_folder[0], "levir-cc", tmp_path / "file")


def test_a_folder_without_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the world's objects"):
        export_world(tmp_path / "nothing", "levir-cc", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "lost"), [("levir-cc", "images"), ("second-cc", "semantic"), ("second-cc", "change")]
)
def test_a_missing_file_is_named(world_folder: tuple[Path, list[Pair]], tmp_path: Path, layout: str, lost: str) -> None:
    import shutil

    copy = tmp_path / "world"
    shutil.copytree(world_folder[0], copy)
    victim = next(iter(sorted((copy / lost).rglob("*.png"))))
    victim.unlink()
    with pytest.raises(DataError) as caught:
        export_world(copy, layout, tmp_path / "out")
    assert caught.value.where == str(victim)
    assert not list((tmp_path / "out").glob("*.json"))
