"""How well sentences tell changed pairs from unchanged ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from pipeline.errors import DataError


@dataclass(frozen=True)
class ChangeFlagScores:
    """Scores of "changed" as sentences imply it, times 100.

    Attributes:
        accuracy: Share of pairs whose sentence implies the true flag.
        precision: Share of truly changed pairs among those said to be changed; None where none is said to be.
        recall: Share of changed pairs that are said to be changed; None where none is changed.
        f1: Harmonic mean of precision and recall; None where either is, 0 where both are 0.
    """

    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Return the scores by name."""
        return asdict(self)


def change_flag_scores(
    captions: Mapping[str, str], changed: Mapping[str, bool], implies_change: Callable[[str], bool]
) -> ChangeFlagScores:
    """Compare what captions imply with the true flags.

    Args:
        captions: A caption by pair id; those of pairs without a flag are not looked at.
        changed: The true flag by pair id.
        implies_change: Tells whether a sentence says that something changed.

    Raises:
        DataError: There are no flags, or a pair with a flag has no caption.
    """
    if not changed:
        raise DataError("no pair has a change flag")
    missing = changed.keys() - captions.keys()
    if missing:
        raise DataError(f"pairs without a caption: {len(missing)}, first {min(missing)!r}")
    said = {pair: implies_change(captions[pair]) for pair in changed}
    hits = sum(said[pair] and changed[pair] for pair in changed)
    right = sum(said[pair] == changed[pair] for pair in changed)
    precision = _share(hits, sum(said.values()))
    recall = _share(hits, sum(changed.values()))
    f1 = None
    if precision is not None and recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return ChangeFlagScores(100.0 * right / len(changed), precision, recall, f1)


def _share(part: int, whole: int) -> float | None:
    return 100.0 * part / whole if whole else None
