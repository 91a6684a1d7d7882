"""Divergences between distributions."""

from __future__ import annotations

import math
from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import exp, log, where
from lossbridge.trace import define, flag


@define(
    "kl_div@1",
    name="KLDivLoss",
    params={"log_target": flag(False)},
    references=["Kullback and Leibler 1951, eq. 2.3"],
)
def kl_div(
    prediction: Annotated[Expr, "real[*batch]"],
    target: Annotated[Expr, "real[*batch]"],
    *,
    log_target: Expr,
) -> Expr:
    """Penalise log-probabilities by their relative entropy from a target distribution.

    ``prediction`` holds log-probabilities, ``target`` probabilities, or with ``log_target`` their
    logarithms. The mean over ``batch`` (``normalizer="batch"``) is the divergence itself.

    Edges: a target probability of 0 contributes 0, with gradient 0.
    """
    none = target == 0.0
    linear = where(none, 0.0, target * (log(where(none, 1.0, target)) - prediction))
    nothing = target == -math.inf
    log_p = where(nothing, 0.0, target)
    logarithmic = where(nothing, 0.0, exp(log_p) * (log_p - prediction))
    return where(log_target, logarithmic, linear)
