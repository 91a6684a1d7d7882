"""The Keras backend: one class for each loss of the catalogue.

A loss of (y_true, y_pred) is a ``keras.losses.Loss``, any other an endpoint layer. Nothing is
traced at import: a loss is compiled when it is first called.
"""

from __future__ import annotations

from typing import Any

from lossbridge.combine import COMBINATIONS
from lossbridge.frontdoor import forms, nearest_name
from lossbridge.witnesses import native_of
from lossbridge_keras.native import (
    Loss,
    LossLayer,
    as_hf,
    class_of,
    combination_of,
    compile,
    reduce,
    with_loss,
)

native = native_of(compile, own=("name",))

_classes: dict[str, Any] = {name: class_of(form) for name, form in forms().items()}
_classes.update((name, combination_of(made)) for name, made in COMBINATIONS.items())

globals().update(_classes)

__all__ = [
    "Loss",
    "LossLayer",
    "as_hf",
    "compile",
    "native",
    "reduce",
    "with_loss",
    *_classes,
]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise AttributeError(
        f"lossbridge.keras has no {name!r}{nearest_name(name, __all__)}; its names are those of "
        "the catalogue (python -m lossbridge list), and losses of logits need no from_logits"
    )
