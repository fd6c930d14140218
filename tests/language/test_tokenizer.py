from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.language.tokenizer import tokenize


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        (" there is no difference .", "there is no difference"),
        ("Nothing has changed.", "nothing has changed"),
        ("A T-junction; the road's end, perhaps?", "a t-junction the road's end perhaps"),
        ("the lower\u2010left corner \u2013 a house", "the lower-left corner a house"),
        ("the road\u2019s end", "the road's end"),
        ("-edge- 'quoted'", "edge quoted"),
        ("caf\u00e9 cafe\u0301", "caf\u00e9 caf\u00e9"),
        ("...", ""),
    ],
)
def test_words(caption: str, words: str) -> None:
    assert " ".join(tokenize(caption)) == words


def test_release_rule() -> None:
    assert tokenize("Nothing; has, changed. why?", "release") == ("Nothing", ";", "has", ",", "changed", "why")


@given(st.text())
def test_words_tokenize_to_themselves(text: str) -> None:
    words = tokenize(text)
    assert tokenize(" ".join(words)) == words


@given(st.text())
def test_release_tokens_tokenize_to_themselves(text: str) -> None:
    tokens = tokenize(text, "release")
    assert tokenize(" ".join(tokens), "release") == tokens
