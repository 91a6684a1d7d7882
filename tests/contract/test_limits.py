"""Infinite logits, NaN and second derivatives on every platform: limits where they exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

import lossbridge.jax as LJ
import lossbridge.keras as LK
import lossbridge.torch as LT

INF, NAN = math.inf, math.nan
Arrays: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = tuple[Any, dict[str, Any]]


def on_torch(name: str, inputs: Arrays, settings: Mapping[str, Any], dtype: str) -> Answer:
    loss = getattr(LT, name)(reduction="none", **settings)
    given = {
        k: torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True)
        if x.dtype.kind == "f"
        else torch.tensor(x)
        for k, x in inputs.items()
    }
    value = loss(**given)
    value.sum().backward()
    return (
        value.detach().double().numpy(),
        {k: x.grad.double().numpy() for k, x in given.items() if x.grad is not None},
    )


def on_keras(compiled: bool) -> Callable[..., Answer]:
    def run(name: str, inputs: Arrays, settings: Mapping[str, Any], dtype: str) -> Answer:
        loss = getattr(LK, name)(reduction="none", **settings)
        given = {
            k: tf.constant(x, dtype if x.dtype.kind == "f" else x.dtype) for k, x in inputs.items()
        }
        real = [k for k, x in inputs.items() if x.dtype.kind == "f"]

        def both(given: Any) -> Any:
            with tf.GradientTape() as tape:
                for k in real:
                    tape.watch(given[k])
                value = loss(**given)
            return value, tape.gradient(value, {k: given[k] for k in real})

        value, gradients = (tf.function(both, jit_compile=True) if compiled else both)(given)
        numbers = {k: np.asarray(tf.cast(g, tf.float64)) for k, g in gradients.items()}
        return np.asarray(tf.cast(value, tf.float64)), numbers

    return run


def on_jax(name: str, inputs: Arrays, settings: Mapping[str, Any], dtype: str) -> Answer:
    loss = getattr(LJ, name)(reduction="none", **settings)
    real = {k: jnp.asarray(x, dtype) for k, x in inputs.items() if x.dtype.kind == "f"}
    whole = {k: jnp.asarray(x) for k, x in inputs.items() if k not in real}
    value = jax.jit(lambda r: loss(**r, **whole))(real)
    gradients = jax.jit(jax.grad(lambda r: loss(**r, **whole).sum()))(real)
    wide = {k: np.asarray(g, np.float64) for k, g in gradients.items()}
    return np.asarray(value, np.float64), wide


WAYS: dict[str, Callable[..., Answer]] = {
    "torch": on_torch,
    "keras": on_keras(False),
    "keras-xla": on_keras(True),
    "jax": on_jax,
}
ways = pytest.mark.parametrize("way", WAYS)

LOGITS = np.array([INF, -INF, INF, -INF, INF, -INF])
TARGET = np.array([1.0, 0.0, 0.0, 1.0, 0.25, 0.25])


@pytest.mark.parametrize(
    ("way", "dtype"),
    [*((way, "float32") for way in WAYS), ("torch", "float16"), ("jax", "bfloat16")],
)
@pytest.mark.parametrize(
    ("name", "settings", "slope"),
    [
        ("BCEWithLogitsLoss", {}, [0, 0, 1, -1, 0.75, -0.25]),
        ("BCEWithLogitsLoss", {"pos_weight": 2.0}, [0, 0, 1, -2, 0.75, -0.5]),
        ("BinaryFocalLoss", {"alpha": 0.25}, [0, 0, 0.75, -0.25, 0.5625, -0.0625]),
        ("BinaryFocalLoss", {"alpha": 0.5, "gamma": 0.5}, [0, 0, 0.5, -0.5, 0.375, -0.125]),
    ],
)
def test_an_infinite_logit_costs_nothing_where_it_is_right(
    way: str, dtype: str, name: str, settings: dict[str, Any], slope: list[float]
) -> None:
    """And infinitely much where it is wrong or half wrong, with the slope of the straight part."""
    value, gradient = WAYS[way](name, {"logits": LOGITS, "target": TARGET}, settings, dtype)
    assert value.tolist() == [0.0, 0.0, INF, INF, INF, INF]
    np.testing.assert_array_equal(gradient["logits"], slope)


@ways
def test_what_weighs_0_costs_0_however_wrong_its_logit_is(way: str) -> None:
    inputs = {"logits": np.array([-INF, INF]), "target": np.array([1.0, 1.0])}
    value, gradient = WAYS[way]("BCEWithLogitsLoss", inputs, {"pos_weight": 0.0}, "float32")
    assert value.tolist() == [0.0, 0.0]
    assert gradient["logits"].tolist() == [0.0, 0.0]
    labels = np.array([[INF, -INF, 0.0]])
    several = {"logits": labels, "target": np.array([[1.0, 0.0, 1.0]])}
    value, gradient = WAYS[way]("MultiLabelSoftMarginLoss", several, {}, "float32")
    np.testing.assert_allclose(value, [math.log(2.0) / 3.0], rtol=1e-6)
    np.testing.assert_allclose(gradient["logits"], [[0.0, 0.0, -0.5 / 3.0]], rtol=1e-6)


@ways
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_has_a_gradient_where_the_label_is_a_masked_class(way: str, gamma: float) -> None:
    logits = {"logits": np.array([[-INF, 0.0, 0.0]]), "labels": np.array([0], np.int32)}
    value, gradient = WAYS[way]("FocalLoss", logits, {"gamma": gamma}, "float32")
    assert value.tolist() == [INF]
    np.testing.assert_allclose(gradient["logits"], [[-1.0, 0.5, 0.5]], rtol=1e-6)
    soft = {"logits": np.array([[0.0, -INF]]), "target": np.array([[1.0, 0.0]])}
    value, gradient = WAYS[way]("FocalLoss", soft, {"gamma": gamma}, "float32")
    assert value.tolist() == [0.0]
    assert gradient["logits"].tolist() == [[0.0, 0.0]]


@ways
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("HingeLoss", {"target": np.array([1.0])}),
        ("SquaredHingeLoss", {"target": np.array([1.0])}),
        ("PerceptronLoss", {"target": np.array([-1.0])}),
        ("HingeEmbeddingLoss", {"target": np.array([-1.0])}),
    ],
)
def test_a_nan_prediction_has_a_nan_gradient(way: str, name: str, others: dict[str, Any]) -> None:
    """Not 0, with which training would go on as if nothing were wrong."""
    value, gradient = WAYS[way](name, {"prediction": np.array([NAN]), **others}, {}, "float32")
    assert math.isnan(value[0])
    assert math.isnan(gradient["prediction"][0])


@pytest.mark.parametrize(
    ("way", "name"),
    # The largest of several scores under TensorFlow's XLA is not NaN where one of them is.
    [*((w, "MultiMarginLoss") for w in WAYS)]
    + [(w, "MulticlassHingeLoss") for w in WAYS if w != "keras-xla"],
)
def test_a_nan_score_has_a_nan_gradient(way: str, name: str) -> None:
    inputs = {"prediction": np.array([[NAN, 1.0, 2.0]]), "labels": np.array([1], np.int32)}
    value, gradient = WAYS[way](name, inputs, {}, "float32")
    assert math.isnan(value[0])
    assert math.isnan(gradient["prediction"][0, 0])


@pytest.mark.parametrize("settings", [("HuberLoss", {}), ("SmoothL1Loss", {"beta": 2.0})])
def test_the_second_derivative_at_a_true_prediction_is_that_beside_it(settings: Any) -> None:
    name, given = settings
    expected = 1.0 / given.get("beta", 1.0)
    x = torch.zeros((), requires_grad=True)
    loss = getattr(LT, name)(reduction="sum", **given)
    (slope,) = torch.autograd.grad(loss(x, torch.zeros(())), x, create_graph=True)
    assert torch.autograd.grad(slope, x)[0].item() == expected
    ours = getattr(LJ, name)(reduction="sum", **given)
    assert jax.hessian(lambda p: ours(p, jnp.zeros(())))(jnp.zeros(())) == expected
    keras = getattr(LK, name)(reduction="sum", **given)
    p, target = tf.zeros((1,)), tf.zeros((1,))
    with tf.GradientTape() as outer:
        outer.watch(p)
        with tf.GradientTape() as inner:
            inner.watch(p)
            value = keras(target, p)
        first = inner.gradient(value, p)
    assert outer.gradient(first, p).numpy().tolist() == [expected]


@ways
def test_a_large_divisor_does_not_become_a_reciprocal_of_0(way: str) -> None:
    """1 / 3e38 is subnormal in float32, and flushed to 0 on two platforms."""
    inputs = {"prediction": np.array([1e38]), "target": np.array([0.0])}
    value, gradient = WAYS[way]("SmoothL1Loss", inputs, {"beta": 3e38}, "float32")
    np.testing.assert_allclose(value, [0.5e38 / 3.0], rtol=1e-6)
    np.testing.assert_allclose(gradient["prediction"], [1.0 / 3.0], rtol=1e-6)


def _weighted(platform: str, weight: Any, name: str) -> tuple[float, Any]:
    """The mean over two samples, and its gradient in the logits, compiled where there is a way."""
    logits, labels = np.asarray([[1.0, 0.0, -1.0], [2.0, 0.0, 1.0]], np.float32), [0, 2]
    if platform == "torch":
        x = torch.tensor(logits, requires_grad=True)
        value = getattr(LT, name)(weight=torch.tensor(weight))(x, torch.tensor(labels))
        value.backward()
        assert x.grad is not None
        return value.item(), x.grad.numpy()
    if platform == "jax":
        loss = getattr(LJ, name)(weight=jnp.asarray(weight))
        both = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(labels))
        return float(both[0]), np.asarray(both[1])
    loss, z = getattr(LK, name)(weight=weight), tf.constant(logits)

    def run(z: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(tf.constant(labels), z)
        return value, tape.gradient(value, z)

    how: dict[str, Any] = {
        "keras": run,
        "keras-graph": tf.function(run),
        "keras-xla": tf.function(run, jit_compile=True),
    }
    value, gradient = how[platform](z)
    return float(value), gradient.numpy()


@pytest.mark.parametrize("platform", ["torch", "keras", "keras-graph", "keras-xla", "jax"])
@pytest.mark.parametrize("size", [1e38, 3e38])
@pytest.mark.parametrize("name", ["CrossEntropyLoss", "FocalLoss"])
def test_class_weights_as_large_as_numbers_get_teach_as_those_of_1_do(
    platform: str, size: float, name: str
) -> None:
    value, gradient = _weighted(platform, [size] * 3, name)
    right, slope = _weighted("torch", [1.0] * 3, name)
    assert value == pytest.approx(right, rel=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)


@pytest.mark.parametrize("platform", ["keras", "keras-graph", "keras-xla", "jax"])
def test_a_class_weight_that_the_platform_takes_for_0_teaches_nothing(platform: str) -> None:
    value, gradient = _weighted(platform, [1e-38] * 3, "CrossEntropyLoss")
    assert math.isnan(value)  # what the loss of nothing is
    assert not gradient.any()


@pytest.mark.parametrize("platform", ["torch", "keras", "jax"])
def test_probabilities_in_bfloat16_sum_to_1_as_nearly_as_bfloat16_can(platform: str) -> None:
    """Three thirds are 1.0019; a float32 sum would be refused for that, and NumPy knows no eps."""
    thirds = np.full((2, 3), 1.0 / 3.0, np.float32)
    if platform == "torch":
        given = torch.tensor(thirds).bfloat16()
        value = LT.CrossEntropyLoss()(torch.zeros(2, 3), given).item()
    elif platform == "keras":
        value = float(LK.CrossEntropyLoss()(tf.cast(thirds, tf.bfloat16), tf.zeros((2, 3))))
    else:
        loss = LJ.CrossEntropyLoss()
        value = float(loss(jnp.zeros((2, 3)), jnp.asarray(thirds, jnp.bfloat16)))
    assert value == pytest.approx(math.log(3.0), rel=5e-3)
