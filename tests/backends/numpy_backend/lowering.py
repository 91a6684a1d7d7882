"""A third party's table: NumPy. Knows lossbridge only through its public tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lossbridge.emit import Emitter, Lowering, emit_body
from lossbridge.ir import Node, is_star


def _take(x: Any, index: Any, dim: int) -> Any:
    n = x.shape[dim]
    safe = np.clip(index, 0, max(n - 1, 0))
    rank = max(x.ndim, safe.ndim)
    x = x.reshape((1,) * (rank - x.ndim) + x.shape)
    safe = np.reshape(safe, (1,) * (rank - np.ndim(safe)) + np.shape(safe))
    shape = [max(a, b) if 0 not in (a, b) else 0 for a, b in zip(x.shape, safe.shape, strict=True)]
    rows, columns = list(shape), list(shape)
    rows[dim], columns[dim] = n, safe.shape[dim]
    got = np.take_along_axis(np.broadcast_to(x, rows), np.broadcast_to(safe, columns), dim)
    if got.dtype.kind != "f":
        return got
    return np.where((index >= 0) & (index < n), got, np.asarray(math.nan, got.dtype))


def _shift(x: Any, dim: int, by: int, fill: float) -> Any:
    out = np.full_like(x, fill)
    n = x.shape[dim]
    a = [slice(None)] * x.ndim
    b = [slice(None)] * x.ndim
    a[dim], b[dim] = slice(max(by, 0), n + min(by, 0)), slice(max(-by, 0), n + min(-by, 0))
    if abs(by) < n:
        out[tuple(a)] = x[tuple(b)]
    return out


def _iota(like: Any, dim: int) -> Any:
    n = like.shape[dim]
    return (
        np.arange(n).reshape((n,) + (1,) * (-dim - 1))
        if dim < 0
        else np.arange(n).reshape((1,) * dim + (n,) + (1,) * (like.ndim - dim - 1))
    )


def _scan(body: Any, init: Any, captures: Any, moving: Any, dim: int, n: int, reverse: bool) -> Any:
    carry, found = init, []
    for t in range(n - 1, -1, -1) if reverse else range(n):
        step = [c.take([t], axis=dim) if m else c for c, m in zip(captures, moving, strict=True)]
        carry = body(carry, *step)
        found.append(carry)
    if reverse:
        found.reverse()
    shape = np.broadcast_shapes(*(np.shape(f) for f in found))
    return np.concatenate([np.broadcast_to(f, shape) for f in found], axis=dim)


def _axes(emitter: Emitter, node: Node, x: list[str], name: str) -> str:
    if not node.type.axes:
        return f"np.{name}({x[0]})"
    return f"np.{name}({x[0]}, axis={emitter.dims(node.attr('axes'))}, keepdims=True)"


def _reduce(name: str) -> Any:
    return lambda emitter, node, x: _axes(emitter, node, x, name)


def _size(emitter: Emitter, node: Node, x: list[str]) -> str:
    axis = node.attr("axis")
    carrier = emitter.carrier(axis)
    if not is_star(axis):
        return f"{carrier}.shape[{emitter.dim(axis)}]"
    left, _, right = emitter._split()
    if node.attr("leading"):
        return f"{carrier}.shape[{len(left)}]"
    return f"math.prod({carrier}.shape[{len(left)}:{emitter.rank} - {len(right)}])"


def _dot(emitter: Emitter, node: Node, x: list[str]) -> str:
    return _axes(emitter, node, [f"({x[0]} * {x[1]})"], "sum")


def _lower_scan(emitter: Emitter, node: Node, x: list[str]) -> str:
    name = emitter.fresh("step")
    emit_body(emitter, node, name)
    axis = node.attr("axis")
    moving = tuple(axis in emitter.graph.nodes[a].type.axes for a in node.args[1:])
    dim = emitter.dim(axis)
    n = f"{emitter.carrier(axis)}.shape[{dim}]"
    captures = "".join(f"{c}, " for c in x[1:])
    return (
        f"_scan({name}, {x[0]}, ({captures}), {moving}, {dim}, {n}, {bool(node.attr('reverse'))})"
    )


def _broadcast(emitter: Emitter, node: Node, x: list[str]) -> str:
    if len(x) == 1:
        return f"np.broadcast_to({x[0]}, {emitter.shape(node.type.axes)})"
    shapes = ", ".join(f"{v}.shape" for v in x[1:])
    return f"np.broadcast_to({x[0]}, np.broadcast_shapes({shapes}))"


TABLE: dict[str, Any] = {
    "neg": "(-{0})",
    "abs": "np.abs({0})",
    "exp": "np.exp({0})",
    "expm1": "np.expm1({0})",
    "log": "np.log({0})",
    "log1p": "np.log1p({0})",
    "sqrt": "np.sqrt({0})",
    "tanh": "np.tanh({0})",
    "sin": "np.sin({0})",
    "cos": "np.cos({0})",
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "np.divide({0}, {1})",
    "pow": "np.power({0}, {1})",
    "maximum": "np.maximum({0}, {1})",
    "minimum": "np.minimum({0}, {1})",
    "lt": "({0} < {1})",
    "le": "({0} <= {1})",
    "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "eq": "({0} == {1})",
    "ne": "({0} != {1})",
    "and": "({0} & {1})",
    "or": "({0} | {1})",
    "not": "(~{0})",
    "where": "np.where({0}, {1}, {2})",
    "clip": "np.clip({0}, {1}, {2})",
    "indicator": "np.where({0}, 1.0, 0.0)",
    "to_real": "({0}) * 1.0",
    "mod": "({0} % {1})",
    "intdiv": "({0} // {1})",
    "stop_gradient": "{0}",
    "attach_gradient": "{0}",
    "sum": _reduce("sum"),
    "amax": _reduce("max"),
    "any": _reduce("any"),
    "all": _reduce("all"),
    "dot": _dot,
    "size": _size,
    "iota": lambda e, n, x: f"_iota({e.carrier(n.attr('axis'))}, {e.dim(n.attr('axis'))})",
    "range": lambda e, n, x: (
        f"np.arange(int({x[0]})).reshape((-1,) + (1,) * {-e.dim(n.attr('axis')) - 1})"
    ),
    "rename": lambda e, n, x: _rename(e, n, x),
    "broadcast": _broadcast,
    "constant": "np.asarray({0}, dtype=np.float64)",
    "shift": lambda e, n, x: (
        f"_shift({x[0]}, {e.dim(n.attr('axis'))}, {n.attr('by')}, "
        f"{e.lowering.literal(n.attr('fill'))})"
    ),
    "flip": lambda e, n, x: f"np.flip({x[0]}, {e.dim(n.attr('axis'))})",
    "take": lambda e, n, x: f"_take({x[0]}, {x[1]}, {e.dim(n.attr('axis'))})",
    "scan": _lower_scan,
}


def _rename(emitter: Emitter, node: Node, x: list[str]) -> str:
    """The renamed axis moves to its own dimension; the others keep theirs."""
    old, new = emitter.dim(node.attr("old")), emitter.dim(node.attr("new"))
    return f"np.swapaxes({x[0]}, {old}, {new})"


def _literal(value: float | int | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


LOWERING = Lowering(
    name="numpy",
    table=TABLE,
    imports=("import numpy as np",),
    namespace={"np": np, "math": math},
    helpers=(_take, _shift, _iota, _scan),
    literal=_literal,
    squeeze="np.squeeze({0}, axis={1})",
)
