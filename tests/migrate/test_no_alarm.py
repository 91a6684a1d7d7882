"""No false alarm: what is exactly equivalent comes out the same, on every probe.

Every witness is compared with our own ``native`` of it on each platform, and every two built-ins
whose meanings are one graph with each other. Where the original itself cannot give what it means,
the probes are listed here with the reason, and must differ: there and nowhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from lossbridge.migrate import alignment
from lossbridge.migrate.judge import compare
from lossbridge.migrate.pairs import Pair, pair, pairs_of
from lossbridge.migrate.probes import seen, sequence_probes
from lossbridge.migrate.sides import PLATFORMS, Side, side
from lossbridge.plan import Options, plan
from lossbridge.versions import within
from lossbridge.witnesses import witnesses

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deprecated", "ignore:size_average and reduce", "ignore:reduction. 'mean' divides"
)

MASKED = {"a NaN masked": "a mask multiplies there, and selects here"}
MASKED_BY_KERAS = (
    {"a sample masked": "before 3.13 the count of a mask plus 1e-7 divides there"}
    if within(version("keras"), "<3.13")
    else {}
)
ROUNDED_LOG_2 = "log 2 is rounded to float32 there: the value is 1.9e-9 too small"
ROUNDED_CLIP = "1 - 1e-7 is rounded there before its distance from 1 is taken: 5 % of epsilon"
LOST = "inf times 0 is computed there"
UNPAIRED = "a NaN shows there in the mean of samples that have no pair; here such are left out"
DIFFERS: dict[str, dict[str, str]] = {
    "torch.nn.BCELoss": {"one NaN": "an error there"},
    "torch.nn.SoftMarginLoss": {
        "saturated at 1000": "exp(1000) overflows there",
        "saturated at 100, in float32": "exp(100) overflows there in float32",
    },
    "keras.losses.LogCosh": {
        **dict.fromkeys(("ties", "near ties", "zeros"), ROUNDED_LOG_2),
        **dict.fromkeys(("at a distance of 0.5", "at a distance of -0.5"), ROUNDED_LOG_2),
        "inside 1, the first anew": ROUNDED_LOG_2,  # where an error is small by chance
        **dict.fromkeys(
            ("one -inf, labelled", "one -inf, not labelled"), "-inf + inf is computed there"
        ),
    },
    "keras.losses.BinaryCrossentropy": {"saturated at 100, in float32": ROUNDED_CLIP},
    "keras.losses.BinaryFocalCrossentropy": {"saturated at 100, in float32": ROUNDED_CLIP},
    "keras.losses.CategoricalHinge": {"empty": "an error there"},
    "keras.losses.Circle": {"one NaN": UNPAIRED},
    "optax.losses.sigmoid_binary_cross_entropy": dict.fromkeys(
        ("one inf, labelled", "one -inf, not labelled"), LOST
    ),
    "optax.losses.sigmoid_focal_loss": dict.fromkeys(
        ("one inf, labelled", "one -inf, not labelled"), LOST
    ),
    "optax.losses.multiclass_sparsemax_loss": {"one inf, labelled": LOST},
    "optax.losses.ntxent": {"one NaN": UNPAIRED, "empty": "an error there"},
}
# Beside these, where a platform makes subnormal numbers 0.
FLUSHED = {
    "torch.nn.BCELoss": {
        "saturated at 100, in float32": "1 - p is 3.8e-44, whose logarithm is not yet the floor"
    },
}
UNABLE = {
    "torch.nn.LinearCrossEntropyLoss": "has weights of its own",
    "optax.losses.make_fenchel_young_loss": "needs functions of yours",
}
FAST = (
    "torch.nn.HuberLoss", "torch.nn.CrossEntropyLoss", "torch.nn.BCELoss", "torch.nn.KLDivLoss",
    "torch.nn.TripletMarginLoss", "torch.nn.MultiLabelMarginLoss", "torch.nn.SoftMarginLoss",
    "torch.nn.CTCLoss", "keras.losses.Tversky", "keras.losses.SparseCategoricalCrossentropy",
    "keras.losses.LogCosh", "optax.losses.huber_loss",
)  # fmt: skip


def example(name: str) -> str:
    required = witnesses()[name][-1].required
    return ", ".join(f"{key}={value!r}" for key, value in required.items())


@lru_cache(maxsize=3)
def original(name: str) -> Side:
    return side(f"{name}({example(name)})")


def every(a: Side, b: Side) -> Iterator[Pair]:
    """Both sides on every probe that each of them can be asked."""
    for x, y in alignment.overloads_of(a, b):
        joint = alignment.joint_domains(x.signature, y.signature)
        if x.signature.sequence:
            left, right = (alignment.in_domains(s.signature, joint) for s in (x, y))
            for probe in sequence_probes(len(x.signature.inputs) > 2):
                yield pair(x, y, probe, seen(probe, left), seen(probe, right), joint)
            continue
        for rank in alignment.ranks_of(x.signature, y.signature):
            weighted = x.takes_weights and y.takes_weights
            found = list(pairs_of(x, y, joint, (rank,), weighted))
            # Shapes that the original refuses are not its business.
            if not all(p.a.raised for p in found if p.probe.group == "inside"):
                yield from found


def differing(pairs: list[Pair]) -> set[str]:
    """The names of the probes that tell the sides apart; what one does not take is not probed."""
    unprobed = ("precision", "weights", "masks")
    return {
        p.probe.id.partition("/")[2]
        for p in pairs
        if p.status != "equal"
        and not p.a.missing  # memory that nobody wrote
        and not (
            p.status == "raises"
            and (p.probe.group in unprobed or p.probe.id.endswith("in float32"))
        )
    }


NAMES = [
    pytest.param(name, platform, marks=() if fast else pytest.mark.slow, id=f"{name} in {platform}")
    for name in witnesses()
    if name not in UNABLE
    for platform in PLATFORMS
    for fast in [name in FAST and platform == "torch"]
]


@pytest.mark.parametrize(("name", "platform"), NAMES)
def test_our_native_is_the_built_in_on_every_probe(name: str, platform: str) -> None:
    module = {"torch": "torch", "keras": "tensorflow", "optax": "optax"}
    for needed in (module[name.partition(".")[0]], module.get(platform, "jax")):
        pytest.importorskip(needed)
    arguments = witnesses()[name][-1].required
    ours = side(import_module(f"lossbridge.{platform}").native(name, **arguments))
    pairs = list(every(original(name), ours))
    assert len(pairs) > 5
    assert any(p.finite for p in pairs)
    wanted = set(DIFFERS.get(name, {})) | set(FLUSHED.get(name, {}) if platform != "torch" else ())
    # In the circle loss a NaN is in every sample's pairs, masked or not.
    if any(p.probe.group == "masks" and not p.b.raised for p in pairs) and "Circle" not in name:
        wanted |= set(MASKED_BY_KERAS if name.startswith("keras.") else MASKED)
    found = differing(pairs)
    assert found == wanted, [
        (p.probe.id, p.status, p.where, p.a.error or p.a.value, p.b.error or p.b.value)
        for p in pairs
        if p.probe.id.partition("/")[2] in found ^ wanted
    ]


def test_reasons_are_given() -> None:
    for probes in (MASKED_BY_KERAS, *DIFFERS.values(), *FLUSHED.values()):
        assert all(probes.values())
    assert set(DIFFERS) | set(UNABLE) <= set(witnesses())


@pytest.mark.parametrize("name", UNABLE)
def test_what_cannot_be_probed_is_undecided(name: str) -> None:
    pytest.importorskip({"torch": "torch", "optax": "optax"}[name.partition(".")[0]])
    found = compare(original(name), original(name))
    assert found.verdict == "undecided"
    assert UNABLE[name] in found.notes[0]


# --- two built-ins of one meaning ----------------------------------------------------------------

SETTINGS = (
    {},
    {"reduction": "sum"},
    {"delta": 1.5},
    {"margin": 0.5},
    {"log_target": True},
    {"log_target": True, "reduction": "batchmean"},
    {"from_logits": True},
    {"reduction": "none"},
    {"axis": 0},
    {"epsilon": 0.5},
    {"beta": 0.0},
)


def graph_of(name: str, settings: dict[str, Any]) -> tuple[Any, ...] | None:
    """The canonical form of a built-in with these settings; None where it takes them not."""
    witness = witnesses()[name][-1]
    if not set(settings) <= set(witness.signature.parameters) or name in UNABLE:
        return None
    spec = witness.meaning(**{**witness.required, **settings}).spec
    how = spec.reduction
    options = Options(
        "mean" if how.kind == "none" else how.kind,  # which comparing does
        "elements" if how.kind == "none" else how.normalizer,
    )
    values = spec.bind()
    numbers = tuple((n, v) for n, v in values.items() if not np.ndim(v))
    kinds = tuple(str(k) for k in spec.inputs.values())
    graph = plan(spec, numbers, options).written
    return (kinds, spec.axis, graph.nodes, graph.outputs)


def of_one_meaning() -> Iterator[tuple[str, str]]:
    found: dict[Any, list[str]] = {}
    for name in witnesses():
        for settings in SETTINGS:
            graph = graph_of(name, dict(settings))
            if graph is not None:
                given = {**witnesses()[name][-1].required, **settings}
                text = ", ".join(f"{k}={v!r}" for k, v in given.items())
                found.setdefault(graph, []).append(f"{name}({text})")
    for texts in found.values():
        yield from itertools.combinations(texts, 2)


ONE_MEANING = list(of_one_meaning())


def test_there_are_pairs_of_one_meaning_across_frameworks() -> None:
    across = [p for p in ONE_MEANING if len({t.partition(".")[0] for t in p}) == 2]
    assert len(across) >= 5
    assert ("torch.nn.MSELoss()", "optax.losses.squared_error()") in across


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(
            a, b, marks=() if {t[:5] for t in (a, b)} == {"torch"} else pytest.mark.slow,
            id=f"{a} and {b}",
        )
        for a, b in ONE_MEANING
    ],
)  # fmt: skip
def test_built_ins_of_one_meaning_are_the_same(a: str, b: str) -> None:
    for text in (a, b):
        head = text.partition(".")[0]
        pytest.importorskip({"torch": "torch", "keras": "tensorflow"}.get(head, "optax"))
    found = compare(a, b, profile="strict")
    if found.verdict == "edges_differ" and "reduction" in a + b:
        # A sum of one number is its mean, but not with weights; and how to average what a mask
        # leaves is ours, where a side gives no mean itself.
        weighed = ("reduction is", "a mask (", "sample weights (")
        assert all(c.text.startswith(weighed) for c in found.causes), str(found)
    else:
        assert found.verdict == "same", str(found)
