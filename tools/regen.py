"""Rewrite every generated file, or with ``--check`` say which ones are out of date.

``--measure`` compares the frameworks' losses anew first, for the difference pages: it takes some
ten minutes, and needs all three. ``--measure NAME`` does so only for what has ``NAME`` in its name,
and for what was never measured.

Generated files are committed: a reader sees them without running anything, hatchling ships them,
and a change of meaning shows in the diff. To add one, add a row to ``GENERATED``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))  # the generators beside this file

# A path relative to the repository, and the function that returns the text it must hold. Producers
# import what they need when they are called, so that one broken module stops only its own files.
Row: TypeAlias = tuple[str, Callable[[], str]]


def _stub(platform: str) -> Callable[[], str]:
    def produce() -> str:
        from stubs import stub

        return stub(platform)

    return produce


def _call_forms() -> str:
    from stubs import call_forms

    return call_forms()


def _normalizers() -> str:
    from normalizers import page

    return page()


def _readme() -> str:
    from normalizers import readme

    return readme()


def _spec_schema() -> str:
    from lossbridge.spec import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"


def _record_schema() -> str:
    from lossbridge.migrate.record import record_schema

    return json.dumps(record_schema(), indent=2) + "\n"


def _results_schema() -> str:
    from lossbridge_conformance.results import results_schema_text

    return results_schema_text()


def _differences() -> tuple[Row, ...]:
    """The difference pages: a new family of losses brings a page of its own."""
    from lossbridge.migrate.relatives import FAMILIES

    def page(name: str) -> Callable[[], str]:
        def produce() -> str:
            from pages import page

            return page(name)

        return produce

    names = ("README", "traps", *(family.id for family in FAMILIES))
    return tuple((f"docs/differences/{name}.md", page(name)) for name in names)


def _fixture(id: str) -> Callable[[], str]:
    def produce() -> str:
        from lossbridge.catalogue import catalogue
        from lossbridge_conformance.cases import write_fixtures

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cases.json"
            write_fixtures(catalogue()[id].spec, path)
            return path.read_text("ascii")

    return produce


def _fixtures() -> tuple[Row, ...]:
    """The stored cases of every loss: a new loss brings a row of its own."""
    from lossbridge.catalogue import catalogue

    return tuple(
        (f"conformance/lossbridge_conformance/fixtures/{id}.json", _fixture(id))
        for id in catalogue()
    )


GENERATED: tuple[Row, ...] = (
    ("backends/lossbridge_torch/__init__.pyi", _stub("torch")),
    ("backends/lossbridge_keras/__init__.pyi", _stub("keras")),
    ("backends/lossbridge_jax/__init__.pyi", _stub("jax")),
    ("docs/call-forms.md", _call_forms),
    ("docs/normalizers.md", _normalizers),
    ("README.md", _readme),
    ("lossbridge/schema/record-v2.json", _record_schema),
    ("lossbridge/schema/spec-v1.json", _spec_schema),
    ("conformance/lossbridge_conformance/schema/results-v1.json", _results_schema),
    *_differences(),
    *_fixtures(),
)


def stale(rows: Iterable[Row], root: Path = ROOT) -> list[str]:
    """Return the paths whose file is missing or differs from what its producer returns."""
    return [path for path, produce in rows if current(root / path) != encoded(produce())]


def regenerate(rows: Iterable[Row], root: Path = ROOT) -> list[str]:
    """Bring every file up to date, and return the paths that were written."""
    written = []
    for path, produce in rows:
        content = encoded(produce())
        if current(root / path) != content:
            write(root / path, content)
            written.append(path)
    return written


def encoded(text: str) -> bytes:
    """Return the bytes of a generated file: UTF-8, and the same line ends on every system."""
    return text.encode("utf-8")


def current(path: Path) -> bytes | None:
    """Return what the file holds now, or None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write(path: Path, content: bytes) -> None:
    """Write all of the file or nothing: a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(name, 0o644)  # mkstemp's 0600 would be committed as an unreadable file
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; the status is 1 if a check found something out of date."""
    if arguments not in ([], ["--check"]) and (arguments[0] != "--measure" or arguments[2:]):
        print("usage: python tools/regen.py [--check | --measure [NAME]]", file=sys.stderr)
        return 2
    if arguments[:1] == ["--measure"]:
        # In a process of its own: what is generated here must not depend on loaded frameworks.
        command = [sys.executable, str(ROOT / "tools" / "measured.py"), *arguments[1:]]
        if subprocess.call(command, cwd=ROOT):
            return 1
    check = arguments == ["--check"]
    changed = stale(GENERATED) if check else regenerate(GENERATED)
    for path in changed:
        print(f"{'out of date' if check else 'written'}: {path}")
    print(f"{len(GENERATED)} generated files, {len(changed)} {'stale' if check else 'written'}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
