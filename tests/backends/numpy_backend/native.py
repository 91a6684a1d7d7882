"""A third party's compiled losses: emitted NumPy functions of value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lossbridge.emit import emit, load
from lossbridge.errors import UnsupportedError
from lossbridge.frontdoor import axis_lengths
from lossbridge.ir import Builder, Expr, inline
from lossbridge.plan import Options, Plan, inline_ports, plan, spec_graph
from lossbridge.spec import Spec
from numpy_backend.lowering import LOWERING


class Loss:
    """A loss with its settings; arrays in the compute dtype go in, and come out."""

    def __init__(
        self, spec: Spec, params: Mapping[str, Any], options: Options, ports: Mapping[str, Any]
    ) -> None:
        self.spec = spec
        self.arrays = {name: np.asarray(x) for name, x in params.items() if np.ndim(x)}
        numbers = tuple((name, x) for name, x in params.items() if not np.ndim(x))
        self.plan: Plan = plan(spec, numbers, options, LOWERING.native)
        self.constants: dict[str, Any] = {}
        if any(call.op not in ("apply", "derivative") for call in self.plan.calls):
            raise UnsupportedError(
                "NumPy has no differentiation of its own, so only ports that are specifications "
                "with a single output run here"
            )
        if self.plan.calls:
            piece = inline_ports(self.plan.written, {n: self._port(p) for n, p in ports.items()})
            self.plan = replace(self.plan, calls=(), piece=piece)
        self._made: dict[tuple[str, ...], tuple[list[str], list[str], Callable[..., Any]]] = {}

    def _port(self, given: Any) -> Callable[[Builder, list[Expr]], Expr]:
        def build(b: Builder, args: list[Expr]) -> Expr:
            graph = spec_graph(given.spec)
            values = dict(zip(given.arguments, args, strict=True))
            nodes = dict(graph.inputs())
            for name, x in given.constants.items():
                node = graph.nodes[nodes[name]]
                self.constants[name] = np.asarray(x)
                values[name] = b.input(name, node.type, node.attr("kind"))
            return inline(b, graph, values)[graph.output("value")]

        return build

    def __call__(self, given: Mapping[str, Any], wrt: tuple[str, ...]) -> dict[str, Any]:
        kinds = {**self.spec.inputs, **{n: w.kind for n, w in self.spec.weights.items()}}
        axis_lengths(kinds, {n: np.shape(given[n]) for n in kinds}, self.spec.id)
        if wrt not in self._made:
            graph = self.plan.fused(wrt) if wrt else self.plan.plain
            function = load(emit(graph, LOWERING, "loss"), LOWERING, "loss")
            self._made[wrt] = (
                [name for name, _ in graph.inputs()],
                [name for name, _ in graph.outputs],
                function,
            )
        names, outputs, function = self._made[wrt]
        known = {**self.arrays, **self.constants, **given}
        with np.errstate(all="ignore"):
            return dict(zip(outputs, function(*(known[name] for name in names)), strict=True))
