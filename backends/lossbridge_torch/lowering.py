"""Each primitive as PyTorch: the table, and the helpers that emitted code calls.

Values are held aligned to the graph's layout, with singleton dimensions, so broadcasting by name is
torch's own. ``dt`` and ``dev`` in emitted code are the dtype and device of the first real argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lossbridge.emit import Emitter, Entry, Lowering, emit_body
from lossbridge.ir import Node, is_star

__all__ = ["LOWERING"]


# --- helpers of emitted code -----------------------------------------------------------------------


def _take(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """The entries of x at an index along ``dim``; NaN where the index is out of range."""
    rank = max(x.ndim, index.ndim)
    x = x.reshape((1,) * (rank - x.ndim) + tuple(x.shape))
    index = index.reshape((1,) * (rank - index.ndim) + tuple(index.shape))
    n = x.shape[dim]
    if n == 0:  # nothing to take from, so whatever was asked for is out of range
        shape = torch.broadcast_shapes(x.sum(dim, keepdim=True).shape, index.shape)
        return x.new_full(shape, math.nan if x.is_floating_point() else 0)
    safe = index.clamp(0, n - 1)
    found = torch.take_along_dim(x, safe, dim)
    return torch.where(index == safe, found, math.nan) if x.is_floating_point() else found


def _put(x: Tensor, index: Tensor, value: Tensor | float, dim: int) -> Tensor:
    """x with the entry at an index along ``dim`` replaced; an index out of range replaces none."""
    rank = max(x.ndim, index.ndim)
    index = index.reshape((1,) * (rank - index.ndim) + tuple(index.shape))
    n = x.shape[dim]
    if n == 0:
        return x
    shape = list(torch.broadcast_shapes(x.narrow(dim, 0, 1).shape, index.shape))
    safe = index.clamp(0, n - 1).expand(shape)
    shape[dim] = n
    x = x.expand(shape)
    value = torch.where(index == safe, value, x.gather(dim, safe))
    return x.scatter(dim, safe, value)


def _shift(x: Tensor, dim: int, by: int, fill: float) -> Tensor:
    """x[k - by] along ``dim``, with ``fill`` outside."""
    n = x.shape[dim]
    gone = min(abs(by), n)
    edge = torch.full_like(x.narrow(dim, 0, gone), fill)
    if by >= 0:
        return torch.cat([edge, x.narrow(dim, 0, n - gone)], dim)
    return torch.cat([x.narrow(dim, gone, n - gone), edge], dim)


def _along(n: int, dim: int, device: torch.device) -> Tensor:
    """0 ... n-1 along ``dim``, counted from the right where negative, else before a group."""
    x = torch.arange(n, device=device)
    return x.reshape((n,) + (1,) * (-dim - 1))


def _rename(x: Tensor, old: int, new: int) -> Tensor:
    """An axis moved to its new name's dimension."""
    rank = max(x.ndim, -old, -new)
    return x.reshape((1,) * (rank - x.ndim) + tuple(x.shape)).transpose(old, new)


def _amax(x: Tensor, dims: tuple[int, ...] | None) -> Tensor:
    """The largest value along some dimensions; -inf along an empty one."""
    if dims is None:
        dims = tuple(range(x.ndim))
    if any(x.shape[d] == 0 for d in dims):
        return x.sum(dims, keepdim=True) - math.inf
    return x.amax(dims, keepdim=True)


def _broadcast(x: Tensor | float, likes: tuple[Tensor, ...], dt: torch.dtype) -> Tensor:
    """x repeated along the axes of other values."""
    shape = torch.broadcast_shapes(*(v.shape for v in likes))
    if not isinstance(x, Tensor):
        return likes[0].new_full(shape, x, dtype=dt)
    return x.expand(torch.broadcast_shapes(x.shape, shape))


def _scan(
    body: Any, carry: Tensor, captures: tuple[Any, ...], moving: tuple[bool, ...], dim: int, n: int,
    reverse: bool,
) -> Tensor:
    """All carries of a recursion along ``dim``; captures that move are seen a step at a time."""
    found: list[Tensor] = []
    for t in range(n - 1, -1, -1) if reverse else range(n):
        seen = [c.narrow(dim, t, 1) if m else c for c, m in zip(captures, moving, strict=True)]
        carry = body(carry, *seen)
        found.append(carry)
    if not found:
        return carry.narrow(dim, 0, 0)
    return torch.cat(found[::-1] if reverse else found, dim)


# --- entries that need to know axes ----------------------------------------------------------------


def _static(emitter: Emitter, node: Node) -> list[bool]:
    """Which operands are plain Python numbers in emitted code."""
    return [a in emitter.static for a in node.args]


def _tensor(expression: str) -> str:
    return f"torch.full((), {expression}, dtype=dt, device=dev)"


def _unary(name: str) -> Entry:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        return f"torch.{name}({_tensor(x[0]) if _static(emitter, node)[0] else x[0]})"

    return entry


def _divide(emitter: Emitter, node: Node, x: list[str]) -> str:
    if _static(emitter, node)[0] and x[0] != "1.0":
        # number / tensor is computed as the reciprocal times the number: two roundings.
        return f"torch.div({_tensor(x[0])}, {x[1]})"
    return f"({x[0]} / {x[1]})"


def _extreme(name: str, clamp: str) -> Entry:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        first, second = _static(emitter, node)
        if first or second:
            value, end = (x[1], x[0]) if first else (x[0], x[1])
            return f"{value}.clamp({clamp}={end})"
        return f"torch.{name}({x[0]}, {x[1]})"

    return entry


def _where(emitter: Emitter, node: Node, x: list[str]) -> str:
    _, first, second = _static(emitter, node)
    if node.type.dtype == "real" and first and second:
        if (x[1], x[2]) == ("1.0", "0.0"):
            return f"{x[0]}.to(dt)"
        return f"torch.where({x[0]}, {_tensor(x[1])}, {x[2]})"
    return f"torch.where({x[0]}, {x[1]}, {x[2]})"


def _clip(emitter: Emitter, node: Node, x: list[str]) -> str:
    static = _static(emitter, node)
    if static[1] != static[2]:
        x = [x[0], *(_tensor(v) if s else v for v, s in zip(x[1:], static[1:], strict=True))]
    return f"torch.clamp({x[0]}, {x[1]}, {x[2]})"


def _real(emitter: Emitter, node: Node, x: list[str]) -> str:
    return _tensor(f"float({x[0]})") if _static(emitter, node)[0] else f"{x[0]}.to(dt)"


def _reduce(name: str) -> Entry:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        if not node.type.axes:
            return f"torch.{name}({x[0]})"
        return f"torch.{name}({x[0]}, {emitter.dims(node.attr('axes'))}, keepdim=True)"

    return entry


def _largest(emitter: Emitter, node: Node, x: list[str]) -> str:
    if not node.type.axes:
        return f"_amax({x[0]}, None).reshape(())"
    return f"_amax({x[0]}, {emitter.dims(node.attr('axes'))})"


def _dot(emitter: Emitter, node: Node, x: list[str]) -> str:
    """Elementwise, unless each side has an axis the other lacks: then a matrix product."""
    a, b = (set(emitter.graph.nodes[k].type.axes) for k in node.args)
    if a <= b or b <= a:
        if not node.type.axes:
            return f"torch.sum({x[0]} * {x[1]})"
        return f"torch.sum({x[0]} * {x[1]}, {emitter.dims(node.attr('axes'))}, keepdim=True)"
    layout = emitter.graph.layout
    letters = {axis: "..." if is_star(axis) else chr(97 + k) for k, axis in enumerate(layout)}

    def subscript(axes: set[str]) -> str:
        return "".join(letters[axis] for axis in layout if axis in axes)

    operands = []
    for name, axes in zip(x, (a, b), strict=True):
        missing = tuple(axis for axis in layout if axis not in axes)
        operands.append(f"_drop({name}, {emitter.dims(missing)})" if missing else name)
    result = set(node.type.axes)
    product = f'torch.einsum("{subscript(a)},{subscript(b)}->{subscript(result)}", ' \
              f'{", ".join(operands)})'
    slots = ["..." if is_star(axis) else ":" if axis in result else "None" for axis in layout
             if axis in result or not is_star(axis)]
    return f"{product}[{', '.join(slots)}]" if "None" in slots else product


def _drop(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Without singleton dimensions, some of which it may not have (they would stand in front)."""
    return x.squeeze(tuple(d for d in dims if -x.ndim <= d < x.ndim))


def _size(emitter: Emitter, node: Node, x: list[str]) -> str:
    axis = node.attr("axis")
    carrier = emitter.carrier(axis)
    if not is_star(axis):
        return f"{carrier}.shape[{emitter.dim(axis)}]"
    left, _, right = emitter._split()
    if node.attr("leading"):
        return f"{carrier}.shape[{len(left)}]"
    if not left and not right:
        return f"{carrier}.numel()"
    return f"math.prod({carrier}.shape[{len(left)}:{emitter.rank} - {len(right)}])"


def _from_right(emitter: Emitter, axis: str) -> str:
    """The dimension of an axis, counted from the right also where it stands before a group."""
    dim = emitter.dim(axis)
    return str(dim) if dim < 0 else f"{dim} - {emitter.rank}"


def _iota(emitter: Emitter, node: Node, x: list[str]) -> str:
    axis = node.attr("axis")
    carrier = emitter.carrier(axis)
    return f"_along({carrier}.shape[{emitter.dim(axis)}], {_from_right(emitter, axis)}, dev)"


def _range(emitter: Emitter, node: Node, x: list[str]) -> str:
    return f"_along(int({x[0]}), {_from_right(emitter, node.attr('axis'))}, dev)"


def _lower_rename(emitter: Emitter, node: Node, x: list[str]) -> str:
    old, new = (_from_right(emitter, node.attr(k)) for k in ("old", "new"))
    return f"_rename({x[0]}, {old}, {new})"


def _lower_scan(emitter: Emitter, node: Node, x: list[str]) -> str:
    name = emitter.fresh("step")
    emit_body(emitter, node, name)
    axis = node.attr("axis")
    moving = tuple(axis in emitter.graph.nodes[a].type.axes for a in node.args[1:])
    dim = emitter.dim(axis)
    n = f"{emitter.carrier(axis)}.shape[{dim}]"
    start = _tensor(x[0]) if _static(emitter, node)[0] else x[0]
    captures = "".join(f"{c}, " for c in x[1:])
    return (f"_scan({name}, {start}, ({captures}), {moving}, {dim}, {n}, "
            f"{bool(node.attr('reverse'))})")


def _lower_broadcast(emitter: Emitter, node: Node, x: list[str]) -> str:
    dtype = {"real": "dt", "int": "torch.int64", "bool": "torch.bool"}[node.type.dtype]
    return f"_broadcast({x[0]}, ({', '.join(x[1:])},), {dtype})"


TABLE: dict[str, Entry] = {
    "neg": "(-{0})", "abs": _unary("abs"), "exp": _unary("exp"), "expm1": _unary("expm1"),
    "log": _unary("log"), "log1p": _unary("log1p"), "sqrt": _unary("sqrt"),
    "tanh": _unary("tanh"), "sin": _unary("sin"), "cos": _unary("cos"),
    "sigmoid": _unary("sigmoid"),
    "add": "({0} + {1})", "sub": "({0} - {1})", "mul": "({0} * {1})", "div": _divide,
    "pow": "torch.pow({0}, {1})",
    "maximum": _extreme("maximum", "min"), "minimum": _extreme("minimum", "max"),
    "lt": "({0} < {1})", "le": "({0} <= {1})", "gt": "({0} > {1})", "ge": "({0} >= {1})",
    "eq": "({0} == {1})", "ne": "({0} != {1})", "and": "({0} & {1})", "or": "({0} | {1})",
    "not": "(~{0})", "where": _where, "clip": _clip,
    "indicator": _real, "to_real": _real, "mod": "({0} % {1})", "intdiv": "({0} // {1})",
    "stop_gradient": "{0}", "attach_gradient": "{0}",
    "sum": _reduce("sum"), "amax": _largest, "any": _reduce("any"), "all": _reduce("all"),
    "dot": _dot, "size": _size, "iota": _iota, "range": _range, "rename": _lower_rename,
    "broadcast": _lower_broadcast, "constant": lambda e, n, x: _tensor(x[0]),
    "shift": lambda e, n, x: (
        f"_shift({x[0]}, {e.dim(n.attr('axis'))}, {n.attr('by')}, "
        f"{_literal(n.attr('fill'))})"),
    "flip": lambda e, n, x: f"torch.flip({x[0]}, ({e.dim(n.attr('axis'))},))",
    "take": lambda e, n, x: f"_take({x[0]}, {x[1]}, {_from_right(e, n.attr('axis'))})",
    "put": lambda e, n, x: f"_put({x[0]}, {x[1]}, {x[2]}, {_from_right(e, n.attr('axis'))})",
    "scan": _lower_scan,
}


def _literal(value: float | int | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if value != value else "math.inf" if value > 0 else "-math.inf"
    return repr(value)


def _prologue(first: str) -> tuple[str, ...]:
    return (f"dt, dev = {first}.dtype, {first}.device",)


HELPERS: tuple[Callable[..., Any], ...] = (
    _take, _put, _shift, _along, _rename, _amax, _broadcast, _scan, _drop,
)

LOWERING = Lowering(
    name="torch",
    table=TABLE,
    imports=("from typing import Any", "", "import torch", "from torch import Tensor"),
    namespace={"torch": torch, "math": math},
    helpers=HELPERS,
    native=frozenset({"put", "sigmoid"}),
    literal=_literal,
    prologue=_prologue,
    transpose="{0}.permute({1})",
)
