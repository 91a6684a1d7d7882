"""What the integers of a loss are for, which decides how a platform may hold them.

An integer that is an index, a length or a number may be held at the end of a narrower range: it is
out of every range there too. An *identity* may not. It is compared with other integers of the same
kind, as the labels of contrastive losses are, and two that were told apart must stay so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lossbridge.plan import spec_graph
from lossbridge.spec import Spec


@dataclass(frozen=True)
class Identities:
    """The integer inputs that are compared with one another, or with themselves renamed."""

    names: frozenset[str]
    plain: frozenset[str]
    """Those of which nothing else is asked, so that any numbers told apart alike would do."""


@lru_cache(maxsize=1024)
def identities(spec: Spec) -> Identities:
    """The identities among a specification's inputs."""
    graph = spec_graph(spec)
    names = {row: frozenset({name}) for name, row in graph.inputs() if name in spec.inputs}
    nothing: frozenset[str] = frozenset()
    sources: list[frozenset[str]] = []
    compared = otherwise = nothing
    for row, node in enumerate(graph.nodes):
        read = nothing.union(*(sources[a] for a in node.args))
        carried = node.type.dtype == "int" and node.op in (*UNCHANGED, *CHOICES)
        sources.append(names.get(row, nothing) if node.type.dtype == "int" else nothing)
        if carried:
            sources[row] = read
        if node.op in COMPARISONS and all(sources[a] for a in node.args):
            compared |= read
            if node.op in ("eq", "ne"):
                continue
        if node.op not in UNCHANGED:
            otherwise |= read
    for _, row in graph.outputs:
        otherwise |= sources[row]
    return Identities(compared, compared - otherwise)


UNCHANGED = ("rename", "broadcast")
CHOICES = ("where", "take", "shift", "flip", "minimum", "maximum")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
