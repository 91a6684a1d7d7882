"""The Keras checklist K1-K10 (design §6), one named test or more for each row."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("these tests are of Keras on TensorFlow", allow_module_level=True)

import lossbridge.keras as L  # noqa: E402
from lossbridge.errors import (  # noqa: E402
    ArgumentError,
    DomainError,
    DTypeError,
    ShapeError,
)
from lossbridge.kinds import Kind  # noqa: E402
from lossbridge.spec import Spec, dump  # noqa: E402

RNG = np.random.default_rng(7)
ROOTS = [p for p in sys.path if p]


def fresh(script: str, **environment: str) -> str:
    """What a script prints in a process of its own."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(ROOTS),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=env,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def gradient(loss: Any, y_true: Any, y_pred: Any, **call: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = loss(y_true, y_pred, **call)
    return tape.gradient(value, y_pred)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return {
        "x": RNG.normal(size=(48, 6)).astype("float32"),
        "labels": RNG.integers(0, 3, 48),
        "target": RNG.normal(size=(48,)).astype("float32"),
    }


def network(units: int = 3, activation: str | None = None) -> Any:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(units, activation=activation),
        ]
    )


# --- K1: a keras Loss of (y_true, y_pred) --------------------------------------------------------


def test_k1_is_a_keras_loss_whose_call_does_not_reduce() -> None:
    loss = L.CrossEntropyLoss()
    assert isinstance(loss, keras.losses.Loss)
    logits = tf.constant(RNG.normal(size=(5, 3)))
    values = loss.call(tf.constant([0, 1, 2, 0, 1]), logits)
    assert values.shape == (5,)
    np.testing.assert_allclose(tf.reduce_mean(values), loss(np.array([0, 1, 2, 0, 1]), logits))


def test_k1_arguments_in_the_other_frameworks_order_raise() -> None:
    logits, labels = tf.zeros((4, 3)), tf.constant([0, 1, 2, 0])
    with pytest.raises(DTypeError, match="logits"):
        L.CrossEntropyLoss()(logits, labels)
    with pytest.raises(ShapeError, match=r"classes|dimension"):
        L.CrossEntropyLoss()(tf.zeros((4,)), logits)


def test_k1_every_name_of_an_input_is_accepted() -> None:
    x, y = tf.constant([1.0, 2.0]), tf.constant([0.0, 5.0])
    loss = L.MSELoss()
    expected = float(loss(y, x))
    assert float(loss(y_true=y, y_pred=x)) == expected
    assert float(loss(prediction=x, target=y)) == expected
    assert expected == 5.0
    with pytest.raises(ArgumentError, match="twice"):
        loss(y, x, prediction=x)


def test_k1_one_trailing_dimension_is_aligned_and_no_other() -> None:
    x = tf.constant([[1.0], [3.0]])
    assert float(L.MSELoss()(tf.constant([0.0, 0.0]), x)) == 5.0
    assert float(L.CrossEntropyLoss()(tf.constant([[0], [1]]), tf.zeros((2, 4)))) == (
        pytest.approx(np.log(4.0))
    )
    with pytest.raises(ShapeError):
        L.MSELoss()(tf.zeros((3,)), tf.zeros((2,)))
    with pytest.raises(ShapeError):
        L.MSELoss()(tf.zeros((1, 2)), tf.zeros((3, 2)))


# --- K2: arguments and the five reductions -------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("sum_over_batch_size", 14 / 3),
        ("mean", 14 / 3),
        ("mean_with_sample_weight", 14 / 2),
        ("sum", 14.0),
        ("none", None),
        (None, None),
    ],
)
def test_k2_reductions(reduction: str | None, expected: float | None) -> None:
    y, x, w = tf.zeros(3), tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, 1.0, 0.0])
    w = tf.constant([1.0, 1.0, 1.0]) if reduction != "mean_with_sample_weight" else w
    loss = L.MSELoss(reduction=reduction, name="mine")
    assert loss.name == "mine"
    value = loss(y, x, sample_weight=w).numpy()
    if expected is None:
        np.testing.assert_array_equal(value, [1.0, 4.0, 9.0])
    elif reduction == "mean_with_sample_weight":
        assert value == pytest.approx(5.0 / 2.0)
    else:
        assert value == pytest.approx(expected)


def test_k2_unknown_arguments_say_what_works() -> None:
    with pytest.raises(ArgumentError, match="reduction"):
        L.MSELoss(reduction="average")
    with pytest.raises(ArgumentError, match="gamma"):
        L.FocalLoss(gama=1.0)
    with pytest.raises(ArgumentError, match="takes logits"):
        L.CrossEntropyLoss(from_logits=True)
    with pytest.raises(AttributeError, match="CrossEntropyLoss"):
        L.SparseCategoricalCrossentropy  # noqa: B018


# --- K3: saving ----------------------------------------------------------------------------------


def test_k3_config_holds_the_whole_specification() -> None:
    weight = np.array([1.0, 2.0, 0.25], np.float32)
    loss = L.CrossEntropyLoss(weight=weight, label_smoothing=0.1, reduction="sum", dtype="float64")
    saved = keras.saving.serialize_keras_object(loss)
    assert saved["registered_name"] == "lossbridge>CrossEntropyLoss"
    config = saved["config"]
    assert [t[:20] for t in config["specs"]] and all("cross_entropy" in t for t in config["specs"])
    again = keras.saving.deserialize_keras_object(saved)
    labels, logits = tf.constant([0, 2]), tf.constant([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    assert again.bound.specs == loss.bound.specs
    assert float(again(labels, logits)) == float(loss(labels, logits))
    assert again(labels, logits).dtype == tf.float64


@pytest.mark.slow
def test_k3_saved_models_give_equal_values_in_a_fresh_process(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    model = network()
    model.compile("sgd", loss=L.FocalLoss(gamma=1.5))
    model.fit(data["x"], data["labels"], epochs=1, verbose=0)
    model.save(tmp_path / "plain.keras")
    spec = Spec(
        loss="mine/quartic@1",
        inputs={"prediction": Kind.parse("real[*batch]"), "target": Kind.parse("real[*batch]")},
        body=("value = (prediction - target) ** 4",),
        yields="per_element",
    )
    dump(spec, tmp_path / "mine.json")
    own = network(1)
    own.compile("sgd", loss=L.compile(tmp_path / "mine.json"))
    own.save(tmp_path / "own.keras")
    learned = L.with_loss(network(4), L.ArcFaceLoss(num_classes=3, embedding_size=4))
    learned.compile("sgd")
    learned.fit(data["x"], data["labels"], epochs=1, verbose=0)
    learned.save(tmp_path / "learned.keras")
    np.savez(tmp_path / "data.npz", **data)
    wanted = [
        model.evaluate(data["x"], data["labels"], verbose=0),
        own.evaluate(data["x"], data["target"], verbose=0),
        learned.evaluate(data["x"], data["labels"], verbose=0),
    ]
    (tmp_path / "mine.json").unlink()  # the saved model does not need the file
    found = fresh(f"""
        import numpy as np, keras, pathlib
        import lossbridge.keras
        at = pathlib.Path({str(tmp_path)!r})
        data = np.load(at / "data.npz")
        for name, y in (("plain", "labels"), ("own", "target"), ("learned", "labels")):
            model = keras.models.load_model(at / f"{{name}}.keras")
            print("value", model.evaluate(data["x"], data[y], verbose=0))
    """)
    values = [float(line.split()[1]) for line in found.splitlines() if line.startswith("value")]
    np.testing.assert_allclose(values, wanted, rtol=1e-6)


# --- K4: compile and fit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"run_eagerly": True}, {}, {"jit_compile": True}], ids=["eager", "graph", "xla"]
)
def test_k4_fit_gives_keras_results_in_every_mode(
    how: dict[str, Any], data: dict[str, Any]
) -> None:
    results = []
    for loss in (
        L.CrossEntropyLoss(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ):
        model = network()
        model.compile(keras.optimizers.SGD(0.5), loss=loss, **how)
        results.append(
            model.fit(
                data["x"], data["labels"], epochs=2, verbose=0, batch_size=16, shuffle=False
            ).history["loss"]
        )
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    assert results[0][1] < results[0][0]


@pytest.mark.parametrize("shape", ["list", "dict"])
def test_k4_several_outputs_with_loss_weights(shape: str, data: dict[str, Any]) -> None:
    inputs = keras.Input((6,))
    a = keras.layers.Dense(3, name="a")(inputs)
    b = keras.layers.Dense(1, name="b")(inputs)
    model = keras.Model(inputs, [a, b] if shape == "list" else {"a": a, "b": b})
    losses: Any = {"a": L.CrossEntropyLoss(), "b": L.HuberLoss(delta=0.5)}
    weights: Any = {"a": 2.0, "b": 0.25}
    y: Any = {"a": data["labels"], "b": data["target"]}
    if shape == "list":
        losses, weights, y = (list(v.values()) for v in (losses, weights, y))
    model.compile("sgd", loss=losses, loss_weights=weights)
    scores = model.evaluate(data["x"], y, verbose=0, return_dict=True, batch_size=48)
    assert scores["loss"] == pytest.approx(
        2.0 * scores["a_loss"] + 0.25 * scores["b_loss"], rel=1e-5
    )
    history = model.fit(data["x"], y, epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]


# --- K5: weights and masks -----------------------------------------------------------------------


def test_k5_sample_weights_line_up_with_the_batch() -> None:
    y, x = tf.zeros((2, 2)), tf.constant([[1.0, 1.0], [3.0, 3.0]])
    loss = L.MSELoss(reduction="none")
    by_sample = loss(y, x, sample_weight=tf.constant([1.0, 2.0]))
    np.testing.assert_array_equal(by_sample, [[1.0, 1.0], [18.0, 18.0]])
    column = loss(y, x, sample_weight=tf.constant([[1.0], [2.0]]))
    np.testing.assert_array_equal(column, by_sample)
    assert float(loss.call(y, x)[1, 0]) == 9.0
    with pytest.raises(ShapeError, match="sample_weight"):
        loss(y, x, sample_weight=tf.ones((3,)))


def test_k5_class_weight_and_sample_weight_through_fit(data: dict[str, Any]) -> None:
    table = {0: 1.0, 1: 0.5, 2: 3.0}
    w = np.array([table[k] for k in data["labels"]], np.float32)
    losses = []
    for given in ({"class_weight": table}, {"sample_weight": w}):
        model = network()
        model.compile("sgd", loss=L.CrossEntropyLoss(normalizer="elements"))
        losses.append(
            model.fit(
                data["x"], data["labels"], epochs=1, verbose=0, batch_size=48, **given
            ).history["loss"][0]
        )
    model = network()
    values = L.CrossEntropyLoss(reduction="none")(data["labels"], model(data["x"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(float(np.mean(values.numpy() * w)), rel=1e-5)


def test_k5_a_keras_mask_selects_and_divides_by_the_valid_count() -> None:
    x = tf.constant([[1.0, np.nan], [1.0, 1.0]])
    y = tf.zeros((2, 2))
    x._keras_mask = tf.constant([[True, False], [True, True]])
    assert float(L.MSELoss()(y, x)) == 1.0
    found = gradient(L.MSELoss(), y, x)
    np.testing.assert_allclose(found, [[2 / 3, 0.0], [2 / 3, 2 / 3]], rtol=1e-6)
    # A mask over the leading axes counts every element it selects.
    z = tf.ones((2, 2, 5))
    mask = tf.constant([[True, False], [True, True]])
    assert float(L.MSELoss(reduction="mean")(tf.zeros((2, 2, 5)), z, mask=mask)) == 1.0
    assert float(L.MSELoss(reduction="sum")(tf.zeros((2, 2, 5)), z, mask=mask)) == 15.0


def test_k5_masks_of_layers_reach_the_loss() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(9, 5, mask_zero=True),
            keras.layers.Dense(3),
        ]
    )
    tokens = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    labels = np.array([[0, 1, 2, 2], [1, 1, 0, 2]])
    model.compile("sgd", loss=L.CrossEntropyLoss())
    values = L.CrossEntropyLoss(reduction="none")(labels, tf.constant(model(tokens).numpy()))
    wanted = values.numpy()[tokens != 0].mean()
    assert model.evaluate(tokens, labels, verbose=0) == pytest.approx(wanted, rel=1e-6)
    model.fit(tokens, labels, epochs=1, verbose=0)
    masked = keras.Sequential(
        [
            keras.Input((3, 2)),
            keras.layers.Masking(0.0),
            keras.layers.LSTM(2, return_sequences=True),
        ]
    )
    masked.compile("sgd", loss=L.MSELoss())
    series = np.ones((2, 3, 2), np.float32)
    series[:, 2] = 0.0
    target = np.zeros((2, 3, 2), np.float32)
    wanted = np.square(masked(series).numpy()[:, :2]).mean()
    assert masked.evaluate(series, target, verbose=0) == pytest.approx(wanted, rel=1e-5)


# --- K6: dtypes ----------------------------------------------------------------------------------


def test_k6_result_dtypes() -> None:
    for given, wanted in (
        (tf.float64, tf.float64),
        (tf.float32, tf.float32),
        (tf.float16, tf.float32),
        (tf.bfloat16, tf.float32),
    ):
        x = tf.constant([1.0, 2.0], given)
        assert L.MSELoss()(tf.zeros(2, given), x).dtype == wanted
        assert gradient(L.MSELoss(), tf.zeros(2, given), x).dtype == given
    half = L.MSELoss(dtype="float16")(tf.zeros(2), tf.constant([1.0, 2.0]))
    assert half.dtype == tf.float16
    double = L.MSELoss(dtype="float64")(tf.zeros(2), tf.constant([1.0, 2.0]))
    assert double.dtype == tf.float64


def test_k6_labels_are_never_cast() -> None:
    # Keras's own cast makes class 257 of a bfloat16 loss class 256.
    logits = np.zeros((1, 300), np.float32)
    logits[0, 257] = 8.0
    loss = L.CrossEntropyLoss(dtype="bfloat16")
    own = loss(tf.constant([257]), tf.constant(logits, tf.bfloat16))
    other = loss(tf.constant([256]), tf.constant(logits, tf.bfloat16))
    assert float(own) < 0.2 < float(other)
    with pytest.raises(DTypeError, match="labels"):
        L.NLLLoss()(tf.constant([1.0]), tf.zeros((1, 3)))


def test_k6_mixed_precision_training_follows_the_float32_run(data: dict[str, Any]) -> None:
    histories = []
    for policy in ("float32", "mixed_float16"):
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            model = network()
            optimizer: Any = keras.optimizers.SGD(0.2)
            if policy != "float32":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**12)
            model.compile(optimizer, loss=L.CrossEntropyLoss())
            histories.append(
                model.fit(data["x"], data["labels"], epochs=4, verbose=0, shuffle=False).history[
                    "loss"
                ]
            )
        finally:
            keras.mixed_precision.set_dtype_policy("float32")
    np.testing.assert_allclose(histories[1], histories[0], rtol=2e-3)
    assert histories[1][-1] < histories[1][0]


# --- K7: accuracy where probabilities are clipped ------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_k7_logits_keep_their_accuracy(mode: str) -> None:
    def both(labels: Any, logits: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = L.CrossEntropyLoss()(labels, logits)
        return value, tape.gradient(value, logits)

    run = both if mode == "eager" else tf.function(both, jit_compile=mode == "xla")
    value, found = run(tf.constant([0]), tf.constant([[20.0, 0.0]]))
    np.testing.assert_allclose(value, 2.0611536e-9, rtol=1e-6)
    np.testing.assert_allclose(found, [[-2.0611536e-9, 2.0611536e-9]], rtol=1e-6)
    far, _ = run(tf.constant([1]), tf.constant([[200.0, 0.0]]))
    assert float(far) == 200.0  # 16.118 from probabilities clipped at 1e-7


def test_k7_predictions_behind_a_softmax_are_refused(data: dict[str, Any]) -> None:
    model = network(3, "softmax")
    model.compile("sgd", loss=L.CrossEntropyLoss())
    with pytest.raises(ArgumentError, match="softmax"):
        model.fit(data["x"], data["labels"], verbose=0)
    model = network(1, "sigmoid")
    model.compile("sgd", loss=L.BCELoss())  # probabilities are what this one takes
    model.fit(data["x"], (data["target"] > 0).astype("float32"), verbose=0)


def test_k7_labels_out_of_range_raise_or_give_nan() -> None:
    loss, labels, logits = L.CrossEntropyLoss(), tf.constant([0, 3]), tf.zeros((2, 3))
    with pytest.raises(DomainError, match="from 0 to 2 or is ignore_index=-100; 3 was given"):
        loss(labels, logits)
    for jit in (False, True):
        run = tf.function(loss, jit_compile=jit)
        assert np.isnan(run(labels, logits))
        slope = tf.function(lambda y, x: gradient(loss, y, x), jit_compile=jit)
        assert np.isnan(slope(labels, logits)[1]).all()
    assert np.isnan(tf.function(loss)(tf.constant([0, 2**40], tf.int64), logits))


# --- K8: distribution ----------------------------------------------------------------------------


@pytest.mark.slow
def test_k8_two_replicas_give_the_results_of_one() -> None:
    found = fresh("""
        import numpy as np, tensorflow as tf, keras
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        import lossbridge.keras as L
        x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        y = np.random.default_rng(1).integers(0, 3, 16)
        def run(strategy, loss):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
                model.compile(keras.optimizers.SGD(0.5), loss=loss())
            history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
            return history.history["loss"] + [float(np.abs(model.get_weights()[0]).sum())]
        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        for loss in (L.CrossEntropyLoss, L.FocalLoss):
            one, two = run(tf.distribute.get_strategy(), loss), run(mirrored, loss)
            assert mirrored.num_replicas_in_sync == 2
            np.testing.assert_allclose(one, two, rtol=1e-5)
        external = L.MSELoss(normalizer="external")
        @tf.function
        def step(strategy_input):
            def replica(v):
                return external(tf.zeros_like(v), v, normalizer_count=6.0)
            return mirrored.reduce("SUM", mirrored.run(replica, (strategy_input,)), axis=None)
        parts = iter([tf.constant([1.0, 2.0, 3.0]), tf.constant([4.0, 5.0, 6.0])])
        spread = mirrored.experimental_distribute_values_from_function(lambda c: next(parts))
        assert abs(float(step(spread)) - 91 / 6) < 1e-5
        print("equal")
    """)
    assert "equal" in found


# --- K9: losses that are layers ------------------------------------------------------------------


def test_k9_a_learned_loss_is_a_layer_that_trains(data: dict[str, Any]) -> None:
    loss = L.ArcFaceLoss(num_classes=3, embedding_size=4, scale=8.0)
    assert isinstance(loss, keras.layers.Layer)
    before = loss.weight("centres").numpy()
    model = L.with_loss(network(4), loss)
    model.compile(keras.optimizers.Adam(0.05))
    history = model.fit(data["x"], data["labels"], epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert np.abs(loss.weight("centres").numpy() - before).max() > 1e-3
    assert model.predict(data["x"], verbose=0).shape == (48, 4)


def test_k9_a_layer_given_to_compile_says_what_to_write(data: dict[str, Any]) -> None:
    model = network(4)
    model.compile("sgd", loss=L.ArcFaceLoss(num_classes=3, embedding_size=4))
    with pytest.raises(ArgumentError, match="with_loss"):
        model.fit(data["x"], data["labels"], verbose=0)
    with pytest.raises(ArgumentError, match="compile"):
        L.with_loss(model, L.MSELoss())


def test_k9_an_endpoint_in_a_functional_model_adds_its_loss(data: dict[str, Any]) -> None:
    x, labels = keras.Input((6,)), keras.Input((), dtype="int32")
    embeddings = keras.layers.Dense(4)(x)
    value = L.ArcFaceLoss(3, 4, add_loss=True)(embeddings=embeddings, labels=labels)
    model = keras.Model([x, labels], [embeddings, value])
    model.compile("sgd")
    history = model.fit([data["x"], data["labels"]], epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()


def test_k9_combinations_train_their_weights_and_follow_the_optimizer() -> None:
    y, x = tf.zeros((4,)), tf.constant([1.0, 2.0, 3.0, 4.0])
    learned = L.UncertaintyWeightedLoss({"a": L.MSELoss(), "b": L.L1Loss()})
    with tf.GradientTape() as tape:
        value = learned(a=(y, x), b=(y, x))
    # exp(-s) loss / 2 + s / 2 at s = 0: the slope is (1 - loss) / 2.
    np.testing.assert_allclose(
        tape.gradient(value, learned.trainable_variables), [(1 - 7.5) / 2, (1 - 2.5) / 2]
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(learned))
    assert float(again(a=(y, x), b=(y, x))) == float(value) == 5.0
    steps = tf.Variable(5, dtype=tf.int64)
    staged = L.CurriculumWeightedLoss({"a": L.MSELoss()}, {"a": (0.0, 1.0, 0, 10)})
    with pytest.raises(ArgumentError, match="step"):
        staged(a=(y, x))
    assert float(staged.bind_step(steps)(a=(y, x))) == pytest.approx(3.75)
    assert float(staged(a=(y, x), step=10)) == pytest.approx(7.5)


def test_k9_ports_keep_the_gradients_of_their_networks() -> None:
    keras.utils.set_random_seed(2)
    critic = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.Dense(1),
            keras.layers.Reshape(()),
        ]
    )
    a, b = tf.constant(RNG.normal(size=(6, 5)), tf.float32), tf.zeros((6, 5))
    loss = L.GradientPenaltyLoss(strength=3.0)

    def both() -> Any:
        with tf.GradientTape() as tape:
            value = loss(fake_data=a, real_data=b, mix=tf.fill((6,), 0.25), critic=critic)
        return value, tape.gradient(value, critic.trainable_variables[0])

    def by_hand() -> Any:
        with tf.GradientTape() as tape:
            point = 0.75 * a
            with tf.GradientTape() as inner:
                inner.watch(point)
                score = critic(point)
            slope = tf.norm(inner.gradient(score, point), axis=1)
            value = tf.reduce_mean(3.0 * (slope - 1.0) ** 2)
        return value, tape.gradient(value, critic.trainable_variables[0])

    for run in (both, tf.function(both)):
        for found, wanted in zip(run(), by_hand(), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def test_k9_penalties_take_models_and_variables() -> None:
    model = network()
    wanted = 0.5 * sum(float(tf.reduce_sum(tf.square(v))) for v in model.trainable_variables)
    loss = L.L2Penalty(strength=1.0)
    assert float(loss(model)) == pytest.approx(wanted, rel=1e-6)
    assert float(loss(model.trainable_variables)) == pytest.approx(wanted, rel=1e-6)


# --- K10: other backends under Keras -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_k10_keras_on_other_backends_uses_their_lowering(backend: str) -> None:
    pytest.importorskip(backend)
    found = fresh(
        """
        import numpy as np, keras
        import lossbridge.keras as L
        logits = keras.ops.convert_to_tensor(np.array([[20.0, 0.0], [1.0, 3.0]], "float32"))
        values = L.CrossEntropyLoss(reduction="none")(
            keras.ops.convert_to_tensor(np.array([0, 1])), logits)
        print("values", *(float(v) for v in keras.ops.convert_to_numpy(values)))
        x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
        y = np.random.default_rng(1).integers(0, 3, 32)
        for loss in (L.CrossEntropyLoss(),
                     keras.losses.SparseCategoricalCrossentropy(from_logits=True)):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            model.compile(keras.optimizers.SGD(0.5), loss=loss)
            history = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"]
            print("fit", *history)
    """,
        KERAS_BACKEND=backend,
    )
    lines = [line.split() for line in found.splitlines() if line.startswith(("values", "fit"))]
    np.testing.assert_allclose(
        np.float64(lines[0][1:]), [2.0611536e-9, np.log1p(np.exp(-2.0))], rtol=1e-5
    )
    np.testing.assert_allclose(np.float64(lines[1][1:]), np.float64(lines[2][1:]), rtol=1e-4)


# --- gradients -----------------------------------------------------------------------------------

PAIRS: list[tuple[str, Any, Any, str]] = [
    ("MSELoss", {}, keras.losses.MeanSquaredError, "real"),
    ("L1Loss", {}, keras.losses.MeanAbsoluteError, "real"),
    ("HuberLoss", {"delta": 0.7}, lambda **k: keras.losses.Huber(delta=0.7, **k), "real"),
    ("LogCoshLoss", {}, keras.losses.LogCosh, "real"),
    (
        "BCEWithLogitsLoss",
        {},
        lambda **k: keras.losses.BinaryCrossentropy(from_logits=True, **k),
        "probability",
    ),
    (
        "BinaryFocalLoss",
        {},
        lambda **k: keras.losses.BinaryFocalCrossentropy(
            from_logits=True, apply_class_balancing=True, **k
        ),
        "binary",
    ),
    (
        "CrossEntropyLoss",
        {},
        lambda **k: keras.losses.SparseCategoricalCrossentropy(from_logits=True, **k),
        "index",
    ),
    (
        "CrossEntropyLoss",
        {},
        lambda **k: keras.losses.CategoricalCrossentropy(from_logits=True, **k),
        "simplex",
    ),
    ("HingeLoss", {}, keras.losses.Hinge, "sign"),
]


@pytest.mark.parametrize(
    ("name", "settings", "witness", "kind"), PAIRS, ids=[f"{n}-{k}" for n, _, _, k in PAIRS]
)
def test_agrees_with_keras_at_benign_points(
    name: str, settings: dict[str, Any], witness: Any, kind: str
) -> None:
    x = tf.constant(RNG.normal(size=(7, 4)))
    u = RNG.uniform(0.1, 0.9, size=(7, 4))
    y = tf.constant(
        {
            "real": u * 2.0,
            "probability": u,
            "binary": np.round(u),
            "sign": np.sign(u - 0.5),
            "index": RNG.integers(0, 4, 7),
            "simplex": u / u.sum(1, keepdims=True),
        }[kind]
    )
    ours, theirs = getattr(L, name)(**settings, dtype="float64"), witness(dtype="float64")
    # Keras holds log(2) in float32: its LogCosh is off by 2.7e-9.
    np.testing.assert_allclose(ours(y, x), theirs(y, x), rtol=1e-8)
    np.testing.assert_allclose(gradient(ours, y, x), gradient(theirs, y, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_second_derivatives_and_gradients_of_everything_real(mode: str) -> None:
    x, y, w = (tf.constant(RNG.uniform(0.1, 0.9, 3)) for _ in range(3))
    loss = L.BCEWithLogitsLoss()

    def run(x: Any, y: Any, w: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch([x, y, w])
                value = loss(y, x, sample_weight=w)
            first = inner.gradient(value, [x, y, w])
        return (*first, outer.gradient(first[0], x))

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    dx, dy, dw, ddx = run(x, y, w)
    p = 1.0 / (1.0 + np.exp(-x.numpy()))
    np.testing.assert_allclose(dx, w * (p - y) / 3.0, rtol=1e-12)
    np.testing.assert_allclose(dy, -w * x / 3.0, rtol=1e-12)
    np.testing.assert_allclose(dw, (np.logaddexp(0.0, x) - x * y) / 3.0, rtol=1e-12)
    np.testing.assert_allclose(ddx, w * p * (1.0 - p) / 3.0, rtol=1e-12)


def test_array_hyperparameters_have_gradients() -> None:
    weight = tf.Variable([1.0, 2.0, 3.0])
    loss = L.CrossEntropyLoss(weight=weight, normalizer="elements")
    with tf.GradientTape() as tape:
        value = loss(tf.constant([0, 2]), tf.zeros((2, 3)))
    np.testing.assert_allclose(
        tape.gradient(value, weight), [np.log(3) / 2, 0.0, np.log(3) / 2], rtol=1e-6
    )


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_masked_nan_neither_shows_nor_has_a_gradient(mode: str) -> None:
    x = tf.constant([1.0, np.nan, 3.0, np.inf])
    mask = tf.constant([True, False, True, False])

    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = L.HuberLoss()(tf.zeros(4), x, mask=mask)
        return value, tape.gradient(value, x)

    value, found = (run if mode == "eager" else tf.function(run, jit_compile=mode == "xla"))(x)
    np.testing.assert_allclose(value, (0.5 + 2.5) / 2)
    np.testing.assert_allclose(found, [0.5, 0.0, 0.5, 0.0])


def test_batches_of_unknown_size_in_one_graph() -> None:
    traces = []

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 3], tf.float32)]
    )
    def run(labels: Any, logits: Any) -> Any:
        traces.append(1)
        return L.CrossEntropyLoss(normalizer="elements")(labels, logits)

    for n in (1, 4):
        assert float(run(np.zeros(n, np.int32), np.zeros((n, 3), np.float32))) == (
            pytest.approx(np.log(3.0))
        )
    assert np.isnan(run(np.zeros(0, np.int32), np.zeros((0, 3), np.float32)))
    assert len(traces) == 1


def test_a_large_eager_call_equals_a_small_one() -> None:
    x = tf.constant(RNG.normal(size=(4096, 8)).astype("float32"))  # runs as a graph of its own
    y = tf.zeros_like(x)
    found = gradient(L.MSELoss(reduction="sum"), y, x)
    np.testing.assert_array_equal(found[:4], gradient(L.MSELoss(reduction="sum"), y[:4], x[:4]))


def test_language_model_adapter_divides_by_the_global_count() -> None:
    logits, labels = tf.zeros((2, 5, 4)), tf.zeros((2, 5), tf.int32)
    f = L.as_hf(L.CrossEntropyLoss(), shift_labels=True)
    assert float(f({"logits": logits}, labels)) == pytest.approx(np.log(4.0))
    assert float(f({"logits": logits}, labels, 16.0)) == pytest.approx(np.log(4.0) * 8 / 16)


def test_reduce_selects_and_weighs() -> None:
    values = tf.constant([1.0, np.nan, 5.0])
    mask = tf.constant([True, False, True])
    assert float(L.reduce(values, mask=mask)) == 3.0
    assert float(L.reduce(values, mask=mask, reduction="sum")) == 6.0


def test_objects_show_their_specification_and_source() -> None:
    loss = L.FocalLoss(gamma=3.0)
    assert loss.spec.id == "focal@1"
    assert "def " in loss.source
    assert repr(loss) == "FocalLoss(gamma=3.0)"
    assert "Definition:" in (L.FocalLoss.__doc__ or "")
    assert set(L.__all__) <= set(dir(L)) | set(vars(L))


# --- ejected files -------------------------------------------------------------------------------


@pytest.mark.slow
def test_ejected_files_stand_alone_and_are_equal_bit_for_bit(tmp_path: Path) -> None:
    from lossbridge_keras.probe import PROBE

    x = RNG.normal(size=(6, 4)).astype("float32")
    y, labels = RNG.uniform(size=(6, 4)).astype("float32"), RNG.integers(0, 4, 6)
    np.savez(tmp_path / "data.npz", x=x, y=y, labels=labels)
    wanted = []
    cases = [
        (L.MSELoss(), y),
        (L.BCEWithLogitsLoss(reduction="sum"), y),
        (L.FocalLoss(), labels),
        (L.CrossEntropyLoss(label_smoothing=0.1, reduction="none"), labels),
    ]
    for k, (loss, target) in enumerate(cases):
        (tmp_path / f"ejected{k}.py").write_text(PROBE.eject(loss.bound, "mine"))
        prediction = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(prediction)
            value = loss(tf.constant(target), prediction)
        wanted.append((value.numpy(), tape.gradient(value, prediction).numpy()))
    fresh(f"""
        import importlib, pathlib, sys
        import numpy as np, tensorflow as tf
        at = pathlib.Path({str(tmp_path)!r})
        sys.path.insert(0, str(at))
        data, found = np.load(at / "data.npz"), {{}}
        for k, target in enumerate(("y", "y", "labels", "labels")):
            run = importlib.import_module(f"ejected{{k}}").mine
            x = tf.constant(data["x"])
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = run(x, tf.constant(data[target]))
            found[f"value{{k}}"] = value.numpy()
            found[f"gradient{{k}}"] = tape.gradient(value, x).numpy()
        assert not [m for m in sys.modules if m.startswith("lossbridge")]
        np.savez(at / "found.npz", **found)
    """)
    found = np.load(tmp_path / "found.npz")
    for k, (value, slope) in enumerate(wanted):
        np.testing.assert_array_equal(found[f"value{k}"], value)
        np.testing.assert_array_equal(found[f"gradient{k}"], slope)


# --- what users of Keras do besides --------------------------------------------------------------


def test_settings_are_attributes_and_changing_one_is_refused() -> None:
    loss = L.FocalLoss(gamma=3.0)
    assert (loss.gamma, loss.reduction, loss.axis) == (3.0, "mean", None)
    assert L.CrossEntropyLoss().weight is None
    loss.gamma = 3
    for name, value in (("gamma", 1.0), ("reduction", "none")):
        with pytest.raises(ArgumentError, match=f"make another, with {name}="):
            setattr(loss, name, value)
    layer = L.ArcFaceLoss(3, 4, margin=0.25)
    assert (layer.margin, layer.num_classes) == (0.25, 3)
    with pytest.raises(ArgumentError, match="margin"):
        layer.margin = 0.5
    with pytest.raises(AttributeError, match="gama"):
        loss.gama  # noqa: B018


def test_class_weights_as_a_list_are_saved(tmp_path: Path) -> None:
    loss = L.CrossEntropyLoss(weight=[1.0, 2.0, 3.0])
    assert repr(loss) == "CrossEntropyLoss(weight=[1.0, 2.0, 3.0])"
    labels, logits = tf.constant([0, 1, 2]), tf.constant(np.eye(3, dtype="float32"))
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    array = L.CrossEntropyLoss(weight=np.array([1.0, 2.0, 3.0], "float32"))
    assert loss(labels, logits) == again(labels, logits) == array(labels, logits)


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_tensors_that_are_not_dense_are_refused_by_name(kind: str) -> None:
    dense = tf.ones((2, 2))
    given = tf.RaggedTensor.from_tensor(dense) if kind == "ragged" else tf.sparse.from_dense(dense)
    with pytest.raises(ArgumentError, match=r"to_tensor\(\)|to_dense\(x\)"):
        L.MSELoss()(given, dense)


def test_the_call_that_a_message_gives_works() -> None:
    labels, logits = tf.constant([0, 1, 2]), tf.constant(np.eye(3, 4, dtype="float32"))
    right = L.CrossEntropyLoss()(labels, logits)
    with pytest.raises(ShapeError, match=r"pass tf.cast\(target, 'int64'\)"):
        L.CrossEntropyLoss()(tf.cast(labels, "float32"), logits)
    with pytest.raises(ShapeError, match=r"pass tf.cast\(labels, 'float32'\)"):
        L.CrossEntropyLoss()(tf.one_hot(labels, 4, dtype="int32"), logits)
    with pytest.raises(DTypeError, match=r"write loss\(labels, logits\)"):
        L.CrossEntropyLoss()(logits, labels)
    np.testing.assert_allclose(
        L.CrossEntropyLoss()(tf.one_hot(labels, 4), logits), right, rtol=1e-6
    )


@pytest.mark.parametrize("shape", ["dictionary", "list"])
def test_with_loss_trains_a_combination_by_the_names_of_its_losses(
    shape: str, data: dict[str, Any], tmp_path: Path
) -> None:
    losses = {"depth": L.MSELoss(), "label": L.CrossEntropyLoss()}
    inputs = keras.Input((6,))
    outputs = {
        "label": keras.layers.Dense(3)(inputs),
        "depth": keras.layers.Dense(1)(inputs),
    }
    targets = {"depth": data["target"], "label": data["labels"]}
    named = shape == "dictionary"
    network = keras.Model(inputs, outputs if named else [outputs[n] for n in losses])
    model = L.with_loss(network, L.UncertaintyWeightedLoss(losses))
    model.compile(keras.optimizers.SGD(0.0))
    given = targets if named else [targets[n] for n in losses]
    first = model.evaluate(data["x"], given, batch_size=48, verbose=0)
    found = network(data["x"])
    depth, label = (found[n] for n in losses) if named else found
    parts = losses["depth"](data["target"], depth) + losses["label"](data["labels"], label)
    np.testing.assert_allclose(first, 0.5 * parts, rtol=1e-6)
    model.fit(data["x"], given, verbose=0)
    assert len(model.trainable_variables) == 6
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.evaluate(data["x"], given, batch_size=48, verbose=0), first, rtol=1e-6
    )


def test_with_loss_says_what_it_was_given() -> None:
    with pytest.raises(ArgumentError, match=r"write with_loss\(model, loss\)"):
        L.with_loss(L.ArcFaceLoss(3, 4), network())
    losses = {"depth": L.MSELoss(), "label": L.CrossEntropyLoss()}
    model = L.with_loss(network(3), L.WeightedLoss(losses))
    with pytest.raises(ArgumentError, match="depth, label, but was given 1"):
        model.compute_loss(y=tf.zeros((4, 3)), y_pred=tf.zeros((4, 3)))
    with pytest.raises(ArgumentError, match="'hight', which names none"):
        model.compute_loss(y={"hight": tf.zeros(4)}, y_pred={})
    assert repr(L.WeightedLoss(losses, {"depth": 0.5})) == (
        "WeightedLoss(losses={'depth': MSELoss(), 'label': CrossEntropyLoss()}, "
        "coefficients={'depth': 0.5})"
    )
