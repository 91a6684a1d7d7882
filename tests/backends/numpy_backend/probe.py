"""The NumPy platform's probe, and the faults the suite must find in it.

``LOSSBRIDGE_TEST_FAULT`` plants one fault in this process only: the parent, which holds the truth,
never sees it.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Any

import numpy as np

from lossbridge import frontdoor, ops
from lossbridge.emit import emit, load
from lossbridge.plan import Options, plan
from lossbridge_conformance.formats import round_floats
from numpy_backend.lowering import LOWERING

FAULT = os.environ.get("LOSSBRIDGE_TEST_FAULT", "")


def _plant(lowering: Any) -> Any:
    if FAULT == "sign":
        return dataclasses.replace(lowering, table={**lowering.table, "sub": "({1} - {0})"})
    if FAULT == "derivative":
        row = ops.OPS["sigmoid"]
        ops.OPS["sigmoid"] = dataclasses.replace(  # type: ignore[index]
            row, vjp=lambda args, out, g: (g * out * out,)
        )
        row = ops.OPS["logistic_nll"]
        ops.OPS["logistic_nll"] = dataclasses.replace(  # type: ignore[index]
            row, vjp=lambda args, out, g: (g * ops.sigmoid(args[0]), None)
        )
    return lowering


TABLE = _plant(LOWERING)


class Subject:
    """A loss on NumPy."""

    def __init__(self, spec, params, reduction, normalizer, weights, ports):
        if FAULT == "epsilon" and "eps" in params:
            params = {**params, "eps": params["eps"] * 1.01}
        if FAULT == "normalizer" and reduction == "mean":
            reduction = "sum"
        self.spec, self.weights, self.ports = spec, weights, ports
        self.numbers = tuple((k, v) for k, v in params.items() if not np.ndim(v))
        self.reduction, self.normalizer = reduction, normalizer

    def run(self, inputs, *, dtype, mode, wrt=(), call=()):
        call = dict(call)
        if FAULT == "kill" and dtype == "float64":
            os.kill(os.getpid(), signal.SIGKILL)
        compute = np.float64 if dtype == "float64" else np.float32
        kinds = {**self.spec.inputs, **{n: w.kind for n, w in self.spec.weights.items()}}
        given = {**inputs, **self.weights}
        lengths = frontdoor.axis_lengths(
            kinds, {n: np.shape(x) for n, x in given.items()}, self.spec.id
        )
        index = tuple(frontdoor.index_shape(self.spec, lengths))
        for key in ("sample_weight", "mask"):
            if key in call:
                given[key] = np.broadcast_to(call.pop(key), index)
        given.update(call)
        options = Options(
            self.reduction, self.normalizer, "sample_weight" in given, "mask" in given
        )
        prepared = plan(self.spec, self.numbers, options, TABLE.native)
        for port in prepared.calls:
            raise NotImplementedError(f"this backend calls no {port.op}")
        graph = prepared.fused(tuple(wrt)) if wrt else prepared.plain
        function = load(emit(graph, TABLE, "loss"), TABLE, "loss")
        arguments = []
        for name, row in graph.inputs():
            x = np.asarray(given[name])
            real = graph.nodes[row].type.dtype == "real"
            arguments.append(x.astype(compute) if real else x)
        with np.errstate(all="ignore"):
            results = function(*arguments)
        value, *gradients = (round_floats(np.asarray(r, np.float64), dtype) for r in results)
        return {"value": value, "gradients": dict(zip(wrt, gradients, strict=True))}


class Probe:
    name = "numpy"
    modes = ("eager",)

    def versions(self):
        return {"numpy": np.__version__}

    def subject(self, spec, params, *, reduction="none", normalizer=None, weights=(), ports=()):
        return Subject(spec, params, reduction, normalizer, dict(weights), dict(ports))


PROBE = Probe()
