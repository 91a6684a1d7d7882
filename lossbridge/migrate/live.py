"""Live objects of the frameworks -> their meaning. Reads attributes; imports no framework."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossbridge.errors import ArgumentError, shown, suggestion
from lossbridge.spec import Spec
from lossbridge.witnesses import find, witnesses
from lossbridge.witnesses.witness import Meaning, Witness


@dataclass(frozen=True)
class Native:
    """A built-in with its arguments: what a live object was made of."""

    witness: Witness
    arguments: Mapping[str, Any]

    @property
    def meaning(self) -> Meaning:
        """What it computes."""
        return self.witness.meaning(**self.arguments)

    @property
    def given(self) -> Mapping[str, Any]:
        """All its arguments, the defaults too."""
        parameters = self.witness.signature.parameters.items()
        return {**{n: p.default for n, p in parameters}, **self.arguments}

    @property
    def text(self) -> str:
        """The expression that makes it, with the arguments that are not its defaults."""
        defaults = {n: p.default for n, p in self.witness.signature.parameters.items()}
        given = [
            f"{n}={short(v)}"
            for n, v in self.arguments.items()
            if n not in ("name", "dtype") and not same(v, defaults.get(n))
        ]
        return f"{self.witness.name}({', '.join(given)})"


def same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal, arrays too."""
    if a is b:
        return True
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    try:
        return bool(np.array_equal(np.asarray(a), np.asarray(b)))
    except Exception:  # what is no array at all
        return False


def short(value: Any) -> str:
    """An argument as it is written, cut where it is long."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def from_native(obj: Any, *, version: str | None = None) -> Spec:
    """The specification of a live built-in loss, with all its arguments.

    ``obj`` is an instance of a loss of ``torch.nn`` or ``keras.losses``, or a function of
    ``optax.losses``, as it is or in a :func:`functools.partial`. Where the dtype of the targets
    decides between two meanings, this is the first of them: integer labels.

    Raises :class:`ArgumentError` for anything else, subclasses included: what those compute, only
    their authors know.
    """
    return native(obj, version=version).meaning.spec


def native(obj: Any, *, version: str | None = None) -> Native:
    """The built-in behind a live object, and its arguments."""
    keywords: dict[str, Any] = {}
    positional: tuple[Any, ...] = ()
    inner = obj
    while isinstance(inner, functools.partial):
        keywords = {**inner.keywords, **keywords}
        positional = (*inner.args, *positional)
        inner = inner.func
    inner = inspect_wrapped(inner)
    name = name_of(inner)
    if name is None:
        raise ArgumentError(
            f"{shown(type(obj).__name__)} is no loss of torch.nn, keras.losses or optax.losses; "
            "give one of their objects, or compare it as a plain callable: "
            'compare(f, g, inputs={"prediction": "real[*batch]", "target": "real[*batch]"})'
        )
    witness = find(name, version)
    if witness.module != "optax.losses":
        return Native(witness, _attributes(witness, obj))
    if positional:
        raise ArgumentError(
            f"{name} in a partial has {len(positional)} positional arguments, which are its "
            "inputs; bind settings by name, such as functools.partial(f, delta=2.0)"
        )
    options = list(witness.signature.parameters)
    for key in keywords:
        if key not in options:
            raise ArgumentError(
                f"{name} is bound with {shown(key)}, which is none of its settings: "
                f"{', '.join(options) or 'none'}{suggestion(key, options)}"
            )
    return Native(witness, keywords)


def inspect_wrapped(obj: Any) -> Any:
    """What a decorator such as ``jax.jit`` or optax's deprecations stand around."""
    seen = 0
    while hasattr(obj, "__wrapped__") and not isinstance(obj, type) and seen < 10:
        if name_of(obj) is not None:
            return obj
        obj, seen = obj.__wrapped__, seen + 1
    return obj


def name_of(obj: Any) -> str | None:
    """The name of the witness of a class's instance, or of a function; None where there is none."""
    if isinstance(obj, type):
        return None
    home = obj if hasattr(obj, "__qualname__") else type(obj)  # a function, or an instance
    module, name = str(home.__module__), str(getattr(home, "__qualname__", ""))
    for prefix, public in (
        ("torch.nn.modules.", "torch.nn"),
        ("keras.src.losses.", "keras.losses"),
        ("keras.losses.", "keras.losses"),  # Keras 2
        ("tensorflow.python.keras.losses.", "keras.losses"),
        ("optax.losses.", "optax.losses"),
        ("optax.", "optax.losses"),
    ):
        if f"{module}.".startswith(prefix) and f"{public}.{name}" in witnesses():
            return f"{public}.{name}"
    return None


def _attributes(witness: Witness, obj: Any) -> dict[str, Any]:
    """The arguments an object was made with, from where the frameworks keep them.

    Keras keeps those of the function in ``_fn_kwargs``; its ``get_config`` loses some.
    """
    kept = dict(getattr(obj, "_fn_kwargs", {}))
    found: dict[str, Any] = {}
    for name, parameter in witness.signature.parameters.items():
        if name in witness.read:
            found[name] = witness.read[name](obj)
        elif name in kept:
            found[name] = kept[name]
        elif hasattr(obj, name):
            found[name] = getattr(obj, name)
        elif parameter.default is parameter.empty:
            raise ArgumentError(
                f"{witness.name}: this object does not keep its argument {name}; give the meaning "
                f'as text instead, such as "{witness.name}({name}=...)"'
            )
    if str(found.get("reduction")) == "auto":  # Keras 2's default; this, but under a strategy
        found["reduction"] = "sum_over_batch_size"
    if found.get("dtype") == "float32":  # Keras's default, which it does not tell from a choice
        found["dtype"] = None
    return found


__all__ = ["Native", "from_native", "native"]
