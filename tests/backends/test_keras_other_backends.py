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
print("FOUND", json.dumps(found))
"""


BACKENDS = ("tensorflow", "jax", "torch")
FEATURES = Path(__file__).parent / "keras_features.py"


def python(backend: str, *arguments: str, **further: str) -> subprocess.CompletedProcess[str]:
    """Python with that backend of Keras."""
    roots = [str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, roots)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": backend,
        **further,
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=env,
        text=True,
        capture_output=True,
        timeout=900,
        check=False,
    )


def run(backend: str, *arguments: str, **further: str) -> dict[str, Any]:
    """What a script found on that backend."""
    pytest.importorskip(backend)
    done = python(backend, *arguments, **further)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (k for k in done.stdout.splitlines() if k.startswith("FOUND "))
    result: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return result


@pytest.fixture(scope="module")
def tensorflow() -> dict[str, Any]:
    return run("tensorflow", "-c", SCRIPT)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_what_tensorflow_gives(
    backend: str, tensorflow: dict[str, Any]
) -> None:
    found = run(backend, "-c", SCRIPT)
    assert set(found) == set(tensorflow)
    for name, (value, gradient) in tensorflow.items():
        np.testing.assert_allclose(found[name][0], value, rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(found[name][1], gradient, rtol=2e-5, atol=1e-7, err_msg=name)
    assert tensorflow["fit"][0] > 1e-3  # the centres were trained


# --- what a user of each backend sees ------------------------------------------------------------

MASKED_MEAN = 56 / 3  # of (3 - 1)^2, (5 - 1)^2 and (7 - 1)^2; the zero token is masked


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def saved(backend: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp(backend) / "model.keras")


@pytest.fixture(scope="module")
def seen(backend: str, saved: str) -> dict[str, Any]:
    return run(backend, str(FEATURES), SAVED_MODEL=saved)


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-7)


@pytest.mark.slow
def test_a_mask_of_an_embedding_reaches_the_loss_in_every_method(seen: dict[str, Any]) -> None:
    """It was 14.25 on JAX, the mean over the masked token too: tracers hold no attributes."""
    for values in seen["masks_in_every_method"].values():
        near(values, [MASKED_MEAN] * 4)
    near(seen["masks_in_eager_mode"], MASKED_MEAN)


@pytest.mark.slow
def test_a_mask_passes_through_other_layers_and_other_losses(seen: dict[str, Any]) -> None:
    # With two features i and i + 0.5, summed: (6.5 - 1)^2, (10.5 - 1)^2 and (14.5 - 1)^2.
    near(seen["masks_through_other_layers"], [302.75 / 3, MASKED_MEAN])
    for value in seen["masks_of_several_outputs"].values():
        near(value, MASKED_MEAN + 0.5 * (5 + 9 + 13) / 3)
    for value in seen["masks_beside_sample_weights"].values():
        near(value, (1 * 4 + 3 * 16 + 4 * 36) / 3)
    near(seen["combinations"], MASKED_MEAN + 27 / 3)
    # One step an epoch: the first loss enters by 0, 0.1 and 0.2.
    near(seen["schedules"], [9 + MASKED_MEAN * k / 10 for k in range(3)])


@pytest.mark.slow
def test_a_mask_reaches_the_loss_and_its_gradient_in_a_loop_of_ones_own(
    seen: dict[str, Any],
) -> None:
    value, gradient = seen["masks_in_a_loop_of_ones_own"]
    near(value, MASKED_MEAN)
    expected = np.zeros(9)
    expected[[3, 5, 7]] = 2 * np.array([2, 4, 6]) / 3
    near(np.ravel(gradient), expected)


@pytest.mark.slow
def test_targets_and_sample_weights_of_any_dtype_are_the_numbers_they_say(
    seen: dict[str, Any],
) -> None:
    """Booleans and integers were refused on PyTorch."""
    found = dict(seen["targets_of_any_dtype"])
    near(found.pop("in fit"), [3.03125, 3.03125])
    z, y = np.array([[0.5, 2.0], [0.25, -1.0]]), np.array([[1, 0], [0, 1]])
    rows = np.array([[1.5], [2.5]])
    bce = (rows * (np.log1p(np.exp(z)) - y * z)).mean()
    for values in found.values():
        near(values, [((z - y) ** 2).mean(), bce])


@pytest.mark.slow
def test_the_result_of_half_precision_is_float32_as_it_is_of_kerass_losses(
    seen: dict[str, Any],
) -> None:
    assert seen["dtypes_of_results"] == {
        "float16": ["float32", 4.0],
        "bfloat16": ["float32", 4.0],
        "float32": ["float32", 4.0],
        "asked for": ["float16", 4.0],
    }


@pytest.mark.slow
def test_a_softmax_before_a_loss_of_logits_is_refused(seen: dict[str, Any], backend: str) -> None:
    """It trained in silence on JAX and PyTorch."""
    found = dict(seen["logits_that_are_none"])
    assert found.pop("none") == ""
    if backend == "jax":  # a tracer carries no mark, and such a model says nothing of its layers
        assert found.pop("subclassed") == ""
    for message in found.values():
        assert "takes logits" in message and "drop that activation from the last layer" in message


@pytest.mark.slow
def test_endpoint_losses_train_their_weights_and_call_what_users_gave(
    seen: dict[str, Any],
) -> None:
    # One position has no zero token in any of the three inputs: ids 5, 3 and 7, equally far.
    near(seen["endpoint_losses_under_masks"], 20.0)
    trained, loaded, text = seen["trainable_weights"]
    assert trained == loaded and text == "ArcFaceLoss(num_classes=4, embedding_size=3)"
    assert np.abs(np.array(trained) - np.round(trained)).max() > 0.01  # from whole numbers
    # Squared distances 2 * 3^2 and 2 * 6^2 under a margin of 60; a critic of slope (1, 1, 1).
    near(seen["ports"], [18 - 72 + 60, 10 * (np.sqrt(3) - 1) ** 2])
    near(seen["penalties_on_parameters"], 0.5 * 6 / 2)


@pytest.mark.slow
def test_a_saved_model_knows_its_loss_again(seen: dict[str, Any], backend: str, saved: str) -> None:
    value, again, loss = seen["saved_models"]
    # Huber with delta 2: 2^2 / 2, and 2 (e - 1) for e of 4 and 6.
    near([value, again], [(2 + 6 + 10) / 3] * 2)
    assert loss == "HuberLoss(delta=2.0)"
    done = python(backend, "-c", f"import keras; print(keras.saving.load_model({saved!r}).loss)")
    # Older releases import the module that a saved class names, newer ones name it.
    assert "lossbridge.keras" in done.stderr or "HuberLoss(delta=2.0)" in done.stdout


@pytest.mark.slow
def test_the_table_in_the_documentation_is_what_was_measured(
    seen: dict[str, Any], backend: str
) -> None:
    text = (ROOT / "docs" / "keras-backends.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in row] for row in rows]
    assert tuple(header[1:]) == BACKENDS
    column = header.index(backend)
    failed = [name for name, found in seen.items() if isinstance(found, dict) and "error" in found]
    assert not failed
    assert {row[column] for row in rows[:-1]} == {"yes"}
    marked = seen["logits_that_are_none"]["subclassed"] != ""
    assert rows[-1][column] == ("yes" if marked else "functional and sequential models")


@pytest.mark.slow
def test_a_backend_that_does_not_train_is_refused_by_name() -> None:
    done = python("numpy", "-c", "import lossbridge.keras as L; L.MSELoss()")
    assert "BackendUnavailable" in done.stderr and "KERAS_BACKEND is 'numpy'" in done.stderr
