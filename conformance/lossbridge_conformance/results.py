"""The results file: what one worker measured, how it is read, merged and summed up.

Every other output (HTML, Markdown, JUnit, badge) is derived from this one format, so that two
reports can disagree only if their results files do. Reading is strict: a file that was cut short,
comes from a newer release or holds an unknown key is refused with a typed error, never half used.
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from lossbridge import files
from lossbridge.errors import LossbridgeError, OutputError, shown

SCHEMA_NAME = "lossbridge-results/1"
SCHEMA_FILE = Path(__file__).with_name("schema") / "results-v1.json"

OURS = "ours"  # whose loss a cell is of, where it is not a framework's own

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_DEPTH = 32  # of the free-form parts; a deeper case description is an attack, not a description

Status: TypeAlias = Literal[
    "PASS", "FAIL", "NAN", "RAISES", "UNSUPPORTED", "XFAIL", "XPASS", "UNTESTED", "CRASH"
]
Track: TypeAlias = Literal["stability", "agreement", "contract", "convergence"]

Name = Annotated[str, msgspec.Meta(max_length=400)]
Text = Annotated[str, msgspec.Meta(max_length=20_000)]
Count = Annotated[int, msgspec.Meta(ge=0)]

# A cell counts once. XPASS fails: an improvement that nobody recorded is as much a surprise as a
# regression, and the next reader of the deviation would be misled by it.
PASSING: frozenset[str] = frozenset({"PASS", "XFAIL"})
FAILING: frozenset[str] = frozenset({"FAIL", "NAN", "RAISES", "CRASH", "XPASS"})
NOT_TESTED: frozenset[str] = frozenset({"UNTESTED", "UNSUPPORTED"})

# From best to worst, for "the worst cell" and for the colour of a cell that stands for several.
SEVERITY: Mapping[str, int] = {
    "UNTESTED": 0,
    "UNSUPPORTED": 1,
    "PASS": 2,
    "XFAIL": 3,
    "XPASS": 4,
    "FAIL": 5,
    "RAISES": 6,
    "NAN": 7,
    "CRASH": 8,
}

PLATFORM_ORDER = ("torch", "keras", "jax")
MODE_ORDER = ("eager", "graph", "compiled", "xla", "jit")
DTYPE_ORDER = ("float64", "float32", "float16", "bfloat16")
QUANTITY_ORDER = ("value", "gradient", "second_derivative")
STRATUM_ORDER = ("practical", "full", "special")


class ResultsError(LossbridgeError):
    """A results or deviations file that cannot be used; ``code`` says in which way.

    Codes: ``unreadable``, ``too_large``, ``parse``, ``schema``, ``version``,
    ``semantic``, ``empty``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ExitCode(enum.IntEnum):
    """What the ``conformance`` command returns to the shell."""

    CONFORMS = 0
    DIFFERS = 1
    USAGE = 2
    MISSING_PLATFORM = 3


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One judgement: a loss on one platform, in one mode and dtype, of one quantity.

    ``bits`` is the worst judged error (condition number already taken off); it may be infinite,
    and is None where no number applies. ``worst_case`` names an entry of the file's ``cases``.
    ``subject`` is ``ours``, or the framework's own loss that was measured on the cases of ``loss``,
    such as ``torch.nn.MSELoss()``.
    """

    id: Name
    track: Track
    loss: Name
    subject: Name = OURS
    class_: Name = msgspec.field(name="class", default="")
    platform: Name
    mode: Name = ""
    dtype: Name = ""
    quantity: Name = ""
    stratum: Name = ""
    status: Status
    bits: float | None = None
    median_bits: float | None = None
    condition: float | None = None
    bound: float | None = None
    cases: Count = 0
    worst_case: Name | None = None
    detail: Text = ""
    deviation: Name | None = None


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run: the loss at the start and after every ``every`` iterations.

    ``track`` is ``aligned``, ``defaults`` or ``control:<what was varied>``, with ``variant`` to
    tell several runs of a track apart. ``iterations`` says when the loss first was at most
    ``threshold``, and is None where it never was. ``task`` identifies data, model and settings:
    curves are compared only where it is the same.
    """

    id: Name
    dataset: Name
    loss: Name
    optimizer: Name
    platform: Name
    track: Name
    mode: Name = ""
    variant: Name | int = ""
    task: Name = ""
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    values: Annotated[tuple[float, ...], msgspec.Meta(max_length=1_000_000)] = ()
    iterations: Count | None = None
    threshold: float | None = None
    note: Text = ""
    seconds: float = 0.0


class Results(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one worker process measured: one file."""

    schema: Literal["lossbridge-results/1"] = "lossbridge-results/1"
    created: Name
    platform: Name
    versions: dict[Name, Name] = msgspec.field(default_factory=dict)
    machine: dict[Name, Any] = msgspec.field(default_factory=dict)
    fixtures: Name = ""
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    cells: tuple[Cell, ...] = ()
    cases: dict[Name, dict[Name, Any]] = msgspec.field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    notes: tuple[Text, ...] = ()


def cell_id(
    track: str,
    loss: str,
    platform: str,
    mode: str,
    dtype: str,
    quantity: str,
    stratum: str,
    subject: str = OURS,
) -> str:
    """The canonical id of a cell: its coordinates, joined by slashes, empty ones left out."""
    who = "" if subject == OURS else subject
    return "/".join(
        part for part in (track, loss, who, platform, mode, dtype, quantity, stratum) if part
    )


# --- JSON -------------------------------------------------------------------------------------
# JSON has no infinity, and msgspec writes one as null: an infinitely wrong cell would come back as
# one without a figure. Non-finite floats therefore travel as these three strings.

_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_CELL_NUMBERS = ("bits", "median_bits", "condition", "bound")


def spell(value: Any, depth: int = 0) -> Any:
    """Replace non-finite floats by their names, everywhere below ``value``."""
    if depth > MAX_DEPTH:
        raise ResultsError(
            "semantic",
            f"the results are nested more than {MAX_DEPTH} deep; describe a case by flat arrays",
        )
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {key: spell(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spell(item, depth + 1) for item in value]
    return value


def _unspell(raw: Any) -> None:
    """Put floats back where the format has numbers, in place; leave all else to validation."""
    if not isinstance(raw, dict):
        return
    cells, curves = raw.get("cells"), raw.get("curves")
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict):
            _restore(cell, _CELL_NUMBERS)
    for curve in curves if isinstance(curves, list) else ():
        if isinstance(curve, dict):
            _restore(curve, ("threshold",))
            values = curve.get("values")
            if isinstance(values, list):
                curve["values"] = [
                    _NON_FINITE.get(v, v) if isinstance(v, str) else v for v in values
                ]


def _restore(record: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) and value in _NON_FINITE:
            record[key] = _NON_FINITE[value]


def encode(results: Results) -> bytes:
    """The file's bytes: indented JSON with a final newline, the same for equal results."""
    check(results, "the results about to be written")
    compact = msgspec.json.encode(spell(msgspec.to_builtins(results)))
    return msgspec.json.format(compact, indent=1) + b"\n"


def plain(error: Exception) -> str:
    """An error's own words, which may quote the file, without anything a terminal would obey."""
    return ascii(str(error))[1:-1][:300]


def load_json(data: bytes, origin: str) -> Any:
    """Parse JSON from a stranger; ``origin`` names it in the error."""
    if len(data) > MAX_FILE_BYTES:
        raise ResultsError(
            "too_large",
            f"{origin} has {len(data)} bytes, more than the {MAX_FILE_BYTES} a results file may "
            "have; run it in parts, with --losses",
        )
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ResultsError(
            "parse",
            f"{origin} is not complete JSON ({plain(error)}); a worker writes its file in one "
            "step, so this one was cut short or edited; `python -m lossbridge conformance` makes "
            "it again",
        ) from error


def decode(data: bytes, origin: str = "the results") -> Results:
    """Read one results file strictly; anything unexpected is a :class:`ResultsError`."""
    raw = load_json(data, origin)
    if not isinstance(raw, dict):
        raise ResultsError(
            "schema", f"{origin} holds a JSON {type(raw).__name__}, expected an object"
        )
    given = raw.get("schema")
    if given != SCHEMA_NAME:
        raise ResultsError(
            "version",
            f"{origin} says schema {shown(given)}, expected {SCHEMA_NAME!r}; a newer file needs a "
            "newer lossbridge",
        )
    _unspell(raw)
    try:
        results = msgspec.convert(raw, Results, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ResultsError(
            "schema",
            f"{origin} does not follow {SCHEMA_NAME}: {plain(error)}; the schema is "
            f"{SCHEMA_FILE.name}",
        ) from error
    check(results, origin)
    return results


def read(path: str | os.PathLike[str]) -> Results:
    """Read one results file from disk."""
    return decode(read_bytes(path), str(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of ``path``, of at most the permitted size, or a typed error."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ResultsError(
            "unreadable",
            f"cannot read {str(path)!r}: {error.strerror or error}; expected a file written by "
            "`python -m lossbridge conformance --out DIR`",
        ) from error


def write(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write one results file in one step: readers see the old file or the new, never a part."""
    return write_atomic(path, encode(results))


def write_atomic(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file of a report, making folders as needed."""
    final = Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {str(final)!r}: {error.strerror or error}; expected a folder that can "
            "be written, as in `python -m lossbridge conformance --out DIR`"
        ) from error
    files.write(final, data)
    return final


def check(results: Results, origin: str) -> None:
    """What types cannot say: unique ids, named worst cases, free-form parts of sane depth."""
    seen: set[str] = set()
    for cell in results.cells:
        if not cell.id:
            raise ResultsError("semantic", f"{origin}: a cell of loss {shown(cell.loss)} has no id")
        if cell.id in seen:
            raise ResultsError("semantic", f"{origin}: cell id {shown(cell.id)} occurs twice")
        seen.add(cell.id)
        if cell.worst_case is not None and cell.worst_case not in results.cases:
            raise ResultsError(
                "semantic",
                f"{origin}: cell {shown(cell.id)} names worst case {shown(cell.worst_case)}, "
                "which `cases` does not hold",
            )
    runs: set[str] = set()
    for curve in results.curves:
        if curve.id in runs:
            raise ResultsError("semantic", f"{origin}: curve id {shown(curve.id)} occurs twice")
        runs.add(curve.id)
    spell(results.cases)
    spell(results.machine)


def results_schema() -> dict[str, Any]:
    """The JSON Schema of the results file, made from the structs above."""
    schema = msgspec.json.schema(Results)
    spelt = {"enum": list(_NON_FINITE)}
    properties = schema["$defs"]["Cell"]["properties"]
    for key in _CELL_NUMBERS:
        properties[key]["anyOf"].insert(1, spelt)
    curve = schema["$defs"]["Curve"]["properties"]
    curve["threshold"]["anyOf"].insert(1, spelt)
    curve["values"]["items"] = {"anyOf": [curve["values"]["items"], spelt]}
    # A worker always says which format it writes; msgspec lists only fields without a default.
    required = schema["$defs"]["Results"]["required"]
    schema["$defs"]["Results"]["required"] = ["schema", *required]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "results-v1.json",
        "title": f"{SCHEMA_NAME}: what one conformance worker measured",
        **schema,
    }


def results_schema_text() -> str:
    """The published text of the schema, as committed in :data:`SCHEMA_FILE`."""
    return msgspec.json.format(msgspec.json.encode(results_schema()), indent=2).decode() + "\n"


# --- Merging ----------------------------------------------------------------------------------


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One environment that was measured: a platform at given versions, from one or more files."""

    label: str
    platform: str
    versions: dict[str, str]
    machine: dict[str, Any]
    fixtures: str
    created: str
    seconds: float
    files: int


CROSS = -1  # the source of a cell that compares several environments


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One cell of a merged run, with its environment and the description of its worst case.

    ``source`` counts in :attr:`Merged.sources`, or is :data:`CROSS`.
    """

    cell: Cell
    source: int
    label: str
    case: dict[str, Any] | None = None


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One curve of a merged run, with the label of its environment."""

    curve: Curve
    label: str


class Merged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Any number of results files, as one run."""

    sources: tuple[Source, ...]
    rows: tuple[Row, ...]
    runs: tuple[Run, ...] = ()
    notes: tuple[str, ...] = ()

    def versions(self, row: Row) -> Mapping[str, str]:
        """The versions a row was measured at: of its environment, or of all of them."""
        if row.source != CROSS:
            return self.sources[row.source].versions
        return {name: text for source in self.sources for name, text in source.versions.items()}


def with_cells(
    merged: Merged,
    cells: Iterable[Cell | Mapping[str, Any]],
    cases: Mapping[str, dict[str, Any]] | None = None,
) -> Merged:
    """Add cells that only a merged run can judge: agreement of platforms, and convergence."""
    known = {row.cell.id for row in merged.rows if row.source == CROSS}
    rows = list(merged.rows)
    for given in cells:
        try:
            cell = given if isinstance(given, Cell) else msgspec.convert(dict(given), Cell)
        except msgspec.ValidationError as error:
            raise ResultsError(
                "schema", f"a cell to add does not follow {SCHEMA_NAME}: {plain(error)}"
            ) from error
        if cell.id in known:
            raise ResultsError("semantic", f"cell id {shown(cell.id)} is added twice")
        known.add(cell.id)
        case = (cases or {}).get(cell.worst_case or "")
        rows.append(Row(cell=cell, source=CROSS, label=cell.platform, case=case))
    return msgspec.structs.replace(merged, rows=tuple(sorted(rows, key=_row_order)))


def merge(files: Iterable[Results]) -> Merged:
    """Put results files together.

    Files with the same platform and versions are shards of one environment. The same platform at
    other versions is another environment, and its label then says the version. A cell that two
    shards measured with different outcomes keeps the worse one, and a note says so.
    """
    given = sorted(files, key=_file_order)
    if not given:
        raise ResultsError(
            "empty",
            "no results file was given, expected at least one; call "
            "`python -m lossbridge conformance --out DIR` first",
        )
    environments: dict[tuple[str, tuple[tuple[str, str], ...]], list[Results]] = {}
    for results in given:
        key = (results.platform, tuple(sorted(results.versions.items())))
        environments.setdefault(key, []).append(results)

    notes: list[str] = []
    said: dict[str, list[str]] = {}  # what several runs say is said once
    fixtures = sorted({results.fixtures for results in given if results.fixtures})
    if len(fixtures) > 1:
        notes.append(
            "The files were measured with different fixtures, so their cells answer different "
            f"questions: {', '.join(name[:12] for name in fixtures)}."
        )

    labels = _labels(list(environments))
    sources: list[Source] = []
    rows: list[Row] = []
    runs: list[Run] = []
    for index, (key, shards) in enumerate(environments.items()):
        label = labels[key]
        sources.append(
            Source(
                label=label,
                platform=key[0],
                versions=dict(key[1]),
                machine=shards[0].machine,
                fixtures=", ".join(sorted({s.fixtures for s in shards if s.fixtures})),
                created=max(s.created for s in shards),
                seconds=math.fsum(s.seconds for s in shards),
                files=len(shards),
            )
        )
        chosen: dict[str, Row] = {}
        curves: dict[str, Curve] = {}
        for shard in shards:
            for note in shard.notes:
                said.setdefault(note, []).append(label)
            for cell in shard.cells:
                case = None if cell.worst_case is None else shard.cases[cell.worst_case]
                row = Row(
                    cell=cell, source=index, label=_cell_label(cell, key[0], label), case=case
                )
                known = chosen.get(cell.id)
                if known is None:
                    chosen[cell.id] = row
                    continue
                both_tested = not {known.cell.status, cell.status} & NOT_TESTED
                if both_tested and _outcome(known.cell) != _outcome(cell):
                    notes.append(
                        f"{label}: cell {cell.id} was measured twice with different outcomes "
                        f"({_outcome_text(known.cell)} and {_outcome_text(cell)}); the worse one "
                        "counts."
                    )
                if badness(cell) > badness(known.cell):
                    chosen[cell.id] = row
            for curve in shard.curves:
                curves.setdefault(curve.id, curve)
        rows.extend(chosen.values())
        runs.extend(
            Run(curve=curve, label=label if curve.platform == key[0] else curve.platform)
            for curve in curves.values()
        )
    rows.sort(key=_row_order)
    runs.sort(key=lambda run: (run.curve.dataset, run.curve.loss, run.curve.optimizer))
    return Merged(
        sources=tuple(sources),
        rows=tuple(rows),
        runs=tuple(runs),
        notes=(
            *dict.fromkeys(notes),
            *(f"{', '.join(dict.fromkeys(who))}: {note}" for note, who in said.items()),
        ),
    )


def place(value: str, order: Sequence[str]) -> tuple[int, str]:
    """A sort key: known names in their order, all others after them by name."""
    return (order.index(value) if value in order else len(order), value)


def _file_order(results: Results) -> tuple[Any, ...]:
    return (*place(results.platform, PLATFORM_ORDER), sorted(results.versions.items()),
            results.created)  # fmt: skip


def _row_order(row: Row) -> tuple[Any, ...]:
    cell = row.cell
    return (
        cell.loss,
        cell.subject != OURS,
        row.source,
        row.label,
        place(cell.mode, MODE_ORDER),
        place(cell.dtype, DTYPE_ORDER),
        place(cell.quantity, QUANTITY_ORDER),
        place(cell.stratum, STRATUM_ORDER),
        cell.id,
    )


def _labels(
    keys: Sequence[tuple[str, tuple[tuple[str, str], ...]]],
) -> dict[tuple[str, tuple[tuple[str, str], ...]], str]:
    """The platform's name; with the versions that differ, where a platform occurs twice."""
    labels = {}
    for key in keys:
        platform, versions = key
        others = [dict(other) for name, other in keys if name == platform and other != versions]
        differing = [
            f"{package} {version}"
            for package, version in versions
            if any(other.get(package) != version for other in others)
        ]
        labels[key] = (
            f"{platform} ({', '.join(differing) or 'no versions'})" if others else platform
        )
    return labels


def _cell_label(cell: Cell, platform: str, label: str) -> str:
    # An agreement cell names a pair of platforms, not the environment that compared them.
    return label if cell.platform == platform else cell.platform


def _outcome(cell: Cell) -> tuple[str, str, str | None]:
    return (cell.status, repr(cell.bits), cell.deviation)


def _outcome_text(cell: Cell) -> str:
    return cell.status if cell.bits is None else f"{cell.status} at {cell.bits:.3g} bits"


# --- Summing up -------------------------------------------------------------------------------


def badness(cell: Cell) -> tuple[int, float, float]:
    """Orders cells from best to worst: status, then excess over the bound, then bits."""
    bits = -math.inf if cell.bits is None else cell.bits
    bits = math.inf if math.isnan(bits) else bits
    bound = 0.0 if cell.bound is None or not math.isfinite(cell.bound) else cell.bound
    return (SEVERITY[cell.status], bits - bound, bits)


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first lines of every report."""

    conforms: bool
    passed: int
    failed: int
    untested: int
    deviations: int
    lost: int
    total: int
    platforms: tuple[str, ...]
    missing: tuple[str, ...]
    worst: Cell | None
    worst_label: str

    @property
    def exit_code(self) -> ExitCode:
        """The process's answer; a difference that was found outranks a platform that was not."""
        if self.failed:
            return ExitCode.DIFFERS
        if self.missing:
            return ExitCode.MISSING_PLATFORM
        return ExitCode.CONFORMS if self.conforms else ExitCode.DIFFERS


def summarise(merged: Merged, required: Iterable[str] = ()) -> Summary:
    """Count cells; ``required`` names platforms without which nothing can be said to conform.

    Passed cells include those within a recorded deviation, which are counted once more as
    ``deviations``; ``lost`` counts the failed ones whose worker died in mid-case.
    """
    statuses = [row.cell.status for row in merged.rows]
    passed = sum(status in PASSING for status in statuses)
    failed = sum(status in FAILING for status in statuses)
    tested = [row for row in merged.rows if row.cell.status not in NOT_TESTED]
    worst = max(tested, key=lambda row: badness(row.cell), default=None)
    platforms = tuple(dict.fromkeys(source.platform for source in merged.sources))
    missing = tuple(name for name in dict.fromkeys(required) if name not in platforms)
    return Summary(
        # Nothing tested is not the same as nothing wrong.
        conforms=failed == 0 and passed > 0 and not missing,
        passed=passed,
        failed=failed,
        untested=sum(status in NOT_TESTED for status in statuses),
        deviations=sum(status == "XFAIL" for status in statuses),
        lost=sum(status == "CRASH" for status in statuses),
        total=len(statuses),
        platforms=platforms,
        missing=missing,
        worst=None if worst is None else worst.cell,
        worst_label="" if worst is None else worst.label,
    )
