"""Where there is nothing to divide by, every loss is NaN and moves nothing, in every mode."""

from __future__ import annotations

import numpy as np
import pytest
from doors import Door
from samples import Sample, every

from lossbridge.plan import index_axes

SAMPLES = every(lambda s: not s.spec.ports and not s.tree and bool(index_axes(s.spec)))
each = pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.id)


def nothing_moves(door: Door, mode: str, s: Sample, **call: object) -> None:
    loss = door.make(s.class_, **s.settings)
    wrt = (*s.real, *s.weights)
    found = door.run(loss, s.inputs, wrt, mode, weights=s.weights, **call)
    assert np.isnan(found.value)
    for name in wrt:
        assert (found.gradients[name] == 0.0).all(), name


@each
def test_weights_that_add_up_to_0_leave_no_gradient(door_mode: tuple[Door, str], s: Sample) -> None:
    door, mode = door_mode
    shape = np.shape(
        door.run(
            door.make(s.class_, **s.made(reduction="none").settings), s.inputs, weights=s.weights
        ).value
    )
    nothing_moves(
        door,
        mode,
        s.made(normalizer="weights"),
        sample_weight=np.zeros(shape, np.float32),
    )


@each
def test_an_external_count_of_0_leaves_no_gradient(door: Door, s: Sample) -> None:
    count = np.float32(0.0)
    nothing_moves(door, "eager", s.made(normalizer="external"), normalizer_count=count)
