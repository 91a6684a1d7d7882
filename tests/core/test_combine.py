"""Losses made of losses are specifications like any other."""

from __future__ import annotations

import pytest

from lossbridge import combine, frontdoor
from lossbridge.errors import ArgumentError
from lossbridge.plan import Options
from lossbridge.spec import dumps, loads

FORMS = frontdoor.forms()


def losses(**settings: object) -> dict[str, frontdoor.Bound]:
    return {
        "depth": frontdoor.bind(FORMS["HuberLoss"], "torch", {"delta": 2.0}),
        "label": frontdoor.bind(FORMS["CrossEntropyLoss"], "torch", settings),
    }


@pytest.mark.parametrize("name", sorted(combine.COMBINATIONS))
def test_a_combination_survives_its_file(name: str) -> None:
    spec = combine.COMBINATIONS[name].build(losses()).specs[0]
    again = loads(dumps(spec))
    assert again == spec
    assert again.hash == spec.hash


@pytest.mark.parametrize("name", sorted(combine.COMBINATIONS))
def test_each_loss_is_cut_out_and_keeps_its_settings(name: str) -> None:
    bound = combine.COMBINATIONS[name].build(losses(label_smoothing=0.1))
    calls = bound.plan(0, Options(), frozenset()).calls
    assert [(c.op, c.port) for c in calls] == [("use", "depth"), ("use", "label")]
    assert [c.passed for c in calls] == [
        ("depth_prediction", "depth_target"),
        ("label_logits", "label_labels"),
    ]
    used = bound.specs[0].uses
    assert used["depth"].params["delta"].value == 2.0
    assert used["label"].params["label_smoothing"].value == 0.1
    assert used["label"].reduction.normalizer == "weights"


def test_groups_of_axes_of_different_rank_never_meet() -> None:
    spec = combine.weighted(losses()).specs[0]
    axes = {axis for kind in spec.inputs.values() for axis in kind.axes}
    assert {"*depth_batch", "*label_batch"} <= axes


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: combine.weighted({}), "mapping of names"),
        (lambda: combine.weighted([1]), "mapping of names"),
        (lambda: combine.weighted({"a": 3}), "must be a loss"),
        (lambda: combine.weighted({"a b": losses()["depth"]}), "not a name"),
        (lambda: combine.weighted(losses(), {"height": 1.0}), "height"),
        (lambda: combine.curriculum_weighted(losses(), {"depth": (0, 1, 5, 5)}), "begin < end"),
        (lambda: combine.curriculum_weighted(losses(), {"x": (0, 1, 0, 1)}), "names x"),
        (
            lambda: combine.weighted(
                {"a": frontdoor.bind(FORMS["MSELoss"], "torch", {"reduction": "none"})}
            ),
            "adds single numbers",
        ),
        (
            lambda: combine.weighted(
                {"a": frontdoor.bind(FORMS["MSELoss"], "torch", {"normalizer": "external"})}
            ),
            "external",
        ),
    ],
)
def test_what_cannot_combine_says_so(build: object, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        build()  # type: ignore[operator]
