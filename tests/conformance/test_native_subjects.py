"""The frameworks' own losses in a run: beside ours, by the same judge, never in the verdict."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

pytest.importorskip("flint")
pytest.importorskip("jinja2")

from lossbridge.catalogue import catalogue
from lossbridge.errors import ArgumentError, UnsupportedError
from lossbridge.migrate.sides import parse_call
from lossbridge.witnesses import find, witnesses
from lossbridge_conformance import (
    cases,
    deviations,
    natives,
    oracle,
    report,
    results,
    runner,
    stability,
    subjects,
    worker,
)
from lossbridge_conformance.deviations import Deviation
from lossbridge_conformance.results import Cell, Results
from lossbridge_conformance.subjects import Subject
from lossbridge_conformance.workers import Worker

CROSS_ENTROPY = "torch.nn.CrossEntropyLoss()"


def ours(loss: str, tmp_path: Path) -> Subject:
    (found,) = subjects.chosen((loss,), tmp_path, settings=False)[0][:1]
    return found


def with_call(subject: Subject, **inputs: Any) -> Subject:
    """The loss with one stored case, given by hand."""
    arrays = {n: np.asarray(x) for n, x in inputs.items()}
    axis = cases.sample_axis(subject.written())
    (count,) = {len(x) for x in arrays.values()}
    ids = tuple(f"by hand/{at}" for at in range(count))
    call = cases.Call("single", "practical", ids, ((),) * count, axis, arrays)
    return dataclasses.replace(subject, calls=(call,))


def measured(subject: Subject, dtype: str = "float32") -> list[Cell]:
    """The cells of one subject in torch, run in this process."""
    probe = pytest.importorskip("lossbridge_torch.probe").PROBE
    at_work = Worker("torch", ("eager",), [], Path())
    for task in stability.tasks(subject, ("eager",), (dtype,), False):
        try:
            at_work.answers[task["id"]] = worker._run(probe, {}, task)
        except Exception as error:
            at_work.answers[task["id"]] = {"error": str(error), "kind": type(error).__name__}
    truths = {subject.name: subjects.truths(subject, (dtype,))}
    return list(stability.cells(at_work, [subject], (dtype,), truths, {}, False))


# --- which ---------------------------------------------------------------------------------------


def test_every_built_in_is_paired_or_left_out_with_a_reason() -> None:
    paired = {parse_call(text)[0] for texts in natives.PAIRS.values() for text in texts}
    assert paired | set(natives.LEFT_OUT) == set(witnesses())
    assert not paired & set(natives.LEFT_OUT)
    assert set(natives.PAIRS) <= set(catalogue())
    assert all(natives.LEFT_OUT.values())


# What a built-in multiplies the loss of ours by, or for what other reason its values are others.
FACTORS = {"optax.losses.l2_loss()": 0.5, "optax.losses.cosine_similarity()": -1.0}
MIXED = "a soft target enters its power as a mixture"
OTHER = {
    "keras.losses.Dice(axis=-1)": "its smoothing is 5e-8, ours 1",
    "keras.losses.Tversky(axis=-1)": "its smoothing is 1e-7, ours 1",
    "optax.losses.triplet_margin_loss()": "its eps is added to the squared distance",
    "keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, from_logits=True)": MIXED,
    "optax.losses.sigmoid_focal_loss(alpha=0.25)": MIXED,
    "keras.losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True)": "it clips at 1e-7",
}
PAIRED = [(loss, text) for loss, texts in natives.PAIRS.items() for text in texts]


@pytest.mark.parametrize(("loss", "text"), PAIRED)
def test_a_built_in_means_the_loss_on_whose_cases_it_is_measured(
    loss: str, text: str, tmp_path: Path
) -> None:
    mine = next(
        s for s in subjects.chosen((loss,), tmp_path, settings=False)[0] if s.spec.id == loss
    )
    theirs = natives.counterpart(mine, text)
    at = next(
        i for i, c in enumerate(mine.calls) if (c.group, c.stratum) == ("single", "practical")
    )
    values = []
    for subject in (mine, theirs):
        graph = subject.written()
        given = subject.given(graph, subject.calls[at])
        values.append(oracle.oracle(graph, given, outputs=("value",))["value"].float64())
    scaled = FACTORS.get(text, 1.0) * values[0]
    same = np.allclose(scaled, values[1], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert same != (text in OTHER)


def test_a_loss_of_the_users_has_no_built_in(tmp_path: Path) -> None:
    mine = ours("mse@1", tmp_path)
    assert [s.who for s in natives.chosen([mine], ["torch"])] == ["torch.nn.MSELoss()"]
    other = msgspec.structs.replace(mine.spec, body=catalogue()["l1@1"].spec.body)
    assert natives.chosen([dataclasses.replace(mine, spec=other)], ["torch"]) == []


def test_a_platform_need_not_have_any(tmp_path: Path) -> None:
    assert natives.chosen([ours("mse@1", tmp_path)], ["numpy"]) == []

    class Bare:
        name = "bare"

    task = {"kind": "run", "subject": "x", "native": {"name": "torch.nn.MSELoss"}, "wrt": ()}
    with pytest.raises(UnsupportedError, match="bare"):
        worker._run(Bare(), {}, task)


def test_natives_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="ours,native"):
        runner.measure_all(subjects=("native",), out=tmp_path)
    with pytest.raises(ArgumentError, match="unknown subject their"):
        runner.measure_all(subjects=("ours", "their"), out=tmp_path)


# --- judging -------------------------------------------------------------------------------------


def test_cross_entropy_at_a_margin_of_20(tmp_path: Path) -> None:
    """torch.nn gives exactly 0, and so does its gradient; the truth is 2.06e-9."""
    mine = with_call(ours("cross_entropy@1", tmp_path), logits=[[20.0, 0.0]], labels=[0])
    theirs = natives.counterpart(mine, CROSS_ENTROPY)
    value, gradient = measured(mine)
    assert (value.status, value.subject) == ("PASS", "ours")
    assert gradient.status == "PASS"
    value, gradient = measured(theirs)
    assert (value.status, value.subject, value.loss) == ("FAIL", CROSS_ENTROPY, "cross_entropy@1")
    assert value.bits is not None
    assert value.bits > 20.0
    assert gradient.status == "FAIL"
    # Where nothing is lost, the same judge lets it pass.
    near = with_call(mine, logits=[[1.0, 0.0]], labels=[0])
    assert {c.status for c in measured(natives.counterpart(near, CROSS_ENTROPY))} == {"PASS"}


def test_what_a_built_in_declares_is_not_counted_against_it(tmp_path: Path) -> None:
    """BCELoss holds logarithms at -100; what it loses beside 1 is another matter."""
    mine = with_call(ours("bce@1", tmp_path), prediction=[0.0, 0.25], target=[1.0, 0.5])
    theirs = natives.counterpart(mine, "torch.nn.BCELoss()")
    truth = subjects.truths(theirs, ("float32",))[0, "float32"]
    assert truth.rounded["value"].value[0] == 100.0
    assert {c.status for c in measured(theirs)} == {"PASS"}


def test_a_built_in_that_refuses_an_input_is_a_cell_that_says_so(tmp_path: Path) -> None:
    mine = with_call(ours("bce@1", tmp_path), prediction=[np.nan, 0.25], target=[1.0, 0.5])
    cells = measured(natives.counterpart(mine, "torch.nn.BCELoss()"))
    assert {c.status for c in cells} == {"RAISES"}
    assert all("between 0 and 1" in c.detail for c in cells)


def test_a_gradient_that_a_built_in_lacks_does_not_hide_the_others(tmp_path: Path) -> None:
    mine = with_call(ours("soft_margin@1", tmp_path), prediction=[0.5, 100.0], target=[1.0, -1.0])
    theirs = natives.counterpart(mine, "torch.nn.SoftMarginLoss()")
    value, gradient = measured(theirs)
    assert (value.status, gradient.status) == ("FAIL", "NAN")  # inf, and inf / inf


def test_functions_that_are_one_share_their_truth(tmp_path: Path) -> None:
    class Pool:
        def __init__(self) -> None:
            self.names: list[str] = []

        def map(self, function: Any, jobs: Any) -> list[Any]:
            jobs = list(jobs)
            self.names += [f"{job[0].name} {job[1]}" for job in jobs]
            return [function(job) for job in jobs]

    pool: Any = Pool()
    mine = with_call(ours("mse@1", tmp_path), prediction=[0.5, 0.25], target=[1.0, 0.5])
    built = natives.chosen([mine], ["torch", "jax", "keras"])
    dtypes = ("float64", "float32")
    found = subjects.all_truths([mine], built, dtypes, ("float32",), tmp_path, pool)
    # torch's and one of optax's are ours; Keras's averages over an axis, and the other is halved.
    assert len(pool.names) == 3
    assert set(found) == {mine.name, *(b.name for b in built)}
    assert set(found[built[0].name]) == {(0, "float32")}
    mine_at = found[mine.name][0, "float32"]
    theirs = found["torch.nn.MSELoss() on mse@1"][0, "float32"]
    assert theirs.rounded is mine_at.rounded
    assert theirs.conditions is not mine_at.conditions


# --- the verdict ---------------------------------------------------------------------------------


def a_cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "track": "stability", "loss": "mse@1", "platform": "torch", "mode": "eager",
        "dtype": "float32", "quantity": "value", "stratum": "practical", "status": "PASS",
        "bits": 0.5, "bound": 3.0, "cases": 8, "subject": "ours",
    } | changes  # fmt: skip
    names = ("track", "loss", "platform", "mode", "dtype", "quantity", "stratum", "subject")
    return Cell(id=results.cell_id(*(fields[n] for n in names)), **fields)


def theirs(bits: float | None = 25.0, status: str = "FAIL", **changes: Any) -> Cell:
    return a_cell(subject="torch.nn.MSELoss()", bits=bits, status=status, **changes)


def of(*cells: Cell, recorded: tuple[Deviation, ...] = ()) -> report.Report:
    file = Results(
        created="now", platform="torch", versions={"torch": "2.13.0"}, cells=cells,
    )  # fmt: skip
    return report.prepare(results.merge([file]), recorded)


@pytest.mark.parametrize("status", ["FAIL", "NAN", "RAISES", "CRASH", "UNTESTED", "PASS"])
def test_natives_never_change_the_verdict(status: str) -> None:
    alone, beside = of(a_cell()), of(a_cell(), theirs(status=status))
    assert beside.summary == alone.summary
    assert beside.summary.exit_code == results.ExitCode.CONFORMS
    assert report.badge(beside) == report.badge(alone)
    assert report.junit(beside) == report.junit(alone)
    failing = of(a_cell(status="FAIL", bits=9.0), theirs(status="PASS", bits=0.0))
    assert failing.summary.exit_code == results.ExitCode.DIFFERS


def known(**changes: Any) -> Deviation:
    fields: dict[str, Any] = {
        "id": "dev", "reason": "saturates", "subjects": ("torch.nn.MSELoss()",),
        "min_bits": 20.0, "max_bits": 26.0,
    } | changes  # fmt: skip
    return Deviation(**fields)


@pytest.mark.parametrize(
    ("bits", "status", "expected"),
    [(25.0, "FAIL", "XFAIL"), (26.5, "FAIL", "FAIL"), (19.0, "FAIL", "XPASS"),
     (1.0, "PASS", "XPASS"), (None, "RAISES", "RAISES")],
)  # fmt: skip
def test_both_bounds_of_a_native_are_enforced_and_decide_nothing(
    bits: float | None, status: str, expected: str
) -> None:
    found = of(a_cell(), theirs(bits, status), recorded=(known(),))
    assert found.builtins is not None
    (row,) = found.builtins.rows
    assert row.cell.status == expected
    assert found.summary.exit_code == results.ExitCode.CONFORMS
    assert not found.uses
    assert found.builtins.uses[0].deviation.id == "dev"


def test_a_deviation_excuses_only_whose_it_is() -> None:
    found = of(a_cell(status="FAIL", bits=25.0), theirs(), recorded=(known(),))
    assert found.summary.failed == 1
    found = of(a_cell(status="FAIL", bits=25.0), theirs(), recorded=(known(subjects=("ours",)),))
    assert found.summary.failed == 0
    assert found.builtins is not None
    assert found.builtins.rows[0].cell.status == "FAIL"


def test_what_was_not_run_is_not_stale() -> None:
    merged = results.merge([Results(created="now", platform="torch", cells=(a_cell(),))])
    _, (use,) = deviations.apply(merged, [known(losses=("mse@1",))])
    assert use.state == "not exercised"


def test_the_first_lines_say_both_plainly() -> None:
    cells = [theirs(), theirs(status="NAN", quantity="gradient"), theirs(1.0, "PASS", mode="x")]
    recorded = (known(quantities=("value",), modes=("eager",)),)
    found = of(a_cell(), *cells, recorded=recorded)
    lines = report.first_lines(found).splitlines()
    assert lines[0] == "Conforms."
    assert lines[-2] == (
        "The frameworks' own losses: 2 of 3 cells beyond their bound (1 on record, 1 new). "
        "They have no part in the verdict."
    )
    assert lines[-1] == "1 passed, 0 failed, 0 untested"
    summary = json.loads(report.summary_json(found))
    assert summary["native"]["beyond"] == 2
    assert summary["exit_code"] == 0
    assert "native" not in json.loads(report.summary_json(of(a_cell())))


def test_the_page_and_the_summary_show_both_side_by_side() -> None:
    found = of(a_cell(), theirs(detail="value is <b>off</b>"))
    page = report.html(found)
    assert 'id="versus"' in page
    assert '<span class="pass near0">0.5</span><span class="fail">25.0</span>' in page
    assert "<b>off</b>" not in page
    assert 'id="versus"' not in report.html(of(a_cell()))
    refused = known(status="RAISES", min_bits=None, max_bits=None)
    page = report.html(of(a_cell(), theirs(None, "RAISES"), recorded=(refused,)))
    assert '<span class="pass near0">0.5</span><span class="beyond">err</span>' in page
    row = "| `torch.nn.MSELoss()` | `value` | `float32` | `torch eager` | 25.0 | 0.5 | 3.0 | "
    assert row + "`value is <b>off</b>` |" in report.markdown(found)
    assert [g.theirs.cell.subject for g in report.gains(found)] == ["torch.nn.MSELoss()"]


# --- files ---------------------------------------------------------------------------------------


def test_a_file_keeps_whose_a_cell_is_and_an_old_one_is_of_ours() -> None:
    file = Results(created="now", platform="torch", cells=(a_cell(), theirs()))
    data = results.encode(file)
    assert results.decode(data) == file
    raw = json.loads(data)
    for cell in raw["cells"]:
        del cell["subject"]
    old = results.decode(json.dumps(raw).encode())
    assert [c.subject for c in old.cells] == ["ours", "ours"]
    properties = results.results_schema()["$defs"]["Cell"]["properties"]
    assert properties["subject"]["default"] == "ours"


def test_the_shipped_record_is_of_built_ins_that_are_run() -> None:
    shipped = deviations.load(deviations.BUILTINS_FILE)
    paired = {text for texts in natives.PAIRS.values() for text in texts}
    for deviation in shipped:
        assert deviation.subjects
        assert set(deviation.subjects) <= paired
        # What is true of one release may not be of the next.
        packages = {find(parse_call(text)[0]).package for text in deviation.subjects}
        assert set(deviation.versions) & (packages | {"tensorflow", "jax"})
    assert all(d.subjects == ("ours",) for d in deviations.load())


@pytest.mark.slow
def test_a_run_shows_what_ours_keeps_and_the_built_in_loses(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "report"
    done = subprocess.run(
        [
            sys.executable, "-m", "lossbridge", "conformance", "--platforms", "torch", "--losses",
            "cross_entropy@1,MSELoss", "--dtypes", "float32,float16", "--quick", "--subjects",
            "ours,native", "--out", str(out),
        ],
        capture_output=True, text=True, check=False, env=dict(os.environ), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "Conforms."
    file = results.read(out / "results-torch.json")
    assert results.decode(results.encode(file)) == file
    place = {"dtype": "float32", "quantity": "value", "stratum": "practical", "mode": "eager"}
    found = {
        c.subject: c
        for c in file.cells
        if c.loss == "cross_entropy@1" and all(getattr(c, n) == v for n, v in place.items())
    }
    assert found["ours"].status == "PASS"
    lost = found[CROSS_ENTROPY]
    assert lost.status == "FAIL"  # as measured; that it is on record, the report says
    assert lost.worst_case is not None
    assert [float.fromhex(x) for x in file.cases[lost.worst_case]["got"]] == [0.0]
    assert float.fromhex(file.cases[lost.worst_case]["expected"][0]) > 0.0
    assert {c.status for c in file.cells if c.subject == "torch.nn.MSELoss()"} == {"PASS"}
    suites = ElementTree.parse(out / "junit.xml").getroot()
    assert suites.get("failures") == "0"
