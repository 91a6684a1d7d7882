"""Every built-in is tried in three settings, and at an edge of every kind that it has."""

from __future__ import annotations

from collections.abc import Iterator

import originals
import pytest
from originals import Case

from lossbridge.witnesses import witnesses

pytest.importorskip("torch")
pytest.importorskip("keras")
pytest.importorskip("optax")

import test_keras_losses as of_keras
import test_optax_losses as of_optax
import test_torch_nn as of_torch

KINDS = {
    "kinks": "a derivative is a convention there: ties, corners, zero vectors",
    "clip": "an epsilon, a floor or the end of a clip decides",
    "saturation": "far out: exponentials overflow, logarithms are of 0",
    "empty": "nothing to reduce",
    "ignored": "labels, samples or places that do not count",
}
# Beside `empty`, which all have. What each has by its definition, whether a case is easy or not.
APPLY = """
torch.nn.L1Loss: kinks
torch.nn.MSELoss:
torch.nn.SmoothL1Loss: kinks
torch.nn.HuberLoss: kinks
torch.nn.PoissonNLLLoss: kinks clip saturation
torch.nn.GaussianNLLLoss: clip
torch.nn.KLDivLoss: saturation
torch.nn.BCELoss: clip saturation
torch.nn.BCEWithLogitsLoss: kinks saturation
torch.nn.CrossEntropyLoss: saturation ignored
torch.nn.LinearCrossEntropyLoss: ignored
torch.nn.NLLLoss: saturation ignored
torch.nn.HingeEmbeddingLoss: kinks
torch.nn.MarginRankingLoss: kinks
torch.nn.SoftMarginLoss: saturation
torch.nn.MultiMarginLoss: kinks
torch.nn.MultiLabelMarginLoss: kinks ignored
torch.nn.MultiLabelSoftMarginLoss: saturation
torch.nn.CosineEmbeddingLoss: kinks clip
torch.nn.TripletMarginLoss: kinks
torch.nn.TripletMarginWithDistanceLoss: kinks
torch.nn.CTCLoss: saturation ignored
keras.losses.MeanSquaredError: ignored
keras.losses.MeanAbsoluteError: kinks
keras.losses.MeanAbsolutePercentageError: kinks clip
keras.losses.MeanSquaredLogarithmicError: clip
keras.losses.Huber: kinks
keras.losses.LogCosh: saturation
keras.losses.CosineSimilarity: clip
keras.losses.Hinge: kinks
keras.losses.SquaredHinge: kinks
keras.losses.CategoricalHinge: kinks
keras.losses.KLDivergence: clip
keras.losses.Poisson: clip
keras.losses.BinaryCrossentropy: clip saturation
keras.losses.BinaryFocalCrossentropy: clip saturation
keras.losses.CategoricalCrossentropy: clip saturation ignored
keras.losses.CategoricalFocalCrossentropy: clip saturation
keras.losses.SparseCategoricalCrossentropy: clip saturation ignored
keras.losses.CategoricalGeneralizedCrossEntropy: kinks ignored
keras.losses.Dice: clip
keras.losses.Tversky: clip
keras.losses.Circle: kinks ignored
keras.losses.CTC: saturation ignored
optax.losses.squared_error: saturation
optax.losses.l2_loss: saturation
optax.losses.huber_loss: kinks saturation
optax.losses.log_cosh: saturation
optax.losses.cosine_similarity: kinks clip ignored
optax.losses.cosine_distance: kinks clip ignored
optax.losses.sigmoid_binary_cross_entropy: saturation
optax.losses.sigmoid_focal_loss: saturation
optax.losses.hinge_loss: kinks
optax.losses.perceptron_loss: kinks
optax.losses.sparsemax_loss: kinks
optax.losses.softmax_cross_entropy: saturation ignored
optax.losses.safe_softmax_cross_entropy: saturation
optax.losses.poly_loss_cross_entropy: saturation ignored
optax.losses.softmax_cross_entropy_with_integer_labels: saturation ignored
optax.losses.multiclass_hinge_loss: kinks ignored
optax.losses.multiclass_perceptron_loss: kinks ignored
optax.losses.multiclass_sparsemax_loss: kinks saturation ignored
optax.losses.make_fenchel_young_loss: kinks saturation
optax.losses.ranking_softmax_loss: saturation ignored
optax.losses.kl_divergence: saturation ignored
optax.losses.kl_divergence_with_log_targets: saturation ignored
optax.losses.generalized_kl_divergence: saturation ignored
optax.losses.convex_kl_divergence: saturation ignored
optax.losses.smooth_labels: ignored
optax.losses.dice_loss: clip ignored
optax.losses.binary_dice_loss: clip
optax.losses.multiclass_generalized_dice_loss: clip ignored
optax.losses.ntxent: clip ignored
optax.losses.triplet_margin_loss: kinks
optax.losses.ctc_loss: saturation ignored
optax.losses.ctc_loss_with_forward_probs: saturation ignored
"""
TABLE = {
    name: {"empty", *kinds.split()}
    for name, _, kinds in (line.partition(":") for line in APPLY.split("\n") if line)
}


def cases() -> Iterator[Case]:
    """All cases: equal, listed as different with the reason, or raising there."""
    yield from (*of_torch.CASES, *of_torch.LINEAR, *of_torch.DISTANCES, *of_torch.RAISES)
    yield from (case for case, _ in (*of_torch.ROUNDS, *of_torch.DIFFERS))
    yield from (*of_keras.CASES, *of_keras.RAISES)
    yield from (c for found, _ in (*of_keras.ROUNDS, *of_keras.UNEQUAL) for c in found)
    yield from (*of_optax.CASES, *of_optax.FENCHEL_YOUNG, *of_optax.RAISES)
    yield from (case for case, _ in (*of_optax.ROUNDS, *of_optax.UNEQUAL))


def settings(case: Case) -> str:
    """The arguments of a case, as text that tells them apart."""
    return repr({k: getattr(v, "tolist", lambda v=v: v)() for k, v in case.arguments.items()})


BY_NAME: dict[str, list[Case]] = {name: [] for name in witnesses()}
for each in cases():
    BY_NAME[each.name].append(each)


def test_the_table_has_all_built_ins_and_only_known_kinds() -> None:
    assert set(TABLE) == set(witnesses())
    assert set().union(*TABLE.values()) == set(KINDS)
    assert {kind for case in cases() for kind in case.edges} <= set(KINDS)


@pytest.mark.parametrize("name", TABLE)
def test_at_edges_of_every_kind(name: str) -> None:
    tried = set().union(*(case.edges for case in BY_NAME[name]))
    assert TABLE[name] <= tried, f"no case: {', '.join(TABLE[name] - tried)}"


@pytest.mark.parametrize("name", TABLE)
def test_in_three_settings(name: str) -> None:
    """At benign points, unless there is nothing to set."""
    arguments = {*originals.newest(name).signature.parameters} - {"name", "dtype", "max_fun"}
    tried = {settings(case) for case in BY_NAME[name] if not case.edges - {"ignored"}}
    assert len(tried) >= (3 if arguments else 1)


def test_an_edge_is_told_from_a_benign_point() -> None:
    assert Case("x", "clip, kinks: at 0", {}).edges == {"clip", "kinks"}
    assert Case("x", "benign", {}).edges == frozenset()


def test_what_no_arithmetic_has_rounded_is_equal_to_the_last_bit() -> None:
    wanted = originals.Answer(of_torch.np.array([0.0, 0.1]), {})
    nearly = originals.Answer(of_torch.np.array([1e-16, 0.1]), {})
    originals.assert_same(nearly, wanted, Case("x", "benign", {}))
    with pytest.raises(AssertionError):
        originals.assert_same(nearly, wanted, Case("x", "kinks: at 0", {}))
