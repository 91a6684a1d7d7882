"""What of lossbridge.keras works on the Keras backend of this process; run as a script.

Prints one line of JSON: for each feature the numbers that a user would see, or the error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import lossbridge.keras as L
from lossbridge.errors import LossbridgeError

BACKEND = keras.backend.backend()
IDS = np.array([[3, 0], [5, 7]])
ONES = np.ones((2, 2, 1), "float32")
FEATURES: dict[str, Callable[[], Any]] = {}


def feature(function: Callable[[], Any]) -> Callable[[], Any]:
    FEATURES[function.__name__] = function
    return function


def plain(x: Any) -> Any:
    """Tensors and NumPy's numbers as JSON has them."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if x is None or isinstance(x, str | bool | int | float):
        return x
    return np.asarray(keras.ops.convert_to_numpy(x)).astype("float64").tolist()


def tokens(*more: Any, width: int = 1) -> Any:
    """A model that gives id i for token i, and masks token 0."""
    table = np.arange(9.0)[:, None] + 0.5 * np.arange(width)
    embedding = layers.Embedding(
        9, width, mask_zero=True, embeddings_initializer=keras.initializers.Constant(table)
    )
    return keras.Sequential([keras.Input((2,), dtype="int32"), embedding, *more])


def two_outputs() -> Any:
    """The tokens' ids, and twice them, under one mask."""
    ids = keras.Input((2,), dtype="int32")
    (embedded,) = tokens().layers
    named = [layers.Rescaling(k, name=n) for k, n in ((1.0, "a"), (2.0, "b"))]
    for layer in named:
        layer.supports_masking = True
    return keras.Model(ids, [layer(embedded(ids)) for layer in named])


def trained(model: Any, x: Any, y: Any = None, **how: Any) -> float:
    """The loss that ``fit`` reports."""
    model.compile(keras.optimizers.SGD(0.0), **how)
    return float(model.fit(x, y, verbose=0, batch_size=len(IDS)).history["loss"][0])


def refusal(call: Callable[[], Any]) -> str:
    """What a user reads where something is refused; "" where it is not."""
    try:
        call()
    except LossbridgeError as error:
        return str(error)
    return ""


# --- losses of (y_true, y_pred) ------------------------------------------------------------------


@feature
def masks_in_every_method() -> Any:
    found = {}
    for name, make in {"ours": L.MSELoss, "native": _native, "original": _original}.items():
        model = tokens()
        values = [trained(model, IDS, ONES, loss=make())]
        values.append(model.evaluate(IDS, ONES, verbose=0, return_dict=True)["loss"])
        values.append(model.test_on_batch(IDS, ONES, return_dict=True)["loss"])
        values.append(model.train_on_batch(IDS, ONES, return_dict=True)["loss"])
        found[name] = values
    return found


def _native() -> Any:
    return L.native("keras.losses.MeanSquaredError")


def _original() -> Any:
    return keras.losses.MeanSquaredError()


@feature
def masks_in_eager_mode() -> Any:
    return trained(tokens(), IDS, ONES, loss=L.MSELoss(), run_eagerly=True)


@feature
def masks_through_other_layers() -> Any:
    twice = layers.TimeDistributed(layers.Dense(1, use_bias=False, kernel_initializer="ones"))
    x = np.array([[[3.0], [0.0]], [[5.0], [7.0]]], "float32")
    masking = keras.Sequential([keras.Input((2, 1)), layers.Masking(0.0)])
    return [
        trained(tokens(twice, width=2), IDS, ONES, loss=L.MSELoss()),
        trained(masking, x, ONES, loss=L.MSELoss()),
    ]


@feature
def masks_in_a_loop_of_ones_own() -> Any:
    model, loss = tokens(), L.MSELoss()
    (weights,) = model.trainable_variables
    if BACKEND == "jax":
        import jax

        def value_of(table: Any) -> Any:
            predictions, _ = model.stateless_call([table], [], IDS, training=True)
            return loss(ONES, predictions)

        value, gradient = jax.jit(jax.value_and_grad(value_of))(weights.value)
    elif BACKEND == "torch":
        value = loss(ONES, model(IDS))
        value.backward()
        gradient = weights.value.grad
    else:
        import tensorflow as tf

        @tf.function  # type: ignore[untyped-decorator]
        def step() -> Any:
            with tf.GradientTape() as tape:
                value = loss(ONES, model(IDS, training=True))
            return value, tf.convert_to_tensor(tape.gradient(value, weights.value))

        value, gradient = step()
    return [value, gradient]


@feature
def masks_of_several_outputs() -> Any:
    ours, original = [L.MSELoss(), L.L1Loss()], ["mse", "mae"]
    return {
        "list": trained(two_outputs(), IDS, [ONES, ONES], loss=ours, loss_weights=[1.0, 0.5]),
        "dict": trained(
            two_outputs(),
            IDS,
            {"a": ONES, "b": ONES},
            loss=dict(zip("ab", ours, strict=True)),
            loss_weights={"a": 1.0, "b": 0.5},
        ),
        "original": trained(
            two_outputs(), IDS, [ONES, ONES], loss=original, loss_weights=[1.0, 0.5]
        ),
    }


@feature
def masks_beside_sample_weights() -> Any:
    weights = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    found = {}
    for name, make in {"ours": L.MSELoss, "original": _original}.items():
        model = tokens()
        model.compile(keras.optimizers.SGD(0.0), loss=make())
        fit = model.fit(IDS, ONES, sample_weight=weights, verbose=0, batch_size=2)
        found[name] = fit.history["loss"][0]
    return found


@feature
def targets_of_any_dtype() -> Any:
    predictions = np.array([[0.5, 2.0], [0.25, -1.0]], "float32")
    bits = np.array([[1, 0], [0, 1]])
    found = {}
    for dtype in ("bool", "int32", "int64", "uint8", "float16", "float64"):
        target = bits.astype(dtype)
        weights = np.array([1.5, 2.5]).astype("float64")
        found[dtype] = [
            L.MSELoss()(target, predictions),
            L.BCEWithLogitsLoss()(target, predictions, sample_weight=weights),
        ]
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, kernel_initializer="ones")])
    found["in fit"] = [
        trained(model, predictions, bits.astype(d), loss=L.MSELoss()) for d in ("bool", "int64")
    ]
    return found


@feature
def dtypes_of_results() -> Any:
    def result(loss: Any, dtype: str) -> list[Any]:
        ones = keras.ops.ones((2, 2), dtype)
        value = loss(ones, 3 * ones)
        return [keras.backend.standardize_dtype(value.dtype), value]

    found = {d: result(L.MSELoss(), d) for d in ("float16", "bfloat16", "float32")}
    found["asked for"] = result(L.MSELoss(dtype="float16"), "float32")
    return found


@feature
def logits_that_are_none() -> Any:
    """Refusals where a softmax or a sigmoid made what a loss takes for logits."""

    class Subclassed(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = layers.Dense(3, activation="softmax")

        def call(self, x: Any) -> Any:
            return self.last(x)

    x, y = np.eye(4, dtype="float32"), np.array([0, 1, 2, 2])

    def fitted(*last: Any, model: Any = None, **how: Any) -> str:
        model = model or keras.Sequential([keras.Input((4,)), *last])
        return refusal(lambda: trained(model, x, y, loss=L.CrossEntropyLoss(), **how))

    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    return {
        "activation": fitted(layers.Dense(3, activation="softmax")),
        "layer": fitted(layers.Dense(3), layers.Softmax()),
        "inner model": fitted(inner),
        "eager": fitted(layers.Dense(3, activation="softmax"), run_eagerly=True),
        "subclassed": fitted(model=Subclassed()),
        "none": fitted(layers.Dense(3, activation="relu")),
    }


# --- losses that are layers ----------------------------------------------------------------------


@feature
def endpoint_losses_under_masks() -> Any:
    inputs = [keras.Input((2,), dtype="int32") for _ in range(3)]
    (embedded,) = tokens(width=3).layers
    model = keras.Model(inputs, [embedded(x) for x in inputs])
    x = [IDS, IDS[::-1].copy(), IDS[:, ::-1].copy()]
    return trained(L.with_loss(model, L.TripletMarginLoss(margin=20.0)), x)


@feature
def trainable_weights() -> Any:
    loss = L.ArcFaceLoss(num_classes=4, embedding_size=3)
    loss.weight("centres").assign(np.arange(12.0).reshape(4, 3) % 5 - 2)
    network = keras.Sequential([keras.Input((3,)), layers.Dense(3, kernel_initializer="ones")])
    model = L.with_loss(network, loss)
    model.compile(keras.optimizers.SGD(0.1))
    x, y = np.eye(3, dtype="float32")[[0, 1, 2, 0]], np.array([0, 1, 2, 3])
    model.fit(x, y, verbose=0, batch_size=4, epochs=2, shuffle=False)
    path = str(Path(tempfile.mkdtemp()) / "model.keras")
    model.save(path)
    again = keras.saving.load_model(path)
    return [loss.weight("centres"), again.endpoint.weight("centres"), repr(again.endpoint)]


@feature
def ports() -> Any:
    def distance(a: Any, b: Any) -> Any:
        return keras.ops.sum(keras.ops.square(a - b), axis=-1)

    inputs = [keras.Input((3,)) for _ in range(3)]
    dense = layers.Dense(2, kernel_initializer="ones")
    model = keras.Model(inputs, [dense(x) for x in inputs])
    rows = np.arange(12.0, dtype="float32").reshape(4, 3)
    loss = L.TripletMarginWithDistanceLoss(margin=60.0)
    trainable = L.with_loss(model, loss, ports={"distance_function": distance})
    critic = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_initializer="ones")])
    penalty = L.GradientPenaltyLoss()(
        fake_data=rows,
        real_data=rows[::-1].copy(),
        mix=np.full(4, 0.5, "float32"),
        critic=lambda x: critic(x)[:, 0],
    )
    return [trained(trainable, [rows, rows + 1, rows + 2]), penalty]


@feature
def penalties_on_parameters() -> Any:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, kernel_initializer="ones")])
    return L.L2Penalty(strength=0.5)(model)


@feature
def combinations() -> Any:
    losses = {"a": L.MSELoss(), "b": L.L1Loss()}
    return trained(L.with_loss(two_outputs(), L.WeightedLoss(losses)), IDS, [ONES, ONES])


@feature
def schedules() -> Any:
    losses = {"a": L.MSELoss(), "b": L.L1Loss()}
    loss = L.CurriculumWeightedLoss(losses, {"a": (0.0, 1.0, 0, 10)})
    model = L.with_loss(two_outputs(), loss)
    model.compile(keras.optimizers.SGD(0.0))
    fit = model.fit(IDS, [ONES, ONES], verbose=0, batch_size=2, epochs=3)
    return fit.history["loss"]


# --- saving --------------------------------------------------------------------------------------


@feature
def saved_models() -> Any:
    model = tokens()
    value = trained(model, IDS, ONES, loss=L.HuberLoss(delta=2.0))
    path = os.environ.get("SAVED_MODEL") or str(Path(tempfile.mkdtemp()) / "model.keras")
    model.save(path)
    again = keras.saving.load_model(path)
    return [value, again.evaluate(IDS, ONES, verbose=0), repr(again.loss)]


@feature
def reduce_and_source() -> Any:
    values = np.array([1.0, 2.0, 6.0], "float32")
    return [
        L.reduce(values, mask=np.array([True, False, True])),
        "def " in L.HuberLoss().source,
    ]


def main(names: list[str]) -> None:
    found: dict[str, Any] = {}
    for name in names or list(FEATURES):
        try:
            found[name] = plain(FEATURES[name]())
        except Exception as error:
            found[name] = {"error": type(error).__name__, "message": str(error)}
    print("FOUND", json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
