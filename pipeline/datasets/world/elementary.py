"""Sine, cosine, tangent, arctangent, exponential, power and hypotenuse that are equal on every processor.

The world's pixels must not depend on the machine. numpy chooses its sine by the processor (with AVX-512 it is another
one), and so does the C library (with FMA it is another one); the results differ in their last bit, and once in some
thousand pictures a bit moves an outline across a sample's centre. IEEE 754 prescribes the result of +, -, ×, ÷, √ and
of rounding to whole numbers, and numpy does one of them at a time. The functions here use nothing else.

They are as exact as double precision needs: relative error below 1e-14 (arguments of sine and cosine up to 1e5).
Reductions and series are those of the textbooks (Cody and Waite 1980, "Software Manual for the Elementary Functions").
"""

from __future__ import annotations

from math import factorial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Numbers = TypeVar("Numbers", float, NDArray[np.float32], NDArray[np.float64])
"""A number, or an array whose type the result has too."""

# π/2 and ln 2 in parts with so few bits that a whole number below 2^20 times the first parts is exact.
_HALF_PI = (
    float.fromhex("0x1.921fb5440p+0"),
    float.fromhex("0x1.0b4611a60p-34"),
    float.fromhex("0x1.3198a2e037073p-69"),
)
_LN_2 = (float.fromhex("0x1.62e42fef0p-1"), float.fromhex("0x1.473de6af278edp-34"))
_TWOS_PER_E = 1.4426950408889634

_SINE = [(-1) ** k / factorial(2 * k + 1) for k in range(9)]
_COSINE = [(-1) ** k / factorial(2 * k) for k in range(9)]
_EXPONENTIAL = [1 / factorial(k) for k in range(15)]
_ARCTANGENT = [(-1) ** k / (2 * k + 1) for k in range(22)]
_LOGARITHM = [2 / (2 * k + 1) for k in range(12)]


def sin(angle: Numbers) -> Numbers:
    """Return the sine of an angle in radians."""
    return _turned(angle, quarter=0)


def cos(angle: Numbers) -> Numbers:
    """Return the cosine of an angle in radians."""
    return _turned(angle, quarter=1)


def tan(angle: Numbers) -> Numbers:
    """Return the tangent of an angle in radians."""
    angles = np.asarray(angle, dtype=np.float64)
    return _like(angle, _turned(angles, quarter=0) / _turned(angles, quarter=1))


def arctan2(y: Numbers, x: Numbers) -> Numbers:
    """Return the angle of (x, y) from the x axis towards y, from -π to π; 0 for the zero vector."""
    rise, run = np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64)
    long, short = np.maximum(np.abs(rise), np.abs(run)), np.minimum(np.abs(rise), np.abs(run))
    ratio = short / np.where(long == 0, 1.0, long)
    # Above tan(π/8) the series converges slowly: arctan t = π/4 + arctan((t - 1)/(t + 1)).
    steep = ratio > 0.4142135623730951
    t = np.where(steep, (ratio - 1) / (ratio + 1), ratio)
    angle = t * _polynomial(_ARCTANGENT, t * t) + np.where(steep, np.pi / 4, 0.0)
    angle = np.where(np.abs(rise) > np.abs(run), np.pi / 2 - angle, angle)
    angle = np.where(run < 0, np.pi - angle, angle)
    return _like(y, np.copysign(angle, rise))


def hypot(x: Numbers, y: Numbers) -> Numbers:
    """Return √(x² + y²); of lengths in metres, which do not overflow."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return _like(x, np.sqrt(first * first + second * second))


def exp(exponent: Numbers) -> Numbers:
    """Return e to the power of `exponent` (between -700 and 700)."""
    values = np.asarray(exponent, dtype=np.float64)
    whole = np.rint(values * _TWOS_PER_E)
    rest = (values - whole * _LN_2[0]) - whole * _LN_2[1]
    return _like(exponent, np.ldexp(_polynomial(_EXPONENTIAL, rest), whole.astype(np.int32)))


def power(base: Numbers, exponent: float) -> Numbers:
    """Return a positive `base` (or infinity) to the power of a positive `exponent`."""
    values = np.asarray(base, dtype=np.float64)
    finite = np.where(np.isfinite(values), values, 1.0)
    mantissa, twos = np.frexp(finite)
    low = mantissa < 0.7071067811865476
    mantissa, twos = np.where(low, 2 * mantissa, mantissa), np.where(low, twos - 1, twos)
    ratio = (mantissa - 1) / (mantissa + 1)
    logarithm = ratio * _polynomial(_LOGARITHM, ratio * ratio) + twos * (_LN_2[0] + _LN_2[1])
    return _like(base, np.where(np.isfinite(values), exp(exponent * logarithm), np.inf))


def _turned(angle: Numbers, *, quarter: int) -> Numbers:
    """Return the sine of `angle` plus `quarter` quarter turns."""
    angles = np.asarray(angle, dtype=np.float64)
    turns = np.rint(angles * (2 / np.pi))
    rest = ((angles - turns * _HALF_PI[0]) - turns * _HALF_PI[1]) - turns * _HALF_PI[2]
    square = rest * rest
    sine, cosine = rest * _polynomial(_SINE, square), _polynomial(_COSINE, square)
    quadrant = (turns.astype(np.int64) + quarter) & 3
    value = np.where(quadrant & 1 == 0, sine, cosine)
    return _like(angle, np.where(quadrant & 2 == 0, value, -value))


def _polynomial(coefficients: list[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _like(example: Numbers, values: NDArray[np.float64]) -> Numbers:
    """Return `values` in the type of `example`: a number, or an array of its type."""
    typed: Any = values.astype(example.dtype) if isinstance(example, np.ndarray) else float(values)
    result: Numbers = typed
    return result
