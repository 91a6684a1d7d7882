"""Ordinary inputs for every loss of the catalogue, from the kinds of its inputs alone.

Lengths are unequal primes, so that an exchange of two axes shows.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossbridge.frontdoor import Form, forms
from lossbridge.ir import is_star
from lossbridge.kinds import Kind
from lossbridge.spec import Spec

# Where the kind of an input depends on a setting, the setting under which it is any real number.
SETTINGS: Mapping[str, Mapping[str, Any]] = {"kl_div@1": {"log_target": True}}
BATCH, CLASSES, LENGTHS = 7, 3, {"features": 5, "time": 11, "positions": 2, "points": 7}


@dataclass(frozen=True)
class Sample:
    """One call of one loss: what it is made with, and what it is given."""

    class_: str
    spec: Spec
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    weights: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def real(self) -> tuple[str, ...]:
        """The inputs that have gradients."""
        return tuple(n for n, k in self.spec.inputs.items() if k.dtype == "real")

    @property
    def tree(self) -> bool:
        """Whether it is a penalty on a parameter tree."""
        return any(k.name == "tree" for k in self.spec.inputs.values())

    def axes(self, name: str) -> tuple[str, ...]:
        return self.spec.inputs[name].axes

    def made(self, **settings: Any) -> Sample:
        """The same call of a loss with other settings."""
        return dataclasses.replace(self, settings={**self.settings, **settings})

    def given(self, **inputs: Any) -> Sample:
        """The same loss, given other inputs."""
        return dataclasses.replace(self, inputs={**self.inputs, **inputs})

    def astype(self, dtype: Any) -> Sample:
        """The same call with its floating arrays in another dtype."""

        def cast(arrays: Mapping[str, Any]) -> dict[str, Any]:
            return {n: x.astype(dtype) if x.dtype.kind == "f" else x for n, x in arrays.items()}

        return dataclasses.replace(self, inputs=cast(self.inputs), weights=cast(self.weights))


def _length(axis: str, batch: int) -> tuple[int, ...]:
    if is_star(axis):
        return {"*batch": (batch,), "*leaf": (batch,)}.get(axis, (2, 5))
    return (batch,) if axis == "batch" else (LENGTHS.get(axis, CLASSES),)


def array_of(kind: Kind, rng: np.random.Generator, batch: int = BATCH) -> Any:
    """An ordinary array of a kind: int64, bool or float32."""
    shape = tuple(n for axis in kind.axes for n in _length(axis, batch))
    if kind.name == "index":
        # A label of a sequence is not the blank.
        return rng.integers(1 if "positions" in kind.axes else 0, CLASSES, shape)
    if kind.name == "length":
        return np.full(shape, LENGTHS[kind.of or ""])
    if kind.name == "integer":
        return rng.integers(1, CLASSES, shape)
    if kind.dtype == "bool":
        return rng.random(shape) < 0.5
    if kind.name in ("binary", "sign"):
        ones = rng.integers(0, 2, shape).astype(np.float32)
        return ones if kind.name == "binary" else 2 * ones - 1
    x = rng.normal(size=shape)
    if kind.name == "simplex":
        along = kind.axes.index(kind.of or "")
        x = np.exp(x) / np.exp(x).sum(along - len(kind.axes), keepdims=True)
    elif kind.name == "probability":
        x = rng.uniform(0.1, 0.9, shape)
    elif kind.name in ("positive", "non_negative"):
        x = rng.uniform(0.2, 2.0, shape)
    elif kind.name == "log_probability":
        x = -rng.uniform(0.2, 2.0, shape)
    elif kind.name == "unit":
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return x.astype(np.float32)


def sample(form: Form, spec: Spec, batch: int = BATCH, **settings: Any) -> Sample:
    """An ordinary call of a loss, the same in every process."""
    rng = np.random.default_rng(zlib.crc32(spec.id.encode()))
    sizes = {}
    weights = {}
    for name, weight in spec.weights.items():
        weights[name] = array_of(weight.kind, rng)
        shape = dict(zip(weight.kind.axes, weights[name].shape, strict=True))
        sizes.update((s, shape[a]) for a, s in weight.sizes.items() if isinstance(s, str))
    inputs = {name: array_of(kind, rng, batch) for name, kind in spec.inputs.items()}
    chosen = {**sizes, **SETTINGS.get(spec.id, {}), **settings}
    return Sample(form.name, spec, chosen, inputs, weights)


def every(
    keep: Callable[[Sample], bool] = lambda s: not s.spec.ports and not s.tree,
) -> list[Sample]:
    """An ordinary call of each loss that ``keep`` is true of; by default all that take arrays."""
    made = [sample(form, spec) for form in forms().values() for spec in form.specs]
    return [s for s in made if keep(s)]
