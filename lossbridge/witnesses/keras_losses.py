"""keras.losses: what each of its losses means. Source: Keras 3.15.1, `keras/src/losses/`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from lossbridge.catalogue import (
    classification,
    divergence,
    margin,
    metric,
    regression,
    segmentation,
    sequence,
)
from lossbridge.checks import CASTS
from lossbridge.errors import ArgumentError, shown
from lossbridge.ir import Expr
from lossbridge.kinds import Kind
from lossbridge.ops import (
    all_,
    amax,
    attach_gradient,
    clip,
    dot,
    flip,
    indicator,
    iota,
    log,
    log_softmax,
    logsumexp,
    mean,
    norm,
    normalize,
    range_,
    rename,
    restate,
    sigmoid,
    size,
    softmax,
    stop_gradient,
    sum,
    take,
    where,
)
from lossbridge.spec import Param
from lossbridge.trace import Definition, define, flag, integer, positive, real
from lossbridge.witnesses.kinks import first_maximum, undefined_at
from lossbridge.witnesses.witness import (
    Meaning,
    averaged,
    derived,
    index_meaning,
    meaning,
    option,
    witness,
)

Name = str | None
MEAN = "sum_over_batch_size"
REDUCTIONS = {
    MEAN: ("mean", "elements"),
    "mean": ("mean", "elements"),
    "mean_with_sample_weight": ("mean", "weights"),
    "sum": ("sum", "elements"),
    "none": ("none", "elements"),
    None: ("none", "elements"),
}
EPSILON = 1e-7  # keras.config.epsilon(), which a user may set
# Made a tensor of float32 before it meets numbers of float64.
EPSILON_32 = 1.0000000116860974e-07

DTYPE = (
    "Without a dtype, inputs of float64 are cast to float32 there; in half precision each step is "
    "rounded there, and epsilon with it, here the inputs and the result are."
)
EMPTY = "A batch of size 0 whose samples have one axis gives an empty array instead of 0."
LOGITS = (
    "Where Keras's sigmoid or softmax made the predictions, or TensorFlow's in a graph, the logits "
    "before it are read instead, as with from_logits=True."
)
WEIGHTS = "Sample weights of lower rank align with the last axis, not the first."
CONFIG = "get_config() holds name and reduction alone there, and the whole meaning here."
MASKED = "Before 3.13 a mean over what a mask leaves is divided by its count plus 1e-7."
IGNORED = "Before 3.15 what ignore_class leaves out is multiplied by 0, which keeps a NaN."
EVERY = (DTYPE, EMPTY, WEIGHTS, MASKED)


def dtype_of(given: Any) -> str | None:
    """The name of a dtype, however it was given: its name, a policy's, an object of a framework."""
    if given is None or isinstance(given, Mapping):  # a policy as Keras saves it
        given = (given or {}).get("config", {}).get("name")
    given = getattr(given, "compute_dtype", given)
    name = getattr(given, "name", None) or getattr(given, "__name__", None) or given
    return None if name is None else str(name).removeprefix("mixed_")


def keras_meaning(
    *definitions: Definition,
    reduction: Name,
    axis: int = -1,
    counted: bool = False,
    dtype: Any = None,
    **params: Any,
) -> Meaning:
    """Losses under one of Keras's reductions; a mean over nothing is 0.

    ``counted``: a mean divides by the number of samples that count, as with a mask.
    """
    cast = option("dtype", dtype_of(dtype) or "floating", CASTS)
    option("reduction", reduction, tuple(REDUCTIONS))
    kind, normalizer = REDUCTIONS[reduction]
    if counted and normalizer == "elements":
        normalizer = "valid"
    return meaning(
        *definitions,
        reduction=kind,
        normalizer=normalizer,
        axis=axis,
        empty="zero",
        cast=cast,
        masked="multiply",
        **params,
    )


def keras(
    name: str,
    kind: str = "real[*batch, classes]",
    *,
    labels: str | None = None,
    yields: str = "per_sample",
    params: Mapping[str, Param] | None = None,
) -> Callable[[Callable[..., Any]], Definition]:
    """A loss as Keras has it, of predictions of a kind and targets of the same, or labels."""

    def wrap(function: Callable[..., Any]) -> Definition:
        second = "target" if labels is None else "labels"
        function.__annotations__ = {
            "prediction": Annotated[Expr, kind],
            second: Annotated[Expr, labels or kind],
        }
        return define(f"keras/{name}@1", params=params, yields=yields)(function)

    return wrap


FEATURES = "real[*batch, features]"


def variant(definition: Definition) -> Callable[[Callable[..., Any]], Definition]:
    """A loss of the catalogue with another function, averaged over a last axis."""
    return lambda f: averaged(derived(definition, f, {}, space="keras"))


def places(named: Mapping[int, str]) -> str:
    """The axes of an array of any rank, some named by their place: "before0, classes, *middle"."""
    front = [named.get(k, f"before{k}") for k in range(max(named, default=-1) + 1)]
    back = [named.get(k, f"after{-k}") for k in range(min(named, default=0), 0)]
    return ", ".join([*front, "*middle", *back])


def summed(axis: int | Sequence[int] | None) -> dict[int, str]:
    """Names for the axes, by their place, that an argument ``axis`` says to sum over."""
    wanted = () if axis is None else (axis,) if isinstance(axis, int) else axis
    return {k: f"summed{i}" for i, k in enumerate(wanted)}


# --- regression ----------------------------------------------------------------------------------


@witness("keras.losses.MeanSquaredError", notes=EVERY)
def mse(reduction: Name = MEAN, name: Name = "mean_squared_error", dtype: Any = None) -> Meaning:
    return keras_meaning(averaged(regression.mse), reduction=reduction, dtype=dtype)


@witness("keras.losses.MeanAbsoluteError", notes=EVERY)
def mae(reduction: Name = MEAN, name: Name = "mean_absolute_error", dtype: Any = None) -> Meaning:
    return keras_meaning(averaged(regression.l1), reduction=reduction, dtype=dtype)


@witness("keras.losses.MeanAbsolutePercentageError", notes=EVERY)
def mape(
    reduction: Name = MEAN, name: Name = "mean_absolute_percentage_error", dtype: Any = None
) -> Meaning:
    return keras_meaning(averaged(regression.mape), eps=EPSILON, reduction=reduction, dtype=dtype)


@variant(regression.msle)
def held_msle(prediction: Expr, target: Expr) -> Expr:
    x, y = first_maximum(prediction, EPSILON_32), first_maximum(target, EPSILON_32)
    value: Expr = regression.msle.function(x, y)
    return value


@witness("keras.losses.MeanSquaredLogarithmicError", notes=EVERY)
def msle(
    reduction: Name = MEAN, name: Name = "mean_squared_logarithmic_error", dtype: Any = None
) -> Meaning:
    return keras_meaning(held_msle, reduction=reduction, dtype=dtype)


@witness(
    "keras.losses.Huber",
    notes=(
        *EVERY,
        CONFIG,
        "At an infinite error the gradient is NaN there, from the branch not taken.",
    ),
)
def huber(
    delta: float = 1.0, reduction: Name = MEAN, name: Name = "huber_loss", dtype: Any = None
) -> Meaning:
    return keras_meaning(averaged(regression.huber), delta=delta, reduction=reduction, dtype=dtype)


@witness(
    "keras.losses.LogCosh",
    notes=(
        *EVERY,
        CONFIG,
        "The value is a difference that cancels near an error of 0, and log 2 is subtracted as "
        "rounded to float32, so that in float64 it is 1.9e-9 too small.",
        "An error of -inf gives NaN there.",
    ),
)
def log_cosh(reduction: Name = MEAN, name: Name = "log_cosh", dtype: Any = None) -> Meaning:
    return keras_meaning(averaged(regression.log_cosh), reduction=reduction, dtype=dtype)


@witness("keras.losses.Poisson", notes=EVERY)
def poisson(reduction: Name = MEAN, name: Name = "poisson", dtype: Any = None) -> Meaning:
    nll = averaged(regression.poisson_nll)
    return keras_meaning(nll, log_input=False, eps=EPSILON, reduction=reduction, dtype=dtype)


def direction(x: Expr) -> Expr:
    """A unit vector; one shorter than epsilon is divided by epsilon instead."""
    return where(norm(x, "features") >= EPSILON, normalize(x, "features"), x / EPSILON)


@keras("CosineSimilarity", FEATURES)
def cosine(prediction: Expr, target: Expr) -> Expr:
    return -dot(direction(prediction), direction(target), "features")


@witness(
    "keras.losses.CosineSimilarity",
    notes=(
        *EVERY,
        CONFIG,
        "Norms are roots of plain sums of squares, which overflow and underflow.",
    ),
)
def cosine_similarity(
    axis: int = -1, reduction: Name = MEAN, name: Name = "cosine_similarity", dtype: Any = None
) -> Meaning:
    return keras_meaning(cosine, axis=axis, reduction=reduction, dtype=dtype)


# --- margins -------------------------------------------------------------------------------------


def above_zero(x: Expr) -> Expr:
    """TensorFlow's maximum with 0: at 0 the whole gradient."""
    return first_maximum(x, 0.0)


def of_signs(definition: Definition) -> Definition:
    """A margin loss of labels -1 and 1, or 0 and 1 if every label of the batch is one of them."""

    def function(prediction: Expr, target: Expr) -> Expr:
        binary = all_((target == 0.0) | (target == 1.0), "*batch", "features")
        signs = where(binary, 2.0 * target - 1.0, target)
        value = definition.function(prediction, signs, margin=1.0, part=above_zero)
        return mean(value, "features")

    return keras(definition.name, FEATURES)(function)


@witness("keras.losses.Hinge", notes=EVERY)
def hinge(reduction: Name = MEAN, name: Name = "hinge", dtype: Any = None) -> Meaning:
    return keras_meaning(of_signs(margin.hinge), reduction=reduction, dtype=dtype)


@witness("keras.losses.SquaredHinge", notes=EVERY)
def squared_hinge(
    reduction: Name = MEAN, name: Name = "squared_hinge", dtype: Any = None
) -> Meaning:
    return keras_meaning(of_signs(margin.squared_hinge), reduction=reduction, dtype=dtype)


@keras("CategoricalHinge")
def one_hot_hinge(prediction: Expr, target: Expr) -> Expr:
    # The labelled class enters the maximum too, as a score of 0.
    rival = amax((1.0 - target) * prediction, "classes")
    return above_zero(rival - dot(target, prediction, "classes") + 1.0)


@witness("keras.losses.CategoricalHinge", notes=EVERY)
def categorical_hinge(
    reduction: Name = MEAN, name: Name = "categorical_hinge", dtype: Any = None
) -> Meaning:
    return keras_meaning(one_hot_hinge, reduction=reduction, dtype=dtype)


# --- probabilities -------------------------------------------------------------------------------


def held(p: Expr) -> Expr:
    """A probability kept from 0 and 1; the gradient passes within, the ends included."""
    return clip(p, EPSILON, 1.0 - EPSILON)


@keras("KLDivergence")
def held_kl(prediction: Expr, target: Expr) -> Expr:
    p, q = clip(target, EPSILON, 1.0), clip(prediction, EPSILON, 1.0)
    return sum(divergence.kl_div.function(log(q), p, log_target=False), "classes")


@witness("keras.losses.KLDivergence", notes=EVERY)
def kl_divergence(
    reduction: Name = MEAN, name: Name = "kl_divergence", dtype: Any = None
) -> Meaning:
    return keras_meaning(held_kl, reduction=reduction, dtype=dtype)


SMOOTHED = {"from_logits": flag(False), "label_smoothing": real(0.0)}


def two_sided(x: Expr, t: Expr, from_logits: Expr) -> Expr:
    """Binary cross-entropy of logits, or of probabilities."""
    logistic = classification.bce_with_logits.function(x, t, weight=1.0, pos_weight=1.0)
    return where(from_logits, logistic, classification.bce.function(held(x), t, weight=1.0))


@keras("BinaryCrossentropy", FEATURES, params=SMOOTHED)
def bce(prediction: Expr, target: Expr, *, from_logits: Expr, label_smoothing: Expr) -> Expr:
    t = classification.smoothed(target, label_smoothing, 2.0)
    return mean(two_sided(prediction, t, from_logits), "features")


@witness("keras.losses.BinaryCrossentropy", notes=(*EVERY, LOGITS))
def binary_crossentropy(
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    reduction: Name = MEAN,
    name: Name = "binary_crossentropy",
    dtype: Any = None,
) -> Meaning:
    params: dict[str, Any] = {"from_logits": from_logits, "label_smoothing": label_smoothing}
    return keras_meaning(bce, axis=axis, reduction=reduction, dtype=dtype, **params)


FOCAL = {"apply_class_balancing": flag(False), "alpha": real(0.25), "gamma": real(2.0)}


@keras("BinaryFocalCrossentropy", FEATURES, params=FOCAL | SMOOTHED)
def binary_focal(
    prediction: Expr,
    target: Expr,
    *,
    apply_class_balancing: Expr,
    alpha: Expr,
    gamma: Expr,
    from_logits: Expr,
    label_smoothing: Expr,
) -> Expr:
    t = classification.smoothed(target, label_smoothing, 2.0)
    p = where(from_logits, sigmoid(prediction), prediction)
    missing = 1.0 - (t * p + (1.0 - t) * (1.0 - p))
    # The power's derivative, times the 0 of the class that is not meant.
    power = undefined_at(missing**gamma, missing, (missing == 0.0) & (gamma < 1.0))
    # Keras remembers the logits that its own sigmoid was given.
    nll = power * two_sided(prediction, t, from_logits)
    share = t * alpha + (1.0 - t) * (1.0 - alpha)
    return mean(where(apply_class_balancing, share * nll, nll), "features")


@witness("keras.losses.BinaryFocalCrossentropy", notes=(*EVERY, LOGITS))
def binary_focal_crossentropy(
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    reduction: Name = MEAN,
    name: Name = "binary_focal_crossentropy",
    dtype: Any = None,
) -> Meaning:
    return keras_meaning(
        binary_focal,
        apply_class_balancing=apply_class_balancing,
        alpha=alpha,
        gamma=gamma,
        from_logits=from_logits,
        label_smoothing=label_smoothing,
        axis=axis,
        reduction=reduction,
        dtype=dtype,
    )


LAST_AXIS = (
    "With another axis than the last and label_smoothing, arrays have three axes or more here.",
    "Releases after 3.15.1 divide label_smoothing by the size of axis, not of the last axis.",
)


def with_classes(
    make: Callable[[str, str], Definition], axis: int, label_smoothing: float
) -> Definition:
    """A loss over classes at an axis, which shares its smoothing over the size of the last one."""
    if axis == -1 or not label_smoothing:
        return make("real[*batch, classes]", "classes")
    return make(f"real[{places({axis: 'classes', -1: 'last'})}]", "last")


def over_classes(kind: str) -> str:
    """What a value means that is left of a kind when its classes are summed over."""
    return index_meaning(", ".join(Kind.parse(kind).axes), ("classes",))


def crossentropy(kind: str, last: str) -> Definition:
    @keras("CategoricalCrossentropy", kind, yields=over_classes(kind), params=SMOOTHED)
    def body(prediction: Expr, target: Expr, *, from_logits: Expr, label_smoothing: Expr) -> Expr:
        t = classification.smoothed(target, label_smoothing, size(prediction, last))
        nll = classification.cross_entropy_probabilities.function(
            stop_gradient(prediction), t, weight=1.0, label_smoothing=0.0, safe=False
        )
        # Right where the targets sum to 1; stated so for any.
        logistic = attach_gradient(nll, prediction, softmax(prediction, "classes") - t)
        whole = sum(prediction, "classes")
        nll = -dot(t, log(held(prediction / whole)), "classes")
        return where(from_logits, logistic, undefined_at(nll, prediction, whole == 0.0))

    return body


@witness("keras.losses.CategoricalCrossentropy", notes=(*EVERY, LOGITS, *LAST_AXIS))
def categorical_crossentropy(
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    reduction: Name = MEAN,
    name: Name = "categorical_crossentropy",
    dtype: Any = None,
) -> Meaning:
    loss = with_classes(crossentropy, axis, label_smoothing)
    params: dict[str, Any] = {"from_logits": from_logits, "label_smoothing": label_smoothing}
    return keras_meaning(loss, axis=axis, reduction=reduction, dtype=dtype, **params)


def focal_crossentropy(kind: str, last: str) -> Definition:
    params = {"alpha": real(0.25, "classes"), "gamma": real(2.0), **SMOOTHED}

    @keras("CategoricalFocalCrossentropy", kind, yields=over_classes(kind), params=params)
    def body(
        prediction: Expr,
        target: Expr,
        *,
        alpha: Expr,
        gamma: Expr,
        from_logits: Expr,
        label_smoothing: Expr,
    ) -> Expr:
        t = classification.smoothed(target, label_smoothing, size(prediction, last))
        x = where(from_logits, softmax(prediction, "classes"), prediction)
        whole = sum(x, "classes")
        terms = classification.focal_terms(t, held(x / whole), gamma)
        nothing = whole == 0.0  # 0 / 0, in the value and in both gradients
        value = where(nothing, math.nan, sum(alpha * terms, "classes"))
        return undefined_at(undefined_at(value, prediction, nothing), target, nothing)

    return body


@witness("keras.losses.CategoricalFocalCrossentropy", notes=(*EVERY, *LAST_AXIS))
def categorical_focal_crossentropy(
    alpha: Any = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    reduction: Name = MEAN,
    name: Name = "categorical_focal_crossentropy",
    dtype: Any = None,
) -> Meaning:
    if isinstance(alpha, list | tuple):  # Keras makes an array of float32 of these
        alpha = [float(np.float32(weight)) for weight in alpha]
    return keras_meaning(
        with_classes(focal_crossentropy, axis, label_smoothing),
        alpha=alpha,
        gamma=gamma,
        from_logits=from_logits,
        label_smoothing=label_smoothing,
        axis=axis,
        reduction=reduction,
        dtype=dtype,
    )


NO_LABEL = -(2**31)  # stands for None: no label is this number


@keras(
    "SparseCategoricalCrossentropy",
    labels="index(classes)[*batch]",
    params={"from_logits": flag(False), "ignore_index": integer(NO_LABEL)},
)
def sparse_crossentropy(
    prediction: Expr, labels: Expr, *, from_logits: Expr, ignore_index: Expr
) -> tuple[Expr, Expr]:
    counted = labels != ignore_index
    x = where(counted, prediction, 0.0)
    # Logarithms of clipped probabilities are taken for logits: a second softmax normalises them.
    logits = where(from_logits, x, log(held(x)))
    value = classification.focal_of_label(logits, where(counted, labels, 0), 0.0)
    return where(counted, value, 0.0), indicator(counted)


@witness(
    "keras.losses.SparseCategoricalCrossentropy",
    notes=(
        *EVERY,
        LOGITS,
        "A label out of range raises on the CPU, and gives NaN under XLA.",
        IGNORED,
        "Another axis than the last raises on TensorFlow.",
        "Labels are cast to the dtype of the loss first: in float16 those above 2048 are rounded.",
    ),
)
def sparse_categorical_crossentropy(
    from_logits: bool = False,
    ignore_class: int | None = None,
    reduction: Name = MEAN,
    axis: int = -1,
    name: Name = "sparse_categorical_crossentropy",
    dtype: Any = None,
) -> Meaning:
    params: dict[str, Any] = {"from_logits": from_logits, "ignore_index": ignore_class}
    return keras_meaning(
        sparse_crossentropy, axis=axis, reduction=reduction, dtype=dtype, counted=True, **params
    )


@keras("CategoricalGeneralizedCrossEntropy", labels="integer[*batch]", params={"q": positive(0.5)})
def generalized_crossentropy(prediction: Expr, labels: Expr, *, q: Expr) -> Expr:
    # A label out of range is no class: its probability is 0.
    hit = iota(prediction, "classes") == labels
    p = sum(where(hit, prediction, 0.0), "classes")
    # The slope there, times the 0 of every other class.
    return undefined_at((1.0 - p**q) / q, prediction, (p == 0.0) & ~hit)


@witness("keras.losses.CategoricalGeneralizedCrossEntropy", ">=3.10", notes=EVERY)
def generalized_cross_entropy(
    q: float = 0.5,
    reduction: Name = MEAN,
    name: Name = "categorical_generalized_cross_entropy",
    dtype: Any = None,
) -> Meaning:
    if not 0.0 < q < 1.0:
        raise ArgumentError(f"q={shown(q)} was given; it is a number between 0 and 1")
    return keras_meaning(generalized_crossentropy, q=q, reduction=reduction, dtype=dtype)


# --- overlaps ------------------------------------------------------------------------------------


def overlap(name: str, axis: int | Sequence[int] | None, spare: float) -> Definition:
    """1 - overlap / (overlap + rest + spare), over the given axes or all."""
    named = summed(axis)
    axes = ("*middle",) if axis is None else tuple(named.values())
    weights = {"excess": real(0.5), "missing": real(0.5)}
    kinds = places(named)

    @keras(name, f"real[{kinds}]", yields=index_meaning(kinds, axes), params=weights)
    def body(prediction: Expr, target: Expr, *, excess: Expr, missing: Expr) -> Expr:
        both, rest = segmentation.overlap_and_rest(prediction, target, excess, missing, *axes)
        whole = both + rest + spare
        return restate((rest + spare) / whole, 1.0 - both / whole)

    return body


@witness("keras.losses.Dice", notes=EVERY)
def dice(
    reduction: Name = MEAN, name: Name = "dice", axis: Any = None, dtype: Any = None
) -> Meaning:
    return keras_meaning(overlap("Dice", axis, EPSILON / 2.0), reduction=reduction, dtype=dtype)


@witness(
    "keras.losses.Tversky",
    "<3.16",
    notes=(*EVERY, "The documentation has alpha and beta the other way round."),
)
def old_tversky(
    alpha: float = 0.5,
    beta: float = 0.5,
    reduction: Name = MEAN,
    name: Name = "tversky",
    axis: Any = None,
    dtype: Any = None,
) -> Meaning:
    loss = overlap("Tversky", axis, EPSILON)
    return keras_meaning(loss, missing=alpha, excess=beta, reduction=reduction, dtype=dtype)


@witness("keras.losses.Tversky", ">=3.16", notes=EVERY)
def tversky(
    alpha: float = 0.5,
    beta: float = 0.5,
    reduction: Name = MEAN,
    name: Name = "tversky",
    axis: Any = None,
    dtype: Any = None,
) -> Meaning:
    return old_tversky.construct(
        alpha=beta, beta=alpha, axis=axis, reduction=reduction, dtype=dtype
    )


# --- pairs and sequences -------------------------------------------------------------------------


@keras(
    "Circle",
    "real[batch, features]",
    labels="integer[batch]",
    params={"gamma": real(80.0), "margin": real(0.4), "remove_diagonal": flag(True)},
)
def circle_of_pairs(
    prediction: Expr, labels: Expr, *, gamma: Expr, margin: Expr, remove_diagonal: Expr
) -> tuple[Expr, Expr]:
    other = rename(prediction, "batch", "others")
    similarity = 1.0 - above_zero(1.0 - dot(prediction, other, "features"))
    same = labels == rename(labels, "batch", "others")
    itself = iota(prediction, "batch") == iota(prediction, "others")
    value = metric.circle_value(
        similarity,
        same & ~(remove_diagonal & itself),
        ~same,
        near_weight=above_zero(1.0 + margin - similarity),
        far_weight=above_zero(margin + similarity),
        gamma=gamma,
        margin=margin,
    )
    # Samples that cost nothing are masked. Not ~(value <= 0): TensorFlow makes that value > 0.
    return value, indicator((value > 0.0) | (value != value))


@witness(
    "keras.losses.Circle",
    ">=3.7",
    notes=(DTYPE, "Embeddings are taken as they are: of length 1 is what they should be."),
)
def circle(
    gamma: float = 80.0,
    margin: float = 0.4,
    remove_diagonal: bool = True,
    reduction: Name = MEAN,
    name: Name = "circle",
    dtype: Any = None,
) -> Meaning:
    params: dict[str, Any] = {"gamma": gamma, "margin": margin, "remove_diagonal": remove_diagonal}
    return keras_meaning(circle_of_pairs, reduction=reduction, dtype=dtype, counted=True, **params)


# The logarithm of 1e-307 in float32, for the probability of ending, or beginning, elsewhere.
LOG_0 = -706.8936157226562


@keras("CTC", "real[batch, time, classes]", labels="integer[batch, positions]")
def held_ctc(prediction: Expr, labels: Expr) -> Expr:
    length = sum(indicator(labels != 0), "positions")
    state = range_("states", 2.0 * size(labels, "positions") + 1.0)
    ends = (state == 2 * length) | (state == 2 * length - 1)
    final = where(ends, 0.0, LOG_0)

    def likelihood(x: Expr, **how: Any) -> Expr:
        last = take(flip(sequence.forward(x, labels, 0, **how), "time"), 0, "time")
        return logsumexp(last + final, "states")

    def silent(emit: Expr, is_blank_label: Expr) -> Expr:
        return where(is_blank_label, stop_gradient(emit), emit)

    # Its gradient is stated: alignments may begin elsewhere too, and what a 0 among the labels
    # emits is left out, but not what normalises it.
    total = sum(logsumexp(prediction, "classes"), "time")
    slope = total - likelihood(prediction, outside=LOG_0, emitted=silent)
    return restate(-likelihood(log_softmax(prediction, "classes")), slope)


@witness(
    "keras.losses.CTC",
    notes=(DTYPE, "Computed in float32, from float64 inputs too."),
    computes="float32",
)
def ctc(reduction: Name = MEAN, name: Name = "ctc", dtype: Any = None) -> Meaning:
    return keras_meaning(held_ctc, reduction=reduction, dtype=dtype)
