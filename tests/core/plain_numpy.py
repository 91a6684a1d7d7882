"""NumPy in one dtype throughout: what a platform does that rounds after every operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy_backend.lowering import LOWERING, TABLE

from lossbridge import emit
from lossbridge.ir import Graph

UNROUNDED = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"}
UNROUNDED |= {"mod", "intdiv", "size", "scan"}


def _strict(dtype: str) -> emit.Lowering:
    """The test tree's own backend, with every result rounded: NumPy widens where it can."""
    kind = np.dtype(dtype).type

    def rounded(x: Any) -> Any:
        real = isinstance(x, np.ndarray | np.generic) and x.dtype.kind == "f"
        return np.asarray(x, kind) if real else x

    def wrap(entry: Any) -> Any:
        if isinstance(entry, str):
            return f"rounded({entry})"
        return lambda emitter, node, operands: f"rounded({entry(emitter, node, operands)})"

    table = {name: row if name in UNROUNDED else wrap(row) for name, row in TABLE.items()}
    return dataclasses.replace(
        LOWERING, table=table, namespace={**LOWERING.namespace, "rounded": rounded}
    )


def run(graph: Graph, inputs: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The outputs of a legalised graph, computed in a dtype and widened exactly."""
    lowering = _strict(dtype)
    function = emit.load(emit.emit(graph, lowering, "plain"), lowering, "plain")
    arrays = [np.asarray(inputs[name]) for name, _ in graph.inputs()]
    arguments = [x.astype(dtype) if x.dtype.kind == "f" else x for x in arrays]
    with np.errstate(all="ignore"):
        found = function(*arguments)
    return {
        name: np.asarray(x, np.float64) for (name, _), x in zip(graph.outputs, found, strict=True)
    }
