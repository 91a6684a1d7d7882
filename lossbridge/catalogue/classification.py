"""Classification: penalties of a probability, or of the logits behind it."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import log, log_softmax, log1p, sigmoid, size, softmax, sum, take, where
from lossbridge.trace import define, integer, non_negative, probability, real

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
) -> Expr:
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
    spread = -sum(weight * log_p, "classes") / size(logits, "classes")
    smooth = (1.0 - label_smoothing) * nll + label_smoothing * spread
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
