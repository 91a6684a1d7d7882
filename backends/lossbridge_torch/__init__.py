"""The PyTorch backend: lowering table, wrapper and probe."""

from __future__ import annotations

from typing import Any

from lossbridge.frontdoor import forms, nearest_name
from lossbridge_torch.native import Loss, as_hf, class_of, compile, reduce

_CLASSES = {name: class_of(form) for name, form in forms().items()}
globals().update(_CLASSES)

__all__ = [*_CLASSES, "Loss", "as_hf", "compile", "reduce"]  # pyright: ignore


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"module 'lossbridge.torch' has no attribute {name!r}{nearest_name(name, _CLASSES)}"
    )
