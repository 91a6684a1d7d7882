"""The difference pages: complete, linked, labelled from the taxonomy, and their code runs."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lossbridge.migrate import relatives
from lossbridge.migrate.comparison import VERDICTS, Cause
from lossbridge.migrate.probes import probes, seen
from lossbridge.migrate.relatives import homes, module_of, name_of, nearest
from lossbridge.migrate.replacements import REPLACEMENTS, replacement
from lossbridge.migrate.sides import signature_of
from lossbridge.migrate.taxonomy import KINDS, LABELS, label
from lossbridge.trace import Definition
from lossbridge.witnesses import FRAMEWORKS, find, witnesses

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "differences"
sys.path.insert(0, str(ROOT / "tools"))
measured, pages, traps, written = map(
    importlib.import_module, ("measured", "pages", "traps", "written")
)
TEXT = {path.name: path.read_text("utf-8") for path in sorted(PAGES.glob("*.md"))}
PLATFORMS = {"torch.nn": "torch", "keras.losses": "keras", "optax.losses": "jax"}


def headings(text: str) -> set[str]:
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {pages.slug(h) for h in re.findall(r"^#+ (.*)$", prose, re.MULTILINE)}


def section(name: str) -> str:
    """What the pages say of a built-in."""
    text = TEXT[f"{homes()[name].id}.md"]
    (found,) = re.findall(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    return str(found)


# --- complete, and linked ------------------------------------------------------------------------


def test_every_built_in_has_an_entry_and_a_row() -> None:
    assert set(homes()) == set(witnesses())
    rows = re.findall(r"^\| \[`\w+`\]\(([\w-]+)\.md#([\w-]+)\) \|", TEXT["README.md"], re.M)
    assert len(rows) == len(witnesses()) >= 76
    for name in witnesses():
        assert (homes()[name].id, pages.slug(name)) in rows
        assert "native" in section(name)


def test_no_page_is_left_over() -> None:
    assert set(TEXT) == {"README.md", "traps.md", *(f"{f.id}.md" for f in relatives.FAMILIES)}


def test_every_link_resolves() -> None:
    links = [(page, *m) for page, text in TEXT.items()
             for m in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text)]  # fmt: skip
    assert len(links) > 300
    for page, target, anchor in links:
        there = target or page
        assert (PAGES / there).exists(), (page, target)
        if anchor:
            assert anchor in headings(TEXT[there]), (page, target, anchor)


def test_every_pair_is_of_two_frameworks_and_can_be_made() -> None:
    for pair in relatives.pairs():
        assert len({module_of(x) for x in pair}) == 2
        for x in pair:
            from lossbridge.migrate.sides import parse_call

            name, positional, keywords = parse_call(x)
            newest = witnesses()[name][-1]  # whose pages these are, whichever is installed
            newest.meaning(*positional, **{**newest.required, **keywords})


def test_what_has_no_counterpart_shares_its_loss_with_none() -> None:
    """A relative is stated for every built-in that a framework builds on the same formula."""
    known = written.written()

    def losses(name: str) -> set[str]:
        return {p for p in known[name].catalogue if is_loss(p)}

    for name in witnesses():
        for module in FRAMEWORKS:
            if name.startswith(f"{module}.") or nearest(name, module) is not None:
                continue
            if find(name).example().spec.weights:
                continue  # a layer before the loss: what it is compared with is the loss alone
            shared = [n for n in known if n.startswith(f"{module}.") and losses(n) & losses(name)]
            assert not shared, (name, module, shared)


def is_loss(piece: str) -> bool:
    family, _, attribute = piece.partition(".")
    module = importlib.import_module(f"lossbridge.catalogue.{family}")
    return isinstance(vars(module)[attribute], Definition)


# --- labels --------------------------------------------------------------------------------------


def test_labels_come_from_the_taxonomy() -> None:
    verdicts = {v.replace("_", " ") for v in LABELS}
    kinds = {k.name for k in KINDS}
    found = 0
    for page, text in TEXT.items():
        if page == "traps.md":
            continue
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for verdict, inside in re.findall(r"\*\*([a-z][a-z ]+)\*\*(?: \(([^)]*)\))?", prose):
            assert verdict in verdicts, (page, verdict)
            assert set(filter(None, inside.split(", "))) <= kinds, (page, inside)
            found += 1
    assert found > 300


def test_the_taxonomy_has_every_verdict_and_each_says_something() -> None:
    assert set(LABELS) == {*VERDICTS, "no_counterpart"}
    assert all(LABELS.values()) and all(k.meaning and k.pattern for k in KINDS)
    assert len({k.name for k in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    ("verdict", "cause", "kinds"),
    [
        ("same", Cause("the mean of nothing"), ()),
        (
            "edges_differ",
            Cause("the mean of nothing (empty, float64): a gives nan"),
            ("empty batch",),
        ),
        ("different", Cause("a is a mean over batch, b not reduced"), ("normaliser",)),
        # What is not reduced was averaged.
        ("different", Cause("a is a mean over elements, b not reduced"), ("formula",)),
        ("same_up_to_factor", Cause("b is 3 times a", "multiply a by 3"), ("factor",)),
        ("different", Cause("nobody knows"), ("formula",)),
    ],
)
def test_kinds_are_read_off_the_causes(verdict: str, cause: Cause, kinds: tuple[str, ...]) -> None:
    assert label(verdict, [cause]).kinds == kinds


# --- what was measured ---------------------------------------------------------------------------


def test_everything_that_the_pages_show_was_measured() -> None:
    """Otherwise: ``python tools/regen.py --measure NAME``."""
    kept = measured.read()
    assert set(kept["pairs"]) == {f"{a} ~ {b}" for a, b in measured.pairs()}
    assert set(kept["ours"]) == {f"{a} ~ {b}" for a, b in measured.ours()}
    assert {k: v["expression"] for k, v in kept["replacements"].items()} == {
        f"{n} on {m}": e for n, m, e in measured.replaced()
    }
    assert set(kept["traps"]) == {trap.id for trap in traps.TRAPS}
    assert all(kept["traps"].values())


def test_the_stored_text_is_the_text_of_what_is_stored() -> None:
    assert measured.text(measured.read()) == measured.FILE.read_text("utf-8")


def test_what_is_stated_to_replace_a_built_in_does_so() -> None:
    """Inside the domain each gives the same value as the built-in it stands for."""
    kept = measured.read()["replacements"]
    far = {f"{n} on {m}" for n, m in REPLACEMENTS if kept[f"{n} on {m}"]["verdict"] in pages.FAR}
    assert far == set()


def test_a_difference_is_seen_and_rounding_is_not() -> None:
    """Companion to the slow test below."""
    old = {"verdict": "same", "causes": [{"text": "a gives 0.25, b gives nan"}], "x": [1.0, 0.0]}
    near = {"verdict": "same", "causes": [{"text": "a gives 0.250001, b gives nan"}], "x": [1, 0]}
    far = {"verdict": "same", "causes": [{"text": "a gives 0.5, b gives nan"}], "x": [1.0, 0.0]}
    assert list(measured.differs(old, near)) == []
    assert len(list(measured.differs(old, far))) == 1
    assert len(list(measured.differs(old, {**old, "verdict": "different"}))) == 1
    assert len(list(measured.differs(old, {**old, "x": [1.0]}))) == 1


@pytest.mark.slow
def test_a_sample_measured_anew_is_as_it_is_stored() -> None:
    kept = measured.read()
    for a, b in list(measured.pairs())[::9]:
        assert list(measured.differs(kept["pairs"][f"{a} ~ {b}"], measured.compared(a, b))) == []
    for name, module, expression in list(measured.replaced())[::11]:
        again = measured.replaced_by(name, module, expression)
        assert list(measured.differs(kept["replacements"][f"{name} on {module}"], again)) == []


@pytest.mark.slow
@pytest.mark.parametrize("trap", traps.TRAPS, ids=lambda trap: trap.id)
def test_every_trap_prints_what_the_page_shows(trap) -> None:
    again = measured.run(traps.PRELUDE + trap.code)
    assert list(measured.differs(measured.read()["traps"][trap.id], again)) == []
    assert trap.code in TEXT["traps.md"] and again in TEXT["traps.md"]


# --- the code ------------------------------------------------------------------------------------


def examples(name: str) -> Iterator[tuple[str, str]]:
    """The statements that stand for a built-in elsewhere, each with the platform it is for."""
    for title, block in re.findall(
        r"^\*\*(?:In )?(\w+)\*\*.*?```python\n(.*?)```", section(name), re.M | re.S
    ):
        platform = {"PyTorch": "torch", "Keras": "keras", "optax": "jax"}[title]
        for line in block.splitlines():
            if not line.startswith("#"):
                yield platform, line


def given(name: str) -> dict[str, np.ndarray]:
    """Inputs that a built-in is for, in its own layout."""
    spec = find(name).example().spec
    from lossbridge.migrate.live import Native

    signature = signature_of(spec, Native(find(name), find(name).required))
    if signature.sequence:
        from lossbridge.migrate.probes import sequence_probes

        return seen(next(iter(sequence_probes(True))), signature)
    return seen(list(probes(2))[2], signature)


@pytest.mark.slow
@pytest.mark.parametrize("name", witnesses())
def test_every_line_that_replaces_a_built_in_runs(name: str) -> None:
    found = list(examples(name))
    assert {p for p, _ in found} == {p for m, p in PLATFORMS.items() if not name.startswith(m)}
    assert sum("native(" in line for _, line in found) == 2
    for platform, line in found:
        arrays = given(name)
        spec = find(name).example().spec
        if spec.ports or spec.weights:
            line = line.partition(")(")[0] + ")"  # needs what only its user has
        module = next(m for m, p in PLATFORMS.items() if p == platform)
        scope: dict[str, object] = {}
        exec(f"{measured.NAMES[module]}\nimport lossbridge.{platform}", scope)
        kept = "float64" if platform != "jax" else "float32"
        scope.update((n, convert(platform, x, kept)) for n, x in arrays.items())
        result = eval(line, scope)
        if "(" in line.partition(")")[2]:
            assert np.isfinite(np.asarray(result)).all(), (line, result)


def convert(platform: str, x: np.ndarray, real: str) -> object:
    x = x.astype(real if x.dtype.kind == "f" else "int64")
    if platform == "torch":
        return importlib.import_module("torch").tensor(x)
    if platform == "keras":
        return importlib.import_module("keras").ops.convert_to_tensor(x)
    return importlib.import_module("jax.numpy").asarray(x)


def test_replacements_are_expressions() -> None:
    for name in witnesses():
        for module in FRAMEWORKS:
            expression = None if name.startswith(module) else replacement(name, module)
            if expression is not None:
                compile(expression, name, "eval")
    assert {name_of(n) for n, _ in REPLACEMENTS} <= set(witnesses())


# --- written once --------------------------------------------------------------------------------


def test_no_formula_stands_twice() -> None:
    """The longest that does is a sum of two products, a share and its rest."""
    assert written.repeated(17) == []
    assert [text for text, _ in written.repeated(14)] == ["t * alpha + (1.0 - t) * (1.0 - alpha)"]


def test_equal_graphs_come_of_shared_code() -> None:
    """Losses that are one function are one function in the source, too."""
    found = written.same_graphs()
    assert ("torch.nn.MSELoss", "optax.losses.squared_error", "mse@1") in found
    for group in found:
        behind = [written.behind(each) for each in group]
        assert set.intersection(*behind), group


def test_the_counts_are_those_of_the_source() -> None:
    known = written.written()
    assert set(known) == set(witnesses())
    # `@witness(...)`, the signature and the one line of its meaning.
    assert known["torch.nn.MSELoss"].own == 3
    assert "regression.mse" in known["torch.nn.MSELoss"].catalogue
    assert "torch_nn.torch_ctc" in known["torch.nn.CTCLoss"].helpers
    assert written.median([3, 1, 2]) == 2 and written.median([1, 2]) == 1.5
