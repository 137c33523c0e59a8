"""The JSON Schema of a report, made from the records it is written from.

The published file is `run.schema.json` beside this one; `python -m pytest_fwcompare schema` prints
what it must hold, and a test compares the two.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pytest_fwcompare.records import FORMAT as COMPARISON_FORMAT
from pytest_fwcompare.records import Comparison
from pytest_fwcompare.report.json import FORMAT

NAME = "run.schema.json"
Schema = dict[str, Any]

FIGURE: Schema = {
    "description": "A number; what is not finite is written as a string, so that the file is "
    "strict JSON.",
    "anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}],
}


def run_schema() -> Schema:
    """The schema of the file that `--fwcompare-report=PATH.json` writes."""
    parts: dict[str, Schema] = {"figure": FIGURE}
    _of(Comparison, parts)
    comparison = parts["Comparison"]
    comparison["properties"] = {
        "format": {"const": COMPARISON_FORMAT},
        **comparison["properties"],
    }
    comparison["required"] = ["format", *comparison["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:pytest-fwcompare:run:{FORMAT}",
        "title": f"Report of pytest-fwcompare, format {FORMAT}",
        "description": "Every comparison of a run, as --fwcompare-report=PATH.json writes it. "
        "Seconds and bytes; gap, noise and jitter are shares of the largest magnitude of the "
        "reference's float64 tensor.",
        "type": "object",
        "properties": {
            "format": {"const": FORMAT},
            "version": {"type": "string", "description": "Of the package that wrote it."},
            "host": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "The machine and the command of the run.",
            },
            "comparisons": {"type": "array", "items": _entry()},
        },
        "required": ["format", "version", "host", "comparisons"],
        "additionalProperties": False,
        "$defs": parts,
    }


def _entry() -> Schema:
    properties: Schema = {
        "test": {"type": "string", "description": "Node id of the test."},
        "group": {
            "type": "string",
            "description": "The node id without its framework: results that share it are ranked "
            "by speed.",
        },
        "index": {"type": "integer", "minimum": 1, "description": "1 for the test's first."},
        "calls": {"type": "integer", "minimum": 1, "description": "How often it was made."},
        "outcome": {"enum": ["", "passed", "failed", "skipped"], "description": "Of the test."},
        "comparison": {"$ref": "#/$defs/Comparison"},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _of(kind: Any, parts: dict[str, Schema]) -> Schema:
    """The schema of a value of a type; dataclasses become parts of their own."""
    origin, arguments = typing.get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in parts:
            parts[kind.__name__] = {}  # its place, should it refer to itself
            parts[kind.__name__] = _record(kind, parts)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(argument, parts) for argument in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        inner = [argument for argument in arguments if argument is not Ellipsis]
        made: Schema = {"type": "array", "items": _of(inner[0], parts)}
        if Ellipsis not in arguments:
            made |= {"minItems": len(arguments), "maxItems": len(arguments)}
        return made
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], parts)}
    if kind is float:
        return {"$ref": "#/$defs/figure"}
    plain = {str: "string", int: "integer", bool: "boolean", type(None): "null"}
    return {"type": plain[kind]} if kind in plain else {}


def _record(kind: type, parts: dict[str, Schema]) -> Schema:
    """A dataclass as an object; what its docstring says first is the description."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {
        "description": (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " "),
        "type": "object",
        "properties": {field.name: _of(hints[field.name], parts) for field in fields},
        "required": [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ],
        "additionalProperties": False,
    }
