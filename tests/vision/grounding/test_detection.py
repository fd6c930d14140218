from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.vision.grounding.detection import category_scores, select
from pipeline.vision.grounding.detector import Detector
from pipeline.vision.grounding.forward import Grounding, Proposals
from pipeline.vision.grounding.settings import GroundingSettings
from tests.vision.grounding.grounding_data import TEXT_ENCODER, small

TOKENS = torch.tensor([[False, True, True, False], [False, False, False, True]])
NEVER = -20.0


def answer(rows: list[tuple[float, float, tuple[float, float, float, float]]]) -> Grounding:
    """Make the answer for one image of queries with (logit of category 0, of category 1, box in shares)."""
    logits = torch.tensor([[[9.0, NEVER, zero, one] for zero, one, _ in rows]])
    boxes = torch.tensor([[list(box) for _, _, box in rows]])
    empty = torch.zeros(1, 0, 4)
    return Grounding([logits], [boxes], torch.zeros(1, len(rows), 2), empty, Proposals(empty, empty, empty[0]), [])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_category_scores_as_its_best_token() -> None:
    logits = torch.tensor([[[9.0, -1.0, 0.5, -3.0], [9.0, 2.0, -4.0, 1.0]]])
    expected = [[[sigmoid(0.5), sigmoid(-3.0)], [sigmoid(2.0), sigmoid(1.0)]]]
    np.testing.assert_allclose(category_scores(logits, TOKENS), expected, rtol=1e-6)


def test_thresholds_categories_and_pixels() -> None:
    rows = [(3.0, -0.5, (0.5, 0.5, 0.5, 0.25)), (-1.0, -3.0, (0.2, 0.2, 0.1, 0.1)), (NEVER, 1.0, (0.1, 0.1, 0.2, 0.2))]
    settings = GroundingSettings(box_threshold=0.35, text_threshold=0.25)
    found = select(answer(rows), TOKENS, settings, 0, (100, 100), 100)
    # The first query counts for both categories, the second for none.
    assert found.categories.tolist() == [0, 1, 1]
    assert found.rows.tolist() == [0, 2, 0]
    np.testing.assert_allclose(found.scores, [sigmoid(3), sigmoid(1), sigmoid(-0.5)], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[0], [25, 37.5, 75, 62.5], rtol=1e-5)


def test_boxes_end_at_the_picture_and_padding_holds_none() -> None:
    rows = [(3.0, NEVER, (0.5, 0.5, 1.2, 0.8)), (2.0, NEVER, (0.5, 0.9, 0.2, 0.1))]
    found = select(answer(rows), TOKENS, GroundingSettings(), 0, (50, 100), 100)
    np.testing.assert_allclose(found.boxes, [[0, 10, 100, 50]], atol=1e-4)


def test_suppression_is_within_a_category_and_the_best_are_kept() -> None:
    box = (0.5, 0.5, 0.4, 0.4)
    rows = [
        (1.0, NEVER, box),
        (2.0, NEVER, (0.51, 0.5, 0.4, 0.4)),
        (NEVER, 0.5, box),
        (0.2, NEVER, (0.1, 0.1, 0.1, 0.1)),
    ]
    settings = GroundingSettings(nms=0.6)
    assert select(answer(rows), TOKENS, settings, 0, (64, 64), 64).rows.tolist() == [1, 2, 3]
    few = settings.model_copy(update={"boxes": 2})
    assert select(answer(rows), TOKENS, few, 0, (64, 64), 64).rows.tolist() == [1, 2]
    none = settings.model_copy(update={"box_threshold": 0.99})
    assert len(select(answer(rows), TOKENS, none, 0, (64, 64), 64)) == 0


def test_memory_that_runs_out_halves_the_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.vision.grounding.detector.build_grounding_dino", lambda _settings: small())
    settings = GroundingSettings(text_encoder=str(TEXT_ENCODER), size=64, box_threshold=0.0, text_threshold=0.0)
    images = [np.full((64, 64, 3), value, dtype=np.uint8) for value in (0, 90, 180, 250)]
    whole = Detector(settings, torch.device("cpu"), 4).detect(images)
    tight = Detector(settings, torch.device("cpu"), 4)
    attempt = tight._pass

    def at_most_one(batch: list[np.ndarray]) -> object:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return attempt(batch)

    monkeypatch.setattr(tight, "_pass", at_most_one)
    single = tight.detect(images)
    assert len(single) == 4
    for one, other in zip(whole, single, strict=True):
        assert len(one.found) == len(other.found)
        torch.testing.assert_close(one.found.scores, other.found.scores, atol=1e-4, rtol=1e-4)
    assert "memory ran out" in capsys.readouterr().err
