"""Stage semantics where a GPU's memory runs out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cache.reader import Cache
from pipeline.errors import ResourceError
from pipeline.execution.settings import EngineSettings
from pipeline.vision.grounding import worker
from pipeline.vision.grounding.cache import SCHEMA, read_semantics
from pipeline.vision.regions.descriptor import region_descriptors
from pipeline.vision.sam.encoder import ImageEncoder
from stages import semantics
from tests.places import at
from tests.worlds.semantic_data import make

INLINE = EngineSettings(device="cpu")
SKIPPING = EngineSettings(device="cpu", on_bad_item="skip")
ENCODE = ImageEncoder.encode


def cramp(monkeypatch: pytest.MonkeyPatch, where: str, most: int) -> None:
    """Let SAM's encoder, or the pooling of regions, run out of memory over more than `most` images."""

    def encode(self: ImageEncoder, images: Sequence[Any]) -> torch.Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ENCODE(self, images)

    def pool(embeddings: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if len(embeddings) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return region_descriptors(embeddings, *given, **named)

    if where == "encoder":
        monkeypatch.setattr(ImageEncoder, "encode", encode)
    else:
        monkeypatch.setattr(worker, "region_descriptors", pool)


@pytest.mark.parametrize(
    ("where", "said"), [("encoder", "1 images per pass of SAM's encoder"), ("pooling", "1 images at once")]
)
def test_out_of_memory_goes_on_with_fewer_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], where: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared, settings = make(tmp_path)
    expected = semantics.run(settings, at(prepared=prepared, semantics=tmp_path / "a.h5"), engine=INLINE)
    shutil.rmtree(tmp_path / ".work")
    cramp(monkeypatch, where, 1)
    actual = semantics.run(settings, at(prepared=prepared, semantics=tmp_path / "b.h5"), engine=INLINE)
    told = capfd.readouterr().err
    assert told.count("memory ran out") == told.count(f"going on with {said}") == 1
    with Cache.open(expected, SCHEMA) as one, Cache.open(actual, SCHEMA) as two:
        two.verify()
        for unit in range(6):
            theirs, mine = read_semantics(one, unit), read_semantics(two, unit)
            assert len(mine) == len(theirs) > 0
            np.testing.assert_allclose(mine.boxes, theirs.boxes, atol=1e-2)
            np.testing.assert_allclose(mine.descriptors, theirs.descriptors, atol=2e-3)
            assert (mine.masks == theirs.masks).mean() > 0.999


@pytest.mark.parametrize(
    ("where", "setting"),
    [("encoder", "models.sam.encoder_size"), ("pooling", "semantics.grounding.max_boxes")],
    ids=["encoder", "pooling"],
)
def test_an_image_that_does_not_fit_is_no_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, setting: str
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared, settings = make(tmp_path, ((64, 64),))
    cramp(monkeypatch, where, 0)
    with pytest.raises(ResourceError, match="one at a time") as caught:
        semantics.run(settings, at(prepared=prepared, semantics=tmp_path / "a.h5"), engine=SKIPPING)
    assert setting in str(caught.value.fix)
    assert not list(tmp_path.glob("a.*"))
