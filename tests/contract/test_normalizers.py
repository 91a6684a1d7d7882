"""What a mean divides by, row by row of the table that the losses and the documentation have."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import lossbridge.jax as LJ
import lossbridge.keras as LK
import lossbridge.torch as LT
from lossbridge.divisors import DIVISORS

PLATFORMS = ("torch", "keras", "jax")
SCORES = np.array([[3.0, 1.0], [0.5, -1.0], [0.0, 2.0], [1.0, 1.0]])
LABELS = np.array([0, 1, 1, -100])
CLASS_WEIGHTS = np.array([1.0, 3.0])
SAMPLES = np.array([2.0, 1.0, 4.0, 1.0])
MASK = np.array([True, True, False, True])
EXTERNAL = 5.0


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def entropies(x: np.ndarray = SCORES, labels: np.ndarray = LABELS) -> np.ndarray:
    """The weighted cross-entropy of each sample, by hand."""
    own = -log_softmax(x)[np.arange(len(labels)), np.maximum(labels, 0)]
    return np.where(labels == -100, 0.0, CLASS_WEIGHTS[np.maximum(labels, 0)] * own)


# By hand, of the four samples above: nothing given, sample weights, a mask, both.
BY_HAND = {
    "elements": (4.0, 4.0, 3.0, 3.0),
    "batch": (4.0, 4.0, 4.0, 4.0),
    "counts": (7.0, 7.0, 4.0, 4.0),  # 1 + 3 + 3 + 0
    "weights": (7.0, 17.0, 4.0, 5.0),  # 2 * 1 + 1 * 3 + 4 * 3 + 0
    "valid": (3.0, 3.0, 2.0, 2.0),
    "target_length": (4.0, 4.0, 3.0, 3.0),
    "external": (EXTERNAL,) * 4,
}
CALLS = {
    "plain": {},
    "weighted": {"sample_weight": SAMPLES},
    "masked": {"mask": MASK},
    "both": {"sample_weight": SAMPLES, "mask": MASK},
}


def called(platform: str, loss: Any, x: Any, y: Any, **call: Any) -> Any:
    """A loss of a prediction and its target, each platform in its own order."""
    if platform == "torch":
        given = {k: torch.as_tensor(v) for k, v in call.items()}
        return loss(torch.as_tensor(x), torch.as_tensor(y), **given)
    return loss(y, x, **call) if platform == "keras" else loss(x, y, **call)


DOORS: dict[str, Any] = {"torch": LT, "keras": LK, "jax": LJ}


@pytest.fixture(autouse=True, scope="module")
def wide() -> Any:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def from_the_row(name: str, weight: np.ndarray, mask: np.ndarray) -> float:
    """The divisor that the facts of a row of the table say."""
    row = DIVISORS[name]
    if row.over == "given":
        return EXTERNAL
    if row.over == "batch":
        return float(len(LABELS))
    count = np.where(LABELS == -100, 0.0, CLASS_WEIGHTS[np.maximum(LABELS, 0)])
    share = np.ones(len(LABELS))
    if row.class_weights:
        share = count
    elif row.ignored:
        share = (count > 0.0) * 1.0
    if row.sample_weight:
        share = share * weight
    return float((share[mask] if row.mask else share).sum())


def test_the_table_is_of_every_normaliser() -> None:
    assert list(BY_HAND) == list(DIVISORS)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", DIVISORS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_mean_divides_by_what_its_row_says(platform: str, name: str, call: str) -> None:
    w = CALLS[call].get("sample_weight", np.ones(4))
    m = CALLS[call].get("mask", np.ones(4, bool))
    divisor = from_the_row(name, w, m)
    assert divisor == BY_HAND[name][list(CALLS).index(call)]
    values = entropies()
    if DIVISORS[name].count == "each":
        count = np.where(LABELS == -100, 0.0, CLASS_WEIGHTS[np.maximum(LABELS, 0)])
        values = values / np.maximum(count, 1.0)
    loss = DOORS[platform].CrossEntropyLoss(weight=CLASS_WEIGHTS.tolist(), normalizer=name)
    extra = {"normalizer_count": EXTERNAL} if name == "external" else {}
    found = called(platform, loss, SCORES, LABELS, **CALLS[call], **extra)
    assert float(found) == pytest.approx((w * values)[m].sum() / divisor, rel=1e-13)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_sum_and_single_values_are_weighed_and_divided_by_nothing(
    platform: str, call: str
) -> None:
    w = CALLS[call].get("sample_weight", np.ones(4))
    m = CALLS[call].get("mask", np.ones(4, bool))
    wanted = np.where(m, w * entropies(), 0.0)
    for reduction, value in (("none", wanted), ("sum", wanted.sum())):
        for name in DIVISORS:
            loss = DOORS[platform].CrossEntropyLoss(
                weight=CLASS_WEIGHTS.tolist(), normalizer=name, reduction=reduction
            )
            found = called(platform, loss, SCORES, LABELS, **CALLS[call])
            np.testing.assert_allclose(np.asarray(found), value, rtol=1e-13)


# --- what the two frameworks' users have ---


@pytest.mark.parametrize("platform", PLATFORMS)
def test_class_weights_enter_the_divisor_as_in_torch(platform: str) -> None:
    theirs = torch.nn.CrossEntropyLoss(weight=torch.tensor(CLASS_WEIGHTS))
    wanted = float(theirs(torch.tensor(SCORES), torch.tensor(LABELS)))
    loss = DOORS[platform].CrossEntropyLoss(weight=CLASS_WEIGHTS.tolist())
    assert float(called(platform, loss, SCORES, LABELS)) == pytest.approx(wanted, rel=1e-13)
    theirs_nll = torch.nn.NLLLoss(weight=torch.tensor(CLASS_WEIGHTS))
    rows = log_softmax(SCORES)
    wanted = float(theirs_nll(torch.tensor(rows), torch.tensor(LABELS)))
    nll = DOORS[platform].NLLLoss(weight=CLASS_WEIGHTS.tolist())
    assert float(called(platform, nll, rows, LABELS)) == pytest.approx(wanted, rel=1e-13)


# The numbers of a report: class weights of 1, 5 and 3 over four samples.
X = np.array([[3.0, 0, 0], [0, 1, 0], [1, 2, 0], [0, 0, 1]], np.float32)
Y = np.array([0, 1, 2, 2])
TABLE = {0: 1.0, 1: 5.0, 2: 3.0}


@pytest.mark.parametrize("eagerly", [False, True])
def test_keras_class_weight_in_fit_is_the_built_ins(eagerly: bool) -> None:
    histories = []
    for loss in (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        LK.CrossEntropyLoss(),
        LK.native("keras.losses.SparseCategoricalCrossentropy", from_logits=True),
    ):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.1), loss=loss, run_eagerly=eagerly)
        weight = np.array([TABLE[k] for k in Y], np.float32)
        fit = model.fit(X, Y, class_weight=TABLE, verbose=0, batch_size=4, epochs=2)
        histories.append(
            [
                *fit.history["loss"],
                model.evaluate(X, Y, sample_weight=weight, verbose=0),
                model.train_on_batch(X, Y, sample_weight=weight),
                model.train_on_batch(X, Y, class_weight=TABLE),
                float(loss(Y, model(X), sample_weight=weight)),
            ]
        )
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5)
    np.testing.assert_allclose(histories[2], histories[0], rtol=1e-5)


ONE_HOT = np.eye(3, dtype=np.float32)[Y]
UNIT = 1.0 / (1.0 + np.exp(-X))
SIGNS = 2.0 * ONE_HOT - 1.0
ROWS = np.exp(log_softmax(X))
BUILT_INS = {
    "CrossEntropyLoss": (("CategoricalCrossentropy", {"from_logits": True}), {}, ONE_HOT, X),
    "MSELoss": (("MeanSquaredError", {}), {}, ONE_HOT, X),
    "L1Loss": (("MeanAbsoluteError", {}), {}, ONE_HOT, X),
    "HuberLoss": (("Huber", {}), {}, ONE_HOT, X),
    "LogCoshLoss": (("LogCosh", {}), {}, ONE_HOT, X),
    "BCEWithLogitsLoss": (("BinaryCrossentropy", {"from_logits": True}), {}, ONE_HOT, X),
    "BCELoss": (("BinaryCrossentropy", {}), {}, ONE_HOT, UNIT),
    "BinaryFocalLoss": (
        (
            "BinaryFocalCrossentropy",
            {"from_logits": True, "apply_class_balancing": True, "alpha": 0.25},
        ),
        {},
        ONE_HOT,
        X,
    ),
    "FocalLoss": (
        ("CategoricalFocalCrossentropy", {"from_logits": True, "alpha": 1.0}),
        {},
        ONE_HOT,
        X,
    ),
    "HingeLoss": (("Hinge", {}), {}, SIGNS, X),
    "SquaredHingeLoss": (("SquaredHinge", {}), {}, SIGNS, X),
    "PoissonNLLLoss": (("Poisson", {}), {"log_input": False}, ONE_HOT, UNIT),
    "MSLELoss": (("MeanSquaredLogarithmicError", {}), {}, ONE_HOT, UNIT),
}


@pytest.mark.parametrize("name", [n for n in BUILT_INS if hasattr(LK, n)])
def test_sample_weights_mean_what_they_do_in_kerass_own_loss(name: str) -> None:
    """Every class of ours beside its built-in: a sample weight scales, and divides by nothing."""
    (theirs, arguments), ours, target, prediction = BUILT_INS[name]
    original, loss = getattr(keras.losses, theirs)(**arguments), getattr(LK, name)(**ours)
    weight = np.array([1.0, 5.0, 3.0, 0.0], np.float32)
    weighted = float(loss(target, prediction, sample_weight=weight))
    wanted = float(original(target, prediction, sample_weight=weight))
    assert weighted == pytest.approx(wanted, rel=1e-5)


# --- where there is nothing to divide by ---

NOTHING: dict[str, tuple[str, dict[str, Any], np.ndarray, dict[str, Any]]] = {
    "class weights of 0": ("counts", {"weight": [0.0, 1.0]}, np.zeros(4, int), {}),
    "class weights and sample weights of 0": (
        "weights",
        {"weight": [0.0, 1.0]},
        np.array([0, 0, 1, 1]),
        {"sample_weight": np.array([1.0, 1.0, 0.0, 0.0])},
    ),
    "sample weights of 0": ("weights", {}, LABELS, {"sample_weight": np.zeros(4)}),
    "sample weights that cancel": (
        "weights",
        {},
        np.array([0, 1, 1, 0]),
        {"sample_weight": np.array([1.0, -1.0, 2.0, -2.0])},
    ),
    "all ignored": ("counts", {}, np.full(4, -100), {}),
    "all ignored, counted": ("valid", {}, np.full(4, -100), {}),
    "all masked": ("elements", {}, LABELS, {"mask": np.zeros(4, bool)}),
    "all masked, counted": ("counts", {}, LABELS, {"mask": np.zeros(4, bool)}),
    "all masked, by length": ("target_length", {}, LABELS, {"mask": np.zeros(4, bool)}),
    "a count of 0": ("external", {}, LABELS, {"normalizer_count": 0.0}),
}


def torch_runs(loss: Any, y: np.ndarray, call: dict[str, Any]) -> Any:
    given = {k: torch.as_tensor(v) for k, v in call.items()}
    labels = torch.tensor(y)

    def of(x: torch.Tensor) -> torch.Tensor:
        return loss(x, labels, **given)

    def eager(f: Any) -> Any:
        x = torch.tensor(SCORES, requires_grad=True)
        value = f(x)
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, allow_unused=True)
        return value.detach(), first.detach(), 0.0 if second is None else second

    yield "eager", eager(of)
    x = torch.tensor(SCORES)
    yield "functional", (of(x), torch.func.grad(of)(x), torch.func.hessian(of)(x))
    yield "forward", (of(x), torch.func.jacfwd(of)(x), 0.0)
    many = torch.func.vmap(torch.func.grad(of))(torch.stack([x, 2.0 * x]))
    yield "vmap", (of(x), many, 0.0)


def keras_runs(loss: Any, y: np.ndarray, call: dict[str, Any]) -> Any:
    def of(x: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(y, x, **call)
            first = tape.gradient(value, x)
        second = outer.gradient(first, x)
        return value, first, tf.zeros_like(x) if second is None else second

    x = tf.constant(SCORES)
    yield "eager", of(x)
    yield "graph", tf.function(of)(x)
    yield "xla", tf.function(of, jit_compile=True)(x)


def jax_runs(loss: Any, y: np.ndarray, call: dict[str, Any]) -> Any:
    def of(x: Any) -> Any:
        return loss(x, jnp.asarray(y), **call)

    def all_of_them(x: Any) -> Any:
        many = jax.vmap(jax.value_and_grad(of))(jnp.stack([x, 2.0 * x]))
        return (of(x), jax.grad(of)(x), jax.hessian(of)(x)), (of(x), jax.jacfwd(of)(x)), many

    x = jnp.asarray(SCORES)
    yield "eager", jax.value_and_grad(of)(x)
    yield from zip(("jit", "forward", "vmap"), jax.jit(all_of_them)(x), strict=True)


RUNS = {"torch": torch_runs, "keras": keras_runs, "jax": jax_runs}


EMPTY = [(case, "nan") for case in NOTHING] + [(c, "zero") for c in list(NOTHING)[::4]]


@pytest.mark.parametrize(("case", "empty"), EMPTY)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_divisor_of_0_gives_what_empty_says_and_gradients_of_exactly_0(
    platform: str, case: str, empty: str
) -> None:
    name, settings, y, call = NOTHING[case]
    loss = DOORS[platform].CrossEntropyLoss(normalizer=name, empty=empty, **settings)
    wanted = np.nan if empty == "nan" else 0.0
    for mode, (value, *derivatives) in RUNS[platform](loss, y, call):
        np.testing.assert_array_equal(np.unique(np.asarray(value)), wanted, err_msg=mode)
        for derivative in derivatives:
            assert np.all(np.asarray(derivative) == 0.0), (mode, derivative)


@pytest.mark.slow
@pytest.mark.parametrize("case", NOTHING)
def test_a_divisor_of_0_under_torch_compile(case: str) -> None:
    name, settings, y, call = NOTHING[case]
    loss = torch.compile(LT.CrossEntropyLoss(normalizer=name, **settings), fullgraph=True)
    x = torch.tensor(SCORES, requires_grad=True)
    value = loss(x, torch.tensor(y), **{k: torch.as_tensor(v) for k, v in call.items()})
    value.backward()
    assert torch.isnan(value)
    assert torch.all(x.grad == 0.0)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_weights_that_add_up_to_0_have_no_gradient_in_the_weights_either(platform: str) -> None:
    loss = DOORS[platform].MSELoss(normalizer="weights")
    x, y, w = np.array([1.0, 2.0]), np.array([0.0, 0.0]), np.zeros(2)
    if platform == "torch":
        weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        loss(torch.tensor(x), torch.tensor(y), sample_weight=weight).backward()
        found = weight.grad.numpy()
    elif platform == "keras":
        weight = tf.constant(w)
        with tf.GradientTape() as tape:
            tape.watch(weight)
            value = loss(y, tf.constant(x), sample_weight=weight)
        found = tape.gradient(value, weight).numpy()
    else:
        found = jax.grad(lambda w: loss(x, y, sample_weight=w))(jnp.asarray(w))
    np.testing.assert_array_equal(found, [0.0, 0.0])


def test_a_batch_of_nothing_moves_no_weight_of_the_losss_own() -> None:
    """0 rows times 1 / 0 was NaN in a gradient that is not empty."""
    loss = LT.LinearCrossEntropyLoss(3, 2)
    value = loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert torch.isnan(value)
    assert torch.all(loss.linear_weight.grad == 0.0)
    own = LJ.LinearCrossEntropyLoss(3, 2)
    params = own.init(jax.random.key(0))
    grads = jax.grad(lambda p: own(jnp.zeros((0, 3)), jnp.zeros((0,), int), params=p))(params)
    assert all(bool(jnp.all(g == 0.0)) for g in jax.tree.leaves(grads))
