"""What two sides both take: which inputs meet, in whose terms, at which ranks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from lossbridge.kinds import Kind
from lossbridge.migrate.probes import SHAPES, Layout, Signature
from lossbridge.migrate.sides import Side

# Of two domains of one representation, the later holds the earlier.
NARROW = (
    "one_hot", "simplex", "log_simplex", "unit", "sign", "binary", "probability",
    "log_probability", "positive", "counts", "non_negative", "index", "labels", "step",
    "integer", "real",
)  # fmt: skip

UNSIGNED = {"binary", "probability", "simplex", "one_hot"}
"""Domains of targets that a label of -1 or 1 stands in other terms than."""


def overloads_of(a: Side, b: Side) -> list[tuple[Side, Side]]:
    """Those meanings of both whose inputs are most alike; several where they are equally so."""
    left, right = a.overloads(), b.overloads()
    if left[0].signature.axis is None and a.signature.axis is not None:
        for each in left:
            each.signature = replace(each.signature, axis=a.signature.axis)
    if right[0].signature.axis is None and b.signature.axis is not None:
        for each in right:
            each.signature = replace(each.signature, axis=b.signature.axis)

    def unlike(pair: tuple[Side, Side]) -> int:
        x, y = pair[0].signature, pair[1].signature
        if len(x.inputs) != len(y.inputs):
            return 100
        return sum(
            10 * (k.dtype != m.dtype) + (k.name != m.name)
            for k, m in zip(x.inputs.values(), y.inputs.values(), strict=True)
        )

    every = list(itertools.product(left, right))
    least = min(map(unlike, every))
    return [p for p in every if unlike(p) == least][: None if least == 0 else 1]


def laid_alike(a: Side, b: Side) -> tuple[Side, Side]:
    """Two built-ins of one framework, which are given one array, whatever their class axes are.

    Between frameworks the axis is where each has its classes, and the array is turned.
    """
    axes = (a.signature.axis, b.signature.axis)
    if a.native is None or b.native is None or a.platform != b.platform or None in axes:
        return a, b
    if b.recorded and not a.recorded:
        return replace(a, signature=replace(a.signature, axis=axes[1])), b
    return a, replace(b, signature=replace(b.signature, axis=axes[0]))


def alike(a: Signature, b: Signature) -> bool:
    """Whether inputs correspond, and have their axes in common: labels lack that of the classes."""
    if len(a.inputs) != len(b.inputs):
        return False
    if [*map(str, a.inputs.values())] == [*map(str, b.inputs.values())]:
        return True
    lacking = [
        [max(len(k.axes) for k in x.inputs.values()) - len(k.axes) for k in x.inputs.values()]
        for x in (a, b)
    ]
    pairs = zip(a.inputs.values(), b.inputs.values(), *lacking, strict=True)
    return all(x == y if k.dtype == m.dtype else x != y for k, m, x, y in pairs)


def laid_out(a: Side, b: Side) -> tuple[Side, Side] | None:
    """Two sides whose axes meet by name; by place where one has no names, or others.

    What was recorded keeps the layout in which it was; None where both were, in two.
    """
    la, lb = a.signature.own_layout, b.signature.own_layout
    if la is None and lb is None:
        return a, b
    if la is not None and lb is not None:
        if {*itertools.chain(*la.orders)} == {*itertools.chain(*lb.orders)}:
            return a, b  # one canonical order, whatever stands where
        if a.recorded and b.recorded:
            return None
        kept, other = (b, a) if b.recorded else (a, b)
        made = _renamed(other.signature, kept.signature)
        if made is None:
            return a, b
        moved = replace(other, signature=replace(other.signature, layout=made))
        return (moved, b) if other is a else (a, moved)
    named, other, layout = (a, b, la) if la is not None else (b, a, lb)
    assert layout is not None
    own = tuple(named.signature.arranged(k) for k in named.signature.inputs.values())
    widest = max(own, key=len)
    plain = set(widest) >= {*itertools.chain(*own)} and not layout.fixed
    if plain and (layout.canonical == widest or not named.recorded):
        # By place, as where no axis has a name.
        placed = replace(layout, canonical=widest)
        named = replace(named, signature=replace(named.signature, layout=placed))
    elif other.recorded:
        return None
    else:
        placed = replace(layout, orders=own)
        other = replace(other, signature=replace(other.signature, layout=placed))
    return (named, other) if la is not None else (other, named)


def _renamed(given: Signature, kept: Signature) -> Layout | None:
    """The layout of a side with the names of another's axes, input by input and axis by axis."""
    layout = kept.own_layout
    names: dict[str, str] = {}
    if layout is None or len(given.inputs) != len(kept.inputs):
        return None
    for k, m in zip(given.inputs.values(), kept.inputs.values(), strict=True):
        mine, theirs = given.arranged(k), kept.arranged(m)
        if k.dtype == m.dtype and len(mine) != len(theirs):
            return None
        for x, y in zip(mine, theirs, strict=False):
            if names.setdefault(x, y) != y:
                return None
    missing = {a for k in given.inputs.values() for a in k.axes} - {*names}
    if missing or len({*names.values()}) != len(names):
        return None
    orders = tuple(tuple(names[a] for a in k.axes) for k in given.inputs.values())
    return Layout(layout.canonical, orders, layout.fixed)


def by_names(a: Side, b: Side) -> tuple[Side, Side]:
    """Two functions whose inputs have the same names, in the order of one of them."""
    x, y = a.signature, b.signature
    if a.specs or b.specs or list(x.inputs) == list(y.inputs) or {*x.inputs} != {*y.inputs}:
        return a, b
    if b.recorded and not a.recorded:
        return replace(a, signature=_ordered(x, list(y.inputs))), b
    if a.recorded and b.recorded:
        return a, b
    return a, replace(b, signature=_ordered(y, list(x.inputs)))


def _ordered(signature: Signature, names: Sequence[str]) -> Signature:
    own = domains_of(signature)
    places = [list(signature.inputs).index(n) for n in names]
    return replace(
        signature,
        inputs={n: signature.inputs[n] for n in names},
        domains=tuple(own[k] for k in places),
    )


def fixed_axes(kind: Kind) -> int:
    """How many axes a kind has beside a group."""
    return sum(not axis.startswith("*") for axis in kind.axes)


def ranks_of(a: Signature, b: Signature) -> tuple[int, ...]:
    """The ranks of the widest input that both sides take, the plainest first."""
    found: list[int] = []
    named = [len(x.canonical) for s in (a, b) if (x := s.layout or s.own_layout) is not None]
    if named:
        rank = max(named)
        return (rank,) if rank in SHAPES and {*named} == {rank} and _takes(a, b, rank) else ()
    for rank in (2, 1, 3, 4):
        if rank == max(SHAPES) and found:
            break  # images that are described so; all else is told at fewer axes
        if _takes(a, b, rank):
            found.append(rank)
    return tuple(found)


def _takes(a: Signature, b: Signature, rank: int) -> bool:
    """Whether both sides take a widest input of this rank; of named axes, that is known."""
    fits = True
    for signature in (a, b):
        if signature.described and signature.own_layout is not None:
            continue
        widest = max(signature.inputs.values(), key=lambda k: len(k.axes))
        star = len(widest.axes) > fixed_axes(widest)
        # A group may be empty, as in Keras's mean over the last axis of (N,); but a single
        # sample without a batch beside a label is torch's alone.
        alike = len({len(k.axes) for k in signature.inputs.values()}) == 1
        least = fixed_axes(widest) if alike else len(widest.axes)
        fits &= least <= rank if star else len(widest.axes) == rank
    return fits


def joint_domains(a: Signature, b: Signature) -> tuple[str | None, ...]:
    """For each input the domain that both take; None where each needs its own terms."""
    found: list[str | None] = []
    kinds = zip(a.inputs.values(), b.inputs.values(), strict=True)
    for (k, m), x, y in zip(kinds, domains_of(a), domains_of(b), strict=True):
        if k.dtype != m.dtype or ("sign" in (x, y) and {x, y} & UNSIGNED):
            found.append(None)
        elif x == y:
            found.append(x)
        else:
            found.append(next((n for n in NARROW if n in (x, y)), None))
    return tuple(found)


def domains_of(signature: Signature) -> list[str]:
    """The domain of each input, in order."""
    return [signature.domain(k) for k in range(len(signature.inputs))]


def in_domains(signature: Signature, joint: Sequence[str | None]) -> Signature:
    """A signature with its inputs in these domains; in its own where there is none."""
    own = domains_of(signature)
    return replace(signature, domains=tuple(j or d for j, d in zip(joint, own, strict=True)))


def ignored_labels(a: Side, b: Side) -> tuple[int, ...]:
    """The labels that a side leaves out; -100, which most do, where a side's are not known."""
    found: list[int] = []
    for x in (a, b):
        if not x.specs:
            found.append(-100)
        for spec in x.specs[:1]:
            given = spec.params.get("ignore_index")
            if given is not None and given.value is not None and abs(given.value) < 2**31:
                found.append(int(given.value))
    return tuple(dict.fromkeys(found))


def stated_labels(a: Side, b: Side) -> tuple[int, ...]:
    """The labels that a side was told to leave out, where that is not its default."""
    found = []
    for x in (a, b):
        for spec in x.specs[:1]:
            given = spec.params.get("ignore_index")
            if given is not None and given.value is not None and given.value != -100:
                found.append(int(given.value))
    return tuple(dict.fromkeys(found))
