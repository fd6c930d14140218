"""Lemmas of nouns and verbs, from spaCy's tables and the words in which they are wrong for change captions."""

from __future__ import annotations

from functools import lru_cache
from typing import Final


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text as a set; tables of words read best as text."""
    return frozenset(text.split())


_NOUNS: Final = {
    "wood": "woods",
    "woods": "woods",
    "crossroads": "crossroad",
    "grass": "grass",
    "leaves": "leaf",
    "grounds": "ground",
    "roofs": "roof",
    "greenhouses": "greenhouse",
    "leaf": "leaf",
    "bus": "bus",
    "buses": "bus",
    "stadiums": "stadium",
    "premises": "premises",
    "houses": "house",
    "vegetations": "vegetation",
    "outskirts": "outskirt",
    "surroundings": "surrounding",
    "courses": "course",
    "axes": "axis",
    "bases": "base",
}
_VERBS: Final = {
    "built": "build",
    "builded": "build",
    "bulit": "build",
    "is": "be",
    "are": "be",
    "was": "be",
    "were": "be",
    "been": "be",
    "being": "be",
    "has": "have",
    "had": "have",
    "having": "have",
    "risen": "rise",
    "rose": "rise",
    "grown": "grow",
    "grew": "grow",
    "shown": "show",
    "became": "become",
    "become": "become",
    "felled": "fell",
    "cut": "cut",
    "fallen": "fall",
    "found": "find",
    "leaves": "leave",
    "left": "leave",
    "leveled": "level",
    "levelled": "level",
    "situated": "situate",
    "saw": "see",
    "seen": "see",
    "leading": "lead",
    "led": "lead",
    "lay": "lay",
    "lain": "lie",
    "lying": "lie",
    "dying": "die",
    "paved": "pave",
    "shrunk": "shrink",
    "shrank": "shrink",
    "wound": "wind",
    "ground": "grind",
    "bypassed": "bypass",
    "bypasses": "bypass",
    "crisscross": "crisscross",
    "crisscrosses": "crisscross",
}


def load_lemmas() -> None:
    """Read the tables of lemmas now and not with the first word that needs them; takes a second or two."""
    _tables()


@lru_cache(maxsize=1)
def _tables() -> tuple[dict[str, list[str]], dict[str, list[str]], list[list[str]], frozenset[str]]:
    from spacy.lookups import load_lookups

    tables = load_lookups("en", ["lemma_exc", "lemma_rules", "lemma_index"])
    exceptions = tables.get_table("lemma_exc")
    infinitives = frozenset(tables.get_table("lemma_index")["verb"])
    return exceptions["noun"], exceptions["verb"], tables.get_table("lemma_rules")["verb"], infinitives


@lru_cache(maxsize=65536)
def noun_lemma(word: str) -> str:
    """Return the singular of a lower-case noun: "houses" is house, "woods" stays woods."""
    if word in _NOUNS:
        return _NOUNS[word]
    if "-" in word:
        first, last = word.rsplit("-", 1)
        return f"{first}-{noun_lemma(last)}" if last else word
    exceptions = _tables()[0].get(word)
    if exceptions:
        return exceptions[0]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "zes", "ches", "shes")) and not word.endswith(("houses", "axes", "ases")):
        return word[:-2]
    return word[:-1]


@lru_cache(maxsize=65536)
def verb_lemma(word: str) -> str:
    """Return the infinitive of a lower-case verb form: "built" is build, "disappears" is disappear."""
    if word in _VERBS:
        return _VERBS[word]
    _, exceptions, endings, infinitives = _tables()
    if word in exceptions:
        return exceptions[word][0]
    if word in infinitives:
        return word
    for ending, infinitive in endings:
        stem = word[: -len(ending)] + infinitive
        if word.endswith(ending) and stem in infinitives:
            return stem
    return word
