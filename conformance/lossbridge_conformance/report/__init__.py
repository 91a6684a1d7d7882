"""Reports from merged results: HTML page, Markdown summary, JUnit XML and badge.

Everything shown may come from a hostile spec file, so every text passes through
:func:`printable` (no control or direction-changing character survives) and then through the
escaping of its format. The page loads nothing: styles, drawings and the few lines of script are
inside, and its content security policy admits no other.
"""

from __future__ import annotations

import os
from pathlib import Path

from lossbridge_conformance import results
from lossbridge_conformance.report.judged import Report, gains, prepare
from lossbridge_conformance.report.machine import badge, junit, summary_json
from lossbridge_conformance.report.page import html, safe_link
from lossbridge_conformance.report.summary import MARKDOWN_LIMIT, markdown
from lossbridge_conformance.report.words import first_lines, verdict_text

NAMES = {
    "html": "report.html",
    "markdown": "summary.md",
    "junit": "junit.xml",
    "badge": "badge.json",
}


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


__all__ = [
    "MARKDOWN_LIMIT",
    "NAMES",
    "Report",
    "badge",
    "first_lines",
    "gains",
    "html",
    "junit",
    "markdown",
    "prepare",
    "safe_link",
    "summary_json",
    "verdict_text",
    "write_reports",
]
