"""Regression: penalties of an error, element by element."""

from __future__ import annotations

import math
from typing import Annotated

from lossbridge.catalogue import divergence
from lossbridge.ir import Expr
from lossbridge.ops import (
    attach_gradient,
    compare,
    cosh,
    exp,
    kl_phi,
    log,
    log1p,
    maximum,
    restate,
    stop_gradient,
    where,
)
from lossbridge.trace import define, flag, non_negative, positive

Real = Annotated[Expr, "real[*batch]"]


@define("mse@1", name="MSELoss", references=["Gauss 1809, Theoria motus, section 179"])
def mse(prediction: Real, target: Real) -> Expr:
    """Penalise the squared error.

    Edges: a squared error beyond the largest number of the dtype is inf.
    """
    return (prediction - target) ** 2


@define("l1@1", name="L1Loss", references=["Laplace 1774, probability of causes of events"])
def l1(prediction: Real, target: Real) -> Expr:
    """Penalise the absolute error.

    Edges: the gradient is 0 where prediction and target are equal.
    """
    return abs(prediction - target)


@define("huber@1", params={"delta": positive(1.0)}, references=["Huber 1964, eq. 3.5"])
def huber(prediction: Real, target: Real, *, delta: Expr) -> Expr:
    """Penalise the error quadratically within ``delta`` of zero, and linearly beyond.

    Edges: at an error of ``delta`` both branches have the gradient ``delta``.
    """
    error = abs(prediction - target)
    return where(error <= delta, 0.5 * error**2, delta * (error - 0.5 * delta))


@define("smooth_l1@1", params={"beta": non_negative(1.0)}, references=["Girshick 2015, eq. 3"])
def smooth_l1(prediction: Real, target: Real, *, beta: Expr) -> Expr:
    """Penalise the error linearly, and quadratically within ``beta`` of zero.

    Edges: ``beta=0`` is the absolute error, with gradient 0 at 0.
    """
    error = abs(prediction - target)
    return where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


@define("log_cosh@1", references=["Green 1990, Bayesian reconstructions, section II"])
def log_cosh(prediction: Real, target: Real) -> Expr:
    """Penalise the error quadratically near zero and linearly far out, smoothly between.

    Edges: the value is even and the gradient tanh of the error, never beyond -1 and 1.
    """
    return log(cosh(prediction - target))


def deviance(rate: Expr, target: Expr) -> Expr:
    """target log(target / rate) - target + rate, whose terms cancel where the two are close."""
    x, y = stop_gradient(rate), stop_gradient(target)
    excess, ratio = (y - x) / x, y / x
    # Up to where rate times the function of the ratio would be a product of inf and 0.
    moderate = excess < 1e30
    log_ratio = where(ratio == math.inf, log(y) - log(x), log(ratio))
    value = where(moderate, x * kl_phi(where(moderate, excess, 0.0)), y * log_ratio + (x - y))
    close = abs(excess) < 0.5
    slope = where(
        close,
        log1p(where(close, (target - rate) / rate, 0.0)),
        attach_gradient(attach_gradient(log_ratio, target, 1.0 / target), rate, -1.0 / rate),
    )
    return attach_gradient(attach_gradient(value, rate, 1.0 - target / rate), target, slope)


@define(
    "poisson_nll@1",
    name="PoissonNLLLoss",
    params={"log_input": flag(True), "full": flag(False), "eps": positive(1e-8)},
    references=["Cameron and Trivedi 2013, section 3.2; Stirling 1730 for the full form"],
)
def poisson_nll(
    prediction: Real,
    target: Annotated[Expr, "non_negative[*batch]"],
    *,
    log_input: Expr,
    full: Expr,
    eps: Expr,
) -> Expr:
    """Penalise a rate by the negative log-likelihood of counts under a Poisson distribution.

    ``prediction`` is the log of the rate, or with ``log_input=False`` the rate, to which ``eps`` is
    added inside the logarithm. ``full`` adds Stirling's approximation of log(target!) for targets
    above 1.

    Edges: the value is -inf or inf where the exponential or the product overflows.
    """
    shifted = prediction + eps
    nll = where(
        log_input, exp(prediction) - target * prediction, prediction - target * log(shifted)
    )
    # Stirling's target log(target) - target cancels against the rest where the rate is right.
    above: Expr = where(
        log_input,
        divergence.generalized_kl_div.function(prediction, target),
        deviance(shifted, target) - eps,
    )
    whole = above + (0.5 * log(maximum(target, 1.0)) + 0.5 * math.log(2.0 * math.pi))
    return where(full & (target > 1.0), whole, nll)


@define(
    "gaussian_nll@1",
    name="GaussianNLLLoss",
    params={"full": flag(False), "eps": positive(1e-6)},
    references=["Nix and Weigend 1994, eq. 4"],
)
def gaussian_nll(
    prediction: Real,
    target: Real,
    var: Annotated[Expr, "non_negative[*batch]"],
    *,
    full: Expr,
    eps: Expr,
) -> Expr:
    """Penalise a mean and a variance by the negative log-likelihood of a Gaussian target.

    ``var`` below ``eps`` counts as ``eps``; ``full`` adds the constant log(2 pi) / 2.

    Edges: below ``eps`` the variance has no gradient.
    """
    v = maximum(var, eps)
    error = prediction - target
    nll = 0.5 * (log(v) + error**2 / v)
    return where(full, nll + 0.5 * math.log(2.0 * math.pi), nll)


Amount = Annotated[Expr, "non_negative[*batch]"]


@define(
    "mape@1",
    name="MAPELoss",
    params={"eps": positive(1e-7)},
    references=["Makridakis 1993, Accuracy measures, section 2"],
)
def mape(prediction: Real, target: Real, *, eps: Expr) -> Expr:
    """Penalise the absolute error in per cent of the target's size.

    A target smaller than ``eps`` counts as of size ``eps``.

    Edges: the gradient is 0 where prediction and target are equal; a target of size ``eps`` still
    has the gradient of its size.
    """
    known = abs(target) >= eps
    ratio = prediction / where(known, target, 1.0)
    error = abs(prediction - target)
    # The difference of opposite signs may overflow. The slope in the target is that of the ratio:
    # that of the quotient is a difference, which cancels.
    share = where(known & (ratio < 0.0), 1.0 - ratio, error / where(known, abs(target), eps))
    side = compare(prediction, target) * compare(target, 0.0)
    return 100.0 * restate(share, where(known, side * ratio, error / eps))


@define(
    "msle@1", name="MSLELoss", references=["Tofallis 2015, on the logarithm of the accuracy ratio"]
)
def msle(prediction: Amount, target: Amount) -> Expr:
    """Penalise the squared difference of the logarithms of 1 + amount.

    The difference is taken as the logarithm of the larger over the smaller, which does not cancel.

    Edges: the value and the gradient of a true prediction are 0; amounts of -1 are out of bounds.
    """
    above = log1p((prediction - target) / (1.0 + target))
    below = log1p((target - prediction) / (1.0 + prediction))
    return where(prediction >= target, above, below) ** 2
