"""What is left out where only the installed wheel is tested."""

from pathlib import Path

# These read the source tree as they are imported, before a mark can deselect them.
READING = ("docs/*", "backends/test_keras_stub.py")
WHOLE = (Path(__file__).resolve().parents[1] / "run.py").exists()
collect_ignore_glob = [] if WHOLE else list(READING)
