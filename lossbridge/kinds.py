"""Kinds: what a number may be, and over which named axes it runs.

One notation serves specifications, annotations and messages::

    real[*batch, classes]        a number for every batch element and class
    index(classes)[*batch]       an integer that selects along the axis ``classes``
    length(time)[batch]          an integer that says how many entries along ``time`` count
    simplex(classes)[*batch, classes]
    flag                         no brackets: a scalar

The domain that a kind states is a fact the whole package draws on: fixtures sample it, rewrite
rules rely on it, value checks enforce it.
"""

from __future__ import annotations

import keyword
import math
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from lossbridge.errors import Phase, SpecError, listed, shown, suggestion

MAX_RANK: Final = 16
MAX_NAME: Final = 64
MAX_KIND_CHARACTERS: Final = 2048  # 16 axes of 64 characters fit, with room for spaces

WORDS: Final = frozenset({"and", "or", "not", "true", "false", "inf", "nan", "scan"})
"""Words of the body language; none of them can name anything."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_GENERATED = re.compile(r"v[0-9]+", re.ASCII)


def check_name(name: object, what: str, *, phase: Phase = "schema") -> str:
    """``name`` if it can name something in a specification, else a :class:`SpecError`."""
    if not isinstance(name, str):
        raise SpecError(
            f"{what} must be a name, but {shown(name)} was given", phase=phase, code="wrong_type"
        )
    # ASCII only: outside it two names that look alike, or fold to one identifier when Python
    # compiles them, would be different names here.
    if not _IDENTIFIER.fullmatch(name):
        raise SpecError(
            f"{what} {shown(name)} is not a name; a name is an ASCII letter or underscore, then "
            f"letters, digits or underscores, at most {MAX_NAME} in all",
            phase=phase,
            code="name",
        )
    if name.startswith("__") or keyword.iskeyword(name) or name in {"self", "cls"}:
        raise SpecError(
            f"{what} {shown(name)} has a meaning in Python; choose another name, such as "
            f"{name.strip('_').lower() or 'x'}_",
            phase=phase,
            code="name",
        )
    if name in WORDS or _GENERATED.fullmatch(name):
        raise SpecError(
            f"{what} {shown(name)} is reserved: {listed(sorted(WORDS))} are words of the language, "
            "and v0, v1, ... name generated values; choose another name",
            phase=phase,
            code="reserved_name",
        )
    return name


class Interval(NamedTuple):
    """The hull of a kind's values; an open end does not belong to it."""

    lo: float
    hi: float
    lo_open: bool
    hi_open: bool

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)) or value != value:  # NaN
            return False
        above = value > self.lo if self.lo_open else value >= self.lo
        below = value < self.hi if self.hi_open else value <= self.hi
        return above and below


class _Facts(NamedTuple):
    """One row of the table of kinds."""

    interval: Interval
    dtype: str = "real"
    takes_axis: bool = False
    values: tuple[int, ...] | None = None  # the only values, where there are finitely many
    meaning: str = "a finite number"


_LINE = Interval(-math.inf, math.inf, True, True)
_UNIT = Interval(0.0, 1.0, False, False)

_KINDS: Final[dict[str, _Facts]] = {
    "real": _Facts(_LINE),
    "positive": _Facts(Interval(0.0, math.inf, True, True), meaning="a number above 0"),
    "non_negative": _Facts(Interval(0.0, math.inf, False, True), meaning="0 or a number above"),
    "probability": _Facts(_UNIT, meaning="a number from 0 to 1"),
    # Closed below: -inf is the logarithm of probability 0.
    "log_probability": _Facts(
        Interval(-math.inf, 0.0, False, False), meaning="0 or a number below, -inf included"
    ),
    "simplex": _Facts(
        _UNIT, takes_axis=True, meaning="numbers from 0 to 1 that sum to 1 along the axis"
    ),
    "index": _Facts(
        Interval(0.0, math.inf, False, True),
        dtype="int",
        takes_axis=True,
        meaning="an integer from 0 to the size of the axis less 1",
    ),
    # How much of an axis counts: what stands beyond it is not looked at.
    "length": _Facts(
        Interval(0.0, math.inf, False, True),
        dtype="int",
        takes_axis=True,
        meaning="an integer from 0 to the size of the axis",
    ),
    "binary": _Facts(_UNIT, values=(0, 1), meaning="0 or 1"),
    "sign": _Facts(Interval(-1.0, 1.0, False, False), values=(-1, 1), meaning="-1 or 1"),
    "mask": _Facts(_UNIT, dtype="bool", values=(0, 1), meaning="true or false"),
    "unit": _Facts(
        Interval(-1.0, 1.0, False, False),
        takes_axis=True,
        meaning="vectors of length 1 along the axis",
    ),
    "integer": _Facts(_LINE, dtype="int", meaning="an integer"),
    "flag": _Facts(_UNIT, dtype="bool", values=(0, 1), meaning="true or false"),
    # One array for each leaf of a parameter tree; a loss of a tree is the sum over its leaves.
    "tree": _Facts(_LINE, meaning="a tree of parameters, each leaf an array"),
    # Only a port returns maps: a list of feature maps, each with its own further axes.
    "maps": _Facts(_LINE, meaning="a list of feature maps"),
}

KINDS: Final[tuple[str, ...]] = tuple(_KINDS)


def moved_axis(kind: Kind) -> str | None:
    """The one named axis that a kind has beside an axis group: ``axis`` says where it lies."""
    if len(kind.axes) == 2 and kind.axes[0].startswith("*") and not kind.axes[1].startswith("*"):
        return kind.axes[1]
    return None


def axis_name(axis: str) -> str:
    """An axis without its star."""
    return axis[1:] if axis.startswith("*") else axis


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind: ``name(of)[axes]``; an index, length, simplex or unit refers to the axis ``of``."""

    name: str
    of: str | None = None
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_name()
        self._check_axes()
        self._check_of()

    def _check_name(self) -> None:
        if not isinstance(self.name, str) or self.name not in _KINDS:
            near = suggestion(self.name, _KINDS) if isinstance(self.name, str) else ""
            raise _error(
                f"unknown kind {shown(self.name)}; the kinds are {listed(_KINDS)}{near}",
                "unknown_kind",
            )

    def _check_axes(self) -> None:
        if not isinstance(self.axes, tuple) or not all(isinstance(a, str) for a in self.axes):
            raise _error(
                f"axes must be a tuple of names, but {shown(self.axes)} was given; write "
                "Kind('real', axes=('batch', 'classes'))",
                "wrong_type",
            )
        if len(self.axes) > MAX_RANK:
            raise _error(
                f"{len(self.axes)} axes were given, but a kind has at most {MAX_RANK}; put leading "
                "axes in one group, such as *batch",
                "rank",
            )
        names = [check_name(axis_name(axis), "axis") for axis in self.axes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _error(
                f"axis {listed(twice)} appears twice in {self}; give the second one another name",
                "duplicate_axis",
            )
        stars = [axis for axis in self.axes if axis.startswith("*")]
        if len(stars) > 1:
            raise _error(
                f"{self} has the groups {listed(stars)}, but a kind has at most one axis group of "
                "any rank; name the other axes one by one",
                "two_stars",
            )

    def _check_of(self) -> None:
        takes_axis = _KINDS[self.name].takes_axis
        if (self.of is not None) != takes_axis:
            given = "none was given" if takes_axis else f"{shown(self.of)} was given"
            wants = f"names its axis: {self.name}(classes)" if takes_axis else "takes no axis"
            raise _error(f"the kind {self.name} {wants}, but {given}", "kind_axis")
        if self.of is None:
            return
        check_name(self.of, "axis")
        inside = self.of in self.axes
        if self.dtype == "int" and inside:
            does = "selects along" if self.name == "index" else "counts entries along"
            raise _error(
                f"{self} {does} {self.of}, so {self.of} is not one of its own axes; write "
                f"{self.name}({self.of})[{', '.join(a for a in self.axes if a != self.of)}]",
                "kind_axis",
            )
        if self.dtype != "int" and not inside:
            raise _error(
                f"{self} lies along {self.of}, which must be one of its axes; write "
                f"{self.name}({self.of})[{', '.join((*self.axes, self.of))}]",
                "kind_axis",
            )

    @classmethod
    def parse(cls, text: str) -> Kind:
        """The kind that ``text`` writes, such as ``"index(classes)[*batch]"``."""
        scanner = _Scanner(text)
        kind = scanner.kind()
        scanner.end()
        return kind

    def __str__(self) -> str:
        of = f"({self.of})" if self.of is not None else ""
        axes = f"[{', '.join(self.axes)}]" if self.axes else ""
        return f"{self.name}{of}{axes}"

    @property
    def interval(self) -> Interval:
        """The hull of the values, with its ends open or closed."""
        return _KINDS[self.name].interval

    @property
    def dtype(self) -> str:
        """``real``, ``int`` or ``bool``; binary and sign are real, since they enter arithmetic."""
        return _KINDS[self.name].dtype

    @property
    def values(self) -> tuple[int, ...] | None:
        """The only values there are (binary, sign, mask, flag), or None."""
        return _KINDS[self.name].values

    @property
    def meaning(self) -> str:
        """The domain in words, for messages and documentation."""
        return _KINDS[self.name].meaning

    def __contains__(self, value: object) -> bool:
        """Whether one element may be ``value``; what holds along an axis is not checked here."""
        if self.dtype == "bool" or isinstance(value, bool):
            return self.dtype == "bool" and isinstance(value, bool)
        if not isinstance(value, (int, float)) or value not in self.interval:
            return False
        if self.dtype == "int" and value != math.floor(value):
            return False
        return self.values is None or value in self.values


def parse_signature(text: str) -> tuple[tuple[Kind, ...], Kind]:
    """Inputs and output of ``"(real[batch], real[batch]) -> real[batch]"``."""
    scanner = _Scanner(text)
    scanner.take("(")
    inputs: list[Kind] = []
    if not scanner.accept(")"):
        inputs.append(scanner.kind())
        while scanner.accept(","):
            inputs.append(scanner.kind())
        scanner.take(")")
    scanner.take("->")
    output = scanner.kind()
    scanner.end()
    return tuple(inputs), output


def format_signature(inputs: tuple[Kind, ...], output: Kind) -> str:
    """The text :func:`parse_signature` reads."""
    return f"({', '.join(map(str, inputs))}) -> {output}"


_TOKEN = re.compile(r" *(?:([A-Za-z_][A-Za-z0-9_]*)|(->|[()\[\],*]))", re.ASCII)


class _Scanner:
    """Reads kinds from left to right; a kind does not nest, so nothing here recurses."""

    def __init__(self, text: object) -> None:
        if not isinstance(text, str):
            raise _error(
                f"a kind is text such as 'real[*batch, classes]', but {shown(text)} was given",
                "wrong_type",
            )
        if len(text) > MAX_KIND_CHARACTERS:
            raise _error(
                f"this kind has {len(text)} characters; at most {MAX_KIND_CHARACTERS} are read",
                "too_long",
            )
        self.text = text
        self.tokens: list[str] = []
        position, end = 0, len(text.rstrip(" "))
        while position < end:
            found = _TOKEN.match(text, position)
            if found is None:
                raise self.unexpected(text[position:].lstrip(" ")[:1])
            self.tokens.append(found[1] or found[2])
            position = found.end()
        self.next = 0

    def unexpected(self, token: str) -> SpecError:
        what = shown(token) if token else "the end"
        return _error(
            f"unexpected {what} in the kind {shown(self.text)}; a kind is written like "
            "real[*batch, classes], index(classes)[*batch] or flag",
            "kind_syntax",
        )

    def peek(self) -> str:
        return self.tokens[self.next] if self.next < len(self.tokens) else ""

    def accept(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.next += 1
        return True

    def take(self, token: str) -> None:
        if not self.accept(token):
            raise self.unexpected(self.peek())

    def name(self) -> str:
        token = self.peek()
        if not token or not (token[0].isalpha() or token[0] == "_"):
            raise self.unexpected(token)
        self.next += 1
        return token

    def axis(self) -> str:
        star = "*" if self.accept("*") else ""
        return star + self.name()

    def kind(self) -> Kind:
        name, of, axes = self.name(), None, []
        if self.accept("("):
            of = self.name()
            self.take(")")
        if self.accept("["):
            axes.append(self.axis())
            while self.accept(","):
                axes.append(self.axis())
            self.take("]")
        return Kind(name, of, tuple(axes))

    def end(self) -> None:
        if self.peek():
            raise self.unexpected(self.peek())


def _error(message: str, code: str) -> SpecError:
    return SpecError(message, phase="schema", code=code)
