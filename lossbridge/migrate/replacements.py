"""What replaces a built-in on another framework, written with that framework's own functions.

For a built-in with its default arguments, an expression in the names of its inputs (those of its
meaning). Where there is none here, the nearest relative is called as it is; where even that is
another function, only ours replaces it. How near each comes is measured, not said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lossbridge.migrate.relatives import module_of, name_of, nearest
from lossbridge.witnesses import find
from lossbridge.witnesses.witness import FRAMEWORKS

NAMES: Mapping[str, str] = {
    "torch.nn": "import torch\nimport torch.nn.functional as F",
    "keras.losses": "import keras\nfrom keras import ops",
    "optax.losses": "import jax\nimport jax.numpy as jnp\nimport optax",
}
"""The imports that an expression of a framework needs."""

# Original: one line for each framework; what gives a value for each element is averaged.
_TEXT = """
torch.nn.PoissonNLLLoss
    keras: keras.losses.Poisson()(target, ops.exp(prediction))
    optax: jnp.mean(jnp.exp(prediction) - target * prediction)
torch.nn.L1Loss
    optax: jnp.mean(jnp.where(prediction == target, 0.0, jnp.abs(prediction - target)))
torch.nn.GaussianNLLLoss
    keras: ops.mean(0.5 * (ops.log(ops.maximum(var, 1e-6)) + (prediction - target) ** 2 /
        ops.maximum(var, 1e-6)))
    optax: jnp.mean(0.5 * (jnp.log(jnp.maximum(var, 1e-6)) + (prediction - target) ** 2 /
        jnp.maximum(var, 1e-6)))
torch.nn.KLDivLoss
    keras: ops.mean(ops.where(target == 0, 0.0, target * (ops.log(target) - prediction)))
    optax: jnp.mean(optax.losses.kl_divergence(prediction, target)) / prediction.shape[-1]
torch.nn.BCELoss
    optax: jnp.mean(optax.losses.sigmoid_binary_cross_entropy(jnp.log(prediction) -
        jnp.log1p(-prediction), target))
torch.nn.BCEWithLogitsLoss
    keras: keras.losses.BinaryCrossentropy(from_logits=True)(target, logits)
torch.nn.CrossEntropyLoss
    keras: keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)(labels,
        logits)
    optax: jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels),
        where=labels != -100)
torch.nn.NLLLoss
    keras: keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)(labels,
        log_probs)
    optax: -jnp.mean(jnp.take_along_axis(log_probs, labels[..., None], -1)[..., 0], where=labels
        != -100)
torch.nn.HingeEmbeddingLoss
    keras: ops.mean(ops.where(target > 0, prediction, ops.relu(1 - prediction)))
    optax: jnp.mean(jnp.where(target > 0, prediction, jax.nn.relu(1 - prediction)))
torch.nn.MarginRankingLoss
    keras: ops.mean(ops.relu(-target * (x1 - x2)))
    optax: jnp.mean(optax.losses.perceptron_loss(x1 - x2, target))
torch.nn.SoftMarginLoss
    keras: keras.losses.BinaryCrossentropy(from_logits=True)((target + 1) / 2, prediction)
    optax: jnp.mean(optax.losses.sigmoid_binary_cross_entropy(prediction, (target + 1) / 2))
torch.nn.MultiMarginLoss
    keras: (ops.mean(ops.sum(ops.relu(1 - ops.take_along_axis(prediction, labels[..., None], -1) +
        prediction), -1)) - 1) / prediction.shape[-1]
    optax: (jnp.mean(jnp.sum(jax.nn.relu(1 - jnp.take_along_axis(prediction, labels[..., None],
        -1) + prediction), -1)) - 1) / prediction.shape[-1]
torch.nn.MultiLabelSoftMarginLoss
    keras: keras.losses.BinaryCrossentropy(from_logits=True)(target, logits)
torch.nn.CosineEmbeddingLoss
    keras: ops.mean(ops.where(target > 0, 1 + keras.losses.cosine_similarity(x1, x2),
        ops.relu(-keras.losses.cosine_similarity(x1, x2))))
    optax: jnp.mean(jnp.where(target > 0, optax.losses.cosine_distance(x1, x2),
        jax.nn.relu(optax.losses.cosine_similarity(x1, x2))))
torch.nn.TripletMarginLoss
    keras: ops.mean(ops.relu(ops.norm(anchor - positive + 1e-6, axis=-1) - ops.norm(anchor -
        negative + 1e-6, axis=-1) + 1))
    optax: jnp.mean(jax.nn.relu(jnp.linalg.norm(anchor - positive + 1e-6, axis=-1) -
        jnp.linalg.norm(anchor - negative + 1e-6, axis=-1) + 1))
torch.nn.TripletMarginWithDistanceLoss
    keras: ops.mean(ops.relu(ops.norm(anchor - positive + 1e-6, axis=-1) - ops.norm(anchor -
        negative + 1e-6, axis=-1) + 1))
    optax: jnp.mean(jax.nn.relu(jnp.linalg.norm(anchor - positive + 1e-6, axis=-1) -
        jnp.linalg.norm(anchor - negative + 1e-6, axis=-1) + 1))
keras.losses.MeanAbsoluteError
    optax: jnp.mean(jnp.where(prediction == target, 0.0, jnp.abs(prediction - target)))
keras.losses.MeanAbsolutePercentageError
    torch: 100 * torch.mean(torch.abs(prediction - target) / torch.abs(target).clamp(min=1e-7))
    optax: 100 * jnp.mean(jnp.abs(prediction - target) / jnp.maximum(jnp.abs(target), 1e-7))
keras.losses.MeanSquaredLogarithmicError
    torch: torch.nn.MSELoss()(torch.log1p(prediction.clamp(min=1e-7)),
        torch.log1p(target.clamp(min=1e-7)))
    optax: jnp.mean(optax.losses.squared_error(jnp.log1p(jnp.maximum(prediction, 1e-7)),
        jnp.log1p(jnp.maximum(target, 1e-7))))
keras.losses.LogCosh
    torch: torch.mean(torch.logaddexp(prediction - target, target - prediction)) -
        0.6931471805599453
keras.losses.Poisson
    torch: torch.nn.PoissonNLLLoss(log_input=False, eps=1e-7)(prediction, target)
    optax: jnp.mean(prediction - target * jnp.log(prediction + 1e-7))
keras.losses.CosineSimilarity
    torch: -F.cosine_similarity(prediction, target, dim=-1).mean()
    optax: -jnp.mean(optax.losses.cosine_similarity(prediction, target, epsilon=1e-14))
keras.losses.Hinge
    torch: torch.nn.MarginRankingLoss(margin=1.0)(prediction, torch.zeros_like(prediction),
        target)
keras.losses.SquaredHinge
    torch: torch.mean((1 - target * prediction).clamp(min=0) ** 2)
    optax: jnp.mean(optax.losses.hinge_loss(prediction, target) ** 2)
keras.losses.CategoricalHinge
    torch: (((1 - target) * prediction).amax(-1) - (target * prediction).sum(-1) +
        1).clamp(min=0).mean()
    optax: jnp.mean(jax.nn.relu(jnp.max((1 - target) * prediction, -1) - jnp.sum(target *
        prediction, -1) + 1))
keras.losses.KLDivergence
    torch: torch.nn.KLDivLoss(reduction="none")(prediction.clamp(1e-7, 1).log(),
        target.clamp(1e-7, 1)).sum(-1).mean()
    optax: jnp.mean(optax.losses.kl_divergence(jnp.log(jnp.clip(prediction, 1e-7, 1)),
        jnp.clip(target, 1e-7, 1)))
keras.losses.BinaryCrossentropy
    optax: jnp.mean(optax.losses.sigmoid_binary_cross_entropy(jnp.log(prediction) -
        jnp.log1p(-prediction), target))
keras.losses.BinaryFocalCrossentropy
    torch: (F.binary_cross_entropy(prediction, target, reduction="none") * (target * (1 -
        prediction) + (1 - target) * prediction) ** 2).mean()
    optax: jnp.mean(optax.losses.sigmoid_focal_loss(jnp.log(prediction) - jnp.log1p(-prediction),
        target))
keras.losses.CategoricalCrossentropy
    torch: -(target * torch.log(torch.clamp(prediction / prediction.sum(-1, keepdim=True), 1e-7,
        1 - 1e-7))).sum(-1).mean()
    optax: -jnp.mean(jnp.sum(target * jnp.log(jnp.clip(prediction / jnp.sum(prediction, -1,
        keepdims=True), 1e-7, 1 - 1e-7)), -1))
keras.losses.CategoricalFocalCrossentropy
    torch: (lambda p: -0.25 * (1 - p) ** 2 * target * torch.log(p))(torch.clamp(prediction /
        prediction.sum(-1, keepdim=True), 1e-7, 1 - 1e-7)).sum(-1).mean()
    optax: jnp.mean(jnp.sum((lambda p: -0.25 * (1 - p) ** 2 * target *
        jnp.log(p))(jnp.clip(prediction / jnp.sum(prediction, -1, keepdims=True), 1e-7,
        1 - 1e-7)), -1))
keras.losses.SparseCategoricalCrossentropy
    torch: torch.nn.CrossEntropyLoss()(torch.log(prediction).movedim(-1, 1), labels)
    optax: jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(jnp.log(prediction),
        labels))
keras.losses.CategoricalGeneralizedCrossEntropy
    torch: ((1 - prediction.gather(-1, labels[..., None]) ** 0.5) / 0.5).mean()
    optax: jnp.mean((1 - jnp.take_along_axis(prediction, labels[..., None], -1) ** 0.5) / 0.5)
keras.losses.Dice
    torch: 1 - 2 * (prediction * target).sum() / (prediction.sum() + target.sum() + 1e-7)
    optax: 1 - 2 * jnp.sum(prediction * target) / (jnp.sum(prediction) + jnp.sum(target) + 1e-7)
keras.losses.Tversky
    torch: 1 - (prediction * target).sum() / (0.5 * prediction.sum() + 0.5 * target.sum() + 1e-7)
    optax: 1 - jnp.sum(prediction * target) / (0.5 * jnp.sum(prediction) + 0.5 * jnp.sum(target) +
        1e-7)
optax.losses.squared_error
    keras: keras.losses.MeanSquaredError()(target, prediction)
optax.losses.l2_loss
    torch: 0.5 * torch.nn.MSELoss()(prediction, target)
    keras: 0.5 * keras.losses.MeanSquaredError()(target, prediction)
optax.losses.log_cosh
    torch: torch.mean(torch.logaddexp(prediction - target, target - prediction)) -
        0.6931471805599453
optax.losses.cosine_similarity
    torch: F.cosine_similarity(prediction, target, dim=-1).mean()
    keras: -keras.losses.CosineSimilarity()(target, prediction)
optax.losses.cosine_distance
    torch: 1 - F.cosine_similarity(prediction, target, dim=-1).mean()
    keras: 1 + keras.losses.CosineSimilarity()(target, prediction)
optax.losses.sigmoid_binary_cross_entropy
    keras: keras.losses.BinaryCrossentropy(from_logits=True)(target, logits)
optax.losses.sigmoid_focal_loss
    torch: torch.mean(torch.nn.BCEWithLogitsLoss(reduction="none")(logits, target) * (target *
        torch.sigmoid(-logits) + (1 - target) * torch.sigmoid(logits)) ** 2)
    keras: keras.losses.BinaryFocalCrossentropy(from_logits=True)(target, logits)
optax.losses.hinge_loss
    torch: torch.nn.MarginRankingLoss(margin=1.0)(prediction, torch.zeros_like(prediction),
        target)
optax.losses.perceptron_loss
    torch: torch.nn.MarginRankingLoss()(prediction, torch.zeros_like(prediction), target)
    keras: ops.mean(ops.relu(-target * prediction))
optax.losses.softmax_cross_entropy
    torch: torch.nn.CrossEntropyLoss()(logits.movedim(-1, 1), target.movedim(-1, 1))
    keras: keras.losses.CategoricalCrossentropy(from_logits=True)(target, logits)
optax.losses.safe_softmax_cross_entropy
    torch: -torch.where(target == 0, 0.0, target * F.log_softmax(logits, -1)).sum(-1).mean()
    keras: -ops.mean(ops.sum(ops.where(target == 0, 0.0, target * ops.log_softmax(logits, -1)),
        -1))
optax.losses.poly_loss_cross_entropy
    torch: (target * (2 * (1 - torch.softmax(logits, -1)) - F.log_softmax(logits,
        -1))).sum(-1).mean()
    keras: ops.mean(ops.sum(target * (2 * (1 - ops.softmax(logits, -1)) - ops.log_softmax(logits,
        -1)), -1))
optax.losses.softmax_cross_entropy_with_integer_labels
    torch: torch.nn.CrossEntropyLoss()(logits.movedim(-1, 1), labels)
    keras: keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
optax.losses.ranking_softmax_loss
    torch: torch.nn.CrossEntropyLoss()(logits.movedim(-1, 1), target.movedim(-1, 1))
    keras: keras.losses.CategoricalCrossentropy(from_logits=True)(target, logits)
optax.losses.multiclass_hinge_loss
    torch: torch.mean((prediction + 1 - F.one_hot(labels, prediction.shape[-1])).amax(-1) -
        prediction.gather(-1, labels[..., None])[..., 0])
    keras: ops.mean(ops.max(prediction + 1 - ops.one_hot(labels, prediction.shape[-1],
        dtype=prediction.dtype), -1) - ops.take_along_axis(prediction, labels[..., None],
        -1)[..., 0])
optax.losses.multiclass_perceptron_loss
    torch: torch.mean(prediction.amax(-1) - prediction.gather(-1, labels[..., None])[..., 0])
    keras: ops.mean(ops.max(prediction, -1) - ops.take_along_axis(prediction, labels[..., None],
        -1)[..., 0])
optax.losses.kl_divergence
    torch: torch.nn.KLDivLoss(reduction="none")(prediction, target).sum(-1).mean()
    keras: ops.mean(ops.sum(ops.where(target == 0, 0.0, target * (ops.log(target) - prediction)),
        -1))
optax.losses.kl_divergence_with_log_targets
    torch: torch.nn.KLDivLoss(reduction="none", log_target=True)(prediction,
        target).sum(-1).mean()
    keras: ops.mean(ops.sum(ops.exp(target) * (target - prediction), -1))
optax.losses.generalized_kl_divergence
    torch: (torch.nn.KLDivLoss(reduction="none")(prediction, target) + torch.exp(prediction) -
        target).sum(-1).mean()
    keras: ops.mean(ops.sum(ops.where(target == 0, 0.0, target * (ops.log(target) - prediction)) +
        ops.exp(prediction) - target, -1))
optax.losses.convex_kl_divergence
    torch: (torch.nn.KLDivLoss(reduction="none")(prediction, target) + torch.exp(prediction) -
        target).sum(-1).mean()
    keras: ops.mean(ops.sum(ops.where(target == 0, 0.0, target * (ops.log(target) - prediction)) +
        ops.exp(prediction) - target, -1))
optax.losses.smooth_labels
    torch: 0.9 * labels + 0.1 / labels.shape[-1]
    keras: 0.9 * labels + 0.1 / labels.shape[-1]
optax.losses.triplet_margin_loss
    torch: (((anchor - positive).square().sum(-1) + 1e-6).sqrt() - ((anchor -
        negative).square().sum(-1) + 1e-6).sqrt() + 1).clamp(min=0).mean()
    keras: ops.mean(ops.relu(ops.sqrt(ops.sum((anchor - positive) ** 2, -1) + 1e-6) -
        ops.sqrt(ops.sum((anchor - negative) ** 2, -1) + 1e-6) + 1))
optax.losses.binary_dice_loss
    torch: torch.mean(1 - ((torch.sigmoid(prediction) * target).flatten(1).sum(-1) + 1) /
        ((torch.sigmoid(prediction) + target).flatten(1).sum(-1) / 2 + 1))
"""


def _read() -> dict[tuple[str, str], str]:
    """The text as a table: original and framework -> expression."""
    modules = {framework: module for module, framework in FRAMEWORKS.items()}
    found: dict[tuple[str, str], str] = {}
    name = ""
    # A line that is indented further goes on with the one before.
    for line in re.sub(r"\n {8,}", " ", _TEXT).strip().splitlines():
        if not line.startswith(" "):
            name = line
            continue
        framework, expression = line.strip().split(": ", 1)
        found[name, modules[framework]] = expression
    return found


def replacement(name: str, module: str) -> str | None:
    """An expression with the functions of a framework, in the inputs of a built-in of another."""
    stated = REPLACEMENTS.get((name, module))
    if stated is not None:
        return stated
    pair = nearest(name, module)
    if pair is None:
        return None
    relative = find(next(name_of(x) for x in pair if module_of(x) == module))
    original = find(name)
    given, taken = original.example().spec.inputs, relative.example().spec.inputs
    if len(given) != len(taken):
        return None
    places = dict(zip(taken, given, strict=True))
    arguments = ", ".join(places[n] for n in relative.call_order(relative.example().spec))
    if module == "optax.losses":
        return f"jnp.mean({relative.name}({arguments}))"
    return f"{relative.name}()({arguments})"


REPLACEMENTS: Mapping[tuple[str, str], str] = _read()

__all__ = ["NAMES", "REPLACEMENTS", "replacement"]
