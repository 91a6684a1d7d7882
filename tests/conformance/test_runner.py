"""The suite finds what is planted, survives what dies, and needs no edit for a new loss.

The platform here is a third party's: NumPy, in the tests' own tree, found by its entry point.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flint")

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


def conformance(folder: Path, *arguments: str, fault: str = "", monkeypatch=None):
    import os

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
    assert {c["track"] for c in failed} == {track}


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
