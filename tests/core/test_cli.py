"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lossbridge.cli import main
from lossbridge.frontdoor import forms
from lossbridge.spec import dumps, loads

pytest.importorskip("typer")


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_names_every_class(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0
    assert set(forms()) <= {row["class"] for row in json.loads(out)}
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "CrossEntropyLoss" in out


@pytest.mark.parametrize("name", ["FocalLoss", "focal@1", "focal"])
def test_show_takes_a_class_or_an_id(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, "show", name, "--json")
    assert code == 0
    assert json.loads(out)["specs"][0]["loss"] == "focal@1"


def test_show_passes_prints_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "BCEWithLogitsLoss", "--passes")
    assert code == 0
    for name in ("written", "canonicalise", "stabilise", "differentiate", "guard", "legalise"):
        assert f"bce_with_logits@1: {name}" in out


def test_a_setting_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "FocalLoss", "gamma=0", "--passes")
    assert code == 0
    assert "--- focal@1: legalise" in out
    code, _, err = run(capsys, "show", "FocalLoss", "gama=0")
    assert code == 2
    assert "did you mean gamma" in err


def test_an_unknown_loss_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "show", "FocaLoss")
    assert code == 2
    assert "did you mean FocalLoss" in err
    assert len(err.splitlines()) == 1


def test_check_says_what_cures_what(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "check", "BCEWithLogitsLoss", "--json")
    assert code == 0
    assert "log_sigmoid" in {f["rule"] for f in json.loads(out)["findings"]}
    spec = {
        "lossbridge": 1,
        "loss": "me/bad@1",
        "inputs": {"x": "real[*batch]"},
        "body": ["value = log(x)"],
        "yields": "per_element",
    }
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(spec))
    code, out, _ = run(capsys, "check", str(path))
    assert code == 1
    assert "log(x)" in out and "not proved" in out


BIWEIGHT = {
    "lossbridge": 1,
    "loss": "me/loss@1",
    "inputs": {"prediction": "real[*batch]", "target": "real[*batch]"},
    "params": {"c": {"kind": "positive", "value": 4.0}},
    "body": ["u = (prediction - target) / c", "value = 1 - (1 - u ** 2) ** 3"],
    "yields": "per_element",
}


def test_check_measures_before_it_says_cured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The biweight is cured, a cube less its square is not, and check says which."""
    path = tmp_path / "loss.json"
    path.write_text(json.dumps(BIWEIGHT))
    code, out, _ = run(capsys, "check", str(path))
    assert code == 0
    assert "0 unproved" in out and "inaccurate" not in out
    body = ["u = (prediction - target) / c", "value = (1 + u) ** 3 - (1 + u) ** 2"]
    path.write_text(json.dumps({**BIWEIGHT, "body": body}))
    code, out, _ = run(capsys, "check", str(path))
    assert code == 1
    assert "0 cured, 1 inaccurate, 0 unproved" in out


@pytest.mark.parametrize("loss", ["SmoothL1Loss", "MultiLabelMarginLoss", "InfoNCELoss"])
def test_a_scale_above_0_and_a_length_are_no_doubtful_divisors(
    capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    _, out, _ = run(capsys, "check", loss, "--json")
    assert not [f for f in json.loads(out)["findings"] if "divisor" in f["what"]]


def test_the_biweight_of_a_small_error_is_what_it_is() -> None:
    """At an error of 1e-3, where 1 - (1 - u**2)**3 itself is 0 in float32."""
    torch = pytest.importorskip("torch")
    import lossbridge.torch as LT

    loss = LT.compile(loads(json.dumps(BIWEIGHT)), c=4.685, reduction="sum")
    x = torch.tensor(float.fromhex("-0x1.9d184ap-10"))
    y = torch.tensor(float.fromhex("-0x1.2c307cp-9"))
    u = (float(x) - float(y)) / 4.685
    assert loss(x, y).item() == pytest.approx(3 * u**2 - 3 * u**4 + u**6, rel=1e-6)


def test_a_file_and_a_python_definition_are_first_class(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(dumps(forms()["FocalLoss"].specs[0]).replace("focal@1", "me/focal@1"))
    assert run(capsys, "show", str(path))[0] == 0
    source = tmp_path / "mine.py"
    source.write_text(
        "from typing import Annotated\n"
        "from lossbridge.trace import Expr, define\n\n"
        '@define("me/fourth@1")\n'
        'def fourth(x: Annotated[Expr, "real[*batch]"]) -> Expr:\n'
        '    """Penalise the fourth power."""\n'
        "    return x ** 4\n"
    )
    code, out, _ = run(capsys, "show", f"{source}:fourth", "--json")
    assert code == 0
    assert json.loads(out)["specs"][0]["loss"] == "me/fourth@1"
    code, _, err = run(capsys, "show", f"{source}:third")
    assert code == 2
    assert "fourth" in err


@pytest.mark.parametrize("argv", [("shwo",), ("show",), ("list", "--yaml")])
def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    assert run(capsys, *argv)[0] == 2


def test_a_hostile_file_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "evil.json"
    path.write_bytes(b'{"lossbridge": 1, "loss": "\\u001b[31mx@1"')
    code, _, err = run(capsys, "check", str(path))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


def test_eject_writes_whole_files_or_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "missing" / "loss.py"
    code, _, err = run(capsys, "eject", "MSELoss", "--to", "torch", "-o", str(target))
    assert code in (2, 3)
    assert err.startswith("lossbridge: ")
    assert not target.parent.exists()


def test_an_unknown_platform_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "compile", "MSELoss", "--to", "theano")
    assert code == 2
    assert "theano" in err


@pytest.mark.parametrize("platform", ["torch", "keras", "jax"])
def test_every_platform_shows_compiles_and_ejects(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, platform: str
) -> None:
    pytest.importorskip({"keras": "tensorflow"}.get(platform, platform))
    code, shown, err = run(capsys, "show", "FocalLoss", "--platform", platform)
    assert (code, err) == (0, "")
    code, compiled, _ = run(capsys, "compile", "FocalLoss", "--to", platform)
    assert (code, compiled) == (0, shown)
    assert "def " in shown
    target = tmp_path / "focal.py"
    code, out, _ = run(capsys, "eject", "FocalLoss", "gamma=1.5", "--to", platform, "-o", target)
    assert (code, out.split(":")[0]) == (0, f"wrote {target}")
    compile(target.read_text(), str(target), "exec")
    code, out, _ = run(capsys, "eject", "FocalLoss", "gamma=1.5", "--to", platform, "--json")
    assert json.loads(out)["source"] == target.read_text()


def test_a_platform_that_writes_no_source_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lossbridge.cli.commands.backend", lambda platform: object())
    code, _, err = run(capsys, "eject", "MSELoss", "--to", "numpy")
    assert code == 2
    assert "has no eject" in err


def test_a_combination_is_no_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "show", "WeightedLoss")
    assert code == 2
    assert "lossbridge.dump(loss.spec, path)" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0", "line 1, raised ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)", "line 2, raised SystemExit: 0"),
        ("x = = 1", "line 1, raised SyntaxError"),
        ("import nothing_of_this_name", "raised ModuleNotFoundError"),
        (
            "from typing import Annotated\nfrom lossbridge import Expr, define\n"
            '@define("me/bad@1")\n'
            'def bad(x: Annotated[Expr, "real[*batch]"]) -> Expr:\n'
            "    return x / [][0]\n",
            "line 5, raised IndexError",
        ),
    ],
    ids=["raises", "exits", "syntax", "import", "traced"],
)
@pytest.mark.parametrize("command", ["check", "show", "compile", "eject"])
def test_a_users_file_that_raises_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, text: str, says: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    code, out, err = run(capsys, command, f"{path}:bad")
    assert code == 2
    assert says in err
    assert (len(err.splitlines()), out) == (1, "")


def test_an_error_of_our_own_has_not_the_code_of_a_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossbridge.cli import commands

    def broken(name: str) -> None:
        raise RuntimeError(name)

    monkeypatch.setattr(commands, "resolve", broken)
    code, _, err = run(capsys, "check", "MSELoss")
    assert code == 2
    assert "RuntimeError: MSELoss" in err and "nothing was decided" in err


def test_arguments_that_a_name_of_ours_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    for text in ("lossbridge.torch.native()", "lossbridge.torch.HuberLoss(1, 2, 3)"):
        code, _, err = run(capsys, "compare", text, "torch.nn.MSELoss()")
        assert code == 2
        assert len(err.splitlines()) == 1
