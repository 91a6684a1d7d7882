"""Segmentation: overlaps of masks."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr, Operand
from lossbridge.ops import amax, any_, dot, restate, sum, where
from lossbridge.trace import define, flag, non_negative, positive

Mask = Annotated[Expr, "probability[batch, *positions]"]


@define(
    "dice@1",
    params={"smooth": non_negative(1.0), "squared": flag(False)},
    yields="per_sample",
    references=[
        "Dice 1945, of sets; with sums of probabilities in the denominator Drozdzal et al. 2016",
        "Milletari, Navab and Ahmadi 2016, section 3, for the squared form",
    ],
)
def dice(prediction: Mask, target: Mask, *, smooth: Expr, squared: Expr) -> Expr:
    """Penalise the lack of overlap of two masks, sample by sample.

    One minus (2 overlap + smooth) / (prediction + target + smooth), the form that most libraries
    call Dice; with ``squared=True``, V-Net's, both masks are squared in the denominator, which for
    masks of 0 and 1 is the same. Its value is computed as what does not overlap over the same
    denominator, and its gradient as it stands: neither cancels.

    Edges: with ``smooth=0`` two empty masks give NaN, the quotient of zeros.
    """
    apart = where(
        squared,
        sum((prediction - target) ** 2, "*positions"),
        sum(prediction * (1.0 - target) + target * (1.0 - prediction), "*positions"),
    )
    sizes = where(
        squared,
        sum(prediction**2, "*positions") + sum(target**2, "*positions"),
        sum(prediction, "*positions") + sum(target, "*positions"),
    )
    whole = sizes + smooth
    overlap = dot(prediction, target, "*positions")
    return restate(apart / whole, 1.0 - (2.0 * overlap + smooth) / whole)


def overlap_and_rest(
    prediction: Expr, target: Expr, alpha: Operand, beta: Operand, *axes: str
) -> tuple[Expr, Expr]:
    """What two masks share, and what they do not: excess by ``alpha``, missing by ``beta``."""
    excess = sum(prediction * (1.0 - target), *axes)
    missing = sum(target * (1.0 - prediction), *axes)
    return sum(prediction * target, *axes), alpha * excess + beta * missing


@define(
    "tversky@1",
    params={
        "alpha": non_negative(0.5),
        "beta": non_negative(0.5),
        "smooth": non_negative(1.0),
    },
    yields="per_sample",
    references=["Salehi, Erdogmus and Gholipour 2017, eq. 3"],
)
def tversky(
    prediction: Mask,
    target: Mask,
    *,
    alpha: Expr,
    beta: Expr,
    smooth: Expr,
    axes: tuple[str, ...] = ("*positions",),
) -> Expr:
    """Penalise the lack of overlap of two masks; ``alpha`` weighs excess, ``beta`` what is missing.

    One minus (overlap + smooth) / (overlap + alpha excess + beta missing + smooth), sample by
    sample; with both at 1/2 this is dice with twice the smoothing.

    Edges: with ``smooth=0`` two empty masks give NaN, the quotient of zeros.
    """
    overlap, rest = overlap_and_rest(prediction, target, alpha, beta, *axes)
    whole = overlap + rest + smooth
    return restate(rest / whole, 1.0 - (overlap + smooth) / whole)


def rarity(target: Expr, eps: Operand, *axes: str) -> Expr:
    """A weight for each class: one over its squared volume, to which ``eps`` is added."""
    return 1.0 / (sum(target, *axes) ** 2 + eps)


@define(
    "generalized_dice@1",
    params={"eps": positive(1e-7), "smooth": non_negative(1e-5)},
    yields="per_sample",
    references=["Sudre et al. 2017, section 2"],
)
def generalized_dice(
    prediction: Annotated[Expr, "probability[batch, *positions, classes]"],
    target: Annotated[Expr, "probability[batch, *positions, classes]"],
    *,
    eps: Expr,
    smooth: Expr,
) -> Expr:
    """Penalise the lack of overlap of several classes' masks, rare classes as much as common ones.

    One minus (2 overlap + smooth) / (prediction + target + smooth), overlaps and volumes weighed
    over the classes by one over their squared volume in the target, plus ``eps``. A class that is
    absent from a sample's target has the largest weight of those that are present in it: that of
    its own volume of 0 would leave the others nothing to learn from.

    Edges: where all classes are absent each weighs 1, so that what is predicted costs as in dice;
    with ``smooth=0`` masks that are empty in all classes give NaN, the quotient of zeros.
    """
    present = sum(target, "*positions") > 0.0
    rare = where(present, rarity(target, eps, "*positions"), 0.0)
    largest = where(any_(present, "classes"), amax(rare, "classes"), 1.0)
    weight = where(present, rare, largest)
    overlap, rest = overlap_and_rest(prediction, target, 0.5, 0.5, "*positions")
    both, apart = dot(weight, overlap, "classes"), dot(weight, rest, "classes")
    whole = both + apart + 0.5 * smooth
    return restate(apart / whole, 1.0 - (both + 0.5 * smooth) / whole)
