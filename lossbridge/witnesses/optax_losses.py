"""optax.losses: what each of its functions means. Source: optax 0.2.8, `optax/losses/`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Annotated, Any

from lossbridge.catalogue import (
    classification,
    divergence,
    margin,
    metric,
    regression,
    segmentation,
    sequence,
)
from lossbridge.errors import ArgumentError
from lossbridge.frontdoor import Calls
from lossbridge.ir import Expr
from lossbridge.kinds import Kind
from lossbridge.ops import (
    abs_,
    amax,
    any_,
    attach_gradient,
    broadcast,
    dot,
    flip,
    indicator,
    iota,
    log_softmax,
    logaddexp,
    logsumexp,
    maximum,
    mean,
    minimum,
    norm,
    range_,
    rename,
    shift,
    sigmoid,
    size,
    softmax,
    sqrt,
    stop_gradient,
    sum,
    take,
    to_real,
)
from lossbridge.ops import where as select
from lossbridge.spec import Param, Reduction
from lossbridge.trace import Definition, define, flag, integer, real
from lossbridge.witnesses.keras_losses import places, summed
from lossbridge.witnesses.kinks import undefined_at
from lossbridge.witnesses.torch_nn import broken, torch_kl_div
from lossbridge.witnesses.witness import (
    Meaning,
    Witness,
    derived,
    index_meaning,
    meaning,
    option,
    witness,
)

Axis = int | tuple[int, ...] | None
Mask = Expr | None  # which elements are included: None is all

INFINITE = "At infinite inputs the original is NaN in places, where inf times 0 is computed."
MASKED_NAN = "A NaN or inf that `where` leaves out makes gradients NaN there."
OLDER = "Before 0.2.6 `where` takes no whole samples, before 0.2.5 `axis` no several axes."
RANK = "A `where` of another rank than the logits means two things there; here it has theirs."
WIDE = "In JAX's 64-bit mode the result is float64 there, whatever the dtype of the scores."
OFFSET = "Logits with a large common offset lose there the digits that the offset takes."


def unreduced(*definitions: Definition, **params: Any) -> Meaning:
    """Losses as optax gives them: not averaged, classes last."""
    return meaning(*definitions, reduction="none", axis=-1, **params)


def optax(
    name: str,
    yields: str,
    inputs: Mapping[str, str],
    *,
    mask: Mapping[str, Param] | None = None,
    normalizer: str | None = None,
    empty: str = "nan",
    **params: Param,
) -> Callable[[Callable[..., Any]], Definition]:
    """A loss as optax has it, of inputs of these kinds; with a normaliser it is a mean.

    ``mask`` declares the parameter ``included``, which the function has only if `where` was given.
    """
    params = {**params, **(mask or {})}

    def wrap(function: Callable[..., Any]) -> Definition:
        # Read by `inspect` and `typing` in place of the function's own.
        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in (*inputs, *params)]
        )
        function.__annotations__ = {n: Annotated[Expr, kind] for n, kind in inputs.items()}
        how = Reduction("mean" if normalizer else "none", normalizer or "elements")
        return define(f"optax/{name}@1", params=params, yields=yields, reduction=how, empty=empty)(
            function
        )

    return wrap


# --- axis= and where= ----------------------------------------------------------------------------


def depth(value: Any) -> int:
    """How many axes an array of any framework, or a nest of lists, has."""
    if hasattr(value, "shape"):
        return len(value.shape)
    return 1 + (depth(value[0]) if value else 0) if isinstance(value, list | tuple) else 0


def laid(axis: Axis, rank: int | None = None) -> tuple[str, tuple[str, ...]]:
    """The axes of an array of a rank, or of any, and those among them that ``axis`` means."""
    if axis is None:
        return "*classes", ("*classes",)
    wanted = (axis,) if isinstance(axis, int) else tuple(axis)
    names = tuple("classes" + (str(i) if i else "") for i in range(len(wanted)))
    named = dict(zip(wanted, names, strict=True))
    if rank is not None:
        placed = {k % rank: name for k, name in named.items()}
        return ", ".join(placed.get(k, f"axis{k}") for k in range(rank)), names
    return "*batch, classes" if axis == -1 else places(named), names


def rest(axes: str, over: tuple[str, ...]) -> str:
    """The axes that are left."""
    return ", ".join(a for a in axes.split(", ") if a not in over)


def index(axes: str, over: tuple[str, ...]) -> str:
    """What a value is for that is left of these axes."""
    return index_meaning(axes, over)


def masking(where: Any, axes: str) -> dict[str, Param]:
    """The parameter ``included`` of these axes, along which it is repeated as in NumPy, if it is
    given."""
    if where is None:
        return {}
    return {"included": Param(Kind.parse(f"binary[{axes}]" if axes else "binary"))}


Layout = tuple[str, tuple[str, ...], dict[str, Param]]


def layouts(axis: Axis, where: Any) -> list[Layout]:
    """Axes, those that ``axis`` means, and a mask: of samples, or of the logits' own rank.

    Which of the two it is, the rank of the logits says.
    """
    axes, over = laid(axis)
    samples = axes, over, masking(where, rest(axes, over))
    if where is None:
        return [samples]
    rank = depth(where)
    wanted = (axis,) if isinstance(axis, int) else axis or ()
    if not all(-rank <= k < rank for k in wanted):
        return [samples]
    axes, over = laid(axis, rank)
    own = axes, over, masking(where, axes)
    return [samples, own] if rank == 1 else [own, samples]


def laid_out(loss: Callable[..., Definition], axis: Axis, where: Any) -> Meaning:
    """The loss in each of its layouts."""
    return unreduced(*(loss(*layout) for layout in layouts(axis, where)), included=where)


def pair(axes: str, first: str = "prediction") -> dict[str, str]:
    """The kinds of two inputs of these axes."""
    return {first: f"real[{axes}]", "target": f"real[{axes}]"}


def kept(included: Mask, x: Expr, other: float) -> Expr:
    """``x`` where it is included, else another number."""
    return x if included is None else select(included != 0.0, x, other)


def any_kept(included: Expr, over: tuple[str, ...]) -> Expr:
    axes = [a for a in over if a in included.axes]
    return any_(included != 0.0, *axes) if axes else included != 0.0


# --- regression ----------------------------------------------------------------------------------

ERRORS = ("predictions", "targets")
REPEATS = Calls(broadcast="ranks")
SAMPLES = Calls(broadcast="ranks", normalised=True)
CASTS = Calls(broadcast="ranks", result=("logits",))  # the labels, to the logits' dtype
ZEROS = Calls(optional=("target",))
FREE = Calls(broadcast="ranks", optional=("target",))
CHANNEL = Calls(channel=True)


@witness("optax.losses.squared_error", call=ERRORS, calls=ZEROS)
def squared_error() -> Meaning:
    return unreduced(regression.mse)


@witness("optax.losses.l2_loss", call=ERRORS, calls=ZEROS)
def l2_loss() -> Meaning:
    return unreduced(HALF)


HALF = derived(
    regression.mse, lambda **pair: 0.5 * regression.mse.function(**pair), {}, space="optax"
)


@witness("optax.losses.huber_loss", call=ERRORS, calls=FREE)
def huber_loss(*, delta: float = 1.0) -> Meaning:
    return unreduced(regression.huber, delta=delta)


@witness(
    "optax.losses.log_cosh",
    call=ERRORS,
    calls=FREE,
    notes=("The value is a difference that cancels near an error of 0.",),
)
def log_cosh() -> Meaning:
    return unreduced(regression.log_cosh)


def unit(x: Expr, included: Mask, epsilon: Expr, over: tuple[str, ...]) -> tuple[Expr, Expr, Expr]:
    """A direction, its vector's squared norm held at epsilon; what 1 lacks; whether it is 0 / 0."""
    x = kept(included, x, 0.0)
    length, floor = norm(x, *over), sqrt(epsilon)
    u = kept(included, x / maximum(length, floor), 0.0)
    short = select(length > floor, 0.0, 1.0 - sum(u**2, *over))
    return u, short, (length == 0.0) & (epsilon == 0.0)


def cosine(distance: bool, epsilon: float, axis: Axis, where: Any) -> Meaning:
    axes, over = laid(axis)
    kinds = pair(axes)
    name = "cosine_distance" if distance else "cosine_similarity"

    @optax(name, index(axes, over), kinds, epsilon=real(0.0), mask=masking(where, axes))
    def body(prediction: Expr, target: Expr, epsilon: Expr, included: Mask = None) -> Expr:
        u, short_u, lost_u = unit(prediction, included, epsilon, over)
        v, short_v, lost_v = unit(target, included, epsilon, over)
        value = dot(u, v, *over)
        if distance:
            near = metric.half_chord(u, v, *over) + 0.5 * (short_u + short_v)
            value = select(value > 0.5, near, 1.0 - value)
        lost = lost_u | lost_v
        return undefined_at(undefined_at(value, prediction, lost), target, lost)

    return unreduced(body, epsilon=epsilon, included=where)


SQUARES = "Norms are roots of plain sums of squares, which overflow and underflow."


@witness("optax.losses.cosine_similarity", call=ERRORS, notes=(SQUARES, MASKED_NAN))
def cosine_similarity(*, epsilon: float = 0.0, axis: Axis = -1, where: Any = None) -> Meaning:
    return cosine(False, epsilon, axis, where)


@witness(
    "optax.losses.cosine_distance",
    call=ERRORS,
    notes=(SQUARES, MASKED_NAN, "One minus a cosine near 1 is rounded there."),
)
def cosine_distance(*, epsilon: float = 0.0, axis: Axis = -1, where: Any = None) -> Meaning:
    return cosine(True, epsilon, axis, where)


# --- two classes ---------------------------------------------------------------------------------

LOGITS = ("logits", "labels")
SCORES = ("predictor_outputs", "targets")


@witness("optax.losses.sigmoid_binary_cross_entropy", call=LOGITS, calls=CASTS)
def sigmoid_binary_cross_entropy() -> Meaning:
    return unreduced(classification.bce_with_logits)


ELEMENTS = {"logits": "real[*batch]", "target": "probability[*batch]"}


@optax("focal", "per_element", ELEMENTS, weighed=flag(False), alpha=real(0.25), gamma=real(2.0))
def focal(logits: Expr, target: Expr, weighed: Expr, alpha: Expr, gamma: Expr) -> Expr:
    # A soft label's probability is mixed before the power is taken.
    # Parts of no weight are left out of the gradient too.
    wrong = select(target == 0.0, 0.0, target * sigmoid(-logits))
    missing = wrong + select(target == 1.0, 0.0, (1.0 - target) * sigmoid(logits))
    none = missing == 0.0
    power = select(none, 0.0**gamma, select(none, 1.0, missing) ** gamma)
    nll = power * classification.bce_with_logits.function(
        logits, target, weight=1.0, pos_weight=1.0
    )
    return select(weighed, (alpha * target + (1.0 - alpha) * (1.0 - target)) * nll, nll)


@witness(
    "optax.losses.sigmoid_focal_loss",
    call=LOGITS,
    calls=CASTS,
    notes=(
        INFINITE,
        "Releases before 0.2.6 have the mixture's slope in hard labels too.",
    ),
)
def sigmoid_focal_loss(*, alpha: float | None = None, gamma: float = 2.0) -> Meaning:
    return unreduced(focal, weighed=alpha is not None, alpha=alpha, gamma=gamma)


def part_of_numbers(x: Expr) -> Expr:
    """``x`` where it is above 0, else 0; a NaN stays, and has no gradient."""
    return select(x == x, maximum(0.0, x), stop_gradient(x))


SCORED = {"prediction": "real[*batch]", "target": "sign[*batch]"}


@optax("hinge", "per_element", SCORED)
def signed_hinge(prediction: Expr, target: Expr) -> Expr:
    value: Expr = margin.hinge.function(prediction, target, margin=1.0, part=part_of_numbers)
    return value


@optax("perceptron", "per_element", SCORED)
def signed_perceptron(prediction: Expr, target: Expr) -> Expr:
    value: Expr = margin.perceptron.function(prediction, target, part=part_of_numbers)
    return value


@witness("optax.losses.hinge_loss", call=SCORES, calls=REPEATS)
def hinge_loss() -> Meaning:
    return unreduced(signed_hinge)


@witness("optax.losses.perceptron_loss", call=SCORES)
def perceptron_loss() -> Meaning:
    return unreduced(signed_perceptron)


@witness("optax.losses.sparsemax_loss", call=LOGITS, calls=CASTS, notes=(INFINITE,))
def sparsemax_loss() -> Meaning:
    return unreduced(classification.binary_sparsemax)


# --- classes -------------------------------------------------------------------------------------


def log_probabilities(logits: Expr, included: Mask, over: tuple[str, ...]) -> Expr:
    """JAX's log-softmax of what is included."""
    chosen = kept(included, logits, -math.inf)
    lost = broken(chosen, *over)
    if included is not None:
        lost = lost & any_kept(included, over)
    log_p = select(lost, math.nan, log_softmax(chosen, *over))
    return undefined_at(log_p, logits, lost)


def entropy(logits: Expr, target: Expr, included: Mask, over: tuple[str, ...]) -> Expr:
    """The cross-entropy of what is included; what is not has an undefined slope in the target."""
    log_p = kept(included, log_probabilities(logits, included, over), 0.0)
    nll = classification.expected_nll(log_p, target, *over, safe=False)
    return nll if included is None else undefined_at(nll, target, included == 0.0)


@witness("optax.losses.softmax_cross_entropy", call=LOGITS, calls=SAMPLES)
def softmax_cross_entropy(axis: Axis = -1, where: Any = None) -> Meaning:
    def loss(axes: str, over: tuple[str, ...], mask: dict[str, Param]) -> Definition:
        @optax("softmax_cross_entropy", index(axes, over), pair(axes, "logits"), mask=mask)
        def body(logits: Expr, target: Expr, included: Mask = None) -> Expr:
            return entropy(logits, target, included, over)

        return body

    return laid_out(loss, axis, where)


DISTRIBUTION = {"logits": "real[*batch, classes]", "target": "real[*batch, classes]"}


@optax("safe_softmax_cross_entropy", "per_sample", DISTRIBUTION)
def safe_entropy(logits: Expr, target: Expr) -> Expr:
    log_p = log_probabilities(logits, None, ("classes",))
    nll = classification.expected_nll(log_p, stop_gradient(target), "classes")
    return attach_gradient(nll, target, -log_p)


@witness("optax.losses.safe_softmax_cross_entropy", call=LOGITS, calls=SAMPLES)
def safe_softmax_cross_entropy() -> Meaning:
    return unreduced(safe_entropy)


@witness("optax.losses.poly_loss_cross_entropy", call=LOGITS, calls=SAMPLES, notes=(RANK,))
def poly_loss_cross_entropy(*, epsilon: float = 2.0, axis: Axis = -1, where: Any = None) -> Meaning:
    axes, over = laid(axis, None if where is None else depth(where))
    kinds = pair(axes, "logits")

    @optax("poly", index(axes, over), kinds, epsilon=real(2.0), mask=masking(where, axes))
    def body(logits: Expr, target: Expr, epsilon: Expr, included: Mask = None) -> Expr:
        p = softmax(kept(included, logits, -math.inf), *over)
        nll = entropy(logits, target, included, over)
        return nll + epsilon * sum(kept(included, target, 0.0) * (1.0 - p), *over)

    return unreduced(body, epsilon=epsilon, included=where)


@witness(
    "optax.losses.softmax_cross_entropy_with_integer_labels",
    call=LOGITS,
    notes=(
        OFFSET,
        OLDER,
        "Over several axes, sums are taken in another order: the last digit may differ.",
    ),
)
def softmax_cross_entropy_with_integer_labels(axis: Axis = -1, where: Any = None) -> Meaning:
    if axis is None:
        raise ArgumentError("axis=None was given; it is an integer or a tuple of integers")

    def loss(axes: str, over: tuple[str, ...], mask: dict[str, Param]) -> Definition:
        left = rest(axes, over)
        kinds = {"logits": f"real[{axes}]", "labels": f"integer[{left}]" if left else "integer"}

        @optax("integer_labels", index(axes, over), kinds, mask=mask)
        def body(logits: Expr, labels: Expr, included: Mask = None) -> Expr:
            place, number = logits.builder.const(0.0), logits.builder.const(1.0)
            for axis in over:
                place = place * size(logits, axis) + to_real(iota(logits, axis))
                number = number * size(logits, axis)
            # Labels below 0 count from the end.
            hit = (place == labels) | (place == labels + number)
            chosen = kept(included, logits, -math.inf)
            # A label left out, or out of range, is compared with the others all the same.
            own = select(any_(hit, *over), sum(select(hit, logits, 0.0), *over), math.nan)
            plain = logsumexp(chosen, *over) - own
            usual = any_(hit if included is None else hit & (included != 0.0), *over)
            stable = -sum(select(hit, log_softmax(chosen, *over), 0.0), *over)
            value = select(usual & ~broken(chosen, *over), stable, plain)
            return value if included is None else select(any_kept(included, over), value, 0.0)

        return body

    return laid_out(loss, axis, where)


CLASSES = {"prediction": "real[*batch, classes]", "labels": "integer[*batch]"}


def best_lead(name: str, ahead: float) -> Definition:
    @optax(name, "per_sample", CLASSES)
    def body(prediction: Expr, labels: Expr) -> Expr:
        hit = iota(prediction, "classes") == labels
        own = sum(select(hit, prediction, 0.0), "classes")  # 0 if the label is out of range
        lead = select(hit, 0.0, ahead)
        value = select(
            own > -math.inf,
            amax(prediction - own + lead, "classes"),
            amax(prediction + lead, "classes") - own,
        )
        # A NaN's gradient is NaN, but that of inf - inf is the ties' share.
        return undefined_at(
            value, prediction, amax(prediction, "classes") != amax(prediction, "classes")
        )

    return body


HINGE, PERCEPTRON = best_lead("multiclass_hinge", 1.0), best_lead("multiclass_perceptron", 0.0)
LABELLED = ("scores", "labels")


@witness("optax.losses.multiclass_hinge_loss", call=LABELLED, notes=(INFINITE, WIDE))
def multiclass_hinge_loss() -> Meaning:
    return unreduced(HINGE)


@witness("optax.losses.multiclass_perceptron_loss", call=LABELLED, notes=(INFINITE, WIDE))
def multiclass_perceptron_loss() -> Meaning:
    return unreduced(PERCEPTRON)


@optax(
    "multiclass_sparsemax",
    "per_sample",
    {"prediction": "real[batch, classes]", "labels": "integer[batch]"},
)
def multiclass_sparsemax(prediction: Expr, labels: Expr) -> Expr:
    # Labels below 0 count from the end; beyond an end, they are those of the end.
    last = size(prediction, "classes") - 1.0
    from_start = select(labels < 0, labels + last + 1.0, to_real(labels))
    label = minimum(maximum(from_start, 0.0), last)
    return classification.sparsemax_of(prediction, to_real(iota(prediction, "classes")) == label)


@witness("optax.losses.multiclass_sparsemax_loss", call=LABELLED, notes=(INFINITE, WIDE))
def multiclass_sparsemax_loss() -> Meaning:
    return unreduced(multiclass_sparsemax)


@witness(
    "optax.losses.make_fenchel_young_loss",
    call=("scores", "targets"),
    required={"max_fun": None},
    notes=(
        "The smoothed maximum is given at each call, by the argument's name, and takes all samples "
        "at once; further arguments for it are not passed on.",
    ),
)
def make_fenchel_young_loss(max_fun: Any) -> Meaning:
    return unreduced(classification.fenchel_young)


def ranking(where: Any, weights: Any) -> Definition:
    # Nested more than two deep, they say how many axes the lists have.
    rank = max((depth(x) for x in (where, weights) if x is not None), default=0)
    axes, _ = laid(-1, rank if rank > 2 else None)

    @optax(
        "ranking_softmax",
        index(axes, ("classes",)),
        pair(axes, "logits"),
        empty="zero",
        mask=masking(where, axes),
        weights=real(1.0, axes),
    )
    def body(logits: Expr, target: Expr, weights: Expr, included: Mask = None) -> Any:
        log_p = kept(included, log_probabilities(logits, included, ("classes",)), 0.0)
        relevance = weights * kept(included, target, 0.0)
        nll = classification.expected_nll(log_p, relevance, "classes", safe=False)
        if included is None:
            return nll
        return nll, indicator(any_kept(included, ("classes",)))

    return body


@witness(
    "optax.losses.ranking_softmax_loss", call=LOGITS, calls=replace(SAMPLES, result=("logits",))
)
def ranking_softmax_loss(
    *, where: Any = None, weights: Any = None, reduce_fn: Any = "mean"
) -> Meaning:
    name = option("reduce_fn", getattr(reduce_fn, "__name__", reduce_fn), ("mean", "sum", None))
    definition = ranking(where, weights)
    return meaning(
        definition,
        weights=weights,
        included=where,
        reduction=name or "none",
        normalizer="elements" if where is None else "valid",
        axis=-1,
    )


# --- distributions -------------------------------------------------------------------------------

KL_CALL = ("log_predictions", "targets")


def summed_divergence(
    term: Callable[[Expr, Expr], Expr], axis: Axis, where: Any, log_target: bool = False
) -> Meaning:
    """A divergence of single amounts, summed over what is included."""
    axes, over = laid(axis)
    kinds = pair(axes)

    @optax("divergence", index(axes, over), kinds, mask=masking(where, axes))
    def body(prediction: Expr, target: Expr, included: Mask = None) -> Expr:
        value = sum(kept(included, term(prediction, target), 0.0), *over)
        if included is None:
            return value
        nothing = target == (-math.inf if log_target else 0.0)
        lost = nothing | ~(abs_(prediction) < math.inf)
        return undefined_at(value, target, lost & (included == 0.0))

    return unreduced(body, included=where)


def kl(log_target: bool) -> Callable[[Expr, Expr], Expr]:
    def term(prediction: Expr, target: Expr) -> Expr:
        flag = prediction.builder.const(log_target)
        value: Expr = torch_kl_div.function(prediction=prediction, target=target, log_target=flag)
        return value

    return term


@witness("optax.losses.kl_divergence", call=KL_CALL, calls=REPEATS, notes=(MASKED_NAN,))
def kl_divergence(axis: Axis = -1, where: Any = None) -> Meaning:
    return summed_divergence(kl(False), axis, where)


@witness(
    "optax.losses.kl_divergence_with_log_targets",
    call=("log_predictions", "log_targets"),
    calls=REPEATS,
    notes=(MASKED_NAN,),
)
def kl_divergence_with_log_targets(axis: Axis = -1, where: Any = None) -> Meaning:
    return summed_divergence(kl(True), axis, where, True)


def generalized_kl(prediction: Expr, target: Expr) -> Expr:
    nothing = target == 0.0
    value = divergence.generalized_kl_div.function(prediction, target)
    lost = nothing & ~(abs_(prediction) < math.inf)
    return undefined_at(select(lost, math.nan, value), target, nothing)


@witness(
    "optax.losses.generalized_kl_divergence",
    ">=0.2.7",
    call=KL_CALL,
    calls=REPEATS,
    notes=(MASKED_NAN,),
)
def generalized_kl_divergence(axis: Axis = -1, where: Any = None) -> Meaning:
    return summed_divergence(generalized_kl, axis, where)


@witness(
    "optax.losses.convex_kl_divergence",
    call=KL_CALL,
    calls=REPEATS,
    notes=(MASKED_NAN, "A call warns there that the name is deprecated."),
)
def convex_kl_divergence(axis: Axis = -1, where: Any = None) -> Meaning:
    return generalized_kl_divergence.construct(axis, where)


@witness(
    "optax.losses.smooth_labels",
    required={"alpha": 0.1},
    notes=("A `where` of size 1 along the axis counts once there, not for all it is repeated to.",),
)
def smooth_labels(alpha: float, *, axis: Axis = -1, where: Any = None) -> Meaning:
    axes, over = laid(axis)
    kinds = {"labels": f"real[{axes}]"}

    @optax("smooth_labels", "per_element", kinds, alpha=real(), mask=masking(where, axes))
    def body(labels: Expr, alpha: Expr, included: Mask = None) -> Expr:
        one = labels.builder.const(1.0) if included is None else included
        number = sum(broadcast(one, *labels.axes), *over)
        return classification.smoothed(labels, alpha, number)

    return unreduced(body, alpha=alpha, included=where)


# --- overlaps ------------------------------------------------------------------------------------


def activated(x: Expr, last: str) -> Expr:
    return select(size(x, last) == 1.0, sigmoid(x), softmax(x, last))


def predicted(axes: str, last: str, apply_softmax: bool) -> dict[str, str]:
    """The kinds of a prediction and a target; without an activation the first is a distribution."""
    kinds = pair(axes)
    return kinds if apply_softmax else {**kinds, "prediction": f"simplex({last})[{axes}]"}


def foreground(x: Expr, axis: str) -> Expr:
    """All but the first class, unless it is the only one."""
    n = size(x, axis)
    k = range_("foreground", maximum(n - 1.0, 1.0))
    return take(x, select(to_real(k) + 1.0 < n, k + 1, k), axis)


def of_classes(loss: Expr, axis: str, ignore_background: bool) -> tuple[Expr, str]:
    """The classes' losses that count, and along which axis they lie."""
    return (foreground(loss, axis), "foreground") if ignore_background else (loss, axis)


NEEDS_SUMS = (
    "Without an activation the original raises an error, and so cannot be compiled, where "
    "predictions do not sum to 1 along the last axis, one channel included. Numbers below 0 or "
    "above 1 are refused here too, and what is compiled is NaN there."
)


def older(name: str, construct: Callable[..., Meaning], *without: str) -> Witness:
    """Dice in releases before 0.2.7, which halved the smoothing and lacked some arguments."""

    def halved(*, smooth: float = 1.0, **arguments: Any) -> Meaning:
        return construct(smooth=0.5 * smooth, **arguments)

    known = inspect.signature(construct)
    kept = [p for n, p in known.parameters.items() if n not in without]
    halved.__signature__ = known.replace(parameters=kept)  # type: ignore[attr-defined]
    return witness(name, "<0.2.7", call=ERRORS, notes=(NEEDS_SUMS,), calls=CHANNEL)(halved)


def dice(
    *,
    class_weights: Any = None,
    smooth: float = 1.0,
    alpha: float = 0.5,
    beta: float = 0.5,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: Axis = None,
) -> Meaning:
    option("reduction", reduction, ("mean", "sum", "none"))
    wanted = summed(axis)
    left = next(-k for k in count(1) if -k not in wanted)  # the last axis that is not summed
    named = wanted | {left: "classes"}
    axes = "batch, *positions, classes" if axis is None else places(named)
    over = ("*positions",) if axis is None else tuple(wanted.values())

    @optax(
        "dice",
        index(axes, over),
        predicted(axes, named[-1], apply_softmax),
        weights=real(1.0, "classes"),
        smooth=real(1.0),
        alpha=real(0.5),
        beta=real(0.5),
    )
    def body(prediction: Expr, target: Expr, weights: Expr, **rates: Expr) -> Expr:
        p = activated(prediction, named[-1]) if apply_softmax else prediction
        loss = weights * segmentation.tversky.function(p, target, axes=over, **rates)
        loss, classes = of_classes(loss, "classes", ignore_background)
        if reduction == "none":
            return loss
        return mean(loss, classes) if reduction == "mean" else sum(loss, classes)

    return unreduced(
        body,
        weights=class_weights,
        smooth=smooth,
        alpha=alpha,
        beta=beta,
        refuses=not apply_softmax,
    )


old_dice_loss = older("optax.losses.dice_loss", dice, "alpha", "beta")
dice_loss = witness(
    "optax.losses.dice_loss", ">=0.2.7", call=ERRORS, notes=(NEEDS_SUMS,), calls=CHANNEL
)(dice)


def generalized_dice(
    *, smooth: float = 1.0, apply_softmax: bool = True, ignore_background: bool = False
) -> Meaning:
    kinds = predicted("batch, *positions, classes", "classes", apply_softmax)

    @optax("multiclass_generalized_dice", "scalar", kinds, smooth=real(1.0))
    def body(prediction: Expr, target: Expr, smooth: Expr) -> Expr:
        p = activated(prediction, "classes") if apply_softmax else prediction
        weights = segmentation.rarity(target, 1e-7, "batch", "*positions")
        share = weights / mean(weights, "classes")
        loss = segmentation.tversky.function(p, target, alpha=0.5, beta=0.5, smooth=smooth)
        loss, classes = of_classes(share * loss, "classes", ignore_background)
        return mean(loss, "batch", classes)

    return unreduced(body, smooth=smooth, refuses=not apply_softmax)


GENERALIZED = "optax.losses.multiclass_generalized_dice_loss"
old_generalized_dice_loss = older(GENERALIZED, generalized_dice)
multiclass_generalized_dice_loss = witness(
    GENERALIZED, ">=0.2.7", call=ERRORS, notes=(NEEDS_SUMS,), calls=CHANNEL
)(generalized_dice)


@optax(
    "binary_dice",
    "per_sample",
    pair("batch, *positions"),
    apply_sigmoid=flag(True),
    smooth=real(1.0),
)
def two_masks(prediction: Expr, target: Expr, apply_sigmoid: Expr, smooth: Expr) -> Expr:
    p = select(apply_sigmoid, sigmoid(prediction), prediction)
    value: Expr = segmentation.tversky.function(p, target, alpha=0.5, beta=0.5, smooth=smooth)
    return value


def binary_dice(*, smooth: float = 1.0, apply_sigmoid: bool = True) -> Meaning:
    return unreduced(two_masks, smooth=smooth, apply_sigmoid=apply_sigmoid)


old_binary_dice_loss = older("optax.losses.binary_dice_loss", binary_dice)
binary_dice_loss = witness(
    "optax.losses.binary_dice_loss", ">=0.2.7", call=ERRORS, notes=(NEEDS_SUMS,), calls=CHANNEL
)(binary_dice)


# --- pairs, triplets and sequences ---------------------------------------------------------------

DTYPE_EPSILON = 2.0**-52


@optax(
    "ntxent",
    "per_pair",
    {"embeddings": "real[batch, features]", "labels": "integer[batch]"},
    normalizer="valid",
    temperature=real(0.07),
)
def pairs(embeddings: Expr, labels: Expr, temperature: Expr) -> tuple[Expr, Expr]:
    floor = embeddings.builder.const(DTYPE_EPSILON)
    u, _, _ = unit(embeddings, None, floor, ("features",))
    similarity = dot(u, rename(u, "batch", "others"), "features") / temperature
    return metric.nt_xent_of(similarity, labels)


@witness(
    "optax.losses.ntxent",
    call=("embeddings", "labels"),
    notes=(
        "Squared norms are held at the epsilon of the embeddings' dtype: here at that of float64, "
        "2.2e-16; in float32 at 1.2e-7.",
        SQUARES,
    ),
)
def ntxent(temperature: float = 0.07) -> Meaning:
    return meaning(pairs, temperature=temperature)


@witness(
    "optax.losses.triplet_margin_loss",
    ">=0.2.5",
    call=("anchors", "positives", "negatives"),
    calls=REPEATS,
    notes=("With eps=0 a distance of 0 makes gradients NaN there, of a loss of 0 too.",),
)
def triplet_margin_loss(
    axis: int = -1, norm_degree: float = 2, margin: float = 1.0, eps: float = 1e-6
) -> Meaning:
    axes, over = laid(axis)
    kinds: dict[str, str] = dict.fromkeys(("anchor", "positive", "negative"), f"real[{axes}]")

    def distance(u: Expr, v: Expr, p: Expr, eps: Expr) -> Expr:
        """No norm where p is odd: differences below 0 count below 0."""
        return (sum((u - v) ** p, *over) + eps) ** (1.0 / p)

    rates: dict[str, Any] = {"p": real(2.0), "margin": real(1.0), "eps": real(1e-6)}

    @optax("triplet_margin", index(axes, over), kinds, **rates)
    def body(**given: Expr) -> Any:
        return metric.triplet_margin.function(
            **given, swap=False, distance=distance, part=part_of_numbers
        )

    return unreduced(body, p=norm_degree, margin=margin, eps=eps)


@optax(
    "ctc",
    "per_sample",
    {
        "logits": "real[batch, time, classes]",
        "logit_paddings": "binary[batch, time]",
        "labels": "integer[batch, positions]",
        "label_paddings": "binary[batch, positions]",
    },
    blank_id=integer(0),
    log_epsilon=real(-1e5),
)
def padded_ctc(
    logits: Expr,
    logit_paddings: Expr,
    labels: Expr,
    label_paddings: Expr,
    blank_id: Expr,
    log_epsilon: Expr,
) -> Expr:
    known = (labels >= 0) & (to_real(labels) < size(logits, "classes"))
    alphas = sequence.forward(
        log_softmax(logits, "classes"),
        select(known, labels, 0),
        blank_id,
        outside=log_epsilon,
        held=logit_paddings,
        detour=log_epsilon,
    )
    last = take(flip(alphas, "time"), 0, "time")
    ends = logaddexp(last, shift(last, "states", 1, -math.inf))
    length = size(labels, "positions") - sum(label_paddings, "positions")
    return -sum(select(to_real(iota(last, "states")) == 2.0 * length, ends, 0.0), "states")


CTC = ("logits", "logit_paddings", "labels", "label_paddings")
UNKNOWN = "A label that is no class, and not padded, has the log-probability 0 there."


@witness("optax.losses.ctc_loss", call=CTC, notes=(UNKNOWN, WIDE))
def ctc_loss(*, blank_id: int = 0, log_epsilon: float = -1e5) -> Meaning:
    return unreduced(padded_ctc, blank_id=blank_id, log_epsilon=log_epsilon)


@witness(
    "optax.losses.ctc_loss_with_forward_probs",
    call=CTC,
    notes=(
        UNKNOWN,
        WIDE,
        "The original also returns the forward probabilities; here there is the loss.",
    ),
)
def ctc_loss_with_forward_probs(*, blank_id: int = 0, log_epsilon: float = -1e5) -> Meaning:
    return ctc_loss.construct(blank_id=blank_id, log_epsilon=log_epsilon)
