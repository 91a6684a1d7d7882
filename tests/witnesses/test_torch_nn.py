"""The witnesses of torch.nn, against torch itself and on the other two platforms."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import originals
import pytest
from originals import Case

from lossbridge.errors import ArgumentError, LossbridgeError

torch = pytest.importorskip("torch")

import lossbridge.torch as L  # noqa: E402

RNG = np.random.default_rng(20)
INF, NAN = np.inf, np.nan
X, Y, Z = RNG.normal(size=(3, 4, 3))
P, Q = RNG.uniform(0.05, 0.95, (2, 4, 3))
SOFT = P / P.sum(1, keepdims=True)
LABELS = np.array([0, 2, 1, 2])
SIGNS = np.where(Y > 0, 1.0, -1.0)
ROWS = SIGNS[:, 0]
COUNTS = np.array([[0.5, 1.0, 3.0]] * 4)
SETS = np.array([[2, -1, 0], [0, 1, -1], [-1, 2, 1], [1, 1, -1]])
WEIGHT = np.array([1.0, 2.0, 0.5])
FEATURES = RNG.normal(size=(4, 5))
SPOKEN = RNG.normal(size=(5, 3, 4))
SPOKEN -= np.log(np.exp(SPOKEN).sum(2, keepdims=True))
NONE: dict[str, Any] = {"reduction": "none"}


def case(name: str, at: str, *inputs: Any, **arguments: Any) -> Case:
    """A case, its inputs in the order of the specification."""
    without = ("target",) if name == "SoftMarginLoss" else ()
    given = arguments.pop("names", None) or NAMES.get(name, ("prediction", "target"))
    arrays = {n: np.asarray(x) for n, x in zip(given, inputs, strict=True)}
    return Case(f"torch.nn.{name}", at, arrays, arguments, without=without)


LOGITS = ("logits", "target")
LABELLED = ("logits", "labels")
PAIR = ("x1", "x2", "target")
TRIPLE = ("anchor", "positive", "negative")
NAMES = {
    "GaussianNLLLoss": ("prediction", "target", "var"),
    "BCEWithLogitsLoss": LOGITS,
    "CrossEntropyLoss": LABELLED,
    "NLLLoss": ("log_probs", "labels"),
    "MarginRankingLoss": PAIR,
    "CosineEmbeddingLoss": PAIR,
    "MultiMarginLoss": ("prediction", "labels"),
    "MultiLabelSoftMarginLoss": LOGITS,
    "TripletMarginLoss": TRIPLE,
    "TripletMarginWithDistanceLoss": TRIPLE,
    "CTCLoss": ("log_probs", "targets", "input_lengths", "target_lengths"),
}
EMPTY = np.zeros((0, 3))
NO_LABELS = np.zeros(0, int)

SETTINGS: list[tuple[str, tuple[Any, ...], list[dict[str, Any]]]] = [
    ("L1Loss", (X, Y), [{}, {"reduction": "sum"}, {"reduce": False}]),
    ("MSELoss", (X, Y), [{}, NONE, {"size_average": False}]),
    ("SmoothL1Loss", (X, Y), [{}, {"beta": 0.3}, {"beta": 0.0, "size_average": False}]),
    ("HuberLoss", (X, Y), [{}, {"delta": 0.5}, {"delta": 2.0, "reduction": "sum"}]),
    ("PoissonNLLLoss", (P, COUNTS), [{}, {"full": True}, {"log_input": False, "eps": 1e-3}]),
    ("GaussianNLLLoss", (X, Y, P), [{}, {"full": True}, {"eps": 0.4, "reduction": "sum"}]),
    ("KLDivLoss", (X, P), [{}, {"reduction": "batchmean"}, {"log_target": True, **NONE}]),
    ("BCELoss", (P, Q), [{}, {"weight": WEIGHT}, {"weight": Q, "reduction": "sum"}]),
    (
        "BCEWithLogitsLoss",
        (X, Q),
        [{}, {"weight": WEIGHT, "pos_weight": 2 * WEIGHT}, {"weight": Q[:, :1], **NONE}],
    ),
    (
        "CrossEntropyLoss",
        (X, LABELS),
        [
            {},
            {"weight": WEIGHT, "ignore_index": 2, "label_smoothing": 0.1},
            {"weight": WEIGHT, "reduction": "sum"},
            {"label_smoothing": 1.0, **NONE},
        ],
    ),
    ("NLLLoss", (X, LABELS), [{}, {"weight": WEIGHT, "ignore_index": 1}, {"reduction": "sum"}]),
    ("HingeEmbeddingLoss", (X, SIGNS), [{}, {"margin": 0.3}, {"margin": 2.0, **NONE}]),
    ("MarginRankingLoss", (X, Y, SIGNS), [{}, {"margin": 0.5}, {"margin": -0.5, **NONE}]),
    ("SoftMarginLoss", (X, SIGNS), [{}, NONE, {"size_average": False}]),
    (
        "MultiMarginLoss",
        (X, LABELS),
        [{}, {"p": 2, "weight": WEIGHT}, {"margin": 0.3, "weight": WEIGHT, **NONE}],
    ),
    ("MultiLabelMarginLoss", (X, SETS), [{}, NONE, {"reduction": "sum"}]),
    ("MultiLabelSoftMarginLoss", (X, Q), [{}, {"weight": WEIGHT}, {"weight": WEIGHT, **NONE}]),
    (
        "CosineEmbeddingLoss",
        (X, Y, ROWS),
        [{}, {"margin": 0.4}, {"margin": -0.4, "reduction": "sum"}],
    ),
    (
        "TripletMarginLoss",
        (X, Y, Z),
        [{}, {"p": 3.0, "swap": True}, {"p": 1.0, "margin": 3.0}, {"p": INF, "margin": 4.0}],
    ),
    ("TripletMarginWithDistanceLoss", (X, Y, Z), [{}, {"swap": True}, {"margin": 3.0, **NONE}]),
    (
        "CTCLoss",
        (SPOKEN, [[1, 2], [2, 2], [1, 1]], [5, 4, 3], [2, 2, 0]),
        [{}, {"reduction": "sum"}, {"blank": 3, "zero_infinity": True, **NONE}],
    ),
]
BENIGN = [
    case(name, "benign", *inputs, **arguments)
    for name, inputs, settings in SETTINGS
    for arguments in settings
]
BENIGN += [
    case("CrossEntropyLoss", "probabilities", X, SOFT, names=LOGITS, **arguments)
    for arguments in ({}, {"weight": WEIGHT, "label_smoothing": 0.2}, NONE)
]
IMAGES, PIXELS = RNG.normal(size=(2, 3, 2, 2)), np.array([[[0, 1], [2, 1]], [[1, -100], [0, 0]]])
VOLUMES, VOXELS = RNG.normal(size=(2, 3, 2, 1, 2)), PIXELS[:, :, None]
SHAPES = [
    case("CrossEntropyLoss", "images", IMAGES, PIXELS, weight=WEIGHT, label_smoothing=0.1),
    case("NLLLoss", "images", IMAGES, PIXELS, weight=WEIGHT),
    case("CrossEntropyLoss", "no batch", X[0], 1, weight=WEIGHT, label_smoothing=0.1),
    case("CrossEntropyLoss", "no batch, ignored", X[0], 1, ignore_index=1),
    case("CrossEntropyLoss", "no batch, probabilities", X[0], SOFT[0], names=LOGITS),
    case("CrossEntropyLoss", "volumes", VOLUMES, VOXELS, weight=WEIGHT),
    case("NLLLoss", "no batch", X[0], 1, weight=WEIGHT),
    case("MultiMarginLoss", "no batch", X[0], 1),
    case("MultiLabelMarginLoss", "no batch", X[0], SETS[0]),
    case("MultiLabelSoftMarginLoss", "classes last", IMAGES[..., 0], IMAGES[..., 1] ** 2, **NONE),
    case("CosineEmbeddingLoss", "no batch", X[0], Y[0], 1.0),
    case("TripletMarginLoss", "no batch", X[0], Y[0], Z[0]),
    case("MSELoss", "numbers", 1.0, 0.25),
]

# What each takes when there is nothing to take.
NOTHING = {name: [np.asarray(x)[:0] for x in inputs] for name, inputs, _ in SETTINGS}
del NOTHING["CTCLoss"]  # raises: see RAISES
# What these two reduce of nothing is memory that was never written.
UNINITIALISED = ("MultiMarginLoss", "MultiLabelMarginLoss")

# Zeros, ties, ends of clips, labels that do not count, nothing to average: "KINDS: words".
ZEROS = [0.0, 1.0, -1.0, 2.0]
EDGES = [
    case("L1Loss", "kinks: equal", ZEROS, [0.0, 1.0, 1.0, -1.0], **NONE),
    case("SmoothL1Loss", "kinks: ends of the quadratic part", ZEROS, [0.0] * 4, **NONE),
    case("SmoothL1Loss", "kinks: equal, beta 0", ZEROS, [0.0] * 4, beta=0.0, **NONE),
    case("HuberLoss", "kinks: ends of the quadratic part", ZEROS, [0.0] * 4, **NONE),
    case("PoissonNLLLoss", "kinks: counts up to 1", ZEROS, [0.0, 1.0, 0.5, 1.5], full=True, **NONE),
    case("PoissonNLLLoss", "clip: rate 0", [0.0, 0.0], [0.0, 2.0], log_input=False, **NONE),
    case("PoissonNLLLoss", "saturation: rate 0, eps 0", [0.0, 1.0], [1.0, 2.0], log_input=False,
         eps=0.0, **NONE),
    case("GaussianNLLLoss", "eps 0", [0.0, 1.0], [1.0, 2.0], [0.5, 2.0], eps=0.0, **NONE),
    case("GaussianNLLLoss", "clip: variance at eps", [0.0] * 4, ZEROS, [0.0, 0.5, 0.25, 1.0],
         eps=0.5, **NONE),
    case("KLDivLoss", "saturation: probability 0", [-INF, 0.0, -INF, -1.0, NAN],
         [0.0, 0.0, 0.5, 0.5, 0.0],
         **NONE),
    case("KLDivLoss", "saturation: log-probability -inf", [-INF, 0.0, -INF, -1.0],
         [-INF, -INF, -1.0, 0.0],
         log_target=True, **NONE),
    case("BCELoss", "clip, saturation: 0 and 1", [0.0, 1.0, 0.0, 1.0, 1e-50, 1e-13],
         [1.0, 0.0, 0.0, 1.0, 1.0, 0.5],
         **NONE),
    case("BCEWithLogitsLoss", "kinks: logit 0", [0.0, 0.0], [0.0, 0.5], **NONE),
    case("BCEWithLogitsLoss", "saturation: infinite", [INF, -INF, INF, -INF, NAN],
         [1.0, 0.0, 0.0, 1.0, 0.5],
         **NONE),
    case("MultiLabelSoftMarginLoss", "saturation: infinite", [[INF, 0.0], [-INF, 1.0], [INF, 0.0]],
         [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], **NONE),
    case("CrossEntropyLoss", "ignored: some", X, [-100, 0, -100, 1], weight=WEIGHT),
    case("CrossEntropyLoss", "ignored: all", X, [-100] * 4),
    case("CrossEntropyLoss", "ignored: all, smooth", X, [-100] * 4, label_smoothing=0.1),
    case("CrossEntropyLoss", "saturation: impossible logits",
         [[0.0, -INF, 1.0], [0.0, -INF, 1.0], [-INF] * 3, [INF, 0.0, 0.0], [NAN, 0.0, 1.0]],
         [0, 1, 0, 1, 2], **NONE),
    case("CrossEntropyLoss", "saturation, ignored: impossible logits",
         [[0.0, -INF, 1.0], [-INF] * 3, [INF, 0.0, 0.0], [NAN, 0.0, 1.0]], [-100] * 4, **NONE),
    case("CrossEntropyLoss", "saturation: impossible logits, smooth",
         [[0.0, -INF, 1.0], [0.0, -INF, 1.0]], [0, -100], label_smoothing=0.1, **NONE),
    case("CrossEntropyLoss", "saturation: impossible logits of a distribution",
         [[0.0, -INF, 1.0], [0.0, -INF, 1.0], [-INF] * 3],
         [[0.5, 0.0, 0.5], [0.5, 0.1, 0.4], [1.0, 0.0, 0.0]],
         names=LOGITS, **NONE),
    case("CrossEntropyLoss", "ignored: probabilities of no class", X, 0.0 * X, names=LOGITS,
         **NONE),
    case("NLLLoss", "ignored: all", X, [-100] * 4),
    case("NLLLoss", "saturation, ignored: -inf of weight 0", [[-INF, 2.0], [NAN, 1.0], [0.0, -INF]],
         [0, -100, 1],
         weight=np.array([0.0, 1.0]), **NONE),
    case("HingeEmbeddingLoss", "kinks: on the margin; neither 1 nor -1",
         [0.0, 1.0, 2.0, 1.0, 0.5, NAN, -0.5], [-1.0, -1.0, -1.0, 1.0, 0.0, -1.0, 2.0], **NONE),
    case("MarginRankingLoss", "kinks: on the margin", [0.0, 1.0, 2.0], [1.0, 0.0, 1.0],
         [1.0, 1.0, -1.0], margin=1.0, **NONE),
    case("SoftMarginLoss", "saturation: 0 and far", [0.0, 40.0, -700.0], [1.0, 1.0, 1.0], **NONE),
    *(
        case("MultiMarginLoss", f"kinks: on the margin, p={p}",
             [[1.0, 0.0, 2.0], [1.0, NAN, 2.0], [NAN, 1.0, 1.0]], [0, 0, 0], p=p, **NONE)
        for p in (1, 2)
    ),
    case("MultiLabelMarginLoss", "kinks, ignored: on the margin; none; all; a NaN",
         [[1.0, 0.0, 2.0], [0.5, 1.0, NAN], [1.0, 2.0, 3.0], [NAN, 1.0, 2.0]],
         [[0, -1, 1], [-1, 0, 1], [0, 1, 2], [1, -1, -1]], **NONE),
    case("MultiLabelSoftMarginLoss", "saturation: confident",
         [[40.0, -40.0, 0.0], [800.0, -800.0, 30.0]],
         [[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]], **NONE),
    case("CosineEmbeddingLoss", "kinks, clip: zero vectors, neither 1 nor -1",
         [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
         [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]],
         [-1.0, 1.0, 0.0, 1.0, -1.0], **NONE),
    *(
        case("TripletMarginLoss", f"kinks: equal points; on the margin, p={p}",
             [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]],
             [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]], p=p, eps=0.0, **NONE)
        for p in (1.0, 2.0, 3.0)
    ),
    case("TripletMarginLoss", "kinks: largest components tie", [[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]],
         [[0.0, 0.0], [3.0, 3.0], [1.0, 1.0]], [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]],
         p=INF, eps=0.0, **NONE),
    case("TripletMarginLoss", "kinks: swap ties", [[0.0, 0.0]], [[1.0, 0.0]], [[0.5, 0.0]],
         eps=0.0, swap=True, **NONE),
    *(
        case("CTCLoss", at, SPOKEN, [[1, 1], [0, 2], [2, 1]], [2, 5, length], [2, 2, 1],
             **arguments)
        for at, length in (("saturation: impossible", 3), ("saturation, ignored: no input", 0))
        for arguments in (NONE, {"zero_infinity": True}, {"zero_infinity": True, **NONE})
    ),
    case("CTCLoss", "saturation: impossible symbols", np.where(SPOKEN > -2.0, SPOKEN, -INF),
         [[1, 2], [2, 2], [3, 1]], [5, 5, 5], [2, 1, 0], **NONE),
    case("PoissonNLLLoss", "saturation: far", [800.0, -800.0, INF, -INF], [1.0, 1.0, 0.0, 1.0],
         **NONE),
    case("BCEWithLogitsLoss", "saturation: confident", [40.0, -40.0, 800.0, -800.0],
         [0.0, 1.0, 0.0, 1.0], **NONE),
    case("BCEWithLogitsLoss", "saturation: confident, weighed", [40.0, -40.0, 800.0, -800.0],
         [0.0, 1.0, 0.0, 1.0], pos_weight=3.0 * np.ones(4)),
    case("CrossEntropyLoss", "saturation: confident, and wrong", [[0.0, 40.0], [-800.0, 800.0]],
         [0, 0], **NONE),
    case("CTCLoss", "ignored: beyond the lengths",
         SPOKEN + np.where(np.arange(5) < 3, 0.0, NAN)[:, None, None],
         [[1, 9], [2, -7], [3, 3]], [3, 2, 3], [1, 1, 2], **NONE),
    case("TripletMarginWithDistanceLoss", "kinks: equal points, swap ties",
         [[0.0, 0.0], [0.0, 0.0]],
         [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 4.0]], swap=True, **NONE),
    *(
        case(name, f"empty: {arguments['reduction']}", *inputs, **arguments)
        for name, inputs in NOTHING.items()
        for arguments in ({"reduction": "mean"}, NONE, {"reduction": "sum"})
        if name not in UNINITIALISED or arguments is NONE
    ),
    case("KLDivLoss", "empty: batchmean", EMPTY, EMPTY, reduction="batchmean"),
    case("CrossEntropyLoss", "empty: probabilities", EMPTY, EMPTY, names=LOGITS),
]  # fmt: skip
CASES = [*BENIGN, *SHAPES, *EDGES]
SLOW = pytest.mark.slow  # all cases take 35 s on PyTorch, 85 on Keras and 130 on JAX
LEGS = ["torch", pytest.param("keras", marks=SLOW), pytest.param("jax", marks=SLOW)]


def check(case: Case, *platforms: str) -> None:
    wanted = originals.of_original(case)
    for platform in platforms:
        originals.assert_same(originals.of_ours(case, platform), wanted, case)


@pytest.mark.filterwarnings("ignore:size_average and reduce", "ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("platform", LEGS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_meaning_is_the_original_s(case: Case, platform: str) -> None:
    check(case, platform)


# Where the original rounds, or says nothing sensible, and the exact meaning does not follow.
ROUNDS = [
    (
        case("BCEWithLogitsLoss", "confident", [40.0], [1.0], **NONE),
        "sigmoid(40) is 1 in float64, so the gradient is 0 instead of -4e-18",
    ),
    (
        case("CrossEntropyLoss", "confident", [[40.0, 0.0]], [0], **NONE),
        "1 + exp(-40) is 1 in float64, so value and gradient of the class are 0",
    ),
    (
        case("SoftMarginLoss", "far", [-800.0], [1.0], **NONE),
        "exp(800) overflows: the value is inf instead of 800, and the gradient NaN",
    ),
    (
        case("CosineEmbeddingLoss", "the same vector", [[1.0, 2.0]], [[1.0, 2.0]], [1.0], **NONE),
        "1 less a cosine near 1 is a multiple of 1.1e-16, so 2e-13 has an error of 1e-4",
    ),
    (
        case("KLDivLoss", "near", [np.log(0.3)], [0.3 * (1.0 + 1e-9)], **NONE),
        "p log p - p log q cancels: the value of 3e-10 has an error of 1e-7",
    ),
    (
        case("TripletMarginLoss", "far from both", [[0.0, 0.0]], [[1e9, 1.0]], [[1e9, 0.0]],
             **NONE),
        "the difference of the distances, 5e-10, is less than each one's rounding",
    ),
]  # fmt: skip
DIFFERS = [
    (
        case("CrossEntropyLoss", "all of weight 0", X, LABELS, weight=np.zeros(3)),
        "a mean over nothing has no gradient: torch's is 0 times inf, NaN",
    ),
    (
        case("NLLLoss", "all of weight 0", X, LABELS, weight=np.zeros(3)),
        "a mean over nothing has no gradient: torch's is 0 times inf, NaN",
    ),
    (
        case("L1Loss", "a NaN", [NAN], [0.0], **NONE),
        "torch's sign of NaN is 0, so a NaN has gradient 0",
    ),
]


@pytest.mark.parametrize(("case", "reason"), [*ROUNDS, *DIFFERS], ids=str)
def test_what_is_listed_as_different_is(case: Case, reason: str) -> None:
    with pytest.raises(AssertionError):
        check(case, "torch")


REFUSED = [
    ("TripletMarginLoss", {"p": 0.0}, (X, Y, Z), "p of"),
    # Its own sums of squares run over one component, and that of the products over three.
    ("CosineEmbeddingLoss", {}, (X[:, :1], Y, ROWS), "features"),
    # Divided by the length of the prediction's first axis, which is none of the result's.
    ("KLDivLoss", {"reduction": "batchmean"}, (X[0], P), "disagree"),
    # Divided by the number of the logits' classes; summed over the second axis of three.
    ("MultiLabelSoftMarginLoss", {}, (X[:, :1], Q), "more dimensions"),
    ("MultiLabelSoftMarginLoss", {}, (X, np.stack([Q, Q])), "more dimensions"),
]


@pytest.mark.parametrize(("name", "arguments", "inputs", "message"), REFUSED)
def test_what_only_the_original_takes_is_refused(
    name: str, arguments: dict[str, Any], inputs: tuple[Any, ...], message: str
) -> None:
    refused = case(name, "refused", *inputs, **arguments)
    theirs = getattr(torch.nn, name)(**arguments)
    assert theirs(*(torch.tensor(x) for x in inputs)).isfinite()
    with pytest.raises(LossbridgeError, match=message):
        originals.of_ours(refused, "torch")


def test_lengths_are_taken_as_tuples_too() -> None:
    spoken, targets = torch.tensor(SPOKEN), torch.tensor([[1, 2], [2, 2], [1, 1]])
    for loss in (torch.nn.CTCLoss(), L.native("torch.nn.CTCLoss")):
        found = loss(spoken, targets, (5, 4, 3), (2, 2, 0))
        wanted = loss(spoken, targets, torch.tensor([5, 4, 3]), torch.tensor([2, 2, 0]))
        assert found == wanted
    with pytest.raises(LossbridgeError, match="must be a tensor"):
        L.native("torch.nn.CTCLoss")(spoken, targets, (5.0, 4.0, 3.0), (2, 2, 0))


@pytest.mark.parametrize("arguments", [{"reduction": "average"}, {"p": 3}, {"margn": 1.0}], ids=str)
def test_an_argument_that_the_original_refuses_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        torch.nn.MultiMarginLoss(**arguments)(torch.tensor(X), torch.tensor(LABELS))
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        L.native("torch.nn.MultiMarginLoss", **arguments)


RAISES = [
    case("CTCLoss", f"empty: {reduction}", SPOKEN[:, :0], np.zeros((0, 2), int), NO_LABELS,
         NO_LABELS, reduction=reduction)
    for reduction in ("mean", "sum", "none")
]  # fmt: skip


@pytest.mark.parametrize("platform", LEGS)
@pytest.mark.parametrize("case", RAISES, ids=str)
def test_what_the_original_raises_for_is_a_mean_over_nothing(case: Case, platform: str) -> None:
    with pytest.raises(RuntimeError, match="must not be empty"):
        originals.of_original(case)
    wanted = {"mean": np.array(NAN), "sum": np.array(0.0), "none": np.zeros(0)}[
        case.arguments["reduction"]
    ]
    np.testing.assert_array_equal(originals.of_ours(case, platform).value, wanted, strict=True)


def linear(at: str, target: Any, rows: int = 4, **arguments: Any) -> Case:
    """A case of cross-entropy behind a linear layer of five features and three classes."""
    labels = np.asarray(target)
    second = "labels" if labels.dtype.kind == "i" else "target"
    inputs = {"embeddings": FEATURES[:rows], second: labels}
    return Case("torch.nn.LinearCrossEntropyLoss", at, inputs, arguments)


LINEAR = [
    linear("benign", LABELS),
    linear("benign", LABELS, bias=True, weight=WEIGHT, ignore_index=2),
    linear("benign", SOFT, reduction="none", label_smoothing=0.1),
    linear("benign", [[0, 1]] * 3 + [[2, 1]], bias=True, out_features=(2,), weight=WEIGHT),
    linear("ignored: all", [2] * 4, ignore_index=2),
    linear("ignored: all", [2] * 4, ignore_index=2, reduction="sum"),
    linear("empty: mean", NO_LABELS, rows=0, bias=True),
    linear("empty: none", NO_LABELS, rows=0, **NONE),
]


@pytest.mark.parametrize("platform", LEGS)
@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_linear_cross_entropy(case: Case, platform: str) -> None:
    """The weights are the original's, in its shapes but for an axis for each output."""
    arguments = case.arguments
    embeddings, target = case.inputs.values()
    arrays = {k: torch.tensor(v) for k, v in arguments.items() if isinstance(v, np.ndarray)}
    theirs = torch.nn.LinearCrossEntropyLoss(5, 3, dtype=torch.float64, **{**arguments, **arrays})
    shape = (3, *arguments.get("out_features", ()))
    shapes = {"linear_weight": (*shape, 5), "linear_bias": shape}
    # Numbers that float32 holds: Keras's variables are of that dtype.
    for parameter in theirs.parameters():
        parameter.data = parameter.data.float().double()
    weights = dict(zip(shapes, theirs.parameters(), strict=False))
    x = torch.tensor(embeddings, requires_grad=True)
    value = theirs(x, torch.tensor(target))
    slopes = torch.autograd.grad(value.sum(), [x, *weights.values()])
    gradients = {"embeddings": slopes[0].numpy()}
    for name, slope in zip(weights, slopes[1:], strict=True):
        gradients[name] = slope.numpy().reshape(shapes[name])
    front = importlib.import_module(f"lossbridge.{platform}")
    ours = front.native("torch.nn.LinearCrossEntropyLoss", 5, 3, **arguments)
    arrays = {n: w.detach().numpy().reshape(shapes[n]) for n, w in weights.items()}
    found = WITH_WEIGHTS[platform](ours, case.inputs, arrays)
    # The gradients of float32 variables are rounded to float32.
    rounded = dataclasses.replace(case, rtol=1e-6) if platform == "keras" else case
    originals.assert_same(found, originals.Answer(value.detach().numpy(), gradients), rounded)


def in_torch(loss: Any, inputs: dict[str, Any], weights: dict[str, Any]) -> originals.Answer:
    own = [
        torch.tensor(w).reshape(p.shape)
        for w, p in zip(weights.values(), loss.parameters(), strict=True)
    ]
    state = dict(zip((n for n, _ in loss.named_parameters()), own, strict=True))
    loss.double().load_state_dict(state, strict=False)
    given = {n: torch.tensor(x) for n, x in inputs.items()}
    given["embeddings"].requires_grad_()
    value = loss(**given)
    slope, *slopes = torch.autograd.grad(value.sum(), [given["embeddings"], *loss.parameters()])
    found = {
        n: g.numpy().reshape(w.shape) for g, (n, w) in zip(slopes, weights.items(), strict=True)
    }
    return originals.Answer(value.detach().numpy(), {"embeddings": slope.numpy(), **found})


def in_keras(loss: Any, inputs: dict[str, Any], weights: dict[str, Any]) -> originals.Answer:
    import tensorflow as tf

    for name, weight in weights.items():
        loss.weight(name).assign(weight)
    x = tf.constant(inputs["embeddings"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(**{**inputs, "embeddings": x})
        total = tf.reduce_sum(value)
    names = ["embeddings", *weights]
    slopes = tape.gradient(total, [x, *(loss.weight(n) for n in weights)])
    return originals.Answer(
        np.asarray(value), {n: np.asarray(g) for n, g in zip(names, slopes, strict=True)}
    )


def in_jax(loss: Any, inputs: dict[str, Any], weights: dict[str, Any]) -> originals.Answer:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def total(x: Any, params: Any) -> tuple[Any, Any]:
        value = loss(**{**inputs, "embeddings": x}, params=params)
        return jnp.sum(value), value

    (slope, slopes), value = jax.grad(total, argnums=(0, 1), has_aux=True)(
        jnp.asarray(inputs["embeddings"]), {n: jnp.asarray(w) for n, w in weights.items()}
    )
    found = {"embeddings": slope, **slopes}
    return originals.Answer(np.asarray(value), {n: np.asarray(g) for n, g in found.items()})


WITH_WEIGHTS = {"torch": in_torch, "keras": in_keras, "jax": in_jax}


def squared(u: Any, v: Any) -> Any:
    """A distance; its own places have weights of their own."""
    d = u - v
    return (d * d)[..., 0] + 2.0 * (d * d)[..., 1]


POINTS = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
DISTANCES = [
    case("TripletMarginWithDistanceLoss", at, *triple, distance_function=squared, **arguments)
    for at, triple in (
        ("benign", (X, Y, Z)),
        ("kinks: equal, on the margin, swap ties",
        (POINTS, POINTS, [[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])),
        ("empty: no points", (X[:0], Y[:0], Z[:0])),
    )
    for arguments in ({}, {"swap": True}, {"margin": 3.0, **NONE})
]  # fmt: skip


@pytest.mark.parametrize("platform", LEGS)
@pytest.mark.parametrize("case", DISTANCES, ids=str)
def test_a_distance_function_is_given_at_the_call(case: Case, platform: str) -> None:
    front = importlib.import_module(f"lossbridge.{platform}")
    ours = front.native(case.name, **case.arguments)
    found = originals.EVALUATE[platform](
        lambda given: ours(**given, distance_function=squared), case.inputs, ()
    )
    originals.assert_same(found, originals.of_original(case), case)
