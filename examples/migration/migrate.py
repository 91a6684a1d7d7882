"""Carry a Keras classifier to PyTorch and to JAX, and see that it is the same training run.

Writes what the Keras loss means to loss.json, trains the original, both ports and a naive port,
says how far apart their training losses are, draws them, and asks lossbridge.compare why.

    python examples/migration/migrate.py [--out examples/migration/curves.svg]

It needs TensorFlow, torch, JAX, scikit-learn and matplotlib, and takes half a minute.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax_port
import keras_original
import picture
import task
import torch
import torch_naive
import torch_port

import lossbridge
import lossbridge.jax

# The probes of compare have three classes, so the class weights in them are three.
THREE = torch.tensor([0.5, 1.0, 2.0])


def ported(logits: torch.Tensor, labels: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
    return torch_port.ported(logits, labels, trust, THREE)


def naive(logits: torch.Tensor, labels: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
    return torch_naive.naive(logits, labels, trust, THREE)


def compare() -> None:
    """The losses alone, and then what a training step makes of them."""
    original, jax_loss = keras_original.LOSS, lossbridge.jax.compile(jax_port.SPEC)
    builtin = torch.nn.CrossEntropyLoss(weight=THREE, label_smoothing=task.SMOOTHING)
    step = {"logits": "real[n, c]", "labels": "index(c)[n]", "trust": "positive[n]"}
    for title, found in {
        "original, PyTorch port": lossbridge.compare(original, torch_port.LOSS, weights="sample"),
        "original, JAX port": lossbridge.compare(original, jax_loss, weights="sample"),
        "original, the built-in of the naive port": lossbridge.compare(original, builtin),
        "a step of the port, one of the naive port": lossbridge.compare(ported, naive, inputs=step),
    }.items():
        print(f"\n{title}: {found.verdict}")
        for cause in found.causes:
            print(f"  because {cause.text}")
        if found.example is not None:
            a, b = found.example.a["value"], found.example.b["value"]
            print(f"  {a} and {b} for {found.example.inputs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("curves.svg"))
    out = parser.parse_args().out
    lossbridge.dump(lossbridge.from_native(keras_original.LOSS), jax_port.SPEC)
    runs = (keras_original, torch_port, jax_port, torch_naive)
    curves = {run.__name__: run.train() for run in runs}
    print("epoch " + "".join(f"{name:>16}" for name in curves))
    for epoch in range(0, task.EPOCHS + 1, 5):
        print(f"{epoch:5d} " + "".join(f"{curve[epoch]:16.8f}" for curve in curves.values()))
    original, *others = curves
    apart = {
        name: [abs(b / a - 1.0) for a, b in zip(curves[original], curves[name], strict=True)]
        for name in others
    }
    for name, differences in apart.items():
        print(f"{name} is at most {max(differences):.1e} from {original}")
    picture.draw(curves, apart, out)
    compare()


if __name__ == "__main__":
    main()
