"""The HTML page: grids, panels, curves and the worst cells, with everything in it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2
import markupsafe
import msgspec

from lossbridge_conformance import chart
from lossbridge_conformance.report.judged import WORST_ROWS, Report, gains
from lossbridge_conformance.report.words import (
    Entry,
    bits_text,
    builtins_text,
    case_entries,
    headline,
    printable,
    quantity_text,
    verdict_text,
    versions_text,
    worst_text,
)
from lossbridge_conformance.results import (
    DTYPE_ORDER,
    FAILING,
    MODE_ORDER,
    NOT_TESTED,
    PLATFORM_ORDER,
    Cell,
    Row,
    Status,
    badness,
    place,
)

TEMPLATES = Path(__file__).with_name("templates")


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
        lines = [quantity_text(rows, quantity) for quantity in ("value", "gradient")]
        if lines == ["·", "·"]:
            lines = [quantity_text(rows, worst.cell.quantity)]
    else:
        failed = sum(row.cell.status in FAILING for row in rows)
        tested = sum(row.cell.status not in NOT_TESTED for row in rows)
        if tested < 2:
            lines = [quantity_text(rows, worst.cell.quantity)]
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
                entries=case_entries(r.case),
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
            pairs.append((quantity_text(held, quantity), style))
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
        versions_text=versions_text,
        stability=stability,
        versus=_versus(report),
        builtins=report.builtins,
        builtins_text=builtins_text,
        gains=gains(report),
        agreement=agreement,
        contract=contract,
        worst=[(_judgement(row), case_entries(row.case)) for row in worst[:WORST_ROWS]],
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
