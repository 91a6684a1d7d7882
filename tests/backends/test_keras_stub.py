"""The committed stub of the Keras front door: what type checkers and editors see of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("these tests are of Keras on TensorFlow", allow_module_level=True)

import lossbridge_keras  # noqa: E402

ROOT = Path(__file__).parents[2]
STUB = ROOT / "backends" / "lossbridge_keras" / "__init__.pyi"
CLASSES = {
    node.name: node
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef)
}


def test_each_class_is_typed_as_the_kind_of_object_it_is() -> None:
    typed = {name: ast.unparse(node.bases[0]) for name, node in CLASSES.items()}
    assert typed.pop("Loss") == "keras.losses.Loss"
    assert typed.pop("LossLayer") == "keras.layers.Layer"
    made = {
        name: "Loss"
        if issubclass(getattr(lossbridge_keras, name), keras.losses.Loss)
        else "LossLayer"
        for name in typed
    }
    assert typed == made
    assert set(typed.values()) == {"Loss", "LossLayer"}


def test_what_the_stub_says_of_a_layer_exists() -> None:
    for name in ("Loss", "LossLayer"):
        members = [n.name for n in CLASSES[name].body if isinstance(n, ast.FunctionDef)]
        missing = [m for m in members if not hasattr(getattr(lossbridge_keras, name), m)]
        assert members and missing == []


PROGRAM = """\
import keras

import lossbridge.keras as L

loss = L.MSELoss(reduction="sum", name="mse")
arc = L.ArcFaceLoss(num_classes=10, embedding_size=8, add_loss=True, trainable=False)
base: L.LossLayer = arc
centres = arc.weight("centres")
network = keras.Sequential([keras.layers.Dense(8)])
model = L.with_loss(network, arc, ports={}, name="m")
both = L.UncertaintyWeightedLoss({"a": loss}, name="both", add_loss=True)
reveal_type(both.bind_step(0))
L.FocalLoss(gama=1)  # wrong
L.MSELoss(add_loss=True)  # wrong
L.ArcFaceLoss(embedding_size=8)  # wrong
L.with_loss(network, arc, port={})  # wrong
L.CategoricalCrossentropy()  # wrong
"""


def test_mypy_takes_what_works_and_no_other(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    wanted = {k for k, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wanted, done.stdout
    assert 'Revealed type is "lossbridge_keras.LossLayer"' in done.stdout
