"""One driver for all rewriting, and rules written in the notation of the losses themselves.

A rule is a claim about floating point: ``pattern`` and ``replacement`` are equal as real functions
wherever ``given`` holds, and the replacement is never less accurate. The tests take every rule at
its word, sampling the kinds it states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from lossbridge import ops, text
from lossbridge.ir import Builder, Expr, Graph, Operand, const_value, is_const
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
    derivatives state that for themselves.
    """

    name: str
    pattern: str
    replacement: str
    why: str
    given: str = ""
    kinds: tuple[tuple[str, str], ...] = ()
    differentiable: bool = True
    written: bool = False
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

    def __call__(self, value: Expr) -> Expr | None:
        for binding in match(self._pattern, value, {}):
            if self._given is not None and not proved(self._given, binding):
                continue
            if self.guard is not None and not self.guard(binding):
                continue
            return instantiate(self._replacement, binding, value.builder)
        return None


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
            return ops.count(b, axes)
        attrs = {"axes": axes} if "axes" in ops.OPS[template.name].attrs else {"axis": axes[0]}
    return b.op(template.name, *operands, **attrs)


# --- what is provable about a value --------------------------------------------------------------


def bounds(value: Expr) -> tuple[float, float]:
    """An interval that holds every value this row can have, from the inputs' kinds."""
    b = value.builder
    known: dict[int, tuple[float, float]] = {}
    order: set[int] = set()
    stack = [value.index]
    while stack:
        index = stack.pop()
        if index not in order:
            order.add(index)
            stack.extend(b.nodes[index].args)
    for index in sorted(order):
        node = b.nodes[index]
        if node.op == "const":
            number = float(const_value(node))
            known[index] = (-math.inf, math.inf) if math.isnan(number) else (number, number)
        elif node.op == "input":
            interval = (
                Kind.parse(node.attr("kind")).interval
                if "kind" in dict(node.attrs)
                and node.attr("kind") not in ("capture", "carry", "upstream", "tangent")
                else None
            )
            known[index] = (interval[0], interval[1]) if interval else (-math.inf, math.inf)
        else:
            rule = ops.OPS[node.op].bounds
            same = node.op == "mul" and node.args[0] == node.args[1]
            found = rule(*(known[a] for a in node.args)) if rule else (-math.inf, math.inf)
            known[index] = (max(0.0, found[0]), max(0.0, found[1])) if same else found
    return known[value.index]


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


def rewrite(
    graph: Graph,
    steps: Mapping[str, Sequence[Step]],
    log: list[str] | None = None,
    anything: Sequence[Step] = (),
) -> Graph:
    """Rebuild a graph bottom-up, applying at each row the first step that changes it, until none.

    ``steps`` maps the op at the head of a match to the steps tried there; ``anything`` is tried at
    every row. The names of the rules that fired are appended to ``log``.
    """
    b = Builder(graph.layout)
    memo: dict[int, Expr] = {}  # row of b -> its normal form, so that sharing stays linear
    values: list[Expr] = []

    def settle(value: Expr) -> Expr:
        """Apply steps here and on whatever new rows a step made below."""
        trail: list[int] = []
        while value.index not in memo:
            trail.append(value.index)
            changed = _step(value, steps, anything, log)
            if changed is None or changed.index == value.index:
                memo[value.index] = value
                break
            value = _renew(b, changed, memo, settle)
        final = memo[value.index]
        for index in trail:
            memo[index] = final
        return final

    for node in graph.nodes:
        if node.op in ("input", "const"):
            value = b.row(node.op, (), node.attrs, node.type)
            memo.setdefault(value.index, value)
            values.append(value)
            continue
        args: list[Operand] = [values[a] for a in node.args]
        value = b.op(node.op, *args, **dict(node.attrs))
        values.append(settle(value))
    return b.finish(**{name: values[index] for name, index in graph.outputs})


def _step(
    value: Expr,
    steps: Mapping[str, Sequence[Step]],
    anything: Sequence[Step],
    log: list[str] | None,
) -> Expr | None:
    for step in (*steps.get(value.node.op, ()), *anything):
        changed = step(value)
        if changed is not None and changed.index != value.index:
            name = getattr(step, "name", None)
            if log is not None and name is not None and name not in log:
                log.append(name)
            return changed
    return None


def _renew(b: Builder, value: Expr, memo: dict[int, Expr], settle: Callable[[Expr], Expr]) -> Expr:
    """Settle the rows below a freshly made value that have not been looked at yet."""
    node = value.node
    if value.index in memo or node.op in ("input", "const"):
        memo.setdefault(value.index, value)
        return value
    args = []
    for a in node.args:
        below = Expr(b, a)
        args.append(memo[a] if a in memo else settle(_renew(b, below, memo, settle)))
    if [x.index for x in args] == list(node.args):
        return value
    return b.op(node.op, *args, **dict(node.attrs))
