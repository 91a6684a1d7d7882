"""Comparisons end in the right verdict, with its cause."""

from __future__ import annotations

import json

import pytest

import lossbridge
from lossbridge.errors import ArgumentError


@pytest.mark.parametrize(
    ("a", "b", "verdict", "words"),
    [
        ("torch.nn.HuberLoss(delta=2.0)", "torch.nn.HuberLoss(delta=2.0)", "same", ""),
        ("torch.nn.HuberLoss(delta=2.0)", "torch.nn.SmoothL1Loss(beta=2.0)", "same_up_to_factor",
         "delta"),
        ("torch.nn.CrossEntropyLoss()", "torch.nn.CrossEntropyLoss(label_smoothing=0.1)",
         "different", "label_smoothing"),
        ("torch.nn.BCELoss()", "torch.nn.BCEWithLogitsLoss()", "domain_differs", "sigmoid"),
        ("torch.nn.CrossEntropyLoss(weight=[1.0, 2.0, 3.0])",
         "torch.nn.CrossEntropyLoss(weight=[1.0, 2.0, 3.0])", "same", ""),
    ],
)  # fmt: skip
def test_verdicts(a: str, b: str, verdict: str, words: str) -> None:
    found = lossbridge.compare(a, b)
    assert found.verdict == verdict, str(found)
    assert words in str(found)
    assert json.loads(found.to_json())["verdict"] == verdict


def test_a_factor_is_given() -> None:
    found = lossbridge.compare("torch.nn.HuberLoss(delta=2.0)", "torch.nn.SmoothL1Loss(beta=2.0)")
    assert found.factor == pytest.approx(0.5)
    with pytest.raises(AssertionError, match="same_up_to_factor"):
        found.raise_if_different()


@pytest.mark.parametrize("text", ["f(x)", "torch.nn.HuberLoss(delta=g())", "1 + 1", "a b", "[]"])
def test_text_that_is_no_plain_call_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError):
        lossbridge.compare(text, "torch.nn.HuberLoss()")
