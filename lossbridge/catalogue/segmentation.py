"""Segmentation: overlaps of masks."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
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
