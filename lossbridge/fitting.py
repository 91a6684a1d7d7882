"""What would fit where inputs do not: tried, not guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lossbridge.errors import ShapeError
from lossbridge.frontdoor import (
    Bound,
    Shape,
    axis_lengths,
    call_text,
    default_axis,
    given_axis,
    has_target,
)
from lossbridge.kinds import Kind, moved_axis

_RESHAPES = {"keras": "tf.reshape({}, {})"}
_CASTS = {
    "torch": {"int": "{}.long()", "real": "{}.float()"},
    "keras": {"int": "tf.cast({}, 'int64')", "real": "tf.cast({}, 'float32')"},
    "jax": {"int": "{}.astype('int32')", "real": "{}.astype('float32')"},
}


def advice(bound: Bound, platform: str, which: int, shapes: Mapping[str, Shape]) -> str:
    """What to change so that inputs of these shapes, as they were given, fit: tried, not guessed.

    ``which`` of the losses was chosen; the shapes are under the names of its inputs.
    """
    spec, shape_of = bound.specs[which], list(shapes.values())
    kinds, axis = spec.inputs, bound.axis
    texts = _CASTS.get(platform, {})
    said = _seen_elsewhere(kinds, shapes, axis, platform)
    placed = _placed(kinds, shape_of, axis, platform)
    if placed is None:
        return said
    if spec.weights and _fit(kinds, shape_of, axis, platform):
        return said + _sizes(bound, which, placed, platform)
    for key in sorted(kinds, key=lambda n: -len(placed[n])):
        wanted = _wanted(kinds, placed, key)
        if wanted is not None and _dense(wanted) == _dense(placed[key]) == _dense(shapes[key]):
            text = "-1" if len(wanted) == 1 and None in wanted else _dims(wanted)
            return f"{said}; pass {_RESHAPES.get(platform, '{}.reshape({})').format(key, text)}"
    for other, theirs in enumerate(bound.specs):
        if other == which or not _fit(theirs.inputs, shape_of, axis, platform):
            continue
        for key, mine, kind in zip(kinds, kinds.values(), theirs.inputs.values(), strict=True):
            if kind.dtype != mine.dtype and kind.dtype in texts:
                return f"{said}; as {kind} it would fit: pass {texts[kind.dtype].format(key)}"
    if bound.form.has_axis:
        for at in (-1, *range(max(map(len, shape_of)))):
            if _fit(kinds, shape_of, at, platform):
                return (
                    f"{said}; with the {_class_axis(kinds)} at axis {at} they would fit: construct "
                    f"it with axis={at}"
                )
    if has_target(spec) and len(kinds) == 2 and _fit(kinds, shape_of[::-1], axis, platform):
        return f"{said}; the other way round they would fit: write {call_text(spec, platform)}"
    last = tuple(kinds)[-1]
    wanted = _wanted(kinds, placed, last)
    return said if wanted is None else f"{said}; {last} of shape {wanted} would fit"


def _sizes(bound: Bound, which: int, placed: Mapping[str, Shape], platform: str) -> str:
    """The sizes that a loss's trainable weights should have for inputs that fit one another."""
    spec = bound.specs[which]
    lengths = axis_lengths(spec.inputs, placed, "")
    sizes = dict(bound.sizes)
    for weight in spec.weights.values():
        for axis, size in weight.sizes.items():
            if isinstance(size, str) and None not in lengths.get(axis, (None,)):
                (sizes[size],) = lengths[axis]  # type: ignore[assignment]
    made = ", ".join(f"{name}={n}" for name, n in sizes.items())
    if sizes != dict(bound.sizes):
        return f"; make the loss with {made}"
    return f"; the weights of a loss with {made} are loss.init(key)" if platform == "jax" else ""


def swapped(bound: Bound, platform: str, dtypes: Sequence[str]) -> str:
    """What to say where the dtypes (``real``, ``int``, ``bool``) fit the other way round."""
    spec = bound.specs[0]
    if len(dtypes) == 2 and has_target(spec) and dtypes[0] != "real" == dtypes[1]:
        return f"; if the two were swapped, write {call_text(spec, platform)}"
    return ""


def _class_axis(kinds: Mapping[str, Kind]) -> str:
    return next(found for found in map(moved_axis, kinds.values()) if found)


def _placed(
    kinds: Mapping[str, Kind], shapes: Sequence[Shape], axis: int | None, platform: str
) -> dict[str, Shape] | None:
    """The shapes with the class axis last; None where there is no such axis."""
    found: dict[str, Shape] = {}
    for (key, kind), shape in zip(kinds.items(), shapes, strict=True):
        found[key] = shape = tuple(shape)
        if moved_axis(kind) is None or not shape:
            continue
        rank = len(shape)
        at = default_axis(platform, kind, rank) if axis is None else given_axis(axis, rank)
        if not -rank <= at < rank:
            return None
        at %= rank
        found[key] = (*shape[:at], *shape[at + 1 :], shape[at])
    return found


def _fit(
    kinds: Mapping[str, Kind], shapes: Sequence[Shape], axis: int | None, platform: str
) -> bool:
    placed = _placed(kinds, shapes, axis, platform)
    if placed is None:
        return False
    try:
        axis_lengths(kinds, placed, "")
    except ShapeError:
        return False
    return True


def _seen_elsewhere(
    kinds: Mapping[str, Kind], shapes: Mapping[str, Shape], axis: int | None, platform: str
) -> str:
    """Which inputs were given in another order of axes than a message shows."""
    placed = _placed(kinds, list(shapes.values()), axis, platform) or {}
    return "".join(
        f"; {key} was given as {tuple(shapes[key])}, with the {moved_axis(kinds[key])} at axis "
        f"{default_axis(platform, kinds[key], len(shapes[key])) if axis is None else axis}"
        for key, shape in placed.items()
        if shape != tuple(shapes[key])
    )


def _wanted(kinds: Mapping[str, Kind], shapes: Mapping[str, Shape], key: str) -> Shape | None:
    """The shape that one input should have, going by the others; None if they do not say."""
    try:
        lengths = axis_lengths({n: k for n, k in kinds.items() if n != key}, shapes, "")
    except ShapeError:
        return None
    if any(axis not in lengths for axis in kinds[key].axes):
        return None
    return tuple(n for axis in kinds[key].axes for n in lengths[axis])


def _dense(shape: Shape) -> list[int | None]:
    return [n for n in shape if n != 1]


def _dims(shape: Shape) -> str:
    text = ", ".join("-1" if n is None else str(n) for n in shape)
    return f"({text},)" if len(shape) == 1 else f"({text})"
