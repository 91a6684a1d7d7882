"""The four floating-point formats: exact rounding into them, and distance in units of last place.

Values of every format are held as float64, which contains all of them exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Format:
    """A binary format: bits of significand (the hidden one included) and exponent range."""

    name: str
    width: int
    precision: int
    emin: int
    emax: int

    @property
    def least_exponent(self) -> int:
        """The exponent of the least subnormal."""
        return self.emin - self.precision + 1

    @property
    def min_subnormal(self) -> float:
        """The least positive value."""
        return math.ldexp(1.0, self.least_exponent)

    @property
    def min_normal(self) -> float:
        """The least value of full precision."""
        return math.ldexp(1.0, self.emin)

    @property
    def max(self) -> float:
        """The largest finite value."""
        return math.ldexp(2.0 - math.ldexp(1.0, 1 - self.precision), self.emax)

    @property
    def eps(self) -> float:
        """The spacing at 1."""
        return math.ldexp(1.0, 1 - self.precision)


FORMATS = {
    row.name: row
    for row in (
        Format("float64", 64, 53, -1022, 1023),
        Format("float32", 32, 24, -126, 127),
        Format("float16", 16, 11, -14, 15),
        Format("bfloat16", 16, 8, -126, 127),
    )
}


def round_dyadic(mantissa: int, exponent: int, dtype: str) -> float:
    """The value nearest to ``mantissa * 2**exponent``, ties to even, overflow to infinity.

    The exponent may be astronomically large: nothing is shifted by it before the range is known.
    """
    form = FORMATS[dtype]
    if mantissa == 0:
        return 0.0
    sign, magnitude = (-1.0 if mantissa < 0 else 1.0), abs(mantissa)
    top = magnitude.bit_length() + exponent  # 2**(top-1) <= |value| < 2**top
    if top - 1 > form.emax:
        return sign * math.inf
    if top < form.least_exponent:  # below half the least subnormal
        return sign * 0.0
    quantum = max(top - form.precision, form.least_exponent)
    shift = quantum - exponent
    if shift <= 0:
        units = magnitude << -shift
    else:
        units, rest = magnitude >> shift, magnitude & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        units += rest > half or (rest == half and units & 1 == 1)
    if units.bit_length() + quantum - 1 > form.emax:
        return sign * math.inf
    return sign * math.ldexp(units, quantum)


def round_floats(values: ArrayLike, dtype: str) -> Floats:
    """Round float64 values into a format, elementwise."""
    array = np.asarray(values, dtype=np.float64)
    flat = [_round_float(float(v), dtype) for v in array.ravel()]
    return np.array(flat, dtype=np.float64).reshape(array.shape)


def _round_float(value: float, dtype: str) -> float:
    if value == 0.0 or not math.isfinite(value):
        return value
    fraction, exponent = math.frexp(value)
    return round_dyadic(int(math.ldexp(fraction, 53)), exponent - 53, dtype)


def representable(values: ArrayLike, dtype: str) -> bool:
    """Whether every value is exactly a value of the format (NaN and infinities are)."""
    array = np.asarray(values, dtype=np.float64)
    return bool(np.array_equal(round_floats(array, dtype), array, equal_nan=True))


def flush(values: ArrayLike, dtype: str) -> Floats:
    """Subnormal values replaced by a zero of their sign, as two of the platforms do."""
    array = np.asarray(values, dtype=np.float64)
    tiny = np.abs(array) < FORMATS[dtype].min_normal
    return np.where(tiny, np.copysign(0.0, array), array)


def ordinals(values: ArrayLike, dtype: str) -> NDArray[np.int64]:
    """The rank of each value among the non-negative values of the format, with the value's sign.

    Both zeros are 0, infinity follows the largest finite value. NaN has no rank.
    """
    form = FORMATS[dtype]
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError("NaN has no place among the values of a format; compare classes first")
    if not representable(array, dtype):
        raise ValueError(f"a value given as {dtype} is not a {dtype} value")
    magnitude = np.abs(array)
    infinite = np.isinf(magnitude)
    finite = np.where(infinite, 0.0, magnitude)
    exponent = np.maximum(np.frexp(finite)[1].astype(np.int64) - 1, form.emin)
    exponent = np.where(finite == 0.0, form.emin, exponent)
    units = np.ldexp(finite, form.precision - 1 - exponent).astype(np.int64)
    rank = (exponent - form.emin) * np.int64(1 << (form.precision - 1)) + units
    last = np.int64(form.emax - form.emin + 2) << np.int64(form.precision - 1)
    rank = np.where(infinite, last, rank)
    return np.where(np.signbit(array), -rank, rank)


def ulp_distance(a: ArrayLike, b: ArrayLike, dtype: str) -> NDArray[np.uint64]:
    """How many values of the format lie between two of its values (adjacent values: 1)."""
    first, second = ordinals(a, dtype), ordinals(b, dtype)
    same = (first < 0) == (second < 0)
    apart = np.abs(first).astype(np.uint64) + np.abs(second).astype(np.uint64)
    near = np.abs(first - np.where(same, second, first)).astype(np.uint64)
    return np.where(same, near, apart)


def step(value: float, count: int, dtype: str) -> float:
    """The value ``count`` places above (or, negative, below) a value of the format."""
    return _from_ordinal(int(ordinals(value, dtype)) + count, dtype)


def _from_ordinal(rank: int, dtype: str) -> float:
    form = FORMATS[dtype]
    sign, rank = (-1.0 if rank < 0 else 1.0), abs(rank)
    block, units = divmod(rank, 1 << (form.precision - 1))
    if block > form.emax - form.emin + 1:
        return sign * math.inf
    if block == 0:
        return sign * math.ldexp(units, form.least_exponent)
    units += 1 << (form.precision - 1)
    return sign * math.ldexp(units, form.least_exponent + block - 1)


def ulp(values: ArrayLike, dtype: str) -> Floats:
    """The spacing of the format at each finite value (at zero: the least subnormal)."""
    form = FORMATS[dtype]
    array: Any = np.abs(np.asarray(values, dtype=np.float64))
    exponent = np.maximum(np.frexp(array)[1].astype(np.int64) - 1, form.emin)
    exponent = np.where(array == 0.0, form.emin, exponent)
    return np.asarray(np.ldexp(1.0, exponent - form.precision + 1), dtype=np.float64)
