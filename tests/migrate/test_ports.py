"""Losses of several inputs: right ports are the same, and no changed one is.

Verdict and cause of every row of ports.json were written down before it was run. A side is
``framework: an expression in the names of the inputs``; ``other_inputs`` describes those of b.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lossbridge.migrate.judge import assert_equivalent, compare
from lossbridge.migrate.sides import Side, side

pytest.importorskip("torch")

NAMES = {
    "torch": {"torch": "torch", "F": "torch.nn.functional", "math": "math"},
    "jax": {"jax": "jax", "jnp": "jax.numpy", "optax": "optax"},
    "tf": {"tf": "tensorflow"},
}


PORTS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("ports.json").read_text(encoding="utf-8")
)


def described(text: str) -> dict[str, str]:
    return {n.strip(): k.strip() for n, _, k in (row.partition(":") for row in text.split(";"))}


def written(given: str, text: str) -> Side:
    """The side that ``framework: expression`` writes."""
    framework, _, expression = given.partition(": ")
    scope: dict[str, Any] = {}
    for name, module in NAMES[framework].items():
        pytest.importorskip(module)
        scope[name] = import_module(module)
    inputs = described(text)
    function = eval(f"lambda {', '.join(inputs)}: {expression}", scope)
    return side(function, inputs=inputs, platform={"tf": "keras"}.get(framework, framework))


def sides(port: dict[str, Any]) -> tuple[Side, Side]:
    other = port.get("other_inputs", port["inputs"])
    return written(port["a"], port["inputs"]), written(port["b"], other)


def params(of: str) -> list[Any]:
    return [
        pytest.param(p, id=p["id"], marks=() if "fast" in p else pytest.mark.slow)
        for p in PORTS
        if p["of"] == of
    ]


@pytest.mark.parametrize("port", params("comparison"))
def test_the_verdict_was_foretold(port: dict[str, Any]) -> None:
    found = compare(*sides(port))
    assert found.verdict == port["verdict"], found.whole()
    assert port.get("cause", "") in found.whole()
    assert len(str(found).splitlines()) <= 12


@pytest.mark.parametrize("port", params("mutation"))
def test_no_mutation_of_a_right_port_is_the_same(port: dict[str, Any]) -> None:
    found = compare(*sides(port))
    assert found.verdict == port["verdict"], found.whole()
    assert found.verdict not in ("same", "undecided")
    with pytest.raises(AssertionError):
        found.raise_if_different()


@pytest.mark.parametrize("port", params("right port"))
def test_a_right_port_is_the_same(port: dict[str, Any]) -> None:
    assert_equivalent(*sides(port))


def test_there_are_as_many_as_are_wanted() -> None:
    kinds = Counter(p["of"] for p in PORTS)
    assert kinds["comparison"] >= 60
    assert min(kinds["mutation"], kinds["right port"]) >= 25
    assert len({p["id"] for p in PORTS}) == len(PORTS)
    assert 15 <= sum("fast" in p for p in PORTS) <= 30
