"""The commands themselves."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lossbridge.errors import BackendUnavailable, LossbridgeError
from lossbridge.files import save
from lossbridge.synonyms import class_hint
from lossbridge.versions import install

PLATFORMS = ("torch", "keras", "jax")
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Losses written once: list, read, check and compile them, and measure that they conform.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
LossName = Annotated[
    str, typer.Argument(help="A class (FocalLoss), an id (focal@1), a file, or file.py:name.")
]


def command(name: str) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Register a command; the number it returns is the exit code."""

    def register(function: Callable[..., int]) -> Callable[..., None]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            try:
                code = function(*args, **kwargs)
            except KeyboardInterrupt as stop:
                # As a shell counts signals, and not 1, which says that something does not conform.
                number = signal.Signals[str(stop) or "SIGINT"]
                print(f"lossbridge: stopped by {number.name}; nothing was written", file=sys.stderr)
                code = 128 + number
            raise typer.Exit(code)

        return app.command(name)(wrapper)

    return register


def run(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    try:
        app(args=list(argv), prog_name="lossbridge")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except BackendUnavailable as error:
        print(f"lossbridge: {error}", file=sys.stderr)
        return 3
    except (LossbridgeError, OSError) as error:
        print(f"lossbridge: {error}", file=sys.stderr)
        return 2
    except Exception:
        # Python's own exit code would be 1, which says that a loss does not conform.
        traceback.print_exc()
        print("lossbridge: this is a fault of lossbridge; nothing was decided", file=sys.stderr)
        return 2
    return 0


def echo_json(document: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=True, default=str))


def resolve(name: str) -> Any:
    """A form of a class name, an id, a spec file or a definition in a Python file."""
    from lossbridge.catalogue import catalogue
    from lossbridge.errors import ArgumentError
    from lossbridge.frontdoor import as_form, forms

    if name in forms():
        return forms()[name]
    if name in catalogue():
        return as_form(catalogue()[name])
    if f"{name}@1" in catalogue():
        return as_form(catalogue()[f"{name}@1"])
    path, _, attribute = name.partition(":")
    if path.endswith(".py"):
        return as_form(load_definition(Path(path), attribute))
    if path.endswith(".json") or Path(path).is_file():
        return as_form(path)
    from lossbridge.combine import COMBINATIONS

    if name in COMBINATIONS:
        raise ArgumentError(
            f"{name} is made of losses that only Python can give it, such as "
            f"L.{name}({{'depth': L.HuberLoss(), 'label': L.CrossEntropyLoss()}}); write its "
            "specification with lossbridge.dump(loss.spec, path), and give that path"
        )
    known = [*forms(), *catalogue()]
    raise ArgumentError(
        f"there is no loss {name!r}; `lossbridge list` shows them{class_hint(name, known)}; a loss "
        "of your own is a path to a .json file or file.py:name"
    )


def load_definition(path: Path, attribute: str) -> Any:
    """The definition called ``attribute`` in the caller's own Python file, which is executed.

    What the file raises, as it is executed or as its loss is traced, is an error in one line.
    """
    import importlib.util

    from lossbridge.errors import ArgumentError
    from lossbridge.trace import Definition

    if not path.is_file():
        raise ArgumentError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(f"_lossbridge_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    with _their_code(path):
        spec.loader.exec_module(module)
    found = {k: v for k, v in vars(module).items() if isinstance(v, Definition)}
    if not attribute and len(found) == 1:
        attribute = next(iter(found))
    if attribute not in found:
        raise ArgumentError(
            f"{str(path)!r} defines {', '.join(found) or 'no loss'}; write {path}:NAME with one of "
            "them"
        )
    with _their_code(path):
        _ = found[attribute].spec  # traces it
    return found[attribute]


@contextlib.contextmanager
def _their_code(path: Path) -> Iterator[None]:
    """Whatever a user's file raises, as an error that says where in it."""
    from lossbridge.errors import ArgumentError

    try:
        yield
    except LossbridgeError:
        raise
    except (Exception, SystemExit) as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        if isinstance(error, SyntaxError):
            lines.append(error.lineno)
        place = f", line {lines[-1]}" if lines else ""
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArgumentError(f"{str(path)!r}{place}, raised {what}") from error


def backend(platform: str) -> Any:
    """A platform's probe, found the way a third party's is."""
    from lossbridge.errors import ArgumentError

    found = {point.name: point for point in entry_points(group="lossbridge.backends")}
    if platform not in found:
        raise ArgumentError(
            f"there is no platform {platform!r}; installed here are {', '.join(sorted(found))}"
        )
    try:
        return found[platform].load()
    except BackendUnavailable:
        raise
    except ImportError as error:
        raise BackendUnavailable(
            f"the platform {platform} is not installed here ({error}); install it with: "
            f"{install(platform if platform != 'keras' else 'tensorflow-cpu')}"
        ) from None


def writer(platform: str, verb: str) -> Callable[..., str]:
    """What a platform writes source with: ``source`` or ``eject``, if it does."""
    from lossbridge.errors import UnsupportedError

    found: Callable[..., str] | None = getattr(backend(platform), verb, None)
    if found is None:
        raise UnsupportedError(
            f"the platform {platform} has no {verb}, so it writes no source; write --to torch, "
            "keras or jax"
        )
    return found


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``name=value`` words as constructor arguments; values are JSON literals or plain words."""
    from lossbridge.errors import ArgumentError

    found: dict[str, Any] = {}
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals:
            raise ArgumentError(f"{word!r} is not a setting; write name=value, such as gamma=1.5")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


# --- list, show, check ---------------------------------------------------------------------------


@command("list")
def list_(as_json: Json = False) -> int:
    """List the losses: class, id, inputs, parameters."""
    from lossbridge.combine import COMBINATIONS
    from lossbridge.frontdoor import forms

    rows = [
        {
            "class": form.name,
            "ids": [d.id for d in form.definitions],
            "inputs": {n: str(k) for n, k in form.definitions[0].inputs.items()},
            "parameters": {n: p.value for n, p in form.params.items()},
            "summary": form.doc.splitlines()[0] if form.doc else "",
        }
        for form in forms().values()
    ]
    rows += [
        {
            "class": c.name,
            "ids": [],
            "inputs": {},
            "parameters": dict.fromkeys(c.arguments),
            "summary": c.doc.splitlines()[0],
        }
        for c in COMBINATIONS.values()
    ]
    if as_json:
        echo_json(rows)
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("class", "id", "inputs", "parameters"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            str(row["class"]),
            Text(", ".join(_strings(row["ids"]))),
            Text(", ".join(_strings(row["inputs"]))),
            Text(
                ", ".join(f"{n}={v}" if v is not None else n for n, v in _pairs(row["parameters"]))
            ),
        )
    Console().print(table)
    return 0


def _strings(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list | dict) else [str(value)]


def _pairs(value: object) -> list[tuple[str, object]]:
    return list(value.items()) if isinstance(value, Mapping) else []


@command("show")
def show(
    loss: LossName,
    settings: Annotated[list[str] | None, typer.Argument(help="Settings, as gamma=1.5.")] = None,
    passes: Annotated[bool, typer.Option("--passes", help="The graph after each pass.")] = False,
    platform: Annotated[str | None, typer.Option(help="The source emitted for a platform.")] = None,
    as_json: Json = False,
) -> int:
    """Show a loss: its specification, the graph after each pass, or the emitted source."""
    from lossbridge.frontdoor import bind, docstring
    from lossbridge.plan import Options, trail
    from lossbridge.spec import to_json

    form = resolve(loss)
    bound = bind(form, platform or "", parse_settings(settings or []))
    document: dict[str, Any] = {"class": form.name, "specs": [to_json(s) for s in bound.specs]}
    if passes:
        document["passes"] = [
            {"id": spec.id, "pass": name, "graph": str(graph)}
            for which, spec in enumerate(bound.specs)
            for name, graph in trail(
                spec, bound.numbers[which], Options(bound.reduction, bound.normalizer)
            )
        ]
    if platform is not None:
        document["source"] = writer(platform, "source")(bound)
    if as_json:
        echo_json(document)
        return 0
    if passes:
        for step in document["passes"]:
            print(f"--- {step['id']}: {step['pass']}")
            print(step["graph"])
    elif platform is not None:
        print(document["source"])
    else:
        print(f"{form.name}\n")
        print(docstring(form, "torch"))
        print(f"\nHash: {', '.join(s.hash for s in bound.specs)}")
    return 0


@command("check")
def check(loss: LossName, as_json: Json = False) -> int:
    """Check a loss: what is unstable as written and rewritten, whether the outcome is accurate in
    float32 where it is tried, and what domains stay unproved."""
    from lossbridge.advise import advise

    findings = [finding for spec in resolve(loss).specs for finding in advise(spec)]
    counts = Counter(finding["kind"] for finding in findings)
    bad = counts["unproved"] + counts["inaccurate"]
    if as_json:
        echo_json({"loss": loss, "findings": findings, "conforms": not bad})
    elif not findings:
        print(f"{loss}: nothing is unstable as written, and every domain is proved")
    else:
        for finding in findings:
            print(f"{finding['kind']:10} {finding['where']}")
            print(f"           {finding['what']}")
        named = ("cured", "rewritten", "inaccurate", "unproved")
        print(
            ", ".join(f"{counts[k]} {k}" for k in named if counts[k] or k in ("cured", "unproved"))
        )
    return 1 if bad else 0


# --- compile, eject ------------------------------------------------------------------------------


@command("compile")
def compile_(
    loss: LossName,
    settings: Annotated[list[str] | None, typer.Argument(help="Settings, as gamma=1.5.")] = None,
    to: Annotated[str, typer.Option(help="The platform.")] = "torch",
    as_json: Json = False,
) -> int:
    """Compile a loss for a platform and print the source that it runs."""
    from lossbridge.frontdoor import bind

    form = resolve(loss)
    bound = bind(form, to, parse_settings(settings or []))
    source = writer(to, "source")(bound)
    if as_json:
        echo_json(
            {
                "class": form.name,
                "platform": to,
                "source": source,
                "hashes": [s.hash for s in bound.specs],
            }
        )
    else:
        print(source)
    return 0


@command("eject")
def eject(
    loss: LossName,
    settings: Annotated[list[str] | None, typer.Argument(help="Settings, as gamma=1.5.")] = None,
    to: Annotated[str, typer.Option(help="The platform.")] = "torch",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file.")] = None,
    as_json: Json = False,
) -> int:
    """Write a loss as a stand-alone source file that imports only its framework."""
    from lossbridge.frontdoor import bind

    form = resolve(loss)
    bound = bind(form, to, parse_settings(settings or []))
    source = writer(to, "eject")(bound, form.name)
    if as_json:
        save(source, output) if output is not None else None
        echo_json({"class": form.name, "platform": to, "file": output, "source": source})
        return 0
    save(source, output)
    if output is not None:
        print(f"wrote {output}: {form.name}, imports only its framework")
    return 0


# --- compare -------------------------------------------------------------------------------------


@command("compare")
def compare(
    a: Annotated[str, typer.Argument(help='Such as "torch.nn.HuberLoss(delta=2.0)".')],
    b: Annotated[
        str, typer.Argument(help="Another; also a record, a specification, or FILE.py:name.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(help="An input of plain functions, as logits=real[n,c]; repeat it."),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="training, or strict, which leaves out nothing.")
    ] = "training",
    ignore: Annotated[
        list[str] | None, typer.Option(help="An input that may change neither; repeat it.")
    ] = None,
    weights: Annotated[str, typer.Option(help="sample or class: demand that they be probed.")] = "",
    classes: Annotated[
        int | None, typer.Option(help="How many; for functions that take no other number.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="All causes, all digits, what was probed, notes.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Say whether two losses are the same function, and if not, why.

    Exit code 0: the same; 1: not; 3: undecided.
    """
    from lossbridge.migrate.comparison import Comparison
    from lossbridge.migrate.judge import compare as compare_losses
    from lossbridge.migrate.sides import UncallableError

    try:
        sides = [given(x, inputs or (), classes=classes) for x in (a, b)]
        found = compare_losses(
            *sides, weights=weights or None, profile=profile, ignore=tuple(ignore or ())
        )
    except UncallableError as error:
        found = Comparison("undecided", a, b, notes=(str(error),))
    print(found.to_json() if as_json else found.whole() if verbose else found)
    return found.exit_code


def given(
    text: str,
    inputs: Sequence[str] = (),
    platform: str | None = None,
    classes: int | None = None,
) -> Any:
    """A side of what stands on a command line: ``FILE.py:name`` is executed, text is not."""
    from lossbridge.migrate.recorder import described, from_file
    from lossbridge.migrate.sides import side

    if not text.endswith(".py") and ".py:" not in text:
        return side(text, platform=platform, classes=classes)
    loss, beside = from_file(text)
    return side(loss, inputs=described(inputs) or beside, platform=platform, classes=classes)


@command("record")
def record(
    loss: Annotated[
        str, typer.Argument(help="FILE.py:name, which is executed; or as for compare.")
    ] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The record.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(help="An input of a plain function, as logits=real[n,c]; repeat it."),
    ] = None,
    platform: Annotated[
        str | None, typer.Option(help="The framework of a function that takes any array.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="How many there are on the probes; 3, unless weights say it.")
    ] = None,
    emit: Annotated[
        Path | None,
        typer.Option(help="Write a recorder that runs without lossbridge, on Python 3.8."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Record what a loss gives on the probes, to compare it in another environment."""
    from lossbridge.errors import ArgumentError
    from lossbridge.migrate.probes import CLASSES
    from lossbridge.migrate.record import record as record_loss
    from lossbridge.migrate.record import recorder

    if bool(loss) == (emit is not None):
        raise ArgumentError(
            "write `lossbridge record FILE.py:loss -o side.json`, or `lossbridge record --emit "
            "recorder.py`"
        )
    if platform is not None and platform not in PLATFORMS:
        raise ArgumentError(f"there is no platform {platform!r}; write one of {PLATFORMS}")
    if emit is not None:
        save(recorder(CLASSES if classes is None else classes), emit)
        if as_json:
            echo_json({"recorder": emit})
        else:
            print(f"wrote {emit}: run it as python {emit} FILE.py:loss -o side.json")
        return 0
    if output is None:
        raise ArgumentError(f"write where the record goes: lossbridge record {loss} -o side.json")
    found = record_loss(given(loss, inputs or (), platform, classes), output)
    if as_json:
        echo_json(found.summary(output))
    else:
        print(f"wrote {output}: {found.label} on {found.platform}")
    return 0


# --- conformance ---------------------------------------------------------------------------------


@command("conformance")
def conformance(
    platforms: Annotated[str, typer.Option(help="Comma-separated; default: those installed.")] = "",
    losses: Annotated[str, typer.Option(help="Comma-separated classes, ids, files.")] = "",
    dtypes: Annotated[str, typer.Option(help="Comma-separated; default: all four.")] = "",
    subjects: Annotated[
        str, typer.Option(help="ours, or ours,native: the frameworks' own losses beside them.")
    ] = "ours",
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("conformance-report"),
    quick: Annotated[bool, typer.Option("--quick", help="A small sample of every track.")] = False,
    as_json: Json = False,
) -> int:
    """Measure losses against the certified oracle on every platform, and write the report."""
    try:
        from lossbridge_conformance.runner import run as run_conformance
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("lossbridge"):
            raise
        raise BackendUnavailable(
            f"the conformance run needs {error.name}; install it with: {install('conformance')}"
        ) from None

    return int(
        run_conformance(
            platforms=_words(platforms),
            losses=_words(losses),
            dtypes=_words(dtypes),
            subjects=_words(subjects),
            out=out,
            quick=quick,
            as_json=as_json,
        )
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
