"""Specifications as a stranger might send them: made of good ones by mutation, then loaded, checked
and planned. ``python tests/core/fuzzing.py --count 200000`` runs many and says what came of them.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import copy
import json
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lossbridge import plan as planning
from lossbridge import trace
from lossbridge.advise import advise
from lossbridge.catalogue import catalogue
from lossbridge.errors import LossbridgeError
from lossbridge.kinds import KINDS
from lossbridge.ops import OPS
from lossbridge.passes import legalise
from lossbridge.plan import Options, plan
from lossbridge.spec import dumps, loads

SECONDS = 2.0  # of the processor, for one specification
MEGABYTES = 500
HANG = 20.0

VECTORS = Path(__file__).parent / "vectors" / "hostile.json"


@lru_cache(maxsize=1)
def seeds() -> tuple[bytes, ...]:
    """The losses of the catalogue, and the documents that the loader's own tests read."""
    found = [dumps(definition.spec, indent=None).encode() for definition in catalogue().values()]
    vectors = json.loads(VECTORS.read_text("utf-8"))
    documents = [v for key in ("valid", "hostile") for v in vectors[key]]
    documents += [d for key in ("equal_hash", "different_hash") for v in vectors[key]
                  for d in v["specs"]]  # fmt: skip
    for vector in documents:
        if "base64" in vector:
            found.append(base64.b64decode(vector["base64"]))
        elif "text" in vector:
            found.append(str(vector["text"]).encode("utf-8", "surrogatepass"))
        elif "edit" in vector:
            data = copy.deepcopy(vectors["base"])
            for path, *value in vector["edit"]:
                place = data
                for key in path[:-1]:
                    place = place.setdefault(key, {})
                if value:
                    place[path[-1]] = value[0]
                else:
                    place.pop(path[-1], None)
            found.append(json.dumps(data).encode())
    return tuple(found)


@lru_cache(maxsize=1)
def objects() -> tuple[dict[str, Any], ...]:
    """The seeds that are JSON objects."""
    found = []
    for raw in seeds():
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(raw)
            if isinstance(data, dict):
                found.append(data)
    return tuple(found)


# --- mutations ---------------------------------------------------------------------------------

NUMBERS = (0, 1, -1, 2, 0.5, 1e308, -1e-308, 2**53, 64, 1e9, -0.0, True, None)
AXES = ("batch", "classes", "time", "k", "i", "j", "*batch", "others", "from", "features")
SYMBOLS = ("+", "-", "*", "/", "**", "<", "==", "and", "or", ",", "(", ")", "[", "]", "=", "*k")


def bytes_of(rng: random.Random) -> bytes:
    """A seed with some of its bytes changed, or nothing but chance."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(400))
    raw = bytearray(rng.choice(seeds()))
    for _ in range(rng.randrange(1, 6)):
        at, end = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
        how = rng.randrange(5)
        if how == 0:
            raw[at:end] = b""
        elif how == 1:
            raw[at:at] = rng.randbytes(rng.randrange(1, 8))
        elif how == 2 and at < len(raw):
            raw[at] = rng.randrange(256)
        elif how == 3:
            raw[at:at] = raw[at : min(end, at + 200)] * rng.randrange(1, 4)
        else:
            other = rng.choice(seeds())
            start = rng.randrange(len(other) + 1)
            raw[at : at + rng.randrange(40)] = other[start : start + rng.randrange(80)]
    return bytes(raw[: 1 << 20])


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*path, key))
    elif isinstance(value, list):
        for key, item in enumerate(value):
            yield from _places(item, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def structure_of(rng: random.Random) -> bytes:
    """A seed with parts of its structure replaced, left out, repeated or taken from another."""
    data = copy.deepcopy(rng.choice(objects()))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(data))
        if not places:
            break
        path = rng.choice(places)
        parent, key = _at(data, path[:-1]), path[-1]
        how = rng.randrange(6)
        if how == 0:
            del parent[key]
        elif how == 1:
            parent[key] = rng.choice(NUMBERS)
        elif how == 2:
            parent[key] = _kind(rng)
        elif how == 3:
            other = rng.choice(objects())
            theirs = [p for p in _places(other) if p[-1] == key] or list(_places(other))
            parent[key] = copy.deepcopy(_at(other, rng.choice(theirs)))
        elif how == 4 and isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
        elif isinstance(parent, dict):
            parent[rng.choice(("gamma", "x", "labels", "body", "uses", "x-note"))] = parent[key]
    return json.dumps(data).encode()


def _kind(rng: random.Random) -> str:
    axes = rng.sample(AXES, rng.randrange(4))
    of = f"({rng.choice(AXES)})" if rng.random() < 0.3 else ""
    return f"{rng.choice(KINDS)}{of}[{', '.join(axes)}]" if axes else rng.choice(KINDS)


def body_of(rng: random.Random) -> bytes:
    """A seed whose formulas are changed word by word, wrapped and grown."""
    data = copy.deepcopy(rng.choice(objects()))
    body = data.get("body")
    if not isinstance(body, list) or not all(isinstance(line, str) for line in body):
        return json.dumps(data).encode()
    names = [n for key in ("inputs", "params", "weights") for n in _names(data.get(key))]
    names += [line.split(" = ")[0] for line in body] or ["x"]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(body)) if body else 0
        if not body or rng.random() < 0.3:
            local = f"u{len(body)}"
            body.insert(at, f"{local} = {expression(rng, names, rng.randrange(1, 5))}")
            names.append(local)
            continue
        head, _, tail = body[at].partition(" = ")
        words = tail.replace("(", " ( ").replace(")", " ) ").replace(",", " , ").split()
        if not words:
            continue
        spot = rng.randrange(len(words))
        pool: list[str] = rng.choice((names, list(OPS), list(AXES), list(SYMBOLS)))
        how = rng.randrange(4)
        if how == 0:
            words[spot] = rng.choice(pool)
        elif how == 1:
            words = ["(", *words, ")", "*", expression(rng, names, 3)]
        elif how == 2:
            words = ["where", "(", *words, ">", "0", ",", *words, ",", rng.choice(names), ")"]
        else:
            axis = rng.choice(AXES)
            words = ["scan", "(", axis, ", c9 = 0 *", rng.choice(names), ", c9 *", *words, ")"]
        body[at] = f"{head} = {' '.join(words)}"
    return json.dumps(data).encode()


def _names(section: Any) -> list[str]:
    return [str(name) for name in section] if isinstance(section, dict) else []


def expression(rng: random.Random, names: list[str], depth: int) -> str:
    """A formula of some depth over these names; most are well typed only by chance."""
    if depth == 0:
        return rng.choice((rng.choice(names), rng.choice(names), str(rng.choice((0, 1, 2, 0.5)))))
    below: Callable[[], str] = lambda: expression(rng, names, depth - 1)  # noqa: E731
    how = rng.randrange(8)
    if how < 3:
        return f"({below()} {rng.choice('+-*/')} {below()})"
    if how == 3:
        return f"where({below()} > {below()}, {below()}, {below()})"
    if how == 4:
        return f"scan({rng.choice(AXES[:5])}, c{depth} = {below()}, tanh(c{depth} + {below()}))"
    row = OPS[rng.choice([n for n, r in OPS.items() if r.signature])]
    parts = []
    for what in row.signature:
        if what == "value":
            parts.append(below())
        elif what in ("axis", "axes"):
            parts.append(rng.choice(AXES))
        else:
            parts.append(str(rng.choice((0, 1, -1, 2))))
    return f"{row.name}({', '.join(parts)})"


Typed = tuple[str, frozenset[str]]

UNARY = ("exp", "log", "sqrt", "sigmoid", "softplus", "tanh", "sin", "log1p", "expm1", "log_cosh",
         "abs", "sign", "-", "cosh", "kl_phi", "log1mexp", "stop_gradient")  # fmt: skip
BINARY = ("+", "-", "*", "/", "maximum", "minimum", "logaddexp", "xlogy", "compare")
REDUCTIONS = ("sum", "mean", "amax", "logsumexp", "norm")
KEEPING = ("softmax", "log_softmax", "normalize", "softmax_complement", "flip", "shift")


def typed(rng: random.Random, names: dict[str, frozenset[str]], depth: int) -> Typed:
    """A well-typed formula over real values with these axes, and the axes it has."""
    if depth <= 0 or rng.random() < 0.1:
        if rng.random() < 0.15:
            return str(rng.choice((0, 1, 2, 0.5, 3, 1e-3))), frozenset()
        name = rng.choice(list(names))
        return name, names[name]
    a, of_a = typed(rng, names, depth - 1)
    how, axes = rng.randrange(12), sorted(of_a)
    if how < 2:
        op = rng.choice(UNARY)
        return (f"(-{a})" if op == "-" else f"{op}({a})"), of_a
    if how < 6 or not axes:
        b, of_b = typed(rng, names, depth - 1)
        op = rng.choice(BINARY)
        return (f"({a} {op} {b})" if len(op) == 1 else f"{op}({a}, {b})"), of_a | of_b
    axis = rng.choice(axes)
    if how == 6:
        b, of_b = typed(rng, names, depth - 2)
        return f"where({a} > {b}, {b}, {a})", of_a | of_b
    if how == 7:
        return f"{rng.choice(REDUCTIONS)}({a}, {axis})", of_a - {axis}
    if how == 8:
        op = rng.choice(KEEPING)
        return f"{op}({a}, {axis}{', 1, 0' if op == 'shift' else ''})", of_a
    if how == 9:
        b, of_b = typed(rng, names, depth - 2)
        return f"scan({axis}, c{depth} = sum(0 * ({a} + {b}), {axis}), tanh(c{depth} + {a}))", (
            of_a | (of_b if axis in of_b else of_b | {axis})
        )
    if how == 10:
        new = rng.choice(("i", "j", "others"))
        if new in of_a or axis.startswith("*"):
            return a, of_a
        return f"rename({a}, {axis}, {new})", of_a - {axis} | {new}
    b, of_b = typed(rng, names, depth - 2)
    return (f"dot({a}, {b}, {axis})", of_a | of_b - {axis}) if axis in of_b else (a, of_a)


def grown_of(rng: random.Random) -> bytes:
    """A loss of many lines, each made of the ones before."""
    axes = rng.choice((("batch", "k"), ("batch",), ("*batch", "k"), ("batch", "time", "k")))
    kinds = {
        name: sorted(rng.sample(axes, rng.randrange(1, len(axes) + 1)), key=axes.index)
        for name in ("x", "y", "z")
    }
    names = {name: frozenset(kind) for name, kind in kinds.items()}
    lines: list[str] = []
    for n in range(rng.choice((1, 2, 3, 5, 10, 20, 60, 150))):
        recent = dict(list(names.items())[-4:]) if rng.random() < 0.7 else names
        text, of = typed(rng, recent, rng.randrange(1, 5))
        lines.append(f"a{n} = {text}")
        names[f"a{n}"] = of
    last = f"a{len(lines) - 1}"
    lines.append(f"value = {last} + 0 * (x + y + z)")
    declared = ("real", "positive", "probability", "non_negative")
    data = {
        "lossbridge": 1,
        "loss": "fuzz/grown@1",
        "inputs": {n: f"{rng.choice(declared)}[{', '.join(k)}]" for n, k in kinds.items()},
        "body": lines,
        "yields": "per_element",
    }
    return json.dumps(data).encode()


MUTATIONS = (*[bytes_of, structure_of, body_of, structure_of, body_of] * 3, bytes_of, grown_of)


def document(seed: int) -> bytes:
    """The document of a number."""
    rng = random.Random(seed)
    return MUTATIONS[seed % len(MUTATIONS)](rng)


# --- trying ------------------------------------------------------------------------------------


def tried(raw: bytes, seed: int = 0) -> str:
    """How far a document came: ``refused`` when loaded, ``unplanned``, or ``planned``."""
    try:
        spec = loads(raw)
    except LossbridgeError:
        return "refused"
    rng = random.Random(seed)
    again = loads(dumps(spec))
    assert again == spec and again.hash == spec.hash
    numbers = tuple(
        (n, p.value) for n, p in spec.params.items() if isinstance(p.value, int | float)
    )
    options = Options(
        reduction=rng.choice((None, "none", "sum", "mean")),
        sample_weight=rng.random() < 0.3,
        mask=rng.random() < 0.3,
    )
    try:
        made = plan(spec, numbers, options)
        planning.index_sources(spec)
        _ = made.plain
        made.fused(made.differentiable)
        advise(spec)
    except LossbridgeError:
        return "unplanned"
    return "planned"


class TooLongError(Exception):
    """A document that has not ended after a long time."""


def _stop(*_: object) -> None:
    raise TooLongError


def forget() -> None:
    """Empty the caches, whose size says nothing about one document."""
    for module in (planning, trace, legalise):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def run(start: int, count: int, say: Callable[[str], None] = print) -> collections.Counter[str]:
    """Try a range of documents; every fault is said with its number."""
    found: collections.Counter[str] = collections.Counter()
    signal.signal(signal.SIGPROF, _stop)
    slowest = 0.0
    for seed in range(start, start + count):
        raw = document(seed)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, HANG)
        try:
            result = tried(raw, seed)
        except TooLongError:
            result = "HANG"
        except Exception as error:  # whatever comes is the finding
            result = f"UNTYPED {type(error).__name__}"
            say(f"{seed}: {result}: {str(error)[:200]}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        took = time.process_time() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        slowest = max(slowest, took)
        found[result] += 1
        if took > SECONDS:
            found["SLOW"] += 1
            say(f"{seed}: {result} took {took:.1f} s")
        if grown > MEGABYTES:
            found["LARGE"] += 1
            say(f"{seed}: {result} took {grown:.0f} MB")
        if seed % 200 == 0:
            forget()
        if seed % 5000 == 0:
            say(f"# {seed}: {dict(found)}, the slowest took {slowest:.2f} s")
    say(f"# {start} to {start + count}: {dict(found)}, the slowest took {slowest:.2f} s")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args()
    found = run(given.start, given.count, lambda text: print(text, flush=True))
    return int(any(key.isupper() or key.startswith("UNTYPED") for key in found))


if __name__ == "__main__":
    sys.exit(main())
