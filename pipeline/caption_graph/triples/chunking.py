"""Chunking: from tagged words to the elements of a sentence: mentions, verb groups, prepositions and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pipeline.caption_graph.triples.lexicon import EVENT_NOUNS, INTRANSITIVE, NOUNS_TOO, PLURAL_PRONOUNS, VERBS
from pipeline.caption_graph.triples.normalisation import (
    MEASURES,
    PARTS,
    PLAIN_PLACES,
    SAME_PREPOSITION,
    SCENE,
    SCENE_WORDS,
    entity_of,
    noun_lemma,
    verb_lemma,
    word_set,
)
from pipeline.caption_graph.triples.tagging import Word


@dataclass(frozen=True, slots=True)
class Mention:
    """Noun phrase.

    Attributes:
        entity: Its entity; None for parts of the picture and for words that refer to another mention.
        text: Its last word, lower case.
        refers: It refers to another mention: "it", "the existing ones", "some".
        plural: It agrees with a plural verb.
        indefinite: It begins with an indefinite article, a number or a quantity: "a", "two", "some".
        definite: It begins with "the" or the like.
        new: It has an adjective such as "new" or "additional".
        none: It begins with "no".
        part: The part of the entity ("side" of the road) or of the picture that it names.
        sides: The part is both sides.
        start: First character in the caption.
        end: Character after its last.
    """

    entity: str | None
    text: str
    refers: bool
    plural: bool
    indefinite: bool
    definite: bool
    new: bool
    none: bool
    part: str | None
    sides: bool
    start: int
    end: int

    @property
    def picture(self) -> bool:
        """Whether it is the scene or a part of it, not an entity."""
        return not self.refers and (self.entity is None or self.entity == SCENE)


@dataclass(frozen=True, slots=True)
class Verb:
    """Verb with its auxiliaries.

    Attributes:
        lemma: Its infinitive, with a particle: "cut-down".
        form: finite, participle (relative clauses too), or infinitive.
        passive: Passive voice.
        plural: Whether the form needs a plural subject, None where it fits both numbers.
        negative: Negated by "not", "no longer".
        start: First character in the caption.
        end: Character after its last.
    """

    lemma: str
    form: Literal["finite", "participle", "infinitive"]
    passive: bool
    plural: bool | None
    negative: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Preposition:
    """Preposition by its canonical name."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Other element of a sentence: AND, COMMA, SUB, REL, THERE, ADJ (a predicate)."""

    kind: str
    start: int
    end: int
    text: str = ""


Element = Mention | Verb | Preposition | Mark


def find_elements(words: Sequence[Word]) -> list[Element]:
    """Return the elements of a sentence of tagged words, in order."""
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


_INDEFINITE: Final = frozenset(("a", "an", "another"))
_NEW: Final = word_set("new newly more additional extra another")
_SIDES: Final = word_set("both two either each all opposite")
_UNNAMED: Final = word_set("one ones other others rest existing old original former new remaining")


def read_mention(words: Sequence[Word], position: int, elements: list[Element]) -> int:
    """Append the noun phrase or adjective predicate at `position`; return the position after it."""
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
    """Tell whether words without a noun are a predicate: "lush", and after a verb "more", "less"."""
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
    """Join "A of B" from the right: to B where A measures it or is a part of it, else to A."""
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


_PARTICLES: Final = word_set("up down out off away over")


def read_verb(
    words: Sequence[Word],
    position: int,
    elements: list[Element],
    *,
    infinitive: bool = False,
    negative: bool = False,
) -> int:
    """Append the verb group at `position`; return the position after it."""
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
        # Adverbs after a verb without a participle are left over: they may belong to an adjective.
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
    """Return the form of a participle without an auxiliary; it may be the finite verb: "houses replaced the trees"."""
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
