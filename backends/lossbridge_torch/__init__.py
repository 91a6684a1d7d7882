"""The PyTorch backend: lowering table, wrapper and probe.

The classes come from the catalogue; making them traces nothing.
"""

from __future__ import annotations

from typing import Any

from lossbridge.combine import COMBINATIONS
from lossbridge.frontdoor import forms, nearest_name
from lossbridge.witnesses import native_of
from lossbridge_torch.native import (
    Loss,
    as_hf,
    class_of,
    combination_class,
    compile,
    reduce,
)

native = native_of(compile)

_CLASSES: dict[str, Any] = {
    **{name: class_of(form) for name, form in forms().items()},
    **{name: combination_class(c) for name, c in COMBINATIONS.items()},
}
globals().update(_CLASSES)

__all__ = ["Loss", "as_hf", "compile", "native", "reduce", *_CLASSES]


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"lossbridge.torch has no {name!r}{nearest_name(name, _CLASSES)}; every class is listed by "
        "`lossbridge list`"
    )
