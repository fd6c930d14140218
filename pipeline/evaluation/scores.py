"""BLEU, METEOR, ROUGE-L, CIDEr-D and S*m of candidate captions, computed by pycocoevalcap.

In the order of the data: captions are tokenized, gathered into corpora (by subset of pairs), and the corpora scored.
"""

from __future__ import annotations

import re
import subprocess
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from pipeline.datasets.records import Pair
from pipeline.datasets.settings import TokenRule
from pipeline.datasets.vocabulary import tokenize as split_words
from pipeline.datasets.words import is_latin, without_ignored
from pipeline.errors import DataError, ServiceError
from pipeline.evaluation.java import JAVA_CURE, Java, Meteor, Segment, find_java, java_environment

_PATIENCE = 600.0
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_BRACKETS = str.maketrans(
    {"(": " -lrb- ", ")": " -rrb- ", "[": " -lsb- ", "]": " -rsb- ", "{": " -lcb- ", "}": " -rcb- "}
)
_COMPOUNDS = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b")
_WORD = re.compile(r"-[lr][rsc]b-|n't\b|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,]\d+)*(?!\w)|\w+(?:[-/'&]\w+)*|%|\$|#")


def tokenize(captions: Iterable[str], java: Java | None, rule: TokenRule = "words") -> dict[str, str]:
    """Tokenize distinct captions, with one Java process for all of them.

    The tokenizer of the field knows English and the Latin script. A caption with other letters is split as the
    vocabulary splits it (`pipeline.datasets.words`), so that the scores of captions in Chinese, Japanese or Thai are
    those of characters, unless `rule` says that they are segmented.

    Args:
        captions: Any captions; repetitions are tokenized once.
        java: Runs Stanford's PTBTokenizer, the one of the field; None takes `plain_tokens`.
        rule: The vocabulary's rule, for captions that are not in Latin script.

    Returns:
        For each distinct caption its tokens, joined by single spaces.

    Raises:
        ServiceError: Java failed.
    """
    distinct = {caption: _composed(caption) for caption in captions}
    latin = [caption for caption, text in distinct.items() if is_latin(text)]
    texts = [_plain_signs(distinct[caption]) for caption in latin]
    tokens = [plain_tokens(text) for text in texts] if java is None else ptb_tokens(texts, java)
    of_latin = dict(zip(latin, tokens, strict=True))
    other: TokenRule = "spaced" if rule == "spaced" else "words"
    return {
        caption: of_latin[caption] if caption in of_latin else " ".join(split_words(text, other))
        for caption, text in distinct.items()
    }


def _composed(caption: str) -> str:
    return caption if caption.isascii() else unicodedata.normalize("NFC", without_ignored(caption))


_PTB_SIGNS: Final = frozenset("\u2018\u2019\u201c\u201d\u2010\u2011\u2013\u2014\u2026\u00ab\u00bb")


def _plain_signs(caption: str) -> str:
    """Make spaces of the punctuation beyond ASCII that the PTB tokenizer would take for words, or for parts of them."""
    return "".join(
        " " if not sign.isascii() and unicodedata.category(sign) in _SEPARATORS and sign not in _PTB_SIGNS else sign
        for sign in caption
    )


_SEPARATORS: Final = frozenset(("Cc", "Cf", "Cs", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps"))


def ptb_tokens(captions: list[str], java: Java) -> list[str]:
    """Tokenize as `pycocoevalcap.tokenizer.PTBTokenizer` does, with the same jar, options and list of punctuation.

    That class runs the first `java` on PATH and writes into the folder of the installed package, which may be
    read-only; here the text goes through a pipe. White space within a caption counts as one space.

    Raises:
        ServiceError: Java failed or answered with another number of lines.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    if not captions:
        return []
    folder = Path(ptbtokenizer.__file__).parent
    command = java.command(
        *("-cp", str(folder / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR), "edu.stanford.nlp.process.PTBTokenizer"),
        *("-preserveLines", "-lowerCase"),
    )
    text = "".join(" ".join(caption.split()) + "\n" for caption in captions)
    try:
        answer = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            timeout=_PATIENCE,
            env=java_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"the PTB tokenizer did not run: {error}", where=java.path, fix=JAVA_CURE) from error
    if answer.returncode != 0:
        reason = answer.stderr.decode(errors="replace").strip()[-500:]
        raise ServiceError(
            f"the PTB tokenizer ended with code {answer.returncode}: {reason}", where=java.path, fix=JAVA_CURE
        )
    lines = answer.stdout.decode(errors="replace").split("\n")[:-1]
    if len(lines) != len(captions):
        raise ServiceError(
            f"the PTB tokenizer answered {len(lines)} lines to {len(captions)} captions", where=java.path
        )
    punctuation = frozenset(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in punctuation) for line in lines]


def plain_tokens(caption: str) -> str:
    """Tokenize without Java.

    Lower case; words of letters and digits, with hyphens, slashes and apostrophes inside them; clitics ("'s", "n't")
    and "cannot", "gonna", "wanna" split as in the Penn Treebank; `%`, `$` and `#` kept; brackets named
    ("-lrb-"), which pycocoevalcap's list of punctuation means to drop but knows in capitals only; all other marks
    dropped. It is for captions in Latin script. On those of LEVIR-CC and Dubai-CC this equals `ptb_tokens`; on
    abbreviations with periods ("e.g.") it does not.
    """
    text = caption.lower().replace("’", "'").translate(_BRACKETS)
    text = _COMPOUNDS.sub(lambda match: " ".join(filter(None, match.groups())), text)
    return " ".join(_WORD.findall(_CONTRACTION.sub(r" \1", text)))


Subset = Literal["changed", "unchanged", "all"]
SUBSETS: Final[tuple[Subset, ...]] = get_args(Subset)
"""Subsets of a split that are scored separately; changed pairs, where captioners differ, come first."""


def split_by_change(pairs: Sequence[Pair]) -> dict[Subset, tuple[Pair, ...]]:
    """Return the pairs of each subset, in their order; pairs without a change flag are in `all` alone."""
    return {
        "changed": tuple(pair for pair in pairs if pair.changed is True),
        "unchanged": tuple(pair for pair in pairs if pair.changed is False),
        "all": tuple(pairs),
    }


METRICS: Final = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider_d", "s_m")


@dataclass(frozen=True)
class Scores:
    """Scores of one corpus, times 100, as the field reports them.

    Attributes:
        bleu_1: BLEU-1 with the closest reference length (Papineni et al., 2002); likewise up to `bleu_4`.
        bleu_2: BLEU-2.
        bleu_3: BLEU-3.
        bleu_4: BLEU-4.
        meteor: METEOR 1.5; None where there was no Java to run it.
        rouge_l: ROUGE-L with β = 1.2, the mean over pairs.
        cider_d: CIDEr-D (Vedantam et al., 2015), document frequencies taken from the scored corpus itself; up to 1000.
        s_m: S*m, the mean of BLEU-4, METEOR, ROUGE-L and CIDEr-D; None where METEOR is.
    """

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    meteor: float | None
    rouge_l: float
    cider_d: float
    s_m: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Return the scores by name, in the order of `METRICS`."""
        return asdict(self)


@dataclass(frozen=True)
class Corpus:
    """Tokenized candidates and, in the same order, the tokenized references of each."""

    candidates: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Each candidate with its references."""
        return tuple(zip(self.candidates, self.references, strict=True))


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    java: Java | Literal["auto"] | None = "auto",
    meteor: bool = True,
    tokenized: bool = False,
) -> Scores:
    """Score one caption per pair against the references of the pair.

    Args:
        candidates: A caption by pair id; it may be empty.
        references: One or more captions for each of the same pair ids.
        java: Runs the PTB tokenizer and METEOR; "auto" looks for one. None tokenizes without Java (see
            `pipeline.evaluation.scores.plain_tokens`) and leaves METEOR out.
        meteor: False leaves METEOR out, and with it six seconds of start-up.
        tokenized: The captions are tokens joined by single spaces already, and are taken as they are.

    Returns:
        The scores, equal to those of pycocoevalcap's own classes to 1e-9.

    Raises:
        DataError: The pair ids differ, there are none, or a pair has no reference.
        ServiceError: Java failed.
    """
    if candidates.keys() != references.keys():
        odd = sorted(candidates.keys() ^ references.keys())
        raise DataError(f"candidates and references are of different pairs: {len(odd)} differ, first {odd[0]!r}")
    if java == "auto":
        java = find_java() if meteor or not tokenized else None
    if not tokenized:
        words = tokenize([*candidates.values(), *(text for texts in references.values() for text in texts)], java)
        candidates = {pair: words[text] for pair, text in candidates.items()}
        references = {pair: [words[text] for text in texts] for pair, texts in references.items()}
    corpus = corpus_of(candidates, references, tuple(candidates))
    return score_corpora([corpus], java if meteor else None)[0]


def corpus_of(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], pairs: Sequence[str]) -> Corpus:
    """Gather the tokenized captions of `pairs`, in their order."""
    return Corpus(
        candidates=tuple(candidates[pair] for pair in pairs),
        references=tuple(tuple(references[pair]) for pair in pairs),
    )


def score_corpora(corpora: Sequence[Corpus], java: Java | None) -> list[Scores]:
    """Score several corpora, with one METEOR process for all and each distinct segment aligned once.

    Args:
        corpora: Subsets of one set of captions, captions of several models, or both; none may be empty.
        java: Runs METEOR; None leaves it out.

    Returns:
        The scores of each corpus, in order.

    Raises:
        DataError: A corpus is empty or a pair has no reference.
        ServiceError: Java failed.
    """
    for corpus in corpora:
        check_corpus(corpus)
    distinct = list(dict.fromkeys(corpora))
    with ExitStack() as stack:
        meteor = None
        if java is not None and distinct:
            # METEOR works in its own process: this thread only waits for it while the other metrics are computed.
            process = stack.enter_context(Meteor(java))
            meteor = stack.enter_context(ThreadPoolExecutor(1)).submit(_meteor, process, distinct)
            stack.callback(process.close)
        counts = _NgramCounts()
        others = [(_bleu(corpus, counts), _rouge_l(corpus), _cider_d(corpus, counts)) for corpus in distinct]
        meteors: Sequence[float | None] = [None] * len(distinct) if meteor is None else meteor.result()
    scores = {
        corpus: _scores(bleu, meteor_score, rouge_l, cider_d)
        for corpus, (bleu, rouge_l, cider_d), meteor_score in zip(distinct, others, meteors, strict=True)
    }
    return [scores[corpus] for corpus in corpora]


def check_corpus(corpus: Corpus) -> None:
    """Make sure that a corpus can be scored.

    Raises:
        DataError: It is empty, a pair has no reference, or no reference has a word.
    """
    if not corpus.candidates:
        raise DataError("there are no captions to score")
    if not all(corpus.references):
        raise DataError("a pair has no reference caption to be scored against")
    if not any(text for texts in corpus.references for text in texts):
        raise DataError("the reference captions hold no words")


def _scores(bleu: Sequence[float], meteor: float | None, rouge_l: float, cider_d: float) -> Scores:
    bleu_1, bleu_2, bleu_3, bleu_4 = (100.0 * float(value) for value in bleu)
    meteor = None if meteor is None else 100.0 * meteor
    rouge_l, cider_d = 100.0 * rouge_l, 100.0 * cider_d
    s_m = None if meteor is None else (bleu_4 + meteor + rouge_l + cider_d) / 4
    return Scores(bleu_1, bleu_2, bleu_3, bleu_4, meteor, rouge_l, cider_d, s_m)


class _NgramCounts:
    """n-gram counts in pycocoevalcap's form, each sentence counted once for all corpora that contain it."""

    def __init__(self) -> None:
        self.bleu_references: dict[tuple[str, ...], Any] = {}
        self.bleu_segments: dict[Segment, Any] = {}
        self.cider_sentences: dict[str, Any] = {}


def _bleu(corpus: Corpus, counts: _NgramCounts) -> Sequence[float]:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer, cook_refs, cook_test

    scorer = BleuScorer(n=4)
    for segment in corpus.segments:
        candidate, references = segment
        if references not in counts.bleu_references:
            counts.bleu_references[references] = cook_refs(list(references), n=4)
        if segment not in counts.bleu_segments:
            counts.bleu_segments[segment] = cook_test(candidate, counts.bleu_references[references], eff=None, n=4)
        scorer.crefs.append(counts.bleu_references[references])
        scorer.ctest.append(counts.bleu_segments[segment])
    bleu: Sequence[float] = scorer.compute_score(option="closest", verbose=0)[0]
    return bleu


def bleu_4(correct: Sequence[int], guesses: Sequence[int], length: int, reference_length: int) -> float:
    """Return pycocoevalcap's BLEU-4 in [0, 1] of counts summed over a corpus.

    Args:
        correct: Clipped n-grams of the candidates that are in their references, for n = 1…4.
        guesses: All n-grams of the candidates, for n = 1…4.
        length: Words of the candidates.
        reference_length: Words of the closest reference of each.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    scorer.ctest = [{"correct": correct, "guess": guesses, "testlen": length, "reflen": [reference_length]}]
    return float(scorer.compute_score(option="closest", verbose=0)[0][-1])


def _rouge_l(corpus: Corpus) -> float:
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    scores = {segment: scorer.calc_score([segment[0]], list(segment[1])) for segment in dict.fromkeys(corpus.segments)}
    return float(np.mean(np.array([scores[segment] for segment in corpus.segments])))


def _cider_d(corpus: Corpus, counts: _NgramCounts) -> float:
    from pycocoevalcap.cider.cider_scorer import CiderScorer, precook

    def ngrams(sentence: str) -> Any:
        if sentence not in counts.cider_sentences:
            counts.cider_sentences[sentence] = precook(sentence, 4)
        return counts.cider_sentences[sentence]

    scorer = CiderScorer(n=4, sigma=6.0)
    for candidate, references in corpus.segments:
        scorer.crefs.append([ngrams(reference) for reference in references])
        scorer.ctest.append(ngrams(candidate))
    return float(scorer.compute_score()[0])


def _meteor(process: Meteor, corpora: Sequence[Corpus]) -> list[float]:
    segments = list(dict.fromkeys(segment for corpus in corpora for segment in corpus.segments))
    statistics = dict(zip(segments, process.statistics(segments), strict=True))
    return [process.corpus([statistics[segment] for segment in corpus.segments]) for corpus in corpora]
