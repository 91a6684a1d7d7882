"""The published JSON Schema of specification files, generated from the limits the reader enforces.

A schema can say what a document looks like, not what it means: a file that matches it may still be
refused by :func:`lossbridge.spec.loads`, but a file that does not match is always refused.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from lossbridge.checks import (
    CASTS,
    EMPTY,
    INITS,
    MASKINGS,
    MAX_ENTRIES,
    MAX_SIZE,
    MAX_STRING,
    MAX_SUMMARY,
    NORMALIZERS,
    OUTSIDES,
    PRECISIONS,
    REDUCTIONS,
    YIELDS,
)
from lossbridge.kinds import KINDS, MAX_KIND_CHARACTERS, MAX_RANK
from lossbridge.spec import FORMAT
from lossbridge.text import MAX_LINE, MAX_LINES

_NAME: Final = "[A-Za-z_][A-Za-z0-9_]{0,63}"
_KIND: Final = (
    rf" *({'|'.join(KINDS)})( *\( *{_NAME} *\))?"
    rf"( *\[ *\*? *{_NAME}( *, *\*? *{_NAME}){{0,15}} *\])?"
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the published format."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"lossbridge specification, format version {FORMAT}",
        "$ref": "#/$defs/spec",
        "$defs": {
            "spec": _spec(),
            "kind": {
                "description": "a kind and its axes, such as index(classes)[*batch]",
                "type": "string",
                "maxLength": MAX_KIND_CHARACTERS,
                "pattern": f"^{_KIND} *$",
            },
            "port": {
                "description": "a function of the user's: (kind, ...) -> kind",
                "type": "string",
                "maxLength": MAX_KIND_CHARACTERS,
                "pattern": rf"^ *\(({_KIND}( *,{_KIND})*)? *\) *->{_KIND} *$",
            },
            "value": {
                "description": "a number, or lists of them nested as deep as the kind has axes",
                "anyOf": [
                    {"type": ["number", "boolean"]},
                    {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/value"}},
                ],
            },
            "param": _object(
                "a static number or array; null means that the caller must give one",
                {
                    "kind": {"$ref": "#/$defs/kind"},
                    "value": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/value"}]},
                },
                required=["kind", "value"],
            ),
            "weight": _object(
                "a trainable array",
                {
                    "kind": {"$ref": "#/$defs/kind"},
                    "init": {"anyOf": [{"enum": list(INITS)}, {"type": "number"}]},
                    "sizes": _table(
                        {
                            "anyOf": [
                                {"type": "string", "pattern": f"^{_NAME}$"},
                                {"type": "integer", "minimum": 1, "maximum": MAX_SIZE},
                            ]
                        },
                        "the size of each axis: a number, or the constructor argument giving it",
                    ),
                },
                required=["kind", "init"],
            ),
        },
    }


def _spec() -> dict[str, Any]:
    properties = {
        "lossbridge": {"description": "the version of this format", "const": FORMAT},
        "loss": {
            "description": "name@version, outside the catalogue space/name@version",
            "type": "string",
            "maxLength": MAX_STRING,
            "pattern": f"^({_NAME}/)?{_NAME}@[1-9][0-9]{{0,8}}$",
        },
        "summary": {"type": "string", "maxLength": MAX_SUMMARY, "default": ""},
        "references": {
            "type": "array",
            "maxItems": MAX_ENTRIES,
            "items": {"type": "string", "maxLength": MAX_STRING},
            "default": [],
        },
        "inputs": {
            **_table(
                {"$ref": "#/$defs/kind"}, "in the order of a positional call, prediction first"
            ),
            "minProperties": 1,
        },
        "params": _table({"$ref": "#/$defs/param"}, "static numbers"),
        "weights": _table({"$ref": "#/$defs/weight"}, "trainable arrays"),
        "ports": _table({"$ref": "#/$defs/port"}, "functions the user supplies"),
        "step": {"description": "whether the body reads step", "type": "boolean", "default": False},
        "uses": _table({"$ref": "#/$defs/spec"}, "losses the body calls by these names"),
        "body": {
            "description": "one assignment a line; assigns value and, where it matters, count",
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_LINES,
            "items": {"type": "string", "maxLength": MAX_LINE},
        },
        "yields": {"description": "what an index of the value means", "enum": list(YIELDS)},
        "reduction": _object(
            "how the values become one number, and what a mean divides by",
            {
                "kind": {"enum": list(REDUCTIONS), "default": "mean"},
                "normalizer": {"enum": list(NORMALIZERS), "default": "elements"},
            },
        ),
        "empty": {
            "description": "the mean of nothing",
            "enum": list(EMPTY),
            "default": "nan",
        },
        "axis": {
            "description": "where the one axis beside an axis group lies; a platform's own place "
            "if left out",
            "type": "integer",
            "minimum": -MAX_RANK,
            "maximum": MAX_RANK - 1,
        },
        "numerics": _object(
            "precision; accumulate is at least as wide as compute",
            {
                "compute": {"enum": list(PRECISIONS), "default": PRECISIONS[0]},
                "accumulate": {"enum": list(PRECISIONS), "default": PRECISIONS[0]},
                "cast": {
                    "description": "inputs of any dtype are taken: all cast to one, or what is "
                    "not floating to a platform's default; none is cast if left out",
                    "enum": list(CASTS),
                },
                "outside": {
                    "description": "the formula is evaluated wherever inputs lie; if left out, "
                    "what is outside the domain of its kind is an error, or NaN",
                    "enum": list(OUTSIDES),
                },
                "masked": {
                    "description": "a mask multiplies by 0 and 1, so that a NaN under it shows; if "
                    "left out, it selects",
                    "enum": list(MASKINGS),
                },
            },
        ),
    }
    return {
        **_object(
            "a loss", properties, required=["lossbridge", "loss", "inputs", "body", "yields"]
        ),
        "patternProperties": {"^x-": {"description": "a note, without meaning to lossbridge"}},
    }


def _object(
    description: str, properties: dict[str, Any], required: list[str] | None = None
) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


def _table(values: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "propertyNames": {"pattern": f"^{_NAME}$"},
        "additionalProperties": values,
        "maxProperties": MAX_ENTRIES,
    }


def write_schema(path: str | os.PathLike[str]) -> None:
    """Regenerate the committed copy, ``lossbridge/schema/spec-v1.json``."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(json_schema(), indent=2) + "\n")


__all__ = ["json_schema", "write_schema"]
