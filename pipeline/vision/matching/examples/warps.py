"""Random homographies and crops, applied to a picture and to masks alike."""

from __future__ import annotations

import numpy as np
import torch
from kornia.geometry.transform import get_perspective_transform, warp_perspective
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.matching.examples.settings import ViewSettings


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
