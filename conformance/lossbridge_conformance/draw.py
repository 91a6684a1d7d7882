"""Values for cases: what each kind looks like in the practical, full and special stratum.

Everything is drawn exactly representable in a format, from integers of a seeded generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossbridge.kinds import Kind
from lossbridge_conformance.formats import FORMATS, Floats, round_floats, step

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]

PRACTICAL = (-14.0, 7.0)  # exponents of ordinary sizes
BENIGN = 0.75  # what stands beside a special value: exact in every format, and no special point


class Draw:
    """Draws arrays of kinds in one format from one seed."""

    def __init__(self, seed: int, dtype: str) -> None:
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.dtype = dtype
        self.form = FORMATS[dtype]

    def array(self, kind: Kind, shape: Shape, along: int | None, count: int, stratum: str) -> Array:
        """An array of a kind; ``along`` is the dimension of a simplex or unit vector.

        ``count`` is the number of entries that an index may choose from.
        """
        if kind.dtype == "int":
            return self.rng.integers(0, max(count, 1), shape)
        if kind.name in ("mask", "flag"):
            found = np.asarray(self.rng.random(shape) < 0.75)
            if found.size and not found.any():
                found.reshape(-1)[0] = True
            return found
        if kind.name in ("binary", "sign"):
            ones = self.rng.integers(0, 2, shape).astype(np.float64)
            return ones if kind.name == "binary" else 2.0 * ones - 1.0
        rounded = round_floats(self._real(kind.name, shape, along, stratum), self.dtype)
        return np.where(np.isinf(rounded), np.copysign(self.form.max, rounded), rounded)

    def _real(self, name: str, shape: Shape, along: int | None, stratum: str) -> Floats:
        if name == "simplex":
            return self._simplex(shape, along)
        if name == "unit":
            x = self._size(shape, "practical") * self._sign(shape)
            return np.asarray(x / np.sqrt(np.sum(x * x, axis=along, keepdims=True)))
        size = self._size(shape, stratum)
        if name == "probability":
            # Half of them near 1, where 1 - p decides.
            small = np.where(size > 1.0, 1.0 / np.maximum(size, 1.0), size) * 0.5
            return np.where(self.rng.random(shape) < 0.5, small, 1.0 - small)
        if name == "log_probability":
            return -size
        if name in ("positive", "non_negative"):
            return size
        return size * self._sign(shape)

    def _sign(self, shape: Shape) -> Floats:
        return 2.0 * self.rng.integers(0, 2, shape).astype(np.float64) - 1.0

    def _size(self, shape: Shape, stratum: str) -> Floats:
        """Positive numbers, uniform in the exponent."""
        low, high = PRACTICAL
        if stratum == "full":
            low, high = float(self.form.least_exponent), self.form.emax + 0.999
        exponent = low + (high - low) * self.rng.random(shape)
        whole = np.floor(exponent)
        return np.asarray(np.ldexp(exp2(exponent - whole), whole.astype(np.int64)))

    def _simplex(self, shape: Shape, along: int | None) -> Floats:
        """Multiples of a power of two that sum to exactly 1."""
        assert along is not None
        total = 1 << min(self.form.precision - 1, 20)
        weight = np.moveaxis(self._size(shape, "practical"), along, -1)
        share = np.floor(weight / weight.sum(axis=-1, keepdims=True) * total)
        top = np.argmax(share, axis=-1)[..., None]
        rest = total - share.sum(axis=-1, keepdims=True)
        np.put_along_axis(share, top, np.take_along_axis(share, top, -1) + rest, -1)
        return np.moveaxis(share / total, -1, along)

    def near(self, x: Floats) -> Floats:
        """Values at relative distances 2**-10 to 1 from others: where differences cancel."""
        exponent = -10.0 * self.rng.random(x.shape)
        whole = np.floor(exponent)
        distance = np.ldexp(exp2(exponent - whole), whole.astype(np.int64)) * self._sign(x.shape)
        found = round_floats(x * (1.0 + distance), self.dtype)
        return np.where(np.isfinite(found), found, x)


def exp2(x: Floats) -> Floats:
    """2**x between 0 and 1, by products and sums alone.

    NumPy's own has other last bits on a processor with other vector instructions, and stored cases
    are the same everywhere.
    """
    y = x * math.log(2.0)
    found = np.ones_like(y)
    for k in range(20, 0, -1):
        found = 1.0 + found * y / k
    return found


# --- the special grid --------------------------------------------------------------------------


def special_numbers(kind: Kind, dtype: str) -> Iterator[tuple[str, float]]:
    """Flag and value of each special number of a kind."""
    form = FORMATS[dtype]

    def near(x: float) -> float:
        return float(round_floats(x, dtype))

    over = near(math.log(form.max)) if dtype != "float64" else 709.782712893384
    under = near(math.log(form.min_subnormal)) if dtype != "float64" else -744.4400719213812
    grid = [
        ("zero", 0.0), ("zero", -0.0),
        ("subnormal", form.min_subnormal), ("min_normal", form.min_normal),
        ("one", 1.0), ("one", step(1.0, 1, dtype)), ("one", step(1.0, -1, dtype)),
        ("half", 0.5), ("switch", near(math.log(2.0))), ("switch", near(0.5 * math.log(2.0))),
        ("saturated", 20.0), ("saturated", 100.0),
        ("exp_overflow", over), ("exp_overflow", step(over, 1, dtype)),
        ("exp_underflow", near(math.log(form.min_normal))), ("exp_underflow", under),
        ("max", form.max), ("infinite", math.inf), ("nan", math.nan),
    ]  # fmt: skip
    for flag, x in grid:
        for y in dict.fromkeys((x.hex(), (-x).hex())) if x != 0.0 and x == x else (x.hex(),):
            found = float.fromhex(y)
            if math.isnan(found) or found in kind or _limit(kind, found):
                yield flag, found


def _limit(kind: Kind, x: float) -> bool:
    """Infinities at the open ends of a kind that are still told to a user as inf, not refused."""
    return (
        math.isinf(x)
        and kind.name in ("real", "positive", "non_negative")
        and (x > 0 or kind.name == "real")
    )


def special_rows(
    kind: Kind, shape: Shape, along: int, count: int, dtype: str
) -> Iterator[tuple[str, Array]]:
    """Flag and array of each special pattern of one input of one sample."""
    if kind.dtype == "int":
        for label in (0, max(count - 1, 0)):
            yield "label", np.full(shape, label, dtype=np.int64)
    elif kind.name in ("mask", "flag"):
        yield "all_masked", np.zeros(shape, dtype=np.bool_)
    elif kind.name in ("binary", "sign"):
        for value in kind.values or ():
            yield "label", np.full(shape, float(value))
    elif kind.name in ("simplex", "unit"):
        yield from _vectors(kind, shape, along, dtype)
    else:
        for flag, number in special_numbers(kind, dtype):
            yield flag, _one(shape, along, number, _beside(kind))
        if shape:
            yield from _patterns(kind, shape, along, dtype)


def _beside(kind: Kind) -> float:
    """The other entries of a vector that has one special entry."""
    return 0.0 if 0.0 in kind else BENIGN


def _one(shape: Shape, along: int, value: float, rest: float) -> Floats:
    """One special entry among others."""
    row = np.full(shape, rest)
    if shape:
        np.moveaxis(row, along, 0)[0] = value
    else:
        row = np.asarray(value)
    return row


def _vectors(kind: Kind, shape: Shape, along: int, dtype: str) -> Iterator[tuple[str, Array]]:
    n = shape[along]
    form = FORMATS[dtype]
    yield "one_hot", _one(shape, along, 1.0, 0.0)
    if kind.name == "unit":
        yield "one_hot", _one(shape, along, -1.0, 0.0)
        return
    if n & (n - 1) == 0:
        yield "equal", np.full(shape, 1.0 / n)
    for flag, tiny in (("subnormal", form.min_subnormal), ("min_normal", form.min_normal)):
        row = _one(shape, along, 1.0, 0.0)
        np.moveaxis(row, along, 0)[-1] = tiny
        yield flag, row


def _patterns(kind: Kind, shape: Shape, along: int, dtype: str) -> Iterator[tuple[str, Array]]:
    """Vectors whose trap is in how their entries stand to each other."""
    n = shape[along]
    up = step(1.0, 1, dtype)
    rows: list[tuple[str, list[float]]] = [
        ("equal", [0.0]), ("equal", [1.0]), ("tie", [1.0, 1.0, 0.5]), ("tie", [1.0, up, 1.0]),
        ("masked_class", [1.0, -math.inf, 0.5]), ("masked_class", [-math.inf, 1.0, 0.5]),
        ("all_infinite", [-math.inf]), ("saturated", [0.5, 20.0]), ("saturated", [0.5, 100.0]),
    ]  # fmt: skip
    for flag, start in rows:
        values = (start * n)[:n] if len(start) == 1 else (start + [0.25] * n)[:n]
        if all(v in kind or _limit(kind, v) for v in values):
            row = np.zeros(shape)
            np.moveaxis(row, along, -1)[...] = values
            yield flag, row


def benign(kind: Kind, shape: Shape, along: int, variant: int, certain: bool = False) -> Array:
    """An ordinary value of a kind, to stand beside a special one; a probability may be certain."""
    if certain and kind.name == "probability":
        return np.full(shape, float(variant % 2))
    if kind.dtype == "int":
        return np.full(shape, variant % 2, dtype=np.int64)
    if kind.name in ("mask", "flag"):
        return np.full(shape, kind.name == "mask", dtype=np.bool_)
    if kind.name in ("binary", "sign"):
        return np.full(shape, float((kind.values or (0, 1))[variant % 2]))
    if kind.name in ("simplex", "unit"):
        n = shape[along]
        row = np.zeros(shape)
        parts = [0.5, 0.25, 0.25] if kind.name == "simplex" else [0.6, -0.8]
        row_view = np.moveaxis(row, along, -1)
        row_view[..., : len(parts)] = (parts if n >= len(parts) else [1.0] + [0.0] * n)[:n]
        return round_floats(row, "bfloat16") if kind.name == "unit" else row
    sign = -1.0 if kind.name == "log_probability" else 1.0
    return np.full(shape, sign * BENIGN)
