"""Graph -> source text of one function, through a platform's table.

What a table entry gives is an expression over generated names; numbers are exact; nothing from a
specification is ever spliced in. The source is real: it is registered with ``linecache`` so that
tracebacks show it, and it is what ``eject`` writes.
"""

from __future__ import annotations

import inspect
import linecache
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from lossbridge.ir import Graph, Node, const_value, is_star
from lossbridge.ops import OPS

Entry: TypeAlias = "str | Callable[[Emitter, Node, list[str]], str]"

STATIC_ARITHMETIC = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
}


@dataclass(frozen=True)
class Lowering:
    """A platform's table: primitive -> native call.

    ``table`` maps each primitive to a template over its operands (``"torch.exp({0})"``) or to a
    function that returns the expression. ``helpers`` are the run-time functions that the table's
    expressions call; ``eject`` copies their source. ``native`` names the composites that this
    platform has a kernel for (the others arrive expanded). ``emitter`` is a platform's own writer
    of rows, where keeping singleton dimensions costs it speed.
    """

    name: str
    table: Mapping[str, Entry]
    imports: tuple[str, ...]
    namespace: Mapping[str, Any]
    helpers: tuple[Callable[..., Any], ...] = ()
    native: frozenset[str] = frozenset()
    literal: Callable[[float | int | bool], str] = repr
    prologue: Callable[[str], tuple[str, ...]] = lambda first: ()
    whole_prologue: Callable[[str], tuple[str, ...]] | None = None  # where no input is real
    transpose: str = "{0}.transpose({1})"
    squeeze: str = "{0}.squeeze({1})"
    reshape_like: str = "{0}.reshape({1}.shape)"
    emitter: Callable[[Graph, Lowering], Emitter] | None = None


@dataclass
class Emitter:
    """Writes one function; knows where the axes lie and which values carry which axes."""

    graph: Graph
    lowering: Lowering
    indent: str = "    "
    lines: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    static: set[int] = field(default_factory=set)
    rank: str | None = None  # expression for the rank of aligned values, where a group has any
    counter: list[int] = field(default_factory=lambda: [0])
    outer: Emitter | None = None  # of a recursion's body: what writes the function around it

    # --- axes
    def _split(self) -> tuple[list[str], str | None, list[str]]:
        layout = self.graph.layout
        star = next((a for a in layout if is_star(a)), None)
        if star is None:
            return list(layout), None, []
        at = layout.index(star)
        return list(layout[:at]), star, list(layout[at + 1 :])

    def dim(self, axis: str) -> int:
        """The dimension of a named axis: from the left before the group, else from the right."""
        left, _, right = self._split()
        if axis in left:
            return left.index(axis) - (len(left) if self._split()[1] is None else 0)
        return right.index(axis) - len(right)

    def dims(self, axes: tuple[str, ...]) -> str:
        """A tuple expression of dimensions."""
        left, star, right = self._split()
        fixed = [str(self.dim(a)) for a in self.graph.layout if a in axes and not is_star(a)]
        if star is None or star not in axes:
            return f"({', '.join(fixed)},)"
        group = f"*range({len(left)}, {self.rank} - {len(right)})"
        return f"({', '.join([group, *fixed])},)"

    def carrier(self, axis: str) -> str:
        """A value already at hand that has this axis at full rank."""
        star = self._split()[1]
        best: str | None = None
        for index, name in self.names.items():
            node = self.graph.nodes[index]
            if axis in node.type.axes and index not in self.static:
                if star is None or star in node.type.axes:
                    return name
                best = best or name
        if best is None:
            if self.outer is None:
                raise AssertionError(f"no value carries axis {axis}")
            return self.outer.carrier(axis)
        return best

    def shape(self, axes: Sequence[str]) -> str:
        """The shape of a value with these axes, from the lengths of values at hand."""
        left, _, right = self._split()
        parts: list[str] = []
        for axis in self.graph.layout:
            if not is_star(axis):
                here = axis in axes
                parts.append(f"{self.carrier(axis)}.shape[{self.dim(axis)}]" if here else "1")
            elif axis in axes:
                parts.append(f"*{self.carrier(axis)}.shape[{len(left)}:{self.rank} - {len(right)}]")
            else:
                parts.append(f"*(1,) * ({self.rank} - {len(left) + len(right)})")
        return f"({', '.join(parts)},)"

    def like(self, axes: tuple[str, ...]) -> list[str]:
        """Values at hand whose axes together are these."""
        wanted = set(axes)
        chosen: list[str] = []
        covered: set[str] = set()
        candidates = sorted(
            (
                i
                for i in self.names
                if i not in self.static and set(self.graph.nodes[i].type.axes) <= wanted
            ),
            key=lambda i: -len(self.graph.nodes[i].type.axes),
        )
        for index in candidates:
            found = set(self.graph.nodes[index].type.axes)
            if not found <= covered:
                chosen.append(self.names[index])
                covered |= found
            if covered == wanted:
                return chosen
        raise AssertionError(f"no values carry the axes {axes}")

    # --- names and lines
    def fresh(self, prefix: str = "v") -> str:
        self.counter[0] += 1
        return f"{prefix}{self.counter[0]}"

    def write(self, line: str) -> None:
        self.lines.append(self.indent + line)

    def operands(self, node: Node) -> list[str]:
        """The expressions that a row's table entry is given."""
        return [self.names[a] for a in node.args]

    def measure(self, argument: str, node: Node) -> None:
        """Write how many dimensions aligned values have, as an argument with the group tells it."""
        extra = len(self.graph.layout) - len(node.attr("order"))
        self.write(f"rank = {argument}.ndim + {extra}" if extra else f"rank = {argument}.ndim")
        self.rank = "rank"

    def results(self, arguments: Mapping[str, str]) -> list[str]:
        """The outputs as the caller sees them."""
        return _results(self, arguments)

    # --- rows
    def rows(self) -> None:
        """Every row once, each after its operands and after a value that tells its sizes."""
        waiting = [i for i, node in enumerate(self.graph.nodes) if node.op != "input"]
        while waiting:
            later: list[int] = []
            for index in waiting:
                node = self.graph.nodes[index]
                if all(a in self.names for a in node.args) and self._sized(node):
                    self.row(index, node)
                else:
                    later.append(index)
            if later == waiting:
                later.remove(self._by_lengths(waiting))
            waiting = later

    def _by_lengths(self, waiting: Sequence[int]) -> int:
        """Write the first row that can be, now that none waits for a value of its own shape."""
        for index in waiting:
            node = self.graph.nodes[index]
            if all(a in self.names for a in node.args):
                try:
                    self.row(index, node)
                except AssertionError:
                    continue
                return index
        raise AssertionError("no value at hand tells the sizes that the rest needs")

    def _sized(self, node: Node) -> bool:
        if node.op in ("iota", "size"):
            wanted = {node.attr("axis")}
        elif node.op == "broadcast":
            wanted = set(node.type.axes)
        else:
            return True
        have: set[str] = set()
        for index in self.names:
            found = self.graph.nodes[index].type.axes
            if index not in self.static and (node.op != "broadcast" or set(found) <= wanted):
                have.update(found)
        return wanted <= have

    def align(self, name: str, node: Node) -> str:
        """The caller's array, brought to the layout: transposed, and singletons inserted."""
        order: tuple[str, ...] = node.attr("order")
        left, star, right = self._split()
        source = [a for a in self.graph.layout if a in order]
        if list(order) != source:
            # A transposition moves named axes only; the group keeps its place among them.
            if star in order:
                raise AssertionError("an axis group keeps its place; declare the axes in order")
            name = self.lowering.transpose.format(name, tuple(order.index(a) for a in source))
        if not order or tuple(source) == self.graph.layout:
            return name
        parts: list[str] = []
        for axis in left:
            parts.append(":" if axis in order else "None")
        if star is not None and (star in order or any(a in order for a in left)):
            parts.append("...")
        tail = [":" if a in order else "None" for a in right]
        if star is None or star in order:
            return f"{name}[{', '.join(parts + tail)}]"
        if any(a in order for a in left):
            # The group's singletons: its rank is known only when the function runs.
            width = f"({self.rank} - {len(left) + len(right)})"
            slots = ", ".join("slice(None)" if a in order else "None" for a in left)
            rest = ", ".join("slice(None)" if a in order else "None" for a in right)
            return f"{name}[({slots},) + (None,) * {width} + ({rest}{',' if rest else ''})]"
        while tail and tail[0] == "None":
            tail.pop(0)
        return f"{name}[{', '.join(tail)}]" if "None" in tail else name

    def row(self, index: int, node: Node) -> None:
        if node.op == "const":
            value = const_value(node)
            self.names[index] = self.lowering.literal(value)
            self.static.add(index)
            return
        args = self.operands(node)
        static = bool(node.args) and all(a in self.static for a in node.args)
        if static and node.op in STATIC_ARITHMETIC:
            expression = f"({args[0]} {STATIC_ARITHMETIC[node.op]} {args[1]})"
        elif static and node.op == "div":
            expression = f"_ratio({args[0]}, {args[1]})"
        elif static and node.op == "neg":
            expression = f"(-{args[0]})"
        elif static and node.op == "maximum":
            expression = f"max({args[0]}, {args[1]})"
        elif node.op == "where" and node.args[0] in self.static:
            static = all(a in self.static for a in node.args)
            # One branch a tensor and the other a number would make the type depend on the shape:
            # a mean over nothing that counts as 0 was a Python float.
            mixed = not static and any(a in self.static for a in node.args[1:])
            one, other = (
                self.constant(node, name) if mixed and a in self.static else name
                for a, name in zip(node.args[1:], args[1:], strict=True)
            )
            expression = f"({one} if {args[0]} else {other})"
        elif node.op == "broadcast":
            expression = self.broadcast(node, args[0])
            static = False
        else:
            if static and OPS[node.op].elementwise:
                # The logarithm of a number of classes: functions take no Python number.
                nodes = (self.graph.nodes[a] for a in node.args)
                args = [self.constant(n, x) for n, x in zip(nodes, args, strict=True)]
            static = False
            entry = self.lowering.table[node.op]
            expression = entry.format(*args) if isinstance(entry, str) else entry(self, node, args)
        name = self.fresh()
        self.write(f"{name} = {expression}")
        self.names[index] = name
        if static or node.op == "size":
            self.static.add(index)

    def broadcast(self, node: Node, x: str) -> str:
        entry = self.lowering.table["broadcast"]
        assert not isinstance(entry, str)
        try:
            like = self.like(node.type.axes)
        except AssertionError:
            like = []  # the entry asks for the shape
        return entry(self, node, [x, *like])

    def constant(self, node: Node, number: str) -> str:
        """A number that Python knows, as a tensor of the type of ``node``."""
        tensor = self.lowering.table["constant"]
        return tensor.format(number) if isinstance(tensor, str) else tensor(self, node, [number])

    def result(self, name: str, index: int) -> str:
        """An output as the caller sees it: singletons dropped, axes in the declared order."""
        node = self.graph.nodes[index]
        expression = self.names[index]
        if index in self.static:
            expression = self.constant(node, expression)
            if not node.type.axes:
                return expression
        axes = node.type.axes
        if name.startswith("gradient_"):
            return expression
        missing = tuple(a for a in self.graph.layout if a not in axes)
        if not missing or not axes:
            return expression
        return self.lowering.squeeze.format(expression, self.dims(missing))


def vanishing_reciprocal(divisor: Node) -> bool:
    """Whether a number has a subnormal reciprocal in float32: compilers multiply with that, and it
    is flushed to 0. Divided by 3e38, 1e38 was 0."""
    return divisor.op == "const" and 2.0**126 < abs(float(const_value(divisor))) < math.inf


@dataclass
class CompactEmitter(Emitter):
    """Writes rows whose values have just their own axes, in layout order, and no singletons.

    For platforms whose compiler vectorises the last dimension: next to [65536, 10], rows of
    [65536, 1] take twice the time of rows of [65536]. A platform says how its arrays gain
    singletons, are transposed, measured and filled; where axes lie is found here.
    """

    expansions: dict[str, str] = field(default_factory=dict)
    promotes: ClassVar[bool] = True  # whether leading axes may be left to broadcasting

    # --- what a platform says
    def expand(self, name: str, dims: str) -> str:
        """A value with singleton dimensions at these places of the result."""
        raise NotImplementedError

    def length(self, axis: str) -> str:
        """How long a named axis is."""
        raise NotImplementedError

    def filled(self, name: str, index: int, node: Node) -> str:
        """A value repeated along those axes of ``node`` that it lacks."""
        raise NotImplementedError

    # --- where axes lie
    def axes(self, index: int) -> tuple[str, ...]:
        """The axes of a row, which are the dimensions of its value."""
        return self.graph.nodes[index].type.axes

    def place(self, axes: Sequence[str], axis: str) -> str:
        """The dimension of ``axis`` in a value with ``axes``; a group is several of them."""
        at = list(axes).index(axis)
        if is_star(axis):
            return f"*range({at}, {at} + group)" if at else "*range(group)"
        after_group = any(is_star(a) for a in axes[:at])
        return str(at - len(axes) if after_group else at)

    def places(self, axes: Sequence[str], wanted: Sequence[str]) -> str:
        """Several of them, as a tuple."""
        found = [self.place(axes, a) for a in axes if a in wanted]
        return f"({', '.join(found)}{',' if len(found) == 1 else ''})"

    def quotient(self, node: Node, x: list[str]) -> str:
        """A division: by ``divided``, a helper of the platform's, where XLA would not divide.

        Where the divisor is repeated, XLA multiplies with its reciprocal, which rounds twice, and
        is subnormal and so 0 beyond 2^126: the cosine of two vectors of length 2^126.5 was 0. A
        sum of exponentials gains nothing from it and would pay.
        """
        divisor = self.graph.nodes[node.args[1]]
        if vanishing_reciprocal(divisor) and node.args[0] not in self.static:
            return f"divided({x[0]}, {x[1]})"
        repeated = set(divisor.type.axes) < set(node.type.axes) and node.args[1] not in self.static
        if repeated and not self._of_exponentials(node.args[1]):
            return f"divided({x[0]}, {x[1]})"
        return f"{x[0]} / {x[1]}"

    def _of_exponentials(self, index: int) -> bool:
        node = self.graph.nodes[index]
        if node.op in ("add", "sum", "where", "put"):
            return any(self._of_exponentials(a) for a in node.args)
        return node.op == "exp"

    def measure(self, argument: str, node: Node) -> None:
        named = len(node.attr("order")) - 1
        self.write(f"group = {argument}.ndim - {named}" if named else f"group = {argument}.ndim")
        self.rank = "group"

    def expanded(self, name: str, have: Sequence[str], wanted: Sequence[str]) -> str:
        """A value with singletons where it lacks an axis that broadcasting would not add."""
        missing = [a for a in wanted if a not in have]
        if not missing or not have:
            return name
        if self.promotes and list(wanted[len(missing) :]) == list(have):
            return name
        expression = self.expand(name, self.places(wanted, missing))
        if expression not in self.expansions:
            self.expansions[expression] = self.fresh("e")
            self.write(f"{self.expansions[expression]} = {expression}")
        return self.expansions[expression]

    def ordered(self, name: str, have: Sequence[str], wanted: Sequence[str]) -> str:
        """A value with its dimensions in another order."""
        if list(have) == list(wanted):
            return name
        order = ", ".join(self.place(have, a) for a in wanted)
        return self.lowering.transpose.format(name, f"({order},)")

    def held(self, axis: str) -> tuple[str, tuple[str, ...]]:
        """A value at hand that has this axis, and all its axes."""
        for index, name in self.names.items():
            if axis in self.axes(index) and index not in self.static:
                return name, self.axes(index)
        if not isinstance(self.outer, CompactEmitter):
            raise AssertionError(f"no value carries axis {axis}")
        return self.outer.held(axis)

    # --- what the writing of rows asks for
    def _sized(self, node: Node) -> bool:
        if node.op in ("iota", "size", "scan"):
            try:
                self.held(node.attr("axis"))
            except AssertionError:
                return False
            return True
        chosen = node.op == "where" and node.args[0] in self.static and node.type.axes
        if node.op != "broadcast" and not chosen:
            return True
        try:
            self.like(node.type.axes)
        except AssertionError:
            return False
        return True

    def align(self, name: str, node: Node) -> str:
        order: tuple[str, ...] = node.attr("order")
        return self.ordered(name, order, [a for a in self.graph.layout if a in order])

    def operands(self, node: Node) -> list[str]:
        args = [self.names[a] for a in node.args]
        if len(args) < 2 or not OPS[node.op].elementwise:
            return args
        axes = node.type.axes
        if node.op == "where" and node.args[0] in self.static and axes:
            # The choice is made when the function is traced; either side has the result's shape.
            return [
                args[0],
                *(
                    name
                    if self.axes(a) == axes and a not in self.static
                    else self.filled(name, a, node)
                    for name, a in zip(args[1:], node.args[1:], strict=True)
                ),
            ]
        return [
            name if a in self.static else self.expanded(name, self.axes(a), axes)
            for name, a in zip(args, node.args, strict=True)
        ]

    def broadcast(self, node: Node, x: str) -> str:
        return self.filled(x, node.args[0], node)

    def results(self, arguments: Mapping[str, str]) -> list[str]:
        sources = dict(self.graph.inputs())
        results: list[str] = []
        for name, index in self.graph.outputs:
            node, expression = self.graph.nodes[index], self.names[index]
            if index in self.static:
                expression = self.constant(node, expression)
            of = name.removeprefix("gradient_")
            if name != of and of in sources:
                order = self.graph.nodes[sources[of]].attr("order")
                expression = self.ordered(expression, node.type.axes, order)
            results.append(expression)
        return results

    def nested(self, node: Node) -> str:
        """The name of a nested function for a recursion's body: (carry, captures...) -> carry."""
        body: Graph = node.attr("body")
        name = self.fresh("step")
        inner = type(self)(
            body,
            self.lowering,
            self.indent + "    ",
            self.lines,
            counter=self.counter,
            rank=self.rank,
            outer=self,
        )
        inputs = sorted(body.inputs(), key=lambda i: -1 if i[0] == "carry" else int(i[0][1:]))
        for key, index in inputs:
            inner.names[index] = self.fresh("p" if key == "carry" else "q")
            if key != "carry" and node.args[1 + int(key[1:])] in self.static:
                inner.static.add(index)
        self.write(f"def {name}({', '.join(inner.names[i] for _, i in inputs)}):")
        inner.rows()
        carry = body.output("carry")
        result = inner.names[carry]
        if carry in inner.static:
            result = inner.constant(body.nodes[carry], result)
        inner.write(f"return {result}")
        return name


def emit(graph: Graph, lowering: Lowering, name: str, doc: str = "") -> str:
    """The source of a function from the graph's inputs, in order, to a tuple of its outputs."""
    emitter = (lowering.emitter or Emitter)(graph, lowering)
    inputs = [(n, i) for n, i in graph.inputs()]
    arguments = {n: f"x{k}" for k, (n, _) in enumerate(inputs)}
    head = f"def {name}({', '.join(arguments.values())}):"
    note = [f"{arguments[n]}: {n} {graph.nodes[i].attr('kind')}" for n, i in inputs]
    emitter.lines.append(head)
    emitter.write(f'"""{doc or "Generated by lossbridge."}"""')
    for line in note:
        emitter.write(f"# {line}")
    emit_rows(emitter, arguments)
    emitter.write(f"return ({', '.join(emitter.results(arguments))},)")
    return "\n".join(emitter.lines) + "\n"


def _results(emitter: Emitter, arguments: Mapping[str, str]) -> list[str]:
    graph = emitter.graph
    sources = dict(graph.inputs())
    results: list[str] = []
    for name, index in graph.outputs:
        expression = emitter.result(name, index)
        of = name.removeprefix("gradient_")
        if name != of and of in sources:
            node = graph.nodes[sources[of]]
            order: tuple[str, ...] = node.attr("order")
            source = [a for a in graph.layout if a in order]
            if order and tuple(source) != graph.layout:
                if list(order) != source:
                    missing = tuple(a for a in graph.layout if a not in order)
                    if missing:
                        expression = emitter.lowering.squeeze.format(
                            expression, emitter.dims(missing)
                        )
                    expression = emitter.lowering.transpose.format(
                        expression, tuple(source.index(a) for a in order)
                    )
                else:
                    expression = emitter.lowering.reshape_like.format(expression, arguments[of])
            elif list(order) != source:
                expression = emitter.lowering.transpose.format(
                    expression, tuple(source.index(a) for a in order)
                )
        results.append(expression)
    return results


def emit_rows(emitter: Emitter, arguments: Mapping[str, str]) -> None:
    """Prologue and one line a row."""
    graph, lowering = emitter.graph, emitter.lowering
    star = next((a for a in graph.layout if is_star(a)), None)
    real_first: str | None = None
    for name, index in graph.inputs():
        node = graph.nodes[index]
        if node.type.dtype == "real" and real_first is None:
            real_first = arguments[name]
        if star is not None and star in node.type.axes and emitter.rank is None:
            emitter.measure(arguments[name], node)
    prologue = lowering.prologue if real_first is not None else lowering.whole_prologue
    for line in (prologue or lowering.prologue)(real_first or "x0"):
        emitter.write(line)
    for name, index in graph.inputs():
        expression = emitter.align(arguments[name], graph.nodes[index])
        if expression != arguments[name]:
            aligned = emitter.fresh("a")
            emitter.write(f"{aligned} = {expression}")
            expression = aligned
        emitter.names[index] = expression
    emitter.rows()


def emit_body(outer: Emitter, node: Node, name: str) -> None:
    """A nested function for the body of a recursion: (carry, captures...) -> carry."""
    body: Graph = node.attr("body")
    arguments = {n: f"{'p' if n == 'carry' else 'q'}{outer.fresh('')}" for n, _ in body.inputs()}
    # Values lie as the outer function's do, whose layout may have gained axes since.
    body = Graph(outer.graph.layout, body.nodes, body.outputs)
    inner = (outer.lowering.emitter or Emitter)(body, outer.lowering)
    inner.indent, inner.lines, inner.outer = outer.indent + "    ", outer.lines, outer
    inner.counter, inner.rank = outer.counter, outer.rank
    ordered = ["carry", *sorted((n for n in arguments if n != "carry"), key=lambda n: int(n[1:]))]
    outer.write(f"def {name}({', '.join(arguments[n] for n in ordered)}):")
    for n, index in body.inputs():
        inner.names[index] = arguments[n]
        if n != "carry" and node.args[1 + int(n[1:])] in outer.static:
            inner.static.add(index)
    inner.rows()
    carry = body.output("carry")
    result = inner.names[carry]
    if carry in inner.static:
        result = inner.constant(body.nodes[carry], result)
    inner.write(f"return {result}")


def _ratio(a: float, b: float) -> float:
    """a / b as IEEE has it: sizes are plain numbers, and an empty batch divides by 0."""
    if b == 0:
        return float("nan") if a == 0 or a != a else float("inf") * a
    return a / b


_SERIAL = [0]


def load(source: str, lowering: Lowering, name: str) -> Callable[..., Any]:
    """Compile emitted source; tracebacks show its lines."""
    _SERIAL[0] += 1
    filename = f"<lossbridge {lowering.name} {name} {_SERIAL[0]}>"
    namespace: dict[str, Any] = {"_ratio": _ratio, **lowering.namespace}
    namespace.update((h.__name__, h) for h in lowering.helpers)
    exec(compile(source, filename, "exec"), namespace)  # our own text: generated names only
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    function: Callable[..., Any] = namespace[name]
    return function


def stand_alone(source: str, lowering: Lowering) -> str:
    """Emitted source with its imports and helpers: imports only its framework."""
    helpers = [textwrap.dedent(inspect.getsource(h)) for h in (_ratio, *lowering.helpers)]
    head = "from __future__ import annotations\n\nimport math\n" + "\n".join(lowering.imports)
    return "\n\n".join([head, *helpers, source])
