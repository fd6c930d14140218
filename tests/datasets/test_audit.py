from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.audit import LISTED, Audit
from pipeline.datasets.settings import MISMATCH_KINDS
from pipeline.errors import DataError

ROOT = Path("data")


def test_all_are_counted_and_the_first_are_listed() -> None:
    audit = Audit()
    for number in range(LISTED + 7):
        audit.note("mask-without-pair", f"{number}.png")
    report = audit.report({"mask-without-pair"})
    assert report["mask-without-pair"]["total"] == LISTED + 7
    assert report["mask-without-pair"]["listed"] == [f"{number}.png" for number in range(LISTED)]
    assert report["mask-without-pair"]["strict"]
    assert set(report) == set(MISMATCH_KINDS)


@pytest.mark.parametrize("kind", MISMATCH_KINDS)
def test_each_kind_can_be_an_error_with_a_cure(kind: str) -> None:
    audit = Audit()
    audit.note(kind, "x.png")
    audit.check(set(MISMATCH_KINDS) - {kind}, ROOT)
    with pytest.raises(DataError, match=r"x\.png") as caught:
        audit.check({kind}, ROOT)
    assert caught.value.where == "data"
    assert kind in str(caught.value.fix) or "allow_missing_images" in str(caught.value.fix)


def test_a_file_at_fault_is_named_with_its_own_cure() -> None:
    audit = Audit()
    audit.note("image-unreadable", "a", DataError("the image is damaged", where="a.png", fix="replace it"))
    audit.note("image-unreadable", "b", DataError("other", where="b.png"))
    with pytest.raises(DataError, match=r"the image is damaged \(and 1 more") as caught:
        audit.check({"image-unreadable"}, ROOT)
    assert (caught.value.where, caught.value.fix) == ("a.png", "replace it")
