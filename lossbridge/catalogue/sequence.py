"""Sequences: losses over alignments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from lossbridge.ir import Expr, Operand
from lossbridge.ops import (
    intdiv,
    iota,
    logaddexp,
    mod,
    range_,
    scan,
    shift,
    size,
    softplus,
    take,
    to_real,
    where,
)
from lossbridge.trace import define, flag, integer


def keep(emit: Expr, is_blank_label: Expr) -> Expr:
    """What a label that is the blank itself emits: as any other."""
    return emit


def forward(
    log_probs: Expr,
    targets: Expr,
    blank: Expr | int,
    outside: Operand = -math.inf,
    emitted: Callable[[Expr, Expr], Expr] = keep,
    held: Expr | None = None,
    detour: Operand | None = None,
) -> Expr:
    """The log-probability of all beginnings of alignments, by time step and state they end in.

    States 0, 2, 4, ... are blanks, state 2k + 1 is the k-th target. An alignment begins in state 0;
    ``outside`` is the log-probability of beginning elsewhere; steps in the share ``held`` leave
    everything as it is; ``detour`` is added where a label may not follow its like directly.
    """
    state = range_("states", 2.0 * size(targets, "positions") + 1.0)
    is_label = mod(state, 2) == 1
    position = intdiv(state, 2)
    symbol = where(is_label, take(targets, where(is_label, position, 0), "positions"), blank)
    skips = is_label & (symbol != shift(symbol, "states", 2, -1))
    emit = emitted(take(log_probs, symbol, "classes"), is_label & (symbol == blank))
    start = where(state == 0, 0.0, outside)

    def step(alpha: Expr) -> Expr:
        stay = logaddexp(alpha, shift(alpha, "states", 1, -math.inf))
        jump = where(skips, shift(alpha, "states", 2, -math.inf), -math.inf)
        return logaddexp(stay, jump) + emit

    # Two ways lead from a label to the blank behind it, one of them a detour.
    way = 0.0 if detour is None else detour
    to_blank = where(is_label, 0.0, softplus(way)) if detour is not None else 0.0
    to_label = where(skips, 0.0, way) if detour is not None else 0.0

    def loose(alpha: Expr) -> Expr:
        stay = logaddexp(alpha, shift(alpha, "states", 1, -math.inf) + to_blank)
        jump = shift(alpha, "states", 2, -math.inf) + to_label
        return where(is_label, logaddexp(stay, jump), stay) + emit

    def mixed(alpha: Expr) -> Expr:
        moved = step(alpha) if detour is None else loose(alpha)
        return moved if held is None else held * alpha + (1.0 - held) * moved

    return scan("time", start, mixed, emit)


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
    targets: Annotated[Expr, "index(classes)[batch, positions]"],
    input_lengths: Annotated[Expr, "length(time)[batch]"],
    target_lengths: Annotated[Expr, "length(positions)[batch]"],
    *,
    blank: Expr,
    zero_infinity: Expr,
) -> tuple[Expr, Expr]:
    """Penalise log-probabilities per time step by all alignments that spell the target.

    The mean divides each sequence's loss by its target's length, then averages over the batch.

    Edges: a target that cannot be aligned gives inf, or 0 with ``zero_infinity``, gradient 0; an
    empty target costs the blanks, and 0 beside an empty input. A blank in a target is a label like
    any other. What stands beyond the lengths is not looked at.
    """
    # A negative length hears everything: the NaN that it gives then has a gradient, NaN too.
    within = (iota(log_probs, "time") < input_lengths) | (input_lengths < 0)
    spelled = where(iota(targets, "positions") < target_lengths, targets, blank)

    def heard(emit: Expr, is_blank_label: Expr) -> Expr:
        return where(within, emit, 0.0)

    alphas = forward(log_probs, spelled, blank, emitted=heard)
    empty = input_lengths == 0  # no step, so no last one; a negative length stays out of range
    last = take(alphas, where(empty, 0, input_lengths - 1), "time")
    final = 2 * target_lengths
    at_blank = take(last, final, "states")
    at_label = take(last, where(target_lengths > 0, final - 1, 0), "states")
    spelt = where(target_lengths > 0, logaddexp(at_blank, at_label), at_blank)
    nothing = where(target_lengths == 0, 0.0, where(target_lengths > 0, math.inf, math.nan))
    cost = where(empty, nothing, -spelt)
    value = where(cost == math.inf, where(zero_infinity, 0.0, math.inf), cost)
    return value, to_real(target_lengths)
