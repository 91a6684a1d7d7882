"""What the mean of a loss divides by: one row for each normaliser.

The graph's reduction is built from these rows, the documentation's table is written from them, and
a test measures each of them on every platform.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Divisor:
    """What one normaliser divides the sum of the values by.

    ``over`` says where the divisor comes from: a sum over the ``values``, the length of the leading
    axis (``batch``), or the call (``given``). In a sum over the values each contributes 1, or what
    the loss says that it ``counts`` for: that (``sum``), or 1 where that is above 0 (``positive``);
    with ``each`` it contributes 1, but is itself divided by its count first. Then
    ``sample_weight`` multiplies what each contributes, and ``mask`` leaves values out.
    """

    says: str
    over: str = "values"
    count: str = ""
    sample_weight: bool = False
    mask: bool = True

    @property
    def class_weights(self) -> bool:
        """Whether class weights, which are part of the count of a labelled sample, enter it."""
        return self.count == "sum"

    @property
    def ignored(self) -> bool:
        """Whether samples whose label is ignored, and which so count for 0, are left out of it."""
        return self.count in ("sum", "positive")


DIVISORS: Final[Mapping[str, Divisor]] = {
    "elements": Divisor("the number of values"),
    "batch": Divisor("the length of the leading axis", over="batch", mask=False),
    "counts": Divisor(
        "the sum of what each value counts for: its label's class weight, 0 for an ignored label, "
        "and 1 where the loss has no such thing",
        count="sum",
    ),
    "weights": Divisor(
        "the sum of what each value counts for, times its sample weight",
        count="sum",
        sample_weight=True,
    ),
    "valid": Divisor("the number of values that count for more than 0", count="positive"),
    "target_length": Divisor(
        "the number of values, each divided by its own count (of CTC, its target's length) first",
        count="each",
    ),
    "external": Divisor("`normalizer_count=` of the call", over="given", mask=False),
}


def table() -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| `normalizer=` | divides by | sample weights enter | a mask leaves values out | "
        "class weights enter | ignored labels are left out |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in DIVISORS.items():
        facts = (row.sample_weight, row.mask, row.class_weights, row.ignored)
        cells = ["yes" if fact else "no" for fact in facts]
        lines.append(f"| `{name}` | {row.says} | {' | '.join(cells)} |")
    return "\n".join(lines)
