"""The same classifier in JAX, with the loss read from the file that the Keras side wrote.

python examples/migration/jax_port.py
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import task

import lossbridge.jax as L

SPEC = Path(__file__).with_name("loss.json")


def logits(parameters: list[jax.Array], pixels: jax.Array) -> jax.Array:
    first, first_bias, second, second_bias = parameters
    return jax.nn.relu(pixels @ first + first_bias) @ second + second_bias


def train() -> list[float]:
    """The training loss at the start and after every epoch."""
    loss = L.compile(SPEC)
    optimizer = optax.sgd(task.RATE, momentum=task.MOMENTUM)
    parameters = [jnp.asarray(value) for value in task.start()]
    state = optimizer.init(parameters)
    weight = task.CLASS_WEIGHT[task.LABELS] * task.TRUST

    def ported(parameters, pixels, target, weight):
        return loss(logits(parameters, pixels), target, sample_weight=weight)

    @jax.jit
    def step(parameters, state, *batch):
        gradients = jax.grad(ported)(parameters, *batch)
        changes, state = optimizer.update(gradients, state)
        return optax.apply_updates(parameters, changes), state

    curve = [task.training_loss(parameters)]
    for _ in range(task.EPOCHS):
        for at in range(0, len(task.LABELS), task.BATCH):
            rows = slice(at, at + task.BATCH)
            batch = task.PIXELS[rows], task.ONE_HOT[rows], weight[rows]
            parameters, state = step(parameters, state, *batch)
        curve.append(task.training_loss(parameters))
    return curve


if __name__ == "__main__":
    print(f"training loss {train()[-1]:.6f}")
