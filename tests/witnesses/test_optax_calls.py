"""optax's losses on JAX, called as optax's users call the originals."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossbridge.jax as L
from lossbridge.errors import ArgumentError, DomainError, ShapeError
from lossbridge.versions import within
from lossbridge.witnesses import find, witnesses
from lossbridge_jax.calls import SWITCH

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(2, 4, 3))
SOFT = np.exp(Y) / np.exp(Y).sum(1, keepdims=True)
LABELS = np.array([0, 2, 1, 2])
ROWS = np.array([True, False, True, True])
CUBE, HEAP = RNG.normal(size=(2, 2, 4, 3))

OLDER = within(optax.__version__, "<0.2.8")  # its losses take less


def original(name: str) -> Any:
    """optax's own; the test is skipped where its release has none."""
    found = getattr(optax.losses, name, None)
    if found is None and OLDER:
        pytest.skip(f"optax {optax.__version__} has no {name}")
    return found


Call = tuple[str, tuple[Any, ...], dict[str, Any]]
CALLS: list[Call] = [
    # Settings at the call, by name and by position.
    ("huber_loss", (X, Y), {"delta": 0.5}),
    ("sigmoid_focal_loss", (X, SOFT), {"alpha": 0.3, "gamma": 1.5}),
    ("softmax_cross_entropy", (CUBE, HEAP, (0, 2)), {}),
    ("softmax_cross_entropy", (X, SOFT), {"where": ROWS}),
    ("softmax_cross_entropy_with_integer_labels", (X, LABELS, -1, ROWS), {}),
    ("smooth_labels", (SOFT, 0.1), {}),
    ("smooth_labels", (SOFT,), {"alpha": 0.1, "where": X > 0}),
    ("ntxent", (X, np.array([0, 1, 0, 1]), 0.5), {}),
    ("triplet_margin_loss", (X, Y, SOFT, -1, 2, 0.5), {}),
    ("ranking_softmax_loss", (X, SOFT), {"weights": SOFT, "reduce_fn": jnp.sum}),
    ("dice_loss", (CUBE, HEAP), {"class_weights": np.array([1.0, 2.0, 0.5])}),
    ("dice_loss", (CUBE, HEAP), {"class_weights": [1.0, 2.0, 0.5], "reduction": "none"}),
    # The original's names of its inputs.
    ("l2_loss", (), {"predictions": X, "targets": Y}),
    ("softmax_cross_entropy", (), {"logits": X, "labels": SOFT}),
    ("hinge_loss", (), {"predictor_outputs": X, "targets": np.sign(Y)}),
    ("multiclass_hinge_loss", (), {"scores": X, "labels": LABELS}),
    ("kl_divergence_with_log_targets", (), {"log_predictions": X, "log_targets": Y}),
    # Targets left out.
    ("squared_error", (X,), {}),
    ("log_cosh", (X, None), {}),
    ("huber_loss", (X,), {"delta": 0.5}),
    # Shapes repeated to one.
    ("huber_loss", (X, Y[0]), {}),
    ("sigmoid_binary_cross_entropy", (X, 1.0), {}),
    ("softmax_cross_entropy", (X[0], SOFT), {}),
    ("softmax_cross_entropy", (CUBE, SOFT), {}),
    ("softmax_cross_entropy", (CUBE, HEAP[:, :1], 1), {}),
    ("kl_divergence", (X, SOFT[:, :1]), {}),
    ("triplet_margin_loss", (X, Y[:1], SOFT), {}),
    # A last axis of size 1 added.
    ("dice_loss", (CUBE[..., 0], HEAP[..., :1]), {}),
    ("binary_dice_loss", (CUBE[..., :1], HEAP[..., 0]), {"smooth": 0.5}),
]


def same(found: Any, wanted: Any) -> None:
    assert jnp.shape(found) == jnp.shape(wanted)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("call", CALLS, ids=lambda c: f"{c[0]}-{len(c[1])}-{'-'.join(c[2])}")
def test_a_call_of_the_original_is_a_call_of_ours(call: Call) -> None:
    name, args, kwargs = call
    with SWITCH(True):
        theirs = original(name)
        ours = L.native(f"optax.losses.{name}")
        args = tuple(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in args)
        kwargs = {k: jnp.asarray(x) if isinstance(x, np.ndarray) else x for k, x in kwargs.items()}
        plain = dict(kwargs)
        if isinstance(kwargs.get("class_weights"), list):  # a convenience of ours
            plain["class_weights"] = jnp.array([1.0, 2.0, 0.5])
        try:
            wanted = theirs(*args, **plain)
        except (AttributeError, TypeError, ValueError) as error:
            if not OLDER:
                raise
            pytest.skip(f"optax {optax.__version__} does not take that: {error}")
        same(ours(*args, **kwargs), wanted)


def moving(loss: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    x, y = jnp.asarray(X), jnp.asarray(Y)
    value = lambda delta: loss(x, y, delta=delta).sum()  # noqa: E731
    return {
        "jit": jax.jit(value),
        "gradient": jax.grad(value),
        "vmap": lambda d: jax.vmap(value)(jnp.array([d, 2.0 * d])),
    }


@pytest.mark.parametrize("how", ["jit", "gradient", "vmap"])
def test_settings_may_be_traced(how: str) -> None:
    with SWITCH(True):
        ours = moving(L.native("optax.losses.huber_loss"))[how]
        theirs = moving(optax.losses.huber_loss)[how]
        same(ours(0.7), theirs(0.7))
        made = moving(lambda x, y, delta: L.native("optax.losses.huber_loss", delta=delta)(x, y))
        same(made[how](0.7), theirs(0.7))


@pytest.mark.skipif(OLDER, reason="its `where` may be of the logits' shape only")
def test_a_mask_may_be_traced() -> None:
    with SWITCH(True):
        for axis, where in ((-1, ROWS), (-1, X > 0), (0, X > 0)):
            for name in ("softmax_cross_entropy", "poly_loss_cross_entropy", "kl_divergence"):
                if where.ndim == 1 and name != "softmax_cross_entropy":
                    continue
                run = functools.partial(L.native(f"optax.losses.{name}"), axis=axis)
                wanted = functools.partial(getattr(optax.losses, name), axis=axis)
                given = (jnp.asarray(X), jnp.asarray(SOFT))
                found = jax.jit(lambda m, f=run, xs=given: f(*xs, where=m))(jnp.asarray(where))
                same(found, wanted(*given, where=jnp.asarray(where)))


def test_values_of_arrays_cost_no_new_compilation() -> None:
    loss = L.native("optax.losses.softmax_cross_entropy")
    from lossbridge_jax.engine import compiled

    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(SOFT, jnp.float32)
    loss(x, y, where=jnp.asarray(ROWS))
    before = compiled.cache_info().misses
    for k in range(4):
        loss(x, y, where=jnp.arange(4) > k)
    assert compiled.cache_info().misses == before


def test_a_function_is_one_of_single_samples() -> None:
    maximum = jax.scipy.special.logsumexp
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(SOFT, jnp.float32)
    ours = L.native("optax.losses.make_fenchel_young_loss", maximum)
    theirs = optax.losses.make_fenchel_young_loss(maximum)
    np.testing.assert_allclose(jax.jit(ours)(x, y), theirs(x, y), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(ours)(x, y), theirs(x, y), rtol=1e-6)


def test_a_loss_with_settings_is_frozen_and_saved_with_them() -> None:
    loss = L.native("optax.losses.huber_loss", delta=0.5)
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(loss) == hash(L.native("optax.losses.huber_loss", delta=0.5))
    assert loss != L.native("optax.losses.huber_loss", delta=0.7)
    x = jnp.asarray(X, jnp.float32)
    other = L.native("optax.losses.huber_loss", delta=2.0)
    np.testing.assert_array_equal(loss(x, delta=2.0), other(x))


def test_what_is_no_distribution_is_refused_where_it_can_be_seen() -> None:
    theirs = original("dice_loss")
    probabilities = jax.nn.softmax(jnp.asarray(CUBE, jnp.float32))
    loss = L.native("optax.losses.dice_loss", apply_softmax=False)
    targets = jnp.asarray(HEAP, jnp.float32)
    assert loss(probabilities, targets).shape == (2,)
    with pytest.raises(DomainError, match="sum to 1 along the axis"):
        loss(2.0 * probabilities, targets)
    with pytest.raises(ValueError, match="valid probability distributions"):
        theirs(2.0 * probabilities, targets, apply_softmax=False)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda f: f(X, Y, detla=1.0), ArgumentError, "did you mean delta"),
        (lambda f: f(X, Y, 1.0), ArgumentError, "takes 2: prediction, target"),
        (lambda f: f(X, predictions=X), ArgumentError, "twice"),
        (lambda f: f(X, Y[:2]), ShapeError, "disagree"),
        (lambda f: L.native("optax.losses.squared_error")(X, Y[0]), ShapeError, "disagree"),
        # What is normalised over the axis is not what would be repeated.
        (
            lambda f: L.native("optax.losses.softmax_cross_entropy")(X[:, :1], Y),
            ShapeError,
            "disag",
        ),
        (lambda f: L.native("optax.losses.smooth_labels")(SOFT), ArgumentError, "alpha"),
    ],
)
def test_wrong_calls_say_what_is_right(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(L.native("optax.losses.huber_loss"))


def test_facts_about_calls_name_inputs_that_there_are() -> None:
    for versions in witnesses().values():
        for witness in versions:
            calls, inputs = witness.calls, set(witness.example().spec.inputs)
            named = {*calls.optional, *calls.whole, *calls.result}
            assert named <= inputs, witness.name
            assert calls.broadcast in ("", "sizes", "ranks"), witness.name
    assert find("optax.losses.huber_loss").calls.optional == ("target",)
