"""Tagging: words of a caption with their position in the text and their part of speech."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pipeline.caption_graph.triples.lexicon import ADJECTIVES, CLOSED, MULTIWORD, NOUN_OR_VERB, VERBS, Tag
from pipeline.caption_graph.triples.normalisation import noun_lemma, verb_lemma, word_set
from pipeline.errors import SettingsError
from pipeline.files import content_key, sha256_file

if TYPE_CHECKING:
    from spacy.language import Language

_LONGEST: Final = max(len(words) for words in MULTIWORD)
_PENN: Final = {
    **dict.fromkeys(("NN", "NNS", "NNP", "NNPS"), "NOUN"),
    **dict.fromkeys(("JJ", "JJR", "JJS"), "ADJ"),
    **dict.fromkeys(("VB", "VBP"), "VB"),
    "VBZ": "VBZ",
    "VBD": "VBN",
    "VBN": "VBN",
    "VBG": "VBG",
    "RB": "ADV",
    "RBR": "ADV",
}


@dataclass(frozen=True, slots=True)
class Word:
    """Word, or several that are read as one, with its tag and its characters `start:end` of the caption."""

    text: str
    tag: Tag
    start: int
    end: int


class Tagger(Protocol):
    """Function that splits a caption into tagged words."""

    def __call__(self, caption: str) -> list[Word]:
        """Return the words of a caption in order, with the punctuation that separates clauses."""


def make_tagger(pipeline: str | None) -> Tagger:
    """Return the tagger on spaCy's blank English, or on a trained pipeline by name or folder.

    A trained pipeline decides between nouns, adjectives and verbs; closed classes are those of this project.

    Raises:
        SettingsError: The pipeline is not installed, or it does not tag parts of speech.
    """
    import spacy

    if pipeline is None:
        blank = _quiet(spacy.blank("en"))
        return lambda caption: _resolve(_split(blank, caption))
    try:
        trained = _quiet(spacy.load(pipeline))
    except (OSError, ImportError, ValueError) as error:
        raise _not_loadable(pipeline) from error
    if not any(token.tag_ for token in trained("a house is built")):
        raise SettingsError(
            f"the spaCy pipeline {pipeline!r} does not tag parts of speech",
            fix="name a pipeline with a tagger, or leave the setting empty",
        )
    return lambda caption: _resolve(_split(trained, caption), _penn_tags(trained, caption))


def pipeline_sha256(pipeline: str) -> str:
    """Return a digest of all files of a trained spaCy pipeline, by name or folder, without loading it.

    Raises:
        SettingsError: It is not installed.
    """
    import spacy

    if spacy.util.is_package(pipeline):
        folder = spacy.util.get_package_path(pipeline)
    elif Path(pipeline).is_dir():
        folder = Path(pipeline)
    else:
        raise _not_loadable(pipeline)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return content_key([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])


def _not_loadable(pipeline: str) -> SettingsError:
    return SettingsError(
        f"the spaCy pipeline {pipeline!r} cannot be loaded",
        fix="install it (python -m spacy download …), name its folder, or leave the setting empty",
    )


def _quiet(language: Language) -> Language:
    language.tokenizer.infix_finditer = _INFIXES.finditer  # type: ignore[union-attr]  # the library leaves it open
    return language


# Hyphens stay inside words: "lower-left" and "t-shaped" are one word each.
_INFIXES: Final = re.compile(r"[.,;:!?/()\[\]\"“”…–—]|--+")


def _penn_tags(language: Language, caption: str) -> dict[int, str]:
    return {token.idx: token.tag_ for token in language(caption)}


_NO_WORD: Final = re.compile(r"\S{200,}")


def _split(language: Language, caption: str) -> list[tuple[str, int, int]]:
    # No English word is so long, and spaCy takes time that grows with the square of a run without spaces.
    tokens = language.tokenizer(_NO_WORD.sub(lambda run: " " * len(run[0]), caption))
    spans = [(token.lower_.replace("’", "'"), token.idx, token.idx + len(token.text)) for token in tokens]
    return [span for span in spans if not span[0].isspace()]


def _resolve(spans: Sequence[tuple[str, int, int]], penn: dict[int, str] | None = None) -> list[Word]:
    merged: list[tuple[str, Tag | None, int, int]] = []
    position = 0
    while position < len(spans):
        for length in range(min(_LONGEST, len(spans) - position), 0, -1):
            multiword = MULTIWORD.get(tuple(span[0] for span in spans[position : position + length]))
            if multiword:
                merged.append((*multiword, spans[position][1], spans[position + length - 1][2]))
                position += length
                break
        else:
            text, start, end = spans[position]
            merged.append((text, CLOSED.get(text), start, end))
            position += 1
    words: list[Word] = []
    texts = [entry[0] for entry in merged]
    fixed = [entry[1] for entry in merged]
    for number, (text, tag, start, end) in enumerate(merged):
        if tag is None and penn is not None:
            tag = _PENN.get(penn.get(start, ""))
        if text in ("'s", "'"):
            tag = "PUNCT"  # "the road's end" is read as "the road end"
        if tag is None and not any(character.isalnum() for character in text):
            tag = "SUB" if text in "…—–()[]/" else "PUNCT"
        if tag is None:
            tag = _open_class(number, texts, fixed, words)
        elif text == "that" or text in _PLACED or tag in ("NUM", "DET"):
            tag = _closed_class(number, tag, texts, fixed, words)
        if tag != "PUNCT":
            words.append(Word(text, tag, start, end))
    return words


def _closed_class(number: int, tag: Tag, texts: list[str], fixed: list[Tag | None], before: list[Word]) -> Tag:
    text, following = texts[number], fixed[number + 1] if number + 1 < len(fixed) else "SUB"
    if text == "that" and before and before[-1].tag in ("NOUN", "PRON"):
        return "REL"
    if text in ("all", "both", "each") and before and before[-1].tag in ("BE", "HAVE") and following is None:
        return "ADV" if verb_form(texts[number + 1]) == "VBN" else tag
    if text in _PLACED and following is None and before and before[-1].tag in ("DET", "NUM", "ADJ"):
        return "ADJ"
    if text == "more" and following is None and texts[number + 1] in ADJECTIVES:
        return "ADV"
    return tag


def verb_form(text: str) -> Tag | None:
    """Return VB, VBZ, VBN or VBG where a word can be a form of a verb that captions use, else None."""
    lemma = verb_lemma(text)
    if lemma not in VERBS and lemma not in _PHRASAL_HEADS:
        return None
    if text.endswith("ing") and text != lemma:
        return "VBG"
    if text == lemma:
        return "VB"
    return "VBZ" if text.endswith("s") and not text.endswith("ss") else "VBN"


_PHRASAL_HEADS: Final = frozenset(verb.split("-")[0] for verb in VERBS if "-" in verb)


def _open_class(number: int, texts: list[str], fixed: list[Tag | None], before: list[Word]) -> Tag:
    text = texts[number]
    earlier = next((word for word in reversed(before) if word.tag not in ("ADV", "NEG")), None)
    previous = earlier.tag if earlier else "SUB"
    form = verb_form(text)
    if text in ADJECTIVES and (form not in ("VBN", "VBG") or (text == "gone" and previous == "BE")):
        return "ADJ"
    if text.endswith("ly") and form is None and text not in ("family", "assembly"):
        return "ADV"
    if before and before[-1].text == "more" and len(before) > 1 and verb_lemma(before[-2].text) in _BECOMING:
        return "ADJ"
    if form is None:
        if not text.endswith("ed"):
            return "NOUN"
        if previous in ("BE", "HAVE"):
            return "VBN"
        return "ADJ" if _following(number, texts, fixed) in ("NOUN", "ADJ") else "NOUN"
    if form in ("VBN", "VBG") and earlier is not None and verb_lemma(earlier.text) in _BECOMING:
        return "ADJ"
    following = _following(number, texts, fixed)
    if text in ("left", "leaves"):
        return "VBN" if text == "left" and previous == "HAVE" else "NOUN"
    if text in NOUN_OR_VERB:
        return form if _reads_as_verb(form, previous, following, number, texts, before) else "NOUN"
    if form in ("VBN", "VBG"):
        if previous in ("BE", "HAVE") and not (previous == "HAVE" and form == "VBG"):
            return form
        if following in ("NOUN", "ADJ") and previous in _OPENS_PHRASE:
            return "ADJ"
        if form == "VBG" and previous in ("DET", "NUM", "ADJ"):
            return "NOUN"
        if form == "VBN" and text in ("grown", "lined") and following == "NOUN":
            return "ADJ"
        if form == "VBN" and previous == "DET":
            return "ADJ"
        return form
    if form == "VB" and previous in ("BE", "HAVE"):
        # "become", "come", "cut", "run": the participle looks like the infinitive.
        return "VBN"
    if form == "VB" and previous == "DET" and before[-1].tag == "DET":
        return "NOUN"
    return form


_VERBS_FIRST: Final = word_set("change changes turns increases decreases falls ends")
_NOUNS_FIRST: Final = word_set("place places part parts level levels plants parks water house houses")
_PLACED: Final = word_set("round near above below inside outside opposite nearby upside")
_BECOMING: Final = word_set("become get seem look turn grow")
_OPENS_PHRASE: Final = frozenset(
    ("DET", "NUM", "ADJ", "PREP", "TO", "SUB", "AND", "COMMA", "VB", "VBZ", "VBN", "VBG", "BE", "HAVE", "THERE")
)


def _following(number: int, texts: list[str], fixed: list[Tag | None]) -> Tag:
    """Return a rough tag of the words after a word: NOUN, ADJ, a closed class, or V for a verb."""
    for ahead in range(number + 1, min(number + 5, len(texts))):
        tag, text = fixed[ahead], texts[ahead]
        participle = ahead > number + 1
        if tag is None and text in ADJECTIVES:
            return "ADJ"
        form = verb_form(text) if tag is None else None
        if tag is None and (form is None or text in NOUN_OR_VERB):
            adverb = form is None and text.endswith("ly")
            return ("V" if adverb else "ADJ") if participle else "ADV" if adverb else "NOUN"
        if form not in ("VBN", "VBG"):
            # A participle before anything but a noun is a verb.
            return "V" if participle or tag is None else tag
    return "V" if number + 1 < len(texts) else "SUB"


def _reads_as_verb(form: Tag, previous: Tag, following: Tag, number: int, texts: list[str], before: list[Word]) -> bool:
    text = texts[number]
    if previous == "MODAL":
        return True
    if text in _NOUNS_FIRST and previous != "TO":
        return False
    if form != "VBG" and texts[number + 1 : number + 2] == ["into"] and previous not in ("DET", "NUM", "ADJ"):
        return True
    if previous == "BE":
        return form == "VBG" and following in ("DET", "NUM")
    if previous == "HAVE":
        return False
    if previous == "TO":
        return form == "VB" and following in ("DET", "NUM", "ADJ")
    if previous not in ("NOUN", "PRON", "REL"):
        return False
    if text in _VERBS_FIRST:
        return following in ("PREP", "TO", "ADV", "SUB", "AND", "ADJ")
    if form == "VBG":
        return text in ("surrounding", "turning") and following not in ("NOUN", "ADJ", "V", "BE", "HAVE")
    plural = bool(before) and noun_lemma(before[-1].text) != before[-1].text
    if following in ("DET", "NUM", "PRON", "ADJ"):
        return True
    if form == "VBZ":
        return following in ("PREP", "TO", "ADV") and not plural and text != "lines"
    return plural and following in ("PREP", "TO", "ADV", "SUB", "AND") and text != "plant"
