"""Losses that users write, at every door: recursions, made axes, contractions, labels alone.

Each is compared with a plain loop in NumPy, and its gradients with differences of that loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
from doors import Door

from lossbridge import Expr, define
from lossbridge.kinds import Kind
from lossbridge.ops import (
    abs_,
    cos,
    dot,
    exp,
    iota,
    log_softmax,
    norm,
    range_,
    rename,
    scan,
    sin,
    size,
    sum,
    take,
    tanh,
    to_real,
    where,
)
from lossbridge.spec import Weight
from lossbridge.trace import Definition

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 2))
Z, W = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 3))
STAR, SQUARE = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(4, 4))
LENGTHS = np.array([4, 2, 0])


@dataclass(frozen=True)
class Written:
    """A loss, its inputs, and the loop that it must equal."""

    definition: Definition
    inputs: Mapping[str, Any]
    loop: Callable[..., float]


WRITTEN: dict[str, Written] = {}


def written(
    loop: Callable[..., float], inputs: Mapping[str, Any], **kinds: str
) -> Callable[[Callable[..., Expr]], None]:
    def add(function: Callable[..., Expr]) -> None:
        function.__annotations__ = {name: Annotated[Expr, kind] for name, kind in kinds.items()}
        name = function.__name__
        made = define(f"tests/{name}@1", yields="scalar")(function)
        WRITTEN[name] = Written(made, inputs, loop)

    return add


def along(x: Any, y: Any) -> float:
    total = 0.0
    for n in range(3):
        c = 0.0
        for t in range(4):
            d = c
            for f in range(2):
                d = np.tanh(d + y[n, f] * x[n, t] + c)
            c = d + x[n, t] * c
            total += c
    return total


@written(along, {"x": X, "y": Y}, x="real[n, time]", y="real[n, f]")
def a_scan_inside_a_scan(x: Any, y: Any) -> Any:
    def step(c: Expr) -> Expr:
        inner = scan("f", c, lambda d: tanh(d + y * x + c), like=c)
        last = to_real(iota(inner, "f")) == size(inner, "f") - 1
        return sum(where(last, inner, 0.0), "f") + x * c

    return sum(scan("time", 0.0, step, like=x), "n", "time")


def three(z: Any, w: Any) -> float:
    total = 0.0
    for n in range(3):
        c = 1.0
        for t in range(4):
            d, all_d = 0.1, 0.0
            for f in range(2):
                e, all_e = c * 0.5, 0.0
                for k in range(3):
                    e = np.tanh(e * 0.3 + z[n, t, f] * w[n, k] + d)
                    all_e += e
                d = np.sin(d + all_e)
                all_d += d
            c = 0.5 * c + all_d
            total += c
    return total


@written(three, {"z": Z, "w": W}, z="real[n, time, f]", w="real[n, k]")
def scans_three_deep(z: Any, w: Any) -> Any:
    def step(c: Expr) -> Expr:
        def middle(d: Expr) -> Expr:
            e = scan("k", c * 0.5, lambda e: tanh(e * 0.3 + z * w + d), like=c)
            return sin(d + sum(e, "k"))

        return 0.5 * c + sum(scan("f", 0.1, middle, like=c), "f")

    return sum(scan("time", 1.0, step, like=sum(z, "f")), "n", "time")


def warped(x: Any) -> float:
    total = 0.0
    for row in x:
        before = np.zeros(4)
        for i in range(4):
            acc, now = 0.0, np.zeros(4)
            for j in range(4):
                acc = np.tanh(acc + (row[i] - row[j]) ** 2 + before[j])
                now[j] = acc
            before = now
            total += now.sum()
    return total


@written(warped, {"x": X}, x="real[n, time]")
def a_recursion_over_a_grid_of_two_renamed_axes(x: Any) -> Any:
    gap = (rename(x, "time", "i") - rename(x, "time", "j")) ** 2

    def row(before: Expr) -> Expr:
        return scan("j", 0.0, lambda acc: tanh(acc + gap + before), like=sum(before, "j"))

    return sum(scan("i", 0.0, row, like=gap), "n", "i", "j")


def counted(x: Any) -> float:
    total = 0.0
    for row in x.reshape(-1, x.shape[-1]):
        c = 0.0
        for value in row:
            c = 0.5 * c + np.sin(value)
            total += c * c
    return total


@written(counted, {"x": STAR}, x="real[*batch, time]")
def a_scan_that_starts_from_a_number(x: Any) -> Any:
    c = scan("time", 0.0, lambda c: 0.5 * c + sin(x), like=x)
    return sum(c * c, "*batch", "time")


def conditional(x: Any, lengths: Any) -> float:
    total = 0.0
    for row, length in zip(x, lengths, strict=True):
        c = 0.0
        for t, value in enumerate(row):
            c = 0.9 * c + value if t < length else c * c
            total += c * c
    return total


@written(conditional, {"x": X, "lengths": LENGTHS}, x="real[n, time]", lengths="integer[n]")
def a_condition_along_the_scanned_axis(x: Any, lengths: Any) -> Any:
    inside = iota(x, "time") < lengths
    c = scan("time", 0.0, lambda c: where(inside, 0.9 * c + x, c * c), like=x)
    return sum(c * c, "n", "time")


@written(conditional, {"x": X, "lengths": LENGTHS}, x="real[n, time]", lengths="integer[n]")
def the_number_of_the_step(x: Any, lengths: Any) -> Any:
    def step(c: Expr) -> Expr:
        return where(iota(c, "time") < lengths, 0.9 * c + x, c * c)

    c = scan("time", 0.0, step, like=x)
    return sum(c * c, "n", "time")


def table(rows: int, columns: int) -> Any:
    return np.cos(np.arange(rows)[:, None] * np.arange(columns)[None])


@written(
    lambda x: float(np.tanh(table(4, 3) @ table(3, 5)).sum() + x.sum()),
    {"x": RNG.normal(size=(2, 4, 3))},
    x="real[*b, n, f]",
)
def a_product_of_tables_over_made_axes(x: Any) -> Any:
    lengths = {"p": size(x, "n"), "q": size(x, "f"), "r": size(x, "n") + 1}
    p, q, r = (to_real(range_(axis, length)) for axis, length in lengths.items())
    return sum(tanh(dot(cos(p * q), cos(q * r), "q")), "p", "r") + sum(x, "*b", "n", "f")


@written(
    lambda x, w: float(np.tanh(np.einsum("bnf,fk->bnk", x, w)).sum()),
    {"x": RNG.normal(size=(2, 4, 3)), "w": RNG.normal(size=(3, 5))},
    x="real[*b, n, f]", w="real[f, k]",
)  # fmt: skip
def a_product_with_a_table_without_the_group(x: Any, w: Any) -> Any:
    return sum(tanh(dot(x, w, "f")), "*b", "n", "k")


@written(
    lambda x: float(np.tanh(np.einsum("...f,fg->...g", x, table(4, 4))).sum()),
    {"x": STAR},
    x="real[*batch, f]",
)
def a_transform_by_a_table_over_a_renamed_axis(x: Any) -> Any:
    waves = cos(to_real(iota(x, "f") * iota(x, "g")))
    return sum(tanh(dot(x, waves, "f")) + 0 * rename(x, "f", "g"), "*batch", "g")


@written(
    lambda x: float(np.tanh(np.einsum("bnf,cnf->bc", x, x)).sum()), {"x": STAR}, x="real[b, *rest]"
)
def a_product_over_a_group(x: Any) -> Any:
    return sum(tanh(dot(x["i"], x["j"], "*rest")), "i", "j")


def spread(x: Any) -> float:
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1) + 1e-300)
    return float((np.exp(-distance) * np.arange(len(x))).sum())


@written(spread, {"x": X}, x="real[n, f]")
def an_axis_named_before_it_is_made(x: Any) -> Any:
    weight = to_real(iota(x, "others"))
    return sum(weight * exp(-norm(x["i"] - x["others"], "f")), "i", "others")


@written(
    lambda x: float((np.abs(x - x.T) * (np.arange(4) + 1)[:, None]).sum()),
    {"x": SQUARE},
    x="real[a, b]",
)
def two_axes_exchanged(x: Any) -> Any:
    across = rename(rename(rename(x, "a", "t"), "b", "a"), "t", "b")
    return sum(abs_(x - across) * (to_real(iota(x, "a")) + 1.0), "a", "b")


def differences(loop: Callable[..., float], inputs: Mapping[str, Any], name: str) -> Any:
    found = np.zeros_like(inputs[name])
    for place in np.ndindex(*found.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = {**inputs, name: inputs[name].copy()}
            moved[name][place] += step
            ends.append(loop(**moved))
        found[place] = (ends[0] - ends[1]) / 2e-6
    return found


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_written_loss_is_its_loop(door_mode: tuple[Door, str], name: str) -> None:
    door, mode = door_mode
    case = WRITTEN[name]
    loss = door.L.compile(case.definition.spec)
    wrt = [n for n, x in case.inputs.items() if x.dtype.kind == "f"]
    found = door.run(loss, case.inputs, wrt, mode)
    np.testing.assert_allclose(found.value, case.loop(**case.inputs), rtol=1e-9)
    for n in wrt:
        wanted = differences(case.loop, case.inputs, n)
        np.testing.assert_allclose(found.gradients[n], wanted, atol=2e-6, rtol=1e-5)


# --- labels and a trainable weight, and nothing else ---------------------------------------------


@define(
    "tests/prior@1",
    weights={"w": Weight(Kind.parse("real[classes]"), "zeros", {"classes": "num_classes"})},
    yields="per_sample",
)
def prior(labels: Annotated[Expr, "index(classes)[*batch]"], *, w: Expr) -> Expr:
    """The negative logarithm of a learned prior."""
    return -take(log_softmax(w, "classes"), labels, "classes")


@define("tests/counts@1")
def counts(labels: Annotated[Expr, "integer[*batch]"]) -> Expr:
    """Nothing real comes in at all."""
    return to_real(labels) ** 2


LABELS = np.array([0, 1, 1, 2])


def test_labels_and_a_trainable_weight_are_a_loss(door_mode: tuple[Door, str]) -> None:
    door, mode = door_mode
    weights = {"w": np.array([0.5, -1.0, 0.25], "float32")}
    loss = door.L.compile(prior.spec, num_classes=3)
    found = door.run(loss, {"labels": LABELS}, ("w",), mode, weights=weights)
    w = weights["w"].astype("float64")
    p = np.exp(w) / np.exp(w).sum()
    np.testing.assert_allclose(found.value, -np.log(p)[LABELS].mean(), rtol=1e-6)
    share = np.bincount(LABELS, minlength=3) / len(LABELS)
    np.testing.assert_allclose(found.gradients["w"], p - share, rtol=1e-5)
    assert found.dtype == "float32"


def test_a_loss_of_labels_alone_is_a_float32(door_mode: tuple[Door, str]) -> None:
    door, mode = door_mode
    found = door.run(door.L.compile(counts.spec), {"labels": LABELS}, (), mode)
    assert (float(found.value), found.dtype) == (1.5, "float32")
