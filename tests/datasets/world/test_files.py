from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.records import Pair
from pipeline.datasets.world import files
from pipeline.datasets.world.files import export_world, generate_world
from pipeline.datasets.world.pair import make_pair, read_objects, read_picture
from pipeline.datasets.world.settings import LAND_CLASSES, WorldSettings
from pipeline.errors import DataError, OutputError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from tests.datasets.world.conftest import SMALL

ONE, TWO = EngineSettings(workers=1), EngineSettings(workers=2)


def _bytes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_same_seed_same_bytes_on_any_number_of_workers(tmp_path: Path) -> None:
    # Enough pairs for two workers to share.
    settings = WorldSettings(train=10, val=4, test=4, seed=3)
    first = generate_world(settings, tmp_path / "one", engine=ONE)
    second = generate_world(settings, tmp_path / "two", engine=TWO)
    assert first == second
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_another_seed_gives_other_bytes(world_folder: tuple[Path, list[Pair]], tmp_path: Path) -> None:
    generate_world(SMALL.model_copy(update={"seed": 4}), tmp_path / "world", engine=ONE)
    ours, theirs = _bytes(world_folder[0]), _bytes(tmp_path / "world")
    assert set(ours) == set(theirs)
    assert all(ours[name] != theirs[name] for name in ours if name.startswith("images/"))


def test_records_are_complete(world_folder: tuple[Path, list[Pair]]) -> None:
    folder, pairs = world_folder
    assert [pair.id for pair in pairs[:2]] == ["train_000000", "train_000001"]
    assert [pair.split for pair in pairs] == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    for pair in pairs:
        paths = {field: getattr(pair, field) for field in pair.sha256}
        assert set(paths) == {"before", "after", "semantic_before", "semantic_after", "change_mask"}
        assert {field: sha256_file(folder / path) for field, path in paths.items()} == pair.sha256
        assert len(pair.captions) == 5


def test_files_hold_the_pair(world_folder: tuple[Path, list[Pair]]) -> None:
    folder, _ = world_folder
    for index in range(SMALL.train):
        pair = make_pair(SMALL, "train", index)
        for letter, date in (("A", 0), ("B", 1)):
            for kind, array in (("images", pair.images), ("semantic", pair.semantic), ("instances", pair.instances)):
                assert np.array_equal(read_picture(folder, kind, "train", letter, f"{pair.id}.png"), array[date])
        change = read_picture(folder, "change", "train", f"{pair.id}.png")
        assert np.array_equal(change, np.where(pair.change, 255, 0))


def test_objects_can_be_read_back(world_folder: tuple[Path, list[Pair]]) -> None:
    folder, pairs = world_folder
    objects = read_objects(folder, "val")
    assert list(objects) == [pair.id for pair in pairs if pair.split == "val"]
    for index, record in enumerate(objects.values()):
        pair = make_pair(SMALL, "val", index)
        assert record["captions"] == [caption.text for caption in pair.captions]
        assert record["correspondences"] == list(pair.correspondences)
        assert [item["id"] for item in record["after"]] == [item.id for item in pair.objects[1]]
        assert [event["kind"] for event in record["events"]] == [event.kind for event in pair.events]
        assert [len(triples) for triples in record["triples"]] == [len(c.triples) for c in pair.captions]


def test_the_classes_are_named(world_folder: tuple[Path, list[Pair]]) -> None:
    classes = json.loads((world_folder[0] / "classes.json").read_text())
    assert [entry["name"] for entry in classes["land"]] == list(LAND_CLASSES)
    assert classes["ground_sample_distance"] == 1.0


def test_missing_and_damaged_objects_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the world's objects"):
        read_objects(tmp_path, "train")
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects/train.jsonl").write_text('{"id": 1')
    with pytest.raises(DataError, match="not a list of a world's objects"):
        read_objects(tmp_path, "train")


def test_missing_and_damaged_pictures_are_named(world_folder: tuple[Path, list[Pair]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read a picture of the world"):
        read_picture(tmp_path, "images", "a.png")
    whole = next(world_folder[0].glob("images/train/A/*.png")).read_bytes()
    for damaged in (b"", whole[:100], whole[:-200], whole[:60] + b"x" * 40 + whole[100:]):
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot read a picture of the world[\s\S]*a\.png"):
            read_picture(tmp_path, "a.png")


def test_a_world_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    settings = WorldSettings(train=1, val=0, test=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep")
    with pytest.raises(OutputError, match="something other"):
        generate_world(settings, tmp_path / "mine", engine=ONE)
    assert (tmp_path / "mine/letter.txt").read_text() == "keep"
    generate_world(WorldSettings(train=2, val=0, test=0), tmp_path / "world", engine=ONE)
    generate_world(settings, tmp_path / "world", engine=ONE)
    assert len(read_objects(tmp_path / "world", "train")) == 1
    assert not (tmp_path / "world/images/train/A/train_000001.png").exists()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: WorldSettings, split: str, index: int) -> object:
        if index == 1:
            raise RuntimeError("stopped")
        return make_pair(settings, "train", index)

    monkeypatch.setattr(files, "make_pair", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        generate_world(WorldSettings(train=2, val=0, test=0), tmp_path / "world", engine=ONE)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        generate_world(WorldSettings(train=1, val=0, test=0), tmp_path / "world", engine=ONE)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate_world(
        WorldSettings(train=2, val=1, test=0),
        tmp_path / "world",
        engine=ONE,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


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
