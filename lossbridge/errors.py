"""Every error lossbridge raises on purpose, in one hierarchy.

Catch :class:`LossbridgeError` to catch them all. Each class is also the built-in exception that a
caller who does not know lossbridge would expect there (a wrong argument is a ``TypeError``, a
missing framework an ``ImportError``; where the frameworks raise different ones, it is all of
them). A message says what was given, what was expected, and the call that works.

This module imports nothing but the interpreter's own core, since everything else imports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias, get_args

Phase: TypeAlias = Literal["parse", "schema", "semantic", "compile"]

PHASES: Final[tuple[str, ...]] = get_args(Phase)

_SHOWN_CHARACTERS = 60


class LossbridgeError(Exception):
    """Base of every error lossbridge raises on purpose."""


class SpecError(LossbridgeError, ValueError):
    """A specification cannot be read or does not make sense.

    ``phase`` says how far it got: ``parse`` (bytes and text), ``schema`` (the shape of the
    document), ``semantic`` (its meaning) or ``compile``. ``code`` is a stable word for tools; the
    message is for people and may change.
    """

    def __init__(self, message: str, *, phase: Phase, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.phase: Phase = phase
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} [{self.phase}: {self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is rebuilt from its positional arguments alone, and this one has keywords;
        # worker processes send their errors back by pickle.
        return _rebuild, (type(self), self.message, self.phase, self.code)


def _rebuild(kind: type[SpecError], message: str, phase: Phase, code: str) -> SpecError:
    return kind(message, phase=phase, code=code)


class ShapeError(LossbridgeError, ValueError, RuntimeError):
    """Arrays disagree about a named axis, or have too few or too many dimensions."""


class DomainError(LossbridgeError, ValueError, RuntimeError):
    """A value lies outside the domain its kind states, such as a probability of 1.5."""


class LabelError(DomainError, IndexError):
    """A label is no class, nor the one that is ignored."""


class ArgumentError(LossbridgeError, TypeError):
    """A call names an argument that does not exist, misses one, or gives the wrong type."""


class OptionError(ArgumentError, ValueError):
    """An argument's value is none of those that it may have."""


class DTypeError(LossbridgeError, TypeError, RuntimeError):
    """An array's dtype cannot carry what its kind states, such as labels held as floats."""


class UnsupportedError(LossbridgeError):
    """The platform cannot do what was asked; the message gives the reason and another way."""


class RecordError(LossbridgeError, ValueError):
    """A file is no record of a loss, or is one of other probes than those of today."""


class BackendUnavailable(LossbridgeError, ImportError):  # noqa: N818 - says it already
    """A platform was named whose framework is not installed, or is too old."""


class OutputError(LossbridgeError, OSError):
    """A file could not be written; whatever stood there before is unchanged."""


def shown(value: object) -> str:
    """Untrusted data for a message: ASCII, on one line, short; text in quotes.

    A name from a stranger's file may hold terminal escapes or a megabyte; neither may reach a
    screen through an error.
    """
    if isinstance(value, (list, dict, tuple, set)):
        # Printing half a million entries to show sixty characters would take a second.
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print 5,000 digits
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "..."
    return ascii(text) if isinstance(value, str) else ascii(text)[1:-1]


def listed(names: Iterable[str]) -> str:
    """Names for a message, or ``none`` where there are none."""
    return ", ".join(names) or "none"


def suggestion(name: str, options: Iterable[str]) -> str:
    """``"; did you mean gamma?"`` when one of the options is near, otherwise nothing."""
    import difflib  # 3 ms, and only an error needs it

    near = difflib.get_close_matches(name[:64], list(options), n=1)
    return f"; did you mean {near[0]}?" if near else ""
