"""Why two losses differ, in words: read off the probes, and off what the witnesses say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbridge.ir import const_value
from lossbridge.migrate import guesses, settings
from lossbridge.migrate.comparison import Cause
from lossbridge.migrate.pairs import effects
from lossbridge.migrate.sides import available, can_be_remade, settings_known
from lossbridge.plan import Options, plan
from lossbridge.spec import Spec

if TYPE_CHECKING:
    from lossbridge.migrate.pairs import Pair
    from lossbridge.migrate.sides import Side

DEPENDS = "the factor depends on the input"
CLOSE = 1e-6  # relative, of two ratios
SLIGHT = 1e-4  # the same, where small constants differ


def factor(a: Side, b: Side, pairs: Sequence[Pair]) -> tuple[float | None, Cause] | None:
    """What b is times a, and where that comes from; the number is None if it depends on the input.

    A factor multiplies value and gradient alike; where small constants differ, nearly so.
    """
    return _factor(a, b, pairs, CLOSE) or (
        _factor(a, b, pairs, SLIGHT) if a.specs and b.specs and _unlike_constants(a, b) else None
    )


def _unlike_constants(a: Side, b: Side) -> bool:
    return _constants(a.specs[0]) != _constants(b.specs[0])


def _factor(
    a: Side, b: Side, pairs: Sequence[Pair], close: float
) -> tuple[float | None, Cause] | None:
    finite = [p for p in pairs if p.finite]
    seen = [p for p in finite if p.a.value != 0.0 and p.b.value != 0.0]
    if len(seen) < 2 or any((p.a.value == 0.0) != (p.b.value == 0.0) for p in finite):
        return None
    # A small constant counts for the more the smaller a value is, beside those of other inputs.
    floor = CLOSE * max(abs(float(p.b.value)) for p in seen) if close > CLOSE else 0.0

    def fits(p: Pair, ratio: float) -> bool:
        off = abs(float(p.b.value) - ratio * float(p.a.value))
        near = off <= close * abs(float(p.b.value)) + floor
        return near and all(_parallel(ratio * ga, gb, close) for _, ga, gb in p.slopes)

    ratios = [float(p.b.value / p.a.value) for p in seen]
    number = float(np.median(ratios))
    reductions = _reductions(a, b)
    if all(fits(p, number) for p in seen):
        known = next(settings.that_would_do(a, b, seen, briefly=True), None)
        known = known or _known_factor(a, b, seen, fits)
        text = f"b is {number:.10g} times a" + (f"; {reductions}" if reductions else "")
        return number, known or Cause(text, f"multiply a by {number:.10g}")
    sloped = any(_size(ga) and _size(gb) for p in seen for _, ga, gb in p.slopes)
    if not sloped and any(p.slopes for p in seen):
        return None  # two gradients of 0 are in any proportion
    known = _known_factor(a, b, seen, fits)
    if known is None and not (
        min(ratios) > 0.0
        and all(p.slopes and fits(p, r) for p, r in zip(seen, ratios, strict=True))
    ):
        return None
    text = DEPENDS + (f": {reductions}" if reductions else "")
    return None, known or Cause(text)


def _parallel(x: Any, y: Any, close: float = CLOSE) -> bool:
    """Whether two gradients are equal where both are finite, up to rounding."""
    if x.shape != y.shape:
        return False
    finite = np.isfinite(x) & np.isfinite(y)
    size = float(np.abs(np.where(finite, y, 0.0)).max(initial=0.0))
    return bool((np.abs(np.where(finite, x - y, 0.0)) <= close * size + 1e-12).all())


def _known_factor(
    a: Side, b: Side, pairs: Sequence[Pair], fits: Callable[[Pair, float], bool]
) -> Cause | None:
    """Where a factor comes from: a parameter, a length, weights."""
    for text, fix, value in _candidates(a, b, pairs):
        expected = [value(p) for p in pairs]
        if all(e is not None and fits(p, e) for p, e in zip(pairs, expected, strict=True)):
            if isinstance(value, _OfSetting) and not value.moves(a, b, pairs):
                continue
            return Cause(text, fix)
    return None


@dataclass(frozen=True)
class _OfSetting:
    """A factor that is a setting, or one divided by it: said only where it moves with that."""

    side: str
    name: str
    value: float
    power: float

    def __call__(self, p: Pair) -> float:
        return float(self.value**self.power)

    def moves(self, a: Side, b: Side, pairs: Sequence[Pair]) -> bool:
        """Whether another number there makes the factor that number's: on its side, or on both."""
        other = 0.75 * self.value
        x, y = (a, b) if self.side == "a" else (b, a)
        if not can_be_remade(x):
            return False
        alike = [
            n for n, v in settings_known(y).items()
            if isinstance(v, int | float) and not isinstance(v, bool) and v == self.value
        ]  # fmt: skip
        chosen = sorted(pairs, key=lambda p: p.probe.latent[0].shape[0] != 4)[:3]
        mine = [p.inputs if x is a else p.other for p in chosen]
        theirs = [p.other if x is a else p.inputs for p in chosen]
        changed = settings.values(x, {self.name: other}, mine)
        still = [float((p.b if x is a else p.a).value) for p in chosen]
        every = [still, *(settings.values(y, {n: other}, theirs) for n in alike)]
        for values in every:
            if changed is None or values is None or 0.0 in changed or 0.0 in values:
                continue
            first, second = (changed, values) if x is a else (values, changed)
            ratios = [v / u for u, v in zip(first, second, strict=True)]
            if np.allclose(ratios, other**self.power, CLOSE, 0.0):
                return True
        return False


def _reductions(a: Side, b: Side) -> str:
    if not a.specs or not b.specs:
        return ""
    x, y = (_reduced(side.specs[0].reduction) for side in (a, b))
    return "" if x == y else f"a is {x}, b {y}"


def _reduced(reduction: Any) -> str:
    if reduction.kind == "sum":
        return "a sum"
    # What is not reduced is averaged here.
    return f"a mean over {reduction.normalizer if reduction.kind == 'mean' else 'elements'}"


Ratio = Callable[["Pair"], "float | None"]


def _candidates(a: Side, b: Side, pairs: Sequence[Pair]) -> Iterator[tuple[str, str, Ratio]]:
    """Factors that losses are known to differ by, each with its words."""
    for x, other, sign in (("a", "b", 1.0), ("b", "a", -1.0)):
        for parameter, value in _numbers((a if x == "a" else b).specs):
            if value > 0.0 and value != 1.0:
                words = f"{x} has {parameter}={value:g}, and {other} is it"
                yield (
                    f"{words} times {parameter}",
                    f"multiply {x} by {parameter}",
                    _OfSetting(x, parameter, value, sign),
                )
                yield (
                    f"{words} divided by {parameter}",
                    f"multiply {other} by {parameter}, or divide {x} by it",
                    _OfSetting(x, parameter, value, -sign),
                )
    shapes: tuple[tuple[str, Length], ...] = (
        ("the number of elements", lambda s: float(np.prod(s))),
        ("the batch size", lambda s: float(s[0])),
        ("the length of the last axis", lambda s: float(s[-1])),
        ("the number of elements of one sample", lambda s: float(np.prod(s[1:]))),
        ("the number of samples", lambda s: float(np.prod(s[:-1]))),
    )
    same = _reductions(a, b) or "they divide by different numbers"
    fix = "choose the same reduction on both sides"
    for words, length in shapes:
        for power, verb in ((1.0, "times"), (-1.0, "divided by")):
            yield f"b is a {verb} {words}: {same}", fix, partial(_of_shape, length, power)
    for (words, length), (others, divisor) in itertools.permutations(shapes, 2):
        why = f"b is a times {words}, divided by {others}: {same}"
        yield why, fix, partial(_of_two_shapes, length, divisor)
    for side, sign in ((a, 1.0), (b, -1.0)):
        for weights in _class_weights(side):
            for power in (1.0, -1.0):
                yield (
                    "class weights divide by their sum on one side, by the number of samples on "
                    "the other",
                    _divisor(a, b, power),
                    partial(_weighted, weights, power, True),
                )
            yield (
                "class weights divide by their sum on one side, and are summed on the other",
                fix,
                partial(_weighted, weights, sign, False),
            )
            if weights.size and np.all(weights == weights[0]):
                number = float(weights[0])
                yield (
                    f"the weights of {'a' if side is a else 'b'} are all {number:g}",
                    "leave them out",
                    partial(_constant, number**-sign),
                )
    if any(p.probe.weights is not None for p in pairs):
        for power in (1.0, -1.0):
            yield (
                "weights of samples divide by their sum on one side, by the number of samples on "
                "the other",
                _divisor(a, b, power),
                partial(_sampled, power),
            )
    for name, kind in a.signature.inputs.items():
        if kind.name in ("mask", "binary", "non_negative", "positive"):
            for power in (1.0, -1.0):
                yield (
                    f"one divides by the sum of {name}, the other by how many there are of it",
                    f"divide by the sum of {name} in {'b' if power > 0 else 'a'}",
                    partial(_of_input, name, power),
                )
    both = [next(_class_weights(side), None) for side in (a, b)]
    if both[0] is not None and both[1] is not None and both[0].shape == both[1].shape:
        ratio = both[1] / both[0] if np.all(both[0]) else np.zeros(2)
        if ratio[0] != 1.0 and np.allclose(ratio, ratio[0], CLOSE, 0.0):
            yield (
                f"the weights of b are {ratio[0]:.10g} times those of a",
                "give both the same weights",
                partial(_constant, float(ratio[0])),
            )
    halves = "as where one of them halves the square"
    yield f"b is twice a, {halves}", "multiply a by 2", partial(_constant, 2.0)
    yield f"b is one half of a, {halves}", "divide a by 2", partial(_constant, 0.5)
    yield "the opposite sign", "negate one of them", partial(_constant, -1.0)


def _divisor(a: Side, b: Side, power: float) -> str:
    """What to change, where a divides by the sum of the weights and b by the number of samples.

    With a power of -1 it is the other way round.
    """
    by_sum, by_number = (("a", a), ("b", b))[:: int(power)]
    for (name, x), keras, ours in (
        (by_number, "mean_with_sample_weight", "weights"),
        (by_sum, "sum_over_batch_size", "elements"),
    ):
        given = {} if x.native is None else x.native.given
        if x.platform == "keras" and "reduction" in given and given["reduction"] != keras:
            return f"pass reduction={keras!r} to {name}"
        if x.native is None and x.specs and x.takes_weights:
            return f"pass normalizer={ours!r} to {name}"
    for name, x in (by_number, by_sum):
        if x.native is None or x.platform == "jax":  # where the mean is the user's own
            other = "sum of the weights" if name == by_number[0] else "number of the samples"
            return f"divide by the {other} in {name}"
    return "sum both, and divide by the same number"


def _class_weights(side: Side) -> Iterator[Any]:
    for param in (param for spec in side.specs for param in spec.params.values()):
        if np.ndim(param.value) == 1 and len(param.kind.axes) == 1:
            yield np.asarray(param.value, np.float64)


Length = Callable[[tuple[int, ...]], float]


def _constant(value: float, p: Pair) -> float | None:
    return value


def _numbers(specs: Sequence[Spec]) -> Iterator[tuple[str, float]]:
    for spec in specs[:1]:
        for name, param in spec.params.items():
            if isinstance(param.value, float | int) and not isinstance(param.value, bool):
                yield name, float(param.value)


def _of_shape(length: Length, power: float, p: Pair) -> float:
    return float(length(p.probe.latent[0].shape) ** power)  # classes last on both sides


def _of_two_shapes(length: Length, divisor: Length, p: Pair) -> float:
    return _of_shape(length, 1.0, p) * _of_shape(divisor, -1.0, p)


def _sampled(power: float, p: Pair) -> float:
    weights = p.probe.weights
    return 1.0 if weights is None else float((weights.sum() / weights.size) ** power)


def _of_input(name: str, power: float, p: Pair) -> float | None:
    given = np.asarray(p.inputs[name], np.float64)
    total = float(given.mean()) if given.size else 0.0
    return total**power if math.isfinite(total) and total > 0.0 else None


def _weighted(weights: Any, power: float, mean: bool, p: Pair) -> float | None:
    labels = p.probe.labels
    if labels.size == 0 or labels.max(initial=0) >= weights.size or labels.min(initial=0) < 0:
        return None
    return float((weights[labels].sum() / (labels.size if mean else 1)) ** power)


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


def of_constants(a: Side, b: Side, pairs: Sequence[Pair]) -> list[Cause]:
    """That small constants differ, or where they are added, where that may explain these pairs."""
    finite = [p for p in pairs if p.finite and p.status in ("slight", "value", "gradient")]
    if not any(p.probe.group in EXTREME for p in finite):
        return []
    slight = any(p.status == "slight" for p in finite)
    if not a.specs or not b.specs:
        return list(_of_known_constants(a, b)) if slight else []
    x, y = _constants(a.specs[0]), _constants(b.specs[0])
    if x == y:
        if not x or not slight:
            return []
        text = f"a small constant (epsilon: {', '.join(x)}) enters at another place"
        return [Cause(text, kept(a, b))]
    left, right = (", ".join(found) or "none" for found in (x, y))
    return [Cause(f"a small constant (epsilon) differs: a has {left}; b has {right}", kept(a, b))]


def nearly(p: Pair, worst: float) -> Cause:
    """That two functions differ as by a small constant, where one of them is not known."""
    return Cause(
        "a small constant (epsilon), in one of them or at another place: they differ by "
        f"{worst:.1g} of the value at most ({p.probe.id.partition('/')[2]}), elsewhere less"
    )


def _of_known_constants(a: Side, b: Side) -> Iterator[Cause]:
    """The small constants of the one that is known, beside a function that may have others."""
    for name, x, other in (("a", a, "b"), ("b", b, "a")):
        found = _constants(x.specs[0]) if x.specs else []
        if found:
            yield Cause(
                f"a small constant (epsilon) differs: {name} has {', '.join(found)}; those of "
                f"{other} are not known"
            )


def kept(a: Side, b: Side) -> str:
    """How to keep the one where the other runs, where neither has an argument for it."""
    if a.native is None or b.platform == a.platform:
        return ""
    name, _, arguments = a.native.text.partition("(")
    rest = f", {arguments}" if arguments != ")" else ")"
    return f"on b's platform, lossbridge.{b.platform}.native({name!r}{rest} is a exactly"


EXTREME = ("inside", "kinks", "edges")


def _constants(spec: Spec) -> list[str]:
    """The small constants and the floors that enter, in the branches that the arguments choose."""
    values = spec.bind()
    numbers = tuple((n, v) for n, v in values.items() if not np.ndim(v))
    graph = plan(spec, numbers, Options(spec.reduction.kind, spec.reduction.normalizer)).written
    found = []
    for index, node in enumerate(graph.nodes):
        if node.op == "const" and node.type.dtype == "real":
            number = float(const_value(node))
            if 1e-300 < abs(number) <= 1e-3 or -1e6 < number <= -50.0:
                by = {n.op for n in graph.nodes if index in n.args}
                how = next((word for op, word in PLACED.items() if op in by), "")
                found.append(f"{number:.6g}{how}")
    return sorted(found)


PLACED = {"clip": " (a clip)", "maximum": " (a floor)", "add": " (added)"}


def of_difference(a: Side, b: Side, pairs: Sequence[Pair]) -> list[Cause]:
    """What is known of two losses whose values differ."""
    found = list(_unused(a, b, pairs))
    if not found:
        found = [*_of_soft_targets(pairs), *_shift(pairs)]
        if a.native is not None and b.native is not None:
            found += settings.of_one_built_in(a.native, b.native)
    if not found:
        found = list(settings.that_would_do(a, b, pairs))
    if not found:
        found = [*_of_values_alone(a, b, pairs), *guesses.of_values(pairs)]
    unknown = not all(x.native is not None and available(x.platform) for x in (a, b))
    if not found and unknown:
        found = list(guesses.of_inputs(a, b, pairs))
    if not found and unknown and _reductions(a, b):
        found = [Cause(_reductions(a, b), "choose the same reduction on both sides")]
    if not found and not unknown:
        text = "they are different losses: no one argument of either makes them agree"
        found.append(Cause(text, kept(a, b)))
    reductions = _reductions(a, b)
    if reductions and not found:
        found.append(Cause(reductions, "choose the same reduction on both sides"))
    return found or [Cause(UNEXPLAINED)]


def _of_soft_targets(pairs: Sequence[Pair]) -> Iterator[Cause]:
    """That they part where targets are between 0 and 1, and nowhere else."""
    off = [p for p in pairs if p.status == "value"]
    rest = [p for p in pairs if p.finite and not p.probe.soft]
    if off and rest and all(p.probe.soft for p in off):
        yield Cause(
            "the values are equal for targets of 0 and 1, and for no others",
            "none is needed where every target is 0 or 1 and has no gradient",
        )


def _unused(a: Side, b: Side, pairs: Sequence[Pair]) -> Iterator[Cause]:
    """That one side does not use an input which the other does."""
    names = list(zip(a.signature.inputs, b.signature.inputs, strict=False))
    for (x, y), (first, second) in zip(names, effects(pairs, len(names)), strict=True):
        if {first, second} == {True, False}:
            name, other, n = ("b", "a", y) if first else ("a", "b", x)
            yield Cause(
                f"{name} does not use {n}: another draw of it changes {other} and not {name}",
                f"use {n} in {name}",
            )


UNEXPLAINED = (
    "nothing that was tried makes them agree: no factor, no constant, no one argument, no exchange "
    "of inputs, and no function of one input or of the value"
)


def _of_values_alone(a: Side, b: Side, pairs: Sequence[Pair]) -> Iterator[Cause]:
    """That the values have a factor, where the gradients do not have it."""
    found = factor(a, b, [replace(p, slopes=()) for p in pairs])
    if found is None:
        return
    number, cause = found
    if number is None and cause.text.startswith(DEPENDS):
        return
    ratio = {id(p): float(p.b.value / p.a.value) for p in pairs if p.finite and p.a.value}
    names = dict.fromkeys(
        n for p in pairs if id(p) in ratio
        for n, x, y in p.slopes if not _parallel(ratio[id(p)] * x, y)
    )  # fmt: skip
    yield Cause(f"{cause.text}; but the gradient in {', '.join(names)} is another", cause.fix)


def _shift(pairs: Sequence[Pair]) -> Iterator[Cause]:
    """That b is a number plus a times another."""
    seen = [p for p in pairs if p.finite and p.slopes]
    if len(seen) < 2:
        return
    ga, gb = max(((x, y) for p in seen for _, x, y in p.slopes[:1]), key=lambda s: _size(s[0]))
    if ga.shape != gb.shape or _size(ga) == 0.0:
        return
    place = np.unravel_index(np.nanargmax(np.abs(np.where(np.isfinite(ga), ga, 0.0))), ga.shape)
    rate = float(gb[place] / ga[place])
    rate = round(rate) if abs(rate - round(rate)) < CLOSE and round(rate) else rate
    if not all(_parallel(rate * x, y) for p in seen for _, x, y in p.slopes):
        return
    shifts = [float(p.b.value - rate * p.a.value) for p in seen]
    if max(shifts) - min(shifts) > CLOSE * max(map(abs, shifts)):
        if rate == 1:
            yield Cause(
                "the gradient is the same: they differ by what has none, such as a step, or what "
                "depends on other inputs alone"
            )
        return
    if rate == 1:
        yield Cause(f"b is a plus {shifts[0]:.10g}, on every probe", f"add {shifts[0]:.10g} to a")
    elif rate == -1:
        yield Cause(f"b is {shifts[0]:.10g} minus a, on every probe")
    else:
        yield Cause(f"b is {rate:.10g} times a, plus {shifts[0]:.10g}, on every probe")


def _size(x: Any) -> float:
    return float(np.abs(np.where(np.isfinite(x), x, 0.0)).max(initial=0.0))


def of_settings(a: Side, b: Side) -> list[Cause]:
    """Arguments of one built-in, or parameters of one name, that have different values."""
    if a.native is not None and b.native is not None:
        return list(settings.of_one_built_in(a.native, b.native))
    if not a.specs or not b.specs:
        return []
    x, y = a.specs[0].params, b.specs[0].params
    return [
        Cause(f"{name} is {x[name].value} for a and {y[name].value} for b", f"set {name}")
        for name in x
        if name in y and x[name].value != y[name].value
    ]


def of_gradient(a: Side, b: Side, pairs: Sequence[Pair]) -> list[Cause]:
    """Where gradients differ though values agree."""
    chosen = [p for p in pairs if p.status == "gradient"]
    names = dict.fromkeys(p.probe.id.partition("/")[2] for p in chosen)
    where = ", ".join(list(names)[:4])
    inputs = ", ".join(dict.fromkeys(n for p in chosen for n in p.where))
    every = all(len(p.where) == len(p.slopes) for p in chosen)
    only = "" if every else " (and only in that)"
    if all(p.probe.group == "kinks" for p in chosen):
        text = f"at a kink they take another subgradient in {inputs}{only} ({where})"
        if not any(_jumps(x, first, p) for p in chosen for x, first in ((a, True), (b, False))):
            text = (
                f"where inputs are equal or 0 ({where}) the gradient in {inputs}{only} is another: "
                "it jumps there on neither side, so that one of them underflows, or rounds"
            )
        return [*of_settings(a, b), Cause(text, kept(a, b))]
    return [
        *of_settings(a, b),
        Cause(
            f"the gradient in {inputs}{only} is another ({where}), though the values are equal",
            kept(a, b) if every else "none is needed where no gradient is taken in it",
        ),
    ]


def _jumps(x: Side, first: bool, p: Pair) -> bool:
    """Whether the gradient of a side jumps at a point, however near; assumed of a record."""
    if x.recorded:
        return True
    inputs = p.inputs if first else p.other
    places = list(p.inputs)
    for name in p.where:
        own = list(inputs)[places.index(name)]
        jumps = []
        for width in (KINK, KINK / 16.0):
            found = []
            for step in (-width, width):
                at = {**inputs, own: np.asarray(inputs[own], np.float64) + step}
                outcome = x.on(p.probe, at, wrt=(own,))
                if outcome.raised or own not in outcome.gradients:
                    return True
                found.append(np.asarray(outcome.gradients[own]))
            jumps.append(_size(found[0] - found[1]))
        if jumps[1] > 0.5 * jumps[0] > 0.0:  # of a smooth one, a sixteenth is left
            return True
    return False


KINK = 2.0**-10
"""How far from a point its neighbours are asked for their gradients."""

EDGES = {
    "empty": "the mean of nothing",
    "ignored": "labels that are ignored",
    "weights": "sample weights",
    "masks": "a mask",
    "compiled": "compiled",
    "precision": "lower precision",
    "kinks": "inputs that are equal or 0",
    "edges": "an extreme input",
    "inside": "a shape",
}


def of_edges(a: Side, b: Side, pairs: Sequence[Pair]) -> list[Cause]:
    """One cause for each group of edges at which they differ."""
    found: dict[str, Cause] = {}
    for p in pairs:
        if p.probe.group in found:
            continue
        said = [
            f"{name} raises {outcome.error.partition(':')[0]}"
            if outcome.raised
            else f"{name} gives {_brief(p, outcome.value)}"
            for name, outcome in (("a", p.a), ("b", p.b))
        ]
        same = f" with another gradient in {', '.join(p.where)}" if p.status == "gradient" else ""
        words = "slightly, everywhere" if p.status == "slight" else EDGES[p.probe.group]
        if p.probe.group == "kinks" and p.status == "gradient":
            jumps = any(_jumps(x, first, p) for x, first in ((a, True), (b, False)))
            words = "a kink" if jumps else words
        if p.probe.group == "inside" and p.status == "value":
            words = "ordinary numbers"
        name = p.probe.id.partition("/")[2]
        found[p.probe.group] = Cause(
            f"{words} ({name}, {p.probe.dtype}): {', '.join(said)}{same}", _fix(p)
        )
    every = list(found.values())
    if every and not any(c.fix for c in every):
        every[0] = Cause(every[0].text, kept(a, b))
    return every


def _brief(p: Pair, value: float) -> str:
    """A value, with as many digits as tell it from the other."""
    short, other = f"{p.a.value or 0.0:.6g}", f"{p.b.value or 0.0:.6g}"
    return f"{value:.10g}" if short == other and p.status != "gradient" else f"{value:.6g}"


def _fix(p: Pair) -> str:
    nothing = p.probe.group == "empty" or (p.probe.mask is not None and not p.probe.mask.any())
    if nothing and not (p.a.raised or p.b.raised):
        return "ours take empty='nan' or empty='zero'"
    if p.probe.group in ("weights", "masks"):
        return WEIGHED
    return ""


WEIGHED = (
    "Keras: pass reduction='mean_with_sample_weight', or 'sum' and divide; ours: "
    "normalizer='weights' where sample weights enter the divisor, 'counts' where they do not"
)
