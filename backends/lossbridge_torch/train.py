"""Run a convergence task with PyTorch (eager)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    # For types only: a backend does not need the conformance package to be installed.
    from lossbridge_conformance.converge import Task

__all__ = ["train"]


def _optimizer(task: Task, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    """torch's own optimiser: it can express every aligned setting, and nothing is rewritten."""
    rate, meaning = task.learning_rate, task.settings
    if task.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate)
    if task.optimizer == "adam":
        if meaning is None:
            return torch.optim.Adam(parameters, lr=rate)
        betas = (meaning.momentum, meaning.decay)
        return torch.optim.Adam(parameters, lr=rate, betas=betas, eps=meaning.epsilon)
    if meaning is None:
        return torch.optim.RMSprop(parameters, lr=rate)
    return torch.optim.RMSprop(parameters, lr=rate, alpha=meaning.decay, eps=meaning.epsilon)


def _forward(parameters: Sequence[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    last = len(parameters) - 2
    for at in range(0, len(parameters), 2):
        linear = inputs @ parameters[at] + parameters[at + 1]
        inputs = linear if at == last else torch.relu(linear)
    return inputs


def train(task: Task, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """Train the task's model with ``loss(prediction, target)``, a scalar; return the curve."""
    parameters = [torch.tensor(value, requires_grad=True) for value in task.initial]
    optimizer = _optimizer(task, parameters)
    inputs, targets = torch.tensor(task.inputs), torch.tensor(task.targets)

    def step(rows: npt.NDArray[Any]) -> None:
        chosen = torch.tensor(rows)
        optimizer.zero_grad()
        value = loss(_forward(parameters, inputs[chosen]), targets[chosen])
        (value * task.scale).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def read() -> list[npt.NDArray[Any]]:
        return [value.detach().numpy() for value in parameters]

    def fallback(prediction: npt.NDArray[Any], target: npt.NDArray[Any]) -> float:
        with torch.no_grad():
            value = loss(torch.tensor(prediction), torch.tensor(np.asarray(target)))
        return float(value)

    return task.run("torch", step, read, fallback)
