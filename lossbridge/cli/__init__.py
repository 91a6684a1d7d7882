"""The command line: ``python -m lossbridge`` or ``lossbridge``.

Exit codes: 0 conforms (or done), 1 does not, 2 usage, 3 a named platform is missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

USAGE = 2

QUIET: Final[Mapping[str, str]] = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # TensorFlow says at every level that these are on; they change a result's last digits only.
    "TF_ENABLE_ONEDNN_OPTS": "0",
}
"""What keeps TensorFlow's log lines off a terminal, if it stands before TensorFlow is imported.

For processes of our own alone: a command, a worker. A user's process says what it wants to.
"""


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines of a framework that is imported inside; what somebody has set is left."""
    added = [name for name in QUIET if name not in os.environ]
    os.environ.update((name, QUIET[name]) for name in added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; every error ends in one line that says what to do, never in a traceback."""
    try:
        from lossbridge.cli.commands import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        from lossbridge.versions import install

        print(f"the command line needs typer and rich: {install('cli')}", file=sys.stderr)
        return USAGE
    with quiet():
        return run(sys.argv[1:] if argv is None else list(argv))
