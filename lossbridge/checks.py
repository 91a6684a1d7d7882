"""Checks shared by the parts of a specification; each raises a typed error that says what works."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any, Final

from lossbridge.divisors import DIVISORS
from lossbridge.errors import SpecError, listed, shown, suggestion
from lossbridge.kinds import MAX_RANK, Kind, check_name
from lossbridge.text import MAX_INTEGER

MAX_STRING: Final = 256
MAX_SUMMARY: Final = 4096
MAX_ENTRIES: Final = 64  # inputs, params, weights, ports, uses, references: each
MAX_USES_DEPTH: Final = 8
MAX_SPECS: Final = 256  # in one specification, each use counted, so sharing cannot double it
MAX_EXPONENT: Final = 64.0
MAX_SIZE: Final = 2**31 - 1
MAX_EXTENSION: Final = 65536
MAX_ARRAY: Final = 65536  # numbers in the default of one parameter

YIELDS: Final = ("per_element", "per_sample", "per_pair", "per_triplet", "scalar")
REDUCTIONS: Final = ("mean", "sum", "none")
NORMALIZERS: Final = tuple(DIVISORS)
EMPTY: Final = ("nan", "zero")
PRECISIONS: Final = ("at_least_float32", "at_least_float64")
"""Dtype policies, narrow to wide."""
CASTS: Final = ("floating", "float16", "bfloat16", "float32", "float64")
"""To what a loss casts its inputs: what is not floating to a platform's default, or all to one."""
OUTSIDES: Final = ("formula",)
"""What a loss gives outside the domains of its inputs, where it does not refuse."""
MASKINGS: Final = ("multiply",)
"""What a mask does to a value that does not count, where it does not leave it out."""

INITS: Final = ("zeros", "ones", "normal", "uniform", "glorot_normal", "glorot_uniform")


def literal(value: object, kind: Kind, what: str, usual: object = None) -> float | int | bool:
    """``value`` as the Python type of ``kind``, if it is in its domain; ``usual`` is a default."""
    wanted = "true or false" if kind.dtype == "bool" else "a number"
    if not isinstance(value, bool | int | float) or isinstance(value, bool) != (
        kind.dtype == "bool"
    ):
        raise schema_error(
            f"{what} must be {wanted}, for its kind is {kind}, but {shown(value)} was given",
            "wrong_type",
        )
    # Infinity is refused for log_probability too: a parameter is a finite number.
    finite = isinstance(value, int) or math.isfinite(value)
    if not finite or value not in kind or (isinstance(value, int) and abs(value) >= MAX_INTEGER):
        raise semantic_error(
            f"{what} is {shown(value)}, but a {kind.name} is {kind.meaning}"
            + ("" if finite else ", and finite")
            + f"; {example(kind, usual)} would do",
            "domain",
        )
    if kind.dtype == "bool":
        return bool(value)
    return int(value) if kind.dtype == "int" else float(value)


def array_literal(
    value: object, kind: Kind, what: str = "the default of a parameter", usual: object = None
) -> Any:
    """A number as :func:`literal` gives it, or nested lists of them as tuples of one shape."""
    if not isinstance(value, list | tuple):
        return literal(value, kind, what, usual)
    shape = _shape(value, kind, what)
    if math.prod(shape) > MAX_ARRAY:
        raise schema_error(
            f"{what} holds {math.prod(shape)} numbers, but at most {MAX_ARRAY} are read", "too_many"
        )
    return _rows(value, shape, kind, what)


def _shape(value: object, kind: Kind, what: str) -> tuple[int, ...]:
    shape: list[int] = []
    star = any(axis.startswith("*") for axis in kind.axes)
    while isinstance(value, list | tuple):
        shape.append(len(value))
        if not value or len(shape) > (MAX_RANK if star else len(kind.axes)):
            break
        value = value[0]
    wrong = len(shape) > MAX_RANK if star else len(shape) != len(kind.axes)
    if not kind.axes or 0 in shape or wrong:
        raise schema_error(
            f"{what} is {kind}, so it is a number"
            + (f" or lists nested {len(kind.axes)} deep, none empty" if kind.axes else "")
            + f", but {shown(value)} nested {len(shape)} deep was given",
            "wrong_type",
        )
    return tuple(shape)


def _rows(value: object, shape: tuple[int, ...], kind: Kind, what: str) -> Any:
    if not shape:
        return literal(value, kind, what)
    if not isinstance(value, list | tuple) or len(value) != shape[0]:
        raise schema_error(f"{what} is an array whose rows differ in length", "wrong_type")
    return tuple(_rows(item, shape[1:], kind, what) for item in value)


def array_of(value: tuple[Any, ...], kind: Kind) -> Any:
    """A checked default as an array; only here does a specification need NumPy."""
    import numpy as np

    return np.asarray(value, {"real": "float64", "int": "int64", "bool": "bool"}[kind.dtype])


_EXAMPLES: Final = {
    "sign": "1.0",
    "log_probability": "-0.5",
    "flag": "True",
    "mask": "True",
    "probability": "0.1",
}


def example(kind: Kind, usual: object = None) -> str:
    """A value of the kind that somebody would choose, for messages: a default, if it is not 0."""
    if isinstance(usual, int | float) and usual not in (0, True):
        return repr(usual)
    return _EXAMPLES.get(kind.name, "1" if kind.dtype == "int" else "1.0")


def as_number(value: object) -> float | int | bool | None:
    """Python and NumPy scalars as Python numbers; None for arrays and everything else."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    # NumPy's bool is the one scalar that registers with no abstract class.
    if type(value).__name__ in ("bool", "bool_") and getattr(value, "shape", None) == ():
        return bool(value)
    return None


def as_numbers(value: object) -> object:
    """``value``, Python numbers in place of NumPy's at every depth."""
    if isinstance(value, list | tuple):
        return [as_numbers(item) for item in value]
    scalar = as_number(value)
    return value if scalar is None else scalar


def check_kind(kind: Kind, what: str) -> None:
    """Refuse what is no kind, and maps, which only a port returns."""
    instance(kind, Kind, what)
    if kind.name == "maps":
        raise schema_error(f"{what} is {kind}, but only a port's output can be maps", "kind")


def instance(value: object, wanted: type, what: str) -> None:
    """Refuse a value of another type; Python callers can make one without a file."""
    if not isinstance(value, wanted):
        raise schema_error(
            f"{what} must be a {wanted.__name__}, but {shown(value)} was given", "wrong_type"
        )


def choice(value: object, options: tuple[str, ...], what: str) -> str:
    """``value`` if it is one of these words."""
    if not isinstance(value, str):
        raise schema_error(f"{what} must be a word, but {shown(value)} was given", "wrong_type")
    if value not in options:
        raise schema_error(
            f"{what} is {shown(value)}, which must be one of {listed(options)}"
            f"{suggestion(value, options)}",
            "unknown_choice",
        )
    return value


# Terminal escapes, and characters that hide text or change its direction. Line feeds may stay.
_HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def prose(value: object, most: int, what: str) -> str:
    """``value`` if it is text that a terminal or a page shows as it is."""
    if not isinstance(value, str):
        raise schema_error(f"{what} must be text, but {shown(value)} was given", "wrong_type")
    if len(value) > most:
        raise schema_error(
            f"{what} has {len(value)} characters, but at most {most} are read", "too_long"
        )
    found = _HIDDEN.search(value)
    if found is not None or _has_surrogate(value):
        character = shown(found[0]) if found is not None else "a lone surrogate"
        raise schema_error(
            f"{what} holds {character}, which a reader cannot see; leave it out",
            "hidden_character",
        )
    return value


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def split_id(text: object) -> tuple[str | None, str, int]:
    """Name space, name and version of ``"focal@1"`` or ``"acme/focal@1"``."""
    found = None
    if isinstance(text, str) and len(text) <= MAX_STRING:
        found = re.fullmatch(r"(?:([^/@]+)/)?([^/@]+)@([1-9][0-9]{0,8})", text, re.ASCII)
    if found is None:
        raise schema_error(
            f"{shown(text)} is not the id of a loss; an id is a name and a version, such as "
            '"focal@1" in the catalogue or "acme/focal@1" elsewhere',
            "id",
        )
    space, name, version = found.groups()
    if space is not None:
        check_name(space, "the name space of an id")
    return space, check_name(name, "the name in an id"), int(version)


def too_many(count: int, what: str) -> SpecError:
    """The error for a section with too many entries."""
    return schema_error(
        f"{count} {what} were given, but at most {MAX_ENTRIES} are read", "too_many"
    )


def schema_error(message: str, code: str) -> SpecError:
    """An error about what a specification looks like."""
    return SpecError(message, phase="schema", code=code)


def semantic_error(message: str, code: str) -> SpecError:
    """An error about what a specification means."""
    return SpecError(message, phase="semantic", code=code)
