"""The conformance run: truth here, one worker process per platform, one report.

The parent computes the certified truth of every stored case once, hands the cases to the workers,
and judges what they send back. Tracks: *stability* (value and gradient against the oracle),
*agreement* (platforms pairwise), *contract* (reductions, weights, masks, empty batches, errors) and
*convergence* (the aligned training runs).
"""

from __future__ import annotations

import datetime
import hashlib
import math
import os
import pickle
import platform as machine_
import subprocess
import sys
import tempfile
import time
from base64 import b85decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossbridge.errors import (
    ArgumentError,
    BackendUnavailable,
    LossbridgeError,
    OutputError,
    suggestion,
)
from lossbridge.frontdoor import Form, as_form, forms
from lossbridge.ir import Graph
from lossbridge.kinds import Kind
from lossbridge.passes.differentiate import differentiate
from lossbridge.plan import Numbers, Options, inline_ports, plan, spec_graph
from lossbridge.spec import Spec
from lossbridge_conformance import cases, converge, deviations, measure, networks, report
from lossbridge_conformance.formats import FORMATS, round_floats
from lossbridge_conformance.oracle import Rounded, filled, oracle, round_to
from lossbridge_conformance.probe import PortSpec, as_arrays, registered
from lossbridge_conformance.results import (
    Cell,
    Curve,
    ExitCode,
    Results,
    cell_id,
    merge,
    with_cells,
    write,
)
from lossbridge_conformance.worker import environment

Array: TypeAlias = NDArray[Any]
DTYPES = tuple(FORMATS)
HALVES = ("float16", "bfloat16")
BOUNDS = {"value": 3.0, "gradient": 4.0}  # bits beyond the condition number
FIXTURES = Path(__file__).parent / "fixtures"
# Compiling one loss with inductor takes ten seconds, so eager's twin is sampled.
COMPILED = ("mse@1", "l1@1", "huber@1", "bce_with_logits@1", "binary_focal@1", "cross_entropy@1",
            "focal@1", "kl_div@1")
TRAINERS = ("torch", "keras", "jax")  # platforms with a front door to train through
SAMPLED = (
    "left out of this run: compiling takes ten seconds for each loss and shape, so a sample of "
    "losses is compiled, in float32"
)
TASK_SECONDS = 240.0  # a worker that says nothing for this long is lost


@dataclass(frozen=True)
class Subject:
    """One loss of a run: a specification, its settings, and its cases."""

    spec: Spec
    class_: str
    params: Mapping[str, Any]
    ports: Mapping[str, PortSpec]
    fixture: cases.Fixture

    @property
    def key(self) -> str:
        """The name of its tasks and truths."""
        return self.spec.id

    @property
    def numbers(self) -> Numbers:
        return tuple((n, v) for n, v in self.params.items() if not np.ndim(v))

    @property
    def wrt(self) -> tuple[str, ...]:
        """What a gradient is taken in: the real inputs, and the trainable weights."""
        return tuple(n for n, k in self.spec.inputs.items() if k.dtype == "real") + tuple(
            self.spec.weights)

    def graph(self, stable: bool = False) -> Graph:
        """The unreduced loss as written (or after the rules), ports inlined, with its gradients."""
        prepared = plan(self.spec, self.numbers, Options("none"))
        graph = inline_ports(prepared.written, {
            name: networks.graph_of(port) for name, port in self.ports.items()
        })
        if stable:
            from lossbridge.passes.stabilise import stabilise

            graph = stabilise(graph)
        return differentiate(graph, "value", self.wrt)


@dataclass(frozen=True)
class Truth:
    """What the oracle says of one call, rounded into one dtype, with its condition numbers."""

    rounded: dict[str, Rounded]
    accepted: dict[str, Rounded] | None
    conditions: dict[str, Array]
    from_rules: bool


# --- what is measured ------------------------------------------------------------------------------


def chosen(losses: Sequence[str], folder: Path) -> tuple[list[Subject], list[Skipped]]:
    """The losses named (all by default), each with its stored cases; and those left out, and why.

    What is left out becomes an UNTESTED cell of every platform: nothing is passed over in silence.
    """
    subjects: list[Subject] = []
    skipped: list[Skipped] = []
    for form in [_form(name) for name in losses] or list(forms().values()):
        for spec in form.specs:
            reason = _unmeasurable(spec)
            if reason:
                skipped.append(Skipped(spec.id, form.name, reason))
            else:
                subjects.append(_subject(form.name, spec, folder))
    return subjects, skipped


@dataclass(frozen=True)
class Skipped:
    """A loss that this run cannot measure."""

    id: str
    class_: str
    reason: str


def _unmeasurable(spec: Spec) -> str:
    if spec.uses:
        return "it combines other losses, which the oracle measures one by one"
    unknown = set(spec.ports) - set(networks.ports_of(spec))
    if unknown:
        return (
            f"the suite has no network for the port {', '.join(sorted(unknown))}, "
            f"{', '.join(str(spec.ports[n]) for n in sorted(unknown))}"
        )
    return ""


def _form(name: str) -> Form:
    from lossbridge.catalogue import catalogue

    if name in forms():
        return forms()[name]
    for known in (name, f"{name}@1"):
        if known in catalogue():
            return as_form(catalogue()[known])
    path, _, attribute = name.partition(":")
    if path.endswith(".py"):
        from lossbridge.cli.commands import load_definition

        return as_form(load_definition(Path(path), attribute))
    if path.endswith(".json"):
        return as_form(path)
    raise ArgumentError(
        f"there is no loss {name!r}{suggestion(name, [*forms(), *catalogue()])}; a loss of your own "
        "is a path to a .json file or file.py:name"
    )


def _subject(name: str, spec: Spec, folder: Path) -> Subject:
    from lossbridge.catalogue import catalogue

    path = cases.fixture_path(FIXTURES, spec.id)
    shipped = catalogue().get(spec.id)
    if not path.exists() or shipped is None or shipped.spec.hash != spec.hash:
        path = cases.fixture_path(folder, spec.id)
        cases.write_fixtures(spec, path)
    return Subject(
        spec, name, _exact(cases.parameters(spec)), networks.ports_of(spec), cases.read_fixtures(path)
    )


def _exact(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that every dtype of at least float32 holds, so that all run with the same ones."""
    return {n: float(np.float32(v)) if isinstance(v, float) else v for n, v in params.items()}


def _truths(subject: Subject, dtypes: Sequence[str]) -> dict[tuple[int, str], Truth]:
    """The truth of every call, for every dtype that holds its values."""
    written = subject.graph()
    found: dict[tuple[int, str], Truth] = {}
    stable: Graph | None = None
    for at, call in enumerate(subject.fixture.calls):
        wanted = [d for d in dtypes if call.group in cases.SERVES[d]]
        if not wanted:
            continue
        inputs = _oracle_inputs(subject, written, call)
        results = oracle(written, inputs, budget=40.0)
        rules = False
        if any(r.undecided.any() for r in results.values()):
            stable = stable or subject.graph(stable=True)
            again = oracle(stable, inputs, budget=40.0)
            merged = {n: filled(r, again[n]) for n, r in results.items()}
            rules = any(taken.any() for _, taken in merged.values())
            results = {n: r for n, (r, _) in merged.items()}
        for dtype in wanted:
            # Those of gradients cost more than all else, and few results need one: see _excuses.
            conditions = {"value": measure.condition_value(written, inputs, results, dtype)}
            flushed = measure.flushed_inputs(written, inputs, dtype)
            accepted = None
            if flushed is not None:
                accepted = {
                    n: round_to(r, dtype) for n, r in oracle(written, flushed, budget=40.0).items()
                }
            found[at, dtype] = Truth(
                {n: round_to(r, dtype) for n, r in results.items()}, accepted, conditions, rules)
    return found


def _oracle_inputs(subject: Subject, graph: Graph, call: cases.Call) -> dict[str, Any]:
    given = cases.with_parameters(subject.spec, call.inputs, dict(subject.params))
    for port in subject.ports.values():
        given.update(port.constants)
    return {name: given[name] for name, _ in graph.inputs()}


def _cached_truths(job: tuple[Subject, tuple[str, ...], str]) -> dict[tuple[int, str], Truth]:
    subject, dtypes, folder = job
    key = hashlib.sha256(
        f"{subject.spec.hash} {subject.fixture.sha256} {dtypes} {sorted(subject.params.items())} "
        f"{_own_code()}".encode()
    ).hexdigest()
    path = Path(folder) / f"{key}.pickle"
    if path.exists():
        known: dict[tuple[int, str], Truth] = pickle.loads(path.read_bytes())
        return known
    found = _truths(subject, dtypes)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(pickle.dumps(found))
    os.replace(temporary, path)
    return found


Key: TypeAlias = tuple[str, int, str, str]  # loss, call, dtype, the input of the gradient


def _excuses(
    workers: Mapping[str, Worker], modes: Mapping[str, Sequence[str]],
    subjects: Sequence[Subject], dtypes: Sequence[str],
    truths: Mapping[str, Mapping[tuple[int, str], Truth]], pool: ProcessPoolExecutor,
) -> None:
    """Find the condition numbers of the gradients that are beyond their bound without one."""
    jobs: dict[Key, tuple[Subject, int, str, str]] = {}
    for subject in subjects:
        for (at, dtype), truth in truths[subject.key].items():
            if dtype in HALVES or dtype not in dtypes:
                continue
            for platform, worker in workers.items():
                for mode in modes[platform]:
                    answer = worker.answers.get(f"s {subject.key} {mode} {dtype} {at}")
                    if answer is None or "error" in answer:
                        continue
                    for name in subject.wrt:
                        key = (subject.key, at, dtype, name)
                        if key not in jobs and _beyond(subject, at, name, answer, truth):
                            jobs[key] = (subject, at, dtype, name)
    for key, found in zip(jobs, pool.map(_gradient_condition, jobs.values()), strict=True):
        loss, at, dtype, name = key
        truths[loss][at, dtype].conditions[name] = found


def _beyond(subject: Subject, at: int, name: str, answer: Mapping[str, Any],
            truth: Truth) -> bool:
    """Whether a gradient is beyond its bound when nothing is excused."""
    tally = _Tally()
    _judge(subject, subject.fixture.calls[at], "gradient", answer, truth, tally, (name,))
    return tally.worst > BOUNDS["gradient"]


def _gradient_condition(job: tuple[Subject, int, str, str]) -> Array:
    subject, at, dtype, name = job
    written = subject.graph()
    inputs = _oracle_inputs(subject, written, subject.fixture.calls[at])
    return measure.condition_gradient(written, inputs, name, dtype)


def _own_code() -> str:
    """A digest of the oracle and the core, so that no stale truth outlives a change of either."""
    import lossbridge

    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(lossbridge.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


# --- workers ---------------------------------------------------------------------------------------


@dataclass
class Worker:
    """A platform's process and what it has sent back; restarted behind a task that killed it."""

    platform: str
    tasks: list[dict[str, Any]]
    folder: Path
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, kill: Callable[[Worker, subprocess.Popen[bytes]], None] | None = None) -> Worker:
        """Run all tasks, whatever happens to the process."""
        began = time.monotonic()
        left = list(self.tasks)
        attempt = 0
        while left:
            attempt += 1
            tasks = self.folder / f"{self.platform}-{attempt}.tasks"
            results = self.folder / f"{self.platform}-{attempt}.results"
            tasks.write_bytes(pickle.dumps(left))
            results.touch()
            log = self.folder / f"{self.platform}-{attempt}.log"
            with open(log, "wb") as stderr:
                process = subprocess.Popen(
                    [sys.executable, "-m", "lossbridge_conformance.worker", self.platform,
                     str(tasks), str(results)],
                    env=environment(), stdout=subprocess.DEVNULL, stderr=stderr,
                )
                if kill is not None:
                    kill(self, process)
                self._watch(process, results)
            started = self._read(results)
            done = [t for t in left if t["id"] in self.answers]
            left = [t for t in left if t["id"] not in self.answers]
            if left and started is None and not done:
                tail = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
                for task in left:
                    self._crash(task["id"], "the worker did not start: " + " | ".join(tail))
                left = []
            elif left and started is not None and started not in self.answers:
                # The one it was at when it died; the rest goes to another process.
                self._crash(started, f"the worker died (exit status {process.returncode})")
                left = [t for t in left if t["id"] != started]
            elif left and not done:
                for task in left:
                    self._crash(task["id"], "the worker stopped without a result")
                left = []
        self.seconds = time.monotonic() - began
        return self

    def _watch(self, process: subprocess.Popen[bytes], results: Path) -> None:
        """Wait for the end; a process that writes nothing for too long is stopped."""
        size, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            now = results.stat().st_size
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > TASK_SECONDS:
                process.kill()
                process.wait()

    def _read(self, results: Path) -> str | None:
        started: str | None = None
        for line in results.read_bytes().splitlines():
            try:
                record = pickle.loads(b85decode(line))  # written by our own worker
            except Exception:  # a line cut short by the process's death
                continue
            if "versions" in record:
                self.versions = record["versions"]
            elif "started" in record:
                started = record["started"]
            else:
                self.answers[record["id"]] = record
        return started

    def _crash(self, task: str, detail: str) -> None:
        self.answers[task] = {"id": task, "error": detail, "kind": "crash", "where": ""}
        self.lost.append(task)


def _tasks(platform: str, modes: Sequence[str], subjects: Sequence[Subject],
           dtypes: Sequence[str], quick: bool) -> Iterator[dict[str, Any]]:
    """Stability and contract tasks of one platform, ordered by subject."""
    for subject in subjects:
        weights = set(subject.spec.weights)
        base = {
            "kind": "run", "spec": subject.spec, "params": dict(subject.params),
            "ports": dict(subject.ports), "normalizer": None, "reduction": "none",
        }
        for mode in modes:
            if mode == "compiled" and subject.spec.id not in COMPILED:
                continue
            if mode == "compiled" and (quick or platform != "torch"):
                continue
            for at, call in enumerate(subject.fixture.calls):
                if quick and call.stratum == "full":
                    continue
                for dtype in _dtypes_of(call, dtypes):
                    if mode == "compiled" and (dtype != "float32" or "large" in call.flags[0]):
                        continue
                    yield {
                        **base, **_split(call.inputs, weights), "call": {}, "dtype": dtype,
                        "mode": mode, "wrt": subject.wrt,
                        "subject": (subject.key, "none", None),
                        "id": f"s {subject.key} {mode} {dtype} {at}",
                    }
        yield from _contract_tasks(subject, base, modes[0])


def _dtypes_of(call: cases.Call, dtypes: Sequence[str]) -> list[str]:
    """The dtypes a call is run in: a half-precision one in float32 too, to be rounded from."""
    wanted = [d for d in dtypes if call.group in cases.SERVES[d]]
    return [*wanted, *(["float32"] if any(d in HALVES for d in wanted) else [])]


def _split(inputs: Mapping[str, Array], weights: set[str]) -> dict[str, Any]:
    return {
        "inputs": {n: x for n, x in inputs.items() if n not in weights},
        "weights": {n: x for n, x in inputs.items() if n in weights},
    }


# --- stability -------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """The worst of one cell so far."""

    judged: list[float] = field(default_factory=list)
    status: str = "PASS"
    worst: float = -1.0
    worst_case: str | None = None
    condition: float | None = None
    detail: str = ""
    example: dict[str, Any] | None = None

    def fail(self, status: str, detail: str, case: str | None = None) -> None:
        if self.status in ("PASS", "FAIL"):
            self.status = status
        self.detail = self.detail or detail
        self.worst_case = self.worst_case or case


def _stability(
    platform: str, modes: Sequence[str], subjects: Sequence[Subject], dtypes: Sequence[str],
    answers: Mapping[str, Mapping[str, Any]],
    truths: Mapping[str, Mapping[tuple[int, str], Truth]], examples: dict[str, Any],
) -> Iterator[Cell]:
    for subject in subjects:
        for mode in modes:
            for dtype in dtypes:
                tallies: dict[tuple[str, str], _Tally] = {}
                for at, call in enumerate(subject.fixture.calls):
                    if call.group not in cases.SERVES[dtype]:
                        continue
                    answer = answers.get(f"s {subject.key} {mode} {dtype} {at}")
                    if answer is None:
                        continue
                    truth = truths[subject.key][at, dtype]
                    for quantity in ("value", "gradient"):
                        tally = tallies.setdefault((quantity, call.stratum), _Tally())
                        if "error" in answer:
                            tally.fail(_error_status(answer), answer["error"], call.ids[0])
                            continue
                        if dtype in HALVES:
                            single = answers.get(f"s {subject.key} {mode} float32 {at}")
                            _half(subject, call, quantity, dtype, answer, single, tally)
                        else:
                            _judge(subject, call, quantity, answer, truth, tally)
                for (quantity, stratum), tally in tallies.items():
                    if tally.worst_case is not None:
                        # One case may be the worst of several cells, each with its own results.
                        tally.worst_case += f" {mode} {dtype} {quantity}"
                        examples[tally.worst_case] = tally.example or {"note": tally.detail}
                    yield _cell(subject, platform, mode, dtype, quantity, stratum, tally)


def _error_status(answer: Mapping[str, Any]) -> str:
    kinds = {"crash": "CRASH", "UnsupportedError": "UNSUPPORTED"}
    return kinds.get(str(answer["kind"]), "RAISES")


def _untested(
    platform: str, modes: Sequence[str], subjects: Sequence[Subject], skipped: Sequence[Skipped],
    dtypes: Sequence[str], answers: Mapping[str, Mapping[str, Any]],
) -> Iterator[Cell]:
    """A cell for everything that was left out, with its reason."""
    rows = [(s.id, s.class_, mode, "", s.reason) for s in skipped for mode in modes]
    for subject in subjects:
        for mode in modes:
            for dtype in dtypes:
                ran = any(
                    f"s {subject.key} {mode} {dtype} {at}" in answers
                    for at in range(len(subject.fixture.calls))
                )
                if not ran:
                    rows.append((subject.spec.id, subject.class_, mode, dtype, SAMPLED))
    for loss, class_, mode, dtype, reason in rows:
        yield Cell(
            id=cell_id("stability", loss, platform, mode, dtype, "", ""), track="stability",
            loss=loss, class_=class_, platform=platform, mode=mode, dtype=dtype, quantity="",
            stratum="", status="UNTESTED", detail=reason,
        )


def _judge(subject: Subject, call: cases.Call, quantity: str, answer: Mapping[str, Any],
           truth: Truth, tally: _Tally, wrt: Sequence[str] = ()) -> None:
    names = ["value"] if quantity == "value" else [f"gradient_{n}" for n in wrt or subject.wrt]
    for name in names:
        got = np.asarray(
            answer["value"] if quantity == "value" else
            answer["gradients"][name.removeprefix("gradient_")], np.float64)
        rounded = truth.rounded[name]
        got = _unlisted(got, rounded.value.shape)
        if got.shape != rounded.value.shape:
            tally.fail("FAIL", f"{name} has shape {got.shape}, not {rounded.value.shape}",
                       call.ids[0])
            continue
        accepted = [] if truth.accepted is None else [truth.accepted[name]]
        got = _where_defined(subject, call, truth, got, rounded.value)
        # What lies below half the least subnormal is 0, and no definition states that zero's sign.
        got = np.where((got == 0.0) & (rounded.value == 0.0), rounded.value, got)
        if quantity == "value":
            judged = measure.judge_value(
                got, rounded, condition=truth.conditions["value"], accepted=accepted)
        else:
            of = name.removeprefix("gradient_")
            kind = _kind(subject.spec, of)
            value_axes = _value_axes(subject)
            components = _component_dims(kind.axes, value_axes, got.ndim)
            judged = measure.judge_gradient(
                got, rounded, components=components, condition=truth.conditions.get(of, 1.0),
                accepted=accepted)
        score = np.atleast_1d(np.where(np.isnan(judged.judged), -1.0, judged.judged))
        tally.judged.extend(float(v) for v in score.ravel() if v >= 0.0)
        position = np.unravel_index(int(np.argmax(score)), score.shape) if score.size else ()
        if score.size and float(score[position]) > tally.worst:
            tally.worst = float(score[position])
            at = position[0] if call.sample_axis is not None and position else 0
            at = min(int(at), len(call.ids) - 1)
            tally.worst_case = call.ids[at]
            tally.condition = float(np.atleast_1d(judged.condition)[position])
            problem = str(np.atleast_1d(judged.problem)[position])
            tally.example = _example(subject, call, at, name, got, rounded, problem)
            if tally.worst > BOUNDS[quantity]:
                spurious = bool(np.isnan(got).any() and not np.isnan(rounded.value).any())
                tally.status = "NAN" if spurious and problem == "class" else "FAIL"
                tally.detail = problem or f"{name} is {tally.worst:.1f} bits off"


def _where_defined(
    subject: Subject, call: cases.Call, truth: Truth, got: Array, expected: Array
) -> Array:
    """The result, with what no formula defines taken as right.

    A kind such as ``real`` is a finite number. Where an input is infinite all the same and the
    definition itself gives NaN (inf - inf), NaN and any limit are equally right. A NaN input is
    defined: it must show, and a definition that is finite at infinity must be met.
    """
    if call.sample_axis is None:
        infinite = np.asarray(any(np.isinf(x).any() for x in call.inputs.values()))
        undefined = infinite & (
            np.isnan(truth.rounded["value"].value).any() | np.isnan(expected).any())
        return np.where(undefined, expected, got)
    kinds = {**subject.spec.inputs, **{n: w.kind for n, w in subject.spec.weights.items()}}
    count = len(call.ids)
    infinite = np.zeros(count, bool)
    poisoned = np.zeros(count, bool)
    for name, x in call.inputs.items():
        if call.sample_axis not in kinds[name].axes or x.dtype.kind != "f":
            continue
        at = kinds[name].axes.index(call.sample_axis)
        rows = np.moveaxis(x, at, 0).reshape(count, -1)
        infinite |= np.isinf(rows).any(axis=1)
        poisoned |= np.isnan(rows).any(axis=1)
    value = truth.rounded["value"].value
    place = _value_axes(subject).index(call.sample_axis)
    nowhere = np.isnan(np.moveaxis(value, place, 0).reshape(count, -1)).any(axis=1)
    # Every array of a call has the samples along one dimension: that of their number.
    along = next((d for d, n in enumerate(got.shape) if n == count), None)
    if along is None:
        return got
    nowhere |= np.isnan(np.moveaxis(expected, along, 0).reshape(count, -1)).any(axis=1)
    undefined = infinite & ~poisoned & nowhere
    shape = [1] * got.ndim
    shape[along] = count
    return np.where(undefined.reshape(shape), expected, got)


def _unlisted(got: Array, shape: tuple[int, ...]) -> Array:
    """A parameter tree of one leaf comes back as a list of one."""
    return got[0] if got.shape == (1, *shape) and shape != got.shape else got


def _half(subject: Subject, call: cases.Call, quantity: str, dtype: str,
          answer: Mapping[str, Any], single: Mapping[str, Any] | None, tally: _Tally) -> None:
    """A half-precision result is our own float32 result, rounded once."""
    if single is None or "error" in single:
        tally.fail("RAISES", "the float32 run it is rounded from failed", call.ids[0])
        return
    pairs = [("value", answer["value"], single["value"])] if quantity == "value" else [
        (n, answer["gradients"][n], single["gradients"][n]) for n in subject.wrt]
    least = FORMATS[dtype].min_normal
    for name, got, wide in pairs:
        got, wide = np.asarray(got, np.float64), np.asarray(wide, np.float64)
        wanted = round_floats(wide, dtype)
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        same |= (got == 0.0) & (np.abs(wanted) < least)
        tally.judged.extend([0.0] * int(same.sum()))
        tally.worst = max(tally.worst, 0.0)
        if not same.all():
            where = tuple(int(v) for v in np.argwhere(~same)[0])
            tally.worst = FORMATS[dtype].width
            tally.fail("FAIL", f"{name} {list(where)} is {got[where].hex()}, and float32's "
                               f"{wide[where].hex()} rounds to {wanted[where].hex()}", call.ids[0])


def _status(word: str) -> Any:
    """One of the words of the results format."""
    return word


def _kind(spec: Spec, name: str) -> Kind:
    return spec.inputs[name] if name in spec.inputs else spec.weights[name].kind


def _value_axes(subject: Subject) -> tuple[str, ...]:
    graph = spec_graph(subject.spec)
    return graph.nodes[graph.output("value")].type.axes


def _component_dims(order: Sequence[str], sample: Sequence[str], rank: int) -> tuple[int, ...]:
    width = rank - len(order) + 1
    found: list[int] = []
    position = 0
    for axis in order:
        step = width if axis.startswith("*") else 1
        if axis not in sample:
            found.extend(range(position, position + step))
        position += step
    return tuple(found)


def _example(subject: Subject, call: cases.Call, at: int, name: str, got: Array, truth: Rounded,
             problem: str) -> dict[str, Any]:
    kinds = {**subject.spec.inputs, **{n: w.kind for n, w in subject.spec.weights.items()}}
    inputs = call.select(at, kinds)

    def few(x: Any) -> list[Any]:
        flat = np.asarray(x).ravel()[:24]
        return [float(v).hex() if flat.dtype.kind == "f" else int(v) for v in flat]

    own = name.removeprefix("gradient_")
    axes = _value_axes(subject) if name == "value" else _kind(subject.spec, own).axes
    index: tuple[Any, ...] = (...,)
    if call.sample_axis in axes:
        index = (*[slice(None)] * axes.index(str(call.sample_axis)), at)
    return {
        "flags": list(call.flags[at]),
        "inputs": {n: few(x) for n, x in inputs.items()},
        "quantity": name,
        "got": few(got[index]),
        "expected": few(truth.value[index]),
        "note": problem,
    }


def _cell(subject: Subject, platform: str, mode: str, dtype: str, quantity: str, stratum: str,
          tally: _Tally) -> Cell:
    judged = sorted(tally.judged)
    return Cell(
        id=cell_id("stability", subject.spec.id, platform, mode, dtype, quantity, stratum),
        track="stability", loss=subject.spec.id, class_=subject.class_, platform=platform,
        mode=mode, dtype=dtype, quantity=quantity, stratum=stratum, status=_status(tally.status),
        bits=tally.worst if tally.worst >= 0.0 else None,
        median_bits=judged[len(judged) // 2] if judged else None,
        condition=tally.condition if tally.condition is not None and math.isfinite(
            tally.condition) else None,
        bound=0.0 if dtype in HALVES else BOUNDS[quantity], cases=len(judged),
        worst_case=tally.worst_case, detail=tally.detail[:400],
    )


# --- agreement -------------------------------------------------------------------------------------


def _agreement(
    workers: Mapping[str, Worker], modes: Mapping[str, Sequence[str]],
    subjects: Sequence[Subject], dtypes: Sequence[str],
    truths: Mapping[str, Mapping[tuple[int, str], Truth]],
) -> Iterator[Cell]:
    """Platforms pairwise on the practical stratum: twice the bound of each against the truth."""
    names = sorted(workers)
    for subject in subjects:
        for dtype in (d for d in dtypes if d not in HALVES):
            for i, first in enumerate(names):
                for second in names[i + 1 :]:
                    yield from _pair(subject, dtype, first, second, workers, modes, truths)


def _pair(
    subject: Subject, dtype: str, first: str, second: str, workers: Mapping[str, Worker],
    modes: Mapping[str, Sequence[str]], truths: Mapping[str, Mapping[tuple[int, str], Truth]],
) -> Iterator[Cell]:
    for quantity in ("value", "gradient"):
        tally = _Tally()
        for at, call in enumerate(subject.fixture.calls):
            if call.stratum != "practical" or call.group not in cases.SERVES[dtype]:
                continue
            pair = [
                workers[p].answers.get(f"s {subject.key} {modes[p][0]} {dtype} {at}")
                for p in (first, second)
            ]
            if any(a is None or "error" in a for a in pair):
                tally.fail("UNTESTED", "one of the two gave no result", call.ids[0])
                continue
            truth = truths[subject.key][at, dtype]
            one, two = pair
            assert one is not None and two is not None
            names = ["value"] if quantity == "value" else list(subject.wrt)
            for name in names:
                a, b = (
                    np.asarray(x["value"] if quantity == "value" else x["gradients"][name])
                    for x in (one, two)
                )
                k = np.atleast_1d(truth.conditions.get(name, 1.0))
                k = np.where(np.isfinite(k), np.maximum(k, 1.0), 1.0)
                if quantity == "gradient":
                    kind = _kind(subject.spec, name)
                    dims = _component_dims(kind.axes, _value_axes(subject), a.ndim)
                    size = np.max(np.abs(a), axis=dims, keepdims=True, initial=0.0)
                    apart = np.max(np.abs(a - b) / np.maximum(
                        size * FORMATS[dtype].eps, FORMATS[dtype].min_normal), axis=dims,
                        initial=0.0)
                else:
                    apart = measure.ulp_distance(a, b, dtype).astype(np.float64)
                bits = np.log2(1.0 + np.atleast_1d(apart)) - np.log2(
                    np.broadcast_to(k, np.atleast_1d(apart).shape) if k.shape == np.atleast_1d(
                        apart).shape else float(k.max()))
                worst = float(np.nanmax(bits, initial=0.0))
                tally.judged.append(max(worst, 0.0))
                if worst > tally.worst:
                    tally.worst, tally.worst_case = worst, call.ids[0]
        bound = 2.0 * BOUNDS[quantity]
        if tally.worst > bound:
            tally.fail("FAIL", f"{tally.worst:.1f} bits apart")
        if tally.judged or tally.status != "PASS":
            yield Cell(
                id=cell_id("agreement", subject.spec.id, f"{first} / {second}", "", dtype,
                           quantity, "practical"),
                track="agreement", loss=subject.spec.id, class_=subject.class_,
                platform=f"{first} / {second}", mode="", dtype=dtype, quantity=quantity,
                stratum="practical", status=_status(tally.status),
                bits=tally.worst if tally.worst >= 0 else None, median_bits=None, condition=None,
                bound=bound, cases=len(tally.judged), worst_case=tally.worst_case,
                detail=tally.detail,
            )


# --- contract --------------------------------------------------------------------------------------

CHECKS = ("none", "sum", "elements", "batch", "external", "weighted", "masked", "masked NaN",
          "empty", "wrong shape")


def _contract_call(subject: Subject) -> cases.Call | None:
    for call in subject.fixture.calls:
        if call.group == "single" and call.stratum == "practical" and call.sample_axis is not None:
            return call
    return None


def _contract_tasks(subject: Subject, base: Mapping[str, Any], mode: str) -> Iterator[dict[
    str, Any
]]:
    call = _contract_call(subject)
    tree = any(k.name == "tree" for k in subject.spec.inputs.values())
    if call is None or tree:
        return
    weights = set(subject.spec.weights)
    index = _index_shape(subject, call)
    rng = np.random.default_rng(7)
    sample_weight = np.round(rng.uniform(0.25, 2.0, index), 3)
    mask = rng.random(index) < 0.7
    mask.flat[0] = True
    parts = _split(call.inputs, weights)
    settings: dict[str, tuple[str, str | None, dict[str, Any]]] = {
        "none": ("none", None, {}),
        "sum": ("sum", None, {}),
        "elements": ("mean", "elements", {}),
        "batch": ("mean", "batch", {}),
        "external": ("mean", "external", {"normalizer_count": np.asarray(7.0)}),
        "weighted": ("mean", "elements", {"sample_weight": sample_weight}),
        "masked": ("mean", "elements", {"mask": mask}),
    }
    for check, (reduction, normalizer, extra) in settings.items():
        yield {**base, **parts, "reduction": reduction, "normalizer": normalizer, "call": extra,
               "dtype": "float64", "mode": mode, "wrt": subject.wrt,
               "subject": (subject.key, reduction, normalizer),
               "id": f"c {subject.key} {check}"}
    first = next(iter(subject.spec.inputs))
    poisoned = {**parts, "inputs": {n: np.array(x) for n, x in parts["inputs"].items()}}
    masked = np.ones(index, dtype=bool)
    axis = subject.spec.inputs[first].axes.index(str(call.sample_axis))
    at: list[Any] = [slice(None)] * poisoned["inputs"][first].ndim
    at[axis] = 0
    poisoned["inputs"][first][tuple(at)] = math.nan
    place = _value_axes(subject).index(str(call.sample_axis))
    cut: list[Any] = [slice(None)] * masked.ndim
    cut[place] = 0
    masked[tuple(cut)] = False
    common = {**base, "reduction": "mean", "normalizer": "elements", "dtype": "float32",
              "mode": mode, "subject": (subject.key, "mean", "elements")}
    yield {**common, **poisoned, "call": {"mask": masked}, "wrt": (first,),
           "id": f"c {subject.key} masked NaN"}
    empty = {
        n: np.take(x, [], axis=subject.spec.inputs[n].axes.index(str(call.sample_axis)))
        if n in subject.spec.inputs and call.sample_axis in subject.spec.inputs[n].axes else x
        for n, x in parts["inputs"].items()
    }
    yield {**common, **parts, "inputs": empty, "call": {}, "wrt": (),
           "id": f"c {subject.key} empty"}
    if len(subject.spec.inputs) > 1:
        wrong = {n: x[..., None] if k == 0 else x for k, (n, x) in enumerate(
            parts["inputs"].items())}
        yield {**common, **parts, "inputs": wrong, "call": {}, "wrt": (),
               "id": f"c {subject.key} wrong shape"}


def _index_shape(subject: Subject, call: cases.Call) -> tuple[int, ...]:
    from lossbridge.frontdoor import axis_lengths, index_shape

    kinds = {**subject.spec.inputs, **{n: w.kind for n, w in subject.spec.weights.items()}}
    lengths = axis_lengths(kinds, {n: x.shape for n, x in call.inputs.items()}, subject.spec.id)
    return tuple(int(n or 0) for n in index_shape(subject.spec, lengths))


def _contract(platform: str, mode: str, subjects: Sequence[Subject],
              answers: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    for subject in subjects:
        call = _contract_call(subject)
        if call is None or f"c {subject.key} none" not in answers:
            continue
        index = _index_shape(subject, call)
        rng = np.random.default_rng(7)
        weight = np.round(rng.uniform(0.25, 2.0, index), 3)
        mask = rng.random(index) < 0.7
        mask.flat[0] = True
        plain = answers[f"c {subject.key} none"]
        for check in CHECKS:
            answer = answers.get(f"c {subject.key} {check}")
            if answer is None:
                continue
            status, detail = _check(check, plain, answer, weight, mask, index)
            yield Cell(
                id=cell_id("contract", subject.spec.id, platform, mode, "float64", check, ""),
                track="contract", loss=subject.spec.id, class_=subject.class_, platform=platform,
                mode=mode, dtype="float64", quantity=check, stratum="", status=_status(status), bits=None,
                median_bits=None, condition=None, bound=None, cases=1, worst_case=None,
                detail=detail,
            )


def _check(check: str, plain: Mapping[str, Any], answer: Mapping[str, Any], weight: Array,
           mask: Array, index: tuple[int, ...]) -> tuple[str, str]:
    if check == "wrong shape":
        if answer.get("kind") in ("ShapeError", "ArgumentError", "DTypeError"):
            return "PASS", ""
        return "FAIL", f"a wrong shape gave {answer.get('error', 'a result')}"
    if "error" in answer:
        return ("CRASH" if answer["kind"] == "crash" else "RAISES"), str(answer["error"])[:300]
    if "error" in plain:
        return "UNTESTED", "the unreduced run failed"
    value = np.asarray(answer["value"], np.float64)
    v = np.asarray(plain["value"], np.float64)
    if check == "none":
        good = value.shape == index
        return ("PASS", "") if good else ("FAIL", f"shape {value.shape}, not {index}")
    if check == "empty":
        good = value.shape == () and bool(np.isnan(value))
        return ("PASS", "") if good else ("FAIL", f"an empty mean gave {value}")
    if check == "masked NaN":
        gradient = np.asarray(next(iter(answer["gradients"].values())))
        good = bool(np.isfinite(value).all() and not np.isnan(gradient).any())
        return ("PASS", "") if good else ("FAIL", f"a masked NaN shows: value {value}")
    wanted = {
        "sum": v.sum(),
        "elements": v.mean() if v.size else math.nan,
        "batch": v.sum() / v.shape[0] if v.ndim else v.sum(),
        "external": v.sum() / 7.0,
        "weighted": (v * weight).sum() / v.size,
        "masked": v[mask].sum() / mask.sum(),
    }[check]
    good = value.shape == () and bool(np.isclose(value, wanted, rtol=1e-12, atol=0.0))
    return ("PASS", "") if good else ("FAIL", f"{float(value)!r}, but by hand {float(wanted)!r}")


# --- convergence -----------------------------------------------------------------------------------


def _training(subjects: Sequence[Subject], quick: bool) -> tuple[list[dict[str, Any]], list[Any]]:
    classes = {s.class_: s for s in subjects}
    named = {"CrossEntropyLoss": "cross_entropy@1", "MSELoss": "mse@1", "HuberLoss": "huber@1"}
    tasks = [
        t for t in converge.tasks("aligned")
        if t.loss in classes and not (quick and t.optimizer != "sgd")
    ]
    by_id = {s.spec.id: s for s in subjects}
    return [
        {"kind": "train", "id": f"t {t.id}", "task": t, "subject": ("train", t.id, None),
         "spec": by_id[named[t.loss]].spec, "params": {}}
        for t in tasks if named.get(t.loss) in by_id
    ], tasks


# --- the run ---------------------------------------------------------------------------------------


def run(
    *,
    platforms: Sequence[str] = (),
    losses: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    out: Path = Path("conformance-report"),
    quick: bool = False,
    as_json: bool = False,
) -> int:
    """Measure, write the report into ``out``, print its first lines; returns the exit code."""
    measured = measure_all(platforms=platforms, losses=losses, dtypes=dtypes, out=out, quick=quick)
    if as_json:
        print(report.summary_json(measured))
    else:
        print(report.first_lines(measured))
        print(f"report: {out / 'report.html'}")
    return int(measured.summary.exit_code)


def measure_all(
    *, platforms: Sequence[str], losses: Sequence[str], dtypes: Sequence[str], out: Path,
    quick: bool,
) -> report.Report:
    """The run itself: the merged, judged results, written to ``out``."""
    unknown = [d for d in dtypes if d not in DTYPES]
    if unknown:
        raise ArgumentError(f"unknown dtype {', '.join(unknown)}; there are {', '.join(DTYPES)}")
    probes = registered()
    wanted = list(platforms) or sorted(probes)
    available = {name: _modes(name) for name in wanted if name in probes}
    present = {name: modes for name, modes in available.items() if modes is not None}
    missing = [name for name in wanted if name not in present]
    if not present:
        raise BackendUnavailable(
            f"nothing was measured: {', '.join(wanted) or 'no platform'} is not installed here; "
            f"registered are {', '.join(sorted(probes)) or 'none'}"
        )
    dtypes = tuple(dtypes) or DTYPES
    try:
        out.mkdir(parents=True, exist_ok=True)
        cache = out / ".truth"
        cache.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{str(out)!r} cannot hold the report ({error.strerror}); give --out another folder"
        ) from None
    subjects, skipped = chosen(losses, cache)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        training, expected = _training(subjects, quick)
        workers = {}
        for name, modes in present.items():
            tasks = list(_tasks(name, modes, subjects, dtypes, quick))
            if name in TRAINERS:
                tasks += training
            workers[name] = Worker(name, tasks, folder)
        with ProcessPoolExecutor(max_workers=max(os.cpu_count() or 1, 1)) as pool:
            jobs = [(s, tuple(dtypes), str(cache)) for s in subjects]
            truths = dict(zip((s.key for s in subjects), pool.map(_cached_truths, jobs),
                              strict=True))
            _run_workers(workers.values())
            _excuses(workers, present, subjects, dtypes, truths, pool)
    files = _files(workers, present, subjects, skipped, dtypes, truths)
    for results in files:
        write(results, out / f"results-{results.platform}.json")
    merged = merge(files)
    extra: list[Any] = list(_agreement(workers, present, subjects, dtypes, truths))
    curves = [a["curve"] for w in workers.values() for a in w.answers.values() if "curve" in a]
    if expected:
        ids = {s.class_: s.spec.id for s in reversed(subjects)}
        extra += converge.verdict(
            curves, platforms=[n for n in workers if n in TRAINERS],
            expected=expected, spec_ids=ids)
    merged = with_cells(merged, extra)
    prepared = report.prepare(merged, deviations.load(), required=(*wanted,) if missing else ())
    report.write_reports(prepared, out)
    return prepared


def _modes(platform: str) -> Sequence[str] | None:
    """The modes of a platform, or None where its framework is not installed: asked in a process of
    its own, so that this one never loads a framework."""
    code = (
        "import sys\nfrom lossbridge_conformance.probe import registered\n"
        "try:\n    probe = registered()[sys.argv[1]].load()\n"
        "except ImportError:\n    sys.exit(3)\nprint(*probe.modes)\n"
    )
    found = subprocess.run([sys.executable, "-c", code, platform], env=environment(),
                           capture_output=True, text=True, check=False)
    if found.returncode == 3:
        return None
    if found.returncode != 0:
        raise LossbridgeError(f"the platform {platform} cannot be loaded: "
                              f"{found.stderr.strip().splitlines()[-1:]}")
    return tuple(found.stdout.split())


def _run_workers(workers: Iterable[Worker]) -> None:
    """As many at a time as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=max(os.cpu_count() or 1, 1)) as pool:
        list(pool.map(Worker.run, workers))


def _files(
    workers: Mapping[str, Worker], modes: Mapping[str, Sequence[str]],
    subjects: Sequence[Subject], skipped: Sequence[Skipped], dtypes: Sequence[str],
    truths: Mapping[str, Mapping[tuple[int, str], Truth]],
) -> list[Results]:
    """One results file per platform."""
    fixtures = hashlib.sha256(
        "".join(s.fixture.sha256 for s in subjects).encode()).hexdigest()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    files = []
    for name, worker in workers.items():
        examples: dict[str, Any] = {}
        cells = list(_stability(name, modes[name], subjects, dtypes, worker.answers, truths,
                                examples))
        cells += _contract(name, modes[name][0], subjects, worker.answers)
        cells += _untested(name, modes[name], subjects, skipped, dtypes, worker.answers)
        curves = [_as_curve(a["curve"]) for a in worker.answers.values() if "curve" in a]
        files.append(Results(
            created=now, platform=name, versions=worker.versions,
            machine={"processor": machine_.machine(), "system": machine_.system(),
                     "python": machine_.python_version(), "cores": str(os.cpu_count())},
            fixtures=fixtures, seconds=round(worker.seconds, 1), cells=tuple(cells),
            cases=examples, curves=tuple(curves),
            notes=tuple(f"lost: {task}" for task in worker.lost),
        ))
    return files


def _as_curve(curve: Mapping[str, Any]) -> Curve:
    import msgspec

    found: Curve = msgspec.convert(curve, Curve)
    return found


__all__ = ["ExitCode", "Subject", "Worker", "as_arrays", "chosen", "measure_all", "run", "write"]
