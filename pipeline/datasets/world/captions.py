"""Five sentences per pair, each true, each with the triples that it states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.datasets.world.facts import Event
from pipeline.datasets.world.phrases import Clause, Triple
from pipeline.datasets.world.sentences import SPEAKERS

NO_CHANGE = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)
"""The five sentences of every unchanged pair, which are LEVIR-CC's."""

SENTENCES = len(NO_CHANGE)
_PLACE_CHANCE = 0.55
_PLACE_CHANCE_OF_TWO = 0.45


@dataclass(frozen=True)
class Caption:
    """A sentence without capital or full stop.

    Attributes:
        text: The sentence.
        triples: What it states, in its order; empty for a no-change sentence.
        events: Positions of the events that it speaks of.
    """

    text: str
    triples: tuple[Triple, ...]
    events: tuple[int, ...]


def compose(generator: np.random.Generator, events: Sequence[Event]) -> tuple[Caption, ...]:
    """Compose five different sentences about the events of one pair; the fixed ones when there is none."""
    if not events:
        return tuple(Caption(text, (), ()) for text in NO_CHANGE)
    captions: list[Caption] = []
    # With two events, the first two sentences speak of both, so that every pair has complete ones.
    while len(captions) < SENTENCES:
        caption = _sentence(generator, events, complete=len(captions) < 2)
        if all(caption.text != other.text for other in captions):
            captions.append(caption)
    order = generator.permutation(SENTENCES)
    return tuple(captions[index] for index in order)


def _sentence(generator: np.random.Generator, events: Sequence[Event], *, complete: bool) -> Caption:
    if len(events) == 1:
        spoken = _speak(generator, events[0], _PLACE_CHANCE)
        return Caption(spoken.text, spoken.triples, (0,))
    if not complete and generator.random() < 0.6:
        index = int(generator.integers(len(events)))
        spoken = _speak(generator, events[index], _PLACE_CHANCE)
        return Caption(spoken.text, spoken.triples, (index,))
    clauses = [_speak(generator, event, _PLACE_CHANCE_OF_TWO) for event in events]
    link = " while " if generator.random() < 0.15 else " and "
    text = link.join(spoken.text for spoken in clauses)
    triples = tuple(triple for spoken in clauses for triple in spoken.triples)
    return Caption(text, triples, tuple(range(len(events))))


def _speak(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    return SPEAKERS[event.kind](generator, event, chance)
