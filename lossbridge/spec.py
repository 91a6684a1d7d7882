"""A loss as data: :class:`Spec` and its parts, to and from JSON.

A specification holds every fact that changes a number, and nothing that can be executed. Loading is
full validation: :func:`loads` ends in bounded time and memory with a :class:`SpecError` or with a
specification whose graph has been built once. There is no way to load without validating, and no
key of a file can relax a limit.

Three levels of equality: ``==`` compares everything that was written, except that key order counts
only where it means something; :attr:`Spec.hash` compares meaning, and ignores summary, spelling and
local names; neither takes ``-0.0`` for ``0.0``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec.structs import force_setattr

from lossbridge import files
from lossbridge.checks import (
    CASTS,
    EMPTY,
    INITS,
    MASKINGS,
    MAX_ENTRIES,
    MAX_EXPONENT,
    MAX_EXTENSION,
    MAX_SIZE,
    MAX_SPECS,
    MAX_STRING,
    MAX_SUMMARY,
    MAX_USES_DEPTH,
    NORMALIZERS,
    OUTSIDES,
    PRECISIONS,
    REDUCTIONS,
    YIELDS,
    array_literal,
    array_of,
    as_number,
    as_numbers,
    check_kind,
    choice,
    example,
    instance,
    literal,
    prose,
    schema_error,
    semantic_error,
    split_id,
    too_many,
)
from lossbridge.errors import (
    ArgumentError,
    DomainError,
    SpecError,
    listed,
    shown,
    suggestion,
)
from lossbridge.kinds import (
    MAX_RANK,
    Kind,
    axis_name,
    check_name,
    format_signature,
    moved_axis,
    parse_signature,
)
from lossbridge.reader import Json, read_file, read_json
from lossbridge.text import (
    MAX_AST_NODES,
    MAX_LINE,
    MAX_LINES,
    RESULTS,
    Assignment,
    Binary,
    Call,
    Expression,
    Index,
    Number,
    Scan,
    Unary,
    canonical_body,
    children,
    parse_body,
    walk,
)

FORMAT: Final = 1
"""The version of the file format this release writes, and the newest it reads."""

# Names every loss already uses for something: outputs, and arguments of constructors and calls.
_TAKEN: Final = frozenset({*RESULTS, "step"})
_CONSTRUCTOR: Final = frozenset({"reduction", "normalizer", "axis", "dtype", "name", "empty"})
_CALL: Final = frozenset({"sample_weight", "mask", "normalizer_count"})

V = TypeVar("V")


class Table(Mapping[str, V]):
    """A frozen, hashable, ordered mapping; two tables are equal if their order is equal too."""

    __slots__ = ("_entries", "_found")

    def __init__(self, entries: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        pairs: Any = entries.items() if isinstance(entries, Mapping) else entries
        self._entries: tuple[tuple[str, V], ...] = tuple(pairs)
        self._found: dict[str, V] = dict(self._entries)

    def __getitem__(self, name: str) -> V:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Table):
            return self._entries == other._entries
        return self._found == other

    def __hash__(self) -> int:
        return hash(self._entries)

    def __repr__(self) -> str:
        return f"Table({self._found!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self._entries,)


def _exact(value: object) -> object:
    """A number as a value whose ``==`` keeps the sign of zero, but not the spelling 1 or 1.0."""
    if isinstance(value, tuple):
        return [_exact(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return float(value).hex()


Value: TypeAlias = "float | int | bool | tuple[Value, ...]"


class Param(msgspec.Struct, frozen=True, eq=False):
    """A static number, or an array of them as nested tuples, one level for each axis of the kind.

    ``value`` is its default; None means that the caller must give one.
    """

    kind: Kind
    value: Any = None  # a `Value` or None; msgspec takes no recursive alias

    def __post_init__(self) -> None:
        check_kind(self.kind, "a parameter")
        if self.value is None:
            return
        # Stored as its kind's type, so that 2 and 2.0 print alike.
        force_setattr(self, "value", array_literal(self.value, self.kind))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Param):
            return NotImplemented
        return self.kind == other.kind and _exact(self.value) == _exact(other.value)

    def __hash__(self) -> int:
        return hash((self.kind, repr(_exact(self.value))))


class Weight(msgspec.Struct, frozen=True, eq=False):
    """A trainable array.

    ``init`` is a rule of :data:`INITS` or a number that fills it. ``sizes`` says how long each of
    its axes is: a number, or the name of the constructor argument that gives it.
    """

    kind: Kind
    init: str | float = "zeros"
    sizes: Mapping[str, str | int] = {}

    def __post_init__(self) -> None:
        check_kind(self.kind, "a weight")
        if self.kind.dtype != "real":
            raise schema_error(
                f"a weight is trained, so it is real, but {self.kind} was given", "kind"
            )
        if isinstance(self.init, str):
            choice(self.init, INITS, "the init of a weight")
        else:
            force_setattr(self, "init", float(literal(self.init, self.kind, "an init")))
        force_setattr(self, "sizes", self._checked_sizes())

    def _checked_sizes(self) -> Table[str | int]:
        instance(self.sizes, Mapping, "the sizes of a weight")
        if set(self.sizes) != set(self.kind.axes):
            raise schema_error(
                f"a weight states the size of each of its axes, {listed(self.kind.axes)}, but "
                f"sizes of {listed(map(shown, self.sizes))} were given; write "
                '"sizes": {"classes": "num_classes"}',
                "sizes",
            )
        for axis, size in self.sizes.items():
            if axis.startswith("*"):
                raise schema_error(
                    f"a weight's axes have known sizes, so {axis} cannot be one", "sizes"
                )
            if isinstance(size, str):
                check_name(size, "the argument that gives a size")
            elif isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
                raise schema_error(
                    f"the size of {axis} must be an argument's name or an integer from 1 to "
                    f"{MAX_SIZE}, but {shown(size)} was given",
                    "sizes",
                )
        return Table((axis, self.sizes[axis]) for axis in self.kind.axes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Weight):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self.kind, _exact(self.init), self.sizes)


class Port(msgspec.Struct, frozen=True):
    """A function the user supplies: a critic, a network, a feature extractor."""

    inputs: tuple[Kind, ...]
    output: Kind

    def __post_init__(self) -> None:
        if len(self.inputs) > MAX_ENTRIES:
            raise too_many(len(self.inputs), "inputs of a port")
        for kind in self.inputs:
            check_kind(kind, "an input of a port")

    @classmethod
    def parse(cls, text: str) -> Port:
        """The port that ``"(real[batch, *features]) -> real[batch]"`` writes."""
        inputs, output = parse_signature(text)
        return cls(inputs, output)

    def __str__(self) -> str:
        return format_signature(self.inputs, self.output)


class Reduction(msgspec.Struct, frozen=True):
    """How the values become one number, and what a mean divides by."""

    kind: str = "mean"
    normalizer: str = "elements"

    def __post_init__(self) -> None:
        choice(self.kind, REDUCTIONS, "the reduction")
        choice(self.normalizer, NORMALIZERS, "the normalizer")


class Numerics(msgspec.Struct, frozen=True):
    """The precision in which a loss is computed, and in which its sums are accumulated.

    ``cast`` is for losses that take numbers of any dtype, as some frameworks' own do. A dtype: all
    that is real is rounded to it first, and the result is of it. ``floating``: only what is not
    floating is cast, to the platform's default. In both, labels held as floats become integers.

    ``outside`` is for losses that evaluate their formula wherever an input lies, as those of most
    frameworks do: ``formula``. Left out, what is outside its domain is an error, or NaN.

    ``masked`` is for losses whose mask is a factor of 0 and 1, as Keras's is, where 0 times NaN
    shows: ``multiply``. Left out, a mask selects, and nothing that it hides is looked at.
    """

    compute: str = "at_least_float32"
    accumulate: str = "at_least_float32"
    cast: str | None = None
    outside: str | None = None
    masked: str | None = None

    def __post_init__(self) -> None:
        choice(self.compute, PRECISIONS, "the precision to compute in")
        choice(self.accumulate, PRECISIONS, "the precision to accumulate in")
        if self.cast is not None:
            choice(self.cast, CASTS, "what inputs are cast to")
        if self.outside is not None:
            choice(self.outside, OUTSIDES, "what inputs outside their domain give")
        if self.masked is not None:
            choice(self.masked, MASKINGS, "what a mask does to a value that does not count")
        if PRECISIONS.index(self.accumulate) < PRECISIONS.index(self.compute):
            raise semantic_error(
                f"sums would be accumulated in {self.accumulate}, narrower than the "
                f"{self.compute} they are computed in; give accumulate at least the precision of "
                "compute",
                "narrow_accumulate",
            )

    @property
    def dtype(self) -> str | None:
        """The one dtype that inputs are cast to, if there is one."""
        return None if self.cast == "floating" else self.cast


class Spec(msgspec.Struct, frozen=True, kw_only=True, dict=True, cache_hash=True):
    """A loss as data. ``Spec(...)`` checks everything but the graph; :func:`validate` checks all.

    Mappings may be given as dicts; they are held as :class:`Table`.
    """

    loss: str  # the id, "name@version" or "space/name@version"
    inputs: Mapping[str, Kind]  # ordered: what a positional call means
    body: tuple[str, ...]
    yields: str
    summary: str = ""
    references: tuple[str, ...] = ()
    params: Mapping[str, Param] = {}
    weights: Mapping[str, Weight] = {}
    ports: Mapping[str, Port] = {}
    step: bool = False
    uses: Mapping[str, Spec] = {}
    reduction: Reduction = Reduction()
    empty: str = "nan"
    axis: int | None = None  # where the one axis beside a group lies; None: where a platform has it
    numerics: Numerics = Numerics()
    extensions: Mapping[str, str] = {}  # keys starting "x-", their values as JSON text

    def __post_init__(self) -> None:
        split_id(self.loss)
        for field in ("inputs", "params", "weights", "ports", "uses", "extensions"):
            self._freeze(field)
        self._check_values()
        self._check_names()
        self._check_axes()
        self._check_sizes()
        self._check_uses()
        self._check_body()

    def _freeze(self, field: str) -> None:
        table = dict(msgspec.structs.asdict(self))[field]
        if not isinstance(table, Mapping):
            raise schema_error(
                f"{field} must be a mapping of names, not {shown(table)}", "wrong_type"
            )
        if len(table) > MAX_ENTRIES:
            raise too_many(len(table), field)
        force_setattr(self, field, Table(table))

    def _check_values(self) -> None:
        if not self.inputs:
            raise schema_error(
                'a loss has at least one input; write "inputs": {"prediction": "real[*batch]"}',
                "missing_input",
            )
        for name, kind in self.inputs.items():
            instance(kind, Kind, f"the input {shown(name)}")
            check_kind(kind, f"the input {shown(name)}")
        parts: tuple[tuple[Mapping[str, object], type], ...] = (
            (self.params, Param),
            (self.weights, Weight),
            (self.ports, Port),
            (self.uses, Spec),
            (self.extensions, str),
        )
        for table, wanted in parts:
            for name, value in table.items():
                instance(value, wanted, shown(name))
        instance(self.reduction, Reduction, "reduction")
        instance(self.numerics, Numerics, "numerics")
        instance(self.step, bool, "step")
        choice(self.yields, YIELDS, "yields")
        choice(self.empty, EMPTY, "empty")
        self._check_axis()
        prose(self.summary, MAX_SUMMARY, "the summary")
        if len(self.references) > MAX_ENTRIES:
            raise too_many(len(self.references), "references")
        force_setattr(self, "references", tuple(self.references))
        for reference in self.references:
            prose(reference, MAX_STRING, "a reference")

    def _check_axis(self) -> None:
        if self.axis is None:
            return
        if isinstance(self.axis, bool) or not isinstance(self.axis, int):
            raise schema_error(
                f"axis must be an integer, the place of the class axis, but {shown(self.axis)} "
                "was given",
                "wrong_type",
            )
        if not -MAX_RANK <= self.axis < MAX_RANK:
            raise semantic_error(
                f"axis is {self.axis}, but an array here has at most {MAX_RANK} axes", "domain"
            )
        if not any(moved_axis(kind) for kind in self.inputs.values()):
            raise semantic_error(
                "axis places the one axis that an input has beside its axis group, and no input "
                "here has such an axis; leave axis out",
                "unknown_axis",
            )

    def _check_names(self) -> None:
        sections = {
            "an input": (self.inputs, _TAKEN | _CALL),
            "a parameter": (self.params, _TAKEN | _CONSTRUCTOR),
            "a weight": (self.weights, _TAKEN),
            "a port": (self.ports, _TAKEN | _CONSTRUCTOR),
            "a used loss": (self.uses, _TAKEN),
        }
        first: dict[str, str] = {}
        for what, (table, taken) in sections.items():
            for name in table:
                check_name(name, f"the name of {what}")
                if name in taken:
                    raise schema_error(
                        f"{what} cannot be called {name}, which means something for every loss; "
                        f"choose another name, such as {name}_",
                        "reserved_name",
                    )
                if name in first:
                    raise semantic_error(
                        f"{name} names {first[name]} and {what}; give one of them another name",
                        "duplicate_name",
                    )
                first[name] = what

    def declared_kinds(self) -> Iterator[Kind]:
        """Every kind the loss declares, in layout order: inputs, params, weights, ports."""
        yield from self.inputs.values()
        yield from (param.kind for param in self.params.values())
        yield from (weight.kind for weight in self.weights.values())
        for port in self.ports.values():
            yield from port.inputs
            yield port.output

    def _check_axes(self) -> None:
        axes = dict.fromkeys(axis for kind in self.declared_kinds() for axis in kind.axes)
        stars = [axis for axis in axes if axis.startswith("*")]
        # A loss made of others hands each its own inputs, and their groups never meet.
        if len(stars) > 1 and not self.uses:
            raise semantic_error(
                f"a loss may have one axis group of any rank, but this one has {listed(stars)}; "
                "name the other axes one by one",
                "two_stars",
            )
        for star in stars:
            if axis_name(star) in axes:
                raise semantic_error(
                    f"{axis_name(star)} is one axis in one place and a group, {star}, in another; "
                    "use one of the two throughout",
                    "axis_star",
                )
        for kind in self.declared_kinds():
            # The classes that a used loss has weights for are an axis of that loss alone.
            if kind.of is not None and kind.of not in axes and not self.uses:
                raise semantic_error(
                    f"{kind} refers to the axis {kind.of}, which nothing here has; the axes are "
                    f"{listed(axes)}{suggestion(kind.of, axes)}",
                    "unknown_axis",
                )

    def _check_sizes(self) -> None:
        sizes: dict[str, str | int] = {}
        for name, weight in self.weights.items():
            for axis, size in weight.sizes.items():
                if sizes.setdefault(axis, size) != size:
                    raise semantic_error(
                        f"the axis {axis} has the size {sizes[axis]} in one weight and {size} in "
                        f"{name}; an axis has one size",
                        "size_conflict",
                    )
                if isinstance(size, str) and (size in self.params or size in self.ports):
                    raise semantic_error(
                        f"{size} names a size and something else the constructor takes; choose "
                        "another name for one of them",
                        "duplicate_name",
                    )

    def _check_uses(self) -> None:
        # Every used loss was checked when it was made, so these walks meet bounded trees only.
        depth = 1 + max((_depth(used) for used in self.uses.values()), default=0)
        if depth > MAX_USES_DEPTH:
            raise schema_error(
                f"losses use losses {depth} deep, but at most {MAX_USES_DEPTH} deep is read; "
                "write the innermost formulas out",
                "uses_too_deep",
            )
        count = 1 + sum(_count(used) for used in self.uses.values())
        if count > MAX_SPECS:
            raise schema_error(
                f"this loss is made of {count} losses, each use counted, but at most {MAX_SPECS} "
                "are read",
                "uses_too_large",
            )

    def _check_body(self) -> None:
        if isinstance(self.body, str) or not all(isinstance(line, str) for line in self.body):
            raise schema_error(
                'the body is a list of lines, such as ["value = (a - b) ** 2"], but '
                f"{shown(self.body)} was given",
                "wrong_type",
            )
        force_setattr(self, "body", tuple(self.body))
        assigned = [assignment.name for assignment in self.assignments]
        if "value" not in assigned:
            raise semantic_error(
                "the body assigns no value; its last line is written like: value = (a - b) ** 2",
                "no_value",
            )
        self._check_locals(assigned)
        if self.expanded_nodes > MAX_AST_NODES:
            raise semantic_error(
                f"with the losses it calls written out, the body has {self.expanded_nodes} "
                f"operations, names and numbers, but at most {MAX_AST_NODES} are read; give what "
                "is called twice with the same arguments a name",
                "too_many_nodes",
            )
        # The same id must mean the same loss throughout, or its name would say nothing.
        known: dict[str, str] = {}
        for spec in _tree(self):
            if known.setdefault(spec.id, spec.hash) != spec.hash:
                raise semantic_error(
                    f"{shown(spec.id)} stands for two different losses here; give one of them "
                    "another name or version",
                    "id_conflict",
                )

    def _check_locals(self, assigned: list[str]) -> None:
        axes = {axis_name(axis) for kind in self.declared_kinds() for axis in kind.axes}
        given = [*self.inputs, *self.params, *self.weights, *self.ports, *self.uses]
        outer = {*given, *assigned, *(["step"] if self.step else [])}
        locals_ = [(name, "assigned", {*given, "step"}) for name in assigned]
        # Each expression with the carries that it may read.
        stack: list[tuple[Expression, frozenset[str]]] = [
            (assignment.expr, frozenset()) for assignment in reversed(self.assignments)
        ]
        while stack:
            found, carries = stack.pop()
            if isinstance(found, Index):
                axes.add(found.axis)
            elif isinstance(found, Scan):
                locals_.append((found.carry, "a carry", {*outer, *_TAKEN, *carries}))
                stack.append((found.init, carries))
                stack.append((found.body, carries | {found.carry}))
                continue
            stack.extend((child, carries) for child in children(found))
        for name, what, taken in locals_:
            if name in taken:
                raise semantic_error(
                    f"{name} is {what} in the body, but is already the name of something else; "
                    "choose another name",
                    "duplicate_name",
                )
            if name in axes:
                raise semantic_error(
                    f"{name} is {what} in the body, but is also an axis; choose another name, so "
                    f"that {name} in a call means one thing",
                    "duplicate_name",
                )

    # what the rest of the package asks for

    @functools.cached_property
    def assignments(self) -> tuple[Assignment, ...]:
        """The body as syntax trees."""
        return parse_body(self.body)

    @functools.cached_property
    def expanded_nodes(self) -> int:
        """The size of the body with every call of a used loss written out.

        Equal rows of a graph are shared, so its size does not bound the work of building it: sixty
        equal calls, eight losses deep, make few rows in 60**7 steps.
        """
        nodes = [node for a in self.assignments for node in walk(a.expr)]
        calls = [node.name for node in nodes if isinstance(node, Call) and node.name in self.uses]
        return len(nodes) + sum(self.uses[name].expanded_nodes for name in calls)

    @property
    def id(self) -> str:
        """``acme/focal@1``: the key ``loss`` of the file, under the name messages use."""
        return self.loss

    @property
    def namespace(self) -> str | None:
        """``acme`` of ``acme/focal@1``; None for a loss of the catalogue."""
        return split_id(self.loss)[0]

    @property
    def name(self) -> str:
        """``focal`` of ``acme/focal@1``."""
        return split_id(self.loss)[1]

    @property
    def version(self) -> int:
        """1 of ``acme/focal@1``."""
        return split_id(self.loss)[2]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of what the loss means.

        The order of inputs counts, since a positional call depends on it; other key order, the
        spelling of numbers and text, white space, redundant parentheses, local names, summary,
        references and extensions do not.
        """
        text = json.dumps(self._meaning(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def _meaning(self) -> dict[str, Any]:
        return {
            "lossbridge": FORMAT,
            "loss": self.id,
            "inputs": [[name, str(kind)] for name, kind in self.inputs.items()],
            "params": {n: [str(p.kind), _exact(p.value)] for n, p in self.params.items()},
            "weights": {
                n: [str(w.kind), _exact(w.init), [[a, s] for a, s in w.sizes.items()]]
                for n, w in self.weights.items()
            },
            "ports": {name: str(port) for name, port in self.ports.items()},
            "step": self.step,
            "uses": {name: used.hash for name, used in self.uses.items()},
            "body": canonical_body(self.assignments),
            "yields": self.yields,
            "reduction": [self.reduction.kind, self.reduction.normalizer],
            "empty": self.empty,
            "numerics": list(_said(self.numerics).values()),
            **({} if self.axis is None else {"axis": self.axis}),
        }

    def bind(self, /, **params: object) -> dict[str, Any]:
        """A value for every parameter: the one given, else the default.

        A number is checked against the parameter's domain. An array becomes a run-time input and
        is passed through as it is: nothing here may read a tensor's values.
        """
        for name in params:
            if name not in self.params:
                raise ArgumentError(
                    f"{self.id} has no parameter {shown(name)}; its parameters are "
                    f"{listed(self.params)}{suggestion(name, self.params)}"
                )
        return {
            name: self._bound(name, param, params.get(name, param.value))
            for name, param in self.params.items()
        }

    def _bound(self, name: str, param: Param, value: object) -> Any:
        if value is None:
            raise ArgumentError(
                f"{self.id} needs the parameter {name} ({param.kind}: {param.kind.meaning}), but "
                f"no value was given; write {name}=..., for instance {name}={example(param.kind)}"
            )
        scalar = as_number(value)
        if scalar is not None or isinstance(value, list | tuple):
            try:
                found = array_literal(
                    as_numbers(value), param.kind, f"{name} of {self.id}", param.value
                )
            except SpecError as error:
                wrong = ArgumentError if error.code == "wrong_type" else DomainError
                raise wrong(error.message) from None
            return array_of(found, param.kind) if isinstance(found, tuple) else found
        if hasattr(value, "shape") and param.kind.dtype == "real" and not _holds_text(value):
            return value
        raise ArgumentError(
            f"{name} of {self.id} must be {param.kind} ({param.kind.meaning}), but "
            f"{shown(type(value).__name__)} was given; give a number"
            + (" or an array" if param.kind.dtype == "real" else "")
            + f", for instance {name}={example(param.kind)}"
        )


def _holds_text(array: object) -> bool:
    """Whether a NumPy array holds text or objects; other frameworks have no such arrays."""
    return getattr(getattr(array, "dtype", None), "kind", "") in ("O", "S", "U")


# --- checks ------------------------------------------------------------------------------------


def validate(spec: Spec) -> None:
    """Check what only the table of operations and the graph can tell: names, arities, axes."""
    from lossbridge.ops import OPS  # here, since a reader of specifications needs no compiler
    from lossbridge.trace import build_graph

    for used in _tree(spec):
        _check_op_names(used, OPS)
        for assignment in used.assignments:
            for found in walk(assignment.expr):
                _check_literals(found)
    build_graph(spec)


def _check_op_names(spec: Spec, ops: Mapping[str, object]) -> None:
    declared = [*spec.inputs, *spec.params, *spec.weights, *spec.ports, *spec.uses]
    assigned = [assignment.name for assignment in spec.assignments]
    for name in (*declared, *assigned):
        if name in ops:
            raise semantic_error(
                f"{name} is an operation, so it cannot name anything else; choose another name, "
                f"such as {name}_",
                "reserved_name",
            )


def _value_of(expr: Expression) -> float | None:
    """The number a literal writes, with its sign; None for anything else."""
    match expr:
        case Number(value):
            return float(value)
        case Unary("-", Number(value)):
            return -float(value)
        case _:
            return None


# Functions of one literal that are undefined there: (name, is it undefined?, where it is defined).
_UNDEFINED: Final[dict[str, tuple[Callable[[float], bool], str]]] = {
    "log": (lambda x: x <= 0.0, "above 0"),
    "log1p": (lambda x: x <= -1.0, "above -1"),
    "sqrt": (lambda x: x < 0.0, "from 0"),
}


def _check_literals(expr: Expression) -> None:
    """Refuse constants that can only be a mistake or an attack."""
    match expr:
        case Binary("**", _, power) | Call("pow", (_, power), ()):
            exponent = _value_of(power)
            if exponent is not None and abs(exponent) > MAX_EXPONENT:
                raise semantic_error(
                    f"the exponent {exponent!r} is larger than {MAX_EXPONENT:g} in size; write "
                    "exp(c * log(x)) if that is meant",
                    "exponent",
                )
        case Binary("/", _, divisor) if _value_of(divisor) == 0.0:
            raise semantic_error("the body divides by the constant 0", "division_by_zero")
        case Call(name, (x,), ()) if name in _UNDEFINED:
            undefined, where = _UNDEFINED[name]
            constant = _value_of(x)
            if constant is not None and undefined(constant):
                raise semantic_error(
                    f"{name} is defined {where}, but the body takes it of {constant!r}",
                    "constant_domain",
                )
        case Call("clip", (_, low, high), ()):
            ends = _value_of(low), _value_of(high)
            if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
                raise semantic_error(
                    f"clip is given the empty interval from {ends[0]!r} to {ends[1]!r}; the lower "
                    "end comes first",
                    "empty_interval",
                )


def _tree(spec: Spec) -> Iterator[Spec]:
    """A specification and all it uses, each use counted."""
    stack = [spec]
    while stack:
        found = stack.pop()
        yield found
        stack.extend(found.uses.values())


def _count(spec: Spec) -> int:
    return sum(1 for _ in _tree(spec))


def _depth(spec: Spec) -> int:
    return 1 + max((_depth(used) for used in spec.uses.values()), default=0)


def with_values(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """A specification with these values as the defaults of its parameters."""
    params = {
        n: msgspec.structs.replace(p, value=values[n]) if n in values else p
        for n, p in spec.params.items()
    }
    return msgspec.structs.replace(spec, params=params)


def replace_body(spec: Spec, body: Iterable[str]) -> Spec:
    """The same declarations with another body."""
    return msgspec.structs.replace(spec, body=tuple(body))


# --- reading -----------------------------------------------------------------------------------


def loads(data: str | bytes | bytearray | memoryview) -> Spec:
    """The specification that ``data`` writes, fully validated."""
    spec = _from_json(read_json(data), "the specification", 1)
    validate(spec)
    return spec


def load(path: str | os.PathLike[str]) -> Spec:
    """The specification in a file, fully validated.

    The file is opened and read once, so what is validated is what is returned; its size is checked
    before any of it is read.
    """
    return loads(read_file(path))


def _from_json(value: Json, where: str, depth: int) -> Spec:
    data = _object(value, where)
    # The version first: every other complaint about a newer file would mislead.
    _check_version(data, where)
    if depth > MAX_USES_DEPTH:
        raise schema_error(
            f"losses use losses more than {MAX_USES_DEPTH} deep; write the innermost formulas out",
            "uses_too_deep",
        )
    extensions = {key: data[key] for key in data if key.startswith("x-")}
    _check_keys(
        {key: item for key, item in data.items() if key not in extensions},
        where,
        required=("lossbridge", "loss", "inputs", "body", "yields"),
        optional=_OPTIONAL_KEYS,
    )
    given: dict[str, Any] = {
        "inputs": {
            name: Kind.parse(_text(kind, f"the input {shown(name)}"))
            for name, kind in _section(data, "inputs").items()
        },
        "params": {n: _param(p, n) for n, p in _section(data, "params").items()},
        "weights": {n: _weight(w, n) for n, w in _section(data, "weights").items()},
        "ports": {
            name: Port.parse(_text(port, f"the port {shown(name)}"))
            for name, port in _section(data, "ports").items()
        },
        "uses": {
            name: _from_json(used, f"the used loss {shown(name)}", depth + 1)
            for name, used in _section(data, "uses").items()
        },
        "body": _lines(data["body"], "body", MAX_LINES, MAX_LINE),
        "references": _lines(data.get("references", []), "references", MAX_ENTRIES, MAX_STRING),
        "reduction": _words(data, "reduction", Reduction),
        "numerics": _words(data, "numerics", Numerics),
        "extensions": {key: _extension(key, item) for key, item in extensions.items()},
    }
    for key in ("yields", "summary", "step", "empty"):
        if key in data:
            given[key] = data[key]
    if data.get("axis") is not None:
        given["axis"] = _size(data["axis"], "axis")
    return Spec(loss=_text(data["loss"], "the id, loss,"), **given)


_OPTIONAL_KEYS: Final = (
    "summary",
    "references",
    "params",
    "weights",
    "ports",
    "step",
    "uses",
    "reduction",
    "empty",
    "axis",
    "numerics",
)


def _check_version(data: dict[str, Json], where: str) -> None:
    version = data.get("lossbridge")
    if version is None and "lossbridge" not in data:
        raise schema_error(
            f'{where} does not say which version of the format it is in; write "lossbridge": '
            f"{FORMAT}",
            "missing_key",
        )
    if isinstance(version, bool) or not isinstance(version, int | float):
        raise schema_error(
            f"the version of the format, lossbridge, must be an integer, but {shown(version)} was "
            f'given; write "lossbridge": {FORMAT}',
            "wrong_type",
        )
    if version > FORMAT:
        raise schema_error(
            f"{where} is in version {shown(version)} of the format, but this release reads "
            f"version {FORMAT}; install a newer lossbridge, or save the loss for version {FORMAT}",
            "newer_version",
        )
    if version != FORMAT:
        raise schema_error(
            f"there is no version {shown(version)} of the format; this release reads version "
            f"{FORMAT}",
            "version",
        )


def _object(value: Json, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise schema_error(f"{where} must be an object, but {shown(value)} was given", "wrong_type")
    return value


def _section(data: dict[str, Json], key: str) -> dict[str, Json]:
    section = _object(data.get(key, {}), key)
    if len(section) > MAX_ENTRIES:
        raise too_many(len(section), key)
    return section


def _check_keys(
    data: dict[str, Json], where: str, *, required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    known = (*required, *optional)
    for key in data:
        if key not in known:
            raise schema_error(
                f"{where} has the unknown key {shown(key)}; the keys are {listed(known)}"
                f"{suggestion(key, known)} (a note of your own: a key starting x-, beside loss)",
                "unknown_key",
            )
    for key in required:
        if key not in data:
            raise schema_error(f"{where} lacks the key {key}", "missing_key")


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise schema_error(f"{what} must be text, but {shown(value)} was given", "wrong_type")
    return value


def _lines(value: Json, what: str, most: int, longest: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise schema_error(
            f"{what} must be a list of lines, but {shown(value)} was given", "wrong_type"
        )
    if len(value) > most:
        raise schema_error(
            f"{what} has {len(value)} lines, but at most {most} are read", "too_many"
        )
    lines = tuple(_text(line, f"a line of {what}") for line in value)
    for line in lines:
        if len(line) > longest:
            raise schema_error(
                f"a line of {what} has {len(line)} characters, but at most {longest} are read",
                "too_long",
            )
    return lines


def _param(value: Json, name: str) -> Param:
    where = f"the parameter {shown(name)}"
    data = _object(value, where)
    _check_keys(data, where, required=("kind", "value"), optional=())
    kind = Kind.parse(_text(data["kind"], f"the kind of {where}"))
    default = data["value"]
    if default is None:
        return Param(kind)
    check_kind(kind, where)
    return Param(kind, array_literal(default, kind, f"the value of {where}"))


def _weight(value: Json, name: str) -> Weight:
    where = f"the weight {shown(name)}"
    data = _object(value, where)
    _check_keys(data, where, required=("kind", "init"), optional=("sizes",))
    kind = Kind.parse(_text(data["kind"], f"the kind of {where}"))
    init = data["init"]
    if isinstance(init, bool) or not isinstance(init, str | int | float):
        raise schema_error(f"the init of {where} must be a word or a number", "wrong_type")
    sizes = _object(data.get("sizes", {}), f"the sizes of {where}")
    return Weight(kind, init, {axis: _size(size, axis) for axis, size in sizes.items()})


def _size(value: Json, axis: str) -> str | int:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # JSON does not tell 4.0 from 4
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise schema_error(f"the size of {shown(axis)} must be a name or an integer", "wrong_type")
    return value


T = TypeVar("T")


def _words(data: dict[str, Json], key: str, part: Callable[..., T]) -> T:
    """A small object of words, missing ones taking their defaults."""
    fields = {
        "reduction": ("kind", "normalizer"),
        "numerics": ("compute", "accumulate", "cast", "outside", "masked"),
    }[key]
    given = _object(data.get(key, {}), key)
    _check_keys(given, key, required=(), optional=fields)
    return part(**given)


def _extension(key: str, value: Json) -> str:
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    if len(key) > MAX_STRING or len(text) > MAX_EXTENSION:
        raise schema_error(
            f"the note {shown(key)} is longer than {MAX_EXTENSION} characters", "too_long"
        )
    return text


# --- writing -----------------------------------------------------------------------------------


def dumps(spec: Spec, indent: int | None = 2) -> str:
    """``spec`` as readable JSON, the specifications it uses included; ``None`` for one line.

    Defaults are written out: a file says everything that changes a number, also to a reader who
    does not know today's defaults.
    """
    data = to_json(spec)
    if indent is None:
        return _compact(data)
    return _pretty(data, indent, 0) + "\n"


def dump(spec: Spec, path: str | os.PathLike[str], indent: int | None = 2) -> None:
    """Write ``spec`` to a file; the file is replaced whole or left as it was."""
    files.write(path, dumps(spec, indent).encode())


def to_json(spec: Spec) -> dict[str, Any]:
    """``spec`` as plain JSON values, in the order of the published format."""
    data: dict[str, Any] = {"lossbridge": FORMAT, "loss": spec.id}
    if spec.summary:
        data["summary"] = spec.summary
    if spec.references:
        data["references"] = list(spec.references)
    data["inputs"] = {name: str(kind) for name, kind in spec.inputs.items()}
    params = {n: {"kind": str(p.kind), "value": p.value} for n, p in spec.params.items()}
    weights = {
        n: {"kind": str(w.kind), "init": w.init} | ({"sizes": dict(w.sizes)} if w.sizes else {})
        for n, w in spec.weights.items()
    }
    ports = {name: str(port) for name, port in spec.ports.items()}
    uses = {name: to_json(used) for name, used in spec.uses.items()}
    for key, section in zip(
        ("params", "weights", "ports", "uses"), (params, weights, ports, uses), strict=True
    ):
        if section:
            data[key] = section
    if spec.step:
        data["step"] = True
    data["body"] = list(spec.body)
    data["yields"] = spec.yields
    data["reduction"] = msgspec.structs.asdict(spec.reduction)
    data["empty"] = spec.empty
    if spec.axis is not None:
        data["axis"] = spec.axis
    data["numerics"] = _said(spec.numerics)
    data.update((key, json.loads(text)) for key, text in spec.extensions.items())
    return data


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _said(numerics: Numerics) -> dict[str, Any]:
    """Each policy that there is; no cast is none."""
    return {k: v for k, v in msgspec.structs.asdict(numerics).items() if v is not None}


_WIDTH = 100


def _pretty(value: Any, indent: int, column: int) -> str:
    """JSON with short objects on one line, so that a loss fits on a page."""
    line = _compact(value)
    # The top level is never one line, and neither is a body: it is read line by line.
    if not isinstance(value, dict | list) or not value:
        return line
    if column and len(line) + column <= _WIDTH:
        return line
    inner = column + indent
    if isinstance(value, list):
        parts = [_pretty(item, indent, inner) for item in value]
    else:
        parts = [f"{_compact(k)}: {_pretty_entry(k, v, indent, inner)}" for k, v in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    space = " " * inner
    return f"{opening}\n{space}" + f",\n{space}".join(parts) + f"\n{' ' * column}{closing}"


def _pretty_entry(key: str, value: Any, indent: int, column: int) -> str:
    if key == "body" and isinstance(value, list) and len(value) > 1:
        space = " " * (column + indent)
        lines = f",\n{space}".join(map(_compact, value))
        return f"[\n{space}{lines}\n{' ' * column}]"
    return _pretty(value, indent, column)


def write_schema(path: str | os.PathLike[str]) -> None:
    """Regenerate the published JSON Schema, ``lossbridge/schema/spec-v1.json``."""
    from lossbridge.schema import write_schema as write

    write(path)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the published format."""
    from lossbridge.schema import json_schema as schema

    return schema()


__all__ = [
    "FORMAT",
    "Numerics",
    "Param",
    "Port",
    "Reduction",
    "Spec",
    "Table",
    "Weight",
    "dump",
    "dumps",
    "json_schema",
    "load",
    "loads",
    "replace_body",
    "split_id",
    "to_json",
    "validate",
    "write_schema",
]
