"""Character n-grams, hashed: similar spelling gives similar vectors, without any model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.language.text_encoders.settings import HASHED

_LENGTHS: Final = (2, 3, 4)


class HashedEncoder:
    """Counts the character n-grams of 2 to 4 characters of a text's words, each with a sign, in hashed places.

    Word borders count as characters, and whole words count as well. Vectors have length 1; a text without a word has
    zeros. After Weinberger et al., "Feature hashing for large scale multitask learning" (2009).

    Args:
        width: Length of a vector.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    @property
    def identity(self) -> dict[str, Any]:
        """See `pipeline.language.text_encoders.TextEncoder`."""
        return {"encoder": HASHED, "width": self.width}

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector for every text, (texts, width) float32."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                marked = f"<{word}>"
                grams = [marked[i : i + n] for n in _LENGTHS for i in range(len(marked) - n + 1)]
                for gram in (*grams, f"={word}"):
                    number = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little")
                    row[(number >> 1) % self.width] += 1 if number & 1 else -1
            length = np.linalg.norm(row)
            if length:
                row /= length
        return vectors
