"""The frameworks' subgradients, where they are not ours (`abs` 0, ties split, `clip` closed)."""

from __future__ import annotations

import math

from lossbridge.ir import Expr
from lossbridge.ops import attach_gradient, maximum, stop_gradient, where


def first_maximum(x: Expr | float, y: Expr | float) -> Expr:
    """The larger; at a tie the gradient goes to ``x`` (TensorFlow's maximum, torch's clamp)."""
    return where(x >= y, x, maximum(stop_gradient(x), y))  # where x is NaN, so is this


def undefined_at(value: Expr, x: Expr, point: Expr) -> Expr:
    """``value``, its gradient in ``x`` being NaN where ``point`` holds."""
    return attach_gradient(value, x, where(point, math.nan, 0.0))
