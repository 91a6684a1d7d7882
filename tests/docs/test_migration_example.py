"""The migration that the example plays through comes out as its README says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import lossbridge

pytestmark = [pytest.mark.checkout, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "migration"
README = (FOLDER / "README.md").read_text("utf-8")
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^python .*$", README, re.MULTILINE)]
SHOWN = re.findall(r"```text\n(.*?)```", README, re.DOTALL)


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_the_ports_train_as_the_original_and_the_naive_one_does_not(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the example compares all three frameworks")
    pytest.importorskip("torch", reason="the example compares all three frameworks")
    pytest.importorskip("optax", reason="the example compares all three frameworks")
    stored = lossbridge.load(FOLDER / "loss.json")
    done = run([*COMMANDS[0], "--out", str(tmp_path / "curves.svg")])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.svg").stat().st_size > 10_000
    # What it wrote is what stood there: the stored file is the meaning of the live loss.
    assert lossbridge.load(FOLDER / "loss.json") == stored
    said = re.findall(r"^(\w+) is at most (\S+) from keras_original$", done.stdout, re.MULTILINE)
    apart = {name: float(most) for name, most in said}
    assert set(apart) == {"torch_port", "jax_port", "torch_naive"}
    assert apart["torch_port"] < 1e-7  # the README's figure: measured 1.5e-8
    assert apart["jax_port"] < 1e-7  # measured 1e-8
    assert 0.08 < apart["torch_naive"] < 0.11  # measured 0.094
    verdicts = dict(re.findall(r"^(\w.*?): (\w+)$", done.stdout, re.MULTILINE))
    assert verdicts == {
        "original, PyTorch port": "same",
        "original, JAX port": "same",
        "original, the built-in of the naive port": "different",
        "a step of the port, one of the naive port": "different",
    }
    rows = SHOWN[1].splitlines()
    found = done.stdout.splitlines()
    assert rows[0] == found[0]
    for row in rows[1:]:
        epoch, *losses = map(float, row.split())
        there = next(f for f in found[1:] if f.split() and f.split()[0] == f"{epoch:.0f}")
        assert list(map(float, there.split()[1:])) == pytest.approx(losses, rel=1e-6)


def test_the_command_line_says_what_the_readme_shows() -> None:
    pytest.importorskip("tensorflow", reason="the example compares all three frameworks")
    pytest.importorskip("torch", reason="the example compares all three frameworks")
    done = run(COMMANDS[1])
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(SHOWN[0])
    assert "because" in done.stdout


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert {"curves.svg", "loss.json", "task.py"} <= set(links)
    assert [link for link in links if not (FOLDER / link).exists()] == []
