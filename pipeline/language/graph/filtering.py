"""Filtering: rare entities and relations are dropped, and with them what would stand alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipeline.errors import DataError
from pipeline.language.graph.records import Key, count_names


def filter_statements(statements: Iterable[Key], min_count: int) -> dict[Key, int]:
    """Keep the statements whose entities and relation each occur at least `min_count` times (k of Table 8).

    Occurrences are counted once, over all statements given; they are not counted again after the dropping.

    Returns:
        How often each remaining statement is made.

    Raises:
        DataError: There are no statements, or none remains; the message names the largest k that leaves something.
    """
    all_statements = list(statements)
    if not all_statements:
        raise DataError(
            "no triple was found in the training captions, so there is no graph",
            fix="look at the captions of the training split; they must be English sentences of change",
        )
    counts = count_names(all_statements)

    def rarest(key: Key) -> int:
        return min(counts.entities[key[0]], counts.relations[key[1]], counts.entities[key[2]])

    kept = Counter(key for key in all_statements if rarest(key) >= min_count)
    if not kept:
        most = max(map(rarest, all_statements))
        raise DataError(
            f"no triple is left at k = {min_count}: every one of the {len(all_statements)} has an entity or a relation "
            f"that occurs less often",
            where="graph.build.min_count",
            fix=f"set graph.build.min_count to {most} or less",
        )
    return dict(kept)
