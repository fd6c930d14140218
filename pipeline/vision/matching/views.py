"""Two augmented views of one masked image, with the correspondences of their regions.

Regions of other images are pasted in, regions are dropped, split and merged, and each view is warped by a homography
and changed in appearance: light, season, shadows, blur, noise.
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
from pipeline.vision.tensors import boxes_of_masks, rotate_and_flip

_LONGEST_SHADOW = 6
_STRONGEST_BLUR = 0.9
_LARGEST_PASTED = 0.06
"""Largest share of the image that a pasted region may cover."""

Mask = NDArray[np.bool_]


def misregistration(size: tuple[int, int], settings: ViewSettings, rng: np.random.Generator) -> Tensor:
    """Return the homography (3, 3) of a nearly co-registered view, whose corners move by `settings.shift` at most."""
    common, own = rng.uniform(-1, 1, (1, 2)), rng.uniform(-1, 1, (4, 2))
    return _homography(size, settings.shift * (0.8 * common + 0.2 * own))


def strong_warp(size: tuple[int, int], settings: ViewSettings, rng: np.random.Generator) -> Tensor:
    """Return the homography (3, 3) of a random crop with displaced corners."""
    height, width = size
    side = rng.uniform(settings.smallest_crop, 1)
    offset = rng.uniform(0, 1 - side, 2)
    # The crop is enlarged to the image's size: its corners move outwards to the image's.
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
    shifts = (corners - offset) / side - corners + rng.uniform(-settings.warp, settings.warp, (4, 2))
    return _homography(size, shifts * (width, height))


def _homography(size: tuple[int, int], shifts: NDArray[np.float64]) -> Tensor:
    """Return the homography (3, 3) that shifts the corners of an image by `shifts` (4, 2) px; clockwise from (0, 0)."""
    height, width = size
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=torch.float64)
    return get_perspective_transform(corners[None], (corners + torch.from_numpy(shifts))[None])[0]


def magnification(points: NDArray[np.float64], homography: Tensor) -> NDArray[np.float64]:
    """Return the factor (N) by which a homography enlarges areas at `points` (N, 2): its Jacobian determinant."""
    matrix = homography.double().numpy()
    depth = points @ matrix[2, :2] + matrix[2, 2]
    determinants: NDArray[np.float64] = abs(np.linalg.det(matrix)) / np.abs(depth) ** 3
    return determinants


def warp_image(image: Tensor, homography: Tensor) -> Tensor:
    """Warp an image (3, H, W) float, reflecting it at its edges."""
    size = (image.shape[1], image.shape[2])
    matrix = homography[None].to(image.dtype)
    return warp_perspective(image[None], matrix, size, padding_mode="reflection", align_corners=True)[0]


def warp_masks(masks: Tensor, homography: Tensor) -> Tensor:
    """Warp masks (N, H, W) bool; outside the image they are false."""
    if not len(masks):
        return masks
    size = (masks.shape[1], masks.shape[2])
    matrix = homography[None].float()
    warped = warp_perspective(masks[None].float(), matrix, size, mode="nearest", align_corners=True)
    return warped[0] > 0.5


def change_appearance(
    image: Tensor, masks: Tensor, settings: AppearanceSettings, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change an image's colours as between two acquisitions, without moving anything.

    Args:
        image: (3, H, W) float, 0–1.
        masks: (N, H, W) bool, regions that may cast shadows.
        settings: Strength of each change.
        rng: Source of the random choices.

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
    """Let a random half of the regions cast shadows in one common direction."""
    angle, length = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, _LONGEST_SHADOW)
    depth = min(0.9, strength * rng.uniform(0.1, 0.5))
    casting = masks[torch.from_numpy(rng.random(len(masks)) < 0.5)]
    if length < 1 or not len(casting):
        return image
    casters = casting.any(0)
    shadow = torch.zeros_like(casters)
    for step in range(1, round(length) + 1):
        shadow |= _shifted(casters, round(step * np.sin(angle)), round(step * np.cos(angle)))
    return torch.where(shadow & ~casters, image * (1 - depth), image)


def _shifted(mask: Tensor, down: int, right: int) -> Tensor:
    """Return a mask (H, W) shifted by whole pixels, filled with false at the edges."""
    height, width = mask.shape
    padded = F.pad(mask, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    return padded[max(-down, 0) : max(-down, 0) + height, max(-right, 0) : max(-right, 0) + width]


def _season(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Tint green pixels, as seasons change vegetation."""
    red, green, blue = image
    vegetation = ((2 * green - red - blue) * 8).clamp(0, 1)
    tint = torch.from_numpy(np.exp(strength * rng.normal(0, (0.25, 0.12, 0.15))).astype(np.float32))
    tinted: Tensor = image * (1 + vegetation * (tint[:, None, None] - 1))
    return tinted


def _light(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change brightness, colour balance, contrast, gamma and haze."""
    gains = np.exp(strength * (rng.normal(0, 0.12) + rng.normal(0, 0.04, 3))).astype(np.float32)
    contrast, gamma = np.exp(strength * rng.normal(0, 0.12, 2)).tolist()
    haze = min(0.5, strength * rng.uniform(0, 0.12))
    image = (image * torch.from_numpy(gains)[:, None, None]).clamp(0, 1) ** gamma
    mean = image.mean((1, 2), keepdim=True)
    lit: Tensor = (mean + contrast * (image - mean)) * (1 - haze) + 0.85 * haze
    return lit


@dataclass(frozen=True)
class RegionLayer:
    """Regions of one view before it is warped, in the coordinates of the image of both views.

    Attributes:
        masks: (N, H, W) bool.
        origins: The numbers of the original regions that each region consists of; shared by both views.
        scores: (N) float32, predicted IoU.
    """

    masks: Mask
    origins: tuple[frozenset[int], ...]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.origins)

    def select(self, rows: NDArray[np.integer]) -> RegionLayer:
        """Return the regions at `rows`."""
        return RegionLayer(self.masks[rows], tuple(self.origins[row] for row in rows.tolist()), self.scores[rows])

    def with_region(self, mask: Mask, origin: frozenset[int], score: float) -> RegionLayer:
        """Return the layer with a region appended."""
        scores = np.append(self.scores, np.float32(score))
        return RegionLayer(np.concatenate([self.masks, mask[None]]), (*self.origins, origin), scores)

    def covered_by(self, mask: Mask, visible_share: float) -> RegionLayer:
        """Return the layer with `mask` (H, W) removed from all regions, without those that become too small."""
        visible = self.masks & ~mask
        areas, full_areas = visible.sum((1, 2)), self.masks.sum((1, 2))
        rows = np.flatnonzero(areas >= np.maximum(visible_share * full_areas, 1))
        return RegionLayer(visible, self.origins, self.scores).select(rows)


def mask_centres(masks: Mask) -> NDArray[np.float64]:
    """Return the mean x and y (N, 2), as pixel indices, of non-empty masks (N, H, W)."""
    columns, rows = masks.sum(1), masks.sum(2)
    moments = np.stack([columns @ np.arange(masks.shape[2]), rows @ np.arange(masks.shape[1])], axis=1)
    centres: NDArray[np.float64] = moments / columns.sum(1)[:, None]
    return centres


def edit_regions(layer: RegionLayer, settings: EditSettings, rng: np.random.Generator) -> RegionLayer:
    """Drop, split and merge regions at random."""
    layer = layer.select(np.flatnonzero(rng.random(len(layer)) >= settings.drop))
    for _ in range(rng.binomial(len(layer), settings.split)):
        layer = _split(layer, int(rng.integers(len(layer))), rng)
    for _ in range(rng.binomial(len(layer), settings.merge)):
        layer = _merged(layer, int(rng.integers(len(layer))))
    return layer


def _split(layer: RegionLayer, row: int, rng: np.random.Generator) -> RegionLayer:
    """Split a region along a line near its centre; the larger part keeps its row, the other is appended."""
    y, x = np.nonzero(layer.masks[row])
    angle = rng.uniform(0, np.pi)
    offset = rng.normal(0, 0.15) * np.sqrt(len(x))
    beyond = (x - x.mean()) * np.cos(angle) + (y - y.mean()) * np.sin(angle) > offset
    if not beyond.any() or beyond.all():
        return layer
    if 2 * beyond.sum() > len(beyond):
        beyond = ~beyond
    masks, smaller = layer.masks.copy(), np.zeros_like(layer.masks[row])
    smaller[y[beyond], x[beyond]] = True
    masks[row] &= ~smaller
    larger = RegionLayer(masks, layer.origins, layer.scores)
    return larger.with_region(smaller, layer.origins[row], float(layer.scores[row]))


def _merged(layer: RegionLayer, row: int) -> RegionLayer:
    """Merge a region with the one whose centre is nearest to its own."""
    if len(layer) < 2:
        return layer
    centres = mask_centres(layer.masks)
    distances = ((centres - centres[row]) ** 2).sum(1)
    distances[row] = np.inf
    other = int(distances.argmin())
    rest = layer.select(np.setdiff1d(np.arange(len(layer)), [row, other]))
    score = min(float(layer.scores[row]), float(layer.scores[other]))
    return rest.with_region(layer.masks[row] | layer.masks[other], layer.origins[row] | layer.origins[other], score)


def counterparts_by_origin(before: RegionLayer, after: RegionLayer, same_iou: float) -> NDArray[np.int64]:
    """Return the number of the counterpart after of each region before, −1 for none.

    Regions correspond if they share an original region, overlap by an IoU of at least `same_iou`, and each is the
    other's best overlap among such regions.
    """
    if not len(before) or not len(after):
        return np.full(len(before), -1, dtype=np.int64)
    flat = [layer.masks.reshape(len(layer), -1).astype(np.float32) for layer in (before, after)]
    intersection = flat[0] @ flat[1].T
    union = flat[0].sum(1)[:, None] + flat[1].sum(1)[None] - intersection
    related = np.array([[bool(a & b) for b in after.origins] for a in before.origins])
    iou = np.where(related, intersection / np.maximum(union, 1), 0.0)
    best = iou.argmax(1)
    rows = np.arange(len(before))
    mutual = (iou.argmax(0)[best] == rows) & (iou[rows, best] >= same_iou)
    return np.where(mutual, best, -1)


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
class AugmentedView:
    """One date of an example: an image and its regions.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (N, H, W) bool.
        boxes: (N, 4) float32 px, of the masks, with jitter.
        centroids: (N, 2) float32 px, of the masks, with jitter.
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
    draw_donor: Callable[[np.random.Generator], MaskedImage],
    settings: ExampleSettings,
    length: int,
    rng: np.random.Generator,
) -> tuple[AugmentedView, AugmentedView, NDArray[np.int64]]:
    """Make two views of one image.

    Args:
        source: The image.
        draw_donor: Draws an image of the same size from which regions are pasted.
        settings: How views differ.
        length: Maximum number of regions of a view; those with the lowest scores are left out.
        rng: Source of all random choices.

    Returns:
        The earlier and the later view, and for each region of the earlier one the number of its counterpart, −1 for
        none.
    """
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    base = _rotated(source, turns, mirrored)
    images, layers = _paste_regions(base, lambda: _rotated(draw_donor(rng), turns, mirrored), settings, rng)
    size = (base.image.shape[0], base.image.shape[1])
    strong = rng.random() < settings.views.warped_share
    homographies = [
        misregistration(size, settings.views, rng),
        (strong_warp if strong else misregistration)(size, settings.views, rng),
    ]
    # The strong warp must not tell which date is the later one.
    if rng.random() < 0.5:
        homographies.reverse()
    views, visible_layers = [], []
    for image, layer, homography in zip(images, layers, homographies, strict=True):
        layer = edit_regions(layer, settings.edits, rng)
        view, layer = _warped_view(image, layer, homography, settings, length, rng)
        views.append(view)
        visible_layers.append(layer)
    return views[0], views[1], counterparts_by_origin(visible_layers[0], visible_layers[1], settings.same_iou)


def _rotated(source: MaskedImage, quarter_turns: int, mirrored: bool) -> MaskedImage:
    """Rotate and mirror an image with its masks; images that are not square only by half turns."""
    turns = quarter_turns if source.image.shape[0] == source.image.shape[1] else 2 * (quarter_turns // 2)
    pixels = torch.from_numpy(source.image).permute(2, 0, 1)
    image = rotate_and_flip(pixels, turns, mirrored).permute(1, 2, 0).contiguous().numpy()
    masks = rotate_and_flip(torch.from_numpy(source.masks), turns, mirrored).contiguous().numpy()
    return MaskedImage(image, masks, source.scores)


def _paste_regions(
    base: MaskedImage, draw_donor: Callable[[], MaskedImage], settings: ExampleSettings, rng: np.random.Generator
) -> tuple[list[NDArray[np.uint8]], list[RegionLayer]]:
    """Return images and layers of both views with regions of other images pasted in.

    Four in ten are pasted into both, so that the traces of pasting do not tell whether a region has a counterpart.
    """
    origins = tuple(frozenset([number]) for number in range(len(base.scores)))
    images = [base.image.copy(), base.image.copy()]
    layers = [RegionLayer(base.masks, origins, base.scores)] * 2
    for number in range(rng.poisson(settings.edits.paste)):
        dates = [(0, 1), (0,), (1,)][int(rng.choice(3, p=[0.4, 0.3, 0.3]))]
        # New objects often replace others.
        replaced = layers[dates[0]] if rng.random() < settings.edits.replace else None
        cutout = _cut_out(draw_donor(), replaced, rng)
        if cutout is None:
            continue
        image, mask, score = cutout
        for date in dates:
            images[date][mask] = image[mask]
            covered = layers[date].covered_by(mask, settings.visible_share)
            layers[date] = covered.with_region(mask, frozenset([len(origins) + number]), score)
    return images, layers


def _cut_out(
    donor: MaskedImage, replaced: RegionLayer | None, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], float] | None:
    """Draw a small region of an image and translate it.

    Args:
        donor: The image.
        replaced: Regions onto one of which it is moved; None: it is moved anywhere.
        rng: Draws region and position.

    Returns:
        The translated image and mask, and the region's score; None if the image has no small region.
    """
    height, width = donor.image.shape[:2]
    small = np.flatnonzero(donor.masks.sum((1, 2)) <= _LARGEST_PASTED * height * width)
    if not len(small):
        return None
    row = int(rng.choice(small))
    y, x = np.nonzero(donor.masks[row])
    # Within these limits the region stays inside the image, and does not wrap around its edges.
    low, high = (-y.min(), -x.min()), (height - 1 - y.max(), width - 1 - x.max())
    if replaced is not None and len(replaced):
        rows, columns = np.nonzero(replaced.masks[int(rng.integers(len(replaced)))])
        offset = np.array([rows.mean() - y.mean(), columns.mean() - x.mean()]) + rng.normal(0, 2, 2)
        shift = np.clip(np.round(offset).astype(int), low, high)
    else:
        shift = rng.integers(low, high, endpoint=True)
    image, mask = np.roll(donor.image, shift, axis=(0, 1)), np.roll(donor.masks[row], shift, axis=(0, 1))
    return image, mask, float(donor.scores[row])


def _warped_view(
    pixels: NDArray[np.uint8],
    layer: RegionLayer,
    homography: Tensor,
    settings: ExampleSettings,
    length: int,
    rng: np.random.Generator,
) -> tuple[AugmentedView, RegionLayer]:
    """Warp image and regions; return the view, and the layer of the regions visible in it before the warp."""
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    masks = warp_masks(torch.from_numpy(layer.masks), homography)
    areas = masks.sum((1, 2)).numpy()
    # The area of the whole warped region, beyond the image's edges too.
    full_areas = layer.masks.sum((1, 2)) * magnification(mask_centres(layer.masks), homography)
    visible = (areas >= settings.smallest_area) & (areas >= settings.visible_share * full_areas)
    rows = np.flatnonzero(visible)
    rows = np.sort(rows[np.argsort(-layer.scores[rows], kind="stable")[:length]])
    layer = layer.select(rows)
    visible_masks = masks[torch.from_numpy(rows)].numpy()
    pixels = change_appearance(warp_image(image, homography), masks, settings.appearance, rng)
    boxes, centroids = _jittered_geometry(visible_masks, settings.edits, rng)
    noise = rng.normal(0, settings.edits.score_jitter, len(rows))
    scores = np.clip(layer.scores + noise, 0, 1).astype(np.float32)
    return AugmentedView(pixels, visible_masks, boxes, centroids, scores), layer


def _jittered_geometry(
    masks: NDArray[np.bool_], settings: EditSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes (N, 4) and centroids (N, 2) of non-empty masks (N, H, W), as inexact as those of a segmenter."""
    height, width = masks.shape[1:]
    boxes = boxes_of_masks(torch.from_numpy(masks)).double().numpy()
    centroids = mask_centres(masks) + 0.5
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    noise = rng.normal(0, settings.jitter, boxes.shape) * sides
    jittered = np.clip(boxes + noise, 0, (width, height, width, height))
    # A box keeps at least a pixel.
    jittered[:, 2:] = np.maximum(jittered[:, 2:], np.minimum(jittered[:, :2] + 1, (width, height)))
    jittered[:, :2] = np.minimum(jittered[:, :2], jittered[:, 2:] - 1)
    centroids += (noise[:, :2] + noise[:, 2:]) / 4
    return jittered.astype(np.float32), np.clip(centroids, 0, (width, height)).astype(np.float32)
