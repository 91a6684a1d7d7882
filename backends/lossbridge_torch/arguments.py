"""Arguments of a call: what is accepted, brought to shape and dtype, or refused and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lossbridge import frontdoor, slips
from lossbridge.dtypes import check_weight, reading
from lossbridge.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    shown,
)
from lossbridge.frontdoor import Bound, Calls
from lossbridge.kinds import Interval, Kind
from lossbridge.spec import Spec, Weight
from lossbridge.valuecheck import ValueRule, refuse
from lossbridge_torch.engine import ordinary, transformed

Lengths: TypeAlias = Mapping[str, Sequence["int | None"]]


def initial(weight: Weight, shape: Sequence[int]) -> Tensor:
    """A trainable weight as its rule starts it."""
    tensor = torch.empty(shape)
    rule = weight.init
    if not isinstance(rule, str):
        return nn.init.constant_(tensor, rule)
    return {
        "zeros": nn.init.zeros_,
        "ones": nn.init.ones_,
        "normal": nn.init.normal_,
        "uniform": nn.init.uniform_,
        "glorot_normal": nn.init.xavier_normal_,
        "glorot_uniform": nn.init.xavier_uniform_,
    }[rule](tensor)


def dtype_kinds(bound: Bound, inputs: Mapping[str, Any]) -> dict[str, str]:
    """Whether each input holds real numbers, integers or truth values."""
    found: dict[str, str] = {}
    for position, name in enumerate(bound.specs[0].inputs):
        x = inputs[name]
        kind = "int"
        if isinstance(x, Tensor):
            kind = "real" if x.is_floating_point() else "bool" if x.dtype == torch.bool else "int"
        for spec in bound.specs:
            found[tuple(spec.inputs)[position]] = kind
    return found


def selected(bound: Bound, inputs: Mapping[str, Any]) -> int:
    """Which of the losses behind one name fits these inputs."""
    if len(bound.specs) == 1:
        return 0
    given = [inputs[name] for name in bound.specs[0].inputs]
    ranks = [x.dim() if isinstance(x, Tensor) else None for x in given]
    return bound.select(dtype_kinds(bound, inputs), ranks)


def dense(name: str, key: str, x: Any) -> Tensor:
    """A tensor whose layout every operation takes."""
    if not isinstance(x, Tensor):
        raise ArgumentError(
            slips.not_an_array(name, key, x, "torch")
            or f"{name}: {key} must be a tensor, but an array of {shown(type(x).__module__)} was "
            f"given; write torch.as_tensor({key})"
        )
    if x.layout is not torch.strided or x.is_nested:
        what, dense = (
            ("nested", "to_padded_tensor(0.0), with a mask")
            if x.is_nested
            else (f"sparse ({x.layout})", "to_dense()")
        )
        raise ArgumentError(f"{name}: {key} is {what}, but must be dense; pass {key}.{dense}")
    return x


def dtype_name(x: Tensor) -> str:
    """``float32`` of ``torch.float32``."""
    return str(x.dtype).removeprefix("torch.")


def written_cast(key: str, wanted: str) -> str:
    """The cast of a name, as messages advise it."""
    if wanted == "parts":
        return f"{key}.real or {key}.abs()"
    return f"{key}.{({'real': 'float', 'int': 'long', 'bool': 'bool'})[wanted]}()"


def checked(
    name: str,
    key: str,
    kind: Kind,
    x: Any,
    first: bool,
    like: torch.dtype | None = None,
    advise: Callable[[], str] | None = None,
) -> Tensor:
    """A tensor that carries what its kind states; integers in place of real numbers as those, in
    the dtype ``like``.

    ``first``: it is what the loss is about, and integers are refused.
    """
    # torch takes the lengths of sequences as tuples too.
    if kind.dtype == "int" and isinstance(x, list | tuple) and all(type(k) is int for k in x):
        return torch.as_tensor(x)
    tensor = dense(name, key, x)
    how = reading(
        name, key, kind, dtype_name(tensor), first=first, cast=written_cast, advise=advise
    )
    if how == "sign":
        return 2.0 * tensor.to(like or torch.float32) - 1.0
    if how == "real":
        return tensor.to(like or torch.float32)
    if how == "int":
        return tensor.long()
    return tensor != 0 if how == "bool" else tensor


def weighing(name: str, x: Any) -> Tensor:
    """A sample weight: real numbers, or integers and truth values in their place."""
    weight = dense(name, "sample_weight", x) if isinstance(x, Tensor) else torch.as_tensor(x)
    check_weight(name, dtype_name(weight))
    return weight if weight.is_floating_point() else weight.to(torch.float32)


# Few of torch's operations take these.
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def cast(spec: Spec, kind: Kind, x: Any) -> Any:
    """An input in the dtype that the loss casts it to, where it says so."""
    if spec.numerics.cast is None or not isinstance(x, Tensor) or x.is_complex():
        return x
    if kind.dtype == "int" and x.is_floating_point():
        return x.long()
    if kind.dtype == "real" and (spec.numerics.dtype or not x.is_floating_point()):
        dtype: torch.dtype = getattr(torch, spec.numerics.dtype or "float32")
        return x.to(dtype)
    return x


class Arrays:
    """What a built-in's own arrangement of its inputs is written in, on this platform."""

    @staticmethod
    def number(x: float, like: Tensor) -> Tensor:
        """A Python number as a tensor beside another."""
        return torch.as_tensor(x, dtype=like.dtype, device=like.device)

    @staticmethod
    def integers(x: Any) -> Tensor:
        """Integers that may have been given as a tuple."""
        return x if isinstance(x, Tensor) else torch.as_tensor(x)

    @staticmethod
    def rows(x: Tensor, lengths: Tensor) -> Tensor:
        """Pieces of a vector, one after the other, as the rows of a matrix."""
        pieces = list(torch.split(x, [int(n) for n in lengths]))
        return nn.utils.rnn.pad_sequence(pieces, batch_first=True)


def as_real(calls: Calls, kinds: Mapping[str, Kind], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs; integers are real numbers where the built-in takes them for those."""
    found = dict(inputs)
    if not calls.integers:
        return found
    dtype = next((x.dtype for x in found.values() if _floating(x)), torch.get_default_dtype())
    for key, kind in kinds.items():
        x = found[key]
        if kind.dtype == "real" and isinstance(x, Tensor) and not (_floating(x) or x.is_complex()):
            found[key] = x.to(dtype)
    return found


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def check_alike(name: str, tensors: Mapping[str, Any]) -> None:
    """One dtype for inputs that a built-in does not mix."""
    names = [n for n, x in tensors.items() if _floating(x)]
    first = names[0] if names else ""
    for key in names[1:]:
        if tensors[key].dtype != tensors[first].dtype:
            raise DTypeError(
                f"{name}: {first} has dtype {tensors[first].dtype}, and {key} has "
                f"{tensors[key].dtype}, but it takes one dtype; pass "
                f"{key}.to({first}.dtype)"
            )


def stretched(
    name: str, calls: Calls, spec: Spec, inputs: Mapping[str, Tensor], unreduced: Sequence[str]
) -> dict[str, Tensor]:
    """The inputs broadcast as the built-in does it."""
    given = {key: tuple(inputs[key].shape) for key in spec.inputs}
    wanted = frontdoor.broadcast(spec, given, calls, unreduced)
    # One by one: Dynamo does not compare dictionaries of sizes that it holds open.
    if all(wanted[key] == shape for key, shape in given.items()):
        return dict(inputs)
    if calls.warns and not torch.compiler.is_compiling():
        shapes = " and ".join(map(str, given.values()))
        warnings.warn(
            f"{name}: the inputs have shapes {shapes}, and are broadcast to "
            f"{wanted[next(iter(wanted))]}, which is seldom what was meant",
            stacklevel=2,
        )
    return {key: x.expand(wanted[key]) for key, x in inputs.items()}


def unread(x: Tensor) -> bool:
    """Whether nobody may look at the values of a tensor, or there are none."""
    return (
        torch.compiler.is_compiling()
        or x.device.type != "cpu"
        or x.numel() == 0
        or transformed()
        or not ordinary((x,))
    )


def promoted(tensors: Iterable[Tensor]) -> torch.dtype:
    """The dtype of a result: numbers without dimensions do not widen the others."""
    dtypes = [(x.dim() > 0, x.dtype) for x in tensors] or [(True, torch.float32)]
    first, *rest = [t for sized, t in dtypes if sized] or [t for _, t in dtypes]
    for dtype in rest:
        first = torch.promote_types(first, dtype)
    return first


def moved(kind: Any, x: Tensor, axis: int | None) -> Tensor:
    """An input with its class axis last."""
    if frontdoor.moved_axis(kind) is None or x.dim() < 1:
        return x
    at = (
        frontdoor.default_axis("torch", kind, x.dim())
        if axis is None
        else frontdoor.given_axis(axis, x.dim())
    )
    if not -x.dim() <= at < x.dim():
        raise ShapeError(
            f"axis={at} was given, but a tensor of shape {tuple(x.shape)} has {x.dim()} dimensions"
        )
    return x if at in (-1, x.dim() - 1) else x.movedim(at, -1)


def parameter(name: str, key: str, kind: Any, x: Tensor, lengths: Lengths, first: Tensor) -> Tensor:
    """An array hyperparameter, repeated along the axes of its kind; those broadcast as in torch."""
    wanted: tuple[Any, ...] = tuple(n for axis in kind.axes for n in lengths.get(axis, ()))
    if tuple(x.shape) == wanted or any(axis not in lengths for axis in kind.axes):
        return x
    try:
        return x.expand(wanted)
    except RuntimeError:
        raise ShapeError(
            f"{name}: {key} is {kind}, here of shape {wanted}, but its shape is {tuple(x.shape)}"
        ) from None


def along(name: str, what: str, x: Tensor, index: Sequence[int | None]) -> Tensor:
    """A weight or mask, repeated to one entry for each value of the loss."""
    shape: tuple[Any, ...] = frontdoor.aligned_shape(name, what, x.shape, index)
    full: tuple[Any, ...] = tuple(index)
    return x.reshape(shape).expand(full)


def number(name: str, what: str, given: Any, like: Tensor) -> Tensor:
    """A single number of a call as a tensor beside another."""
    x = given if isinstance(given, Tensor) else torch.as_tensor(given)
    if x.dim() != 0:
        raise ShapeError(f"{name}: {what} is a single number, but its shape is {tuple(x.shape)}")
    dtype = x.dtype if x.is_floating_point() else torch.promote_types(torch.float32, like.dtype)
    return x.to(device=like.device, dtype=dtype)


def leaves_of(tree: Any) -> list[Any]:
    """The tensors of a module, of ``named_parameters()``, or of nested containers."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, nn.Module):
        return [p for p in tree.parameters() if p.requires_grad]
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in leaves_of(value)]
    if isinstance(tree, str):
        return []  # the name in a (name, parameter) pair
    if isinstance(tree, Iterable):
        return [leaf for value in tree for leaf in leaves_of(value)]
    raise ArgumentError(
        f"a parameter tree is a module, named_parameters(), or containers of tensors, but "
        f"{shown(type(tree).__name__)} was given"
    )


def check_values(
    name: str,
    rules: Iterable[tuple[ValueRule, Interval]],
    inputs: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> bool:
    """Values outside their domain raise where reading them waits for nobody; elsewhere the loss is
    NaN. ``numbers`` has the parameters.

    True where all have been read and lie inside.
    """
    inside = True
    for rule, interval in rules:
        x = inputs[rule.name]
        if unread(x):
            inside = False
            continue
        if rule.plain:
            lowest, highest = extremes(x)
            if lowest in interval and highest in interval:
                continue
        elif rule.inside(as_array(x), interval, _eps(x)):
            continue
        inside = False
        beside = {**numbers, **inputs}
        needed = (*rule.exempt, *(key for key, _ in rule.ends), "mask")
        tensors = {n: beside[n] for n in needed if n in beside}
        if any(isinstance(v, Tensor) and v.numel() and unread(v) for v in tensors.values()):
            continue
        arrays = {n: as_array(v) if isinstance(v, Tensor) else v for n, v in tensors.items()}
        refuse(name, rule, as_array(x), interval, arrays, _eps(x))
    return inside


def _eps(x: Tensor) -> float:
    """The rounding error of a tensor's dtype, which NumPy's arrays of bfloat16 do not keep."""
    return torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0


def extremes(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest number."""
    if x.dtype in _UNSIGNED:
        array = as_array(x)
        return array.min().item(), array.max().item()
    lowest, highest = torch.aminmax(x.detach())
    return lowest.item(), highest.item()


def as_array(x: Tensor) -> Any:
    """A tensor's numbers for NumPy, which has no bfloat16."""
    x = x.detach().resolve_neg()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def whole(x: Tensor, identity: bool) -> Tensor:
    """Integers as int64, which every operation takes and compares with every number.

    Of uint64 what does not fit is out of every range; an ``identity`` stays what no other is.
    """
    if x.dtype == torch.int64:
        return x
    if x.dtype != torch.uint64:
        return x.long()
    x = x.view(torch.int64)
    return x if identity else torch.where(x < 0, 2**63 - 1, x)
