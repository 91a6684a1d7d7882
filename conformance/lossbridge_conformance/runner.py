"""The conformance run: truth here, one worker process per platform, one report.

The parent computes the certified truth of every stored case once, hands the cases to the workers,
and judges what they send back. Tracks: *stability* (value and gradient against the oracle),
*agreement* (platforms pairwise, and kinks exactly), *contract* (reductions, weights, masks, empty
batches, errors) and *convergence* (the aligned training runs).
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform as machine
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lossbridge.errors import ArgumentError, BackendUnavailable, OutputError
from lossbridge_conformance import (
    agreement,
    converge,
    derivatives,
    deviations,
    natives,
    report,
    stability,
)
from lossbridge_conformance.contract import Contract
from lossbridge_conformance.probe import registered
from lossbridge_conformance.results import (
    Cell,
    Curve,
    Results,
    merge,
    with_cells,
    write,
    write_atomic,
)
from lossbridge_conformance.subjects import (
    DTYPES,
    Skipped,
    Subject,
    Truths,
    all_truths,
    chosen,
)
from lossbridge_conformance.workers import Worker, interruptible, oracles, probed, run_all

TRACKS = ("stability", "agreement", "contract", "convergence")
SUBJECTS = ("ours", "native")
TRAINERS = ("torch", "keras", "jax")  # platforms with a front door to train through
CURVES = ("aligned", "defaults", "defaults:scaled", *converge.CONTROLS)
QUICK_CURVES = ("aligned",)


def run(
    *,
    platforms: Sequence[str] = (),
    losses: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    tracks: Sequence[str] = (),
    subjects: Sequence[str] = ("ours",),
    out: Path = Path("conformance-report"),
    quick: bool = False,
    as_json: bool = False,
) -> int:
    """Measure, write the report into ``out``, print its first lines; returns the exit code."""
    measured = measure_all(
        platforms=platforms, losses=losses, dtypes=dtypes, tracks=tracks, subjects=subjects,
        out=out, quick=quick,
    )  # fmt: skip
    if as_json:
        print(report.summary_json(measured).decode(), end="")
    else:
        print(report.first_lines(measured))
        print(f"Report: {out / report.NAMES['html']}")
    return int(measured.summary.exit_code)


def measure_all(
    *,
    platforms: Sequence[str] = (),
    losses: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    tracks: Sequence[str] = (),
    subjects: Sequence[str] = ("ours",),
    out: Path,
    quick: bool = False,
) -> report.Report:
    """The run itself: the merged, judged results, written to ``out``."""
    dtypes = _known("dtype", dtypes, DTYPES)
    if "ours" not in _known("subject", subjects, SUBJECTS):
        raise ArgumentError(
            "the frameworks' own losses are measured beside ours; write --subjects ours,native"
        )
    tracks = _known("track", tracks, TRACKS)
    probes = registered()
    wanted = list(dict.fromkeys(platforms)) or sorted(probes)
    available = {name: probed(name) for name in wanted if name in probes}
    present = {name: found.modes for name, found in available.items() if not found.missing}
    # Only a platform that was asked for by name is missed; any other's absence is a note.
    required = list(dict.fromkeys(platforms)) or list(present)
    absent = [f"{n} was not measured: {f.missing}" for n, f in available.items() if f.missing]
    for line in absent:
        print(f"lossbridge: {line}", file=sys.stderr)
    if not present:
        raise BackendUnavailable(
            f"nothing was measured: {', '.join(wanted) or 'no platform'} is not to be had here; "
            f"registered are {', '.join(sorted(probes)) or 'none'}"
        )
    cache = _folder(out)
    measured, skipped = chosen(losses, cache, settings=not quick)
    builtins = natives.chosen(measured, list(present)) if "native" in subjects else []
    with interruptible(), tempfile.TemporaryDirectory() as temporary, oracles(temporary) as pool:
        # The contract is checked in float64 whatever is asked for.
        asked = tuple(d for d in DTYPES if d in dtypes or d == "float64")
        truths: Truths = all_truths(measured, builtins, asked, dtypes, cache, pool)
        contracts = [Contract(s, truths) for s in measured] if "contract" in tracks else []
        training = _training(measured, quick) if "convergence" in tracks else []
        workers = []
        for name, modes in present.items():
            tasks: list[dict[str, Any]] = []
            if {"stability", "agreement"} & set(tracks):
                for subject in measured:
                    tasks += stability.tasks(subject, modes, dtypes, quick)
            if "stability" in tracks:
                for subject in natives.at_home(builtins, name):
                    tasks += stability.tasks(subject, modes, dtypes, quick)
            for contract in contracts:
                tasks += contract.tasks(modes[0], quick)
            if name in TRAINERS:
                tasks += training
            workers.append(Worker(name, modes, tasks, Path(temporary)))
        workers[0].notes += absent
        run_all(workers)
        stability.excuse(workers, [*measured, *builtins], truths, pool)
        slopes = list(pool.map(derivatives.cell, measured)) if contracts else []
    files = [
        _results(worker, measured, builtins, skipped, dtypes, truths, contracts, tracks, quick)
        for worker in workers
    ]
    extra: list[Any] = list(slopes)
    if "agreement" in tracks:
        extra += agreement.cells(workers, measured, dtypes, truths)
    extra += _converged(workers, measured, training)
    merged = with_cells(merge(files), extra)
    judged = report.prepare(merged, deviations.recorded(), required=required)
    for results in files:
        write(results, out / f"results-{results.platform}.json")
    # What no single platform could say, so that a later report of these files has it too.
    write_atomic(
        out / "compared.json",
        msgspec.json.format(msgspec.json.encode(extra, enc_hook=str), indent=1),
    )
    report.write_reports(judged, out)
    return judged


def _known(what: str, given: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in given if name not in options]
    if unknown:
        raise ArgumentError(f"unknown {what} {', '.join(unknown)}; there are {', '.join(options)}")
    return tuple(name for name in options if name in given) or tuple(options)


def _folder(out: Path) -> Path:
    """The folder of the report and, inside it, that of the truths; refused before anything runs."""
    cache = out / ".truth"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(
            f"{str(out)!r} cannot hold the report ({error.strerror}); give --out another folder"
        ) from None
    return cache


# --- results -------------------------------------------------------------------------------------


def _results(
    worker: Worker,
    subjects: Sequence[Subject],
    builtins: Sequence[Subject],
    skipped: Sequence[Skipped],
    dtypes: Sequence[str],
    truths: Truths,
    contracts: Iterable[Contract],
    tracks: Sequence[str],
    quick: bool,
) -> Results:
    """One platform's file."""
    examples: dict[str, Any] = {}
    cells: list[Cell] = []
    if "stability" in tracks:
        both = [*subjects, *natives.at_home(builtins, worker.platform)]
        cells += stability.cells(worker, both, dtypes, truths, examples, quick)
        cells += stability.skipped_cells(worker, skipped)
    for contract in contracts:
        cells += contract.cells(worker)
    curves = [_curve(a["curve"]) for a in worker.answers.values() if "curve" in a]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fixtures = "".join(sorted(subject.fixtures for subject in subjects))
    rules = sorted(
        subject.name
        for subject in subjects
        if any(truth.from_rules for truth in truths[subject.name].values())
    )
    notes = list(worker.notes)
    if rules:
        notes.append(
            "For some cases the oracle could not certify the formula as written, and took the "
            f"truth from the compiler's stabilised form of it: {', '.join(rules)}."
        )
    return Results(
        created=now,
        platform=worker.platform,
        versions=worker.versions,
        machine={
            "processor": machine.machine(), "system": machine.system(),
            "python": machine.python_version(), "cores": os.cpu_count() or 1,
        },
        fixtures=hashlib.sha256(fixtures.encode()).hexdigest(),
        seconds=round(worker.seconds, 1),
        cells=tuple(cells),
        cases=examples,
        curves=tuple(curves),
        notes=tuple(notes),
    )  # fmt: skip


# --- convergence ---------------------------------------------------------------------------------


def _training(subjects: Sequence[Subject], quick: bool) -> list[dict[str, Any]]:
    """The training runs of those losses of this run that have one."""
    # The first of a class: with default settings, and the one whose labels are integers.
    specs = {s.class_: s.spec for s in reversed(subjects) if not s.setting}
    found = []
    for track in QUICK_CURVES if quick else CURVES:
        for task in converge.tasks(track, losses=specs):
            if quick and task.optimizer != "sgd":
                continue
            found.append({
                "kind": "train", "id": f"train {task.id}", "task": task, "params": {},
                "subject": ("train", task.id), "spec": specs[task.loss],
            })  # fmt: skip
    return found


def _converged(
    workers: Sequence[Worker], subjects: Sequence[Subject], training: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """The verdict on the aligned runs of all platforms, beside the reference in NumPy."""
    trained = [worker for worker in workers if worker.platform in TRAINERS]
    if not trained or not training:
        return []
    curves = [a["curve"] for worker in trained for a in worker.answers.values() if "curve" in a]
    expected = [task["task"] for task in training if task["task"].track == "aligned"]
    curves += [converge.reference(task) for task in expected]
    ids = {s.class_: s.spec.id for s in reversed(subjects) if not s.setting}
    return list(
        converge.verdict(
            curves, platforms=[worker.platform for worker in trained], expected=expected,
            spec_ids=ids,
        )
    )  # fmt: skip


def _curve(curve: Mapping[str, Any]) -> Curve:
    found: Curve = msgspec.convert(curve, Curve)
    return found


__all__ = ["measure_all", "run"]
