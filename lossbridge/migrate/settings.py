"""Which argument makes the difference: read off, or found by trying others."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbridge.measured import evaluate
from lossbridge.migrate.alignment import domains_of
from lossbridge.migrate.comparison import Cause
from lossbridge.migrate.live import Native, same, short
from lossbridge.migrate.pairs import with_outcome
from lossbridge.migrate.sides import (
    Outcome,
    Side,
    as_argument,
    as_formula,
    calls_of,
    can_be_remade,
    coefficient_of,
    remade_with,
    settings_known,
    with_settings,
)

if TYPE_CHECKING:
    from lossbridge.migrate.pairs import Pair

# Arguments that say nothing of what is computed.
SILENT = ("name", "dtype", "device", "size_average", "reduce", "options")
CLOSE = 1e-6
MOST = 24


def of_one_built_in(a: Native, b: Native) -> Iterator[Cause]:
    """The arguments that differ, of two objects of one class."""
    if a.witness.name != b.witness.name:
        return
    x, y = a.given, b.given
    for name in x:
        if name not in SILENT and name in y and not same(x[name], y[name]):
            yield Cause(
                f"{name} is {short(x[name])} for a and {short(y[name])} for b",
                f"give both the same {name}",
            )


def that_would_do(
    a: Side, b: Side, pairs: Sequence[Pair], briefly: bool = False
) -> Iterator[Cause]:
    """Single settings with which the two would agree, on every pair; or be multiples.

    Continuous ones are solved for. ``briefly``: those alone that make them agree and that the
    other side, or a default, has.
    """
    chosen = [p for p in pairs if p.finite]
    # The first few sort most values out, those of one shape since JAX compiles for each; what is
    # left must stand on every pair.
    chosen.sort(key=lambda p: (p.probe.rank != 2, p.probe.latent[0].shape[0] != 4))
    chosen.sort(key=lambda p: not (p.probe.soft and p.probe.rank == 2))
    if len(chosen) < 2:
        return
    agree, multiples, hardly = [], [], []
    hard = [k for k, p in enumerate(chosen) if not p.probe.soft]
    for name, x, other in (("a", a, b), ("b", b, a)):
        # What was recorded is tried here, if what it means is known and its framework is installed.
        if not can_be_remade(x):
            continue
        known = settings_known(x)
        wanted = [p.b.value if x is a else p.a.value for p in chosen]
        inputs = [p.inputs if x is a else p.other for p in chosen]
        already = _relation([p.a.value for p in chosen], [p.b.value for p in chosen])

        def said(
            argument: str, value: Any, x: Side = x, name: str = name, known: Any = known
        ) -> str:
            now, then = (as_argument(x, argument, short(v)) for v in (known[argument], value))
            return f"{name} has {now}; with {then} "

        options = _brief_options(x, other) if briefly else _others(x, settings_known(other))
        for argument, value in options:
            kind = _agreement(x, {argument: value}, inputs, wanted)
            fix = remade_with(x, name, argument, short(value))
            if kind == "equal":
                agree.append(
                    _agreed(a, b, x, {argument: value}, chosen, said(argument, value), fix)
                )
            elif briefly:
                continue
            elif kind and not already:
                text = f"{said(argument, value)}one would be a multiple of the other"
                multiples.append(Cause(text, fix))
            elif not kind and 1 < len(hard) < len(chosen):
                few = [[row[k] for k in hard] for row in (inputs, wanted)]
                if _agreement(x, {argument: value}, *few) == "equal":
                    text = "both would give the same values for targets of 0 and 1, and no others"
                    hardly.append(Cause(said(argument, value) + text, fix))
        if agree or briefly:
            continue
        for argument, value in _solved(x, known, inputs, wanted):
            fix = remade_with(x, name, argument, short(value))
            agree.append(_agreed(a, b, x, {argument: value}, chosen, said(argument, value), fix))
    yield from (agree or multiples or hardly)[:2]


def _agreed(
    a: Side, b: Side, x: Side, change: Mapping[str, Any], pairs: Sequence[Pair], said: str, fix: str
) -> Cause:
    """The cause that a setting is, with what is left of a difference when it is changed."""
    made = with_settings(x, **change)
    where: dict[str, None] = {}
    for p in pairs:
        inputs = p.inputs if x is a else p.other
        named = dict(zip(made.signature.inputs, inputs.values(), strict=True))
        outcome = made.on(p.probe, named)
        found = with_outcome(a, b, p, x is a, _renamed(outcome, x, made))
        if found.status == "gradient":
            where.update(dict.fromkeys(found.where))
    if where:
        rest = f"both would give the same values, but not the gradient in {', '.join(where)}"
        return Cause(said + rest, fix)
    return Cause(f"{said}both would give the same values", fix)


def _renamed(outcome: Outcome, x: Side, made: Side) -> Outcome:
    names = dict(zip(made.signature.inputs, x.signature.inputs, strict=True))
    slopes = {names[n]: g for n, g in outcome.gradients.items() if n in names}
    return replace(outcome, gradients=slopes)


def _brief_options(x: Side, other: Side) -> list[tuple[str, Any]]:
    """The settings that differ from the other side's, or from what they are without being given."""
    theirs = settings_known(other)
    defaults: dict[str, Any] = {}
    if x.native is not None:
        parameters = x.native.witness.signature.parameters.items()
        defaults = {n: p.default for n, p in parameters if p.default is not p.empty}
    elif x.ours is not None:
        defaults = {n: p.value for n, p in x.ours.bound.form.params.items()}
    found: list[tuple[str, Any]] = []
    for name, value in settings_known(x).items():
        if name in SILENT or name in ("reduction", "normalizer", "axis", "empty"):
            continue
        options = [d[name] for d in (theirs, defaults) if name in d]
        found += [(name, o) for k, o in enumerate(options)
                  if not same(o, value) and not any(same(o, q) for q in options[:k])]  # fmt: skip
    return found


GRID = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Where a setting is looked for, before it is solved for between two of these."""
STEPS = 40


def _solved(
    x: Side, known: Mapping[str, Any], inputs: Sequence[Any], wanted: Sequence[float]
) -> Iterator[tuple[str, float]]:
    """Numbers of single settings for which a side gives what is wanted, on every pair."""
    where = next((k for k, w in enumerate(wanted) if abs(w) > 1e-9), None)
    if where is None or _costly(x) or (x.platform == "jax" and x.native is not None):
        return
    combined = x.ours is not None and x.ours.bound.combined is not None
    for name, value in known.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in SILENT or not number or name in ("axis", "ignore_index", "ignore_class"):
            continue
        if isinstance(value, int) and x.native is None:
            continue
        if combined and coefficient_of(x, name) is None:
            continue

        def off(v: float, name: str = name) -> float | None:
            found = values(x, {name: v}, inputs[where : where + 1])
            return None if found is None else found[0] - wanted[where]

        rows = [(v, o) for v in GRID if (o := off(v)) is not None]
        for (lo, f), (hi, g) in itertools.pairwise(rows):
            if f * g > 0.0:
                continue
            if (root := _root(off, lo, f, hi, g)) is None:
                continue
            near = float(f"{root:.5g}")  # what a person would have written
            for v in dict.fromkeys((near, root)):
                if _agreement(x, {name: v}, inputs, wanted) == "equal":
                    yield name, v
                    return


def _costly(x: Side) -> bool:
    """Whether another setting means to compile anew, half a second each: of combinations, whose
    parts are not evaluated by NumPy, on platforms that trace."""
    return x.ours is not None and x.ours.bound.combined is not None and x.platform != "torch"


def _root(
    off: Callable[[float], float | None], lo: float, f: float, hi: float, g: float
) -> float | None:
    """Where a difference is 0 between two numbers at which it has not one sign."""
    for step in range(STEPS):
        if f == 0.0 or g == 0.0 or hi - lo < 1e-13 * abs(hi):
            break
        # The secant, and every third time the middle, lest one end never moves.
        middle = 0.5 * (lo + hi) if step % 3 == 2 else lo - f * (hi - lo) / (g - f)
        middle = min(max(middle, lo), hi)
        here = off(middle)
        if here is None:
            return None
        if (here < 0.0) == (f < 0.0):
            lo, f = middle, here
        else:
            hi, g = middle, here
    return lo if abs(f) <= abs(g) else hi


def _agreement(
    x: Side, change: Mapping[str, Any], inputs: Sequence[Any], wanted: Sequence[Any]
) -> str:
    """How the values of a built-in with another argument are related to those wanted."""
    kind = ""
    for count in (2, 4, len(inputs)):
        found = values(x, change, inputs[:count])
        kind = "" if found is None else _relation(found, wanted[:count])
        if not kind:
            break
    return kind


def _relation(found: Sequence[float], wanted: Sequence[float]) -> str:
    if np.allclose(found, wanted, CLOSE, 0.0):
        return "equal"
    if 0.0 in found or 0.0 in wanted:
        return ""
    ratios = [w / f for w, f in zip(wanted, found, strict=True)]
    return "multiple" if max(ratios) - min(ratios) <= CLOSE * abs(ratios[0]) else ""


def _others(x: Side, known: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Other values of single arguments: what the other side has, and what leaves a term out."""
    found: list[tuple[str, Any]] = []
    for name, value in settings_known(x).items():
        if name in SILENT or name == "empty":
            continue
        options: list[Any] = [known[name]] if name in known else []
        if not _costly(x):
            options += _usual(name, value)
        kept: list[Any] = []
        for option in options:
            if not same(option, value) and not any(same(option, k) for k in kept):
                kept.append(option)
        found += [(name, option) for option in kept]
    return found[:MOST]


def _usual(name: str, value: Any) -> list[Any]:
    """What an argument is often given, or what leaves its term out."""
    if name == "reduction":
        return ["mean", "sum", "none", "batchmean", "mean_with_sample_weight"]
    if isinstance(value, bool):
        return [not value]
    if name == "axis" or value is None:
        return []
    return [0.0, 1.0, 0.5, 2.0] if isinstance(value, int | float) else [None]


def values(
    x: Side, change: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]
) -> list[float] | None:
    """What a built-in with another argument gives; None where it takes that not, or other inputs.

    No gradient is taken: this asks for values only.
    """
    calls = calls_of(x.platform)
    kept: dict[Any, Any] = {}
    found: list[float] = []
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            made = with_settings(x, **change)
            if domains_of(made.signature) != domains_of(x.signature):
                return None
            if list(made.signature.inputs.values()) != list(x.signature.inputs.values()):
                return None
            for given in inputs:
                named = dict(zip(made.signature.inputs, given.values(), strict=True))
                if (value := _by_formula(made, named)) is not None:
                    found.append(value)
                    continue
                dtype = x.computes or "float64"
                value, _ = calls.evaluate(made.unweighted, named, (), dtype, "eager", kept)
                found.append(float(np.mean(value)))
    except Exception:  # an argument that does not go with the others
        return None
    return found if all(map(math.isfinite, found)) else None


def _by_formula(x: Side, inputs: Mapping[str, Any]) -> float | None:
    """The value of one of ours, by NumPy: JAX compiles for every setting, half a second each."""
    if x.ours is None:
        return None
    formula = as_formula(x, inputs)
    if formula is None:
        return None
    _, graph, given = formula
    try:
        return float(evaluate(graph, {n: given[n] for n, _ in graph.inputs()}, np.float64).item())
    except LookupError:  # a row, or an input, that is not evaluated so
        return None
