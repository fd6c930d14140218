from __future__ import annotations

import numpy as np

from pipeline.vision.grounding.worker import paint_maps


def test_map_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((6, 5, 7)) < 0.4
    categories = rng.integers(0, 4, 6)
    scores = rng.random(6).astype(np.float32)
    category_map, score_map = paint_maps(masks, categories, scores)
    for row in range(5):
        for column in range(7):
            covering = [k for k in range(6) if masks[k, row, column]]
            best = max(covering, key=lambda k: scores[k], default=None)
            assert category_map[row, column] == (0 if best is None else categories[best] + 1)
            assert score_map[row, column] == (0 if best is None else round(float(scores[best]) * 255))


def test_equal_scores_go_to_the_earlier_mask() -> None:
    category_map, _ = paint_maps(np.ones((2, 1, 1), dtype=bool), np.array([3, 5]), np.array([0.5, 0.5]))
    assert category_map.tolist() == [[4]]


def test_no_mask_is_an_empty_map() -> None:
    category_map, score_map = paint_maps(np.zeros((0, 3, 4), dtype=bool), np.zeros(0, dtype=np.int64), np.zeros(0))
    assert category_map.shape == score_map.shape == (3, 4)
    assert not category_map.any()
    assert not score_map.any()
