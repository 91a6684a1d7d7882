"""The Markdown summary for a CI page, under its size limit."""

from __future__ import annotations

from collections.abc import Sequence

from lossbridge_conformance.report.judged import WORST_ROWS, Gain, Report, gains
from lossbridge_conformance.report.words import (
    bits_text,
    builtins_text,
    code,
    counts_text,
    headline,
    quantity_text,
    verdict_text,
    versions_text,
    worst_text,
)
from lossbridge_conformance.results import FAILING, NOT_TESTED, PLATFORM_ORDER, Row, badness, place

# GitHub drops a step summary of more than 1,024 KiB altogether, and several steps share one page.
MARKDOWN_LIMIT = 200 * 1024

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
        f"{code(source.label)} {code(versions_text(source.versions))}"
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
    figures = [quantity_text(judged, quantity) for quantity in ("value", "gradient")]
    text = " / ".join(figures) if any(figure != "·" for figure in figures) else ""
    failed = sum(row.cell.status in FAILING for row in rows)
    return f"{_SIGNS[worst.status]} {text}{f' ({failed} failed)' if failed else ''}".strip()
