"""Named rewrites that are equal over the reals and better in floating point.

``why`` names the number that fails without the rule. The tests take each rule's ``kinds``, sample
them (special values included), and demand equality in ball arithmetic and no more error bits, for
value and gradient.
"""

from __future__ import annotations

import math
from functools import lru_cache

from lossbridge.ir import Expr, Graph, const_value, is_const
from lossbridge.passes.canonicalise import TIDY
from lossbridge.rewrite import Binding, Rule, Step, Steps, Tried, bounds, rewrite


def _not_small_integer(binding: Binding) -> bool:
    g = binding["g"]
    assert isinstance(g, Expr)
    return not (is_const(g) and float(const_value(g.node)) in (0.0, 1.0, 2.0, 3.0))


def _small_const(binding: Binding) -> bool:
    a = binding["a"]
    assert isinstance(a, Expr)
    return is_const(a) and abs(float(const_value(a.node))) < 0.5


U = (("u", "real[n]"),)
AXIS = (("u", "real[n, k]"),)
LABELLED = (("u", "real[n, k]"), ("i", "index(k)[n]"))

RULES: tuple[Rule, ...] = (
    Rule(
        "log1p",
        "log(1 + u)",
        "log1p(u)",
        "1 + 1e-9 is 1 in float32",
        kinds=(("u", "non_negative[n]"),),
    ),
    Rule(
        "log_one_minus",
        "log(1 - u)",
        "log1p(-u)",
        "1 - 1e-9 is 1 in float32",
        kinds=(("u", "probability[n]"),),
    ),
    Rule(
        "root_beyond_one",
        "sqrt(1 + u * u) - 1",
        "attach_gradient(stop_gradient(where(abs(u) < 1, u * u / (sqrt(1 + u * u) + 1), "
        "sqrt(1 + where(abs(u) < 1, 0, u * u)) - 1)), u, u / sqrt(1 + u * u))",
        "of u = 1e-4, 5e-9 came out as 0 in float32",
        kinds=U,
        words="u * u / (sqrt(1 + u * u) + 1) where u is small",
    ),
    Rule("expm1", "exp(u) - 1", "expm1(u)", "exp(1e-9) is 1 in float32", kinds=U),
    Rule("one_minus_exp", "1 - exp(u)", "-expm1(u)", "exp(1e-9) is 1 in float32", kinds=U),
    Rule("softplus", "log1p(exp(u))", "softplus(u)", "exp(89) overflows float32", kinds=U),
    Rule(
        "log_sigmoid", "log(sigmoid(u))", "-softplus(-u)", "sigmoid(-104) is 0 in float32", kinds=U
    ),
    Rule(
        "one_minus_sigmoid", "1 - sigmoid(u)", "sigmoid(-u)", "sigmoid(17) is 1 in float32", kinds=U
    ),
    Rule(
        "log1p_minus_sigmoid",
        "log1p(-sigmoid(u))",
        "-softplus(u)",
        "sigmoid(17) is 1 in float32",
        kinds=U,
    ),
    Rule(
        "logsumexp",
        "log(sum(exp(u), k))",
        "logsumexp(u, k)",
        "exp(89) overflows float32",
        kinds=AXIS,
    ),
    Rule(
        "log_softmax",
        "log(softmax(u, k))",
        "log_softmax(u, k)",
        "softmax of [0, 104] has a 0 in float32",
        kinds=AXIS,
    ),
    Rule(
        "log_softmax_difference",
        "u - logsumexp(u, k)",
        "log_softmax(u, k)",
        "[20, 0] gives exactly 0 in float32",
        kinds=AXIS,
    ),
    Rule(
        "sigmoid_less_one", "sigmoid(u) - 1", "-sigmoid(-u)", "sigmoid(17) is 1 in float32", kinds=U
    ),
    Rule(
        "sqrt_of_sigmoid",
        "sqrt(sigmoid(u))",
        "exp(-0.5 * softplus(-u))",
        "at u = -1e20 the derivative 0.5 / 0 is infinite, times 0 is NaN",
        kinds=U,
    ),
    Rule(
        "softmax_less_one",
        "softmax(u, k) - 1",
        "-softmax_complement(u, k)",
        "softmax of [20, 0] is 1 in float32",
        kinds=AXIS,
    ),
    Rule(
        "softmax_complement_less_one",
        "softmax_complement(u, k) - 1",
        "-softmax(u, k)",
        "softmax of [20, 0] is 1 in float32",
        kinds=AXIS,
    ),
    Rule(
        "softmax_complement",
        "1 - softmax(u, k)",
        "softmax_complement(u, k)",
        "softmax of [20, 0] is 1 in float32",
        kinds=AXIS,
    ),
    Rule(
        "log1p_minus_softmax",
        "log1p(-softmax(u, k))",
        "log_softmax_complement(u, k)",
        "softmax of [104, 0] has no complement in float32, and its logarithm is -inf",
        kinds=AXIS,
    ),
    Rule(
        "log_softmax_complement",
        "log(softmax_complement(u, k))",
        "log_softmax_complement(u, k)",
        "softmax of [104, 0] has no complement in float32, and its logarithm is -inf",
        kinds=AXIS,
    ),
    Rule(
        "power_of_softmax_complement",
        "softmax_complement(u, k) ** g",
        "exp(g * log_softmax_complement(u, k))",
        "the derivative of 0 ** 0.5 is infinite, times 0 is NaN",
        kinds=(("u", "real[n, k]"), ("g", "positive")),
        guard=_not_small_integer,
    ),
    Rule(
        "sqrt_of_softmax_complement",
        "sqrt(softmax_complement(u, k))",
        "exp(0.5 * log_softmax_complement(u, k))",
        "the derivative 0.5 / 0 is infinite, times 0 is NaN",
        kinds=AXIS,
    ),
    Rule(
        "one_minus_softmax_complement",
        "1 - softmax_complement(u, k)",
        "softmax(u, k)",
        "softmax of [20, 0] is 1 in float32",
        kinds=AXIS,
    ),
    Rule(
        "log_take_softmax",
        "log(take(softmax(u, k), i, k))",
        "take(log_softmax(u, k), i, k)",
        "softmax of [0, 104] has a 0 in float32",
        kinds=LABELLED,
    ),
    Rule(
        "exclude_target_log_softmax",
        "take(log_softmax(u, k), i, k)",
        "-softplus(log_odds_against(u, i, k))",
        "[20, 0] with label 0: the loss is 2.06e-9, and 20 - 20 is 0",
        kinds=LABELLED,
    ),
    Rule(
        "exclude_target_softmax",
        "take(softmax(u, k), i, k)",
        "sigmoid(-log_odds_against(u, i, k))",
        "shares its parts with the logarithm of the same probability",
        kinds=LABELLED,
    ),
    Rule(
        "exclude_target_complement",
        "take(softmax_complement(u, k), i, k)",
        "sigmoid(log_odds_against(u, i, k))",
        "softmax of [20, 0] is 1 in float32",
        kinds=LABELLED,
    ),
    Rule(
        "logistic_nll",
        "a * softplus(-u) + (1 - a) * softplus(u)",
        "logistic_nll(u, a)",
        "one exponential instead of two, and no cancellation in the gradient",
        kinds=(("a", "probability[n]"), ("u", "real[n]")),
    ),
    Rule(
        "logistic_nll_of_probability",
        "weigh(a, softplus(-u)) + weigh(1 - a, softplus(u))",
        "logistic_nll(u, a)",
        "one exponential instead of two, and no cancellation in the gradient",
        kinds=(("a", "probability[n]"), ("u", "real[n]")),
    ),
    Rule(
        "logistic_nll_of_count",
        "weigh(a, softplus(-u)) + (1 - a) * softplus(u)",
        "logistic_nll(u, a)",
        "one exponential instead of two, and no cancellation in the gradient",
        kinds=(("a", "non_negative[n]"), ("u", "real[n]")),
    ),
    Rule(
        "log1mexp",
        "log(-expm1(-u))",
        "log1mexp(u)",
        "-expm1(-20) rounds to 1 in float32, and its logarithm to 0",
        given="u >= 0",
        kinds=(("u", "positive[n]"),),
    ),
    Rule(
        "log_cosh",
        "log(cosh(u))",
        "log_cosh(u)",
        "cosh(90) overflows float32, and cosh(1e-5) is 1",
        kinds=U,
    ),
    Rule(
        "norm",
        "sqrt(sum(u * u, k))",
        "norm(u, k)",
        "1e20 squared overflows float32; gradient 0 at 0 by convention",
        kinds=AXIS,
    ),
    Rule(
        "xlogy",
        "a * log(b)",
        "xlogy(a, b)",
        "0 * log(0) is NaN",
        given="a >= 0 and b >= 0",
        kinds=(("a", "non_negative[n]"), ("b", "non_negative[n]")),
        guard=lambda binding: _varies("a", binding),
    ),
    Rule(
        "weighed_softplus",
        "a * softplus(u)",
        "weigh(a, softplus(u))",
        "0 * softplus(inf) is NaN, and a class that weighs 0 costs 0 however certain the logit is",
        given="a >= 0",
        kinds=(("a", "non_negative[n]"), ("u", "real[n]")),
        written=True,
        guard=lambda binding: _may_vanish("a", binding),
    ),
    Rule(
        "weighed_log_softmax",
        "a * log_softmax(u, k)",
        "weigh(a, log_softmax(u, k))",
        "0 times the -inf of a masked class is NaN, and a class that weighs 0 costs 0",
        given="a >= 0",
        kinds=(("a", "non_negative[n]"), ("u", "real[n, k]")),
        written=True,
        guard=lambda binding: _may_vanish("a", binding),
    ),
    Rule(
        "weighed_logistic_nll",
        "a * logistic_nll(u, b)",
        "weigh(a, logistic_nll(u, b))",
        "0 * softplus(inf) is NaN, and a class that weighs 0 costs 0 however certain the logit is",
        given="a >= 0",
        kinds=(("a", "non_negative[n]"), ("u", "real[n]"), ("b", "probability[n]")),
        written=True,
        guard=lambda binding: _may_vanish("a", binding),
    ),
    Rule(
        "weighed_again",
        "a * weigh(b, u)",
        "weigh(a, weigh(b, u))",
        "0 * softplus(inf) is NaN, and a class that weighs 0 costs 0 however certain the logit is",
        given="a >= 0",
        kinds=(("a", "non_negative[n]"), ("b", "non_negative[n]"), ("u", "real[n]")),
        written=True,
        guard=lambda binding: _may_vanish("a", binding),
    ),
    # The gradients of these are stated: (a + b) + (a - b) loses digits that 2 a has.
    Rule(
        "difference_of_squares",
        "a * a - b * b",
        "attach_gradient(attach_gradient(stop_gradient((a - b) * (a + b)), a, 2 * a), b, -2 * b)",
        "1.0000001**2 - 1 loses half its bits",
        kinds=(("a", "real[n]"), ("b", "real[n]")),
    ),
    Rule(
        "one_minus_square",
        "1 - c * c",
        "less_square(c)",
        "1 - 0.9999999**2 loses half its bits",
        kinds=(("c", "real[n]"),),
    ),
    Rule(
        "log_of_sigmoid_difference",
        "log(sigmoid(u) - sigmoid(v))",
        "log1mexp(u - v) - softplus(-u) - softplus(v)",
        "sigmoid(12.001) - sigmoid(12) is 0 in float32, where its logarithm is -19",
        kinds=(("u", "real[n]"), ("v", "real[n]")),
    ),
    Rule(
        "what_was_taken_away",
        "a - (a - b)",
        "b",
        "12 - (12 - 1e-9) is 0 in float32",
        kinds=(("a", "real[n]"), ("b", "real[n]")),
        guard=lambda binding: _axes_of("b", binding) >= _axes_of("a", binding),
    ),
    Rule(
        "one_minus_less_square",
        "1 - less_square(c)",
        "c * c",
        "1 - (1 - 1e-4**2) is 0 in float32",
        kinds=(("c", "real[n]"),),
    ),
    Rule(
        "biweight",
        "1 - less_square(c) ** 3",
        "attach_gradient(stop_gradient(where(abs(c) < 1, "
        "c * c * (1 + less_square(c) + less_square(c) * less_square(c)), "
        "1 - less_square(c) * less_square(c) * less_square(c))), c, "
        "6 * (c * less_square(c) * less_square(c)))",
        "1 - (1 - 1e-4**2)**3 is 0 in float32",
        kinds=(("c", "real[n]"),),
    ),
    Rule(
        "one_minus_square_of_less_square",
        "1 - less_square(c) * less_square(c)",
        "c * c * (1 + less_square(c))",
        "1 - (1 - 1e-4**2)**2 is 0 in float32",
        kinds=(("c", "real[n]"),),
    ),
    Rule(
        "one_minus_cube",
        "1 - (1 - u) ** 3",
        "attach_gradient(stop_gradient(where(abs(u) < 1, u * (1 + (1 - u) + (1 - u) * (1 - u)), "
        "1 - (1 - u) * (1 - u) * (1 - u))), u, 3 * ((1 - u) * (1 - u)))",
        "(1 - 1e-9)**3 is 1 in float32",
        kinds=(("u", "real[n]"),),
    ),
    Rule(
        "square_less_one",
        "c * c - 1",
        "attach_gradient(stop_gradient((c - 1) * (c + 1)), c, 2 * c)",
        "0.9999999**2 - 1 loses half its bits",
        kinds=(("c", "real[n]"),),
    ),
    Rule(
        "exp_less_product",
        "exp(u) - a * u",
        "attach_gradient(attach_gradient(stop_gradient("
        "where(u > 64, u, 1) * (exp(u) / where(u > 64, u, 1) - "
        "a * (u / where(u > 64, u, 1)))), u, exp(u) - a), a, -u)",
        "at u = 1e20 and a = 1e20 both terms overflow, and inf - inf is NaN",
        kinds=(("u", "real[n]"), ("a", "non_negative[n]")),
    ),
    Rule(
        "difference_of_norms",
        "norm(u, k) - norm(v, k)",
        "norm_difference(u, v, k)",
        "of [33, 0.1] and [33, 0.2] the norms agree in all but 14 bits",
        kinds=(("u", "real[n, k]"), ("v", "real[n, k]")),
    ),
    Rule(
        "norm_less_minimum",
        "norm(u, k) - minimum(norm(v, k), norm(w, k))",
        "where(norm(v, k) < norm(w, k), norm_difference(u, v, k), "
        "where(norm(w, k) < norm(v, k), norm_difference(u, w, k), "
        "0.5 * norm_difference(u, v, k) + 0.5 * norm_difference(u, w, k)))",
        "of [33, 0.1] and [33, 0.2] the norms agree in all but 14 bits",
        kinds=(("u", "real[n, k]"), ("v", "real[n, k]"), ("w", "real[n, k]")),
    ),
    Rule(
        "difference_of_sizes",
        "sum(abs(u), k) - sum(abs(v), k)",
        "sum(abs_difference(u, v), k)",
        "of [33, 0.1] and [33, 0.2] the sums agree in all but 8 bits",
        kinds=(("u", "real[n, k]"), ("v", "real[n, k]")),
    ),
    Rule(
        "difference_of_directions",
        "g * normalize(u, k) - g * normalize(v, k)",
        "g * normalize_difference(u, v, k)",
        "of [123, 0.1] and [123, 0.2] the directions agree in all but 20 bits",
        kinds=(("g", "real[n]"), ("u", "real[n, k]"), ("v", "real[n, k]")),
    ),
    Rule(
        "scale_after_dot",
        "dot(a / s, b, k)",
        "dot(a, b, k) / s",
        "terms that cancel, such as 0.25 / 0.07 three times and -0.75 / 0.07, no longer do",
        kinds=(("a", "real[n, k]"), ("b", "real[n, k]"), ("s", "= 0.07")),
        guard=lambda binding: _below_one("s", binding),
    ),
    Rule(
        "plain_norm",
        "p_norm(u, 2, k)",
        "norm(u, k)",
        "a square is cheaper than a power",
        kinds=AXIS,
    ),
    Rule(
        "sum_of_sizes",
        "p_norm(u, 1, k)",
        "sum(abs(u), k)",
        "a size is cheaper than a power",
        kinds=AXIS,
    ),
    Rule(
        "power_of_sigmoid",
        "sigmoid(v) ** g",
        # The slope is stated, so that g does not meet a large factor before it meets a small one:
        # 2.5 * 3e38 overflows, and infinity times sigmoid(-3e38) is NaN.
        "attach_gradient(attach_gradient(stop_gradient(exp(-g * softplus(-v))), "
        "v, g * (exp(-g * softplus(-v)) * sigmoid(-v))), "
        "g, -(exp(-g * softplus(-v)) * softplus(-v)))",
        "the derivative of 0 ** 0.5 is infinite, times 0 is NaN",
        kinds=(("v", "real[n]"), ("g", "positive")),
        guard=_not_small_integer,
    ),
    Rule(
        "sign_of_difference",
        "sign(a - b)",
        "compare(a, b)",
        "1.5e-38 - 1.4e-38 is flushed to 0 on two platforms",
        kinds=(("a", "real[n]"), ("b", "real[n]")),
        differentiable=False,
    ),
    # The quotients and sums that textbooks write out.
    Rule(
        "sigmoid_spelt",
        "1 / (1 + exp(u))",
        "sigmoid(-u)",
        "exp(89) overflows float32: the derivative is 0 times infinity",
        kinds=U,
    ),
    Rule(
        "sigmoid_spelt_above",
        "exp(u) / (1 + exp(u))",
        "sigmoid(u)",
        "exp(89) overflows float32, and infinity over infinity is NaN",
        kinds=U,
    ),
    Rule(
        "softmax_spelt",
        "exp(u) / sum(exp(u), k)",
        "softmax(u, k)",
        "exp(89) overflows float32, and infinity over infinity is NaN",
        kinds=AXIS,
    ),
    Rule(
        "mean_under_softmax",
        "sum(exp(u) * a, k) / sum(exp(u), k)",
        "sum(softmax(u, k) * a, k)",
        "exp(89) overflows float32, and infinity over infinity is NaN",
        kinds=(("a", "real[n, k]"), ("u", "real[n, k]")),
    ),
    Rule(
        "cosh_spelt", "exp(u) + exp(-u)", "2 * cosh(u)", "one function, with its own slope", kinds=U
    ),
    Rule(
        "log_of_two_cosh",
        "log(2 * cosh(u))",
        "log_cosh(u) + 0.6931471805599453",
        "cosh(90) overflows float32",
        kinds=U,
    ),
    Rule(
        "less_log_two",
        "log_cosh(u) + 0.6931471805599453 - 0.6931471805599453",
        "log_cosh(u)",
        "log_cosh(1e-4) + log(2) is log(2) in float32",
        kinds=U,
    ),
    Rule(
        "logaddexp",
        "log(exp(u) + exp(v))",
        "logaddexp(u, v)",
        "exp(89) overflows float32",
        kinds=(("u", "real[n]"), ("v", "real[n]")),
    ),
    Rule(
        "logmeanexp",
        "log(mean(exp(u), k))",
        "logsumexp(u, k) - log(size(k))",
        "exp(89) overflows float32",
        kinds=AXIS,
    ),
    Rule(
        "less_square_of_tanh",
        "less_square(tanh(u))",
        "attach_gradient(stop_gradient(4 * (sigmoid(2 * u) * sigmoid(-2 * u))), u, "
        "-8 * (tanh(u) * (sigmoid(2 * u) * sigmoid(-2 * u))))",
        "1 - tanh(10)**2 is 0 in float32",
        kinds=U,
    ),
    Rule(
        "one_minus_tanh",
        "1 - tanh(u)",
        "2 * sigmoid(-2 * u)",
        "tanh(10) is 1 in float32",
        kinds=U,
    ),
    Rule(
        "one_plus_tanh",
        "1 + tanh(u)",
        "2 * sigmoid(2 * u)",
        "tanh(-10) is -1 in float32",
        kinds=U,
    ),
    Rule(
        "one_minus_cos",
        "1 - cos(u)",
        "2 * (sin(0.5 * u) * sin(0.5 * u))",
        "cos(1e-4) is 1 in float32",
        kinds=U,
    ),
    Rule(
        "variance",
        "mean(u * u, k) - mean(u, k) * mean(u, k)",
        "mean((u - mean(u, k)) * (u - mean(u, k)), k)",
        "of [1000, 1001] the means agree in all but 3 bits",
        kinds=AXIS,
    ),
    Rule(
        "root_mean_square",
        "sqrt(mean(u * u, k))",
        "norm(u, k) / sqrt(size(k))",
        "1e20 squared overflows float32; gradient 0 at 0 by convention",
        kinds=AXIS,
    ),
    Rule(
        "norm_over",
        "sqrt(sum(u * u, k) / a)",
        "norm(u, k) / sqrt(a)",
        "1e20 squared overflows float32; gradient 0 at 0 by convention",
        kinds=(("u", "real[n, k]"), ("a", "= 3")),
        guard=lambda binding: _positive_const("a", binding),
    ),
    Rule(
        "norm_times",
        "sqrt(a * sum(u * u, k))",
        "norm(u, k) * sqrt(a)",
        "1e20 squared overflows float32; gradient 0 at 0 by convention",
        kinds=(("u", "real[n, k]"), ("a", "= 0.25")),
        guard=lambda binding: _positive_const("a", binding),
    ),
    Rule(
        "sqrt_of_softmax",
        "sqrt(softmax(u, k))",
        "exp(0.5 * log_softmax(u, k))",
        "softmax of [0, 104] has a 0 in float32, and 0.5 / 0 times 0 is NaN",
        kinds=AXIS,
    ),
    Rule(
        "power_of_softmax",
        "softmax(u, k) ** g",
        "exp(g * log_softmax(u, k))",
        "the derivative of 0 ** 0.5 is infinite, times 0 is NaN",
        kinds=(("u", "real[n, k]"), ("g", "positive")),
        guard=_not_small_integer,
    ),
    Rule(
        "mean_square_missing",
        "1 - sum(softmax(u, k) * softmax(u, k), k)",
        "sum(softmax(u, k) * softmax_complement(u, k), k)",
        "softmax of [20, 0] is 1 in float32",
        kinds=AXIS,
    ),
    Rule(
        "expm1_less",
        "exp(u) - a - 1",
        "expm1(u) - a",
        "exp(1e-9) is 1 in float32",
        kinds=(("u", "real[n]"), ("a", "real[n]")),
    ),
    Rule(
        "square_over",
        "u * u / v",
        "u * (u / v)",
        "1e30 squared overflows float32",
        kinds=(("u", "real[n]"), ("v", "positive[n]")),
    ),
    Rule(
        "square_over_scaled",
        "a * (u * u) / v",
        "a * (u * u / v)",
        "1e30 squared overflows float32, and 1e-30 squared vanishes",
        kinds=(("a", "real[n]"), ("u", "real[n]"), ("v", "positive[n]")),
    ),
    Rule(
        "scale_before_square",
        "a * (u * u)",
        "a * u * u",
        "1e-4 * 1e20**2 overflows float32 before it is scaled down",
        kinds=(("a", "= 0.0001"), ("u", "real[n]")),
        guard=_small_const,
    ),
    Rule(
        "scale_before_square_over",
        "a * (b + u * (u / v))",
        "a * b + a * u * (u / v)",
        "0.5 * 2.5e19**2 overflows float32 before it is halved",
        kinds=(("a", "= 0.5"), ("b", "real[n]"), ("u", "real[n]"), ("v", "positive[n]")),
        guard=lambda binding: _below_one("a", binding),
    ),
    Rule(
        "over_twice",
        "u / v / v",
        "u / v * (1 / v)",
        "kept as one quotient",
        kinds=(("u", "real[n]"), ("v", "positive[n]")),
        guard=lambda binding: False,
    ),
    Rule(
        "relative_entropy_in_terms",
        "xlogy(a, a) - xlogy(a, b)",
        "attach_gradient(attach_gradient(stop_gradient("
        "where(abs(a - b) < 0.5 * b, b * kl_phi((a - b) / b) + (a - b), "
        "xlogy(a, a) - xlogy(a, where(abs(a - b) < 0.5 * b, 1, b)))), a, "
        "where(abs(a - b) < 0.5 * b, log1p((a - b) / b) + 1, "
        "where(a == 0, -log(where(b == 0, 1, b)), log(a) - log(b) + 1))), "
        "b, -(a / where(a == 0, 1, b)))",
        "at a = b (1 + 1e-4) the terms agree in all but 11 bits",
        given="a >= 0 and b >= 0",
        kinds=(("a", "probability[n]"), ("b", "probability[n]")),
        selects=True,
        words="b * kl_phi((a - b) / b) + (a - b) where a is near b",
        guard=lambda binding: not _apart("b", binding),
    ),
    Rule(
        "cosine_distance",
        "1 - dot(normalize(u, k), normalize(v, k), k)",
        "0.5 * sum((normalize(u, k) - normalize(v, k)) * (normalize(u, k) - normalize(v, k)), k)",
        "1 - cos is 0 for an angle of 1e-4 in float32",
        kinds=(("u", "real[n, k]"), ("v", "real[n, k]")),
        guard=lambda binding: False,
    ),
)

# One way to write a * log(a / b), which the rules below and "relative_entropy_in_terms" know. Alone
# these gain nothing.
SPELLINGS = tuple(
    Rule(
        f"spelling_{number}",
        pattern,
        "xlogy(a, a) - xlogy(a, b)",
        "known by one form",
        given="a >= 0 and b >= 0",
    )
    for number, pattern in enumerate(
        ("a * (log(a) - log(b))", "a * log(a / b)", "xlogy(a, a / b)", "xlogy(a, a) - a * log(b)")
    )
)

_ENTROPY = "(xlogy(a, a) - xlogy(a, b))"
_NEAR = "abs(a - b) < 0.5 * b"
_SURPLUS = (  # of a over b: what a * log(a / b) is beyond a - b, which is never negative
    f"attach_gradient(attach_gradient(stop_gradient(where({_NEAR}, b * kl_phi((a - b) / b), "
    f"xlogy(a, a) - xlogy(a, where({_NEAR}, 1, b)) + (b - a))), "
    f"a, where({_NEAR}, log1p((a - b) / b), "
    "where(a == 0, -log(where(b == 0, 1, b)) - 1, log(a) - log(b)))), "
    "b, where(a == 0, 1, (b - a) / b))"
)
_TO_MIDDLE = (  # of two distributions a and c, twice over: what both are off their middle
    "(xlogy(a, a) - xlogy(a, 0.5 * (a + c)))",
    "(xlogy(c, c) - xlogy(c, 0.5 * (a + c)))",
)
_MIDDLE, _OFF = "(0.5 * (a + c))", "(0.5 * (a - c))"
_CLOSE = f"abs{_OFF} < 0.5 * {_MIDDLE}"


def _to_middle(x: str, off: str) -> str:
    """The slope of what two distributions are off their middle, in one of them.

    The quotient of a tiny number is subnormal, but there the logarithms are far apart.
    """
    far = f"where({x} < 1e-6 * {_MIDDLE}, log({x}) - log({_MIDDLE}), log({x} / {_MIDDLE}))"
    return (
        f"where({_CLOSE}, log1p({off} / {_MIDDLE}), where({x} == 0, "
        f"where({_MIDDLE} == 0, 0, -log({_MIDDLE}) - 1), {far}))"
    )


_BOTH = (
    "attach_gradient(attach_gradient(stop_gradient("
    f"where({_CLOSE}, {_MIDDLE} * (kl_phi({_OFF} / {_MIDDLE}) + kl_phi(-{_OFF} / {_MIDDLE})), "
    f"xlogy(a, where({_CLOSE}, 1, a / {_MIDDLE})) + xlogy(c, where({_CLOSE}, 1, c / {_MIDDLE})))), "
    f"a, {_to_middle('a', _OFF)}), c, {_to_middle('c', '-' + _OFF)})"
)
_OF_BOTH = (("a", "probability[n, k]"), ("c", "probability[n, k]"))

# What is small of second order: of two terms of first order that cancel, float32 leaves nothing.
SECOND_ORDER = (
    *(
        Rule(
            f"surplus_{number}",
            pattern.replace("H", _ENTROPY),
            _SURPLUS,
            "of probabilities 1e-5 apart 4e-10 came out as 0",
            given="a >= 0 and b >= 0",
            kinds=(("a", "probability[n]"), ("b", "probability[n]")),
            selects=True,
            words="b * kl_phi((a - b) / b) where a is near b",
        )
        for number, pattern in enumerate(
            ("(H - a) + b", "(H + b) - a", "H + (b - a)", "H - (a - b)")
        )
    ),
    *(
        Rule(
            f"jensen_shannon_{number}",
            pattern.replace("A", _TO_MIDDLE[0]).replace("C", _TO_MIDDLE[1]),
            replacement.replace("B", _BOTH),
            "of probabilities 1e-5 apart 1.0e-10 came out as 7.6e-9",
            given="a >= 0 and c >= 0",
            kinds=(*_OF_BOTH, *further),
            selects=True,
            words="m * (kl_phi(d / m) + kl_phi(-d / m)), m = 0.5 * (a + c), d = 0.5 * (a - c), "
            "where a is near c",
        )
        for number, (pattern, replacement, further) in enumerate(
            (
                ("A + C", "B", ()),
                ("w * A + w * C", "w * B", (("w", "real[n, k]"),)),
                ("sum(A, k) + sum(C, k)", "sum(B, k)", ()),
                ("w * sum(A, k) + w * sum(C, k)", "w * sum(B, k)", (("w", "real[n]"),)),
            )
        )
    ),
)


def _below_one(name: str, binding: Binding) -> bool:
    value = binding[name]
    assert isinstance(value, Expr)
    # A larger divisor may be what keeps the products from overflowing.
    return is_const(value) and 0.0 < abs(float(const_value(value.node))) < 1.0


def _positive_const(name: str, binding: Binding) -> bool:
    value = binding[name]
    assert isinstance(value, Expr)
    return is_const(value) and 0.0 < float(const_value(value.node)) < math.inf


def _apart(name: str, binding: Binding) -> bool:
    """Whether an operand is what a rule here has written where two numbers lie apart."""
    value = binding[name]
    assert isinstance(value, Expr)
    nodes = value.builder.nodes
    if value.node.op != "where" or nodes[value.node.args[0]].op != "lt":
        return False
    return nodes[nodes[value.node.args[0]].args[0]].op == "abs"


def _varies(name: str, binding: Binding) -> bool:
    value = binding[name]
    assert isinstance(value, Expr)
    return not is_const(value)


def _axes_of(name: str, binding: Binding) -> set[str]:
    value = binding[name]
    assert isinstance(value, Expr)
    return set(value.axes)


def _may_vanish(name: str, binding: Binding) -> bool:
    """Whether a factor may be 0, as far as the kinds tell; a number that is 0 counts."""
    value = binding[name]
    assert isinstance(value, Expr)
    return bounds(value)[0] <= 0.0


RULES = tuple(rule for rule in RULES if rule.name not in ("over_twice", "cosine_distance"))
RULES += SECOND_ORDER


def stabilise(graph: Graph, log: list[str] | None = None, *, derived: bool = False) -> Graph:
    """Apply every rule to a fixpoint; the names of those that fired go into ``log``.

    What is of second order is looked for first, before its terms are rewritten one by one. To a
    ``derived`` graph, only those rules are applied that are not about what an author wrote.
    """
    if not derived:
        graph = rewrite(graph, _first(), log)
    return rewrite(graph, _steps(derived), log)


def selections(graph: Graph) -> Graph:
    """A graph after those rules alone that leave no domain, whatever they divide by."""
    table: dict[str, list[Rule]] = {}
    for rule in RULES:
        if rule.selects and rule not in SECOND_ORDER:
            table.setdefault(rule.head, []).append(rule)
    return rewrite(rewrite(graph, _first()), Steps(table, TIDY))


@lru_cache(maxsize=1)
def _first() -> Steps:
    table: dict[str, list[Step]] = {}
    for rule in SPELLINGS:
        table.setdefault(rule.head, []).append(Tried(rule, rule.applies))
    for rule in SECOND_ORDER:
        table.setdefault(rule.head, []).append(rule)
    return Steps(table, TIDY)


@lru_cache(maxsize=2)
def _steps(derived: bool) -> Steps:
    table: dict[str, list[Rule]] = {}
    for rule in RULES:
        if rule not in SECOND_ORDER and not (derived and rule.written):
            table.setdefault(rule.head, []).append(rule)
    return Steps(table, TIDY)
