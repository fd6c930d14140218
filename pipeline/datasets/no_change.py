"""Whether a sentence states a change: the no-change sentences of the data sets, and a rule for any sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.english import reads_as_english
from pipeline.datasets.words import words
from pipeline.errors import SettingsError

ENGLISH: Final = "en"


Sentences = Mapping[str, Sequence[str]]
"""Sentences by which a data set denies change, by language: "en", "hi", "zh"."""


def no_change_sentences() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the no-change sentences of the data sets that list them: data set → language → sentences.

    A data set whose adapter cannot be imported is passed over: the error comes where it is used.
    """
    sentences: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in ADAPTERS.names:
        with suppress(SettingsError):
            if texts := ADAPTERS.resolve(name).no_change:
                sentences[name] = {ENGLISH: texts}
    return sentences


class ChangeRule:
    """Rule that tells whether a sentence states a change: the listed sentences, then the rule for English.

    Sentences are compared by their words (`pipeline.datasets.words`): case, punctuation and forms of Unicode are one.

    Args:
        sentences: Those that deny change, by language.
    """

    def __init__(self, sentences: Sentences | None = None) -> None:
        listed = sentences or {}
        self._denying = frozenset(words(text) for texts in listed.values() for text in texts) - {()}
        self._foreign = any(texts for language, texts in listed.items() if language.partition("-")[0] != ENGLISH)

    def __call__(self, caption: str) -> bool:
        """Return whether a sentence says that something changed; see `implies_change`."""
        return words(caption) not in self._denying and implies_change(caption)

    def can_judge(self, caption: str) -> bool:
        """Return whether the answer means anything: the sentence is English, or another language's are listed."""
        return self._foreign or words(caption) in self._denying or reads_as_english(caption)


_NOUN: Final = r"(?:changes?|changed|differences?|modifications?|alterations?|variations?|transformations?)"
_LINK: Final = (
    r"(?:is|are|was|were|be|been|being|seems?|seemed|looks?|looked|appears?|appeared|remains?|remained|stays?|stayed"
    r"|keeps?|kept|still|almost|nearly|exactly|basically|mostly|largely|entirely|completely|virtually|all)"
)
_ADVERB: Final = r"(?:to be |as |still |quite |very |almost |nearly |exactly |(?:\w+ly) )?"
_EVENT: Final = (
    r"(?:appear(?:s|ed|ing)?|disappear(?:s|ed|ing)?|vanish(?:es|ed)?|emerg(?:es?|ed|ing)|show(?:s|ed|n)? up"
    r"|buil[dt]s?|construct(?:s|ed|ing)?|erect(?:s|ed)?|edified|realized|realised|creat(?:es?|ed)|made"
    r"|add(?:s|ed|ing)?|remov(?:es?|ed|ing)|clear(?:s|ed)|demolish(?:es|ed)?|destroy(?:s|ed)?|replac(?:es?|ed|ing)"
    r"|extend(?:s|ed)?|expand(?:s|ed)?|enlarg(?:es?|ed)|widen(?:s|ed)?|shr[aiu]nk|shrinks|reduc(?:es?|ed)"
    r"|increas(?:es?|ed)|decreas(?:es?|ed)|gr[eo]w|grows|grown|becomes?|became|turn(?:s|ed)?|convert(?:s|ed)?"
    r"|transform(?:s|ed)?|urbani[sz]ed|chang(?:es?|ed|ing)|modified|altered|moved|cut|dried|planted|harvested|new)"
)

_NO_CHANGE: Final = re.compile(
    r"\b(?:"
    # no change, no big difference, no land cover change, without any changes, hardly any difference
    rf"(?:no(?! longer)|not any|without(?: any)?|hardly any|barely any|nor any) (?:[\w-]+ ){{0,3}}?{_NOUN}"
    # nothing has changed, nothing seems to be different
    rf"|nothing (?:[\w-]+ ){{0,4}}?(?:different|happened|occurred|{_EVENT})"
    # is the same, remains exactly the same, the same as before
    rf"|{_LINK} {_ADVERB}the same|the same as (?:before|earlier|it was|they were)|as (?:it was|they were|before)"
    # are identical, remain unchanged, look alike
    rf"|{_LINK} {_ADVERB}(?:identical|similar|alike|unchanged|unaltered|unmodified|intact|stable)|unchanged"
    # has not changed, did not change, is not different, hasn't changed
    r"|(?:(?:do|does|did|has|have|had|is|are|was|were)(?: not|n't)|never) (?:\w+ly )?(?:been )?"
    r"(?:chang(?:e|ed|ing)|different|differ|modified|altered)"
    # no buildings have been built, no new houses appear, no new construction
    r"|no(?! longer) (?:(?!but\b|and\b|while\b|except\b)[\w-]+ ){1,3}?(?:is|are|was|were|has|have|had) (?:been )?"
    rf"{_EVENT}"
    r"|no (?:new|additional|further) [\w-]+(?: appears?| appeared)?"
    r")(?![\w-])"
)
_CHANGE: Final = re.compile(rf"\b{_EVENT}(?![\w-])")
_CLAUSE: Final = re.compile(
    r"[,;:.!?]|\b(?:and|but|however|although|though|while|whereas|except|apart from|other than|besides|only|yet)\b"
)
_SPACES: Final = re.compile(r"\s+")


def implies_change(caption: str) -> bool:
    """Return whether a sentence says that something changed.

    The sentence is cut into clauses at punctuation and conjunctions. A clause with a no-change phrase ("no change",
    "nothing has changed", "remains the same", "are identical", "has not changed") denies change; any other clause
    with a word of change ("appear", "built", "replaced", "new") asserts it. One asserting clause makes the whole
    sentence one of change: "no change except for a new house". A sentence that neither denies nor asserts describes
    something, which a change caption does only where something changed: it counts as change. An empty one does not.

    The rule is meant for captions: it knows English (in any other language it answers yes), and of nuisances (season,
    light) only what the words say.
    """
    text = _SPACES.sub(" ", caption.lower().replace("’", "'")).strip()
    if not words(text):
        return False
    if not _NO_CHANGE.search(text):
        return True
    clauses = [clause.strip() for clause in _CLAUSE.split(text)]
    return any(_CHANGE.search(clause) and not _NO_CHANGE.search(clause) for clause in clauses)
