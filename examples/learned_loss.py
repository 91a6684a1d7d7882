"""A loss whose coefficients are learned by an outer loop.

The inner loop trains a linear classifier on digits with noisy labels for a few steps of gradient
descent, using a polynomial loss; the outer loop moves the polynomial's coefficients so that the
trained classifier does well on clean held-out samples. The gradient goes through the inner steps,
so through the loss's own second derivatives.

    python examples/learned_loss.py [--outer 40]

It needs torch and scikit-learn, and takes a few seconds.
"""

from __future__ import annotations

import argparse

import torch

import lossbridge.torch as L


def data() -> tuple[torch.Tensor, ...]:
    """Digits: a training half with 30 % of its labels replaced, and a clean half."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16.0
    labels = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    pixels, labels = pixels[order], labels[order]
    half = len(labels) // 2
    noisy = labels[:half].clone()
    replaced = torch.rand(half, generator=generator) < 0.3
    noisy[replaced] = torch.randint(10, (int(replaced.sum()),), generator=generator)
    return pixels[:half], noisy, pixels[half:], labels[half:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--outer", type=int, default=40)
    rounds = parser.parse_args().outer
    train_x, train_y, clean_x, clean_y = data()
    learned = L.LearnedPolynomialLoss(num_terms=4)
    judge = L.CrossEntropyLoss()
    outer = torch.optim.Adam(learned.parameters(), lr=0.1)
    for round_ in range(rounds + 1):
        weights = torch.zeros(64, 10, requires_grad=True)
        for _ in range(10):
            loss = learned(train_x @ weights, train_y)
            (slope,) = torch.autograd.grad(loss, weights, create_graph=True)
            weights = weights - 1.0 * slope
        held_out = judge(clean_x @ weights, clean_y)
        outer.zero_grad()
        held_out.backward()
        outer.step()
        if round_ % max(rounds // 4, 1) == 0:
            coefficients = ", ".join(f"{c:.2f}" for c in next(learned.parameters()).tolist())
            print(f"round {round_:3d}  held-out loss {held_out.item():.4f}  [{coefficients}]")


if __name__ == "__main__":
    main()
