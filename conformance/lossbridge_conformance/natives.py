"""The frameworks' own losses as subjects of a run, beside ours.

A built-in is measured on the stored cases of the loss of ours that it corresponds to, but judged
against the certified truth of *its own* exact meaning, which its witness states: a declared epsilon
or clip is not an error, and what is left is arithmetic. Half precision is judged against the truth
as well, not against the built-in's own float32: what float32 loses, that rule would hide.

Nothing here decides whether ours conform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lossbridge.migrate.sides import HOMES, parse_call
from lossbridge.spec import Spec
from lossbridge.witnesses import find
from lossbridge_conformance import cases
from lossbridge_conformance.subjects import Array, Builtin, Subject

PAIRS: Mapping[str, tuple[str, ...]] = {
    "mse@1": (
        "torch.nn.MSELoss()", "keras.losses.MeanSquaredError()", "optax.losses.squared_error()",
        "optax.losses.l2_loss()",
    ),
    "l1@1": ("torch.nn.L1Loss()", "keras.losses.MeanAbsoluteError()"),
    "huber@1": (
        "torch.nn.HuberLoss()", "keras.losses.Huber()", "optax.losses.huber_loss()",
    ),
    "smooth_l1@1": ("torch.nn.SmoothL1Loss()",),
    "log_cosh@1": ("keras.losses.LogCosh()", "optax.losses.log_cosh()"),
    "poisson_nll@1": ("torch.nn.PoissonNLLLoss()",),
    "gaussian_nll@1": ("torch.nn.GaussianNLLLoss()",),
    "mape@1": ("keras.losses.MeanAbsolutePercentageError()",),
    "msle@1": ("keras.losses.MeanSquaredLogarithmicError()",),
    "bce@1": ("torch.nn.BCELoss()", "keras.losses.BinaryCrossentropy()"),
    "bce_with_logits@1": (
        "torch.nn.BCEWithLogitsLoss()", "keras.losses.BinaryCrossentropy(from_logits=True)",
        "optax.losses.sigmoid_binary_cross_entropy()",
    ),
    "cross_entropy@1": (
        "torch.nn.CrossEntropyLoss()",
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True)",
        "optax.losses.softmax_cross_entropy_with_integer_labels()",
    ),
    "cross_entropy_probabilities@1": (
        "torch.nn.CrossEntropyLoss()", "keras.losses.CategoricalCrossentropy(from_logits=True)",
        "optax.losses.softmax_cross_entropy()", "optax.losses.safe_softmax_cross_entropy()",
    ),
    "nll@1": ("torch.nn.NLLLoss()",),
    "binary_focal@1": (
        "keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, from_logits=True)",
        "optax.losses.sigmoid_focal_loss(alpha=0.25)",
    ),
    "focal_probabilities@1": (
        "keras.losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True)",
    ),
    "poly_cross_entropy@1": ("optax.losses.poly_loss_cross_entropy()",),
    "ranking_softmax@1": ("optax.losses.ranking_softmax_loss()",),
    "binary_sparsemax@1": ("optax.losses.sparsemax_loss()",),
    "sparsemax@1": ("optax.losses.multiclass_sparsemax_loss()",),
    "hinge@1": ("keras.losses.Hinge()", "optax.losses.hinge_loss()"),
    "squared_hinge@1": ("keras.losses.SquaredHinge()",),
    "perceptron@1": ("optax.losses.perceptron_loss()",),
    "soft_margin@1": ("torch.nn.SoftMarginLoss()",),
    "hinge_embedding@1": ("torch.nn.HingeEmbeddingLoss()",),
    "margin_ranking@1": ("torch.nn.MarginRankingLoss()",),
    "multi_margin@1": ("torch.nn.MultiMarginLoss()",),
    "multi_label_margin@1": ("torch.nn.MultiLabelMarginLoss()",),
    "multi_label_soft_margin@1": ("torch.nn.MultiLabelSoftMarginLoss()",),
    "multiclass_hinge@1": ("optax.losses.multiclass_hinge_loss()",),
    "multiclass_perceptron@1": ("optax.losses.multiclass_perceptron_loss()",),
    "kl_div@1": ("torch.nn.KLDivLoss()", "optax.losses.kl_divergence()"),
    "generalized_kl_div@1": ("optax.losses.generalized_kl_divergence()",),
    "dice@1": ("keras.losses.Dice(axis=-1)",),
    "tversky@1": ("keras.losses.Tversky(axis=-1)",),
    "cosine_similarity@1": (
        "keras.losses.CosineSimilarity()", "optax.losses.cosine_similarity()",
    ),
    "cosine_distance@1": ("optax.losses.cosine_distance()",),
    "cosine_embedding@1": ("torch.nn.CosineEmbeddingLoss()",),
    "triplet_margin@1": ("torch.nn.TripletMarginLoss()", "optax.losses.triplet_margin_loss()"),
    "ctc@1": ("torch.nn.CTCLoss()",),
}  # fmt: skip
"""A loss of ours -> the built-ins that are measured on its cases, as one writes them."""

LEFT_OUT: Mapping[str, str] = {
    "torch.nn.LinearCrossEntropyLoss": "it owns weights, which the stored cases would have to set",
    "torch.nn.TripletMarginWithDistanceLoss": "with its own distance it is TripletMarginLoss",
    "keras.losses.Poisson": "its rate is no logarithm; the stored cases are logarithms",
    "keras.losses.KLDivergence": "it takes probabilities; the stored cases are logarithms",
    "keras.losses.CategoricalHinge": "ours has no rival of score 0, and so is another function",
    "keras.losses.CategoricalGeneralizedCrossEntropy": "it takes probabilities; ours takes logits",
    "keras.losses.Circle": "it takes unit vectors, which the stored cases are not",
    "keras.losses.CTC": "all its inputs are of one length; the stored cases are not",
    "optax.losses.make_fenchel_young_loss": "it is made of a function that its user gives",
    "optax.losses.kl_divergence_with_log_targets": "the stored targets are no logarithms",
    "optax.losses.convex_kl_divergence": "another name of generalized_kl_divergence",
    "optax.losses.smooth_labels": "it is no loss",
    "optax.losses.dice_loss": "it takes logits; the stored cases are probabilities",
    "optax.losses.binary_dice_loss": "it takes logits; the stored cases are probabilities",
    "optax.losses.multiclass_generalized_dice_loss":
        "it takes logits; the stored cases are probabilities",
    "optax.losses.ntxent": "it gives a mean only, and the suite judges what is not reduced",
    "optax.losses.ctc_loss": "its padding is laid out otherwise than the stored lengths",
    "optax.losses.ctc_loss_with_forward_probs": "another name of ctc_loss",
}  # fmt: skip
"""Built-ins that no row above has, and why."""

UNREDUCED: Mapping[str, Any] = {"reduction": "none", "reduce_fn": None}


def chosen(subjects: Sequence[Subject], platforms: Sequence[str]) -> list[Subject]:
    """The built-ins of these platforms that correspond to losses of the run."""
    from lossbridge.catalogue import catalogue

    found = []
    for subject in subjects:
        shipped = catalogue().get(subject.spec.id)
        # The cases of a user's loss are not those of ours, whatever its id.
        if subject.setting or shipped is None or shipped.spec.hash != subject.spec.hash:
            continue
        for text in PAIRS.get(subject.spec.id, ()):
            made = counterpart(subject, text)
            if made.builtin is not None and made.builtin.platform in platforms:
                found.append(made)
    return found


def at_home(builtins: Sequence[Subject], platform: str) -> list[Subject]:
    """Those of a platform."""
    return [s for s in builtins if s.builtin is not None and s.builtin.platform == platform]


def counterpart(subject: Subject, text: str) -> Subject:
    """A built-in as a subject on the cases of a loss of ours."""
    name, positional, keywords = parse_call(text)
    witness = find(name)
    parameters = witness.signature.parameters
    arguments = dict(witness.signature.bind(*positional, **keywords).arguments)
    arguments.update((n, v) for n, v in UNREDUCED.items() if n in parameters)
    spec = _fitting(subject.spec, witness.meaning(**arguments).specs)
    builtin = Builtin(
        text, witness.name, HOMES[witness.module], arguments, witness.call_order(spec),
        subject.spec.id,
    )  # fmt: skip
    return Subject(
        spec,
        subject.class_,
        {n: p.value for n, p in spec.params.items()},
        {},
        tuple(_laid(call, subject, spec) for call in subject.calls),
        subject.fixtures,
        builtin=builtin,
    )


def _fitting(ours: Spec, specs: Sequence[Spec]) -> Spec:
    """Of the meanings of a built-in, the one whose inputs have the dtypes of ours."""
    wanted = [kind.dtype for kind in ours.inputs.values()]
    return next(
        (s for s in specs if [k.dtype for k in s.inputs.values()] == wanted),
        specs[0],
    )


def _laid(call: cases.Call, subject: Subject, spec: Spec) -> cases.Call:
    """A call with the names and axes of a built-in's inputs, which stand in the same order.

    Where a built-in averages or sums over a last axis that ours does not have, its length is 1.
    """
    inputs: dict[str, Array] = {}
    sample: str | None = None
    for (name, kind), (own, x) in zip(spec.inputs.items(), call.inputs.items(), strict=True):
        ours = subject.spec.inputs[own]
        inputs[name] = x[..., None] if len(kind.axes) > len(ours.axes) else x
        if call.sample_axis in ours.axes:
            sample = kind.axes[ours.axes.index(str(call.sample_axis))]
    return replace(call, inputs=inputs, sample_axis=sample)


__all__ = ["LEFT_OUT", "PAIRS", "at_home", "chosen", "counterpart"]
