"""What the three front doors share: constructors, calls, shapes, messages. Knows no framework.

A :class:`Form` is a public class: its name and the losses behind it (several, where the kind of an
input decides, as for integer or probability targets). :func:`bind` turns constructor arguments into
a :class:`Bound`; :func:`bind_call` turns those of a call into named inputs.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import msgspec

from lossbridge import slips
from lossbridge.checks import EMPTY, NORMALIZERS, REDUCTIONS
from lossbridge.divisors import DIVISORS
from lossbridge.dtypes import Promotion, promotion
from lossbridge.errors import (
    ArgumentError,
    ShapeError,
    UnsupportedError,
    listed,
    shown,
)
from lossbridge.ir import is_star
from lossbridge.kinds import Kind
from lossbridge.kinds import moved_axis as moved_axis
from lossbridge.plan import Numbers, Options, Plan, enclosed_inputs, index_sources, plan
from lossbridge.spec import Reduction, Spec, with_values
from lossbridge.synonyms import class_hint, setting_hint
from lossbridge.trace import Definition

CLASS_AXIS = "classes"
DEFAULT_CLASS_AXIS = {"torch": 1, "keras": -1, "jax": -1}

# A platform's own names for reductions -> (kind, normaliser; None: the loss's own).
REDUCTION_NAMES: Mapping[str, tuple[str, str | None]] = {
    "batchmean": ("mean", "batch"),
    "sum_over_batch_size": ("mean", "elements"),
    "mean_with_sample_weight": ("mean", "weights"),
}
_MEANT = {
    **dict.fromkeys(("avg", "average", "elementwise_mean", "micro"), "reduction='mean'"),
    **dict.fromkeys(("add", "total"), "reduction='sum'"),
    **dict.fromkeys(("batch_mean", "mean_batch", "batch"), "reduction='batchmean'"),
    **dict.fromkeys(("auto", "default"), "reduction='mean'"),
    **dict.fromkeys(("token_mean", "valid", "mean_nonzero"), "normalizer='valid'"),
}
CALL_KEYWORDS = ("sample_weight", "mask", "normalizer_count", "step")
ALIASES = {
    "torch": ("input", "target"),
    "keras": ("y_pred", "y_true"),
    "jax": ("predictions", "targets"),
}


@dataclass(frozen=True)
class Calls:
    """How a built-in is called, beyond inputs of one shape and dtype.

    ``broadcast`` says what it stretches: nothing, axes of ``sizes`` 1, or also inputs of fewer
    ``ranks``; inputs in ``whole`` and axes in ``rigid`` it takes as they are. With ``warns`` it
    says so when it does. ``integers`` are real numbers to it. The result has the dtype that the
    inputs in ``result`` promote to, all of them if none is named; the inputs and parameters in
    ``alike`` have one dtype, in a meaning that has all of them. With ``normalised`` the first input
    is not stretched along the axes that it is normalised over. Inputs in ``optional`` are zeros if
    they are left out; with ``channel`` one that lacks the last axis is given it. ``arrange`` brings
    further ways of writing an input into shape: it changes the named inputs in place and may return
    what undoes it on the result.
    """

    broadcast: str = ""
    whole: tuple[str, ...] = ()
    rigid: tuple[str, ...] = ()
    warns: bool = False
    integers: bool = False
    result: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    normalised: bool = False
    optional: tuple[str, ...] = ()
    channel: bool = False
    arrange: Callable[[dict[str, Any], Any], Callable[[Any], Any] | None] | None = None


@dataclass(frozen=True)
class Original:
    """The built-in that a form stands for.

    ``arguments`` are all that it was made with, the defaults too; ``given`` those among them that
    the caller gave; ``arrays`` the parameters and ``ports`` the functions that were given so.
    ``weights`` says under which name the original keeps a trainable weight, and in how many
    dimensions: its first axes are one there.
    """

    calls: Calls
    arguments: Mapping[str, Any]
    given: Mapping[str, Any]
    arrays: Mapping[str, Any]
    ports: Mapping[str, Any]
    weights: Mapping[str, tuple[str, int]]
    package: str = ""


@dataclass(frozen=True)
class Form:
    """A public class: one name, and one or more losses told apart by the dtypes of the inputs."""

    name: str
    definitions: tuple[Definition, ...] = field(repr=False)
    original: Original | None = field(default=None, repr=False, compare=False)

    @property
    def sizes(self) -> tuple[str, ...]:
        """Constructor arguments that give the sizes of trainable weights."""
        found: dict[str, None] = {}
        for d in self.definitions:
            for weight in d.weights.values():
                found.update((s, None) for s in weight.sizes.values() if isinstance(s, str))
        return tuple(found)

    @property
    def params(self) -> dict[str, Any]:
        """All parameters of all the losses behind this name, in order."""
        found: dict[str, Any] = {}
        for d in self.definitions:
            found.update((n, p) for n, p in d.params.items() if n not in found)
        return found

    @property
    def reduction(self) -> Reduction:
        reduction: Reduction = self.definitions[0].settings["reduction"]
        return reduction

    @property
    def doc(self) -> str:
        return self.definitions[0].__doc__ or ""

    @property
    def specs(self) -> tuple[Spec, ...]:
        return tuple(d.spec for d in self.definitions)

    @property
    def has_axis(self) -> bool:
        return any(has_class_axis(d.inputs) for d in self.definitions)


@lru_cache(maxsize=1)
def forms() -> Mapping[str, Form]:
    """Every public class, by name."""
    from lossbridge.catalogue import catalogue

    grouped: dict[str, list[Definition]] = {}
    for definition in catalogue().values():
        grouped.setdefault(definition.name, []).append(definition)
    return {name: Form(name, tuple(ds)) for name, ds in grouped.items()}


def has_class_axis(inputs: Mapping[str, Kind]) -> bool:
    """Whether an input has an axis group and one class axis, whose place a user may choose."""
    return any(moved_axis(kind) for kind in inputs.values())


def is_class_axis(axis: str) -> bool:
    """Whether an axis is called as that of the classes is, also of a loss in a combination."""
    return re.fullmatch(f"(.*_)?{CLASS_AXIS}(_[0-9]+)?", axis) is not None


def default_axis(platform: str, kind: Kind, rank: int) -> int:
    """Where that axis lies by default: torch keeps classes at 1, or at 0 without a batch."""
    if not is_class_axis(kind.axes[1]) or DEFAULT_CLASS_AXIS[platform] == -1:
        return rank - 1
    return min(DEFAULT_CLASS_AXIS[platform], rank - 1)


def given_axis(axis: int, rank: int) -> int:
    """Where it lies if ``axis`` was given: 1 leaves room for the batch, and is 0 without one."""
    return 0 if axis == 1 and rank == 1 else axis


# --- constructors --------------------------------------------------------------------------------


def signature(form: Form, extra: Sequence[inspect.Parameter] = ()) -> inspect.Signature:
    """The constructor's signature: sizes, parameters, then what every loss takes."""
    kinds = inspect.Parameter
    parameters = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in form.sizes]
    required = [n for n, p in form.params.items() if p.value is None]
    parameters += [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in required]
    parameters += [
        kinds(name, kinds.POSITIONAL_OR_KEYWORD, default=None if p.kind.axes else p.value)
        for name, p in form.params.items()
        if name not in required
    ]
    parameters.append(kinds("reduction", kinds.KEYWORD_ONLY, default=form.reduction.kind))
    parameters.append(kinds("normalizer", kinds.KEYWORD_ONLY, default=form.reduction.normalizer))
    if form.has_axis:
        parameters.append(kinds("axis", kinds.KEYWORD_ONLY, default=None))
    parameters.append(
        kinds("empty", kinds.KEYWORD_ONLY, default=form.definitions[0].settings["empty"])
    )
    return inspect.Signature([*parameters, *extra])


@dataclass(frozen=True)
class Combined:
    """What a loss made of losses is made of.

    ``names`` are the losses' own, in order; ``uses`` gives the name for each identifier that the
    specification has for one; ``inputs`` are the combination's own. ``coefficients`` are losses
    too: what each term is multiplied with. ``places`` gives the loss and its own name of an input
    for each further input of the specification, ``axes`` the place of an axis that its loss was
    told.
    """

    names: tuple[str, ...]
    uses: Mapping[str, str]
    inputs: tuple[str, ...]
    coefficients: Mapping[str, Spec]
    places: Mapping[str, tuple[str, str]]
    axes: Mapping[str, int]


@dataclass(frozen=True)
class Bound:
    """A loss with its settings: all that a call does not decide."""

    form: Form
    specs: tuple[Spec, ...]
    given: Mapping[str, Any] = field(compare=False)  # constructor arguments as given, for repr
    numbers: tuple[Numbers, ...]  # static parameters, one tuple per spec
    arrays: Mapping[str, Any] = field(compare=False)  # parameters given as arrays
    reduction: str
    normalizer: str
    axis: int | None
    sizes: Mapping[str, int] = field(compare=False)
    combined: Combined | None = field(default=None, compare=False)

    def plan(self, which: int, options: Options, native: frozenset[str]) -> Plan:
        """The plan of one of the specs, with this reduction."""
        full = replace(
            options,
            reduction=self.reduction,
            normalizer=self.normalizer,
            # The losses in a combination look at their own inputs.
            unread=options.unread and self.combined is None,
        )
        return plan(self.specs[which], self.numbers[which], full, native)

    def select(self, dtype_kinds: Mapping[str, str], ranks: Sequence[int | None] = ()) -> int:
        """Which of the losses fits inputs of these dtype kinds (``real``, ``int``, ``bool``), and
        of these ranks, in their order; one for inputs of a fixed rank comes before one for any."""
        if len(self.specs) == 1:
            return 0
        fitting = [
            which
            for which, spec in enumerate(self.specs)
            if all(
                (kind.dtype == "int") == (dtype_kinds.get(name, kind.dtype) != "real")
                for name, kind in spec.inputs.items()
                if kind.dtype != "bool"
            )
        ] or [0]
        if len(fitting) > 1 and ranks:
            # The first of the best; Dynamo does not know max(..., key=...).
            known = [_fits(self.specs[which], ranks) for which in fitting]
            return fitting[known.index(max(known))]
        return fitting[0]


def _fits(spec: Spec, ranks: Sequence[int | None]) -> int:
    """How well inputs of these ranks fit: 2 where each must have its rank, 1 of any, 0 not."""
    exact = True
    for kind, rank in zip(spec.inputs.values(), ranks, strict=False):
        starred = any(map(is_star, kind.axes))
        fixed = len(kind.axes) - starred
        if rank is not None and (rank < fixed or (rank > fixed and not starred)):
            return 0
        exact = exact and not starred
    return 1 + exact


def promotion_of(bound: Bound, which: int) -> Promotion:
    """Whose dtypes decide how one of the losses is computed, and what it gives back."""
    spec, original = bound.specs[which], bound.form.original
    arrays = [n for n in bound.arrays if n in spec.params]
    if original is None:
        return promotion(spec.inputs, spec.weights, arrays)
    calls = original.calls
    return promotion(spec.inputs, spec.weights, arrays, original.package, calls.result)


def refuse_settings(bound: Bound, which: int) -> None:
    """Refuse a class that was to be ignored where the targets are no labels: it would be unheard.

    An ``ignore_index`` below 0 names no class, and is the default.
    """
    if len(bound.specs) == 1:
        return
    spec = bound.specs[which]
    for numbers in bound.numbers:
        for name, value in numbers:
            kind = bound.form.params[name].kind
            if name not in spec.params and kind.name == "integer" and value >= 0:
                second = tuple(spec.inputs)[1]
                raise ArgumentError(
                    f"{bound.form.name} was made with {name}={value}, a class that labels may name "
                    f"so as not to count, but {second} is {spec.inputs[second]}; leave {name} out, "
                    "and pass mask= for what should not count"
                )


def settings_of(bound: Bound) -> dict[str, Any]:
    """All that a loss was made with, by the constructor's names; arrays that nobody gave: None."""
    numbers = dict(number for ns in bound.numbers for number in ns)
    found: dict[str, Any] = dict(bound.sizes)
    for name, param in bound.form.params.items():
        unset = param.kind.axes and name not in bound.given
        found[name] = None if unset else bound.arrays.get(name, numbers.get(name))
    found.update(reduction=bound.reduction, normalizer=bound.normalizer)
    if bound.form.has_axis:
        found["axis"] = bound.axis
    return {**found, "empty": bound.specs[0].empty}


def settled(bound: Bound, arrays: Mapping[str, Any], which: int = 0) -> Spec:
    """A specification with a loss's settings as its defaults: compiled, it is that loss.

    ``arrays`` holds those of its parameters that are arrays, as nested lists.
    """
    spec = bound.specs[which]
    mine = {name: x for name, x in arrays.items() if name in spec.params}
    spec = with_values(spec, {**dict(bound.numbers[which]), **mine})
    reduction = Reduction(bound.reduction, bound.normalizer)
    axis = bound.axis if "axis" in bound.given else spec.axis
    return msgspec.structs.replace(spec, reduction=reduction, axis=axis)


def constructor_text(bound: Bound, arrays: Mapping[str, tuple[Any, str]], **further: Any) -> str:
    """The call that makes a loss, with the arguments that it was given, in the constructor's order.

    ``arrays`` holds the parameters that are arrays as nested lists, with the name of their dtype;
    a long one stands as its shape. ``further`` are what one platform takes beside.
    """
    original, form = bound.form.original, bound.form
    given = dict(bound.given if original is None else original.given)
    if original is None:
        order = list(signature(form).parameters)
        given = {n: given[n] for n in sorted(given, key=lambda n: order.index(n))}
    numbers = dict(number for ns in bound.numbers for number in ns)
    parts = []
    for name, value in {**given, **further}.items():
        if name in arrays:
            parts.append(f"{name}={array_text(*arrays[name])}")
        elif original is None and name in numbers:
            parts.append(f"{name}={numbers[name]!r}")
        else:
            parts.append(f"{name}={value!r}")
    return f"{form.name}({', '.join(parts)})"


_SHOWN_NUMBERS = 64


def array_text(values: Any, dtype: str) -> str:
    """Nested lists of numbers as one would write them, each in the fewest digits of its dtype."""
    shape, row = [], values
    while isinstance(row, list):
        shape.append(len(row))
        row = row[0] if row else None
    if values is None or math.prod(shape) > _SHOWN_NUMBERS:
        return f"<{dtype}{shape if values is not None else ''}>"

    def written(x: Any) -> str:
        if isinstance(x, list):
            return f"[{', '.join(map(written, x))}]"
        if dtype == "float64" or not isinstance(x, float) or not math.isfinite(x):
            return repr(x)
        texts = (f"{x:.{digits}g}" for digits in range(1, 10))
        exact = struct.pack("f", x)
        return repr(float(next((t for t in texts if struct.pack("f", float(t)) == exact), str(x))))

    return written(values)


@lru_cache(maxsize=1)
def values_spec() -> Spec:
    """The loss that ``reduce`` is: values as they are given."""
    return Spec(
        loss="lossbridge/values@1",
        inputs={"values": Kind.parse("real[*batch]")},
        body=("value = values",),
        yields="per_element",
    )


def reduce_arguments(
    *,
    mask: Any,
    where: Any,
    sample_weight: Any,
    weights: Any,
    reduction: str,
    normalizer: str | None,
    normalizer_count: Any,
    denominator: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and call of the loss that ``reduce`` is: of each pair of names, one may be given."""

    def one(first: str, a: Any, second: str, b: Any) -> Any:
        if a is not None and b is not None:
            raise ArgumentError(f"reduce was given {first} and {second}, which are one; give one")
        return b if a is None else a

    if isinstance(denominator, str):
        normalizer = one("normalizer", normalizer, "denominator", denominator)
    else:
        normalizer_count = one("normalizer_count", normalizer_count, "denominator", denominator)
    if normalizer_count is not None and normalizer is None:
        normalizer = "external"
    settings = {"reduction": reduction, "normalizer": normalizer or "elements"}
    call = {
        "mask": one("mask", mask, "where", where),
        "sample_weight": one("sample_weight", sample_weight, "weights", weights),
        "normalizer_count": normalizer_count,
    }
    return settings, call


def refuse_setting(form: str, name: str, known: Any, value: Any) -> None:
    """Refuse to change what decided the code of a loss when it was made."""
    plain = value is None or isinstance(value, str | int | float)
    if value is known or (plain and isinstance(known, str | int | float) and value == known):
        return
    raise ArgumentError(
        f"{form} was made with {name}={shown(known)}, which is in its code; make another, with "
        f"{name}={shown(value) if plain else name}"
    )


def as_form(source: Any) -> Form:
    """A form of anything that says what a loss is: a form, a definition, a spec, or a path."""
    if isinstance(source, Form):
        return source
    if isinstance(source, Definition):
        return Form(source.name, (source,))
    if isinstance(source, Spec):
        return Form(*_definition_of(source))
    from lossbridge.combine import COMBINATIONS
    from lossbridge.spec import load

    wrong = slips.from_another(source, {**forms(), **COMBINATIONS})
    if wrong is not None:
        raise ArgumentError(wrong)
    return as_form(load(source))


def check_uses(form: Form) -> None:
    """Refuse a loss whose used losses have weights that it does not hand them."""
    from lossbridge.text import Call as Written
    from lossbridge.text import walk

    for spec in form.specs:
        if not spec.uses:
            continue
        for assignment in spec.assignments:
            for found in walk(assignment.expr):
                if not isinstance(found, Written) or found.name not in spec.uses:
                    continue
                given = dict(found.keywords)
                lacks = [w for w in spec.uses[found.name].weights if w not in given]
                if lacks:
                    raise UnsupportedError(
                        f"{spec.id} uses {found.name}, whose trainable weights {listed(lacks)} it "
                        "does not hand over; declare them among its own weights, or combine the "
                        f"losses themselves, as in L.WeightedLoss({{{found.name!r}: ...}})"
                    )


def _definition_of(spec: Spec) -> tuple[str, tuple[Definition, ...]]:
    from lossbridge.trace import class_name

    definition = SpecDefinition(
        spec.id,
        _no_function,
        class_name(spec.id),
        spec.params,
        spec.weights,
        spec.ports,
        {
            "step": spec.step,
            "yields": spec.yields,
            "reduction": spec.reduction,
            "empty": spec.empty,
            "axis": spec.axis,
            "references": spec.references,
            "uses": spec.uses,
        },
        spec,
    )
    return definition.name, (definition,)


def _no_function() -> None:
    """Stands where a definition that was read from a file has no Python function."""


@dataclass(frozen=True)
class SpecDefinition(Definition):
    """A definition that was read, not traced."""

    read: Spec = field(default=None, repr=False)  # type: ignore[assignment]

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self.read.summary

    # Not cached: torch.compile does not follow the lock of a cached property.
    @property
    def inputs(self) -> dict[str, Kind]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return dict(self.read.inputs)

    @property
    def spec(self) -> Spec:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.read


def restored_definition(text: str) -> Definition:
    """The definition that a pickle holds: the catalogue's own where it means the same."""
    from lossbridge.catalogue import catalogue
    from lossbridge.spec import loads

    spec = loads(text)
    known = catalogue().get(spec.id)
    if known is not None and known.spec == spec:
        return known
    return _definition_of(spec)[1][0]


def _about_logits(form: Form) -> str:
    """What is to be said of Keras's ``from_logits``."""
    first, kind = next(iter(form.definitions[0].inputs.items()))
    if first == "logits":
        return (
            "it takes logits, so leave from_logits out; where a model gives probabilities, take "
            "the logits before its last activation"
        )
    if kind.name in ("probability", "simplex"):
        return (
            "it takes probabilities, so apply sigmoid or softmax before; BCEWithLogitsLoss, "
            "CrossEntropyLoss and the focal losses take logits"
        )
    if kind.name == "log_probability":
        return "it takes log-probabilities; CrossEntropyLoss takes logits"
    return f"its {first} is taken as it is, so leave from_logits out"


def _is_input(form: Form, name: str) -> bool:
    known = {n for d in form.definitions for n in d.inputs}
    if has_target(form.definitions[0].spec):
        known |= {alias for pair in ALIASES.values() for alias in pair}
    return name in known


def _make_then_call(form: Form, platform: str) -> str:
    sizes = ", ".join(f"{size}=..." for size in form.sizes)
    text = call_text(form.specs[0], platform, f"L.{form.name}({sizes})")
    return f"it is a class: make the loss, then call it, {text}"


def by_name(
    form: Form, args: Sequence[Any], kwargs: Mapping[str, Any], platform: str
) -> dict[str, Any]:
    """A constructor's arguments, those given by position under their names."""
    found = dict(kwargs)
    if not args:
        return found
    parameters = signature(form).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    arrays = [
        not (n in form.params and form.params[n].kind.axes) and slips.rank(x) > 0
        for n, x in itertools.zip_longest(names, args[: len(names)])
    ]
    if any(arrays) or sum(slips.rank(x) > 0 for x in args) > 1 or any(map(_is_tree, args)):
        raise ArgumentError(
            f"{form.name} was given arrays where it is made; {_make_then_call(form, platform)}"
        )
    if len(args) > len(names):
        raise ArgumentError(
            f"{form.name} takes at most {len(names)} positional arguments ({listed(names)}), but "
            f"{len(args)} were given"
        )
    for name, value in zip(names, args, strict=False):
        if name in found:
            raise ArgumentError(f"{form.name} was given {name} twice, by position and by name")
        found[name] = value
    return found


def _is_tree(x: Any) -> bool:
    """Whether this is a model or its parameters, which no constructor takes."""
    if isinstance(x, Mapping) or (isinstance(x, list | tuple) and any(map(slips.rank, x))):
        return True
    return any(hasattr(x, n) for n in ("parameters", "trainable_variables", "__next__"))


def sizes_of(spec: Spec, weights: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The sizes that a constructor needs for weights of these shapes."""
    return {
        size: n
        for name, weight in spec.weights.items()
        for axis, n in zip(weight.kind.axes, weights.get(name, ()), strict=False)
        for size in [weight.sizes[axis]]
        if isinstance(size, str)
    }


def bind(source: Any, platform: str, arguments: Mapping[str, Any]) -> Bound:
    """Check constructor arguments and bind them."""
    form = as_form(source)
    settings = dict(arguments)
    reduction = settings.pop("reduction", form.reduction.kind)
    normalizer = settings.pop("normalizer", None)
    reduction = "none" if reduction is None else reduction
    if isinstance(reduction, str) and reduction in REDUCTION_NAMES:
        if reduction != "batchmean" and platform != "keras":
            raise ArgumentError(
                f"reduction={reduction!r} is Keras's name; here write reduction='mean', "
                f"normalizer={REDUCTION_NAMES[reduction][1]!r}"
            )
        reduction, implied = REDUCTION_NAMES[reduction]
        normalizer = normalizer or implied
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        meant = _MEANT.get(reduction) if isinstance(reduction, str) else None
        raise ArgumentError(
            f"{form.name}: reduction={shown(reduction)} was given; it is one of "
            f"{', '.join(map(repr, REDUCTIONS))}{f'; write {meant}' if meant else ''}"
        )
    normalizer = normalizer or form.reduction.normalizer
    if not isinstance(normalizer, str) or normalizer not in NORMALIZERS:
        raise ArgumentError(
            f"{form.name}: normalizer={shown(normalizer)} was given; it is one of "
            f"{', '.join(map(repr, NORMALIZERS))}"
        )
    axis = settings.pop("axis", None)
    if axis is None:
        axis = next((spec.axis for spec in form.specs if spec.axis is not None), None)
    if axis is not None and not form.has_axis:
        raise ArgumentError(f"{form.name} has no class axis to place, so it takes no axis=")
    if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
        raise ArgumentError(f"{form.name}: axis={shown(axis)} was given; it is an integer")
    empty = settings.pop("empty", None)
    if empty is not None and (not isinstance(empty, str) or empty not in EMPTY):
        raise ArgumentError(
            f"{form.name}: empty={shown(empty)} was given; it is one of "
            f"{', '.join(map(repr, EMPTY))}"
        )
    sizes: dict[str, int] = {}
    for name in form.sizes:
        value = settings.pop(name, None)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(
                f"{form.name} needs {name}, a positive integer, but {shown(value)} was given; "
                f"write {form.name}({', '.join(f'{s}=...' for s in form.sizes)})"
            )
        sizes[name] = value
    for name in settings:
        if name not in form.params:
            options = [*signature(form).parameters]
            if name == "from_logits":
                hint = f"; {_about_logits(form)}"
            elif _is_input(form, name):
                hint = f"; {_make_then_call(form, platform)}"
            else:
                hint = setting_hint(name, options)
            raise ArgumentError(
                f"{form.name} has no argument {shown(name)}; its arguments are "
                f"{listed(options)}{hint}"
            )
    values: dict[str, Any] = {}
    specs: list[Spec] = []
    for spec in form.specs:
        if empty is not None and empty != spec.empty:
            spec = _replace(spec, empty=empty)
        mine = {n: v for n, v in settings.items() if n in spec.params and v is not None}
        values.update(spec.bind(**mine))
        specs.append(spec)
    arrays = {n: v for n, v in values.items() if not isinstance(v, int | float | bool)}
    for spec in specs:
        _fit_sizes(form.name, spec, sizes, arrays)
    numbers = tuple(tuple((n, values[n]) for n in spec.params if n not in arrays) for spec in specs)
    return Bound(
        form, tuple(specs), dict(arguments), numbers, arrays, reduction, normalizer, axis, sizes
    )


def _fit_sizes(name: str, spec: Spec, sizes: Mapping[str, int], arrays: Mapping[str, Any]) -> None:
    """Refuse an array whose axis a size has stated otherwise, before any call."""
    known = {
        axis: size if isinstance(size, int) else sizes[size]
        for weight in spec.weights.values()
        for axis, size in weight.sizes.items()
    }
    for key, array in arrays.items():
        kind = spec.params[key].kind if key in spec.params else None
        shape = tuple(getattr(array, "shape", ()))
        if kind is None or len(shape) != len(kind.axes):
            continue
        wanted = tuple(known.get(axis, n) for axis, n in zip(kind.axes, shape, strict=True))
        if shape != wanted:
            raise ShapeError(
                f"{name}: {key} is {kind}, here of shape {wanted}, but its shape is {shape}"
            )


def _replace(spec: Spec, **changes: Any) -> Spec:
    import msgspec

    return msgspec.structs.replace(spec, **changes)


# --- calls ---------------------------------------------------------------------------------------


@dataclass
class Call:
    """The arguments of one call, by name."""

    inputs: dict[str, Any]
    sample_weight: Any = None
    mask: Any = None
    normalizer_count: Any = None
    step: Any = None
    ports: dict[str, Any] = field(default_factory=dict)
    params: Any = None


def has_target(spec: Spec) -> bool:
    """Whether the second input is what the first should be: only then do frameworks disagree
    about which comes first, and only then do their names for the two apply."""
    names = tuple(spec.inputs)
    return len(names) >= 2 and names[1] in ("target", "labels")


def positional_order(spec: Spec, platform: str) -> tuple[str, ...]:
    """The inputs that may be given by position, in the platform's order."""
    names = tuple(spec.inputs)
    if platform == "keras" and has_target(spec):
        return names[::-1] if len(names) == 2 else ()
    return names


def aliases(spec: Spec, platform: str) -> dict[str, str]:
    """The platform's own names for the first two inputs, where one is the other's target."""
    return dict(zip(ALIASES[platform], spec.inputs, strict=False)) if has_target(spec) else {}


def call_text(spec: Spec, platform: str, loss: str = "loss") -> str:
    """The call that works, for messages and documentation."""
    order = positional_order(spec, platform) or tuple(f"{n}={n}" for n in spec.inputs)
    parts = [*order, *(f"{p}={p}" for p in spec.ports)]
    if spec.step:
        parts.append("step=step")
    if spec.weights and platform == "jax":
        parts.append("params=params")
    return f"{loss}({', '.join(parts)})"


def bind_call(bound: Bound, platform: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Give every argument of a call its name, or say which does not fit and what call does."""
    spec = bound.specs[0]
    name = bound.form.name
    order = positional_order(spec, platform)
    if len(args) > len(order):
        raise ArgumentError(
            f"{name} was called with {len(args)} positional arguments, but takes {len(order)} "
            f"here; write {call_text(spec, platform)}"
        )
    call = Call(dict(zip(order, args, strict=False)))
    names = tuple(spec.inputs)
    known = aliases(spec, platform)
    others = {alias: n for s in bound.specs for alias, n in zip(s.inputs, names, strict=False)}
    for key, value in kwargs.items():
        if key == "where" and platform == "jax" and key not in spec.inputs:
            key = "mask"
        if key in spec.inputs or (key not in known and key in others):
            target = key if key in spec.inputs else others[key]
        elif key in known:
            target = known[key]
        elif key in CALL_KEYWORDS:
            setattr(call, key, value)
            continue
        elif key in spec.ports:
            call.ports[key] = value
            continue
        elif key == "params" and platform == "jax":
            call.params = value
            continue
        else:
            options = [*names, *spec.ports, *CALL_KEYWORDS]
            if key == "num_items_in_batch":
                raise ArgumentError(
                    f"{name} was called with num_items_in_batch, as transformers' Trainer calls; "
                    f"give it L.as_hf(loss): Trainer(..., compute_loss_func=L.as_hf(L.{name}()))"
                )
            if key in settings_of(bound):
                raise ArgumentError(
                    f"{name} was called with {key}, which is settled when it is made; construct "
                    f"it with {key}=..., then write {call_text(spec, platform)}"
                )
            hint = slips.call_hint(key, (*names, *spec.ports), has_target(spec), settings_of(bound))
            raise ArgumentError(
                f"{name} was called with {shown(key)}, which it does not take; it takes "
                f"{listed(options)}{hint}; write {call_text(spec, platform)}"
            )
        if target in call.inputs:
            raise ArgumentError(
                f"{name} was given {target} twice, by position and by name; write "
                f"{call_text(spec, platform)}"
            )
        call.inputs[target] = value
    if bound.form.original is not None:
        call.ports = {**bound.form.original.ports, **call.ports}
    missing = [n for n in names if n not in call.inputs]
    missing += [p for p in spec.ports if p not in call.ports]
    if missing:
        raise ArgumentError(
            f"{name} was called without {', '.join(missing)}; write {call_text(spec, platform)}"
        )
    if call.step is not None and not spec.step:
        raise ArgumentError(f"{name} has no schedule, so it takes no step=")
    if bound.normalizer == "external" and bound.reduction == "mean":
        if call.normalizer_count is None:
            raise ArgumentError(
                f"{name} has normalizer='external': give the global count at the call, "
                f"{call_text(spec, platform)[:-1]}, normalizer_count=count)"
            )
    elif call.normalizer_count is not None:
        raise ArgumentError(
            f"{name} was given normalizer_count, but divides by {bound.normalizer!r}; construct it "
            "with normalizer='external'"
        )
    return call


def no_terms(name: str, what: str) -> str:
    """Why a loss that is not made of others has no terms."""
    return (
        f"{name} is one loss, so it has no {what}; of losses by name, "
        "L.WeightedLoss({'depth': ..., 'label': ...}), it has"
    )


def rename_inputs(bound: Bound, which: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs under the names of the chosen overload (same places, its own names)."""
    return dict(
        zip(bound.specs[which].inputs, (inputs[n] for n in bound.specs[0].inputs), strict=True)
    )


# --- shapes --------------------------------------------------------------------------------------

Shape = Sequence["int | None"]


def axis_lengths(
    kinds: Mapping[str, Kind],
    shapes: Mapping[str, Shape],
    name: str,
    advise: Callable[[], str] | None = None,
) -> dict[str, tuple[int | None, ...]]:
    """The length of every named axis, or a :class:`ShapeError` that names the two that disagree.

    Unknown lengths (None) agree with anything. ``advise`` says what would fit instead.
    """
    lengths: dict[str, tuple[int | None, ...]] = {}
    source: dict[str, str] = {}
    for key, kind in kinds.items():
        if key not in shapes:
            continue
        shape = tuple(shapes[key])
        star = next((i for i, a in enumerate(kind.axes) if is_star(a)), None)
        fixed = len(kind.axes) - (star is not None)
        if len(shape) < fixed or (star is None and len(shape) != fixed):
            raise ShapeError(
                f"{name}: {key} is {kind}, so it has "
                f"{'at least ' if star is not None else ''}{fixed} dimension(s), but its shape is "
                f"{shape}{'' if advise is None else advise()}"
            )
        position = 0
        for axis in kind.axes:
            width = len(shape) - fixed if is_star(axis) else 1
            found = shape[position : position + width]
            position += width
            known = lengths.get(axis)
            if known is None:
                lengths[axis], source[axis] = found, key
            elif not _agree(known, found):
                first = source[axis]
                raise ShapeError(
                    f"{name}: {first} has shape {tuple(shapes[first])} as {kinds[first]}, and "
                    f"{key} has shape {shape} as {kind}; they disagree about the axis {axis}, and "
                    f"nothing broadcasts silently{'' if advise is None else advise()}"
                )
            else:
                lengths[axis] = tuple(
                    a if a is not None else b for a, b in zip(known, found, strict=True)
                )
    return lengths


def broadcast(
    spec: Spec, shapes: Mapping[str, Sequence[int]], calls: Calls, unreduced: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The shape of every input once stretched axis by axis, where the built-in does that.

    ``unreduced`` are the axes that the value has before its reduction, as ``index_sources`` says.
    Shapes that do not fit come back as they are, for :func:`axis_lengths` to say why.
    """
    kinds = spec.inputs
    given = {key: tuple(shapes[key]) for key in kinds}
    if not calls.broadcast:
        return given
    stars = {key: sum(map(is_star, kind.axes)) for key, kind in kinds.items()}
    further = [len(given[key]) - len(kind.axes) + 1 for key, kind in kinds.items() if stars[key]]
    width = max(further, default=0)
    lengths: dict[tuple[str, int], int] = {}
    places: dict[str, list[tuple[str, int]]] = {}
    for key, kind in kinds.items():
        places[key] = [(a, k) for a in kind.axes for k in range(width if is_star(a) else 1)]
        missing = len(places[key]) - len(given[key])
        if missing < 0 or (missing and (calls.broadcast != "ranks" or key in calls.whole)):
            return given
        for place, n in zip(places[key], (*(1,) * missing, *given[key]), strict=True):
            known = lengths.setdefault(place, n)
            if n != known and (1 not in (n, known) or place[0] in calls.rigid):
                return given
            lengths[place] = n if known == 1 else known
    wanted = {key: tuple(lengths[place] for place in places[key]) for key in kinds}
    if calls.normalised:
        first = next(iter(kinds))
        summed = [k for k, (a, _) in enumerate(places[first]) if a not in unreduced]
        padded = (*(1,) * (len(places[first]) - len(given[first])), *given[first])
        if any(padded[k] != wanted[first][k] for k in summed):
            return given
    return given if any(wanted[key] != given[key] for key in calls.whole) else wanted


def _agree(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(
        x is None or y is None or x == y for x, y in zip(a, b, strict=True)
    )


def port_squeezes(
    name: str, port: str, output: Kind, shape: Shape, lengths: Mapping[str, Shape]
) -> bool:
    """Whether what a user's function returned has one axis of 1 too many, at its end.

    A network for one number gives (N, 1) where (N,) is declared: that is taken, its last axis left
    out. Any other shape than the declared one is a :class:`ShapeError`.
    """
    if any(axis not in lengths for axis in output.axes):
        return False  # such as the features that a network makes
    wanted = tuple(n for axis in output.axes for n in lengths[axis])
    if _agree(tuple(shape), wanted):
        return False
    if len(shape) == len(wanted) + 1 and shape[-1] == 1 and _agree(tuple(shape[:-1]), wanted):
        return True
    raise ShapeError(
        f"{name}: {port} returned shape {tuple(shape)}, but its result is {output}, here {wanted} "
        f"(or {(*wanted, 1)}); let it return one of these"
    )


def index_shape(spec: Spec, lengths: Mapping[str, Shape]) -> tuple[int | None, ...]:
    """The shape of the unreduced value: what sample weights and masks line up with."""
    return tuple(n for axis in index_sources(spec) for n in lengths.get(axis, (None,)))


def aligned_shape(name: str, what: str, given: Shape, index: Shape) -> tuple[int | None, ...]:
    """The shape to bring a weight or mask to before broadcasting: aligned from the left.

    (N,) weighs the samples of an (N, T) value; anything that fits neither way is an error.
    """
    shape = tuple(given)
    if len(shape) == len(index) + 1 and shape[-1] == 1:
        shape = shape[:-1]  # Keras users give (N, 1)
    if len(shape) > len(index) or not all(
        x is None or y is None or x == y or x == 1 for x, y in zip(shape, index, strict=False)
    ):
        raise ShapeError(
            f"{name}: {what} has shape {tuple(given)}, but the loss has one value for each of "
            f"{tuple(index)}; give it that shape, or {tuple(index)[:1]} to weigh whole samples"
        )
    return (*shape, *(1,) * (len(index) - len(shape)))


# --- documentation -------------------------------------------------------------------------------


def docstring(form: Form, platform: str) -> str:
    """One docstring per loss and platform: what is penalised, definition, shapes, call, sources."""
    d = form.definitions[0]
    lines = [form.doc.rstrip(), "", "Definition:"]
    for definition in form.definitions:
        spec = definition.spec
        if len(form.definitions) > 1:
            lines.append(f"    {definition.id}")
        lines += [f"    {line}" for line in spec.body]
    spec = d.spec
    lines += ["", "Inputs:"]
    for definition in form.definitions:
        defaults = ((n, p.value) for n, p in definition.spec.params.items())
        numbers = tuple((n, v) for n, v in defaults if isinstance(v, int | float))
        binding = enclosed_inputs(definition.spec, numbers)
        lines += [
            f"    {name}: {kind}, {kind.meaning}"
            + ("; all else is an error, or NaN where values cannot be read" * (name in binding))
            for name, kind in definition.spec.inputs.items()
            if definition is d or (name, kind) not in spec.inputs.items()
        ]
    if form.params:
        lines += ["", "Parameters:"]
        lines += [
            f"    {name}: {p.kind}, {p.kind.meaning}"
            + ("" if p.value is None else f"; default {p.value}")
            for name, p in form.params.items()
        ]
    if spec.weights:
        lines += ["", "Trainable weights:"]
        lines += [
            f"    {name}: {w.kind}, starting from {w.init}" for name, w in spec.weights.items()
        ]
    if spec.ports:
        lines += ["", "Ports:"]
        lines += [f"    {name}: {port}" for name, port in spec.ports.items()]
    lines += [
        "",
        f"Reduction: {spec.reduction.kind}; a mean divides by {spec.reduction.normalizer}, "
        f"{DIVISORS[spec.reduction.normalizer].says}, and is {spec.empty} where that is 0; "
        f"yields {spec.yields}.",
        "",
        f"Call: {call_text(spec, platform)}",
    ]
    if spec.references:
        lines += ["", "References:"] + [f"    {r}" for r in spec.references]
    return "\n".join(lines)


def nearest_name(name: str, available: Iterable[str]) -> str:
    """What a name of another library is here, by meaning before spelling."""
    return class_hint(name, available)
