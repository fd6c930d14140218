from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia.feature.lightglue import normalize_keypoints
from numpy.typing import NDArray

from pipeline.vision.matching.cache import pair_arrays
from pipeline.vision.matching.lightglue import LightGlue
from pipeline.vision.matching.matcher import LearnedMatcher, Matcher, NearestMatcher, RegionPairs, assign, collate
from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.matching.superglue import SuperGlue
from tests.vision.matching.region_data import LIGHTGLUE, METHODS, SUPERGLUE, WIDTH, random_pairs, random_regions, shake

PAPER, RELEASE = AssignmentSettings(), AssignmentSettings(unmatched="release")
TABLE = np.array(
    [
        [0.90, 0.05, 0.00, 0.00],
        [0.30, 0.10, 0.00, 0.00],  # above τ, but region 0 after has a better one
        [0.00, 0.20, 0.10, 0.00],  # not above τ
        [0.00, 0.00, 0.25, 0.35],
    ]
)


def test_matches_are_mutual_and_above_the_threshold() -> None:
    assignment = assign(TABLE, PAPER)
    assert assignment.matched.tolist() == [[0, 0], [3, 3]]
    assert assignment.confidence.tolist() == pytest.approx([0.9, 0.35])
    assert (assignment.matched.dtype, assignment.confidence.dtype) == (np.int32, np.float32)


def test_the_paper_and_the_release_differ_in_who_is_unmatched() -> None:
    paper, release = assign(TABLE, PAPER), assign(TABLE, RELEASE)
    assert (paper.unmatched_before.tolist(), paper.unmatched_after.tolist()) == ([2], [1])
    assert (release.unmatched_before.tolist(), release.unmatched_after.tolist()) == ([1, 2], [1, 2])


@pytest.mark.parametrize("settings", [PAPER, RELEASE, AssignmentSettings(threshold=0.5)])
def test_against_plain_loops(settings: AssignmentSettings) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.random((int(rng.integers(1, 7)), int(rng.integers(1, 7)))) ** 3
        matched = []
        for p, row in enumerate(table):
            for q, value in enumerate(row):
                if value > settings.threshold and value == row.max() and value == table[:, q].max():
                    matched.append([p, q])
        above = table > settings.threshold
        if settings.unmatched == "paper":
            gone = [p for p in range(table.shape[0]) if not above[p].any()]
            new = [q for q in range(table.shape[1]) if not above[:, q].any()]
        else:
            gone = [p for p in range(table.shape[0]) if p not in [m[0] for m in matched]]
            new = [q for q in range(table.shape[1]) if q not in [m[1] for m in matched]]
        assignment = assign(table, settings)
        assert assignment.matched.tolist() == matched
        assert (assignment.unmatched_before.tolist(), assignment.unmatched_after.tolist()) == (gone, new)


@pytest.mark.parametrize("settings", [PAPER, RELEASE])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_a_date_without_regions_leaves_all_others_unmatched(
    shape: tuple[int, int], settings: AssignmentSettings
) -> None:
    assignment = assign(np.zeros(shape), settings)
    assert assignment.matched.shape == (0, 2)
    assert assignment.unmatched_before.tolist() == list(range(shape[0]))
    assert assignment.unmatched_after.tolist() == list(range(shape[1]))


def test_of_equal_confidences_the_first_matches_and_none_matches_twice() -> None:
    assignment = assign(np.full((3, 2), 0.5), RELEASE)
    assert assignment.matched.tolist() == [[0, 0]]


def test_matches_are_decided_on_what_is_stored() -> None:
    # In float16 both are 0.2 and a little less than τ.
    table: NDArray[np.float32] = np.array([[0.200005, 0.20001]], dtype=np.float32)
    arrays = pair_arrays(table, PAPER)
    assert arrays["confidences"].dtype == np.float16
    assert len(arrays["matched"]) == 0
    assert arrays["unmatched_before"].tolist() == [0]
    assert arrays["counts"].tolist() == [1, 2]


COUNTS = [(5, 7), (1, 1), (0, 4), (3, 0), (0, 0), (9, 2)]


@pytest.fixture(params=METHODS)
def matcher(request: pytest.FixtureRequest) -> Matcher:
    if request.param == "superglue":
        return shake(SuperGlue(SUPERGLUE, WIDTH)).eval()
    if request.param == "lightglue":
        return shake(LightGlue(LIGHTGLUE, WIDTH)).eval()
    return NearestMatcher().eval()


@torch.inference_mode()
def test_batched_equals_one_by_one(matcher: Matcher) -> None:
    pairs = random_pairs(COUNTS)
    batch = matcher(collate(pairs, 12))
    assert batch.shape == (len(pairs), 12, 12)
    assert ((batch >= 0) & (batch <= 1)).all()
    for table, (before, after) in zip(batch, pairs, strict=True):
        alone = matcher(collate([(before, after)], max(len(before), len(after), 1)))[0]
        inside = table[: len(before), : len(after)]
        torch.testing.assert_close(inside, alone[: len(before), : len(after)], rtol=0, atol=1e-5)
        assert table.count_nonzero() == inside.count_nonzero()


@torch.inference_mode()
def test_what_lies_in_the_padding_changes_nothing(matcher: Matcher) -> None:
    batch = collate(random_pairs(COUNTS), 10)
    spoilt = RegionPairs(*(tensor.clone() for tensor in vars(batch).values()))
    for name in ("centroids", "boxes", "descriptors", "scores"):
        getattr(spoilt, name)[~spoilt.valid] = 1e4
    assert torch.equal(matcher(batch), matcher(spoilt))


@torch.inference_mode()
def test_the_order_of_regions_goes_through(matcher: Matcher) -> None:
    batch = collate(random_pairs([(8, 8), (8, 8)]), 8)
    orders = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    turned = RegionPairs(
        *(
            tensor if name == "sizes" else torch.stack([tensor[:, date, orders[date]] for date in (0, 1)], dim=1)
            for name, tensor in vars(batch).items()
        )
    )
    expected = matcher(batch)[:, orders[0]][:, :, orders[1]]
    torch.testing.assert_close(matcher(turned), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_dates_are_treated_alike(matcher: Matcher) -> None:
    batch = collate(random_pairs([(6, 4)]), 6)
    turned = RegionPairs(*(tensor.flip(1) for tensor in vars(batch).values()))
    # The last of Sinkhorn's steps is one of columns, so rows keep a rest that fades with the iterations.
    torch.testing.assert_close(matcher(turned), matcher(batch).transpose(1, 2), rtol=0, atol=5e-2)


def test_a_learned_assignment_adds_up(matcher: Matcher) -> None:
    if not isinstance(matcher, LearnedMatcher):
        pytest.skip("nearest has no dustbins")
    batch = collate(random_pairs(COUNTS), 10)
    table = matcher.log_assignment(batch)
    assert table.shape == (len(COUNTS), 11, 11)
    assert (table.exp()[:, :-1].sum(2)[batch.valid[:, 0]] <= 1.05).all()
    terms = table[:, :-1, -1][batch.valid[:, 0]].sum() + table[:, -1, :-1][batch.valid[:, 1]].sum()
    terms.backward()
    for name, parameter in matcher.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


def test_nearest_against_a_plain_loop() -> None:
    ((before, after),) = random_pairs([(7, 9)], seed=4)
    table = NearestMatcher()(collate([(before, after)], 11))[0]
    vectors = [regions.descriptors.astype(np.float64) for regions in (before, after)]
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in vectors[1]] for a in vectors[0]])
    for row in range(7):
        for column in range(9):
            mutual = cosine[row].argmax() == column and cosine[:, column].argmax() == row
            expected = max(cosine[row, column], 0.0) if mutual else 0.0
            assert table[row, column] == pytest.approx(expected, abs=1e-5)


def test_regions_are_put_where_they_belong() -> None:
    rng = np.random.default_rng(0)
    one, three = random_regions(rng, 1, size=(50, 100)), random_regions(rng, 3, size=(100, 60))
    batch = collate([(one, three)], 4)
    assert batch.valid.tolist() == [[[True, False, False, False], [True, True, True, False]]]
    x, y = one.centroids[0].tolist()
    assert batch.normalised_centroids[0, 0, 0].tolist() == pytest.approx([(x - 50) / 70, (y - 25) / 70], abs=1e-6)
    left, top, right, bottom = three.boxes[2].tolist()
    extent = [(right - left) / 70, (bottom - top) / 70]
    assert batch.normalised_extents[0, 1, 2].tolist() == pytest.approx(extent, abs=1e-6)


@torch.inference_mode()
def test_lightglue_sees_positions_on_its_own_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pair = (random_regions(rng, 3, size=(50, 100)), random_regions(rng, 3, size=(100, 60)))
    matcher = LightGlue(LIGHTGLUE, WIDTH).eval()
    seen: list[torch.Tensor] = []
    real = matcher.posenc.forward
    monkeypatch.setattr(matcher.posenc, "forward", lambda positions: (seen.append(positions), real(positions))[1])
    matcher(collate([pair], 3))
    for regions, positions in zip(pair, seen, strict=True):
        height, width = regions.size
        expected = normalize_keypoints(torch.from_numpy(regions.centroids)[None], torch.tensor([[width, height]]))
        torch.testing.assert_close(positions[:, :3], expected)


@pytest.mark.parametrize("enabled", [True, False])
def test_lightglue_leaves_the_kernels_of_the_process_as_they_are(enabled: bool) -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    try:
        torch.backends.cuda.enable_flash_sdp(enabled)
        LightGlue(LIGHTGLUE, WIDTH)
        assert torch.backends.cuda.flash_sdp_enabled() == enabled
    finally:
        torch.backends.cuda.enable_flash_sdp(before)


def test_more_regions_than_the_batch_is_long_are_refused() -> None:
    with pytest.raises(ValueError, match="5 regions in a batch padded to 4"):
        collate(random_pairs([(5, 1)]), 4)
