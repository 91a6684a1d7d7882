"""Two environments: what one side gave on the probes, in a file, compared in another.

A record holds all that a later comparison may ask of a side, whatever the other side is. Reading
one executes nothing. :func:`recorder` writes a stand-alone file that makes the same record where
lossbridge does not run.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np

import lossbridge
from lossbridge.catalogue import catalogue
from lossbridge.errors import ArgumentError, LossbridgeError, RecordError, SpecError, shown
from lossbridge.files import save
from lossbridge.kinds import Kind
from lossbridge.migrate import alignment, judge, standalone
from lossbridge.migrate.domains import domains
from lossbridge.migrate.live import Native
from lossbridge.migrate.pairs import pairs_of
from lossbridge.migrate.probes import (
    CLASSES,
    PLACES,
    SHAPES,
    VERSION,
    Probe,
    Signature,
    checksum,
    digest,
    domains_known,
    kind_of,
    probes,
    seen,
    sequence_probes,
)
from lossbridge.migrate.recorder import FORMAT, document, text_of
from lossbridge.migrate.sides import (
    MOST_CLASSES,
    PLATFORMS,
    Outcome,
    Side,
    available,
    check_classes,
    of_spec,
    side,
    undefined,
)
from lossbridge.reader import read_file, read_json
from lossbridge.spec import Spec, loads, to_json
from lossbridge.witnesses import find, witnesses

MOST = 1 << 23  # a record of the largest signature takes a quarter of this
CONTAINERS = 1 << 18

# --- the format ----------------------------------------------------------------------------------

Number: TypeAlias = float | Literal["nan", "inf", "-inf"]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1000)]
Few: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Place: TypeAlias = Annotated[int, msgspec.Meta(ge=-16, le=15)]


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array: its shape, and its numbers in the order of C."""

    shape: Annotated[tuple[Few, ...], msgspec.Meta(max_length=4)]
    numbers: list[Number]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of one probe."""

    value: Number | None = None
    gradients: dict[Text, Numbers] = {}
    error: Text = ""
    unreduced: Few | None = None
    noise: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answers to the probes, given in one domain for each input."""

    domains: list[Text]
    answers: dict[Text, Answer]


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature of a side, and what it gave."""

    inputs: Annotated[dict[Text, Text], msgspec.Meta(min_length=1, max_length=PLACES)]
    described: bool
    domains: list[Text]
    axis: Place | None
    places: dict[Text, Place]
    asked: Annotated[list[Asked], msgspec.Meta(max_length=1000)]
    provenance: list[Text] = []


class BuiltIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A built-in: its name, the version of its framework, and its arguments."""

    name: Text
    version: Text
    arguments: dict[Text, Any]


class Probed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which probes."""

    version: int
    digest: Text


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    lossbridge_record: int
    probes: Probed
    label: Text
    platform: Literal["torch", "keras", "jax"]
    versions: dict[Text, Text]
    native: BuiltIn | None
    specs: list[dict[str, Any]]
    computes: Literal["", "float32", "float16", "bfloat16"]
    takes_weights: bool
    takes_mask: bool
    classes: Annotated[int, msgspec.Meta(ge=2, le=MOST_CLASSES)]
    notes: list[Text]
    forms: Annotated[list[Form], msgspec.Meta(min_length=1, max_length=16)]


def record_schema() -> dict[str, Any]:
    """The JSON Schema of records."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**schema, **msgspec.json.schema(Record)}


# --- recording -----------------------------------------------------------------------------------


@dataclass
class Recorded(Side):
    """A side that was recorded: it answers what the record holds, and nothing else."""

    forms: tuple[Form, ...] = field(default=(), repr=False)
    form: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    text: str = field(default="", repr=False)

    def overloads(self) -> list[Side]:
        """The side with each of the signatures that were recorded."""
        return [
            replace(self, form=k, signature=_signature(f), provenance=tuple(f.provenance))
            for k, f in enumerate(self.forms)
        ]

    def summary(self, path: str | Path) -> dict[str, Any]:
        """What the record at ``path`` holds, in a few entries."""
        answers = [x for f in self.forms for asked in f.asked for x in asked.answers.values()]
        return {
            "record": str(path), "label": self.label, "platform": self.platform,
            "versions": self.versions,
            "probes": {"version": VERSION, "digest": digest(self.classes or CLASSES)},
            "inputs": [f.inputs for f in self.forms], "answers": len(answers),
            "raised": sum(bool(x.error) for x in answers),
        }  # fmt: skip

    def on(
        self,
        probe: Probe,
        inputs: Mapping[str, Any],
        joint: Sequence[str | None] = (),
        wrt: Sequence[str] | None = None,
    ) -> Outcome:
        """What the record holds of a probe, in the domains ``joint``."""
        own = self.forms[self.form].domains
        terms = [j or d for j, d in zip(joint or own, own, strict=True)]
        held = next((a for a in self.forms[self.form].asked if a.domains == terms), None)
        if held is None:
            said = ", ".join(f"{n} as {d}" for n, d in zip(inputs, terms, strict=True))
            return Outcome(missing=f"inputs given as {said}: {self.label} was not recorded so")
        answer = held.answers.get(probe.id)
        none = undefined(self, probe)
        if none is not None and answer is not None and answer.unreduced is None:
            return none
        if answer is None:
            return Outcome(missing=f"{probe.id}: the record of {self.label} does not hold it")
        return _outcome(answer, inputs)


def _outcome(answer: Answer, inputs: Mapping[str, Any]) -> Outcome:
    if answer.value is None:
        return Outcome(error=answer.error or "unknown")
    gradients = {}
    for name, g in answer.gradients.items():
        if name not in inputs or g.shape != np.shape(inputs[name]):
            raise RecordError(
                f"a record holds a gradient in {shown(name)} of shape {g.shape}, which no input "
                f"has; {AGAIN}"
            )
        gradients[name] = np.array([float(x) for x in g.numbers], np.float64).reshape(g.shape)
    return Outcome(
        np.float64(answer.value), gradients, unreduced=answer.unreduced is not None,
        size=1 if answer.unreduced is None else answer.unreduced, noise=answer.noise,
    )  # fmt: skip


AGAIN = "make it again: lossbridge record FILE.py:loss -o side.json, or --emit recorder.py"


def record(
    loss: Any,
    path: str | Path | None = None,
    *,
    inputs: Mapping[str, str] | None = None,
    platform: str | None = None,
    classes: int | None = None,
) -> Recorded:
    """What a loss gives on every probe, for a comparison in another environment.

    ``loss``, ``inputs``, ``platform`` and ``classes`` are those of :func:`lossbridge.compare`,
    which takes the result, or the ``path`` to which it is written, in place of a loss.

    Raises :class:`ArgumentError` for what is no loss, or accepts none of the probes' inputs.
    """
    x = side(loss, inputs=inputs, platform=platform, classes=classes)
    if isinstance(x, Recorded):
        raise ArgumentError(f"{x.label} is a record already")
    why = judge.unable(x)
    if why:
        raise ArgumentError(why)
    found = document(x, x.overloads(), peers())
    if x.native is None:
        found["specs"] = [to_json(spec) for spec in x.specs]
    found["versions"]["lossbridge"] = lossbridge.__version__
    text = text_of(found)
    if path is not None:
        save(text, Path(path))
    return loaded(text, x.label)


@lru_cache(maxsize=1)
def peers() -> tuple[tuple[tuple[str, str], ...], ...]:
    """What the losses that are known take: the dtype and the domain of each input."""
    found = {}
    for witness in itertools.chain(*witnesses().values()):
        switches = [p for p in witness.signature.parameters if p in SWITCHES]
        for spec in witness.example().specs:
            kinds = tuple(spec.inputs.values())
            for values in itertools.product((True, False), repeat=len(switches)):
                given = dict(zip(switches, values, strict=True))
                names = domains(witness.name, given, tuple(k.name for k in kinds))
                found[tuple(zip((k.dtype for k in kinds), names, strict=True))] = True
    for definition in catalogue().values():
        found[tuple((k.dtype, k.name) for k in definition.spec.inputs.values())] = True
    return tuple(found)


SWITCHES = ("from_logits", "apply_softmax", "apply_sigmoid", "log_input", "log_target")
"""The arguments of built-ins that say what their inputs are."""


# --- reading -------------------------------------------------------------------------------------


def of_file(path: str) -> Recorded | Spec:
    """The record or the specification that a file holds."""
    data = read_file(path, MOST)
    if b'"lossbridge_record"' not in data:
        return loads(data)
    return loaded(data, path)


def loaded(data: str | bytes, name: str) -> Recorded:
    """The record that ``data`` writes, fully validated; executes nothing.

    Raises :class:`RecordError`.
    """
    try:
        value = read_json(data, most=MOST, containers=CONTAINERS)
    except SpecError as error:
        raise RecordError(f"{shown(name)} is not a whole record: {error.message}") from None
    _check_probes(value, name)
    try:
        found = msgspec.convert(value, Record)
        forms = tuple(found.forms)
        for form in forms:
            _check(form)
        specs = tuple(loads(json.dumps(s)) for s in found.specs)
    except (msgspec.ValidationError, LossbridgeError) as error:
        said = str(error).encode("ascii", "backslashreplace").decode("ascii")[:300]
        raise RecordError(f"{shown(name)} is not a record: {said}; {AGAIN}") from None
    made = Recorded(
        found.label, _signature(forms[0]), found.platform, _never, specs,
        takes_weights=found.takes_weights, takes_mask=found.takes_mask, computes=found.computes,
        classes=found.classes,
        recorded=True,
        provenance=tuple(forms[0].provenance), notes=list(found.notes), forms=forms,
        versions=found.versions, text=data if isinstance(data, str) else data.decode(),
    )  # fmt: skip
    where = ", ".join(f"{n} {v}" for n, v in found.versions.items() if n != "lossbridge")
    made.notes.append(f"recorded with {where}")
    if found.native is not None:
        _give_meaning(made, found.native)
    return made


def _check_probes(value: Any, name: str) -> None:
    """Version and probes first: every other complaint about another one's file would mislead."""
    given = value.get("lossbridge_record") if isinstance(value, dict) else None
    if given != FORMAT:
        if isinstance(given, int) and not isinstance(given, bool) and 0 < given < FORMAT:
            raise RecordError(
                f"{shown(name)} is no record of format {FORMAT}, but of {given}, an older one, "
                f"which gave all inputs of one kind the same numbers; {AGAIN}"
            )
        raise RecordError(
            f"{shown(name)} is no record of format {FORMAT}, but of {shown(given)}; {AGAIN}"
        )
    held, classes = value.get("probes"), value.get("classes")
    # Another number of classes than the schema allows is refused by it.
    asked = classes if isinstance(classes, int) and 2 <= classes <= MOST_CLASSES else CLASSES
    if held != {"version": VERSION, "digest": digest(asked)}:
        of = held.get("version") if isinstance(held, dict) else None
        raise RecordError(
            f"{shown(name)} holds other probes (version {shown(of)}) than this lossbridge asks "
            f"(version {VERSION}), so nothing in it can be compared; {AGAIN}, with this lossbridge"
        )


def _signature(form: Form) -> Signature:
    read = kind_of if form.described else Kind.parse
    inputs = {n: read(k) for n, k in form.inputs.items()}
    domains = tuple(form.domains)
    return Signature(
        inputs, form.axis, domains=domains, described=form.described, places=form.places
    )


def _check(form: Form) -> None:
    """That it can be asked, and that its numbers are as many as its shapes say."""
    signature = _signature(form)
    if not form.inputs or any(
        len(d) != len(form.inputs) for d in (form.domains, *(a.domains for a in form.asked))
    ):
        raise RecordError("it needs one domain for each of its inputs")
    words = {d for row in (form.domains, *(a.domains for a in form.asked)) for d in row}
    unknown = sorted(words - {*domains_known()})
    if unknown:
        raise RecordError(f"{shown(unknown[0])} says nothing of what an input is")
    ranks = () if signature.sequence else alignment.ranks_of(signature, signature)
    some = [_first(rank) for rank in ranks] or [next(sequence_probes(True))]
    for asked in form.asked:
        try:
            for probe in some:
                seen(probe, replace(signature, domains=tuple(asked.domains)))
        except Exception as error:
            raise RecordError(
                f"no probe can be given as {shown(', '.join(asked.domains))} to "
                f"{shown(', '.join(form.inputs.values()))} ({type(error).__name__})"
            ) from None
        for answer in asked.answers.values():
            if answer.value is None and not answer.error:
                raise RecordError("an answer has neither a value nor an error")
            for g in answer.gradients.values():
                if len(g.numbers) != int(np.prod(g.shape, dtype=np.int64)):
                    raise RecordError(f"{len(g.numbers)} numbers have no shape {g.shape}")


@lru_cache(maxsize=4)
def _first(rank: int) -> Probe:
    return next(probes(rank))


def _never(given: Any, weights: Any, mask: Any = None) -> Any:
    raise RecordError("a record can be asked nothing but its probes")


def _give_meaning(x: Recorded, built_in: BuiltIn) -> None:
    """The meaning of what was recorded, where it is known for that version."""
    unknown = f"what {built_in.name} means in version {built_in.version} is not known here"
    try:
        native = Native(find(built_in.name, built_in.version or None), built_in.arguments)
        specs = native.meaning.specs
    except Exception:  # arguments of another version, or of a hostile file
        x.notes.append(unknown)
        return
    x.native, x.witness, x.specs = native, native.witness, specs
    if built_in.version != _installed(native.witness.package) and not _agrees(x):
        x.native, x.witness, x.specs = None, None, ()
        x.notes.append(unknown)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _agrees(x: Recorded) -> bool:
    """Whether the meaning known for another version gives what was recorded."""
    if not any(map(available, PLATFORMS)):
        return True
    recorded = x.overloads()[0]
    meant = of_spec(x.specs[0], None)
    meant.signature = replace(recorded.signature, axis=meant.signature.axis)
    ranks = alignment.ranks_of(recorded.signature, recorded.signature)
    own = alignment.domains_of(recorded.signature)
    found = pairs_of(recorded, meant, own, ranks, groups=("inside",))
    return all(p.status == "equal" or p.a.raised for p in found)


# --- the stand-alone recorder --------------------------------------------------------------------


def recorder(classes: int = CLASSES) -> str:
    """The source of a file that records without lossbridge, on Python 3.8 with NumPy.

    Its probes are of one number of classes.
    """
    check_classes(classes)
    plain = [p for r in SHAPES for p in probes(r, weights=True, masks=True, classes=classes)]
    sequences = list(sequence_probes(True))
    return standalone.source(
        {
            "classes": classes,
            "digest": digest(classes),
            "checksum": checksum((*plain, *sequences)),
            "peers": peers(),
            "natives": dict(_natives()),
            "probes": [_stored(p) for p in plain],
            "sequences": [_stored(p) for p in sequences],
        }
    )


def _stored(probe: Probe) -> list[Any]:
    def array(x: Any) -> Any:
        if x is None:
            return None
        x = np.asarray(x)
        form = f"<{x.dtype.kind}{x.dtype.itemsize}"
        return [form, list(x.shape), base64.b64encode(x.astype(form).tobytes()).decode()]

    return [
        probe.id, probe.group, probe.rank, [array(x) for x in probe.latent], array(probe.labels),
        array(probe.signs), array(probe.weights), probe.dtype, probe.mode, array(probe.mask),
        [[array(x), array(y)] for x, y in probe.beside], probe.anew,
    ]  # fmt: skip


def _natives() -> Iterator[tuple[str, dict[str, Any]]]:
    """What a recorder must know of every built-in: its arguments, and what it takes."""
    for name, known in witnesses().items():
        witness = known[-1]
        example = witness.example()
        if any(spec.weights for spec in example.specs):
            continue
        parameters = witness.signature.parameters
        defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
        forms = {}
        for axis in (None, *range(-3, 3)) if "axis" in parameters else ("",):
            given = {**witness.required, **({} if axis == "" else {"axis": axis})}
            try:
                specs = witness.meaning(**given).specs
            except LossbridgeError:  # an axis that it does not take
                continue
            forms[str(axis)] = [[{n: str(k) for n, k in s.inputs.items()}, s.axis] for s in specs]
        spec = example.spec
        yield name, {
            "required": [n for n in parameters if n not in defaults],
            "computes": witness.computes, "undefined": witness.undefined,
            "defaults": defaults, "forms": forms,
            "order": [list(spec.inputs).index(n) for n in witness.call_order(spec)],
        }  # fmt: skip


__all__ = ["Recorded", "record", "record_schema", "recorder"]
