"""Ports for the suite: small networks that are themselves specifications.

The oracle inlines their graphs; a platform makes a plain function of the same specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lossbridge.ir import Builder, Expr, Type, inline
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


KNOWN: Mapping[str, Callable[[], PortSpec]] = {
    "(real[batch, *features]) -> real[batch]": _critic,
    "(real[points], real[points]) -> real[points]": _field,
}


def ports_of(spec: Spec) -> dict[str, PortSpec]:
    """A network for each port whose signature the suite knows."""
    return {name: KNOWN[str(port)]() for name, port in spec.ports.items() if str(port) in KNOWN}


def graph_of(port: PortSpec) -> Callable[[Builder, list[Expr]], Expr]:
    """The port as rows of another graph."""

    def build(b: Builder, args: list[Expr]) -> Expr:
        graph = spec_graph(port.spec)
        given = dict(zip(port.arguments, args, strict=True))
        for name, array in port.constants.items():
            given[name] = (
                b.input(name, Type("real", ()), "real")
                if np.ndim(array) == 0
                else (b.input(name, Type("real", port.spec.inputs[name].axes), "real"))
            )
        return inline(b, graph, given)[graph.output("value")]

    return build
