"""The labels of a difference between two losses: a verdict, and what kinds of cause it has.

The verdicts are those of :func:`lossbridge.compare`, and one more, for a built-in that has no
relative on another framework. The kinds are read off the words of the causes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lossbridge.migrate.comparison import VERDICTS, Cause

NO_COUNTERPART: Final = "no_counterpart"

LABELS: Final[Mapping[str, str]] = {
    **VERDICTS,
    NO_COUNTERPART: "the framework has no loss for this purpose",
}


@dataclass(frozen=True)
class Kind:
    """A kind of cause: what it is called, what it means, and how its words are known."""

    name: str
    meaning: str
    pattern: str


KINDS: Final[tuple[Kind, ...]] = (
    Kind("arguments", "they take another number or other kinds of arguments",
         r"different arguments"),
    Kind("logits or probabilities", "one takes logits, another probabilities or their logarithms",
         r"logit|probabilit|sigmoid|softmax|exponentiate"),
    Kind("label encoding", "integers against one-hot rows, -1 and 1 against 0 and 1",
         r"one-hot|integer label|-1 or 1|\b0 or 1\b"),
    Kind("normaliser", "a sum divided by another number: elements, samples, weights",
         r"mean over (batch|weights|valid|target|external)|a sum\b|divide[sd]? by (their|different|"
         r"the)|the number of (elements|samples)|batch size|length of the last axis"),
    Kind("factor", "a constant factor, or the opposite sign",
         r"is it (times|divided)|b is [-\d.e]+ times a|half|twice|opposite sign"),
    Kind("offset", "a constant is added", r"b is a plus"),
    Kind("setting", "a setting of one name has another value or default", r" for a and .* for b"),
    Kind("epsilon", "a small constant of another size, or in another place", r"epsilon"),
    Kind("kink", "another subgradient where the derivative jumps", r"\bkink"),
    Kind("empty batch", "the mean of nothing: an empty batch", r"the mean of nothing"),
    Kind("ignored labels", "labels that one of them leaves out", r"labels that are ignored"),
    Kind("extreme inputs", "inputs so large or small that one of them clips, overflows or rounds",
         r"an extreme input|inputs that are equal or 0"),
    Kind("low precision", "float16 or bfloat16", r"lower precision"),
    Kind("compiled", "compiled against eager", r"\bcompiled"),
    Kind("sample weights", "what sample weights do", r"sample weights"),
    Kind("shapes", "arrays of some shape, which one of them reads otherwise", r"\ba shape\b"),
    Kind("gradient", "a gradient that is not the derivative of the value",
         r"not that of the value"),
    Kind("formula", "another formula: none of the other kinds was found", r"(?!)"),
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """A verdict and its kinds of cause, in the order of :data:`KINDS`."""

    verdict: str
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = self.verdict.replace("_", " ")
        return f"{words} ({', '.join(self.kinds)})" if self.kinds else words


def label(verdict: str, causes: Sequence[Cause]) -> Label:
    """The label of a comparison's verdict and causes."""
    if verdict in ("same", "undecided", NO_COUNTERPART):
        return Label(verdict)
    words = "\n".join(f"{c.text}\n{c.fix}" for c in causes)
    found = tuple(k.name for k in KINDS if re.search(k.pattern, words))
    return Label(verdict, found or ("formula",))


__all__ = ["KINDS", "LABELS", "NO_COUNTERPART", "Kind", "Label", "label"]
