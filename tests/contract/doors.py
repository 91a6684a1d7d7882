"""The public doors behind one interface: arrays in, arrays out, in every mode of a platform.

``opened("torch").run(loss, inputs, wrt)`` calls a loss as a user of that platform does, by keyword,
and returns NumPy arrays. Nothing here knows a loss.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def keras_backend() -> str:
    """Which backend Keras has, or would take, in this process."""
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def modes(name: str) -> tuple[str, ...]:
    """The modes of a door, without importing its framework."""
    if name == "torch":
        return ("eager", "compiled")
    if name == "jax":
        return ("eager", "jit")
    return {"tensorflow": ("eager", "graph", "xla"), "jax": ("eager", "jit"), "torch": ("eager",)}[
        keras_backend()
    ]


@functools.cache
def opened(name: str) -> Door:
    """The door of this name; the test is skipped where the framework is not installed."""
    needs = {"torch": ["torch"], "keras": ["keras", keras_backend()], "jax": ["jax", "optax"]}[name]
    for module in needs:
        pytest.importorskip(module)
    made: Door = {"torch": Torch, "keras": Keras, "jax": Jax}[name]()
    return made


@dataclass(frozen=True)
class Result:
    """A value and the gradients of its sum, widened to float64, and the value's own dtype."""

    value: Any
    gradients: Mapping[str, Any]
    dtype: str


class Door:
    """What every door does; the three below say how."""

    name: str
    framework: str  # of the tensors: of Keras, that of its backend
    eager: tuple[str, ...] = ("eager",)  # the modes in which a message can read values

    def __init__(self) -> None:
        self.L: Any = importlib.import_module(f"lossbridge.{self.name}")

    @property
    def modes(self) -> tuple[str, ...]:
        return modes(self.name)

    def make(self, class_: str, **settings: Any) -> Any:
        """A loss of the catalogue; NumPy settings become tensors."""
        return getattr(self.L, class_)(**self.tensors(settings))

    def tensors(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays as this platform's tensors, of the same dtype; all else as it is."""
        return {
            n: self.tensor(x) if isinstance(x, np.ndarray | np.generic) else x
            for n, x in arrays.items()
        }

    def tensor(self, x: Any) -> Any:
        raise NotImplementedError

    def array(self, x: Any) -> Any:
        """A tensor as NumPy's, floats widened to float64; a tree of them as a list."""
        raise NotImplementedError

    def dtype(self, x: Any) -> str:
        """The name of a tensor's dtype."""
        return str(x.dtype).removeprefix("torch.").removeprefix("<dtype: '").removesuffix("'>")

    def set_weights(self, loss: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Give a loss its trainable weights; what the call then takes besides."""
        raise NotImplementedError

    def held(self, loss: Any, name: str) -> Any:
        """A trainable weight, as the tensor that a gradient is taken in."""
        return getattr(loss, name)

    def wide(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, float64 and int64 are what they say."""
        return contextlib.nullcontext()

    def function(
        self,
        loss: Any,
        wrt: Sequence[str] = (),
        mode: str = "eager",
        weights: Mapping[str, Any] | None = None,
    ) -> Callable[..., Result]:
        """The loss as a function of NumPy arrays by name, compiled once for calls of one shape.

        ``wrt`` names the inputs and weights to differentiate in.
        """
        raise NotImplementedError

    def run(
        self,
        loss: Any,
        inputs: Mapping[str, Any],
        wrt: Sequence[str] = (),
        mode: str = "eager",
        *,
        weights: Mapping[str, Any] | None = None,
        **call: Any,
    ) -> Result:
        """One call of that function."""
        return self.function(loss, wrt, mode, weights)(**inputs, **call)

    def __repr__(self) -> str:
        return self.name


def _summed(parts: Any) -> Any:
    """The sum of all numbers of a value, or of a list of values."""
    return functools.reduce(lambda a, b: a + b, parts)


class Torch(Door):
    """PyTorch; compiled is Dynamo's tracing and AOT autograd, without a code generator."""

    name = framework = "torch"

    def tensor(self, x: Any) -> Any:
        import torch

        x = np.asarray(x)
        if x.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(np.array(x))

    def array(self, x: Any) -> Any:
        if isinstance(x, list | tuple):
            return [self.array(part) for part in x]
        x = x.detach()
        return (x.double() if x.is_floating_point() else x).numpy()

    def set_weights(self, loss: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        for name, value in weights.items():
            parameter = getattr(loss, name)
            with torch.no_grad():
                parameter.data = self.tensor(value).to(parameter.device)
        return {}

    def function(
        self,
        loss: Any,
        wrt: Sequence[str] = (),
        mode: str = "eager",
        weights: Mapping[str, Any] | None = None,
    ) -> Callable[..., Result]:
        import torch

        extra = self.set_weights(loss, weights or {})
        compiled: Callable[..., Any] = loss
        if mode == "compiled":
            compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)

        def run(**arrays: Any) -> Result:
            named = self.tensors(arrays)
            for name in wrt:
                if name in named:
                    named[name].requires_grad_()
            with torch._dynamo.config.patch(recompile_limit=64):  # a form for each dtype
                value = compiled(**named, **extra)
            parts = value if isinstance(value, list | tuple) else [value]
            sources = [named[n] if n in named else self.held(loss, n) for n in wrt]
            slopes: Sequence[Any] = ()
            if sources:
                total = _summed([p.double().sum() for p in parts])
                slopes = (
                    torch.autograd.grad(total, sources, allow_unused=True, materialize_grads=True)
                    if total.requires_grad
                    else [torch.zeros_like(s) for s in sources]
                )
            found = {n: self.array(g) for n, g in zip(wrt, slopes, strict=True)}
            return Result(self.array(value), found, self.dtype(parts[0]))

        return run


class Jax(Door):
    """JAX; 64-bit inputs run where the user has switched them on."""

    name = framework = "jax"

    def tensor(self, x: Any) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(x)

    def array(self, x: Any) -> Any:
        import jax.numpy as jnp

        if isinstance(x, list | tuple):
            return [self.array(part) for part in x]
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return np.asarray(x).astype(np.float64) if floating else np.asarray(x)

    def set_weights(self, loss: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
        return {"params": self.tensors(weights)} if weights else {}

    def wide(self) -> contextlib.AbstractContextManager[Any]:
        from lossbridge_jax.probe import wide

        return wide(True)

    def function(
        self,
        loss: Any,
        wrt: Sequence[str] = (),
        mode: str = "eager",
        weights: Mapping[str, Any] | None = None,
    ) -> Callable[..., Result]:
        extra = self.set_weights(loss, weights or {})
        return _by_jax(self, loss, wrt, mode, extra.get("params", {}))


def _needs_wide(arrays: Mapping[str, Any]) -> bool:
    return any(
        isinstance(x, np.ndarray | np.generic) and x.dtype.itemsize == 8 for x in arrays.values()
    )


def _by_jax(
    door: Door, loss: Any, wrt: Sequence[str], mode: str, params: Mapping[str, Any]
) -> Callable[..., Result]:
    import jax
    import jax.numpy as jnp

    def value(moving: Any, still: Any, order: tuple[str, ...], rest: Any) -> tuple[Any, Any]:
        arrays = {**still, **moving}
        learned = {n: arrays[n] for n in params}
        further = {"params": learned} if learned else {}
        found = loss(**{n: arrays[n] if n in arrays else rest[n] for n in order}, **further)
        parts = found if isinstance(found, list | tuple) else [found]
        wide = [p.astype(jnp.promote_types(p.dtype, jnp.float32)).sum() for p in parts]
        return _summed(wide), found

    compiled: dict[tuple[str, ...], Any] = {}

    def both(order: tuple[str, ...], rest: Any) -> Callable[..., Any]:
        def evaluate(moving: Any, still: Any) -> tuple[Any, Any]:
            if not wrt:
                return value(moving, still, order, rest)[1], {}
            (_, found), slopes = jax.value_and_grad(
                lambda m: value(m, still, order, rest), has_aux=True
            )(moving)
            return found, slopes

        return jax.jit(evaluate) if mode == "jit" else evaluate

    def run(**arrays: Any) -> Result:
        with door.wide() if _needs_wide(arrays) else contextlib.nullcontext():
            named = {**door.tensors(params), **door.tensors(arrays)}
            rest = {n: x for n, x in named.items() if not isinstance(x, jax.Array)}
            still = {n: x for n, x in named.items() if n not in rest and n not in wrt}
            order = tuple(arrays)
            if order not in compiled:
                compiled[order] = both(order, rest)
            found, slopes = compiled[order]({n: named[n] for n in wrt}, still)
            first = found[0] if isinstance(found, list | tuple) else found
            slopes = {n: door.array(slopes[n]) for n in wrt}
            return Result(door.array(found), slopes, door.dtype(first))

    return run


class Keras(Door):
    """Keras, on the backend that this process has."""

    name = "keras"

    def __init__(self) -> None:
        super().__init__()
        import keras

        self.framework = keras.backend.backend()

    def tensor(self, x: Any) -> Any:
        if self.framework == "torch":
            return Torch.tensor(self, x)  # type: ignore[arg-type]
        if self.framework == "jax":
            return Jax.tensor(self, x)  # type: ignore[arg-type]
        import tensorflow as tf

        return tf.constant(x)

    def array(self, x: Any) -> Any:
        if self.framework == "torch":
            return Torch.array(self, x)  # type: ignore[arg-type]
        if self.framework == "jax":
            return Jax.array(self, x)  # type: ignore[arg-type]
        import tensorflow as tf

        if isinstance(x, list | tuple):
            return [self.array(part) for part in x]
        return (tf.cast(x, tf.float64) if x.dtype.is_floating else x).numpy()

    def set_weights(self, loss: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in weights.items():
            loss.weight(name).assign(value)
        return {}

    def held(self, loss: Any, name: str) -> Any:
        return loss.weight(name).value

    def wide(self) -> contextlib.AbstractContextManager[Any]:
        if self.framework == "jax":
            return Jax.wide(self)  # type: ignore[arg-type]
        return contextlib.nullcontext()

    def function(
        self,
        loss: Any,
        wrt: Sequence[str] = (),
        mode: str = "eager",
        weights: Mapping[str, Any] | None = None,
    ) -> Callable[..., Result]:
        self.set_weights(loss, weights or {})
        if self.framework == "jax":
            import keras

            def with_weights(params: Mapping[str, Any] | None = None, **named: Any) -> Any:
                held = [(loss.weight(n), x) for n, x in (params or {}).items()]
                with keras.StatelessScope(state_mapping=held):
                    return loss(**named)

            return _by_jax(self, with_weights, wrt, mode, weights or {})
        if self.framework == "torch":
            return Torch.function(self, loss, wrt, mode)  # type: ignore[arg-type]
        import tensorflow as tf

        def evaluate(tensors: Any, rest: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                sources = [tensors[n] if n in tensors else loss.weight(n).value for n in wrt]
                tape.watch([s for n, s in zip(wrt, sources, strict=True) if n in tensors])
                value = loss(**tensors, **rest)
                parts = value if isinstance(value, list | tuple) else [value]
                total = tf.add_n([tf.reduce_sum(tf.cast(p, tf.float64)) for p in parts])
            zero = tf.UnconnectedGradients.ZERO
            slopes = tape.gradient(total, sources, unconnected_gradients=zero) if wrt else []
            return value, [tf.convert_to_tensor(g) for g in slopes]

        compiled: dict[tuple[str, ...], Any] = {}

        def run(**arrays: Any) -> Result:
            named = self.tensors(arrays)
            rest = {n: x for n, x in named.items() if not tf.is_tensor(x)}
            tensors = {n: x for n, x in named.items() if n not in rest}
            if mode == "eager":
                value, slopes = evaluate(tensors, rest)
            else:
                if tuple(arrays) not in compiled:
                    compiled[tuple(arrays)] = tf.function(
                        lambda t: evaluate(t, rest), autograph=False, jit_compile=mode == "xla"
                    )
                value, slopes = compiled[tuple(arrays)](tensors)
            first = value[0] if isinstance(value, list | tuple) else value
            found = {n: self.array(g) for n, g in zip(wrt, slopes, strict=True)}
            return Result(self.array(value), found, self.dtype(first))

        return run
