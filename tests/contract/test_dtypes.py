"""Which dtypes are taken for what, and which decide the precision: one answer for every loss."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from doors import Door, Result
from samples import Sample, every

from lossbridge.dtypes import TARGETS
from lossbridge.errors import ArgumentError, DTypeError
from lossbridge.frontdoor import forms

SAMPLES = every()
each = pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.id)

# Where a loss takes labels too, integers and truth values are those.
TARGETED = [
    (s, n) for s in SAMPLES for n in s.real if n in TARGETS and len(forms()[s.class_].specs) == 1
]
SAMPLEWISE = [s for s in SAMPLES if s.spec.yields in ("per_element", "per_sample")]
targeted = pytest.mark.parametrize(("s", "name"), TARGETED, ids=lambda p: getattr(p, "id", p))
INTEGERS = ("int8", "uint8", "int16", "int32", "int64")


def run(door: Door, s: Sample, mode: str = "eager", wrt: tuple[str, ...] = (), **call: object):
    loss = door.make(s.class_, **s.settings)
    return door.run(loss, s.inputs, wrt, mode, weights=s.weights, **call)  # type: ignore[arg-type]


ONE_ULP = 2.0**-23  # of float32


def same(found: Result, wanted: Result, off: float = 0.0, term: float = 0.0) -> None:
    """Equal, or ``off`` apart, relative to the largest, of a sum to its largest ``term``."""
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found.value, wanted.value, rtol=off, atol=off * term)
    for name, gradient in found.gradients.items():
        size = np.abs(wanted.gradients[name]).max(initial=0.0)
        np.testing.assert_allclose(gradient, wanted.gradients[name], rtol=0.0, atol=off * size)


@targeted
def test_targets_of_integers_and_truth_values_are_numbers(door: Door, s: Sample, name: str) -> None:
    """0 and 1 as users have them, in a dataset's own dtype; of a sign False is -1."""
    first = s.real[0]
    ones = np.arange(s.inputs[name].size).reshape(s.inputs[name].shape) % 3 == 0
    sign = s.spec.inputs[name].name == "sign"
    numbers = (2.0 * ones - 1.0 if sign else ones).astype(np.float32)
    wanted = run(door, s.given(**{name: numbers}), wrt=(first,))
    same(run(door, s.given(**{name: ones}), wrt=(first,)), wanted)
    for dtype in INTEGERS[2 * sign :: 2]:
        found = run(door, s.given(**{name: numbers.astype(dtype)}), wrt=(first,))
        np.testing.assert_array_equal(found.value, wanted.value)


@each
def test_complex_numbers_are_refused_for_every_input(door: Door, s: Sample) -> None:
    for name in s.real:
        with pytest.raises(DTypeError, match="complex64"):
            run(door, s.given(**{name: s.inputs[name].astype(np.complex64)}))


@pytest.mark.parametrize("s", SAMPLEWISE[:3], ids=lambda s: s.id)
def test_complex_sample_weights_are_refused(door: Door, s: Sample) -> None:
    with pytest.raises(DTypeError, match="sample_weight"):
        run(door, s, sample_weight=np.ones(7, np.complex64))


@each
def test_a_prediction_of_integers_is_refused(door: Door, s: Sample) -> None:
    first = next(iter(s.spec.inputs))
    with pytest.raises(DTypeError, match=f"{first} is .*int32 was given; pass"):
        run(door, s.given(**{first: s.inputs[first].astype(np.int32)}))


@pytest.mark.parametrize("s", SAMPLEWISE, ids=lambda s: s.id)
def test_weights_and_targets_never_decide_the_precision(door: Door, s: Sample) -> None:
    """A float64 target, sample weight or class weight beside float32 predictions."""
    with door.wide():
        first = s.real[0]
        weight = np.linspace(0.5, 2.0, 7).astype(np.float32)
        wanted = run(door, s, wrt=(first,), sample_weight=weight)
        assert wanted.dtype == "float32"
        wide = {n: s.inputs[n].astype(np.float64) for n in s.real if n in TARGETS}
        # XLA puts the cast into the loss's own loop, which may then round a sum otherwise; that of
        # JAX 0.5.3 the weights' too.
        off = ONE_ULP if door.framework == "jax" else 0.0
        term = np.abs(run(door, s.made(reduction="none"), wrt=()).value).max()
        heavy = run(door, s, wrt=(first,), sample_weight=weight.astype(np.float64))
        same(heavy, wanted, off, term)
        same(run(door, s.given(**wide), wrt=(first,), sample_weight=weight), wanted, off, term)
        for name, param in s.spec.params.items():
            if param.kind.axes == ("classes",):
                weights = np.array([0.5, 1.0, 2.0])
                one = run(door, s.made(**{name: weights.astype(np.float32)}), wrt=(first,))
                same(run(door, s.made(**{name: weights}), wrt=(first,)), one)


@pytest.mark.parametrize("s", [s for s in SAMPLES if len(s.real) > 1], ids=lambda s: s.id)
def test_of_two_predictions_the_wider_one_decides(door: Door, s: Sample) -> None:
    predictions = [n for n in s.real if n not in TARGETS]
    if len(predictions) < 2:
        pytest.skip("one prediction")
    with door.wide():
        last = predictions[-1]
        mixed = s.given(**{last: s.inputs[last].astype(np.float64)})
        wide = {n: s.inputs[n].astype(np.float64) for n in s.real}
        found, wanted = run(door, mixed), run(door, s.given(**wide))
        assert found.dtype == "float32"
        np.testing.assert_allclose(found.value, wanted.value, rtol=1e-7)


@pytest.mark.parametrize("s", SAMPLEWISE, ids=lambda s: s.id)
def test_a_mask_is_of_truth_values_or_of_0_and_1(door: Door, s: Sample) -> None:
    mask = np.array([True, False, True, True, False, True, True])
    wanted = run(door, s, mask=mask)
    for dtype in ("int32", "uint8", "int64"):
        same(run(door, s, mask=mask.astype(dtype)), wanted)


def test_a_mask_of_floats_is_a_sample_weight(door: Door) -> None:
    s = next(s for s in SAMPLES if s.id == "mse@1")
    for numbers in (np.full(7, 0.5, np.float32), np.ones(7, np.float64)):
        with pytest.raises(DTypeError, match="sample_weight"):
            run(door, s, mask=numbers)
    with pytest.raises(ArgumentError, match="sample_weight"):
        run(door, s, mask=np.array([0, 1, 2, 1, 0, 1, 1]))


@each
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_taken_where_promotion_is_strict(dtype: str, s: Sample) -> None:
    """JAX's users switch implicit promotion off to find it in their own code."""
    import doors
    import jax

    door = doors.opened("jax")
    half = s.astype(getattr(ml_dtypes, dtype, None) or dtype)
    half = dataclasses.replace(half, weights=s.weights)  # in float32, as they are kept
    with jax.numpy_dtype_promotion("strict"):
        loss = door.make(half.class_, **half.settings)
        tensors = door.tensors(half.inputs)
        weights = {"params": door.tensors(half.weights)} if half.weights else {}
        first = s.real[0]

        def value(x: object) -> object:
            return loss(**{**tensors, first: x}, **weights)

        found = jax.eval_shape(value, tensors[first])
        slope = jax.eval_shape(jax.grad(lambda x: value(x).sum()), tensors[first])  # type: ignore
    assert {str(found.dtype), str(slope.dtype)} == {dtype}
