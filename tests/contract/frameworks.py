"""The three doors, each with what a test needs of its framework."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

PLATFORMS = tuple(os.environ.get("LOSSBRIDGE_DOORS", "torch,keras,jax").split(","))


@dataclass(frozen=True)
class Framework:
    """A door: ``array`` makes its arrays, ``graph`` compiles a function of no arguments."""

    name: str
    module: Any
    array: Callable[..., Any]
    graph: Callable[[Callable[[], Any]], Callable[[], Any]]

    def pair(self, prediction: Any, target: Any) -> tuple[Any, Any]:
        """Two inputs in the order of the framework."""
        return (target, prediction) if self.name == "keras" else (prediction, target)


@cache
def framework(name: str) -> Framework:
    module = importlib.import_module(f"lossbridge.{name}")
    if name == "torch":
        import torch

        def compiled(run: Callable[[], Any]) -> Callable[[], Any]:
            return torch.compile(run, fullgraph=True, backend="eager")

        return Framework(
            name, module, lambda x, d="float32": torch.tensor(x, dtype=getattr(torch, d)), compiled
        )
    if name == "keras":
        return Framework(name, module, _tensor, _function)
    import jax
    import jax.numpy as jnp

    return Framework(
        name, module, lambda x, d="float32": jnp.asarray(x, d), lambda run: jax.jit(run)
    )


def _tensor(x: Any, dtype: str = "float32") -> Any:
    import keras

    return keras.ops.convert_to_tensor(np.asarray(x), dtype)


def _function(run: Callable[[], Any]) -> Callable[[], Any]:
    """Compiled by whatever Keras runs on; its PyTorch backend compiles nothing."""
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        return run
    if backend == "jax":
        import jax

        compiled: Callable[[], Any] = jax.jit(run)
        return compiled
    import tensorflow as tf

    made: Callable[[], Any] = tf.function(run, autograph=False)
    return made


def numbers(values: Any) -> dict[str, float]:
    """A mapping of names to single numbers, as Python's own."""
    return {name: float(np.asarray(_detached(x))) for name, x in values.items()}


def _detached(x: Any) -> Any:
    return x.detach() if hasattr(x, "detach") else x
