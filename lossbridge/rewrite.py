"""One driver for all rewriting, and rules written in the notation of the losses themselves.

A rule is a claim about floating point: ``pattern`` and ``replacement`` are equal as real functions
wherever ``given`` holds, and the replacement is never less accurate. The tests take every rule at
its word, sampling the kinds it states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TypeAlias

from lossbridge import ops, text
from lossbridge.ir import Builder, Expr, Graph, const_value, is_const
from lossbridge.kinds import Kind

Binding: TypeAlias = Mapping[str, "Expr | tuple[str, ...]"]
Step: TypeAlias = Callable[[Expr], "Expr | None"]

BINARY = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "**": "pow",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "==": "eq",
    "!=": "ne",
    "and": "and",
    "or": "or",
}
UNARY = {"-": "neg", "not": "not"}
COMMUTATIVE = {"add", "mul", "maximum", "minimum", "eq", "ne", "and", "or", "dot"}


@dataclass(frozen=True)
class Rule:
    """A named rewrite. ``kinds`` says what the variables of the pattern range over in its test.

    ``written`` rules say what a product that an author wrote means where it is 0 times infinity;
    derivatives state that for themselves. A ``selects`` rule leaves no domain that the pattern
    keeps to: what it divides by may be 0 only where it selects something else. ``words`` tell a
    reader what a long replacement does.
    """

    name: str
    pattern: str
    replacement: str
    why: str
    given: str = ""
    kinds: tuple[tuple[str, str], ...] = ()
    differentiable: bool = True
    written: bool = False
    selects: bool = False
    words: str = ""
    guard: Callable[[Binding], bool] | None = field(default=None, compare=False)

    @cached_property
    def _pattern(self) -> text.Expression:
        return text.parse_expression(self.pattern)

    @cached_property
    def _replacement(self) -> text.Expression:
        return text.parse_expression(self.replacement)

    @cached_property
    def _given(self) -> text.Expression | None:
        return text.parse_expression(self.given) if self.given else None

    @cached_property
    def head(self) -> str:
        """The op that a match must start with."""
        node = self._pattern
        if isinstance(node, text.Binary):
            return BINARY[node.op]
        if isinstance(node, text.Unary):
            return UNARY[node.op]
        assert isinstance(node, text.Call)
        return node.name

    @cached_property
    def _shape(self) -> tuple[str, ...]:
        """What made each operand of a match; empty where it may be anything."""
        pattern = self._pattern
        if isinstance(pattern, text.Binary):
            return _made_by(pattern.a), _made_by(pattern.b)
        if isinstance(pattern, text.Unary):
            return (_made_by(pattern.x),)
        assert isinstance(pattern, text.Call)
        return tuple(_made_by(x) for x in _split_call(pattern)[0])

    def applies(self, op: str, operands: tuple[str, ...]) -> bool:
        """Whether a row made by ``op`` of rows made by ``operands`` may match at all."""
        if op != self.head or len(operands) != len(self._shape):
            return False
        orders = [operands]
        if op in COMMUTATIVE and len(operands) == 2:
            orders.append(operands[::-1])
        return any(
            all(wanted in ("", made) for wanted, made in zip(self._shape, order, strict=True))
            for order in orders
        )

    def __call__(self, value: Expr) -> Expr | None:
        for binding in match(self._pattern, value, {}):
            if self._given is not None and not proved(self._given, binding):
                continue
            if self.guard is not None and not self.guard(binding):
                continue
            return instantiate(self._replacement, binding, value.builder)
        return None


def _made_by(pattern: text.Expression) -> str:
    """The op of the rows that a pattern matches; empty for any."""
    if isinstance(pattern, text.Number):
        return "const"
    if isinstance(pattern, text.Binary):
        return BINARY[pattern.op]
    if isinstance(pattern, text.Unary):
        return UNARY[pattern.op]
    return pattern.name if isinstance(pattern, text.Call) else ""


def match(pattern: text.Expression, value: Expr, binding: Binding) -> Iterator[Binding]:
    """All ways in which a value has the shape of a pattern."""
    if isinstance(pattern, text.Name):
        known = binding.get(pattern.name)
        if known is None:
            yield {**binding, pattern.name: value}
        elif isinstance(known, Expr) and known.index == value.index:
            yield binding
        return
    if isinstance(pattern, text.Number):
        if is_const(value, float(pattern.value)) and value.type.dtype == "real":
            yield binding
        return
    node = value.node
    operands: tuple[text.Expression, ...]
    axes: tuple[str, ...]
    if isinstance(pattern, text.Binary):
        op, operands, axes = BINARY[pattern.op], (pattern.a, pattern.b), ()
    elif isinstance(pattern, text.Unary):
        op, operands, axes = UNARY[pattern.op], (pattern.x,), ()
    elif isinstance(pattern, text.Call):
        op = pattern.name
        if node.op != op:
            return
        operands, axes = _split_call(pattern)
    else:
        return
    if node.op != op:
        return
    if axes:
        found = node.attr("axes") if node.attr("axes") is not None else (node.attr("axis"),)
        known = binding.get(axes[0])
        if known is not None and known != found:
            return
        binding = {**binding, axes[0]: found}
    args = [Expr(value.builder, a) for a in node.args]
    orders = [args]
    if op in COMMUTATIVE and len(args) == 2:
        orders.append(args[::-1])
    for order in orders:
        yield from _match_all(operands, order, binding)


def _match_all(
    patterns: Sequence[text.Expression], values: Sequence[Expr], binding: Binding
) -> Iterator[Binding]:
    if not patterns:
        yield binding
        return
    for found in match(patterns[0], values[0], binding):
        yield from _match_all(patterns[1:], values[1:], found)


def _split_call(call: text.Call) -> tuple[tuple[text.Expression, ...], tuple[str, ...]]:
    """Operands and axis variables of a call in a rule (at most one axis variable, last)."""
    signature = ops.OPS[call.name].signature
    values = tuple(a for a, s in zip(call.args, signature, strict=True) if s == "value")
    axes = tuple(
        a.name
        for a, s in zip(call.args, signature, strict=True)
        if s != "value" and isinstance(a, text.Name)
    )
    return values, axes


def instantiate(template: text.Expression, binding: Binding, b: Builder) -> Expr:
    """The replacement, as rows."""
    if isinstance(template, text.Name):
        value = binding[template.name]
        assert isinstance(value, Expr)
        return value
    if isinstance(template, text.Number):
        return b.const(float(template.value))
    if isinstance(template, text.Binary):
        return b.op(
            BINARY[template.op],
            instantiate(template.a, binding, b),
            instantiate(template.b, binding, b),
        )
    if isinstance(template, text.Unary):
        return b.op(UNARY[template.op], instantiate(template.x, binding, b))
    assert isinstance(template, text.Call)
    values, axis_names = _split_call(template)
    operands = [instantiate(v, binding, b) for v in values]
    if template.name == "where":
        return ops.where(*operands)
    attrs: dict[str, object] = {}
    if axis_names:
        axes = binding[axis_names[0]]
        assert isinstance(axes, tuple)
        if template.name == "size":
            return ops.count(
                next(
                    x for x in binding.values() if isinstance(x, Expr) and set(axes) <= set(x.axes)
                ),
                axes,
            )
        attrs = {"axes": axes} if "axes" in ops.OPS[template.name].attrs else {"axis": axes[0]}
    return b.op(template.name, *operands, **attrs)


# --- what is provable about a value --------------------------------------------------------------

_LINE = (-math.inf, math.inf)


def bounds(value: Expr) -> tuple[float, float]:
    """An interval that holds every value this row can have, from the inputs' kinds."""
    b = value.builder
    known = b.intervals  # a row is asked for many times, and never changes
    if value.index in known:
        return known[value.index]
    order: set[int] = set()
    stack = [value.index]
    while stack:
        index = stack.pop()
        if index not in order and index not in known:
            order.add(index)
            stack.extend(b.nodes[index].args)
    for index in sorted(order):
        node = b.nodes[index]
        if node.op == "const":
            number = float(const_value(node))
            known[index] = _LINE if math.isnan(number) else (number, number)
        elif node.op == "input":
            known[index] = _declared(node.attr("kind", ""))
        else:
            rule = ops.OPS[node.op].bounds
            same = node.op == "mul" and node.args[0] == node.args[1]
            found = rule(*(known[a] for a in node.args)) if rule else _LINE
            known[index] = (max(0.0, found[0]), max(0.0, found[1])) if same else found
    return known[value.index]


@lru_cache(maxsize=1024)
def _declared(kind: str) -> tuple[float, float]:
    """The interval that an input's kind states."""
    if kind in ("", "capture", "carry", "upstream", "tangent"):
        return _LINE
    interval = Kind.parse(kind).interval
    return interval[0], interval[1]


def proved(condition: text.Expression, binding: Binding) -> bool:
    """Whether a rule's side condition follows from the bounds of what its variables matched."""
    assert isinstance(condition, text.Binary)
    if condition.op == "and":
        return proved(condition.a, binding) and proved(condition.b, binding)
    assert isinstance(condition.a, text.Name) and isinstance(condition.b, text.Number)
    value = binding[condition.a.name]
    assert isinstance(value, Expr)
    lo, hi = bounds(value)
    limit = float(condition.b.value)
    return {">=": lo >= limit, ">": lo > limit, "<=": hi <= limit, "<": hi < limit}[condition.op]


# --- the driver ----------------------------------------------------------------------------------


class Steps:
    """The steps to try at a row, by what made the row and its operands.

    ``table`` maps the op at the head of a match to the steps tried there; ``anything`` is tried at
    every row. A step that has a method ``applies`` is asked once for each combination of ops.
    """

    def __init__(
        self, table: Mapping[str, Sequence[Step]] | None = None, anything: Sequence[Step] = ()
    ) -> None:
        self.table = dict(table or {})
        self.anything = tuple(anything)
        self._chosen: dict[tuple[str, ...], tuple[Step, ...]] = {}

    def at(self, value: Expr) -> tuple[Step, ...]:
        """Those that may change this row, in order."""
        nodes = value.builder.nodes
        node = nodes[value.index]
        key = (node.op, *[nodes[a].op for a in node.args[:3]])
        found = self._chosen.get(key)
        if found is None:
            every = (*self.table.get(node.op, ()), *self.anything)
            found = tuple(s for s in every if _may(s, node.op, key[1:], len(node.args)))
            self._chosen[key] = found
        return found


@dataclass(frozen=True)
class Tried:
    """A step that changes only rows made by some op of rows made by some others."""

    step: Step
    applies: Callable[[str, tuple[str, ...]], bool]

    def __call__(self, value: Expr) -> Expr | None:
        return self.step(value)


def _may(step: Step, op: str, operands: tuple[str, ...], count: int) -> bool:
    applies = getattr(step, "applies", None)
    return applies is None or count > 3 or bool(applies(op, operands))


def rewrite(graph: Graph, steps: Steps, log: list[str] | None = None) -> Graph:
    """Rebuild a graph bottom-up, applying at each row the first step that changes it, until none.

    The names of the rules that fired are appended to ``log``.
    """
    b = Builder(graph.layout)
    memo: dict[int, Expr] = {}  # row of b -> its normal form, so that sharing stays linear
    values: list[Expr] = []
    nodes = graph.nodes

    for node in nodes:
        if node.op in ("input", "const"):
            value = b.row(node.op, (), node.attrs, node.type)
            memo.setdefault(value.index, value)
            values.append(value)
            continue
        value = b.copy(node, [values[a] for a in node.args], [nodes[a].type for a in node.args])
        values.append(_settled(b, value, memo, steps, log))
    found = b.finish(**{name: values[index] for name, index in graph.outputs})
    return graph if found == graph else found


def _settled(
    b: Builder, value: Expr, memo: dict[int, Expr], steps: Steps, log: list[str] | None
) -> Expr:
    """The normal form of a row: steps applied here and on whatever new rows a step made below.

    Without recursion, since what steps make may be deep. Each frame is a row on its way: the rows
    that became it, and the row itself, or None while its operands are not settled.
    """
    start = value.index
    frames: list[tuple[list[int], Expr, bool]] = [([], value, True)]
    while frames:
        trail, value, fresh = frames.pop()
        if value.index in memo:
            final = memo[value.index]
            for index in trail:
                memo[index] = final
            continue
        if not fresh:
            # A step made it: first what it made below.
            args = b.nodes[value.index].args
            waiting = [a for a in args if a not in memo]
            if waiting:
                frames.append((trail, value, False))
                for a in reversed(waiting):
                    below = b.nodes[a]
                    if below.op in ("input", "const"):
                        memo[a] = Expr(b, a)
                    else:
                        frames.append(([], Expr(b, a), False))
                continue
            settled = [memo[a] for a in args]
            if any(x.index != a for x, a in zip(settled, args, strict=True)):
                node = b.nodes[value.index]
                trail.append(value.index)
                renewed = b.copy(node, settled, [b.nodes[a].type for a in args])
                frames.append((trail, renewed, True))
                continue
        trail.append(value.index)
        changed = _step(value, steps, log)
        if changed is None or changed.index in trail:  # two steps that undo each other end here
            for index in trail:
                memo[index] = value
        else:
            leaf = b.nodes[changed.index].op in ("input", "const")
            if leaf:
                memo.setdefault(changed.index, changed)
            frames.append((trail, changed, False))
    return memo[start]


def _step(value: Expr, steps: Steps, log: list[str] | None) -> Expr | None:
    for step in steps.at(value):
        changed = step(value)
        if changed is not None and changed.index != value.index:
            name = getattr(step, "name", None)
            if log is not None and name is not None and name not in log:
                log.append(name)
            return changed
    return None
