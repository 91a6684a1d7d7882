"""The witnesses of torch.nn, against torch itself and on the other two platforms."""

from __future__ import annotations

import numpy as np
import originals
import pytest

RNG = np.random.default_rng(20)
X, Y = RNG.normal(size=(2, 4, 3))
LOGITS, LABELS = RNG.normal(size=(4, 3)), RNG.integers(0, 3, 4)

CASES = [
    originals.Case("torch.nn.HuberLoss", "benign", {"prediction": X, "target": Y}, dict(delta=0.5)),
    originals.Case("torch.nn.CrossEntropyLoss", "benign", {"logits": LOGITS, "labels": LABELS},
                   dict(label_smoothing=0.1, weight=np.array([1.0, 2.0, 3.0]))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_meaning_is_the_original_s(case: originals.Case) -> None:
    wanted = originals.of_original(case)
    for platform in originals.PLATFORMS:
        originals.assert_same(originals.of_ours(case, platform), wanted, case.rtol)
