"""Adversarial losses: a critic, and its derivative."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import apply, derivative, norm
from lossbridge.trace import define, non_negative

Samples = Annotated[Expr, "real[batch, *features]"]
CRITIC = "(real[batch, *features]) -> real[batch]"


@define(
    "wasserstein_critic@1",
    ports={"critic": CRITIC},
    yields="per_sample",
    references=["Arjovsky, Chintala and Bottou 2017, eq. 3"],
)
def wasserstein_critic(fake_data: Samples, real_data: Samples, *, critic: str) -> Expr:
    """Penalise a critic that scores generated samples above real ones.

    Edges: linear in the scores; unbounded below, so the critic needs a penalty or clipping.
    """
    return apply(critic, fake_data) - apply(critic, real_data)


@define(
    "gradient_penalty@1",
    ports={"critic": CRITIC},
    params={"strength": non_negative(10.0), "norm_target": non_negative(1.0)},
    yields="per_sample",
    references=["Gulrajani et al. 2017, eq. 3"],
)
def gradient_penalty(
    fake_data: Samples,
    real_data: Samples,
    mix: Annotated[Expr, "probability[batch]"],
    *,
    critic: str,
    strength: Expr,
    norm_target: Expr,
) -> Expr:
    """Penalise a critic whose gradient between real and generated samples is not of norm 1.

    ``mix`` draws the point of each pair: ``mix * real_data + (1 - mix) * fake_data``.

    Edges: where the critic's gradient vanishes, the penalty's own gradient is 0.
    """
    between = mix * real_data + (1.0 - mix) * fake_data
    slope = derivative(critic, between)
    return strength * (norm(slope, "*features") - norm_target) ** 2
