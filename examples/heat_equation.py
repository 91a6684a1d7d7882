"""A network learns a solution of the heat equation from the equation itself.

The field u(t, x) on 0 <= t <= 1, 0 <= x <= 1 starts as sin(pi x) and is 0 at both ends; the exact
solution is exp(-pi^2 d t) sin(pi x) with diffusivity d. The residual needs second derivatives of
the network; the loss takes them, whatever the network is.

    python examples/heat_equation.py [--steps 1500]

It needs torch, and takes about a minute.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import nn

import lossbridge.torch as L

DIFFUSIVITY = 0.1


class Field(nn.Module):
    """u(t, x): a small tanh network that obeys the start and the ends by construction."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )

    def forward(self, time: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        free = self.layers(torch.stack([time, position], dim=-1)).squeeze(-1)
        return torch.sin(math.pi * position) + time * position * (1 - position) * free


def exact(time: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The solution by separation of variables."""
    return torch.exp(-(math.pi**2) * DIFFUSIVITY * time) * torch.sin(math.pi * position)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    field = Field()
    residual = L.PDEResidualLoss(diffusivity=DIFFUSIVITY)
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    grid = torch.linspace(0, 1, 41)
    time, position = (m.reshape(-1) for m in torch.meshgrid(grid, grid, indexing="ij"))
    for step in range(steps + 1):
        optimizer.zero_grad()
        points = torch.rand(2, 256)
        loss = residual(points[0], points[1], field=field)
        loss.backward()
        optimizer.step()
        if step % max(steps // 5, 1) == 0:
            with torch.no_grad():
                error = (field(time, position) - exact(time, position)).abs().max().item()
            print(f"step {step:5d}  residual {loss.item():.3e}  largest error {error:.3e}")


if __name__ == "__main__":
    main()
