"""The traps: where a loss means something else than a reader of another framework expects.

Each is told once, here. Its code is run by ``python tools/regen.py --measure``, and what it prints
stands in the page.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trap:
    """One trap. ``code`` follows :data:`PRELUDE`; ``says`` and ``do`` are Markdown."""

    id: str
    title: str
    says: str
    code: str
    do: str


PRELUDE = '''\
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import tensorflow as tf
import torch


def show(what, *values):
    """Print numbers of any framework, with five digits."""
    arrays = (np.asarray(getattr(v, "detach", lambda v=v: v)(), np.float64) for v in values)
    print(f"{what}:", *(" ".join(f"{x:.5g}" for x in a.ravel()) or "(nothing)" for a in arrays))


def attempt(what, call):
    """Print what a call gives, or the error that it raises."""
    try:
        show(what, call())
    except Exception as error:
        print(f"{what}: raises {type(error).__name__}")
'''

TRAPS: tuple[Trap, ...] = (
    Trap(
        "logits-or-probabilities",
        "Logits where probabilities are expected, and the other way round",
        "PyTorch's `CrossEntropyLoss` and all of optax take logits. Keras takes probabilities "
        "unless it is told `from_logits=True`. Neither notices the other: Keras clips logits to "
        "[1e-7, 1 - 1e-7], which leaves a number without a useful gradient; PyTorch takes a "
        "second softmax of the probabilities, and can then no longer be sure of anything: with "
        "three classes its loss never falls below 0.5514.",
        """\
logits, labels = np.float32([[4.0, 1.0, -2.0]]), np.array([0])
probabilities = np.asarray(tf.nn.softmax(logits))
entropy = torch.nn.CrossEntropyLoss()
show("torch, of logits", entropy(torch.tensor(logits), torch.tensor(labels)))
show("torch, of probabilities", entropy(torch.tensor(probabilities), torch.tensor(labels)))
keras_entropy = keras.losses.SparseCategoricalCrossentropy
show("Keras, of logits, from_logits=True", keras_entropy(from_logits=True)(labels, logits))
show("Keras, of logits", keras_entropy()(labels, logits))
show("Keras, of probabilities", keras_entropy()(labels, probabilities))
""",
        "Take logits everywhere: `from_logits=True` on Keras, no softmax in the last layer. Ours "
        "say in their names and arguments what they take: `CrossEntropyLoss(logits, labels)` on "
        "all three platforms, `NLLLoss` and `BCELoss` for the others.",
    ),
    Trap(
        "five-divisors",
        "A mean divides by five different numbers",
        "One batch of four, the same three class weights: PyTorch divides by the sum of the "
        "weights of the labels; but not if the targets are distributions, and then by the number "
        "of samples. Keras's class weights become sample weights, and its mean divides by the "
        "number of samples; one of its reductions divides by the sum of the weights. Others are "
        "the batch size (`batchmean`), the samples that a mask leaves (Keras), and the lengths of "
        "the targets (`CTCLoss`).",
        """\
logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])
weight = torch.tensor([1.0, 2.0, 4.0])
one_hot = torch.nn.functional.one_hot(labels, 3).float()
entropy = torch.nn.CrossEntropyLoss(weight=weight)
show("torch, integer labels", entropy(logits, labels))
show("torch, the same labels as one-hot rows", entropy(logits, one_hot))
given = dict(y_true=labels.numpy(), y_pred=logits.numpy(), sample_weight=weight[labels].numpy())
for reduction in ("sum_over_batch_size", "mean_with_sample_weight", "sum"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    show(f"Keras, {reduction}", loss(**given))
""",
        "State the divisor. Ours take `normalizer=`, which means the same everywhere: "
        "`CrossEntropyLoss(weight=w)` divides by the class weights, as PyTorch does, and sample "
        "weights, as Keras makes of `class_weight=`, do not enter its divisor; with "
        '`normalizer="elements"` no weight does, and with `normalizer="weights"` all do '
        "([what a mean divides by](../normalizers.md)).",
    ),
    Trap(
        "kl-mean",
        "The mean of `torch.nn.KLDivLoss` is not a divergence",
        'Its `mean` divides by the number of elements, its `reduction="batchmean"` by the length '
        "of the first axis only. Keras and optax sum over the classes and average over all else. "
        "So for (batch, classes) the three agree with `batchmean`; for (batch, time, classes) "
        "`batchmean` is larger by the number of time steps. PyTorch announces that a later release "
        "will take `mean` for `batchmean`.",
        """\
q = np.float32([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
p = np.float32([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
for shape in ((2, 3), (1, 2, 3)):
    log_q, target = torch.tensor(np.log(q)).reshape(shape), torch.tensor(p).reshape(shape)
    for reduction in ("mean", "batchmean"):
        loss = torch.nn.KLDivLoss(reduction=reduction)
        show(f"torch, {shape}, {reduction}", loss(log_q, target))
    show(f"Keras, {shape}", keras.losses.KLDivergence()(p.reshape(shape), q.reshape(shape)))
    values = optax.losses.kl_divergence(np.log(q).reshape(shape), p.reshape(shape))
    show(f"optax, {shape}", values.mean())
""",
        'Pass `reduction="batchmean"`, and flatten all but the classes first. '
        '`lossbridge.keras.native("torch.nn.KLDivLoss", reduction="batchmean")` carries it over '
        "as it is.",
    ),
    Trap(
        "last-axis-first",
        "Keras averages the last axis before anything else",
        "The reduction of a Keras loss sees values whose last axis is gone already. So `sum` is a "
        "sum of means, and on predictions of shape (N,) the only axis is averaged away before "
        "sample weights come: they no longer select samples.",
        """\
ones = np.ones((4, 5), np.float32)
show("torch, sum", torch.nn.MSELoss(reduction="sum")(torch.tensor(ones), torch.zeros(4, 5)))
show("Keras, sum", keras.losses.MeanSquaredError(reduction="sum")(0.0 * ones, ones))
loss = keras.losses.MeanSquaredError()
x, y, w = np.float32([1, 2]), np.float32([0, 0]), np.float32([1, 0])
show("Keras, (N, 1), weights 1 and 0", loss(y[:, None], x[:, None], sample_weight=w))
show("Keras, (N,), weights 1 and 0", loss(y, x, sample_weight=w))
""",
        "Give Keras predictions of two axes. Ours reduce once: `sum` is over all elements, and "
        "`sample_weight` is aligned to the batch axis whatever the rank.",
    ),
    Trap(
        "column-against-row",
        "Predictions of shape (N, 1) beside targets of shape (N,)",
        "Two of three broadcast them to N x N errors, and the model learns the mean. PyTorch "
        "warns, `huber_loss` of optax does not; its `squared_error` refuses, PyTorch's "
        "`BCELoss` too. Keras squeezes the trailing 1.",
        """\
import warnings
warnings.simplefilter("ignore")
x, y = np.float32([[1.0], [2.0], [3.0]]), np.float32([1.0, 2.0, 3.0])
show("torch MSELoss", torch.nn.MSELoss()(torch.tensor(x), torch.tensor(y)))
show("Keras MeanSquaredError", keras.losses.MeanSquaredError()(y, x))
show("optax huber_loss", optax.losses.huber_loss(x, y).mean())
attempt("optax squared_error", lambda: optax.losses.squared_error(x, y).mean())
import lossbridge.torch as L
attempt("ours", lambda: L.MSELoss()(torch.tensor(x), torch.tensor(y)))
""",
        "Squeeze the prediction. Ours raise an error that shows both shapes and the call that "
        "works; on Keras alone they squeeze, because `fit` itself makes that pair.",
    ),
    Trap(
        "argument-order",
        "The order of the arguments",
        "PyTorch and optax take the prediction first, Keras the target. A symmetric loss hides the "
        "mistake; any other gives a plausible number.",
        """\
p, t = np.float32([[0.9, 0.2]]), np.float32([[1.0, 0.0]])
show("Keras BinaryCrossentropy, (target, prediction)", keras.losses.BinaryCrossentropy()(t, p))
show("Keras BinaryCrossentropy, (prediction, target)", keras.losses.BinaryCrossentropy()(p, t))
show("torch BCELoss, (prediction, target)", torch.nn.BCELoss()(torch.tensor(p), torch.tensor(t)))
show("torch BCELoss, (target, prediction)", torch.nn.BCELoss()(torch.tensor(t), torch.tensor(p)))
""",
        "Call by keyword. Ours take `prediction=` and `target=` (or `logits=` and `labels=`) on "
        "every platform, and by position the platform's order.",
    ),
    Trap(
        "saturated-cross-entropy",
        "In float32 a confident cross-entropy is exactly 0, and so is its gradient",
        "The true loss of a margin of 20 is 2.06e-9. All three subtract two numbers that are equal "
        "after rounding; training stops there.",
        """\
logits, labels = np.float32([[20.0, 0.0]]), np.array([0])
x = torch.tensor(logits, requires_grad=True)
loss = torch.nn.CrossEntropyLoss()(x, torch.tensor(labels))
show("torch", loss, *torch.autograd.grad(loss, x))
f = lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, labels).mean()
show("optax", *jax.value_and_grad(f)(jnp.asarray(logits)))
with tf.GradientTape() as tape:
    x = tf.Variable(logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, x)
show("Keras", loss, tape.gradient(loss, x))
import lossbridge.torch as L
x = torch.tensor(logits, requires_grad=True)
loss = L.CrossEntropyLoss()(x, torch.tensor(labels))
show("ours", loss, *torch.autograd.grad(loss, x))
""",
        "Nothing helps in the built-ins but float64. Our `CrossEntropyLoss` keeps full relative "
        "accuracy in value and gradient, in float32 too.",
    ),
    Trap(
        "saturated-sigmoid",
        "A stable value with an unstable gradient: binary cross-entropy",
        "At a logit of 20 and target 1 the gradient is -2.06e-9. PyTorch's is exactly 0, from the "
        "same formula as the other two, whose gradients are right.",
        """\
x = torch.tensor([20.0], requires_grad=True)
loss = torch.nn.BCEWithLogitsLoss()(x, torch.ones(1))
show("torch", loss, *torch.autograd.grad(loss, x))
f = lambda x: optax.losses.sigmoid_binary_cross_entropy(x, 1.0)
show("optax", *jax.value_and_grad(f)(20.0))
import lossbridge.torch as L
x = torch.tensor([20.0], requires_grad=True)
loss = L.BCEWithLogitsLoss()(x, torch.ones(1))
show("ours", loss, *torch.autograd.grad(loss, x))
""",
        "Our `BCEWithLogitsLoss` has both, on every platform.",
    ),
    Trap(
        "clipped-probabilities",
        "Probabilities are kept from 0 by different constants",
        "Keras clips the probability to [1e-7, 1 - 1e-7], so that the loss of a wrong certainty is "
        "16.118 and its gradient 0. PyTorch holds the logarithm at -100, and its gradient there is "
        "1e12.",
        """\
p = torch.zeros(1, requires_grad=True)
loss = torch.nn.BCELoss()(p, torch.ones(1))
show("torch", loss, *torch.autograd.grad(loss, p))
with tf.GradientTape() as tape:
    p = tf.Variable([[0.0]])
    loss = keras.losses.BinaryCrossentropy()(tf.ones((1, 1)), p)
show("Keras", loss, tape.gradient(loss, p))
""",
        "Compute from logits: `BCEWithLogitsLoss`, or `from_logits=True`. "
        '`native("keras.losses.BinaryCrossentropy")` keeps the clip where you need the old '
        "numbers.",
    ),
    Trap(
        "logits-behind-softmax",
        "Keras reads the logits behind a softmax, in some modes and not in others",
        "Given a tensor that a sigmoid or softmax made, Keras finds the logits it was made from "
        "and uses those, without the clip: always behind its own operations, and behind "
        "TensorFlow's in a graph. One line of source gives two numbers.",
        """\
def loss(logits):
    p = tf.nn.softmax(logits)
    return keras.losses.CategoricalCrossentropy()(tf.constant([[0.0, 1.0]]), p)

logits = tf.constant([[50.0, 0.0]])
show("eager", loss(logits))
show("in a tf.function", tf.function(loss)(logits))
""",
        "Give Keras logits and `from_logits=True`. Ours refuse a prediction that carries "
        "remembered logits, and say why.",
    ),
    Trap(
        "kinks",
        "Where a derivative jumps, each framework has its own",
        "`abs` at 0 has the gradient 0, 0 and 1; the larger of x and 0 has at 0 the gradient 1 "
        "(torch's `clamp`), 0 (torch's `relu`), 1 (TensorFlow) and 0.5 (JAX); the length of a zero "
        "vector has 0, NaN and NaN. So an L1 penalty on weights that start at 0 pushes them in JAX "
        "only.",
        """\
def torch_slope(f, *x):
    x = torch.tensor(x, requires_grad=True)
    return torch.autograd.grad(f(x).sum(), x)[0]

def tf_slope(f, *x):
    with tf.GradientTape() as tape:
        x = tf.Variable(x)
        y = f(x)
    return tape.gradient(y, x)

def jax_slope(f, *x):
    return jax.grad(lambda x: f(x).sum())(jnp.array(x))

show("abs at 0", torch_slope(torch.abs, 0.0), tf_slope(tf.abs, 0.0), jax_slope(jnp.abs, 0.0))
clamp = lambda x: x.clamp(min=0.0)
show("torch, max(x, 0) at 0", torch_slope(clamp, 0.0), torch_slope(torch.relu, 0.0))
show("TensorFlow, max(x, 0) at 0", tf_slope(lambda x: tf.maximum(x, 0.0), 0.0))
show("JAX, max(x, 0) at 0", jax_slope(lambda x: jnp.maximum(x, 0.0), 0.0))
show("torch, length of (0, 0)", torch_slope(torch.linalg.norm, 0.0, 0.0))
show("TensorFlow, length of (0, 0)", tf_slope(tf.norm, 0.0, 0.0))
show("JAX, length of (0, 0)", jax_slope(jnp.linalg.norm, 0.0, 0.0))
""",
        "In ours the subgradient is part of the definition and the same on every platform: 0 for "
        "`abs`, the middle at ties, 0 for the length of a zero vector. `native(...)` has each "
        "original's.",
    ),
    Trap(
        "nothing-to-average",
        "An empty batch, and one whose labels are all ignored",
        "PyTorch gives NaN (0 / 0), Keras 0 or, for an empty batch of rows, an empty array; optax "
        "leaves the division to the caller. One such batch ruins a PyTorch run; in Keras it passes "
        "unseen.",
        """\
labels = torch.full((2,), -100)
show("torch, all ignored", torch.nn.CrossEntropyLoss()(torch.zeros(2, 3), labels))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
show("Keras, all ignored", loss(labels.numpy(), np.zeros((2, 3), np.float32)))
show("torch, empty", torch.nn.MSELoss()(torch.zeros(0, 3), torch.zeros(0, 3)))
show("Keras, empty", keras.losses.MeanSquaredError()(np.zeros((0, 3)), np.zeros((0, 3))))
import lossbridge.torch as L
for empty in ("nan", "zero"):
    loss = L.CrossEntropyLoss(empty=empty)
    show(f"ours, empty={empty!r}", loss(torch.zeros(2, 3), labels))
""",
        'Ours take `empty="nan"` (the default) or `empty="zero"`, with the same meaning on every '
        "platform.",
    ),
    Trap(
        "zero-is-no-mask",
        "A weight of 0 does not mask a NaN",
        "Keras and optax multiply, and 0 times NaN is NaN. Nor does PyTorch's `ignore_index` "
        "protect: a NaN in an ignored row gives a gradient of NaN.",
        """\
x, y = np.float32([[1.0], [np.nan]]), np.float32([[0.0], [0.0]])
loss = keras.losses.MeanSquaredError()
show("Keras, weights 1 and 0", loss(y, x, sample_weight=np.float32([1, 0])))
show("optax, weights 1 and 0", (np.float32([[1], [0]]) * optax.losses.squared_error(x, y)).mean())
logits = torch.tensor([[torch.nan, 1.0], [0.0, 0.0]], requires_grad=True)
torch.nn.CrossEntropyLoss()(logits, torch.tensor([-100, 0])).backward()
show("torch, gradient with NaN in an ignored row", logits.grad)
import lossbridge.torch as L
mask = torch.tensor([True, False])
show("ours, masked", L.MSELoss()(torch.tensor(x), torch.tensor(y), mask=mask))
""",
        "Pass `mask=` to ours (`where=` on JAX): it selects, so that a masked NaN shows neither in "
        "the value nor in the gradient.",
    ),
    Trap(
        "bad-labels",
        "Labels that are no class",
        "PyTorch raises. Keras raises as well, but gives NaN when compiled with XLA. Optax counts "
        "-1 from the end, and gives NaN beyond the last class. PyTorch's -100 is an ignored label, "
        "to optax a label beyond the first class.",
        """\
logits = np.float32([[1.0, 2.0, 4.0]])
def in_torch(label):
    return torch.nn.CrossEntropyLoss()(torch.tensor(logits), torch.tensor([label]))

def in_keras(label):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return loss(np.array([label]), logits)

def in_optax(label):
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.array([label]))

for label in (2, -1, 3, -100):
    attempt(f"torch, {label}", lambda: in_torch(label))
    attempt(f"Keras, {label}", lambda: in_keras(label))
    attempt(f"optax, {label}", lambda: in_optax(label))
attempt("Keras under XLA, 3", lambda: tf.function(in_keras, jit_compile=True)(3))
""",
        "Ours raise in eager mode on the CPU, and give NaN in value and gradient elsewhere; never "
        "a wrapped class. `ignore_index=` means the same on every platform.",
    ),
    Trap(
        "cast-to-float32",
        "Keras casts float64 to float32",
        "An object of `keras.losses` casts what it is given to its `dtype`, float32 by default, "
        "float64 too. The functions of the same name do not.",
        """\
x, y = np.array([[1.0 + 1e-10]]), np.array([[1.0]])
show("object", keras.losses.MeanAbsoluteError()(y, x))
show("object, dtype='float64'", keras.losses.MeanAbsoluteError(dtype="float64")(y, x))
show("function", keras.losses.mean_absolute_error(y, x))
""",
        'Pass `dtype="float64"`. The dtype of ours is that of the prediction, computed in at '
        "least float32.",
    ),
    Trap(
        "rounded-labels",
        "A low-precision loss rounds the labels, too",
        "Keras casts the targets with the predictions. In bfloat16 there is no 257: class 257 "
        "becomes class 256. In float16 the same happens from 2049 on.",
        """\
logits = np.zeros((1, 300), np.float32)
logits[0, 257] = 5.0
for dtype in ("float32", "bfloat16"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
    show(dtype, loss(np.array([257]), logits))
""",
        "Leave `dtype` alone and cast the predictions. Ours never cast labels or masks.",
    ),
    Trap(
        "smooth-l1-and-huber",
        "Smooth L1 is Huber divided by delta",
        "At 1, the default of both, they are equal; at any other value the two differ by that "
        "factor, and with it the step that the optimiser takes.",
        """\
x, y = torch.tensor([5.0]), torch.tensor([0.0])
for delta in (1.0, 2.0):
    show(f"HuberLoss(delta={delta})", torch.nn.HuberLoss(delta=delta)(x, y))
    show(f"SmoothL1Loss(beta={delta})", torch.nn.SmoothL1Loss(beta=delta)(x, y))
show("Keras Huber(delta=2.0)", keras.losses.Huber(delta=2.0)(y.numpy(), x.numpy()))
show("optax huber_loss(delta=2.0)", optax.losses.huber_loss(x.numpy(), y.numpy(), delta=2.0))
""",
        "Both stand in ours under PyTorch's names, `HuberLoss` and `SmoothL1Loss`, on every "
        "platform.",
    ),
    Trap(
        "half-the-square",
        "`optax.losses.l2_loss` is half the squared error",
        "Its `squared_error` is the whole one.",
        """\
show("torch MSELoss", torch.nn.MSELoss()(torch.tensor([3.0]), torch.tensor([0.0])))
show("optax squared_error", optax.losses.squared_error(jnp.array([3.0]), jnp.array([0.0])))
show("optax l2_loss", optax.losses.l2_loss(jnp.array([3.0]), jnp.array([0.0])))
""",
        "`MSELoss` of ours is the whole square on every platform.",
    ),
    Trap(
        "sign-of-the-cosine",
        "Three signs of the cosine",
        "For two equal vectors Keras's loss is -1, optax's similarity 1 and its distance 0, and "
        "PyTorch's embedding loss 0.",
        """\
x = np.float32([[3.0, 4.0]])
show("Keras CosineSimilarity", keras.losses.CosineSimilarity()(x, x))
show("optax cosine_similarity", optax.losses.cosine_similarity(x, x))
show("optax cosine_distance", optax.losses.cosine_distance(x, x))
given = torch.tensor(x), torch.tensor(x), torch.ones(1)
show("torch CosineEmbeddingLoss", torch.nn.CosineEmbeddingLoss()(*given))
""",
        "Ours are `CosineDistanceLoss`, which falls as vectors align, and "
        "`CosineEmbeddingLoss` with PyTorch's label.",
    ),
    Trap(
        "hinge-labels",
        "Keras guesses how labels are encoded",
        "If every label of a batch is 0 or 1, `Hinge` maps them to -1 and 1; otherwise it takes "
        "them as they are. So what a 0 means depends on the other labels of its batch: for a score "
        "of 2 it costs 3 or 1. In optax a 0 always costs 1, whatever the score.",
        """\
x = np.float32([[2.0], [2.0]])
for second in (1.0, -1.0):
    labels = np.float32([[0.0], [second]])
    show(f"Keras, labels 0 and {second:g}", keras.losses.Hinge(reduction=None)(labels, x))
    show(f"optax, labels 0 and {second:g}", optax.losses.hinge_loss(x, labels))
""",
        "Encode them as -1 and 1. That is what `HingeLoss` of ours takes.",
    ),
    Trap(
        "tversky-alpha-and-beta",
        "Tversky's alpha and beta",
        "In the paper and in optax, alpha weighs false positives and beta false negatives. In "
        "Keras up to 3.15 it is the other way round, against its own documentation; the release "
        "after that swaps them, and changes the result of everyone whose alpha is not beta.",
        """\
p, t = np.float32([[1.0, 1.0, 0.0, 0.0]]), np.float32([[1.0, 0.0, 0.0, 0.0]])
show("Keras, alpha=0.9, beta=0.1", keras.losses.Tversky(alpha=0.9, beta=0.1)(t, p))
import lossbridge.torch as L
p, t = torch.tensor(p), torch.tensor(t)
for version in ("3.15.1", "3.16"):
    loss = L.native("keras.losses.Tversky", alpha=0.9, beta=0.1, version=version)
    show(f"its meaning in {version}", loss(p, t))
show("ours", L.TverskyLoss(alpha=0.9, beta=0.1, smooth=1e-7)(p, t))
""",
        "`TverskyLoss(alpha=, beta=)` of ours is the paper's. `native(..., version=)` has either "
        "meaning of Keras.",
    ),
    Trap(
        "versions",
        "Releases change what a name means",
        "Beside Tversky: optax before 0.2.7 halved the smoothing of its Dice losses; Keras up to "
        "3.15.1 loses `delta` and `axis` when a loss is saved and loaded.",
        """\
loss = keras.losses.Huber(delta=3.0)
again = keras.losses.deserialize(keras.losses.serialize(loss))
show("Keras Huber(delta=3), before and after saving", loss([2.0], [0.0]), again([2.0], [0.0]))
import lossbridge.jax as L
x, t = jnp.array([[2.0, -2.0]]), jnp.array([[1.0, 0.0]])
for version in ("0.2.6", "0.2.8"):
    loss = L.native("optax.losses.binary_dice_loss", version=version)
    show(f"optax {version}, binary_dice_loss", loss(x, t))
""",
        "`native(name, version=)` pins a meaning, and a saved loss of ours holds its whole "
        "definition.",
    ),
    Trap(
        "where-epsilon-is-added",
        "Epsilon added to each difference, to the sum, or to nothing",
        "PyTorch's triplet loss adds 1e-6 to each difference of coordinates, so that exchanging "
        "two points changes a distance; optax adds 1e-6 to the sum of squares, so that two equal "
        "points are 0.001 apart.",
        """\
a, p, n = np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]]), np.array([[0.6, 0.8]])
loss = torch.nn.TripletMarginLoss()
show("torch", loss(torch.tensor(a), torch.tensor(p), torch.tensor(n)))
show("optax", optax.losses.triplet_margin_loss(a, p, n))
""",
        "`TripletMarginLoss` of ours is PyTorch's; `eps=` is in its constructor, and what it means "
        "in its definition: `python -m lossbridge show TripletMarginLoss`.",
    ),
    Trap(
        "odd-norms",
        "`optax.losses.triplet_margin_loss(norm_degree=1)` is no norm",
        "It takes the power without the absolute value: with an odd degree, differences below 0 "
        "count below 0, and the root of a negative sum is NaN.",
        """\
a, p, n = np.float32([[0.0, 0.0]]), np.float32([[1.0, -1.0]]), np.float32([[0.5, -0.5]])
given = torch.tensor(a), torch.tensor(p), torch.tensor(n)
show("torch, p=1", torch.nn.TripletMarginLoss(p=1.0)(*given))
show("optax, norm_degree=1", optax.losses.triplet_margin_loss(a, p, n, norm_degree=1))
n = np.float32([[0.5, 0.5]])
show("optax, norm_degree=3", optax.losses.triplet_margin_loss(a, p, n, norm_degree=3))
""",
        "`TripletMarginLoss(p=1.0)` of ours is a norm on every platform.",
    ),
    Trap(
        "smoothing-and-weights",
        "Class weights change label smoothing",
        "PyTorch weighs the smoothed share of every class by that class's weight, and still "
        "divides by the weights of the labels alone. Keras smooths first and weighs samples. Even "
        "with the same divisor the two differ.",
        """\
logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
weight = torch.tensor([1.0, 3.0])
loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)
show("torch", loss(logits, labels))
loss = keras.losses.CategoricalCrossentropy(
    from_logits=True, label_smoothing=0.1, reduction="mean_with_sample_weight"
)
one_hot = np.eye(2, dtype=np.float32)[labels]
show("Keras", loss(one_hot, logits.numpy(), sample_weight=weight[labels].numpy()))
""",
        "`CrossEntropyLoss(weight=, label_smoothing=)` of ours is PyTorch's on every platform; "
        '`native("keras.losses.CategoricalCrossentropy", ...)` is Keras\'s.',
    ),
    Trap(
        "hinge-embedding",
        "`torch.nn.HingeEmbeddingLoss` is no hinge loss",
        "It takes a distance, and for label 1 the distance is the loss. The hinge loss of a score "
        "is `MarginRankingLoss(margin=1.0)` against 0.",
        """\
x, y = torch.tensor([2.0]), torch.tensor([1.0])
show("torch HingeEmbeddingLoss", torch.nn.HingeEmbeddingLoss()(x, y))
ranking = torch.nn.MarginRankingLoss(margin=1.0)
show("torch MarginRankingLoss(margin=1.0), against 0", ranking(x, torch.zeros(1), y))
show("Keras Hinge", keras.losses.Hinge()(y.numpy(), x.numpy()))
show("optax hinge_loss", optax.losses.hinge_loss(x.numpy(), y.numpy()))
""",
        "`HingeLoss` of ours is the same on every platform.",
    ),
    Trap(
        "alpha-unused",
        "Keras's binary focal loss has an alpha that does nothing",
        "`alpha=0.25` is its default, but it is applied only with `apply_class_balancing=True`. In "
        "optax, alpha is applied if it is given.",
        """\
p, t = np.float32([[0.8]]), np.float32([[1.0]])
focal = keras.losses.BinaryFocalCrossentropy
show("Keras, alpha=0.25", focal(alpha=0.25)(t, p))
show("Keras, alpha=0.9", focal(alpha=0.9)(t, p))
show("Keras, alpha=0.9, balanced", focal(alpha=0.9, apply_class_balancing=True)(t, p))
z = np.log(p / (1 - p))
show("optax", optax.losses.sigmoid_focal_loss(z, t))
show("optax, alpha=0.9", optax.losses.sigmoid_focal_loss(z, t, alpha=0.9))
""",
        "`BinaryFocalLoss(alpha=)` of ours applies what it is given.",
    ),
    Trap(
        "ctc-mean",
        "The mean of CTC divides by target lengths in PyTorch only",
        "PyTorch divides each loss by its target's length, and then by the batch size; Keras "
        "averages over the batch, optax leaves that to the caller. In Keras 0 is both the blank "
        "and the padding, so that a label cannot be 0.",
        """\
time, classes = 5, 4
scores = np.zeros((1, time, classes), np.float32)
labels = np.array([[1, 2]])
log_probs = torch.tensor(scores).log_softmax(-1).transpose(0, 1)
lengths = torch.tensor([time]), torch.tensor([2])
for reduction in ("mean", "none"):
    loss = torch.nn.CTCLoss(reduction=reduction)
    show(f"torch, {reduction}", loss(log_probs, torch.tensor(labels), *lengths))
show("Keras", keras.losses.CTC()(labels, scores))
show("optax", optax.losses.ctc_loss(scores, np.zeros((1, time)), labels, np.zeros((1, 2))))
""",
        '`CTCLoss` of ours is PyTorch\'s; `normalizer="batch"` is the mean of the others.',
    ),
)
