"""Comparisons of losses of several inputs, with what they must come to.

Verdict and cause of every row were written down before it was run. A side is ``framework: an
expression in the names of the inputs``; the inputs are ``name: kind; ...``, and a second
description, where there is one, is that of b.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """Two sides, what they take, and what comes of it; ``fast`` runs by default."""

    id: str
    inputs: str
    a: str
    b: str
    verdict: str = "same"
    cause: str = ""
    other_inputs: str = ""
    fast: bool = False


MIXUP = "logits: real[n,c]; ya: index(c)[n]; yb: index(c)[n]"
MIXED = "torch: .3 * F.cross_entropy(logits, ya) + .7 * F.cross_entropy(logits, yb)"
LAM = "logits: real[n,c]; ya: index(c)[n]; yb: index(c)[n]; lam: probability[n]"
EACH = "F.cross_entropy(logits, {}, reduction='none')"
BY_SAMPLE = f"torch: (lam * {EACH.format('ya')} + (1 - lam) * {EACH.format('yb')}).mean()"
HEADS = "la: real[n,c]; ya: index(c)[n]; lb: real[n,k]; yb: index(k)[n]"
TWO = "torch: F.cross_entropy(la, ya) + F.cross_entropy(lb, yb)"
BOTH = "pred: real[n,d]; target: real[n,d]; logit: real[n]; label: binary[n]"
BCE = "F.binary_cross_entropy_with_logits"
FIT = f"torch: F.mse_loss(pred, target) + {BCE}(logit, label)"
PPO = "logp: real[n]; old: real[n]; adv: real[n]"
RATIO = "(logp - old).exp()"
CLIPPED = f"torch: -torch.min({RATIO} * adv, {RATIO}.clamp(.8, 1.2) * adv).mean()"
AGENT = PPO + "; value: real[n]; ret: real[n]; entropy: real[n]"
ACTOR = CLIPPED + " + .5 * F.mse_loss(value, ret) - .01 * entropy.mean()"
VAE = "x: real[n,d]; recon: real[n,d]; mu: real[n,z]; logvar: real[n,z]"
KL = "(1 + logvar - mu ** 2 - logvar.exp())"
ELBO = f"torch: F.mse_loss(recon, x) - .5 * {KL}.sum(1).mean()"
BOXES = (
    "boxes: real[n,k,4]; target_boxes: real[n,k,4]; scores: real[n,k,c]; labels: index(c)[n,k]"
)
DETECT = (
    "torch: F.smooth_l1_loss(boxes, target_boxes) + F.cross_entropy(scores.movedim(-1, 1), labels)"
)
SOME = "boxes: real[n,k,4]; target_boxes: real[n,k,4]; mask: mask[n,k]"
OF_BOX = "(F.smooth_l1_loss(boxes, target_boxes, reduction='none').mean(-1) * mask)"
DISTIL = "student: real[n,c]; teacher: real[n,c]; labels: index(c)[n]"
SOFT = "F.kl_div((student / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction='batchmean')"
KD = f"torch: .9 * 16 * {SOFT} + .1 * F.cross_entropy(student, labels)"
PAIR = "student: real[n,c]; teacher: real[n,c]"
SEQUENCE = "pred: real[n,t]; target: real[n,t]; mask: mask[n,t]"
SQUARES = "((pred - target) ** 2 * mask)"
MARKED = "x: real[n,c]; y: binary[n,c]; mask: mask[n,c]"
VECTOR = "x: real[n]; y: real[n]"
GAUSS = "mean: real[n]; target: real[n]; sigma: {}[n]"
SIGMA = "torch: (.5 * ((sigma ** 2).log() + (target - mean) ** 2 / sigma ** 2)).mean()"
VARIANCE = "torch: (.5 * (sigma.log() + (target - mean) ** 2 / sigma)).mean()"
IMAGE = "y_true: binary[n,{0}]; y_pred: probability[n,{0}]"
DICE = "1 - ((2 * (y_true * y_pred).sum({0}) + 1) / ((y_true + y_pred).sum({0}) + 1)).mean()"
TF_DICE = (
    "tf: 1 - tf.reduce_mean((2 * tf.reduce_sum(y_true * y_pred, (1, 2)) + 1) / "
    "(tf.reduce_sum(y_true + y_pred, (1, 2)) + 1))"
)
VIEWS = "z1: real[n,d]; z2: real[n,d]"
KERNEL = "x: real[n,c]; k: real[c,c]; y: real[n,c]"

COMPARISONS = [
    # mixup
    Port("mixup, labels exchanged", MIXUP, MIXED,
         "torch: .7 * F.cross_entropy(logits, ya) + .3 * F.cross_entropy(logits, yb)",
         "different", "ya and yb of a are exchanged", fast=True),
    Port("mixup, one label forgotten", MIXUP, MIXED, "torch: F.cross_entropy(logits, ya)",
         "different", "b does not use yb", fast=True),
    Port("mixup in JAX", MIXUP, MIXED,
         "jax: sum(w * optax.softmax_cross_entropy_with_integer_labels(logits, y).mean() "
         "for w, y in ((.3, ya), (.7, yb)))"),
    Port("mixup, other weights", MIXUP, MIXED,
         "torch: .5 * F.cross_entropy(logits, ya) + .5 * F.cross_entropy(logits, yb)",
         "different", "nothing that was tried"),
    Port("mixup, summed", MIXUP, MIXED, MIXED.replace(", ya)", ", ya, reduction='sum')").replace(
         ", yb)", ", yb, reduction='sum')"), "same_up_to_factor", "a times the"),
    Port("mixup in equal parts is symmetric", MIXUP,
         "torch: .5 * F.cross_entropy(logits, ya) + .5 * F.cross_entropy(logits, yb)",
         "torch: .5 * F.cross_entropy(logits, yb) + .5 * F.cross_entropy(logits, ya)", fast=True),
    Port("mixup by sample, exchanged", LAM, BY_SAMPLE,
         f"torch: ((1 - lam) * {EACH.format('ya')} + lam * {EACH.format('yb')}).mean()",
         "different", "ya and yb of a are exchanged"),
    Port("mixup by sample, one weight for all", LAM, BY_SAMPLE,
         "torch: lam.mean() * F.cross_entropy(logits, ya) + (1 - lam.mean()) * "
         "F.cross_entropy(logits, yb)", "different", ""),
    Port("mixup by sample, weight forgotten", LAM, BY_SAMPLE,
         "torch: F.cross_entropy(logits, ya) + 0 * F.cross_entropy(logits, yb)",
         "different", "does not use"),
    # two heads
    Port("two heads in JAX", HEADS, TWO,
         "jax: sum(optax.softmax_cross_entropy_with_integer_labels(x, y).mean() "
         "for x, y in ((la, ya), (lb, yb)))"),
    Port("two heads, one of half the weight", HEADS, TWO,
         "torch: F.cross_entropy(la, ya) + .5 * F.cross_entropy(lb, yb)", "different", "",
         fast=True),
    Port("two heads, one forgotten", HEADS, TWO, "torch: F.cross_entropy(la, ya)",
         "different", "b does not use lb"),
    Port("two heads, averaged", HEADS, TWO,
         "torch: torch.stack((F.cross_entropy(la, ya), F.cross_entropy(lb, yb))).mean()",
         "same_up_to_factor", "one half of a"),
    Port("box and class, ten times the class", BOTH, FIT,
         f"torch: F.mse_loss(pred, target) + 10 * {BCE}(logit, label)", "different", ""),
    Port("box and class, Huber for the square", BOTH, FIT,
         f"torch: F.huber_loss(pred, target) + {BCE}(logit, label)", "different", ""),
    Port("box and class, no gradient in the box", BOTH, FIT,
         f"torch: F.mse_loss(pred.detach(), target) + {BCE}(logit, label)",
         "gradient_differs", "the gradient in pred", fast=True),
    Port("box and class in TensorFlow", BOTH, FIT,
         "tf: tf.reduce_mean((pred - target) ** 2) + tf.reduce_mean("
         "tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=logit))"),
    # PPO
    Port("PPO, narrower clip", PPO, CLIPPED, CLIPPED.replace(".8, 1.2", ".9, 1.1"),
         "different", ""),
    Port("PPO, sign forgotten", PPO, CLIPPED, CLIPPED.replace("-torch", "torch"),
         "same_up_to_factor", "opposite sign", fast=True),
    Port("PPO, max for min", PPO, CLIPPED, CLIPPED.replace("torch.min", "torch.max"),
         "different", ""),
    Port("PPO, policies exchanged", PPO, CLIPPED, CLIPPED.replace("logp - old", "old - logp"),
         "different", "logp and old of a are exchanged"),
    Port("PPO, not clipped", PPO, CLIPPED, f"torch: -({RATIO} * adv).mean()", "different", ""),
    Port("PPO in JAX", PPO, CLIPPED,
         "jax: -jnp.minimum(jnp.exp(logp - old) * adv, "
         "jnp.clip(jnp.exp(logp - old), .8, 1.2) * adv).mean()"),
    Port("actor and critic, entropy punished", AGENT, ACTOR, ACTOR.replace("- .01", "+ .01"),
         "different", "", fast=True),
    Port("PPO, advantages normalised", PPO, CLIPPED,
         CLIPPED.replace("* adv", "* ((adv - adv.mean()) / (adv.std() + 1e-8))"),
         "different", ""),
    # VAE
    Port("VAE, mean over the latent", VAE, ELBO, ELBO.replace(".sum(1).mean()", ".mean()"),
         "different", "", fast=True),
    Port("VAE, beta 4", VAE, ELBO, ELBO.replace("- .5", "- 2"), "different", ""),
    Port("VAE, logarithm of the deviation", VAE, ELBO,
         ELBO.replace("+ logvar", "+ 2 * logvar").replace("logvar.exp()", "(2 * logvar).exp()"),
         "different", "2 times logvar"),
    Port("VAE in JAX", VAE, ELBO,
         "jax: ((recon - x) ** 2).mean() - .5 * (1 + logvar - mu ** 2 - jnp.exp(logvar)).sum(1)"
         ".mean()"),
    Port("VAE, mean and variance exchanged", VAE, ELBO,
         "torch: F.mse_loss(recon, x) - .5 * (1 + mu - logvar ** 2 - mu.exp()).sum(1).mean()",
         "different", "mu and logvar of a are exchanged"),
    Port("VAE, the square is symmetric", VAE, ELBO, ELBO.replace("(recon, x)", "(x, recon)")),
    # detection
    Port("detection in JAX", BOXES, DETECT,
         "jax: optax.huber_loss(boxes, target_boxes).mean() + "
         "optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()"),
    Port("detection, other beta", BOXES, DETECT,
         DETECT.replace("target_boxes)", "target_boxes, beta=.1)"), "different", ""),
    Port("detection, coordinates turned", BOXES, DETECT,
         DETECT.replace("(boxes,", "(boxes[..., [1, 0, 3, 2]],"), "different", "", fast=True),
    Port("boxes, summed over coordinates", "boxes: real[n,k,4]; target_boxes: real[n,k,4]",
         "torch: F.smooth_l1_loss(boxes, target_boxes)",
         "torch: F.smooth_l1_loss(boxes, target_boxes, reduction='none').sum(-1).mean()",
         "same_up_to_factor", "4 times a"),
    Port("boxes, mean over all for mean over some", SOME,
         f"torch: {OF_BOX}.sum() / mask.sum()", f"torch: {OF_BOX}.mean()",
         "same_up_to_factor", "divides by the sum of mask"),
    Port("boxes, mask forgotten", SOME, f"torch: {OF_BOX}.mean()",
         "torch: F.smooth_l1_loss(boxes, target_boxes)", "different", "b does not use mask"),
    # distillation
    Port("distillation without its factor", PAIR, f"torch: 16 * {SOFT}", f"torch: {SOFT}",
         "same_up_to_factor", "0.0625 times a", fast=True),
    Port("distillation, roles exchanged", PAIR, f"torch: {SOFT}",
         "torch: F.kl_div((teacher / 4).log_softmax(-1), (student / 4).softmax(-1), "
         "reduction='batchmean')", "different", "student and teacher of a are exchanged"),
    Port("distillation, temperature 2 for 4", PAIR, f"torch: {SOFT}",
         f"torch: {SOFT.replace('/ 4', '/ 2')}", "different", ""),
    Port("a temperature in one only", "student: real[n,c]; labels: index(c)[n]",
         "torch: F.cross_entropy(student, labels)", "torch: F.cross_entropy(student / 2, labels)",
         "different", "0.5 times student"),
    Port("distillation, teacher without a gradient", DISTIL, KD,
         KD.replace("(teacher / 4)", "(teacher.detach() / 4)"), "gradient_differs",
         "the gradient in teacher (and only in that)"),
    Port("distillation, another mean", PAIR, f"torch: {SOFT}",
         f"torch: {SOFT.replace('batchmean', 'mean')}", "same_up_to_factor",
         "length of the last axis"),
    Port("distillation in JAX", DISTIL, KD,
         "jax: .9 * 16 * optax.kl_divergence(jax.nn.log_softmax(student / 4), "
         "jax.nn.softmax(teacher / 4)).mean() + "
         ".1 * optax.softmax_cross_entropy_with_integer_labels(student, labels).mean()"),
    # masks beside targets
    Port("a masked mean over all", SEQUENCE, f"torch: {SQUARES}.sum() / mask.sum()",
         f"torch: {SQUARES}.mean()", "same_up_to_factor", "divides by the sum of mask",
         fast=True),
    Port("a mask inverted", SEQUENCE, f"torch: {SQUARES}.mean()",
         f"torch: {SQUARES.replace('* mask', '* ~mask')}.mean()", "different", ""),
    Port("a masked loss without its negative term", MARKED,
         f"torch: ({BCE}(x, y, reduction='none') * mask).mean()",
         "torch: (-y * F.logsigmoid(x) * mask).mean()", "different", "", fast=True),
    Port("a mask that selects", SEQUENCE, f"torch: {SQUARES}.sum() / mask.sum()",
         "torch: ((pred - target) ** 2)[mask].mean()"),
    Port("a mask forgotten", SEQUENCE, f"torch: {SQUARES}.mean()",
         "torch: ((pred - target) ** 2).mean()", "different", "b does not use mask"),
    # NaN domains
    Port("two that are never a number", VECTOR, "torch: (-x ** 2 - y ** 2 - 1).log().mean()",
         "torch: (-x ** 2 - y ** 2 - 1).sqrt().mean()", "undecided", "0 of", fast=True),
    Port("deviation against variance, of any sign", GAUSS.format("real"), SIGMA, VARIANCE,
         "undecided", "ordinary probes give finite values"),
    Port("deviation against variance", GAUSS.format("positive"), SIGMA, VARIANCE,
         "different", "the square of sigma"),
    Port("the logarithm of one more", "x: positive[n]; y: real[n]",
         "torch: (y * x.log()).mean()", "torch: (y * x.log1p()).mean()", "different", ""),
    Port("a square root of any sign", VECTOR, "torch: (x.sqrt() * y).mean()",
         "torch: (x.abs().sqrt() * y).mean()", "undecided", "ordinary probes"),
    Port("an entropy in two words", "p: probability[n]; w: real[n]",
         "torch: (w * p * p.log()).mean()", "torch: (w * torch.xlogy(p, p)).mean()"),
    # layouts
    Port("dice of images, classes last and first", IMAGE.format("h,w,c"), TF_DICE,
         f"torch: {DICE.format('(2, 3)')}", other_inputs=IMAGE.format("c,h,w")),
    Port("dice of images, over the wrong axes", IMAGE.format("h,w,c"), TF_DICE,
         f"torch: {DICE.format('(1, 2)')}", "different", "", other_inputs=IMAGE.format("c,h,w")),
    Port("tokens, classes last and second", "x: real[n,t,c]; y: index(c)[n,t]",
         "torch: F.cross_entropy(x.movedim(-1, 1), y)", "torch: F.cross_entropy(x, y)",
         other_inputs="x: real[n,c,t]; y: index(c)[n,t]", fast=True),
    Port("a norm over the wrong axis", "x: real[n,t,d]; y: real[n,t,d]",
         "torch: (x - y).norm(dim=-1).mean()", "torch: (x - y).norm(dim=1).mean()",
         "different", ""),
    Port("a matrix transposed", KERNEL, "torch: ((x @ k - y) ** 2).mean()",
         "torch: ((x @ k.T - y) ** 2).mean()", "different", "", fast=True),
    Port("(N, 1) beside (N,)", "x: real[n,1]; y: real[n]",
         "torch: ((x - y) ** 2).mean()", "torch: ((x[:, 0] - y) ** 2).mean()", "different", "",
         fast=True),
]  # fmt: skip

CE = "torch: F.cross_entropy(x, y)"
SCORES = "x: real[n,c]; y: index(c)[n]"
NTX = "torch: F.cross_entropy(z1 @ z2.T / .5, torch.arange(len(z1)))"

# A right port with one thing changed; none may come out the same. The verdicts were foretold.
MUTATIONS = [
    Port("an input exchanged in a ratio", PPO, CLIPPED, CLIPPED.replace("logp - old", "old - logp"),
         "different", fast=True),
    Port("an input exchanged in a divergence", PAIR, f"torch: {SOFT}", f"torch: "
         f"{SOFT.replace('student', 's_').replace('teacher', 'student').replace('s_', 'teacher')}",
         "different"),
    Port("an input exchanged among labels", MIXUP, MIXED,
         MIXED.replace("ya", "y_").replace("yb", "ya").replace("y_", "yb"), "different"),
    Port("an input forgotten: teacher", DISTIL, KD, "torch: .1 * F.cross_entropy(student, labels)",
         "different"),
    Port("an input forgotten: entropy", AGENT, ACTOR, ACTOR.partition(" - .01")[0], "different",
         fast=True),
    Port("an input forgotten: one box term", BOXES, DETECT,
         "torch: F.cross_entropy(scores.movedim(-1, 1), labels)", "different"),
    Port("an input scaled: logits", SCORES, CE, "torch: F.cross_entropy(x / .07, y)", "different"),
    Port("an input scaled: targets of bytes", VECTOR, "torch: F.mse_loss(x, y)",
         "torch: F.mse_loss(x, y / 255)", "different", fast=True),
    Port("an input scaled: by a hair", VECTOR, "torch: F.mse_loss(x, y)",
         "torch: F.mse_loss(x, y * 1.001)", "different"),
    Port("an input detached: prediction", VECTOR, "torch: F.mse_loss(x, y)",
         "torch: F.mse_loss(x.detach(), y)", "gradient_differs", fast=True),
    Port("an input detached: one of two views", VIEWS, NTX, NTX.replace("z1 @", "z1.detach() @"),
         "gradient_differs"),
    Port("an input detached: weights in focal loss", SCORES,
         "torch: ((1 - torch.exp(-F.cross_entropy(x, y, reduction='none'))) ** 2 * "
         "F.cross_entropy(x, y, reduction='none')).mean()",
         "torch: ((1 - torch.exp(-F.cross_entropy(x, y, reduction='none')).detach()) ** 2 * "
         "F.cross_entropy(x, y, reduction='none')).mean()", "gradient_differs"),
    Port("an axis: softmax over the batch", SCORES, CE,
         "torch: -x.log_softmax(0).gather(1, y[:, None]).mean()", "different", fast=True),
    Port("an axis: sum over positions", SEQUENCE, f"torch: {SQUARES}.sum(1).mean()",
         f"torch: {SQUARES}.sum(0).mean()", "same_up_to_factor"),
    Port("an axis: dice", IMAGE.format("c,h,w"), f"torch: {DICE.format('(2, 3)')}",
         f"torch: {DICE.format('(1, 2, 3)')}", "different"),
    Port("an axis: cosine", VIEWS, "torch: (1 - F.cosine_similarity(z1, z2, dim=-1)).mean()",
         "torch: (1 - F.cosine_similarity(z1, z2, dim=0)).mean()", "different"),
    Port("a divisor: sum for mean", SCORES, CE, "torch: F.cross_entropy(x, y, reduction='sum')",
         "same_up_to_factor", fast=True),
    Port("a divisor: latent size", VAE, ELBO, ELBO.replace(".sum(1).mean()", ".mean()"),
         "different"),
    Port("a divisor: of the mask", SEQUENCE, f"torch: {SQUARES}.sum() / mask.sum()",
         f"torch: {SQUARES}.sum() / mask.numel()", "same_up_to_factor"),
    Port("a divisor: one less in the variance", VECTOR,
         "torch: x.var(unbiased=False) + F.mse_loss(x, y)", "torch: x.var() + F.mse_loss(x, y)",
         "different"),
    Port("a term changed: square for absolute", BOTH, FIT, FIT.replace("mse_loss", "l1_loss"),
         "different"),
    Port("a term changed: sign", VAE, ELBO, ELBO.replace("- .5", "+ .5"), "different", fast=True),
    Port("a term changed: weight", BOTH, FIT, FIT.replace("+ F.b", "+ 1.01 * F.b"), "different"),
    Port("a term changed: only positives", MARKED,
         f"torch: ({BCE}(x, y, reduction='none') * mask).sum() / mask.sum()",
         f"torch: ({BCE}(x, y, reduction='none') * mask * y).sum() / mask.sum()", "different"),
    Port("a term changed: margin", "a: real[n,d]; p: real[n,d]; q: real[n,d]",
         "torch: F.triplet_margin_loss(a, p, q)", "torch: F.triplet_margin_loss(a, p, q, margin=.5)",
         "different"),
]  # fmt: skip

# Written by hand in two frameworks, and right: each is the same under the default profile.
RIGHT = [
    Port("cross-entropy", SCORES, CE,
         "jax: -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean()"),
    Port("cross-entropy in TensorFlow", SCORES, CE,
         "tf: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, x))"),
    Port("smoothed cross-entropy", SCORES, "torch: F.cross_entropy(x, y, label_smoothing=.1)",
         "jax: -(jax.nn.log_softmax(x) * (.9 * jax.nn.one_hot(y, 3, dtype=x.dtype) + .1 / 3))"
         ".sum(-1).mean()"),
    Port("binary cross-entropy", "x: real[n,c]; t: binary[n,c]",
         "torch: torch.where(t > .5, F.softplus(-x), F.softplus(x)).mean()",
         "torch: F.binary_cross_entropy_with_logits(x, t)", fast=True),
    Port("binary cross-entropy in JAX", "x: real[n,c]; t: binary[n,c]",
         "torch: F.binary_cross_entropy_with_logits(x, t)",
         "jax: (jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x)))).mean()"),
    Port("binary cross-entropy in TensorFlow", "x: real[n,c]; t: binary[n,c]",
         "torch: F.binary_cross_entropy_with_logits(x, t)",
         "tf: tf.reduce_mean(tf.math.softplus(x) - x * t)"),
    Port("square", VECTOR, "torch: F.mse_loss(x, y)", "tf: tf.reduce_mean((x - y) ** 2)"),
    Port("absolute", VECTOR, "torch: F.l1_loss(x, y)", "jax: jnp.abs(x - y).mean()"),
    Port("Huber", VECTOR, "torch: F.huber_loss(x, y, delta=.5)",
         "jax: jnp.where(jnp.abs(x - y) <= .5, .5 * (x - y) ** 2, .5 * (jnp.abs(x - y) - .25))"
         ".mean()"),
    Port("log-cosh", VECTOR, "torch: (x - y + F.softplus(-2 * (x - y)) - math.log(2)).mean()",
         "jax: (jnp.logaddexp(x - y, y - x) - jnp.log(2.)).mean()"),
    Port("quantile", VECTOR, "torch: torch.maximum(.9 * (y - x), .1 * (x - y)).mean()",
         "tf: tf.reduce_mean(tf.where(y > x, .9 * (y - x), .1 * (x - y)))"),
    Port("Poisson", "x: real[n]; target: non_negative[n]",
         "torch: F.poisson_nll_loss(x, target)", "jax: (jnp.exp(x) - target * x).mean()"),
    Port("Gaussian", GAUSS.format("positive"), SIGMA,
         "jax: (jnp.log(sigma) + .5 * ((target - mean) / sigma) ** 2).mean()"),
    Port("hinge", "x: real[n]; t: sign[n]", "torch: F.relu(1 - t * x).mean()",
         "jax: jnp.maximum(0, 1 - t * x).mean()"),
    Port("focal", SCORES,
         "torch: ((1 - torch.exp(-F.cross_entropy(x, y, reduction='none'))) ** 2 * "
         "F.cross_entropy(x, y, reduction='none')).mean()",
         "jax: (lambda q: -((1 - jnp.exp(q)) ** 2 * q).mean())("
         "jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))"),
    Port("Kullback and Leibler", "x: real[n,c]; target: simplex(c)[n,c]",
         "torch: F.kl_div(x.log_softmax(-1), target, reduction='batchmean')",
         "jax: jax.scipy.special.rel_entr(target, jax.nn.softmax(x)).sum(-1).mean()"),
    Port("dice", IMAGE.format("c,h,w"), f"torch: {DICE.format('(2, 3)')}",
         f"jax: {DICE.format('(2, 3)')}"),
    Port("triplet", "a: real[n,d]; p: real[n,d]; q: real[n,d]",
         "torch: F.relu((a - p).square().sum(-1) - (a - q).square().sum(-1) + 1).mean()",
         "jax: jax.nn.relu(((a - p) ** 2).sum(-1) - ((a - q) ** 2).sum(-1) + 1).mean()"),
    Port("cosine", VIEWS, "torch: (1 - F.cosine_similarity(z1, z2)).mean()",
         "jax: 1 - ((z1 * z2).sum(-1) / jnp.sqrt((z1 ** 2).sum(-1) * (z2 ** 2).sum(-1))).mean()"),
    Port("contrast of two views", VIEWS, NTX,
         "jax: optax.softmax_cross_entropy_with_integer_labels(z1 @ z2.T / .5, "
         "jnp.arange(len(z1))).mean()"),
    Port("distillation", DISTIL, KD,
         "tf: .9 * 16 * tf.reduce_mean(tf.reduce_sum(tf.nn.softmax(teacher / 4) * "
         "(tf.nn.log_softmax(teacher / 4) - tf.nn.log_softmax(student / 4)), -1)) + .1 * "
         "tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, student))"),
    Port("variational", VAE, ELBO,
         "tf: tf.reduce_mean((recon - x) ** 2) - .5 * tf.reduce_mean(tf.reduce_sum("
         "1 + logvar - mu ** 2 - tf.exp(logvar), 1))"),
    Port("policy", PPO, CLIPPED,
         "tf: -tf.reduce_mean(tf.minimum(tf.exp(logp - old) * adv, "
         "tf.clip_by_value(tf.exp(logp - old), .8, 1.2) * adv))"),
    Port("masked mean", SEQUENCE, f"torch: {SQUARES}.sum() / mask.sum()",
         "jax: jnp.sum((pred - target) ** 2 * mask) / mask.sum()"),
    Port("two heads", HEADS, TWO,
         "tf: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ya, la)) + "
         "tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(yb, lb))"),
]  # fmt: skip

__all__ = ["COMPARISONS", "MUTATIONS", "RIGHT", "Port"]
