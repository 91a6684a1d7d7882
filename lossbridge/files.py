"""Writing files: all of one, or nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lossbridge.errors import OutputError


def save(text: str, path: Path | None) -> None:
    """Write atomically, or to the screen."""
    if path is None:
        print(text, end="" if text.endswith("\n") else "\n")
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent or Path(), prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OutputError(
            f"{str(path)!r} could not be written ({error.strerror}); nothing there was changed"
        ) from None
