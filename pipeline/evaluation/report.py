"""Everything that is measured of one set of captions: rows by subset, on words and on vocabulary ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from pipeline.datasets.records import Pair
from pipeline.errors import DataError
from pipeline.evaluation.baselines import best_constants, constant_captions, true_flag_captions
from pipeline.evaluation.change_flag import change_flag_scores
from pipeline.evaluation.java import Java
from pipeline.evaluation.notes import notes_on
from pipeline.evaluation.rows import CONSTANT, DEVIATION, MODEL, TRUE_FLAG
from pipeline.evaluation.scores import Corpus, corpus_of, score_corpora
from pipeline.evaluation.seeds import Numbers, deviation_over_seeds, mean_over_seeds
from pipeline.evaluation.subsets import SUBSETS, Subset, split_by_change
from pipeline.evaluation.tokens import tokenize
from pipeline.language.no_change import implies_change
from pipeline.language.vocabulary import UNK, Vocabulary

Row = Mapping[Subset, Mapping[str, str] | None]
"""What a captioner says of the pairs of each subset, by pair id; None where it has nothing to say."""


@dataclass(frozen=True)
class Report:
    """Results of an evaluation.

    Attributes:
        scores: Family ("words", "ids") → subset → row → metric → value; None where a subset is empty.
        change_flag: Row → accuracy, precision, recall, f1; empty when no pair has a flag.
        seeds: Seed → the model's part of `scores` and `change_flag`; empty when there is one seed.
        pairs: Number of evaluated pairs by subset.
        constants: The constant sentence of each subset.
        notes: What a reader must know about the numbers.
    """

    scores: Mapping[str, Mapping[Subset, Mapping[str, Numbers] | None]]
    change_flag: Mapping[str, Numbers]
    seeds: Mapping[str, Mapping[str, Any]]
    pairs: Mapping[Subset, int]
    constants: Mapping[Subset, str | None]
    notes: Sequence[str]


def evaluate(
    seeds: Mapping[int, Mapping[str, str]],
    pairs: Sequence[Pair],
    training: Sequence[Pair],
    *,
    java: Java | None,
    meteor: bool = True,
    vocabulary: Vocabulary | None = None,
    candidates: int = 1000,
) -> Report:
    """Score the captions of every seed, beside two trivial rows.

    Args:
        seeds: Seed → caption by pair id, for all `pairs` or more.
        pairs: The pairs to evaluate on; those without references are left out, and a note says so.
        training: Pairs of the training split: the constants are chosen among their captions.
        java: Runs the PTB tokenizer and METEOR, or None.
        meteor: False leaves METEOR out.
        vocabulary: Turns captions into ids for the family "ids"; None leaves that family out.
        candidates: How many training captions to try as constants.

    Raises:
        DataError: No pair has a reference, or the references hold no words.
        ServiceError: Java failed.
    """
    undescribed = sum(not pair.captions for pair in pairs)
    pairs = [pair for pair in pairs if pair.captions]
    if not pairs:
        raise DataError(
            "no pair has a reference caption to score against",
            fix="add captions to the data set and run `sagecc prepare`, or caption another split",
        )
    references = [text for pair in (*pairs, *training) for text in pair.captions]
    tokens = tokenize([*references, *(text for captions in seeds.values() for text in captions.values())], java)
    constants = best_constants(training, tokens, candidates)
    subsets = split_by_change(pairs)

    rows: dict[str, Row] = {str(seed): dict.fromkeys(SUBSETS, captions) for seed, captions in seeds.items()}
    rows[CONSTANT] = {subset: constant_captions(subsets[subset], constants[subset]) for subset in SUBSETS}
    rows[TRUE_FLAG] = {subset: true_flag_captions(subsets[subset], constants) for subset in SUBSETS}

    families: dict[str, Callable[[str], str]] = {"words": tokens.__getitem__}
    if vocabulary is not None:
        families["ids"] = cache(partial(ids_of, vocabulary=vocabulary))
    runtime = java if meteor else None
    by_row = _score_rows(rows, subsets, families, runtime)
    sentences = {subset: text and " ".join(text.split()) for subset, text in constants.items()}
    flags = {row: _flags(captions["all"], pairs) for row, captions in rows.items()}
    notes = notes_on(by_row["words"]["all"][TRUE_FLAG], subsets, sentences, java, meteor)
    if undescribed:
        notes.append(f"{undescribed} pairs without references were left out.")

    names = [str(seed) for seed in seeds]
    return Report(
        scores={
            family: {
                subset: _with_mean(scored, names) if subsets[subset] else None for subset, scored in per_subset.items()
            }
            for family, per_subset in by_row.items()
        },
        change_flag=_with_mean(flags, names) if any(pair.changed is not None for pair in pairs) else {},
        seeds={} if len(names) < 2 else {name: _of_seed(by_row, flags, subsets, name) for name in names},
        pairs={subset: len(subsets[subset]) for subset in SUBSETS},
        constants=sentences,
        notes=notes,
    )


def ids_of(caption: str, vocabulary: Vocabulary) -> str:
    """Return the vocabulary ids of a caption's words as a string, as the authors' release scores them."""
    return " ".join(str(vocabulary.index.get(word, UNK)) for word in vocabulary.tokenize(caption))


def _score_rows(
    rows: Mapping[str, Row],
    subsets: Mapping[Subset, Sequence[Pair]],
    families: Mapping[str, Callable[[str], str]],
    java: Java | None,
) -> dict[str, dict[Subset, dict[str, Numbers | None]]]:
    places: list[tuple[str, Subset, str]] = []
    corpora: list[Corpus] = []
    scored: dict[str, dict[Subset, dict[str, Numbers | None]]] = {}
    for family, convert in families.items():
        scored[family] = {subset: dict.fromkeys(rows) for subset in SUBSETS}
        references = {pair.id: tuple(convert(text) for text in pair.captions) for pair in subsets["all"]}
        for subset in SUBSETS:
            ids = [pair.id for pair in subsets[subset]]
            for name, row in rows.items():
                captions = row[subset]
                if ids and captions is not None:
                    candidates = {pair: convert(captions[pair]) for pair in ids}
                    places.append((family, subset, name))
                    corpora.append(corpus_of(candidates, references, ids))
    for (family, subset, name), scores in zip(places, score_corpora(corpora, java), strict=True):
        scored[family][subset][name] = scores.as_dict()
    return scored


def _flags(captions: Mapping[str, str] | None, pairs: Sequence[Pair]) -> Numbers | None:
    changed = {pair.id: pair.changed for pair in pairs if pair.changed is not None}
    return None if captions is None or not changed else change_flag_scores(captions, changed, implies_change).as_dict()


def _with_mean(rows: Mapping[str, Numbers | None], seeds: Sequence[str]) -> dict[str, Numbers]:
    results = [row for name in seeds if (row := rows[name]) is not None]
    merged: dict[str, Numbers] = {MODEL: mean_over_seeds(results)}
    if len(results) > 1:
        merged[DEVIATION] = deviation_over_seeds(results)
    for name in (CONSTANT, TRUE_FLAG):
        row = rows[name]
        if row is not None:
            merged[name] = row
    return merged


def _of_seed(
    by_row: Mapping[str, Mapping[Subset, Mapping[str, Numbers | None]]],
    flags: Mapping[str, Numbers | None],
    subsets: Mapping[Subset, Sequence[Pair]],
    name: str,
) -> dict[str, Any]:
    scores = {
        family: {subset: rows[name] for subset, rows in per_subset.items() if subsets[subset]}
        for family, per_subset in by_row.items()
    }
    return {**scores, "change_flag": flags[name]}
