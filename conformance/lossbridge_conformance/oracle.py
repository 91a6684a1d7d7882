"""The certified oracle: a graph evaluated in ball arithmetic, at rising precision.

The graph *as written* is evaluated with rigorous error bounds, first at 128 bits and then at twice
as many, until every element is known to within 1/16 ulp of float64 (or known to be below half the
least float64 subnormal, which is 0). What a comparison cannot decide at the highest precision is
evaluated once for each way it may fall, and all results are accepted. What remains is reported as
undecided: the caller evaluates the stabilised graph instead, and records that.

Nothing here is shared with what the oracle judges except the formula.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, ctx
from numpy.typing import ArrayLike, NDArray

from lossbridge import interp
from lossbridge.ir import Graph, Node
from lossbridge_conformance import balls
from lossbridge_conformance.balls import Beyond, Value
from lossbridge_conformance.formats import FORMATS, Floats, round_dyadic
from lossbridge_conformance.rules import FALSE, TRUE, Function, Objects, lift, objects, table

START_BITS = 128
LIMIT_BITS = 4096

CERTIFIED, BRANCHES, OPEN = 0, 1, 2  # what is known of one element of a result


class OutOfTimeError(Exception):
    """The wall-clock budget ran out between two rows of the graph."""


@dataclass(frozen=True)
class OracleResult:
    """One output: certified values and, where a branch stays undecided, every way it may fall.

    ``status`` is, per element, :data:`CERTIFIED`, :data:`BRANCHES` (any of ``alternatives`` is
    right) or :data:`OPEN` (nothing is certified; evaluate the stabilised graph).
    """

    values: Objects
    status: NDArray[np.int8]
    bits: int
    alternatives: tuple[Objects, ...] = ()
    timed_out: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        return self.values.shape

    @property
    def undecided(self) -> NDArray[np.bool_]:
        """Elements of which nothing is certified."""
        return np.asarray(self.status == OPEN)

    def float64(self) -> Floats:
        """The correctly rounded values (undecided elements: the middle of what is known)."""
        return round_to(self, "float64").value


@dataclass(frozen=True)
class Rounded:
    """Certified values rounded into a format, held as float64.

    ``value`` is the correctly rounded truth and ``other`` the neighbour that is as good where the
    enclosure holds a rounding boundary (equal to ``value`` elsewhere). ``subnormal`` and
    ``overflow`` say that a nonzero real result is below the least normal, or above the range;
    ``beyond`` is how far its size is above the largest finite value, in ulps of that (negative
    below; only near the edge is it finite).
    ``exact_zero`` marks true zeros, as opposed to underflow. ``sign`` is the sign of the real
    number, 0 where it is zero, NaN or not known.
    """

    dtype: str
    value: Floats
    other: Floats
    subnormal: NDArray[np.bool_]
    overflow: NDArray[np.bool_]
    exact_zero: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    sign: NDArray[np.int8]
    beyond: Floats
    alternatives: tuple[Rounded, ...] = ()


# --- evaluation --------------------------------------------------------------------------------


def evaluate(
    graph: Graph,
    inputs: Mapping[str, ArrayLike],
    *,
    bits: int,
    assume: int | None = None,
    extra: Mapping[str, Function] | None = None,
    flush: str | None = None,
    deadline: float = math.inf,
) -> dict[str, Objects]:
    """One pass over the graph at one precision; outputs lie as their types say."""
    rows = {**table(assume), **(extra or {})}
    if flush is not None:
        rows = {name: _flushing(row, flush) for name, row in rows.items()}
    rows = {name: _timed(row, deadline) for name, row in rows.items()}
    nodes = dict(graph.inputs())
    shapes = {name: np.shape(inputs[name]) for name in nodes}
    sizes, star_rank = interp.axis_sizes(graph, shapes)
    _name_axes(graph, sizes)
    context = interp.Context(graph.layout, star_rank)
    with ctx.workprec(bits):
        env = {}
        for name, row in nodes.items():
            node = graph.nodes[row]
            env[name] = interp.align(_load(node, inputs[name]), node.attr("order"), context)
        found = interp.evaluate(graph, rows, env, context, sizes)
    results = {}
    for name, row in graph.outputs:
        axes = graph.nodes[row].type.axes
        whole = np.broadcast_to(found[name], context.shape_of(sizes, axes))
        results[name] = interp.restore(whole, axes, context)
    return results


def _name_axes(graph: Graph, sizes: dict[str, tuple[int, ...]]) -> None:
    """Lengths of renamed axes: a row that counts along one may stand before the renaming."""
    for node in graph.nodes:
        if node.op == "rename" and node.attr("old") in sizes:
            sizes.setdefault(node.attr("new"), sizes[node.attr("old")])


def _load(node: Node, array: ArrayLike) -> Any:
    if node.type.dtype == "bool":
        return np.where(np.asarray(array, dtype=bool), TRUE, FALSE).astype(np.int8)
    if node.type.dtype == "int":
        return np.asarray(array).astype(np.int64)
    return objects(array)


def _timed(row: Function, deadline: float) -> Function:
    if deadline == math.inf:
        return row

    def apply(*args: Any) -> Any:
        if time.monotonic() > deadline:
            raise OutOfTimeError
        return row(*args)

    return apply


def _flushing(row: Function, dtype: str) -> Function:
    """A row whose results are flushed to zero where they are subnormal in a format."""
    form = FORMATS[dtype]
    normal, nothing = arb(form.min_normal), arb(form.min_subnormal) / 2

    def flush(x: Value) -> Value:
        if isinstance(x, arb) and x.abs_upper() < normal and x.abs_lower() > nothing:
            return -0.0 if x < 0 else 0.0
        return x

    lifted = lift(flush, 1)

    def apply(*args: Any) -> Any:
        result = row(*args)
        return lifted(result) if result.dtype == object else result

    return apply


_certified = lift(balls.certified, 1)


def oracle(
    graph: Graph,
    inputs: Mapping[str, ArrayLike],
    *,
    outputs: Sequence[str] | None = None,
    extra: Mapping[str, Function] | None = None,
    flush: str | None = None,
    budget: float = 60.0,
    limit: int = LIMIT_BITS,
) -> dict[str, OracleResult]:
    """The certified outputs of a graph on exact doubles.

    ``extra`` supplies rows for ports. ``flush`` names a format whose subnormals every row flushes
    to zero (a second accepted answer on platforms that do; give the graph that they run, since the
    intermediates are its own). ``budget`` is in seconds of wall time; what is not certified when it
    ends is undecided, and the result says so.
    """
    deadline = time.monotonic() + budget
    wanted = [name for name, _ in graph.outputs if outputs is None or name in outputs]
    best: dict[str, OracleResult] = {}
    bits, out_of_time = START_BITS, False

    def run(assume: int | None) -> dict[str, Objects]:
        return evaluate(
            graph, inputs, bits=bits, assume=assume, extra=extra, flush=flush, deadline=deadline
        )

    while True:
        try:
            found = run(None)
        except OutOfTimeError:
            out_of_time = True
            break
        for name in wanted:
            best[name] = _improved(best.get(name), found[name], bits)
        if bits >= limit or not any(best[name].undecided.any() for name in wanted):
            break
        bits = min(2 * bits, limit)
    if not out_of_time and any(best[name].undecided.any() for name in wanted):
        try:
            ways = [run(assume) for assume in (-1, 0, 1)]
        except OutOfTimeError:
            out_of_time = True
        else:
            best = {name: _branched(best[name], [way[name] for way in ways]) for name in wanted}
    return {name: _finished(best.get(name), out_of_time) for name in wanted}


def _improved(known: OracleResult | None, found: Objects, bits: int) -> OracleResult:
    """Elements certified at a lower precision stay; the others are taken from this one."""
    sure = _certified(found).astype(bool)
    status = np.where(sure, CERTIFIED, OPEN).astype(np.int8)
    if known is None:
        return OracleResult(found, status, bits)
    kept = known.status == CERTIFIED
    values = np.where(kept, known.values, found)
    return OracleResult(values, np.where(kept, CERTIFIED, status).astype(np.int8), bits)


def _branched(known: OracleResult, ways: list[Objects]) -> OracleResult:
    """Undecided elements whose value is certified whichever way their comparisons fall."""
    sure = np.logical_and.reduce([_certified(way).astype(bool) for way in ways])
    status = np.where(known.undecided & sure, BRANCHES, known.status).astype(np.int8)
    settled = status == CERTIFIED
    alternatives = tuple(np.where(settled, known.values, way) for way in ways)
    values = np.where(status == BRANCHES, ways[1], known.values)
    return OracleResult(values, status, known.bits, alternatives)


def _finished(result: OracleResult | None, out_of_time: bool) -> OracleResult:
    if result is None:
        raise TimeoutError(
            f"the budget ended before the first pass at {START_BITS} bits; give more seconds, or "
            "fewer samples"
        )
    if not out_of_time:
        return result
    return OracleResult(result.values, result.status, result.bits, result.alternatives, True)


def filled(
    written: OracleResult, stabilised: OracleResult
) -> tuple[OracleResult, NDArray[np.bool_]]:
    """The graph as written, and where that is undecided, the stabilised graph; and where it was.

    The second part of the answer is for the record: those elements rest on the stabilise rules.
    """
    taken = written.undecided
    count = max(len(written.alternatives), len(stabilised.alternatives))
    ways = zip(_ways(written, count), _ways(stabilised, count), strict=True)
    merged = OracleResult(
        np.where(taken, stabilised.values, written.values),
        np.where(taken, stabilised.status, written.status).astype(np.int8),
        max(written.bits, stabilised.bits),
        tuple(np.where(taken, other, own) for own, other in ways),
        written.timed_out or stabilised.timed_out,
    )
    return merged, taken


def _ways(result: OracleResult, count: int) -> tuple[Objects, ...]:
    return result.alternatives or (result.values,) * count


# --- rounding ----------------------------------------------------------------------------------


def round_to(result: OracleResult | Objects, dtype: str) -> Rounded:
    """Certified values, correctly rounded into a format."""
    values = result.values if isinstance(result, OracleResult) else result
    with ctx.workprec(2 * LIMIT_BITS):
        rows = [_round(x, dtype) for x in values.reshape(-1)]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 8
    value, other, subnormal, overflow, zero, open_, sign, beyond = (
        np.array(column).reshape(values.shape) for column in columns
    )
    ways = result.alternatives if isinstance(result, OracleResult) else ()
    if isinstance(result, OracleResult):
        open_ = result.undecided
    return Rounded(
        dtype,
        value.astype(np.float64),
        other.astype(np.float64),
        subnormal.astype(bool),
        overflow.astype(bool),
        zero.astype(bool),
        open_.astype(bool),
        sign.astype(np.int8),
        beyond.astype(np.float64),
        tuple(round_to(way, dtype) for way in ways),
    )


def _round(x: Value, dtype: str) -> tuple[float, float, bool, bool, bool, bool, int, float]:
    form = FORMATS[dtype]
    sign = balls.sign_of(x) or 0
    if isinstance(x, float):
        return x, x, False, False, x == 0.0, False, sign, math.copysign(math.inf, abs(x) - 1.0)
    if isinstance(x, Beyond):
        edge = x.sign * math.inf
        return edge, edge, False, True, False, not balls.certified(x), sign, math.inf
    if not x.is_finite():
        return math.nan, math.nan, False, False, False, True, 0, -math.inf
    value = round_ball(x.mid(), dtype)
    low, high = round_ball(x.lower(), dtype), round_ball(x.upper(), dtype)
    other = high if value == low else low
    subnormal = bool(x.abs_upper() < arb(form.min_normal))
    overflow, open_ = math.isinf(value), not balls.certified(x)
    return value, other, subnormal, overflow, False, open_, sign, _beyond(x, dtype)


def _beyond(x: arb, dtype: str) -> float:
    """How far |x| is above the largest finite value, in its ulps, where it is near."""
    form = FORMATS[dtype]
    size = abs(x).mid()
    if size < arb((1, form.emax)):
        return -math.inf
    if size > arb((1, form.emax + 2)):
        return math.inf
    excess = (size - arb(form.max)) / arb((1, form.emax - form.precision + 1))
    return float(excess.mid())


def round_ball(x: arb, dtype: str) -> float:
    """An exact ball, correctly rounded."""
    mantissa, exponent = x.man_exp()
    return round_dyadic(int(mantissa), int(exponent), dtype)
