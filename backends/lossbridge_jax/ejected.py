"""Stand-alone files: a loss and its settings as one function that imports only JAX."""

from __future__ import annotations

import inspect

from lossbridge import frontdoor
from lossbridge.emit import stand_alone
from lossbridge.errors import UnsupportedError
from lossbridge.frontdoor import Bound
from lossbridge.integers import identities
from lossbridge.plan import Options, plan
from lossbridge_jax.engine import _dims, _paired, pushed_forward, whole, with_gradients, written
from lossbridge_jax.lowering import LOWERING

__all__ = ["eject", "source"]

_EJECTED = """

def _cast(arrays, dtype):
    return [x.astype(dtype) if k in REAL else x for k, x in enumerate(arrays)]


def _precision(arrays):
    wide = any(arrays[k].dtype == jnp.float64 for k in DECIDING)
    return jnp.float64 if wide else jnp.float32


@jax.custom_jvp
def _run(*arrays):
    dtype = _precision(arrays)
    return _value(*_cast(arrays, dtype))[0].astype(arrays[REAL[0]].dtype)


def _rule(primals, tangents):
    dtype = _precision(primals)
    moving = [k for k in REAL if not isinstance(tangents[k], SymbolicZero)]
    arrays = _cast(primals, dtype)
    if not moving:
        return _run(*primals), jnp.zeros_like(_run(*primals))
    # Tangents meet the gradients in the dtype of the computation, and are rounded once.
    value, tangent = _tangent(arrays, {k: tangents[k].astype(dtype) for k in moving})
    return value.astype(primals[REAL[0]].dtype), tangent.astype(primals[REAL[0]].dtype)


_run.defjvp(_rule, symbolic_zeros=True)
_jitted = jax.jit(_run)
"""


def source(bound: Bound) -> str:
    """The function that a training step runs: value and gradient, as stand-alone Python."""
    spec, options = bound.specs[0], Options(bound.reduction, bound.normalizer)
    prepared = plan(spec, bound.numbers[0], options, LOWERING.native)
    first = next(
        (n for n in prepared.differentiable if n in spec.inputs),
        next(iter(prepared.differentiable), None),
    )
    graph = prepared.stable if first is None else with_gradients(prepared.stable, (first,))
    return stand_alone(written(graph, spec.name), LOWERING)


def eject(bound: Bound, name: str) -> str:
    """A file with the loss as a function called ``name``; it imports JAX and nothing of ours.

    Settings are those of ``bound``; inputs come in the order of the specification, arrays given as
    hyperparameters and trainable weights after them. A second derivative is JAX's own, of the
    gradient in the file.
    """
    spec, numbers = bound.specs[0], bound.numbers[0]
    options = Options(bound.reduction, bound.normalizer, unread=True)
    prepared = plan(spec, numbers, options, LOWERING.native)
    if prepared.calls:
        raise UnsupportedError(
            f"{bound.form.name} calls functions that are given at the call, so "
            "it cannot stand alone; use it from lossbridge.jax"
        )
    stable = prepared.stable
    names = [n for n, _ in stable.inputs()]
    real = [n for n, i in stable.inputs() if stable.nodes[i].type.dtype == "real"]
    groups = [tuple(real[:1])] + ([tuple(real)] if len(real) > 1 else [])
    pieces = [written(stable, "_value")]
    lines = ["", "", "def _tangent(arrays, tangents):"]
    for k, wrt in enumerate(groups):
        last = k == len(groups) - 1
        places = [names.index(n) for n in wrt]
        indent = "    " if last else "        "
        if not last:
            lines.append(f"    if set(tangents) == {{{places[0]}}}:  # the usual case: training")
        if prepared.separable(wrt):
            pieces.append(written(with_gradients(stable, wrt), f"_fused{k}"))
            lines += [f"{indent}value, *gradients = _fused{k}(*arrays)", f"{indent}tangent = 0.0"]
            for at, (n, place) in enumerate(zip(wrt, places, strict=True)):
                order = stable.nodes[dict(stable.inputs())[n]].attr("order")
                lines += [
                    f"{indent}if {place} in tangents:",
                    f"{indent}    tangent += _paired(gradients[{at}], tangents[{place}], {order}, "
                    f"{prepared.value_axes})",
                ]
            lines.append(f"{indent}return value, tangent")
        else:
            pushed = pushed_forward(stable, wrt)
            pieces.append(written(pushed, f"_pushed{k}"))
            order = [n for n, _ in pushed.inputs()]
            given = ", ".join(
                f"arrays[{names.index(n)}]"
                if n in names
                else f"tangents.get({(k := names.index(n[8:]))}, jnp.zeros_like(arrays[{k}]))"
                for n in order
            )
            lines.append(f"{indent}return _value(*arrays)[0], _pushed{k}({given})[0]")
    call = [f"def {name}({', '.join(names)}):", f'    """{_quoted(spec.summary)}"""']
    for n in names:
        dtype = stable.nodes[dict(stable.inputs())[n]].type.dtype
        call.append(
            f"    {n} = whole(np.asarray({n}) if not isinstance({n}, jax.Array) else {n}, "
            f"{n in identities(spec).names})"
            if dtype == "int"
            else f"    {n} = jnp.asarray({n})"
        )
        if spec.numerics.dtype and n in real and n in spec.inputs:
            call.append(f'    {n} = {n}.astype("{spec.numerics.dtype}")')
        kind = spec.inputs.get(n)
        if bound.axis not in (None, -1) and kind and frontdoor.moved_axis(kind) is not None:
            source_axis = f"min(1, {n}.ndim - 1)" if bound.axis == 1 else str(bound.axis)
            call.append(f"    {n} = jnp.moveaxis({n}, {source_axis}, -1)")
    call.append(f"    return _jitted({', '.join(names)})")
    own = [inspect.getsource(f) for f in (whole, _paired)]
    own.insert(1, inspect.getsource(_dims).replace("is_star(axis)", 'axis.startswith("*")'))
    body = "\n\n".join(pieces) + _EJECTED + "\n".join(lines) + "\n\n\n" + "\n".join(call) + "\n"
    indices = ", ".join(str(names.index(n)) for n in real)
    deciding = [n for n in frontdoor.promotion_of(bound, 0).computed if n in names]
    decides = ", ".join(str(names.index(n)) for n in deciding)
    text = stand_alone(
        "\n\n".join(own)
        + f"\n\nREAL = [{indices}]  # the places of real inputs\n"
        + f"DECIDING = [{decides}]  # and of those that decide the precision\n\n"
        + body,
        LOWERING,
    )
    imports = (
        "from typing import Any\n\nimport jax\nimport numpy as np\n"
        "from collections.abc import Callable, Sequence\n"
        "from jax.custom_derivatives import SymbolicZero\n"
    )
    return text.replace("import math\n", "import math\n" + imports, 1)


def _quoted(text: str) -> str:
    """Text of a specification as the inside of a docstring."""
    return "".join(c for c in text if c.isprintable() and c not in '\\"')
