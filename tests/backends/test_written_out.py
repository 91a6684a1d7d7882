"""Losses as users write them out: naive as text, and accurate all the same.

The judge shares nothing with the compiler: each formula is written again for mpmath, in 600 bits,
and differentiated by central differences there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from mpmath import mp, mpf

import lossbridge.torch as L
from lossbridge import Expr, define
from lossbridge.ops import cos, exp, log, logaddexp, mean, size, softmax, sqrt, sum, tanh, xlogy
from lossbridge.trace import Definition

Number = Annotated[Expr, "real[*batch]"]
Row = Annotated[Expr, "real[*batch, k]"]

NUMBERS = [0.0, 1e-4, -1e-4, 0.3, -1.0, 9.0, -9.0, 30.0, -30.0, 95.0, -95.0]
ROWS = [
    [1.0, 2.0, 3.0],
    [0.5, -3.0, 0.0],
    [17.0, 0.0, 0.0],
    [100.0, 0.0, 0.0],
    [-200.0, 0.0, 3.0],
    [400.0, 1.0, 0.0],
    [1000.0, 1001.0, 1002.0],
]
VALUE_BITS, GRADIENT_BITS = 3.0, 4.0


def written(name: str, body: Callable[..., Expr], kind: Any) -> Definition:
    def loss(x: Any) -> Expr:
        """As written."""
        return body(x)

    loss.__annotations__ = {"x": kind, "return": Expr}
    return define(f"test/{name}@1")(loss)


def total(terms: Any) -> Any:
    return mp.fsum(terms)


def odds(x: list[Any]) -> list[Any]:
    """Probabilities, and their complements as sums of the others."""
    e = [mp.exp(v - max(x)) for v in x]
    return [(v / total(e), total(e[:k] + e[k + 1 :]) / total(e)) for k, v in enumerate(e)]


def spread(x: list[Any]) -> Any:
    middle = total(x) / len(x)
    return total((v - middle) ** 2 for v in x) / len(x)


ON_NUMBERS: dict[str, tuple[Callable[[Expr], Expr], Callable[[Any], Any]]] = {
    "log_sigmoid": (lambda x: -log(1.0 / (1.0 + exp(-x))), lambda x: mp.log1p(mp.exp(-x))),
    "sigmoid": (lambda x: exp(x) / (1.0 + exp(x)), lambda x: 1 / (1 + mp.exp(-x))),
    "log_cosh": (lambda x: log(exp(x) + exp(-x)) - math.log(2.0), lambda x: mp.log(mp.cosh(x))),
    "log_cosh_halved": (lambda x: log(0.5 * (exp(x) + exp(-x))), lambda x: mp.log(mp.cosh(x))),
    "one_minus_tanh": (lambda x: 1.0 - tanh(x), lambda x: 2 / (1 + mp.exp(2 * x))),
    "one_plus_tanh": (lambda x: tanh(x) + 1.0, lambda x: 2 / (1 + mp.exp(-2 * x))),
    "slope_of_tanh": (lambda x: 1.0 - tanh(x) ** 2, lambda x: 1 / mp.cosh(x) ** 2),
    "one_minus_cos": (lambda x: 1.0 - cos(x), lambda x: 2 * mp.sin(x / 2) ** 2),
}
ON_ROWS: dict[str, tuple[Callable[[Expr], Expr], Callable[[Any], Any]]] = {
    "softmax": (
        lambda x: sum((exp(x) / sum(exp(x), "k")) ** 2, "k"),
        lambda x: total(p * p for p, _ in odds(x)),
    ),
    "mean_under_softmax": (
        lambda x: sum(exp(x) * x, "k") / sum(exp(x), "k"),
        lambda x: total(p * v for (p, _), v in zip(odds(x), x, strict=True)),
    ),
    "logmeanexp": (
        lambda x: log(mean(exp(x), "k")),
        lambda x: max(x) + mp.log(total(mp.exp(v - max(x)) for v in x) / len(x)),
    ),
    "unlikelihood": (
        lambda x: -sum(log(1.0 - softmax(x, "k")), "k"),
        lambda x: -total(mp.log(q) for _, q in odds(x)),
    ),
    "root_of_missing": (
        lambda x: sum((1.0 - softmax(x, "k")) ** 0.5, "k"),
        lambda x: total(mp.sqrt(q) for _, q in odds(x)),
    ),
    "root_of_softmax": (
        lambda x: sum(softmax(x, "k") ** 0.5, "k"),
        lambda x: total(mp.sqrt(p) for p, _ in odds(x)),
    ),
    "gini": (
        lambda x: 1.0 - sum(softmax(x, "k") ** 2, "k"),
        lambda x: total(p * q for p, q in odds(x)),
    ),
    "variance": (lambda x: mean(x**2, "k") - mean(x, "k") ** 2, spread),
    "root_mean_square": (
        lambda x: sqrt(mean(x**2, "k")),
        lambda x: mp.sqrt(total(v * v for v in x) / len(x)),
    ),
    "deviation": (
        lambda x: sqrt(sum((x - mean(x, "k")) ** 2, "k") / 3.0),
        lambda x: mp.sqrt(spread(x)),
    ),
}


def bits(found: float, true: Any, scale: Any) -> float:
    if scale < 1.2e-38:  # flushed, or rounded to few bits
        return 0.0 if abs(found) < 2.4e-38 else math.inf
    return float(mp.log(1 + abs(mpf(found) - true) / scale * 2**24, 2))


def slopes(f: Callable[[Any], Any], x: list[Any], alone: bool) -> list[Any]:
    h, found = mpf(2) ** -200, []
    for k in range(len(x)):
        up, down = ([v + s * h * (k == j) for j, v in enumerate(x)] for s in (1, -1))
        found.append((f(up[0]) - f(down[0]) if alone else f(up) - f(down)) / (2 * h))
    return found


def judge(name: str, body: Any, truth: Any, points: list[Any], kind: Any) -> None:
    loss = L.compile(written(name, body, kind), reduction="none")
    x = torch.tensor(points, dtype=torch.float32, requires_grad=True)
    value = loss(x=x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    alone = x.ndim == 1
    for k, found in enumerate(value.tolist()):
        with mp.workprec(1200):
            row = [mpf(v) for v in x[k].reshape(-1).tolist()]
            true = truth(row[0] if alone else row)
            slope = slopes(truth, row, alone)
            largest = max(abs(g) for g in slope)
            # How much a relative change of the inputs changes the value, and the slope.
            sway = total(abs(g * v) for g, v in zip(slope, row, strict=True))
            moved = [
                slopes(
                    truth, [v * (1 + mpf(2) ** -100 * (i == j)) for j, v in enumerate(row)], alone
                )
                for i in range(len(row))
            ]
            turn = [
                total(abs(m[j] - slope[j]) for m in moved) * mpf(2) ** 100 for j in range(len(row))
            ]
            fair = max(1, sway / abs(true)) if true else 1
            assert bits(found, true, abs(true) * fair) <= VALUE_BITS, (
                points[k],
                found,
                float(true),
            )
            fair = max(1, max(turn) / largest) if largest else 1
            for g, t in zip(gradient[k].reshape(-1).tolist(), slope, strict=True):
                assert bits(g, t, largest * fair) <= GRADIENT_BITS, (points[k], g, float(t))


@pytest.mark.parametrize("name", sorted(ON_NUMBERS))
def test_of_a_number(name: str) -> None:
    judge(name, *ON_NUMBERS[name], NUMBERS, Number)


@pytest.mark.parametrize("name", sorted(ON_ROWS))
def test_of_a_row(name: str) -> None:
    judge(name, *ON_ROWS[name], ROWS, Row)


# --- divergences, near where they are 0 and far from it ------------------------------------------

PAIRS = [
    ([0.2, 0.3, 0.5], [0.20001, 0.29999, 0.5]),
    ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
    ([0.9, 0.1, 1e-6], [1e-6, 0.1, 0.9]),
    ([0.25, 0.5, 0.25], [0.5, 0.25, 0.25]),
    ([1e-9, 1e-7, 1.0], [1e-7, 1e-7, 1.0]),
]


def entropy(p: Expr, q: Expr) -> Expr:
    return xlogy(p, p) - xlogy(p, q)


def half(p: Expr, q: Expr) -> Expr:
    return 0.5 * (p + q)


DIVERGENCES: dict[str, dict[str, Callable[[Expr, Expr], Expr]]] = {
    "relative entropy": {
        "in terms": lambda p, q: sum(entropy(p, q), "k"),
        "of a quotient": lambda p, q: sum(xlogy(p, p / q), "k"),
        "the logarithm of a quotient": lambda p, q: sum(p * log(p / q), "k"),
        "logarithms": lambda p, q: sum(p * (log(p) - log(q)), "k"),
        "half in terms": lambda p, q: sum(xlogy(p, p) - p * log(q), "k"),
    },
    "surplus": {
        "in terms": lambda p, q: sum(entropy(p, q) - p + q, "k"),
        "of a quotient": lambda p, q: sum(xlogy(p, p / q) - p + q, "k"),
        "the other order": lambda p, q: sum(q - p + p * log(p / q), "k"),
        "the difference": lambda p, q: sum(p * (log(p) - log(q)) - (p - q), "k"),
    },
    "Jensen and Shannon": {
        "half of a sum": lambda p, q: (
            0.5 * (sum(entropy(p, half(p, q)), "k") + sum(entropy(q, half(p, q)), "k"))
        ),
        "two halves": lambda p, q: (
            0.5 * sum(entropy(p, (p + q) / 2.0), "k") + 0.5 * sum(entropy(q, (p + q) / 2.0), "k")
        ),
        "by element": lambda p, q: sum(
            0.5 * entropy(p, half(p, q)) + 0.5 * entropy(q, half(p, q)), "k"
        ),
        "of quotients": lambda p, q: (
            0.5 * sum(xlogy(p, p / half(p, q)), "k") + 0.5 * sum(xlogy(q, q / half(p, q)), "k")
        ),
        "logarithms": lambda p, q: (
            sum(p * (log(p) - log(half(p, q))), "k") / 2.0
            + sum(q * (log(q) - log(half(p, q))), "k") / 2.0
        ),
    },
}
TRUTHS: dict[str, tuple[Callable[[Any, Any], Any], ...]] = {  # value, slope in p, slope in q
    "relative entropy": (
        lambda a, b: a * mp.log(a / b),
        lambda a, b: mp.log(a / b) + 1,
        lambda a, b: -a / b,
    ),
    "surplus": (
        lambda a, b: a * mp.log(a / b) - a + b,
        lambda a, b: mp.log(a / b),
        lambda a, b: 1 - a / b,
    ),
    "Jensen and Shannon": (
        lambda a, b: (a * mp.log(2 * a / (a + b)) + b * mp.log(2 * b / (a + b))) / 2,
        lambda a, b: mp.log(2 * a / (a + b)) / 2,
        lambda a, b: mp.log(2 * b / (a + b)) / 2,
    ),
}


@pytest.mark.parametrize(
    ("of", "name"), [(of, name) for of, forms in DIVERGENCES.items() for name in forms]
)
def test_a_divergence_however_it_is_written(of: str, name: str) -> None:
    def loss(p: Any, q: Any) -> Expr:
        """As written."""
        return DIVERGENCES[of][name](p, q)

    kind = Annotated[Expr, "simplex(k)[*batch, k]"]
    loss.__annotations__ = {"p": kind, "q": kind, "return": Expr}
    run = L.compile(define("test/divergence@1")(loss), reduction="none")
    p, q = (torch.tensor(x, requires_grad=True) for x in zip(*PAIRS, strict=True))
    value = run(p=p, q=q)
    gradients = torch.autograd.grad(value.sum(), (p, q))
    of_value, *of_slopes = TRUTHS[of]
    with mp.workprec(600):
        rows = [
            [(mpf(a), mpf(b)) for a, b in zip(x, y, strict=True)]
            for x, y in zip(p.tolist(), q.tolist(), strict=True)
        ]
        for k, row in enumerate(rows):
            true = total(of_value(a, b) for a, b in row)
            if of == "relative entropy":  # its terms of either sign cancel in the sum over classes
                scale = total(abs(of_value(a, b)) for a, b in row)
            else:
                scale = true
            assert bits(value[k].item(), true, scale) <= VALUE_BITS, (row, value[k], float(true))
            for gradient, slope in zip(gradients, of_slopes, strict=True):
                for found, (a, b) in zip(gradient[k].tolist(), row, strict=True):
                    there = slope(a, b)
                    assert bits(found, there, abs(there)) <= GRADIENT_BITS, (a, b, found)


def test_equal_values_have_no_deviation_and_no_slope() -> None:
    """By the convention of the norm: the root alone would have the slope 0 / 0."""
    for name in ("deviation", "root_mean_square"):
        loss = L.compile(written(name, ON_ROWS[name][0], Row), reduction="none")
        x = torch.zeros(2, 3, requires_grad=True)
        loss(x=x).sum().backward()
        assert x.grad is not None and x.grad.tolist() == [[0.0] * 3] * 2


def test_a_tie_of_logarithms_added_is_curved() -> None:
    """Equal terms are no kink: the second derivative is 1/4, not 0."""
    loss = L.compile(written("added", lambda x: logaddexp(x, 2.0 - x), Number), reduction="none")
    x = torch.tensor([1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(loss(x=x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert slope.item() == 0.0
    assert curvature.item() == pytest.approx(1.0)


def test_focal_loss_of_a_target_distribution_below_gamma_one() -> None:
    """Where one class has all the probability, its complement to a power below 1 has a slope."""
    loss = L.FocalLoss(gamma=0.5, axis=-1, reduction="none")
    logits = torch.tensor([[-1110.0, -951.0, -429.0, 64.0]], requires_grad=True)
    loss(logits, torch.tensor([[0.125, 0.125, 0.25, 0.5]])).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.125, -0.125, -0.25, 0.5]]))


def test_a_number_of_classes_has_a_logarithm() -> None:
    body = lambda x: sum(x, "k") / log(size(x, "k"))  # noqa: E731 - as the tables above
    loss = L.compile(written("per_nat", body, Row), reduction="none")
    assert loss(x=torch.ones(1, 3)).item() == pytest.approx(3.0 / math.log(3.0), rel=1e-6)
