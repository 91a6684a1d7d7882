"""What a witness is: a built-in loss of a framework, and its exact meaning as a specification.

A witness is written as a function with the signature of the original's constructor::

    @witness("torch.nn.HuberLoss")
    def huber(reduction: str = "mean", delta: float = 1.0) -> Meaning:
        return meaning(regression.huber, delta=delta, reduction=reduction)

so that arguments, their order and their defaults are stated where Python states them. It says in
what the original differs from the catalogue's own loss, and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import numpy as np

from lossbridge import ops
from lossbridge.errors import ArgumentError, LossbridgeError, OptionError, listed, shown, suggestion
from lossbridge.frontdoor import Calls, Form, Original, as_form, has_class_axis
from lossbridge.ir import Expr
from lossbridge.passes.enclose import bounded
from lossbridge.spec import Numerics, Param, Reduction, Spec, Weight, with_values
from lossbridge.trace import Definition

FRAMEWORKS: Mapping[str, str] = {
    "torch.nn": "torch",
    "keras.losses": "keras",
    "optax.losses": "optax",
}
"""The module in which users find the losses -> the distribution whose version counts."""


def index_meaning(axes: str, over: Sequence[str]) -> str:
    """What an index of a value means that is left when these axes are summed over."""
    left = [a for a in axes.split(", ") if a not in over]
    return {0: "scalar", 1: "per_sample"}.get(len(left), "per_element")


@dataclass(frozen=True)
class Meaning:
    """What one construction of a built-in computes: specifications with every argument bound.

    There are several where the dtype of an input decides between them, as for integer or
    probability targets.
    """

    open: tuple[Spec, ...]
    arrays: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Parameters that were given as arrays, which ``open`` leaves to be given."""
    original: Original | None = field(default=None, repr=False, compare=False)

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """With the arrays in them, where their numbers can be read."""
        known = {n: v for n, v in self.arrays.items() if readable(v)}
        return tuple(_stored(spec, known) for spec in self.open)

    @property
    def unread(self) -> dict[str, Any]:
        """The arrays whose numbers are known only later, as inside ``jax.jit``."""
        return {n: v for n, v in self.arrays.items() if not readable(v)}

    @property
    def spec(self) -> Spec:
        """The first of them: what the documentation of the original leads with."""
        return self.specs[0]

    def form(self, name: str, *, bare: bool = False) -> Form:
        """A public class of ours with this meaning; a bare one is to be given its arrays."""
        specs = self.open if bare else self.specs
        return Form(name, tuple(as_form(spec).definitions[0] for spec in specs), self.original)


@dataclass(frozen=True)
class Witness:
    """One built-in loss over one range of versions.

    ``order`` names the specification's inputs in the order in which the original is called.
    ``notes`` say what the original does that no function of its inputs can say: saturation by
    rounding, dtype casts, dependence on how a tensor was made. ``read`` says where a live object
    keeps an argument, if not in an attribute of its name, and ``weights`` under which name and in
    how many dimensions it keeps what it trains.
    """

    name: str
    construct: Callable[..., Meaning] = field(repr=False)
    versions: str = ""
    order: tuple[str, ...] = ()
    call: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    required: Mapping[str, Any] = field(default_factory=dict, compare=False)
    read: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict, compare=False)
    computes: str = ""
    """The dtype in which the original computes, whatever it is given."""
    undefined: tuple[str, ...] = ()
    """The groups of probes on which the original returns what stood in memory before."""
    calls: Calls = field(default=Calls(), compare=False)
    weights: Mapping[str, tuple[str, int]] = field(default_factory=dict, compare=False)

    @property
    def module(self) -> str:
        """``torch.nn`` of ``torch.nn.HuberLoss``."""
        return self.name.rpartition(".")[0]

    @property
    def package(self) -> str:
        """The distribution whose version the range speaks of."""
        return FRAMEWORKS[self.module]

    @property
    def signature(self) -> inspect.Signature:
        """The original's arguments."""
        return inspect.signature(self.construct)

    def arguments(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """All arguments by name, the defaults too."""
        bound = self.signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        return bound.arguments

    def meaning(self, *arguments: Any, **keywords: Any) -> Meaning:
        """The meaning of the original built with these arguments."""
        try:
            bound = self.signature.bind(*arguments, **keywords)
        except TypeError as error:
            names = list(self.signature.parameters)
            unknown = next((k for k in keywords if k not in names), None)
            hint = "" if unknown is None else suggestion(unknown, names)
            raise ArgumentError(
                f"{self.name}: {error}; its arguments are {listed(names)}{hint}; write "
                f"{self.name}{_plain(self.signature)}"
            ) from None
        given = dict(bound.arguments)
        try:
            found = self.construct(*bound.args, **bound.kwargs)
            bound.apply_defaults()
            calls, how = self.calls, found.spec.reduction
            if how.normalizer == "batch":  # of the first input, as it comes
                calls = replace(calls, whole=tuple(found.spec.inputs)[:1])
            ports = {n: given[n] for n in found.spec.ports if given.get(n) is not None}
            return replace(
                found,
                original=Original(
                    calls,
                    kept(bound.arguments, how),
                    given,
                    found.arrays,
                    ports,
                    self.weights,
                    self.package,
                ),
            )
        except LossbridgeError:
            raise
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            text = listed(f"{n}={shown(v)}" for n, v in bound.arguments.items())
            raise ArgumentError(
                f"{self.name} cannot be made with {text}: {error}; write "
                f"{self.name}{_plain(self.signature)}"
            ) from None

    def example(self) -> Meaning:
        """The meaning with default arguments, and an example of each that has no default."""
        return self.meaning(**self.required)

    def call_order(self, spec: Spec) -> tuple[str, ...]:
        """The names of the inputs in the order in which the original takes them."""
        names = self.order or tuple(spec.inputs)
        if not self.order and self.module == "keras.losses" and len(names) == 2:
            return names[::-1]
        return names


# Of torch, before there was `reduction`; a loss keeps the reduction that they say.
_OLD = ("size_average", "reduce")


def kept(arguments: Mapping[str, Any], reduction: Reduction) -> Mapping[str, Any]:
    """What an object of the original keeps of all its arguments, by its attributes' names."""
    found = {n: v for n, v in arguments.items() if n not in _OLD}
    if any(arguments.get(n) is not None for n in _OLD):
        found["reduction"] = reduction.kind
    return found


def _plain(signature: inspect.Signature) -> str:
    """A signature without its annotations."""
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


ZEROS = "Targets left out are zeros there, and in `lossbridge.jax`; elsewhere they are given."
REPEATS = (
    "The original broadcasts inputs of unequal shapes; so does `native` on the original's own "
    "platform and in PyTorch, and elsewhere they have one shape."
)
CHANNEL = (
    "An input that lacks the last axis is given one of size 1 there, and in `lossbridge.jax`; "
    "elsewhere both have it."
)


def witness(
    name: str,
    versions: str = "",
    *,
    order: tuple[str, ...] = (),
    call: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    required: Mapping[str, Any] | None = None,
    read: Mapping[str, Callable[[Any], Any]] | None = None,
    computes: str = "",
    calls: Calls | None = None,
    weights: Mapping[str, tuple[str, int]] | None = None,
    undefined: tuple[str, ...] = (),
) -> Callable[[Callable[..., Meaning]], Witness]:
    """Make a witness of a function that has the signature of the original's constructor.

    ``call`` names further arguments that the original takes when it is called, where it is a
    function; ``required`` gives an example of each argument that has no default; ``calls`` says
    which shapes and dtypes it takes, from which notes follow too, and ``weights`` where it keeps
    those it trains.
    """

    def wrap(construct: Callable[..., Meaning]) -> Witness:
        how = calls or Calls()
        said = (
            *((ZEROS,) if how.optional else ()),
            *((REPEATS,) if how.broadcast else ()),
            *notes,
            *((CHANNEL,) if how.channel else ()),
        )
        return Witness(
            name,
            construct,
            versions,
            order,
            call,
            said,
            required or {},
            read or {},
            computes,
            undefined,
            how,
            weights or {},
        )

    return wrap


def meaning(
    *definitions: Definition,
    reduction: str | None = None,
    normalizer: str | None = None,
    axis: int | None = None,
    empty: str | None = None,
    cast: str | None = None,
    refuses: bool = False,
    masked: str | None = None,
    **params: Any,
) -> Meaning:
    """Losses with their parameters bound; an argument of None is left at its default.

    ``refuses``: the original raises an error for inputs outside the domains of their kinds, where
    most evaluate their formula. ``masked``: what a mask does in the original, where it does not
    select.
    """
    arrays = {n: v for n, v in params.items() if _is_array(v)}
    numbers = {n: v for n, v in params.items() if v is not None and n not in arrays}

    def numerics(spec: Spec) -> Numerics:
        free = not refuses and any(map(bounded, spec.inputs.values()))
        outside = "formula" if free else None
        return msgspec.structs.replace(spec.numerics, cast=cast, outside=outside, masked=masked)

    return Meaning(
        tuple(
            _bound(definition.spec, reduction, normalizer, axis, empty, numerics, numbers, arrays)
            for definition in definitions
        ),
        arrays,
    )


def _bound(
    spec: Spec,
    reduction: str | None,
    normalizer: str | None,
    axis: int | None,
    empty: str | None,
    numerics: Callable[[Spec], Numerics],
    numbers: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> Spec:
    spec = _stored(spec, numbers)
    changes: dict[str, Any] = {
        "params": {
            n: msgspec.structs.replace(p, value=None) if n in arrays else p
            for n, p in spec.params.items()
        }
    }
    kind = reduction or spec.reduction.kind
    changes["reduction"] = Reduction(kind, normalizer or spec.reduction.normalizer)
    if axis is not None and has_class_axis(spec.inputs):
        changes["axis"] = axis
    if empty is not None:
        changes["empty"] = empty
    changes["numerics"] = numerics(spec)
    return msgspec.structs.replace(spec, **changes)


_LATER = SimpleNamespace(shape=())  # stands for an array that is to be given


def _stored(spec: Spec, given: Mapping[str, Any]) -> Spec:
    """A specification with values of its parameters."""
    values = {n: stored_value(v, spec.params[n]) for n, v in given.items() if n in spec.params}
    numbers = {n: v for n, v in values.items() if not isinstance(v, tuple)}
    # Refuses what is outside a parameter's domain, by the parameter's name.
    spec.bind(**{n: _LATER for n, p in spec.params.items() if p.value is None} | numbers)
    return with_values(spec, values)


def stored_value(value: Any, param: Param | None = None) -> Any:
    """A parameter as a specification holds it: arrays of any framework as nested tuples."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    elif hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        value = value.tolist()
    return _nested(value, param is not None and param.kind.name == "binary")


def _nested(value: Any, binary: bool) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_nested(v, binary) for v in value)
    return float(value) if binary else value


def readable(value: Any) -> bool:
    """Whether the numbers of an array can be read; those of one that is being traced cannot."""
    try:
        return not hasattr(stored_value(value), "shape")
    except Exception:  # each framework has its own
        return False


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and not isinstance(value, np.generic)


def option(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    """``value`` if it is one of the options of the argument ``name``."""
    if value not in options:
        raise OptionError(
            f"Invalid value for argument {name}: {shown(value)} was given; it is one of "
            f"{listed(map(repr, options))}"
        )
    return value


def averaged(definition: Definition, axis: str = "features") -> Definition:
    """The same loss, its values averaged over a further, last axis of every input."""

    def average(**values: Any) -> Expr:
        return ops.mean(definition.function(**values), axis)

    return derived(definition, average, dict.fromkeys(definition.inputs, axis), space="mean")


def derived(
    definition: Definition,
    function: Callable[..., Any],
    added: Mapping[str, str],
    *,
    space: str,
    weights: Mapping[str, Weight] | None = None,
) -> Definition:
    """A loss with the declarations of another, some of its inputs having one more axis.

    ``function`` takes everything by name. ``weights`` stand in place of the other's.
    """
    weights = definition.weights if weights is None else weights
    named = (*definition.inputs, *definition.params, *weights, *definition.ports)
    # Read by `inspect` and `typing` in place of the function's own.
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in named]
    )
    function.__doc__ = definition.function.__doc__
    function.__annotations__ = {
        name: Annotated[Expr, _with_axis(str(kind), added.get(name))]
        for name, kind in definition.inputs.items()
    }
    return Definition(
        id=f"{space}/{definition.id.rpartition('/')[2]}",
        function=function,
        name=definition.name,
        params=definition.params,
        weights=weights,
        ports=definition.ports,
        settings=definition.settings,
    )


def _with_axis(kind: str, axis: str | None) -> str:
    return kind if axis is None else f"{kind.removesuffix(']')}, {axis}]"
