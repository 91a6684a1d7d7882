"""Ports for the suite: small networks that are themselves specifications.

The oracle inlines their graphs; a platform makes a plain function of the same specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lossbridge.ir import Builder, Expr, Graph, Type, inline
from lossbridge.kinds import Kind
from lossbridge.plan import spec_graph
from lossbridge.spec import Spec
from lossbridge_conformance.probe import PortSpec


def _critic() -> PortSpec:
    """A score per sample: a fixed smooth function of all its features."""
    spec = Spec(
        loss="suite/critic@1",
        inputs={"x": Kind.parse("real[batch, *features]")},
        body=("value = sum(tanh(0.75 * x) + 0.25 * x * sin(x), *features)",),
        yields="per_sample",
    )
    return PortSpec(spec, ("x",))


def _field() -> PortSpec:
    """A smooth field of time and position, with curvature in both."""
    spec = Spec(
        loss="suite/field@1",
        inputs={"t": Kind.parse("real[points]"), "x": Kind.parse("real[points]")},
        body=("value = tanh(0.5 * t + x) * cos(0.25 * x) + 0.5 * t * x",),
        yields="per_sample",
    )
    return PortSpec(spec, ("t", "x"))


def _features() -> PortSpec:
    """Two maps, of three and five features: tanh units over the whole image."""
    spec = Spec(
        loss="suite/features@1",
        inputs={
            "x": Kind.parse("real[batch, *image]"),
            "slope": Kind.parse("real[pixels]"),
            "offset": Kind.parse("real[pixels]"),
        },
        body=("value = sum(tanh(slope * x + offset), *image)",),
        yields="per_element",
    )
    # Multiples of an eighth: exact in every dtype.
    constants = {
        "slope": np.array([0.5, -0.25, 0.75, 1.0, -0.5, 0.125, 0.25, -1.0]),
        "offset": np.array([0.0, 0.5, -0.25, 0.125, 1.0, -0.5, 0.75, 0.25]),
    }
    return PortSpec(spec, ("x",), constants, maps=(3, 5))


KNOWN: Mapping[str, Callable[[], PortSpec]] = {
    "(real[batch, *features]) -> real[batch]": _critic,
    "(real[points], real[points]) -> real[points]": _field,
    "(real[batch, *image]) -> maps[batch]": _features,
}


def ports_of(spec: Spec) -> dict[str, PortSpec]:
    """A network for each port whose signature the suite knows."""
    return {name: KNOWN[str(port)]() for name, port in spec.ports.items() if str(port) in KNOWN}


def graph_of(port: PortSpec) -> Callable[[Builder, list[Expr]], Expr]:
    """The port as rows of another graph."""

    def build(b: Builder, args: list[Expr]) -> Expr:
        graph = spec_graph(port.spec)
        given = dict(zip(port.arguments, args, strict=True))
        for name in port.constants:
            axes = port.spec.inputs[name].axes
            given[name] = b.input(name, Type("real", axes), "real")
        return inline(b, graph, given)[graph.output("value")]

    return build


def scaled(graph: Graph) -> tuple[Graph, dict[str, tuple[str, ...]]]:
    """The graph with a factor on what each port returns, as further inputs; their axes by name.

    Condition numbers then count what a port returns among the inputs: a loss is given it in the
    dtype of the run, and the rounding inside the user's network is not the loss's error.
    """
    b = Builder(graph.layout)
    values: list[Expr] = []
    factors: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes:
        args = [values[a] for a in node.args]
        if node.op in ("input", "const"):
            value = b.row(node.op, (), node.attrs, node.type)
        else:
            value = b.op(node.op, *args, **dict(node.attrs))
        if node.op in ("apply", "derivative"):
            name = f"port_factor_{len(factors)}"
            factors[name] = value.axes
            value = value * b.input(name, Type("real", value.axes), "real")
        values.append(value)
    return b.finish(**{name: values[index] for name, index in graph.outputs}), factors


def maps_as_inputs(graph: Graph) -> Graph:
    """What a loss asks about the maps of a port, as inputs: they are facts, not functions."""
    b = Builder(graph.layout)
    values: list[Expr] = []
    for node in graph.nodes:
        args = [values[a] for a in node.args]
        if node.op == "segments":
            values.append(b.input("map_of_pixel", Type("int", ("pixels",)), "integer"))
        elif node.op == "map_sizes":
            values.append(b.input("size_of_map", Type("real", ("maps",)), "positive"))
        elif node.op in ("input", "const"):
            values.append(b.row(node.op, (), node.attrs, node.type))
        else:
            values.append(b.op(node.op, *args, **dict(node.attrs)))
    return b.finish(**{name: values[index] for name, index in graph.outputs})


def maps_of(port: PortSpec) -> dict[str, Any]:
    """Those inputs."""
    return (
        {
            "map_of_pixel": np.repeat(np.arange(len(port.maps)), port.maps),
            "size_of_map": np.array(port.maps, np.float64),
        }
        if port.maps
        else {}
    )
