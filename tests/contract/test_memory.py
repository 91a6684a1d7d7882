"""No tensor that a call makes is larger than what its definition names.

The largest input, weight, result of a contraction or declared pair bounds everything, in value and
gradients: a contraction that is multiplied out and then summed asks for 134 GB where a head of
2048 x 32000 needs 262 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from doors import Door
from samples import Sample, every

from lossbridge.ir import is_star
from lossbridge.plan import spec_graph


def recursive(s: Sample) -> bool:
    return any(node.op == "scan" for node in spec_graph(s.spec).nodes)


# A recursion's values at all its steps are there at once, which no row of the definition says.
each = pytest.mark.parametrize(
    "s", every(lambda s: not (s.spec.ports or s.tree or recursive(s))), ids=lambda s: s.id
)


def bound(s: Sample) -> int:
    """The elements of the largest row of the definition, a contraction being one row."""
    lengths: dict[str, int] = {}
    kinds = {**s.spec.inputs, **{n: w.kind for n, w in s.spec.weights.items()}}
    for name, x in {**s.inputs, **s.weights}.items():
        axes, shape = kinds[name].axes, list(x.shape)
        wide = len(shape) - len(axes) + 1
        for axis in axes:
            own = [shape.pop(0) for _ in range(wide if is_star(axis) else 1)]
            lengths[axis] = math.prod(own)
    rows = spec_graph(s.spec).nodes
    for node in rows:
        if node.op == "rename":
            lengths[node.attr("new")] = lengths[node.attr("old")]
    sizes = [math.prod(lengths[a] for a in node.type.axes if a in lengths) for node in rows]
    return max(sizes)


def torch_sizes(door: Door, s: Sample) -> Iterator[int]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = function(*args, **(kwargs or {}))
            for x in made if isinstance(made, tuple | list) else [made]:
                if isinstance(x, torch.Tensor) and 0 not in x.stride():  # not merely repeated
                    sizes.append(x.numel())
            return made

    loss = door.make(s.class_, **s.settings)
    run = door.function(loss, (*s.real, *s.weights), weights=s.weights)
    with Counting():
        run(**s.inputs)
    yield from sizes


def jax_sizes(door: Door, s: Sample) -> Iterator[int]:
    import jax

    loss = door.make(s.class_, **s.settings)
    wrt = (*s.real, *s.weights)
    arrays = door.tensors({**s.inputs, **s.weights})

    def value(moving: Any, still: Any) -> Any:
        named = {**still, **moving}
        learned = {n: named.pop(n) for n in s.weights}
        return loss(**{n: named[n] for n in s.inputs}, **({"params": learned} if learned else {}))

    moving = {n: arrays.pop(n) for n in wrt}
    traced = jax.make_jaxpr(jax.grad(value))(moving, arrays)

    def walk(jaxpr: Any) -> Iterator[int]:
        for equation in jaxpr.eqns:
            inner = [
                p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")
            ]
            if equation.primitive.name != "broadcast_in_dim":  # fused, never an array of its own
                yield from (v.aval.size for v in equation.outvars)
            for p in inner:
                yield from walk(getattr(p, "jaxpr", p))

    yield from walk(traced.jaxpr)


def keras_sizes(door: Door, s: Sample) -> Iterator[int]:
    import tensorflow as tf

    loss = door.make(s.class_, **s.settings)
    door.set_weights(loss, s.weights)
    tensors = door.tensors(s.inputs)

    @tf.function(autograph=False)
    def run(tensors: Any) -> Any:
        with tf.GradientTape() as tape:
            sources = [*(tensors[n] for n in s.real), *(loss.weight(n).value for n in s.weights)]
            tape.watch(sources)
            value = loss(**tensors)
        return tape.gradient(value, sources)

    for operation in run.get_concrete_function(tensors).graph.get_operations():
        if operation.type not in ("BroadcastTo", "Fill"):
            for x in operation.outputs:
                if x.shape.rank is not None and x.shape.is_fully_defined():
                    yield x.shape.num_elements()


@each
def test_no_tensor_is_larger_than_the_definition_names(door: Door, s: Sample) -> None:
    sizes = {"torch": torch_sizes, "jax": jax_sizes, "tensorflow": keras_sizes}
    if door.name == "keras" and door.framework != "tensorflow":
        pytest.skip("runs on that framework's own lowering, which its door tries")
    made = list(sizes[door.framework](door, s))
    assert len(made) > 2
    assert max(made) <= bound(s), f"{max(made)} elements where {bound(s)} suffice"


def test_a_group_of_any_rank_is_contracted_as_one(door: Door) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 3)).astype(np.float32)
    flat_x, flat_y = rng.normal(size=(12, 5)).astype(np.float32), rng.integers(0, 3, 12)
    results = []
    for lead in ((12,), (3, 4), (2, 3, 2)):
        loss = door.make("LinearCrossEntropyLoss", in_features=5, num_classes=3, axis=-1)
        inputs = {"embeddings": flat_x.reshape(*lead, 5), "labels": flat_y.reshape(lead)}
        found = door.run(
            loss, inputs, ("embeddings", "linear_weight"), weights={"linear_weight": weight}
        )
        slopes = found.gradients
        results.append((found.value, slopes["embeddings"].reshape(12, 5), slopes["linear_weight"]))
    logits = flat_x.astype(float) @ weight.astype(float)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = (p - np.eye(3)[flat_y]) / 12
    for value, by_x, by_weight in results:
        np.testing.assert_allclose(value, -np.log(p[np.arange(12), flat_y]).mean(), rtol=1e-6)
        np.testing.assert_allclose(by_x, slope @ weight.T, atol=1e-7)
        np.testing.assert_allclose(by_weight, flat_x.T @ slope, atol=1e-6)
