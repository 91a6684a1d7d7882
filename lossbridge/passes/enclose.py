"""Outside its domain an input makes the loss NaN, value and gradients, where nobody may look first.

One rule for every loss, drawn from the kinds of its inputs. An input is *enclosed* in its domain
where the loss means nothing beyond: a logarithm has no value there, a clamp hides it, a comparison
takes a third label for one of the two. An input in which the loss is linear, such as the target of
cross-entropy, may be any number: a target of 1.2 pulls harder, and every framework takes it so.
A label is enclosed where no class is taken by it, which would be NaN for one that there is not.
Values are read before the call where that waits for nobody (``lossbridge.valuecheck``), and raise
there; elsewhere this pass lets them show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from lossbridge import ops
from lossbridge.ir import Expr, Graph
from lossbridge.kinds import Kind
from lossbridge.passes.canonicalise import bind, canonicalise

# What sums of rounded numbers may be off: bfloat16 has 8 bits, and nobody sees here which dtype
# the numbers came in.
SUM_TOLERANCE = 2.0**-7

_LINEAR = frozenset({"add", "sub", "neg", "sum", "mean", "broadcast", "rename", "shift", "flip"})
_GUARDS = frozenset({"eq", "ne"})


def bounded(kind: Kind) -> bool:
    """Whether there are real numbers that a kind leaves out."""
    ends = kind.interval.lo, kind.interval.hi
    return kind.dtype == "real" and any(math.isfinite(end) for end in ends)


@lru_cache(maxsize=1024)
def enclosed(graph: Graph, numbers: tuple[tuple[str, float | int | bool], ...]) -> tuple[str, ...]:
    """The inputs of a loss as written whose domains bind, its settings being these numbers."""
    kinds = {
        name: Kind.parse(str(graph.nodes[index].attr("kind")))
        for name, index in graph.inputs()
        if graph.nodes[index].type.dtype == "real"
    }
    found = {name for name, kind in kinds.items() if kind.values and bounded(kind)}
    settled = canonicalise(bind(graph, dict(numbers)))
    for name, index in settled.inputs():
        kind = kinds.get(name)
        if kind is not None and bounded(kind) and not _linear(settled, index):
            found.add(name)
    return (*(name for name in kinds if name in found), *_only_compared(settled))


def _only_compared(graph: Graph) -> tuple[str, ...]:
    """The labels by which nothing is taken: one that names no class is equal to none, and no more
    would be seen of it."""
    found = []
    for name, index in graph.inputs():
        if not str(graph.nodes[index].attr("kind")).startswith("index("):
            continue
        moving, taken = {index}, False
        for row, node in enumerate(graph.nodes):
            hits = [place for place, a in enumerate(node.args) if a in moving]
            if hits and node.type.dtype == "int":
                moving.add(row)
            taken = taken or (node.op == "take" and 1 in hits)
        if not taken:
            found.append(name)
    return tuple(found)


def _linear(graph: Graph, source: int) -> bool:
    """Whether the value of a loss is a linear function of one input, a constant added.

    A comparison with one number does not count: a target of 0 that an infinite logarithm must not
    meet is guarded at that one point.
    """
    moving = {source}
    for index, node in enumerate(graph.nodes):
        hits = [place for place, a in enumerate(node.args) if a in moving]
        if not hits or index == source:
            continue
        linear = (
            node.op in _LINEAR
            or (node.op in ("mul", "dot", "weigh") and len(hits) == 1)
            or (node.op in ("div", "take") and hits == [0])
            or (node.op in ("where", "attach_gradient") and not _leads(node.op, hits))
        )
        if node.op in _GUARDS and any(graph.nodes[a].op == "const" for a in node.args):
            continue
        if not linear:
            return False
        moving.add(index)
    return True


def _leads(op: str, hits: list[int]) -> bool:
    """Whether what moves decides a selection, or a gradient that is stated."""
    return hits != [0] if op == "attach_gradient" else 0 in hits


def inside(x: Expr, kind: Kind) -> Expr:
    """Where a number is one of a kind's; a NaN is none, so that it shows in what only selects."""
    if kind.name == "index":
        return (x >= 0) & (ops.to_real(x) < ops.size(x, str(kind.of)))
    if kind.values is not None:
        low, high = kind.values
        return (x == low) | (x == high)
    lo, hi, lo_open, hi_open = kind.interval
    found: Expr | None = None
    if math.isfinite(lo):
        found = x > lo if lo_open else x >= lo
    if math.isfinite(hi):
        below = x < hi if hi_open else x <= hi
        found = below if found is None else found & below
    assert found is not None
    if kind.name == "simplex" and kind.of in x.axes:
        near = ops.abs_(ops.sum(x, str(kind.of)) - 1.0) <= SUM_TOLERANCE
        found = found & ops.broadcast(near, *x.axes)
    return found


def enclose(
    value: Expr, given: Iterable[tuple[Expr, Kind]], moving: Iterable[Expr], mask: Expr | None
) -> Expr:
    """``value``, NaN where an input is outside, and so its gradient in all that moves; what a mask
    hides is not looked at."""
    bad: Expr | None = None
    for x, kind in given:
        one = ~inside(x, kind)
        further = [axis for axis in one.axes if axis not in value.axes]
        one = ops.any_(one, *further) if further else one
        bad = one if bad is None else bad | one
    if bad is None:
        return value
    if mask is not None:
        bad = bad & mask
    value = ops.where(bad, math.nan, value)
    for x in moving:
        # Added: a selection would leave 0 where the loss itself selects nothing.
        value = ops.attach_gradient(value, x, ops.where(bad, math.nan, 0.0))
    return value
