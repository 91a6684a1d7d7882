"""Classification: penalties of a probability, or of the logits behind it."""

from __future__ import annotations

import math
from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import (
    attach_gradient,
    log,
    log_softmax,
    maximum,
    sigmoid,
    size,
    softmax,
    stop_gradient,
    sum,
    take,
    where,
)
from lossbridge.trace import define, integer, non_negative, probability

Logits = Annotated[Expr, "real[*batch, classes]"]
Labels = Annotated[Expr, "index(classes)[*batch]"]


@define(
    "bce_with_logits@1",
    name="BCEWithLogitsLoss",
    params={"pos_weight": non_negative(1.0, "*batch")},
    references=["Good 1952, Rational decisions"],
)
def bce_with_logits(
    logits: Annotated[Expr, "real[*batch]"],
    target: Annotated[Expr, "probability[*batch]"],
    *,
    pos_weight: Expr,
) -> Expr:
    """Penalise the logit of a yes-or-no probability by cross-entropy.

    ``pos_weight`` weighs the positive part.

    Edges: exact in value and gradient however confident the logit is.
    """
    p = sigmoid(logits)
    return -(pos_weight * target * log(p) + (1.0 - target) * log(1.0 - p))


@define(
    "cross_entropy@1",
    params={
        "weight": non_negative(1.0, "classes"),
        "ignore_index": integer(-100),
        "label_smoothing": probability(0.0),
    },
    yields="per_sample",
    normalizer="weights",
    references=["Szegedy et al. 2016, section 7, for label smoothing"],
)
def cross_entropy(
    logits: Logits, labels: Labels, *, weight: Expr, ignore_index: Expr, label_smoothing: Expr
) -> tuple[Expr, Expr]:
    """Penalise the negative log-probability of the labelled class.

    Class weights weigh each class's term, inside the label smoothing too, and enter the divisor of
    the mean; samples labelled ``ignore_index`` do not count.

    Edges: exact in value and gradient however confident the logits are.
    """
    counted = labels != ignore_index
    label = where(counted, labels, 0)
    log_p = log_softmax(logits, "classes")
    own = take(weight, label, "classes")
    nll = -own * take(log_p, label, "classes")
    share = label_smoothing / size(logits, "classes")
    smooth = (1.0 - label_smoothing) * nll - sum(weight * (share * log_p), "classes")
    value = where(label_smoothing > 0.0, smooth, nll)
    return where(counted, value, 0.0), where(counted, own, 0.0)


@define(
    "focal@1",
    params={"gamma": non_negative(2.0)},
    yields="per_sample",
    references=["Lin et al. 2017, eq. 5"],
)
def focal(logits: Logits, labels: Labels, *, gamma: Expr) -> Expr:
    """Penalise unlikely classes, and down-weight those already well classified.

    Edges: exact however confident the logits are; ``gamma=0`` is cross-entropy.
    """
    p = take(softmax(logits, "classes"), labels, "classes")
    return -((1.0 - p) ** gamma) * log(p)


@define(
    "cross_entropy_probabilities@1",
    name="CrossEntropyLoss",
    params={"weight": non_negative(1.0, "classes"), "label_smoothing": probability(0.0)},
    yields="per_sample",
    normalizer="weights",
    references=["Szegedy et al. 2016, section 7, for label smoothing"],
)
def cross_entropy_probabilities(
    logits: Logits,
    target: Annotated[Expr, "simplex(classes)[*batch, classes]"],
    *,
    weight: Expr,
    label_smoothing: Expr,
) -> Expr:
    """Penalise logits by the cross-entropy from a target distribution.

    Class weights weigh each class's term and do not enter the divisor of the mean.

    Edges: a class of target probability 0 contributes 0, even at a logit of -inf.
    """
    smooth = (1.0 - label_smoothing) * target + label_smoothing / size(logits, "classes")
    t = where(label_smoothing > 0.0, smooth, target)
    log_p = log_softmax(logits, "classes")
    possible = where((t == 0.0) & (log_p == -math.inf), 0.0, log_p)
    return -sum(weight * (t * possible), "classes")


@define(
    "nll@1",
    name="NLLLoss",
    params={"weight": non_negative(1.0, "classes"), "ignore_index": integer(-100)},
    yields="per_sample",
    normalizer="weights",
    references=["Good 1952, Rational decisions"],
)
def nll(
    log_probs: Annotated[Expr, "real[*batch, classes]"],
    labels: Labels,
    *,
    weight: Expr,
    ignore_index: Expr,
) -> tuple[Expr, Expr]:
    """Penalise the given log-probability of the labelled class.

    Class weights enter the divisor of the mean; samples labelled ``ignore_index`` do not count.

    Edges: log-probabilities are taken as they are, normalised or not.
    """
    counted = labels != ignore_index
    label = where(counted, labels, 0)
    own = take(weight, label, "classes")
    value = -own * take(log_probs, label, "classes")
    return where(counted, value, 0.0), where(counted, own, 0.0)


@define(
    "bce@1",
    name="BCELoss",
    params={"weight": non_negative(1.0, "*batch")},
    references=["Good 1952, Rational decisions; the limits are those of torch.nn.BCELoss"],
)
def bce(
    prediction: Annotated[Expr, "probability[*batch]"],
    target: Annotated[Expr, "probability[*batch]"],
    *,
    weight: Expr,
) -> Expr:
    """Penalise a yes-or-no probability by cross-entropy; prefer the form that takes logits.

    Logarithms are held at -100 from below, and the gradient's denominator p (1 - p) at 1e-12, so
    that a wrong certainty costs 100 and still has a gradient.

    Edges: at a prediction of 0 with target 1 the value is 100 and the gradient -1e12.
    """
    p = stop_gradient(prediction)
    value = -(target * maximum(log(p), -100.0) + (1.0 - target) * maximum(log(1.0 - p), -100.0))
    slope = (prediction - target) / maximum(prediction * (1.0 - prediction), 1e-12)
    return weight * attach_gradient(value, prediction, slope)


@define(
    "binary_focal@1",
    params={"alpha": probability(0.25), "gamma": non_negative(2.0)},
    references=["Lin et al. 2017, eq. 5"],
)
def binary_focal(
    logits: Annotated[Expr, "real[*batch]"],
    target: Annotated[Expr, "probability[*batch]"],
    *,
    alpha: Expr,
    gamma: Expr,
) -> Expr:
    """Penalise the logit of a yes-or-no probability, and down-weight what is already right.

    ``alpha`` weighs the positive part and ``1 - alpha`` the negative.

    Edges: exact however confident the logit is; a soft target mixes both parts linearly.
    """
    p = sigmoid(logits)
    positive = alpha * target * (1.0 - p) ** gamma * log(p)
    negative = (1.0 - alpha) * (1.0 - target) * p**gamma * log(1.0 - p)
    return -(positive + negative)
