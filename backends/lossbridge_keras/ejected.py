"""Stand-alone files: a loss and its settings as one function that imports only TensorFlow."""

from __future__ import annotations

import inspect

from lossbridge import frontdoor
from lossbridge.emit import emit, stand_alone
from lossbridge.errors import ArgumentError, UnsupportedError, shown
from lossbridge.frontdoor import Bound
from lossbridge.integers import identities
from lossbridge.plan import Options
from lossbridge_keras.engine import MANY_ROWS, _spread, _widened, kernel, whole
from lossbridge_keras.lowering import LOWERING

__all__ = ["eject", "source"]

_RUN = """
try:  # both are internal to TensorFlow; without them the same is computed, in more memory
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.eager.record import stop_recording as _unrecorded

    _gradient_types = pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes
except (ImportError, AttributeError):
    from contextlib import nullcontext as _unrecorded

    def _gradient_types(tensors: Any) -> int:
        return 2


@tf.custom_gradient
def _run(*given: Any) -> Any:
    wide = any(given[k].dtype == tf.float64 for k in DECIDING)
    dtype = tf.float64 if wide else tf.float32
    eager = tf.executing_eagerly()
    if eager:
        with _unrecorded():
            value, *saved = _forward(*_widened(given, dtype))
    else:
        value, *saved = _forward(*_widened(given, dtype))

    def gradient(upstream: Any) -> Any:
        upstream, kept, wide = tf.cast(upstream, dtype), saved, _widened(given, dtype)
        if eager and _gradient_types((upstream, *given)):  # somebody differentiates this
            kept = _forward(*wide)[1:]
        found = _backward(wide, kept, upstream)
        return [tf.cast(found[k], x.dtype) if k in found else None for k, x in enumerate(given)]

    return value, gradient
"""


def source(bound: Bound) -> str:
    """The emitted function that a call runs: the value, and its gradient in the prediction."""
    spec, numbers = bound.specs[0], bound.numbers[0]
    found = kernel(spec, numbers, Options(bound.reduction, bound.normalizer))
    wrt = tuple(n for n in found.names if n in found.real)[:1]
    if not found.plan.separable(wrt):
        return found.source("plain") + "\n\n" + found.source("pullback", wrt)
    return found.source("scaled" if found.plan.scaled(wrt) is not None else "fused", wrt)


def eject(bound: Bound, name: str) -> str:
    """A file with the loss as a function called ``name``; it imports TensorFlow and none of ours.

    Settings are those of ``bound``; inputs come in the order of the specification, arrays given as
    hyperparameters and trainable weights after them. A second derivative is TensorFlow's own, of
    the gradient in the file.
    """
    if not name.isidentifier():
        raise ArgumentError(f"{shown(name)} cannot name a function; give an identifier")
    spec, numbers = bound.specs[0], bound.numbers[0]
    options = Options(bound.reduction, bound.normalizer, unread=True)
    found = kernel(spec, numbers, options)
    prepared = found.plan
    if prepared.calls:
        raise UnsupportedError(
            f"{bound.form.name} calls functions that are given at the call, so it cannot stand "
            "alone; use it from lossbridge.keras"
        )
    names = list(found.names)
    real = [n for n in names if n in found.real]
    first, every = tuple(real[:1]), tuple(real)
    orders = {n: prepared.piece.nodes[i].attr("order") for n, i in prepared.piece.inputs()}
    axes = prepared.value_axes

    def text(form: str, wrt: tuple[str, ...], called: str) -> str:
        graph = found.graph(form, wrt)
        written = emit(graph, LOWERING, called)
        if len(graph.nodes) <= MANY_ROWS:
            return written
        # As the loss itself runs it, bit for bit: many ops cost less as a graph.
        return written + f"\n\n{called} = tf.function({called}, autograph=False)\n"

    lines = ["def _backward(wide: Any, saved: Any, upstream: Any) -> Any:"]
    if prepared.separable(every):
        scaled = prepared.scaled(first) is not None
        graph = found.graph("scaled" if scaled else "fused", first)
        places = {n: k - 1 for k, (n, _) in enumerate(graph.outputs)}
        pieces = [text("scaled" if scaled else "fused", first, "_forward")]
        gradient = f"saved[{places[f'gradient_{real[0]}']}]"
        factor = f"upstream * saved[{places['scale']}]" if scaled else "upstream"
        lines += [
            f"    gradient = {gradient}",
            f"    up = _spread({factor}, {axes}, {orders[real[0]]}, gradient.shape.rank)",
            f"    found = {{{names.index(real[0])}: gradient * up}}",
        ]
        if len(real) > 1:
            pieces.append(text("gradient", every[1:], "_others"))
            places_ = [names.index(n) for n in real[1:]]
            rows = [orders[n] for n in real[1:]]
            lines += [
                f"    for k, order, g in zip({places_}, {rows}, _others(*wide), strict=True):",
                f"        found[k] = g * _spread(upstream, {axes}, order, g.shape.rank)",
            ]
        lines.append("    return found")
    else:
        pieces = [text("plain", (), "_forward"), text("pullback", every, "_pullback")]
        lines.append(
            f"    return dict(zip({[names.index(n) for n in real]}, "
            "_pullback(*wide, upstream), strict=True))"
        )
    call = [f"def {name}({', '.join(names)}):", f'    """{_quoted(spec.summary)}"""']
    for n in names:
        integer = prepared.piece.nodes[dict(prepared.piece.inputs())[n]].type.dtype == "int"
        call.append(f"    {n} = tf.convert_to_tensor({n})")
        if integer:
            call.append(f"    {n} = whole({n}, {n in identities(spec).names})")
        elif spec.numerics.dtype and n in real and n in spec.inputs:
            call.append(f'    {n} = tf.cast({n}, "{spec.numerics.dtype}")')
        elif n in real[1:] and n in spec.inputs:
            call.append(f"    if not ({n}.dtype.is_floating or {n}.dtype.is_complex):")
            call.append(f"        {n} = tf.cast({n}, tf.float32)  # such as labels 0 and 1")
        kind = spec.inputs.get(n)
        if bound.axis not in (None, -1) and kind and frontdoor.moved_axis(kind) is not None:
            at = f"min(1, {n}.ndim - 1)" if bound.axis == 1 else str(bound.axis)
            call += [
                f"    order = [d for d in range({n}.ndim) if d != ({at}) % {n}.ndim]",
                f"    {n} = tf.transpose({n}, [*order, ({at}) % {n}.ndim])",
            ]
    run = f"_run({', '.join(names)})"
    call.append(
        f'    return tf.cast({run}, "{spec.numerics.dtype}")'
        if spec.numerics.dtype
        else f"    return {run}"
    )
    own = [inspect.getsource(f) for f in (_widened, whole)]
    own.append(inspect.getsource(_spread).replace("is_star(axis)", 'axis.startswith("*")'))
    places_real = ", ".join(str(names.index(n)) for n in real)
    deciding = [n for n in frontdoor.promotion_of(bound, 0).computed if n in names]
    places_deciding = ", ".join(map(str, map(names.index, deciding)))
    body = "\n\n".join(
        [
            *own,
            f"REAL = [{places_real}]  # the places of real inputs\n"
            f"DECIDING = [{places_deciding}]  # and of those that decide the precision\n",
            *pieces,
            "\n".join(lines) + "\n",
            _RUN,
            "\n".join(call) + "\n",
        ]
    )
    head = "import math\nfrom collections.abc import Callable, Sequence\nfrom typing import Any\n\n"
    head += "Tensor = DType = Any\n"
    return stand_alone(body, LOWERING).replace("import math\n", head, 1)


def _quoted(text: str) -> str:
    """Text of a specification as the inside of a docstring."""
    return "".join(c for c in text if c.isprintable() and c not in '\\"')
