"""The JAX backend: one frozen, hashable class and one function for each loss of the catalogue.

Classes reduce to a mean; functions, whose names are those of the specifications, do not reduce.
Nothing is traced at import: a loss is compiled when it is first called.
"""

from __future__ import annotations

from typing import Any

from lossbridge.combine import COMBINATIONS
from lossbridge.frontdoor import forms, nearest_name
from lossbridge_jax.native import (
    Loss,
    as_hf,
    checked,
    class_of,
    combination_of,
    compile,
    functions_of,
    reduce,
)
from lossbridge_jax.original import native

_classes: dict[str, Any] = {name: class_of(form) for name, form in forms().items()}
_functions: dict[str, Any] = {
    function.__name__: function for form in forms().values() for function in functions_of(form)
}
_classes.update((name, combination_of(made)) for name, made in COMBINATIONS.items())

globals().update(_classes)
globals().update(_functions)

__all__ = [
    "Loss",
    "as_hf",
    "checked",
    "compile",
    "native",
    "reduce",
    *_classes,
    *_functions,
]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise AttributeError(
        f"lossbridge.jax has no {name!r}{nearest_name(name, __all__)}; its names are those of the "
        "catalogue (python -m lossbridge list)"
    )
