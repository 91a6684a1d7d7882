"""The results file: strict both ways, merged without losing anything, summed up correctly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lossbridge.errors import LossbridgeError, OutputError
from lossbridge_conformance import results
from lossbridge_conformance.results import Cell, Curve, ExitCode, Results, ResultsError


def a_cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "track": "stability",
        "loss": "focal@1",
        "class_": "FocalLoss",
        "platform": "torch",
        "mode": "eager",
        "dtype": "float32",
        "quantity": "gradient",
        "stratum": "practical",
        "status": "PASS",
        "bits": 1.5,
        "bound": 4.0,
        "cases": 64,
    } | changes
    coordinates = ("track", "loss", "platform", "mode", "dtype", "quantity", "stratum")
    fields.setdefault("id", results.cell_id(*(fields[name] for name in coordinates)))
    return Cell(**fields)


def a_file(*cells: Cell, **changes: Any) -> Results:
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00Z",
        "platform": "torch",
        "versions": {"torch": "2.13.0"},
        "fixtures": "f" * 64,
        "seconds": 1.0,
        "cells": cells,
    } | changes
    return Results(**fields)


def raw(file: Results) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(results.encode(file))
    return loaded


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    case = {"inputs": {"logits": ["0x1.4p+4", "0x0p+0"]}, "got": "nan", "expected": 1.5}
    file = a_file(
        a_cell(worst_case="c/1", detail="é\x1b"),
        cases={"c/1": case},
        curves=(
            Curve(
                id="x",
                dataset="digits",
                loss="MSELoss",
                optimizer="sgd",
                platform="torch",
                track="control:seed",
                variant=2,
                values=(1.0, 0.5),
                iterations=1,
                threshold=0.5,
            ),
        ),
    )
    path = results.write(file, tmp_path / "new" / "torch.json")
    assert results.read(path) == file
    assert [entry.name for entry in path.parent.iterdir()] == ["torch.json"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_non_finite_figures_survive(value: float) -> None:
    curve = Curve(
        id="x", dataset="d", loss="l", optimizer="o", platform="p", track="aligned",
        values=(1.0, value),
    )  # fmt: skip
    file = a_file(
        a_cell(bits=value, condition=value, worst_case="c"),
        cases={"c": {"got": [value]}},
        curves=(curve,),
    )
    text = results.encode(file).decode()
    back = results.decode(text.encode())
    assert back.cells[0].bits == pytest.approx(value, nan_ok=True)
    assert back.cells[0].condition == pytest.approx(value, nan_ok=True)
    assert back.curves[0].values[1] == pytest.approx(value, nan_ok=True)
    assert back.cases["c"]["got"] == [str(value)]
    # Strict JSON: other readers must not meet bare words.
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schema": "lossbridge-results/2"}, "version"),
        ({"schema": None}, "version"),
        ({"extra": 1}, "schema"),
        ({"seconds": -1}, "schema"),
        ({"seconds": "1"}, "schema"),
        ({"cells": {}}, "schema"),
        ({"platform": "p" * 401}, "schema"),
        ({"curves": [{"id": "x"}]}, "schema"),
        ({"cases": {"c": 1}}, "schema"),
    ],
)
def test_a_wrong_document_is_refused(change: dict[str, Any], code: str) -> None:
    document = raw(a_file(a_cell())) | change
    with pytest.raises(ResultsError) as caught:
        results.decode(json.dumps(document).encode())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"status": "GOOD"}, "schema"),
        ({"bits": "infinite"}, "schema"),
        ({"bits": True}, "schema"),
        ({"cases": -1}, "schema"),
        ({"surprise": 0}, "schema"),
        ({"worst_case": "absent"}, "semantic"),
        ({"id": ""}, "semantic"),
    ],
)
def test_a_wrong_cell_is_refused(change: dict[str, Any], code: str) -> None:
    document = raw(a_file(a_cell()))
    document["cells"][0] |= change
    with pytest.raises(ResultsError) as caught:
        results.decode(json.dumps(document).encode())
    assert caught.value.code == code


@pytest.mark.parametrize(
    "data",
    [b"", b"[" * 100_000, b"\xff{}", b'{"schema": 1e999}', b'{"seconds": NaN}', b'"\\ud800"'],
)
def test_broken_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ResultsError) as caught:
        results.decode(data)
    assert caught.value.code == "parse"


def test_every_truncation_is_refused() -> None:
    whole = results.encode(a_file(a_cell())).rstrip()
    for length in range(0, len(whole), 7):
        with pytest.raises(ResultsError):
            results.decode(whole[:length])


def test_a_duplicate_cell_is_refused() -> None:
    with pytest.raises(ResultsError, match="occurs twice"):
        results.encode(a_file(a_cell(), a_cell()))


def test_deep_nesting_is_refused() -> None:
    deep: Any = 1.0
    for _ in range(40):
        deep = [deep]
    with pytest.raises(ResultsError, match="nested"):
        results.encode(a_file(a_cell(worst_case="c"), cases={"c": {"got": deep}}))


def test_errors_hold_no_terminal_escape() -> None:
    document = raw(a_file()) | {"\x1b]0;owned\x07": 1}
    with pytest.raises(ResultsError) as caught:
        results.decode(json.dumps(document).encode())
    assert "\x1b" not in str(caught.value)
    assert "owned" in str(caught.value)


def test_missing_file_and_blocked_folder(tmp_path: Path) -> None:
    with pytest.raises(ResultsError) as caught:
        results.read(tmp_path / "absent.json")
    assert caught.value.code == "unreadable"
    assert isinstance(caught.value, LossbridgeError)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out DIR"):
        results.write(a_file(), tmp_path / "file" / "torch.json")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = results.write(a_file(), tmp_path / "torch.json")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        results.write(a_file(a_cell()), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_published_schema_is_the_one_the_code_makes() -> None:
    assert results.SCHEMA_FILE.read_text(encoding="utf-8") == results.results_schema_text()


def test_the_schema_describes_every_field_that_is_written() -> None:
    definitions = results.results_schema()["$defs"]
    for kind, struct in (("Results", Results), ("Cell", Cell), ("Curve", Curve)):
        names = {field.encode_name for field in msgspec.structs.fields(struct)}
        assert set(definitions[kind]["properties"]) == names
        assert definitions[kind]["additionalProperties"] is False
    assert {"enum": ["inf", "-inf", "nan"]} in definitions["Cell"]["properties"]["bits"]["anyOf"]
    assert "schema" in definitions["Results"]["required"]


# --- merging -------------------------------------------------------------------------------------


def test_shards_of_one_environment_become_one_source() -> None:
    one = a_file(a_cell(), seconds=1.0)
    two = a_file(a_cell(loss="mse@1"), seconds=2.0)
    merged = results.merge([one, two])
    assert [(s.label, s.files, s.seconds) for s in merged.sources] == [("torch", 2, 3.0)]
    assert [row.cell.loss for row in merged.rows] == ["focal@1", "mse@1"]


def test_two_versions_of_a_platform_stay_apart() -> None:
    files = [
        a_file(
            a_cell(platform="keras", bits=bits),
            platform="keras",
            versions={"keras": "3.15", "tensorflow": v},
        )
        for v, bits in (("2.18.1", 1.0), ("2.21.0", 2.0))
    ]
    merged = results.merge([*files, a_file(a_cell())])
    assert [s.label for s in merged.sources] == [
        "torch",
        "keras (tensorflow 2.18.1)",
        "keras (tensorflow 2.21.0)",
    ]
    assert len(merged.rows) == 3


def test_the_order_of_files_does_not_matter() -> None:
    files = [
        a_file(a_cell(bits=bits, status=status), created=f"2026-01-0{day}")
        for day, (bits, status) in enumerate([(1.0, "PASS"), (5.0, "FAIL"), (2.0, "PASS")], 1)
    ]
    assert results.merge(files) == results.merge(files[::-1])


def test_conflicting_shards_keep_the_worse_outcome_and_say_so() -> None:
    merged = results.merge(
        [a_file(a_cell()), a_file(a_cell(bits=9.0, status="FAIL"), created="2026-02")]
    )
    assert [row.cell.status for row in merged.rows] == ["FAIL"]
    assert "measured twice" in merged.notes[0]


def test_a_tested_cell_replaces_an_untested_one_without_comment() -> None:
    merged = results.merge([a_file(a_cell(status="UNTESTED", bits=None)), a_file(a_cell())])
    assert [row.cell.status for row in merged.rows] == ["PASS"]
    assert merged.notes == ()


def test_different_fixtures_are_noted() -> None:
    merged = results.merge([a_file(), a_file(platform="jax", fixtures="e" * 64)])
    assert "different fixtures" in merged.notes[0]


def test_the_worst_case_comes_from_its_own_file() -> None:
    files = [
        a_file(a_cell(platform=name, worst_case="c"), platform=name, cases={"c": {"got": name}})
        for name in ("torch", "jax")
    ]
    merged = results.merge(files)
    assert {row.label: row.case for row in merged.rows} == {
        "torch": {"got": "torch"},
        "jax": {"got": "jax"},
    }


def test_nothing_to_merge_is_an_error() -> None:
    with pytest.raises(ResultsError) as caught:
        results.merge([])
    assert caught.value.code == "empty"


def test_cells_of_a_whole_run_can_be_added() -> None:
    merged = results.merge([a_file(a_cell()), a_file(platform="jax", versions={"jax": "0.10"})])
    extra = {
        "id": "convergence/MSELoss/digits/sgd",
        "track": "convergence",
        "loss": "mse@1",
        "class": "MSELoss",
        "platform": "all",
        "status": "FAIL",
    }
    more = results.with_cells(merged, [extra])
    added = next(row for row in more.rows if row.source == results.CROSS)
    assert added.cell.class_ == "MSELoss"
    assert more.versions(added) == {"torch": "2.13.0", "jax": "0.10"}
    assert results.summarise(more).failed == 1
    with pytest.raises(ResultsError, match="added twice"):
        results.with_cells(more, [extra])
    with pytest.raises(ResultsError, match="does not follow"):
        results.with_cells(merged, [extra | {"status": "FINE"}])


# --- summing up ----------------------------------------------------------------------------------


def summary_of(*cells: Cell, required: tuple[str, ...] = ()) -> results.Summary:
    return results.summarise(results.merge([a_file(*cells)]), required)


def test_all_passing_conforms() -> None:
    summary = summary_of(a_cell(), a_cell(loss="mse@1", bits=3.9))
    assert (summary.conforms, summary.passed, summary.failed, summary.untested) == (True, 2, 0, 0)
    assert summary.exit_code == ExitCode.CONFORMS == 0
    assert summary.worst is not None
    assert summary.worst.loss == "mse@1"


@pytest.mark.parametrize("status", ["FAIL", "NAN", "RAISES", "XPASS", "CRASH"])
def test_one_bad_cell_is_enough(status: str) -> None:
    summary = summary_of(a_cell(), a_cell(loss="mse@1", status=status, bits=None))
    assert not summary.conforms
    assert summary.exit_code == ExitCode.DIFFERS == 1
    assert summary.failed == 1
    assert summary.lost == (status == "CRASH")
    assert summary.worst is not None
    assert summary.worst.status == status


@pytest.mark.parametrize("status", ["UNTESTED", "UNSUPPORTED"])
def test_untested_cells_neither_pass_nor_fail(status: str) -> None:
    summary = summary_of(a_cell(), a_cell(loss="mse@1", status=status, bits=None))
    assert (summary.conforms, summary.passed, summary.untested) == (True, 1, 1)


def test_nothing_tested_does_not_conform() -> None:
    summary = summary_of(a_cell(status="UNTESTED", bits=None))
    assert not summary.conforms
    assert summary.exit_code == ExitCode.DIFFERS
    assert summary.worst is None


def test_a_missing_platform_is_its_own_answer() -> None:
    missing = summary_of(a_cell(), required=("torch", "jax"))
    assert missing.missing == ("jax",)
    assert not missing.conforms
    assert missing.exit_code == ExitCode.MISSING_PLATFORM == 3
    both = summary_of(a_cell(status="FAIL"), required=("jax",))
    assert both.exit_code == ExitCode.DIFFERS


def test_every_status_is_counted_exactly_once() -> None:
    every = [*results.SEVERITY]
    cells = [a_cell(loss=f"l{n}@1", status=status) for n, status in enumerate(every)]
    summary = summary_of(*cells)
    assert summary.passed + summary.failed + summary.untested == summary.total == len(every)


def test_the_worst_cell_is_by_excess_over_its_own_bound() -> None:
    summary = summary_of(
        a_cell(loss="a@1", status="FAIL", bits=8.0, bound=7.5),
        a_cell(loss="b@1", status="FAIL", bits=6.0, bound=3.0),
    )
    assert summary.worst is not None
    assert summary.worst.loss == "b@1"


def test_what_several_platforms_say_is_said_once() -> None:
    files = [a_file(platform=p, notes=("slow", f"only {p}")) for p in ("torch", "jax")]
    found = results.merge(files).notes
    assert found == ("torch, jax: slow", "torch: only torch", "jax: only jax")
