"""A strict JSON reader: bounded time and memory, one meaning per document, typed errors.

Python's own ``json`` keeps the last of two equal keys, reads ``NaN``, turns ``1e400`` into infinity
and ``1e-400`` into zero, passes lone surrogates that fail later when written, and exhausts the
stack on nested brackets. Each of those is an error here, found before or while parsing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any, Final, NoReturn, TypeAlias

from lossbridge.errors import SpecError, shown
from lossbridge.text import parse_number

MAX_BYTES: Final = 1 << 20
MAX_NESTING: Final = 64
MAX_CONTAINERS: Final = 1 << 16  # the largest specification has fewer; a file of "{}," has 340,000

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

_SCHEMA_HINT = "a specification is one JSON object, encoded as UTF-8"

# Strings are skipped whole. Possessive repeats, and an end of input accepted as the end of a
# string, make the scan linear on any bytes; the parser then reports an unterminated string.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)

_BOMS: Final[tuple[bytes, ...]] = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

_FORMATS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "a zip archive (a .keras or .pt file is one)"),
    (b"\x80", "a pickle"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file"),
)


def read_json(
    data: str | bytes | bytearray | memoryview,
    *,
    most: int = MAX_BYTES,
    containers: int = MAX_CONTAINERS,
) -> Json:
    """The value that ``data`` writes, or a :class:`SpecError` of phase ``parse``.

    ``most`` bounds its bytes and ``containers`` its arrays and objects, for files that hold more
    than a specification does.
    """
    raw = _raw(data, most)
    if len(raw) > most:
        raise too_large(len(raw), most)
    if not raw.strip():
        raise _error(f"nothing was given to read; {_SCHEMA_HINT}", "empty")
    for start, what in _FORMATS:
        if raw.startswith(start):
            raise _error(f"these bytes are {what}; {_SCHEMA_HINT}", "not_json")
    if raw.startswith(_BOMS):
        raise _error(f"the text starts with a byte order mark; {_SCHEMA_HINT}, without one", "bom")
    if b"\0" in raw:
        raise _error(f"the text holds a NUL byte; {_SCHEMA_HINT}", "nul")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _error(f"byte {error.start} is not UTF-8; {_SCHEMA_HINT}", "utf8") from None
    _check_nesting(raw, containers)
    return _parse(text)


def read_file(path: str | os.PathLike[str], most: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | (os.O_NONBLOCK if os.name == "posix" else 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SpecError(
                    f"{shown(os.fspath(path))} is not a regular file; give the path of a JSON file",
                    phase="parse",
                    code="unreadable",
                )
            if status.st_size > most:
                raise too_large(status.st_size, most)
            return file.read(most + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(
            f"{shown(os.fspath(path))} cannot be read: {shown(str(error))}; give the path of a "
            "JSON file",
            phase="parse",
            code="unreadable",
        ) from error


def too_large(size: int, most: int = MAX_BYTES) -> SpecError:
    """The error for more bytes than are ever read."""
    return _error(
        f"the text has {size} bytes, but at most {most} ({most >> 20} MiB) are read; a loss "
        "this large is data, so pass the data as an input",
        "too_large",
    )


def _raw(data: object, most: int) -> bytes:
    if isinstance(data, str):
        # A character takes at most 4 bytes, so this bounds the copy that encoding makes.
        if len(data) > most:
            raise too_large(len(data), most)
        try:
            return data.encode("utf-8")
        except UnicodeEncodeError:
            raise _error(
                "the text holds a lone surrogate, which is half a character", "surrogate"
            ) from None
    if isinstance(data, bytes | bytearray | memoryview):
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        if size > most:
            raise too_large(size, most)
        return bytes(data)
    raise _error(
        f"text or bytes are read, but {shown(type(data).__name__)} was given; write "
        "loads(text), or load(path) for a file",
        "wrong_type",
    )


def _check_nesting(raw: bytes, containers: int) -> None:
    depth = opened = 0
    for found in _BRACKETS.finditer(raw):
        token = found[0]
        if token in (b"[", b"{"):
            depth += 1
            opened += 1
            if opened > containers:
                raise _error(
                    f"the text has more than {containers} arrays and objects; a specification "
                    "has a few for each of its parts",
                    "too_many_values",
                )
            if depth > MAX_NESTING:
                raise _error(
                    f"brackets are nested more than {MAX_NESTING} deep at byte {found.start()}; a "
                    "specification needs about ten",
                    "too_deep",
                )
        elif token in (b"]", b"}"):
            depth -= 1


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _error(
                f"the key {shown(key)} appears twice in one object; keep one of the two",
                "duplicate_key",
            )
        found[key] = value
    return found


def _constant(text: str) -> NoReturn:
    raise _error(
        f"{text} is not JSON and not a number a specification can hold; in a body, write inf",
        "not_finite",
    )


def _integer(text: str) -> float | int:
    # The common case first: a megabyte of small integers must not take a second.
    return int(text) if len(text) < 16 and text != "-0" else parse_number(text)


# Only standard-library hooks: the C scanner keeps its speed and hands over numbers as text.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_float=parse_number,
    parse_int=_integer,
    parse_constant=_constant,
)


def _parse(text: str) -> Json:
    try:
        value: Json = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _error(
            f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}; {_SCHEMA_HINT}",
            "syntax",
        ) from None
    _check_strings(value)
    return value


def _check_strings(value: Json) -> None:
    """Escapes can smuggle in what the bytes may not hold."""
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            _check_string(item)
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())


def _check_string(text: str) -> None:
    if "\0" in text:
        raise _error(f"the string {shown(text)} holds a NUL character", "nul")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _error(
            f"the string {shown(text)} holds a lone surrogate, which is half a character",
            "surrogate",
        ) from None


def _error(message: str, code: str) -> SpecError:
    return SpecError(message, phase="parse", code=code)
