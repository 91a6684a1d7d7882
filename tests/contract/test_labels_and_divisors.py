"""Labels that are none, and what a mean divides by, at every door and in every mode.

test_labels.py and test_normalizers.py try far more of both, on the three frameworks themselves;
this is the part that Keras's other backends run too.
"""

from __future__ import annotations

import numpy as np
import pytest
from doors import Door

from lossbridge.divisors import DIVISORS
from lossbridge.errors import LabelError

LOGITS = np.array([[3.0, 1.0], [0.5, -1.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
LABELS = np.array([0, 1, 1, -100])
CLASS_WEIGHTS = np.array([1.0, 3.0], np.float32)
SAMPLES = np.array([2.0, 1.0, 4.0, 1.0], np.float32)
MASK = np.array([True, True, False, True])
# By hand: samples 0, 1 and 3 are selected, and the last one is ignored.
DIVISOR = {
    "elements": 3.0, "batch": 4.0, "counts": 1.0 + 3.0, "weights": 2.0 * 1.0 + 1.0 * 3.0,
    "valid": 2.0, "target_length": 3.0, "external": 5.0,
}  # fmt: skip


def by_hand(name: str) -> tuple[float, np.ndarray]:
    """The weighted cross-entropy of the selected samples over its divisor, and the gradient."""
    p = np.exp(LOGITS.astype(float))
    p /= p.sum(1, keepdims=True)
    labels = np.maximum(LABELS, 0)
    own = np.where(LABELS < 0, 0.0, CLASS_WEIGHTS[labels])
    factor = np.where(MASK, SAMPLES * own, 0.0) / DIVISOR[name]
    if name == "target_length":
        factor = factor / np.maximum(own, 1.0)
    value = (-factor * np.log(p[np.arange(4), labels])).sum()
    return value, factor[:, None] * (p - np.eye(2)[labels])


@pytest.mark.parametrize("name", DIVISORS)
def test_a_mean_divides_by_what_its_normaliser_says(door_mode: tuple[Door, str], name: str) -> None:
    door, mode = door_mode
    loss = door.make("CrossEntropyLoss", weight=CLASS_WEIGHTS, normalizer=name)
    call = {"sample_weight": SAMPLES, "mask": MASK}
    if name == "external":
        call["normalizer_count"] = np.float32(5.0)
    found = door.run(loss, {"logits": LOGITS, "labels": LABELS}, ("logits",), mode, **call)
    value, gradient = by_hand(name)
    np.testing.assert_allclose(found.value, value, rtol=2e-6)
    np.testing.assert_allclose(found.gradients["logits"], gradient, rtol=5e-6, atol=1e-8)


@pytest.mark.parametrize("bad", [-1, 2, 2**31, 2**40])
def test_a_label_that_is_none(door_mode: tuple[Door, str], bad: int) -> None:
    """An error that names it where it can be seen, NaN elsewhere, nothing under a mask."""
    door, mode = door_mode
    loss = door.make("CrossEntropyLoss")
    labels = np.array([0, bad, 1, 0])
    hidden = np.array([True, False, True, True])
    with door.wide():
        run = door.function(loss, ("logits",), mode)
        rows = {"logits": LOGITS[hidden], "labels": labels[hidden]}
        expected = door.run(loss, rows, ("logits",))
        found = run(logits=LOGITS, labels=labels, mask=hidden)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
        assert (found.gradients["logits"][1] == 0.0).all()
        if mode == "eager":
            with pytest.raises(LabelError, match=str(bad)):
                run(logits=LOGITS, labels=labels)
        else:
            found = run(logits=LOGITS, labels=labels)
            assert np.isnan(found.value)
            assert np.isnan(found.gradients["logits"][1]).all()
