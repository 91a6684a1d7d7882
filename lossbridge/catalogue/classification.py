"""Classification: penalties of a probability, or of the logits behind it."""

from __future__ import annotations

import math
from typing import Annotated

from lossbridge.ir import Expr, Operand
from lossbridge.kinds import Kind
from lossbridge.ops import (
    attach_gradient,
    dot,
    expm1,
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
from lossbridge.spec import Weight
from lossbridge.trace import define, integer, non_negative, positive, probability

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
    safe: bool = True,
) -> Expr:
    """Penalise logits by the cross-entropy from a target distribution.

    Class weights weigh each class's term and do not enter the divisor of the mean.

    Edges: a class of target probability 0 contributes 0, even at a logit of -inf.
    """
    smooth = (1.0 - label_smoothing) * target + label_smoothing / size(logits, "classes")
    t = where(label_smoothing > 0.0, smooth, target)
    log_p = log_softmax(logits, "classes")
    possible = where((t == 0.0) & (log_p == -math.inf), 0.0, log_p) if safe else log_p
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
    floor: float = 1e-12,
) -> Expr:
    """Penalise a yes-or-no probability by cross-entropy; prefer the form that takes logits.

    Logarithms are held at -100 from below, and the gradient's denominator p (1 - p) at 1e-12, so
    that a wrong certainty costs 100 and still has a gradient.

    Edges: at a prediction of 0 with target 1 the value is 100 and the gradient -1e12.
    """
    p, y = stop_gradient(prediction), stop_gradient(target)
    yes, no = maximum(log(p), -100.0), maximum(log(1.0 - p), -100.0)
    value = -(y * yes + (1.0 - y) * no)
    spread = maximum(prediction * (1.0 - prediction), floor)
    slope = (prediction - target) / spread
    # The target's own gradient, stated with its derivative, so that second derivatives are right.
    odds = attach_gradient(no - yes, prediction, -1.0 / spread)
    return weight * attach_gradient(attach_gradient(value, prediction, slope), target, odds)


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


LINEAR = {
    "linear_weight": Weight(
        Kind.parse("real[features, classes]"),
        "glorot_uniform",
        {"features": "in_features", "classes": "num_classes"},
    )
}


@define(
    "linear_cross_entropy@1",
    params=cross_entropy.params,
    weights=LINEAR,
    yields="per_sample",
    normalizer="weights",
    references=["Wijmans et al. 2025, section 3"],
)
def linear_cross_entropy(
    embeddings: Annotated[Expr, "real[*batch, features]"],
    labels: Labels,
    *,
    linear_weight: Expr,
    weight: Expr,
    ignore_index: Expr,
    label_smoothing: Expr,
) -> tuple[Expr, Expr]:
    """Penalise a linear classifier, whose weights the loss owns, by its cross-entropy.

    The logits are the products of the embedding with each class's weights; then as cross-entropy.

    Edges: those of cross-entropy.
    """
    logits = dot(embeddings, linear_weight, "features")
    found: tuple[Expr, Expr] = cross_entropy.function(
        logits, labels, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    return found


@define(
    "linear_cross_entropy_probabilities@1",
    name="LinearCrossEntropyLoss",
    params=cross_entropy_probabilities.params,
    weights=LINEAR,
    yields="per_sample",
    normalizer="weights",
    references=["Wijmans et al. 2025, section 3"],
)
def linear_cross_entropy_probabilities(
    embeddings: Annotated[Expr, "real[*batch, features]"],
    target: Annotated[Expr, "simplex(classes)[*batch, classes]"],
    *,
    linear_weight: Expr,
    weight: Expr,
    label_smoothing: Expr,
) -> Expr:
    """Penalise a linear classifier by its cross-entropy from a target distribution.

    Edges: those of cross-entropy.
    """
    logits = dot(embeddings, linear_weight, "features")
    value: Expr = cross_entropy_probabilities.function(
        logits, target, weight=weight, label_smoothing=label_smoothing
    )
    return value


def focal_terms(target: Expr, p: Expr, gamma: Operand) -> Expr:
    """What each class contributes to the focal loss of a target distribution."""
    return -target * (1.0 - p) ** gamma * log(p)


@define(
    "focal_probabilities@1",
    name="FocalLoss",
    params={"gamma": non_negative(2.0)},
    yields="per_sample",
    references=["Lin et al. 2017, eq. 5"],
)
def focal_probabilities(
    logits: Logits,
    target: Annotated[Expr, "simplex(classes)[*batch, classes]"],
    *,
    gamma: Expr,
) -> Expr:
    """Penalise unlikely classes of a target distribution, and down-weight those well classified.

    Edges: exact however confident the logits are; ``gamma=0`` is cross-entropy.
    """
    return sum(focal_terms(target, softmax(logits, "classes"), gamma), "classes")


@define(
    "generalized_cross_entropy@1",
    params={"q": positive(0.7)},
    yields="per_sample",
    references=["Zhang and Sabuncu 2018, eq. 6"],
)
def generalized_cross_entropy(logits: Logits, labels: Labels, *, q: Expr) -> Expr:
    """Penalise the labelled class's missing probability, less than cross-entropy where it is large.

    (1 - p**q) / q tends to cross-entropy for ``q`` towards 0 and is the mean absolute error at 1,
    which mislabelled samples disturb least.

    Edges: exact however confident the logits are; never beyond 1 / q.
    """
    log_p = take(log_softmax(logits, "classes"), labels, "classes")
    return -expm1(q * log_p) / q
