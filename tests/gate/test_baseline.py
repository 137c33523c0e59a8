"""The file: what it looks like, what it refuses, and that the schema says the same."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.gate.baseline import FORMAT, BaselineError, dumps, loads
from pytest_fwcompare.gate.schema import load, problems
from pytest_fwcompare.records import Comparison, TensorRow

from .conftest import baseline_of, digest

SCHEMA = load("pytest_fwcompare.gate", "baseline.schema.json")


@pytest.fixture
def text(comparison: Callable[..., Comparison]) -> str:
    """A file of two cases."""
    return dumps(baseline_of({"b.py::test_b[x]": comparison(), "a.py::test_a": comparison()}))


def refused(text: str) -> str:
    with pytest.raises(BaselineError) as caught:
        loads(text, "drift.json")
    assert str(caught.value).startswith("drift.json: ") or "drift.json." in str(caught.value)
    return str(caught.value)


def test_a_file_reads_back_and_is_sorted(text: str) -> None:
    read = loads(text, "drift.json")
    assert dumps(read) == text
    assert list(json.loads(text)["cases"]) == ["a.py::test_a", "b.py::test_b[x]"]
    entry = read.cases["a.py::test_a"]
    assert entry.gap == 2.1e-15
    assert entry.noise == {"reference": 1e-7, "port": 3.4e-7}
    assert entry.sensitivity is not None
    assert (entry.sensitivity.noticed, entry.sensitivity.uncovered) == (1, 1)
    assert entry.digest == digest()
    assert read.environment("a.py::test_a")["torch"]["version"] == "2.13.0+cpu"
    assert text.count('"version": "2.13.0+cpu"') == 1, "equal environments are written once"


def test_a_diff_shows_one_line_a_figure(comparison: Callable[..., Comparison]) -> None:
    before = dumps(baseline_of({"a.py::t": comparison()})).splitlines()
    after = dumps(baseline_of({"a.py::t": comparison(gap=3.21987e-12)})).splitlines()
    different = [new for old, new in zip(before, after, strict=True) if old != new]
    assert different == ['   "gap": 3.22e-12,']


def test_figures_that_are_no_numbers_survive(comparison: Callable[..., Comparison]) -> None:
    row = TensorRow("output y", "output", "nonfinite", 0.0, 0.0, 0.0, 0.0, ulp=float("inf"))
    made = comparison(verdict="nonfinite", noise=float("nan"), tensors=(row,), digest=None)
    text = dumps(baseline_of({"a.py::t": made}))
    entry = loads(text, "drift.json").cases["a.py::t"]
    assert entry.ulp == {"output y": float("inf")}
    assert entry.noise["port"] != entry.noise["port"]
    assert entry.digest is None
    assert dumps(loads(text, "x")) == text


def test_a_file_cut_at_every_byte_is_refused(text: str) -> None:
    whole = text.rstrip()
    for length in range(len(whole)):
        with pytest.raises(BaselineError, match="not JSON"):
            loads(whole[:length], "drift.json")
    assert "it was cut off or damaged: restore it, or delete it" in refused(whole[:-1])


def test_a_newer_file_is_refused(text: str) -> None:
    data = json.loads(text) | {"format": FORMAT + 1, "written_by": "pytest-fwcompare 9.9"}
    data["unheard_of"] = {}
    said = refused(json.dumps(data))
    assert "format 2 was written by a newer version (pytest-fwcompare 9.9)" in said
    assert said.endswith("reads up to format 1. Upgrade pytest-fwcompare")


def test_what_a_merge_by_git_leaves_is_refused(text: str) -> None:
    said = refused(f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n")
    assert "git left its conflict markers in it" in said
    assert "python -m pytest_fwcompare merge" in said
    twice = text.replace('"b.py::test_b[x]"', '"a.py::test_a"')
    assert "the key 'a.py::test_a' is there twice" in refused(twice)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"cases": {}}', '{"format": "1"}'])
def test_another_json_file_is_refused(text: str) -> None:
    assert "expected a baseline, an object with a 'format' number" in refused(text)


def test_deep_and_long_nonsense_is_refused() -> None:
    assert "not JSON" in refused("[" * 100_000)
    assert "not JSON" in refused('{"format": ' + "1" * 5000 + "}")
    assert "NaN is no JSON" in refused('{"format": NaN}')


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("verdict",), "fine", "verdict: expected one of equivalent, semantic, "),
        (("gap",), -1, "gap: expected at least 0, got -1"),
        (("gap",), "big", "gap: expected a number of at least 0, 'inf' or 'nan', got 'big'"),
        (("gap",), True, "gap: expected number or string, got True"),
        (("noise",), {"port": 1}, "noise: missing key 'reference'"),
        (("ulp",), [1], "ulp: expected object, got [1]"),
        (("weights",), [1.0], "unknown key 'weights'; the keys are axes, "),
        (("digest", "inputs"), "1 2", "digest.inputs: expected a fingerprint"),
        (("environment",), "beef", "no environment 'beef' in the file"),
        (("examples",), 1.5, "examples: expected integer, got 1.5"),
        (("examples",), None, "examples: expected integer, got None"),
    ],
)
def test_a_changed_file_is_refused_with_its_place(
    text: str, place: tuple[str, ...], value: Any, message: str
) -> None:
    data = json.loads(text)
    target = data["cases"]["a.py::test_a"]
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    said = refused(json.dumps(data))
    assert "cases['a.py::test_a']" in said
    assert message in said


def test_a_missing_key_is_refused(text: str) -> None:
    data = json.loads(text)
    del data["environments"]
    assert "drift.json: missing key 'environments'" in refused(json.dumps(data))


JUNK = st.sampled_from([None, True, -1, 0, 2.5, "", "inf", "1 2 3", "x", [], [1], {}, {"a": 1}])


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside."""
    items = data.items() if isinstance(data, dict) else ()
    return [path, *(found for key, item in items for found in places(item, (*path, key)))]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_our_checker_and_jsonschema_agree(data: st.DataObject) -> None:
    """The published schema means what any reader of JSON Schema says it means."""
    jsonschema = pytest.importorskip("jsonschema")
    import samples

    made = dataclasses.replace(samples.equivalent(), digest=digest())
    plain = json.loads(dumps(baseline_of({"a.py::t": made})))
    path = data.draw(st.sampled_from(places(plain)))
    target = plain = {"": copy.deepcopy(plain)}
    *way, last = ("", *path)
    for key in way:
        target = target[key]
    match data.draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            target[last] = data.draw(JUNK)
        case "remove" if path:
            del target[last]
        case _ if isinstance(target[last], dict):
            target[last]["added"] = data.draw(JUNK)
    checker = jsonschema.Draft202012Validator(SCHEMA)
    ours = list(problems(plain[""], SCHEMA, "it", SCHEMA))
    assert bool(ours) == (not checker.is_valid(plain[""])), ours


def test_the_schema_is_one() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
