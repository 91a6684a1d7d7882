"""The engine: graphs as functions with their own derivatives, and one evaluation over them.

Derivatives come from the graph, never from JAX's own rules for the operations in it, which differ
at kinks: ``abs`` inside a sigmoid would make the second derivative 0 at 0. Each stage (the value,
its gradients, their tangents) is a ``jax.custom_jvp`` whose rule is the next stage, made when asked
for; so forward and reverse mode, nested in any order, see the stated derivative.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from lossbridge.emit import emit, load
from lossbridge.errors import ShapeError, listed
from lossbridge.frontdoor import port_squeezes
from lossbridge.ir import Builder, Graph, inline, is_star
from lossbridge.kinds import Kind
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.passes.differentiate import differentiate, push_forward
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise
from lossbridge.passes.stabilise import stabilise
from lossbridge.plan import Numbers, Options, PortCall, plan
from lossbridge.spec import Spec
from lossbridge.verify import verify
from lossbridge_jax.lowering import LOWERING

Array: TypeAlias = Any  # a jax.Array, a tracer, or what jnp.asarray takes
DType: TypeAlias = Any


# --- stages: graphs as functions with their own derivatives --------------------------------------


def _polished(graph: Graph) -> Graph:
    return verify(guard(stabilise(canonicalise(verify(graph)), derived=True)))


@functools.lru_cache(maxsize=1024)
def with_gradients(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    """The value with the gradients of unit incoming gradient, sharing subexpressions."""
    return _polished(differentiate(graph, "value", wrt))


@functools.lru_cache(maxsize=1024)
def pushed_forward(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    """The tangents of all outputs, under the outputs' names."""
    builder = Builder(graph.layout)
    outputs = {}
    for name, _ in graph.outputs:
        one = push_forward(graph, name, wrt)
        outputs[name] = inline(builder, one, {})[one.output("tangent")]
    return _polished(builder.finish(**outputs))


def written(graph: Graph, name: str) -> str:
    """A graph as source text: a function of this name."""
    return emit(verify(guard(legalise(graph, LOWERING.native))), LOWERING, name)


@functools.lru_cache(maxsize=1024)
def _stage(graph: Graph) -> Callable[..., tuple[Array, ...]]:
    """A function from the graph's inputs, in order, to its outputs, that knows its derivative."""
    names = [name for name, _ in graph.inputs()]
    real = {name for name, index in graph.inputs() if graph.nodes[index].type.dtype == "real"}
    run = jax.custom_jvp(load(written(graph, "loss"), LOWERING, "loss"))

    def rule(primals: Sequence[Array], tangents: Sequence[Array]) -> tuple[Any, Any]:
        outputs = run(*primals)
        moving = {
            name: tangent
            for name, tangent in zip(names, tangents, strict=True)
            if name in real and not isinstance(tangent, SymbolicZero)
        }
        if not moving:
            return outputs, tuple(jnp.zeros_like(o) for o in outputs)
        pushed = pushed_forward(graph, tuple(moving))
        values = dict(zip(names, primals, strict=True))
        values.update((f"tangent_{name}", tangent) for name, tangent in moving.items())
        return outputs, _stage(pushed)(*(values[name] for name, _ in pushed.inputs()))

    run.defjvp(rule, symbolic_zeros=True)
    return run


def _dims(order: Sequence[str], axes: Sequence[str], rank: int) -> dict[str, tuple[int, ...]]:
    """The dimensions of each of ``axes`` in an array of this rank that has the axes ``order``."""
    found: dict[str, tuple[int, ...]] = {}
    at = 0
    for axis in order:
        width = rank - len(order) + 1 if is_star(axis) else 1
        found[axis] = tuple(range(at, at + width))
        at += width
    return {axis: found[axis] for axis in axes}


def _paired(gradient: Array, tangent: Array, order: Sequence[str], kept: Sequence[str]) -> Array:
    """The product of a saved gradient and a tangent, summed over all axes but ``kept``."""
    product = gradient * tangent
    gone = [axis for axis in order if axis not in kept]
    rank = product.ndim
    dims = [d for ds in _dims(order, gone, rank).values() for d in ds]
    total = jnp.sum(product, axis=tuple(dims)) if dims else product
    left = [axis for axis in order if axis in kept]
    if left != list(kept):
        places = _dims(left, kept, total.ndim)
        total = jnp.transpose(total, [d for axis in kept for d in places[axis]])
    return total


@functools.lru_cache(maxsize=4096)
def compiled(
    spec: Spec, numbers: Numbers, options: Options, compute: DType, out: DType
) -> Callable[..., Array]:
    """The fused function of a loss, its dtype policy inside the derivative rule.

    A gradient stays in the compute dtype until it has met the incoming one, and is rounded once:
    rounded to float16 before, 18 % of a real gradient would vanish under loss scaling.
    """
    prepared = plan(spec, numbers, options, LOWERING.native)
    stable = prepared.stable
    rows = dict(stable.inputs())
    names = tuple(rows)
    kinds = {name: stable.nodes[index].type.dtype for name, index in rows.items()}
    orders = {name: stable.nodes[index].attr("order") for name, index in rows.items()}

    def widened(arrays: Sequence[Array]) -> list[Array]:
        return [
            x.astype(compute) if kinds[name] == "real" else x
            for name, x in zip(names, arrays, strict=True)
        ]

    @jax.custom_jvp
    def run(*arrays: Array) -> Array:
        return _stage(stable)(*widened(arrays))[0].astype(out)

    def rule(primals: Sequence[Array], tangents: Sequence[Array]) -> tuple[Array, Array]:
        moving = {
            name: tangent.astype(compute)
            for name, tangent in zip(names, tangents, strict=True)
            if kinds[name] == "real" and not isinstance(tangent, SymbolicZero)
        }
        if not moving:
            value = run(*primals)
            return value, jnp.zeros_like(value)
        wrt = tuple(moving)
        arrays = widened(primals)
        if prepared.separable(wrt):
            value, *gradients = _stage(with_gradients(stable, wrt))(*arrays)
            tangent = sum(
                _paired(gradient, moving[name], orders[name], prepared.value_axes)
                for name, gradient in zip(wrt, gradients, strict=True)
            )
        else:
            value = _stage(stable)(*arrays)[0]
            pushed = pushed_forward(stable, wrt)
            values = dict(zip(names, arrays, strict=True))
            values.update((f"tangent_{name}", t) for name, t in moving.items())
            tangent = _stage(pushed)(*(values[name] for name, _ in pushed.inputs()))[0]
        return value.astype(out), tangent.astype(out)

    run.defjvp(rule, symbolic_zeros=True)
    return jax.jit(run, inline=True)


def whole(x: Array, identity: bool = False, far: tuple[int, ...] = ()) -> Array:
    """Integers as int32, in which they are compared with every number.

    What does not fit is held at the end, out of every range; of the numbers ``far`` beyond int32
    that a loss has, each stays what no other integer is. An ``identity`` is as wide as it was
    given, and of an unsigned one the same bits.
    """
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    wide, unsigned = x.dtype.itemsize == 8, x.dtype.kind == "u"
    if identity and (wide or x.dtype == np.uint32):
        if jax.dtypes.canonicalize_dtype(np.int64) == np.int64:
            return jnp.asarray(x).astype(np.int64)
        if not wide:
            return x.view(np.int32) if xp is np else lax.bitcast_convert_type(x, np.int32)
        if x.size and (x.min() < -(2**31) or x.max() >= 2**31):
            raise TypeError("these labels do not fit into int32, and JAX has no int64 without x64")
    if x.dtype.itemsize < 4 or (x.dtype == np.int32 and not far):
        return x.astype(np.int32)
    held = xp.minimum(x, xp.asarray(2**31 - 1 - bool(far), x.dtype))
    if not unsigned:
        held = xp.maximum(held, xp.asarray(-(2**31) + bool(far), x.dtype))
    held = held.astype(np.int32)
    for number in far if wide else ():
        if number >= 0 or not unsigned:
            end = np.int32(2**31 - 1 if number > 0 else -(2**31))
            held = xp.where(x == np.asarray(number, x.dtype), end, held)
    return held


@functools.lru_cache(maxsize=1024)
def _arguments(graph: Graph) -> Callable[..., tuple[Array, ...]]:
    return _stage(verify(stabilise(canonicalise(verify(graph)))))


# --- one evaluation: ports and used losses first, then the fused function ------------------------


class Run:
    """One call's arrays by name, the lengths of its axes, and what its ports returned."""

    def __init__(
        self,
        name: str,
        values: dict[str, Array],
        lengths: Mapping[str, Sequence[int | None]],
        ports: Mapping[str, Callable[..., Any]],
        compute: DType,
        seen: DType,
    ) -> None:
        self.name = name
        self.values = values
        self.lengths = lengths
        self.ports = ports
        self.compute = compute
        self.seen = seen  # the dtype in which ports are given what was computed
        self.maps: dict[str, list[int]] = {}

    def __call__(self, spec: Spec, numbers: Numbers, options: Options, out: DType) -> Array:
        prepared = plan(spec, numbers, options, LOWERING.native)
        # How a port's maps are cut is known once it has returned them.
        for call in sorted(prepared.calls, key=lambda c: c.op in ("segments", "map_sizes")):
            self.values[call.name] = self._outside(spec, call)
        run = compiled(spec, numbers, options, self.compute, out)
        return run(*(self.values[name] for name, _ in prepared.stable.inputs()))

    def _outside(self, spec: Spec, call: PortCall) -> Array:
        if call.op == "segments":
            sizes = self.maps[call.port]
            return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        if call.op == "map_sizes":
            return jnp.asarray(self.maps[call.port], self.compute)
        if call.op == "use":
            used = spec.uses[call.port]
            given = dict(zip(call.keys, self._given(call, self.compute), strict=True))
            missing = tuple(
                (k, p.value)
                for k, p in used.params.items()
                if k not in given and k not in dict(call.numbers) and p.value is not None
            )
            inner = Run(self.name, given, self.lengths, self.ports, self.compute, self.seen)
            return inner(used, (*call.numbers, *missing), Options(), self.compute)
        function: Callable[..., Any] = self.ports[call.port]
        port = spec.ports[call.port]
        if port.output.name == "maps" and call.op == "apply":
            return self._joined(call, function(*self._given(call, self.seen)))
        function = self._checked(call, port.output, function)
        for position in call.wrt:
            function = _slope(function, position)
        return function(*self._given(call, self.seen))

    def _given(self, call: PortCall, dtype: DType) -> Sequence[Array]:
        if call.passed is not None:
            return [self.values[name] for name in call.passed]
        names = [name for name, _ in call.arguments.inputs()]
        arrays = [
            v.astype(self.compute) if jnp.issubdtype(v.dtype, jnp.floating) else v
            for v in (jnp.asarray(self.values[name]) for name in names)
        ]
        found = _arguments(call.arguments)(*arrays)
        return [f.astype(dtype) if jnp.issubdtype(f.dtype, jnp.floating) else f for f in found]

    def _checked(
        self, call: PortCall, output: Kind, function: Callable[..., Any]
    ) -> Callable[..., Array]:
        """A port whose result has the shape it was declared with, or else says so."""

        def run(*arguments: Array) -> Array:
            result = jnp.asarray(function(*arguments))
            squeezes = port_squeezes(self.name, call.port, output, result.shape, self.lengths)
            return result[..., 0] if squeezes else result

        return run

    def _joined(self, call: PortCall, result: Any) -> Array:
        """Feature maps as one array, each flattened behind the batch."""
        maps = [jnp.asarray(m) for m in (result if isinstance(result, list | tuple) else [result])]
        batch = maps[0].shape[0] if maps and maps[0].ndim else None
        if any(m.ndim < 1 or m.shape[0] != batch for m in maps) or not maps:
            raise ShapeError(
                f"{self.name}: {call.port} returned maps of shapes "
                f"{listed(str(tuple(m.shape)) for m in maps)}; each begins with the same batch"
            )
        sizes = [math.prod(m.shape[1:]) for m in maps]
        known = self.maps.setdefault(call.port, sizes)
        if known != sizes:
            raise ShapeError(
                f"{self.name}: {call.port} returned maps of {known} elements for one input and "
                f"{sizes} for the other; give inputs of one shape"
            )
        return jnp.concatenate([m.reshape(batch, -1) for m in maps], axis=1)


def _slope(function: Callable[..., Any], position: int) -> Callable[..., Any]:
    """The derivative of the sum of a function's value in one of its arguments."""
    return jax.grad(lambda *xs: jnp.sum(function(*xs)), argnums=position)
