"""A call: in every mode, by position, by name and by the framework's own names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from doors import Door, Result
from samples import Sample, every

from lossbridge import frontdoor
from lossbridge.errors import ArgumentError

each = pytest.mark.parametrize("s", every(), ids=lambda s: s.id)


def called(
    door: Door, s: Sample, wrt: tuple[str, ...] = (), mode: str = "eager", **call: Any
) -> Result:
    loss = door.make(s.class_, **s.settings)
    return door.run(loss, s.inputs, wrt, mode, weights=s.weights, **call)


def plainly(door: Door, s: Sample, *args: Any, **kwargs: Any) -> Any:
    """The value of a call as it is written, with these arguments."""
    loss = door.make(s.class_, **s.settings)
    extra = door.set_weights(loss, s.weights)
    tensors = [door.tensor(x) for x in args]
    return door.array(loss(*tensors, **door.tensors(kwargs), **extra))


@each
def test_every_mode_gives_one_value_and_one_gradient(door: Door, s: Sample) -> None:
    wrt = (*s.real, *s.weights)
    plain = called(door, s, wrt)
    assert np.isfinite(plain.value)
    for mode in door.modes[1:]:
        other = called(door, s, wrt, mode)
        np.testing.assert_allclose(other.value, plain.value, rtol=2e-6)
        for name in wrt:
            size = np.abs(plain.gradients[name]).max()
            np.testing.assert_allclose(
                other.gradients[name], plain.gradients[name], rtol=1e-5, atol=1e-6 * size
            )


@each
def test_positions_names_and_the_frameworks_names_are_one_call(door: Door, s: Sample) -> None:
    by_name = plainly(door, s, **s.inputs)
    order = frontdoor.positional_order(s.spec, door.name)
    if order:
        np.testing.assert_array_equal(plainly(door, s, *(s.inputs[n] for n in order)), by_name)
        first, *rest = order
        mixed = plainly(door, s, s.inputs[first], **{n: s.inputs[n] for n in rest})
        np.testing.assert_array_equal(mixed, by_name)
    own = {name: alias for alias, name in frontdoor.aliases(s.spec, door.name).items()}
    theirs = {own.get(name, name): x for name, x in s.inputs.items()}
    np.testing.assert_array_equal(plainly(door, s, **theirs), by_name)


@each
def test_a_missing_input_is_named_with_the_call_that_works(door: Door, s: Sample) -> None:
    first = frontdoor.forms()[s.class_].specs[0]  # of several, whose names a message uses
    works = re.escape(frontdoor.call_text(first, door.name))
    for name, public in zip(s.inputs, first.inputs, strict=True):
        rest = {n: x for n, x in s.inputs.items() if n != name}
        with pytest.raises(ArgumentError, match=f"without .*{public}.*write {works}"):
            plainly(door, s, **rest)


@each
def test_an_argument_too_many_is_named_with_the_call_that_works(door: Door, s: Sample) -> None:
    with pytest.raises(ArgumentError, match=r"sample_weigth.*did you mean sample_weight\?.*write"):
        plainly(door, s, **s.inputs, sample_weigth=np.ones(3, np.float32))
    first = next(iter(s.inputs.values()))
    with pytest.raises(ArgumentError, match=r"positional.*write"):
        plainly(door, s, *([first] * (len(s.inputs) + 2)))  # Keras takes sample_weight third


@each
def test_the_unreduced_value_adds_up_to_the_sum(door: Door, s: Sample) -> None:
    none = called(door, s.made(reduction="none"))
    total = called(door, s.made(reduction="sum"))
    size = np.abs(none.value).sum()
    np.testing.assert_allclose(total.value, none.value.sum(), rtol=2e-6, atol=1e-6 * size)


@each
def test_settings_are_read_back_as_attributes(door: Door, s: Sample) -> None:
    loss = door.make(s.class_, **s.settings)
    for name, value in s.settings.items():
        assert getattr(loss, name) == value
    assert loss.reduction == "mean"
    assert loss.normalizer == s.spec.reduction.normalizer
    for name, parameter in s.spec.params.items():
        if name not in s.settings and not parameter.kind.axes:
            assert getattr(loss, name) == parameter.value


@each
def test_a_loss_shows_its_specification_and_its_source(door: Door, s: Sample) -> None:
    loss = door.make(s.class_, **s.settings)
    assert loss.spec.loss in {spec.loss for spec in frontdoor.forms()[s.class_].specs}
    compile(loss.source, "<source>", "exec")
    assert f"{s.class_}(" in repr(loss)
