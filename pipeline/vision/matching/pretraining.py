"""Training of a matcher on examples with known correspondences: augmentation, batches, loss, validation.

Augmentation drops, replaces and moves regions of stored examples, so that descriptors need not be computed again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.vision.matching.example_settings import AugmentSettings
from pipeline.vision.matching.examples import Examples
from pipeline.vision.matching.matcher import LearnedMatcher, RegionPairs, assign
from pipeline.vision.matching.settings import AssignmentSettings


def augment(examples: Examples, settings: AugmentSettings, rng: np.random.Generator) -> Examples:
    """Augment a batch of examples at random, and update its counterparts.

    Regions of either date are dropped or replaced by another example's, the later date is shifted by a pixel or so,
    positions are mirrored and, where images are square, transposed, and dates are swapped.
    """
    examples = _edit_regions(examples, settings, rng)
    examples = _move_regions(examples, settings, rng)
    return swap_dates(examples) if rng.integers(2) else examples


def swap_dates(examples: Examples) -> Examples:
    """Return the examples with before and after swapped."""
    counterpart = examples.counterpart
    inverse = torch.full_like(counterpart, -1)
    batch, row = torch.nonzero(counterpart >= 0, as_tuple=True)
    inverse[batch, counterpart[batch, row]] = row
    return Examples(examples.pairs.map(lambda tensor: tensor.flip(1)), inverse)


def _edit_regions(examples: Examples, settings: AugmentSettings, rng: np.random.Generator) -> Examples:
    """Drop regions at random, and replace others by regions of the batch."""
    pairs = examples.pairs
    chance = torch.from_numpy(rng.random(tuple(pairs.valid.shape), dtype=np.float32)).to(pairs.valid.device)
    dropped = pairs.valid & (chance < settings.drop)
    replaced = pairs.valid & ~dropped & (chance > 1 - settings.replace)
    valid = pairs.valid & ~dropped
    candidates, targets = torch.nonzero(pairs.valid), torch.nonzero(replaced)
    donors = candidates[torch.from_numpy(rng.integers(len(candidates), size=len(targets))).to(candidates.device)]
    target, donor = tuple(targets.T), tuple(donors.T)
    descriptors, scores, boxes = pairs.descriptors.clone(), pairs.scores.clone(), pairs.boxes.clone()
    descriptors[target], scores[target] = pairs.descriptors[donor], pairs.scores[donor]
    # The donor's box, centred at the target's centroid.
    half = (pairs.boxes[donor][:, 2:] - pairs.boxes[donor][:, :2]) / 2
    centre = pairs.centroids[target]
    boxes[target] = torch.cat([centre - half, centre + half], dim=1)
    removed = dropped | replaced
    counterpart = torch.where(removed[:, 0], -1, examples.counterpart)
    lost = removed[:, 1].gather(1, counterpart.clamp(min=0)) & (counterpart >= 0)
    edited = RegionPairs(pairs.centroids, boxes, descriptors, scores, valid, pairs.sizes)
    return Examples(edited, torch.where(lost, -1, counterpart))


def _move_regions(examples: Examples, settings: AugmentSettings, rng: np.random.Generator) -> Examples:
    """Shift the later date of each pair, mirror both dates alike, and transpose square images."""
    pairs = examples.pairs
    shifts = torch.from_numpy(rng.normal(0, settings.shift, (len(pairs), 2)).astype(np.float32)).to(pairs.boxes.device)
    centroids, boxes = pairs.centroids.clone(), pairs.boxes.clone()
    centroids[:, 1] += shifts[:, None]
    boxes[:, 1] += shifts.repeat(1, 2)[:, None]
    sides = pairs.sizes.flip(-1)[:, :, None]
    for axis in (0, 1):
        if rng.integers(2):
            centroids[..., axis] = sides[..., axis] - centroids[..., axis]
            boxes[..., [axis, axis + 2]] = sides[..., axis, None] - boxes[..., [axis + 2, axis]]
    if rng.integers(2) and _all_square(pairs.sizes):
        centroids, boxes = centroids.flip(-1), boxes[..., [1, 0, 3, 2]]
    moved = RegionPairs(centroids, boxes, pairs.descriptors, pairs.scores, pairs.valid, pairs.sizes)
    return Examples(moved, examples.counterpart)


def _all_square(sizes: Tensor) -> bool:
    return bool((sizes[..., 0] == sizes[..., 1]).all())


def losses(matcher: LearnedMatcher, examples: Examples) -> dict[str, Tensor]:
    """Return the negative log-likelihood of the true assignment (Sarlin et al. 2020, equation 11).

    The sum over matches and both dustbins is divided by the number of its terms, and returned in these two parts.
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
    """Return the target (B, N + 1, N + 1) bool: matches, and in the last row and column the unmatched regions."""
    counterpart, valid = examples.counterpart, examples.pairs.valid
    length = counterpart.shape[1]
    # Regions without counterpart get column N, the dustbin.
    target = torch.nn.functional.one_hot(torch.where(counterpart < 0, length, counterpart), length + 1).bool()
    target &= valid[:, 0, :, None]
    unmatched = valid[:, 1] & ~target[:, :, :length].any(1)
    dustbin_row = torch.cat([unmatched, torch.zeros_like(unmatched[:, :1])], dim=1)
    return torch.cat([target, dustbin_row[:, None]], dim=1)


def batches(
    examples: Examples, batch_size: int, settings: AugmentSettings, rng: np.random.Generator
) -> Iterator[Examples]:
    """Yield shuffled and augmented batches; a last short batch is left out."""
    order = torch.from_numpy(rng.permutation(len(examples)))
    for start in range(0, len(examples) - batch_size + 1, batch_size):
        yield augment(examples.select(order[start : start + batch_size]).trimmed(), settings, rng)


@torch.inference_mode()
def validate(
    matcher: LearnedMatcher, examples: Examples, batch_size: int, settings: AssignmentSettings
) -> dict[str, float]:
    """Return precision and recall of matches and of unmatched regions, each in [0, 1]."""
    matcher.eval()
    matches, unmatched = np.zeros(3), np.zeros(3)
    for start in range(0, len(examples), batch_size):
        batch = examples.select(slice(start, start + batch_size)).trimmed()
        tables = matcher(batch.pairs).float().cpu().numpy()
        targets = target_table(batch).cpu().numpy()
        counts = batch.pairs.valid.sum(2).tolist()
        for table, target, (before, after) in zip(tables, targets, counts, strict=True):
            assignment = assign(table[:before, :after], settings)
            tp = target[assignment.matched[:, 0], assignment.matched[:, 1]].sum()
            matches += tp, len(assignment.matched), target[:before, :after].sum()
            disappeared, appeared = target[:before, -1], target[-1, :after]
            tp = disappeared[assignment.unmatched_before].sum() + appeared[assignment.unmatched_after].sum()
            count = len(assignment.unmatched_before) + len(assignment.unmatched_after)
            unmatched += tp, count, disappeared.sum() + appeared.sum()
    scores = {}
    for name, (tp, predicted, actual) in (("match", matches), ("unmatched", unmatched)):
        scores[f"{name}_precision"] = float(tp / max(predicted, 1))
        scores[f"{name}_recall"] = float(tp / max(actual, 1))
    return scores
