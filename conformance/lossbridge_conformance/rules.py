"""Every primitive in ball arithmetic, on arrays of certified values.

Real values are object arrays of :mod:`~lossbridge_conformance.balls` values, integers are int64,
and conditions are small integers that may also say *undecided*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from flint import arb
from numpy.typing import ArrayLike, NDArray

from lossbridge import interp
from lossbridge.ir import Graph, Node, const_value
from lossbridge_conformance import balls
from lossbridge_conformance.balls import Value

Objects: TypeAlias = NDArray[np.object_]
Frame: TypeAlias = interp.Frame
Function: TypeAlias = Callable[..., Any]

# Conditions are held as small integers in Kleene's order, so that `and` is the minimum, `or` the
# maximum and `not` the reflection.
FALSE, UNDECIDED, TRUE = 0, 1, 2


# --- values in arrays --------------------------------------------------------------------------


def objects(values: ArrayLike) -> Objects:
    """Exact doubles as an array of values."""
    array = np.asarray(values, dtype=np.float64)
    out = np.empty(array.shape, dtype=object)
    flat = out.reshape(-1)
    for position, x in enumerate(array.ravel().tolist()):
        flat[position] = balls.value(x)
    return flat.reshape(array.shape)


def lift(function: Callable[..., Any], operands: int) -> Callable[..., Objects]:
    """A function of values as one of arrays, with broadcasting."""
    raw = np.frompyfunc(function, operands, 1)

    def apply(*arrays: Any) -> Objects:
        with np.errstate(all="ignore"):  # NumPy reads the processor's flags after a call
            result = raw(*arrays)
        if not isinstance(result, np.ndarray):  # ufuncs unwrap arrays without dimensions
            wrapped = np.empty((), dtype=object)
            wrapped[()] = result
            return wrapped
        return result

    return apply


def _elementwise(function: Callable[..., Any], operands: int) -> Function:
    lifted = lift(function, operands)
    return lambda frame, node, *args: lifted(*args)


def _fold(function: Callable[[Value, Value], Value], empty: Value) -> Function:
    """A reduction over the node's axes, which stay as singletons."""
    ufunc = np.frompyfunc(function, 2, 1)

    def apply(frame: Frame, node: Node, x: Objects) -> Objects:
        for dim in frame.dims(node):
            if x.shape[dim] == 0:
                shape = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
                x = np.full(shape, empty, dtype=object)
            else:
                with np.errstate(all="ignore"):
                    x = ufunc.reduce(x, axis=dim, keepdims=True)
        return x

    return apply


def _along(function: Callable[[list[Value]], list[Value]], keep: bool) -> Function:
    """A function of all entries along the node's axes: as many results, or one."""

    def apply(frame: Frame, node: Node, x: Objects) -> Objects:
        dims = frame.dims(node)
        moved = np.moveaxis(x, dims, range(-len(dims), 0))
        rows = moved.reshape(-1, math.prod(moved.shape[moved.ndim - len(dims) :]))
        results = [function(list(row)) for row in rows]
        if keep:
            out = np.empty(rows.shape, dtype=object)
            for position, result in enumerate(results):
                out[position, :] = result
            return np.moveaxis(out.reshape(moved.shape), range(-len(dims), 0), dims)
        single = np.empty(len(results), dtype=object)
        single[:] = [result[0] for result in results]
        return single.reshape([1 if d in dims else n for d, n in enumerate(x.shape)])

    return apply


# --- composites, exactly -----------------------------------------------------------------------


def _special(xs: Sequence[Value]) -> str:
    if any(balls.is_nan(x) for x in xs):
        return "nan"
    if any(balls.unknown(x) for x in xs):
        return "unknown"
    if any(balls.is_inf(x) and balls.sign_of(x) == 1 for x in xs):
        return "infinite"
    return "empty" if all(balls.is_inf(x) for x in xs) else ""


def _shifted(xs: list[Value]) -> tuple[int, list[Value]]:
    """The position of a largest entry, and exp(x - largest)."""
    top = 0
    for position, x in enumerate(xs):
        if balls.is_inf(xs[top]) or (not balls.is_inf(x) and balls.compare(x, xs[top]) == 1):
            top = position
    return top, [arb(1) if i == top else balls.exp(balls.sub(x, xs[top])) for i, x in enumerate(xs)]


def _total(xs: Sequence[Value]) -> Value:
    result: Value = 0.0
    for x in xs:
        result = balls.add(result, x)
    return result


def _logsumexp(xs: list[Value]) -> list[Value]:
    case = _special(xs)
    if case:
        answers: dict[str, Value] = {
            "nan": balls.NAN,
            "unknown": balls.UNKNOWN,
            "infinite": balls.INF,
        }
        return [answers.get(case, -balls.INF)]
    top, e = _shifted(xs)
    return [balls.add(xs[top], balls.log1p(_total(e[:top] + e[top + 1 :])))]


def _no_softmax(xs: list[Value], case: str, elsewhere: Value) -> list[Value]:
    """Softmax-like results where an entry is NaN, +inf, undecided, or all are -inf."""
    if case == "unknown":
        return [balls.UNKNOWN for _ in xs]
    if case == "infinite":
        return [balls.NAN if balls.is_inf(x) and balls.sign_of(x) == 1 else elsewhere for x in xs]
    return [balls.NAN for _ in xs]


def _softmax(xs: list[Value]) -> list[Value]:
    case = _special(xs)
    if case:
        return _no_softmax(xs, case, 0.0)
    _, e = _shifted(xs)
    whole = _total(e)
    return [balls.div(x, whole) for x in e]


def _softmax_complement(xs: list[Value]) -> list[Value]:
    case = _special(xs)
    if case:
        return _no_softmax(xs, case, arb(1))
    _, e = _shifted(xs)
    whole = _total(e)
    before: list[Value] = [0.0]
    after: list[Value] = [0.0]
    for x in e[:-1]:
        before.append(balls.add(before[-1], x))
    for x in e[:0:-1]:
        after.append(balls.add(after[-1], x))
    # Sums of the others, never 1 - p: nothing cancels.
    return [balls.div(balls.add(a, b), whole) for a, b in zip(before, reversed(after), strict=True)]


def _log_softmax_complement(xs: list[Value]) -> list[Value]:
    if _special(xs):
        return [balls.log(q) for q in _softmax_complement(xs)]
    top, _ = _shifted(xs)
    # Shifted anew without the largest, whose complement may be below every exponent.
    rest = xs[:top] + xs[top + 1 :]
    if not rest:
        return [-balls.INF]
    led = balls.sub(_logsumexp(rest)[0], _logsumexp(xs)[0])
    others = _softmax_complement(xs)
    return [led if i == top else balls.log(q) for i, q in enumerate(others)]


def _log_softmax(xs: list[Value]) -> list[Value]:
    case = _special(xs)
    if case:
        return _no_softmax(xs, case, -balls.INF)
    top, e = _shifted(xs)
    rest = balls.log1p(_total(e[:top] + e[top + 1 :]))
    return [
        balls.neg(rest) if i == top else balls.sub(balls.sub(x, xs[top]), rest)
        for i, x in enumerate(xs)
    ]


def _norm(xs: list[Value]) -> list[Value]:
    case = _special([balls.absolute(x) for x in xs])
    if case == "nan" or any(balls.is_nan(x) for x in xs):
        return [balls.NAN]
    if case == "unknown":
        return [balls.UNKNOWN]
    if case == "infinite":
        return [balls.INF]
    return [balls.sqrt(_total([balls.power(x, arb(2)) for x in xs]))]


def _normalize(xs: list[Value]) -> list[Value]:
    size = _norm(xs)[0]
    return xs if balls.is_zero(size) else [balls.div(x, size) for x in xs]


def _against(function: Callable[[list[Value], int], list[Value]], keep: bool) -> Function:
    """A function of the entries along an axis and of an index into them."""

    def apply(frame: Frame, node: Node, x: Objects, index: Any) -> Objects:
        dim = frame.dim(node)
        moved = np.moveaxis(_full(frame, x, node.attr("axis")), dim, -1)
        at = np.moveaxis(index, dim, -1)
        shape = np.broadcast_shapes(moved.shape[:-1], at.shape[:-1])
        rows = np.broadcast_to(moved, (*shape, moved.shape[-1])).reshape(-1, moved.shape[-1])
        chosen = np.broadcast_to(at, (*shape, 1)).reshape(-1)
        out = np.empty((len(rows), moved.shape[-1] if keep else 1), dtype=object)
        for position, (row, i) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            out[position, :] = function(list(row), i)
        return np.moveaxis(out.reshape(*shape, -1), -1, dim)

    return apply


def _log_odds_against(xs: list[Value], index: int) -> list[Value]:
    if not 0 <= index < len(xs):
        return [balls.NAN]
    others = xs[:index] + xs[index + 1 :]
    return [balls.sub(_logsumexp(others)[0] if others else -balls.INF, xs[index])]


def _softmax_others(xs: list[Value], index: int) -> list[Value]:
    inside = 0 <= index < len(xs)
    others = xs[:index] + xs[index + 1 :] if inside else xs
    if not others or _special(others) == "empty":
        shares: list[Value] = [0.0 for _ in others]  # nobody has a share, so nothing flows
    else:
        shares = _softmax(others)
    return [*shares[:index], 0.0, *shares[index:]] if inside else shares


def _put(frame: Frame, node: Node, x: Any, index: Any, value: Any) -> Any:
    axis = node.attr("axis")
    shape = frame.context.shape_of(frame.sizes, (axis,))
    place = np.arange(math.prod(shape)).reshape(shape)
    return np.where(place == index, value, x)


# --- conditions --------------------------------------------------------------------------------

_RELATIONS: dict[str, tuple[int, ...]] = {
    "lt": (-1,),
    "le": (-1, 0),
    "gt": (1,),
    "ge": (1, 0),
    "eq": (0,),
    "ne": (-1, 1, balls.UNORDERED),
}


def _relation(holds: tuple[int, ...], assume: int | None) -> Function:
    def decide(x: Value, y: Value) -> int:
        order = balls.compare(x, y)
        if order is None:
            order = assume
        if order is None:
            return UNDECIDED
        return TRUE if order in holds else FALSE

    lifted = lift(decide, 2)

    def apply(frame: Frame, node: Node, x: Any, y: Any) -> NDArray[np.int8]:
        if x.dtype != object and y.dtype != object:
            order = np.sign(x - y)
            return np.where(np.isin(order, holds), TRUE, FALSE).astype(np.int8)
        return lifted(x, y).astype(np.int8)

    return apply


def _sign_of_order(assume: int | None) -> Callable[[Value, Value], Value]:
    def compare(x: Value, y: Value) -> Value:
        order = balls.compare(x, y)
        if order is None:
            order = assume
        if order is None:
            return arb(0, 1)
        return balls.NAN if order == balls.UNORDERED else balls.value(float(order))

    return compare


def _sign(assume: int | None) -> Callable[[Value], Value]:
    def sign(x: Value) -> Value:
        undecided = balls.sign_of(x) is None and not balls.is_nan(x)
        return balls.value(float(assume)) if undecided and assume is not None else balls.sign(x)

    return sign


def _where(frame: Frame, node: Node, condition: Any, x: Any, y: Any) -> Any:
    if x.dtype != object:
        return np.where(condition == TRUE, x, y)
    return _choose(condition, x, y)


_choose = lift(lambda c, x, y: x if c == TRUE else y if c == FALSE else balls.hull(x, y), 3)


def _indicator(frame: Frame, node: Node, condition: Any) -> Objects:
    return _as_ball(condition)


_as_ball = lift(lambda c: arb(1) if c == TRUE else 0.0 if c == FALSE else balls.up_to(arb(1)), 1)


def _logic(function: Any) -> Function:
    return lambda frame, node, *args: function(*args).astype(np.int8)


def _logic_fold(function: Any) -> Function:
    return lambda frame, node, x: function(x, axis=frame.dims(node), keepdims=True).astype(np.int8)


# --- axes --------------------------------------------------------------------------------------


def _const(frame: Frame, node: Node) -> Any:
    shape = (1,) * frame.context.rank
    found = const_value(node)
    if node.type.dtype == "bool":
        return np.full(shape, TRUE if found else FALSE, dtype=np.int8)
    if node.type.dtype == "int":
        return np.full(shape, found, dtype=np.int64)
    return objects(np.full(shape, float(found)))


def _size(frame: Frame, node: Node) -> Objects:
    count = math.prod(frame.sizes[node.attr("axis")])
    return objects(np.full((1,) * frame.context.rank, float(count)))


def _iota(frame: Frame, node: Node) -> NDArray[np.int64]:
    axis = node.attr("axis")
    shape = frame.context.shape_of(frame.sizes, (axis,))
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _range(frame: Frame, node: Node, count: Objects) -> NDArray[np.int64]:
    frame.sizes[node.attr("axis")] = (int(float(balls.ball(count.reshape(-1)[0]).mid())),)
    return _iota(frame, node)


def _rename(frame: Frame, node: Node, x: Any) -> Any:
    old, new = node.attr("old"), node.attr("new")
    frame.sizes.setdefault(new, frame.sizes[old])
    for a, b in zip(frame.context.dims((old,)), frame.context.dims((new,)), strict=True):
        x = np.swapaxes(x, a, b)
    return x


def _broadcast(frame: Frame, node: Node, x: Any) -> Any:
    return np.broadcast_to(x, frame.context.shape_of(frame.sizes, node.type.axes))


def _full(frame: Frame, x: Any, axis: str) -> Any:
    """A value that really has its entries along an axis, not one standing for all."""
    shape = list(x.shape)
    for dim, length in zip(frame.context.dims((axis,)), frame.sizes[axis], strict=True):
        shape[dim] = length
    return np.broadcast_to(x, shape)


def _shift(frame: Frame, node: Node, x: Any) -> Any:
    x = _full(frame, x, node.attr("axis"))
    dim, by = frame.dim(node), node.attr("by")
    fill: Any = node.attr("fill", 0.0)
    if x.dtype == object:
        fill = balls.value(float(fill))
    elif node.type.dtype == "bool":
        fill = TRUE if fill else FALSE
    else:
        fill = int(fill)
    out = np.full(x.shape, fill, dtype=x.dtype)
    length = x.shape[dim]
    if abs(by) < length:
        source, sink = [slice(None)] * x.ndim, [slice(None)] * x.ndim
        source[dim] = slice(max(-by, 0), length - max(by, 0))
        sink[dim] = slice(max(by, 0), length - max(-by, 0))
        out[tuple(sink)] = x[tuple(source)]
    return out


def _take(frame: Frame, node: Node, x: Any, index: Any) -> Any:
    x = _full(frame, x, node.attr("axis"))
    dim = frame.dim(node)
    length = x.shape[dim]
    rest = list(x.shape)
    rest[dim] = 1
    shape = list(np.broadcast_shapes(tuple(rest), index.shape))
    index = np.broadcast_to(index, shape)
    inside = (index >= 0) & (index < length)
    shape[dim] = length
    if length == 0:
        found = np.full(index.shape, balls.NAN, dtype=x.dtype)
    else:
        bounded = np.clip(index, 0, length - 1)
        found = np.take_along_axis(np.broadcast_to(x, shape), bounded, dim)
    # An integer cannot be NaN; -1 is out of range for whatever it indexes next.
    return np.where(inside, found, balls.NAN if x.dtype == object else -1).astype(x.dtype)


def _flip(frame: Frame, node: Node, x: Any) -> Any:
    return np.flip(_full(frame, x, node.attr("axis")), frame.dim(node))


def _scan(frame: Frame, node: Node, init: Any, *captures: Any) -> Any:
    body: Graph = node.attr("body")
    axis: str = node.attr("axis")
    outer = frame.context
    inner = interp.Context(body.layout, outer.star_rank)
    dim = outer.dim(axis)
    (length,) = frame.sizes[axis]
    axes = body.nodes[body.output("carry")].type.axes
    carry = np.broadcast_to(init, outer.shape_of(frame.sizes, axes))
    steps: list[Any] = []
    for at in range(length - 1, -1, -1) if node.attr("reverse") else range(length):
        env = {
            f"c{k}": _fit(np.take(c, [at], axis=dim) if c.shape[dim] != 1 else c, outer, inner)
            for k, c in enumerate(captures)
        }
        env["carry"] = _fit(carry, outer, inner)
        found = interp.evaluate(body, frame.table, env, inner, frame.sizes)["carry"]
        carry = np.broadcast_to(_fit(found, inner, outer), carry.shape)
        steps.append(carry)
    if node.attr("reverse"):
        steps.reverse()
    return np.concatenate(steps, axis=dim) if steps else np.empty((0,), dtype=object)


def _fit(x: Any, source: interp.Context, target: interp.Context) -> Any:
    """A value aligned to one layout, aligned to another that has axes more or fewer."""
    if source.layout == target.layout:
        return x
    shape: list[int] = []
    for axis in target.layout:
        if axis in source.layout:
            shape.extend(x.shape[d] for d in source.dims((axis,)))
        else:
            shape.append(1)
    return x.reshape(shape)


# --- the table ---------------------------------------------------------------------------------


def _of_integers_too(real: Function, exact: Any) -> Function:
    def apply(frame: Frame, node: Node, x: Any, y: Any) -> Any:
        return real(frame, node, x, y) if node.type.dtype == "real" else exact(x, y)

    return apply


_UNARY = (
    "neg", "exp", "expm1", "log", "log1p", "sqrt", "sigmoid", "softplus", "tanh", "sin", "cos",
    "cosh", "log_cosh", "log1mexp", "kl_phi", "less_square",
)  # fmt: skip
_BINARY = ("div", "maximum", "minimum", "xlogy", "weigh", "logaddexp", "logistic_nll")
_ARITHMETIC: dict[str, Any] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def table(assume: int | None = None) -> dict[str, Function]:
    """Every primitive in ball arithmetic, ``function(frame, node, *values)``.

    ``assume`` settles comparisons that the balls leave open: -1, 0 or 1 takes the first operand
    to be smaller, equal or larger; None takes both sides.
    """
    rows: dict[str, Function] = {}
    for name in _UNARY:
        rows[name] = _elementwise(getattr(balls, name), 1)
    for name in _BINARY:
        rows[name] = _elementwise(getattr(balls, name), 2)
    for name, exact in _ARITHMETIC.items():
        rows[name] = _of_integers_too(_elementwise(getattr(balls, name), 2), exact)
    rows["abs"] = _elementwise(balls.absolute, 1)
    rows["pow"] = _elementwise(balls.power, 2)
    rows["sign"] = _elementwise(_sign(assume), 1)
    rows["compare"] = _elementwise(_sign_of_order(assume), 2)
    rows["clip"] = _elementwise(lambda x, lo, hi: balls.minimum(balls.maximum(x, lo), hi), 3)
    for name, holds in _RELATIONS.items():
        rows[name] = _relation(holds, assume)
    rows |= _CONDITIONS | _REDUCTIONS | _AXES
    return rows


_CONDITIONS: dict[str, Function] = {
    "and": _logic(np.minimum),
    "or": _logic(np.maximum),
    "not": _logic(lambda x: TRUE - x),
    "any": _logic_fold(lambda x, **kw: np.max(x, initial=FALSE, **kw)),
    "all": _logic_fold(lambda x, **kw: np.min(x, initial=TRUE, **kw)),
    "where": _where,
    "indicator": _indicator,
    "to_real": lambda frame, node, x: objects(x.astype(np.float64)),
    "mod": lambda frame, node, x, n: x % n,
    "intdiv": lambda frame, node, x, n: x // n,
    "stop_gradient": lambda frame, node, x: x,
    "attach_gradient": lambda frame, node, value, x, gradient: value,
    "restate": lambda frame, node, x, y: x,
}

_SUM = _fold(balls.add, 0.0)


def _dot(frame: Frame, node: Node, a: Objects, b: Objects) -> Objects:
    found: Objects = _SUM(frame, node, _multiply(a, b))
    return found


_multiply = lift(balls.mul, 2)
_divide = lift(balls.div, 2)


def _mean(frame: Frame, node: Node, x: Objects) -> Objects:
    count = math.prod(x.shape[d] for d in frame.dims(node))
    return _divide(_SUM(frame, node, x), objects(np.full((1,) * x.ndim, float(count))))


def _p_norm(frame: Frame, node: Node, x: Objects, p: Objects) -> Objects:
    found: Objects = _power(_SUM(frame, node, _power(_absolute(x), p)), _divide(_ONE, p))
    return found


def _reject(frame: Frame, node: Node, x: Objects, u: Objects) -> Objects:
    found: Objects = _subtract(x, _multiply(u, _SUM(frame, node, _multiply(x, u))))
    return found


def _difference_of(function: Function) -> Function:
    """f(x) - f(y)."""

    def apply(frame: Frame, node: Node, x: Objects, y: Objects) -> Objects:
        found: Objects = _subtract(function(frame, node, x), function(frame, node, y))
        return found

    return apply


_power = lift(balls.power, 2)
_absolute = lift(balls.absolute, 1)
_subtract = lift(balls.sub, 2)
_ONE = balls.value(1.0)
_NORM = _along(_norm, keep=False)
_NORMALIZE = _along(_normalize, keep=True)

_REDUCTIONS: dict[str, Function] = {
    "sum": _SUM,
    "amax": _fold(balls.maximum, -balls.INF),
    "mean": _mean,
    "dot": _dot,
    "logsumexp": _along(_logsumexp, keep=False),
    "softmax": _along(_softmax, keep=True),
    "softmax_complement": _along(_softmax_complement, keep=True),
    "log_softmax_complement": _along(_log_softmax_complement, keep=True),
    "log_softmax": _along(_log_softmax, keep=True),
    "norm": _NORM,
    "normalize": _NORMALIZE,
    "p_norm": _p_norm,
    "reject": _reject,
    "abs_difference": _difference_of(lambda frame, node, x: _absolute(x)),
    "norm_difference": _difference_of(_NORM),
    "normalize_difference": _difference_of(_NORMALIZE),
    "log_odds_against": _against(_log_odds_against, keep=False),
    "softmax_others": _against(_softmax_others, keep=True),
}

_AXES: dict[str, Function] = {
    "const": _const,
    "size": _size,
    "iota": _iota,
    "range": _range,
    "rename": _rename,
    "broadcast": _broadcast,
    "shift": _shift,
    "take": _take,
    "pick": _take,
    "put": _put,
    "flip": _flip,
    "scan": _scan,
}
