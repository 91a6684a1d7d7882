"""Witnesses: what every loss of torch.nn, keras.losses and optax.losses means, exactly.

One file for each framework. No framework is imported here: a witness is a fact about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module, metadata
from typing import Any, TypeVar

from lossbridge.errors import ArgumentError, listed, shown, suggestion
from lossbridge.versions import release, within
from lossbridge.witnesses.witness import FRAMEWORKS, Meaning, Witness

FILES: Mapping[str, str] = {
    "torch.nn": "torch_nn",
    "keras.losses": "keras_losses",
    "optax.losses": "optax_losses",
}


@lru_cache(maxsize=1)
def witnesses() -> Mapping[str, tuple[Witness, ...]]:
    """Every witness by the name under which users find the original, its version ranges in order.

    A name may have several, where the meaning moved between releases.
    """
    found: dict[str, tuple[Witness, ...]] = {}
    for module, file in FILES.items():
        for value in vars(import_module(f"lossbridge.witnesses.{file}")).values():
            if isinstance(value, Witness):
                if value.module != module:
                    raise AssertionError(f"{value.name} stands in {file}.py")
                found[value.name] = (*found.get(value.name, ()), value)
    return found


# Other ways to write the modules' names, which users copy from code.
_SPELLINGS = (
    (r"torch\.nn\.modules\.loss\.", "torch.nn."),
    (r"nn\.(?=[A-Z])", "torch.nn."),
    (r"(tensorflow|tf)\.(keras\.)?losses\.", "keras.losses."),
    (r"optax\.(?=[a-z0-9_]+$)", "optax.losses."),
    (r"optax\.losses\._[a-z]+\.", "optax.losses."),
    (r"keras\.src\.losses\.losses\.", "keras.losses."),
)


def canonical_name(name: str) -> str:
    """The name under which the witness of ``name`` is kept."""
    for pattern, replacement in _SPELLINGS:
        changed, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return changed
    return name


def _plain(name: str) -> str:
    """The last part of a name, however it is capitalised: mse_loss and MSELoss are one."""
    return name[-64:].rpartition(".")[2].replace("_", "").lower()


def _initials(name: str) -> str:
    """``mse`` of ``keras.losses.MeanSquaredError``."""
    return "".join(c for c in name.rpartition(".")[2] if c.isupper()).lower()


def find(name: str, version: str | None = None) -> Witness:
    """The witness of a built-in, for a version: the installed one, or else the newest known."""
    known = witnesses()
    found = known.get(canonical_name(name)) if isinstance(name, str) else None
    if found is None:
        wrong = canonical_name(str(name))
        # A function's name, for its class; or its initials, as Keras has them.
        near = [n for n in known if _plain(wrong) in (_plain(n), _initials(n))]
        near.sort(key=lambda n: n.partition(".")[0] != wrong.partition(".")[0])
        said = f"; did you mean {near[0]}?" if near else suggestion(str(name), known)
        raise ArgumentError(
            f"there is no built-in loss {shown(name)}; names are written as in Python, such as "
            f"'torch.nn.HuberLoss', 'keras.losses.Huber' or 'optax.losses.huber_loss'"
            f"{said}"
        )
    wanted = version or _installed(found[0].package)
    if wanted is None:
        return found[-1]
    if version is not None and not release(version):
        raise ArgumentError(f"version={shown(version)} is not a version, such as '2.13.0'")
    for witness in reversed(found):
        if within(wanted, witness.versions):
            return witness
    if version is None:
        return found[-1]  # an installed release outside every range: the nearest there is
    raise ArgumentError(
        f"what {found[0].name} means is known for versions {listed(w.versions for w in found)}, "
        f"but version={shown(version)} was given"
    )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


T = TypeVar("T")


def native_of(compile: Callable[..., T], own: tuple[str, ...] = ()) -> Callable[..., T]:
    """The ``native`` of a front door, given its ``compile``.

    ``own`` names arguments that the objects of this platform take too, with the same sense.
    """

    def native(name: str, /, *arguments: Any, version: str | None = None, **keywords: Any) -> T:
        """The exact meaning of a built-in loss of torch.nn, keras.losses or optax.losses, here.

        ``name`` is written as in Python, such as ``"keras.losses.Tversky"``; the arguments are
        those of the original, by position or by name. The result is called as this platform calls
        losses. ``version`` picks a release of the original: the installed one by default, else the
        newest known.

        Raises :class:`ArgumentError` for an unknown name, argument or version.
        """
        witness = find(name, version)
        meaning = witness.meaning(*arguments, **keywords)
        given = witness.arguments(*arguments, **keywords)
        shared = {n: given[n] for n in own if n in given}
        return compile(meaning.form(witness.name.rpartition(".")[2]), **meaning.unread, **shared)

    return native


__all__ = ["FRAMEWORKS", "Meaning", "Witness", "find", "native_of", "witnesses"]
