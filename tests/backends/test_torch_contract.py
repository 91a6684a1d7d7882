"""What a PyTorch user takes for granted: checklist rows T1 to T11, and the call's own promises.

Row T12, the drop-in equality with torch.nn, is in test_torch_dropin.py.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import lossbridge.torch as L  # noqa: E402
from lossbridge.errors import (  # noqa: E402
    ArgumentError,
    DomainError,
    DTypeError,
    ShapeError,
    UnsupportedError,
)
from lossbridge_torch.probe import PROBE  # noqa: E402

Make = Callable[[Any], tuple[Any, ...]]


class Source:
    """Inputs of one dtype, the same at every call."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(7)

    def real(self, *shape: int) -> Any:
        return torch.randn(shape, dtype=torch.float64, generator=self.generator).to(self.dtype)

    def part(self, *shape: int) -> Any:
        x = torch.rand(shape, dtype=torch.float64, generator=self.generator) * 0.8 + 0.1
        return x.to(self.dtype)

    def sign(self, *shape: int) -> Any:
        return self.real(*shape).sign()

    def labels(self, *shape: int, classes: int) -> Any:
        return torch.randint(classes, shape, generator=self.generator)


@dataclass(frozen=True)
class Case:
    name: str
    make: Make
    settings: dict[str, Any] = field(default_factory=dict)
    moving: int = 1  # how many of the leading inputs have a gradient worth asking for

    @property
    def id(self) -> str:
        return self.name + ("" if not self.settings else f"({','.join(self.settings)})")

    def loss(self, **extra: Any) -> Any:
        return getattr(L, self.name)(**{**self.settings, **extra})


CASES = [
    Case("MSELoss", lambda s: (s.real(4, 3), s.real(4, 3)), moving=2),
    Case("L1Loss", lambda s: (s.real(4, 3), s.real(4, 3)), moving=2),
    Case("HuberLoss", lambda s: (s.real(4, 3), s.real(4, 3)), {"delta": 0.7}, 2),
    Case("SmoothL1Loss", lambda s: (s.real(4, 3), s.real(4, 3)), {"beta": 0.7}, 2),
    Case("LogCoshLoss", lambda s: (s.real(4, 3), s.real(4, 3)), moving=2),
    Case("PoissonNLLLoss", lambda s: (s.real(4, 3), s.part(4, 3)), {"full": True}),
    Case("GaussianNLLLoss", lambda s: (s.real(4, 3), s.real(4, 3), s.part(4, 3)), moving=3),
    Case("BCEWithLogitsLoss", lambda s: (s.real(4, 3), s.part(4, 3)), moving=2),
    Case(
        "BCEWithLogitsLoss",
        lambda s: (s.real(4, 3), s.part(4, 3)),
        {"pos_weight": torch.tensor([0.5, 1.0, 2.0])},
        2,
    ),
    Case("BCELoss", lambda s: (s.part(4, 3), s.part(4, 3))),
    Case("BinaryFocalLoss", lambda s: (s.real(4, 3), s.part(4, 3)), moving=2),
    Case("HingeLoss", lambda s: (s.real(4, 3), s.sign(4, 3))),
    Case("SoftMarginLoss", lambda s: (s.real(4, 3), s.sign(4, 3))),
    Case("CrossEntropyLoss", lambda s: (s.real(4, 3), s.labels(4, classes=3))),
    Case(
        "CrossEntropyLoss",
        lambda s: (s.real(2, 3, 4), s.labels(2, 4, classes=3)),
        {"weight": torch.tensor([0.5, 1.0, 2.0]), "label_smoothing": 0.1},
    ),
    Case("CrossEntropyLoss", lambda s: (s.real(4, 3), s.real(4, 3).softmax(1)), {"axis": 1}, 2),
    Case("NLLLoss", lambda s: (s.real(4, 3).log_softmax(1), s.labels(4, classes=3))),
    Case("FocalLoss", lambda s: (s.real(4, 3), s.labels(4, classes=3))),
    Case("KLDivLoss", lambda s: (s.real(4, 3), s.part(4, 3)), moving=2),
    Case("DiceLoss", lambda s: (s.part(3, 2, 4), s.part(3, 2, 4)), moving=2),
    Case("CosineEmbeddingLoss", lambda s: (s.real(4, 3), s.real(4, 3), s.sign(4)), moving=2),
    Case("TripletMarginLoss", lambda s: (s.real(4, 3), s.real(4, 3), s.real(4, 3)), moving=3),
    Case("InfoNCELoss", lambda s: (s.real(4, 3), s.real(4, 3)), {"temperature": 0.5}, 2),
    Case(
        "ArcFaceLoss",
        lambda s: (s.real(4, 5), s.labels(4, classes=3)),
        {"num_classes": 3, "embedding_size": 5, "scale": 4.0},
    ),
    Case(
        "LearnedPolynomialLoss",
        lambda s: (s.real(4, 3), s.labels(4, classes=3)),
        {"num_terms": 3},
    ),
    Case(
        "CTCLoss",
        lambda s: (
            s.real(6, 2, 4).log_softmax(2),
            s.labels(2, 2, classes=3) + 1,
            torch.tensor([6, 5]),
            torch.tensor([2, 1]),
        ),
    ),
]
IDS = [c.id for c in CASES]
every = pytest.mark.parametrize("case", CASES, ids=IDS)


def scalars(case: Case) -> tuple[Any, tuple[Any, ...]]:
    """A loss in float64 and its inputs, the differentiable ones asking for gradients."""
    torch.manual_seed(0)
    inputs = case.make(Source(torch.float64))
    loss = case.loss().double()
    return loss, tuple(x.requires_grad_() if k < case.moving else x for k, x in enumerate(inputs))


def frozen(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The loss as a function of its differentiable inputs alone."""
    loss, inputs = scalars(case)
    rest = inputs[case.moving :]
    return (lambda *xs: loss(*xs, *rest)), tuple(x.detach() for x in inputs[: case.moving])


# --- T1: a module with torch's call --------------------------------------------------------------


@every
def test_t1_is_a_module_with_torchs_reductions(case: Case) -> None:
    assert issubclass(getattr(L, case.name), nn.Module)
    inputs = case.make(Source(torch.float32))
    torch.manual_seed(0)
    loss = case.loss()
    assert loss(*inputs).shape == ()
    torch.manual_seed(0)
    assert case.loss(reduction="none")(*inputs).ndim >= 1
    with pytest.raises(ArgumentError, match="reduction"):
        case.loss(reduction="average")


@pytest.mark.parametrize("name", ["MSELoss", "CrossEntropyLoss", "KLDivLoss", "BCELoss"])
def test_t1_reduction_defaults_to_torchs(name: str) -> None:
    theirs = inspect.signature(getattr(nn, name)).parameters["reduction"].default
    assert inspect.signature(getattr(L, name)).parameters["reduction"].default == theirs


def test_t1_input_comes_first_and_has_torchs_name() -> None:
    s = Source(torch.float32)
    x, y = s.real(4, 3), s.labels(4, classes=3)
    loss = L.CrossEntropyLoss()
    expected = nn.CrossEntropyLoss()(x, y)
    for value in (loss(x, y), loss(input=x, target=y), loss(logits=x, labels=y), loss(x, target=y)):
        torch.testing.assert_close(value, expected)
    with pytest.raises(ArgumentError, match="inputs"):
        loss(inputs=x, target=y)
    with pytest.raises(ArgumentError):
        loss(x)


# --- T2: buffers and checkpoints -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("CrossEntropyLoss", "weight"),
        ("NLLLoss", "weight"),
        ("BCEWithLogitsLoss", "pos_weight"),
        ("BCELoss", "weight"),
    ],
)
def test_t2_checkpoints_of_torch_load_strictly(name: str, key: str) -> None:
    tensor = torch.tensor([0.5, 1.0, 2.0])
    theirs = getattr(nn, name)(**{key: tensor})
    ours = getattr(L, name)(**{key: torch.ones(3)})
    assert list(ours.state_dict()) == list(theirs.state_dict()) == [key]
    ours.load_state_dict(theirs.state_dict(), strict=True)
    s = Source(torch.float32)
    inputs = (
        s.part(4, 3),
        s.labels(4, classes=3) if "Cross" in name or "NLL" in name else s.part(4, 3),
    )
    torch.testing.assert_close(ours(*inputs), theirs(*inputs))
    getattr(L, name)().load_state_dict(getattr(nn, name)().state_dict(), strict=True)


def test_t2_trainable_weights_are_parameters() -> None:
    loss = L.ArcFaceLoss(num_classes=3, embedding_size=5)
    assert [n for n, _ in loss.named_parameters()] == ["centres"]
    loss(torch.randn(4, 5), torch.tensor([0, 1, 2, 0])).backward()
    assert loss.centres.grad is not None
    assert loss.centres.grad.abs().sum() > 0


# --- T3: moved, copied, stored -------------------------------------------------------------------


@every
def test_t3_copies_and_pickles_are_equal(case: Case) -> None:
    loss, inputs = scalars(case)
    expected = loss(*inputs)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(*inputs), expected)
        assert repr(other) == repr(loss)
    for (_, a), (_, b) in zip(
        loss.state_dict().items(), copy.deepcopy(loss).state_dict().items(), strict=True
    ):
        assert a.data_ptr() != b.data_ptr()


def test_t3_to_moves_buffers_and_weights() -> None:
    loss = L.CrossEntropyLoss(weight=torch.ones(3)).to(torch.float64)
    assert loss.weight.dtype == torch.float64
    assert L.ArcFaceLoss(num_classes=3, embedding_size=5).to("meta").centres.is_meta


@every
def test_t3_meta_tensors_have_shapes(case: Case) -> None:
    inputs = case.make(Source(torch.float32))
    value = case.loss().to("meta")(*(x.to("meta") for x in inputs))
    assert value.is_meta
    assert value.shape == ()


# --- T4: repr ------------------------------------------------------------------------------------


def test_t4_repr_says_every_setting() -> None:
    text = repr(L.HuberLoss(delta=0.5, reduction="sum"))
    assert text.startswith("HuberLoss(")
    assert "delta=0.5" in text
    assert "reduction='sum'" in text
    text = repr(L.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]), label_smoothing=0.1))
    assert "[1.0, 2.0]" in text
    assert "label_smoothing=0.1" in text
    assert "num_classes=3" in repr(L.ArcFaceLoss(num_classes=3, embedding_size=5))


def test_t4_repr_of_numbers_constructs_the_same_loss() -> None:
    loss = L.TripletMarginLoss(margin=0.5, swap=True, reduction="sum")
    again = eval(repr(loss), {n: getattr(L, n) for n in ("TripletMarginLoss",)})
    assert again.bound == loss.bound


# --- T5: torch.compile ---------------------------------------------------------------------------


def gradients(loss: Any, case: Case, inputs: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    value = loss(*inputs)
    return value.detach(), list(torch.autograd.grad(value, inputs[: case.moving]))


@pytest.mark.parametrize(
    "cases", [CASES[:24:4], pytest.param(CASES, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_t5_many_losses_compile_in_one_process(cases: list[Case]) -> None:
    torch._dynamo.reset()
    for case in cases:
        loss, inputs = scalars(case)
        value, found = gradients(loss, case, inputs)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        other, traced = gradients(compiled, case, inputs)
        torch.testing.assert_close(other, value, msg=case.id)
        torch.testing.assert_close(traced, found, msg=case.id)
        with torch.no_grad():
            torch.testing.assert_close(compiled(*inputs), value, msg=case.id)


def confident(mode: str) -> tuple[Any, Any]:
    def made(loss: Any) -> Any:
        if mode == "eager":
            return loss
        return torch.compile(loss, fullgraph=True, backend=mode)

    return made(L.CrossEntropyLoss()), made(L.BCEWithLogitsLoss())


@pytest.mark.parametrize(
    "mode", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_t5_confident_predictions_keep_their_gradients(mode: str) -> None:
    torch._dynamo.reset()
    cross_entropy, bce = confident(mode)
    for _ in range(2):  # a second call like the first takes a shorter way
        z = torch.tensor([[20.0, 0.0]], requires_grad=True)
        value = cross_entropy(z, torch.tensor([0]))
        value.backward()
        assert value.item() == pytest.approx(2.0611536e-9, rel=2e-7)
        assert z.grad is not None
        assert z.grad[0].tolist() == pytest.approx([-2.0611536e-9, 2.0611536e-9], rel=2e-7)
    x = torch.tensor([20.0], requires_grad=True)
    bce(x, torch.ones(1)).backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(-2.0611536e-9, rel=2e-7)


# --- T6: torch.export ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in ("CrossEntropyLoss", "MSELoss", "ArcFaceLoss")],
    ids=lambda c: c.id,
)
def test_t6_export(case: Case) -> None:
    loss, inputs = scalars(case)
    inputs = tuple(x.detach() for x in inputs)
    program = torch.export.export(loss, inputs)
    torch.testing.assert_close(program.module()(*inputs), loss(*inputs))


def test_t6_buffers_stay_buffers() -> None:
    loss = L.CrossEntropyLoss(weight=torch.ones(3))
    program = torch.export.export(loss, (torch.randn(4, 3), torch.tensor([0, 1, 2, 0])))
    assert "weight" in program.graph_signature.buffers


# --- T7: torch.func, gradcheck -------------------------------------------------------------------


def everything(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The loss as a function of every real input, targets too, and of its own weights."""
    torch.manual_seed(0)
    loss, inputs = case.loss().double(), case.make(Source(torch.float64))
    count = sum(x.is_floating_point() for x in inputs)
    assert all(x.is_floating_point() for x in inputs[:count])
    names = [name for name, _ in loss.named_parameters()]

    def f(*xs: Any) -> Any:
        own = dict(zip(names, xs[count:], strict=True))
        return torch.func.functional_call(loss, own, (*xs[:count], *inputs[count:]))

    xs = (*inputs[:count], *(p.detach().clone() for p in loss.parameters()))
    return f, tuple(x.requires_grad_() for x in xs)


@every
def test_t7_gradcheck_and_gradgradcheck(case: Case) -> None:
    f, xs = everything(case)
    kinds = list(case.loss().spec.inputs.values())
    for x, kind in zip(xs, kinds, strict=False):
        if kind.name == "sign":  # has no neighbours, which finite differences ask for
            x.requires_grad_(False)
    assert torch.autograd.gradcheck(f, xs, check_forward_ad=False)
    assert torch.autograd.gradgradcheck(f, xs, atol=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_t7_bce_gradgradcheck_under_every_reduction(reduction: str) -> None:
    s = Source(torch.float64)
    xs = s.part(4, 3).requires_grad_(), s.part(4, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(L.BCELoss(reduction=reduction), xs)


@pytest.mark.parametrize("name", ["L1Penalty", "L2Penalty", "ElasticNetPenalty"])
def test_t7_penalties_are_differentiated_twice(name: str) -> None:
    s, loss = Source(torch.float64), getattr(L, name)()
    xs = s.real(3).requires_grad_(), s.real(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *xs: loss(list(xs)), xs)
    assert torch.autograd.gradgradcheck(lambda *xs: loss(list(xs)), xs)


@every
def test_t7_func_transforms_agree_with_autograd(case: Case) -> None:
    f, xs = frozen(case)
    x, rest = xs[0], xs[1:]
    moving = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(moving, *rest), moving)
    g = lambda x: f(x, *rest)  # noqa: E731
    torch.testing.assert_close(torch.func.grad(g)(x), expected)
    torch.testing.assert_close(torch.func.jacrev(g)(x), expected)
    tangent = torch.ones_like(x)
    torch.testing.assert_close(torch.func.jvp(g, (x,), (tangent,))[1], expected.sum())
    many = torch.stack([x, x + 0.01])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(g))(many)[0], expected)
    torch.testing.assert_close(torch.func.vmap(g)(many)[0], g(x))


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in CASES
        if c.name
        in ("CrossEntropyLoss", "BCEWithLogitsLoss", "FocalLoss", "InfoNCELoss", "HuberLoss")
    ],
    ids=lambda c: c.id,
)
def test_t7_hessian(case: Case) -> None:
    f, xs = frozen(case)
    g = lambda x: f(x, *xs[1:])  # noqa: E731
    n = xs[0].numel()
    hessian = torch.func.hessian(g)(xs[0]).reshape(n, n)
    torch.testing.assert_close(
        hessian, torch.func.jacrev(torch.func.jacrev(g))(xs[0]).reshape(n, n)
    )
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(g, xs[0]).reshape(n, n))
    torch.testing.assert_close(hessian, hessian.T)


@every
def test_t7_double_backward_and_a_kept_graph(case: Case) -> None:
    loss, inputs = scalars(case)
    moving = inputs[: case.moving]
    value = loss(*inputs)
    first = torch.autograd.grad(value, moving, retain_graph=True)
    again = torch.autograd.grad(value, moving, retain_graph=True)
    created = torch.autograd.grad(value, moving, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.testing.assert_close(created, first)
    total = sum((g**2).sum() for g in created)
    assert all(
        g.isfinite().all() for g in torch.autograd.grad(total, moving, materialize_grads=True)
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every
def test_t7_a_call_like_one_before_gives_the_same(case: Case, dtype: Any, reduction: str) -> None:
    # From the second call on, what the first found out about shapes and dtypes is not asked again.
    torch.manual_seed(0)
    inputs, loss = case.make(Source(dtype)), case.loss(reduction=reduction)
    found = []
    for _ in range(2):
        xs = tuple(x.clone().requires_grad_(k < case.moving) for k, x in enumerate(inputs))
        value = loss(*xs)
        upstream = torch.linspace(0.5, 2.0, value.numel()).to(value.dtype).reshape(value.shape)
        moving = xs[: case.moving]
        slopes = [
            torch.autograd.grad(value, moving, upstream, retain_graph=True),
            torch.autograd.grad(value, moving, upstream, create_graph=True),
            torch.autograd.grad(value, moving[:1], upstream),
        ]
        with torch.no_grad():
            found.append((value.detach(), loss(*xs), *(g.detach() for gs in slopes for g in gs)))
    for first, second in zip(*found, strict=True):
        assert first.dtype == second.dtype
        rtol = 5e-7 if dtype == torch.float32 else 4e-3
        torch.testing.assert_close(second, first, rtol=rtol, atol=0.0)


# --- T8: mixed precision -------------------------------------------------------------------------


@every
def test_t8_autocast_gives_the_float32_result(case: Case) -> None:
    torch.manual_seed(0)
    inputs = case.make(Source(torch.bfloat16))
    loss = case.loss()
    wide = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*inputs)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*wide), rtol=1e-6, atol=1e-7)


def test_t8_half_precision_is_the_float32_result_rounded_once() -> None:
    x, y = torch.randn(64, 10).bfloat16(), torch.randint(10, (64,))
    half, single = x.clone().requires_grad_(), x.float().requires_grad_()
    loss = L.CrossEntropyLoss()
    value, expected = loss(half, y), loss(single, y)
    assert value.dtype == torch.bfloat16
    assert torch.equal(value, expected.bfloat16())
    value.backward()
    expected.backward()
    assert half.grad is not None
    assert single.grad is not None
    assert torch.equal(half.grad, single.grad.bfloat16())


def test_t8_grad_scaler_and_accumulation_follow_the_float32_run() -> None:
    def run(mixed: bool) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        x, y = torch.randn(64, 8), torch.randint(4, (64,))
        loss = L.CrossEntropyLoss(normalizer="external")
        scaler = torch.amp.GradScaler("cpu", enabled=mixed, init_scale=1024.0)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        curve = []
        for _ in range(20):
            total = 0.0
            for a, b in zip(x.chunk(4), y.chunk(4), strict=True):
                with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                    part = loss(model(a), b, normalizer_count=len(x))
                scaler.scale(part).backward()
                total += part.item()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            curve.append(total)
        return curve

    mixed, single = run(True), run(False)
    assert single[-1] < 0.9 * single[0]
    assert mixed == pytest.approx(single, rel=0.02)


# --- T9: nothing is changed behind the user's back -----------------------------------------------


@every
def test_t9_inputs_buffers_and_random_state_stay_as_they_were(case: Case) -> None:
    loss, inputs = scalars(case)
    before = [x.detach().clone() for x in (*inputs, *loss.state_dict().values())]
    seed = torch.get_rng_state()
    loss(*inputs).backward()
    after = [*inputs, *loss.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), seed)


# --- T10: transformers ---------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [False, True])
def test_t10_hf_adapter(shift: bool) -> None:
    logits = torch.randn(2, 5, 7)
    y = torch.randint(7, (2, 5))
    y[0, :2] = -100
    f = L.as_hf(L.CrossEntropyLoss(), shift_labels=shift)
    z, t = (logits[:, :-1], y[:, 1:]) if shift else (logits, y)
    flat = (z.reshape(-1, 7), t.reshape(-1))
    expected = nn.functional.cross_entropy(*flat, reduction="sum")
    torch.testing.assert_close(f({"logits": logits}, y, num_items_in_batch=11), expected / 11)
    torch.testing.assert_close(
        f({"logits": logits}, y, num_items_in_batch=torch.tensor(11)), expected / 11
    )
    torch.testing.assert_close(f({"logits": logits}, y), nn.functional.cross_entropy(*flat))


# --- T11: data parallel --------------------------------------------------------------------------

RANK = """
    import sys, torch, torch.distributed as dist, lossbridge.torch as L
    from torch.nn.parallel import DistributedDataParallel as DDP
    rank, store = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3).double()
    x, y = torch.randn(10, 6).double(), torch.randint(3, (10,))
    y[3] = -100
    mine = slice(0, 3) if rank == 0 else slice(3, 10)
    count = (y[mine] != -100).sum()
    dist.all_reduce(count)
    parallel = DDP(model)
    loss = L.CrossEntropyLoss(normalizer="external")
    # DDP averages over ranks: times their number.
    (2 * loss(parallel(x[mine]), y[mine], normalizer_count=count)).backward()
    found = model.weight.grad.clone()
    model.zero_grad()
    L.CrossEntropyLoss()(model(x), y).backward()
    torch.testing.assert_close(found, model.weight.grad)
    print("equal")
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_t11_two_ranks_give_the_gradient_of_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(RANK)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert rank.returncode == 0, err
        assert "equal" in out


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "MSELoss"])
def test_t11_shards_add_up_to_the_whole(name: str) -> None:
    s = Source(torch.float64)
    x = s.real(10, 3)
    y = s.labels(10, classes=3) if name == "CrossEntropyLoss" else s.real(10, 3)
    whole, shards = x.clone().requires_grad_(), x.clone().requires_grad_()
    getattr(L, name)()(whole, y).backward()
    count = 10 if name == "CrossEntropyLoss" else 30
    loss = getattr(L, name)(normalizer="external")
    for part in (slice(0, 3), slice(3, 10)):
        loss(shards[part], y[part], normalizer_count=count).backward()
    torch.testing.assert_close(shards.grad, whole.grad)
    with pytest.raises(ArgumentError, match="normalizer_count"):
        loss(x, y)


# --- gradients of everything that is real --------------------------------------------------------


def test_targets_sample_weights_and_array_parameters_have_gradients() -> None:
    s = Source(torch.float64)
    x, y = s.real(4, 3), s.part(4, 3)
    weight, positive = s.part(4, 3), torch.tensor([0.5, 1.0, 2.0]).double()

    def f(y: Any, w: Any) -> Any:
        return L.BCEWithLogitsLoss(pos_weight=positive)(x, y, sample_weight=w)

    assert torch.autograd.gradcheck(f, (y.requires_grad_(), weight.requires_grad_()))
    loss = L.BCEWithLogitsLoss(pos_weight=positive)
    loss.pos_weight.requires_grad_()
    loss(x, y.detach()).backward()
    # Of mean(-(w y log p + (1 - y) log(1 - p))), which torch's own loss refuses to differentiate.
    expected = -(y.detach() * nn.functional.logsigmoid(x)).sum(0) / x.numel()
    torch.testing.assert_close(loss.pos_weight.grad, expected)


def test_masked_elements_neither_show_nor_have_a_gradient() -> None:
    x = torch.tensor([1.0, math.nan, 2.0, math.inf], requires_grad=True)
    keep = torch.tensor([True, False, True, False])
    value = L.MSELoss()(x, torch.zeros(4), mask=keep)
    value.backward()
    assert value.item() == 2.5
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 2.0, 0.0]


def test_ignored_samples_neither_show_nor_have_a_gradient() -> None:
    z = torch.tensor([[1.0, 2.0], [math.nan, 0.0]], requires_grad=True)
    value = L.CrossEntropyLoss()(z, torch.tensor([0, -100]))
    value.backward()
    assert value.item() == pytest.approx(math.log1p(math.e), rel=1e-6)
    assert z.grad is not None
    assert z.grad[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}], ids=str)
@pytest.mark.parametrize("name", ["CrossEntropyLoss", "FocalLoss", "NLLLoss"])
def test_batches_without_an_ignored_label_give_what_those_with_one_give(
    name: str, settings: dict[str, Any]
) -> None:
    # The first of each pair is known to be in range, and runs without selections.
    if name != "CrossEntropyLoss" and "label_smoothing" in settings:
        pytest.skip("cross-entropy alone smooths its labels")
    s = Source(torch.float32)
    loss = getattr(L, name)(**({} if name == "FocalLoss" else settings))
    ignored = -100 if name == "FocalLoss" else settings.get("ignore_index", -100)
    x = (8 * s.real(5, 4)).log_softmax(1).detach()
    x[0, 0], x[1, 2] = math.inf, -math.inf
    y = torch.tensor([2, 2, 0, 3, 0])
    longer = torch.cat([x, torch.full((1, 4), math.nan)])
    for rows in (slice(0, 5), slice(2, 5)):
        part, whole = x[rows].clone(), torch.cat([longer[rows], longer[5:]])
        labels = torch.cat([y[rows], torch.tensor([ignored])])
        for moving in (False, True):
            part.requires_grad_(moving)
            whole.requires_grad_(moving)
            for _ in range(2):
                plain = loss(part, y[rows])
                if name == "FocalLoss":
                    whole, other = part, loss(part, y[rows], mask=torch.ones(len(part)).bool())
                else:
                    other = loss(whole, labels)
                torch.testing.assert_close(other, plain, equal_nan=True, rtol=3e-7, atol=0.0)
                if moving:
                    (g,) = torch.autograd.grad(plain, part)
                    (h,) = torch.autograd.grad(other, whole)
                    torch.testing.assert_close(
                        h[: len(g)], g, equal_nan=True, rtol=3e-7, atol=1e-12
                    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_counts_is_nan_without_a_gradient(smoothing: float) -> None:
    z = torch.randn(3, 4, requires_grad=True)
    value = L.CrossEntropyLoss(label_smoothing=smoothing)(z, torch.full((3,), -100))
    value.backward()
    assert value.isnan()
    assert z.grad is not None
    assert (z.grad == 0).all()
    assert L.CrossEntropyLoss(empty="zero")(z, torch.full((3,), -100)) == 0


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [3, -1, 10**6])
def test_labels_out_of_range_raise_eagerly_and_are_nan_compiled(wrong: int) -> None:
    z, y = torch.randn(2, 3, requires_grad=True), torch.tensor([0, wrong])
    with pytest.raises(DomainError, match="0 to 2"):
        L.CrossEntropyLoss()(z, y)
    torch._dynamo.reset()
    loss = torch.compile(L.CrossEntropyLoss(reduction="none"), fullgraph=True, backend="aot_eager")
    value = loss(z, y)
    value.sum().backward()
    assert value.isnan().tolist() == [False, True]
    assert z.grad is not None
    assert z.grad.isnan().all(1).tolist() == [False, True]


def test_shapes_that_disagree_raise() -> None:
    with pytest.raises(ShapeError, match=r"\(4, 1\)"):
        L.MSELoss()(torch.randn(4, 1), torch.randn(4))
    with pytest.raises(ShapeError, match="labels"):
        L.CrossEntropyLoss()(torch.randn(4, 3), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ShapeError, match="sample_weight"):
        L.MSELoss()(torch.randn(4), torch.randn(4), sample_weight=torch.ones(3))


def test_dtypes_that_cannot_carry_the_kind_raise() -> None:
    with pytest.raises(DTypeError, match="float"):
        L.MSELoss()(torch.ones(3, dtype=torch.int64), torch.ones(3))
    with pytest.raises(DTypeError, match="long"):
        L.NLLLoss()(torch.randn(4, 3), torch.zeros(4))


# --- kinks ---------------------------------------------------------------------------------------

KINKS: list[tuple[str, dict[str, Any], list[float], list[float], list[float]]] = [
    ("L1Loss", {}, [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]),
    ("SmoothL1Loss", {"beta": 0.0}, [1.0, 2.0], [1.0, 1.0], [0.0, 1.0]),
    ("HuberLoss", {"delta": 1.0}, [1.0, -1.0], [0.0, 0.0], [1.0, -1.0]),
    ("HingeLoss", {}, [1.0, -1.0], [1.0, -1.0], [-0.5, 0.5]),
    ("LogCoshLoss", {}, [0.0], [0.0], [0.0]),
]


@pytest.mark.parametrize("mode", ["eager", "aot_eager"])
@pytest.mark.parametrize(("name", "settings", "x", "y", "slope"), KINKS, ids=[k[0] for k in KINKS])
def test_kinks(
    name: str,
    settings: dict[str, Any],
    x: list[float],
    y: list[float],
    slope: list[float],
    mode: str,
) -> None:
    torch._dynamo.reset()
    loss: Any = getattr(L, name)(**settings, reduction="sum")
    if mode != "eager":
        loss = torch.compile(loss, fullgraph=True, backend=mode)
    z = torch.tensor(x, requires_grad=True)
    loss(z, torch.tensor(y)).backward()
    assert z.grad is not None
    assert z.grad.tolist() == slope


def test_equal_embeddings_have_gradient_zero() -> None:
    a = torch.zeros(2, 3, requires_grad=True)
    L.CosineEmbeddingLoss(margin=-1.0)(a, torch.zeros(2, 3), -torch.ones(2)).backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


# --- penalties -----------------------------------------------------------------------------------


def test_penalties_over_modules_named_parameters_and_containers() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    expected = 0.1 * (0.3 * flat.abs().sum() + 0.35 * flat.square().sum())
    loss = L.ElasticNetPenalty(strength=0.1, l1_ratio=0.3)
    forms: list[Any] = [
        model,
        model.named_parameters(),
        model.parameters(),
        dict(model.named_parameters()),
        [dict(model.named_parameters())],
    ]
    for tree in forms:
        torch.testing.assert_close(loss(tree).detach(), expected)
    model.zero_grad()
    loss(model).backward()
    for p in model.parameters():
        torch.testing.assert_close(p.grad, 0.1 * (0.3 * p.detach().sign() + 0.7 * p.detach()))
    with pytest.raises(ArgumentError):
        loss(3.0)


# --- ports ---------------------------------------------------------------------------------------


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, x: Any) -> Any:
        return self.net(x).squeeze(-1)


def test_wasserstein_critic_trains_the_critic() -> None:
    torch.manual_seed(0)
    critic, s = Critic(), Source(torch.float64)
    fake, real = s.real(4, 3).requires_grad_(), s.real(4, 3)
    value = L.WassersteinCriticLoss()(fake, real, critic=critic)
    torch.testing.assert_close(value, critic(fake).mean() - critic(real).mean())
    value.backward()
    assert fake.grad is not None
    assert all(p.grad is not None for p in critic.net[0].parameters())
    with pytest.raises(ArgumentError, match="critic"):
        L.WassersteinCriticLoss()(fake, real)
    column = L.WassersteinCriticLoss()(fake, real, critic=critic.net)
    torch.testing.assert_close(column, value)  # one score a sample, as networks give it: (4, 1)
    with pytest.raises(ShapeError, match="critic"):
        L.WassersteinCriticLoss()(fake, real, critic=lambda x: x)


def test_gradient_penalty_reaches_the_critics_parameters() -> None:
    torch.manual_seed(0)
    critic, s = Critic(), Source(torch.float64)
    fake, real, mix = s.real(4, 3), s.real(4, 3), s.part(4)
    loss = L.GradientPenaltyLoss(strength=10.0)
    names = list(loss.spec.inputs)
    given = dict(zip(names, (fake, real, mix), strict=True))
    value = loss(**given, critic=critic)
    found = torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)

    def reference(first: Any, second: Any) -> Any:
        x = (mix[:, None] * first + (1 - mix[:, None]) * second).requires_grad_()
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return 10.0 * (slope.norm(dim=1) - 1.0).square().mean()

    expected = min(
        (reference(real, fake), reference(fake, real)), key=lambda r: abs(r.item() - value.item())
    )
    torch.testing.assert_close(value, expected)
    slopes = torch.autograd.grad(expected, list(critic.parameters()), allow_unused=True)
    for a, b in zip(found[:-1], slopes[:-1], strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(loss(**given, critic=critic), value.detach())


def test_heat_equation_residual_is_the_analytic_one() -> None:
    s = Source(torch.float64)
    t, x = s.part(6), s.part(6)
    k = torch.tensor(2.0).double().requires_grad_()
    loss = L.PDEResidualLoss(diffusivity=0.5)
    exact = loss(t, x, field=lambda t, x: torch.exp(-0.5 * 4.0 * t) * torch.sin(2.0 * x))
    assert exact.item() < 1e-28
    value = loss(t, x, field=lambda t, x: k * t + x**2)
    torch.testing.assert_close(value, (k - 1.0).square().detach())
    value.backward()
    torch.testing.assert_close(k.grad, torch.tensor(2.0).double())


def test_perceptual_loss_takes_several_maps() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 2, 3).double(), nn.Conv2d(2, 3, 3).double()

    def features(x: Any) -> list[Any]:
        a = first(x)
        return [a, second(a.tanh())]

    s = Source(torch.float64)
    x, y = s.real(2, 1, 7, 7).requires_grad_(), s.real(2, 1, 7, 7)
    value = L.PerceptualLoss()(x, y, features=features)
    expected = sum(
        nn.functional.mse_loss(a, b) for a, b in zip(features(x), features(y), strict=True)
    )
    torch.testing.assert_close(value, expected)
    value.backward()
    assert x.grad is not None
    assert first.weight.grad is not None


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def forward(self, t: Any, x: Any) -> Any:
        return self.net(torch.stack([t, x], -1)).squeeze(-1)


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3).double(), nn.Conv2d(2, 3, 3).double()

    def forward(self, x: Any) -> list[Any]:
        a = self.first(x)
        return [a, self.second(a.tanh())]


PORTS = [
    ("WassersteinCriticLoss", "critic", Critic, lambda s: (s.real(4, 3), s.real(4, 3))),
    ("GradientPenaltyLoss", "critic", Critic, lambda s: (s.real(4, 3), s.real(4, 3), s.part(4))),
    ("PDEResidualLoss", "field", Field, lambda s: (s.part(6), s.part(6))),
    ("PerceptualLoss", "features", Features, lambda s: (s.real(2, 1, 7, 7), s.real(2, 1, 7, 7))),
]
ported = pytest.mark.parametrize(
    ("name", "port", "network", "make"), PORTS, ids=[str(case[0]) for case in PORTS]
)
modes = pytest.mark.parametrize(
    "mode", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)


@ported
@modes
def test_ports_compile_without_a_break(
    name: str, port: str, network: Callable[[], Any], make: Make, mode: str
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    net, inputs = network(), tuple(x.requires_grad_() for x in make(Source(torch.float64)))
    loss = getattr(L, name)()
    compiled = torch.compile(loss, fullgraph=True, backend=mode)
    for extra in ({}, {"sample_weight": torch.rand(len(inputs[0])).double()}):
        found = []
        for f in (loss, compiled):
            value = f(*inputs, **{port: net}, **extra)
            slopes = torch.autograd.grad(
                value, (*inputs, *net.parameters()), allow_unused=True, materialize_grads=True
            )
            found.append((value.detach(), slopes))
        torch.testing.assert_close(found[1], found[0])
        assert any(s.abs().max() > 1e-4 for s in found[0][1][len(inputs) :])
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(*inputs, **{port: net}), loss(*inputs, **{port: net}).detach()
        )


@ported
def test_t7_ports_are_differentiated_twice(
    name: str, port: str, network: Callable[[], Any], make: Make
) -> None:
    torch.manual_seed(0)
    net, inputs, loss = network(), make(Source(torch.float64)), getattr(L, name)()
    names = [n for n, _ in net.named_parameters()]

    def f(*xs: Any) -> Any:
        own = dict(zip(names, xs[len(inputs) :], strict=True))
        return loss(
            *xs[: len(inputs)], **{port: lambda *z: torch.func.functional_call(net, own, z)}
        )

    xs = tuple(x.detach().requires_grad_() for x in (*inputs, *net.parameters()))
    assert torch.autograd.gradcheck(f, xs, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, xs, fast_mode=True, atol=1e-4)


@ported
def test_training_a_network_through_a_compiled_port_is_the_same_run(
    name: str, port: str, network: Callable[[], Any], make: Make
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = network()
    inputs, loss = make(Source(torch.float64)), getattr(L, name)()
    ends = []
    for compile in (False, True):
        own = copy.deepcopy(net)
        step: Any = lambda *xs, own=own: loss(*xs, **{port: own})  # noqa: E731
        if compile:
            step = torch.compile(step, fullgraph=True, backend="aot_eager")
        optimizer = torch.optim.SGD(own.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            step(*inputs).backward()
            optimizer.step()
        ends.append([p.detach() for p in own.parameters()])
    torch.testing.assert_close(ends[1], ends[0])


def test_what_is_compiled_is_differentiated_once() -> None:
    # torch's own limit: it says so, and gives no wrong number. Uncompiled, all of this works.
    torch.manual_seed(0)
    s = Source(torch.float64)
    losses: tuple[Any, ...] = (
        L.MSELoss(),
        nn.MSELoss(),
        functools.partial(L.WassersteinCriticLoss(), critic=Critic()),
    )
    for f in losses:
        torch._dynamo.reset()
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        x, y = s.real(4, 3).requires_grad_(), s.real(4, 3)
        (g,) = torch.autograd.grad(compiled(x, y), x, create_graph=True)
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            g.square().sum().backward()


@pytest.mark.parametrize("name", ["MSELoss", "CrossEntropyLoss", "CTCLoss"])
def test_weights_and_masks_compile_without_a_break(name: str) -> None:
    torch._dynamo.reset()
    case = next(c for c in CASES if c.name == name)
    loss, inputs = scalars(case)
    n = inputs[1].shape[0]
    extra = {"sample_weight": torch.rand(n).double(), "mask": torch.arange(n) < n - 1}
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = [f(*inputs, **extra) for f in (loss, compiled)]
    slopes = [torch.autograd.grad(value, inputs[0])[0] for value in found]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(slopes[1], slopes[0])


# --- combinations --------------------------------------------------------------------------------


def parts() -> tuple[dict[str, Any], dict[str, Any]]:
    s = Source(torch.float64)
    losses = {"depth": L.HuberLoss(), "label": L.CrossEntropyLoss(weight=torch.ones(3))}
    calls = {"depth": (s.real(4), s.real(4)), "label": (s.real(4, 3), s.labels(4, classes=3))}
    return losses, calls


def test_weighted_losses_add_and_name_their_state() -> None:
    losses, calls = parts()
    loss = L.WeightedLoss(losses, {"label": 0.5})
    expected = losses["depth"](*calls["depth"]) + 0.5 * losses["label"](*calls["label"])
    torch.testing.assert_close(loss(**calls), expected)
    named = loss(
        depth_prediction=calls["depth"][0], depth_target=calls["depth"][1], label=calls["label"]
    )
    torch.testing.assert_close(named, expected)
    assert list(loss.state_dict()) == ["losses.label.weight"]
    with pytest.raises(ArgumentError, match="depth"):
        loss(label=calls["label"])


def test_uncertainty_weights_are_trained() -> None:
    losses, calls = parts()
    loss = L.UncertaintyWeightedLoss(losses).double()
    assert [n for n, _ in loss.named_parameters()] == ["depth_log_variance", "label_log_variance"]
    moving = calls["depth"][0].requires_grad_()
    loss(**calls).backward()
    own = losses["depth"](*calls["depth"]).item()
    assert loss.depth_log_variance.grad.item() == pytest.approx(0.5 - 0.5 * own)
    torch.testing.assert_close(
        moving.grad, 0.5 * torch.autograd.grad(losses["depth"](*calls["depth"]), moving)[0]
    )
    start = loss(**calls).item()
    optimizer = torch.optim.SGD(loss.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        loss(**calls).backward()
        optimizer.step()
    assert loss(**calls).item() < start


def test_a_schedule_moves_by_advance_alone() -> None:
    losses, calls = parts()
    loss = L.CurriculumWeightedLoss(losses, {"depth": (0.0, 1.0, 0, 10)})
    assert "step" in loss.state_dict()
    label = losses["label"](*calls["label"])
    depth = losses["depth"](*calls["depth"])
    for _ in range(2):
        torch.testing.assert_close(loss(**calls), label)
    assert loss.step.item() == 0
    loss.advance(5)
    torch.testing.assert_close(loss(**calls), label + 0.5 * depth)
    torch.testing.assert_close(loss(**calls, step=10), label + depth)
    other = L.CurriculumWeightedLoss(parts()[0], {"depth": (0.0, 1.0, 0, 10)})
    other.load_state_dict(loss.state_dict(), strict=True)
    torch.testing.assert_close(other(**calls), loss(**calls))


def test_attention_weighs_by_scores_that_have_gradients() -> None:
    losses, calls = parts()
    scores = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    loss = L.AttentionWeightedLoss(losses, temperature=0.5)
    value = loss(**calls, scores=scores)
    w = (scores / 0.5).softmax(0)
    expected = w[0] * losses["depth"](*calls["depth"]) + w[1] * losses["label"](*calls["label"])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, scores), torch.autograd.grad(expected, scores)
    )


def test_combinations_copy_and_compile() -> None:
    torch._dynamo.reset()
    losses, calls = parts()
    loss = L.UncertaintyWeightedLoss(losses).double()
    expected = loss(**calls)
    torch.testing.assert_close(copy.deepcopy(loss)(**calls), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(loss))(**calls), expected)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**calls), expected)


# --- ejected files -------------------------------------------------------------------------------

RUN = """
    import sys

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0].startswith("lossbridge"):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Block())
    import importlib.util, torch

    try:
        import lossbridge
    except ImportError:
        pass
    else:
        raise SystemExit("the block does not block")
    for stem, name, inputs, states, moving in torch.load(sys.argv[1], weights_only=False):
        spec = importlib.util.spec_from_file_location(stem, f"{sys.argv[2]}/{stem}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loss = getattr(module, name)()
        loss.load_state_dict(states)
        inputs = [x.requires_grad_() if k < moving else x for k, x in enumerate(inputs)]
        value = loss(*inputs)
        value.sum().backward()
        found = [value.detach(), *(x.grad for x in inputs[:moving]),
                 *(p.grad for p in loss.parameters())]
        torch.save(found, f"{sys.argv[2]}/{stem}.pt")
        try:
            loss(inputs[0][:-1] if name != "CTCLoss" else inputs[0][:, :-1], *inputs[1:])
        except ValueError:
            pass
        else:
            raise SystemExit(f"{stem} takes shapes that disagree")
"""


@pytest.mark.slow
def test_ejected_files_stand_alone_and_are_equal_bit_for_bit(tmp_path: Path) -> None:
    jobs, expected = [], {}
    for k, case in enumerate(CASES):
        for dtype in (torch.float32, torch.bfloat16):
            for reduction in ("mean", "none"):
                for moving in {1, case.moving}:
                    torch.manual_seed(0)
                    inputs = list(case.make(Source(dtype)))
                    loss = case.loss(reduction=reduction)
                    stem = f"loss_{k}_{str(dtype)[6:]}_{reduction}_{moving}"
                    (tmp_path / f"{stem}.py").write_text(PROBE.eject(loss.bound, case.name))
                    states = loss.state_dict()
                    jobs.append((stem, case.name, [x.clone() for x in inputs], states, moving))
                    inputs = [x.requires_grad_() if i < moving else x for i, x in enumerate(inputs)]
                    value = loss(*inputs)
                    value.sum().backward()
                    expected[stem] = [
                        value.detach(),
                        *(x.grad for x in inputs[:moving]),
                        *(p.grad for p in loss.parameters()),
                    ]
    torch.save(jobs, tmp_path / "jobs.pt")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), str(tmp_path / "jobs.pt"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    different = []
    for stem, want in expected.items():
        have = torch.load(tmp_path / f"{stem}.pt")
        if not all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(have, want, strict=True)
        ):
            different.append(stem)
    assert different == []


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: L.WassersteinCriticLoss(), "critic"),
        (lambda: L.PerceptualLoss(), "features"),
        (lambda: L.L2Penalty(), "leaf by leaf"),
        (lambda: L.WeightedLoss(parts()[0]), "combines other losses"),
    ],
)
def test_what_cannot_stand_alone_says_why(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        PROBE.eject(make().bound, "Mine")


def test_an_ejected_class_needs_a_name() -> None:
    with pytest.raises(ArgumentError, match="name a class"):
        PROBE.eject(L.MSELoss().bound, "not a name")


@pytest.mark.slow
def test_the_command_line_ejects_compiles_and_shows(tmp_path: Path) -> None:
    target = tmp_path / "loss.py"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lossbridge", *arguments],
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("eject", "MSELoss", "--to", "torch", "-o", str(target))
    assert "class MSELoss(nn.Module)" in target.read_text()
    assert "def mse" in run("show", "MSELoss", "--platform", "torch")
    assert "def " in run("compile", "MSELoss", "--to", "torch")


# --- what users of PyTorch do besides ------------------------------------------------------------


def test_settings_are_attributes_and_changing_one_is_refused() -> None:
    loss = L.CrossEntropyLoss(label_smoothing=0.1)
    assert (loss.reduction, loss.ignore_index, loss.label_smoothing) == ("mean", -100, 0.1)
    assert loss.weight is None
    assert loss.state_dict() == {}
    loss.reduction = "mean"  # says nothing new
    for name, value in (("reduction", "none"), ("weight", torch.ones(3)), ("label_smoothing", 0)):
        with pytest.raises(ArgumentError, match=f"make another, with {name}="):
            setattr(loss, name, value)
    weighted = L.CrossEntropyLoss(weight=torch.ones(3))
    weighted.weight = torch.tensor([1.0, 20.0, 3.0])  # a buffer, as in torch
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    expected = nn.CrossEntropyLoss(weight=weighted.weight)(x, y)
    torch.testing.assert_close(weighted(x, y), expected)


@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 1], [0, -100, 2, 1]], ids=["all in range", "one ignored"]
)
@pytest.mark.parametrize(
    "settings", [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(3)}, {"reduction": "none"}]
)
def test_gradient_checkpointing_from_the_first_call_on(
    labels: list[int], settings: dict[str, Any]
) -> None:
    from torch.utils.checkpoint import checkpoint

    loss, y = L.CrossEntropyLoss(**settings), torch.tensor(labels)
    x = torch.randn(4, 3, requires_grad=True)
    found = []
    for _ in range(2):
        checkpoint(lambda x: loss(x, y), x, use_reentrant=False).sum().backward()
        found.append(x.grad)
        x.grad = None
    loss(x, y).sum().backward()
    torch.testing.assert_close(found[0], x.grad, rtol=0, atol=0)
    torch.testing.assert_close(found[1], x.grad, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{}, {"weight": [1.0, 2.0, 3.0], "label_smoothing": 0.1}])
def test_tensors_without_numbers_are_taken(settings: dict[str, Any]) -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        loss = L.CrossEntropyLoss(**settings)
        x = torch.zeros(4, 3, requires_grad=True)
        y = torch.zeros(4, dtype=torch.long)
        for _ in range(2):
            value = loss(x, y)
            value.backward()
        assert value.shape == ()
        assert x.grad.shape == (4, 3)
        assert loss(x.detach(), y).shape == ()


def test_the_gradient_of_aot_autograd() -> None:
    from functorch.compile import aot_function, nop

    loss, y = L.CrossEntropyLoss(), torch.tensor([0, 1, -100, 2])
    x = torch.randn(4, 3, requires_grad=True)
    aot_function(loss, fw_compiler=nop)(x, y).backward()
    (expected,) = torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(x.grad, expected)


def test_a_tensor_subclass_gives_what_its_tensor_gives() -> None:
    class Image(torch.Tensor):
        pass

    x, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, -100, 2])
    loss = L.CrossEntropyLoss()
    for given in ((x.as_subclass(Image), y), (x, y.as_subclass(Image))):
        found = loss(*given).as_subclass(torch.Tensor)
        torch.testing.assert_close(found, loss(x, y))
        torch.testing.assert_close(
            torch.autograd.grad(found, x)[0], torch.autograd.grad(loss(x, y), x)[0]
        )


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (lambda x: x.to_sparse(), ArgumentError, r"pass prediction.to_dense\(\)"),
        (lambda x: torch.complex(x, x), DTypeError, "pass prediction.real"),
        (
            lambda x: torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged),
            ArgumentError,
            "to_padded_tensor",
        ),
    ],
)
def test_tensors_of_another_make_are_refused_by_name(given: Any, error: type, says: str) -> None:
    x = torch.ones(2, 3)
    with pytest.raises(error, match=says):
        L.MSELoss()(given(x), x)


def test_the_call_that_a_message_gives_works() -> None:
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    right = L.CrossEntropyLoss()(x, y)
    with pytest.raises(ShapeError, match=r"pass target.long\(\)"):
        L.CrossEntropyLoss()(x, y.float())
    with pytest.raises(ShapeError, match=r"pass labels.reshape\(\(5,\)\)"):
        L.CrossEntropyLoss()(x, y[:, None])
    with pytest.raises(ShapeError, match=r"pass labels.float\(\)"):
        L.CrossEntropyLoss()(x, nn.functional.one_hot(y, 3))
    with pytest.raises(DTypeError, match=r"write loss\(logits, labels\)"):
        L.CrossEntropyLoss()(y, x)
    with pytest.raises(DTypeError, match=r"write loss\(logits, labels\)"):
        L.CrossEntropyLoss()(labels=x, logits=y)
    with pytest.raises(ShapeError, match=r"labels of shape \(5,\) would fit"):
        L.CrossEntropyLoss()(labels=y[:4], logits=x)
    wide = x.expand(2, 5, 3)
    with pytest.raises(ShapeError, match=r"\(2, 5, 3\), with the classes at axis 1.*axis=-1"):
        L.CrossEntropyLoss()(wide, y.expand(2, 5))
    found = [
        L.CrossEntropyLoss()(x, y.float().long()),
        L.CrossEntropyLoss()(x, y[:, None].reshape((5,))),
        L.CrossEntropyLoss()(x, nn.functional.one_hot(y, 3).float()),
        L.CrossEntropyLoss(axis=-1)(wide, y.expand(2, 5)),
    ]
    for value in found:
        torch.testing.assert_close(value, right)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.uint16])
def test_labels_of_every_integer_dtype(dtype: Any) -> None:
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    torch.testing.assert_close(L.CrossEntropyLoss()(x, y.to(dtype)), L.CrossEntropyLoss()(x, y))


def test_a_list_of_class_weights_has_the_default_dtype() -> None:
    loss = L.CrossEntropyLoss(weight=[1, 2, 3])
    assert loss.weight.dtype == torch.float32
    assert repr(loss) == "CrossEntropyLoss(weight=[1.0, 2.0, 3.0])"


def test_weights_start_anew_after_the_meta_device() -> None:
    with torch.device("meta"):
        loss = L.ArcFaceLoss(3, 4)
    loss.to_empty(device="cpu")
    nn.init.constant_(loss.centres, math.nan)
    loss.reset_parameters()
    assert loss.centres.isfinite().all()


def combined(**inputs: Any) -> dict[str, Any]:
    x, y = torch.linspace(-1, 2, 15).reshape(5, 3), torch.tensor([0, 1, 2, 1, 0])
    return {"a": (x, 2 * x), "b": (x, y), **inputs}


def test_a_loss_with_class_centres_combines() -> None:
    loss = L.UncertaintyWeightedLoss({"a": L.MSELoss(), "b": L.ArcFaceLoss(3, 3)})
    names = {n for n, _ in loss.named_parameters()}
    assert names == {"a_log_variance", "b_log_variance", "losses.b.centres"}
    given = combined()
    value = loss(**given)
    value.backward()
    assert loss.losses["b"].centres.grad.norm() > 0
    parts = [child(*given[name]) for name, child in loss.losses.items()]
    torch.testing.assert_close(value, 0.5 * (parts[0] + parts[1]))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_combination_read_from_its_file_is_the_same_loss(tmp_path: Path, compiled: bool) -> None:
    from lossbridge import dump

    made = L.WeightedLoss({"a": L.HuberLoss(2.0), "b": L.CrossEntropyLoss()}, {"a": 0.25})
    dump(made.spec, tmp_path / "both.json")
    read = L.compile(tmp_path / "both.json")
    run = torch.compile(read, backend="aot_eager", fullgraph=True) if compiled else read
    (a, target), (b, labels) = combined().values()
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    found = run(a_prediction=a, a_target=target, b_logits=b, b_labels=labels)
    expected = made(a=(a, target), b=(b, labels))
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_hf_outputs_as_a_tuple_and_what_is_no_loss() -> None:
    x, y = torch.randn(2, 5, 7), torch.zeros(2, 5, dtype=torch.long)
    run = L.as_hf(L.CrossEntropyLoss())
    torch.testing.assert_close(run((x, "hidden states"), y), run({"logits": x}, y))
    with pytest.raises(ArgumentError, match="begins with them"):
        run(object(), y)
    with pytest.raises(ArgumentError, match=r"L.as_hf\(L.CrossEntropyLoss\(\)\)"):
        L.as_hf(L.CrossEntropyLoss)


@pytest.mark.parametrize(
    "loss",
    [
        L.HuberLoss(delta=0.5, reduction="sum"),
        L.CrossEntropyLoss(weight=[1.0, 2.0, 0.5], label_smoothing=0.1, normalizer="batch"),
        L.CrossEntropyLoss(axis=-1, ignore_index=1, empty="zero"),
        L.WeightedLoss({"a": L.MSELoss(), "b": L.L1Loss()}, {"a": 0.25}),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_the_specification_of_a_loss_holds_its_settings(loss: L.Loss, tmp_path: Path) -> None:
    from lossbridge import dump

    dump(loss.spec, tmp_path / "loss.json")
    again = L.compile(tmp_path / "loss.json")
    x = torch.linspace(-1, 2, 15).reshape(5, 3)
    labels = torch.tensor([0, 1, 2, 1, 0])
    inputs = {
        n: labels if kind.dtype == "int" else x * (1 + 0.5 * place)
        for place, (n, kind) in enumerate(loss.spec.inputs.items())
    }
    given = inputs
    if loss.combination is not None:
        a, b, c, d = inputs.values()
        given = {"a": (a, b), "b": (c, d)}
    torch.testing.assert_close(again(**inputs), loss(**given), rtol=3e-7, atol=0)
    assert again.spec == loss.spec
