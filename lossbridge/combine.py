"""Losses made of losses: fixed, scheduled, learned and attended weights over named losses.

Each builds a specification whose body uses the others by name, so a combination is data like any
loss: it prints, hashes, compiles and is reported. Every named loss keeps its own parameters,
weights and ports; its inputs appear under its name, as ``depth_prediction``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from lossbridge.checks import as_number
from lossbridge.errors import ArgumentError, SpecError, listed, shown
from lossbridge.frontdoor import Bound, as_form, bind
from lossbridge.kinds import Kind, check_name
from lossbridge.spec import Param, Reduction, Spec, Weight
from lossbridge.text import Call

MAX_LOSSES = 32


@dataclass(frozen=True)
class Combination:
    """A public class that combines losses; ``build`` makes the specification and its settings."""

    name: str
    doc: str
    arguments: tuple[str, ...]
    build: Callable[..., Bound]

    @property
    def signature(self) -> inspect.Signature:
        """The constructor's signature."""
        found = inspect.signature(self.build)
        bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
        return found.replace(parameters=bare, return_annotation=found.empty)


def _used(name: str, child: Bound) -> tuple[Spec, dict[str, Kind]]:
    """A loss with its settings as defaults, under an id of its own, and its inputs' new kinds."""
    if child.reduction == "none":
        raise ArgumentError(
            f"{name} has reduction='none', but a combination adds single numbers; construct it "
            "with reduction='mean' or 'sum'"
        )
    if child.normalizer == "external":
        raise ArgumentError(
            f"{name} has normalizer='external', whose count a combination does not pass on; give "
            "it another normaliser"
        )
    spec = child.specs[0]
    numbers = dict(child.numbers[0])
    params = {
        key: Param(param.kind, numbers[key]) if key in numbers else param
        for key, param in spec.params.items()
    }
    bare = spec.id.rsplit("/", 1)[-1]
    spec = msgspec.structs.replace(
        spec,
        loss=f"{name}/{bare}",
        params=params,
        reduction=Reduction(child.reduction, child.normalizer),
    )
    kinds = {f"{name}_{key}": _prefixed(kind, name) for key, kind in spec.inputs.items()}
    return spec, kinds


def _prefixed(kind: Kind, name: str) -> Kind:
    def rename(axis: str) -> str:
        return f"*{name}_{axis[1:]}" if axis.startswith("*") else f"{name}_{axis}"

    return Kind(kind.name, rename(kind.of) if kind.of else None, tuple(map(rename, kind.axes)))


def _children(losses: Any) -> dict[str, Bound]:
    if not isinstance(losses, Mapping) or not losses:
        raise ArgumentError(
            "losses= takes a mapping of names to losses, such as "
            f"{{'depth': L.HuberLoss(), 'label': L.CrossEntropyLoss()}}, but {shown(losses)} was "
            "given"
        )
    if len(losses) > MAX_LOSSES:
        raise ArgumentError(f"{len(losses)} losses were given, but at most {MAX_LOSSES} combine")
    children: dict[str, Bound] = {}
    for name, child in losses.items():
        try:
            check_name(name, "the name of a loss")
        except SpecError as error:
            raise ArgumentError(error.message) from None
        bound = child if isinstance(child, Bound) else getattr(child, "bound", None)
        if not isinstance(bound, Bound):
            raise ArgumentError(
                f"losses[{name!r}] must be a loss of lossbridge, but {shown(type(child).__name__)} "
                "was given; for a loss of your own write L.compile(spec)"
            )
        children[name] = bound
    return children


def _combine(
    id: str,
    children: Mapping[str, Bound],
    lines: list[str],
    terms: Mapping[str, str],
    *,
    extra: str = "",
    inputs: Mapping[str, Kind] | None = None,
    params: Mapping[str, Param] | None = None,
    weights: Mapping[str, Weight] | None = None,
    step: bool = False,
    references: tuple[str, ...] = (),
    summary: str = "",
) -> Spec:
    all_inputs: dict[str, Kind] = dict(inputs or {})
    uses: dict[str, Spec] = {}
    for name, child in children.items():
        spec, kinds = _used(name, child)
        uses[name] = spec
        all_inputs.update(kinds)
    calls = {
        name: f"{name}({', '.join(f'{name}_{k}' for k in uses[name].inputs)})" for name in children
    }
    body = [*lines, *(f"{name}_value = {calls[name]}" for name in children)]
    total = " + ".join(f"{terms[name]} * {name}_value" for name in children)
    body.append(f"value = {total}{extra}")
    return Spec(
        loss=id,
        summary=summary,
        inputs=all_inputs,
        params=dict(params or {}),
        weights=dict(weights or {}),
        uses=uses,
        step=step,
        body=tuple(body),
        yields="scalar",
        references=references,
    )


def _number_for_each(
    what: str, given: Any, names: Mapping[str, Bound], default: float
) -> dict[str, Any]:
    table = dict(given or {})
    unknown = [n for n in table if n not in names]
    if unknown:
        raise ArgumentError(
            f"{what} names {listed(map(str, unknown))}, but the losses are {listed(names)}"
        )
    found = {n: as_number(table.get(n, default)) for n in names}
    wrong = [n for n, value in found.items() if value is None]
    if wrong:
        raise ArgumentError(
            f"{what}[{wrong[0]!r}] is a number, but {shown(table[wrong[0]])} was given"
        )
    return found


def weighted(losses: Any, coefficients: Any = None) -> Bound:
    """The sum of losses, each times a fixed coefficient (default 1)."""
    children = _children(losses)
    numbers = _number_for_each("coefficients", coefficients, children, 1.0)
    spec = _combine(
        "weighted@1",
        children,
        [],
        {n: f"{n}_coefficient" for n in children},
        params={f"{n}_coefficient": Param(Kind("real"), v) for n, v in numbers.items()},
        summary="Penalise the weighted sum of named losses, with fixed weights.",
        references=("Caruana 1997, Multitask learning",),
    )
    return bind(spec, "", {f"{n}_coefficient": v for n, v in numbers.items()})


def uncertainty_weighted(losses: Any) -> Bound:
    """Losses weighed by learned uncertainties: exp(-s) loss / 2 + s / 2 for each, s trainable."""
    children = _children(losses)
    names = [f"{n}_log_variance" for n in children]
    spec = _combine(
        "uncertainty_weighted@1",
        children,
        [f"{n}_precision = exp(-{n}_log_variance)" for n in children],
        {n: f"0.5 * {n}_precision" for n in children},
        extra="".join(f" + 0.5 * {name}" for name in names),
        weights={name: Weight(Kind("real"), 0.0) for name in names},
        summary="Penalise named losses by weights learned from their uncertainty.",
        references=("Kendall, Gal and Cipolla 2018, eq. 7",),
    )
    return bind(spec, "", {})


def curriculum_weighted(losses: Any, schedules: Any = None) -> Bound:
    """Losses whose weights move linearly: schedules[name] = (first, last, begin, end) in steps."""
    children = _children(losses)
    table = dict(schedules or {})
    settings: dict[str, Any] = {}
    lines: list[str] = []
    for name in children:
        row = table.pop(name, (1.0, 1.0, 0, 1))
        if not isinstance(row, tuple | list) or len(row) != 4 or not row[3] > row[2]:
            raise ArgumentError(
                f"schedules[{name!r}] must be (first weight, last weight, begin step, end step) "
                f"with begin < end, such as (0.0, 1.0, 100, 500), but {shown(row)} was given"
            )
        for key, value in zip(("first", "last", "begin", "end"), row, strict=True):
            settings[f"{name}_{key}"] = float(value)
        lines.append(
            f"{name}_progress = clip((step - {name}_begin) / ({name}_end - {name}_begin), 0.0, 1.0)"
        )
        lines.append(
            f"{name}_weight = {name}_first + ({name}_last - {name}_first) * {name}_progress"
        )
    if table:
        raise ArgumentError(
            f"schedules names {listed(map(str, table))}, but the losses are {listed(children)}"
        )
    spec = _combine(
        "curriculum_weighted@1",
        children,
        lines,
        {n: f"{n}_weight" for n in children},
        params={key: Param(Kind("real"), value) for key, value in settings.items()},
        step=True,
        summary="Penalise the weighted sum of named losses, with weights that follow a schedule.",
        references=("Bengio et al. 2009, section 3",),
    )
    return bind(spec, "", {})


def attention_weighted(losses: Any, temperature: float = 1.0) -> Bound:
    """Losses weighed by attention: the softmax of one score per loss, given at the call."""
    children = _children(losses)
    lines = ["attention = softmax(scores / temperature, modalities)"]
    lines += [f"{n}_weight = take(attention, {k}, modalities)" for k, n in enumerate(children)]
    spec = _combine(
        "attention_weighted@1",
        children,
        lines,
        {n: f"{n}_weight" for n in children},
        inputs={"scores": Kind.parse("real[modalities]")},
        params={"temperature": Param(Kind("positive"), 1.0)},
        summary="Penalise named losses by weights that attention to each modality gives.",
        references=("Bahdanau, Cho and Bengio 2015, eq. 6, on losses",),
    )
    return bind(spec, "", {"temperature": temperature})


def of_values(bound: Bound) -> tuple[Bound, dict[str, str]]:
    """A combination as a loss of its losses' values, and which input is the value of which loss.

    Where each loss is called as the object it is, this is what remains to be computed.
    """
    spec = bound.specs[0]
    places: dict[str, str] = {}
    body: list[str] = []
    for line, assignment in zip(spec.body, spec.assignments, strict=True):
        used = assignment.expr.name if isinstance(assignment.expr, Call) else ""
        if used in spec.uses:
            places[used] = assignment.name
        else:
            body.append(line)
    own = {n: k for n, k in spec.inputs.items() if not _belongs(n, spec.uses)}
    remaining = msgspec.structs.replace(
        spec,
        inputs={place: Kind("real") for place in places.values()} | own,
        uses={},
        body=tuple(body),
        # Its one number is neither divided by a count of samples nor by that of replicas.
        reduction=Reduction("sum", spec.reduction.normalizer),
    )
    return bind(remaining, "", bound.given), places


def _belongs(name: str, losses: Mapping[str, Spec]) -> bool:
    """Whether an input is that of one of the losses."""
    return any(name == f"{loss}_{own}" for loss, spec in losses.items() for own in spec.inputs)


COMBINATIONS: Mapping[str, Combination] = {
    c.name: c
    for c in (
        Combination("WeightedLoss", weighted.__doc__ or "", ("losses", "coefficients"), weighted),
        Combination(
            "UncertaintyWeightedLoss",
            uncertainty_weighted.__doc__ or "",
            ("losses",),
            uncertainty_weighted,
        ),
        Combination(
            "CurriculumWeightedLoss",
            curriculum_weighted.__doc__ or "",
            ("losses", "schedules"),
            curriculum_weighted,
        ),
        Combination(
            "AttentionWeightedLoss",
            attention_weighted.__doc__ or "",
            ("losses", "temperature"),
            attention_weighted,
        ),
    )
}


def bound_of(source: Any) -> Bound:
    """A loss with its default settings, for use in a combination."""
    return bind(as_form(source), "", {})
