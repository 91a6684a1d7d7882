"""The command line: ``python -m lossbridge`` or ``lossbridge``.

Exit codes: 0 conforms (or done), 1 does not, 2 usage, 3 a named platform is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; every error ends in one line that says what to do, never in a traceback."""
    try:
        from lossbridge.cli.commands import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        print(
            'the command line needs typer and rich: pip install "lossbridge[cli]"',
            file=sys.stderr,
        )
        return USAGE
    return run(sys.argv[1:] if argv is None else list(argv))
