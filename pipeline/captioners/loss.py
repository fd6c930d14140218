"""The training loss of a captioner."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.language.vocabulary import PAD


def caption_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of equation (23), averaged over the words of the batch.

    Label smoothing is the paper's: the true word gets 1 − ε, each of the V − 1 others ε / (V − 1). PyTorch gives
    every word, the true one included, ε' / V of its own ε'; both agree for ε' = ε V / (V − 1).

    Args:
        logits: (N, T, V), as `decode` returns them for tokens 0…T−1 of each caption.
        targets: Tokens 1…T of the captions, (N, T); padding does not count. The start token is no target, since
            nothing predicts it.
        smoothing: ε in [0, (V − 1) / V).

    Returns:
        Scalar in float32.
    """
    size = logits.shape[-1]
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=PAD,
        label_smoothing=smoothing * size / (size - 1),
    )
