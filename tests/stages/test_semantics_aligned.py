"""To which images the linear map of the space `aligned` is fitted, and which stored embeddings are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache.reader import Cache
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.errors import DataError
from pipeline.execution.settings import EngineSettings
from pipeline.vision.grounding.cache import SCHEMA
from pipeline.vision.grounding.worker import SemanticImage, evenly_spread
from pipeline.vision.sam.settings import GeneratorSettings, SamSettings
from stages import masks, semantics
from stages.settings import MasksSettings, SemanticsSettings
from tests.places import at
from tests.worlds.region_data import write_sam
from tests.worlds.semantic_data import make

INLINE = EngineSettings(device="cpu")
SKIPPING = EngineSettings(device="cpu", on_bad_item="skip")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the images of each fit."""
    seen: list[list[str]] = []
    whole = semantics.load_or_fit_alignment

    def watched(settings: Any, batch: Any, device: Any, images: list[SemanticImage], path: Path) -> Any:
        seen.append(["/".join(image.path.parts[-2:]) for image in images])
        return whole(settings, batch, device, images, path)

    monkeypatch.setattr(semantics, "load_or_fit_alignment", watched)
    return seen


def aligned(settings: SemanticsSettings) -> SemanticsSettings:
    return settings.model_copy(update={"space": "aligned"})


@pytest.mark.parametrize(("images", "count"), [(390, 200), (400, 200), (1000, 7), (10, 10), (3, 200), (50, 1)])
def test_images_are_evenly_spread(images: int, count: int) -> None:
    every = [SemanticImage(Path(str(number)), "", (1, 1), number) for number in range(images)]
    chosen = [image.unit for image in evenly_spread(every, count)]
    assert len(chosen) == len(set(chosen)) == min(images, count)
    assert chosen == sorted(chosen)
    if 1 < count <= images:
        assert (chosen[0], chosen[-1]) == (0, images - 1)
        steps = np.diff(chosen)
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("bad", [0, 3])
def test_an_unreadable_image_is_left_out_of_the_fit(
    folder: Path, fitted: list[list[str]], capfd: pytest.CaptureFixture[str], bad: int
) -> None:
    prepared, settings = make(folder)
    victim = folder / "images" / "AB"[bad % 2] / f"pair_00{bad // 2}.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:40])
    with pytest.raises(DataError) as caught:
        semantics.run(aligned(settings), at(prepared=prepared, semantics=folder / "s.h5"), engine=INLINE)
    assert str(victim) in str(caught.value)
    fitted.clear()
    path = semantics.run(aligned(settings), at(prepared=prepared, semantics=folder / "s.h5"), engine=SKIPPING)
    with Cache.open(path, SCHEMA) as cache:
        assert cache.missing.tolist() == [bad]
        without = cache.provenance.weights["alignment"]
    ((*names,),) = fitted
    assert len(names) == 5
    assert "/".join(victim.parts[-2:]) not in names
    told = capfd.readouterr().err
    assert told.count(f"is fitted without {victim}") == 1
    # Mended, the image counts again.
    victim.write_bytes(whole)
    with Cache.open(
        semantics.run(aligned(settings), at(prepared=prepared, semantics=path), engine=SKIPPING), SCHEMA
    ) as cache:
        assert cache.missing.size == 0
        assert cache.provenance.weights["alignment"] != without
    assert len(fitted[-1]) == 6


def test_no_readable_image_at_all(folder: Path) -> None:
    prepared, settings = make(folder)
    for file in (folder / "images").rglob("*.png"):
        file.write_bytes(b"")
    for space in ("grounding", "aligned"):
        with pytest.raises(DataError, match="none of the images can be read"):
            semantics.run(
                settings.model_copy(update={"space": space}),
                at(prepared=prepared, semantics=folder / "s.h5"),
                engine=SKIPPING,
            )
    with pytest.raises(DataError, match="none of 6 images can be read, so no map"):
        sized = aligned(settings).model_copy(update={"map_size": 64})
        semantics.run(sized, at(prepared=prepared, semantics=folder / "s.h5"), engine=SKIPPING)


def test_without_a_training_split_all_pairs_do_and_that_is_told(
    folder: Path, fitted: list[list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    prepared, settings = make(folder)
    data = read_prepared(prepared)
    semantics.run(aligned(settings), at(prepared=prepared, semantics=folder / "a.h5"), engine=INLINE)
    assert "no pair is of the training split" not in capfd.readouterr().err
    pairs = [pair.model_copy(update={"split": "test"}) for pair in data.pairs]
    write_prepared(folder / "other", "folder", data.card.root, pairs)
    semantics.run(aligned(settings), at(prepared=folder / "other", semantics=folder / "b.h5"), engine=INLINE)
    assert "no pair is of the training split" in capfd.readouterr().err
    assert list(map(len, fitted)) == [6, 6]


def test_the_map_lies_in_the_work_folder_that_was_asked_for(folder: Path) -> None:
    prepared, settings = make(folder, ((64, 64),))
    semantics.run(
        aligned(settings),
        at(prepared=prepared, semantics=folder / "a.h5", work=folder / "elsewhere"),
        engine=INLINE,
    )
    assert len(list((folder / "elsewhere" / "semantics-alignment").glob("*.safetensors"))) == 1
    assert not (folder / ".work").exists()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"encoder_size": 128}, None),
        ({"store_embeddings": False}, None),
        ({"precision": "bf16"}, "made in bf16, wanted is fp32"),
        ({"encoder_size": 64}, "those of mini at 64 pixels, wanted is mini at 128 pixels"),
        ({"seed": 9}, "made with other weights of SAM"),
    ],
    ids=["same", "size said", "none", "precision", "size", "weights"],
)
def test_why_stored_embeddings_are_not_taken_is_told_once(
    folder: Path, capfd: pytest.CaptureFixture[str], changed: dict[str, Any], reason: str | None
) -> None:
    prepared, settings = make(folder, ((64, 64),))
    (folder / "other").mkdir()
    sam = write_sam(folder / "other", seed=changed["seed"]) if "seed" in changed else settings.sam
    sam = SamSettings(weights=sam.weights, encoder_size=changed.get("encoder_size"))
    how = {name: value for name, value in changed.items() if name in ("precision", "store_embeddings")}
    kept = MasksSettings(sam=sam, generator=GeneratorSettings(points_per_side=2), **{"store_embeddings": True, **how})
    stored = masks.run(kept, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    capfd.readouterr()
    path = semantics.run(settings, at(prepared=prepared, semantics=folder / "s.h5", masks=stored), engine=INLINE)
    told = capfd.readouterr().err
    with Cache.open(path, SCHEMA) as cache:
        assert ("masks.h5" in cache.provenance.upstream) == (reason is None and "store_embeddings" not in changed)
    if reason is None:
        assert "are not used" not in told
    else:
        assert told.count("are not used") == 1
        assert reason in " ".join(told.split())
