"""The verdict: two sides on every probe, what differs first, and why."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from lossbridge.errors import ArgumentError
from lossbridge.kinds import Kind
from lossbridge.migrate import causes
from lossbridge.migrate.comparison import Cause, Comparison, Example
from lossbridge.migrate.probes import Probe, Signature, probes, seen
from lossbridge.migrate.sides import Outcome, Side, UncallableError, overload, side

# Relative: what the computing dtype leaves of two sound evaluations of one function. A side that
# casts to float32 whatever it is given is held to that.
CLOSE: Mapping[str, float] = {
    "float64": 1e-9, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1,
}  # fmt: skip
SINGLE = 2e-5

# Of two domains of one representation, the later holds the earlier.
NARROW = (
    "simplex", "unit", "sign", "binary", "probability", "log_probability", "positive",
    "non_negative", "integer", "real",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """What both sides gave on one probe."""

    probe: Probe
    inputs: Mapping[str, Any]
    a: Outcome
    b: Outcome
    status: str  # equal, value, gradient, raises

    @property
    def finite(self) -> bool:
        """Whether both gave finite values."""
        return (
            not self.a.raised and not self.b.raised
            and bool(np.isfinite(self.a.value) and np.isfinite(self.b.value))
        )  # fmt: skip


def compare(
    a: Any,
    b: Any,
    *,
    inputs: Mapping[str, str] | None = None,
    weights: str | None = None,
    platform: str | tuple[str | None, str | None] | None = None,
) -> Comparison:
    """Whether two losses are the same function, in value and gradient, and if not, why.

    Each of ``a`` and ``b`` is a live loss of PyTorch, Keras or optax, one of ours, a
    specification, an expression such as ``"keras.losses.Tversky(alpha=0.3)"`` (parsed, never
    evaluated), or a plain callable, whose arguments ``inputs`` then describes:
    ``{"logits": "real[n, c]", "labels": "index(c)[n]"}``. ``platform`` names the framework of a
    callable that takes arrays of several. ``weights="sample"`` demands that sample weights be
    probed.

    Returns a :class:`Comparison`, whose ``verdict`` says what was found. Raises
    :class:`ArgumentError` for what is no loss at all.
    """
    if weights not in (None, "sample", "class"):
        raise ArgumentError(f"weights={weights!r} was given; it is 'sample', 'class' or None")
    platforms = platform if isinstance(platform, tuple) else (platform, platform)
    try:
        first, second = (
            side(x, inputs=inputs, platform=p) for x, p in zip((a, b), platforms, strict=True)
        )
    except UncallableError as error:
        return Comparison("undecided", str(_label(a)), str(_label(b)), notes=(str(error),))
    return of_sides(first, second, weights=weights)


def _label(x: Any) -> str:
    return x if isinstance(x, str) else str(getattr(x, "__qualname__", type(x).__name__))


def of_sides(a: Side, b: Side, weights: str | None = None) -> Comparison:
    """The comparison of two sides that can be called."""
    a, b = _overloads(a, b)
    if len(a.signature.inputs) != len(b.signature.inputs):
        return _apart(a, b, f"{len(a.signature.inputs)} inputs", f"{len(b.signature.inputs)}")
    ranks = _ranks(a.signature, b.signature)
    if not ranks:
        return _apart(a, b, _axes(a.signature), _axes(b.signature))
    joint = _joint(a.signature, b.signature)
    weighted = a.takes_weights and b.takes_weights
    pairs = list(_pairs(a, b, joint, ranks, weighted))
    found = _verdict(a, b, pairs)
    if found.verdict == "different" and _other_domain(a, b):
        own = list(_pairs(a, b, (None,) * len(joint), ranks, weighted))
        if _all(own, "inside", "value") or causes.factor(own) is not None:
            found = _comparison("domain_differs", a, b, own, [causes.domain(a, b)])
    elif None in joint and found.verdict in ("same", "edges_differ", "gradient_differs"):
        found = _comparison("domain_differs", a, b, pairs, [causes.domain(a, b), *found.causes])
    unprobed = []
    if not weighted and weights == "sample":
        unprobed.append("sample weights: not both sides take them")
    if "torch" in (a.platform, b.platform):
        unprobed.append("torch.compile, which takes ten seconds for each shape")
    return msgspec.structs.replace(found, not_probed=(*found.not_probed, *unprobed))


def _apart(a: Side, b: Side, left: str, right: str) -> Comparison:
    cause = Cause(f"they take different arguments: {a.label} takes {left}, {b.label} {right}", "")
    return _comparison("domain_differs", a, b, [], [cause])


def _axes(signature: Signature) -> str:
    return ", ".join(f"{n}: {k}" for n, k in signature.inputs.items())


# --- what both take ------------------------------------------------------------------------------


def _overloads(a: Side, b: Side) -> tuple[Side, Side]:
    """Those meanings of both whose inputs are most alike."""
    left = [overload(a, s) for s in a.specs] if len(a.specs) > 1 else [a]
    right = [overload(b, s) for s in b.specs] if len(b.specs) > 1 else [b]
    if left[0].signature.axis is None and a.signature.axis is not None:
        for each in left:
            each.signature = Signature(each.signature.inputs, a.signature.axis)
    if right[0].signature.axis is None and b.signature.axis is not None:
        for each in right:
            each.signature = Signature(each.signature.inputs, b.signature.axis)

    def unlike(pair: tuple[Side, Side]) -> int:
        x, y = pair[0].signature, pair[1].signature
        if len(x.inputs) != len(y.inputs):
            return 100
        return sum(
            10 * (k.dtype != m.dtype) + (k.name != m.name)
            for k, m in zip(x.inputs.values(), y.inputs.values(), strict=True)
        )

    return min(itertools.product(left, right), key=unlike)


def _fixed(kind: Kind) -> int:
    return sum(not axis.startswith("*") for axis in kind.axes)


def _ranks(a: Signature, b: Signature) -> tuple[int, ...]:
    """The ranks of the widest input that both sides take, the plainest first."""
    found = []
    for rank in (2, 1, 3):
        fits = True
        for signature in (a, b):
            widest = max(signature.inputs.values(), key=lambda k: len(k.axes))
            star = len(widest.axes) > _fixed(widest)
            # A group may be empty, as in Keras's mean over the last axis of (N,); but a single
            # sample without a batch beside a label is torch's alone.
            alike = len({len(k.axes) for k in signature.inputs.values()}) == 1
            least = _fixed(widest) if alike else len(widest.axes)
            fits &= least <= rank if star else len(widest.axes) == rank
        if fits:
            found.append(rank)
    return tuple(found)


def _joint(a: Signature, b: Signature) -> tuple[str | None, ...]:
    """For each input the domain that both take; None where each needs its own terms."""
    found: list[str | None] = []
    for x, y in zip(a.inputs.values(), b.inputs.values(), strict=True):
        if x.dtype != y.dtype or {x.name, y.name} == {"sign", "binary"}:
            found.append(None)
        elif x.name == y.name:
            found.append(x.name)
        else:
            names = [n for n in NARROW if n in (x.name, y.name)]
            found.append(names[0] if names else None)
    return tuple(found)


def _other_domain(a: Side, b: Side) -> bool:
    return any(
        x.name != y.name
        for x, y in zip(a.signature.inputs.values(), b.signature.inputs.values(), strict=True)
    )


def _in_domain(signature: Signature, joint: Sequence[str | None]) -> Signature:
    kinds = {}
    for (name, kind), domain in zip(signature.inputs.items(), joint, strict=True):
        kinds[name] = kind if domain in (None, kind.name) else Kind(domain, None, kind.axes)
    return Signature(kinds, signature.axis)


# --- running -------------------------------------------------------------------------------------


def _pairs(
    a: Side, b: Side, joint: Sequence[str | None], ranks: Sequence[int], weighted: bool
) -> Iterator[Pair]:
    left, right = _in_domain(a.signature, joint), _in_domain(b.signature, joint)
    for rank in ranks:
        for probe in probes(rank, weights=weighted):
            if probe.group in ("compiled", "precision") and rank != ranks[0]:
                continue
            ia, ib = seen(probe, left), seen(probe, right)
            yield pair(a, b, probe, ia, ib, joint)


def pair(
    a: Side, b: Side, probe: Probe, ia: Mapping[str, Any], ib: Mapping[str, Any],
    joint: Sequence[str | None],
) -> Pair:  # fmt: skip
    """Both sides on one probe, and how what they gave differs."""
    oa, ob = a.on(probe, ia), b.on(probe, ib)
    return Pair(probe, ia, oa, ob, _status(a, b, probe, oa, ob, joint))


def _status(
    a: Side, b: Side, probe: Probe, oa: Outcome, ob: Outcome, joint: Sequence[str | None]
) -> str:
    if oa.raised or ob.raised:
        return "equal" if oa.raised and ob.raised else "raises"
    close = max(CLOSE[probe.dtype], SINGLE if _single(a) or _single(b) else 0.0)
    if not close_to(oa.value, ob.value, close):
        return "value"
    if np.isnan(oa.value):
        return "equal"  # nobody trains on what a NaN's gradient is
    for place, (x, y) in enumerate(zip(a.signature.inputs, b.signature.inputs, strict=True)):
        if joint[place] is None or x not in oa.gradients or y not in ob.gradients:
            continue
        ga, gb = oa.gradients[x], ob.gradients[y]
        for signature, name in ((a.signature, x), (b.signature, y)):
            axis, kind = signature.axis, signature.inputs[name]
            if axis is None or len(kind.axes) != 2 or np.ndim(ga) < 2:
                continue
            if signature is a.signature:
                ga = np.moveaxis(ga, min(axis, np.ndim(ga) - 1), -1)
            else:
                gb = np.moveaxis(gb, min(axis, np.ndim(gb) - 1), -1)
        if not close_to(ga, gb, 10.0 * close):
            return "gradient"
    return "equal"


def _single(x: Side) -> bool:
    """Whether a side computes in float32 whatever it is given, as a Keras loss does."""
    return "float32" in x.notes


def close_to(x: Any, y: Any, close: float) -> bool:
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
    return bool((np.abs(u - v) <= close * size).all())


# --- deciding ------------------------------------------------------------------------------------


def _of(pairs: Sequence[Pair], *groups: str) -> list[Pair]:
    return [p for p in pairs if p.probe.group in groups]


def _all(pairs: Sequence[Pair], group: str, status: str) -> bool:
    """Whether no probe of a group differs in this way, and some probe ran."""
    chosen = _of(pairs, group)
    return any(p.finite for p in chosen) and not any(p.status == status for p in chosen)


def _verdict(a: Side, b: Side, pairs: Sequence[Pair]) -> Comparison:
    inside = _of(pairs, "inside")
    ran = [p for p in inside if not p.a.raised and not p.b.raised]
    if not ran:
        which = next((p for p in inside if p.a.raised or p.b.raised), None)
        why = "" if which is None else which.a.error or which.b.error
        return _comparison("undecided", a, b, pairs, [], (f"no probe ran on both sides: {why}",))
    broken = [p for p in inside if p.status == "raises"]
    inside = ran
    if any(p.status == "value" for p in inside):
        factor = causes.factor(inside)
        if factor is not None:
            return _comparison(
                "same_up_to_factor", a, b, inside, [causes.of_factor(a, b, inside, factor)],
                factor=factor if isinstance(factor, float) else None,
            )  # fmt: skip
        return _comparison("different", a, b, inside, causes.of_difference(a, b, inside))
    if any(p.status == "gradient" for p in inside):
        return _comparison("gradient_differs", a, b, inside, causes.of_gradient(a, b, inside))
    kinks = _of(pairs, "kinks")
    if any(p.status == "gradient" for p in kinks) and not any(p.status == "value" for p in kinks):
        rest = _edges(pairs)
        return _comparison(
            "gradient_differs", a, b, kinks,
            [*causes.of_gradient(a, b, kinks), *causes.of_edges(a, b, rest)],
        )  # fmt: skip
    rest = [*_edges(pairs), *broken, *[p for p in kinks if p.status != "equal"]]
    if rest:
        return _comparison("edges_differ", a, b, rest, causes.of_edges(a, b, rest))
    return _comparison("same", a, b, pairs, [])


def _edges(pairs: Sequence[Pair]) -> list[Pair]:
    groups = ("edges", "empty", "ignored", "weights", "compiled", "precision")
    return [p for p in _of(pairs, *groups) if p.status != "equal"]


def _comparison(
    verdict: str,
    a: Side,
    b: Side,
    pairs: Sequence[Pair],
    found: Sequence[Cause],
    notes: Sequence[str] = (),
    factor: float | None = None,
) -> Comparison:
    shown = [p for p in pairs if p.status != "equal"]
    example = None if verdict in ("same", "undecided") or not shown else _example(a, b, shown)
    notes = list(notes)
    for x in (a, b):
        if any((p.a if x is a else p.b).unreduced for p in pairs):
            notes.append(f"{x.label} gives one value for each element; they were averaged")
        notes.extend(f"{x.label}: {n}" for n in (x.witness.notes if x.witness else ()))
        notes.extend(f"{x.label}: {n}" for n in x.notes if n != "float32")
    groups = dict.fromkeys(p.probe.group for p in pairs)
    return Comparison(
        verdict, a.label, b.label, factor=factor, causes=tuple(found), example=example,
        probed=tuple(f"{g} ({sum(p.probe.group == g for p in pairs)} probes)" for g in groups),
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _example(a: Side, b: Side, pairs: Sequence[Pair]) -> Example:
    """The smallest input that shows the difference, with what the exact function gives there."""

    def size(p: Pair) -> tuple[int, float]:
        arrays = [np.asarray(x) for x in p.inputs.values()]
        digits = sum(float(np.abs(np.nan_to_num(x, posinf=9, neginf=9)).sum()) for x in arrays)
        return sum(x.size for x in arrays), digits

    chosen = min(pairs, key=size)
    exact = _exact(a, chosen)
    return Example(
        group=chosen.probe.group, probe=chosen.probe.id, dtype=chosen.probe.dtype,
        inputs={n: np.asarray(x).tolist() for n, x in chosen.inputs.items()},
        a=_shown(chosen.a), b=_shown(chosen.b), exact=exact,
    )  # fmt: skip


def _shown(outcome: Outcome) -> dict[str, Any]:
    if outcome.raised:
        return {"raises": outcome.error}
    return {
        "value": _number(outcome.value),
        "gradients": {n: _numbers(g) for n, g in outcome.gradients.items()},
    }


def _numbers(x: Any) -> Any:
    x = np.asarray(x)
    return _number(float(x)) if x.ndim == 0 else [_numbers(row) for row in x]


def _number(x: Any) -> Any:
    value = float(x)
    return value if math.isfinite(value) else str(value)


def _exact(a: Side, chosen: Pair) -> dict[str, Any] | None:
    """What the meaning of ``a`` gives there in exact arithmetic, where the oracle is installed."""
    if not a.specs or a.signature.ports:
        return None
    try:
        from lossbridge_conformance.oracle import oracle
    except ImportError:
        return None
    from lossbridge.passes.differentiate import differentiate
    from lossbridge.plan import Options, plan

    spec = next((s for s in a.specs if list(s.inputs) == list(a.signature.inputs)), None)
    if spec is None or chosen.probe.weights is not None:
        return None
    try:
        values = spec.bind()
        numbers = tuple((n, v) for n, v in values.items() if not np.ndim(v))
        graph = plan(spec, numbers, Options(spec.reduction.kind, spec.reduction.normalizer)).written
        real = tuple(n for n, k in spec.inputs.items() if k.dtype == "real")
        if spec.reduction.kind != "none":
            graph = differentiate(graph, "value", real)
        given = {**values, **chosen.inputs}
        if spec.axis is not None:
            for n in chosen.inputs:
                if len(spec.inputs[n].axes) == 2 and np.ndim(given[n]) > 1:
                    given[n] = np.moveaxis(given[n], min(spec.axis, np.ndim(given[n]) - 1), -1)
        found = oracle(graph, {n: np.asarray(given[n]) for n, _ in graph.inputs()}, budget=2.0)
    except Exception:  # what the oracle cannot do is no reason to withhold a verdict
        return None
    value = np.asarray(found["value"].float64())
    return {
        "value": _number(value.mean()) if value.size else None,
        "gradients": {
            n.removeprefix("gradient_"): _numbers(r.float64())
            for n, r in found.items() if n.startswith("gradient_")
        },
    }  # fmt: skip


def assert_equivalent(a: Any, b: Any, **options: Any) -> Comparison:
    """The comparison of :func:`compare`; raises :class:`AssertionError` unless it is ``same``."""
    return compare(a, b, **options).raise_if_different()


__all__ = ["assert_equivalent", "compare", "of_sides"]
