"""What all runs share: the data and its weights, the start, and how a run is measured."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

CLASSES, HIDDEN, BATCH, EPOCHS = 10, 32, 64, 30
RATE, MOMENTUM, SMOOTHING = 0.05, 0.9, 0.1


def _data() -> tuple[np.ndarray, ...]:
    """Digits of which the higher ones are rare; a quarter was labelled in haste, often wrongly.

    Already shuffled: all runs take the batches in this order, in every epoch.
    """
    rng = np.random.default_rng(0)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    pixels, labels = digits.data[order], digits.target[order]
    kept = rng.random(len(labels)) < 1.0 / (1.0 + labels)
    pixels, labels = pixels[kept], labels[kept]
    hasty = rng.random(len(labels)) < 0.25
    wrong = hasty & (rng.random(len(labels)) < 0.3)
    labels = np.where(wrong, rng.integers(0, CLASSES, len(labels)), labels)
    trust = np.where(hasty, 0.2, 1.0)
    return (pixels / 16.0).astype("float32"), labels, trust.astype("float32")


PIXELS, LABELS, TRUST = _data()
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
CLASS_WEIGHT = (len(LABELS) / (CLASSES * np.bincount(LABELS))).astype("float32")  # "balanced"


def start() -> list[np.ndarray]:
    """Kernel, bias, kernel, bias of 64-32-10, as Keras would have drawn them."""
    rng = np.random.default_rng(1)
    found = []
    for rows, columns in ((PIXELS.shape[1], HIDDEN), (HIDDEN, CLASSES)):
        limit = np.sqrt(6.0 / (rows + columns))
        found.append(rng.uniform(-limit, limit, (rows, columns)).astype("float32"))
        found.append(np.zeros(columns, "float32"))
    return found


def training_loss(parameters: list[np.ndarray]) -> float:
    """What Keras minimises, over all the training data, in float64, whoever trained."""
    first, first_bias, second, second_bias = (np.asarray(p, np.float64) for p in parameters)
    logits = np.maximum(PIXELS @ first + first_bias, 0.0) @ second + second_bias
    logits = logits - logits.max(axis=1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = (1.0 - SMOOTHING) * ONE_HOT + SMOOTHING / CLASSES
    weight = CLASS_WEIGHT[LABELS] * TRUST
    return float(np.mean(weight * -(target * log_probs).sum(axis=1)))
