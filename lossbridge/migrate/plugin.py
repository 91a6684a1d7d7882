"""A pytest plugin, found by its entry point: the fixture ``assert_equivalent``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lossbridge.migrate.comparison import Comparison


@pytest.fixture
def assert_equivalent() -> Callable[..., Comparison]:
    """Fails the test, and says why, unless two losses are the same function.

    ::

        def test_the_port(assert_equivalent):
            assert_equivalent(old_loss, new_loss)

    Takes what :func:`lossbridge.compare` takes.
    """
    from lossbridge.migrate.judge import assert_equivalent as compared

    return compared
