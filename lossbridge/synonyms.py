"""What losses and their settings are called elsewhere, and what that is here.

Data, and the one place for it: messages suggest by meaning from these tables before they suggest by
spelling. Names are those of torch, torchvision, Keras and KerasCV, optax, MONAI,
segmentation_models_pytorch, pytorch-metric-learning, sentence-transformers, kornia, timm, fastai,
detectron2 and mmdetection, scikit-learn, transformers and TRL, and of papers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from lossbridge.errors import suggestion


@dataclass(frozen=True)
class Here:
    """What something is here: the call that makes it, and what differs where it is not the same."""

    call: str
    note: str = ""


def key(name: str) -> str:
    """A name without its module, its capitals, its underscores and the word ``loss``."""
    bare = re.sub(r"[^a-z0-9]", "", name[-64:].rpartition(".")[2].lower())
    for ending in ("lossfunction", "lossfn", "loss", "criterion"):
        if bare.endswith(ending) and bare != ending:
            return bare.removesuffix(ending)
    return bare


def _table(*rows: tuple[str, str] | tuple[str, str, str]) -> Mapping[str, Here]:
    """Rows of names, the call, and a note; a name stands without ``loss``, as ``key`` makes it."""
    found: dict[str, Here] = {}
    for names, *here in rows:
        for name in names.split():
            assert name not in found, name
            found[name] = Here(*here)
    return found


_NO_QUANTILE = "it is the quantile 0.5; write another one as a loss of your own, with define"
_RATIO = "with alpha=beta=1 its ratio is the intersection over the union"
_BOXES = "of boxes there is none; this is the usual loss of their coordinates"
_ROBUST = "it too grows linearly, with a quadratic middle"
_ADVERSARIAL = "of the critic; a generator's is -critic(fake).mean()"

LOSSES: Final[Mapping[str, Here]] = _table(
    # regression
    ("mae meanabsoluteerror l1norm absoluteerror mad absolutedifference", "L1Loss()"),
    (
        "meansquarederror squarederror l2norm quadratic leastsquares euclidean meansquare",
        "MSELoss()",
    ),
    (
        "rmse rootmeansquarederror rms",
        "MSELoss()",
        "its square root is the RMSE: L.MSELoss()(...) ** 0.5",
    ),
    ("l2", "MSELoss()", "optax's l2_loss is half of it"),
    ("huberl1 pseudohuber smoothmae charbonnier robust generalcharbonnier", "HuberLoss()", _ROBUST),
    ("l1cutoff l1smooth fastrcnnbox", "SmoothL1Loss()"),
    (
        "barron cauchy welsch gemanmcclure tukey wing adaptivewing balancedl1",
        "HuberLoss()",
        _ROBUST,
    ),
    ("lncosh logcoshine coshlog", "LogCoshLoss()"),
    ("meanabsolutepercentageerror mapeerror smape symmetricmape wape", "MAPELoss()"),
    ("meansquaredlogarithmicerror rmsle logmse", "MSLELoss()"),
    (
        "quantile pinball multiquantile quantileregression expectile tilted",
        "L1Loss()",
        _NO_QUANTILE,
    ),
    ("poisson poissonregression countnll tweedie", "PoissonNLLLoss()"),
    ("gaussian normalnll gaussiannegativeloglikelihood heteroscedastic", "GaussianNLLLoss()"),
    # classification
    (
        "ce categoricalcrossentropy sparsecategoricalcrossentropy softmaxcrossentropy xentropy "
        "softmaxcrossentropywithintegerlabels softmaxcrossentropywithlogits softmax multinomial "
        "sparsesoftmaxcrossentropywithlogits crossentropyflat crossentropyloss2d log "
        "softtargetcrossentropy densecrossentropy forcausallm forsequenceclassification "
        "fortokenclassification formaskedlm causallm multiclass safesoftmaxcrossentropy",
        "CrossEntropyLoss()",
    ),
    (
        "labelsmoothingcrossentropy labelsmoothing labelsmoothed smoothcrossentropy "
        "softcrossentropy labelsmoothingcrossentropyflat labelsmoothednll",
        "CrossEntropyLoss(label_smoothing=0.1)",
    ),
    (
        "binarycrossentropy bcelogits sigmoidbinarycrossentropy sigmoidcrossentropy "
        "sigmoidcrossentropywithlogits binarycrossentropywithlogits bcewithlogitslossflat "
        "bcewithlogitsflat softbcewithlogits logistic binarylog binary multilabel "
        "sigmoidbce bcelogit",
        "BCEWithLogitsLoss()",
        "it takes logits; BCELoss takes probabilities",
    ),
    ("binarycrossentropyprobabilities probabilitybce", "BCELoss()"),
    ("negativeloglikelihood loglikelihood", "NLLLoss()", "it takes log-probabilities"),
    (
        "categoricalfocalcrossentropy softmaxfocal multiclassfocal focalcrossentropy "
        "sparsecategoricalfocal",
        "FocalLoss()",
    ),
    (
        "binaryfocalcrossentropy sigmoidfocal sigmoidfocalcrossentropy focalbinary retinanet "
        "binaryfocalwithlogits focalwithlogits focalbce",
        "BinaryFocalLoss()",
    ),
    (
        "asymmetric asl asymmetricmultilabel asymmetricsinglelabel qualityfocal varifocal",
        "BinaryFocalLoss()",
        "it has one gamma for both kinds of label",
    ),
    (
        "categoricalgeneralizedcrossentropy gce truncatedcrossentropy",
        "GeneralizedCrossEntropyLoss()",
    ),
    ("poly1 poly1crossentropy polyloss1 polycrossentropy1 poly", "PolyCrossEntropyLoss()"),
    (
        "linearcrossentropyfused fusedlinearcrossentropy ligerfusedlinearcrossentropy "
        "cutcrossentropy chunkedcrossentropy fusedcrossentropy",
        "LinearCrossEntropyLoss(in_features=8, num_classes=3)",
    ),
    ("listnet listwisesoftmax softmaxranking listmle", "RankingSoftmaxLoss()"),
    ("sigmoidsparsemax", "BinarySparsemaxLoss()"),
    ("multiclasssparsemax entmax entmax15", "SparsemaxLoss()"),
    # margins
    ("maxmargin svm binaryhinge", "HingeLoss()"),
    ("squaredmaxmargin hingesquared l2hinge", "SquaredHingeLoss()"),
    ("categoricalhinge multiclasssvm crammersinger", "MulticlassHingeLoss()"),
    ("multilabelmarginloss2 multilabelhinge", "MultiLabelMarginLoss()"),
    ("marginrank pairwiseranking ranking pairwisehinge rankhinge", "MarginRankingLoss()"),
    ("logisticmargin softmarginlogistic", "SoftMarginLoss()"),
    # divergences
    (
        "kl kldivergence kullbackleibler kullbackleiblerdivergence kldivergencewithlogtargets "
        "distillation kldistillation",
        "KLDivLoss()",
        "it takes log-probabilities, and reduction='batchmean' is the mathematical value",
    ),
    ("convexkldivergence generalizedkldivergence igeneralizedkl", "GeneralizedKLDivLoss()"),
    # segmentation
    ("softdice binarydice multiclassdice dicecoefficient sorensendice f1", "DiceLoss()"),
    (
        "iou jaccard softjaccard softiou jaccardindex intersectionoverunion lovasz lovaszsoftmax "
        "lovaszhinge",
        "TverskyLoss(alpha=1.0, beta=1.0)",
        _RATIO,
    ),
    ("giou diou ciou generalizediou completeiou distanceiou boxiou eiou", "SmoothL1Loss()", _BOXES),
    (
        "focaltversky asymmetricunifiedfocal",
        "TverskyLoss()",
        "the focal form is a power of each sample's loss, taken with reduction='none'",
    ),
    ("generalizeddicescore gdl gdice generaliseddice", "GeneralizedDiceLoss()"),
    (
        "dicece combo bcedice dicebce dicefocal dicecrossentropy",
        "WeightedLoss({'dice': DiceLoss(), 'ce': BCEWithLogitsLoss()})",
    ),
    # metric learning
    (
        "contrastive pairwisecontrastive cosineembeddingmargin onlinecontrastive",
        "CosineEmbeddingLoss()",
    ),
    (
        "multiplenegativesranking multiplenegatives mnrl cached clip info nce siglip",
        "InfoNCELoss()",
    ),
    (
        "ntxentcrossentropy simclr normalizedtemperaturecrossentropy normalizedsoftmaxntxent",
        "NTXentLoss()",
    ),
    (
        "supcon supervisedcontrastive supervisedcontrastivelearning supcontrast multipositive",
        "NTXentLoss()",
        "each positive pair has a term of its own; SupCon averages an anchor's",
    ),
    (
        "triplet tripletmarginlosswithminer batchhardtriplet tripletsemihard batchalltriplet "
        "tripletsemihardmining triplethard tripletsoftmargin",
        "TripletMarginLoss()",
        "the triplets are given; mine them before",
    ),
    (
        "additiveangularmargin arcmargin cosface sphereface amsoftmax additivemarginsoftmax "
        "subcenterarcface largemargincosine arcmarginproduct largemarginsoftmax",
        "ArcFaceLoss(num_classes=3, embedding_size=8)",
    ),
    ("circlesimilarity multisimilarity", "CircleLoss()"),
    ("cosine cosineproximity", "CosineSimilarityLoss()"),
    ("cosinedist cosinedistancesimilarity", "CosineDistanceLoss()"),
    # sequences, adversaries, features, penalties
    ("ctcforwardbackward ctcbatchcost connectionisttemporalclassification ctcnll", "CTCLoss()"),
    (
        "wasserstein wgan wassersteingan wgancritic critic gan",
        "WassersteinCriticLoss()",
        _ADVERSARIAL,
    ),
    ("wgangp gradientpenaltywgan gp r1 lipschitz", "GradientPenaltyLoss()"),
    ("pinn pde physicsinformed residual heatequation", "PDEResidualLoss()"),
    ("lpips vgg vggperceptual feature content featurematching", "PerceptualLoss()"),
    ("l1regularizer l1regularization lasso l1reg", "L1Penalty()"),
    ("l2regularizer l2regularization ridge weightdecay l2reg tikhonov", "L2Penalty()"),
    ("l1l2 l1l2regularizer elasticnet elasticnetregularization", "ElasticNetPenalty()"),
    # combinations
    (
        "multitask multi sum combined combination compound joint",
        "WeightedLoss({'a': MSELoss(), 'b': L1Loss()})",
    ),
    (
        "uncertainty automaticweighted kendall multitaskuncertainty homoscedastic",
        "UncertaintyWeightedLoss({'a': MSELoss(), 'b': L1Loss()})",
    ),
)

SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    # what it is called elsewhere: what it is here, the first of these that a loss has
    "smoothing": ("label_smoothing", "smooth"),
    "smooth_factor": ("label_smoothing", "smooth"),
    "labelsmoothing": ("label_smoothing",),
    "label_smooth": ("label_smoothing",),
    "ls": ("label_smoothing",),
    "epsilon": ("eps", "smooth"),
    "eps": ("label_smoothing", "smooth", "epsilon"),
    "smooth_nr": ("smooth",),
    "smooth_dr": ("smooth",),
    "ignore_label": ("ignore_index",),
    "ignore_class": ("ignore_index",),
    "ignored_index": ("ignore_index",),
    "ignore_value": ("ignore_index",),
    "void_label": ("ignore_index",),
    "pad_idx": ("ignore_index",),
    "padding_idx": ("ignore_index",),
    "pad_token_id": ("ignore_index",),
    "class_weight": ("weight", "alpha"),
    "class_weights": ("weight", "alpha"),
    "weights": ("weight", "layer_weight"),
    "ce_weight": ("weight",),
    "balance": ("alpha",),
    "pos_weights": ("pos_weight",),
    "positive_weight": ("pos_weight",),
    "scale_pos_weight": ("pos_weight",),
    "size_average": ("reduction",),
    "reduce": ("reduction",),
    "agg": ("reduction",),
    "mean": ("reduction",),
    "avg_factor": ("normalizer",),
    "normalize": ("normalizer",),
    "denominator": ("normalizer",),
    "threshold": ("delta", "beta", "margin"),
    "beta": ("delta",),
    "delta": ("beta",),
    "gamma_focal": ("gamma",),
    "focal_gamma": ("gamma",),
    "focusing": ("gamma",),
    "focusing_param": ("gamma",),
    "focal_alpha": ("alpha",),
    "tau": ("temperature",),
    "temp": ("temperature",),
    "logit_scale": ("temperature", "scale"),
    "m": ("margin",),
    "s": ("scale",),
    "num_labels": ("num_classes",),
    "n_classes": ("num_classes",),
    "classes": ("num_classes",),
    "out_features": ("num_classes",),
    "vocab_size": ("num_classes",),
    "embedding_dim": ("embedding_size",),
    "embed_dim": ("embedding_size",),
    "in_features": ("embedding_size",),
    "feature_dim": ("embedding_size", "in_features"),
    "hidden_size": ("in_features", "embedding_size"),
    "blank_id": ("blank",),
    "blank_index": ("blank",),
    "zero_inf": ("zero_infinity",),
    "norm_degree": ("p",),
    "power": ("p", "gamma"),
    "lambda_gp": ("strength",),
    "gp_weight": ("strength",),
    "weight_decay": ("strength",),
    "l1": ("strength",),
    "l2": ("strength",),
    "lam": ("strength",),
    "lmbda": ("strength",),
    "coefficient": ("strength",),
    "dim": ("axis",),
    "class_axis": ("axis",),
    "channel_axis": ("axis",),
    "data_format": ("axis",),
    "log_targets": ("log_target",),
    "loss_weights": ("coefficients",),
    "weights_dict": ("coefficients",),
    "lambdas": ("coefficients",),
    "criteria": ("losses",),
    "loss_dict": ("losses",),
}

# Settings of other libraries that no constructor here has, and what to do instead.
INSTEAD: Final[Mapping[str, str]] = {
    "sigmoid": "the losses of probabilities take sigmoid(logits), those named ...WithLogits logits",
    "softmax": "the losses of probabilities take softmax(logits), CrossEntropyLoss logits",
    "activation": "apply the activation to the predictions before, or take a loss of logits",
    "to_onehot_y": "labels are integers; a loss of probabilities takes one_hot(labels)",
    "include_background": "leave the class out of the inputs, as in prediction[:, 1:]",
    "mode": "a binary loss has one output for each label, the others have one for each class",
    "sample_weight": "it is given at the call",
    "mask": "it is given at the call",
    "where": "it is given at the call, as mask",
    "normalizer_count": "it is given at the call, of a loss made with normalizer='external'",
    "num_items_in_batch": "L.as_hf(loss) takes it",
    "name": "only Keras names losses",
    "dtype": "the loss computes in the dtype of its inputs, float32 at least",
    "device": "arrays lie where they were made; move the loss with .to(device) on torch",
}


def settled_as(name: str, options: Iterable[str]) -> str:
    """Which of a loss's settings is called ``name`` elsewhere, or ``""``."""
    known = set(options)
    return next((here for here in SETTINGS.get(name, ()) if here in known), "")


def setting_hint(name: str, options: Iterable[str], reductions: bool = True) -> str:
    """What to write for a setting that a loss does not have: by meaning, then by spelling."""
    options = list(options)
    here = settled_as(name, options)
    if here == "reduction":
        return "; write reduction='mean', 'sum' or 'none'"
    if here:
        return f"; here it is {here}"
    if name in INSTEAD:
        return f"; {INSTEAD[name]}"
    return suggestion(name, options)


def class_hint(name: str, available: Iterable[str]) -> str:
    """What a loss called ``name`` elsewhere is here: by meaning, then by spelling."""
    names = list(available)
    wanted = key(name)
    own = {key(n): n for n in sorted(names, key=lambda n: n[:1].isupper())}
    exact = built_in(name)
    exact = f"; L.native({exact!r}) is that one exactly" if exact else ""
    if wanted in own and own[wanted][:1].isupper():
        return f"; here it is L.{own[wanted]}{exact}"
    here = LOSSES.get(wanted)
    if here is None or here.call.partition("(")[0] not in names:
        # Without the word "loss", which every name shares; with it (MSELos) where almost all is it.
        near = difflib.get_close_matches(wanted, own, n=1, cutoff=0.7)
        if not near:
            whole = {n.lower(): key(n) for n in names}
            typed = difflib.get_close_matches(name.lower(), whole, n=1, cutoff=0.85)
            near = [whole[n] for n in typed]
        return f"; did you mean {own[near[0]]}?" if near else exact
    call = re.sub(r"\b([A-Z]\w+)\(", r"L.\1(", here.call)
    said = f"; here it is {call}" if not here.note else f"; the nearest here is {call}: {here.note}"
    return said + exact


def built_in(name: str) -> str:
    """The built-in of torch, Keras or optax that has exactly this name, or ``""``."""
    from lossbridge.witnesses import witnesses

    if name in witnesses():
        return name
    found = [n for n in witnesses() if n.rpartition(".")[2] == name.rpartition(".")[2]]
    return found[0] if len(found) == 1 else ""
