"""Call any loss with NumPy arrays and get NumPy arrays back: value, and gradient of its mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

MODES = ("eager", "graph")
DTYPES = ("float64", "float32", "float16", "bfloat16")


def evaluate(
    call: Callable[[Mapping[str, Any]], Any],
    inputs: Mapping[str, Any],
    wrt: Sequence[str],
    dtype: str,
    mode: str = "eager",
    kept: dict[Any, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The value of ``call``, and the gradient of the value's mean in each of ``wrt``.

    ``kept`` is of use on platforms that compile; here nothing is kept.
    """
    given = {
        n: tf.cast(tf.constant(x), dtype) if np.asarray(x).dtype.kind == "f" else tf.constant(x)
        for n, x in inputs.items()
    }

    def run(given: Mapping[str, Any]) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            for name in wrt:
                if given[name].dtype.is_floating:
                    tape.watch(given[name])
            value = tf.convert_to_tensor(call(given))
            mean = tf.reduce_mean(value)
        return value, tape.gradient(
            mean, [given[n] for n in wrt], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    chosen = tf.function(run, autograph=False) if mode == "graph" else run
    value, found = chosen(given)
    return _widened(value), {
        n: _widened(tf.convert_to_tensor(g)) for n, g in zip(wrt, found, strict=True)
    }


def behind_activation(
    call: Callable[[Mapping[str, Any]], Any], domain: str, given: Mapping[str, Any]
) -> Any:
    """``call`` with a first input as a model's last layer makes it of what was given."""
    name, *_ = given
    made = tf.nn.sigmoid if domain == "probability" else tf.nn.softmax
    return call({**given, name: made(given[name])})


def _widened(x: Any) -> Any:
    return tf.cast(x, tf.float64).numpy()


def accepts(value: Any) -> bool:
    """Whether this is a tensor of this platform."""
    return bool(tf.is_tensor(value))
