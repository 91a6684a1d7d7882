"""The agreement track: platforms against each other, and kinks against the exact truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lossbridge_conformance import cases, measure
from lossbridge_conformance.formats import FORMATS, Floats
from lossbridge_conformance.oracle import Rounded
from lossbridge_conformance.results import Cell, cell_id
from lossbridge_conformance.stability import BOUNDS, QUANTITIES, Tally, result, task_id
from lossbridge_conformance.subjects import HALVES, Subject, Truth, Truths
from lossbridge_conformance.workers import Worker

FEW_BITS = 6  # a gradient at a kink is a number such as 0, 1 or -0.25: of so many bits at most


def cells(
    workers: Sequence[Worker], subjects: Sequence[Subject], dtypes: Sequence[str], truths: Truths
) -> Iterator[Cell]:
    """A cell for each pair of platforms, and one for the modes of each; kinks of all together."""
    # A pair has one name, in whatever order the platforms were asked for: the record is by name.
    workers = sorted(workers, key=lambda worker: worker.platform)
    for subject in subjects:
        for dtype in (d for d in dtypes if d not in HALVES):
            for first, second in itertools.combinations_with_replacement(workers, 2):
                if first is not second or len(first.modes) > 1:
                    yield from _pair(subject, dtype, first, second, truths)
            yield from _kinks(subject, dtype, workers, truths)


# --- pairs ---------------------------------------------------------------------------------------


def _pair(
    subject: Subject, dtype: str, first: Worker, second: Worker, truths: Truths
) -> Iterator[Cell]:
    """Two platforms in all their modes, on the practical stratum.

    Each may be as far from the truth as its own bound says, so two may lie twice as many ulps
    apart: one bit more.
    """
    modes = list(itertools.product(first.modes, second.modes))
    if first is second:
        modes = list(itertools.combinations(first.modes, 2))
    for quantity in QUANTITIES:
        tally = Tally()
        broken = 0
        for at, call in enumerate(subject.calls):
            if call.stratum != "practical" or call.group not in cases.SERVES[dtype]:
                continue
            truth = truths[subject.name][at, dtype]
            for one, two in modes:
                a = first.answers.get(task_id(subject, one, dtype, at))
                b = second.answers.get(task_id(subject, two, dtype, at))
                if a is None or b is None:
                    continue  # a sampled mode; the stability track says so
                if "error" in a or "error" in b:
                    broken += 1
                    continue
                for name in ("value",) if quantity == "value" else subject.wrt:
                    bits = _apart(subject, dtype, quantity, name, a, b, truth)
                    tally.judged.extend(float(v) for v in bits.ravel())
                    worst = float(np.max(bits, initial=0.0))
                    if worst > tally.worst:
                        tally.worst = worst
                        tally.detail = f"{name}, {one} and {two}, in {call.ids[0]} and beside it"
        if not tally.judged and not broken:
            continue
        bound = BOUNDS[quantity] + 1.0
        if tally.worst > bound:
            tally.status = "FAIL"
        elif broken:
            tally.status = "UNTESTED"
            tally.detail = f"{broken} calls gave no result to compare"
        names = " / ".join(dict.fromkeys((first.platform, second.platform)))
        if first is second:
            names = f"{names} modes"
        yield Cell(
            id=cell_id("agreement", subject.name, names, "", dtype, quantity, "practical"),
            track="agreement", loss=subject.name, class_=subject.class_, platform=names,
            dtype=dtype, quantity=quantity, stratum="practical", status=tally.status,
            bits=tally.worst if tally.judged else None,
            median_bits=float(np.median(tally.judged)) if tally.judged else None, bound=bound,
            cases=len(tally.judged),
            detail=tally.detail if tally.status != "PASS" else "",
        )  # fmt: skip


def _apart(
    subject: Subject, dtype: str, quantity: str, name: str, a: Any, b: Any, truth: Truth
) -> Floats:
    """Judged bits between two results, one per value or per sample of a gradient."""
    form = FORMATS[dtype]
    shape = truth.rounded[name if quantity == "value" else f"gradient_{name}"].value.shape
    x, y = result(a, name, shape), result(b, name, shape)
    if x.shape != y.shape:
        return np.array([float(form.width)])
    finite = np.isfinite(x) & np.isfinite(y)
    same = finite | (x == y) | (np.isnan(x) & np.isnan(y))
    u, v = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
    dims: tuple[int, ...] = ()
    if quantity == "value":
        ulps = measure.ulp_distance(u, v, dtype).astype(np.float64)
    else:
        axes = subject.axes_of(name)
        dims = cases.dims_of(axes, [a for a in axes if a not in subject.axes], u.ndim)
        size = np.max(np.maximum(np.abs(u), np.abs(v)), axis=dims, keepdims=True, initial=0.0)
        exponent = np.maximum(np.frexp(size)[1], form.emin + 1) - form.precision
        ulps = np.abs(np.ldexp(u, -exponent) - np.ldexp(v, -exponent))
    ulps = np.max(np.where(same, ulps, math.inf), axis=dims, initial=0.0)
    k = np.asarray(truth.conditions.get(name, 1.0), np.float64)
    k = np.where(np.isfinite(k), np.maximum(k, 1.0), 1.0)
    bits = np.minimum(np.log2(1.0 + ulps), form.width) - np.log2(k)
    return np.maximum(np.where(np.isinf(ulps), float(form.width), bits), 0.0)


# --- kinks ---------------------------------------------------------------------------------------


def _kinks(
    subject: Subject, dtype: str, workers: Sequence[Worker], truths: Truths
) -> Iterator[Cell]:
    """Gradients at kinks, exactly: every platform in every mode gives the true number.

    A kink is where the true gradient jumps; what it is there is 0, 1, a half or the like.
    """
    compared = 0
    wrong: list[str] = []
    broken = 0
    for at, call in enumerate(subject.calls):
        if call.stratum != "special" or call.group not in cases.SERVES[dtype]:
            continue
        truth = truths[subject.name][at, dtype]
        for name in subject.wrt:
            rounded = truth.rounded[f"gradient_{name}"]
            expected = rounded.value
            axes = subject.axes_of(name)
            looked = truth.kinks[name] & _few_bits(rounded) & _finite(subject, call, axes, expected)
            # A platform that flushes subnormal inputs sits at the kink of what is left of them.
            flushed = truth.accepted[f"gradient_{name}"].value if truth.accepted else expected
            if not looked.any():
                continue
            for worker in workers:
                for mode in worker.modes:
                    answer = worker.answers.get(task_id(subject, mode, dtype, at))
                    if answer is None:
                        continue
                    if "error" in answer:
                        broken += 1
                        continue
                    got = result(answer, name, expected.shape)
                    if got.shape != expected.shape:
                        broken += 1
                        continue
                    off = looked & (got != expected) & (got != flushed)
                    compared += int(looked.sum())
                    for where in np.argwhere(off)[:1]:
                        index = tuple(int(i) for i in where)
                        case = call.ids[0]
                        if call.sample_axis in axes:
                            case = call.ids[index[axes.index(str(call.sample_axis))]]
                        wrong.append(
                            f"{worker.platform} {mode} {case} {name}: {got[index]!r}, truly "
                            f"{expected[index]!r} ({int(off.sum())} in all)"
                        )
    if not compared and not broken:
        return
    names = " / ".join(worker.platform for worker in workers)
    status: Any = "FAIL" if wrong else "UNTESTED" if not compared else "PASS"
    yield Cell(
        id=cell_id("agreement", subject.name, names, "", dtype, "kinks", "special"),
        track="agreement", loss=subject.name, class_=subject.class_, platform=names, dtype=dtype,
        quantity="kinks", stratum="special", status=status, cases=compared,
        detail=("; ".join(wrong) or (f"{broken} calls gave no result" if broken else ""))[:2000],
    )  # fmt: skip


def _finite(subject: Subject, call: cases.Call, axes: Sequence[str], like: Floats) -> Any:
    """Which samples have finite inputs only; what others give is the stability track's business."""
    count = len(call.ids)
    finite = np.ones(count, bool)
    for name, x in call.inputs.items():
        own = subject.kinds[name].axes
        good = np.isfinite(x)
        if call.sample_axis in own:
            (dim,) = cases.dims_of(own, (str(call.sample_axis),), x.ndim)
            finite &= np.moveaxis(good, dim, 0).reshape(count, -1).all(axis=1)
        else:
            finite &= bool(good.all())
    if call.sample_axis not in axes:
        return finite.all()
    (dim,) = cases.dims_of(axes, (str(call.sample_axis),), like.ndim)
    shape = [1] * like.ndim
    shape[dim] = count
    return finite.reshape(shape)


def _few_bits(truth: Rounded) -> Any:
    """Which gradients are numbers such as 0, 1 or -0.25, and no others that round to one."""
    x = np.where(np.isfinite(truth.value), truth.value, 0.1)
    scaled = np.ldexp(np.frexp(x)[0], FEW_BITS)
    few = (scaled == np.round(scaled)) & (np.abs(x) <= 2.0**FEW_BITS)
    few &= (np.abs(x) >= 2.0**-FEW_BITS) | truth.exact_zero
    return few & ~truth.undecided & (truth.value == truth.other)
