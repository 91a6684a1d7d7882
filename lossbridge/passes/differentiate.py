"""Reverse-mode differentiation over a graph, by the derivative rows of the table of ops."""

from __future__ import annotations

from collections.abc import Sequence

from lossbridge import ops
from lossbridge.ir import Builder, Expr, Graph, Type, inline


def pull_back(b: Builder, output: Expr, seed: Expr, wrt: Sequence[Expr]) -> list[Expr | None]:
    """The gradient of ``output``, weighted by ``seed``, in each of ``wrt`` (None: no path).

    The values in ``wrt`` count as independent, whatever they are computed from.
    What is returned may lack axes of the value, which means constant along them.
    """
    active = _active(b, output.index, {w.index for w in wrt})
    gradients: dict[int, Expr] = {output.index: seed}
    targets = {w.index for w in wrt}
    for index in sorted(active, reverse=True):
        g = gradients.get(index)
        node = b.nodes[index]
        if g is None or index in targets:
            continue
        row = ops.OPS[node.op]
        if row.vjp is None and row.expand is not None and node.op not in ("sign", "compare"):
            raise AssertionError(f"composite {node.op} has neither a derivative nor an expansion")
        if row.vjp is None:
            continue
        out = Expr(b, index)
        args = [Expr(b, a) for a in node.args]
        for arg, d in zip(args, row.vjp(args, out, g), strict=True):
            if d is None or arg.index not in active:
                continue
            if row.elementwise or node.op in ("where", "broadcast"):
                d = ops.unbroadcast(d, out, arg)
            elif any(a not in arg.axes for a in d.axes):
                d = ops.unbroadcast(d, d, arg)
            known = gradients.get(arg.index)
            gradients[arg.index] = d if known is None else known + d
    return [gradients.get(w.index) for w in wrt]


def _active(b: Builder, output: int, targets: set[int]) -> set[int]:
    """Rows between the targets, which count as independent, and the output."""
    below: set[int] = set()
    stack = [output]
    while stack:
        index = stack.pop()
        if index not in below:
            below.add(index)
            if index not in targets:
                stack.extend(b.nodes[index].args)
    active: set[int] = set()
    for index in sorted(below):
        node = b.nodes[index]
        if index in targets or (node.type.dtype == "real" and any(a in active for a in node.args)):
            active.add(index)
    return active


def differentiate(
    graph: Graph,
    output: str,
    wrt: Sequence[str],
    *,
    upstream: bool = False,
    prefix: str = "gradient_",
    keep: bool = True,
) -> Graph:
    """The graph with an output ``gradient_NAME`` more for each input in ``wrt``.

    The incoming gradient is 1 for every element of the output, or the input ``upstream`` (of the
    output's axes) if asked for. Inputs that the output does not depend on get an exact zero.
    """
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    value = values[graph.output(output)]
    seed = b.input("upstream", Type("real", value.axes), "upstream") if upstream else b.const(1.0)
    sources = {name: values[index] for name, index in graph.inputs()}
    gradients = pull_back(b, value, seed, [sources[name] for name in wrt])
    outputs = {name: values[index] for name, index in graph.outputs} if keep else {}
    for name, gradient in zip(wrt, gradients, strict=True):
        full = b.const(0.0) if gradient is None else gradient
        outputs[prefix + name] = ops.broadcast(full, *sources[name].axes)
    return b.finish(**outputs)


def pull_back_all(graph: Graph, wrt: Sequence[str]) -> Graph:
    """The gradients of all outputs together: inputs ``upstream_OUTPUT`` -> ``gradient_NAME``."""
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    sources = {name: values[index] for name, index in graph.inputs()}
    totals: dict[str, Expr] = {}
    for name, index in graph.outputs:
        out = values[index]
        if out.type.dtype != "real":
            continue
        u = b.input(f"upstream_{name}", Type("real", _order_of(graph, name)), "upstream")
        for key, gradient in zip(
            wrt, pull_back(b, out, u, [sources[key] for key in wrt]), strict=True
        ):
            if gradient is not None:
                totals[key] = totals[key] + gradient if key in totals else gradient
    return b.finish(
        **{
            f"gradient_{key}": ops.broadcast(totals.get(key, b.const(0.0)), *sources[key].axes)
            for key in wrt
        }
    )


def _order_of(graph: Graph, output: str) -> tuple[str, ...]:
    """How an output lies: a gradient as its input does, anything else in layout order."""
    of = output.removeprefix("gradient_")
    for name, index in graph.inputs():
        if output != of and name == of:
            order: tuple[str, ...] = graph.nodes[index].attr("order")
            return order
    return graph.nodes[graph.output(output)].type.axes


def push_forward(graph: Graph, output: str, wrt: Sequence[str]) -> Graph:
    """Forward mode by transposing reverse mode twice: inputs ``tangent_NAME`` -> ``tangent``.

    The pull-back is linear in the incoming gradient u, so the derivative of <pull-back(u), t> in u
    is the push-forward of t, and u itself drops out.
    """
    b = Builder(graph.layout)
    values = inline(b, graph, {})
    value = values[graph.output(output)]
    u = b.input("upstream", Type("real", value.axes), "upstream")
    sources = {name: values[index] for name, index in graph.inputs()}
    gradients = pull_back(b, value, u, [sources[name] for name in wrt])
    pairing: Expr | None = None
    for name, gradient in zip(wrt, gradients, strict=True):
        if gradient is None:
            continue
        source = sources[name]
        tangent = b.input(f"tangent_{name}", Type("real", source.node.attr("order")), "tangent")
        term = ops.total(gradient * tangent, source.axes, source)
        pairing = term if pairing is None else pairing + term
    if pairing is None:
        # No derivative at all, as of L1's gradient: nothing to transpose, and nobody gives u.
        zero = b.finish(tangent=ops.broadcast(b.const(0.0), *value.axes))
        return _without_input(zero, "upstream")
    result = pull_back(b, pairing, b.const(1.0), [u])[0]
    assert result is not None, "the pull-back is linear in its incoming gradient"
    graph = b.finish(tangent=ops.broadcast(result, *value.axes))
    return _without_input(graph, "upstream")


def _without_input(graph: Graph, name: str) -> Graph:
    """Drop an input that nothing reads any more."""
    used = {a for node in graph.nodes for a in node.args} | {i for _, i in graph.outputs}
    b = Builder(graph.layout)
    values: list[Expr] = []
    for index, node in enumerate(graph.nodes):
        if node.op == "input" and node.attr("name") == name:
            if index in used:
                raise AssertionError(f"{name} is still read")
            values.append(b.const(0.0))
        elif node.op in ("input", "const"):
            values.append(b.row(node.op, (), node.attrs, node.type))
        else:
            values.append(
                b.row(node.op, tuple(values[a].index for a in node.args), node.attrs, node.type)
            )
    return b.finish(**{key: values[index] for key, index in graph.outputs})
