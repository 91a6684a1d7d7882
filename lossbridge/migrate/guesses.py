"""What a port may have forgotten or done twice: tried on the probes, for want of a known cause.

Of a plain function nothing is known but what it gives. So each slip that ports are known for is
tried: if one side, given its inputs changed so, gives what the other gives, that is the cause.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbridge.migrate.comparison import Cause
from lossbridge.migrate.pairs import with_outcome

if TYPE_CHECKING:
    from lossbridge.migrate.pairs import Pair
    from lossbridge.migrate.sides import Side

CLOSE = 1e-6
SINGLE = 1e-4  # of a side that computes in float32, through one more function

Array = Any
Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class Guess:
    """One slip: the changed inputs of a side, and the words for it, with {x} and {other}."""

    change: Callable[[Inputs], Inputs]
    text: str
    fix: str
    exchanged: tuple[str, str] | None = None
    """The two inputs that change places, so that their gradients do too."""


def of_inputs(a: Side, b: Side, pairs: Sequence[Pair]) -> Iterator[Cause]:
    """The slips in what a side is given that explain every one of these pairs."""
    chosen = [p for p in pairs if p.finite]
    chosen.sort(key=lambda p: p.probe.latent[0].shape[0] != 4)  # of one shape, as JAX compiles
    if len(chosen) < 2:
        return
    for name, x, other in (("a", a, "b"), ("b", b, "a")):
        if x.recorded or x.signature.sequence:
            continue
        for guess in _guesses(x):
            if _explains(a, b, guess, chosen, name == "a"):
                yield Cause(
                    guess.text.format(x=name, other=other), guess.fix.format(x=name, other=other)
                )
                return


def _explains(a: Side, b: Side, guess: Guess, pairs: Sequence[Pair], first: bool) -> bool:
    x = a if first else b
    close = SINGLE if any(p.probe.dtype != "float64" for p in pairs) else CLOSE
    told = False
    for p in pairs:
        inputs, wanted = (p.inputs, p.b.value) if first else (p.other, p.a.value)
        try:
            with np.errstate(all="ignore"):
                changed = guess.change(inputs)
        except (ValueError, IndexError):  # no such axis
            return False
        if any(not np.isfinite(v).all() for v in changed.values()):
            return False
        found = x.on(p.probe, changed, wrt=None if guess.exchanged else ())
        if found.raised or not np.isclose(found.value, wanted, close, 1e-300):
            return False
        if guess.exchanged:
            one, two = guess.exchanged
            slopes = dict(found.gradients)
            if one in slopes and two in slopes:
                slopes[one], slopes[two] = slopes[two], slopes[one]
            anew = with_outcome(a, b, p, first, replace(found, gradients=slopes))
            if anew.status in ("value", "gradient"):
                return False
        told |= not np.isclose(p.a.value, p.b.value, close)
    return told


def _guesses(x: Side) -> Iterator[Guess]:
    kinds = x.signature.inputs
    names = list(kinds)
    for one, two in itertools.combinations(names, 2):
        if (kinds[one].axes, kinds[one].dtype) == (kinds[two].axes, kinds[two].dtype):
            yield Guess(
                _exchanged(one, two),
                f"{one} and {two} of {{x}} are exchanged: so {{other}} gives the same values",
                f"exchange {one} and {two} in one of them",
                (one, two),
            )
    for name, kind in kinds.items():
        if kind.dtype != "real" or kind.name in ("binary", "sign", "simplex"):
            continue
        for factor in SCALES:
            yield Guess(
                _applied(name, partial(np.multiply, factor)),
                f"{{other}} is what {{x}} gives for {factor:.6g} times {name}",
                f"multiply {name} by {factor:.6g} for {{x}}",
            )
    prediction = names[0]
    if kinds[prediction].dtype == "real":
        axis = x.signature.place(kinds[prediction])
        for what, function in _on_predictions(axis):
            yield Guess(
                _applied(prediction, function),
                f"{{other}} is what {{x}} gives for {what} of its {prediction}: that is applied "
                "once more, or once less, than in the other",
                f"take {what} of {prediction} for {{x}}, or leave it out of {{other}}",
            )
    for target in names[1:]:
        if kinds[target].dtype != "real":
            continue
        for what, function in ON_TARGETS:
            yield Guess(
                _applied(target, function),
                f"{{other}} is what {{x}} gives for {what.format(target)} in place of {target}",
                f"give {{x}} {what.format(target)}",
            )


SCALES = (
    -1.0, 2.0, 0.5, 3.0, 1 / 3, 4.0, 0.25, 5.0, 0.2, 10.0, 0.1, 100.0, 0.01, 255.0, 1 / 255,
)  # fmt: skip
"""By what an input may have been multiplied: a sign, a temperature, percent, bytes."""


def _exchanged(one: str, two: str) -> Callable[[Inputs], Inputs]:
    return lambda given: {**given, one: given[two], two: given[one]}


def _applied(name: str, function: Callable[[Array], Array]) -> Callable[[Inputs], Inputs]:
    return lambda given: {**given, name: function(given[name])}


def _on_predictions(axis: int) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    def softmax(x: Array, axis: int = axis) -> Array:
        axis = min(axis, x.ndim - 1)
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    yield "the softmax", softmax
    yield "the logarithm of the softmax", lambda x: np.log(softmax(x))
    yield "the softmax over the batch", lambda x: softmax(x, 0)
    yield "the logarithm of the softmax over the batch", lambda x: np.log(softmax(x, 0))
    yield "the sigmoid", lambda x: 1.0 / (1.0 + np.exp(-x))
    yield "the logit", lambda x: np.log(x / (1.0 - x))
    yield "the logarithm", np.log
    yield "the exponential", np.exp
    yield "the square", np.square
    yield "the square root", np.sqrt
    yield "the opposite", np.negative


ON_TARGETS: Sequence[tuple[str, Callable[[Array], Array]]] = (
    ("2 * {} - 1", lambda y: 2.0 * y - 1.0),
    ("({} + 1) / 2", lambda y: 0.5 * (y + 1.0)),
    ("1 - {}", lambda y: 1.0 - y),
    ("the logarithm of {}", np.log),
    ("the exponential of {}", np.exp),
    ("the opposite of {}", np.negative),
    ("the square of {}", np.square),
    ("the square root of {}", np.sqrt),
)

POWERS: Sequence[tuple[str, str, Callable[[Array], Array]]] = (
    ("the square root of a", "take the square root of a", np.sqrt),
    ("the square of a", "take the square root of b", np.square),
    ("the exponential of a", "take the logarithm of b", np.exp),
    ("the logarithm of a", "take the logarithm of a", np.log),
    ("one divided by a", "divide one by a", np.reciprocal),
)


def of_values(pairs: Sequence[Pair]) -> Iterator[Cause]:
    """That one value is a function of the other."""
    seen = [p for p in pairs if p.finite]
    if len(seen) < 2:
        return
    with np.errstate(all="ignore"):
        x, y = (np.array([float(o.value) for o in side]) for side in
                ([p.a for p in seen], [p.b for p in seen]))  # fmt: skip
        for what, fix, function in POWERS:
            if np.allclose(function(x), y, CLOSE, 0.0):
                yield Cause(f"b is {what}, on every probe", fix)
                return


__all__ = ["of_inputs", "of_values"]
