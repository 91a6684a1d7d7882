"""Integers that are given to a loss: labels, identities and lengths, on every platform and mode.

A label that names no class raises where it can be read, and elsewhere gives NaN in value and
gradient; what the mask hides is never looked at; identities are told apart in the dtype they have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest

from lossbridge.catalogue import catalogue
from lossbridge.errors import DTypeError, LabelError
from lossbridge.frontdoor import forms
from lossbridge.integers import identities

Array: TypeAlias = Any
SIZES = {"*batch": 3, "batch": 3, "classes": 4, "features": 5, "time": 6, "positions": 2}


class Answer(NamedTuple):
    """A value, and its gradient in the loss's first input."""

    value: Array
    gradient: Array


def _torch(name: str, settings: Mapping[str, Any], mode: str) -> Callable[..., Answer]:
    import torch

    import lossbridge.torch as L

    loss = L.native(name, **settings) if "." in name else getattr(L, name)(**settings)
    for weight in loss.parameters():
        torch.manual_seed(0)
        torch.nn.init.normal_(weight)
    run = torch.compile(loss, backend="aot_eager", fullgraph=True) if mode == "compiled" else loss

    def call(inputs: Mapping[str, Array], **beside: Array) -> Answer:
        tensors = {n: torch.as_tensor(x) for n, x in {**inputs, **beside}.items()}
        first = tensors[next(iter(inputs))].requires_grad_(True)
        with torch._dynamo.config.patch(recompile_limit=64):  # a form for each dtype
            value = run(**tensors)
        value.sum().backward()
        return Answer(value.detach().numpy(), first.grad.numpy())

    return call


def _keras(name: str, settings: Mapping[str, Any], mode: str) -> Callable[..., Answer]:
    import tensorflow as tf

    import lossbridge.keras as L

    loss = L.native(name, **settings) if "." in name else getattr(L, name)(**settings)

    def run(inputs: Mapping[str, Any], beside: Mapping[str, Any]) -> Any:
        first = inputs[next(iter(inputs))]
        with tf.GradientTape() as tape:
            tape.watch(first)
            value = loss(**inputs, **beside)
        return value, tape.gradient(value, first)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "XLA", autograph=False)

    def call(inputs: Mapping[str, Array], **beside: Array) -> Answer:
        value, gradient = run(
            {n: tf.constant(x) for n, x in inputs.items()},
            {n: tf.constant(x) for n, x in beside.items()},
        )
        return Answer(value.numpy(), tf.convert_to_tensor(gradient).numpy())

    return call


def _jax(name: str, settings: Mapping[str, Any], mode: str) -> Callable[..., Answer]:
    import jax
    import jax.numpy as jnp

    import lossbridge.jax as L

    loss = L.native(name, **settings) if "." in name else getattr(L, name)(**settings)
    params = {}
    if "." not in name and loss.spec.weights:
        params = {"params": loss.init(jax.random.key(0))}

    def run(first: Any, key: str, rest: Mapping[str, Any], beside: Mapping[str, Any]) -> Any:
        value, pull = jax.vjp(lambda x: loss(**{key: x}, **rest, **beside, **params), first)
        return value, pull(jnp.ones_like(value))[0]

    if mode == "jit":
        run = jax.jit(run, static_argnames="key")

    def call(inputs: Mapping[str, Array], **beside: Array) -> Answer:
        key = next(iter(inputs))
        rest = {n: x for n, x in inputs.items() if n != key}
        value, gradient = run(jnp.asarray(inputs[key]), key, rest, beside)
        return Answer(np.asarray(value), np.asarray(gradient))

    return call


DOORS = {"torch": _torch, "keras": _keras, "jax": _jax}
READING = (("torch", "eager"), ("keras", "eager"), ("jax", "eager"))
COMPILED = (("torch", "compiled"), ("keras", "graph"), ("keras", "XLA"), ("jax", "jit"))


@functools.cache
def door(platform: str, mode: str, name: str, **settings: Any) -> Callable[..., Answer]:
    pytest.importorskip({"keras": "tensorflow"}.get(platform, platform))
    return DOORS[platform](name, settings, mode)


def ordinary(inputs: Mapping[str, Any], seed: int = 0) -> dict[str, Array]:
    """Values of these kinds that every rule allows."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for name, kind in inputs.items():
        shape = tuple(SIZES[axis] for axis in kind.axes)
        if kind.dtype == "int":
            found[name] = rng.integers(0, SIZES.get(str(kind.of), 3), shape)
        else:
            found[name] = rng.normal(size=shape).astype(np.float32)
    return found


LABELLED = sorted(
    (name, key)
    for name, form in forms().items()
    for key, kind in form.specs[0].inputs.items()
    if kind.name in ("index", "length") and form.specs[0].inputs
)
SETTINGS: Mapping[str, Mapping[str, int]] = {
    "ArcFaceLoss": {"num_classes": 4, "embedding_size": 5},
    "LinearCrossEntropyLoss": {"in_features": 5, "num_classes": 4},
    "LearnedPolynomialLoss": {"num_terms": 3},
}


def settings_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"reduction": "none", **SETTINGS.get(name, {})}
    required = [n for n, p in forms()[name].params.items() if p.value is None]
    return {**found, **dict.fromkeys(required, 0.5)}


def case(name: str) -> tuple[dict[str, Array], int]:
    """Ordinary inputs of a loss, and which dimension of the first has the samples."""
    spec = forms()[name].specs[0]
    inputs = ordinary(spec.inputs)
    if name == "CTCLoss":
        inputs["input_lengths"][:], inputs["target_lengths"][:] = 6, 1
    first = next(iter(spec.inputs.values()))
    return inputs, next(k for k, axis in enumerate(first.axes) if "batch" in axis)


def outside(inputs: Mapping[str, Array], key: str, label: int) -> dict[str, Array]:
    """The inputs, with one number of the second sample that is no class or length."""
    labels = np.array(inputs[key])
    labels[1] = label
    return {**inputs, key: labels}


@pytest.mark.parametrize(("platform", "mode"), READING)
@pytest.mark.parametrize(("name", "key"), LABELLED)
def test_a_label_that_names_no_class_raises_where_it_can_be_read(
    platform: str, mode: str, name: str, key: str
) -> None:
    inputs, _ = case(name)
    run = door(platform, mode, name, **settings_of(name))
    for label in (-1, 7, 4294967296):
        with pytest.raises(LabelError, match=rf"{key} is .*; {label} was given, at \[1"):
            run(outside(inputs, key, label))


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "mode"), COMPILED)
@pytest.mark.parametrize(("name", "key"), LABELLED)
def test_a_label_that_names_no_class_is_nan_in_value_and_gradient_where_it_cannot_be_read(
    platform: str, mode: str, name: str, key: str
) -> None:
    inputs, at = case(name)
    run = door(platform, mode, name, **settings_of(name))
    right = run(inputs)
    for label in (-1, 7):
        value, gradient = run(outside(inputs, key, label))
        rows, wanted = np.moveaxis(gradient, at, 0), np.moveaxis(right.gradient, at, 0)
        assert np.isnan(value[1]) and np.isnan(rows[1]).any()
        np.testing.assert_allclose(value[[0, 2]], right.value[[0, 2]], rtol=1e-6)
        np.testing.assert_allclose(rows[[0, 2]], wanted[[0, 2]], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "mode"), [*READING, *COMPILED])
@pytest.mark.parametrize(("name", "key"), LABELLED)
def test_a_label_under_the_mask_is_no_error_in_any_mode(
    platform: str, mode: str, name: str, key: str
) -> None:
    inputs, at = case(name)
    settings = {**settings_of(name), "reduction": "mean", "normalizer": "elements"}
    run = door(platform, mode, name, **settings)
    kinds = forms()[name].specs[0].inputs
    fewer = {
        n: np.delete(x, 1, next(k for k, a in enumerate(kinds[n].axes) if "batch" in a))
        for n, x in inputs.items()
    }
    value, gradient = run(fewer)
    for label in (-1, 7):
        masked = run(outside(inputs, key, label), mask=np.array([True, False, True]))
        np.testing.assert_allclose(masked.value, value, rtol=1e-6)
        rows = np.moveaxis(masked.gradient, at, 0)
        np.testing.assert_array_equal(rows[1], 0.0)
        kept = np.moveaxis(gradient, at, 0)
        np.testing.assert_allclose(rows[[0, 2]], kept, rtol=1e-5, atol=1e-7)


def test_no_gradient_of_trainable_class_centres_comes_from_a_label_under_the_mask() -> None:
    torch = pytest.importorskip("torch")
    import lossbridge.torch as L

    loss = L.ArcFaceLoss(num_classes=4, embedding_size=5)
    x = torch.randn(3, 5)
    loss(x, torch.tensor([0, -1, 2]), mask=torch.tensor([True, False, True])).backward()
    assert torch.isfinite(loss.centres.grad).all()
    assert loss.centres.grad.abs().sum() > 0.0


@pytest.mark.parametrize(("platform", "mode"), READING)
def test_a_sample_weight_of_zero_multiplies_and_hides_no_label(platform: str, mode: str) -> None:
    run = door(platform, mode, "CrossEntropyLoss", reduction="sum")
    inputs, _ = case("CrossEntropyLoss")
    with pytest.raises(LabelError, match="-1 was given"):
        run(outside(inputs, "labels", -1), sample_weight=np.array([1, 0, 1], np.float32))


@pytest.mark.parametrize(("platform", "mode"), [*READING, *COMPILED])
@pytest.mark.parametrize("ignored", [2**40, -(2**40), 255, -100, 2**31 - 1, -(2**31)])
def test_any_number_may_stand_for_an_ignored_label(platform: str, mode: str, ignored: int) -> None:
    run = door(platform, mode, "CrossEntropyLoss", ignore_index=ignored)
    logits = np.float32([[1, 2, 3], [1, 2, 4]])
    labels = np.array([ignored, 2])
    if mode == "jit" and abs(ignored) > 2**31:
        pytest.skip("a jitted function's int64 arguments are int32 before a loss sees them")
    assert run({"logits": logits, "labels": labels}).value == pytest.approx(0.169846, rel=1e-5)


@pytest.mark.parametrize(("platform", "mode"), READING)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.uint32, np.uint64])
def test_a_narrow_label_is_never_taken_for_an_ignored_number_it_cannot_hold(
    platform: str, mode: str, dtype: type
) -> None:
    run = door(platform, mode, "CrossEntropyLoss", ignore_index=-100)
    alias = np.array([-100]).astype(dtype)  # 156 of uint8, 2**64 - 100 of uint64
    logits = np.float32([[1, 2, 3], [1, 2, 4]])
    assert run({"logits": logits, "labels": np.array([2, 2], dtype)}).value > 0.0
    if alias[0] == -100:
        return
    with pytest.raises(LabelError, match=f"; {alias[0]} was given"):
        run({"logits": logits, "labels": np.array([alias[0], 2], dtype)})


# --- identities ----------------------------------------------------------------------------------

ROWS = np.float32([[1, 2, 3], [1, 0, 0], [0, 1, 0], [0, 1, 1]])
COMPARED = sorted(
    (d.name, key)
    for d in catalogue().values()
    for key in d.spec.inputs
    if key in identities(d.spec).names
)
WIDE = {
    "int64": np.array([5000000001, 5000000002] * 2),
    "int64, one int32 but for its wrapping": np.array([1, 2**32 + 1] * 2),
    "uint32": np.array([2**31, 2**31 + 1] * 2, np.uint32),
    "uint64": np.array([2**64 - 2, 2**64 - 1] * 2, np.uint64),
    "int64, below": np.array([-(2**40), -(2**40) - 1] * 2),
    "int8": np.array([-1, -2] * 2, np.int8),
    "uint8": np.array([254, 255] * 2, np.uint8),
}


def test_the_losses_that_compare_labels_are_known() -> None:
    # CTC asks which labels follow an equal one, and which class each is.
    assert COMPARED == [("CTCLoss", "targets"), ("CircleLoss", "labels"), ("NTXentLoss", "labels")]
    assert identities(catalogue()["ctc@1"].spec).plain == frozenset()


@pytest.mark.parametrize(("platform", "mode"), [*READING, *COMPILED])
@pytest.mark.parametrize(
    ("name", "first", "known"),
    [
        ("NTXentLoss", "embeddings", 6.451335),
        ("CircleLoss", "embeddings", None),
        ("keras.losses.Circle", "prediction", None),
        ("optax.losses.ntxent", "embeddings", None),
    ],
)
def test_identities_are_told_apart_in_the_dtype_they_have(
    platform: str, mode: str, name: str, first: str, known: float | None
) -> None:
    run = door(platform, mode, name)
    right = run({first: ROWS, "labels": np.array([1, 2, 1, 2], np.int32)})
    assert known is None or right.value == pytest.approx(known, rel=1e-5)
    for what, labels in WIDE.items():
        if mode == "jit" and labels.dtype.itemsize == 8:
            continue  # an argument of a jitted function is int32 before a loss sees it
        value, gradient = run({first: ROWS, "labels": labels})
        np.testing.assert_array_equal(value, right.value, what)
        np.testing.assert_array_equal(gradient, right.gradient, what)


def test_labels_that_jax_cannot_hold_are_refused_where_more_is_asked_than_which_are_equal() -> None:
    jax = pytest.importorskip("jax")
    import lossbridge.jax as L
    from lossbridge.spec import loads

    spec = loads(
        b'{"lossbridge": 1, "loss": "test/known_pairs@1", "inputs": {"x": "real[batch]", '
        b'"labels": "integer[batch]"}, "yields": "per_pair", "body": ["others = '
        b'rename(labels, batch, others)", "value = where(labels == others and labels >= 0, '
        b'(x - rename(x, batch, others)) ** 2, 0)"]}'
    )
    loss, x = L.compile(spec, reduction="sum"), np.float32([1, 2, 4, 8])
    assert loss(x, np.array([1, 2, 1, 2])) == 2 * (9 + 36)
    assert loss(x, np.array([-1, 2, -1, 2])) == 2 * 36
    with pytest.raises(DTypeError, match="does not fit into int32"):
        loss(x, np.array([5000000001, 2, 5000000001, 2]))
    with pytest.raises(DTypeError, match="uint32"):
        jax.jit(loss)(x, np.array([1, 2, 1, 2], np.uint32))


@pytest.mark.slow
def test_keras_fits_contrastive_labels_of_any_size() -> None:
    keras = pytest.importorskip("keras")
    import lossbridge.keras as L

    found = []
    for labels in (np.arange(8) % 4, np.arange(8) % 4 + 10**10):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
        model.compile("sgd", loss=L.NTXentLoss())
        x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
        found.append(model.fit(x, labels, batch_size=8, verbose=0).history["loss"][0])
    assert found[0] == found[1] > 0.0
