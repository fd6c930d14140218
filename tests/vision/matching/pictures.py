"""Masked images of coloured rectangles, and settings that leave out all chance."""

from __future__ import annotations

import numpy as np

from pipeline.vision.matching.example_settings import AppearanceSettings, EditSettings, ExampleSettings, ViewSettings
from pipeline.vision.matching.views import MaskedImage

STILL = ViewSettings(shift=0, warped_share=0)
PLAIN = AppearanceSettings(light=0, season=0, shadow=0, blur=0, noise=0)
UNTOUCHED = EditSettings(drop=0, split=0, merge=0, paste=0, jitter=0, score_jitter=0)
NOTHING = ExampleSettings(views=STILL, appearance=PLAIN, edits=UNTOUCHED)


def picture(rng: np.random.Generator, *, regions: int = 5, size: tuple[int, int] = (64, 64)) -> MaskedImage:
    """Rectangles of 8 × 8 to 12 × 12 pixels in a row of cells each, on grey."""
    height, width = size
    image = np.full((height, width, 3), 120, dtype=np.uint8)
    masks = np.zeros((regions, height, width), dtype=bool)
    cells = rng.permutation((height // 16) * (width // 16))[:regions]
    for mask, cell in zip(masks, cells.tolist(), strict=True):
        top, left = 16 * (cell // (width // 16)) + 2, 16 * (cell % (width // 16)) + 2
        tall, wide = rng.integers(8, 13, 2)
        mask[top : top + tall, left : left + wide] = True
        image[mask] = rng.integers(0, 256, 3)
    return MaskedImage(image, masks, rng.uniform(0.85, 1, regions).astype(np.float32))
