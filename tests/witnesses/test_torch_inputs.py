"""PyTorch's own test inputs, on the meaning of each of its losses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


@pytest.mark.slow
def test_torch_s_own_inputs_give_what_torch_gives() -> None:
    program = Path(__file__).with_name("torch_inputs.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    equal = found.pop("equal")
    assert not found
    assert len(equal) > 600
