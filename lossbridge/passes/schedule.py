"""When each value is last read, and which graphs may run a block at a time.

An eager framework allocates a tensor for every row, and from a few megabytes on the page faults
cost more than the arithmetic. A row may write into an operand that nothing reads afterwards; a
graph whose rows are all of one shape may run over slices that stay in the cache. Both are facts
about the graph; what a platform makes of them is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lossbridge.ir import Graph, Node
from lossbridge.ops import OPS

# Rows whose result may be the operand itself, or a view of it.
VIEWS = frozenset(
    {
        "broadcast",
        "rename",
        "stop_gradient",
        "attach_gradient",
        "where",
        "flip",
        "take",
        "dot",
        "to_real",
        "shift",
    }
)
# Rows that always make a new value, of the shape their axes say.
MAKERS = frozenset(name for name, row in OPS.items() if row.elementwise and name not in VIEWS) | {
    "put"
}


def dying(graph: Graph, order: Sequence[int]) -> dict[int, frozenset[int]]:
    """For each row, in the order they will run, the operands it may overwrite.

    Those are values that another row made (never an input, nor what may be a view of one), of the
    row's own type, that neither a later row nor an output reads, directly or through a view.
    """
    sources = _sources(graph, order)
    last: dict[int, float] = {}
    for place, index in enumerate(order):
        for a in graph.nodes[index].args:
            for source in sources.get(a, {a}):
                last[source] = place
    for _, index in graph.outputs:
        for source in sources.get(index, {index}):
            last[source] = float("inf")
    found: dict[int, frozenset[int]] = {}
    for place, index in enumerate(order):
        node = graph.nodes[index]
        found[index] = frozenset(
            a
            for a in node.args
            if _makes(graph, graph.nodes[a])
            and graph.nodes[a].type == node.type
            and node.type.axes
            and last[a] == place
        )
    return found


def readers(graph: Graph, order: Sequence[int]) -> dict[int, set[int]]:
    """For each value, the rows that read it, directly or through a view."""
    sources = _sources(graph, order)
    found: dict[int, set[int]] = {}
    for index in order:
        for a in graph.nodes[index].args:
            for source in sources.get(a, {a}):
                found.setdefault(source, set()).add(index)
    return found


def _sources(graph: Graph, order: Sequence[int]) -> dict[int, frozenset[int]]:
    """The values that the result of each row is, or may be a view of."""
    sources: dict[int, frozenset[int]] = {}
    for index in order:
        node = graph.nodes[index]
        shared = {index}
        if not _makes(graph, node):
            shared.update(*(sources.get(a, {a}) for a in node.args))
        sources[index] = frozenset(shared)
    return sources


def _makes(graph: Graph, node: Node) -> bool:
    """Whether a row's result is new. A selection by a number is one of its operands."""
    if node.op == "where":
        return bool(graph.nodes[node.args[0]].type.axes)
    return node.op in MAKERS


@dataclass(frozen=True)
class Blocks:
    """A graph in four parts: numbers, full rows, their totals, and numbers made of those."""

    head: tuple[int, ...]
    body: tuple[int, ...]
    totals: tuple[int, ...]
    tail: tuple[int, ...]
    inputs: tuple[int, ...]  # the full ones, sliced alike
    gradients: tuple[int, ...]  # the rows of the body that are outputs


def blocks(graph: Graph) -> Blocks | None:
    """How a graph may run over slices, or None: every value has all axes or none, all rows with
    axes are elementwise, and none of them waits for a total."""
    axes = graph.layout
    inputs, head, body, totals, tail = [], [], [], [], []
    late: set[int] = set()
    for index, node in enumerate(graph.nodes):
        full = node.type.axes == axes
        if node.type.axes and not full:
            return None
        waits = any(a in late for a in node.args)
        if node.op == "input":
            if full:
                if tuple(node.attr("order")) != axes:
                    return None
                inputs.append(index)
        elif full:
            if waits or not _pointwise(node):
                return None
            body.append(index)
        elif node.op == "sum":
            if graph.nodes[node.args[0]].type.axes != axes:
                return None
            totals.append(index)
            late.add(index)
        elif waits:
            if not _pointwise(node):
                return None
            tail.append(index)
            late.add(index)
        elif _pointwise(node) or node.op in ("const", "size"):
            head.append(index)
        else:
            return None
    outputs = [i for _, i in graph.outputs if graph.nodes[i].type.axes]
    if (
        not axes
        or not inputs
        or not totals
        or len(set(outputs)) != len(outputs)
        or not (set(outputs) <= set(body))
    ):
        return None
    return Blocks(
        tuple(head), tuple(body), tuple(totals), tuple(tail), tuple(inputs), tuple(outputs)
    )


def _pointwise(node: Node) -> bool:
    return node.op == "where" or OPS[node.op].elementwise
