"""The port that looks right: PyTorch's own cross-entropy, with the same three settings.

python examples/migration/torch_naive.py
"""

from __future__ import annotations

import task
import torch
import torch_port
from torch import Tensor, nn

CLASS_WEIGHT = torch.tensor(task.CLASS_WEIGHT)


def naive(
    logits: Tensor, labels: Tensor, trust: Tensor, class_weight: Tensor = CLASS_WEIGHT
) -> Tensor:
    """Two mistakes: a mean over class weights, and sample weights that come after the mean."""
    loss = nn.functional.cross_entropy(
        logits, labels, weight=class_weight.to(logits.dtype), label_smoothing=task.SMOOTHING
    )
    return (loss * trust).mean()


def train() -> list[float]:
    """The training loss at the start and after every epoch."""
    return torch_port.train(naive)


if __name__ == "__main__":
    print(f"training loss {train()[-1]:.6f}")
