"""The graph: rows in topological order, numbered and shared by their builder.

A :class:`Graph` is frozen data. Nodes refer to earlier rows by number, so equality and hashing are
linear in the number of rows, however often a value is shared. :class:`Builder` hash-conses: the
same operation on the same operands is the same row. :class:`Expr` is a handle on one row while a
graph is being built; authors of losses write ordinary arithmetic on it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NoReturn, TypeAlias

from lossbridge.errors import ShapeError, SpecError, shown
from lossbridge.words import NoAttributeError, converted, instead, misused

Attr: TypeAlias = Any  # str, int, bool, tuple of those, or a nested Graph; always hashable

MAX_NODES = 4096  # a graph larger than this is a denial of service, not a loss (numerics.md §4)
OUTSIDE = ("apply", "derivative", "segments", "map_sizes", "use")
"""Ops that call what stands outside the fused function: a user's function, or another loss."""

MAX_DERIVED = 4 * MAX_NODES  # rows that a pass may make on its way, gradients included


@dataclass(frozen=True, slots=True)
class Type:
    """What a row holds: ``real``, ``int`` or ``bool``, over named axes in layout order."""

    dtype: str
    axes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(self.axes)}]" if self.axes else self.dtype


@dataclass(frozen=True, slots=True)
class Node:
    """One row: a primitive, the rows it reads, its attributes and its type."""

    op: str
    args: tuple[int, ...]
    attrs: tuple[tuple[str, Attr], ...]
    type: Type

    def attr(self, name: str, default: Attr = None) -> Attr:
        for key, value in self.attrs:
            if key == name:
                return value
        return default


@dataclass(frozen=True)
class Graph:
    """Rows in topological order over a layout of named axes, with named outputs."""

    layout: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]

    def __hash__(self) -> int:
        # Kept: a graph is the key of every cache of forms and of functions.
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.layout, self.nodes, self.outputs))

    @cached_property
    def weight(self) -> int:
        """How many rows it has, those of the bodies of its recursions counted."""
        return sum(1 + (n.attr("body").weight if n.op == "scan" else 0) for n in self.nodes)

    @cached_property
    def axes(self) -> frozenset[str]:
        """The axes that some row has, those of the bodies of its recursions counted."""
        inner = (n.attr("body").axes for n in self.nodes if n.op == "scan")
        return frozenset(a for n in self.nodes for a in n.type.axes).union(*inner)

    @property
    def verified(self) -> bool:
        """Whether it has been found well-formed already."""
        return "_verified" in self.__dict__

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what is kept: another process hashes text differently.
        return Graph, (self.layout, self.nodes, self.outputs)

    def output(self, name: str) -> int:
        for key, index in self.outputs:
            if key == name:
                return index
        raise KeyError(name)

    def has_output(self, name: str) -> bool:
        return any(key == name for key, _ in self.outputs)

    def inputs(self) -> Iterator[tuple[str, int]]:
        """Names and rows of the input nodes, in row order."""
        for index, node in enumerate(self.nodes):
            if node.op == "input":
                yield node.attr("name"), index

    def __str__(self) -> str:
        return format_graph(self)


def format_graph(graph: Graph) -> str:
    """The graph as text, one row a line: what ``show --passes`` prints and snapshots hold."""
    lines = [f"layout {', '.join(graph.layout)}"]
    for index, node in enumerate(graph.nodes):
        lines.append(f"%{index} = {format_node(node)} : {node.type}")
    lines.extend(f"{name} = %{index}" for name, index in graph.outputs)
    return "\n".join(lines) + "\n"


def format_node(node: Node) -> str:
    """One row's operation, operands and attributes, as text."""
    parts = [f"%{arg}" for arg in node.args]
    for key, value in node.attrs:
        if isinstance(value, Graph):
            inner = "; ".join(
                [f"%{i} = {format_node(n)}" for i, n in enumerate(value.nodes)]
                + [f"{name} = %{i}" for name, i in value.outputs]
            )
            parts.append(f"{key}={{{inner}}}")
        elif isinstance(value, tuple):
            parts.append(f"{key}=[{', '.join(map(str, value))}]")
        else:
            parts.append(f"{key}={value}")
    return f"{node.op}({', '.join(parts)})"


# --- constants -------------------------------------------------------------------------------


def encode_const(value: float | int | bool) -> str:
    """A constant as text that keeps what ``==`` loses: the sign of zero, NaN, bool and int."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return value.hex()


def const_value(node: Node) -> float | int | bool:
    """The Python value of a ``const`` row."""
    return _decoded(node.attrs[0][1], node.type.dtype)


@lru_cache(maxsize=4096)
def _decoded(text: str, dtype: str) -> float | int | bool:
    if dtype == "bool":
        return text == "true"
    return int(text) if dtype == "int" else float.fromhex(text)


# --- axes ------------------------------------------------------------------------------------


def is_star(axis: str) -> bool:
    """Whether an axis is a group of any rank."""
    return axis.startswith("*")


def merge_layout(axes_lists: Iterable[Sequence[str]], *, groups: int = 1) -> tuple[str, ...]:
    """One order for all axes: first appearance, a new axis going just before the known ones that
    follow it (so ``[i, d]`` then ``[j, d]`` gives ``i, j, d`` and nothing needs transposing)."""
    layout: list[str] = []
    for axes in axes_lists:
        for position, axis in enumerate(axes):
            if axis in layout:
                continue
            following = [layout.index(a) for a in axes[position + 1 :] if a in layout]
            layout.insert(min(following) if following else len(layout), axis)
    stars = [axis for axis in layout if is_star(axis)]
    if len(stars) > groups:
        raise SpecError(
            f"a loss may have one axis group of any rank, but this one has {', '.join(stars)}; "
            "name the other axes one by one",
            phase="semantic",
            code="two_stars",
        )
    return tuple(layout)


def source_axis(nodes: Sequence[Node], row: int, axis: str) -> str:
    """The name that an axis of a row has where it comes from: its own, unless it was renamed.

    From it the length is known wherever the input is at hand, also where nothing renamed is left.
    """
    stack, seen = [(row, axis)], {(row, axis)}
    while stack:
        row, axis = stack.pop()
        node = nodes[row]
        if node.op == "input":
            return axis
        if node.op == "rename" and node.attr("new") == axis:
            axis = node.attr("old")
        below = [(a, axis) for a in node.args if axis in nodes[a].type.axes]
        stack.extend(step for step in reversed(below) if step not in seen)
        seen.update(below)
    return axis


def grounded(graph: Graph) -> Graph:
    """The graph counting along renamed axes by the axes of the inputs that they come from.

    A derivative may keep the count and nothing that was renamed, and then nothing would tell its
    length.
    """
    declared = {a for _, i in graph.inputs() for a in graph.nodes[i].type.axes}
    makers = {n.attr("new"): i for i, n in enumerate(graph.nodes) if n.op == "rename"}
    origin = {a: source_axis(graph.nodes, i, a) for a, i in makers.items() if a not in declared}
    origin = {a: source for a, source in origin.items() if source in declared}
    if not origin:
        return graph
    b = Builder(graph.layout)
    values: list[Expr] = []
    for node in graph.nodes:
        if node.op in ("input", "const"):
            values.append(b.row(node.op, (), node.attrs, node.type))
            continue
        args = [values[a] for a in node.args]
        axis = node.attr("axis")
        if node.op == "size" and axis in origin:
            values.append(b.op("size", **{**dict(node.attrs), "axis": origin[axis]}))
        elif node.op == "iota" and axis in origin:
            values.append(
                b.op("rename", b.op("iota", axis=origin[axis]), old=origin[axis], new=axis)
            )
        else:
            values.append(b.copy(node, args, [graph.nodes[a].type for a in node.args]))
    return b.finish(**{name: values[index] for name, index in graph.outputs})


def restrict(graph: Graph) -> Graph:
    """The graph without the inputs and the axes that nothing needs."""
    used = {a for node in graph.nodes for a in node.args} | {i for _, i in graph.outputs}
    keep = [i for i, node in enumerate(graph.nodes) if i in used]
    numbers = {old: new for new, old in enumerate(keep)}
    nodes = tuple(
        Node(n.op, tuple(numbers[a] for a in n.args), n.attrs, n.type)
        for n in (graph.nodes[i] for i in keep)
    )
    slim = Graph(graph.layout, nodes, tuple((name, numbers[i]) for name, i in graph.outputs))
    return Graph(tuple(a for a in graph.layout if a in slim.axes), slim.nodes, slim.outputs)


# --- building --------------------------------------------------------------------------------

Operand: TypeAlias = "Expr | float | int | bool"


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    from lossbridge.ops import OPS  # which is made of what is defined here

    return OPS


@lru_cache(maxsize=1)
def _fit_scan() -> Any:
    from lossbridge.ops import fit_scan

    return fit_scan


class Builder:
    """Adds rows, gives equal rows the same number, and infers types from the table of ops."""

    def __init__(
        self,
        layout: Sequence[str] = (),
        parent: Builder | None = None,
        limit: int = MAX_DERIVED,
    ) -> None:
        self.layout: list[str] = list(layout)
        self.limit: int = limit if parent is None else parent.limit
        self.nodes: list[Node] = []
        self.parent = parent
        self.early: set[str] | None = None  # axes named before they are made; None: not allowed
        self.made: list[tuple[str, str | None]] = []  # axes that rows make, and after which
        self.nested = 0  # rows in the bodies of recursions
        self.scan_axis: str | None = None
        self.captures: list[tuple[Expr, Expr]] = []  # (outer value, inner input), scan bodies only
        self.ports: Mapping[str, Any] = {}  # the functions that the loss is given, as declared
        self._index: dict[tuple[Any, ...], int] = {}
        self._orders: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.intervals: dict[int, tuple[float, float]] = {}  # what is proved of rows, once asked

    # rows
    def row(
        self, op: str, args: tuple[int, ...], attrs: tuple[tuple[str, Attr], ...], type_: Type
    ) -> Expr:
        key = (op, args, attrs, type_)
        index = self._index.get(key)
        if index is None:
            if self.size() >= self.limit:
                self._too_many()
            index = len(self.nodes)
            self.nodes.append(Node(op, args, attrs, type_))
            if op == "scan":
                self.nested += self.nodes[index].attr("body").weight
            self._index[key] = index
        return Expr(self, index)

    def _too_many(self) -> NoReturn:
        written = self.limit <= MAX_NODES
        raise SpecError(
            f"this loss expands to more than {self.limit} graph rows"
            + ("" if written else ", its gradients included")
            + "; compute over an axis, with sum or scan, instead of term by term",
            phase="semantic" if written else "compile",
            code="too_many_nodes",
        )

    def size(self) -> int:
        """How many rows this loss has so far, those of its recursions counted."""
        own = len(self.nodes) + self.nested
        return own + self.parent.size() if self.parent is not None else own

    def input(self, name: str, type_: Type, kind: str = "real") -> Expr:
        axes = self.order(type_.axes)
        # `order` is how the caller's array lies; the row itself is aligned to the layout.
        attrs = (("kind", kind), ("name", name), ("order", tuple(type_.axes)))
        return self.row("input", (), attrs, Type(type_.dtype, axes))

    def const(self, value: float | int | bool, dtype: str | None = None) -> Expr:
        if dtype is None:
            dtype = "bool" if isinstance(value, bool) else "real"
        if dtype == "real":
            value = float(value)
        elif dtype == "int":
            value = int(value)
        return self.row("const", (), (("value", encode_const(value)),), Type(dtype))

    def op(self, op: str, /, *args: Operand, **attrs: Attr) -> Expr:
        """Add one operation; operands may be numbers, or values of an enclosing builder."""
        row = _table()[op]
        operands = [
            arg if isinstance(arg, Expr) and arg.builder is self else self.lift(arg) for arg in args
        ]
        operands = row.coerce(self, operands)
        if op == "scan":
            operands, attrs = _fit_scan()(self, operands, attrs)
        type_ = row.infer(self, tuple([o.type for o in operands]), attrs)
        packed = tuple(sorted((k, v) for k, v in attrs.items() if v is not None)) if attrs else ()
        return self.row(op, tuple([o.index for o in operands]), packed, type_)

    def copy(self, node: Node, args: Sequence[Expr], types: Sequence[Type]) -> Expr:
        """The row of another graph of this layout, whose operands there had ``types``."""
        numbers = tuple([a.index for a in args])
        for number, type_ in zip(numbers, types, strict=True):
            found = self.nodes[number].type
            if found is not type_ and found != type_:
                return self.op(node.op, *args, **dict(node.attrs))
        # The same operation on the same types: what it gives is known.
        return self.row(node.op, numbers, node.attrs, node.type)

    def lift(self, value: Operand) -> Expr:
        """A number becomes a constant; a value of an enclosing graph is captured."""
        if not isinstance(value, Expr):
            number = _python_number(value)
            if number is None:
                raise SpecError(
                    f"a value of the loss or a number is needed where {shown(value)} of type "
                    f"{type(value).__name__} stands; arrays come in as inputs or parameters",
                    phase="semantic",
                    code="wrong_type",
                )
            return self.const(number)
        if value.builder is self:
            return value
        if self.parent is None:
            raise ShapeError(
                "a value of one loss was used in another; compose losses with `uses`, "
                "which inlines one specification in the other"
            )
        outer = self.parent.lift(value)
        for known, inner in self.captures:
            if known.index == outer.index:
                return inner
        axes = tuple(a for a in outer.type.axes if a != self.scan_axis)
        inner = self.input(f"c{len(self.captures)}", Type(outer.type.dtype, axes), "capture")
        self.captures.append((outer, inner))
        return inner

    # axes
    def order(self, axes: Iterable[str]) -> tuple[str, ...]:
        """These axes in layout order; an axis the layout does not know is an error."""
        key = tuple(axes)
        known = self._orders.get(key)
        if known is None:
            known = self._orders[key] = self._ordered(key)
        return known

    def _ordered(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        wanted = set(axes)
        scanned = wanted.intersection(self.scanned())
        if scanned:
            raise SpecError(
                f"inside a step of a scan along {', '.join(sorted(scanned))}, a value is seen one "
                "step at a time and lacks that axis; compute what needs the whole axis before the "
                "scan",
                phase="semantic",
                code="scanned_axis",
            )
        unknown = wanted.difference(self.layout)
        if unknown:
            raise SpecError(
                f"unknown axis {', '.join(sorted(unknown))}; this loss has "
                f"{', '.join(self.layout) or 'no axes'}",
                phase="semantic",
                code="unknown_axis",
            )
        return tuple(a for a in self.layout if a in wanted)

    def scanned(self) -> frozenset[str]:
        """The axes that the steps this is part of run along."""
        if self.parent is None:
            return frozenset()
        return self.parent.scanned() | {a for a in (self.scan_axis,) if a is not None}

    def root(self) -> Builder:
        """The builder of the whole loss, of which this may be a step."""
        found = self
        while found.parent is not None:
            found = found.parent
        return found

    def expect(self, axis: str) -> None:
        """Take an axis that a later row makes, such as a renaming that is written further down.

        Only while a loss is read. It stands last for now, and the loss is read once more.
        """
        root = self.root()
        if axis in self.layout or root.early is None or axis in self.scanned():
            return
        root.early.add(axis)
        builder: Builder | None = self
        while builder is not None:
            if axis not in builder.layout:
                builder.layout.append(axis)
                builder._orders.clear()
            builder = builder.parent

    def add_axis(self, axis: str, after: str | None = None) -> None:
        if self.parent is None and (axis not in self.layout or axis in (self.early or ())):
            self.made.append((axis, after))
        if axis not in self.layout:
            where = self.layout.index(after) + 1 if after in self.layout else len(self.layout)
            self.layout.insert(where, axis)
            self._orders.clear()
        if self.parent is not None:
            self.parent.add_axis(axis, after)

    # finishing
    def finish(self, **outputs: Expr) -> Graph:
        """The rows that the outputs need, in an order that depends only on what they compute:
        inputs as declared (also those nothing reads), then operands before their operation."""
        order = [i for i, node in enumerate(self.nodes) if node.op == "input"]
        seen = set(order)
        for value in outputs.values():
            stack = [(value.index, False)]
            while stack:
                index, ready = stack.pop()
                if ready:
                    order.append(index)
                elif index not in seen:
                    seen.add(index)
                    stack.append((index, True))
                    stack.extend((a, False) for a in reversed(self.nodes[index].args))
        numbers = {old: new for new, old in enumerate(order)}
        nodes: list[Node] = []
        for old in order:
            node = self.nodes[old]
            args = tuple([numbers[a] for a in node.args])
            nodes.append(node if args == node.args else Node(node.op, args, node.attrs, node.type))
        return Graph(
            tuple(self.layout),
            tuple(nodes),
            tuple((k, numbers[v.index]) for k, v in outputs.items()),
        )


def inline(builder: Builder, graph: Graph, inputs: dict[str, Expr]) -> list[Expr]:
    """Add a graph's rows to a builder, with some inputs replaced; one handle per row."""
    values: list[Expr] = []
    nodes = graph.nodes
    same = tuple(builder.layout) == graph.layout
    for node in nodes:
        if node.op == "input":
            name = node.attr("name")
            values.append(
                inputs[name] if name in inputs else builder.row("input", (), node.attrs, node.type)
            )
        elif node.op == "const":
            values.append(builder.row("const", (), node.attrs, node.type))
        elif same:
            args = [values[a] for a in node.args]
            values.append(builder.copy(node, args, [nodes[a].type for a in node.args]))
        else:
            # Types are inferred anew, since the replacements may carry other axes.
            values.append(builder.op(node.op, *(values[a] for a in node.args), **dict(node.attrs)))
    return values


# NumPy's names of what its numbers do with a value beside them.
_ARITHMETIC: Mapping[str, str] = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "power": "pow",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "equal": "eq",
    "not_equal": "ne",
}


def _python_number(value: Any) -> float | int | bool | None:
    """A number of Python's or NumPy's as one of Python's."""
    if isinstance(value, bool | int | float):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        found = value.item()
        return found if isinstance(found, bool | int | float) else None
    return None


class Expr:
    """A value in a graph under construction; arithmetic on it adds rows."""

    __slots__ = ("builder", "index")
    __hash__ = None  # type: ignore[assignment]  # `==` builds a row, so hashing would mislead

    def __init__(self, builder: Builder, index: int) -> None:
        self.builder = builder
        self.index = index

    @property
    def node(self) -> Node:
        return self.builder.nodes[self.index]

    @property
    def type(self) -> Type:
        return self.builder.nodes[self.index].type

    @property
    def axes(self) -> tuple[str, ...]:
        return self.type.axes

    def _op(self, name: str, *args: Operand, **attrs: Attr) -> Expr:
        return innermost(args).op(name, *args, **attrs)

    def __add__(self, other: Operand) -> Expr:
        return self._op("add", self, other)

    def __radd__(self, other: Operand) -> Expr:
        return self._op("add", other, self)

    def __sub__(self, other: Operand) -> Expr:
        return self._op("sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return self._op("sub", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return self._op("mul", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return self._op("mul", other, self)

    def __truediv__(self, other: Operand) -> Expr:
        return self._op("div", self, other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return self._op("div", other, self)

    def __pow__(self, other: Operand) -> Expr:
        return self._op("pow", self, other)

    def __rpow__(self, other: Operand) -> Expr:
        return self._op("pow", other, self)

    def __neg__(self) -> Expr:
        return self._op("neg", self)

    def __abs__(self) -> Expr:
        return self._op("abs", self)

    def __lt__(self, other: Operand) -> Expr:
        return self._op("lt", self, other)

    def __le__(self, other: Operand) -> Expr:
        return self._op("le", self, other)

    def __gt__(self, other: Operand) -> Expr:
        return self._op("gt", self, other)

    def __ge__(self, other: Operand) -> Expr:
        return self._op("ge", self, other)

    def __eq__(self, other: Operand) -> Expr:  # type: ignore[override]
        return self._op("eq", self, other)

    def __ne__(self, other: Operand) -> Expr:  # type: ignore[override]
        return self._op("ne", self, other)

    def __and__(self, other: Operand) -> Expr:
        return self._op("and", self, other)

    def __or__(self, other: Operand) -> Expr:
        return self._op("or", self, other)

    def __invert__(self) -> Expr:
        return self._op("not", self)

    def __getitem__(self, axis: str) -> Expr:
        """``x["i"]``: the same value with its first axis called ``i``."""
        if not isinstance(axis, str):
            raise misused(
                f"x[{shown(axis)}]",
                "x['i'] calls the first axis of x i; an entry is take(x, index, 'classes'), and "
                "neighbours along an axis are shift(x, 'time', 1, 0.0)",
            )
        if not self.axes:
            raise SpecError(
                "[...] renames the first axis of a value, but this one has none",
                phase="semantic",
                code="unknown_axis",
            )
        return self._op("rename", self, old=self.axes[0], new=axis)

    # What Python and other libraries may try with a value; each names the word to write instead.
    def __bool__(self) -> bool:
        raise SpecError(
            "a loss is traced once for all inputs, so a value cannot decide an `if`; write "
            "where(condition, a, b); for `and`, `or`, `not` write &, |, ~ of conditions, and for "
            "max(x, y) and min(x, y) write maximum(x, y) and minimum(x, y)",
            phase="semantic",
            code="branch_on_value",
        )

    def __matmul__(self, other: object) -> Expr:
        raise misused("x @ y", "write dot(x, y, 'features'), which names the axis summed over")

    __rmatmul__ = __matmul__

    def __mod__(self, other: object) -> Expr:
        raise misused("x % n", "write mod(x, n), the remainder of non-negative integers")

    __rmod__ = __mod__

    def __floordiv__(self, other: object) -> Expr:
        raise misused("x // n", "write intdiv(x, n), the quotient of non-negative integers")

    __rfloordiv__ = __floordiv__

    def __divmod__(self, other: object) -> Expr:
        raise misused("divmod(x, n)", "write intdiv(x, n) and mod(x, n), of non-negative integers")

    __rdivmod__ = __divmod__

    def __pos__(self) -> Expr:
        return self

    def __float__(self) -> float:
        raise converted(sys._getframe(1), "float(x)")

    def __int__(self) -> int:
        raise converted(sys._getframe(1), "int(x)")

    def __index__(self) -> int:
        raise misused(
            "a value as an index of Python", "write take(table, x, 'classes') to look x up"
        )

    def __complex__(self) -> complex:
        raise converted(sys._getframe(1), "complex(x)")

    def __round__(self, digits: object = None) -> Expr:
        raise misused("round(x)", "the language has no rounding, whose derivative is 0")

    __trunc__ = __floor__ = __ceil__ = __round__

    def __len__(self) -> int:
        raise misused("len(x)", "the length of an axis is size(x, 'classes')")

    def __iter__(self) -> Iterator[Expr]:
        raise misused(
            "iterating over x (also by the built-in sum, max, list or zip)",
            "compute over an axis with sum(x, 'classes') from lossbridge.ops, or step along it "
            "with scan",
        )

    def __contains__(self, value: object) -> bool:
        raise misused("value in x", "write any_(x == value, 'classes')")

    def __setitem__(self, key: object, value: object) -> None:
        raise misused(
            "x[...] = value", "write put(x, index, value, 'classes') or where(c, value, x)"
        )

    def __array__(self, *args: object, **kwargs: object) -> Any:
        raise converted(sys._getframe(1), "an array of NumPy's made of x")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # A number of NumPy's is a number like any other; it may stand on the left.
        if method == "__call__" and ufunc.__name__ in _ARITHMETIC and not kwargs:
            numbers = [x if isinstance(x, Expr) else _python_number(x) for x in inputs]
            plain = [x for x in numbers if x is not None]
            if len(plain) == len(inputs):
                return self._op(_ARITHMETIC[ufunc.__name__], *plain)
        raise misused(f"np.{ufunc.__name__} of x", instead(ufunc.__name__))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise misused(f"np.{func.__name__} of x", instead(func.__name__))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "function")
        raise misused(f"torch.{name} of x", instead(name))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        error = misused(f"x.{name}", instead(name))
        raise NoAttributeError(error.message, phase=error.phase, code=error.code)

    def __repr__(self) -> str:
        return f"Expr(%{self.index} = {format_node(self.node)} : {self.type})"


def innermost(args: Iterable[Operand]) -> Builder:
    """The builder an operation on these operands belongs to: the most deeply nested one."""
    builders = [a.builder for a in args if isinstance(a, Expr)]
    if len(builders) == 1:
        return builders[0]
    if not builders:
        raise SpecError(
            "this operation has no operand from the loss; write the number it gives instead",
            phase="semantic",
            code="no_operand",
        )
    return max(builders, key=_depth)


def _depth(builder: Builder) -> int:
    return sum(1 for _ in itertools.takewhile(bool, _ancestors(builder)))


def _ancestors(builder: Builder | None) -> Iterator[bool]:
    while builder is not None:
        yield True
        builder = builder.parent


def is_const(expr: Expr, value: float | bool | None = None) -> bool:
    """Whether a value is a literal constant (and, if given, that very number; NaN never equal)."""
    node = expr.node
    if node.op != "const":
        return False
    if value is None:
        return True
    found = const_value(node)
    return isinstance(found, bool) == isinstance(value, bool) and found == value
