"""The table for JAX: primitive -> native call.

Values are held *compact*: one dimension for each axis a value has, and none for the others.
Singleton dimensions would cost nothing on paper, but XLA on a CPU vectorises the last dimension,
and a row of [65536, 1] next to [65536, 10] takes twice the time of a row of [65536]. Operands of
elementwise rows are brought to one rank in writing, so ``jax_numpy_rank_promotion="raise"`` holds.

Numbers in emitted code are Python numbers: weakly typed, they take the dtype of the array they
meet, whatever the process's x64 switch says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from lossbridge.emit import CompactEmitter, Emitter, Entry, Lowering
from lossbridge.ir import Node, const_value, is_star

__all__ = ["LOWERING", "JaxEmitter"]


# --- what emitted code calls ---------------------------------------------------------------------
# `eject` copies these with the code that calls them, so each stands on its own.


def divided(x: jax.Array, by: jax.Array | float) -> jax.Array:
    """The quotient, rounded once: XLA does not see that the divisor is one number repeated.

    No index lies below -1 - abs(by). The values of ``x`` are not asked, so that this is linear; of
    a plain number XLA would see that.
    """
    if not hasattr(by, "dtype"):
        by = lax.optimization_barrier(jnp.asarray(by, x.dtype))  # type: ignore[no-untyped-call]
    below = lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) < -1.0 - jnp.abs(by)
    return x / jnp.where(below, 1.0, by)


def gather(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """``x`` at ``index`` along ``axis``; ranks agree, and the other dimensions broadcast.

    Out of range is NaN; JAX alone would take -1 for the last entry.
    """
    size = x.shape[axis]
    inside = (index >= 0) & (index < size)
    safe = jnp.clip(index, 0, max(size - 1, 0))
    if size == 0:  # nothing to gather: one entry, which no index may show
        x = jnp.zeros((*x.shape[: axis % x.ndim], 1, *x.shape[axis % x.ndim + 1 :]), x.dtype)
    found = jnp.take_along_axis(x, safe, axis=axis, mode="clip")
    return jnp.where(inside, found, math.nan) if jnp.issubdtype(x.dtype, jnp.floating) else found


def lookup(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """Whole slices of a table; the index's dimensions stand where ``axis`` was. NaN outside."""
    size = x.shape[axis]
    inside = (index >= 0) & (index < size)
    if size == 0:
        x = jnp.zeros((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.dtype)
    found = jnp.take(x, jnp.clip(index, 0, max(size - 1, 0)), axis=axis, mode="clip")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return found
    after = x.ndim - 1 - axis
    return jnp.where(inside.reshape((1,) * axis + inside.shape + (1,) * after), found, math.nan)


def placed(x: jax.Array, index: jax.Array, value: jax.Array | float, axis: int) -> jax.Array:
    """``x`` with the entry at ``index`` along ``axis`` replaced; out of range replaces nothing.

    A scatter touches one entry a row; a selection would read and write them all, and XLA then
    computes the exponentials under it twice (512 x 32000: 1.7 times the time). On a mesh with
    explicit axes a scatter would want its indices sharded like ``x``, so there it is a selection.
    """
    axis = axis % x.ndim
    sharding = getattr(getattr(x, "aval", None), "sharding", None)
    if getattr(getattr(sharding, "mesh", None), "explicit_axes", ()):
        here = lax.iota(jnp.int32, x.shape[axis])
        here = here.reshape((1,) * axis + (-1,) + (1,) * (x.ndim - 1 - axis))
        new = jnp.asarray(value, x.dtype)
        new = lax.expand_dims(new, (axis,)) if new.ndim else new
        return jnp.where(here == lax.expand_dims(index, (axis,)), new, x)
    # Not jnp.indices, which takes no symbolic size (jax.export).
    rank = index.ndim
    spots = [
        lax.iota(jnp.int32, n).reshape((1,) * k + (n,) + (1,) * (rank - 1 - k))
        for k, n in enumerate(index.shape)
    ]
    spots.insert(axis, jnp.where(index < 0, x.shape[axis], index))
    return x.at[tuple(spots)].set(value, mode="drop", unique_indices=True)


def moved(x: jax.Array, axis: int, by: int, fill: float) -> jax.Array:
    """``x[k - by]`` along ``axis``, ``fill`` where that lies outside."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (by, -by, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), config)


def contracted(equation: str, x: jax.Array, y: jax.Array, group: int) -> jax.Array:
    """The sums of products over some dimensions; ``*`` stands for the ``group`` dimensions of a
    group."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:group]
    return jnp.einsum(equation.replace("*", letters), x, y, precision="highest")


def recursion(
    step: Callable[..., jax.Array],
    start: jax.Array,
    values: Sequence[jax.Array],
    along: Sequence[int | None],
    length: int,
    axis: int,
    reverse: bool,
) -> jax.Array:
    """All carries of ``carry = step(carry, *values)``, stacked along ``axis``.

    Those of ``values`` that have a dimension in ``along`` are seen one step at a time.
    """
    moving = [jnp.moveaxis(v, a, 0) for v, a in zip(values, along, strict=True) if a is not None]

    def body(carry: jax.Array, now: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        current = iter(now)
        seen = [v if a is None else next(current) for v, a in zip(values, along, strict=True)]
        after = step(carry, *seen).astype(carry.dtype)
        return after, after

    _, carries = lax.scan(body, start, moving, length=length, reverse=reverse)
    return jnp.moveaxis(carries, 0, axis)


# --- the writer ----------------------------------------------------------------------------------


class JaxEmitter(CompactEmitter):
    """The shape of a value at hand serves wherever one with the same axes is filled."""

    promotes = False  # users set jax_numpy_rank_promotion to "raise"

    def expand(self, name: str, dims: str) -> str:
        return f"lax.expand_dims({name}, {dims})"

    def length(self, axis: str) -> str:
        """How long an axis is: of a group, the lengths of all its dimensions, unpacked."""
        name, axes = self.held(axis)
        at = list(axes).index(axis)
        if is_star(axis):
            return f"*{name}.shape[{at}:{at} + group]" if at else f"*{name}.shape[:group]"
        return f"{name}.shape[{self.place(axes, axis)}]"

    def shape(self, axes: Sequence[str]) -> str:
        """The shape of a value with these axes."""
        for index, name in self.names.items():
            if self.axes(index) == tuple(axes) and index not in self.static:
                return f"{name}.shape"
        return f"({', '.join(self.length(a) for a in axes)},)"

    def filled(self, name: str, index: int, node: Node) -> str:
        shape = self.shape(node.type.axes)
        if index in self.static:
            return f"jnp.full({shape}, {name}, {_dtype(node)})"
        return f"jnp.broadcast_to({self.expanded(name, self.axes(index), node.type.axes)}, {shape})"


def _dtype(node: Node) -> str:
    return {"real": "dt", "int": "jnp.int32", "bool": "jnp.bool_"}[node.type.dtype]


# --- entries that are more than a template -------------------------------------------------------


def _compact(emitter: Emitter) -> JaxEmitter:
    assert isinstance(emitter, JaxEmitter)
    return emitter


def _power(emitter: Emitter, node: Node, x: list[str]) -> str:
    # A whole exponent becomes multiplications: 0.4 ns an element instead of 34.
    exponent = emitter.graph.nodes[node.args[1]]
    if exponent.op == "const" and node.args[0] not in emitter.static:
        value = const_value(exponent)
        if float(value).is_integer() and 2 <= value <= 8:
            return f"lax.integer_pow({x[0]}, {int(value)})"
    return f"jnp.power({x[0]}, {x[1]})"


def _where(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    if node.args[1] in e.static and node.args[2] in e.static:
        # Two Python numbers would give the default float, which the x64 switch decides.
        x = [x[0], f"jnp.asarray({x[1]}, {_dtype(node)})", x[2]]
    return f"jnp.where({', '.join(x)})"


def _reduce(function: str, extra: str = "") -> Entry:
    def entry(emitter: Emitter, node: Node, x: list[str]) -> str:
        e = _compact(emitter)
        dims = e.places(e.axes(node.args[0]), node.attr("axes"))
        return f"{function}({x[0]}, axis={dims}{extra})"

    return entry


def _dot(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    a, b = (e.axes(i) for i in node.args)
    over, out = node.attr("axes"), node.type.axes
    if set(a) <= set(b) or set(b) <= set(a):
        every = [i for i in e.graph.layout if i in a or i in b]
        product = f"({e.expanded(x[0], a, every)} * {e.expanded(x[1], b, every)})"
        return f"jnp.sum({product}, axis={e.places(every, over)})"
    letters = {i: "*" if is_star(i) else chr(97 + k) for k, i in enumerate(e.graph.layout)}
    left, right, result = ("".join(letters[i] for i in axes) for axes in (a, b, out))
    if any(is_star(i) for i in over):  # einsum sums no dots
        return f'contracted("{left},{right}->{result}", {x[0]}, {x[1]}, {e.rank})'
    equation = f"{left},{right}->{result}".replace("*", "...")
    return f'jnp.einsum("{equation}", {x[0]}, {x[1]}, precision="highest")'


def _size(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, axis = _compact(emitter), node.attr("axis")
    length = e.length(axis)
    if not is_star(axis):
        return length
    # A group of no dimensions is a single value.
    return f"({length}, 1)[0]" if node.attr("leading") else f"math.prod(({length},))"


def _rename(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    old, new = node.attr("old"), node.attr("new")
    have = [new if a == old else a for a in e.axes(node.args[0])]
    return e.ordered(x[0], have, node.type.axes)


def _take(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, axis, out = _compact(emitter), node.attr("axis"), node.type.axes
    table, index = e.axes(node.args[0]), e.axes(node.args[1])
    if node.args[1] in e.static:
        x = [x[0], f"jnp.asarray({x[1]}, jnp.int32)"]
    if not set(table) & set(index):
        at = list(table).index(axis)
        if not any(is_star(a) for a in table[:at]):
            have = [*table[:at], *index, *table[at + 1 :]]
            return e.ordered(f"lookup({x[0]}, {x[1]}, {at})", have, out)
    added = [a for a in index if a not in table]
    if len(added) == 1 and not is_star(added[0]):
        # The index's own axis takes the place of the one it selects along.
        slot = [added[0] if a == axis else a for a in table]
        order = [a for a in slot if a in index]
        values = e.expanded(e.ordered(x[1], index, order), order, slot)
        return e.ordered(f"gather({x[0]}, {values}, {e.place(slot, added[0])})", slot, out)
    slot = [a for a in e.graph.layout if a in table or a in index]
    dim = e.place(slot, axis)
    values = f"gather({e.expanded(x[0], table, slot)}, {e.expanded(x[1], index, slot)}, {dim})"
    if not index:
        values = f"gather({x[0]}, lax.expand_dims({x[1]}, range({x[0]}.ndim)), {dim})"
    return f"jnp.squeeze({values}, {dim})"


def _put(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, axis = _compact(emitter), node.attr("axis")
    table, index, value = (e.axes(a) for a in node.args)
    rest = [a for a in table if a != axis]
    if node.args[1] in e.static:
        x = [x[0], f"jnp.asarray({x[1]}, jnp.int32)", x[2]]
    if table == node.type.axes and list(index) == rest and axis not in value:
        new = x[2] if node.args[2] in e.static else e.expanded(x[2], value, rest)
        return f"placed({x[0]}, {x[1]}, {new}, {e.place(table, axis)})"
    out = node.type.axes
    here = f"jnp.arange({e.length(axis)}, dtype=jnp.int32)"
    same = f"{e.expanded(here, [axis], out)} == {e.expanded(x[1], index, out)}"
    new = x[2] if node.args[2] in e.static else e.expanded(x[2], value, out)
    return f"jnp.where({same}, {new}, {e.expanded(x[0], table, out)})"


def _shift(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    dim = e.place(e.axes(node.args[0]), node.attr("axis"))
    return f"moved({x[0]}, {dim}, {node.attr('by')}, {_literal(node.attr('fill'))})"


def _flip(emitter: Emitter, node: Node, x: list[str]) -> str:
    e = _compact(emitter)
    return f"jnp.flip({x[0]}, {e.place(e.axes(node.args[0]), node.attr('axis'))})"


def _scan(emitter: Emitter, node: Node, x: list[str]) -> str:
    e, axis = _compact(emitter), node.attr("axis")
    length = e.length(axis)
    step = e.nested(node)
    along = [e.place(e.axes(a), axis) if axis in e.axes(a) else "None" for a in node.args[1:]]
    start = f"jnp.asarray({x[0]}, dt)" if node.args[0] in e.static else x[0]
    values = "".join(f"{c}, " for c in x[1:])
    return (
        f"recursion({step}, {start}, ({values}), ({''.join(f'{a}, ' for a in along)}), {length}, "
        f"{e.place(node.type.axes, axis)}, {bool(node.attr('reverse'))})"
    )


def _constant(_: Emitter, node: Node, x: list[str]) -> str:
    return f"jnp.asarray({x[0]}, {_dtype(node)})"


def _quotient(e: Emitter, node: Node, x: list[str]) -> str:
    assert isinstance(e, JaxEmitter)
    return e.quotient(node, x)


def _literal(value: float | int | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    if isinstance(value, int) and not isinstance(value, bool):
        value = min(max(value, -(2**31)), 2**31 - 1)  # as the wrapper holds integers
    return f"({value!r})" if value < 0 else repr(value)


TABLE: dict[str, Entry] = {
    "neg": "-{0}",
    "abs": "jnp.abs({0})",
    "exp": "jnp.exp({0})",
    "expm1": "jnp.expm1({0})",
    "log": "jnp.log({0})",
    "log1p": "jnp.log1p({0})",
    "sqrt": "jnp.sqrt({0})",
    "tanh": "jnp.tanh({0})",
    "sin": "jnp.sin({0})",
    "cos": "jnp.cos({0})",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": _quotient,
    "pow": _power,
    "maximum": "jnp.maximum({0}, {1})",
    "minimum": "jnp.minimum({0}, {1})",
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
    "clip": "jnp.minimum(jnp.maximum({0}, {1}), {2})",
    "indicator": "{0}.astype(dt)",
    "to_real": "{0}.astype(dt)",
    "mod": "{0} % {1}",
    "intdiv": "{0} // {1}",
    "stop_gradient": "lax.stop_gradient({0})",
    "attach_gradient": "{0}",
    "sum": _reduce("jnp.sum"),
    "amax": _reduce("jnp.max", ", initial=-math.inf"),  # an axis of length 0 is no error
    "any": _reduce("jnp.any"),
    "all": _reduce("jnp.all"),
    "dot": _dot,
    "size": _size,
    "iota": lambda e, n, x: f"jnp.arange({_compact(e).length(n.attr('axis'))}, dtype=jnp.int32)",
    "range": lambda e, n, x: f"jnp.arange(int({x[0]}), dtype=jnp.int32)",
    "rename": _rename,
    "broadcast": lambda e, n, x: _compact(e).broadcast(n, x[0]),
    "constant": _constant,
    "shift": _shift,
    "flip": _flip,
    "take": _take,
    "put": _put,
    "scan": _scan,
}

LOWERING = Lowering(
    name="jax",
    table=TABLE,
    imports=("import jax.numpy as jnp", "from jax import lax"),
    namespace={"jnp": jnp, "lax": lax, "math": math},
    helpers=(divided, gather, lookup, placed, moved, contracted, recursion),
    native=frozenset({"put"}),
    literal=_literal,
    prologue=lambda first: (f"dt = {first}.dtype",),
    whole_prologue=lambda first: ("dt = jnp.float32",),
    transpose="jnp.transpose({0}, {1})",
    emitter=JaxEmitter,
)
