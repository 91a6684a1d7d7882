"""``reduce`` takes the same on every door; ``repr``, ``spec`` and ``source`` say the same."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from frameworks import PLATFORMS, Framework, framework

from lossbridge import dumps, loads
from lossbridge.errors import ArgumentError
from lossbridge.frontdoor import forms

VALUES = np.array([1.0, 2.0, 4.0, 8.0])
MASK, WEIGHTS = np.array([True, True, False, True]), np.array([1.0, 0.5, 2.0, 0.0])


@pytest.fixture(params=PLATFORMS)
def side(request: pytest.FixtureRequest) -> Framework:
    return framework(request.param)


def test_reduce_has_one_signature() -> None:
    names = [list(inspect.signature(framework(p).module.reduce).parameters) for p in PLATFORMS]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 3.75),
        ({"reduction": "sum"}, 15.0),
        ({"reduction": "none"}, [1.0, 2.0, 4.0, 8.0]),
        ({"mask": MASK}, 11 / 3),
        ({"where": MASK}, 11 / 3),
        ({"sample_weight": WEIGHTS}, 10 / 4),
        ({"weights": WEIGHTS}, 10 / 4),
        ({"weights": WEIGHTS, "normalizer": "weights"}, 10 / 3.5),
        ({"weights": WEIGHTS, "denominator": "weights"}, 10 / 3.5),
        ({"mask": MASK, "sample_weight": WEIGHTS, "normalizer": "weights"}, 2 / 1.5),
        ({"normalizer": "external", "normalizer_count": 5.0}, 3.0),
        ({"normalizer_count": 5.0}, 3.0),
        ({"denominator": 5.0}, 3.0),
        ({"mask": MASK, "denominator": 2.0}, 5.5),
    ],
)
def test_reduce_divides_by_what_it_is_told(
    side: Framework, given: dict[str, Any], expected: Any
) -> None:
    given = {
        key: side.array(x, str(x.dtype).replace("float64", "float32"))
        if isinstance(x, np.ndarray)
        else x
        for key, x in given.items()
    }
    found = np.asarray(side.module.reduce(side.array(VALUES), **given))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_two_names_of_one_argument_are_refused(side: Framework) -> None:
    values, mask = side.array(VALUES), side.array(MASK, "bool")
    for given in (
        {"mask": mask, "where": mask},
        {"weights": values, "sample_weight": values},
        {"normalizer": "batch", "denominator": "weights"},
        {"normalizer_count": 1.0, "denominator": 2.0},
    ):
        with pytest.raises(ArgumentError, match="which are one"):
            side.module.reduce(values, **given)


# --- what a loss says of itself ------------------------------------------------------------------

MADE: dict[str, Any] = {
    "MSELoss()": lambda m, a: m.MSELoss(),
    "MSELoss(reduction='sum')": lambda m, a: m.MSELoss(reduction="sum"),
    "FocalLoss(gamma=3.0)": lambda m, a: m.FocalLoss(3),
    "HuberLoss(delta=0.5, reduction='none')": lambda m, a: m.HuberLoss(reduction="none", delta=0.5),
    "CrossEntropyLoss(label_smoothing=0.1, axis=-1)": lambda m, a: m.CrossEntropyLoss(
        axis=-1, label_smoothing=0.1
    ),
    "CrossEntropyLoss(weight=[0.1, 2.0, 3.0], ignore_index=1)": lambda m, a: m.CrossEntropyLoss(
        ignore_index=1, weight=a([0.1, 2.0, 3.0])
    ),
    "CrossEntropyLoss(weight=[0.1, 2.0])": lambda m, a: m.CrossEntropyLoss([0.1, 2.0]),
    "ArcFaceLoss(num_classes=3, embedding_size=2)": lambda m, a: m.ArcFaceLoss(
        embedding_size=2, num_classes=3
    ),
    "WeightedLoss(losses={'cls': FocalLoss(gamma=1.0), 'a b': MSELoss()}, "
    "coefficients={'cls': 0.5})": lambda m, a: m.WeightedLoss(
        {"cls": m.FocalLoss(gamma=1), "a b": m.MSELoss()}, {"cls": 0.5}
    ),
    "AttentionWeightedLoss(losses={'a': L1Loss()}, temperature=2.0)": lambda m, a: (
        m.AttentionWeightedLoss({"a": m.L1Loss()}, 2.0)
    ),
}


@pytest.mark.parametrize("text", MADE)
def test_a_loss_is_printed_as_the_call_that_makes_it(side: Framework, text: str) -> None:
    loss = MADE[text](side.module, side.array)
    assert repr(loss) == text
    again = eval(text, vars(side.module).copy())
    assert repr(again) == text
    assert again.spec == loss.spec


def test_a_compiled_loss_is_printed_under_its_name(side: Framework) -> None:
    m = side.module
    assert repr(m.compile(m.FocalLoss().spec, gamma=1.0)) == "FocalLoss(gamma=1.0)"


def test_many_class_weights_are_printed_as_their_shape(side: Framework) -> None:
    loss = side.module.CrossEntropyLoss(weight=side.array(np.ones(1000)))
    assert repr(loss) == "CrossEntropyLoss(weight=<float32[1000]>)"


@pytest.mark.parametrize("text", MADE)
def test_the_specification_is_the_same_on_every_door(text: str) -> None:
    made = [MADE[text](framework(p).module, framework(p).array) for p in PLATFORMS]
    first, *rest = (loss.specs for loss in made)
    assert all(specs == first for specs in rest)
    assert all(loss.specs[0] == loss.spec for loss in made)
    assert all(loads(dumps(spec)) == spec for spec in first)


@pytest.mark.parametrize("name", sorted(forms()))
def test_every_loss_shows_its_source(side: Framework, name: str) -> None:
    sizes = dict.fromkeys(forms()[name].sizes, 3)
    loss = getattr(side.module, name)(**sizes)
    assert "def " in loss.source
    assert len(loss.specs) == len(forms()[name].definitions)


def test_a_combination_shows_its_source(side: Framework) -> None:
    m = side.module
    assert "def " in m.WeightedLoss({"cls": m.MSELoss(), "b": m.L1Loss()}).source
