"""The losses, one file per family. Adding a loss means adding a function to its family's file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from types import ModuleType

from lossbridge.trace import Definition

FAMILIES = (
    "regression",
    "classification",
    "margin",
    "divergence",
    "segmentation",
    "metric",
    "sequence",
    "adversarial",
    "physics",
    "perceptual",
    "regularise",
    "learned",
)


def definitions_in(module: ModuleType) -> list[Definition]:
    """The losses a module defines, in the order in which they stand there."""
    return [value for value in vars(module).values() if isinstance(value, Definition)]


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Definition]:
    """Every loss by its id, such as ``focal@1``."""
    found: dict[str, Definition] = {}
    for family in FAMILIES:
        for definition in definitions_in(import_module(f"lossbridge.catalogue.{family}")):
            if definition.id in found:
                raise AssertionError(f"{definition.id} is defined twice")
            found[definition.id] = definition
    return found
