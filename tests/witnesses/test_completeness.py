"""Every public loss of the installed frameworks has a witness, and every witness a loss."""

from __future__ import annotations

import importlib
import inspect

import pytest

from lossbridge.witnesses import witnesses
from lossbridge.witnesses.witness import FRAMEWORKS


def public(module: str) -> set[str]:
    """The losses that a framework offers, found without our own list."""
    found = importlib.import_module(module)
    if module == "torch.nn":
        from torch.nn.modules import loss

        # NLLLoss2d is a deprecated alias, which warns that NLLLoss is meant.
        names = {n for n in loss.__all__ if n != "NLLLoss2d"}
    elif module == "keras.losses":
        names = {
            n
            for n, v in vars(found).items()
            if inspect.isclass(v) and issubclass(v, found.Loss) and v is not found.Loss
            and n == v.__name__
        }  # fmt: skip
    else:
        names = {
            n for n, v in vars(found).items() if inspect.isfunction(v) and not n.startswith("_")
        }
    return {f"{module}.{name}" for name in names}


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_every_public_loss_has_a_witness(module: str) -> None:
    offered = public(module)
    assert len(offered) > 20
    kept = {name for name in witnesses() if name.startswith(f"{module}.")}
    assert kept == offered


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_arguments_are_the_original_s_in_name_order_and_default(module: str) -> None:
    for name, versions in witnesses().items():
        witness = versions[-1]
        if witness.module != module:
            continue
        original = getattr(importlib.import_module(module), name.rpartition(".")[2])
        theirs = inspect.signature(original).parameters
        given = [
            p for p in witness.signature.parameters.values() if p.name not in ("args", "kwargs")
        ]
        if module == "optax.losses":
            called = (*witness.call_order(witness.example().spec), *witness.call)
            names = [n for n in theirs if n not in called]
        else:
            names = [n for n in theirs if n not in ("args", "kwargs")]
        assert [p.name for p in given] == names, name
        for parameter in given:
            default = theirs[parameter.name].default
            if inspect.isfunction(default):
                default = default.__name__  # no framework is imported to name its function
            assert parameter.default == default, (name, parameter.name)
