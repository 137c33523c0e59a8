"""The published schema takes what is written and refuses what is not."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import samples

import pytest_fwcompare as fwc
from pytest_fwcompare import networks
from pytest_fwcompare.recording import Result
from pytest_fwcompare.report.json import FORMAT, run_to_json
from pytest_fwcompare.report.schema import NAME, run_schema
from pytest_fwcompare.sides import InFramework

PUBLISHED = json.loads(files("pytest_fwcompare.report").joinpath(NAME).read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(PUBLISHED)


def complaints(data: Any) -> list[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(data)]


def test_the_published_file_is_what_the_records_say() -> None:
    assert run_schema() == PUBLISHED, (
        "the records changed: python -m pytest_fwcompare schema > "
        "pytest_fwcompare/report/run.schema.json"
    )


def test_the_schema_is_one_and_says_its_version() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    assert PUBLISHED["$id"] == f"urn:pytest-fwcompare:run:{FORMAT}"
    assert PUBLISHED["properties"]["format"] == {"const": FORMAT}


@pytest.mark.parametrize("results", [[], samples.run()], ids=["empty", "everything"])
def test_what_is_written_fits(results: list[Result]) -> None:
    assert complaints(json.loads(run_to_json(results))) == []


@pytest.mark.parametrize("units", [3, 2], ids=["equivalent", "error"])
def test_a_real_comparison_fits(units: int) -> None:
    net = networks.Sequential([networks.Dense(3)], input_shape=(4,))
    other = networks.Sequential([networks.Dense(units)], input_shape=(4,))
    try:
        made = fwc.compare(
            InFramework(net, "numpy"),
            InFramework(other, "torch"),
            inputs=net.inputs,
            examples=3,
            timings=units == 3,
            distributions=True,
            weights="given" if units == 2 else "auto",
        )
    except fwc.FwcompareError:
        pytest.fail("the two can be told apart without an error")
    assert made.verdict == ("equivalent" if units == 3 else "error")
    assert complaints(json.loads(run_to_json([Result("t", "t", 1, 1, made)]))) == []


SPOILED = {
    "another version": (["format"], 2, "$.format"),
    "no version": (["format"], None, "$"),
    "an unknown verdict": (["comparisons", 0, "comparison", "verdict"], "good", None),
    "a number as text": (["comparisons", 0, "comparison", "gap"], "1e-3", None),
    "text as a number": (["comparisons", 0, "comparison", "message"], 3, None),
    "a missing key": (["comparisons", 0, "comparison", "reference"], None, None),
    "an unknown key": (["comparisons", 0, "comparison", "fun"], 1, None),
    "index from 0": (["comparisons", 0, "index"], 0, None),
    "half a pair": (["comparisons", 0, "comparison", "between"], ["a"], None),
}


@pytest.mark.parametrize(("place", "value", "path"), SPOILED.values(), ids=SPOILED)
def test_what_is_not_written_is_refused(place: list[Any], value: Any, path: str | None) -> None:
    data = copy.deepcopy(json.loads(run_to_json(samples.run()[1:2])))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    found = complaints(data)
    assert found
    assert path is None or found == [path]
