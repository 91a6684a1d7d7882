"""optax's losses as optax's users call them: names, settings and shapes as the original takes them.

The settings of the original may be given when the loss is made or when it is called, by position
too. Inputs have the original's names beside ours, may be left out where they may there, and are
repeated to one shape where they are there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from lossbridge import frontdoor
from lossbridge.errors import ArgumentError, listed, shown, suggestion
from lossbridge.frontdoor import Form
from lossbridge.ir import is_star
from lossbridge.plan import index_sources
from lossbridge.spec import Port
from lossbridge.witnesses import Witness, find, native_of
from lossbridge_jax.native import Loss, compile

Array = Any


class Original(Loss):
    """A loss of optax: ``loss(predictions, targets, **settings)``."""

    __slots__ = ("_ports", "_settings", "_witness")
    _doc = "A loss of optax: ``loss(predictions, targets, **settings)``."
    _witness: Witness
    _settings: dict[str, Any]
    _ports: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._witness.name, self._witness.versions, self._settings)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs, settings, others = _parted(self._witness, args, kwargs)
        loss = _given_now(self._witness, {**self._settings, **settings}) if settings else self
        return loss._original_call(inputs, others)

    def _original_call(self, inputs: dict[str, Any], others: Mapping[str, Any]) -> Any:
        witness, first = self._witness, next(iter(self.bound.specs[0].inputs))
        calls = witness.calls
        for name in calls.optional:
            if inputs.get(name) is None and inputs.get(first) is not None:
                inputs[name] = jnp.zeros_like(inputs[first])
        if len(inputs) == len(self.bound.specs[0].inputs):
            if calls.channel:
                _add_channel(inputs)
            if calls.broadcast:
                self._repeat(inputs)
        return super().__call__(**inputs, **{**self._ports, **others})

    def _repeat(self, inputs: dict[str, Any]) -> None:
        """Inputs of one kind repeated to one shape, as the original's arithmetic repeats them."""
        shapes = {n: np.shape(x) for n, x in inputs.items()}
        if len(set(shapes.values())) == 1:
            return
        rank = max(map(len, shapes.values()))
        spec = self.bound.specs[self.bound.select({}, [rank] * len(inputs))]
        wanted = frontdoor.broadcast(spec, shapes, self._witness.calls, index_sources(spec))
        for name, x in inputs.items():
            inputs[name] = jnp.broadcast_to(x, wanted[name])


def native_optax(witness: Witness, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The object that stands for a loss of optax with these settings.

    Where a setting that has no default is left out, each call is to give it.
    """
    try:
        given = witness.signature.bind_partial(*args, **kwargs).arguments
        left_out = set(witness.required) - set(given)
    except TypeError:
        given, left_out = {}, set()
    if left_out:
        return functools.partial(_later, witness, given)
    witness.meaning(*args, **kwargs)  # raises, and says what the arguments are
    return _restored(witness.name, witness.versions, given)


def _later(witness: Witness, settings: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    inputs, more, others = _parted(witness, args, kwargs)
    return _given_now(witness, {**settings, **more})._original_call(inputs, others)


def _restored(name: str, versions: str, settings: Mapping[str, Any]) -> Original:
    """The loss with these settings; arrays that are being traced go to each call."""
    from lossbridge.witnesses import witnesses

    witness = next(w for w in witnesses()[name] if w.versions == versions)
    meaning = witness.meaning(**settings)
    form = meaning.form(_function_name(witness))
    return _built(witness, settings, form, meaning.unread)


def _given_now(witness: Witness, settings: Mapping[str, Any]) -> Original:
    """The loss with settings that were given at a call, where arrays are no part of the loss."""
    settings = {n: np.asarray(v) if isinstance(v, list) else v for n, v in settings.items()}
    arrays = {n: v for n, v in settings.items() if hasattr(v, "shape")}
    static = tuple((n, type(v), v) for n, v in settings.items() if n not in arrays)
    ranks = tuple((n, np.ndim(v)) for n, v in arrays.items())
    form, places = _form(witness, static, ranks)
    given = {param: arrays[n] for param, n in places.items()}
    return _built(witness, settings, form, given)


@functools.lru_cache(maxsize=256)
def _form(
    witness: Witness, static: tuple[tuple[str, type, Any], ...], ranks: tuple[tuple[str, int], ...]
) -> tuple[Form, dict[str, str]]:
    """What arrays of any values mean, and which parameter each is."""
    later = {n: SimpleNamespace(shape=(1,) * rank) for n, rank in ranks}
    meaning = witness.meaning(**{n: v for n, _, v in static}, **later)
    places = {
        param: next(n for n, v in later.items() if v is value)
        for param, value in meaning.arrays.items()
    }
    return meaning.form(_function_name(witness), bare=True), places


def _built(
    witness: Witness,
    settings: Mapping[str, Any],
    form: Form,
    arrays: Mapping[str, Any],
) -> Original:
    loss = object.__new__(Original)
    loss._settle(form, (), arrays)
    ports = {
        n: jnp.vectorize(settings[n], signature=_of_one_sample(port))
        for n, port in loss.bound.specs[0].ports.items()
        if settings.get(n) is not None
    }
    kept = {"_witness": witness, "_settings": dict(settings), "_ports": ports}
    for slot, value in kept.items():
        object.__setattr__(loss, slot, value)
    return loss


def _function_name(witness: Witness) -> str:
    return witness.name.rpartition(".")[2]


def _of_one_sample(port: Port) -> str:
    """What a function of the original takes: one sample, as NumPy's signatures write it."""
    kinds = [",".join(a for a in k.axes if not is_star(a)) for k in (*port.inputs, port.output)]
    *given, made = [f"({axes})" for axes in kinds]
    return f"{','.join(given)}->{made}"


@functools.cache
def _names(witness: Witness) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """The inputs in the original's order; all their names; and the functions it is given."""
    spec = witness.example().spec
    order = witness.call_order(spec)
    named = {**frontdoor.aliases(spec, "jax"), **{n: n for n in order}}
    return order, {**named, **dict(zip(witness.call, order, strict=False))}, tuple(spec.ports)


def _parted(
    witness: Witness, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A call's inputs, settings of the original, and what every loss of ours takes."""
    order, named, ports = _names(witness)
    parameters = witness.signature.parameters
    places = [*order, *(n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD)]
    if len(args) > len(places):
        raise ArgumentError(
            f"{witness.name} was called with {len(args)} positional arguments, but takes "
            f"{len(places)}: {listed(places)}"
        )
    inputs: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, value in [*zip(places, args, strict=False), *kwargs.items()]:
        name = named.get(key, key)
        group = (
            inputs if name in order
            else settings if name in parameters and name not in ports
            else others
        )  # fmt: skip
        if group is others and name not in (*ports, *frontdoor.CALL_KEYWORDS, "where"):
            known = [*named, *parameters, *frontdoor.CALL_KEYWORDS]
            raise ArgumentError(
                f"{witness.name} was called with {shown(name)}, which it does not take; it takes "
                f"{listed(dict.fromkeys(known))}{suggestion(name, known)}"
            )
        if name in group:
            raise ArgumentError(f"{witness.name} was given {name} twice, by position and by name")
        group[name] = value
    return inputs, settings, others


def _add_channel(inputs: dict[str, Any]) -> None:
    """A last axis of size 1 for the one of two inputs that has one axis less."""
    (a, x), (b, y) = inputs.items()
    if np.ndim(x) == np.ndim(y) - 1:
        inputs[a] = jnp.asarray(x)[..., None]
    elif np.ndim(y) == np.ndim(x) - 1:
        inputs[b] = jnp.asarray(y)[..., None]


_native = native_of(compile)


@functools.wraps(_native)
def native(name: str, /, *arguments: Any, version: str | None = None, **keywords: Any) -> Any:
    """As on the other platforms, but that optax's losses are called as optax calls them."""
    witness = find(name, version)
    if witness.module == "optax.losses":
        return native_optax(witness, arguments, keywords)
    return _native(name, *arguments, version=version, **keywords)
