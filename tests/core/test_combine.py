"""Losses made of losses are specifications like any other."""

from __future__ import annotations

import pytest

from lossbridge import combine, frontdoor
from lossbridge.errors import ArgumentError, UnsupportedError
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
    assert used["label"].reduction.normalizer == "counts"


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
        (lambda: combine.weighted({"": losses()["depth"]}), "1 to 64 characters"),
        (lambda: combine.weighted({3: losses()["depth"]}), "1 to 64 characters"),
        (lambda: combine.weighted(losses(), {"height": 1.0}), "height"),
        (lambda: combine.curriculum_weighted(losses(), {"depth": (0, 1, 5, 5)}), "begin < end"),
        (lambda: combine.curriculum_weighted(losses(), {"x": (0, 1, 0, 1)}), "names 'x'"),
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


def test_a_loss_with_classes_of_its_own_combines() -> None:
    arc = frontdoor.bind(FORMS["ArcFaceLoss"], "torch", {"num_classes": 3, "embedding_size": 4})
    spec = combine.weighted({"face": arc}).specs[0]
    assert spec.inputs["face_labels"].of == "face_classes"
    assert loads(dumps(spec)) == spec
    with pytest.raises(UnsupportedError, match="centres"):
        frontdoor.check_uses(frontdoor.as_form(spec))


def test_coefficients_are_part_of_the_specification() -> None:
    spec = combine.weighted(losses(), {"depth": 0.25}).specs[0]
    assert {n: p.value for n, p in spec.params.items()} == {
        "depth_coefficient": 0.25,
        "label_coefficient": 1.0,
    }
    with pytest.raises(ArgumentError, match=r"coefficients\['depth'\] is a number"):
        combine.weighted(losses(), {"depth": "half"})


def test_the_signature_of_a_combination_names_its_arguments() -> None:
    assert str(combine.COMBINATIONS["WeightedLoss"].signature) == "(losses, coefficients=None)"
