from __future__ import annotations

import pytest

from pipeline.datasets.audit import Audit
from pipeline.datasets.captions import settle_captions
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import MISMATCH_KINDS
from pipeline.errors import DataError
from pipeline.language.settings import VocabularySettings

SAME, OTHER = "nothing has changed", "a house is built"


def settle(*captions: str, changed: bool | None = None, **limits: object) -> tuple[Pair, dict[str, int]]:
    audit = Audit()
    pair = Pair(id="x", split="train", before="a.png", after="b.png", captions=captions, changed=changed)
    (settled,) = settle_captions([pair], VocabularySettings.model_validate(limits), audit)
    return settled, {kind: audit.count(kind) for kind in MISMATCH_KINDS if audit.count(kind)}


@pytest.mark.parametrize(
    ("captions", "changed", "notes"),
    [
        ((SAME, SAME), False, {"flag-derived": 1}),
        ((OTHER, OTHER), True, {"flag-derived": 1}),
        ((SAME, OTHER), True, {"flag-derived": 1, "captions-disagree": 1}),
        ((), None, {}),
    ],
)
def test_missing_flags_are_derived(captions: tuple[str, ...], changed: bool | None, notes: dict[str, int]) -> None:
    pair, found = settle(*captions)
    assert pair.changed is changed
    assert found == notes


@pytest.mark.parametrize(
    ("captions", "changed", "notes"),
    [
        ((SAME,), True, {"flag-contradicts-captions": 1}),
        ((OTHER,), False, {"flag-contradicts-captions": 1}),
        ((SAME, OTHER), False, {"captions-disagree": 1}),
        ((SAME,), False, {}),
        ((OTHER,), True, {}),
    ],
)
def test_given_flags_are_kept_and_checked(captions: tuple[str, ...], changed: bool, notes: dict[str, int]) -> None:
    pair, found = settle(*captions, changed=changed)
    assert pair.changed is changed
    assert found == notes


@pytest.mark.parametrize("empty", ["", " ", ".", " ?!"])
def test_empty_captions_are_dropped_and_noted(empty: str) -> None:
    pair, found = settle(empty, OTHER, changed=True)
    assert pair.captions == (OTHER,)
    assert found == {"caption-empty": 1}


def test_too_long_captions() -> None:
    assert settle(OTHER, changed=True, max_length=6)[1] == {}
    with pytest.raises(DataError, match="6 tokens") as caught:
        settle(OTHER, changed=True, max_length=5)
    assert caught.value.where == "pair x"
    pair, found = settle(OTHER, changed=True, max_length=5, too_long="truncate")
    assert pair.captions == (OTHER,)
    assert found == {"caption-too-long": 1}
