"""Whether a change is told at all: by the probability of all no-change sentences together.

The likeliest sentence is a poor judge of it. Annotators deny a change in a few fixed sentences and tell of one in
thousands of ways: where a model gives 40 % to "nothing changed", each of LEVIR-CC's five sentences has 8 %, and no
single sentence of change comes near, so that beam search denies almost everything. Their sum is what the model thinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.captioners.memory import Memory
from pipeline.errors import SettingsError
from pipeline.language.no_change import NO_CHANGE_SENTENCES, implies_change
from pipeline.language.vocabulary import UNK, Vocabulary
from pipeline.training.model import PairCaptioner

SentenceT = TypeVar("SentenceT")


def no_change_tokens(dataset: str, vocabulary: Vocabulary) -> list[list[int]]:
    """Return the token ids, from start to end, of the sentences by which a data set denies change.

    Raises:
        SettingsError: They are not known, or the vocabulary lacks a word of each.
    """
    encoded = [list(vocabulary.encode(text)) for text in NO_CHANGE_SENTENCES.get(dataset, ())]
    found = [tokens for tokens in encoded if UNK not in tokens]
    if not found:
        raise SettingsError(
            f"the no-change sentences of the data set {dataset} are not known",
            where="caption.change: mass",
            fix=f"set caption.change: sentence; known are {', '.join(NO_CHANGE_SENTENCES)}",
        )
    return found


@torch.inference_mode()
def no_change_mass(
    model: PairCaptioner, memory: Memory, sentences: Sequence[Sequence[int]], smoothing: float = 0.0
) -> Tensor:
    """Return the probability (B,) that the model gives to `sentences` together.

    Args:
        model: In evaluation mode.
        memory: B encoded pairs.
        sentences: Token ids, from start to end token.
        smoothing: The ε that the model was trained with; see `PairCaptioner.log_probability`.
    """
    rows = torch.arange(len(memory), device=memory.device)
    total = torch.zeros(len(memory), device=memory.device)
    for sentence in sentences:
        tokens = torch.tensor(sentence, device=memory.device).expand(len(memory), -1)
        total += model.log_probability(memory, tokens, rows, smoothing=smoothing).exp()
    return total


def agreeing(texts: Sequence[str], sentences: Sequence[SentenceT], changed: bool) -> list[SentenceT]:
    """Put the sentences whose texts agree with the decision first, either part in its own order."""
    order = sorted(range(len(texts)), key=lambda place: implies_change(texts[place]) != changed)
    return [sentences[place] for place in order]
