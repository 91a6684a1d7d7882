"""Stored cases: the vectors that every platform is measured on.

Cases are generated once from a specification's kinds, with a seed made from its id, and stored as
exact hexadecimal numbers; a run only ever reads them back, so it never flakes. Three strata:
*practical* (ordinary sizes), *full* (every exponent of the format) and *special* (the traps).

Independent samples are batched, so that a stratum is one call of a framework. ``single`` cases are
float32 values and serve float64 too; ``double`` adds what only float64 can hold.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossbridge.ir import Graph
from lossbridge.kinds import Kind
from lossbridge.spec import Spec
from lossbridge.trace import build_graph
from lossbridge_conformance.draw import Draw, benign, special_rows

Array: TypeAlias = NDArray[Any]

STRATA = ("practical", "full", "special")
# The format each group is drawn in, and how many cases each stratum of it has.
GROUPS: dict[str, tuple[str, dict[str, int]]] = {
    "single": ("float32", {"practical": 24, "full": 24, "special": 56}),
    "double": ("float64", {"full": 12, "special": 24}),
    "float16": ("float16", {"practical": 12, "full": 12, "special": 36}),
    "bfloat16": ("bfloat16", {"practical": 12, "full": 12, "special": 36}),
}
SERVES: dict[str, tuple[str, ...]] = {
    "float64": ("single", "double"),
    "float32": ("single",),
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
}
SIZE = 4  # length of an axis in ordinary cases: small, and a power of two
LARGER = (33, 3)  # length of axes, and number of samples, of the larger practical cases
LARGER_JOINT = (9, 1)  # the same where several axes of a case grow together
LABELS = ("index", "binary", "sign", "probability")
DEPENDENT_SHARE = 4  # a call that is one case costs as much as a batch; make fewer of those


@dataclass(frozen=True)
class Call:
    """One call of a framework: cases side by side along ``sample_axis``, or a single case."""

    group: str
    stratum: str
    ids: tuple[str, ...]
    flags: tuple[tuple[str, ...], ...]
    sample_axis: str | None
    inputs: dict[str, Array]

    def select(self, position: int, kinds: Mapping[str, Kind]) -> dict[str, Array]:
        """The inputs of one case, its sample axis kept with length 1."""
        if self.sample_axis is None:
            return dict(self.inputs)
        return {
            name: np.take(x, [position], axis=kinds[name].axes.index(self.sample_axis))
            if self.sample_axis in kinds[name].axes
            else x
            for name, x in self.inputs.items()
        }


@dataclass(frozen=True)
class Fixture:
    """All stored cases of one loss, and the digest of the file they were read from."""

    loss: str
    calls: tuple[Call, ...]
    sha256: str

    def serving(self, dtype: str, stratum: str | None = None) -> Iterator[Call]:
        """The calls whose values a dtype holds exactly."""
        for call in self.calls:
            if call.group in SERVES[dtype] and stratum in (None, call.stratum):
                yield call


# --- which samples are independent ---------------------------------------------------------------


def sample_axis(graph: Graph, value: str = "value") -> str | None:
    """An axis of the value along which nothing in the graph mixes entries, or None.

    The axis group is preferred. Samples along such an axis can be measured in one call.
    """
    mixed: set[str] = set()
    for node in graph.nodes:
        if node.op in ("broadcast", "input"):
            continue
        for key, attr in node.attrs:
            if key in ("axis", "old", "new"):
                mixed.add(attr)
            elif key == "axes":
                mixed.update(attr)
    carried = [
        set(graph.nodes[row].attr("order")) for _, row in graph.inputs()
        if graph.nodes[row].attr("order")
    ]  # fmt: skip
    axes = graph.nodes[graph.output(value)].type.axes
    free = [a for a in axes if a not in mixed and carried and a in carried[0]]
    stars = [a for a in free if a.startswith("*")]
    return next(iter([*stars, *free]), None)


def dims_of(axes: Sequence[str], wanted: Sequence[str], rank: int) -> tuple[int, ...]:
    """The dimensions of some axes in an array of a rank; the group takes what is left."""
    width = rank - len(axes) + 1
    found: list[int] = []
    position = 0
    for axis in axes:
        step = width if axis.startswith("*") else 1
        if axis in wanted:
            found.extend(range(position, position + step))
        position += step
    return tuple(found)


def _kinds(spec: Spec) -> dict[str, Kind]:
    """Every array a case holds: inputs, then weights. Parameters keep their stated values."""
    kinds = dict(spec.inputs)
    kinds.update({name: weight.kind for name, weight in spec.weights.items()})
    return kinds


def parameters(spec: Spec) -> dict[str, float | int | bool]:
    """The stated value of each parameter, or an ordinary one where the user must give it."""
    ordinary: dict[str, float | int | bool] = {"integer": 1, "flag": False, "probability": 0.25}
    return {
        name: ordinary.get(param.kind.name, 1.0) if param.value is None else param.value
        for name, param in spec.params.items()
    }


def with_parameters(
    spec: Spec, inputs: Mapping[str, Array], given: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """The inputs of a call with the parameters as arrays, as the loss's graph takes them.

    A number given for a parameter that has axes stands for every entry.
    """
    kinds = _kinds(spec)
    sizes: dict[str, tuple[int, ...]] = {}
    for name, x in inputs.items():
        width = x.ndim - len(kinds[name].axes) + 1
        position = 0
        for axis in kinds[name].axes:
            step = width if axis.startswith("*") else 1
            sizes[axis] = x.shape[position : position + step]
            position += step
    found: dict[str, Array] = dict(inputs)
    for name, value in {**parameters(spec), **(given or {})}.items():
        shape = tuple(n for axis in spec.params[name].kind.axes for n in sizes[axis])
        found[name] = np.broadcast_to(np.asarray(value), np.shape(value) or shape)
    if spec.step:
        found.setdefault("step", np.asarray(0.0))
    return found


# --- generating --------------------------------------------------------------------------------

Row: TypeAlias = tuple[tuple[str, ...], dict[str, Array]]  # flags, and the inputs of one case


@dataclass(frozen=True)
class _Plan:
    """What one case of a loss looks like."""

    kinds: dict[str, Kind]
    sample: str | None
    sizes: dict[str, int]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._length(a) for a in self.kinds[name].axes if a != self.sample)

    def _length(self, axis: str) -> int:
        return self.sizes.get(axis, self.sizes[""])

    def along(self, name: str) -> int:
        kind = self.kinds[name]
        axes = [a for a in kind.axes if a != self.sample]
        return axes.index(kind.of) if kind.of in axes else len(axes) - 1

    def count(self, name: str) -> int:
        return self._length(self.kinds[name].of or "")


def generate(spec: Spec) -> tuple[Call, ...]:
    """All cases of a loss, the same on every machine."""
    kinds = _kinds(spec)
    sample = sample_axis(build_graph(spec))
    fixed = {
        axis: size
        for weight in spec.weights.values()
        for axis, size in weight.sizes.items()
        if isinstance(size, int)
    }
    calls: list[Call] = []
    for group, (dtype, counts) in GROUPS.items():
        for stratum, count in counts.items():
            if sample is None:
                count = math.ceil(count / DEPENDENT_SHARE)
            plan = _Plan(kinds, sample, {"": SIZE, **fixed})
            draw = Draw(_seed(spec.id, group, stratum), dtype)
            rows = _rows(plan, draw, stratum, count)
            calls.extend(_calls(plan, f"{spec.id}/{group}/{stratum}", group, stratum, rows))
            if (group, stratum) == ("single", "practical") and any(
                plan.shape(name) for name in kinds
            ):
                joint = max(len(plan.shape(name)) for name in spec.inputs) > 1
                length, count = LARGER_JOINT if joint else LARGER
                large = _Plan(kinds, sample, {"": length, **fixed})
                rows = [
                    ((*flags, "large"), inputs)
                    for flags, inputs in _rows(large, draw, stratum, count)
                ]
                name = f"{spec.id}/{group}/large"
                calls.extend(_calls(large, name, group, stratum, rows))
    return tuple(calls)


def _seed(*words: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:8], "big")


def _rows(plan: _Plan, draw: Draw, stratum: str, count: int) -> list[Row]:
    if stratum == "special":
        return _special(plan, draw, count)
    return [_random(plan, draw, stratum, at) for at in range(count)]


def _random(plan: _Plan, draw: Draw, stratum: str, at: int) -> Row:
    inputs: dict[str, Array] = {}
    flags: tuple[str, ...] = ()
    first: tuple[str, tuple[int, ...], str] | None = None
    for name, kind in plan.kinds.items():
        shape = plan.shape(name)
        inputs[name] = draw.array(kind, shape, plan.along(name), plan.count(name), stratum)
        if kind.name not in ("real", "positive", "non_negative"):
            continue
        if first is not None and first[1:] == (shape, kind.name) and at % 2:
            # Every second case: a target near the prediction, where their difference cancels.
            inputs[name] = draw.near(inputs[first[0]])
            flags = ("near",)
        elif first is None:
            first = (name, shape, kind.name)
    return flags, inputs


def _special(plan: _Plan, draw: Draw, count: int) -> list[Row]:
    """Each input's special patterns beside benign others, then ties; spread over what there is."""
    queues: list[list[Row]] = []
    for name, kind in plan.kinds.items():
        patterns = special_rows(
            kind, plan.shape(name), plan.along(name), plan.count(name), draw.dtype
        )
        # A sequence of labels has no one for which a logit is easy.
        labelled = any(
            other != name
            and kind_.name in LABELS
            and not (kind_.name == "index" and kind_.axes[1:])
            for other, kind_ in plan.kinds.items()
        )
        queue: list[Row] = []
        for at, (flag, row) in enumerate(patterns):
            # A saturated logit is a trap for one label and easy for the other: take both.
            both = labelled and flag in ("saturated", "exp_overflow", "infinite")
            for variant in (0, 1) if both else (at,):
                queue.append(((flag, name), {**_benign(plan, variant, both), name: row}))
        queues.append(queue)
    queues.append(_ties(plan, draw))
    # Inputs with few patterns keep all of theirs; the others share what is left.
    chosen: list[Row] = []
    left = count
    for position, queue in enumerate(sorted(queues, key=len)):
        share = left // (len(queues) - position)
        picked = _spread(queue, share)
        chosen.extend(picked)
        left -= len(picked)
    return chosen


def _spread(queue: list[Row], share: int) -> list[Row]:
    """As many entries as there is room for, each flag once before any flag twice."""
    seen: dict[tuple[str, ...], int] = {}
    ranked: list[tuple[int, int]] = []
    for position, (flags, _) in enumerate(queue):
        seen[flags] = seen.get(flags, -1) + 1
        ranked.append((seen[flags], position))
    chosen = {position for _, position in sorted(ranked)[:share]}
    return [row for position, row in enumerate(queue) if position in chosen]


def _benign(plan: _Plan, variant: int, certain: bool = False) -> dict[str, Array]:
    return {
        name: benign(kind, plan.shape(name), plan.along(name), variant, certain)
        for name, kind in plan.kinds.items()
    }


def _ties(plan: _Plan, draw: Draw) -> list[Row]:
    """Two inputs of one kind and shape that are equal: kinks, and zeros of the loss."""
    names = list(plan.kinds)
    rows: list[Row] = []
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            if plan.kinds[first].name != plan.kinds[second].name:
                continue
            if plan.kinds[first].axes != plan.kinds[second].axes:
                continue
            patterns = special_rows(
                plan.kinds[first], plan.shape(first), plan.along(first), plan.count(first),
                draw.dtype,
            )  # fmt: skip
            rows.extend(
                (("tie", flag), {**_benign(plan, k), first: row, second: row})
                for k, (flag, row) in enumerate(patterns)
                if np.isfinite(row.astype(np.float64)).all()
            )
    return rows


def _calls(plan: _Plan, name: str, group: str, stratum: str, rows: Sequence[Row]) -> Iterator[Call]:
    ids = tuple(f"{name}/{at}" for at in range(len(rows)))
    if not rows:
        return
    if plan.sample is None:
        for case, (flags, inputs) in zip(ids, rows, strict=True):
            yield Call(group, stratum, (case,), (flags,), None, inputs)
        return
    inputs = {}
    for key, kind in plan.kinds.items():
        if plan.sample in kind.axes:
            at = kind.axes.index(plan.sample)
            inputs[key] = np.stack([row[key] for _, row in rows], axis=at)
        else:
            inputs[key] = rows[0][1][key]
    yield Call(group, stratum, ids, tuple(flags for flags, _ in rows), plan.sample, inputs)


# --- storing -----------------------------------------------------------------------------------

FORMAT = 1


def write_fixtures(spec: Spec, path: Path) -> str:
    """Generate the cases of a loss into a file; returns the digest that names its content."""
    calls = [_encode(call) for call in generate(spec)]
    content = {"lossbridge-fixtures": FORMAT, "loss": spec.id, "calls": calls}
    digest = hashlib.sha256(_canonical(content)).hexdigest()
    lines = [json.dumps(call, separators=(",", ":")) for call in calls]
    head = json.dumps(
        {"lossbridge-fixtures": FORMAT, "loss": spec.id, "sha256": digest}, separators=(",", ":")
    )
    # One call a line, so that a diff shows which cases changed.
    text = head[:-1] + ',"calls":[\n' + ",\n".join(lines) + "\n]}\n"
    path.write_text(text, encoding="ascii", newline="\n")
    return digest


def read_fixtures(path: Path) -> Fixture:
    """The stored cases of a loss; a file that was changed by hand is refused."""
    content = json.loads(path.read_text(encoding="ascii"))
    if content.get("lossbridge-fixtures") != FORMAT:
        raise ValueError(f"{path.name} is not a fixture file of format {FORMAT}")
    stated = content.pop("sha256", None)
    found = hashlib.sha256(_canonical(content)).hexdigest()
    if stated != found:
        raise ValueError(
            f"{path.name} was changed: its content has sha256 {found}, but it states {stated}; "
            "regenerate it"
        )
    return Fixture(content["loss"], tuple(_decode(call) for call in content["calls"]), found)


def fixture_path(folder: Path, loss: str) -> Path:
    """The file of a loss; the separator of a name space is not for file names."""
    return folder / f"{loss.replace('/', '__')}.json"


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")


def _encode(call: Call) -> dict[str, Any]:
    return {
        "group": call.group,
        "stratum": call.stratum,
        "name": call.ids[0].rpartition("/")[0],
        "first": int(call.ids[0].rpartition("/")[2]),
        "flags": [" ".join(flags) for flags in call.flags],
        "sample": call.sample_axis,
        "inputs": {name: _encode_array(x) for name, x in call.inputs.items()},
    }


def _decode(row: Mapping[str, Any]) -> Call:
    count = len(row["flags"])
    return Call(
        row["group"],
        row["stratum"],
        tuple(f"{row['name']}/{row['first'] + at}" for at in range(count)),
        tuple(tuple(flags.split()) for flags in row["flags"]),
        row["sample"],
        {name: _decode_array(x) for name, x in row["inputs"].items()},
    )


def _encode_array(x: Array) -> dict[str, Any]:
    if x.dtype == np.bool_:
        return {"bool": "".join("1" if v else "0" for v in x.ravel()), "shape": list(x.shape)}
    if np.issubdtype(x.dtype, np.integer):
        return {"int": [int(v) for v in x.ravel()], "shape": list(x.shape)}
    return {"hex": " ".join(compact_hex(float(v)) for v in x.ravel()), "shape": list(x.shape)}


def _decode_array(row: Mapping[str, Any]) -> Array:
    shape = tuple(row["shape"])
    if "bool" in row:
        return np.array([c == "1" for c in row["bool"]], dtype=np.bool_).reshape(shape)
    if "int" in row:
        return np.array(row["int"], dtype=np.int64).reshape(shape)
    values = [float.fromhex(text) for text in row["hex"].split()]
    return np.array(values, dtype=np.float64).reshape(shape)


def compact_hex(x: float) -> str:
    """``float.hex`` without what :func:`float.fromhex` does not need."""
    if not math.isfinite(x):
        return str(x)
    mantissa, _, exponent = x.hex().partition("p")
    sign, _, digits = mantissa.partition("0x")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    exponent = "" if exponent in ("+0", "-0") else "p" + exponent.lstrip("+")
    return f"{sign}0x{digits}{exponent}"
