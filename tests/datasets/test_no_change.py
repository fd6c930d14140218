from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.no_change import implies_change, no_change_sentences
from pipeline.files import read_json
from tests.datasets.reference import reference


@pytest.mark.parametrize("sentence", sorted({text for texts in no_change_sentences().values() for text in texts}))
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
