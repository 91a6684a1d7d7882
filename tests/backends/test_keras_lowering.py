"""The TensorFlow table against the NumPy one, which shares nothing with it but the graphs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("these tests are of Keras on TensorFlow", allow_module_level=True)

from lossbridge import emit, ops  # noqa: E402
from lossbridge.frontdoor import forms  # noqa: E402
from lossbridge.ir import Graph  # noqa: E402
from lossbridge.plan import OUTSIDE, Options, Plan, plan  # noqa: E402
from lossbridge_keras.lowering import EAGER, LOWERING  # noqa: E402


def _numpy_lowering() -> Any:
    path = Path(__file__).parent / "numpy_backend" / "lowering.py"
    spec = importlib.util.spec_from_file_location("numpy_lowering", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LOWERING


NUMPY = _numpy_lowering()
SIZES = {
    "batch": 6,
    "*batch": 6,
    "classes": 5,
    "features": 4,
    "positions": 3,
    "terms": 3,
    "time": 7,
    "others": 6,  # the batch a second time
}


def _array(kind: str, axes: tuple[str, ...], rng: Any, sizes: dict[str, int]) -> Any:
    shape = [sizes.get(axis, 5) for axis in axes]
    if kind.startswith("index"):
        return rng.integers(0, 5, shape)
    if kind.startswith(("integer", "length")):
        return rng.integers(1, 4, shape)
    x = rng.normal(size=shape)
    if kind.startswith(("probability", "simplex")):
        x = 1.0 / (1.0 + np.exp(-x))
    if kind.startswith("simplex"):
        x = x / x.sum(-1, keepdims=True)
    if kind.startswith(("non_negative", "positive")):
        x = np.abs(x)
    return np.sign(x) if kind.startswith("sign") else x


def _graph(prepared: Plan) -> Graph:
    wrt = prepared.differentiable
    return prepared.fused(wrt) if prepared.separable(wrt) else prepared.pullback(wrt)


def _both(spec: Any, reduction: str, sizes: dict[str, int]) -> tuple[Any, Any, list[Any], Graph]:
    numbers = tuple((k, p.value) for k, p in spec.params.items() if p.value is not None)
    options = Options(reduction=reduction)
    graph = _graph(plan(spec, numbers, options, LOWERING.native))
    other = _graph(plan(spec, numbers, options, NUMPY.native))
    rng = np.random.default_rng(5)
    given = [
        _array(graph.nodes[i].attr("kind"), graph.nodes[i].attr("order"), rng, sizes)
        for _, i in graph.inputs()
    ]
    ours = emit.load(emit.emit(graph, LOWERING, "ours"), LOWERING, "ours")
    theirs = emit.load(emit.emit(other, NUMPY, "theirs"), NUMPY, "theirs")
    with np.errstate(all="ignore"):
        return ours, theirs(*given), given, graph


def _compare(found: Any, wanted: Any, graph: Graph) -> None:
    for (name, _), a, b in zip(graph.outputs, found, wanted, strict=True):
        assert np.shape(a) == np.shape(b), name
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


ALL = [spec for form in forms().values() for spec in form.specs]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.id)
def test_value_and_gradients_of_every_loss(spec: Any, reduction: str) -> None:
    function, wanted, given, graph = _both(spec, reduction, SIZES)
    _compare(function(*map(tf.constant, given)), wanted, graph)


HARD = ("cross_entropy@1", "focal@1", "info_nce@1", "arc_face@1", "ctc@1", "dice@1")


@pytest.mark.parametrize("name", [*HARD, "mse@1", "huber@1", "bce_with_logits@1"])
def test_the_rows_of_small_calls_say_the_same(name: str) -> None:
    spec = next(s for s in ALL if s.id == name)
    _, wanted, given, graph = _both(spec, "mean", SIZES)
    function = emit.load(emit.emit(graph, EAGER, "small"), EAGER, "small")
    _compare(function(*map(tf.constant, given)), wanted, graph)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_small_mean_is_one_op(reduction: str) -> None:
    # Each op costs an eager call 12 microseconds, and a mean over 32 x 10 has 60 in all.
    spec = next(s for s in ALL if s.id == "mse@1")
    prepared = plan(spec, (), Options(reduction), LOWERING.native)
    source = emit.emit(prepared.plain, EAGER, "small")
    assert (source.count("_mean(") == 1) == (reduction == "mean")
    assert source.count("raw_ops.RealDiv") == 0
    x, y = np.array([[0.5, -2.0]], np.float32), np.array([[0.25, 4.0]], np.float32)
    (value,) = emit.load(source, EAGER, "small")(tf.constant(x), tf.constant(y))
    assert value.numpy() == ((x - y) ** 2).mean() * (1.0 if reduction == "mean" else 2.0)


@pytest.mark.parametrize("jit", [False, True])
def test_one_over_a_number_is_exact_in_graphs(jit: bool) -> None:
    # As a reciprocal, which TensorFlow makes of it, 1 / 1 is 0.99999994.
    spec = next(s for s in ALL if s.id == "multiclass_perceptron@1")
    *_, graph = _both(spec, "none", SIZES)
    function = emit.load(emit.emit(graph, LOWERING, "ours"), LOWERING, "ours")
    run = tf.function(function, jit_compile=jit, autograph=False)
    x = np.tile(np.array([[2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 0.0, -1.0]], np.float32), (16, 1))
    _, gradient = run(tf.constant(x), tf.constant([1, 0] * 16, tf.int64))
    assert gradient.numpy()[:2].tolist() == [[0.25, -0.75, 0.25, 0.25], [0.0] * 4]


def test_numbers_that_are_kept_are_told_apart() -> None:
    held = {h.__name__: h for h in EAGER.helpers}["_held"]
    signs = [np.signbit(held(x, tf.float32).numpy()) for x in (0.0, -0.0, 0.0)]
    assert signs == [False, True, False]
    assert held(0, tf.int32).dtype == tf.int32 and held(0.1, tf.float64).numpy() == 0.1


def test_what_is_left_out_of_a_sum_is_chosen_once() -> None:
    # Two more selections over the classes took XLA 1.4 times the built-in's time at 65536 x 10.
    spec = next(s for s in ALL if s.id == "cross_entropy@1")
    *_, graph = _both(spec, "mean", SIZES)
    source = emit.emit(graph, LOWERING, "ours")
    (hot,) = re.findall(r"(\w+) = tf.equal\(\w+, e\d+\)", source)
    assert source.count(f"tf.where({hot}, ") == 2
    assert "keepdims" not in source


@pytest.mark.parametrize("mode", ["unknown sizes", "xla"])
@pytest.mark.parametrize("name", HARD)
def test_graphs_of_unknown_sizes_and_xla(name: str, mode: str) -> None:
    spec = next(s for s in ALL if s.id == name)
    function, wanted, given, graph = _both(spec, "mean", SIZES)
    signature = [tf.TensorSpec([None] * np.ndim(x), x.dtype) for x in given]
    if mode == "xla":
        run = tf.function(function, jit_compile=True, autograph=False)
    else:
        run = tf.function(function, input_signature=signature, autograph=False)
    _compare(run(*map(tf.constant, given)), wanted, graph)


@pytest.mark.parametrize("xla", [False, True])
def test_a_long_recursion_is_a_loop(xla: bool) -> None:
    spec = next(s for s in ALL if s.id == "ctc@1")
    function, wanted, given, graph = _both(spec, "mean", {**SIZES, "time": 40})
    run = tf.function(function, jit_compile=xla, autograph=False)
    tensors = list(map(tf.constant, given))
    _compare(run(*tensors), wanted, graph)
    if not xla:
        names = {op.type for op in run.get_concrete_function(*tensors).graph.get_operations()}
        assert names & {"While", "StatelessWhile"}


def test_the_table_is_complete() -> None:
    needed = {name for name, row in ops.OPS.items() if row.expand is None}
    outside = {"input", "const", *OUTSIDE}
    assert needed - outside - set(LOWERING.table) == set()


@pytest.mark.parametrize("jit", [False, True])
def test_indices_out_of_range_give_nan_and_empty_tables_give_nothing(jit: bool) -> None:
    take = LOWERING.namespace | {h.__name__: h for h in LOWERING.helpers}

    def run(x: Any, index: Any) -> Any:
        return take["_take"](x, index, -1, (0,), (0,))

    run = tf.function(run, jit_compile=jit) if jit else run
    x = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    found = run(x, tf.constant([1, 2, -1], tf.int64))
    np.testing.assert_array_equal(found, [2.0, np.nan, np.nan])
    empty = run(tf.zeros((3, 0)), tf.constant([0, 1, 0], tf.int64))
    assert np.isnan(empty).all()


def test_a_wrong_row_would_be_seen() -> None:
    spec = next(s for s in ALL if s.id == "huber@1")
    function, wanted, given, graph = _both(spec, "mean", SIZES)
    planted = [-given[0], *given[1:]]
    with pytest.raises(AssertionError):
        _compare(function(*map(tf.constant, planted)), wanted, graph)


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_a_nan_is_not_less_in_any_mode(how: str) -> None:
    """TensorFlow's optimizer makes ``~(x < a)`` into ``x >= a``, which is false of a NaN."""
    import lossbridge.keras as L
    from lossbridge import loads

    spec = loads(
        '{"lossbridge": 1, "loss": "me/outside@1", "yields": "per_element",'
        ' "inputs": {"prediction": "real[*batch]", "target": "real[*batch]"},'
        ' "body": ["value = where(target > 0.0 and not (prediction < 1.0), target, 0.0)"]}'
    )
    run = L.compile(spec, reduction="none")
    call = run if how == "eager" else tf.function(run, jit_compile=how == "xla")
    found = call(tf.ones(3), tf.constant([np.nan, 0.0, 2.0]))
    np.testing.assert_array_equal(found, [1.0, 0.0, 1.0])
