"""Perceptual losses: distances of what a feature extractor sees."""

from __future__ import annotations

from typing import Annotated

from lossbridge.ir import Expr
from lossbridge.ops import apply, map_sizes, segments, sum, take
from lossbridge.trace import define, non_negative

Image = Annotated[Expr, "real[batch, *image]"]


@define(
    "perceptual@1",
    ports={"features": "(real[batch, *image]) -> maps[batch]"},
    params={"layer_weight": non_negative(1.0, "maps")},
    yields="per_sample",
    references=["Johnson, Alahi and Fei-Fei 2016, eq. 2"],
)
def perceptual(prediction: Image, target: Image, *, features: str, layer_weight: Expr) -> Expr:
    """Penalise the squared difference of feature maps, averaged over each map.

    ``features`` returns one map or several, each with the batch first; ``layer_weight`` weighs the
    maps.

    Edges: those of the extractor; the loss adds none.
    """
    seen, wanted = apply(features, prediction), apply(features, target)
    share = layer_weight / map_sizes(seen, features)
    own = take(share, segments(seen, features), "maps")
    return sum(own * (seen - wanted) ** 2, "pixels")
