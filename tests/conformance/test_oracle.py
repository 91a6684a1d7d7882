"""The oracle against a second multiprecision library, IEEE special values, and its own limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from flint import arb, ctx

from lossbridge import ops
from lossbridge.ir import Builder, Expr, Graph, Type
from lossbridge.passes.differentiate import differentiate
from lossbridge_conformance import balls
from lossbridge_conformance.oracle import BRANCHES, CERTIFIED, OPEN, filled, oracle, round_to
from lossbridge_conformance.rules import table

INF, NAN = math.inf, math.nan


def unary(function: Callable[[Expr], Expr]) -> Graph:
    b = Builder(["*batch"])
    return b.finish(value=function(b.input("x", Type("real", ("*batch",)))))


def binary(function: Callable[[Expr, Expr], Expr]) -> Graph:
    b = Builder(["*batch"])
    x, y = (b.input(name, Type("real", ("*batch",))) for name in "xy")
    return b.finish(value=function(x, y))


def cross_entropy(textbook: bool) -> Graph:
    b = Builder(["*batch", "classes"])
    logits = b.input("logits", Type("real", ("*batch", "classes")))
    labels = b.input("labels", Type("int", ("*batch",)))
    e = ops.exp(logits)
    p = e / ops.sum(e, "classes") if textbook else ops.softmax(logits, "classes")
    graph = b.finish(value=-ops.log(ops.take(p, labels, "classes")))
    return differentiate(graph, "value", ["logits"])


POINTS = [1e-300, -1e-12, 1e-5, -0.3, 0.7, 1.0, -1.0, 2.5, 17.0, -40.0, 300.0, -700.0]

REFERENCE: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp,
    "expm1": mpmath.expm1,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
    "tanh": mpmath.tanh,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "cosh": mpmath.cosh,
    "log_cosh": lambda x: mpmath.log(mpmath.cosh(x)),
    "log": mpmath.log,
    "sqrt": mpmath.sqrt,
    "log1p": lambda x: mpmath.log(1 + x),
    "log1mexp": lambda x: mpmath.log(1 - mpmath.exp(-x)),
    "kl_phi": lambda x: (1 + x) * mpmath.log(1 + x) - x,
}
DOMAIN = {"log": 0.0, "sqrt": 0.0, "log1p": -1.0, "log1mexp": 0.0, "kl_phi": -1.0}


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_agrees_with_mpmath(name: str) -> None:
    points = [x for x in POINTS if x > DOMAIN.get(name, -INF)]
    graph = unary(lambda x: ops._apply(name, x))
    found = oracle(graph, {"x": np.array(points)})["value"]
    assert (found.status == CERTIFIED).all()
    with mpmath.workprec(6000):
        expected = [float(REFERENCE[name](mpmath.mpf(x))) for x in points]
    assert found.float64().tolist() == expected


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("pow", lambda x, y: x**y),
        ("xlogy", lambda x, y: x * mpmath.log(y)),
        ("weigh", lambda x, y: x * y),
        ("logaddexp", lambda x, y: mpmath.log(mpmath.exp(x) + mpmath.exp(y))),
        ("div", lambda x, y: x / y),
    ],
)
def test_binary_agrees_with_mpmath(name: str, reference: Callable[[Any, Any], Any]) -> None:
    grid = [1e-200, 0.3, 1.0, 2.5, 37.0]
    x, y = (np.array(axis).ravel() for axis in np.meshgrid(grid, grid))
    found = oracle(binary(lambda a, b: ops._apply(name, a, b)), {"x": x, "y": y})["value"]
    with mpmath.workprec(6000):
        expected = [
            float(reference(mpmath.mpf(a), mpmath.mpf(b))) for a, b in zip(x, y, strict=True)
        ]
    assert found.float64().tolist() == expected


SPECIAL = [
    ("exp", [0.0, -0.0, INF, -INF, NAN], [1.0, 1.0, INF, 0.0, NAN]),
    ("expm1", [0.0, -0.0, INF, -INF, NAN], [0.0, -0.0, INF, -1.0, NAN]),
    ("log", [0.0, -0.0, 1.0, INF, -1.0, -INF, NAN], [-INF, -INF, 0.0, INF, NAN, NAN, NAN]),
    ("log1p", [-0.0, -1.0, -2.0, INF, -INF], [-0.0, -INF, NAN, INF, NAN]),
    ("sqrt", [0.0, -0.0, INF, -1.0, -INF], [0.0, -0.0, INF, NAN, NAN]),
    ("sigmoid", [0.0, INF, -INF, NAN], [0.5, 1.0, 0.0, NAN]),
    ("softplus", [INF, -INF, NAN], [INF, 0.0, NAN]),
    ("tanh", [-0.0, INF, -INF], [-0.0, 1.0, -1.0]),
    ("sin", [-0.0, INF, NAN], [-0.0, NAN, NAN]),
    ("cos", [0.0, INF], [1.0, NAN]),
    ("cosh", [0.0, INF, -INF], [1.0, INF, INF]),
    ("log_cosh", [0.0, INF, -INF], [0.0, INF, INF]),
    ("log1mexp", [0.0, INF, -1.0], [-INF, -0.0, NAN]),
    ("kl_phi", [0.0, -1.0, -2.0, INF], [0.0, 1.0, NAN, INF]),
    ("neg", [0.0, -0.0, INF], [-0.0, 0.0, -INF]),
    ("abs", [-0.0, -INF, NAN], [0.0, INF, NAN]),
    ("sign", [0.0, -2.0, INF, NAN], [0.0, -1.0, 1.0, NAN]),
]


@pytest.mark.parametrize(("name", "given", "expected"), SPECIAL)
def test_special_values(name: str, given: list[float], expected: list[float]) -> None:
    found = oracle(unary(lambda x: ops._apply(name, x)), {"x": np.array(given)})["value"].float64()
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(found)
    assert np.signbit(found)[numbers].tolist() == np.signbit(expected)[numbers].tolist()


IEEE = [0.0, -0.0, 1.0, -2.0, 0.5, 3.0, INF, -INF, NAN]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide),
        ("pow", np.power),
    ],
)  # fmt: skip
def test_ieee_grid(name: str, reference: Callable[..., Any]) -> None:
    """Every pair of special operands gives what IEEE arithmetic gives, signed zeros included."""
    x, y = (axis.ravel() for axis in np.meshgrid(IEEE, IEEE))
    with np.errstate(all="ignore"):
        expected = reference(x, y)
    if name == "pow":
        # Powers of a small integer are exact in float64, so NumPy is a reference here.
        assert expected[(x == 3.0) & (y == -2.0)][0] == 1 / 9
    found = oracle(binary(lambda a, b: ops._apply(name, a, b)), {"x": x, "y": y})["value"].float64()
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(expected)
    assert np.signbit(found)[numbers].tolist() == np.signbit(expected)[numbers].tolist()


def test_maximum_and_comparisons_with_nan() -> None:
    x, y = np.array([1.0, NAN, -INF, 0.0]), np.array([NAN, 1.0, 2.0, -0.0])
    found = oracle(binary(ops.maximum), {"x": x, "y": y})["value"].float64()
    np.testing.assert_array_equal(found, [NAN, NAN, 2.0, 0.0])
    chosen = binary(lambda a, b: ops.where(a < b, 1.0, ops.where(a >= b, 2.0, 3.0)))
    found = oracle(chosen, {"x": x, "y": y})["value"].float64()
    assert found.tolist() == [3.0, 3.0, 1.0, 2.0]


def test_textbook_cross_entropy_keeps_relative_accuracy() -> None:
    logits = np.array([[20.0, 0, 0, 0], [1000.0, 0, 0, 0], [-1000.0, 0, 0, 0], [1, 2, 3, 4]])
    inputs = {"logits": logits, "labels": np.zeros(4, dtype=np.int64)}
    found = oracle(cross_entropy(textbook=True), inputs)
    composite = oracle(cross_entropy(textbook=False), inputs)
    with mpmath.workprec(4000):
        expected = [
            float(mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(x) - row[0]) for x in row)))
            for row in logits.tolist()
        ]
    assert found["value"].float64().tolist() == expected
    assert 0 < expected[0] < 1e-8
    for name in found:
        assert found[name].float64().tolist() == composite[name].float64().tolist()


def test_infinite_logits_give_what_the_formula_gives() -> None:
    inputs = {"logits": np.array([[0.0, -INF, 0.0], [-INF, 0.0, 0.0]]), "labels": np.array([0, 0])}
    found = oracle(cross_entropy(textbook=False), inputs)["value"].float64()
    assert found.tolist() == [math.log(2.0), INF]


def test_huge_arguments_end_at_once() -> None:
    start = time.monotonic()
    found = oracle(unary(ops.exp), {"x": np.array([1e308, -1e308])})["value"]
    assert found.float64().tolist() == [INF, 0.0]
    rounded = round_to(found, "float64")
    assert rounded.overflow.tolist() == [True, False]
    assert not rounded.exact_zero.any()
    tower = oracle(unary(lambda x: ops.exp(ops.exp(ops.exp(x)))), {"x": np.array([100.0, -100.0])})
    assert tower["value"].float64().tolist() == [INF, math.exp(1.0)]
    textbook = oracle(unary(lambda x: 1.0 / (1.0 + ops.exp(-x))), {"x": np.array([1e308, -1e308])})
    assert textbook["value"].float64().tolist() == [1.0, 0.0]
    assert time.monotonic() - start < 10.0


def test_power_of_huge_numbers() -> None:
    x = np.array([1e308, 2.0, -2.0, -3.0, -3.0])
    y = np.array([1e308, -1e308, 1e308, 3.0, 0.5])
    found = oracle(binary(lambda a, b: a**b), {"x": x, "y": y})["value"].float64()
    np.testing.assert_array_equal(found, [INF, 0.0, INF, -27.0, NAN])


def test_what_no_precision_decides_is_reported() -> None:
    graph = unary(lambda x: -ops.log(1.0 - ops.sigmoid(x)))
    found = oracle(graph, {"x": np.array([1e4, 30.0])})["value"]
    assert found.status.tolist() == [OPEN, CERTIFIED]
    assert round_to(found, "float32").undecided.tolist() == [True, False]
    stabilised = oracle(unary(ops.softplus), {"x": np.array([1e4, 7.0])})["value"]
    whole, taken = filled(found, stabilised)
    assert taken.tolist() == [True, False]
    assert whole.status.tolist() == [CERTIFIED, CERTIFIED]
    # Only the undecided element comes from the other graph.
    assert whole.float64().tolist() == [1e4, found.float64()[1]]
    assert found.float64()[1] != stabilised.float64()[1]


def test_an_undecided_branch_accepts_each_side_and_nothing_between() -> None:
    graph = differentiate(binary(lambda x, y: abs(ops.log(ops.exp(x)) - y)), "value", ["x"])
    found = oracle(graph, {"x": np.array([1.5, 1.5]), "y": np.array([1.5, 2.0])})["gradient_x"]
    assert found.status.tolist() == [BRANCHES, CERTIFIED]
    rounded = round_to(found, "float32")
    assert sorted(float(way.value[0]) for way in rounded.alternatives) == [-1.0, 0.0, 1.0]
    assert {float(way.value[1]) for way in rounded.alternatives} == {-1.0}


def test_a_small_precision_is_not_enough_for_everything() -> None:
    """The doubling is needed: (1 + x) - 1 at 1e-300 is lost at 128 bits, and right in the end."""
    graph = unary(lambda x: (1.0 + x) - 1.0)
    found = oracle(graph, {"x": np.array([1e-300])})["value"]
    assert found.bits > 512
    assert found.float64().tolist() == [1e-300]
    assert oracle(graph, {"x": np.array([1e-300])}, limit=128)["value"].undecided.all()


def test_below_half_the_least_subnormal_is_zero() -> None:
    found = oracle(unary(lambda x: x**2), {"x": np.array([1e-170, 5e-324])})["value"]
    rounded = round_to(found, "float64")
    assert rounded.value.tolist() == [0.0, 0.0]
    assert rounded.subnormal.all()
    assert not rounded.exact_zero.any()
    assert rounded.sign.tolist() == [1, 1]


def test_flush_mode_flushes_what_is_subnormal_and_only_that() -> None:
    graph = unary(lambda x: ops.exp(x) * 1e30)
    inputs = {"x": np.array([-90.0, -80.0])}
    plain = oracle(graph, inputs)["value"].float64()
    flushed = oracle(graph, inputs, flush="float32")["value"].float64()
    assert plain[0] > 0.0
    assert flushed[0] == 0.0
    assert flushed[1] == plain[1]


def test_budget() -> None:
    graph = unary(lambda x: (1.0 + x) - 1.0)
    with pytest.raises(TimeoutError, match="budget"):
        oracle(graph, {"x": np.array([1e-300])}, budget=-1.0)


def test_axes_and_reductions() -> None:
    b = Builder(["*batch", "classes"])
    x = b.input("x", Type("real", ("*batch", "classes")))
    i = b.input("i", Type("int", ("*batch",)))
    graph = b.finish(
        taken=ops.take(x, i, "classes"),
        total=ops.sum(x, "*batch", "classes"),
        mean=ops.mean(x, "classes"),
        top=ops.amax(x, "classes"),
        dot=ops.dot(x, x, "classes"),
        norm=ops.norm(x, "classes"),
        shifted=ops.shift(x, "classes", 1, -1.0),
        back=ops.shift(x, "classes", -2, -1.0),
        flipped=ops.flip(x, "classes"),
        none=ops.indicator(ops.any_(x > 100.0, "classes")),
        every=ops.indicator(ops.all_(x > -100.0, "classes")),
        count=ops.size(x, "*batch"),
    )
    array = np.arange(12.0).reshape(2, 2, 3) - 4.0
    index = np.array([[0, 2], [3, -1]])
    found = {k: v.float64() for k, v in oracle(graph, {"x": array, "i": index}).items()}
    np.testing.assert_array_equal(found["taken"], [[-4.0, 1.0], [NAN, NAN]])
    assert found["total"] == array.sum()
    np.testing.assert_array_equal(found["mean"], array.mean(axis=-1))
    np.testing.assert_array_equal(found["top"], array.max(axis=-1))
    np.testing.assert_array_equal(found["dot"], (array**2).sum(axis=-1))
    np.testing.assert_array_equal(found["norm"], np.sqrt((array**2).sum(axis=-1)))
    np.testing.assert_array_equal(found["shifted"][0, 0], [-1.0, -4.0, -3.0])
    np.testing.assert_array_equal(found["back"][0, 0], [-2.0, -1.0, -1.0])
    np.testing.assert_array_equal(found["flipped"], array[..., ::-1])
    assert (found["none"] == 0.0).all()
    assert (found["every"] == 1.0).all()
    assert found["count"] == 4.0


def test_scan_and_its_gradient() -> None:
    """A discounted sum, against the closed form of its gradient."""
    b = Builder(["batch", "time"])
    x = b.input("x", Type("real", ("batch", "time")))
    carries = ops.scan("time", 0.0, lambda c: 0.5 * c + x, like=ops.sum(x, "time"))
    graph = differentiate(b.finish(value=carries), "value", ["x"])
    array = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]])
    found = {k: v.float64() for k, v in oracle(graph, {"x": array}).items()}
    np.testing.assert_array_equal(found["value"], [[1.0, 2.5, 5.25], [0.0, 0.0, 8.0]])
    np.testing.assert_array_equal(found["gradient_x"], [[1.75, 1.5, 1.0]] * 2)


def test_rename_makes_pairs() -> None:
    b = Builder(["batch", "features"])
    x = b.input("x", Type("real", ("batch", "features")))
    graph = b.finish(value=ops.dot(x["i"], x, "features"))
    array = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    np.testing.assert_array_equal(oracle(graph, {"x": array})["value"].float64(), array @ array.T)


def test_every_primitive_has_an_exact_row() -> None:
    """Only what is not a function of arrays is left to the caller (`extra`)."""
    outside = {"input", "apply", "derivative", "segments", "map_sizes", "use"}
    assert set(ops.OPS) - set(table()) == outside


# The last operand of a row that is not defined for every one.
SIDE: dict[str, Callable[[list[Expr]], Expr]] = {
    "p_norm": lambda x: x[0].builder.const(2.5),
    "reject": lambda x: ops.normalize(x[1], "k"),
}


@pytest.mark.parametrize(
    "name", sorted(name for name, row in ops.OPS.items() if row.expand is not None)
)
def test_composites_are_what_their_expansions_are(name: str) -> None:
    """The oracle's direct rule and the expansion, both in balls, at ordinary points."""
    row = ops.OPS[name]
    assert row.expand is not None
    b = Builder(["*batch", "k"])
    indexed = "axis" in row.attrs
    operands = [
        b.input("x1", Type("int", ("*batch",)))
        if indexed and k == 1
        else b.input(f"x{k}", Type("real", ("*batch", "k")))
        for k in range(row.signature.count("value"))
    ]
    if name in SIDE:
        operands = [*operands[:-1], SIDE[name](operands)]
    attrs: dict[str, Any] = {"axis": "k"} if indexed else {}
    if "axes" in row.attrs:
        attrs["axes"] = ("k",)
    graph = b.finish(direct=b.op(name, *operands, **attrs), expanded=row.expand(*operands, **attrs))
    x = np.array([[0.25, 1.5, 0.75], [3.0, 0.5, 20.0]])
    inputs = {
        key: x + 0.125 * k if graph.nodes[at].type.dtype == "real" else np.array([0, 2])
        for k, (key, at) in enumerate(graph.inputs())
    }
    found = oracle(graph, inputs)
    direct, expanded = found["direct"].float64(), found["expanded"].float64()
    # Expansions hold float64 constants, such as log 2, and kl_phi a series cut for float64.
    np.testing.assert_allclose(expanded, direct, rtol=4e-16, atol=0.0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rounding_agrees_with_numpy(dtype: str) -> None:
    rng = np.random.default_rng(0)
    exponent = rng.integers(-160, 140, 500) if dtype == "float32" else rng.integers(-28, 18, 500)
    values = np.ldexp(rng.random(500) + 0.5, exponent)
    found = round_to(oracle(unary(lambda x: 1.0 * x), {"x": values})["value"], dtype)
    with np.errstate(over="ignore"):
        expected = values.astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(found.value, expected)
    assert found.overflow.any()
    assert (found.subnormal & (found.value > 0)).any()


def test_bfloat16_rounding() -> None:
    given = np.array([1.0 + 2**-8, 1.0 + 3 * 2**-8, 3.4e38, 2.0**-134, 2.0**-133 * 1.5])
    found = round_to(oracle(unary(lambda x: 1.0 * x), {"x": given})["value"], "bfloat16")
    assert found.value.tolist() == [1.0, 1.0 + 2**-6, INF, 0.0, 2.0**-132]


def test_balls_contain_the_truth_after_long_chains() -> None:
    """Rigour: the enclosure at 64 bits holds the value at 2000 bits."""
    for x in (0.3, 1.7, 5.5, 12.0):
        with ctx.workprec(64):
            coarse = balls.tanh(balls.log_cosh(balls.sub(balls.exp(arb(x)), arb(x))))
        with ctx.workprec(2000):
            fine = balls.tanh(balls.log_cosh(balls.sub(balls.exp(arb(x)), arb(x))))
            assert balls.ball(coarse).overlaps(balls.ball(fine))
            assert balls.ball(coarse).contains(balls.ball(fine))
