"""Metric learning: distances and angles between embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from lossbridge.catalogue.margin import Part, positive_part
from lossbridge.ir import Expr, Operand
from lossbridge.kinds import Kind
from lossbridge.ops import (
    all_,
    any_,
    apply,
    cos,
    dot,
    indicator,
    iota,
    log_softmax,
    logsumexp,
    maximum,
    minimum,
    norm,
    normalize,
    p_norm,
    rename,
    restate,
    sin,
    softplus,
    stop_gradient,
    sum,
    take,
    where,
)
from lossbridge.spec import Weight
from lossbridge.trace import define, flag, non_negative, positive, real

Embedding = Annotated[Expr, "real[*batch, features]"]
Row = Annotated[Expr, "real[batch, features]"]


def half_chord(u: Expr, v: Expr, *axes: str) -> Expr:
    """One minus the cosine of unit vectors: half their squared distance, which does not cancel."""
    return 0.5 * sum((u - v) ** 2, *axes)


def degenerate(x1: Expr, x2: Expr) -> Expr:
    """Whether there is no angle, one of the vectors being 0."""
    return (norm(x1, "features") == 0.0) | (norm(x2, "features") == 0.0)


@define(
    "cosine_embedding@1",
    params={"margin": real(0.0)},
    yields="per_sample",
    references=["Hadsell, Chopra and LeCun 2006, eq. 4, on cosines"],
)
def cosine_embedding(
    x1: Embedding, x2: Embedding, target: Annotated[Expr, "sign[*batch]"], *, margin: Expr
) -> Expr:
    """Penalise the angle of vectors that belong together (1), and closeness of others (-1).

    One minus the cosine is half the squared distance of the unit vectors, which does not cancel.

    Edges: a zero vector has cosine 0 with every vector, and gradient 0.
    """
    u, v = normalize(x1, "features"), normalize(x2, "features")
    distance = where(degenerate(x1, x2), 1.0, half_chord(u, v, "features"))
    apart = positive_part(dot(u, v, "features") - margin)
    return where(target > 0.0, distance, apart)


Distance = Callable[[Expr, Expr, Expr, Expr], Expr]


def _distance(u: Expr, v: Expr, p: Expr, eps: Expr) -> Expr:
    return p_norm(u - v + eps, p, "features")


@define(
    "triplet_margin@1",
    params={
        "margin": positive(1.0),
        "p": positive(2.0),
        "eps": non_negative(1e-6),
        "swap": flag(False),
    },
    yields="per_sample",
    references=["Balntas et al. 2016, eq. 2 and 6"],
)
def triplet_margin(
    anchor: Embedding,
    positive: Embedding,
    negative: Embedding,
    *,
    margin: Expr,
    p: Expr,
    eps: Expr,
    swap: Expr,
    distance: Distance = _distance,
    part: Part = positive_part,
) -> Expr:
    """Penalise an anchor that is not nearer to its positive than to its negative by ``margin``.

    The distance is the p-norm of the difference, to each component of which ``eps`` is added.
    ``swap`` takes the positive's distance to the negative where that is smaller.

    Edges: at a distance of 0 the gradient is 0.
    """
    near = distance(anchor, positive, p, eps)
    far = distance(anchor, negative, p, eps)
    other = distance(positive, negative, p, eps)
    away = where(swap, minimum(far, other), far)
    return part(near - away + margin)


@define(
    "info_nce@1",
    name="InfoNCELoss",
    params={"temperature": positive(0.07)},
    yields="per_sample",
    references=["van den Oord, Li and Vinyals 2018, eq. 4"],
)
def info_nce(query: Row, key: Row, *, temperature: Expr) -> Expr:
    """Penalise a query whose own key is not the most similar of the batch's keys.

    Similarities are cosines over ``temperature``; row i of ``key`` belongs to row i of ``query``,
    and the other rows are its negatives.

    Edges: a zero vector is equally similar to all keys.
    """
    u = normalize(query, "features")
    v = rename(normalize(key, "features"), "batch", "others")
    similarity = dot(u, v, "features") / temperature
    own = iota(query, "batch")
    return -take(log_softmax(similarity, "others"), own, "others")


@define(
    "arc_face@1",
    params={"margin": non_negative(0.5), "scale": positive(64.0)},
    weights={
        "centres": Weight(
            Kind.parse("real[classes, features]"),
            "normal",
            {"classes": "num_classes", "features": "embedding_size"},
        )
    },
    yields="per_sample",
    references=["Deng et al. 2019, eq. 3"],
)
def arc_face(
    embeddings: Embedding,
    labels: Annotated[Expr, "index(classes)[*batch]"],
    *,
    centres: Expr,
    margin: Expr,
    scale: Expr,
) -> Expr:
    """Penalise the angle between an embedding and its class centre, with an additive margin.

    Cross-entropy of scaled cosines, the own class's angle enlarged by ``margin``; where that would
    pass pi, its cosine is lowered by ``margin * sin(margin)`` instead.

    Edges: no arc cosine is taken; at angle 0 the sine has gradient 0.
    """
    u, w = normalize(embeddings, "features"), normalize(centres, "features")
    cosines = dot(u, w, "features")
    own = take(w, labels, "classes")
    cosine = dot(u, own, "features")
    # sqrt(1 - cosine**2) has an error of 6e-5 at an angle of 1e-3; the chords have none.
    sine = 0.5 * norm(u - own, "features") * norm(u + own, "features")
    wider = cosine * cos(margin) - sine * sin(margin)
    fallback = cosine - margin * sin(margin)
    moved = where(cosine > -cos(margin), wider, fallback)
    hit = iota(embeddings, "classes") == labels
    logits = scale * where(hit, moved, cosines)
    return -take(log_softmax(logits, "classes"), labels, "classes")


@define(
    "triplet_margin_with_distance@1",
    ports={"distance_function": "(real[*batch, features], real[*batch, features]) -> real[*batch]"},
    params={"margin": positive(1.0), "swap": flag(False)},
    yields="per_sample",
    references=["Balntas et al. 2016, eq. 2 and 6"],
)
def triplet_margin_with_distance(
    anchor: Embedding,
    positive: Embedding,
    negative: Embedding,
    *,
    distance_function: str,
    margin: Expr,
    swap: Expr,
    part: Part = positive_part,
) -> Expr:
    """Penalise an anchor not nearer to its positive than to its negative, in a distance you give.

    ``swap`` takes the positive's distance to the negative where that is smaller.

    Edges: those of the distance; exactly on the margin the gradient is half of that beyond it.
    """

    def distance(u: Expr, v: Expr, *_: Expr) -> Expr:
        return apply(distance_function, u, v)

    value: Expr = triplet_margin.function(
        anchor, positive, negative, margin=margin, p=2.0, eps=0.0, swap=swap, distance=distance,
        part=part,
    )  # fmt: skip
    return value


@define(
    "cosine_similarity@1",
    yields="per_sample",
    references=["Chen and He 2021, Exploring simple siamese representation learning, eq. 1"],
)
def cosine_similarity(prediction: Embedding, target: Embedding) -> Expr:
    """Penalise vectors that do not point the same way by the negative cosine of their angle.

    Edges: a zero vector has cosine 0 with every vector, and gradient 0.
    """
    u, v = normalize(prediction, "features"), normalize(target, "features")
    # Half the squared distance has the same slope, exactly 0 where the vectors are one.
    return restate(-dot(u, v, "features"), half_chord(u, v, "features"))


def circle_value(
    similarity: Expr,
    together: Expr,
    apart: Expr,
    *,
    near_weight: Expr,
    far_weight: Expr,
    gamma: Operand,
    margin: Operand,
) -> Expr:
    """Softplus of the log-sums of the weighted pairs along "others": alike, and not alike."""
    near = gamma * near_weight * (1.0 - margin - similarity)
    far = gamma * far_weight * (similarity - margin)
    both = any_(together, "others") & any_(apart, "others")
    # Without pairs the log-sum has no gradient, and the value is 0.
    nothing = where(both, -math.inf, 0.0)
    alike = logsumexp(where(together & both, near, nothing), "others")
    unlike = logsumexp(where(apart & both, far, nothing), "others")
    return where(both, softplus(alike + unlike), 0.0)


@define(
    "circle@1",
    params={"gamma": positive(80.0), "margin": real(0.4)},
    yields="per_sample",
    references=["Sun et al. 2020, Circle loss, section 3"],
)
def circle(
    embeddings: Row, labels: Annotated[Expr, "integer[batch]"], *, gamma: Expr, margin: Expr
) -> Expr:
    """Penalise an embedding less similar to its own label's than to the others', by a circle.

    Similarities are cosines; each is weighed by how far it is from its optimum, 1 + margin within
    a label and -margin across, and the weights are constants for the gradient, as published.

    Edges: an embedding whose label no other has, or that all have, costs 0.
    """
    u = normalize(embeddings, "features")
    similarity = dot(u, rename(u, "batch", "others"), "features")
    same = labels == rename(labels, "batch", "others")
    itself = iota(embeddings, "batch") == iota(embeddings, "others")
    fixed = stop_gradient(similarity)
    return circle_value(
        similarity,
        same & ~itself,
        ~same,
        near_weight=maximum(1.0 + margin - fixed, 0.0),
        far_weight=maximum(fixed + margin, 0.0),
        gamma=gamma,
        margin=margin,
    )


@define(
    "cosine_distance@1",
    yields="per_sample",
    references=["Salton, Wong and Yang 1975, A vector space model, section 1, on its complement"],
)
def cosine_distance(prediction: Embedding, target: Embedding) -> Expr:
    """Penalise vectors that point apart: one minus the cosine of their angle.

    Edges: a zero vector has distance 1 from every vector, and gradient 0.
    """
    u, v = normalize(prediction, "features"), normalize(target, "features")
    return where(degenerate(prediction, target), 1.0, half_chord(u, v, "features"))


def nt_xent_of(similarity: Expr, labels: Expr) -> tuple[Expr, Expr]:
    """What each pair of one label costs against its first sample's negatives, and which pairs are.

    ``similarity`` runs over "batch" and "others".
    """
    same = labels == rename(labels, "batch", "others")
    pair = same & ~(iota(similarity, "batch") == iota(similarity, "others"))
    # A sample with no negatives at all has nothing to be told from.
    alone = all_(same, "others")
    negatives = logsumexp(where(same & ~alone, -math.inf, similarity), "others")
    value = where(pair & ~alone, softplus(negatives - similarity), 0.0)
    return value, indicator(pair)


@define(
    "nt_xent@1",
    name="NTXentLoss",
    params={"temperature": positive(0.07)},
    yields="per_pair",
    normalizer="valid",
    references=["Chen et al. 2020, A simple framework for contrastive learning, eq. 1"],
)
def nt_xent(
    embeddings: Row, labels: Annotated[Expr, "integer[batch]"], *, temperature: Expr
) -> tuple[Expr, Expr]:
    """Penalise each pair of one label that is not more similar than its first sample's negatives.

    Cross-entropy of a pair's cosine over ``temperature`` among those of the first sample with all
    samples of other labels; the mean is over all ordered pairs of one label.

    Edges: pairs without negatives cost 0; without pairs the mean is over nothing.
    """
    u = normalize(embeddings, "features")
    similarity = dot(u, rename(u, "batch", "others"), "features") / temperature
    return nt_xent_of(similarity, labels)
