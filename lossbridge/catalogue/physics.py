"""Physics: residuals of differential equations that a network should solve."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import derivative
from lossbridge.trace import define, non_negative

Points = Annotated[Expr, "real[points]"]


@define(
    "pde_residual@1",
    name="PDEResidualLoss",
    ports={"field": "(real[points], real[points]) -> real[points]"},
    params={"diffusivity": non_negative(1.0)},
    yields="per_sample",
    references=["Raissi, Perdikaris and Karniadakis 2019, section 3; Fourier 1822, section 142"],
)
def pde_residual(time: Points, position: Points, *, field: str, diffusivity: Expr) -> Expr:
    """Penalise a field that does not obey the heat equation at the given points.

    The squared residual du/dt - diffusivity d2u/dx2 of ``field(time, position)``, which must be
    computed point by point.

    Edges: those of the field; the loss adds none.
    """
    rate = derivative(field, time, position, wrt=0)
    curvature = derivative(field, time, position, wrt=(1, 1))
    return (rate - diffusivity * curvature) ** 2
