"""Every public loss of the installed frameworks has a witness, and every witness a loss."""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata

import pytest

from lossbridge.versions import within
from lossbridge.witnesses import witnesses
from lossbridge.witnesses.witness import FRAMEWORKS

READ = {"torch": "2.13", "keras": "3.15", "optax": "0.2.8"}  # whose sources the witnesses tell


def older(module: str) -> bool:
    """Whether the installed release is older than the one that the witnesses were read from."""
    package = FRAMEWORKS[module]
    return within(metadata.version(package), f"<{READ[package]}")


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
    assert offered <= kept
    assert kept == offered or older(module)


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_arguments_are_the_original_s_in_name_order_and_default(module: str) -> None:
    for name, versions in witnesses().items():
        witness = versions[-1]
        if witness.module != module:
            continue
        original = getattr(importlib.import_module(module), name.rpartition(".")[2], None)
        if original is None and older(module):
            continue  # it came later
        theirs = inspect.signature(original).parameters
        given = [
            p for p in witness.signature.parameters.values() if p.name not in ("args", "kwargs")
        ]
        if module == "optax.losses":
            called = (*witness.call_order(witness.example().spec), *witness.call)
            names = [n for n in theirs if n not in called]
        else:
            names = [n for n in theirs if n not in ("args", "kwargs")]
        if older(module):  # an argument may have come later
            given = [p for p in given if p.name in theirs]
        assert [p.name for p in given] == names, name
        for parameter in given:
            default = theirs[parameter.name].default
            if inspect.isfunction(default):
                default = default.__name__  # no framework is imported to name its function
            assert parameter.default == default, (name, parameter.name)
