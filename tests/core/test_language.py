"""What the language of losses says yes and no to, and in which words it says no."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest

from lossbridge import Expr, define, ops
from lossbridge.advise import advise
from lossbridge.errors import SpecError
from lossbridge.ir import Builder, Graph, Type
from lossbridge.kinds import Kind
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.passes.guard import guard
from lossbridge.passes.stabilise import stabilise
from lossbridge.plan import Options, index_sources, plan
from lossbridge.spec import Port, Spec, dumps, loads
from lossbridge.trace import Definition, build_graph, positive, to_body


def loss(function: Callable[..., Any], axes: str = "real[n, f]", **settings: Any) -> Spec:
    """The specification of a function of x and y."""

    def body(x: Expr, y: Expr) -> Any:
        return function(x, y)

    body.__annotations__ = dict.fromkeys("xy", Annotated[Expr, axes])
    return define("tests/body@1", **settings)(body).spec


def document(body: list[str], **changes: Any) -> Spec:
    data = {
        "lossbridge": 1,
        "loss": "tests/text@1",
        "inputs": {"x": "real[*batch]", "y": "real[*batch]"},
        "body": body,
        "yields": "per_element",
    }
    return loads(json.dumps(data | changes))


# --- words of other libraries ------------------------------------------------------------------

FOREIGN: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "np.exp": (lambda x, y: np.exp(x) * y, "exp(x)"),
    "np.sum": (lambda x, y: np.sum(x) * y, "sum(x, 'classes')"),
    "np.maximum": (lambda x, y: np.maximum(x, y), "maximum"),
    "np.where": (lambda x, y: np.where(x > 0, x, y), "where"),
    "an array": (lambda x, y: np.ones(3) * x * y, "x * y"),
    "math.exp": (lambda x, y: math.exp(x) * y, "exp(x)"),
    "x[0]": (lambda x, y: x[0] * y, "take(x, index"),
    "x[:, 1]": (lambda x, y: x[:, 1] * y, "take(x, index"),
    "x @ y": (lambda x, y: x @ y, "dot(x, y"),
    "x % 2": (lambda x, y: x % 2 + y, "mod(x, n)"),
    "x // 2": (lambda x, y: x // 2 + y, "intdiv(x, n)"),
    "if x > 0": (lambda x, y: x if x > 0 else y, "where(condition, a, b)"),
    "x and y": (lambda x, y: ops.where(x > 0 and y > 0, x, y), "&, |, ~"),
    "max(x, y)": (lambda x, y: max(x, y), "maximum(x, y)"),
    "float(x)": (lambda x, y: float(x) * y, "lossbridge.ops"),
    "len(x)": (lambda x, y: len(x) * y, "size(x, 'classes')"),
    "for _ in x": (lambda x, y: next(iter(x)) * y, "sum(x, 'classes')"),
    "round(x)": (lambda x, y: round(x) * y, "no rounding"),
    "x.sum()": (lambda x, y: x.sum() * y, "sum(x, 'classes')"),
    "x.T": (lambda x, y: x.T * y, "rename"),
    "x.shape": (lambda x, y: x.shape[0] * y, "size(x, 'classes')"),
    "sum(x, axis=1)": (lambda x, y: ops.sum(x * y, axis=1), "sum(x, 'classes')"),
    "sum(x, 1)": (lambda x, y: ops.sum(x * y, 1), "sum(x, 'classes')"),
    "sum(x, -1)": (lambda x, y: ops.sum(x * y, -1), "sum(x, 'classes')"),
    "shift by a value": (lambda x, y: ops.shift(x, "n", y, 0.0), "shift: by is a number"),
    "a length of 50": (
        lambda x, y: ops.sum(ops.to_real(ops.range_("k", 50)), "k") * x * y,
        "range_('k', size(x",
    ),
    "an axis called from": (lambda x, y: ops.rename(x, "f", "from") * y, "from_"),
    "None": (lambda x, y: None, "return value"),
    "a number": (lambda x, y: 1.0, "return value"),
    "three values": (lambda x, y: (x, y, x), "return value, count"),
}


@pytest.mark.parametrize("words", sorted(FOREIGN))
def test_a_word_of_another_library_is_answered_with_ours(words: str) -> None:
    function, answer = FOREIGN[words]
    with pytest.raises(SpecError) as caught:
        loss(function)
    assert answer in str(caught.value)
    assert caught.value.phase == "semantic" and caught.value.code


def test_numbers_of_numpy_are_numbers() -> None:
    assert loss(lambda x, y: np.float64(2.0) * x * y).body == ("value = 2.0 * x * y",)
    assert loss(lambda x, y: x * np.float32(0.5) * y).body == ("value = x * 0.5 * y",)


def test_a_value_has_no_attributes_of_tensors() -> None:
    def asking(x: Any, y: Any) -> Any:
        assert not hasattr(x, "shape") and not hasattr(x, "numpy")
        return x * y

    assert loss(asking).body == ("value = x * y",)


def test_an_annotation_without_annotated_says_how_it_is_written() -> None:
    def bare(x: "real[n]") -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037
        return x

    def missing(x: Annotated[Expr, "real[n]"], y: Expr) -> Any:
        return x * y

    for function in (bare, missing):
        with pytest.raises(SpecError, match="Annotated"):
            _ = define("tests/annotated@1")(function).spec


def test_a_step_that_is_not_declared_is_no_input() -> None:
    def scheduled(x: Annotated[Expr, "real[n]"], step: Expr) -> Expr:
        return x * step

    with pytest.raises(SpecError, match="step=True"):
        _ = define("tests/scheduled@1")(scheduled).spec


# --- what is said and not meant ----------------------------------------------------------------

NO_AXIS = ("sum", "mean", "amax", "norm", "logsumexp", "softmax", "log_softmax", "normalize")


@pytest.mark.parametrize("name", NO_AXIS)
def test_a_reduction_over_no_axis_is_refused_when_the_loss_is_made(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        loss(lambda x, y: getattr(ops, name)(x - y))
    assert caught.value.code == "no_axis" and f"{name}(x, 'f')" in str(caught.value)
    with pytest.raises(SpecError) as caught:
        document([f"value = {name}(x - y)"])
    assert caught.value.code == "no_axis"


def test_a_setting_that_nothing_reads_is_refused() -> None:
    def typo(x: Annotated[Expr, "real[n]"], *, gama: Expr) -> Expr:
        return x**2

    with pytest.raises(SpecError, match="gama is declared"):
        _ = define("tests/typo@1", params={"gama": positive(2.0)})(typo).spec
    with pytest.raises(SpecError, match="y is declared"):
        loss(lambda x, y: x)
    with pytest.raises(SpecError, match="step"):
        document(["value = x * y"], step=True)


def test_a_value_of_two_axes_is_none_for_each_sample() -> None:
    with pytest.raises(SpecError) as caught:
        loss(lambda x, y: x * y, yields="per_sample")
    assert caught.value.code == "yields"
    assert loss(lambda x, y: x * y, yields="per_pair").yields == "per_pair"


def test_a_port_is_handed_the_axes_it_declares() -> None:
    ports = {"critic": "(real[n, f]) -> real[n]"}
    text = {"inputs": {"x": "real[n, f]", "y": "real[n]"}, "ports": ports}
    assert document(["value = apply(critic, x) * y"], **text).ports["critic"] == Port(
        (Kind.parse("real[n, f]"),), Kind.parse("real[n]")
    )
    for call in ("apply(critic, y)", "apply(critic, sum(x, f))", "derivative(critic, y)"):
        with pytest.raises(SpecError) as caught:
            document([f"value = {call} * y * sum(x, f)"], **text)
        assert caught.value.code == "port_axes"


# --- scans -------------------------------------------------------------------------------------


def nested(x: Annotated[Expr, "real[batch, time]"], y: Annotated[Expr, "real[batch, f]"]) -> Expr:
    """A recursion over features at each step of one over time."""

    def step(outer: Expr) -> Expr:
        inner = ops.scan("f", outer, lambda c: ops.tanh(c * x + y + outer), like=outer)
        return ops.mean(inner, "f")

    return ops.sum(ops.scan("time", 0.0, step, like=x), "time")


def scanned() -> Definition:
    return define("tests/nested@1", yields="per_sample")(nested)


def test_carries_of_nested_scans_have_names_of_their_own() -> None:
    spec = scanned().spec
    text = "\n".join(spec.body)
    assert "carry = " in text and "carry2 = " in text
    assert loads(dumps(spec)) == spec
    assert build_graph(loads(dumps(spec))) == build_graph(spec)
    assert to_body(build_graph(spec)) == spec.body


def test_a_carry_may_not_hide_another() -> None:
    inner = "scan(k, c = 0 * sum(x, k), c + x)"
    with pytest.raises(SpecError) as caught:
        document(
            [f"value = scan(i, c = 0 * sum(x, k), c + sum({inner} * c, k)) + y"],
            inputs={"x": "real[batch, k]", "y": "real[batch, i]"},
        )
    assert caught.value.code == "duplicate_name"


def test_a_port_in_a_step_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        document(
            ["value = scan(t, c = sum(0 * x, t), apply(f, c) + x)"],
            inputs={"x": "real[n, t]"},
            ports={"f": "(real[n]) -> real[n]"},
        )
    assert caught.value.code == "port_in_scan"


def test_what_a_step_reads_of_outside_is_computed_outside_in_text_too() -> None:
    spec = document(
        ["value = scan(k, c = 0 * sum(x, k), c + x / sum(x, k)) * y"],
        inputs={"x": "real[n, k]", "y": "real[n]"},
    )
    (scan,) = [n for n in build_graph(spec).nodes if n.op == "scan"]
    body: Graph = scan.attr("body")
    assert {n.op for n in body.nodes} == {"input", "add"}


# --- axes --------------------------------------------------------------------------------------


def test_an_axis_may_be_named_before_a_renaming_makes_it() -> None:
    def weight(x: Expr) -> Expr:
        return ops.to_real(ops.iota(x, "others"))

    def pairs(x: Expr) -> Expr:
        return ops.exp(-ops.norm(x["i"] - x["others"], "f"))

    one = loss(lambda x, y: ops.sum(weight(x) * pairs(x - y), "i", "others"), yields="scalar")
    two = loss(lambda x, y: ops.sum(pairs(x - y) * weight(x), "i", "others"), yields="scalar")
    assert build_graph(one).layout == build_graph(two).layout
    with pytest.raises(SpecError, match="unknown axis others"):
        loss(lambda x, y: x * y * weight(x))


def test_two_axes_exchanged_by_renaming_end() -> None:
    spec = document(
        ["value = rename(rename(rename(x, a, t), b, a), t, b) * y"],
        inputs={"x": "real[a, b]", "y": "real[a, b]"},
        yields="per_pair",
    )
    assert set(index_sources(spec)) == {"a", "b"}
    plan(spec, (), Options(mask=True)).fused(("x",))


# --- work --------------------------------------------------------------------------------------


def bisected(steps: int) -> list[str]:
    lines = ["lo0 = x - 10", "hi0 = x + 10"]
    for k in range(steps):
        lines += [
            f"m{k} = 0.5 * (lo{k} + hi{k})",
            f"g{k} = exp(m{k}) - y",
            f"lo{k + 1} = where(g{k} < 0, m{k}, lo{k})",
            f"hi{k + 1} = where(g{k} < 0, hi{k}, m{k})",
        ]
    return [*lines, f"value = lo{steps} + log(hi{steps})"]


def test_checking_is_linear_in_shared_rows() -> None:
    """Six steps of a bisection took 35 seconds and a gigabyte."""
    start = time.process_time()
    findings = advise(document(bisected(49)))
    assert time.process_time() - start < 5.0
    assert findings and max(len(f["where"]) for f in findings) <= 160


@pytest.mark.parametrize(
    "line",
    ["{a} * {a} + sin({a})", "where({a} > 0.5, {a} * x, {a} + y)", "log(1 + exp({a})) - y"],
)
def test_a_loss_of_200_lines_is_planned(line: str) -> None:
    lines = ["a0 = x - y", *(f"a{k + 1} = {line.format(a=f'a{k}')}" for k in range(198))]
    spec = document([*lines, "value = a198"])
    start = time.process_time()
    plan(spec).fused(("x",))
    assert time.process_time() - start < 5.0  # some 0.3 on an idle machine


def test_chains_of_thousands_of_rows_need_no_stack() -> None:
    b = Builder(("n",))
    x = b.input("x", Type("real", ("n",)), "real[n]")
    y = b.input("y", Type("real", ("n",)), "real[n]")
    left, right = x, y
    for _ in range(2400):
        left, right = left + x * y, right + x * y
    graph = b.finish(value=ops.abs_(left) - ops.abs_(right))
    for run in (canonicalise, stabilise, guard):
        graph = run(graph)
    assert len(graph.nodes) > 4000


def test_a_loss_too_large_to_differentiate_says_so() -> None:
    lines = ["a0 = x - y"]
    lines += [
        f"a{k + 1} = softplus(a{k} * x) * log_cosh(a{k} - y) + kl_phi(a{k})" for k in range(250)
    ]
    spec = document([*lines, "value = a250"])
    with pytest.raises(SpecError) as caught:
        plan(spec).fused(("x", "y"))
    assert (caught.value.phase, caught.value.code) == ("compile", "too_many_nodes")
