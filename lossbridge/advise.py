"""Advice on a specification: what is unstable as written and which rule rewrites it, whether what
comes out is accurate where it was tried, and what domains nothing proves."""

from __future__ import annotations

import numpy as np

from lossbridge import text
from lossbridge.ir import Builder, Expr, Graph, const_value, inline, is_const
from lossbridge.kinds import Kind
from lossbridge.measured import inaccuracy
from lossbridge.passes.canonicalise import bind, canonicalise
from lossbridge.passes.stabilise import RULES, selections, stabilise
from lossbridge.plan import spec_graph
from lossbridge.rewrite import bounds
from lossbridge.spec import Spec
from lossbridge.trace import _tree

Finding = dict[str, str]


def advise(spec: Spec) -> list[Finding]:
    """Findings: ``cured`` (a rule rewrites it, and float32 was accurate wherever it was tried),
    ``rewritten`` (a rule rewrites it, and it was not, or could not be tried), ``inaccurate`` (the
    sample that shows it) and ``unproved`` (a domain that nothing proves)."""
    numbers = {n: p.value for n, p in spec.params.items() if p.value is not None}
    graph = canonicalise(bind(spec_graph(spec), numbers))
    fired: list[str] = []
    stable = stabilise(graph, fired)
    rules = {rule.name: rule for rule in RULES}
    wrong, tried = _measured(stable)
    findings: list[Finding] = [
        {
            "kind": "cured" if tried and not wrong else "rewritten",
            "where": rules[name].pattern,
            "rule": name,
            "what": f"{rules[name].why}; rewritten as "
            f"{rules[name].words or rules[name].replacement}",
        }
        for name in fired
    ]
    # What a rule divides by where it selects the quotient is not the author's business.
    own = set(_unproved(selections(graph))) - set(_unproved(graph))
    return (
        findings
        + wrong
        + [
            {"kind": "unproved", "where": where, "rule": "", "what": what}
            for where, what in _unproved(stable)
            if (where, what) not in own
        ]
    )


def _measured(stable: Graph) -> tuple[list[Finding], bool]:
    """Where the emitted form is wrong in float32, and whether it could be tried."""
    kept = tuple((name, row) for name, row in stable.outputs if name == "value")
    try:
        worst = inaccuracy(Graph(stable.layout, stable.nodes, kept))
    except LookupError:
        return [], False
    if worst is None:
        return [], True
    where = ", ".join(f"{name} = {np.asarray(x).tolist()}" for name, x in worst.inputs.items())
    what = f"in float32 it gives {worst.got:.6g}, and {worst.right:.6g} is right"
    return [{"kind": "inaccurate", "where": where, "rule": "", "what": what}], True


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
        if lo <= 0.0 <= hi and not is_const(args[1]) and not _apart_from_0(args[1]):
            return "the divisor is not proved to differ from 0; add an epsilon, or say what 0 means"
    if op == "pow":
        whole = is_const(args[1]) and float(const_value(args[1].node)).is_integer()
        if not whole and bounds(args[0])[0] < 0.0:
            return "a power that may not be whole, of a base not proved to be non-negative"
    return None


def _apart_from_0(x: Expr) -> bool:
    """Whether a value is of a kind without 0, a length, or made of such by what keeps it so."""
    node = x.node
    parts = [Expr(x.builder, a) for a in node.args]
    if node.op == "input":
        kind = str(node.attr("kind"))
        interval = Kind.parse(kind).interval if kind not in OWN_KINDS else None
        return interval is not None and 0.0 not in Kind.parse(kind)
    if node.op == "const":
        return const_value(node) != 0.0
    if node.op in ("size", "exp"):  # an empty batch has no value
        return True
    if node.op in ("mul", "div"):
        return all(_apart_from_0(p) for p in parts)
    if node.op in ("sqrt", "neg", "abs", "broadcast", "rename", "stop_gradient", "sum", "mean"):
        # A sum of what is above 0 is; of both signs it may not be.
        signed = node.op in ("sum", "mean") and bounds(parts[0])[0] < 0.0
        return not signed and _apart_from_0(parts[0])
    if node.op == "pow":
        return _apart_from_0(parts[0]) and bounds(parts[0])[0] >= 0.0
    if node.op == "add":
        return all(bounds(p)[0] >= 0.0 for p in parts) and any(_apart_from_0(p) for p in parts)
    if node.op == "maximum":
        return any(bounds(p)[0] >= 0.0 and _apart_from_0(p) for p in parts)
    if node.op == "where":
        condition, a, b = parts
        if _apart_from_0(a) and condition.node.op == "eq":  # where(x == 0, 1, x)
            same, zero = (Expr(x.builder, k) for k in condition.node.args)
            if same.index == b.index and is_const(zero, 0.0):
                return True
        return _apart_from_0(a) and _apart_from_0(b)
    return False


OWN_KINDS = ("capture", "carry", "upstream", "tangent", "mask")
