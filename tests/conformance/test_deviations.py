"""Deviations: both bounds hold, versions decide, and what is no longer true is called stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lossbridge_conformance import deviations, results
from lossbridge_conformance.deviations import Deviation
from lossbridge_conformance.results import Cell, Merged, Results, ResultsError

VERSIONS = {"torch": "2.13.0+cpu"}


def a_cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "id": "c",
        "track": "stability",
        "loss": "dice@1",
        "platform": "torch",
        "mode": "compiled",
        "dtype": "float32",
        "quantity": "gradient",
        "stratum": "practical",
        "status": "FAIL",
        "bits": 5.0,
        "bound": 4.0,
    } | changes
    return Cell(**fields)


def a_deviation(**changes: Any) -> Deviation:
    fields: dict[str, Any] = {
        "id": "dev",
        "reason": "a fused multiply-add",
        "losses": ("dice@1",),
        "platforms": ("torch",),
        "min_bits": 4.5,
        "max_bits": 5.5,
    } | changes
    return Deviation(**fields)


FIGURELESS = {"min_bits": None, "max_bits": None}


def run(*cells: Cell) -> Merged:
    return results.merge(
        [Results(created="2026", platform="torch", versions=VERSIONS, cells=cells)]
    )


@pytest.mark.parametrize(
    ("bits", "status", "expected"),
    [
        (5.0, "FAIL", "XFAIL"),
        (4.5, "FAIL", "XFAIL"),
        (5.5, "FAIL", "XFAIL"),
        (5.6, "FAIL", "FAIL"),
        (4.4, "FAIL", "XPASS"),
        (1.0, "PASS", "XPASS"),
        (float("inf"), "FAIL", "FAIL"),
        (None, "NAN", "NAN"),
        (None, "RAISES", "RAISES"),
        (None, "CRASH", "CRASH"),
        (None, "UNTESTED", "UNTESTED"),
        (None, "UNSUPPORTED", "UNSUPPORTED"),
    ],
)
def test_both_bounds_are_enforced(bits: float | None, status: str, expected: str) -> None:
    judged = deviations.judge(a_cell(bits=bits, status=status), VERSIONS, [a_deviation()])
    assert judged.status == expected
    assert (judged.deviation == "dev") == (expected in {"XFAIL", "XPASS"})


@pytest.mark.parametrize("recorded", ["NAN", "RAISES"])
def test_a_figureless_deviation_excuses_its_status_only(recorded: str) -> None:
    known = a_deviation(status=recorded, **FIGURELESS)
    for status in ("NAN", "RAISES", "FAIL", "CRASH"):
        judged = deviations.judge(a_cell(status=status, bits=None), VERSIONS, [known])
        assert judged.status == ("XFAIL" if status == recorded else status)
    better = deviations.judge(a_cell(status="PASS", bits=1.0), VERSIONS, [known])
    assert better.status == "XPASS"


def test_an_explained_gap_stays_untested() -> None:
    known = a_deviation(status="UNSUPPORTED", **FIGURELESS)
    judged, uses = deviations.apply(run(a_cell(status="UNSUPPORTED", bits=None)), [known])
    assert judged.rows[0].cell.status == "UNSUPPORTED"
    assert judged.rows[0].cell.deviation == "dev"
    assert uses[0].state == "in use"
    assert results.summarise(judged).passed == 0


@pytest.mark.parametrize(
    "scope",
    [
        {"platforms": ("jax",)},
        {"modes": ("eager",)},
        {"losses": ("mse@1",)},
        {"dtypes": ("float16",)},
        {"quantities": ("value",)},
        {"strata": ("special",)},
        {"tracks": ("contract",)},
        {"versions": {"torch": "<2.13"}},
        {"versions": {"keras": ">=1"}},
    ],
)
def test_each_coordinate_limits_the_scope(scope: dict[str, Any]) -> None:
    assert deviations.match(a_cell(), VERSIONS, [a_deviation()]) is not None
    assert deviations.match(a_cell(), VERSIONS, [a_deviation(**scope)]) is None


@pytest.mark.parametrize(
    ("version", "accepted", "expected"),
    [
        ("2.13.0+cpu", ">=2.13", True),
        ("2.13.0", "==2.13", True),
        ("2.9.1", "<2.13", True),
        ("2.13.1", "<=2.13", False),
        ("2.21.0", ">=2.18, <2.22", True),
        ("2.22.0", ">=2.18, <2.22", False),
        ("3.0", "!=3", False),
        ("nightly", ">=1", False),
    ],
)
def test_version_ranges(version: str, accepted: str, expected: bool) -> None:
    assert deviations.within(version, accepted) is expected


def test_the_deviation_that_explains_a_cell_is_preferred() -> None:
    narrow = a_deviation(id="narrow", min_bits=8.0, max_bits=9.0)
    found = deviations.match(a_cell(), VERSIONS, [narrow, a_deviation()])
    assert found is not None
    assert found.id == "dev"


def test_judging_twice_changes_nothing() -> None:
    known = [a_deviation(), a_deviation(id="nan", losses=("mse@1",), status="NAN", **FIGURELESS)]
    cells = run(
        a_cell(),
        a_cell(id="b", bits=1.0, status="PASS"),
        a_cell(id="d", bits=7.0),
        a_cell(id="e", loss="mse@1", status="NAN", bits=None),
    )
    once, uses = deviations.apply(cells, known)
    again, uses_again = deviations.apply(once, known)
    assert again == once
    assert uses == uses_again


def test_a_file_cannot_excuse_itself() -> None:
    cell = a_cell(status="XFAIL", deviation="dev")
    judged = deviations.judge(cell, VERSIONS, [])
    assert judged.status == "FAIL"
    assert judged.deviation is None
    assert "not on record" in judged.detail


def test_uses_say_what_was_measured() -> None:
    merged = run(a_cell(bits=4.6), a_cell(id="b", bits=5.4))
    _, (use,) = deviations.apply(merged, [a_deviation()])
    assert (use.state, use.measured_min, use.measured_max) == ("in use", 4.6, 5.4)
    assert use.cells == ("torch: b", "torch: c")


def test_a_deviation_that_is_exceeded_is_not_stale() -> None:
    judged, (use,) = deviations.apply(run(a_cell(bits=9.0)), [a_deviation()])
    assert judged.rows[0].cell.status == "FAIL"
    assert "beyond" in judged.rows[0].cell.detail
    assert use.state == "in use"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"quantities": ("curvature",)}, "stale"),
        ({"strata": ("full",)}, "not exercised"),
        ({"modes": ("elsewhere",)}, "not exercised"),
        ({"losses": ("other@1",)}, "not exercised"),
        ({"platforms": ("jax",)}, "not exercised"),
        ({"versions": {"torch": "<2"}}, "not exercised"),
    ],
)
def test_what_matches_nothing_is_stale_only_if_it_was_asked(
    changes: dict[str, Any], state: str
) -> None:
    _, (use,) = deviations.apply(run(a_cell()), [a_deviation(**changes)])
    assert use.state == state


def test_the_shipped_record_is_readable() -> None:
    assert isinstance(deviations.load(), tuple)


def written(folder: Path, *records: dict[str, Any], **document: Any) -> Path:
    path = folder / "deviations.json"
    path.write_text(
        json.dumps({"schema": deviations.DEVIATIONS_SCHEMA, "deviations": records} | document)
    )
    return path


GOOD: dict[str, Any] = {"id": "a", "reason": "r", "min_bits": 1.0, "max_bits": 2.0}


def test_a_record_is_read(tmp_path: Path) -> None:
    (found,) = deviations.load(written(tmp_path, GOOD | {"platforms": ["torch"]}))
    assert found.platforms == ("torch",)


@pytest.mark.parametrize(
    "change",
    [
        {"min_bits": None},
        {"max_bits": None},
        {"min_bits": 0.0},
        {"min_bits": -1.0},
        {"min_bits": 3.0},
        {"reason": ""},
        {"id": ""},
        {"status": "PASS"},
        {"status": "CRASH"},
        {"status": "NAN"},
        {"platforms": "torch"},
        {"strata": ["nowhere"]},
        {"versions": {"torch": "~=2.0"}},
        {"versions": {"torch": ""}},
        {"unknown": 1},
    ],
)
def test_a_record_that_could_excuse_anything_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(ResultsError):
        deviations.load(written(tmp_path, GOOD | change))


def test_duplicate_ids_and_foreign_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="twice"):
        deviations.load(written(tmp_path, GOOD, GOOD))
    with pytest.raises(ResultsError, match="does not follow"):
        deviations.load(written(tmp_path, schema="lossbridge-deviations/9"))
