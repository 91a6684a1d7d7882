"""Loading any bytes ends soon, with a valid specification or a typed error.

``vectors/hostile.json`` holds one document per kind of attack or slip, with the phase and the code
of the error it must give; the tests here only read it.
"""

from __future__ import annotations

import base64
import copy
import json
import math
import os
import pickle
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossbridge.errors import (
    PHASES,
    ArgumentError,
    DomainError,
    LossbridgeError,
    OutputError,
    SpecError,
)
from lossbridge.kinds import Kind
from lossbridge.ops import OPS
from lossbridge.schema import json_schema, write_schema
from lossbridge.spec import (
    Numerics,
    Param,
    Port,
    Reduction,
    Spec,
    Table,
    Weight,
    dump,
    dumps,
    load,
    loads,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "hostile.json").read_text("utf-8"))
SECONDS = 1.0  # of the processor, which a busy machine does not stretch


def document(vector: dict[str, Any]) -> bytes:
    """The bytes that a vector describes."""
    if "base64" in vector:
        return base64.b64decode(vector["base64"])
    if "text" in vector:
        return str(vector["text"]).encode("utf-8")
    if "repeat" in vector:
        middle = str(vector["repeat"]) * int(vector["times"])
        return f"{vector['before']}{middle}{vector['after']}".encode()
    data = copy.deepcopy(VECTORS["base"])
    for path, *value in vector["edit"]:
        place = data
        for key in path[:-1]:
            place = place.setdefault(key, {})
        if value:
            place[path[-1]] = value[0]
        else:
            del place[path[-1]]
    return json.dumps(data).encode("utf-8")


def base(**changes: Any) -> Spec:
    return loads(document({"edit": [[[key], value] for key, value in changes.items()]}))


def by_id(section: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[section], ids=lambda v: v["id"])


@by_id("hostile")
def test_hostile_bytes_give_the_stated_error_in_time(vector: dict[str, Any]) -> None:
    raw = document(vector)
    start = time.process_time()
    with pytest.raises(SpecError) as caught:
        loads(raw)
    assert time.process_time() - start < SECONDS
    assert (caught.value.phase, caught.value.code) == (vector["phase"], vector["code"])
    message = str(caught.value)
    assert message.isascii(), "an error must not carry a stranger's characters to a terminal"
    assert not re.search("[\x00-\x1f\x7f]", message)
    assert len(message) < 2000


def test_there_are_vectors_for_every_phase_of_loading() -> None:
    assert len(VECTORS["hostile"]) >= 60
    assert {v["phase"] for v in VECTORS["hostile"]} == set(PHASES) - {"compile"}


@by_id("valid")
def test_valid_document_survives_load_and_dump(vector: dict[str, Any]) -> None:
    spec = loads(document(vector))
    again = loads(dumps(spec))
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.hash == spec.hash
    assert dumps(again) == dumps(spec)
    assert loads(dumps(spec, indent=None)) == spec


@by_id("equal_hash")
def test_equal_meaning_has_an_equal_hash(vector: dict[str, Any]) -> None:
    assert len({loads(document(part)).hash for part in vector["specs"]}) == 1


@by_id("different_hash")
def test_different_meaning_has_different_hashes(vector: dict[str, Any]) -> None:
    first, second = (loads(document(part)) for part in vector["specs"])
    assert first.hash != second.hash
    assert first != second


def test_hash_of_a_specification_never_changes() -> None:
    # Fixtures and saved results name losses by this hash.
    assert base().hash == "ebd739b3ff3a5cc7a8b8628d376b2609ece1dc69e00f36dff87987da6b3f82b9"


# --- bytes --------------------------------------------------------------------------------------


def test_text_and_every_kind_of_bytes_are_read_alike() -> None:
    raw = document({"edit": []})
    forms: list[Any] = [raw, raw.decode(), bytearray(raw), memoryview(raw)]
    assert len({loads(form) for form in forms}) == 1


def test_text_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        loads('{"a": "\ud800"}')
    assert caught.value.code == "surrogate"


@pytest.mark.parametrize("data", [None, 1, {"lossbridge": 1}, Path("a.json")])
def test_other_types_are_refused(data: Any) -> None:
    with pytest.raises(SpecError) as caught:
        loads(data)
    assert caught.value.code == "wrong_type"


def mutations(raw: bytes, rng: random.Random) -> bytes:
    """One small change of the kind a fuzzer makes, biased to what the grammar cares about."""
    data = bytearray(raw)
    pieces = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u0000", b"\xff", b"1e999", b"-"]
    pieces += [b"*batch", b"classes", b"(", b")", b"**", b" = ", b"take(", b"true", b"null", b"@"]
    pieces += [b"scan(classes, c = 0, c + logits)", b"logits[k]", b"not ", b"rename(", b"0", b"inf"]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data))
        action = rng.randrange(4)
        if action == 0:
            data[at:at] = rng.choice(pieces)
        elif action == 1:
            del data[at : at + rng.randrange(1, 8)]
        elif action == 2:
            other = rng.randrange(len(data))
            data[at:at] = data[other : other + rng.randrange(1, 20)]
        else:
            data[at] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_documents_load_or_give_a_typed_error(seed: int) -> None:
    rng = random.Random(seed)
    raw = document({"edit": []})
    for _ in range(150):
        changed = mutations(raw, rng)
        start = time.process_time()
        try:
            spec = loads(changed)
        except LossbridgeError:
            pass
        else:
            assert loads(dumps(spec)) == spec
        assert time.process_time() - start < SECONDS, changed


NAMES = ["logits", "labels", "gamma", "p", "classes", "batch", "k", "0", "1.5", "true", "inf"]


def random_expression(rng: random.Random, depth: int) -> str:
    """Grammatical text whose meaning is mostly wrong: names, arities and axes at random."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(NAMES)

    def inner() -> str:
        return random_expression(rng, depth - 1)

    form = rng.randrange(7)
    if form == 0:
        return f"({inner()}) {rng.choice('+-*/<>')} ({inner()})"
    if form == 1:
        return f"-({inner()}) ** ({inner()})"
    if form == 2:
        return f"({inner()})[{rng.choice(('k', 'classes', 'batch', 'other'))}]"
    if form == 3:
        return f"scan({rng.choice(('classes', 'batch'))}, c = {inner()}, c + ({inner()}))"
    arguments = [rng.choice((inner(), "*batch", "classes")) for _ in range(rng.randrange(4))]
    return f"{rng.choice(sorted(OPS))}({', '.join(arguments)})"


@pytest.mark.parametrize("seed", range(8))
def test_grammatical_nonsense_gives_a_typed_error(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        lines = [f"p = {random_expression(rng, 3)}", f"value = {random_expression(rng, 3)}"]
        raw = document({"edit": [[["body"], lines]]})
        start = time.process_time()
        try:
            spec = loads(raw)
        except LossbridgeError:
            pass
        else:
            assert loads(dumps(spec)) == spec
        assert time.process_time() - start < SECONDS, lines


# --- files --------------------------------------------------------------------------------------


def test_file_round_trip(tmp_path: Path) -> None:
    spec = base()
    path = tmp_path / "focal.json"
    dump(spec, path)
    assert load(path) == spec
    assert path.read_text("utf-8") == dumps(spec)
    assert [p.name for p in tmp_path.iterdir()] == ["focal.json"]


def test_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "focal.json"
    path.write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        dump(base(), path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["focal.json"]


@pytest.mark.skipif(os.name != "posix", reason="pipes in the file system are POSIX")
def test_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert caught.value.code == "unreadable"


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, "a\0b"):
        with pytest.raises(SpecError) as caught:
            load(path)
        assert caught.value.code == "unreadable"


def test_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: takes no space, and could not be read
    with pytest.raises(SpecError) as caught:
        load(path)
    assert caught.value.code == "too_large"


# --- a specification as a value -----------------------------------------------------------------


def test_parts_of_the_identity() -> None:
    spec = base()
    assert (spec.id, spec.namespace, spec.name, spec.version) == (
        "acme/focal@1",
        "acme",
        "focal",
        1,
    )
    assert base(loss="focal@12").namespace is None


def test_specification_is_frozen_hashable_and_picklable() -> None:
    spec = base()
    with pytest.raises(AttributeError):
        spec.empty = "zero"  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.params["gamma"] = Param(Kind("real"))  # type: ignore[index]
    for twin in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), copy.copy(spec)):
        assert twin == spec
        assert twin.hash == spec.hash
    assert {spec: 1}[base()] == 1


def test_dump_writes_defaults_and_used_losses_out() -> None:
    inner = VECTORS["base"] | {"loss": "acme/inner@1"}
    spec = Spec(
        loss="acme/outer@1",
        inputs={"x": Kind.parse("real[*batch]")},
        body=("value = x",),
        yields="per_element",
        uses={"inner": loads(json.dumps(inner))},
    )
    data = json.loads(dumps(spec))
    assert data["reduction"] == {"kind": "mean", "normalizer": "elements"}
    assert data["numerics"]["accumulate"] == "at_least_float32"
    assert data["uses"]["inner"]["body"] == inner["body"]
    assert loads(dumps(spec)) == spec


def test_sharing_used_losses_cannot_double_the_size() -> None:
    def doubled(spec: Spec, level: int) -> Spec:
        return Spec(
            loss=f"acme/double{level}@1",
            inputs={"x": Kind.parse("real[*batch]")},
            body=("value = x",),
            yields="per_element",
            uses={"a": spec, "b": spec},
        )

    def grown(levels: int) -> Spec:
        spec = base()
        for level in range(levels):
            spec = doubled(spec, level)
        return spec

    assert grown(6).hash
    with pytest.raises(SpecError) as caught:
        grown(40)
    assert caught.value.code in {"uses_too_deep", "uses_too_large"}


def test_sign_of_zero_tells_params_and_weights_apart() -> None:
    assert Param(Kind("real"), 0.0) != Param(Kind("real"), -0.0)
    assert Param(Kind("real"), 1) == Param(Kind("real"), 1.0)
    assert hash(Param(Kind("real"), 1)) == hash(Param(Kind("real"), 1.0))
    assert Weight(Kind("real"), 0.0) != Weight(Kind("real"), -0.0)
    assert (
        math.copysign(
            1.0,
            loads(dumps(base(params={"gamma": {"kind": "real", "value": -0.0}}))).bind()["gamma"],
        )
        == -1.0
    )


def test_table_equality_sees_order_but_equals_a_dict() -> None:
    table = Table({"a": 1, "b": 2})
    assert table == {"b": 2, "a": 1}
    assert table != Table({"b": 2, "a": 1})
    assert list(table) == ["a", "b"]


def test_python_callers_meet_the_same_checks() -> None:
    kind = Kind.parse("real[*batch]")
    good: dict[str, Any] = {
        "loss": "acme/x@1",
        "inputs": {"x": kind},
        "body": ("value = x",),
        "yields": "per_element",
    }
    assert Spec(**good).hash
    for change in (
        {"inputs": {"x": "real[*batch]"}},
        {"inputs": ["x"]},
        {"body": "value = x"},
        {"step": 1},
        {"params": {"a": 1.0}},
        {"summary": "\ud800"},
        {"uses": {"a": "focal@1"}},
    ):
        with pytest.raises(SpecError):
            Spec(**good | change)
    with pytest.raises(SpecError):
        Reduction("average")
    with pytest.raises(SpecError):
        Numerics("at_least_float64", "at_least_float32")


def test_port_text_round_trip() -> None:
    text = "(real[batch, *features], real[batch]) -> maps[batch]"
    port = Port.parse(text)
    assert str(port) == text
    assert port.output == Kind("maps", None, ("batch",))


# --- binding parameters -------------------------------------------------------------------------


def test_bind_gives_defaults_and_takes_numbers() -> None:
    spec = base()
    assert spec.bind() == {"gamma": 2.0}
    for value in (3, 3.0, np.float32(3), np.int64(3)):
        bound = spec.bind(gamma=value)["gamma"]
        assert bound == 3.0
        assert type(bound) is float


def test_bind_passes_arrays_through_unread() -> None:
    array = np.array([1.0, -1.0])
    assert base().bind(gamma=array)["gamma"] is array


@pytest.mark.parametrize(
    "value",
    [-1.0, math.nan, math.inf, 10**400, -(10**5000)],
    ids=lambda v: "large" if abs(v) > 1e300 else str(v),
)
def test_bind_refuses_values_outside_the_domain(value: float) -> None:
    with pytest.raises(DomainError, match="gamma"):
        base().bind(gamma=value)


@pytest.mark.parametrize("value", ["2", True, [2.0], None, object()])
def test_bind_refuses_other_types(value: object) -> None:
    with pytest.raises(ArgumentError, match="gamma"):
        base().bind(gamma=value)


def test_bind_names_the_nearest_parameter() -> None:
    with pytest.raises(TypeError, match=r"did you mean gamma\?"):
        base().bind(gama=2.0)


def test_bind_demands_a_parameter_without_a_default() -> None:
    spec = base(params={"gamma": {"kind": "positive", "value": None}})
    with pytest.raises(ArgumentError, match="needs the parameter gamma"):
        spec.bind()
    assert spec.bind(gamma=1) == {"gamma": 1.0}


def test_bind_keeps_integers_and_flags() -> None:
    spec = base(
        params={
            "gamma": {"kind": "real", "value": 1},
            "ignore_index": {"kind": "integer", "value": -100},
            "log_target": {"kind": "flag", "value": False},
        },
        body=[
            "p = take(softmax(logits, classes), labels, classes)",
            "value = where(log_target or labels == ignore_index, 0, p ** gamma)",
        ],
    )
    bound = spec.bind(log_target=np.bool_(True))
    assert bound == {"gamma": 1.0, "ignore_index": -100, "log_target": True}
    assert [type(value) for value in bound.values()] == [float, int, bool]
    with pytest.raises(ArgumentError):
        spec.bind(ignore_index=np.array([1, 2]))


# --- the published schema -----------------------------------------------------------------------


@pytest.mark.checkout
def test_committed_schema_is_the_generated_one(tmp_path: Path) -> None:
    write_schema(tmp_path / "schema.json")
    committed = Path(__file__).parents[2] / "lossbridge" / "schema" / "spec-v1.json"
    assert committed.read_text("utf-8") == (tmp_path / "schema.json").read_text("utf-8")


TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


def is_type(value: Any, name: str) -> bool:
    if name in ("number", "integer"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (name == "number" or float(value).is_integer())
    return isinstance(value, TYPES[name])


def matches(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema that the published schema uses."""
    if "$ref" in schema:
        target = root
        for key in schema["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        return matches(value, target, root)
    if "anyOf" in schema:
        return any(matches(value, option, root) for option in schema["anyOf"])
    if "const" in schema and (value != schema["const"] or isinstance(value, bool)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    names = schema.get("type", [])
    if names and not any(is_type(value, n) for n in ([names] if isinstance(names, str) else names)):
        return False
    if isinstance(value, str):
        # In a schema, $ is the end; in Python it also stands before a last line feed.
        pattern = schema.get("pattern", "").replace("$", r"\Z")
        return len(value) <= schema.get("maxLength", 1 << 30) and bool(re.search(pattern, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, list):
        length_fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30)
        return bool(length_fits) and all(matches(v, schema.get("items", {}), root) for v in value)
    if isinstance(value, dict):
        return object_matches(value, schema, root)
    return True


def object_matches(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> bool:
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", 1 << 30):
        return False
    if not set(schema.get("required", [])) <= set(value):
        return False
    for key, item in value.items():
        if not re.search(schema.get("propertyNames", {}).get("pattern", ""), key):
            return False
        part = schema.get("properties", {}).get(key)
        if part is None and any(re.search(p, key) for p in schema.get("patternProperties", {})):
            continue
        part = schema.get("additionalProperties", {}) if part is None else part
        if part is False or not matches(item, part, root):
            return False
    return True


@by_id("valid")
def test_valid_documents_match_the_schema(vector: dict[str, Any]) -> None:
    schema = json_schema()
    assert matches(json.loads(document(vector)), schema, schema)
    assert matches(json.loads(dumps(loads(document(vector)))), schema, schema)


SHAPES = {
    "unknown_key",
    "missing_key",
    "missing_input",
    "unknown_choice",
    "id",
    "unknown_kind",
    "kind_syntax",
    "too_many",
}


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS["hostile"] if v["phase"] == "schema" and v["code"] in SHAPES],
    ids=lambda v: v["id"],
)
def test_misshapen_documents_do_not_match_the_schema(vector: dict[str, Any]) -> None:
    schema = json_schema()
    assert not matches(json.loads(document(vector)), schema, schema)
