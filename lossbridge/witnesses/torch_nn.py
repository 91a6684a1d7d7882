"""torch.nn: what each of its losses means. Source: torch 2.13.0, `torch/nn/modules/loss.py`."""

from __future__ import annotations

from typing import Any

from lossbridge.catalogue import classification, regression
from lossbridge.witnesses.witness import Meaning, meaning, option, witness

REDUCTIONS = ("none", "mean", "sum")


def reduced(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> str:
    """The reduction, the two arguments of old releases heard first."""
    if size_average is not None or reduce is not None:
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    return str(option("reduction", reduction, REDUCTIONS))


@witness("torch.nn.MSELoss")
def mse(
    size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> Meaning:
    return meaning(regression.mse, reduction=reduced(reduction, size_average, reduce))


@witness("torch.nn.HuberLoss")
def huber(reduction: str = "mean", delta: float = 1.0) -> Meaning:
    return meaning(regression.huber, delta=delta, reduction=reduced(reduction))


@witness("torch.nn.CrossEntropyLoss")
def cross_entropy(
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Meaning:
    return meaning(
        classification.cross_entropy,
        classification.cross_entropy_probabilities,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduced(reduction, size_average, reduce),
        axis=1,
    )
