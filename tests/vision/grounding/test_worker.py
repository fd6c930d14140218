from __future__ import annotations

import numpy as np

from pipeline.vision.grounding.worker import paint


def test_map_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((6, 5, 7)) < 0.4
    categories = rng.integers(0, 4, 6)
    scores = rng.random(6).astype(np.float32)
    labels, marks = paint(masks, categories, scores)
    for row in range(5):
        for column in range(7):
            over = [k for k in range(6) if masks[k, row, column]]
            best = max(over, key=lambda k: scores[k], default=None)
            assert labels[row, column] == (0 if best is None else categories[best] + 1)
            assert marks[row, column] == (0 if best is None else round(float(scores[best]) * 255))


def test_equal_scores_go_to_the_earlier_mask() -> None:
    labels, _ = paint(np.ones((2, 1, 1), dtype=bool), np.array([3, 5]), np.array([0.5, 0.5]))
    assert labels.tolist() == [[4]]


def test_no_mask_is_an_empty_map() -> None:
    labels, marks = paint(np.zeros((0, 3, 4), dtype=bool), np.zeros(0, dtype=np.int64), np.zeros(0))
    assert labels.shape == marks.shape == (3, 4)
    assert not labels.any()
    assert not marks.any()
