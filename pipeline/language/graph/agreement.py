"""The similarity rule: which names are the same thing, decided so that doubt keeps them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.language.llm.merges import NameKind
from pipeline.language.triples.lemmas import word_set
from pipeline.language.triples.relations import PREPOSITIONS, family_of

_GROUNDS: Final = word_set("area lot space field court ground quarter block zone district site")
"""Nouns for a piece of ground: after the same word they name the same class ("parking lot", "parking area")."""
_EVENTS: Final = frozenset(("appear", "disappear"))
"""Families whose verbs may be synonyms; in the others near verbs often mean opposites ("widen", "narrow")."""

_SYNONYMS: Final[Mapping[NameKind, tuple[str, ...]]] = {
    "entity": ("forest,woods,woodland", "gym,gymnasium"),
    "relation": (
        "build,construct,erect,edify,build-up,put-up",
        "appear,show-up,show,emerge,appear-up,spring-up,pop-up,come-up",
        "disappear,vanish,go-away",
        "remove,eliminate,take-away,remove-away,clear-away,clear",
        "demolish,tear-down,knock-down,pull-down,raze,bulldoze,dismantle",
        "cut,cut-down,cut-off,fell,chop,chop-down",
        "rebuild,reconstruct",
        "complete,finish",
        "widen,broaden",
        "beside,next-to,by,adjacent-to",
    ),
}
"""Names of which no vector is needed to tell that they say the same in a change caption."""
_SAME: Final[Mapping[NameKind, Mapping[str, int]]] = {
    kind: {name: number for number, group in enumerate(groups) for name in group.split(",")}
    for kind, groups in _SYNONYMS.items()
}


def entities_agree(one: str, other: str) -> bool:
    """Tell whether two entities have the same head noun, or are one word with two nouns for a piece of ground."""
    first, second = one.split(), other.split()
    if first[-1] == second[-1]:
        return True
    return first[:-1] == second[:-1] != [] and {first[-1], second[-1]} <= _GROUNDS


def relations_agree(one: str, other: str) -> bool:
    """Tell whether two verbs belong to one family of events; prepositions agree with nothing: near ones differ."""
    if {one, other} & PREPOSITIONS:
        return False
    return family_of(one) == family_of(other) and family_of(one) in _EVENTS


@dataclass(frozen=True)
class RuleMerger:
    """Decides by a short list of synonyms, by cosine and by agreement; has the method of `LLMMerger`.

    Within a group the names, the most frequent first, join the closest earlier one that stays and that they agree
    with; so nothing is merged by a chain of likenesses.

    Attributes:
        vectors: Unit vector of every name.
        threshold: Least cosine of two names that agree.
    """

    vectors: Mapping[str, npt.NDArray[np.float32]]
    threshold: float

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        """Cut every group, its names the most frequent first, into clusters of names that mean the same."""
        proposed = []
        for group in groups:
            clusters: dict[str, list[str]] = {}
            for name in group:
                near = [(self._likeness(name, stays, kind), stays) for stays in clusters]
                likeness, best = max(near, default=(-1.0, name), key=lambda pair: pair[0])
                if likeness >= self.threshold and best != name:
                    clusters[best].append(name)
                else:
                    clusters[name] = [name]
            proposed.append(list(clusters.values()))
        return proposed

    def _likeness(self, one: str, other: str, kind: NameKind) -> float:
        """Return 1 for synonyms, the cosine of names that agree, and less than any threshold for all others."""
        group = _SAME[kind].get(one)
        if group is not None and group == _SAME[kind].get(other):
            return 1.0
        agree = entities_agree(one, other) if kind == "entity" else relations_agree(one, other)
        return float(self.vectors[one] @ self.vectors[other]) if agree else -2.0
