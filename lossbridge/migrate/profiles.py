"""Profiles: what a comparison leaves out, by name, because training never meets it.

``training`` is the default: two losses are one function to who trains with them, whatever they give
for infinite logits or in the derivative of a label. ``strict`` leaves out nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from lossbridge.errors import ArgumentError, shown
from lossbridge.migrate.probes import HIDDEN, Probe, named_as_target

LABELS: Final = frozenset(("binary", "sign", "one_hot", "mask", "flag"))
"""Domains of inputs in which nobody takes a gradient."""

EXTREMES = "infinities, NaN, 1e30 and saturation at 1000"
OUTSIDE = "labels outside the data"
NOTHING = "empty and fully masked batches"
UNDER_A_MASK = "NaN under a mask"
HALF = "half precision"
TARGETS = "gradients of targets and of binary, sign, one-hot and mask inputs"
TIES = "subgradients at exact ties"

_EXTREME = ("huge", "one inf", "one -inf", "one NaN", "saturated at 1000")


@dataclass(frozen=True)
class Profile:
    """Which probes, gradients and differences count; ``leaves_out`` lists the others."""

    name: str
    leaves_out: tuple[str, ...]

    def probe(self, probe: Probe, stated: Collection[int] = ()) -> str:
        """Why a probe is left out, or nothing; ``stated`` are labels that a side names itself.

        A label that the user tells a loss to ignore is in the data.
        """
        if not self.leaves_out:
            return ""
        name = probe.id.partition("/")[2]
        if name.startswith(_EXTREME):
            return EXTREMES
        if probe.group == "ignored":
            labels = np.unique(probe.labels)
            if labels.size <= 1 or "label" not in name:
                return NOTHING
            classes = max(probe.latent[0].shape[-1], 1)
            outside = labels[(labels < 0) | (labels >= classes)]
            return "" if np.isin(outside, [*stated]).all() else OUTSIDE
        if probe.group == "empty" or (probe.mask is not None and not probe.mask.any()):
            return NOTHING
        if name == HIDDEN:
            return UNDER_A_MASK
        if probe.dtype in ("float16", "bfloat16"):
            return HALF
        return ""

    def gradient(self, name: str, *domains: str) -> bool:
        """Whether the gradient in an input of this name and these domains counts."""
        return not (self.leaves_out and (named_as_target(name) or LABELS & {*domains}))

    def counts(self, probe: Probe, status: str) -> bool:
        """Whether a difference counts: not another subgradient at an exact tie, of one value."""
        tie = probe.group == "kinks" and not probe.id.endswith("near ties")
        return not (self.leaves_out and tie and status == "gradient")


TRAINING: Final = Profile(
    "training", (TARGETS, EXTREMES, OUTSIDE, NOTHING, UNDER_A_MASK, HALF, TIES)
)
STRICT: Final = Profile("strict", ())
PROFILES: Final = {p.name: p for p in (TRAINING, STRICT)}


def profile_of(name: object) -> Profile:
    """The profile of a name. Raises :class:`ArgumentError`."""
    found = PROFILES.get(name) if isinstance(name, str) else None
    if found is None:
        raise ArgumentError(f"profile={shown(name)} was given; it is 'training' or 'strict'")
    return found


__all__ = ["PROFILES", "STRICT", "TRAINING", "Profile", "profile_of"]
