"""Losses with trainable coefficients of their own."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.kinds import Kind
from lossbridge.ops import iota, softmax, sum, take, to_real
from lossbridge.spec import Weight
from lossbridge.trace import define


@define(
    "learned_polynomial@1",
    weights={
        "coefficients": Weight(Kind.parse("real[terms]"), 1.0, {"terms": "num_terms"}),
    },
    yields="per_sample",
    references=["Leng et al. 2022, eq. 2; Gonzalez and Miikkulainen 2021"],
)
def learned_polynomial(
    logits: Annotated[Expr, "real[*batch, classes]"],
    labels: Annotated[Expr, "index(classes)[*batch]"],
    *,
    coefficients: Expr,
) -> Expr:
    """Penalise the labelled class's missing probability by a polynomial with learned coefficients.

    The sum of ``coefficients[k] (1 - p)**(k + 1) / (k + 1)``: with all coefficients 1 the beginning
    of the power series of cross-entropy. An outer loop learns them.

    Edges: exact however confident the logits are.
    """
    missing = 1.0 - take(softmax(logits, "classes"), labels, "classes")
    power = to_real(iota(coefficients, "terms")) + 1.0
    return sum(coefficients / power * missing**power, "terms")
