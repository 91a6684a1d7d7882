"""Typed stubs of the three front doors and the table of call forms, from the catalogue.

The classes are made when a backend is imported, so type checkers and editors read these instead:
they catch ``FocalLoss(gama=1)`` and complete ``gamma=``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossbridge.combine import COMBINATIONS
from lossbridge.divisors import DIVISORS
from lossbridge.frontdoor import (
    ALIASES,
    Form,
    aliases,
    call_text,
    forms,
    has_target,
    positional_order,
)
from lossbridge.spec import Spec

REDUCTIONS = 'Literal["none", "mean", "sum"]'
NORMALIZERS = "Literal[" + ", ".join(f'"{name}"' for name in DIVISORS) + "]"
EMPTY = 'Literal["nan", "zero"]'


SAID = (
    "    @property\n    def spec(self) -> Spec: ...\n"
    "    @property\n    def specs(self) -> tuple[Spec, ...]: ...\n"
    "    @property\n    def source(self) -> str: ...\n"
    "    @property\n    def bound(self) -> Bound: ...\n"
    "    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...\n"
    "    def term_coefficients(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...\n"
)
"""What every loss says of itself."""


@dataclass(frozen=True)
class Style:
    """How one platform writes types and calls."""

    imports: str
    array: str
    base: str
    common: str  # members every loss has
    functions: str
    reductions: str = REDUCTIONS
    constructor: str = ""  # further keyword arguments of every constructor
    call: str = "__call__"
    call_extra: str = ""
    layer: str = ""  # base and members of LossLayer, where a platform has two kinds of object
    layer_constructor: str = ""
    made: str = "Any"  # what ``compile`` and ``native`` give
    result: str = "Any"  # what a call gives


STYLES: Mapping[str, Style] = {
    "torch": Style(
        imports="from torch import Tensor, nn",
        array="Tensor",
        base="nn.Module",
        common="    forward: Callable[..., Tensor]\n    __call__: Callable[..., Tensor]\n"
        "    def advance(self, steps: int = ...) -> None: ...\n"
        "    def reset_parameters(self) -> None: ...\n",
        functions=(
            "def as_hf(loss: nn.Module, shift_labels: bool = ...) -> Callable[..., Tensor]: ...\n"
        ),
        reductions='Literal["none", "mean", "sum", "batchmean"]',
        made="Loss",
        result="Tensor",
    ),
    "keras": Style(
        imports="import keras",
        array="Any",
        base="keras.losses.Loss",
        common="    def call(self, y_true: Any, y_pred: Any) -> Any: ...\n"
        "    def get_config(self) -> dict[str, Any]: ...\n",
        functions=(
            "def as_hf(loss: Any, shift_labels: bool = ...) -> Callable[..., Any]: ...\n"
            "def with_loss(\n    model: keras.Model,\n    loss: LossLayer,\n    *,\n"
            "    ports: Mapping[str, Any] | None = ...,\n    name: str | None = ...,\n"
            ") -> keras.Model: ...\n"
        ),
        reductions=(
            'Literal["none", "mean", "sum", "batchmean", "sum_over_batch_size",\n'
            '    "mean_with_sample_weight"] | None'
        ),
        constructor=", name: str | None = ..., dtype: Any = ...",
        layer=f"class LossLayer(keras.layers.Layer):\n{SAID}"
        "    def weight(self, name: str) -> keras.Variable: ...\n"
        "    def bind_step(self, iterations: Any) -> LossLayer: ...\n"
        "    def get_config(self) -> dict[str, Any]: ...\n\n",
        layer_constructor=", add_loss: bool = ..., trainable: bool = ...",
    ),
    "jax": Style(
        imports="import jax",
        array="ArrayLike",
        base="Hashable",
        common="    __call__: Callable[..., jax.Array]\n    def __hash__(self) -> int: ...\n"
        "    def init(self, key: jax.Array) -> Any: ...\n",
        functions=(
            "def as_hf(loss: Any, shift_labels: bool = ...) -> Callable[..., jax.Array]: ...\n"
            "def checked(loss: Any) -> Callable[..., Any]: ...\n"
        ),
        reductions='Literal["none", "mean", "sum", "batchmean"]',
        call_extra=", where: ArrayLike | None = ..., params: Any = ...",
        made="Loss",
        result="jax.Array",
    ),
}


def is_layer(form: Form) -> bool:
    """Whether Keras has a layer of this form: its losses are of (y_true, y_pred) alone."""
    definition: Any = form.definitions[0]
    more = definition.weights or definition.ports
    more = more or definition.settings["step"] or definition.settings["uses"]
    return bool(len(definition.inputs) != 2 or more or not has_target(definition))


def _number(kind: Any) -> str:
    return {"flag": "bool", "integer": "int"}.get(kind.name, "float")


def _constructor(form: Form, style: Style) -> str:
    parts = ["self", *(f"{size}: int" for size in form.sizes)]
    required = [n for n, p in form.params.items() if p.value is None]
    ordered = [*required, *(n for n in form.params if n not in required)]
    for name in ordered:
        param = form.params[name]
        number = _number(param.kind)
        array = f" | {style.array}" if number == "float" else ""
        optional = " | Sequence[float] | None" if param.kind.axes else ""
        default = (
            "" if name in required else (" = ..." if param.kind.axes else f" = {param.value!r}")
        )
        parts.append(f"{name}: {number}{array}{optional}{default}")
    parts.append("*")
    parts.append(f"reduction: {style.reductions} = ...")
    parts.append(f"normalizer: {NORMALIZERS} | None = ...")
    if form.has_axis:
        parts.append("axis: int | None = ...")
    parts.append(f"empty: {EMPTY} | None = ...")
    body = ",\n        ".join(parts)
    more = style.constructor + (style.layer_constructor if is_layer(form) else "")
    return f"    def __init__(\n        {body}{more},\n    ) -> None: ...\n"


def _settings(form: Form, style: Style) -> str:
    """The constructor's arguments, as the attributes that they are."""
    found = dict.fromkeys(form.sizes, "int")
    for name, param in form.params.items():
        number = _number(param.kind)
        array = f" | {style.array}" if number == "float" else ""
        found[name] = f"{number}{array}{' | None' if param.kind.axes else ''}"
    if style.layer and is_layer(form):
        found.pop("weight", None)  # a method of a Keras layer
    if form.has_axis:
        found["axis"] = "int | None"
    return "".join(f"    {name}: {text}\n" for name, text in found.items())


def _calls(form: Form, platform: str, style: Style) -> str:
    spec = form.definitions[0].spec
    result = style.result
    names = list(spec.inputs)
    order = list(positional_order(spec, platform))
    tail = [
        f"sample_weight: {style.array} | None = ...",
        f"mask: {style.array} | None = ...",
        f"normalizer_count: {style.array} | float | None = ...",
    ]
    if spec.step:
        tail.append(f"step: {style.array} | int | None = ...")
    tail = [*(f"{port}: Callable[..., Any]" for port in spec.ports), *tail]
    tree = any(kind.name == "tree" for kind in spec.inputs.values())
    variants: list[list[str]] = []
    if order:
        variants.append(order)
    else:
        variants.append([])
    aliased = {name: alias for alias, name in aliases(spec, platform).items()}
    if aliased and order:
        variant = [aliased.get(n, n) for n in order]
        if variant != order:
            variants.append(variant)
    lines: list[str] = []
    for variant in variants:
        arguments = ["self", *(f"{n}: {'Any' if tree else style.array}" for n in variant), "*"]
        if not order:
            arguments += [f"{n}: {style.array}" for n in names]
        if len(variants) > 1:
            lines.append("    @overload\n")
        text = ", ".join([*arguments, *tail])
        lines.append(f"    def {style.call}({text}{style.call_extra}) -> {result}: ...\n")
    return "".join(lines)


def _reduce(style: Style) -> str:
    array = f"{style.array} | None = ..."
    lines = [
        f"values: {style.array}",
        "*",
        *(f"{name}: {array}" for name in ("mask", "where", "sample_weight", "weights")),
        'reduction: Literal["none", "mean", "sum"] = ...',
        f"normalizer: {NORMALIZERS} | None = ...",
        f"normalizer_count: float | {array}",
        f"denominator: str | float | {array}",
    ]
    body = ",\n    ".join(lines)
    return f"def reduce(\n    {body},\n) -> {style.result}: ...\n"


def stub(platform: str) -> str:
    """The text of a backend's ``__init__.pyi``."""
    style = STYLES[platform]
    head = [
        f'"""Losses for {platform}. Generated by tools/regen.py; do not edit."""\n\n',
        "from collections.abc import Callable, Hashable, Mapping, Sequence\n"
        "from pathlib import Path\n"
        "from typing import Any, Literal, overload\n\n",
        style.imports + "\n",
        "from jax.typing import ArrayLike\n" if platform == "jax" else "",
        "\nfrom lossbridge.frontdoor import Bound\n"
        "from lossbridge.spec import Spec\n"
        "from lossbridge.trace import Definition\n\n",
    ]
    lines = [
        f"class Loss({style.base}):\n"
        f"{SAID}"
        "    reduction: str\n    normalizer: str\n    empty: str\n" + style.common + "\n",
        style.layer,
        "def compile(source: Spec | Definition | str | Path, **settings: Any)"
        f" -> {style.made}: ...\n"
        "def native(name: str, /, *arguments: Any, version: str | None = ..., **keywords: Any)"
        f" -> {style.made}: ...\n",
        _reduce(style),
        style.functions + "\n",
    ]
    for form in forms().values():
        base = "LossLayer" if style.layer and is_layer(form) else "Loss"
        lines.append(f"class {form.name}({base}):\n")
        summary = form.doc.splitlines()[0] if form.doc else ""
        lines.append(f'    """{summary}"""\n\n')
        lines.append(_settings(form, style))
        lines.append(_constructor(form, style))
        lines.append(_calls(form, platform, style))
        lines.append("\n")
    for combination in COMBINATIONS.values():
        base = "LossLayer" if style.layer else "Loss"
        lines.append(f"class {combination.name}({base}):\n")
        lines.append(f'    """{combination.doc}"""\n\n')
        rest = {
            "coefficients": "Mapping[str, float] | None = ...",
            "schedules": "Mapping[str, tuple[float, float, float, float]] | None = ...",
            "temperature": "float = ...",
        }
        arguments = ", ".join(
            "losses: Mapping[str, Any]" if a == "losses" else f"{a}: {rest[a]}"
            for a in combination.arguments
        )
        more = style.constructor + style.layer_constructor
        lines.append(f"    def __init__(self, {arguments}{more}) -> None: ...\n")
        result = style.result
        lines.append(f"    def {style.call}(self, **inputs: Any) -> {result}: ...\n\n")
    if platform == "jax":
        for form in forms().values():
            for definition in form.definitions:
                lines.append(
                    f"def {definition.spec.name}(*args: ArrayLike, **settings: Any)"
                    " -> jax.Array: ...\n"
                )
    body = "".join(lines)
    # Written out: of names that a stub only declares, the front door's `import *` takes none.
    names = sorted(set(re.findall(r"^(?:class|def) (\w+)", body, re.MULTILINE)))
    exported = "".join(f'    "{name}",\n' for name in names)
    return "".join(head) + f"__all__ = [\n{exported}]\n\n" + body


# --- the table of call forms ---------------------------------------------------------------------


def _state(spec: Spec, form: Form) -> str:
    arrays = [name for name, p in form.params.items() if p.kind.axes]
    keys = [*spec.weights, *(f"{a} (if given)" for a in arrays)]
    if spec.step:
        keys.append("step")
    return (
        ", ".join(f"`{k}`" if "(" not in k else f"`{k.split()[0]}` (if given)" for k in keys) or "-"
    )


def call_forms() -> str:
    """``docs/call-forms.md``: constructor, call and state per class and platform."""
    lines = [
        "# Call forms",
        "",
        "Generated by `tools/regen.py`. The constructor is the same on every platform, and so is",
        "every call by keyword; positional order follows the framework. Inputs have aliases: "
        + "; ".join(f"{p}: `{a}` and `{b}`" for p, (a, b) in ALIASES.items())
        + ", for a prediction and its target.",
        "Every call also takes `sample_weight`, `mask` (on JAX also `where`) and, with",
        '`normalizer="external"`, `normalizer_count`. State keys are a torch `state_dict`\'s;',
        "in JAX the trainable ones are the keys of `params`, in Keras the names of the weights.",
        "",
        "| class | constructor | torch | Keras | JAX | state |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for form in forms().values():
        spec = form.definitions[0].spec
        settings = [
            *form.sizes,
            *(
                name if p.value is None else f"{name}={'None' if p.kind.axes else p.value}"
                for name, p in form.params.items()
            ),
        ]
        settings.append(f'reduction="{form.reduction.kind}"')
        settings.append(f'normalizer="{form.reduction.normalizer}"')
        if form.has_axis:
            settings.append("axis=None")
        lines.append(
            f"| `{form.name}` | `{', '.join(settings)}` | "
            + " | ".join(f"`{call_text(spec, p)}`" for p in ("torch", "keras", "jax"))
            + f" | {_state(spec, form)} |"
        )
    for c in COMBINATIONS.values():
        call = "`loss(name=(inputs), ...)`"
        lines.append(
            f"| `{c.name}` | `{', '.join(c.arguments)}` | {call} | {call} | {call} | "
            "those of its losses, under `losses.NAME` |"
        )
    return "\n".join(lines) + "\n"
