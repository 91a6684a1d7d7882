"""What built-ins expect of their inputs, where their arithmetic would take any number.

A witness says what a function computes, and Keras's cross-entropy computes something of -3 too. A
comparison asks first about the inputs that a loss is for. Each row is a built-in, or a pattern of
names, and the domains of its inputs in the order of the specification. `logits` is "real" where
the original was built with from_logits, or takes logits only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"torch\.nn\.KLDivLoss", ("log_simplex", "simplex")),
    (r"torch\.nn\.NLLLoss", ("log_simplex", "index")),
    (r"torch\.nn\.CTCLoss", ("log_simplex",)),
    (r"torch\.nn\.PoissonNLLLoss", ("rate", "counts")),
    (r"keras\.losses\.Poisson", ("positive", "counts")),
    (r"torch\.nn\.GaussianNLLLoss", ("real", "real", "positive")),
    (r"keras\.losses\.(Squared)?Hinge", ("real", "sign")),
    (r"keras\.losses\.CategoricalHinge", ("real", "one_hot")),
    (r"keras\.losses\.KLDivergence", ("simplex", "simplex")),
    (r"keras\.losses\.Binary(Focal)?Crossentropy", ("probability", "probability")),
    (r"keras\.losses\.Categorical(Focal)?Crossentropy", ("simplex", "simplex")),
    (r"keras\.losses\.SparseCategoricalCrossentropy", ("simplex", "index")),
    (r"keras\.losses\.CategoricalGeneralizedCrossEntropy", ("simplex", "index")),
    (r"keras\.losses\.(Dice|Tversky)", ("probability", "binary")),
    (r"keras\.losses\.Circle", ("unit", "labels")),
    (r"optax\.losses\.(safe_)?softmax_cross_entropy", ("real", "simplex")),
    (r"optax\.losses\.softmax_cross_entropy_with_integer_labels", ("real", "index")),
    (r"optax\.losses\.(poly_loss_cross_entropy|ranking_softmax_loss)", ("real", "simplex")),
    (r"optax\.losses\.multiclass_(hinge|perceptron|sparsemax)_loss", ("real", "index")),
    (r"optax\.losses\.(generalized_)?kl_divergence", ("log_simplex", "simplex")),
    (r"optax\.losses\.convex_kl_divergence", ("log_simplex", "simplex")),
    (r"optax\.losses\.kl_divergence_with_log_targets", ("log_simplex", "log_simplex")),
    (r"optax\.losses\.(dice_loss|multiclass_generalized_dice_loss)", ("real", "one_hot")),
    (r"optax\.losses\.binary_dice_loss", ("real", "binary")),
    (r"optax\.losses\.ntxent", ("real", "labels")),
)


def domains(name: str, arguments: Mapping[str, Any], kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The domain of each input of a built-in with these arguments; a kind's own without a row."""
    row = next((found for pattern, found in ROWS if re.fullmatch(pattern, name)), ())
    found = [*row[: len(kinds)], *kinds[len(row) :]]
    if arguments.get("from_logits") or arguments.get("apply_softmax") is False:
        found[0] = "real" if arguments.get("from_logits") else "simplex"
    if arguments.get("apply_sigmoid") is False:
        found[0] = "probability"
    if found[0] == "rate":
        found[0] = "real" if arguments.get("log_input", True) else "positive"
    if arguments.get("log_target"):
        found[1] = "log_simplex"
    # An overload has its own: labels in place of rows.
    return tuple(k if k in ("index", "simplex") and d not in ("simplex", "index") else d
                 for d, k in zip(found, kinds, strict=True))  # fmt: skip
