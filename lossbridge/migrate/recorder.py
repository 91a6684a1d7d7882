"""What a record holds of one side: the answers to every probe that a comparison may ask.

All of this, and all that it calls, is also part of the stand-alone recorder, which runs without
lossbridge: on Python 3.8, with NumPy and whatever framework is there.
"""

from __future__ import annotations

import importlib.util
import json
import platform as machine
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lossbridge.errors import ArgumentError, listed, shown, suggestion
from lossbridge.kinds import Kind
from lossbridge.migrate.alignment import (
    domains_of,
    ignored_labels,
    in_domains,
    joint_domains,
    ranks_of,
)
from lossbridge.migrate.judge import number, provenance
from lossbridge.migrate.pairs import noise_of
from lossbridge.migrate.probes import (
    CLASSES,
    PLACES,
    VERSION,
    Probe,
    Signature,
    digest,
    probes,
    seen,
    sequence_probes,
    softened,
    unequal,
)

FORMAT = 2
LABELS = (-100, -1, 0, 255)
"""What is probed as an ignored label, besides a side's own."""
KINDS_OF = {"real": "real", "int": "integer", "bool": "mask"}


def terms(signature: Signature, peers: Sequence[Any]) -> dict[tuple[str, ...], bool]:
    """The domains in which a side may be asked, whatever it is compared with.

    Two sides meet in the narrower of their domains, so there is one answer for each kind of other
    side: ``peers`` holds a dtype and a domain for each input of every loss that is known. With
    each, whether labels may be ignored.
    """
    own = tuple(domains_of(signature))
    found = {own: "index" in own}
    for peer in peers if not signature.sequence else ():
        if len(peer) != len(own):
            continue
        other = Signature(
            {str(k): Kind(KINDS_OF[dtype]) for k, (dtype, _) in enumerate(peer)},
            domains=tuple(domain for _, domain in peer),
        )
        joint = joint_domains(signature, other)
        left, right = (in_domains(s, joint).domains for s in (signature, other))
        found[left] = found.get(left, False) or "index" in left + right
    return found


def asked(x: Any, labelled: bool, soft: bool) -> Iterator[Probe]:
    """Every probe that a comparison may ask of a side; ``soft``: of distributions as targets too,
    where the other side takes their logarithms."""
    if x.signature.sequence:
        yield from sequence_probes(True)
        return
    ignored = tuple(dict.fromkeys((*LABELS, *ignored_labels(x, x)))) if labelled else ()
    for rank in ranks_of(x.signature, x.signature):
        for probe in probes(
            rank, weights=x.takes_weights, ignored=ignored, masks=x.takes_mask,
            classes=x.classes or CLASSES,
        ):  # fmt: skip
            if probe.anew is not None and probe.anew >= len(x.signature.inputs):
                continue
            yield probe
            if soft:
                yield softened(probe)


def answers(x: Any, peers: Sequence[Any]) -> dict[str, Any]:
    """What a side with one of its signatures gives on every probe."""
    signature = x.signature
    rows: list[dict[str, Any]] = []
    known: dict[Any, Any] = {}  # many domains show a probe alike
    for domains, labelled in terms(signature, peers).items():
        given = replace(signature, domains=domains)
        found = {}
        soft = any("simplex" in d for d in domains[1:])
        for probe in asked(x, labelled, soft):
            inputs = seen(probe, given)
            arrays = map(np.asarray, inputs.values())
            key = (probe.id, *((a.dtype.str, a.shape, a.tobytes()) for a in arrays))
            if key not in known:
                known[key] = _answer(x, probe, inputs)
            found[probe.id] = known[key]
        misfit = unequal(signature)
        if misfit is not None and not rows:
            found[misfit[0].id] = _answer(x, *misfit)
        rows.append({"domains": list(domains), "answers": found})
    return {
        "inputs": {n: signature.written(n) for n in signature.inputs},
        "described": signature.described, "domains": list(domains_of(signature)),
        "axis": signature.axis, "places": dict(signature.places), "asked": rows,
        "provenance": [_clean(text) for text in provenance(x)],
    }  # fmt: skip


def _answer(x: Any, probe: Probe, inputs: Mapping[str, Any]) -> dict[str, Any]:
    found = x.on(probe, inputs)
    if found.raised:
        return {"error": _clean(found.error)}
    if found.missing:
        return {"error": _clean(found.missing)}
    row: dict[str, Any] = {
        "value": number(found.value),
        "gradients": {
            n: {"shape": list(np.shape(g)), "numbers": [number(e) for e in np.ravel(g)]}
            for n, g in found.gradients.items()
        },
    }
    if found.unreduced:
        row["unreduced"] = found.size
    if probe.group in ("edges", "kinks") and probe.dtype == "float64":
        row["noise"] = noise_of(x, probe, inputs, found)
    return row


def document(x: Any, sides: Sequence[Any], peers: Sequence[Any]) -> dict[str, Any]:
    """The record of a side, whose signatures are those of ``sides``."""
    if len(x.signature.inputs) > PLACES:
        raise ArgumentError(f"{x.label} has more than the {PLACES} inputs that a record holds")
    found = [answers(each, peers) for each in sides]
    ran = [a for form in found for row in form["asked"] for a in row["answers"].values()]
    if all("error" in a for a in ran):
        why = ran[0]["error"] if ran else "no probe fits its inputs"
        raise ArgumentError(
            f"{x.label} accepts none of the probes' inputs: {why}; they have "
            f"{x.classes or CLASSES} classes, and as many as you say with --classes, which "
            "--emit takes too"
        )
    native: dict[str, Any] | None = None
    notes = [_clean(n) for n in x.notes]
    installed = versions()
    classes = x.classes or CLASSES
    if x.native is not None:
        package = {"torch.nn": "torch", "optax.losses": "optax"}.get(x.witness.module, "keras")
        native = {
            "name": x.native.witness.name,
            "version": installed.get(package, ""),
            "arguments": {},
        }
        for name, value in x.native.arguments.items():
            try:
                native["arguments"][name] = plain(value)
            except ValueError:
                native = None
                notes.append(f"its argument {name} is not data, so what it means is not recorded")
                break
    return {
        "lossbridge_record": FORMAT,
        "probes": {"version": VERSION, "digest": digest(classes)},
        "label": _clean(x.label), "platform": x.platform, "versions": installed,
        "native": native, "specs": [], "computes": x.computes, "takes_weights": x.takes_weights,
        "takes_mask": x.takes_mask, "classes": classes, "notes": notes, "forms": found,
    }  # fmt: skip


def plain(value: Any) -> Any:
    """An argument as JSON holds it; arrays of any framework as nested lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError
    return value


def _clean(text: str) -> str:
    """Text for a file: one line of ASCII, not long."""
    return text.encode("ascii", "backslashreplace").decode("ascii").replace("\0", " ")[:900]


def text_of(record: Mapping[str, Any]) -> str:
    """The record as JSON, one answer a line."""
    head = {k: v for k, v in record.items() if k != "forms"}
    lines = [json.dumps(head, allow_nan=False)[:-1] + ', "forms": [']
    for i, form in enumerate(record["forms"]):
        rest = {k: v for k, v in form.items() if k != "asked"}
        lines.append(("," if i else "") + json.dumps(rest, allow_nan=False)[:-1] + ', "asked": [')
        for j, row in enumerate(form["asked"]):
            lines.append(
                ("," if j else "") + f'{{"domains": {json.dumps(row["domains"])}, "answers": {{'
            )
            lines.append(
                ",\n".join(
                    f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}"
                    for k, v in row["answers"].items()
                )
            )
            lines.append("}}")
        lines.append("]}")
    return "\n".join([*lines, "]}"]) + "\n"


def versions() -> dict[str, str]:
    """The versions of what takes part."""
    found = {"python": machine.python_version(), "numpy": np.__version__}
    for name in ("torch", "tensorflow", "keras", "jax", "optax", "lossbridge"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    inner = getattr(sys.modules.get("tensorflow"), "keras", None)
    version = getattr(inner, "__version__", None)
    if "keras" not in found and isinstance(version, str):
        found["keras"] = version
    return found


def from_file(text: str) -> tuple[Any, Mapping[str, str] | None]:
    """What ``FILE.py:name`` names, and the ``inputs`` that the file describes beside it.

    The file is the caller's own, and is executed.
    """
    file, _, name = text.rpartition(":")
    if not file.endswith(".py"):
        file, name = text, ""
    path = Path(file)
    if not path.is_file():
        raise ArgumentError(f"there is no file {shown(file)}; write FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"_lossbridge_user_{path.stem}", str(path))
    if spec is None or spec.loader is None:
        raise ArgumentError(f"{shown(file)} is not a Python file; write FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as `python FILE.py` does
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArgumentError(f"{shown(file)} could not be executed: {shown(said)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    names = [
        n for n, v in vars(module).items()
        if not n.startswith("_") and callable(v) and not isinstance(v, type)
    ]  # fmt: skip
    if not name or not hasattr(module, name):
        what = f"has no {shown(name)}" if name else "holds several things"
        raise ArgumentError(
            f"{shown(file)} {what}; write {file}:NAME with one of: {listed(names)}"
            f"{suggestion(name, names)}"
        )
    found = getattr(module, name)
    if isinstance(found, type):
        raise ArgumentError(f"{name} in {shown(file)} is a class; make one: loss = {name}()")
    inputs = getattr(module, "inputs", None)
    return found, inputs if isinstance(inputs, Mapping) else None


def described(words: Sequence[str]) -> dict[str, str] | None:
    """``name=kind`` words as the description of a callable's inputs."""
    found = {}
    for word in words:
        name, equals, kind = word.partition("=")
        if not equals:
            raise ArgumentError(f"{shown(word)} is not name=kind, such as logits=real[n,c]")
        found[name.strip()] = kind.strip()
    return found or None
