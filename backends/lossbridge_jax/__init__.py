"""The JAX backend: one frozen, hashable class and one function for each loss of the catalogue.

Classes reduce to a mean; functions, whose names are those of the specifications, do not reduce.
Nothing is traced at import: a loss is compiled when it is first called.
"""

from __future__ import annotations

from typing import Any

from lossbridge.frontdoor import forms, nearest_name
from lossbridge_jax.native import (
    Loss,
    as_hf,
    checked,
    class_of,
    compile,
    function_of,
    reduce,
)

_classes: dict[str, Any] = {name: class_of(form) for name, form in forms().items()}
_functions: dict[str, Any] = {f.__name__: f for f in map(function_of, _classes.values())}

globals().update(_classes)
globals().update(_functions)

__all__ = [  # noqa: PLE0604 - the names are strings
    "Loss",
    "as_hf",
    "checked",
    "compile",
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
