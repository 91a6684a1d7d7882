"""A Flax NNX model trained with optax and a loss of ours, in one jitted step."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import lossbridge.jax as L

loss = L.CrossEntropyLoss(label_smoothing=0.1)


@nnx.jit
def step(model, optimizer, x, labels):
    value, gradients = nnx.value_and_grad(lambda m: loss(m(x), labels))(model)
    optimizer.update(model, gradients)
    return value


def main() -> None:
    x = jax.random.normal(jax.random.key(0), (256, 4))
    labels = jnp.argmax(x[:, :3], axis=1)
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    values = [step(model, optimizer, x, labels) for _ in range(50)]
    print(f"loss {float(values[0]):.2f} -> {float(values[-1]):.2f}")


if __name__ == "__main__":
    main()
