"""Checklist row T12: where torch.nn has a loss of the name, ours is the same function.

Values and gradients are compared in float64, over settings and over the batches where libraries
differ: empty ones, and ones of which nothing counts. ``DELIBERATE`` lists, as data, every
difference that is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import lossbridge.torch as L  # noqa: E402
from lossbridge.errors import LossbridgeError  # noqa: E402

IGNORED = -7  # in the batches; becomes the loss's own ignore_index
REDUCTIONS = ("none", "mean", "sum")
Make = Callable[[], tuple[Any, ...]]


def real(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def part(*shape: int, seed: int = 1) -> Any:
    return (
        torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.98
        + 0.01
    )


def sign(*shape: int) -> Any:
    return torch.where(real(*shape, seed=2) > 0, 1.0, -1.0).double()


def labels(*shape: int, classes: int, ignored: int | None = None) -> Any:
    y = torch.randint(classes, shape, generator=torch.Generator().manual_seed(3))
    if ignored is not None and y.numel():
        y.view(-1)[0] = ignored
    return y


def spread(classes: int) -> Any:
    return torch.linspace(0.5, 2.0, classes, dtype=torch.float64)


PAIR: dict[str, Make] = {
    "matrix": lambda: (real(5, 3), real(5, 3, seed=9)),
    "equal": lambda: (real(4), real(4)),
    "scalar": lambda: (real(), real(seed=9)),
    "empty": lambda: (real(0, 3), real(0, 3)),
}
UNIT: dict[str, Make] = {
    "matrix": lambda: (part(5, 3), part(5, 3, seed=9)),
    "edges": lambda: (
        torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64),
        torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64),
    ),
    "empty": lambda: (part(0, 3), part(0, 3)),
}
LOGIT: dict[str, Make] = {
    "matrix": lambda: (3 * real(5, 3), part(5, 3)),
    "hard": lambda: (3 * real(5, 3), (real(5, 3, seed=4) > 0).double()),
    "empty": lambda: (real(0, 3), part(0, 3)),
}
SIGNED: dict[str, Make] = {
    "matrix": lambda: (real(5, 3), sign(5, 3)),
    "far": lambda: (torch.tensor([500.0, -500.0], dtype=torch.float64), sign(2)),
    "empty": lambda: (real(0, 3), sign(0, 3)),
}
CLASSES: dict[str, Make] = {
    "rows": lambda: (real(5, 4), labels(5, classes=4)),
    "images": lambda: (real(2, 4, 3, 2), labels(2, 3, 2, classes=4)),
    "one": lambda: (real(4), labels(classes=4)),
    "ignored": lambda: (real(5, 4), labels(5, classes=4, ignored=IGNORED)),
    "all ignored": lambda: (real(5, 4), torch.full((5,), IGNORED)),
    "empty": lambda: (real(0, 4), labels(0, classes=4)),
}
SOFT: dict[str, Make] = {
    "rows": lambda: (real(5, 4), real(5, 4, seed=5).softmax(1)),
    "images": lambda: (real(2, 4, 3), real(2, 4, 3, seed=5).softmax(1)),
    "one hot": lambda: (real(3, 4), torch.eye(4, dtype=torch.float64)[:3]),
    "empty": lambda: (real(0, 4), part(0, 4)),
}
GAUSS: dict[str, Make] = {
    "matrix": lambda: (real(5, 3), real(5, 3, seed=9), part(5, 3)),
    "small variance": lambda: (real(4), real(4, seed=9), torch.zeros(4, dtype=torch.float64)),
    "empty": lambda: (real(0, 3), real(0, 3), part(0, 3)),
}
COUNTS: dict[str, Make] = {
    "matrix": lambda: (part(5, 3), labels(5, 3, classes=6).double()),
    "empty": lambda: (part(0, 3), part(0, 3)),
}
VECTORS: dict[str, Make] = {
    "rows": lambda: (real(5, 4), real(5, 4, seed=9), sign(5)),
    "one": lambda: (real(4), real(4, seed=9), sign()),
    "empty": lambda: (real(0, 4), real(0, 4), sign(0)),
}
RANKED: dict[str, Make] = {
    "rows": lambda: (real(5, 3), real(5, 3, seed=9), sign(5, 3)),
    "empty": lambda: (real(0), real(0), sign(0)),
}
# Without an empty batch, whose mean is uninitialised memory in torch.
ONE: dict[str, Make] = {
    "rows": lambda: (real(5, 4), labels(5, classes=4)),
    "one": lambda: (real(4), labels(classes=4)),
}
SETS: dict[str, Make] = {
    "rows": lambda: (real(3, 4), torch.tensor([[0, 2, -1, 1], [-1, 0, 1, 2], [3, 2, 1, 0]])),
    "one": lambda: (real(4), torch.tensor([3, 1, -1, 0])),
}
TRIPLES: dict[str, Make] = {
    "rows": lambda: (real(5, 4), real(5, 4, seed=9), real(5, 4, seed=10)),
    "one": lambda: (real(4), real(4, seed=9), real(4, seed=10)),
    "empty": lambda: (real(0, 4), real(0, 4), real(0, 4)),
}
SPEECH: dict[str, Make] = {
    "batch": lambda: (
        real(9, 3, 5),
        labels(3, 3, classes=3) + 1,
        torch.tensor([9, 8, 7]),
        torch.tensor([3, 2, 1]),
    ),
    "impossible": lambda: (
        real(2, 2, 5),
        torch.tensor([[1, 1, 1], [1, 2, 3]]),
        torch.tensor([2, 2]),
        torch.tensor([3, 1]),
    ),
    "no target": lambda: (
        real(4, 2, 5),
        torch.tensor([[1, 2], [3, 2]]),
        torch.tensor([4, 4]),
        torch.tensor([0, 2]),
    ),
}

WEIGHT = spread(4)
TABLE: list[tuple[str, list[dict[str, Any]], dict[str, Make]]] = [
    ("MSELoss", [{}], PAIR),
    ("L1Loss", [{}], PAIR),
    ("HuberLoss", [{}, {"delta": 0.3}], PAIR),
    ("SmoothL1Loss", [{}, {"beta": 0.3}, {"beta": 0.0}], PAIR),
    (
        "PoissonNLLLoss",
        [
            {"log_input": a, "full": b, "eps": e}
            for a in (True, False)
            for b in (True, False)
            for e in (1e-8, 1e-3)
        ],
        COUNTS,
    ),
    ("GaussianNLLLoss", [{}, {"full": True}, {"eps": 0.1}], GAUSS),
    ("BCEWithLogitsLoss", [{}, {"pos_weight": spread(3)}], LOGIT),
    ("BCELoss", [{}, {"weight": spread(3)}], UNIT),
    (
        "CrossEntropyLoss",
        [
            {},
            {"weight": WEIGHT},
            {"label_smoothing": 0.1},
            {"ignore_index": 2},
            {"weight": WEIGHT, "label_smoothing": 0.3, "ignore_index": 1},
        ],
        CLASSES,
    ),
    (
        "CrossEntropyLoss",
        [
            {},
            {"weight": WEIGHT},
            {"label_smoothing": 0.1},
            {"weight": WEIGHT, "label_smoothing": 0.3},
        ],
        SOFT,
    ),
    (
        "NLLLoss",
        [{}, {"weight": WEIGHT}, {"ignore_index": 2}, {"weight": WEIGHT, "ignore_index": 1}],
        CLASSES,
    ),
    (
        "KLDivLoss",
        [
            {},
            {"log_target": True},
            {"reduction": "batchmean"},
            {"reduction": "batchmean", "log_target": True},
        ],
        UNIT,
    ),
    ("SoftMarginLoss", [{}], SIGNED),
    ("CosineEmbeddingLoss", [{}, {"margin": 0.4}, {"margin": -0.4}], VECTORS),
    (
        "TripletMarginLoss",
        [
            {},
            {"p": 1.0},
            {"p": 3.0},
            {"swap": True},
            {"margin": 0.1},
            {"margin": 5.0, "p": 1.5, "swap": True, "eps": 1e-4},
        ],
        TRIPLES,
    ),
    ("CTCLoss", [{}, {"zero_infinity": True}, {"blank": 4}], SPEECH),
    ("HingeEmbeddingLoss", [{}, {"margin": 0.3}], SIGNED),
    ("MarginRankingLoss", [{}, {"margin": 0.5}, {"margin": -0.5}], RANKED),
    ("MultiMarginLoss", [{}, {"p": 2}, {"margin": 0.3, "weight": WEIGHT}], ONE),
    ("MultiLabelMarginLoss", [{}], SETS),
    ("MultiLabelSoftMarginLoss", [{}, {"weight": spread(3)}], LOGIT),
]

_CLAMPED = (
    "a variance below eps counts as eps, so it has no gradient; torch lets it through, and a "
    "variance of 0 is then driven by the gradient of a value it does not have"
)
_IMPOSSIBLE = (
    "an alignment that no path fits is inf with gradient 0; torch's gradient is NaN, which reaches "
    "every weight of the network through one sample"
)
# (class, a setting that is given, or with ! is not, batch, reduction; None is any) -> why.
Key = tuple[str, str | None, str | None, str | None]
DELIBERATE: dict[Key, str] = {
    ("GaussianNLLLoss", None, "small variance", None): _CLAMPED,
    ("GaussianNLLLoss", "eps", "matrix", None): _CLAMPED,
    (
        "BCELoss",
        None,
        "edges",
        None,
    ): "the gradient's denominator is held at 1e-12 exactly; torch holds it at the nearest float32",
    ("CTCLoss", "!zero_infinity", "impossible", None): _IMPOSSIBLE,
}

# What torch.nn takes and ours refuses, with the call that works instead: (class, arguments, why).
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("MSELoss", {"size_average": True}, "deprecated in torch since 0.4; reduction says it"),
    ("MSELoss", {"reduce": False}, "deprecated in torch since 0.4; reduction says it"),
]
# Calls that torch.nn broadcasts or warns about: here an error that says which axis disagrees.
UNEQUAL: list[tuple[str, Make]] = [
    ("MSELoss", lambda: (real(4, 1), real(4))),
    ("L1Loss", lambda: (real(4, 3), real(3))),
    ("HuberLoss", lambda: (real(4, 1), real(4))),
    ("KLDivLoss", lambda: (real(4, 3), part(3))),
    ("GaussianNLLLoss", lambda: (real(4, 3), real(4, 3), part(4, 1))),
]


def deliberate(name: str, settings: dict[str, Any], batch: str, reduction: str) -> str | None:
    for (which, key, at, how), why in DELIBERATE.items():
        if (
            which == name
            and at in (None, batch)
            and how in (None, reduction)
            and (key is None or (key[1:] not in settings if key[0] == "!" else key in settings))
        ):
            return why
    return None


MOVING = {
    "TripletMarginLoss": 3,
    "MarginRankingLoss": 2,
    "GaussianNLLLoss": 3,
    "CosineEmbeddingLoss": 2,
}


def run(name: str, loss: Any, make: Make, ignore: int) -> tuple[Any, list[Any]]:
    """The value, and the gradients in the predictions."""
    inputs = list(make())
    for x in inputs:
        if not x.is_floating_point():
            x[x == IGNORED] = ignore
    moving = [x.requires_grad_() for x in inputs[: MOVING.get(name, 1)]]
    if name == "CTCLoss":
        # torch's gradient is that of log_softmax's input, whatever it was given: compare there.
        inputs[0] = inputs[0].log_softmax(2)
    value = loss(*inputs)
    gradients = torch.autograd.grad(value.sum(), moving, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(x) if g is None else g for x, g in zip(moving, gradients, strict=True)
    ]


def cells() -> list[Any]:
    found = []
    for name, settings, batches in TABLE:
        for given in settings:
            for batch in batches:
                for reduction in [given["reduction"]] if "reduction" in given else REDUCTIONS:
                    kind = "soft" if batches is SOFT else ""
                    said = ",".join(
                        f"{k}={'...' if isinstance(v, torch.Tensor) else v}"
                        for k, v in given.items()
                    )
                    found.append(
                        pytest.param(
                            name,
                            {**given, "reduction": reduction},
                            batch,
                            batches[batch],
                            id=f"{name}{kind}({said})-{batch}-{reduction}",
                        )
                    )
    return found


@pytest.mark.parametrize(("name", "settings", "batch", "make"), cells())
def test_t12_drop_in(name: str, settings: dict[str, Any], batch: str, make: Make) -> None:
    if settings.get("weight") is not None and batch == "edges":
        make = lambda: tuple(x[:3] for x in UNIT["edges"]())  # noqa: E731
    ours, theirs = getattr(L, name)(**settings), getattr(torch.nn, name)(**settings)
    ignore = settings.get("ignore_index", -100)
    value, gradients = run(name, ours, make, ignore)
    expected, slopes = run(name, theirs, make, ignore)
    same = (
        value.shape == expected.shape
        and torch.allclose(value, expected, rtol=1e-11, atol=1e-13, equal_nan=True)
        and all(
            torch.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)
            for a, b in zip(gradients, slopes, strict=True)
        )
    )
    why = deliberate(name, settings, batch, settings["reduction"])
    if why is None:
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13, equal_nan=True)
        for a, b in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)
    else:
        assert not same, f"listed as different, but equal: {why}"


@pytest.mark.parametrize(("name", "arguments", "why"), REFUSED)
def test_t12_what_is_refused_raises(name: str, arguments: dict[str, Any], why: str) -> None:
    getattr(torch.nn, name)(**arguments)
    with pytest.raises(LossbridgeError, match=next(iter(arguments))):
        getattr(L, name)(**arguments)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("name", "make"), UNEQUAL)
def test_t12_nothing_broadcasts_silently(name: str, make: Make) -> None:
    getattr(torch.nn, name)()(*make())
    with pytest.raises(ValueError, match="nothing broadcasts silently"):
        getattr(L, name)()(*make())


def test_t12_every_deliberate_difference_has_a_reason_and_a_cell() -> None:
    assert all(DELIBERATE.values())
    assert all(any(p.values[0] == key[0] for p in cells()) for key in DELIBERATE)


def test_t12_old_behaviour_where_torch_stops() -> None:
    """The one place where equality is not wanted: torch's float32 cross-entropy returns 0."""
    z, y = torch.tensor([[20.0, 0.0]]), torch.tensor([0])
    assert torch.nn.CrossEntropyLoss()(z, y) == 0
    assert math.isclose(L.CrossEntropyLoss()(z, y).item(), 2.0611536e-9, rel_tol=1e-6)
