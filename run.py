"""Set up what is needed, once, and run one of the project's jobs.

    python3 run.py tests            every test
    python3 run.py conformance      measure all platforms and write the report
    python3 run.py lint             style and format
    python3 run.py types            both type checkers
    python3 run.py regen            rewrite the generated files
    python3 run.py bench            speed, as ratios to each platform's own losses
    python3 run.py setup            only the set-up

Further arguments go to the job: ``python3 run.py tests -k focal``. The first run makes a virtual
environment in ``.venv`` and installs the pins of ``constraints/newest-py311.txt`` into it; a later
run does so again only when those pins or ``pyproject.toml`` have changed. ``--here`` in front of
the job uses the interpreter that is running, as it is.

Needs nothing but Python 3.11 or newer and pip. The list of jobs below is the only one: nox and CI
come here for it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / ".installed-for"
CONSTRAINTS = ROOT / "constraints" / "newest-py311.txt"
REQUIREMENT = f"{ROOT}[all,dev]"

PYTHON = "{python}"  # stands for the environment's Python, which pyright does not find by itself

# Each job is a row of commands, run by the environment's Python; further arguments go to the last.
JOBS: dict[str, list[list[str]]] = {
    "setup": [],
    # In several processes, each of one thread (below), which share what is left to do.
    "tests": [["-m", "pytest", "-n", "auto", "--maxprocesses=4", "--dist=worksteal"]],
    "conformance": [["-m", "lossbridge", "conformance"]],
    "lint": [["-m", "ruff", "format", "--check", "."], ["-m", "ruff", "check", "."]],
    "types": [["-m", "mypy"], ["-m", "pyright", "--pythonpath", PYTHON]],
    "regen": [["tools/regen.py"]],
    "bench": [["benchmarks/bench.py"]],
}

# TensorFlow otherwise prints a page of notes on the processor at every start.
VARIABLES = {"TF_CPP_MIN_LOG_LEVEL": "2"}
# As many threads as cores in each process would wait for each other: 51 seconds become 70.
OF_TESTS = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}


def main(arguments: list[str]) -> int:
    """Run the job that the arguments name, and return its exit status."""
    here = arguments[:1] == ["--here"]
    job, *further = arguments[1:] if here else arguments or ["--help"]
    if job in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0
    if job not in JOBS:
        print(f"run.py: no job {job!r}; there are {', '.join(JOBS)}", file=sys.stderr)
        return 2
    python = Path(sys.executable) if here else prepared_python()
    return run(python, job, further)


def run(python: Path, job: str, further: list[str]) -> int:
    """Run every command of a job, also after one has failed; the worst exit status counts."""
    environment = {**VARIABLES, **(OF_TESTS if job == "tests" else {}), **os.environ}
    commands = JOBS[job]
    worst = 0
    for position, command in enumerate(commands):
        last = position == len(commands) - 1
        words = [str(python) if word == PYTHON else word for word in command]
        line = [str(python), *words, *(further if last else [])]
        # A child ended by a signal has a negative status, which must not count as a small one.
        worst = max(worst, abs(subprocess.call(line, cwd=ROOT, env=environment)))
    return worst


def prepared_python() -> Path:
    """Return the Python of an environment that holds the pins, making it where it is missing."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = fingerprint()
    if python.exists() and STAMP.exists() and STAMP.read_text("ascii") == wanted:
        return python
    # Notes go to the error stream, so that the job's own output can be piped.
    print(f"run.py: installing into {ENVIRONMENT}; this takes a few minutes", file=sys.stderr)
    # Only what an earlier run made is cleared away. An environment somebody else made is kept and
    # added to.
    venv.EnvBuilder(with_pip=True, clear=STAMP.exists()).create(ENVIRONMENT)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "-c", str(CONSTRAINTS), "-e", REQUIREMENT], check=True, stdout=sys.stderr)
    # Last of all, so that an installation that broke off is taken up again.
    STAMP.write_text(wanted, "ascii")
    return python


def fingerprint() -> str:
    """Return what an installation depends on, as one line."""
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", CONSTRAINTS):
        digest.update(path.read_bytes())
    return f"{sys.version_info[0]}.{sys.version_info[1]} {ROOT} {digest.hexdigest()}\n"


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts it may have an older one
        sys.exit("run.py: needs Python 3.11 or newer, and this is " + sys.version.split()[0])
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"run.py: the installation failed with status {error.returncode}")
