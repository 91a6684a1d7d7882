"""The table for TensorFlow: one row for each primitive, on raw TensorFlow ops.

Values are aligned to the graph's layout with singleton dimensions. Lengths of axes are plain Python
numbers where they are known, and 0-d tensors where only the running graph knows them (a batch of
``None``), so whatever computes with lengths goes through a helper that takes both. Integers are
int32 throughout: the wrapper brings them there, and saturates what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from lossbridge.emit import STATIC_ARITHMETIC, Emitter, Lowering, emit_body
from lossbridge.ir import Graph, Node, is_star

# --- helpers: what emitted code calls, and `eject` copies ----------------------------------------


def _compute_dtype(x: Any) -> Any:
    """The dtype to compute in: that of a floating input, at least float32."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _as(x: Any, dt: Any) -> Any:
    """A number or a tensor as a tensor of this dtype; a number alone would go through float32."""
    return tf.cast(x, dt) if isinstance(x, tf.Tensor) else tf.constant(x, dt)


def _ratio(a: Any, b: Any) -> Any:
    """a / b as IEEE has it; an empty batch divides by 0."""
    if isinstance(a, tf.Tensor) or isinstance(b, tf.Tensor):
        return a / b
    if b == 0:
        return float("nan") if a == 0 or a != a else float("inf") * a
    return a / b


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


def _insert(x: Any, dims: tuple[int, ...], rank: int) -> Any:
    """x with new singleton dimensions at these places of the result."""
    for dim in _positive(dims, rank):
        x = tf.expand_dims(x, dim)
    return x


def _drop(x: Any, dims: tuple[int, ...]) -> Any:
    """x without these singleton dimensions; without any of them named, as it is."""
    return tf.squeeze(x, list(dims)) if dims else x


def _full_rank(x: Any, rank: int) -> Any:
    """x with the leading singletons that broadcasting would add."""
    for _ in range(rank - x.shape.rank):
        x = tf.expand_dims(x, 0)
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


def _iota(n: Any, dim: int, rank: int) -> Any:
    """0, 1, 2, ... along one dimension."""
    after = -dim - 1 if dim < 0 else rank - dim - 1
    return tf.reshape(tf.range(tf.cast(n, tf.int32)), [-1] + [1] * after)


def _shift(x: Any, dim: int, by: int, fill: float) -> Any:
    """x[k - by] along a dimension, ``fill`` outside."""
    rank = x.shape.rank
    pads = [[0, 0]] * rank
    pads[dim] = [max(by, 0), max(-by, 0)]
    edge = _as(fill if x.dtype.is_floating else int(fill), x.dtype)
    padded = tf.pad(x, pads, constant_values=edge)
    window = [slice(None)] * rank
    window[dim] = slice(None, -by) if by > 0 else slice(-by, None)
    return padded[tuple(window)]


def _transpose(x: Any, order: list[int]) -> Any:
    """x with its dimensions in another order; as it is where nothing moves."""
    return x if order == list(range(len(order))) else tf.transpose(x, order)


def _rename(x: Any, old: int, new: int, rank: int) -> Any:
    """A dimension moved to that of another, singleton axis."""
    order = list(range(rank))
    order[old], order[new] = order[new], order[old]
    return tf.transpose(_full_rank(x, rank), order)


def _take(
    x: Any, index: Any, dim: int, own: tuple[int, ...], others: tuple[int, ...], rank: int
) -> Any:
    """The entries at an index along a dimension; out of range NaN, on every device.

    ``own`` are the dimensions that x has beside it, ``others`` those of the index.
    """
    x, index = _full_rank(x, rank), _full_rank(index, rank)
    if x.shape[dim] == 0:  # nothing to gather: one entry, which no index may show
        pads = [[0, 0]] * rank
        pads[dim] = [0, 1]
        nothing = math.nan if x.dtype.is_floating else 0
        x = tf.pad(x, pads, constant_values=tf.constant(nothing, x.dtype))
    dim, mine, theirs = dim % rank, _positive(own, rank), _positive(others, rank)
    shared = [d for d in mine if d in theirs]
    only_x = [d for d in mine if d not in theirs]
    only_i = [d for d in theirs if d not in mine]
    absent = [d for d in range(rank) if d != dim and d not in mine]
    n = _length(x, dim)
    # Clipped, since a gather outside raises on a CPU and gives 0 on a GPU.
    safe = tf.maximum(tf.minimum(index, n - 1), 0)
    if dim == rank - 1 and not only_x and not only_i:
        # One entry of each row: gathered from the flat array, which is several times as fast.
        # In int64: 32768 rows of 131072 classes are more entries than int32 counts.
        rows = tf.cast(tf.reshape(safe, [-1]), tf.int64)
        start = tf.range(tf.cast(_length(rows, 0), tf.int64)) * tf.cast(n, tf.int64)
        values = tf.reshape(tf.gather(tf.reshape(x, [-1]), rows + start), _shape(index))
        return _checked(values, safe, index)
    values = tf.gather(
        _drop(
            _transpose(x, [*shared, dim, *only_x, *absent]),
            tuple(range(len(shared) + 1 + len(only_x), rank)),
        ),
        _drop(
            _transpose(
                safe,
                [*shared, *only_i, dim, *(d for d in range(rank) if d != dim and d not in theirs)],
            ),
            tuple(range(len(shared) + len(only_i), rank)),
        ),
        axis=len(shared),
        batch_dims=len(shared),
    )
    found = [*shared, *only_i, *only_x]
    values = _transpose(values, [found.index(d) for d in sorted(found)])
    values = _insert(values, tuple(d for d in range(rank) if d not in found), rank)
    return _checked(values, safe, index)


def _checked(values: Any, safe: Any, index: Any) -> Any:
    """What was found at clipped indices, NaN where clipping changed them."""
    if not values.dtype.is_floating:
        return values
    return tf.where(tf.equal(safe, index), values, tf.constant(math.nan, values.dtype))


def _dot(
    x: Any, y: Any, own: tuple[int, ...], others: tuple[int, ...], over: tuple[int, ...], rank: int
) -> Any:
    """The sum of products over some dimensions, without the array of all products."""
    mine, theirs, gone = (_positive(dims, rank) for dims in (own, others, over))
    letters = "abcdefghijklmnopqrstuvwxyz"
    kept = [d for d in range(rank) if (d in mine or d in theirs) and d not in gone]
    x = _drop(_full_rank(x, rank), tuple(d for d in range(rank) if d not in mine))
    y = _drop(_full_rank(y, rank), tuple(d for d in range(rank) if d not in theirs))
    left, right, result = ("".join(letters[d] for d in dims) for dims in (mine, theirs, kept))
    return _insert(
        tf.einsum(f"{left},{right}->{result}", x, y),
        tuple(d for d in range(rank) if d not in kept),
        rank,
    )


def _scan(body: Any, init: Any, captures: Any, moving: Any, dim: int, n: Any, reverse: bool) -> Any:
    """All carries of a recursion, along a dimension.

    A short recursion becomes a chain of ops, a long one in a graph a loop: an unrolled one of 200
    steps takes XLA a minute to compile.
    """
    given = list(zip(captures, moving, strict=True))

    def step(carry: Any, t: Any) -> Any:
        return body(carry, *(tf.gather(c, [t], axis=dim) if m else c for c, m in given))

    rank = max(c.shape.rank for c, m in given if m)
    init = _full_rank(init, rank)
    if isinstance(n, int) and (tf.executing_eagerly() or n <= 16):
        parts = [tf.split(c, n, axis=dim) if m else c for c, m in given]
        found: list[Any] = []
        carry = init
        for t in range(n - 1, -1, -1) if reverse else range(n):
            carry = body(carry, *(p[t] if m else p for p, m in zip(parts, moving, strict=True)))
            found.append(carry)
        return tf.concat(found[::-1] if reverse else found, axis=dim)

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
    order = list(range(1, rank + 1))
    order.insert(dim % rank, 0)
    return tf.squeeze(tf.transpose(rows.stack(), order), dim % rank + 1)


def _advance(step: Any, k: Any, carry: Any, rows: Any, at: Any) -> Any:
    """One turn of the loop of a recursion."""
    carry = step(carry, at(k))
    return k + 1, carry, rows.write(at(k), carry)


HELPERS: tuple[Callable[..., Any], ...] = (
    _compute_dtype,
    _as,
    _ratio,
    _larger,
    _choose,
    _length,
    _count,
    _shape,
    _positive,
    _insert,
    _drop,
    _full_rank,
    _broadcast,
    _iota,
    _shift,
    _transpose,
    _rename,
    _take,
    _checked,
    _dot,
    _scan,
    _advance,
)


# --- rows that need more than a template ---------------------------------------------------------


class TensorFlowEmitter(Emitter):
    """Lengths may be tensors, and singletons are inserted by op: slicing costs ten times more."""

    @property
    def full(self) -> str:
        """An expression for the rank of aligned values."""
        return self.rank or str(len(self.graph.layout))

    def axes_of(self, index: int) -> tuple[str, ...]:
        return self.graph.nodes[index].type.axes

    def align(self, name: str, node: Node) -> str:
        order: tuple[str, ...] = node.attr("order")
        source = [a for a in self.graph.layout if a in order]
        if list(order) != source:
            name = self.lowering.transpose.format(name, tuple(order.index(a) for a in source))
        missing = tuple(a for a in self.graph.layout if a not in order)
        if not order or not missing or self.graph.layout[len(missing) :] == tuple(source):
            return name  # a number, or only leading dimensions are missing: broadcasting adds them
        return f"_insert({name}, {self.dims(missing)}, {self.full})"

    def row(self, index: int, node: Node) -> None:
        static = bool(node.args) and all(a in self.static for a in node.args)
        args = [self.names[a] for a in node.args if a in self.names]
        if node.op == "where" and node.args[0] in self.static:
            expression = f"_choose({', '.join(args)}, dt)"
        elif not static or node.op not in ("div", "maximum"):
            super().row(index, node)
            return
        else:
            expression = f"{'_ratio' if node.op == 'div' else '_larger'}({args[0]}, {args[1]})"
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
    return f"_as({text}, {'dt' if dtype == 'real' else 'tf.int32'})"


def _tensors(template: str) -> Callable[[Emitter, Node, list[str]], str]:
    """A row whose op takes tensors only."""

    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        return template.format(*(_number(emitter, a, v) for a, v in zip(node.args, x, strict=True)))

    return entry


def _symmetric(name: str) -> Callable[[Emitter, Node, list[str]], str]:
    """A comparison with the tensor first: a graph takes the dtype from the first operand."""

    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        first, second = x[::-1] if node.args[0] in emitter.static else x
        return f"tf.{name}({first}, {second})"

    return entry


def _reduction(name: str) -> Callable[[Emitter, Node, list[str]], str]:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        if not node.type.axes:
            return f"tf.{name}({x[0]})"
        return f"tf.{name}({x[0]}, {emitter.dims(node.attr('axes'))}, keepdims=True)"

    return entry


def _lower_dot(emitter: Emitter, node: Node, x: list[str]) -> str:
    own, others = (set(emitter.graph.nodes[a].type.axes) for a in node.args)
    if own <= others or others <= own:
        return _reduction("reduce_sum")(emitter, node, [f"{x[0]} * {x[1]}"])
    assert isinstance(emitter, TensorFlowEmitter)
    dims = [emitter.dims(emitter.axes_of(a)) for a in node.args]
    return (
        f"_dot({x[0]}, {x[1]}, {dims[0]}, {dims[1]}, {emitter.dims(node.attr('axes'))}, "
        f"{emitter.full})"
    )


def _dims_or_none(emitter: Emitter, axes: tuple[str, ...]) -> str:
    return emitter.dims(axes) if axes else "()"


def _lower_take(emitter: Emitter, node: Node, x: list[str]) -> str:
    assert isinstance(emitter, TensorFlowEmitter)
    axis = node.attr("axis")
    own, others = emitter.axes_of(node.args[0]), emitter.axes_of(node.args[1])
    mine = _dims_or_none(emitter, tuple(a for a in own if a != axis))
    values = _number(emitter, node.args[1], x[1])
    taken = (
        f"_take({x[0]}, {values}, {emitter.dim(axis)}, {mine}, "
        f"{_dims_or_none(emitter, others)}, {emitter.full})"
    )
    return taken if node.type.axes else f"tf.reshape({taken}, ())"


def _lower_size(emitter: Emitter, node: Node, x: list[str]) -> str:
    axis = node.attr("axis")
    carrier = emitter.carrier(axis)
    if not is_star(axis):
        dim = emitter.dim(axis)
        stop = "None" if dim == -1 else str(dim + 1)
        return f"_count({carrier}, {dim}, {stop}, dt)"
    left, _, right = emitter._split()
    if node.attr("leading"):
        return f"_count({carrier}, {len(left)}, {len(left) + 1}, dt)"
    return f"_count({carrier}, {len(left)}, {emitter.rank} - {len(right)}, dt)"


def _lower_iota(emitter: Emitter, node: Node, x: list[str]) -> str:
    assert isinstance(emitter, TensorFlowEmitter)
    dim = emitter.dim(node.attr("axis"))
    carrier = emitter.carrier(node.attr("axis"))
    return f"_iota(_length({carrier}, {dim}), {dim}, {emitter.full})"


def _lower_range(emitter: Emitter, node: Node, x: list[str]) -> str:
    assert isinstance(emitter, TensorFlowEmitter)
    return f"_iota({x[0]}, {emitter.dim(node.attr('axis'))}, {emitter.full})"


def _lower_rename(emitter: Emitter, node: Node, x: list[str]) -> str:
    assert isinstance(emitter, TensorFlowEmitter)
    old, new = emitter.dim(node.attr("old")), emitter.dim(node.attr("new"))
    return f"_rename({x[0]}, {old}, {new}, {emitter.full})"


def _lower_shift(emitter: Emitter, node: Node, x: list[str]) -> str:
    fill = emitter.lowering.literal(node.attr("fill"))
    return f"_shift({x[0]}, {emitter.dim(node.attr('axis'))}, {node.attr('by')}, {fill})"


def _lower_scan(emitter: Emitter, node: Node, x: list[str]) -> str:
    name = emitter.fresh("step")
    emit_body(emitter, node, name)
    axis = node.attr("axis")
    dim = emitter.dim(axis)
    moving = tuple(axis in emitter.graph.nodes[a].type.axes for a in node.args[1:])
    captures = "".join(f"{c}, " for c in x[1:])
    return (
        f"_scan({name}, {x[0]}, ({captures}), {moving}, {dim}, "
        f"_length({emitter.carrier(axis)}, {dim}), {bool(node.attr('reverse'))})"
    )


def _lower_broadcast(emitter: Emitter, node: Node, x: list[str]) -> str:
    return f"_broadcast({x[0]}, dt, {', '.join(x[1:])})"


def _literal(value: float | int | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, int) and not isinstance(value, bool):
        return repr(max(min(value, 2**31 - 1), -(2**31)))  # as the wrapper saturates labels
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
        if op not in ("eq", "ne")
    },
    # Not `==`: on tensors it may compare identities, depending on a global switch.
    "eq": _symmetric("equal"),
    "ne": _symmetric("not_equal"),
    "div": "({0} / {1})",
    "pow": "({0} ** {1})",
    "maximum": _tensors("tf.maximum({0}, {1})"),
    "minimum": _tensors("tf.minimum({0}, {1})"),
    "and": "({0} & {1})",
    "or": "({0} | {1})",
    "not": "(~{0})",
    "where": _tensors("tf.where({0}, {1}, {2})"),
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
    "iota": _lower_iota,
    "range": _lower_range,
    "rename": _lower_rename,
    "broadcast": _lower_broadcast,
    "shift": _lower_shift,
    "flip": lambda e, n, x: f"tf.reverse({x[0]}, [{e.dim(n.attr('axis'))}])",
    "take": _lower_take,
    "scan": _lower_scan,
    "constant": "_as({0}, dt)",
}


def _prologue(first: str) -> tuple[str, ...]:
    return (f"dt = _compute_dtype({first})",)


def _writer(graph: Graph, lowering: Lowering) -> Emitter:
    return TensorFlowEmitter(graph, lowering)


LOWERING = Lowering(
    name="keras",
    table=TABLE,
    imports=("import tensorflow as tf",),
    namespace={"tf": tf, "math": math},
    helpers=HELPERS,
    literal=_literal,
    prologue=_prologue,
    transpose="tf.transpose({0}, {1})",
    squeeze="_drop({0}, {1})",
    reshape_like="tf.reshape({0}, _shape({1}))",
    emitter=_writer,
)
