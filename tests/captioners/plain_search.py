"""A plain way to search for captions, to judge the generation engine by.

It is written to be read: one pair at a time, Python lists, the whole caption through the model at every word.
"""

from __future__ import annotations

import torch

from benchmarks.decoding import TeacherForced
from pipeline.captioners.generation import Hypothesis, MemoryT
from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.vocabulary import END, PAD, START, UNK


@torch.inference_mode()
def plain_generate(
    model: TeacherForced[MemoryT], memory: MemoryT, row: int, settings: GenerationSettings
) -> list[Hypothesis]:
    """Search for the captions of one pair, by the rules of `pipeline.captioners.generation`, without stopping early.

    Args:
        model: A captioner in evaluation mode.
        memory: Encoded pairs.
        row: The pair in `memory`.
        settings: Beams, lengths, penalty.

    Returns:
        The `n_best` hypotheses, best first.
    """
    longest = settings.max_length - 1
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[Hypothesis] = []
    for position in range(longest):
        candidates: list[tuple[float, list[int]]] = []
        for total, words in live:
            given = torch.tensor([[START, *words]])
            logits = model.decode(memory, given, torch.tensor([row]))[0, -1]
            for word, log_probability in enumerate(torch.log_softmax(logits, dim=-1).tolist()):
                if _may_follow(word, position, longest, settings):
                    candidates.append((total + log_probability, [*words, word]))
        candidates.sort(key=lambda candidate: -candidate[0])
        candidates = [candidate for candidate in candidates if candidate[0] > -torch.inf]
        for total, words in candidates[: settings.beams]:
            if words[-1] == END:
                finished.append(Hypothesis(tuple(words), total / len(words) ** settings.length_penalty, total))
        live = [candidate for candidate in candidates if candidate[1][-1] != END][: settings.beams]
        if settings.beams == 1 and finished:
            break
    finished.sort(key=lambda hypothesis: -hypothesis.score)
    return finished[: settings.n_best]


def _may_follow(word: int, position: int, longest: int, settings: GenerationSettings) -> bool:
    if position == longest - 1:
        return word == END
    if word == END:
        return position >= settings.min_length
    return word not in (PAD, START) and (word != UNK or settings.allow_unknown)
