"""The stability track: value and gradient of every case against the certified truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossbridge_conformance import cases, measure
from lossbridge_conformance.formats import FORMATS, round_floats
from lossbridge_conformance.oracle import Rounded
from lossbridge_conformance.results import OURS, Cell, Status, cell_id
from lossbridge_conformance.subjects import (
    DTYPES,
    HALVES,
    Array,
    Skipped,
    Subject,
    Truth,
    Truths,
    gradient_condition,
)
from lossbridge_conformance.workers import Worker

BOUNDS = {"value": 3.0, "gradient": 4.0}  # bits beyond the condition number
QUANTITIES = tuple(BOUNDS)

# Compiling a loss with inductor takes ten seconds for every shape, so its mode is sampled: losses
# elementwise and along a class axis, with and without a kink.
SLOW_MODES = ("compiled",)
SAMPLE = (
    "mse@1", "l1@1", "huber@1", "bce_with_logits@1", "binary_focal@1", "cross_entropy@1",
    "focal@1", "kl_div@1",
)  # fmt: skip
SAMPLED = (
    "not part of this run: compiling takes ten seconds for each loss and shape, so a sample of "
    "losses is compiled, in float32"
)
SETTINGS = "changed settings are measured in one mode of each platform"
CROSSING = (
    "intermediate values cross a port in this dtype, so the result is rounded more than once and "
    "the rule for half precision does not apply"
)
QUICK = "not part of a quick run"
BUILTIN = "the frameworks' own losses are measured on the practical and the special cases"


# --- tasks ---------------------------------------------------------------------------------------


def task_id(subject: Subject, mode: str, dtype: str, at: int) -> str:
    """The name of one call's task."""
    return f"stability {subject.name} {mode} {dtype} {at}"


def tasks(
    subject: Subject, modes: Sequence[str], dtypes: Sequence[str], quick: bool
) -> Iterator[dict[str, Any]]:
    """Every call of a loss in every mode and dtype of a platform.

    Calls that may lie side by side are run as one: a compiler starts anew for every shape.
    """
    for mode in modes:
        for dtype in DTYPES:
            batches: dict[Any, list[int]] = {}
            for at, call in enumerate(subject.calls):
                if subject.rounds_inside and call.group in HALVES:
                    continue
                if dtype in _dtypes_of(subject, call, dtypes) and not _left_out(
                    subject, modes, mode, dtype, call, quick
                ):
                    batches.setdefault(_beside(subject, at), []).append(at)
            for batch in batches.values():
                parts = [_task(subject, mode, dtype, at) for at in batch]
                yield _together(subject, parts, subject.calls[batch[0]].sample_axis)


def _beside(subject: Subject, at: int) -> Any:
    """A key that is equal for calls whose samples may lie side by side in one."""
    call = subject.calls[at]
    if call.sample_axis is None or subject.spec.weights or subject.tree or subject.mixes:
        return at
    shapes = [
        tuple(n for n, axis in zip(x.shape, subject.kinds[name].axes, strict=True)
              if axis != call.sample_axis)
        for name, x in call.inputs.items()
    ]  # fmt: skip
    shared = [x.tobytes() for n, x in call.inputs.items()
              if call.sample_axis not in subject.kinds[n].axes]  # fmt: skip
    return call.group, tuple(shapes), tuple(shared)


def _task(subject: Subject, mode: str, dtype: str, at: int) -> dict[str, Any]:
    call = subject.calls[at]
    return {
        **base(subject),
        **subject.split(call.inputs),
        "subject": (subject.name, "none", None, at if subject.spec.weights else -1),
        "dtype": dtype,
        "mode": mode,
        "wrt": subject.wrt,
        "samples": len(call.ids),
        "id": task_id(subject, mode, dtype, at),
    }


def _together(subject: Subject, parts: list[dict[str, Any]], sample: str | None) -> dict[str, Any]:
    if len(parts) == 1 or sample is None:
        return parts[0]
    kinds = subject.kinds

    def dim(axes: Sequence[str], rank: int) -> int:
        return cases.dims_of(axes, (sample,), rank)[0]

    inputs = {
        n: np.concatenate([p["inputs"][n] for p in parts], axis=dim(kinds[n].axes, x.ndim))
        if sample in kinds[n].axes else x
        for n, x in parts[0]["inputs"].items()
    }  # fmt: skip
    # The axis group of a stored case is one axis, so names and dimensions are in step.
    dims = {n: dim(kinds[n].axes, len(kinds[n].axes)) for n in subject.wrt}
    return {
        **parts[0],
        "inputs": inputs,
        "samples": sum(p["samples"] for p in parts),
        "dims": {**dims, "value": dim(subject.axes, len(subject.axes))},
        "parts": parts,
        "id": " + ".join([parts[0]["id"], *(p["id"].rpartition(" ")[2] for p in parts[1:])]),
    }


def base(subject: Subject) -> dict[str, Any]:
    """What all tasks of a loss have in common."""
    own = subject.builtin
    return {
        "kind": "run", "spec": subject.spec, "params": dict(subject.params),
        "ports": dict(subject.ports), "reduction": "none", "normalizer": None, "call": {},
        "native": own and {"name": own.name, "arguments": own.arguments, "order": own.order},
    }  # fmt: skip


def _dtypes_of(subject: Subject, call: cases.Call, dtypes: Sequence[str]) -> list[str]:
    """The dtypes a call is run in: ours in a half-precision one in float32 too, to round from."""
    wanted = [d for d in dtypes if call.group in cases.SERVES[d]]
    if subject.builtin is not None:
        return wanted
    return [*wanted, *(["float32"] if any(d in HALVES for d in wanted) else [])]


def _left_out(
    subject: Subject, modes: Sequence[str], mode: str, dtype: str, call: cases.Call, quick: bool
) -> str:
    """Why a call is not run, or nothing."""
    if subject.builtin is not None:
        return "" if subject.against_truth(call, dtype) and mode not in SLOW_MODES else BUILTIN
    if subject.setting and mode != modes[0]:
        return SETTINGS
    if mode in SLOW_MODES:
        if quick:
            return QUICK
        large = "large" in call.flags[0]
        if subject.spec.id not in SAMPLE or dtype != "float32" or large:
            return SAMPLED
        return "" if call.group == "single" else SAMPLED
    return QUICK if quick and call.stratum == "full" else ""


# --- judging -------------------------------------------------------------------------------------


@dataclass
class Tally:
    """The worst of one cell so far."""

    judged: list[float] = field(default_factory=list)
    status: Status = "PASS"
    worst: float = -1.0
    worst_case: str | None = None
    condition: float | None = None
    detail: str = ""
    undecided: int = 0
    example: dict[str, Any] | None = None

    def fail(self, status: Status, detail: str, case: str | None = None) -> None:
        """Note a failure; the first one tells its story, a crash outranks a number."""
        if self.status in ("PASS", "FAIL"):
            self.status = status
        self.detail = self.detail or detail
        self.worst_case = self.worst_case or case


def error_status(answer: Mapping[str, Any]) -> Status:
    """What a task that gave an error makes of its cell."""
    kind = str(answer["kind"])
    return "CRASH" if kind == "crash" else "UNSUPPORTED" if kind == "UnsupportedError" else "RAISES"


def cells(
    worker: Worker,
    subjects: Sequence[Subject],
    dtypes: Sequence[str],
    truths: Truths,
    examples: dict[str, Any],
    quick: bool,
) -> Iterator[Cell]:
    """The cells of one platform; descriptions of their worst cases go into ``examples``."""
    for subject in subjects:
        for mode in worker.modes:
            if subject.builtin is not None and mode in SLOW_MODES:
                continue
            for dtype in dtypes:
                yield from _cells(worker, subject, mode, dtype, truths, examples, quick)


def _cells(
    worker: Worker,
    subject: Subject,
    mode: str,
    dtype: str,
    truths: Truths,
    examples: dict[str, Any],
    quick: bool,
) -> Iterator[Cell]:
    tallies: dict[tuple[str, str], Tally] = {}
    reasons: dict[str, None] = {}
    for at, call in enumerate(subject.calls):
        if call.group not in cases.SERVES[dtype]:
            continue
        if subject.rounds_inside and dtype in HALVES:
            reasons[CROSSING] = None
            continue
        reason = _left_out(subject, worker.modes, mode, dtype, call, quick)
        if reason:
            reasons[reason] = None
            continue
        answer = worker.answers[task_id(subject, mode, dtype, at)]
        for quantity in QUANTITIES:
            tally = tallies.setdefault((quantity, call.stratum), Tally())
            if "error" in answer:
                tally.fail(error_status(answer), answer["error"], call.ids[0])
            elif dtype in HALVES and subject.builtin is None:
                single = worker.answers[task_id(subject, mode, "float32", at)]
                _half(subject, call, quantity, dtype, answer, single, tally)
            else:
                judge(subject, call, quantity, answer, truths[subject.name][at, dtype], tally)
    for (quantity, stratum), tally in tallies.items():
        if tally.worst_case is not None:
            # One case may be the worst of several cells, each with its own results.
            tally.worst_case += f" {mode} {dtype} {quantity}"
            examples[tally.worst_case] = tally.example or {"note": tally.detail}
        yield _cell(subject, worker.platform, mode, dtype, quantity, stratum, tally)
    if reasons and not tallies:
        reason = "; ".join(reasons)
        yield untested(
            subject.loss, subject.class_, worker.platform, mode, dtype, reason, subject.who
        )


def skipped_cells(worker: Worker, skipped: Sequence[Skipped]) -> Iterator[Cell]:
    """A cell for every loss that was left out, with its reason."""
    for loss in skipped:
        for mode in worker.modes:
            yield untested(loss.id, loss.class_, worker.platform, mode, "", loss.reason)


def untested(
    loss: str, class_: str, platform: str, mode: str, dtype: str, reason: str, who: str = OURS
) -> Cell:
    """A cell that says why nothing was measured."""
    return Cell(
        id=cell_id("stability", loss, platform, mode, dtype, "", "", who),
        track="stability",
        loss=loss,
        subject=who,
        class_=class_,
        platform=platform,
        mode=mode,
        dtype=dtype,
        status="UNTESTED",
        detail=reason,
    )


@np.errstate(over="ignore")  # an enormous condition number, doubled
def judge(
    subject: Subject,
    call: cases.Call,
    quantity: str,
    answer: Mapping[str, Any],
    truth: Truth,
    tally: Tally,
    wrt: Sequence[str] = (),
) -> None:
    """Add one call to a cell: its value, or its gradients (in ``wrt``, or in every input)."""
    for name in ("value",) if quantity == "value" else wrt or subject.wrt:
        if subject.builtin is not None and name not in ("value", *answer["gradients"]):
            continue  # a built-in may have no gradient in its target
        rounded = truth.rounded[name if quantity == "value" else f"gradient_{name}"]
        accepted = (
            []
            if truth.accepted is None
            else [truth.accepted[name if quantity == "value" else f"gradient_{name}"]]
        )
        got = result(answer, name, rounded.value.shape)
        if got.shape != rounded.value.shape:
            tally.fail(
                "FAIL", f"{name} has shape {got.shape}, not {rounded.value.shape}", call.ids[0]
            )
            continue
        axes = subject.axes_of(name)
        if subject.builtin is not None:
            got = round_floats(got, rounded.dtype)  # some answer in a wider dtype than was asked
        got = _where_defined(subject, call, truth, got, rounded.value, axes)
        # What lies below half the least subnormal is 0, and no definition states that zero's sign.
        got = np.where((got == 0.0) & (rounded.value == 0.0), rounded.value, got)
        k = truth.conditions.get(name, 1.0)
        if quantity == "value":
            judged = measure.judge_value(got, rounded, condition=k, accepted=accepted)
        else:
            inner = [a for a in axes if a not in subject.axes]
            judged = measure.judge_gradient(
                got,
                rounded,
                components=cases.dims_of(axes, inner, got.ndim),
                condition=k,
                accepted=accepted,
            )
            axes = tuple(a for a in axes if a in subject.axes)
        score = np.atleast_1d(judged.judged)
        tally.undecided += int(np.isnan(score).sum())
        tally.judged.extend(float(v) for v in score[~np.isnan(score)])
        if not score.size or np.isnan(score).all():
            continue
        position = judged.worst() if judged.judged.ndim else (0,)
        if float(score[position]) <= tally.worst:
            continue
        at = 0
        if call.sample_axis in axes:
            at = position[cases.dims_of(axes, (str(call.sample_axis),), score.ndim)[0]]
        tally.worst = float(score[position])
        tally.worst_case = call.ids[at]
        tally.condition = float(np.atleast_1d(judged.condition)[position])
        problem = str(np.atleast_1d(judged.problem)[position])
        tally.example = _example(subject, call, at, name, got, rounded, problem)
        if tally.worst > BOUNDS[quantity]:
            spurious = bool((np.isnan(got) & ~np.isnan(rounded.value)).any())
            if tally.status == "FAIL":
                tally.detail = ""  # this one is worse
            tally.fail(
                "NAN" if spurious and problem == "class" else "FAIL",
                f"{name}: wrong {problem}" if problem else f"{name} is {tally.worst:.1f} bits off",
            )


def result(answer: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    """A value or gradient as sent back; a parameter tree of one leaf comes as a list of one."""
    got = np.asarray(answer["value"] if name == "value" else answer["gradients"][name], np.float64)
    return got[0] if got.shape == (1, *shape) and shape != got.shape else got


def _where_defined(
    subject: Subject,
    call: cases.Call,
    truth: Truth,
    got: Array,
    expected: Array,
    axes: Sequence[str],
) -> Array:
    """The result, with what no formula defines taken as right.

    A kind such as ``real`` is a finite number. Where an input is infinite all the same and the
    definition itself gives NaN (inf - inf), NaN and any limit are equally right. A NaN input is
    defined: it must show, and a definition that is finite at infinity must be met.
    """
    count = len(call.ids)

    def samples(x: Array, own: Sequence[str], test: Any) -> Any:
        """For each sample, whether any of its entries passes the test."""
        if call.sample_axis not in own:
            return np.full(count, test(x).any())
        (dim,) = cases.dims_of(own, (str(call.sample_axis),), x.ndim)
        return test(np.moveaxis(x, dim, 0).reshape(count, -1)).any(axis=1)

    infinite, poisoned = np.zeros(count, bool), np.zeros(count, bool)
    for name, x in call.inputs.items():
        if x.dtype.kind == "f":
            infinite |= samples(x, subject.kinds[name].axes, np.isinf)
            poisoned |= samples(x, subject.kinds[name].axes, np.isnan)
    nowhere = samples(truth.rounded["value"].value, subject.axes, np.isnan)
    nowhere |= samples(expected, axes, np.isnan)
    undefined = infinite & ~poisoned & nowhere
    if call.sample_axis not in axes:
        return np.where(undefined.any(), expected, got)
    (dim,) = cases.dims_of(axes, (str(call.sample_axis),), got.ndim)
    shape = [1] * got.ndim
    shape[dim] = count
    return np.where(undefined.reshape(shape), expected, got)


def _half(
    subject: Subject,
    call: cases.Call,
    quantity: str,
    dtype: str,
    answer: Mapping[str, Any],
    single: Mapping[str, Any],
    tally: Tally,
) -> None:
    """A half-precision result is our own float32 result, rounded once."""
    if "error" in single:
        tally.fail(
            error_status(single), f"in float32, to be rounded from: {single['error']}", call.ids[0]
        )
        return
    least = FORMATS[dtype].min_normal
    for name in ("value",) if quantity == "value" else subject.wrt:
        got, wide = (
            np.asarray(a["value"] if quantity == "value" else a["gradients"][name], np.float64)
            for a in (answer, single)
        )
        if got.shape != wide.shape:
            tally.fail(
                "FAIL", f"{name} has shape {got.shape}, in float32 {wide.shape}", call.ids[0]
            )
            continue
        wanted = round_floats(wide, dtype)
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        same |= (got == 0.0) & (np.abs(wanted) < least)
        tally.judged.extend([0.0] * int(same.sum()))
        tally.worst = max(tally.worst, 0.0)
        if not same.all():
            tally.worst = float(FORMATS[dtype].width)
            where = tuple(int(v) for v in np.argwhere(~same)[0])
            axes = subject.axes_of(name)
            at = 0
            if call.sample_axis in axes and got.ndim == len(axes):
                at = where[axes.index(str(call.sample_axis))]
            detail = (
                f"{name} {list(where)} is {got[where].hex()}, and float32's {wide[where].hex()} "
                f"rounds to {wanted[where].hex()}; {int((~same).sum())} of {same.size} differ"
            )
            tally.fail("FAIL", detail, call.ids[at])


def _example(
    subject: Subject,
    call: cases.Call,
    at: int,
    name: str,
    got: Array,
    truth: Rounded,
    problem: str,
) -> dict[str, Any]:
    def few(x: Any) -> list[Any]:
        flat = np.asarray(x).ravel()[:24]
        return [float(v).hex() if flat.dtype.kind == "f" else int(v) for v in flat]

    axes = subject.axes_of(name)
    index: tuple[Any, ...] = (...,)
    if call.sample_axis in axes:
        (dim,) = cases.dims_of(axes, (str(call.sample_axis),), got.ndim)
        index = (*[slice(None)] * dim, at)
    return {
        "flags": list(call.flags[at]),
        "inputs": {n: few(x) for n, x in call.select(at, subject.kinds).items()},
        "quantity": name,
        "got": few(got[index]),
        "expected": few(truth.value[index]),
        "note": problem,
    }


def _cell(
    subject: Subject,
    platform: str,
    mode: str,
    dtype: str,
    quantity: str,
    stratum: str,
    tally: Tally,
) -> Cell:
    judged = sorted(tally.judged)
    status, detail = tally.status, tally.detail
    if tally.undecided:
        note = f"of {tally.undecided} results the oracle does not know the truth"
        detail = f"{detail}; {note}" if detail else note
        if not judged and status == "PASS":
            status = "UNTESTED"
    condition = tally.condition
    return Cell(
        id=cell_id(
            "stability", subject.loss, platform, mode, dtype, quantity, stratum, subject.who
        ),
        track="stability", loss=subject.loss, class_=subject.class_, subject=subject.who,
        platform=platform, mode=mode, dtype=dtype, quantity=quantity, stratum=stratum,
        status=status,
        bits=tally.worst if tally.worst >= 0.0 else None,
        median_bits=judged[len(judged) // 2] if judged else None,
        condition=condition if condition is not None and math.isfinite(condition) else None,
        bound=0.0 if dtype in HALVES and subject.builtin is None else BOUNDS[quantity],
        cases=len(judged),
        worst_case=tally.worst_case, detail=detail[:600],
    )  # fmt: skip


# --- condition numbers ---------------------------------------------------------------------------


def excuse(
    workers: Sequence[Worker], subjects: Sequence[Subject], truths: Truths, pool: Executor
) -> None:
    """Find the condition numbers of those gradients that are beyond their bound without one."""
    jobs: dict[tuple[str, int, str, str], tuple[Subject, int, str, str]] = {}
    for subject in subjects:
        for (at, dtype), truth in truths[subject.name].items():
            for name in subject.wrt:
                if any(
                    _beyond(subject, at, name, answer, truth)
                    for worker in workers
                    for mode in worker.modes
                    if (answer := worker.answers.get(task_id(subject, mode, dtype, at)))
                    and "error" not in answer
                ):
                    jobs[subject.name, at, dtype, name] = (subject, at, dtype, name)
    for key, found in zip(jobs, pool.map(gradient_condition, jobs.values()), strict=True):
        loss, at, dtype, name = key
        truths[loss][at, dtype].conditions[name] = found


def _beyond(subject: Subject, at: int, name: str, answer: Mapping[str, Any], truth: Truth) -> bool:
    tally = Tally()
    judge(subject, subject.calls[at], "gradient", answer, truth, tally, (name,))
    return tally.worst > BOUNDS["gradient"]
