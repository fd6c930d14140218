"""Colour profiles and gamma: colours that a file measures otherwise than sRGB, brought to sRGB as viewers do."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SRGB_GAMMA: Final = 0.45455
_STEP: Final = 2
"""Levels of 255 by which a profile may differ from sRGB and still count as sRGB: writers' versions of it do."""

_SPACES: Final = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
"""Colour space that a profile must be made for, by Pillow's mode of the pixels."""


def to_srgb(pixels: NDArray[np.uint8], mode: str, profile: bytes) -> tuple[NDArray[np.uint8] | None, str]:
    """Bring pixels to sRGB by the colour profile of their file.

    Args:
        pixels: uint8, (H, W, 3) for RGB, (H, W) for L, (H, W, 4) for CMYK.
        mode: Pillow's name of their kind.
        profile: The ICC profile.

    Returns:
        uint8, (H, W, 3), None where nothing is to be done; and a remark, "" if there is nothing to tell.
    """
    from PIL import Image, ImageCms

    try:
        transform, name = _transform(profile, mode)
    # Viewers pass over profiles that they cannot read; Pillow raises PyCMSError, OSError, ValueError or TypeError.
    except Exception:
        return None, "its colour profile cannot be used and is passed over"
    if transform is None:
        return None, ""
    converted = ImageCms.applyTransform(Image.fromarray(pixels, mode), transform)
    assert converted is not None
    return np.array(converted, dtype=np.uint8), f"its colours are brought from the profile {name!r} to sRGB"


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> tuple[Any, str]:
    """Return the transform to sRGB, None where the profile is sRGB itself; and the profile's name."""
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    name = " ".join(ImageCms.getProfileDescription(source).split())
    if source.profile.xcolor_space != _SPACES[mode]:
        raise ValueError("made for other pixels")
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform, name
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    probe = lattice if mode == "RGB" else np.arange(256, dtype=np.uint8)[None]
    converted = ImageCms.applyTransform(Image.fromarray(probe, mode), transform)
    expected = probe if mode == "RGB" else np.repeat(probe[..., None], 3, axis=2)
    same = np.abs(np.asarray(converted).astype(int) - expected).max() <= _STEP
    return (None if same else transform), name


def gamma_table(gamma: float) -> NDArray[np.uint8] | None:
    """Return the 256 sRGB values of a PNG's values by the gamma that it declares; None if they are sRGB's already."""
    if gamma <= 0 or abs(gamma / _SRGB_GAMMA - 1) < 0.05:
        return None
    # PNG specification, 12.2 and 13.13: value = light ** gamma; displays show value ** 2.2.
    return np.rint(255 * (np.arange(256) / 255) ** (_SRGB_GAMMA / gamma)).astype(np.uint8)
