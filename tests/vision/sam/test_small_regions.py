from __future__ import annotations

import numpy as np
import pytest
from segment_anything.utils.amg import remove_small_regions

from pipeline.vision.sam.small_regions import without_small_regions


@pytest.mark.parametrize("area", [1, 4, 12, 100_000])
@pytest.mark.parametrize("density", [0.05, 0.5, 0.8])
def test_equals_opencv(area: int, density: float) -> None:
    random = np.random.default_rng(int(10 * density))
    changes = []
    for _ in range(20):
        mask = random.random((24, 31)) < density
        filled, holes = remove_small_regions(mask, area, mode="holes")
        expected, islands = remove_small_regions(filled, area, mode="islands")
        found, changed = without_small_regions(mask, area)
        assert changed == (holes or islands)
        changes.append(changed)
        # Of equally large islands OpenCV and SciPy may keep another one as the last.
        if expected.sum() >= area:
            np.testing.assert_array_equal(found, expected)
        else:
            assert found.sum() == expected.sum()
    assert any(changes) == (area > 1)


def test_holes_and_islands() -> None:
    mask = np.zeros((8, 12), dtype=np.bool_)
    mask[1:6, 1:6] = True
    mask[3, 3] = False
    mask[6, 10] = True
    found, changed = without_small_regions(mask, 3)
    assert changed
    assert found.sum() == 25
    assert without_small_regions(found, 3)[1] is False
