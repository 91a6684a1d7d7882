"""The probes: fixed inputs, made from what the inputs of a loss are said to be.

A probe holds latent numbers; each side is given them in its own terms: the kind of an input says
whether it sees the logits, their probabilities or the logarithms of those, labels or one-hot rows,
and where its class axis lies. So two losses of one family meet on the same latent point, also when
one of them ran last year in another environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossbridge.errors import ArgumentError
from lossbridge.kinds import Kind, moved_axis

VERSION = 1
"""Changes with every change of a probe: records of another version are not comparable."""

Array = Any


@dataclass(frozen=True)
class Probe:
    """One point. ``group`` says what it is there for; ``latent`` holds its numbers by place."""

    id: str
    group: str
    rank: int
    latent: tuple[Array, ...]
    labels: Array
    signs: Array
    weights: Array | None = None
    dtype: str = "float64"
    mode: str = "eager"


@dataclass(frozen=True)
class Signature:
    """What a side takes: names and kinds in order, and where its class axis lies."""

    inputs: Mapping[str, Kind]
    axis: int | None = None
    ports: Mapping[str, Any] = field(default_factory=dict)

    @property
    def real(self) -> tuple[str, ...]:
        """The inputs a gradient can be taken in."""
        return tuple(n for n, k in self.inputs.items() if k.dtype == "real")

    def family(self) -> str:
        """Losses of different families have no input in common."""
        kinds = list(self.inputs.values())
        if any(not any(a.startswith("*") for a in k.axes) and len(k.axes) > 1 for k in kinds):
            return "fixed " + "; ".join(",".join(k.axes) for k in kinds)
        return f"{len(kinds)} inputs"


def parse(inputs: Mapping[str, str]) -> Signature:
    """The signature that a user writes: ``{"logits": "real[n, c]", "labels": "index(c)[n]"}``."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise ArgumentError(
            'inputs= describes the arguments, such as {"logits": "real[n, c]", "labels": '
            '"index(c)[n]"}'
        )
    return Signature({name: Kind.parse(text) for name, text in inputs.items()})


SHAPES: Mapping[int, tuple[int, ...]] = {1: (4,), 2: (4, 3), 3: (4, 2, 3)}
"""By the rank of the widest input: batch first and classes last, all lengths different."""


def probes(rank: int, *, weights: bool = False) -> Iterator[Probe]:
    """Every probe whose widest input has this rank, in the order of the smallest first."""
    shape = SHAPES[rank]
    rng = np.random.default_rng(2718 + rank)

    def draw(scale: float, size: tuple[int, ...] = shape) -> Array:
        # Of eight bits, so that every format down to bfloat16 holds it exactly.
        return np.round(rng.normal(0.0, scale, size) * 16.0) / 16.0

    def probe(
        name: str, group: str, latent: tuple[Array, ...], labels: Array | None = None, **more: Any
    ) -> Probe:
        wide = latent[0].shape
        if labels is None:
            labels = rng.integers(0, max(wide[-1], 1), wide[:-1])
        signs = np.where(rng.random(wide) < 0.5, -1.0, 1.0)
        return Probe(f"{rank}/{name}", group, rank, latent, labels, signs, **more)

    one = (1, *shape[1:])
    for k in range(2):
        yield probe(f"single {k}", "inside", tuple(draw(1.0, one) for _ in range(3)))
    for k, scale in enumerate((1.0, 1.0, 3.0)):
        yield probe(f"inside {k}", "inside", tuple(draw(scale) for _ in range(3)))
    x = draw(1.0)
    yield probe("ties", "kinks", (x, x.copy(), draw(1.0)))
    yield probe("near ties", "kinks", (x, x + 2.0**-20, draw(1.0)))
    zero = np.zeros(shape)
    yield probe("zeros", "kinks", (zero, zero.copy(), zero.copy()))
    yield probe("zero prediction", "kinks", (zero, draw(1.0), draw(1.0)))
    for distance in (0.5, 1.0, 2.0):
        y = draw(1.0)
        yield probe(f"at a distance of {distance}", "kinks", (y + distance, y, y - distance))
        yield probe(f"at a distance of -{distance}", "kinks", (y - distance, y, y + distance))
        yield probe(f"at {distance}", "kinks", (np.full(shape, distance), y, zero))
    for size in (20.0, 100.0, 1000.0):
        signs = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        yield probe(f"saturated at {size:g}", "edges", (size * signs, draw(1.0), draw(1.0)))
    big = draw(1.0)
    big.flat[0] = 1e30
    yield probe("huge", "edges", (big, draw(1.0), draw(1.0)))
    for name, value in (("inf", np.inf), ("-inf", -np.inf), ("NaN", np.nan)):
        odd = draw(1.0)
        odd.flat[0] = value
        yield probe(f"one {name}", "edges", (odd, draw(1.0), draw(1.0)))
    empty = np.zeros((0, *shape[1:]))
    yield probe("empty", "empty", (empty, empty.copy(), empty.copy()))
    if rank > 1:
        square = tuple(draw(1.0, (3,) * rank) for _ in range(3))
        yield probe("all axes of one length", "inside", square)
        labels = np.full(shape[:-1], -100)
        yield probe("all labels ignored", "ignored", tuple(draw(1.0) for _ in range(3)), labels)
        labels = rng.integers(0, shape[-1], shape[:-1])
        labels.flat[0] = -100
        yield probe("one label ignored", "ignored", tuple(draw(1.0) for _ in range(3)), labels)
    for dtype in ("float32", "float16", "bfloat16"):
        latent = tuple(draw(1.0) for _ in range(3))
        yield probe(f"in {dtype}", "precision", latent, dtype=dtype)
    yield probe("compiled", "compiled", tuple(draw(1.0) for _ in range(3)), mode="compiled")
    if weights:
        given = np.array([0.5, 2.0, 0.0, 1.5])
        yield probe("sample weights", "weights", tuple(draw(1.0) for _ in range(3)), weights=given)


def seen(
    probe: Probe, signature: Signature, named: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """A probe in the terms of one side: an array for each input."""
    found: dict[str, Array] = {}
    width = max(len(k.axes) for k in signature.inputs.values())
    for place, (name, kind) in enumerate(signature.inputs.items()):
        array = _array(probe, place, kind, width)
        axis = signature.axis
        if axis is not None and moved_axis(kind) is not None and array.ndim > 1:
            array = np.moveaxis(array, -1, min(axis, array.ndim - 1))
        found[name] = array
    return found


def _array(probe: Probe, place: int, kind: Kind, width: int) -> Array:
    """One input: its latent numbers in the domain of its kind, and of its rank."""
    latent = probe.latent[min(place, len(probe.latent) - 1)]
    rank = probe.rank - (width - len(kind.axes))
    if kind.name == "index":
        return probe.labels
    if kind.name == "integer":
        return np.abs(np.rint(_cut(latent, rank))).astype(np.int64)
    if kind.name == "simplex" and place > 0:
        # A target: the labels as rows of 0 and 1, so that it can meet a side that takes labels.
        rows = np.zeros(latent.shape)
        inside = np.maximum(probe.labels, 0)
        np.put_along_axis(rows, inside[..., None], 1.0, axis=-1)
        return rows * (probe.labels >= 0)[..., None]
    if kind.name in ("sign", "binary") or (kind.name == "probability" and place > 0):
        signs = _cut(probe.signs, rank)
        return signs if kind.name == "sign" else 0.5 * signs + 0.5
    with np.errstate(all="ignore"):
        return _cut(_DOMAINS[kind.name](latent), rank)


def _cut(array: Array, rank: int) -> Array:
    while array.ndim > rank:
        array = array[..., 0]
    return array


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-1e308))
    return e / e.sum(axis=-1, keepdims=True)


_DOMAINS: Mapping[str, Any] = {
    "real": lambda x: x,
    "tree": lambda x: x,
    "positive": lambda x: np.exp(np.clip(x, -30, 30)),
    "non_negative": lambda x: np.abs(x),
    "probability": lambda x: np.where(x < 0, np.exp(-np.logaddexp(0, -x)), 1 / (1 + np.exp(-x))),
    "log_probability": lambda x: -np.logaddexp(0, -x),
    "simplex": _softmax,
    "unit": lambda x: x / np.maximum(np.sqrt((x * x).sum(axis=-1, keepdims=True)), 1e-30),
    "mask": lambda x: x > 0,
    "flag": lambda x: x > 0,
}


def digest() -> str:
    """What all probes are, in a hash: records say which they hold."""
    found = hashlib.sha256(str(VERSION).encode())
    for rank in SHAPES:
        for probe in probes(rank, weights=True):
            found.update(json.dumps([probe.id, probe.group, probe.dtype, probe.mode]).encode())
            for array in (*probe.latent, probe.labels, probe.signs):
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
