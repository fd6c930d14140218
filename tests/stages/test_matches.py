from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.cache.inspect import describe
from pipeline.cache.reader import Cache, cache_sha256
from pipeline.cache.schema import Expectation
from pipeline.config import settings_hash
from pipeline.errors import CacheError, CheckpointError, DataError, ResourceError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.matching.build import build_matcher, learned_matcher
from pipeline.vision.matching.cache import SCHEMA, read_confidences, read_matches
from pipeline.vision.matching.matcher import RegionPairs, assign, collate
from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.matching.superglue import SuperGlue
from pipeline.vision.matching.worker import MatchWorker
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.regions.cache import RegionSet
from stages import matches
from stages.settings import MatchesSettings
from tests.places import at
from tests.vision.matching.region_data import METHODS, WIDTH, matcher_settings, random_pairs, write_regions

INLINE = EngineSettings(device="cpu")
COUNTS = [(5, 7), (1, 1), (0, 4), (3, 0), (0, 0), (9, 2)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stage_settings(folder: Path, method: str = "superglue", **changes: object) -> MatchesSettings:
    settings = matcher_settings(method, weights=str(folder / "matcher.safetensors"))
    if method != "nearest" and not (folder / "matcher.safetensors").exists():
        save_file(learned_matcher(settings, WIDTH, seed=1).state_dict(), folder / "matcher.safetensors")
    return MatchesSettings.model_validate({**settings.model_dump(), "batch_size": 4, "length": 12, **changes})


def same_pictures(count: int) -> list[tuple[RegionSet, RegionSet]]:
    """Pairs whose dates are one and the same, so that every region has a perfect counterpart."""
    return [(before, before) for before, _ in random_pairs([(6, 1)] * count, seed=5)]


@pytest.mark.parametrize("method", METHODS)
def test_matches_are_the_matchers(folder: Path, method: str) -> None:
    pairs = random_pairs(COUNTS)
    regions = write_regions(folder / "regions.h5", pairs)
    settings = stage_settings(folder, method)
    path = matches.run(settings, at(regions=regions, matches=folder / "matches.h5"), engine=INLINE)
    matcher = build_matcher(settings, WIDTH)
    with Cache.open(path, SCHEMA, expect=Expectation(settings_hash=settings_hash(settings))) as cache:
        assert cache.provenance.upstream == {"regions.h5": cache_sha256(regions, REGIONS)}
        assert bool(cache.provenance.weights) == (method != "nearest")
        for number, (before, after) in enumerate(pairs):
            with torch.inference_mode():
                expected = matcher(collate([(before, after)], 12))[0, : len(before), : len(after)].numpy()
            actual = read_confidences(cache, number)
            assert actual.shape == (len(before), len(after))
            np.testing.assert_allclose(actual, expected, atol=1e-3)
            decided, again = read_matches(cache, number), assign(actual, settings.assignment)
            for name in ("matched", "confidence", "unmatched_before", "unmatched_after"):
                assert np.array_equal(getattr(decided, name), getattr(again, name))
            assert set(decided.unmatched_before.tolist()) <= set(range(len(before)))
            if not len(after):
                assert decided.unmatched_before.tolist() == list(range(len(before)))


def test_another_threshold_needs_no_second_run(folder: Path) -> None:
    regions = write_regions(folder / "regions.h5", same_pictures(3))
    low, high = (AssignmentSettings(threshold=value) for value in (0.1, 0.9))
    paths = [
        matches.run(
            stage_settings(folder, "nearest", assignment=tau),
            at(regions=regions, matches=folder / f"{tau.threshold}.h5"),
            engine=INLINE,
        )
        for tau in (low, high)
    ]
    with Cache.open(paths[0], SCHEMA) as one, Cache.open(paths[1], SCHEMA) as two:
        for number in range(3):
            assert read_matches(one, number).matched.tolist() == [[row, row] for row in range(6)]
            read = read_matches(one, number, high)
            assert np.array_equal(read.unmatched_before, read_matches(two, number).unmatched_before)
            assert np.array_equal(read.matched, read_matches(two, number).matched)


def test_batches_do_not_show_in_the_bytes(folder: Path) -> None:
    pairs = random_pairs(COUNTS)
    settings = stage_settings(folder)
    regions = write_regions(folder / "regions.h5", pairs)
    whole = sha256_file(matches.run(settings, at(regions=regions, matches=folder / "a.h5"), engine=INLINE))
    shutil.rmtree(folder / ".work")
    # Another company in the batches of a first run, whose results the second one finds.
    matches.run(
        settings,
        at(regions=write_regions(folder / "few.h5", [pairs[5], pairs[1]]), matches=folder / "b.h5"),
        engine=INLINE,
    )
    assert sha256_file(matches.run(settings, at(regions=regions, matches=folder / "c.h5"), engine=INLINE)) == whole


def test_second_run_does_nothing_and_one_changed_pair_is_computed_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = random_pairs(COUNTS)
    settings, regions = stage_settings(folder), folder / "regions.h5"
    path = matches.run(
        settings, at(regions=write_regions(regions, pairs), matches=folder / "matches.h5"), engine=INLINE
    )
    before = path.stat().st_mtime_ns
    seen: list[list[tuple[int, int]]] = []
    compute = MatchWorker.compute

    def counting(self: MatchWorker, loaded: Sequence[tuple[RegionSet, RegionSet]]) -> object:
        seen.append([(len(one), len(other)) for one, other in loaded])
        return compute(self, loaded)

    monkeypatch.setattr(MatchWorker, "compute", counting)
    matches.run(settings, at(regions=regions, matches=path), engine=INLINE)
    assert path.stat().st_mtime_ns == before
    assert seen == []
    pairs[0] = (pairs[0][0], random_pairs([(1, 8)], seed=9)[0][1])
    matches.run(settings, at(regions=write_regions(regions, pairs), matches=path), engine=INLINE)
    assert seen == [[(5, 8)] * 4]


def test_other_weights_and_settings_never_reuse_shards(folder: Path) -> None:
    regions = write_regions(folder / "regions.h5", same_pictures(2))
    settings = stage_settings(folder)
    tables = []
    for changed in (settings, settings.model_copy(update={"length": 20}), settings):
        if tables and changed is settings:
            state = learned_matcher(settings, WIDTH, seed=8).state_dict()
            save_file(state, settings.weights)
        with Cache.open(
            matches.run(changed, at(regions=regions, matches=folder / "m.h5"), engine=INLINE), SCHEMA
        ) as cache:
            tables.append(read_confidences(cache, 0))
    np.testing.assert_allclose(tables[0], tables[1], atol=2e-3)
    assert not np.array_equal(tables[0], tables[2])


def test_more_regions_than_the_limit_are_refused_before_any_work(folder: Path) -> None:
    regions = write_regions(folder / "regions.h5", random_pairs([(3, 3), (2, 13)]))
    with pytest.raises(DataError, match="pair_001 after has 13 regions") as caught:
        matches.run(stage_settings(folder), at(regions=regions, matches=folder / "matches.h5"), engine=INLINE)
    assert "matches.length to 13" in str(caught.value.fix)
    assert not (folder / "matches.h5").exists()
    assert not (folder / ".work").exists()


def test_a_pair_whose_image_was_skipped(folder: Path) -> None:
    pairs: list[tuple[RegionSet | None, RegionSet | None]] = list(random_pairs([(3, 3)] * 3))
    pairs[1] = (pairs[1][0], None)
    regions = write_regions(folder / "regions.h5", pairs)
    settings = stage_settings(folder)
    with pytest.raises(DataError, match="no regions of the image after") as caught:
        matches.run(settings, at(regions=regions, matches=folder / "matches.h5"), engine=INLINE)
    assert str(caught.value.fix).startswith("mend what masks.failures.json and regions.failures.json name")
    skipping = EngineSettings(device="cpu", on_bad_item="skip")
    with Cache.open(
        matches.run(settings, at(regions=regions, matches=folder / "matches.h5"), engine=skipping), SCHEMA
    ) as cache:
        assert cache.missing.tolist() == [1]
    assert "pair_001" in (folder / "matches.failures.json").read_text()


def test_missing_inputs_say_what_to_run(folder: Path) -> None:
    settings = stage_settings(folder)
    with pytest.raises(CacheError) as caught:
        matches.run(settings, at(regions=folder / "regions.h5", matches=folder / "matches.h5"), engine=INLINE)
    assert "sagecc regions" in str(caught.value.fix)
    regions = write_regions(folder / "regions.h5", random_pairs([(3, 3)]))
    absent = settings.model_copy(update={"weights": "none.safetensors"})
    with pytest.raises(CheckpointError, match="are not there"):
        matches.run(absent, at(regions=regions, matches=folder / "matches.h5"), engine=INLINE)


def test_the_file_explains_itself(folder: Path) -> None:
    regions = write_regions(folder / "regions.h5", same_pictures(2))
    path = matches.run(
        stage_settings(folder, "nearest"),
        at(regions=regions, matches=folder / "matches.h5"),
        engine=INLINE,
    )
    assert describe(path)
    with Cache.open(path, SCHEMA) as cache:
        cache.verify()
        assert all(field.description for field in cache.schema.fields)


def test_out_of_memory_goes_on_with_fewer_pairs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, regions = stage_settings(folder), write_regions(folder / "regions.h5", random_pairs(COUNTS))
    expected = matches.run(settings, at(regions=regions, matches=folder / "a.h5"), engine=INLINE)
    shutil.rmtree(folder / ".work")
    forward = SuperGlue.forward

    def cramped(self: SuperGlue, pairs: RegionPairs) -> torch.Tensor:
        if len(pairs) > room["pairs"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, pairs)

    room = {"pairs": 2}
    monkeypatch.setattr(SuperGlue, "forward", cramped)
    actual = matches.run(settings, at(regions=regions, matches=folder / "b.h5"), engine=INLINE)
    assert capfd.readouterr().err.count("memory ran out: going on with 2 pairs per pass") == 1
    with Cache.open(expected, SCHEMA) as one, Cache.open(actual, SCHEMA) as two:
        for number in range(len(COUNTS)):
            np.testing.assert_allclose(read_confidences(two, number), read_confidences(one, number), atol=1e-3)
    shutil.rmtree(folder / ".work")
    room["pairs"] = 0
    skipping = EngineSettings(device="cpu", on_bad_item="skip")
    with pytest.raises(ResourceError, match="one at a time") as caught:
        matches.run(settings, at(regions=regions, matches=folder / "c.h5"), engine=skipping)
    assert "matches.length" in str(caught.value.fix)
    assert not (folder / "c.h5").exists()
