"""Advice on a specification: what is unstable as written and which rule cures it; what domains
nothing proves."""

from __future__ import annotations

from lossbridge import text
from lossbridge.ir import Builder, Expr, Graph, const_value, inline, is_const
from lossbridge.passes.canonicalise import bind, canonicalise
from lossbridge.passes.stabilise import RULES, stabilise
from lossbridge.plan import spec_graph
from lossbridge.rewrite import bounds
from lossbridge.spec import Spec
from lossbridge.trace import _tree

Finding = dict[str, str]


def advise(spec: Spec) -> list[Finding]:
    """Findings: ``cured`` (a rule rewrites it) and ``unproved`` (a domain that nothing proves)."""
    numbers = {n: p.value for n, p in spec.params.items() if p.value is not None}
    graph = canonicalise(bind(spec_graph(spec), numbers))
    fired: list[str] = []
    stable = stabilise(graph, fired)
    rules = {rule.name: rule for rule in RULES}
    findings: list[Finding] = [
        {
            "kind": "cured",
            "where": rules[name].pattern,
            "rule": name,
            "what": f"{rules[name].why}; rewritten as {rules[name].replacement}",
        }
        for name in fired
    ]
    return findings + [
        {"kind": "unproved", "where": where, "rule": "", "what": what}
        for where, what in _unproved(stable)
    ]


def _unproved(graph: Graph) -> list[tuple[str, str]]:
    """Operations whose operand may leave their domain, as far as the kinds of the inputs tell."""
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    found: list[tuple[str, str]] = []
    for index, node in enumerate(graph.nodes):
        args = [values[a] for a in node.args]
        problem = _problem(node.op, args)
        if problem is not None:
            where = text.unparse(_outline(graph, index, DEPTH))
            found.append((where if len(where) <= 160 else where[:157] + "...", problem))
    return found


DEPTH = 6  # of what a finding shows; written out in full, six shared rows above each other are 64


def _outline(graph: Graph, index: int, depth: int) -> text.Expression:
    """The tree of a row, with dots for what lies deeper."""
    node = graph.nodes[index]
    if node.args and depth == 0:
        return text.Name("...")
    args = [_outline(graph, a, depth - 1) for a in node.args]
    if node.op == "scan":
        return text.Call("scan", (text.Name(node.attr("axis")), *args, text.Name("...")))
    return _tree(graph, node, args)


def _problem(op: str, args: list[Expr]) -> str | None:
    if op in ("log", "sqrt"):
        lo, _ = bounds(args[0])
        if lo < 0.0:
            return f"the operand of {op} is not proved to be non-negative; declare its kind"
    if op == "log1p" and bounds(args[0])[0] < -1.0:
        return "the operand of log1p is not proved to be at least -1"
    if op == "div":
        lo, hi = bounds(args[1])
        if lo <= 0.0 <= hi and not is_const(args[1]):
            return "the divisor is not proved to differ from 0; add an epsilon, or say what 0 means"
    if op == "pow":
        whole = is_const(args[1]) and float(const_value(args[1].node)).is_integer()
        if not whole and bounds(args[0])[0] < 0.0:
            return "a power that may not be whole, of a base not proved to be non-negative"
    return None
