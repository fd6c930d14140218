"""Noun phrases: from tagged words to mentions of things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipeline.language.triples.elements import Element, Mark, Mention, Preposition, Verb
from pipeline.language.triples.entities import MEASURES, PARTS, PLAIN_PLACES, SCENE, SCENE_WORDS, entity_of
from pipeline.language.triples.lemmas import noun_lemma, word_set
from pipeline.language.triples.lexicon import EVENT_NOUNS, NOUNS_TOO, PLURAL_PRONOUNS
from pipeline.language.triples.tagging import Word

_INDEFINITE: Final = frozenset(("a", "an", "another"))
_NEW: Final = word_set("new newly more additional extra another")
_SIDES: Final = word_set("both two either each all opposite")
_UNNAMED: Final = word_set("one ones other others rest existing old original former new remaining")


def read_mention(words: Sequence[Word], position: int, elements: list[Element]) -> int:
    """Append the noun phrase, or the predicate without a noun, at `position`; return where it ends."""
    if words[position].tag == "PRON":
        elements.append(_mention(words[position : position + 1]))
        return position + 1
    end, nouns = position, 0
    while end < len(words):
        tag = words[end].tag
        if tag == "NOUN":
            if nouns and words[end - 1].text in SCENE_WORDS:
                break
            nouns += 1
        elif nouns or tag not in ("DET", "NUM", "ADJ", "ADV", "NEG") or tag == "PRON":
            break
        end += 1
    while end > position + 1 and words[end - 1].tag == "ADV":
        end -= 1
    if nouns == 0 and end < len(words) and words[end].tag == "PRON" and words[end].text in ("ones", "others", "one's"):
        end += 1
    run = words[position:end]
    if nouns == 0 and _is_predicate(run, elements):
        elements.append(Mark("ADJ", run[0].start, run[-1].end, run[-1].text))
    else:
        elements.append(_mention(run))
    return end


def _is_predicate(run: Sequence[Word], elements: Sequence[Element]) -> bool:
    """Tell whether words without a noun say how something is: "lush", and after a verb "more", "less"."""
    if len(run) == 1 and run[0].text in ("more", "less", "fewer"):
        return bool(elements) and isinstance(elements[-1], Verb)
    named = run[-1].text in NOUNS_TOO or _names_part(run)
    return not named and all(word.tag in ("ADJ", "ADV") for word in run)


def _names_part(run: Sequence[Word]) -> bool:
    return noun_lemma(run[-1].text) in PARTS


def _mention(run: Sequence[Word]) -> Mention:
    texts = [word.text for word in run]
    last, lemma = texts[-1], noun_lemma(texts[-1])
    nouns = [word.text for word in run if word.tag == "NOUN"]
    entity = entity_of([word.text for word in run if word.tag != "ADV"])
    part: str | None = None
    refers = False
    if not nouns and last in NOUNS_TOO:
        entity = NOUNS_TOO[last]
    elif (not nouns and not _names_part(run)) or (nouns and last in _UNNAMED):
        entity, refers = None, True
    elif lemma in PARTS and entity is None:
        part = lemma
        # "the road corner" is a part of the road, "the left corner" one of the picture.
        whole = next((noun_lemma(text) for text in nouns[:-1] if noun_lemma(text) not in PARTS), None)
        entity = None if whole in SCENE_WORDS | PLAIN_PLACES else whole
    plural = lemma != last or last in ("woods",) or any(text in PLURAL_PRONOUNS for text in texts)
    return Mention(
        entity=entity,
        text=last,
        refers=refers,
        plural=plural,
        indefinite=run[0].tag == "NUM" or run[0].text in _INDEFINITE,
        definite=run[0].tag == "DET" and run[0].text not in _INDEFINITE,
        new=any(text in _NEW for text in texts[:-1]),
        none=run[0].text == "no",
        part=part,
        sides=part == "side" and (lemma != last or any(text in _SIDES for text in texts)),
        start=run[0].start,
        end=run[-1].end,
    )


def join_of(elements: list[Element]) -> list[Element]:
    """Join "A of B" from the right: to B where A only measures it or is a part of it, else to A."""
    joined: list[Element] = []
    for element in reversed(elements):
        linked = len(joined) >= 2 and isinstance(joined[-1], Preposition) and joined[-1].name == "of"
        whole = joined[-2] if linked else None
        if isinstance(element, Mention) and isinstance(whole, Mention):
            del joined[-2:]
            joined.append(_of(element, whole))
        else:
            joined.append(element)
    return joined[::-1]


def _of(first: Mention, whole: Mention) -> Mention:
    lemma = noun_lemma(first.text)
    first, whole = replace(first, end=whole.end), replace(whole, start=first.start)
    if first.part is not None and whole.picture:
        return replace(first, entity=None, sides=False)
    if first.part is not None and lemma not in ("half", "quarter", "rest", "remainder", "portion"):
        return replace(whole, part=first.part, sides=first.sides, definite=True, indefinite=False)
    measured = (
        first.refers
        or first.part is not None
        or lemma in MEASURES
        or (first.entity is not None and lemma in EVENT_NOUNS and " " not in first.entity)
        or first.entity == SCENE
    )
    if measured:
        plural = whole.plural or (first.refers and first.plural)
        return replace(whole, indefinite=True, definite=False, plural=plural, new=first.new or whole.new)
    return first
