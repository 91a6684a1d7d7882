"""Sequences: losses over alignments."""

from __future__ import annotations

import math
from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import (
    intdiv,
    logaddexp,
    mod,
    range_,
    scan,
    shift,
    size,
    take,
    to_real,
    where,
)
from lossbridge.trace import define, flag, integer


@define(
    "ctc@1",
    name="CTCLoss",
    params={"blank": integer(0), "zero_infinity": flag(False)},
    yields="per_sample",
    normalizer="target_length",
    references=["Graves et al. 2006, section 4.1"],
)
def ctc(
    log_probs: Annotated[Expr, "real[time, batch, classes]"],
    targets: Annotated[Expr, "integer[batch, positions]"],
    input_lengths: Annotated[Expr, "integer[batch]"],
    target_lengths: Annotated[Expr, "integer[batch]"],
    *,
    blank: Expr,
    zero_infinity: Expr,
) -> tuple[Expr, Expr]:
    """Penalise log-probabilities per time step by all alignments that spell the target.

    The mean divides each sequence's loss by its target's length, then averages over the batch.

    Edges: a target that cannot be aligned gives inf, or 0 with ``zero_infinity``, gradient 0.
    """
    # States 0, 2, 4, ... are blanks, state 2k + 1 is the k-th target.
    state = range_("states", 2.0 * size(targets, "positions") + 1.0)
    is_label = mod(state, 2) == 1
    position = intdiv(state, 2)
    symbol = where(is_label, take(targets, where(is_label, position, 0), "positions"), blank)
    skips = is_label & (symbol != shift(symbol, "states", 2, -1))
    emit = take(log_probs, symbol, "classes")
    start = where(state == 0, 0.0, -math.inf)

    def step(alpha: Expr) -> Expr:
        stay = logaddexp(alpha, shift(alpha, "states", 1, -math.inf))
        jump = where(skips, shift(alpha, "states", 2, -math.inf), -math.inf)
        return logaddexp(stay, jump) + emit

    alphas = scan("time", start, step, emit)
    last = take(alphas, input_lengths - 1, "time")
    final = 2 * target_lengths
    at_blank = take(last, final, "states")
    at_label = take(last, where(target_lengths > 0, final - 1, 0), "states")
    both = where(target_lengths > 0, logaddexp(at_blank, at_label), at_blank)
    impossible = both == -math.inf
    value = where(impossible, where(zero_infinity, 0.0, math.inf), -both)
    return value, to_real(target_lengths)
