"""Expand the composites that a platform has no better kernel for, and apply the dtype policy.

The dtype policy itself (compute and accumulate in at least float32, one rounding at the end) is
carried out by the platform's wrapper, which knows the arrays; the graph says it in ``numerics``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from lossbridge import ops
from lossbridge.ir import Expr, Graph, is_const
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.rewrite import Step, Steps, Tried, bounds, rewrite


def _expander(name: str, expand: Callable[..., Expr]) -> Step:
    def step(value: Expr) -> Expr | None:
        args = [Expr(value.builder, a) for a in value.node.args]
        axes: Any = value.node.attr("axes") or value.node.attr("axis")
        return expand(*args, axes) if axes is not None else expand(*args)

    return step


def _scaled_softmax(value: Expr) -> Expr | None:
    """a softmax(x), a constant along the classes, as (a / sum) e: one pass less over the classes.

    The sum lies between 1 and the number of classes, so the quotient loses nothing.
    """
    for k in (0, 1):
        a, p = Expr(value.builder, value.node.args[k]), Expr(value.builder, value.node.args[1 - k])
        x = Expr(value.builder, p.node.args[0]) if p.node.args else p
        if p.node.op == "softmax_others" and p.node.attr("axis") not in a.axes:
            _, e, s = ops.others(x, Expr(value.builder, p.node.args[1]), p.node.attr("axis"))
            return (a / ops.where(s == 0.0, 1.0, s)) * e
        if p.node.op != "softmax":
            continue
        axes: tuple[str, ...] = p.node.attr("axes")
        if not set(axes) & set(a.axes):
            e = ops.exp(x - ops.safe_max(x, axes))
            return (a / ops.sum(e, *axes)) * e
    return None


def _smaller_sigmoid(value: Expr) -> Expr | None:
    """Where nothing is differentiated any more, the smaller of two sigmoids is that of -|x|: one
    exponential instead of two and a selection."""
    c, a, b = (Expr(value.builder, k) for k in value.node.args)
    if c.node.op != "gt" or not is_const(Expr(value.builder, c.node.args[1]), 0.0):
        return None
    x = Expr(value.builder, c.node.args[0])
    if a.node.op == b.node.op == "sigmoid" and b.node.args[0] == x.index:
        of = Expr(value.builder, a.node.args[0])
        if of.node.op == "neg" and of.node.args[0] == x.index:
            return ops.sigmoid(-ops.abs_(x))
    return None


def _one_sided_sigmoid(value: Expr) -> Expr | None:
    """Where the sign of the operand is known, the exponential needs no selection."""
    x = Expr(value.builder, value.node.args[0])
    lo, hi = bounds(x)
    if hi <= 0.0:
        e = ops.exp(x)
        return e / (1.0 + e)
    return 1.0 / (1.0 + ops.exp(-x)) if lo >= 0.0 else None


def _cube(value: Expr) -> Expr | None:
    """Two products, which are cheaper than a power. Not before the derivative is taken: that of the
    products is a sum of three, and adds up before it meets a small factor."""
    x, y = (Expr(value.builder, k) for k in value.node.args)
    return x * x * x if is_const(y, 3.0) else None


_FIRST = Steps(
    {
        "mul": (
            Tried(
                _scaled_softmax, lambda op, x: bool({"softmax", "softmax_others"}.intersection(x))
            ),
        ),
        "where": (Tried(_smaller_sigmoid, lambda op, x: x[1:] == ("sigmoid", "sigmoid")),),
    }
)
"""Products with a softmax, before what they are made of is expanded."""


@lru_cache(maxsize=64)
def _expansions(native: frozenset[str]) -> Steps:
    table: dict[str, tuple[Step, ...]] = {
        name: (_expander(name, row.expand),)
        for name, row in ops.OPS.items()
        if row.expand is not None and name not in native
    }

    def inner(value: Expr) -> Expr | None:
        body: Graph = value.node.attr("body")
        done = legalise(body, native)
        if done == body:
            return None
        attrs = {**dict(value.node.attrs), "body": done}
        return value.builder.op("scan", *(Expr(value.builder, a) for a in value.node.args), **attrs)

    # A stated gradient has been used by now; what it was computed from need not be emitted.
    table["attach_gradient"] = (lambda value: Expr(value.builder, value.node.args[0]),)
    table["pow"] = (_cube,)
    if "sigmoid" in table:
        table["sigmoid"] = (_one_sided_sigmoid, *table["sigmoid"])
    return Steps({**table, "scan": (inner,)})


@lru_cache(maxsize=4096)
def legalise(graph: Graph, native: frozenset[str] = frozenset()) -> Graph:
    """Composites become primitives, except those in ``native``; inside recursions too."""
    graph = rewrite(graph, _FIRST)
    return canonicalise(rewrite(graph, _expansions(native)))
