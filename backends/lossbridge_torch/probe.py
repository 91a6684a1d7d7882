"""How the conformance suite and the command line reach this backend."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossbridge.emit import emit, load
from lossbridge.errors import UnsupportedError
from lossbridge.frontdoor import Bound, has_class_axis, sizes_of
from lossbridge.migrate.sides import original
from lossbridge.plan import Options, plan
from lossbridge.spec import Spec
from lossbridge.witnesses import find
from lossbridge_torch.ejected import eject, source
from lossbridge_torch.lowering import LOWERING
from lossbridge_torch.native import compile as compile_loss
from lossbridge_torch.train import train

__all__ = ["PROBE"]

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def _widened(x: Any) -> Any:
    """A result as float64, exactly; a list of them as a list."""
    if isinstance(x, list | tuple):
        return [_widened(part) for part in x]
    return x.detach().to(torch.float64).numpy()


class Subject:
    """A function of named inputs, run in the dtype, mode and for the gradients asked for."""

    def __init__(
        self,
        make: Callable[[torch.dtype], Callable[..., Any]],
        *,
        weights: Mapping[str, Any] | None = None,
        ports: Callable[[torch.dtype], Mapping[str, Any]] = lambda dtype: {},
    ) -> None:
        self._make = make
        self._weights = dict(weights or {})
        self._ports = ports
        self._made: dict[tuple[str, torch.dtype], Callable[..., Any]] = {}

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        dtype: str,
        mode: str,
        wrt: tuple[str, ...] = (),
        call: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """``{"value": array, "gradients": {name: array}}``, the gradients of the value's sum."""
        if dtype not in DTYPES:
            raise UnsupportedError(f"PyTorch has no dtype {dtype} here; it has {', '.join(DTYPES)}")
        if mode not in PROBE.modes:
            raise UnsupportedError(f"PyTorch has no mode {mode}; it has {', '.join(PROBE.modes)}")
        kind = DTYPES[dtype]
        given = {name: self._given(x, kind) for name, x in inputs.items()}
        # Counts and steps are numbers of the run, not data in the dtype of the run.
        extra = {
            name: self._given(
                x,
                torch.promote_types(kind, torch.float32)
                if name in ("normalizer_count", "step")
                else kind,
            )
            for name, x in (call or {}).items()
        }
        function = self._function(mode, kind)
        parameters = (
            dict(function.named_parameters()) if isinstance(function, torch.nn.Module) else {}
        )
        for name, x in self._weights.items():
            if name in parameters:
                with torch.no_grad():
                    parameters[name].copy_(self._given(x, kind))
                given.setdefault(name, parameters[name])
        moving: list[Tensor] = []
        for name in wrt:
            x = given[name]
            for leaf in x if isinstance(x, list) else [x]:
                if name not in parameters:
                    leaf.requires_grad_(True)
                leaf.grad = None
                moving.append(leaf)
        arguments = {name: x for name, x in given.items() if name not in parameters}
        with torch.set_grad_enabled(bool(wrt)):
            value = function(**arguments, **extra, **self._ports(kind))
        gradients: dict[str, Any] = {}
        if wrt:
            total = value if isinstance(value, list) else [value]
            torch.autograd.backward(total, [torch.ones_like(v) for v in total])
            for name in wrt:
                x = given[name]
                gradients[name] = (
                    [self._gradient(leaf) for leaf in x]
                    if isinstance(x, list)
                    else self._gradient(x)
                )
        return {"value": _widened(value), "gradients": gradients}

    def _gradient(self, x: Tensor) -> Any:
        return _widened(torch.zeros_like(x) if x.grad is None else x.grad)

    def _given(self, x: Any, kind: torch.dtype) -> Any:
        if isinstance(x, list | tuple):
            return [self._given(part, kind) for part in x]
        x = np.asarray(x)
        if x.dtype.kind == "f":
            return torch.tensor(np.array(x), dtype=torch.float64).to(kind)
        return torch.tensor(np.array(x))

    def _function(self, mode: str, kind: torch.dtype) -> Callable[..., Any]:
        if (mode, kind) not in self._made:
            function = self._make(kind)
            if mode == "compiled":
                torch._dynamo.reset()  # one loss after another, never near the limit of variants
                compiled: Any = torch.compile(function, fullgraph=True)
                function = compiled
            self._made[mode, kind] = function
        return self._made[mode, kind]


def _port(given: Any, kind: torch.dtype) -> Callable[..., Any]:
    """A network that is itself a specification, as a plain function autograd differentiates."""
    graph = plan(given.spec, (), Options("none"), LOWERING.native).plain
    run = load(emit(graph, LOWERING, "port"), LOWERING, "port")
    names = [name for name, _ in graph.inputs()]
    compute = torch.promote_types(kind, torch.float32)
    constants = {
        name: torch.tensor(np.asarray(x)).to(compute) for name, x in given.constants.items()
    }

    def port(*arguments: Tensor) -> Any:
        values = {**constants, **dict(zip(given.arguments, arguments, strict=True))}
        (value,) = run(*(values[name].to(compute) for name in names))
        if not given.maps:
            return value
        return list(torch.split(value, list(given.maps), dim=-1))

    return port


class _Probe:
    """The PyTorch platform."""

    name = "torch"
    modes = ("eager", "compiled")
    train = staticmethod(train)

    def versions(self) -> dict[str, str]:
        """The packages that decide its results, and their versions."""
        found = {name: metadata.version(name) for name in ("torch", "numpy")}
        return {**found, "python": platform.python_version()}

    def source(self, bound: Bound) -> str:
        """The emitted source of a loss."""
        return source(bound)

    def eject(self, bound: Bound, name: str) -> str:
        """A stand-alone file of a loss."""
        return eject(bound, name)

    def subject(
        self,
        spec: Spec,
        params: Mapping[str, Any],
        *,
        reduction: str = "none",
        normalizer: str | None = None,
        weights: Mapping[str, Any] | None = None,
        ports: Mapping[str, Any] | None = None,
    ) -> Subject:
        """One of our losses, ready to run."""
        sizes = sizes_of(spec, {n: np.shape(w) for n, w in (weights or {}).items()})
        settings: dict[str, Any] = {"reduction": reduction, **sizes}
        if normalizer is not None:
            settings["normalizer"] = normalizer
        if has_class_axis(spec.inputs):
            settings["axis"] = -1  # the suite's arrays lie as the specification declares them

        def make(kind: torch.dtype) -> Callable[..., Any]:
            own = {
                k: torch.tensor(np.asarray(v)).to(kind) if np.ndim(v) else v
                for k, v in params.items()
            }
            return compile_loss(spec, **settings, **own).to(kind)

        return Subject(
            make,
            weights=weights,
            ports=lambda kind: {name: _port(p, kind) for name, p in (ports or {}).items()},
        )

    def native(self, name: str, arguments: Mapping[str, Any], order: tuple[str, ...]) -> Subject:
        """The framework's own loss, unreduced, made with these arguments.

        ``order`` names the inputs as it takes them, one after another.
        """

        def make(kind: torch.dtype) -> Callable[..., Any]:
            module = original(find(name), arguments).to(kind)
            return lambda **inputs: module(*(inputs[n] for n in order))

        return Subject(make)


PROBE = _Probe()
