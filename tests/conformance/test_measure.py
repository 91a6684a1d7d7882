"""The testers tested: results shifted by known ulps, wrong classes, wrong signs, excuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lossbridge import ops
from lossbridge.ir import Builder, Graph, Type
from lossbridge.passes.differentiate import differentiate
from lossbridge_conformance.formats import (
    FORMATS,
    flush,
    ordinals,
    representable,
    round_floats,
    step,
    ulp,
    ulp_distance,
)
from lossbridge_conformance.measure import (
    bits_error,
    condition_gradient,
    condition_value,
    flushed_inputs,
    judge_gradient,
    judge_value,
)
from lossbridge_conformance.oracle import Rounded, oracle, round_to

INF, NAN = math.inf, math.nan
DTYPES = sorted(FORMATS)


def square() -> Graph:
    b = Builder(["*batch"])
    x, y = (b.input(name, Type("real", ("*batch",))) for name in "xy")
    return differentiate(b.finish(value=(x - y) ** 2), "value", ["x", "y"])


def cross_entropy() -> Graph:
    b = Builder(["*batch", "classes"])
    logits = b.input("logits", Type("real", ("*batch", "classes")))
    labels = b.input("labels", Type("int", ("*batch",)))
    value = -ops.log(ops.take(ops.softmax(logits, "classes"), labels, "classes"))
    return differentiate(b.finish(value=value), "value", ["logits"])


def truth_of(values: list[float], dtype: str) -> Rounded:
    """Truths that are exactly these numbers."""
    b = Builder(["*batch"])
    graph = b.finish(value=b.input("x", Type("real", ("*batch",))))
    return round_to(oracle(graph, {"x": np.array(values)})["value"], dtype)


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "integer"), [("float16", np.uint16), ("float32", np.uint32)])
def test_ranks_are_the_bit_patterns(dtype: str, integer: type) -> None:
    top = int(np.array(np.inf, dtype).view(integer))
    patterns = np.unique(np.linspace(0, top, 4001).astype(np.int64))
    values = patterns.astype(integer).view(dtype).astype(np.float64)
    np.testing.assert_array_equal(ordinals(values, dtype), patterns)
    np.testing.assert_array_equal(ordinals(-values, dtype), -patterns)


def test_bfloat16_ranks_are_the_upper_half_of_float32() -> None:
    patterns = np.arange(0, 0x7F81, dtype=np.int64)
    values = (patterns << 16).astype(np.uint32).view(np.float32).astype(np.float64)
    np.testing.assert_array_equal(ordinals(values, "bfloat16"), patterns)


def test_float64_ranks_are_the_bit_patterns() -> None:
    values = np.array([5e-324, 2.2250738585072014e-308, 1.0, 1.5, 1.7976931348623157e308, INF])
    np.testing.assert_array_equal(ordinals(values, "float64"), values.view(np.int64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_and_distance_undo_each_other(dtype: str) -> None:
    form = FORMATS[dtype]
    for start in (0.0, 1.0, -1.0, form.min_normal, form.min_subnormal, -form.max / 2, 1.5):
        for count in (0, 1, -1, 5, -5, 50, -50):
            moved = step(start, count, dtype)
            assert ulp_distance(start, moved, dtype) == abs(count)
            assert representable(moved, dtype)


def test_distance_across_zero_and_between_extremes() -> None:
    tiny = FORMATS["float64"].min_subnormal
    assert ulp_distance(-tiny, tiny, "float64") == 2
    assert ulp_distance(-0.0, 0.0, "float64") == 0
    assert ulp_distance(-INF, INF, "float64") == 2 * 0x7FF0000000000000


def test_values_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="not a float32 value"):
        ulp_distance(0.1, 0.1, "float32")
    with pytest.raises(ValueError, match="NaN"):
        ordinals(NAN, "float32")


def test_ulp_and_flush() -> None:
    assert ulp(1.0, "float32") == 2.0**-23
    assert ulp(0.75, "float32") == 2.0**-24
    assert ulp(0.0, "float16") == 2.0**-24
    assert flush([-1e-40, 1e-37], "float32").tolist() == [-0.0, 1e-37]
    assert np.signbit(flush(-1e-40, "float32"))


def test_rounding_ties_to_even() -> None:
    given = [1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, 2**-25, 3 * 2**-25]
    with np.errstate(over="ignore"):
        expected = np.array(given).astype(np.float16).astype(np.float64)
    np.testing.assert_array_equal(round_floats(given, "float16"), expected)


# --- error -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1, 2, 5, 50, -1, -5, -50])
def test_a_known_shift_is_measured_exactly(dtype: str, shift: int) -> None:
    values = [1.0, -3.5, FORMATS[dtype].min_normal * 2, FORMATS[dtype].max / 4]
    truth = truth_of(values, dtype)
    got = np.array([step(v, shift, dtype) for v in truth.value])
    expected = [math.log2(1 + abs(shift))] * len(values)
    assert judge_value(got, truth).bits.tolist() == expected
    assert bits_error(got, truth.value, dtype).tolist() == expected
    # A gradient is measured in ulps of its largest component; here there is one.
    gradient = judge_gradient(got[:, None], _column(truth), components=[1])
    assert gradient.bits == pytest.approx(expected, abs=1.0)
    assert (gradient.bits == 0.0).all() == (shift == 0)


def _column(truth: Rounded) -> Rounded:
    fields = {name: getattr(truth, name) for name in Rounded.__dataclass_fields__}
    changed: dict[str, Any] = {
        name: x[:, None] for name, x in fields.items() if isinstance(x, np.ndarray)
    }
    return replace(truth, **changed)


def test_wrong_sign_normaliser_and_epsilon_are_caught() -> None:
    inputs = {"x": np.array([1.5, 3.0, 0.25]), "y": np.array([1.0, -2.0, 0.125])}
    found = oracle(square(), inputs)
    truth = round_to(found["value"], "float32")
    k = condition_value(square(), inputs, found, "float32")
    right = truth.value
    assert (judge_value(right, truth, condition=k).judged == 0.0).all()
    for wrong in (-right, right / 3.0, right + 1e-4):
        got = round_floats(wrong, "float32")
        assert (judge_value(got, truth, condition=k).judged > 3.0).all()


@pytest.mark.parametrize("got", [NAN, INF, -INF])
def test_non_finite_where_truth_is_finite_has_all_bits_wrong(got: float) -> None:
    for truth in (truth_of([1.0], "float32"), truth_of([0.0], "float32")):
        judged = judge_value([got], truth, condition=1e30)
        assert judged.bits.tolist() == [32.0]
        assert judged.judged.tolist() == [32.0]
        assert judged.problem.tolist() == ["class"]


def test_classes_must_agree_exactly() -> None:
    truth = truth_of([NAN, INF, -INF, INF, NAN, 1e300], "float32")
    judged = judge_value([NAN, INF, -INF, -INF, INF, 3.0], truth, condition=1e9)
    assert judged.problem.tolist() == ["", "", "", "class", "class", "class"]
    assert judged.bits.tolist() == [0.0, 0.0, 0.0, 32.0, 32.0, 32.0]


def test_the_edge_of_the_range() -> None:
    top = FORMATS["float32"].max
    near = truth_of([step(top, -1, "float32")], "float32")
    assert judge_value([INF], near).bits.tolist() == [np.log2(3.0)]  # 2 ulps away
    far = truth_of([top / 1.01], "float32")
    assert judge_value([INF], far).problem.tolist() == ["class"]
    over = truth_of([float(np.float64(top) * (1 + 2.0**-24))], "float32")
    assert over.value.tolist() == [INF]
    assert judge_value([top], over).problem.tolist() == [""]
    assert judge_value([-top], over).problem.tolist() == ["class"]
    assert judge_value([top], truth_of([1e300], "float32")).problem.tolist() == ["class"]


def test_signs_of_zero() -> None:
    b = Builder(["*batch"])
    x = b.input("x", Type("real", ("*batch",)))
    underflow = b.finish(value=-(x**3))
    truth = round_to(oracle(underflow, {"x": np.array([1e-30])})["value"], "float32")
    assert judge_value([-0.0], truth).problem.tolist() == [""]
    assert judge_value([0.0], truth).problem.tolist() == ["sign of zero"]
    exact = truth_of([-0.0, 0.0], "float32")
    assert judge_value([0.0, -0.0], exact).problem.tolist() == ["", ""]
    assert judge_value([0.0, -0.0], exact, zero="ieee").problem.tolist() == ["sign of zero"] * 2
    assert judge_value([-0.0, 0.0], exact, zero="ieee").problem.tolist() == ["", ""]


def test_flushed_results_are_accepted_and_only_those() -> None:
    form = FORMATS["float32"]
    truth = truth_of([form.min_normal / 2, form.min_normal * 2, form.min_normal / 2], "float32")
    judged = judge_value([0.0, 0.0, form.min_normal], truth)
    assert judged.bits[0] == 0.0
    assert judged.bits[1] > 20.0
    assert judged.bits[2] > 20.0


def test_flushed_inputs_are_accepted() -> None:
    graph = square()
    inputs = {"x": np.array([1e-40]), "y": np.array([0.0])}
    assert flushed_inputs(graph, {"x": np.array([1.0]), "y": np.array([0.0])}, "float32") is None
    other = flushed_inputs(graph, inputs, "float32")
    assert other is not None
    truth, accepted = (
        round_to(oracle(graph, values)["gradient_x"], "float32") for values in (inputs, other)
    )
    assert judge_value(accepted.value, truth, accepted=[accepted]).bits.tolist() == [0.0]
    # Flushing is no excuse for anything else.
    assert judge_value([1.0], truth, accepted=[accepted]).bits.tolist() > [20.0]


def test_gradients_count_in_ulps_of_the_largest_component() -> None:
    b = Builder(["*batch", "classes"])
    graph = b.finish(value=b.input("x", Type("real", ("*batch", "classes"))))
    given = np.array([[1.0, 2.0**-30], [2.0**-30, 2.0**-30]])
    truth = round_to(oracle(graph, {"x": given})["value"], "float32")
    got = given.copy()
    got[:, 1] = 0.0
    judged = judge_gradient(got, truth, components=[1])
    assert judged.bits[0] < 0.02  # far below one ulp of the component 1.0
    assert judged.bits[1] == pytest.approx(23.0, abs=0.01)
    swapped = judge_gradient(given[:, ::-1], truth, components=[1])
    assert swapped.bits[0] > 20.0
    spoilt = given.copy()
    spoilt[0, 1] = NAN
    assert judge_gradient(spoilt, truth, components=[1]).problem.tolist() == ["class", ""]


def test_an_undecided_truth_is_never_a_pass() -> None:
    b = Builder(["*batch"])
    x = b.input("x", Type("real", ("*batch",)))
    graph = b.finish(value=-ops.log(1.0 - ops.sigmoid(x)))
    truth = round_to(oracle(graph, {"x": np.array([1e4, 1.0])})["value"], "float32")
    judged = judge_value([1e4, truth.value[1]], truth)
    assert judged.problem.tolist() == ["undecided", ""]
    assert math.isnan(judged.judged[0])
    assert judged.worst() == (1,)


def test_either_side_of_an_undecided_branch() -> None:
    b = Builder(["*batch"])
    x, y = (b.input(name, Type("real", ("*batch",))) for name in "xy")
    graph = differentiate(b.finish(value=abs(ops.log(ops.exp(x)) - y)), "value", ["x"])
    inputs = {"x": np.array([1.5]), "y": np.array([1.5])}
    truth = round_to(oracle(graph, inputs)["gradient_x"], "float32")
    for right in (-1.0, 0.0, 1.0):
        assert judge_value([right], truth).judged.tolist() == [0.0]
    for wrong in (0.5, -0.25, 2.0, NAN):
        assert judge_value([wrong], truth).judged[0] > 3.0


# --- conditions --------------------------------------------------------------------------------


def test_condition_of_a_difference() -> None:
    inputs = {"x": np.array([1.0, 3.0]), "y": np.array([1.0 - 2.0**-10, -1.0])}
    found = oracle(square(), inputs)
    value = condition_value(square(), inputs, found, "float32")
    # k = 2 (|x| + |y|) / |x - y|; the gradient 2(x - y) has half of that.
    expected = 2 * (1.0 + inputs["y"] * [1, -1] + [0, 2]) / (inputs["x"] - inputs["y"])
    assert value == pytest.approx(expected, rel=1e-9)
    gradient = condition_gradient(square(), inputs, "x", "float32")
    assert gradient == pytest.approx(expected / 2, rel=1e-9)


def test_condition_of_cross_entropy_is_the_margin() -> None:
    """numerics.md: where one class dominates by d, the value and gradient have k = |d|."""
    logits = np.array([[20.0, 0, 0, 0], [80.0, 0, 0, 0]])
    inputs = {"logits": logits, "labels": np.zeros(2, dtype=np.int64)}
    found = oracle(cross_entropy(), inputs)
    assert condition_value(cross_entropy(), inputs, found, "float32") == pytest.approx([20, 80])
    assert condition_gradient(cross_entropy(), inputs, "logits", "float32") == pytest.approx(
        [20, 80]
    )


def test_condition_counts_every_axis_of_a_sample() -> None:
    b = Builder(["*batch", "classes"])
    x = b.input("x", Type("real", ("*batch", "classes")))
    graph = differentiate(b.finish(value=ops.sum(x, "classes")), "value", ["x"])
    inputs = {"x": np.array([[1.0, -0.5, 0.25], [1.0, 1.0, 1.0]])}
    found = oracle(graph, inputs)
    k = condition_value(graph, inputs, found, "float32")
    assert k == pytest.approx([1.75 / 0.75, 1.0])


def test_ill_conditioning_excuses_what_rounding_does_and_no_more() -> None:
    """Near a zero of f the condition number is huge, and still a wrong result is wrong."""
    b = Builder(["*batch"])
    x, y = (b.input(name, Type("real", ("*batch",))) for name in "xy")
    graph = differentiate(b.finish(value=x - y), "value", ["x", "y"])
    for gap, fine, wrong in ((0.0, 2.0**-23, 0.01), (2.0**-20, 2.0**-20 + 2.0**-23, 0.01)):
        inputs = {"x": np.array([1.0 + gap]), "y": np.array([1.0])}
        found = oracle(graph, inputs)
        k = condition_value(graph, inputs, found, "float32")
        truth = round_to(found["value"], "float32")
        assert k[0] > 2.0**15
        small = judge_value([fine], truth, condition=k)
        assert small.judged[0] <= 2.0
        large = judge_value(round_floats([wrong], "float32"), truth, condition=k)
        assert large.judged[0] > 10.0
        # A huge result is not excused either, whatever its rank.
        assert judge_value(round_floats([1e30], "float32"), truth, condition=k).judged[0] == 32.0


def test_what_is_right_is_right_however_badly_conditioned() -> None:
    """Under a condition number of 1e308 even 0 is near the end of the range, and judged 64 bits."""
    for value in (0.0, 1.0, -3.5):
        truth = truth_of([value], "float64")
        assert judge_value([value], truth, condition=1e308).judged.tolist() == [0.0]


def test_an_unknown_condition_excuses_nothing() -> None:
    truth = truth_of([1.0], "float32")
    got = [step(1.0, 50, "float32")]
    for k in (NAN, INF, 0.0):
        assert judge_value(got, truth, condition=k).judged.tolist() == [math.log2(51)]


def test_the_condition_of_a_gradient_is_that_of_its_largest_components() -> None:
    """Of many components a few rows of the Hessian are looked at, and it matters which."""
    b = Builder(["n", "k"])
    x = b.input("x", Type("real", ("n", "k")))
    graph = differentiate(b.finish(value=ops.sum(ops.exp(x), "k")), "value", ["x"])
    inputs = {"x": np.zeros((2, 40))}
    inputs["x"][0, 39], inputs["x"][1, 17] = 30.0, 7.0
    np.testing.assert_allclose(condition_gradient(graph, inputs, "x", "float32"), [30.0, 7.0])
