"""Measure what the difference pages show: ``python tools/regen.py --measure [NAME]``.

The numbers go into one file, ``docs/differences/measured.json``, from which the pages are made:
comparing some hundred pairs takes minutes, rendering them a second.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from lossbridge.migrate import relatives
from lossbridge.migrate.comparison import Comparison
from lossbridge.migrate.relatives import name_of
from lossbridge.migrate.replacements import NAMES, REPLACEMENTS
from lossbridge.witnesses import find, witnesses

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "differences" / "measured.json"
HOMES: Mapping[str, str] = {"torch.nn": "torch", "keras.losses": "keras", "optax.losses": "jax"}
PACKAGES = ("torch", "keras", "tensorflow", "tensorflow-cpu", "jax", "optax")
DIGITS = 6

Measured = dict[str, Any]


@cache
def bare(name: str) -> str:
    """A built-in as it is made without arguments, or with an example of those it needs."""
    needed = find(name).required
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in needed.items())})"


def pairs() -> Iterator[tuple[str, str]]:
    """Every pair of relatives, as made without arguments and with those that bring them nearest."""
    for a, b in relatives.pairs():
        yield from dict.fromkeys([(bare(name_of(a)), bare(name_of(b))), (a, b)])


def replaced() -> Iterator[tuple[str, str, str]]:
    """Every built-in, another framework, and the expression stated to stand for it there.

    Where none is stated the nearest relative stands, and is measured with the pairs.
    """
    yield from ((name, module, e) for (name, module), e in REPLACEMENTS.items())


def ours() -> Iterator[tuple[str, str]]:
    """Every built-in, and our own class of the same meaning, on its platform."""
    from written import classes

    for name, form in classes().items():
        yield bare(name), f"lossbridge.{HOMES[name.rpartition('.')[0]]}.{form}"


def measure(only: str = "") -> Iterator[Measured]:
    """Compare everything anew; or only what has ``only`` in its names, and what is missing.

    Returns all there is again and again, so that what broke off has not been for nothing. A
    comparison that raises an error is left out, and reported at the end.
    """
    failed: list[str] = []
    found = read() if FILE.exists() else {}
    found["made_with"] = made_with()
    for section, jobs in (
        ("pairs", {f"{a} ~ {b}": (compared, a, b) for a, b in pairs()}),
        ("traps", _traps()),
        ("ours", {f"{a} ~ {b}": (compared, a, b) for a, b in ours()}),
        ("replacements", {f"{n} on {m}": (replaced_by, n, m, e) for n, m, e in replaced()}),
    ):
        kept = found.get(section, {}) if only and section != "traps" else {}
        done: Measured = {}
        for key, (run, *arguments) in jobs.items():
            known = kept.get(key)
            if known and only not in key and known.get("expression") in (None, arguments[-1]):
                done[key] = known
                continue
            print(f"{section}: {key}", file=sys.stderr)
            try:
                done[key] = run(*arguments)
            except Exception as error:
                failed.append(f"{section}: {key}: {type(error).__name__}: {error}")
            if len(done) % 10 == 0:
                yield {**found, section: {**kept, **done}}
        found[section] = done
        yield found
    if failed:
        raise RuntimeError("\n".join(failed))


def made_with() -> dict[str, str]:
    """The releases of the frameworks here, without what tells one build from another."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            name = package.removesuffix("-cpu")
            found.setdefault(name, metadata.version(package).partition("+")[0])
    return found


def compared(a: str, b: str) -> Measured:
    """What the pages show of a pair."""
    from lossbridge import compare

    return _kept(compare(a, b, profile="strict"))


def replaced_by(name: str, module: str, expression: str) -> Measured:
    """What the pages show of an expression that stands for a built-in."""
    import keras

    from lossbridge.migrate.judge import of_sides
    from lossbridge.migrate.profiles import STRICT
    from lossbridge.migrate.sides import side

    before = keras.config.floatx()
    # Keras would cast what it is given to float32, and hide what differs below that.
    keras.config.set_floatx("float64")
    try:
        original = side(bare(name))
        taken = original.signature.inputs
        # It is asked about the inputs that the original is for, and those alone.
        domains = tuple(original.signature.domain(k) for k in range(len(taken)))
        kinds = {
            n: str(replace(k, name=d) if d in NUMBERS else k)
            for (n, k), d in zip(taken.items(), domains, strict=True)
        }
        function = compiled(expression, module, tuple(kinds))
        other = side(function, inputs=kinds, platform=HOMES[module])
        other.signature = replace(other.signature, domains=domains)
        found = of_sides(original, other, profile=STRICT)
    finally:
        keras.config.set_floatx(before)
    return {"expression": expression, **_kept(found)}


NUMBERS = ("probability", "sign", "binary", "positive", "non_negative")


def compiled(expression: str, module: str, names: Sequence[str]) -> Callable[..., Any]:
    """The function of these arguments that an expression of a framework is."""
    scope: dict[str, Any] = {}
    source = f"{NAMES[module]}\ndef function({', '.join(names)}):\n    return {expression}\n"
    exec(source, scope)
    function: Callable[..., Any] = scope["function"]
    return function


def _traps() -> dict[str, tuple[Any, ...]]:
    from traps import PRELUDE, TRAPS

    return {trap.id: (run, PRELUDE + trap.code) for trap in TRAPS}


def run(code: str) -> str:
    """What a piece of code prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "trap"})
    return said.getvalue()


def _kept(found: Comparison) -> Measured:
    """What the pages need of a comparison, its numbers rounded."""
    own = {n for w in witnesses().values() for v in w for n in v.notes}
    notes = [n for n in found.notes if n.partition(": ")[2] not in own]
    kept: Measured = {
        "verdict": found.verdict,
        "factor": rounded(found.factor),
        "causes": [msgspec.to_builtins(c) for c in found.causes],
        "notes": [n for n in notes if not n.endswith("they were averaged")],
    }
    if found.example is not None:
        example = msgspec.to_builtins(found.example)
        kept["example"] = rounded({k: x for k, x in example.items() if x != {}})
    return kept


def rounded(x: Any) -> Any:
    """Numbers with as many digits as every machine gives."""
    if isinstance(x, float):
        return float(f"{x:.{DIGITS}g}") + 0.0 if math.isfinite(x) else str(x)
    if isinstance(x, Mapping):
        return {k: rounded(v) for k, v in x.items()}
    return [rounded(v) for v in x] if isinstance(x, list | tuple) else x


# --- the file ------------------------------------------------------------------------------------


def read() -> Measured:
    """What was measured last."""
    found: Measured = json.loads(FILE.read_text("utf-8"))
    return found


def text(found: Measured) -> str:
    """The file's text: arrays on one line, everything else on its own."""
    laid = json.dumps(found, indent=1, ensure_ascii=False)
    simple = r"\[\s+((?:-?[\d.e+-]+|\"-?(?:nan|inf)\"|true|false|\[[^\[\]]*\])(?:,\s+)?)+\s+\]"
    for _ in range(3):
        laid = re.sub(simple, lambda m: re.sub(r"\s+", " ", m[0]), laid)
    return re.sub(r"\[ (.*?) \]", r"[\1]", laid) + "\n"


def differs(old: Any, new: Any, close: float = 1e-3) -> Iterator[str]:
    """Where two measurements part: words and verdicts exactly, numbers to a tolerance."""
    yield from _differs(old, new, close, "")


NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


def _differs(old: Any, new: Any, close: float, at: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if key == "made_with":
                continue
            yield from _differs(old.get(key), new.get(key), close, f"{at}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for k, (x, y) in enumerate(zip(old, new, strict=True)):
            yield from _differs(x, y, close, f"{at}[{k}]")
    elif isinstance(old, str) and isinstance(new, str):
        parts = re.split(NUMBER, old), re.split(NUMBER, new)
        numbers = re.findall(NUMBER, old), re.findall(NUMBER, new)
        if parts[0] != parts[1] or not all(
            math.isclose(float(x), float(y), rel_tol=close, abs_tol=1e-9)
            for x, y in zip(*numbers, strict=True)
        ):
            yield f"{at}: {old!r} -> {new!r}"
    elif isinstance(old, float | int) and isinstance(new, float | int):
        if not math.isclose(old, new, rel_tol=close, abs_tol=1e-9):
            yield f"{at}: {old} -> {new}"
    elif old != new:
        yield f"{at}: {old!r} -> {new!r}"


def silence() -> None:
    """Keep TensorFlow from printing what nobody asked for."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    importlib.import_module("logging").getLogger("tensorflow").setLevel("ERROR")


def main(arguments: Sequence[str]) -> int:
    """Measure, and write the file."""
    from regen import encoded, write

    silence()
    for found in measure(*arguments):
        write(FILE, encoded(text(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
