"""How far a result is from the certified truth, and how far it may fairly be.

Error is in bits, log2(1 + distance in ulps to the correctly rounded truth). An ill-conditioned
input is no fault of the code: the *judged* bits take off log2 of the condition number. A gradient
is measured per sample, in ulps of its largest component. The class of a result (NaN, either
infinity, finite) must be exactly right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossbridge.ir import Graph
from lossbridge_conformance.condition import condition_gradient, condition_value
from lossbridge_conformance.formats import (
    FORMATS,
    Floats,
    flush,
    ordinals,
    ulp,
    ulp_distance,
)
from lossbridge_conformance.oracle import Rounded

__all__ = [
    "Judged", "bits_error", "condition_gradient", "condition_value", "flushed_inputs",
    "judge_gradient", "judge_value", "ulp_distance",
]  # fmt: skip

ZeroRule = Literal["value", "ieee"]


@dataclass(frozen=True)
class Judged:
    """What was measured, one entry per sample (for a value: per element).

    ``bits`` is the plain error, at most the width of the format; ``judged`` is what is left after
    the condition number ``condition``. ``problem`` says what no number can: a wrong class, a wrong
    sign of zero, an undecided truth. Such an entry has full bits, or NaN if the truth is undecided.
    """

    bits: Floats
    judged: Floats
    condition: Floats
    problem: NDArray[np.str_]

    def worst(self) -> tuple[int, ...]:
        """The position of the largest judged error; undecided entries never win."""
        score = np.where(np.isnan(self.judged), -1.0, self.judged)
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(score)), score.shape))


# --- error -------------------------------------------------------------------------------------


def bits_error(got: ArrayLike, truth: ArrayLike, dtype: str) -> Floats:
    """log2(1 + ulps) between values of a format; the full width where the classes differ."""
    width = float(FORMATS[dtype].width)
    a, b = np.broadcast_arrays(np.asarray(got, np.float64), np.asarray(truth, np.float64))
    same = _classes(a) == _classes(b)
    finite = same & np.isfinite(a)
    apart = ulp_distance(np.where(finite, a, 0.0), np.where(finite, b, 0.0), dtype)
    bits = np.minimum(np.log2(1.0 + apart.astype(np.float64)), width)
    return np.where(same, np.where(finite, bits, 0.0), width)


def _classes(x: Floats) -> NDArray[np.int8]:
    """0 finite, 1 and -1 the infinities, 2 NaN."""
    sign = np.where(np.isinf(x), np.sign(np.where(np.isnan(x), 0.0, x)), 0.0)
    return np.where(np.isnan(x), 2, sign).astype(np.int8)


def _ulps(got: Floats, truth: Floats, unit: Floats) -> Floats:
    """Distance in units that are powers of two, without intermediate overflow."""
    exponent = np.frexp(unit)[1] - 1
    with np.errstate(over="ignore"):
        return np.asarray(np.abs(np.ldexp(got, -exponent) - np.ldexp(truth, -exponent)))


def _near_edge(got: Floats, truth: Rounded) -> Floats:
    """Ulps between a result and a truth of which one overflowed and the other did not.

    A correct rounding error may carry a result across the edge of the range; it is then a few ulps
    from the truth, and only then. Far from the edge this is infinite.
    """
    form = FORMATS[truth.dtype]
    below = ordinals(form.max, truth.dtype) - np.abs(
        ordinals(np.where(np.isfinite(got), got, 0.0), truth.dtype)
    )
    distance = np.where(np.isinf(got), 1.0 - truth.beyond, below + truth.beyond)
    crossed = (_classes(got) != 2) & (np.isinf(got) != np.isinf(truth.value)) & (truth.sign != 0)
    same_sign = np.sign(np.where(np.isnan(got), 0.0, got)) == truth.sign
    return np.where(crossed & same_sign & np.isfinite(truth.beyond), np.abs(distance), math.inf)


def _zero_problem(got: Floats, truth: Rounded, rule: ZeroRule) -> NDArray[np.bool_]:
    """Zeros whose sign is wrong.

    The sign of an underflow is a fact about a real number. The sign of an exact zero depends on the
    order of operations, and is compared only under the rule ``ieee``.
    """
    both = (got == 0.0) & (truth.value == 0.0)
    underflow = both & (truth.sign != 0) & (np.signbit(got) != (truth.sign < 0))
    exact = both & truth.exact_zero & (np.signbit(got) != np.signbit(truth.value))
    return np.asarray(underflow | exact if rule == "ieee" else underflow)


# --- judging -----------------------------------------------------------------------------------


def judge_value(
    got: ArrayLike,
    truth: Rounded,
    *,
    condition: ArrayLike = 1.0,
    accepted: Sequence[Rounded] = (),
    zero: ZeroRule = "value",
) -> Judged:
    """Judge values elementwise. ``accepted`` holds further right answers (flushed inputs)."""
    array = np.broadcast_to(np.asarray(got, np.float64), truth.value.shape)
    k = _fair(condition, array.shape)
    results = [_value(array, answer, k, zero) for answer in _answers(truth, accepted)]
    return _open(_best(results), truth.undecided)


def _value(got: Floats, truth: Rounded, k: Floats, zero: ZeroRule) -> Judged:
    dtype = truth.dtype
    width = float(FORMATS[dtype].width)
    finite = np.isfinite(got) & np.isfinite(truth.value)
    safe = np.where(finite, got, 0.0)
    ulps = np.full(got.shape, math.inf)
    linear = np.full(got.shape, math.inf)
    for answer in (truth.value, truth.other):
        known = np.where(np.isfinite(answer), answer, 0.0)
        usable = finite & np.isfinite(answer)
        ranks = ulp_distance(safe, known, dtype).astype(np.float64)
        ulps = np.where(usable, np.minimum(ulps, ranks), ulps)
        far = _ulps(safe, known, ulp(known, dtype))
        linear = np.where(usable, np.minimum(linear, far), linear)
    edge = _near_edge(got, truth)
    # Not 2 k: twice 1e308 is inf, and so is an edge far off.
    excused = np.isfinite(edge) & (0.5 * edge <= k)
    same = _classes(got) == _classes(truth.value)
    ulps = np.where(same & ~finite, 0.0, np.where(excused, edge, ulps))
    linear = np.where(same & ~finite, 0.0, np.where(excused, edge, linear))
    # A subnormal result may be flushed: two platforms do.
    flushed = (got == 0.0) & truth.subnormal
    ulps, linear = np.where(flushed, 0.0, ulps), np.where(flushed, 0.0, linear)
    problem = np.where(same | excused, "", "class").astype("<U16")
    problem = np.where(_zero_problem(got, truth, zero), "sign of zero", problem)
    return _score(ulps, np.maximum(ulps, linear), k, problem, width)


def judge_gradient(
    got: ArrayLike,
    truth: Rounded,
    *,
    components: Sequence[int],
    condition: ArrayLike = 1.0,
    accepted: Sequence[Rounded] = (),
    zero: ZeroRule = "value",
) -> Judged:
    """Judge gradients per sample, in ulps of the sample's largest component.

    ``components`` are the dimensions along which the components of one sample lie.
    """
    array = np.broadcast_to(np.asarray(got, np.float64), truth.value.shape)
    dims = tuple(d % array.ndim for d in components) if array.ndim else ()
    shape = tuple(n for d, n in enumerate(array.shape) if d not in dims)
    k = _fair(condition, shape)
    answers = _answers(truth, accepted)
    results = [_gradient(array, answer, dims, k, zero) for answer in answers]
    return _open(_best(results), np.asarray(truth.undecided.any(axis=dims)))


def _gradient(
    got: Floats, truth: Rounded, dims: tuple[int, ...], k: Floats, zero: ZeroRule
) -> Judged:
    dtype = truth.dtype
    width = float(FORMATS[dtype].width)
    finite = np.isfinite(got) & np.isfinite(truth.value)
    known = np.where(np.isfinite(truth.value), truth.value, 0.0)
    largest = np.max(np.abs(known), axis=dims, keepdims=True, initial=0.0)
    unit = ulp(largest, dtype)
    safe = np.where(finite, got, 0.0)
    ulps = np.minimum(
        _ulps(safe, known, unit),
        _ulps(safe, np.where(np.isfinite(truth.other), truth.other, known), unit),
    )
    edge = _near_edge(got, truth)
    excused = np.isfinite(edge) & (0.5 * edge <= np.expand_dims(k, dims))
    same = _classes(got) == _classes(truth.value)
    ulps = np.where(finite, ulps, np.where(same, 0.0, np.where(excused, edge, math.inf)))
    ulps = np.where((got == 0.0) & truth.subnormal, 0.0, ulps)
    wrong = (~same & ~excused).any(axis=dims)
    signs = _zero_problem(got, truth, zero).any(axis=dims)
    problem = np.where(wrong, "class", np.where(signs, "sign of zero", "")).astype("<U16")
    worst = np.max(ulps, axis=dims, initial=0.0)
    return _score(worst, worst, k, problem, width)


def _fair(condition: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Condition numbers as used: at least 1, and 1 (no excuse) where none is known."""
    k = np.broadcast_to(np.asarray(condition, np.float64), shape)
    return np.where(np.isfinite(k), np.maximum(k, 1.0), 1.0)


def _score(
    ulps: Floats, worst: Floats, k: Floats, problem: NDArray[np.str_], width: float
) -> Judged:
    """``worst`` also counts linearly: near a zero of f, ranks grow like the logarithm of an error,
    and a huge condition number would excuse anything."""
    bad = problem != ""
    bits = np.where(bad, width, np.minimum(np.log2(1.0 + ulps), width))
    judged = np.clip(np.log2(1.0 + worst) - np.log2(k), 0.0, width)
    judged = np.where(bad, width, judged)
    return Judged(bits, judged, k, problem)


def _answers(truth: Rounded, accepted: Sequence[Rounded]) -> list[Rounded]:
    """The truth, the ways an undecided branch may fall, and further accepted answers."""
    return [truth, *truth.alternatives, *accepted]


def _best(results: Sequence[Judged]) -> Judged:
    """Entry by entry, the answer that a result is nearest to."""
    best = results[0]
    for other in results[1:]:
        nearer = (other.judged < best.judged) | (
            (other.judged == best.judged) & (other.bits < best.bits)
        )
        best = Judged(
            np.where(nearer, other.bits, best.bits),
            np.where(nearer, other.judged, best.judged),
            best.condition,
            np.where(nearer, other.problem, best.problem),
        )
    return best


def _open(judged: Judged, undecided: NDArray[np.bool_]) -> Judged:
    return Judged(
        np.where(undecided, math.nan, judged.bits),
        np.where(undecided, math.nan, judged.judged),
        judged.condition,
        np.where(undecided, "undecided", judged.problem),
    )


def flushed_inputs(
    graph: Graph, inputs: Mapping[str, ArrayLike], dtype: str
) -> dict[str, Any] | None:
    """The inputs with subnormals flushed to zero, or None where there are none to flush.

    The oracle's answer on these is accepted too.
    """
    changed = False
    result: dict[str, Any] = dict(inputs)
    for name, row in graph.inputs():
        if graph.nodes[row].type.dtype == "real":
            array = np.asarray(inputs[name], np.float64)
            result[name] = flush(array, dtype)
            changed |= bool((result[name] != array)[~np.isnan(array)].any())
    return result if changed else None
