"""Constructors, calls and shapes: what is refused, and what the message says to write instead."""

from __future__ import annotations

import pytest

from lossbridge import fitting, frontdoor
from lossbridge.errors import ArgumentError, DomainError, ShapeError

FORMS = frontdoor.forms()


def bound(name: str, platform: str = "torch", **settings: object) -> frontdoor.Bound:
    return frontdoor.bind(FORMS[name], platform, settings)


def test_a_misspelt_argument_names_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="did you mean gamma"):
        bound("FocalLoss", gama=1.0)


def test_an_argument_outside_its_domain_is_refused() -> None:
    with pytest.raises(DomainError, match="gamma"):
        bound("FocalLoss", gamma=-1.0)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_reduction_binds(name: str) -> None:
    sizes = dict.fromkeys(FORMS[name].sizes, 3)
    for reduction in ("none", "sum", "mean"):
        assert bound(name, reduction=reduction, **sizes).reduction == reduction
    with pytest.raises(ArgumentError, match="avg"):
        bound(name, reduction="avg", **sizes)


def test_keras_names_of_reductions_mean_what_they_mean_there() -> None:
    loss = bound("MSELoss", "keras", reduction="mean_with_sample_weight")
    assert (loss.reduction, loss.normalizer) == ("mean", "weights")
    with pytest.raises(ArgumentError, match="normalizer='weights'"):
        bound("MSELoss", "torch", reduction="mean_with_sample_weight")


def test_batchmean_divides_by_the_batch() -> None:
    assert bound("KLDivLoss", reduction="batchmean").normalizer == "batch"


def test_sizes_are_required_and_positive() -> None:
    with pytest.raises(ArgumentError, match="num_classes"):
        bound("ArcFaceLoss", embedding_size=3)
    with pytest.raises(ArgumentError, match="positive integer"):
        bound("ArcFaceLoss", num_classes=0, embedding_size=3)


def call(
    loss: frontdoor.Bound, platform: str, *args: object, **kwargs: object
) -> dict[str, object]:
    return frontdoor.bind_call(loss, platform, args, kwargs).inputs


def test_class_weights_are_as_many_as_the_classes_that_a_size_states() -> None:
    given = {"in_features": 3, "num_classes": 2}
    assert bound("LinearCrossEntropyLoss", weight=[1.0, 2.0], **given)
    with pytest.raises(ShapeError, match=r"weight .* of shape \(2,\), but its shape is \(3,\)"):
        bound("LinearCrossEntropyLoss", weight=[1.0, 2.0, 3.0], **given)


def test_positional_order_follows_the_framework() -> None:
    assert call(bound("MSELoss"), "torch", "p", "t") == {"prediction": "p", "target": "t"}
    assert call(bound("MSELoss"), "keras", "t", "p") == {"prediction": "p", "target": "t"}
    assert call(bound("MSELoss"), "jax", "p", "t") == {"prediction": "p", "target": "t"}


def test_pairs_without_a_target_keep_one_order_everywhere() -> None:
    for platform in ("torch", "keras", "jax"):
        assert call(bound("InfoNCELoss"), platform, "q", "k") == {"query": "q", "key": "k"}


def test_names_and_aliases() -> None:
    loss = bound("CrossEntropyLoss")
    assert call(loss, "torch", input="z", target="y") == {"logits": "z", "labels": "y"}
    assert call(loss, "keras", y_pred="z", y_true="y") == {"logits": "z", "labels": "y"}
    assert call(loss, "jax", logits="z", labels="y") == {"logits": "z", "labels": "y"}


def test_where_is_the_mask_in_jax_only() -> None:
    assert frontdoor.bind_call(bound("MSELoss"), "jax", ("p", "t"), {"where": "m"}).mask == "m"
    with pytest.raises(ArgumentError, match="where"):
        frontdoor.bind_call(bound("MSELoss"), "torch", ("p", "t"), {"where": "m"})


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"prediction": 1}, "without target"),
        ({"prediction": 1, "target": 2, "tarket": 3}, "did you mean target"),
        ({"prediction": 1, "target": 2, "normalizer_count": 3}, "normalizer='external'"),
        ({"prediction": 1, "target": 2, "step": 3}, "no schedule"),
    ],
)
def test_a_wrong_call_says_which_call_works(kwargs: dict[str, object], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        call(bound("MSELoss"), "torch", **kwargs)


def test_twice_the_same_argument() -> None:
    with pytest.raises(ArgumentError, match="twice"):
        call(bound("MSELoss"), "torch", 1, 2, prediction=3)


def test_external_needs_its_count() -> None:
    with pytest.raises(ArgumentError, match="normalizer_count"):
        call(bound("MSELoss", normalizer="external"), "torch", 1, 2)


def test_overloads_are_chosen_by_dtype() -> None:
    loss = bound("CrossEntropyLoss")
    assert loss.specs[loss.select({"logits": "real", "labels": "int"})].id == "cross_entropy@1"
    chosen = loss.specs[loss.select({"logits": "real", "labels": "real", "target": "real"})]
    assert chosen.id == "cross_entropy_probabilities@1"


def lengths(name: str, **shapes: tuple[int, ...]) -> object:
    return frontdoor.axis_lengths(FORMS[name].specs[0].inputs, shapes, name)


def test_nothing_broadcasts_silently() -> None:
    with pytest.raises(ShapeError, match=r"\(32, 1\).*\(32,\)"):
        lengths("MSELoss", prediction=(32, 1), target=(32,))
    with pytest.raises(ShapeError, match="batch"):
        lengths("MSELoss", prediction=(4, 3), target=(3, 4))


def test_axes_get_their_lengths() -> None:
    assert lengths("CrossEntropyLoss", logits=(8, 7, 5), labels=(8, 7)) == {
        "*batch": (8, 7),
        "classes": (5,),
    }


def test_unknown_lengths_agree_with_anything() -> None:
    shapes = {"prediction": (None, 3), "target": (5, 3)}
    kinds = FORMS["MSELoss"].specs[0].inputs
    assert frontdoor.axis_lengths(kinds, shapes, "MSELoss")["*batch"] == (5, 3)


@pytest.mark.parametrize(
    ("given", "aligned"),
    [((4,), (4, 1)), ((4, 3), (4, 3)), ((4, 1), (4, 1)), ((1, 3), (1, 3)), ((4, 3, 1), (4, 3))],
)
def test_weights_align_from_the_left(given: tuple[int, ...], aligned: tuple[int, ...]) -> None:
    assert frontdoor.aligned_shape("L", "sample_weight", given, (4, 3)) == aligned


def test_a_weight_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(3,\).*\(4, 3\)"):
        frontdoor.aligned_shape("L", "sample_weight", (3,), (4, 3))


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_docstring_has_its_sections(name: str) -> None:
    doc = frontdoor.docstring(FORMS[name], "torch")
    first = doc.splitlines()[0]
    assert first.startswith("Penalise ") and first.endswith(".")
    for section in ("Edges:", "Definition:", "Inputs:", "Reduction:", "Call:", "References:"):
        assert section in doc


def test_a_renamed_axis_has_the_length_of_its_source() -> None:
    (spec,) = frontdoor.forms()["NTXentLoss"].specs
    assert frontdoor.index_shape(spec, {"batch": (5,), "features": (3,)}) == (5, 5)


# --- what a message says to write instead is what works ------------------------------------------

# (class, settings, shapes in the order of the inputs, which of the losses, what is said on torch)
ADVICE = [
    ("MSELoss", {}, [(32, 1), (32,)], 0, "pass prediction.reshape((32,))"),
    ("MSELoss", {}, [(32,), (32, 1)], 0, "pass target.reshape((32,))"),
    ("CrossEntropyLoss", {}, [(5, 3), (5, 1)], 0, "pass labels.reshape((5,))"),
    ("CrossEntropyLoss", {}, [(5, 3), (5, 3)], 0, "pass labels.float()"),
    ("CrossEntropyLoss", {}, [(5, 3), (5,)], 1, "pass target.long()"),
    ("CrossEntropyLoss", {}, [(2, 4, 3), (2, 4)], 0, "construct it with axis=-1"),
    ("CrossEntropyLoss", {"axis": -1}, [(2, 3, 4), (2, 4)], 0, "construct it with axis=1"),
    ("FocalLoss", {}, [(5,), (5, 3)], 0, "the other way round they would fit"),
    ("CrossEntropyLoss", {}, [(5, 3), (4,)], 0, "labels of shape (5,) would fit"),
    ("TripletMarginLoss", {}, [(4, 2), (4, 2), (4, 3)], 0, "negative of shape (4, 2) would fit"),
]


@pytest.mark.parametrize(("name", "settings", "shapes", "which", "says"), ADVICE)
def test_advice_says_what_would_fit(
    name: str, settings: dict[str, object], shapes: list[tuple[int, ...]], which: int, says: str
) -> None:
    loss = bound(name, **settings)
    given = dict(zip(loss.specs[which].inputs, shapes, strict=True))
    assert says in fitting.advice(loss, "torch", which, given)


def test_advice_is_in_the_words_of_the_platform() -> None:
    loss = bound("CrossEntropyLoss", "keras")
    said = fitting.advice(loss, "keras", 0, {"logits": (None, 3), "labels": (None, 1)})
    assert said.endswith("pass tf.reshape(labels, -1)")
    assert "tf.cast(target, 'int64')" in fitting.advice(
        loss, "keras", 1, {"logits": (5, 3), "target": (5,)}
    )
    loss = bound("CrossEntropyLoss", "jax")
    assert "labels.astype('float32')" in fitting.advice(
        loss, "jax", 0, {"logits": (5, 3), "labels": (5, 3)}
    )


def test_advice_is_silent_where_nothing_would_fit() -> None:
    assert fitting.advice(bound("MSELoss"), "torch", 0, {"prediction": (), "target": (2,)}) == (
        "; target of shape () would fit"
    )
    loss = bound("InfoNCELoss")
    assert fitting.advice(loss, "torch", 0, {"query": (3,), "key": (4,)}) == ""


def test_inputs_that_were_swapped_are_told_by_their_dtypes() -> None:
    loss = bound("CrossEntropyLoss")
    assert "write loss(logits, labels)" in fitting.swapped(loss, "torch", ["int", "real"])
    assert fitting.swapped(loss, "torch", ["int", "int"]) == ""
    assert "write loss(labels, logits)" in fitting.swapped(loss, "keras", ["int", "real"])


def test_a_setting_given_at_the_call_belongs_to_the_constructor() -> None:
    for key in ("reduction", "weight", "label_smoothing"):
        with pytest.raises(ArgumentError, match=f"construct it with {key}="):
            call(bound("CrossEntropyLoss"), "torch", 1, 2, **{key: "sum"})


@pytest.mark.parametrize("name", ["reduction", "normalizer", "empty"])
def test_a_word_of_another_type_is_a_typed_error(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name}=a list of 1 was given"):
        bound("MSELoss", **{name: ["mean"]})


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_argument_of_a_constructor_is_a_setting(name: str) -> None:
    sizes = dict.fromkeys(FORMS[name].sizes, 3)
    found = frontdoor.settings_of(bound(name, **sizes))
    defaults = frontdoor.signature(FORMS[name]).parameters
    assert set(found) == set(defaults)
    for key, parameter in defaults.items():
        places = [spec.axis for spec in FORMS[name].specs if key == "axis"]
        assert found[key] == (3 if key in sizes else places[0] if places else parameter.default)


def test_lists_are_arrays_and_their_numbers_are_checked() -> None:
    weight = bound("CrossEntropyLoss", weight=[1, 2.0, 3]).arrays["weight"]
    assert weight.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(DomainError, match="weight"):
        bound("CrossEntropyLoss", weight=(1.0, -2.0))
    for wrong in (["a"], [[1.0]], [], [1.0, None]):
        with pytest.raises(ArgumentError, match="weight"):
            bound("CrossEntropyLoss", weight=wrong)
