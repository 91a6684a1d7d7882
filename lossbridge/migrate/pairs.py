"""Both sides on the probes, and how what they gave differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lossbridge.migrate.alignment import domains_of, fixed_axes, ignored_labels, in_domains
from lossbridge.migrate.probes import CLASSES, Probe, Signature, probes, seen, softened
from lossbridge.migrate.sides import Outcome, Side

# Relative: what the computing dtype leaves of two sound evaluations of one function. A side that
# casts to float32 whatever it is given is held to that.
CLOSE: Mapping[str, float] = {
    "float64": 1e-8, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1,
}  # fmt: skip
# Within this they differ by no more than a small constant does.
SLIGHT = 1e-5
# Numbers below the smallest normal one are 0 on some platforms.
TINY: Mapping[str, float] = {
    "float64": 1e-290, "float32": 1e-36, "float16": 1e-4, "bfloat16": 1e-36,
}  # fmt: skip
EPSILON: Mapping[str, float] = {
    "float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7,
}  # fmt: skip
NOISE = 100.0  # times the change that rounding the inputs makes
USUAL = ("inside", "compiled", "precision", "weights", "masks")
"""The groups whose inputs are ordinary numbers."""


@dataclass(frozen=True)
class Pair:
    """What both sides gave on one probe."""

    probe: Probe
    inputs: Mapping[str, Any]
    other: Mapping[str, Any]
    a: Outcome
    b: Outcome
    slopes: tuple[tuple[str, Any, Any], ...] = ()
    """The gradients that can be compared: a name, and what each side gave, classes last."""
    status: str = "equal"  # slight, value, gradient, raises; missing where a record does not say
    where: tuple[str, ...] = ()
    """The inputs in which the gradient differs."""

    @property
    def finite(self) -> bool:
        """Whether both gave finite values."""
        return (
            not self.a.raised and not self.b.raised
            and bool(np.isfinite(self.a.value) and np.isfinite(self.b.value))
        )  # fmt: skip


def pairs_of(
    a: Side, b: Side, joint: Sequence[str | None], ranks: Sequence[int], weighted: bool = False,
    groups: Sequence[str] = (), precise: bool = True, change: Any = None, classes: int = CLASSES,
    left_out: Callable[[Probe], bool] | None = None,
) -> Iterator[Pair]:  # fmt: skip
    """Both sides on every probe of these ranks and groups.

    ``precise``: lower precision, what is compiled, and single inputs drawn anew are among them.
    ``classes`` is the length of the last axis, unless a side is made for another. ``left_out``
    says which probes are not to be asked.
    """
    left, right = in_domains(a.signature, joint), in_domains(b.signature, joint)
    kinds = [*left.inputs.values(), *right.inputs.values()]
    labelled = any("index" in (*domains_of(s),) for s in (left, right))
    ignored = ignored_labels(a, b) if labelled else ()
    masks = a.takes_mask and b.takes_mask
    soft = any(j in ("simplex", "probability") for j in joint[1:])
    # No label says what a soft target does.
    hard = any(
        ("index" in pair or {*pair} & {"one_hot", "binary", "sign"}) and len({*pair}) > 1
        for pair in list(zip(domains_of(left), domains_of(right), strict=True))[1:]
    )
    logarithms = any("log_simplex" in domains_of(s)[1:] for s in (left, right))
    for rank in ranks:
        single = any(k.axes[0].startswith("*") and fixed_axes(k) >= rank for k in kinds if k.axes)
        for probe in probes(
            rank, weights=weighted, ignored=ignored, single=single, masks=masks,
            classes=a.classes or b.classes or classes,
        ):  # fmt: skip
            if probe.group == "inside" and ignored and np.isin(probe.labels, ignored).all():
                probe = replace(probe, group="ignored")  # what is left is the mean of nothing
            if groups and probe.group not in groups:
                continue
            if left_out is not None and left_out(probe):
                continue
            if probe.anew is not None and (probe.anew >= len(left.inputs) or not precise):
                continue
            if probe.group in ("compiled", "precision") and not precise:
                continue
            if probe.soft and (hard or (probe.group == "inside" and not soft)):
                continue  # or the same again
            if logarithms:
                probe = softened(probe)
            if change is not None:
                probe = change(probe)
            yield pair(a, b, probe, seen(probe, left), seen(probe, right), joint)


def answered(pairs: Iterable[Pair]) -> tuple[list[Pair], list[str]]:
    """The pairs that both sides have an answer to, and why there is none to the others."""
    found, why = [], []
    for p in pairs:
        if p.status == "missing":
            why += [o.missing for o in (p.a, p.b) if o.missing]
        else:
            found.append(p)
    return found, list(dict.fromkeys(why))


def pair(
    a: Side, b: Side, probe: Probe, ia: Mapping[str, Any], ib: Mapping[str, Any],
    joint: Sequence[str | None],
) -> Pair:  # fmt: skip
    """Both sides on one probe, and how what they gave differs."""
    if probe.dtype == "float64":
        # One that computes in less, whatever it is given, is compared in that.
        probe = replace(probe, dtype=min(a.computes, b.computes, key=_digits) or probe.dtype)
    found = Pair(probe, ia, ib, a.on(probe, ia, joint), b.on(probe, ib, joint))
    return judged(a, b, replace(found, slopes=tuple(_slopes(a, b, found, joint))))


def effects(pairs: Sequence[Pair], count: int) -> list[tuple[bool | None, bool | None]]:
    """For each input, whether it matters to a and to b; None where no finite probe tells.

    It does where another draw of it alone changes the value or a gradient.
    """
    known = {p.probe.id: p for p in pairs if p.probe.group == "inside"}
    found: list[tuple[bool | None, bool | None]] = []
    for place in range(count):
        seen_by: list[bool | None] = [None, None]
        for p in known.values():
            base = known.get(p.probe.id.rpartition(", the ")[0])
            if p.probe.anew != place or base is None:
                continue
            for k, (x, y) in enumerate(((base.a, p.a), (base.b, p.b))):
                if x.raised or y.raised or not (np.isfinite(x.value) and np.isfinite(y.value)):
                    continue
                gradients = zip(base.slopes, p.slopes, strict=False)
                same = close_to(x.value, y.value, EFFECT) and all(
                    close_to(s[1 + k], t[1 + k], EFFECT) for s, t in gradients
                )
                seen_by[k] = bool(seen_by[k]) or not same
        found.append((seen_by[0], seen_by[1]))
    return found


EFFECT = 1e-9
"""A relative change that is none."""


def with_outcome(a: Side, b: Side, p: Pair, first: bool, outcome: Outcome) -> Pair:
    """A pair, if one side had given something else; the gradients compared are as before."""
    found = replace(p, a=outcome) if first else replace(p, b=outcome)
    wanted = {n for n, _, _ in p.slopes}
    slopes = []
    for x, y in zip(a.signature.inputs, b.signature.inputs, strict=False):
        if x in wanted and x in found.a.gradients and y in found.b.gradients:
            ga, gb = _defined(p.inputs, x, found.a), _defined(p.other, y, found.b)
            slopes.append((x, _plainly(a.signature, x, ga), _plainly(b.signature, y, gb)))
    return judged(a, b, replace(found, slopes=tuple(slopes)))


def _digits(dtype: str) -> float:
    return -CLOSE.get(dtype, 0.0)


def _slopes(
    a: Side, b: Side, p: Pair, joint: Sequence[str | None]
) -> Iterator[tuple[str, Any, Any]]:
    """The gradients in those inputs that both are given in the same terms."""
    names = zip(a.signature.inputs, b.signature.inputs, strict=False)
    for place, (x, y) in enumerate(names):
        if joint[place] is not None and x in p.a.gradients and y in p.b.gradients:
            ga, gb = _defined(p.inputs, x, p.a), _defined(p.other, y, p.b)
            yield x, _plainly(a.signature, x, ga), _plainly(b.signature, y, gb)


def judged(a: Side, b: Side, p: Pair) -> Pair:
    """A pair, with how what its sides gave differs."""
    status, where = _status(a, b, p)
    return replace(p, status=status, where=where)


def _status(a: Side, b: Side, p: Pair) -> tuple[str, tuple[str, ...]]:
    oa, ob, probe = p.a, p.b, p.probe
    if oa.missing or ob.missing:
        return "missing", ()
    if oa.raised or ob.raised:
        return "equal" if oa.raised and ob.raised else "raises", ()
    if (oa.unreduced and not oa.size) or (ob.unreduced and not ob.size):
        return "equal", ()  # a mean over nothing would be ours
    dtype = min((probe.dtype, a.computes, b.computes), key=_digits)
    close, tiny = CLOSE[dtype], TINY[dtype]
    if not close_to(oa.value, ob.value, close, tiny):
        if probe.group in ("edges", "kinks") and dtype in ("float64", "float32"):
            noise = max(noise_of(a, probe, p.inputs, oa), noise_of(b, probe, p.other, ob))
            # What the largest input's last digit is, no sum with it holds.
            inputs = (*p.inputs.values(), *p.other.values())
            noise = max(noise, *(_last_digit(x, dtype) for x in inputs))
            if abs(oa.value - ob.value) <= NOISE * noise:
                return "equal", ()
        if probe.group in USUAL and close_to(oa.value, ob.value, SLIGHT, SLIGHT):
            return "slight", ()
        return "value", ()
    if not np.isfinite(oa.value):
        return "equal", ()  # nobody trains on the gradient of a NaN or an infinite loss
    # Away from ordinary points a gradient may be a difference that cancels: of large arguments.
    largest = max((abs(n) for x in (a, b) for n in _arguments_of(x)), default=0.0)
    cancels = max(1e-13, 2.0 * EPSILON["float64"] * largest)
    if dtype != "float64":
        cancels = max(cancels, 8.0 * EPSILON[dtype])  # what rounding leaves of a difference
    floor = tiny if probe.group == "inside" else max(tiny, cancels)
    where = tuple(n for n, ga, gb in p.slopes if not close_to(ga, gb, 10.0 * close, floor))
    if not where or (dtype != "float64" and _subnormal(p, dtype)):
        return "equal", ()  # what is below the normal numbers, some platforms take for 0
    if probe.group in USUAL and all(
        close_to(ga, gb, 10.0 * SLIGHT, tiny) for _, ga, gb in p.slopes
    ):
        return "slight", ()
    return "gradient", where


def _arguments_of(x: Side) -> list[float]:
    """The numbers that a side was made with."""
    values = (p.value for spec in x.specs[:1] for p in spec.params.values())
    return [float(v) for v in values if isinstance(v, float | int) and math.isfinite(v)]


def _defined(inputs: Mapping[str, Any], name: str, outcome: Outcome) -> Any:
    """A gradient, without the components where an input is infinite or NaN."""
    found = np.asarray(outcome.gradients[name])
    for x in inputs.values():
        if np.asarray(x).dtype.kind == "f" and np.shape(x) == found.shape:
            found = np.where(np.isfinite(x), found, 0.0)
    return found


def _plainly(signature: Signature, name: str, gradient: Any) -> Any:
    """A gradient with its class axis last, or with its named axes in the order of the probes."""
    place = signature.place(signature.inputs[name])
    layout = signature.layout or signature.own_layout
    if np.ndim(gradient) < 2:
        return gradient
    if layout is not None:
        order = layout.orders[list(signature.inputs).index(name)]
        known = {axis: k for k, axis in enumerate(layout.canonical)}
        ranked = [(known.get(axis, len(known)), axis) for axis in order]
        if not signature.described:
            gradient = np.moveaxis(gradient, min(place, np.ndim(gradient) - 1), -1)
        if len(order) == np.ndim(gradient):
            return np.transpose(gradient, sorted(range(len(order)), key=ranked.__getitem__))
        return gradient
    return np.moveaxis(gradient, min(place, np.ndim(gradient) - 1), -1)


def _subnormal(p: Pair, dtype: str) -> bool:
    """Whether an input is so small that its digits are lost in a dtype."""
    least = SMALLEST[dtype]
    inputs = (np.asarray(x) for x in (*p.inputs.values(), *p.other.values()))
    return any(
        x.dtype.kind == "f" and bool(((x != 0.0) & (np.abs(x) < least)).any()) for x in inputs
    )


SMALLEST: Mapping[str, float] = {
    "float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126,
}  # fmt: skip
"""The smallest normal number."""


def _last_digit(x: Any, dtype: str) -> float:
    x = np.asarray(x)
    if x.dtype.kind != "f":
        return 0.0
    return float(np.abs(np.where(np.isfinite(x), x, 0.0)).max(initial=0.0)) * EPSILON[dtype]


def noise_of(x: Side, probe: Probe, inputs: Mapping[str, Any], found: Outcome) -> float:
    """How much a value changes when its inputs are rounded anew."""
    if found.noise is not None:
        return found.noise
    step = 2.0 * EPSILON[x.computes or probe.dtype]
    worst = 0.0
    rng = np.random.default_rng(5)
    for _ in range(2):
        moved = {
            n: i * (1.0 + step * rng.uniform(-1.0, 1.0, np.shape(i)))
            if np.asarray(i).dtype.kind == "f" else i
            for n, i in inputs.items()
        }  # fmt: skip
        again = x.on(probe, moved)
        if not again.raised and np.isfinite(again.value) and np.isfinite(found.value):
            worst = max(worst, float(abs(again.value - found.value)))
    return worst


def close_to(x: Any, y: Any, close: float, tiny: float = 0.0) -> bool:
    """Equal up to a part of the largest finite component; NaN and inf at the same places."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape:
        return False
    finite = np.isfinite(x) & np.isfinite(y)
    same = finite | (x == y) | (np.isnan(x) & np.isnan(y))
    if not same.all():
        return False
    u, v = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
    size = max(float(np.abs(u).max(initial=0.0)), float(np.abs(v).max(initial=0.0)))
    return bool((np.abs(u - v) <= close * size + tiny).all())
