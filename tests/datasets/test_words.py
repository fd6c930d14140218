from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.words import (
    is_latin,
    is_unspaced,
    join_words,
    normal_form,
    spaced_words,
    unspaced_length,
    word_parts,
    words,
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("एक इमारत बनाई गई है।", "एक इमारत बनाई गई है"),
        ("ஒரு வீடு கட்டப்பட்டது.", "ஒரு வீடு கட்டப்பட்டது"),
        ("একটি বাড়ি তৈরি হয়েছে॥", "একটি বাড়ি তৈরি হয়েছে"),
        ("بُنِيَ بَيْتٌ، جَدِيدٌ؟", "بُنِيَ بَيْتٌ جَدِيدٌ"),
        ("בּוּנָה בַּיִת", "בּוּנָה בַּיִת"),
        ("дом построен; п’ять", "дом построен п'ять"),
        ("Yorùbá ẹ̀kọ́ ọ̀", "yorùbá ẹ̀kọ́ ọ̀"),
        ("새 집이 지어졌다.", "새 집이 지어졌다"),
        ("đường MỚI được xây", "đường mới được xây"),
        ("٣ بيوت ३ घर", "٣ بيوت ३ घर"),
        ("İstanbul’da", "i̇stanbul'da"),
    ],
)
def test_words_keep_their_marks(caption: str, expected: str) -> None:
    assert " ".join(words(caption)) == unicodedata.normalize("NFKC", expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("बड़ा", unicodedata.normalize("NFD", "बड़ा")),
        ("\u0958", "\u0915\u093c"),
        ("Ｈｏｕｓｅ，", "house"),
        ("ﬁeld", "field"),
        ("بـــيت", "بيت"),
        ("co\u00adop", "coop"),
        ("\u202eab\u202c", "ab"),
        ("house\ufe0f", "house"),
        ('צה"ל', "צה״ל"),
        ("road\u2019s", "road's"),
        ("ﺑﻴﺖ", "بيت"),
        ("น้ํา", "น้ำ"),
        ("한국", unicodedata.normalize("NFD", "한국")),
    ],
)
def test_spellings_that_look_alike_are_one_word(one: str, other: str) -> None:
    assert words(one) == words(other) != ()


@pytest.mark.parametrize(
    "word", ["می\u200cشود", "क्\u200dष", "ന്\u200d", "t-junction's", "l'étang", "צה״ל", "סנדוויץ׳", "rail-road", "3d"]
)
def test_signs_inside_a_word_keep_it_whole(word: str) -> None:
    assert words(f"({word})") == (normal_form(word),)


@pytest.mark.parametrize(
    ("caption", "tokens", "sentence"),
    [
        ("新建了12栋A型房子。", "新 建 了 12 栋 a 型 房 子", "新建了12栋 a 型房子"),
        ("道路が、コーヒー！", "道 路 が コ ー ヒ ー", "道路がコーヒー"),
        ("มีน้ำใหม่ 12 หลัง", "มี น้ำ ใ ห ม่ 12 ห ลั ง", "มีน้ำใหม่ 12 หลัง"),
        ("សាងសង់ផ្ទះ", "សា ង ស ង់ ផ្ទះ", "សាងសង់ផ្ទះ"),
        ("ပုဂ္ဂိုလ်", "ပု ဂ္ဂို လ်", "ပုဂ္ဂိုလ်"),
        ("ນ້ຳໃໝ່", "ນ້ຳ ໃ ໝ່".replace("ໝ", "ຫມ"), None),
        ("རྒྱལ་ཁབ།", "རྒྱལ ཁབ", "རྒྱལ་ཁབ"),
        ("a new 房子 is built", "a new 房 子 is built", "a new 房子 is built"),
    ],
)
def test_scripts_without_spaces(caption: str, tokens: str, sentence: str | None) -> None:
    if sentence is not None:
        assert " ".join(words(caption)) == tokens
        assert join_words(words(caption)) == sentence
    assert words(join_words(words(caption))) == words(caption)


def test_segmented_captions_keep_their_words() -> None:
    assert spaced_words("新建 了 一栋 房子 。") == ("新建", "了", "一栋", "房子")
    assert spaced_words("a House, built") == words("a House, built")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("😀👩\u200d👧❤\ufe0f house", "house"),
        ("a\x00b\x07c", "a b c"),
        ("\ud800road\udfff", "road"),
        ("house，road。tree！（lake）", "house road tree lake"),
        ("snake_case", "snake case"),
        ("\u0301\u0302", ""),
        ("ㅤ\u3164", ""),
        ("...", ""),
    ],
)
def test_what_is_no_word_separates(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


def letters_and_marks(text: str) -> list[str]:
    """Return the letters and digits of a text, with the marks that stand behind one."""
    kept: list[str] = []
    attached = False
    for sign in text:
        category = unicodedata.category(sign)
        attached = sign.isalnum() or (attached and (category[0] == "M" or sign in "\u200c\u200d"))
        if attached and sign not in "\u200c\u200d":
            kept.append(sign)
    return kept


ANY = st.text(max_size=60) | st.text(
    st.characters(
        categories=["Lo", "Ll", "Lu", "Lm", "Mn", "Mc", "Nd", "Cf", "Po", "Cs"],
    ),
    max_size=40,
)
SCRIPTS = st.text(st.sampled_from("ab-'’ क्षि\u200d\u200cพํานำ新12が་ཀྱំ្កျ္ဂبـتً\"׳״א\u0301é。।_\u0e4dາ\u0ecd٣"), max_size=40)


@given(ANY | SCRIPTS)
def test_any_text_has_words_that_stay_words(text: str) -> None:
    for split in (words, spaced_words):
        tokens = split(text)
        assert split(" ".join(tokens)) == tokens
    tokens = words(text)
    assert words(join_words(tokens)) == tokens
    assert all(tokens)
    assert normal_form(normal_form(text)) == normal_form(text)


@given(ANY | SCRIPTS)
def test_no_letter_and_no_mark_is_lost(text: str) -> None:
    signs = "".join(words(text))
    normal = normal_form(text)
    assert [sign for sign in signs if sign.isalnum()] == [sign for sign in normal if sign.isalnum()]
    rest = iter(signs)
    assert all(sign in rest for sign in letters_and_marks(normal))


@given(ANY | SCRIPTS)
def test_parts_of_words_say_where_they_stand(text: str) -> None:
    place, previous = 0, (0, 0)
    for part, start, end in word_parts(text):
        assert part
        assert 0 <= start < end <= len(text)
        assert start >= place or (start, end) == previous
        place, previous = end, (start, end)


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301\u0316" * 20_000,
        "-a" * 20_000,
        "\u200d" * 50_000,
        "क\u200d" * 20_000,
        "ក" + "\u17d2" * 50_000,
        "é" + "'" * 50_000,
        "新" * 50_000,
        "\u0e4d\u0e32" * 20_000,
    ],
)
def test_long_repetitions_take_linear_time(text: str) -> None:
    # The suite's timeout ends what is quadratic.
    assert words(text) == words(" ".join(words(text)))


def test_marks_beyond_thirty_on_a_letter_are_dropped() -> None:
    assert len(words("a" + "\u0316" * 100)[0]) == 31


def test_scripts_are_told_apart() -> None:
    assert is_unspaced("新")
    assert not is_unspaced("a")
    assert unspaced_length("新建a") == 2
    assert is_latin("Café près de l’étang – 20 €")
    assert not is_latin("дом")
    assert not is_latin("e\u0323\u0300")
