"""The PyTorch objects: ``nn.Module`` classes over emitted functions.

A call binds its arguments, chooses the loss by the dtypes, moves the class axis last, checks the
named axes, calls the ports, and runs one :class:`torch.autograd.Function` whose forward computes
the value and the gradients that somebody needs together. Its backward multiplies by the incoming
gradient; differentiated again, or met by ``torch.func``, it computes the gradient by its formula,
whose own derivative is the graph's too, never torch's rules for the operations in it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossbridge import fitting, frontdoor
from lossbridge.combine import (
    Combination,
    CombinedCall,
    bind_combined,
    coefficient_inputs,
    combination_text,
)
from lossbridge.dtypes import check_mask
from lossbridge.emit import emit
from lossbridge.errors import (
    ArgumentError,
    UnsupportedError,
)
from lossbridge.frontdoor import Bound, Call, Combined, Form, Original
from lossbridge.hf import hf_function, settings_for_hf
from lossbridge.kinds import Interval
from lossbridge.plan import Options, Plan
from lossbridge.spec import Spec
from lossbridge.valuecheck import ValueRule, refuse_mask, value_rules
from lossbridge_torch.arguments import (
    Arrays,
    Lengths,
    along,
    as_real,
    cast,
    check_alike,
    check_values,
    checked,
    dtype_name,
    initial,
    leaves_of,
    moved,
    number,
    parameter,
    promoted,
    selected,
    stretched,
    unread,
    weighing,
    whole,
)
from lossbridge_torch.engine import (
    KERNEL,
    NAMES,
    OWNERS,
    calls_of,
    dual_level,
    external,
    ordinary,
    prepare,
    prepare_arguments,
    resolve,
    stage_of,
    token_of,
    transformed,
    unreduced,
)
from lossbridge_torch.lowering import LOWERING
from lossbridge_torch.ports import given_to, outside

__all__ = ["Loss", "as_hf", "class_of", "combination_class", "compile", "eject", "reduce"]


# --- what a call is known by ---------------------------------------------------------------------

KNOWN = f"{KERNEL}_known"
_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


def _facts(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """All that decides how a call runs; None where something else is going on around it."""
    if transformed() or dual_level() or _autocast() or not ordinary(args):
        return None
    facts: list[Any] = [torch.is_grad_enabled()]
    for x in args:
        facts += (x.shape, x.dtype, x.requires_grad, x.device)
    return tuple(facts)


@dataclasses.dataclass(frozen=True)
class _Known:
    """A call whose shapes, dtypes and settings have been seen and found good."""

    name: str
    places: Mapping[str, int]  # of the inputs by name, among the arguments
    order: tuple[int, ...]  # of the function's inputs, among the arguments
    numbers: Mapping[str, Any]
    rules: tuple[tuple[ValueRule, Interval], ...]  # what is looked at
    narrow: tuple[int, ...]  # the places of integers that are not int64 yet
    apply: tuple[Callable[..., Tensor], ...]  # in general, and for labels that all lie in range
    plain: tuple[Callable[..., tuple[Tensor, ...]], ...]
    wide: tuple[torch.dtype | None, ...]  # what each of the function's inputs is brought to
    out: torch.dtype

    def __call__(self, args: tuple[Any, ...]) -> Tensor:
        in_range = bool(self.rules) and check_values(
            self.name, self.rules, {n: args[k] for n, k in self.places.items()}, self.numbers
        )
        if self.narrow:
            args = tuple(x.long() if k in self.narrow else x for k, x in enumerate(args))
        if self.apply:
            return self.apply[in_range](*[args[k] for k in self.order])
        value = self.plain[in_range](
            *[
                args[k] if wide is None else args[k].to(wide)
                for k, wide in zip(self.order, self.wide, strict=True)
            ]
        )[0]
        # Asking first is quicker than .to(), which takes 2 of a small call's 14 us.
        return value if value.dtype is self.out else value.to(self.out)


def _arranged(original: Original, inputs: Mapping[str, Tensor]) -> bool:
    """Whether the built-in writes these inputs another way."""
    found = dict(inputs)
    undo = None if original.calls.arrange is None else original.calls.arrange(found, Arrays)
    return undo is not None or any(found[n] is not x for n, x in inputs.items())


def _arguments(bound: Bound) -> Mapping[str, Any]:
    """What a loss was made with, or the built-in that it stands for."""
    original = bound.form.original
    return frontdoor.settings_of(bound) if original is None else original.arguments


def _fitting(wanted: str, x: Tensor) -> bool:
    """Whether a tensor's dtype is of the family that its kind asks for."""
    if wanted == "real":
        return x.is_floating_point()
    return (x.dtype is torch.bool) == (wanted == "bool") and not x.is_floating_point()


def _rules(bound: Bound, which: int, lengths: Lengths) -> tuple[tuple[ValueRule, Interval], ...]:
    """What is looked at, and where it has to lie."""
    found = (
        (rule, rule.interval(lengths))
        for rule in value_rules(bound.specs[which], bound.numbers[which])
    )
    return tuple((rule, interval) for rule, interval in found if interval is not None)


def _given(bound: Bound, call: Call) -> list[Tensor]:
    """The inputs as they were given, in the order of the specification."""
    return [torch.as_tensor(call.inputs[n]) for n in bound.specs[0].inputs]


def _shapes(bound: Bound, which: int, call: Call) -> dict[str, tuple[int, ...]]:
    shapes = (tuple(x.shape) for x in _given(bound, call))
    return dict(zip(bound.specs[which].inputs, shapes, strict=True))


def _dtype_names(bound: Bound, call: Call) -> list[str]:
    return [
        "real" if x.is_floating_point() or x.is_complex() else "int" for x in _given(bound, call)
    ]


def _dtypes(
    bound: Bound, which: int, inputs: Mapping[str, Tensor]
) -> tuple[torch.dtype, torch.dtype]:
    """What is computed in, and what is given back."""
    computed, given_back = frontdoor.promotion_of(bound, which)
    wide = bound.specs[which].numerics.compute == "at_least_float64" or any(
        inputs[n].dtype == torch.float64 for n in computed
    )
    out = promoted(inputs[n] for n in given_back if inputs[n].is_floating_point())
    return torch.float64 if wide else torch.float32, out


# --- the module ----------------------------------------------------------------------------------


class Loss(nn.Module):
    """A loss: ``loss(prediction, target, *, sample_weight=None, mask=None, ...)``.

    ``torch.compile(fullgraph=True)`` takes every loss, those that call a network too. What is
    compiled can be differentiated once: torch refuses a second backward (``create_graph=True``)
    through a compiled function, and says so; the uncompiled loss allows it.
    """

    form: Form | None = None
    combination: Combination | None = None
    bound: Bound
    _token: int
    _over_leaves: Bound
    _leaves_token: int
    _owner: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        if self.combination is not None:
            self._combine(self.combination, args, kwargs)
        elif self.form is not None:
            self._settle(self.form, args, kwargs)
        else:
            raise ArgumentError("Loss has no meaning of its own; write L.compile(spec)")

    # construction
    def _settle(self, form: Form, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._hold(frontdoor.bind(form, "torch", frontdoor.by_name(form, args, kwargs, "torch")))

    def _combine(
        self, combination: Combination, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        settings = combination.settings(args, kwargs)
        bound = combination.build(**settings)
        self._settings = settings
        assert bound.combined is not None
        self.losses = Children(bound.combined, settings["losses"])
        self._hold(bound)

    def _hold(self, bound: Bound) -> None:
        self.bound = bound
        self._shapes: dict[str, torch.Size] = {}  # of weights that are held in another
        for name, value in bound.arrays.items():
            tensor = torch.as_tensor(value)
            if isinstance(bound.given.get(name), list | tuple) and tensor.is_floating_point():
                tensor = tensor.to(torch.get_default_dtype())
            self._buffers[name] = tensor
        spec = bound.specs[0]
        self._remember(bound)
        for name in spec.weights:
            self._hold_weight(name, self._start(name))
        if spec.step:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._register()

    def _start(self, name: str) -> Tensor:
        """A trainable weight as it starts."""
        weight = self.bound.specs[0].weights[name]
        sizes = [weight.sizes[axis] for axis in weight.kind.axes]
        return initial(weight, [s if isinstance(s, int) else self.bound.sizes[s] for s in sizes])

    def reset_parameters(self) -> None:
        """Start the trainable weights anew, as after ``to_empty`` from the meta device."""
        with torch.no_grad():
            for name in self.bound.specs[0].weights:
                self._weight(name).copy_(self._start(name))

    def _hold_weight(self, name: str, weight: Tensor) -> None:
        """Hold a trainable weight under its name, or as the built-in does."""
        original = self.bound.form.original
        path, rank = ("", 0) if original is None else original.weights.get(name, ("", 0))
        if not path:
            self._parameters[name] = nn.Parameter(weight)
            return
        child, _, leaf = path.rpartition(".")
        if child not in self._modules:
            self.add_module(child, nn.Module())
        flat = weight.reshape(-1, *weight.shape[weight.dim() - rank + 1 :])
        self.get_submodule(child).register_parameter(leaf, nn.Parameter(flat))
        self._shapes[name] = weight.shape

    def _weight(self, name: str) -> Tensor:
        """A trainable weight with the axes of its kind."""
        if name not in self._shapes:
            found = self._parameters[name]
            assert found is not None
            return found
        original = self.bound.form.original
        assert original is not None
        return self.get_parameter(original.weights[name][0]).reshape(self._shapes[name])

    def _remember(self, bound: Bound) -> None:
        """Keep the arguments where the built-ins keep theirs: as buffers and attributes."""
        for name, value in _arguments(bound).items():
            if name in self._buffers:
                continue
            param = bound.form.params.get(name)
            if value is None and param is not None and param.kind.axes:
                self.register_buffer(name, None)
            elif not hasattr(self, name):
                setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        bound = self.__dict__.get("bound")
        if (
            bound is not None
            and name in _arguments(bound)
            and name not in bound.arrays
            and hasattr(self, name)
        ):
            frontdoor.refuse_setting(bound.form.name, name, getattr(self, name), value)
        super().__setattr__(name, value)

    def _register(self) -> None:
        self._token = token_of(self.bound)
        if any(kind.name == "tree" for kind in self.bound.specs[0].inputs.values()):
            self._over_leaves = external(self.bound)
            self._leaves_token = token_of(self._over_leaves)
        self._owner = id(self)
        OWNERS[self._owner] = self

    def __getstate__(self) -> dict[str, Any]:
        return {
            k: v
            for k, v in self.__dict__.items()
            if k not in ("_token", "_owner", "_over_leaves", "_leaves_token")
            and not k.startswith(KERNEL)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()

    def __deepcopy__(self, memo: dict[int, Any]) -> Loss:
        import copy

        # The settings are frozen and shared; buffers, weights and children are copied.
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        memo[id(self.bound)] = self.bound
        state = {
            k: v if k == "bound" else copy.deepcopy(v, memo) for k, v in self.__getstate__().items()
        }
        new.__setstate__(state)
        return new

    def _array(self, name: str) -> Tensor:
        """A parameter that is an array; its name may be that of a method, such as ``type``."""
        found = self._buffers[name]
        assert found is not None
        return found

    # what it says of itself
    @property
    def spec(self) -> Spec:
        """The loss as data, settings included (the first, where dtypes decide between several)."""
        return self._settled(0)

    @property
    def specs(self) -> tuple[Spec, ...]:
        """All the losses behind the name, as data, settings included."""
        return tuple(self._settled(which) for which in range(len(self.bound.specs)))

    def _settled(self, which: int) -> Spec:
        arrays = {n: self._array(n).detach().double().tolist() for n in self.bound.arrays}
        return frontdoor.settled(self.bound, arrays, which)

    @property
    def source(self) -> str:
        """The source of the function that runs: the value, and the gradient in its first input."""
        return source(self.bound)

    def extra_repr(self) -> str:
        return repr(self).partition("(")[2].removesuffix(")")

    def __repr__(self) -> str:
        if self.combination is not None:
            return combination_text(type(self).__name__, self._settings)
        # As loading or training has left them; on the meta device there are no numbers.
        arrays = {
            name: (None if x.is_meta else x.detach().tolist(), str(x.dtype).removeprefix("torch."))
            for name, x in self._buffers.items()
            if x is not None
        }
        return frontdoor.constructor_text(self.bound, arrays)

    def advance(self, steps: int = 1) -> None:
        """Move the schedule; a forward never does."""
        if not self.bound.specs[0].step:
            raise ArgumentError(f"{type(self).__name__} has no schedule to advance")
        step = self.get_buffer("step")
        step += steps

    # the call
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs or torch.compiler.is_compiling():
            return self._named_call(args, kwargs)
        # A training loop calls with the same shapes and dtypes again and again: what the first
        # call found out about them holds for the next.
        key = _facts(args)
        if key is None:
            return self._named_call(args, kwargs)
        known: dict[Any, _Known | None] = self.__dict__.setdefault(KNOWN, {})
        found = known.get(key)
        if found is not None:
            return found(args)
        result = self._named_call(args, kwargs)
        if key not in known:
            if len(known) >= 64:
                known.clear()
            known[key] = self._learnt(args)
        return result

    def _learnt(self, args: tuple[Any, ...]) -> _Known | None:
        """How to answer a call like this one; None where more than its tensors matters."""
        bound = self.bound
        if self.combination is not None or bound.arrays:
            return None
        call = frontdoor.bind_call(bound, "torch", args, {})
        which = selected(bound, call.inputs)
        spec = bound.specs[which]
        if (
            spec.weights
            or spec.ports
            or spec.uses
            or spec.step
            or (any(kind.name == "tree" for kind in spec.inputs.values()))
        ):
            return None
        inputs = dict(
            zip(spec.inputs, (call.inputs[n] for n in bound.specs[0].inputs), strict=True)
        )
        if any(cast(spec, spec.inputs[n], x) is not x for n, x in inputs.items()):
            return None
        if any(
            not _fitting(spec.inputs[n].dtype, x) or x.dtype == torch.uint64
            for n, x in inputs.items()
        ):
            return None
        order = frontdoor.positional_order(bound.specs[0], "torch")
        renamed = dict(zip(bound.specs[0].inputs, spec.inputs, strict=True))
        places = {renamed[name]: k for k, name in enumerate(order) if name in renamed}
        if bound.form.has_axis and any(
            moved(kind, inputs[key], bound.axis) is not inputs[key]
            for key, kind in spec.inputs.items()
        ):
            return None
        fused = resolve(self._token, which, False, False)
        if any(n not in places for n in fused.names):
            return None
        shapes = {key: x.shape for key, x in inputs.items()}
        original = bound.form.original
        if original is not None and (
            _arranged(original, inputs)
            or frontdoor.broadcast(spec, shapes, original.calls, unreduced(self._token, which))
            != shapes
        ):
            return None
        lengths = frontdoor.axis_lengths(spec.inputs, shapes, bound.form.name)
        compute, out = _dtypes(bound, which, inputs)
        saved: tuple[str, ...] = ()
        # Under a transform the backward goes by the formula anyway, and vmap refuses a
        # saved gradient
        # that it does not batch (that of a trainable weight).
        if torch.is_grad_enabled() and (torch.compiler.is_compiling() or not transformed()):
            saved = tuple(
                n
                for n, kind in zip(fused.names, fused.kinds, strict=True)
                if kind == "real" and inputs[n].requires_grad
            )
        wide = tuple(
            compute if kind == "real" and inputs[n].dtype != compute else None
            for n, kind in zip(fused.names, fused.kinds, strict=True)
        )
        return _Known(
            bound.form.name,
            places,
            tuple(places[n] for n in fused.names),
            dict(bound.numbers[which]),
            _rules(bound, which, lengths),
            tuple(
                places[n]
                for n, kind in spec.inputs.items()
                if kind.dtype == "int" and inputs[n].dtype != torch.int64
            ),
            tuple(
                fused.direct(saved, compute, out, any(wide), in_range).apply
                for in_range in (False, True)
            )
            if saved
            else (),
            (fused.eager, fused.in_range),
            wide,
            out,
        )

    def _named_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = self.bound
        if self.combination is not None:
            return self._run_combination(args, kwargs)
        call = frontdoor.bind_call(bound, "torch", args, kwargs)
        spec = bound.specs[0]
        if len(spec.inputs) == 1 and next(iter(spec.inputs.values())).name == "tree":
            return self._over_tree(spec, call)
        which = selected(bound, call.inputs)
        frontdoor.refuse_settings(bound, which)
        spec = bound.specs[which]
        inputs = dict(
            zip(spec.inputs, (call.inputs[n] for n in bound.specs[0].inputs), strict=True)
        )
        if bound.form.original is not None and bound.form.original.calls.arrange is not None:
            undo = bound.form.original.calls.arrange(inputs, Arrays)
            value = self._evaluate(which, spec, inputs, call)
            return value if undo is None else undo(value)
        return self._evaluate(which, spec, inputs, call)

    def _evaluate(self, which: int, spec: Spec, inputs: dict[str, Any], call: Call) -> Tensor:
        bound = self.bound
        name = bound.form.name
        original = bound.form.original
        if original is not None:
            inputs = as_real(original.calls, spec.inputs, inputs)
        # torch's own losses take integers for real numbers only where their arithmetic does.
        strict = original is not None and original.package == "torch"
        like = None
        for key, kind in spec.inputs.items():
            inputs[key] = checked(
                name,
                key,
                kind,
                cast(spec, kind, inputs[key]),
                strict or like is None,
                like,
                advise=lambda: fitting.swapped(bound, "torch", _dtype_names(bound, call)),
            )
            if like is None:
                like = torch.float64 if inputs[key].dtype == torch.float64 else torch.float32
            if bound.form.has_axis:
                inputs[key] = moved(kind, inputs[key], bound.axis)
        if original is not None:
            if original.calls.broadcast:
                axes = unreduced(self._token, which)
                inputs = stretched(name, original.calls, spec, inputs, axes)
            kept = {n: self._array(n) for n, x in original.arrays.items() if type(x) is Tensor}
            alike = {n: inputs.get(n, kept.get(n)) for n in original.calls.alike}
            if all(n in inputs or n in bound.form.params for n in alike) and not _autocast():
                check_alike(name, alike)
        shapes = {key: x.shape for key, x in inputs.items()}
        lengths = frontdoor.axis_lengths(
            spec.inputs,
            shapes,
            name,
            lambda: fitting.advice(bound, "torch", which, _shapes(bound, which, call)),
        )
        first = inputs[next(iter(spec.inputs))]
        for key in spec.weights:
            inputs[key] = self._weight(key)
            frontdoor.axis_lengths(
                {**spec.inputs, key: spec.weights[key].kind},
                {**shapes, key: inputs[key].shape},
                name,
                lambda: fitting.advice(bound, "torch", which, _shapes(bound, which, call)),
            )
            for axis, n in zip(spec.weights[key].kind.axes, inputs[key].shape, strict=True):
                lengths.setdefault(axis, (n,))
        for source in frontdoor.promotion_of(bound, which).given_back:
            first = inputs.get(source, first)
            break
        if not first.is_floating_point():
            first = first.new_empty((), dtype=torch.float32)  # numbers beside labels are real
        for key in bound.arrays:
            if key in spec.params:
                inputs[key] = parameter(
                    name, key, spec.params[key].kind, self._array(key), lengths, first
                )
        if call.sample_weight is not None or call.mask is not None:
            # Not by frontdoor.index_shape: Dynamo would trace the graph being built, and fail.
            axes = resolve(
                self._token, which, call.sample_weight is not None, call.mask is not None
            ).index
            index: list[int | None] = []
            for axis in axes:
                index.extend(lengths.get(axis, (None,)))
            if call.sample_weight is not None:
                weight = weighing(name, call.sample_weight)
                inputs["sample_weight"] = along(
                    name, "sample_weight", weight.to(first.device), index
                )
            if call.mask is not None:
                mask = torch.as_tensor(call.mask, device=first.device)
                check_mask(name, "mask", dtype_name(mask))
                if mask.dtype != torch.bool and not unread(mask):
                    refuse_mask(name, "mask", mask.numpy())
                inputs["mask"] = along(name, "mask", mask, index).to(torch.bool)
        in_range = not torch.compiler.is_compiling() and self._look(which, spec, inputs, lengths)
        if call.normalizer_count is not None:
            inputs["normalizer_count"] = number(
                name, "normalizer_count", call.normalizer_count, first
            )
        if spec.step:
            inputs["step"] = number(
                name, "step", self._array("step") if call.step is None else call.step, first
            )
        told_apart = resolve(
            self._token, which, call.sample_weight is not None, call.mask is not None
        ).identities
        for key, kind in spec.inputs.items():
            if kind.dtype == "int":
                inputs[key] = whole(inputs[key], key in told_apart)
        compute, out = _dtypes(bound, which, inputs)
        return self._run(
            self._token,
            which,
            spec,
            inputs,
            lengths,
            call.ports,
            compute,
            out,
            call.sample_weight is not None,
            call.mask is not None,
            in_range,
        )

    def _look(self, which: int, spec: Spec, inputs: dict[str, Any], lengths: Lengths) -> bool:
        """Look at the values; whether all lie in range."""
        rules = _rules(self.bound, which, lengths)
        numbers = dict(self.bound.numbers[which])
        return bool(rules) and check_values(self.bound.form.name, rules, inputs, numbers)

    def _run(
        self,
        token: int,
        which: int,
        spec: Spec,
        inputs: dict[str, Any],
        lengths: Lengths,
        ports: Mapping[str, Any],
        compute: torch.dtype,
        out: torch.dtype,
        weighted: bool,
        masked: bool,
        in_range: bool = False,
    ) -> Tensor:
        for position, outer in enumerate(calls_of(token, which, weighted, masked)):
            arguments = None
            if outer.passed is None:
                arguments = self._arguments(token, position, which, weighted, masked, inputs)
            if outer.op == "use":
                given = given_to(outer, arguments, inputs, compute)
                inputs[outer.name] = self._run(
                    outer.token,
                    0,
                    outer.used,
                    dict(zip(outer.keys, given, strict=True)),
                    {},
                    ports,
                    compute,
                    compute,
                    False,
                    False,
                )
                continue
            inputs[outer.name] = outside(
                self.bound.form.name, outer, arguments, inputs, ports, lengths, compute
            )
        first = inputs[next(iter(inputs))]
        device = first.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            out = torch.promote_types(out, torch.float32)
            with torch.autocast(device, enabled=False):
                return self._fused_call(
                    token, which, inputs, compute, out, weighted, masked, in_range
                )
        return self._fused_call(token, which, inputs, compute, out, weighted, masked, in_range)

    def _arguments(
        self,
        token: int,
        position: int,
        which: int,
        weighted: bool,
        masked: bool,
        inputs: Mapping[str, Any],
    ) -> Callable[..., Sequence[Tensor]]:
        """What computes the arguments of a port."""
        call = calls_of(token, which, weighted, masked)[position]
        if not torch.compiler.is_compiling():
            return stage_of(call.arguments)
        wrt = tuple(
            n
            for n in call.names
            if torch.is_grad_enabled() and inputs[n].is_floating_point() and inputs[n].requires_grad
        )
        attribute = f"{KERNEL}{token}_{which}_{weighted}_{masked}_port{position}_{'_'.join(wrt)}"
        prepare_arguments(token, self._owner, attribute, position, which, weighted, masked, wrt)
        found: Callable[..., Sequence[Tensor]] = getattr(self, attribute)
        return found

    def _fused_call(
        self,
        token: int,
        which: int,
        inputs: dict[str, Any],
        compute: torch.dtype,
        out: torch.dtype,
        weighted: bool,
        masked: bool,
        in_range: bool = False,
    ) -> Tensor:
        fused = resolve(token, which, weighted, masked)
        tensors = [inputs[n] for n in fused.names]
        saved: tuple[str, ...] = ()
        # Under a transform the backward goes by the formula, and vmap refuses a saved gradient
        # that it does not batch (that of a trainable weight).
        if torch.is_grad_enabled() and (torch.compiler.is_compiling() or not transformed()):
            saved = tuple(
                n
                for n, x, kind in zip(fused.names, tensors, fused.kinds, strict=True)
                if kind == "real" and x.requires_grad
            )
        if not torch.compiler.is_compiling() and not transformed() and not dual_level():
            widened = [
                x.to(compute) if kind == "real" else x
                for x, kind in zip(tensors, fused.kinds, strict=True)
            ]
            if not saved:
                settled = fused.in_range if in_range else fused.eager
                chosen = settled if ordinary(tensors) else fused.plain
                return chosen(*widened)[0].to(out)
            if ordinary(tensors):
                # The same function as in every later call: gradient checkpointing compares what
                # the two have saved.
                casts = any(w is not x for w, x in zip(widened, tensors, strict=True))
                apply = fused.direct(saved, compute, out, casts, in_range).apply
                direct: Tensor = apply(*tensors)  # type: ignore[no-untyped-call]
                return direct
        if torch.compiler.is_compiling():
            precision, wide = NAMES[compute], NAMES[out]
            attribute = f"{KERNEL}{token}_{which}_{weighted}_{masked}_{'_'.join(saved)}_" + (
                f"{precision}_{wide}"
            )
            prepare(token, self._owner, attribute, which, weighted, masked, saved, precision, wide)
            function = getattr(self, attribute)
            if not saved:
                plain: Tensor = function(
                    *(
                        x.to(compute) if kind == "real" else x
                        for x, kind in zip(tensors, fused.kinds, strict=True)
                    )
                )[0]
                return plain.to(out)
        else:
            function = fused.function(saved, compute, out, True)
        result = function.apply(*tensors)
        computed: Tensor = result[0] if isinstance(result, tuple) else result
        return computed

    # parameter trees
    def _over_tree(self, spec: Spec, call: Call) -> Any:
        (name,) = spec.inputs
        bound = self.bound
        if call.sample_weight is not None or call.mask is not None:
            raise UnsupportedError(
                f"{bound.form.name} runs over parameters, which have no samples to weigh or mask; "
                "pass the leaves that count"
            )
        kind = spec.inputs[name]
        leaves = [
            checked(bound.form.name, name, kind, x, True) for x in leaves_of(call.inputs[name])
        ]
        if not leaves:
            raise ArgumentError(
                f"{bound.form.name} was given a tree without a parameter; pass a "
                "module or its named_parameters()"
            )
        extra: dict[str, Any] = {}
        token = self._token
        count = call.normalizer_count
        if bound.reduction == "mean" and bound.normalizer != "external":
            if bound.normalizer != "elements":
                raise UnsupportedError(
                    f"{bound.form.name} runs over parameters; divide by 'elements' or 'external'"
                )
            count = sum(x.numel() for x in leaves)
            token = self._leaves_token
        out = leaves[0].dtype
        parts = []
        for leaf in leaves:
            out = torch.promote_types(out, leaf.dtype)
        for leaf in leaves:
            compute = torch.promote_types(torch.float32, leaf.dtype)
            given: dict[str, Any] = {name: leaf, **extra}
            for key in bound.arrays:
                given[key] = self._array(key)
            if count is not None:
                given["normalizer_count"] = number(bound.form.name, "normalizer_count", count, leaf)
            part = self._run(
                token,
                0,
                spec,
                given,
                {},
                {},
                compute,
                leaf.dtype if bound.reduction == "none" else torch.promote_types(out, compute),
                False,
                False,
            )
            parts.append(part)
        if bound.reduction == "none":
            return parts
        total = parts[0]
        for part in parts[1:]:
            total = total + part.to(total.device)
        return total.to(out)

    # combinations
    def _run_combination(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        terms: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The value; ``terms``, where it is given, is filled with the value of each loss."""
        bound, title = self.bound, type(self).__name__
        spec = bound.specs[0]
        below = {name: child.bound for name, child in self.losses.items()}
        call = bind_combined(title, bound, below, "torch", args, kwargs)
        children: dict[str, Tensor] = {}
        for name, child in self.losses.items():
            places, named = call.places.get(name, ()), call.named[name]
            if child.combination is not None:
                inner: dict[str, Tensor] = {}
                mapping = ({**named, **dict(*places)},)
                if terms is None:
                    children[name] = child(*mapping)
                else:
                    children[name] = child._run_combination(mapping, {}, inner)
                    terms[name] = children[name]
                    terms.update((f"{name}/{key}", value) for key, value in inner.items())
                continue
            children[name] = child(*places, **named)
            if terms is not None:
                terms[name] = children[name]
        first = next(iter(children.values()))
        inputs = self._own(call, first)
        if spec.step:
            inputs["step"] = inputs.pop("moment")
        fused = resolve(self._token, 0, False, False)
        assert bound.combined is not None
        for outer in fused.plan.calls:
            inputs[outer.name] = children[bound.combined.uses[outer.port]]
        out = first.dtype
        compute = torch.float32
        for x in (*children.values(), *inputs.values()):
            if x.is_floating_point():
                compute = torch.promote_types(compute, x.dtype)
                out = torch.promote_types(out, x.dtype) if x.dim() == 0 else out
        return self._fused_call(self._token, 0, inputs, compute, out, False, False)

    def _own(self, call: CombinedCall, like: Tensor | None = None) -> dict[str, Tensor]:
        """What a combination itself computes with: its inputs, weights, and the ``moment``."""
        title, spec = type(self).__name__, self.bound.specs[0]
        found = {
            key: checked(title, key, self.bound.specs[0].inputs[key], x, True)
            for key, x in call.own.items()
        }
        found.update((key, self._weight(key)) for key in spec.weights)
        if spec.step:
            step = self._array("step")
            moment = step if call.step is None else call.step
            found["moment"] = number(title, "step", moment, step if like is None else like)
        return found

    def terms(self, /, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The value of each loss in a combination, by its name, at the call as ``loss`` takes it.

        The values are reduced, as each loss alone gives them, before its coefficient; they keep
        their graph, so write ``.item()`` or ``.detach()`` to log them. The terms of a combination
        inside this one come under its name, as ``outer/inner``, beside ``outer``.
        """
        self._combined("terms")
        found: dict[str, Tensor] = {}
        self._run_combination(args, kwargs, found)
        return found

    def term_coefficients(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the value multiplies each of ``terms`` with, at the same call, by the same names."""
        self._combined("term_coefficients")
        below = {name: child.bound for name, child in self.losses.items()}
        call = bind_combined(type(self).__name__, self.bound, below, "torch", args, kwargs)
        own = self._own(call)
        found: dict[str, Any] = {}
        for name, child in self.losses.items():
            spec, numbers, given = coefficient_inputs(self.bound, name, own)
            if not any(isinstance(x, Tensor) for x in given.values()):
                (found[name],) = given.values()  # fixed when the combination was made
            else:
                found[name] = _coefficient(spec, numbers)(**given)
            if child.combination is not None:
                mapping = {**call.named[name], **dict(*call.places.get(name, ()))}
                for key, inner in child.term_coefficients(mapping).items():
                    found[f"{name}/{key}"] = found[name] * inner
        return found

    def _combined(self, what: str) -> None:
        if self.combination is None:
            raise ArgumentError(frontdoor.no_terms(self.bound.form.name, what))


class Children(nn.ModuleDict):
    """The losses of a combination, under their names, those of methods of a module too.

    A name with a dot would be a path: its module has the identifier of the specification.
    """

    def __init__(self, combined: Combined, losses: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._places = {
            name: used if "." in name else name for (used, name) in combined.uses.items()
        }
        for name, place in self._places.items():
            self._modules[place] = losses[name]

    def __getitem__(self, key: str) -> Any:
        return self._modules[self._places[key]]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def keys(self) -> Any:
        return self._places.keys()

    def values(self) -> Any:
        return [self._modules[place] for place in self._places.values()]

    def items(self) -> Any:
        return [(name, self._modules[place]) for name, place in self._places.items()]


@functools.lru_cache(maxsize=256)
def _coefficient(spec: Spec, numbers: tuple[tuple[str, Any], ...]) -> Loss:
    return compile(spec, **dict(numbers))


# --- making classes ------------------------------------------------------------------------------

MODULE = "lossbridge.torch"


class _LazyDoc:
    """Documentation made when somebody asks: it needs the loss traced."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def __get__(self, instance: object, owner: type) -> str:
        return self._make()


def _own_forward() -> Callable[..., Any]:
    """A ``forward`` with a code object of its own.

    Dynamo counts recompilations by code object, and gives up after eight: shared by all classes,
    the ninth loss of a program would fail under ``fullgraph=True``.
    """
    original = Loss.forward
    return types.FunctionType(
        original.__code__.replace(),
        original.__globals__,
        "forward",
        original.__defaults__,
        original.__closure__,
    )


def class_of(form: Form) -> type[Loss]:
    """The public class of a loss."""
    return type(
        form.name,
        (Loss,),
        {
            "__module__": MODULE,
            "__qualname__": form.name,
            "form": form,
            "__doc__": _LazyDoc(lambda: frontdoor.docstring(form, "torch")),
            "__signature__": property(lambda self: None),
            "forward": _own_forward(),
        }
        | {"__signature__": _signature(form)},
    )


def _signature(form: Form) -> inspect.Signature:
    return frontdoor.signature(form)


def _call_with_self(self: Loss, /, *args: Any, **kwargs: Any) -> Any:
    """A module's call, for which one of the losses may be named ``self`` too."""
    if "self" in kwargs:
        given = [*args, kwargs]
        args, kwargs = ({key: x for some in given for key, x in some.items()},), {}
    return nn.Module.__call__(self, *args, **kwargs)


def combination_class(combination: Combination) -> type[Loss]:
    """The public class of a combination of losses."""
    return type(
        combination.name,
        (Loss,),
        {
            "__module__": MODULE,
            "__qualname__": combination.name,
            "combination": combination,
            "__doc__": combination.doc,
            "__signature__": combination.signature,
            "forward": _own_forward(),
            "__call__": _call_with_self,
        },
    )


class Compiled(Loss):
    """An instance made from a specification."""


def compile(source: Any, **settings: Any) -> Loss:
    """An instance of any loss: a specification, a defined function, or a path to a file."""
    form = frontdoor.as_form(source)
    frontdoor.check_uses(form)
    loss = Compiled.__new__(Compiled)
    nn.Module.__init__(loss)
    loss.__dict__["form"] = form
    if form.original is not None:
        tensors = {n: x for n, x in form.original.arrays.items() if isinstance(x, Tensor)}
        settings = {**tensors, **settings}
    loss._settle(form, (), settings)
    if form.original is not None:
        made_in = form.original.arguments
        for weight in loss.parameters():
            weight.data = weight.data.to(device=made_in.get("device"), dtype=made_in.get("dtype"))
    return loss


# --- functions -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _reducer(reduction: str, normalizer: str) -> Loss:
    return compile(frontdoor.values_spec(), reduction=reduction, normalizer=normalizer)


def reduce(
    values: Tensor,
    *,
    mask: Tensor | None = None,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: str = "mean",
    normalizer: str | None = None,
    normalizer_count: Tensor | float | None = None,
    denominator: str | float | Tensor | None = None,
) -> Tensor:
    """Reduce values as every loss here does; masked ones neither show nor have a gradient.

    ``mask`` selects; ``sample_weight`` multiplies, and enters the divisor only with
    ``normalizer="weights"``. ``normalizer_count`` is a divisor of your own. ``where``, ``weights``
    and ``denominator`` (a normaliser's name or a number) are other names of these.
    """
    settings, call = frontdoor.reduce_arguments(
        mask=mask,
        where=where,
        sample_weight=sample_weight,
        weights=weights,
        reduction=reduction,
        normalizer=normalizer,
        normalizer_count=normalizer_count,
        denominator=denominator,
    )
    result: Tensor = _reducer(**settings)(values, **call)
    return result


def as_hf(loss: Loss, shift_labels: bool = False) -> Callable[..., Tensor]:
    """A function ``f(outputs, labels, num_items_in_batch=None)`` as transformers' Trainer calls it.

    ``outputs`` is a model's output with ``logits`` (an object or a dictionary), a tuple that begins
    with them, or the logits, which have the classes last; half-precision ones are computed with in
    float32, and so is the loss that comes back. ``shift_labels`` pairs each position's logits with
    the next position's label.
    """
    settings = settings_for_hf(loss, getattr(loss, "bound", None))
    settings.update((n, loss._array(n)) for n in loss.bound.arrays)
    form = loss.bound.form
    own = compile(form, **settings)
    external = compile(form, **{**settings, "normalizer": "external"})

    def prepare(logits: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
        if own.bound.arrays:
            own.to(logits.device), external.to(logits.device)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return logits, torch.as_tensor(labels).to(logits.device)

    def rank(x: Any) -> int | None:
        return x.dim() if isinstance(x, Tensor) else None

    return hf_function(loss.bound, shift_labels, rank, prepare, own, external)


# --- source --------------------------------------------------------------------------------------


def _first_input(plan: Plan) -> tuple[str, ...]:
    return (
        tuple(n for n in plan.differentiable if not n.startswith("port"))[:1]
        or (plan.differentiable[:1])
    )


def source(bound: Bound) -> str:
    """The emitted source of the fused function: the value, and the gradient in the first input."""
    parts = []
    for which in range(len(bound.specs)):
        plan = bound.plan(which, Options(), LOWERING.native)
        wrt = _first_input(plan)
        graph = plan.scaled(wrt) or plan.fused(wrt)
        parts.append(emit(graph, LOWERING, "loss", bound.specs[which].id))
    return "\n\n".join(parts)


def eject(bound: Bound, name: str) -> str:
    """A stand-alone source file with the loss as a module that imports only torch."""
    from lossbridge_torch.ejected import eject as write

    return write(bound, name)
