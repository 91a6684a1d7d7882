"""The rest of the stand-alone recorder: what stands there in place of lossbridge itself.

Only the file that ``lossbridge record --emit`` writes runs this. ``DATA`` is put into that file:
the probes, the built-in losses with what they take, and the kinds of other sides.
"""

from __future__ import annotations

import argparse
import base64
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lossbridge.errors import ArgumentError, LossbridgeError, listed, shown
from lossbridge.files import save
from lossbridge.kinds import Kind
from lossbridge.migrate.probes import CLASSES, IGNORED, Probe, checksum, relabelled
from lossbridge.migrate.recorder import described, document, from_file, text_of
from lossbridge.migrate.sides import PLATFORMS, available, of_live

DATA: dict[str, Any] = {}
MODULES: dict[str, Any] = {}


def calls_of(platform: str) -> Any:
    """How the losses of a platform are called; imports its framework."""
    if platform not in LOADED:
        LOADED[platform] = SimpleNamespace(**MODULES[platform]())
    return LOADED[platform]


LOADED: dict[str, Any] = {}


def array(given: Sequence[Any] | None) -> Any:
    """An array from its form, shape and bytes."""
    if given is None:
        return None
    form, shape, data = given
    return np.frombuffer(base64.b64decode(data), form).reshape(shape).copy()


@lru_cache(maxsize=4)
def stored(key: str) -> tuple[Probe, ...]:
    """The probes as they were where this file was written."""
    found = []
    for row in DATA[key]:
        id, group, rank, latent, labels, signs, weights, dtype, mode, mask, beside, anew = row
        found.append(
            Probe(
                id, group, rank, tuple(map(array, latent)), array(labels), array(signs),
                array(weights), dtype, mode, array(mask),
                tuple((array(x), array(y)) for x, y in beside), anew,
            )
        )  # fmt: skip
    return tuple(found)


def probes(
    rank: int,
    *,
    weights: bool = False,
    ignored: Sequence[int] = (IGNORED,),
    masks: bool = False,
    classes: int = CLASSES,
) -> Iterator[Probe]:
    """Every probe whose widest input has this rank; of no other number of classes."""
    held = DATA["classes"]
    if classes != held:
        raise ArgumentError(
            f"the loss is for {classes} classes and this recorder for {held}; write another where "
            f"lossbridge is: lossbridge record --emit recorder.py --classes {classes}"
        )
    ranked = [p for p in stored("probes") if p.rank == rank]
    for probe in ranked:
        if probe.group == "ignored":
            continue
        if (weights or probe.weights is None) and (masks or probe.mask is None):
            yield probe
    for label in ignored:
        for probe in ranked:
            if probe.group == "ignored":
                yield relabelled(probe, label)


def sequence_probes(lengths: bool) -> Iterator[Probe]:
    """The probes of losses of sequences."""
    yield from stored("sequences")


def digest(classes: int = CLASSES) -> str:
    """Which probes these are: as it was where this file was written."""
    return str(DATA["digest"])


class BuiltIn:
    """A built-in loss: its arguments, and what it takes."""

    def __init__(self, name: str) -> None:
        self.name, self.module = name, name.rpartition(".")[0]
        self.row = DATA["natives"][name]
        self.computes = str(self.row["computes"])
        self.undefined = self.row["undefined"]
        self.read: Mapping[str, Any] = {}  # every argument is an attribute of its name
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.signature = inspect.Signature(
            [inspect.Parameter(n, keyword) for n in self.row["required"]]
            + [inspect.Parameter(n, keyword, default=v) for n, v in self.row["defaults"].items()]
        )

    def meaning(self, **arguments: Any) -> Any:
        """What is known here of its meaning: the inputs, and which labels it leaves out."""
        axis = arguments.get("axis", self.row["defaults"].get("axis", ""))
        if str(axis) not in self.row["forms"]:
            raise ArgumentError(
                f"{self.name} with axis={shown(axis)}: its inputs are not described here; wrap it "
                "in a function and describe them with --inputs"
            )
        left_out = arguments.get("ignore_index", arguments.get("ignore_class"))
        params = {"ignore_index": SimpleNamespace(value=left_out, kind=Kind("integer"))}
        specs = tuple(
            SimpleNamespace(
                inputs={n: Kind.parse(k) for n, k in inputs.items()}, axis=place, ports={},
                step=False, params=params,
            )
            for inputs, place in self.row["forms"][str(axis)]
        )  # fmt: skip
        return SimpleNamespace(specs=specs, spec=specs[0])

    def call_order(self, spec: Any) -> list[str]:
        """The names of its inputs in the order in which it is called."""
        return [list(spec.inputs)[k] for k in self.row["order"]]


def witnesses() -> Mapping[str, Any]:
    """The built-ins that are described here."""
    found: Mapping[str, Any] = DATA["natives"]
    return found


def find(name: str, version: str | None = None) -> BuiltIn:
    """The description of a built-in."""
    return BuiltIn(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Record one loss; exit code 0: done, 2: it could not be, 3: no framework is here."""
    parser = argparse.ArgumentParser(
        description="Record what a loss gives on the fixed probes of lossbridge, for "
        "`lossbridge compare RECORD.json OTHER` in another environment."
    )
    parser.add_argument("loss", help="FILE.py:NAME; the file is executed")
    parser.add_argument("--inputs", action="append", default=[], metavar="NAME=KIND",
                        help="an input of a plain function, such as logits=real[n,c]")  # fmt: skip
    parser.add_argument("--platform", choices=PLATFORMS, help="what a plain function takes")
    parser.add_argument("-o", "--output", required=True, help="the record's file")
    given = parser.parse_args(argv)
    try:
        if checksum((*stored("probes"), *stored("sequences"))) != DATA["checksum"]:
            raise ArgumentError("the probes in this file are damaged; write it again")
        if not any(map(available, PLATFORMS)):
            print(f"recorder: none of {listed(PLATFORMS)} is installed here", file=sys.stderr)
            return 3
        loss, inputs = from_file(given.loss)
        inputs = described(given.inputs) or inputs
        x = of_live(loss, inputs, given.platform, DATA["classes"])
        save(text_of(document(x, x.overloads(), DATA["peers"])), Path(given.output))
    except (LossbridgeError, OSError) as error:
        print(f"recorder: {error}", file=sys.stderr)
        return 2
    print(f"wrote {given.output}: {x.label} on {x.platform}")
    return 0
