"""The settings that people look for on classification losses, on every platform."""

from __future__ import annotations

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

import lossbridge.jax as LJ
import lossbridge.keras as LK
import lossbridge.torch as LT
from lossbridge.errors import ArgumentError, DomainError
from lossbridge.frontdoor import forms, signature

PLATFORMS = ("torch", "keras", "jax")
DOORS: dict[str, Any] = {"torch": LT, "keras": LK, "jax": LJ}


@pytest.fixture(autouse=True, scope="module")
def wide() -> Any:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def value_and_gradient(
    platform: str, loss: Any, x: np.ndarray, y: np.ndarray, **call: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Of a prediction of this dtype and its target, and the gradient of the values' sum."""
    if platform == "torch":
        t = torch.tensor(x, requires_grad=True)
        value = loss(t, torch.tensor(y), **{k: torch.as_tensor(v) for k, v in call.items()})
        value.sum().backward()
        return value.detach().numpy(), t.grad.numpy()  # type: ignore[union-attr]
    if platform == "keras":
        c = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(c)
            value = loss(y, c, **call)
        return value.numpy(), tape.gradient(value, c).numpy()
    j = jnp.asarray(x)
    value, pull = jax.vjp(lambda x: loss(x, jnp.asarray(y), **call), j)
    return np.asarray(value), np.asarray(pull(jnp.ones_like(value))[0])


# --- focal loss ---

# Confident and right, confident and wrong, undecided, and in between.
LOGITS = np.array(
    [[30.0, 0.0, -20.0], [0.0, 30.0, -20.0], [0.0, 0.0, 0.0], [2.0, -1.0, 0.5], [-20.0, 14.0, 9.0]]
)
LABELS = np.array([0, 0, 2, 1, 1])
ALPHA = [0.25, 2.0, 0.75]


def focal_by_hand(
    x: np.ndarray, label: int, gamma: float, factor: float
) -> tuple[float, np.ndarray]:
    """-a (1 - p)^g log p and its gradient, without a cancellation.

    With q = 1 - p the derivative in a logit is a (g q^(g - 1) p log p - q^g) (e_k - p_k), where
    e_k - p_k is q for the label's own.
    """
    others = [math.exp(float(v) - float(x[label])) for k, v in enumerate(x) if k != label]
    odds = math.fsum(others)  # q / p
    log_p, p, q = -math.log1p(odds), 1.0 / (1.0 + odds), odds / (1.0 + odds)
    power = q ** (gamma - 1.0) if gamma else 0.0
    slope = factor * (gamma * power * p * log_p - q**gamma)
    away = np.array([-math.exp(float(v) - float(x[label])) * p for v in x])
    away[label] = q
    return -factor * q**gamma * log_p, slope * away


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_focal_loss_with_alpha_keeps_every_digit_at_confident_logits(
    platform: str, gamma: float
) -> None:
    pairs = [
        focal_by_hand(x, k, gamma, ALPHA[k]) for x, k in zip(LOGITS, LABELS.tolist(), strict=True)
    ]
    for dtype, bound in ((np.float64, 1e-14), (np.float32, 2e-6)):
        loss = DOORS[platform].FocalLoss(gamma, alpha=ALPHA, reduction="none")
        value, gradient = value_and_gradient(platform, loss, LOGITS.astype(dtype), LABELS)
        assert value.dtype == dtype
        least = float(np.finfo(dtype).tiny)  # two platforms round what is subnormal to 0
        np.testing.assert_allclose(value, [v for v, _ in pairs], rtol=bound, atol=least)
        np.testing.assert_allclose(gradient, [g for _, g in pairs], rtol=bound, atol=least)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_focal_loss_without_focus_is_cross_entropy_with_its_settings(platform: str) -> None:
    door = DOORS[platform]
    labels = np.array([0, -1, 2, 1, 1])
    settings: dict[str, Any] = {"weight": ALPHA, "ignore_index": -1}
    focal = value_and_gradient(platform, door.FocalLoss(0.0, **settings), LOGITS, labels)
    entropy = value_and_gradient(platform, door.CrossEntropyLoss(**settings), LOGITS, labels)
    for found, wanted in zip(focal, entropy, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=0.0)
    target = np.eye(3)[LABELS] * 0.7 + 0.1
    focal = value_and_gradient(platform, door.FocalLoss(0.0, weight=ALPHA), LOGITS, target)
    entropy = value_and_gradient(platform, door.CrossEntropyLoss(weight=ALPHA), LOGITS, target)
    for found, wanted in zip(focal, entropy, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_alpha_scales_and_weight_enters_the_divisor_and_ignored_samples_do_not_count(
    platform: str,
) -> None:
    """Of undecided logits of two classes a term is (1 - 1/2)^2 log 2."""
    door, x, term = DOORS[platform], np.zeros((4, 2)), 0.25 * math.log(2.0)

    def mean(labels: list[int], **settings: Any) -> float:
        loss = door.FocalLoss(**settings)
        return float(value_and_gradient(platform, loss, x, np.array(labels))[0])

    assert mean([0, 1, 1, 1]) == pytest.approx(term)
    assert mean([0, 1, 1, -100]) == pytest.approx(term)
    assert mean([0, 1, 1, 1], alpha=0.25) == pytest.approx(0.25 * term)
    assert mean([0, 1, 1, 1], alpha=[0.25, 0.75]) == pytest.approx(term * 2.5 / 4.0)
    assert mean([0, 1, 1, -100], alpha=[0.25, 0.75]) == pytest.approx(term * 1.75 / 3.0)
    assert mean([0, 1, 1, 1], weight=[1.0, 3.0]) == pytest.approx(term)
    weighed = mean([0, 1, 1, -100], weight=[1.0, 3.0], normalizer="elements")
    assert weighed == pytest.approx(term * 7.0 / 4.0)
    both = mean([0, 1, 1, 1], alpha=[0.25, 0.75], weight=[1.0, 3.0])
    assert both == pytest.approx(term * (0.25 + 3 * 0.75 * 3.0) / 10.0)
    assert math.isnan(mean([-100] * 4))
    assert mean([-100] * 4, empty="zero") == 0.0


@pytest.mark.parametrize("platform", PLATFORMS)
def test_focal_alpha_of_target_probabilities_weighs_each_class(platform: str) -> None:
    loss = DOORS[platform].FocalLoss(alpha=[0.25, 0.75])
    found, _ = value_and_gradient(platform, loss, np.zeros((1, 2)), np.array([[0.4, 0.6]]))
    assert float(found) == pytest.approx((0.25 * 0.4 + 0.75 * 0.6) * 0.25 * math.log(2.0))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_binary_focal_is_focal_of_two_classes_with_the_papers_alpha(platform: str) -> None:
    """alpha=[1 - a, a] of logits (0, x) is the paper's alpha of the logit x."""
    x, y = np.array([3.0, -2.0, 40.0]), np.array([1, 1, 0])
    binary = DOORS[platform].BinaryFocalLoss(alpha=0.25)
    wanted, slope = value_and_gradient(platform, binary, x, y.astype(np.float64))
    focal = DOORS[platform].FocalLoss(alpha=[0.75, 0.25])
    two = np.stack([np.zeros(3), x], 1)
    found, gradient = value_and_gradient(platform, focal, two, y)
    assert float(found) == pytest.approx(float(wanted), rel=1e-13)
    np.testing.assert_allclose(gradient[:, 1], slope, rtol=1e-12)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_negative_alpha_and_a_wrong_name_are_refused(platform: str) -> None:
    with pytest.raises(DomainError, match="alpha"):
        DOORS[platform].FocalLoss(alpha=-1.0)
    with pytest.raises(ArgumentError, match="ignore_index"):
        DOORS[platform].FocalLoss(ignore_idx=1)


# --- a weight for each element of BCE with logits ---

SCORES = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, -3.0]])
TARGET = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.25]])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("weight", "pos_weight"),
    [
        ([1.0, 2.0, 3.0], None),
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], None),
        ([[0.5], [2.0]], None),
        ([1.0, 2.0, 3.0], [2.0, 1.0, 0.5]),
        (None, [2.0, 1.0, 0.5]),
    ],
)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_bce_with_logits_takes_torchs_weight(
    platform: str, weight: Any, pos_weight: Any, reduction: str
) -> None:
    given = {"weight": weight, "pos_weight": pos_weight}
    given = {k: np.array(v) for k, v in given.items() if v is not None}
    theirs = torch.nn.BCEWithLogitsLoss(
        reduction=reduction, **{k: torch.tensor(v) for k, v in given.items()}
    )
    wanted, slope = value_and_gradient("torch", theirs, SCORES, TARGET)
    arrays = {k: torch.tensor(v) if platform == "torch" else v for k, v in given.items()}
    loss = DOORS[platform].BCEWithLogitsLoss(reduction=reduction, **arrays)
    found, gradient = value_and_gradient(platform, loss, SCORES, TARGET)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    np.testing.assert_allclose(gradient, slope, rtol=1e-12)


# Before `reduction` there were these two; nobody's new code has them.
OLD = {"size_average", "reduce"}
LACKING = {
    "LinearCrossEntropyLoss": {"out_features", "bias", "device", "dtype", "options"},
    # Given at the call, as every function is.
    "TripletMarginWithDistanceLoss": {"distance_function"},
}


@pytest.mark.parametrize("name", [n for n in forms() if hasattr(torch.nn, n)])
def test_a_class_named_as_in_torch_has_torchs_arguments(name: str) -> None:
    theirs = set(inspect.signature(getattr(torch.nn, name)).parameters)
    ours = set(signature(forms()[name]).parameters)
    assert theirs - ours - OLD == LACKING.get(name, set())
