"""Training goes on where the built-in loss stops.

A two-layer network learns addition modulo 59 from 40 % of the table, in float32, once with the
framework's own cross-entropy and once with ours, from the same start with the same optimiser. Past
a margin of about 16 the built-in returns a loss and a gradient of exactly 0 for a sample; ours
keeps both. The script draws the loss of each run, measured by the same accurate loss, and the norm
of the gradient each run actually followed.

    python examples/modular_addition.py [--steps 2500] [--out examples/modular_addition.svg]

It needs torch and matplotlib, and takes about a minute on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import lossbridge.torch as L

P = 59
SHARE = 0.4


def table(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot pairs and their sums, for a random 40 % of all pairs."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(P * P, generator=generator)[: int(SHARE * P * P)]
    a, b = chosen // P, chosen % P
    pairs = torch.cat([nn.functional.one_hot(a, P), nn.functional.one_hot(b, P)], dim=1)
    return pairs.float(), (a + b) % P


def network(seed: int = 0) -> nn.Module:
    """118-200-200-59 with ReLU and no biases."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(2 * P, 200, bias=False),
        nn.ReLU(),
        nn.Linear(200, 200, bias=False),
        nn.ReLU(),
        nn.Linear(200, P, bias=False),
    )


def train(loss: nn.Module, steps: int) -> dict[str, list[float]]:
    """Full-batch Adam; the curve of the accurate loss, and of the gradient's norm."""
    pairs, sums = table()
    model = network()
    # Adam's usual epsilon of 1e-8 would stop the training first.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-30)
    accurate = L.CrossEntropyLoss()
    curve: dict[str, list[float]] = {"step": [], "loss": [], "reported": [], "gradient": []}
    for step in range(steps + 1):
        optimizer.zero_grad()
        logits = model(pairs)
        value = loss(logits, sums)
        value.backward()
        if step % 10 == 0:
            with torch.no_grad():
                curve["loss"].append(accurate(logits, sums).item())
            curve["step"].append(step)
            curve["reported"].append(value.item())
            squares = sum(p.grad.double().square().sum() for p in model.parameters())
            curve["gradient"].append(float(squares) ** 0.5)
        optimizer.step()
    return curve


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Two panels: the loss, and the norm of the gradient."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lossbridge"  # the same curves give the same file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), constrained_layout=True)
    styles = {"torch.nn.CrossEntropyLoss": ("#b3541e", "--"), "lossbridge": ("#1f5fa8", "-")}
    for panel, key, title in (
        (axes[0], "loss", "training loss, measured accurately"),
        (axes[1], "gradient", "norm of the gradient followed"),
    ):
        for name, curve in curves.items():
            colour, line = styles[name]
            panel.plot(
                curve["step"],
                [max(v, 1e-40) for v in curve[key]],
                color=colour,
                linestyle=line,
                linewidth=1.6,
                label=name,
            )
        panel.set_yscale("log")
        panel.set_xlabel("step")
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.25, linewidth=0.6)
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".svg"))
    arguments = parser.parse_args()
    curves = {
        "torch.nn.CrossEntropyLoss": train(nn.CrossEntropyLoss(), arguments.steps),
        "lossbridge": train(L.CrossEntropyLoss(), arguments.steps),
    }
    print(f"{'step':>6} {'built-in run':>14} {'built-in says':>14} {'our run':>14}")
    for k, step in enumerate(curves["lossbridge"]["step"]):
        if step % 250 == 0:
            native, ours = curves["torch.nn.CrossEntropyLoss"], curves["lossbridge"]
            print(
                f"{step:6d} {native['loss'][k]:14.3e} {native['reported'][k]:14.3e} "
                f"{ours['loss'][k]:14.3e}"
            )
    draw(curves, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
