"""Numbers outside the domain of their kind: an error where they can be seen, NaN elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from doors import Door, Result
from samples import Sample, every

from lossbridge.errors import ArgumentError, DomainError
from lossbridge.kinds import Kind
from lossbridge.passes.enclose import bounded
from lossbridge.plan import enclosed_inputs
from lossbridge.spec import Spec

OUTSIDE = {
    "probability": (-0.1, 1.1, 25.0),
    "simplex": (-0.1, 1.1),
    "non_negative": (-0.5, -3.0),
    "positive": (0.0, -3.0),
    "log_probability": (0.1,),
    "binary": (2.0, 0.5, -1.0),
    "sign": (0.0, 0.5, 2.0),
}
SAMPLES = every()


def settled(spec: Spec, s: Sample) -> tuple[str, ...]:
    """The real inputs whose domains bind; test_labels.py has the others."""
    numbers = {**{n: p.value for n, p in spec.params.items()}, **s.settings}
    plain = ((n, v) for n, v in numbers.items() if n in spec.params and not isinstance(v, tuple))
    return tuple(n for n in enclosed_inputs(spec, tuple(plain)) if spec.inputs[n].dtype == "real")


ENCLOSED = [(s, n) for s in SAMPLES for n in settled(s.spec, s)]
FREE = [
    (s, n)
    for s in SAMPLES
    for n, kind in s.spec.inputs.items()
    if bounded(kind) and n not in settled(s.spec, s)
]
by_input = pytest.mark.parametrize(("s", "name"), ENCLOSED, ids=lambda p: getattr(p, "id", p))


def spoilt(s: Sample, name: str, number: float) -> Sample:
    x = s.inputs[name].copy()
    x.reshape(-1)[0] = number
    return s.given(**{name: x})


def run(door: Door, s: Sample, mode: str = "eager", **call: np.ndarray) -> Result:
    loss = door.make(s.class_, **s.settings)
    return door.run(loss, s.inputs, s.real, mode, weights=s.weights, **call)


def test_domains_bind_where_the_loss_means_nothing_beyond() -> None:
    """And where a loss is linear in a target they do not: soft labels may be any number."""
    enclosed = {(s.id, n) for s, n in ENCLOSED}
    free = {(s.id, n) for s, n in FREE}
    assert {("bce@1", "prediction"), ("bce@1", "target"), ("gaussian_nll@1", "var")} <= enclosed
    assert {("dice@1", "prediction"), ("hinge@1", "target"), ("msle@1", "target")} <= enclosed
    assert {("bce_with_logits@1", "target"), ("cross_entropy_probabilities@1", "target")} <= free
    assert {("focal_probabilities@1", "target"), ("poisson_nll@1", "target")} <= free


@by_input
def test_it_is_an_error_in_eager_mode_that_names_the_input(
    door: Door, s: Sample, name: str
) -> None:
    kind = s.spec.inputs[name]
    for number in OUTSIDE[kind.name]:
        with pytest.raises(DomainError, match=rf"{name} is {kind.name}.* {number:g} was given"):
            run(door, spoilt(s, name, number))


@by_input
def test_it_is_nan_in_value_and_gradients_where_it_cannot_be_seen(
    door_mode: tuple[Door, str], s: Sample, name: str
) -> None:
    door, mode = door_mode
    if mode == "eager":
        pytest.skip("seen")
    loss = door.make(s.class_, **s.settings)
    function = door.function(loss, s.real, mode, s.weights)
    assert np.isfinite(function(**s.inputs).value).all()
    for number in OUTSIDE[s.spec.inputs[name].name]:
        found = function(**spoilt(s, name, number).inputs)
        assert np.isnan(found.value).all()
        for other, gradient in found.gradients.items():
            assert np.isnan(gradient.reshape(-1)[0]), (number, other)


@by_input
def test_what_a_mask_hides_may_lie_anywhere(
    door_mode: tuple[Door, str], s: Sample, name: str
) -> None:
    door, mode = door_mode
    if "batch" not in s.spec.inputs[name].axes[0]:
        pytest.skip("no samples to mask")
    mask = np.arange(len(s.inputs[name])) > 0
    loss = door.make(s.class_, **s.settings)
    function = door.function(loss, s.real, mode, s.weights)
    wanted = function(**s.inputs, mask=mask)
    for number in OUTSIDE[s.spec.inputs[name].name]:
        found = function(**spoilt(s, name, number).inputs, mask=mask)
        np.testing.assert_array_equal(found.value, wanted.value)
        for other, gradient in found.gradients.items():
            np.testing.assert_array_equal(gradient, wanted.gradients[other])


@by_input
def test_a_nan_is_no_error_and_shows(door_mode: tuple[Door, str], s: Sample, name: str) -> None:
    """In what only selects too: a NaN is no label."""
    door, mode = door_mode
    found = run(door, spoilt(s, name, np.nan), mode)
    assert np.isnan(found.value).all()
    for gradient in found.gradients.values():
        assert np.isnan(gradient.reshape(-1)[0])


@pytest.mark.parametrize(("s", "name"), FREE, ids=lambda p: getattr(p, "id", p))
def test_where_the_loss_is_linear_the_formula_holds_beyond(
    door_mode: tuple[Door, str], s: Sample, name: str
) -> None:
    """At 1.5 the value is that of 1, and half as much again as from 0.5 to 1."""
    door, mode = door_mode
    loss = door.make(s.class_, **s.settings)
    function = door.function(loss, (), mode, s.weights)
    half, one, more = (function(**spoilt(s, name, t).inputs).value for t in (0.5, 1.0, 1.5))
    np.testing.assert_allclose(more - one, one - half, rtol=1e-4, atol=1e-6)


def test_soft_targets_need_not_sum_to_1(door: Door) -> None:
    """Rounded, smoothed, or cut off: cross-entropy takes them as they are."""
    for s in SAMPLES:
        for name, kind in s.spec.inputs.items():
            if kind.name == "simplex":
                target = np.round(s.inputs[name], 1)
                assert (abs(target.sum(-1) - 1.0) > 0.05).any()
                assert np.isfinite(run(door, s.given(**{name: target})).value).all()


@pytest.mark.parametrize("extra", [{}, {"ignore_background": True}])
def test_dice_without_an_activation_takes_distributions_alone(door: Door, extra: dict) -> None:
    """As optax does, which raises; one channel of probabilities is none either."""
    target = np.eye(3, dtype=np.float32)[np.array([[0, 1, 2, 1], [2, 2, 0, 1]])]
    right = (0.8 * target + 0.2 / 3).astype(np.float32)
    for name in ("dice_loss", "multiclass_generalized_dice_loss"):
        loss = door.L.native(f"optax.losses.{name}", apply_softmax=False, **extra)
        given = {"prediction": right, "target": target}
        assert np.isfinite(door.run(loss, given).value).all()
        for wrong in (0.5 * right, right + 0.01, right[..., :1]):
            given = {"prediction": wrong, "target": target[..., : wrong.shape[-1]]}
            with pytest.raises(DomainError, match="sum to 1"):
                door.run(loss, given)
        half = {"prediction": right.astype(np.float16), "target": target}
        assert np.isfinite(door.run(loss, half).value).all()  # off by rounding


def test_dice_without_an_activation_is_nan_where_it_is_compiled(
    door_mode: tuple[Door, str],
) -> None:
    door, mode = door_mode
    if mode == "eager":
        pytest.skip("seen")
    target = np.eye(3, dtype=np.float32)[np.array([[0, 1, 2, 1], [2, 2, 0, 1]])]
    loss = door.L.native("optax.losses.dice_loss", apply_softmax=False)
    function = door.function(loss, ("prediction",), mode)
    right = function(prediction=(0.8 * target + 0.2 / 3).astype(np.float32), target=target)
    assert np.isfinite(right.value).all()
    wrong = function(prediction=0.5 * target, target=target)
    assert np.isnan(wrong.value).all()
    assert np.isnan(wrong.gradients["prediction"]).all()


def test_an_ignored_class_needs_labels(door: Door) -> None:
    """torch raises where targets are probabilities, which ours would leave unheard."""
    logits = np.zeros((2, 3), np.float32)
    target = np.full((2, 3), 1.0 / 3.0, np.float32)
    native = door.L.native("torch.nn.CrossEntropyLoss", ignore_index=1)
    for loss in (native, door.L.CrossEntropyLoss(ignore_index=1)):
        with pytest.raises(ArgumentError, match="ignore_index=1"):
            door.run(loss, {"logits": logits, "target": target})
    harmless = door.L.native("torch.nn.CrossEntropyLoss", ignore_index=-1)
    found = door.run(harmless, {"logits": logits, "target": target})
    np.testing.assert_allclose(found.value, np.log(3.0), rtol=1e-6)


NATIVE = (
    ("torch.nn.BCELoss", {"prediction": [0.2, 1.1], "target": [1.0, 0.0]}),
    ("torch.nn.BCELoss", {"prediction": [0.2, 0.9], "target": [1.0, -0.1]}),
    ("torch.nn.GaussianNLLLoss", {"prediction": [0.2, 1], "target": [1, 0], "var": [1.0, -1e-3]}),
)


@pytest.mark.parametrize(("name", "inputs"), NATIVE)
def test_what_torch_refuses_a_meaning_refuses_on_every_platform(
    door: Door, name: str, inputs: dict[str, list[float]]
) -> None:
    torch = pytest.importorskip("torch")
    original = getattr(torch.nn, name.rpartition(".")[2])()
    with pytest.raises((RuntimeError, ValueError)):
        original(*(torch.tensor(x, dtype=torch.float32) for x in inputs.values()))
    arrays = {n: np.array(x, np.float32) for n, x in inputs.items()}
    with pytest.raises(DomainError):
        door.run(door.L.native(name), arrays)


def test_a_kind_without_ends_binds_nothing() -> None:
    assert not bounded(Kind.parse("real[*batch]"))
    assert not bounded(Kind.parse("index(classes)[*batch]"))
    assert bounded(Kind.parse("positive[*batch]"))
