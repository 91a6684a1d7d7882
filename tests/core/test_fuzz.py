"""Whatever a stranger sends ends soon: in a typed error, or in a loss that is planned."""

from __future__ import annotations

import os

import fuzzing
import pytest

COUNT = int(os.environ.get("FUZZ_COUNT", "400"))
START = int(os.environ.get("FUZZ_START", "0"))


@pytest.mark.slow
def test_mutated_specifications_end_in_a_typed_error_or_in_a_plan() -> None:
    """No untyped error, none over two seconds of the processor or 500 MB."""
    said: list[str] = []
    found = fuzzing.run(START, COUNT, said.append)
    assert set(found) <= {"refused", "unplanned", "planned"}, "\n".join(said)
    assert sum(found.values()) == COUNT
    assert found["planned"] > 0 and found["refused"] > 0


def test_a_number_always_makes_the_same_document() -> None:
    assert [fuzzing.document(n) for n in range(40)] == [fuzzing.document(n) for n in range(40)]
