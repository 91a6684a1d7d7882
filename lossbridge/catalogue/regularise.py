"""Penalties on parameters, summed over the leaves of a tree."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.spec import Reduction
from lossbridge.trace import define, non_negative, probability

Tree = Annotated[Expr, "tree[*leaf]"]
SUM = Reduction("sum", "elements")


@define(
    "elastic_net_penalty@1",
    name="ElasticNetPenalty",
    params={"strength": non_negative(1e-4), "l1_ratio": probability(0.5)},
    reduction=SUM,
    references=["Zou and Hastie 2005, eq. 3"],
)
def elastic_net_penalty(parameters: Tree, *, strength: Expr, l1_ratio: Expr) -> Expr:
    """Penalise parameters by a mixture of their absolute values and half their squares.

    Edges: at 0 the gradient is 0.
    """
    square = 0.5 * strength * (1.0 - l1_ratio)
    return strength * l1_ratio * abs(parameters) + square * parameters**2


@define(
    "l1_penalty@1",
    name="L1Penalty",
    params={"strength": non_negative(1e-4)},
    reduction=SUM,
    references=["Tibshirani 1996, eq. 2"],
)
def l1_penalty(parameters: Tree, *, strength: Expr) -> Expr:
    """Penalise the absolute values of parameters, which drives some of them to 0.

    Edges: at 0 the gradient is 0.
    """
    return strength * abs(parameters)


@define(
    "l2_penalty@1",
    name="L2Penalty",
    params={"strength": non_negative(1e-4)},
    reduction=SUM,
    references=["Hoerl and Kennard 1970, eq. 2.1"],
)
def l2_penalty(parameters: Tree, *, strength: Expr) -> Expr:
    """Penalise half the squares of parameters: weight decay, written as a loss.

    Edges: none; the gradient is ``strength`` times the parameters.
    """
    return 0.5 * strength * parameters**2
