"""Ports: functions the user supplies, called outside the fused function, by torch's autograd."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbridge import frontdoor
from lossbridge.errors import ArgumentError, ShapeError, shown
from lossbridge_torch.arguments import Lengths
from lossbridge_torch.engine import Outside, dual_level, transformed


def outside(
    name: str,
    call: Outside,
    arguments: Callable[..., Sequence[Tensor]] | None,
    inputs: dict[str, Any],
    ports: Mapping[str, Any],
    lengths: Lengths,
    compute: torch.dtype,
) -> Tensor:
    """What a call outside the fused function gives: a port, its derivative, facts of its maps.

    ``arguments`` computes what the port is called with, where that is not inputs as they come.
    """
    if call.op in ("segments", "map_sizes"):
        sizes = inputs[f"maps of {call.port}"]
        device = inputs[next(iter(inputs))].device
        table = torch.tensor(sizes, device=device)
        if call.op == "map_sizes":
            return table.to(compute)
        # The size of the result is known: read from the table, it breaks a compiled graph.
        return torch.repeat_interleave(
            torch.arange(len(sizes), device=device), table, output_size=sum(sizes)
        )
    given = given_to(call, arguments, inputs, compute)
    if call.maps and call.op == "apply":
        return _joined(name, call, ports[call.port](*given), inputs)

    def function(*xs: Tensor) -> Tensor:
        result = ports[call.port](*xs)
        if not isinstance(result, Tensor):
            raise ArgumentError(
                f"{name}: {call.port} returned {shown(type(result).__name__)}, but a "
                "tensor was expected"
            )
        if frontdoor.port_squeezes(name, call.port, call.output, result.shape, lengths):
            return result.squeeze(-1)
        return result

    return _slope(function, given, call.wrt) if call.op == "derivative" else function(*given)


def given_to(
    call: Outside,
    arguments: Callable[..., Sequence[Tensor]] | None,
    inputs: Mapping[str, Any],
    compute: torch.dtype,
) -> list[Tensor]:
    """What a port or a used loss is called with; what is computed comes in its source's dtype."""
    if call.passed is not None:
        return [inputs[n] for n in call.passed]
    assert arguments is not None
    values = [inputs[n] for n in call.names]
    seen = next((v.dtype for v in values if v.is_floating_point()), compute)
    results = arguments(*[v.to(compute) if v.is_floating_point() else v for v in values])
    return [r.to(seen) if r.is_floating_point() else r for r in results]


def _slope(function: Callable[..., Tensor], given: Sequence[Tensor], wrt: Sequence[int]) -> Tensor:
    """The derivatives of the sum of a port's value, one after the other."""
    # Dual numbers too: the detached tensor below would have no tangent (a wrong result, silently).
    if torch.compiler.is_compiling() or transformed() or dual_level():
        wrapped: Any = function
        for position in wrt:
            wrapped = torch.func.grad(functools.partial(_summed, wrapped), argnums=position)
        return wrapped(*given)  # type: ignore[no-any-return]
    with torch.enable_grad():
        xs = [
            x if x.requires_grad or k not in wrt else x.detach().requires_grad_()
            for k, x in enumerate(given)
        ]
        value = function(*xs)
        for position in wrt:
            if not value.requires_grad:
                return torch.zeros_like(xs[position])
            (value,) = torch.autograd.grad(
                value.sum(), xs[position], create_graph=True, materialize_grads=True
            )
    return value


def _summed(function: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    return function(*xs).sum()


def _joined(name: str, call: Outside, result: Any, inputs: dict[str, Any]) -> Tensor:
    """Feature maps as one tensor, each flattened behind the batch."""
    maps = list(result) if isinstance(result, list | tuple) else [result]
    if (
        not maps
        or any(not isinstance(m, Tensor) or m.dim() < 1 for m in maps)
        or len({m.shape[0] for m in maps}) != 1
    ):
        raise ShapeError(
            f"{name}: {call.port} must return one map or a list of maps, each with the batch first"
        )
    sizes = [math.prod(m.shape[1:]) for m in maps]
    key = f"maps of {call.port}"
    known = inputs.setdefault(key, sizes)
    if known != sizes:
        raise ShapeError(
            f"{name}: {call.port} returned maps of {known} elements for one input and {sizes} for "
            "the other; give inputs of one shape"
        )
    return torch.cat([m.flatten(1) if m.dim() > 1 else m[:, None] for m in maps], dim=1)
