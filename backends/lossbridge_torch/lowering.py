"""The table for PyTorch: primitive -> native call.

Values are held aligned to the layout with singleton dimensions. Numbers in emitted code are Python
numbers, which never widen a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbridge.emit import Emitter, Entry, Lowering, emit_body
from lossbridge.ir import Node, const_value, is_star

__all__ = ["LOWERING"]


# --- what emitted code calls ---------------------------------------------------------------------
# `eject` copies these with the code that calls them, so each stands on its own.


def gather(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """``x`` at ``index`` along ``dim``, the other dimensions broadcast; out of range is NaN."""
    size = x.shape[dim]
    rank = max(x.ndim, index.ndim)
    x = x.reshape((1,) * (rank - x.ndim) + x.shape)
    if size == 0:  # nothing to gather: one entry, which no index may show
        x = x.new_zeros([*x.shape[: dim % rank], 1, *x.shape[dim % rank + 1 :]])
    index = index.reshape((1,) * (rank - index.ndim) + index.shape).long()
    safe = index.clamp(0, max(size - 1, 0))
    left, right = list(x.shape), list(safe.shape)
    for d in range(rank):
        if d != dim % rank:
            left[d] = right[d] = max(left[d], right[d]) if left[d] and right[d] else 0
    found = x.expand(left).gather(dim, safe.expand(right))
    if not found.dtype.is_floating_point:
        return found
    return torch.where((index >= 0) & (index < size), found, math.nan)


def replace(x: Tensor, index: Tensor, value: Tensor | float, dim: int) -> Tensor:
    """``x`` with the entry at ``index`` replaced; an index out of range replaces any entry, since
    the whole row is NaN then."""
    safe = index.long().clamp(0, max(x.shape[dim] - 1, 0))
    rank = max(x.ndim, safe.ndim)  # a table without the index's axes has fewer dimensions
    x = x.reshape((1,) * (rank - x.ndim) + x.shape)
    safe = safe.reshape((1,) * (rank - safe.ndim) + safe.shape)
    shape = list(x.shape)
    shape[dim] = 1
    # The entry's place may differ along axes that the row itself lacks.
    shape = [max(a, b) if a and b else 0 for a, b in zip(shape, safe.shape, strict=True)]
    safe = safe.expand(shape)
    x = x.expand(*shape[:dim], x.shape[dim], *shape[dim:][1:])
    if isinstance(value, Tensor):
        return x.scatter(dim, safe, value.expand(shape))
    return x.scatter(dim, safe, value)


def whole(x: Tensor, rank: int) -> Tensor:
    """``x`` with all its leading singletons, which broadcasting does without."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


def largest(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The largest along ``dims``; of nothing -inf, for which torch raises an error."""
    if x.numel():
        return x.amax(dims, keepdim=True)
    return x.sum(dims, keepdim=True) - math.inf


def moved(x: Tensor, dim: int, by: int, fill: float) -> Tensor:
    """``x[k - by]`` along ``dim``, ``fill`` where that lies outside."""
    size = x.shape[dim]
    shape = list(x.shape)
    shape[dim] = min(abs(by), size)
    edge = x.new_full(shape, fill)
    if abs(by) >= size:
        return edge
    if by >= 0:
        return torch.cat([edge, x.narrow(dim, 0, size - by)], dim)
    return torch.cat([x.narrow(dim, -by, size + by), edge], dim)


def counted(like: Tensor, size: int, dim: int) -> Tensor:
    """0, 1, 2, ... along ``dim``."""
    shape = [1] * like.ndim
    shape[dim] = size
    return torch.arange(size, device=like.device).reshape(shape)


def recursion(
    step: Callable[..., Tensor],
    start: Tensor,
    values: Sequence[Tensor],
    moving: Sequence[bool],
    length: int,
    dim: int,
    reverse: bool,
) -> Tensor:
    """All carries of ``carry = step(carry, *values)``, stacked along ``dim``; the values that move
    are seen one step at a time."""
    carries = []
    carry = start
    for t in range(length - 1, -1, -1) if reverse else range(length):
        now = [v.narrow(dim, t, 1) if m else v for v, m in zip(values, moving, strict=True)]
        carry = step(carry, *now)
        carries.append(carry)
    if reverse:
        carries.reverse()
    return torch.cat(carries, dim)


# --- entries that are more than a template -------------------------------------------------------


def _bounded(function: str, clamp: str) -> Entry:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        for k in (0, 1):
            if node.args[k] in emitter.static:
                return f"{x[1 - k]}.{clamp}({x[k]})"
        return f"{function}({x[0]}, {x[1]})"

    return entry


def _where(emitter: Emitter, node: Node, x: list[str]) -> str:
    if node.args[1] in emitter.static and node.args[2] in emitter.static:
        # Two Python numbers would give the default dtype.
        x = [x[0], f"torch.full((), {x[1]}, dtype={_dtype(node)}, device=device)", x[2]]
    return f"torch.where({x[0]}, {x[1]}, {x[2]})"


def _dtype(node: Node) -> str:
    return {"real": "dt", "int": "torch.int64", "bool": "torch.bool"}[node.type.dtype]


def _reduce(name: str, call: str = "") -> Entry:
    call = call or f"{{0}}.{name}({{1}}, keepdim=True)"

    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        if not node.type.axes and name == "sum":
            return f"{x[0]}.sum()"
        dims = emitter.dims(node.attr("axes"))
        result = call.format(x[0], dims)
        if not node.type.axes:
            return f"{result}.reshape(())"
        if all(is_star(axis) for axis in node.attr("axes")):
            # torch takes no dimensions at all for every dimension.
            return f"({result} if {dims} else {x[0]})"
        return result

    return entry


def _any(name: str) -> Entry:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        total = _reduce("sum")  # of nothing too, where a largest element is an error
        assert not isinstance(total, str)
        if name == "any":
            return f"({total(emitter, node, [x[0]])} > 0)"
        return f"({total(emitter, node, [f'(~{x[0]})'])} == 0)"

    return entry


def _dot(emitter: Emitter, node: Node, x: list[str]) -> str:
    a, b = (emitter.graph.nodes[i].type.axes for i in node.args)
    over = node.attr("axes")
    # Multiplied and then summed, the gradient of a head of 2048 x 32000 took 134 GB of products.
    if set(a) <= set(b) or set(b) <= set(a):
        total = _reduce("sum")
        assert not isinstance(total, str)
        return total(emitter, node, [f"({x[0]} * {x[1]})"])
    letters = {i: "..." if is_star(i) else chr(97 + k) for k, i in enumerate(emitter.graph.layout)}

    def tight(name: str, axes: Sequence[str]) -> str:
        missing = tuple(i for i in emitter.graph.layout if i not in axes and not is_star(i))
        if not missing:
            return name
        if emitter.rank is not None and not any(is_star(i) for i in axes):
            name = f"whole({name}, {emitter.rank})"
        return f"{name}.squeeze({emitter.dims(missing)})"

    # A group that an operand lacks still has its dimensions there, each of length 1.
    left, right = (
        "".join(letters[i] for i in emitter.graph.layout if i in axes or is_star(i))
        for axes in (a, b)
    )
    stays = [
        i for i in emitter.graph.layout if i in node.type.axes or (is_star(i) and i not in over)
    ]
    result = "".join(letters[i] for i in stays)
    expression = f'torch.einsum("{left},{right}->{result}", {tight(x[0], a)}, {tight(x[1], b)})'
    named = sum(not is_star(i) for i in emitter.graph.layout)
    slots = ", ".join(
        ("..." if is_star(i) else ":")
        if i in stays
        else (f"*(None,) * ({emitter.rank} - {named})" if is_star(i) else "None")
        for i in emitter.graph.layout
    )
    return expression if len(stays) == len(letters) else f"{expression}[{slots}]"


def _size(emitter: Emitter, node: Node, x: list[str]) -> str:
    axis = node.attr("axis")
    carrier = emitter.carrier(axis)
    if not is_star(axis):
        return f"{carrier}.shape[{emitter.dim(axis)}]"
    left, _, right = emitter._split()
    if node.attr("leading"):
        return f"(*{carrier}.shape[{len(left)}:{emitter.rank} - {len(right)}], 1)[0]"
    return f"math.prod({carrier}.shape[{len(left)}:{emitter.rank} - {len(right)}])"


def _iota(emitter: Emitter, node: Node, x: list[str]) -> str:
    axis = node.attr("axis")
    carrier, dim = emitter.carrier(axis), emitter.dim(axis)
    return f"counted({carrier}, {carrier}.shape[{dim}], {dim})"


def _range(emitter: Emitter, node: Node, x: list[str]) -> str:
    axis, layout = node.attr("axis"), emitter.graph.layout
    named = sum(not is_star(a) for a in layout)
    places = (
        f"*(1,) * ({emitter.rank} - {named})" if is_star(a) else "-1" if a == axis else "1"
        for a in layout
    )
    return f"torch.arange(int({x[0]}), device=device).reshape(({', '.join(places)},))"


def _broadcast(emitter: Emitter, node: Node, x: list[str]) -> str:
    shapes = ", ".join(f"{v}.shape" for v in x[1:])
    shape = f"{x[1]}.shape" if len(x) == 2 else f"torch.broadcast_shapes({shapes})"
    if len(x) == 1:
        shape = emitter.shape(node.type.axes)
    if node.args[0] in emitter.static:
        return f"torch.full({shape}, {x[0]}, dtype={_dtype(node)}, device=device)"
    return f"{x[0]}.expand({shape})"


def _power(emitter: Emitter, node: Node, x: list[str]) -> str:
    exponent = emitter.graph.nodes[node.args[1]]
    if exponent.op == "const" and float(const_value(exponent)) == 4.0:
        return f"{x[0]}.square().square()"
    return f"torch.pow({x[0]}, {x[1]})"


def _put(emitter: Emitter, node: Node, x: list[str]) -> str:
    index = x[1]
    if node.args[1] in emitter.static:
        index = f"torch.full((1,) * {x[0]}.ndim, {index}, device=device)"
    return f"replace({x[0]}, {index}, {x[2]}, {emitter.dim(node.attr('axis'))})"


def _take(emitter: Emitter, node: Node, x: list[str]) -> str:
    index = x[1]
    if node.args[1] in emitter.static:
        index = f"torch.full((1,) * {x[0]}.ndim, {index}, device=device)"
    found = f"gather({x[0]}, {index}, {emitter.dim(node.attr('axis'))})"
    return found if node.type.axes else f"{found}.reshape(())"


def _shift(emitter: Emitter, node: Node, x: list[str]) -> str:
    dim = emitter.dim(node.attr("axis"))
    return f"moved({x[0]}, {dim}, {node.attr('by')}, {_literal(node.attr('fill'))})"


def _scan(emitter: Emitter, node: Node, x: list[str]) -> str:
    name = emitter.fresh("step")
    emit_body(emitter, node, name)
    axis = node.attr("axis")
    moving = "".join(f"{axis in emitter.graph.nodes[a].type.axes}, " for a in node.args[1:])
    dim = emitter.dim(axis)
    carrier = emitter.carrier(axis)
    values = "".join(f"{c}, " for c in x[1:])
    start = emitter.constant(node, x[0]) if node.args[0] in emitter.static else x[0]
    return (
        f"recursion({name}, {start}, ({values}), ({moving}), {carrier}.shape[{dim}], {dim}, "
        f"{bool(node.attr('reverse'))})"
    )


def _rename(emitter: Emitter, node: Node, x: list[str]) -> str:
    """The renamed axis moves to its own dimension; the others keep theirs."""
    return f"{x[0]}.transpose({emitter.dim(node.attr('old'))}, {emitter.dim(node.attr('new'))})"


def _literal(value: float | int | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    return f"({value!r})" if value < 0 else repr(value)


TABLE: dict[str, Entry] = {
    "neg": "-{0}",
    "abs": "{0}.abs()",
    "exp": "{0}.exp()",
    "expm1": "{0}.expm1()",
    "log": "{0}.log()",
    "log1p": "{0}.log1p()",
    "sqrt": "{0}.sqrt()",
    "tanh": "{0}.tanh()",
    "sin": "{0}.sin()",
    "cos": "{0}.cos()",
    "sigmoid": "{0}.sigmoid()",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "pow": _power,
    "maximum": _bounded("torch.maximum", "clamp_min"),
    "minimum": _bounded("torch.minimum", "clamp_max"),
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "not": "~{0}",
    "where": _where,
    "clip": "torch.clamp({0}, {1}, {2})",
    "indicator": "{0}.to(dt)",
    "to_real": "{0}.to(dt)",
    "mod": "{0} % {1}",
    "intdiv": "{0} // {1}",
    "stop_gradient": "{0}.detach()",
    "attach_gradient": "{0}",
    "sum": _reduce("sum"),
    "amax": _reduce("largest", "largest({0}, {1})"),
    "any": _any("any"),
    "all": _any("all"),
    "dot": _dot,
    "size": _size,
    "iota": _iota,
    "range": _range,
    "rename": _rename,
    "broadcast": _broadcast,
    "constant": "torch.full((), {0}, dtype=dt, device=device)",
    "shift": _shift,
    "flip": lambda e, n, x: f"{x[0]}.flip({e.dim(n.attr('axis'))})",
    "take": _take,
    "put": _put,
    "scan": _scan,
}

LOWERING = Lowering(
    name="torch",
    table=TABLE,
    imports=("import torch", "from torch import Tensor"),
    namespace={"torch": torch, "Tensor": Tensor, "math": math},
    helpers=(gather, replace, whole, largest, moved, counted, recursion),
    native=frozenset({"put", "sigmoid"}),
    literal=_literal,
    prologue=lambda first: (f"dt, device = {first}.dtype, {first}.device",),
    whole_prologue=lambda first: (f"dt, device = torch.float32, {first}.device",),
    transpose="{0}.permute({1})",
)

Run = Callable[..., Any]
