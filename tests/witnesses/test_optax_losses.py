"""The witnesses of optax.losses, against optax itself and on the other two platforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import originals
import pytest
from originals import Case, newest

from lossbridge.errors import ArgumentError
from lossbridge.witnesses import find

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(40)
X, Y, Z = RNG.normal(size=(3, 4, 3))
P, Q = RNG.uniform(0.05, 0.95, (2, 4, 3))
SOFT, OTHER = P / P.sum(1, keepdims=True), Q / Q.sum(1, keepdims=True)
BITS, SIGNS = (Q > 0.5) * 1.0, np.where(Y > 0, 1.0, -1.0)
LABELS = np.array([0, 2, 1, 2])
CUBE, HEAP = RNG.normal(size=(2, 2, 4, 3))
MASK = np.array([[True, False, True], [True, True, True], [False] * 3, [True, True, False]])
ROWS = np.array([True, False, True, True])
HALVES = np.broadcast_to(np.array([[[True], [False], [True], [True]]]), (2, 4, 3))
IMAGES = RNG.normal(size=(2, 3, 2, 3))
MASKS = np.eye(3)[RNG.integers(0, 3, (2, 3, 2))]
FRAMES = RNG.normal(size=(3, 5, 4))
PADS = np.array([[0.0] * 5, [0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
WORDS = np.array([[1, 2], [2, 2], [1, -1]])
WORD_PADS = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
SPOKEN = (FRAMES, PADS, WORDS, WORD_PADS)


def cases(
    name: str,
    inputs: tuple[Any, ...],
    *settings: Mapping[str, Any],
    at: str = "benign",
    **more: Any,
) -> list[Case]:
    """One function on one set of inputs, in several settings of its arguments."""
    found = []
    for arguments in settings or ({},):
        left_out = "where" in arguments or arguments.get("ignore_background")
        here = "ignored: a part" if at == "benign" and left_out else at
        spec = newest(f"optax.losses.{name}").meaning(**arguments).spec
        arrays = {n: np.asarray(x) for n, x in zip(spec.inputs, inputs, strict=True)}
        found.append(Case(f"optax.losses.{name}", here, arrays, arguments, **more))
    return found


def column(*values: Any) -> tuple[Any, Any]:
    """Errors of these sizes."""
    return np.asarray(values, float), np.zeros(len(values))


KL = ("kl_divergence", "kl_divergence_with_log_targets", "generalized_kl_divergence",
      "convex_kl_divergence")  # fmt: skip
AXES: tuple[dict[str, Any], ...] = ({}, {"axis": 0}, {"axis": (0, -1)}, {"axis": None})
CASES = [
    *cases("squared_error", (X, Y)),
    *cases("squared_error", (CUBE, HEAP), at="more axes"),
    *cases("squared_error", column(0.0, INF, NAN, 1e200), at="saturation: 0, infinite"),
    *cases("l2_loss", (X, Y)),
    *cases("l2_loss", column(0.0, INF, NAN, 1e200), at="saturation: 0, infinite"),
    *cases("l2_loss", (0.5, 0.25), at="numbers"),
    *cases("huber_loss", (X, Y), {}, {"delta": 0.3}, {"delta": 2.0}),
    *cases("huber_loss", column(0.0, 1.0, -1.0, 2.0, INF, -INF, NAN),
           at="kinks, saturation: ends of the quadratic"),
    *cases("log_cosh", (X, Y)),
    *cases("log_cosh", (30.0 * X, Y), at="far"),
    *cases("log_cosh", column(0.0, INF, -INF, NAN, 1000.0), at="saturation: 0, infinite"),
    *cases("cosine_similarity", (X, Y), *AXES, {"epsilon": 0.5}),
    *cases("cosine_similarity", (X, Y), {"where": MASK, "epsilon": 0.1}, {"where": ROWS[:, None]}),
    *cases("cosine_distance", (X, Y), *AXES, {"epsilon": 0.5}),
    *cases("cosine_distance", (X, Y), {"where": MASK, "epsilon": 0.1}, {"where": ROWS[:, None]}),
    *(
        case
        for name in ("cosine_similarity", "cosine_distance")
        for case in cases(
            name,
            ([[0.0, 0.0], [0.5, 0.0], [0.25, 0.0], [0.0, 0.0]],
             [[3.0, 4.0], [4.0, 3.0], [0.0, 0.25], [0.0, 0.0]]),
            {}, {"epsilon": 0.25},
            at="kinks, clip: zero vectors, at the floor",
        )
    ),
    *cases("sigmoid_binary_cross_entropy", (X, Q)),
    *cases("sigmoid_binary_cross_entropy", (X, BITS), at="hard labels"),
    *cases("sigmoid_binary_cross_entropy", ([0.0, 40.0, -40.0, 800.0, -800.0, 0.0, NAN],
                                            [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
                                            at="saturation: confident"),
    *cases("sigmoid_focal_loss", (X, Q), {}, {"alpha": 0.25}, {"gamma": 0.5}, {"gamma": 0.0}),
    *cases("sigmoid_focal_loss", (X, BITS), {"alpha": 0.6, "gamma": 1.5}, at="hard labels"),
    *cases("sigmoid_focal_loss", ([0.0, 30.0, -30.0, 30.0, 800.0, -800.0, NAN],
                                  [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]), {}, {"alpha": 0.3},
           at="saturation: confident"),
    *cases("hinge_loss", (X, SIGNS)),
    *cases("hinge_loss", (X, Y), at="any target"),
    *cases("hinge_loss", ([1.0, -1.0, 0.0, 2.0, NAN, INF], [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]),
           at="kinks: on the margin"),
    *cases("perceptron_loss", (X, SIGNS)),
    *cases("perceptron_loss", (X, Y), at="any target"),
    *cases("perceptron_loss", ([1.0, -1.0, 0.0, 2.0, NAN], [1.0, -1.0, 1.0, -1.0, 1.0]),
           at="kinks: 0"),
    *cases("sparsemax_loss", (X, BITS)),
    *cases("sparsemax_loss", (2.0 * Y, BITS), at="far"),
    *cases("sparsemax_loss", ([-1.0, 1.0, 0.0, -1.0, 1.0, NAN], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
           at="kinks: ends of the quadratic"),
    *cases("softmax_cross_entropy", (X, SOFT), *AXES, {"where": MASK}, {"where": ROWS}),
    *cases("softmax_cross_entropy", (CUBE, HEAP), {"axis": 1}, {"axis": (1, 2)},
           {"axis": 1, "where": HALVES}, at="more axes"),
    *cases("safe_softmax_cross_entropy", (X, SOFT)),
    *cases("safe_softmax_cross_entropy", (X, np.eye(3)[LABELS]), at="one-hot"),
    *cases("safe_softmax_cross_entropy", (CUBE, HEAP), at="more axes, any target"),
    *cases("poly_loss_cross_entropy", (X, SOFT), *AXES, {"epsilon": -1.0}, {"where": MASK}),
    *cases("poly_loss_cross_entropy", (X[0], SOFT[0]), {"where": MASK[0]}, at="no batch"),
    *(
        case
        for name in ("softmax_cross_entropy", "safe_softmax_cross_entropy",
                     "poly_loss_cross_entropy")
        for case in cases(
            name,
            ([[0.0, -INF, 1.0], [0.0, -INF, 1.0], [-INF] * 3, [INF, 0.0, 0.0], [NAN, 0.0, 1.0]],
             [[0.5, 0.0, 0.5], [0.5, 0.1, 0.4], *[[1.0, 0.0, 0.0]] * 3]),
            at="saturation: impossible logits",
        )
    ),
    *cases("softmax_cross_entropy_with_integer_labels", (X, LABELS), {}, {"where": MASK},
           {"where": ROWS}),
    *cases("softmax_cross_entropy_with_integer_labels", (CUBE, [[0, 3, 1], [2, 2, 1]]),
           {"axis": 1}, {"axis": -2}, {"axis": 1, "where": HALVES}, at="another axis"),
    *cases("softmax_cross_entropy_with_integer_labels", (CUBE, [7, 2]), {"axis": (1, 2)},
           {"axis": (2, 1)}, {"axis": (-1, -2)}, {"axis": (1, 2), "where": HALVES},
           at="labels of two axes"),
    *cases("softmax_cross_entropy_with_integer_labels",
           (np.array([[0.0, -INF, 1.0], [0.0, -INF, 1.0], [-INF] * 3, [INF, 0.0, 0.0],
                      [INF, 0.0, 0.0], [NAN, 0.0, 1.0], *[[0.0, 2.0, 1.0]] * 4]),
            [0, 1, 0, 0, 1, 2, -1, -3, 3, -4]),
            at="saturation, ignored: impossible logits, labels out of range"),
    *cases("softmax_cross_entropy", ([[30.0, 0.0], [800.0, -800.0]], [[0.0, 1.0]] * 2),
           at="saturation: confident, and wrong"),
    *cases("poly_loss_cross_entropy", ([[30.0, 0.0], [800.0, -800.0]], [[0.0, 1.0]] * 2),
           at="saturation: confident, and wrong"),
    *cases("multiclass_hinge_loss", (X, LABELS)),
    *cases("multiclass_hinge_loss", ([[-INF, 1.0], [-INF, -INF], [1.0, 0.0]], [0, 0, 0]),
           at="an impossible label"),
    *cases("multiclass_hinge_loss", (CUBE, [[0, 2, 1, 1], [2, 2, 0, 1]]), at="more axes"),
    *cases("multiclass_hinge_loss",
           ([[1.0, 0.0, 0.0], [1.0, 2.0, 2.0], [0.0, 0.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0],
             [1.0, NAN, 3.0]], [0, 0, 0, -1, 3, 0]),
             at="kinks, ignored: on the margin, ties, out of range"),
    *cases("multiclass_perceptron_loss", (X, LABELS)),
    *cases("multiclass_perceptron_loss", ([[-INF, 1.0], [-INF, -INF], [1.0, 0.0]], [0, 0, 0]),
           at="an impossible label"),
    *cases("multiclass_perceptron_loss", (CUBE, [[0, 2, 1, 1], [2, 2, 0, 1]]), at="more axes"),
    *cases("multiclass_perceptron_loss",
           ([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0],
             [1.0, NAN, 3.0]], [0, 0, 0, -1, 3, 0]), at="kinks, ignored: ties, out of range"),
    *cases("multiclass_sparsemax_loss", (X, LABELS)),
    *cases("multiclass_sparsemax_loss", (3.0 * Y, LABELS), at="far"),
    *cases("multiclass_sparsemax_loss",
           ([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0],
             [1.0, 2.0, 3.0], [1.0, NAN, 3.0], [1.0, -INF, 3.0], [0.5, -0.5, 0.0], [-INF] * 3],
            [0, 0, 0, -1, 3, -5, 0, 0, 0, 0]),
            at="kinks, saturation, ignored: ends, ties, out of range"),
    *cases("ranking_softmax_loss", (X, P), {}, {"reduce_fn": jnp.sum}, {"reduce_fn": None},
           {"weights": Q}, {"where": MASK},
           {"where": MASK, "weights": Q[:, :1], "reduce_fn": None}),
    *cases("ranking_softmax_loss", (CUBE, HEAP**2), {}, {"where": HALVES},
           {"where": HALVES, "weights": HEAP**2, "reduce_fn": None}, at="more axes"),
    *cases("ranking_softmax_loss", (np.where(MASK, X, NAN), P), {"where": MASK},
           {"where": MASK & False}, {"where": MASK, "reduce_fn": jnp.sum}, at="ignored: NaN"),
    *cases("ranking_softmax_loss",
           ([[0.0, 1.0, NAN], [-INF, 0.0, 1.0], [-INF] * 3],
            [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), {"reduce_fn": None},
           at="saturation: impossible logits"),
    *(
        case
        for name, target in zip(KL, (OTHER, np.log(OTHER), Q, Q), strict=True)
        for case in cases(name, (np.log(SOFT), target), *AXES, {"where": MASK})
    ),
    *(
        case
        for name in KL
        for case in cases(
            name,
            ([[-INF, 0.0], [-INF, -1.0], [-1.0, -2.0]],
             np.log([[0.0, 0.5], [0.5, 0.5], [0.0, 0.5]]) if "log" in name
             else [[0.0, 0.5], [0.5, 0.5], [0.0, 0.5]]),
            {}, {"where": np.array([[True, False], [False, True], [False, False]])},
            at="saturation, ignored: probability 0",
        )
    ),
    *cases("generalized_kl_divergence", (np.log(SOFT), SOFT * 1.25), at="near"),
    *cases("smooth_labels", (BITS,), {"alpha": 0.1}, {"alpha": 0.3, "axis": 0},
           {"alpha": 0.5, "axis": None}, {"alpha": 0.2, "axis": (0, 1)},
           {"alpha": 0.2, "where": MASK[[0, 1, 3, 0]]}),
    *cases("smooth_labels", (BITS,), {"alpha": 0.2, "where": MASK}, at="ignored: all"),
    *cases("dice_loss", (IMAGES, MASKS), {}, {"alpha": 0.3, "beta": 0.7, "smooth": 0.5},
           {"class_weights": np.array([0.5, 2.0, 1.0]), "reduction": "sum"},
           {"reduction": "none"}, {"ignore_background": True},
           {"ignore_background": True, "reduction": "none"}, {"axis": (0, 1, 2)},
           {"axis": 1, "reduction": "none"}, {"axis": (-3, -1)}),
    *cases("dice_loss", (IMAGES[..., :1], MASKS[..., :1]), {}, {"ignore_background": True},
           {"ignore_background": True, "reduction": "none"}, at="one channel"),
    *cases("dice_loss", (OTHER, np.eye(3)[LABELS]), {"apply_softmax": False},
           {"apply_softmax": False, "axis": 0}, at="probabilities"),
    *cases("dice_loss", (IMAGES, 0.0 * MASKS), {"smooth": 0.0}, at="clip: no mask"),
    *cases("dice_loss", (SOFT[:, None], 0.0 * SOFT[:, None]),
           {"apply_softmax": False, "smooth": 0.0, "alpha": 0.0}, at="clip: 0 / 0"),
    *cases("multiclass_generalized_dice_loss", (IMAGES, MASKS), {}, {"smooth": 0.1},
           {"ignore_background": True}),
    *cases("multiclass_generalized_dice_loss", (IMAGES, MASKS * [1.0, 1.0, 0.0]), {},
           {"smooth": 0.0}, at="clip: an absent class"),
    *cases("multiclass_generalized_dice_loss", (OTHER, np.eye(3)[LABELS]),
           {"apply_softmax": False}, at="probabilities"),
    *cases("binary_dice_loss", (X, BITS), {}, {"smooth": 0.1}, {"smooth": 0.0}),
    *cases("binary_dice_loss", (X, 0.0 * BITS), {"smooth": 0.0}, {}, at="clip: no mask"),
    *cases("binary_dice_loss", (IMAGES[..., :1], MASKS[..., :1]), at="a channel"),
    *cases("binary_dice_loss", (X[:, 0], BITS[:, 0]), at="no positions"),
    *cases("binary_dice_loss", (np.ones((2, 3)), BITS[:2]), {"apply_sigmoid": False},
           at="probabilities"),
    *cases("ntxent", (X, LABELS), {}, {"temperature": 0.5}, {"temperature": 2.0}),
    *cases("ntxent", (X, [0, 0, 0, 1]), at="ignored: a single"),
    *cases("ntxent", (X, [0, 1, 2, 3]), at="ignored: no pairs"),
    *cases("ntxent", (np.array([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), [0, 0, 1, 1]),
           at="clip: a zero vector"),
    *cases("triplet_margin_loss", (X, Y, Z), {}, {"margin": 3.0, "eps": 0.1}, {"axis": 0},
           {"norm_degree": 4, "margin": 0.0}, {"norm_degree": 1, "margin": 5.0}),
    *(
        case
        for degree in (1, 2, 3)
        for case in cases(
            "triplet_margin_loss",
            ([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]],
             [[0.0, 1.0], [0.0, 0.0], [-5.0, 0.0]]), {"norm_degree": degree},
            at="kinks: equal points; odd powers",
        )
    ),
    *cases("triplet_margin_loss", ([[0.0, 0.0]], [[3.0, 4.0]], [[10.0, 0.0]]),
           {"margin": 5.0, "eps": 0.0}, at="kinks: on the margin"),
    *cases("ctc_loss", SPOKEN, {}, {"blank_id": 3}, {"log_epsilon": -5.0}),
    *(
        case
        for name in ("ctc_loss", "ctc_loss_with_forward_probs")
        # Sums of 1e5 have an absolute error of 1e-11, which shows in their gradients (2e-12).
        for case in cases(
            name,
            (FRAMES, [[0.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0], [1.0] * 5],
             WORDS, [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
            at="saturation, ignored: impossible, all padded", rtol=1e-10,
        )
    ),
    *cases("ctc_loss_with_forward_probs", SPOKEN, {}, {"blank_id": 1}, {"log_epsilon": -1e3}),
]  # fmt: skip
CASES += [
    replace(case, at="empty: no samples", inputs={n: x[:0] for n, x in case.inputs.items()})
    for case in CASES
    if case.at == "benign"
    and case.arguments.get("axis", -1) in (-1, 1)
    and "weights" not in case.arguments
    and case.name != "optax.losses.ntxent"  # raises: see RAISES
]

# What the original saturates or cancels by rounding, and the exact meaning does not.
ROUNDS = [
    (cases("log_cosh", column(1e-9), at="near 0")[0], "log(2) is subtracted from its like"),
    (
        cases("cosine_distance", ([[1.0, 1e-9]], [[1.0, 0.0]]), at="nearly parallel")[0],
        "one minus a cosine near 1 is 0",
    ),
    (
        cases("softmax_cross_entropy_with_integer_labels", ([[40.0, 0.0]], [0]), at="confident")[0],
        "the logit is subtracted from a logsumexp of the same size",
    ),
    (
        cases(
            "softmax_cross_entropy_with_integer_labels", ([[1e10, 1e10 - 1]], [0]), at="an offset"
        )[0],
        "the offset is not taken out before",
    ),
    (
        cases("softmax_cross_entropy", ([[40.0, 0.0]], [[1.0, 0.0]]), at="confident")[0],
        "log(1 + e**-40) is 0",
    ),
    (
        cases("multiclass_sparsemax_loss", ([[1.0 - 1e-9, 0.0]], [0]), at="nearly 0")[0],
        "terms of size 1e-9 leave 2.5e-19",
    ),
    (cases("ntxent", (X, [0, 0, 0, 0]), at="no negatives")[0], "log(exp(x)) - x leaves 5e-18"),
    (
        cases("generalized_kl_divergence", ([[0.0]], [[1.0 + 1e-9]]), at="nearly equal")[0],
        "terms of size 1e-9 leave 5e-19",
    ),
]
# Where the original computes inf times 0, or differentiates what it leaves out.
UNEQUAL = [
    (cases("sparsemax_loss", ([-INF], [0.0]))[0], "the gradient of the part not taken is NaN"),
    (cases("multiclass_hinge_loss", ([[1.0, -INF]], [0]))[0], "-inf times 0 in a one-hot product"),
    (
        cases("cosine_similarity", ([[NAN, 1.0]], [[1.0, 2.0]]),
              {"where": np.array([[False, True]])})[0],
        "a NaN that is left out makes the gradient NaN",
    ),
    (
        cases("triplet_margin_loss", ([[0.0, 0.0]], [[0.0, 0.0]], [[5.0, 0.0]]), {"eps": 0.0})[0],
        "the gradient of a root at 0 is NaN, of a loss of 0 too",
    ),
]  # fmt: skip
FIRST = list({case.name: case for case in reversed(CASES)}.values())


def check(case: Case, *platforms: str) -> None:
    wanted = originals.of_original(case)
    for platform in platforms:
        originals.assert_same(originals.of_ours(case, platform), wanted, case)


@pytest.mark.filterwarnings("ignore:.*convex_kl_divergence is deprecated")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_meaning_is_the_original_s(case: Case) -> None:
    check(case, "torch")


@pytest.mark.filterwarnings("ignore:.*convex_kl_divergence is deprecated")
@pytest.mark.parametrize("case", FIRST, ids=str)
def test_the_meaning_is_the_original_s_on_every_platform(case: Case) -> None:
    check(case, "keras", "jax")


@pytest.mark.slow  # 190 compilations by TensorFlow and JAX, about a second each
@pytest.mark.filterwarnings("ignore:.*convex_kl_divergence is deprecated")
@pytest.mark.parametrize("case", [c for c in CASES if c not in FIRST], ids=str)
def test_the_meaning_is_the_original_s_where_it_is_compiled(case: Case) -> None:
    check(case, "keras", "jax")


@pytest.mark.parametrize("case", [case for case, _ in ROUNDS + UNEQUAL], ids=str)
def test_what_is_listed_as_different_differs(case: Case) -> None:
    with pytest.raises(AssertionError):
        check(case, "torch")


RAISES = cases("ntxent", (X[:0], LABELS[:0]), at="empty: no samples")


@pytest.mark.parametrize("case", RAISES, ids=str)
def test_what_the_original_raises_for_is_a_mean_over_nothing(case: Case) -> None:
    with pytest.raises(ValueError, match="zero-size array"):
        originals.of_original(case)
    for platform in originals.PLATFORMS:
        assert np.isnan(originals.of_ours(case, platform).value)


FENCHEL_YOUNG = [
    Case("optax.losses.make_fenchel_young_loss", at, {"logits": x, "target": y}, {"max_fun": None})
    for at, x, y in (
        ("benign", X, Y),
        ("kinks: ties", np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]), np.eye(3)[[1, 2]]),
        ("saturation: far", np.array([[800.0, -800.0, 0.0]]), np.eye(3)[[1]]),
        ("empty: no samples", X[:0], Y[:0]),
    )
]


@pytest.mark.parametrize("platform", originals.PLATFORMS)
@pytest.mark.parametrize("case", FENCHEL_YOUNG, ids=str)
def test_fenchel_young_losses_of_three_smoothed_maxima(case: Case, platform: str) -> None:
    import optax
    import tensorflow as tf
    import torch

    log_sum_exp: dict[str, Callable[[Any], Any]] = {
        "torch": lambda x: torch.logsumexp(x, -1),
        "keras": lambda x: tf.reduce_logsumexp(x, -1),
        "jax": lambda x: jax.nn.logsumexp(x, -1),
    }
    squares: dict[str, Callable[[Any], Any]] = {
        "torch": lambda x: (x**2).sum(-1),
        "keras": lambda x: tf.reduce_sum(x**2, -1),
        "jax": lambda x: (x**2).sum(-1),
    }
    largest: dict[str, Callable[[Any], Any]] = {
        "torch": lambda x: x.amax(-1),
        "keras": lambda x: tf.reduce_max(x, -1),
        "jax": lambda x: x.max(-1),
    }
    loss = originals.ours(platform, case.name, case.arguments)
    for maximum in (log_sum_exp, squares, largest):
        theirs = optax.losses.make_fenchel_young_loss(maximum["jax"])
        wanted = originals.EVALUATE["jax"](
            lambda given, f=theirs: f(given["logits"], given["target"]), case.inputs, ()
        )
        found = originals.EVALUATE[platform](
            lambda given, f=maximum[platform]: loss(**given, max_fun=f), case.inputs, ()
        )
        originals.assert_same(found, wanted, case)


@pytest.mark.parametrize(
    "name", ["dice_loss", "binary_dice_loss", "multiclass_generalized_dice_loss"]
)
def test_releases_before_0_2_7_halve_the_smoothing_of_dice(name: str) -> None:
    old = find(f"optax.losses.{name}", "0.2.6").meaning(smooth=0.5)
    new = find(f"optax.losses.{name}", "0.2.8").meaning(smooth=0.25)
    assert old == new
    assert "alpha" not in find("optax.losses.dice_loss", "0.2.6").signature.parameters


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("softmax_cross_entropy_with_integer_labels", {"axis": None}),
        ("dice_loss", {"reduction": "median"}),
        ("ranking_softmax_loss", {"reduce_fn": jnp.max}),
    ],
)
def test_what_the_original_refuses_is_refused(name: str, arguments: Mapping[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        find(f"optax.losses.{name}").meaning(**arguments)


LABELLED = "softmax_cross_entropy_with_integer_labels"
GRID = np.array([[0, 1, 2, 0], [1, 1, 0, 2]])


@pytest.mark.parametrize("platform", originals.PLATFORMS)
@pytest.mark.parametrize(
    "case",
    [
        # (2, 4) samples of 3 classes: optax adds an axis, where NumPy would not.
        *cases("softmax_cross_entropy", (CUBE, HEAP), {"where": HALVES[..., 0]}),
        *cases("softmax_cross_entropy", (X, SOFT), {"where": MASK}),
        *cases("softmax_cross_entropy", (X[0], SOFT[0]), {"where": MASK[0]}),
        *cases(LABELLED, (CUBE, GRID), {"where": HALVES[..., 0]}),
        *cases(LABELLED, (X[0], np.array(2)), {"where": MASK[0]}),
    ],
    ids=str,
)
def test_a_mask_is_of_samples_or_of_logits_as_their_ranks_say(case: Case, platform: str) -> None:
    originals.assert_same(originals.of_ours(case, platform), originals.of_original(case), case)
