"""From tagged words to the elements of a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.language.triples.elements import Element, Mark, Preposition
from pipeline.language.triples.mentions import join_of, read_mention
from pipeline.language.triples.relations import SAME_PREPOSITION
from pipeline.language.triples.tagging import Word
from pipeline.language.triples.verb_groups import read_verb


def find_elements(words: Sequence[Word]) -> list[Element]:
    """Bring tagged words to the elements of the sentence, in order."""
    elements: list[Element] = []
    position = 0
    while position < len(words):
        position = _next_element(words, position, elements)
    return join_of(elements)


def _next_element(words: Sequence[Word], position: int, elements: list[Element]) -> int:
    word = words[position]
    if word.tag in ("BE", "HAVE", "MODAL", "VB", "VBZ", "VBN", "VBG"):
        return read_verb(words, position, elements)
    if word.tag == "TO":
        following = words[position + 1].tag if position + 1 < len(words) else "SUB"
        if following in ("VB", "BE", "HAVE"):
            return read_verb(words, position + 1, elements, infinitive=True)
        elements.append(Preposition("to", word.start, word.end))
        return position + 1
    if word.tag == "PREP":
        elements.append(Preposition(SAME_PREPOSITION.get(word.text, word.text), word.start, word.end))
        return position + 1
    if word.tag in ("DET", "NUM", "ADJ", "NOUN", "PRON"):
        return read_mention(words, position, elements)
    if word.tag in ("AND", "COMMA", "SUB", "THERE", "REL"):
        elements.append(Mark(word.tag, word.start, word.end, word.text))
    elif word.tag == "NEG" and position + 1 < len(words) and words[position + 1].tag in ("VB", "VBZ", "VBN"):
        return read_verb(words, position + 1, elements, negative=True)
    return position + 1
