"""The edges of CTC, against torch.nn.CTCLoss, on every platform: nothing to hear, nothing to spell,
targets that do not fit, and lengths and labels that are none."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import pytest
from doors import opened

from lossbridge.errors import LabelError

Array: TypeAlias = Any
TIME, BATCH, CLASSES = 5, 3, 4
LOG_PROBS = np.log(np.random.default_rng(0).dirichlet(np.ones(CLASSES), (TIME, BATCH)))

EDGES = {
    "empty input": ([[1, 2], [3, 1], [1, 0]], [5, 0, 3], [0, 1, 1]),
    "empty input and target": ([[1, 2], [3, 1], [1, 0]], [5, 0, 3], [1, 0, 1]),
    "no target": (np.zeros((BATCH, 0), np.int64), [5, 4, 0], [0, 0, 0]),
    "too short": ([[1, 1], [3, 1], [1, 2]], [2, 1, 5], [2, 2, 2]),
    "blank in a target": ([[1, 0], [0, 0], [0, 2]], [5, 5, 5], [2, 2, 2]),
    "padding that is no label": ([[1, -1], [-100, -1], [2, 9]], [5, 5, 5], [1, 0, 1]),
}
WRONG = {
    "an input longer than there is": ([[1, 2]] * 3, [5, 6, 5], [1, 1, 1], "input_lengths", 6),
    "an input shorter than none": ([[1, 2]] * 3, [5, -1, 5], [1, 1, 1], "input_lengths", -1),
    "a target longer than there is": ([[1, 2]] * 3, [5, 5, 5], [1, 3, 1], "target_lengths", 3),
    "a target shorter than none": ([[1, 2]] * 3, [5, 5, 5], [1, -2, 1], "target_lengths", -2),
    "a label too large": ([[1, 2], [9, 1], [1, 2]], [5, 5, 5], [1, 1, 1], "targets", 9),
    "a label below 0": ([[1, 2], [-1, 1], [1, 2]], [5, 5, 5], [1, 1, 1], "targets", -1),
}
PLACES = [
    ("torch", "eager"),
    ("keras", "eager"),
    ("keras", "graph"),
    ("jax", "eager"),
    ("jax", "jit"),
]


def inputs_of(targets: Array, input_lengths: Array, target_lengths: Array) -> dict[str, Array]:
    return {
        "log_probs": LOG_PROBS,
        "targets": np.asarray(targets, np.int32),
        "input_lengths": np.asarray(input_lengths, np.int32),
        "target_lengths": np.asarray(target_lengths, np.int32),
    }


def run(platform: str, mode: str, inputs: dict[str, Array], native: bool, **settings: Any) -> Any:
    door = opened(platform)
    with door.wide():
        made = {"reduction": "none", **settings}
        if native:
            loss = door.L.native("torch.nn.CTCLoss", **made)
        else:
            loss = door.make("CTCLoss", **made)
        return door.run(loss, inputs, ("log_probs",), mode)


def original(inputs: dict[str, Array], **settings: Any) -> tuple[Array, Array]:
    """torch's own value and gradient."""
    torch = pytest.importorskip("torch")
    x, *rest = (torch.tensor(a) for a in inputs.values())
    value = torch.nn.CTCLoss(reduction="none", **settings)(x.requires_grad_(True), *rest)
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def by_differences(inputs: dict[str, Array], **settings: Any) -> Array:
    """The slopes of torch's own value in logits whose log-softmax the log-probabilities are, by
    central differences: what torch's gradient in the log-probabilities means."""
    torch = pytest.importorskip("torch")
    x, *rest = (torch.tensor(a) for a in inputs.values())
    loss, step = torch.nn.CTCLoss(reduction="none", **settings), 1e-5
    slopes = torch.zeros_like(x)
    for at in np.ndindex(*x.shape):
        move = torch.zeros_like(x)
        move[at] = step
        above, below = (loss((x + m).log_softmax(-1), *rest)[at[1]] for m in (move, -move))
        slopes[at] = (above - below) / (2 * step)
    return slopes.numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "mode"), PLACES)
@pytest.mark.parametrize("edge", EDGES)
def test_the_edges_of_ctc_are_those_of_torch(platform: str, mode: str, edge: str) -> None:
    inputs = inputs_of(*EDGES[edge])
    for zero in (False, True):
        value, gradient = original(inputs, zero_infinity=zero)
        native = run(platform, mode, inputs, True, zero_infinity=zero)
        np.testing.assert_allclose(native.value, value, rtol=1e-9)
        if edge == "blank in a target":
            # Where a target ends in the blank, torch's backward pass sets the last frame's slope
            # twice instead of adding: -0.044 for -0.626 in the first sample.
            slopes = by_differences(inputs, zero_infinity=zero)
            assert abs(gradient - slopes).max() > 0.5
            np.testing.assert_allclose(native.gradients["log_probs"], slopes, atol=1e-9)
        else:
            np.testing.assert_allclose(native.gradients["log_probs"], gradient, 1e-9, 1e-12)
        ours = run(platform, mode, inputs, False, zero_infinity=zero)
        np.testing.assert_allclose(ours.value, value, rtol=1e-9)
        rows = np.moveaxis(ours.gradients["log_probs"], 1, 0)
        assert np.isfinite(rows).all()
        assert not rows[~np.isfinite(value)].any()


@pytest.mark.parametrize("platform", ["torch", "keras", "jax"])
def test_an_empty_target_costs_the_blanks_alone(platform: str) -> None:
    inputs = inputs_of(np.zeros((BATCH, 0)), [5, 3, 0], [0, 0, 0])
    value = run(platform, "eager", inputs, False).value
    blanks = -LOG_PROBS[:, :, 0]
    np.testing.assert_allclose(value, [blanks[:, 0].sum(), blanks[:3, 1].sum(), 0.0], rtol=1e-9)


@pytest.mark.parametrize("platform", ["torch", "keras", "jax"])
def test_a_target_without_any_input_costs_inf_or_nothing_and_moves_nothing(platform: str) -> None:
    inputs = inputs_of(*EDGES["empty input"])
    for zero, cost in ((False, math.inf), (True, 0.0)):
        found = run(platform, "eager", inputs, False, zero_infinity=zero)
        assert found.value[1] == cost
        assert not found.gradients["log_probs"][:, 1].any()


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("platform", "mode"), PLACES)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_length_or_label_raises_or_is_nan(
    platform: str, mode: str, wrong: str, native: bool
) -> None:
    *arrays, name, number = WRONG[wrong]
    inputs = inputs_of(*arrays)
    if mode == "eager":
        with pytest.raises(LabelError, match=rf"{name} is .*; {number} was given, at \[1"):
            run(platform, mode, inputs, native)
        return
    found = run(platform, mode, inputs, native)
    np.testing.assert_array_equal(np.isnan(found.value), [False, True, False])
    rows = np.moveaxis(found.gradients["log_probs"], 1, 0)
    np.testing.assert_array_equal(np.isnan(rows).any((1, 2)), [False, True, False])
