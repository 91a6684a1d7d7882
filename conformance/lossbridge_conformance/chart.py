"""Drawings for the report, as plain coordinates that the template turns into SVG.

Nothing here writes markup: numbers become path strings, texts stay texts and are escaped where
they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lossbridge_conformance.results import (
    DTYPE_ORDER,
    FAILING,
    MODE_ORDER,
    PLATFORM_ORDER,
    Cell,
    Curve,
    Row,
    Run,
    place,
)

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 26
POINTS = 160  # per line; more cannot be seen at this size and would make the page heavy

NONE = "\N{EN DASH}"  # where there is nothing to say

CONTROL = "control:"
REFERENCE = "reference"  # the platform name of the float64 run without a framework


@dataclass(frozen=True)
class Tick:
    """A position on an axis and what stands beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Stroke:
    """One line of a panel."""

    path: str
    style: str
    label: str


@dataclass(frozen=True)
class Panel:
    """One drawing: a data set, a loss and an optimiser."""

    key: str
    dataset: str
    loss: str
    optimizer: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    strokes: Sequence[Stroke]
    legend: Sequence[tuple[str, str]]
    threshold: float | None
    threshold_text: str
    marks: Sequence[tuple[float, str]]
    note: str
    description: str


def _grouped(runs: Sequence[Run]) -> dict[tuple[str, str, str], list[Run]]:
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        curve = run.curve
        groups.setdefault((curve.dataset, curve.loss, curve.optimizer), []).append(run)
    return groups


def label_order(label: str) -> tuple[int, str]:
    """Platforms in their order, each followed by its other versions."""
    return (place(label.split(" ")[0], PLATFORM_ORDER)[0], label)


def platform_style(label: str) -> str:
    """The style class of a platform's line; strangers share one."""
    name = label.split(" ")[0]
    return name if name in (*PLATFORM_ORDER, REFERENCE) else "other"


def panels(runs: Sequence[Run]) -> list[Panel]:
    """One panel for every data set, loss and optimiser."""
    return [
        _panel(f"curve-{number}", key, group)
        for number, (key, group) in enumerate(sorted(_grouped(runs).items()))
    ]


def _drawn(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _panel(key: str, names: tuple[str, str, str], runs: Sequence[Run]) -> Panel:
    main = [run for run in runs if not run.curve.track.startswith(CONTROL)]
    # Controls may wander far; the scale belongs to the curves that are being compared.
    scaled = [run for run in main if run.curve.track == "aligned"] or main or list(runs)
    values = [v for run in scaled for v in run.curve.values if _drawn(v)]
    thresholds = [t for run in scaled if (t := run.curve.threshold) is not None and _drawn(t)]
    low, high = min([*values, *thresholds], default=0.1), max([*values, *thresholds], default=1.0)
    bottom, top = math.log10(low) - 0.02, math.log10(high) + 0.02
    if top - bottom < 0.2:
        bottom, top = bottom - 0.1, top + 0.1
    last = max((run.curve.every * (len(run.curve.values) - 1) for run in scaled), default=1)
    last = max(last, 1)

    def across(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def up(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (top - math.log10(value)) / (top - bottom)

    ordered = sorted(
        runs, key=lambda run: (-_layer(run.curve), label_order(run.label), str(run.curve.variant))
    )
    strokes, aligned = [], 0
    for run in ordered:
        style = _stroke_style(run)
        if run.curve.track == "aligned" and run.label != REFERENCE:
            # Equal curves cover each other: each next one has longer gaps, so that all can be seen.
            style += f" nest{min(aligned, 3)}"
            aligned += 1
        variant = f" {run.curve.variant}" if run.curve.variant != "" else ""
        strokes.append(
            Stroke(
                path=_path(run.curve, across, up),
                style=style,
                label=f"{run.label}, {run.curve.track}{variant}: {_iterations(run.curve)}",
            )
        )
    tracks = {run.curve.track for run in runs}
    labels = sorted({run.label for run in main}, key=label_order)
    legend = [(platform_style(label), label) for label in labels]
    if any(track.startswith("defaults") for track in tracks):
        legend.append(("dashed", "framework defaults"))
    if any(track.startswith(CONTROL) for track in tracks):
        legend.append(("control", "controls"))
    marks = [
        (across(run.curve.iterations), platform_style(run.label))
        for run in scaled
        if run.curve.iterations is not None and run.curve.iterations <= last
    ]
    notes = dict.fromkeys(f"{run.label}: {run.curve.note}" for run in runs if run.curve.note)
    reached = ", ".join(
        f"{run.label} {_iterations(run.curve)}" for run in scaled if run.label != REFERENCE
    )
    threshold = thresholds[0] if thresholds else None
    return Panel(
        key=key,
        dataset=names[0],
        loss=names[1],
        optimizer=names[2],
        x_ticks=[Tick(across(step), f"{step:g}") for step in _round_steps(last)],
        y_ticks=[Tick(up(value), _power(value)) for value in _log_ticks(bottom, top)],
        strokes=strokes,
        legend=legend,
        threshold=None if threshold is None else up(threshold),
        threshold_text="" if threshold is None else f"{threshold:g}",
        marks=marks,
        note="; ".join(list(notes)[:6]),
        description=f"Training loss on {names[0]} with {names[1]} and {names[2]}: {reached}",
    )


def _layer(curve: Curve) -> int:
    if curve.track.startswith(CONTROL):
        return 3
    if curve.platform == REFERENCE:
        return 0
    return 1 if curve.track == "aligned" else 2


def _stroke_style(run: Run) -> str:
    if run.curve.track.startswith(CONTROL):
        return "control"
    style = platform_style(run.label)
    return style if run.curve.track == "aligned" else f"{style} dashed"


def _iterations(curve: Curve) -> str:
    return "never" if curve.iterations is None else str(curve.iterations)


def _path(curve: Curve, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """The line as SVG path data; a value that no logarithm has interrupts it."""
    stride = max(1, math.ceil(len(curve.values) / POINTS))
    kept = list(range(0, len(curve.values), stride))
    if curve.values and kept[-1] != len(curve.values) - 1:
        kept.append(len(curve.values) - 1)
    parts, pen = [], "M"
    for number in kept:
        value = curve.values[number]
        if not _drawn(value):
            pen = "M"
            continue
        height = min(max(up(value), -HEIGHT), 2 * HEIGHT)
        parts.append(f"{pen}{across(number * curve.every):.1f} {height:.1f}")
        pen = "L"
    return "".join(parts)


def _round_steps(last: int) -> list[float]:
    rough = last / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= rough)
    return [number * step for number in range(int(last / step) + 1)]


def _log_ticks(bottom: float, top: float) -> list[float]:
    """Powers of ten; with 2 and 5 between where there are few, and finer still where one."""
    decades = range(math.floor(bottom), math.ceil(top) + 1)
    for factors in (
        (1,),
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 6, 8),
        tuple(1 + k / 10 for k in range(90)),
    ):
        found = [
            factor * 10.0**decade
            for decade in decades
            for factor in factors
            if bottom <= math.log10(factor * 10.0**decade) <= top
        ]
        if len(found) >= 3:
            break
    return found[:: max(1, math.ceil(len(found) / 6))]


def _power(value: float) -> str:
    return f"{value:.2g}" if 1e-3 <= value < 1e4 else f"{value:.0e}".replace("e-0", "e-")


# --- Iterations to threshold --------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingRow:
    """Iterations to threshold of one data set, loss and optimiser."""

    dataset: str
    loss: str
    optimizer: str
    threshold: str
    aligned: Mapping[str, str]
    spread: str
    allowed: str
    status: str
    defaults: Mapping[str, Mapping[str, str]]
    default_spread: Mapping[str, str]
    controls: Mapping[str, str]


@dataclass(frozen=True)
class TrainingTable:
    """All rows, with the columns they have in common."""

    labels: Sequence[str]
    defaults: Sequence[str]
    controls: Sequence[str]
    rows: Sequence[TrainingRow]


def training_table(runs: Sequence[Run], cells: Sequence[Row]) -> TrainingTable:
    """Counts, spread and controls; the verdict is the convergence cell's, where there is one."""
    tracks = sorted({run.curve.track for run in runs})
    verdicts: dict[tuple[str, str, str], Cell] = {}
    for row in cells:
        for name in (row.cell.loss, row.cell.class_):
            verdicts[row.cell.stratum, name, row.cell.mode] = row.cell
    default_tracks = [track for track in tracks if track.startswith("defaults")]
    control_tracks = [track for track in tracks if track.startswith(CONTROL)]
    rows = []
    for key, group in sorted(_grouped(runs).items()):
        aligned = _by_label(group, "aligned")
        verdict = verdicts.get(key)
        bound = None if verdict is None else verdict.bound
        thresholds = [run.curve.threshold for run in group if run.curve.threshold is not None]
        rows.append(
            TrainingRow(
                dataset=key[0],
                loss=key[1],
                optimizer=key[2],
                threshold=f"{thresholds[0]:g}" if thresholds else NONE,
                aligned={label: _iterations(curve) for label, curve in aligned.items()},
                spread=_spread(aligned),
                allowed=NONE if bound is None else f"{bound:g}",
                status="" if verdict is None else verdict.status,
                defaults={
                    track: {
                        label: _iterations(curve)
                        for label, curve in _by_label(group, track).items()
                    }
                    for track in default_tracks
                },
                default_spread={
                    track: _spread(_by_label(group, track)) for track in default_tracks
                },
                controls={track: _control(group, aligned, track) for track in control_tracks},
            )
        )
    labels = sorted(
        {run.label for run in runs if run.curve.track in {"aligned", *default_tracks}},
        key=label_order,
    )
    return TrainingTable(labels=labels, defaults=default_tracks, controls=control_tracks, rows=rows)


def _by_label(runs: Sequence[Run], track: str) -> dict[str, Curve]:
    return {run.label: run.curve for run in runs if run.curve.track == track}


def _spread(curves: Mapping[str, Curve]) -> str:
    """How far apart the platforms are; the reference stands beside them, not among them."""
    counts = [curve.iterations for label, curve in curves.items() if label != REFERENCE]
    return _apart(counts)


def _apart(counts: Sequence[int | None]) -> str:
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return "not all reach it" if known else "never reached"
    if len(known) < 2:
        return NONE
    apart = max(known) - min(known)
    share = f" ({100 * apart / min(known):.1f} %)" if min(known) else ""
    return f"{apart}{share}"


def _control(runs: Sequence[Run], aligned: Mapping[str, Curve], track: str) -> str:
    """The widest spread that one platform shows when only the control is varied."""
    widest: tuple[float, str] = (-1.0, NONE)
    for label in {run.label for run in runs if run.curve.track == track}:
        counts = [r.curve.iterations for r in runs if r.label == label and r.curve.track == track]
        if label in aligned:
            counts.append(aligned[label].iterations)
        known = [count for count in counts if count is not None]
        text = _apart(counts)
        width = math.inf if len(known) < len(counts) else float(max(known) - min(known))
        widest = max(widest, (width, text))
    return widest[1]


# --- Where the error is -------------------------------------------------------------------------

STRIP_LEFT, STRIP_WIDTH, STRIP_ROW, STRIP_TOP = 190, 620, 24, 18
BIN = 0.25


@dataclass(frozen=True)
class Bar:
    """Cells whose error falls into one bin."""

    x: float
    y: float
    width: float
    height: float
    strength: float
    look: str
    label: str


@dataclass(frozen=True)
class Strip:
    """One line of the error map: an environment, mode and dtype; value above, gradient below."""

    y: float
    label: str
    dtype: str
    bars: Sequence[Bar]
    bounds: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Strips:
    """The error map: how many cells have which judged error."""

    width: float
    height: float
    ticks: Sequence[Tick]
    strips: Sequence[Strip]


def strips(rows: Sequence[Row]) -> Strips | None:
    """Where the judged errors lie, for every environment, mode and dtype."""
    quantities = ("value", "gradient")
    judged = [
        row
        for row in rows
        if row.cell.quantity in quantities and row.cell.bits is not None
        if not math.isnan(row.cell.bits)
    ]
    if not judged:
        return None
    bounds = [row.cell.bound for row in judged if row.cell.bound is not None]
    limit = 2.0 * max((b for b in bounds if math.isfinite(b)), default=4.0)
    limit = min(max(limit, 4.0), 64.0)

    def across(bits: float) -> float:
        return STRIP_LEFT + STRIP_WIDTH * min(max(bits, 0.0), limit) / limit

    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for row in judged:
        groups.setdefault((row.label, row.cell.mode, row.cell.dtype), []).append(row.cell)
    order = sorted(
        groups,
        key=lambda key: (
            label_order(key[0]), place(key[1], MODE_ORDER), place(key[2], DTYPE_ORDER)
        ),
    )  # fmt: skip
    made = []
    for number, key in enumerate(order):
        y = STRIP_TOP + number * STRIP_ROW
        bars: list[Bar] = []
        ends: list[tuple[float, float]] = []
        for half, quantity in enumerate(quantities):
            cells = [cell for cell in groups[key] if cell.quantity == quantity]
            top = y + 2 + half * (STRIP_ROW - 4) / 2
            bars += _bars(cells, quantity, top, limit, across)
            allowed = [c.bound for c in cells if c.bound is not None and math.isfinite(c.bound)]
            if allowed:
                ends.append((across(max(allowed)), top))
        made.append(Strip(y, " ".join(part for part in key[:2] if part), key[2], bars, ends))
    ticks = [Tick(across(bits), f"{bits:g}") for bits in _round_steps(math.ceil(limit))]
    return Strips(
        width=STRIP_LEFT + STRIP_WIDTH + 30,
        height=STRIP_TOP + len(made) * STRIP_ROW + 6,
        ticks=ticks,
        strips=made,
    )


def _bars(
    cells: Sequence[Cell], quantity: str, top: float, limit: float, across: Callable[[float], float]
) -> list[Bar]:
    bins: dict[int, list[Cell]] = {}
    for cell in cells:
        bits = limit if cell.bits is None else min(max(cell.bits, 0.0), limit)
        bins.setdefault(int(bits / BIN), []).append(cell)
    most = max((len(held) for held in bins.values()), default=1)
    bars = []
    for number, held in sorted(bins.items()):
        start = number * BIN
        beyond = start >= limit
        statuses = {cell.status for cell in held}
        kind = "over" if statuses & FAILING else "marked" if "XFAIL" in statuses else "fill"
        name = f"{start:g} bits or more" if beyond else f"{start:g} to {start + BIN:g} bits"
        bars.append(
            Bar(
                x=across(start) + 0.5,
                y=top,
                width=STRIP_WIDTH * BIN / limit - 1,
                height=(STRIP_ROW - 4) / 2 - 1,
                # One failure among many cells must not be the faintest mark of the map.
                strength=1.0 if kind != "fill" else 0.35 + 0.65 * math.sqrt(len(held) / most),
                look=kind,
                label=f"{quantity}, {name}: {len(held)} cells",
            )
        )
    return bars
