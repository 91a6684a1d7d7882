"""The result of a comparison, as data and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

VERDICTS: Final[Mapping[str, str]] = {
    "same": "the same function: value and gradient agree on every probe",
    "same_up_to_factor": "the same function up to a factor",
    "gradient_differs": "the same value, but another gradient",
    "edges_differ": "the same inside their domain, but not at its edges",
    "domain_differs": "they take different inputs",
    "different": "different functions",
    "undecided": "nothing could be decided",
}
EXIT: Final[Mapping[str, int]] = {"same": 0, "undecided": 3}


class Cause(msgspec.Struct, frozen=True):
    """Why two losses differ, and what to do about it."""

    text: str
    fix: str = ""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest input found that shows a difference, and what each side gives there.

    ``others`` are the inputs of b where those are no arrays of a's: probabilities beside logits.
    ``shapes`` are those of inputs without a number. ``beside`` is what is given beside the inputs:
    weights of samples, a mask.
    """

    group: str
    probe: str
    dtype: str
    inputs: dict[str, Any]
    a: dict[str, Any]
    b: dict[str, Any]
    exact: dict[str, Any] | None = None
    others: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    beside: dict[str, Any] = {}


class Comparison(msgspec.Struct, frozen=True):
    """What a comparison of two losses found."""

    verdict: str
    a: str
    b: str
    factor: float | None = None
    causes: tuple[Cause, ...] = ()
    example: Example | None = None
    probed: tuple[str, ...] = ()
    not_probed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """What the profile leaves out, by name."""
    without_effect: tuple[str, ...] = ()
    """Inputs that change neither side on any probe: of them nothing is known."""

    @property
    def exit_code(self) -> int:
        """0 for the same function, 3 where nothing could be decided, 1 for all else.

        Nothing is decided about an input that changes neither side.
        """
        return 3 if self.verdict == "same" and self.without_effect else EXIT.get(self.verdict, 1)

    def to_json(self) -> str:
        """The comparison as JSON, on several lines."""
        return json.dumps(msgspec.to_builtins(self), indent=2)

    def __str__(self) -> str:
        """At most twelve lines; :meth:`whole` says everything."""
        lines = self._head()
        for cause in self.causes[:2]:
            lines.append(f"  because {cause.text}")
            if cause.fix and len(self.causes) <= 2:
                lines.append(f"    -> {cause.fix}")
        if len(self.causes) > 2:
            lines[-1] += f"; and {len(self.causes) - 2} more"
        if self.verdict == "undecided":
            lines += [f"  because {x}" for x in self.notes[:2]]
        if self.example is not None:
            lines += self._brief_example(self.example)
        unprobed = self.not_probed
        if unprobed:
            more = f"; and {len(unprobed) - 2} more" if len(unprobed) > 2 else ""
            lines.append(f"  not probed: {'; '.join(unprobed[:2])}{more}")
        if self.left_out:
            lines.append(f"  left out (profile training): {'; '.join(self.left_out)}")
        # What was noticed of these two; what holds of a built-in always, whole() says.
        said = [n for n in self.notes if n.startswith(NOTICED)] if self.verdict == "same" else []
        lines += [f"  note: {n}" for n in said[: LINES - len(lines)]]
        return "\n".join(map(_printable, lines))

    def whole(self) -> str:
        """Everything: all causes, the example in all its digits, what was probed, the notes."""
        lines = self._head()
        for cause in self.causes:
            lines.append(f"  because {cause.text}")
            if cause.fix:
                lines.append(f"    -> {cause.fix}")
        return "\n".join(map(_printable, [*lines, *self._rest()]))

    def _head(self) -> list[str]:
        return [f"{self.verdict}: {self._says()}", f"  a: {self.a}", f"  b: {self.b}"]

    @staticmethod
    def _brief_example(e: Example) -> list[str]:
        rows = [
            *e.inputs.items(),
            *e.beside.items(),
            *((f"b's {n}", x) for n, x in e.others.items()),
        ]
        given = ", ".join(f"{n} = {_brief(x, 60)}" for n, x in rows)
        lines = [f"  for example ({e.probe}, {e.dtype}): {given}"]
        for name, said in (("a", e.a), ("b", e.b)):
            if "raises" in said:
                lines.append(f"    {name} raises {said['raises']}")
                continue
            slopes = ", ".join(f"{n} {_brief(g, 60)}" for n, g in said["gradients"].items())
            rest = f"; gradient in {slopes}" if slopes else ""
            lines.append(f"    {name}: {_brief(said['value'])}{rest}")
        return lines

    def _rest(self) -> list[str]:
        """The lines after the causes: the example, what was probed, the notes."""
        lines = []
        if self.example is not None:
            e = self.example
            lines.append(f"  for example ({e.probe}, {e.dtype}):")
            rows = [("", n, x) for n, x in (*e.inputs.items(), *e.beside.items())]
            for prefix, n, x in (*rows, *(("for b, ", n, x) for n, x in e.others.items())):
                shape = f" of shape {e.shapes[n]}" if n in e.shapes else ""
                lines.append(f"    {prefix}{n} = {_whole(x)}{shape}")
            for name, said in (("a", e.a), ("b", e.b), ("exactly", e.exact)):
                if said is None:
                    continue
                if "raises" in said:
                    lines.append(f"    {name} raises {said['raises']}")
                    continue
                gradients = ", ".join(f"{n} {_brief(g)}" for n, g in said["gradients"].items())
                lines.append(
                    f"    {name}: {_brief(said['value'])}"
                    + (f"; gradient in {gradients}" if gradients else "")
                )
        lines += [f"  probed: {', '.join(self.probed)}"] if self.probed else []
        lines += [f"  not probed: {x}" for x in self.not_probed]
        lines += [f"  left out: {x}" for x in self.left_out]
        lines += [f"  note: {x}" for x in self.notes]
        return lines

    def _says(self) -> str:
        if self.factor is not None:
            return f"b is {self.factor:.10g} times a"
        return VERDICTS[self.verdict]

    def to_markdown(self) -> str:
        """The comparison as a section of a Markdown page."""
        lines = [f"### `{self.a}` and `{self.b}`", "", f"**{self.verdict}**: {self._says()}.", ""]
        for cause in self.causes:
            lines.append(f"- {cause.text}" + (f" ({cause.fix})" if cause.fix else ""))
        if self.example is not None:
            lines += ["", "```text", *self._rest(), "```"]
        return "\n".join(map(_printable, lines)) + "\n"

    def raise_if_different(self) -> Comparison:
        """Itself, if the verdict is ``same``; otherwise raises :class:`AssertionError`.

        Also where an input changes neither side, so that nothing was learnt about it, unless the
        comparison was told to ignore it.
        """
        if self.verdict != "same":
            raise AssertionError(str(self))
        if self.without_effect:
            names = ", ".join(map(repr, self.without_effect))
            raise AssertionError(
                f"{self}\n  no probe is changed by {names} on either side; if that is meant, pass "
                f"ignore=({names},)"
            )
        return self


def _printable(line: str) -> str:
    """One line, with what a stranger's record or an error may hold beside letters escaped."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _whole(x: Any) -> str:
    """An input in all its digits, so that it can be typed in; --json has what is cut here."""
    text = "[" + ", ".join(map(_whole, x)) + "]" if isinstance(x, list) else str(x)
    return text if len(text) <= MOST else text[: MOST - 3] + "..."


MOST: Final = 800
LINES: Final = 12
NOTICED: Final = ("predictions of shape",)
"""How notes begin that say more of a comparison than of a built-in."""


def _brief(x: Any, most: int = 160) -> str:
    if isinstance(x, float):
        return f"{x:.9g}"
    if isinstance(x, list):
        text = "[" + ", ".join(_brief(item, most) for item in x) + "]"
        return text if len(text) <= most else text[: most - 3] + "..."
    return str(x)
