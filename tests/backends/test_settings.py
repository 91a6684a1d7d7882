"""Catalogue losses with other settings than the defaults, over the whole range of exponents.

Judged as in test_written_out: each formula is written again for mpmath and differentiated there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mpmath import mp, mpf

import lossbridge.torch as L

LARGEST, SMALLEST = 3.4028234e38, 1.1754944e-38
VALUE_BITS, GRADIENT_BITS = 3.0, 4.0
Truth = Callable[..., Any]


def slopes(f: Callable[[list[Any]], Any], x: list[Any]) -> list[Any]:
    """Central differences, with steps that fit each number."""
    found = []
    for k in range(len(x)):
        h = max(abs(x[k]), mpf(2) ** -60) * mpf(2) ** -300
        up, down = ([v + s * h * (k == j) for j, v in enumerate(x)] for s in (1, -1))
        found.append((f(up) - f(down)) / (2 * h))
    return found


def bits(found: float, true: Any, scale: Any) -> float:
    """Error bits; what is beyond the largest number may be infinite, what is subnormal flushed."""
    if abs(true) > LARGEST * (1 - mpf(2) ** -20):
        return 0.0 if found == math.copysign(math.inf, true) or abs(found) > 3.3e38 else math.inf
    if scale < SMALLEST:
        return 0.0 if abs(found) < 2 * SMALLEST else math.inf
    if not math.isfinite(found):
        return math.inf
    return float(mp.log(1 + abs(mpf(found) - true) / scale * 2**24, 2))


def judge(loss: Any, truth: Truth, given: tuple[Any, ...], constant: int = 0) -> list[str]:
    """What is worse than it may be at one sample, whose last ``constant`` inputs are fixed.

    As design 8 says: beyond how much a relative change of the inputs changes the value and the
    gradient, and the latter relative to the largest component of its input.
    """
    tensors = [torch.tensor([g], dtype=torch.float32) for g in given[: len(given) - constant]]
    for t in tensors:
        t.requires_grad_()
    fixed = [torch.tensor([g]) for g in given[len(given) - constant :]]
    value = loss(*tensors, *fixed).sum()
    found = torch.autograd.grad(value, tensors)
    with mp.workprec(1500):
        shapes = [t.numel() for t in tensors]
        ends = [sum(shapes[: k + 1]) for k in range(len(shapes))]
        flat = [mpf(v) for t in tensors for v in t.detach().reshape(-1).tolist()]

        def f(x: list[Any]) -> Any:
            parts = [x[end - n : end] for end, n in zip(ends, shapes, strict=True)]
            plain = [p if t.ndim > 1 else p[0] for p, t in zip(parts, tensors, strict=True)]
            return truth(*plain, *(g for g in given[len(given) - constant :]))

        true, slope = f(flat), slopes(f, flat)
        sway = mp.fsum(abs(g * v) for g, v in zip(slope, flat, strict=True))
        fair = max(1, sway / abs(true)) if true else 1
        bad = []
        if (off := bits(value.item(), true, abs(true) * fair)) > VALUE_BITS:
            bad.append(f"value {value.item()} not {float(true)}: {off} bits at {given}")
        moved = [
            slopes(f, [v * (1 + mpf(2) ** -150 * (i == j)) for j, v in enumerate(flat)])
            for i in range(len(flat))
        ]
        turn = [mp.fsum(abs(m[j] - s) for m in moved) * mpf(2) ** 150 for j, s in enumerate(slope)]
        for which, (gradient, end, n) in enumerate(zip(found, ends, shapes, strict=True)):
            part, swing = slope[end - n : end], turn[end - n : end]
            largest = max(abs(s) for s in part)
            fair = max(1, max(swing) / largest) if largest else 1
            for g, t in zip(gradient.reshape(-1).tolist(), part, strict=True):
                if (off := bits(g, t, largest * fair)) > GRADIENT_BITS:
                    bad.append(f"gradient {which}: {g} not {float(t)}: {off} bits at {given}")
    return bad


def softplus(x: Any) -> Any:
    return mp.log1p(mp.exp(-abs(x))) + max(x, 0)


def log_softmax(x: list[Any]) -> list[Any]:
    top = max(x)
    total = mp.log(mp.fsum(mp.exp(v - top) for v in x))
    return [v - top - total for v in x]


def all_of(problems: list[list[str]]) -> None:
    assert not (found := [line for lines in problems for line in lines]), "\n".join(found)


FAR = [3e38, -3e38, 1e30, -1e20, 1e4, -200.0, 95.0, -20.0, 3.0, -0.5, 1e-6, -1e-30]


def binary_focal(gamma: Any) -> Truth:
    def f(x: Any, y: Any) -> Any:
        p, q = mp.exp(-gamma * softplus(x)), mp.exp(-gamma * softplus(-x))
        return mpf(0.25) * y * p * softplus(-x) + mpf(0.75) * (1 - y) * q * softplus(x)

    return f


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 2.5, 3.0, 5.0])
def test_binary_focal(gamma: float) -> None:
    loss = L.BinaryFocalLoss(gamma=gamma, reduction="none")
    all_of([judge(loss, binary_focal(gamma), (x, y)) for x in FAR for y in (0.0, 0.25, 1.0)])


def gaussian(mean: Any, target: Any, var: Any) -> Any:
    v = max(var, mpf(1e-6))
    return (mp.log(v) + (mean - target) ** 2 / v) / 2


def test_gaussian_nll() -> None:
    loss = L.GaussianNLLLoss(reduction="none")
    points = [
        (3e38, 0.0, 3e38),
        (2e38, -1e38, 3e38),
        (2.5e19, 0.0, 1.0),
        (1e19, -1.5e19, 1.0),
        (1e20, 0.0, 1e30),
        (1e25, 0.0, 3e13),
        (1e-25, 0.0, 1e-3),
        (1.0, 2.0, 0.5),
        (3.0, -1.0, 1e20),
    ]
    all_of([judge(loss, gaussian, point) for point in points])


EPS = torch.tensor(1e-8).item()


def poisson(rate: Any, target: Any, eps: Any = EPS) -> Any:
    nll = rate - target * mp.log(rate + eps)
    more = target * mp.log(target) - target + mp.log(2 * mp.pi * target) / 2 if target > 1 else 0
    return nll + more


def test_poisson_nll_in_full() -> None:
    loss = L.PoissonNLLLoss(full=True, log_input=False, reduction="none")
    points = [
        (710.0, 710.0),
        (710.0, 711.0),
        (1e10, 1e10),
        (1e10, 1.0001e10),
        (3e38, 3e38),
        (3e38, 1e38),
        (1e38, 3e38),
        (5.0, 3.0),
        (0.5, 0.25),
        (0.5, 7.0),
        (1e-20, 2.0),
        (1.5, 0.75),
        (1e-5, 1e36),
        (0.0, 2.0),
        (710.0, 3.5e5),
        (3.5e5, 710.0),
        (2e20, 3.0),
    ]
    all_of([judge(loss, poisson, point) for point in points])
    loss = L.PoissonNLLLoss(full=True, reduction="none")
    points = [(math.log(710.0), 710.0), (6.0, 710.0), (23.0, 1e10), (88.0, 1e38), (-5.0, 2.0)]
    points += [(-1e37, 3.0), (2.0, 3.0), (-0.5, 0.25), (0.0, 0.5), (87.5, 2e38), (5.0, 0.5)]

    def of_logarithm(x: Any, y: Any) -> Any:
        return poisson(mp.exp(x), y, 0)

    all_of([judge(loss, of_logarithm, point) for point in points])


TARGETS = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.3333333, 0.3333334, 0.3333333]]


def poly(epsilon: float) -> Truth:
    def f(x: list[Any], target: list[Any]) -> Any:
        log_p = log_softmax(x)
        return mp.fsum(
            -t * v - epsilon * t * mp.expm1(v) for t, v in zip(target, log_p, strict=True)
        )

    return f


@pytest.mark.parametrize("epsilon", [-1.0, -0.5, 0.0, 2.0])
def test_poly_cross_entropy(epsilon: float) -> None:
    loss = L.PolyCrossEntropyLoss(epsilon=epsilon, axis=-1, reduction="none")
    rows = [[20.0, 0.0, 0.0], [9.0, 0.0, 0.0], [40.0, 1.0, 0.0], [1.0, 2.0, 3.0], [3.0, 0.0, 0.1]]
    all_of([judge(loss, poly(epsilon), (row, target)) for row in rows for target in TARGETS])
