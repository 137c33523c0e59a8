"""Checks data against a published JSON Schema, in words that say where it is wrong.

Understands as much of JSON Schema (draft 2020-12) as the schemas of this package use; the tests
hold it against the `jsonschema` library. Every run with a baseline reads one, in each worker: a
library of six packages for that would be a price that all users pay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pytest_fwcompare.errors import UsageError

KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}

SHOWN = 60
"""Characters of a wrong value that a message shows."""


@cache
def load(package: str, name: str) -> dict[str, Any]:
    """A schema that ships with a package of ours."""
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return dict(json.loads(text))


def check(data: Any, schema: Mapping[str, Any], where: str) -> None:
    """Refuse data that the schema does not allow.

    Args:
        data: as `json.loads` gives it.
        schema: the whole schema, with its "$defs".
        where: how messages call the data.

    Raises:
        UsageError: at the first place that is wrong.
    """
    for text in problems(data, schema, where, schema):
        raise UsageError(text)


def problems(
    data: Any, schema: Mapping[str, Any], where: str, root: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with the data, a sentence each."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if kinds and not any(_is(data, kind) for kind in kinds):
        yield f"{where}: expected {' or '.join(kinds)}, got {_shown(data)}"
        return
    if "enum" in schema and data not in schema["enum"]:
        yield f"{where}: expected one of {', '.join(map(str, schema['enum']))}, got {_shown(data)}"
    if isinstance(data, str) and not re.search(schema.get("pattern", ""), data):
        yield f"{where}: expected {schema.get('description', 'another text')}, got {_shown(data)}"
    if _is(data, "number") and not data >= schema.get("minimum", data):
        yield f"{where}: expected at least {schema['minimum']}, got {_shown(data)}"
    if isinstance(data, dict):
        yield from _object(data, schema, where, root)
    if isinstance(data, list) and "items" in schema:
        for place, item in enumerate(data):
            yield from problems(item, schema["items"], f"{where}[{place}]", root)


def _object(
    data: Mapping[str, Any], schema: Mapping[str, Any], where: str, root: Mapping[str, Any]
) -> Iterator[str]:
    least, most = schema.get("minProperties", 0), schema.get("maxProperties", len(data))
    if not least <= len(data) <= most:
        yield f"{where}: expected {least} to {most} keys, got {_shown(data)}"
    for name in schema.get("required", ()):
        if name not in data:
            yield f"{where}: missing key {name!r}"
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in data.items():
        place = f"{where}.{name}" if name.isidentifier() else f"{where}[{name!r}]"
        if name in known:
            yield from problems(item, known[name], place, root)
        elif others is False:
            yield f"{where}: unknown key {name!r}; the keys are {', '.join(known)}"
        elif others is not True:
            yield from problems(item, others, place, root)


def _is(data: Any, kind: str) -> bool:
    if isinstance(data, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(data, float):
        return data.is_integer()  # JSON knows one kind of number
    return isinstance(data, KINDS[kind])


def _shown(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
