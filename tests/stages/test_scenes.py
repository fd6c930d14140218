from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation
from pipeline.config import settings_hash
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.errors import CacheError, CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.scenes.backbones import build_backbone, normalise
from pipeline.vision.scenes.worker import SCHEMA, SceneWorker
from stages import scenes
from tests.places import at
from tests.worlds.scene_data import make_data, write_pair

INLINE = EngineSettings(device="cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_features_are_the_backbones(folder: Path) -> None:
    prepared, settings = make_data(folder, 3)
    path = scenes.run(settings, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE)
    data = read_prepared(prepared)
    backbone = build_backbone("mini", Path(settings.weights))
    with Cache.open(path, SCHEMA, expect=Expectation(settings_hash=settings_hash(settings))) as cache:
        assert cache.ids == tuple(pair.id for pair in data.pairs)
        assert cache.provenance.upstream == {"pairs.jsonl": data.card.pairs_sha256}
        assert cache.provenance.weights == {"backbone": sha256_file(Path(settings.weights))}
        for index, pair in enumerate(data.pairs):
            for date, name in enumerate((pair.before, pair.after)):
                pixels = np.asarray(Image.open(data.root / name))
                image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
                with torch.inference_mode():
                    expected = backbone(normalise(image, settings))[0].half().numpy()
                row = cache.row("features", 2 * index + date)
                assert row.shape == (256, 2, 2)
                np.testing.assert_allclose(row, expected, atol=2e-3)


def test_batches_do_not_show_in_the_bytes(folder: Path) -> None:
    prepared, settings = make_data(folder, 5)
    whole = sha256_file(scenes.run(settings, at(prepared=prepared, scenes=folder / "a.h5"), engine=INLINE))
    shutil.rmtree(folder / ".work")
    data = read_prepared(prepared)
    few = folder / "few"
    write_prepared(few, "folder", data.card.root, data.pairs[1:3])
    scenes.run(settings, at(prepared=few, scenes=folder / "b.h5"), engine=INLINE)
    assert sha256_file(scenes.run(settings, at(prepared=prepared, scenes=folder / "c.h5"), engine=INLINE)) == whole


def test_second_run_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, settings = make_data(folder, 2)
    path = scenes.run(settings, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE)
    before = path.stat().st_mtime_ns

    def refuse(*_: object) -> None:
        raise RuntimeError("a model was loaded")

    monkeypatch.setattr(SceneWorker, "__init__", refuse)
    scenes.run(settings, at(prepared=prepared, scenes=path), engine=INLINE)
    assert path.stat().st_mtime_ns == before
    # DVC empties the output first: the shards are still there, so no model is needed either.
    path.unlink()
    scenes.run(settings, at(prepared=prepared, scenes=path), engine=INLINE)


def test_one_changed_image_recomputes_that_image_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, settings = make_data(folder, 6)
    scenes.run(settings, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE)
    data = read_prepared(prepared)
    changed = write_pair(data.root, "pair_003", 32, np.random.default_rng(99))
    changed = changed.model_copy(update={"sha256": {**data.pairs[3].sha256, "after": changed.sha256["after"]}})
    # Only the later image is another one; the earlier is put back.
    rng = np.random.default_rng(0)
    for index in range(4):
        write_pair(folder / "again", f"pair_{index:03d}", 32, rng)
    shutil.copy(folder / "again" / "A" / "pair_003.png", data.root / "A" / "pair_003.png")
    pairs = [changed if pair.id == "pair_003" else pair for pair in data.pairs]
    write_prepared(prepared, "folder", data.card.root, pairs)

    loaded: list[str] = []
    load = SceneWorker.load

    def counting(self: SceneWorker, image: object) -> object:
        loaded.append(image.path.name)
        return load(self, image)

    monkeypatch.setattr(SceneWorker, "load", counting)
    scenes.run(settings, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE)
    assert loaded == ["pair_003.png"]


def test_other_settings_and_weights_never_reuse_shards(folder: Path) -> None:
    prepared, settings = make_data(folder, 2)
    scenes.run(settings, at(prepared=prepared, scenes=folder / "a.h5"), engine=INLINE)
    other = settings.model_copy(update={"mean": (0.0, 0.0, 0.0)})
    scenes.run(other, at(prepared=prepared, scenes=folder / "b.h5"), engine=INLINE)
    save_file(build_backbone("mini", None, seed=6).state_dict(), Path(settings.weights))
    scenes.run(settings, at(prepared=prepared, scenes=folder / "c.h5"), engine=INLINE)
    with (
        Cache.open(folder / "a.h5", SCHEMA) as a,
        Cache.open(folder / "b.h5", SCHEMA) as b,
        Cache.open(folder / "c.h5", SCHEMA) as c,
    ):
        assert not np.array_equal(a.row("features", 0), b.row("features", 0))
        assert not np.array_equal(a.row("features", 0), c.row("features", 0))
        with pytest.raises(CacheError, match="other settings"):
            Cache.open(folder / "b.h5", SCHEMA, expect=Expectation(settings_hash=settings_hash(settings)))


def test_an_image_that_changed_since_prepare_is_refused(folder: Path) -> None:
    prepared, settings = make_data(folder, 2)
    write_pair(folder / "images", "pair_001", 32, np.random.default_rng(7))
    with pytest.raises(DataError, match="changed since"):
        scenes.run(settings, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE)
    assert not (folder / "scenes.h5").exists()


def test_a_bad_image_can_be_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared, settings = make_data(folder, 3)
    (folder / "images" / "B" / "pair_001.png").write_bytes(b"")
    skipping = EngineSettings(device="cpu", on_bad_item="skip")
    with Cache.open(
        scenes.run(settings, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=skipping), SCHEMA
    ) as cache:
        assert cache.missing.tolist() == [3]
    (listed,) = json.loads((folder / "scenes.failures.json").read_text(encoding="utf-8"))
    assert (listed["unit"], listed["item"]) == (3, "pair_001 after")
    # The advice of the item's own error, on the screen and in the file.
    assert listed["fix"] and f"fix:   {listed['fix']}\n" in capsys.readouterr().err


def test_sizes_that_differ_need_a_size(folder: Path) -> None:
    prepared, settings = make_data(folder, 2)
    data = read_prepared(prepared)
    larger = write_pair(data.root, "pair_001", 64, np.random.default_rng(1))
    write_prepared(prepared, "folder", data.card.root, [data.pairs[0], larger])
    with pytest.raises(DataError, match="64×64 pixels, the first one 32×32") as caught:
        scenes.run(settings, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE)
    assert str(caught.value.fix).startswith("set models.backbone.size to the side")
    assert "or set engine.on_bad_item to skip" in str(caught.value.fix)
    resizing = settings.model_copy(update={"size": 64})
    with Cache.open(
        scenes.run(resizing, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE), SCHEMA
    ) as cache:
        assert cache.row("features", 0).shape == (256, 4, 4)


def test_missing_weights_and_empty_data(folder: Path) -> None:
    prepared, settings = make_data(folder, 1)
    absent = settings.model_copy(update={"weights": "resnet101-63fe2227.pth"})
    with pytest.raises(CheckpointError, match="not there") as caught:
        scenes.run(absent, at(prepared=prepared, scenes=folder / "scenes.h5"), engine=INLINE)
    assert "sagecc checkpoints fetch resnet101" in str(caught.value.fix)
    write_prepared(folder / "empty", "folder", "images", [])
    with pytest.raises(DataError, match="no pairs"):
        scenes.run(settings, at(prepared=folder / "empty", scenes=folder / "scenes.h5"), engine=INLINE)
