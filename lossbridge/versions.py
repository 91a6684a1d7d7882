"""Versions of the frameworks, and ranges of them such as ``">=2.18, <2.22"``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from importlib import metadata

from lossbridge.errors import ArgumentError, shown

# Each operator with its comparison; the version of the environment stands on the left.
_OPERATORS: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\d{1,9}(?:\.\d{1,9}){0,5})\s*", re.ASCII)
_RELEASE = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,5}", re.ASCII)


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: ``2.13.0+cpu`` and ``2.13`` are both (2, 13)."""
    found = _RELEASE.match(version)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def within(version: str, accepted: str) -> bool:
    """Whether ``version`` lies in a range; an empty range holds every version."""
    return all(
        _OPERATORS[symbol](release(version), release(bound)) for symbol, bound in clauses(accepted)
    )


def clauses(accepted: str) -> list[tuple[str, str]]:
    """The comparisons of a range, as operator and version."""
    found = []
    for part in accepted.split(",") if accepted.strip() else ():
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise ArgumentError(
                f"version range {shown(accepted)} is not understood, expected for example "
                "'>=2.18, <2.22'"
            )
        found.append((match.group(1), match.group(2)))
    return found


def install(extra: str) -> str:
    """The command that installs what an extra adds: of the index, which has no lossbridge yet."""
    wanted = f"extra == {extra!r}"
    rows = [row.partition(";") for row in metadata.requires("lossbridge") or ()]
    names = [n.strip() for n, _, marker in rows if marker.strip().replace('"', "'") == wanted]
    return "pip install " + " ".join(f'"{name}"' for name in names)
