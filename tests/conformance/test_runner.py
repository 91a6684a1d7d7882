"""The suite finds what is planted, survives what dies, and needs no edit for a new loss.

The platform here is a third party's: NumPy, in the tests' own tree, found by its entry point.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flint")

import numpy as np

from lossbridge import ops
from lossbridge_conformance import agreement, derivatives, stability, subjects
from lossbridge_conformance.workers import Worker

BACKENDS = Path(__file__).resolve().parents[1] / "backends"


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """The NumPy backend as if it had been installed: a folder with its metadata on the path."""
    info = tmp_path / "site" / "numpy_backend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[lossbridge.backends]\nnumpy = numpy_backend.probe:PROBE\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{info.parent}:{BACKENDS}")
    return tmp_path


def conformance(folder: Path, *arguments: str, fault: str = ""):
    environment = {**os.environ, "LOSSBRIDGE_TEST_FAULT": fault}
    out = folder / f"report-{fault or 'none'}"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lossbridge",
            "conformance",
            "--platforms",
            "numpy",
            "--out",
            str(out),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=folder,
    )
    results = out / "results-numpy.json"
    cells = json.loads(results.read_text())["cells"] if results.exists() else []
    return done, cells, out


def test_a_third_party_conforms(third_party):
    done, cells, out = conformance(
        third_party, "--losses", "MSELoss,BCEWithLogitsLoss", "--dtypes", "float32,float16"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("Conforms")
    assert {c["status"] for c in cells} == {"PASS"}
    assert {c["track"] for c in cells} == {"stability", "contract"}
    for name in ("report.html", "summary.md", "junit.xml", "badge.json"):
        assert (out / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("fault", "loss", "track"),
    [
        ("sign", "HingeLoss", "stability"),
        ("derivative", "BCEWithLogitsLoss", "stability"),
        ("normalizer", "MSELoss", "contract"),
        ("epsilon", "PoissonNLLLoss", "stability"),
    ],
)
def test_a_planted_fault_is_caught(third_party, fault, loss, track):
    if fault == "epsilon":
        loss = str(_epsilon_matters(third_party))
    done, cells, _ = conformance(third_party, "--losses", loss, "--dtypes", "float32", fault=fault)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [c for c in cells if c["status"] == "FAIL"]
    assert failed
    tracks = {c["track"] for c in failed}
    assert track in tracks
    assert "stability" not in tracks or track == "stability"


def _epsilon_matters(folder: Path) -> Path:
    """A loss whose epsilon is in every value."""
    path = folder / "eps.json"
    path.write_text(
        json.dumps(
            {
                "lossbridge": 1,
                "loss": "test/eps@1",
                "inputs": {"x": "non_negative[*batch]"},
                "params": {"eps": {"kind": "positive", "value": 0.5}},
                "body": ["value = log(x + eps)"],
                "yields": "per_element",
            }
        )
    )
    return path


def test_a_new_loss_touches_one_file(third_party):
    module = third_party / "mine.py"
    module.write_text(
        "from typing import Annotated\n"
        "from lossbridge import Expr, define\n"
        "from lossbridge.ops import exp, log\n\n"
        '@define("mine/logistic@1")\n'
        'def logistic(x: Annotated[Expr, "real[*batch]"]) -> Expr:\n'
        '    """Penalise a large number."""\n'
        "    return log(1.0 + exp(x))\n"
    )
    done, cells, out = conformance(
        third_party, "--losses", f"{module}:logistic", "--dtypes", "float32,float64"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {c["loss"] for c in cells} == {"mine/logistic@1"}
    assert {c["quantity"] for c in cells} >= {"value", "gradient", "sum", "elements"}
    assert "mine/logistic@1" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_killed_worker_loses_one_case_and_the_report_says_so(third_party):
    done, cells, out = conformance(
        third_party, "--losses", "MSELoss", "--dtypes", "float32,float64", fault="kill"
    )
    assert done.returncode == 1
    status = {c["id"]: c["status"] for c in cells}
    crashed = [i for i, s in status.items() if s == "CRASH"]
    assert crashed
    assert all("float64" in i for i in crashed)
    assert all(s == "PASS" for i, s in status.items() if "/float32/" in i)
    notes = json.loads((out / "results-numpy.json").read_text())["notes"]
    assert any(note.startswith("lost: ") for note in notes)


def test_a_missing_platform_is_neither_pass_nor_fail(third_party):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lossbridge",
            "conformance",
            "--platforms",
            "theano",
            "--losses",
            "MSELoss",
            "--dtypes",
            "float32",
            "--out",
            str(third_party / "none"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--losses", "MSELos"), "did you mean MSELoss"),
        (("--dtypes", "float31"), "float31"),
        (("--losses", "nowhere.json"), "nowhere.json"),
    ],
)
def test_usage_errors(third_party, arguments, says):
    done, _, _ = conformance(third_party, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unwritable_folder_is_refused_before_anything_runs(third_party):
    blocked = third_party / "file"
    blocked.write_text("here first")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lossbridge",
            "conformance",
            "--platforms",
            "numpy",
            "--losses",
            "MSELoss",
            "--out",
            str(blocked / "report"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "another folder" in done.stderr
    assert blocked.read_text() == "here first"


# --- the judges, on results made by hand ----------------------------------------------------------


def by_hand(tmp_path, *names, modes=("first", "second")):
    """Workers that answered with the truth itself, and all that judges them."""
    found, _ = subjects.chosen(names, tmp_path, settings=False)
    truths = {s.name: subjects.truths(s, ("float32",)) for s in found}
    workers = []
    for platform in ("one", "two"):
        worker = Worker(platform, modes, [], tmp_path)
        for subject in found:
            for (at, dtype), truth in truths[subject.name].items():
                for mode in modes:
                    worker.answers[stability.task_id(subject, mode, dtype, at)] = {
                        "value": truth.rounded["value"].value.copy(),
                        "gradients": {
                            n: truth.rounded[f"gradient_{n}"].value.copy() for n in subject.wrt
                        },
                    }
        workers.append(worker)
    return found, truths, workers


def judged(found, truths, workers):
    cells = [
        cell
        for worker in workers
        for cell in stability.cells(worker, found, ("float32",), truths, {}, False)
    ]
    return cells, list(agreement.cells(workers, found, ("float32",), truths))


def first_call(subject, stratum):
    return next(i for i, c in enumerate(subject.calls) if c.stratum == stratum)


def test_the_truth_itself_passes_everywhere(tmp_path):
    stable, agreed = judged(*by_hand(tmp_path, "L1Loss", "FocalLoss", "CTCLoss"))
    assert {c.status for c in [*stable, *agreed]} == {"PASS"}
    assert max(c.bits for c in stable) == 0.0
    assert {c.quantity for c in agreed} == {"value", "gradient", "kinks"}


@pytest.mark.parametrize(
    ("ulps", "quantity", "caught"),
    [(6, "value", False), (8, "value", True), (14, "gradient", False), (17, "gradient", True)],
)
def test_a_shift_of_known_size_is_caught_beyond_the_bound(tmp_path, ulps, quantity, caught):
    found, truths, workers = by_hand(tmp_path, "BCEWithLogitsLoss")
    (subject,) = found
    at = first_call(subject, "practical")
    answer = workers[1].answers[stability.task_id(subject, "second", "float32", at)]
    got = answer["value"] if quantity == "value" else answer["gradients"]["logits"]
    for _ in range(ulps):
        got[0] = np.nextafter(np.float32(got[0]), np.float32(np.inf))
    stable, _ = judged(found, truths, workers)
    failed = [(c.platform, c.mode, c.quantity, c.stratum) for c in stable if c.status == "FAIL"]
    assert failed == ([("two", "second", quantity, "practical")] if caught else [])


@pytest.mark.parametrize(("value", "status"), [(np.nan, "NAN"), (np.inf, "FAIL"), (0.0, "FAIL")])
def test_a_spurious_number_is_caught_wherever_it_stands(tmp_path, value, status):
    found, truths, workers = by_hand(tmp_path, "BCEWithLogitsLoss")
    (subject,) = found
    for stratum in ("practical", "full", "special"):
        at = first_call(subject, stratum)
        truth = truths[subject.name][at, "float32"].rounded["value"].value
        where = int(np.flatnonzero(np.isfinite(truth) & (np.abs(truth) > 1e-30))[-1])
        answer = workers[0].answers[stability.task_id(subject, "first", "float32", at)]
        answer["value"][where] = value
    stable, agreed = judged(found, truths, workers)
    failed = {c.stratum: c.status for c in stable if c.status != "PASS"}
    assert failed == {"practical": status, "full": status, "special": status}
    assert {c.platform for c in agreed if c.status == "FAIL"} == {"one modes", "one / two"}


def test_platforms_too_far_apart_disagree(tmp_path):
    found, truths, workers = by_hand(tmp_path, "MSELoss")
    (subject,) = found
    at = first_call(subject, "practical")
    for worker, sign in zip(workers, (1.0, -1.0), strict=True):
        for mode in worker.modes:
            answer = worker.answers[stability.task_id(subject, mode, "float32", at)]
            answer["value"][0] = np.float32(answer["value"][0] * (1.0 + sign * 12 * 2.0**-23))
    _, agreed = judged(found, truths, workers)
    failed = [(c.platform, c.quantity) for c in agreed if c.status == "FAIL"]
    assert failed == [("one / two", "value")]


def test_a_pair_has_one_name_whatever_was_asked_for_first(tmp_path):
    found, truths, workers = by_hand(tmp_path, "L1Loss")
    names = [
        {c.platform for c in agreement.cells(given, found, ("float32",), truths)}
        for given in (workers, workers[::-1])
    ]
    assert names[0] == names[1] and "one / two" in names[0]


def test_a_kink_is_exact(tmp_path):
    found, truths, workers = by_hand(tmp_path, "L1Loss")
    (subject,) = found
    at = first_call(subject, "special")
    tie = next(i for i, flags in enumerate(subject.calls[at].flags) if "tie" in flags)
    answer = workers[1].answers[stability.task_id(subject, "first", "float32", at)]
    answer["gradients"]["prediction"][tie] = 2.0**-40
    _, agreed = judged(found, truths, workers)
    (failed,) = [c for c in agreed if c.status == "FAIL"]
    assert (failed.quantity, failed.stratum) == ("kinks", "special")
    assert "two first" in failed.detail


def test_a_smooth_gradient_through_zero_is_no_kink(tmp_path):
    found, truths, _ = by_hand(tmp_path, "L1Loss", "LinearCrossEntropyLoss")
    kinks = {
        s.spec.id: any(x.any() for t in truths[s.name].values() for x in t.kinks.values())
        for s in found
    }
    assert kinks["l1@1"]
    # Equal weights for all classes: the gradient in the embedding is 0 there, and nowhere near.
    assert not kinks["linear_cross_entropy@1"]


def test_a_wrong_derivative_row_is_caught_though_the_truth_shares_it(tmp_path, monkeypatch):
    (right,), _ = subjects.chosen(("LogCoshLoss",), tmp_path, settings=False)
    assert derivatives.cell(right).status == "PASS"
    row = ops.OPS["log"]
    wrong = dataclasses.replace(row, vjp=lambda a, out, g: (g / (a[0] + 1e-20),))
    monkeypatch.setitem(ops.OPS, "log", wrong)
    cell = derivatives.cell(right)
    assert cell.status == "FAIL"
    assert "slope" in cell.detail


def test_a_gradient_stated_on_purpose_is_not_called_wrong(tmp_path):
    (bce,), _ = subjects.chosen(("BCELoss",), tmp_path, settings=False)
    cell = derivatives.cell(bce)
    assert cell.status == "UNTESTED"
    assert "states a gradient" in cell.detail


def test_every_parameter_is_measured_at_a_second_value(tmp_path):
    found, skipped = subjects.chosen((), tmp_path)
    assert {s.reason.split(" port ")[0] for s in skipped} <= {"the suite has no network for the"}
    changed = {s.spec.id: s for s in found if s.setting}
    for subject in found:
        free = {
            n
            for n, p in subject.spec.params.items()
            if not any(axis.startswith("*") for axis in p.kind.axes) or not np.ndim(p.value)
        }
        if subject.setting or not free:
            continue
        other = changed[subject.spec.id].params
        assert all(np.ndim(other[n]) or other[n] != subject.params[n] for n in free), subject.name


# --- workers --------------------------------------------------------------------------------------


def test_a_silent_worker_is_stopped_and_loses_one_task(third_party, monkeypatch):
    monkeypatch.setenv("LOSSBRIDGE_TEST_FAULT", "hang")
    (subject,), _ = subjects.chosen(("MSELoss",), third_party, settings=False)
    tasks = [
        next(stability.tasks(subject, ("plain",), (dtype,), True))["parts"][0]
        for dtype in ("float32", "float64", "bfloat16")
    ]
    worker = Worker("numpy", ("plain",), tasks, third_party, silence=4.0).run()
    errors = [worker.answers[task["id"]].get("kind", "") for task in tasks]
    assert errors == ["", "crash", ""]
    assert len(worker.notes) == 1
    assert "signal 9" in worker.notes[0]


def test_calls_that_die_side_by_side_are_run_one_by_one(third_party, monkeypatch):
    monkeypatch.setenv("LOSSBRIDGE_TEST_FAULT", "infinite")
    (subject,), _ = subjects.chosen(("MSELoss",), third_party, settings=False)
    (task,) = stability.tasks(subject, ("plain",), ("float32",), False)
    assert len(task["parts"]) == 3
    worker = Worker("numpy", ("plain",), [task], third_party).run()
    kinds = {
        subject.calls[int(name.rpartition(" ")[2])].stratum: answer.get("kind", "")
        for name, answer in worker.answers.items()
    }
    assert kinds == {"practical": "", "full": "", "special": "crash"}
    assert "its parts were run one by one" in worker.notes[0]
    assert worker.notes[1].startswith("lost: ")


def test_side_by_side_or_alone_is_the_same(third_party):
    found, _ = subjects.chosen(("CTCLoss", "FocalLoss"), third_party, settings=False)
    for subject in found:
        merged = list(stability.tasks(subject, ("plain",), ("float32",), False))
        parts = [part for task in merged for part in task.get("parts", [task])]
        assert len(parts) > len(merged)
        one, two = (
            Worker("numpy", ("plain",), tasks, third_party).run().answers
            for tasks in (merged, parts)
        )
        for part in parts:
            a, b = one[part["id"]], two[part["id"]]
            np.testing.assert_allclose(a["value"], b["value"], rtol=1e-6)
            for name in subject.wrt:
                np.testing.assert_allclose(
                    a["gradients"][name], b["gradients"][name], rtol=1e-5, atol=1e-30
                )


def test_a_fault_of_python_costs_its_task_only(third_party):
    done, cells, _ = conformance(
        third_party, "--losses", "MSELoss", "--dtypes", "float32,float64", fault="raise"
    )
    assert done.returncode == 1
    raised = {c["dtype"] for c in cells if c["status"] == "RAISES"}
    assert raised == {"float64"}
    assert any("ValueError: planted" in c["detail"] for c in cells)
    assert {c["status"] for c in cells if c["dtype"] == "float32"} == {"PASS"}


def test_the_suite_in_a_backends_own_tests(third_party, monkeypatch):
    from lossbridge_conformance.plugin import suite

    site = third_party / "site"
    monkeypatch.syspath_prepend(str(site))
    options = {"losses": ("MSELoss",), "dtypes": ("float32",), "quick": True}
    suite("numpy", **options)("MSELoss")
    monkeypatch.setenv("LOSSBRIDGE_TEST_FAULT", "sign")
    with pytest.raises(pytest.fail.Exception, match=r"gradient/practical"):
        suite("numpy", **options)("MSELoss")
