"""Derivatives of whole losses: against finite differences, and adjoint to each other.

The rows themselves are tested one by one elsewhere; this is about what the passes make of them.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import plain_numpy
import pytest

from lossbridge import ops
from lossbridge.catalogue import catalogue
from lossbridge.ir import Builder, Expr, Graph, Type
from lossbridge.passes.differentiate import differentiate
from lossbridge.plan import Options, Plan, plan
from lossbridge.trace import define
from lossbridge_conformance.oracle import oracle

SIZE = 3
STEP = 2.0**-17  # its square is what a central difference errs by

# Parameters beyond the stated ones that take another path through the formula.
VARIED: dict[str, list[dict[str, float]]] = {
    "smooth_l1@1": [{"beta": 0.25}],
    "poisson_nll@1": [{"log_input": False}, {"full": True}],
    "gaussian_nll@1": [{"full": True}],
    "bce_with_logits@1": [{"pos_weight": 3.0}, {"weight": 0.5}],
    "cross_entropy@1": [{"label_smoothing": 0.1}],
    "cross_entropy_probabilities@1": [{"label_smoothing": 0.1}],
    "focal@1": [{"gamma": g, "alpha": 0.25} for g in (0.0, 0.5, 1.0, 5.0)],
    "binary_focal@1": [{"gamma": g} for g in (0.0, 0.5, 1.0, 5.0)],
    "kl_div@1": [{"log_target": True}],
    "dice@1": [{"smooth": 0.0}, {"squared": True}],
    "triplet_margin@1": [{"p": 1.0}, {"p": 3.0}, {"p": 1.5}, {"swap": True}],
    "arc_face@1": [{"margin": 0.0}],
    "multi_margin@1": [{"p": 2.0}, {"p": 1.5}],
    "triplet_margin_with_distance@1": [{"swap": True}],
    "linear_cross_entropy@1": [{"label_smoothing": 0.1}],
    "elastic_net_penalty@1": [{"l1_ratio": 1.0}],
}
CASES = [
    pytest.param(loss, numbers, id=f"{loss} {numbers}" if numbers else loss)
    for loss in catalogue()
    for numbers in ({}, *VARIED.get(loss, []))
]


def planned(loss: str, numbers: dict[str, float]) -> Plan:
    spec = catalogue()[loss].spec
    bound = {n: p.value for n, p in spec.params.items() if p.value is not None} | numbers
    return plan(spec, tuple(bound.items()), Options(reduction="none"))


def point(p: Plan, rng: np.random.Generator) -> dict[str, Any]:
    """Ordinary values of every input, away from kinks for certain seeds."""
    found: dict[str, Any] = {}
    for name, row in p.piece.inputs():
        node = p.piece.nodes[row]
        shape = tuple(SIZE for _ in node.attr("order"))
        kind = node.attr("kind").split("(")[0].split("[")[0]
        if kind == "length":
            found[name] = np.full(shape, SIZE if name.startswith("input") else 1)
        elif node.type.dtype == "int":
            found[name] = rng.integers(0, SIZE, shape)
        elif node.type.dtype == "bool":
            found[name] = np.ones(shape, bool)
        elif kind in ("positive", "non_negative", "probability"):
            found[name] = rng.uniform(0.25, 0.9, shape)
        elif kind == "simplex":
            x = rng.uniform(0.25, 1.0, shape)
            found[name] = x / x.sum(axis=-1, keepdims=True)
        elif kind == "sign":
            found[name] = rng.choice([-1.0, 1.0], shape)
        elif (p.spec.id, name) in (("kl_div@1", "target"), ("poisson_nll@1", "prediction")):
            found[name] = rng.uniform(0.25, 0.9, shape)
        else:
            found[name] = rng.uniform(-1.5, 1.5, shape)
    return found


def moved(p: Plan) -> tuple[str, ...]:
    """The inputs that are differentiated; how many elements a map has is none."""
    counted = {c.name for c in p.calls if c.op == "map_sizes"}
    return tuple(n for n in p.differentiable if n not in counted)


@pytest.mark.parametrize(("loss", "numbers"), CASES)
def test_gradient_is_that_of_central_differences(loss: str, numbers: dict[str, float]) -> None:
    rng = np.random.default_rng(7)
    p = planned(loss, numbers)
    inputs, wrt = point(p, rng), moved(p)
    found = plain_numpy.run(p.fused(wrt), inputs, "float64")
    assert np.isfinite(found["value"]).all()
    for name in wrt:
        if loss.startswith("bce@") and name == "prediction":
            continue  # states a gradient of its own; see test_bce_states_its_gradient
        way = rng.standard_normal(np.shape(inputs[name]))
        ends = [
            plain_numpy.run(p.plain, {**inputs, name: inputs[name] + t * way}, "float64")["value"]
            for t in (STEP, -STEP)
        ]
        slope = np.sum(ends[0] - ends[1]) / (2.0 * STEP)
        along = np.sum(found[f"gradient_{name}"] * way)
        size = np.sum(np.abs(found[f"gradient_{name}"] * way)) + 1.0
        assert abs(slope - along) <= 1e-7 * size, (name, slope, along)


def test_bce_states_its_gradient() -> None:
    p = planned("bce@1", {})
    inputs = {"prediction": np.array([0.25]), "target": np.array([1.0])}
    found = plain_numpy.run(p.fused(("prediction",)), inputs, "float64")
    np.testing.assert_allclose(found["gradient_prediction"], [-4.0], rtol=1e-15)


def test_what_a_recursion_reads_may_lack_the_axes_of_what_it_carries() -> None:
    """Three carries, each the sum of the x so far: their sum over two steps has slopes 3 * (2, 1).
    A factor 3 too many stood here where a step read what does not differ between carries."""

    @define("test/running@1", yields="per_sample")
    def running(
        x: Annotated[Expr, "real[batch, time]"], start: Annotated[Expr, "real[batch, states]"]
    ) -> Expr:
        carries = ops.scan("time", start, lambda carry: carry + x, start)
        return ops.sum(carries, "time", "states")

    graph = plan(running.spec, (), Options(reduction="sum")).fused(("x", "start"))
    inputs = {"x": np.ones((1, 2)), "start": np.zeros((1, 3))}
    found = plain_numpy.run(graph, inputs, "float64")
    np.testing.assert_array_equal(found["gradient_x"], [[6.0, 3.0]])
    np.testing.assert_array_equal(found["gradient_start"], [[2.0, 2.0, 2.0]])


@pytest.mark.parametrize(("loss", "numbers"), CASES)
def test_push_forward_is_adjoint_to_pull_back(loss: str, numbers: dict[str, float]) -> None:
    """<u, J t> = <J^T u, t> for random u and t, though one graph is made from the other's."""
    rng = np.random.default_rng(11)
    p = planned(loss, numbers)
    inputs, wrt = point(p, rng), moved(p)
    value = plain_numpy.run(p.plain, inputs, "float64")["value"]
    u = rng.standard_normal(value.shape)
    tangents = {f"tangent_{n}": rng.standard_normal(np.shape(inputs[n])) for n in wrt}
    back = plain_numpy.run(p.pullback(wrt), {**inputs, "upstream": u}, "float64")
    forward = plain_numpy.run(p.pushforward(wrt), {**inputs, **tangents}, "float64")["tangent"]
    terms = [back[f"gradient_{n}"] * tangents[f"tangent_{n}"] for n in wrt]
    size = sum(float(np.sum(np.abs(t))) for t in terms) + 1.0
    assert abs(np.sum(u * forward) - sum(float(np.sum(t)) for t in terms)) <= 1e-11 * size


@pytest.mark.parametrize(("loss", "numbers"), CASES)
def test_forms_agree(loss: str, numbers: dict[str, float]) -> None:
    """The plain value is the fused one, and a pull-back of ones is the fused gradient."""
    p = planned(loss, numbers)
    inputs, wrt = point(p, np.random.default_rng(3)), moved(p)
    fused = plain_numpy.run(p.fused(wrt), inputs, "float64")
    plain = plain_numpy.run(p.plain, inputs, "float64")["value"]
    np.testing.assert_allclose(plain, fused["value"], rtol=1e-14)
    ones = {**inputs, "upstream": np.ones_like(plain)}
    back = plain_numpy.run(p.pullback(wrt), ones, "float64")
    for name in wrt:
        np.testing.assert_allclose(
            back[f"gradient_{name}"], fused[f"gradient_{name}"], rtol=1e-10, atol=1e-13
        )


# --- composites whose operands say the same thing twice, or are bound to a condition -------------

PAIRS: dict[str, tuple[Any, Any]] = {
    "abs_difference": (
        lambda x, y: ops._apply("abs_difference", x, y),
        lambda x, y: ops.abs_(x) - ops.abs_(y),
    ),
    "norm_difference": (
        lambda x, y: ops.norm_difference(x, y, "k"),
        lambda x, y: ops.norm(x, "k") - ops.norm(y, "k"),
    ),
    "normalize_difference": (
        lambda x, y: ops._apply("normalize_difference", x, y, axes=("k",)),
        lambda x, y: ops.normalize(x, "k") - ops.normalize(y, "k"),
    ),
    "reject": (
        lambda x, y: ops.reject(x, ops.normalize(y, "k"), "k"),
        lambda x, y: x - ops.normalize(y, "k") * ops.sum(x * ops.normalize(y, "k"), "k"),
    ),
    "p_norm": (
        lambda x, y: ops.p_norm(x, 2.5, "k"),
        lambda x, y: ops.sum(ops.abs_(x) ** 2.5, "k") ** 0.4,
    ),
    "restate": (lambda x, y: ops.restate(x * y, y * x), lambda x, y: x * y),
}


def graph_of(function: Any) -> Graph:
    b = Builder(["n", "k"])
    x, y, w = (b.input(n, Type("real", ("n", "k"))) for n in "xyw")
    first = differentiate(b.finish(value=function(x, y) * w), "value", ["x", "y"])
    return differentiate(first, "gradient_x", ["x", "y"], prefix="second_")


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_composite_differentiates_as_what_it_stands_for(name: str) -> None:
    """First and second derivatives, in balls."""
    rng = np.random.default_rng(5)
    inputs = {n: rng.uniform(-2.0, 2.0, (4, 3)) for n in "xyw"}
    direct, plain = (oracle(graph_of(f), inputs) for f in PAIRS[name])
    assert direct.keys() == plain.keys()
    for output, known in plain.items():
        # 0.4 is not 1 / 2.5 to the last bit.
        np.testing.assert_allclose(
            direct[output].float64(), known.float64(), rtol=1e-13, atol=1e-15, err_msg=output
        )


def test_restated_gradient_is_the_second_forms() -> None:
    b = Builder(["n"])
    x: Expr = b.input("x", Type("real", ("n",)))
    graph = differentiate(b.finish(value=ops.restate(x * x, x)), "value", ["x"])
    found = oracle(graph, {"x": np.array([3.0])})
    assert found["value"].float64() == [9.0]
    assert found["gradient_x"].float64() == [1.0]
