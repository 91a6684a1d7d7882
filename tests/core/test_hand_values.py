"""Losses that no framework has, against values published or derived by hand.

The derivation stands beside each number. What a port returns is given to the loss directly, so
that nothing but the loss is tested.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plain_numpy
import pytest

from lossbridge.catalogue import catalogue
from lossbridge.plan import Options, Plan, plan

ROOT_HALF = math.sqrt(0.5)


def planned(loss: str, **numbers: float) -> Plan:
    spec = catalogue()[loss].spec
    bound = {n: p.value for n, p in spec.params.items() if p.value is not None} | numbers
    return plan(spec, tuple(bound.items()), Options(reduction="none"))


def check(
    loss: str, inputs: dict[str, Any], value: Any, gradients: dict[str, Any], **numbers: float
) -> None:
    """Value and gradients of the sum of the values, in float64."""
    arrays = {n: np.asarray(x, np.int64 if _whole(x) else np.float64) for n, x in inputs.items()}
    graph = planned(loss, **numbers).fused(tuple(gradients))
    found = plain_numpy.run(graph, arrays, "float64")
    np.testing.assert_allclose(found["value"], value, rtol=1e-14, atol=1e-15)
    for name, expected in gradients.items():
        np.testing.assert_allclose(found[f"gradient_{name}"], expected, rtol=1e-13, atol=1e-15)


def _whole(x: Any) -> bool:
    return np.asarray(x).dtype.kind == "i"


def test_log_cosh() -> None:
    """cosh(log 2) = (2 + 1/2) / 2 and tanh(log 2) = (4 - 1) / (4 + 1)."""
    check(
        "log_cosh@1",
        {"prediction": [math.log(2.0)], "target": [0.0]},
        [math.log(1.25)],
        {"prediction": [0.6], "target": [-0.6]},
    )


def test_binary_focal_lowers_the_loss_as_published() -> None:
    """Lin et al. 2017, section 3.2: with gamma 2, p = 0.9 has a loss 100 times lower than
    cross-entropy and p = 0.968 about 1000 times; appendix B gives the gradient in the logit,
    (1 - p)^g (g p log p + p - 1) for the positive class."""
    for p, factor in ((0.9, 100.0), (0.968, 976.5625)):
        x = math.log(p / (1.0 - p))
        slope = (1.0 - p) ** 2 * (2.0 * p * math.log(p) + p - 1.0)
        check(
            "binary_focal@1",
            {"logits": [x], "target": [1.0]},
            [-math.log(p) / factor],
            {"logits": [slope]},
            alpha=1.0,
            gamma=2.0,
        )


def test_binary_focal_with_the_published_weights() -> None:
    """Table 1b's best setting, alpha 0.25 and gamma 2, of a negative at p = 0.9:
    0.75 * 0.81 * log(10); the gradient is that of the positive at 0.1 with its sign changed."""
    slope = 0.75 * 0.81 * (1.0 - 0.1 - 2.0 * 0.1 * math.log(0.1))
    check(
        "binary_focal@1",
        {"logits": [math.log(9.0)], "target": [0.0]},
        [0.75 * 0.81 * math.log(10.0)],
        {"logits": [slope]},
    )


def test_dice() -> None:
    """p = (1, 1/2), t = (1, 0), smooth 1: overlap 1, sum 5/2, so 1 - 3/3.5 = 1/7.
    The derivative is -2 t / 3.5 + 3 / 3.5^2: (-16/49, 12/49) in p; with t and p exchanged,
    (-2 + 6/7) / 3.5 and (-1 + 6/7) / 3.5, that is (-16/49, -2/49), in t."""
    check(
        "dice@1",
        {"prediction": [[1.0, 0.5]], "target": [[1.0, 0.0]]},
        [1.0 / 7.0],
        {"prediction": [[-16.0 / 49.0, 12.0 / 49.0]], "target": [[-16.0 / 49.0, -2.0 / 49.0]]},
    )


def test_dice_with_squares_in_the_denominator_is_v_nets() -> None:
    """Overlap 1 and squares 5/4 and 1, smooth 1: 1 - 3 / 3.25 = 1/13. The derivative is
    -2 t / 3.25 + 6 p / 3.25^2: (-8/169, 48/169) in p; with t and p exchanged (-8/169, -52/169)."""
    check(
        "dice@1",
        {"prediction": [[1.0, 0.5]], "target": [[1.0, 0.0]]},
        [1.0 / 13.0],
        {
            "prediction": [[-8.0 / 169.0, 48.0 / 169.0]],
            "target": [[-8.0 / 169.0, -52.0 / 169.0]],
        },
        squared=True,
    )
    whole = {"prediction": [[1.0, 0.0]], "target": [[1.0, 0.0]]}
    check("dice@1", whole, [0.0], {"prediction": [[-1.0 / 3.0, 1.0 / 3.0]]}, squared=False)
    check("dice@1", whole, [0.0], {"prediction": [[0.0, 0.0]]}, squared=True)


def test_dice_of_an_empty_target_with_little_smoothing() -> None:
    """t = 0 everywhere: 1 - s / (P + s); the derivative s / (P + s)^2 survives, where the quotient
    rule on the non-overlap would give 1 / (P + s) - P / (P + s)^2, all digits lost in float32."""
    s, total = 2.0**-20, 3.0
    graph = planned("dice@1", smooth=s).fused(("prediction",))
    inputs = {"prediction": np.full((1, 4), 0.75), "target": np.zeros((1, 4))}
    found = plain_numpy.run(graph, inputs, "float32")["gradient_prediction"]
    np.testing.assert_allclose(found, s / (total + s) ** 2, rtol=3e-7)


def test_info_nce() -> None:
    """Orthonormal pairs at temperature 1: each loss is log(1 + e^-1). With q = 1 / (1 + e) a
    query's gradient -q own + q other, across itself, is q times the other unit vector; a key's is
    the same, by symmetry."""
    q = 1.0 / (1.0 + math.e)
    loss = math.log1p(math.exp(-1.0))
    eye = [[1.0, 0.0], [0.0, 1.0]]
    across = [[0.0, q], [q, 0.0]]
    check(
        "info_nce@1",
        {"query": eye, "key": eye},
        [loss, loss],
        {"query": across, "key": across},
        temperature=1.0,
    )


def test_arc_face() -> None:
    """An embedding of length sqrt 2 at 45 degrees between two orthonormal centres, label 0:
    with f its angle, z = s (sin f - cos(f + m)), the loss is log(1 + e^z), and its derivative in f
    is sigmoid(z) s (cos f + sin(f + m)), along (-sin f, cos f) over the length."""
    m, s, f = 0.5, 2.0, math.pi / 4.0
    z = s * (math.sin(f) - math.cos(f + m))
    turn = s / (1.0 + math.exp(-z)) * (math.cos(f) + math.sin(f + m))
    step = turn * ROOT_HALF / math.sqrt(2.0)
    check(
        "arc_face@1",
        {"embeddings": [[1.0, 1.0]], "labels": [0], "centres": [[1.0, 0.0], [0.0, 1.0]]},
        [math.log1p(math.exp(z))],
        {"embeddings": [[-step, step]]},
        margin=m,
        scale=s,
    )


def test_arc_face_beyond_pi() -> None:
    """Where the enlarged angle passes pi, the cosine is lowered by m sin m instead: an embedding
    opposite its centre, with the other centre across, has logits (-1 - m sin m, 0)."""
    m = 0.5
    loss = math.log1p(math.exp(1.0 + m * math.sin(m)))
    check(
        "arc_face@1",
        {"embeddings": [[-3.0, 0.0]], "labels": [0], "centres": [[1.0, 0.0], [0.0, 1.0]]},
        [loss],
        {},
        margin=m,
        scale=1.0,
    )


def test_learned_polynomial() -> None:
    """Equal logits of two classes: 1 - p = 1/2, so 1/2 + (1/4)/2 = 5/8 with coefficients 1, 1.
    The slope in 1 - p is 1 + 1/2, and 1 - p falls by p (1 - p) = 1/4 a unit of the own logit."""
    check(
        "learned_polynomial@1",
        {"logits": [[0.0, 0.0]], "labels": [0], "coefficients": [1.0, 1.0]},
        [0.625],
        {"logits": [[-0.375, 0.375]], "coefficients": [0.5, 0.125]},
    )


def test_gradient_penalty() -> None:
    """A linear critic with slope (3, 4): 10 (5 - 1)^2 = 160, and 2 * 10 * 4 / 5 times the slope."""
    given = planned("gradient_penalty@1")
    assert [(c.op, c.port, c.wrt) for c in given.calls] == [("derivative", "critic", (0,))]
    check(
        "gradient_penalty@1",
        {given.calls[0].name: [[3.0, 4.0]]},
        [160.0],
        {given.calls[0].name: [[48.0, 64.0]]},
    )
    # Without a slope the norm has gradient 0, by convention, and the penalty is 10.
    check(
        "gradient_penalty@1",
        {given.calls[0].name: [[0.0, 0.0]]},
        [10.0],
        {given.calls[0].name: [[0.0, 0.0]]},
    )


def test_pde_residual() -> None:
    """exp(-pi^2 t) sin(pi x) solves the heat equation (Fourier 1822), x^2 t does not: its residual
    with diffusivity 1/2 is (x^2 - t)^2, the gradient 2 (x^2 - t) in the rate and minus half of that
    in the curvature."""
    calls = planned("pde_residual@1").calls
    assert [(c.op, c.wrt) for c in calls] == [("derivative", (0,)), ("derivative", (1, 1))]
    rate, curvature = (c.name for c in calls)
    t, x = np.array([0.1, 0.2]), np.array([0.3, 0.9])
    u = np.exp(-(math.pi**2) * t) * np.sin(math.pi * x)
    check(
        "pde_residual@1",
        {rate: -(math.pi**2) * u, curvature: -(math.pi**2) * u},
        [0.0, 0.0],
        {rate: [0.0, 0.0]},
    )
    gap = x**2 - t
    check(
        "pde_residual@1",
        {rate: x**2, curvature: 2.0 * t},
        gap**2,
        {rate: 2.0 * gap, curvature: -gap},
        diffusivity=0.5,
    )


def test_perceptual() -> None:
    """Two maps of two elements, differences (1, 2) and (2, 3): 5/2 + 13/2, and with each map's
    size 2 the gradient 2 d / 2 is the difference itself."""
    names = {c.op: c.name for c in planned("perceptual@1").calls if c.op != "apply"}
    seen, wanted = (c.name for c in planned("perceptual@1").calls if c.op == "apply")
    check(
        "perceptual@1",
        {
            names["map_sizes"]: [2.0, 2.0],
            names["segments"]: [0, 0, 1, 1],
            seen: [[1.0, 2.0, 3.0, 4.0]],
            wanted: [[0.0, 0.0, 1.0, 1.0]],
        },
        [9.0],
        {seen: [[1.0, 2.0, 2.0, 3.0]], wanted: [[-1.0, -2.0, -2.0, -3.0]]},
    )


def test_elastic_net() -> None:
    """Parameters (1, -2, 0), strength 1/8, ratio 1/2: (|w| + w^2 / 2) / 16."""
    check(
        "elastic_net_penalty@1",
        {"parameters": [1.0, -2.0, 0.0]},
        [1.5 / 16.0, 4.0 / 16.0, 0.0],
        {"parameters": [2.0 / 16.0, -3.0 / 16.0, 0.0]},
        strength=0.125,
        l1_ratio=0.5,
    )
    check(
        "l1_penalty@1",
        {"parameters": [-3.0, 0.0]},
        [0.75, 0.0],
        {"parameters": [-0.25, 0.0]},
        strength=0.25,
    )
    check(
        "l2_penalty@1",
        {"parameters": [-3.0, 0.0]},
        [1.125, 0.0],
        {"parameters": [-0.75, 0.0]},
        strength=0.25,
    )


def test_ctc() -> None:
    """Two steps, two symbols, every probability 1/2, target "1": three of the four paths spell it,
    (1,1), (blank,1) and (1,blank); symbol 1 is in two of the three at each step."""
    half = math.log(0.5)
    check(
        "ctc@1",
        {
            "log_probs": np.full((2, 1, 2), half),
            "targets": [[1]],
            "input_lengths": [2],
            "target_lengths": [1],
        },
        [-math.log(0.75)],
        {"log_probs": [[[-1 / 3, -2 / 3]], [[-1 / 3, -2 / 3]]]},
    )


def test_ctc_needs_a_blank_between_equal_symbols() -> None:
    """Target "1 1" needs three steps: only (1, blank, 1) spells it, with probability 1/8."""
    half = math.log(0.5)
    inputs = {
        "log_probs": np.full((3, 1, 2), half),
        "targets": [[1, 1]],
        "input_lengths": [3],
        "target_lengths": [2],
    }
    check(
        "ctc@1",
        inputs,
        [3.0 * math.log(2.0)],
        {"log_probs": [[[0.0, -1.0]], [[-1.0, 0.0]], [[0.0, -1.0]]]},
    )
    short = {**inputs, "input_lengths": [2]}
    check("ctc@1", short, [math.inf], {"log_probs": np.zeros((3, 1, 2))})
    check("ctc@1", short, [0.0], {"log_probs": np.zeros((3, 1, 2))}, zero_infinity=True)


def test_triplet() -> None:
    """Distances 5 and 10 with margin 10 leave 5; the directions of both are (3, 4) / 5, so the
    anchor's gradient cancels. With p = 3 a difference (1, 1) has length 2^(1/3)."""
    check(
        "triplet_margin@1",
        {"anchor": [[0.0, 0.0]], "positive": [[3.0, 4.0]], "negative": [[6.0, 8.0]]},
        [5.0],
        {"anchor": [[0.0, 0.0]], "positive": [[0.6, 0.8]], "negative": [[-0.6, -0.8]]},
        margin=10.0,
        eps=0.0,
    )
    root = 2.0 ** (1.0 / 3.0)
    check(
        "triplet_margin@1",
        {"anchor": [[1.0, 1.0]], "positive": [[0.0, 0.0]], "negative": [[1.0, 1.0]]},
        [root + 1.0],
        {"positive": [[-(root**-2), -(root**-2)]], "negative": [[0.0, 0.0]]},
        eps=0.0,
        p=3.0,
    )


def test_cosine_embedding() -> None:
    """Vectors at a right angle: distance 1, and the gradient is minus the other's direction over
    the own length."""
    check(
        "cosine_embedding@1",
        {"x1": [[1.0, 0.0]], "x2": [[0.0, 2.0]], "target": [1.0]},
        [1.0],
        {"x1": [[0.0, -1.0]], "x2": [[-0.5, 0.0]]},
    )


def test_kl_div() -> None:
    """p log(p / q) at p = 1/2, q = 1/4, and 0 where p is 0 even if log q is -inf."""
    check(
        "kl_div@1",
        {"prediction": [math.log(0.25), -math.inf], "target": [0.5, 0.0]},
        [0.5 * math.log(2.0), 0.0],
        {"prediction": [-0.5, 0.0]},
    )


def test_gaussian_and_poisson() -> None:
    """(log v + e^2 / v) / 2 at e = 2, v = 4; exp(x) - t x at x = log 2, t = 3."""
    check(
        "gaussian_nll@1",
        {"prediction": [2.0], "target": [0.0], "var": [4.0]},
        [0.5 * (math.log(4.0) + 1.0)],
        {"prediction": [0.5], "var": [0.0]},
    )
    check(
        "poisson_nll@1",
        {"prediction": [math.log(2.0)], "target": [3.0]},
        [2.0 - 3.0 * math.log(2.0)],
        {"prediction": [-1.0], "target": [-math.log(2.0)]},
    )


def test_hinge_embedding() -> None:
    """A distance of 2 together costs 2; apart, 1/4 within a margin of 1 lacks 3/4, 2 lacks 0."""
    check(
        "hinge_embedding@1",
        {"prediction": [2.0, 0.25, 2.0], "target": [1.0, -1.0, -1.0]},
        [2.0, 0.75, 0.0],
        {"prediction": [1.0, -1.0, 0.0]},
    )


def test_margin_ranking() -> None:
    """The first should be higher by 1: it is by 1/2, which lacks 1/2; lower as wanted by 2."""
    check(
        "margin_ranking@1",
        {"x1": [1.0, 0.0], "x2": [0.5, 2.0], "target": [1.0, -1.0]},
        [0.5, 0.0],
        {"x1": [-1.0, 0.0], "x2": [1.0, 0.0]},
        margin=1.0,
    )


def test_multi_margin() -> None:
    """Scores (1, 1/2, 2), label 0: shortfalls 1/2 and 2 of three classes, or their squares; the
    gradient is p / 3 times each shortfall's power p - 1, its sum taken from the label's score."""
    inputs = {"prediction": [[1.0, 0.5, 2.0]], "labels": [0]}
    slopes = {"prediction": [[-2.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]]}
    check("multi_margin@1", inputs, [2.5 / 3.0], slopes)
    slopes = {"prediction": [[-5.0 / 3.0, 1.0 / 3.0, 4.0 / 3.0]]}
    check("multi_margin@1", inputs, [4.25 / 3.0], slopes, p=2.0)


def test_multi_label_margin() -> None:
    """Scores (1, 1/2, 2), the set {1, 2}: only class 0 is outside. Class 1 is 3/2 short of it,
    class 2 by 0 on the margin's far side; what follows the first negative number does not count."""
    inputs = {"prediction": [[1.0, 0.5, 2.5]], "target": [[1, 2, -1]]}
    check(
        "multi_label_margin@1",
        inputs,
        [0.5],
        {"prediction": [[1.0 / 3.0, -1.0 / 3.0, 0.0]]},
    )
    # The set {2} alone: shortfalls of the others 1 - 3/2 and 1 - 2, both below 0.
    check("multi_label_margin@1", {**inputs, "target": [[2, -1, 1]]}, [0.0], {})


def test_multi_label_soft_margin() -> None:
    """Labels (1, 0) at logits log 3 and 0: -log(3/4) and log 2, averaged; slopes (p - y) / 2."""
    check(
        "multi_label_soft_margin@1",
        {"logits": [[math.log(3.0), 0.0]], "target": [[1.0, 0.0]]},
        [0.5 * math.log(8.0 / 3.0)],
        {"logits": [[-0.125, 0.25]]},
    )


def test_linear_cross_entropy() -> None:
    """An embedding (1, 2) with weights that give logits (log 3, 0), label 0: -log(3/4). The slopes
    in the logits are (-1/4, 1/4): times the embedding those in the weights, and times the weights
    those in the embedding."""
    weight = [[math.log(3.0), 2.0], [0.0, -1.0]]
    slopes = {
        "embeddings": [[0.25 * (2.0 - math.log(3.0)), -0.25]],
        "linear_weight": [[-0.25, 0.25], [-0.5, 0.5]],
    }
    inputs = {"embeddings": [[1.0, 2.0]], "linear_weight": weight}
    value = [math.log(4.0 / 3.0)]
    check("linear_cross_entropy@1", {**inputs, "labels": [0]}, value, slopes)
    soft = {**inputs, "target": [[1.0, 0.0]]}
    check("linear_cross_entropy_probabilities@1", soft, value, slopes)


def test_triplet_with_distance() -> None:
    """Distances 3 and 1 with margin 1 cost 3, and with a swap to 1/2 they cost 7/2."""
    given = planned("triplet_margin_with_distance@1", swap=True)
    names = {tuple(c.passed or ()): c.name for c in given.calls}
    near, far = names["anchor", "positive"], names["anchor", "negative"]
    other = names["positive", "negative"]
    check(
        "triplet_margin_with_distance@1",
        {near: [3.0], far: [1.0], other: [0.5]},
        [3.5],
        {near: [1.0], far: [0.0], other: [-1.0]},
        swap=True,
    )


def test_mape() -> None:
    """|3 - 2| of 2 is 50 %; a target of 0 counts as eps. The slopes are 100 / 2 in the prediction
    and -100 * 3 / 2^2 in the target, as |x - y| / y = x / y - 1."""
    check(
        "mape@1",
        {"prediction": [3.0, 0.5], "target": [2.0, 0.0]},
        [50.0, 200.0],
        {"prediction": [50.0, 400.0], "target": [-75.0, -400.0]},
        eps=0.25,
    )


def test_msle() -> None:
    """log(4) - log(2) = log 2, squared; slopes 2 log 2 over 1 + x, and the same below."""
    c = math.log(2.0)
    check(
        "msle@1",
        {"prediction": [3.0, 1.0, 5.0], "target": [1.0, 3.0, 5.0]},
        [c * c, c * c, 0.0],
        {"prediction": [c / 2.0, -c, 0.0], "target": [-c, c / 2.0, 0.0]},
    )


def test_msle_of_a_nearly_true_prediction_and_of_a_far_one() -> None:
    """log(1 + 1/1000) and log(1001), which in float32 a difference of logarithms, or the ratio
    1 + (x - y) / (1 + y), would give to few digits."""
    graph = planned("msle@1").plain
    inputs = {"prediction": np.array([1000.0, 0.0]), "target": np.array([999.0, 1000.0])}
    found = plain_numpy.run(graph, inputs, "float32")["value"]
    wanted = [math.log1p(1e-3) ** 2, math.log(1001.0) ** 2]
    np.testing.assert_allclose(found, wanted, rtol=4e-7)


def test_squared_hinge() -> None:
    """1 - 1/2 short: 1/4, slope -2 * 1/2; on the margin and beyond it 0."""
    check(
        "squared_hinge@1",
        {"prediction": [0.5, -1.0, 2.0], "target": [1.0, -1.0, 1.0]},
        [0.25, 0.0, 0.0],
        {"prediction": [-1.0, 0.0, 0.0]},
    )


def test_multiclass_hinge() -> None:
    """Best of the others 3 against 2.5: 1 + 1/2; then a tie of two others, which share; then 2
    ahead, where nothing is short."""
    check(
        "multiclass_hinge@1",
        {"prediction": [[2.5, 3.0, 1.0], [0.0, 0.5, 0.5], [4.0, 2.0, 1.0]], "labels": [0, 0, 0]},
        [1.5, 1.5, 0.0],
        {"prediction": [[-1.0, 1.0, 0.0], [-1.0, 0.5, 0.5], [0.0, 0.0, 0.0]]},
    )


def test_cosine_similarity() -> None:
    """(3, 4) against the first axis: cosine 3/5; the slope is across, -(1 - 9/25, -12/25) / 5."""
    check(
        "cosine_similarity@1",
        {"prediction": [[3.0, 4.0], [0.0, 0.0]], "target": [[2.0, 0.0], [1.0, 0.0]]},
        [-0.6, 0.0],
        {"prediction": [[-0.128, 0.096], [0.0, 0.0]]},
    )


def test_circle() -> None:
    """Sun et al. 2020, eq. 6 with gamma 1 and margin 1/4, one pair of each sort: two equal unit
    vectors (similarity 1) and one across (similarity 0). The weights are 1/4 and 1/4, so that the
    logits are -(1/4)(1 - 3/4) and (1/4)(0 - 1/4): softplus(-1/8) for the two. The third has no
    pair of its own."""
    value = math.log1p(math.exp(-0.125))
    check(
        "circle@1",
        {"embeddings": [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "labels": [5, 5, 7]},
        [value, value, 0.0],
        # Weights are constants: a quarter of sigmoid(-1/8) times what moves the similarity across,
        # once from each side for both that are alike.
        {
            "embeddings": [
                [0.0, 0.25 / (1.0 + math.exp(0.125))],
                [0.0, 0.25 / (1.0 + math.exp(0.125))],
                [0.5 / (1.0 + math.exp(0.125)), 0.0],
            ]
        },
        gamma=1.0,
        margin=0.25,
    )


def test_tversky() -> None:
    """p = (1, 1/2), t = (1, 0): overlap 1, excess 1/2, nothing missing. With alpha 1/2, beta 2 and
    smooth 1 that is 1 - 2 / (2 + 1/4) = 1/9. In p_1 the overlap grows by 1 and the whole by
    1 - beta, so the slope is -(1 - (8/9)(1 - 2)) / (9/4); in p_2 the whole grows by alpha."""
    check(
        "tversky@1",
        {"prediction": [[1.0, 0.5]], "target": [[1.0, 0.0]]},
        [1.0 / 9.0],
        {"prediction": [[-(1.0 + 8.0 / 9.0) / 2.25, (4.0 / 9.0) / 2.25]]},
        alpha=0.5,
        beta=2.0,
    )


def test_tversky_of_halves_is_dice_of_twice_the_smoothing() -> None:
    inputs = {"prediction": np.array([[0.9, 0.2, 0.4]]), "target": np.array([[1.0, 0.0, 0.7]])}
    found = plain_numpy.run(planned("tversky@1", smooth=0.5).plain, inputs, "float64")["value"]
    wanted = plain_numpy.run(planned("dice@1", smooth=1.0).plain, inputs, "float64")["value"]
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_focal_of_a_distribution() -> None:
    """Equal logits of two classes, gamma 2: log(2) / 4, however the target is spread. For the
    target (1, 0) the slope is (1 - p)^2 (2 p log p + p - 1), as in appendix B: -(log(2) + 1/2) / 4,
    and for (3/4, 1/4) half of that."""
    slope = (math.log(2.0) + 0.5) / 4.0
    check(
        "focal_probabilities@1",
        {"logits": [[0.0, 0.0], [0.0, 0.0]], "target": [[1.0, 0.0], [0.75, 0.25]]},
        [math.log(2.0) / 4.0] * 2,
        {"logits": [[-slope, slope], [-0.5 * slope, 0.5 * slope]]},
    )


def test_generalized_cross_entropy() -> None:
    """p = 1/4 and q = 1/2: (1 - 1/2) / (1/2) = 1, slope -p^q (1 - p) = -3/8 in the own logit, and
    p^q times each other probability. At q = 1 it is 1 - p, half the mean absolute error."""
    logits, labels = [[0.0, math.log(3.0)]], [0]
    check(
        "generalized_cross_entropy@1",
        {"logits": logits, "labels": labels},
        [1.0],
        {"logits": [[-0.375, 0.375]]},
        q=0.5,
    )
    check(
        "generalized_cross_entropy@1",
        {"logits": logits, "labels": labels},
        [0.75],
        {"logits": [[-0.1875, 0.1875]]},
        q=1.0,
    )


def test_perceptrons() -> None:
    """The wrong sign costs the score, and the best class its lead, shared where two tie; scores
    that differ do not tie, however far below them the labelled one is."""
    inputs = {"prediction": [2.0, -3.0], "target": [-1.0, -1.0]}
    check("perceptron@1", inputs, [2.0, 0.0], {"prediction": [1.0, 0.0]})
    check(
        "multiclass_perceptron@1",
        {"prediction": [[1.0, 4.0, 2.0], [2.0, 2.0, 0.0], [-1e30, 1.0, 2.0]], "labels": [0, 0, 0]},
        [3.0, 0.0, 1e30],
        {"prediction": [[-1.0, 1.0, 0.0], [-0.5, 0.5, 0.0], [-1.0, 0.0, 1.0]]},
    )


def test_generalized_kl_div() -> None:
    """1 log(1/2) - 1 + 2; next to the target e**2 / 2 - e**3 / 6 of the relative excess e."""
    check(
        "generalized_kl_div@1",
        {"prediction": [math.log(2.0), 0.0, 0.0], "target": [1.0, 1.0 + 2.0**-20, 0.0]},
        [1.0 - math.log(2.0), 2.0**-41 - 2.0**-60 / 6.0, 1.0],
        {
            "prediction": [1.0, -(2.0**-20), 1.0],
            "target": [-math.log(2.0), math.log1p(2.0**-20), 0.0],
        },
    )


def test_generalized_kl_div_of_an_amount_beyond_all_numbers() -> None:
    """1e308 against exp(710), which is 2.2e308: 1e308 (exp(u) - 1 - u), u = 710 - log(1e308)."""
    u = 710.0 - 308.0 * math.log(10.0)
    check(
        "generalized_kl_div@1",
        {"prediction": [710.0], "target": [1e308]},
        [1e308 * (math.expm1(u) - u)],
        {"prediction": [1e308 * math.expm1(u)], "target": [-u]},
    )


def test_poly_cross_entropy() -> None:
    """p = 3/4: log(4/3) and twice 1/4; its slope is p - 1 less twice p (1 - p)."""
    check(
        "poly_cross_entropy@1",
        {"logits": [[math.log(3.0), 0.0]], "target": [[1.0, 0.0]]},
        [math.log(4.0 / 3.0) + 0.5],
        {"logits": [[-0.625, 0.625]]},
    )


def test_ranking_softmax() -> None:
    """Relevances 2 and 1 at probabilities 3/4 and 1/4; the slopes are 3 p less the relevance."""
    check(
        "ranking_softmax@1",
        {"logits": [[math.log(3.0), 0.0]], "target": [[2.0, 1.0]]},
        [2.0 * math.log(4.0 / 3.0) + math.log(4.0)],
        {"logits": [[0.25, -0.25]]},
    )


def test_binary_sparsemax() -> None:
    """(1 + x)**2 / 4 between -1 and 1 of the logit on the wrong side, and x beyond."""
    check(
        "binary_sparsemax@1",
        {"logits": [0.0, 0.5, -3.0, 2.0], "target": [0.0, 1.0, 1.0, 1.0]},
        [0.25, 0.0625, 3.0, 0.0],
        {"logits": [0.5, -0.25, -1.0, 0.0]},
    )


def test_sparsemax() -> None:
    """Scores 1, 1/2, -1 are nearest to (3/4, 1/4, 0). By the definition, p.(z - z_y) + (1 - p.p)/2:
    label 0 costs -1/8 + 3/16, label 2 costs 3/2 + 3/8 + 3/16; the slopes are p less the label."""
    scores = [[1.0, 0.5, -1.0]]
    slopes = {"logits": [[-0.25, 0.25, 0.0]]}
    check("sparsemax@1", {"logits": scores, "labels": [0]}, [0.0625], slopes)
    slopes = {"logits": [[0.75, 0.25, -1.0]]}
    check("sparsemax@1", {"logits": scores, "labels": [2]}, [2.0625], slopes)


def test_fenchel_young() -> None:
    """A smoothed maximum of 3 less 1/2 1 + 1/2 2; the slope in the target is minus the scores."""
    (call,) = planned("fenchel_young@1").calls
    inputs = {"logits": [[1.0, 2.0]], "target": [[0.5, 0.5]], call.name: [3.0]}
    slopes = {call.name: [1.0], "target": [[-1.0, -2.0]]}
    check("fenchel_young@1", inputs, [1.5], slopes)


def test_generalized_dice() -> None:
    """Volumes 2 and 1 weigh 1/5 and 1/2 with eps 1; all predictions are 1/2, so overlaps are 1 and
    1/2 and the sums of both masks 7/2 and 5/2."""
    target = [[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]
    inputs = {"prediction": [[[0.5, 0.5]] * 3], "target": target}
    check("generalized_dice@1", inputs, [1.0 - 0.9 / 1.95], {}, eps=1.0, smooth=0.0)
    check("generalized_dice@1", inputs, [1.0 - 1.9 / 2.95], {}, eps=1.0, smooth=1.0)
    nothing = {"prediction": [[[0.0, 0.0]]], "target": [[[0.0, 0.0]]]}
    check("generalized_dice@1", nothing, [0.0], {})


def test_generalized_dice_learns_where_a_class_is_absent_from_a_sample() -> None:
    """Volumes 2 and 0 weigh 1/5 and, as the largest there is, 1/5 with eps 1: overlap 13/50 and
    volumes 4/5, so 1 - 13/20. The derivative -2 (w t V - O w) / V^2 is -0.3375 and 0.1625; with
    the weight 1 / eps of an empty class all of them were below 2e-7."""
    inputs = {"prediction": [[[0.6, 0.4], [0.7, 0.3]]], "target": [[[1.0, 0.0], [1.0, 0.0]]]}
    slopes = {"prediction": [[[-0.3375, 0.1625]] * 2]}
    check("generalized_dice@1", inputs, [0.35], slopes, eps=1.0, smooth=0.0)
    # The weights of a sample are its own: beside one that has the class, it is the same.
    other = {"prediction": [[[0.5, 0.5]] * 2], "target": [[[1.0, 0.0], [0.0, 1.0]]]}
    both = {n: [*inputs[n], *other[n]] for n in inputs}
    check("generalized_dice@1", both, [0.35, 0.5], {}, eps=1.0, smooth=0.0)


def test_generalized_dice_of_three_classes_gives_an_absent_one_the_largest_weight() -> None:
    """Volumes 2, 1 and 0 weigh 1/5, 1/2 and 1/2; the predictions are 1/4 of the third class, 1/2 of
    the first and 1/4 of the second: overlap 1/5 + 1/8, volumes (3/2 + 2) / 5 + (3/4 + 1 + 3/4) / 2.
    """
    target = [[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    inputs = {"prediction": [[[0.5, 0.25, 0.25]] * 3], "target": target}
    check("generalized_dice@1", inputs, [1.0 - 0.65 / 1.95], {}, eps=1.0, smooth=0.0)


def test_generalized_dice_of_a_sample_without_any_class_is_dice() -> None:
    """1 - s / (P + s) with P = 1 and s = 1, the derivative s / (P + s)^2."""
    inputs = {"prediction": [[[0.5, 0.5]]], "target": [[[0.0, 0.0]]]}
    check("generalized_dice@1", inputs, [0.5], {"prediction": [[[0.25, 0.25]]]}, smooth=1.0)


def test_cosine_distance() -> None:
    """(1, 0) and (3, 4) have the cosine 3/5; the slopes are across the vectors."""
    check(
        "cosine_distance@1",
        {"prediction": [[1.0, 0.0]], "target": [[3.0, 4.0]]},
        [0.4],
        {"prediction": [[0.0, -0.8]], "target": [[-0.128, 0.096]]},
    )


def test_nt_xent() -> None:
    """Two equal vectors of one label, and one across: each pair costs log(1 + exp(0 - 1))."""
    cost = math.log1p(math.exp(-1.0))
    check(
        "nt_xent@1",
        {"embeddings": [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], "labels": [0, 0, 1]},
        [[0.0, cost, 0.0], [cost, 0.0, 0.0], [0.0, 0.0, 0.0]],
        {},
        temperature=1.0,
    )


def test_a_wrong_value_is_noticed() -> None:
    with pytest.raises(AssertionError):
        check(
            "log_cosh@1",
            {"prediction": [1.0], "target": [0.0]},
            [0.4337808304830271],
            {"prediction": [0.76]},
        )
