"""Segmentation: overlaps of masks."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr, Operand
from lossbridge.ops import dot, restate, sum
from lossbridge.trace import define, non_negative

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
def tversky(prediction: Mask, target: Mask, *, alpha: Expr, beta: Expr, smooth: Expr) -> Expr:
    """Penalise the lack of overlap of two masks; ``alpha`` weighs excess, ``beta`` what is missing.

    One minus (overlap + smooth) / (overlap + alpha excess + beta missing + smooth), sample by
    sample; with both at 1/2 this is dice with twice the smoothing.

    Edges: with ``smooth=0`` two empty masks give NaN, the quotient of zeros.
    """
    overlap, rest = overlap_and_rest(prediction, target, alpha, beta, "*positions")
    whole = overlap + rest + smooth
    return restate(rest / whole, 1.0 - (overlap + smooth) / whole)
