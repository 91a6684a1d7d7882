"""keras.losses: what each of its losses means. Source: Keras 3.15.1, `keras/src/losses/`."""

from __future__ import annotations

from typing import Any

from lossbridge.catalogue import regression
from lossbridge.trace import Definition
from lossbridge.witnesses.witness import Meaning, averaged, meaning, option, witness

REDUCTIONS = {
    "sum_over_batch_size": ("mean", "elements"),
    "mean": ("mean", "elements"),
    "mean_with_sample_weight": ("mean", "weights"),
    "sum": ("sum", "elements"),
    "none": ("none", "elements"),
    None: ("none", "elements"),
}


def keras_meaning(*definitions: Definition, reduction: str | None, **params: Any) -> Meaning:
    """Losses under one of Keras's reductions; a mean over nothing is 0."""
    option("reduction", reduction, tuple(REDUCTIONS))
    kind, normalizer = REDUCTIONS[reduction]
    return meaning(*definitions, reduction=kind, normalizer=normalizer, empty="zero", **params)


@witness("keras.losses.Huber")
def huber(
    delta: float = 1.0,
    reduction: str | None = "sum_over_batch_size",
    name: str = "huber_loss",
    dtype: Any = None,
) -> Meaning:
    return keras_meaning(averaged(regression.huber), delta=delta, reduction=reduction)
