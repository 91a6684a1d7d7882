"""The probes: fixed inputs, made from what the inputs of a loss are said to be.

A probe holds latent numbers; each side is given them in its own terms: the kind of an input says
whether it sees the logits, their probabilities or the logarithms of those, labels or one-hot rows,
and where its class axis lies. So two losses of one family meet on the same latent point, also when
one of them ran last year in another environment.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from lossbridge.errors import ArgumentError, shown
from lossbridge.kinds import KINDS, Kind, moved_axis

VERSION = 3
"""Changes with every change of a probe: records of another version are not comparable."""

Array = Any


@dataclass(frozen=True)
class Probe:
    """One point. ``group`` says what it is there for; ``latent`` holds its numbers by place.

    ``labels`` and ``signs`` are those of the second input, which is a target with most losses;
    ``beside`` holds those of the others, so that no two inputs of one kind are one array.
    """

    id: str
    group: str
    rank: int
    latent: tuple[Array, ...]
    labels: Array
    signs: Array
    weights: Array | None = None
    dtype: str = "float64"
    mode: str = "eager"
    mask: Array | None = None
    beside: tuple[tuple[Array, Array], ...] = ()
    anew: int | None = None
    """The place of the only input in which it is not the probe that it is named after."""

    def label(self, place: int) -> Array:
        """The labels of the input at a place."""
        return self.beside[place][0] if place != 1 and self.beside else self.labels

    def sign(self, place: int) -> Array:
        """The signs of the input at a place."""
        return self.beside[place][1] if place != 1 and self.beside else self.signs

    @property
    def soft(self) -> bool:
        """Whether targets that may be distributions are no hard ones here."""
        return "soft" in self.id


@dataclass(frozen=True)
class Layout:
    """Which lengths the named axes of a side have, and how its arrays lie.

    ``canonical`` are the axes of the widest input in the order of the probes' own arrays,
    ``orders`` those of each input in the side's. Of what is not among the canonical axes, each
    has a length of its own, so that no axis can be taken for another.
    """

    canonical: tuple[str, ...]
    orders: tuple[tuple[str, ...], ...]
    fixed: Mapping[str, int] = field(default_factory=dict)

    def sizes(self, shape: tuple[int, ...], square: bool) -> dict[str, int]:
        """The length of every axis, on probes of a shape."""
        found = dict(zip(self.canonical, shape, strict=True))
        further = sorted({n for order in self.orders for n in order} - {*found})
        own = (n for n in OWN_LENGTHS if n not in shape)
        for name in further:
            twin = name.replace(TWIN, "")
            if name not in self.fixed and twin not in found:
                found[name] = shape[-1] if square else next(own)
        for name in further:
            if name not in found and name not in self.fixed:
                found[name] = found[name.replace(TWIN, "")]
        return {**found, **self.fixed}


OWN_LENGTHS = tuple(range(5, 40))
TWIN = "_again"
"""What is added to the name of an axis that an input has twice."""
FIXED = "of_length_"
"""What an axis is called that has a number for a name."""


@dataclass(frozen=True)
class Signature:
    """What a side takes: names and kinds in order, and where its class axis lies."""

    inputs: Mapping[str, Kind]
    axis: int | None = None
    ports: Mapping[str, Any] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    """What each input is for, where its kind leaves more open."""
    described: bool = False
    """Whether its axes are those of a description, so that their names mean something."""
    layout: Layout | None = None
    """How its arrays lie beside those of another side, where that is not its own layout."""
    places: Mapping[str, int] = field(default_factory=dict)
    """Where single axes lie, of a combination, whose losses may each have them elsewhere."""

    def domain(self, place: int) -> str:
        """The domain of the input at a place."""
        if self.domains:
            return self.domains[place]
        name, kind = list(self.inputs.items())[place]
        return "step" if name == "step" and kind == Kind("integer") else kind.name

    @property
    def real(self) -> tuple[str, ...]:
        """The inputs a gradient can be taken in."""
        return tuple(n for n, k in self.inputs.items() if k.dtype == "real")

    @property
    def sequence(self) -> bool:
        """Whether it takes sequences and their labels, with their lengths or without.

        An axis that is called time is not enough: one label for each step is no alignment.
        """
        axes = {axis for k in self.inputs.values() for axis in k.axes}
        return {"time", "positions"} <= axes

    def place(self, kind: Kind) -> int:
        """Where the class axis lies in an array of a kind: -1 is last, as it is on the probes."""
        moved = moved_axis(kind)
        if moved is not None and moved in self.places:
            return self.places[moved]
        if moved is not None and self.axis is not None:
            return self.axis
        axes = kind.axes
        chosen = next(
            (axes.index(k.of) for k in self.inputs.values() if k.of in axes and k.name != "length"),
            len(axes),
        )
        if any(axis.startswith("*") for axis in axes[:chosen]):
            return min(chosen - len(axes), -1)
        return chosen if chosen + 1 < len(axes) else -1

    @property
    def own_layout(self) -> Layout | None:
        """Its axes by name, if all of them have one: batch first, classes last."""
        kinds = list(self.inputs.values())
        every = [a for k in kinds for a in k.axes]
        if not self.described or self.sequence or not every or any("*" in a for a in every):
            return None
        fixed = {
            a: int(found[1]) for a in every if (found := re.match(f"{FIXED}([0-9]+)", a, re.ASCII))
        }
        own = [[a for a in k.axes if not a.endswith(TWIN)] for k in kinds]
        widest = max(own, key=lambda axes: (len(axes), -sum(a in fixed for a in axes)))
        classes = {k.of for k in kinds if k.of}

        def place(axis: str) -> tuple[int, str]:
            if axis in FIRST:
                return 0, axis
            last = 4 if axis in classes else 3 if axis in fixed else 1 + (axis in LAST)
            return last, axis

        canonical = tuple(sorted(widest, key=place))
        if len(canonical) not in SHAPES or max(len(k.axes) for k in kinds) > max(SHAPES):
            return None
        return Layout(canonical, tuple(k.axes for k in kinds), fixed)

    def written(self, name: str) -> str:
        """The description of an input, as its user wrote it."""
        text = str(self.inputs[name])
        return text.replace(FIXED, "").replace(TWIN, "") if self.described else text

    def arranged(self, kind: Kind) -> tuple[str, ...]:
        """The axes of a kind, that of the classes last."""
        axes, place = list(kind.axes), self.place(kind)
        if moved_axis(kind) is None and axes and -len(axes) <= place < len(axes):
            axes.append(axes.pop(place))
        return tuple(axes)


def parse(inputs: Mapping[str, str]) -> Signature:
    """The signature that a user writes: ``{"logits": "real[n, c]", "labels": "index(c)[n]"}``."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise ArgumentError(
            'inputs= describes the arguments, such as {"logits": "real[n, c]", "labels": '
            '"index(c)[n]"}'
        )
    return Signature({n: kind_of(text) for n, text in inputs.items()}, described=True)


FIRST = ("n", "b", "B", "N", "batch", "bs", "batch_size")
"""What the axis of the samples is called."""
LAST = (
    "c", "C", "k", "K", "classes", "class", "num_classes", "d", "D", "f", "features", "dim",
    "channels", "v", "V", "vocab",
)  # fmt: skip
"""What an axis is called that lies last on the probes: of classes, of features."""
MOST_LENGTH = 64


def kind_of(text: str) -> Kind:
    """A kind as descriptions write it: an axis may be a number, its length, or stand twice."""
    if not isinstance(text, str):
        return Kind.parse(text)
    head, bracket, rest = text.partition("[")
    if not bracket:
        return Kind.parse(text)
    axes, closed, after = rest.rpartition("]")
    seen_axes: list[str] = []
    for axis in axes.split(",") if closed and len(axes) < 2048 else ():
        name = axis.strip(" ")
        if re.fullmatch("[0-9]{1,9}", name, re.ASCII):
            if not 1 <= int(name) <= MOST_LENGTH:
                raise ArgumentError(
                    f"an axis of length {name} in {shown(text)}; a length is 1 to {MOST_LENGTH}"
                )
            name = f"{FIXED}{int(name)}"
        while name in seen_axes:
            name += TWIN
        seen_axes.append(name)
    if not seen_axes:
        return Kind.parse(text)
    lengths = [int(x[1]) for a in seen_axes if (x := re.match(f"{FIXED}([0-9]+)", a, re.ASCII))]
    if math.prod(lengths) > MOST_LENGTH**2:
        raise ArgumentError(f"{shown(text)} has more than {MOST_LENGTH**2} numbers a sample")
    return Kind.parse(f"{head}[{', '.join(seen_axes)}]{after}")


TARGETS = ("target", "targets", "y_true", "label", "labels")
"""What an input is called that every loss known here takes second."""
TARGET_WORDS = frozenset(
    ("target", "targets", "label", "labels", "true", "truth", "gt", "groundtruth")
)


def named_as_target(name: str) -> bool:
    """Whether the name of an input says that it is a target: ``y_true``, ``target_boxes``."""
    return bool(TARGET_WORDS & {*re.split("[_0-9]+", name.lower())})


def in_order(signature: Signature) -> Signature:
    """The inputs as the losses known here have them: a prediction, then its target.

    Keras's functions take (y_true, y_pred), TensorFlow's (labels, logits): by place, the one
    would meet the other's prediction.
    """
    names = list(signature.inputs)
    if len(names) != 2 or names[0] not in TARGETS or names[1] in TARGETS:
        return signature
    return replace(signature, inputs={n: signature.inputs[n] for n in reversed(names)})


SHAPES: Mapping[int, tuple[int, ...]] = {1: (4,), 2: (4, 3), 3: (4, 2, 3), 4: (4, 2, 5, 3)}
"""By the rank of the widest input: batch first and classes last, all lengths different."""
PLACES = 6
"""How many inputs have arrays of their own."""
CLASSES = 3
"""How many classes there are, unless a loss is made for another number."""


def probes(
    rank: int,
    *,
    weights: bool = False,
    ignored: Sequence[int] = (-100,),
    single: bool = False,
    masks: bool = False,
    classes: int = CLASSES,
) -> Iterator[Probe]:
    """Every probe whose widest input has this rank, in the order of the smallest first.

    ``ignored`` are labels that a side leaves out; ``classes`` is the length of the last axis.
    ``single``: the first axis is the sample's own, so that a batch is never empty, and its length
    not 1.
    """
    shape = SHAPES[rank] if rank == 1 else (*SHAPES[rank][:-1], classes)
    rng = np.random.default_rng(2718 + rank)

    def draw(place: int, scale: float = 1.0, size: tuple[int, ...] = shape) -> Array:
        # Halves and an offset of its own for each class and input: no two numbers that a loss
        # could compare lie at a kink by chance. Every format down to bfloat16 holds them exactly.
        # No probability is below 1e-7, where many losses clip: that is an edge.
        limit = min(7.0 * scale, 13.0)
        halves = np.clip(np.round(rng.normal(0.0, 2.0 * scale, size)), -limit, limit)
        classes = size[-1]
        row = np.arange(halves.size).reshape(size) // classes
        offset = (place * classes + np.arange(classes) + 3 * classes * row) % 31 + 1
        return halves / 2.0 + offset / 64.0

    def three(scale: float = 1.0, size: tuple[int, ...] = shape) -> tuple[Array, ...]:
        return tuple(draw(place, scale, size) for place in range(3))

    def others(beside: np.random.Generator, count: int, size: tuple[int, ...]) -> Iterator[Array]:
        for place in range(PLACES - count, PLACES):
            halves = np.clip(np.round(beside.normal(0.0, 2.0, size)), -7.0, 7.0) / 2.0
            row = np.arange(halves.size).reshape(size)
            yield halves + ((11 * place + 5 * row) % 31 + 1) / 64.0

    def unlike(taken: Sequence[Array], draw: Callable[[], Array]) -> Array:
        """A drawn array that is none of those, if one comes: there may not be many."""
        drawn = draw()
        for _ in range(19):
            if not any(np.array_equal(drawn, x) for x in taken):
                break
            drawn = draw()
        return drawn

    def further(probe: Probe) -> Probe:
        """With arrays for the inputs after the third, and labels and signs for every input."""
        latent, wide = list(probe.latent), probe.latent[0].shape
        # Of its own, so that no probe depends on what else is asked.
        beside = np.random.default_rng([2718 + rank, 9, *probe.id.encode()])
        if probe.id.endswith(("/zeros", "/empty")):
            latent += [latent[0].copy() for _ in range(PLACES - len(latent))]
        else:
            latent += others(beside, PLACES - len(latent), wide)
        if probe.id.endswith("/ties"):
            latent[3], latent[5] = latent[2].copy(), latent[4].copy()
        rows: list[tuple[Array, Array]] = []
        taken_labels, taken_signs = [probe.labels], [probe.signs]
        for _ in range(PLACES):
            labels = unlike(taken_labels, lambda: beside.integers(0, max(wide[-1], 1), wide[:-1]))
            signs = unlike(taken_signs, lambda: np.where(beside.random(wide) < 0.5, -1.0, 1.0))
            if probe.group == "edges":
                signs.flat[:2], labels.flat[:1] = (1.0, -1.0), 0
            # Where the labels of the target are one that is ignored, so are all.
            labels = np.where(probe.labels == IGNORED, IGNORED, labels)
            taken_labels.append(labels)
            taken_signs.append(signs)
            rows.append((labels, signs))
        return replace(probe, latent=tuple(latent), beside=tuple(rows))

    def probe(
        name: str, group: str, latent: tuple[Array, ...], labels: Array | None = None, **more: Any
    ) -> Probe:
        wide = latent[0].shape
        signs = np.where(rng.random(wide) < 0.5, -1.0, 1.0)
        if labels is None:
            labels = np.asarray(rng.integers(0, max(wide[-1], 1), wide[:-1]))
        if group == "edges":  # the first element is labelled, the second is not
            signs.flat[:2], labels.flat[:1] = (1.0, -1.0), 0
        return further(Probe(f"{rank}/{name}", group, rank, latent, labels, signs, **more))

    first = (1, *shape[1:])
    for k in range(2):
        found = probe(f"single {k}", "inside", three(1.0, first))
        if rank == 2 and not single:
            yield found
    plain = [probe(f"inside {k}", "inside", three(s)) for k, s in enumerate((1.0, 1.0, 3.0))]
    yield from plain
    yield probe("soft targets", "inside", three())
    x = draw(0)
    yield probe("ties", "kinks", (x, x.copy(), draw(2)))
    yield probe("near ties", "kinks", (x, x + 2.0**-20, draw(2)))
    zero = np.zeros(shape)
    yield probe("zeros", "kinks", (zero, zero.copy(), zero.copy()))
    yield probe("zero prediction", "kinks", (zero, draw(1), draw(2)))
    for distance in (0.5, 1.0, 2.0):
        y = draw(1)
        yield probe(f"at a distance of {distance}", "kinks", (y + distance, y, y - distance))
        yield probe(f"at a distance of -{distance}", "kinks", (y - distance, y, y + distance))
        yield probe(f"at {distance}", "kinks", (np.full(shape, distance), y, zero))
    for size in (20.0, 100.0, 1000.0):
        signs = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        signs.flat[:2] = (-1.0, 1.0)  # the labelled one far below: wrong, and sure of it
        saturated = probe(f"saturated at {size:g}", "edges", (size * signs, draw(1), draw(2)))
        yield saturated
        if size <= 100.0:  # where single precision rounds, overflows or becomes 0
            yield replace(saturated, id=f"{saturated.id}, in float32", dtype="float32")
    for place in (1, 2):
        # What is no prediction has ends too: targets, variances.
        far = three()
        signs = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        far = (*far[:place], 20.0 * signs, *far[place + 1 :])
        yield probe(f"the {ORDINALS[place]} at 20, soft", "edges", far)
    big = draw(0)
    big.flat[0] = 1e30
    yield probe("huge", "edges", (big, draw(1), draw(2)))
    for name, value in (("inf", np.inf), ("-inf", -np.inf), ("NaN", np.nan)):
        for index, said in enumerate((", labelled", ", not labelled")):
            if np.isnan(value) and index:
                continue
            odd = draw(0)
            odd.flat[index] = value
            yield probe(f"one {name}{'' if np.isnan(value) else said}", "edges",
                        (odd, draw(1), draw(2)))  # fmt: skip
    if not single:
        empty = np.zeros((0, *shape[1:]))
        yield probe("empty", "empty", (empty, empty.copy(), empty.copy()))
    if rank > 1 and classes**rank <= MOST_SQUARE:
        yield probe(SQUARE, "inside", three(1.0, (classes,) * rank))
    for dtype in ("float32", "float16", "bfloat16"):
        yield probe(f"in {dtype}", "precision", three(), dtype=dtype)
    yield probe("compiled", "compiled", three(), mode="compiled")
    rng = np.random.default_rng((2718 + rank, 4))
    for place in range(PLACES):
        for base in plain[:2]:
            # A draw of its own, no permutation: whether an input matters is seen by it.
            latent, rows = list(base.latent), list(base.beside)
            latent[place] = draw(place + 7)
            signs = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
            signs.flat[0] = -base.sign(place).flat[0]
            step = rng.integers(1, max(shape[-1], 2), shape[:-1])
            labels = (base.label(place) + step) % max(shape[-1], 1)
            rows[place] = (labels, signs)
            changed = {"labels": labels, "signs": signs} if place == 1 else {}
            yield replace(
                base, id=f"{base.id}, the {ORDINALS[place]} anew", latent=tuple(latent),
                beside=tuple(rows), anew=place, **changed,
            )  # fmt: skip
    if weights and rank == 2:
        # Of their own from here on, so that no probe depends on what else is asked: a record holds
        # its probes whatever it will be compared with.
        rng = np.random.default_rng((2718 + rank, 1))
        given = np.array([0.5, 2.0, 0.0, 1.0])  # their sum is not their number
        yield probe("sample weights", "weights", three(), weights=given)
    if masks and rank == 2:
        rng = np.random.default_rng((2718 + rank, 2))
        mask, hidden = np.array([True, False, True, True]), draw(0)
        yield probe("a sample masked", "masks", three(), mask=mask)
        hidden[1] = np.nan
        yield probe(HIDDEN, "masks", (hidden, draw(1), draw(2)), mask=mask)
        yield probe("all masked", "masks", three(), mask=mask & False)
    if rank > 1 and ignored:
        rng = np.random.default_rng((2718 + rank, 3))
        every = probe(f"all labels {IGNORED}", "ignored", three(), np.full(shape[:-1], IGNORED))
        labels = rng.integers(0, shape[-1], shape[:-1])
        labels.flat[0] = IGNORED
        one = probe(f"one label {IGNORED}", "ignored", three(), labels)
        for label in ignored:
            yield relabelled(every, label)
            yield relabelled(one, label)


IGNORED = -100
"""The label that most losses leave out."""
HIDDEN = "a NaN masked"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
SQUARE = "all axes of one length"
MOST_SQUARE = 1 << 16
"""How many numbers an array of equal lengths may have."""


def relabelled(probe: Probe, label: int) -> Probe:
    """A probe of ignored labels, with another label that is ignored."""
    return replace(
        probe,
        id=probe.id.replace(str(IGNORED), str(label)),
        labels=np.where(probe.labels == IGNORED, label, probe.labels),
        beside=tuple((np.where(x == IGNORED, label, x), s) for x, s in probe.beside),
    )


def softened(probe: Probe) -> Probe:
    """A probe whose targets may be distributions: a row of 0 and 1 has no logarithm."""
    return replace(probe, id=f"{probe.id}, soft")


def seen(probe: Probe, signature: Signature) -> dict[str, Array]:
    """A probe in the terms of one side: an array for each input."""
    found: dict[str, Array] = {}
    if signature.sequence:
        return _sequences(probe, signature)
    layout = signature.layout or signature.own_layout
    if layout is not None:
        return _named(probe, signature, layout)
    arranged = {name: signature.arranged(kind) for name, kind in signature.inputs.items()}
    widest = max(arranged.values(), key=len)
    for place, (name, kind) in enumerate(signature.inputs.items()):
        # One entry for each class, beside scores of samples and classes.
        axes, size = arranged[name], len(kind.axes)
        last = axes == widest[len(widest) - size :] and axes != widest[:size]
        array = _array(probe, place, kind, len(widest), signature.domain(place), last)
        if array.ndim > 1:
            array = np.moveaxis(array, -1, min(signature.place(kind), array.ndim - 1))
        found[name] = array
    return found


def _named(probe: Probe, signature: Signature, layout: Layout) -> dict[str, Array]:
    """A probe in the terms of a side whose axes have names: every input by those of its own."""
    sizes = layout.sizes(probe.latent[0].shape, probe.id.endswith(SQUARE))
    found: dict[str, Array] = {}
    for place, (name, kind) in enumerate(signature.inputs.items()):
        order, domain = layout.orders[place], signature.domain(place)
        own = kind.of in order
        last = kind.of if own else order[-1] if order else None
        axes = tuple(a for a in order if a != last)
        last = last or ""
        latent = probe.latent[min(place, len(probe.latent) - 1)]
        take = partial(_along, layout.canonical, sizes=sizes)
        if domain in ("index", "labels"):
            labels = take(probe.label(place), order, short=True)
            count = sizes.get(kind.of or "", latent.shape[-1])
            if count not in (latent.shape[-1], 0):  # an axis of its own: as far as it goes
                spread = np.abs(np.rint(take(latent, order) * 7.0)).astype(np.int64) % count
                labels = np.where(labels < 0, labels, spread)
            found[name] = labels
            continue
        soft = probe.soft and domain == "simplex"
        if domain in ("simplex", "one_hot") and place > 0 and latent.size and not soft:
            labels = take(probe.label(place), axes, short=True)
            rows = (np.arange(sizes.get(last, 1)) == labels[..., None]).astype(np.float64)
            found[name] = np.moveaxis(rows, -1, order.index(last)) if last else rows
            continue
        hard = domain == "probability" and place > 0 and not probe.soft
        if domain == "step":
            array = _step(latent)
        elif kind.dtype == "int":
            top = max(latent.shape[-1] - 1, 0)
            array = np.minimum(np.abs(np.rint(take(latent, order))), top).astype(np.int64)
        elif domain in ("sign", "binary") or hard:
            signs = take(probe.sign(place), order)
            array = signs if domain == "sign" else 0.5 * signs + 0.5
        else:
            array = take(latent, (*axes, last) if last else axes)
            with np.errstate(all="ignore"):
                array = _DOMAINS[domain](array) if array.size else array
            array = np.moveaxis(array, -1, order.index(last)) if last else array
            if domain in ("mask", "flag"):
                array = _mixed(array)
        found[name] = array
    for name, kind in signature.inputs.items():
        if not signature.described and found[name].ndim > 1:
            array = found[name]
            found[name] = np.moveaxis(array, -1, min(signature.place(kind), array.ndim - 1))
    return found


def _along(
    canonical: tuple[str, ...],
    array: Array,
    order: tuple[str, ...],
    short: bool = False,
    *,
    sizes: Mapping[str, int],
) -> Array:
    """Numbers along the axes of an input, in its own order.

    From the axes that the probe has under these names, where it has them in that length; else
    from all its numbers in turn, each time moved on, so that no two rows are one. ``short``: it
    lacks the last axis.
    """
    axes = canonical[:-1] if short else canonical
    shape = tuple(sizes[a] for a in order)
    held = dict(zip(axes, array.shape, strict=True))
    if {*order} <= {*axes} and all(held[a] == sizes[a] for a in order):
        taken = array[tuple(slice(None) if a in order else slice(0, 1) for a in axes)]
        if taken.size or not array.size:
            taken = taken.reshape(tuple(held[a] for a in axes if a in order))
            left = [a for a in axes if a in order]
            return np.transpose(taken, [left.index(a) for a in order])
    size = int(np.prod(shape, dtype=np.int64))
    if not array.size:
        return np.ones(shape, array.dtype)
    which = np.arange(size)
    turn = which // array.size
    numbers = array.ravel()[which % array.size]
    if array.dtype.kind == "f":
        signs = bool(np.isin(array, (-1.0, 1.0)).all())
        numbers = np.where(turn % 2, -numbers, numbers) if signs else numbers + turn * 0.28125
    return numbers.reshape(shape)


def _mixed(mask: Array) -> Array:
    """A mask that hides something and not everything, wherever it has two entries."""
    if not mask.size or mask.any() != mask.all():
        return mask
    found = mask.copy()
    found.flat[0] = True
    if mask.size > 1:
        found.flat[1] = False
    return found


def unequal(signature: Signature) -> tuple[Probe, dict[str, Array]] | None:
    """Predictions of shape (N, 1) beside targets of shape (N,), for two inputs of one shape."""
    kinds = list(signature.inputs.values())
    if len(kinds) != 2 or kinds[0].axes != kinds[1].axes:
        return None
    if kinds[0].axes[:1] != ("*batch",) and not (signature.described and len(kinds[0].axes) == 1):
        return None
    # All pairs have another mean error, square and Huber loss than those that belong together.
    x, y = np.array([[0.25], [0.5], [3.75]]), np.array([1.0, 0.0, 3.0])
    probe = Probe("2/(N, 1) and (N,)", "shapes", 2, (x, y), y, y)
    return probe, dict(zip(signature.inputs, (x, y), strict=True))


def _sequences(probe: Probe, signature: Signature) -> dict[str, Array]:
    """Sequences and their labels, with lengths or paddings where a side takes them."""
    found: dict[str, Array] = {}
    scores = probe.latent[0]
    time = scores.shape[1]
    labels = probe.labels
    lengths = {"time": probe.latent[1].astype(np.int64), "positions": (labels != 0).sum(axis=1)}
    sizes = {"time": time, "positions": labels.shape[1]}
    for place, (name, kind) in enumerate(signature.inputs.items()):
        if "classes" in kind.axes:
            with np.errstate(all="ignore"):
                given = _log_softmax(scores) if "log" in signature.domain(place) else scores
            found[name] = np.moveaxis(given, (0, 1, 2), [kind.axes.index(a) for a in SEQUENCE])
        elif kind.name == "binary":
            axis = kind.axes[-1]
            found[name] = (np.arange(sizes[axis]) >= lengths[axis][:, None]).astype(np.float64)
        elif len(kind.axes) == 1:
            found[name] = lengths["positions" if "target" in name else "time"]
        else:
            found[name] = labels
    return found


SEQUENCE = ("batch", "time", "classes")


def sequence_probes(lengths: bool) -> Iterator[Probe]:
    """Sequences of one length, and of several where both sides are told their ``lengths``."""
    rng = np.random.default_rng(577)
    # A 0 is padding, after labels that are not 0.
    some = {
        "single": ("inside", np.array([[1, 2]]), 5),
        "inside": ("inside", np.array([[1, 2], [3, 0], [2, 1]]), 5),
        "a label twice": ("inside", np.array([[1, 1], [3, 3], [2, 0]]), 5),
        "no label": ("edges", np.array([[0, 0], [1, 0], [2, 1]]), 5),
        "too short": ("edges", np.array([[1, 1], [2, 1], [3, 0]]), 2),
    }
    for name, (group, labels, time) in some.items():
        whole = np.full(len(labels), time)
        for given in (whole, whole - np.arange(len(labels))):
            if time == 2 and given is not whole:
                continue
            scores = np.round(rng.normal(0.0, 1.0, (len(labels), time, 4)) * 16.0) / 16.0
            said = name if given is whole else f"{name}, of several lengths"
            if lengths or given is whole:
                latent = (scores, given.astype(np.float64))
                yield Probe(f"3/{said}", group, 3, latent, labels, scores)
    scores = np.round(rng.normal(0.0, 1.0, (3, 5, 4)) * 16.0) / 16.0
    full = np.full(3, 5.0)
    rng = np.random.default_rng((577, 1))
    for k, rows in enumerate(([[2, 1], [1, 0], [3, 2]], [[3, 1], [2, 3], [1, 0]])):
        again = np.round(rng.normal(0.0, 1.0, (3, 5, 4)) * 16.0) / 16.0
        yield Probe(f"3/inside again {k}", "inside", 3, (again, full), np.array(rows), again)
    for dtype in ("float32", "float64"):
        yield Probe(
            f"3/{dtype}, compiled", "compiled", 3, (scores, full),
            np.array([[1, 2], [3, 0], [2, 2]]), scores, dtype=dtype, mode="compiled",
        )  # fmt: skip


def _array(
    probe: Probe, place: int, kind: Kind, width: int, domain: str, last: bool = False
) -> Array:
    """One input: its latent numbers in the domain of its kind, and of its rank.

    ``last``: its axes are the last of the widest input's, not the first.
    """
    latent = probe.latent[min(place, len(probe.latent) - 1)]
    rank = probe.rank - (width - len(kind.axes))
    if domain in ("index", "labels"):
        return probe.label(place)
    if domain == "step":
        return _step(latent)
    if kind.dtype == "int":
        # Classes, or counts that are classes too.
        top = max(latent.shape[-1] - 1, 0)
        return np.minimum(np.abs(np.rint(_cut(latent, rank, last))), top).astype(np.int64)
    if latent.size == 0:
        return _cut(latent, rank, last)
    if domain in ("simplex", "one_hot") and place > 0:
        # A target: the labels as rows of 0 and 1, so that it can meet a side that takes labels.
        # One that is ignored is a row of zeros.
        if probe.soft and domain == "simplex":
            return _cut(_softmax(latent), rank, last)
        rows: Array = np.arange(latent.shape[-1]) == probe.label(place)[..., None]
        return rows.astype(np.float64)
    hard = domain == "probability" and place > 0 and not probe.soft
    if domain in ("sign", "binary") or hard:
        signs = _cut(probe.sign(place), rank, last)
        return signs if domain == "sign" else 0.5 * signs + 0.5
    with np.errstate(all="ignore"):
        array = _cut(_DOMAINS[domain](latent), rank, last)
    return _mixed(array) if domain in ("mask", "flag") else array


def _step(latent: Array) -> Array:
    """A step of training, from the first to past where schedules end, most of them early."""
    drawn = float(np.abs(latent).sum()) if np.isfinite(latent).all() else 0.0
    return np.asarray(np.rint(10.0 ** (drawn % 5.0) - 1.0), np.int64)


def _cut(array: Array, rank: int, last: bool = False) -> Array:
    while array.ndim > rank:
        array = array[:1].reshape(array.shape[1:]) if last and len(array) else array[..., 0]
    return array


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-1e308))
    return e / e.sum(axis=-1, keepdims=True)


def _log_softmax(x: Array) -> Array:
    top = x - x.max(axis=-1, keepdims=True, initial=-1e308)
    return top - np.log(np.exp(top).sum(axis=-1, keepdims=True))


_DOMAINS: Mapping[str, Any] = {
    "counts": lambda x: np.abs(np.rint(x)),
    "log_simplex": _log_softmax,
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


def domains_known() -> tuple[str, ...]:
    """Every word that says in which terms an input is given."""
    return (*_DOMAINS, *KINDS, "labels", "one_hot", "step")


@lru_cache(maxsize=4)
def digest(classes: int = CLASSES) -> str:
    """What all probes are, and in which terms they are seen, in a hash: records say which.

    Every array of six inputs, as far as it is no larger than ``MOST_DIGESTED``, and six inputs of
    named axes as a side sees them, with their lengths.
    """
    found = hashlib.sha256(json.dumps([VERSION, classes, [*SHAPES.items()]]).encode())
    ranks = [r for r, s in SHAPES.items() if np.prod(s[:-1]) * classes <= MOST_DIGESTED]
    plain = [p for r in ranks for p in probes(r, weights=True, masks=True, classes=classes)]
    for probe in (*plain, *sequence_probes(True)):
        which = [probe.id, probe.group, probe.dtype, probe.mode, probe.anew]
        found.update(json.dumps(which).encode())
        arrays = [probe.labels, probe.signs, probe.weights, probe.mask]
        for array in (*probe.latent, *arrays, *(x for row in probe.beside for x in row)):
            if array is not None and array.size <= MOST_DIGESTED:
                found.update(_bytes(array, "f8"))
    kind = Kind("real", axes=("*batch", "classes"))
    for probe in plain:
        if probe.group == "inside" and probe.latent[0].size <= MOST_SEEN and probe.anew is None:
            for place, more in enumerate(((), ("one_hot",), (), (), (), ())):
                for domain in (*_DOMAINS, "index", "sign", "binary", *more):
                    # To three digits: a library's exp may differ from another's in the last.
                    found.update(_bytes(_array(probe, place, kind, 2, domain), "f2"))
    for probe in plain:
        if probe.rank == 2 and probe.latent[0].size <= MOST_SEEN:
            for name, array in seen(probe, parse(SIX)).items():
                found.update(json.dumps([name, array.shape]).encode() + _bytes(array, "f2"))
    return found.hexdigest()


def checksum(found: Iterable[Probe]) -> str:
    """Of all arrays of probes: whether a file that holds them was damaged."""
    made = hashlib.sha256()
    for probe in found:
        made.update(probe.id.encode())
        for array in (*probe.latent, probe.labels, probe.signs):
            made.update(_bytes(array, "f8"))
    return made.hexdigest()


MOST_DIGESTED, MOST_SEEN = 4096, 64
SIX = {
    "logits": "real[n, c]", "labels": "index(c)[n]", "mask": "mask[n]", "other": "real[m, c]",
    "boxes": "real[n, 4]", "kernel": "real[c, c]",
}  # fmt: skip
"""Six inputs of named axes, which the digest sees."""


def _bytes(array: Array, form: str) -> bytes:
    """The numbers of an array, whatever its dtype and the sign of its zeros and NaNs."""
    with np.errstate(all="ignore"):
        found = np.asarray(array, np.float64).astype(f"<{form}") + np.array(0.0, f"<{form}")
    return np.where(np.isnan(found), np.array(np.nan, f"<{form}"), found).tobytes()
