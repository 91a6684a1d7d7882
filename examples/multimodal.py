"""Several losses at once: fixed, learned, scheduled and attended weights.

A toy model sees a picture and a caption of the same thing. Its embeddings are aligned by a triplet
loss, the picture is reconstructed (mean squared error), a teacher's distribution is followed
(relative entropy) and the class is learned (cross-entropy). The four ways of weighing them differ
in one line.

    python examples/multimodal.py [--steps 200]

It needs torch, and takes a few seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn

import lossbridge.torch as L

CLASSES, PIXELS, WORDS, WIDTH = 4, 16, 12, 8


class Model(nn.Module):
    """Two encoders, one decoder, one classifier, and a score for each loss."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Linear(PIXELS, WIDTH)
        self.caption = nn.Linear(WORDS, WIDTH)
        self.decoder = nn.Linear(WIDTH, PIXELS)
        self.classifier = nn.Linear(2 * WIDTH, CLASSES)
        self.scores = nn.Parameter(torch.zeros(4))

    def forward(self, picture: torch.Tensor, caption: torch.Tensor) -> dict[str, torch.Tensor]:
        a, b = self.picture(picture), self.caption(caption)
        return {
            "picture": a,
            "caption": b,
            "decoded": self.decoder(a),
            "logits": self.classifier(torch.cat([a, b], dim=-1)),
        }


def batch(generator: torch.Generator, size: int = 64) -> tuple[torch.Tensor, ...]:
    """Pictures and captions of the same class share a direction."""
    labels = torch.randint(CLASSES, (size,), generator=generator)
    noise = torch.randn(size, PIXELS + WORDS, generator=generator)
    means = torch.randn(CLASSES, PIXELS + WORDS, generator=torch.Generator().manual_seed(7))
    both = means[labels] + 0.5 * noise
    teacher = torch.softmax(2.0 * nn.functional.one_hot(labels, CLASSES).float(), dim=-1)
    return both[:, :PIXELS], both[:, PIXELS:], labels, teacher


def losses() -> dict[str, nn.Module]:
    return {
        "align": L.TripletMarginLoss(),
        "rebuild": L.MSELoss(),
        "teacher": L.KLDivLoss(reduction="batchmean"),
        "label": L.CrossEntropyLoss(),
    }


def run(
    name: str, loss: nn.Module, steps: int, extra: Callable[[Model, int], dict[str, object]]
) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Model()
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=1e-2)
    for step in range(steps):
        picture, caption, labels, teacher = batch(generator)
        out = model(picture, caption)
        total = loss(
            align=(out["picture"], out["caption"], out["caption"].roll(1, 0)),
            rebuild=(out["decoded"], picture),
            teacher=(torch.log_softmax(out["logits"], dim=-1), teacher),
            label=(out["logits"], labels),
            **extra(model, step),
        )
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    right = (out["logits"].argmax(-1) == labels).float().mean().item()
    print(f"{name:28} total {total.item():8.4f}   last batch right {right:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    run("fixed weights", L.WeightedLoss(losses(), {"rebuild": 0.5}), steps, lambda m, s: {})
    run("learned uncertainty", L.UncertaintyWeightedLoss(losses()), steps, lambda m, s: {})
    run(
        "curriculum",
        L.CurriculumWeightedLoss(losses(), {"label": (0.0, 1.0, 0, steps // 2 + 1)}),
        steps,
        lambda m, s: {"step": s},
    )
    run("attention", L.AttentionWeightedLoss(losses()), steps, lambda m, s: {"scores": m.scores})


if __name__ == "__main__":
    main()
