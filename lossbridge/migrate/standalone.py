"""The stand-alone recorder, assembled from the very source of the parts it runs.

Nothing is written twice: each part is cut out of the module it stands in. What differs there is
Python 3.8, and that there are no modules to import from.
"""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lossbridge
from lossbridge.migrate.sides import PLATFORMS

HOME = Path(lossbridge.__file__).parent
ALL: tuple[str, ...] = ()

# A module, and what of it is needed; all where nothing is named.
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("errors", (
        "LossbridgeError", "SpecError", "_rebuild", "ArgumentError", "OutputError",
        "_SHOWN_CHARACTERS", "shown", "listed", "suggestion",
    )),
    ("files", ALL),
    ("kinds", ALL),
    ("migrate.probes", (
        "VERSION", "Array", "Probe", "Layout", "OWN_LENGTHS", "TWIN", "FIXED", "Signature",
        "parse", "FIRST", "LAST", "MOST_LENGTH", "kind_of", "TARGETS", "in_order", "SHAPES",
        "PLACES", "CLASSES", "IGNORED", "SQUARE", "relabelled", "softened", "seen", "_named",
        "_along", "_mixed", "unequal", "_sequences", "SEQUENCE", "_array", "_step", "_cut",
        "_softmax", "_log_softmax", "_DOMAINS", "_bytes", "checksum",
    )),
    ("migrate.domains", ALL),
    ("migrate.live", ("Native", "same", "short", "native", "inspect_wrapped", "name_of",
                      "_attributes")),
    ("migrate.sides", (
        "PLATFORMS", "HOMES", "Outcome", "Side", "undefined", "called", "_weighted", "of_live",
        "_of_native", "signature_of", "overload", "available", "CASTS", "casts", "_plain",
        "classes_of", "_of_callable", "title", "_repeats", "_called_on", "UncallableError",
        "by_parameter_names",
    )),
    ("migrate.alignment", (
        "NARROW", "UNSIGNED", "domains_of", "in_domains", "joint_domains", "ranks_of", "_takes",
        "fixed_axes", "ignored_labels",
    )),
    ("migrate.pairs", ("EPSILON", "noise_of", "close_to")),
    ("migrate.judge", ("provenance", "number")),
    ("migrate.recorder", ALL),
    ("migrate.elsewhere", ALL),
)  # fmt: skip

HEAD = '''"""Record a loss on the fixed probes; `lossbridge record --emit` of {version} wrote this.

    python recorder.py FILE.py:loss -o side.json
    python recorder.py FILE.py:f --inputs logits=real[n,c] --inputs labels=index(c)[n] -o side.json

Runs on Python 3.8 or newer with NumPy and PyTorch, TensorFlow or JAX; needs no lossbridge. The
record is for `lossbridge compare side.json OTHER` in another environment.
"""

from __future__ import annotations

{imports}

if sys.version_info < (3, 10):  # which gave both an argument that is used below
    import builtins
    import dataclasses

    def zip(*rows, strict=False):
        rows = [list(row) for row in rows]
        if strict and len({{len(row) for row in rows}}) > 1:
            raise ValueError("zip() of unequal lengths")
        return builtins.zip(*rows)

    def dataclass(cls=None, slots=False, **options):
        return dataclasses.dataclass(cls, **options) if cls else dataclasses.dataclass(**options)

'''


def source(data: Mapping[str, Any]) -> str:
    """The file, with these data in it."""
    imports: dict[str, None] = dict.fromkeys(["import sys"])
    parts: list[str] = []
    seen: set[str] = set()
    for module, names in PARTS:
        text, needed = _cut(HOME.joinpath(*module.split(".")).with_suffix(".py"), names, seen)
        parts += ["", f"# --- from lossbridge.{module}", "", text]
        imports.update(dict.fromkeys(needed))
    for platform in PLATFORMS:
        parts += ["", f"# --- from lossbridge_{platform}.calls", "", *_function(platform)]
    parts += ["", "# --- data", ""]
    parts += [f"DATA[{k!r}] = json.loads({_literal(v)})" for k, v in data.items()]
    parts += ["", 'if __name__ == "__main__":', "    sys.exit(main())", ""]
    ordered = sorted(imports, key=lambda line: (line.startswith("from"), line))
    head = HEAD.format(version=lossbridge.__version__, imports="\n".join(ordered))
    return head + "\n".join(parts)


def _cut(path: Path, names: tuple[str, ...], seen: set[str]) -> tuple[str, list[str]]:
    """The definitions of a module that have these names, and the imports that they need."""
    text = path.read_text("utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    parts, used, found = [], set(), set()
    for node in tree.body:
        given = set(_names(node))
        if not given or (names and not given & set(names)) or "__all__" in given:
            continue
        if given & seen:
            raise AssertionError(f"{path.name} defines {given & seen}, as another part does")
        found |= given
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])
        parts.append("\n".join(lines[first - 1 : node.end_lineno]))
        used |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    if set(names) - found:
        raise AssertionError(f"{path.name} has no {', '.join(set(names) - found)}")
    seen |= found
    return "\n\n\n".join(parts), list(_imports(tree, used))


def _names(node: ast.stmt) -> Iterator[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _imports(tree: ast.Module, used: set[str]) -> Iterator[str]:
    """The imports of a module that stand there too: those of the standard library and NumPy."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) in used:
                    yield ast.unparse(ast.Import([alias]))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                if not str(node.module).startswith("lossbridge") and alias.name in used:
                    yield ast.unparse(ast.ImportFrom(node.module, [alias], 0))


def _function(platform: str) -> list[str]:
    """How a platform is called: a module there, here a function, since it imports a framework."""
    home = find_spec(f"lossbridge_{platform}")
    if home is None or home.origin is None:
        raise AssertionError(f"lossbridge_{platform} is not installed whole")
    text = Path(home.origin).with_name("calls.py").read_text("utf-8")
    text = text.replace("from __future__ import annotations\n", "")
    return [
        f"def _{platform}_calls():", textwrap.indent(text.rstrip(), "    "), "    return locals()",
        "", "", f'MODULES["{platform}"] = _{platform}_calls',
    ]  # fmt: skip


def _literal(value: Any) -> str:
    """Data as JSON in a literal, one entry a line."""
    if isinstance(value, dict):
        rows = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
        text = "{\n" + ",\n".join(rows) + "\n}"
    elif isinstance(value, list | tuple):
        text = "[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]"
    else:
        text = json.dumps(value)
    if "'''" in text:
        raise AssertionError("data with three quotes")
    return f"r'''{text}'''"
