"""PyTorch's own test inputs of its losses, given to each loss and to its meaning here.

Run as a program, it prints a JSON object: for every kind of outcome, the cases that had it. It is
one because importing PyTorch's test package changes settings of the whole process.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import types
import unittest
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

import lossbridge.torch as L

# Its base class alone is wanted of this package, which PyTorch does not install.
if "expecttest" not in sys.modules:
    sys.modules["expecttest"] = types.ModuleType("expecttest")
    sys.modules["expecttest"].TestCase = unittest.TestCase  # type: ignore[attr-defined]

from torch.testing._internal import common_modules, common_nn

DTYPES = (torch.float32, torch.float64)
EVERY = {"LinearCrossEntropyLoss": 47}  # has 1,684 inputs, most of which differ in `options`
Case = tuple[str, str, Any, Any, Any]


def of_modules() -> Iterator[Case]:
    """The inputs that PyTorch tests all its modules on."""
    for info in common_modules.module_db:
        name = info.module_cls.__name__
        if not name.endswith("Loss"):
            continue
        for dtype in DTYPES:
            torch.manual_seed(0)
            found = info.module_inputs_func(
                info, device="cpu", dtype=dtype, requires_grad=True, training=False
            )
            for k, one in enumerate(found):
                if k % EVERY.get(name, 1) == 0:
                    made, given = one.constructor_input, one.forward_input
                    yield name, f"{dtype} {one.desc} {k}", made, given.args, one.reference_fn


def of_criteria() -> Iterator[Case]:
    """The older list, of samples without a batch."""
    torch.manual_seed(0)
    for test in common_nn.criterion_tests:
        name = test["fullname"].partition("_")[0]
        made = common_modules.FunctionInput(reduction=test["constructor"]().reduction)
        given = [
            test[f"{key}_fn"]() if f"{key}_fn" in test else torch.randn(test[f"{key}_size"])
            for key in ("input", "target")
        ]
        flat = [x for g in given for x in (g if isinstance(g, tuple) else (g,))]
        yield name, test["fullname"], made, tuple(flat), None


def leaves(given: Any, without: bool) -> list[Any]:
    """The arguments of a call; what is floating has a gradient, a target of ``without`` none."""
    found = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in given]
    for k, x in enumerate(found):
        if isinstance(x, torch.Tensor) and x.is_floating_point() and not (without and k):
            x.requires_grad_()
    return found


def called(loss: Any, given: Any, without: bool) -> tuple[Any, list[Any]]:
    """The value and the gradients of everything that has one."""
    inputs = leaves(given, without)
    value = loss(*inputs)
    wrt = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    wrt += loss.parameters()
    found = torch.autograd.grad(value.sum(), wrt, allow_unused=True)
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(wrt, found, strict=True)]
    return value.detach(), gradients


def read(reference: Any, loss: Any, given: Any) -> Any:
    """What PyTorch's reference function of a loss says, which reads settings from the object."""
    try:
        return str(reference(loss, list(loss.parameters()), *given))
    except Exception as error:  # of several it is wrong itself
        return str(error)


def narrowest(given: Any) -> torch.dtype:
    """In the narrowest of its dtypes an original of mixed ones may have rounded."""
    floating = [x.dtype for x in given if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return max(floating, key=lambda d: torch.finfo(d).eps)


def same(found: Any, wanted: Any, dtype: torch.dtype) -> bool:
    """Whether two results are equal but for rounding, their shapes and dtypes too."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    finite = wanted.abs()[wanted.isfinite()]
    # 4,000 steps of rounding: what 50 steps of alignments leave of float32.
    rtol = 4000.0 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-11
    atol = rtol * (float(finite.max()) if finite.numel() else 0.0)
    return torch.allclose(found, wanted, rtol=rtol, atol=atol, equal_nan=True)


def told(ours: Any, theirs: Any) -> list[str]:
    """What the object does not say of itself as the original does."""
    missing = object()
    wrong = [
        name
        for name, value in vars(theirs).items()
        if not name.startswith("_") and getattr(ours, name, missing) != value
    ]
    for name, value in theirs.named_buffers():
        mine = getattr(ours, name)
        if mine.dtype != value.dtype or not torch.equal(mine, value):
            wrong.append(name)
    wrong += sorted(set(ours.state_dict()) ^ set(theirs.state_dict()))
    return wrong


def outcome(case: Case) -> str:
    """``equal``, or what is not."""
    name, _, made, given, reference = case
    without = name == "SoftMarginLoss"  # whose target has no gradient there
    try:
        theirs = getattr(torch.nn, name)(*made.args, **made.kwargs)
        wanted = called(theirs, given, without)
    except RuntimeError:
        wanted = None
    try:
        ours = L.native(f"torch.nn.{name}", *made.args, **made.kwargs)
        if wanted is not None:
            ours.load_state_dict(theirs.state_dict())
        found = called(ours, given, without)
    except Exception as error:
        if wanted is None:
            return "equal" if isinstance(error, RuntimeError) else f"raises {type(error).__name__}"
        return f"refused: {error}"[:200]
    if wanted is None:
        return "accepted"
    dtype = narrowest(given)
    if not same(found[0], wanted[0], dtype):
        return "another value"
    if not all(same(a, b, dtype) for a, b in zip(found[1], wanted[1], strict=True)):
        return "another gradient"
    if read(reference, ours, given) != read(reference, theirs, given):
        return "its settings are read otherwise"
    wrong = told(ours, theirs)
    if wrong:
        return f"tells otherwise: {', '.join(wrong)}"
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        if not same(called(copied, given, without)[0], found[0], torch.float64):
            return "another copy"
    return "equal"


def main() -> None:
    warnings.simplefilter("ignore")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for cases in (of_modules(), of_criteria()):
        for case in cases:
            found[outcome(case)].append(f"{case[0]} {case[1]}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
