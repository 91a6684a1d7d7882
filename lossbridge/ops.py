"""THE table of primitives: one row each, with everything the compiler knows about it.

A row states the operand types it takes and gives, its derivative (with the subgradient at every
kink), what its value lies between, and, for a composite, its expansion into simpler rows. The
functions at the end are what authors of losses import.

Conventions that frameworks disagree on, fixed here: ``abs`` and ``sign`` are 0 at 0; ties of
``maximum``, ``minimum`` and ``amax`` split the gradient evenly; ``clip`` passes the gradient inside
the closed interval; ``norm`` has gradient 0 at 0; ``take`` out of range is NaN, in value and
gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lossbridge.errors import SpecError, shown
from lossbridge.ir import (
    Attr,
    Builder,
    Expr,
    Graph,
    Operand,
    Type,
    const_value,
    inline,
    innermost,
    is_const,
    source_axis,
)
from lossbridge.kinds import axis_name, check_name

if TYPE_CHECKING:
    from lossbridge.spec import Port

Vjp: TypeAlias = Callable[[list[Expr], Expr, Expr], "Sequence[Expr | None]"]
Infer: TypeAlias = Callable[[Builder, "tuple[Type, ...]", "Mapping[str, Attr]"], Type]
Expand: TypeAlias = Callable[..., Expr]
Bounds: TypeAlias = Callable[..., "tuple[float, float]"]

MAX_SCANS = 8  # inside each other: a gradient of n of them has some 4**n bodies

INF = math.inf
LOG2 = math.log(2.0)


@dataclass(frozen=True)
class Op:
    """One primitive.

    ``signature`` says what the operands are in expression text (``value``, ``axis``, ``axes``,
    ``integer``, ``number``, ``port``); ``attrs`` names those that are not values. ``vjp(args, out,
    g)`` gives the gradient of each operand (None: no gradient); what it gives may lack axes, which
    means constant along them. ``expand`` rewrites a composite; ``bounds`` maps operand intervals to
    the interval of the result.
    """

    name: str
    signature: tuple[str, ...]
    infer: Infer
    doc: str
    vjp: Vjp | None = None
    attrs: tuple[str, ...] = ()
    operands: str = "real"  # what values are coerced to: real, int, bool, same, any
    elementwise: bool = True
    expand: Expand | None = None
    bounds: Bounds | None = None

    def coerce(self, b: Builder, args: list[Expr]) -> list[Expr]:
        """Make operand types agree, or say which one does not fit."""
        count = self.signature.count("value")
        if self.name not in VARIADIC and len(args) != count:
            raise SpecError(
                f"{self.name} takes {count} value(s), but was given {len(args)}",
                phase="semantic",
                code="arity",
            )
        if self.operands == "any":
            if "axis" in self.attrs and len(args) > 1 and _is_integer_const(args[1]):
                return [args[0], _as_int(b, args[1]), *args[2:]]  # a literal index
            return args
        if self.operands in ("real", "same", "arithmetic") and all(
            a.type.dtype == "real" for a in args
        ):
            return args
        if self.operands in (
            "same",
            "arithmetic",
        ):  # comparisons: integers stay exact where both sides are
            ints = [a.type.dtype == "int" or _is_integer_const(a) for a in args]
            if all(ints) and any(a.type.dtype == "int" for a in args):
                return [_as_int(b, a) for a in args]
            return [_as_real(b, a, self.name) for a in args]
        if self.operands == "real":
            return [_as_real(b, a, self.name) for a in args]
        if self.operands == "int":
            return [_as_int(b, a) for a in args]
        if self.operands == "bool":
            for a in args:
                if a.type.dtype != "bool":
                    raise SpecError(
                        f"{self.name} takes conditions, but was given a {a.type.dtype} value; "
                        "compare it first, e.g. x > 0",
                        phase="semantic",
                        code="type",
                    )
        return args


VARIADIC = {"scan", "apply", "derivative", "use"}


def _is_integer_const(e: Expr) -> bool:
    return is_const(e) and e.type.dtype == "real" and float(const_value(e.node)).is_integer()


def _as_int(b: Builder, e: Expr) -> Expr:
    if e.type.dtype == "int":
        return e
    if _is_integer_const(e):
        return b.const(int(float(const_value(e.node))), "int")
    raise SpecError(
        f"an integer was expected here, but the value is {e.type}",
        phase="semantic",
        code="type",
    )


def _as_real(b: Builder, e: Expr, op: str) -> Expr:
    if e.type.dtype == "real":
        return e
    if e.type.dtype == "bool":
        raise SpecError(
            f"{op} takes numbers, but was given a condition; use where(c, 1, 0) or indicator(c)",
            phase="semantic",
            code="type",
        )
    if is_const(e):
        return b.const(float(const_value(e.node)))
    return b.op("to_real", e)


# --- type rules --------------------------------------------------------------------------------


def _union(b: Builder, types: Sequence[Type]) -> tuple[str, ...]:
    first = types[0].axes if types else ()
    for t in types[1:]:
        if t.axes and t.axes != first:
            return b.order([axis for t in types for axis in t.axes])
    return b.order(first)


def _elementwise(dtype: str) -> Infer:
    return lambda b, types, attrs: Type(dtype, _union(b, types))


def _arithmetic(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    """Sums and products of integers are integers."""
    dtype = "int" if all(t.dtype == "int" for t in types) else "real"
    return Type(dtype, _union(b, types))


def _where(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    if types[0].dtype != "bool":
        raise SpecError(
            "the first operand of where must be a condition", phase="semantic", code="type"
        )
    return Type(types[1].dtype, _union(b, types))


def _need_axes(name: str, type_: Type, axes: Sequence[str]) -> None:
    have = ", ".join(type_.axes) or "(none)"
    if not axes:
        example = type_.axes[-1] if type_.axes else "classes"
        raise SpecError(
            f"{name} names no axis, and nothing is reduced unsaid; the value has axes {have}; "
            f"write {name}(x, {example!r}), or in a file {name}(x, {example}); all values "
            "together are what the reduction of the loss is for",
            phase="semantic",
            code="no_axis",
        )
    missing = [a for a in axes if a not in type_.axes]
    if missing or len(set(axes)) != len(axes):
        raise SpecError(
            f"{name} over {', '.join(axes)}: the value has axes {have}"
            + ("" if missing else ", each once"),
            phase="semantic",
            code="unknown_axis" if missing else "duplicate_axis",
        )


def _reduce(name: str, dtype: str | None = None) -> Infer:
    def rule(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
        _need_axes(name, types[0], attrs["axes"])
        return Type(
            dtype or types[0].dtype, tuple(a for a in types[0].axes if a not in attrs["axes"])
        )

    return rule


def _keep(name: str) -> Infer:
    def rule(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
        _need_axes(name, types[0], (attrs["axis"],) if "axis" in attrs else attrs["axes"])
        return types[0]

    return rule


def _shifted(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    _need_axes("shift", types[0], (attrs["axis"],))
    fill, dtype = attrs["fill"], types[0].dtype
    fits = {"real": True, "int": float(fill).is_integer(), "bool": fill in (0.0, 1.0)}
    if not fits[dtype]:
        wanted = "an integer" if dtype == "int" else "0 or 1, for false or true"
        raise SpecError(
            f"shift fills a {dtype} value with {wanted}, not with {fill}",
            phase="semantic",
            code="literal",
        )
    return types[0]


def _dot(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    for t in types:
        _need_axes("dot", t, attrs["axes"])
    return Type("real", tuple(a for a in _union(b, types) if a not in attrs["axes"]))


def _reduce_all(name: str) -> Infer:
    def rule(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
        _need_axes(name, types[0], attrs["axes"])
        return Type("real", tuple(a for a in _union(b, types) if a not in attrs["axes"]))

    return rule


def _keep_all(name: str) -> Infer:
    def rule(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
        union = Type("real", _union(b, types))
        _need_axes(name, union, attrs["axes"])
        return union

    return rule


def _take(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    _need_axes("take", types[0], (attrs["axis"],))
    if types[1].dtype != "int":
        raise SpecError(
            f"take needs an integer index, but it is {types[1]}", phase="semantic", code="type"
        )
    if attrs["axis"] in types[1].axes:
        raise SpecError(
            f"take along {attrs['axis']}: the index itself has that axis; rename it first",
            phase="semantic",
            code="axis_kept",
        )
    rest = [a for a in types[0].axes if a != attrs["axis"]]
    return Type(types[0].dtype, b.order([*rest, *types[1].axes]))


def _rename(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    old, new = attrs["old"], attrs["new"]
    _need_axes("rename", types[0], (old,))
    if new in types[0].axes:
        raise SpecError(
            f"rename to {new}: the value has that axis already",
            phase="semantic",
            code="duplicate_axis",
        )
    if old.startswith("*") != new.startswith("*"):
        raise SpecError(
            "an axis group can only be renamed to an axis group",
            phase="semantic",
            code="axis_group",
        )
    _new_axis(b, new)
    b.add_axis(new, old)
    return Type(types[0].dtype, b.order(new if a == old else a for a in types[0].axes))


def _new_axis(b: Builder, axis: str) -> None:
    """An axis that a row makes has a name like any other."""
    if axis not in b.layout:
        check_name(axis_name(axis), "the axis", phase="semantic")


def _broadcast(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    for axis in attrs["axes"]:
        b.expect(axis)
    return Type(types[0].dtype, b.order([*types[0].axes, *attrs["axes"]]))


def _axis_only(dtype: str, keeps: bool) -> Infer:
    def rule(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
        b.expect(attrs["axis"])
        axes = b.order((attrs["axis"],))
        return Type(dtype, axes if keeps else ())

    return rule


def _range(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    if types[0].axes:
        raise SpecError("range(axis, n): n must be a single number", phase="semantic", code="type")
    _new_axis(b, attrs["axis"])
    b.add_axis(attrs["axis"])
    return Type("int", (attrs["axis"],))


def _attach(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    return types[0]


def _scan(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    body: Graph = attrs["body"]
    out = body.nodes[body.output("carry")].type
    return Type(out.dtype, b.order([*out.axes, attrs["axis"]]))


def _port(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    return Type("real", b.order(attrs["axes"]))


def _others(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    taken = _take(b, types, attrs)
    return Type("real", b.order([*taken.axes, attrs["axis"]]))


def _put(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    _need_axes("put", types[0], (attrs["axis"],))
    return Type(types[0].dtype, _union(b, types))


def _segments(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    return Type("int", b.order(attrs["axes"]))


def _use(b: Builder, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> Type:
    return Type("real", ())


# --- derivative helpers ------------------------------------------------------------------------


def total(x: Expr, axes: Sequence[str], like: Expr) -> Expr:
    """Sum over ``axes`` of a value that is constant along those of them that it lacks."""
    have = tuple(a for a in axes if a in x.axes)
    if have:
        x = sum(x, *have)
    for axis in axes:
        if axis not in have and axis in like.axes:
            x = x * _length(like, axis)
    return x


def _length(like: Expr, axis: str) -> Expr:
    """The length of an axis of a value."""
    source = source_axis(like.builder.nodes, like.index, axis)
    return like.builder.op("size", axis=axis if source in like.builder.scanned() else source)


def total_missing(g: Expr, arg: Expr, out: Expr) -> Expr:
    """Summed over the axes that an operand lacks."""
    return total(g, [a for a in g.axes if a not in arg.axes], g)


def unbroadcast(g: Expr, out: Expr, arg: Expr) -> Expr:
    """The gradient of an operand that was broadcast by name: summed over the added axes."""
    return total(g, [a for a in out.axes if a not in arg.axes], out)


def _safe_denominator(x: Expr) -> Expr:
    """x with its zeros replaced by 1, for quotients whose zero case is selected away after."""
    return where(x == 0.0, 1.0, x)


def _d_div(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    # One quotient for both, and nothing squared: e / v / v underflows where (e / v) ** 2 does not.
    da = g / args[1]
    return da, -(da * out)


def _larger_gets(g: Expr, a: Expr, b: Expr) -> Expr:
    """g where a > b, half of it where they tie, and NaN where either is: a loss that is NaN has no
    gradient of 0 beside it."""
    return where(a > b, g, where(a == b, 0.5 * g, where(a < b, 0.0, _of_nan(g))))


def _of_nan(g: Expr) -> Expr:
    """The gradient where a NaN is compared: NaN, but none in what a selection leaves out."""
    return where(g == 0.0, 0.0, math.nan)


def _d_maximum(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    a, b = args
    return _larger_gets(g, a, b), _larger_gets(g, b, a)


def _d_minimum(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    a, b = args
    return _larger_gets(g, b, a), _larger_gets(g, a, b)


def _d_clip(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, lo, hi = args
    # At an end of the interval the gradient belongs to x, so the ends get it strictly outside.
    outside = where((x < lo) | (x > hi), 0.0, _of_nan(g))
    return (
        where((x >= lo) & (x <= hi), g, outside),
        where(x < lo, g, 0.0),
        where(x > hi, g, 0.0),
    )


def _d_pow(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, y = args
    if is_const(y, 1.0):
        dx = g
    elif is_const(y, 0.0):
        dx = 0.0 * g
    else:
        dx = g * (y * x ** (y - 1.0))
    # x**y at x = 0 has a finite derivative in y (0 for y > 0) although log(0) is not finite.
    dy = where(x == 0.0, 0.0, g * (out * log(where(x == 0.0, 1.0, x))))
    return dx, dy


def _d_sqrt(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    (x,) = args
    if out.node.attr("at_zero") == "zero":
        return (where(x == 0.0, 0.0, g * (0.5 / _safe_denominator(out))),)
    return (g * (0.5 / out),)


def _d_xlogy(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, y = args
    both = (x == 0.0) & (y == 0.0)
    return (
        where(both, 0.0, g * log(where(both, 1.0, y))),
        where(x == 0.0, 0.0, g * (x / where(x == 0.0, 1.0, y))),
    )


# What is infinite at a certainty though its operands are numbers, or logits at their limit.
LOGARITHMS = frozenset(
    {"log", "log1p", "softplus", "log_softmax", "log_softmax_complement", "log1mexp", "xlogy"}
    | {"logsumexp", "logaddexp", "logistic_nll", "log_odds_against"}
)


def _logarithmic(x: Expr) -> bool:
    """Whether a logarithm is a factor or a term of a value."""
    b, seen, stack = x.builder, {x.index}, [x.index]
    while stack:
        node = b.nodes[stack.pop()]
        if node.op in LOGARITHMS:
            return True
        if node.op in ("mul", "neg", "add", "sub", "where", "weigh", "take", "broadcast", "sum"):
            stack.extend(a for a in node.args if a not in seen)
            seen.update(node.args)
    return False


def damped(slope: Operand, g: Expr) -> Expr:
    """``slope * g``, and 0 where the slope has vanished: of an infinite logarithm times a sigmoid
    that is exactly 0 the limit is 0, and the product NaN."""
    return weigh(slope, g) if _logarithmic(g) else g * slope


def _d_weigh(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    a, x = args
    return g * x, g * a


def _d_logaddexp(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    a, b = args
    # Equal infinities give inf - inf = NaN; two -inf have no weight. Other ties stay a difference,
    # so that it can be differentiated again.
    gap = where((a == b) & (abs_(a) == INF), 0.0, a - b)
    return (
        where(a == -INF, 0.0, g * sigmoid(gap)),
        where(b == -INF, 0.0, g * sigmoid(-gap)),
    )


def _d_mean(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    return (g / count(args[0], out.node.attr("axes")),)


def _d_amax(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    (x,) = args
    mask = x == out
    ties = sum(indicator(mask), *out.node.attr("axes"))
    return (where(mask, g / ties, where(x < out, 0.0, _of_nan(g))),)


def _d_dot(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    a, b = args

    def side(this: Expr, other: Expr) -> Expr:
        extra = tuple(axis for axis in out.axes if axis not in this.axes)
        both = tuple(axis for axis in extra if axis in g.axes and axis in other.axes)
        value = dot(g, other, *both) if both else g * other
        return total(value, [axis for axis in extra if axis not in both], out)

    return side(a, b), side(b, a)


def _split_at_top(v: Expr, x: Expr, axes: tuple[str, ...]) -> tuple[Expr, Expr, Expr]:
    """Where x is largest, the sum of v over the other places, and over all places.

    Where one class has nearly all the probability, its own term must be left out of a sum: the sum
    less the own term loses what is small beside it.
    """
    top = x == safe_max(x, axes)
    at_top, below = sum(where(top, v, 0.0), *axes), sum(where(top, 0.0, v), *axes)
    return top, below + (at_top - v), below + at_top


def _d_softmax(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    (x,) = args
    axes = out.node.attr("axes")
    top, others, whole = _split_at_top(damped(out, g), x, axes)
    # Of a class of probability 0 the incoming gradient may be infinite.
    inner = where(top, g * softmax_complement(x, *axes) - others, g - whole)
    return (damped(out, inner),)


def _d_softmax_complement(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    (x,) = args
    axes = out.node.attr("axes")
    p = softmax(x, *axes)
    top, others, whole = _split_at_top(damped(p, g), x, axes)
    return (-damped(p, where(top, g * out - others, g - whole)),)


def _d_log_softmax(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    (x,) = args
    axes = out.node.attr("axes")
    p, q = softmax(x, *axes), softmax_complement(x, *axes)
    # g - p sum(g) cancels when p is near 1 (gradient 0 past a margin of 16 in float32).
    top, others, whole = _split_at_top(g, x, axes)
    return (where(top, g * q - p * others, g - p * whole),)


def _d_log_softmax_complement(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    (x,) = args
    axes = out.node.attr("axes")
    p, q = softmax(x, *axes), softmax_complement(x, *axes)
    most, below = _majority(x, axes)
    # All but a class with most of the probability have a complement of at least 1/2, so that the
    # quotient is harmless. What that class's complement is made of are the others' own softmax.
    h = where(most, 0.0, damped(p / where(most, 1.0, q), g))
    own = damped(p, g)
    led = sum(where(most, own, 0.0), *axes)
    among = where(most, 0.0, softmax(below, *axes))
    return (p * (total(h, axes, out) - h) - own + weigh(led, among),)


def _d_normalize(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    (x,) = args
    axes = out.node.attr("axes")
    n = norm(x, *axes)
    across = reject(broadcast(g, *x.axes), out, *axes)
    return (where(n == 0.0, 0.0, across / _safe_denominator(n)),)


def _d_reject(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, u = args
    axes = out.node.attr("axes")
    along, incoming = sum(x * u, *axes), total(g * u, axes, out)
    return g - u * incoming, -(g * along + x * incoming)


def _d_norm_difference(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    axes = out.node.attr("axes")
    return g * normalize(args[0], *axes), -(g * normalize(args[1], *axes))


def _d_abs_difference(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    return g * sign(args[0]), -(g * sign(args[1]))


def _d_normalize_difference(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    axes = out.node.attr("axes")
    u, v = (normalize(x, *axes) for x in args[:2])
    return _d_normalize([args[0]], u, g)[0], _d_normalize([args[1]], v, -g)[0]


def _d_p_norm(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, p = args
    axes = out.node.attr("axes")
    share = abs_(x) / _safe_denominator(out)
    kept = where(x == 0.0, 1.0, share)  # 0 ** (p - 1) is infinite for p below 1
    dx = where(x == 0.0, 0.0, g * (sign(x) * kept ** (p - 1.0)))
    dp = g * (out / p * sum(xlogy(share**p, share), *axes))
    return dx, total(dp, [a for a in dp.axes if a not in p.axes], dp)


def _d_take(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, index = args
    axis = out.node.attr("axis")
    hit = x.builder.op("iota", axis=axis) == index
    extra = tuple(a for a in out.axes if a not in x.axes)
    in_range = (index >= 0) & (to_real(index) < x.builder.op("size", axis=axis))
    if extra and all(a in g.axes for a in extra):
        # A contraction: the one-hot product summed over `extra` would be large as an array.
        bad = sum(where(in_range, 0.0, math.nan) + 0.0 * g, *extra)
        return dot(where(in_range, g, 0.0), indicator(hit), *extra) + bad, None
    # Out of range nothing is hit, so the one selection also spreads the NaN.
    spread = where(hit, g, where(in_range, 0.0, math.nan))
    return total(spread, extra, out), None


def _d_pick(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, index = args
    hit = x.builder.op("iota", axis=out.node.attr("axis")) == index
    return where(hit, g, 0.0), None


def _d_put(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    index = args[1]
    axis = out.node.attr("axis")
    g = broadcast(g, *out.axes)
    return put(g, index, 0.0, axis), None, total_missing(pick(g, index, axis), args[2], out)


def _d_log_odds_against(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, index = args
    axis = out.node.attr("axis")
    return put(g * softmax_others(x, index, axis), index, -g, axis), None


def _d_softmax_others(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    axis = out.node.attr("axis")
    return out * (g - total(g * out, [axis], out)), None


def _d_logistic_nll(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    x, target = args
    # Not sigmoid(x) - target, which is 0 at x = 20, target 1 in float32. The smaller of the two
    # sigmoids is chosen, not made from |x|, whose derivative at 0 would make the second one 0.
    step = indicator(x > 0.0)
    small = where(x > 0.0, sigmoid(-x), sigmoid(x))
    return g * ((step - target) - (2.0 * step - 1.0) * small), -(g * x)


def _d_rename(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    old, new = out.node.attr("old"), out.node.attr("new")
    if new not in g.axes:
        return (g,)
    return (g.builder.op("rename", g, old=new, new=old),)


def _d_shift(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    axis, by = out.node.attr("axis"), out.node.attr("by")
    return (shift(broadcast(g, axis), axis, -by, 0.0),)


def _d_flip(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    axis = out.node.attr("axis")
    return (flip(broadcast(g, axis), axis),)


def _d_attach(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    gradient = args[2]
    # The value's own gradients stay; its author stops those in x (see stop_gradient).
    return g, damped(gradient, g), None


def _d_scan(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
    """The adjoint of a recursion is the same kind of recursion, run the other way.

    With carries C_t = f(C_{t-1}, x_t): D_t = G_t + (df/dC at t+1)^T D_{t+1}, a scan; what x_t gets
    is (df/dx at t)^T D_t, for all steps at once.
    """
    from lossbridge.passes.differentiate import pull_back

    b = out.builder
    axis, reverse = out.node.attr("axis"), bool(out.node.attr("reverse"))
    body: Graph = out.node.attr("body")
    step = -1 if reverse else 1
    init, captures = args[0], args[1:]
    g = broadcast(g, *out.axes)

    def later(x: Expr) -> Expr:  # x at the step that reads this one's carry
        return shift(x, axis, -step, 0.0) if axis in x.axes else x

    inner = Builder(b.layout, parent=b)
    inner.scan_axis = axis
    carry = inner.input("carry", Type("real", body.nodes[body.output("carry")].type.axes), "carry")
    names = {f"c{k}": inner.lift(later(c)) for k, c in enumerate(captures)}
    replay = inline(inner, body, {"carry": inner.lift(out), **names})
    back = pull_back(
        inner, replay[body.output("carry")], carry, [replay[_input_row(body, "carry")]]
    )[0]
    total_d = inner.lift(g) + back if back is not None else inner.lift(g) + 0.0 * carry
    nothing = broadcast(b.const(0.0), *carry.axes)
    d = _make_scan(b, inner, axis, nothing, carry, total_d, reverse=not reverse)

    # All steps at once: the body over whole arrays, the carry being the previous step's.
    position = b.op("iota", axis=axis)
    edge = position == 0 if not reverse else to_real(position) == b.op("size", axis=axis) - 1.0
    previous = where(edge, init, shift(out, axis, step, 0.0))
    whole = inline(b, body, {"carry": previous, **{f"c{k}": c for k, c in enumerate(captures)}})
    grads = pull_back(
        b,
        whole[body.output("carry")],
        d,
        [previous, *captures],
    )
    d_init = None if grads[0] is None else total(where(edge, grads[0], 0.0), [axis], out)
    result: list[Expr | None] = [None if d_init is None else unbroadcast(d_init, nothing, init)]
    result.extend(grads[1:])  # summed already over the axes that a capture lacks
    return result


def fit_scan(
    b: Builder, args: list[Expr], attrs: Mapping[str, Attr]
) -> tuple[list[Expr], dict[str, Attr]]:
    """A recursion on operands of other axes than its body was made for.

    A step inside another is replayed for all of the outer's steps at once, in the derivative: what
    it reads has the outer's axis then, and so has its carry.
    """
    body: Graph = attrs["body"]
    axis: str = attrs["axis"]
    rows = dict(body.inputs())
    wanted = {
        f"c{k}": Type(c.type.dtype, tuple(a for a in c.axes if a != axis))
        for k, c in enumerate(args[1:])
    }
    carry = body.nodes[body.output("carry")].type
    whole = set(args[0].axes) <= set(carry.axes)
    if whole and all(body.nodes[rows[name]].type == t for name, t in wanted.items()):
        return args, dict(attrs)
    axes = b.order({*args[0].axes, *(a for a in carry.axes)})
    while True:
        inner = Builder(b.layout)
        inputs = {"carry": inner.input("carry", Type("real", axes), "carry")}
        for name, type_ in wanted.items():
            inputs[name] = inner.input(name, type_, "capture")
        result = inline(inner, body, inputs)[body.output("carry")]
        if set(result.axes) <= set(axes):
            break
        axes = b.order({*axes, *result.axes})
    fitted = inner.finish(carry=broadcast(result, *axes))
    return [broadcast(args[0], *axes), *args[1:]], {**attrs, "body": fitted}


def _input_row(graph: Graph, name: str) -> int:
    for key, index in graph.inputs():
        if key == name:
            return index
    raise KeyError(name)


def _make_scan(
    b: Builder, inner: Builder, axis: str, init: Expr, carry: Expr, result: Expr, *, reverse: bool
) -> Expr:
    body = inner.finish(carry=result)
    # Only what a step reads is handed to it: a value captured for nothing would tie the recursion
    # to what it does not depend on.
    read = {a for node in body.nodes for a in node.args} | {body.output("carry")}
    used = [k for k in range(len(inner.captures)) if _input_row(body, f"c{k}") in read]
    names = {f"c{k}": f"c{new}" for new, k in enumerate(used)}
    slim = Builder(body.layout)
    values: list[Expr] = []
    for node in body.nodes:
        name = node.attr("name") if node.op == "input" else None
        if name is not None and name != "carry":
            if name not in names:
                values.append(slim.const(0.0))
                continue
            attrs = tuple((k, names[name] if k == "name" else v) for k, v in node.attrs)
            values.append(slim.row("input", (), attrs, node.type))
        else:
            values.append(
                slim.row(node.op, tuple(values[a].index for a in node.args), node.attrs, node.type)
            )
    captured = [inner.captures[k][0] for k in used]
    return b.op(
        "scan",
        init,
        *captured,
        axis=axis,
        body=slim.finish(carry=values[body.output("carry")]),
        reverse=reverse or None,
    )


# --- expansions of composites ------------------------------------------------------------------


def count(like: Expr, axes: Sequence[str]) -> Expr:
    """How many elements axes of a value have together."""
    n = like.builder.const(1.0)
    for axis in axes:
        n = n * _length(like, axis)
    return n


def _x_mean(x: Expr, axes: tuple[str, ...]) -> Expr:
    return sum(x, *axes) / count(x, axes)


def _x_sigmoid(x: Expr) -> Expr:
    e = exp(-abs_(x))
    return where(x >= 0.0, 1.0, e) / (1.0 + e)


def _x_softplus(x: Expr) -> Expr:
    return maximum(x, 0.0) + log1p(exp(-abs_(x)))


def safe_max(x: Expr, axes: tuple[str, ...]) -> Expr:
    """The maximum, or 0 where that is infinite: -inf - -inf would be NaN."""
    m = amax(x, *axes)
    return where(abs_(m) == INF, 0.0, m)


def _x_logsumexp(x: Expr, axes: tuple[str, ...]) -> Expr:
    m = safe_max(x, axes)
    return m + log(sum(exp(x - m), *axes))


def _x_softmax(x: Expr, axes: tuple[str, ...]) -> Expr:
    e = exp(x - safe_max(x, axes))
    return e / sum(e, *axes)


def _rest(x: Expr, axes: tuple[str, ...]) -> tuple[Expr, Expr, Expr, Expr]:
    """Shifted logits, where the maxima are, and the sum of the others with one maximum left out.

    log(sum exp) as log1p of what is left keeps full relative accuracy where one class dominates:
    log(1 + 2e-9) is 0 in float32, log1p(2e-9) is not.
    """
    m = safe_max(x, axes)
    d = x - m
    e = exp(d)
    top = x == m
    ties = sum(indicator(top), *axes)
    return d, e, top, (ties - 1.0) + sum(where(top, 0.0, e), *axes)


def _x_log_softmax(x: Expr, axes: tuple[str, ...]) -> Expr:
    d, _, _, rest = _rest(x, axes)
    return d - log1p(rest)


def others(x: Expr, index: Expr, axis: str) -> tuple[Expr, Expr, Expr]:
    """The maximum, exp(x - maximum) without the indexed entry, and its sum.

    The maximum is over all entries: where the indexed one leads by more than 87, what is left
    underflows in float32, as do the loss and the gradient themselves.
    """
    m = safe_max(x, (axis,))
    e = put(exp(x - m), index, 0.0, axis)
    return m, e, sum(e, axis)


def _x_log_odds_against(x: Expr, index: Expr, axis: str) -> Expr:
    m, _, s = others(x, index, axis)
    return (m - take(x, index, axis)) + log(s)


def _x_softmax_others(x: Expr, index: Expr, axis: str) -> Expr:
    _, e, s = others(x, index, axis)
    return e / _safe_denominator(s)


def _x_put(x: Expr, index: Expr, value: Expr, axis: str) -> Expr:
    return where(x.builder.op("iota", axis=axis) == index, value, x)


def _x_logistic_nll(x: Expr, target: Expr) -> Expr:
    # With t = sigmoid(-|x|), log(1 + exp(-|x|)) = -log(1 - t): one exponential serves value and
    # gradient. Both terms are non-negative, so nothing cancels.
    step = indicator(x > 0.0)
    # A certain and right logit may be infinite.
    return weigh(step - target, x) - log1p(-sigmoid(-abs_(x)))


def _x_softmax_complement(x: Expr, axes: tuple[str, ...]) -> Expr:
    _, e, top, rest = _rest(x, axes)
    s = 1.0 + rest
    return where(top, rest, s - e) / s


def _majority(x: Expr, axes: tuple[str, ...]) -> tuple[Expr, Expr]:
    """Where a class has more than half of the probability, and the values with that one at -inf."""
    most = softmax(x, *axes) > 0.5
    return most, where(most, -INF, x)


def _x_log_softmax_complement(x: Expr, axes: tuple[str, ...]) -> Expr:
    # Small ones by log1p (in float64, XLA's is off by 128 units in the last place at -0.41).
    # The complement of a large one may underflow; the logarithm of the others' sum does not.
    d = x - safe_max(x, axes)
    p = softmax(d, *axes)
    most, below = _majority(d, axes)
    led = logsumexp(below, *axes) - logsumexp(d, *axes)
    few = p < 0.25
    rest = log(where(few | most, 1.0, softmax_complement(d, *axes)))
    return where(most, led, where(few, log1p(-where(few, p, 0.0)), rest))


def _scaled(x: Expr, axes: tuple[str, ...]) -> tuple[Expr, Expr, Expr]:
    """Scale by the largest component, so that squares neither overflow nor vanish."""
    m = amax(abs_(x), *axes)
    s = where((m == 0.0) | (m == INF), 1.0, m)
    r = x / s
    return s, r, sum(r * r, *axes)


def _x_norm(x: Expr, axes: tuple[str, ...]) -> Expr:
    s, _, q = _scaled(x, axes)
    return s * sqrt(q)


def _x_normalize(x: Expr, axes: tuple[str, ...]) -> Expr:
    _, r, q = _scaled(x, axes)
    return r / sqrt(_safe_denominator(q))


def _x_reject(x: Expr, u: Expr, axes: tuple[str, ...]) -> Expr:
    # Twice is enough: what rounding leaves along u after the first time is as large as the result
    # where x is nearly parallel to u.
    once = x - u * sum(x * u, *axes)
    return once - u * sum(once * u, *axes)


def _apart(x: Expr, y: Expr) -> Expr:
    """x - y without what both are made of: (a - b + e) - (a - c + e) as c - b."""
    while x.node.op == y.node.op and x.node.op in ("add", "sub"):
        a, b = ([Expr(v.builder, k) for k in v.node.args] for v in (x, y))
        if x.node.op == "add":
            pairs = ((i, j) for i in (0, 1) for j in (0, 1) if a[i].index == b[j].index)
            shared = next(pairs, None)
            if shared is None:
                break
            x, y = a[1 - shared[0]], b[1 - shared[1]]
        elif a[0].index == b[0].index:
            x, y = b[1], a[1]
        elif a[1].index == b[1].index:
            x, y = a[0], b[0]
        else:
            break
    return x - y


def _x_abs_difference(x: Expr, y: Expr) -> Expr:
    d = _apart(x, y)
    return where((x > 0.0) & (y > 0.0), d, where((x < 0.0) & (y < 0.0), -d, abs_(x) - abs_(y)))


def _x_norm_difference(x: Expr, y: Expr, axes: tuple[str, ...]) -> Expr:
    # (|x|^2 - |y|^2) / (|x| + |y|), component by component: |x| - |y| loses what x and y share.
    a, b = norm(x, *axes), norm(y, *axes)
    half = 0.5 * a + 0.5 * b
    weight = (0.5 * abs_(x) + 0.5 * abs_(y)) / where((half == 0.0) | (half == INF), 1.0, half)
    return where(half == INF, a - b, sum(_x_abs_difference(x, y) * weight, *axes))


def _x_normalize_difference(x: Expr, y: Expr, axes: tuple[str, ...]) -> Expr:
    # x/|x| - y/|y| = (x - y - (|x| - |y|) y/|y|) / |x|, dividing by the larger norm. Components of
    # opposite sign do not cancel.
    a, b = norm(x, *axes), norm(y, *axes)
    u, v = normalize(x, *axes), normalize(y, *axes)
    apart = _apart(x, y) - where(a > b, v, u) * norm_difference(x, y, *axes)
    together = ((x > 0.0) & (y > 0.0)) | ((x < 0.0) & (y < 0.0))
    return where(together, apart / _safe_denominator(maximum(a, b)), u - v)


def _x_p_norm(x: Expr, p: Expr, axes: tuple[str, ...]) -> Expr:
    m = amax(abs_(x), *axes)
    s = where((m == 0.0) | (m == INF), 1.0, m)
    return s * sum((abs_(x) / s) ** p, *axes) ** (1.0 / p)


def _x_log_cosh(x: Expr) -> Expr:
    a = abs_(x)
    e = expm1(minimum(a, 1.0))
    sinh = 0.5 * (e + e / (e + 1.0))
    return where(a < 1.0, 0.5 * log1p(sinh * sinh), (a - LOG2) + log1p(exp(-2.0 * a)))


def _x_log1mexp(u: Expr) -> Expr:
    return where(u < LOG2, log(-expm1(-u)), log1p(-exp(-u)))


def _x_kl_phi(t: Expr) -> Expr:
    """(1+t) log1p(t) - t = t s + (1+t) 2 s^3 (1/3 + s^2/5 + ...), s = t/(2+t), where it cancels."""
    near = abs_(t) < 0.5
    u = where(near, t, 0.0)
    s = u / (2.0 + u)
    s2 = s * s
    tail = t.builder.const(1.0 / 37.0)
    for k in range(35, 1, -2):
        tail = tail * s2 + 1.0 / k
    series = u * s + (1.0 + u) * (2.0 * s * (s2 * tail))
    far = xlogy(1.0 + t, 1.0 + t) - t
    return where(near, series, far)


def _x_weigh(a: Expr, x: Expr) -> Expr:
    return where(a == 0.0, 0.0, a * x)


def _x_xlogy(x: Expr, y: Expr) -> Expr:
    return where(x == 0.0, 0.0, x * log(y))


def _x_logaddexp(a: Expr, b: Expr) -> Expr:
    # Equal ones apart, since -inf - -inf is NaN. Not by the maximum: XLA's drops a NaN, and -inf
    # beside a NaN came out as -inf.
    apart = where(a == b, 0.0, abs_(a - b))
    return maximum(a, b) + log1p(exp(-apart))


def _x_compare(a: Expr, b: Expr) -> Expr:
    # Not sign(a - b): a platform that flushes subnormals makes 1.5e-38 - 1.4e-38 zero.
    return where(a == b, 0.0, where(a > b, 1.0, where(a < b, -1.0, math.nan)))


def _x_sign(x: Expr) -> Expr:
    return compare(x, 0.0)


def _x_cosh(x: Expr) -> Expr:
    return 0.5 * (exp(x) + exp(-x))


# --- bounds ------------------------------------------------------------------------------------


def _span(*corners: float) -> tuple[float, float]:
    if any(math.isnan(c) for c in corners):
        return -INF, INF
    return min(corners), max(corners)


def _b_mul(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    def times(x: float, y: float) -> float:
        return 0.0 if x == 0.0 or y == 0.0 else x * y

    return _span(*(times(x, y) for x in a for y in b))


def _b_exp(a: tuple[float, float]) -> tuple[float, float]:
    def safe(x: float) -> float:
        return INF if x > 700.0 else math.exp(x)

    return safe(a[0]), safe(a[1])


def _b_abs(a: tuple[float, float]) -> tuple[float, float]:
    lo, hi = abs(a[0]), abs(a[1])
    return (0.0 if a[0] <= 0.0 <= a[1] else min(lo, hi)), max(lo, hi)


def _b_sub(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return _span(a[0] - b[1], a[1] - b[0])


def _b_add(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return _span(a[0] + b[0], a[1] + b[1])


UNIT = (0.0, 1.0)
HALF_LINE = (0.0, INF)


# --- the table ---------------------------------------------------------------------------------

V1, V2, V3 = ("value",), ("value", "value"), ("value", "value", "value")
REAL = _elementwise("real")
BOOL = _elementwise("bool")
INT = _elementwise("int")


def _unary(
    name: str,
    doc: str,
    d: Callable[[Expr, Expr], Operand] | None,
    *,
    expand: Expand | None = None,
    bounds: Bounds | None = None,
) -> Op:
    def vjp(args: list[Expr], out: Expr, g: Expr) -> Sequence[Expr | None]:
        return (None if d is None else g * d(args[0], out),)

    return Op(name, V1, REAL, doc, None if d is None else vjp, expand=expand, bounds=bounds)


def _compare_row(name: str, doc: str) -> Op:
    return Op(name, V2, BOOL, doc, operands="same")


_ROWS = (
    # leaves; their types are given, never inferred
    Op("input", (), REAL, "a named input", operands="any", elementwise=False),
    Op("const", (), REAL, "a number", operands="any", elementwise=False),
    # elementwise, one operand
    Op("neg", V1, REAL, "-x", lambda a, o, g: (-g,), bounds=lambda a: (-a[1], -a[0])),
    _unary("abs", "|x|; gradient 0 at 0", lambda x, o: sign(x), bounds=_b_abs),
    _unary("sign", "-1, 0 or 1; no gradient", None, expand=_x_sign, bounds=lambda a: (-1.0, 1.0)),
    Op("exp", V1, REAL, "e**x", lambda a, o, g: (damped(o, g),), bounds=_b_exp),
    _unary(
        "expm1",
        "e**x - 1, accurate near 0",
        lambda x, o: exp(x),
        bounds=lambda a: (-1.0 if a[0] < 0.0 else 0.0, INF),
    ),
    Op("log", V1, REAL, "natural logarithm", lambda a, o, g: (g / a[0],)),
    Op(
        "log1p",
        V1,
        REAL,
        "log(1 + x), accurate near 0",
        lambda a, o, g: (g / (1.0 + a[0]),),
        bounds=lambda a: (0.0 if a[0] >= 0.0 else -INF, INF),
    ),
    Op(
        "sqrt",
        V1,
        REAL,
        "square root; at_zero='zero' states a gradient 0 at 0",
        _d_sqrt,
        bounds=lambda a: HALF_LINE,
    ),
    Op(
        "sigmoid",
        V1,
        REAL,
        "1 / (1 + exp(-x))",
        lambda a, o, g: (damped(o * sigmoid(-a[0]), g),),
        expand=_x_sigmoid,
        bounds=lambda a: UNIT,
    ),
    Op(
        "softplus",
        V1,
        REAL,
        "log(1 + exp(x))",
        lambda a, o, g: (damped(sigmoid(a[0]), g),),
        expand=_x_softplus,
        bounds=lambda a: HALF_LINE,
    ),
    # 1 - tanh**2 cancels where |x| > 9 in float32.
    _unary(
        "tanh",
        "hyperbolic tangent",
        lambda x, o: 4.0 * (sigmoid(2.0 * x) * sigmoid(-2.0 * x)),
        bounds=lambda a: (-1.0, 1.0),
    ),
    _unary("sin", "sine", lambda x, o: cos(x), bounds=lambda a: (-1.0, 1.0)),
    _unary("cos", "cosine", lambda x, o: -sin(x), bounds=lambda a: (-1.0, 1.0)),
    _unary(
        "cosh",
        "hyperbolic cosine",
        lambda x, o: 0.5 * (expm1(x) - expm1(-x)),
        expand=_x_cosh,
        bounds=lambda a: (1.0, INF),
    ),
    _unary(
        "log_cosh",
        "log(cosh(x)), accurate everywhere",
        lambda x, o: tanh(x),
        expand=_x_log_cosh,
        bounds=lambda a: HALF_LINE,
    ),
    _unary(
        "less_square",
        "1 - x**2, accurate near -1 and 1",
        lambda x, o: -2.0 * x,
        expand=lambda x: (1.0 - x) * (1.0 + x),
        bounds=lambda a: (-INF, 1.0),
    ),
    _unary(
        "log1mexp",
        "log(1 - exp(-x)) for x > 0",
        lambda x, o: exp(-x) / -expm1(-x),
        expand=_x_log1mexp,
    ),
    Op(
        "logistic_nll",
        V2,
        REAL,
        "-y log(sigmoid(x)) - (1 - y) log(1 - sigmoid(x))",
        _d_logistic_nll,
        expand=_x_logistic_nll,
    ),
    _unary(
        "kl_phi",
        "(1 + x) log(1 + x) - x for x >= -1, accurate near 0",
        lambda x, o: log1p(x),
        expand=_x_kl_phi,
        bounds=lambda a: HALF_LINE,
    ),
    # elementwise, two operands
    Op(
        "add",
        V2,
        _arithmetic,
        "x + y",
        lambda a, o, g: (g, g),
        operands="arithmetic",
        bounds=_b_add,
    ),
    Op(
        "sub",
        V2,
        _arithmetic,
        "x - y",
        lambda a, o, g: (g, -g),
        operands="arithmetic",
        bounds=_b_sub,
    ),
    Op(
        "mul",
        V2,
        _arithmetic,
        "x y",
        lambda a, o, g: (g * a[1], g * a[0]),
        operands="arithmetic",
        bounds=_b_mul,
    ),
    Op(
        "div",
        V2,
        REAL,
        "x / y",
        _d_div,
        bounds=lambda a, b: HALF_LINE if a[0] >= 0.0 and b[0] >= 0.0 else (-INF, INF),
    ),
    Op(
        "pow",
        V2,
        REAL,
        "x ** y",
        _d_pow,
        bounds=lambda a, b: HALF_LINE if a[0] >= 0.0 else (-INF, INF),
    ),
    Op(
        "maximum",
        V2,
        REAL,
        "the larger; ties split the gradient evenly",
        _d_maximum,
        bounds=lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    ),
    Op(
        "minimum",
        V2,
        REAL,
        "the smaller; ties split the gradient evenly",
        _d_minimum,
        bounds=lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    ),
    Op(
        "compare",
        V2,
        REAL,
        "the sign of x - y, by comparison; no gradient",
        expand=_x_compare,
        bounds=lambda a, b: (-1.0, 1.0),
    ),
    Op("xlogy", V2, REAL, "x log(y), 0 where x is 0", _d_xlogy, expand=_x_xlogy),
    Op(
        "weigh",
        V2,
        REAL,
        "x y, 0 where x is 0, whatever y is",
        _d_weigh,
        expand=_x_weigh,
        bounds=_b_mul,
    ),
    Op("logaddexp", V2, REAL, "log(exp(x) + exp(y))", _d_logaddexp, expand=_x_logaddexp),
    # conditions and selection
    _compare_row("lt", "x < y"),
    _compare_row("le", "x <= y"),
    _compare_row("gt", "x > y"),
    _compare_row("ge", "x >= y"),
    _compare_row("eq", "x == y"),
    _compare_row("ne", "x != y"),
    Op("and", V2, BOOL, "both conditions", operands="bool"),
    Op("or", V2, BOOL, "either condition", operands="bool"),
    Op("not", V1, BOOL, "the opposite condition", operands="bool"),
    Op(
        "where",
        V3,
        _where,
        "x where the condition holds, else y",
        lambda a, o, g: (None, where(a[0], g, 0.0), where(a[0], 0.0, g)),
        operands="any",
        bounds=lambda c, a, b: (min(a[0], b[0]), max(a[1], b[1])),
    ),
    Op(
        "clip",
        V3,
        REAL,
        "x held between two ends; gradient inside the closed interval",
        _d_clip,
        bounds=lambda a, lo, hi: (max(a[0], lo[0]), min(a[1], hi[1])),
    ),
    Op(
        "indicator",
        V1,
        REAL,
        "1 where the condition holds, else 0",
        operands="bool",
        bounds=lambda a: UNIT,
    ),
    Op("to_real", V1, REAL, "an integer as a real number", operands="int"),
    Op("mod", V2, INT, "remainder of non-negative integers", operands="int"),
    Op("intdiv", V2, INT, "quotient of non-negative integers", operands="int"),
    # reductions
    Op(
        "sum",
        ("value", "axes"),
        _reduce("sum"),
        "sum over axes",
        lambda a, o, g: (g,),
        attrs=("axes",),
        elementwise=False,
        bounds=lambda a: HALF_LINE if a[0] >= 0.0 else (-INF, INF),
    ),
    Op(
        "mean",
        ("value", "axes"),
        _reduce("mean"),
        "mean over axes",
        _d_mean,
        attrs=("axes",),
        elementwise=False,
        expand=_x_mean,
        bounds=lambda a: a,
    ),
    Op(
        "amax",
        ("value", "axes"),
        _reduce("amax"),
        "largest value; ties split evenly",
        _d_amax,
        attrs=("axes",),
        elementwise=False,
        bounds=lambda a: a,
    ),
    Op(
        "any",
        ("value", "axes"),
        _reduce("any"),
        "whether any condition holds",
        attrs=("axes",),
        operands="bool",
        elementwise=False,
    ),
    Op(
        "all",
        ("value", "axes"),
        _reduce("all"),
        "whether all conditions hold",
        attrs=("axes",),
        operands="bool",
        elementwise=False,
    ),
    Op(
        "dot",
        ("value", "value", "axes"),
        _dot,
        "sum of products over axes",
        _d_dot,
        attrs=("axes",),
        elementwise=False,
    ),
    Op(
        "logsumexp",
        ("value", "axes"),
        _reduce("logsumexp"),
        "log of the sum of exponentials",
        lambda a, o, g: (g * softmax(a[0], *o.node.attr("axes")),),
        attrs=("axes",),
        elementwise=False,
        expand=_x_logsumexp,
    ),
    Op(
        "softmax",
        ("value", "axes"),
        _keep("softmax"),
        "exponentials that sum to 1",
        _d_softmax,
        attrs=("axes",),
        elementwise=False,
        expand=_x_softmax,
        bounds=lambda a: UNIT,
    ),
    Op(
        "softmax_complement",
        ("value", "axes"),
        _keep("softmax_complement"),
        "1 - softmax, accurate where one class dominates",
        _d_softmax_complement,
        attrs=("axes",),
        elementwise=False,
        expand=_x_softmax_complement,
        bounds=lambda a: UNIT,
    ),
    Op(
        "log_softmax_complement",
        ("value", "axes"),
        _keep("log_softmax_complement"),
        "log of 1 - softmax, finite where one class dominates",
        _d_log_softmax_complement,
        attrs=("axes",),
        elementwise=False,
        expand=_x_log_softmax_complement,
        bounds=lambda a: (-INF, 0.0),
    ),
    Op(
        "log_softmax",
        ("value", "axes"),
        _keep("log_softmax"),
        "log of softmax, accurate where one class dominates",
        _d_log_softmax,
        attrs=("axes",),
        elementwise=False,
        expand=_x_log_softmax,
        bounds=lambda a: (-INF, 0.0),
    ),
    Op(
        "norm",
        ("value", "axes"),
        _reduce("norm"),
        "Euclidean norm; gradient 0 at 0",
        lambda a, o, g: (g * normalize(a[0], *o.node.attr("axes")),),
        attrs=("axes",),
        elementwise=False,
        expand=_x_norm,
        bounds=lambda a: HALF_LINE,
    ),
    Op(
        "normalize",
        ("value", "axes"),
        _keep("normalize"),
        "x / |x|, 0 at 0",
        _d_normalize,
        attrs=("axes",),
        elementwise=False,
        expand=_x_normalize,
        bounds=lambda a: (-1.0, 1.0),
    ),
    Op(
        "p_norm",
        ("value", "value", "axes"),
        _reduce_all("p_norm"),
        "sum(|x| ** p) ** (1 / p); gradient 0 at 0",
        _d_p_norm,
        attrs=("axes",),
        elementwise=False,
        expand=_x_p_norm,
        bounds=lambda a, p: HALF_LINE,
    ),
    Op(
        "reject",
        ("value", "value", "axes"),
        _keep_all("reject"),
        "what of x is across the unit vector u: x - u sum(x u)",
        _d_reject,
        attrs=("axes",),
        elementwise=False,
        expand=_x_reject,
    ),
    Op(
        "abs_difference",
        V2,
        REAL,
        "|x| - |y|, accurate where x and y share a term",
        _d_abs_difference,
        expand=_x_abs_difference,
    ),
    Op(
        "norm_difference",
        ("value", "value", "axes"),
        _reduce_all("norm_difference"),
        "|x| - |y|, accurate where x and y share a term",
        _d_norm_difference,
        attrs=("axes",),
        elementwise=False,
        expand=_x_norm_difference,
    ),
    Op(
        "normalize_difference",
        ("value", "value", "axes"),
        _keep_all("normalize_difference"),
        "x / |x| - y / |y|, accurate where x and y share a term",
        _d_normalize_difference,
        attrs=("axes",),
        elementwise=False,
        expand=_x_normalize_difference,
    ),
    Op(
        "restate",
        V2,
        REAL,
        "x, whose gradient is that of y: two forms of one quantity",
        lambda a, o, g: (None, g),
        expand=lambda x, y: x,
        bounds=lambda a, b: a,
    ),
    # axes
    Op(
        "size",
        ("axis",),
        _axis_only("real", keeps=False),
        "length of an axis; of a group the product, or its leading axis",
        attrs=("axis",),
        elementwise=False,
        bounds=lambda: HALF_LINE,
    ),
    Op(
        "iota",
        ("axis",),
        _axis_only("int", keeps=True),
        "0, 1, 2, ... along an axis",
        attrs=("axis",),
        elementwise=False,
    ),
    Op(
        "range",
        ("axis", "value"),
        _range,
        "0 ... n-1 along a new axis of length n",
        attrs=("axis",),
        elementwise=False,
    ),
    Op(
        "rename",
        ("value", "axis", "axis"),
        _rename,
        "the same value, an axis renamed",
        _d_rename,
        attrs=("old", "new"),
        operands="any",
        elementwise=False,
        bounds=lambda a: a,
    ),
    Op(
        "broadcast",
        ("value", "axes"),
        _broadcast,
        "repeat along axes",
        lambda a, o, g: (g,),
        attrs=("axes",),
        operands="any",
        elementwise=False,
        bounds=lambda a: a,
    ),
    Op(
        "shift",
        ("value", "axis", "integer", "number"),
        _shifted,
        "x[k - by] along an axis, `fill` outside",
        _d_shift,
        attrs=("axis", "by", "fill"),
        operands="any",
        elementwise=False,
    ),
    Op(
        "flip",
        ("value", "axis"),
        _keep("flip"),
        "an axis reversed",
        _d_flip,
        attrs=("axis",),
        operands="any",
        elementwise=False,
        bounds=lambda a: a,
    ),
    Op(
        "take",
        ("value", "value", "axis"),
        _take,
        "the entry at an integer index; NaN outside",
        _d_take,
        attrs=("axis",),
        operands="any",
        elementwise=False,
        bounds=lambda a, i: a,
    ),
    Op(
        "put",
        ("value", "value", "value", "axis"),
        _put,
        "x with the indexed entry replaced",
        _d_put,
        attrs=("axis",),
        operands="any",
        elementwise=False,
        expand=_x_put,
    ),
    Op(
        "log_odds_against",
        ("value", "value", "axis"),
        _take,
        "log of the sum of the other entries' exponentials, less the indexed entry",
        _d_log_odds_against,
        attrs=("axis",),
        operands="any",
        elementwise=False,
        expand=_x_log_odds_against,
    ),
    Op(
        "softmax_others",
        ("value", "value", "axis"),
        _others,
        "softmax over the entries other than the indexed one, which gets 0",
        _d_softmax_others,
        attrs=("axis",),
        operands="any",
        elementwise=False,
        expand=_x_softmax_others,
        bounds=lambda a, i: UNIT,
    ),
    Op(
        "pick",
        ("value", "value", "axis"),
        _take,
        "take, where another term of the same sum makes the gradient NaN outside",
        _d_pick,
        attrs=("axis",),
        operands="any",
        elementwise=False,
        expand=lambda x, i, axis: take(x, i, axis),
        bounds=lambda a, i: a,
    ),
    Op(
        "scan",
        ("axis", "value"),
        _scan,
        "all carries of a recursion along an axis",
        _d_scan,
        attrs=("axis", "body", "reverse"),
        operands="any",
        elementwise=False,
    ),
    # gradients stated rather than derived; functions supplied by the user
    Op("stop_gradient", V1, REAL, "x, as a constant", bounds=lambda a: a),
    Op(
        "attach_gradient",
        V3,
        _attach,
        "a value with a stated gradient in x",
        _d_attach,
        elementwise=False,
        bounds=lambda a, x, slope: a,
    ),
    Op(
        "apply",
        ("port", "value"),
        _port,
        "the value of a port",
        attrs=("port", "axes"),
        elementwise=False,
    ),
    Op(
        "derivative",
        ("port", "value"),
        _port,
        "a derivative of the sum of a port's value",
        attrs=("port", "axes", "wrt"),
        elementwise=False,
    ),
    Op(
        "segments",
        ("port",),
        _segments,
        "which map each element of a port's maps belongs to",
        attrs=("port", "axes"),
        elementwise=False,
    ),
    Op(
        "map_sizes",
        ("port",),
        _port,
        "how many elements each of a port's maps has",
        attrs=("port", "axes"),
        elementwise=False,
    ),
    Op(
        "use",
        ("value",),
        _use,
        "the reduced value of a loss this one uses",
        attrs=("name", "keys"),
        operands="any",
        elementwise=False,
    ),
)

OPS: Mapping[str, Op] = {row.name: row for row in _ROWS}


# --- what authors of losses import -------------------------------------------------------------


def _apply(name: str, *args: Operand, **attrs: Attr) -> Expr:
    return innermost(args).op(name, *args, **attrs)


def _described(value: object) -> str:
    return f"a value of the loss ({value.type})" if isinstance(value, Expr) else shown(value)


def _named(name: str, axes: Sequence[object]) -> None:
    """Refuse what is no name of an axis, such as the numbers other libraries count axes by."""
    wrong = next((a for a in axes if not isinstance(a, str)), None)
    if wrong is not None:
        raise SpecError(
            f"{name}: {shown(wrong)} was given where an axis is named; axes have the names that "
            f"the inputs declare, so write {name}(x, 'classes')",
            phase="semantic",
            code="axis",
        )


def abs_(x: Operand) -> Expr:
    """|x|; gradient 0 at 0."""
    return _apply("abs", x)


def sign(x: Operand) -> Expr:
    """-1, 0 or 1; no gradient."""
    return _apply("sign", x)


def exp(x: Operand) -> Expr:
    """e**x."""
    return _apply("exp", x)


def expm1(x: Operand) -> Expr:
    """e**x - 1, accurate near 0."""
    return _apply("expm1", x)


def log(x: Operand) -> Expr:
    """Natural logarithm."""
    return _apply("log", x)


def log1p(x: Operand) -> Expr:
    """Log(1 + x), accurate near 0."""
    return _apply("log1p", x)


def sqrt(x: Operand, *, at_zero: str | None = None) -> Expr:
    """Square root; at_zero='zero' states a gradient 0 at 0."""
    return _apply("sqrt", x, at_zero=at_zero)


def sigmoid(x: Operand) -> Expr:
    """1 / (1 + exp(-x))."""
    return _apply("sigmoid", x)


def softplus(x: Operand) -> Expr:
    """Log(1 + exp(x))."""
    return _apply("softplus", x)


def tanh(x: Operand) -> Expr:
    """Hyperbolic tangent."""
    return _apply("tanh", x)


def sin(x: Operand) -> Expr:
    """Sine."""
    return _apply("sin", x)


def cos(x: Operand) -> Expr:
    """Cosine."""
    return _apply("cos", x)


def cosh(x: Operand) -> Expr:
    """Hyperbolic cosine."""
    return _apply("cosh", x)


def log_cosh(x: Operand) -> Expr:
    """Log(cosh(x)), accurate everywhere."""
    return _apply("log_cosh", x)


def less_square(x: Operand) -> Expr:
    """1 - x**2, accurate near -1 and 1."""
    return _apply("less_square", x)


def log1mexp(x: Operand) -> Expr:
    """Log(1 - exp(-x)) for x > 0."""
    return _apply("log1mexp", x)


def kl_phi(x: Operand) -> Expr:
    """(1 + x) log(1 + x) - x for x >= -1, accurate near 0."""
    return _apply("kl_phi", x)


def maximum(x: Operand, y: Operand) -> Expr:
    """The larger; ties split the gradient evenly."""
    return _apply("maximum", x, y)


def minimum(x: Operand, y: Operand) -> Expr:
    """The smaller; ties split the gradient evenly."""
    return _apply("minimum", x, y)


def compare(x: Operand, y: Operand) -> Expr:
    """The sign of x - y, by comparison; no gradient."""
    return _apply("compare", x, y)


def xlogy(x: Operand, y: Operand) -> Expr:
    """x log(y), 0 where x is 0."""
    return _apply("xlogy", x, y)


def weigh(x: Operand, y: Operand) -> Expr:
    """X y, 0 where x is 0, whatever y is."""
    return _apply("weigh", x, y)


def logaddexp(x: Operand, y: Operand) -> Expr:
    """Log(exp(x) + exp(y))."""
    return _apply("logaddexp", x, y)


def where(condition: Operand, x: Operand, y: Operand) -> Expr:
    b = innermost((condition, x, y))
    operands = [b.lift(v) for v in (condition, x, y)]
    dtypes = {o.type.dtype for o in operands[1:]}
    if dtypes == {"int", "real"}:
        integral = all(o.type.dtype == "int" or _is_integer_const(o) for o in operands[1:])
        convert = _as_int if integral else (lambda b, e: _as_real(b, e, "where"))
        operands[1:] = [convert(b, o) for o in operands[1:]]
    elif len(dtypes) > 1:
        raise SpecError(
            f"where chooses between {' and '.join(sorted(dtypes))}; both sides must be of one type",
            phase="semantic",
            code="type",
        )
    return b.op("where", *operands)


def clip(x: Operand, lo: Operand, hi: Operand) -> Expr:
    """x held between two ends; gradient inside the closed interval."""
    return _apply("clip", x, lo, hi)


def indicator(condition: Operand) -> Expr:
    """1 where the condition holds, else 0."""
    return _apply("indicator", condition)


def to_real(x: Operand) -> Expr:
    """An integer as a real number."""
    return _apply("to_real", x)


def mod(x: Operand, n: Operand) -> Expr:
    """Remainder of non-negative integers."""
    return _apply("mod", x, n)


def intdiv(x: Operand, n: Operand) -> Expr:
    """Quotient of non-negative integers."""
    return _apply("intdiv", x, n)


def sum(x: Operand, *axes: str) -> Expr:
    """Sum over axes."""
    _named("sum", axes)
    return _apply("sum", x, axes=axes)


def mean(x: Operand, *axes: str) -> Expr:
    """Mean over axes."""
    _named("mean", axes)
    return _apply("mean", x, axes=axes)


def amax(x: Operand, *axes: str) -> Expr:
    """Largest value; ties split evenly."""
    _named("amax", axes)
    return _apply("amax", x, axes=axes)


def any_(x: Operand, *axes: str) -> Expr:
    """Whether any condition holds."""
    _named("any_", axes)
    return _apply("any", x, axes=axes)


def all_(x: Operand, *axes: str) -> Expr:
    """Whether all conditions hold."""
    _named("all_", axes)
    return _apply("all", x, axes=axes)


def dot(x: Operand, y: Operand, *axes: str) -> Expr:
    """Sum of products over axes."""
    _named("dot", axes)
    return _apply("dot", x, y, axes=axes)


def logsumexp(x: Operand, *axes: str) -> Expr:
    """Log of the sum of exponentials."""
    _named("logsumexp", axes)
    return _apply("logsumexp", x, axes=axes)


def softmax(x: Operand, *axes: str) -> Expr:
    """Exponentials that sum to 1."""
    _named("softmax", axes)
    return _apply("softmax", x, axes=axes)


def softmax_complement(x: Operand, *axes: str) -> Expr:
    """1 - softmax, accurate where one class dominates."""
    _named("softmax_complement", axes)
    return _apply("softmax_complement", x, axes=axes)


def log_softmax_complement(x: Operand, *axes: str) -> Expr:
    """Log of 1 - softmax, finite where one class dominates."""
    _named("log_softmax_complement", axes)
    return _apply("log_softmax_complement", x, axes=axes)


def log_softmax(x: Operand, *axes: str) -> Expr:
    """Log of softmax, accurate where one class dominates."""
    _named("log_softmax", axes)
    return _apply("log_softmax", x, axes=axes)


def norm(x: Operand, *axes: str) -> Expr:
    """Euclidean norm; gradient 0 at 0."""
    _named("norm", axes)
    return _apply("norm", x, axes=axes)


def normalize(x: Operand, *axes: str) -> Expr:
    """x / |x|, 0 at 0."""
    _named("normalize", axes)
    return _apply("normalize", x, axes=axes)


def p_norm(x: Operand, p: Operand, *axes: str) -> Expr:
    """Sum(|x| ** p) ** (1 / p); gradient 0 at 0."""
    _named("p_norm", axes)
    return _apply("p_norm", x, p, axes=axes)


def reject(x: Operand, u: Operand, *axes: str) -> Expr:
    """What of x is across the unit vector u: x - u sum(x u)."""
    _named("reject", axes)
    return _apply("reject", x, u, axes=axes)


def norm_difference(x: Operand, y: Operand, *axes: str) -> Expr:
    """|x| - |y|, where z is x - y computed more accurately."""
    _named("norm_difference", axes)
    return _apply("norm_difference", x, y, axes=axes)


def restate(x: Operand, y: Operand) -> Expr:
    """``x``, differentiated as ``y``: two forms of one quantity, each accurate in its place."""
    return _apply("restate", x, y)


def rename(x: Operand, old: str, new: str) -> Expr:
    """The same value, an axis renamed."""
    _named("rename", (old, new))
    return _apply("rename", x, old=old, new=new)


def broadcast(x: Operand, *axes: str) -> Expr:
    """x repeated along those of these axes that it lacks."""
    _named("broadcast", axes)
    if not isinstance(x, Expr):
        return _apply("broadcast", x, axes=axes)
    missing = tuple(a for a in axes if a not in x.axes)
    return _apply("broadcast", x, axes=missing) if missing else x


def shift(x: Operand, axis: str, by: int, fill: float) -> Expr:
    """x[k - by] along an axis, `fill` outside; ``by`` and ``fill`` are numbers."""
    _named("shift", (axis,))
    for what, number in (("by", by), ("fill", fill)):
        if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
            raise SpecError(
                f"shift: {what} is a number written into the loss, but {_described(number)} was "
                "given; an entry at a place that depends on the data is take(x, index, axis)",
                phase="semantic",
                code="literal",
            )
    if int(by) != by:
        raise SpecError(
            f"shift: by is a whole number of places, but {by} was given",
            phase="semantic",
            code="literal",
        )
    by = int(by)
    return _apply("shift", x, axis=axis, by=by, fill=fill)


def flip(x: Operand, axis: str) -> Expr:
    """An axis reversed."""
    _named("flip", (axis,))
    return _apply("flip", x, axis=axis)


def take(x: Operand, index: Operand, axis: str) -> Expr:
    """The entry at an integer index; NaN outside."""
    _named("take", (axis,))
    return _apply("take", x, index, axis=axis)


def pick(x: Operand, index: Operand, axis: str) -> Expr:
    """Take, where another term of the same sum makes the gradient NaN outside."""
    _named("pick", (axis,))
    return _apply("pick", x, index, axis=axis)


def put(x: Operand, index: Operand, value: Operand, axis: str) -> Expr:
    """x with the indexed entry replaced."""
    _named("put", (axis,))
    return _apply("put", x, index, value, axis=axis)


def softmax_others(x: Operand, index: Operand, axis: str) -> Expr:
    """Softmax over the entries other than the indexed one, which gets 0."""
    _named("softmax_others", (axis,))
    return _apply("softmax_others", x, index, axis=axis)


def stop_gradient(x: Operand) -> Expr:
    """x, as a constant."""
    return _apply("stop_gradient", x)


def attach_gradient(value: Operand, x: Operand, gradient: Operand) -> Expr:
    """``value``, whose gradient in ``x`` is stated instead of derived."""
    return _apply("attach_gradient", value, x, gradient)


def size(like: Operand, axis: str) -> Expr:
    """The length of an axis, as a real number; ``like`` is any value of the loss."""
    _named("size", (axis,))
    return innermost((like,)).root().op("size", axis=axis)


def iota(like: Operand, axis: str) -> Expr:
    """0, 1, 2, ... along an axis; ``like`` is any value of the loss."""
    _named("iota", (axis,))
    return innermost((like,)).root().op("iota", axis=axis)


def range_(axis: str, n: Operand) -> Expr:
    """0 ... n-1 along a new axis of length ``n``, made of :func:`size` and numbers."""
    _named("range_", (axis,))
    if not isinstance(n, Expr):
        raise SpecError(
            f"range_: the length {shown(n)} is a constant, and an axis of a constant length cannot "
            "be made yet; make it of the length of an axis, such as range_('k', size(x, "
            "'classes') + 1), or take an input that has the axis",
            phase="semantic",
            code="constant_length",
        )
    return _apply("range", n, axis=axis)


def scan(axis: str, init: Operand, step: Callable[[Expr], Expr], like: Expr) -> Expr:
    """All carries of ``carry = step(carry)`` along ``axis``, starting from ``init``.

    Inside ``step`` a value that has ``axis`` is seen one step at a time; ``iota(like, axis)`` is
    the number of the step. ``like`` has the axes of the carry (``init`` may be broadcast to it). A
    step may hold a scan of its own, along another axis.
    """
    b = innermost((init, like))
    if _STEPS and b.root() is _STEPS[-1].root():
        b = _STEPS[-1]  # a scan inside a step belongs to it, also where it starts from outside
    start = b.lift(init)
    axes = b.order([*start.axes, *(a for a in like.axes if a != axis)])
    return trace_scan(b, axis, broadcast(start, *axes), step)


_STEPS: list[Builder] = []  # the steps being traced, the innermost last


def trace_scan(b: Builder, axis: str, start: Expr, step: Callable[[Expr], Expr]) -> Expr:
    """A recursion whose carry has the axes of ``start``; ``step`` is traced once."""
    b.order((axis,))
    if axis in start.axes:
        raise SpecError(
            f"scan along {axis}: the carry starts with that axis, but it is one step's; start it "
            "from a value without the axis",
            phase="semantic",
            code="carry_type",
        )
    if len(_STEPS) >= MAX_SCANS:
        raise SpecError(
            f"scans stand inside each other more than {MAX_SCANS} deep; run one scan over an axis "
            "that a reshaped input has",
            phase="semantic",
            code="too_deep",
        )
    inner = Builder(b.layout, parent=b)
    inner.scan_axis = axis
    start = _as_real(b, start, "scan")
    carry = inner.input("carry", Type("real", start.axes), "carry")
    _STEPS.append(inner)
    try:
        result = inner.lift(step(carry))
    finally:
        _STEPS.pop()
    result = _as_real(inner, result, "scan")
    if not set(result.axes) <= set(carry.axes):
        raise SpecError(
            f"scan: the carry starts with axes {', '.join(carry.axes) or '(none)'}, but a step "
            f"gives {', '.join(result.axes)}; broadcast the start",
            phase="semantic",
            code="carry_type",
        )
    result = broadcast(result, *carry.axes)
    return _make_scan(b, inner, axis, start, carry, result, reverse=False)


def apply(port: str, *args: Operand) -> Expr:
    """The value of a port on these operands."""
    return _port_op("apply", port, args, None)


def derivative(port: str, *args: Operand, wrt: int | tuple[int, ...] = 0) -> Expr:
    """The derivative of the sum of a port's value in its operands ``wrt``, one after the other."""
    positions = (wrt,) if isinstance(wrt, int) else tuple(wrt)
    return _port_op("derivative", port, args, positions)


def segments(like: Operand, port: str) -> Expr:
    """For each element of a port's concatenated maps, the number of the map it belongs to."""
    return innermost((like,)).op("segments", port=port, axes=("pixels",))


def map_sizes(like: Operand, port: str) -> Expr:
    """The number of elements of each of a port's maps; ``like`` is any value of the loss."""
    return innermost((like,)).op("map_sizes", port=port, axes=("maps",))


def _port_op(op: str, port: str, args: tuple[Operand, ...], wrt: tuple[int, ...] | None) -> Expr:
    b = innermost(args)
    if b.parent is not None:
        raise SpecError(
            f"{op} of {port} stands inside a step of a scan, but a user's function is called once, "
            "for whole arrays; call it before the scan",
            phase="semantic",
            code="port_in_scan",
        )
    known = b.ports.get(port)
    if known is None:
        raise SpecError(
            f"{op}: this loss has no port {shown(port)}; it has {', '.join(b.ports) or 'none'}",
            phase="semantic",
            code="unknown_port",
        )
    if len(args) != len(known.inputs):
        raise SpecError(
            f"{op}: {port} is declared as {known}, so it takes {len(known.inputs)} value(s), but "
            f"was given {len(args)}",
            phase="semantic",
            code="arity",
        )
    for kind, arg in zip(known.inputs, args, strict=True):
        axes = b.lift(arg).axes
        if set(axes) != set(kind.axes):
            raise SpecError(
                f"{op}: {port} is declared to take {kind}, but is given a value with axes "
                f"{', '.join(axes) or '(none)'}; declare the axes it is given, or rename or "
                "broadcast the value",
                phase="semantic",
                code="port_axes",
            )
    if wrt is None:
        axes = b.order(port_axes(known))
    else:
        if not wrt or not all(0 <= w < len(args) for w in wrt):
            raise SpecError(
                f"derivative of {port}: no operand {wrt}", phase="semantic", code="arity"
            )
        axes = b.lift(args[wrt[-1]]).axes
    return b.op(op, *args, port=port, axes=axes, wrt=wrt)


def port_axes(port: Port) -> tuple[str, ...]:
    """The axes of what a port returns; maps are concatenated along an axis ``pixels``."""
    if port.output.name == "maps":
        return (*port.output.axes, "pixels")
    return port.output.axes
