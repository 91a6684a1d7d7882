"""Recorded deviations: cells known to differ, within stated bounds and for a stated reason.

Both bounds are enforced. A cell that does worse than its deviation allows still fails; one that
does better is an improvement that has to be recorded, and fails until it is. What nobody measures
any more is reported as stale.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lossbridge.errors import ArgumentError, shown
from lossbridge.versions import clauses, within
from lossbridge_conformance.cases import STRATA
from lossbridge_conformance.results import (
    FAILING,
    NOT_TESTED,
    OURS,
    Cell,
    Merged,
    Name,
    ResultsError,
    Row,
    Text,
    load_json,
    plain,
    read_bytes,
)

DEVIATIONS_SCHEMA = "lossbridge-deviations/1"
DEVIATIONS_FILE = Path(__file__).with_name("deviations.json")
BUILTINS_FILE = Path(__file__).with_name("builtin_deviations.json")


class Deviation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One recorded exception.

    An empty list of platforms, modes, ... means any. ``versions`` maps a package to a range such
    as ``">=2.18, <2.22"``. ``status`` is what the cell would be without the deviation: ``FAIL``
    is bounded by ``min_bits`` and ``max_bits``; the others have no figure to bound.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    subjects: tuple[Name, ...] = (OURS,)
    platforms: tuple[Name, ...] = ()
    modes: tuple[Name, ...] = ()
    losses: tuple[Name, ...] = ()
    dtypes: tuple[Name, ...] = ()
    quantities: tuple[Name, ...] = ()
    strata: tuple[Name, ...] = ()
    tracks: tuple[Name, ...] = ()
    versions: dict[Name, Name] = msgspec.field(default_factory=dict)
    status: Literal["FAIL", "NAN", "RAISES", "UNSUPPORTED"] = "FAIL"
    min_bits: float | None = None
    max_bits: float | None = None
    link: Text = ""

    def covers(self, cell: Cell, versions: Mapping[str, str]) -> bool:
        """Whether ``cell``, measured at ``versions``, is one this deviation speaks of."""
        return self.names(cell) and all(
            name in versions and within(versions[name], accepted)
            for name, accepted in self.versions.items()
        )

    def names(self, cell: Cell) -> bool:
        """Whether ``cell`` has the coordinates named here, at whatever versions."""
        return all(
            not accepted or actual in accepted
            for accepted, actual in (
                (self.subjects, cell.subject),
                (self.platforms, cell.platform),
                (self.modes, cell.mode),
                (self.losses, cell.loss),
                (self.dtypes, cell.dtype),
                (self.quantities, cell.quantity),
                (self.strata, cell.stratum),
                (self.tracks, cell.track),
            )
        )

    def verdict(self, cell: Cell) -> Cell:
        """``cell`` (with its own, unexcused status) as judged by this deviation."""
        if cell.status in {"UNTESTED", "CRASH"}:
            return cell
        if cell.status == "UNSUPPORTED":
            # Explained, but still not tested: it must not be counted among the passed.
            known = self.status == "UNSUPPORTED"
            return msgspec.structs.replace(cell, deviation=self.id) if known else cell
        if self.status != "FAIL":
            if cell.status == self.status:
                return _judged(cell, "XFAIL", self.id, "")
            if cell.status == "PASS":
                return _judged(cell, "XPASS", self.id, f"recorded as {self.status}, but passes now")
            return cell
        low, high = _bounds(self)
        if cell.bits is None or math.isnan(cell.bits):
            if cell.status == "PASS":
                return _judged(cell, "XPASS", self.id, "recorded as differing, but passes now")
            return cell
        if cell.status not in {"PASS", "FAIL"}:
            return cell
        if cell.bits < low:
            text = f"{cell.bits:.3g} bits is better than the recorded minimum of {low:.3g}"
            return _judged(cell, "XPASS", self.id, text)
        if cell.bits > high and cell.status == "FAIL":
            text = f"{cell.bits:.3g} bits is beyond the {high:.3g} that {self.id} allows"
            return msgspec.structs.replace(cell, detail=_joined(cell.detail, text))
        return _judged(cell, "XFAIL", self.id, "") if cell.status == "FAIL" else cell


class DeviationUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one deviation in one run."""

    deviation: Deviation
    state: Literal["in use", "stale", "not exercised"]
    cells: tuple[str, ...] = ()
    measured_min: float | None = None
    measured_max: float | None = None
    note: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: Literal["lossbridge-deviations/1"]
    deviations: tuple[Deviation, ...]


def _bounds(deviation: Deviation) -> tuple[float, float]:
    if deviation.min_bits is None or deviation.max_bits is None:  # `check` refuses these on reading
        raise ResultsError(
            "semantic", f"deviation {shown(deviation.id)} lacks min_bits or max_bits"
        )
    return deviation.min_bits, deviation.max_bits


def _joined(detail: str, text: str) -> str:
    return text if not detail else detail if text in detail else f"{detail}; {text}"[:20_000]


def _judged(cell: Cell, status: Literal["XFAIL", "XPASS"], name: str, text: str) -> Cell:
    detail = _joined(cell.detail, text) if text else cell.detail
    return msgspec.structs.replace(cell, status=status, deviation=name, detail=detail)


def check(deviations: Sequence[Deviation], origin: str) -> None:
    """Refuse what could excuse anything: missing or empty bounds, no minimum, twice the same id."""
    for name, group in itertools.groupby(sorted(deviation.id for deviation in deviations)):
        if len(list(group)) > 1:
            raise ResultsError("semantic", f"{origin}: deviation id {shown(name)} occurs twice")
    for deviation in deviations:
        where = f"{origin}: deviation {shown(deviation.id)}"
        for accepted in deviation.versions.values():
            try:
                if not clauses(accepted):
                    raise ArgumentError("an empty version range holds every version; leave it out")
            except ArgumentError as error:
                raise ResultsError("semantic", f"{where}: {error}") from None
        unknown = [name for name in deviation.strata if name not in STRATA]
        if unknown:
            raise ResultsError(
                "semantic", f"{where} has the stratum {shown(unknown[0])}; there are {STRATA}"
            )
        low, high = deviation.min_bits, deviation.max_bits
        if deviation.status != "FAIL":
            if low is not None or high is not None:
                raise ResultsError(
                    "semantic", f"{where} has status {deviation.status}, so bits do not apply"
                )
        elif low is None or high is None:
            raise ResultsError("semantic", f"{where} lacks min_bits or max_bits; give both")
        elif not 0 < low <= high < math.inf:
            raise ResultsError(
                "semantic",
                f"{where} has min_bits {low} and max_bits {high}, expected 0 < min_bits <= "
                "max_bits, both finite: with no minimum an improvement would go unseen",
            )


def load(path: str | os.PathLike[str] = DEVIATIONS_FILE) -> tuple[Deviation, ...]:
    """Read recorded deviations strictly; the shipped ones by default."""
    raw = load_json(read_bytes(path), str(path))
    try:
        deviations = msgspec.convert(raw, _File, strict=True).deviations
    except (msgspec.ValidationError, RecursionError) as error:
        raise ResultsError(
            "schema", f"{str(path)!r} does not follow {DEVIATIONS_SCHEMA}: {plain(error)}"
        ) from error
    check(deviations, str(path))
    return deviations


def recorded() -> tuple[Deviation, ...]:
    """All that is on record: of ours, and of the frameworks' own losses."""
    return (*load(), *load(BUILTINS_FILE))


def match(
    cell: Cell, versions: Mapping[str, str], deviations: Sequence[Deviation]
) -> Deviation | None:
    """The deviation that decides ``cell``: one that explains it, else the first that covers it."""
    covering = [deviation for deviation in deviations if deviation.covers(cell, versions)]
    raw = unexcused(cell)
    for deviation in covering:
        verdict = deviation.verdict(raw)
        if verdict.status == "XFAIL" or (raw.status == "UNSUPPORTED" and verdict.deviation):
            return deviation
    return covering[0] if covering else None


def unexcused(cell: Cell) -> Cell:
    """``cell`` with the status it has before any deviation is heard."""
    if cell.status not in {"XFAIL", "XPASS"}:
        return cell
    passes = cell.bits is not None and cell.bound is not None and cell.bits <= cell.bound
    if cell.bits is None and cell.status == "XPASS":
        passes = True
    return msgspec.structs.replace(cell, status="PASS" if passes else "FAIL")


def judge(cell: Cell, versions: Mapping[str, str], deviations: Sequence[Deviation]) -> Cell:
    """``cell`` as it stands with ``deviations`` on record.

    A cell that arrives already excused is judged again, so an old results file cannot excuse what
    the record no longer holds.
    """
    raw = unexcused(cell)
    if cell.status == "XFAIL" and cell.bits is None:
        # Its figureless status is known only to the deviation it cites.
        for deviation in deviations:
            if deviation.id == cell.deviation and deviation.status != "FAIL":
                raw = msgspec.structs.replace(cell, status=deviation.status)
    found = match(raw, versions, deviations)
    if found is not None:
        judged = found.verdict(raw)
        if judged.status in {"XFAIL", "XPASS", "UNSUPPORTED"}:
            return judged
        raw = judged
    if cell.deviation is not None and cell.status in {"XFAIL", "XPASS"}:
        text = f"cites deviation {cell.deviation!r}, which is not on record for it"
        raw = msgspec.structs.replace(raw, detail=_joined(raw.detail, text))
    return msgspec.structs.replace(raw, deviation=None)


def apply(
    merged: Merged, deviations: Sequence[Deviation]
) -> tuple[Merged, tuple[DeviationUse, ...]]:
    """Judge every cell of a run by the record, and say what became of each deviation."""
    check(deviations, "the deviations given")
    rows: list[Row] = []
    covered: dict[str, list[Row]] = {deviation.id: [] for deviation in deviations}
    for row in merged.rows:
        versions = merged.versions(row)
        judged = msgspec.structs.replace(row, cell=judge(row.cell, versions, deviations))
        rows.append(judged)
        cell = judged.cell
        for deviation in deviations:
            # A cell beyond its deviation's maximum fails, but shows that the deviation is real.
            mine = cell.deviation == deviation.id or (
                cell.deviation is None
                and cell.status in FAILING
                and deviation.covers(cell, versions)
            )
            if mine:
                covered[deviation.id].append(judged)
    uses = tuple(_use(deviation, covered[deviation.id], merged) for deviation in deviations)
    return msgspec.structs.replace(merged, rows=tuple(rows)), uses


def _use(deviation: Deviation, rows: Sequence[Row], merged: Merged) -> DeviationUse:
    if rows:
        bits = [row.cell.bits for row in rows if row.cell.bits is not None]
        return DeviationUse(
            deviation=deviation,
            state="in use",
            cells=tuple(f"{row.label}: {row.cell.id}" for row in rows),
            measured_min=min(bits, default=None),
            measured_max=max(bits, default=None),
        )
    # A run of one loss must not call the record of all others stale.
    named = [
        row
        for row in merged.rows
        if deviation.names(row.cell) and row.cell.status not in NOT_TESTED
    ]
    if not named:
        had = [row.cell for row in merged.rows if row.cell.status not in NOT_TESTED]
        asked = all(
            not wanted or any(getattr(cell, name) in wanted for cell in had)
            for name, wanted in (
                ("subject", deviation.subjects),
                ("platform", deviation.platforms),
                ("loss", deviation.losses),
                ("dtype", deviation.dtypes),
                ("mode", deviation.modes),
                ("stratum", deviation.strata),
                ("track", deviation.tracks),
            )
        )
        if asked:
            return DeviationUse(
                deviation=deviation, state="stale", note="no cell has these coordinates"
            )
        return DeviationUse(
            deviation=deviation, state="not exercised", note="its cells were not part of this run"
        )
    in_range = any(deviation.covers(row.cell, merged.versions(row)) for row in named)
    if not in_range:
        return DeviationUse(
            deviation=deviation,
            state="not exercised",
            note="the versions measured are outside its range",
        )
    return DeviationUse(
        deviation=deviation, state="stale", note="every cell it speaks of stands without it"
    )
