"""Pairs of built-ins, each with the verdict that mathematics and measurement give, and its cause.

What is expected was written down before ``compare`` was asked. Rows that share a side stand
together, so that what was compiled for it serves all of them.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from lossbridge.migrate.comparison import VERDICTS, Comparison
from lossbridge.migrate.judge import compare
from lossbridge.migrate.sides import Side, side
from lossbridge.versions import within
from lossbridge.witnesses import FRAMEWORKS, canonical_name

FILE = Path(__file__).with_name("pairs.json")
PAIRS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deprecated", "ignore:size_average and reduce", "ignore:reduction. 'mean' divides"
)


@lru_cache(maxsize=12)
def built(text: str) -> Side:
    return side(text)


def frameworks(pair: dict[str, Any]) -> list[str]:
    return [canonical_name(pair[s].partition("(")[0]).rpartition(".")[0] for s in ("a", "b")]


def skip_older(pair: dict[str, Any]) -> None:
    """The verdicts are those of releases that have both built-ins as they are today."""
    for package, release in pair.get("since", {}).items():
        if within(version(package), f"<{release}"):
            pytest.skip(f"before {package} {release} this was another function")
    for text in (pair["a"], pair["b"]):
        module, _, name = canonical_name(text.partition("(")[0]).rpartition(".")
        if not hasattr(importlib.import_module(module), name):
            pytest.skip(f"{FRAMEWORKS[module]} {version(FRAMEWORKS[module])} has no {name}")


def params() -> list[Any]:
    return [
        pytest.param(p, id=f"{p['a']} | {p['b']}", marks=() if "fast" in p else pytest.mark.slow)
        for p in PAIRS
    ]


def all_said(found: Comparison) -> str:
    return "\n".join((*(f"{c.text} -> {c.fix}" for c in found.causes), *found.notes))


@pytest.mark.parametrize("pair", params())
def test_the_verdict_and_its_cause(pair: dict[str, Any]) -> None:
    for name in frameworks(pair):
        pytest.importorskip({"torch.nn": "torch", "keras.losses": "tensorflow"}.get(name, "optax"))
    skip_older(pair)
    found = compare(built(pair["a"]), built(pair["b"]), profile="strict")
    assert found.verdict == pair["verdict"], str(found)
    assert pair.get("cause", "") in all_said(found)
    if "factor" in pair:
        assert found.factor == pytest.approx(pair["factor"], rel=1e-6)
    if found.verdict not in ("same", "undecided"):
        assert found.causes
        assert found.causes[0].text


def test_the_pairs_are_many_of_every_kind_and_one_stands_on_each_line() -> None:
    assert len(PAIRS) >= 160
    assert len({(p["a"], p["b"]) for p in PAIRS}) == len(PAIRS)
    verdicts = Counter(p["verdict"] for p in PAIRS)
    assert set(verdicts) == set(VERDICTS)
    assert min(verdicts.values()) >= 4
    homes = Counter(tuple(sorted(frameworks(p))) for p in PAIRS)
    for a in FRAMEWORKS:
        for b in FRAMEWORKS:
            assert homes[tuple(sorted((a, b)))] >= 15, (a, b)
    assert all(p.get("cause") or p["verdict"] in ("same", "different") for p in PAIRS)
    assert 30 <= sum("fast" in p for p in PAIRS) <= 60
    lines = ",\n".join(json.dumps(p) for p in PAIRS)
    assert FILE.read_text(encoding="utf-8") == f"[\n{lines}\n]\n"
