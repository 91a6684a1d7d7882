"""Condition numbers, so that an ill-conditioned input is not blamed on the code.

For a value k = sum over the float inputs of |x_i df/dx_i|, divided by |f|; for a gradient k = the
largest over its components c of sum_i |H_ci x_i|, divided by the largest |g_c|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lossbridge.ir import Builder, Graph, Type, inline
from lossbridge.ops import broadcast
from lossbridge.passes.differentiate import pull_back
from lossbridge_conformance import balls
from lossbridge_conformance.formats import FORMATS, Floats
from lossbridge_conformance.oracle import LIMIT_BITS, OracleResult, evaluate
from lossbridge_conformance.rules import Function, Objects, objects

MAX_COMPONENTS = 64  # rows of a Hessian that are looked at; more do not change a maximum by much


def condition_value(
    graph: Graph,
    inputs: Mapping[str, ArrayLike],
    results: Mapping[str, OracleResult],
    dtype: str,
    *,
    value: str = "value",
    prefix: str = "gradient_",
) -> Floats:
    """k = sum over float inputs of |x_i df/dx_i|, divided by |f|, per element of the value.

    ``results`` are the oracle's for a graph with the gradient of the summed value in every float
    input. |f| counts as at least the least normal: below that a format has no relative precision.
    Where values share inputs (pairs), an input's part is that of the summed value.
    """
    axes = graph.nodes[graph.output(value)].type.axes
    total: Objects | None = None
    for name, row in graph.inputs():
        if prefix + name not in results:
            continue
        node = graph.nodes[row]
        own = graph.nodes[graph.output(prefix + name)].type.axes
        gradient = _reorder(results[prefix + name].values, own, node.attr("order"))
        x = objects(inputs[name])
        part = _sum_onto(_absolute_product(x, gradient), node.attr("order"), axes)
        total = part if total is None else _added(total, part)
    if total is None:
        return np.ones(results[value].shape)
    return _ratio(total, results[value].values, dtype)


def condition_gradient(
    graph: Graph,
    inputs: Mapping[str, ArrayLike],
    name: str,
    dtype: str,
    *,
    value: str = "value",
    prefix: str = "gradient_",
    extra: Mapping[str, Function] | None = None,
) -> Floats:
    """k = max over components c of sum_i |H_ci x_i|, divided by max_c |g_c|, per sample.

    ``graph`` has an output ``gradient_NAME``; H is found by differentiating that output once more,
    one component at a time (all samples at once, since they are independent).
    """
    second = _second(graph, name, prefix)
    nodes = dict(graph.inputs())
    order: tuple[str, ...] = graph.nodes[nodes[name]].attr("order")
    sample = [a for a in graph.nodes[graph.output(value)].type.axes if a in order]
    array = np.asarray(inputs[name], np.float64)
    dims = _dims(order, [a for a in order if a not in sample], array.ndim)
    top: Floats | None = None
    for position in list(product(*(range(array.shape[d]) for d in dims)))[:MAX_COMPONENTS]:
        seed = np.zeros(array.shape)
        where: list[Any] = [slice(None)] * array.ndim
        for d, at in zip(dims, position, strict=True):
            where[d] = at
        seed[tuple(where)] = 1.0
        row = _row(second, {**inputs, "seed": seed}, sample, graph, extra)
        top = row if top is None else np.fmax(top, row)
    gradient = _rough(graph, inputs, extra)[prefix + name]
    size = np.array([_log2(x) for x in gradient.reshape(-1)]).reshape(gradient.shape)
    size = np.max(size, axis=dims, initial=-math.inf)
    floor = math.log2(FORMATS[dtype].min_normal)
    if top is None:
        return np.ones(size.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.exp2(top - np.maximum(size, floor)), dtype=np.float64)


def _second(graph: Graph, name: str, prefix: str) -> Graph:
    """The graph of sum over c of seed_c dg_c/dx, for each real input x."""
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    gradient = values[graph.output(prefix + name)]
    order = next(graph.nodes[i].attr("order") for key, i in graph.inputs() if key == name)
    seed = b.input("seed", Type("real", order), "seed")
    sources = {
        key: values[row] for key, row in graph.inputs() if graph.nodes[row].type.dtype == "real"
    }
    rows = pull_back(b, gradient, seed, list(sources.values()))
    outputs = {
        f"row_{key}": broadcast(b.const(0.0) if row is None else row, *source.axes)
        for (key, source), row in zip(sources.items(), rows, strict=True)
    }
    return b.finish(**outputs)


def _row(
    second: Graph,
    inputs: Mapping[str, ArrayLike],
    sample: Sequence[str],
    graph: Graph,
    extra: Mapping[str, Function] | None,
) -> Floats:
    """log2 of sum_i |H_ci x_i| for one component, per sample."""
    found = _rough(second, inputs, extra)
    total: Objects | None = None
    for key, row in graph.inputs():
        if f"row_{key}" not in found:
            continue
        order = graph.nodes[row].attr("order")
        own = second.nodes[second.output(f"row_{key}")].type.axes
        h = _reorder(found[f"row_{key}"], own, order)
        x = objects(inputs[key])
        part = _sum_onto(_absolute_product(x, h), order, sample)
        total = part if total is None else _added(total, part)
    assert total is not None
    return np.array([_log2(x) for x in total.reshape(-1)]).reshape(total.shape)


def _rough(
    graph: Graph, inputs: Mapping[str, ArrayLike], extra: Mapping[str, Function] | None
) -> dict[str, Objects]:
    """Values to a few bits: a condition number needs no more."""
    bits = 256
    while True:
        found = evaluate(graph, inputs, bits=bits, assume=0, extra=extra)
        if bits >= LIMIT_BITS or all(_good(x) for v in found.values() for x in v.reshape(-1)):
            return found
        bits *= 4


def _good(x: balls.Value) -> bool:
    if isinstance(x, float | balls.Beyond):
        return True
    return bool(x.is_finite()) and (x.rel_accuracy_bits() > 4 or balls.certified(x))


def _dims(order: Sequence[str], axes: Sequence[str], rank: int) -> tuple[int, ...]:
    """The dimensions of axes in an array that lies in ``order``; the group takes what is left."""
    width = rank - len(order) + 1
    out: list[int] = []
    position = 0
    for axis in order:
        step = width if axis.startswith("*") else 1
        if axis in axes:
            out.extend(range(position, position + step))
        position += step
    return tuple(out)


def _reorder(array: Objects, axes: Sequence[str], order: Sequence[str]) -> Objects:
    """An array lying in ``axes`` made to lie in ``order`` (the same axes)."""
    if tuple(axes) == tuple(order):
        return array
    source = [d for a in order for d in _dims(axes, (a,), array.ndim)]
    return array.transpose(source)


def _sum_onto(array: Objects, order: Sequence[str], onto: Sequence[str]) -> Objects:
    """Summed over axes that ``onto`` lacks, and broadcastable against the axes it has."""
    gone = _dims(order, [a for a in order if a not in onto], array.ndim)
    kept = [a for a in order if a in onto]
    for dim in sorted(gone, reverse=True):
        array = np.asarray(_SUM.reduce(array, axis=dim), dtype=object)
    wanted = [a for a in onto if a in kept]
    if wanted != kept:
        array = array.transpose([d for a in wanted for d in _dims(kept, (a,), array.ndim)])
    return _spread(array, wanted, onto)


def _spread(array: Objects, axes: Sequence[str], onto: Sequence[str]) -> Objects:
    """Singletons for the axes of ``onto`` that an array lacks."""
    index: list[Any] = []
    for axis in onto:
        if axis in axes:
            index.extend([slice(None)] * len(_dims(axes, (axis,), array.ndim)))
        else:
            index.append(None)
    spread: Objects = array[tuple(index)]
    return spread


def _pairwise(function: Any) -> Any:
    raw = np.frompyfunc(function, 2, 1)

    def apply(a: Objects, b: Objects) -> Objects:
        shape = np.broadcast_shapes(a.shape, b.shape)
        out = np.empty(shape, dtype=object)
        with np.errstate(all="ignore"):
            out[...] = raw(a, b)
        return out

    return apply


_SUM = np.frompyfunc(balls.add, 2, 1)
_absolute_product = _pairwise(lambda x, y: balls.absolute(balls.mul(x, y)))
_added = _pairwise(balls.add)


def _log2(x: balls.Value) -> float:
    """log2 |x|, NaN where it is not known; numbers far outside the range of a double included."""
    if isinstance(x, float):
        return math.nan if not math.isfinite(x) else -math.inf
    if isinstance(x, balls.Beyond) or not x.is_finite():
        return math.nan
    middle = x.mid()
    if middle.is_zero():
        return -math.inf
    mantissa, exponent = middle.man_exp()
    size = abs(int(mantissa))
    return math.log2(size) + float(int(exponent))


def _ratio(total: Objects, value: Objects, dtype: str) -> Floats:
    floor = math.log2(FORMATS[dtype].min_normal)
    above = np.array([_log2(x) for x in total.reshape(-1)]).reshape(total.shape)
    below = np.array([_log2(x) for x in value.reshape(-1)]).reshape(value.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.exp2(above - np.maximum(below, floor)), dtype=np.float64)
