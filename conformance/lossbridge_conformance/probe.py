"""What a platform shows to this suite: its probe. Nothing else of a platform is ever touched.

A backend registers its probe in the entry-point group :data:`GROUP`; a third party does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossbridge.spec import Spec

Array: TypeAlias = NDArray[Any]

GROUP = "lossbridge.backends"


@dataclass(frozen=True)
class PortSpec:
    """A network given as a specification, so that the oracle can evaluate it too.

    ``arguments`` are the inputs of ``spec`` that take the port's arguments, in order; ``constants``
    are its other inputs (the network's weights, one array each, given in the compute dtype). A port
    that returns several maps states their lengths in ``maps``: it returns the pieces, of those
    lengths, of the last dimension of the value.
    """

    spec: Spec
    arguments: tuple[str, ...]
    constants: Mapping[str, Array] = field(default_factory=dict)
    maps: tuple[int, ...] = ()


class Subject(Protocol):
    """A loss on a platform, with its settings."""

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        dtype: str,
        mode: str,
        wrt: tuple[str, ...] = (),
        call: Mapping[str, Any] = {},
    ) -> dict[str, Any]:
        """``{"value": array, "gradients": {name: array}}`` for unit incoming gradient.

        Real inputs come as float64 arrays of values that ``dtype`` holds exactly, integers as
        int64, truth values as bool; results go back as float64, widened exactly. ``wrt`` may name
        inputs and trainable weights. ``call`` may hold ``sample_weight``, ``mask``,
        ``normalizer_count`` and ``step``.
        """
        ...


class Probe(Protocol):
    """A platform."""

    name: str
    modes: tuple[str, ...]

    def versions(self) -> dict[str, str]:
        """The packages that decide its results, and their versions."""
        ...

    def subject(
        self,
        spec: Spec,
        params: Mapping[str, Any],
        *,
        reduction: str = "none",
        normalizer: str | None = None,
        weights: Mapping[str, Array] = {},
        ports: Mapping[str, PortSpec] = {},
    ) -> Subject:
        """One of our losses. A parameter may be a number, or an array where its kind has axes."""
        ...


class NativeProbe(Probe, Protocol):
    """A platform that also shows its framework's own losses, which a backend need not do."""

    def native(self, name: str, arguments: Mapping[str, Any], order: tuple[str, ...]) -> Subject:
        """A built-in by the name of its witness, made with ``arguments``, its reduction off.

        ``order`` names the inputs, as its witness calls them, in the order in which it takes them.
        It may raise on inputs that it refuses, and where a gradient is asked for that it lacks.
        """
        ...


def registered() -> dict[str, EntryPoint]:
    """The probes of all installed backends, by name, none of them loaded."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def as_arrays(values: Any) -> Any:
    """A result as float64 arrays, whatever a probe returned it as; maps and lists stay."""
    if isinstance(values, Mapping):
        return {name: as_arrays(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [as_arrays(value) for value in values]
    return np.asarray(values, np.float64)
