from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import CacheError, CheckpointError, DataError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.vision.matching.build import build_matcher
from pipeline.vision.matching.settings import MatcherSettings
from pipeline.vision.sam.settings import GeneratorSettings, SamSettings
from stages.pretrain import matcher as pretrain_matcher
from stages.settings import MasksSettings, PretrainMatcherSettings
from tests.places import at
from tests.training.resuming import check_resumed
from tests.vision.matching.region_data import LIGHTGLUE, SUPERGLUE
from tests.worlds.region_data import Bitmaps, write_masks, write_pairs, write_sam

ENGINE = EngineSettings(device="cpu", workers=1)
SETTINGS = PretrainMatcherSettings(
    superglue=SUPERGLUE,
    lightglue=LIGHTGLUE,
    epochs=2,
    batch_size=2,
    world=WorldSettings(train=2, val=1, test=0, size=96),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rectangles(unit: int, height: int, width: int) -> Bitmaps:
    rng = np.random.default_rng(unit)
    masks = np.zeros((3, height, width), dtype=np.bool_)
    for mask in masks:
        top, left = rng.integers(0, height - 16), rng.integers(0, width - 16)
        mask[top : top + 12, left : left + 12] = True
    return masks


def own_images(folder: Path, *, pairs: int = 3) -> tuple[Path, Path, SamSettings]:
    prepared, sam = write_pairs(folder, [(64, 64)] * pairs), write_sam(folder)
    return prepared, write_masks(folder / "masks.h5", prepared, sam, masks=rectangles), sam


@pytest.mark.parametrize("method", ["superglue", "lightglue"])
def test_an_interrupted_training_ends_in_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    prepared, masks, _ = own_images(folder)
    settings = SETTINGS.model_copy(update={"method": method})

    paths = at(prepared=prepared, masks=masks)

    def run(output: Path) -> Path:
        return pretrain_matcher.run(settings, paths, engine=ENGINE, output=output, own_images=True)

    whole = run(folder / "whole.safetensors")
    history = json.loads((folder / "whole.json").read_text())["validation"]
    assert [record["epoch"] for record in history] == [1, 2]
    assert {"loss_matches", "loss_dustbins", "match_precision", "unmatched_recall"} <= set(history[0])
    layout = settings.model_dump(include={"method", "superglue", "lightglue"})
    build_matcher(MatcherSettings(weights=str(whole), **layout), 64)

    work = folder / ".work" / "pretrain-matcher"
    # One chunk of the examples is missing too, as after a kill while they were made.
    next((work / "examples").glob("*/train/*.safetensors")).unlink()
    check_resumed(run, whole, work, pretrain_matcher, monkeypatch)


def test_the_synthetic_world_is_made_when_no_images_are_given(folder: Path) -> None:
    sam = write_sam(folder)
    generator = GeneratorSettings(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    masks = MasksSettings(sam=sam, generator=generator)
    for dates in (True, False):
        settings = SETTINGS.model_copy(update={"masks": masks, "epochs": 1, "dates": dates})
        pretrain_matcher.run(settings, at(), engine=ENGINE, output=folder / "mini.safetensors")
        (record,) = json.loads((folder / "mini.json").read_text())["validation"]
        assert ("dates_match_recall" in record) == dates


def test_images_without_a_region_are_refused(folder: Path) -> None:
    prepared, sam = write_pairs(folder, [(64, 64)] * 2), write_sam(folder)
    nothing = write_masks(
        folder / "masks.h5", prepared, sam, masks=lambda _, height, width: np.zeros((0, height, width), dtype=np.bool_)
    )
    with pytest.raises(DataError, match="no image of the data set holds a region"):
        pretrain_matcher.run(SETTINGS, at(prepared=prepared, masks=nothing), engine=ENGINE, own_images=True)


def test_wrong_inputs(folder: Path) -> None:
    prepared, masks, sam = own_images(folder)
    paths = at(prepared=prepared, masks=masks)
    output = folder / "m.safetensors"
    run = partial(pretrain_matcher.run, engine=ENGINE, output=output, own_images=True)
    nearest = SETTINGS.model_copy(update={"method": "nearest"})
    with pytest.raises(SettingsError, match="no weights to train"):
        run(nearest, paths)
    with pytest.raises(DataError, match="fewer training examples than a batch of 500"):
        large = SETTINGS.model_copy(update={"batch_size": 500})
        run(large, paths)
    others = write_pairs(folder / "others", [(64, 64)])
    with pytest.raises(CacheError, match="another input"):
        run(SETTINGS, paths.at(prepared=others))
    Path(sam.weights).unlink()
    with pytest.raises(CheckpointError, match="SAM's weights"):
        run(SETTINGS, paths)
    assert not output.exists()
