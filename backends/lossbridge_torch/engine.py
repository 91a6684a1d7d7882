"""The engine: from graphs to differentiable functions, what a module runs on ordered arguments.

:class:`Stage` is a graph that can be differentiated any number of times by the graph's own
derivative. The fused function of a loss computes the value and the gradients that somebody needs
together, and its backward multiplies; differentiated again, it computes the gradient by a stage.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lossbridge.emit import emit, load
from lossbridge.frontdoor import Bound, as_form
from lossbridge.integers import identities
from lossbridge.ir import Builder, Graph, inline, is_star
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.passes.differentiate import differentiate, pull_back_all, push_forward
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise
from lossbridge.passes.stabilise import stabilise
from lossbridge.plan import Options, Plan, PortCall, index_sources
from lossbridge.plan import plan as planned
from lossbridge.spec import Spec
from lossbridge.verify import verify
from lossbridge_torch.eager import eager_function, owns_results, settled
from lossbridge_torch.lowering import LOWERING

# --- stages: graphs as functions with their own derivatives --------------------------------------


def _legal(graph: Graph) -> Graph:
    return verify(guard(legalise(graph, LOWERING.native)))


def polished(graph: Graph) -> Graph:
    """A derived graph after the passes."""
    return verify(guard(stabilise(canonicalise(verify(graph)), derived=True)))


@functools.lru_cache(maxsize=4096)
def _function(graph: Graph, name: str = "loss") -> Callable[..., tuple[Tensor, ...]]:
    """The emitted function of a graph that has been through its passes."""
    return load(emit(graph, LOWERING, name), LOWERING, name)


@functools.lru_cache(maxsize=1024)
def _derived(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    return polished(differentiate(graph, "value", wrt, keep=False))


@functools.lru_cache(maxsize=1024)
def _pulled(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    return polished(pull_back_all(graph, wrt))


@functools.lru_cache(maxsize=1024)
def _pushed(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    """The tangents of all outputs, under the outputs' names."""
    builder = Builder(graph.layout)
    outputs = {}
    for name, _ in graph.outputs:
        one = push_forward(graph, name, wrt)
        outputs[name] = inline(builder, one, {})[one.output("tangent")]
    return polished(builder.finish(**outputs))


def forward_mode() -> bool:
    """Dynamo refuses a Function that has a ``jvp``; everything else may need it."""
    return not torch.compiler.is_compiling()


def transformed() -> bool:
    """Whether a transform of torch.func is under way."""
    return bool(torch._C._are_functorch_transforms_active())


class Stage:
    """A graph as a function from its inputs, in order, to its outputs, differentiable again and
    again by the graph's own derivative."""

    def __init__(self, graph: Graph) -> None:
        self.names = tuple(name for name, _ in graph.inputs())
        self.real = tuple(graph.nodes[index].type.dtype == "real" for _, index in graph.inputs())
        self.outputs = tuple(name for name, _ in graph.outputs)
        run = _function(_legal(graph))
        names, real, outputs = self.names, self.real, self.outputs

        class Graphed(torch.autograd.Function):
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
                    n
                    for n, r, need in zip(names, real, ctx.needs_input_grad, strict=True)
                    if r and need
                )
                stage = stage_of(_pulled(graph, wrt))
                values = dict(zip(names, inputs, strict=True))
                values.update((f"upstream_{o}", u) for o, u in zip(outputs, upstream, strict=True))
                found = dict(zip(wrt, stage(*(values[n] for n in stage.names)), strict=True))
                return tuple(found.get(n) for n in names)

        class ForwardGraphed(Graphed):
            @staticmethod
            def jvp(ctx: Any, *tangents: Any) -> Any:
                inputs = ctx.saved_tensors
                wrt = tuple(
                    n for n, r, t in zip(names, real, tangents, strict=True) if r and t is not None
                )
                stage = stage_of(_pushed(graph, wrt))
                values = dict(zip(names, inputs, strict=True))
                values.update(
                    (f"tangent_{n}", t)
                    for n, t in zip(names, tangents, strict=True)
                    if t is not None
                )
                return stage(*(values[n] for n in stage.names))

        self._plain, self._forward = Graphed, ForwardGraphed

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        chosen = self._forward if forward_mode() else self._plain
        result = chosen.apply(*inputs)  # type: ignore[no-untyped-call]
        return result if isinstance(result, tuple) else (result,)


@functools.lru_cache(maxsize=1024)
def stage_of(graph: Graph) -> Stage:
    """The stage of a graph, made once."""
    return Stage(graph)


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


# --- the fused function --------------------------------------------------------------------------


class Fused:
    """The compiled forms of one loss under one set of options."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        stable = plan.stable
        self.names = tuple(name for name, _ in stable.inputs())
        rows = dict(stable.inputs())
        self.kinds = tuple(stable.nodes[rows[n]].type.dtype for n in self.names)
        self.orders = {n: stable.nodes[rows[n]].attr("order") for n in self.names}
        self.axes = plan.value_axes
        self.index = index_sources(plan.spec)  # what sample weights and masks run over
        self.identities = tuple(identities(plan.spec).names)  # integers that are told apart
        late = ("segments", "map_sizes")
        self.outside = tuple(
            Outside(call, plan.spec) for call in sorted(plan.calls, key=lambda c: c.op in late)
        )
        self._functions: dict[tuple[Any, ...], type[torch.autograd.Function]] = {}

    def function(
        self, wrt: tuple[str, ...], compute: torch.dtype, out: torch.dtype, forward_mode: bool
    ) -> type[torch.autograd.Function]:
        key = (wrt, compute, out, forward_mode)
        if key not in self._functions:
            self._functions[key] = _make_function(self, wrt, compute, out, forward_mode)
        return self._functions[key]

    def direct(
        self,
        wrt: tuple[str, ...],
        compute: torch.dtype,
        out: torch.dtype,
        casts: bool,
        in_range: bool,
    ) -> type[torch.autograd.Function]:
        """The function for reverse mode alone, outside every transform: the cheapest to call.

        Without ``casts`` every real input has the dtype that is computed in; ``in_range`` says that
        all labels are.
        """
        key = ("direct", wrt, compute, out, casts, in_range)
        if key not in self._functions:
            saving = self.function(wrt, compute, out, True)
            self._functions[key] = _direct(self, saving, wrt, compute, out, casts, in_range)
        return self._functions[key]

    @functools.cached_property
    def plain(self) -> Callable[..., tuple[Tensor, ...]]:
        return _function(self.plan.plain)

    @functools.cached_property
    def eager(self) -> Callable[..., tuple[Tensor, ...]]:
        """As ``plain``, for tensors that nobody traces or differentiates."""
        return eager_function(self.plan.plain)

    @functools.cached_property
    def inside(self) -> Plan:
        """The forms for values that have been looked at and all lie in their domains."""
        p = self.plan
        found = planned(p.spec, p.numbers, dataclasses.replace(p.options, unread=False), p.native)
        # Behind a port the loss may not read what the port was given.
        same = tuple(name for name, _ in found.stable.inputs()) == self.names
        return found if same else p

    @functools.cached_property
    def in_range(self) -> Callable[..., tuple[Tensor, ...]]:
        """As ``eager``, for values that all lie in their domains, labels in range."""
        return eager_function(settled(self.inside.plain) or self.inside.plain)


def _make_function(
    fused: Fused,
    saved: tuple[str, ...],
    compute: torch.dtype,
    out: torch.dtype,
    forward_mode: bool,
) -> type[torch.autograd.Function]:
    """The autograd.Function that computes the value and the unit gradients in ``saved``."""
    plan, names, kinds = fused.plan, fused.names, fused.kinds
    stable, axes, orders = plan.stable, fused.axes, fused.orders
    keeps = bool(saved) and plan.separable(saved)
    scaled = plan.scaled(saved) if keeps else None
    graph = scaled if scaled is not None else plan.fused(saved) if keeps else plan.plain
    run = _function(graph)
    quick = eager_function(graph)
    count = len(names)

    def widened(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [
            x.to(compute) if kind == "real" else x for x, kind in zip(inputs, kinds, strict=True)
        ]

    class Saving(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Tensor) -> Any:
            chosen = quick if not transformed() and ordinary(inputs) else run
            value, *rest = chosen(*widened(inputs))
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
                n
                for n, kind, need in zip(names, kinds, ctx.needs_input_grad, strict=True)
                if need and kind == "real"
            )
            if keeps and set(wanted) <= set(saved) and not torch.is_grad_enabled():
                found = _scale(upstream, rest, saved, scaled is not None, compute, axes, orders)
            else:
                found = _by_formula(
                    plan, wanted, names, widened(inputs), upstream.to(compute), axes, orders
                )
            result: list[Tensor | None] = []
            for name, x in zip(names, inputs, strict=True):
                g = found.get(name) if name in wanted else None
                result.append(g if g is None or g.dtype == x.dtype else g.to(x.dtype))
            return tuple(result)

    if not forward_mode:
        return _traceable(
            run,
            names,
            saved,
            axes,
            orders,
            compute,
            out,
            keeps,
            scaled is not None,
            None if keeps or not saved else _function(_legal(_pulled(stable, saved))),
            kinds,
        )

    class ForwardSaving(Saving):
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
            stage = stage_of(_pushed(stable, tuple(moving)))
            values = dict(zip(names, widened(inputs), strict=True))
            values.update((f"tangent_{n}", t) for n, t in moving.items())
            tangent = stage(*(values[n] for n in stage.names))[0]
            return (tangent.to(out), *rest)

    return ForwardSaving


def _direct(
    fused: Fused,
    saving: type[torch.autograd.Function],
    saved: tuple[str, ...],
    compute: torch.dtype,
    out: torch.dtype,
    casts: bool,
    in_range: bool,
) -> type[torch.autograd.Function]:
    """As ``saving``, for a loss of 320 numbers, whose arithmetic costs less than the questions
    that can be answered before the call."""
    plan = fused.inside if in_range else fused.plan
    names, kinds, axes = fused.names, fused.kinds, fused.axes
    keeps = bool(saved) and plan.separable(saved)
    scaled = plan.scaled(saved) if keeps else None
    graph = scaled if scaled is not None else plan.fused(saved) if keeps else plan.plain
    if in_range:
        graph = settled(graph) or graph
    quick = eager_function(graph, bare=True)
    own = owns_results(graph)
    factored = scaled is not None
    count = len(names)
    routes: dict[tuple[bool, ...], list[tuple[int, int, tuple[str, ...]]] | None] = {}

    def route(needs: tuple[bool, ...]) -> list[tuple[int, int, tuple[str, ...]]] | None:
        """For each wanted gradient its input's place, its own place among the saved, its axes."""
        wanted = [k for k in range(count) if needs[k] and kinds[k] == "real"]
        if not keeps or not {names[k] for k in wanted} <= set(saved):
            return None
        return [(k, saved.index(names[k]), fused.orders[names[k]]) for k in wanted]

    class Direct(torch.autograd.Function):
        # Without a ``setup_context``, which costs a call more than small losses do.
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Any:
            if casts:
                wide = [
                    x.to(compute) if kind == "real" else x
                    for x, kind in zip(inputs, kinds, strict=True)
                ]
                value, *rest = quick(*wide)
            else:
                value, *rest = quick(*inputs)
            if value.dtype != out:
                value = value.to(out)
            if factored:
                ctx.factor, *rest = rest
            if not own:
                value, *rest = _fresh((value, *rest), inputs)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*inputs, *rest)
            return value

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            needs = ctx.needs_input_grad
            if needs not in routes:
                routes[needs] = route(needs)
            ways = routes[needs]
            if upstream is None or ways is None or torch.is_grad_enabled():
                return saving.backward(ctx, upstream)
            tensors = ctx.saved_tensors
            if upstream.dtype != compute:
                upstream = upstream.to(compute)
            if factored:
                upstream = upstream * ctx.factor
            reuse = _owned() and not _batched(upstream)
            found: list[Tensor | None] = [None] * count
            for k, place, order in ways:
                g = tensors[count + place]
                factor = _spread(upstream, axes, order, g.ndim) if axes else upstream
                g = g.mul_(factor) if reuse else g * factor
                found[k] = g if not casts or g.dtype == tensors[k].dtype else g.to(tensors[k].dtype)
            return tuple(found)

    return Direct


def _traceable(
    run: Callable[..., tuple[Tensor, ...]],
    names: tuple[str, ...],
    saved: tuple[str, ...],
    axes: tuple[str, ...],
    orders: Mapping[str, tuple[str, ...]],
    compute: torch.dtype,
    out: torch.dtype,
    keeps: bool,
    scaled: bool,
    pull: Callable[..., tuple[Tensor, ...]] | None,
    kinds: tuple[str, ...],
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


@functools.lru_cache(maxsize=1024)
def _traceable_stage(graph: Graph, wrt: tuple[str, ...]) -> Callable[..., tuple[Tensor, ...]]:
    """A graph as a function that Dynamo traces, differentiated by the graph's own derivative once.

    ``Stage`` finds its functions by the graph while it runs, which Dynamo would trace.
    """
    run = _function(_legal(graph))
    if not wrt:
        return run
    names = tuple(name for name, _ in graph.inputs())
    pulled = _pulled(graph, wrt)
    pull = _function(_legal(pulled))
    takes = tuple(name for name, _ in pulled.inputs())
    outputs = tuple(f"upstream_{name}" for name, _ in graph.outputs)

    class Traceable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Any:
            ctx.save_for_backward(*inputs)
            return _fresh(run(*inputs), inputs)

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            values = dict(zip((*names, *outputs), (*ctx.saved_tensors, *upstream), strict=True))
            found = dict(zip(wrt, pull(*[values[n] for n in takes]), strict=True))
            return tuple(found.get(n) for n in names)

    return Traceable.apply


def _scale(
    upstream: Tensor,
    rest: Sequence[Tensor],
    saved: tuple[str, ...],
    scaled: bool,
    compute: torch.dtype,
    axes: tuple[str, ...],
    orders: Mapping[str, tuple[str, ...]],
) -> dict[str, Tensor]:
    """The saved gradients times the incoming one, in place where nobody reads them again."""
    upstream = upstream.to(compute)
    gradients = rest
    if scaled:
        upstream, gradients = upstream * rest[0], rest[1:]
    reuse = _owned() and not _batched(upstream)
    found = {}
    for name, g in zip(saved, gradients, strict=True):
        factor = _spread(upstream, axes, orders[name], g.ndim)
        found[name] = g.mul_(factor) if reuse else g * factor
    return found


# The vmap of torch.autograd.grad(..., is_grads_batched=True) is not among functorch's transforms.
_batched: Callable[[Tensor], bool] = getattr(
    torch._C._functorch, "is_legacy_batchedtensor", lambda x: True
)


def _owned() -> bool:
    """Whether this backward is the last to read what was saved, so that it may be overwritten."""
    if torch.compiler.is_compiling() or transformed():
        return False
    keep = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keep is not None and not keep()


def _by_formula(
    plan: Plan,
    wanted: tuple[str, ...],
    names: Sequence[str],
    inputs: Sequence[Tensor],
    upstream: Tensor,
    axes: tuple[str, ...],
    orders: Mapping[str, tuple[str, ...]],
) -> dict[str, Tensor]:
    """The gradients computed anew, by stages that can be differentiated again."""
    values = dict(zip(names, inputs, strict=True))
    if plan.separable(wanted):
        stage = stage_of(_derived(plan.stable, wanted))
        gradients = stage(*(values[n] for n in stage.names))
        return {
            n: g * _spread(upstream, axes, orders[n], g.ndim)
            for n, g in zip(wanted, gradients, strict=True)
        }
    stage = stage_of(_pulled(plan.stable, wanted))
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


NAMES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def token_of(bound: Bound) -> int:
    """A number for a loss and its settings, good for as long as somebody holds them."""
    BOUNDS[id(bound)] = bound
    return id(bound)


# Bounds by number: Dynamo meets the resolver below with constants only, and runs it for real.
BOUNDS: weakref.WeakValueDictionary[int, Bound] = weakref.WeakValueDictionary()


def resolve(token: int, which: int, weighted: bool, masked: bool) -> Fused:
    """The compiled forms for one combination of what a call brings."""
    return fused_of(BOUNDS[token], which, weighted, masked)


resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


def unreduced(token: int, which: int) -> tuple[str, ...]:
    """The axes that the value of one of a loss's specifications has before its reduction."""
    return index_sources(BOUNDS[token].specs[which])


unreduced._dynamo_marked_constant = True  # type: ignore[attr-defined]


def prepare(
    token: int,
    owner: int,
    attribute: str,
    which: int,
    weighted: bool,
    masked: bool,
    saved: tuple[str, ...],
    compute: str,
    out: str,
) -> None:
    """Put the Function that Dynamo is about to trace where it can guard on it: on the module."""
    module = OWNERS[owner]
    fused = resolve(token, which, weighted, masked)
    # Dynamo cannot follow a Function of which nobody wants a gradient.
    module.__dict__[attribute] = (
        fused.function(saved, getattr(torch, compute), getattr(torch, out), False)
        if saved
        else fused.plain
    )


prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]
OWNERS: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
KERNEL = "_kernel"  # begins the names of what a module caches and never saves


def fused_of(bound: Bound, which: int, weighted: bool, masked: bool) -> Fused:
    """The compiled forms of a loss for what a call brings, made once."""
    options = Options(sample_weight=weighted, mask=masked, unread=True)
    plan = bound.plan(which, options, LOWERING.native)
    cache = plan.__dict__.setdefault("_torch", {})
    if "fused" not in cache:
        cache["fused"] = Fused(plan)
    fused: Fused = cache["fused"]
    return fused


class Outside:
    """A call outside the fused function: a port, its derivative, facts of the maps it returned, or
    another loss.

    Attributes, not a property of a frozen :class:`PortCall`: Dynamo follows a field of such an
    object, but breaks the graph on ``call.passed``.
    """

    def __init__(self, call: PortCall, spec: Spec) -> None:
        self.name, self.op, self.port, self.wrt = call.name, call.op, call.port, call.wrt
        self.passed = call.passed  # names of the arguments, where they are inputs as they come
        self.arguments = polished(call.arguments)
        self.names = tuple(name for name, _ in self.arguments.inputs())
        if call.op == "use":
            self.keys, self.used = call.keys, spec.uses[call.port]
            self.bound = _bound_use(self.used, call)
            self.token = token_of(self.bound)
            return
        port = spec.ports[call.port]
        self.output = port.output
        self.maps = port.output.name == "maps"


def _bound_use(used: Spec, call: PortCall) -> Bound:
    """A used loss with the numbers that it is called with, and its defaults."""
    fixed = dict(call.numbers)
    defaults = {k: p.value for k, p in used.params.items() if k not in call.keys and k not in fixed}
    numbers = (*call.numbers, *((k, v) for k, v in defaults.items() if v is not None))
    reduction = used.reduction
    return Bound(
        as_form(used), (used,), {}, (numbers,), {}, reduction.kind, reduction.normalizer, None, {}
    )


def calls_of(token: int, which: int, weighted: bool, masked: bool) -> tuple[Outside, ...]:
    """The calls of ports; how a port's maps are cut is known once it has returned them."""
    return resolve(token, which, weighted, masked).outside


def prepare_arguments(
    token: int,
    owner: int,
    attribute: str,
    position: int,
    which: int,
    weighted: bool,
    masked: bool,
    wrt: tuple[str, ...],
) -> None:
    """As ``prepare``, for the function that computes what a port is called with."""
    call = resolve(token, which, weighted, masked).outside[position]
    OWNERS[owner].__dict__[attribute] = _traceable_stage(call.arguments, wrt)


prepare_arguments._dynamo_marked_constant = True  # type: ignore[attr-defined]


def external(bound: Bound) -> Bound:
    """The same loss, divided by a count from outside: the mean over all leaves of a tree.

    Its module holds it: a table by ``id(bound)`` gave one loss the value of another, once the first
    was gone and its id used again.
    """
    return dataclasses.replace(bound, normalizer="external")


_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def ordinary(tensors: Iterable[Tensor]) -> bool:
    """Whether these are tensors with numbers in them, and nobody traces: what the eager kernels
    read. A subclass may only stand for one, and under a mode (FakeTensorMode) any tensor may."""
    return not _modes() and all(type(x) is Tensor or type(x) is nn.Parameter for x in tensors)


def dual_level() -> bool:
    """Whether forward-mode differentiation by dual numbers is under way."""
    return forward_ad._current_level >= 0
