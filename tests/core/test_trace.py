"""Tracing a loss's function, while something else watches the program."""

from __future__ import annotations

import cProfile
from typing import Annotated

from lossbridge import Expr, define


def test_a_loss_is_traced_while_the_program_is_profiled() -> None:
    profile = cProfile.Profile()
    profile.enable()
    try:

        @define("me/profiled@1")
        def profiled(
            prediction: Annotated[Expr, "real[*batch]"], target: Annotated[Expr, "real[*batch]"]
        ) -> Expr:
            """Half of the squared error."""
            error = prediction - target
            return 0.5 * error**2

        body = profiled.spec.body
        sum(range(10))
    finally:
        profile.disable()
    assert any(line.startswith("error = ") for line in body)
    assert any("sum" in str(row.code) for row in profile.getstats())  # it went on
