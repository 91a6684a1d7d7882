"""The NumPy platform's probe, and the faults the suite must find in it.

``LOSSBRIDGE_TEST_FAULT`` plants one fault in this process only: the parent, which holds the truth,
never sees it.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from lossbridge import ops
from lossbridge.errors import UnsupportedError
from lossbridge.plan import Options
from lossbridge.spec import Spec
from numpy_backend import native
from numpy_backend.lowering import LOWERING
from numpy_backend.native import Loss

FAULT = os.environ.get("LOSSBRIDGE_TEST_FAULT", "")
COMPUTE = {
    "float64": np.float64, "float32": np.float32, "float16": np.float32, "bfloat16": np.float32,
}  # fmt: skip


def _plant(fault: str) -> None:
    if fault == "sign":
        table = {**LOWERING.table, "sub": "({1} - {0})"}
        native.LOWERING = dataclasses.replace(LOWERING, table=table)
    if fault == "derivative":
        rows: Any = ops.OPS
        rows["sigmoid"] = dataclasses.replace(
            rows["sigmoid"], vjp=lambda args, out, g: (g * out * out,)
        )
        rows["logistic_nll"] = dataclasses.replace(
            rows["logistic_nll"], vjp=lambda args, out, g: (g * ops.sigmoid(args[0]), None)
        )


_plant(FAULT)


def _bfloat16(x: Any) -> Any:
    """float32 rounded to bfloat16, ties to even, by its bits."""
    bits = np.atleast_1d(np.asarray(x, np.float32)).view(np.uint32).astype(np.uint64)
    sixteen, one = np.uint64(16), np.uint64(1)
    rounded = ((bits + np.uint64(0x7FFF) + ((bits >> sixteen) & one)) >> sixteen) << sixteen
    found = rounded.astype(np.uint32).view(np.float32).reshape(np.shape(x))
    return np.where(np.isnan(x), np.float32(np.nan), found)


class Subject:
    """A loss with its settings."""

    def __init__(
        self,
        spec: Spec,
        params: Mapping[str, Any],
        reduction: str,
        normalizer: str | None,
        weights: Mapping[str, Any],
        ports: Mapping[str, Any],
    ) -> None:
        if FAULT == "epsilon" and "eps" in params:
            params = {**params, "eps": params["eps"] * 1.01}
        if FAULT == "normalizer" and normalizer == "elements":
            normalizer = "batch"
        self.spec, self.params, self.weights, self.ports = spec, params, weights, ports
        self.reduction, self.normalizer = reduction, normalizer
        self._losses: dict[Options, Loss] = {}

    def _loss(self, call: Mapping[str, Any]) -> Loss:
        options = Options(self.reduction, self.normalizer, "sample_weight" in call, "mask" in call)
        if options not in self._losses:
            self._losses[options] = Loss(self.spec, self.params, options, self.ports)
        return self._losses[options]

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        dtype: str,
        mode: str,
        wrt: tuple[str, ...] = (),
        call: Mapping[str, Any] = {},
    ) -> dict[str, Any]:
        """Value, and gradients of unit incoming gradient, widened to float64."""
        if dtype not in COMPUTE or mode not in PROBE.modes:
            raise UnsupportedError(f"NumPy has no {dtype} in mode {mode}")
        if FAULT == "kill" and dtype == "float64":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "infinite" and any(np.isinf(x).any() for x in inputs.values()):
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "hang" and dtype == "float64":
            time.sleep(600)
        if FAULT == "raise" and dtype == "float64":
            raise ValueError("planted")

        def cast(x: Any) -> Any:
            x = np.asarray(x)
            return x.astype(COMPUTE[dtype]) if x.dtype.kind == "f" else x

        def back(x: Any) -> Any:
            x = np.asarray(x).astype(COMPUTE[dtype])
            with np.errstate(over="ignore"):
                x = _bfloat16(x) if dtype == "bfloat16" else x.astype(dtype)
            return x.astype(np.float64)

        loss = self._loss(call)
        given = {
            n: [cast(leaf) for leaf in x] if isinstance(x, list) else cast(x)
            for n, x in {**inputs, **self.weights, **call}.items()
        }
        loss.arrays = {n: cast(x) for n, x in loss.arrays.items()}
        loss.constants = {n: cast(x) for n, x in loss.constants.items()}
        trees = [n for n, x in given.items() if isinstance(x, list)]
        if not trees:
            found = loss(given, wrt)
            gradients = {
                n: back(np.broadcast_to(found[f"gradient_{n}"], given[n].shape)) for n in wrt
            }
            return {"value": back(found["value"]), "gradients": gradients}
        (tree,) = trees
        runs = [loss({**given, tree: leaf}, wrt) for leaf in given[tree]]
        return {
            "value": back(sum(run["value"] for run in runs)),
            "gradients": {n: [back(run[f"gradient_{n}"]) for run in runs] for n in wrt},
        }


class NumPyProbe:
    """The platform."""

    name = "numpy"
    modes = ("plain",)

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def subject(
        self,
        spec: Spec,
        params: Mapping[str, Any],
        *,
        reduction: str = "none",
        normalizer: str | None = None,
        weights: Mapping[str, Any] = {},
        ports: Mapping[str, Any] = {},
    ) -> Subject:
        return Subject(spec, params, reduction, normalizer, weights, ports)


PROBE = NumPyProbe()
