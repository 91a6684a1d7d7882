"""Run a convergence task with JAX and optax (one jitted function a step)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

if TYPE_CHECKING:
    import numpy.typing as npt

    # For types only: a backend does not need the conformance package to be installed.
    from lossbridge_conformance.converge import Task

__all__ = ["train"]


def _wide() -> AbstractContextManager[Any]:
    """float64 for the time of a block; JAX moved the switch and dropped its old place."""
    if hasattr(jax, "enable_x64"):
        switch: Any = jax.enable_x64
    else:
        switch = importlib.import_module("jax.experimental").enable_x64
    context: AbstractContextManager[Any] = switch(True)
    return context


def _optimizer(task: Task) -> optax.GradientTransformation:
    """optax's own optimiser: it can express every aligned setting, and nothing is rewritten."""
    rate, meaning = task.learning_rate, task.settings
    if task.optimizer == "sgd":
        return optax.sgd(rate)
    if task.optimizer == "adam":
        if meaning is None:
            return optax.adam(rate)
        return optax.adam(rate, b1=meaning.momentum, b2=meaning.decay, eps=meaning.epsilon)
    if meaning is None:
        return optax.rmsprop(rate)
    return optax.rmsprop(rate, decay=meaning.decay, eps=meaning.epsilon, eps_in_sqrt=False)


def _forward(parameters: Sequence[jax.Array], inputs: jax.Array) -> jax.Array:
    last = len(parameters) - 2
    for at in range(0, len(parameters), 2):
        linear = inputs @ parameters[at] + parameters[at + 1]
        inputs = linear if at == last else jax.nn.relu(linear)
    return inputs


def train(task: Task, loss: Callable[[jax.Array, jax.Array], jax.Array]) -> dict[str, Any]:
    """Train the task's model with ``loss(prediction, target)``, a scalar; return the curve."""
    optimizer = _optimizer(task)
    # Dtypes are said everywhere, so that a run is the same whatever the process's x64 switch says.
    whole = np.issubdtype(task.targets.dtype, np.integer)
    inputs = jnp.asarray(task.inputs, jnp.float32)
    targets = jnp.asarray(task.targets, jnp.int32 if whole else jnp.float32)
    parameters = [jnp.asarray(value, jnp.float32) for value in task.initial]
    state = optimizer.init(parameters)

    def objective(values: list[jax.Array], rows: jax.Array) -> jax.Array:
        return loss(_forward(values, inputs[rows]), targets[rows]) * task.scale

    @jax.jit
    def advance(
        values: list[jax.Array], memory: optax.OptState, rows: jax.Array
    ) -> tuple[list[jax.Array], optax.OptState]:
        gradients = jax.grad(objective)(values, rows)
        changes, memory = optimizer.update(gradients, memory, values)
        return optax.apply_updates(values, changes), memory

    def step(rows: npt.NDArray[Any]) -> None:
        nonlocal parameters, state
        parameters, state = advance(parameters, state, jnp.asarray(rows, jnp.int32))

    def read() -> list[npt.NDArray[Any]]:
        return [np.asarray(value) for value in parameters]

    def fallback(prediction: npt.NDArray[Any], target: npt.NDArray[Any]) -> float:
        with _wide():
            return float(loss(jnp.asarray(prediction), jnp.asarray(target)))

    return task.run("jax", step, read, fallback)
