"""What Keras leaves on a tensor for the loss: the mask of a layer, and the logits of an activation.

Keras sets both as attributes. A tracer of JAX takes none, so there a mask stands in a table of
Keras's own, which only Keras can read, and the logits are dropped: what made a prediction is then
read off the model that is being trained.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterable
from typing import Any

import keras

Tensor = Any

try:  # internal to Keras, but the one reader that knows every backend (since 3.6)
    from keras.src.backend import get_keras_mask as _attached_mask
except ImportError:

    def _attached_mask(x: Any) -> Any:
        return getattr(x, "_keras_mask", None)


def layer_mask(inputs: Iterable[Any]) -> Tensor | None:
    """The mask that layers left on predictions and targets: an element counts if all say so.

    ``Embedding(mask_zero=True)`` and ``Masking`` make one, and layers hand it on.
    """
    found = (_attached_mask(x) for x in inputs if x is not None)
    return all_of(mask for mask in found if mask is not None)


def all_of(masks: Iterable[Tensor]) -> Tensor | None:
    """Where all masks are true; None if there is none."""
    wanted = [keras.ops.cast(mask, "bool") for mask in masks]
    return functools.reduce(operator.and_, wanted) if wanted else None


# --- predictions that are no logits --------------------------------------------------------------


def activated(prediction: Tensor) -> bool:
    """Whether a prediction is known to come out of a softmax or a sigmoid.

    On TensorFlow and PyTorch the activation marks its result. A tracer of JAX carries no mark; in
    ``fit``, ``evaluate`` and the methods on one batch the layers of a functional or sequential
    model say it, in a model without layers that Keras knows of, or a loop of one's own, nothing.
    """
    if getattr(prediction, "_keras_logits", None) is not None:
        return True
    if keras.backend.backend() != "jax":
        return False
    import jax

    return isinstance(prediction, jax.core.Tracer) and _by_activation(_producer(prediction))


def _producer(prediction: Tensor) -> Any:
    """The symbolic output that stands for a prediction in the model whose trainer is calling."""
    frame = sys._getframe(2)
    while frame is not None:
        model, outputs = frame.f_locals.get("self"), frame.f_locals.get("y_pred")
        if isinstance(model, keras.Model) and outputs is not None:
            symbols = keras.tree.flatten(getattr(getattr(model, "model", model), "outputs", None))
            given = keras.tree.flatten(outputs)
            if len(symbols) == len(given):
                return next(
                    (s for s, x in zip(symbols, given, strict=True) if x is prediction), None
                )
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _by_activation(symbol: Any) -> bool:
    """Whether the operation behind a symbolic tensor is, or ends in, a softmax or a sigmoid."""
    history = getattr(symbol, "_keras_history", None)
    if history is None:
        return False
    made = history.operation
    if isinstance(made, keras.Model):  # a model inside a model
        below = keras.tree.flatten(made.outputs)
        return _by_activation(below[history.tensor_index])
    if isinstance(made, keras.layers.Wrapper):
        made = made.layer
    if isinstance(made, keras.layers.RNN):  # its activation is not the last thing it does
        return False
    last = getattr(made, "activation", None)
    return last in (keras.activations.softmax, keras.activations.sigmoid) or type(
        made
    ).__name__ in ("Softmax", "Sigmoid")
