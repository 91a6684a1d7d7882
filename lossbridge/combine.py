"""Losses made of losses: fixed, scheduled, learned and attended weights over named losses.

Each builds a specification whose body uses the others by name, so a combination is data like any
loss: it prints, hashes, compiles and is reported. Every named loss keeps its own parameters,
weights and ports; its inputs appear under its name, as ``depth_prediction``.

The names are the user's: any text of up to 64 characters, ``cls``, ``train`` and ``box/giou``
among them. Where the language or a framework cannot take one as it is, the specification has an
identifier made of it (a note ``x-names`` says which stands for which); calls, ``terms``, messages
and the text of the loss have the user's name.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from lossbridge.checks import as_number
from lossbridge.errors import ArgumentError, SpecError, listed, shown, suggestion
from lossbridge.frontdoor import (
    CALL_KEYWORDS,
    Bound,
    Combined,
    aliases,
    bind,
    positional_order,
)
from lossbridge.kinds import MAX_NAME, Kind, check_name, moved_axis
from lossbridge.ops import OPS
from lossbridge.spec import Param, Reduction, Spec, Weight
from lossbridge.synonyms import setting_hint
from lossbridge.text import Call

MAX_LOSSES = 32
NOTE = "x-names"  # in a specification: which name each of its used losses stands for

# What a combination's own lines are written in.
_OWN = {"attention", "modalities", "scores", "temperature", "step", "value", "count", "moment"}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


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

    def settings(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a constructor by name, or an error that says what works."""
        if len(args) > len(self.arguments):
            raise ArgumentError(
                f"{self.name} takes {listed(self.arguments)}, but {len(args)} positional "
                f"arguments were given; {self._example}"
            )
        found = dict(zip(self.arguments, args, strict=False))
        for key, value in kwargs.items():
            if key not in self.arguments:
                raise ArgumentError(
                    f"{self.name} has no argument {shown(key)}; its arguments are "
                    f"{listed(self.arguments)}{setting_hint(key, self.arguments)}; {self._example}"
                )
            if key in found:
                raise ArgumentError(f"{self.name} was given {key} twice, by position and by name")
            found[key] = value
        if "losses" not in found:
            raise ArgumentError(
                f"{self.name} needs losses=, a mapping of names to losses; {self._example}"
            )
        return found

    @property
    def _example(self) -> str:
        return f"write L.{self.name}({_EXAMPLE})"


_EXAMPLE = "{'depth': L.HuberLoss(), 'label': L.CrossEntropyLoss()}"


# --- names ---------------------------------------------------------------------------------------


class _Identifiers:
    """Identifiers of one specification, none of them twice."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)

    def __call__(self, wanted: str, name: bool = False) -> str:
        """``wanted``, or what is nearest to it and free; of a ``name``, nothing that the language
        has a meaning for."""
        stem = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
        stem = stem.lstrip("_") if stem.startswith("__") else stem
        if not stem or stem[0].isdigit():
            stem = f"loss_{stem}"
        text, number = stem[:MAX_NAME], 1
        while text in self.taken or (name and not _ordinary(text)):
            ending = "_loss" if number == 1 and name else f"_{number}"
            text, number = f"{stem[: MAX_NAME - len(ending)]}{ending}", number + 1
        self.taken.add(text)
        return text


def _ordinary(text: str) -> bool:
    try:
        check_name(text, "a name")
    except SpecError:
        return False
    return text not in OPS


def _note(names: Mapping[str, str]) -> str:
    return json.dumps(names, separators=(",", ":"), sort_keys=True)


class _Words:
    """The names of a loss's own coefficients in the body: ``depth_coefficient``."""

    def __init__(self, stem: str, identifiers: _Identifiers) -> None:
        self.stem, self.identifiers = stem, identifiers
        self.known: dict[str, str] = {}

    def __getitem__(self, what: str) -> str:
        if what not in self.known:
            self.known[what] = self.identifiers(f"{self.stem}_{what}")
        return self.known[what]


class _Part:
    """One of the losses: its specification under an id of its own, and what its inputs are there.

    Two losses may have the inputs ``label_soft`` of ``label`` and ``soft`` of ``label_soft``: each
    input and axis has an identifier that no other has.
    """

    def __init__(self, name: str, child: Bound, spec: Spec, identifiers: _Identifiers) -> None:
        if child.reduction == "none":
            raise ArgumentError(
                f"{shown(name)} has reduction='none', but a combination adds single numbers; "
                "construct it with reduction='mean' or 'sum'"
            )
        if child.normalizer == "external":
            raise ArgumentError(
                f"{shown(name)} has normalizer='external', whose count a combination does not pass "
                "on; give it another normaliser"
            )
        self.stem = re.sub(r"[^A-Za-z0-9_]", "_", name)
        self.used = identifiers(name, name=True)
        self.words = _Words(self.stem, identifiers)
        numbers = dict(child.numbers[0])
        params = {
            key: Param(param.kind, numbers[key]) if key in numbers else param
            for key, param in spec.params.items()
        }
        self.spec = msgspec.structs.replace(
            _under(spec, self.used),
            params=params,
            reduction=Reduction(child.reduction, child.normalizer),
        )
        axes: dict[str, str] = {}

        def rename(axis: str) -> str:
            if axis not in axes:
                bare = axis.removeprefix("*")
                axes[axis] = axis[: len(axis) - len(bare)] + identifiers(f"{self.stem}_{bare}")
            return axes[axis]

        self.inputs: dict[str, str] = {}
        self.kinds: dict[str, Kind] = {}
        self.axes: dict[str, int] = {}
        for key, kind in spec.inputs.items():
            self.inputs[key] = found = identifiers(f"{self.stem}_{key}")
            self.kinds[found] = Kind(
                kind.name, rename(kind.of) if kind.of else None, tuple(map(rename, kind.axes))
            )
            told = (
                child.axis
                if child.combined is None
                else child.combined.axes.get(moved_axis(kind) or "")
            )
            if (axis := moved_axis(self.kinds[found])) and told is not None:
                self.axes[axis] = told


def _under(spec: Spec, space: str) -> Spec:
    """A specification, and those it uses, in a name space: one id means one loss throughout."""
    uses = {name: _under(used, f"{space}_{name}"[:MAX_NAME]) for name, used in spec.uses.items()}
    bare = spec.id.rsplit("/", 1)[-1]
    return msgspec.structs.replace(spec, loss=f"{space}/{bare}", uses=uses)


def _children(losses: Any) -> dict[str, tuple[Bound, Spec]]:
    if not isinstance(losses, Mapping) or not losses:
        raise ArgumentError(
            f"losses= takes a mapping of names to losses, such as {_EXAMPLE}, but {shown(losses)} "
            "was given"
        )
    if len(losses) > MAX_LOSSES:
        raise ArgumentError(f"{len(losses)} losses were given, but at most {MAX_LOSSES} combine")
    children: dict[str, tuple[Bound, Spec]] = {}
    for name, child in losses.items():
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise ArgumentError(
                f"the name of a loss is text of 1 to {MAX_NAME} characters, but {shown(name)} was "
                f"given; write {_EXAMPLE}"
            )
        bound = child if isinstance(child, Bound) else getattr(child, "bound", None)
        if isinstance(child, type) or not isinstance(bound, Bound):
            what, works = shown(type(child).__name__), "for a loss of your own write"
            if isinstance(child, type):
                what = f"the class {child.__name__}"
                works = f"make one of it, L.{child.__name__}(); for a loss of your own write"
            raise ArgumentError(
                f"losses[{name!r}] must be a loss of lossbridge, but {what} was given; {works} "
                "L.compile(spec)"
            )
        children[name] = bound, _specification(child, bound)
    return children


def _specification(child: Any, bound: Bound) -> Spec:
    """The specification of a loss, with arrays such as class weights where they can be read."""
    if bound.arrays and child is not bound:
        try:
            found: Spec = child.spec
        except Exception:  # an array that is being traced has no numbers yet
            return bound.specs[0]
        return found
    return bound.specs[0]


def _combine(
    id: str,
    losses: Any,
    lines: Callable[[Mapping[str, _Part]], list[str]],
    coefficient: Callable[[_Part], str],
    *,
    extra: Callable[[_Part], str] | None = None,
    inputs: Mapping[str, Kind] | None = None,
    params: Callable[[str, _Part], Mapping[str, Param]] | None = None,
    shared: Mapping[str, Param] | None = None,
    weights: Callable[[_Part], Mapping[str, Weight]] | None = None,
    step: bool = False,
    references: tuple[str, ...] = (),
    summary: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Bound:
    """A combination: its specification, its settings, and which name stands where in it."""
    identifiers = _Identifiers(_OWN)
    parts: dict[str, _Part] = {}
    for name, (child, spec) in _children(losses).items():
        parts[name] = _Part(name, child, spec, identifiers)
    own_params: dict[str, Param] = dict(shared or {})
    own_weights: dict[str, Weight] = {}
    all_inputs: dict[str, Kind] = dict(inputs or {})
    for name, part in parts.items():
        all_inputs.update(part.kinds)
        if weights is not None:
            own_weights.update(weights(part))
        if params is not None:
            own_params.update(params(name, part))
    own = lines(parts)
    body = list(own)
    for part in parts.values():
        body.append(f"{part.words['value']} = {part.used}({', '.join(part.inputs.values())})")
    terms = [f"{coefficient(part)} * {part.words['value']}" for part in parts.values()]
    rest = [] if extra is None else [extra(part) for part in parts.values()]
    body.append(f"value = {' + '.join([*terms, *rest])}")
    axes = {axis: at for part in parts.values() for axis, at in part.axes.items()}
    moved = {axis for kind in all_inputs.values() if (axis := moved_axis(kind))}
    note = {part.used: name for name, part in parts.items()}
    other = {used: name for used, name in note.items() if used != name}
    spec = Spec(
        loss=id,
        summary=summary,
        inputs=all_inputs,
        params=own_params,
        weights=own_weights,
        uses={part.used: part.spec for part in parts.values()},
        step=step,
        body=tuple(body),
        yields="scalar",
        # As one, if all losses were told the same; of others each has its own at the call.
        axis=next(iter(axes.values())) if {*axes} == moved and len({*axes.values()}) == 1 else None,
        references=references,
        extensions={NOTE: _note(other)} if other else {},
    )
    bound = bind(spec, "", dict(settings or {}))
    combined = Combined(
        names=tuple(parts),
        uses=note,
        inputs=tuple(inputs or {}),
        coefficients={
            name: _alone(coefficient(part), own, spec, inputs or {}) for name, part in parts.items()
        },
        places={
            found: (name, key) for name, part in parts.items() for key, found in part.inputs.items()
        },
        axes=axes,
    )
    return replace(bound, combined=combined)


def _alone(expression: str, lines: Sequence[str], spec: Spec, inputs: Mapping[str, Kind]) -> Spec:
    """A coefficient as a loss of its own: of inputs, trainable weights and ``moment``, the step."""
    wanted = set(_WORD.findall(expression))
    body: list[str] = []
    for line in reversed(lines):
        target, _, text = line.partition(" = ")
        if target in wanted:
            body.insert(0, line)
            wanted |= set(_WORD.findall(text))
    given = {name: kind for name, kind in inputs.items() if name in wanted}
    given.update((name, weight.kind) for name, weight in spec.weights.items() if name in wanted)
    if "step" in wanted:
        given["moment"] = Kind("real")
    params = {name: param for name, param in spec.params.items() if name in wanted}
    if not given:  # a loss has an input: a fixed coefficient is its own
        (name,) = params
        given, params = {name: params[name].kind}, {}
    written = [re.sub(r"\bstep\b", "moment", line) for line in [*body, f"value = {expression}"]]
    return Spec(
        loss="coefficient@1",
        inputs=given,
        params=params,
        body=tuple(written),
        yields="scalar",
        reduction=Reduction("sum", "elements"),
    )


def _number_for_each(what: str, given: Any, names: Iterable[str], default: float) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ArgumentError(
            f"{what}= takes a mapping of the losses' names to numbers, but {shown(given)} was "
            f"given; write {what}={{{', '.join(f'{n!r}: {default}' for n in names)}}}"
        )
    table = dict(given or {})
    names = list(names)
    unknown = [n for n in table if n not in names]
    if unknown:
        raise ArgumentError(
            f"{what} names {listed(map(shown, unknown))}, but the losses are "
            f"{listed(map(shown, names))}"
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
    numbers = _number_for_each("coefficients", coefficients, _children(losses), 1.0)
    return _combine(
        "weighted@1",
        losses,
        lambda parts: [],
        lambda part: part.words["coefficient"],
        params=lambda name, part: {part.words["coefficient"]: Param(Kind("real"), numbers[name])},
        summary="Penalise the weighted sum of named losses, with fixed weights.",
        references=("Caruana 1997, Multitask learning",),
    )


def uncertainty_weighted(losses: Any) -> Bound:
    """Losses weighed by learned uncertainties: exp(-s) loss / 2 + s / 2 for each, s trainable."""
    return _combine(
        "uncertainty_weighted@1",
        losses,
        lambda parts: [
            f"{part.words['precision']} = exp(-{part.words['log_variance']})"
            for part in parts.values()
        ],
        lambda part: f"0.5 * {part.words['precision']}",
        extra=lambda part: f"0.5 * {part.words['log_variance']}",
        weights=lambda part: {part.words["log_variance"]: Weight(Kind("real"), 0.0)},
        summary="Penalise named losses by weights learned from their uncertainty.",
        references=("Kendall, Gal and Cipolla 2018, eq. 7",),
    )


def curriculum_weighted(losses: Any, schedules: Any = None) -> Bound:
    """Losses whose weights move linearly: schedules[name] = (first, last, begin, end) in steps."""
    children = _children(losses)
    table = dict(schedules or {})
    unknown = [name for name in table if name not in children]
    if unknown:
        raise ArgumentError(
            f"schedules names {listed(map(shown, unknown))}, but the losses are "
            f"{listed(map(shown, children))}"
        )
    rows: dict[str, tuple[Any, ...]] = {}
    for name in children:
        row = table.get(name, (1.0, 1.0, 0, 1))
        numbers = [as_number(n) for n in row] if isinstance(row, tuple | list) else [None]
        if None in numbers or len(numbers) != 4 or not row[3] > row[2]:
            raise ArgumentError(
                f"schedules[{name!r}] must be (first weight, last weight, begin step, end step) "
                f"with begin < end, such as (0.0, 1.0, 100, 500), but {shown(row)} was given"
            )
        rows[name] = tuple(float(n) for n in row)

    def lines(parts: Mapping[str, _Part]) -> list[str]:
        found = []
        for part in parts.values():
            first, last, begin, end = (part.words[w] for w in ("first", "last", "begin", "end"))
            progress = part.words["progress"]
            found.append(f"{progress} = clip((step - {begin}) / ({end} - {begin}), 0.0, 1.0)")
            found.append(f"{part.words['weight']} = {first} + ({last} - {first}) * {progress}")
        return found

    return _combine(
        "curriculum_weighted@1",
        losses,
        lines,
        lambda part: part.words["weight"],
        params=lambda name, part: {
            part.words[key]: Param(Kind("real"), value)
            for key, value in zip(("first", "last", "begin", "end"), rows[name], strict=True)
        },
        step=True,
        summary="Penalise the weighted sum of named losses, with weights that follow a schedule.",
        references=("Bengio et al. 2009, section 3",),
    )


def attention_weighted(losses: Any, temperature: float = 1.0) -> Bound:
    """Losses weighed by attention: the softmax of one score per loss, given at the call."""
    return _combine(
        "attention_weighted@1",
        losses,
        lambda parts: [
            "attention = softmax(scores / temperature, modalities)",
            *(
                f"{part.words['weight']} = take(attention, {k}, modalities)"
                for k, part in enumerate(parts.values())
            ),
        ],
        lambda part: part.words["weight"],
        inputs={"scores": Kind.parse("real[modalities]")},
        shared={"temperature": Param(Kind("positive"), 1.0)},
        settings={"temperature": temperature},
        summary="Penalise named losses by weights that attention to each modality gives.",
        references=("Bahdanau, Cho and Bengio 2015, eq. 6, on losses",),
    )


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
    assert bound.combined is not None
    own = {name: spec.inputs[name] for name in bound.combined.inputs}
    remaining = msgspec.structs.replace(
        spec,
        inputs={place: Kind("real") for place in places.values()} | own,
        uses={},
        axis=None,
        body=tuple(body),
        # Its one number is neither divided by a count of samples nor by that of replicas.
        reduction=Reduction("sum", spec.reduction.normalizer),
    )
    return bind(remaining, "", bound.given), places


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


def combination_text(name: str, settings: Mapping[str, Any]) -> str:
    """The call that makes a combination."""

    def written(value: Any) -> str:
        if not isinstance(value, Mapping):
            number = as_number(value)
            return repr(value if number is None else number)
        return f"{{{', '.join(f'{key!r}: {written(x)}' for key, x in value.items())}}}"

    parts = (f"{key}={written(x)}" for key, x in settings.items() if x is not None)
    return f"{name}({', '.join(parts)})"


# --- calls ---------------------------------------------------------------------------------------


@dataclass
class CombinedCall:
    """What a call of a combination hands to each of its losses, and what is its own."""

    places: dict[str, tuple[Any, ...]]
    named: dict[str, dict[str, Any]]
    own: dict[str, Any]
    step: Any = None
    params: Any = None


def bind_combined(
    title: str,
    bound: Bound,
    children: Mapping[str, Bound],
    platform: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> CombinedCall:
    """Give every argument of a combination's call to the loss it is for.

    A loss's inputs come under its name, ``depth=(prediction, target)`` as that loss is called or
    ``depth={"prediction": ..., "mask": ...}``, or one by one, ``depth_prediction=...``, as the
    specification calls them. A mapping given by position holds the same under names that are no
    Python names.
    """
    spec, combined = bound.specs[0], bound.combined
    assert combined is not None

    def works() -> str:
        return f"write {_call_text(bound, children, platform)}"

    whole: dict[str, Any] = {}
    if len(args) > 1 or (args and not isinstance(args[0], Mapping)):
        raise ArgumentError(
            f"{title} takes its losses' inputs by name, but {len(args)} positional "
            f"argument{'s were' if len(args) > 1 else ' was'} given; {works()}"
        )
    call = CombinedCall({}, {n: {} for n in children}, {})
    if args:
        whole = dict(args[0])
    given: list[tuple[str, Any, bool]] = [(k, v, True) for k, v in whole.items()]
    given += [(k, v, False) for k, v in kwargs.items()]
    whole_specification = {*combined.places} <= {k for k, _, _ in given}
    for key, value, mapped in given:
        if not (mapped and key in children):  # in the mapping, the names are the losses'
            if key in combined.inputs:
                call.own[key] = value
                continue
            if key == "step" and (spec.step or key not in children):
                call.step = value
                continue
            if key == "params" and platform == "jax":
                call.params = value
                continue
        if key in children:
            if key in call.places or (call.named[key] and whole and not mapped):
                raise ArgumentError(f"{title} was given {shown(key)} twice; {works()}")
            _take(call, key, value, children[key], platform)
            continue
        owners = [
            n for n in sorted(children, key=len, reverse=True) if str(key).startswith(f"{n}_")
        ]
        taken = [n for n in owners if _takes(children[n], platform, key[len(n) + 1 :])]
        if key in combined.places and (whole_specification or not taken):
            # "b_2_prediction" is what the specification calls an input of "b/2".
            owner, word = combined.places[key]
            call.named[owner][word] = value
            continue
        if not owners:
            known = [*children, *combined.inputs, *(["step"] if spec.step else [])]
            raise ArgumentError(
                f"{title} was called with {shown(key)}, which belongs to none of its losses "
                f"({listed(map(shown, children))}){suggestion(str(key), known)}; {works()}"
            )
        # "label_soft_logits" may be of "label" or of "label_soft": of the one that has it.
        owner = (taken or owners)[0]
        call.named[owner][key[len(owner) + 1 :]] = value
    missing = [n for n in children if n not in call.places and not call.named[n]]
    if missing:
        raise ArgumentError(
            f"{title} was called without inputs for {listed(map(shown, missing))}; {works()}"
        )
    lacking = [n for n in combined.inputs if n not in call.own]
    if lacking:
        raise ArgumentError(f"{title} was called without {listed(lacking)}; {works()}")
    if call.step is not None and not spec.step:
        raise ArgumentError(f"{title} has no schedule, so it takes no step=; {works()}")
    return call


def _take(call: CombinedCall, name: str, value: Any, child: Bound, platform: str) -> None:
    """What a call has under a loss's name: its inputs in order, by name, or the only one."""
    one = len(child.specs[0].inputs) == 1 and child.combined is None
    if isinstance(value, Mapping):
        # The parameters of a model are a mapping in JAX.
        if not one or any(_takes(child, platform, str(key)) for key in value):
            call.named[name].update(value)
            return
        call.places[name] = (value,)
    elif isinstance(value, tuple) or (isinstance(value, list) and not one):
        call.places[name] = tuple(value)
    else:
        call.places[name] = (value,)


def _takes(bound: Bound, platform: str, word: str) -> bool:
    """Whether a loss's call has an argument of this name."""
    if bound.combined is not None:
        names = [*bound.combined.names, *bound.combined.inputs]
        return word in names or any(word.startswith(f"{n}_") for n in bound.combined.names)
    known = {*CALL_KEYWORDS, *aliases(bound.specs[0], platform)}
    for spec in bound.specs:
        known |= {*spec.inputs, *spec.ports}
    return word in known or (platform == "jax" and word in ("where", "params"))


def _call_text(bound: Bound, children: Mapping[str, Bound], platform: str) -> str:
    """The call that works."""
    combined = bound.combined
    assert combined is not None
    given = {name: _inputs_text(child, platform) for name, child in children.items()}
    rest = [f"{name}={name}" for name in combined.inputs]
    if bound.specs[0].step:
        rest.append("step=step")
    if platform == "jax" and (
        bound.specs[0].weights or any(child.specs[0].weights for child in children.values())
    ):
        rest.append("params=params")
    if all(name.isidentifier() and _ordinary(name) for name in given):
        return f"loss({', '.join([*(f'{n}={x}' for n, x in given.items()), *rest])})"
    pairs = ", ".join(f"{name!r}: {x}" for name, x in given.items())
    return f"loss({', '.join([f'{{{pairs}}}', *rest])})"


def _inputs_text(child: Bound, platform: str) -> str:
    if child.combined is not None:
        pairs = (f"{n!r}: ..." for n in child.combined.names)
        return f"{{{', '.join(pairs)}}}"
    spec = child.specs[0]
    order = positional_order(spec, platform)
    if order and not spec.ports and not (spec.weights and platform == "jax"):
        return f"({', '.join(order)}{',' if len(order) == 1 else ''})"
    return f"{{{', '.join(f'{n!r}: {n}' for n in (*spec.inputs, *spec.ports))}}}"


def coefficient_inputs(
    bound: Bound, name: str, own: Mapping[str, Any]
) -> tuple[Spec, tuple[tuple[str, Any], ...], dict[str, Any]]:
    """The loss that is the coefficient of one term, its parameters, and what it is called with.

    ``own`` holds the combination's inputs, its weights, and the step as ``moment``.
    """
    assert bound.combined is not None
    spec, numbers = bound.combined.coefficients[name], dict(bound.numbers[0])
    known = {**numbers, **own}
    return (
        spec,
        tuple((key, numbers[key]) for key in spec.params),
        {key: known[key] for key in spec.inputs},
    )
