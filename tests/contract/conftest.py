"""One suite over every public door: each test that takes ``door`` runs once for each platform.

Keras chooses its backend once in a process, so the suite starts itself again for the others, with
``KERAS_BACKEND`` set and ``LOSSBRIDGE_DOORS`` naming the doors to open (test_keras_backends.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# These differentiate by TensorFlow's tapes, so they try Keras on TensorFlow alone. What they hold
# of every door stands in test_labels_and_divisors.py too. Messages there speak of TensorFlow's own
# tensors; on another backend they are those of that framework's door.
ON_TENSORFLOW = (
    "test_class_settings.py",
    "test_ctc.py",
    "test_labels.py",
    "test_limits.py",
    "test_messages.py",
    "test_normalizers.py",
)
collect_ignore = (
    [] if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow" else list(ON_TENSORFLOW)
)

DOORS = tuple(os.environ.get("LOSSBRIDGE_DOORS", "torch,keras,jax").split(","))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``door`` is every door; ``door_mode`` every door in every mode it runs in."""
    import doors

    if "door_mode" in metafunc.fixturenames:
        pairs = [(name, mode) for name in DOORS for mode in doors.modes(name)]
        metafunc.parametrize("door_mode", pairs, ids=[f"{n}-{m}" for n, m in pairs], indirect=True)
    elif "door" in metafunc.fixturenames:
        metafunc.parametrize("door", DOORS, indirect=True)


@pytest.fixture(autouse=True)
def no_compilations_left() -> Iterator[None]:
    """One function's code stands behind every loss on torch, and Dynamo refuses its ninth form,
    whichever tests the others come from."""
    yield
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


@pytest.fixture
def door(request: pytest.FixtureRequest) -> object:
    """A public door, opened once in a process."""
    import doors

    return doors.opened(request.param)


@pytest.fixture
def door_mode(request: pytest.FixtureRequest) -> object:
    """A public door and one of its modes."""
    import doors

    name, mode = request.param
    return doors.opened(name), mode
