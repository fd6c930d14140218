"""Training a matcher on examples whose correspondences are known: loss, batches, validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.vision.matching.assignment import assign
from pipeline.vision.matching.examples.augmentation import augmented
from pipeline.vision.matching.examples.settings import AugmentSettings
from pipeline.vision.matching.examples.tensors import Examples
from pipeline.vision.matching.matcher import LearnedMatcher
from pipeline.vision.matching.settings import AssignmentSettings


def losses(matcher: LearnedMatcher, examples: Examples) -> dict[str, Tensor]:
    """Return the negative log-likelihood of the true assignment (Sarlin et al. 2020, equation 11).

    The sum over matches and over both dustbins is divided by the number of its terms, and told in two parts.
    """
    table = matcher.log_assignment(examples.pairs)
    target = target_table(examples)
    terms = target.sum().clamp(min=1)
    matches = target.clone()
    matches[:, -1], matches[:, :, -1] = False, False
    return {
        "matches": -table[matches].sum() / terms,
        "dustbins": -table[target & ~matches].sum() / terms,
    }


def target_table(examples: Examples) -> Tensor:
    """Return (B, N + 1, N + 1) bool: the matches, and in the last row and column who has none."""
    counterpart, valid = examples.counterpart, examples.pairs.valid
    length = counterpart.shape[1]
    # Column N stands for "none" and is the dustbin's already.
    target = torch.nn.functional.one_hot(torch.where(counterpart < 0, length, counterpart), length + 1).bool()
    target &= valid[:, 0, :, None]
    lonely = valid[:, 1] & ~target[:, :, :length].any(1)
    last = torch.cat([lonely, torch.zeros_like(lonely[:, :1])], dim=1)
    return torch.cat([target, last[:, None]], dim=1)


def batches(examples: Examples, size: int, settings: AugmentSettings, rng: np.random.Generator) -> Iterator[Examples]:
    """Yield shuffled batches, each changed at random; a last short batch is left out."""
    order = torch.from_numpy(rng.permutation(len(examples)))
    for start in range(0, len(examples) - size + 1, size):
        yield augmented(examples.take(order[start : start + size]).trimmed(), settings, rng)


@torch.inference_mode()
def validate(
    matcher: LearnedMatcher, examples: Examples, size: int, assignment: AssignmentSettings
) -> dict[str, float]:
    """Return precision and recall of matches and of regions without counterpart, each in [0, 1]."""
    matcher.eval()
    matches, lonely = np.zeros(3), np.zeros(3)
    for start in range(0, len(examples), size):
        part = examples.take(slice(start, start + size)).trimmed()
        tables = matcher(part.pairs).float().cpu().numpy()
        truth = target_table(part).cpu().numpy()
        counts = part.pairs.valid.sum(2).tolist()
        for table, true, (before, after) in zip(tables, truth, counts, strict=True):
            found = assign(table[:before, :after], assignment)
            right = true[found.matched[:, 0], found.matched[:, 1]].sum()
            matches += right, len(found.matched), true[:before, :after].sum()
            gone, new = true[:before, -1], true[-1, :after]
            right = gone[found.unmatched_before].sum() + new[found.unmatched_after].sum()
            lonely += right, len(found.unmatched_before) + len(found.unmatched_after), gone.sum() + new.sum()
    scores = {}
    for name, (right, said, true_count) in (("match", matches), ("unmatched", lonely)):
        scores[f"{name}_precision"] = float(right / max(said, 1))
        scores[f"{name}_recall"] = float(right / max(true_count, 1))
    return scores
