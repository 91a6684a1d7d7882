"""What a specification may hold beside numbers: default arrays, and the place of the class axis."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from lossbridge import dumps, loads
from lossbridge.catalogue.classification import cross_entropy
from lossbridge.catalogue.regression import mse
from lossbridge.errors import SpecError
from lossbridge.frontdoor import bind
from lossbridge.kinds import Kind
from lossbridge.spec import Param, Spec

WEIGHTS = (1.0, 2.0, 3.0)


def weighted(**changes: object) -> Spec:
    spec = cross_entropy.spec
    params = {**spec.params, "weight": Param(spec.params["weight"].kind, WEIGHTS)}
    return msgspec.structs.replace(spec, params=params, **changes)


def test_an_array_default_survives_writing_and_counts_in_the_hash() -> None:
    spec = weighted()
    again = loads(dumps(spec))
    assert again == spec
    assert again.hash == spec.hash != cross_entropy.spec.hash
    assert hash(again.params["weight"]) == hash(spec.params["weight"])


def test_an_array_default_is_bound_as_an_array() -> None:
    bound = bind(weighted(), "torch", {})
    np.testing.assert_array_equal(bound.arrays["weight"], WEIGHTS)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([], "wrong_type"),
        ([[1.0, 2.0]], "wrong_type"),
        ([1.0, [2.0]], "wrong_type"),
        ([1.0, "2"], "wrong_type"),
        ([1.0, True], "wrong_type"),
        ([1.0, -1.0], "domain"),
        ([1.0] * 65537, "too_many"),
    ],
)
def test_a_wrong_array_default_is_refused(value: object, code: str) -> None:
    data = json.loads(dumps(cross_entropy.spec))
    data["params"]["weight"]["value"] = value
    with pytest.raises(SpecError) as found:
        loads(json.dumps(data))
    assert found.value.code == code


def test_a_scalar_parameter_takes_no_array() -> None:
    with pytest.raises(SpecError, match="it is a number"):
        Param(Kind.parse("positive"), (1.0, 2.0))


def test_the_place_of_the_class_axis_survives_writing_and_counts_in_the_hash() -> None:
    spec = weighted(axis=1)
    again = loads(dumps(spec))
    assert again.axis == 1
    assert again.hash == spec.hash != weighted().hash
    assert bind(again, "jax", {}).axis == 1
    assert bind(again, "jax", {"axis": -1}).axis == -1


@pytest.mark.parametrize(
    ("axis", "code"),
    [(True, "wrong_type"), ("1", "wrong_type"), (16, "domain"), (1.5, "wrong_type")],
)
def test_a_wrong_axis_is_refused(axis: object, code: str) -> None:
    data = {**json.loads(dumps(cross_entropy.spec)), "axis": axis}
    with pytest.raises(SpecError) as found:
        loads(json.dumps(data))
    assert found.value.code == code


def test_an_axis_without_a_class_axis_is_refused() -> None:
    with pytest.raises(SpecError, match="leave axis out"):
        msgspec.structs.replace(mse.spec, axis=1)
