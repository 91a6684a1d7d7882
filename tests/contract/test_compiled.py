"""torch.compile follows every loss whole, with lengths held open; the built-ins' meanings too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from samples import Sample, array_of, every, sample

from lossbridge.frontdoor import forms
from lossbridge.witnesses import witnesses

torch = pytest.importorskip("torch")
L = pytest.importorskip("lossbridge.torch")

OURS = every(lambda s: not (s.tree or s.spec.ports or s.spec.weights))
SETTINGS = {
    "optax.losses.make_fenchel_young_loss": "takes a function of arrays, so it is none of arrays",
    "optax.losses.smooth_labels": {"alpha": 0.25},
    "torch.nn.LinearCrossEntropyLoss": {"in_features": 5, "num_classes": 3},
}
BATCHES = (7, 5, 3)


def follow(loss: Any, arrays: Any) -> None:
    """One compiled function, given batches of several sizes, gives what the loss gives."""
    compiled = torch.compile(loss, fullgraph=True, backend="eager", dynamic=True)
    for batch in BATCHES:
        tensors = {n: torch.tensor(x) for n, x in arrays(batch).items()}
        moving = [t.requires_grad_() for t in tensors.values() if t.is_floating_point()]
        values = [f(**tensors).sum() for f in (compiled, loss)]
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6, equal_nan=True)
        slopes = [torch.autograd.grad(v, moving, allow_unused=True) for v in values]
        for one, other in zip(*slopes, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("s", OURS, ids=lambda s: s.id)
def test_every_loss_compiles_for_batches_of_any_size(s: Sample) -> None:
    loss = getattr(L, s.class_)(**s.settings)
    follow(loss, lambda batch: sample(forms()[s.class_], s.spec, batch).inputs)


@pytest.mark.parametrize("name", sorted(witnesses()))
def test_every_built_in_compiles_for_batches_of_any_size(name: str) -> None:
    # Four of optax's, which have a meaning for labels and one for rows, did not at all.
    settings = SETTINGS.get(name, {})
    if isinstance(settings, str):
        pytest.skip(settings)
    loss = L.native(name, **settings)

    def arrays(batch: int) -> dict[str, Any]:
        rng = np.random.default_rng(batch)
        return {n: array_of(k, rng, batch) for n, k in loss.spec.inputs.items()}

    follow(loss, arrays)
