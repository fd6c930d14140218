from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.cache.reader import Cache
from pipeline.config import settings_hash
from pipeline.datasets.records import read_prepared
from pipeline.errors import DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.grounding.cache import SCHEMA, read_semantics
from stages import prepare, semantics
from stages.settings import PrepareSettings, SemanticsSettings
from tests.datasets import fakes
from tests.places import at

INLINE = EngineSettings(device="cpu")
OUTPUT = Path("semantics.h5")
TAGS = {"kind": "tags", "file": "object_tags_{split}.json", "text": {"encoder": "hashed", "width": 16}}
NPY = {"kind": "npy", "root": "features", "before": "{split}/A/{stem}.npy", "after": "{split}/B/{stem}.npy"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The twin of LEVIR-CC without images, prepared; and arrays (n, 256) of each date, as the release has them."""
    monkeypatch.chdir(tmp_path)
    root = fakes.levir_tags(tmp_path / "data")
    settings = PrepareSettings(dataset="levir-cc", root=str(root), images="none", vocabulary={"min_count": 1})
    prepare.run(settings, at(prepared=Path("prepared")), engine=INLINE)
    random = np.random.default_rng(0)
    for number, pair in enumerate(read_prepared(Path("prepared")).pairs):
        for date, folder in enumerate("AB"):
            path = Path("features") / pair.split / folder / f"{pair.id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, random.normal(size=((number + date) % 4, 256)).astype(np.float32))
    return root


def run(source: dict[str, object], engine: EngineSettings = INLINE) -> Path:
    return semantics.run(
        SemanticsSettings(source=source), at(prepared=Path("prepared"), semantics=OUTPUT), engine=engine
    )


def test_tags_become_semantic_regions(data: Path) -> None:
    run(TAGS)
    prepared = read_prepared(Path("prepared"))
    with Cache.open(OUTPUT, SCHEMA) as cache:
        cache.verify()
        assert cache.ids == tuple(pair.id for pair in prepared.pairs)
        assert cache.provenance.settings_hash == settings_hash(SemanticsSettings(source=TAGS))
        assert list(cache.provenance.settings) == ["source"] and cache.provenance.weights == {}
        assert cache.provenance.upstream == {
            "pairs.jsonl": prepared.card.pairs_sha256,
            **{name: sha256_file(data / name) for name in (f"object_tags_{s}.json" for s in ("train", "val", "test"))},
        }
        changed = read_semantics(cache, cache.unit("val_000001", 1))
        assert changed.category.tolist() == [0, 1, 3] and changed.scores.tolist() == pytest.approx([1, 2 / 3, 1 / 3])
        assert changed.embeddings.shape == (3, 48) and changed.selected.all() and changed.map.size == 0


def test_a_file_that_changed_is_noticed(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = sha256_file(run(TAGS))
    run(TAGS)
    assert "is up to date" in capfd.readouterr().err
    path = data / "object_tags_val.json"
    path.write_text(path.read_text().replace("Dense Residential", "Forest"))
    assert sha256_file(run(TAGS)) != first


def test_all_engines_write_the_same_bytes(data: Path) -> None:
    first = sha256_file(run(NPY))
    OUTPUT.unlink()
    at().work.rename("elsewhere")
    assert sha256_file(run(NPY, EngineSettings(device="cpu", engine="local", workers=2))) == first


def test_arrays_and_data_sets_give_the_same_regions(data: Path) -> None:
    run(NPY)
    with Cache.open(OUTPUT, SCHEMA) as cache:
        rows = [cache.row("embeddings", unit) for unit in range(2 * len(cache.ids))]
    with h5py.File("features/all.h5", "w") as file:
        for pair in read_prepared(Path("prepared")).pairs:
            for folder in "AB":
                file[f"{folder}/{pair.id}"] = np.load(f"features/{pair.split}/{folder}/{pair.id}.npy")
    run({"kind": "hdf5", "root": "features", "file": "all.h5", "before": "A/{stem}", "after": "B/{stem}"})
    with Cache.open(OUTPUT, SCHEMA) as cache:
        for unit, expected in enumerate(rows):
            np.testing.assert_array_equal(cache.row("embeddings", unit), expected)


def test_bad_arrays_are_told_with_pair_and_file(data: Path) -> None:
    np.save("features/val/A/val_000001.npy", np.full((1, 256), np.nan, np.float32))
    np.save("features/test/B/test_000001.npy", np.zeros((1, 255), np.float32))
    with pytest.raises(DataError, match="2 of 13 items failed") as caught:
        run(NPY)
    told = str(caught.value)
    assert "val_000001 before: the embeddings hold NaN or infinity" in told and "A/val_000001.npy" in told
    assert "test_000001 after: the embeddings are 255 wide" in told
    assert not OUTPUT.exists()


def test_settings_that_are_idle_do_not_show(data: Path) -> None:
    own, imported = SemanticsSettings(), SemanticsSettings(source=TAGS)
    assert "source" not in own.model_dump()
    assert settings_hash(imported) == settings_hash(imported.model_copy(update={"top_q": 3}))


def test_without_images_nothing_can_be_detected(data: Path) -> None:
    with pytest.raises(DataError, match="without its images"):
        semantics.run(SemanticsSettings(), at(prepared=Path("prepared"), semantics=OUTPUT), engine=INLINE)
