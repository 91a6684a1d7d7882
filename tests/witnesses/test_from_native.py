"""A live object of every built-in, carried to every platform by what its attributes say."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from typing import Any

import numpy as np
import originals
import pytest
import test_keras_losses
import test_optax_losses
import test_torch_nn
from originals import Case
from test_completeness import public

import lossbridge
from lossbridge.errors import ArgumentError
from lossbridge.witnesses import find
from lossbridge.witnesses.witness import FRAMEWORKS

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deprecated", "ignore:size_average and reduce", "ignore:reduction. 'mean' divides"
)
SILENT = {"name", "dtype"}
FORMED = {"probabilities", "labels of two axes"}  # another overload, or shape, than the first


def set_apart(case: Case) -> bool:
    """Whether arguments that count are not their defaults."""
    return bool(set(case.arguments) - SILENT)


def usual(case: Case) -> bool:
    plain = {"benign", "hard labels", "another axis", "probabilities", "a mask", "ignored: a part"}
    return not case.call and (case.at in plain) and case.at not in FORMED


EVERY = [*test_torch_nn.BENIGN, *test_keras_losses.CASES, *test_optax_losses.CASES]
LABELLED = "optax.losses.softmax_cross_entropy_with_integer_labels"
CASES = [c for c in EVERY if usual(c) or (c.name == LABELLED and c.at == "another axis")]
# Their weights, or functions, are given at each call: tested below.
OTHERS = {
    "torch.nn.LinearCrossEntropyLoss",
    "optax.losses.make_fenchel_young_loss",
}


def live(case: Case) -> Any:
    """The framework's own object, as a user has it."""
    module, _, attribute = case.name.rpartition(".")
    if module != "optax.losses":
        return originals.original(case.name, case.arguments)
    function = getattr(importlib.import_module(module), attribute)
    return functools.partial(function, **case.arguments) if case.arguments else function


def check(case: Case, platform: str) -> None:
    wanted = originals.of_original(case)
    spec = lossbridge.from_native(live(case))
    loss = importlib.import_module(f"lossbridge.{platform}").compile(spec)
    names = dict(zip(case.inputs, spec.inputs, strict=True))
    given = {names[n]: x for n, x in case.inputs.items()}
    found = originals.EVALUATE[platform](lambda inputs: loss(**inputs), given, ())
    wanted = originals.Answer(wanted.value, {names[n]: g for n, g in wanted.gradients.items()})
    originals.assert_same(found, wanted, case)


FIRST = {case.name: case for case in reversed(CASES)}
FIRST |= {case.name: case for case in reversed(CASES) if set_apart(case)}


@pytest.mark.parametrize("case", FIRST.values(), ids=str)
def test_a_live_object_is_the_same_function_in_torch(case: Case) -> None:
    check(case, "torch")


# Three of each class at most, of which two or more are set apart where arguments exist.
SOME = [c for n in FIRST for c in sorted((c for c in CASES if c.name == n), key=set_apart)[-3:]]


@pytest.mark.slow  # 400 compilations
@pytest.mark.parametrize("platform", originals.PLATFORMS)
@pytest.mark.parametrize("case", SOME, ids=str)
def test_a_live_object_is_the_same_function_everywhere(case: Case, platform: str) -> None:
    check(case, platform)


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_every_public_loss_is_tried_with_two_settings_or_more(module: str) -> None:
    counted = Counter(case.name for case in CASES if set_apart(case))
    for name in public(module) - OTHERS:
        arguments = set(find(name).signature.parameters) - SILENT
        assert name in FIRST, name
        assert counted[name] >= 2 or not arguments, name


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_every_argument_is_read_off_the_object(module: str) -> None:
    """Two objects with another argument have another meaning, for every argument that counts."""
    for name in public(module) - OTHERS:
        for case in CASES:
            if case.name == name and set_apart(case):
                # Live objects of Keras are made to compute in float64.
                wide = {"dtype": "float64"} if module == "keras.losses" else {}
                built = find(name).meaning(**wide | dict(case.arguments)).spec
                assert lossbridge.from_native(live(case)) == built, str(case)


def test_functions_and_weights_of_its_own_are_read_too() -> None:
    import optax
    import torch

    def distance(u: Any, v: Any) -> Any:
        return ((u - v) ** 2).sum(-1)

    theirs = torch.nn.TripletMarginWithDistanceLoss(
        distance_function=distance, margin=0.5, swap=True
    )
    spec = lossbridge.from_native(theirs)
    loss = importlib.import_module("lossbridge.torch").compile(spec)
    rng = np.random.default_rng(3)
    inputs = {n: torch.tensor(rng.normal(size=(4, 3))) for n in spec.inputs}
    assert torch.equal(
        loss(**inputs, distance_function=distance), theirs(*inputs.values())
    ) or torch.isclose(
        loss(**inputs, distance_function=distance), theirs(*inputs.values()), rtol=1e-12
    )
    linear = torch.nn.LinearCrossEntropyLoss(5, 3, bias=True, label_smoothing=0.1)
    found = lossbridge.from_native(linear)
    assert (
        found
        == find("torch.nn.LinearCrossEntropyLoss")
        .meaning(5, 3, bias=True, label_smoothing=0.1)
        .spec
    )
    # What a closure holds cannot be read off it.
    with pytest.raises(ArgumentError, match="no loss of torch"):
        lossbridge.from_native(optax.losses.make_fenchel_young_loss(lambda x: x.max(-1)))


def test_what_computes_something_else_is_refused() -> None:
    import torch

    class Mine(torch.nn.HuberLoss):
        pass

    for given in (Mine(), 3, "torch.nn.HuberLoss()", torch.nn.HuberLoss, torch.nn.Linear(2, 2)):
        with pytest.raises(ArgumentError):
            lossbridge.from_native(given)
