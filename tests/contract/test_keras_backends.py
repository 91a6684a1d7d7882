"""The Keras door on its JAX and PyTorch backends, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_door_on_another_backend(backend: str) -> None:
    pytest.importorskip("keras")
    pytest.importorskip(backend)
    if "PYTEST_LOSSBRIDGE_INNER" in os.environ:
        pytest.skip("this is that process")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "LOSSBRIDGE_DOORS": "keras",
        "PYTEST_LOSSBRIDGE_INNER": "1",
    }
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider", "-k",
         "keras", "-m", "not slow", "-rs"],
        env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    assert passed is not None and int(passed[1]) > 300
