"""Segmentation: overlaps of masks."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr, Operand
from lossbridge.ops import dot, restate, sum
from lossbridge.trace import define, non_negative, positive

Mask = Annotated[Expr, "probability[batch, *positions]"]


@define(
    "dice@1",
    params={"smooth": non_negative(1.0)},
    yields="per_sample",
    references=["Milletari, Navab and Ahmadi 2016, section 3"],
)
def dice(prediction: Mask, target: Mask, *, smooth: Expr) -> Expr:
    """Penalise the lack of overlap of two masks, sample by sample.

    One minus (2 overlap + smooth) / (prediction + target + smooth). Its value is computed as what
    does not overlap over the same denominator, and its gradient as it stands: neither cancels.

    Edges: with ``smooth=0`` two empty masks give NaN, the quotient of zeros.
    """
    apart = sum(prediction * (1.0 - target) + target * (1.0 - prediction), "*positions")
    whole = sum(prediction, "*positions") + sum(target, "*positions") + smooth
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
    over the classes by one over their squared volume in the target, plus ``eps``.

    Edges: a class that is absent from the target has the weight 1 / ``eps``; with ``smooth=0``
    masks that are empty in all classes give NaN, the quotient of zeros.
    """
    weight = rarity(target, eps, "*positions")
    overlap, rest = overlap_and_rest(prediction, target, 0.5, 0.5, "*positions")
    both, apart = dot(weight, overlap, "classes"), dot(weight, rest, "classes")
    whole = both + apart + 0.5 * smooth
    return restate(apart / whole, 1.0 - (both + 0.5 * smooth) / whole)
