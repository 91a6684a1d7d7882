"""A selection never shields a bad branch.

The gradient of ``where(c, a, b)`` reaches the branch not taken as 0, and 0 times an overflowed
derivative is NaN (Huber at an error of 1e20 in float32: e * e is inf). So selections move outwards,
past the products, and choose last.
"""

from __future__ import annotations

import math

from lossbridge import ops
from lossbridge.ir import Expr, Graph, const_value, is_const
from lossbridge.passes.canonicalise import TIDY, arg
from lossbridge.rewrite import Step, Steps, Tried, bounds, rewrite


def _cut(x: Expr) -> tuple[Expr, Expr, bool] | None:
    """``(condition, value, True)`` of where(c, v, 0), or with False of where(c, 0, v)."""
    if x.node.op != "where":
        return None
    if is_const(arg(x, 2), 0.0):
        return arg(x, 0), arg(x, 1), True
    if is_const(arg(x, 1), 0.0):
        return arg(x, 0), arg(x, 2), False
    return None


def _again(c: Expr, value: Expr, first: bool) -> Expr:
    return ops.where(c, value, 0.0) if first else ops.where(c, 0.0, value)


def _unbounded(x: Expr) -> bool:
    """Whether a value may be infinite, overflow to it, or be NaN: 0 times that is NaN.

    A sigmoid lies between 0 and 1, but that of an ignored NaN is NaN; where it arrives expanded
    into a quotient the bounds say nothing anyway.
    """
    if x.node.op == "sigmoid":
        return True
    return not is_const(x) and math.inf in (abs(end) for end in bounds(x))


def _spreads(x: Expr) -> bool:
    """Whether a value is NaN or infinite. Multiplied before it is selected, JAX's transpose of the
    tangent selects first and then multiplies, and what was selected away is 0 times NaN."""
    return is_const(x) and not math.isfinite(const_value(x.node))


def _product(v: Expr) -> Expr | None:
    a, b = arg(v, 0), arg(v, 1)
    for x, y in ((a, b), (b, a)):
        cut = _cut(x)
        if cut is not None and _spreads(cut[1]):
            # Both are selected, and the product stays a product.
            done = y.node.op == "where" and arg(y, 0).index == cut[0].index
            return x * _again(cut[0], y, cut[2]) if _unbounded(y) and not done else None
    for x, y in ((a, b), (b, a)):
        cut = _cut(x)
        if cut is not None and (not is_const(cut[1]) or _unbounded(y)):
            return _again(cut[0], cut[1] * y, cut[2])
    return None


def _quotient(v: Expr) -> Expr | None:
    cut = _cut(arg(v, 0))
    return None if cut is None or is_const(cut[1]) else _again(cut[0], cut[1] / arg(v, 1), cut[2])


def _negated(v: Expr) -> Expr | None:
    cut = _cut(arg(v, 0))
    return None if cut is None or is_const(cut[1]) else _again(cut[0], -cut[1], cut[2])


def _total(v: Expr) -> Expr | None:
    x, y = arg(v, 0), arg(v, 1)
    if x.node.op != "where" or y.node.op != "where" or x.node.args[0] != y.node.args[0]:
        return None
    if _cut(x) is None and _cut(y) is None:
        return None
    return ops.where(arg(x, 0), arg(x, 1) + arg(y, 1), arg(x, 2) + arg(y, 2))


def _difference(v: Expr) -> Expr | None:
    x, y = arg(v, 0), arg(v, 1)
    if x.node.op != "where" or y.node.op != "where" or x.node.args[0] != y.node.args[0]:
        return None
    if _cut(x) is None and _cut(y) is None:
        return None
    return ops.where(arg(x, 0), arg(x, 1) - arg(y, 1), arg(x, 2) - arg(y, 2))


def _chosen(step: Step) -> Step:
    return Tried(step, lambda op, operands: "where" in operands)


STEPS = Steps(
    {
        "sub": (_chosen(_difference),),
        "mul": (_chosen(_product),),
        "div": (_chosen(_quotient),),
        "neg": (_chosen(_negated),),
        "add": (_chosen(_total),),
    },
    TIDY,
)


def guard(graph: Graph) -> Graph:
    """Move selections outwards, so that nothing is multiplied after it was selected away."""
    return rewrite(graph, STEPS)
