from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.vision.matching.build import learned_matcher
from pipeline.vision.matching.example_settings import AugmentSettings
from pipeline.vision.matching.examples import Examples
from pipeline.vision.matching.matcher import collate
from pipeline.vision.matching.pretraining import augment, batches, losses, swap_dates, target_table, validate
from pipeline.vision.matching.settings import AssignmentSettings
from tests.training.cuda_determinism import Operators
from tests.vision.matching.region_data import WIDTH, matcher_settings, random_pairs

COUNTS = [(5, 4), (0, 3), (2, 0), (3, 3)]
COUNTERPARTS = [[3, -1, 0, -1, 1], [], [-1, -1], [2, 1, 0]]


def examples() -> Examples:
    counterpart = torch.full((len(COUNTS), 6), -1)
    for row, numbers in enumerate(COUNTERPARTS):
        counterpart[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return Examples(collate(random_pairs(COUNTS), 6), counterpart)


@pytest.mark.parametrize("method", ["superglue", "lightglue"])
def test_loss_against_a_plain_loop(method: str) -> None:
    matcher = learned_matcher(matcher_settings(method), WIDTH).eval()
    batch = examples()
    table = matcher.log_assignment(batch.pairs)
    matched, binned, terms = 0.0, 0.0, 0
    for pair, ((before, after), numbers) in enumerate(zip(COUNTS, COUNTERPARTS, strict=True)):
        for row in range(before):
            if numbers[row] >= 0:
                matched -= table[pair, row, numbers[row]].item()
            else:
                binned -= table[pair, row, -1].item()
            terms += 1
        for column in range(after):
            if column not in numbers:
                binned -= table[pair, -1, column].item()
                terms += 1
    values = losses(matcher, batch)
    assert values["matches"].item() == pytest.approx(matched / terms, rel=1e-5)
    assert values["dustbins"].item() == pytest.approx(binned / terms, rel=1e-5)


def test_swapped_dates_have_the_transposed_target() -> None:
    batch = examples()
    swapped = swap_dates(batch)
    assert torch.equal(target_table(swapped), target_table(batch).transpose(1, 2))
    assert torch.equal(swap_dates(swapped).counterpart, batch.counterpart)


def test_augmented_examples_keep_their_correspondences() -> None:
    batch = examples()
    # Every region carries its own number, so that it is known again.
    batch.pairs.scores.copy_(torch.arange(batch.pairs.scores.numel()).view_as(batch.pairs.scores))
    correspondences = {
        (before, after)
        for pair, row in torch.nonzero(batch.counterpart >= 0).tolist()
        for before, after in [
            (batch.pairs.scores[pair, 0, row].item(), batch.pairs.scores[pair, 1, batch.counterpart[pair, row]].item())
        ]
    }
    correspondences |= {(after, before) for before, after in correspondences}
    settings = AugmentSettings(drop=0.2, replace=0.2)
    remaining = 0
    for seed in range(20):
        changed = augment(batch, settings, np.random.default_rng(seed))
        assert changed.pairs.valid.sum() <= batch.pairs.valid.sum()
        rows = torch.nonzero(changed.counterpart >= 0).tolist()
        for pair, row in rows:
            column = int(changed.counterpart[pair, row])
            assert changed.pairs.valid[pair, 0, row]
            assert changed.pairs.valid[pair, 1, column]
            pairing = changed.pairs.scores[pair, 0, row].item(), changed.pairs.scores[pair, 1, column].item()
            assert pairing in correspondences
        remaining += len(rows)
        torch.testing.assert_close(
            (changed.pairs.boxes[..., :2] + changed.pairs.boxes[..., 2:])[changed.pairs.valid] / 2,
            changed.pairs.centroids[changed.pairs.valid],
            rtol=0,
            atol=1e-3,
        )
    assert 0.3 < remaining / (20 * 6) < 0.8


def test_without_chance_only_the_view_changes() -> None:
    batch = examples()
    still = AugmentSettings(drop=0, replace=0, shift=0)
    positions = set()
    for seed in range(20):
        changed = augment(batch, still, np.random.default_rng(seed))
        positions.add(round(float(changed.pairs.centroids[0, 0, 0, 0]), 3))
        extents = (changed.pairs.boxes[..., 2:] - changed.pairs.boxes[..., :2]).flatten(0, 1).sum((1, 2)).sort().values
        expected = (batch.pairs.boxes[..., 2:] - batch.pairs.boxes[..., :2]).flatten(0, 1).sum((1, 2)).sort().values
        torch.testing.assert_close(extents, expected)
        assert (changed.counterpart >= 0).sum() == 6
    # Two dates, two mirrors; pictures that are not square are not transposed.
    assert len(positions) == 4


def test_trimmed_examples_have_the_same_loss() -> None:
    matcher = learned_matcher(matcher_settings("superglue"), WIDTH).eval()
    batch = examples()
    small = batch.trimmed()
    assert small.pairs.valid.shape == (4, 2, 5)
    for name, value in losses(matcher, batch).items():
        torch.testing.assert_close(losses(matcher, small)[name], value, rtol=1e-5, atol=1e-6)


def test_batches_hold_every_example_once_and_are_the_same_again() -> None:
    batch = Examples(examples().pairs.select(torch.arange(4).repeat(2)), torch.arange(48).view(8, 6) * 0 - 1)
    batch.pairs.scores[:, :, 0] = torch.arange(8.0)[:, None]
    still = AugmentSettings(drop=0, replace=0)

    def scores() -> list[list[float]]:
        return [chunk.pairs.scores[:, 0, 0].tolist() for chunk in batches(batch, 3, still, np.random.default_rng(0))]

    seen = scores()
    assert [len(batch) for batch in seen] == [3, 3]
    assert len({number for batch in seen for number in batch}) == 6
    assert seen == scores()


def test_a_perfect_answer_scores_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = learned_matcher(matcher_settings("superglue"), WIDTH)
    batch = examples()
    monkeypatch.setattr(matcher, "forward", lambda pairs: target_table(batch)[:, :5, :5].float())
    scores = validate(matcher, batch, 8, AssignmentSettings())
    assert scores == {name: 1.0 for name in scores}
    assert len(scores) == 4


@pytest.mark.parametrize("method", ["superglue", "lightglue"])
def test_a_few_steps_learn_what_is_plain_to_see(method: str) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pairs, numbers = [], torch.full((24, 8), -1)
    for row, (before, _) in enumerate(random_pairs([(8, 1)] * 24)):
        order = rng.permutation(8)[:6]
        after = type(before)(
            **{name: value if name == "size" else value[order] for name, value in vars(before).items()}
        )
        pairs.append((before, after))
        numbers[row, torch.from_numpy(order)] = torch.arange(6)
    batch = Examples(collate(pairs, 8), numbers)
    matcher = learned_matcher(matcher_settings(method), WIDTH)
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=3e-3)
    values = []
    with Operators() as ran:
        for _ in range(40):
            loss = torch.stack(list(losses(matcher, batch).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
    assert values[-1] < 0.6 * values[0]
    # So that a GPU can do it in the same way each time.
    assert not ran.nondeterministic
