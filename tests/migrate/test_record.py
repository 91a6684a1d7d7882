"""Records answer as the live loss does, are refused when they cannot, and need no lossbridge."""

from __future__ import annotations

import ast
import builtins
import dis
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

import lossbridge
from lossbridge.cli import main
from lossbridge.errors import ArgumentError, LossbridgeError, RecordError
from lossbridge.kinds import Kind
from lossbridge.migrate import alignment, probes, record, recorder
from lossbridge.migrate.sides import side

compare = partial(lossbridge.compare, profile="strict")
Peers = tuple[tuple[tuple[str, str], ...], ...]

# Every verdict, and every two of the frameworks. One whose verdict is "undecided" stands below:
# what cannot be called cannot be recorded either.
PAIRS = [
    ("keras.losses.MeanSquaredError()", "optax.losses.squared_error()", "same"),
    ("torch.nn.HuberLoss(delta=2.0)", "optax.losses.huber_loss(delta=2.0)", "same"),
    ("torch.nn.HuberLoss(delta=2.0)", "torch.nn.SmoothL1Loss(beta=2.0)", "same_up_to_factor"),
    ("torch.nn.MSELoss()", "optax.losses.l2_loss()", "same_up_to_factor"),
    ("torch.nn.CrossEntropyLoss()",
     "optax.losses.softmax_cross_entropy_with_integer_labels()", "edges_differ"),
    ("torch.nn.CrossEntropyLoss()",
     "keras.losses.SparseCategoricalCrossentropy(from_logits=True)", "edges_differ"),
    ("torch.nn.CrossEntropyLoss(ignore_index=255)", "torch.nn.NLLLoss()", "domain_differs"),
    ("torch.nn.NLLLoss(ignore_index=255)", "torch.nn.NLLLoss()", "edges_differ"),
    ("torch.nn.CrossEntropyLoss(weight=[1.0, 2.0, 3.0])", "torch.nn.CrossEntropyLoss()",
     "different"),
    ("torch.nn.CrossEntropyLoss(label_smoothing=0.1)", "torch.nn.CrossEntropyLoss()",
     "different"),
    ("torch.nn.BCELoss()", "torch.nn.BCEWithLogitsLoss()", "domain_differs"),
    ("keras.losses.BinaryCrossentropy()", "torch.nn.BCELoss()", "edges_differ"),
    ("torch.nn.L1Loss()", "keras.losses.MeanAbsoluteError()", "edges_differ"),
    ("torch.nn.KLDivLoss()", "keras.losses.KLDivergence()", "domain_differs"),
    ("keras.losses.Hinge()", "optax.losses.hinge_loss()", "gradient_differs"),
    ("torch.nn.CTCLoss()", "optax.losses.ctc_loss()", "different"),
    ("torch.nn.MSELoss()", "torch.nn.TripletMarginLoss()", "domain_differs"),
    ("lossbridge.torch.CrossEntropyLoss()", "torch.nn.CrossEntropyLoss()", "edges_differ"),
    ("lossbridge.keras.HuberLoss()", "lossbridge.torch.HuberLoss()", "same"),
]  # fmt: skip


def kinds(text: str) -> Peers:
    """What a loss takes, as a peer of another."""
    return tuple(
        tuple(
            (k.dtype, d)
            for k, d in zip(
                s.signature.inputs.values(), alignment.domains_of(s.signature), strict=True
            )
        )
        for s in side(text).overloads()
    )


@pytest.fixture
def meets(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Record only what is asked by losses that take what these do: a tenth of the time."""

    def only(*texts: str) -> None:
        found = tuple(itertools.chain(*map(kinds, texts)))
        monkeypatch.setattr(record, "peers", lambda: found)

    return only


FAST = 6  # of one verdict or another; each takes about four seconds


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [pytest.param(*p, marks=() if k < FAST else pytest.mark.slow) for k, p in enumerate(PAIRS)],
)
def test_a_record_compares_as_the_live_loss(
    a: str, b: str, verdict: str, meets: Callable[..., None], tmp_path: Path
) -> None:
    live = compare(a, b)
    assert live.verdict == verdict, str(live)
    meets(a, b)
    file = str(tmp_path / "a.json")
    first, second = lossbridge.record(a, file), lossbridge.record(b)
    for found in (compare(file, b), compare(first, second)):
        for field in ("verdict", "a", "b", "factor", "causes", "example", "probed"):
            assert getattr(found, field) == getattr(live, field)
        assert set(found.not_probed) == set(live.not_probed)
        notes = {n for n in found.notes if "recorded with" not in n}
        assert notes == set(live.notes)
        assert len(notes) < len(found.notes) or not found.example


def focal(logits: Any, labels: Any) -> Any:
    import torch

    rows = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    return (-((1 - rows.exp()) ** 2) * rows).mean()


def test_a_plain_callable_is_recorded_without_a_meaning(meets: Callable[..., None]) -> None:
    inputs = {"logits": "real[n, c]", "labels": "index(c)[n]"}
    other = "lossbridge.torch.FocalLoss(gamma=2.0)"
    live = compare(focal, other, inputs=inputs)
    meets(other)
    found = compare(lossbridge.record(focal, inputs=inputs), other)
    assert live.verdict != "undecided", str(live)
    assert (found.verdict, found.causes) == (live.verdict, live.causes)
    assert found.a == "focal"


def test_what_a_record_does_not_hold_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "peers", tuple)
    held = lossbridge.record("torch.nn.MSELoss()")
    found = compare(held, "keras.losses.KLDivergence()")
    assert found.verdict == "undecided", str(found)
    assert any("prediction as simplex, target as simplex" in x for x in found.not_probed)
    assert compare(held, "torch.nn.MSELoss()").verdict == "same"


def test_a_label_that_only_the_other_ignores_is_not_probed(meets: Callable[..., None]) -> None:
    meets("torch.nn.NLLLoss()")
    other = "torch.nn.NLLLoss(ignore_index=77)"
    found = compare(lossbridge.record("torch.nn.NLLLoss()"), other)
    assert any("all labels 77" in x for x in found.not_probed)
    assert all("label 77" not in c.text and "labels 77" not in c.text for c in found.causes)
    found = compare(lossbridge.record(other), "torch.nn.NLLLoss(ignore_index=77)")
    assert found.verdict == "same" and not any("labels" in x for x in found.not_probed)


def test_one_missing_answer_is_said_and_not_judged(meets: Callable[..., None]) -> None:
    meets("torch.nn.MSELoss()")
    document = json.loads(lossbridge.record("torch.nn.MSELoss()").text)
    for asked in document["forms"][0]["asked"]:
        del asked["answers"]["2/zeros"]
    found = compare(record.loaded(json.dumps(document), "x"), "torch.nn.MSELoss()")
    assert found.verdict == "same"
    assert any("2/zeros" in x for x in found.not_probed)


def test_a_record_holds_what_any_known_loss_may_ask() -> None:
    """For any two that are known, the domains in which they meet are among those of both."""
    ranks = {"real": "real", "int": "integer", "bool": "mask"}
    known = [
        probes.Signature(
            {str(k): Kind(ranks[dtype], axes=("*batch",)) for k, (dtype, _) in enumerate(peer)},
            domains=tuple(d for _, d in peer),
        )
        for peer in record.peers()
    ]
    held = [recorder.terms(s, record.peers()) for s in known]
    assert len(known) > 20
    for (a, x), (b, y) in itertools.product(zip(known, held, strict=True), repeat=2):
        if len(a.inputs) != len(b.inputs):
            continue
        joint = alignment.joint_domains(a, b)
        left, right = alignment.in_domains(a, joint).domains, alignment.in_domains(b, joint).domains
        labelled = "index" in left + right
        assert (left in x) and (right in y)
        assert not labelled or (x[left] and y[right])


def test_a_specification_is_recorded_with_its_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lossbridge.catalogue import catalogue

    monkeypatch.setattr(record, "peers", tuple)
    spec, out = tmp_path / "loss.json", tmp_path / "side.json"
    lossbridge.dump(catalogue()["huber@1"].spec, spec)
    assert main(["record", str(spec), "--platform", "torch", "-o", str(out)]) == 0
    held = record.of_file(str(out))
    assert isinstance(held, record.Recorded)
    assert [s.id for s in held.specs] == ["huber@1"] and held.platform == "torch"
    assert main(["compare", str(out), str(spec)]) == 0
    assert main(["record", str(out), "-o", str(out)]) == 2
    assert "a record already" in capsys.readouterr().err


# --- numbers -------------------------------------------------------------------------------------


def odd(x: Any, y: Any) -> Any:
    import torch

    return torch.where(x > 0, x / 3.0, x * 5e-324).sum() / y.sum()


def test_numbers_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "peers", tuple)
    inputs = {"x": "real[*batch]", "y": "real[*batch]"}
    live, held = side(odd, inputs=inputs), lossbridge.record(odd, inputs=inputs)
    seen_nan = seen_inf = False
    for probe in recorder.asked(live, False, False):
        x = live.on(probe, probes.seen(probe, live.signature))
        y = held.on(probe, probes.seen(probe, live.signature))
        assert x.raised == y.raised
        if x.raised:
            continue
        assert np.float64(x.value).tobytes() == np.float64(y.value).tobytes() or (
            np.isnan(x.value) and np.isnan(y.value)
        )
        for name, gradient in x.gradients.items():
            np.testing.assert_array_equal(gradient, y.gradients[name], strict=True)
            numbers = gradient[~np.isnan(gradient)]
            same = y.gradients[name][~np.isnan(gradient)]
            assert (np.signbit(numbers) == np.signbit(same)).all()
            seen_inf |= bool(np.isinf(gradient).any())
        seen_nan |= bool(np.isnan(x.value))
    assert seen_nan and seen_inf


def test_probes_of_one_name_are_one_probe() -> None:
    """Whatever they are made with: a record is asked with the settings of any comparison."""
    for rank in probes.SHAPES:
        whole = {p.id: p for p in probes.probes(rank, weights=True, ignored=recorder.LABELS)}
        for weights, ignored, single in itertools.product(
            (False, True), ((), (-100,), (255, 0)), (False, True)
        ):
            for p in probes.probes(rank, weights=weights, ignored=ignored, single=single):
                _same(p, whole[p.id])
    whole = {p.id: p for p in probes.sequence_probes(True)}
    for p in probes.sequence_probes(False):
        _same(p, whole[p.id])


def _same(p: probes.Probe, q: probes.Probe) -> None:
    assert (p.group, p.dtype, p.mode) == (q.group, q.dtype, q.mode)
    rows = [
        (*each.latent, each.labels, each.signs, *itertools.chain(*each.beside)) for each in (p, q)
    ]
    for x, y in zip(*rows, strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


# --- what is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text() -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.setattr(record, "peers", tuple)
    yield lossbridge.record("torch.nn.MSELoss()").text
    patch.undo()


def changed(text: str, change: Callable[[Any], object]) -> str:
    document = json.loads(text)
    change(document)
    return json.dumps(document)


def test_other_probes_are_refused_with_what_to_do(text: str) -> None:
    for change in (
        lambda d: d["probes"].update(version=probes.VERSION + 1),
        lambda d: d["probes"].update(digest="0"),
        lambda d: d.update(probes=None), lambda d: d.pop("probes"),
    ):  # fmt: skip
        with pytest.raises(RecordError, match=r"other probes.*make it again: lossbridge record"):
            record.loaded(changed(text, change), "side.json")
    with pytest.raises(RecordError, match="no record of format 2"):
        record.loaded(changed(text, lambda d: d.update(lossbridge_record=3)), "side.json")
    with pytest.raises(RecordError, match=r"an older one.*make it again: lossbridge record"):
        record.loaded(changed(text, lambda d: d.update(lossbridge_record=1)), "side.json")


def test_a_truncated_record_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "side.json"
    for size in (*range(30, 2000, 97), len(text) // 2, len(text) - 3):
        file.write_text(text[:size])
        with pytest.raises(LossbridgeError):
            compare(str(file), "torch.nn.MSELoss()")


def _first(document: Any) -> Any:
    return document["forms"][0]["asked"][0]["answers"]["2/inside 0"]


HOSTILE: dict[str, Callable[[Any], object]] = {
    "a further key": lambda d: d.update(code="import os"),
    "no label": lambda d: d.pop("label"),
    "a long label": lambda d: d.update(label="x" * 100_000),
    "no forms": lambda d: d.update(forms=[]),
    "a platform of its own": lambda d: d.update(platform="os"),
    "numbers for text": lambda d: d.update(label=1),
    "a kind that is none": lambda d: d["forms"][0]["inputs"].update(prediction="os.system"),
    "an axis too far": lambda d: d["forms"][0].update(axis=99),
    "an axis that no probe has": lambda d: d["forms"][0].update(
        axis=-9, inputs={"prediction": "real[*batch, c]", "target": "real[*batch, c]"}
    ),
    "a domain that is none": lambda d: d["forms"][0]["asked"][0].update(domains=["x", "real"]),
    "one domain for two inputs": lambda d: d["forms"][0]["asked"][0].update(domains=["real"]),
    "no inputs": lambda d: d["forms"][0].update(inputs={}, domains=[], asked=[]),
    "sixteen axes": lambda d: d["forms"][0]["inputs"].update(
        prediction=f"real[{', '.join(f'a{k}' for k in range(16))}]"
    ),
    "a value that is text": lambda d: _first(d).update(value="1e9"),
    "no value": lambda d: _first(d).pop("value"),
    "noise below 0": lambda d: _first(d).update(noise=-1.0),
    "fewer numbers": lambda d: _first(d)["gradients"]["target"]["numbers"].pop(),
    "a vast shape": lambda d: _first(d)["gradients"]["target"].update(shape=[999, 999, 999, 999]),
    "a negative shape": lambda d: _first(d)["gradients"]["target"].update(shape=[-1, -12]),
    "a specification that is none": lambda d: d.update(specs=[{"loss": "x"}]),
    "a list": lambda d: d.update(forms={"a": 1}),
    "a domain of its own": lambda d: d["forms"][0].update(domains=["real", "whole"]),
    "seven inputs": lambda d: d["forms"][0].update(
        inputs=dict.fromkeys("abcdefg", "real[*batch]"), domains=["real"] * 7, asked=[]
    ),
    "an axis of a million": lambda d: d["forms"][0].update(
        described=True, inputs={"prediction": "real[n, 1000000]", "target": "real[n]"}
    ),
    "axes of 4096 numbers twice": lambda d: d["forms"][0].update(
        described=True, inputs={"prediction": "real[64, 64, 64, 64]", "target": "real[n]"}
    ),
    "more classes than there may be": lambda d: d.update(classes=10**12),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_refused(text: str, name: str) -> None:
    with pytest.raises(RecordError):
        record.loaded(changed(text, HOSTILE[name]), "side.json")


@pytest.mark.parametrize(
    "data",
    [
        b'{"lossbridge_record": ' + b"[" * 100_000,
        b'{"lossbridge_record": 1, "lossbridge_record": 1}',
        b'{"lossbridge_record": NaN}',
        b'{"lossbridge_record": 1e999}',
        b'["lossbridge_record"]',
        b'{"lossbridge_record": [' + b"{}," * 400_000 + b"{}]}",
        b'"lossbridge_record" \xff',
        b'\x80\x04"lossbridge_record"',
        b'{"lossbridge_record"}' + b" " * (1 << 23),
    ],
    ids=["deep", "twice", "nan", "vast", "list", "many", "utf8", "pickle", "large"],
)
def test_what_is_no_record_is_refused(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "side.json"
    file.write_bytes(data)
    with pytest.raises(LossbridgeError):
        record.of_file(str(file))


def test_a_gradient_of_another_shape_is_refused_when_it_is_asked(text: str) -> None:
    def change(document: Any) -> None:
        _first(document)["gradients"]["target"]["shape"] = [3, 4]

    with pytest.raises(RecordError, match="shape"):
        compare(record.loaded(changed(text, change), "x"), "torch.nn.MSELoss()")


@pytest.mark.parametrize(
    "native",
    [
        {"name": "os.system", "version": "", "arguments": {"command": "true"}},
        {"name": "torch.nn.MSELoss", "version": "x", "arguments": {"__class__": 1}},
        {"name": "torch.nn.LinearCrossEntropyLoss", "version": "", "arguments": {
            "in_features": 1e300, "num_classes": "x", "out_features": [[]]}},
        {"name": "torch.nn.HuberLoss", "version": "1.2", "arguments": {"delta": -1}},
    ],
)  # fmt: skip
def test_a_meaning_that_is_not_known_is_left_out(text: str, native: Any) -> None:
    found = record.loaded(changed(text, lambda d: d.update(native=native)), "x")
    assert not found.specs and found.native is None
    assert any("is not known here" in n for n in found.notes)
    assert compare(found, "torch.nn.MSELoss()").verdict == "same"


def test_a_meaning_of_another_version_is_checked_on_the_numbers(text: str) -> None:
    def claim(name: str) -> Any:
        native = {"name": name, "version": "1.12.1", "arguments": {}}
        return record.loaded(changed(text, lambda d: d.update(native=native)), "x")

    assert claim("torch.nn.MSELoss").specs
    assert not claim("torch.nn.L1Loss").specs


def test_the_schema_accepts_what_is_written(text: str) -> None:
    schema = record.record_schema()
    assert schema["$ref"] == "#/$defs/Record"
    fields = {f.name for f in msgspec.structs.fields(record.Record)}
    assert set(json.loads(text)) == fields == set(schema["$defs"]["Record"]["properties"])


def test_what_cannot_be_recorded_says_so(text: str) -> None:
    for loss, words in (
        ("torch.nn.LinearCrossEntropyLoss(3, 3)", "random numbers"),
        ("optax.losses.make_fenchel_young_loss(max_fun=None)", "functions of yours"),
        (record.loaded(text, "x"), "a record already"),
        (3, "no loss of torch.nn"),
    ):
        with pytest.raises(ArgumentError, match=words):
            lossbridge.record(loss)

    def fails(x: Any, y: Any) -> Any:
        raise ValueError("not today")

    with pytest.raises(LossbridgeError, match=r"accepts none of the probes.*not today"):
        lossbridge.record(fails, inputs={"x": "real[*n]", "y": "real[*n]"})


# --- the command line ----------------------------------------------------------------------------

LOSSES = """
import torch
loss = torch.nn.NLLLoss()
inputs = {"x": "real[*batch]", "y": "real[*batch]"}
def mine(x, y):
    return ((x - y) ** 2).mean()
class Loss(torch.nn.Module):
    pass
"""


@pytest.fixture
def losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "peers", tuple)
    file = tmp_path / "losses.py"
    file.write_text(LOSSES)
    return file


def test_record_and_compare_on_the_command_line(
    losses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "side.json"
    assert main(["record", f"{losses}:loss", "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["label"] == "torch.nn.NLLLoss()" and said["platform"] == "torch"
    assert said["raised"] < said["answers"] and said["probes"]["digest"] == probes.digest()
    assert main(["compare", str(out), "torch.nn.NLLLoss()"]) == 0
    assert main(["compare", f"{losses}:loss", str(out)]) == 0
    other = "torch.nn.NLLLoss(ignore_index=7)"
    assert main(["compare", str(out), other, "--profile", "strict"]) == 1
    mine = tmp_path / "mine.json"
    assert main(["record", f"{losses}:mine", "-o", str(mine)]) == 0
    assert "mine on torch" in capsys.readouterr().out
    assert main(["compare", "torch.nn.MSELoss()", str(mine), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["b"] == "mine"
    kinds = ["--inputs", "x=real[n,c]", "--inputs", "y=real[n,c]"]
    assert main(["record", f"{losses}:mine", *kinds, "-o", str(mine)]) == 0
    assert set(json.loads(mine.read_text())["forms"][0]["inputs"].values()) == {"real[n, c]"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{file}:loss"], "-o side.json"),
        ([], "FILE.py:loss"),
        (["{file}:loss", "--emit", "x.py"], "or `lossbridge record --emit"),
        (["{file}:los", "-o", "x.json"], "did you mean loss?"),
        (["{file}", "-o", "x.json"], "with one of: loss, mine"),
        (["{file}:inputs", "-o", "x.json"], "no loss of torch.nn"),
        (["{file}:Loss", "-o", "x.json"], "is a class"),
        (["nowhere.py:loss", "-o", "x.json"], "no file"),
        (["{file}:loss", "-o", "no/such/folder/x.json"], "could not be written"),
        (["--emit", "no/such/folder/x.py"], "could not be written"),
        (["{file}:mine", "--inputs", "x:real", "-o", "x.json"], "name=kind"),
        (["{file}:mine", "--inputs", "x=really", "-o", "x.json"], "unknown kind"),
        (["{file}:mine", "--inputs", "x=real[n]", "-o", "x.json"], "accepts none of the probes"),
        (["{file}:mine", "--platform", "theano", "-o", "x.json"], "no platform"),
        (["torch.nn.MSELos()", "-o", "x.json"], "did you mean torch.nn.MSELoss?"),
    ],
)  # fmt: skip
def test_errors_of_the_command_line(
    losses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    words: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["record", *(a.format(file=losses) for a in arguments)]) == 2
    assert words in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["losses.py"]


def test_a_file_that_raises_says_what_it_raised(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    for source, words in (
        ("1 / 0", "ZeroDivisionError"), ("import sys; sys.exit(0)", "SystemExit"),
        ("def f(:", "SyntaxError"), ("import no_such_module", "ModuleNotFoundError"),
    ):  # fmt: skip
        file.write_text(source)
        before = list(sys.path)
        with pytest.raises(ArgumentError, match=words):
            recorder.from_file(f"{file}:loss")
        assert sys.path == before


# --- the stand-alone recorder --------------------------------------------------------------------


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("emitted") / "recorder.py"
    assert main(["record", "--emit", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def loaded(emitted: Path) -> ModuleType:
    """The recorder's file as a module of this process."""
    return load(emitted, "emitted_recorder")


def load(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# What came after Python 3.8, as it may stand in a source without being another syntax.
NEWER_METHODS = {"removeprefix", "removesuffix", "bit_count", "is_relative_to", "with_stem"}
NEWER_NAMES = {"TypeAlias", "Self", "assert_never", "StrEnum", "cache", "pairwise", "batched"}


def test_the_recorder_is_python_3_8(emitted: Path) -> None:
    source = emitted.read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEWER_METHODS, f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert not {a.name for a in node.names} & NEWER_NAMES, f"line {node.lineno}"
            assert not str(node.module).startswith("lossbridge")
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            assert not isinstance(node.args[1], ast.BinOp), f"line {node.lineno}"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            assert not isinstance(node.left, ast.Dict), f"line {node.lineno}"
    assert max(map(len, source.splitlines()[:100])) <= 100


def test_the_recorder_has_every_name_that_it_uses(emitted: Path, loaded: ModuleType) -> None:
    """None of its parts calls what stayed behind."""
    known = {*vars(loaded), *vars(builtins), "builtins", "dataclasses"}
    codes = [compile(emitted.read_text(), str(emitted), "exec")]
    for code in codes:
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
        used = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        assert not used - known, code.co_name
    assert len(codes) > 100


BUILT_INS = [
    "torch.nn.CrossEntropyLoss(ignore_index=7)", "torch.nn.KLDivLoss(log_target=True)",
    "torch.nn.CosineEmbeddingLoss()", "torch.nn.CTCLoss()",
    "torch.nn.PoissonNLLLoss(log_input=False)",
    "keras.losses.CategoricalCrossentropy(axis=1)", "keras.losses.Tversky(alpha=0.3)",
    "keras.losses.BinaryCrossentropy(from_logits=True)", "keras.losses.CTC()",
    "optax.losses.softmax_cross_entropy(axis=0)", "optax.losses.ctc_loss()",
    "optax.losses.huber_loss(delta=2.0)",
]  # fmt: skip


@pytest.mark.parametrize("name", BUILT_INS)
def test_the_recorder_takes_a_built_in_as_we_do(name: str, loaded: ModuleType) -> None:
    """The same document, but for what only we know, and asked of no other side."""
    from lossbridge.migrate.sides import find, original, parse_call

    called, _, keywords = parse_call(name)
    obj = original(find(called), keywords)
    ours, theirs = side(obj), loaded.of_live(obj, None, None)
    x = recorder.document(ours, ours.overloads(), ())
    y = loaded.document(theirs, theirs.overloads(), ())
    for document in (x, y):
        document["versions"].pop("lossbridge", None)
    assert recorder.text_of(x) == recorder.text_of(y)


def test_the_recorder_knows_what_every_built_in_takes(loaded: ModuleType) -> None:
    from lossbridge.migrate.live import Native
    from lossbridge.migrate.sides import signature_of
    from lossbridge.witnesses import witnesses

    known = {n: w[-1] for n, w in witnesses().items()}
    left_out = set(known) - set(loaded.DATA["natives"])
    assert left_out == {n for n, w in known.items() if w.example().spec.weights}
    for name in loaded.DATA["natives"]:
        ours, theirs = Native(known[name], known[name].required), loaded.find(name)
        given = loaded.Native(theirs, known[name].required)
        for s, t in zip(ours.meaning.specs, given.meaning.specs, strict=True):
            x, y = signature_of(s, ours), loaded.signature_of(t, given)
            assert [*map(str, x.inputs.values())] == [*map(str, y.inputs.values())]
            assert (list(x.inputs), x.axis, x.domains) == (list(y.inputs), y.axis, y.domains)
            assert list(ours.witness.call_order(s)) == list(theirs.call_order(t))


def _elsewhere(folder: Path, *packages: str) -> Path:
    """A folder of packages that holds NumPy and what these need, and no lossbridge."""
    home = Path(np.__file__).parent.parent
    frameworks = {"torch", "tensorflow", "keras", "jax", "optax"} - set(packages)
    for entry in home.iterdir():
        name = entry.name.lower()
        if name.endswith(".pth") or "lossbridge" in name:
            continue
        if any(name == f or name.startswith((f"{f}-", f"{f}_cpu-")) for f in frameworks):
            continue
        if packages or name.startswith("numpy"):
            (folder / entry.name).symlink_to(entry)
    return folder


def _run(folder: Path, emitted: Path, *arguments: str, python: str = sys.executable) -> Any:
    code = (
        "import sys, runpy\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    import lossbridge\nexcept ImportError:\n    pass\n"
        "else:\n    raise SystemExit('lossbridge is here')\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [python, "-I", "-S", "-c", code, str(emitted), *arguments],
        capture_output=True, text=True, check=False, timeout=500, cwd=folder.parent,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip


def test_with_numpy_alone_the_recorder_says_what_is_missing(emitted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    _elsewhere(folder)
    (tmp_path / "mine.py").write_text("def mine(x, y):\n    return ((x - y) ** 2).mean()\n")
    out = tmp_path / "side.json"
    done = _run(folder, emitted, f"{tmp_path}/mine.py:mine", "-o", str(out))
    assert (done.returncode, out.exists()) == (3, False), done.stderr
    assert "none of torch, keras, jax is installed here" in done.stderr
    assert _run(folder, emitted, "--help").returncode == 0


ENVIRONMENTS = [
    (("torch",), "import torch\nloss = torch.nn.NLLLoss(ignore_index=7)",
     "torch.nn.NLLLoss(ignore_index=7)", "same"),
    (("tensorflow", "keras"),
     "import keras\nloss = keras.losses.CategoricalCrossentropy(dtype='float64')",
     "keras.losses.CategoricalCrossentropy()", "same"),
    (("jax", "optax"), "import optax\nloss = optax.losses.kl_divergence",
     "keras.losses.KLDivergence()", "domain_differs"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("packages", "source", "other", "verdict"), ENVIRONMENTS)
def test_two_environments(
    packages: tuple[str, ...], source: str, other: str, verdict: str, emitted: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "packages"
    folder.mkdir()
    _elsewhere(folder, *packages)
    file, out = tmp_path / "old.py", tmp_path / "side.json"
    file.write_text(source + "\n")
    done = _run(folder, emitted, f"{file}:loss", "-o", str(out))
    assert done.returncode == 0, done.stderr
    held = record.of_file(str(out))
    assert isinstance(held, record.Recorded)
    assert set(held.versions) - {"python", "numpy"} <= set(packages)
    found = compare(held, other)
    live = compare(side(recorder.from_file(f"{file}:loss")[0]), other)
    assert live.verdict == verdict, str(live)
    assert (found.verdict, found.factor, found.causes) == (live.verdict, live.factor, live.causes)


def _python(version: str) -> str | None:
    """An interpreter of a version, if one is installed."""
    found = [shutil.which(f"python{version}")]
    if shutil.which("pyenv") is not None:
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True)
        for name in listed.stdout.split():
            if name.startswith(f"{version}."):
                home = subprocess.run(["pyenv", "prefix", name], capture_output=True, text=True)
                found.append(f"{home.stdout.strip()}/bin/python")
    for python in filter(None, found):
        if subprocess.run([python, "-c", "0"], capture_output=True).returncode == 0:
            return python
    return None


def test_the_recorder_runs_on_python_3_8(emitted: Path, tmp_path: Path) -> None:
    python = _python("3.8")
    if python is None:
        pytest.skip("no Python 3.8 is installed here")
    # Without NumPy, which no newer release of serves 3.8: what runs is all that stands above it.
    stub = tmp_path / "numpy"
    stub.mkdir()
    (stub / "__init__.py").write_text(
        "from unittest.mock import MagicMock as M\nimport sys\nsys.modules['numpy'] = M()\n"
    )
    done = _run(tmp_path, emitted, "--help", python=python)
    assert done.returncode == 0, done.stderr
    assert "FILE.py:NAME" in done.stdout


def test_a_recorder_for_more_classes(tmp_path: Path) -> None:
    """What it records is the same as what is compared live, of weights and of a function."""
    import torch

    file, out = tmp_path / "five.py", tmp_path / "side.json"
    assert main(["record", "--emit", str(file), "--classes", "5"]) == 0
    five = load(file, "recorder_of_five")
    weights = [1.0, 2.0, 3.0, 4.0, 5.0]
    (tmp_path / "old.py").write_text(
        f"import torch\nloss = torch.nn.CrossEntropyLoss(weight=torch.tensor({weights}))\n"
        "def plain(x, y):\n    return torch.nn.functional.cross_entropy(x, y)\n"
        'inputs = {"x": "real[n, c]", "y": "index(c)[n]"}\n'
    )
    assert five.main([f"{tmp_path}/old.py:loss", "-o", str(out)]) == 0
    held = record.of_file(str(out))
    assert held.classes == 5
    same = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights))
    assert compare(held, same).verdict == "same"
    assert five.main([f"{tmp_path}/old.py:plain", "-o", str(out)]) == 0
    held = record.of_file(str(out))
    assert held.classes == 5
    assert compare(held, torch.nn.CrossEntropyLoss(), classes=5).verdict == "same"


@pytest.mark.parametrize("classes", ["1", "1001"])
def test_a_recorder_of_no_classes_or_too_many_is_not_written(classes: str, tmp_path: Path) -> None:
    assert main(["record", "--emit", f"{tmp_path}/x.py", "--classes", classes]) == 2
    assert not list(tmp_path.iterdir())


def test_a_damaged_recorder_refuses_to_run(loaded: ModuleType, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    kept = loaded.DATA["digest"]
    loaded.DATA["digest"] = "0"
    try:
        assert loaded.main([f"{tmp_path}/x.py:loss", "-o", f"{tmp_path}/x.json"]) == 2
    finally:
        loaded.DATA["digest"] = kept
    assert "damaged" in capsys.readouterr().err


def test_a_side_that_casts_to_float32_is_found() -> None:
    import torch

    def single(x: Any, y: Any) -> Any:
        return ((x.float() - y.float()) ** 2).mean()

    def double(x: Any, y: Any) -> Any:
        return ((x - y) ** 2).mean()

    inputs = {"x": "real[*batch]", "y": "real[*batch]"}
    assert side(single, inputs=inputs).computes == "float32"
    assert not side(double, inputs=inputs).computes
    found = compare(single, torch.nn.HuberLoss(delta=1e6), inputs=inputs)
    assert found.verdict != "undecided"


def test_the_probes_change_only_with_their_version() -> None:
    """A change here makes every record useless: raise VERSION with it, and write the new digest."""
    assert (probes.VERSION, probes.digest()) == (3, DIGEST)


DIGEST = "5077da791a595580e82f1c68a8bcd036016ebce3407213c957bba5001a703f59"


def test_what_a_record_says_reaches_no_screen_as_it_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    document = json.loads(lossbridge.record(torch.nn.HuberLoss()).text)
    document["label"] = "\x1b[2J\nsame: \u202e"
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(document))
    found = compare(str(path), torch.nn.HuberLoss())
    for text in (str(found), found.to_markdown()):
        assert all(line.isprintable() for line in text.splitlines())
        assert "\\x1b[2J\\nsame: \\u202e" in text
    assert json.loads(found.to_json())["a"] == document["label"]


def test_uninitialised_memory_is_neither_recorded_nor_compared() -> None:
    torch = pytest.importorskip("torch")
    loss = torch.nn.MultiMarginLoss()
    found = compare(lossbridge.record(loss), loss)
    assert found.verdict == "same", str(found)
    assert any("returns uninitialised memory there" in x for x in found.not_probed)
    assert all("empty" not in x for x in found.probed)
    # Unreduced, it is an empty array there.
    assert compare(loss, torch.nn.MultiMarginLoss(reduction="none")).verdict == "same"
