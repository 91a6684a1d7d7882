"""The graph after each pass, as text; passes done twice; what verification catches.

Run with the environment variable ``SNAPSHOTS=write`` to rewrite the texts, and read the diff.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plain_numpy
import pytest

from lossbridge import ops
from lossbridge.catalogue import catalogue
from lossbridge.ir import Builder, Graph, Node, Type
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise
from lossbridge.passes.stabilise import RULES, stabilise
from lossbridge.plan import Options, plan, trail
from lossbridge.verify import GraphError, verify

FOLDER = Path(__file__).parent / "snapshots"
SHOWN = ("huber@1", "cross_entropy@1", "gaussian_nll@1")
PASSES: dict[str, Callable[[Graph], Graph]] = {
    "canonicalise": canonicalise, "stabilise": stabilise, "guard": guard, "legalise": legalise,
}  # fmt: skip


def stages(loss: str) -> list[tuple[str, Graph]]:
    spec = catalogue()[loss].spec
    numbers = tuple((n, p.value) for n, p in spec.params.items() if p.value is not None)
    return trail(spec, numbers, Options(reduction="none"))


@pytest.mark.parametrize("loss", SHOWN)
def test_snapshots(loss: str) -> None:
    text = "\n".join(f"# {name}\n{graph}" for name, graph in stages(loss))
    path = FOLDER / f"{loss}.txt"
    if os.environ.get("SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    assert path.read_text(encoding="utf-8") == text


def test_snapshots_belong_to_losses() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{loss}.txt" for loss in SHOWN}


@pytest.mark.parametrize("loss", sorted(catalogue()))
def test_passes_done_twice_change_nothing(loss: str) -> None:
    for stage, graph in stages(loss):
        for name, run in PASSES.items():
            once = run(graph)
            verify(once)
            again = run(once)
            assert again == once, f"{name} after {stage}:\n{once}\n{again}"


def test_every_rule_has_a_loss_or_a_reason() -> None:
    """Rules that no loss of the catalogue uses, under its stated parameters, serve users' own."""
    fired = set()
    for definition in catalogue().values():
        spec = definition.spec
        numbers = tuple((n, p.value) for n, p in spec.params.items() if p.value is not None)
        fired |= set(plan(spec, numbers, Options(reduction="none")).fired)
    assert fired <= {rule.name for rule in RULES}
    assert {"log_cosh", "exclude_target_log_softmax", "difference_of_norms"} <= fired
    assert "logistic_nll_of_probability" in fired


# --- verification --------------------------------------------------------------------------------


def good() -> Graph:
    return stages("huber@1")[0][1]


def with_node(graph: Graph, index: int, node: Node) -> Graph:
    return dataclasses.replace(graph, nodes=(*graph.nodes[:index], node, *graph.nodes[index + 1 :]))


def first(graph: Graph, op: str) -> int:
    return next(i for i, node in enumerate(graph.nodes) if node.op == op)


def broken() -> dict[str, Graph]:
    graph = good()
    at = first(graph, "sub")
    node = graph.nodes[at]
    last = len(graph.nodes) - 1
    other = graph.nodes[first(graph, "input")]
    return {
        "reads a row that is not above it": with_node(
            graph, at, dataclasses.replace(node, args=(at, node.args[1]))
        ),
        "stands twice": dataclasses.replace(graph, nodes=(*graph.nodes, graph.nodes[at])),
        "no such operation": with_node(graph, at, dataclasses.replace(node, op="subtract")),
        "but gives": with_node(graph, at, dataclasses.replace(node, type=Type("real"))),
        "two inputs are called": dataclasses.replace(
            graph,
            nodes=(
                *graph.nodes,
                dataclasses.replace(
                    other,
                    attrs=tuple((k, "positive" if k == "kind" else v) for k, v in other.attrs),
                ),
            ),
        ),
        "names no row": dataclasses.replace(graph, outputs=(("value", last + 1),)),
    }


@pytest.mark.parametrize("message", sorted(broken()))
def test_verification_catches(message: str) -> None:
    assert verify(good()) is not None
    with pytest.raises(GraphError, match=message):
        verify(broken()[message])


def test_a_selected_nan_neither_spreads_nor_is_multiplied_before_the_selection() -> None:
    """JAX's transpose of where(c, 0, NaN x) is NaN where(c, 0, x): NaN everywhere."""
    b = Builder(("n",))
    x, y = (b.input(name, Type("real", ("n",)), "real[n]") for name in "xy")
    graph = guard(b.finish(value=ops.where(x > 0.0, 0.0, math.nan) * y))
    value = graph.nodes[graph.output("value")]
    assert value.op == "mul" and {graph.nodes[a].op for a in value.args} == {"where"}
    inputs = {"x": np.array([1.0, 1.0, -1.0]), "y": np.array([2.0, math.inf, 2.0])}
    found = plain_numpy.run(graph, inputs, "float64")["value"]
    np.testing.assert_array_equal(found, [0.0, 0.0, math.nan])
