"""From a sentence to its words, by one of two rules."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from pipeline.language.settings import TokenRule

_WORD: Final = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_SAME_SIGN: Final = str.maketrans({"\u2019": "'", "\u2010": "-", "\u2011": "-"})


def tokenize(caption: str, rule: TokenRule = "words") -> tuple[str, ...]:
    """Split a caption into its words.

    `words` (this project's default): Unicode is brought into form NFKC and lower case; a word is a run of letters and
    digits, with single hyphens and apostrophes inside ("t-junction", "road's"); everything else separates words
    and is dropped. Tokenizing the joined words again gives the same words.

    `release` (parity with the authors' published numbers): `?` and `.` are dropped, `;` and `,` become tokens of their
    own, and the rest is split at white space; case is kept.

    Args:
        caption: One sentence.
        rule: Which rule to use.

    Returns:
        The words in order; none for a caption without any.
    """
    if rule == "release":
        kept = caption.replace("?", "").replace(".", "").replace(";", " ; ").replace(",", " , ")
        return tuple(kept.split())
    # Lower case of a composed letter may be decomposed and the reverse, hence the second normalisation.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).lower())
    return tuple(_WORD.findall(text.translate(_SAME_SIGN)))
