"""Training a matcher on examples whose correspondences are known: loss, batches, validation.

Endless variety from stored examples: regions removed, exchanged and moved, descriptors staying as they are.
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


def augmented(examples: Examples, settings: AugmentSettings, rng: np.random.Generator) -> Examples:
    """Change a batch of examples at random; its counterparts follow.

    Regions of either date are dropped or give way to another example's, the later date is moved by a pixel or so,
    dates are exchanged, and places are mirrored and, where images are square, transposed.
    """
    examples = _edited(examples, settings, rng)
    examples = _moved(examples, settings, rng)
    return exchanged(examples) if rng.integers(2) else examples


def exchanged(examples: Examples) -> Examples:
    """Return the examples with their dates exchanged."""
    counterpart = examples.counterpart
    inverse = torch.full_like(counterpart, -1)
    batch, row = torch.nonzero(counterpart >= 0, as_tuple=True)
    inverse[batch, counterpart[batch, row]] = row
    pairs = RegionPairs(*(tensor.flip(1) for tensor in vars(examples.pairs).values()))
    return Examples(pairs, inverse)


def _edited(examples: Examples, settings: AugmentSettings, rng: np.random.Generator) -> Examples:
    """Drop regions, and put others in the place of some."""
    pairs = examples.pairs
    chance = torch.from_numpy(rng.random(tuple(pairs.valid.shape), dtype=np.float32)).to(pairs.valid.device)
    dropped = pairs.valid & (chance < settings.drop)
    replaced = pairs.valid & ~dropped & (chance > 1 - settings.replace)
    valid = pairs.valid & ~dropped
    donors = torch.nonzero(pairs.valid)
    places = torch.nonzero(replaced)
    chosen = donors[torch.from_numpy(rng.integers(len(donors), size=len(places))).to(donors.device)]
    there, taken = tuple(places.T), tuple(chosen.T)
    descriptors, scores, boxes = pairs.descriptors.clone(), pairs.scores.clone(), pairs.boxes.clone()
    descriptors[there], scores[there] = pairs.descriptors[taken], pairs.scores[taken]
    # The other region's box, moved to where the centroid is.
    half = (pairs.boxes[taken][:, 2:] - pairs.boxes[taken][:, :2]) / 2
    centre = pairs.centroids[there]
    boxes[there] = torch.cat([centre - half, centre + half], dim=1)
    gone = dropped | replaced
    counterpart = torch.where(gone[:, 0], -1, examples.counterpart)
    lost = gone[:, 1].gather(1, counterpart.clamp(min=0)) & (counterpart >= 0)
    edited = RegionPairs(pairs.centroids, boxes, descriptors, scores, valid, pairs.sizes)
    return Examples(edited, torch.where(lost, -1, counterpart))


def _moved(examples: Examples, settings: AugmentSettings, rng: np.random.Generator) -> Examples:
    """Shift the later date of each pair; mirror both dates alike, and transpose square pictures."""
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
