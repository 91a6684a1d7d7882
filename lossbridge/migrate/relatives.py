"""Which built-in of one framework is nearest to which of another: stated here, and nowhere else.

Of two losses that a user would take for one another, a pair says so, with the arguments that bring
them nearest. The first pair in which a built-in meets a framework names its nearest relative there.
Whether they are the same function is not said here: that is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lossbridge.witnesses.witness import FRAMEWORKS

Pair = tuple[str, str]


@dataclass(frozen=True)
class Family:
    """Built-ins for one purpose: a page of the documentation."""

    id: str
    title: str
    about: str
    pairs: tuple[Pair, ...]
    alone: tuple[str, ...] = ()
    """Members in no pair."""
    alike: tuple[tuple[str, str], ...] = ()
    """Parameters of two names that are one: of the meanings, not of the originals."""

    @property
    def members(self) -> tuple[str, ...]:
        """Every built-in of the family, framework by framework, in the order of first mention."""
        found = dict.fromkeys([*(name_of(x) for p in self.pairs for x in p), *self.alone])
        order = list(FRAMEWORKS)
        return tuple(sorted(found, key=lambda n: order.index(n.rpartition(".")[0])))


def name_of(expression: str) -> str:
    """``torch.nn.HuberLoss`` of ``torch.nn.HuberLoss(delta=2.0)``."""
    return expression.partition("(")[0]


def module_of(expression: str) -> str:
    """``torch.nn`` of ``torch.nn.HuberLoss(delta=2.0)``."""
    return name_of(expression).rpartition(".")[0]


def _pairs(text: str) -> tuple[Pair, ...]:
    """Pairs, one a line: ``A() ~ B()``; short names stand for ``torch.nn.A`` and so on."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        left, right = line.split(" ~ ")
        found.append((_full(left), _full(right)))
    return tuple(found)


SHORT: Mapping[str, str] = {
    "nn.": "torch.nn.",
    "keras.": "keras.losses.",
    "optax.": "optax.losses.",
}


def _full(expression: str) -> str:
    prefix = next(p for p in SHORT if expression.startswith(p))
    return SHORT[prefix] + expression.removeprefix(prefix)


FAMILIES: tuple[Family, ...] = (
    Family(
        "squared-error",
        "Squared error",
        "One formula everywhere; only `l2_loss` halves it.",
        _pairs("""
            nn.MSELoss() ~ keras.MeanSquaredError()
            nn.MSELoss() ~ optax.squared_error()
            keras.MeanSquaredError() ~ optax.squared_error()
            nn.MSELoss() ~ optax.l2_loss()
            keras.MeanSquaredError() ~ optax.l2_loss()
        """),
    ),
    Family(
        "absolute-error",
        "Absolute error",
        "Optax has no absolute error; written with `jnp.abs` its gradient at 0 is 1, not 0.",
        _pairs("nn.L1Loss() ~ keras.MeanAbsoluteError()"),
    ),
    Family(
        "relative-error",
        "Relative and logarithmic error",
        "Keras alone has these two.",
        (),
        ("keras.losses.MeanAbsolutePercentageError", "keras.losses.MeanSquaredLogarithmicError"),
    ),
    Family(
        "huber",
        "Huber and smooth L1",
        "Two names and two scales: smooth L1 with `beta` is Huber with `delta=beta`, divided by "
        "`delta`. At 1, the default of both, nothing shows it.",
        _pairs("""
            nn.HuberLoss(delta=2.0) ~ keras.Huber(delta=2.0)
            nn.HuberLoss(delta=2.0) ~ optax.huber_loss(delta=2.0)
            keras.Huber(delta=2.0) ~ optax.huber_loss(delta=2.0)
            nn.SmoothL1Loss(beta=2.0) ~ keras.Huber(delta=2.0)
            nn.SmoothL1Loss(beta=2.0) ~ optax.huber_loss(delta=2.0)
        """),
        alike=(("beta", "delta"),),
    ),
    Family(
        "log-cosh",
        "Logarithm of cosh",
        "PyTorch has none.",
        _pairs("keras.LogCosh() ~ optax.log_cosh()"),
    ),
    Family(
        "likelihood",
        "Poisson and Gaussian likelihoods",
        "PyTorch's Poisson loss takes the logarithm of the rate by default, Keras's the rate.",
        _pairs("nn.PoissonNLLLoss(log_input=False, eps=1e-7) ~ keras.Poisson()"),
        ("torch.nn.GaussianNLLLoss",),
    ),
    Family(
        "binary-cross-entropy",
        "Binary cross-entropy",
        "What it takes decides: logits in optax and in `BCEWithLogitsLoss`, probabilities in "
        "`BCELoss` and, by default, in Keras. Probabilities are kept from 0 and 1 by constants of "
        "different size, and there the gradients differ most.",
        _pairs("""
            nn.BCELoss() ~ keras.BinaryCrossentropy()
            nn.BCEWithLogitsLoss() ~ keras.BinaryCrossentropy(from_logits=True)
            nn.BCEWithLogitsLoss() ~ optax.sigmoid_binary_cross_entropy()
            keras.BinaryCrossentropy(from_logits=True) ~ optax.sigmoid_binary_cross_entropy()
            nn.BCELoss() ~ optax.sigmoid_binary_cross_entropy()
            nn.MultiLabelSoftMarginLoss() ~ keras.BinaryCrossentropy(from_logits=True)
            nn.MultiLabelSoftMarginLoss() ~ optax.sigmoid_binary_cross_entropy()
            nn.SoftMarginLoss() ~ keras.BinaryCrossentropy(from_logits=True)
            nn.SoftMarginLoss() ~ optax.sigmoid_binary_cross_entropy()
        """),
    ),
    Family(
        "cross-entropy-labels",
        "Cross-entropy of integer labels",
        "PyTorch and optax take logits, Keras probabilities unless told otherwise; PyTorch keeps "
        "the classes on axis 1 and leaves out the label -100.",
        _pairs("""
            nn.CrossEntropyLoss() ~ \
keras.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
            nn.CrossEntropyLoss() ~ optax.softmax_cross_entropy_with_integer_labels()
            keras.SparseCategoricalCrossentropy(from_logits=True) ~ \
optax.softmax_cross_entropy_with_integer_labels()
            nn.NLLLoss() ~ keras.SparseCategoricalCrossentropy(ignore_class=-100)
            nn.NLLLoss() ~ optax.softmax_cross_entropy_with_integer_labels()
        """),
        ("torch.nn.LinearCrossEntropyLoss",),
    ),
    Family(
        "cross-entropy-distributions",
        "Cross-entropy of distributions",
        "Targets are one-hot rows or other distributions over the classes. "
        "`torch.nn.CrossEntropyLoss` takes them too, by their dtype.",
        _pairs("""
            nn.CrossEntropyLoss() ~ keras.CategoricalCrossentropy(from_logits=True)
            nn.CrossEntropyLoss() ~ optax.softmax_cross_entropy()
            keras.CategoricalCrossentropy(from_logits=True) ~ optax.softmax_cross_entropy()
            nn.CrossEntropyLoss() ~ optax.safe_softmax_cross_entropy()
            keras.CategoricalCrossentropy(from_logits=True) ~ optax.safe_softmax_cross_entropy()
            nn.CrossEntropyLoss() ~ optax.poly_loss_cross_entropy(epsilon=0.0)
            keras.CategoricalCrossentropy(from_logits=True) ~ \
optax.poly_loss_cross_entropy(epsilon=0.0)
            nn.CrossEntropyLoss() ~ optax.ranking_softmax_loss()
            keras.CategoricalCrossentropy(from_logits=True) ~ optax.ranking_softmax_loss()
        """),
        ("optax.losses.smooth_labels",),
    ),
    Family(
        "focal",
        "Focal and generalised cross-entropy",
        "PyTorch has none of these; without focus (`gamma=0`) focal loss is cross-entropy.",
        _pairs("""
            keras.BinaryFocalCrossentropy(from_logits=True) ~ optax.sigmoid_focal_loss()
            nn.BCEWithLogitsLoss() ~ \
keras.BinaryFocalCrossentropy(from_logits=True, gamma=0.0)
            nn.BCEWithLogitsLoss() ~ optax.sigmoid_focal_loss(gamma=0.0)
            nn.CrossEntropyLoss() ~ \
keras.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0, gamma=0.0)
            keras.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0, gamma=0.0) ~ \
optax.softmax_cross_entropy()
        """),
        ("keras.losses.CategoricalGeneralizedCrossEntropy",),
    ),
    Family(
        "kl-divergence",
        "Divergences",
        "PyTorch and optax take the logarithms of the predictions, Keras the probabilities; and "
        "PyTorch's `mean` divides by the number of elements, so that only "
        '`reduction="batchmean"` is a divergence.',
        _pairs("""
            nn.KLDivLoss(reduction="batchmean") ~ keras.KLDivergence()
            nn.KLDivLoss(reduction="batchmean") ~ optax.kl_divergence()
            keras.KLDivergence() ~ optax.kl_divergence()
            nn.KLDivLoss(reduction="batchmean", log_target=True) ~ \
optax.kl_divergence_with_log_targets()
            keras.KLDivergence() ~ optax.kl_divergence_with_log_targets()
            nn.KLDivLoss(reduction="batchmean") ~ optax.generalized_kl_divergence()
            keras.KLDivergence() ~ optax.generalized_kl_divergence()
            nn.KLDivLoss(reduction="batchmean") ~ optax.convex_kl_divergence()
            keras.KLDivergence() ~ optax.convex_kl_divergence()
        """),
    ),
    Family(
        "hinge",
        "Hinge and perceptron",
        "`torch.nn.HingeEmbeddingLoss` is no hinge loss of a score: it takes a distance. "
        "PyTorch's hinge is `MarginRankingLoss` against 0.",
        _pairs("""
            nn.MarginRankingLoss(margin=1.0) ~ keras.Hinge()
            nn.MarginRankingLoss() ~ optax.perceptron_loss()
            nn.MarginRankingLoss(margin=1.0) ~ optax.hinge_loss()
            keras.Hinge() ~ optax.hinge_loss()
            nn.HingeEmbeddingLoss() ~ keras.Hinge()
            nn.HingeEmbeddingLoss() ~ optax.hinge_loss()
            keras.SquaredHinge() ~ optax.hinge_loss()
            keras.Hinge() ~ optax.perceptron_loss()
        """),
    ),
    Family(
        "multiclass-hinge",
        "Hinge losses of several classes",
        "PyTorch adds up what every class lacks and divides by their number; Keras and optax take "
        "the worst class alone.",
        _pairs("""
            nn.MultiMarginLoss() ~ keras.CategoricalHinge()
            nn.MultiMarginLoss() ~ optax.multiclass_hinge_loss()
            keras.CategoricalHinge() ~ optax.multiclass_hinge_loss()
            nn.MultiMarginLoss(margin=0.0) ~ optax.multiclass_perceptron_loss()
            keras.CategoricalHinge() ~ optax.multiclass_perceptron_loss()
        """),
        ("torch.nn.MultiLabelMarginLoss",),
    ),
    Family(
        "sparsemax",
        "Sparsemax and Fenchel-Young losses",
        "Optax alone has these.",
        (),
        (
            "optax.losses.sparsemax_loss",
            "optax.losses.multiclass_sparsemax_loss",
            "optax.losses.make_fenchel_young_loss",
        ),
    ),
    Family(
        "cosine",
        "Cosine similarity",
        "Keras's loss is the cosine negated, optax has the cosine and one minus it, and PyTorch's "
        "takes a label that says whether two vectors belong together.",
        _pairs("""
            keras.CosineSimilarity() ~ optax.cosine_similarity()
            keras.CosineSimilarity() ~ optax.cosine_distance()
            nn.CosineEmbeddingLoss() ~ optax.cosine_distance()
            nn.CosineEmbeddingLoss() ~ keras.CosineSimilarity()
            nn.CosineEmbeddingLoss() ~ optax.cosine_similarity()
        """),
    ),
    Family(
        "triplet",
        "Triplets",
        "Keras has none. PyTorch adds its epsilon to each difference, optax to the sum of squares.",
        _pairs("""
            nn.TripletMarginLoss() ~ optax.triplet_margin_loss()
            nn.TripletMarginWithDistanceLoss() ~ optax.triplet_margin_loss()
        """),
    ),
    Family(
        "contrastive",
        "Pairs of embeddings",
        "PyTorch has none; those of Keras and optax serve one purpose by different formulas.",
        _pairs("keras.Circle() ~ optax.ntxent()"),
    ),
    Family(
        "overlap",
        "Dice and Tversky",
        "PyTorch has none. Keras pools the whole batch into one overlap, optax takes each sample "
        "and each class by itself, and expects logits.",
        _pairs("""
            keras.Dice() ~ optax.binary_dice_loss(smooth=0.0)
            keras.Dice() ~ optax.dice_loss(smooth=0.0)
            keras.Tversky(alpha=0.3, beta=0.7) ~ optax.dice_loss(alpha=0.7, beta=0.3, smooth=0.0)
            keras.Dice() ~ optax.multiclass_generalized_dice_loss(smooth=0.0)
        """),
        alike=(("alpha", "excess"), ("beta", "missing")),
    ),
    Family(
        "ctc",
        "Alignments of sequences",
        "PyTorch takes log-probabilities and lengths, optax logits and paddings, Keras logits and "
        "labels padded with 0.",
        _pairs("""
            nn.CTCLoss() ~ keras.CTC()
            nn.CTCLoss() ~ optax.ctc_loss()
            keras.CTC() ~ optax.ctc_loss()
            nn.CTCLoss() ~ optax.ctc_loss_with_forward_probs()
            keras.CTC() ~ optax.ctc_loss_with_forward_probs()
        """),
        alike=(("blank_id", "blank"),),
    ),
)


@lru_cache(maxsize=1)
def homes() -> Mapping[str, Family]:
    """The family of each built-in: the first that has it as a member."""
    found: dict[str, Family] = {}
    for family in FAMILIES:
        for name in family.members:
            found.setdefault(name, family)
    return found


def nearest(name: str, module: str) -> Pair | None:
    """The pair of a built-in and its nearest relative in another framework, or None."""
    for family in (homes()[name], *FAMILIES):
        for pair in family.pairs:
            names = [name_of(x) for x in pair]
            if name in names and module in map(module_of, pair):
                return pair
    return None


def pairs() -> Iterator[Pair]:
    """Every pair, once."""
    yield from dict.fromkeys(pair for family in FAMILIES for pair in family.pairs)


OURS: Mapping[str, str] = {
    "torch.nn.TripletMarginWithDistanceLoss": "TripletMarginLoss()",
    "keras.losses.CosineSimilarity": "CosineSimilarityLoss()",
    "keras.losses.CategoricalHinge": "MulticlassHingeLoss()",
    "keras.losses.BinaryCrossentropy": "BCELoss()",
    "keras.losses.BinaryFocalCrossentropy": "BinaryFocalLoss()",
    "keras.losses.CategoricalCrossentropy": "CrossEntropyLoss()",
    "keras.losses.CategoricalFocalCrossentropy": "FocalLoss()",
    "keras.losses.SparseCategoricalCrossentropy": "CrossEntropyLoss()",
    "keras.losses.CategoricalGeneralizedCrossEntropy": "GeneralizedCrossEntropyLoss(q=0.5)",
    "keras.losses.Dice": "DiceLoss(smooth=1e-7)",
    "keras.losses.Tversky": "TverskyLoss(smooth=1e-7)",
    "keras.losses.Circle": "CircleLoss()",
    "keras.losses.KLDivergence": 'KLDivLoss(reduction="batchmean")',
    "keras.losses.CTC": 'CTCLoss(normalizer="batch")',
    "optax.losses.cosine_similarity": "CosineSimilarityLoss()",
    "optax.losses.cosine_distance": "CosineDistanceLoss()",
    "optax.losses.sigmoid_focal_loss": "BinaryFocalLoss()",
    "optax.losses.softmax_cross_entropy": "CrossEntropyLoss()",
    "optax.losses.safe_softmax_cross_entropy": "CrossEntropyLoss()",
    "optax.losses.poly_loss_cross_entropy": "PolyCrossEntropyLoss(epsilon=2.0)",
    "optax.losses.softmax_cross_entropy_with_integer_labels": "CrossEntropyLoss()",
    "optax.losses.multiclass_hinge_loss": "MulticlassHingeLoss()",
    "optax.losses.multiclass_perceptron_loss": "MulticlassPerceptronLoss()",
    "optax.losses.multiclass_sparsemax_loss": "SparsemaxLoss()",
    "optax.losses.ranking_softmax_loss": "RankingSoftmaxLoss()",
    "optax.losses.kl_divergence": 'KLDivLoss(reduction="batchmean")',
    "optax.losses.kl_divergence_with_log_targets": (
        'KLDivLoss(log_target=True, reduction="batchmean")'
    ),
    "optax.losses.generalized_kl_divergence": 'GeneralizedKLDivLoss(reduction="batchmean")',
    "optax.losses.convex_kl_divergence": 'GeneralizedKLDivLoss(reduction="batchmean")',
    "optax.losses.multiclass_generalized_dice_loss": "GeneralizedDiceLoss()",
    "optax.losses.ntxent": "NTXentLoss(temperature=0.07)",
    "optax.losses.ctc_loss": 'CTCLoss(normalizer="batch")',
    "optax.losses.ctc_loss_with_forward_probs": 'CTCLoss(normalizer="batch")',
}
"""Our own class for what serves one purpose with a built-in whose meaning does not stand on it.

The others stand on a loss of the catalogue, and that is their class.
"""


__all__ = ["FAMILIES", "OURS", "Family", "homes", "name_of", "nearest", "pairs"]
