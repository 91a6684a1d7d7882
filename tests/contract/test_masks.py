"""Masks select and sample weights scale: on every platform, in every mode, for every loss."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from doors import Door, Result
from samples import Sample, every

from lossbridge.plan import spec_graph
from lossbridge.witnesses import witnesses

MASK = np.array([True, False, True, True, False, True, True])


def samplewise(s: Sample) -> bool:
    """Whether each row of every input is a sample, which no other sample's value depends on."""
    if s.spec.ports or s.tree:
        return False
    lead = {kind.axes[0] if kind.axes else "" for kind in s.spec.inputs.values()}
    renamed = any(n.op == "rename" and n.attr("old") == "batch" for n in spec_graph(s.spec).nodes)
    return lead in ({"*batch"}, {"batch"}) and not renamed


SAMPLES = every(samplewise)
each = pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.id)


def called(door: Door, s: Sample, mode: str = "eager", **call: np.ndarray) -> Result:
    loss = door.make(s.class_, **s.settings)
    return door.run(loss, s.inputs, s.real, mode, weights=s.weights, **call)


def test_most_of_the_catalogue_is_tried() -> None:
    assert len(SAMPLES) > 0.8 * len(every())


@each
def test_a_mask_selects(door_mode: tuple[Door, str], s: Sample) -> None:
    """The loss of the rows it selects; whatever stands in the others, and nothing if none is."""
    door, mode = door_mode
    loss = door.make(s.class_, **s.settings)
    expected = door.run(loss, {n: x[MASK] for n, x in s.inputs.items()}, s.real, weights=s.weights)
    run = door.function(loss, s.real, mode, s.weights)
    masked = run(**s.inputs, mask=MASK)
    np.testing.assert_allclose(masked.value, expected.value, rtol=5e-6)
    for name in s.real:
        assert (masked.gradients[name][~MASK] == 0.0).all()
        size = np.abs(expected.gradients[name]).max()
        np.testing.assert_allclose(
            masked.gradients[name][MASK], expected.gradients[name], rtol=1e-5, atol=1e-6 * size
        )
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = {n: x.copy() for n, x in s.inputs.items()}
        for name in s.real:
            spoilt[name][~MASK] = bad
        found = run(**spoilt, mask=MASK)
        np.testing.assert_array_equal(found.value, masked.value)
        for name in s.real:
            np.testing.assert_array_equal(found.gradients[name], masked.gradients[name])
    nothing = run(**s.inputs, mask=np.zeros(len(MASK), bool))
    assert np.isnan(nothing.value)
    for name in s.real:
        assert (nothing.gradients[name] == 0.0).all()


@each
def test_integers_0_and_1_are_a_mask(door: Door, s: Sample) -> None:
    expected = called(door, s, mask=MASK)
    for dtype in ("int32", "uint8", "int64"):
        found = called(door, s, mask=MASK.astype(dtype))
        np.testing.assert_array_equal(found.value, expected.value)


@each
def test_sample_weights_scale_what_is_summed(door_mode: tuple[Door, str], s: Sample) -> None:
    door, mode = door_mode
    none = called(door, s.made(reduction="none")).value
    weight = np.linspace(0.0, 3.0, len(MASK)).astype(np.float32)
    scaled = called(door, s.made(reduction="sum"), mode, sample_weight=weight)
    along = weight.reshape(-1, *(1,) * (none.ndim - 1)).astype(np.float64)
    size = np.abs(none * along).sum()
    np.testing.assert_allclose(scaled.value, (none * along).sum(), rtol=5e-6, atol=1e-6 * size)
    for name in s.real:
        assert (scaled.gradients[name][0] == 0.0).all()  # its weight is 0


# One value for a whole batch, or none of rows of numbers: tests/migrate/test_no_alarm.py has those.
OTHERS = ("CTC", "Circle", "Dice", "Tversky")
KERAS = sorted(n for n in witnesses() if n.startswith("keras.losses.") and not n.endswith(OTHERS))


@cache
def xla_clips_nan() -> bool:
    """Whether XLA of this TensorFlow makes a clipped NaN the bound, in any code, as 2.18 does."""
    import tensorflow as tf

    def clipped(x: Any) -> Any:
        return tf.clip_by_value(x, 0.25, 0.5)

    found = tf.function(clipped, jit_compile=True)(tf.constant([np.nan, 1.0]))
    return not np.isnan(found.numpy()[0])


@pytest.mark.parametrize("name", KERAS)
def test_the_mask_of_a_loss_of_keras_multiplies(door_mode: tuple[Door, str], name: str) -> None:
    """As theirs does: what is NaN or infinite in a row that does not count shows in the loss."""
    door, mode = door_mode
    loss = door.L.native(name, reduction="sum")
    prediction, target = loss.spec.inputs
    probability = np.random.default_rng(0).dirichlet(np.ones(4), 3).astype(np.float32)
    labels = np.array([0, 3, 1]) if loss.spec.inputs[target].dtype == "int" else probability[::-1]
    mask = np.array([True, False, True])
    run = door.function(loss, (prediction,), mode)
    clean = run(**{prediction: probability, target: labels}, mask=mask)
    assert np.isfinite(clean.value).all()
    assert (clean.gradients[prediction][1] == 0.0).all()
    spoilt = probability.copy()
    spoilt[1] = np.nan
    found = run(**{prediction: spoilt, target: labels}, mask=mask)
    body = " ".join(loss.spec.body)
    if mode == "xla" and "clip(" in body and xla_clips_nan():
        pytest.skip("XLA of this TensorFlow clips a NaN to the bound, in Keras's own loss too")
    assert np.isnan(found.value)
    np.testing.assert_array_equal(
        found.gradients[prediction][[0, 2]], clean.gradients[prediction][[0, 2]]
    )


@each
def test_nothing_selected_is_zero_where_empty_says_so(door: Door, s: Sample) -> None:
    found = called(door, s.made(empty="zero"), mask=np.zeros(len(MASK), bool))
    assert found.value == 0.0
    for name in s.real:
        assert (found.gradients[name] == 0.0).all()
