"""The body of a specification: text to syntax tree and back.

A body is a few lines ``name = expression``. The grammar, loosest first::

    expression  a or b | a and b | not a | a < b (<= > >= == !=, not chained)
                a + b | a - b | a * b | a / b | -a | a ** b | x[axis]
    atom        number | inf | true | false | name | (expression) | f(argument, ..., key=argument)
    argument    expression | *axis | (expression, ...)   the last for a key only: wrt=(0, 1)
    scan        scan(axis, carry = expression, expression)

Precedence is Python's: ``-a ** b`` is ``-(a ** b)`` and ``a ** -b ** c`` is ``a ** (-(b ** c))``.
Nothing here evaluates anything, and no string reaches Python's own compiler: text from a stranger
becomes frozen data, within the limits below, or a :class:`SpecError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NoReturn, TypeAlias

from lossbridge.errors import Phase, SpecError, shown
from lossbridge.kinds import WORDS, check_name

MAX_LINE: Final = 4096
MAX_LINES: Final = 512
MAX_DEPTH: Final = 64
MAX_AST_NODES: Final = 4096
MAX_INTEGER: Final = 2**53
"""Integers from here on are not all floats, so a number could change on its way."""

RESULTS: Final = ("value", "count")
"""The names a body assigns for its caller; every other assignment is local."""


# --- the tree ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """A literal, 0 or above: ``-2`` is :class:`Unary`. ``1`` and ``1.0`` are equal."""

    value: float | int

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not math.copysign(1.0, self.value) > 0.0:
            raise ValueError(
                f"Number holds a number from 0 up, but {self.value!r} was given; use number(x), "
                "which writes a negative one as a minus sign and its size"
            )
        if self.value != self.value:
            raise ValueError("Number cannot hold NaN, since the language has no word for it")
        if isinstance(self.value, int) and self.value >= MAX_INTEGER:
            raise ValueError(f"Number holds integers below 2**53, but {self.value} was given")


@dataclass(frozen=True, slots=True)
class Boolean:
    """``true`` or ``false``."""

    value: bool


@dataclass(frozen=True, slots=True)
class Name:
    """A value or, as an argument, an axis or a port."""

    name: str


@dataclass(frozen=True, slots=True)
class Star:
    """``*name``: an axis group as an argument; ``name`` is without the star."""

    name: str


@dataclass(frozen=True, slots=True)
class Tuple:
    """``(a, b)`` after a key, such as ``wrt=(0, 1)``."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Unary:
    """``-x`` or ``not x``; ``op`` is ``"-"`` or ``"not"``."""

    op: str
    x: Expression


@dataclass(frozen=True, slots=True)
class Binary:
    """``a op b``; ``op`` is the operator as written, such as ``"+"``, ``"<="`` or ``"and"``."""

    op: str
    a: Expression
    b: Expression


@dataclass(frozen=True, slots=True)
class Call:
    """``name(*args, **keywords)``."""

    name: str
    args: tuple[Expression, ...] = ()
    keywords: tuple[tuple[str, Expression], ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """``x[axis]``: the first axis of ``x`` under another name."""

    x: Expression
    axis: str


@dataclass(frozen=True, slots=True)
class Scan:
    """``scan(axis, carry = init, body)``: ``body`` may use ``carry``, which starts at ``init``."""

    axis: str
    carry: str
    init: Expression
    body: Expression


Expression: TypeAlias = (
    Number | Boolean | Name | Star | Tuple | Unary | Binary | Call | Index | Scan
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One line of a body."""

    name: str
    expr: Expression


def number(value: float | int) -> Expression:
    """The tree of a number of either sign."""
    if math.copysign(1.0, value) < 0.0:
        return Unary("-", Number(-value if value else 0.0))
    return Number(value)


def children(expr: Expression) -> tuple[Expression, ...]:
    """The operands of an expression, left to right."""
    match expr:
        case Unary(_, x) | Index(x, _):
            return (x,)
        case Binary(_, a, b):
            return (a, b)
        case Call(_, args, keywords):
            return args + tuple(value for _, value in keywords)
        case Tuple(items):
            return items
        case Scan(_, _, init, body):
            return (init, body)
        case _:
            return ()


def walk(expr: Expression) -> Iterator[Expression]:
    """An expression and everything in it, parents first."""
    stack = [expr]
    while stack:
        found = stack.pop()
        yield found
        stack.extend(reversed(children(found)))


# --- numbers -----------------------------------------------------------------------------------

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


def parse_number(text: str, *, phase: Phase = "parse") -> float | int:
    """The number a literal writes, refused where reading it would change it.

    The rule is one for bodies and for JSON: whole numbers below 2**53, no overflow to infinity, no
    underflow to zero. ``-0`` is the float, since an integer would lose its sign.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise SpecError(
            f"{shown(text)} is not a number; numbers are written like 2, 0.5 or 1e-3",
            phase=phase,
            code="number",
        )
    if found[1] is None and found[2] is None:
        # The length first: turning a long digit string into an integer takes quadratic time.
        if len(text) > 17 or abs(int(text)) >= MAX_INTEGER:
            raise SpecError(
                f"the integer {shown(text)} is not below 2**53 in size, so a float64 cannot hold "
                "it surely; write it with a point or an exponent if a rounded value is meant",
                phase=phase,
                code="integer_range",
            )
        return -0.0 if text == "-0" else int(text)
    value = float(text)
    if math.isinf(value):
        raise SpecError(
            f"{shown(text)} is too large for a float64, whose largest number is about 1.8e308",
            phase=phase,
            code="not_finite",
        )
    if value == 0.0 and re.search("[1-9]", text.lower().partition("e")[0]):
        raise SpecError(
            f"{shown(text)} is too small for a float64 and would become 0; write 0 if 0 is meant",
            phase=phase,
            code="underflow",
        )
    return value


# --- tokens ------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r" *(?:(?P<number>[0-9][A-Za-z0-9_.]*(?:(?<=[eE])[+-][A-Za-z0-9_.]*)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<symbol>\*\*|<=|>=|==|!=|[-+*/<>=(),\[\]]))",
    re.ASCII,
)

_END = ""

# How tightly each binary operator binds, and what its right operand must bind like. Comparisons do
# not chain: neither operand may be one.
_BINARY: Final[dict[str, tuple[int, int]]] = {
    "or": (1, 2),
    "and": (2, 3),
    "<": (4, 5),
    "<=": (4, 5),
    ">": (4, 5),
    ">=": (4, 5),
    "==": (4, 5),
    "!=": (4, 5),
    "+": (5, 6),
    "-": (5, 6),
    "*": (6, 7),
    "/": (6, 7),
    "**": (8, 7),
}
_COMPARISON, _NOT, _MINUS, _POWER, _ATOM = 4, 3, 7, 8, 9


def _tokens(line: str) -> list[tuple[str, int]]:
    """The tokens of a line with their positions."""
    if len(line) > MAX_LINE:
        raise SpecError(
            f"a line of the body has {len(line)} characters, but at most {MAX_LINE} are read; "
            "split it over several assignments",
            phase="parse",
            code="line_too_long",
        )
    tokens: list[tuple[str, int]] = []
    position, end = 0, len(line.rstrip(" "))
    while position < end:
        found = _TOKEN.match(line, position)
        if found is None:
            at = position + len(line[position:]) - len(line[position:].lstrip(" "))
            code = "syntax" if line[at].isascii() else "not_ascii"
            raise _syntax(line, at, f"{shown(line[at])} has no meaning in a body", code)
        token = found[found.lastgroup or 0]
        tokens.append((token, found.end() - len(token)))
        position = found.end()
    tokens.append((_END, end))
    return tokens


def _syntax(line: str, position: int, message: str, code: str = "syntax") -> SpecError:
    near = line[max(0, position - 20) : position + 20]
    return SpecError(
        f"{message}, at column {position + 1} near {shown(near)}; a line of a body is written "
        "like: value = -(1 - p) ** gamma * log(p)",
        phase="parse",
        code=code,
    )


# --- parsing -----------------------------------------------------------------------------------


class _Parser:
    """Precedence climbing over one line.

    Every recursive call goes through :meth:`expression`, which counts them, so no input can
    exhaust the interpreter's stack. ``self.depth`` is the depth of the tree last returned, kept so
    that each node's depth costs one addition.
    """

    def __init__(self, line: str, nodes: int) -> None:
        self.line = line
        self.tokens = _tokens(line)
        self.next = 0
        self.nodes = nodes
        self.depth = 0
        self.calls = 0
        self.brackets = 0

    # tokens
    def peek(self) -> str:
        return self.tokens[self.next][0]

    def advance(self) -> str:
        token = self.tokens[self.next][0]
        self.next += 1
        return token

    def accept(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.next += 1
        return True

    def take(self, token: str) -> None:
        if not self.accept(token):
            self.fail(f"{token!r} was expected")

    def fail(self, expected: str) -> NoReturn:
        token, position = self.tokens[self.next]
        found = f"{shown(token)} was found" if token else "the line ends"
        raise _syntax(self.line, position, f"{expected}, but {found}")

    def take_name(self, what: str) -> str:
        token = self.peek()
        if not token or not (token[0].isalpha() or token[0] == "_"):
            self.fail(f"{what} was expected")
        check_name(token, what, phase="parse")
        self.next += 1
        return token

    # limits
    def made(self, *depths: int) -> None:
        """Account for one new node above operands of these depths."""
        self.nodes += 1
        if self.nodes > MAX_AST_NODES:
            raise SpecError(
                f"the body has more than {MAX_AST_NODES} operations, names and numbers; compute "
                "over an axis, with sum or scan, instead of term by term",
                phase="parse",
                code="too_many_nodes",
            )
        self.depth = 1 + max(depths, default=0)
        if self.depth > MAX_DEPTH:
            self.too_deep()

    def too_deep(self) -> NoReturn:
        raise SpecError(
            f"an expression of the body is more than {MAX_DEPTH} operations deep; give its parts "
            "names, one assignment a line (a + b + c is two deep: it adds one term at a time)",
            phase="parse",
            code="too_deep",
        )

    def open(self, token: str) -> None:
        self.take(token)
        self.brackets += 1
        if self.brackets > MAX_DEPTH:
            self.too_deep()

    def close(self, token: str) -> None:
        self.take(token)
        self.brackets -= 1

    # grammar
    def line_of_body(self) -> Assignment:
        name = self.take_name("a name to assign to")
        self.take("=")
        expr = self.expression(0)
        if self.peek() != _END:
            self.fail("an operator or the end of the line was expected")
        return Assignment(name, expr)

    def expression(self, least: int) -> Expression:
        """An expression whose operators bind at least as tightly as ``least``."""
        self.calls += 1
        # A tree of the greatest depth needs two calls a level: one for an operand, one for the
        # parentheses around it.
        if self.calls > 2 * MAX_DEPTH + 2:
            self.too_deep()
        left = self.prefix(least)
        while True:
            op = self.peek()
            binding, right_binding = _BINARY.get(op, (-1, -1))
            if binding < least:
                break
            self.next += 1
            left_depth = self.depth
            right = self.expression(right_binding)
            self.made(left_depth, self.depth)
            left = Binary(op, left, right)
            if binding == _COMPARISON and _BINARY.get(self.peek(), (0, 0))[0] == _COMPARISON:
                self.fail("comparisons do not chain; write a < b and b < c: an 'and'")
        self.calls -= 1
        return left

    def prefix(self, least: int) -> Expression:
        token = self.peek()
        if token == "-":
            self.next += 1
            x = self.expression(_MINUS)
            self.made(self.depth)
            return Unary("-", x)
        if token == "not" and least <= _NOT:
            self.next += 1
            x = self.expression(_NOT)
            self.made(self.depth)
            return Unary("not", x)
        return self.postfix()

    def postfix(self) -> Expression:
        x = self.atom()
        while self.peek() == "[":
            depth = self.depth
            self.next += 1
            axis = self.take_name("an axis name")
            self.take("]")
            self.made(depth)
            x = Index(x, axis)
        return x

    def atom(self) -> Expression:
        token = self.peek()
        if token == "(":
            self.open("(")
            x = self.expression(0)
            self.close(")")
            return x
        if token[:1].isdigit():
            self.next += 1
            self.made()
            return Number(parse_number(token))
        if token in ("true", "false"):
            self.next += 1
            self.made()
            return Boolean(token == "true")
        if token == "inf":
            self.next += 1
            self.made()
            return Number(math.inf)
        if token == "scan":
            return self.scan()
        if token in ("and", "or", "not"):
            self.fail("a value was expected")
        name = self.take_name("a value")
        if self.peek() == "(":
            return self.call(name)
        self.made()
        return Name(name)

    def scan(self) -> Expression:
        self.next += 1
        self.open("(")
        axis = self.take_name("an axis name")
        self.take(",")
        carry = self.take_name("a name for the carry")
        self.take("=")
        init = self.expression(0)
        depth = self.depth
        self.take(",")
        body = self.expression(0)
        self.close(")")
        self.made(depth, self.depth)
        return Scan(axis, carry, init, body)

    def call(self, name: str) -> Expression:
        self.open("(")
        args: list[Expression] = []
        keywords: list[tuple[str, Expression]] = []
        deepest = 0
        while not (self.peek() == ")" and not args and not keywords):
            key = self.key()
            if key is None and keywords:
                self.fail("an argument with a key was expected after the first one with a key")
            if any(key == known for known, _ in keywords):
                self.fail(f"the key {key} is given twice; one value was expected")
            argument = self.argument(key is not None)
            deepest = max(deepest, self.depth)
            if key is None:
                args.append(argument)
            else:
                keywords.append((key, argument))
            if not self.accept(","):
                break
        self.close(")")
        self.made(deepest)
        return Call(name, tuple(args), tuple(keywords))

    def key(self) -> str | None:
        """The ``key`` of ``key=argument``, if one comes next."""
        # The token after a name exists, since the end is a token; after the end, no key can come.
        if self.peek() == _END or self.tokens[self.next + 1][0] != "=":
            return None
        key = self.take_name("a key")
        self.take("=")
        return key

    def argument(self, keyed: bool) -> Expression:
        if self.accept("*"):
            name = self.take_name("an axis name")
            self.made()
            return Star(name)
        if keyed and self.peek() == "(" and self.comma_inside():
            return self.tuple()
        return self.expression(0)

    def comma_inside(self) -> bool:
        """Whether the parenthesis that opens here holds a comma of its own."""
        open_brackets = 0
        for token, _ in self.tokens[self.next :]:
            open_brackets += (token in ("(", "[")) - (token in (")", "]"))
            if open_brackets == 0:
                return False
            if token == "," and open_brackets == 1:
                return True
        return False

    def tuple(self) -> Expression:
        self.open("(")
        items = [self.expression(0)]
        deepest = self.depth
        while self.accept(","):
            if self.peek() == ")":
                break
            items.append(self.expression(0))
            deepest = max(deepest, self.depth)
        self.close(")")
        self.made(deepest)
        return Tuple(tuple(items))


def parse_expression(text: str) -> Expression:
    """The tree of one expression."""
    parser = _Parser(text, 0)
    expr = parser.expression(0)
    if parser.peek() != _END:
        parser.fail("an operator or the end of the expression was expected")
    return expr


def parse_body(lines: Iterable[str]) -> tuple[Assignment, ...]:
    """The assignments of a body, each name assigned once."""
    assignments: list[Assignment] = []
    assigned: set[str] = set()
    nodes = 0
    for position, line in enumerate(lines):
        if position >= MAX_LINES:
            raise SpecError(
                f"the body has more than {MAX_LINES} lines; put parts of it in losses of their "
                "own and name them in uses",
                phase="parse",
                code="too_many_lines",
            )
        parser = _Parser(line, nodes)
        assignment = parser.line_of_body()
        nodes = parser.nodes
        if assignment.name in assigned:
            raise SpecError(
                f"{assignment.name} is assigned twice; a name means one value throughout, so give "
                "the second one another name",
                phase="semantic",
                code="duplicate_name",
            )
        assigned.add(assignment.name)
        assignments.append(assignment)
    return tuple(assignments)


# --- printing ----------------------------------------------------------------------------------


def unparse(expr: Expression) -> str:
    """The shortest text of ``expr`` in one fixed style; ``parse_expression`` reads it back."""
    return _unparse(expr)[0]


def unparse_body(assignments: Iterable[Assignment]) -> tuple[str, ...]:
    """The lines of a body; ``parse_body`` reads them back."""
    return tuple(f"{a.name} = {unparse(a.expr)}" for a in assignments)


def _unparse(expr: Expression) -> tuple[str, int]:
    """Text, and how tightly its outermost operator binds."""
    match expr:
        case Number(value):
            return ("inf" if value == math.inf else repr(value)), _ATOM
        case Boolean(value):
            return ("true" if value else "false"), _ATOM
        case Name(name):
            return name, _ATOM
        case Star(name):
            return f"*{name}", _ATOM
        case Unary("-", x):
            return f"-{_operand(x, _MINUS)}", _MINUS
        case Unary(op, x):
            return f"{op} {_operand(x, _NOT)}", _NOT
        case Binary(op, a, b):
            binding, right = _BINARY[op]
            # Left operands associate, except of comparisons, which take none, and of powers.
            left = binding if binding not in (_COMPARISON, _POWER) else binding + 1
            return f"{_operand(a, left)} {op} {_operand(b, right)}", binding
        case Index(x, axis):
            return f"{_operand(x, _ATOM)}[{axis}]", _ATOM
        case Tuple(items):
            return f"({', '.join(map(unparse, items))}{',' * (len(items) == 1)})", _ATOM
        case Scan(axis, carry, init, body):
            return f"scan({axis}, {carry} = {unparse(init)}, {unparse(body)})", _ATOM
        case Call(name, args, keywords):
            parts = [*map(unparse, args), *(f"{key}={unparse(value)}" for key, value in keywords)]
            return f"{name}({', '.join(parts)})", _ATOM


def _operand(expr: Expression, least: int) -> str:
    text, binding = _unparse(expr)
    return text if binding >= least else f"({text})"


# --- one form for equal meanings -----------------------------------------------------------------


def canonical_body(assignments: Iterable[Assignment]) -> tuple[str, ...]:
    """The body with locals numbered and numbers as floats: what the hash of a loss is taken of.

    Locals become ``v0``, ``v1``, ... in order of first assignment; no author's name has that form,
    so two bodies are equal here only if one renames the other.
    """
    names: dict[str, str] = {}
    fresh = (f"v{index}" for index in range(MAX_LINES + MAX_AST_NODES))
    lines: list[str] = []
    for a in assignments:
        expr = _canonical(a.expr, names, fresh)
        if a.name not in RESULTS:
            names[a.name] = next(fresh)
        lines.append(f"{names.get(a.name, a.name)} = {unparse(expr)}")
    return tuple(lines)


def _canonical(expr: Expression, names: dict[str, str], fresh: Iterator[str]) -> Expression:
    def again(x: Expression) -> Expression:
        return _canonical(x, names, fresh)

    match expr:
        case Number(value):
            return Number(float(value))
        case Name(name):
            return Name(names.get(name, name))
        case Unary(op, x):
            return Unary(op, again(x))
        case Binary(op, a, b):
            return Binary(op, again(a), again(b))
        case Index(x, _):
            return replace(expr, x=again(x))
        case Tuple(items):
            return Tuple(tuple(map(again, items)))
        case Call(name, args, keywords):
            keyed = tuple(sorted((key, again(value)) for key, value in keywords))
            return Call(name, tuple(map(again, args)), keyed)
        case Scan(axis, carry, init, body):
            start = again(init)
            inner = {**names, carry: next(fresh)}
            return Scan(axis, inner[carry], start, _canonical(body, inner, fresh))
        case _:
            return expr


__all__ = [
    "MAX_AST_NODES",
    "MAX_DEPTH",
    "MAX_INTEGER",
    "MAX_LINE",
    "MAX_LINES",
    "RESULTS",
    "WORDS",
    "Assignment",
    "Binary",
    "Boolean",
    "Call",
    "Expression",
    "Index",
    "Name",
    "Number",
    "Scan",
    "Star",
    "Tuple",
    "Unary",
    "canonical_body",
    "children",
    "number",
    "parse_body",
    "parse_expression",
    "parse_number",
    "unparse",
    "unparse_body",
    "walk",
]
