"""From a specification to the graphs that a backend runs.

``plan`` binds static parameters, appends the reduction, runs the passes and derives the forms that
a platform may ask for: the value alone, the value with the gradients of unit incoming gradient (one
graph, sharing subexpressions), the gradients of any incoming gradient, and the tangent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from lossbridge import ops
from lossbridge.checks import NORMALIZERS, REDUCTIONS
from lossbridge.divisors import DIVISORS
from lossbridge.errors import ArgumentError
from lossbridge.ir import (
    OUTSIDE,
    Builder,
    Expr,
    Graph,
    Type,
    const_value,
    grounded,
    inline,
    is_const,
    restrict,
    source_axis,
)
from lossbridge.passes.canonicalise import bind, canonicalise
from lossbridge.passes.differentiate import differentiate, push_forward
from lossbridge.passes.enclose import enclose, enclosed
from lossbridge.passes.guard import guard
from lossbridge.passes.legalise import legalise
from lossbridge.passes.stabilise import stabilise
from lossbridge.spec import Spec
from lossbridge.trace import build_graph
from lossbridge.verify import verify

Numbers = tuple[tuple[str, float | int | bool], ...]


@dataclass(frozen=True)
class Options:
    """What a call decides: the reduction, and which optional arguments it brings."""

    reduction: str | None = None
    normalizer: str | None = None
    sample_weight: bool = False
    mask: bool = False
    unread: bool = False
    """Whether nobody has looked at the values: what is outside its domain then makes NaN."""


@lru_cache(maxsize=1024)
def spec_graph(spec: Spec) -> Graph:
    """The graph of a specification as written, verified."""
    return verify(build_graph(spec))


def index_axes(spec: Spec) -> tuple[str, ...]:
    """The axes of the unreduced value: what sample weights and masks run over."""
    graph = spec_graph(spec)
    return graph.nodes[graph.output("value")].type.axes


@lru_cache(maxsize=1024)
def index_sources(spec: Spec) -> tuple[str, ...]:
    """For each axis of the unreduced value, that axis of an input which has its length.

    Another one only where an axis was renamed, as in a loss of all pairs of a batch.
    """
    graph = spec_graph(spec)
    row = graph.output("value")
    return tuple(source_axis(graph.nodes, row, axis) for axis in index_axes(spec))


def enclosed_inputs(spec: Spec, numbers: Numbers = ()) -> tuple[str, ...]:
    """The inputs that have to lie in the domain of their kind: see :mod:`passes.enclose`."""
    if spec.numerics.outside is not None:
        return ()
    found = enclosed(spec_graph(spec), numbers)
    return tuple(name for name in found if name in spec.inputs)


def needed_options(spec: Spec, numbers: Numbers, options: Options) -> Options:
    """The options that give the same plan: nothing shows of values where no domain binds."""
    if options.unread and not enclosed_inputs(spec, numbers):
        return replace(options, unread=False)
    return options


def reduced_graph(
    spec: Spec, options: Options, *, parts: bool = False, numbers: Numbers = ()
) -> Graph:
    """The graph as written with its reduction appended; outputs ``value`` only, or with ``parts``
    also the ``total`` and the ``scale``: the gradient is that of the total, times the scale.

    A mean divides by what :data:`~lossbridge.divisors.DIVISORS` says of its normaliser. Where that
    is 0 the value is what the specification calls ``empty``, and every derivative is 0: nothing
    was to be learnt.

    The numerator is always the sum of w times the value over the selected ones.
    """
    kind = options.reduction or spec.reduction.kind
    normalizer = options.normalizer or spec.reduction.normalizer
    if kind not in REDUCTIONS:
        raise ArgumentError(
            f"reduction={kind!r} was given; it is one of {', '.join(map(repr, REDUCTIONS))}"
        )
    if normalizer not in NORMALIZERS:
        raise ArgumentError(
            f"normalizer={normalizer!r} was given; it is one of {', '.join(map(repr, NORMALIZERS))}"
        )
    graph = grounded(spec_graph(spec))
    b = Builder(graph.layout)
    axes = graph.nodes[graph.output("value")].type.axes
    weight = mask = None
    replaced: dict[str, Expr] = {}
    selects = spec.numerics.masked is None
    if options.mask:
        mask = b.input("mask", Type("bool", axes), "mask")
        replaced = _unmasked(b, graph, mask) if selects else {}
    row = DIVISORS[normalizer]
    if kind == "mean" and row.count == "sum":
        replaced |= _held(b, graph, numbers, replaced)
    values = inline(b, graph, replaced)
    value = values[graph.output("value")]
    count = values[graph.output("count")] if graph.has_output("count") else b.const(1.0)
    if options.unread:
        value = _enclosed(b, spec, graph, numbers, value, values, mask if selects else None)
    if options.sample_weight:
        weight = b.input("sample_weight", Type("real", axes))
        if kind == "mean" and row.sample_weight and axes:
            weight = _smaller(weight)
    if kind == "mean" and row.count == "each":
        value = value / ops.maximum(count, 1.0)

    def selected(x: Expr) -> Expr:
        if mask is None:
            return x
        # Not indicator(mask) * x, which XLA makes a selection: a NaN was hidden in JAX outside jit.
        return ops.where(mask, x, 0.0 if selects else 0.0 * x)

    def times(x: Expr) -> Expr:
        return x if weight is None else weight * x

    numerator = selected(times(value))
    if kind == "none":
        return b.finish(value=numerator)
    total = ops.sum(numerator, *axes) if axes else numerator
    if kind == "sum" or not axes:
        return b.finish(value=total)
    if row.over == "given":
        divisor = b.input("normalizer_count", Type("real", ()), "positive")
    elif row.over == "batch":
        divisor = b.op("size", axis=axes[0], leading=True)
    else:
        share = {"sum": count, "positive": ops.indicator(count > 0.0)}.get(row.count, b.const(1.0))
        share = times(share) if row.sample_weight else share
        divisor = ops.total(selected(share) if row.mask else share, axes, value)
    # Divides by 1 there, so that the gradient is 0 and not NaN: 0 / 0 made it NaN in JAX and XLA.
    nothing = divisor == 0.0
    divisor = ops.where(nothing, 1.0, divisor)
    result = ops.where(nothing, math.nan if spec.empty == "nan" else 0.0, total / divisor)
    if parts:
        scale = ops.where(nothing, 0.0, 1.0 / divisor)
        return b.finish(value=result, total=total, scale=scale)
    return b.finish(value=result)


def _enclosed(
    b: Builder,
    spec: Spec,
    graph: Graph,
    numbers: Numbers,
    value: Expr,
    values: list[Expr],
    mask: Expr | None,
) -> Expr:
    """The value with what lies outside showing in it, and in all gradients."""
    rows = {
        name: b.row("input", (), graph.nodes[index].attrs, graph.nodes[index].type)
        for name, index in graph.inputs()
        if graph.nodes[index].type.dtype != "bool" and name not in dict(numbers)
    }
    given = [(rows[n], spec.inputs[n]) for n in enclosed_inputs(spec, numbers)]
    # What a port returns moves too: its own parameters learn through it.
    ports = [x for x, node in zip(values, graph.nodes, strict=True) if node.op in OUTSIDE]
    moving = [x for x in (*rows.values(), *ports) if x.type.dtype == "real"]
    return enclose(value, given, moving, mask)


_LARGE = 2.0**64


def _smaller(x: Expr) -> Expr:
    """Weights that the mean divides by too, all of them smaller by one power of 2 if one is large.

    The mean is the same, exactly; but of a divisor of 2e38 the reciprocal is subnormal, which
    TensorFlow and XLA make 0, and with it the gradient.
    """
    largest = ops.amax(x, *x.axes) if x.axes else x
    # Divided: a factor would meet the reciprocal of the divisor first.
    return x / ops.where(largest > _LARGE, _LARGE, 1.0)


def _held(
    b: Builder, graph: Graph, numbers: Numbers, replaced: Mapping[str, Expr]
) -> dict[str, Expr]:
    """The class weights, where value and count are both multiples of them."""
    if not graph.has_output("count"):
        return {}
    known = dict(numbers)
    names = _reaches(graph, graph.output("count"))
    sources = [
        (name, index)
        for name, index in graph.inputs()
        if name in names
        and graph.nodes[index].type.dtype == "real"
        and not abs(known.get(name, math.inf)) <= _LARGE
    ]
    if len(sources) != 1 or not _homogeneous(graph, sources[0][1]):
        return {}
    name, index = sources[0]
    node = graph.nodes[index]
    x = replaced.get(name) or b.row("input", (), node.attrs, node.type)
    return {name: _smaller(x)}


def _homogeneous(graph: Graph, source: int) -> bool:
    """Whether both outputs are multiples of an input: twice that makes them twice as large."""
    moving = {source}
    for index, node in enumerate(graph.nodes):
        hits = [place for place, a in enumerate(node.args) if a in moving]
        if not hits or index == source:
            continue
        rest = [graph.nodes[a] for place, a in enumerate(node.args) if place not in hits]
        multiple = (
            node.op in ("neg", "sum", "broadcast", "rename", "flip")
            or (node.op in ("mul", "dot", "weigh") and len(hits) == 1)
            or (node.op in ("div", "take") and hits == [0])
            or (node.op in ("add", "sub") and len(hits) == 2)
            or (
                node.op == "where"
                and 0 not in hits
                and all(n.op == "const" and const_value(n) == 0.0 for n in rest[1:])
            )
        )
        if not multiple:
            return False
        moving.add(index)
    return {graph.output("value"), graph.output("count")} <= moving


HARMLESS = {"probability": 0.5, "simplex": 0.5, "log_probability": -1.0}


def _unmasked(b: Builder, graph: Graph, mask: Expr) -> dict[str, Expr]:
    """The inputs with what the mask leaves out replaced by harmless numbers.

    Masking selects: a NaN that is masked, or a label that names no class, has neither a value nor a
    gradient, however far it would have spread inside its own sample. Where samples depend on one
    another the inputs stay.
    """
    if not mask.axes or not independent(graph, set(mask.axes)):
        return {}
    found: dict[str, Expr] = {}
    for _, index in graph.inputs():
        node = graph.nodes[index]
        others = [axis for axis in mask.axes if axis not in node.type.axes]
        if node.type.dtype == "bool" or len(others) == len(mask.axes):
            continue
        x = b.row("input", (), node.attrs, node.type)
        # An input that lacks some of the mask's axes counts where any of its values does.
        counts = ops.any_(mask, *others) if others else mask
        kind = str(node.attr("kind")).partition("(")[0].partition("[")[0]
        harmless = 0 if node.type.dtype == "int" else HARMLESS.get(kind, 1.0)
        found[node.attr("name")] = ops.where(counts, x, harmless)
    return found


def independent(graph: Graph, axes: set[str]) -> bool:
    """Whether nothing in a graph mixes entries along these axes."""
    for node in graph.nodes:
        if node.op in ("input", "broadcast"):
            continue
        touched = set(node.attr("axes") or ()) if node.op not in OUTSIDE else set()
        touched |= {node.attr(k) for k in ("axis", "old", "new") if node.attr(k)}
        if touched & axes and node.op != "size":
            return False
    return True


@dataclass(frozen=True)
class PortCall:
    """A call outside the fused function: what it is given, and what the rest reads it as.

    ``op`` is ``apply`` or ``derivative`` (of a user's function ``port``), ``segments`` or
    ``map_sizes`` (of the maps it returned), or ``use`` (of another loss, called ``port`` here).
    """

    name: str  # the input of the later pieces that holds what it returns
    op: str
    port: str
    wrt: tuple[int, ...]  # the derivatives to take, one after the other
    keys: tuple[str, ...]  # of a used loss: which of its inputs each argument is
    numbers: Numbers  # of a used loss: its parameters that are numbers here
    arguments: Graph  # outputs port_arg_0, port_arg_1, ...

    @property
    def passed(self) -> tuple[str, ...] | None:
        """The names of the arguments where they are inputs as they come: nothing to compute."""
        nodes = [self.arguments.nodes[i] for _, i in self.arguments.outputs]
        if all(node.op == "input" for node in nodes):
            return tuple(node.attr("name") for node in nodes)
        return None


@dataclass(frozen=True)
class Plan:
    """The forms of one loss under one set of options, verified and legalised on demand."""

    spec: Spec
    numbers: Numbers
    options: Options
    written: Graph  # reduced, parameters bound, before any pass
    calls: tuple[PortCall, ...]
    piece: Graph  # what is left after the calls, before any pass
    native: frozenset[str]

    @cached_property
    def stable(self) -> Graph:
        return _prepare(self.piece)[0]

    @cached_property
    def fired(self) -> tuple[str, ...]:
        """The names of the rules that changed the value's graph."""
        return _prepare(self.piece)[1]

    @cached_property
    def plain(self) -> Graph:
        """Inputs -> value."""
        return self._finish(self.stable)

    def fused(self, wrt: tuple[str, ...]) -> Graph:
        """Inputs -> value, and the gradient in each of ``wrt`` of unit incoming gradient."""
        return self._finish(_derived(self.stable, wrt, False, True))

    def scaled(self, wrt: tuple[str, ...]) -> Graph | None:
        """As ``fused``, with the gradients of the sum and one more output ``scale``, a number.

        The gradient of a mean is that of the sum times 1 / divisor; where the divisor does not
        depend on ``wrt`` the product is left to the backward, which multiplies by the incoming
        gradient anyway: one pass over the data less. None where there is no such divisor.
        """
        return _scaled(self.spec, self.numbers, self.options, self.native, wrt)

    def gradient(self, wrt: tuple[str, ...]) -> Graph:
        """Inputs -> gradients of unit incoming gradient."""
        return self._finish(_derived(self.stable, wrt, False, False))

    def pullback(self, wrt: tuple[str, ...]) -> Graph:
        """Inputs and ``upstream`` -> gradients."""
        return self._finish(_derived(self.stable, wrt, True, False))

    def pushforward(self, wrt: tuple[str, ...]) -> Graph:
        """Inputs and ``tangent_NAME`` -> ``tangent``."""
        return self._finish(_polish(push_forward(self.stable, "value", wrt)))

    def _finish(self, graph: Graph) -> Graph:
        return verify(guard(legalise(graph, self.native)))

    @cached_property
    def differentiable(self) -> tuple[str, ...]:
        """Inputs that a gradient can be asked for: all real ones."""
        return tuple(
            name
            for name, index in self.piece.inputs()
            if self.piece.nodes[index].type.dtype == "real"
        )

    @cached_property
    def value_axes(self) -> tuple[str, ...]:
        return self.piece.nodes[self.piece.output("value")].type.axes

    def separable(self, wrt: tuple[str, ...]) -> bool:
        """Whether scaling the saved gradient by the incoming one is the whole backward pass.

        True for a scalar value, and where each value depends on its own index alone.
        """
        axes = set(self.value_axes)
        if not axes:
            return True
        graph = self.stable
        moving: set[int] = set()
        for index, node in enumerate(graph.nodes):
            if node.op == "input":
                if node.attr("name") in wrt:
                    if not axes <= set(node.type.axes):
                        return False
                    moving.add(index)
                continue
            if not any(a in moving for a in node.args):
                continue
            moving.add(index)
            touched = set(node.attr("axes") or ())
            touched |= {node.attr(k) for k in ("axis", "old", "new") if node.attr(k)}
            if touched & axes:
                return False
        return True


@lru_cache(maxsize=4096)
def _prepare(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    fired: list[str] = []
    stable = verify(stabilise(canonicalise(verify(graph)), fired))
    return stable, tuple(fired)


def _polish(graph: Graph) -> Graph:
    return verify(guard(stabilise(canonicalise(verify(graph)), derived=True)))


@lru_cache(maxsize=4096)
def _derived(graph: Graph, wrt: tuple[str, ...], upstream: bool, keep: bool) -> Graph:
    return _polish(differentiate(graph, "value", wrt, upstream=upstream, keep=keep))


@lru_cache(maxsize=1024)
def plan(
    spec: Spec,
    numbers: Numbers = (),
    options: Options = Options(),
    native: frozenset[str] = frozenset(),
) -> Plan:
    """Bind static parameters and prepare every form; the same arguments give the same object."""
    needed = needed_options(spec, numbers, options)
    if needed != options:
        return plan(spec, numbers, needed, native)
    written = canonicalise(bind(reduced_graph(spec, options, numbers=numbers), dict(numbers)))
    written = _drop_bound(written, {name for name, _ in numbers})
    calls, piece = cut_ports(written)
    return Plan(spec, numbers, options, written, calls, piece, native)


@lru_cache(maxsize=1024)
def _scaled(
    spec: Spec, numbers: Numbers, options: Options, native: frozenset[str], wrt: tuple[str, ...]
) -> Graph | None:
    kind = options.reduction or spec.reduction.kind
    if kind != "mean" or not index_axes(spec):
        return None
    reduced = reduced_graph(spec, options, parts=True, numbers=numbers)
    graph = canonicalise(bind(reduced, dict(numbers)))
    _, piece = cut_ports(_drop_bound(graph, {name for name, _ in numbers}))
    piece, _ = _prepare(piece)
    if set(wrt) & _reaches(piece, piece.output("scale")):
        return None
    graph = differentiate(piece, "total", wrt)
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    named = {name: values[index] for name, index in graph.outputs if name != "total"}
    graph = _common_factor(_polish(b.finish(**named)))
    return verify(guard(legalise(graph, native)))


def _common_factor(graph: Graph) -> Graph:
    """A number that multiplies every gradient goes into the scale: another pass less."""
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    named = {name: values[index] for name, index in graph.outputs}
    factors: set[float] = set()
    inner: dict[str, Expr] = {}
    for name, x in named.items():
        if name in ("value", "scale"):
            continue
        factor = Expr(b, x.node.args[0]) if x.node.op == "mul" else x
        if x.node.op != "mul" or not is_const(factor):
            return graph
        factors.add(float(const_value(factor.node)))
        inner[name] = Expr(b, x.node.args[1])
        if inner[name].axes != x.axes:
            return graph
    if len(factors) != 1 or inner.keys() & {"value", "scale"}:
        return graph
    number = factors.pop()
    if not math.isfinite(number) or number == 0.0:
        return graph
    scale = number * named["scale"]
    return _polish(b.finish(value=named["value"], scale=scale, **inner))


def _reaches(graph: Graph, row: int) -> set[str]:
    """The inputs that a row depends on."""
    stack, seen = [row], {row}
    while stack:
        for a in graph.nodes[stack.pop()].args:
            if a not in seen:
                seen.add(a)
                stack.append(a)
    return {n for n, i in graph.inputs() if i in seen}


def _drop_bound(graph: Graph, names: Collection[str]) -> Graph:
    from lossbridge.passes.differentiate import _without_input

    for name in names:
        if any(n == name for n, _ in graph.inputs()):
            graph = _without_input(graph, name)
    return graph


def trail(
    spec: Spec,
    numbers: Numbers = (),
    options: Options = Options(),
    wrt: tuple[str, ...] | None = None,
) -> list[tuple[str, Graph]]:
    """The graph after each pass, for ``show --passes`` and the snapshots."""
    p = plan(spec, numbers, options)
    wrt = (
        wrt
        if wrt is not None
        else tuple(
            n for n in p.differentiable if n in spec.inputs and spec.inputs[n].dtype == "real"
        )[:1]
    )
    steps: list[tuple[str, Graph]] = [("written", p.piece)]
    steps.append(("canonicalise", canonicalise(p.piece)))
    steps.append(("stabilise", stabilise(steps[-1][1])))
    steps.append(("differentiate", differentiate(steps[-1][1], "value", wrt)))
    steps.append(("stabilise gradient", stabilise(canonicalise(steps[-1][1]), derived=True)))
    steps.append(("guard", guard(steps[-1][1])))
    steps.append(("legalise", guard(legalise(steps[-1][1]))))
    return steps


# --- ports ---------------------------------------------------------------------------------------


def cut_ports(graph: Graph) -> tuple[tuple[PortCall, ...], Graph]:
    """Take the calls of ports and of used losses out: what they return becomes an input.

    No port may run inside a custom-gradient function: torch would drop the gradients of its
    parameters without a word, and JAX and TensorFlow would raise. A used loss has a fused function
    of its own.
    """
    calls: list[PortCall] = []
    b = Builder(graph.layout)
    values: list[Expr] = []
    for node in graph.nodes:
        if node.op in ("input", "const"):
            values.append(b.row(node.op, (), node.attrs, node.type))
            continue
        args = [values[a] for a in node.args]
        if node.op not in OUTSIDE:
            values.append(b.op(node.op, *args, **dict(node.attrs)))
            continue
        name = f"port{len(calls)}"
        keys: tuple[str, ...] = node.attr("keys") or ()
        fixed = [k for k, a in zip(keys, args, strict=False) if is_const(_plain(a))]
        numbers = tuple(
            (k, const_value(_plain(a).node)) for k, a in zip(keys, args, strict=False) if k in fixed
        )
        if keys:
            args = [a for k, a in zip(keys, args, strict=True) if k not in fixed]
            keys = tuple(k for k in keys if k not in fixed)
        arguments = restrict(b.finish(**{f"port_arg_{k}": a for k, a in enumerate(args)}))
        calls.append(
            PortCall(
                name,
                node.op,
                node.attr("port") or node.attr("name"),
                node.attr("wrt") or (),
                keys,
                numbers,
                arguments,
            )
        )
        kind = "integer" if node.type.dtype == "int" else "real"
        values.append(b.input(name, Type(node.type.dtype, node.attr("axes") or ()), kind))
    piece = b.finish(**{name: values[index] for name, index in graph.outputs})
    return tuple(calls), restrict(piece) if calls else piece


def _plain(value: Expr) -> Expr:
    """A value without the broadcasting of a constant parameter."""
    node = value.node
    return Expr(value.builder, node.args[0]) if node.op == "broadcast" else value


def inline_ports(graph: Graph, ports: Mapping[str, Callable[[Builder, list[Expr]], Expr]]) -> Graph:
    """Replace calls of ports by graphs, derivatives by their derived graphs (for the oracle)."""
    from lossbridge.passes.differentiate import pull_back

    b = Builder(graph.layout)
    values: list[Expr] = []
    for node in graph.nodes:
        if node.op in ("input", "const"):
            values.append(b.row(node.op, (), node.attrs, node.type))
            continue
        args = [values[a] for a in node.args]
        if node.op == "apply":
            values.append(ports[node.attr("port")](b, args))
        elif node.op == "derivative":
            out = ports[node.attr("port")](b, args)
            for position in node.attr("wrt"):
                gradient = pull_back(b, out, b.const(1.0), [args[position]])[0]
                out = ops.broadcast(
                    b.const(0.0) if gradient is None else gradient, *args[position].axes
                )
            values.append(out)
        else:
            values.append(b.op(node.op, *args, **dict(node.attrs)))
    return b.finish(**{name: values[index] for name, index in graph.outputs})
