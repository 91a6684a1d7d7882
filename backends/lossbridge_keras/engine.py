"""The engine: from the arguments of a call to its value.

An :class:`Engine` knows shapes, dtypes and ports; a :class:`Kernel` holds the emitted functions
behind ``tf.custom_gradient``. What Keras makes of both stands in ``native``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np

from lossbridge import emit, fitting, frontdoor, slips
from lossbridge.dtypes import check_mask, check_weight, promoted, reading, widest
from lossbridge.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    UnsupportedError,
)
from lossbridge.frontdoor import Bound, Call
from lossbridge.integers import identities
from lossbridge.ir import Graph, is_star
from lossbridge.kinds import Interval, Kind
from lossbridge.plan import (
    Numbers,
    Options,
    Plan,
    PortCall,
    index_sources,
    needed_options,
    plan,
)
from lossbridge.spec import Spec
from lossbridge.valuecheck import ValueRule, refuse, refuse_mask, value_rules
from lossbridge_keras.attached import activated, layer_mask

BACKEND: str = keras.backend.backend()


def gradient_types(tensors: Any) -> int:
    """As if somebody always differentiates; TensorFlow's tapes can tell."""
    return 2


if BACKEND == "tensorflow":
    import tensorflow as tf

    from lossbridge_keras.lowering import EAGER, LOWERING

    # Both are internal to TensorFlow, so each has something public to fall back on.
    try:
        from tensorflow.python.eager.record import stop_recording as _unrecorded
    except ImportError:  # the ops inside a custom gradient are then recorded for nothing

        def _unrecorded() -> AbstractContextManager[None]:
            return nullcontext()

    try:
        from tensorflow.python import pywrap_tfe

        gradient_types = pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes
    except (ImportError, AttributeError):
        pass

    Eager: Any = type(tf.constant(0.0))

    # AutoGraph would rewrite us, and all we import, as if our conditions were on tensors.
    as_it_is = tf.autograph.experimental.do_not_convert
else:
    Eager = type(None)

    def as_it_is(function: Any) -> Any:
        """No other backend rewrites functions."""
        return function


PACKAGE = "lossbridge"
Tensor = Any
DType = Any


# --- kernels: emitted functions behind a custom gradient -----------------------------------------


# A graph pays for a large array (TensorFlow then works in place) and for many ops, each of which
# costs an eager call 8 microseconds; below both, its own 70 microseconds lose.
MANY_ELEMENTS = 1 << 14
MANY_ROWS = 14


class Kernel:
    """One loss under one set of options: a function of tensors with a stated gradient.

    Value and gradients of unit incoming gradient are one emitted function; the backward multiplies
    by the incoming gradient in the compute dtype and rounds to an input's dtype once.
    """

    def __init__(self, prepared: Plan) -> None:
        self.plan = prepared
        self.names = tuple(name for name, _ in prepared.piece.inputs())
        self.real = frozenset(prepared.differentiable)
        self._functions: dict[tuple[str, tuple[str, ...], bool], Callable[..., Any]] = {}
        self._differentiable: dict[tuple[tuple[str, ...], Any, Any], Callable[..., Any]] = {}
        self._long: dict[tuple[str, tuple[str, ...]], bool] = {}
        self._graphs: dict[Any, Any] = {}  # a tf.function for each rank
        self._traced: dict[Any, Callable[..., Any]] = {}  # and what it made of each shape

    def graph(self, form: str, wrt: tuple[str, ...]) -> Graph:
        """The graph of one of the plan's forms."""
        return self.plan.plain if form == "plain" else getattr(self.plan, form)(wrt)

    def source(self, form: str, wrt: tuple[str, ...] = ()) -> str:
        """The emitted source of one of the plan's forms."""
        return emit.emit(self.graph(form, wrt), LOWERING, form, doc=self.plan.spec.id)

    def function(self, form: str, wrt: tuple[str, ...], small: bool = False) -> Callable[..., Any]:
        """The emitted function: from the kernel's inputs (and upstream) to a tuple."""
        key = (form, wrt, small)
        if key not in self._functions:
            lowering = EAGER if small else LOWERING
            source = emit.emit(self.graph(form, wrt), lowering, form, doc=self.plan.spec.id)
            found = emit.load(source, lowering, form)
            taken = [name for name, _ in self.graph(form, wrt).inputs()]
            given = (*self.names, *(["upstream"] if form == "pullback" else []))
            if tuple(taken) != given:
                at = [given.index(name) for name in taken]
                ordered = found

                def found(*xs: Tensor) -> Any:
                    return ordered(*(xs[k] for k in at))

            self._functions[key] = found
        return self._functions[key]

    def small(self, form: str, wrt: tuple[str, ...], xs: Sequence[Tensor]) -> bool:
        """Whether an eager call runs op by op."""
        key = (form, wrt)
        if key not in self._long:
            self._long[key] = len(self.graph(form, wrt).nodes) > MANY_ROWS
        return not self._long[key] and all(x.shape.num_elements() <= MANY_ELEMENTS for x in xs)

    def run(self, form: str, wrt: tuple[str, ...], xs: Sequence[Tensor]) -> Any:
        """The emitted function's outputs; of a large eager call, by a graph of its own."""
        if not tf.executing_eagerly():
            return self.function(form, wrt)(*xs)
        if self.small(form, wrt, xs):
            return self.function(form, wrt, True)(*xs)
        key = (form, wrt, *((x.dtype, x.shape) for x in xs))
        found = self._traced.get(key)
        if found is None:
            if len(self._traced) > 64:  # every shape of a long run of ragged batches
                self._traced.clear()
            found = self._traced[key] = self._trace(form, wrt, xs)
        return found(*xs)

    def _trace(self, form: str, wrt: tuple[str, ...], xs: Sequence[Tensor]) -> Callable[..., Any]:
        """The graph for these shapes, called as directly as this TensorFlow allows.

        A ``tf.function`` looks for it, and binds and flattens, for 150 of 330 microseconds.
        """
        # One function for each rank: tracing less often would make the rank unknown too.
        key = (form, wrt, *(x.shape.rank for x in xs))
        if key not in self._graphs:
            self._graphs[key] = tf.function(
                self.function(form, wrt), autograph=False, reduce_retracing=True
            )
        concrete: Callable[..., Any] = self._graphs[key].get_concrete_function(*xs)
        direct = getattr(getattr(concrete, "inference_fn", None), "call_flat", None)
        return direct or concrete

    def __call__(self, xs: Sequence[Tensor], compute: DType, out: DType) -> Tensor:
        if tf.executing_eagerly():
            # A target that nobody differentiates costs nothing.
            wrt = tuple(
                n
                for n, x in zip(self.names, xs, strict=True)
                if n in self.real and gradient_types((x,))
            )
            if not wrt:
                value = self.run("plain", (), _widened(xs, compute))[0]
                return value if value.dtype == out else tf.cast(value, out)
        else:
            # What a graph does not need is pruned from it.
            wrt = tuple(n for n in self.names if n in self.real)
            if not wrt:
                return tf.cast(self.run("plain", (), _widened(xs, compute))[0], out)
        key = (wrt, compute, out)
        if key not in self._differentiable:
            self._differentiable[key] = self._build(*key)
        return self._differentiable[key](*xs)

    def _build(self, wrt: tuple[str, ...], compute: DType, out: DType) -> Callable[..., Tensor]:
        separable = self.plan.separable(wrt)
        # Gradients of the sum, and one number beside them, cost a pass less than those of a mean.
        scaled = separable and self.plan.scaled(wrt) is not None
        form = "scaled" if scaled else "fused" if separable else "plain"
        names = [n for n, _ in self.graph(form, wrt if separable else ()).outputs]
        orders = {n: self.plan.piece.nodes[i].attr("order") for n, i in self.plan.piece.inputs()}
        axes = self.plan.value_axes

        def grads(up: Tensor, found: Sequence[Tensor], xs: Sequence[Tensor]) -> list[Any]:
            result: dict[str, Tensor] = {}
            for name, gradient in zip(wrt, found, strict=True):
                if separable:
                    gradient = gradient * _spread(up, axes, orders[name], gradient.shape.rank)
                result[name] = gradient
            return [
                tf.cast(result[n], x.dtype) if n in result else None
                for n, x in zip(self.names, xs, strict=True)
            ]

        def run(*xs: Tensor) -> Any:
            with _unrecorded() if tf.executing_eagerly() else nullcontext():
                found = self.run(form, wrt if separable else (), _widened(xs, compute))
            outputs = dict(zip(names, found, strict=True))
            value, scale = outputs["value"], outputs.get("scale")
            saved = [outputs[f"gradient_{n}"] for n in wrt] if separable else []
            eager = tf.executing_eagerly()

            def gradient(up: Tensor) -> list[Any]:
                up = tf.cast(up, compute)
                if not separable:
                    wide = _widened(xs, compute)
                    return grads(up, self.run("pullback", wrt, (*wide, up)), xs)
                if eager and gradient_types((up, *xs)):
                    # Somebody differentiates this gradient: it is computed again, where it shows.
                    return grads(up, self.function("gradient", wrt)(*_widened(xs, compute)), xs)
                return grads(up if scale is None else up * scale, saved, xs)

            return tf.cast(value, out), gradient

        return tf.custom_gradient(run)  # type: ignore[no-any-return]


def _widened(xs: Sequence[Tensor], compute: DType) -> list[Tensor]:
    """Floating tensors in the compute dtype, the others as they are."""
    return [tf.cast(x, compute) if x.dtype.is_floating and x.dtype != compute else x for x in xs]


def _spread(up: Tensor, axes: Sequence[str], order: Sequence[str], rank: int) -> Tensor:
    """The incoming gradient, over the value's axes, lined up with an input's."""
    if not axes:
        return up
    kept = [a for a in order if a in axes]
    width = rank - len(order) + 1  # of the axis group, where there is one
    if kept != list(axes):
        up = tf.transpose(up, [axes.index(a) for a in kept])
    place = 0
    for axis in order:
        if axis not in axes:
            for _ in range(width if is_star(axis) else 1):
                up = tf.expand_dims(up, place)
        place += width if is_star(axis) else 1
    return up


_KERNELS: dict[tuple[Spec, Numbers, Options], Kernel] = {}


def kernel(spec: Spec, numbers: Numbers, options: Options) -> Kernel:
    """The kernel of a loss; the same arguments give the same object."""
    key = (spec, numbers, needed_options(spec, numbers, options))
    if key not in _KERNELS:
        _KERNELS[key] = Kernel(plan(spec, numbers, options, LOWERING.native))
    return _KERNELS[key]


# --- ports ---------------------------------------------------------------------------------------


class _Run:
    """One call's tensors by name, and what its ports returned."""

    def __init__(
        self,
        name: str,
        values: dict[str, Tensor],
        ports: Mapping[str, Any],
        compute: DType,
        seen: DType,
        lengths: Mapping[str, Sequence[int | None]],
    ) -> None:
        self.name = name
        self.values = values
        self.lengths = lengths
        self.ports = ports
        self.compute = compute
        self.seen = seen  # the dtype in which ports are given what was computed
        self.maps: dict[str, list[int]] = {}

    def __call__(self, spec: Spec, numbers: Numbers, options: Options, out: DType) -> Tensor:
        found = kernel(spec, numbers, options)
        # How a port's maps are cut is known once it has returned them.
        for call in sorted(found.plan.calls, key=lambda c: c.op in ("segments", "map_sizes")):
            self.values[call.name] = self._outside(spec, call)
        return found([self.values[name] for name in found.names], self.compute, out)

    def _outside(self, spec: Spec, call: PortCall) -> Tensor:
        if call.op == "segments":
            sizes = self.maps[call.port]
            return tf.constant(np.repeat(np.arange(len(sizes), dtype=np.int64), sizes))
        if call.op == "map_sizes":
            return tf.constant(self.maps[call.port], self.compute)
        if call.op == "use":
            used = spec.uses[call.port]
            given = dict(zip(call.keys, self._given(call, self.compute), strict=True))
            fixed = dict(call.numbers)
            missing = tuple(
                (k, p.value)
                for k, p in used.params.items()
                if k not in given and k not in fixed and p.value is not None
            )
            inner = _Run(self.name, given, self.ports, self.compute, self.seen, self.lengths)
            return inner(used, (*call.numbers, *missing), Options(), self.compute)
        arguments = self._given(call, self.seen)
        output = spec.ports[call.port].output
        if output.name == "maps" and call.op == "apply":
            return self._joined(call, self.ports[call.port](*arguments))

        def port(*xs: Tensor) -> Tensor:
            result = tf.convert_to_tensor(self.ports[call.port](*xs))
            shape = tuple(result.shape)
            if frontdoor.port_squeezes(self.name, call.port, output, shape, self.lengths):
                return tf.squeeze(result, -1)
            return result

        return _derivative(port, arguments, call.wrt if call.op == "derivative" else ())

    def _given(self, call: PortCall, dtype: DType) -> list[Tensor]:
        if call.passed is not None:
            return [self.values[name] for name in call.passed]
        names = [name for name, _ in call.arguments.inputs()]
        found = _arguments(call.arguments)(
            *_widened([self.values[name] for name in names], self.compute)
        )
        return [tf.cast(x, dtype) if x.dtype.is_floating else x for x in found]

    def _joined(self, call: PortCall, result: Any) -> Tensor:
        """Feature maps as one tensor, each flattened behind the batch."""
        given = result if isinstance(result, list | tuple) else [result]
        maps = [tf.convert_to_tensor(m) for m in given]
        sizes = [m.shape[1:].num_elements() for m in maps]
        if not maps or None in sizes:
            raise ShapeError(
                f"{self.name}: {call.port} must return maps of known sizes, each with "
                f"the batch first, but returned {[tuple(m.shape) for m in maps]}"
            )
        if self.maps.setdefault(call.port, sizes) != sizes:
            raise ShapeError(
                f"{self.name}: {call.port} returned maps of {self.maps[call.port]} elements for "
                f"one input and {sizes} for the other; give inputs of one shape"
            )
        return tf.concat([tf.reshape(m, [-1, n]) for m, n in zip(maps, sizes, strict=True)], 1)


def _derivative(port: Callable[..., Any], arguments: Sequence[Tensor], wrt: Sequence[int]) -> Any:
    """The derivatives of the sum of a port's value, one after the other."""
    if not wrt:
        return tf.convert_to_tensor(port(*arguments))
    x = arguments[wrt[-1]]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = _derivative(port, arguments, wrt[:-1])
    return tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)


_ARGUMENTS: dict[Graph, Callable[..., Any]] = {}


def _arguments(graph: Graph) -> Callable[..., Any]:
    """What computes the arguments of a port: plain ops, which TensorFlow differentiates."""
    if graph not in _ARGUMENTS:
        source = emit.emit(graph, LOWERING, "arguments")
        _ARGUMENTS[graph] = emit.load(source, LOWERING, "arguments")
    return _ARGUMENTS[graph]


# --- the engine: from a call's arguments to a value ----------------------------------------------


class Engine:
    """A loss with its settings: shapes, dtypes, labels, masks, weights and ports of its calls."""

    def __init__(self, bound: Bound, dtype: str | None) -> None:
        self.bound = bound
        self.name = bound.form.name
        dtype = dtype or bound.specs[0].numerics.dtype
        self.dtype = None if dtype is None else tf.as_dtype(dtype)

    # --- one call
    def run(self, call: Call, weights: Mapping[str, Tensor], *, reduce: bool = True) -> Tensor:
        """The value of one call."""
        if any(kind.name == "tree" for kind in self.bound.specs[0].inputs.values()):
            return self._over_tree(call)
        for name in self.bound.specs[0].inputs:
            wrong = slips.not_an_array(self.name, name, call.inputs[name], "keras")
            if wrong is not None:
                raise ArgumentError(wrong)
        refuse_activated(self.bound, call)
        mask = layer_mask(call.inputs.values()) if call.mask is None else call.mask
        raw = {n: _tensor(call.inputs[n]) for n in self.bound.specs[0].inputs}
        which = self.bound.select(self._dtype_kinds(raw), [x.shape.rank for x in raw.values()])
        frontdoor.refuse_settings(self.bound, which)
        spec = self.bound.specs[which]
        given = cast(spec, frontdoor.rename_inputs(self.bound, which, raw))
        hows = {
            n: reading(
                self.name,
                n,
                kind,
                given[n].dtype.name,
                first=n == next(iter(spec.inputs)),
                cast=_written_cast,
                advise=lambda: fitting.swapped(self.bound, "keras", _dtype_names(raw)),
            )
            for n, kind in spec.inputs.items()
        }
        trained = {n: tf.convert_to_tensor(weights[n]) for n in spec.weights}
        labels = not any(kind.dtype == "real" for kind in spec.inputs.values())
        compute, out = self._precision(which, {**given, **trained} if labels else given)
        given = same_rank(spec, given)
        values = {
            n: self._input(n, kind, read(given[n], hows[n], compute))
            for n, kind in spec.inputs.items()
        }
        kinds: dict[str, Kind] = dict(spec.inputs)
        for name, weight in spec.weights.items():
            values[name], kinds[name] = trained[name], weight.kind
        shapes = {n: tuple(values[n].shape) for n in kinds}
        was = {n: tuple(raw[m].shape) for n, m in zip(spec.inputs, raw, strict=True)}
        lengths = frontdoor.axis_lengths(
            kinds, shapes, self.name, lambda: fitting.advice(self.bound, "keras", which, was)
        )
        for name, param in spec.params.items():
            if name in self.bound.arrays:
                values[name] = _hyperparameter(
                    self.name, name, param.kind, self.bound.arrays[name], lengths, compute
                )
        index = frontdoor.index_shape(spec, lengths)
        if call.sample_weight is not None:
            weight = _tensor(call.sample_weight)
            check_weight(self.name, weight.dtype.name)
            values["sample_weight"] = self._along(
                "sample_weight",
                _as_float(weight, compute),
                index,
                spec,
                kinds,
                values,
            )
        if mask is not None:
            if call.mask is not None:  # those that layers leave on tensors are theirs
                mask = _tensor(mask)
                check_mask(self.name, "mask", mask.dtype.name)
                if isinstance(mask, Eager) and _readable(mask):
                    refuse_mask(self.name, "mask", mask.numpy())
            values["mask"] = self._along(
                "mask", tf.cast(_tensor(mask), tf.bool), index, spec, kinds, values
            )
        inside = False
        if tf.executing_eagerly():
            rules = rules_of(self.bound, which, lengths)
            inside = check_values(self.name, rules, values, dict(self.bound.numbers[which]))
        options = self.options(
            reduce, call.sample_weight is not None, mask is not None, unread=not inside
        )
        for name, kind in spec.inputs.items():
            if kind.dtype == "int":
                values[name] = whole(values[name], name in identities(spec).names)
        if call.normalizer_count is not None:
            values["normalizer_count"] = _as_float(_tensor(call.normalizer_count), compute)
        if spec.step:
            if call.step is None:
                raise ArgumentError(
                    f"{self.name} follows a schedule; write "
                    f"{frontdoor.call_text(spec, 'keras')}, or loss.bind_step(optimizer.iterations)"
                )
            values["step"] = tf.cast(_tensor(call.step), compute)
        seen = given[next(iter(spec.inputs))].dtype if self.dtype is None and not labels else out
        run = _Run(self.name, values, call.ports, compute, seen, lengths)
        return self.scaled(run(spec, self.bound.numbers[which], options, out), options)

    def options(self, reduce: bool, weighted: bool, masked: bool, unread: bool = False) -> Options:
        """What decides the graph, beside the loss."""
        reduction = self.bound.reduction if reduce else "none"
        return Options(reduction, self.bound.normalizer, weighted, masked, unread)

    def _precision(self, which: int, given: Mapping[str, Tensor]) -> tuple[DType, DType]:
        """The dtypes of one call: to compute in, and of the result."""
        spec = self.bound.specs[which]
        computed, given_back = frontdoor.promotion_of(self.bound, which)
        names = {n: x.dtype.name for n, x in given.items() if x.dtype.is_floating}
        wide = widest((names[n] for n in computed if n in names), spec.numerics.compute)
        first = promoted(names[n] for n in given_back if n in names)
        compute, out = self.dtypes(spec, tf.as_dtype(first))
        return (tf.float64 if self.dtype is None and wide == "float64" else compute), out

    def dtypes(self, spec: Spec, given: DType) -> tuple[DType, DType]:
        """The dtype to compute in, and that of the result.

        The result of half-precision predictions is float32, as it is in Keras: a mean of 70,000 in
        float16 would be inf.
        """
        wanted = self.dtype or given
        wide = spec.numerics.compute == "at_least_float64" or wanted == tf.float64
        compute = tf.float64 if wide else tf.float32
        if self.dtype is not None:
            return compute, self.dtype
        return compute, given if given in (tf.float32, tf.float64) else tf.float32

    def scaled(self, value: Tensor, options: Options) -> Tensor:
        """Keras adds up the replicas' losses, so each divides its mean by their number.

        An external count is global: nothing is left to divide by.
        """
        if options.reduction != "mean" or not tf.distribute.has_strategy():
            return value
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas == 1 or options.normalizer == "external":
            return value
        return value * tf.cast(1.0 / replicas, value.dtype)

    # --- inputs
    def _dtype_kinds(self, raw: Mapping[str, Tensor]) -> dict[str, str]:
        if len(self.bound.specs) == 1:
            return {}
        found: dict[str, str] = {}
        for spec in self.bound.specs:
            for own, name in zip(spec.inputs, self.bound.specs[0].inputs, strict=True):
                found[own] = "real" if raw[name].dtype.is_floating else "int"
        return found

    def _input(self, name: str, kind: Kind, x: Tensor) -> Tensor:
        """A tensor of the dtype that is wanted, its class axis last."""
        if x.shape.rank is None:
            raise ShapeError(
                f"{self.name}: {name} is {kind}, but its rank is unknown in this "
                "graph; call set_shape on it"
            )
        axis = self.bound.axis
        if axis not in (None, -1) and frontdoor.moved_axis(kind) is not None:
            rank = x.shape.rank
            axis = frontdoor.given_axis(axis, rank)
            if not -rank <= axis < rank:
                raise ShapeError(
                    f"{self.name}: axis={axis} was given, but {name} has shape {tuple(x.shape)}"
                )
            order = [d for d in range(rank) if d != axis % rank]
            x = tf.transpose(x, [*order, axis % rank])
        return x

    def _along(
        self,
        what: str,
        x: Tensor,
        index: Sequence[int | None],
        spec: Spec,
        kinds: Mapping[str, Kind],
        values: Mapping[str, Tensor],
    ) -> Tensor:
        """A weight or mask, repeated to one entry for each value of the loss."""
        shape = frontdoor.aligned_shape(self.name, what, tuple(x.shape), tuple(index))
        if None not in index and tuple(x.shape) == tuple(index):
            return x
        if x.shape.rank == len(index) + 1:
            x = tf.squeeze(x, -1)
        for _ in range(len(shape) - x.shape.rank):
            x = tf.expand_dims(x, -1)
        wanted = list(index) if None not in index else _running_shape(spec, kinds, values)
        return tf.broadcast_to(x, wanted)

    # --- trees
    def _over_tree(self, call: Call) -> Tensor:
        """A penalty on parameters: over the variables of a model, or any nest of tensors."""
        ((name, given),) = call.inputs.items()
        if call.sample_weight is not None or call.mask is not None:
            raise UnsupportedError(
                f"{self.name} runs over parameters, which have no samples to "
                "weigh or mask; pass the parameters that count"
            )
        variables = getattr(given, "trainable_variables", given)
        leaves = [_tensor(leaf) for leaf in keras.tree.flatten(variables) if slips.is_array(leaf)]
        for leaf in leaves:
            if not leaf.dtype.is_floating:
                raise DTypeError(
                    f"{self.name}: a leaf of {name} is {leaf.dtype.name}; pass the "
                    "trainable leaves only"
                )
        spec, numbers = self.bound.specs[0], self.bound.numbers[0]
        options = self.options(True, False, False)
        count = call.normalizer_count
        if options.reduction == "mean" and options.normalizer != "external":
            if options.normalizer != "elements":
                raise UnsupportedError(
                    f"{self.name} runs over parameters; divide by 'elements' or 'external'"
                )
            count = sum(leaf.shape.num_elements() for leaf in leaves)
            options = Options("mean", "external")
        parts: list[Tensor] = []
        for leaf in leaves:
            compute, out = self.dtypes(spec, leaf.dtype)
            values = {name: leaf}
            for key, value in self.bound.arrays.items():
                values[key] = _as_float(_tensor(value), compute)
            if count is not None:
                values["normalizer_count"] = _as_float(_tensor(count), compute)
            parts.append(_Run(self.name, values, {}, compute, out, {})(spec, numbers, options, out))
        if options.reduction == "none":
            return keras.tree.pack_sequence_as(variables, parts)
        widest = tf.float64 if any(p.dtype == tf.float64 for p in parts) else tf.float32
        total = tf.add_n([tf.cast(p, widest) for p in parts]) if parts else tf.zeros((), widest)
        # Every replica holds all parameters, and Keras adds up the replicas' losses.
        if tf.distribute.has_strategy():
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            total = total * tf.cast(1.0 / replicas, widest) if replicas > 1 else total
        return total


def cast(spec: Spec, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs in the dtypes that the loss casts them to, where it says so."""
    if spec.numerics.cast is None:
        return given
    found = {}
    for name, x in given.items():
        kind = spec.inputs[name]
        if x.dtype.is_complex:
            pass  # for the call to refuse
        elif kind.dtype == "int" and x.dtype.is_floating:
            x = tf.cast(x, tf.int64)
        elif kind.dtype == "real" and (spec.numerics.dtype or not x.dtype.is_floating):
            x = tf.cast(x, spec.numerics.dtype or keras.config.floatx())
        found[name] = x
    return found


def check_values(
    loss: str,
    rules: Iterable[tuple[ValueRule, Interval]],
    values: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> bool:
    """Raise if an eager tensor on a CPU holds what its rule excludes; elsewhere the loss is NaN.

    ``numbers`` has the parameters. True where all real numbers have been read and lie inside.
    """
    inside = True
    for rule, interval in rules:
        x = values[rule.name]
        if not _readable(x):
            inside = inside and rule.kind.dtype == "int"
            continue
        array = x.numpy()
        if rule.inside(array, interval):
            continue
        inside = inside and rule.kind.dtype == "int"
        beside = {**numbers, **values}
        needed = {*rule.exempt, *(name for name, _ in rule.ends), "mask"} & beside.keys()
        if all(_readable(beside[n]) for n in needed):
            arrays = {n: v if isinstance(v := beside[n], int) else v.numpy() for n in needed}
            refuse(loss, rule, array, interval, arrays)
    return inside


def _readable(x: Any) -> bool:
    """Whether looking at a tensor waits for no device."""
    return not isinstance(x, tf.Tensor) or (isinstance(x, Eager) and "CPU" in (x.device or "CPU"))


def rules_of(
    bound: Bound, which: int, lengths: Mapping[str, Sequence[int | None]]
) -> tuple[tuple[ValueRule, Interval], ...]:
    """What is looked at, and where it has to lie."""
    found = (
        (rule, rule.interval(lengths))
        for rule in value_rules(bound.specs[which], bound.numbers[which])
    )
    return tuple((rule, interval) for rule, interval in found if interval is not None)


def read(x: Tensor, how: str, compute: DType) -> Tensor:
    """A tensor as its kind reads it: see :func:`lossbridge.dtypes.reading`."""
    if how == "as_is":
        return x
    if how == "int":
        return tf.cast(x, tf.int32)
    if how == "bool":
        return tf.cast(x, tf.bool)
    x = tf.cast(x, compute)  # such as labels 0 and 1
    return 2.0 * x - 1.0 if how == "sign" else x


def _written_cast(key: str, wanted: str) -> str:
    if wanted == "parts":
        return f"tf.math.real({key}) or tf.abs({key})"
    return f"tf.cast({key}, '{({'real': 'float32', 'int': 'int32'}).get(wanted, wanted)}')"


def _dtype_names(raw: Mapping[str, Tensor]) -> list[str]:
    return ["real" if x.dtype.is_floating else "int" for x in raw.values()]


def refuse_activated(bound: Bound, call: Call) -> None:
    """Refuse probabilities given for logits, where it is known that they are."""
    first = next(iter(bound.specs[0].inputs))
    if first == "logits" and activated(call.inputs[first]):
        raise ArgumentError(
            f"{bound.form.name} takes logits, but these predictions come out of a softmax or a "
            "sigmoid; drop that activation from the last layer, and apply it to predictions "
            "where probabilities are wanted"
        )


def _rank(x: Tensor) -> int | None:
    """How many dimensions a tensor has, which a graph of TensorFlow may not know."""
    rank: int | None = x.shape.rank if BACKEND == "tensorflow" else len(x.shape)
    return rank


def same_rank(spec: Spec, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Squeeze or expand one trailing 1 between the two ranks, which ``fit`` itself makes."""
    if len(spec.inputs) != 2:
        return given
    (first, kind), (second, other) = spec.inputs.items()
    expected = len(kind.axes) - len(other.axes)
    x, y = given[first], given[second]
    ranks = _rank(x), _rank(y)
    if ranks[0] is None or ranks[1] is None:
        return given
    off = (ranks[0] - ranks[1]) - expected
    if off == -1 and y.shape[-1] == 1:
        if expected == 0 and ranks[0] == 1:
            x = keras.ops.expand_dims(x, -1)
        else:
            y = keras.ops.squeeze(y, -1)
    elif off == 1 and expected == 0 and x.shape[-1] == 1:
        if ranks[1] == 1:
            y = keras.ops.expand_dims(y, -1)
        else:
            x = keras.ops.squeeze(x, -1)
    return {first: x, second: y}


def _tensor(x: Any) -> Tensor:
    """A tensor of the dtype that was given; Keras's own variables included."""
    if isinstance(x, tf.Tensor):
        return x
    if isinstance(x, tf.RaggedTensor | tf.SparseTensor):
        dense = "tf.sparse.to_dense(x)" if isinstance(x, tf.SparseTensor) else "x.to_tensor()"
        raise ArgumentError(
            f"a {type(x).__name__} was given, but a loss takes dense tensors; pass {dense}, with "
            "sample_weight= or mask= where padding must not count"
        )
    return tf.convert_to_tensor(x.value if isinstance(x, keras.Variable) else x)


def _as_float(x: Tensor, compute: DType) -> Tensor:
    return x if x.dtype.is_floating else tf.cast(x, compute)


def whole(x: Tensor, identity: bool) -> Tensor:
    """Integers as int64, in which every comparison is exact.

    Of uint64 what does not fit is out of every range; an ``identity`` stays what no other is.
    """
    if x.dtype == tf.uint64:
        if identity:
            return tf.bitcast(x, tf.int64)
        x = tf.minimum(x, tf.constant(2**63 - 1, tf.uint64))
    return x if x.dtype == tf.int64 else tf.cast(x, tf.int64)


def _hyperparameter(
    loss: str,
    name: str,
    kind: Kind,
    given: Any,
    lengths: Mapping[str, Sequence[int | None]],
    compute: DType,
) -> Tensor:
    """An array hyperparameter, repeated along the axes of its kind; those broadcast as in NumPy."""
    x = _as_float(_tensor(given), compute)
    wanted = [n for axis in kind.axes for n in lengths.get(axis, (None,))]
    if list(x.shape) == wanted or None in wanted:
        return x
    try:
        known = tuple(n for n in wanted if n is not None)
        fits = np.broadcast_shapes(tuple(x.shape), known) == known
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"{loss}: {name} is {kind}, here of shape {tuple(wanted)}, but its shape "
            f"is {tuple(x.shape)}"
        )
    return tf.broadcast_to(x, wanted)


def _running_shape(spec: Spec, kinds: Mapping[str, Kind], values: Mapping[str, Tensor]) -> Tensor:
    """The shape of the unreduced value while the graph runs."""
    parts: list[Tensor] = []
    for axis in index_sources(spec):
        name = next(n for n, kind in kinds.items() if axis in kind.axes)
        axes, shape = kinds[name].axes, tf.shape(values[name])
        at = axes.index(axis)
        if is_star(axis):
            parts.append(shape[at : values[name].shape.rank - (len(axes) - at - 1)])
        else:
            before = any(is_star(a) for a in axes[:at])
            at = values[name].shape.rank - (len(axes) - at) if before else at
            parts.append(shape[at : at + 1])
    return tf.concat(parts, 0)
