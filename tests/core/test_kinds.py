"""The notation of kinds reads and prints the same, and states the right domains."""

from __future__ import annotations

import math
import random

import pytest

from lossbridge.errors import LossbridgeError, SpecError
from lossbridge.kinds import KINDS, Kind, format_signature, parse_signature

TEXTS = [
    "real",
    "flag",
    "real[*batch, classes]",
    "index(classes)[*batch]",
    "simplex(classes)[*batch, classes]",
    "unit(features)[batch, features]",
    "log_probability[time, batch, classes]",
    "maps[batch]",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trip(text: str) -> None:
    assert str(Kind.parse(text)) == text
    assert Kind.parse(str(Kind.parse(text))) == Kind.parse(text)


def test_spaces_do_not_matter_except_in_names() -> None:
    assert Kind.parse(" index ( classes )[ * batch,time ] ") == Kind(
        "index", "classes", ("*batch", "time")
    )
    with pytest.raises(SpecError):
        Kind.parse("re al")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "kind_syntax"),
        ("[batch]", "kind_syntax"),
        ("real[]", "kind_syntax"),
        ("real[batch", "kind_syntax"),
        ("real[batch,]", "kind_syntax"),
        ("real[,batch]", "kind_syntax"),
        ("real[**batch]", "kind_syntax"),
        ("real[batch][time]", "kind_syntax"),
        ("real[1]", "kind_syntax"),
        ("real\n", "kind_syntax"),
        ("real[\u00b5]", "kind_syntax"),
        ("index(*batch)", "kind_syntax"),
        ("float[batch]", "unknown_kind"),
        ("Real", "unknown_kind"),
        ("real[__class__]", "name"),
        ("real[lambda]", "name"),
        ("real[" + "a" * 65 + "]", "name"),
        ("real[v0]", "reserved_name"),
        ("real[scan]", "reserved_name"),
        ("real[a, a]", "duplicate_axis"),
        ("real[a, *a]", "duplicate_axis"),
        ("real[*a, *b]", "two_stars"),
        ("index", "kind_axis"),
        ("real(classes)", "kind_axis"),
        ("simplex(classes)", "kind_axis"),
        ("unit(a)[b]", "kind_axis"),
        ("index(a)[a]", "kind_axis"),
        ("real[" + ", ".join(f"a{k}" for k in range(17)) + "]", "rank"),
        ("real" + " " * 5000, "too_long"),
    ],
)
def test_bad_kinds_are_refused(text: str, code: str) -> None:
    with pytest.raises(SpecError) as caught:
        Kind.parse(text)
    assert (caught.value.phase, caught.value.code) == ("schema", code)
    assert str(caught.value).isascii()


def test_the_limits_themselves_are_allowed() -> None:
    axes = ", ".join(f"a{k}" for k in range(16))
    assert len(Kind.parse(f"real[{axes}]").axes) == 16
    assert Kind.parse(f"real[{'a' * 64}]").axes == ("a" * 64,)


def test_a_kind_made_in_python_meets_the_same_checks() -> None:
    for arguments in (("real", "classes"), ("real", None, ("a", "a")), ("index",), ("float",)):
        with pytest.raises(SpecError):
            Kind(*arguments)
    with pytest.raises(SpecError):
        Kind("real", None, ["batch"])  # type: ignore[arg-type]


def test_message_offers_the_nearest_kind() -> None:
    with pytest.raises(SpecError, match=r"did you mean probability\?"):
        Kind.parse("probabilty")


def some(name: str) -> Kind:
    """A kind of this name with as few axes as it can have."""
    needs = {
        "index": ("classes", ()),
        "length": ("a", ()),
        "simplex": ("a", ("a",)),
        "unit": ("a", ("a",)),
    }
    return Kind(name, *needs.get(name, (None, ())))


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("real", [0, -1.5, 1e308], [math.inf, -math.inf]),
        ("positive", [5e-324, 1], [0, -1, math.inf]),
        ("non_negative", [0, -0.0, 1e308], [-5e-324, math.inf]),
        ("probability", [0, 0.5, 1], [-0.1, 1.0000000000000002]),
        ("log_probability", [0, -1, -math.inf], [5e-324]),
        ("simplex", [0, 1], [1.5]),
        ("unit", [-1, 0.3, 1], [1.5, -1.5]),
        ("index", [0, 7, 2.0], [-1, 0.5, math.inf]),
        ("length", [0, 7, 2.0], [-1, 0.5, math.inf]),
        ("integer", [-100, 0, 3.0], [0.5, math.inf]),
        ("binary", [0, 1, 1.0], [0.5, -1]),
        ("sign", [-1, 1.0], [0, 0.5]),
        ("flag", [True, False], [0, 1, 0.5]),
        ("mask", [True, False], [0, 1]),
    ],
)
def test_domain(name: str, inside: list[object], outside: list[object]) -> None:
    kind = some(name)
    assert all(value in kind for value in inside)
    assert not any(value in kind for value in [*outside, math.nan, "1", None])
    assert kind.dtype == "bool" or True not in kind
    lo, hi, lo_open, hi_open = kind.interval
    assert lo <= hi
    assert (lo in kind.interval) is not lo_open
    assert (hi in kind.interval) is not hi_open
    for value in inside:
        assert value in kind.interval


def test_integers_beyond_floats_are_no_error() -> None:
    assert 10**400 in Kind("real").interval
    assert -(10**400) not in Kind("positive")


def test_dtypes() -> None:
    dtypes = {name: some(name).dtype for name in KINDS}
    assert {name for name, dtype in dtypes.items() if dtype == "int"} == {
        *("index", "length", "integer"),
    }
    assert {name for name, dtype in dtypes.items() if dtype == "bool"} == {"mask", "flag"}
    assert set(dtypes.values()) == {"real", "int", "bool"}


@pytest.mark.parametrize(
    "text",
    [
        "() -> real",
        "(real[batch, *features]) -> real[batch]",
        "(real[batch], index(classes)[batch], simplex(classes)[batch, classes]) -> maps[batch]",
    ],
)
def test_signature_round_trip(text: str) -> None:
    assert format_signature(*parse_signature(text)) == text


@pytest.mark.parametrize("text", ["", "real", "(real)", "(real) ->", "(real,) -> real", "-> real"])
def test_bad_signatures_are_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_signature(text)
    assert caught.value.code == "kind_syntax"


def test_random_text_is_a_kind_or_a_typed_error() -> None:
    rng = random.Random(0)
    pieces = [
        "real",
        "index",
        "(",
        ")",
        "[",
        "]",
        ",",
        "*",
        "batch",
        "classes",
        " ",
        "->",
        "\u00e9",
    ]
    accepted = 0
    for _ in range(5000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(8)))
        try:
            kind = Kind.parse(text)
        except LossbridgeError:
            continue
        accepted += 1
        assert Kind.parse(str(kind)) == kind
    assert accepted > 50, "too few of the texts were kinds for this test to mean anything"
