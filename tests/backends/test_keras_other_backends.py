"""Keras on JAX and on PyTorch: the same losses, by those frameworks' own lowerings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[2]

# Run by each backend in a process of its own, which is where Keras chooses one.
SCRIPT = """
import json

import keras
import numpy as np

import lossbridge.keras as L
from lossbridge.errors import BackendUnavailable

backend = keras.backend.backend()
rng = np.random.default_rng(7)
real = rng.normal(size=(6, 5)).astype("float32")
other = rng.normal(size=(6, 5)).astype("float32")
logits = 20 * real
odds = rng.random((6, 5)).astype("float32")
labels = np.array([0, 4, 2, 2, 1, 3], "int32")
ignored = np.array([0, 4, -100, 2, 1, -100], "int32")
weight = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 3.0], "float32")


def derived(loss, x):
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        return value, tape.gradient(value, x)
    if backend == "jax":
        import jax

        return jax.value_and_grad(loss)(jax.numpy.asarray(x))
    import torch

    x = torch.tensor(x, requires_grad=True)
    value = loss(x)
    value.backward()
    return value, x.grad


centres = rng.normal(size=(5, 3)).astype("float32")
vectors = rng.normal(size=(6, 3)).astype("float32")


def arc_face():
    loss = L.ArcFaceLoss(num_classes=5, embedding_size=3)
    loss.trainable_variables[0].assign(centres)
    return loss


arc = arc_face()
cases = {
    "mse": (lambda x: L.MSELoss()(other, x), real),
    "mse sum": (lambda x: L.MSELoss(reduction="sum")(other, x), real),
    "huber weighted": (lambda x: L.HuberLoss()(other, x, sample_weight=weight), real),
    "l1 masked": (lambda x: L.L1Loss()(other, x, mask=weight > 0.7), real),
    "bce": (lambda x: L.BCEWithLogitsLoss()(odds, x), logits),
    "focal": (lambda x: L.BinaryFocalLoss(alpha=0.25, gamma=2.0)(odds, x), logits),
    "cross-entropy": (lambda x: L.CrossEntropyLoss()(labels, x), logits),
    "ignored": (lambda x: L.CrossEntropyLoss(label_smoothing=0.1)(ignored, x), logits),
    "axis": (lambda x: L.CrossEntropyLoss(axis=0)(labels[:5], x), logits),
    "triplet": (lambda x: L.TripletMarginLoss()(anchor=x, positive=other, negative=odds), real),
    "penalty": (lambda x: L.L2Penalty(strength=0.5)([x]), real),
    "arc face": (lambda x: arc(embeddings=x, labels=labels), vectors),
}
found = {}
for name, (loss, x) in cases.items():
    value, gradient = derived(loss, x)
    found[name] = [float(value), keras.ops.convert_to_numpy(gradient).tolist()]

network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, use_bias=False)])
network.layers[0].kernel.assign(centres)
trained = arc_face()
model = L.with_loss(network, trained)
model.compile(keras.optimizers.SGD(0.01))
model.fit(real, labels, batch_size=6, epochs=2, shuffle=False, verbose=0)
moved = keras.ops.convert_to_numpy(trained.trainable_variables[0])
found["fit"] = [float(np.abs(moved - centres).max()), moved.tolist()]
try:
    L.UncertaintyWeightedLoss({"a": L.MSELoss()})
    found["combination"] = "works"
except BackendUnavailable as error:
    found["combination"] = str(error)
print("FOUND", json.dumps(found))
"""


def run(backend: str) -> dict[str, Any]:
    roots = [str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, roots)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": backend,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=env,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (k for k in done.stdout.splitlines() if k.startswith("FOUND "))
    result: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return result


@pytest.fixture(scope="module")
def tensorflow() -> dict[str, Any]:
    return run("tensorflow")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_what_tensorflow_gives(
    backend: str, tensorflow: dict[str, Any]
) -> None:
    pytest.importorskip(backend)
    found = run(backend)
    assert set(found) == set(tensorflow)
    wanted = dict(tensorflow)
    assert wanted.pop("combination") == "works"
    message = found["combination"]
    assert f"KERAS_BACKEND is '{backend}'" in message and "KERAS_BACKEND=tensorflow" in message
    for name, (value, gradient) in wanted.items():
        np.testing.assert_allclose(found[name][0], value, rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(found[name][1], gradient, rtol=2e-5, atol=1e-7, err_msg=name)
    assert wanted["fit"][0] > 1e-3  # the centres were trained
