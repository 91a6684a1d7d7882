"""What to write in a loss where the words of other libraries, or of Python itself, were written.

A function that defines a loss is run once, on values that have no numbers yet. Whatever else is
done with them than the language's own arithmetic ends in an error that names the word to write.
"""

from __future__ import annotations

import linecache
import re
from types import FrameType, TracebackType
from typing import Final

from lossbridge.errors import SpecError, suggestion

OWN: Final = (
    "abs_", "amax", "all_", "any_", "broadcast", "clip", "compare", "cos", "cosh", "derivative",
    "dot", "exp", "expm1", "flip", "indicator", "intdiv", "iota", "log", "log1mexp", "log1p",
    "log_cosh", "log_softmax", "logaddexp", "logsumexp", "maximum", "mean", "minimum", "mod",
    "norm", "normalize", "p_norm", "put", "range_", "rename", "scan", "shift", "sigmoid", "sign",
    "sin", "size", "softmax", "softplus", "sqrt", "stop_gradient", "sum", "take", "tanh",
    "to_real", "where", "xlogy",
)  # fmt: skip
"""The words of :mod:`lossbridge.ops` that an author writes."""

_UNARY: Final = {
    "exp", "expm1", "log", "log1p", "sqrt", "sigmoid", "softplus", "tanh", "sin", "cos", "cosh",
    "log_cosh", "sign", "stop_gradient",
}  # fmt: skip
_OVER_AXES: Final = {
    "sum", "mean", "amax", "norm", "normalize", "softmax", "log_softmax", "logsumexp",
}  # fmt: skip

# Names of other libraries, and how the same is written here; x stands for the value.
_ELSEWHERE: Final[dict[str, str]] = {
    "abs": "abs(x)", "absolute": "abs(x)", "fabs": "abs(x)", "square": "x ** 2",
    "pow": "x ** y", "power": "x ** y", "float_power": "x ** y", "log2": "log(x) / log(2), as "
    "numbers: log(x) * 1.4426950408889634", "log10": "log(x) * 0.4342944819032518",
    "exp2": "exp(x * 0.6931471805599453)", "rsqrt": "1 / sqrt(x)", "reciprocal": "1 / x",
    "negative": "-x", "neg": "-x", "relu": "maximum(x, 0)", "sinh": "0.5 * (exp(x) - exp(-x))",
    "tan": "sin(x) / cos(x)", "logsigmoid": "-softplus(-x)", "log_sigmoid": "-softplus(-x)",
    "expit": "sigmoid(x)", "logistic": "sigmoid(x)", "cosine": "cos(x)",
    "max": "amax(x, 'classes'), or maximum(x, y) of two values",
    "min": "-amax(-x, 'classes'), or minimum(x, y) of two values",
    "amin": "-amax(-x, 'classes')", "reduce_max": "amax(x, 'classes')",
    "reduce_min": "-amax(-x, 'classes')", "reduce_sum": "sum(x, 'classes')",
    "reduce_mean": "mean(x, 'classes')", "reduce_logsumexp": "logsumexp(x, 'classes')",
    "clamp": "clip(x, lo, hi)", "clip_by_value": "clip(x, lo, hi)", "fmax": "maximum(x, y)",
    "fmin": "minimum(x, y)", "add": "x + y", "subtract": "x - y", "sub": "x - y",
    "multiply": "x * y", "mul": "x * y", "divide": "x / y", "true_divide": "x / y",
    "div": "x / y", "matmul": "dot(x, y, 'features')", "mm": "dot(x, y, 'features')",
    "bmm": "dot(x, y, 'features')", "einsum": "dot(x, y, 'features')",
    "vdot": "dot(x, y, 'features')", "inner": "dot(x, y, 'features')",
    "tensordot": "dot(x, y, 'features')", "remainder": "mod(x, n)", "fmod": "mod(x, n)",
    "floor_divide": "intdiv(x, n)", "floordiv": "intdiv(x, n)", "equal": "x == y",
    "not_equal": "x != y", "greater": "x > y", "greater_equal": "x >= y", "less": "x < y",
    "less_equal": "x <= y", "logical_and": "a & b", "logical_or": "a | b", "logical_not": "~a",
    "any": "any_(c, 'classes')", "all": "all_(c, 'classes')", "select": "where(c, x, y)",
    "cumsum": "scan('time', 0.0, lambda total: total + x, like=x)",
    "arange": "iota(x, 'classes')", "range": "iota(x, 'classes')", "argmax": "x == amax(x, "
    "'classes'), a condition", "gather": "take(x, index, 'classes')",
    "take_along_axis": "take(x, index, 'classes')", "one_hot": "indicator(iota(x, 'classes') == "
    "labels)", "roll": "shift(x, 'time', 1, 0.0)", "detach": "stop_gradient(x)",
    "item": "the value itself, which has no number yet", "numpy": "the value itself, which has no "
    "number yet", "shape": "size(x, 'classes')", "len": "size(x, 'classes')",
    "ndim": "the axes that the annotation names", "dim": "the axes that the annotation names",
    "dtype": "nothing: a loss is computed in the dtype of its inputs",
    "astype": "to_real(x) of integers, indicator(c) of conditions",
    "float": "to_real(x) of integers, indicator(c) of conditions",
    "to": "to_real(x) of integers, indicator(c) of conditions",
    "cast": "to_real(x) of integers, indicator(c) of conditions",
    "T": "rename(x, 'i', 'j'): axes have names, so nothing is transposed",
    "mT": "rename(x, 'i', 'j'): axes have names, so nothing is transposed",
    "transpose": "rename(x, 'i', 'j'): axes have names, so nothing is transposed",
    "permute": "nothing: axes have names, so their order does not matter",
    "reshape": "nothing: axes have names, and broadcast by them",
    "view": "nothing: axes have names, and broadcast by them",
    "flatten": "nothing: an axis group, as in real[*batch], has any rank",
    "squeeze": "nothing: axes have names, and broadcast by them",
    "unsqueeze": "nothing: axes have names, and broadcast by them",
    "expand_dims": "nothing: axes have names, and broadcast by them",
    "zeros_like": "0.0", "ones_like": "1.0", "var": "mean((x - mean(x, 'classes')) ** 2, "
    "'classes')", "std": "sqrt(mean((x - mean(x, 'classes')) ** 2, 'classes'))",
    "erf": "", "round": "", "floor": "", "ceil": "", "trunc": "", "sort": "", "argsort": "",
    "cdist": "norm(x['i'] - y['j'], 'features')",
}  # fmt: skip


def instead(name: str) -> str:
    """How what another library calls ``name`` is written here, or the nearest there is."""
    bare = name.strip("_")
    if bare in _UNARY:
        return f"write {bare}(x), with `from lossbridge.ops import {bare}`"
    if bare in _OVER_AXES:
        return f"write {bare}(x, 'classes'), with `from lossbridge.ops import {bare}`"
    if bare in _ELSEWHERE:
        written = _ELSEWHERE[bare]
        return f"write {written}" if written else f"the language has no {bare}"
    if bare in OWN or bare + "_" in OWN:
        word = bare if bare in OWN else bare + "_"
        return f"write {word}(...), with `from lossbridge.ops import {word}`"
    near = suggestion(bare, OWN)
    return f"the words of a loss are those of lossbridge.ops{near}"


def misused(what: str, advice: str) -> SpecError:
    """The error for something that a value of a loss cannot do."""
    return SpecError(
        f"{what}: while a loss is traced its values have no numbers yet; {advice}",
        phase="semantic",
        code="not_traceable",
    )


class NoAttributeError(SpecError, AttributeError):
    """As :class:`SpecError`; an ``AttributeError`` too, so that ``hasattr`` says no."""


# Modules of other libraries as authors call them.
_FOREIGN = re.compile(
    r"\b(?:math|cmath|np|numpy|torch|F|tf|jax|jnp|lax|keras|K|ops|scipy|special|nn|optax)"
    r"(?:\.\w+)*\.(\w+)\s*\("
)


_LIBRARIES: Final = {
    "builtins", "jax", "jaxlib", "keras", "lossbridge", "numpy", "optax", "scipy", "tensorflow",
    "torch",
}  # fmt: skip


def foreign_call(frame: FrameType | None, line: int | None = None) -> str | None:
    """The function of another library that a line of an author's calls, as far as text tells."""
    if frame is None:
        return None
    text = linecache.getline(frame.f_code.co_filename, line or frame.f_lineno)
    found = _FOREIGN.search(text)
    return None if found is None else found[0].rstrip("( ")


def _library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES


def converted(frame: FrameType | None, to: str) -> SpecError:
    """The error for a value that Python or another library asks for its numbers."""
    while frame is not None and _library(frame):
        frame = frame.f_back
    call = foreign_call(frame)
    if call is not None:
        return misused(f"{call}(x)", instead(call.rpartition(".")[2]))
    return misused(
        to,
        "write the language's own functions, from lossbridge.ops, such as exp, log, where or sum",
    )


def explained(error: Exception, where: str) -> SpecError:
    """What an author's function raised, as an error that says where and what to write."""
    frame, line = _authors_line(error.__traceback__)
    said = f"raised {type(error).__name__}: {error}"
    call = foreign_call(frame, line)
    text = str(error)
    if call is not None:
        advice = instead(call.rpartition(".")[2])
    elif re.search("keyword argument '(axis|dim|axes|dims|keepdim|keepdims)'", text):
        advice = "axes are named, and follow the value: sum(x, 'classes')"
    elif "NoneType" in text:
        advice = "something of the loss is None there; every function must return its value"
    else:
        advice = "a loss is written in arithmetic, comparisons and the functions of lossbridge.ops"
    at = f"line {line}, " if line else "it "
    return SpecError(
        f"{where}: its function cannot be traced: {at}{shown_line(said)}; {advice}",
        phase="semantic",
        code="not_traceable",
    )


def shown_line(text: str) -> str:
    """Another library's message on one line, and not too long."""
    line = " ".join(text.split())
    return ascii(line if len(line) <= 200 else line[:197] + "...")[1:-1]


def _authors_line(trace: TracebackType | None) -> tuple[FrameType | None, int | None]:
    """The deepest frame that is the author's own."""
    found: tuple[FrameType | None, int | None] = (None, None)
    while trace is not None:
        if not _library(trace.tb_frame):
            found = (trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    return found
