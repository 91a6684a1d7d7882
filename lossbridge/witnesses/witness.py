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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from lossbridge import ops
from lossbridge.errors import ArgumentError, LossbridgeError, listed, shown, suggestion
from lossbridge.frontdoor import Form, as_form
from lossbridge.ir import Expr
from lossbridge.spec import Reduction, Spec, Weight
from lossbridge.trace import Definition

FRAMEWORKS: Mapping[str, str] = {
    "torch.nn": "torch",
    "keras.losses": "keras",
    "optax.losses": "optax",
}
"""The module in which users find the losses -> the distribution whose version counts."""


@dataclass(frozen=True)
class Meaning:
    """What one construction of a built-in computes: specifications with every argument bound.

    There are several where the dtype of an input decides between them, as for integer or
    probability targets.
    """

    specs: tuple[Spec, ...]

    @property
    def spec(self) -> Spec:
        """The first of them: what the documentation of the original leads with."""
        return self.specs[0]

    def form(self, name: str) -> Form:
        """A public class of ours with this meaning."""
        definitions = tuple(as_form(spec).definitions[0] for spec in self.specs)
        return Form(name, definitions)


@dataclass(frozen=True)
class Witness:
    """One built-in loss over one range of versions.

    ``order`` names the specification's inputs in the order in which the original is called.
    ``notes`` say what the original does that no function of its inputs can say: saturation by
    rounding, dtype casts, dependence on how a tensor was made. ``read`` says where a live object
    keeps an argument, if not in an attribute of its name.
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
        try:
            return self.construct(*bound.args, **bound.kwargs)
        except LossbridgeError:
            raise
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            given = listed(f"{n}={shown(v)}" for n, v in bound.arguments.items())
            raise ArgumentError(
                f"{self.name} cannot be made with {given}: {error}; write "
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


def _plain(signature: inspect.Signature) -> str:
    """A signature without its annotations."""
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


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
    undefined: tuple[str, ...] = (),
) -> Callable[[Callable[..., Meaning]], Witness]:
    """Make a witness of a function that has the signature of the original's constructor.

    ``call`` names further arguments that the original takes when it is called, where it is a
    function; ``required`` gives an example of each argument that has no default.
    """

    def wrap(construct: Callable[..., Meaning]) -> Witness:
        return Witness(
            name, construct, versions, order, call, notes, required or {}, read or {}, computes,
            undefined,
        )  # fmt: skip

    return wrap


def meaning(
    *definitions: Definition,
    reduction: str | None = None,
    normalizer: str | None = None,
    axis: int | None = None,
    empty: str | None = None,
    **params: Any,
) -> Meaning:
    """Losses with their parameters bound; an argument of None is left at its default."""
    return Meaning(
        tuple(
            _bound(definition.spec, reduction, normalizer, axis, empty, params)
            for definition in definitions
        )
    )


def _bound(
    spec: Spec,
    reduction: str | None,
    normalizer: str | None,
    axis: int | None,
    empty: str | None,
    params: Mapping[str, Any],
) -> Spec:
    values = {n: stored_value(v) for n, v in params.items() if n in spec.params and v is not None}
    # Refuses what is outside a parameter's domain, by the parameter's name.
    spec.bind(**{n: v for n, v in values.items() if not isinstance(v, tuple)})
    changes: dict[str, Any] = {
        "params": {
            n: p if n not in values else msgspec.structs.replace(p, value=values[n])
            for n, p in spec.params.items()
        }
    }
    kind = reduction or spec.reduction.kind
    changes["reduction"] = Reduction(kind, normalizer or spec.reduction.normalizer)
    if axis is not None:
        changes["axis"] = axis
    if empty is not None:
        changes["empty"] = empty
    return msgspec.structs.replace(spec, **changes)


def stored_value(value: Any) -> Any:
    """A parameter as a specification holds it: arrays of any framework as nested tuples."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "tolist"):
        value = value.tolist()
    return _nested(value)


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list | tuple) else value


def option(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    """``value`` if it is one of the options of the argument ``name``."""
    if value not in options:
        raise ArgumentError(
            f"{name}={shown(value)} was given; it is one of {listed(map(repr, options))}"
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
