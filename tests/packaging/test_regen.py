"""Generated files are committed, and generating them again changes nothing."""

import importlib.util
import os
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def regen():
    spec = importlib.util.spec_from_file_location("regen", ROOT / "tools" / "regen.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pinned() -> bool:
    """Whether what is installed is what the generated files are generated with."""
    lines = (ROOT / "constraints" / "newest-py311.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    makers = ("msgspec", "torch", "keras", "jax", "optax")
    return all(metadata.version(name).partition("+")[0] == pins[name] for name in makers)


def test_regeneration_changes_nothing(regen):
    if not pinned():
        pytest.skip("msgspec's schemas and the pages of built-ins differ from release to release")
    assert regen.stale(regen.GENERATED) == []


def test_a_generated_file_has_one_producer(regen):
    paths = [path for path, _ in regen.GENERATED]
    assert len(paths) == len(set(paths))
    assert all(not os.path.isabs(path) and ".." not in Path(path).parts for path in paths)


def test_the_check_above_can_fail(regen, tmp_path):
    """Companion: an edited, an old and a missing file are each seen, and brought up to date."""
    rows = [("same.txt", lambda: "a\n"), ("old.txt", lambda: "b\n"), ("new/c.txt", lambda: "c\n")]
    (tmp_path / "same.txt").write_bytes(b"a\n")
    (tmp_path / "old.txt").write_bytes(b"b\r\n")
    assert regen.stale(rows, tmp_path) == ["old.txt", "new/c.txt"]
    assert regen.regenerate(rows, tmp_path) == ["old.txt", "new/c.txt"]
    assert regen.stale(rows, tmp_path) == []
    assert regen.regenerate(rows, tmp_path) == []
    assert (tmp_path / "new" / "c.txt").read_bytes() == b"c\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(regen, tmp_path, monkeypatch):
    (tmp_path / "kept.txt").write_bytes(b"old\n")

    def refuse(source, destination):
        raise OSError("no space left")

    monkeypatch.setattr(regen.os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        regen.regenerate([("kept.txt", lambda: "new\n")], tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("kept.txt", b"old\n")
    ]


def test_a_broken_producer_writes_nothing(regen, tmp_path):
    def broken():
        raise RuntimeError("no catalogue")

    with pytest.raises(RuntimeError):
        regen.regenerate([("made.txt", broken)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_argument_is_a_usage_error(regen, capsys):
    assert regen.main(["--chekc"]) == 2
    assert "usage" in capsys.readouterr().err
