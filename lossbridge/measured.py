"""What the emitted form of a loss gives in float32, beside float64, on sampled inputs.

Bounded work: a few hundred samples of short axes, ordinary sizes, and inputs of one shape close to
one another, where differences cancel. What only changes as the inputs' last bits do is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossbridge import interp
from lossbridge.ir import Graph, Node, const_value
from lossbridge.kinds import Kind
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise

SAMPLES, LENGTH = 256, 3
WRONG = 1e-3  # relative error beyond which the form is said to be inaccurate
ROUNDINGS = 64.0  # how many last bits of the inputs an error may be worth


@dataclass(frozen=True)
class Inaccuracy:
    """The worst sample: its inputs, and what was found and what is right."""

    inputs: dict[str, Any]
    got: float
    right: float


def inaccuracy(stable: Graph) -> Inaccuracy | None:
    """The worst sample of a stabilised graph with one output ``value``, if it is wrong.

    Raises ``LookupError`` where the graph has rows that are not evaluated here.
    """
    graph = guard(legalise(stable))
    worst: Inaccuracy | None = None
    size = WRONG
    for near in (False, True):
        inputs = _draw(graph, near)
        got = evaluate(graph, inputs, np.float32)
        right = evaluate(graph, inputs, np.float64)
        allowed = np.zeros_like(right)
        rng = np.random.default_rng(7)
        for _ in range(4):  # what inputs of the same float32 could give
            moved = {
                name: x * (1.0 + 2.0**-24 * rng.choice([-1.0, 1.0], x.shape))
                if x.dtype.kind == "f"
                else x
                for name, x in inputs.items()
            }
            with np.errstate(all="ignore"):
                allowed = np.fmax(allowed, abs(evaluate(graph, moved, np.float64) - right))
        with np.errstate(all="ignore"):
            error = (abs(got - right) - ROUNDINGS * allowed) / abs(right)
        error = np.where(np.isfinite(right) & (abs(right) > 1e-30), error, 0.0)
        error = np.where(np.isfinite(right) & ~np.isfinite(got), np.inf, error).reshape(-1)
        at = int(np.argmax(error))
        if error[at] > size:
            size = float(error[at])
            place = np.unravel_index(at, right.shape)[0] if right.ndim else 0
            shown = {n: np.asarray(x)[place] if np.ndim(x) else x for n, x in inputs.items()}
            worst = Inaccuracy(shown, float(got.reshape(-1)[at]), float(right.reshape(-1)[at]))
    return worst


def _draw(graph: Graph, near: bool) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    drawn: dict[str, Any] = {}
    alike: dict[tuple[Any, ...], Any] = {}
    leading = graph.layout[0] if graph.layout else ""
    for name, index in graph.inputs():
        node = graph.nodes[index]
        order = node.attr("order")
        shape = tuple(SAMPLES if a == leading else LENGTH for a in order)
        if node.type.dtype == "int":
            drawn[name] = rng.integers(0, LENGTH, shape)
            continue
        if node.type.dtype == "bool":
            drawn[name] = rng.random(shape) < 0.75
            continue
        along = len(shape) - 1
        text = str(node.attr("kind"))
        kind = Kind.parse(text) if text not in ("upstream", "tangent") else Kind.parse("real")
        x = np.exp2(rng.uniform(-14.0, 4.0, shape))
        if kind.name in ("binary", "sign"):
            x = rng.choice(np.asarray(kind.values or (0, 1), np.float64), shape)
        elif kind.name in ("probability", "simplex", "unit"):
            x = rng.uniform(0.01, 1.0, shape)
            if kind.name == "simplex":
                x = x / x.sum(axis=along, keepdims=True)
        elif kind.name == "log_probability":
            x = -x
        elif kind.name == "real":
            x = x * rng.choice([-1.0, 1.0], shape)
        known = alike.get((kind.name, shape))
        if near and known is not None and kind.name not in ("binary", "sign"):
            x = known * (
                1.0 + np.exp2(rng.uniform(-12.0, -2.0, shape)) * rng.choice([-1, 1], shape)
            )
            if kind.name == "probability":
                x = np.clip(x, 0.0, 1.0)
            if kind.name == "simplex":
                x = x / x.sum(axis=along, keepdims=True)
        alike.setdefault((kind.name, shape), x)
        drawn[name] = x.astype(np.float32).astype(np.float64)
    return drawn


def evaluate(graph: Graph, inputs: Mapping[str, Any], dtype: Any) -> Any:
    """The output ``value`` of a graph, by NumPy.

    Raises ``LookupError`` where the graph has rows that are not evaluated here.
    """
    shapes = {name: np.shape(x) for name, x in inputs.items()}
    sizes, star = interp.axis_sizes(graph, shapes)
    context = interp.Context(graph.layout, star or 1)
    table = _table(dtype)
    env = {}
    for name, index in graph.inputs():
        node = graph.nodes[index]
        x = np.asarray(inputs[name])
        x = x.astype(dtype) if x.dtype.kind == "f" else x
        env[name] = interp.align(x, node.attr("order"), context)
    with np.errstate(all="ignore"):
        found = interp.evaluate(graph, table, env, context, sizes)["value"]
    return np.asarray(found, np.float64)


Row = Callable[..., Any]


def _table(dtype: Any) -> dict[str, Row]:
    def plain(f: Callable[..., Any]) -> Row:
        return lambda frame, node, *x: f(*x)

    def over(f: Callable[..., Any]) -> Row:
        return lambda frame, node, x: f(x, axis=frame.dims(node), keepdims=True)

    def size(frame: interp.Frame, node: Node) -> Any:
        return np.asarray(float(math.prod(frame.sizes[node.attr("axis")])), dtype)

    def take(frame: interp.Frame, node: Node, x: Any, index: Any) -> Any:
        dim = frame.dim(node)
        shape = [max(a, b) for a, b in zip(x.shape, index.shape, strict=True)]
        shape[dim] = x.shape[dim]
        return np.take_along_axis(
            np.broadcast_to(x, shape), np.broadcast_to(index, [*shape[:dim], 1, *shape[dim + 1 :]]),
            dim,
        )  # fmt: skip

    def iota(frame: interp.Frame, node: Node) -> Any:
        (n,) = frame.sizes[node.attr("axis")]
        shape = [1] * frame.context.rank
        shape[frame.dim(node)] = n
        return np.arange(n).reshape(shape)

    def constant(frame: interp.Frame, node: Node) -> Any:
        value = const_value(node)
        return np.asarray(value, dtype if node.type.dtype == "real" else None)

    rows: dict[str, Row] = {
        name: plain(getattr(np, name))
        for name in ("abs", "exp", "expm1", "log", "log1p", "sqrt", "tanh", "sin", "cos", "where",
                     "maximum", "minimum")
    }  # fmt: skip
    for name, function in (
        ("neg", np.negative), ("add", np.add), ("sub", np.subtract), ("mul", np.multiply),
        ("div", np.divide), ("pow", np.power), ("lt", np.less), ("le", np.less_equal),
        ("gt", np.greater), ("ge", np.greater_equal), ("eq", np.equal), ("ne", np.not_equal),
        ("and", np.logical_and), ("or", np.logical_or), ("not", np.logical_not),
        ("stop_gradient", lambda x: x), ("clip", lambda x, lo, hi: np.clip(x, lo, hi)),
        ("attach_gradient", lambda x, *_: x), ("mod", np.mod), ("intdiv", np.floor_divide),
        ("indicator", lambda x: np.asarray(x, dtype)), ("to_real", lambda x: np.asarray(x, dtype)),
        ("broadcast", lambda x: x),
    ):  # fmt: skip
        rows[name] = plain(function)
    rows.update(
        {"sum": over(np.sum), "amax": over(np.max), "any": over(np.any), "all": over(np.all)}
    )
    rows["dot"] = lambda frame, node, x, y: np.sum(x * y, axis=frame.dims(node), keepdims=True)
    rows.update(size=size, take=take, iota=iota, const=constant)
    return rows
