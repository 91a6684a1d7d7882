"""Condition numbers, so that an ill-conditioned input is not blamed on the code.

For a value k = sum over the float inputs of |x_i df/dx_i|, divided by |f|; for a gradient k = the
largest over its components c of sum_i |H_ci x_i|, divided by the largest |g_c|.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import ArrayLike

from lossbridge.ir import Builder, Graph, Type, inline
from lossbridge.ops import broadcast
from lossbridge.passes.differentiate import pull_back
from lossbridge_conformance import balls
from lossbridge_conformance.cases import dims_of, sample_axis
from lossbridge_conformance.formats import FORMATS, Floats
from lossbridge_conformance.oracle import OracleResult, evaluate
from lossbridge_conformance.rules import Function, Objects, lift, objects

ROUGH_BITS = 256  # a condition number needs few correct bits, but its parts may cancel
MOST_BITS = 1024  # what is still unknown then excuses nothing
MAX_COMPONENTS = 8  # rows of a Hessian that are looked at; fewer excuse less, never more


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
    Inputs shared by independent samples (class weights, centres) are left out: their gradient is
    summed over the samples, so the part of one sample is not in it. That only excuses less.
    """
    axes = graph.nodes[graph.output(value)].type.axes
    if _mixes(graph, value):
        return _value_by_value(graph, inputs, results[value].values, dtype, value)
    total: Objects | None = None
    for name, row in graph.inputs():
        if prefix + name not in results:
            continue
        node = graph.nodes[row]
        if _shared(graph, node.attr("order"), axes):
            continue
        own = graph.nodes[graph.output(prefix + name)].type.axes
        gradient = _reorder(results[prefix + name].values, own, node.attr("order"))
        x = objects(inputs[name])
        part = _sum_onto(_absolute_product(x, gradient), node.attr("order"), axes)
        total = part if total is None else _added(total, part)
    if total is None:
        return np.ones(results[value].shape)
    return _ratio(total, results[value].values, dtype)


def _mixes(graph: Graph, value: str) -> bool:
    """Whether values depend on each other's entries: no axis keeps the samples apart."""
    b = Builder(graph.layout)
    alone = b.finish(value=inline(b, graph, {})[graph.output(value)])
    return bool(graph.nodes[graph.output(value)].type.axes) and sample_axis(alone) is None


def _value_by_value(
    graph: Graph, inputs: Mapping[str, ArrayLike], values: Objects, dtype: str, value: str
) -> Floats:
    """The condition numbers of values that depend on the same entries: one pass for each."""
    b = Builder(graph.layout)
    rows = inline(b, graph, {})
    out = rows[graph.output(value)]
    seed = b.input("seed", Type("real", out.axes), "seed")
    sources = {n: rows[i] for n, i in graph.inputs() if graph.nodes[i].type.dtype == "real"}
    found = pull_back(b, out, seed, list(sources.values()))
    second = b.finish(
        **{
            f"row_{n}": broadcast(b.const(0.0) if row is None else row, *source.axes)
            for (n, source), row in zip(sources.items(), found, strict=True)
        }
    )
    total = np.empty(values.shape, dtype=object)
    for position in product(*(range(n) for n in values.shape)):
        one = np.zeros(values.shape)
        one[position] = 1.0
        rough = evaluate(second, {**inputs, "seed": one}, bits=4 * ROUGH_BITS, assume=0)
        total[position] = _contracted(second, rough, inputs, (), graph)[()]
    return _ratio(total, values, dtype)


def _shared(graph: Graph, order: Sequence[str], axes: Sequence[str]) -> bool:
    """Whether an input lacks an axis along which values and some other input lie."""
    inputs = [set(graph.nodes[row].attr("order")) for _, row in graph.inputs()]
    return any(axis not in order for axis in axes if any(axis in own for own in inputs))


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
    one component at a time (all samples at once, where they are independent).
    """
    nodes = dict(graph.inputs())
    order: tuple[str, ...] = graph.nodes[nodes[name]].attr("order")
    sample = [a for a in graph.nodes[graph.output(value)].type.axes if a in order]
    array = np.asarray(inputs[name], np.float64)
    dims = dims_of(order, [a for a in order if a not in sample], array.ndim)
    size, logs = _gradient_size(graph, inputs, prefix + name, dims, extra)
    size = np.maximum(size, math.log2(FORMATS[dtype].min_normal))
    top = np.full(size.shape, -math.inf)
    if sample and _mixes(graph, value):
        second = _second(graph, name, prefix, ())
        each = max(1, MAX_COMPONENTS // max(1, size.size))
        for seeds in _largest_first(logs, dims, each):
            for at in product(*(range(n) for n in size.shape)):
                seed = np.zeros(array.shape)
                rest = iter(at)
                whole = tuple(slice(None) if d in dims else next(rest) for d in range(array.ndim))
                seed[whole] = seeds[whole]
                row = _row(second, {**inputs, "seed": seed}, (), graph, size[at], extra)
                top[at] = np.fmax(top[at], math.inf if np.isnan(row) else row)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.exp2(top - size), dtype=np.float64)
    second = _second(graph, name, prefix, sample)
    for seed in _largest_first(logs, dims, MAX_COMPONENTS):
        row = _row(second, {**inputs, "seed": seed}, sample, graph, size, extra)
        top = np.fmax(top, np.where(np.isnan(row), math.inf, row))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.exp2(top - size), dtype=np.float64)


def _largest_first(logs: Floats, dims: tuple[int, ...], most: int) -> Iterator[Floats]:
    """Seeds with a 1 at one component of every sample: the largest, then the next, and so on.

    The largest components are those whose error is measured.
    """
    moved = np.moveaxis(logs, dims, range(-len(dims), 0)) if dims else logs[..., None]
    flat = moved.reshape(*moved.shape[: logs.ndim - len(dims)], -1)
    ranked = np.argsort(-np.nan_to_num(flat, nan=-math.inf, neginf=-math.inf), axis=-1)
    for place in range(min(most, flat.shape[-1])):
        seed = np.zeros(flat.shape)
        np.put_along_axis(seed, ranked[..., place : place + 1], 1.0, axis=-1)
        back = seed.reshape(moved.shape)
        yield np.moveaxis(back, range(-len(dims), 0), dims) if dims else back[..., 0]


def _gradient_size(
    graph: Graph,
    inputs: Mapping[str, ArrayLike],
    output: str,
    dims: tuple[int, ...],
    extra: Mapping[str, Function] | None,
) -> tuple[Floats, Floats]:
    """log2 of the largest component of each sample's gradient, NaN where it is not known; and of
    every component."""
    bits = ROUGH_BITS
    while True:
        found = evaluate(graph, inputs, bits=bits, assume=0, extra=extra)[output]
        size = np.asarray(np.max(_logs(found), axis=dims, initial=-math.inf))
        # A component matters, and must be known, unless it is far below the largest.
        blurred = ~_elementwise(_good, found) & (_logs(found, upper=True) > _spaced(size, dims) - 4)
        if not blurred.any() or bits >= MOST_BITS:
            return np.where(blurred.any(axis=dims), math.nan, size), _logs(found)
        bits *= 4


def _spaced(x: Floats, dims: tuple[int, ...]) -> Floats:
    return np.asarray(np.expand_dims(x, dims))


def _second(graph: Graph, name: str, prefix: str, sample: Sequence[str]) -> Graph:
    """The graph of sum over c of seed_c dg_c/dx, for each real input x."""
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    gradient = values[graph.output(prefix + name)]
    order = next(graph.nodes[i].attr("order") for key, i in graph.inputs() if key == name)
    seed = b.input("seed", Type("real", order), "seed")
    sources = {
        key: values[row]
        for key, row in graph.inputs()
        if graph.nodes[row].type.dtype == "real"
        and not _shared(graph, graph.nodes[row].attr("order"), sample)
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
    size: Floats,
    extra: Mapping[str, Function] | None,
) -> Floats:
    """log2 of sum_i |H_ci x_i| for one component, per sample; NaN where it is not known."""
    bits = ROUGH_BITS
    while True:
        found = evaluate(second, inputs, bits=bits, assume=0, extra=extra)
        total = _contracted(second, found, inputs, sample, graph)
        # Below the gradient itself the quotient is under 1, and no number under 1 is used.
        blurred = ~_elementwise(_good, total) & ~(_logs(total, upper=True) < size)
        if not blurred.any() or bits >= MOST_BITS:
            return np.where(blurred, math.nan, _logs(total))
        bits *= 4


def _contracted(
    second: Graph,
    found: Mapping[str, Objects],
    inputs: Mapping[str, ArrayLike],
    sample: Sequence[str],
    graph: Graph,
) -> Objects:
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
    return total


def _elementwise(function: Any, array: Objects) -> Any:
    return np.array([function(x) for x in array.reshape(-1)]).reshape(array.shape)


def _logs(array: Objects, upper: bool = False) -> Floats:
    if upper:
        array = lift(_upper, 1)(array)
    return np.asarray(_elementwise(_log2, array), dtype=np.float64)


def _upper(x: balls.Value) -> balls.Value:
    return balls.tidy(x.abs_upper()) if isinstance(x, arb) else x


def _good(x: balls.Value) -> bool:
    if isinstance(x, float | balls.Beyond):
        return True
    return bool(x.is_finite()) and (x.rel_accuracy_bits() > 4 or balls.certified(x))


def _reorder(array: Objects, axes: Sequence[str], order: Sequence[str]) -> Objects:
    """An array lying in ``axes`` made to lie in ``order`` (the same axes)."""
    if tuple(axes) == tuple(order):
        return array
    source = [d for a in order for d in dims_of(axes, (a,), array.ndim)]
    return array.transpose(source)


def _sum_onto(array: Objects, order: Sequence[str], onto: Sequence[str]) -> Objects:
    """Summed over axes that ``onto`` lacks, and broadcastable against the axes it has."""
    gone = dims_of(order, [a for a in order if a not in onto], array.ndim)
    kept = [a for a in order if a in onto]
    for dim in sorted(gone, reverse=True):
        array = np.asarray(_SUM.reduce(array, axis=dim), dtype=object)
    wanted = [a for a in onto if a in kept]
    if wanted != kept:
        array = array.transpose([d for a in wanted for d in dims_of(kept, (a,), array.ndim)])
    return _spread(array, wanted, onto)


def _spread(array: Objects, axes: Sequence[str], onto: Sequence[str]) -> Objects:
    """Singletons for the axes of ``onto`` that an array lacks."""
    index: list[Any] = []
    for axis in onto:
        if axis in axes:
            index.extend([slice(None)] * len(dims_of(axes, (axis,), array.ndim)))
        else:
            index.append(None)
    spread: Objects = array[(*index, ...)]  # the ellipsis keeps an array without dimensions one
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
    # exp(1e30) has an exponent that no double holds; its sign and size class are enough here.
    return math.log2(size) + float(min(max(int(exponent), -(10**300)), 10**300))


def _ratio(total: Objects, value: Objects, dtype: str) -> Floats:
    floor = math.log2(FORMATS[dtype].min_normal)
    above, below = _logs(total), _logs(value)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.exp2(above - np.maximum(below, floor)), dtype=np.float64)
