"""`lossbridge compare`, and the pytest fixture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lossbridge.cli import QUIET, main, quiet

pytest.importorskip("typer")
pytest.importorskip("torch")

HUBER, SMOOTH = "torch.nn.HuberLoss(delta=2.0)", "torch.nn.SmoothL1Loss(beta=2.0)"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(("compare", *argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_exit_codes_say_the_same_other_and_undecided(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, HUBER, HUBER)[0] == 0
    code, out, _ = run(capsys, HUBER, SMOOTH)
    assert code == 1
    assert out.startswith("same_up_to_factor: b is 0.5 times a")
    linear = "torch.nn.LinearCrossEntropyLoss(4, 3)"
    code, out, _ = run(capsys, linear, linear)
    assert code == 3
    assert out.startswith("undecided")


def test_json_holds_all_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, HUBER, SMOOTH, "--json")
    assert code == 1
    document = json.loads(out)
    assert document["verdict"] == "same_up_to_factor"
    assert document["factor"] == pytest.approx(0.5)
    assert document["causes"][0]["fix"]
    assert set(document["example"]) >= {"inputs", "a", "b", "exact", "dtype"}
    assert document["probed"]


def test_weights_are_of_samples_or_classes(capsys: pytest.CaptureFixture[str]) -> None:
    nll = "torch.nn.NLLLoss()"
    code, out, _ = run(capsys, nll, "torch.nn.NLLLoss(reduction='none')", "--weights", "class")
    assert code == 1
    assert "class weights divide by their sum on one side" in out
    code, out, _ = run(capsys, nll, nll, "--weights", "sample")
    assert code == 0
    assert "sample weights: not both sides take them" in out
    code, _, err = run(capsys, nll, nll, "--weights", "both")
    assert code == 2
    assert "'sample', 'class' or None" in err


def test_what_is_no_loss_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("torch.nn.HuberLos()", "f(x)", f"{HUBER}.delta"):
        code, out, err = run(capsys, given, HUBER)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1


def test_the_fixture_fails_with_the_comparison(tmp_path: Path) -> None:
    (tmp_path / "test_port.py").write_text(
        "def test_same(assert_equivalent):\n"
        f"    assert_equivalent({HUBER!r}, {HUBER!r})\n"
        "def test_factor(assert_equivalent):\n"
        f"    assert_equivalent({HUBER!r}, {SMOOTH!r})\n"
    )
    # By its module, since a checkout's entry points may be older than it is.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "lossbridge.migrate.plugin", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "a has delta=2, and b is it divided by delta" in done.stdout


@pytest.mark.checkout
def test_the_fixture_is_an_entry_point() -> None:
    import tomllib

    file = Path(__file__).parents[2] / "pyproject.toml"
    points = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"]
    assert points["pytest11"] == {"lossbridge": "lossbridge.migrate.plugin"}


@pytest.mark.slow
def test_no_log_line_of_tensorflow_stands_on_the_terminal_of_compare() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "lossbridge",
            "compare",
            "keras.losses.Huber()",
            "keras.losses.LogCosh()",
        ],
        env=own,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    assert run.stderr == ""
    assert run.stdout.startswith("different")


def test_a_command_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with quiet():
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"  # what somebody has set is left
        assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == QUIET["TF_ENABLE_ONEDNN_OPTS"]
    assert "TF_ENABLE_ONEDNN_OPTS" not in os.environ
