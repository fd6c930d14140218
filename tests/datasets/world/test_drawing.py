from __future__ import annotations

import numpy as np
import pytest
from shapely import Polygon

from pipeline.datasets.world.facts import Position, position_of
from pipeline.datasets.world.geometry import MARGIN_PIXELS, Canvas, random_field, rectangle
from pipeline.datasets.world.labels import roof_patch
from pipeline.datasets.world.light import Acquisition, shadows, slope_light
from pipeline.datasets.world.scene import BOTH_DATES, Building, RoofPart


def _acquisition(azimuth: float, elevation: float) -> Acquisition:
    return Acquisition(azimuth, elevation, 0.5, 0.4, 1.0, np.ones(3), 1.0, 0.0, 0.2, 0.0, (0.0, 0.0))


@pytest.mark.parametrize(("size", "metres"), [(128, 1.0), (256, 0.5)])
def test_a_rectangle_lands_on_its_pixels(size: int, metres: float) -> None:
    canvas = Canvas(size, metres)
    patch = canvas.patch(Polygon(rectangle(np.array([30.0, 50.0]), 20.0, 10.0, 0.0)))
    samples = np.zeros((canvas.side, canvas.side), dtype=np.uint8)
    samples[patch.window][patch.mask] = 1
    rows, columns = np.nonzero(canvas.at_pixels(samples))
    assert len(rows) * metres**2 == pytest.approx(200, rel=0.06)
    assert (columns.mean() + 0.5) * metres == pytest.approx(30, abs=0.35)
    assert (rows.mean() + 0.5) * metres == pytest.approx(50, abs=0.35)


def test_the_margin_is_cut_off() -> None:
    canvas = Canvas(128, 1.0)
    samples = np.arange(canvas.side)[:, None] + np.zeros((1, canvas.side), dtype=np.int64)
    pixels = canvas.at_pixels(samples)
    assert pixels.shape == (128, 128)
    assert pixels[0, 0] == MARGIN_PIXELS * 3 + 1
    assert pixels[-1, 0] == canvas.side - MARGIN_PIXELS * 3 - 2


def test_a_shape_outside_the_canvas_is_nothing() -> None:
    patch = Canvas(128, 1.0).patch(Polygon(rectangle(np.array([-500.0, 50.0]), 20.0, 10.0, 0.0)))
    assert patch.mask.sum() == 0


def test_a_hip_roof_rises_from_the_eaves_to_the_ridge() -> None:
    pitch = np.pi / 4
    part = RoofPart(np.array([40.0, 40.0]), 8.0, 5.0, 0.0, "hip", 3.0, pitch)
    outline = Polygon(rectangle(part.centre, 16, 10, 0.0))
    roof = roof_patch(Canvas(256, 0.5), Building(1, "house", BOTH_DATES, [part], outline, np.ones(3)))
    assert roof.mask.mean() > 0.9
    # At 45 degrees the ridge lies half a width above the eaves.
    assert float(roof.height.max()) == pytest.approx(3 + 5 * np.tan(pitch), abs=0.3)
    assert float(roof.height[roof.mask].min()) == pytest.approx(3, abs=0.3)
    # Four slopes: left, right, up, down.
    assert len(np.unique(np.round(np.mod(roof.facing[roof.mask], 2 * np.pi), 3))) == 4


@pytest.mark.parametrize(
    ("azimuth", "side"), [(0.0, "right"), (np.pi, "left"), (-np.pi / 2, "up"), (np.pi / 2, "down")]
)
def test_shadows_fall_away_from_the_sun(azimuth: float, side: str) -> None:
    height = np.zeros((90, 90), dtype=np.float32)
    height[40:50, 40:50] = 6.0
    shade = shadows(height, _acquisition(azimuth, np.pi / 4), 0.5)
    ground = shade * (height == 0)
    sums = {"right": ground[:, 50:], "left": ground[:, :40], "up": ground[:40], "down": ground[50:]}
    assert max(sums, key=lambda name: float(sums[name].sum())) == side
    # At 45 degrees a 6 m wall shades 6 m, which are 12 samples, along the 10 samples of its side.
    assert float(sums[side].sum()) == pytest.approx(120, rel=0.15)


def test_a_slope_towards_the_sun_is_brighter_than_flat_ground() -> None:
    acquisition = _acquisition(0.0, np.pi / 4)
    facing = np.array([np.pi, 0.0, np.pi / 2], dtype=np.float32)
    light = slope_light(facing, np.full(3, 0.5, dtype=np.float32), acquisition)
    expected = [np.cos(0.5) + np.sin(0.5), np.cos(0.5) - np.sin(0.5), np.cos(0.5)]
    assert light == pytest.approx(expected, abs=1e-5)
    assert slope_light(facing, np.zeros(3, dtype=np.float32), acquisition) == pytest.approx([1, 1, 1])


def test_rough_fields_are_rougher() -> None:
    steps = []
    for roughness in (0.0, 0.9, 1.6):
        field = random_field(np.random.default_rng(0), 200, roughness)
        assert field.shape == (200, 200)
        assert 0.4 < field.std() < 1.6
        steps.append(float(np.abs(np.diff(field)).mean()))
    assert steps[0] > steps[1] > steps[2]


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (slice(0, 20), slice(0, 20), ("low", "low")),
        (slice(0, 20), slice(90, 99), ("high", "low")),
        (slice(45, 55), slice(45, 55), ("middle", "middle")),
        (slice(70, 90), slice(0, 100), ("spans", "high")),
        (slice(0, 100), slice(0, 100), ("spans", "spans")),
        (slice(32, 42), slice(10, 20), ("low", "unsure")),
    ],
)
def test_positions_are_thirds_of_the_picture(rows: slice, columns: slice, expected: tuple[str, str]) -> None:
    mask = np.zeros((100, 100), dtype=np.bool_)
    mask[rows, columns] = True
    position = position_of(mask)
    assert isinstance(position, Position)
    assert (position.column, position.row) == expected
    assert position.centroid[0] == pytest.approx((columns.start + columns.stop) / 200)
