"""Reports: they answer first, show planted failures, and let nothing hostile through."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("jinja2")

from lossbridge_conformance import chart, report, results
from lossbridge_conformance.deviations import Deviation
from lossbridge_conformance.report import Report
from lossbridge_conformance.results import Cell, Curve, Results, Run

LOSSES = ("mse@1", "focal@1", "dice@1")
MODES = {"torch": ("eager", "compiled"), "jax": ("eager", "jit")}


def a_cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "track": "stability",
        "loss": "mse@1",
        "platform": "torch",
        "mode": "eager",
        "dtype": "float32",
        "quantity": "value",
        "stratum": "practical",
        "status": "PASS",
        "bits": 0.5,
        "bound": 3.0,
        "cases": 8,
    } | changes
    coordinates = ("track", "loss", "platform", "mode", "dtype", "quantity", "stratum")
    fields.setdefault("id", results.cell_id(*(str(fields[name]) for name in coordinates)))
    return Cell(**fields)


def a_curve(platform: str, track: str = "aligned", **changes: Any) -> Curve:
    fields: dict[str, Any] = {
        "id": f"{track}/{platform}/{changes.get('variant', '')}",
        "dataset": "digits",
        "loss": "CrossEntropyLoss",
        "optimizer": "sgd",
        "platform": platform,
        "track": track,
        "values": tuple(2.0 * 0.9**step for step in range(60)),
        "iterations": 14,
        "threshold": 0.5,
    } | changes
    return Curve(**fields)


def a_run(
    change: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    recorded: tuple[Deviation, ...] = (),
    required: tuple[str, ...] = (),
) -> Report:
    """A small complete run, in which ``change`` may spoil any cell."""
    files = []
    for platform, modes in MODES.items():
        cells = []
        for loss in LOSSES:
            for mode in modes:
                for dtype in ("float32", "float16"):
                    for quantity in ("value", "gradient"):
                        fields = {
                            "loss": loss,
                            "class_": loss.split("@")[0].title() + "Loss",
                            "platform": platform,
                            "mode": mode,
                            "dtype": dtype,
                            "quantity": quantity,
                        }
                        cells.append(a_cell(**change(fields)))
            cells.append(
                a_cell(
                    track="contract", loss=loss, platform=platform, quantity="mask", stratum="",
                    bits=None, bound=None,
                )
            )  # fmt: skip
        cases = {
            cell.worst_case: {
                "flags": ["saturated"],
                "inputs": {"logits": ["0x1.4p+4", "0x0p+0"]},
                "got": "nan",
                "expected": "0x1.1b48652b79c37p-29",
            }
            for cell in cells
            if cell.worst_case is not None
        }
        files.append(
            Results(
                created="2026-01-01T00:00:00Z",
                platform=platform,
                versions={platform: "1.2.3"},
                machine={"cpu": "two cores"},
                fixtures="abcdef" * 10,
                cells=tuple(cells),
                cases=cases,
                curves=(a_curve(platform), a_curve(platform, "defaults", iterations=16)),
            )
        )
    return report.prepare(results.merge(files), recorded, required)


def spoil(**spoilt: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Plant one failure: focal, torch compiled, float16, gradient."""

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        names = ("loss", "platform", "mode", "dtype", "quantity")
        here = tuple(fields[name] for name in names)
        if here == ("focal@1", "torch", "compiled", "float16", "gradient"):
            return fields | {"status": "FAIL", "bits": 9.3, "worst_case": "focal/17"} | spoilt
        return fields

    return change


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text outside scripts and styles."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and all(attrs.get(k) == v for k, v in wanted.items())
        ]


# --- what the reports say ---------------------------------------------------------------------


def test_a_conforming_run_says_so_everywhere() -> None:
    run = a_run()
    page = Page(report.html(run))
    assert "Conforms 54 passed 0 failed 0 untested Worst cell:" in page.text
    assert report.markdown(run).startswith("## ✅ lossbridge: conforms\n\n54 passed, 0 failed")
    assert report.first_lines(run).endswith("\n54 passed, 0 failed, 0 untested")
    root = ElementTree.fromstring(report.junit(run))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("54", "0", "0")
    assert json.loads(report.badge(run))["color"] == "success"


def test_a_planted_failure_shows_everywhere() -> None:
    run = a_run(spoil(detail="the tail cancels"))
    assert not run.summary.conforms
    page = Page(report.html(run))
    head = page.text[: page.text.index("Worst judged error")]
    assert "Does not conform 53 passed 1 failed" in head
    assert "FocalLoss · gradient · float16 · torch · compiled · practical" in head
    assert "(9.3 bits, bound 3.0)" in head
    assert "the tail cancels" in head
    assert len([a for a in page.having("button") if "hit fail" in (a.get("class") or "")]) == 1
    assert "20, 0" in page.text
    assert "2.0611536e-09" in page.text
    assert "0x1.1b48652b79c37p-29" in page.text
    text = report.markdown(run)
    assert "❌ | `focal@1` | `gradient` | `float16` | `torch` | `compiled`" in text
    assert "| `focal@1` | ❌ 0.5 / 9.3 (1 failed) | ✅ 0.5 / 0.5 |" in text
    root = ElementTree.fromstring(report.junit(run))
    (failure,) = root.iter("failure")
    assert "9.3 bits" in (failure.get("message") or "")
    assert "logits: [20, 0]" in (failure.text or "")
    badge = json.loads(report.badge(run))
    assert (badge["message"], badge["color"], badge["isError"]) == ("53/54 cells", "critical", True)


@pytest.mark.parametrize(
    ("status", "word"),
    [("NAN", "NaN"), ("RAISES", "err"), ("CRASH", "lost")],
)
def test_failures_without_a_figure_have_a_word(status: str, word: str) -> None:
    run = a_run(spoil(status=status, bits=None))
    assert f"0.5 / {word} (1 failed)" in report.markdown(run)
    assert word in Page(report.html(run)).text
    root = ElementTree.fromstring(report.junit(run))
    assert (root.get("failures"), root.get("errors")) == (
        ("0", "1") if status == "CRASH" else ("1", "0")
    )


def test_a_crash_is_counted_in_the_first_lines() -> None:
    run = a_run(spoil(status="CRASH", bits=None))
    assert "1 failed (1 lost to a crash)" in report.first_lines(run)
    assert "1 failed, 1 of them lost to a crash" in Page(report.html(run)).text


def test_a_recorded_deviation_conforms_and_is_listed() -> None:
    known = Deviation(
        id="focal-half",
        losses=("focal@1",),
        dtypes=("float16",),
        quantities=("gradient",),
        platforms=("torch",),
        modes=("compiled",),
        min_bits=9.0,
        max_bits=10.0,
        reason="a fused multiply-add",
        link="https://example.org/1",
    )
    run = a_run(spoil(), (known,))
    assert run.summary.conforms
    assert run.summary.deviations == 1
    page = Page(report.html(run))
    assert "a fused multiply-add" in page.text
    assert page.having("a", href="https://example.org/1")
    assert "`focal-half`: in use, 1 cells" in report.markdown(run)
    assert ElementTree.fromstring(report.junit(run)).get("skipped") == "1"
    better = a_run(dict, (known,))
    assert not better.summary.conforms
    assert better.summary.worst is not None
    assert better.summary.worst.status == "XPASS"


def test_stale_deviations_and_missing_platforms_are_named() -> None:
    known = Deviation(
        id="old", losses=("mse@1",), quantities=("gone",), min_bits=1, max_bits=2, reason="r"
    )
    run = a_run(dict, (known,), ("torch", "keras"))
    assert "Stale deviations, to be removed: old." in report.first_lines(run)
    assert "Missing platforms: keras." in report.first_lines(run)
    page = Page(report.html(run))
    assert "Asked for, but not measured: keras." in page.text
    assert "stale" in page.text
    assert json.loads(report.summary_json(run))["exit_code"] == 3
    assert json.loads(report.summary_json(run))["stale_deviations"] == ["old"]


def test_an_empty_run_is_reported_without_claiming_anything() -> None:
    run = report.prepare(results.merge([Results(created="now", platform="torch")]))
    assert "Nothing was tested" in Page(report.html(run)).text
    assert "nothing was tested" in report.markdown(run)
    assert json.loads(report.badge(run))["message"] == "not tested"
    assert ElementTree.fromstring(report.junit(run)).get("tests") == "0"


def test_the_grid_has_every_loss_and_environment_once() -> None:
    page = Page(report.html(a_run()))
    opened = [
        a
        for a in page.having("button")
        if "hit" in (a.get("class") or "") and (a["popovertarget"] or "").startswith("stability")
    ]
    assert len(opened) == len(LOSSES) * 4 * 2
    panels = {a["id"] for a in page.having("div") if "popover" in a}
    assert {a["popovertarget"] for a in opened} <= panels


def test_versions_machine_and_fixtures_stand_at_the_end() -> None:
    text = Page(report.html(a_run())).text
    tail = text[text.index("What was measured, where") :]
    for expected in ("torch 1.2.3", "jax 1.2.3", "cpu: two cores", "abcdef" * 10):
        assert expected in tail


def test_all_files_are_written_together(tmp_path: Path) -> None:
    written = report.write_reports(a_run(), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in written.values()
    )
    assert set(written) == {"html", "markdown", "junit", "badge"}


# --- hostile content ----------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></script><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "` | [x](javascript:alert(1)) ![i](http://e.org/i.png) @team #1 <b>",
    "a\n\n# Conforms\n| ✅ |",
    "\x1b]0;owned\x07\x1b[2J",
    "\u202egnitset\u2066\u200b",
    "]]>\x00\x08\ufffe",
    "&lt;b&gt; &#60;",
    "a\\| b \\` c",
)


def hostile_run(text: str) -> Report:
    """A run in which every text that a stranger can choose is ``text``."""
    cells = [
        a_cell(
            id=f"{track}{text}", track=track, loss=text, class_=text, mode=text, dtype=text,
            quantity=text, stratum=text, status="FAIL", bits=9.0, detail=text, worst_case=text,
        )
        for track in ("stability", "agreement", "contract", "convergence")
    ]  # fmt: skip
    file = Results(
        created=text,
        platform="torch",
        versions={text: text},
        machine={text: {text: [text]}},
        fixtures=text,
        cells=tuple(cells),
        cases={text: {text: text, "inputs": {text: [text]}, "description": text}},
        curves=(
            a_curve(text, dataset=text, loss=text, optimizer=text, note=text, variant=text),
            a_curve(text, f"control:{text}", dataset=text, loss=text, optimizer=text),
            a_curve(text, f"defaults:{text}", dataset=text, loss=text, optimizer=text),
        ),
        notes=(text,),
    )
    recorded = Deviation(
        id=text, reason=text, link=f"javascript:{text}", losses=(text,), min_bits=20, max_bits=30,
    )  # fmt: skip
    return report.prepare(results.merge([file]), (recorded,), (text,))


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_gains_no_markup_from_content(text: str) -> None:
    page = Page(report.html(hostile_run(text)))
    plain = Page(report.html(hostile_run("harmless")))
    # Names differ in where they may wrap, which is the one thing content decides.
    names = [tag for tag, _ in page.tags if tag != "wbr"]
    assert names == [tag for tag, _ in plain.tags if tag != "wbr"]
    for (_, attrs), (_, expected) in zip(
        [t for t in page.tags if t[0] != "wbr"],
        [t for t in plain.tags if t[0] != "wbr"],
        strict=True,
    ):
        assert list(attrs) == list(expected)
    assert not [a for a in page.having("a") if not (a["href"] or "").startswith("#")]


def test_the_template_would_be_caught_if_it_did_not_escape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import jinja2

    real = jinja2.Environment
    monkeypatch.setattr(jinja2, "Environment", lambda **kw: real(**(kw | {"autoescape": False})))
    with pytest.raises(AssertionError):
        test_the_page_gains_no_markup_from_content(HOSTILE[1])


def test_the_planted_text_reaches_every_output() -> None:
    run = hostile_run("planted")
    made = (report.html(run), report.markdown(run), report.junit(run).decode())
    assert [output.count("planted") > 9 for output in made] == [True] * 3
    assert "planted" in report.first_lines(run)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_or_direction_character_reaches_any_output(text: str) -> None:
    run = hostile_run(text)
    forbidden = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
    for output in (
        report.html(run),
        report.markdown(run),
        report.junit(run).decode(),
        report.first_lines(run),
    ):
        assert forbidden.search(output) is None


@pytest.mark.parametrize("text", HOSTILE)
def test_junit_stays_well_formed(text: str) -> None:
    root = ElementTree.fromstring(report.junit(hostile_run(text)))
    assert len(list(root.iter("testcase"))) == 4
    assert {element.tag for element in root.iter()} == {
        "testsuites", "testsuite", "testcase", "failure",
    }  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_keeps_hostile_text_inside_code(text: str) -> None:
    made = report.markdown(hostile_run(text))
    outside = re.sub(r"`[^`\n]*`", "", made)
    for fragment in ("<", ">", "](", "@", "javascript", "http", "alert", "owned", "{{", "\\"):
        assert fragment not in outside
    headings = [line for line in made.splitlines() if line.startswith("#")]
    assert headings == [
        "## ❌ lossbridge: does not conform",
        "### Worst cells",
        "### Losses and platforms",
        "### Recorded deviations",
    ]
    for line in made.splitlines():
        if line.startswith("|") and "`" in line and not line.startswith("| loss"):
            assert line.count("|") in {3, 11}


def test_the_page_needs_no_network() -> None:
    run = a_run(spoil())
    markup = report.html(run)
    page = Page(markup)
    for _, attrs in page.tags:
        for name in ("src", "href", "action", "data", "poster", "xlink:href"):
            assert not (attrs.get(name) or "").startswith(("http", "//", "data:"))
    assert not re.search(r"url\((?!#)|@import", markup)
    (policy,) = [
        a["content"] or ""
        for a in page.having("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none';")
    assert "script-src 'sha256-" in policy
    assert len(page.having("script")) == 1


def test_the_policy_admits_exactly_the_script_of_the_page() -> None:
    import base64
    import hashlib

    markup = report.html(a_run())
    found = re.search(r"<script>(.*?)</script>", markup, re.DOTALL)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found.group(1).encode()).digest()).decode()
    # A browser hashes the element's text; an escaped quote would already break the match.
    assert f"script-src 'sha256-{digest}'" in markup


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("https://github.com/a/b/issues/1?x=1&y=2#z", True),
        ("http://example.org/", True),
        ("javascript:alert(1)", False),
        ("https://example.org/\nx", False),
        ('https://example.org/"onclick=', False),
        ("data:text/html,x", False),
        ("https://exämple.org/", False),
        ("", False),
    ],
)
def test_only_plain_web_addresses_become_links(link: str, shown: bool) -> None:
    assert report.safe_link(link) == (link if shown else "")


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2_000, 20_000, report.MARKDOWN_LIMIT])
def test_markdown_is_cut_by_us_and_says_so(limit: int) -> None:
    cells = [
        a_cell(loss=f"é{n}{'x' * 60}@1", platform="torch", status="FAIL", bits=9.0)
        for n in range(4000)
    ]
    run = report.prepare(
        results.merge([Results(created="t", platform="torch", cells=tuple(cells))])
    )
    text = report.markdown(run, limit)
    assert len(text.encode()) <= limit
    assert "4,000 failed" in text
    if limit > 2_000:
        assert re.search(r"\d+ more losses: see the HTML report\.\n$", text)
    assert report.MARKDOWN_LIMIT < 1024 * 1024 / 2


def test_huge_cases_are_cut() -> None:
    case = {"inputs": {"logits": [[float(n) for n in range(1000)]] * 50}}
    file = Results(
        created="t", platform="torch", cells=(a_cell(worst_case="c"),), cases={"c": case}
    )
    markup = report.html(report.prepare(results.merge([file])))
    assert "… 976 more" in markup
    assert "999" not in Page(markup).text


# --- drawings -----------------------------------------------------------------------------------


def test_a_line_is_interrupted_where_no_logarithm_exists() -> None:
    curve = a_curve("torch", values=(1.0, 0.5, float("nan"), 0.2, 0.0, float("inf"), 0.1))
    (panel,) = chart.panels([Run(curve=curve, label="torch")])
    (stroke,) = panel.strokes
    assert stroke.path.count("M") == 3
    assert stroke.path.count("L") == 1
    assert "nan" not in stroke.path
    assert "inf" not in stroke.path


def test_lower_loss_is_drawn_lower_and_later_steps_further_right() -> None:
    curve = a_curve("torch", values=(10.0, 1.0, 0.1), every=5)
    (panel,) = chart.panels([Run(curve=curve, label="torch")])
    points = [
        tuple(float(n) for n in pair.split())
        for pair in re.findall(r"[\d.]+ [\d.]+", panel.strokes[0].path)
    ]
    assert [x for x, _ in points] == sorted({x for x, _ in points})
    heights = [y for _, y in points]
    # Equal ratios are equal distances: the axis is logarithmic.
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert heights[0] < heights[1]
    assert panel.x_ticks[-1].text == "10"


@pytest.mark.parametrize("values", [(), (0.0,), (1.0,), (1.0, 1.0), (1e-300, 1e300)])
def test_odd_curves_can_be_drawn(values: tuple[float, ...]) -> None:
    curve = a_curve("torch", values=values, threshold=None, iterations=None)
    (panel,) = chart.panels([Run(curve=curve, label="torch")])
    assert panel.y_ticks
    assert panel.threshold is None


def test_the_training_table_measures_spread_and_controls() -> None:
    runs = [
        Run(curve=a_curve("torch", iterations=100), label="torch"),
        Run(curve=a_curve("jax", iterations=103), label="jax"),
        Run(curve=a_curve("reference", iterations=999), label="reference"),
        Run(curve=a_curve("torch", "defaults", iterations=None), label="torch"),
        Run(curve=a_curve("jax", "defaults", iterations=90), label="jax"),
        Run(curve=a_curve("torch", "control:seed", variant=1, iterations=80), label="torch"),
        Run(curve=a_curve("torch", "control:seed", variant=2, iterations=110), label="torch"),
    ]
    (row,) = chart.training_table(runs, ()).rows
    assert row.aligned == {"torch": "100", "jax": "103", "reference": "999"}
    assert row.spread == "3 (3.0 %)"
    assert row.defaults["defaults"] == {"torch": "never", "jax": "90"}
    assert row.default_spread["defaults"] == "not all reach it"
    assert row.controls["control:seed"] == "30 (37.5 %)"


def test_the_error_map_shows_a_failure_at_full_strength() -> None:
    rows = a_run(spoil()).merged.rows
    drawn = chart.strips([row for row in rows if row.cell.track == "stability"])
    assert drawn is not None
    over = [bar for strip in drawn.strips for bar in strip.bars if bar.look == "over"]
    assert [(bar.strength, bar.label) for bar in over] == [
        (1.0, "gradient, 6 bits or more: 1 cells")
    ]
    assert chart.strips([]) is None
