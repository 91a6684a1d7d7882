"""Arithmetic on certified reals: balls, signed infinities and zeros, and reals too large to hold.

A value is one of

* a ``float`` that is exactly ``+-0``, ``+-inf`` or NaN, and follows IEEE 754,
* an ``arb`` ball: a real number with a rigorous error bound (never exactly zero; a ball that is
  not finite says nothing is known, which is what :data:`UNKNOWN` is),
* a :class:`Beyond`: a real number of known sign whose size has only a lower bound, since
  ``exp(1e308)`` has no representation of any length that fits in memory.

Balls alone are not enough: ``arb`` has no signed zero, gives NaN for ``log(0)`` and loses the sign
of what it cannot represent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from flint import arb

NAN = math.nan
INF = math.inf
UNKNOWN = arb.nan()
UNORDERED = 2  # what `compare` gives when an operand is NaN


@dataclass(frozen=True, slots=True)
class Beyond:
    """A real number of this sign, at least this large in size; how large is not known."""

    sign: int
    bound: arb


Value: TypeAlias = float | arb | Beyond


def value(x: float) -> Value:
    """An exact double."""
    if x == 0.0 or not math.isfinite(x):
        return float(x)
    return arb(float(x))


def tidy(ball: arb) -> Value:
    """A ball as a value: an exact zero becomes a float, so that it carries a sign from there on."""
    if not ball.is_finite():
        return UNKNOWN
    return 0.0 if ball.is_zero() else ball


def is_nan(x: Value) -> bool:
    """Whether a value is exactly NaN."""
    return isinstance(x, float) and math.isnan(x)


def is_zero(x: Value) -> bool:
    """Whether a value is exactly zero, of either sign."""
    return isinstance(x, float) and x == 0.0


def is_inf(x: Value) -> bool:
    """Whether a value is exactly infinite."""
    return isinstance(x, float) and math.isinf(x)


def unknown(x: Value) -> bool:
    """Whether nothing is known of a value."""
    return isinstance(x, arb) and not x.is_finite()


def ball(x: Value) -> arb:
    """A finite value as a ball; call only where infinities are dealt with."""
    if isinstance(x, float):
        return arb(x) if math.isfinite(x) else UNKNOWN
    return UNKNOWN if isinstance(x, Beyond) else x


def sign_of(x: Value) -> int | None:
    """-1, 0 or 1, or None while it is undecided."""
    if isinstance(x, float):
        return None if math.isnan(x) else (x > 0) - (x < 0)
    if isinstance(x, Beyond):
        return x.sign if x.bound > 0 else None
    return 1 if x > 0 else -1 if x < 0 else None


def up_to(high: arb) -> Value:
    """The ball of 0 <= x <= high, whose lower end is exactly 0."""
    if not high.is_finite() or high < 0:
        return UNKNOWN
    if high.is_zero():
        return 0.0
    return arb(0, high.upper()).nonnegative_part()


def neg(x: Value) -> Value:
    """-x."""
    if isinstance(x, Beyond):
        return Beyond(-x.sign, x.bound)
    return -x


def add(x: Value, y: Value) -> Value:
    """x + y."""
    if is_nan(x) or is_nan(y):
        return NAN
    if unknown(x) or unknown(y):
        return UNKNOWN
    if isinstance(x, float) and isinstance(y, float):
        return x + y
    if is_inf(x) or is_zero(y):
        return x
    if is_inf(y) or is_zero(x):
        return y
    if isinstance(x, Beyond) or isinstance(y, Beyond):
        return _add_beyond(x, y)
    return _kept(ball(x) + ball(y), ball(x), ball(y))


def _kept(result: arb, x: arb, y: arb) -> Value:
    """A sum or product of values that are not negative is not, though its radius is rounded up."""
    if sign_of(result) is None and result.is_finite() and x.lower() >= 0 and y.lower() >= 0:
        return tidy(result.nonnegative_part())
    return tidy(result)


def _add_beyond(x: Value, y: Value) -> Value:
    if not isinstance(x, Beyond):
        x, y = y, x
    assert isinstance(x, Beyond)
    if isinstance(y, Beyond):
        return Beyond(x.sign, (x.bound + y.bound).lower()) if x.sign == y.sign else UNKNOWN
    bound = (x.bound + x.sign * ball(y)).lower()
    return Beyond(x.sign, bound) if bound >= 0 else UNKNOWN


def sub(x: Value, y: Value) -> Value:
    """x - y."""
    return add(x, neg(y))


def mul(x: Value, y: Value) -> Value:
    """x y; zero times infinity is NaN."""
    if is_nan(x) or is_nan(y):
        return NAN
    if unknown(x) or unknown(y):
        return UNKNOWN
    if isinstance(x, float) and isinstance(y, float):
        return x * y
    if isinstance(x, float):
        x, y = y, x
    sign = sign_of(x)
    if isinstance(y, float):
        if y == 0.0:
            return y if sign is None else y * sign
        return UNKNOWN if sign is None else y * sign
    if isinstance(x, Beyond) or isinstance(y, Beyond):
        other = sign_of(y)
        if sign is None or other is None:
            return UNKNOWN
        return Beyond(sign * other, (_least(x) * _least(y)).lower())
    return _kept(ball(x) * ball(y), ball(x), ball(y))


def _least(x: Value) -> arb:
    """A lower bound of the size of a value."""
    return x.bound if isinstance(x, Beyond) else ball(x).abs_lower()


def div(x: Value, y: Value) -> Value:
    """x / y; a quotient by zero is infinite, 0/0 is NaN."""
    if is_nan(x) or is_nan(y):
        return NAN
    if unknown(x) or unknown(y):
        return UNKNOWN
    if isinstance(y, float):
        return _div_special(x, y)
    sign = sign_of(y)
    if isinstance(x, float):
        if x == 0.0:
            return UNKNOWN if sign is None else x * sign
        return UNKNOWN if sign is None else x * sign
    if isinstance(y, Beyond):
        return _div_beyond(x, y)
    if isinstance(x, Beyond):
        if sign is None:
            return UNKNOWN
        return Beyond(x.sign * sign, (x.bound / y.abs_upper()).lower())
    return tidy(x / y)


def _div_special(x: Value, y: float) -> Value:
    """Division by an exact zero or infinity."""
    sign = sign_of(x)
    side = math.copysign(1.0, y)
    if y == 0.0:
        if is_zero(x):
            return NAN
        return UNKNOWN if sign is None else sign * side * INF
    if is_inf(x):
        return NAN
    if isinstance(x, float):
        return x * side
    return 0.0 if sign is None else sign * side * 0.0


def _div_beyond(x: Value, y: Beyond) -> Value:
    if isinstance(x, Beyond):
        return Beyond(x.sign * y.sign, arb(0))
    sign = sign_of(x)
    if not y.bound > 0:
        return UNKNOWN
    top = (ball(x).abs_upper() / y.bound).upper()
    if sign is None:
        return tidy(arb(0, top.upper()))
    return up_to(top) if sign == y.sign else neg(up_to(top))


# --- order -----------------------------------------------------------------------------------


def compare(x: Value, y: Value) -> int | None:
    """-1, 0, 1, :data:`UNORDERED` for NaN, or None while the order is undecided."""
    if is_nan(x) or is_nan(y):
        return UNORDERED
    if unknown(x) or unknown(y):
        return None
    if is_inf(x) or is_inf(y):
        a = x if is_inf(x) else 0.0
        b = y if is_inf(y) else 0.0
        assert isinstance(a, float)
        assert isinstance(b, float)
        return (a > b) - (a < b)
    if isinstance(x, Beyond) or isinstance(y, Beyond):
        gap = sub(x, y)
        return sign_of(gap) if not unknown(gap) else None
    a_, b_ = ball(x), ball(y)
    if a_ < b_:
        return -1
    if a_ > b_:
        return 1
    return 0 if a_.is_exact() and b_.is_exact() else None


def maximum(x: Value, y: Value) -> Value:
    """The larger; NaN if either is."""
    if is_nan(x) or is_nan(y):
        return NAN
    if unknown(x) or unknown(y):
        return UNKNOWN
    if is_zero(x) and is_zero(y):
        return y if _negative_zero(x) else x
    order = compare(x, y)
    if order is not None:
        return x if order >= 0 else y
    if isinstance(x, Beyond) or isinstance(y, Beyond):
        return UNKNOWN
    return tidy(ball(x).max(ball(y)))


def _negative_zero(x: Value) -> bool:
    return isinstance(x, float) and x == 0.0 and math.copysign(1.0, x) < 0


def minimum(x: Value, y: Value) -> Value:
    """The smaller; NaN if either is."""
    return neg(maximum(neg(x), neg(y)))


def hull(x: Value, y: Value) -> Value:
    """What contains both: the value of a choice between them that is not decided."""
    if x is y or (isinstance(x, float) and isinstance(y, float) and _same_float(x, y)):
        return x
    if is_nan(x) or is_nan(y) or is_inf(x) or is_inf(y):
        return UNKNOWN
    return tidy(ball(x).union(ball(y)))


def _same_float(x: float, y: float) -> bool:
    return (math.isnan(x) and math.isnan(y)) or (
        x == y and math.copysign(1.0, x) == math.copysign(1.0, y)
    )


# --- elementary functions --------------------------------------------------------------------


def absolute(x: Value) -> Value:
    """|x|."""
    if isinstance(x, float):
        return abs(x)
    if isinstance(x, Beyond):
        return Beyond(1, x.bound)
    sign = sign_of(x)
    if sign is None and x.is_finite():
        return up_to(x.abs_upper())
    return x if sign == 1 else -x


def sign(x: Value) -> Value:
    """-1, 0 or 1; the ball of all three while undecided."""
    if isinstance(x, float):
        return x if x == 0.0 or math.isnan(x) else arb(math.copysign(1.0, x))
    found = sign_of(x)
    if found is None:
        return arb(0, 1) if not unknown(x) else UNKNOWN
    return arb(found)


def exp(x: Value) -> Value:
    """e**x."""
    if isinstance(x, float):
        return arb(1) if x == 0.0 else math.exp(x)
    if isinstance(x, Beyond):
        grown = _exp_bound(x.bound)
        return Beyond(1, grown) if x.sign > 0 else up_to((1 / grown).upper())
    if not x.is_finite():
        return UNKNOWN
    result = x.exp()
    if result.is_finite():
        return tidy(result)
    return Beyond(1, _exp_bound(x.lower())) if x > 1 else UNKNOWN


def _exp_bound(low: arb) -> arb:
    """A representable lower bound of exp(low)."""
    return low.min(arb((1, 200))).exp().lower()


def expm1(x: Value) -> Value:
    """e**x - 1."""
    if isinstance(x, float):
        return x if x == 0.0 or not math.isinf(x) or x > 0 else arb(-1)
    if isinstance(x, arb):
        result = x.expm1()
        if result.is_finite():
            return tidy(result)
    return add(exp(x), arb(-1))


def log(x: Value) -> Value:
    """The natural logarithm: -inf at 0, NaN below."""
    if isinstance(x, float):
        if x == 0.0:
            return -INF
        return x if x > 0 else NAN
    if isinstance(x, Beyond):
        if x.sign < 0:
            return NAN if x.bound > 0 else UNKNOWN
        bound = x.bound.log().lower() if x.bound > 1 else UNKNOWN
        return Beyond(1, bound) if bound >= 0 else UNKNOWN
    if x > 0:
        return tidy(x.log())
    return NAN if x < 0 else UNKNOWN


def log1p(x: Value) -> Value:
    """log(1 + x)."""
    if isinstance(x, float):
        return x if x == 0.0 or x > 0 else NAN
    if isinstance(x, Beyond):
        return log(add(x, arb(1)))
    if x > -1:
        return tidy(x.log1p())
    if x.is_exact() and x == -1:
        return -INF
    return NAN if x < -1 else UNKNOWN


def sqrt(x: Value) -> Value:
    """The square root: NaN below 0."""
    if isinstance(x, float):
        return x if x == 0.0 or x > 0 else NAN
    if isinstance(x, Beyond):
        if x.sign < 0:
            return NAN if x.bound > 0 else UNKNOWN
        return Beyond(1, x.bound.sqrt().lower()) if x.bound > 0 else Beyond(1, arb(0))
    if x > 0:
        return tidy(x.sqrt())
    if x.is_finite() and x.lower() >= 0:
        return up_to(x.upper().sqrt())
    return NAN if x < 0 else UNKNOWN


def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x))."""
    if isinstance(x, float) and x == 0.0:
        return arb(0.5)
    if (sign_of(x) or 0) < 0:
        grown = exp(x)
        return div(grown, add(arb(1), grown))
    return div(arb(1), add(arb(1), exp(neg(x))))


def softplus(x: Value) -> Value:
    """log(1 + exp(x))."""
    if isinstance(x, arb) and x.is_finite() and x.mid() > 0:
        return add(x, log1p(exp(neg(x))))
    if isinstance(x, Beyond) and x.sign > 0:
        return x
    return log1p(exp(x))


def tanh(x: Value) -> Value:
    """The hyperbolic tangent."""
    if isinstance(x, float):
        return x if x == 0.0 else value(math.tanh(x))
    if isinstance(x, Beyond):
        edge = x.bound.tanh().lower() if x.bound > 0 else arb(0)
        return tidy(x.sign * edge.union(arb(1)))
    return tidy(x.tanh())


def _wave(function: Callable[[arb], arb], at_zero: Callable[[float], Value]) -> Any:
    def apply(x: Value) -> Value:
        if isinstance(x, float):
            return at_zero(x) if x == 0.0 else NAN
        if isinstance(x, Beyond):
            return arb(0, 1)
        return tidy(function(x))

    return apply


sin = _wave(arb.sin, lambda zero: zero)
cos = _wave(arb.cos, lambda zero: arb(1))


def cosh(x: Value) -> Value:
    """The hyperbolic cosine."""
    size = absolute(x)
    return mul(arb(0.5), add(exp(size), exp(neg(size))))


def log_cosh(x: Value) -> Value:
    """log(cosh(x))."""
    size = absolute(x)
    if isinstance(size, float):
        return size
    if isinstance(size, arb) and size < 1:
        half = (size / 2).sinh()
        return tidy((2 * half * half).log1p())
    shrunk = log1p(exp(mul(arb(-2), size)))
    return add(size, sub(shrunk, arb(2).log()))


def log1mexp(u: Value) -> Value:
    """log(1 - exp(-u)) for u > 0."""
    if isinstance(u, float):
        return -INF if u == 0.0 else (-0.0 if u > 0 else NAN)
    if isinstance(u, arb) and u.is_finite() and u.mid() < 1:
        return log(neg(expm1(neg(u))))
    return log1p(neg(exp(neg(u))))


def kl_phi(t: Value) -> Value:
    """(1 + t) log(1 + t) - t for t >= -1."""
    if isinstance(t, float):
        return abs(t) if t == 0.0 or t > 0 else NAN
    if isinstance(t, arb) and t.is_exact() and t == -1:
        return arb(1)
    whole = add(arb(1), t)
    return sub(mul(whole, log1p(t)), t)


def xlogy(x: Value, y: Value) -> Value:
    """x log(y), and 0 where x is exactly 0, whatever y is."""
    if is_zero(x):
        return 0.0
    return mul(x, log(y))


def less_square(x: Value) -> Value:
    """1 - x**2."""
    return sub(arb(1), mul(x, x))


def weigh(x: Value, y: Value) -> Value:
    """x y, and 0 where x is exactly 0, whatever y is."""
    return 0.0 if is_zero(x) else mul(x, y)


def logaddexp(x: Value, y: Value) -> Value:
    """log(exp(x) + exp(y))."""
    if is_nan(x) or is_nan(y):
        return NAN
    if is_inf(x) or is_inf(y):
        return maximum(x, y) if x == INF or y == INF else (y if is_inf(x) else x)
    if compare(x, y) == -1:
        x, y = y, x
    return add(x, log1p(exp(sub(y, x))))


def logistic_nll(x: Value, y: Value) -> Value:
    """-y log(sigmoid(x)) - (1 - y) log(1 - sigmoid(x))."""
    against = weigh(sub(arb(1), y), softplus(x))
    return add(weigh(y, softplus(neg(x))), against)


# --- powers ----------------------------------------------------------------------------------


def power(x: Value, y: Value) -> Value:
    """x ** y, as IEEE 754 has it at zeros, infinities and NaN."""
    if is_zero(y) or (isinstance(x, arb) and x.is_exact() and x == 1):
        return arb(1)
    if is_nan(x) or is_nan(y):
        return NAN
    if unknown(x) or unknown(y):
        return UNKNOWN
    if is_inf(y):
        return _power_infinite(x, sign_of(y) == 1)
    if isinstance(x, float):
        return _power_of_special(x, y)
    exponent = _integer(y)
    if exponent is not None:
        return _power_integer(x, exponent)
    if sign_of(x) == -1:
        return NAN if isinstance(y, arb) and y.is_exact() else UNKNOWN
    if sign_of(x) == 1:
        return exp(mul(y, log(x)))
    if isinstance(x, arb) and x.lower() >= 0 and sign_of(y) == 1:
        top = exp(mul(y, log(tidy(x.upper()))))
        return up_to(ball(top).upper())
    return UNKNOWN


def _integer(y: Value) -> int | None:
    """The integer that an exponent exactly is."""
    if isinstance(y, arb) and y.is_exact() and y.is_integer():
        return int(y.fmpz()) if abs(y) < arb((1, 1100)) else None
    return None


def _power_infinite(x: Value, grows: bool) -> Value:
    size = compare(absolute(x), arb(1))
    if size is None:
        return UNKNOWN
    if size == 0:
        return arb(1)
    return INF if (size > 0) == grows else 0.0


def _power_of_special(x: float, y: Value) -> Value:
    """An exact zero or infinity to a power that is neither zero nor infinite."""
    up = sign_of(y)
    if up is None:
        return UNKNOWN
    exponent = _integer(y)
    odd = exponent is not None and exponent % 2 == 1
    size = abs(x) if up > 0 else (INF if x == 0.0 else 0.0)
    return math.copysign(size, x) if odd else size


def _power_integer(x: Value, n: int) -> Value:
    found = sign_of(x)
    if found is None:
        if n < 0 or not isinstance(x, arb):
            return UNKNOWN
        top = x.abs_upper() ** n
        return up_to(top.upper()) if n % 2 == 0 else tidy(arb(0, top.upper()))
    negative = found < 0 and n % 2 == 1
    if isinstance(x, arb) and abs(n) < 64:
        return tidy(x**n)
    size = exp(mul(arb(n), log(absolute(x))))
    return neg(size) if negative else size


# --- certification ---------------------------------------------------------------------------

GUARD_BITS = 5  # an enclosure narrower than 2**-5 of an ulp each way: 1/16 ulp across
TOO_SMALL = arb((1, -1075))  # half the least float64 subnormal
OVERFLOW = arb((1, 1024))


def certified(x: Value) -> bool:
    """Whether an enclosure is narrow enough to judge a float64 result (1/16 ulp), or is zero."""
    if isinstance(x, float):
        return True
    if isinstance(x, Beyond):
        return bool(x.bound >= OVERFLOW)
    if not x.is_finite():
        return False
    if x.is_exact() or x.rel_accuracy_bits() >= 53 + GUARD_BITS:
        return True
    return bool(x.abs_upper() < TOO_SMALL) or bool(x.rad() < TOO_SMALL / 16)
