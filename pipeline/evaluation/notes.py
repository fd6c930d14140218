"""What a reader must know about an evaluation, in sentences made from the evaluation itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.datasets.records import Pair
from pipeline.evaluation.java import JAVA_CURE, Java
from pipeline.evaluation.rows import CONSTANT, TRUE_FLAG
from pipeline.evaluation.seeds import Numbers
from pipeline.evaluation.subsets import SUBSETS, Subset


def notes_on(
    oracle: Numbers | None,
    subsets: Mapping[Subset, Sequence[Pair]],
    constants: Mapping[Subset, str | None],
    java: Java | None,
    meteor: bool,
) -> list[str]:
    """Say what a reader must know about the numbers.

    Args:
        oracle: Scores of the row `TRUE_FLAG` on all pairs, on words; None where it could not be made.
        subsets: The evaluated pairs.
        constants: The constant sentence of each subset.
        java: The runtime that was found.
        meteor: Whether METEOR was asked for.
    """
    notes = []
    if oracle is not None and subsets["changed"] and subsets["unchanged"]:
        reached = ", ".join(
            f"{label} {value:.1f}"
            for label, metric in (("BLEU-4", "bleu_4"), ("CIDEr-D", "cider_d"), ("S*m", "s_m"))
            if (value := oracle[metric]) is not None
        )
        notes.append(
            f"The row {TRUE_FLAG} sees no picture: told the true flag, it says one sentence of every changed pair "
            f"({constants['changed']!r}) and one of every unchanged pair ({constants['unchanged']!r}). On all pairs "
            f"together it reaches {reached}, so an unsplit score says little: compare captioners on changed pairs."
        )
    notes.append(
        f"The row {CONSTANT} says, within each subset, the sentence that scores best on the training pairs of that "
        f"subset; on changed pairs alone and on unchanged pairs alone {TRUE_FLAG} therefore says the same."
    )
    notes.extend(f"There are no {subset} pairs to score." for subset in SUBSETS if not subsets[subset])
    unflagged = len(subsets["all"]) - len(subsets["changed"]) - len(subsets["unchanged"])
    if unflagged:
        notes.append(f"{unflagged} pairs have no change flag: they count among all pairs only.")
    if any(constants[subset] is None and subsets[subset] for subset in SUBSETS):
        notes.append("The training split lacks captions to choose a constant sentence from: trivial rows are missing.")
    for subset in SUBSETS:
        described = {tuple(sorted(pair.captions)) for pair in subsets[subset]}
        if len(described) == 1:
            notes.append(
                f"The {subset} pairs all have the same references: every n-gram is in every document, so CIDEr-D is 0 "
                "for any caption and S*m cannot pass 75."
            )
    if java is None:
        notes.append(
            "There is no Java here: METEOR and S*m are missing, and captions were tokenized by the project's own rule "
            f"instead of Stanford's PTBTokenizer. Cure: {JAVA_CURE}."
        )
    elif not meteor:
        notes.append("METEOR is switched off (`meteor: off`), and with it S*m.")
    return notes
