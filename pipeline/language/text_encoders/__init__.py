"""Text encoders: short texts in, one vector each out; the same text gives the same vector, whatever it comes with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.language.text_encoders.settings import HASHED, TextEncoderSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["TextEncoder", "TextEncoderSettings", "build_text_encoder"]


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def identity(self) -> dict[str, Any]:
        """What it is, JSON-able: its name, and the SHA-256 of its files if it has any; the same everywhere."""

    @property
    def width(self) -> int:
        """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector for every text, (texts, width) float32."""


def build_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Load the text encoder that the settings name.

    Raises:
        CheckpointError: A folder holds no model that transformers can read, or its files are damaged.
        ServiceError: A model must be fetched from the hub, and cannot be.
    """
    if settings.encoder == HASHED:
        from pipeline.language.text_encoders.hashed import HashedEncoder

        return HashedEncoder(settings.width)
    from pipeline.language.text_encoders.pretrained import PretrainedEncoder

    return PretrainedEncoder.load(settings)
