"""Losses under transformers' Trainer, which calls f(outputs, labels, num_items_in_batch=...)."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frameworks import PLATFORMS, Framework, framework

from lossbridge.errors import ArgumentError, UnsupportedError

LOGITS = np.random.default_rng(0).normal(size=(2, 4, 3))
LABELS = np.array([[0, 1, 2, -100], [2, -100, 1, 0]])


@pytest.fixture(params=PLATFORMS)
def side(request: pytest.FixtureRequest) -> Framework:
    return framework(request.param)


def by_hand(logits: Any, labels: Any, count: float | None = None) -> float:
    flat, y = logits.reshape(-1, 3), labels.reshape(-1)
    rows = flat[y != -100]
    losses = np.log(np.exp(rows).sum(-1)) - rows[np.arange(len(rows)), y[y != -100]]
    return float(losses.sum() / (len(rows) if count is None else count))


def test_outputs_may_be_what_any_model_gives(side: Framework) -> None:
    logits, labels = side.array(LOGITS), side.array(LABELS, "int32")
    if side.name == "torch":
        labels = side.array(LABELS, "int64")
    run = side.module.as_hf(side.module.CrossEntropyLoss())
    for outputs in (
        logits,
        (logits,),
        (logits, ("hidden", "states")),
        [logits],
        (side.array(0.5), logits),  # the loss that a model computed itself comes first
        {"logits": logits},
        OrderedDict(loss=None, logits=logits),
        SimpleNamespace(logits=logits, hidden_states=None),
    ):
        assert float(run(outputs, labels)) == pytest.approx(by_hand(LOGITS, LABELS), rel=1e-6)
        found = run(outputs, labels, num_items_in_batch=10)
        assert float(found) == pytest.approx(by_hand(LOGITS, LABELS, 10), rel=1e-6)


def test_shifted_labels_are_those_of_the_next_position(side: Framework) -> None:
    logits = side.array(LOGITS)
    labels = side.array(LABELS, "int64" if side.name == "torch" else "int32")
    run = side.module.as_hf(side.module.CrossEntropyLoss(), shift_labels=True)
    expected = by_hand(LOGITS[:, :-1], LABELS[:, 1:])
    assert float(run({"logits": logits}, labels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_give_a_loss_in_float32(side: Framework, dtype: str) -> None:
    labels = side.array(LABELS, "int64" if side.name == "torch" else "int32")
    found = side.module.as_hf(side.module.CrossEntropyLoss())((side.array(LOGITS, dtype),), labels)
    assert "float32" in str(found.dtype)
    assert float(found) == pytest.approx(by_hand(LOGITS, LABELS), rel=1e-2)


def test_class_weights_are_taken_along(side: Framework) -> None:
    m = side.module
    labels = side.array(LABELS, "int64" if side.name == "torch" else "int32")
    loss = m.CrossEntropyLoss(weight=side.array([1.0, 0.0, 0.0]))
    weighed = np.where(LABELS == 0, 0, -100)
    expected = by_hand(LOGITS, weighed)
    assert float(m.as_hf(loss)(side.array(LOGITS), labels)) == pytest.approx(expected, rel=1e-6)


def test_a_regression_with_one_label_takes_the_model_s_column(side: Framework) -> None:
    m = side.module
    found = m.as_hf(m.MSELoss())((side.array([[1.0], [3.0]]),), side.array([2.0, 5.0]))
    assert float(found) == pytest.approx(2.5)


def test_a_loss_given_to_the_trainer_as_it_is_hears_of_as_hf(side: Framework) -> None:
    m = side.module
    loss, logits = m.CrossEntropyLoss(), side.array(LOGITS)
    labels = side.array(LABELS, "int64" if side.name == "torch" else "int32")
    outputs: tuple[Any, ...] = ({"logits": logits}, SimpleNamespace(logits=logits), (logits,))
    for output in outputs:
        with pytest.raises(ArgumentError, match=r"compute_loss_func=L.as_hf\(L.CrossEntropyLoss"):
            loss(output, labels, num_items_in_batch=8)
    # Without the count, what is no array says so too, in the framework's order of arguments.
    for output in outputs[:2]:
        with pytest.raises(ArgumentError, match=r"L.as_hf"):
            loss(*side.pair(output, labels))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda m: m.CrossEntropyLoss, ArgumentError, r"L.as_hf\(L.CrossEntropyLoss\(\)\)"),
        (lambda m: "CrossEntropyLoss", ArgumentError, r"L.as_hf\(L.CrossEntropyLoss\(\)\)"),
        (lambda m: m.TripletMarginLoss(), UnsupportedError, "takes anchor, positive, negative"),
        (lambda m: m.WeightedLoss({"a": m.MSELoss()}), UnsupportedError, "takes a"),
        (
            lambda m: m.ArcFaceLoss(num_classes=3, embedding_size=2),
            UnsupportedError,
            "neither train nor give",
        ),
    ],
)
def test_what_as_hf_does_not_take_says_why(
    side: Framework, make: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        side.module.as_hf(make(side.module))


def test_outputs_without_logits_say_what_they_have(side: Framework) -> None:
    run = side.module.as_hf(side.module.CrossEntropyLoss())
    labels = side.array(LABELS, "int64" if side.name == "torch" else "int32")
    for outputs in ({"last_hidden_state": 1}, object(), None, ()):
        with pytest.raises(ArgumentError, match="a model's output with logits"):
            run(outputs, labels)
    with pytest.raises(ArgumentError, match="no labels"):
        run({"logits": side.array(LOGITS)}, None)
