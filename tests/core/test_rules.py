"""Every rewrite rule, taken at its word.

A rule says that two expressions are equal over the reals, and that the second is no worse in
floating point. Its ``kinds`` say over what: a number written after ``=`` is that constant. Both
claims are sampled, value and gradient, with ordinary numbers, every exponent of the format and the
special grid of each kind: signed zeros, subnormals, infinities and NaN included.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import plain_numpy
import pytest

from lossbridge import ops
from lossbridge.ir import Builder, Expr, Graph, Type
from lossbridge.kinds import Kind
from lossbridge.passes.differentiate import differentiate
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise
from lossbridge.passes.stabilise import RULES
from lossbridge.rewrite import Rule, instantiate
from lossbridge_conformance import measure
from lossbridge_conformance.draw import Draw, special_rows
from lossbridge_conformance.oracle import OracleResult, oracle, round_to

ROWS, WIDTH = 16, 4
COMPUTE = {"float32": "float32", "float64": "float64", "float16": "float32", "bfloat16": "float32"}
BY_NAME = {rule.name: rule for rule in RULES}
# Rounding moves by a bit when an expression is computed in another order; that is no loss.
MEDIAN_SLACK, WORST_SLACK = 1.0, 1.6


# --- the two sides of a rule -------------------------------------------------------------------


def constants(rule: Rule) -> dict[str, float]:
    return {n: float(kind[1:]) for n, kind in rule.kinds if kind.startswith("=")}


def kinds(rule: Rule) -> dict[str, Kind]:
    return {n: Kind.parse(kind) for n, kind in rule.kinds if not kind.startswith("=")}


def variables(rule: Rule, b: Builder) -> dict[str, Any]:
    found: dict[str, Any] = {"k": ("k",)}
    for name, kind in kinds(rule).items():
        found[name] = b.input(name, Type(kind.dtype, kind.axes), str(kind))
    found.update((name, b.const(number)) for name, number in constants(rule).items())
    return found


def side(rule: Rule, which: str) -> Graph:
    """One side as a graph with its gradient in each real variable."""
    b = Builder(["n", "k"])
    bound = variables(rule, b)
    tree = rule._pattern if which == "pattern" else rule._replacement
    graph = b.finish(value=instantiate(tree, bound, b))
    if rule.differentiable:
        real = [n for n, k in kinds(rule).items() if k.dtype == "real"]
        graph = differentiate(graph, "value", real)
    return guard(graph)


def lowered(graph: Graph) -> Graph:
    """As a platform runs it, with no rule applied."""
    return guard(legalise(graph))


# --- samples -----------------------------------------------------------------------------------


def sample(rule: Rule, dtype: str, stratum: str) -> dict[str, Any]:
    """Rows along ``n``: independent draws, or each variable's special patterns beside others."""
    draw = Draw(sum(map(ord, rule.name)), dtype)
    found: dict[str, Any] = {}
    for name, kind in kinds(rule).items():
        shape = tuple(ROWS if a == "n" else WIDTH for a in kind.axes)
        along = len(shape) - 1
        found[name] = draw.array(kind, shape, along, WIDTH, stratum)
    return _with_specials(rule, found, dtype) if stratum == "special" else found


def _with_specials(rule: Rule, rows: dict[str, Any], dtype: str) -> dict[str, Any]:
    """In turn one variable takes its special patterns and the others stay as they were drawn."""
    stacks: dict[str, list[Any]] = {name: [] for name in rows}
    for name, kind in kinds(rule).items():
        if "n" not in kind.axes:
            continue
        shape = tuple(WIDTH for a in kind.axes if a != "n")
        for at, (_, pattern) in enumerate(special_rows(kind, shape, 0, WIDTH, dtype)):
            for other, drawn in rows.items():
                own = "n" in dict(kinds(rule))[other].axes
                taken = pattern if other == name else drawn[at % ROWS] if own else drawn
                stacks[other].append(taken)
    return {
        name: np.stack(stack) if "n" in kinds(rule)[name].axes else rows[name]
        for name, stack in stacks.items()
    }


@cache
def truth(name: str, which: str, dtype: str, stratum: str) -> Mapping[str, OracleResult]:
    rule = BY_NAME[name]
    drawn = sample(rule, dtype, "practical" if stratum == "special" else stratum)
    inputs = _with_specials(rule, drawn, dtype) if stratum == "special" else drawn
    return oracle(side(rule, which), inputs, budget=60.0, limit=2048)


def inputs_of(rule: Rule, dtype: str, stratum: str) -> dict[str, Any]:
    drawn = sample(rule, dtype, "practical" if stratum == "special" else stratum)
    return _with_specials(rule, drawn, dtype) if stratum == "special" else drawn


def finite_rows(rule: Rule, inputs: Mapping[str, Any]) -> Any:
    """Rows without an infinity or NaN; kinds are sets of finite numbers."""
    rows = np.ones(1, bool)
    for name, kind in kinds(rule).items():
        x = np.asarray(inputs[name], np.float64)
        fine = np.isfinite(x)
        rows = rows & (fine.all(axis=tuple(range(1, x.ndim))) if "n" in kind.axes else fine.all())
    return rows


# --- the tests ---------------------------------------------------------------------------------


def test_names_are_unique_and_reasons_are_given() -> None:
    assert len(BY_NAME) == len(RULES)
    for rule in RULES:
        assert any(c.isdigit() for c in rule.why) or " " in rule.why.strip(), rule.name
        assert rule.kinds, rule.name


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_rule_fires_on_its_own_pattern(name: str) -> None:
    """Side conditions follow from the kinds, and the result is the replacement."""
    rule = BY_NAME[name]
    b = Builder(["n", "k"])
    bound = variables(rule, b)
    value = instantiate(rule._pattern, bound, b)
    changed = rule(value)
    assert changed is not None
    assert changed.index == instantiate(rule._replacement, bound, b).index


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_no_rule_applies_to_what_it_wrote(name: str) -> None:
    """It would be applied to that for ever."""
    rule = BY_NAME[name]
    b = Builder(["n", "k"])
    made = instantiate(rule._replacement, variables(rule, b), b)
    below, waiting = set(), [made.index]
    while waiting:
        index = waiting.pop()
        if index not in below:
            below.add(index)
            waiting.extend(b.nodes[index].args)
    assert not [index for index in below if rule(Expr(b, index)) is not None]


@pytest.mark.parametrize("stratum", ["practical", "full", "special"])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_both_sides_are_equal(name: str, stratum: str) -> None:
    """In ball arithmetic. Where the pattern is NaN though no operand is, as 0 * log(0) is, the
    replacement may say more; where an operand is infinite or NaN, it may not say something else."""
    rule = BY_NAME[name]
    inputs = inputs_of(rule, "float64", stratum)
    finite = finite_rows(rule, inputs)
    assert finite.any()
    before, after = (truth(name, which, "float64", stratum) for which in ("pattern", "replacement"))
    for output, known in before.items():
        a, b = round_to(known, "float64"), round_to(after[output], "float64")
        open_ = a.undecided | b.undecided
        same = (a.value == b.value) | (np.isnan(a.value) & np.isnan(b.value))
        near = np.zeros_like(same)
        both = np.isfinite(a.value) & np.isfinite(b.value)
        near[both] = np.abs(a.value[both] - b.value[both]) <= 2e-15 * np.abs(a.value[both])
        # A convention at a kink of the pattern, or an operand outside the kind.
        said_more = np.isnan(a.value)
        wrong = ~(same | near | open_ | said_more)
        if output != "value":
            wrong &= _spread(rule, finite, output, wrong.shape)
        assert not wrong.any(), (output, _first(inputs, wrong), a.value[wrong], b.value[wrong])
        decided = ~open_ & ~said_more
        # The gradient of one number is a sum over all rows, and one NaN among them is enough.
        assert decided.mean() > 0.3 or not decided.ndim, "the sample says nothing"


def _spread(rule: Rule, rows: Any, output: str, shape: tuple[int, ...]) -> Any:
    kind = kinds(rule)[output.removeprefix("gradient_")]
    if "n" not in kind.axes:
        return np.full(shape, bool(np.all(rows)))
    return np.broadcast_to(rows.reshape(-1, *([1] * (len(shape) - 1))), shape)


def _first(inputs: Mapping[str, Any], wrong: Any) -> dict[str, Any]:
    row = int(np.argwhere(wrong)[0][0]) if wrong.ndim and wrong.any() else 0
    return {n: np.asarray(x)[row] if np.ndim(x) else x for n, x in inputs.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_error_does_not_grow(name: str, dtype: str) -> None:
    """Median and worst bits over ordinary and full-range samples, against the plain pattern."""
    rule = BY_NAME[name]
    compute = COMPUTE[dtype]
    graphs = {which: lowered(side(rule, which)) for which in ("pattern", "replacement")}
    errors: dict[str, dict[str, list[Any]]] = {}
    results: dict[str, list[Any]] = {}
    for stratum in ("practical", "full"):
        inputs = inputs_of(rule, dtype, stratum)
        exact = truth(name, "replacement", dtype, stratum)
        for which, graph in graphs.items():
            found = plain_numpy.run(graph, inputs, compute)
            for output, x in found.items():
                known = round_to(exact[output], compute)
                errors.setdefault(output, {}).setdefault(which, []).append(
                    _bits(rule, output, x, known, 1.0)
                )
                results.setdefault(output, []).append((which, x, known, exact, inputs))
    for output, sides in errors.items():
        verdict = _grows(sides)
        if verdict and rule.differentiable:  # but what an ill-conditioned input does is no fault
            fair: dict[str, list[Any]] = {}
            for which, x, known, exact, inputs in results[output]:
                k = _condition(rule, output, exact, inputs, compute)
                fair.setdefault(which, []).append(_bits(rule, output, x, known, k))
            verdict = _grows(fair)
        assert not verdict, (output, verdict)


def _grows(sides: Mapping[str, list[Any]]) -> str:
    before, after = (np.concatenate(sides[w]) for w in ("pattern", "replacement"))
    usable = ~np.isnan(before) & ~np.isnan(after)
    before, after = before[usable], after[usable]
    assert after.size
    if np.median(after) > np.median(before) + MEDIAN_SLACK:
        return f"median {np.median(before)} -> {np.median(after)}"
    if after.max() > max(before.max(), 1.0) + WORST_SLACK:
        return f"worst {before.max()} -> {after.max()}"
    return ""


def _bits(rule: Rule, output: str, found: Any, known: Any, condition: Any) -> Any:
    """Judged bits; the sign of what underflowed is nothing that a rule is about."""
    if output == "value":
        judged = measure.judge_value(found, known, condition=condition)
    else:
        kind = kinds(rule)[output.removeprefix("gradient_")]
        components = [d for d, axis in enumerate(kind.axes) if axis == "k"]
        judged = measure.judge_gradient(found, known, components=components, condition=condition)
    return np.where(judged.problem == "sign of zero", 0.0, judged.judged).reshape(-1)


def _condition(
    rule: Rule,
    output: str,
    exact: Mapping[str, OracleResult],
    inputs: Mapping[str, Any],
    dtype: str,
) -> Any:
    graph = side(rule, "replacement")
    if output == "value":
        return measure.condition_value(graph, inputs, exact, dtype)
    return measure.condition_gradient(graph, inputs, output.removeprefix("gradient_"), dtype)


def test_a_wrong_rule_is_noticed() -> None:
    """The tests can fail: on an identity that is none, and on a true one that loses digits."""
    u = (("u", "real[n]"),)
    false = Rule("false", "exp(u) - 1", "expm1(u) + 1e-9 * u", "", kinds=u)
    coarse = Rule("coarse", "expm1(u)", "exp(u) - 1", "", kinds=u)
    BY_NAME.update(false=false, coarse=coarse)
    try:
        with pytest.raises(AssertionError):
            test_both_sides_are_equal("false", "practical")
        test_both_sides_are_equal("coarse", "practical")
        with pytest.raises(AssertionError):
            test_error_does_not_grow("coarse", "float32")
    finally:
        del BY_NAME["false"], BY_NAME["coarse"]


def test_rules_say_what_a_selected_row_becomes() -> None:
    """The loss of a confident and right classifier, which built-in losses give as exactly 0."""
    b = Builder(["n", "k"])
    x: Expr = b.input("x", Type("real", ("n", "k")))
    label = b.input("i", Type("int", ("n",)))
    graph = b.finish(value=-ops.log(ops.take(ops.softmax(x, "k"), label, "k")))
    from lossbridge.passes.stabilise import stabilise

    inputs = {"x": np.array([[20.0, 0.0]]), "i": np.array([0])}
    plain = plain_numpy.run(lowered(graph), inputs, "float32")["value"]
    stable = plain_numpy.run(lowered(stabilise(graph)), inputs, "float32")["value"]
    assert plain[0] == 0.0
    assert stable[0] == np.float32(2.0611536e-9)
