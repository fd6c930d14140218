"""One image with masks → two views of it, and which region of the one is which of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.matching.examples.appearance import changed_appearance
from pipeline.vision.matching.examples.layers import Layer, centres, counterparts, edited
from pipeline.vision.matching.examples.settings import EditSettings, ExampleSettings
from pipeline.vision.matching.examples.warps import (
    magnification,
    misregistration,
    strong_warp,
    warped_image,
    warped_masks,
)

_LARGEST_PASTED = 0.06
"""Share of the picture that a region painted in may cover."""


@dataclass(frozen=True)
class MaskedImage:
    """An image and its regions.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (N, H, W) bool.
        scores: (N) float32, predicted IoU.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """What one date of an example shows.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (N, H, W) bool.
        boxes: (N, 4) float32 px, of the masks but for the jitter.
        centroids: (N, 2) float32 px, likewise.
        scores: (N) float32.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    centroids: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


def make_example(
    source: MaskedImage,
    another: Callable[[np.random.Generator], MaskedImage],
    settings: ExampleSettings,
    length: int,
    rng: np.random.Generator,
) -> tuple[View, View, NDArray[np.int64]]:
    """Make two views of one image.

    Args:
        source: The image.
        another: Draws an image from which regions are painted in; it must be as large as `source`.
        settings: How views differ.
        length: Regions a view has at most; those with the lowest scores are left out.
        rng: Draws everything.

    Returns:
        The earlier and the later view, and of each region of the earlier one the number of its counterpart, −1 for
        none.
    """
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    base = _turned(source, turns, mirrored)
    pictures, layers = _painted(base, lambda: _turned(another(rng), turns, mirrored), settings, rng)
    size = (base.image.shape[0], base.image.shape[1])
    strong = rng.random() < settings.views.warped_share
    homographies = [
        misregistration(size, settings.views, rng),
        (strong_warp if strong else misregistration)(size, settings.views, rng),
    ]
    # Which date is the undistorted one says nothing.
    if rng.random() < 0.5:
        homographies.reverse()
    views, kept = [], []
    for picture, layer, homography in zip(pictures, layers, homographies, strict=True):
        layer = edited(layer, settings.edits, rng)
        view, layer = _view(picture, layer, homography, settings, length, rng)
        views.append(view)
        kept.append(layer)
    return views[0], views[1], counterparts(kept[0], kept[1], settings.same_iou)


def _turned(source: MaskedImage, turns: int, mirrored: bool) -> MaskedImage:
    """Turn by quarters and mirror: overhead images have no up. Only square ones are turned by one or three."""
    turns = turns if source.image.shape[0] == source.image.shape[1] else 2 * (turns // 2)
    image, masks = np.rot90(source.image, turns), np.rot90(source.masks, turns, axes=(1, 2))
    if mirrored:
        image, masks = image[:, ::-1], masks[..., ::-1]
    return MaskedImage(np.ascontiguousarray(image), np.ascontiguousarray(masks), source.scores)


def _painted(
    base: MaskedImage, another: Callable[[], MaskedImage], settings: ExampleSettings, rng: np.random.Generator
) -> tuple[list[NDArray[np.uint8]], list[Layer]]:
    """Return pictures and layers of both views with regions of other images painted in.

    Four in ten are painted into both, so that a region's being painted says nothing about its having a counterpart.
    """
    origins = tuple(frozenset([number]) for number in range(len(base.scores)))
    pictures = [base.image.copy(), base.image.copy()]
    layers = [Layer(base.masks, origins, base.scores)] * 2
    for number in range(rng.poisson(settings.edits.paste)):
        into = [(0, 1), (0,), (1,)][int(rng.choice(3, p=[0.4, 0.3, 0.3]))]
        # What is new often stands where something else stood before.
        replaced = layers[into[0]] if rng.random() < settings.edits.replace else None
        piece = _piece(another(), replaced, rng)
        if piece is None:
            continue
        image, mask, score = piece
        for date in into:
            pictures[date][mask] = image[mask]
            covered = layers[date].covered_by(mask, settings.visible_share)
            layers[date] = covered.with_region(mask, frozenset([len(origins) + number]), score)
    return pictures, layers


def _piece(
    source: MaskedImage, replaced: Layer | None, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], float] | None:
    """Take a small region out of an image and move it.

    Args:
        source: The image.
        replaced: Regions onto one of which it is moved; None for a move to anywhere.
        rng: Draws region and place.

    Returns:
        The picture and the mask after the move, and the region's score; None if the image has no small region.
    """
    height, width = source.image.shape[:2]
    small = np.flatnonzero(source.masks.sum((1, 2)) <= _LARGEST_PASTED * height * width)
    if not len(small):
        return None
    row = int(rng.choice(small))
    y, x = np.nonzero(source.masks[row])
    # Within these the region stays within the picture, so that nothing of it comes round the edge.
    least, most = (-y.min(), -x.min()), (height - 1 - y.max(), width - 1 - x.max())
    if replaced is not None and len(replaced):
        there = np.nonzero(replaced.masks[int(rng.integers(len(replaced)))])
        wanted = np.array([there[0].mean() - y.mean(), there[1].mean() - x.mean()]) + rng.normal(0, 2, 2)
        move = np.clip(np.round(wanted).astype(int), least, most)
    else:
        move = rng.integers(least, most, endpoint=True)
    image, mask = np.roll(source.image, move, axis=(0, 1)), np.roll(source.masks[row], move, axis=(0, 1))
    return image, mask, float(source.scores[row])


def _view(
    picture: NDArray[np.uint8],
    layer: Layer,
    homography: Tensor,
    settings: ExampleSettings,
    length: int,
    rng: np.random.Generator,
) -> tuple[View, Layer]:
    """Warp picture and regions; return the view, and the regions that it shows as they were before the warp."""
    image = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    masks = warped_masks(torch.from_numpy(layer.masks), homography)
    areas = masks.sum((1, 2)).numpy()
    # What the whole region would cover if the picture had no edge.
    whole = layer.masks.sum((1, 2)) * magnification(centres(layer.masks), homography)
    visible = (areas >= settings.smallest_area) & (areas >= settings.visible_share * whole)
    rows = np.flatnonzero(visible)
    rows = np.sort(rows[np.argsort(-layer.scores[rows], kind="stable")[:length]])
    layer = layer.take(rows)
    shown = masks[torch.from_numpy(rows)].numpy()
    pixels = changed_appearance(warped_image(image, homography), masks, settings.appearance, rng)
    boxes, centroids = _geometry(shown, settings.edits, rng)
    noise = rng.normal(0, settings.edits.score_jitter, len(rows))
    scores = np.clip(layer.scores + noise, 0, 1).astype(np.float32)
    return View(pixels, shown, boxes, centroids, scores), layer


def _geometry(
    masks: NDArray[np.bool_], settings: EditSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes (N, 4) and centroids (N, 2) of masks (N, H, W), as inexact as those of a segmenter."""
    height, width = masks.shape[1:]
    boxes = np.zeros((len(masks), 4))
    for axis, length in enumerate((width, height)):
        line = np.asarray(masks.any(axis=1 + axis))
        boxes[:, axis] = line.argmax(1)
        boxes[:, 2 + axis] = length - line[:, ::-1].argmax(1)
    centroids = centres(masks) + 0.5
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moves = rng.normal(0, settings.jitter, boxes.shape) * sides
    moved = np.clip(boxes + moves, 0, (width, height, width, height))
    # A box keeps at least a pixel.
    moved[:, 2:] = np.maximum(moved[:, 2:], np.minimum(moved[:, :2] + 1, (width, height)))
    moved[:, :2] = np.minimum(moved[:, :2], moved[:, 2:] - 1)
    centroids += (moves[:, :2] + moves[:, 2:]) / 4
    return moved.astype(np.float32), np.clip(centroids, 0, (width, height)).astype(np.float32)
