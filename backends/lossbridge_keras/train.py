"""Run a convergence task with Keras on TensorFlow (a ``tf.function`` around each step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    import numpy.typing as npt

    # For types only: a backend does not need the conformance package to be installed.
    from lossbridge_conformance.converge import Settings, Task

__all__ = ["train"]


class _Update(Protocol):
    def __call__(self, gradients: Sequence[Any]) -> None: ...


class _Aligned:
    """Adam and RMSprop with the aligned meaning of epsilon: added to the (corrected) root.

    Keras's own cannot express it: its RMSprop adds epsilon inside the root, its Adam before the
    bias correction, and neither has a switch.
    """

    def __init__(self, name: str, rate: float, meaning: Settings, variables: Sequence[Any]) -> None:
        self._name, self._rate, self._meaning = name, rate, meaning
        self._variables = variables
        self._squares = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
        self._means = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
        self._steps = tf.Variable(0.0, dtype=tf.float64)

    def __call__(self, gradients: Sequence[Any]) -> None:
        meaning = self._meaning
        self._steps.assign_add(1.0)
        # 1 - 0.999**t loses four digits in float32 at t = 1: corrections are made in float64.
        first = tf.cast(1.0 - meaning.momentum**self._steps, tf.float32)
        root_second = tf.cast(tf.sqrt(1.0 - meaning.decay**self._steps), tf.float32)
        slots = zip(self._variables, gradients, self._squares, self._means, strict=True)
        for variable, gradient, square, mean in slots:
            square.assign(meaning.decay * square + (1.0 - meaning.decay) * gradient * gradient)
            if self._name == "rmsprop":
                change = gradient / (tf.sqrt(square) + meaning.epsilon)
            else:
                mean.assign(meaning.momentum * mean + (1.0 - meaning.momentum) * gradient)
                change = mean / first / (tf.sqrt(square) / root_second + meaning.epsilon)
            variable.assign_sub(self._rate * change)


def _update(task: Task, variables: Sequence[Any]) -> _Update:
    """What applies gradients: Keras's optimiser wherever it means what the task asks for."""
    if task.optimizer != "sgd" and task.settings is not None:
        inner = [variable.value for variable in variables]
        return _Aligned(task.optimizer, task.learning_rate, task.settings, inner)
    kinds = {
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "rmsprop": keras.optimizers.RMSprop,
    }
    optimizer = kinds[task.optimizer](learning_rate=task.learning_rate)
    optimizer.build(variables)  # here, because a tf.function may not create variables twice

    def apply(gradients: Sequence[Any]) -> None:
        optimizer.apply(gradients, variables)

    return apply


def _forward(parameters: Sequence[Any], inputs: Any) -> Any:
    last = len(parameters) - 2
    for at in range(0, len(parameters), 2):
        linear = tf.matmul(inputs, parameters[at]) + parameters[at + 1]
        inputs = linear if at == last else tf.nn.relu(linear)
    return inputs


def train(task: Task, loss: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Train the task's model with ``loss(prediction, target)``, a scalar; return the curve."""
    variables = [keras.Variable(value, dtype="float32") for value in task.initial]
    values = [variable.value for variable in variables]
    update = _update(task, variables)
    inputs, targets = tf.constant(task.inputs), tf.constant(task.targets)

    @tf.function(autograph=False)
    def advance(rows: Any) -> None:
        with tf.GradientTape() as tape:
            prediction = _forward(values, tf.gather(inputs, rows))
            value = loss(prediction, tf.gather(targets, rows)) * task.scale
        update(tape.gradient(value, values))

    def step(rows: npt.NDArray[Any]) -> None:
        advance(tf.constant(rows))

    def read() -> list[npt.NDArray[Any]]:
        return [value.numpy() for value in values]

    def fallback(prediction: npt.NDArray[Any], target: npt.NDArray[Any]) -> float:
        return float(loss(tf.constant(prediction), tf.constant(np.asarray(target))))

    return task.run("keras", step, read, fallback)
