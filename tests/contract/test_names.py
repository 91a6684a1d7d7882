"""Names are the user's data: of the losses in a combination, and of what a specification has."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from frameworks import PLATFORMS, Framework, framework, numbers

from lossbridge import dumps, loads
from lossbridge.combine import COMBINATIONS
from lossbridge.errors import ArgumentError
from lossbridge.spec import Param, Spec, Weight

# Words of Python, of the frameworks' objects, of the language, of a call; and no words at all.
NAMES = [
    *("cls", "self", "lambda", "type", "train", "eval", "float", "forward", "weight", "losses"),
    *("bound", "mean", "sum", "value", "not", "v1", "scores", "attention", "mask", "name", "call"),
    *("größe", "a b", "box/giou", "head.box", "2d", "__init__"),
]
ALL = [*NAMES, "params", "training", "step"]
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))


@pytest.fixture(params=PLATFORMS)
def side(request: pytest.FixtureRequest) -> Framework:
    return framework(request.param)


def losses(side: Framework, names: list[str]) -> dict[str, Any]:
    return {
        n: side.module.MSELoss() if k % 2 else side.module.HuberLoss() for k, n in enumerate(names)
    }


def further(side: Framework, kind: str, loss: Any, count: int) -> dict[str, Any]:
    """What a combination's call takes beside its losses' inputs."""
    if kind == "AttentionWeightedLoss":
        return {"scores": side.array(np.linspace(0, 1, count))}
    if kind == "CurriculumWeightedLoss":
        return {"step": 3}
    if kind == "UncertaintyWeightedLoss" and side.name == "jax":
        import jax

        return {"params": loss.init(jax.random.key(0))}
    return {}


@pytest.mark.parametrize("kind", sorted(COMBINATIONS))
def test_a_loss_in_a_combination_may_have_any_name(side: Framework, kind: str) -> None:
    names = ALL[:14] if kind == "CurriculumWeightedLoss" else ALL
    loss = getattr(side.module, kind)(losses(side, names))
    given = dict.fromkeys(names, side.pair(side.array(X), side.array(Y)))
    rest = further(side, kind, loss, len(names))
    terms = numbers(loss.terms(given, **rest))
    assert list(terms) == names
    d = np.abs(X - Y)
    wanted = {0: np.where(d < 1, d * d / 2, d - 0.5).mean(), 1: (d * d).mean()}
    np.testing.assert_allclose(
        list(terms.values()), [wanted[k % 2] for k in range(len(names))], rtol=1e-6
    )
    shares = numbers(loss.term_coefficients(given, **rest))
    total = sum(terms[n] * shares[n] for n in names)
    np.testing.assert_allclose(float(loss(given, **rest)), total, rtol=1e-6)
    assert loads(dumps(loss.spec)) == loss.spec


def test_words_of_python_are_names_of_keyword_arguments_too(side: Framework) -> None:
    names = ["self", "cls", "lambda", "type", "args", "kwargs"]
    loss = side.module.WeightedLoss(losses(side, names), dict.fromkeys(names, 0.5))
    pair = side.pair(side.array(X), side.array(Y))
    given = dict.fromkeys(names, pair)
    np.testing.assert_allclose(float(loss(**given)), float(loss(given)))
    np.testing.assert_allclose(
        float(
            loss(
                **dict.fromkeys(names[1:], pair), self_prediction=x_of(side), self_target=y_of(side)
            )
        ),
        float(loss(given)),
    )


def x_of(side: Framework) -> Any:
    return side.array(X)


def y_of(side: Framework) -> Any:
    return side.array(Y)


def test_terms_come_out_of_compiled_functions(side: Framework) -> None:
    loss = side.module.WeightedLoss(losses(side, ["type", "head.box"]), {"type": 3.0})
    given = dict.fromkeys(["type", "head.box"], side.pair(side.array(X), side.array(Y)))
    found = numbers(side.graph(lambda: loss.terms(given))())
    assert found == pytest.approx(numbers(loss.terms(given)), rel=1e-6)


def test_terms_of_a_combination_in_a_combination_come_under_its_name(side: Framework) -> None:
    m = side.module
    inner = m.WeightedLoss({"cls": m.MSELoss(), "box": m.L1Loss()}, {"cls": 2.0})
    loss = m.WeightedLoss({"first": inner, "rest": m.HuberLoss()}, {"first": 0.25})
    pair = side.pair(side.array(X), side.array(Y))
    given: dict[str, Any] = {"first": {"cls": pair, "box": pair}, "rest": pair}
    terms, shares = numbers(loss.terms(**given)), numbers(loss.term_coefficients(**given))
    assert list(terms) == ["first", "first/cls", "first/box", "rest"]
    assert terms["first"] == pytest.approx(2 * terms["first/cls"] + terms["first/box"])
    assert shares == {"first": 0.25, "first/cls": 0.5, "first/box": 0.25, "rest": 1.0}
    flat = {"first_cls": pair, "first_box": pair, "rest": pair}
    np.testing.assert_allclose(float(loss(**flat)), float(loss(**given)))


def test_one_name_in_two_combinations_means_two_losses(side: Framework) -> None:
    m = side.module
    loss = m.WeightedLoss(
        {
            "a": m.WeightedLoss({"x": m.HuberLoss(delta=1.0)}),
            "b": m.WeightedLoss({"x": m.HuberLoss(delta=2.0)}),
        }
    )
    pair = side.pair(side.array(X), side.array(Y))
    expected = float(m.HuberLoss(delta=1.0)(*pair)) + float(m.HuberLoss(delta=2.0)(*pair))
    assert float(loss(a={"x": pair}, b={"x": pair})) == pytest.approx(expected, rel=1e-6)
    assert loads(dumps(loss.spec)) == loss.spec


def test_an_input_goes_to_the_loss_that_has_it(side: Framework) -> None:
    m = side.module
    loss = m.WeightedLoss({"label": m.MSELoss(), "label_soft": m.L1Loss()})
    found = loss(
        label_prediction=x_of(side),
        label_target=y_of(side),
        label_soft_prediction=x_of(side),
        label_soft_target=y_of(side),
    )
    d = np.abs(X - Y)
    assert float(found) == pytest.approx((d * d).mean() + d.mean(), rel=1e-6)


@pytest.mark.parametrize("names", [ALL, ["a/b", "a_b", "a b"], ["label", "label_soft"]])
def test_a_combination_takes_every_input_by_the_name_in_its_specification(
    side: Framework, names: list[str]
) -> None:
    # "a/b" and "a_b" have a_b_prediction and a_b_prediction_2: the specification says whose it is.
    loss = side.module.WeightedLoss(losses(side, names))
    given = {
        n: np.full((4, 3), 1.0 + k // 2) if k % 2 == 0 else np.zeros((4, 3))
        for k, n in enumerate(loss.spec.inputs)
    }
    wanted = [k * k if (k - 1) % 2 else k - 0.5 for k in range(1, len(names) + 1)]
    found = loss(**{n: side.array(x) for n, x in given.items()})
    assert float(found) == pytest.approx(sum(wanted), rel=1e-6)


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_a_combination_and_its_specification_have_the_classes_in_one_place(
    side: Framework, axis: int | None
) -> None:
    # In PyTorch at 1; compiled of loss.spec they were last.
    m = side.module
    loss = m.WeightedLoss({"kind": m.CrossEntropyLoss(axis=axis), "size": m.FocalLoss(axis=axis)})
    at = axis or (1 if side.name == "torch" else -1)
    logits = np.moveaxis(rng.normal(size=(2, 5, 3)), -1, at)
    labels = side.array(rng.integers(0, 3, (2, 5)), "int32" if side.name == "jax" else "int64")
    given = {
        "kind_logits": side.array(logits), "kind_labels": labels,
        "size_logits": side.array(logits[:, ::-1].copy()), "size_labels": labels,
    }  # fmt: skip
    again = m.compile(loads(dumps(loss.spec)))
    assert float(again(**given)) == pytest.approx(float(loss(**given)), rel=1e-6)


def test_a_penalty_in_a_combination_takes_a_tree_as_it_is(side: Framework) -> None:
    m = side.module
    loss = m.WeightedLoss({"fit": m.MSELoss(), "decay": m.L2Penalty(strength=2.0)})
    pair = side.pair(side.array(X), side.array(Y))
    terms = numbers(loss.terms(fit=pair, decay=[side.array([1.0, 2.0]), side.array([3.0])]))
    assert terms["decay"] == pytest.approx(14.0 * 2.0 / 2)
    tree = numbers(loss.terms(fit=pair, decay={"w": side.array([1.0, 2.0])}))
    assert tree["decay"] == pytest.approx(5.0 * 2.0 / 2)


def test_class_weights_stay_in_the_specification_of_a_combination(side: Framework) -> None:
    m = side.module
    loss = m.WeightedLoss({"cls": m.CrossEntropyLoss(weight=[1.0, 2.0, 3.0])})
    (used,) = loss.spec.uses.values()
    assert used.params["weight"].value == (1.0, 2.0, 3.0)


def test_the_specification_says_which_name_each_of_its_losses_has(side: Framework) -> None:
    loss = side.module.WeightedLoss(losses(side, ["cls", "box"]))
    assert list(loss.spec.uses) == ["cls_loss", "box"]
    assert loss.spec.extensions["x-names"] == '{"cls_loss":"cls"}'
    assert list(loss.spec.inputs)[:2] == ["cls_prediction", "cls_target"]
    assert "'cls': HuberLoss()" in repr(loss)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: m.WeightedLoss(), r"needs losses=.*write L.WeightedLoss\(\{'depth'"),
        (lambda m: m.WeightedLoss({}), "mapping of names to losses"),
        (lambda m: m.WeightedLoss({"": m.MSELoss()}), "1 to 64 characters"),
        (lambda m: m.WeightedLoss({0: m.MSELoss()}), "1 to 64 characters"),
        (lambda m: m.WeightedLoss({"a": m.MSELoss}), r"the class MSELoss.*L.MSELoss\(\)"),
        (lambda m: m.WeightedLoss({"a": m.MSELoss()}, {"b": 1.0}), "the losses are 'a'"),
        (lambda m: m.WeightedLoss({"a": m.MSELoss()}, [1.0]), r"coefficients=\{'a': 1.0\}"),
        (lambda m: m.WeightedLoss({"a": m.MSELoss()}, coeficients={}), "did you mean coefficients"),
        (lambda m: m.UncertaintyWeightedLoss(1, 2), "2 positional"),
        (lambda m: m.CurriculumWeightedLoss({"a": m.MSELoss()}, {"a": 1.0}), "begin < end"),
        (lambda m: m.MSELoss().terms(X, Y), r"L.WeightedLoss\("),
    ],
)
def test_what_cannot_be_combined_says_what_can(side: Framework, make: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        make(side.module)


def test_a_wrong_call_of_a_combination_shows_the_call_that_works(side: Framework) -> None:
    m = side.module
    loss = m.WeightedLoss({"cls": m.MSELoss(), "decay": m.L2Penalty()})
    first = ", ".join(side.pair("prediction", "target"))
    works = f"loss({{'cls': ({first}), 'decay': (parameters,)}})"
    for call in (
        lambda: loss(x_of(side)),
        lambda: loss(cls=(x_of(side), y_of(side))),
        lambda: loss(cl=(x_of(side), y_of(side))),
    ):
        with pytest.raises(ArgumentError) as raised:
            call()
        assert works in str(raised.value)
    prediction, target, parameters = x_of(side), y_of(side), [x_of(side)]
    given = {"loss": loss, "prediction": prediction, "target": target, "parameters": parameters}
    assert np.isfinite(float(eval(works, given)))


# --- what a user's own specification has ---------------------------------------------------------


@pytest.mark.parametrize("name", ["type", "float", "forward", "training", "half", "losses", "call"])
def test_weights_and_arrays_of_a_specification_may_be_named_like_a_method(
    side: Framework, name: str
) -> None:
    scaled = loads(
        dumps(
            Spec(
                loss="acme/scaled@1",
                inputs=define_inputs(),
                params={name: Param(kind("real"), 2.0)},
                body=(f"value = {name} * (prediction - target) ** 2",),
                yields="per_element",
            )
        )
    )
    pair = side.pair(side.array(X), side.array(Y))
    loss = side.module.compile(scaled, **{name: side.array(3.0)})
    expected = 3 * ((X - Y) ** 2).mean()
    assert float(loss(*pair)) == pytest.approx(expected, rel=1e-6)
    learned = Spec(
        loss="acme/learned@1",
        inputs=define_inputs(),
        weights={name: Weight(kind("real"), 2.0)},
        body=(f"value = {name} * (prediction - target) ** 2",),
        yields="per_element",
    )
    loss = side.module.compile(learned)
    given: dict[str, Any] = {"prediction": x_of(side), "target": y_of(side)}
    if side.name == "jax":
        import jax

        given["params"] = loss.init(jax.random.key(0))
    assert float(loss(**given)) == pytest.approx(expected * 2 / 3, rel=1e-6)


def define_inputs() -> dict[str, Any]:
    return {"prediction": kind("real[*batch]"), "target": kind("real[*batch]")}


def kind(text: str) -> Any:
    from lossbridge.kinds import Kind

    return Kind.parse(text)


def test_torch_keeps_such_weights_under_their_names() -> None:
    import copy

    import torch

    m = framework("torch").module
    spec = Spec(
        loss="acme/learned@1",
        inputs=define_inputs(),
        params={"float": Param(kind("real"), 2.0)},
        weights={"type": Weight(kind("real"), 2.0)},
        body=("value = type * float * (prediction - target) ** 2",),
        yields="per_element",
    )
    loss = m.compile(spec, float=torch.tensor(3.0))
    assert list(loss.state_dict()) == ["type", "float"]
    assert [n for n, _ in loss.named_parameters()] == ["type"]
    x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)
    expected = loss(x, y)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loss.double().float()):
        torch.testing.assert_close(other(x, y), expected)
    loss.load_state_dict({"type": torch.tensor(4.0), "float": torch.tensor(1.5)})
    torch.testing.assert_close(loss(x, y), expected)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="eager")(x, y), expected)
    swapped = torch.func.functional_call(loss, {"type": torch.tensor(8.0)}, (x, y))
    torch.testing.assert_close(swapped, 2 * expected)
    both = m.WeightedLoss({"type": loss, "a.b": m.ArcFaceLoss(num_classes=2, embedding_size=3)})
    assert list(both.state_dict()) == [
        "losses.type.type",
        "losses.type.float",
        "losses.a_b.centres",
    ]
    assert both.load_state_dict(both.state_dict()).missing_keys == []


def test_keras_saves_a_combination_with_such_names() -> None:
    import keras

    side = framework("keras")
    loss = side.module.UncertaintyWeightedLoss(losses(side, ALL))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert repr(again) == repr(loss)
    given = dict.fromkeys(ALL, side.pair(side.array(X), side.array(Y)))
    assert float(again(given)) == float(loss(given))


def test_jax_pickles_and_hashes_a_combination_with_such_names() -> None:
    side = framework("jax")
    loss = side.module.WeightedLoss(losses(side, ALL))
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss and hash(again) == hash(loss)
