"""Run convergence tasks with a framework's own losses: in process, or as a worker by itself.

``python converge_worker.py PLATFORM TRACK[,TRACK...]`` writes the curves to standard output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Train = Callable[[Any, Callable[[Any, Any], Any]], dict[str, Any]]
Losses = Mapping[str, Callable[[Any, Any], Any]]

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


def platform(name: str) -> tuple[Train, Losses]:
    """The platform's ``train`` and its own losses, prediction first, mean over elements."""
    if name == "torch":
        import torch

        from lossbridge_torch.train import train as torch_train

        return torch_train, {
            "CrossEntropyLoss": torch.nn.CrossEntropyLoss(),
            "MSELoss": torch.nn.MSELoss(),
            "HuberLoss": torch.nn.HuberLoss(),
            "MSELoss in its input's dtype": torch.nn.MSELoss(),
        }
    if name == "keras":
        import keras
        import tensorflow as tf

        from lossbridge_keras.train import train as keras_train

        def prediction_first(loss: Any) -> Callable[[Any, Any], Any]:
            return lambda prediction, target: loss(target, prediction)

        return keras_train, {
            "CrossEntropyLoss": prediction_first(
                keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            ),
            "MSELoss": prediction_first(keras.losses.MeanSquaredError()),
            "HuberLoss": prediction_first(keras.losses.Huber()),
            # The class casts everything to Keras's float32; this one does not.
            "MSELoss in its input's dtype": lambda prediction, target: tf.reduce_mean(
                tf.math.squared_difference(prediction, target)
            ),
        }
    if name == "jax":
        import jax.numpy as jnp
        import optax

        from lossbridge_jax.train import train as jax_train

        def mean_of(loss: Any) -> Callable[[Any, Any], Any]:
            return lambda prediction, target: jnp.mean(loss(prediction, target))

        return jax_train, {
            "CrossEntropyLoss": mean_of(optax.losses.softmax_cross_entropy_with_integer_labels),
            "MSELoss": mean_of(optax.losses.squared_error),
            "HuberLoss": mean_of(optax.losses.huber_loss),
            "MSELoss in its input's dtype": mean_of(optax.losses.squared_error),
        }
    raise ValueError(name)


def main(name: str, tracks: str) -> None:
    """Run whole tracks and print the curves as JSON."""
    from lossbridge_conformance import converge

    train, losses = platform(name)
    chosen = [task for track in tracks.split(",") for task in converge.tasks(track)]
    json.dump([train(task, losses[task.loss]) for task in chosen], sys.stdout)


if __name__ == "__main__":
    # Before any framework is imported: each reads these once.
    os.environ.update(ONE_THREAD)
    main(*sys.argv[1:])
