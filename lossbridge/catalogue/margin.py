"""Margins: penalties of a score against a label of -1 or 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, TypeAlias

from lossbridge.catalogue import classification
from lossbridge.ir import Expr
from lossbridge.ops import amax, any_, exp, iota, log, maximum, mean, rename, size, sum, take, where
from lossbridge.trace import define, non_negative, positive, real

Score = Annotated[Expr, "real[*batch]"]
Sign = Annotated[Expr, "sign[*batch]"]
Scores = Annotated[Expr, "real[*batch, classes]"]
Part: TypeAlias = Callable[[Expr], Expr]


def positive_part(x: Expr) -> Expr:
    """``x`` where it is above 0, else 0; half the gradient at 0."""
    return maximum(0.0, x)


@define("hinge@1", params={"margin": real(1.0)}, references=["Cortes and Vapnik 1995, eq. 14"])
def hinge(prediction: Score, target: Sign, *, margin: Expr, part: Part = positive_part) -> Expr:
    """Penalise a score linearly that is on the wrong side of the margin.

    Edges: exactly on the margin the gradient is half of that beyond it.
    """
    return part(margin - target * prediction)


@define("soft_margin@1", references=["Friedman, Hastie and Tibshirani 2000, section 3"])
def soft_margin(prediction: Score, target: Sign) -> Expr:
    """Penalise a score by the logistic loss of its product with the label.

    Edges: linear far out; never overflows.
    """
    return log(1.0 + exp(-target * prediction))


@define(
    "hinge_embedding@1",
    params={"margin": real(1.0)},
    references=["Mobahi, Collobert and Weston 2009, section 3"],
)
def hinge_embedding(
    prediction: Score, target: Sign, *, margin: Expr, part: Part = positive_part
) -> Expr:
    """Penalise a distance that is large (label 1), or that is less than the margin (label -1).

    Edges: exactly on the margin the gradient is half of that within it.
    """
    apart = where(target > 0.0, 0.0, part(margin - prediction))
    together = where(target < 0.0, 0.0, prediction)
    return apart + together


@define(
    "margin_ranking@1",
    params={"margin": real(0.0)},
    references=["Herbrich, Graepel and Obermayer 2000, section 3"],
)
def margin_ranking(
    x1: Score, x2: Score, target: Sign, *, margin: Expr, part: Part = positive_part
) -> Expr:
    """Penalise two scores in the wrong order: label 1 wants the first higher, -1 the second.

    Edges: exactly on the margin the gradient is half of that beyond it.
    """
    return part(margin - target * (x1 - x2))


@define(
    "multi_margin@1",
    params={"p": positive(1.0), "margin": real(1.0), "weight": non_negative(1.0, "classes")},
    yields="per_sample",
    references=["Weston and Watkins 1999, eq. 3"],
)
def multi_margin(
    prediction: Scores,
    labels: Annotated[Expr, "index(classes)[*batch]"],
    *,
    p: Expr,
    margin: Expr,
    weight: Expr,
    part: Part = positive_part,
) -> Expr:
    """Penalise every class whose score is not below the labelled one's by the margin.

    The sum of the shortfalls' powers ``p`` over the other classes, divided by the number of all
    classes; the labelled class's weight weighs it, and does not enter the divisor of the mean.

    Edges: exactly on the margin the gradient with ``p=1`` is half of that beyond it.
    """
    own = take(prediction, labels, "classes")
    short = part(margin - (own - prediction))
    others = where(iota(prediction, "classes") == labels, 0.0, short**p)
    return take(weight, labels, "classes") * mean(others, "classes")


@define(
    "multi_label_margin@1",
    yields="per_sample",
    references=["Elisseeff and Weston 2001, section 3"],
)
def multi_label_margin(
    prediction: Scores,
    target: Annotated[Expr, "integer[*batch, positions]"],
    *,
    part: Part = positive_part,
) -> Expr:
    """Penalise every class outside a set whose score is not 1 below that of each one inside.

    ``target`` lists the classes of the set, up to the first negative number. The shortfalls are
    summed over all pairs and divided by the number of classes; a class listed twice counts twice.

    Edges: exactly on the margin the gradient is half of that beyond it; an empty set costs 0.
    """
    ends = rename(target, "positions", "earlier") < 0
    before = iota(prediction, "earlier") <= iota(prediction, "positions")
    listed = ~any_(ends & before, "earlier")
    inside = any_(listed & (target == iota(prediction, "classes")), "positions")
    own = take(prediction, where(listed, target, 0), "classes")
    short = where(listed & ~inside, part(1.0 - (own - prediction)), 0.0)
    return sum(short, "positions", "classes") / size(prediction, "classes")


@define(
    "multi_label_soft_margin@1",
    params={"weight": non_negative(1.0, "classes")},
    yields="per_sample",
    axis=-1,
    references=["Nam et al. 2014, eq. 5"],
)
def multi_label_soft_margin(
    logits: Scores,
    target: Annotated[Expr, "probability[*batch, classes]"],
    *,
    weight: Expr,
) -> Expr:
    """Penalise the logits of several yes-or-no labels by the mean of their cross-entropies.

    Class weights weigh each label's term and do not enter the divisor.

    Edges: exact in value and gradient however confident the logits are.
    """
    nll = classification.bce_with_logits.function(logits, target, weight=1.0, pos_weight=1.0)
    return mean(weight * nll, "classes")


@define(
    "squared_hinge@1",
    params={"margin": real(1.0)},
    references=["Lee and Mangasarian 2001, SSVM, section 2"],
)
def squared_hinge(
    prediction: Score, target: Sign, *, margin: Expr, part: Part = positive_part
) -> Expr:
    """Penalise a score quadratically that is on the wrong side of the margin.

    Edges: exactly on the margin value and gradient are 0.
    """
    short: Expr = hinge.function(prediction, target, margin=margin, part=part)
    return short**2


@define(
    "multiclass_hinge@1",
    params={"margin": real(1.0)},
    yields="per_sample",
    references=["Crammer and Singer 2001, section 3"],
)
def multiclass_hinge(
    prediction: Scores,
    labels: Annotated[Expr, "index(classes)[*batch]"],
    *,
    margin: Expr,
    part: Part = positive_part,
) -> Expr:
    """Penalise the best score among the other classes that is not below the labelled one's.

    The labelled class should lead all others by ``margin``; only the largest shortfall counts.

    Edges: exactly on the margin the gradient is half of that beyond it; other classes that tie
    share it evenly.
    """
    own = take(prediction, labels, "classes")
    # As in the perceptron, the best is chosen before it is compared, so that none ties by rounding.
    rivals = where(iota(prediction, "classes") == labels, -math.inf, prediction)
    return part((amax(rivals, "classes") - own) + margin)


@define("perceptron@1", references=["Rosenblatt 1958; Bishop 2006, eq. 4.54"])
def perceptron(prediction: Score, target: Sign, *, part: Part = positive_part) -> Expr:
    """Penalise a score linearly that has the wrong sign.

    Edges: at a score of 0 the gradient is half of that on the wrong side.
    """
    value: Expr = hinge.function(prediction, target, margin=0.0, part=part)
    return value


@define(
    "multiclass_perceptron@1",
    yields="per_sample",
    references=["Collins 2002, Discriminative training methods, section 2"],
)
def multiclass_perceptron(
    prediction: Scores, labels: Annotated[Expr, "index(classes)[*batch]"]
) -> Expr:
    """Penalise the best class's score by how far it is above the labelled one's.

    Edges: classes that tie for the best score share the gradient evenly.
    """
    # Not the largest difference: beside an own score of -7e19 all others would tie.
    return amax(prediction, "classes") - take(prediction, labels, "classes")
