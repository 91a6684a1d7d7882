"""Call any loss with NumPy arrays and get NumPy arrays back: value, and gradient of its mean."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MODES = ("eager", "jit")
# Compiled for one call: no time is spent on what would make many faster.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SWITCH: Any = getattr(jax, "enable_x64", None)
if SWITCH is None:  # before 0.8
    SWITCH = importlib.import_module("jax.experimental").enable_x64
DTYPES = ("float64", "float32", "float16", "bfloat16")


def evaluate(
    call: Callable[[Mapping[str, Any]], Any],
    inputs: Mapping[str, Any],
    wrt: Sequence[str],
    dtype: str,
    mode: str = "eager",
    kept: dict[Any, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The value of ``call``, and the gradient of the value's mean in each of ``wrt``.

    ``kept`` lets calls after the first of a shape be quick: what was compiled is kept there, by
    ``call``, for which one function must be given again.
    """
    # Only here, and only while it runs: the switch belongs to the user.
    with SWITCH(True):
        given = {
            n: jnp.asarray(x, dtype if np.asarray(x).dtype.kind == "f" else None)
            for n, x in inputs.items()
        }

        def mean(moving: Mapping[str, Any], still: Mapping[str, Any]) -> tuple[Any, Any]:
            together = {**moving, **still}
            value = jnp.asarray(call({n: together[n] for n in inputs}))
            return jnp.mean(value), value

        moving = {n: given[n] for n in wrt}
        still = {n: x for n, x in given.items() if n not in moving}
        run = jax.grad(mean, has_aux=True)
        if mode == "jit":
            found, value = jax.jit(run)(moving, still)
        elif kept is None:
            found, value = run(moving, still)
        else:
            # Operation by operation, a small input takes JAX a hundred times longer.
            key = (call, tuple(wrt))
            try:
                if key not in kept:
                    kept[key] = quickly(run)
                found, value = kept[key](moving, still)
            except Exception:  # it may ask for values, which has an answer outside jit only
                found, value = run(moving, still)
        return np.asarray(value, np.float64), {n: np.asarray(found[n], np.float64) for n in wrt}


def quickly(run: Callable[..., Any]) -> Any:
    """``run`` compiled for a few calls."""
    try:
        return jax.jit(run, compiler_options=QUICK)
    except TypeError:  # before 0.6
        return jax.jit(run)


def accepts(value: Any) -> bool:
    """Whether this is an array of this platform."""
    return isinstance(value, jax.Array)
