"""Call any loss with NumPy arrays and get NumPy arrays back: value, and gradient of its mean."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MODES = ("eager", "jit")
SWITCH: Any = getattr(jax, "enable_x64", None)
if SWITCH is None:  # before 0.8
    SWITCH = importlib.import_module("jax.experimental").enable_x64
DTYPES = ("float64", "float32", "float16", "bfloat16")


QUICK = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
    "xla_backend_optimization_level": 0,
}


@lru_cache(maxsize=1)
def known_options() -> dict[str, Any]:
    """Those options of QUICK that this release of JAX has."""
    found: dict[str, Any] = {}
    for name, value in QUICK.items():
        try:
            jax.jit(lambda x: x, compiler_options={name: value})(0.0)
        except Exception:  # jaxlib raises an error of its own
            continue
        found[name] = value
    return found


def quickly(run: Callable[..., Any]) -> Any:
    """``run`` compiled for a few calls: no time is spent on what would make many faster."""
    options = known_options()
    return jax.jit(run, compiler_options=options) if options else jax.jit(run)


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
        key = (call, tuple(wrt))
        if kept is not None and key not in kept:
            kept[key] = quickly(run)
        if mode == "jit":
            found, value = (jax.jit(run) if kept is None else kept[key])(moving, still)
        elif kept is None:
            found, value = run(moving, still)
        else:
            # Operation by operation, a small input takes JAX a hundred times longer.
            try:
                found, value = kept[key](moving, still)
            except Exception:  # it may ask for values, which has an answer outside jit only
                found, value = run(moving, still)
        return np.asarray(value, np.float64), {n: np.asarray(found[n], np.float64) for n in wrt}


def accepts(value: Any) -> bool:
    """Whether this is an array of this platform."""
    return isinstance(value, jax.Array)
