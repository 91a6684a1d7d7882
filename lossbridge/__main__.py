"""The command line: ``python -m lossbridge``."""

from lossbridge.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
