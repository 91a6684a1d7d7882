"""A side of a comparison: something to call, on a platform, with what is known of it."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from lossbridge.errors import (
    ArgumentError,
    BackendUnavailable,
    LossbridgeError,
    shown,
    suggestion,
)
from lossbridge.frontdoor import DEFAULT_CLASS_AXIS, Bound, forms, is_class_axis, settings_of
from lossbridge.ir import Graph
from lossbridge.kinds import Kind, moved_axis
from lossbridge.migrate.domains import domains
from lossbridge.migrate.live import Native, native, short
from lossbridge.migrate.probes import (
    CLASSES,
    SHAPES,
    Probe,
    Signature,
    in_order,
    parse,
    probes,
    seen,
    sequence_probes,
)
from lossbridge.plan import Options, plan
from lossbridge.spec import Spec
from lossbridge.trace import Definition
from lossbridge.witnesses import find
from lossbridge.witnesses.witness import FRAMEWORKS, Witness, stored_value

PLATFORMS = ("torch", "keras", "jax")
HOMES = {"torch.nn": "torch", "keras.losses": "keras", "optax.losses": "jax"}


MOST_CLASSES = 1000


@dataclass(frozen=True)
class Outcome:
    """What came of one call: a value and gradients, or what was raised."""

    value: Any = None
    gradients: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    unreduced: bool = False
    size: int = 1
    noise: float | None = None
    """What rounding its inputs anew makes of the value, where a record says so."""
    missing: str = ""
    """Why a record cannot say what came of it."""

    @property
    def raised(self) -> bool:
        """Whether the call raised."""
        return bool(self.error)


@dataclass
class Side:
    """One of the two: how it is called, on which platform, and its meaning where that is known."""

    label: str
    signature: Signature
    platform: str
    call: Callable[..., Any] = field(repr=False)  # inputs, sample weights, a mask
    specs: tuple[Spec, ...] = ()
    witness: Witness | None = None
    takes_weights: bool = False
    takes_mask: bool = False
    native: Native | None = None
    computes: str = ""  # the dtype that it casts to whatever it is given
    functions: bool = False  # the functions that it needs are bound
    classes: int | None = None  # the only number of classes that it takes
    ours: Any = field(default=None, repr=False)  # the loss of ours that it calls
    recorded: bool = False  # elsewhere: nothing but the probes can be asked
    provenance: Sequence[str] = ()  # what was said there of how predictions are made
    notes: list[str] = field(default_factory=list)
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)
    unweighted: Any = field(default=None, repr=False)
    """One function for all calls: what was compiled is kept by it."""

    def __post_init__(self) -> None:
        if self.unweighted is None:
            self.unweighted = partial(_weighted, self.call, None)

    def run(self, probe: Probe) -> Outcome:
        """Call it on a probe."""
        return self.on(probe, seen(probe, self.signature))

    def on(
        self,
        probe: Probe,
        inputs: Mapping[str, Any],
        joint: Sequence[str | None] = (),
        wrt: Sequence[str] | None = None,
    ) -> Outcome:
        """Call it on inputs of its own, in the dtype and mode of a probe.

        ``joint`` are the domains in which the inputs were made, where they are not its own: what
        was recorded is found by them. ``wrt`` are the inputs in which a gradient is taken: all real
        ones, unless given.
        """
        if probe.dtype == "float64" and self.computes:
            probe = replace(probe, dtype=self.computes)  # what it casts to, or takes alone
        found = called(calls_of(self.platform), self, probe, inputs, wrt)
        if found.raised or found.unreduced:
            return found
        return undefined(self, probe) or found

    def overloads(self) -> list[Side]:
        """The side with each of its signatures: there are several where dtypes decide."""
        return [overload(self, s) for s in self.specs] if len(self.specs) > 1 else [self]


def undefined(x: Any, probe: Any) -> Outcome | None:
    """No outcome, where the original returns what stood in memory before."""
    if x.witness is None or probe.group not in x.witness.undefined:
        return None
    return Outcome(missing=f"{probe.group}: {x.label} returns uninitialised memory there")


def calls_of(platform: str) -> Any:
    """How the losses of a platform are called."""
    return importlib.import_module(f"lossbridge_{platform}.calls")


def called(
    calls: Any, x: Any, probe: Any, inputs: Mapping[str, Any], wrt: Sequence[str] | None = None
) -> Outcome:
    """What a side gives on inputs; also part of the recorders that run without lossbridge."""
    mode = calls.MODES[-1] if probe.mode == "compiled" else "eager"
    # The first of all probes runs without what was compiled for the others, unless the loss is
    # known: then it is traced alike, and its operations one by one take a second to compile.
    kept = None if probe.id == "2/single 0" and not x.specs else x.kept
    call = x.unweighted
    if probe.weights is not None or probe.mask is not None:
        call, kept = partial(_weighted, x.call, probe.weights, mask=probe.mask), None
    raised: BaseException | None = None
    # Some losses of torch have no derivative in their targets, and say so by raising.
    tries = (x.signature.real, x.signature.real[:1]) if wrt is None else (tuple(wrt),)
    for names in dict.fromkeys(tries):
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                value, gradients = calls.evaluate(call, inputs, names, probe.dtype, mode, kept)
            break
        except (Exception, SystemExit) as error:
            raised = raised or error
    else:
        text = str(raised).strip().splitlines()
        return Outcome(error=f"{type(raised).__name__}: {text[0] if text else ''}"[:300])
    unreduced, size = np.ndim(value) > 0, int(np.size(value))
    if unreduced:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = np.mean(value) if np.size(value) else np.float64(np.nan)
    return Outcome(np.float64(value), gradients, unreduced=unreduced, size=size)


def _weighted(
    call: Callable[..., Any], weights: Any, given: Mapping[str, Any], mask: Any = None
) -> Any:
    return call(given, weights) if mask is None else call(given, weights, mask)


def check_classes(classes: Any) -> None:
    """Refuses what is no number of classes."""
    whole = isinstance(classes, int) and not isinstance(classes, bool)
    if not (whole and 2 <= classes <= MOST_CLASSES):
        raise ArgumentError(
            f"classes={shown(classes)} was given; it is an integer from 2 to {MOST_CLASSES}"
        )


def side(
    given: Any,
    *,
    inputs: Mapping[str, str] | None = None,
    platform: str | None = None,
    classes: int | None = None,
) -> Side:
    """A side of whatever was given: text, a specification, a live object, a callable."""
    if classes is not None:
        check_classes(classes)
    found = _side(given, inputs, platform, classes)
    found.classes = found.classes or classes
    return found


def _side(
    given: Any, inputs: Mapping[str, str] | None, platform: str | None, classes: int | None
) -> Side:
    if isinstance(given, Side):
        return given
    if isinstance(given, str | os.PathLike):
        return _of_text(os.fspath(given))
    if isinstance(given, Definition):
        given = given.spec
    if isinstance(given, Spec):
        return of_spec(given, platform)
    if hasattr(given, "bound") and hasattr(given, "spec") and not isinstance(given, type):
        return _of_ours(given)
    return of_live(given, inputs, platform, classes)


def of_live(
    given: Any,
    inputs: Mapping[str, str] | None,
    platform: str | None,
    classes: int | None = None,
) -> Side:
    """A side of a framework's own object, or of a callable whose inputs are described."""
    try:
        found = native(given)
    except ArgumentError:
        if not callable(given) or inputs is None:
            raise
        return _of_callable(given, inputs, platform, classes)
    return _of_native(found, given, classes)


def _of_native(found: Native, obj: Any, classes: int | None = None) -> Side:
    meaning = found.meaning
    witness = found.witness
    spec = meaning.spec
    order = witness.call_order(spec)
    keras = witness.module == "keras.losses"

    own: dict[Any, Any] = {}

    def call(given: Mapping[str, Any], weights: Any, mask: Any = None) -> Any:
        # Overloads name their inputs differently; places are the same.
        names = dict(zip(spec.inputs, given, strict=True))
        arguments = [given[names[n]] for n in order]
        if keras:
            if mask is not None:  # where Keras's layers leave it
                arguments[-1]._keras_mask = importlib.import_module("tensorflow").constant(mask)
            return obj(*arguments, sample_weight=weights)
        if not hasattr(obj, "buffers"):
            value = obj(*arguments)
            return value[0] if isinstance(value, tuple) else value  # what comes beside the loss
        # A torch module takes inputs of the dtype of its weights, and only of that.
        dtype = given[names[next(iter(spec.inputs))]].dtype
        if dtype not in own:
            own[dtype] = copy.deepcopy(obj).to(dtype)
        return own[dtype](*arguments)

    made = Side(
        found.text, signature_of(spec, found), HOMES[witness.module], call, meaning.specs, witness,
        takes_weights=keras, takes_mask=keras, native=found,
        classes=classes_of(meaning.specs) or classes,
    )  # fmt: skip
    # Keras 2 does not say in which dtype a loss computes.
    dtype = witness.computes
    if keras and not dtype:
        dtype = str(obj.dtype) if hasattr(obj, "dtype") else "float32" if casts(made) else ""
    if dtype not in ("", "float64"):
        made.computes = dtype
        made.notes.append(CASTS.format(dtype))
    return made


CASTS = "it computes in {}, whatever it is given"


def casts(x: Side) -> bool:
    """Whether it casts what it is given to float32: a change below its digits changes nothing."""
    probe = next(p for p in _plain(x) if "/inside" in p.id)
    inputs = seen(probe, x.signature)
    found = []
    for step in (0.0, 2.0**-30, 2.0**-10):
        rng = np.random.default_rng(7)
        moved = {
            n: i * (1.0 + step * rng.uniform(-1.0, 1.0, np.shape(i)))
            if np.asarray(i).dtype.kind == "f" else i
            for n, i in inputs.items()
        }  # fmt: skip
        found.append(x.on(probe, moved).value)
    return bool(found[0] == found[1] != found[2])


def _plain(x: Side) -> Iterator[Probe]:
    """The probes of the rank of its widest input, as far as there are any; or of sequences."""
    if x.signature.sequence:
        return sequence_probes(len(x.signature.inputs) > 2)
    layout = x.signature.own_layout
    widest = max(1, *(len(k.axes) for k in x.signature.inputs.values()))
    rank = min(widest, max(SHAPES)) if layout is None else len(layout.canonical)
    return probes(rank, classes=x.classes or CLASSES)


def classes_of(specs: Sequence[Spec]) -> int | None:
    """For how many classes the weights are that a loss was given; None where it has none."""
    for spec in specs:
        widest = max((k.axes for k in spec.inputs.values()), key=len)
        for param in spec.params.values():
            length = (np.shape(param.value) or (1,))[-1]
            # One number for each class, or for each element: its last axis is theirs.
            if length > 1 and param.kind.axes in (("classes",), widest):
                return int(length)
    return None


def signature_of(spec: Spec, built_in: Native | None = None) -> Signature:
    """What a specification takes."""
    kinds = tuple(k.name for k in spec.inputs.values())
    found = kinds if built_in is None else domains(built_in.witness.name, built_in.given, kinds)
    inputs = dict(spec.inputs)
    if spec.step:  # what a schedule follows is an input too: unsaid, all are compared at step 0
        inputs["step"], found = Kind("integer"), (*found, "step")
    return Signature(inputs, spec.axis, dict(spec.ports), found)


def overload(given: Side, spec: Spec) -> Side:
    """The same side, called with the inputs of another of its meanings."""
    signature = signature_of(spec, given.native)
    axis, places = spec.axis or given.signature.axis, given.signature.places
    return replace(given, signature=replace(signature, axis=axis, places=places))


def with_arguments(x: Side, **changes: Any) -> Side:
    """A built-in with other arguments, called with the same inputs."""
    if x.native is None:
        raise ArgumentError(f"{x.label} is no built-in: its arguments are not known")
    found = Native(x.native.witness, {**x.native.arguments, **changes})
    made = _of_native(found, original(found.witness, found.arguments))
    names = list(x.signature.inputs)
    spec = next((s for s in made.specs if list(s.inputs) == names), made.specs[0])
    return overload(made, spec)


def _of_ours(loss: Any) -> Side:
    platform = type(loss).__module__.partition(".")[0].removeprefix("lossbridge_")
    if platform not in PLATFORMS:
        platform = next(p for c in type(loss).__mro__ for p in PLATFORMS
                        if c.__module__.startswith(f"lossbridge_{p}"))  # fmt: skip
    bound = loss.bound
    specs = tuple(
        _with_values(spec, {**dict(numbers), **bound.arrays})
        for spec, numbers in zip(bound.specs, bound.numbers, strict=True)
    )

    def call(given: Mapping[str, Any], weights: Any, mask: Any = None) -> Any:
        named = {"sample_weight": weights, "mask": mask}
        return loss(**given, **{n: x for n, x in named.items() if x is not None})

    first = specs[0]
    axis, told = bound.axis, {} if bound.combined is None else bound.combined.axes
    moved = [a for k in first.inputs.values() if (a := moved_axis(k))]
    default = DEFAULT_CLASS_AXIS[platform]
    places: dict[str, int] = {}
    if axis is None and bound.combined is None and {*moved} == {"classes"}:
        axis = None if default == -1 else default
    elif axis is None:
        places = {a: told.get(a, default if is_class_axis(a) else -1) for a in moved}
    return Side(
        f"lossbridge.{platform}.{loss!r}".replace("Compiled", bound.form.name, 1),
        replace(signature_of(first), axis=axis, places=places), platform, call, specs,
        takes_weights=True, takes_mask=True, classes=classes_of(specs), ours=loss,
    )  # fmt: skip


def settings_known(x: Side) -> Mapping[str, Any]:
    """What a side was made with, by name: nothing of what is opaque."""
    if x.native is not None:
        return x.native.given
    if x.ours is not None:
        return settings_of(x.ours.bound)
    return {n: p.value for spec in x.specs[:1] for n, p in spec.params.items()}


def can_be_remade(x: Side) -> bool:
    """Whether :func:`with_settings` makes another of it here."""
    if x.signature.ports or not available(x.platform):
        return False
    return x.native is not None or x.ours is not None


def with_settings(x: Side, **changes: Any) -> Side:
    """A built-in, or one of ours, with other settings, called with the same inputs."""
    if x.native is not None:
        return with_arguments(x, **changes)
    bound, front = x.ours.bound, importlib.import_module(f"lossbridge.{x.platform}")
    if bound.form.name in forms():
        made = _of_ours(getattr(front, bound.form.name)(**{**bound.given, **changes}))
    else:  # a specification of somebody's, or a combination, which is one
        made = _of_ours(front.compile(x.ours.spec, **changes))
    names = list(x.signature.inputs)
    spec = next((s for s in made.specs if list(s.inputs) == names), made.specs[0])
    made.computes = x.computes
    return overload(made, spec)


def as_formula(x: Side, inputs: Mapping[str, Any]) -> tuple[Spec, Graph, dict[str, Any]] | None:
    """What a side means: its specification, the graph as written, and what that is evaluated at.

    What is not reduced is averaged. None where the specification of a side is not known.
    """
    names = list(x.signature.inputs)
    spec = next((s for s in x.specs if [*s.inputs, *["step"] * s.step] == names), None)
    if spec is None:
        return None
    values = spec.bind()
    numbers = tuple((n, v) for n, v in values.items() if not np.ndim(v))
    kind, divisor = spec.reduction.kind, spec.reduction.normalizer
    options = Options("mean", "elements") if kind == "none" else Options(kind, divisor)
    given = {**values, **inputs}
    for n, taken in spec.inputs.items():
        if moved_axis(taken) is not None and np.ndim(given[n]) > 1:
            place = min(x.signature.place(taken), np.ndim(given[n]) - 1)
            given[n] = np.moveaxis(given[n], place, -1)
    return spec, plan(spec, numbers, options).written, given


def as_argument(x: Side, name: str, value: str) -> str:
    """A setting as one writes it: of a combination's coefficient, ``coefficients={'box': 2.0}``."""
    term = coefficient_of(x, name)
    return f"{name}={value}" if term is None else f"coefficients={{{term!r}: {value}}}"


def remade_with(x: Side, side: str, name: str, value: str) -> str:
    """What to write for a side with another setting."""
    if x.ours is None or x.ours.bound.combined is None or coefficient_of(x, name) is not None:
        return f"pass {as_argument(x, name, value)} to {side}"
    return f"L.compile({side}.spec, {name}={value})"


def coefficient_of(x: Side, name: str) -> str | None:
    """The loss whose fixed coefficient in a combination has this name in its specification."""
    bound: Bound | None = None if x.ours is None else x.ours.bound
    if bound is None or bound.combined is None or name not in bound.form.params:
        return None
    coefficients = bound.combined.coefficients.items()
    return next((term for term, spec in coefficients if name in spec.inputs), None)


def _with_values(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """A specification with the parameters that an object of ours was given."""
    params = {
        n: msgspec.structs.replace(p, value=stored_value(values[n])) if n in values else p
        for n, p in spec.params.items()
    }
    return msgspec.structs.replace(spec, params=params)


def of_spec(spec: Spec, platform: str | None) -> Side:
    """A side that runs a specification."""
    chosen = platform or next((p for p in PLATFORMS if available(p)), None)
    if chosen is None:
        raise ArgumentError("no platform is installed here to run a specification on")
    front = importlib.import_module(f"lossbridge.{chosen}")
    made = _of_ours(front.compile(spec))
    made.label = f"the specification {spec.id}"
    return made


def available(platform: str) -> bool:
    """Whether the framework of a platform can be imported."""
    from importlib.util import find_spec

    return find_spec({"torch": "torch", "keras": "tensorflow", "jax": "jax"}[platform]) is not None


def _of_callable(
    function: Any, inputs: Mapping[str, str], platform: str | None, classes: int | None
) -> Side:
    if isinstance(function, type):
        name = function.__name__
        raise ArgumentError(f"{name} is a class; make one of it: {name}()")
    described = parse(inputs)
    signature = in_order(described)
    name = title(function)
    if platform not in (None, *PLATFORMS):
        raise ArgumentError(
            f"platform={shown(platform)} was given; it is one of {', '.join(PLATFORMS)}"
        )
    tried: list[str] = []
    for candidate in (platform,) if platform else PLATFORMS:
        if candidate is None or not available(candidate):
            continue
        called_as = _called_on(candidate, function, tuple(described.inputs))
        found = Side(name, signature, candidate, called_as, classes=classes)
        first = next(_plain(found))
        outcome = found.run(first)
        if outcome.raised:
            tried.append(f"{candidate}: {outcome.error}")
            # Weights of its own that are float32 go with inputs of that alone.
            found.computes = "float32"
            outcome = found.run(first)
            if outcome.raised:
                continue
            found.notes.append(f"it takes float32 only, and was compared in that: {tried[-1]}")
        _repeats(found, first, outcome)
        if signature is not described:
            found.notes.append(
                f"it is called as described, ({', '.join(described.inputs)}); "
                f"{next(iter(signature.inputs))} is taken for its prediction"
            )
        if not found.computes and casts(found):
            found.computes = "float32"
            found.notes.append(CASTS.format("float32"))
        return found
    raise UncallableError(
        f"{name} accepts none of the probes' inputs ({'; '.join(tried) or 'nothing installed'})"
    )


def title(x: Any) -> str:
    """What a callable is called: a partial by its function, and what it binds."""
    if isinstance(x, partial):
        bound = [*map(short, x.args), *(f"{n}={short(v)}" for n, v in x.keywords.items())]
        return f"{title(x.func)}({', '.join(bound)})"
    return str(getattr(x, "__qualname__", type(x).__name__))


def _repeats(x: Side, probe: Probe, first: Outcome) -> None:
    """Refuses what gives another value each time: no comparison of it says anything."""
    again = x.run(probe)
    if again.raised or not np.isclose(first.value, again.value, 1e-6, equal_nan=True):
        raise UncallableError(
            f"{x.label} does not give one value on one input: {first.value:.9g}, and then "
            f"{again.error or format(again.value, '.9g')}; fix its random numbers or its state"
        )


def _called_on(
    platform: str, function: Any, order: Sequence[str]
) -> Callable[[Mapping[str, Any], Any], Any]:
    """A function that must give back what belongs to the platform, so that it has a gradient."""
    accepts = calls_of(platform).accepts
    named = by_parameter_names(function, order)

    def call(given: Mapping[str, Any], weights: Any) -> Any:
        if named:
            value = function(**{name: given[name] for name in order})
        else:
            value = function(*(given[name] for name in order))
        if not accepts(value):
            raise TypeError(f"it returned {type(value).__name__}, which has no gradient there")
        return value

    return call


def by_parameter_names(function: Any, names: Sequence[str]) -> bool:
    """Whether a function's parameters are called as its inputs are described, so that it can be
    called by them, whatever their order."""
    called = getattr(function, "forward", None) or getattr(function, "call", None)
    for candidate in (function, called):
        try:
            parameters = inspect.signature(candidate).parameters if callable(candidate) else {}
        except (TypeError, ValueError):
            continue
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if {*names} <= {n for n, p in parameters.items() if p.kind in plain}:
            return True
    return False


class UncallableError(LossbridgeError):
    """A side that could not be called."""


# --- text ----------------------------------------------------------------------------------------


def _of_text(text: str) -> Side:
    if text.endswith(".json"):
        from lossbridge.migrate.record import of_file

        held = of_file(text)
        return of_spec(held, None) if isinstance(held, Spec) else held
    name, positional, keywords = parse_call(text)
    if name.startswith("lossbridge."):
        return replace(_of_ours(_ours(name, positional, keywords)), label=text.strip())
    witness = find(name)
    bound = witness.signature
    try:
        arguments = dict(bound.bind(*positional, **keywords).arguments)
    except TypeError:
        witness.meaning(*positional, **keywords)  # raises, and says what the arguments are
        raise
    witness.meaning(**arguments)
    found = Native(witness, arguments)
    platform = HOMES[witness.module]
    if not available(platform):
        made = of_spec(found.meaning.spec, None)
        made.label = found.text
        made.notes.append(f"{FRAMEWORKS[witness.module]} is not installed; its meaning was run")
        return made
    try:
        made = original(witness, arguments)
    except Exception as error:
        raise ArgumentError(f"{shown(text)}: the original refuses it: {error}") from None
    return _of_native(found, made)


def _ours(name: str, positional: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """A loss of ours by its name, such as ``lossbridge.torch.HuberLoss``, or one of ``native``."""
    front, _, attribute = name.rpartition(".")
    platform = front.removeprefix("lossbridge.")
    if platform not in PLATFORMS or attribute not in (*forms(), "native"):
        raise ArgumentError(
            f"{shown(name)} is not a loss of ours; write such as lossbridge.torch.HuberLoss()"
            f"{suggestion(attribute, forms())}"
        )
    if not available(platform):
        raise BackendUnavailable(f"{platform} is not installed, so {shown(name)} cannot be made")
    # Only names of the catalogue are looked up, never one that the text chose freely.
    make = getattr(importlib.import_module(front), attribute)
    try:
        inspect.signature(make).bind(*positional, **keywords)
    except TypeError as error:
        works = f"{front}.HuberLoss()" if attribute != "native" else f"{name}('keras.losses.Huber')"
        raise ArgumentError(f"{shown(name)}: {error}; write such as {works}") from None
    return make(*positional, **keywords)


def original(witness: Witness, arguments: Mapping[str, Any]) -> Any:
    """The framework's own object, made with these arguments."""
    import functools

    found = getattr(importlib.import_module(witness.module), witness.name.rpartition(".")[2])
    given = dict(arguments)
    if witness.module != "keras.losses":
        # Numbers in a row are an array there, unless they are places or sizes.
        parameters = witness.signature.parameters
        torch = witness.module == "torch.nn" and importlib.import_module("torch")
        for key, value in given.items():
            if isinstance(value, list | tuple) and parameters[key].annotation in ("Any", Any):
                array = np.asarray(value)
                given[key] = torch.from_numpy(array) if torch else array
    if witness.module == "optax.losses":
        return functools.partial(found, **given)
    if witness.module == "keras.losses":
        # It would cast what it is given to float32, and hide what differs below that.
        given.setdefault("dtype", "float64")
    return found(**given)


def parse_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """``"torch.nn.HuberLoss(delta=2.0)"`` as name and literal arguments; never evaluated."""
    refused = ArgumentError(
        f"{shown(text)} is not a plain constructor call with literal arguments, such as "
        "torch.nn.HuberLoss(delta=2.0)"
    )
    if len(text) > 10_000:
        raise refused
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise refused from None
    call = tree if isinstance(tree, ast.Call) else None
    names: list[str] = []
    node: ast.expr = call.func if call else tree
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise refused
    names.append(node.id)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    try:
        for item in call.args if call else []:
            positional.append(ast.literal_eval(item))
        for keyword in call.keywords if call else []:
            if keyword.arg is None or keyword.arg in keywords:
                raise refused
            keywords[keyword.arg] = ast.literal_eval(keyword.value)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise refused from None
    return ".".join(reversed(names)), positional, keywords
