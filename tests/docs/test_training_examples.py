"""The scripts of examples/training run as they are, and the README shows lines of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.checkout, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "training"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))
# What each needs, and since when it is called as there.
NEEDS = {
    "flax_nnx.py": ("flax", "0.11"),  # before it, the optimizer held the model
    "hf_trainer.py": ("transformers", "5.0"),
    "keras_fit.py": ("keras", "3.8"),
    "lightning_module.py": ("lightning", "2.5"),
}


def test_every_script_is_tried() -> None:
    assert set(NEEDS) == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_loss_falls_in_the_frameworks_own_loop(name: str) -> None:
    module, version = NEEDS[name]
    pytest.importorskip(module, minversion=version)
    done = subprocess.run(
        [sys.executable, str(FOLDER / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = re.search(r"loss ([0-9.]+) -> ([0-9.]+)(.*)", done.stdout)
    assert printed is not None, done.stdout
    assert float(printed[2]) < 0.7 * float(printed[1])
    assert "False" not in printed[3]
