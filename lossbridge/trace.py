"""Tracing: a Python function over :class:`~lossbridge.ir.Expr` becomes a specification, and the
text of a specification becomes a graph."""

from __future__ import annotations

import inspect
import itertools
import math
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import FrameType
from typing import Any

from lossbridge import ops, text, words
from lossbridge.errors import LossbridgeError, SpecError, listed, shown, suggestion
from lossbridge.ir import (
    MAX_NODES,
    OUTSIDE,
    Builder,
    Expr,
    Graph,
    Node,
    Operand,
    Type,
    const_value,
    innermost,
    merge_layout,
)
from lossbridge.kinds import MAX_RANK, Kind
from lossbridge.ops import port_axes
from lossbridge.rewrite import BINARY, UNARY
from lossbridge.spec import Param, Port, Reduction, Spec, Weight

# --- what a specification declares ---------------------------------------------------------------


def declare(b: Builder, spec: Spec) -> dict[str, Expr]:
    """One input row for each name a body may use; also tells the builder of the ports."""
    values: dict[str, Expr] = {}
    for name, kind in declarations(spec):
        # The row keeps the axes in the caller's order; `Builder.input` aligns the type.
        values[name] = b.input(name, Type(kind.dtype, kind.axes), str(kind))
    return values


def declarations(spec: Spec) -> list[tuple[str, Kind]]:
    """Inputs, parameters, weights and the step, in this order."""
    found = list(spec.inputs.items())
    found += [(name, param.kind) for name, param in spec.params.items()]
    found += [(name, weight.kind) for name, weight in spec.weights.items()]
    if spec.step:
        found.append(("step", Kind("real")))
    return found


def spec_layout(spec: Spec) -> tuple[str, ...]:
    """The canonical order of all axes that a specification names."""
    lists = [kind.axes for _, kind in declarations(spec)]
    for port in spec.ports.values():
        lists.extend(kind.axes for kind in port.inputs)
        lists.append(port_axes(port))
        if port.output.name == "maps":
            lists.append(("maps",))
    # A loss made of others only hands them their inputs, so its groups never meet in one value.
    return merge_layout(lists, groups=len(lists) if spec.uses else 1)


# --- text -> graph -------------------------------------------------------------------------------


def build_graph(spec: Spec) -> Graph:
    """The graph of a specification as written, before any pass."""
    found = _built(spec)
    if isinstance(found, SpecError):
        raise found.with_traceback(None)
    return found


@lru_cache(maxsize=1024)
def _built(spec: Spec) -> Graph | SpecError:
    try:
        graph = _read_twice(spec, lambda b: _results(spec, b))
        check_results(spec, graph)
        check_read(spec, graph)
    except SpecError as error:
        return error
    return graph


def _read_twice(spec: Spec, trace: Callable[[Builder], dict[str, Expr]]) -> Graph:
    """Trace into a fresh builder; once more where an axis was named before a row made it.

    The second time every axis has its place from the start, so that the order of the factors of a
    product, or of the lines of a body, changes nothing.
    """
    layout = spec_layout(spec)
    for last in (False, True):
        b = Builder(layout, limit=MAX_NODES)
        b.ports = spec.ports
        b.early = None if last else set()
        graph = b.finish(**trace(b))
        if not b.early:
            return graph
        made = [axis for axis, _ in b.made]
        unknown = sorted(b.early.difference(made))
        if unknown:
            raise SpecError(
                f"unknown axis {', '.join(unknown)}; this loss has "
                f"{', '.join([*layout, *made]) or 'no axes'}{suggestion(unknown[0], layout)}",
                phase="semantic",
                code="unknown_axis",
            )
        again = Builder(layout)
        for axis, after in b.made:
            again.add_axis(axis, after)
        layout = tuple(again.layout)
    raise AssertionError("every axis has its place the second time")


def _results(spec: Spec, b: Builder) -> dict[str, Expr]:
    """The results of a body, as rows of a builder."""
    values: dict[str, Expr] = declare(b, spec)
    reader = _Reader(b, spec)
    results: dict[str, Expr] = {}
    for assignment in spec.assignments:
        value = reader.value(assignment.expr, values)
        if assignment.name in ("value", "count"):
            results[assignment.name] = value
        if assignment.name in values:
            raise SpecError(
                f"the body assigns {assignment.name}, which is an input; choose another name",
                phase="semantic",
                code="duplicate_name",
            )
        values[assignment.name] = value
    if "value" not in results:
        raise SpecError(
            'the body must assign `value`, e.g. "value = (prediction - target) ** 2"',
            phase="semantic",
            code="no_value",
        )
    return results


YIELDED: Mapping[str, tuple[int, int]] = {
    "scalar": (0, 0),
    "per_element": (1, MAX_RANK),
    "per_sample": (1, 1),
    "per_pair": (1, 2),
    "per_triplet": (1, 3),
}
"""How many axes the value has by what its index means; a group counts as one."""


def check_results(spec: Spec, graph: Graph) -> None:
    """The result must be a number for each index that the specification says it yields."""
    node = graph.nodes[graph.output("value")]
    if node.type.dtype != "real":
        raise SpecError(f"`value` must be real, but is {node.type}", phase="semantic", code="type")
    least, most = YIELDED[spec.yields]
    if not least <= len(node.type.axes) <= most:
        fits = [word for word, (low, high) in YIELDED.items() if low <= len(node.type.axes) <= high]
        raise SpecError(
            f"this loss says it yields {spec.yields}, but its value has axes "
            f"{', '.join(node.type.axes) or '(none)'}; reduce it with sum or mean, or say "
            f"yields={fits[0] if fits else 'per_element'!r}",
            phase="semantic",
            code="yields",
        )
    if graph.has_output("count"):
        count = graph.nodes[graph.output("count")]
        if count.type.dtype == "bool":
            raise SpecError(
                "`count` must be a number, but is a condition; write indicator(c)",
                phase="semantic",
                code="type",
            )
        if not set(count.type.axes) <= set(node.type.axes):
            raise SpecError(
                f"`count` has axes {', '.join(count.type.axes)}, which `value` lacks",
                phase="semantic",
                code="yields",
            )


def check_read(spec: Spec, graph: Graph) -> None:
    """What a loss declares it must read: otherwise a slip of the pen becomes a setting of it."""
    read = {a for node in graph.nodes for a in node.args} | {i for _, i in graph.outputs}
    unread = [name for name, index in graph.inputs() if index not in read]
    called = {node.attr("port") for node in graph.nodes if node.op in OUTSIDE}
    unread += [name for name in spec.ports if name not in called]
    if not unread:
        return
    sections = {
        "input": spec.inputs, "parameter": spec.params, "weight": spec.weights,
        "port": spec.ports, "number of the training step,": ("step",) if spec.step else (),
    }  # fmt: skip
    what = next(word for word, names in sections.items() if unread[0] in names)
    raise SpecError(
        f"the {what} {unread[0]} is declared, but neither the value nor the count depends on it"
        f"{suggestion(unread[0], [n for n in read_names(spec) if n != unread[0]])}; read it in the "
        "body, or leave it out",
        phase="semantic",
        code="unread",
    )


def read_names(spec: Spec) -> Sequence[str]:
    """The names that the expressions of a body hold."""
    return sorted(
        {
            found.name
            for assignment in spec.assignments
            for found in text.walk(assignment.expr)
            if isinstance(found, text.Name)
        }
    )


class _Reader:
    """Evaluates expression trees into rows."""

    def __init__(self, b: Builder, spec: Spec) -> None:
        self.b = b
        self.spec = spec

    def value(self, tree: text.Expression, names: Mapping[str, Expr]) -> Expr:
        """A tree as a row."""
        found = self.read(tree, names)
        return found if isinstance(found, Expr) else self.b.const(found)

    def op(self, op: str, /, *operands: Operand, **attrs: Any) -> Expr:
        """A row where its operands are: what a step reads of outside is computed outside, for all
        steps at once, as in a traced function."""
        inside = any(isinstance(operand, Expr) for operand in operands)
        return (innermost(operands) if inside else self.b).op(op, *operands, **attrs)

    def read(self, tree: text.Expression, names: Mapping[str, Expr]) -> Operand:
        if isinstance(tree, text.Number):
            return float(tree.value)
        if isinstance(tree, text.Boolean):
            return tree.value
        if isinstance(tree, text.Name):
            if tree.name not in names:
                raise SpecError(
                    f"unknown name {tree.name}; known here: {', '.join(names)}"
                    f"{suggestion(tree.name, names)}",
                    phase="semantic",
                    code="unknown_name",
                )
            return names[tree.name]
        if isinstance(tree, text.Unary):
            return self.op(UNARY[tree.op], self.read(tree.x, names))
        if isinstance(tree, text.Binary):
            return self.op(BINARY[tree.op], self.read(tree.a, names), self.read(tree.b, names))
        if isinstance(tree, text.Index):
            whole = self.value(tree.x, names)
            if not whole.axes:
                raise SpecError(
                    "[...] renames the first axis of a value, but this one has none",
                    phase="semantic",
                    code="unknown_axis",
                )
            return self.op("rename", whole, old=whole.axes[0], new=tree.axis)
        if isinstance(tree, text.Scan):
            return self._scan(tree, names)
        if isinstance(tree, text.Call):
            return self._call(tree, names)
        raise SpecError(
            "an axis or a tuple stands where a value is needed", phase="semantic", code="type"
        )

    def _scan(self, tree: text.Scan, names: Mapping[str, Expr]) -> Expr:
        def step(carry: Expr) -> Expr:
            return _Reader(carry.builder, self.spec).value(tree.body, {**names, tree.carry: carry})

        start = self.b.lift(self.read(tree.init, names))
        return ops.trace_scan(self.b, tree.axis, start, step)

    def _call(self, tree: text.Call, names: Mapping[str, Expr]) -> Expr:
        if tree.name in self.spec.uses:
            return self._use(tree, names)
        row = ops.OPS.get(tree.name)
        if row is None or not row.signature:
            raise SpecError(f"unknown function {tree.name}", phase="semantic", code="unknown_op")
        if tree.name in ("apply", "derivative", "segments", "map_sizes"):
            return self._port(tree, names)
        values: list[Operand] = []
        attrs: dict[str, Any] = {}
        pending = list(tree.args)
        free = list(row.attrs)
        for what in row.signature:
            if what == "axes":
                axes = tuple(_axis(a) for a in pending)
                pending.clear()
                attrs[free.pop(0)] = axes
                continue
            if not pending:
                raise _arity(tree, row)
            item = pending.pop(0)
            if what == "value":
                values.append(self.read(item, names))
            elif what == "axis":
                attrs[free.pop(0)] = _axis(item)
            else:
                attrs[free.pop(0)] = _literal(item, integer=what == "integer")
        if pending:
            raise _arity(tree, row)
        for key, value in tree.keywords:
            if key == "at_zero" and row.name == "sqrt" and isinstance(value, text.Name):
                attrs[key] = value.name
            else:
                raise SpecError(
                    f"{tree.name} takes no keyword {key}", phase="semantic", code="keyword"
                )
        if tree.name == "where":
            if not any(isinstance(value, Expr) for value in values):
                values[0] = self.b.lift(values[0])
            return ops.where(*values)
        if tree.name in ("size", "iota"):
            return self.b.root().op(tree.name, **attrs)
        return self.op(tree.name, *values, **attrs)

    def _port(self, tree: text.Call, names: Mapping[str, Expr]) -> Expr:
        if not tree.args or not isinstance(tree.args[0], text.Name):
            raise _arity(tree, ops.OPS[tree.name])
        port = tree.args[0].name
        known = self.spec.ports.get(port)
        if known is None:
            raise SpecError(
                f"unknown port {port}; this loss has {', '.join(self.spec.ports) or 'none'}",
                phase="semantic",
                code="unknown_port",
            )
        if tree.name in ("segments", "map_sizes"):
            axes = ("pixels",) if tree.name == "segments" else ("maps",)
            return self.b.root().op(tree.name, port=port, axes=axes)
        values = [self.value(a, names) for a in tree.args[1:]]
        if len(values) != len(known.inputs):
            raise _arity(tree, ops.OPS[tree.name])
        wrt: tuple[int, ...] = (0,)
        for key, value in tree.keywords:
            if key != "wrt":
                raise SpecError(
                    f"{tree.name} takes no keyword {key}", phase="semantic", code="keyword"
                )
            items = value.items if isinstance(value, text.Tuple) else (value,)
            wrt = tuple(int(_literal(i, integer=True)) for i in items)
        if tree.name == "apply":
            return ops.apply(port, *values)
        return ops.derivative(port, *values, wrt=wrt)

    def _use(self, tree: text.Call, names: Mapping[str, Expr]) -> Expr:
        """The reduced value of another loss on these operands."""
        used = self.spec.uses[tree.name]
        operands = [self.value(a, names) for a in tree.args]
        given = dict(zip(used.inputs, operands, strict=False))
        declared = dict(declarations(used))
        for key, tree_of in tree.keywords:
            if key not in declared or key in given:
                raise SpecError(
                    f"{tree.name} has no input {key}; it has {', '.join(declared)}",
                    phase="semantic",
                    code="keyword",
                )
            given[key] = self.value(tree_of, names)
        missing = [name for name in used.inputs if name not in given]
        if missing or len(operands) > len(used.inputs):
            raise SpecError(
                f"{tree.name} takes {', '.join(used.inputs)}; missing {', '.join(missing)}",
                phase="semantic",
                code="arity",
            )
        for name, operand in given.items():
            if len(operand.axes) != len(declared[name].axes):
                raise SpecError(
                    f"{tree.name}: {name} is {declared[name]}, but is given a value with axes "
                    f"{', '.join(operand.axes) or '(none)'}",
                    phase="semantic",
                    code="unknown_axis",
                )
        if innermost(given.values()).parent is not None:
            raise SpecError(
                f"{tree.name} stands inside a step of a scan, but a used loss is called once; call "
                "it before the scan",
                phase="semantic",
                code="port_in_scan",
            )
        return self.op("use", *given.values(), name=tree.name, keys=tuple(given))


def _arity(tree: text.Call, row: ops.Op) -> SpecError:
    return SpecError(
        f"{text.unparse(tree)}: {tree.name} takes ({', '.join(row.signature)})",
        phase="semantic",
        code="arity",
    )


def _axis(tree: text.Expression) -> str:
    if isinstance(tree, text.Name):
        return tree.name
    if isinstance(tree, text.Star):
        return "*" + tree.name
    raise SpecError(
        f"an axis is needed where {text.unparse(tree)} stands", phase="semantic", code="axis"
    )


def _literal(tree: text.Expression, *, integer: bool) -> float | int:
    negative = isinstance(tree, text.Unary) and tree.op == "-"
    inner = tree.x if isinstance(tree, text.Unary) else tree
    if not isinstance(inner, text.Number):
        raise SpecError(
            f"a number is needed where {text.unparse(tree)} stands",
            phase="semantic",
            code="literal",
        )
    number = -inner.value if negative else inner.value
    if not integer:
        return float(number)
    if float(number) != int(number):
        raise SpecError(
            f"an integer is needed where {number} stands", phase="semantic", code="literal"
        )
    return int(number)


# --- graph -> text -------------------------------------------------------------------------------

_OPERATOR = {name: symbol for symbol, name in BINARY.items()}
LONG = 60  # characters; a longer operand gets a line of its own


def to_body(graph: Graph, names: Mapping[int, str] | None = None) -> tuple[str, ...]:
    """Expression text that builds this graph again, one assignment a line.

    Values used twice, and long ones, get a line; ``names`` suggests what to call them.
    """
    suggested = dict(names or {})
    uses: dict[int, int] = {}
    for node in graph.nodes:
        for a in node.args:
            uses[a] = uses.get(a, 0) + 1
    taken = {node.attr("name") for node in graph.nodes if node.op == "input"}
    taken |= {"value", "count"} | set(ops.OPS) | set(graph.layout)
    carries = _carry_names(graph, taken)
    taken.update(carries)
    results = {index: name for name, index in graph.outputs}
    fresh = (f"t{k}" for k in range(1, len(graph.nodes) + 2))
    lines: list[str] = []
    trees: list[text.Expression] = []

    def local(index: int) -> str:
        name = suggested.get(index)
        if name is None or name in taken or not text_name(name):
            name = next(n for n in fresh if n not in taken)
        taken.add(name)
        return name

    for index, node in enumerate(graph.nodes):
        tree = _tree(graph, node, [trees[a] for a in node.args], carries)
        if (
            node.op not in ("input", "const")
            and index not in results
            and (uses.get(index, 0) > 1 or index in suggested or len(text.unparse(tree)) > LONG)
        ):
            name = local(index)
            lines.append(f"{name} = {text.unparse(tree)}")
            tree = text.Name(name)
        elif index in results and uses.get(index, 0) > 0:
            lines.append(f"{results[index]} = {text.unparse(tree)}")
            tree = text.Name(results[index])
        trees.append(tree)
    assigned = {line.split(" = ", 1)[0] for line in lines}
    for name, index in graph.outputs:
        if name not in assigned:
            lines.append(f"{name} = {text.unparse(trees[index])}")
    return tuple(lines)


def text_name(name: str) -> bool:
    """Whether a Python local may stand as a name in a body."""
    try:
        tree = text.parse_expression(name)
    except SpecError:
        return False
    return isinstance(tree, text.Name) and not (name[0] == "v" and name[1:].isdigit())


def _axis_tree(axis: str) -> text.Expression:
    return text.Star(axis[1:]) if axis.startswith("*") else text.Name(axis)


def _carry_names(graph: Graph, taken: set[str]) -> tuple[str, ...]:
    """What carries are called in text, the outermost first: a name for each depth, since one that
    hid another could not be read beside it."""
    depth = _scans(graph)
    names = (f"carry{k}" if k else "carry" for k in (0, *range(2, depth + len(taken) + 3)))
    return tuple(itertools.islice((name for name in names if name not in taken), depth))


def _scans(graph: Graph) -> int:
    """How many recursions stand inside each other."""
    inner = (_scans(node.attr("body")) for node in graph.nodes if node.op == "scan")
    return max((1 + depth for depth in inner), default=0)


def _tree(
    graph: Graph, node: Node, args: list[text.Expression], carries: tuple[str, ...] = ()
) -> text.Expression:
    if node.op == "input":
        return text.Name(node.attr("name"))
    if node.op == "const":
        value = const_value(node)
        if isinstance(value, bool):
            return text.Boolean(value)
        if value != value:  # NaN, for which there is no word
            return text.Binary("-", text.number(math.inf), text.number(math.inf))
        return text.number(value)
    if node.op in _OPERATOR:
        return text.Binary(_OPERATOR[node.op], args[0], args[1])
    if node.op in ("neg", "not"):
        return text.Unary("-" if node.op == "neg" else "not", args[0])
    if node.op == "to_real":
        return text.Call("to_real", (args[0],))
    if node.op == "scan":
        return _scan_tree(node, args, carries)
    if node.op == "use":
        return text.Call(node.attr("name"), (), tuple(zip(node.attr("keys"), args, strict=True)))
    if node.op in ("apply", "derivative", "segments", "map_sizes"):
        keywords: tuple[tuple[str, text.Expression], ...] = ()
        if node.op == "derivative":
            positions = tuple(text.Number(w) for w in node.attr("wrt"))
            keywords = (("wrt", positions[0] if len(positions) == 1 else text.Tuple(positions)),)
        return text.Call(node.op, (text.Name(node.attr("port")), *args), keywords)
    row = ops.OPS[node.op]
    items: list[text.Expression] = []
    operands, attrs = iter(args), iter(row.attrs)
    for what in row.signature:
        if what == "value":
            items.append(next(operands))
        elif what == "axes":
            items.extend(_axis_tree(a) for a in node.attr(next(attrs)))
        elif what == "axis":
            items.append(_axis_tree(node.attr(next(attrs))))
        else:
            items.append(text.number(node.attr(next(attrs))))
    at_zero = node.attr("at_zero")
    keys = (("at_zero", text.Name(at_zero)),) if at_zero is not None else ()
    return text.Call(node.op, tuple(items), keys)


def _scan_tree(
    node: Node, args: list[text.Expression], carries: tuple[str, ...]
) -> text.Expression:
    body: Graph = node.attr("body")
    if node.attr("reverse"):
        raise ValueError("a reversed recursion arises in derivatives only and has no text")
    carry, *inner = carries or ("carry",)
    trees: list[text.Expression] = []
    sizes: list[int] = []
    for row in body.nodes:
        if row.op == "input":
            name = row.attr("name")
            trees.append(text.Name(carry) if name == "carry" else args[1 + int(name[1:])])
        else:
            trees.append(_tree(body, row, [trees[a] for a in row.args], tuple(inner)))
        # A step is one expression, in which what is read twice is written twice.
        sizes.append(1 + sum(sizes[a] for a in row.args))
        if sizes[-1] > text.MAX_AST_NODES:
            raise SpecError(
                f"a step of the scan along {node.attr('axis')} has more than {text.MAX_AST_NODES} "
                "operations, names and numbers, counted as often as they are read; read a value "
                "once, or compute it before the scan",
                phase="semantic",
                code="too_many_nodes",
            )
    return text.Scan(node.attr("axis"), carry, args[0], trees[body.output("carry")])


# --- Python -> specification ---------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """A loss defined in Python: traced to a :class:`Spec` when first asked for."""

    id: str
    function: Callable[..., Any] = field(repr=False)
    name: str
    params: Mapping[str, Param] = field(repr=False)
    weights: Mapping[str, Weight] = field(repr=False)
    ports: Mapping[str, Port] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return inspect.getdoc(self.function) or ""

    def __reduce__(self) -> tuple[Any, ...]:
        # The function cannot be pickled: its name in its module now means this definition.
        from lossbridge.frontdoor import restored_definition
        from lossbridge.spec import dumps

        return restored_definition, (dumps(self.spec),)

    @property
    def _arguments(self) -> tuple[str, ...]:
        """What the function must be given. An argument with a default is no part of the loss: it
        is a place where a variant of the loss says something else."""
        parameters = inspect.signature(self.function).parameters
        return tuple(n for n, p in parameters.items() if p.default is inspect.Parameter.empty)

    @cached_property
    def inputs(self) -> dict[str, Kind]:
        hints = self._hints()
        found: dict[str, Kind] = {}
        for name in self._arguments:
            if name in self.params or name in self.weights or name in self.ports or name == "step":
                continue
            metadata = getattr(hints.get(name), "__metadata__", None)
            if not metadata or not isinstance(metadata[0], str):
                raise SpecError(
                    f"{self.id}: annotate {name} with its kind and axes, e.g. "
                    f'{name}: Annotated[Expr, "real[*batch]"]; a setting is declared with '
                    f"params={{{name!r}: ...}}",
                    phase="semantic",
                    code="annotation",
                )
            found[name] = Kind.parse(metadata[0])
        return found

    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self.function, include_extras=True)
        except Exception as error:  # an annotation is evaluated: it may raise anything
            raise SpecError(
                f"{self.id}: its annotations cannot be read ({type(error).__name__}: "
                f'{shown(str(error))}); write each as Annotated[Expr, "real[*batch]"], with '
                "Annotated and Expr imported at the top of the file",
                phase="semantic",
                code="annotation",
            ) from error

    @cached_property
    def spec(self) -> Spec:
        if "step" in self._arguments and not self.settings["step"]:
            raise SpecError(
                f"{self.id}: its function takes step, which is the number of the training step "
                f"only where that is said; write @define({self.id!r}, step=True), or call the "
                "argument something else",
                phase="semantic",
                code="step",
            )
        head = Spec(
            loss=self.id,
            summary=(self.__doc__.splitlines() or [""])[0],
            inputs=self.inputs,
            params=self.params,
            weights=self.weights,
            ports=self.ports,
            body=("value = 0",),
            **self.settings,
        )
        arguments = {*self.inputs, *self.params, *self.weights, *self.ports, "step"}
        missing = [n for n in arguments.difference(self._parameters) if n != "step" or head.step]
        if missing:
            near = suggestion(missing[0], self._parameters)
            raise SpecError(
                f"{self.id}: {listed(sorted(missing))} is declared, but the function has no such "
                f"argument{near}",
                phase="semantic",
                code="unread",
            )
        names: dict[int, str] = {}

        def trace(b: Builder) -> dict[str, Expr]:
            values: dict[str, Any] = dict(declare(b, head))
            values.update((name, name) for name in head.ports)
            locals_, result = self._traced({name: values[name] for name in self._arguments})
            lifted = {key: b.lift(value) for key, value in self._outputs(result).items()}
            numbers = _renumber(b, lifted)
            names.clear()
            names.update(
                (numbers[value.index], name)
                for name, value in locals_.items()
                if isinstance(value, Expr) and value.builder is b and value.index in numbers
            )
            return lifted

        graph = _read_twice(head, trace)
        from lossbridge.spec import replace_body, validate

        check_results(head, graph)
        check_read(head, graph)
        spec = replace_body(head, to_body(graph, names))
        validate(spec)
        return spec

    @property
    def _parameters(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)

    def _traced(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The function's variables and result; what goes wrong in it is said in its own terms."""
        try:
            return _call_and_watch(self.function, arguments)
        except LossbridgeError:
            raise
        except Exception as error:  # whatever an author's function may raise
            raise words.explained(error, self.id) from error

    def _outputs(self, result: Any) -> dict[str, Any]:
        """The value, and the count where there is one."""
        parts = result if isinstance(result, tuple) else (result,)
        wrong: str | None = None
        if len(parts) not in (1, 2):
            wrong = f"{len(parts)} values"
        elif parts[0] is None:
            wrong = "None"
        elif not isinstance(parts[0], Expr):
            wrong = f"{shown(parts[0])}, which no input decides"
        elif len(parts) == 2 and (parts[1] is None or isinstance(parts[1], str)):
            wrong = f"{shown(parts[1])} as its count"
        if wrong is not None:
            raise SpecError(
                f"{self.id}: its function returned {wrong}; return the value, or the value and "
                "the count: `return value` or `return value, count`",
                phase="semantic",
                code="returned",
            )
        return dict(zip(("value", "count"), parts, strict=False))


def _renumber(b: Builder, outputs: Mapping[str, Expr]) -> dict[int, int]:
    """Where each row of a builder lands in the finished graph."""
    graph_rows: dict[tuple[Any, ...], int] = {}
    graph = b.finish(**outputs)
    numbers: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        graph_rows[(node.op, node.args, node.attrs, node.type)] = index
    for index, node in enumerate(b.nodes):
        if all(a in numbers for a in node.args):
            key = (node.op, tuple(numbers[a] for a in node.args), node.attrs, node.type)
            if key in graph_rows:
                numbers[index] = graph_rows[key]
    return numbers


def _call_and_watch(
    function: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Call a function and return its local variables too: their names go into the body."""
    found: dict[str, Any] = {}
    code = function.__code__

    def watch(frame: FrameType, event: str, arg: object) -> None:
        if event == "return" and frame.f_code is code:
            found.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        result = function(**arguments)
    finally:
        if before is None or callable(before):
            sys.setprofile(before)
        else:
            before.enable()  # cProfile's, which is no function
    return found, result


def define(
    id: str,
    *,
    name: str | None = None,
    params: Mapping[str, Param] | None = None,
    weights: Mapping[str, Weight] | None = None,
    ports: Mapping[str, str | Port] | None = None,
    step: bool = False,
    yields: str = "per_element",
    reduction: Reduction | None = None,
    normalizer: str | None = None,
    empty: str = "nan",
    axis: int | None = None,
    references: Sequence[str] = (),
    uses: Mapping[str, Spec] | None = None,
) -> Callable[[Callable[..., Any]], Definition]:
    """Make a loss of a function: ``@define("focal@1", params={"gamma": non_negative(2.0)})``.

    The function takes the inputs, annotated ``Annotated[Expr, "real[*batch]"]``, and by keyword the
    parameters, weights and ports; it returns the value, or the value and the count. An argument
    with a default is for variants of the loss that are made in Python.
    """

    def wrap(function: Callable[..., Any]) -> Definition:
        chosen = reduction or Reduction("mean", normalizer or "elements")
        return Definition(
            id=id,
            function=function,
            name=name or class_name(id),
            params=dict(params or {}),
            weights=dict(weights or {}),
            ports={
                key: port if isinstance(port, Port) else Port.parse(port)
                for key, port in (ports or {}).items()
            },
            settings={
                "step": step,
                "yields": yields,
                "reduction": chosen,
                "empty": empty,
                "axis": axis,
                "references": tuple(references),
                "uses": dict(uses or {}),
            },
        )

    return wrap


def class_name(id: str) -> str:
    """``smooth_l1@1`` -> ``SmoothL1Loss``."""
    bare = id.rsplit("/", 1)[-1].split("@", 1)[0]
    return "".join(part[:1].upper() + part[1:] for part in bare.split("_")) + "Loss"


# --- parameter kinds -----------------------------------------------------------------------------


def real(value: float | None = None, axes: str = "") -> Param:
    """A parameter that is any real number."""
    return _param("real", value, axes)


def positive(value: float | None = None, axes: str = "") -> Param:
    """A parameter above 0."""
    return _param("positive", value, axes)


def non_negative(value: float | None = None, axes: str = "") -> Param:
    """A parameter of 0 or above."""
    return _param("non_negative", value, axes)


def probability(value: float | None = None, axes: str = "") -> Param:
    """A parameter from 0 to 1."""
    return _param("probability", value, axes)


def integer(value: int | None = None) -> Param:
    """A parameter that is a whole number."""
    return _param("integer", value, "")


def flag(value: bool | None = None) -> Param:
    """A parameter that is true or false."""
    return _param("flag", value, "")


def _param(kind: str, value: float | int | bool | None, axes: str) -> Param:
    return Param(Kind.parse(f"{kind}[{axes}]" if axes else kind), value)
