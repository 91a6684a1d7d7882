"""What other programs read: JUnit XML, the badge and the summary as JSON."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec

from lossbridge_conformance import results
from lossbridge_conformance.report.judged import Report
from lossbridge_conformance.report.words import case_entries, printable, verdict_text
from lossbridge_conformance.results import FAILING, NOT_TESTED, Row


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
    lines += [f"{entry.name}: {entry.text}" for entry in case_entries(row.case)]
    problem.text = "\n".join(lines)
