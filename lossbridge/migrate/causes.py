"""Why two losses differ, in words: read off the probes, and off what the witnesses say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbridge.migrate.comparison import Cause
from lossbridge.spec import Spec

if TYPE_CHECKING:
    from lossbridge.migrate.judge import Pair
    from lossbridge.migrate.sides import Side

CLOSE = 1e-6  # relative, of two ratios


def factor(pairs: Sequence[Pair]) -> float | str | None:
    """What b is times a: a number, "varies" if it depends on the input, None if there is none.

    A factor multiplies value and gradient alike.
    """
    ratios = []
    for p in pairs:
        if not p.finite:
            continue
        if p.a.value == 0.0 or p.b.value == 0.0:
            if p.a.value != p.b.value:
                return None
            continue
        ratio = float(p.b.value / p.a.value)
        for ga, gb in zip(p.a.gradients.values(), p.b.gradients.values(), strict=False):
            if ga.shape != gb.shape:
                continue
            size = float(np.abs(gb).max(initial=0.0))
            if not np.all(np.abs(ratio * ga - gb) <= CLOSE * size + 1e-300):
                return None
        ratios.append(ratio)
    if len(ratios) < 2:
        return None
    spread = max(ratios) / min(ratios) - 1.0 if min(ratios) > 0 or max(ratios) < 0 else math.inf
    if abs(spread) <= CLOSE:
        return float(np.median(ratios))
    return "varies" if min(ratios) > 0 else None


def of_factor(a: Side, b: Side, pairs: Sequence[Pair], found: float | str) -> Cause:
    """Where a factor comes from: a parameter, a length, weights."""
    chosen = [p for p in pairs if p.finite and p.a.value != 0.0]
    for text, fix, value in _candidates(a, b):
        expected = [value(p) for p in chosen]
        if all(
            e is not None and math.isclose(p.b.value / p.a.value, e, rel_tol=CLOSE)
            for p, e in zip(chosen, expected, strict=True)
        ):
            return Cause(text, fix)
    if isinstance(found, float):
        reductions = _reductions(a, b)
        return Cause(
            f"b is {found:.10g} times a" + (f"; {reductions}" if reductions else ""),
            f"multiply a by {found:.10g}",
        )
    return Cause(
        "the factor depends on the input" + (f": {r}" if (r := _reductions(a, b)) else ""), ""
    )


def _reductions(a: Side, b: Side) -> str:
    if not a.specs or not b.specs:
        return ""
    x, y = a.specs[0].reduction, b.specs[0].reduction
    if x == y:
        return ""
    return f"a is {_reduced(x)}, b {_reduced(y)}"


def _reduced(reduction: Any) -> str:
    if reduction.kind == "mean":
        return f"a mean over {reduction.normalizer}"
    return "a sum" if reduction.kind == "sum" else "not reduced"


Ratio = Callable[["Pair"], "float | None"]


def _candidates(a: Side, b: Side) -> Iterator[tuple[str, str, Ratio]]:
    """Factors that losses are known to differ by, each with its words."""
    for x, other, sign in (("a", "b", 1.0), ("b", "a", -1.0)):
        for parameter, value in _numbers((a if x == "a" else b).specs):
            if value > 0.0 and value != 1.0:
                words = f"{x} has {parameter}={value:g}, and {other} is it"
                yield (
                    f"{words} times {parameter}",
                    f"multiply {x} by {parameter}",
                    partial(_constant, value**sign),
                )
                yield (
                    f"{words} divided by {parameter}",
                    f"multiply {other} by {parameter}, or divide {x} by it",
                    partial(_constant, value**-sign),
                )
    shapes: tuple[tuple[str, Length], ...] = (
        ("the number of elements", lambda s: float(np.prod(s))),
        ("the batch size", lambda s: float(s[0])),
        ("the length of the last axis", lambda s: float(s[-1])),
        ("the number of elements of one sample", lambda s: float(np.prod(s[1:]))),
        ("the number of samples", lambda s: float(np.prod(s[:-1]))),
    )
    same = _reductions(a, b) or "they divide by different numbers"
    for words, length in shapes:
        for power, verb in ((1.0, "times"), (-1.0, "divided by")):
            yield (
                f"b is a {verb} {words}: {same}",
                "choose the same reduction on both sides",
                partial(_of_shape, length, power),
            )
    yield "twice: one of them halves the square", "multiply a by 2", partial(_constant, 2.0)
    yield "one half: one of them halves the square", "divide a by 2", partial(_constant, 0.5)
    yield "the opposite sign", "negate one of them", partial(_constant, -1.0)
    for side, sign in ((a, 1.0), (b, -1.0)):
        for param in (param for spec in side.specs for param in spec.params.values()):
            if isinstance(param.value, tuple) and len(param.kind.axes) == 1:
                yield (
                    "class weights divide by their sum on one side, by the number of samples on "
                    "the other",
                    "divide by the same number: normalizer='weights' or normalizer='elements'",
                    partial(_weighted, np.asarray(param.value, np.float64), sign),
                )


Length = Callable[[tuple[int, ...]], float]


def _constant(value: float, p: Pair) -> float | None:
    return value


def _numbers(specs: Sequence[Spec]) -> Iterator[tuple[str, float]]:
    for spec in specs[:1]:
        for name, param in spec.params.items():
            if isinstance(param.value, float | int) and not isinstance(param.value, bool):
                yield name, float(param.value)


def _of_shape(length: Length, power: float, p: Pair) -> float | None:
    widest = max((np.asarray(x) for x in p.inputs.values()), key=lambda x: x.ndim)
    return float(length(widest.shape) ** power) if widest.ndim else 1.0


def _weighted(weights: Any, power: float, p: Pair) -> float | None:
    labels = p.probe.labels
    if labels.size == 0 or labels.max(initial=0) >= weights.size or labels.min(initial=0) < 0:
        return None
    return float((weights[labels].sum() / labels.size) ** power)


def domain(a: Side, b: Side) -> Cause:
    """Which inputs the two take in different terms."""
    parts, fixes = [], []
    names = zip(a.signature.inputs, b.signature.inputs, strict=True)
    for place, (x, y) in enumerate(names):
        d, e = a.signature.domain(place), b.signature.domain(place)
        if d != e:
            parts.append(f"{x} is {_term(d)} for a, {y} is {_term(e)} for b")
            fixes.append(_step(d, e, "b") or _step(e, d, "a"))
    return Cause("; ".join(parts) or "they take different inputs", "; ".join(filter(None, fixes)))


def _step(given: str, wanted: str, side: str) -> str:
    return STEPS.get((given, wanted), "").format(side)


STEPS = {
    ("real", "probability"): "apply a sigmoid for {}",
    ("real", "simplex"): "apply a softmax for {}, or from_logits=True where it has that",
    ("real", "log_simplex"): "apply a log_softmax for {}",
    ("simplex", "log_simplex"): "take the logarithm for {}",
    ("index", "simplex"): "give {} the labels as one-hot rows",
    ("index", "one_hot"): "give {} the labels as one-hot rows",
    ("sign", "binary"): "map -1 and 1 to 0 and 1 for {}",
    ("sign", "probability"): "map -1 and 1 to 0 and 1 for {}",
    ("real", "positive"): "exponentiate for {}",
}
TERMS = {
    "real": "a number (a logit, where there is a probability)",
    "simplex": "probabilities that sum to 1", "index": "an integer label",
    "one_hot": "one-hot rows", "probability": "a probability", "sign": "-1 or 1",
    "binary": "0 or 1", "log_probability": "a log-probability",
    "log_simplex": "log-probabilities", "positive": "a number above 0", "counts": "a count",
    "labels": "an integer label", "unit": "a vector of length 1",
    "non_negative": "0 or a number above",
}  # fmt: skip


def _term(domain: str) -> str:
    return TERMS.get(domain, domain)


def of_constants(a: Side, b: Side) -> list[Cause]:
    """That small constants differ, where the meanings of both are known and theirs do."""
    if not a.specs or not b.specs:
        return []
    x, y = _constants(a.specs[0]), _constants(b.specs[0])
    if x == y:
        return []
    left, right = (", ".join(f"{c:g}" for c in found) or "none" for found in (x, y))
    return [Cause(f"a small constant (epsilon) differs: a has {left}; b has {right}")]


def _constants(spec: Spec) -> list[float]:
    named = [p.value for n, p in spec.params.items() if n in ("eps", "epsilon", "smooth")]
    written = [float(x) for x in re.findall(r"(?<![\w.])\d[\d.]*e-\d+", str(spec.body))]
    return sorted({c for c in (*named, *written) if isinstance(c, float) and 0.0 < c <= 1e-3})


def of_difference(a: Side, b: Side, pairs: Sequence[Pair]) -> list[Cause]:
    """What is known of two losses whose values differ."""
    found = []
    shifts = [float(p.b.value - p.a.value) for p in pairs if p.finite]
    if len(shifts) > 1 and max(shifts) - min(shifts) <= CLOSE * max(map(abs, shifts)):
        found.append(Cause(f"b is a plus {shifts[0]:.10g}, on every probe", ""))
    reductions = _reductions(a, b)
    if reductions:
        found.append(Cause(reductions, "choose the same reduction on both sides"))
    return [*found, *_settings(a, b)]


def _settings(a: Side, b: Side) -> Iterator[Cause]:
    """Parameters of one name that have different values."""
    if not a.specs or not b.specs:
        return
    x, y = a.specs[0].params, b.specs[0].params
    for name in x:
        if name in y and x[name].value != y[name].value:
            yield Cause(f"{name} is {x[name].value} for a and {y[name].value} for b", f"set {name}")


def of_gradient(a: Side, b: Side, pairs: Sequence[Pair]) -> list[Cause]:
    """Where gradients differ though values agree."""
    names = dict.fromkeys(p.probe.id.partition("/")[2] for p in pairs if p.status == "gradient")
    where = ", ".join(list(names)[:4])
    if all(p.probe.group == "kinks" for p in pairs if p.status == "gradient"):
        return [Cause(f"at a kink they take another subgradient ({where})", "")]
    return [Cause(f"the gradient is not that of the value on one side ({where})", "")]


EDGES = {
    "empty": "the mean of nothing",
    "ignored": "labels that are ignored",
    "weights": "sample weights",
    "compiled": "compiled",
    "precision": "lower precision",
    "kinks": "a kink",
    "edges": "an extreme input",
    "inside": "a shape",
}


def of_edges(a: Side, b: Side, pairs: Sequence[Pair]) -> list[Cause]:
    """One cause for each group of edges at which they differ."""
    found: dict[str, Cause] = {}
    for p in pairs:
        if p.probe.group in found:
            continue
        said = []
        for name, outcome in (("a", p.a), ("b", p.b)):
            said.append(
                f"{name} raises {outcome.error.partition(':')[0]}"
                if outcome.raised
                else f"{name} gives {outcome.value:.6g}"
            )
        same = " with another gradient" if p.status == "gradient" else ""
        words = EDGES.get(p.probe.group, p.probe.group)
        name = p.probe.id.partition("/")[2]
        found[p.probe.group] = Cause(
            f"{words} ({name}, {p.probe.dtype}): {', '.join(said)}{same}", _fix(p)
        )
    return list(found.values())


def _fix(p: Pair) -> str:
    if p.probe.group == "empty" and not (p.a.raised or p.b.raised):
        return "ours take empty='nan' or empty='zero'"
    if p.probe.group == "weights":
        return (
            "Keras: pass reduction='mean_with_sample_weight', or 'sum' and divide; ours: "
            "normalizer='weights'"
        )
    return ""
