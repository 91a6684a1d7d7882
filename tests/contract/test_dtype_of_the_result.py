"""The result has the prediction's dtype, whatever the loss computes in."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from doors import Door

from lossbridge.catalogue import catalogue
from lossbridge.spec import Numerics


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_loss_that_computes_in_float64_gives_the_dtype_it_was_given(
    door_mode: tuple[Door, str], dtype: str
) -> None:
    door, mode = door_mode
    wide = Numerics(compute="at_least_float64", accumulate="at_least_float64")
    spec = msgspec.structs.replace(catalogue()["mse@1"].spec, loss="test/wide@1", numerics=wide)
    x = np.array([0.1, 0.7, -0.3], dtype)
    target = np.array([0.2, 0.4, 0.9], dtype)
    with door.wide():
        found = door.run(
            door.L.compile(spec), {"prediction": x, "target": target}, ("prediction",), mode
        )
    # Keras's own losses give float32 for half precision, and so do ours there: the mean of 70,000
    # in float16 would be inf.
    result = "float32" if (door.name, dtype) == ("keras", "float16") else dtype
    assert found.dtype == result
    exact = ((x.astype(np.float64) - target.astype(np.float64)) ** 2).mean()
    assert found.value == np.asarray(exact).astype(result)  # computed in float64, rounded once
