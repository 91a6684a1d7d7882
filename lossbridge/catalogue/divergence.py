"""Divergences between distributions."""

from __future__ import annotations

import math
from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import attach_gradient, exp, expm1, kl_phi, log, stop_gradient, where
from lossbridge.trace import define, flag


def relative_entropy(log_q: Expr, p: Expr) -> Expr:
    """p (log(p) - log_q), and 0 where p is 0."""
    none = p == 0.0
    return where(none, 0.0, p * (log(where(none, 1.0, p)) - log_q))


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
    linear = relative_entropy(prediction, target)
    nothing = target == -math.inf
    log_p = where(nothing, 0.0, target)
    logarithmic = where(nothing, 0.0, exp(log_p) * (log_p - prediction))
    return where(log_target, logarithmic, linear)


@define(
    "generalized_kl_div@1",
    name="GeneralizedKLDivLoss",
    references=["Csiszar 1991, Why least squares and maximum entropy, section 2"],
)
def generalized_kl_div(
    prediction: Annotated[Expr, "real[*batch]"], target: Annotated[Expr, "non_negative[*batch]"]
) -> Expr:
    """Penalise log-amounts by their relative entropy from target amounts that need not sum to 1.

    target (log(target) - prediction) - target + exp(prediction), which is never negative: the
    divergence of each single amount, where that of distributions is one of their sum only.

    Edges: a target of 0 costs the predicted amount, with gradient 0 in the target.
    """
    x, y = stop_gradient(prediction), stop_gradient(target)
    amount = exp(x)
    excess = y - amount
    near = abs(excess) < 0.5 * amount
    none = y == 0.0
    # Where the predicted amount is too large a number, the divergence and its slope may not be: in
    # units of the target, that amount is exp(lead).
    beyond = (amount == math.inf) & ~none
    lead = where(beyond, x - log(where(none, 1.0, y)), 0.0)
    # Near the target the terms cancel: their sum is of second order in the excess.
    value = where(
        near,
        amount * kl_phi(where(near, excess, 0.0) / where(near, amount, 1.0)),
        where(beyond, y * (expm1(lead) - lead), relative_entropy(x, y) + (amount - y)),
    )
    surplus = where(beyond, y * expm1(lead), amount - y)
    surplus = attach_gradient(attach_gradient(surplus, prediction, exp(prediction)), target, -1.0)
    slope = where(none, 0.0, log(where(none, 1.0, target)) - prediction)
    return attach_gradient(attach_gradient(value, prediction, surplus), target, slope)
