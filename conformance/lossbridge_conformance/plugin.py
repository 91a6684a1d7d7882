"""The suite as tests of a backend's own: one line in a test file of its repository.

    from lossbridge_conformance.plugin import suite

    test_conformance = suite("numpy")

gives a test for every loss. The platform is found by its entry point, so the backend must be
installed; everything is measured once, by the first of the tests.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lossbridge.frontdoor import forms
from lossbridge_conformance.report import Report, verdict_text
from lossbridge_conformance.results import FAILING, NOT_TESTED
from lossbridge_conformance.runner import measure_all
from lossbridge_conformance.subjects import find

SHOWN = 20


def suite(
    platform: str,
    *,
    losses: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    tracks: Sequence[str] = ("stability", "contract"),
    quick: bool = False,
) -> Callable[[str], None]:
    """A test function with one case for each loss: classes, ids, or paths of specifications."""

    @functools.cache
    def measured() -> Report:
        with tempfile.TemporaryDirectory() as folder:
            return measure_all(
                platforms=(platform,),
                losses=losses,
                dtypes=dtypes,
                tracks=tracks,
                out=Path(folder),
                quick=quick,
            )

    @pytest.mark.parametrize("loss", tuple(losses) or tuple(forms()))
    def test(loss: str) -> None:
        name = find(loss).name
        cells = [row.cell for row in measured().merged.rows if row.cell.class_ == name]
        failed = [f"{cell.id}: {verdict_text(cell)}" for cell in cells if cell.status in FAILING]
        if failed:
            more = f"\n... and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
            pytest.fail("\n".join(failed[:SHOWN]) + more, pytrace=False)
        if all(cell.status in NOT_TESTED for cell in cells):
            reasons = dict.fromkeys(cell.detail for cell in cells)
            pytest.skip("; ".join(reasons) or "no cell of this loss was measured")

    return test
