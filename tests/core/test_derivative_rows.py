"""Every derivative row against power-series arithmetic, which shares nothing with it.

A one-op graph is differentiated by the pass and evaluated in balls; the coefficient of a power
series of the same function, computed by another part of another library, must overlap it. A row
that is neither checked here nor named as having no smooth derivative fails the last test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flint import arb, arb_series, ctx

from lossbridge import ops
from lossbridge.ir import Builder, Expr, Graph, Type
from lossbridge.passes.differentiate import differentiate
from lossbridge_conformance import balls
from lossbridge_conformance.oracle import evaluate

Series = arb_series
BITS = 256
TERMS = 3


def series(x: float, slope: int) -> Series:
    """x, or x + t, to three terms."""
    return arb_series([arb(x), arb(slope), arb(0)], prec=TERMS)


def _sinh(x: Series) -> Series:
    return (x.exp() - (-x).exp()) / 2


def _cosh(x: Series) -> Series:
    return (x.exp() + (-x).exp()) / 2


UNARY: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "neg": (lambda x: -x, [-2.0, 0.5]),
    "abs": (lambda x: x if x[0] > 0 else -x, [-2.0, 0.5]),
    "exp": (lambda x: x.exp(), [-30.0, 0.0, 2.5]),
    "expm1": (lambda x: x.exp() - 1, [-30.0, 0.0, 1e-9, 2.5]),
    "log": (lambda x: x.log(), [1e-9, 0.5, 7.0]),
    "log1p": (lambda x: (1 + x).log(), [-0.5, 1e-9, 7.0]),
    "sqrt": (lambda x: x.sqrt(), [1e-9, 0.25, 9.0]),
    "sigmoid": (lambda x: 1 / (1 + (-x).exp()), [-40.0, -0.5, 0.0, 3.0, 40.0]),
    "softplus": (lambda x: (1 + x.exp()).log(), [-40.0, -0.5, 0.0, 3.0, 40.0]),
    "tanh": (lambda x: _sinh(x) / _cosh(x), [-20.0, -0.5, 0.0, 3.0]),
    "sin": (lambda x: x.sin(), [-2.0, 0.0, 1.0]),
    "cos": (lambda x: x.cos(), [-2.0, 0.0, 1.0]),
    "cosh": (_cosh, [-20.0, -0.5, 0.0, 3.0]),
    "log_cosh": (lambda x: _cosh(x).log(), [-20.0, -0.5, 1e-5, 0.0, 3.0]),
    "log1mexp": (lambda x: (1 - (-x).exp()).log(), [1e-5, 0.5, 0.7, 30.0]),
    "less_square": (lambda x: 1 - x * x, [-1.5, -1.0, 0.0, 0.5]),
    "kl_phi": (lambda x: (1 + x) * (1 + x).log() - x, [-0.5, 1e-5, 0.0, 3.0]),
}

PAIRS = [(0.5, 2.0), (2.0, 0.5), (3.5, 3.0)]

BINARY: dict[str, tuple[Callable[[Any, Any], Any], list[tuple[float, float]]]] = {
    "add": (lambda x, y: x + y, PAIRS),
    "sub": (lambda x, y: x - y, PAIRS),
    "mul": (lambda x, y: x * y, PAIRS),
    "div": (lambda x, y: x / y, [*PAIRS, (-1.0, -3.0)]),
    "pow": (lambda x, y: (y * x.log()).exp(), PAIRS),
    "maximum": (lambda x, y: x if x[0] > y[0] else y, PAIRS),
    "minimum": (lambda x, y: x if x[0] < y[0] else y, PAIRS),
    "xlogy": (lambda x, y: x * y.log(), PAIRS),
    "weigh": (lambda x, y: x * y, [*PAIRS, (0.0, 3.0), (2.0, 0.0)]),
    "logistic_nll": (
        lambda x, y: y * (1 + (-x).exp()).log() + (1 - y) * (1 + x.exp()).log(),
        [(-3.0, 0.25), (0.0, 0.5), (20.0, 1.0), (20.0, 0.0)],
    ),
    "logaddexp": (lambda x, y: (x.exp() + y.exp()).log(), [*PAIRS, (-30.0, 4.0)]),
}


def one_op(name: str, count: int) -> Graph:
    b = Builder(["*batch"])
    inputs = [b.input(f"x{k}", Type("real", ("*batch",))) for k in range(count)]
    return b.finish(value=ops._apply(name, *inputs))


def derivative(graph: Graph, point: tuple[float, ...], wrt: str) -> arb:
    """The derivative of a one-op graph by its row, as a ball."""
    whole = differentiate(graph, "value", [wrt])
    inputs = {f"x{k}": np.array([x]) for k, x in enumerate(point)}
    return balls.ball(evaluate(whole, inputs, bits=BITS)[f"gradient_{wrt}"][0])


def agree(found: arb, expected: arb) -> bool:
    """Overlap of enclosures that are tight enough for a miss to show."""
    tight = expected.is_finite() and found.is_finite()
    return bool(tight and max(found.rad(), expected.rad()) < 1e-30 and found.overlaps(expected))


@pytest.mark.parametrize("name", sorted(UNARY))
def test_row_of_one_operand(name: str) -> None:
    function, points = UNARY[name]
    for x in points:
        with ctx.workprec(BITS):
            expected = function(series(x, 1))[1]
            assert agree(derivative(one_op(name, 1), (x,), "x0"), expected), (x, expected)


@pytest.mark.parametrize("name", sorted(BINARY))
@pytest.mark.parametrize("wrt", [0, 1])
def test_row_of_two_operands(name: str, wrt: int) -> None:
    function, points = BINARY[name]
    for point in points:
        with ctx.workprec(BITS):
            operands = [series(x, int(k == wrt)) for k, x in enumerate(point)]
            expected = function(*operands)[1]
            found = derivative(one_op(name, 2), point, f"x{wrt}")
            assert agree(found, expected), (point, found, expected)


@pytest.mark.parametrize("name", sorted(UNARY))
def test_rows_differentiate_again(name: str) -> None:
    """The second derivative, by the rows of the rows, is twice the next coefficient."""
    function, points = UNARY[name]
    first = differentiate(one_op(name, 1), "value", ["x0"], keep=False)
    second = differentiate(first, "gradient_x0", ["x0"], prefix="second_")
    for x in points:
        with ctx.workprec(BITS):
            expected = 2 * function(series(x, 1))[2]
            found = evaluate(second, {"x0": np.array([x])}, bits=BITS)["second_x0"][0]
            assert agree(balls.ball(found), expected), (x, found, expected)


@pytest.mark.parametrize(
    "name",
    [
        "softmax",
        "softmax_complement",
        "log_softmax_complement",
        "log_softmax",
        "logsumexp",
        "norm",
        "normalize",
    ],
)
def test_row_of_a_composite_along_an_axis(name: str) -> None:
    """A weighted sum of the outputs, differentiated in each entry, against power series."""
    point, weights = [0.5, -1.25, 3.0], [1.0, 2.0, -0.5]
    b = Builder(["k"])
    x = b.input("x", Type("real", ("k",)))
    w = b.input("w", Type("real", ("k",)))
    out = ops._apply(name, x, axes=("k",))
    value = ops.sum(out * w, "k") if "k" in out.axes else out
    graph = differentiate(b.finish(value=value), "value", ["x"])
    found = evaluate(graph, {"x": np.array(point), "w": np.array(weights)}, bits=BITS)
    for at in range(len(point)):
        with ctx.workprec(BITS):
            xs = [series(v, int(k == at)) for k, v in enumerate(point)]
            expected = _composite(name, xs, weights)[1]
            assert agree(balls.ball(found["gradient_x"][at]), expected), at


def _composite(name: str, xs: list[Series], weights: list[float]) -> Series:
    e = [x.exp() for x in xs]
    total = e[0] + e[1] + e[2]
    size = (xs[0] * xs[0] + xs[1] * xs[1] + xs[2] * xs[2]).sqrt()
    if name == "logsumexp":
        return total.log()
    if name == "norm":
        return size
    rows = {
        "softmax": [x / total for x in e],
        "softmax_complement": [1 - x / total for x in e],
        "log_softmax_complement": [(1 - x / total).log() for x in e],
        "log_softmax": [x - total.log() for x in xs],
        "normalize": [x / size for x in xs],
    }[name]
    return rows[0] * weights[0] + rows[1] * weights[1] + rows[2] * weights[2]


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("name", ["log_odds_against", "softmax_others", "take", "pick"])
def test_row_of_an_indexed_entry(name: str, index: int) -> None:
    point, weights = [0.5, -1.25, 3.0], [1.0, 2.0, -0.5]
    b = Builder(["k"])
    x, w = (b.input(key, Type("real", ("k",))) for key in "xw")
    out = ops._apply(name, x, b.input("i", Type("int")), axis="k")
    value = ops.sum(out * w, "k") if "k" in out.axes else out
    graph = differentiate(b.finish(value=value), "value", ["x"])
    inputs = {"x": np.array(point), "w": np.array(weights), "i": np.array(index)}
    found = evaluate(graph, inputs, bits=BITS)["gradient_x"]
    for at in range(len(point)):
        with ctx.workprec(BITS):
            xs = [series(v, int(k == at)) for k, v in enumerate(point)]
            expected = _indexed(name, xs, weights, index)
            assert agree(balls.ball(found[at]), expected[1]), at


def _indexed(name: str, xs: list[Series], weights: list[float], index: int) -> Series:
    others = [k for k in range(3) if k != index]
    total = xs[others[0]].exp() + xs[others[1]].exp()
    if name == "log_odds_against":
        return total.log() - xs[index]
    if name == "softmax_others":
        return sum((xs[k].exp() / total * weights[k] for k in others), 0 * total)
    return xs[index]


def test_a_wrong_row_is_noticed() -> None:
    """The check can fail: the rows of neighbouring functions are told apart."""
    with ctx.workprec(BITS):
        found = derivative(one_op("sin", 1), (0.5,), "x0")
        assert not agree(found, UNARY["cosh"][0](series(0.5, 1))[1])
        assert not agree(found, found + arb(1e-20))
        assert not agree(balls.UNKNOWN, found)


KINKS: list[tuple[str, tuple[float, ...], tuple[float, ...]]] = [
    ("abs", (0.0,), (0.0,)),
    ("sign", (3.0,), (0.0,)),
    ("maximum", (2.0, 2.0), (0.5, 0.5)),
    ("minimum", (2.0, 2.0), (0.5, 0.5)),
    ("clip", (1.0, 1.0, 2.0), (1.0, 0.0, 0.0)),
    ("clip", (2.0, 1.0, 2.0), (1.0, 0.0, 0.0)),
    ("clip", (0.5, 1.0, 2.0), (0.0, 1.0, 0.0)),
    ("clip", (2.5, 1.0, 2.0), (0.0, 0.0, 1.0)),
    ("clip", (1.5, 1.0, 2.0), (1.0, 0.0, 0.0)),
    ("compare", (2.0, 2.0), (0.0, 0.0)),
    ("compare", (2.0, 3.0), (0.0, 0.0)),
    ("xlogy", (0.0, 0.0), (0.0, 0.0)),
    ("stop_gradient", (2.0,), (0.0,)),
]


@pytest.mark.parametrize(("name", "point", "expected"), KINKS)
def test_stated_subgradients(
    name: str, point: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    graph = one_op(name, len(point))
    for k, gradient in enumerate(expected):
        found = derivative(graph, point, f"x{k}")
        assert found.is_exact()
        assert found == gradient


def test_norm_and_amax_at_their_kinks() -> None:
    b = Builder(["k"])
    x: Expr = b.input("x", Type("real", ("k",)))
    graph = b.finish(norm=ops.norm(x, "k"), amax=ops.amax(x, "k"))
    for output, point, expected in (
        ("norm", [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ("amax", [2.0, 1.0, 2.0], [0.5, 0.0, 0.5]),
        ("amax", [2.0, 2.0, 2.0], [1 / 3] * 3),
    ):
        whole = differentiate(graph, output, ["x"])
        found = evaluate(whole, {"x": np.array(point)}, bits=BITS)["gradient_x"]
        assert [float(balls.ball(v).mid()) for v in found] == expected


# Checked elsewhere, or with nothing to differentiate; a new row must be put somewhere.
NOT_SMOOTH = {name for name, *_ in KINKS}
STRUCTURAL = {"input", "const", "where", "indicator", "to_real", "attach_gradient"}
STRUCTURAL |= {"abs_difference", "restate"}  # test_derivatives.py: two operands say the same thing


def test_no_elementwise_row_is_left_out() -> None:
    elementwise = {
        name for name, row in ops.OPS.items()
        if row.elementwise and row.infer(Builder(["*b"]), _types(row), {}).dtype == "real"
    }  # fmt: skip
    checked = set(UNARY) | set(BINARY) | NOT_SMOOTH | STRUCTURAL
    assert elementwise - checked == set()


def _types(row: ops.Op) -> tuple[Type, ...]:
    dtype = {"bool": "bool", "int": "int"}.get(row.operands, "real")
    types = [Type(dtype)] * row.signature.count("value")
    if row.name == "where":
        types[0] = Type("bool")
    return tuple(types)
