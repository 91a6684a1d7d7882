"""What dtypes are taken for which kind of input, and which of them decide the precision.

One table for all platforms, which bring the names of their dtypes and carry out what is read here.

======================  =========================================================================
a dtype of              for an input that holds
======================  =========================================================================
floating numbers        real numbers: as they are; integers or truth values: refused
integers                real numbers: converted, but for the prediction, which is refused;
                        integers: as they are; truth values: not 0 is true
truth values            real numbers: 0 and 1, for a sign -1 and 1, but for the prediction, which is
                        refused; integers: 0 and 1; truth values: as they are
complex numbers         refused everywhere
======================  =========================================================================

A mask is of truth values, or of the integers 0 and 1. The precision is the predictions': targets,
sample weights, class weights and masks never widen it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from lossbridge.errors import DTypeError
from lossbridge.kinds import Kind

TARGETS: Final = ("target", "labels")
"""The inputs that say what a prediction should be; they never decide how it is computed."""


def family(dtype: str) -> str:
    """``bool``, ``int``, ``real`` or ``complex``: what the numbers of a dtype are."""
    if dtype.startswith("bool"):
        return "bool"
    if dtype.startswith(("int", "uint")):
        return "int"
    return "complex" if dtype.startswith("complex") else "real"


def reading(
    loss: str,
    key: str,
    kind: Kind,
    dtype: str,
    *,
    first: bool,
    cast: Callable[[str, str], str],
    advise: Callable[[], str] | None = None,
) -> str:
    """How an array of this dtype is brought to its kind: ``as_is``, ``real``, ``sign`` (-1 and 1
    of truth values), ``int`` or ``bool``.

    ``first``: it is what the loss is about, the prediction, which a dtype of integers tells to be
    something else. ``cast`` writes a cast as the platform does, of a name to a family, or to the
    ``parts`` of complex numbers.

    Raises :class:`DTypeError` where the dtype cannot carry what the kind states.
    """
    is_a = family(dtype)
    if is_a == "complex":
        raise DTypeError(
            f"{loss}: {key} is {kind}, but {dtype} was given; pass {cast(key, 'parts')}, or take a "
            "loss of each part"
        )
    wanted = kind.dtype
    if is_a == wanted:
        return "as_is"
    if wanted == "real" and not first:
        return "sign" if kind.name == "sign" and is_a == "bool" else "real"
    if is_a == "bool" and wanted == "int":
        return "int"
    if is_a == "int" and wanted == "bool":
        return "bool"
    what = {"real": "real numbers", "int": "integers", "bool": "truth values"}[wanted]
    raise DTypeError(
        f"{loss}: {key} is {kind}, which holds {what}, but {dtype} was given; pass "
        f"{cast(key, wanted)}{'' if advise is None else advise()}"
    )


def check_mask(loss: str, what: str, dtype: str) -> None:
    """Refuse a mask of numbers that are no truth values."""
    if family(dtype) in ("real", "complex"):
        raise DTypeError(
            f"{loss}: {what} selects, so it holds truth values or the integers 0 and 1, but "
            f"{dtype} was given; numbers that weigh go to sample_weight, and a mask is "
            f"{what} != 0"
        )


def check_weight(loss: str, dtype: str) -> None:
    """Refuse sample weights that are no real numbers, nor integers in their place."""
    if family(dtype) == "complex":
        raise DTypeError(f"{loss}: sample_weight holds real numbers, but {dtype} was given")


class Promotion(NamedTuple):
    """The inputs, weights and parameters that decide the precision, and those that the result has
    the dtype of."""

    computed: tuple[str, ...]
    given_back: tuple[str, ...]


def promotion(
    inputs: Mapping[str, Kind],
    weights: Iterable[str] = (),
    arrays: Iterable[str] = (),
    package: str = "",
    result: tuple[str, ...] = (),
) -> Promotion:
    """What decides in which precision a loss is computed, and in which it is given back.

    Ours, and Keras's, which casts everything to their dtype: the predictions, and trainable
    weights; the first prediction alone is given back. A built-in of another ``package`` promotes
    all its numbers, the parameters among ``arrays`` too, unless it is stated of which inputs its
    ``result`` has the dtype; optax then casts the others to that.
    """
    real = tuple(name for name, kind in inputs.items() if kind.dtype == "real")
    if package in ("", "keras"):
        predictions = [name for name in real if name not in TARGETS]
        # Where labels alone come in, what is trained is given back.
        trained = tuple(weights)
        return Promotion((*(predictions or real[:1]), *trained), real[:1] or trained[:1])
    every = (*real, *weights, *arrays)
    if package == "optax" and result:
        return Promotion(result, result)
    return Promotion(every, result or every)


def widest(dtypes: Iterable[str], least: str = "at_least_float32") -> str:
    """``float32``, or ``float64`` where one of the dtypes is or a loss asks for it."""
    return "float64" if least == "at_least_float64" or "float64" in dtypes else "float32"


_ORDER: Final = ("float16", "bfloat16", "float32", "float64")


def promoted(dtypes: Iterable[str]) -> str:
    """The dtype that holds numbers of all of these, as every framework has it; of none float32."""
    found = sorted(set(dtypes), key=lambda d: _ORDER.index(d) if d in _ORDER else -1)
    if {"float16", "bfloat16"} <= set(found) and found[-1] == "bfloat16":
        return "float32"
    return found[-1] if found else "float32"
