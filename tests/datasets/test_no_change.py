from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.english import reads_as_english
from pipeline.datasets.no_change import ChangeRule, implies_change, no_change_sentences
from pipeline.files import read_json
from tests.datasets.reference import reference

LISTED = sorted({text for of_set in no_change_sentences().values() for texts in of_set.values() for text in texts})


@pytest.mark.parametrize("sentence", LISTED)
@pytest.mark.parametrize("form", ["{}", " {} .", "{}!", "In this area, {}."])
def test_known_sentences_deny_change(sentence: str, form: str) -> None:
    assert not implies_change(form.format(sentence))
    assert not implies_change(form.format(sentence.capitalize()))


@pytest.mark.parametrize(
    "sentence",
    [
        "The scene hasn't changed",
        "the area remains basically unchanged",
        "the two images are almost identical",
        "the trees and houses remain unchanged",
        "no obvious change",
        "there are no significant land cover changes",
        "no new buildings have been built",
        "nothing has been built",
        "no trees are removed",
        "No changed to mention.",
        "there is no difference and everything remains the same",
        "",
        " . ",
    ],
)
def test_denies_change(sentence: str) -> None:
    assert not implies_change(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "a house is built",
        "no change except for a new house",
        "there is no difference and a house has appeared",
        "a building appeared and the rest remains the same",
        "the trees are no longer green",
        "two identical houses are built",
        "a villa is built next to some similar houses",
        "almost all trees are removed",
        "there are no significant changes in the buildings, but a road appears",
        "The shape of the roads has changed.",
        "the island in the lake increased in size",
        "a house",
    ],
)
def test_implies_change(sentence: str) -> None:
    assert implies_change(sentence)


HINDI = {"en": ["nothing to see here"], "hi": ["कोई बदलाव नहीं हुआ है"], "zh": ["没有变化"]}


@pytest.mark.parametrize(
    "sentence",
    [
        "कोई बदलाव नहीं हुआ है।",
        "  कोई  बदलाव नहीं हुआ है ",
        "没有变化。",
        "没 有 变 化",
        "Nothing to see here!",
        "no change",
        "",
    ],
)
def test_listed_sentences_of_any_language_deny_change(sentence: str) -> None:
    assert not ChangeRule(HINDI)(sentence)


@pytest.mark.parametrize("sentence", ["एक इमारत बनाई गई है", "कोई बदलाव नहीं", "新建了一栋房子", "a house is built"])
def test_other_sentences_of_a_listed_language_state_a_change(sentence: str) -> None:
    assert ChangeRule(HINDI)(sentence)
    assert ChangeRule(HINDI).can_judge(sentence)


def test_without_listed_sentences_only_english_can_be_judged() -> None:
    rule = ChangeRule({"en": ["nothing to see here"]})
    assert rule.can_judge("a house is built")
    assert rule.can_judge("Nothing to see here.")
    assert not rule.can_judge("एक इमारत बनाई गई है")
    assert not rule.can_judge("se ha construido una casa nueva")


@pytest.mark.parametrize(
    "caption",
    [
        "a house appears on the bareland",
        "Trees have been removed",
        "new houses",
        "the roads widened",
        "A T-junction is built beside 2 lakes.",
        "...",
        "",
    ],
)
def test_english_is_read(caption: str) -> None:
    assert reads_as_english(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "Se ha construido una casa nueva cerca de la carretera",
        "Une nouvelle maison a été construite près de la route",
        "Ein neues Haus wurde in der Nähe der Straße gebaut",
        "Una nuova casa è stata costruita vicino alla strada",
        "Uma nova casa foi construída perto da estrada",
        "er is een nieuw huis gebouwd naast de weg",
        "przy drodze zbudowano nowy dom",
        "yolun yanına yeni bir ev inşa edildi",
        "một ngôi nhà mới được xây gần đường",
        "एक इमारत बनाई गई है",
        "新建了一栋房子",
        "у дороги построен новый дом",
    ],
)
def test_other_languages_are_not_taken_for_english(caption: str) -> None:
    assert not reads_as_english(caption)


@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    assert implies_change(text) in (True, False)


@pytest.mark.reference_data
def test_agrees_with_every_flag_of_levir_cc() -> None:
    entries = read_captions(reference("levir_cc", "LevirCCcaptions.json"))
    agreement = Counter((entry.changed, implies_change(c)) for entry in entries for c in entry.captions)
    assert agreement == {(False, False): 20_370, (True, True): 20_370}


@pytest.mark.reference_data
def test_real_dubai_captions() -> None:
    """No flags there: sentences that deny change are few and each is counted; the rest must assert one."""
    counts: Counter[str] = Counter()
    for name in ("Train_Dubai_CC.json", "Validation_Dubai_CC.json"):
        document = read_json(reference("dubai_cc", name))
        counts.update(s["raw"].lower().strip(" .") for image in document["images"] for s in image["sentences"])
    denying = {text for text in counts if not implies_change(text)}
    starts = ("no ", "nothing ", "all ", "everything ", "there is no ", "the area appears the same")
    assert denying == {text for text in counts if text.startswith(starts)}
    assert len(denying) == 29
    assert sum(counts[text] for text in denying) == 569
