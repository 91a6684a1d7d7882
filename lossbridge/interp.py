"""Evaluate a graph over any table of functions: NumPy, balls, text.

A table maps a primitive to ``function(context, node, *values)``. Every value is held aligned to the
graph's layout with singleton dimensions, so that broadcasting by name is plain broadcasting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossbridge.errors import LossbridgeError
from lossbridge.ir import Graph, Node, is_star


@dataclass(frozen=True)
class Context:
    """Where the axes of a layout lie in arrays of a known rank."""

    layout: tuple[str, ...]
    star_rank: int = 1

    @property
    def rank(self) -> int:
        return len(self.layout) - 1 + self.star_rank if self.star else len(self.layout)

    @property
    def star(self) -> str | None:
        return next((a for a in self.layout if is_star(a)), None)

    def dims(self, axes: Sequence[str]) -> tuple[int, ...]:
        """The dimensions of these axes, counted from the left."""
        out: list[int] = []
        position = 0
        for axis in self.layout:
            width = self.star_rank if is_star(axis) else 1
            if axis in axes:
                out.extend(range(position, position + width))
            position += width
        return tuple(out)

    def dim(self, axis: str) -> int:
        return self.dims((axis,))[0]

    def shape_of(
        self, sizes: Mapping[str, tuple[int, ...]], axes: Sequence[str]
    ) -> tuple[int, ...]:
        """The aligned shape of a value with these axes."""
        shape: list[int] = []
        for axis in self.layout:
            width = self.star_rank if is_star(axis) else 1
            shape.extend(sizes[axis] if axis in axes else (1,) * width)
        return tuple(shape)


def axis_sizes(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], int]:
    """The length of every axis that the inputs' shapes tell, and the rank of the axis group."""
    sizes: dict[str, tuple[int, ...]] = {}
    star_rank = 0
    for name, index in graph.inputs():
        if name not in shapes:
            continue
        order: tuple[str, ...] = graph.nodes[index].attr("order")
        shape = shapes[name]
        star = next((i for i, a in enumerate(order) if is_star(a)), None)
        width = len(shape) - len(order) + 1 if star is not None else 0
        position = 0
        for axis in order:
            step = width if is_star(axis) else 1
            found = tuple(shape[position : position + step])
            position += step
            if is_star(axis):
                star_rank = step
            if sizes.setdefault(axis, found) != found:
                raise LossbridgeError(
                    f"axis {axis} has length {sizes[axis]} in one input and {found} in {name}"
                )
    return sizes, star_rank


def align(array: Any, order: Sequence[str], context: Context) -> Any:
    """A NumPy-like array, lying in ``order``, aligned to the layout with singletons."""
    source = [a for a in context.layout if a in order]
    if list(order) != source:
        at: dict[str, list[int]] = {}
        position = 0
        for axis in order:
            width = context.star_rank if is_star(axis) else 1
            at[axis] = list(range(position, position + width))
            position += width
        array = array.transpose([d for a in source for d in at[a]])
    shape: list[int] = []
    position = 0
    for axis in context.layout:
        width = context.star_rank if is_star(axis) else 1
        if axis in order:
            shape.extend(array.shape[position : position + width])
            position += width
        else:
            shape.extend((1,) * width)
    return array.reshape(shape)


def restore(array: Any, order: Sequence[str], context: Context) -> Any:
    """The inverse of :func:`align`: singletons dropped, axes back in the caller's order."""
    kept = [d for a in context.layout if a in order for d in context.dims((a,))]
    array = array.reshape([array.shape[d] for d in kept])
    source = [a for a in context.layout if a in order]
    if list(order) != source:
        at: dict[str, list[int]] = {}
        position = 0
        for axis in source:
            width = context.star_rank if is_star(axis) else 1
            at[axis] = list(range(position, position + width))
            position += width
        array = array.transpose([d for a in order for d in at[a]])
    return array


def evaluate(
    graph: Graph,
    table: Mapping[str, Any],
    env: Mapping[str, Any],
    context: Context,
    sizes: dict[str, tuple[int, ...]],
) -> dict[str, Any]:
    """Run a graph on aligned values; ``sizes`` gains the axes that ``range`` makes."""
    values = run_rows(graph, table, env, context, sizes)
    return {name: values[index] for name, index in graph.outputs}


def run_rows(
    graph: Graph,
    table: Mapping[str, Any],
    env: Mapping[str, Any],
    context: Context,
    sizes: dict[str, tuple[int, ...]],
) -> list[Any]:
    """Every row's value."""
    values: list[Any] = []
    frame = Frame(context, sizes, table)
    for node in graph.nodes:
        if node.op == "input":
            values.append(env[node.attr("name")])
        else:
            values.append(table[node.op](frame, node, *(values[a] for a in node.args)))
    return values


@dataclass(frozen=True)
class Frame:
    """What a table's function may ask for beside its operands."""

    context: Context
    sizes: dict[str, tuple[int, ...]]
    table: Mapping[str, Any]

    def dims(self, node: Node) -> tuple[int, ...]:
        return self.context.dims(node.attr("axes"))

    def dim(self, node: Node) -> int:
        return self.context.dim(node.attr("axis"))
