"""The PyTorch objects: ``nn.Module`` classes over emitted functions.

A call binds its arguments, chooses the loss by the dtypes, moves the class axis last, checks the
named axes, calls the ports, and runs one :class:`torch.autograd.Function` whose forward computes
the value and the gradients that somebody needs together. Its backward multiplies by the incoming
gradient; differentiated again, or met by ``torch.func``, it computes the gradient by its formula,
whose own derivative is the graph's too, never torch's rules for the operations in it.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lossbridge import frontdoor
from lossbridge.combine import COMBINATIONS, Combination
from lossbridge.emit import emit, load, stand_alone
from lossbridge.errors import (
    ArgumentError,
    DomainError,
    DTypeError,
    ShapeError,
    UnsupportedError,
    listed,
    shown,
)
from lossbridge.frontdoor import Bound, Call, Form
from lossbridge.ir import Graph, is_star
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.passes.differentiate import differentiate, pull_back_all, push_forward
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise
from lossbridge.passes.stabilise import stabilise
from lossbridge.plan import Options, Plan, PortCall
from lossbridge.spec import Spec, Weight
from lossbridge.trace import port_axes
from lossbridge.verify import verify
from lossbridge_torch.lowering import LOWERING

__all__ = ["Loss", "as_hf", "class_of", "combination_class", "compile", "eject", "reduce"]

Lengths: TypeAlias = Mapping[str, Sequence["int | None"]]
HALF = (torch.float16, torch.bfloat16)


# --- stages: graphs as functions with their own derivatives ----------------------------------------


def _legal(graph: Graph) -> Graph:
    return verify(guard(legalise(graph, LOWERING.native)))


def _polished(graph: Graph) -> Graph:
    return verify(guard(stabilise(canonicalise(verify(graph)))))


@functools.lru_cache(maxsize=4096)
def _function(graph: Graph, name: str = "loss") -> Callable[..., tuple[Tensor, ...]]:
    """The emitted function of a graph that has been through its passes."""
    return load(emit(graph, LOWERING, name), LOWERING, name)


@functools.lru_cache(maxsize=1024)
def _derived(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    return _polished(differentiate(graph, "value", wrt, keep=False))


@functools.lru_cache(maxsize=1024)
def _pulled(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    return _polished(pull_back_all(graph, wrt))


@functools.lru_cache(maxsize=1024)
def _pushed(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    """The tangents of all outputs, under the outputs' names."""
    from lossbridge.ir import Builder, inline

    builder = Builder(graph.layout)
    outputs = {}
    for name, _ in graph.outputs:
        one = push_forward(graph, name, wrt)
        outputs[name] = inline(builder, one, {})[one.output("tangent")]
    return _polished(builder.finish(**outputs))


def _forward_mode() -> bool:
    """Dynamo refuses a Function that has a ``jvp``; everything else may need it."""
    return not torch.compiler.is_compiling()


def _transformed() -> bool:
    return bool(torch._C._are_functorch_transforms_active())


class _Stage:
    """A graph as a function from its inputs, in order, to its outputs, differentiable again and
    again by the graph's own derivative."""

    def __init__(self, graph: Graph) -> None:
        self.names = tuple(name for name, _ in graph.inputs())
        self.real = tuple(
            graph.nodes[index].type.dtype == "real" for _, index in graph.inputs()
        )
        self.outputs = tuple(name for name, _ in graph.outputs)
        run = _function(_legal(graph))
        names, real, outputs = self.names, self.real, self.outputs

        class Stage(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(*inputs: Tensor) -> Any:
                return _fresh(run(*inputs), inputs)

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                ctx.save_for_backward(*inputs)
                ctx.save_for_forward(*inputs)

            @staticmethod
            def backward(ctx: Any, *upstream: Any) -> Any:
                inputs = ctx.saved_tensors
                wrt = tuple(
                    n for n, r, need in zip(names, real, ctx.needs_input_grad, strict=True)
                    if r and need
                )
                stage = _stage(_pulled(graph, wrt))
                values = dict(zip(names, inputs, strict=True))
                values.update(
                    (f"upstream_{o}", u) for o, u in zip(outputs, upstream, strict=True)
                )
                found = dict(zip(wrt, stage(*(values[n] for n in stage.names)), strict=True))
                return tuple(found.get(n) for n in names)

        class ForwardStage(Stage):
            @staticmethod
            def jvp(ctx: Any, *tangents: Any) -> Any:
                inputs = ctx.saved_tensors
                wrt = tuple(
                    n for n, r, t in zip(names, real, tangents, strict=True)
                    if r and t is not None
                )
                stage = _stage(_pushed(graph, wrt))
                values = dict(zip(names, inputs, strict=True))
                values.update(
                    (f"tangent_{n}", t) for n, t in zip(names, tangents, strict=True)
                    if t is not None
                )
                return stage(*(values[n] for n in stage.names))

        self._plain, self._forward = Stage, ForwardStage

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        chosen = self._forward if _forward_mode() else self._plain
        result = chosen.apply(*inputs)  # type: ignore[no-untyped-call]
        return result if isinstance(result, tuple) else (result,)


@functools.lru_cache(maxsize=1024)
def _stage(graph: Graph) -> _Stage:
    return _Stage(graph)


def _fresh(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Results that are neither inputs, views of them, nor each other: autograd would take them
    for those, and the backward may scale them in place."""
    own: list[Tensor] = []
    for r in results:
        shared = any(r is x for x in inputs) or any(r is o for o in own)
        if not shared and not torch.compiler.is_compiling():
            shared = r._is_view()
        own.append(r.clone() if shared else r)
    return tuple(own)


# --- the fused function ----------------------------------------------------------------------------


class _Fused:
    """The compiled forms of one loss under one set of options."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        stable = plan.stable
        self.names = tuple(name for name, _ in stable.inputs())
        rows = dict(stable.inputs())
        self.kinds = tuple(stable.nodes[rows[n]].type.dtype for n in self.names)
        self.orders = {n: stable.nodes[rows[n]].attr("order") for n in self.names}
        self.axes = plan.value_axes
        self._functions: dict[tuple[Any, ...], type[torch.autograd.Function]] = {}

    def function(self, wrt: tuple[str, ...], compute: torch.dtype, out: torch.dtype,
                 forward_mode: bool) -> type[torch.autograd.Function]:
        key = (wrt, compute, out, forward_mode)
        if key not in self._functions:
            self._functions[key] = _make_function(self, wrt, compute, out, forward_mode)
        return self._functions[key]

    @functools.cached_property
    def plain(self) -> Callable[..., tuple[Tensor, ...]]:
        return _function(self.plan.plain)


def _make_function(
    fused: _Fused, saved: tuple[str, ...], compute: torch.dtype, out: torch.dtype,
    forward_mode: bool,
) -> type[torch.autograd.Function]:
    """The autograd.Function that computes the value and the unit gradients in ``saved``."""
    plan, names, kinds = fused.plan, fused.names, fused.kinds
    stable, axes, orders = plan.stable, fused.axes, fused.orders
    keeps = bool(saved) and plan.separable(saved)
    scaled = plan.scaled(saved) if keeps else None
    graph = scaled if scaled is not None else plan.fused(saved) if keeps else plan.plain
    run = _function(graph)
    count = len(names)

    def widened(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [
            x.to(compute) if kind == "real" else x
            for x, kind in zip(inputs, kinds, strict=True)
        ]

    class Fused(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Tensor) -> Any:
            value, *rest = run(*widened(inputs))
            if value.dtype != out:
                value = value.to(out)
            return _fresh((value, *rest), inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            rest = output[1:]
            if rest:
                ctx.mark_non_differentiable(*rest)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*inputs, *rest)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, upstream: Any, *_: Any) -> Any:
            if upstream is None:
                return (None,) * count
            tensors = ctx.saved_tensors
            inputs, rest = tensors[:count], tensors[count:]
            wanted = tuple(
                n for n, kind, need in zip(names, kinds, ctx.needs_input_grad, strict=True)
                if need and kind == "real"
            )
            if keeps and set(wanted) <= set(saved) and not torch.is_grad_enabled():
                found = _scale(upstream, rest, saved, scaled is not None, compute, axes, orders)
            else:
                found = _by_formula(plan, wanted, names, widened(inputs), upstream.to(compute),
                                    axes, orders)
            result: list[Tensor | None] = []
            for name, x in zip(names, inputs, strict=True):
                g = found.get(name) if name in wanted else None
                result.append(g if g is None or g.dtype == x.dtype else g.to(x.dtype))
            return tuple(result)

    if not forward_mode:
        return _traceable(run, names, saved, axes, orders, compute, out, keeps,
                          scaled is not None,
                          None if keeps else _function(_legal(_pulled(stable, saved))), kinds)

    class ForwardFused(Fused):
        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            inputs = ctx.saved_tensors[:count]
            moving = {
                n: t.to(compute)
                for n, t, kind in zip(names, tangents, kinds, strict=True)
                if t is not None and kind == "real"
            }
            rest = (None,) * (len(graph.outputs) - 1)
            if not moving:
                return (None, *rest)
            stage = _stage(_pushed(stable, tuple(moving)))
            values = dict(zip(names, widened(inputs), strict=True))
            values.update((f"tangent_{n}", t) for n, t in moving.items())
            tangent = stage(*(values[n] for n in stage.names))[0]
            return (tangent.to(out), *rest)

    return ForwardFused


def _traceable(
    run: Callable[..., tuple[Tensor, ...]], names: tuple[str, ...], saved: tuple[str, ...],
    axes: tuple[str, ...], orders: Mapping[str, tuple[str, ...]], compute: torch.dtype,
    out: torch.dtype, keeps: bool, scaled: bool,
    pull: Callable[..., tuple[Tensor, ...]] | None, kinds: tuple[str, ...],
) -> type[torch.autograd.Function]:
    """The Function that Dynamo traces.

    It has no ``jvp``, which Dynamo refuses, and no ``setup_context``, on whose closure Dynamo wants
    a guard that a function found while tracing cannot have. Its backward reads functions and
    tensors only; what is compiled is differentiated once.
    """
    real = tuple(kind == "real" for kind in kinds)
    count = len(names)

    class Traceable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Any:
            wide = [x.to(compute) if r else x for x, r in zip(inputs, real, strict=True)]
            value, *rest = run(*wide)
            ctx.save_for_backward(*inputs, *rest)
            return _fresh((value.to(out),), inputs)[0]

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            tensors = ctx.saved_tensors
            inputs, rest = tensors[:count], tensors[count:]
            if keeps:
                found = _scale(upstream, rest, saved, scaled, compute, axes, orders)
            else:
                wide = [x.to(compute) if r else x for x, r in zip(inputs, real, strict=True)]
                assert pull is not None
                found = dict(zip(saved, pull(*wide, upstream.to(compute)), strict=True))
            return tuple(
                found[n].to(x.dtype) if n in saved else None
                for n, x in zip(names, inputs, strict=True)
            )

    return Traceable


def _scale(
    upstream: Tensor, rest: Sequence[Tensor], saved: tuple[str, ...], scaled: bool,
    compute: torch.dtype, axes: tuple[str, ...], orders: Mapping[str, tuple[str, ...]],
) -> dict[str, Tensor]:
    """The saved gradients times the incoming one, in place where nobody reads them again."""
    upstream = upstream.to(compute)
    gradients = rest
    if scaled:
        upstream, gradients = upstream * rest[0], rest[1:]
    reuse = _owned()
    found = {}
    for name, g in zip(saved, gradients, strict=True):
        factor = _spread(upstream, axes, orders[name], g.ndim)
        found[name] = g.mul_(factor) if reuse else g * factor
    return found


def _owned() -> bool:
    """Whether this backward is the last to read what was saved, so that it may be overwritten."""
    if torch.compiler.is_compiling() or _transformed():
        return False
    keep = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keep is not None and not keep()


def _by_formula(
    plan: Plan, wanted: tuple[str, ...], names: Sequence[str], inputs: Sequence[Tensor],
    upstream: Tensor, axes: tuple[str, ...], orders: Mapping[str, tuple[str, ...]],
) -> dict[str, Tensor]:
    """The gradients computed anew, by stages that can be differentiated again."""
    values = dict(zip(names, inputs, strict=True))
    if plan.separable(wanted):
        stage = _stage(_derived(plan.stable, wanted))
        gradients = stage(*(values[n] for n in stage.names))
        return {
            n: g * _spread(upstream, axes, orders[n], g.ndim)
            for n, g in zip(wanted, gradients, strict=True)
        }
    stage = _stage(_pulled(plan.stable, wanted))
    values["upstream_value"] = upstream
    gradients = stage(*(values[n] for n in stage.names))
    return dict(zip(wanted, gradients, strict=True))


def _spread(upstream: Tensor, axes: Sequence[str], order: Sequence[str], rank: int) -> Tensor:
    """The incoming gradient, one entry for each value, shaped to multiply one input's gradient."""
    if not axes or tuple(axes) == tuple(order):
        return upstream
    width = rank - len(order) + 1  # of the axis group, where there is one
    places: list[int] = []
    shape: list[int] = []
    starts: dict[str, int] = {}
    at = 0
    for axis in axes:
        starts[axis] = at
        at += width if is_star(axis) else 1
    for axis in order:
        for k in range(width if is_star(axis) else 1):
            if axis in starts:
                places.append(starts[axis] + k)
                shape.append(upstream.shape[starts[axis] + k])
            else:
                shape.append(1)
    if places != sorted(places):
        upstream = upstream.permute(places)
    return upstream.reshape(shape)


_NAMES = {
    torch.float64: "float64", torch.float32: "float32", torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def _token(bound: Bound) -> int:
    """A number for a loss and its settings, good for as long as somebody holds them."""
    _BOUNDS[id(bound)] = bound
    return id(bound)


# Bounds by number: Dynamo meets the resolver below with constants only, and runs it for real.
_BOUNDS: weakref.WeakValueDictionary[int, Bound] = weakref.WeakValueDictionary()


def _resolve(token: int, which: int, weighted: bool, masked: bool) -> _Fused:
    """The compiled forms for one combination of what a call brings."""
    return _fused(_BOUNDS[token], which, weighted, masked)


_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _prepare(
    token: int, owner: int, attribute: str, which: int, weighted: bool, masked: bool,
    saved: tuple[str, ...], compute: str, out: str,
) -> None:
    """Put the Function that Dynamo is about to trace where it can guard on it: on the module."""
    module = _OWNERS[owner]
    fused = _resolve(token, which, weighted, masked)
    module.__dict__[attribute] = fused.function(
        saved, getattr(torch, compute), getattr(torch, out), False)


_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]
_OWNERS: weakref.WeakValueDictionary[int, Loss] = weakref.WeakValueDictionary()
KERNEL = "_kernel"  # begins the names of what a module caches and never saves


def _fused(bound: Bound, which: int, weighted: bool, masked: bool) -> _Fused:
    plan = bound.plan(which, Options(sample_weight=weighted, mask=masked), LOWERING.native)
    cache = plan.__dict__.setdefault("_torch", {})
    if "fused" not in cache:
        cache["fused"] = _Fused(plan)
    fused: _Fused = cache["fused"]
    return fused


# --- the module ------------------------------------------------------------------------------------


class Loss(nn.Module):
    """A loss: ``loss(prediction, target, *, sample_weight=None, mask=None, ...)``."""

    form: Form | None = None
    combination: Combination | None = None
    bound: Bound
    _token: int
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
        settings = dict(kwargs)
        positional = [
            p.name for p in frontdoor.signature(form).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        if len(args) > len(positional):
            raise ArgumentError(
                f"{form.name} takes at most {len(positional)} positional arguments "
                f"({listed(positional)}), but {len(args)} were given"
            )
        for name, value in zip(positional, args, strict=False):
            if name in settings:
                raise ArgumentError(f"{form.name} was given {name} twice")
            settings[name] = value
        self._hold(frontdoor.bind(form, "torch", settings))

    def _combine(self, combination: Combination, args: Sequence[Any],
                 kwargs: Mapping[str, Any]) -> None:
        settings = {**dict(zip(combination.arguments, args, strict=False)), **kwargs}
        unknown = [name for name in settings if name not in combination.arguments]
        if unknown or len(args) > len(combination.arguments):
            raise ArgumentError(
                f"{combination.name} takes {listed(combination.arguments)}, but was given "
                f"{listed(unknown) if unknown else f'{len(args)} arguments'}"
            )
        if "losses" not in settings:
            raise ArgumentError(f"{combination.name} needs losses=, a mapping of names to losses")
        bound = combination.build(**settings)
        self.losses = nn.ModuleDict(dict(settings["losses"]))
        self._hold(bound)

    def _hold(self, bound: Bound) -> None:
        self.bound = bound
        for name, value in bound.arrays.items():
            self.register_buffer(name, torch.as_tensor(value))
        spec = bound.specs[0]
        for name, weight in spec.weights.items():
            shape = [
                s if isinstance(s, int) else bound.sizes[s]
                for s in (weight.sizes[axis] for axis in weight.kind.axes)
            ]
            self.register_parameter(name, nn.Parameter(_initial(weight, shape)))
        if spec.step:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._register()

    def _register(self) -> None:
        self._token = _token(self.bound)
        self._owner = id(self)
        _OWNERS[self._owner] = self

    def __getstate__(self) -> dict[str, Any]:
        return {
            k: v for k, v in self.__dict__.items()
            if k not in ("_token", "_owner") and not k.startswith(KERNEL)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._register()

    def __deepcopy__(self, memo: dict[int, Any]) -> Loss:
        import copy

        # The settings are frozen and shared; buffers, weights and children are copied.
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        memo[id(self.bound)] = self.bound
        state = {
            k: v if k == "bound" else copy.deepcopy(v, memo)
            for k, v in self.__getstate__().items()
        }
        new.__setstate__(state)
        return new

    # what it says of itself
    @property
    def spec(self) -> Spec:
        """The specification (the first, where the dtypes of the inputs decide between several)."""
        return self.bound.specs[0]

    @property
    def specs(self) -> tuple[Spec, ...]:
        return self.bound.specs

    @property
    def source(self) -> str:
        """The source of the function that runs: the value, and the gradient in its first input."""
        return source(self.bound)

    def extra_repr(self) -> str:
        parts = []
        for name, value in self.bound.given.items():
            if name in self.bound.arrays:
                parts.append(f"{name}=tensor({torch.as_tensor(value).tolist()})")
            else:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        if self.combination is not None:
            return super().__repr__()
        return f"{type(self).__name__}({self.extra_repr()})"

    def advance(self, steps: int = 1) -> None:
        """Move the schedule; a forward never does."""
        if not self.spec.step:
            raise ArgumentError(f"{type(self).__name__} has no schedule to advance")
        self.step += steps

    # the call
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = self.bound
        if self.combination is not None:
            return self._run_combination(kwargs if not args else self._refuse(args))
        call = frontdoor.bind_call(bound, "torch", args, kwargs)
        spec = bound.specs[0]
        if len(spec.inputs) == 1 and next(iter(spec.inputs.values())).name == "tree":
            return self._over_tree(spec, call)
        which = 0
        if len(bound.specs) > 1:
            which = bound.select(_dtype_kinds(bound, call.inputs))
        spec = bound.specs[which]
        inputs = dict(zip(spec.inputs, (call.inputs[n] for n in bound.specs[0].inputs),
                          strict=True))
        return self._evaluate(which, spec, inputs, call)

    def _refuse(self, args: tuple[Any, ...]) -> dict[str, Any]:
        raise ArgumentError(
            f"{type(self).__name__} takes its losses' inputs by name: write loss("
            + ", ".join(f"{name}=(...)" for name in self.losses) + ")"
        )

    def _evaluate(self, which: int, spec: Spec, inputs: dict[str, Any], call: Call) -> Tensor:
        bound = self.bound
        name = bound.form.name
        for key, kind in spec.inputs.items():
            inputs[key] = _checked(name, key, kind.dtype, inputs[key])
            if bound.form.has_axis:
                inputs[key] = _moved(kind, inputs[key], bound.axis)
        shapes = {key: x.shape for key, x in inputs.items()}
        lengths = frontdoor.axis_lengths(spec.inputs, shapes, name)
        first = inputs[next(iter(spec.inputs))]
        for key in spec.weights:
            inputs[key] = getattr(self, key)
            frontdoor.axis_lengths(
                {**spec.inputs, key: spec.weights[key].kind},
                {**shapes, key: inputs[key].shape}, name)
            for axis, n in zip(spec.weights[key].kind.axes, inputs[key].shape, strict=True):
                lengths.setdefault(axis, (n,))
        _check_labels(name, spec, dict(bound.numbers[which]), inputs, lengths)
        for key in bound.arrays:
            if key in spec.params:
                inputs[key] = _parameter(name, key, spec.params[key].kind, getattr(self, key),
                                         lengths, first)
        if call.sample_weight is not None or call.mask is not None:
            index = frontdoor.index_shape(spec, lengths)
            if call.sample_weight is not None:
                weight = _checked(name, "sample_weight", "real", call.sample_weight, lenient=True)
                inputs["sample_weight"] = _along(name, "sample_weight", weight.to(first.device),
                                                 index)
            if call.mask is not None:
                mask = torch.as_tensor(call.mask, device=first.device)
                inputs["mask"] = _along(name, "mask", mask, index).to(torch.bool)
        if call.normalizer_count is not None:
            inputs["normalizer_count"] = _number(name, "normalizer_count", call.normalizer_count,
                                                 first)
        if spec.step:
            inputs["step"] = _number(name, "step",
                                     self.step if call.step is None else call.step, first)
        out = first.dtype
        compute = torch.float32
        for key, x in inputs.items():
            if x.is_floating_point() and key not in ("normalizer_count", "step"):
                compute = torch.promote_types(compute, x.dtype)
        if spec.numerics.compute == "at_least_float64":
            compute = torch.float64
        return self._run(self._token, which, spec, inputs, lengths, call.ports, compute, out,
                         call.sample_weight is not None, call.mask is not None)

    def _run(
        self, token: int, which: int, spec: Spec, inputs: dict[str, Any], lengths: Lengths,
        ports: Mapping[str, Any], compute: torch.dtype, out: torch.dtype, weighted: bool,
        masked: bool,
    ) -> Tensor:
        first = inputs[next(iter(inputs))]
        device = first.device.type
        if torch.is_autocast_enabled(device):
            out = torch.promote_types(out, torch.float32)
            for call in _calls(token, which, weighted, masked):
                inputs[call.name] = _outside(self, spec, call, inputs, ports, lengths, compute)
            with torch.autocast(device, enabled=False):
                return self._fused_call(token, which, inputs, compute, out, weighted, masked)
        for call in _calls(token, which, weighted, masked):
            inputs[call.name] = _outside(self, spec, call, inputs, ports, lengths, compute)
        return self._fused_call(token, which, inputs, compute, out, weighted, masked)

    def _fused_call(self, token: int, which: int, inputs: dict[str, Any], compute: torch.dtype,
                    out: torch.dtype, weighted: bool, masked: bool) -> Tensor:
        fused = _resolve(token, which, weighted, masked)
        tensors = [inputs[n] for n in fused.names]
        saved: tuple[str, ...] = ()
        if torch.is_grad_enabled():
            saved = tuple(
                n for n, x, kind in zip(fused.names, tensors, fused.kinds, strict=True)
                if kind == "real" and x.requires_grad
            )
        if not saved and not torch.compiler.is_compiling() and not _transformed() and (
            not _dual_level()
        ):
            value = fused.plain(*(
                x.to(compute) if kind == "real" else x
                for x, kind in zip(tensors, fused.kinds, strict=True)
            ))[0]
            return value.to(out)
        if torch.compiler.is_compiling():
            precision, wide = _NAMES[compute], _NAMES[out]
            attribute = f"{KERNEL}{token}_{which}_{weighted}_{masked}_{'_'.join(saved)}_" + (
                f"{precision}_{wide}")
            _prepare(token, self._owner, attribute, which, weighted, masked, saved, precision,
                     wide)
            function = getattr(self, attribute)
        else:
            function = fused.function(saved, compute, out, True)
        result = function.apply(*tensors)  # type: ignore[no-untyped-call]
        value: Tensor = result[0] if isinstance(result, tuple) else result
        return value

    # parameter trees
    def _over_tree(self, spec: Spec, call: Call) -> Any:
        (name, kind), = spec.inputs.items()
        bound = self.bound
        if call.sample_weight is not None or call.mask is not None:
            raise UnsupportedError(
                f"{bound.form.name} runs over parameters, which have no samples to weigh or mask; "
                "pass the leaves that count"
            )
        leaves = [_checked(bound.form.name, name, "real", x) for x in _leaves(call.inputs[name])]
        if not leaves:
            raise ArgumentError(f"{bound.form.name} was given a tree without a parameter; pass a "
                                "module or its named_parameters()")
        extra: dict[str, Any] = {}
        token = self._token
        count = call.normalizer_count
        if bound.reduction == "mean" and bound.normalizer != "external":
            if bound.normalizer != "elements":
                raise UnsupportedError(f"{bound.form.name} runs over parameters; divide by "
                                       "'elements' or 'external'")
            count = sum(x.numel() for x in leaves)
            token = _external(bound)
        out = leaves[0].dtype
        parts = []
        for leaf in leaves:
            out = torch.promote_types(out, leaf.dtype)
        for leaf in leaves:
            compute = torch.promote_types(torch.float32, leaf.dtype)
            given: dict[str, Any] = {name: leaf, **extra}
            for key in bound.arrays:
                given[key] = getattr(self, key)
            if count is not None:
                given["normalizer_count"] = _number(bound.form.name, "normalizer_count", count,
                                                    leaf)
            part = self._run(
                token, 0, spec, given, {}, {}, compute,
                leaf.dtype if bound.reduction == "none" else torch.promote_types(out, compute),
                False, False)
            parts.append(part)
        if bound.reduction == "none":
            return parts
        total = parts[0]
        for part in parts[1:]:
            total = total + part.to(total.device)
        return total.to(out)

    # combinations
    def _run_combination(self, kwargs: Mapping[str, Any]) -> Tensor:
        bound = self.bound
        spec = bound.specs[0]
        rest = dict(kwargs)
        given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        for name, child in self.losses.items():
            own: dict[str, Any] = {}
            positional: tuple[Any, ...] = ()
            if name in rest:
                value = rest.pop(name)
                if isinstance(value, Mapping):
                    own.update(value)
                elif isinstance(value, tuple):
                    positional = value
                else:
                    positional = (value,)
            prefix = f"{name}_"
            for key in [k for k in rest if k.startswith(prefix) and k not in spec.weights]:
                own[key.removeprefix(prefix)] = rest.pop(key)
            if not own and not positional:
                raise ArgumentError(
                    f"{type(self).__name__} was called without inputs for {name}; write loss("
                    + ", ".join(f"{n}=(...)" for n in self.losses) + ")"
                )
            given[name] = (positional, own)
        step = rest.pop("step", None)
        inputs: dict[str, Any] = {}
        own_inputs = [
            k for k in spec.inputs if not any(k.startswith(f"{n}_") for n in self.losses)
        ]
        for key in own_inputs:
            if key not in rest:
                raise ArgumentError(f"{type(self).__name__} was called without {key}")
            inputs[key] = _checked(type(self).__name__, key, "real", rest.pop(key))
        if rest:
            raise ArgumentError(
                f"{type(self).__name__} was called with {listed(map(shown, rest))}, which belongs "
                f"to none of its losses ({listed(self.losses)})"
            )
        children = {
            name: self.losses[name](*positional, **own)
            for name, (positional, own) in given.items()
        }
        for key in spec.weights:
            inputs[key] = getattr(self, key)
        first = next(iter(children.values()))
        if spec.step:
            inputs["step"] = _number(type(self).__name__, "step",
                                     self.step if step is None else step, first)
        elif step is not None:
            raise ArgumentError(f"{type(self).__name__} has no schedule, so it takes no step=")
        for key in bound.arrays:
            inputs[key] = getattr(self, key)
        fused = _resolve(self._token, 0, False, False)
        for call in fused.plan.calls:
            inputs[call.name] = children[call.port]
        out = first.dtype
        compute = torch.float32
        for x in (*children.values(), *inputs.values()):
            if x.is_floating_point():
                compute = torch.promote_types(compute, x.dtype)
                out = torch.promote_types(out, x.dtype) if x.dim() == 0 else out
        return self._fused_call(self._token, 0, inputs, compute, out, False, False)


def _calls(token: int, which: int, weighted: bool, masked: bool) -> tuple[PortCall, ...]:
    """The calls of ports; how a port's maps are cut is known once it has returned them."""
    calls = _resolve(token, which, weighted, masked).plan.calls
    late = ("segments", "map_sizes")
    return tuple(c for c in calls if c.op not in late) + tuple(c for c in calls if c.op in late)


_EXTERNAL: dict[int, Bound] = {}


def _external(bound: Bound) -> int:
    """The same loss, divided by a count from outside: the mean over all leaves of a tree."""
    import dataclasses

    known = _EXTERNAL.get(id(bound))
    if known is None:
        known = _EXTERNAL[id(bound)] = dataclasses.replace(bound, normalizer="external")
    return _token(known)


def _dual_level() -> bool:
    """Whether forward-mode differentiation by dual numbers is under way."""
    from torch.autograd import forward_ad

    return forward_ad._current_level >= 0


# --- arguments -------------------------------------------------------------------------------------


def _initial(weight: Weight, shape: Sequence[int]) -> Tensor:
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


def _dtype_kinds(bound: Bound, inputs: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for position, name in enumerate(bound.specs[0].inputs):
        x = inputs[name]
        kind = "int"
        if isinstance(x, Tensor):
            kind = "real" if x.is_floating_point() else "bool" if x.dtype == torch.bool else "int"
        for spec in bound.specs:
            found[tuple(spec.inputs)[position]] = kind
    return found


def _checked(name: str, key: str, dtype: str, x: Any, lenient: bool = False) -> Tensor:
    """A tensor whose dtype can carry what its kind states."""
    if not isinstance(x, Tensor):
        if lenient:
            return torch.as_tensor(x)
        raise ArgumentError(
            f"{name}: {key} must be a tensor, but {shown(type(x).__name__)} was given; write "
            f"torch.as_tensor({key})"
        )
    if dtype == "real" and not x.is_floating_point():
        if lenient and not x.is_complex():
            return x.to(torch.float32)
        raise DTypeError(
            f"{name}: {key} holds real numbers, but its dtype is {x.dtype}; pass {key}.float()"
        )
    if dtype == "int" and (x.is_floating_point() or x.is_complex()):
        raise DTypeError(
            f"{name}: {key} holds integers, but its dtype is {x.dtype}; pass {key}.long()"
        )
    return x


def _moved(kind: Any, x: Tensor, axis: int | None) -> Tensor:
    if frontdoor.moved_axis(kind) is None or x.dim() < 1:
        return x
    at = frontdoor.default_axis("torch", kind, x.dim()) if axis is None else axis
    if not -x.dim() <= at < x.dim():
        raise ShapeError(
            f"axis={at} was given, but a tensor of shape {tuple(x.shape)} has {x.dim()} dimensions"
        )
    return x if at in (-1, x.dim() - 1) else x.movedim(at, -1)


def _parameter(name: str, key: str, kind: Any, x: Tensor, lengths: Lengths,
               first: Tensor) -> Tensor:
    """An array hyperparameter, repeated along the axes of its kind; those broadcast as in torch."""
    wanted = tuple(n for axis in kind.axes for n in lengths.get(axis, ()))
    if tuple(x.shape) == wanted or any(axis not in lengths for axis in kind.axes):
        return x
    try:
        return x.expand(wanted)
    except RuntimeError:
        raise ShapeError(
            f"{name}: {key} is {kind}, here of shape {wanted}, but its shape is {tuple(x.shape)}"
        ) from None


def _along(name: str, what: str, x: Tensor, index: Sequence[int | None]) -> Tensor:
    """A weight or mask, repeated to one entry for each value of the loss."""
    shape = frontdoor.aligned_shape(name, what, x.shape, index)
    return x.reshape(shape).expand(tuple(index))


def _number(name: str, what: str, given: Any, like: Tensor) -> Tensor:
    x = given if isinstance(given, Tensor) else torch.as_tensor(given)
    if x.dim() != 0:
        raise ShapeError(f"{name}: {what} is a single number, but its shape is {tuple(x.shape)}")
    dtype = x.dtype if x.is_floating_point() else torch.promote_types(torch.float32, like.dtype)
    return x.to(device=like.device, dtype=dtype)


def _leaves(tree: Any) -> list[Any]:
    """The tensors of a module, of ``named_parameters()``, or of nested containers."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, nn.Module):
        return [p for p in tree.parameters() if p.requires_grad]
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in _leaves(value)]
    if isinstance(tree, str):
        return []  # the name in a (name, parameter) pair
    if isinstance(tree, Iterable):
        return [leaf for value in tree for leaf in _leaves(value)]
    raise ArgumentError(
        f"a parameter tree is a module, named_parameters(), or containers of tensors, but "
        f"{shown(type(tree).__name__)} was given"
    )


def _check_labels(name: str, spec: Spec, numbers: Mapping[str, Any], inputs: Mapping[str, Tensor],
                  lengths: Lengths) -> None:
    """Labels out of range raise where reading them waits for nobody; elsewhere the loss is NaN."""
    for key, kind in spec.inputs.items():
        if kind.name != "index" or kind.of is None:
            continue
        labels = inputs[key]
        if (
            torch.compiler.is_compiling() or labels.device.type != "cpu" or labels.numel() == 0
            or _transformed() or type(labels) is not Tensor
        ):
            continue
        size = lengths[kind.of][0]
        assert size is not None
        lowest, highest = (int(v) for v in torch.aminmax(labels))
        if 0 <= lowest and highest < size:
            continue
        ignored = numbers.get("ignore_index")
        counted = labels if ignored is None else labels[labels != ignored]
        wrong = counted[(counted < 0) | (counted >= size)]
        if wrong.numel():
            raise DomainError(
                f"{name}: {key} is {kind}, so it lies from 0 to {size - 1}"
                + ("" if ignored is None else f" or is ignore_index={ignored}")
                + f"; {int(wrong[0])} was given"
            )


# --- ports and used losses -------------------------------------------------------------------------


def _outside(
    loss: Loss, spec: Spec, call: PortCall, inputs: dict[str, Any], ports: Mapping[str, Any],
    lengths: Lengths, compute: torch.dtype,
) -> Tensor:
    name = loss.bound.form.name
    if call.op in ("segments", "map_sizes"):
        sizes = inputs[f"maps of {call.port}"]
        device = inputs[next(iter(inputs))].device
        table = torch.tensor(sizes, device=device)
        if call.op == "map_sizes":
            return table.to(compute)
        return torch.repeat_interleave(torch.arange(len(sizes), device=device), table)
    given = _given(call, inputs, compute)
    port = spec.ports[call.port]
    function = ports[call.port]
    if call.op == "derivative":
        result: Any = _slope(function, given, call.wrt)
    else:
        result = function(*given)
    if port.output.name == "maps" and call.op == "apply":
        return _joined(name, call, result, inputs)
    if not isinstance(result, Tensor):
        raise ArgumentError(f"{name}: {call.port} returned {shown(type(result).__name__)}, but a "
                            "tensor was expected")
    axes = port_axes(port)
    if call.op == "apply" and all(axis in lengths for axis in axes):
        wanted = tuple(n for axis in axes for n in lengths[axis])
        if tuple(result.shape) != wanted:
            raise ShapeError(
                f"{name}: {call.port} returned shape {tuple(result.shape)}, but its result is "
                f"{port.output}, here {wanted}; let it return result.reshape({wanted})"
            )
    return result


def _given(call: PortCall, inputs: Mapping[str, Any], compute: torch.dtype) -> list[Tensor]:
    """What a port is called with; computed values come in the dtype of what they come from."""
    if call.passed is not None:
        return [inputs[n] for n in call.passed]
    stage = _stage(_polished(call.arguments))
    values = [inputs[n] for n in stage.names]
    seen = next((v.dtype for v in values if v.is_floating_point()), compute)
    results = stage(*(v.to(compute) if v.is_floating_point() else v for v in values))
    return [r.to(seen) if r.is_floating_point() else r for r in results]


def _slope(function: Callable[..., Tensor], given: Sequence[Tensor], wrt: Sequence[int]) -> Tensor:
    """The derivatives of the sum of a port's value, one after the other."""
    if torch.compiler.is_compiling() or _transformed():
        wrapped: Any = function
        for position in wrt:
            wrapped = torch.func.grad(
                functools.partial(_summed, wrapped), argnums=position)
        return wrapped(*given)  # type: ignore[no-any-return]
    with torch.enable_grad():
        xs = [
            x if x.requires_grad or k not in wrt else x.detach().requires_grad_()
            for k, x in enumerate(given)
        ]
        value = function(*xs)
        for position in wrt:
            if not value.requires_grad:
                return torch.zeros_like(xs[position])
            (value,) = torch.autograd.grad(
                value.sum(), xs[position], create_graph=True, materialize_grads=True
            )
    return value


def _summed(function: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    return function(*xs).sum()


def _joined(name: str, call: PortCall, result: Any, inputs: dict[str, Any]) -> Tensor:
    """Feature maps as one tensor, each flattened behind the batch."""
    maps = list(result) if isinstance(result, list | tuple) else [result]
    if not maps or any(not isinstance(m, Tensor) or m.dim() < 1 for m in maps) or len(
        {m.shape[0] for m in maps}
    ) != 1:
        raise ShapeError(f"{name}: {call.port} must return one map or a list of maps, each with "
                         "the batch first")
    sizes = [math.prod(m.shape[1:]) for m in maps]
    key = f"maps of {call.port}"
    known = inputs.setdefault(key, sizes)
    if known != sizes:
        raise ShapeError(
            f"{name}: {call.port} returned maps of {known} elements for one input and {sizes} for "
            "the other; give inputs of one shape"
        )
    return torch.cat([m.flatten(1) if m.dim() > 1 else m[:, None] for m in maps], dim=1)


# --- making classes --------------------------------------------------------------------------------

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
        original.__code__.replace(), original.__globals__, "forward", original.__defaults__,
        original.__closure__,
    )


def class_of(form: Form) -> type[Loss]:
    """The public class of a loss."""
    return type(form.name, (Loss,), {
        "__module__": MODULE, "__qualname__": form.name, "form": form,
        "__doc__": _LazyDoc(lambda: frontdoor.docstring(form, "torch")),
        "__signature__": property(lambda self: None), "forward": _own_forward(),
    } | {"__signature__": _signature(form)})


def _signature(form: Form) -> inspect.Signature:
    return frontdoor.signature(form)


def combination_class(combination: Combination) -> type[Loss]:
    """The public class of a combination of losses."""
    return type(combination.name, (Loss,), {
        "__module__": MODULE, "__qualname__": combination.name, "combination": combination,
        "__doc__": combination.doc, "forward": _own_forward(),
    })


class Compiled(Loss):
    """An instance made from a specification."""


def compile(source: Any, **settings: Any) -> Loss:
    """An instance of any loss: a specification, a defined function, or a path to a file."""
    form = frontdoor.as_form(source)
    loss = Compiled.__new__(Compiled)
    nn.Module.__init__(loss)
    loss.__dict__["form"] = form
    loss._settle(form, (), settings)
    return loss


# --- functions -------------------------------------------------------------------------------------


@functools.cache
def _identity_spec() -> Spec:
    from lossbridge.spec import loads

    return loads(b'{"lossbridge": 1, "loss": "lossbridge/values@1", '
                 b'"inputs": {"values": "real[*batch]"}, "body": ["value = values"]}')


@functools.lru_cache(maxsize=64)
def _reducer(normalizer: str) -> Loss:
    return compile(_identity_spec(), reduction="mean", normalizer=normalizer)


def reduce(
    values: Tensor, *, mask: Tensor | None = None, weights: Tensor | None = None,
    denominator: str | float | Tensor | None = None,
) -> Tensor:
    """The mean of unreduced values, as every loss here takes it.

    ``mask`` selects; ``weights`` multiply, and enter the divisor only with
    ``denominator="weights"``; ``denominator`` is a normaliser's name or a number.
    """
    named = denominator is None or isinstance(denominator, str)
    loss = _reducer(str(denominator or "elements") if named else "external")
    extra = {} if named else {"normalizer_count": denominator}
    result: Tensor = loss(values, sample_weight=weights, mask=mask, **extra)
    return result


def as_hf(loss: Loss, shift_labels: bool = False) -> Callable[..., Tensor]:
    """A function ``f(outputs, labels, num_items_in_batch=None)`` as transformers' Trainer calls it.

    ``shift_labels`` pairs each position's logits with the next position's label. Logits have the
    classes last, whatever the loss's own axis.
    """
    bound = loss.bound
    settings = {**bound.given, "reduction": "mean"}
    if bound.form.has_axis:
        settings["axis"] = -1
    own = compile(bound.form, **settings)
    external = compile(bound.form, **{**settings, "normalizer": "external"})

    def hf_loss(
        outputs: Any, labels: Tensor, num_items_in_batch: Tensor | float | None = None
    ) -> Tensor:
        logits = outputs["logits"] if isinstance(outputs, Mapping) else (
            getattr(outputs, "logits", outputs))
        if shift_labels:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        labels = labels.to(logits.device)
        if num_items_in_batch is None:
            result: Tensor = own.to(logits.device)(logits, labels)
        else:
            result = external.to(logits.device)(
                logits, labels, normalizer_count=num_items_in_batch)
        return result

    return hf_loss


# --- source ----------------------------------------------------------------------------------------


def _first_input(plan: Plan) -> tuple[str, ...]:
    return tuple(n for n in plan.differentiable if not n.startswith("port"))[:1] or (
        plan.differentiable[:1])


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


__all__ += ["stand_alone"]
_ = (math, COMBINATIONS)
