"""What a run measures: losses with their settings and stored cases, and the truth about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossbridge import files
from lossbridge.errors import ArgumentError
from lossbridge.frontdoor import Form, as_form, axis_lengths, forms, index_shape
from lossbridge.ir import Graph
from lossbridge.kinds import Kind
from lossbridge.passes.differentiate import differentiate
from lossbridge.passes.stabilise import stabilise
from lossbridge.plan import Numbers, Options, inline_ports, plan, spec_graph
from lossbridge.spec import Spec
from lossbridge.synonyms import class_hint
from lossbridge_conformance import cases, measure, networks, wire
from lossbridge_conformance.formats import FORMATS
from lossbridge_conformance.oracle import (
    OracleResult,
    Rounded,
    evaluate,
    filled,
    oracle,
    round_to,
)
from lossbridge_conformance.probe import PortSpec
from lossbridge_conformance.results import OURS

Array: TypeAlias = NDArray[Any]
DTYPES = tuple(FORMATS)
HALVES = ("float16", "bfloat16")
FIXTURES = Path(__file__).parent / "fixtures"
BUDGET = 40.0  # seconds that the oracle may spend on one call


@dataclass(frozen=True)
class Builtin:
    """A built-in with its arguments: where it is at home, and how it is called.

    ``order`` names the inputs of its witness in the order in which it takes them; ``loss`` is the
    loss of ours on whose cases it is measured.
    """

    text: str
    name: str
    platform: str
    arguments: Mapping[str, Any] = field(compare=False)
    order: tuple[str, ...]
    loss: str


@dataclass(frozen=True)
class Subject:
    """One loss of a run: a specification, its settings, and its cases.

    ``setting`` is empty for the defaults; otherwise it says what was changed. A framework's own
    loss is a subject too: ``spec`` is then its exact meaning.
    """

    spec: Spec
    class_: str
    params: Mapping[str, Any]
    ports: Mapping[str, PortSpec]
    calls: tuple[cases.Call, ...]
    fixtures: str
    setting: str = ""
    builtin: Builtin | None = None

    @property
    def name(self) -> str:
        """What tells this subject from all others."""
        return self.loss if self.builtin is None else f"{self.builtin.text} on {self.loss}"

    @property
    def loss(self) -> str:
        """The loss of ours, as cells name it."""
        if self.builtin is not None:
            return self.builtin.loss
        return f"{self.spec.id} ({self.setting})" if self.setting else self.spec.id

    @property
    def who(self) -> str:
        """Whose it is, as cells name it: ours, or the built-in."""
        return OURS if self.builtin is None else self.builtin.text

    def against_truth(self, call: cases.Call, dtype: str) -> bool:
        """Whether the results of a call are held against the oracle.

        Ours in half precision are held against our own float32. Of the built-ins, the extremes of
        the range and the larger cases are left out.
        """
        if call.group not in cases.SERVES[dtype]:
            return False
        if self.builtin is None:
            return dtype not in HALVES
        return call.stratum != "full" and "large" not in call.flags[0]

    @property
    def numbers(self) -> Numbers:
        """The parameters that are numbers, as a plan takes them."""
        return tuple((n, v) for n, v in self.params.items() if not np.ndim(v))

    @property
    def wrt(self) -> tuple[str, ...]:
        """What a gradient is taken in: the real inputs, and the trainable weights."""
        return tuple(n for n, k in self.spec.inputs.items() if k.dtype == "real") + tuple(
            self.spec.weights
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the unreduced value."""
        graph = spec_graph(self.spec)
        return graph.nodes[graph.output("value")].type.axes

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kinds of all arrays that a case holds."""
        return {**self.spec.inputs, **{n: w.kind for n, w in self.spec.weights.items()}}

    @property
    def tree(self) -> bool:
        """Whether the loss is one of a parameter tree."""
        return any(kind.name == "tree" for kind in self.spec.inputs.values())

    @cached_property
    def mixes(self) -> bool:
        """Whether samples of a call do not stand alone: a built-in may look at a whole batch."""
        return self.builtin is not None and cases.sample_axis(spec_graph(self.spec)) is None

    @property
    def rounds_inside(self) -> bool:
        """Whether a network sees intermediate values, and so rounds them to its dtype."""
        return bool(self.ports)

    def written(self) -> Graph:
        """The unreduced loss as written, parameters bound and ports inlined.

        NaN outside the domains of its inputs, in value and gradients.
        """
        return self._inlined(plan(self.spec, self.numbers, Options("none", unread=True)).written)

    def _inlined(self, graph: Graph) -> Graph:
        ports = {name: networks.graph_of(port) for name, port in self.ports.items()}
        return networks.maps_as_inputs(inline_ports(graph, ports))

    def graph(self, stable: bool = False) -> Graph:
        """The loss as written (or after the rules) with its gradients."""
        graph = self.written()
        return differentiate(stabilise(graph) if stable else graph, "value", self.wrt)

    def conditioned(self) -> tuple[Graph, dict[str, tuple[str, ...]]]:
        """The loss with its gradients, for condition numbers: ports' results count as inputs.

        Beside it, the axes of the factors on them.
        """
        graph, factors = networks.scaled(plan(self.spec, self.numbers, Options("none")).written)
        return differentiate(self._inlined(graph), "value", (*self.wrt, *factors)), factors

    def given(
        self, graph: Graph, call: cases.Call, further: Mapping[str, Any] = MappingProxyType({})
    ) -> dict[str, Any]:
        """The inputs of that graph in one call."""
        # Parameters that are numbers are constants of the graph.
        given: dict[str, Any] = {"step": np.asarray(0.0), **call.inputs}
        given.update((n, np.asarray(v)) for n, v in self.params.items() if np.ndim(v))
        for port in self.ports.values():
            given.update(port.constants)
            given.update(networks.maps_of(port))
        given.update(further)
        return {name: given[name] for name, _ in graph.inputs()}

    def index(self, call: cases.Call) -> tuple[int, ...]:
        """The shape of the unreduced value in one call."""
        lengths = axis_lengths(
            self.kinds, {n: x.shape for n, x in call.inputs.items()}, self.spec.id
        )
        return tuple(int(n or 0) for n in index_shape(self.spec, lengths))

    def split(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """The arrays of a call as a task holds them: inputs, and weights."""
        own = self.spec.weights
        return {
            "inputs": {n: x for n, x in inputs.items() if n not in own},
            "weights": {n: x for n, x in inputs.items() if n in own},
        }

    def axes_of(self, quantity: str) -> tuple[str, ...]:
        """The axes of the value, or of the gradient in an input."""
        return self.axes if quantity == "value" else tuple(self.kinds[quantity].axes)


@dataclass(frozen=True)
class Skipped:
    """A loss that a run cannot measure."""

    id: str
    class_: str
    reason: str


@dataclass(frozen=True)
class Truth:
    """What the oracle says of one call, rounded into one dtype.

    ``conditions`` holds condition numbers, of the value at first; those of gradients, which cost
    more than all else, are added where a result needs one. ``accepted`` is the answer for inputs
    whose subnormals are flushed, ``from_rules`` whether an element rests on the stabilise rules.
    """

    rounded: dict[str, Rounded]
    accepted: dict[str, Rounded] | None
    conditions: dict[str, Array]
    from_rules: bool
    kinks: dict[str, Array] = field(default_factory=dict)  # by input: where the gradient jumps


Truths: TypeAlias = Mapping[str, Mapping[tuple[int, str], Truth]]  # by loss, then call and dtype


# --- which ---------------------------------------------------------------------------------------


def chosen(
    losses: Sequence[str], folder: Path, settings: bool = True
) -> tuple[list[Subject], list[Skipped]]:
    """The losses named (all by default), each with its cases; and those left out, and why.

    ``settings`` adds every loss with parameters a second time, with all of them changed.
    """
    subjects: list[Subject] = []
    skipped: list[Skipped] = []
    for form in [find(name) for name in losses] or list(forms().values()):
        for spec in form.specs:
            reason = _unmeasurable(spec)
            if reason:
                skipped.append(Skipped(spec.id, form.name, reason))
                continue
            subject = _subject(form.name, spec, folder)
            subjects.append(subject)
            if settings:
                subjects.extend(_changed(subject))
    return subjects, skipped


def _unmeasurable(spec: Spec) -> str:
    if spec.uses:
        return "it combines other losses, which the oracle measures one by one"
    unknown = sorted(set(spec.ports) - set(networks.ports_of(spec)))
    if unknown:
        return "the suite has no network for " + ", ".join(
            f"the port {name}, {spec.ports[name]}" for name in unknown
        )
    return ""


def find(name: str) -> Form:
    """A loss by class, id or path."""
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
        f"there is no loss {name!r}{class_hint(name, [*forms(), *catalogue()])}; a loss of your "
        "own is a path to a .json file or file.py:name"
    )


def _subject(name: str, spec: Spec, folder: Path) -> Subject:
    from lossbridge.catalogue import catalogue

    path = cases.fixture_path(FIXTURES, spec.id)
    shipped = catalogue().get(spec.id)
    # A user's loss may have the id of one of ours; the stored cases are for ours only.
    if not path.exists() or shipped is None or shipped.spec.hash != spec.hash:
        path = cases.fixture_path(folder, spec.id)
        cases.write_fixtures(spec, path)
    fixture = cases.read_fixtures(path)
    return Subject(
        spec,
        name,
        _exact(cases.parameters(spec)),
        networks.ports_of(spec),
        fixture.calls,
        fixture.sha256,
    )


def _exact(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that every dtype of at least float32 holds, so that all run with the same ones."""
    return {n: float(np.float32(v)) if isinstance(v, float) else v for n, v in params.items()}


def _changed(subject: Subject) -> Iterator[Subject]:
    """The loss with every parameter at another ordinary value, an array where it may be one.

    Without this, a branch that a default switches off would never be measured.
    """
    params = dict(subject.params)
    fixed: dict[str, int] = {}
    maps = next((len(port.maps) for port in subject.ports.values() if port.maps), 0)
    for name, param in subject.spec.params.items():
        kind = param.kind
        if kind.dtype == "bool":
            params[name] = not params[name]
        elif kind.dtype == "int":
            params[name] = 1 if params[name] != 1 else 0
        elif kind.axes and not any(axis.startswith("*") for axis in kind.axes):
            fixed.update((a, maps if a == "maps" else cases.SIZE) for a in kind.axes)
            shape = tuple(fixed[a] for a in kind.axes)
            params[name] = (0.5 + 0.25 * np.arange(np.prod(shape))).reshape(shape)
        else:
            other = next(x for x in (1.5, 0.375) if x in kind and x != params[name])
            params[name] = other
    calls = tuple(
        call
        for call in subject.calls
        if call.stratum != "full"
        and "large" not in call.flags[0]
        and all(
            x.shape[axis] == fixed[a]
            for n, x in call.inputs.items()
            for axis, a in enumerate(subject.kinds[n].axes)
            if a in fixed
        )
    )
    words = ", ".join(
        f"{n}={'array' if np.ndim(v) else v}"
        for n, v in params.items()
        if np.ndim(v) or v != subject.params[n]
    )
    if words and calls:
        yield Subject(
            subject.spec, subject.class_, params, subject.ports, calls, subject.fixtures, words
        )


# --- the truth -----------------------------------------------------------------------------------


def truths(subject: Subject, dtypes: Sequence[str]) -> dict[tuple[int, str], Truth]:
    """The truth of every call, for every dtype that holds its values and is measured against it."""
    written = subject.graph()
    found: dict[tuple[int, str], Truth] = {}
    stable: Graph | None = None
    for at, call in enumerate(subject.calls):
        wanted = [d for d in dtypes if subject.against_truth(call, d)]
        if not wanted:
            continue
        inputs = subject.given(written, call)
        results = oracle(written, inputs, budget=BUDGET)
        rules = False
        if any(r.undecided.any() for r in results.values()):
            stable = stable or subject.graph(stable=True)
            again = oracle(stable, inputs, budget=BUDGET)
            merged = {n: filled(r, again[n]) for n, r in results.items()}
            rules = any(taken.any() for _, taken in merged.values())
            results = {n: r for n, (r, _) in merged.items()}
        results = _at_the_limit(subject, written, inputs, results)
        # Only the agreement of our platforms asks for kinks.
        kinked = call.stratum == "special" and subject.builtin is None
        kinks = _kinks(subject, written, inputs, results) if kinked else {}
        for dtype in wanted:
            flushed = measure.flushed_inputs(written, inputs, dtype)
            accepted = None
            if flushed is not None:
                accepted = {
                    n: round_to(r, dtype)
                    for n, r in oracle(written, flushed, budget=BUDGET).items()
                }
            found[at, dtype] = Truth(
                {n: round_to(r, dtype) for n, r in results.items()},
                accepted,
                {"value": _value_condition(subject, call, inputs, results, written, dtype)},
                rules,
                kinks,
            )
    return found


def gradient_condition(job: tuple[Subject, int, str, str]) -> Array:
    """The condition numbers of the gradient in one input, for one call and dtype."""
    subject, at, dtype, name = job
    graph, factors = subject.conditioned()
    inputs = _with_factors(subject, graph, subject.calls[at], factors)
    return measure.condition_gradient(graph, inputs, name, dtype)


def _with_factors(
    subject: Subject, graph: Graph, call: cases.Call, factors: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The inputs of the graph for condition numbers: its factors are 1."""
    sizes: dict[str, tuple[int, ...]] = {}
    for name, x in call.inputs.items():
        for axis in subject.kinds[name].axes:
            dims = cases.dims_of(subject.kinds[name].axes, (axis,), x.ndim)
            sizes[axis] = tuple(x.shape[d] for d in dims)
    for port in subject.ports.values():
        sizes["pixels"] = (sum(port.maps),)
    ones = {n: np.ones([k for a in axes for k in sizes[a]]) for n, axes in factors.items()}
    return subject.given(graph, call, ones)


def _value_condition(
    subject: Subject,
    call: cases.Call,
    inputs: Mapping[str, Any],
    results: Mapping[str, OracleResult],
    written: Graph,
    dtype: str,
) -> Array:
    if not subject.ports:
        return measure.condition_value(written, inputs, results, dtype)
    graph, factors = subject.conditioned()
    given = _with_factors(subject, graph, call, factors)
    return measure.condition_value(graph, given, oracle(graph, given, budget=BUDGET), dtype)


# Numbers that stand for infinity, where a slope has its limit to within exp(-1000). Much larger
# ones need more bits than there are: 1 - sigmoid(2**60) is 0 to 2**60 of them.
FAR = (1000.0, 1100.0)


def _at_the_limit(
    subject: Subject,
    written: Graph,
    inputs: Mapping[str, Any],
    results: dict[str, OracleResult],
) -> dict[str, OracleResult]:
    """The results with finite slopes at infinite inputs being those that slopes tend to.

    Differentiation as written multiplies 0 by infinity there, and where a rule calls that 0 it is
    no limit: the focal loss of a label at -inf came out flat, its slope being -1/4 all the way.
    """
    infinite = {n: np.isinf(np.asarray(inputs[n], np.float64)) for n in subject.wrt}
    if not any(x.any() for x in infinite.values()):
        return results

    def at(far: float, order: int) -> dict[str, OracleResult]:
        """The slopes with every infinite number replaced, each by a different one."""
        moved = dict(inputs)
        for n, hit in infinite.items():
            x = np.array(inputs[n], np.float64)
            x[hit] = np.sign(x[hit]) * far * (1.0 + np.linspace(0.0, 1.0, hit.sum())[::order])
            moved[n] = x
        return oracle(written, moved, outputs=[f"gradient_{n}" for n in subject.wrt], budget=BUDGET)

    near, further = at(FAR[0], 1), at(FAR[1], -1)
    found = dict(results)
    for name, result in near.items():
        here, one, other = (round_to(r[name], "float64") for r in (results, near, further))
        settled = (one.value == other.value) & ~one.undecided & ~other.undecided
        moves = settled & np.isfinite(here.value) & (here.value != one.value)
        if moves.any():
            values = np.where(moves, result.values, results[name].values)
            status = np.where(moves, result.status, results[name].status).astype(np.int8)
            ways = tuple(np.where(moves, values, way) for way in results[name].alternatives)
            found[name] = OracleResult(values, status, result.bits, ways)
    return found


NEAR = (2.0**-30, 2.0**-45)  # how far, relatively, a kink is looked for
JUMP = 2.0**-12  # of the largest component: a smooth gradient changes by far less over that


def _kinks(
    subject: Subject,
    written: Graph,
    inputs: Mapping[str, Any],
    results: Mapping[str, OracleResult],
) -> dict[str, Array]:
    """Where a gradient jumps: what it is a little to either side is another number."""
    rng = np.random.default_rng(0)
    here = {n: round_to(results[f"gradient_{n}"], "float64").value for n in subject.wrt}
    found = {n: np.zeros(here[n].shape, bool) for n in subject.wrt}
    signs = {n: np.where(rng.random(np.shape(inputs[n])) < 0.5, -1.0, 1.0) for n in subject.wrt}

    def beside(distance: float) -> dict[str, Array]:
        """The gradient at a distance."""
        moved = dict(inputs)
        with np.errstate(all="ignore"):
            for n, sign in signs.items():
                x = np.asarray(inputs[n], np.float64)
                moved[n] = x * (1.0 + distance * sign) + distance**3 * abs(distance) * sign
        near = evaluate(written, moved, bits=256, assume=0)
        return {n: round_to(near[f"gradient_{n}"], "float64").value for n in subject.wrt}

    for side in (1.0, -1.0):
        there = beside(side * NEAR[0])
        jumps = {n: _apart(here[n], there[n]) > JUMP * _size(subject, n, here[n], there[n])
                 for n in subject.wrt}  # fmt: skip
        if not any(jump.any() for jump in jumps.values()):
            continue
        # A smooth gradient that is exactly 0 here is another number there too, but comes nearer.
        nearer = beside(side * NEAR[1])
        for n, jump in jumps.items():
            stays = _apart(here[n], nearer[n]) > 0.5 * _apart(here[n], there[n])
            found[n] |= jump & stays
    return found


def _apart(x: Array, y: Array) -> Array:
    """How far finite numbers are apart; 0 where one of them is not finite."""
    known = np.isfinite(x) & np.isfinite(y)
    with np.errstate(over="ignore"):
        return np.abs(np.where(known, x, 0.0) / 2 - np.where(known, y, 0.0) / 2) * 2


def _size(subject: Subject, name: str, x: Array, y: Array) -> Array:
    """The largest component of each sample's gradient in one input, of two gradients."""
    axes = subject.axes_of(name)
    inner = cases.dims_of(axes, [a for a in axes if a not in subject.axes], x.ndim)
    known = np.isfinite(x) & np.isfinite(y)
    size = np.where(known, np.maximum(np.abs(x), np.abs(y)), 0.0)
    return np.asarray(np.max(size, axis=inner, keepdims=True, initial=0.0))


def cached_truths(job: tuple[Subject, tuple[str, ...], str]) -> dict[tuple[int, str], Truth]:
    """The same, kept in a folder for the next run; what lies there and does not fit is replaced."""
    subject, dtypes, folder = job
    key = hashlib.sha256(
        f"{subject.spec.hash} {subject.name} {subject.fixtures} {dtypes} "
        f"{sorted((n, np.asarray(v).tolist()) for n, v in subject.params.items())} "
        f"{_own_code()}".encode()
    ).hexdigest()
    path = Path(folder) / f"{key}.truth"
    known = _read_truths(path, subject, dtypes)
    if known is None:
        known = truths(subject, dtypes)
        files.write(path, wire.encode([[at, d, asdict(t)] for (at, d), t in known.items()]))
    return known


CACHE_BYTES = 1 << 28  # of one file; the largest of a full run has 9 MB


def _read_truths(
    path: Path, subject: Subject, dtypes: Sequence[str]
) -> dict[tuple[int, str], Truth] | None:
    """What a file of truths says, or None where it is not one of this subject.

    Anybody may have put it there: nothing in it is executed, and every array has the shape of what
    it is the truth of.
    """
    try:
        if not path.is_file() or path.stat().st_size > CACHE_BYTES:
            return None
        found = {(at, d): _truth(subject, at, d, t) for at, d, t in wire.decode(path.read_bytes())}
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
    expected = {
        (at, d)
        for at, call in enumerate(subject.calls)
        for d in dtypes
        if subject.against_truth(call, d)
    }
    return found if set(found) == expected else None


def _truth(subject: Subject, at: int, dtype: str, data: Mapping[str, Any]) -> Truth:
    call = subject.calls[at]
    shapes: dict[str, tuple[int, ...]] = {"value": subject.index(call)}
    shapes.update((f"gradient_{n}", np.shape(call.inputs[n])) for n in subject.wrt)

    def all_of(rounded: Mapping[str, Any]) -> dict[str, Rounded]:
        if set(rounded) != set(shapes):
            raise ValueError("not the quantities of this loss")
        return {n: _rounded(rounded[n], dtype, shapes[n]) for n in shapes}

    return Truth(
        all_of(data["rounded"]),
        None if data["accepted"] is None else all_of(data["accepted"]),
        {"value": _shaped(data["conditions"]["value"], np.float64, shapes["value"])},
        _typed(data["from_rules"], bool),
        {n: _shaped(x, np.bool_, shapes[f"gradient_{n}"]) for n, x in data["kinks"].items()},
    )


def _rounded(data: Mapping[str, Any], dtype: str, shape: tuple[int, ...]) -> Rounded:
    arrays = {n: _shaped(data[n], kind, shape) for n, kind in ROUNDED.items()}
    others = tuple(_rounded(other, dtype, shape) for other in data["alternatives"])
    if data["dtype"] != dtype:
        raise ValueError("of another dtype")
    return Rounded(dtype=dtype, **arrays, alternatives=others)


def _shaped(x: Any, kind: Any, shape: tuple[int, ...]) -> Array:
    if not isinstance(x, np.ndarray) or x.dtype != kind or x.shape != shape:
        raise ValueError("not an array of this loss")
    return x


def _typed(x: Any, kind: type) -> Any:
    if type(x) is not kind:
        raise ValueError(f"not a {kind.__name__}")
    return x


# The arrays of a rounded truth, and what they hold.
ROUNDED: Mapping[str, Any] = {
    "value": np.float64, "other": np.float64, "subnormal": np.bool_, "overflow": np.bool_,
    "exact_zero": np.bool_, "undecided": np.bool_, "sign": np.int8, "beyond": np.float64,
}  # fmt: skip


def all_truths(
    subjects: Sequence[Subject],
    builtins: Sequence[Subject],
    dtypes: Sequence[str],
    builtin_dtypes: Sequence[str],
    folder: Path,
    pool: Executor,
) -> dict[str, dict[tuple[int, str], Truth]]:
    """The truth of every subject; built-ins that are one function, or ours, share theirs."""
    jobs = {s.name: (s, tuple(dtypes), str(folder)) for s in subjects}
    functions = {(s.graph(), s.fixtures): s.name for s in reversed(subjects) if not s.setting}
    shared: dict[str, list[str]] = {}
    for built in builtins:
        twin = functions.setdefault((built.graph(), built.fixtures), built.name)
        shared[built.name] = [twin]
        if twin == built.name:
            jobs[twin] = (built, tuple(builtin_dtypes), str(folder))
        elif twin in {s.name for s in subjects}:
            # Ours has no truths in half precision.
            halves = tuple(d for d in builtin_dtypes if d in HALVES)
            name = f"{twin} in half precision"
            shared[built.name].append(name)
            if halves:
                jobs.setdefault(name, (built, halves, str(folder)))
    found = dict(zip(jobs, pool.map(cached_truths, jobs.values()), strict=True))
    result = {s.name: found[s.name] for s in subjects}
    for built in builtins:
        result[built.name] = {
            # Condition numbers are found for the one and not for the other.
            (at, dtype): replace(truth, conditions=dict(truth.conditions))
            for name in shared[built.name]
            for (at, dtype), truth in found.get(name, {}).items()
            if dtype in builtin_dtypes and built.against_truth(built.calls[at], dtype)
        }
    return result


def _own_code() -> str:
    """A digest of the oracle and the core, so that no stale truth outlives a change of either."""
    import lossbridge

    digest = hashlib.sha256()
    core = Path(lossbridge.__file__).parent
    for path in sorted([*Path(__file__).parent.rglob("*.py"), *core.rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
