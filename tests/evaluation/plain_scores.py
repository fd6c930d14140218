"""BLEU-4 and CIDEr-D as plain loops over the equations of their papers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def ngrams(text: str, order: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def plain_bleu_4(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 by equations (1) to (3) of Papineni et al. (2002), with the closest reference length."""
    logs = 0.0
    for order in range(1, 5):
        correct = total = 0
        for candidate, texts in zip(candidates, references, strict=True):
            for ngram, count in ngrams(candidate, order).items():
                correct += min(count, max(ngrams(text, order)[ngram] for text in texts))
                total += count
        logs += math.log(correct / total) / 4
    length = sum(len(candidate.split()) for candidate in candidates)
    closest = 0
    for candidate, texts in zip(candidates, references, strict=True):
        size = len(candidate.split())
        closest += min((len(text.split()) for text in texts), key=lambda other: (abs(other - size), other))
    return math.exp(logs + min(0.0, 1 - closest / length))


def plain_cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D by equations (1) to (4) of Vedantam et al. (2015), lengths in bigrams as the released code has them."""
    total = 0.0
    for candidate, texts in zip(candidates, references, strict=True):
        for text in texts:
            for order in range(1, 5):

                def weights(sentence: str, order: int = order) -> dict[tuple[str, ...], float]:
                    weighted = {}
                    for ngram, count in ngrams(sentence, order).items():
                        documents = sum(any(ngram in ngrams(other, order) for other in row) for row in references)
                        weighted[ngram] = count * math.log(len(references) / max(1, documents))
                    return weighted

                one, other = weights(candidate), weights(text)
                norm = math.dist(one.values(), [0.0] * len(one)) * math.dist(other.values(), [0.0] * len(other))
                product = sum(min(value, other.get(ngram, 0)) * other.get(ngram, 0) for ngram, value in one.items())
                difference = sum(ngrams(candidate, 2).values()) - sum(ngrams(text, 2).values())
                similarity = product / norm if norm else 0.0
                total += 10 * similarity * math.exp(-(difference**2) / 72) / 4 / len(texts) / len(candidates)
    return total
