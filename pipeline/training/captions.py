"""The captions of a split as one table of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """What turns a caption into token ids, start and end included: a vocabulary."""

    def encode(self, caption: str) -> Sequence[int]:
        """Return the token ids of `caption`."""


@dataclass(frozen=True)
class CaptionTable:
    """All captions of P pairs; pair p owns rows `offsets[p]` to `offsets[p + 1]`.

    Attributes:
        tokens: (K, T) int32 ids, from the start token to the end token, then padding (0).
        lengths: (K,) int64 tokens of each caption.
        offsets: (P + 1,) int64.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Captions of each pair (P,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def caption_table(captions: Sequence[Sequence[str]], vocabulary: Encoder) -> CaptionTable:
    """Encode the captions of each pair.

    Raises:
        DataError: A caption is longer than the vocabulary's limit.
        ValueError: A pair has no caption; such pairs are to be left out beforehand.
    """
    if not all(captions):
        raise ValueError("a pair without captions cannot be trained on")
    encoded = [vocabulary.encode(caption) for group in captions for caption in group]
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    tokens = np.zeros((len(encoded), int(lengths.max(initial=0))), dtype=np.int32)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)] = ids
    offsets = np.concatenate([[0], np.cumsum([len(group) for group in captions])]).astype(np.int64)
    return CaptionTable(tokens, lengths, offsets)
