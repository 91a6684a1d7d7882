"""Reports from merged results: HTML page, Markdown summary, JUnit XML and badge.

Everything shown may come from a hostile spec file, so every text passes through
:func:`printable` (no control or direction-changing character survives) and then through the
escaping of its format. The page loads nothing: styles, drawings and the few lines of script are
inside, and its content security policy admits no other.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import markupsafe
import msgspec

from lossbridge_conformance import chart, deviations, results
from lossbridge_conformance.formats import FORMATS
from lossbridge_conformance.results import (
    DTYPE_ORDER,
    FAILING,
    MODE_ORDER,
    NOT_TESTED,
    OURS,
    PLATFORM_ORDER,
    Cell,
    Merged,
    Row,
    Status,
    Summary,
    badness,
    place,
)

TEMPLATES = Path(__file__).with_name("templates")

# GitHub drops a step summary of more than 1,024 KiB altogether, and several steps share one page.
MARKDOWN_LIMIT = 200 * 1024
WORST_ROWS = 10
SHOWN_NUMBERS = 24

NAMES = {
    "html": "report.html",
    "markdown": "summary.md",
    "junit": "junit.xml",
    "badge": "badge.json",
}


class Builtins(msgspec.Struct, frozen=True, kw_only=True):
    """The frameworks' own losses in a run: shown beside ours, and never part of the verdict."""

    rows: tuple[Row, ...]
    uses: tuple[deviations.DeviationUse, ...] = ()

    def count(self, *statuses: str) -> int:
        """How many of their cells have one of these statuses."""
        return sum(row.cell.status in statuses for row in self.rows)

    @property
    def tested(self) -> int:
        """How many of their cells were measured."""
        return len(self.rows) - self.count(*NOT_TESTED)

    @property
    def beyond(self) -> int:
        """How many are beyond their bound, or gave no result, on record or not."""
        return self.count("XFAIL", *(FAILING - {"XPASS"}))


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run judged by the recorded deviations: what every output format is made from."""

    merged: Merged
    summary: Summary
    uses: tuple[deviations.DeviationUse, ...] = ()
    builtins: Builtins | None = None


def prepare(
    merged: Merged,
    recorded: Sequence[deviations.Deviation] = (),
    required: Iterable[str] = (),
) -> Report:
    """Judge a merged run by the record; ``required`` names platforms that must be in it."""
    judged, uses = deviations.apply(merged, recorded)
    theirs = tuple(row for row in judged.rows if row.cell.subject != OURS)
    # What follows, the verdict above all, never sees a cell that is not of ours.
    ours = msgspec.structs.replace(
        judged, rows=tuple(row for row in judged.rows if row.cell.subject == OURS)
    )
    return Report(
        merged=ours,
        summary=results.summarise(ours, required),
        uses=tuple(use for use in uses if OURS in use.deviation.subjects),
        builtins=Builtins(
            rows=theirs, uses=tuple(use for use in uses if OURS not in use.deviation.subjects)
        )
        if theirs
        else None,
    )


def write_reports(report: Report, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Write all four formats; every one is made before the first is written."""
    made = {
        "html": html(report).encode(),
        "markdown": markdown(report).encode(),
        "junit": junit(report),
        "badge": badge(report),
    }
    return {
        kind: results.write_atomic(Path(folder) / NAMES[kind], data) for kind, data in made.items()
    }


# --- Text ---------------------------------------------------------------------------------------


def printable(value: object, limit: int = 2000) -> str:
    """Text safe to show anywhere: one line, no control, format or lone surrogate characters.

    These are spelt out (``\\x1b``) rather than dropped, so that an attempt stays visible.
    """
    text = str(value)
    shown = "".join(
        character
        if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        else " "
        if character in "\n\t"
        else _code_point(character)
        for character in text[: limit + 1]
    )
    return shown if len(text) <= limit else shown[:limit] + "…"


def _code_point(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def code(value: object, limit: int = 200) -> str:
    """A Markdown code span, which no markup, mention or link inside can leave.

    Backticks and bars are shown by look-alikes: within a table no way of quoting them is common to
    all readers of Markdown.
    """
    text = (
        printable(value, limit)
        .replace("`", "\N{MODIFIER LETTER GRAVE ACCENT}")
        .replace("|", "\N{DIVIDES}")
        .strip()
    )
    return f"`{text}`" if text else ""


def bits_text(bits: float | None) -> str:
    """A figure in bits, short enough for a small cell."""
    if bits is None:
        return chart.NONE
    if math.isnan(bits):
        return "NaN"
    if math.isinf(bits):
        return "∞" if bits > 0 else "-∞"
    if bits < 0.05:
        return "0"
    return f"{bits:.1f}" if bits < 99.95 else f"{bits:.0f}" if bits < 1e4 else f"{bits:.0e}"


def headline(summary: Summary) -> str:
    """The answer, in words."""
    if summary.conforms:
        return "Conforms"
    if summary.failed:
        return "Does not conform"
    if summary.missing:
        return "Incomplete"
    return "Nothing was tested"


def counts_text(summary: Summary) -> str:
    """Cells passed, failed and untested, with what hides behind the figures."""
    within = f" ({summary.deviations} within a recorded deviation)" if summary.deviations else ""
    lost = f" ({summary.lost} lost to a crash)" if summary.lost else ""
    return (
        f"{summary.passed:,} passed{within}, {summary.failed:,} failed{lost}, "
        f"{summary.untested:,} untested"
    )


def builtins_text(builtins: Builtins) -> str:
    """How the frameworks' own losses did."""
    told = {
        "on record": builtins.count("XFAIL"),
        "new": builtins.count("FAIL", "NAN", "RAISES", "CRASH"),
    }
    better = builtins.count("XPASS")
    of_these = ", ".join(f"{count:,} {what}" for what, count in told.items())
    text = (
        f"The frameworks' own losses: {builtins.beyond:,} of {builtins.tested:,} cells beyond "
        f"their bound ({of_these})"
    )
    if better:
        text += f", and {better:,} better than recorded"
    stale = [printable(u.deviation.id, 200) for u in builtins.uses if u.state == "stale"]
    return f"{text}{'; no longer so: ' + ', '.join(stale) if stale else ''}."


@dataclass(frozen=True)
class Gain:
    """What one built-in loses that ours keeps: its cell, and ours beside it."""

    theirs: Row
    ours: Row
    reason: str

    @property
    def share(self) -> float:
        """The bits between them, of those the format has."""
        bits = [row.cell.bits or 0.0 for row in (self.theirs, self.ours)]
        return (bits[0] - bits[1]) / FORMATS[self.theirs.cell.dtype].width


def gains(report: Report, limit: int = WORST_ROWS) -> list[Gain]:
    """The largest differences on ordinary inputs, one for each built-in and quantity."""
    if report.builtins is None:
        return []
    ours = {_place(row.cell): row for row in report.merged.rows if row.cell.track == "stability"}
    reasons = {use.deviation.id: use.deviation.reason for use in report.builtins.uses}
    best: dict[tuple[str, str, str], Gain] = {}
    for row in report.builtins.rows:
        beside = ours.get(_place(row.cell))
        beyond = row.cell.status in FAILING | {"XFAIL"}
        if row.cell.stratum != "practical" or beside is None or not beyond:
            continue
        gain = Gain(row, beside, reasons.get(row.cell.deviation or "", row.cell.detail))
        key = (row.cell.loss, row.cell.subject, row.cell.quantity)
        if gain.share > 0.0 and (key not in best or gain.share > best[key].share):
            best[key] = gain
    return sorted(best.values(), key=lambda gain: gain.share, reverse=True)[:limit]


def _place(cell: Cell) -> tuple[str, ...]:
    """Where a cell stands, whoever's it is."""
    return (cell.loss, cell.platform, cell.mode, cell.dtype, cell.quantity, cell.stratum)


def worst_text(summary: Summary) -> str:
    """Which cell is worst, and by how much."""
    if summary.worst is None:
        return "no cell was tested"
    cell = summary.worst
    parts = [cell.class_ or cell.loss, cell.quantity, cell.dtype, summary.worst_label, cell.mode]
    name = printable(" · ".join(part for part in (*parts, cell.stratum) if part), 300)
    return f"{name}: {verdict_text(cell)}"


def verdict_text(cell: Cell) -> str:
    """Status, figure and bound of one cell."""
    words = {
        "PASS": "passes",
        "FAIL": "fails",
        "NAN": "spurious NaN, infinity or zero",
        "RAISES": "raised",
        "UNSUPPORTED": "not supported",
        "XFAIL": "recorded deviation",
        "XPASS": "better than its recorded deviation",
        "UNTESTED": "not tested",
        "CRASH": "the worker died",
    }[cell.status]
    if cell.bits is None:
        return words
    unit = "" if cell.quantity == "iterations" else " bits"
    bound = "" if cell.bound is None else f", bound {bits_text(cell.bound)}"
    return f"{words} ({bits_text(cell.bits)}{unit}{bound})"


def first_lines(report: Report) -> str:
    """The lines for a terminal, the last of which any CI can search for."""
    summary = report.summary
    lines = [f"{headline(summary)}.", f"Worst cell: {worst_text(summary)}."]
    if summary.missing:
        missing = ", ".join(printable(name, 80) for name in summary.missing)
        lines.append(f"Missing platforms: {missing}.")
    lines.extend(printable(note, 500) for note in report.merged.notes)
    stale = [printable(use.deviation.id, 200) for use in report.uses if use.state == "stale"]
    if stale:
        lines.append(f"Stale deviations, to be removed: {', '.join(stale)}.")
    if report.builtins is not None:
        lines.append(f"{builtins_text(report.builtins)} They have no part in the verdict.")
    lines.append(counts_text(summary))
    return "\n".join(lines)


# --- Badge and JUnit ----------------------------------------------------------------------------


def badge(report: Report) -> bytes:
    """The JSON that a shields endpoint badge reads."""
    summary = report.summary
    message = f"{summary.passed}/{summary.passed + summary.failed} cells"
    colour = "success" if summary.conforms else "critical" if summary.failed else "inactive"
    record = {
        "schemaVersion": 1,
        "label": "conformance",
        "message": message if summary.passed + summary.failed else "not tested",
        "color": colour,
        "isError": not summary.conforms,
    }
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def summary_json(report: Report) -> bytes:
    """The summary for other programs, as ``--json`` prints it."""
    record = {
        **msgspec.to_builtins(report.summary),
        "exit_code": int(report.summary.exit_code),
        "notes": list(report.merged.notes),
        "stale_deviations": [use.deviation.id for use in report.uses if use.state == "stale"],
    }
    theirs = report.builtins
    if theirs is not None:
        record["native"] = {
            "tested": theirs.tested,
            "beyond": theirs.beyond,
            "recorded": theirs.count("XFAIL"),
            "better": theirs.count("XPASS"),
            "stale_deviations": [u.deviation.id for u in theirs.uses if u.state == "stale"],
        }
    return msgspec.json.encode(results.spell(record)) + b"\n"


def junit(report: Report) -> bytes:
    """JUnit XML: a suite for every environment, a test case for every cell."""
    root = ElementTree.Element("testsuites", name="lossbridge conformance")
    suites: dict[str, list[Row]] = {}
    for row in report.merged.rows:
        suites.setdefault(row.label, []).append(row)
    totals: dict[str, int] = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    seconds = {source.label: source.seconds for source in report.merged.sources}
    for label, rows in suites.items():
        tally = {
            "tests": len(rows),
            "failures": sum(r.cell.status in FAILING - {"CRASH"} for r in rows),
            "errors": sum(r.cell.status == "CRASH" for r in rows),
            "skipped": sum(r.cell.status in NOT_TESTED | {"XFAIL"} for r in rows),
        }
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=printable(label, 200),
            time=f"{seconds.get(label, 0.0):.3f}",
        )
        for key, count in tally.items():
            suite.set(key, str(count))
            totals[key] += count
        for row in rows:
            _testcase(suite, row)
    for key, count in totals.items():
        root.set(key, str(count))
    ElementTree.indent(root)
    made: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return made + b"\n"


def _testcase(suite: ElementTree.Element, row: Row) -> None:
    cell = row.cell
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"{cell.track}.{printable(cell.loss, 200)}",
        name=printable(cell.id, 400),
        time="0",
    )
    message = printable(verdict_text(cell))
    if cell.status == "PASS":
        return
    if cell.status in NOT_TESTED:
        ElementTree.SubElement(case, "skipped", message=printable(cell.detail or message))
        return
    if cell.status == "XFAIL":
        text = f"{message}: {printable(cell.deviation or '', 200)}"
        ElementTree.SubElement(case, "skipped", message=text)
        return
    kind = "error" if cell.status == "CRASH" else "failure"
    problem = ElementTree.SubElement(case, kind, message=message, type=cell.status)
    lines = [printable(cell.detail)] if cell.detail else []
    lines += [f"{entry.name}: {entry.text}" for entry in _case_entries(row.case)]
    problem.text = "\n".join(lines)


# --- Markdown -----------------------------------------------------------------------------------

_SIGNS = {
    "PASS": "✅",
    "XFAIL": "🟡",
    "XPASS": "🟣",
    "FAIL": "❌",
    "RAISES": "❌",
    "NAN": "❌",
    "CRASH": "💥",
    "UNTESTED": "⬜",
    "UNSUPPORTED": "⬜",
}


def markdown(report: Report, limit: int = MARKDOWN_LIMIT) -> str:
    """The summary for a CI page: answer, worst rows, matrix; at most ``limit`` bytes."""
    summary = report.summary
    sign = "✅" if summary.conforms else "❌" if summary.failed else "⬜"
    head = [
        f"## {sign} lossbridge: {headline(summary).lower()}",
        "",
        f"{counts_text(summary)}  ",
        f"Worst cell: {code(worst_text(summary), 400)}",
        "",
    ]
    if summary.missing:
        head += [f"Missing: {', '.join(code(name) for name in summary.missing[:20])}", ""]
    if report.merged.notes:
        head += [*(f"- {code(note, 400)}" for note in report.merged.notes[:20]), ""]
    measured = "; ".join(
        f"{code(source.label)} {code(_versions_text(source.versions))}"
        for source in report.merged.sources[:20]
    )
    head.append(f"Measured: {measured}\n")
    parts: list[tuple[str, Sequence[str], str]] = [("\n".join(head), (), "")]

    failing = [row for row in report.merged.rows if row.cell.status not in NOT_TESTED]
    failing.sort(key=lambda row: badness(row.cell), reverse=True)
    lines = [
        "### Worst cells",
        "",
        "| | loss | quantity | dtype | platform | mode | stratum | bits | bound | detail |",
        "| --- | --- | --- | --- | --- | --- | --- | ---: | ---: | --- |",
    ]
    rows = [_markdown_row(row) for row in failing[:WORST_ROWS]]
    parts.append(("\n".join(lines), rows, ""))

    if report.builtins is not None:
        lines = [
            "### Ours and the frameworks' own",
            "",
            f"{builtins_text(report.builtins)} They have no part in the verdict.",
            "The largest differences on ordinary inputs, in bits:",
            "",
            "| the framework's own | quantity | dtype | mode | its bits | ours | bound | why |",
            "| --- | --- | --- | --- | ---: | ---: | ---: | --- |",
        ]
        parts.append(("\n".join(lines), [_markdown_gain(g) for g in gains(report)], ""))

    labels = list(dict.fromkeys(row.label for row in report.merged.rows))
    labels.sort(key=lambda label: place(label, PLATFORM_ORDER))
    labels = labels[:24]
    header = [
        "### Losses and platforms",
        "",
        "Worst judged bits, value / gradient, over all modes and dtypes.",
        "",
        f"| loss | {' | '.join(code(label, 60) for label in labels)} |",
        f"| --- |{' --- |' * len(labels)}",
    ]
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in report.merged.rows:
        groups.setdefault(row.cell.loss, {}).setdefault(row.label, []).append(row)
    matrix = [
        f"| {code(loss, 80)} | "
        + " | ".join(_markdown_cell(columns.get(label, [])) for label in labels)
        + " |"
        for loss, columns in groups.items()
    ]
    parts.append(("\n".join(header), matrix, "losses"))

    used = [
        f"- {code(use.deviation.id)}: {use.state}, {len(use.cells)} cells; "
        f"{code(use.deviation.reason, 300)}"
        for use in report.uses
    ]
    if used:
        parts.append(("### Recorded deviations\n", used, "deviations"))
    return _fitted(parts, limit)


def _fitted(parts: Sequence[tuple[str, Sequence[str], str]], limit: int) -> str:
    """Join sections, leaving out whole lines where ``limit`` bytes are not enough."""
    spare = 120  # for the line that says what was left out
    text: list[str] = []
    used = 0
    for head, rows, what in parts:
        size = len(head.encode()) + 2
        if used + size + spare > limit:
            break
        text.append(head)
        used += size
        for number, row in enumerate(rows):
            size = len(row.encode()) + 1
            if used + size + spare > limit:
                text.append(f"\n{len(rows) - number} more {what or 'lines'}: see the HTML report.")
                return "\n".join(text) + "\n"
            text.append(row)
            used += size
        if rows:
            text.append("")
            used += 1
    return "\n".join(text).rstrip("\n") + "\n"


def _markdown_row(row: Row) -> str:
    cell = row.cell
    values = (
        code(cell.loss, 80),
        code(cell.quantity, 40),
        code(cell.dtype, 40),
        code(row.label, 60),
        code(cell.mode, 40),
        code(cell.stratum, 40),
        bits_text(cell.bits),
        bits_text(cell.bound),
        code(cell.detail or verdict_text(cell), 160),
    )
    return f"| {_SIGNS[cell.status]} | {' | '.join(values)} |"


def _markdown_gain(gain: Gain) -> str:
    cell = gain.theirs.cell
    values = (
        code(cell.subject, 100),
        code(cell.quantity, 40),
        code(cell.dtype, 40),
        code(f"{gain.theirs.label} {cell.mode}", 60),
        bits_text(cell.bits),
        bits_text(gain.ours.cell.bits),
        bits_text(cell.bound),
        code(gain.reason, 160),
    )
    return f"| {' | '.join(values)} |"


def _markdown_cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "·"
    worst = max((row.cell for row in rows), key=badness)
    judged = [row for row in rows if row.cell.track == "stability"]
    figures = [_quantity_text(judged, quantity) for quantity in ("value", "gradient")]
    text = " / ".join(figures) if any(figure != "·" for figure in figures) else ""
    failed = sum(row.cell.status in FAILING for row in rows)
    return f"{_SIGNS[worst.status]} {text}{f' ({failed} failed)' if failed else ''}".strip()


def _versions_text(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


# --- The page -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One line of a case description: a name, its text, and the exact bits where they differ."""

    name: str
    text: str
    exact: str = ""


@dataclass(frozen=True)
class Judgement:
    """One cell as a row of the panel behind a grid cell."""

    cell: Cell
    label: str
    look: str
    bits: str
    median: str
    condition: str
    bound: str
    detail: str


@dataclass(frozen=True)
class Evidence:
    """A worst case, laid out for reading."""

    title: str
    entries: Sequence[Entry]


@dataclass(frozen=True)
class GridCell:
    """One coloured cell of a grid and the panel behind it."""

    anchor: str
    look: str
    lines: Sequence[str]
    title: str
    weight: float
    group: str
    sub: str
    judgements: Sequence[Judgement] = ()
    evidence: Sequence[Evidence] = ()
    heading: str = ""
    pairs: Sequence[tuple[str, str]] = ()  # text and style: ours and theirs, value and gradient


@dataclass(frozen=True)
class Group:
    """A column group: an environment in one mode."""

    key: str
    name: str
    mode: str
    subs: Sequence[str]


@dataclass(frozen=True)
class Line:
    """One line of a grid: a loss."""

    name: str
    title: str
    look: str
    weight: float
    cells: Sequence[GridCell | None]
    small: Sequence[str] = ()


@dataclass(frozen=True)
class Grid:
    """A table of losses against environments, for one track."""

    key: str
    groups: Sequence[Group]
    lines: Sequence[Line]
    panels: Sequence[GridCell] = field(default_factory=list)

    @property
    def columns(self) -> Sequence[tuple[Group, str]]:
        """Every column, in order."""
        return [(group, sub) for group in self.groups for sub in group.subs]


_ABBREVIATED = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def look(cell: Cell) -> str:
    """The style of a cell: its status, and for a passing one how much of its bound it uses."""
    if cell.status == "PASS":
        if cell.bits is None or not cell.bound or not math.isfinite(cell.bound):
            return "pass near0"
        share = cell.bits / cell.bound
        return f"pass near{0 if share < 1 / 3 else 1 if share < 2 / 3 else 2}"
    if cell.status in {"FAIL", "NAN", "RAISES"}:
        return "fail"
    return {"XFAIL": "known", "XPASS": "better", "CRASH": "crash"}.get(cell.status, "untested")


def _quantity_text(rows: Sequence[Row], quantity: str) -> str:
    cells = [row.cell for row in rows if row.cell.quantity == quantity]
    if not cells:
        return "·"
    worst = max(cells, key=badness)
    words = {
        "NAN": "NaN",
        "RAISES": "err",
        "CRASH": "lost",
        "UNTESTED": chart.NONE,
        "UNSUPPORTED": "n/a",
    }
    if worst.status in words:
        return words[worst.status]
    if worst.bits is not None:
        return bits_text(worst.bits)
    return "✓" if worst.status in {"PASS", "XFAIL"} else "✕"


def _case_entries(case: Mapping[str, Any] | None) -> list[Entry]:
    """A case's description, known keys first; hex floats are also shown as decimals."""
    if not case:
        return []
    order = ("description", "comment", "flags", "params", "inputs", "weights", "got", "expected")
    entries = []
    for key in sorted(case, key=lambda name: place(name, order)):
        value = case[key]
        if isinstance(value, dict):
            for name, item in list(value.items())[:SHOWN_NUMBERS]:
                entries.append(Entry(printable(f"{key}.{name}", 120), *_value_text(item)))
        else:
            entries.append(Entry(printable(key, 120), *_value_text(value)))
    return entries


_HEX = re.compile(r"[+-]?0x[0-9a-f](?:\.[0-9a-f]{0,40})?p[+-]?[0-9]{1,5}", re.ASCII | re.IGNORECASE)


def _value_text(value: Any) -> tuple[str, str]:
    shown = _laid_out(value, _decimal, [SHOWN_NUMBERS])
    exact = _laid_out(value, str, [SHOWN_NUMBERS])
    return printable(shown), printable(exact) if shown != exact and "0x" in exact else ""


def _decimal(value: object) -> str:
    if isinstance(value, str) and _HEX.fullmatch(value):
        try:
            return f"{float.fromhex(value):.9g}"
        except OverflowError:
            return value
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _laid_out(value: Any, write: Callable[[object], str], left: list[int]) -> str:
    """Nested lists on one line, cut after ``left`` numbers."""
    if isinstance(value, dict):
        inner = [
            f"{name}: {_laid_out(item, write, left)}" for name, item in list(value.items())[:12]
        ]
        return "{" + ", ".join(inner) + "}"
    if not isinstance(value, list | tuple):
        left[0] -= 1
        return write(value)
    parts = []
    for number, item in enumerate(value):
        if left[0] <= 0:
            parts.append(f"… {len(value) - number} more")
            break
        parts.append(_laid_out(item, write, left))
    return f"[{', '.join(parts)}]"


def _judgement(row: Row) -> Judgement:
    cell = row.cell
    condition = chart.NONE if cell.condition is None else f"{cell.condition:.3g}"
    return Judgement(
        cell=cell,
        label=row.label,
        look=look(cell),
        bits=bits_text(cell.bits),
        median=bits_text(cell.median_bits),
        condition=condition,
        bound=bits_text(cell.bound),
        detail=printable(cell.detail, 1000),
    )


def _grid(
    key: str,
    rows: Sequence[Row],
    group_of: Callable[[Row], tuple[str, str]],
    sub_of: Callable[[Row], str],
    figures: bool,
) -> Grid:
    """Arrange rows as losses against groups of columns."""
    subs: dict[tuple[str, str], set[str]] = {}
    lines: dict[str, dict[tuple[str, str, str], list[Row]]] = {}
    for row in rows:
        pair, sub = group_of(row), sub_of(row)
        subs.setdefault(pair, set()).add(sub)
        lines.setdefault(row.cell.loss, {}).setdefault((*pair, sub), []).append(row)
    order = sorted(subs, key=lambda pair: (_label_place(pair[0]), place(pair[1], MODE_ORDER)))
    groups = [
        Group(
            key=pair[0],
            name=printable(pair[0], 80),
            mode=printable(pair[1], 40),
            subs=sorted(subs[pair], key=lambda sub: place(sub, DTYPE_ORDER)),
        )
        for pair in order
    ]
    made: list[Line] = []
    panels: list[GridCell] = []
    for loss in sorted(lines):
        cells: list[GridCell | None] = []
        for pair, group in zip(order, groups, strict=True):
            for sub in group.subs:
                held = lines[loss].get((*pair, sub))
                if held is None:
                    cells.append(None)
                    continue
                cell = _grid_cell(f"{key}-{len(panels)}", loss, group, sub, held, figures)
                cells.append(cell)
                panels.append(cell)
        worst = max((row for held in lines[loss].values() for row in held), key=_row_badness)
        names = dict.fromkeys(r.cell.class_ for held in lines[loss].values() for r in held)
        made.append(
            Line(
                name=printable(loss, 120),
                title=printable(next((name for name in names if name), ""), 120),
                look=look(worst.cell),
                weight=_weight(worst.cell),
                cells=cells,
            )
        )
    return Grid(key, groups, made, panels)


def _label_place(label: str) -> tuple[int, str]:
    return (place(label.split(" ")[0], PLATFORM_ORDER)[0], label)


def _row_badness(row: Row) -> tuple[int, float, float]:
    return badness(row.cell)


def _weight(cell: Cell) -> float:
    """One number that sorts like :func:`badness`, for the script."""
    status, excess, _ = badness(cell)
    return status * 1e6 + min(max(excess, -1e5), 1e5)


def _grid_cell(
    anchor: str, loss: str, group: Group, sub: str, rows: Sequence[Row], figures: bool
) -> GridCell:
    worst = max(rows, key=_row_badness)
    if figures:
        lines = [_quantity_text(rows, quantity) for quantity in ("value", "gradient")]
        if lines == ["·", "·"]:
            lines = [_quantity_text(rows, worst.cell.quantity)]
    else:
        failed = sum(row.cell.status in FAILING for row in rows)
        tested = sum(row.cell.status not in NOT_TESTED for row in rows)
        if tested < 2:
            lines = [_quantity_text(rows, worst.cell.quantity)]
        else:
            lines = [f"{tested - failed}/{tested}"]
    evidence = [row for row in sorted(rows, key=_row_badness, reverse=True) if row.case]
    shown = [row for row in evidence if row.cell.status in FAILING][:3] or evidence[:1]
    where = " · ".join(part for part in (group.name, group.mode, printable(sub, 60)) if part)
    return GridCell(
        anchor=anchor,
        look=look(worst.cell),
        lines=lines,
        title=f"{printable(loss, 120)}, {where}: {verdict_text(worst.cell)}",
        weight=_weight(worst.cell),
        group=group.key,
        sub=sub,
        judgements=[_judgement(row) for row in rows],
        evidence=[
            Evidence(
                title=printable(
                    " · ".join(
                        p for p in (r.cell.quantity, r.cell.stratum, r.cell.worst_case) if p
                    ),
                    300,
                ),
                entries=_case_entries(r.case),
            )
            for r in shown
        ],
        heading=f"{printable(loss, 120)} · {where}",
    )


def _versus(report: Report) -> Grid:
    """Losses against platforms and dtypes: ours and the built-in, side by side.

    A loss with several built-ins on a platform has as many lines.
    """
    theirs = () if report.builtins is None else report.builtins.rows
    uses = () if report.builtins is None else report.builtins.uses
    recorded = {use.deviation.id: use.deviation.status for use in uses}
    ours: dict[tuple[str, ...], list[Row]] = {}
    for row in report.merged.rows:
        if row.cell.track == "stability":
            ours.setdefault((row.cell.loss, row.label, row.cell.dtype), []).append(row)
    held: dict[tuple[str, int], dict[tuple[str, str], list[Row]]] = {}
    named: dict[tuple[str, str], list[str]] = {}
    subs: dict[str, set[str]] = {}
    for row in theirs:
        names = named.setdefault((row.cell.loss, row.label), [])
        if row.cell.subject not in names:
            names.append(row.cell.subject)
        line = held.setdefault((row.cell.loss, names.index(row.cell.subject)), {})
        line.setdefault((row.label, row.cell.dtype), []).append(row)
        subs.setdefault(row.label, set()).add(row.cell.dtype)
    groups = [
        Group(label, printable(label, 80), "", sorted(subs[label], key=_dtype_place))
        for label in sorted(subs, key=_label_place)
    ]
    lines: list[Line] = []
    panels: list[GridCell] = []
    for (loss, _), columns in sorted(held.items()):
        cells: list[GridCell | None] = []
        for group in groups:
            for sub in group.subs:
                rows = columns.get((group.key, sub))
                if rows is None:
                    cells.append(None)
                    continue
                beside = ours.get((loss, group.key, sub), [])
                cell = _versus_cell(f"versus-{len(panels)}", group, sub, beside, rows, recorded)
                cells.append(cell)
                panels.append(cell)
        everyone = [row for rows in columns.values() for row in rows]
        worst = max(everyone, key=_row_badness).cell
        lines.append(
            Line(
                name=printable(loss, 120),
                title=printable(worst.class_, 120),
                look=look(worst),
                weight=_weight(worst),
                cells=cells,
                small=[
                    printable(name, 120)
                    for name in dict.fromkeys(row.cell.subject for row in everyone)
                ],
            )
        )
    return Grid("versus", groups, lines, panels)


def _versus_cell(
    anchor: str,
    group: Group,
    sub: str,
    ours: Sequence[Row],
    theirs: Sequence[Row],
    recorded: Mapping[str, Status],
) -> GridCell:
    """Both sides over the same modes and strata."""
    places = {(row.cell.mode, row.cell.stratum) for row in theirs}
    ours = [row for row in ours if (row.cell.mode, row.cell.stratum) in places]
    pairs = []
    for quantity in ("value", "gradient"):
        for rows in (ours, theirs):
            held = [row for row in rows if row.cell.quantity == quantity]
            if not held:
                pairs.append(("·", "untested"))
                continue
            worst = max(held, key=_row_badness)
            style = look(worst.cell)
            if rows is theirs and worst.cell.status == "XFAIL":
                # On record or not, it is what a user of the built-in loses.
                style = "beyond"
                status = recorded.get(worst.cell.deviation or "", "FAIL")
                cell = msgspec.structs.replace(worst.cell, status=status)
                held = [msgspec.structs.replace(worst, cell=cell)]
            pairs.append((_quantity_text(held, quantity), style))
    made = _grid_cell(anchor, theirs[0].cell.subject, group, sub, theirs, True)
    words = [f"{who} {text}" for (text, _), who in zip(pairs, ("ours", "its own") * 2, strict=True)]
    return replace(
        made,
        pairs=pairs,
        title=f"{made.heading}: value {', '.join(words[:2])}; gradient {', '.join(words[2:])}",
        judgements=[_judgement(row) for row in (*ours, *theirs)],
    )


def _dtype_place(dtype: str) -> tuple[int, str]:
    return place(dtype, DTYPE_ORDER)


def html(report: Report) -> str:
    """One page with everything in it, which loads nothing."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["p"] = printable
    environment.filters["bits"] = bits_text
    environment.filters["short"] = lambda name: _ABBREVIATED.get(name, name)
    environment.filters["link"] = safe_link
    environment.filters["words"] = lambda name: re.split(r"(?<=[a-z])(?=[A-Z])|(?<=_)", name)
    rows = report.merged.rows
    by_track = {
        track: [row for row in rows if row.cell.track == track]
        for track in ("stability", "agreement", "contract", "convergence")
    }
    stability, agreement = (
        _grid(
            track, by_track[track], lambda r: (r.label, r.cell.mode), lambda r: r.cell.dtype, True
        )
        for track in ("stability", "agreement")
    )
    contract = _grid(
        "contract",
        by_track["contract"],
        lambda row: (row.label, ""),
        lambda row: row.cell.quantity,
        False,
    )
    worst = sorted(
        (row for row in rows if row.cell.status not in NOT_TESTED), key=_row_badness, reverse=True
    )
    return environment.get_template("report.html.j2").render(
        # Both files ship with this module; nothing measured reaches them.
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        script_hash=digest,
        report=report,
        summary=report.summary,
        headline=headline(report.summary),
        worst_text=worst_text(report.summary),
        sources=report.merged.sources,
        versions_text=_versions_text,
        stability=stability,
        versus=_versus(report),
        builtins=report.builtins,
        builtins_text=builtins_text,
        gains=gains(report),
        agreement=agreement,
        contract=contract,
        worst=[(_judgement(row), _case_entries(row.case)) for row in worst[:WORST_ROWS]],
        strips=chart.strips(by_track["stability"]),
        panels=chart.panels(report.merged.runs),
        training=chart.training_table(report.merged.runs, by_track["convergence"]),
        convergence=[_judgement(row) for row in by_track["convergence"]],
        uses=report.uses,
        labels=sorted({row.label for row in by_track["stability"]}, key=_label_place),
        dtypes=sorted(
            # A loss that was left out has no dtype, and nothing to choose.
            {row.cell.dtype for row in by_track["stability"]} - {""},
            key=lambda d: place(d, DTYPE_ORDER),
        ),
    )


def safe_link(text: str) -> str:
    """The address of a reference, or nothing where it is not a plain web address."""
    return (
        text if re.fullmatch(r"https?://[\w.~:/?#@!$&'()*+,;=%-]{1,2000}", text, re.ASCII) else ""
    )
