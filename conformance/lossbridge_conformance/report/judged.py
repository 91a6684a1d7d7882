"""A run judged by the record: what every output format is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from lossbridge_conformance import deviations, results
from lossbridge_conformance.formats import FORMATS
from lossbridge_conformance.results import FAILING, NOT_TESTED, OURS, Cell, Merged, Row, Summary

# The rows of a table of the worst, or of the largest differences.
WORST_ROWS = 10


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
