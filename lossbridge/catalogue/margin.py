"""Margins: penalties of a score against a label of -1 or 1."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import exp, log, maximum
from lossbridge.trace import define, real

Score = Annotated[Expr, "real[*batch]"]
Sign = Annotated[Expr, "sign[*batch]"]


@define("hinge@1", params={"margin": real(1.0)}, references=["Cortes and Vapnik 1995, eq. 14"])
def hinge(prediction: Score, target: Sign, *, margin: Expr) -> Expr:
    """Penalise a score linearly that is on the wrong side of the margin.

    Edges: exactly on the margin the gradient is half of that beyond it.
    """
    return maximum(0.0, margin - target * prediction)


@define("soft_margin@1", references=["Friedman, Hastie and Tibshirani 2000, section 3"])
def soft_margin(prediction: Score, target: Sign) -> Expr:
    """Penalise a score by the logistic loss of its product with the label.

    Edges: linear far out; never overflows.
    """
    return log(1.0 + exp(-target * prediction))
