"""The similarity rule: which close names are the same thing, decided so that doubt keeps them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.language.llm.merges import NameKind
from pipeline.language.triples.relations import family_of, split_relation

_GROUNDS: Final = frozenset("area lot space field court ground quarter block zone district site".split())
"""Nouns for a piece of ground: after the same word they name the same class ("parking lot", "parking area")."""
_EVENTS: Final = frozenset(("appear", "disappear"))
"""Families whose verbs may be synonyms; in the others near verbs often mean opposites ("widen", "narrow")."""


def entities_agree(one: str, other: str) -> bool:
    """Tell whether two entities have the same head noun, or are one word with two nouns for a piece of ground."""
    first, second = one.split(), other.split()
    if first[-1] == second[-1]:
        return True
    return first[:-1] == second[:-1] != [] and {first[-1], second[-1]} <= _GROUNDS


def relations_agree(one: str, other: str) -> bool:
    """Tell whether two relations have the same preposition (or none), a verb each, and one family of events."""
    (verb, preposition), (other_verb, other_preposition) = split_relation(one), split_relation(other)
    return (
        verb is not None
        and other_verb is not None
        and preposition == other_preposition
        and family_of(one) == family_of(other)
        and family_of(one) in _EVENTS
    )


@dataclass(frozen=True)
class RuleMerger:
    """Decides by cosine and agreement; has the method of `pipeline.language.llm.merges.LLMMerger`.

    Within a group the names, the most frequent first, join the closest earlier one that stays and that they agree
    with; so nothing is merged by a chain of likenesses.

    Attributes:
        vectors: Unit vector of every name, by kind and name.
        thresholds: Least cosine by kind.
    """

    vectors: Mapping[NameKind, Mapping[str, npt.NDArray[np.float32]]]
    thresholds: Mapping[NameKind, float]

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        """Cut every group, its names the most frequent first, into clusters of names that mean the same."""
        agree = entities_agree if kind == "entity" else relations_agree
        vectors, threshold = self.vectors[kind], self.thresholds[kind]
        proposed = []
        for group in groups:
            clusters: dict[str, list[str]] = {}
            for name in group:
                near = [(float(vectors[name] @ vectors[stays]), stays) for stays in clusters if agree(name, stays)]
                likeness, best = max(near, default=(-1.0, ""), key=lambda pair: pair[0])
                if likeness >= threshold and best:
                    clusters[best].append(name)
                else:
                    clusters[name] = [name]
            proposed.append(list(clusters.values()))
        return proposed
