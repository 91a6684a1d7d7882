"""The commonest slips, each named with the call that works. Knows no framework."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from lossbridge.errors import shown, suggestion
from lossbridge.synonyms import built_in, class_hint, settled_as

_ARRAYS = {
    "torch": "torch.as_tensor({})",
    "keras": "tf.convert_to_tensor({})",
    "jax": "jnp.asarray({})",
}


def is_array(x: object) -> bool:
    """Whether something is an array of any framework."""
    return hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, type)


def rank(x: Any) -> int:
    """How many axes an array has; 0 of anything else."""
    try:
        return len(x.shape) if is_array(x) else 0
    except (TypeError, ValueError):  # a shape that is not known yet
        return 1


def not_an_array(loss: str, name: str, x: Any, platform: str) -> str | None:
    """Why ``x`` is no input of a loss, and what to pass; None where it is one, or can become one.

    Numbers and lists of numbers become arrays on Keras and JAX, as they do for the frameworks' own
    losses; torch's take tensors only.
    """
    if is_array(x):
        return None
    start = f"{loss}: {name} must be {'a tensor' if platform == 'torch' else 'an array'}, but "
    if x is None:
        return f"{start}None was given"
    if isinstance(x, Mapping) or hasattr(x, "logits"):
        what = "a dictionary" if isinstance(x, Mapping) else f"a {shown(type(x).__name__)}"
        has = "logits" in x if isinstance(x, Mapping) else True
        if has:
            take = "outputs['logits']" if isinstance(x, Mapping) else "outputs.logits"
            return (
                f"{start}{what} with logits was given; pass {take}, or give transformers' Trainer "
                "compute_loss_func=L.as_hf(loss)"
            )
        return f"{start}{what} was given; pass one of its arrays"
    if isinstance(x, str | bytes | set | frozenset):
        return f"{start}{shown(x)} was given"
    if isinstance(x, type):
        return f"{start}the class {shown(x.__name__)} was given; pass what an instance returns"
    if callable(x):
        return (
            f"{start}{shown(type(x).__name__)}, a function, was given; pass what it returns, such "
            "as model(x)"
        )
    if platform != "torch" or (isinstance(x, tuple | list) and any(map(is_array, x))):
        if not isinstance(x, tuple | list) or not any(rank(a) for a in x):
            return None
        return (
            f"{start}a {type(x).__name__} of arrays was given; pass one of them, or stack them, "
            f"{_stack(platform).format(name)}"
        )
    return f"{start}{shown(type(x).__name__)} was given; write {_ARRAYS[platform].format(name)}"


def _stack(platform: str) -> str:
    return {"torch": "torch.stack({})", "keras": "tf.stack({})", "jax": "jnp.stack({})"}[platform]


FIRST = {
    *("input", "inputs", "y_pred", "predictions", "prediction", "preds", "pred", "output"),
    *("outputs", "logits", "log_probs", "x", "y_hat", "y_score", "scores", "log_predictions"),
    *("student", "embeddings", "probs", "probabilities"),
}
SECOND = {
    *("target", "targets", "y_true", "label", "labels", "true", "y", "ground_truth", "gt"),
    *("truth", "tgt", "expected", "teacher"),
}
"""What other frameworks call the first and the second input of a loss."""


def call_hint(key: str, inputs: tuple[str, ...], paired: bool, settings: Iterable[str]) -> str:
    """What an argument of a call is called here: by meaning, then by spelling."""
    if key in ("weights", "weight", "sample_weights", "element_weight"):
        return "; here it is sample_weight"
    if key in ("where", "masks", "attention_mask", "padding_mask", "label_mask"):
        return "; here it is mask"
    if key in ("avg_factor", "num_items", "normalizer", "num_tokens"):
        return "; make the loss with normalizer='external', then give normalizer_count"
    setting = settled_as(key, settings)
    if setting:
        return f"; make the loss with {setting}=..."
    if paired and key in FIRST | SECOND:
        return f"; here it is {inputs[key in SECOND]}"
    return suggestion(key, [*inputs, "sample_weight", "mask", "normalizer_count", "step"])


def from_another(source: object, known: Mapping[str, Any]) -> str | None:
    """What to write instead of ``compile(source)``; None where ``source`` may be a file."""
    takes = "compile takes a specification, what lossbridge.define makes, or a path to a file"
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if not isinstance(text, str) or os.path.exists(text):
            return None
        if text in known:
            return f"{takes}; {text} is a class: write L.{text}()"
        if built_in(text) and "/" not in text and not text.endswith(".json"):
            return f"{takes}; for a built-in write L.native({built_in(text)!r})"
        if not text.endswith(".json") and "/" not in text and os.sep not in text:
            return f"{takes}, but {shown(text)} is none{class_hint(text, known)}"
        return None
    if isinstance(source, type) and source.__name__ in known:
        return f"{takes}; {source.__name__} is a class: write L.{source.__name__}()"
    if hasattr(source, "bound") and hasattr(source, "spec"):
        return f"{takes}, but a loss was given, which is compiled; of its meaning: loss.spec"
    what = shown(getattr(source, "__name__", None) or type(source).__name__)
    if callable(source):
        return (
            f"{takes}, but {what}, a Python function, was given; write it in the language of "
            "lossbridge.ops and mark it, @lossbridge.define('acme/mine@1'), then "
            f"L.compile({_name(source)}); to compare it with a loss here, lossbridge.compare"
        )
    return f"{takes}, but {what} was given"


def _name(source: object) -> str:
    name = getattr(source, "__name__", "")
    return name if str(name).isidentifier() else "mine"
