"""Call any loss with NumPy arrays and get NumPy arrays back: value, and gradient of its mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

MODES = ("eager",)
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

    ``kept`` is of use on platforms that compile; here nothing is kept.
    """
    given = {
        n: torch.tensor(x, dtype=getattr(torch, dtype) if np.asarray(x).dtype.kind == "f" else None)
        for n, x in inputs.items()
    }
    for name in wrt:
        given[name].requires_grad_()
    value = call(given)
    leaves = [given[n] for n in wrt]
    found: Sequence[torch.Tensor | None] = [None] * len(leaves)
    if leaves and value.requires_grad and value.numel():
        found = torch.autograd.grad(value.mean(), leaves, allow_unused=True)
    gradients = {
        n: np.zeros(leaf.shape) if g is None else g.double().numpy()
        for n, leaf, g in zip(wrt, leaves, found, strict=True)
    }
    return value.detach().double().numpy(), gradients


def accepts(value: Any) -> bool:
    """Whether this is a tensor of this platform."""
    return isinstance(value, torch.Tensor)
