"""Which argument makes the difference: read off, or found by trying others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbridge.migrate.comparison import Cause
from lossbridge.migrate.live import Native, same, short
from lossbridge.migrate.sides import Side, available, calls_of, with_arguments

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


def that_would_do(a: Side, b: Side, pairs: Sequence[Pair]) -> Iterator[Cause]:
    """Single arguments with which the two would agree, by value; or be multiples of each other."""
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
        if x.native is None or x.signature.ports or not available(x.platform):
            continue
        wanted = [p.b.value if x is a else p.a.value for p in chosen]
        inputs = [p.inputs if x is a else p.other for p in chosen]
        already = _relation([p.a.value for p in chosen], [p.b.value for p in chosen])
        for argument, value in _others(x.native, _known(other)):
            kind = _agreement(x, {argument: value}, inputs, wanted)
            now = short(x.native.given[argument])
            said = f"{name} has {argument}={now}; with {argument}={short(value)} "
            fix = f"pass {argument}={short(value)} to {name}"
            if kind == "equal":
                agree.append(Cause(f"{said}both would give the same values", fix))
            elif kind and not already:
                multiples.append(Cause(f"{said}one would be a multiple of the other", fix))
            elif not kind and 1 < len(hard) < len(chosen):
                few = [[row[k] for k in hard] for row in (inputs, wanted)]
                if _agreement(x, {argument: value}, *few) == "equal":
                    text = "both would give the same values for targets of 0 and 1, and no others"
                    hardly.append(Cause(said + text, fix))
    yield from (agree or multiples or hardly)[:2]


def _agreement(
    x: Side, change: Mapping[str, Any], inputs: Sequence[Any], wanted: Sequence[Any]
) -> str:
    """How the values of a built-in with another argument are related to those wanted."""
    kind = ""
    for count in (2, 4, len(inputs)):
        found = _values(x, change, inputs[:count])
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


def _known(x: Side) -> Mapping[str, Any]:
    """The arguments of a side, by name: of a built-in, or the parameters of one of ours."""
    if x.native is not None:
        return x.native.given
    return {n: p.value for spec in x.specs[:1] for n, p in spec.params.items()}


def _others(mine: Native, known: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Other values of single arguments: what the other side has, and what leaves a term out."""
    found: list[tuple[str, Any]] = []
    for name, value in mine.given.items():
        if name in SILENT:
            continue
        options: list[Any] = [known[name]] if name in known else []
        if name == "reduction":
            options += ["mean", "sum", "none", "batchmean", "mean_with_sample_weight"]
        elif isinstance(value, bool):
            options += [not value]
        elif isinstance(value, int | float) and name != "axis":
            options += [0.0, 1.0, 0.5, 2.0]
        elif value is not None and name != "axis":
            options += [None]
        kept: list[Any] = []
        for option in options:
            if not same(option, value) and not any(same(option, k) for k in kept):
                kept.append(option)
        found += [(name, option) for option in kept]
    return found[:MOST]


def _values(
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
            made = with_arguments(x, **change)
            if made.signature.domains != x.signature.domains:
                return None
            if list(made.signature.inputs.values()) != list(x.signature.inputs.values()):
                return None
            for given in inputs:
                named = dict(zip(made.signature.inputs, given.values(), strict=True))
                dtype = x.computes or "float64"
                value, _ = calls.evaluate(made.unweighted, named, (), dtype, "eager", kept)
                found.append(float(np.mean(value)))
    except Exception:  # an argument that does not go with the others
        return None
    return found if all(map(math.isfinite, found)) else None
