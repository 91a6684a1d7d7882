"""optax.losses: what each of its functions means. Source: optax 0.2.8, `optax/losses/`."""

from __future__ import annotations

from lossbridge.catalogue import regression
from lossbridge.witnesses.witness import Meaning, meaning, witness


@witness("optax.losses.huber_loss")
def huber_loss(delta: float = 1.0) -> Meaning:
    return meaning(regression.huber, delta=delta, reduction="none")
