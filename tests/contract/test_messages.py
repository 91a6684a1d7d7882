"""What a user reads after the commonest slips, and that the call it advises works."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frameworks import PLATFORMS, Framework, framework

from lossbridge.combine import COMBINATIONS
from lossbridge.errors import ArgumentError, DomainError, LossbridgeError, ShapeError
from lossbridge.frontdoor import forms, settings_of, signature
from lossbridge.synonyms import INSTEAD, LOSSES, SETTINGS, class_hint, key, setting_hint, settled_as

CLASSES = [*forms(), *COMBINATIONS]


@pytest.fixture(params=PLATFORMS)
def side(request: pytest.FixtureRequest) -> Framework:
    return framework(request.param)


def data(side: Framework) -> dict[str, Any]:
    """Arrays for every input that the calls in messages name."""
    whole = "int64" if side.name == "torch" else "int32"
    x = np.random.default_rng(0).normal(size=(4, 3))
    found = dict.fromkeys(("logits", "prediction", "embeddings", "anchor", "query"), x)
    found.update(dict.fromkeys(("positive", "key", "x1", "parameters"), x + 0.5))
    found["negative"] = x - 0.5
    arrays = {name: side.array(value) for name, value in found.items()}
    arrays["log_probs"] = side.array(x - np.log(np.exp(x).sum(-1, keepdims=True)))
    arrays["target"] = side.array(np.full((4, 3), 1 / 3))
    arrays["labels"] = side.array([0, 1, 2, 0], whole)
    return {**arrays, "L": side.module}


def advised(message: str) -> str:
    """The last call that a message writes."""
    calls = re.findall(r"(?:write |call it, )((?:L\.|loss\().*\))$", message.splitlines()[0])
    assert calls, message
    return str(calls[-1])


def raised(run: Any) -> str:
    with pytest.raises(LossbridgeError) as error:
        run()
    return str(error.value)


# --- the tables ----------------------------------------------------------------------------------


def test_every_name_used_elsewhere_leads_to_a_call_that_works(side: Framework) -> None:
    names = vars(side.module).copy()
    for call in {here.call for here in LOSSES.values()}:
        assert type(eval(call, names)).__name__ in CLASSES
    assert [name for name in LOSSES if key(name) != name] == []  # no message would look them up
    assert not set(LOSSES) & {key(name) for name in CLASSES}  # the class of that name comes first


def test_every_setting_used_elsewhere_leads_to_one_that_a_loss_has() -> None:
    known: set[str] = {"losses", "coefficients"}
    for form in forms().values():
        known |= set(signature(form).parameters)
    assert {here for names in SETTINGS.values() for here in names} <= known
    assert not set(INSTEAD) & set(SETTINGS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MAELoss", "L.L1Loss()"),
        ("mae", "L.L1Loss()"),
        ("IoULoss", "L.TverskyLoss(alpha=1.0, beta=1.0)"),
        ("JaccardLoss", "L.TverskyLoss(alpha=1.0, beta=1.0)"),
        ("QuantileLoss", "the quantile 0.5"),
        ("PinballLoss", "the quantile 0.5"),
        ("RMSELoss", "L.MSELoss()(...) ** 0.5"),
        ("NTXent", "L.NTXentLoss"),
        ("SupConLoss", "L.NTXentLoss()"),
        ("FocalTverskyLoss", "L.TverskyLoss()"),
        ("LovaszLoss", "L.TverskyLoss("),
        ("LabelSmoothingCrossEntropy", "L.CrossEntropyLoss(label_smoothing=0.1)"),
        ("SoftTargetCrossEntropy", "L.CrossEntropyLoss()"),
        ("CategoricalCrossentropy", "L.native('keras.losses.CategoricalCrossentropy')"),
        ("SparseCategoricalCrossentropy", "L.CrossEntropyLoss()"),
        ("BinaryCrossentropy", "L.BCEWithLogitsLoss()"),
        ("MeanSquaredError", "L.MSELoss()"),
        ("Huber", "L.HuberLoss"),
        ("sigmoid_binary_cross_entropy", "L.BCEWithLogitsLoss()"),
        ("CosineSimilarity", "L.CosineSimilarityLoss"),
        ("Focalloss", "L.FocalLoss"),
        ("CrossEntropy", "L.CrossEntropyLoss"),
    ],
)
def test_a_name_of_another_library_is_answered_by_meaning(
    side: Framework, name: str, says: str
) -> None:
    with pytest.raises(AttributeError) as error:
        getattr(side.module, name)
    assert says in str(error.value)


def test_spelling_comes_after_meaning_and_only_where_it_is_near() -> None:
    assert class_hint("FocalLos", CLASSES) == "; did you mean FocalLoss?"
    assert class_hint("HubberLoss", CLASSES) == "; did you mean HuberLoss?"
    for name in ("SSIMLoss", "DPOLoss", "TotalVariationLoss", "StyleLoss", "VGGish"):
        assert class_hint(name, CLASSES) == ""


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: m.CrossEntropyLoss(smoothing=0.1), "here it is label_smoothing"),
        (lambda m: m.CrossEntropyLoss(class_weights=[1.0]), "here it is weight"),
        (lambda m: m.CrossEntropyLoss(ignore_label=3), "here it is ignore_index"),
        (lambda m: m.CrossEntropyLoss(from_logits=True), "takes logits, so leave from_logits out"),
        (lambda m: m.BCELoss(from_logits=True), "BCEWithLogitsLoss"),
        (lambda m: m.MSELoss(from_logits=True), "leave from_logits out"),
        (lambda m: m.MSELoss(size_average=False), "write reduction='mean', 'sum' or 'none'"),
        (lambda m: m.MSELoss(reduce=False), "write reduction='mean', 'sum' or 'none'"),
        (lambda m: m.MSELoss(reduction="avg"), "write reduction='mean'"),
        (lambda m: m.HuberLoss(beta=1.0), "here it is delta"),
        (lambda m: m.SmoothL1Loss(delta=1.0), "here it is beta"),
        (lambda m: m.NTXentLoss(tau=0.1), "here it is temperature"),
        (lambda m: m.BCEWithLogitsLoss(pos_weights=2.0), "here it is pos_weight"),
        (lambda m: m.CrossEntropyLoss(dim=1), "here it is axis"),
        (lambda m: m.L2Penalty(weight_decay=0.1), "here it is strength"),
        (lambda m: m.WeightedLoss(loss_dict={}), "here it is losses"),
        (lambda m: m.FocalLoss(gama=1.0), "did you mean gamma"),
        (lambda m: m.DiceLoss(include_background=False), "leave the class out"),
    ],
)
def test_a_setting_of_another_library_is_answered_by_meaning(
    side: Framework, make: Any, says: str
) -> None:
    assert says in raised(lambda: make(side.module))


@pytest.mark.parametrize("name", sorted(forms()))
def test_what_a_setting_is_called_elsewhere_is_said_of_a_loss_that_has_it(name: str) -> None:
    options = list(signature(forms()[name]).parameters)
    for elsewhere in SETTINGS:
        here = settled_as(elsewhere, options)
        if here and elsewhere not in options:
            assert here in setting_hint(elsewhere, options) or here == "reduction"


# --- slips, and the call that works --------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("MSELoss", "CrossEntropyLoss", "FocalLoss", "TverskyLoss", "HuberLoss", "NLLLoss"),
        *("KLDivLoss", "TripletMarginLoss", "InfoNCELoss", "CircleLoss", "BCEWithLogitsLoss"),
        "L2Penalty",
    ],
)
def test_a_class_that_is_called_like_a_function_says_how_it_is_called(
    side: Framework, name: str
) -> None:
    given, kinds = data(side), forms()[name].definitions[0].inputs
    inputs = list(kinds)
    for n, kind in kinds.items():
        if kind.name == "probability":
            given[n] = given[n] * 0.0 + 0.5
    cls = getattr(side.module, name)
    tree = inputs == ["parameters"]
    args = [[given[n]] if tree else given[n] for n in inputs]
    for message in (
        raised(lambda: cls(*args)),
        raised(lambda: cls(**dict(zip(inputs, args, strict=True)))),
    ):
        assert np.isfinite(float(eval(advised(message), given)))


def test_other_frameworks_names_of_inputs_are_answered_with_ours(side: Framework) -> None:
    given = data(side)
    loss = side.module.CrossEntropyLoss()
    pairs = {"torch": ("input", "target"), "keras": ("y_pred", "y_true")}
    pairs |= {"jax": ("predictions", "targets"), "none": ("preds", "ground_truth")}
    for platform, (first, second) in pairs.items():
        if platform == side.name:
            continue
        message = raised(lambda a=first, b=second: loss(**{b: given["labels"], a: given["logits"]}))
        assert re.search("here it is (labels|logits)", message)
        assert np.isfinite(float(eval(advised(message), {**given, "loss": loss})))


@pytest.mark.parametrize(
    ("keyword", "says"),
    [
        ("weights", "here it is sample_weight"),
        ("sample_weights", "here it is sample_weight"),
        ("attention_mask", "here it is mask"),
        ("class_weight", "make the loss with weight"),
        ("label_smoothing", "construct it with label_smoothing"),
        ("smoothing", "make the loss with label_smoothing"),
        ("num_items_in_batch", "L.as_hf(loss)"),
        ("sample_wieght", "did you mean sample_weight"),
    ],
)
def test_an_argument_of_a_call_is_answered_by_meaning(
    side: Framework, keyword: str, says: str
) -> None:
    given = data(side)
    loss = side.module.CrossEntropyLoss()
    assert says in raised(
        lambda: loss(logits=given["logits"], labels=given["labels"], **{keyword: given["logits"]})
    )


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "FocalLoss"])
def test_the_order_of_another_framework_is_told_by_the_dtypes(side: Framework, name: str) -> None:
    given = data(side)
    loss = getattr(side.module, name)()
    first, second = (given[n] for n in loss.spec.inputs)
    message = raised(lambda: loss(*side.pair(first, second)[::-1]))
    assert "if the two were swapped, write" in message
    assert np.isfinite(float(eval(advised(message), {**given, "loss": loss})))


def test_the_order_of_another_framework_is_told_by_the_shapes(side: Framework) -> None:
    given = data(side)
    loss = side.module.CrossEntropyLoss()
    arrays = (given["logits"], side.array([0.0, 1.0, 2.0, 0.0]))
    message = raised(lambda: loss(*side.pair(*arrays)[::-1]))
    assert "the other way round" in message or "logits" in message


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda x: None, "None was given"),
        (lambda x: {"logits": x}, "pass outputs['logits']"),
        (lambda x: SimpleNamespace(logits=x), "pass outputs.logits"),
        (lambda x: {"other": x}, "pass one of its arrays"),
        (lambda x: "text", "'text' was given"),
        (lambda x: len, "a function, was given; pass what it returns"),
        (lambda x: int, "the class 'int' was given"),
        (lambda x: [x, x], "stack them"),
    ],
)
def test_what_is_no_array_says_what_it_is(side: Framework, what: Any, says: str) -> None:
    given = data(side)
    loss = side.module.MSELoss()
    message = raised(lambda: loss(*side.pair(what(given["prediction"]), given["prediction"])))
    assert says in message and "prediction must be" in message


def test_torch_refuses_arrays_and_lists_with_the_call_that_makes_tensors() -> None:
    import torch

    m = framework("torch").module
    for given in ([1.0, 2.0], (1.0, 2.0), np.ones(2, np.float32), 1.0):
        message = raised(lambda x=given: m.MSELoss()(x, torch.ones(2)))
        assert message.endswith("write torch.as_tensor(prediction)")
        made = torch.as_tensor(given)
        assert m.MSELoss()(made.float(), torch.ones(made.shape)).isfinite()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (lambda m: lambda a, b: a - b, r"@lossbridge.define\('acme/mine@1'\)"),
        (lambda m: "FocalLoss", r"write L.FocalLoss\(\)"),
        (lambda m: m.FocalLoss, r"write L.FocalLoss\(\)"),
        (lambda m: m.FocalLoss(), "loss.spec"),
        (lambda m: "keras.losses.Huber", r"L.native\('keras.losses.Huber'\)"),
        (lambda m: "MAELoss", r"L.L1Loss\(\)"),
        (lambda m: 3, "'int' was given"),
        (lambda m: None, "'NoneType' was given"),
    ],
)
def test_what_is_compiled_is_a_specification_or_says_what_to_write(
    side: Framework, source: Any, says: str
) -> None:
    with pytest.raises(ArgumentError, match=says):
        side.module.compile(source(side.module))


def test_a_setting_out_of_range_says_the_range_and_one_that_people_choose(side: Framework) -> None:
    with pytest.raises(DomainError, match=r"1\.5, but .* from 0 to 1; 0\.1 would do"):
        side.module.CrossEntropyLoss(label_smoothing=1.5)
    with pytest.raises(DomainError, match=r"0 or a number above; 2\.0 would do"):
        side.module.FocalLoss(gamma=-1.0)
    with pytest.raises(DomainError, match=r"0\.25 would do"):
        side.module.BinaryFocalLoss(alpha=2.0)


@pytest.mark.parametrize("name", sorted(n for n, f in forms().items() if not f.sizes))
def test_every_default_that_is_advised_makes_the_loss(side: Framework, name: str) -> None:
    cls = getattr(side.module, name)
    for setting, param in forms()[name].params.items():
        wrong = {"positive": -1.0, "non_negative": -1.0, "probability": 2.0}.get(param.kind.name)
        if wrong is None:
            continue
        found = re.search(r"; (\S+) would do", raised(lambda s=setting, w=wrong: cls(**{s: w})))
        assert found is not None
        value = float(found[1])
        array = side.array(np.full(3, value)) if param.kind.axes else value
        assert setting in settings_of(cls(**{setting: array}).bound)


def test_embeddings_of_another_size_say_with_which_sizes_the_loss_is_made(side: Framework) -> None:
    m = side.module
    loss, given = m.ArcFaceLoss(num_classes=3, embedding_size=5), data(side)
    inputs = {"embeddings": given["embeddings"], "labels": given["labels"]}
    if side.name == "jax":
        import jax

        inputs["params"] = loss.init(jax.random.key(0))
    with pytest.raises(ShapeError) as error:
        loss(**inputs)
    assert "make the loss with num_classes=3, embedding_size=3" in str(error.value)
    assert "reshape" not in str(error.value)


def test_jax_centres_of_another_shape_are_no_matter_of_reshaping() -> None:
    import jax.numpy as jnp

    side = framework("jax")
    given = data(side)
    loss = side.module.ArcFaceLoss(num_classes=3, embedding_size=3)
    with pytest.raises(ShapeError, match=r"num_classes=3, embedding_size=3 are loss.init\(key\)"):
        loss(given["embeddings"], given["labels"], params={"centres": jnp.ones((3, 5))})


def test_a_tree_with_functions_in_it_is_penalised_by_its_arrays_in_jax() -> None:
    import jax.numpy as jnp

    side = framework("jax")
    model = {"weight": jnp.array([1.0, -2.0]), "activation": jnp.tanh, "bias": None, "name": "mlp"}
    assert float(side.module.L1Penalty(strength=1.0)(model)) == 3.0
    values = side.module.L1Penalty(strength=1.0, reduction="none")(model)
    assert values["activation"] is jnp.tanh and values["name"] == "mlp"
    with pytest.raises(ArgumentError, match="holds no array"):
        side.module.L1Penalty()({"activation": jnp.tanh})


def test_keras_says_what_a_tree_is(side: Framework) -> None:
    given = data(side)
    tree = {"weight": given["logits"], "activation": np.tanh}
    if side.name == "jax":
        assert float(side.module.L1Penalty()(tree)) > 0
        return
    with pytest.raises(ArgumentError, match=r"model|module"):
        side.module.L1Penalty()(tree)


# --- what a user's function may return -----------------------------------------------------------


def critic(side: Framework, shape: tuple[int, ...]) -> Any:
    """A network for one number that gives it in this shape."""

    def run(x: Any) -> Any:
        total = (x * x).sum(-1) if side.name != "keras" else _tf_sum(x)
        return total.reshape(shape) if side.name != "keras" else _tf_reshape(total, shape)

    return run


def _tf_sum(x: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_sum(x * x, -1)


def _tf_reshape(x: Any, shape: tuple[int, ...]) -> Any:
    import tensorflow as tf

    return tf.reshape(x, shape)


def test_a_critic_may_return_one_column(side: Framework) -> None:
    m, x = side.module, side.array(np.arange(8.0).reshape(4, 2))
    y = side.array(np.ones((4, 2)))
    mix = side.array(np.full(4, 0.25))
    loss, penalty = m.WassersteinCriticLoss(), m.GradientPenaltyLoss()
    flat, column = critic(side, (4,)), critic(side, (4, 1))
    expected = float(loss(fake_data=x, real_data=y, critic=flat))
    assert expected == pytest.approx((np.arange(8.0) ** 2).sum() / 4 - 2)
    assert float(loss(fake_data=x, real_data=y, critic=column)) == expected
    slopes = [
        float(penalty(fake_data=x, real_data=y, mix=mix, critic=one)) for one in (flat, column)
    ]
    assert slopes[0] == slopes[1] > 0


def test_a_field_may_return_one_column(side: Framework) -> None:
    m, t = side.module, side.array([0.1, 0.2, 0.3])
    x = side.array([0.4, 0.5, 0.6])
    loss = m.PDEResidualLoss()

    def value(a: Any, b: Any) -> Any:
        return a * b * b * b

    def column(a: Any, b: Any) -> Any:
        return value(a, b)[..., None]

    found = [float(loss(time=t, position=x, **{_port(loss): f})) for f in (value, column)]
    assert found[0] == found[1] > 0


def _port(loss: Any) -> str:
    (name,) = loss.spec.ports
    return str(name)


def test_any_other_shape_of_a_result_says_both_shapes(side: Framework) -> None:
    m, x = side.module, side.array(np.arange(8.0).reshape(4, 2))
    given: dict[str, Any] = {"fake_data": x, "real_data": x}
    for shape in ((2, 2), (1, 4), (4, 1, 1)):
        with pytest.raises(ShapeError) as error:
            m.WassersteinCriticLoss()(**given, critic=critic(side, shape))
        assert f"returned shape {shape}" in str(error.value)
        assert "(4,) (or (4, 1))" in str(error.value)
        with pytest.raises(ShapeError) as error:
            m.GradientPenaltyLoss()(
                **given, mix=side.array(np.full(4, 0.25)), critic=critic(side, shape)
            )
        assert f"returned shape {shape}" in str(error.value)
