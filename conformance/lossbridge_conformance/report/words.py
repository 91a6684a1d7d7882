"""The words and figures that the formats share; whatever they show passes through here."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossbridge_conformance import chart
from lossbridge_conformance.report.judged import Builtins, Report
from lossbridge_conformance.results import Cell, Row, Summary, badness, place

SHOWN_NUMBERS = 24


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


def quantity_text(rows: Sequence[Row], quantity: str) -> str:
    """The worst figure of one quantity, or the word for why there is none."""
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


def versions_text(versions: Mapping[str, str]) -> str:
    """Names and versions on one line."""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


@dataclass(frozen=True)
class Entry:
    """One line of a case description: a name, its text, and the exact bits where they differ."""

    name: str
    text: str
    exact: str = ""


def case_entries(case: Mapping[str, Any] | None) -> list[Entry]:
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
