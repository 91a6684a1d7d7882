"""Classification: penalties of a probability, or of the logits behind it."""

from __future__ import annotations

import math
from typing import Annotated

from lossbridge.ir import Expr, Operand
from lossbridge.kinds import Kind
from lossbridge.ops import (
    apply,
    attach_gradient,
    dot,
    expm1,
    indicator,
    iota,
    kl_phi,
    log,
    log_softmax,
    maximum,
    rename,
    sigmoid,
    size,
    softmax,
    stop_gradient,
    sum,
    take,
    weigh,
    where,
)
from lossbridge.spec import Weight
from lossbridge.trace import define, integer, non_negative, positive, probability, real

Logits = Annotated[Expr, "real[*batch, classes]"]
Labels = Annotated[Expr, "index(classes)[*batch]"]


def both_ways(positive: Expr, negative: Expr, p: Expr) -> Expr:
    """The log-probabilities of yes and of no, weighed by how much each is meant."""
    return weigh(positive, log(p)) + weigh(negative, log(1.0 - p))


@define(
    "bce_with_logits@1",
    name="BCEWithLogitsLoss",
    params={"weight": non_negative(1.0, "*batch"), "pos_weight": non_negative(1.0, "*batch")},
    references=["Good 1952, Rational decisions"],
)
def bce_with_logits(
    logits: Annotated[Expr, "real[*batch]"],
    target: Annotated[Expr, "probability[*batch]"],
    *,
    weight: Expr,
    pos_weight: Expr,
) -> Expr:
    """Penalise the logit of a yes-or-no probability by cross-entropy.

    ``weight`` weighs each element and does not enter the divisor of the mean; ``pos_weight`` weighs
    the positive part. Both may lack leading axes, as one weight for each label does.

    Edges: exact in value and gradient however confident the logit is; an infinite one that is right
    costs 0, with gradient 0.
    """
    p = sigmoid(logits)
    positive, negative = pos_weight * target, 1.0 - target
    return -weigh(weight, both_ways(positive, negative, p))


@define(
    "cross_entropy@1",
    params={
        "weight": non_negative(1.0, "classes"),
        "ignore_index": integer(-100),
        "label_smoothing": probability(0.0),
    },
    yields="per_sample",
    normalizer="counts",
    references=["Szegedy et al. 2016, section 7, for label smoothing"],
)
def cross_entropy(
    logits: Logits, labels: Labels, *, weight: Expr, ignore_index: Expr, label_smoothing: Expr
) -> tuple[Expr, Expr]:
    """Penalise the negative log-probability of the labelled class.

    Class weights weigh each class's term, inside the label smoothing too, and enter the divisor of
    the mean; samples labelled ``ignore_index`` do not count.

    Edges: exact in value and gradient however confident the logits are. Class weights may be as
    large as numbers get; below 1.2e-38 TensorFlow and XLA take them for 0.
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


def focal_of_label(logits: Expr, label: Expr, gamma: Operand) -> Expr:
    """The focal loss of the labelled class; without focus, cross-entropy."""
    p = take(softmax(logits, "classes"), label, "classes")
    return -((1.0 - p) ** gamma) * log(p)


@define(
    "focal@1",
    params={
        "gamma": non_negative(2.0),
        "alpha": non_negative(1.0, "classes"),
        "weight": non_negative(1.0, "classes"),
        "ignore_index": integer(-100),
    },
    yields="per_sample",
    normalizer="counts",
    references=["Lin et al. 2017, eq. 5"],
)
def focal(
    logits: Logits,
    labels: Labels,
    *,
    gamma: Expr,
    alpha: Expr,
    weight: Expr,
    ignore_index: Expr,
) -> tuple[Expr, Expr]:
    """Penalise unlikely classes, and down-weight those already well classified.

    ``alpha``, a number or one for each class, multiplies the term of the labelled class and does
    not enter the divisor of the mean, as in the paper; what the paper calls alpha, of two classes,
    is ``alpha=[1 - a, a]``. ``weight`` are class weights as cross-entropy has them, which multiply
    too and do enter the divisor. Samples labelled ``ignore_index`` do not count.

    Edges: exact however confident the logits are; ``gamma=0`` is cross-entropy.
    """
    counted = labels != ignore_index
    label = where(counted, labels, 0)
    own = take(weight, label, "classes")
    value = take(alpha, label, "classes") * own * focal_of_label(logits, label, gamma)
    return where(counted, value, 0.0), where(counted, own, 0.0)


def smoothed(target: Expr, share: Operand, classes: Operand) -> Expr:
    """A distribution, a share of which is spread evenly over its classes."""
    return (1.0 - share) * target + share / classes


def expected_nll(
    log_p: Expr, target: Expr, *axes: str, weight: Operand | None = None, safe: bool = True
) -> Expr:
    """The negative log-probabilities of classes, weighed by a target: 0 times infinity is 0.

    Where it is not ``safe`` that is NaN, as other libraries have it.
    """
    terms = weigh(target, log_p)
    if not safe:
        terms = terms + where((target == 0.0) & (log_p == -math.inf), math.nan, 0.0)
    return -sum(terms if weight is None else weight * terms, *axes)


@define(
    "cross_entropy_probabilities@1",
    name="CrossEntropyLoss",
    params={"weight": non_negative(1.0, "classes"), "label_smoothing": probability(0.0)},
    yields="per_sample",
    normalizer="counts",
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
    smooth = smoothed(target, label_smoothing, size(logits, "classes"))
    t = where(label_smoothing > 0.0, smooth, target)
    return expected_nll(log_softmax(logits, "classes"), t, "classes", weight=weight, safe=safe)


@define(
    "nll@1",
    name="NLLLoss",
    params={"weight": non_negative(1.0, "classes"), "ignore_index": integer(-100)},
    yields="per_sample",
    normalizer="counts",
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

    Edges: exact however confident the logit is, and 0 where an infinite one is right; a soft target
    mixes both parts linearly.
    """
    p = sigmoid(logits)
    positive = alpha * target * (1.0 - p) ** gamma
    negative = (1.0 - alpha) * (1.0 - target) * p**gamma
    return -both_ways(positive, negative, p)


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
    normalizer="counts",
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
    normalizer="counts",
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
    return -weigh(target * (1.0 - p) ** gamma, log(p))


@define(
    "focal_probabilities@1",
    name="FocalLoss",
    params={
        "gamma": non_negative(2.0),
        "alpha": non_negative(1.0, "classes"),
        "weight": non_negative(1.0, "classes"),
    },
    yields="per_sample",
    normalizer="counts",
    references=["Lin et al. 2017, eq. 5"],
)
def focal_probabilities(
    logits: Logits,
    target: Annotated[Expr, "simplex(classes)[*batch, classes]"],
    *,
    gamma: Expr,
    alpha: Expr,
    weight: Expr,
) -> Expr:
    """Penalise unlikely classes of a target distribution, and down-weight those well classified.

    ``alpha`` and ``weight`` multiply the term of each class and do not enter the divisor.

    Edges: exact however confident the logits are; ``gamma=0`` is cross-entropy.
    """
    terms = focal_terms(target, softmax(logits, "classes"), gamma)
    return sum(alpha * weight * terms, "classes")


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


Distribution = Annotated[Expr, "simplex(classes)[*batch, classes]"]


@define(
    "poly_cross_entropy@1",
    params={"epsilon": real(2.0)},
    yields="per_sample",
    references=["Leng et al. 2022, PolyLoss, eq. 7"],
)
def poly_cross_entropy(logits: Logits, target: Distribution, *, epsilon: Expr) -> Expr:
    """Penalise logits by cross-entropy, the first term of whose power series weighs more.

    ``epsilon`` is added to the coefficient of 1 - p, which is 1 in cross-entropy.

    Edges: exact however confident the logits are; ``epsilon=0`` is cross-entropy.
    """
    log_p, p = log_softmax(logits, "classes"), softmax(logits, "classes")
    likely, q = p > 0.5, 1.0 - p
    # With epsilon near -1 the first terms of the two series cancel where 1 - p is small. Without
    # them, -log(p) is p kl_phi(q / p) + q.
    rest = p * kl_phi(where(likely, q / where(likely, p, 1.0), 0.0))
    value = where(likely, rest + (1.0 + epsilon) * q, epsilon * q - log_p)
    slope = where(likely, (1.0 + epsilon) - epsilon * q, 1.0 + epsilon * p)
    shrunk = attach_gradient(-stop_gradient(value), log_p, slope)
    return expected_nll(shrunk, target, "classes")


@define(
    "ranking_softmax@1",
    params={"weight": non_negative(1.0, "*batch, classes")},
    yields="per_sample",
    references=["Cao et al. 2007, Learning to rank, eq. 8"],
)
def ranking_softmax(
    logits: Logits, target: Annotated[Expr, "non_negative[*batch, classes]"], *, weight: Expr
) -> Expr:
    """Penalise a list's scores by the cross-entropy of its softmax from the items' relevance.

    The items lie along the axis of the classes; relevances need not sum to 1, and ``weight`` weighs
    each item's.

    Edges: an item of relevance 0 contributes 0, even at a score of -inf.
    """
    return expected_nll(log_softmax(logits, "classes"), weight * target, "classes")


@define(
    "binary_sparsemax@1",
    references=["Blondel, Martins and Niculae 2020, section 4.4"],
)
def binary_sparsemax(
    logits: Annotated[Expr, "real[*batch]"], target: Annotated[Expr, "binary[*batch]"]
) -> Expr:
    """Penalise the logit of a yes-or-no label, which costs 0 once it is right by 1.

    Quadratic between -1 and 1, linear on the wrong side.

    Edges: at both ends value and gradient are continuous.
    """
    wrong = where(target != 0.0, -logits, logits)
    inner = 0.25 * (wrong + 1.0) ** 2
    return where(wrong <= -1.0, 0.0, where(wrong >= 1.0, wrong, inner))


def sparsemax_of(scores: Expr, hit: Expr) -> Expr:
    """The sparsemax loss of scores over "classes", the labelled one being ``hit``."""
    z = stop_gradient(scores)
    other = rename(z, "classes", "others")
    ahead = sum(where(other <= z, 0.0, z - other), "others")
    chosen = ~(ahead <= -1.0)  # so that a NaN is among them
    support = rename(chosen, "classes", "others")

    def distance(x: Expr) -> Expr:
        """The probability, or how far below 0 it would be."""
        gaps = sum(where(support, x - rename(x, "classes", "others"), 0.0), "others")
        return (1.0 + gaps) / sum(indicator(support), "others")

    def missing(q: Expr) -> Expr:
        """The probability, and of the labelled class what is missing of it."""
        p = where(chosen, q, 0.0)
        return where(hit, sum(where(hit, 0.0, p), "classes"), p)

    q = distance(z)
    short = sum(where(hit & ~chosen, -q, 0.0), "classes")
    slope = missing(distance(scores))
    return attach_gradient(
        0.5 * sum(missing(q) ** 2, "classes") + short, scores, where(hit, -slope, slope)
    )


@define(
    "sparsemax@1",
    yields="per_sample",
    references=["Martins and Astudillo 2016, section 3"],
)
def sparsemax(logits: Logits, labels: Labels) -> Expr:
    """Penalise the labelled class's missing probability, classes far behind having none at all.

    Probabilities are the point of the simplex nearest to the scores. Half the squared distance of
    the label from it, and what the label lacks to have any probability. All pairs of classes are
    compared, which suits up to some thousand of them.

    Edges: 0 with gradient 0 once the label leads all others by 1; the gradient is continuous.
    """
    return sparsemax_of(logits, iota(logits, "classes") == labels)


@define(
    "fenchel_young@1",
    ports={"max_fun": "(real[*batch, classes]) -> real[*batch]"},
    yields="per_sample",
    references=["Blondel, Martins and Niculae 2020, definition 2"],
)
def fenchel_young(
    logits: Logits, target: Annotated[Expr, "real[*batch, classes]"], *, max_fun: str
) -> Expr:
    """Penalise scores by how far their smoothed maximum is above their product with the target.

    ``max_fun(logits)`` is the smoothed maximum over the classes, such as logsumexp, whose loss is
    cross-entropy but for the target's own entropy; it must treat samples separately.

    Edges: those of the smoothed maximum; the loss adds none.
    """
    return apply(max_fun, logits) - dot(target, logits, "classes")
