"""Writing files: all of one, or nothing. Every file that lossbridge writes goes through here."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from lossbridge.errors import OutputError, shown


def save(text: str, path: Path | None) -> None:
    """Write text to a file, or to the screen."""
    if path is None:
        print(text, end="" if text.endswith("\n") else "\n")
        return
    write(path, text.encode())


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` into a file in one step: readers see the old file or the new, never a part.

    A file that is there keeps its mode, and a new one has what the umask leaves. A link is
    followed. What is no file (a device, a pipe) is written to and stays what it is: renamed over,
    ``-o /dev/null`` would take the device from the machine.
    """
    try:
        _write(Path(os.path.realpath(path)), data)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{shown(os.fspath(path))} could not be written ({reason}); nothing "
            "there was changed; give a path in a folder that exists and can be written"
        ) from error


def _write(target: Path, data: bytes) -> None:
    mode = None
    if target.exists():
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(None, "it is a folder")
        if not stat.S_ISREG(mode):
            with target.open("wb", buffering=0) as stream:
                stream.write(data)
            return
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(6)}.part")
    try:
        # Opened, not made by mkstemp, whose files nobody else may read whatever the umask says.
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
