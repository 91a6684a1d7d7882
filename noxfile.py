"""Sessions that each make their own environment; ``python3 run.py JOB`` keeps one for all.

The commands are those of ``run.py``. Every environment is made by pip, not uv: where the CPU wheel
of torch lies at hand, pip finds it and uv fetches gigabytes of GPU libraries instead.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
NEWEST = ROOT / "constraints" / "newest-py311.txt"
FLOOR = ROOT / "constraints" / "floor-py311.txt"

nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "types", "tests(newest)"]

both = nox.parametrize(
    "constraints", [nox.param(NEWEST, id="newest"), nox.param(FLOOR, id="floor")]
)


def install(session: nox.Session, constraints: Path, *requirements: str) -> None:
    """Install requirements at exactly the pinned versions."""
    session.install("-c", str(constraints), *requirements)


def job(session: nox.Session, name: str) -> None:
    """Run a job of run.py in the session's environment."""
    session.run("python", "run.py", "--here", name, *session.posargs)


@nox.session
@both
def tests(session: nox.Session, constraints: Path) -> None:
    """Run every test against the source tree."""
    install(session, constraints, "-e", ".[all,dev]")
    job(session, "tests")


@nox.session
@both
def conformance(session: nox.Session, constraints: Path) -> None:
    """Measure every platform and write the report."""
    install(session, constraints, "-e", ".[all]")
    job(session, "conformance")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it, and test what was installed.

    The editable install puts the repository root on the path, so it cannot show that a file is
    missing from the wheel. Here the tests are moved to a folder without any of our packages.
    """
    built = Path(session.create_tmp()) / "dist"
    away = Path(session.create_tmp()) / "away"
    for folder in (built, away):
        shutil.rmtree(folder, ignore_errors=True)
    install(session, NEWEST, "build", "hatchling")
    # From the sdist, as a package index's users would.
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(built), str(ROOT))
    (package,) = built.glob("*.whl")
    install(session, NEWEST, f"{package}[all,dev]")
    away.mkdir()
    shutil.copytree(ROOT / "tests", away / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", away)
    session.chdir(away)
    # Not `python -m pytest`, which would put the current folder on the path.
    session.run("pytest", "-m", "not checkout", "-n", "2", "--dist=worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, NEWEST, "ruff")
    job(session, "lint")


@nox.session
def types(session: nox.Session) -> None:
    """Run both type checkers; they need the frameworks to see through them."""
    install(session, NEWEST, "-e", ".[all,dev]")
    job(session, "types")


@nox.session
def regen(session: nox.Session) -> None:
    """Rewrite the generated files: stubs, tables, schemas."""
    install(session, NEWEST, "-e", ".[all,dev]")
    job(session, "regen")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory, as ratios to each platform's own losses."""
    install(session, NEWEST, "-e", ".[all]")
    job(session, "bench")
