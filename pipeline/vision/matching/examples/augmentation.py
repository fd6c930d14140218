"""Endless variety from stored examples: regions removed, exchanged and moved, descriptors staying as they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.vision.matching.examples.settings import AugmentSettings
from pipeline.vision.matching.examples.tensors import Examples
from pipeline.vision.matching.pairs import RegionPairs


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
