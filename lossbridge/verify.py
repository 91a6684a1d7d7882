"""Well-formedness, checked before and after every pass: a graph is found broken where it broke."""

from __future__ import annotations

from lossbridge.ir import Builder, Expr, Graph, Node, Type, const_value


class GraphError(AssertionError):
    """A pass made an ill-formed graph: a defect of lossbridge, never of a specification."""


def verify(graph: Graph) -> Graph:
    """The graph itself, if every row reads earlier rows and has the type its operation gives."""
    if graph.verified:
        return graph
    seen: set[tuple[object, ...]] = set()
    names: set[str] = set()
    b = Builder(graph.layout)
    for index, node in enumerate(graph.nodes):
        where = f"row %{index} ({node.op})"
        if any(not 0 <= a < index for a in node.args):
            raise GraphError(f"{where} reads a row that is not above it")
        key = (node.op, node.args, node.attrs, node.type)
        if key in seen:
            raise GraphError(f"{where} stands twice")
        seen.add(key)
        if node.op == "input":
            name = node.attr("name")
            if name in names:
                raise GraphError(f"{where}: two inputs are called {name}")
            names.add(name)
            if set(node.attr("order")) != set(node.type.axes):
                raise GraphError(f"{where}: declared axes and type disagree")
        elif node.op == "const":
            const_value(node)
        else:
            _check_type(b, graph, node, where)
        if tuple(a for a in graph.layout if a in node.type.axes) != node.type.axes:
            raise GraphError(f"{where}: axes {node.type.axes} are not in layout order")
        b.nodes.append(node)
    for name, index in graph.outputs:
        if not 0 <= index < len(graph.nodes):
            raise GraphError(f"output {name} names no row")
    graph.__dict__["_verified"] = True  # frozen: what held once holds
    return graph


def _check_body(b: Builder, node: Node, where: str) -> None:
    """A recursion's body must read what it is given: a carry like its own, values of one step."""
    body: Graph = verify(node.attr("body"))
    carry = body.nodes[body.output("carry")].type
    for name, index in body.inputs():
        found = body.nodes[index].type
        if name == "carry":
            wanted = carry
        else:
            outer = Expr(b, node.args[1 + int(name[1:])]).type
            wanted = Type(outer.dtype, tuple(a for a in outer.axes if a != node.attr("axis")))
        if found != wanted:
            raise GraphError(f"{where}: {name} is {wanted}, but its body reads {found}")


def _check_type(b: Builder, graph: Graph, node: Node, where: str) -> None:
    from lossbridge.ops import OPS

    row = OPS.get(node.op)
    if row is None:
        raise GraphError(f"{where}: no such operation")
    if node.op == "scan":
        _check_body(b, node, where)
    types = tuple([Expr(b, a).type for a in node.args])
    found = row.infer(b, types, dict(node.attrs))
    if found != node.type:
        raise GraphError(f"{where} says {node.type}, but gives {found}")
    if tuple(b.layout) != graph.layout:
        raise GraphError(f"{where} needs an axis the layout lacks")
