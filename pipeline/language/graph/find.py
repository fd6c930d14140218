"""Looking up an entity by what a person types."""

from __future__ import annotations

import difflib

from pipeline.errors import DataError
from pipeline.language.graph.records import CaptionGraph
from pipeline.language.triples.conventions import normalise_entity


def find_entity(graph: CaptionGraph, phrase: str) -> int:
    """Return the position of the entity that a name, a merged name, or a phrase ("the roads") stands for.

    Raises:
        DataError: The graph does not know it; the nearest names are told.
    """
    for name in (phrase, phrase.lower().strip(), normalise_entity(phrase)):
        if name is not None and name in graph.entity_index:
            return graph.entity_index[name]
    near = difflib.get_close_matches(phrase.lower(), list(graph.entity_index), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`sagecc graph show` lists the entities"
    raise DataError(f"the graph has no entity {phrase!r}", fix=hint)
