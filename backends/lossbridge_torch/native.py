"""The PyTorch objects: ``nn.Module`` subclasses over emitted functions.

A call binds its arguments, chooses the loss by the dtypes, moves the class axis last, checks the
named axes, lets ports run, then runs one function. Which function depends on who asks:

* nobody wants a gradient: the value alone;
* autograd does: value and gradients together, where the backward only has to scale them;
* ``torch.func``, forward mode or a second derivative does: a function whose derivative is again a
  graph of ours (:func:`_stage`). torch's own rules for the emitted operations would not do: they
  differ at kinks (``sigmoid(-abs(x))`` twice differentiated gives 0 at 0 instead of 1/4);
* ``torch.compile`` does: the same functions without what Dynamo refuses.

Emitted functions are made when first needed. Dynamo cannot follow that, so the makers are marked:
they run while it traces, and give the name under which :data:`_MADE` holds what they made.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lossbridge import frontdoor
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
from lossbridge.frontdoor import Bound, Form
from lossbridge.ir import Builder, Graph, Type, inline, is_star
from lossbridge.kinds import Kind
from lossbridge.ops import total
from lossbridge.passes.canonicalise import canonicalise
from lossbridge.passes.differentiate import pull_back, push_forward
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise
from lossbridge.passes.stabilise import stabilise
from lossbridge.plan import Numbers, Options, Plan, PortCall, index_axes, plan
from lossbridge.spec import Spec, dumps, loads
from lossbridge.trace import port_axes
from lossbridge.verify import verify
from lossbridge_torch.lowering import LOWERING

__all__ = ["Loss", "as_hf", "class_of", "compile", "reduce"]

MODULE = "lossbridge.torch"
F = TypeVar("F", bound=Callable[..., Any])

# In a plain backward() nobody can ask for the saved gradient again, so it may be scaled in place;
# without this private question (newer releases may drop it) it is scaled into a new tensor.
_keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)
_transforming: Callable[[], bool] = torch._C._are_functorch_transforms_active


def _while_tracing(function: F) -> F:
    """Let Dynamo call a function while it traces (it takes and gives constants)."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class _Made:
    """What the makers made, under the names that they give out."""


_MADE = _Made()


# --- graphs as functions that know their derivatives -----------------------------------------------


def _polished(graph: Graph) -> Graph:
    return verify(guard(stabilise(canonicalise(verify(graph)))))


def _orders(graph: Graph) -> dict[str, tuple[str, ...]]:
    """How the caller's array of each input lies."""
    return {name: graph.nodes[index].attr("order") for name, index in graph.inputs()}


@functools.lru_cache(maxsize=1024)
def _pulled(graph: Graph, wrt: tuple[str, ...], outputs: tuple[str, ...]) -> Graph:
    """Inputs and ``upstream_OUTPUT`` for each output that has one -> ``gradient_NAME``."""
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    sources = {name: values[index] for name, index in graph.inputs()}
    orders = _orders(graph)
    pairing = None
    for name in outputs:
        out = values[graph.output(name)]
        order = orders.get(name.removeprefix("gradient_"), out.axes)
        order = order if set(order) == set(out.axes) else out.axes
        term = total(b.input(f"upstream_{name}", Type("real", order), "upstream") * out,
                     out.axes, out)
        pairing = term if pairing is None else pairing + term
    assert pairing is not None
    gradients = pull_back(b, pairing, b.const(1.0), [sources[name] for name in wrt])
    results = {}
    for name, gradient in zip(wrt, gradients, strict=True):
        full = b.const(0.0) if gradient is None else gradient
        missing = tuple(a for a in sources[name].axes if a not in full.axes)
        results[f"gradient_{name}"] = b.op("broadcast", full, axes=missing) if missing else full
    return _polished(b.finish(**results))


@functools.lru_cache(maxsize=1024)
def _pushed(graph: Graph, wrt: tuple[str, ...]) -> Graph:
    """Inputs and ``tangent_NAME`` -> the tangents of all outputs, under the outputs' names."""
    b = Builder(graph.layout)
    results = {}
    for name, _ in graph.outputs:
        one = push_forward(graph, name, wrt)
        results[name] = inline(b, one, {})[one.output("tangent")]
    return _polished(b.finish(**results))


def _text(graph: Graph, name: str = "loss") -> str:
    return emit(verify(guard(legalise(graph, LOWERING.native))), LOWERING, name)


@functools.lru_cache(maxsize=2048)
def _emitted(graph: Graph) -> Callable[..., tuple[Tensor, ...]]:
    return load(_text(graph), LOWERING, "loss")


@functools.lru_cache(maxsize=1024)
def _stage(graph: Graph) -> type[torch.autograd.Function]:
    """A function from the graph's inputs, in order, to its outputs, differentiable without end."""
    run = _emitted(graph)
    names = tuple(name for name, _ in graph.inputs())
    results = tuple(name for name, _ in graph.outputs)

    class Stage(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arrays: Tensor) -> tuple[Tensor, ...]:
            with _Exact(arrays[0].device.type):
                return run(*arrays)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
            wrt = tuple(
                name for name, wanted, x in
                zip(names, ctx.needs_input_grad, ctx.saved_tensors, strict=True)
                if wanted and x.is_floating_point()
            )
            if not wrt:
                return (None,) * len(names)
            values = dict(zip(names, ctx.saved_tensors, strict=True))
            values.update((f"upstream_{n}", u) for n, u in zip(results, upstream, strict=True))
            found = _staged(_pulled(graph, wrt, results), values)
            return tuple(found.get(f"gradient_{name}") for name in names)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
            values = dict(zip(names, ctx.saved_tensors, strict=True))
            moving = {
                name: t for name, t in zip(names, tangents, strict=True)
                if t is not None and values[name].is_floating_point()
            }
            values.update((f"tangent_{name}", t) for name, t in moving.items())
            found = _staged(_pushed(graph, tuple(moving)), values)
            return tuple(found[name] for name in results)

    return Stage


def _staged(graph: Graph, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a graph on named arrays; its derivatives are graphs too."""
    found = _stage(graph).apply(*(values[name] for name, _ in graph.inputs()))
    return dict(zip((name for name, _ in graph.outputs), found, strict=True))


class _Exact:
    """No autocast inside: emitted code chooses its own dtypes."""

    def __init__(self, device: str) -> None:
        self._autocast: Any = None
        if torch.is_autocast_enabled(device):
            self._autocast = torch.autocast(device, enabled=False)

    def __enter__(self) -> None:
        if self._autocast is not None:
            self._autocast.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._autocast is not None:
            self._autocast.__exit__(*error)


# --- one loss, prepared ----------------------------------------------------------------------------


class _Entry:
    """A loss with everything fixed but the arrays."""

    def __init__(self, token: str, spec: Spec, prepared: Plan) -> None:
        self.token = token
        self.spec = spec
        self.plan = prepared
        self.calls = prepared.calls
        self.names = tuple(name for name, _ in prepared.stable.inputs())
        self.real = tuple(
            prepared.stable.nodes[index].type.dtype == "real"
            for _, index in prepared.stable.inputs()
        )
        self.orders = _orders(prepared.stable)


_RECIPES: dict[str, tuple[Spec, Numbers, str | None, str | None]] = {}
_TOKENS: dict[tuple[Any, ...], str] = {}


def _recipe(spec: Spec, numbers: Numbers, reduction: str | None, normalizer: str | None) -> str:
    """A name for a loss with its settings; the same for equal ones."""
    key = (spec, tuple((n, type(v), v) for n, v in numbers), reduction, normalizer)
    token = _TOKENS.get(key)
    if token is None:
        token = _TOKENS[key] = f"r{len(_TOKENS)}"
        _RECIPES[token] = (spec, numbers, reduction, normalizer)
    return token


@_while_tracing
def _prepare(recipe: str, weighted: bool, masked: bool) -> str:
    """Plan a loss with these optional arguments; gives the name of its :class:`_Entry`."""
    token = f"{recipe}{'w' if weighted else ''}{'m' if masked else ''}"
    if not hasattr(_MADE, token):
        spec, numbers, reduction, normalizer = _RECIPES[recipe]
        options = Options(reduction, normalizer, weighted, masked)
        prepared = plan(spec, numbers, options, LOWERING.native)
        setattr(_MADE, token, _Entry(token, spec, prepared))
    return token


@_while_tracing
def _make(token: str, form: str, wrt: tuple[str, ...] = ()) -> str:
    """One of a loss's functions; ``form`` is plain, stage, saved or traced."""
    name = "_".join((token, form, *wrt))
    if not hasattr(_MADE, name):
        entry: _Entry = getattr(_MADE, token)
        makers: dict[str, Callable[[], Any]] = {
            "plain": lambda: _emitted(entry.plan.plain),
            "stage": lambda: _stage(entry.plan.stable),
            "saved": lambda: _saved(entry, wrt),
            "traced": lambda: _traced(entry, wrt),
        }
        setattr(_MADE, name, makers[form]())
    return name


def _value_and_gradients(entry: _Entry, wrt: tuple[str, ...]) -> tuple[Graph, bool]:
    """The graph to run in the forward, and whether it leaves a common factor to the backward."""
    scaled = entry.plan.scaled(wrt)
    return (entry.plan.fused(wrt), False) if scaled is None else (scaled, True)


_VIEWS = ("input", "broadcast", "rename", "stop_gradient", "attach_gradient", "flip", "const")


def _owned(graph: Graph, wrt: tuple[str, ...]) -> tuple[bool, ...]:
    """Which gradients are new tensors that nothing else reads after the forward."""
    outputs = [index for _, index in graph.outputs]
    shared = {a for i in outputs if graph.nodes[i].op in _VIEWS for a in graph.nodes[i].args}
    rows = [graph.output(f"gradient_{name}") for name in wrt]
    return tuple(
        graph.nodes[row].op not in _VIEWS and outputs.count(row) == 1 and row not in shared
        for row in rows
    )


def _spreader(entry: _Entry, name: str) -> Callable[[Tensor, int], Tensor]:
    """Brings the incoming gradient, of the value's axes, to an input's axes by name."""
    have, want = list(entry.plan.value_axes), list(entry.orders[name])
    if not have or have == want:
        return lambda upstream, rank: upstream

    def spread(upstream: Tensor, rank: int) -> Tensor:
        group = rank - len(want) + 1  # how many dimensions a group has, if there is one

        def dims(axes: list[str]) -> dict[str, list[int]]:
            found, at = {}, 0
            for axis in axes:
                width = group if is_star(axis) else 1
                found[axis] = list(range(at, at + width))
                at += width
            return found

        places = dims(have)
        order = [axis for axis in want if axis in have]
        upstream = upstream.permute([d for axis in order for d in places[axis]])
        for axis, at in dims(want).items():
            if axis not in have:
                for d in at:
                    upstream = upstream.unsqueeze(d)
        return upstream

    return spread


def _saved(entry: _Entry, wrt: tuple[str, ...]) -> type[torch.autograd.Function]:
    """Eager autograd: gradients computed with the value, scaled in the backward."""
    graph, scaled = _value_and_gradients(entry, wrt)
    run = _emitted(graph)
    names, stable = entry.names, entry.plan.stable
    places = [names.index(name) for name in wrt]
    spreads = [_spreader(entry, name) for name in wrt]
    owned = _owned(graph, wrt)
    order = [name for name, _ in graph.inputs()]
    picks = None if order == list(names) else [names.index(name) for name in order]
    outputs = [name for name, _ in graph.outputs]
    value_at = outputs.index("value")
    rest_at = [outputs.index(f"gradient_{name}") for name in wrt]
    if scaled:
        rest_at.append(outputs.index("scale"))

    class Saved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arrays: Tensor) -> Tensor:
            with _Exact(arrays[0].device.type):
                found = run(*(arrays if picks is None else [arrays[k] for k in picks]))
            ctx.save_for_backward(*arrays, *(found[k] for k in rest_at))
            return found[value_at]

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
            arrays, rest = ctx.saved_tensors[: len(names)], ctx.saved_tensors[len(names) :]
            result: list[Tensor | None] = [None] * len(names)
            if torch.is_grad_enabled():  # for a second derivative: by the formula
                values = {**dict(zip(names, arrays, strict=True)), "upstream_value": upstream}
                wanted = tuple(n for n, k in zip(wrt, places, strict=True)
                               if ctx.needs_input_grad[k])
                found = _staged(_pulled(stable, wanted, ("value",)), values)
                return tuple(found.get(f"gradient_{name}") for name in names)
            last = not _keeps_graph() and not _transforming()
            if scaled:
                upstream = upstream * rest[-1]
            for k, spread, mine, saved in zip(places, spreads, owned, rest, strict=False):
                if ctx.needs_input_grad[k]:
                    factor = spread(upstream, saved.ndim)
                    result[k] = saved.mul_(factor) if last and mine else saved * factor
            return tuple(result)

    return Saved


def _traced(entry: _Entry, wrt: tuple[str, ...]) -> type[torch.autograd.Function]:
    """Under torch.compile: one function forward, and a backward without any choice in it."""
    names = entry.names
    slots = tuple(wrt.index(name) if name in wrt else -1 for name in names)
    count = len(names)
    if not entry.plan.separable(wrt):
        pulled = _pulled(entry.plan.stable, wrt, ("value",))
        plain, back = _emitted(entry.plan.plain), _emitted(pulled)
        picks = tuple((*names, "upstream_value").index(name) for name, _ in pulled.inputs())

        class Pulled(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *arrays: Tensor) -> Tensor:
                ctx.save_for_backward(*arrays)
                return plain(*arrays)[0]

            @staticmethod
            def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
                given = (*ctx.saved_tensors, upstream)
                found = back(*[given[k] for k in picks])
                return tuple([None if k < 0 else found[k] for k in slots])

        return Pulled

    graph, scaled = _value_and_gradients(entry, wrt)
    run = _emitted(graph)
    arranged = tuple(names.index(name) for name, _ in graph.inputs())
    outputs = [name for name, _ in graph.outputs]
    value_at = outputs.index("value")
    kept = tuple(outputs.index(f"gradient_{name}") for name in wrt)
    kept += (outputs.index("scale"),) if scaled else ()
    spreads = tuple(_spreader(entry, name) for name in wrt)

    class Traced(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arrays: Tensor) -> Tensor:
            found = run(*[arrays[k] for k in arranged])
            ctx.save_for_backward(*[found[k] for k in kept])
            return found[value_at]

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors
            factor = upstream * saved[-1] if scaled else upstream
            result: list[Tensor | None] = [None] * count
            for at, k in enumerate(slots):
                if k >= 0:
                    result[at] = saved[k] * spreads[k](factor, saved[k].ndim)
            return tuple(result)

    return Traced


def _fused(entry: _Entry, arrays: Sequence[Tensor]) -> Tensor:
    """The value, behind the function that fits who may ask for derivatives."""
    token = entry.token
    wrt: tuple[str, ...] = ()
    if torch.is_grad_enabled():
        wrt = tuple([n for n, r, a in zip(entry.names, entry.real, arrays, strict=True)
                     if r and a.requires_grad])
    if _transforming() or forward_ad._current_level >= 0:
        stage = getattr(_MADE, _make(token, "stage"))
        return stage.apply(*arrays)[0]  # type: ignore[no-any-return]
    if torch.compiler.is_compiling():
        if wrt:
            function = getattr(_MADE, _make(token, "traced", wrt))
            return function.apply(*arrays)  # type: ignore[no-any-return]
        return getattr(_MADE, _make(token, "plain"))(*arrays)[0]  # type: ignore[no-any-return]
    if not wrt:
        with _Exact(arrays[0].device.type):
            return getattr(_MADE, _make(token, "plain"))(*arrays)[0]  # type: ignore[no-any-return]
    if not entry.plan.separable(wrt):
        return getattr(_MADE, _make(token, "stage")).apply(*arrays)[0]  # type: ignore[no-any-return]
    return getattr(_MADE, _make(token, "saved", wrt)).apply(*arrays)  # type: ignore[no-any-return]


# --- one evaluation: ports and used losses first, then the fused function --------------------------


class _Run:
    """One call's arrays by name, and what its ports returned."""

    def __init__(self, name: str, values: dict[str, Tensor], ports: Mapping[str, Any],
                 lengths: Mapping[str, Sequence[int | None]], compute: torch.dtype,
                 seen: torch.dtype) -> None:
        self.name = name
        self.values = values
        self.ports = ports
        self.lengths = lengths
        self.compute = compute
        self.seen = seen  # the dtype in which ports are given what was computed
        self.maps: dict[str, list[int]] = {}

    def __call__(self, token: str) -> Tensor:
        entry: _Entry = getattr(_MADE, token)
        for call in entry.calls:
            self.values[call.name] = self._outside(entry.spec, call)
        arrays = [self.values[name] for name in entry.names]
        return _fused(entry, [
            a.to(self.compute) if real else a for real, a in zip(entry.real, arrays, strict=True)
        ])

    def _outside(self, spec: Spec, call: PortCall) -> Tensor:
        device = next(iter(self.values.values())).device
        if call.op == "segments":
            sizes = torch.tensor(self.maps[call.port], device=device)
            return torch.repeat_interleave(sizes)
        if call.op == "map_sizes":
            return torch.tensor(self.maps[call.port], dtype=self.compute, device=device)
        if call.op == "use":
            return self._use(spec, call)
        function = self.ports[call.port]
        for position in call.wrt:
            function = _slope(function, position)
        result = function(*self._given(call, self.seen))
        output = spec.ports[call.port].output
        if output.name == "maps" and call.op == "apply":
            return self._joined(call, result)
        if call.op == "apply":
            self._check_port(call, port_axes(spec.ports[call.port]), result)
        return result  # type: ignore[no-any-return]

    def _use(self, spec: Spec, call: PortCall) -> Tensor:
        """The value of another loss, by a fused function of its own."""
        used = spec.uses[call.port]
        given = dict(zip(call.keys, self._given(call, self.compute), strict=True))
        missing = tuple((k, p.value) for k, p in used.params.items()
                        if k not in given and k not in dict(call.numbers) and p.value is not None)
        recipe = _recipe(used, (*call.numbers, *missing), None, None)
        inner = _Run(self.name, given, self.ports, self.lengths, self.compute, self.seen)
        return inner(_prepare(recipe, False, False))

    def _given(self, call: PortCall, dtype: torch.dtype) -> list[Tensor]:
        if call.passed is not None:
            return [self.values[name] for name in call.passed]
        graph = _polished(call.arguments)
        values = {
            name: x.to(self.compute) if x.is_floating_point() else x
            for name, x in self.values.items()
        }
        found = _staged(graph, values)
        given = [found[f"port_arg_{k}"] for k in range(len(found))]
        return [x.to(dtype) if x.is_floating_point() else x for x in given]

    def _check_port(self, call: PortCall, axes: Sequence[str], result: Any) -> None:
        if not isinstance(result, Tensor):
            raise DTypeError(f"{self.name}: {call.port} returned {shown(type(result).__name__)}, "
                             "but its result is a tensor")
        if not all(axis in self.lengths for axis in axes):
            return
        wanted = tuple(n for axis in axes for n in self.lengths[axis])
        if tuple(result.shape) != wanted:
            raise ShapeError(
                f"{self.name}: {call.port} returned shape {tuple(result.shape)}, but its result is "
                f"[{', '.join(axes)}], here {wanted}; let it return result.reshape({wanted})"
            )

    def _joined(self, call: PortCall, result: Any) -> Tensor:
        """Feature maps as one tensor, each flattened behind the batch."""
        maps = list(result) if isinstance(result, list | tuple) else [result]
        batch = maps[0].shape[0] if maps and maps[0].ndim else None
        if batch is None or any(m.ndim < 1 or m.shape[0] != batch for m in maps):
            raise ShapeError(
                f"{self.name}: {call.port} returned maps of shapes "
                f"{listed(str(tuple(m.shape)) for m in maps)}; each begins with the same batch"
            )
        sizes = [m[0].numel() if batch else m.flatten(1).shape[1] for m in maps]
        known = self.maps.setdefault(call.port, sizes)
        if known != sizes:
            raise ShapeError(
                f"{self.name}: {call.port} returned maps of {known} elements for one input and "
                f"{sizes} for the other; give inputs of one shape"
            )
        return torch.cat([m.flatten(1) if m.ndim > 1 else m.unsqueeze(1) for m in maps], 1)


def _slope(function: Callable[..., Any], position: int) -> Callable[..., Any]:
    """The derivative of the sum of a function's value in one of its arguments."""

    def slope(*xs: Tensor) -> Tensor:
        if _transforming() or torch.compiler.is_compiling():
            gradient = torch.func.grad(lambda *a: function(*a).sum(), argnums=position)
            return gradient(*xs)  # type: ignore[no-any-return]
        # Not torch.func.grad: it refuses the buffers that a BatchNorm in training moves.
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            x = xs[position]
            x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            summed = function(*xs[:position], x, *xs[position + 1 :]).sum()
            if not summed.requires_grad:
                return torch.zeros_like(x, requires_grad=False)
            (found,) = torch.autograd.grad(summed, x, create_graph=True, materialize_grads=True)
        return found if wanted else found.detach()

    return slope


# --- the module ------------------------------------------------------------------------------------


class _Facts:
    """What a call needs to know of one of the losses behind a class: plain data, for Dynamo."""

    def __init__(self, spec: Spec, numbers: Numbers) -> None:
        self.kinds: dict[str, Kind] = dict(spec.inputs)
        self.inputs = tuple(spec.inputs)
        self.dtypes = tuple(kind.dtype for kind in spec.inputs.values())
        self.moved = tuple(
            None if frontdoor.moved_axis(kind) is None else kind.axes[1] == frontdoor.CLASS_AXIS
            for kind in spec.inputs.values()
        )
        self.axes = tuple(kind.axes for kind in spec.inputs.values())
        self.first = next((n for n, k in spec.inputs.items() if k.dtype == "real"), None)
        self.alike = len(set(self.axes)) == 1 and len(self.axes[0]) == 1 and is_star(
            self.axes[0][0])
        self.weights = tuple(spec.weights)
        self.params = {name: p.kind.axes for name, p in spec.params.items()}
        self.ports = tuple(spec.ports)
        self.step = spec.step
        self.least = (torch.float64 if spec.numerics.compute == "at_least_float64"
                      else torch.float32)
        ignored = dict(numbers).get("ignore_index")
        self.labels = tuple((n, k.of) for n, k in spec.inputs.items() if k.name == "index")
        self.ignored = ignored
        self.index = index_axes(spec)
        self.tree = any(kind.name == "tree" for kind in spec.inputs.values())


class _Meta(type):
    """Signature and documentation when somebody asks: both need the loss traced."""

    form: Form | None

    @property
    def __signature__(cls) -> inspect.Signature | None:
        form = cls.__dict__.get("form")
        return None if form is None else frontdoor.signature(form)

    @property
    def __doc__(cls) -> str | None:  # type: ignore[override]
        form = cls.__dict__.get("form")
        return cls.__dict__.get("_doc") if form is None else frontdoor.docstring(form, "torch")


class Loss(nn.Module, metaclass=_Meta):
    """A loss: ``loss(input, target, *, sample_weight=None, mask=None, ...)``."""

    _doc = "A loss: ``loss(input, target, *, sample_weight=None, mask=None, ...)``."
    form: Form | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        form = type(self).form
        if form is None:
            raise ArgumentError("Loss has no meaning of its own; write L.compile(spec)")
        self._settle(form, _settings(form, args, kwargs))

    # --- settings
    def _settle(self, source: Any, settings: Mapping[str, Any]) -> None:
        self._adopt(frontdoor.bind(source, "torch", _plain(settings)))

    def _adopt(self, bound: Bound) -> None:
        """Take over a bound loss: its arrays become buffers, its weights parameters."""
        form = bound.form
        for name, param in form.params.items():
            given = bound.arrays.get(name)
            if given is not None:
                self._buffers.pop(name, None)
                self.register_buffer(name, torch.as_tensor(given).detach())
            elif param.kind.axes and name not in dict(bound.numbers[0]):
                self.register_buffer(name, None)
        for spec in bound.specs:
            for name, weight in spec.weights.items():
                if name not in self._parameters:
                    shape = [
                        bound.sizes[s] if isinstance(s, str) else s
                        for s in (weight.sizes[axis] for axis in weight.kind.axes)
                    ]
                    self.register_parameter(name, nn.Parameter(_initial(weight.init, shape)))
            if spec.step and "step" not in self._buffers:
                self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._refresh(bound)

    def _refresh(self, bound: Bound) -> None:
        set_ = object.__setattr__
        set_(self, "bound", bound)
        set_(self, "_facts", tuple(
            _Facts(s, n) for s, n in zip(bound.specs, bound.numbers, strict=True)))
        set_(self, "_recipes", tuple(
            _recipe(s, n, bound.reduction, bound.normalizer)
            for s, n in zip(bound.specs, bound.numbers, strict=True)
        ))
        set_(self, "_keys", _call_names(bound))
        set_(self, "_numbers", {n: v for ns in bound.numbers for n, v in ns})

    def __getattr__(self, name: str) -> Any:
        numbers = self.__dict__.get("_numbers")
        if numbers is not None:
            if name in numbers:
                return numbers[name]
            if name in ("reduction", "normalizer", "axis"):
                return getattr(self.__dict__["bound"], name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        bound = self.__dict__.get("bound")
        if bound is not None and name not in self._buffers and (
            name in bound.form.params or name in ("reduction", "normalizer", "axis", "empty")
        ):
            self._settle(bound.form, {**self._given(), name: value})
            return
        super().__setattr__(name, value)

    def _given(self) -> dict[str, Any]:
        """The constructor's arguments, arrays as they are now."""
        bound = self.bound
        return {**bound.given, **{name: self._buffers[name] for name in bound.arrays}}

    def __getstate__(self) -> dict[str, Any]:
        """Functions are made again where the module is loaded, and a specification is its text."""
        state = {k: v for k, v in self.__dict__.items() if k not in _DERIVED}
        bound = self.bound
        state["_settings"] = {k: v for k, v in bound.given.items() if k not in bound.arrays}
        state["_arrays"] = tuple(bound.arrays)
        if type(self).form is None:
            state["_spec"] = dumps(bound.specs[0])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        settings, arrays = state.pop("_settings"), state.pop("_arrays")
        text = state.pop("_spec", None)
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        source: Any = loads(text) if text is not None else type(self).form
        given = {**settings, **{name: self._buffers[name] for name in arrays}}
        self._refresh(frontdoor.bind(source, "torch", given))

    def _with(self, **settings: Any) -> Loss:
        """The same loss with other settings, sharing parameters and buffers."""
        other: Loss = type(self).__new__(type(self))
        other.__dict__ = {k: v for k, v in self.__dict__.items() if k not in _DERIVED}
        other._refresh(frontdoor.bind(self.bound.form, "torch", {**self._given(), **settings}))
        return other

    def extra_repr(self) -> str:
        bound = self.bound
        parts = [f"{name}={value}" for name, value in bound.sizes.items()]
        for name in bound.form.params:
            if name in bound.arrays:
                x = self._buffers[name]
                assert x is not None
                short = x.numel() <= 16 and x.device.type != "meta"
                parts.append(f"{name}={x.tolist() if short else f'<{tuple(x.shape)}>'}")
            elif name in self._numbers:
                parts.append(f"{name}={self._numbers[name]!r}")
        parts += [f"reduction={bound.reduction!r}", f"normalizer={bound.normalizer!r}"]
        if bound.axis is not None:
            parts.append(f"axis={bound.axis}")
        if bound.given.get("empty") is not None:
            parts.append(f"empty={bound.given['empty']!r}")
        return ", ".join(parts)

    def _get_name(self) -> str:
        return self.bound.form.name

    @property
    def spec(self) -> Spec:
        """The definition, as data; of several (chosen by the inputs' dtypes) the first."""
        return self.bound.specs[0]

    @property
    def source(self) -> str:
        """The function that a training step runs: value and gradient, as stand-alone Python."""
        entry: _Entry = getattr(_MADE, _prepare(self._recipes[0], False, False))
        wrt = [n for n in entry.plan.differentiable if n in self.spec.inputs]
        wrt = (wrt or list(entry.plan.differentiable))[:1]
        graph = _value_and_gradients(entry, tuple(wrt))[0] if wrt else entry.plan.plain
        return stand_alone(emit(graph, LOWERING, self.spec.name), LOWERING)

    def advance(self, steps: int = 1) -> None:
        """Move the schedule; a call alone never does."""
        if "step" not in self._buffers:
            raise UnsupportedError(f"{self._get_name()} has no schedule to advance")
        self.step += steps

    # --- the call
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._evaluate(args, kwargs)

    def _evaluate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        keys = self._keys
        given: dict[str, Any] = dict(zip(keys.order, args))
        for key, value in kwargs.items():
            name = keys.names.get(key)
            if name is None or name in given:
                self._complain(args, kwargs)
            given[name] = value
        for name in keys.needed:
            if name not in given:
                self._complain(args, kwargs)
        if len(args) > len(keys.order) or (
            not keys.counted and given.get("normalizer_count") is not None
        ) or (not keys.stepped and given.get("step") is not None):
            self._complain(args, kwargs)
        which = 0
        if len(self._facts) > 1:
            which = self.bound.select(_dtype_kinds(self._facts, given))
        facts = self._facts[which]
        if facts.tree:
            return self._over_tree(given)
        return self._compute(facts, which, given)

    def _compute(self, facts: _Facts, which: int, given: dict[str, Any]) -> Tensor:
        values: dict[str, Tensor] = {}
        for k, name in enumerate(facts.inputs):
            values[name] = self._input(facts, k, name, given[keys_of(self, k)])
        for name in facts.weights:
            values[name] = self._parameters[name]  # type: ignore[assignment]
        lengths = self._lengths(facts, which, values)
        compute = facts.least
        for name in (*facts.inputs, *facts.weights):
            x = values[name]
            if x.is_floating_point() and x.dtype != compute:
                compute = torch.promote_types(compute, x.dtype)
        first = values[facts.first] if facts.first else next(iter(values.values()))
        seen = first.dtype if first.is_floating_point() else compute
        out = compute if torch.is_autocast_enabled(first.device.type) else seen
        for name, axes in facts.params.items():
            buffer = self._buffers.get(name)
            if buffer is not None:
                values[name] = _hyperparameter(self, name, axes, buffer, lengths)
        weight, mask = given.get("sample_weight"), given.get("mask")
        if weight is not None:
            values["sample_weight"] = self._per_value("sample_weight", weight, facts, lengths)
        if mask is not None:
            selected = self._per_value("mask", mask, facts, lengths)
            values["mask"] = selected if selected.dtype == torch.bool else selected != 0
        if given.get("normalizer_count") is not None:
            values["normalizer_count"] = _scalar(
                self, "normalizer_count", given["normalizer_count"], first, compute)
        if facts.step:
            step = given.get("step")
            values["step"] = _scalar(self, "step", self.step if step is None else step, first,
                                     compute)
        if facts.labels:
            self._check_labels(facts, values, lengths)
        token = _prepare(self._recipes[which], weight is not None, mask is not None)
        ports = {name: given[name] for name in facts.ports}
        run = _Run(self._get_name(), values, ports, lengths, compute, seen)
        return run(token).to(out)

    def _complain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        """Say what is wrong with a call."""
        frontdoor.bind_call(self.bound, "torch", args, kwargs)
        raise ArgumentError(
            f"{self._get_name()}: write {frontdoor.call_text(self.spec, 'torch')}"
        )

    def _input(self, facts: _Facts, k: int, name: str, x: Any) -> Tensor:
        """A tensor of the dtype kind that is wanted, its class axis last."""
        wanted = facts.dtypes[k]
        if not isinstance(x, Tensor):
            x = _as_tensor(self._get_name(), name, facts.kinds[name], x)
        if wanted == "int":
            if x.dtype != torch.int64:
                if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
                    _refuse_dtype(self, name, facts.kinds[name], x, "long()")
                x = x.long()
        elif wanted == "real":
            if not x.is_floating_point():
                if x.is_complex() or name == facts.first:
                    _refuse_dtype(self, name, facts.kinds[name], x, "float()")
                x = x.to(torch.float32)  # such as labels 0 and 1; exact up to 2**24
        elif x.dtype != torch.bool:
            x = x != 0
        classes = facts.moved[k]
        if classes is not None and x.ndim > 1:
            axis = self.bound.axis
            if axis is None:
                axis = 1 if classes else -1
            if not -x.ndim <= axis < x.ndim:
                raise ShapeError(f"{self._get_name()}: axis={axis} was given, but {name} has shape "
                                 f"{tuple(x.shape)}")
            if axis not in (-1, x.ndim - 1):
                x = x.movedim(axis, -1)
        return x

    def _lengths(
        self, facts: _Facts, which: int, values: Mapping[str, Tensor]
    ) -> dict[str, tuple[int | None, ...]]:
        """The length of every named axis, or an error that names the two that disagree."""
        if facts.alike:
            shape = values[facts.inputs[0]].shape
            same = True
            for name in facts.inputs:
                same = same and values[name].shape == shape
            if same:
                return {facts.axes[0][0]: tuple(shape)}
        kinds = {**facts.kinds, **{n: w.kind for n, w in self.bound.specs[which].weights.items()}}
        shapes = {name: tuple(values[name].shape) for name in kinds}
        return frontdoor.axis_lengths(kinds, shapes, self._get_name())

    def _per_value(
        self, what: str, given: Any, facts: _Facts, lengths: Mapping[str, Sequence[int | None]]
    ) -> Tensor:
        """A weight or mask, repeated to one entry for each value of the loss."""
        x = given if isinstance(given, Tensor) else torch.as_tensor(given)
        if what == "sample_weight" and not x.is_floating_point():
            x = x.to(torch.float32)
        index = tuple([n for axis in facts.index for n in lengths[axis]])
        if tuple(x.shape) == index:
            return x
        shape = frontdoor.aligned_shape(self._get_name(), what, tuple(x.shape), index)
        return x.reshape(shape).expand(index)  # type: ignore[arg-type]

    def _check_labels(
        self, facts: _Facts, values: Mapping[str, Tensor],
        lengths: Mapping[str, Sequence[int | None]],
    ) -> None:
        """Refuse labels that name no class, where looking costs no synchronisation."""
        if torch.compiler.is_compiling():
            return
        for name, axis in facts.labels:
            labels = values[name]
            # Subclasses are fake tensors, functional tensors and the like: nothing to look at.
            if type(labels) is not Tensor or labels.device.type != "cpu" or _transforming():
                continue
            assert axis is not None
            size = lengths[axis][0]
            if not labels.numel() or size is None:
                continue
            low, high = labels.aminmax()
            if low.item() >= 0 and high.item() < size:
                continue
            wrong = (labels < 0) | (labels >= size)
            if facts.ignored is not None:
                wrong &= labels != facts.ignored
            mask = values.get("mask")
            if mask is not None and mask.shape == wrong.shape:
                wrong &= mask
            if wrong.any():
                at = wrong.nonzero()[0].tolist()
                ignore = "" if facts.ignored is None else f" or is ignore_index={facts.ignored}"
                raise DomainError(
                    f"{self._get_name()}: {name} is {facts.kinds[name]}, so it lies from 0 to "
                    f"{size - 1}{ignore}; {labels[wrong][0].item()} was given, at {at}"
                )

    def _over_tree(self, given: dict[str, Any]) -> Any:
        """A penalty on parameters: over all leaves of a module or a collection."""
        bound, name = self.bound, self._get_name()
        if given.get("sample_weight") is not None or given.get("mask") is not None:
            raise UnsupportedError(f"{name} runs over parameters, which have no samples to weigh "
                                   "or mask; pass the parameters that count")
        key = self._facts[0].inputs[0]
        leaves = _leaves(name, given[keys_of(self, 0)])
        out = torch.float32
        for k, leaf in enumerate(leaves):
            if not leaf.is_floating_point():
                raise DTypeError(f"{name}: a leaf of {key} is {leaf.dtype}; pass the trainable "
                                 "parameters only")
            out = leaf.dtype if k == 0 else torch.promote_types(out, leaf.dtype)
        compute = torch.promote_types(out, self._facts[0].least)
        if torch.is_autocast_enabled(leaves[0].device.type if leaves else "cpu"):
            out = compute
        recipe, count = self._recipes[0], given.get("normalizer_count")
        if bound.reduction == "mean" and bound.normalizer != "external":
            if bound.normalizer != "elements":
                raise UnsupportedError(f"{name} runs over parameters; divide by 'elements' or "
                                       "'external'")
            recipe = _recipe(bound.specs[0], bound.numbers[0], "mean", "external")
            count = sum(leaf.numel() for leaf in leaves)
        token = _prepare(recipe, False, False)
        parts = []
        for leaf in leaves:
            values = {key: leaf}
            for param, buffer in self._buffers.items():
                if buffer is not None:
                    values[param] = buffer
            if count is not None:
                values["normalizer_count"] = _scalar(self, "normalizer_count", count, leaf, compute)
            parts.append(_Run(name, values, {}, {}, compute, leaf.dtype)(token))
        if bound.reduction == "none":
            return [part.to(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
        if not parts:
            return torch.zeros((), dtype=out)
        result = parts[0]
        for part in parts[1:]:
            result = result + part.to(result.device)
        return result.to(out)


_DERIVED = frozenset({"bound", "_facts", "_recipes", "_keys", "_numbers"})


class _CallNames:
    """The names that a call may use, for each what it stands for."""

    def __init__(self, order: tuple[str, ...], names: dict[str, str], needed: tuple[str, ...],
                 counted: bool, stepped: bool) -> None:
        self.order = order
        self.names = names
        self.needed = needed
        self.counted = counted
        self.stepped = stepped


def _call_names(bound: Bound) -> _CallNames:
    """As :func:`frontdoor.bind_call` reads a call, but as plain tables that Dynamo can follow."""
    spec = bound.specs[0]
    inputs = tuple(spec.inputs)
    names: dict[str, str] = {}
    for alias, name in zip(frontdoor.ALIASES["torch"], inputs, strict=False):
        names[alias] = name
    for other in bound.specs:
        names.update(zip(other.inputs, inputs, strict=True))
    names.update((name, name) for name in (*inputs, *spec.ports, *frontdoor.CALL_KEYWORDS))
    counted = bound.reduction == "mean" and bound.normalizer == "external"
    needed = (*inputs, *spec.ports, *(("normalizer_count",) if counted else ()))
    return _CallNames(frontdoor.positional_order(spec, "torch"), names, needed, counted, spec.step)


def keys_of(loss: Loss, position: int) -> str:
    """The name under which a call holds the input at this position."""
    return loss._facts[0].inputs[position]


def _dtype_kinds(facts: Sequence[_Facts], given: Mapping[str, Any]) -> dict[str, str]:
    """The dtype kind of each input, under every name that one of the losses gives it."""
    found: dict[str, str] = {}
    for k, name in enumerate(facts[0].inputs):
        x = given[name]
        if isinstance(x, Tensor):
            kind = "real" if x.is_floating_point() else (
                "bool" if x.dtype == torch.bool else "int")
            for one in facts:
                found[one.inputs[k]] = kind
    return found


def _settings(form: Form, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments by name."""
    settings = dict(kwargs)
    if not args:
        return settings
    names = [
        p.name for p in frontdoor.signature(form).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if len(args) > len(names):
        raise ArgumentError(
            f"{form.name} takes at most {len(names)} positional arguments ({listed(names)}), but "
            f"{len(args)} were given"
        )
    for name, value in zip(names, args, strict=False):
        if name in settings:
            raise ArgumentError(f"{form.name} was given {name} twice, by position and by name")
        settings[name] = value
    return settings


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One-element tensors for parameters stay tensors; lists become tensors."""
    return {
        name: torch.tensor(value, dtype=torch.get_default_dtype())
        if isinstance(value, list | tuple) and name not in ("schedules",)
        else value
        for name, value in settings.items()
    }


def _initial(rule: str | float, shape: Sequence[int]) -> Tensor:
    """A trainable weight's starting value."""
    if not isinstance(rule, str):
        return torch.full(tuple(shape), float(rule))
    x = torch.empty(tuple(shape))
    fill: dict[str, Callable[[Tensor], Tensor]] = {
        "zeros": nn.init.zeros_, "ones": nn.init.ones_, "normal": nn.init.normal_,
        "uniform": nn.init.uniform_, "glorot_normal": nn.init.xavier_normal_,
        "glorot_uniform": nn.init.xavier_uniform_,
    }
    return fill[rule](x)


def _as_tensor(loss: str, name: str, kind: Kind, given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DTypeError(
            f"{loss}: {name} is {kind}, a tensor, but {shown(type(given).__name__)} was given"
        ) from error


def _refuse_dtype(loss: Loss, name: str, kind: Kind, x: Tensor, call: str) -> NoReturn:
    raise DTypeError(
        f"{loss._get_name()}: {name} is {kind}, but {x.dtype} was given; pass {name}.{call}"
    )


def _scalar(loss: Loss, what: str, given: Any, like: Tensor, dtype: torch.dtype) -> Tensor:
    if not isinstance(given, Tensor):
        return torch.full((), given, dtype=dtype, device=like.device)
    if given.ndim != 0:
        raise ShapeError(f"{loss._get_name()}: {what} is a single number, but its shape is "
                         f"{tuple(given.shape)}")
    return given.to(like.device)


def _hyperparameter(
    loss: Loss, name: str, axes: tuple[str, ...], x: Tensor,
    lengths: Mapping[str, Sequence[int | None]],
) -> Tensor:
    """An array hyperparameter, repeated along the axes of its kind; those broadcast as in NumPy."""
    if not all(axis in lengths for axis in axes):
        return x
    wanted = tuple([n for axis in axes for n in lengths[axis]])
    if tuple(x.shape) == wanted:
        return x
    fits = x.ndim <= len(wanted)
    for have, want in zip(tuple(x.shape)[::-1], wanted[::-1], strict=False):
        fits = fits and have in (1, want)
    if not fits:
        raise ShapeError(
            f"{loss._get_name()}: {name} runs over [{', '.join(axes)}], here {wanted}, but its "
            f"shape is {tuple(x.shape)}"
        )
    return x.expand(wanted)  # type: ignore[arg-type]


def _leaves(loss: str, tree: Any) -> list[Tensor]:
    """The tensors of a module, a mapping, or an iterable of tensors or (name, tensor) pairs."""
    if isinstance(tree, nn.Module):
        return list(tree.parameters())
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in _leaves(loss, value)]
    if isinstance(tree, Iterable) and not isinstance(tree, str | bytes):
        found: list[Tensor] = []
        for item in tree:
            pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
            found += _leaves(loss, item[1] if pair else item)
        return found
    raise ArgumentError(
        f"{loss} takes a module, its parameters() or named_parameters(), or a tree of tensors, but "
        f"{shown(type(tree).__name__)} was given; write loss(model)"
    )


# --- making classes and instances ------------------------------------------------------------------


def _own_forward(name: str) -> Callable[..., Any]:
    """``forward`` with a code object of its own.

    Dynamo counts recompilations by code object: with a shared one, the ninth loss that a program
    compiles would fail.
    """
    function = Loss.forward
    code = function.__code__.replace(co_name=f"forward_{name}", co_qualname=f"{name}.forward")
    return types.FunctionType(code, function.__globals__, "forward", None, function.__closure__)


def class_of(form: Form) -> type[Loss]:
    """The public class of a loss."""
    return _Meta(form.name, (Loss,), {
        "__module__": MODULE, "__qualname__": form.name, "form": form,
        "forward": _own_forward(form.name),
    })


class Compiled(Loss):
    """An instance made from a specification; its class has no constructor of its own."""

    _doc = "An instance made from a specification, by ``compile``."

    def __init__(self, bound: Bound) -> None:
        nn.Module.__init__(self)
        self._adopt(bound)


def compile(source: Any, **params: Any) -> Loss:
    """An instance of any loss: a specification, a defined function, or a path to a file."""
    return Compiled(frontdoor.bind(source, "torch", _plain(params)))


@functools.cache
def _values_themselves() -> Spec:
    return loads(b'{"lossbridge": 1, "loss": "lossbridge/values@1", '
                 b'"inputs": {"values": "real[*batch]"}, "body": ["value = values"]}')


def reduce(
    values: Tensor,
    *,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    denominator: str | float | Tensor | None = None,
) -> Tensor:
    """The mean of unreduced values, as every loss here takes it.

    ``mask`` selects; ``weights`` multiply, and enter the divisor only with
    ``denominator="weights"``; ``denominator`` is a normaliser's name or a number.
    """
    named = denominator is None or isinstance(denominator, str)
    loss = compile(_values_themselves(), reduction="mean",
                   normalizer=(denominator or "elements") if named else "external")
    count = None if named else denominator
    result: Tensor = loss(values, mask=mask, sample_weight=weights, normalizer_count=count)
    return result


def as_hf(loss: Loss, shift_labels: bool = False) -> Callable[..., Any]:
    """A function ``f(outputs, labels, num_items_in_batch=None)`` as transformers' Trainer calls it.

    The class axis is the last one there. ``shift_labels`` pairs each position's logits with the
    next position's label.
    """
    settings: dict[str, Any] = {"reduction": "mean"}
    if loss.bound.form.has_axis and loss.bound.axis is None:
        settings["axis"] = -1
    own = loss._with(**settings)
    counted = loss._with(**settings, normalizer="external")

    def hf_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs["logits"] if isinstance(outputs, Mapping) else (
            getattr(outputs, "logits", outputs))
        if shift_labels:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        if num_items_in_batch is None:
            result: Tensor = own(logits, labels)
        else:
            result = counted(logits, labels, normalizer_count=num_items_in_batch)
        return result

    return hf_loss
