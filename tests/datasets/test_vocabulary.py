from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.settings import TokenRule, VocabularySettings
from pipeline.datasets.vocabulary import END, PAD, START, UNK, Vocabulary, build_vocabulary, join_tokens, tokenize
from pipeline.errors import DataError
from tests.datasets.reference import reference


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


def test_rules_of_captions_without_spaces() -> None:
    assert tokenize("新建了 房子。") == ("新", "建", "了", "房", "子")
    assert tokenize("新建了 房子。", "spaced") == ("新建了", "房子")
    assert join_tokens(["新建了", "房子"], "spaced") == "新建了 房子"
    vocabulary = build(["新建了12栋房子。"])
    assert vocabulary.decode(vocabulary.encode("新建了12栋房子")) == "新建了12栋房子"


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


CAPTIONS = ["a house is built", "a road is built", "a house appears"]


def build(captions: list[str] = CAPTIONS, **changes: object) -> Vocabulary:
    settings = VocabularySettings.model_validate({"min_count": 1, **changes})
    return build_vocabulary(captions, settings, "levir-cc")


def test_words_are_sorted_by_count_then_name() -> None:
    assert build().words == ("a", "built", "house", "is", "appears", "road")
    assert build(CAPTIONS[::-1]).sha256 == build().sha256


def test_min_count_keeps_words_that_reach_it() -> None:
    assert build(min_count=2).words == ("a", "built", "house", "is")


def test_min_count_above_every_word_names_the_cure() -> None:
    with pytest.raises(DataError, match="no word of the captions occurs 5 times") as caught:
        build(min_count=5)
    assert caught.value.fix == "lower prepare.vocabulary.min_count to 3 or less"


def test_no_captions_give_no_words() -> None:
    assert build([]).size == 4


def test_encode_and_decode() -> None:
    vocabulary = build()
    ids = vocabulary.encode("A house is painted .")
    assert ids == [START, vocabulary.index["a"], vocabulary.index["house"], vocabulary.index["is"], UNK, END]
    assert vocabulary.decode([*ids, vocabulary.index["road"], PAD]) == "a house is"


def test_ids_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="outside a vocabulary of 10"):
        build().decode([10])
    with pytest.raises(ValueError, match="outside"):
        build().decode([-1])


def test_limit_counts_start_and_end() -> None:
    assert len(build(max_length=6).encode("a house is built")) == 6
    with pytest.raises(DataError, match="6 tokens with its start and end, the limit is 5") as caught:
        build(max_length=5).encode("a house is built")
    assert "prepare.vocabulary.max_length to 6" in str(caught.value)
    cut = build(max_length=5, too_long="truncate").encode("a house is built")
    assert len(cut) == 5
    assert cut[-1] == END


def test_saved_and_loaded(tmp_path: Path) -> None:
    vocabulary = build()
    loaded = Vocabulary.load(vocabulary.save(tmp_path / "vocabulary.json"))
    assert loaded == vocabulary
    assert loaded.sha256 == vocabulary.sha256


def test_hash_tells_data_sets_and_rules_apart() -> None:
    other = build_vocabulary(CAPTIONS, VocabularySettings(min_count=1), "dubai-cc")
    assert len({build().sha256, other.sha256, build(tokens="release").sha256, build(max_length=20).sha256}) == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [("words", ["a", "a"]), ("words", ["b"]), ("words", "abc"), ("dataset", "dubai-cc"), ("schema", 2), ("extra", 1)],
)
def test_altered_files_are_refused(tmp_path: Path, key: str, value: object) -> None:
    path = build().save(tmp_path / "vocabulary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DataError) as caught:
        Vocabulary.load(path)
    assert caught.value.fix == "run `sagecc prepare`"


def test_words_twice_are_refused_even_with_a_matching_hash(tmp_path: Path) -> None:
    path = Vocabulary(("a", "a"), "levir-cc", VocabularySettings()).save(tmp_path / "vocabulary.json")
    with pytest.raises(DataError, match="altered"):
        Vocabulary.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@given(st.lists(st.text(max_size=60), max_size=8), st.sampled_from(["words", "spaced", "release"]))
def test_round_trip_of_known_words(captions: list[str], rule: TokenRule) -> None:
    vocabulary = build(captions, tokens=rule, max_length=200)
    for caption in captions:
        ids = vocabulary.encode(caption)
        assert ids[0] == START
        assert ids[-1] == END
        assert vocabulary.decode(ids) == join_tokens(tokenize(caption, rule), rule)
        assert vocabulary.words_of(ids) == list(tokenize(caption, rule))
        assert vocabulary.encode(vocabulary.decode(ids)) == ids


@pytest.mark.reference_data
@pytest.mark.parametrize("rule", ["words", "release"])
def test_published_facts_of_levir_cc(rule: TokenRule) -> None:
    """Both rules give the known figures of the train split: the published tokens are lower case without punctuation."""
    entries = read_captions(reference("levir_cc", "LevirCCcaptions.json"))
    train = [caption for entry in entries if entry.split == "train" for caption in entry.captions]
    sizes = {count: len(build(train, min_count=count, tokens=rule).words) for count in (1, 5, 6)}
    assert sizes == {1: 855, 5: 432, 6: 400}
    lengths = Counter(len(tokenize(caption, rule)) for entry in entries for caption in entry.captions)
    assert lengths.total() == 40_740
    assert round(sum(length * n for length, n in lengths.items()) / lengths.total(), 1) == 7.9
    assert max(lengths) == 39
    # The longest caption just fits the default limit, which counts the start and the end token.
    assert max(lengths) + 2 == VocabularySettings().max_length
