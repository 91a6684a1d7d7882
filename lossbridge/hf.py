"""Losses as transformers' Trainer calls them: ``f(outputs, labels, num_items_in_batch=None)``.

What a door adds is its own arrays; what an output is, where its logits lie and what they are
divided by is the same on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lossbridge.errors import ArgumentError, UnsupportedError, listed, shown
from lossbridge.frontdoor import Bound, has_target

CALL = "L.as_hf(L.CrossEntropyLoss())"


def settings_for_hf(loss: Any, bound: Any) -> dict[str, Any]:
    """The settings of a loss as a trainer takes it: a mean, of logits with the classes last."""
    if isinstance(loss, type) or not isinstance(bound, Bound):
        what = f"the class {loss.__name__}" if isinstance(loss, type) else shown(loss)
        raise ArgumentError(f"as_hf takes a loss, but {what} was given; write {CALL}")
    spec, name = bound.specs[0], bound.form.name
    if bound.combined is not None or len(spec.inputs) != 2 or not has_target(spec):
        raise UnsupportedError(
            f"as_hf takes a loss of a model's output and the labels, but {name} takes "
            f"{listed(bound.combined.names if bound.combined else spec.inputs)}; write a function "
            "of (outputs, labels, num_items_in_batch) that calls it"
        )
    if spec.weights or spec.ports or spec.step:
        what = listed([*spec.weights, *spec.ports, *(["step"] if spec.step else [])])
        raise UnsupportedError(
            f"as_hf takes a loss without weights, functions and schedules of its own, but {name} "
            f"has {what}, which the Trainer would neither train nor give; make it a part of the "
            "model, and call it there"
        )
    found = {**bound.given, "reduction": "mean"}
    if bound.form.has_axis:
        found["axis"] = -1
    return found


def logits_of(outputs: Any, rank: Callable[[Any], int | None]) -> Any:
    """The logits of what a model gives: an object or a dictionary that has ``logits``, a tuple that
    begins with them (after the loss, where the model computed one), or they themselves.

    ``rank`` gives the number of axes of an array, and None of anything else.
    """
    found: Any = outputs
    if rank(outputs) is not None:
        return outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif hasattr(outputs, "logits"):
        found = outputs.logits
    elif isinstance(outputs, tuple | list):
        found = next((x for x in outputs if rank(x)), None)
    if found is None or rank(found) is None:
        has = f", which has {listed(map(shown, outputs))}" if isinstance(outputs, Mapping) else ""
        raise ArgumentError(
            "outputs is a model's output with logits (an object or a dictionary), a tuple that "
            f"begins with them, or the logits, but {shown(type(outputs).__name__)}{has} was given; "
            f"write loss_function = {CALL}, then loss_function(outputs, labels)"
        )
    return found


def hf_function(
    bound: Bound,
    shift_labels: bool,
    rank: Callable[[Any], int | None],
    prepare: Callable[[Any, Any], tuple[Any, Any]],
    plain: Callable[..., Any],
    counted: Callable[..., Any],
) -> Callable[..., Any]:
    """The function for a trainer; ``prepare`` brings logits to at least float32, and labels to
    where they are."""
    first, second = bound.specs[0].inputs
    alike = len({len(kind.axes) for kind in bound.specs[0].inputs.values()}) == 1

    def hf_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """The loss of a model's outputs: the mean, or the sum over ``num_items_in_batch``."""
        logits = logits_of(outputs, rank)
        if labels is None:
            raise ArgumentError(
                f"{bound.form.name}: no labels were given; put them under 'labels' in the data set"
            )
        logits, labels = prepare(logits, labels)
        if shift_labels:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        # A model with one label gives (N, 1) for the (N,) of a regression.
        if alike and len(logits.shape) == len(labels.shape) + 1 and logits.shape[-1] == 1:
            logits = logits[..., 0]
        given = {first: logits, second: labels}
        if num_items_in_batch is None:
            return plain(**given)
        return counted(**given, normalizer_count=num_items_in_batch)

    return hf_loss
