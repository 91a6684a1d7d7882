"""How the conformance suite and the command line reach this backend."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lossbridge.emit import emit, load
from lossbridge.errors import UnsupportedError
from lossbridge.frontdoor import Bound, sizes_of
from lossbridge.migrate.sides import original
from lossbridge.plan import Options, plan
from lossbridge.spec import Spec
from lossbridge.witnesses import find
from lossbridge_keras.ejected import eject, source
from lossbridge_keras.lowering import LOWERING
from lossbridge_keras.native import compile
from lossbridge_keras.train import train

__all__ = ["PROBE"]

DTYPES: dict[str, Any] = {
    "float64": tf.float64,
    "float32": tf.float32,
    "float16": tf.float16,
    "bfloat16": tf.bfloat16,
}


def _widened(x: Any) -> Any:
    """A result as float64, exactly; a tree of them as a list."""
    if isinstance(x, list | tuple):
        return [_widened(part) for part in x]
    return tf.cast(x, tf.float64).numpy()


class Subject:
    """A function of named inputs, run in the dtype, mode and for the gradients asked for.

    ``make`` gives the function for a dtype, and the variables that stand for its weights.
    """

    def __init__(
        self,
        make: Callable[[str], tuple[Callable[..., Any], Mapping[str, Any]]],
        ports: Callable[[str], Mapping[str, Any]] = lambda dtype: {},
    ) -> None:
        self._make = make
        self._ports = ports
        self._made: dict[str, Any] = {}
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
            raise UnsupportedError(
                f"TensorFlow has no dtype {dtype} here; it has {', '.join(DTYPES)}"
            )
        if mode not in PROBE.modes:
            raise UnsupportedError(f"Keras has no mode {mode}; it has {', '.join(PROBE.modes)}")
        given = {name: self._given(x, dtype) for name, x in inputs.items()}
        # Counts and steps are numbers of the run, not data in the dtype of the run.
        least = "float64" if dtype == "float64" else "float32"
        extra = {
            name: self._given(x, least if name in ("normalizer_count", "step") else dtype)
            for name, x in (call or {}).items()
        }
        value, gradients = self._evaluator(mode, dtype, wrt)(given, extra)
        return {
            "value": _widened(value),
            "gradients": {name: _widened(g) for name, g in zip(wrt, gradients, strict=True)},
        }

    def _given(self, x: Any, dtype: str) -> Any:
        if isinstance(x, list | tuple):
            return [self._given(part, dtype) for part in x]
        x = np.asarray(x)
        if x.dtype.kind == "f":
            return tf.cast(tf.constant(x, tf.float64), DTYPES[dtype])
        return tf.constant(x, tf.int32) if x.dtype.kind in "iu" else tf.constant(x)

    def _evaluator(self, mode: str, dtype: str, wrt: tuple[str, ...]) -> Callable[..., Any]:
        if (mode, dtype, wrt) in self._compiled:
            return self._compiled[mode, dtype, wrt]
        if dtype not in self._made:
            self._made[dtype] = (*self._make(dtype), self._ports(dtype))
        function, weights, ports = self._made[dtype]

        def run(given: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[Any, Any]:
            if not wrt:
                return function(**given, **extra, **ports), []
            with tf.GradientTape() as tape:
                sources = [weights[n] if n in weights else given[n] for n in wrt]
                tape.watch([s for n, s in zip(wrt, sources, strict=True) if n not in weights])
                value = function(**given, **extra, **ports)
                # Summed in at least float32: the sum of half-precision values overflows at 65504.
                parts = [
                    tf.reduce_sum(v if v.dtype == tf.float64 else tf.cast(v, tf.float32))
                    for v in keras.tree.flatten(value)
                ]
                total = tf.add_n(parts)
            zero = tf.UnconnectedGradients.ZERO
            found = tape.gradient(total, sources, unconnected_gradients=zero)
            # A layer's weights are kept in float32 also where all else is half: rounded here.
            return value, [
                tf.cast(g, DTYPES[dtype]) if n in weights else g
                for n, g in zip(wrt, found, strict=True)
            ]

        if mode != "eager":
            run = tf.function(run, jit_compile=mode == "xla", autograph=False)
        self._compiled[mode, dtype, wrt] = run
        return run


def _port(given: Any, dtype: str) -> Callable[..., Any]:
    """A network that is itself a specification, as a plain function TensorFlow differentiates."""
    graph = plan(given.spec, (), Options("none"), LOWERING.native).plain
    run = load(emit(graph, LOWERING, "port"), LOWERING, "port")
    names = [name for name, _ in graph.inputs()]
    compute = tf.float64 if dtype == "float64" else tf.float32

    def port(*arguments: Any) -> Any:
        values: dict[str, Any] = {n: np.asarray(x) for n, x in given.constants.items()}
        values.update(zip(given.arguments, arguments, strict=True))
        (value,) = run(*(tf.cast(values[name], compute) for name in names))
        return tf.split(value, list(given.maps), -1) if given.maps else value

    return port


class _Probe:
    """The Keras platform, on TensorFlow."""

    name = "keras"
    modes = ("eager", "graph", "xla")
    train = staticmethod(train)

    def versions(self) -> dict[str, str]:
        """The packages that decide its results, and their versions."""
        found = {"tensorflow": tf.__version__, "keras": keras.__version__}
        return {**found, "numpy": metadata.version("numpy"), "python": platform.python_version()}

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
        settings = {"reduction": reduction, **sizes, **params}
        if normalizer is not None:
            settings["normalizer"] = normalizer

        def make(dtype: str) -> tuple[Callable[..., Any], Mapping[str, Any]]:
            arrays = {
                k: tf.cast(tf.constant(np.asarray(v), tf.float64), DTYPES[dtype])
                if np.ndim(v)
                else v
                for k, v in settings.items()
            }
            loss = compile(spec, dtype=dtype, **arrays)
            held: dict[str, Any] = {}
            for name, value in (weights or {}).items():
                loss.weight(name).assign(value)
                held[name] = loss.weight(name).value
            return loss, held

        return Subject(
            make, lambda dtype: {name: _port(p, dtype) for name, p in (ports or {}).items()}
        )

    def native(self, name: str, arguments: Mapping[str, Any], order: tuple[str, ...]) -> Subject:
        """The framework's own loss, unreduced, made with these arguments.

        ``order`` names the inputs as it takes them, one after another.
        """

        def make(dtype: str) -> tuple[Callable[..., Any], Mapping[str, Any]]:
            # Without a dtype Keras would compute in float32 whatever it is given.
            loss = original(find(name), {**arguments, "dtype": dtype})
            return lambda **inputs: loss(*(inputs[n] for n in order)), {}

        return Subject(make)


PROBE = _Probe()
