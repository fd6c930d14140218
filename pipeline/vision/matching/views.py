"""One image with masks → two views of it, and which region of the one is which of the other.

Random homographies and crops, applied to a picture and to masks alike.

Making one picture look as if it were taken at another time: light, season, shadows, blur, noise.

The regions of one view before it is warped: masks that may be dropped, split, merged and covered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_perspective_transform, warp_perspective
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.matching.example_settings import AppearanceSettings, EditSettings, ExampleSettings, ViewSettings


def misregistration(size: tuple[int, int], settings: ViewSettings, rng: np.random.Generator) -> Tensor:
    """Return the homography (3, 3) of a view that is all but co-registered: every corner moves by a pixel or so."""
    common, own = rng.uniform(-1, 1, (1, 2)), rng.uniform(-1, 1, (4, 2))
    return _homography(size, settings.shift * (0.8 * common + 0.2 * own))


def strong_warp(size: tuple[int, int], settings: ViewSettings, rng: np.random.Generator) -> Tensor:
    """Return the homography (3, 3) of a random crop whose corners are moved."""
    height, width = size
    kept = rng.uniform(settings.smallest_crop, 1)
    corner = rng.uniform(0, 1 - kept, 2)
    # What the crop shows fills the picture: its corners move outwards to the picture's.
    places = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
    moved = (places - corner) / kept - places + rng.uniform(-settings.warp, settings.warp, (4, 2))
    return _homography(size, moved * (width, height))


def _homography(size: tuple[int, int], moves: NDArray[np.float64]) -> Tensor:
    height, width = size
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=torch.float64)
    return get_perspective_transform(corners[None], (corners + torch.from_numpy(moves))[None])[0]


def magnification(places: NDArray[np.float64], homography: Tensor) -> NDArray[np.float64]:
    """Return (N) by how much a homography enlarges areas about `places` (N, 2): its Jacobian's determinant there."""
    matrix = homography.double().numpy()
    depth = places @ matrix[2, :2] + matrix[2, 2]
    enlarged: NDArray[np.float64] = abs(np.linalg.det(matrix)) / np.abs(depth) ** 3
    return enlarged


def warped_image(image: Tensor, homography: Tensor) -> Tensor:
    """Warp a picture (3, H, W) float; beyond its edge it is mirrored."""
    size = (image.shape[1], image.shape[2])
    matrix = homography[None].to(image.dtype)
    return warp_perspective(image[None], matrix, size, padding_mode="reflection", align_corners=True)[0]


def warped_masks(masks: Tensor, homography: Tensor) -> Tensor:
    """Warp masks (N, H, W) bool; there is nothing beyond the picture's edge."""
    if not len(masks):
        return masks
    size = (masks.shape[1], masks.shape[2])
    matrix = homography[None].float()
    warped = warp_perspective(masks[None].float(), matrix, size, mode="nearest", align_corners=True)
    return warped[0] > 0.5


_LONGEST_SHADOW = 6
_STRONGEST_BLUR = 0.9


def changed_appearance(
    image: Tensor, masks: Tensor, settings: AppearanceSettings, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change how a picture looks, and nothing about where things are.

    Args:
        image: (3, H, W) float, 0–1.
        masks: (N, H, W) bool, regions that may cast shadows.
        settings: How much.
        rng: Draws how.

    Returns:
        (H, W, 3) uint8.
    """
    image = _shadows(image, masks, settings.shadow, rng)
    image = _season(image, settings.season, rng)
    image = _light(image, settings.light, rng)
    sigma = settings.blur * float(rng.uniform(0, _STRONGEST_BLUR))
    if sigma > 0.1:
        image = gaussian_blur2d(image[None], (5, 5), (sigma, sigma))[0]
    deviation = settings.noise * float(rng.uniform(0, 0.025))
    image = image + deviation * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    pixels: NDArray[np.uint8] = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels


def _shadows(image: Tensor, masks: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Darken what lies beside a random half of the regions, all in one direction."""
    angle, length = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, _LONGEST_SHADOW)
    depth = min(0.9, strength * rng.uniform(0.1, 0.5))
    casting = masks[torch.from_numpy(rng.random(len(masks)) < 0.5)]
    if length < 1 or not len(casting):
        return image
    high = casting.any(0)
    shadow = torch.zeros_like(high)
    for step in range(1, round(length) + 1):
        shadow |= _moved(high, round(step * np.sin(angle)), round(step * np.cos(angle)))
    return torch.where(shadow & ~high, image * (1 - depth), image)


def _moved(mask: Tensor, down: int, right: int) -> Tensor:
    """Return a mask (H, W) moved by whole pixels; false comes in at the edges."""
    height, width = mask.shape
    padded = F.pad(mask, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    return padded[max(-down, 0) : max(-down, 0) + height, max(-right, 0) : max(-right, 0) + width]


def _season(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Tint what is green, as grass dries and leaves turn."""
    red, green, blue = image
    vegetation = ((2 * green - red - blue) * 8).clamp(0, 1)
    tint = torch.from_numpy(np.exp(strength * rng.normal(0, (0.25, 0.12, 0.15))).astype(np.float32))
    tinted: Tensor = image * (1 + vegetation * (tint[:, None, None] - 1))
    return tinted


def _light(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    gains = np.exp(strength * (rng.normal(0, 0.12) + rng.normal(0, 0.04, 3))).astype(np.float32)
    contrast, gamma = np.exp(strength * rng.normal(0, 0.12, 2)).tolist()
    haze = min(0.5, strength * rng.uniform(0, 0.12))
    image = (image * torch.from_numpy(gains)[:, None, None]).clamp(0, 1) ** gamma
    mean = image.mean((1, 2), keepdim=True)
    lit: Tensor = (mean + contrast * (image - mean)) * (1 - haze) + 0.85 * haze
    return lit


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
