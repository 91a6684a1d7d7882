"""What a JAX user takes for granted: checklist rows J1 to J10, and the call's own promises."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossbridge.errors import ArgumentError, DomainError, DTypeError, ShapeError

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import lossbridge.jax as L  # noqa: E402
from lossbridge_jax.probe import wide  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def strict_ranks() -> Iterator[None]:
    """Every test runs with silent rank promotion forbidden."""
    with jax.numpy_rank_promotion("raise"):
        yield


def logits(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def labels(n: int, classes: int) -> Any:
    return jnp.asarray(np.arange(n) % classes, jnp.int32)


# --- J1, J2: function forms and reductions -------------------------------------------------------


def test_j1_functions_do_not_reduce_and_take_settings_by_keyword() -> None:
    x, y = logits(4, 3), labels(4, 3)
    assert L.focal(x, y).shape == (4,)
    keywords = inspect.signature(L.focal).parameters
    assert keywords["axis"].default == -1
    assert keywords["where"].default is None
    assert keywords["gamma"].kind is inspect.Parameter.KEYWORD_ONLY
    assert keywords["reduction"].default == "none"
    np.testing.assert_array_equal(L.focal(x.T, y, axis=0), L.focal(x, y))
    whole = L.FocalLoss(0.5, reduction="none")
    np.testing.assert_array_equal(L.focal(x, y, gamma=0.5), whole(x, y))
    with pytest.raises(ArgumentError, match="gamma"):
        L.focal(x, y, gama=1.0)


def test_j1_where_selects_elements() -> None:
    x, y = logits(4, 3), labels(4, 3)
    keep = jnp.array([True, False, True, True])
    np.testing.assert_allclose(
        L.focal(x, y, where=keep, reduction="mean"), L.focal(x, y)[np.array(keep)].mean(), rtol=1e-6
    )


def test_j2_reduction_is_a_static_keyword() -> None:
    x, y = logits(4, 3), labels(4, 3)
    jitted = jax.jit(L.focal, static_argnames=("reduction",))
    np.testing.assert_allclose(jitted(x, y, reduction="sum"), L.focal(x, y).sum(), rtol=1e-6)
    assert jitted(x, y, reduction="none").shape == (4,)


def test_j2_reduce_takes_selection_weights_and_denominator() -> None:
    values, weights = jnp.array([1.0, 2.0, 9.0]), jnp.array([1.0, 3.0, 1.0])
    keep = jnp.array([True, True, False])
    assert L.reduce(values) == 4.0
    assert L.reduce(values, where=keep) == 1.5
    assert L.reduce(values, where=keep, weights=weights) == 3.5
    assert L.reduce(values, where=keep, weights=weights, denominator="weights") == 1.75
    assert L.reduce(values, denominator=4) == 3.0


# --- J3: transformations -------------------------------------------------------------------------

SCALAR = [
    pytest.param(lambda x: L.CrossEntropyLoss()(x, labels(4, 3)), id="cross_entropy"),
    pytest.param(lambda x: L.CrossEntropyLoss(label_smoothing=0.1)(x, labels(4, 3)), id="smoothed"),
    pytest.param(lambda x: L.FocalLoss()(x, labels(4, 3)), id="focal"),
    pytest.param(lambda x: L.BCEWithLogitsLoss()(x, jnp.full((4, 3), 0.25)), id="bce"),
    pytest.param(lambda x: L.HuberLoss()(x, jnp.full((4, 3), 0.1)), id="huber"),
    pytest.param(lambda x: L.InfoNCELoss()(x, logits(4, 3, seed=1)), id="info_nce"),
]


@pytest.mark.parametrize("f", SCALAR)
def test_j3_jit_grad_and_value_and_grad_agree(f: Any) -> None:
    x = logits(4, 3)
    value, gradient = jax.jit(jax.value_and_grad(f))(x)
    np.testing.assert_allclose(value, f(x), rtol=1e-6)
    np.testing.assert_allclose(gradient, jax.grad(f)(x), rtol=1e-5, atol=1e-8)
    ahead = jax.jvp(f, (x,), (jnp.ones_like(x),))[1]
    np.testing.assert_allclose(ahead, gradient.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("f", SCALAR)
def test_j3_forward_and_reverse_jacobians_and_the_hessian(f: Any) -> None:
    x = logits(4, 3)
    np.testing.assert_allclose(jax.jacfwd(f)(x), jax.jacrev(f)(x), rtol=1e-4, atol=1e-6)
    hessian = jax.hessian(f)(x).reshape(12, 12)
    np.testing.assert_allclose(hessian, jax.jacrev(jax.jacrev(f))(x).reshape(12, 12), atol=1e-4)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-4)
    with wide(True):
        point = jnp.asarray(np.asarray(x), jnp.float64)
        step = 1e-6 * jnp.eye(12).reshape(12, 4, 3)
        slope = jax.vmap(lambda d: (jax.grad(f)(point + d) - jax.grad(f)(point - d)) / 2e-6)(step)
        exact = jax.hessian(f)(point).reshape(12, 12)
        np.testing.assert_allclose(exact, slope.reshape(12, 12), atol=1e-7)


def test_j3_unreduced_losses_differentiate_in_both_modes() -> None:
    query, key = logits(3, 4), logits(3, 4, seed=1)
    for f in (lambda q: L.info_nce(q, key), lambda q: L.focal(q, labels(3, 4))):
        np.testing.assert_allclose(jax.jacfwd(f)(query), jax.jacrev(f)(query), rtol=1e-4, atol=1e-6)


def test_j3_vmap_scan_and_map_equal_a_loop() -> None:
    x, y = logits(5, 4, 3), jnp.stack([labels(4, 3)] * 5)
    loss = L.CrossEntropyLoss()
    want = np.stack([jax.grad(loss)(x[k], y[k]) for k in range(5)])
    batched = jax.jit(jax.vmap(jax.grad(loss)))(x, y)
    np.testing.assert_allclose(batched, want, rtol=1e-5, atol=1e-8)
    mapped = jax.lax.map(lambda xy: jax.grad(loss)(*xy), (x, y))
    np.testing.assert_allclose(mapped, want, rtol=1e-5, atol=1e-8)
    _, scanned = jax.lax.scan(lambda c, xy: (c, jax.grad(loss)(*xy)), 0, (x, y))
    np.testing.assert_allclose(scanned, want, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(
        jax.vmap(loss, in_axes=(1, None))(x.swapaxes(0, 1), y[0]),
        [loss(x[k], y[0]) for k in range(5)],
        rtol=1e-6,
    )


def test_j3_second_derivative_of_the_logistic_loss_at_zero() -> None:
    # A gradient written with |x| has the derivative 0 there; the true one is 1/4.
    second = jax.grad(jax.grad(lambda x: L.BCEWithLogitsLoss()(x, jnp.float32(1.0))))
    assert second(jnp.float32(0.0)) == 0.25


def test_j3_targets_and_hyperparameters_have_gradients() -> None:
    x, y = logits(4), jnp.zeros(4)
    np.testing.assert_allclose(jax.grad(L.MSELoss(), argnums=1)(x, y), -x / 2, rtol=1e-6)
    slope = jax.grad(lambda g: L.focal(logits(4, 3), labels(4, 3), gamma=g).sum())(jnp.float32(1.5))
    near = [float(L.focal(logits(4, 3), labels(4, 3), gamma=g).sum()) for g in (1.49, 1.51)]
    np.testing.assert_allclose(slope, (near[1] - near[0]) / 0.02, rtol=1e-3)


# --- J4: frozen, hashable, compiled once ---------------------------------------------------------


def test_j4_equal_settings_are_one_static_argument() -> None:
    traces = []

    def step(loss: Any, x: Any, y: Any) -> Any:
        traces.append(loss)
        return loss(x, y)

    jitted = jax.jit(step, static_argnums=0)
    x, y = logits(4, 3), labels(4, 3)
    for weight in (np.ones(3), np.ones(3, np.float32), jnp.ones(3)):
        jitted(L.CrossEntropyLoss(weight=weight), x, y)
    assert len(traces) == 1
    jitted(L.CrossEntropyLoss(weight=np.full(3, 2.0)), x, y)
    jitted(L.CrossEntropyLoss(weight=np.ones(3), label_smoothing=0.1), x, y)
    assert len(traces) == 3


def test_j4_no_call_retraces() -> None:
    x, y = logits(4, 3), labels(4, 3)
    L.FocalLoss(1.25)(x, y)
    with jax.log_compiles(False):
        from lossbridge.plan import Options
        from lossbridge_jax.engine import compiled

        before = compiled.cache_info().misses
        bound = L.FocalLoss(1.25).bound
        run = compiled(
            bound.specs[0],
            bound.numbers[0],
            Options(bound.reduction, bound.normalizer),
            jnp.dtype("float32"),
            jnp.dtype("float32"),
        )
        assert run._cache_size() == 1
        for _ in range(3):
            L.FocalLoss(1.25)(x, y)
            L.focal(x, y, gamma=1.25, reduction="mean")
        assert run._cache_size() == 1
        assert compiled.cache_info().misses == before


def test_j4_losses_are_frozen_and_survive_pickling() -> None:
    weight = np.array([1.0, 2.0, 3.0], np.float32)
    loss = L.CrossEntropyLoss(weight=weight)
    before = hash(loss), float(loss(logits(4, 3), labels(4, 3)))
    weight[:] = 0.0  # the caller's array is not ours
    assert (hash(loss), float(loss(logits(4, 3), labels(4, 3)))) == before
    with pytest.raises(AttributeError, match="frozen"):
        loss.reduction = "sum"
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss
    assert hash(again) == hash(loss)
    assert L.FocalLoss(gamma=1.0) != L.FocalLoss(gamma=2.0)
    assert repr(L.HuberLoss(2)) == "HuberLoss(delta=2.0)"


def test_j4_tracers_as_hyperparameters_go_to_the_call() -> None:
    x, y = logits(4, 3), labels(4, 3)

    @jax.jit
    def run(weight: Any) -> Any:
        return L.CrossEntropyLoss(weight=weight)(x, y)

    weight = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(run(weight), L.CrossEntropyLoss(weight=weight)(x, y), rtol=1e-6)


# --- J5, J9: trees and state ---------------------------------------------------------------------


def test_j5_penalties_take_any_pytree() -> None:
    tree = {"dense": (jnp.full((2, 2), 2.0), jnp.ones(2)), "scale": jnp.zeros(())}
    penalty = L.L2Penalty(strength=0.5)
    assert penalty(tree) == 0.25 * (4 * 4.0 + 2)
    gradient = jax.grad(penalty)(tree)
    assert jax.tree.structure(gradient) == jax.tree.structure(tree)
    np.testing.assert_allclose(gradient["dense"][0], np.ones((2, 2)))


def test_j9_state_is_a_pytree_of_the_callers() -> None:
    loss = L.UncertaintyWeightedLoss({"depth": L.HuberLoss(), "label": L.CrossEntropyLoss()})
    params = loss.init(jax.random.key(0))
    optimizer = optax.sgd(0.1)
    x, y = logits(4, 3), labels(4, 3)

    def objective(p: Any) -> Any:
        return loss(depth=(x[:, 0], x[:, 1]), label={"logits": x, "labels": y}, params=p)

    @jax.jit
    def step(carry: Any, _: Any) -> Any:
        p, state = carry
        value, gradient = jax.value_and_grad(objective)(p)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(p, updates), state), value

    _, values = jax.lax.scan(step, (params, optimizer.init(params)), None, length=20)
    assert values[-1] < values[0]


def test_j9_a_schedule_is_an_argument() -> None:
    loss = L.CurriculumWeightedLoss(
        {"near": L.MSELoss(), "far": L.L1Loss()}, schedules={"near": (0.0, 1.0, 0, 10)}
    )
    x, y = jnp.full(2, 2.0), jnp.zeros(2)
    run = jax.jit(lambda step: loss(near=(x, y), far_prediction=x, far_target=y, step=step))
    assert [float(run(k)) for k in (0, 5, 20)] == [2.0, 4.0, 6.0]
    with pytest.raises(ArgumentError, match="step=step"):
        loss(near=(x, y), far=(x, y))


def test_j9_attention_weighs_by_scores_given_at_the_call() -> None:
    loss = L.AttentionWeightedLoss({"near": L.MSELoss(), "far": L.L1Loss()})

    def run(scores: Any) -> Any:
        zero = jnp.zeros(2)
        return loss(near=(zero + 1.0, zero), far=(zero + 3.0, zero), scores=scores)

    # Values 1 and 3 with weights 1/2 each: the mean is 2, its slope (1/4)(1 - 3) and back.
    assert run(jnp.zeros(2)) == 2.0
    np.testing.assert_allclose(jax.grad(run)(jnp.zeros(2)), [-0.5, 0.5], rtol=1e-6)


# --- J6: sharded arrays --------------------------------------------------------------------------

SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import lossbridge.jax as L
shard_map = getattr(jax, "shard_map", None)
if shard_map is None:  # before 0.6, which cannot check what a custom derivative replicates
    from functools import partial
    from jax.experimental.shard_map import shard_map
    shard_map = partial(shard_map, check_rep=False)
assert len(jax.devices()) == 2
mesh = Mesh(np.array(jax.devices()), ("data",))
rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
y = jnp.asarray(rng.integers(0, 5, 8), jnp.int32).at[1:4].set(-100)   # 1 and 4 labels that count
spread = NamedSharding(mesh, P("data"))
X, Y = jax.device_put(x, spread), jax.device_put(y, spread)
whole = L.CrossEntropyLoss()
want = jax.value_and_grad(whole)(x, y)
for got in (jax.value_and_grad(whole)(X, Y), jax.jit(jax.value_and_grad(whole))(X, Y)):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-8)
part = L.CrossEntropyLoss(normalizer="external")
def local(x, y):
    count = jax.lax.psum(jnp.sum(y != -100), "data")
    value, gradient = jax.value_and_grad(part)(x, y, normalizer_count=count)
    return jax.lax.psum(value, "data"), gradient
value, gradient = jax.jit(shard_map(
    local, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=(P(), P("data"))))(X, Y)
np.testing.assert_allclose(value, want[0], rtol=1e-6)
np.testing.assert_allclose(gradient, want[1], rtol=1e-5, atol=1e-8)
mean_of_means = np.mean([whole(x[:4], y[:4]), whole(x[4:], y[4:])])
assert abs(mean_of_means - want[0]) > 1e-2                          # what the count is for
print("equal")
"""


def test_j6_two_devices_give_what_one_gives() -> None:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


# --- J7: labels that name no class ---------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1, -(2**31)])
def test_j7_bad_labels_raise_outside_jit_and_are_nan_inside(bad: int) -> None:
    x, y = logits(4, 3), labels(4, 3).at[2].set(bad)
    with pytest.raises(DomainError, match=rf"{bad} was given, at \[2\]"):
        L.FocalLoss()(x, y)
    value, gradient = jax.jit(jax.value_and_grad(lambda x, y: L.focal(x, y)[2]))(x, y)
    assert np.isnan(value)
    assert np.isnan(gradient[2]).all()
    np.testing.assert_array_equal(jax.jit(L.focal)(x, y)[:2], L.focal(x[:2], y[:2]))


def test_j7_labels_wider_than_int32_do_not_wrap() -> None:
    with pytest.raises(DomainError, match=str(2**32 + 1)):
        L.FocalLoss()(logits(1, 3), np.array([2**32 + 1]))


def test_j7_ignored_and_masked_labels_are_allowed() -> None:
    x, y = logits(3, 3), jnp.array([0, -100, 2])
    np.testing.assert_allclose(
        L.CrossEntropyLoss()(x, y), L.cross_entropy(x, y)[np.array([0, 2])].mean(), rtol=1e-6
    )
    masked = jnp.array([True, False, True])
    assert np.isfinite(L.FocalLoss()(x, jnp.array([0, 77, 2]), where=masked))


def test_j7_checked_reports_under_jit() -> None:
    run = jax.jit(L.checked(L.FocalLoss()))
    error, value = run(logits(2, 3), jnp.array([0, 2]))
    assert error.get() is None
    np.testing.assert_allclose(value, L.FocalLoss()(logits(2, 3), jnp.array([0, 2])), rtol=1e-6)
    error, _ = run(logits(2, 3), jnp.array([0, 5]))
    assert "from 0 to 2" in error.get()


# --- J8: dtypes ----------------------------------------------------------------------------------


def test_j8_float64_needs_no_global_switch() -> None:
    assert not jax.config.jax_enable_x64
    with wide(True):
        x = jnp.asarray([[20.0, 0.0]], jnp.float64)
        value, gradient = jax.value_and_grad(L.CrossEntropyLoss())(x, jnp.array([0]))
        assert value.dtype == gradient.dtype == jnp.float64
        np.testing.assert_allclose(value, 2.061153620314381e-09, rtol=1e-15)
        narrow = L.CrossEntropyLoss(label_smoothing=0.1)(x.astype(jnp.float32), jnp.array([0]))
        assert narrow.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("loss", [L.CrossEntropyLoss(), L.FocalLoss(), L.NLLLoss()], ids=str)
def test_j8_half_precision_is_float32_rounded_once(dtype: Any, loss: Any) -> None:
    x, y = logits(64, 7).astype(dtype), labels(64, 7)
    scale = 512.0
    value, gradient = jax.value_and_grad(lambda x: loss(x, y).astype(jnp.float32) * scale)(x)
    exact, slope = jax.value_and_grad(lambda x: loss(x, y) * scale)(x.astype(jnp.float32))
    assert loss(x, y).dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, slope.astype(dtype))
    np.testing.assert_array_equal(value, (exact / scale).astype(dtype).astype(jnp.float32) * scale)


def test_j8_small_gradients_survive_a_scaled_loss() -> None:
    # 2 * 2**-14 / 4096 rounds to 0 in float16; scaled by 2**12 before it is rounded, it does not.
    x = jnp.full(4096, 2.0**-14, jnp.float16)
    scaled = jax.grad(lambda x: L.MSELoss()(x, jnp.zeros_like(x)) * jnp.float16(2.0**12))(x)
    np.testing.assert_array_equal(scaled, np.full(4096, 2.0**-13, np.float16))
    assert not jax.grad(L.MSELoss())(x, jnp.zeros_like(x)).any()


def test_j8_training_with_a_scaled_half_precision_loss_follows_float32() -> None:
    inputs, y = logits(64, 8), labels(64, 3)
    loss = L.CrossEntropyLoss()

    def run(dtype: Any, scale: float) -> Any:
        def step(w: Any, _: Any) -> Any:
            def objective(w: Any) -> Any:
                value = loss(inputs.astype(dtype) @ w.astype(dtype), y).astype(jnp.float32)
                return value * scale, value

            gradient, value = jax.grad(objective, has_aux=True)(w)
            return w - 0.5 * gradient / scale, value

        return jax.lax.scan(step, jnp.zeros((8, 3)), None, length=60)[1]

    np.testing.assert_allclose(run(jnp.float16, 1024.0), run(jnp.float32, 1.0), rtol=2e-3)


# --- J10: masked elements ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["mse", "huber", "bce_with_logits", "gaussian_nll"])
def test_j10_what_is_masked_neither_shows_nor_has_a_gradient(bad: float, name: str) -> None:
    function = getattr(L, name)
    x = jnp.array([0.5, bad, -0.25])
    rest = [jnp.full(3, 0.5)] * (2 if name == "gaussian_nll" else 1)
    keep = jnp.array([True, False, True])

    def total(x: Any) -> Any:
        return function(x, *rest, where=keep, reduction="mean")

    value, gradient = jax.value_and_grad(total)(x)
    clean, slope = jax.value_and_grad(total)(x.at[1].set(0.0))
    np.testing.assert_array_equal(value, clean)
    np.testing.assert_array_equal(gradient, slope)
    assert gradient[1] == 0.0


def test_j10_masked_rows_of_logits() -> None:
    x, y = logits(3, 4).at[1].set(jnp.nan), labels(3, 4)
    keep = jnp.array([True, False, True])
    for loss in (L.CrossEntropyLoss(), L.FocalLoss()):
        value, gradient = jax.value_and_grad(loss)(x, y, where=keep)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert not gradient[1].any()


# --- the call ------------------------------------------------------------------------------------


def test_the_figures_of_a_confident_sample() -> None:
    for run in (lambda f: f, jax.jit):
        value, gradient = run(jax.value_and_grad(L.CrossEntropyLoss()))(
            jnp.array([[20.0, 0.0]]), jnp.array([0])
        )
        np.testing.assert_allclose(value, 2.0611536e-9, rtol=2e-7)
        np.testing.assert_allclose(gradient, [[-2.0611536e-9, 2.0611536e-9]], rtol=2e-7)
        slope = run(jax.grad(L.BCEWithLogitsLoss()))(jnp.array([20.0]), jnp.array([1.0]))
        np.testing.assert_allclose(slope, [-2.0611536e-9], rtol=2e-7)


def test_shapes_never_broadcast_silently() -> None:
    with pytest.raises(ShapeError, match="nothing broadcasts silently"):
        L.MSELoss()(jnp.zeros((4, 1)), jnp.zeros(4))
    with pytest.raises(ShapeError):
        L.CrossEntropyLoss()(jnp.zeros((4, 3)), labels(5, 3))
    with pytest.raises(ShapeError, match="where"):
        L.MSELoss()(jnp.zeros(4), jnp.zeros(4), where=jnp.ones(3, bool))


def test_dtypes_that_cannot_hold_a_kind_are_refused() -> None:
    with pytest.raises(DTypeError, match="integer"):
        L.NLLLoss()(logits(4, 3), jnp.zeros(4))
    with pytest.raises(DTypeError, match="float32"):
        L.MSELoss()(jnp.zeros(4, jnp.int32), jnp.zeros(4))


def test_names_of_other_libraries_point_to_ours() -> None:
    with pytest.raises(AttributeError, match="CrossEntropyLoss"):
        _ = L.softmax_cross_entropy_with_integer_labels
    assert {"FocalLoss", "focal", "compile", "reduce", "WeightedLoss"} <= set(L.__all__)


def test_integer_and_probability_targets_are_told_apart() -> None:
    x, y = logits(4, 3), labels(4, 3)
    np.testing.assert_allclose(
        L.CrossEntropyLoss()(x, jax.nn.one_hot(y, 3)), L.CrossEntropyLoss()(x, y), rtol=1e-6
    )


def test_weights_come_from_init_and_go_in_as_params() -> None:
    loss = L.ArcFaceLoss(num_classes=5, embedding_size=4)
    params = loss.init(jax.random.key(0))
    assert params["centres"].shape == (5, 4)
    x = logits(3, 4)
    gradient = jax.jit(jax.grad(lambda p: loss(x, labels(3, 5), params=p)))(params)
    assert np.abs(gradient["centres"]).max() > 0
    with pytest.raises(ArgumentError, match=r"loss\.init"):
        loss(x, labels(3, 5))


def test_ports_keep_the_gradients_of_their_parameters() -> None:
    w, real, fake = jnp.array([0.6, 0.8]), logits(3, 2), logits(3, 2, seed=1)
    penalty = L.GradientPenaltyLoss(strength=1.0)

    def run(w: Any) -> Any:
        return penalty(fake, real, jnp.full(3, 0.5), critic=lambda x: x @ (2.0 * w))

    value, gradient = jax.value_and_grad(run)(w)
    np.testing.assert_allclose(value, 1.0, rtol=1e-6)  # a linear critic with slope of norm 2
    np.testing.assert_allclose(gradient, 4.0 * w, rtol=1e-5)
    with pytest.raises(ShapeError, match="critic returned shape"):
        penalty(fake, real, jnp.full(3, 0.5), critic=lambda x: x)


def test_the_heat_equation_has_no_residual_at_its_solution() -> None:
    loss = L.PDEResidualLoss(diffusivity=0.25)
    t = x = jnp.linspace(0.0, 1.0, 5)

    def run(rate: Any) -> Any:
        return loss(t, x, field=lambda t, x: jnp.exp(-rate * t) * jnp.sin(x))

    assert run(jnp.float32(0.25)) < 1e-12
    assert run(jnp.float32(0.5)) > 1e-3
    assert jax.grad(run)(jnp.float32(0.5)) > 0


def test_hf_adapter_divides_by_the_global_count() -> None:
    x, y = logits(2, 6, 5), jnp.asarray(np.arange(12).reshape(2, 6) % 5, jnp.int32)
    loss = L.as_hf(L.CrossEntropyLoss(), shift_labels=True)
    want = L.cross_entropy(x[:, :-1], y[:, 1:])
    np.testing.assert_allclose(loss({"logits": x}, y), want.mean(), rtol=1e-6)
    np.testing.assert_allclose(loss({"logits": x}, y, 40), want.sum() / 40, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_an_ejected_file_stands_alone_and_is_equal_bit_for_bit(
    reduction: str, tmp_path: Path
) -> None:
    from lossbridge_jax.ejected import eject

    cases: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "mse": (L.MSELoss(reduction=reduction), (logits(8), logits(8, seed=1))),
        "cross_entropy": (L.CrossEntropyLoss(reduction=reduction), (logits(8, 5), labels(8, 5))),
        "info_nce": (L.InfoNCELoss(reduction=reduction), (logits(4, 3), logits(4, 3, seed=1))),
    }
    for name, (loss, inputs) in cases.items():
        source = eject(loss.bound, name)
        assert "lossbridge_jax" not in source
        assert "import lossbridge" not in source
        namespace: dict[str, Any] = {}
        exec(compile(source, name, "exec"), namespace)
        np.testing.assert_array_equal(namespace[name](*inputs), loss(*inputs))

        def total(f: Any) -> Any:
            return jax.jit(jax.grad(lambda x, y: f(x, y).sum()))

        np.testing.assert_array_equal(total(namespace[name])(*inputs), total(loss)(*inputs))


# --- witnesses -----------------------------------------------------------------------------------

WITNESSES = [
    ("mse", {}, lambda p, t: optax.losses.squared_error(p, t), "real"),
    ("huber", {"delta": 0.75}, lambda p, t: optax.losses.huber_loss(p, t, delta=0.75), "real"),
    ("log_cosh", {}, lambda p, t: optax.losses.log_cosh(p, t), "real"),
    ("bce_with_logits", {}, lambda p, t: optax.losses.sigmoid_binary_cross_entropy(p, t), "unit"),
    (
        "binary_focal",
        {"alpha": 0.25, "gamma": 2.0},
        lambda p, t: optax.losses.sigmoid_focal_loss(p, t, alpha=0.25, gamma=2.0),
        "binary",
    ),
    (
        "cross_entropy",
        {},
        lambda p, t: optax.losses.softmax_cross_entropy_with_integer_labels(p, t),
        "labels",
    ),
    (
        "cross_entropy_probabilities",
        {},
        lambda p, t: optax.losses.softmax_cross_entropy(p, t),
        "simplex",
    ),
    ("hinge", {}, lambda p, t: optax.losses.hinge_loss(p, t), "sign"),
]


@pytest.mark.parametrize(
    ("name", "settings", "theirs", "kind"), WITNESSES, ids=[row[0] for row in WITNESSES]
)
def test_optax_agrees_at_benign_points(name: str, settings: Any, theirs: Any, kind: str) -> None:
    with wide(True):
        rng = np.random.default_rng(3)
        p = jnp.asarray(rng.normal(size=(6, 4)))
        targets = {
            "real": rng.normal(size=(6, 4)),
            "unit": rng.uniform(size=(6, 4)),
            "binary": rng.integers(0, 2, (6, 4)).astype(float),
            "sign": rng.integers(0, 2, (6, 4)) * 2.0 - 1.0,
            "simplex": rng.dirichlet(np.ones(4), 6),
            "labels": rng.integers(0, 4, 6),
        }
        t = jnp.asarray(targets[kind])
        ours = getattr(L, name)
        np.testing.assert_allclose(ours(p, t, **settings), theirs(p, t), rtol=1e-12, atol=1e-14)
        got = jax.grad(lambda p: ours(p, t, **settings).sum())(p)
        want = jax.grad(lambda p: theirs(p, t).sum())(p)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


def test_optax_ctc_agrees() -> None:
    with wide(True), jax.numpy_rank_promotion("allow"):
        rng = np.random.default_rng(5)
        raw = jnp.asarray(rng.normal(size=(3, 7, 5)))
        targets = jnp.array([[1, 2, 2], [3, 3, 0], [4, 0, 0]])
        ends, lengths = jnp.array([7, 6, 4]), jnp.array([3, 2, 1])
        padded = (jnp.arange(7)[None] >= ends[:, None]).astype(float)
        label_pad = (jnp.arange(3)[None] >= lengths[:, None]).astype(float)

        def ours(raw: Any) -> Any:
            return L.ctc(jax.nn.log_softmax(raw).swapaxes(0, 1), targets, ends, lengths).sum()

        def theirs(raw: Any) -> Any:
            return optax.losses.ctc_loss(raw, padded, targets, label_pad).sum()

        np.testing.assert_allclose(ours(raw), theirs(raw), rtol=1e-9)
        np.testing.assert_allclose(jax.grad(ours)(raw), jax.grad(theirs)(raw), atol=1e-6)


# --- what users of JAX do besides ----------------------------------------------------------------


def test_settings_are_attributes() -> None:
    loss = L.FocalLoss(gamma=3.0)
    assert (loss.gamma, loss.reduction, loss.normalizer) == (3.0, "mean", "counts")
    assert L.CrossEntropyLoss().weight is None
    assert L.ArcFaceLoss(3, 4).num_classes == 3
    with pytest.raises(AttributeError, match="gama"):
        loss.gama  # noqa: B018


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "InfoNCELoss", "FocalLoss"])
def test_export_with_a_symbolic_batch(name: str) -> None:
    from jax import export

    loss = getattr(L, name)()
    (n,) = export.symbolic_shape("n")
    x = logits(5, 3)
    second = x + 1 if name == "InfoNCELoss" else labels(5, 3)
    shapes = [jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype) for a in (x, second)]
    step = jax.jit(jax.value_and_grad(loss))
    value, gradient = export.export(step)(*shapes).call(x, second)
    expected = step(x, second)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("given", [None, "a", {"x": 1.0}])
def test_what_is_no_array_is_a_typed_error(given: Any) -> None:
    with pytest.raises(ArgumentError, match="prediction must be an array"):
        L.MSELoss()(given, jnp.ones(3))


def test_the_call_that_a_message_gives_works() -> None:
    x, y = logits(5, 3), labels(5, 3)
    right = L.CrossEntropyLoss()(x, y)
    with pytest.raises(ShapeError, match=r"pass target.astype\('int32'\)"):
        L.CrossEntropyLoss()(x, y.astype("float32"))
    with pytest.raises(ShapeError, match=r"pass labels.reshape\(\(5,\)\)"):
        L.CrossEntropyLoss()(x, y[:, None])
    with pytest.raises(ShapeError, match=r"pass labels.astype\('float32'\)"):
        L.CrossEntropyLoss()(x, jax.nn.one_hot(y, 3, dtype="int32"))
    with pytest.raises(DTypeError, match=r"write loss\(logits, labels\)"):
        L.CrossEntropyLoss()(y, x)
    with pytest.raises(DTypeError, match=r"write loss\(logits, labels\)"):
        L.CrossEntropyLoss()(labels=x, logits=y)
    with pytest.raises(ShapeError, match=r"labels of shape \(5,\) would fit"):
        L.CrossEntropyLoss()(labels=y[:4], logits=x)
    with pytest.raises(ShapeError, match="construct it with axis=1"):
        L.CrossEntropyLoss()(jnp.ones((2, 3, 4)), jnp.zeros((2, 4), "int32"))
    assert L.CrossEntropyLoss()(x, y[:, None].reshape((5,))) == right
    np.testing.assert_allclose(
        L.CrossEntropyLoss()(x, jax.nn.one_hot(y, 3, dtype="int32").astype("float32")),
        right,
        rtol=1e-6,
    )


def test_params_of_other_names_are_named() -> None:
    with pytest.raises(ArgumentError, match="params='centers'"):
        L.ArcFaceLoss(3, 4)(logits(5, 4), labels(5, 3), params={"centers": logits(3, 4)})


def test_a_loss_with_class_centres_combines() -> None:
    loss = L.WeightedLoss({"a": L.MSELoss(), "b": L.ArcFaceLoss(3, 3)}, {"a": 0.25})
    assert str(inspect.signature(L.WeightedLoss)) == "(losses, coefficients=None)"
    params = loss.init(jax.random.key(0))
    x, y = logits(5, 3), labels(5, 3)
    value, slope = jax.value_and_grad(lambda p: loss(a=(x, 2 * x), b=(x, y), params=p))(params)
    flat, _ = jax.tree.flatten(slope)
    assert [g.shape for g in flat] == [(3, 3)]
    assert float(jnp.abs(flat[0]).sum()) > 0
    (centres,) = jax.tree.leaves(params)
    parts = L.MSELoss()(x, 2 * x), L.ArcFaceLoss(3, 3)(x, y, params={"centres": centres})
    np.testing.assert_allclose(value, 0.25 * parts[0] + parts[1], rtol=1e-6)
