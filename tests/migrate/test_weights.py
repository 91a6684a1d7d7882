"""Weights of samples and of classes, masks, and predictions as a training step makes them."""

from __future__ import annotations

from functools import partial

import pytest

from lossbridge.errors import ArgumentError
from lossbridge.migrate.comparison import Comparison
from lossbridge.migrate.judge import compare as compared

compare = partial(compared, profile="strict")
keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

SPARSE = "keras.losses.SparseCategoricalCrossentropy(from_logits=True)"
BY_WEIGHTS = "keras.losses.MeanSquaredError(reduction='mean_with_sample_weight')"
MSE = "keras.losses.MeanSquaredError()"


def why(found: Comparison) -> str:
    return " ".join(c.text for c in found.causes)


@pytest.mark.parametrize(
    ("a", "b", "verdict", "said"),
    [
        (MSE, MSE, "same", ""),
        (MSE, BY_WEIGHTS, "same_up_to_factor", "weights of samples divide by their sum on one"),
        ("lossbridge.torch.MSELoss()", "lossbridge.keras.MSELoss()", "same", ""),
        (
            "lossbridge.torch.MSELoss()",
            "lossbridge.torch.MSELoss(normalizer='weights')",
            "same_up_to_factor",
            "weights of samples divide by their sum on one",
        ),
    ],
)
def test_sample_weights_decide_where_they_are_demanded(
    a: str, b: str, verdict: str, said: str
) -> None:
    found = compare(a, b, weights="sample")
    assert found.verdict == verdict, str(found)
    assert said in why(found)
    assert any(x.startswith("weights") for x in found.probed)


def test_without_the_demand_weights_are_an_edge() -> None:
    found = compare(MSE, BY_WEIGHTS)
    assert found.verdict == "edges_differ"
    assert "sample weights" in why(found)
    assert any("mean_with_sample_weight" in c.fix for c in found.causes)


def test_where_a_side_takes_no_weights_that_is_said() -> None:
    found = compare("torch.nn.MSELoss()", MSE, weights="sample")
    assert any("sample weights: not both sides take them" in x for x in found.not_probed)


BY_SUM = "class weights divide by their sum on one side, by the number of samples on the other"


@pytest.mark.parametrize(
    ("a", "b", "verdict", "said"),
    [
        ("torch.nn.CrossEntropyLoss()", SPARSE, "same_up_to_factor", BY_SUM),
        ("torch.nn.NLLLoss()", "torch.nn.NLLLoss(reduction='none')", "same_up_to_factor", BY_SUM),
        ("torch.nn.NLLLoss(reduction='sum')", "torch.nn.NLLLoss(reduction='sum')", "same", ""),
        (SPARSE, "lossbridge.keras.CrossEntropyLoss()", "same", ""),
        (
            SPARSE,
            "lossbridge.keras.CrossEntropyLoss(normalizer='weights')",
            "same_up_to_factor",
            "weights of samples divide by their sum on one side",
        ),
        (
            "torch.nn.CrossEntropyLoss()",
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True, "
            "reduction='mean_with_sample_weight')",
            "same",
            "",
        ),
        pytest.param(
            "torch.nn.CrossEntropyLoss()",
            "optax.losses.softmax_cross_entropy_with_integer_labels()",
            "same_up_to_factor",
            BY_SUM,
            marks=pytest.mark.slow,  # imports JAX
        ),
    ],
)
def test_class_weights_as_each_framework_takes_them(
    a: str, b: str, verdict: str, said: str
) -> None:
    found = compare(a, b, weights="class")
    assert found.verdict == verdict, str(found)
    assert said in why(found)
    assert "weigh" in found.notes[0]


def test_class_weights_need_classes() -> None:
    found = compare("torch.nn.MSELoss()", MSE, weights="class")
    assert found.verdict == "undecided"
    assert "has no classes" in found.notes[0]
    found = compare(
        "torch.nn.NLLLoss(weight=[1.0, 2.0, 3.0])", "torch.nn.NLLLoss()", weights="class"
    )
    assert "has class weights already" in found.notes[0]
    with pytest.raises(ArgumentError, match="'sample', 'class' or None"):
        compare(MSE, MSE, weights="classes")


def test_masks_are_compared_where_both_take_them() -> None:
    found = compare(MSE, MSE)
    assert any(x.startswith("masks (3") for x in found.probed)
    # Keras multiplies by its mask, so that a masked NaN shows; so does ours that stands for it.
    found = compare(MSE, "lossbridge.keras.native('keras.losses.MeanSquaredError')")
    assert found.verdict == "same", str(found)
    assert any(x.startswith("masks (3") for x in found.probed)
    # Our own selects.
    found = compare(MSE, "lossbridge.keras.MSELoss()")
    assert any(note.startswith("a NaN masked: a gives nan") for note in found.notes)
    assert any(x.startswith("masks (2") for x in found.probed)
    assert all(not x.startswith("masks") for x in compare(MSE, "torch.nn.MSELoss()").probed)


@pytest.mark.parametrize("made", ["Binary", "Categorical"])
def test_predictions_as_a_training_step_makes_them(made: str) -> None:
    """Keras reads the logits behind TensorFlow's activation in a graph, and not in eager mode."""
    found = compare(f"keras.losses.{made}Crossentropy()", f"keras.losses.{made}Crossentropy()")
    assert found.verdict == "same"
    said = [n for n in found.notes if "depends on how its predictions were made" in n]
    assert len(said) == 1
    assert "in eager mode" in said[0]
    assert "in graph mode" in said[0]
    assert "from_logits=True" in said[0]
    logits = f"keras.losses.{made}Crossentropy(from_logits=True)"
    assert all("how its predictions" not in n for n in compare(logits, logits).notes)


def test_a_live_loss_of_keras_computes_in_float32_and_that_is_said() -> None:
    found = compare(keras.losses.MeanSquaredError(), torch.nn.MSELoss())
    assert any("it computes in float32, whatever it is given" in n for n in found.notes)
    assert found.verdict == "edges_differ"
    assert "the mean of nothing" in why(found)
