"""The regions of one view before it is warped: masks that may be dropped, split, merged and covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.matching.examples.settings import EditSettings

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """Regions in the coordinates of the image that both views are made of.

    Attributes:
        masks: (N, H, W) bool.
        origins: Of each region the numbers of the regions it is made of; the same in both views.
        scores: (N) float32, predicted IoU.
    """

    masks: Mask
    origins: tuple[frozenset[int], ...]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.origins)

    def take(self, rows: NDArray[np.integer]) -> Layer:
        """Return the regions at `rows`."""
        return Layer(self.masks[rows], tuple(self.origins[row] for row in rows.tolist()), self.scores[rows])

    def with_region(self, mask: Mask, origin: frozenset[int], score: float) -> Layer:
        """Return the layer with one region more."""
        scores = np.append(self.scores, np.float32(score))
        return Layer(np.concatenate([self.masks, mask[None]]), (*self.origins, origin), scores)

    def covered_by(self, mask: Mask, visible_share: float) -> Layer:
        """Return what is left once `mask` (H, W) is covered; regions of which too little is left are gone."""
        left = self.masks & ~mask
        areas, before = left.sum((1, 2)), self.masks.sum((1, 2))
        kept = np.flatnonzero(areas >= np.maximum(visible_share * before, 1))
        return Layer(left, self.origins, self.scores).take(kept)


def centres(masks: Mask) -> NDArray[np.float64]:
    """Return (N, 2) the mean x and y, as indices, of the pixels of masks (N, H, W), none of which may be empty."""
    across, down = masks.sum(1), masks.sum(2)
    moments = np.stack([across @ np.arange(masks.shape[2]), down @ np.arange(masks.shape[1])], axis=1)
    places: NDArray[np.float64] = moments / across.sum(1)[:, None]
    return places


def edited(layer: Layer, settings: EditSettings, rng: np.random.Generator) -> Layer:
    """Drop, split and merge regions at random."""
    layer = layer.take(np.flatnonzero(rng.random(len(layer)) >= settings.drop))
    for _ in range(rng.binomial(len(layer), settings.split)):
        layer = _split(layer, int(rng.integers(len(layer))), rng)
    for _ in range(rng.binomial(len(layer), settings.merge)):
        layer = _merged(layer, int(rng.integers(len(layer))))
    return layer


def _split(layer: Layer, row: int, rng: np.random.Generator) -> Layer:
    """Cut a region along a line through its centre; the larger part takes its place, the other goes to the end."""
    y, x = np.nonzero(layer.masks[row])
    angle = rng.uniform(0, np.pi)
    offset = rng.normal(0, 0.15) * np.sqrt(len(x))
    beyond = (x - x.mean()) * np.cos(angle) + (y - y.mean()) * np.sin(angle) > offset
    if not beyond.any() or beyond.all():
        return layer
    if 2 * beyond.sum() > len(beyond):
        beyond = ~beyond
    masks, part = layer.masks.copy(), np.zeros_like(layer.masks[row])
    part[y[beyond], x[beyond]] = True
    masks[row] &= ~part
    divided = Layer(masks, layer.origins, layer.scores)
    return divided.with_region(part, layer.origins[row], float(layer.scores[row]))


def _merged(layer: Layer, row: int) -> Layer:
    """Join a region with the one whose centre is nearest to its own."""
    if len(layer) < 2:
        return layer
    places = centres(layer.masks)
    distances = ((places - places[row]) ** 2).sum(1)
    distances[row] = np.inf
    other = int(distances.argmin())
    rest = layer.take(np.setdiff1d(np.arange(len(layer)), [row, other]))
    score = min(float(layer.scores[row]), float(layer.scores[other]))
    return rest.with_region(layer.masks[row] | layer.masks[other], layer.origins[row] | layer.origins[other], score)


def counterparts(before: Layer, after: Layer, same_iou: float) -> NDArray[np.int64]:
    """Return of each region before the number of the one after that it is, −1 for none.

    Regions correspond if they are made of the same one, overlap by at least `same_iou`, and overlap nothing else more.
    """
    if not len(before) or not len(after):
        return np.full(len(before), -1, dtype=np.int64)
    flat = [layer.masks.reshape(len(layer), -1).astype(np.float32) for layer in (before, after)]
    overlap = flat[0] @ flat[1].T
    union = flat[0].sum(1)[:, None] + flat[1].sum(1)[None] - overlap
    related = np.array([[bool(a & b) for b in after.origins] for a in before.origins])
    iou = np.where(related, overlap / np.maximum(union, 1), 0.0)
    best = iou.argmax(1)
    rows = np.arange(len(before))
    mutual = (iou.argmax(0)[best] == rows) & (iou[rows, best] >= same_iou)
    return np.where(mutual, best, -1)
