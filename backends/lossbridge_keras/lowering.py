"""The table for TensorFlow: one row for each primitive, on raw TensorFlow ops.

Values are held compact: one dimension for each axis a value has, and none for the others. Next to
logits of [65536, 10], rows of [65536, 1] cost XLA 1.4 times what rows of [65536] do. Lengths of
axes are plain Python numbers where they are known, and 0-d tensors where only the running graph
knows them (a batch of ``None``), so whatever computes with lengths goes through a helper that takes
both. Integers are int64 throughout, where every comparison is exact; the wrapper casts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from lossbridge.emit import (
    STATIC_ARITHMETIC,
    CompactEmitter,
    Emitter,
    Lowering,
    vanishing_reciprocal,
)
from lossbridge.ir import Builder, Expr, Graph, Node, const_value, is_star
from lossbridge.ops import where
from lossbridge.rewrite import Steps, rewrite

# --- helpers: what emitted code calls, and `eject` copies ----------------------------------------


def _compute_dtype(x: Any) -> Any:
    """The dtype to compute in: that of a floating input, at least float32."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _as(x: Any, dt: Any) -> Any:
    """A number or a tensor as a tensor of this dtype; a number alone would go through float32."""
    return tf.cast(x, dt) if isinstance(x, tf.Tensor) else tf.constant(x, dt)


def _apart(value: Any, dt: Any) -> Any:
    """A number that is not folded: a graph makes (x - y) + 1e-6 into x + (1e-6 - y), 1.3 % off."""
    number = tf.constant(value, dt)
    if tf.executing_eagerly():
        return number
    return tf.raw_ops.PlaceholderWithDefault(input=number, shape=())


def _summed(x: Any) -> Any:
    """A sum that stays one: TensorFlow's graphs add operands of one shape first. Of c + (b + a), b
    being -a and both 2^55 times c, nothing was left."""
    if not isinstance(x, tf.Tensor) or tf.executing_eagerly():
        return x
    return tf.raw_ops.EnsureShape(input=x, shape=tf.TensorShape([None] * x.shape.rank))


def _ratio(a: Any, b: Any) -> Any:
    """a / b as IEEE has it; an empty batch divides by 0."""
    if isinstance(a, tf.Tensor) or isinstance(b, tf.Tensor):
        return a / b
    if b == 0:
        return float("nan") if a == 0 or a != a else float("inf") * a
    return a / b


def _divided(x: Any, by: Any) -> Any:
    """The quotient by one number, divided element by element: a compiler multiplies with the
    reciprocal, which is subnormal and so 0 beyond 2^126. No x lies below -1 - abs(x)."""
    by = _as(by, x.dtype)
    return x / tf.where(x < -1.0 - tf.abs(x), tf.ones_like(by), by)


def _larger(a: Any, b: Any) -> Any:
    """The larger of two lengths."""
    if isinstance(a, tf.Tensor):
        return tf.maximum(a, _as(b, a.dtype))
    return tf.maximum(b, _as(a, b.dtype)) if isinstance(b, tf.Tensor) else max(a, b)


def _choose(condition: Any, a: Any, b: Any, dt: Any) -> Any:
    """One of two values, by a condition on lengths."""
    if isinstance(condition, tf.Tensor):
        return tf.where(condition, _as(a, dt), _as(b, dt))
    return a if condition else b


def _length(x: Any, dim: int) -> Any:
    """The length of a dimension: a number where it is known."""
    known = x.shape[dim]
    return tf.shape(x)[dim] if known is None else known


def _count(x: Any, start: int, stop: int, dt: Any) -> Any:
    """How many elements some dimensions hold, as a number or a 0-d tensor of the compute dtype."""
    known = x.shape[start:stop]
    if known.is_fully_defined():
        return known.num_elements()
    return tf.cast(tf.reduce_prod(tf.shape(x)[start:stop]), dt)


def _shape(x: Any) -> Any:
    """The whole shape, as TensorFlow's ops take it."""
    return x.shape if x.shape.is_fully_defined() else tf.shape(x)


def _positive(dims: tuple[int, ...], rank: int) -> list[int]:
    """Dimensions counted from the left, in order."""
    return sorted(d % rank for d in dims)


def _insert(x: Any, dims: tuple[int, ...]) -> Any:
    """x with new singleton dimensions at these places of the result."""
    for dim in _positive(dims, x.shape.rank + len(dims)):
        x = tf.expand_dims(x, dim)
    return x


def _broadcast(x: Any, dt: Any, *like: Any) -> Any:
    """x repeated to the common shape of values at hand."""
    x = x if isinstance(x, tf.Tensor) else tf.constant(x, dt)
    shapes = [v.shape for v in like]
    if all(s.is_fully_defined() for s in shapes):
        shape = shapes[0]
        for other in shapes[1:]:
            shape = tf.broadcast_static_shape(shape, other)
    else:
        shape = tf.shape(like[0])
        for other in like[1:]:
            shape = tf.broadcast_dynamic_shape(shape, tf.shape(other))
    return tf.broadcast_to(x, shape)


def _dims(x: Any, start: int, stop: int) -> list[Any]:
    """The lengths of some dimensions."""
    return [_length(x, dim) for dim in range(start, stop)]


def _repeated(x: Any, dt: Any, *lengths: Any) -> Any:
    """x repeated to a shape, where no value at hand has that shape."""
    x = x if isinstance(x, tf.Tensor) else tf.constant(x, dt)
    return tf.broadcast_to(x, tf.convert_to_tensor(list(lengths), tf.int32))


def _iota(n: Any) -> Any:
    """0, 1, 2, ... below a length."""
    return tf.range(tf.cast(n, tf.int64))


def _shift(x: Any, dim: int, by: int, fill: float) -> Any:
    """x[k - by] along a dimension, ``fill`` outside."""
    rank = x.shape.rank
    pads = [[0, 0]] * rank
    pads[dim] = [max(by, 0), max(-by, 0)]
    edge = _as(fill if x.dtype.is_floating else x.dtype.as_numpy_dtype(fill), x.dtype)
    padded = tf.pad(x, pads, constant_values=edge)
    window = [slice(None)] * rank
    window[dim] = slice(None, -by) if by > 0 else slice(-by, None)
    return padded[tuple(window)]


def _transpose(x: Any, order: tuple[int, ...]) -> Any:
    """x with its dimensions in another order; as it is where nothing moves."""
    found = [d % len(order) for d in order]
    return x if found == sorted(found) else tf.transpose(x, found)


def _take(x: Any, index: Any, dim: int, mine: tuple[int, ...], theirs: tuple[int, ...]) -> Any:
    """The entries at an index along a dimension; out of range NaN, on every device.

    ``mine`` are the dimensions of x that the index has too, where they are its ``theirs``. The
    result has those, then the index's others, then those of x.
    """
    n, index = tf.cast(_length(x, dim), tf.int64), tf.cast(index, tf.int64)
    if not x.shape[dim]:  # perhaps nothing to gather: one entry more, which no index may show
        pads = [[0, 0]] * x.shape.rank
        pads[dim] = [0, 1]
        nothing = math.nan if x.dtype.is_floating else 0
        x = tf.pad(x, pads, constant_values=tf.constant(nothing, x.dtype))
    rank, width = x.shape.rank, index.shape.rank
    dim, left, right = dim % rank, [d % rank for d in mine], [d % width for d in theirs]
    rest = [d for d in range(rank) if d != dim and d not in left]
    own = [d for d in range(width) if d not in right]
    # Clipped, since a gather outside raises on a CPU and gives 0 on a GPU.
    safe = tf.maximum(tf.minimum(index, n - 1), 0)
    if dim == rank - 1 and not rest and not own and left == right:
        # One entry of each row: gathered from the flat array, which is several times as fast.
        # In int64: 32768 rows of 131072 classes are more entries than int32 counts.
        rows = tf.reshape(safe, [-1])
        start = tf.range(tf.cast(_length(rows, 0), tf.int64)) * tf.cast(_length(x, dim), tf.int64)
        values = tf.reshape(tf.gather(tf.reshape(x, [-1]), rows + start), _shape(index))
        return _checked(values, safe, index)
    safe, index = _transpose(safe, (*right, *own)), _transpose(index, (*right, *own))
    x = _transpose(x, (*left, dim, *rest))
    values = tf.gather(x, safe, axis=len(left), batch_dims=len(left))
    after = tuple(range(width, width + len(rest)))
    return _checked(values, _insert(safe, after), _insert(index, after))


def _checked(values: Any, safe: Any, index: Any) -> Any:
    """What was found at clipped indices, NaN where clipping changed them."""
    if not values.dtype.is_floating:
        return values
    return tf.where(tf.equal(safe, index), values, tf.constant(math.nan, values.dtype))


def _dot(x: Any, y: Any, equation: str, group: int) -> Any:
    """The sum of products over some dimensions, without the array of all products.

    A ``*`` in the equation stands for a group of dimensions.
    """
    return tf.einsum(equation.replace("*", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:group]), x, y)


def _scan(body: Any, init: Any, captures: Any, along: Any, n: Any, dim: int, reverse: bool) -> Any:
    """All carries of a recursion, along a new dimension of the result.

    ``along`` says which dimension of each capture the recursion runs over, None for those it sees
    whole. A short recursion becomes a chain of ops, a long one in a graph a loop: an unrolled one
    of 200 steps takes XLA a minute to compile.
    """
    given = list(zip(captures, along, strict=True))

    def step(carry: Any, t: Any) -> Any:
        return body(carry, *(c if a is None else tf.gather(c, t, axis=a) for c, a in given))

    if isinstance(n, int) and n > 0 and (tf.executing_eagerly() or n <= 16):
        parts = [c if a is None else tf.unstack(c, n, axis=a) for c, a in given]
        found: list[Any] = []
        carry = init
        for t in range(n - 1, -1, -1) if reverse else range(n):
            now = (p if a is None else p[t] for p, a in zip(parts, along, strict=True))
            carry = body(carry, *now)
            found.append(carry)
        return tf.stack(found[::-1] if reverse else found, axis=dim)

    def at(k: Any) -> Any:
        return n - 1 - k if reverse else k

    first = step(init, at(0))  # its shape is that of all carries, the start's may be smaller
    n = tf.convert_to_tensor(n)
    rows = tf.TensorArray(first.dtype, n, element_shape=first.shape).write(at(0), first)
    _, _, rows = tf.while_loop(
        lambda k, carry, rows: k < n,
        lambda k, carry, rows: _advance(step, k, carry, rows, at),
        (tf.constant(1), first, rows),
        maximum_iterations=n,
    )
    order = list(range(1, first.shape.rank + 1))
    order.insert(dim % len([0, *order]), 0)
    return _transpose(rows.stack(), tuple(order))


def _advance(step: Any, k: Any, carry: Any, rows: Any, at: Any) -> Any:
    """One turn of the loop of a recursion."""
    carry = step(carry, at(k))
    return k + 1, carry, rows.write(at(k), carry)


HELPERS: tuple[Callable[..., Any], ...] = (
    _compute_dtype,
    _as,
    _apart,
    _summed,
    _ratio,
    _divided,
    _larger,
    _choose,
    _length,
    _count,
    _shape,
    _positive,
    _insert,
    _broadcast,
    _dims,
    _repeated,
    _iota,
    _shift,
    _transpose,
    _take,
    _checked,
    _dot,
    _scan,
    _advance,
)


# --- rows that need more than a template ---------------------------------------------------------


class TensorFlowEmitter(CompactEmitter):
    """Lengths may be tensors, and singletons are inserted by op: slicing costs ten times more."""

    def expand(self, name: str, dims: str) -> str:
        return f"_insert({name}, {dims})"

    def length(self, axis: str) -> str:
        name, axes = self.held(axis)
        return f"_length({name}, {self.place(axes, axis)})"

    def lengths(self, axis: str) -> str:
        """How long an axis is, or all the dimensions of a group."""
        if not is_star(axis):
            return self.length(axis)
        name, axes = self.held(axis)
        at = axes.index(axis)
        return f"*_dims({name}, {at}, {at} + group)"

    def filled(self, name: str, index: int, node: Node) -> str:
        axes = node.type.axes
        if index not in self.static:
            name = self.expanded(name, self.axes(index), axes)
        held = {value: row for row, value in self.names.items()}
        dtype = {"real": "dt", "int": "tf.int64", "bool": "tf.bool"}[node.type.dtype]
        try:
            like = [self.expanded(v, self.axes(held[v]), axes) for v in self.like(axes)]
        except AssertionError:
            lengths = ", ".join(self.lengths(axis) for axis in axes)
            return f"_repeated({name}, {dtype}, {lengths})"
        return f"_broadcast({name}, {dtype}, {', '.join(like)})"

    def row(self, index: int, node: Node) -> None:
        static = bool(node.args) and all(a in self.static for a in node.args)
        chosen = node.op == "where" and node.args[0] in self.static
        if not chosen and (not static or node.op not in ("div", "maximum")):
            super().row(index, node)
            return
        args = self.operands(node)
        if not chosen:
            expression = f"{'_ratio' if node.op == 'div' else '_larger'}({args[0]}, {args[1]})"
        elif static and not node.type.axes:
            expression = f"_choose({', '.join(args)}, dt)"
        else:
            static = False
            sides = args[1:]
            if not node.type.axes:  # others have been filled
                sides = [_number(self, a, v) for a, v in zip(node.args[1:], sides, strict=True)]
            expression = f"_choose({args[0]}, {', '.join(sides)}, dt)"
        name = self.fresh()
        self.write(f"{name} = {expression}")
        self.names[index] = name
        if static:
            self.static.add(index)


def _number(emitter: Emitter, index: int, text: str) -> str:
    """An operand that is a plain number, as a tensor: alone it would become float32."""
    dtype = emitter.graph.nodes[index].type.dtype
    if index not in emitter.static or dtype == "bool":
        return text
    return f"_as({text}, {'dt' if dtype == 'real' else 'tf.int64'})"


def _tensors(template: str) -> Callable[[Emitter, Node, list[str]], str]:
    """A row whose op takes tensors only."""

    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        return template.format(*(_number(emitter, a, v) for a, v in zip(node.args, x, strict=True)))

    return entry


def _sum_of(symbol: str) -> Callable[[Emitter, Node, list[str]], str]:
    """A sum or difference; a number beside another of them is not folded into it, and a sum of
    three is added in the order that the graph says."""

    def inner(emitter: Emitter, node: Node, place: int) -> bool:
        """Whether an operand is a sum whose terms another order would part."""
        nodes = emitter.graph.nodes
        a = node.args[place]
        if symbol != "+" or nodes[a].op != "add" or a in emitter.static:
            return False
        shapes = {nodes[b].type.axes for b in (*nodes[a].args, node.args[1 - place])}
        return place == 1 or len(shapes) > 1

    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        nodes = emitter.graph.nodes
        if any(nodes[a].op in ("add", "sub") and a not in emitter.static for a in node.args):
            x = [
                f"_apart({v}, dt)" if nodes[a].op == "const" else v
                for a, v in zip(node.args, x, strict=True)
            ]
        x = [f"_summed({v})" if inner(emitter, node, k) else v for k, v in enumerate(x)]
        return f"({x[0]} {symbol} {x[1]})"

    return entry


def _symmetric(name: str) -> Callable[[Emitter, Node, list[str]], str]:
    """A comparison with the tensor first: a graph takes the dtype from the first operand."""

    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        first, second = x[::-1] if node.args[0] in emitter.static else x
        return f"tf.{name}({first}, {second})"

    return entry


def _extreme(name: str) -> Callable[[Emitter, Node, list[str]], str]:
    """The larger or smaller of two, a number second: XLA of TensorFlow 2.18 has 0 for max(0, NaN),
    and NaN for max(NaN, 0)."""
    entry, swapped = (_tensors(f"tf.{name}({pair})") for pair in ("{0}, {1}", "{1}, {0}"))
    return lambda emitter, node, x: (swapped if node.args[0] in emitter.static else entry)(
        emitter, node, x
    )


def _compact(emitter: Emitter) -> CompactEmitter:
    assert isinstance(emitter, CompactEmitter)
    return emitter


def _reduction(name: str) -> Callable[[Emitter, Node, list[str]], str]:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        if not node.type.axes:
            return f"tf.{name}({x[0]})"
        e = _compact(emitter)
        return f"tf.{name}({x[0]}, {e.places(e.axes(node.args[0]), node.attr('axes'))})"

    return entry


def _lower_where(emitter: Emitter, node: Node, x: list[str]) -> str:
    sides = [emitter.graph.nodes[a] for a in node.args[1:]]
    numbers = [const_value(side) for side in sides if side.op == "const"]
    if numbers == [1.0, 0.0] and node.type.dtype == "real":
        return f"tf.cast({x[0]}, dt)"
    return _tensors("tf.where({0}, {1}, {2})")(emitter, node, x)


def _lower_div(emitter: Emitter, node: Node, x: list[str]) -> str:
    first = emitter.graph.nodes[node.args[0]]
    if first.op == "const" and const_value(first) == 1.0:
        # TensorFlow's graphs make 1 / y a reciprocal, which is an approximation: of 1.0 it is
        # 0.99999994. Doubling both is exact, and what overflows has a subnormal reciprocal.
        return f"(2.0 / ({x[1]} + {x[1]}))"
    divisor = emitter.graph.nodes[node.args[1]]
    number = not divisor.type.axes and node.args[1] not in emitter.static
    if (number and first.type.axes) or (vanishing_reciprocal(divisor) and first.op != "const"):
        return f"_divided({x[0]}, {x[1]})"
    return f"({x[0]} / {x[1]})"


def _lower_dot(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    a, b = (e.axes(i) for i in node.args)
    over, out = node.attr("axes"), node.type.axes
    if set(a) <= set(b) or set(b) <= set(a):
        every = [i for i in e.graph.layout if i in a or i in b]
        product = f"{e.expanded(x[0], a, every)} * {e.expanded(x[1], b, every)}"
        if not out:
            return f"tf.reduce_sum({product})"
        return f"tf.reduce_sum({product}, {e.places(every, over)})"
    letters = {i: "*" if is_star(i) else chr(97 + k) for k, i in enumerate(e.graph.layout)}
    left, right, result = ("".join(letters[i] for i in axes) for axes in (a, b, out))
    return f"_dot({x[0]}, {x[1]}, '{left},{right}->{result}', {e.rank or 0})"


def _lower_take(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, axis = _compact(emitter), node.attr("axis")
    table, index = e.axes(node.args[0]), e.axes(node.args[1])
    shared = [a for a in table if a in index and a != axis]
    mine, theirs = (
        f"({''.join(f'{e.place(axes, a)}, ' for a in shared).rstrip()})" for axes in (table, index)
    )
    found = [
        *shared,
        *(a for a in index if a not in shared),
        *(a for a in table if a != axis and a not in shared),
    ]
    values = _number(emitter, node.args[1], x[1])
    taken = f"_take({x[0]}, {values}, {e.place(table, axis)}, {mine}, {theirs})"
    return e.ordered(taken, found, node.type.axes)


def _lower_size(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, axis = _compact(emitter), node.attr("axis")
    carrier, axes = e.held(axis)
    if not is_star(axis):
        dim = int(e.place(axes, axis))
        stop = "None" if dim == -1 else str(dim + 1)
        return f"_count({carrier}, {dim}, {stop}, dt)"
    at = axes.index(axis)
    if node.attr("leading"):
        return f"_count({carrier}, {at}, {f'{at} + ' if at else ''}min(group, 1), dt)"
    return f"_count({carrier}, {at}, {f'{at} + ' if at else ''}group, dt)"


def _lower_rename(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, old, new = _compact(emitter), node.attr("old"), node.attr("new")
    have = [new if a == old else a for a in e.axes(node.args[0])]
    return e.ordered(x[0], have, node.type.axes)


def _lower_shift(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    dim = e.place(e.axes(node.args[0]), node.attr("axis"))
    fill = emitter.lowering.literal(node.attr("fill"))
    return f"_shift({x[0]}, {dim}, {node.attr('by')}, {fill})"


def _lower_flip(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    return f"tf.reverse({x[0]}, [{e.place(e.axes(node.args[0]), node.attr('axis'))}])"


def _lower_scan(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, axis = _compact(emitter), node.attr("axis")
    length = e.length(axis)
    step = e.nested(node)
    along = [e.place(e.axes(a), axis) if axis in e.axes(a) else "None" for a in node.args[1:]]
    captures = "".join(f"{c}, " for c in x[1:])
    return (
        f"_scan({step}, {_number(emitter, node.args[0], x[0])}, ({captures}), "
        f"({''.join(f'{a}, ' for a in along)}), {length}, {e.place(node.type.axes, axis)}, "
        f"{bool(node.attr('reverse'))})"
    )


def _literal(value: float | int | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


TABLE: dict[str, Any] = {
    "neg": "(-{0})",
    **{
        op: _tensors(f"tf.math.{op}({{0}})")
        for op in ("abs", "exp", "expm1", "log", "log1p", "sqrt", "tanh", "sin", "cos")
    },
    **{
        op: f"({{0}} {symbol} {{1}})"
        for op, symbol in STATIC_ARITHMETIC.items()
        if op not in ("eq", "ne", "add", "sub")
    },
    "add": _sum_of("+"),
    "sub": _sum_of("-"),
    # Not `==`: on tensors it may compare identities, depending on a global switch.
    "eq": _symmetric("equal"),
    "ne": _symmetric("not_equal"),
    "div": _lower_div,
    "pow": "({0} ** {1})",
    # One kernel; a selection takes TensorFlow four times as long as a product.
    "weigh": _tensors("tf.math.multiply_no_nan({1}, {0})"),
    "maximum": _extreme("maximum"),
    "minimum": _extreme("minimum"),
    "and": "({0} & {1})",
    "or": "({0} | {1})",
    # Not `~`: a graph makes ~(a < b) into a >= b, which is another answer to a NaN.
    "not": "tf.equal({0}, False)",
    "where": _lower_where,
    "clip": _tensors("tf.maximum(tf.minimum({0}, {2}), {1})"),
    "indicator": "tf.cast({0}, dt)",
    "to_real": "tf.cast({0}, dt)",
    "mod": "({0} % {1})",
    "intdiv": "({0} // {1})",
    "stop_gradient": "{0}",
    "attach_gradient": "{0}",
    "sum": _reduction("reduce_sum"),
    "amax": _reduction("reduce_max"),
    "any": _reduction("reduce_any"),
    "all": _reduction("reduce_all"),
    "dot": _lower_dot,
    "size": _lower_size,
    "iota": lambda e, n, x: f"_iota({_compact(e).length(n.attr('axis'))})",
    "range": "_iota({0})",
    "rename": _lower_rename,
    "broadcast": lambda e, n, x: _compact(e).broadcast(n, x[0]),
    "shift": _lower_shift,
    "flip": _lower_flip,
    "take": _lower_take,
    "scan": _lower_scan,
    "constant": "_as({0}, dt)",
}


def _prologue(first: str) -> tuple[str, ...]:
    return (f"dt = _compute_dtype({first})",)


def _chosen_once(value: Expr) -> Expr | None:
    """A choice that another by the same condition has made already.

    What a softmax's gradient leaves out at the label is what a later row puts there: one pass of
    three over the classes less, and TensorFlow's graphs do not fuse passes.
    """
    condition, *sides = (Expr(value.builder, a) for a in value.node.args)
    settled = [_settled(side, condition.index, k) for k, side in enumerate(sides)]
    if [s.index for s in settled] == [s.index for s in sides]:
        return None
    changed = where(condition, *settled)
    return changed if changed.axes == value.axes else None


def _settled(side: Expr, condition: int, k: int) -> Expr:
    """One side of a choice, knowing which way its condition fell."""
    if side.node.op != "where":
        return side
    inner, *sides = (Expr(side.builder, a) for a in side.node.args)
    if inner.index == condition:
        return _settled(sides[k], condition, k)
    settled = [_settled(s, condition, k) for s in sides]
    if [s.index for s in settled] == [s.index for s in sides]:
        return side
    return where(inner, *settled)


def _shared_choices(graph: Graph) -> Graph:
    """Where a condition does not hold, ``where(condition, 0, a)`` is ``a``: one of them is enough.

    The exponentials without the label's are what is summed; a gradient that reads them too, and not
    the exponentials as they were, takes XLA 1.08 instead of 1.19 times the built-in's time.
    """
    b = Builder(graph.layout)
    values: list[Expr] = []
    chosen: dict[int, dict[int, Expr]] = {}  # by condition: a -> where(condition, 0, a)

    def without(x: Expr, instead: dict[int, Expr]) -> Expr:
        """x where the condition does not hold."""
        found = instead.get(x.index)
        if found is not None and found.axes == x.axes:
            return found
        if x.node.op not in ("where", "mul"):
            return x
        args = [Expr(b, a) for a in x.node.args]
        changed = [a if a.type.dtype == "bool" else without(a, instead) for a in args]
        if [a.index for a in changed] == [a.index for a in args]:
            return x
        return b.op(x.node.op, *changed)

    for node in graph.nodes:
        if node.op in ("input", "const"):
            values.append(b.row(node.op, (), node.attrs, node.type))
            continue
        args = [values[a] for a in node.args]
        if node.op == "where":
            known = chosen.setdefault(args[0].index, {})
            if args[1].node.op == "const":
                values.append(b.op("where", *args))
                known[args[2].index] = values[-1]
                continue
            args[2] = without(args[2], known)
        values.append(b.op(node.op, *args, **dict(node.attrs)))
    return b.finish(**{name: values[index] for name, index in graph.outputs})


_CHOSEN_ONCE = Steps({"where": (_chosen_once,)})


def _writer(graph: Graph, lowering: Lowering) -> Emitter:
    chosen = rewrite(graph, _CHOSEN_ONCE)
    return TensorFlowEmitter(_shared_choices(chosen), lowering)


LOWERING = Lowering(
    name="keras",
    table=TABLE,
    imports=("import tensorflow as tf",),
    namespace={"tf": tf, "math": math},
    helpers=HELPERS,
    literal=_literal,
    prologue=_prologue,
    transpose="_transpose({0}, {1})",
    native=frozenset({"weigh"}),
    emitter=_writer,
)


# --- small calls, op by op ------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _kept(value: float, sign: float, dt: Any) -> Any:
    # An array, since TensorFlow keeps numbers too, and gives 0.0 for -0.0 where it met that first.
    return tf.constant(np.asarray(value, dt.as_numpy_dtype))


def _held(value: Any, dt: Any) -> Any:
    """A number as a tensor that is made once: making it costs as much as the op that reads it."""
    if isinstance(value, tf.Tensor):
        return tf.cast(value, dt)
    return _kept(value, math.copysign(1.0, value), dt)  # -0.0 is another number than 0.0


@lru_cache(maxsize=64)
def _dimensions(rank: int) -> Any:
    return tf.range(rank)


def _total(x: Any) -> Any:
    """The sum of all of x."""
    return tf.raw_ops.Sum(input=x, axis=_dimensions(x.ndim))


def _mean(x: Any) -> Any:
    """The mean of all of x."""
    return tf.raw_ops.Mean(input=x, axis=_dimensions(x.ndim))


def _as_mean(value: Expr) -> Expr | None:
    """A sum of everything over the number of its elements, in one op of two: TensorFlow's mean of
    nothing is NaN too, as it is where ``empty`` says so."""
    nothing, empty, quotient = (Expr(value.builder, a) for a in value.node.args)
    if value.axes or quotient.node.op != "div" or empty.node.op != "const":
        return None
    total, divisor = (Expr(value.builder, a) for a in quotient.node.args)
    if total.node.op != "sum" or divisor.node.op != "where":
        return None
    same, _, count = divisor.node.args
    axes = total.node.attr("axes")
    if same != nothing.index or sorted(_counted(Expr(value.builder, count))) != sorted(axes):
        return None
    if not math.isnan(const_value(empty.node)):
        return None
    return value.builder.op("mean", Expr(value.builder, total.node.args[0]), axes=axes)


def _counted(count: Expr) -> Iterator[str]:
    """The axes whose lengths are multiplied."""
    if count.node.op == "mul":
        for a in count.node.args:
            yield from _counted(Expr(count.builder, a))
    else:
        # Anything else counts no axis that a sum could have.
        plain = count.node.op == "size" and not count.node.attr("leading")
        yield count.node.attr("axis") if plain else ""


_AS_MEAN = Steps({"where": (_as_mean,)})


def _eager_writer(graph: Graph, lowering: Lowering) -> Emitter:
    return _writer(rewrite(graph, _AS_MEAN), lowering)


def _count_now(x: Any, start: int, stop: int | None, dt: Any) -> int:
    """How many elements some dimensions hold, of a tensor that is there."""
    return math.prod(x.shape.as_list()[start:stop])


def _raw(name: str, *keys: str) -> Callable[[Emitter, Node, list[str]], str]:
    """A row as the op itself: operators and ``tf.math`` take twice its time to get to it."""

    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        arguments: list[str] = []
        for key, index, value in zip(keys, node.args, x, strict=True):
            dtype = emitter.graph.nodes[index].type.dtype
            if index in emitter.static and dtype != "bool":
                value = f"_held({value}, {'dt' if dtype == 'real' else 'tf.int64'})"
            arguments.append(f"{key}={value}")
        return f"tf.raw_ops.{name}({', '.join(arguments)})"

    return entry


def _total_or_sums(emitter: Emitter, node: Node, x: list[str]) -> str:
    return f"_total({x[0]})" if not node.type.axes else _reduction("reduce_sum")(emitter, node, x)


_UNARY = {
    "neg": "Neg",
    "abs": "Abs",
    "exp": "Exp",
    "expm1": "Expm1",
    "log": "Log",
    "log1p": "Log1p",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "not": "LogicalNot",
}
_BINARY = {
    "add": "AddV2",
    "sub": "Sub",
    "mul": "Mul",
    "maximum": "Maximum",
    "minimum": "Minimum",
    "lt": "Less",
    "le": "LessEqual",
    "gt": "Greater",
    "ge": "GreaterEqual",
    "and": "LogicalAnd",
    "or": "LogicalOr",
}

# The same rows, for running op by op: what a small eager call takes is the way to its ops.
EAGER = replace(
    LOWERING,
    name="keras eager",
    table={
        **TABLE,
        **{op: _raw(name, "x") for op, name in _UNARY.items()},
        **{op: _raw(name, "x", "y") for op, name in _BINARY.items()},
        "weigh": _raw("MulNoNan", "y", "x"),
        "div": lambda e, n, x: (
            found
            if (found := _lower_div(e, n, x)).startswith("_divided(")
            else _raw("RealDiv", "x", "y")(e, n, x)
        ),
        "sum": _total_or_sums,
        "mean": "_mean({0})",
        "size": lambda e, n, x: _lower_size(e, n, x).replace("_count(", "_count_now(", 1),
        "constant": "_held({0}, dt)",
    },
    helpers=(*HELPERS, _held, _total, _mean, _count_now),
    emitter=_eager_writer,
)
