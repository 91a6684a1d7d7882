"""Stored cases: exact, the same every time, and covering the traps they claim to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lossbridge.kinds import Kind
from lossbridge.spec import Param, Spec
from lossbridge.trace import build_graph
from lossbridge_conformance.cases import (
    GROUPS,
    SERVES,
    STRATA,
    Fixture,
    compact_hex,
    fixture_path,
    generate,
    parameters,
    read_fixtures,
    sample_axis,
    write_fixtures,
)
from lossbridge_conformance.draw import exp2
from lossbridge_conformance.formats import FORMATS, representable
from lossbridge_conformance.oracle import oracle


def test_numbers_are_drawn_the_same_on_every_processor() -> None:
    # np.exp2 gave other last bits where there was no AVX-512, and regeneration rewrote 52 files.
    x = np.arange(8.0) / 8.0 + 1.0 / 64.0
    found = exp2(x)
    wanted = ["0x1.02c9a3e778061p+0", "0x1.1a35beb6fcb75p+0", "0x1.33c08b26416ffp+0"]
    assert [y.hex() for y in found[:3].tolist()] == wanted
    np.testing.assert_allclose(found, [math.pow(2.0, y) for y in x], rtol=2.0**-51)


def spec(inputs: dict[str, str], value: str, yields: str = "per_sample") -> Spec:
    return Spec(
        loss="tests/cases@1",
        inputs={name: Kind.parse(kind) for name, kind in inputs.items()},
        body=(f"value = {value}",),
        yields=yields,
    )


CLASSES = spec(
    {"logits": "real[*batch, classes]", "labels": "index(classes)[*batch]"},
    "-log(take(softmax(logits, classes), labels, classes))",
)
ERROR = spec(
    {"prediction": "real[*batch]", "target": "real[*batch]"},
    "(prediction - target) ** 2",
    "per_element",
)
DIVERGENCE = spec(
    {"q": "simplex(classes)[*batch, classes]", "p": "simplex(classes)[*batch, classes]"},
    "sum(xlogy(p, p) - xlogy(p, q), classes)",
)
PAIRS = spec({"x": "unit(features)[batch, features]"}, "dot(x[i], x, features)", "per_pair")
EVERY = [CLASSES, ERROR, DIVERGENCE, PAIRS]


@pytest.fixture
def stored(tmp_path: Path) -> Fixture:
    path = fixture_path(tmp_path, CLASSES.id)
    write_fixtures(CLASSES, path)
    return read_fixtures(path)


@pytest.mark.parametrize("chosen", EVERY)
def test_written_and_read_back_exactly(chosen: Spec, tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    digest = write_fixtures(chosen, first)
    assert write_fixtures(chosen, second) == digest
    assert first.read_bytes() == second.read_bytes()
    read = read_fixtures(first)
    assert read.sha256 == digest
    made = generate(chosen)
    assert len(read.calls) == len(made)
    for a, b in zip(read.calls, made, strict=True):
        assert (a.ids, a.flags, a.group, a.stratum) == (b.ids, b.flags, b.group, b.stratum)
        for name, x in a.inputs.items():
            y = b.inputs[name]
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
            if x.dtype == np.float64:
                number = ~np.isnan(x)
                assert (np.signbit(x) == np.signbit(y))[number].all()
    assert first.stat().st_size < 40_000


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_fixtures(ERROR, path)
    text = path.read_text()
    path.write_text(text.replace("0x1.", "0x1.1", 1))
    with pytest.raises(ValueError, match="was changed"):
        read_fixtures(path)
    content = json.loads(text)
    content["lossbridge-fixtures"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="format 1"):
        read_fixtures(path)


@pytest.mark.parametrize("chosen", EVERY)
@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_every_value_is_a_value_of_the_format(chosen: Spec, dtype: str) -> None:
    for call in generate(chosen):
        if call.group in SERVES[dtype]:
            for x in call.inputs.values():
                assert x.dtype != np.float64 or representable(x, dtype)


@pytest.mark.parametrize("chosen", EVERY)
def test_values_lie_in_their_kinds(chosen: Spec) -> None:
    for call in generate(chosen):
        for name, x in call.inputs.items():
            kind = chosen.inputs[name]
            for v in x.ravel().tolist():
                assert v in kind or not math.isfinite(v), (call.ids, v)
            if kind.name == "simplex" and "subnormal" not in str(call.flags):
                along = kind.axes.index(kind.of or "")
                assert (x.sum(axis=along) == 1.0).all()
            if kind.name == "unit":
                along = kind.axes.index(kind.of or "")
                assert np.allclose((x * x).sum(axis=along), 1.0, atol=0.05)


def test_strata_are_what_they_say() -> None:
    calls = generate(ERROR)
    for group, (dtype, counts) in GROUPS.items():
        form = FORMATS[dtype]
        for stratum in STRATA:
            mine = [c for c in calls if (c.group, c.stratum) == (group, stratum)]
            assert sum(len(c.ids) for c in mine) == counts.get(stratum, 0)
            values = np.concatenate([c.inputs["prediction"] for c in mine] or [np.zeros(0)])
            if stratum == "practical" and mine:
                assert (np.abs(values) >= 2.0**-15).all()
                assert (np.abs(values) < 2.0**8).all()
            if stratum == "full":
                spread = np.ptp(np.log2(np.abs(values[values != 0.0])))
                assert spread > 0.5 * (form.emax - form.emin)
    special = np.concatenate(
        [c.inputs["prediction"] for c in calls if (c.group, c.stratum) == ("single", "special")]
    )
    assert np.isnan(special).any()
    assert np.isinf(special).any()
    assert (np.abs(special) == FORMATS["float32"].max).any()
    assert (np.signbit(special) & (special == 0.0)).any()


def test_the_traps_of_a_classifier_are_there(stored: Fixture) -> None:
    rows = [
        (call.inputs["logits"][at], call.inputs["labels"][at], flags)
        for call in stored.serving("float32", "special")
        for at, flags in enumerate(call.flags)
    ]

    def has(start: list[float], label: int) -> bool:
        n = len(start)
        return any((x[:n] == start).all() and y == label for x, y, _ in rows)

    assert has([20.0, 0.0, 0.0, 0.0], 0)
    assert has([20.0, 0.0, 0.0, 0.0], 1)
    assert any(np.isneginf(x).any() and np.isfinite(x).any() for x, _, _ in rows)
    assert any(len(set(x.tolist())) == 1 for x, _, _ in rows)
    flags = {flag for *_, found in rows for flag in found}
    assert {"saturated", "nan", "infinite", "tie", "equal", "max"} <= flags


def test_a_saturated_logit_meets_certain_targets() -> None:
    # At logit 20 and target 1 a built-in's gradient is exactly 0, where 2.06e-9 is right.
    stored = generate(
        spec({"logits": "real[*batch]", "target": "probability[*batch]"}, "logits * target")
    )
    pairs = {
        (float(x), float(y))
        for call in stored
        if call.stratum == "special"
        for x, y in zip(call.inputs["logits"], call.inputs["target"], strict=True)
    }
    assert {(20.0, 0.0), (20.0, 1.0), (-20.0, 0.0), (-20.0, 1.0)} <= pairs


def test_samples_are_batched_where_they_are_independent(stored: Fixture) -> None:
    assert sample_axis(build_graph(CLASSES)) == "*batch"
    assert sample_axis(build_graph(PAIRS)) is None
    over_batch = spec({"x": "real[batch, *pixels]"}, "sum(x, *pixels)")
    assert sample_axis(build_graph(over_batch)) == "batch"
    for call in stored.calls:
        assert call.inputs["logits"].shape[0] == len(call.ids) == len(call.flags)
    assert {call.inputs["logits"].shape[1] for call in stored.calls} == {4, 33}
    assert {call.inputs["x"].shape[0] for call in generate(PAIRS)} == {4, 9}
    for call in generate(PAIRS):
        assert len(call.ids) == 1
    ids = [case for call in stored.calls for case in call.ids]
    assert len(set(ids)) == len(ids)


def test_a_batch_gives_what_its_cases_give(stored: Fixture) -> None:
    """What makes batching right: each sample alone has the same certified value."""
    graph = build_graph(CLASSES)
    call = next(iter(stored.serving("float32", "practical")))
    whole = oracle(graph, call.inputs)["value"].float64()
    for at in (0, 5, 23):
        alone = oracle(graph, call.select(at, CLASSES.inputs))["value"].float64()
        assert alone.tolist() == [whole[at]]


def test_parameters_without_a_value_get_one() -> None:
    def param(kind: str, value: float | None) -> Param:
        return Param(Kind.parse(kind), value)

    chosen = Spec(
        loss="tests/params@1",
        inputs={"x": Kind.parse("real[*batch]")},
        params={"a": param("positive", None), "b": param("real", 0.5), "c": param("flag", None)},
        body=("value = where(c, a * x, b * x)",),
        yields="per_element",
    )
    assert parameters(chosen) == {"a": 1.0, "b": 0.5, "c": False}


@pytest.mark.parametrize("x", [0.0, -0.0, 1.0, -1.5, 0.1, 5e-324, 1e308, math.inf, -math.inf])
def test_compact_hex_is_exact(x: float) -> None:
    text = compact_hex(x)
    back = float.fromhex(text)
    assert back == x
    assert math.copysign(1.0, back) == math.copysign(1.0, x)
    assert len(text) <= len(x.hex())
