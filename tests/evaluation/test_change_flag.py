from __future__ import annotations

import pytest

from pipeline.errors import DataError
from pipeline.evaluation.change_flag import ChangeFlagScores, change_flag_scores

YES, NO = "a road is built", "nothing"


def scores(said: str, true: str) -> ChangeFlagScores:
    captions = {str(place): YES if flag == "1" else NO for place, flag in enumerate(said)}
    changed = {str(place): flag == "1" for place, flag in enumerate(true)}
    return change_flag_scores(captions, changed, lambda caption: caption == YES)


def test_numbers() -> None:
    found = scores(said="1110000011", true="1101000000")
    assert found.accuracy == pytest.approx(60)
    assert found.precision == pytest.approx(100 * 2 / 5)
    assert found.recall == pytest.approx(100 * 2 / 3)
    assert found.f1 == pytest.approx(100 * 2 * 0.4 * (2 / 3) / (0.4 + 2 / 3))


def test_what_is_undefined_is_missing() -> None:
    assert scores("00", "10") == ChangeFlagScores(50, None, 0, None)
    assert scores("10", "00") == ChangeFlagScores(50, 0, None, None)
    assert scores("10", "01") == ChangeFlagScores(0, 0, 0, 0)


def test_bad_input() -> None:
    with pytest.raises(DataError, match="no pair has a change flag"):
        scores("1", "")
    with pytest.raises(DataError, match="without a caption: 1, first '1'"):
        scores("1", "10")
