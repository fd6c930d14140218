"""Making one picture look as if it were taken at another time: light, season, shadows, blur, noise."""

from __future__ import annotations

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.matching.examples.settings import AppearanceSettings

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
