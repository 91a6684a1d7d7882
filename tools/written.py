"""What is written by hand behind each witness: its lines, and the losses it stands on.

Read off the source text, by name: a witness reaches the functions of its file that it names, those
that these name, and so on, and of the catalogue what any of them names, such as `regression.huber`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lossbridge.catalogue import FAMILIES
from lossbridge.migrate.relatives import OURS
from lossbridge.spec import Spec
from lossbridge.trace import Definition
from lossbridge.witnesses import FILES, witnesses

ROOT = Path(__file__).resolve().parent.parent
WITNESSES = ROOT / "lossbridge" / "witnesses"
CATALOGUE = ROOT / "lossbridge" / "catalogue"


@dataclass(frozen=True)
class Piece:
    """One statement of a module: a function, or an assignment to a name."""

    module: str
    name: str
    lines: int
    uses: tuple[str, ...]
    """What it names: pieces of its own module, or `module.piece` of another."""


@dataclass(frozen=True)
class Written:
    """What stands behind one built-in."""

    name: str
    own: int
    """Lines of its own statements, signature included."""
    helpers: tuple[str, ...]
    """The pieces of the witnesses' files that it reaches."""
    catalogue: tuple[str, ...]
    """The pieces of the catalogue that it names, or that its helpers name."""


def code_lines(source: str, node: ast.stmt) -> int:
    """The lines of a statement that hold code: no blank line, comment or docstring."""
    first = min((d.lineno for d in getattr(node, "decorator_list", ())), default=node.lineno)
    last = node.end_lineno or node.lineno
    silent: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            text = inner.body[0]
            silent.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    lines = source.splitlines()
    return sum(
        k not in silent and bool(lines[k - 1].strip()) and not lines[k - 1].strip().startswith("#")
        for k in range(first, last + 1)
    )


@lru_cache(maxsize=1)
def pieces() -> Mapping[str, Piece]:
    """Every statement of the witnesses' files and of the catalogue, as `module.name`."""
    found: dict[str, Piece] = {}
    files = [WITNESSES / f"{name}.py" for name in (*FILES.values(), "kinks", "witness")]
    files += [CATALOGUE / f"{name}.py" for name in FAMILIES]
    for path in files:
        source = path.read_text("utf-8")
        tree = ast.parse(source)
        own = {name for node in tree.body for name in _names(node)}
        known = {name: f"{path.stem}.{name}" for name in own} | dict(_imported(tree))
        for node in tree.body:
            uses = tuple(dict.fromkeys(_uses(node, known)))
            for name in _names(node):
                piece = Piece(path.stem, name, code_lines(source, node), uses)
                found[f"{path.stem}.{name}"] = piece
    return found


def _names(node: ast.stmt) -> list[str]:
    """What a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for target in node.targets for t in ast.walk(target)
                if isinstance(t, ast.Name)]  # fmt: skip
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that stand for modules of ours or for pieces of them."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lossbridge."):
            home = str(node.module).rpartition(".")[2]
            for alias in node.names:
                local = alias.asname or alias.name
                yield local, alias.name if home == "catalogue" else f"{home}.{alias.name}"


def _uses(node: ast.stmt, known: Mapping[str, str]) -> Iterator[str]:
    # A name that a function binds is its own, whatever else has that name.
    hidden = set(_names(node))
    if isinstance(node, ast.FunctionDef):
        inside = [inner for part in node.body for inner in ast.walk(part)]
        hidden |= {i.id for i in inside if isinstance(i, ast.Name) and isinstance(i.ctx, ast.Store)}
        hidden |= {i.arg for i in ast.walk(node) if isinstance(i, ast.arg)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            module = known.get(inner.value.id)
            if module in FAMILIES and inner.value.id not in hidden:
                yield f"{module}.{inner.attr}"
        elif isinstance(inner, ast.Name) and inner.id in known and inner.id not in hidden:
            yield known[inner.id]


def reached(start: str) -> list[str]:
    """A piece and all that stands behind it, in the order in which it is met."""
    table = pieces()
    found: dict[str, None] = {}
    pending = [start]
    while pending:
        name = pending.pop(0)
        if name in found or name not in table:
            continue
        found[name] = None
        if table[name].module not in FAMILIES:  # what the catalogue stands on is its own affair
            pending += table[name].uses
    return list(found)


@lru_cache(maxsize=1)
def written() -> Mapping[str, Written]:
    """What stands behind each built-in, over all its version ranges."""
    found: dict[str, Written] = {}
    from importlib import import_module

    for name, known in witnesses().items():
        file = FILES[known[0].module]
        module = vars(import_module(f"lossbridge.witnesses.{file}"))
        starts = [f"{file}.{n}" for n, value in module.items() if any(value is w for w in known)]
        every = list(dict.fromkeys(piece for start in starts for piece in reached(start)))
        table = pieces()
        found[name] = Written(
            name,
            sum(table[start].lines for start in starts),
            tuple(p for p in every if table[p].module not in FAMILIES and p not in starts),
            tuple(p for p in every if table[p].module in FAMILIES),
        )
    return found


def shared(helper: str) -> int:
    """How many built-ins stand on a helper."""
    return sum(helper in w.helpers for w in written().values())


def share(known: Written) -> float:
    """The lines of what a built-in reaches, each divided among all that reach it."""
    return sum(pieces()[h].lines / shared(h) for h in known.helpers)


def median(numbers: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    ordered, n = sorted(numbers), len(numbers)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@lru_cache(maxsize=1)
def classes() -> Mapping[str, str]:
    """Our own class for each built-in, as it is made.

    Where none is stated, it is the first loss of the catalogue that the built-in stands on, with
    the parameters of its meaning that this knows.
    """
    from importlib import import_module

    found: dict[str, str] = {}
    for name, known in written().items():
        if name in OURS:
            found[name] = OURS[name]
            continue
        for piece in known.catalogue:
            family, _, attribute = piece.partition(".")
            loss = vars(import_module(f"lossbridge.catalogue.{family}"))[attribute]
            if isinstance(loss, Definition):
                found[name] = _made(name, loss)
                break
    return found


SIZES = ("in_features", "num_classes")


def _made(name: str, loss: Definition) -> str:
    meaning = witnesses()[name][-1].example().spec
    # The sizes of weights have no default.
    given = [f"{n}={v!r}" for n, v in witnesses()[name][-1].required.items() if n in SIZES]
    given += [
        f"{n}={meaning.params[n].value!r}"
        for n, p in loss.params.items()
        if n in meaning.params and not p.kind.axes and meaning.params[n].value != p.value
    ]
    return f"{loss.name}({', '.join(given)})"


class _Renamed(ast.NodeTransformer):
    """Numbers a statement's own names in the order in which they come: what is left is its form."""

    def __init__(self, words: frozenset[str]) -> None:
        self.words = words
        self.numbers: dict[str, str] = {}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.words:
            return node
        return ast.Name(self.numbers.setdefault(node.id, f"v{len(self.numbers)}"), node.ctx)


def repeated(least: int) -> list[tuple[str, tuple[str, ...]]]:
    """Formulas that stand in several statements, of ``least`` words and signs or more.

    They are compared up to the names of what they are formulas of; of one that holds another, only
    the larger is returned.
    """
    from lossbridge import ops

    words = frozenset(ops.OPS) | {"abs_", "all_", "any_", "select"}
    places: dict[str, dict[str, str]] = {}
    size: dict[str, int] = {}
    for path in [WITNESSES / f"{f}.py" for f in (*FILES.values(), "kinks")] + [
        CATALOGUE / f"{family}.py" for family in FAMILIES
    ]:
        for statement in ast.parse(path.read_text("utf-8")).body:
            at = f"{path.stem}.{next(iter(_names(statement)), '')}"
            for node in ast.walk(statement):
                if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare | ast.Call):
                    text = ast.unparse(node)
                    form = ast.dump(_Renamed(words).visit(ast.parse(text)))
                    size[form] = sum(1 for _ in ast.walk(node)) - sum(
                        isinstance(inner, ast.expr_context) for inner in ast.walk(node)
                    )
                    places.setdefault(form, {}).setdefault(at, text)
    found: list[tuple[str, tuple[str, ...]]] = []
    for form in sorted(places, key=lambda f: -size[f]):
        where = tuple(places[form])
        text = places[form][where[0]]
        if len(where) > 1 and size[form] >= least and not any(text in t for t, _ in found):
            found.append((text, where))
    return found


def same_graphs() -> list[tuple[str, ...]]:
    """Built-ins, and losses of the catalogue, whose graphs are the same but for names.

    With the parameters that each has by default, folded into the graph.
    """
    from lossbridge.catalogue import catalogue

    groups: dict[str, dict[str, None]] = {}
    for name, known in witnesses().items():
        for each in known:
            for spec in each.example().specs:
                groups.setdefault(_form(spec), {})[name] = None
    for definition in catalogue().values():
        if not definition.weights and not definition.ports:
            groups.setdefault(_form(definition.spec), {})[definition.id] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def behind(name: str) -> set[str]:
    """The pieces that stand behind a built-in, or behind a loss of the catalogue by its id."""
    from lossbridge.catalogue import catalogue

    if name in written():
        return {*written()[name].helpers, *written()[name].catalogue}
    family = catalogue()[name].function.__module__.rpartition(".")[2]
    piece = f"{family}.{catalogue()[name].function.__name__}"
    return {piece, *pieces()[piece].uses}


def _form(spec: Spec) -> str:
    """The graph of a specification as text, its inputs and axes numbered."""
    from lossbridge.passes.canonicalise import bind, canonicalise
    from lossbridge.plan import spec_graph

    numbers = {n: p.value for n, p in spec.params.items() if isinstance(p.value, int | float)}
    names = {name: f"input{k}" for k, name in enumerate(spec.inputs)}
    for kind in spec.inputs.values():
        for axis in kind.axes:
            names.setdefault(axis.lstrip("*"), f"axis{len(names)}")
    text = re.sub(r"kind=.*?, (?=name=)", "", str(canonicalise(bind(spec_graph(spec), numbers))))
    return re.sub(r"[A-Za-z_]\w*", lambda word: names.get(word[0], word[0]), text)
