"""The same classifier in PyTorch, with the loss that Keras had.

python examples/migration/torch_port.py
"""

from __future__ import annotations

from collections.abc import Callable

import task
import torch
from torch import Tensor, nn

import lossbridge.torch as L

LOSS = L.native(
    "keras.losses.CategoricalCrossentropy", from_logits=True, label_smoothing=task.SMOOTHING
)
CLASS_WEIGHT = torch.tensor(task.CLASS_WEIGHT)


def ported(
    logits: Tensor, labels: Tensor, trust: Tensor, class_weight: Tensor = CLASS_WEIGHT
) -> Tensor:
    """Class weights are sample weights: within the mean, which divides by the samples' number."""
    target = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return LOSS(logits, target, sample_weight=class_weight[labels] * trust)


def train(loss: Callable[[Tensor, Tensor, Tensor], Tensor] = ported) -> list[float]:
    """The training loss at the start and after every epoch."""
    torch.set_num_threads(1)  # layers this small lose more than they gain by a second
    model = nn.Sequential(
        nn.Linear(task.PIXELS.shape[1], task.HIDDEN),
        nn.ReLU(),
        nn.Linear(task.HIDDEN, task.CLASSES),
    )
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), task.start(), strict=True):
            parameter.copy_(torch.tensor(value.T))  # a kernel is (out, in) here
    optimizer = torch.optim.SGD(model.parameters(), task.RATE, momentum=task.MOMENTUM)
    data = torch.utils.data.TensorDataset(
        torch.tensor(task.PIXELS), torch.tensor(task.LABELS), torch.tensor(task.TRUST)
    )
    curve = [measured(model)]
    for _ in range(task.EPOCHS):
        for pixels, labels, trust in torch.utils.data.DataLoader(data, task.BATCH):
            optimizer.zero_grad()
            loss(model(pixels), labels, trust).backward()
            optimizer.step()
        curve.append(measured(model))
    return curve


def measured(model: nn.Module) -> float:
    return task.training_loss([p.detach().numpy().T for p in model.parameters()])


if __name__ == "__main__":
    print(f"training loss {train()[-1]:.6f}")
