"""How PyTorch's losses are made and called, beyond inputs of one shape and dtype."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import lossbridge.torch as L  # noqa: E402
from lossbridge.errors import LossbridgeError  # noqa: E402

WIDE, SINGLE, HALF = torch.float64, torch.float32, torch.float16
RNG = torch.Generator().manual_seed(7)


def real(*shape: int, dtype: Any = WIDE) -> Any:
    return torch.randn(shape, generator=RNG, dtype=WIDE).to(dtype)


def part(*shape: int) -> Any:
    return 0.1 + 0.8 * torch.rand(shape, generator=RNG, dtype=WIDE)


@dataclass(frozen=True)
class Call:
    """One call of a built-in; a torch error where it raises one."""

    name: str
    at: str
    inputs: tuple[Any, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}: {self.at}"


def call(name: str, at: str, *inputs: Any, **arguments: Any) -> Call:
    return Call(name, at, inputs, arguments)


ROWS, MORE, COLUMN = real(4, 3), real(4, 3), real(4, 1)
SIGNS, SPOKEN = real(4, 3).sign(), real(6, 3, 5).log_softmax(2)
ONE_ROW = torch.tensor([1, 2, 3, 2, 2, 4])
LENGTHS = ((6, 5, 4), (3, 2, 1))
LABELS = torch.tensor([0, 2, 1, 2])
NEGATIVE = torch.tensor([1.0, -2.5, 0.5], dtype=WIDE)
NONE: dict[str, Any] = {"reduction": "none"}

BROADCAST = [
    call(name, f"{at}, {kind}", *inputs, reduction=kind)
    for kind in ("none", "mean", "sum")
    for name, at, inputs in (
        *(
            (name, at, (x, y))
            for name in ("MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "PoissonNLLLoss")
            for at, x, y in (
                ("columns and a row", COLUMN, real(3)),
                ("a number", ROWS, real()),
                ("fewer dimensions first", real(3), MORE),
                ("nothing", COLUMN[:0], real(1)),
            )
        ),
        ("KLDivLoss", "columns", (ROWS, part(4, 1))),
        ("HingeEmbeddingLoss", "a row", (ROWS, SIGNS[0])),
        ("SoftMarginLoss", "a row of labels", (ROWS, SIGNS[0])),
        ("MultiLabelSoftMarginLoss", "a row of labels", (ROWS, part(3))),
        ("MarginRankingLoss", "columns", (ROWS, COLUMN, SIGNS)),
        ("CosineEmbeddingLoss", "one against all", (ROWS, MORE[:1], SIGNS[:, 0])),
        ("TripletMarginLoss", "one anchor", (ROWS[:1], MORE, real(4, 3))),
    )
]
DTYPES = [
    *(
        call(name, "integers", ROWS, *inputs)
        for name, inputs in (
            ("MSELoss", (LABELS[:, None],)),
            ("L1Loss", (LABELS[:, None].int(),)),
            ("SmoothL1Loss", (SIGNS.long(),)),
            ("PoissonNLLLoss", (LABELS[:, None],)),
            ("HingeEmbeddingLoss", (SIGNS.long(),)),
            ("SoftMarginLoss", (SIGNS.long(),)),
            ("MultiLabelSoftMarginLoss", ((SIGNS > 0).long(),)),
            ("MarginRankingLoss", (MORE, SIGNS.long())),
            ("CosineEmbeddingLoss", (MORE, SIGNS[:, 0].long())),
        )
    ),
    *(
        call(name, "two dtypes", ROWS.to(first), MORE.abs().to(second), **NONE)
        for first, second in ((SINGLE, WIDE), (WIDE, SINGLE), (HALF, SINGLE), (SINGLE, HALF))
        for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "KLDivLoss", "HingeEmbeddingLoss")
    ),
    call("MSELoss", "a wider number", ROWS.float(), real(), **NONE),
    call("TripletMarginLoss", "a wider negative", ROWS.float(), MORE.float(), real(4, 3), **NONE),
    call("BCEWithLogitsLoss", "a narrower target", ROWS, part(4, 3).float(), **NONE),
    call("CrossEntropyLoss", "wider probabilities", ROWS.float(), part(4, 3), **NONE),
    call("CrossEntropyLoss", "labels of a byte", ROWS, LABELS.byte()),
]
SHAPES = [
    call("GaussianNLLLoss", f"variance {at}", ROWS, MORE, var, **NONE)
    for at, var in (
        ("of rows", part(4)),
        ("of rows, kept", part(4, 1)),
        ("of columns", part(1, 3)),
        ("a number", 0.5),
    )
]
SHAPES += [
    call("CTCLoss", f"one row of targets, {kind}", SPOKEN, ONE_ROW, *lengths, reduction=kind)
    for kind in ("none", "mean", "sum")
    for lengths in (LENGTHS, tuple(map(torch.tensor, LENGTHS)))
]
SHAPES += [
    call("CTCLoss", f"no batch, {kind}", SPOKEN[:, 0], ONE_ROW[:3], *lengths, reduction=kind)
    for kind in ("none", "mean", "sum")
    for lengths in (((6,), (3,)), (torch.tensor(6), torch.tensor(3)))
]
SHAPES += [
    call("CTCLoss", "one of no labels", SPOKEN, ONE_ROW[:4], (6, 5, 4), (3, 0, 1), **NONE),
    call("CTCLoss", "narrow integers", SPOKEN, ONE_ROW.int(), *LENGTHS),
    call("MultiMarginLoss", "no batch, one label", ROWS[0], LABELS[:1], **NONE),
    call("MultiMarginLoss", "a batch of one, a label", ROWS[:1], LABELS[0], **NONE),
    call("MultiMarginLoss", "one class", real(), torch.tensor(0), **NONE),
    call("MultiLabelMarginLoss", "one class", real(), torch.tensor(0), **NONE),
    call("BCEWithLogitsLoss", "weights of images", real(2, 3, 2, 2), part(2, 3, 2, 2),
         pos_weight=part(3, 1, 1), weight=real(2, 2)),
]  # fmt: skip
WEIGHTS = [
    call(name, f"weights below 0, {kind}", *inputs, weight=NEGATIVE, reduction=kind)
    for kind in ("none", "mean", "sum")
    for name, inputs in (
        ("CrossEntropyLoss", (ROWS, LABELS)),
        ("CrossEntropyLoss", (ROWS, part(4, 3))),
        ("NLLLoss", (ROWS, LABELS)),
        ("BCELoss", (part(4, 3), part(4, 3))),
        ("BCEWithLogitsLoss", (ROWS, part(4, 3))),
        ("MultiMarginLoss", (ROWS, LABELS)),
        ("MultiLabelSoftMarginLoss", (ROWS, part(4, 3))),
    )
]
WEIGHTS += [
    call("BCELoss", "one weight", part(4, 3), part(4, 3), weight=torch.tensor(2.0, dtype=WIDE)),
    call("CrossEntropyLoss", "float32 throughout", ROWS.float(), LABELS, weight=NEGATIVE.float()),
]


def made(found: Call) -> tuple[Any, Any]:
    theirs = getattr(torch.nn, found.name)(**found.arguments)
    return L.native(f"torch.nn.{found.name}", **found.arguments), theirs


def gradients(loss: Any, found: Call) -> tuple[Any, list[Any]]:
    inputs = [x.clone() if isinstance(x, torch.Tensor) else x for x in found.inputs]
    moving = [x for x in inputs if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if found.name == "SoftMarginLoss":  # whose target has no gradient there
        moving = moving[:1]
    for x in moving:
        x.requires_grad_()
    value = loss(*inputs)
    found = torch.autograd.grad(value.sum(), moving, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(x) if g is None else g for x, g in zip(moving, found, strict=True)
    ]


@pytest.mark.filterwarnings("ignore:Using a target size", "ignore:.* are broadcast to")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("found", [*BROADCAST, *DTYPES, *SHAPES, *WEIGHTS], ids=str)
def test_it_is_called_as_the_original_is(found: Call) -> None:
    if found.at == "integers":
        found = Call(found.name, found.at, found.inputs, {**found.arguments, **NONE})
    ours, theirs = made(found)
    wanted, slopes = gradients(theirs, found)
    # In the narrowest of several dtypes the original may have rounded.
    tensors = [x for x in found.inputs if isinstance(x, torch.Tensor)]
    widths = [torch.finfo(x.dtype).eps for x in tensors if x.is_floating_point()]
    rtol = max(1e-12, *(4.0 * width for width in widths))
    for _ in range(2):  # what the first call found out holds for the second
        value, own = gradients(ours, found)
        torch.testing.assert_close(value, wanted, rtol=rtol, atol=rtol, equal_nan=True)
        for a, b in zip(own, slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, equal_nan=True)


RAISES = [
    call("MSELoss", "shapes that do not fit", ROWS, real(2, 3)),
    call("BCELoss", "shapes of two ranks", part(4, 3), part(3)),
    call("BCELoss", "two dtypes", part(4, 3).float(), part(4, 3)),
    call("BCELoss", "a prediction above 1", 2.0 * ROWS.abs() + 1.0, part(4, 3)),
    call("BCELoss", "a target below 0", part(4, 3), -part(4, 3)),
    call("BCEWithLogitsLoss", "shapes of two ranks", ROWS, part(3)),
    call("KLDivLoss", "integers", ROWS, SIGNS.long()),
    call("SoftMarginLoss", "more labels than predictions", ROWS[0], SIGNS),
    call("MarginRankingLoss", "shapes of two ranks", ROWS, MORE[0], SIGNS),
    call("CosineEmbeddingLoss", "rows and one label", ROWS, MORE, SIGNS[0, 0]),
    call("TripletMarginLoss", "shapes of two ranks", ROWS, MORE, MORE[0]),
    call("GaussianNLLLoss", "variance of another size", ROWS, MORE, part(1, 1)),
    call("GaussianNLLLoss", "variance of columns alone", ROWS, MORE, part(3)),
    call("GaussianNLLLoss", "negative variance", ROWS, MORE, -part(4, 3)),
    call("GaussianNLLLoss", "negative number", ROWS, MORE, -0.5),
    call("GaussianNLLLoss", "a whole number", ROWS, MORE, 2),
    call("CTCLoss", "lengths beyond the row", SPOKEN, ONE_ROW[:5], *LENGTHS),
    call("CrossEntropyLoss", "a label out of range", ROWS, LABELS + 1),
    call("NLLLoss", "a label below 0", ROWS, LABELS - 1),
    call("CrossEntropyLoss", "labels of another batch", ROWS, LABELS[:3]),
    call("CrossEntropyLoss", "labels held as floats", ROWS, LABELS.double()),
    call("CrossEntropyLoss", "weights of another size", ROWS, LABELS, weight=NEGATIVE[:2]),
    call("CrossEntropyLoss", "weights of another dtype", ROWS, LABELS, weight=NEGATIVE.float()),
    call("NLLLoss", "weights of another dtype", ROWS.float(), LABELS, weight=NEGATIVE),
    call("MultiMarginLoss", "a label out of range", ROWS, LABELS + 1),
    call("HuberLoss", "delta 0", ROWS, MORE, delta=0.0),
]


@pytest.mark.parametrize("found", RAISES, ids=str)
def test_what_the_original_raises_for_raises(found: Call) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - of any type, which is then wanted
        getattr(torch.nn, found.name)(**found.arguments)(*found.inputs)
    with pytest.raises(theirs.type) as ours:
        L.native(f"torch.nn.{found.name}", **found.arguments)(*found.inputs)
    assert isinstance(ours.value, LossbridgeError)


def test_a_broadcast_that_torch_warns_of_warns() -> None:
    with pytest.warns(UserWarning, match="are broadcast to"):
        L.native("torch.nn.MSELoss")(COLUMN, real(4))


MADE = [
    ("CrossEntropyLoss", {"weight": NEGATIVE, "ignore_index": 3, "label_smoothing": 0.1}),
    ("BCEWithLogitsLoss", {"pos_weight": NEGATIVE.float()}),
    ("BCELoss", {}),
    ("HuberLoss", {"delta": 0.5, "reduction": "sum"}),
    ("MSELoss", {"size_average": False}),
    ("KLDivLoss", {"reduction": "batchmean", "log_target": True}),
    ("TripletMarginLoss", {"p": 3.0, "swap": True}),
    ("CTCLoss", {"zero_infinity": True}),
]


@pytest.mark.filterwarnings("ignore:size_average and reduce")
@pytest.mark.parametrize(("name", "arguments"), MADE, ids=[name for name, _ in MADE])
def test_it_keeps_what_the_original_keeps(name: str, arguments: dict[str, Any]) -> None:
    theirs = getattr(torch.nn, name)(**arguments)
    ours = L.native(f"torch.nn.{name}", **arguments)
    for copied in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        for attribute, value in vars(theirs).items():
            if not attribute.startswith("_"):
                assert getattr(copied, attribute) == value, attribute
        for buffer, value in theirs._buffers.items():
            kept = getattr(copied, buffer)
            assert kept is value is None or (kept.dtype == value.dtype and kept.equal(value))
        assert list(copied.state_dict()) == list(theirs.state_dict())
        copied.load_state_dict(theirs.state_dict())
    for kept in copy.deepcopy(ours).half().buffers():
        assert kept.dtype == HALF
    if name == "CrossEntropyLoss":
        wanted = copy.deepcopy(theirs).float()(ROWS.float(), LABELS)
        torch.testing.assert_close(copy.deepcopy(ours).float()(ROWS.float(), LABELS), wanted)
    assert repr(ours).startswith(f"{name}(")
    assert all(f"{n}=" in repr(ours) for n in arguments)


def test_a_setting_that_would_not_be_heard_is_refused() -> None:
    loss = L.native("torch.nn.CrossEntropyLoss", weight=NEGATIVE)
    for name, value in {"reduction": "sum", "label_smoothing": 0.1}.items():
        with pytest.raises(LossbridgeError, match=f"make another, with {name}="):
            setattr(loss, name, value)
    loss.weight = 2.0 * NEGATIVE
    wanted = torch.nn.CrossEntropyLoss(weight=2.0 * NEGATIVE, reduction="mean")(ROWS, LABELS)
    torch.testing.assert_close(loss(ROWS, LABELS), wanted, rtol=1e-12, atol=0.0)


def test_linear_cross_entropy_loads_what_the_original_saved() -> None:
    arguments: dict[str, Any] = {"out_features": (2,), "bias": True, "dtype": WIDE}
    theirs = torch.nn.LinearCrossEntropyLoss(5, 3, **arguments)
    ours = L.native("torch.nn.LinearCrossEntropyLoss", 5, 3, **arguments)
    ours.load_state_dict(theirs.state_dict())
    x, labels = real(4, 5), torch.tensor([[0, 1]] * 3 + [[2, 1]])
    torch.testing.assert_close(ours(x, labels), theirs(x, labels), rtol=1e-12, atol=0.0)
    ours(x, labels).backward()
    theirs(x, labels).backward()
    for own, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad, rtol=1e-12, atol=1e-14)
    assert [n for n, _ in ours.named_parameters()] == ["linear.weight", "linear.bias"]
    assert pickle.loads(pickle.dumps(ours))(x, labels) == ours(x, labels)


def taxicab(u: Any, v: Any) -> Any:
    return (u - v).abs().sum(-1)


def test_a_distance_given_when_it_is_made_is_not_asked_for_at_the_call() -> None:
    arguments: dict[str, Any] = {"distance_function": taxicab, "margin": 2.0, "swap": True}
    found = call("TripletMarginWithDistanceLoss", "taxicab", ROWS, MORE, real(4, 3), **arguments)
    ours, theirs = made(found)
    assert ours.distance_function is taxicab
    wanted, slopes = gradients(theirs, found)
    for loss in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        value, own = gradients(loss, found)
        torch.testing.assert_close(value, wanted, rtol=1e-14, atol=0.0)
        for a, b in zip(own, slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


@pytest.mark.filterwarnings("ignore:.* are broadcast to")
def test_a_broadcast_compiles_and_transforms() -> None:
    loss = L.native("torch.nn.MSELoss")
    x, y = real(4, 1), real(3)
    wanted = torch.nn.functional.mse_loss(*torch.broadcast_tensors(x, y))
    compiled = torch.compile(loss, fullgraph=True, backend="eager", dynamic=True)
    torch.testing.assert_close(compiled(x, y), wanted, rtol=1e-14, atol=0.0)
    for alike in ((4, 3), (5, 3), (5, 1)):
        z = real(*alike)
        wanted = torch.nn.functional.mse_loss(*torch.broadcast_tensors(z, y))
        torch.testing.assert_close(compiled(z, y), wanted, rtol=1e-14, atol=0.0)
    slope = torch.func.grad(loss)(x, y)
    moving = x.clone().requires_grad_()
    torch.nn.functional.mse_loss(*torch.broadcast_tensors(moving, y)).backward()
    torch.testing.assert_close(slope, moving.grad, rtol=1e-14, atol=0.0)
    rows = torch.func.vmap(loss, in_dims=(0, None))(x, y)
    torch.testing.assert_close(rows, ((x - y) ** 2).mean(1), rtol=1e-14, atol=0.0)
    assert torch.autograd.gradgradcheck(loss, (moving, y))
