from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.attention_maps import area_under_curve, changed_share, mass_on_change


def test_the_share_of_a_cell_is_that_of_its_pixels() -> None:
    changed = np.zeros((4, 6), np.bool_)
    changed[:2, :3] = True
    changed[3, 5] = True
    np.testing.assert_allclose(changed_share(changed, (2, 2)), [[1, 0], [0, 1 / 6]])
    # Rows and columns of grids that are not square: two rows of four cells over three rows of pixels each.
    wide = np.zeros((6, 12), np.bool_)
    wide[:3, 9:] = True
    wide[5, 0] = True
    np.testing.assert_allclose(changed_share(wide, (2, 4)), [[0, 0, 0, 1], [1 / 9, 0, 0, 0]])
    with pytest.raises(ValueError, match="4×6 pixels has no grid of 3×2"):
        changed_share(changed, (3, 2))


def test_the_mass_is_counted_pixel_by_pixel() -> None:
    random = np.random.default_rng(0)
    changed, weights = random.random((8, 8)) < 0.3, random.random((5, 2, 4, 4))
    mass = mass_on_change(weights, changed_share(changed, (4, 4)))
    for word in range(5):
        for layer in range(2):
            spread = weights[word, layer].repeat(2, 0).repeat(2, 1) / 4
            assert mass[word, layer] == pytest.approx(spread[changed].sum() / spread.sum())
    even = mass_on_change(np.ones((4, 4)), changed_share(changed, (4, 4)))
    assert even == pytest.approx(changed.mean())


def test_the_area_is_the_chance_of_the_right_order() -> None:
    random = np.random.default_rng(1)
    masks = [random.random((6, 6)) < 0.3 for _ in range(3)]
    scores = [np.round(random.random((3, 3)), 1) for _ in range(3)]
    wins = pairs = 0.0
    pixels = [
        (float(score[y // 2, x // 2]), bool(mask[y, x]))
        for mask, score in zip(masks, scores, strict=True)
        for y in range(6)
        for x in range(6)
    ]
    for value, is_changed in pixels:
        for other, other_changed in pixels:
            if is_changed and not other_changed:
                wins += 1.0 if value > other else 0.5 if value == other else 0.0
                pairs += 1
    shares = [changed_share(mask, (3, 3)) for mask in masks]
    assert area_under_curve(scores, shares) == pytest.approx(wins / pairs)
    with pytest.raises(ValueError, match="both changed and unchanged"):
        area_under_curve(scores, [np.zeros((3, 3))] * 3)
