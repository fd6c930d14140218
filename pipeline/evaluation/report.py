"""Evaluation of captions: the captioner's scores by subset, on words and on vocabulary ids, beside two baselines.

In the order of the data: `evaluate` scores every row, takes change flags from the sentences, averages over training
seeds, and adds notes that a reader needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Final

from pipeline.datasets.english import reads_as_english
from pipeline.datasets.no_change import ChangeRule
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import TokenRule
from pipeline.datasets.vocabulary import UNK, Vocabulary
from pipeline.datasets.words import unspaced_length
from pipeline.errors import DataError
from pipeline.evaluation.baselines import best_constants, constant_captions, true_flag_captions
from pipeline.evaluation.bootstrap import Interval, intervals, pair_statistics
from pipeline.evaluation.java import JAVA_CURE, Java
from pipeline.evaluation.scores import SUBSETS, Corpus, Subset, corpus_of, score_corpora, split_by_change, tokenize

MODEL: Final = "model"
"""The captioner; with several seeds, their mean."""

DEVIATION: Final = "model_deviation"
"""Sample standard deviation of `MODEL` over seeds."""

CONSTANT: Final = "constant"
"""The best constant sentence of the subset."""

TRUE_FLAG: Final = "true_flag"
"""The true change flag: one sentence for all changed pairs and one for all unchanged pairs."""

LABELS: Final = {MODEL: "model", CONSTANT: "best constant sentence", TRUE_FLAG: "true flag, generic sentence"}
"""Labels of the rows in tables and plots."""

_BOOTSTRAP_SEED: Final = 0

Numbers = Mapping[str, float | None]
"""Numbers by name; None where one does not exist."""


Row = Mapping[Subset, Mapping[str, str] | None]
"""A captioner's captions of each subset by pair id; None where it has none."""


@dataclass(frozen=True)
class Report:
    """Results of an evaluation.

    Attributes:
        scores: Family ("words", "ids") → subset → row → metric → value; None where a subset is empty.
        change_flag: Row → accuracy, precision, recall, f1; empty when no pair has a flag.
        seeds: Seed → the model's part of `scores` and `change_flag`; empty when there is one seed.
        pairs: Number of evaluated pairs by subset.
        intervals: The model's central 95 % over resamples of the changed pairs, on words, by metric; empty without any.
        constants: The constant sentence of each subset.
        notes: Caveats that a reader needs beside the numbers.
    """

    scores: Mapping[str, Mapping[Subset, Mapping[str, Numbers] | None]]
    change_flag: Mapping[str, Numbers]
    seeds: Mapping[str, Mapping[str, Any]]
    pairs: Mapping[Subset, int]
    intervals: Mapping[str, Interval]
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
    resamples: int = 0,
    token_rule: TokenRule = "words",
    change_rule: ChangeRule | None = None,
) -> Report:
    """Score the captions of every training seed, and the two baselines beside them.

    Args:
        seeds: Seed → caption by pair id, for all `pairs` or more.
        pairs: Pairs to evaluate on; those without references are left out, with a note.
        training: Pairs of the training split, whose captions are the candidates for the constants.
        java: Runs the PTB tokenizer and METEOR, or None.
        meteor: False leaves METEOR out.
        vocabulary: Turns captions into ids for the family "ids"; None leaves that family out.
        candidates: How many training captions to try as constants.
        resamples: Resamples of the changed pairs; 0: no intervals.
        token_rule: The vocabulary's, for captions that are not in Latin script; see `pipeline.evaluation.scores`.
        change_rule: Tells whether a sentence states a change; None: the rule for English.

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
    tokens = tokenize(
        [*references, *(text for captions in seeds.values() for text in captions.values())], java, token_rule
    )
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
    flags = {row: _flags(captions["all"], pairs, change_rule or ChangeRule()) for row, captions in rows.items()}
    notes = notes_on(by_row["words"]["all"][TRUE_FLAG], subsets, sentences, java, meteor)
    notes.extend(language_notes([text for pair in pairs for text in pair.captions], tokens))
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
        intervals=_intervals(seeds, subsets["changed"], tokens, resamples),
        constants=sentences,
        notes=notes,
    )


def _intervals(
    seeds: Mapping[int, Mapping[str, str]], pairs: Sequence[Pair], tokens: Mapping[str, str], resamples: int
) -> dict[str, Interval]:
    if not pairs or not resamples:
        return {}
    references = {pair.id: tuple(tokens[text] for text in pair.captions) for pair in pairs}
    statistics = {
        seed: pair_statistics(
            corpus_of({pair: tokens[captions[pair]] for pair in references}, references, list(references))
        )
        for seed, captions in seeds.items()
    }
    return intervals(statistics, resamples=resamples, seed=_BOOTSTRAP_SEED)


def ids_of(caption: str, vocabulary: Vocabulary) -> str:
    """Return the vocabulary ids of a caption's words as a string, as the authors' release scores them."""
    return " ".join(str(vocabulary.index.get(word, UNK)) for word in vocabulary.tokenize(caption))


def _score_rows(
    rows: Mapping[str, Row],
    subsets: Mapping[Subset, Sequence[Pair]],
    families: Mapping[str, Callable[[str], str]],
    java: Java | None,
) -> dict[str, dict[Subset, dict[str, Numbers | None]]]:
    cells: list[tuple[str, Subset, str]] = []
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
                    cells.append((family, subset, name))
                    corpora.append(corpus_of(candidates, references, ids))
    for (family, subset, name), scores in zip(cells, score_corpora(corpora, java), strict=True):
        scored[family][subset][name] = scores.as_dict()
    return scored


@dataclass(frozen=True)
class ChangeFlagScores:
    """Scores of the change flag that sentences imply, times 100.

    Attributes:
        accuracy: Share of pairs whose sentence implies the true flag.
        precision: Share of truly changed pairs among those predicted as changed; None where none is.
        recall: Share of changed pairs that are predicted as changed; None where none is changed.
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
    """Compare the change flags that captions imply with the true ones.

    Args:
        captions: A caption by pair id; those of pairs without a flag are ignored.
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
    predicted = {pair: implies_change(captions[pair]) for pair in changed}
    true_positives = sum(predicted[pair] and changed[pair] for pair in changed)
    correct = sum(predicted[pair] == changed[pair] for pair in changed)
    precision = _percent(true_positives, sum(predicted.values()))
    recall = _percent(true_positives, sum(changed.values()))
    f1 = None
    if precision is not None and recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if true_positives else 0.0
    return ChangeFlagScores(100.0 * correct / len(changed), precision, recall, f1)


def _percent(count: int, total: int) -> float | None:
    return 100.0 * count / total if total else None


def _flags(captions: Mapping[str, str] | None, pairs: Sequence[Pair], rule: ChangeRule) -> Numbers | None:
    changed = {pair.id: pair.changed for pair in pairs if pair.changed is not None}
    return None if captions is None or not changed else change_flag_scores(captions, changed, rule).as_dict()


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


def mean_over_seeds(results: Sequence[Numbers]) -> dict[str, float | None]:
    """Return the mean of each number over the seeds; None where any seed has none.

    Raises:
        ValueError: There are no seeds, or their names differ.
    """
    return _over_seeds(results, _mean)


def deviation_over_seeds(results: Sequence[Numbers]) -> dict[str, float | None]:
    """Return the sample standard deviation (divisor n - 1) of each number; None where any seed has none.

    Raises:
        ValueError: There are fewer than two seeds, or their names differ.
    """
    if len(results) < 2:
        raise ValueError("a deviation needs two seeds or more")
    return _over_seeds(results, _deviation)


def _over_seeds(results: Sequence[Numbers], combine: Callable[[Sequence[float]], float]) -> dict[str, float | None]:
    if not results:
        raise ValueError("there are no seeds")
    names = list(results[0])
    if any(list(result) != names for result in results):
        raise ValueError("the seeds have different numbers")
    combined: dict[str, float | None] = {}
    for name in names:
        values = [result[name] for result in results]
        defined = [value for value in values if value is not None]
        combined[name] = combine(defined) if len(defined) == len(values) else None
    return combined


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    centre = _mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


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


def language_notes(references: Sequence[str], tokens: Mapping[str, str]) -> list[str]:
    """Return what a reader has to know of the scores of captions that are not English.

    Args:
        references: The reference captions.
        tokens: The tokens of each, as the metrics see them.
    """
    notes = []
    foreign = sum(not reads_as_english(text) for text in references)
    if foreign / len(references) >= _FOREIGN_SHARE:
        notes.append(
            f"{foreign:,} of the {len(references):,} references are not English. METEOR knows stems, synonyms and "
            "function words of English only and matches equal words elsewhere: compare METEOR and S*m within one "
            "language. The change flag of a sentence follows from prepare.no_change_sentences and from rules for "
            "English."
        )
    characters = sum(any(unspaced_length(word) for word in tokens[text].split()) for text in references)
    if characters:
        notes.append(
            f"{characters:,} of the {len(references):,} references are in a script without spaces. Unless they are "
            "segmented (prepare.vocabulary.tokens: spaced), each of their characters is a word to every metric: BLEU-4 "
            "is of four characters."
        )
    return notes


_FOREIGN_SHARE: Final = 0.01  # among English captions fewer than one in a thousand is not taken for English


def notes_on(
    oracle: Numbers | None,
    subsets: Mapping[Subset, Sequence[Pair]],
    constants: Mapping[Subset, str | None],
    java: Java | None,
    meteor: bool,
) -> list[str]:
    """Return the caveats that a reader needs beside the numbers.

    Args:
        oracle: Scores of the row `TRUE_FLAG` on all pairs, on words; None where it could not be made.
        subsets: The evaluated pairs.
        constants: The constant sentence of each subset.
        java: The Java runtime, None where there is none.
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
