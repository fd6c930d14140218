"""What a word is, in any script: the one definition for vocabulary, scores, no-change sentences and triples.

A text is first brought to one form (`normal_form`), so that spellings that look alike are equal. A word is then a run
of letters and digits with their marks (vowel signs, accents, points), with joiners, single hyphens, apostrophes and
Hebrew gershayim inside it. All else separates words. Scripts that are written without spaces have no such runs: in
them each character, with the marks on it and the letters stacked under it, is a word (`words`), or the text between two
spaces is (`spaced_words`, for captions that were segmented beforehand).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

_ASCII_WORD: Final = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_SAME_SIGN: Final = {0x2019: "'", 0x2010: "-", 0x2011: "-"}

_ZWNJ, _ZWJ = "\u200c", "\u200d"
_IGNORED: Final = dict.fromkeys(
    (
        0x00AD, 0x034F, 0x061C, 0x0640, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x200E, 0x200F, 0x3164, 0xFEFF, 0xFFA0,
        *range(0x180B, 0x1810), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10),
        *range(0xE0000, 0xE0200),
    )
)  # fmt: skip
"""Signs without a shape of their own: soft hyphen, direction marks, variation selectors, fillers. The Arabic tatweel,
which only stretches a line, is one of them. Joiners are not: in Persian and in Indic scripts they make other words."""

# NFKC takes the Thai and Lao vowel AM apart and never puts it together again.
_AM: Final = (("\u0e4d\u0e32", "\u0e33"), ("\u0ecd\u0eb2", "\u0eb3"))
_HEBREW_QUOTE: Final = re.compile(r"(?<=[\u05d0-\u05ea])\"(?=[\u05d0-\u05ea])")
_GERSHAYIM: Final = "\u05f4"
_LONG_MARKS: Final = 30  # marks on one letter that Unicode's stream-safe form allows

_UNSPACED: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # iteration mark, ideographic zero
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3031, 0x312F),  # kana, Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo, small kana
    (0x3400, 0xA4CF),  # Han, Yi
    (0xA980, 0xA9FF),  # Javanese, Burmese
    (0xAA60, 0xAADF),  # Burmese, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # kana, Nushu
    (0x20000, 0x3FFFF),  # Han
)
"""Blocks of the scripts that are written without spaces between words."""
_NO_SPACE_TO_DIGITS: Final = tuple(
    block for block in _UNSPACED if block[0] >= 0x2E80 and block[0] not in (0xA980, 0xAA60)
)
_STACKERS: Final = frozenset("\u1039\u17d2\u1a60\u1b44\ua9c0")
_TIBETAN: Final = (0x0F40, 0x0FBC)
_TSHEG: Final = "\u0f0b"


class _Classes(dict[int, str]):
    """Class of each character, worked out once: see `_WORD`. For `str.translate`."""

    def __missing__(self, code: int) -> str:
        self[code] = kind = _class_of(chr(code))
        return kind


def _class_of(sign: str) -> str:
    if sign in "-'\u2019\u2010\u2011\uff07\uff0d":
        return "h"
    if sign in (_GERSHAYIM, "\u05f3"):
        return "g" if sign == _GERSHAYIM else "e"
    if sign in (_ZWJ, _ZWNJ):
        return "z" if sign == _ZWJ else "n"
    if sign in _STACKERS:
        return "k"
    category = unicodedata.category(sign)
    if category[0] == "M":
        return "m"
    if sign in "\u0e33\u0eb3":
        return "a"
    if not sign.isalnum():
        return "_"
    if _within(sign, _UNSPACED) and category != "Nd":
        return "u"
    return "w" if category[0] == "L" else "d"


def _within(sign: str, blocks: Sequence[tuple[int, int]]) -> bool:
    return any(first <= ord(sign) <= last for first, last in blocks)


_CLASSES: Final = _Classes()

_RUN: Final = r"[wd](?:[wdmka]|[zn]+(?=[wdmk])|(?<=m)z{})*"
_CHARACTER: Final = r"[ua](?:ku|[mka]|[zn]+(?=[mk]))*"
_INSIDE: Final = r"|[hg](?=[wd])|e"
_WORD: Final = re.compile(f"{_RUN.format(_INSIDE)}|{_CHARACTER}")
"""A word as classes of its characters: w letter, d digit, m mark, u letter of a script without spaces, a its vowel AM,
which stands on another letter, k mark that stacks the next letter, z and n joiners, h hyphen or apostrophe,
g gershayim, e geresh, _ all else."""
_SPACED_WORD: Final = re.compile(r"[wdua](?:[wdumka]|[zn]+(?=[wdumk])|(?<=m)z|[hg](?=[wdu])|e)*")
_PART: Final = re.compile(f"{_RUN.format('')}|{_CHARACTER}")


def normal_form(text: str) -> str:
    """Bring a text to the form in which words are compared.

    Unicode form NFKC (composed letters, plain width), lower case, one sign each for apostrophe and hyphen; signs
    without a shape and the Arabic tatweel are dropped, and of the marks on one letter those beyond thirty. Any text is
    taken, lone surrogates too, and the normal form of a normal form is itself.
    """
    if text.isascii():
        return text.lower()
    text = without_ignored(text)
    # Lower case of a composed letter may be decomposed and the reverse, hence the second normalisation.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    text = text.translate(_IGNORED).translate(_SAME_SIGN)
    for parts, whole in _AM:
        text = text.replace(parts, whole)
    return _HEBREW_QUOTE.sub(_GERSHAYIM, text)


def without_ignored(text: str) -> str:
    """Return a text without signs that have no shape, the tatweel, and the marks beyond thirty on a letter."""
    return _without_long_runs(text.translate(_IGNORED))


def _without_long_runs(text: str) -> str:
    """Shorten runs of marks that no script has: Unicode's normalisation takes quadratic time on them."""
    if len(text) <= _LONG_MARKS:
        return text
    kept: list[str] = []
    run = 0
    for sign in text:
        run = run + 1 if unicodedata.combining(sign) else 0
        if run <= _LONG_MARKS:
            kept.append(sign)
    return "".join(kept)


@lru_cache(maxsize=64)  # one caption is asked for by several rules in turn
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in normal form; in scripts without spaces each character is one.

    The words of the joined words (`join_words`, or joined by spaces) are the same.
    """
    return _words(text, _WORD)


def spaced_words(text: str) -> tuple[str, ...]:
    """Return the words of a text in normal form, where scripts without spaces are segmented by spaces already."""
    return _words(text, _SPACED_WORD)


def _words(text: str, word: re.Pattern[str]) -> tuple[str, ...]:
    text = normal_form(text)
    if text.isascii():
        return tuple(_ASCII_WORD.findall(text))
    return tuple(text[match.start() : match.end()] for match in word.finditer(text.translate(_CLASSES)))


def word_parts(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the parts of the words, cut at hyphens and apostrophes, with their characters `start:end` in the text.

    The parts are in normal form; the text is taken as it is, so that `text[start:end]` is what was written.
    """
    for match in _PART.finditer(text.translate(_CLASSES)):
        written = text[match.start() : match.end()]
        normal = normal_form(written)
        for part in _PART.finditer(normal.translate(_CLASSES)):
            yield normal[part.start() : part.end()], match.start(), match.end()


def join_words(tokens: Sequence[str]) -> str:
    """Join words to a sentence as their script is written.

    Words are separated by spaces; characters of scripts without spaces stand side by side, Chinese and Japanese ones
    also beside digits; Tibetan syllables are joined by their sign, the tsheg.
    """
    sentence: list[str] = []
    for position, token in enumerate(tokens):
        if position:
            sentence.append(_separator(tokens[position - 1], token))
        sentence.append(token)
    return "".join(sentence)


def _separator(before: str, after: str) -> str:
    if (before + after).isascii():
        return " "
    left, right = before[-1:], after[:1]
    if is_unspaced(before[:1]) and is_unspaced(right):
        return " " if left in _STACKERS or left in "\u0e4d\u0ecd" else ""  # these would take the next letter in
    for digits, sign in ((before, right), (after, before[:1])):
        if digits.isdecimal() and _within(sign, _NO_SPACE_TO_DIGITS):
            return ""
    if _within(left, (_TIBETAN,)) and _within(right, (_TIBETAN,)):
        return _TSHEG
    return " "


def is_unspaced(sign: str) -> bool:
    """Tell whether a character is a letter of a script that is written without spaces between words."""
    return sign.translate(_CLASSES) == "u"


def unspaced_length(word: str) -> int:
    """Return how many letters of scripts without spaces a word has."""
    return 0 if word.isascii() else word.translate(_CLASSES).count("u")


def is_latin(text: str) -> bool:
    """Tell whether all letters of a text are Latin ones, and each with its accents is one character (form NFC)."""
    if text.isascii():
        return True
    return not any(
        kind in "uamk" or (kind == "w" and not (ord(sign) < 0x250 or 0x1E00 <= ord(sign) < 0x1F00))
        for sign, kind in zip(text, text.translate(_CLASSES), strict=True)
    )
