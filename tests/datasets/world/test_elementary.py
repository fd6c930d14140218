"""Elementary functions of the world: close to the library's, and the same bits whatever the processor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.datasets.world.elementary import arctan2, cos, exp, hypot, power, sin, tan

_ANGLES = np.concatenate([np.linspace(-40, 40, 20_001), np.arange(-60, 61) * (np.pi / 4), [1e5, -99_999.9]])


@pytest.mark.parametrize(("own", "library"), [(sin, np.sin), (cos, np.cos)])
def test_sine_and_cosine_are_within_a_few_units_of_the_last_bit(
    own: Callable[..., np.ndarray], library: Callable[..., np.ndarray]
) -> None:
    assert np.abs(own(_ANGLES) - library(_ANGLES)).max() < 5e-16


def test_tangent() -> None:
    angles = np.linspace(-1.55, 1.55, 10_001)
    np.testing.assert_allclose(tan(angles), np.tan(angles), rtol=2e-14, atol=1e-16)


def test_arctangent_in_every_quadrant_and_on_the_axes() -> None:
    generator = np.random.default_rng(0)
    y, x = generator.normal(size=(2, 20_000)) * 10.0 ** generator.integers(-8, 9, size=(2, 20_000))
    np.testing.assert_allclose(arctan2(y, x), np.arctan2(y, x), rtol=1e-14)
    for rise, run in [(0.0, 1.0), (0.0, -1.0), (-0.0, -1.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 0.0), (2.0, 2.0)]:
        assert arctan2(rise, run) == pytest.approx(math.atan2(rise, run), abs=1e-15)


def test_exponential_power_and_hypotenuse() -> None:
    values = np.linspace(-30, 30, 10_001)
    np.testing.assert_allclose(exp(values), np.exp(values), rtol=1e-14)
    bases = np.concatenate([np.linspace(1e-6, 50, 10_001), [1.0, 2.0, 0.5, np.inf]])
    for exponent in (0.5, 1.0, 1.7, 2.0):
        np.testing.assert_allclose(power(bases, exponent), bases**exponent, rtol=1e-14)
    np.testing.assert_allclose(hypot(values, values[::-1] + 3), np.hypot(values, values[::-1] + 3), rtol=1e-15)


def test_the_type_of_the_argument_is_kept() -> None:
    assert type(cos(1.0)) is float
    assert cos(np.zeros((2, 3), dtype=np.float32)).dtype == np.float32
    assert sin(np.zeros((2, 3))).shape == (2, 3)


def test_the_bits_are_those_of_every_machine() -> None:
    # A digest of results written down: where the processor or the libraries changed a bit, this fails.
    generator = np.random.default_rng(1)
    angles, others = generator.uniform(-20, 20, size=(2, 100_000))
    results = [sin(angles), cos(angles), tan(angles), arctan2(angles, others), exp(angles), power(np.abs(others), 1.3)]
    digest = hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()
    assert digest[:16] == "9e3fda42398a3a4d"
