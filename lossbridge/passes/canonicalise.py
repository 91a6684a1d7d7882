"""Constants folded in float64, trivial operations removed, signs moved outwards.

Nothing here may change a result: `0 * x` stays, since x may be infinite, and `x - x` stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lossbridge import ops
from lossbridge.ir import Builder, Expr, Graph, Node, const_value, is_const
from lossbridge.rewrite import Step, Steps, Tried, rewrite


def _guarded(f: Callable[..., float]) -> Callable[..., float | bool | None]:
    def call(*values: float) -> float | bool | None:
        try:
            return f(*values)
        except (ValueError, OverflowError, ZeroDivisionError):
            return None  # left to the platform, whose IEEE result is the meaning

    return call


FOLD: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x,
    "abs": abs,
    "exp": _guarded(math.exp),
    "expm1": _guarded(math.expm1),
    "log": _guarded(math.log),
    "log1p": _guarded(math.log1p),
    "sqrt": _guarded(math.sqrt),
    "tanh": math.tanh,
    "sin": _guarded(math.sin),
    "cos": _guarded(math.cos),
    "cosh": _guarded(math.cosh),
    "sigmoid": _guarded(lambda x: 1.0 / (1.0 + math.exp(-x))),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": _guarded(lambda x, y: x / y),
    "pow": _guarded(lambda x, y: float(x) ** y),
    "maximum": max,
    "minimum": min,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": lambda x, y: x and y,
    "or": lambda x, y: x or y,
    "not": lambda x: not x,
    "indicator": lambda x: 1.0 if x else 0.0,
    "to_real": float,
    "mod": _guarded(lambda x, y: x % y),
    "intdiv": _guarded(lambda x, y: x // y),
    "clip": lambda x, lo, hi: min(max(x, lo), hi),
}


def arg(value: Expr, k: int) -> Expr:
    """One operand of a row."""
    return Expr(value.builder, value.node.args[k])


def fold(value: Expr) -> Expr | None:
    """An operation on constants, done now, in float64."""
    node = value.node
    function = FOLD.get(node.op)
    if function is None or not all(is_const(arg(value, k)) for k in range(len(node.args))):
        return None
    numbers = [const_value(arg(value, k).node) for k in range(len(node.args))]
    if any(isinstance(n, float) and math.isnan(n) for n in numbers):
        return None
    result = function(*numbers)
    if isinstance(result, complex) or result is None:
        return None
    return value.builder.const(result, node.type.dtype)


def _same_axes(kept: Expr, value: Expr) -> Expr:
    """A simplification must not lose an axis that the other operand brought."""
    return ops.broadcast(kept, *value.axes)


def simplify(value: Expr) -> Expr | None:
    """What does nothing, removed; equal shapes made one."""
    node = value.node
    handler = SIMPLIFY.get(node.op)
    return handler(value) if handler is not None else None


def _add(v: Expr) -> Expr | None:
    a, b = arg(v, 0), arg(v, 1)
    if is_const(a, 0.0):
        return _same_axes(b, v)
    if is_const(b, 0.0):
        return _same_axes(a, v)
    if b.node.op == "neg":
        return a - arg(b, 0)
    if a.node.op == "neg":
        return b - arg(a, 0)
    for x, y in ((a, b), (b, a)):
        if is_const(y) and float(const_value(y.node)) < 0.0 and x.type.dtype == "real":
            return x - (-float(const_value(y.node)))  # a derivative's exp(x) + -1 is exp(x) - 1
    if a.index == b.index and a.type.dtype == "real":
        return 2.0 * a  # exact, and the 2 meets the other factors
    return None


def _sub(v: Expr) -> Expr | None:
    a, b = arg(v, 0), arg(v, 1)
    if is_const(b, 0.0):
        return _same_axes(a, v)
    if is_const(a, 0.0):
        return _same_axes(-b, v)
    if b.node.op == "neg":
        return a + arg(b, 0)
    if a.node.op == "neg":
        return -(arg(a, 0) + b)
    return None


def _power_of_two(number: float) -> bool:
    return math.isfinite(number) and number != 0.0 and abs(math.frexp(number)[0]) == 0.5


def _mul(v: Expr) -> Expr | None:
    a, b = arg(v, 0), arg(v, 1)
    if a.index == b.index and a.node.op == "abs":
        return arg(a, 0) * arg(a, 0)  # whose second derivative is 2 at 0 too, and not 0
    for x, y in ((a, b), (b, a)):
        if is_const(x, 1.0):
            return _same_axes(y, v)
        if is_const(x, -1.0):
            return _same_axes(-y, v)
        if x.node.op == "neg":
            return -(arg(x, 0) * y)
        if (
            is_const(x)
            and y.node.op == "where"
            and all(
                is_const(arg(y, k)) and abs(float(const_value(arg(y, k).node))) in (0.0, 1.0)
                for k in (1, 2)
            )
            and math.isfinite(float(const_value(x.node)))
        ):
            return ops.where(arg(y, 0), x * arg(y, 1), x * arg(y, 2))  # exact
        if is_const(x) and y.node.op == "mul" and is_const(arg(y, 0)):
            # Two constants in a product meet, if one is a power of two, so that no rounding moves.
            p, q = (float(const_value(k.node)) for k in (x, arg(y, 0)))
            if (_power_of_two(p) or _power_of_two(q)) and math.isfinite(p * q) and p * q != 0.0:
                return (p * q) * arg(y, 1)
        # A large constant comes last: -5 * 3e38 * 0 is NaN in float32, 3e38 * 0 * -5 is not.
        constant = x.node.op == "mul" and x.axes and is_const(arg(x, 0)) and not is_const(y)
        if constant and abs(float(const_value(arg(x, 0).node))) > 1.0 and arg(x, 1).axes:
            return arg(x, 0) * (arg(x, 1) * y)
        if not x.axes and y.axes and y.node.op == "mul":
            # A mean's 1/n meets the other factors that are one number: no pass over the data.
            for factor, rest in ((arg(y, 0), arg(y, 1)), (arg(y, 1), arg(y, 0))):
                if not factor.axes and rest.axes:
                    return (x * factor) * rest
    if is_const(b) and not is_const(a):
        return b * a  # constants first, so that equal products are one row
    return None


def _weigh(v: Expr) -> Expr | None:
    a, x = arg(v, 0), arg(v, 1)
    if is_const(a, 0.0):
        return _same_axes(v.builder.const(0.0), v)
    if is_const(a):
        return a * x
    if a.node.op == "neg":
        return -ops.weigh(arg(a, 0), x)
    return -ops.weigh(a, arg(x, 0)) if x.node.op == "neg" else None


def _div(v: Expr) -> Expr | None:
    a, b = arg(v, 0), arg(v, 1)
    if is_const(b, 1.0):
        return _same_axes(a, v)
    if a.node.op == "neg":
        return -(arg(a, 0) / b)
    if b.node.op == "neg":
        return -(a / arg(b, 0))
    if is_const(b):
        number = float(const_value(b.node))
        if _power_of_two(number):
            return (1.0 / number) * a  # exact
    if a.node.op == "mul" and is_const(arg(a, 0)) and not is_const(arg(a, 1)):
        number = float(const_value(arg(a, 0).node))
        if _power_of_two(number):
            return number * (arg(a, 1) / b)  # so that equal quotients are one row
    return None


def _neg(v: Expr) -> Expr | None:
    a = arg(v, 0)
    if a.node.op == "neg":
        return arg(a, 0)
    if a.node.op == "sub":
        return arg(a, 1) - arg(a, 0)
    return None


def _abs(v: Expr) -> Expr | None:
    a = arg(v, 0)
    if a.node.op == "neg":
        return abs(arg(a, 0))
    if a.node.op == "sub" and a.node.args[0] > a.node.args[1]:
        return abs(arg(a, 1) - arg(a, 0))  # |a - b| and |b - a| become one row
    return a if a.node.op == "abs" else None


def _pow(v: Expr) -> Expr | None:
    x, y = arg(v, 0), arg(v, 1)
    if is_const(y, 0.0):
        return _same_axes(v.builder.const(1.0), v)
    if is_const(y, 1.0):
        return _same_axes(x, v)
    if is_const(y, 2.0):
        return x * x
    if is_const(y, 0.5):
        return ops.sqrt(x)
    if is_const(y, -1.0):
        return 1.0 / x
    return None


def _where(v: Expr) -> Expr | None:
    c, a, b = arg(v, 0), arg(v, 1), arg(v, 2)
    if is_const(c):
        return _same_axes(a if const_value(c.node) else b, v)
    if a.index == b.index and set(c.axes) <= set(a.axes):
        return a
    if c.node.op == "not":
        return ops.where(arg(c, 0), b, a)
    if a.node.op == "where" and arg(a, 0).index == c.index:
        return ops.where(c, arg(a, 1), b)
    if b.node.op == "where" and arg(b, 0).index == c.index:
        return ops.where(c, a, arg(b, 2))
    return None


def _and(v: Expr) -> Expr | None:
    a, b = arg(v, 0), arg(v, 1)
    for x, y in ((a, b), (b, a)):
        if is_const(x):
            return _same_axes(y if const_value(x.node) else x, v)
    return None


def _or(v: Expr) -> Expr | None:
    a, b = arg(v, 0), arg(v, 1)
    for x, y in ((a, b), (b, a)):
        if is_const(x):
            return _same_axes(x if const_value(x.node) else y, v)
    return None


def _not(v: Expr) -> Expr | None:
    a = arg(v, 0)
    return arg(a, 0) if a.node.op == "not" else None


def _take(v: Expr) -> Expr | None:
    """A constant table needs no looking up: class weights left at their default 1."""
    x = arg(v, 0)
    if x.node.op == "broadcast" and is_const(arg(x, 0)):
        return ops.broadcast(arg(x, 0), *v.axes)
    return None


def drop_broadcast(v: Expr) -> Expr | None:
    """Elementwise operations broadcast by name, so an operand need not be broadcast for them."""
    node = v.node
    if not ops.OPS[node.op].elementwise or len(node.args) < 2:
        return None
    operands = [arg(v, k) for k in range(len(node.args))]
    for k, x in enumerate(operands):
        if x.node.op != "broadcast":
            continue
        others = {a for j, o in enumerate(operands) if j != k for a in o.axes}
        if others.issuperset(x.node.attr("axes")):
            return v.builder.op(
                node.op, *operands[:k], arg(x, 0), *operands[k + 1 :], **dict(node.attrs)
            )
    if node.op == "where":
        return None
    if all(x.node.op == "broadcast" or is_const(x) for x in operands):
        inner = [arg(x, 0) if x.node.op == "broadcast" else x for x in operands]
        return ops.broadcast(v.builder.op(node.op, *inner, **dict(node.attrs)), *v.axes)
    return None


def _scan(v: Expr) -> Expr | None:
    """A constant that a recursion reads stands in its body, where it is folded too."""
    captures = [arg(v, k) for k in range(1, len(v.node.args))]
    known = {f"c{k}": const_value(c.node) for k, c in enumerate(captures) if is_const(c)}
    if not known:
        return None
    kept = [k for k, c in enumerate(captures) if not is_const(c)]
    names = {f"c{old}": f"c{new}" for new, old in enumerate(kept)}
    body = bind(v.node.attr("body"), known)
    nodes = tuple(
        n
        if n.op != "input"
        else Node(
            n.op,
            (),
            tuple((k, names.get(x, x) if k == "name" else x) for k, x in n.attrs),
            n.type,
        )
        for n in body.nodes
    )
    attrs = {**dict(v.node.attrs), "body": Graph(body.layout, nodes, body.outputs)}
    return v.builder.op("scan", arg(v, 0), *(captures[k] for k in kept), **attrs)


SIMPLIFY: dict[str, Callable[[Expr], Expr | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "weigh": _weigh,
    "div": _div,
    "neg": _neg,
    "abs": _abs,
    "pow": _pow,
    "where": _where,
    "and": _and,
    "or": _or,
    "not": _not,
    "take": _take,
    "scan": _scan,
}


TIDY: tuple[Step, ...] = (
    Tried(fold, lambda op, operands: op in FOLD and all(x == "const" for x in operands)),
    Tried(
        drop_broadcast,
        lambda op, operands: "broadcast" in operands and ops.OPS[op].elementwise,
    ),
    Tried(simplify, lambda op, operands: op in SIMPLIFY),
)
"""What every pass does at every row beside its own steps."""

_CANONICAL = Steps(anything=TIDY)


def canonicalise(graph: Graph) -> Graph:
    """Fold constants and remove what does nothing; equal rows become one."""
    return rewrite(graph, _CANONICAL)


def bind(graph: Graph, numbers: dict[str, float | int | bool]) -> Graph:
    """Replace inputs by numbers (static parameters), keeping their axes."""
    b = Builder(graph.layout)
    values: list[Expr] = []
    for node in graph.nodes:
        name = node.attr("name") if node.op == "input" else None
        if name in numbers:
            constant = b.const(numbers[name], node.type.dtype)
            values.append(ops.broadcast(constant, *node.type.axes))
        elif node.op in ("input", "const"):
            values.append(b.row(node.op, (), node.attrs, node.type))
        else:
            values.append(b.op(node.op, *(values[a] for a in node.args), **dict(node.attrs)))
    return b.finish(**{key: values[index] for key, index in graph.outputs})
