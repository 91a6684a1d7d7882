"""Built-in losses and our own of the same meaning, each called on NumPy arrays in float64.

Frameworks are imported when first asked for; JAX in 64 bits.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lossbridge.versions import within
from lossbridge.witnesses import FRAMEWORKS, Witness, find, witnesses

Array = NDArray[Any]
PLATFORMS = ("torch", "keras", "jax")
OWN = {"torch.nn": "torch", "keras.losses": "keras", "optax.losses": "jax"}


SINGLE = 2.0**-24  # what an original that computes in float32 leaves of it


@dataclass(frozen=True)
class Answer:
    """A value, and the gradient of its sum in every real input."""

    value: Array
    gradients: Mapping[str, Array]


@dataclass(frozen=True)
class Case:
    """One built-in with one setting of its arguments, on one set of inputs.

    ``inputs`` are named as in the specification. ``at`` says what the inputs are there for, and
    begins with the kinds of edge that they are, such as ``"clip, saturation: 0 and 1"``.
    ``without`` names gradients that the original does not give. ``rtol`` is what rounding leaves,
    where that is more than it usually is.
    """

    name: str
    at: str
    inputs: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    rtol: float | None = None

    @property
    def edges(self) -> frozenset[str]:
        """The kinds of edge that its inputs are; none for benign ones."""
        kinds, colon, _ = self.at.partition(":")
        return frozenset(kinds.split(", ")) if colon else frozenset()

    def __str__(self) -> str:
        settings = ", ".join(f"{k}={v!r}"[:30] for k, v in self.arguments.items())
        return f"{self.name}({settings}): {self.at}"


@dataclass(frozen=True)
class Change:
    """Cases whose original was another before a release."""

    package: str
    release: str
    before: str
    of: Callable[[Case], bool]


def of_classes(name: str, where: str = "") -> Callable[[Case], bool]:
    """Cases of optax's classification losses, by a part of their name and of what they are for."""
    return lambda c: c.name.startswith(f"optax.losses.{name}") and where in c.at


# As the witnesses' notes have them, and a few that no user meets.
CHANGES = (
    Change(
        "keras", "3.13", "a mean over what a mask leaves divides by the count plus 1e-7",
        lambda c: c.arguments.get("reduction", "mean") in ("mean", "sum_over_batch_size")
        and ("mask" in c.call or "ignore_class" in c.arguments or c.name.endswith(".Circle")),
    ),
    Change(
        "keras", "3.15", "what ignore_class leaves out is multiplied by 0, a NaN too",
        lambda c: "ignore_class" in c.arguments and "NaN" in c.at,
    ),
    Change(
        "optax", "0.2.5", "axis= takes no several axes",
        of_classes("softmax_cross_entropy_with_integer_labels", "two axes"),
    ),
    Change(
        "optax", "0.2.6", "where= takes no whole samples",
        lambda c: of_classes("softmax_cross_entropy")(c)
        and {**c.arguments, **c.call}.get("where") is not None
        and np.ndim({**c.arguments, **c.call}["where"]) < np.ndim(next(iter(c.inputs.values()))),
    ),
    Change(
        "optax", "0.2.6", "a row of which nothing is left is -inf",
        of_classes("softmax_cross_entropy_with_integer_labels", "ignored: a part"),
    ),
    Change(
        "optax", "0.2.6", "the largest logit is subtracted first, in the labelled one too",
        lambda c: of_classes("softmax_cross_entropy_with_integer_labels", "impossible logits")(c)
        or of_classes("softmax_cross_entropy_with_integer_labels", "an offset")(c),
    ),
    Change(
        "optax", "0.2.6", "the mixture's slope is in hard labels too",
        lambda c: of_classes("sigmoid_focal_loss", "hard labels")(c)
        or of_classes("sigmoid_focal_loss", "saturation: confident")(c),
    ),
    Change(
        # Seen with 0.5.3; which release between changed it was not looked for.
        "jax", "0.10", "a label out of range has a gradient in another place",
        of_classes("multiclass_sparsemax_loss", "out of range"),
    ),
)  # fmt: skip


def skip_what_older_releases_lack(case: Case) -> None:
    """The test is skipped where the installed release is older than what the witness says."""
    for change in CHANGES:
        if change.of(case) and within(metadata.version(change.package), f"<{change.release}"):
            pytest.skip(f"before {change.package} {change.release} {change.before}")


def newest(name: str) -> Witness:
    """What is known of the newest release, whichever is installed."""
    return witnesses()[name][-1]


def original(name: str, arguments: Mapping[str, Any]) -> Any:
    """The live object of the framework itself; the test is skipped where its release has none."""
    module, _, attribute = name.rpartition(".")
    package = FRAMEWORKS[module]
    release = f"{package} {metadata.version(package)}"
    found = getattr(importlib.import_module(module), attribute, None)
    if found is None:
        pytest.skip(f"{release} has no {name}")
    unknown = sorted(set(arguments) - set(inspect.signature(found).parameters))
    if unknown:
        pytest.skip(f"{name} takes no {', '.join(unknown)} in {release}")
    if module == "optax.losses":
        return functools.partial(_loss_alone, found, **arguments)
    if module == "torch.nn":
        import torch

        arrays = {k: torch.tensor(v) for k, v in arguments.items() if isinstance(v, np.ndarray)}
        return found(**{**arguments, **arrays})
    # A Keras loss casts to float32 unless told otherwise, its inputs of float64 too.
    return found(**{"dtype": "float64", **arguments})


def _loss_alone(function: Any, *inputs: Any, **arguments: Any) -> Any:
    """What a function returns beside the loss is left out."""
    found = function(*inputs, **arguments)
    return found[0] if isinstance(found, tuple) else found


def ours(platform: str, name: str, arguments: Mapping[str, Any]) -> Any:
    """Our object with the exact meaning of that built-in."""
    front = importlib.import_module(f"lossbridge.{platform}")
    return front.native(name, **arguments)


def real(inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs that have a gradient."""
    return tuple(n for n, x in inputs.items() if np.asarray(x).dtype.kind == "f")


def of_original(case: Case) -> Answer:
    """What the built-in itself gives."""
    skip_what_older_releases_lack(case)
    loss = original(case.name, case.arguments)
    witness = find(case.name)
    spec = witness.meaning(**case.arguments).spec
    order = witness.call_order(spec)
    names = dict(zip(spec.inputs, case.inputs, strict=True))  # another overload's own names

    def call(given: Mapping[str, Any]) -> Any:
        return loss(*(given[names[n]] for n in order), **case.call)

    return EVALUATE[OWN[witness.module]](call, case.inputs, case.without)


def of_ours(case: Case, platform: str) -> Answer:
    """What our object of that meaning gives on a platform."""
    loss = ours(platform, case.name, case.arguments)
    return EVALUATE[platform](lambda given: loss(**given, **case.call), case.inputs, ())


def _torch(call: Any, inputs: Mapping[str, Any], without: tuple[str, ...]) -> Answer:
    import torch

    given = {n: torch.tensor(x) for n, x in inputs.items()}
    wrt = [n for n in real(inputs) if n not in without]
    for name in wrt:
        given[name].requires_grad_()
    value = call(given)
    found = torch.autograd.grad(value.sum(), [given[n] for n in wrt], allow_unused=True)
    return Answer(
        value.detach().numpy(),
        {
            n: np.zeros_like(inputs[n]) if g is None else g.numpy()
            for n, g in zip(wrt, found, strict=True)
        },
    )


def _keras(call: Any, inputs: Mapping[str, Any], without: tuple[str, ...]) -> Answer:
    import tensorflow as tf

    given = {n: tf.constant(x) for n, x in inputs.items()}
    wrt = [n for n in real(inputs) if n not in without]
    with tf.GradientTape() as tape:
        for name in wrt:
            tape.watch(given[name])
        value = call(given)
        total = tf.reduce_sum(value)
    found = tape.gradient(
        total, [given[n] for n in wrt], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return Answer(
        np.asarray(value),
        {n: np.asarray(tf.convert_to_tensor(g)) for n, g in zip(wrt, found, strict=True)},
    )


def _jax(call: Any, inputs: Mapping[str, Any], without: tuple[str, ...]) -> Answer:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    given = {n: jnp.asarray(x) for n, x in inputs.items()}
    wrt = [n for n in real(inputs) if n not in without]

    def total(moving: Mapping[str, Any]) -> tuple[Any, Any]:
        value = call({**given, **moving})
        return jnp.sum(value), value

    found, value = jax.grad(total, has_aux=True)({n: given[n] for n in wrt})
    return Answer(np.asarray(value), {n: np.asarray(g) for n, g in found.items()})


EVALUATE = {"torch": _torch, "keras": _keras, "jax": _jax}


def assert_same(found: Answer, wanted: Answer, case: Case) -> None:
    """Equal values and gradients; what is 0, inf or NaN there must be so here.

    At an edge, what no arithmetic has rounded is equal to the last bit.
    """
    _same("the value", found.value, wanted.value, case)
    for name, gradient in wanted.gradients.items():
        _same(f"the gradient in {name}", found.gradients[name], gradient, case)


def _same(what: str, found: Array, wanted: Array, case: Case) -> None:
    assert found.shape == wanted.shape, what
    rtol = case.rtol or (1e-14 if case.edges else 1e-12)
    finite = np.abs(wanted[np.isfinite(wanted)])
    # Cancellation leaves an error of the size of the largest component, not of each.
    atol = rtol * float(finite.max(initial=0.0))
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=what)
    if case.edges and rtol < SINGLE:
        # Constants, such as 0 and the end of a clip, have few digits; what is rounded has many.
        with np.errstate(over="ignore"):
            constant = wanted == wanted.astype(np.float32)
        np.testing.assert_array_equal(found[constant], wanted[constant], err_msg=what)
