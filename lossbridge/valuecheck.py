"""What the values of a loss's inputs have to be: one description for all platforms.

:func:`value_rules` reads from a specification which inputs are looked at. A platform asks a rule
for the :meth:`~ValueRule.interval` that the lengths of a call make of it, compares the smallest and
the largest number with that, which is quick, and only where one of the two lies outside hands the
arrays to :func:`refuse`, which raises if anything that counts is wrong. What does not count:

* entries that the mask leaves out, where it selects and samples do not depend on one another;
* labels equal to a parameter that the loss compares them with, such as ``ignore_index``;
* what stands beyond a length, which is an input of the kind ``length``.

A sample weight of 0 multiplies: what it weighs is looked at. Where the values cannot be read (in a
compiled function, on an accelerator) the loss of such an entry is NaN, and so is its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from lossbridge.dtypes import TARGETS
from lossbridge.errors import ArgumentError, DomainError, LabelError
from lossbridge.ir import Graph, is_star
from lossbridge.kinds import Interval, Kind
from lossbridge.plan import Numbers, enclosed_inputs, independent, index_sources, spec_graph
from lossbridge.spec import Spec

CHECKED: Final = ("length", "index")
"""The kinds of integers that are looked at; real numbers where their domain binds, which is what
:mod:`lossbridge.passes.enclose` says."""


# NumPy does not say it of bfloat16.
_HALF_EPS: Final = {"bfloat16": 2.0**-7, "float16": 2.0**-10}


@dataclass(frozen=True)
class ValueRule:
    """What every entry of one input that counts has to be."""

    name: str
    kind: Kind
    exempt: tuple[str, ...] = ()
    """Parameters that an entry may be equal to, whatever their value."""
    ends: tuple[tuple[str, Kind], ...] = ()
    """Inputs that say how much of this one counts, along one of its axes each."""
    mask_axes: tuple[str, ...] = ()
    """The axes of a mask that hides entries of this input; none where it hides nothing."""

    def interval(self, lengths: Mapping[str, Sequence[int | None]]) -> Interval | None:
        """Where entries lie, for axes of these lengths; None where a length is not known."""
        if self.kind.dtype != "int":
            return self.kind.interval
        (size,) = lengths.get(self.kind.of or "", (None,))
        if size is None:
            return None
        return Interval(0, size - 1 if self.kind.name == "index" else size, False, False)

    @property
    def plain(self) -> bool:
        """Whether the smallest and the largest number say that all lie inside."""
        return self.kind.values is None and self.kind.name != "simplex"

    def inside(self, x: Any, interval: Interval, eps: float = 0.0) -> bool:
        """Whether all of a NumPy array lies inside, what counts and what does not."""
        import numpy as np

        if x.size == 0:
            return True
        if self.plain:
            return x.min().item() in interval and x.max().item() in interval
        return not (self.off(np, x, interval, eps).any() or np.isnan(x).any())

    def off(self, xp: Any, x: Any, interval: Interval, eps: float = 0.0) -> Any:
        """Which entries of ``x`` lie outside; a NaN does not.

        ``eps`` is that of the dtype in which the numbers came, where ``x`` has a wider one.
        """
        wrong = outside(xp, x, interval)
        if self.kind.values is not None:
            low, high = self.kind.values
            wrong = wrong | ((x > low) & (x < high))
        if self.kind.name == "simplex":
            at = _dimensions(self.kind.axes, x.ndim)[self.kind.of or ""][0]
            # A rounding error for each number; in single precision optax allows 1e-5.
            slack = max(1e-5, 2.0 * eps, 2.0 * _HALF_EPS.get(str(x.dtype), 0.0))
            if x.dtype.itemsize < 4:
                x = x.astype("float32")  # sums of bfloat16 stop growing at 256 terms
            wrong = wrong | (abs(xp.sum(x, axis=at, keepdims=True) - 1.0) > slack)
        return wrong

    def wrong(
        self, xp: Any, x: Any, interval: Interval, beside: Mapping[str, Any], eps: float = 0.0
    ) -> Any:
        """Which entries of ``x`` count and lie outside, as an array of truth values.

        ``xp`` is the module of the arrays (numpy, or one with its functions); ``beside`` has the
        parameters in ``exempt`` and the inputs in ``ends`` by name, and may have the ``mask``.
        """
        wrong = self.off(xp, x, interval, eps)
        for name in self.exempt:
            wrong = wrong & (x != beside[name])
        for name, kind in self.ends:
            length = _aligned(xp, beside[name], kind.axes, self.kind.axes, x.ndim)
            at = _dimensions(self.kind.axes, x.ndim)[kind.of or ""][0]
            place = xp.arange(x.shape[at]).reshape((-1,) + (1,) * (x.ndim - at - 1))
            wrong = wrong & (place < length)
        mask = beside.get("mask")
        if mask is not None and self.mask_axes:
            wrong = wrong & _aligned(xp, mask, self.mask_axes, self.kind.axes, x.ndim)
        return wrong

    def text(self, loss: str, interval: Interval, beside: Mapping[str, Any]) -> str:
        """What the entries have to be, in words."""
        if self.kind.dtype != "int":
            whole = ": valid probability distributions" * (self.kind.name == "simplex")
            return f"{loss}: {self.name} is {self.kind}, {self.kind.meaning}{whole}{self._advice}"
        values = ((name, beside.get(name)) for name in self.exempt)
        exempt = "".join(
            f" or is {name}" + (f"={int(v)}" if isinstance(v, int | float) else "")
            for name, v in values
        )
        return (
            f"{loss}: {self.name} is {self.kind}, so it lies from {interval.lo:.0f} to "
            f"{interval.hi:.0f}{exempt}"
        )

    @property
    def _advice(self) -> str:
        if self.kind.name == "sign":
            return f" (of labels 0 and 1, pass 2 * {self.name} - 1)"
        if self.kind.name in ("probability", "simplex") and self.name not in TARGETS:
            of = "sigmoid" if self.kind.name == "probability" else "softmax"
            return f" (of logits, pass their {of}, or use a loss that takes logits)"
        return ""


def outside(xp: Any, x: Any, interval: Interval) -> Any:
    """Where numbers lie beyond the finite ends of an interval; a NaN does not."""
    wrong = xp.zeros(x.shape, bool)
    if math.isfinite(interval.lo):
        wrong = wrong | (x <= interval.lo if interval.lo_open else x < interval.lo)
    if math.isfinite(interval.hi):
        wrong = wrong | (x >= interval.hi if interval.hi_open else x > interval.hi)
    return wrong


@lru_cache(maxsize=1024)
def value_rules(spec: Spec, numbers: Numbers = ()) -> tuple[ValueRule, ...]:
    """The rules of a specification with these settings, those about lengths first."""
    graph = spec_graph(spec)
    mask_axes = index_sources(spec)
    # Where samples depend on one another, what the mask leaves out takes part in the others.
    alone = independent(graph, set(mask_axes)) and spec.numerics.masked is None
    hides = mask_axes if alone else ()
    compared = _compared(graph, spec)
    lengths = {name: kind for name, kind in spec.inputs.items() if kind.name == "length"}
    rules = []
    for name, kind in spec.inputs.items():
        if kind.name not in CHECKED and name not in enclosed_inputs(spec, numbers):
            continue
        ends = tuple(
            (other, length)
            for other, length in lengths.items()
            if length.of in kind.axes and set(length.axes) <= set(kind.axes)
        )
        rules.append(
            ValueRule(
                name,
                kind,
                compared.get(name, ()) if kind.dtype == "int" else (),
                ends,
                hides if set(hides) & set(kind.axes) else (),
            )
        )
    return tuple(sorted(rules, key=lambda rule: rule.kind.name != "length"))


def refuse(
    loss: str,
    rule: ValueRule,
    x: Any,
    interval: Interval,
    beside: Mapping[str, Any],
    eps: float = 0.0,
) -> None:
    """Raise if a NumPy array has an entry that counts and lies outside."""
    import numpy as np

    wrong = rule.wrong(np, x, interval, beside, eps)
    if wrong.any():
        at = np.argwhere(wrong)[0].tolist()
        kind = LabelError if rule.kind.dtype == "int" else DomainError
        place = f", at {at}" if at else ""
        given = x[tuple(at)].item()
        number = f"{given:.6g}" if isinstance(given, float) else str(given)
        raise kind(f"{rule.text(loss, interval, beside)}; {number} was given{place}")


def refuse_mask(loss: str, what: str, x: Any) -> None:
    """Raise if a NumPy array of integers is no mask: a number that weighs would count as 1."""
    if x.dtype != bool and x.size and not (x.min() >= 0 and x.max() <= 1):
        wrong = x[(x != 0) & (x != 1)]
        raise ArgumentError(
            f"{loss}: {what} selects, so it holds truth values or the integers 0 and 1, but "
            f"{wrong.flat[0]} was given; numbers that weigh go to sample_weight, and a mask is "
            f"{what} != 0"
        )


def _compared(graph: Graph, spec: Spec) -> dict[str, tuple[str, ...]]:
    """The integer parameters that each input is compared with, entry by entry."""
    names = {row: name for name, row in graph.inputs()}
    found: dict[str, tuple[str, ...]] = {}

    def source(row: int) -> str:
        while graph.nodes[row].op == "broadcast":
            row = graph.nodes[row].args[0]
        return names.get(row, "")

    for node in graph.nodes:
        if node.op not in ("eq", "ne"):
            continue
        one, other = map(source, node.args)
        for name, param in ((one, other), (other, one)):
            known = found.get(name, ())
            if name in spec.inputs and param in spec.params and param not in known:
                found[name] = (*known, param)
    return found


def _dimensions(axes: Sequence[str], rank: int) -> dict[str, tuple[int, ...]]:
    """The dimensions of every axis in an array of a rank; a group has what the others leave."""
    found: dict[str, tuple[int, ...]] = {}
    at = 0
    for axis in axes:
        width = rank - len(axes) + 1 if is_star(axis) else 1
        found[axis] = tuple(range(at, at + width))
        at += width
    return found


def _aligned(xp: Any, x: Any, axes: Sequence[str], wanted: Sequence[str], rank: int) -> Any:
    """An array over ``axes``, lined up with one of this rank over ``wanted``.

    Along axes that the other does not have, an entry counts if any does.
    """
    own, places = _dimensions(axes, x.ndim), _dimensions(wanted, rank)
    gone = tuple(d for axis in axes if axis not in places for d in own[axis])
    if gone:
        x = xp.any(x, axis=gone)
    left = [axis for axis in axes if axis in places]
    own = _dimensions(left, x.ndim)
    shared = [axis for axis in wanted if axis in own]
    x = xp.transpose(x, [d for axis in shared for d in own[axis]])
    sizes = iter(x.shape)
    shape = [next(sizes) if axis in own else 1 for axis in wanted for _ in places[axis]]
    return x.reshape(shape)
