"""Call any loss with NumPy arrays and get NumPy arrays back: value, and gradient of its mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MODES = ("eager", "jit")
DTYPES = ("float64", "float32", "float16", "bfloat16")


def evaluate(
    call: Callable[[Mapping[str, Any]], Any],
    inputs: Mapping[str, Any],
    wrt: Sequence[str],
    dtype: str,
    mode: str = "eager",
) -> tuple[Any, dict[str, Any]]:
    """The value of ``call``, and the gradient of the value's mean in each of ``wrt``."""
    # Only here, and only while it runs: the switch belongs to the user.
    with jax.enable_x64(True):
        given = {
            n: jnp.asarray(x, dtype if np.asarray(x).dtype.kind == "f" else None)
            for n, x in inputs.items()
        }

        def mean(moving: Mapping[str, Any]) -> tuple[Any, Any]:
            value = jnp.asarray(call({**given, **moving}))
            return jnp.mean(value), value

        run = jax.grad(mean, has_aux=True)
        found, value = (jax.jit(run) if mode == "jit" else run)({n: given[n] for n in wrt})
        return np.asarray(value, np.float64), {n: np.asarray(found[n], np.float64) for n in wrt}


def accepts(value: Any) -> bool:
    """Whether this is an array of this platform."""
    return isinstance(value, jax.Array)
