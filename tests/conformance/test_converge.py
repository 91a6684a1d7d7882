"""Convergence: the tasks are what they say, equal runs agree, and planted faults are caught."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("sklearn")

from lossbridge_conformance import converge
from lossbridge_conformance.converge import ALIGNED, DEFAULTS, REFERENCE, Settings, Task, tasks
from lossbridge_conformance.results import Results, check

HERE = Path(__file__).parent
MODULES = {"torch": "torch", "keras": "tensorflow", "jax": "jax"}
PLATFORMS = tuple(MODULES)

needs_all = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES.values()),
    reason="compares the three platforms",
)


@functools.cache
def _worker() -> Any:
    spec = importlib.util.spec_from_file_location("converge_worker", HERE / "converge_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _platform(name: str) -> tuple[Any, Any]:
    pytest.importorskip(MODULES[name])
    train, losses = _worker().platform(name)
    return train, losses


def _one(loss: str, optimizer: str, track: str = "aligned", steps: int | None = None) -> Task:
    (task,) = tasks(track, losses=[loss], optimizers=[optimizer], steps=steps)
    return task


@functools.cache
def _reference(loss: str, optimizer: str) -> dict[str, Any]:
    return converge.reference(_one(loss, optimizer))


def _status(task: Task, curve: dict[str, Any]) -> str:
    """The verdict on a curve, passed off as a run of the task, beside the reference."""
    honest = _reference(task.loss, task.optimizer)
    passed_off = {**curve, "task": honest["task"], "track": "aligned", "platform": "suspect"}
    (cell,) = converge.verdict([honest, passed_off])
    return str(cell["status"])


EVERY = [pytest.param(t, id=f"{t.loss}-{t.optimizer}") for t in tasks()]


# --- tasks ---------------------------------------------------------------------------------------


def test_a_track_has_every_loss_with_every_optimiser() -> None:
    assert [(t.loss, t.optimizer) for t in tasks()] == [
        (loss, optimizer)
        for loss in ("CrossEntropyLoss", "MSELoss", "HuberLoss")
        for optimizer in ("sgd", "adam", "rmsprop")
    ]
    assert {t.dataset for t in tasks()} == set(converge.DATASETS)
    assert {t.optimizer for t in tasks("defaults:scaled")} == {"adam", "rmsprop"}


def test_ids_and_hashes_tell_all_tasks_apart() -> None:
    every = [task for track in converge.TRACKS for task in tasks(track)]
    assert len({task.id for task in every}) == len(every)
    assert len({task.hash for task in every}) == len(every)


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from lossbridge_conformance.converge import tasks;"
        "print(','.join(task.hash for task in tasks()))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip().split(",") == [task.hash for task in tasks()]


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-5},
        {"threshold": 0.1},
        {"scale": 0.5},
        {"settings": None},
        {"every": 2},
        {"loss": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_fact_that_changes_the_run_changes_the_hash(change: dict[str, Any]) -> None:
    task = _one("MSELoss", "adam")
    assert replace(task, **change).hash != task.hash
    assert replace(task, **change) != task
    assert replace(task) == task


def test_data_cannot_be_changed_by_a_run() -> None:
    task = _one("MSELoss", "sgd")
    for array in (task.inputs, task.targets, task.order, *task.initial):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_controls_change_one_thing() -> None:
    task = _one("CrossEntropyLoss", "adam")

    def control(name: str) -> tuple[Task, ...]:
        return tasks(f"control:{name}", losses=[task.loss], optimizers=["adam"])

    for other in control("order"):
        assert all(map(np.array_equal, other.initial, task.initial))
        assert not np.array_equal(other.order, task.order)
    for other in control("seed"):
        assert not np.array_equal(other.initial[0], task.initial[0])
        assert np.array_equal(other.order[: len(task.order)], task.order)
    for other in control("ulp"):
        assert np.array_equal(other.order, task.order)
        for moved, value in zip(other.initial, task.initial, strict=True):
            assert np.array_equal(np.abs(moved - value), np.where(value, np.spacing(abs(value)), 0))


def test_order_visits_every_row_at_most_once_an_epoch() -> None:
    order = _one("CrossEntropyLoss", "sgd").order
    per_epoch = 1797 // 64
    for start in range(0, len(order), per_epoch):
        epoch = order[start : start + per_epoch].ravel()
        assert len(set(epoch.tolist())) == len(epoch)


def test_unknown_names_say_what_is_known() -> None:
    with pytest.raises(ValueError, match="control:order"):
        tasks("aligend")
    with pytest.raises(ValueError, match="fallback"):
        replace(_one("MSELoss", "sgd"), loss="acme/x@1").evaluate([np.zeros((10, 1)), np.zeros(1)])
    with pytest.raises(ValueError, match="no reference run"):
        converge.reference(replace(_one("MSELoss", "sgd"), loss="acme/x@1"))


# --- the evaluation and the reference ------------------------------------------------------------


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "MSELoss", "HuberLoss"])
def test_reference_gradient_is_the_derivative_of_the_evaluation(loss: str) -> None:
    task = _one(loss, "sgd")
    whole = replace(task, order=np.arange(len(task.inputs))[None], learning_rate=1.0)
    start = [value.astype(np.float64) for value in task.initial]
    taken: list[Any] = []

    class Spy(Task):
        def run(self, _platform: str, step: Any, read: Any, _: Any = None) -> dict[str, Any]:
            step(self.order[0])
            taken.extend(np.array(value) for value in read())
            return {}

    converge.reference(Spy(**{name: getattr(whole, name) for name in Task.__dataclass_fields__}))
    random = np.random.RandomState(0)
    direction = [random.standard_normal(value.shape) for value in start]
    width = 1e-6

    def at(distance: float) -> float:
        moved = [s + distance * d for s, d in zip(start, direction, strict=True)]
        return task.evaluate(moved)

    slope = (at(width) - at(-width)) / (2 * width)
    gradient = sum(
        float(np.sum((before - after) * d))
        for before, after, d in zip(start, taken, direction, strict=True)
    )
    assert gradient == pytest.approx(slope, rel=1e-6)


def test_cross_entropy_survives_large_logits() -> None:
    task = replace(_one("CrossEntropyLoss", "sgd"))
    value = task.evaluate([value * 1e5 for value in task.initial])
    assert np.isfinite(value)


def test_a_run_that_blows_up_has_not_converged() -> None:
    task = _one("MSELoss", "sgd")
    curve = converge.reference(replace(task, learning_rate=1e9))
    assert curve["iterations"] is None
    assert "became" in curve["note"]
    assert all(np.isfinite(curve["values"]))
    json.dumps(curve, allow_nan=False)
    assert _status(task, curve) == "FAIL"


def test_counting_every_few_steps() -> None:
    task = _one("MSELoss", "sgd")
    exact = _reference("MSELoss", "sgd")
    coarse = converge.reference(replace(task, every=10))
    assert coarse["values"] == exact["values"][::10]
    assert coarse["iterations"] == -(-exact["iterations"] // 10) * 10


# --- the verdict ---------------------------------------------------------------------------------


def _shifted(curve: dict[str, Any], platform: str, by: int) -> dict[str, Any]:
    return {**curve, "platform": platform, "iterations": curve["iterations"] + by}


@pytest.mark.parametrize(
    ("by", "status"), [(0, "PASS"), (1, "PASS"), (-1, "PASS"), (2, "FAIL"), (-2, "FAIL")]
)
def test_the_gate_is_one_iteration_or_one_per_cent(by: int, status: str) -> None:
    curve = _reference("MSELoss", "sgd")
    assert 100 <= curve["iterations"] < 200
    runs = [_shifted(curve, "torch", 0), _shifted(curve, "jax", by)]
    (cell,) = converge.verdict(runs)
    assert cell["status"] == status
    assert f"torch {curve['iterations']}" in cell["detail"]
    assert f"jax {curve['iterations'] + by}" in cell["detail"]


def test_tolerance() -> None:
    assert converge.tolerance([50, 60]) == 1
    assert converge.tolerance([400, 900]) == 4
    assert converge.tolerance([50], every=5) == 5


def test_nothing_to_compare_is_untested_not_passed() -> None:
    curve = _shifted(_reference("MSELoss", "sgd"), "torch", 0)
    twin = {**curve, "platform": "jax"}
    assert converge.verdict([curve])[0]["status"] == "UNTESTED"
    assert converge.verdict([curve, {**twin, "task": "0"}])[0]["status"] == "UNTESTED"
    (cell,) = converge.verdict([curve, twin], platforms=("torch", "jax", "keras"))
    assert cell["status"] == "UNTESTED"
    assert "keras" in cell["detail"]
    cells = converge.verdict([curve, twin], expected=tasks())
    assert [c["status"] for c in cells].count("PASS") == 1
    assert [c["status"] for c in cells].count("UNTESTED") == 8


def test_cells_and_curves_fit_the_results_format() -> None:
    curve = _shifted(_reference("MSELoss", "sgd"), "torch", 0)
    curves = [curve, {**curve, "platform": "jax", "id": "another"}]
    cells = converge.verdict(curves, expected=tasks(), spec_ids={"MSELoss": "mse@1"})
    results = msgspec.convert(
        {"created": "2024-01-01", "platform": "torch", "cells": cells, "curves": curves}, Results
    )
    check(results, "this test")
    assert results.cells[0].loss == "mse@1"
    assert msgspec.to_builtins(results.curves[0])["values"] == tuple(curve["values"])


def test_only_the_aligned_track_gates() -> None:
    far = {**_shifted(_reference("MSELoss", "sgd"), "torch", 99), "track": "defaults"}
    near = {**_shifted(_reference("MSELoss", "sgd"), "jax", 0), "track": "defaults"}
    assert converge.verdict([far, near]) == []
    (row,) = converge.summary([far, near])
    assert row["spread"] == pytest.approx(99 / near["iterations"])


# --- planted faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", EVERY)
@pytest.mark.parametrize("factor", [1.05, 0.95])
def test_a_learning_rate_off_by_five_per_cent_is_caught(task: Task, factor: float) -> None:
    rate = task.learning_rate * factor
    assert _status(task, converge.reference(replace(task, learning_rate=rate))) == "FAIL"
    assert _status(task, _reference(task.loss, task.optimizer)) == "PASS"


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        ("CrossEntropyLoss", Settings(0.9, 0.0, 1e-7, "inside")),
        ("CrossEntropyLoss", Settings(0.9, 0.0, 1e-8, "inside")),
        ("MSELoss", Settings(0.99, 0.0, 1e-8, "outside")),
        ("HuberLoss", Settings(0.99, 0.0, 1e-8, "outside")),
    ],
    ids=["epsilon inside, Keras", "epsilon inside, optax", "decay, MSE", "decay, Huber"],
)
def test_a_moved_epsilon_or_decay_is_caught(loss: str, wrong: Settings) -> None:
    task = _one(loss, "rmsprop")
    assert _status(task, converge.reference(task, wrong)) == "FAIL"


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_faulty_loss_is_caught(name: str) -> None:
    train, losses = _platform(name)
    task = _one("MSELoss", "sgd", steps=200)  # enough to reach the threshold, and quicker
    own = losses["MSELoss"]
    faults: dict[str, Callable[[Any, Any], Any]] = {
        "wrong sign": lambda prediction, target: -own(prediction, target),
        "sum over the batch": lambda prediction, target: own(prediction, target) * 32.0,
        "divided by one less": lambda prediction, target: own(prediction, target) * 32.0 / 31.0,
        "target forgotten": lambda prediction, target: own(prediction, target * 0.0),
    }
    assert _status(task, train(task, own)) == "PASS"
    for fault, loss in faults.items():
        assert _status(task, train(task, loss)) == "FAIL", fault


# --- the platforms -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize("optimizer", converge.OPTIMIZERS)
@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "HuberLoss"])
def test_aligned_training_follows_the_reference(name: str, optimizer: str, loss: str) -> None:
    train, losses = _platform(name)
    task = _one(loss, optimizer, steps=12)
    curve = train(task, losses[loss])
    expected = converge.reference(task)
    assert curve["platform"] == name
    assert curve.keys() == expected.keys()
    np.testing.assert_allclose(curve["values"], expected["values"], rtol=3e-6)


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize(
    ("track", "optimizer"),
    [
        (track, task.optimizer)
        for track in ("defaults", "defaults:scaled")
        for task in tasks(track, losses=["HuberLoss"])
    ],
)
def test_the_table_of_defaults_is_what_the_frameworks_do(
    name: str, optimizer: str, track: str
) -> None:
    train, losses = _platform(name)
    task = _one("HuberLoss", optimizer, track, steps=12)
    expected = converge.reference(task, DEFAULTS[name, optimizer])["values"]
    np.testing.assert_allclose(train(task, losses["HuberLoss"])["values"], expected, rtol=3e-6)
    if DEFAULTS[name, optimizer] != ALIGNED[optimizer] and track == "defaults:scaled":
        # ... and the comparison is able to tell them from the aligned ones.
        aligned = converge.reference(task)["values"]
        assert np.max(np.abs(np.divide(aligned, expected) - 1)) > 3e-5


@pytest.mark.parametrize("name", PLATFORMS)
def test_an_unknown_loss_is_evaluated_by_itself_in_float64(name: str) -> None:
    train, losses = _platform(name)
    loss = losses["MSELoss in its input's dtype"]
    task = _one("MSELoss", "sgd", steps=3)
    unknown = train(replace(task, loss="acme/mse@1"), loss)
    known = train(task, loss)
    # Far below what float32 could tell: the fallback did run in float64.
    np.testing.assert_allclose(unknown["values"], known["values"], rtol=1e-13)


@functools.cache
def _all_curves() -> list[dict[str, Any]]:
    curves = [converge.reference(task) for task in tasks()]
    for name in PLATFORMS:
        environment = {
            **os.environ,
            **_worker().ONE_THREAD,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        script = HERE / "converge_worker.py"
        tracks = "aligned,defaults,defaults:scaled"
        ran = subprocess.run(
            [sys.executable, str(script), name, tracks],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        curves += json.loads(ran.stdout)
    return curves


@needs_all
@pytest.mark.slow
def test_the_three_platforms_need_the_same_number_of_iterations() -> None:
    cells = converge.verdict(_all_curves(), platforms=(*PLATFORMS, REFERENCE), expected=tasks())
    assert {cell["id"]: cell["detail"] for cell in cells if cell["status"] != "PASS"} == {}
    assert len(cells) == 9


@needs_all
@pytest.mark.slow
@pytest.mark.parametrize("track", ["defaults", "defaults:scaled"])
def test_the_named_causes_explain_the_defaults_track(track: str) -> None:
    for task in tasks(track, optimizers=["adam", "rmsprop"]):
        measured = {
            curve["platform"]: curve["iterations"]
            for curve in _all_curves()
            if curve["track"] == track and curve["task"] == task.hash
        }
        predicted = {
            row["platform"]: row["iterations"]
            for row in converge.attribute(task)
            if row["cause"] == "all"
        }
        assert measured.keys() == predicted.keys() == set(PLATFORMS)
        for name, count in predicted.items():
            if count is None:
                assert measured[name] is None
            else:
                assert measured[name] == pytest.approx(count, abs=converge.tolerance([count]))
