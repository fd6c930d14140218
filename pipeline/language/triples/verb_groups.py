"""Verb groups: from tagged words to verbs with voice, number and form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pipeline.language.triples.elements import Element, Mark, Mention, Preposition, Verb
from pipeline.language.triples.lemmas import verb_lemma, word_set
from pipeline.language.triples.lexicon import INTRANSITIVE, VERBS
from pipeline.language.triples.tagging import Word

_PARTICLES: Final = word_set("up down out off away over")


def read_verb(
    words: Sequence[Word],
    position: int,
    elements: list[Element],
    *,
    infinitive: bool = False,
    negative: bool = False,
) -> int:
    """Append the verb group at `position`; return where it ends."""
    first = position
    plural: bool | None = None
    passive = auxiliary = False
    last_auxiliary = ""
    while position < len(words) and words[position].tag in ("BE", "HAVE", "MODAL", "ADV", "NEG"):
        word = words[position]
        if word.tag in ("BE", "HAVE", "MODAL"):
            auxiliary, last_auxiliary = True, word.tag
            if plural is None and word.tag != "MODAL":
                plural = {"is": False, "was": False, "has": False, "are": True, "were": True, "have": True}.get(
                    word.text
                )
        negative = negative or word.tag == "NEG"
        position += 1
        if auxiliary and [w.tag for w in words[position : position + 2]] == ["ADJ", "VBN"]:
            position += 1  # "are orderly built"
    main = words[position] if position < len(words) else None
    if main is None or main.tag not in ("VB", "VBZ", "VBN", "VBG"):
        # Adverbs after a verb without a participle go back: they may stand before an adjective.
        while words[position - 1].tag == "ADV":
            position -= 1
        lemma = "have" if last_auxiliary == "HAVE" else "be"
        end = words[position - 1].end
        form: Literal["finite", "participle", "infinitive"] = "infinitive" if infinitive else "finite"
    else:
        lemma = verb_lemma(main.text)
        position += 1
        end = main.end
        if position < len(words) and words[position].text in _PARTICLES and f"{lemma}-{words[position].text}" in VERBS:
            lemma, end = f"{lemma}-{words[position].text}", words[position].end
            position += 1
        passive = main.tag == "VBN" and last_auxiliary in ("BE", "") and lemma not in _NEVER_PASSIVE
        bare = not auxiliary and main.tag in ("VBN", "VBG")
        form = "infinitive" if infinitive else _form(words, position, main, lemma, elements) if bare else "finite"
        if form == "finite" and bare:
            passive = passive and _continues_passive(elements)
        if not auxiliary and main.tag in ("VB", "VBZ"):
            plural = main.tag == "VB"
    if form == "finite" and elements and isinstance(elements[-1], Mark) and elements[-1].kind == "REL":
        form = "participle"
        elements.pop()
    elements.append(Verb(lemma, form, passive, plural, negative, words[first].start, end))
    return position


_NEVER_PASSIVE: Final = word_set("appear disappear vanish emerge show-up rise fade occur exist become come go")


def _form(
    words: Sequence[Word], position: int, main: Word, lemma: str, elements: Sequence[Element]
) -> Literal["finite", "participle"]:
    """Decide whether a participle without an auxiliary is the verb of the sentence: "houses replaced the trees"."""
    before = elements[-1] if elements else None
    if main.tag == "VBG":
        return "participle"
    if isinstance(before, Mark) and before.kind in ("AND", "COMMA"):
        return "finite" if _continues_passive(elements) or lemma in INTRANSITIVE else "participle"
    if not isinstance(before, Mention) or _within_with(elements):
        return "participle"
    following = words[position] if position < len(words) else None
    if lemma.split("-")[0] in INTRANSITIVE:
        return "finite"
    return "finite" if following is not None and following.tag in ("DET", "NUM", "PRON") else "participle"


def _within_with(elements: Sequence[Element]) -> bool:
    for element in reversed(elements):
        if isinstance(element, Preposition):
            return element.name == "with"
        if not isinstance(element, Mention):
            return False
    return False


def _continues_passive(elements: Sequence[Element]) -> bool:
    """Tell whether "and" is followed by a second participle of the same passive: "are removed and replaced"."""
    if not elements or not isinstance(elements[-1], Mark):
        return False
    earlier = next((element for element in reversed(elements) if isinstance(element, Verb)), None)
    return earlier is not None and earlier.form == "finite" and earlier.passive
