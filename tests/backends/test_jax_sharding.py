"""Losses on a mesh with explicit axes, `jax.make_mesh`'s default: value and gradient under jit."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import jax, jax.numpy as jnp, lossbridge.jax as LJ
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((2,), ("data",))
rows = NamedSharding(mesh, P("data"))
x = jax.device_put(jnp.arange(12.0).reshape(4, 3) / 8, rows)
labels = jax.device_put(jnp.array([0, 1, 2, 0]), rows)
soft = jax.device_put(jnp.tile(jnp.array([0.5, 0.25, 0.25]), (4, 1)), rows)
plain = {id(a): jax.device_get(a) for a in (x, labels, soft)}
for name, target, settings in (
    ("CrossEntropyLoss", labels, {}),
    ("CrossEntropyLoss", labels, {"label_smoothing": 0.1}),
    ("CrossEntropyLoss", soft, {}),
    ("FocalLoss", labels, {}),
    ("FocalLoss", soft, {}),
    ("NLLLoss", labels, {}),
    ("GeneralizedCrossEntropyLoss", labels, {}),
    ("MultiMarginLoss", labels, {}),
    ("MulticlassHingeLoss", labels, {}),
    ("BCEWithLogitsLoss", soft, {}),
    ("BinaryFocalLoss", soft, {}),
    ("HuberLoss", soft, {}),
    ("MSELoss", soft, {}),
):
    loss = getattr(LJ, name)(**settings)
    run = jax.jit(jax.value_and_grad(lambda p, t: loss(p, t)))
    value, gradient = run(x, target)
    expected, slope = run(jnp.asarray(plain[id(x)]), jnp.asarray(plain[id(target)]))
    assert jnp.allclose(jax.device_get(value), expected, rtol=1e-6), name
    assert jnp.allclose(jax.device_get(gradient), slope, rtol=1e-5, atol=1e-8), name
    assert gradient.sharding.spec[0] == "data", name
print("done")
"""


def test_losses_of_a_batch_that_is_spread_over_a_mesh() -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **flags}, capture_output=True, text=True
    )
    assert done.stdout.split()[-1:] == ["done"], done.stderr[-2000:]
