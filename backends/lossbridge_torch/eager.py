"""How a graph runs eagerly: in its own temporaries, and in blocks of a cache's size.

Outside ``torch.compile`` and ``torch.func`` every row is a kernel of its own that reads and writes
memory. Here a row overwrites an operand that nothing reads again, a comparison writes the floats
that it is wanted as, and a graph of one shape runs over slices: gradients go straight into their
buffers, and everything else stays in the cache.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbridge.emit import Emitter, Lowering, emit, load
from lossbridge.ir import Builder, Expr, Graph, Node, const_value, is_star
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.passes.schedule import Blocks, blocks, dying, readers
from lossbridge.verify import verify
from lossbridge_torch.lowering import LOWERING, gather

# Elements in a block for each thread: eight buffers of float32 fit a second-level cache of 1 MiB,
# and torch shares out operations on more than these. From LEAST on blocks pay: below, one call for
# each row is cheaper.
BLOCK = 32768
LEAST = 262144

UNARY = ("neg", "abs", "exp", "expm1", "log", "log1p", "sqrt", "tanh", "sin", "cos", "sigmoid")
BINARY = ("add", "sub", "mul", "div")
CLAMPS = {"maximum": "min", "minimum": "max"}
ORDERINGS = ("lt", "le", "gt", "ge", "eq", "ne")


# --- what emitted code calls ---------------------------------------------------------------------


def blank(x: Tensor, keep: Tensor) -> Tensor:
    """``x``, overwritten with 0 in the rows that ``keep`` leaves out."""
    if x.is_cpu and x.ndim > 1 and keep.shape[:-1] == x.shape[:-1] and x.is_contiguous():
        # By the numbers of the rows: a selection reads and writes every element again.
        rows = keep.reshape(-1).logical_not().nonzero().reshape(-1)
        x.view(-1, x.shape[-1]).index_fill_(0, rows, 0.0)
        return x
    return torch.where(keep, x, 0.0)


def block_size() -> int:
    """How many elements every operation of a loop takes."""
    return BLOCK * min(torch.get_num_threads(), 8)


def zeroed(x: Tensor, size: Tensor) -> Tensor:
    """``x``, and 0 where ``size`` is 0, whatever ``x`` is: in half the time of a selection."""
    return torch.ops.aten.threshold_backward(x, size, 0.0)  # type: ignore[no-any-return]


def take_(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """``x`` at ``index``, out of range NaN. On the CPU torch itself looks at every index, and
    refuses: looking first takes twice as long as taking."""
    if _row_wise(x, index, dim):
        try:
            return x.gather(-1, index)
        except (RuntimeError, IndexError):
            pass
    return gather(x, index, dim)


def _row_wise(x: Tensor, index: Tensor, dim: int) -> bool:
    """Whether ``index`` has one entry for each row of an ``x`` whose bounds torch looks after."""
    return (
        dim == -1
        and x.is_cpu
        and index.dtype == torch.int64
        and index.ndim == x.ndim
        and index.shape[-1] == 1
        and index.shape[:-1] == x.shape[:-1]
    )


def replace_(x: Tensor, index: Tensor, value: Tensor | float, dim: int) -> Tensor:
    """``x``, overwritten at ``index``; out of range any entry is, since the whole row is NaN."""
    if _row_wise(x, index, dim):
        if isinstance(value, Tensor):
            source: Tensor | float = value.expand(index.shape)
        elif index.numel() > 1024:
            # Of 65,536 rows torch scatters a number three times as slowly as a tensor.
            source = x.new_full(index.shape, value)
        else:
            source = value
        try:
            return x.scatter_(-1, index, source)
        except (RuntimeError, IndexError):
            pass  # the rows that were written already are written again
    shape = list(x.shape)
    shape[dim] = 1
    safe = index.long().clamp(0, max(x.shape[dim] - 1, 0)).expand(shape)
    if isinstance(value, Tensor):
        return x.scatter_(dim, safe, value.expand(shape))
    return x.scatter_(dim, safe, value)


def row_sum(x: Tensor) -> Tensor:
    """The sum over the last dimension, kept: short rows by a product with ones, which is quicker
    and adds as few numbers one after the other as the rows are short."""
    if x.is_cpu and 1 < x.shape[-1] <= 64 and x.numel() >= LEAST and x.is_contiguous():
        flat = x.view(-1, x.shape[-1]).mv(x.new_ones(x.shape[-1]))
        return flat.view(*x.shape[:-1], 1)
    return x.sum((-1,), keepdim=True)


def number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor: operations take it quicker than a Python number."""
    return torch.full((), value, dtype=dtype, device=device)


# --- writing -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Eager(Emitter):
    """Rows that write into operands nobody reads again; in blocks where the graph allows."""

    free: list[str] = dataclasses.field(default_factory=list)
    constants: dict[int, str] = dataclasses.field(default_factory=dict)
    overwritable: dict[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    readers: dict[int, set[int]] = dataclasses.field(default_factory=dict)

    def rows(self) -> None:
        order = [i for i, node in enumerate(self.graph.nodes) if node.op != "input"]
        self.overwritable = dying(self.graph, order)
        self.readers = readers(self.graph, order)
        super().rows()

    def dead(self, index: int) -> frozenset[int]:
        """The operands that a row may overwrite.

        A row that waits for a value which tells its sizes is written after others that follow it
        in the graph, and may still read what no row after those reads.
        """
        return frozenset(
            a
            for a in self.overwritable.get(index, ())
            if all(row == index or row in self.names for row in self.readers[a])
        )

    bare = False  # whether the factor of the gradients is given as a Python number, where it is one

    def result(self, name: str, index: int) -> str:
        if self.bare and name == "scale" and index in self.static:
            return self.names[index]
        return super().result(name, index)

    def _sized(self, node: Node) -> bool:
        return True if self.graph.layout == () else super()._sized(node)

    def row(self, index: int, node: Node) -> None:
        expression = self.in_place(index, node)
        if expression is None:
            super().row(index, node)
            return
        name = self.fresh()
        self.write(f"{name} = {expression}")
        self.names[index] = name

    def in_place(self, index: int, node: Node) -> str | None:
        """The row as an operation on one of its operands, where that may be overwritten."""
        if node.op == "sum" and self._short(node):
            return f"row_sum({self.names[node.args[0]]})"
        if node.op == "take" and node.type.axes and node.args[1] not in self.static:
            x = self.operands(node)
            return f"take_({x[0]}, {x[1]}, {self.dim(node.attr('axis'))})"
        if node.type.dtype != "real":
            return None
        dead = self.dead(index)
        if not dead or node.type.axes[0] != self.graph.layout[0]:
            return None  # without the first axis, values of one type may differ in rank
        x = self.operands(node)
        first = node.args[0] in dead and node.args.count(node.args[0]) == 1
        second = len(node.args) > 1 and node.args[1] in dead and node.args[0] != node.args[1]
        square = len(node.args) == 2 and node.args[0] == node.args[1] and node.args[0] in dead
        if node.op in UNARY and first:
            return f"{x[0]}.{node.op}_()"
        if node.op in BINARY:
            if first or square:
                return f"{x[0]}.{node.op}_({x[1]})"
            if second and node.op in ("add", "mul"):
                return f"{x[1]}.{node.op}_({x[0]})"
            if second and node.op == "sub":
                return f"{x[1]}.neg_().add_({x[0]})"
            if second and node.op == "div" and node.args[0] not in self.static:
                return f"torch.div({x[0]}, {x[1]}, out={x[1]})"
        if node.op in ("maximum", "minimum") and first and node.args[1] in self.static:
            return f"{x[0]}.clamp_{CLAMPS[node.op]}_({x[1]})"
        if node.op == "put" and first and node.args[1] not in self.static:
            return f"replace_({x[0]}, {x[1]}, {x[2]}, {self.dim(node.attr('axis'))})"
        return None

    def _short(self, node: Node) -> bool:
        """Whether a sum runs over the last dimension only."""
        over = node.attr("axes")
        return (
            len(over) == 1
            and over[0] == self.graph.layout[-1]
            and not is_star(over[0])
            and bool(node.type.axes)
        )


def _is_zero(node: Node) -> bool:
    return node.op == "const" and node.type.dtype == "real" and const_value(node) == 0.0


def _blanked(graph: Graph, node: Node) -> tuple[int, int] | None:
    """``(a, x)`` of where(a == 0, 0, x), all of one type: the derivative of a threshold, at |a|.

    A selection takes torch fifteen times as long as a product: 584 us for 131072 numbers, and the
    comparison 80; this takes 65, and a NaN in ``a`` is none of the zeros.
    """
    if node.op != "where" or not _is_zero(graph.nodes[node.args[1]]):
        return None
    same = graph.nodes[node.args[0]]
    if same.op != "eq" or not _is_zero(graph.nodes[same.args[1]]):
        return None
    a, x = same.args[0], node.args[2]
    return (a, x) if graph.nodes[a].type == graph.nodes[x].type == node.type else None


def _only_reader(graph: Graph, index: int) -> Node | None:
    """The row that reads another, if there is one only, and it is no output."""
    found = [node for node in graph.nodes for a in node.args if a == index]
    kept = any(index == row for _, row in graph.outputs)
    return found[0] if len(found) == 1 and not kept else None


@dataclasses.dataclass
class Whole(Eager):
    """All rows at once."""

    finite: dict[int, int] = dataclasses.field(default_factory=dict)
    zeroed: dict[int, int] = dataclasses.field(default_factory=dict)
    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    silent: set[int] = dataclasses.field(default_factory=set)

    def rows(self) -> None:
        self.finite, self.silent = _finite(self.graph)
        for index, node in enumerate(self.graph.nodes):
            blanked = _blanked(self.graph, node) if node.type.axes else None
            if blanked is not None and _only_reader(self.graph, node.args[0]) is not None:
                # The comparison becomes the size, at its own place: later rows may write into it.
                self.zeroed[index] = node.args[0]
                self.sizes[node.args[0]] = blanked[0]
        super().rows()

    def row(self, index: int, node: Node) -> None:
        if index in self.silent:
            self.names[index] = ""  # read by a row alone that is written without it
            return
        super().row(index, node)

    def in_place(self, index: int, node: Node) -> str | None:
        if index in self.finite:
            own = "_" if self.finite[index] in self.dead(index) else ""
            return f"{self.names[self.finite[index]]}.nan_to_num{own}(math.nan, 0.0, 0.0)"
        if index in self.zeroed:
            return f"zeroed({self.names[node.args[2]]}, {self.names[self.zeroed[index]]})"
        if index in self.sizes:
            return f"{self.names[self.sizes[index]]}.abs()"
        if node.op == "where" and self._blanks(index, node):
            return f"blank({self.names[node.args[1]]}, {self.names[node.args[0]]})"
        return super().in_place(index, node)

    def _blanks(self, index: int, node: Node) -> bool:
        """where(keep, x, 0) with a ``keep`` that lacks the last axis of an ``x`` nobody reads
        again. A selection may return its operand, so it is itself never overwritten."""
        keep, x, other = (self.graph.nodes[a] for a in node.args)
        return (
            _is_zero(other)
            and x.type == node.type
            and node.args[1] in self.dead(index)
            and node.type.axes == self.graph.layout
            and keep.type.axes == self.graph.layout[:-1]
        )


def _finite(graph: Graph) -> tuple[dict[int, int], set[int]]:
    """Rows ``where(abs(x) == inf, 0, x)``, one kernel in torch, by their ``x``; and the rows that
    nothing else reads then."""
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        for a in node.args:
            readers.setdefault(a, []).append(index)
    kept = {index for _, index in graph.outputs}
    found: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        if node.op != "where" or not node.type.axes:
            continue
        same, zero, x = (graph.nodes[a] for a in node.args)
        if same.op != "eq" or not _is_zero(zero) or x.type != node.type:
            continue
        size, limit = (graph.nodes[a] for a in same.args)
        if (
            limit.op == "const"
            and const_value(limit) == math.inf
            and size.op == "abs"
            and size.args[0] == node.args[2]
        ):
            found[index] = node.args[2]
    silent: set[int] = set()
    for index in found:
        same_row = graph.nodes[index].args[0]
        if same_row not in kept and set(readers[same_row]) <= found.keys():
            silent.add(same_row)
            size_row = graph.nodes[same_row].args[0]
            if size_row not in kept and readers[size_row] == [same_row]:
                silent.add(size_row)
    return found, silent


class Blocked(Eager):
    """The rows in a loop over slices of the flattened inputs."""

    def rows(self) -> None:
        graph = self.graph
        plan = blocks(graph)
        assert plan is not None
        flat = {index: self.names[index] for index in plan.inputs}
        for index in plan.head:
            self.row(index, graph.nodes[index])
        buffers = {index: self.fresh("g") for index in plan.gradients}
        first = flat[plan.inputs[0]]
        for name in buffers.values():
            self.write(f"{name} = torch.empty({first}.shape, dtype=dt, device=device)")
        for a in sorted({a for i in plan.body for a in graph.nodes[i].args}):
            # Numbers as tensors, once: each operation takes them quicker so.
            if a in self.static and graph.nodes[a].type.dtype == "real":
                self.constants[a] = self.fresh("k")
                self.write(f"{self.constants[a]} = number({self.names[a]}, dt, device)")
        parts = {index: self.fresh("s") for index in plan.totals}
        for name in parts.values():
            self.write(f"{name} = []")
        whole = dict(self.names)
        body = Body(self, plan, buffers, parts)
        lines, count = body.written()
        scratch = [f"r{k}" for k in range(count)]
        self.write("block = block_size()")
        for name in scratch:
            self.write(f"{name} = torch.empty(block, dtype=dt, device=device)")
        slices = [*(body.slices[i] for i in plan.inputs), *(f"{b}_" for b in buffers.values())]
        flats = [*flat.values(), *buffers.values()]
        pieces = ", ".join(f"{name}.view(-1).split(block)" for name in flats)
        self.write(f"for {', '.join(slices)}{',' if len(slices) == 1 else ''} in zip({pieces}):")
        if scratch:
            self.write(f"    if {slices[0]}.shape[0] < block:")
            short = ", ".join(f"{name}[: {slices[0]}.shape[0]]" for name in scratch)
            self.write(f"        {', '.join(scratch)} = {short}")
        self.lines.extend(lines)
        self.names = whole
        for index, name in parts.items():
            total = self.fresh()
            self.write(f"{total} = torch.stack({name}).sum()")
            self.names[index] = total
        for index, name in buffers.items():
            self.names[index] = name
        for index in plan.tail:
            super().row(index, graph.nodes[index])


class Body:
    """The inside of the loop: every row writes into a buffer of the block's size."""

    def __init__(
        self, outer: Blocked, plan: Blocks, buffers: dict[int, str], parts: dict[int, str]
    ) -> None:
        self.outer, self.plan, self.buffers, self.parts = outer, plan, buffers, parts
        graph = outer.graph
        self.nodes = graph.nodes
        self.slices = {i: f"b{k}" for k, i in enumerate(plan.inputs)}
        self.uses: dict[int, int] = {}
        for index in (*plan.body, *plan.totals):
            for a in set(graph.nodes[index].args):
                self.uses[a] = self.uses.get(a, 0) + 1
        self.kept = set(plan.gradients)
        self.place: dict[int, str] = {}  # which buffer a row of this block is in
        self.free: list[str] = [f"{name}_" for name in buffers.values()]
        self.made = 0
        self.lines: list[str] = []
        self.spent: set[str] = set()  # gradient buffers that hold their gradient

    def written(self) -> tuple[list[str], int]:
        totals: dict[int, list[int]] = {}
        for index in self.plan.totals:
            totals.setdefault(self.nodes[index].args[0], []).append(index)
        for index in self._order():
            if not self._merged(index):
                self._row(index)
            for total in totals.get(index, ()):
                self._say(f"{self.parts[total]}.append({self._name(index)}.sum())")
                self._release(index)
        for index in self.plan.inputs:
            for total in totals.get(index, ()):
                self._say(f"{self.parts[total]}.append({self._name(index)}.sum())")
        return self.lines, self.made

    def _order(self) -> Sequence[int]:
        return self.plan.body

    def _say(self, line: str) -> None:
        self.lines.append(f"{self.outer.indent}    {line}")

    def _name(self, index: int) -> str:
        if index in self.slices:
            return self.slices[index]
        if index in self.place:
            return self.place[index]
        return self.outer.constants.get(index) or self.outer.names[index]

    def _plain(self, index: int) -> str:
        """An operand that an operation takes as a Python number, where it is one."""
        return self.outer.names[index] if index in self.outer.static else self._name(index)

    def _merged(self, index: int) -> bool:
        """A comparison that is only wanted as floats is written as floats."""
        node = self.nodes[index]
        if node.op == "mul":
            reader = _only_reader(self.outer.graph, index)
            return reader is not None and self._added(reader) == index
        if node.op not in ORDERINGS:
            return False
        readers = [i for i in (*self.plan.body, *self.plan.totals) if index in self.nodes[i].args]
        if len(readers) == 1 and self._blanked(readers[0]) is not None:
            return True
        return bool(readers) and all(self.nodes[i].op == "indicator" for i in readers)

    def _added(self, node: Node) -> int | None:
        """A product of two full values that only this row reads, which adds it to a third."""
        if node.op not in ("add", "sub") or node.type.axes != self.outer.graph.layout:
            return None
        for k in (1, 0) if node.op == "add" else (1,):
            product, other = node.args[k], node.args[1 - k]
            full = [
                self.nodes[a].type == node.type and a not in self.outer.static
                for a in (other, *self.nodes[product].args)
            ]
            if (
                self.nodes[product].op == "mul"
                and product not in (*self.plan.inputs, *self.plan.totals)
                and all(full)
                and _only_reader(self.outer.graph, product) is node
            ):
                return product
        return None

    def _blanked(self, index: int) -> tuple[int, int] | None:
        """The operands of a row that is where(a == 0, 0, x), nothing else reading a == 0."""
        found = _blanked(self.outer.graph, self.nodes[index])
        if found is None or _only_reader(self.outer.graph, self.nodes[index].args[0]) is None:
            return None
        return found

    def _release(self, index: int) -> None:
        self.uses[index] -= 1
        if not self.uses[index] and index in self.place and index not in self.kept:
            name = self.place[index]
            if name not in self.free and name[0] in "rg":
                self.free.append(name)

    def _target(self, index: int, operands: Sequence[int]) -> str:
        """Where a row goes: into its gradient's buffer, an operand that dies, or a free buffer."""
        own = f"{self.buffers[index]}_" if index in self.buffers else None
        if own is not None and own in self.free:
            self.free.remove(own)
            return own
        for a in operands:
            if (
                a in self.place
                and not self.uses[a]
                and a not in self.kept
                and (self.place[a] in self.free)
                and (own is None or own == self.place[a])
            ):
                self.free.remove(self.place[a])
                return self.place[a]
        for name in self.free:
            if own is None:
                self.free.remove(name)
                return name
        self.made += 1
        return f"r{self.made - 1}"

    def _scratch(self, index: int) -> str:
        """A buffer that holds nothing any more: not the row's own, nor one of its operands'."""
        taken = {self.place.get(a) for a in self.nodes[index].args}
        taken |= {self.place.get(a) for a in self.nodes[self.nodes[index].args[0]].args}
        for name in self.free:
            if name not in taken:
                return name
        self.made += 1
        self.free.append(f"r{self.made - 1}")
        return self.free[-1]

    def _row(self, index: int) -> None:
        node = self.nodes[index]
        operands: list[int] = list(node.args)
        blanked = self._blanked(index)
        if blanked is not None:
            operands = [blanked[1], blanked[0]]
        if node.op == "indicator" and self._merged(node.args[0]):
            operands = list(self.nodes[node.args[0]].args)
        product = self._added(node)
        if product is not None:
            third = next(a for a in node.args if a != product)
            operands = [third, *self.nodes[product].args]
        for a in set(node.args):
            self._release(a)
        if blanked is not None:
            self._release(blanked[0])
        elif product is not None:
            for a in set(self.nodes[product].args):
                self._release(a)
        elif operands != list(node.args):
            for a in set(operands):
                self._release(a)
        known = {
            a: self._name(a)
            for a in operands
            if a not in self.outer.static or a in self.outer.constants
        }
        template = self._template(node, operands)
        if template is None or node.type.dtype != "real":
            entry = self.outer.lowering.table[node.op]
            x = [self._plain(a) for a in node.args]
            expression = entry.format(*x) if isinstance(entry, str) else entry(self.outer, node, x)
            name = self.outer.fresh("b")
            self._say(f"{name} = {expression}")
            self.place[index] = name
        else:
            name = self._target(index, operands)
            x = [known.get(a, "") or self._name(a) for a in operands]
            scratch = ""
            if blanked is not None:
                scratch = self._scratch(index)
                self._say(f"torch.abs({x[1]}, out={scratch})")
            self._say(
                template.format(
                    *x,
                    out=name,
                    scratch=scratch,
                    **{f"p{k}": self._plain(a) for k, a in enumerate(operands)},
                )
            )
            self.place[index] = name
        if index in self.buffers and self.place[index] != f"{self.buffers[index]}_":
            self._say(f"{self.buffers[index]}_.copy_({self.place[index]})")

    def _template(self, node: Node, operands: Sequence[int]) -> str | None:
        static = [a in self.outer.static for a in operands]
        tensors = [a in self.slices or a in self.place for a in operands]
        op = node.op
        if op == "where" and len(operands) == 2:
            return (
                "torch.ops.aten.threshold_backward.grad_input"
                "({0}, {scratch}, 0.0, grad_input={out})"
            )
        if op in UNARY:
            return f"torch.{op}({{0}}, out={{out}})"
        if op in ("add", "sub") and len(operands) == 3:
            sign = "" if op == "add" else ", value=-1"
            return f"torch.addcmul({{0}}, {{1}}, {{2}}{sign}, out={{out}})"
        if op in BINARY:
            return f"torch.{op}({{0}}, {{1}}, out={{out}})"
        if op in ("maximum", "minimum"):
            for k in (0, 1):
                if static[k]:
                    return f"torch.clamp_{CLAMPS[op]}({{{1 - k}}}, {{p{k}}}, out={{out}})"
            return f"torch.{op}({{0}}, {{1}}, out={{out}})"
        if op == "indicator" and len(operands) == 2:
            compare = self.nodes[node.args[0]].op
            if tensors[0]:
                return f"torch.{compare}({{0}}, {{1}}, out={{out}})"
            return None
        if op == "clip" and static[1] and static[2]:
            return "torch.clamp({0}, {p1}, {p2}, out={out})"
        if op == "pow" and tensors[0] and static[1]:
            exponent = (
                float(const_value(self.nodes[operands[1]]))
                if (self.nodes[operands[1]].op == "const")
                else None
            )
            if exponent == 4.0:
                return "torch.square({0}, out={out}).square_()"
            return "torch.pow({0}, {p1}, out={out})"
        if op == "where":
            return "torch.where({0}, {1}, {2}, out={out})"
        return None


# --- choosing ------------------------------------------------------------------------------------

_HELPERS: tuple[Callable[..., Any], ...] = (
    *LOWERING.helpers,
    blank,
    zeroed,
    block_size,
    take_,
    replace_,
    row_sum,
    number,
)
WHOLE = dataclasses.replace(
    LOWERING,
    namespace={**LOWERING.namespace, "LEAST": LEAST, "BLOCK": BLOCK},
    helpers=_HELPERS,
    emitter=Whole,
)
BLOCKED: Lowering = dataclasses.replace(WHOLE, emitter=Blocked)


class BareWhole(Whole):
    """As ``Whole``, the factor of the gradients a Python number."""

    bare = True


class BareBlocked(Blocked):
    """As ``Blocked``, the factor of the gradients a Python number."""

    bare = True


BARE_WHOLE = dataclasses.replace(WHOLE, emitter=BareWhole)
BARE_BLOCKED = dataclasses.replace(WHOLE, emitter=BareBlocked)


def owns_results(graph: Graph) -> bool:
    """Whether no output can be an input, a view, or another output: all come from operations that
    write into memory of their own."""
    makes = {*UNARY, *BINARY, "where", "put", "maximum", "minimum", "pow", "sum"}
    for name, index in graph.outputs:
        node = graph.nodes[index]
        if node.op not in makes or node.type.axes not in ((), graph.layout):
            return False
        if node.op == "sum" and node.type.axes:
            return False
        if node.op == "where" and name != "scale" and not graph.nodes[node.args[0]].type.axes:
            return False  # a selection by a number is one of its operands
    places = [index for name, index in graph.outputs if name != "scale"]
    orders = {n: graph.nodes[i].attr("order") for n, i in graph.inputs()}
    return len(set(places)) == len(places) and all(
        tuple(orders.get(name.removeprefix("gradient_"), graph.layout)) == graph.layout
        for name, _ in graph.outputs
    )


@functools.lru_cache(maxsize=1024)
def settled(graph: Graph) -> Graph | None:
    """The graph for labels that all lie in range: none is ignored. None where it is the same.

    Labels on the CPU are looked at before the call. For 65,536 rows of 10 classes the selections
    that an ``ignore_index`` asks for were a tenth of the time.
    """
    b = Builder(graph.layout)
    values: list[Expr] = []
    always: set[int] = set()  # rows that are True everywhere
    same: dict[int, int] = {}  # rows that hold one constant everywhere
    for index, node in enumerate(graph.nodes):
        args = [values[a] for a in node.args]
        if node.op in ("input", "const"):
            value = b.row(node.op, (), node.attrs, node.type)
            if node.op == "const":
                same[index] = index
        elif _differs(graph, node):
            always.add(index)
            value = b.op("broadcast", b.const(True, "bool"), axes=node.type.axes)
        elif node.op == "where" and node.args[0] in always:
            value = args[1]
            if node.args[1] in same:
                same[index] = same[node.args[1]]
                value = b.op("broadcast", value, axes=node.type.axes)
        elif node.op == "sum" and node.args[0] in same and not node.type.axes:
            value = values[same[node.args[0]]]
            for axis in node.attr("axes"):
                value = value * b.op("size", axis=axis)
        else:
            value = b.op(node.op, *args, **dict(node.attrs))
        values.append(value)
    if not always:
        return None
    return verify(canonicalise(b.finish(**{name: values[i] for name, i in graph.outputs})))


def _differs(graph: Graph, node: Node) -> bool:
    """Whether a row asks if labels differ from a number that no label in range is."""
    if node.op != "ne":
        return False
    labels, number = (graph.nodes[a] for a in node.args)
    return (
        labels.op == "input"
        and labels.attr("kind").startswith("index(")
        and number.op == "const"
        and const_value(number) < 0
    )


@functools.lru_cache(maxsize=1024)
def eager_function(
    graph: Graph, name: str = "loss", bare: bool = False
) -> Callable[..., tuple[Any, ...]]:
    """The function of a graph for eager tensors: blocked where that is possible and pays."""
    lowering = BARE_WHOLE if bare else WHOLE
    whole = load(emit(graph, lowering, name), lowering, name)
    plan = blocks(graph)
    if plan is None:
        return whole
    lowering = BARE_BLOCKED if bare else BLOCKED
    blocked = load(emit(graph, lowering, name), lowering, name)
    numbers = {index: k for k, (_, index) in enumerate(graph.inputs())}
    places = tuple(numbers[i] for i in plan.inputs)

    def run(*inputs: Tensor) -> Any:
        first = inputs[places[0]]
        if (
            first.numel() >= LEAST
            and first.is_cpu
            and all(inputs[k].is_contiguous() for k in places)
        ):
            return blocked(*inputs)
        return whole(*inputs)

    return run
