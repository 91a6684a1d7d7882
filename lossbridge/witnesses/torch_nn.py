"""torch.nn: what each of its losses means. Source: torch 2.13.0, `torch/nn/modules/loss.py`."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from lossbridge.catalogue import classification, divergence, margin, metric, regression, sequence
from lossbridge.errors import ShapeError
from lossbridge.frontdoor import Calls
from lossbridge.ir import Expr
from lossbridge.kinds import Kind
from lossbridge.ops import (
    abs_,
    all_,
    amax,
    any_,
    attach_gradient,
    dot,
    exp,
    iota,
    log,
    maximum,
    sqrt,
    stop_gradient,
    sum,
    where,
)
from lossbridge.spec import Param, Weight
from lossbridge.trace import Definition, define, real
from lossbridge.witnesses.kinks import first_maximum, undefined_at
from lossbridge.witnesses.witness import Meaning, derived, meaning, option, witness

# 1e-12 in torch's kernels: its nearest float32 number, in float64 too.
TINY = 9.999999960041972e-13
REDUCTIONS = ("none", "mean", "sum")
Old = bool | None  # of size_average and reduce, which came before reduction
Scores = Annotated[Expr, "real[*batch]"]

NAN_IS_0 = "At a NaN the gradient is 0 there."
STRETCHES = Calls(broadcast="ranks", integers=True)
WARNS = Calls(broadcast="ranks", warns=True, integers=True)


def reduced(reduction: str, size_average: Old = None, reduce: Old = None) -> str:
    """The reduction, the two arguments of old releases heard first."""
    if size_average is not None or reduce is not None:
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    return str(option("reduction", reduction, REDUCTIONS))


def variant(definition: Definition, **params: Param) -> Callable[[Callable[..., Any]], Definition]:
    """torch's form of a loss of the catalogue: the same declarations, another function.

    ``params`` have another domain there.
    """

    def wrap(function: Callable[..., Any]) -> Definition:
        found = derived(definition, function, {}, space="torch")
        return dataclasses.replace(found, params={**definition.params, **params})

    return wrap


def clamped(x: Expr) -> Expr:
    """torch's clamp at 0 from below: at 0 the whole gradient."""
    return first_maximum(x, 0.0)


def above_zero(x: Expr) -> Expr:
    """What torch's margin kernels add up: at 0 no gradient, and a NaN counts as 0."""
    return where(x > 0.0, x, 0.0)


def with_part(definition: Definition, part: Callable[[Expr], Expr], **params: Param) -> Definition:
    """A margin loss with another positive part."""
    return variant(definition, **params)(lambda **values: definition.function(**values, part=part))


# No weight is refused there, negative ones neither.
CLASS_WEIGHT = real(1.0, "classes")


@witness("torch.nn.L1Loss", notes=(NAN_IS_0,), calls=WARNS)
def l1(size_average: Old = None, reduce: Old = None, reduction: str = "mean") -> Meaning:
    return meaning(regression.l1, reduction=reduced(reduction, size_average, reduce))


@witness("torch.nn.MSELoss", calls=WARNS)
def mse(size_average: Old = None, reduce: Old = None, reduction: str = "mean") -> Meaning:
    return meaning(regression.mse, reduction=reduced(reduction, size_average, reduce))


@witness(
    "torch.nn.HuberLoss",
    versions=">=1.9",
    notes=("Of inputs of two dtypes the original has a value, and no gradient.",),
    calls=dataclasses.replace(WARNS, result=("prediction",)),
)
def huber(reduction: str = "mean", delta: float = 1.0) -> Meaning:
    if delta == math.inf:  # the quadratic part alone: no finite error is larger than this
        delta = sys.float_info.max
    return meaning(regression.huber, delta=delta, reduction=reduced(reduction))


@witness(
    "torch.nn.SmoothL1Loss",
    notes=("With beta=0, the gradient at a NaN is 0 there.",),
    calls=WARNS,
)
def smooth_l1(
    size_average: Old = None, reduce: Old = None, reduction: str = "mean", beta: float = 1.0
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(regression.smooth_l1, beta=beta, reduction=how)


@variant(regression.poisson_nll, eps=real(1e-8))
def torch_poisson_nll(*, target: Expr, full: Expr, **rest: Expr) -> Expr:
    value = regression.poisson_nll.function(target=target, full=full, **rest)
    # Stirling's 0 log 0 is left out of the value only.
    return undefined_at(value, target, (target == 0.0) & full)


@witness("torch.nn.PoissonNLLLoss", calls=STRETCHES)
def poisson_nll(
    log_input: bool = True,
    full: bool = False,
    size_average: Old = None,
    eps: float = 1e-8,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_poisson_nll, log_input=log_input, full=full, eps=eps, reduction=how)


@variant(regression.gaussian_nll, eps=real(1e-6))
def torch_gaussian_nll(*, var: Expr, eps: Expr, **rest: Expr) -> Expr:
    # The variance is held at eps outside the gradient, which passes as if it were not.
    held = attach_gradient(stop_gradient(maximum(var, eps)), var, 1.0)
    value: Expr = regression.gaussian_nll.function(var=held, eps=0.0, **rest)
    return value


def variance_of_rows(inputs: dict[str, Any], arrays: Any) -> None:
    """A variance may also be a number, or one for each row or along one axis of the prediction."""
    var, prediction = inputs["var"], inputs["prediction"]
    if not hasattr(var, "shape"):
        inputs["var"] = arrays.number(var, prediction) if isinstance(var, float) else var
        return
    sizes, wanted = tuple(var.shape), tuple(prediction.shape)
    if sizes == wanted:
        return
    if sizes == wanted[:-1]:
        inputs["var"] = var.reshape((*sizes, 1))
    elif len(sizes) != len(wanted) or [
        n for n, full in zip(sizes, wanted, strict=True) if n != full
    ] != [1]:
        raise ShapeError(
            f"GaussianNLLLoss: var has shape {sizes}, but the prediction has {wanted}; give it "
            f"that shape, {wanted[:-1]}, or size 1 along one axis"
        )


@witness(
    "torch.nn.GaussianNLLLoss",
    versions=">=1.8",
    notes=(
        "The original also takes a variance of one dimension less, of size 1 in one dimension, or "
        "a number; its meaning does so in PyTorch, and elsewhere it has the prediction's shape.",
    ),
    calls=dataclasses.replace(STRETCHES, arrange=variance_of_rows),
)
def gaussian_nll(*, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> Meaning:
    how = reduced(reduction)
    return meaning(torch_gaussian_nll, full=full, eps=eps, reduction=how, refuses=True)


@variant(divergence.kl_div)
def torch_kl_div(*, prediction: Expr, target: Expr, log_target: Expr) -> Expr:
    value = divergence.kl_div.function(prediction, target, log_target=log_target)
    nothing = where(log_target, target == -math.inf, target == 0.0)
    lost = nothing & (log_target | ~(abs_(prediction) < math.inf))  # 0 times inf
    return undefined_at(where(lost, math.nan, value), target, nothing)


@witness("torch.nn.KLDivLoss", calls=Calls(broadcast="ranks"))
def kl_div(
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Meaning:
    batch = reduction == "batchmean" and size_average is None and reduce is None
    return meaning(
        torch_kl_div,
        log_target=log_target,
        reduction="mean" if batch else reduced(reduction, size_average, reduce),
        normalizer="batch" if batch else None,
    )


@variant(classification.bce, weight=real(1.0, "*batch"))
def torch_bce(*, prediction: Expr, target: Expr, weight: Expr) -> Expr:
    value = classification.bce.function(
        prediction, stop_gradient(target), weight=weight, floor=TINY
    )
    # The limits of the logarithms are not in the gradient of the target.
    return attach_gradient(value, target, weight * (log(1.0 - prediction) - log(prediction)))


@witness(
    "torch.nn.BCELoss",
    calls=Calls(alike=("prediction", "target")),
)
def bce(
    weight: Any = None,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_bce, weight=weight, reduction=how, refuses=True)


@define(
    "torch/bce_with_logits@1",
    params={"weight": real(1.0, "*batch"), "pos_weight": real(1.0, "*batch")},
)
def torch_bce_with_logits(
    logits: Scores,
    target: Annotated[Expr, "probability[*batch]"],
    *,
    weight: Expr,
    pos_weight: Expr,
) -> Expr:
    """Cross-entropy of the logit of a yes-or-no probability, with a weight for each element."""
    nll: Expr = classification.bce_with_logits.function(
        logits, target, weight=1.0, pos_weight=pos_weight
    )
    infinite = abs_(logits) == math.inf
    lost = infinite & ((logits < 0.0) | (target == 1.0))  # inf - inf, and 0 times inf
    return weight * (nll + where(lost, math.nan, 0.0))


@witness(
    "torch.nn.BCEWithLogitsLoss",
    notes=("In float64 the gradient of a logit above 36.7 with target 1 rounds to 0 there.",),
    calls=Calls(result=("target",)),
)
def bce_with_logits(
    weight: Any = None,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_bce_with_logits, weight=weight, pos_weight=pos_weight, reduction=how)


def broken(logits: Expr, *over: str) -> Expr:
    """Where a log-softmax is NaN in a whole row: a NaN or inf is in it, or all are -inf."""
    over = over or ("classes",)
    return ~(all_(logits < math.inf, *over) & any_(logits > -math.inf, *over))


def through_broken(value: Expr, logits: Expr, lost: Expr) -> Expr:
    """``value``, or NaN where ``lost``; its gradient is NaN in all broken rows, ignored or not."""
    return undefined_at(where(lost, math.nan, value), logits, broken(logits))


@variant(classification.cross_entropy, weight=CLASS_WEIGHT)
def torch_cross_entropy(*, logits: Expr, labels: Expr, ignore_index: Expr, **rest: Expr) -> Any:
    value, count = classification.cross_entropy.function(
        logits, labels, ignore_index=ignore_index, **rest
    )
    return through_broken(value, logits, broken(logits) & (labels != ignore_index)), count


@variant(classification.cross_entropy_probabilities, weight=CLASS_WEIGHT)
def torch_cross_entropy_probabilities(*, logits: Expr, target: Expr, **rest: Expr) -> Expr:
    value = classification.cross_entropy_probabilities.function(logits, target, **rest, safe=False)
    lost = broken(logits)
    return undefined_at(through_broken(value, logits, lost), target, lost)


@witness(
    "torch.nn.CrossEntropyLoss",
    versions=">=1.10",
    notes=(
        "A label that is neither a class nor ignore_index raises an error there.",
        "Where the weights of all labels are 0, the gradient of the mean is NaN there, and 0 here.",
    ),
    calls=Calls(alike=("logits", "labels", "weight")),
)
def cross_entropy(
    weight: Any = None,
    size_average: Old = None,
    ignore_index: int = -100,
    reduce: Old = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Meaning:
    return meaning(
        torch_cross_entropy,
        torch_cross_entropy_probabilities,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduced(reduction, size_average, reduce),
        axis=1,
    )


@variant(classification.nll, weight=CLASS_WEIGHT)
def torch_nll(**values: Expr) -> Any:
    return classification.nll.function(**values)


@witness(
    "torch.nn.NLLLoss",
    notes=(
        "Where the weights of all labels are 0, the gradient of the mean is NaN there, and 0 here.",
    ),
    calls=Calls(alike=("log_probs", "labels", "weight")),
)
def nll(
    weight: Any = None,
    size_average: Old = None,
    ignore_index: int = -100,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_nll, weight=weight, ignore_index=ignore_index, reduction=how, axis=1)


@variant(margin.hinge_embedding)
def torch_hinge_embedding(*, target: Expr, **rest: Expr) -> Expr:
    # A label that is neither 1 nor -1 counts as both, as 0 does.
    label = where(abs_(target) == 1.0, target, 0.0)
    value: Expr = margin.hinge_embedding.function(target=label, part=clamped, **rest)
    return value


@witness(
    "torch.nn.HingeEmbeddingLoss",
    calls=dataclasses.replace(STRETCHES, result=("prediction",)),
)
def hinge_embedding(
    margin: float = 1.0,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_hinge_embedding, margin=margin, reduction=how)


@witness(
    "torch.nn.MarginRankingLoss",
    calls=Calls(broadcast="sizes", integers=True),
)
def margin_ranking(
    margin: float = 0.0,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_margin_ranking, margin=margin, reduction=how)


@variant(margin.margin_ranking)
def torch_margin_ranking(*, x1: Expr, x2: Expr, target: Expr, **rest: Expr) -> Expr:
    value = margin.margin_ranking.function(x1=x1, x2=x2, target=target, part=clamped, **rest)
    # What the clamp leaves out is multiplied by 0 there.
    apart = x1 - x2
    inside = rest["margin"] - target * apart >= 0.0
    return undefined_at(value, target, ~(inside | (abs_(apart) < math.inf)))


MULTI_MARGIN = with_part(margin.multi_margin, above_zero, weight=CLASS_WEIGHT)
MULTI_LABEL_MARGIN = with_part(margin.multi_label_margin, above_zero)


@witness(
    "torch.nn.SoftMarginLoss",
    notes=(
        "In float64 the original is inf with gradient NaN where target * prediction < -709.",
        "The original has no gradient in the target.",
    ),
    calls=Calls("ranks", whole=("prediction",), integers=True, result=("prediction",)),
)
def soft_margin(size_average: Old = None, reduce: Old = None, reduction: str = "mean") -> Meaning:
    return meaning(margin.soft_margin, reduction=reduced(reduction, size_average, reduce))


UNINITIALISED = (
    "The mean and the sum of an empty batch are uninitialised memory there, and NaN and 0 here."
)


def one_sample(inputs: dict[str, Any], arrays: Any) -> None:
    """The classes of a single sample beside a batch of one label, and the other way round."""
    prediction, labels = inputs["prediction"], inputs["labels"]
    sizes, batch = tuple(prediction.shape), tuple(labels.shape)
    if len(sizes) < 2 and batch in ((), (1,)):
        inputs["prediction"] = prediction.reshape((*batch, -1))
    elif len(sizes) == 2 and sizes[0] == 1 and batch == ():
        inputs["prediction"] = prediction.reshape((-1,))


def one_class(inputs: dict[str, Any], arrays: Any) -> None:
    """A single class may be written without an axis for it."""
    for key, x in inputs.items():
        if x.shape == ():
            inputs[key] = x.reshape((1,))


@witness(
    "torch.nn.MultiMarginLoss",
    notes=(UNINITIALISED,),
    undefined=("empty",),
    calls=Calls(alike=("prediction", "labels", "weight"), arrange=one_sample),
)
def multi_margin(
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    option("p", p, (1, 2))
    return meaning(MULTI_MARGIN, p=p, margin=margin, weight=weight, reduction=how)


@witness(
    "torch.nn.MultiLabelMarginLoss",
    notes=(UNINITIALISED,),
    undefined=("empty",),
    calls=Calls(arrange=one_class),
)
def multi_label_margin(
    size_average: Old = None, reduce: Old = None, reduction: str = "mean"
) -> Meaning:
    return meaning(MULTI_LABEL_MARGIN, reduction=reduced(reduction, size_average, reduce))


@variant(margin.multi_label_soft_margin, weight=real(1.0, "*batch, classes"))
def torch_multi_label_soft_margin(*, logits: Expr, target: Expr, weight: Expr) -> Expr:
    # One weight for each element there; those of the classes are repeated along the batch.
    value: Expr = margin.multi_label_soft_margin.function(logits, target, weight=weight)
    right = ((logits == math.inf) & (target == 1.0)) | ((logits == -math.inf) & (target == 0.0))
    return value + where(any_(right, "classes"), math.nan, 0.0)  # 0 times inf


def classes_of_logits(inputs: dict[str, Any], arrays: Any) -> None:
    """The classes lie along the logits' last axis, and are as many, whatever the target's shape."""
    logits, target = (tuple(x.shape) for x in inputs.values())
    if len(target) > len(logits) or (logits[-1:] == (1,) and target[-1:] > (1,)):
        raise ShapeError(
            f"MultiLabelSoftMarginLoss: target has shape {target}, which has more dimensions or "
            f"classes than the logits' {logits}; give it that shape"
        )


@witness(
    "torch.nn.MultiLabelSoftMarginLoss",
    calls=Calls("ranks", integers=True, arrange=classes_of_logits),
)
def multi_label_soft_margin(
    weight: Any = None,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_multi_label_soft_margin, weight=weight, reduction=how)


@variant(metric.cosine_embedding)
def torch_cosine_embedding(*, x1: Expr, x2: Expr, target: Expr, margin: Expr) -> Expr:
    squares = [dot(x, x, "features") + TINY for x in (x1, x2)]
    u, v = (x / sqrt(square) for x, square in zip((x1, x2), squares, strict=True))
    # 1 - cos; what epsilon takes from both lengths is not lost beside 1.
    missing = TINY / squares[0] + TINY / squares[1]
    cosine = dot(u, v, "features")
    near = 0.5 * (sum((u - v) ** 2, "features") + missing)
    distance = where(cosine > 0.5, near, 1.0 - cosine)
    apart = clamped(cosine - margin)
    return where(target == 1.0, distance, where(target == -1.0, apart, 0.0))


@witness(
    "torch.nn.CosineEmbeddingLoss",
    notes=("One minus a cosine near 1 is rounded there, to multiples of 1.1e-16 in float64.",),
    calls=Calls("sizes", rigid=("features",), integers=True, result=("x1", "x2")),
)
def cosine_embedding(
    margin: float = 0.0,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    return meaning(torch_cosine_embedding, margin=margin, reduction=how)


def largest_component(u: Expr, v: Expr, p: Expr, eps: Expr) -> Expr:
    """The distance that the p-norm is at p = inf."""
    return amax(abs_(u - v + eps), "features")


TRIPLET = with_part(metric.triplet_margin, clamped)


def without_power(definition: Definition) -> Definition:
    """The triplet loss at p = inf, which reads no p."""

    def function(**values: Any) -> Any:
        return metric.triplet_margin.function(
            **values, p=None, part=clamped, distance=largest_component
        )

    found = variant(definition)(function)
    known = inspect.signature(function)
    function.__signature__ = known.replace(  # type: ignore[attr-defined]
        parameters=[q for name, q in known.parameters.items() if name != "p"]
    )
    params = {name: param for name, param in found.params.items() if name != "p"}
    return dataclasses.replace(found, params=params)


TRIPLET_LARGEST = without_power(metric.triplet_margin)
TRIPLET_DISTANCE = with_part(metric.triplet_margin_with_distance, clamped)


@witness(
    "torch.nn.TripletMarginLoss",
    notes=("The original also takes a p of 0 or below, which is no norm.",),
    calls=Calls("sizes", integers=True),
)
def triplet_margin(
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Old = None,
    reduce: Old = None,
    reduction: str = "mean",
) -> Meaning:
    how = reduced(reduction, size_average, reduce)
    settings: dict[str, Any] = {"margin": margin, "eps": eps, "swap": swap}
    if p == math.inf:
        return meaning(TRIPLET_LARGEST, reduction=how, **settings)
    return meaning(TRIPLET, p=p, reduction=how, **settings)


def distance_of(loss: Any) -> Any:
    """The distance that a live loss was given; None for the default that torch puts there."""
    given = loss.distance_function
    usual = (getattr(given, "norm", 0), getattr(given, "eps", 0), getattr(given, "keepdim", 0))
    plain = type(given).__name__ == "PairwiseDistance" and usual == (2.0, 1e-6, False)
    return None if plain else given


@witness(
    "torch.nn.TripletMarginWithDistanceLoss",
    versions=">=1.7",
    read={"distance_function": distance_of},
    notes=(
        "A distance function that its specification needs is given at each call, by the "
        "argument's name.",
    ),
    calls=Calls("sizes", integers=True),
)
def triplet_margin_with_distance(
    *,
    distance_function: Any = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Meaning:
    definition = TRIPLET if distance_function is None else TRIPLET_DISTANCE
    return meaning(definition, margin=margin, swap=swap, reduction=reduced(reduction))


@variant(sequence.ctc)
def torch_ctc(
    *, log_probs: Expr, input_lengths: Expr, target_lengths: Expr, zero_infinity: Expr, **rest: Expr
) -> Any:
    cost, count = sequence.ctc.function(
        log_probs,
        input_lengths=input_lengths,
        target_lengths=target_lengths,
        zero_infinity=log_probs.builder.const(False),
        **rest,
    )
    impossible = cost == math.inf
    value = where(impossible & zero_infinity, 0.0, cost)
    # The gradient is that of the logits behind a log-softmax: the probabilities are added to it.
    share = where((log_probs == -math.inf) | impossible, math.nan, exp(log_probs))
    within = iota(log_probs, "time") < input_lengths
    share = where(within & ~(impossible & zero_infinity), share, 0.0)
    return attach_gradient(value, log_probs, share), count


def sequences_of(inputs: dict[str, Any], arrays: Any) -> Callable[[Any], Any] | None:
    """The targets of a batch may stand in one row, and a sequence may come without a batch."""
    lengths = arrays.integers(inputs["target_lengths"])
    log_probs, targets = inputs["log_probs"], inputs["targets"]
    if len(log_probs.shape) == 2:
        inputs["log_probs"] = log_probs.reshape((log_probs.shape[0], 1, log_probs.shape[1]))
        inputs["targets"] = targets.reshape((1, -1))
        inputs["target_lengths"] = lengths.reshape((1,))
        inputs["input_lengths"] = arrays.integers(inputs["input_lengths"]).reshape((1,))
        return lambda value: value.reshape(())
    if len(targets.shape) == 1:
        if int(lengths.sum()) != targets.shape[0]:
            raise ShapeError(
                f"CTCLoss: targets has shape {tuple(targets.shape)}, so the lengths of all add up "
                f"to that, but they add up to {int(lengths.sum())}"
            )
        inputs["targets"] = arrays.rows(targets, lengths)
    return None


@witness(
    "torch.nn.CTCLoss",
    notes=(
        "The original also takes the targets of a batch in one row, and a single sequence without "
        "a batch; its meaning does so in PyTorch.",
    ),
    calls=Calls(arrange=sequences_of),
)
def ctc(blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> Meaning:
    return meaning(
        torch_ctc, blank=blank, zero_infinity=zero_infinity, reduction=reduced(reduction)
    )


def behind_linear(
    definition: Definition, entropy: Definition, sizes: Mapping[str, int], bias: bool
) -> Definition:
    """Cross-entropy behind a linear layer, the axes of whose weights are ``sizes``."""
    *outputs, _ = sizes

    def function(*, embeddings: Expr, linear_weight: Expr, **rest: Expr) -> Any:
        logits = dot(embeddings, linear_weight, "features")
        if bias:
            logits = logits + rest.pop("linear_bias")
        return entropy.function(logits=logits, **rest)

    def weight(init: str, axes: Sequence[str]) -> Weight:
        kind = Kind.parse(f"real[{', '.join(axes)}]")
        return Weight(kind, init, {axis: sizes[axis] for axis in axes})

    weights = {"linear_weight": weight("glorot_uniform", list(sizes))}
    if bias:
        weights["linear_bias"] = weight("zeros", outputs)
    further = ", ".join(outputs[1:])
    added = {"labels": further, "target": further} if further else {}
    found = derived(definition, function, added, space="torch", weights=weights)
    # With further outputs a sample has a value for each of them.
    yields = "per_element" if further else "per_sample"
    settings = {**found.settings, "yields": yields}
    return dataclasses.replace(found, params=entropy.params, settings=settings)


@witness(
    "torch.nn.LinearCrossEntropyLoss",
    versions=">=2.13",
    required={"in_features": 4, "num_classes": 3},
    read={
        "in_features": lambda loss: loss.linear.in_features,
        "bias": lambda loss: loss.linear.bias is not None,
    },
    weights={"linear_weight": ("linear.weight", 2), "linear_bias": ("linear.bias", 1)},
    notes=(
        "The original's weights are `linear.weight`, a row for each class and output, and "
        "`linear.bias`; so are its meaning's in PyTorch, and elsewhere they have an axis for each. "
        "Both start from random numbers there; the bias starts from 0 here.",
        "`options` choose how the original is computed, and in which precision, not what.",
    ),
)
def linear_cross_entropy(
    in_features: int,
    num_classes: int,
    *,
    out_features: tuple[int, ...] = (),
    bias: bool = False,
    device: Any = None,
    dtype: Any = None,
    reduction: str = "mean",
    weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Meaning:
    outputs = {f"output{k}": size for k, size in enumerate(out_features)}
    sizes = {"classes": num_classes, **outputs, "features": in_features}
    pairs = (
        (classification.linear_cross_entropy, torch_cross_entropy),
        (classification.linear_cross_entropy_probabilities, torch_cross_entropy_probabilities),
    )
    return meaning(
        *(behind_linear(linear, entropy, sizes, bias) for linear, entropy in pairs),
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduced(reduction),
    )
