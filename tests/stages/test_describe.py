from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.transform import Affine
from safetensors.torch import save_file

from pipeline.captioners.settings import DecoderSettings, GenerationSettings, SageCCSettings, SceneEncoderSettings
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import CacheError, CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.training.settings import TrainSettings
from pipeline.vision.scenes.backbones import build_backbone
from stages import caption, describe, scenes, train
from stages.settings import CaptionSettings
from tests.datasets.raster.pictures import UTM, tiff
from tests.worlds.scene_data import make_data

ENGINE = EngineSettings(device="cpu")
SEARCH = GenerationSettings(beams=2, n_best=2, max_length=8)
TINY = SageCCSettings(
    scene=SceneEncoderSettings(width=16, blocks=1, heads=2, head_norm="group"),
    decoder=DecoderSettings(width=16, layers=1, heads=2),
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    prepared, settings = make_data(tmp_path, 4, size=32)
    build_vocabulary(["a road is built"], VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    paths = paths_of(tmp_path)
    assert prepared == paths.prepared
    scenes.run(settings, paths, engine=ENGINE)
    return train.run(TrainSettings(epochs=1, batch_size=2, captioner=TINY), paths, engine=ENGINE) / "seed-1"


def paths_of(folder: Path) -> Paths:
    return Paths.under(folder).at(prepared=folder / "prepared", models=folder / "models", captions=folder / "captions")


def say(
    folder: Path, before: Path, after: Path, model: Path, georeference: describe.Georeferencing = "refuse"
) -> describe.Description:
    return describe.run(SEARCH, before, after, model, paths_of(folder), engine=ENGINE, georeference=georeference)


def test_says_the_same_as_the_caption_stage(model: Path, tmp_path: Path) -> None:
    settings = CaptionSettings(split="train", beams=2, n_best=2, max_length=8)
    captions = caption.run(settings, paths_of(tmp_path), engine=ENGINE)
    expected = json.loads((captions / "seed-1.json").read_text())[0]
    images = tmp_path / "images"
    description = say(tmp_path, images / "A" / "pair_000.png", images / "B" / "pair_000.png", model)
    assert description.sentences == [row["caption"] for row in expected["n_best"]]
    # One image more or less in a batch may show in the last bits.
    assert description.scores == pytest.approx([row["score"] for row in expected["n_best"]], abs=5e-3)
    assert description.remarks == []


def test_other_sizes_are_resized_and_told(model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((50, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    description = say(tmp_path, tmp_path / "a.png", tmp_path / "b.png", model)
    assert description.remarks == ["resized from 50×50 to the model's 32×32 pixels"]


def test_two_sizes_in_one_pair_are_refused(model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((32, 40, 3), dtype=np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="the two images differ in size: 32×32 before, 40×32 after"):
        say(tmp_path, tmp_path / "a.png", tmp_path / "b.png", model)


def test_rows_from_south_to_north_are_the_same_image(model: Path, tmp_path: Path) -> None:
    """The same pixels with flipped rows, and coordinates that say so."""
    before, after = (tmp_path / "images" / date / "pair_000.png" for date in "AB")
    pixels = np.array(Image.open(after))
    north_up = Affine(1.0, 0.0, 500_000.0, 0.0, -1.0, 4_000_000.0)
    south_up = Affine(1.0, 0.0, 500_000.0, 0.0, 1.0, 4_000_000.0 - len(pixels))
    path = tiff(tmp_path / "b.tif", pixels[::-1], photometric="RGB", crs=UTM, transform=south_up)
    first = tiff(tmp_path / "a.tif", np.array(Image.open(before)), photometric="RGB", crs=UTM, transform=north_up)
    plain, flipped = say(tmp_path, before, after, model), say(tmp_path, first, path, model)
    assert (flipped.sentences, flipped.scores) == (plain.sentences, plain.scores)
    assert flipped.remarks == ["after: it is mirrored top to bottom, as its coordinates ask for, so that north is up"]


def test_another_ground_is_refused_told_or_ignored(model: Path, tmp_path: Path) -> None:
    pixels = np.array(Image.open(tmp_path / "images" / "A" / "pair_000.png"))
    files = [
        tiff(tmp_path / f"{east}.tif", pixels, photometric="RGB", crs=UTM, transform=Affine(1, 0, east, 0, -1, 4e6))
        for east in (500_000, 500_500)
    ]
    with pytest.raises(DataError, match=r"do not cover the same ground: .* 500\.0 pixels right") as caught:
        say(tmp_path, *files, model)
    assert "--georeference remark" in str(caught.value.fix)
    told = say(tmp_path, *files, model, georeference="remark")
    assert "do not cover the same ground" in told.remarks[0]
    assert say(tmp_path, *files, model, georeference="ignore").remarks == []


def test_missing_coordinates_and_missing_data_are_told(model: Path, tmp_path: Path) -> None:
    before = tmp_path / "images" / "A" / "pair_000.png"
    pixels = np.array(Image.open(before)) | 1
    pixels[:8] = 0
    transform = Affine(1, 0, 500_000, 0, -1, 4e6)
    path = tiff(tmp_path / "b.tif", pixels, photometric="RGB", crs=UTM, transform=transform, nodata=0)
    assert say(tmp_path, before, path, model).remarks == [
        "after: 256 of its pixels (25.0%) have no data (nodata, masked, transparent) and are black",
        "the two images cannot be compared by the ground that they cover: only the later one carries coordinates",
    ]


def test_another_backbone_is_refused(model: Path, tmp_path: Path) -> None:
    save_file(build_backbone("mini", None, seed=9).state_dict(), tmp_path / "weights.safetensors")
    image = tmp_path / "images" / "A" / "pair_000.png"
    with pytest.raises(CacheError, match=r"scenes were made with other weights \(backbone\) than those that seed-1"):
        say(tmp_path, image, image, model)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        say(tmp_path, tmp_path / "a.png", tmp_path / "b.png", tmp_path / "none")
