"""The oracle's own gradients, against differences of its values.

Truth and platforms take their gradients from the same table of derivative rows, so a wrong row
would go unnoticed between them. Here nothing but values is used: the slope of every loss along a
random direction, by a central difference at high precision, against the gradient along it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from flint import arb, ctx

from lossbridge.ir import Builder, Graph, Type, inline
from lossbridge_conformance import balls, cases
from lossbridge_conformance.oracle import evaluate
from lossbridge_conformance.results import Cell, Status, cell_id
from lossbridge_conformance.subjects import Subject

BITS = 1024
STEP = 2.0**-120  # the error of a central difference is about the square of it
AGREE = 2.0**-80
STATED = ("stop_gradient", "attach_gradient")


def cell(subject: Subject) -> Cell:
    """Whether the gradient of a loss is the slope of its value, at ordinary points."""
    with ctx.workprec(BITS):
        status, detail, worst, count = _check(subject)
    return Cell(
        id=cell_id("contract", subject.name, "oracle", "", "", "derivative", ""),
        track="contract", loss=subject.name, class_=subject.class_, platform="oracle",
        quantity="derivative", status=status, bits=None, cases=count,
        detail=detail if detail else f"slope and gradient agree to {worst:.0e}",
    )  # fmt: skip


def _check(subject: Subject) -> tuple[Status, str, float, int]:
    graph = subject.graph()
    stated = sorted({node.op for node in graph.nodes} & set(STATED))
    if stated:
        return (
            "UNTESTED",
            f"the loss states a gradient of its own ({', '.join(stated)}), which need not be the "
            "slope of its value",
            0.0, 0,
        )  # fmt: skip
    call = next(c for c in subject.calls if (c.group, c.stratum) == ("single", "practical"))
    inputs = subject.given(graph, call)
    rng = np.random.default_rng(0)
    directions = {
        name: np.asarray(inputs[name])
        * np.where(rng.random(np.shape(inputs[name])) < 0.5, -1, 1)
        * (1.0 + rng.integers(0, 8, np.shape(inputs[name])) / 8.0)
        for name in subject.wrt
    }
    moved = _moved(graph, subject.wrt)
    sides = [
        evaluate(moved, {**inputs, **{f"direction_{n}": d for n, d in directions.items()},
                         "t": np.asarray(t)}, bits=BITS, assume=0)["value"]
        for t in (STEP, -STEP)
    ]  # fmt: skip
    gradients = evaluate(graph, inputs, bits=BITS, assume=0)
    finite = np.array(
        [_finite(a) and _finite(b) for a, b in zip(*(s.ravel() for s in sides), strict=True)]
    )
    if not finite.all() and call.sample_axis is not None:
        # Some losses are undefined at some ordinary points; a sum over the others is still theirs.
        return _check_defined(subject, call, finite.reshape(sides[0].shape))
    if not finite.all():
        return "UNTESTED", "the value is not finite at an ordinary point", 0.0, 0
    slope = arb(0)
    for up, down in zip(*(s.ravel() for s in sides), strict=True):
        slope += (_ball(up) - _ball(down)) / (2 * arb(STEP))
    along, size = arb(0), arb(0)
    for name in subject.wrt:
        for g, d in zip(
            gradients[f"gradient_{name}"].ravel(), directions[name].ravel(), strict=True
        ):
            if not _finite(g):
                return "FAIL", f"the gradient in {name} is not finite at an ordinary point", 0.0, 0
            along += _ball(g) * arb(float(d))
            size += abs(_ball(g) * arb(float(d)))
    error = float((abs(slope - along) / size).mid()) if size > 0 else float(abs(slope).mid())
    if math.isnan(error):
        return "UNTESTED", "the slope is not known", 0.0, 0
    if error > AGREE:
        detail = f"along a random direction the slope differs from the gradient by {error:.1e}"
        return "FAIL", detail, error, len(call.ids)
    return "PASS", "", error, len(call.ids)


def _check_defined(
    subject: Subject, call: cases.Call, finite: Any
) -> tuple[Status, str, float, int]:
    """The same over the samples at which the value is finite."""
    axis = str(call.sample_axis)
    dim = subject.axes.index(axis)
    kept = np.flatnonzero(np.moveaxis(finite, dim, 0).reshape(len(call.ids), -1).all(axis=1))
    if not kept.size:
        return "UNTESTED", "the value is finite at no ordinary point", 0.0, 0
    inputs = {
        name: np.take(x, kept, axis=subject.kinds[name].axes.index(axis))
        if axis in subject.kinds[name].axes
        else x
        for name, x in call.inputs.items()
    }
    ids = tuple(call.ids[i] for i in kept)
    part = replace(call, ids=ids, flags=tuple(call.flags[i] for i in kept), inputs=inputs)
    return _check(replace(subject, calls=(part,)))


def _moved(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    """The value at inputs moved by ``t`` times their directions."""
    b = Builder(graph.layout)
    t = b.input("t", Type("real", ()), "real")
    moved = {}
    for name, row in graph.inputs():
        if name in wrt:
            node = graph.nodes[row]
            x = b.row("input", (), node.attrs, node.type)
            attrs = tuple((k, f"direction_{name}" if k == "name" else v) for k, v in node.attrs)
            moved[name] = x + t * b.row("input", (), attrs, node.type)
    return b.finish(value=inline(b, graph, moved)[graph.output("value")])


def _finite(x: balls.Value) -> bool:
    return (isinstance(x, arb) and bool(x.is_finite())) or (
        isinstance(x, float) and math.isfinite(x)
    )


def _ball(x: balls.Value) -> arb:
    assert isinstance(x, arb | float)
    return x if isinstance(x, arb) else arb(x)
