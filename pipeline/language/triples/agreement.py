"""How far two sets of triples agree: precision, recall and F1 by what is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

Labelled = tuple[str, str, str, str]
"""Head, relation, tail, family."""


@dataclass(frozen=True)
class Agreement:
    """Counts over all captions, and what follows from them.

    Attributes:
        correct: Found and expected.
        found: What the engine gave.
        expected: What the labels hold.
    """

    correct: int
    found: int
    expected: int

    @property
    def precision(self) -> float:
        """Share of what was found that is expected; 1 where nothing was found."""
        return self.correct / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of what is expected that was found; 1 where nothing is expected."""
        return self.correct / self.expected if self.expected else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.found + self.expected
        return 2 * self.correct / both if both else 1.0


_VIEWS: Final[dict[str, Callable[[Labelled], Hashable]]] = {
    "head, tail": lambda triple: (triple[0], triple[2]),
    "family": lambda triple: (triple[0], triple[2], triple[3]),
    "triple": lambda triple: triple[:3],
}


def agreement(
    found: Mapping[Hashable, Iterable[Labelled]], expected: Mapping[Hashable, Iterable[Labelled]]
) -> dict[str, Agreement]:
    """Compare the triples of captions.

    Captions are matched by key; one that only one side knows counts as without triples on the other. Within a caption
    the comparison is of multisets: a pair of entities that is expected twice must be found twice.

    Args:
        found: Triples by caption, as an engine gives them.
        expected: Triples by caption, as they should be.

    Returns:
        Agreement in "head, tail" (the two entities), "family" (entities and family) and "triple" (entities and
        relation), each counted over all captions.
    """
    table: dict[str, Agreement] = {}
    for name, view in _VIEWS.items():
        correct = total = wanted = 0
        for key in found.keys() | expected.keys():
            left = Counter(view(triple) for triple in found.get(key, ()))
            right = Counter(view(triple) for triple in expected.get(key, ()))
            correct += (left & right).total()
            total += left.total()
            wanted += right.total()
        table[name] = Agreement(correct, total, wanted)
    return table
