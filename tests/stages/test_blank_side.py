"""A pair one date of which is of one colour, through masks, regions, matches and semantics with the mini models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cache.reader import Cache
from pipeline.datasets.records import Pair, write_prepared
from pipeline.datasets.world.pair import make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.grounding.cache import read_semantics
from pipeline.vision.grounding.settings import GroundingSettings
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.matching.cache import read_confidences, read_matches
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.regions.cache import read_regions
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.cache import read_masks
from pipeline.vision.sam.settings import GeneratorSettings, SamSettings
from stages import masks, matches, regions, semantics
from stages.settings import MasksSettings, MatchesSettings, RegionsSettings, SemanticsSettings
from tests.places import at
from tests.vision.grounding.grounding_data import PRETRAINED, TEXT_ENCODER

INLINE = EngineSettings(device="cpu")
WEIGHTS = [PRETRAINED / f"{name}.safetensors" for name in ("sam-mini", "matcher-mini", "grounding-dino-mini")]


def write(folder: Path) -> Path:
    """Write three pairs: with a blank second date, with a blank first date, and as they are."""
    records = []
    for number, blank in enumerate(("after", "before", None)):
        images = dict(
            zip(("before", "after"), make_pair(WorldSettings(size=96, train=3), "train", number).images, strict=True)
        )
        paths = {"before": f"A/{number}.png", "after": f"B/{number}.png"}
        for date, file in paths.items():
            path = folder / "images" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full_like(images[date], 127) if date == blank else images[date]
            Image.fromarray(pixels).save(path)
        hashes = {date: sha256_file(folder / "images" / file) for date, file in paths.items()}
        records.append(Pair(id=f"pair_{number}", split="train", sha256=hashes, **paths))
    write_prepared(folder / "prepared", "folder", str(folder / "images"), records)
    return folder / "prepared"


@pytest.mark.parametrize(("share", "blank_masks"), [(1.0, 1), (0.9, 0)], ids=["the whole image", "nothing"])
def test_a_blank_date_goes_through_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, blank_masks: int
) -> None:
    monkeypatch.chdir(tmp_path)
    sam, matcher, detector = map(str, WEIGHTS)
    prepared = write(tmp_path)
    found = masks.run(
        MasksSettings(
            sam=SamSettings(weights=sam),
            generator=GeneratorSettings(points_per_side=8, coarse_stride=2, max_area_share=share),
            store_embeddings=True,
        ),
        at(prepared=prepared, masks=tmp_path / "masks.h5"),
        engine=INLINE,
    )
    described = regions.run(
        RegionsSettings(batch_size=2),
        at(prepared=prepared, masks=found, regions=tmp_path / "regions.h5"),
        engine=INLINE,
    )
    matched = matches.run(
        MatchesSettings(weights=matcher, batch_size=2),
        at(regions=described, matches=tmp_path / "matches.h5"),
        engine=INLINE,
    )
    named = semantics.run(
        SemanticsSettings(
            grounding=GroundingSettings(weights=detector, text_encoder=str(TEXT_ENCODER)),
            sam=SamSettings(weights=sam),
            batch_size=2,
        ),
        at(prepared=prepared, semantics=tmp_path / "semantics.h5", masks=found),
        engine=INLINE,
    )
    counts = []
    with Cache.open(found, MASKS) as cache, Cache.open(described, REGIONS) as other:
        cache.verify()
        other.verify()
        assert cache.missing.size == other.missing.size == 0
        for unit in range(6):
            mine = read_regions(other, unit)
            counts.append(len(mine))
            assert counts[-1] == len(read_masks(cache, unit))
            assert mine.descriptors.shape[0] == counts[-1]
            assert np.isfinite(mine.descriptors.astype(np.float32)).all()
    assert (counts[1], counts[2]) == (blank_masks, blank_masks)
    assert min(counts[0], counts[3], *counts[4:]) > 1
    with Cache.open(matched, MATCHES) as cache:
        cache.verify()
        assert cache.missing.size == 0
        for pair in range(3):
            before, after = counts[2 * pair : 2 * pair + 2]
            assert read_confidences(cache, pair).shape == (before, after)
            decided = read_matches(cache, pair)
            if not after:
                assert decided.unmatched_before.tolist() == list(range(before))
            if not before:
                assert decided.unmatched_after.tolist() == list(range(after))
            if not before or not after:
                assert len(decided.matched) == 0
    with Cache.open(named, SEMANTICS) as cache:
        cache.verify()
        assert cache.missing.size == 0
        assert "masks.h5" in cache.provenance.upstream
        sets = [read_semantics(cache, unit) for unit in range(6)]
        assert [one.map.shape for one in sets] == [(96, 96)] * 6
        assert max(len(sets[4]), len(sets[5])) > 0
        for one in sets:
            assert np.isfinite(one.similarity.astype(np.float32)).all()
            assert (one.map > 0).any() == bool(one.masks.any())
