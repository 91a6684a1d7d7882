"""How the conformance suite and the command line reach this backend."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossbridge.emit import emit, load
from lossbridge.errors import UnsupportedError
from lossbridge.frontdoor import Bound, forms, sizes_of
from lossbridge.migrate.sides import original
from lossbridge.plan import Options, plan
from lossbridge.spec import Spec
from lossbridge.witnesses import find
from lossbridge_jax.ejected import eject, source
from lossbridge_jax.lowering import LOWERING
from lossbridge_jax.native import Loss, compile
from lossbridge_jax.train import train

__all__ = ["PROBE", "wide"]

DTYPES: dict[str, Any] = {
    "float64": jnp.float64,
    "float32": jnp.float32,
    "float16": jnp.float16,
    "bfloat16": jnp.bfloat16,
}


def wide(switch: bool) -> AbstractContextManager[Any]:
    """64-bit types for the time of a block; JAX moved the switch and dropped its old place."""
    found: Any = getattr(jax, "enable_x64", None)
    if found is None:
        found = importlib.import_module("jax.experimental").enable_x64
    context: AbstractContextManager[Any] = found(switch)
    return context


def _widened(x: Any) -> Any:
    """A result as float64, exactly; a tree of them as a list."""
    if isinstance(x, list | tuple):
        return [_widened(part) for part in x]
    return np.asarray(x).astype(np.float64)


class Subject:
    """A function of named inputs, run in the dtype, mode and for the gradients asked for."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        weights: Mapping[str, Any] | None = None,
        ports: Callable[[str], Mapping[str, Any]] = lambda dtype: {},
    ) -> None:
        self._function = function
        self._weights = dict(weights or {})
        self._ports = ports
        self._compiled: dict[Any, Callable[..., Any]] = {}

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
            raise UnsupportedError(f"JAX has no dtype {dtype} here; it has {', '.join(DTYPES)}")
        if mode not in PROBE.modes:
            raise UnsupportedError(f"JAX has no mode {mode}; it has {', '.join(PROBE.modes)}")
        with wide(dtype == "float64"):
            given = {name: self._given(x, dtype) for name, x in inputs.items()}
            given.update((name, self._given(x, dtype)) for name, x in self._weights.items())
            # Counts and steps are numbers of the run, not data in the dtype of the run.
            least = "float64" if dtype == "float64" else "float32"
            extra = {
                name: self._given(x, least if name in ("normalizer_count", "step") else dtype)
                for name, x in (call or {}).items()
            }
            moving = {name: given.pop(name) for name in wrt}
            evaluate = self._evaluator(mode, dtype, tuple(inputs))
            value, gradients = evaluate(moving, given, extra)
            return {
                "value": _widened(value),
                "gradients": {name: _widened(gradients[name]) for name in wrt},
            }

    def _given(self, x: Any, dtype: str) -> Any:
        if isinstance(x, list | tuple):
            return [self._given(part, dtype) for part in x]
        x = np.asarray(x)
        if x.dtype.kind == "f":
            return jnp.asarray(x.astype(DTYPES[dtype]))
        if x.dtype.kind in "iu":
            return jnp.asarray(x.astype(np.int32))
        return jnp.asarray(x)

    def _evaluator(self, mode: str, dtype: str, order: tuple[str, ...]) -> Callable[..., Any]:
        if (mode, dtype, order) not in self._compiled:
            ports = self._ports(dtype)

            def value(
                moving: Mapping[str, Any], fixed: Mapping[str, Any], extra: Mapping[str, Any]
            ) -> tuple[Any, Any]:
                both = {**moving, **fixed}
                named = {name: both[name] for name in order}  # a pytree forgets the order
                if self._weights:
                    named["params"] = {name: both[name] for name in self._weights}
                result = self._function(**named, **extra, **ports)
                # Summed in at least float32: the sum of half-precision values overflows at 65504.
                wide_sum = jnp.sum(result.astype(jnp.promote_types(result.dtype, jnp.float32)))
                return wide_sum, result

            def with_gradients(moving: Any, fixed: Any, extra: Any) -> tuple[Any, Any]:
                (_, result), gradients = jax.value_and_grad(value, has_aux=True)(
                    moving, fixed, extra
                )
                return result, gradients

            def alone(moving: Any, fixed: Any, extra: Any) -> tuple[Any, Any]:
                return value(moving, fixed, extra)[1], {}

            def run(moving: Any, fixed: Any, extra: Any) -> tuple[Any, Any]:
                return (with_gradients if moving else alone)(moving, fixed, extra)

            self._compiled[mode, dtype, order] = jax.jit(run) if mode == "jit" else run
        return self._compiled[mode, dtype, order]


def _port(given: Any, dtype: str) -> Callable[..., Any]:
    """A network that is itself a specification, as a plain function JAX differentiates."""
    graph = plan(given.spec, (), Options("none"), LOWERING.native).plain
    run = load(emit(graph, LOWERING, "port"), LOWERING, "port")
    names = [name for name, _ in graph.inputs()]
    compute = jnp.promote_types(DTYPES[dtype], jnp.float32)

    def port(*arguments: Any) -> Any:
        values = {name: np.asarray(x) for name, x in given.constants.items()}
        values.update(zip(given.arguments, arguments, strict=True))
        (value,) = run(*(jnp.asarray(values[name]).astype(compute) for name in names))
        if not given.maps:
            return value
        ends = np.cumsum(given.maps)
        return [value[..., end - n : end] for n, end in zip(given.maps, ends, strict=True)]

    return port


class _Probe:
    """The JAX platform."""

    name = "jax"
    modes = ("eager", "jit")

    def train(self, task: Any, loss: Callable[..., Any] | None = None) -> dict[str, Any]:
        """One training run of the convergence track, by default with our loss of that name."""
        return train(task, compile(forms()[task.loss]) if loss is None else loss)

    def source(self, bound: Bound) -> str:
        """The emitted source of a loss."""
        return source(bound)

    def eject(self, bound: Bound, name: str) -> str:
        """A stand-alone file with the loss."""
        return eject(bound, name)

    def versions(self) -> dict[str, str]:
        """The packages that decide its results, and their versions."""
        found = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax", "numpy")}
        return {**found, "python": platform.python_version()}

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
        settings = {"reduction": reduction, **sizes, **params}
        if normalizer is not None:
            settings["normalizer"] = normalizer
        loss = _Lazily(spec, settings)
        return Subject(
            loss,
            weights=weights,
            ports=lambda dtype: {name: _port(p, dtype) for name, p in (ports or {}).items()},
        )

    def native(self, name: str, arguments: Mapping[str, Any], order: tuple[str, ...]) -> Subject:
        """The framework's own loss, unreduced, made with these arguments.

        ``order`` names the inputs as it takes them, one after another.
        """
        function = original(find(name), arguments)
        return Subject(lambda **inputs: function(*(inputs[n] for n in order)))


class _Lazily:
    """A loss whose array parameters are made in the dtype in force, not when it is named."""

    def __init__(self, spec: Spec, settings: Mapping[str, Any]) -> None:
        self._spec, self._settings = spec, dict(settings)
        self._made: dict[bool, Loss] = {}

    def __call__(self, **inputs: Any) -> Any:
        doubled = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
        if doubled not in self._made:
            self._made[doubled] = compile(self._spec, **self._settings)
        return self._made[doubled](**inputs)


PROBE = _Probe()
