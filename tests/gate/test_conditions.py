"""The grammar of `--fwcompare-fail-on`, and what each condition lets pass and fails."""

from __future__ import annotations

import dataclasses
import math

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.gate.conditions import Condition, drift_limit, exceeded, parse, verdicts
from pytest_fwcompare.records import Change, Drift


def test_what_can_be_written() -> None:
    text = "semantic, precision drift>3x,noise>8ulp,noise>1e-6,noise>2.5x,gap>1e-9,ulp>.5"
    found = parse(text, "--fwcompare-fail-on")
    assert found[2:] == (
        Condition("drift", 3, "x"),
        Condition("noise", 8, "ulp"),
        Condition("noise", 1e-6),
        Condition("noise", 2.5, "x"),
        Condition("gap", 1e-9),
        Condition("ulp", 0.5),
    )
    assert [str(condition) for condition in found] == [
        "semantic",
        "precision",
        "drift>3x",
        "noise>8ulp",
        "noise>1e-06",
        "noise>2.5x",
        "gap>1e-09",
        "ulp>0.5",
    ]
    assert verdicts(found) == ("semantic", "precision")
    assert drift_limit(found) == 3
    assert parse("drift", "x") == (Condition("drift", 2, "x"),)
    assert drift_limit(parse("semantic", "x")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--fwcompare-fail-on: expected at least one condition, got ''"),
        (
            "semantic,drfit",
            "character 10: unknown verdict or figure 'drfit'; there are semantic, precision, "
            "subgradient, nonfinite, error, drift, noise, gap, ulp; did you mean 'drift'? (at "
            "'semantic, >>> drfit')",
        ),
        ("equivalent", "character 1: unknown verdict or figure 'equivalent'"),
        (
            "drift>2",
            "character 8: drift has no unit ''; write drift or drift>2x (at 'drift>2 >>> ",
        ),
        ("drift>0.5x", "character 1: a factor below 1 would fail what did not change"),
        ("noise", "character 6: noise needs a limit; write noise>8ulp, noise>3x"),
        ("noise>ulp", "character 7: expected a number; write noise>8ulp"),
        ("noise>8ulps", "character 8: noise has no unit 'ulps'"),
        ("gap>1e-9x", "character 9: gap has no unit 'x'; write gap>1e-9"),
        ("gap<1", "character 1: unknown verdict or figure 'gap<1'"),
        ("semantic>2", "character 1: semantic is a verdict and takes no limit"),
        ("ulp>-1", "character 5: expected a number; write ulp>100"),
    ],
)
def test_what_cannot_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "--fwcompare-fail-on")
    assert str(caught.value).startswith("--fwcompare-fail-on: ")
    assert message in str(caught.value)


@given(st.text(alphabet="driftnosegapul>=0123456789.eEx, -", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse(text, "here")
    except UsageError:
        return
    assert parse(",".join(map(str, found)), "here") == found or any(
        not math.isfinite(condition.limit) for condition in found
    )


def failed(text: str, **fields: object) -> list[str]:
    made = dataclasses.replace(samples.equivalent(), **fields)  # type: ignore[arg-type]
    return exceeded(made, parse(text, "here"))


def test_noise_in_units_of_the_working_dtype() -> None:
    # 3.4e-7 is 2.85 of float32's 2^-23, and 3.4 times the reference's 1e-7.
    assert failed("noise>2.8ulp") == ["noise>2.8ulp: the port's noise is 2.85 ulp of float32"]
    assert failed("noise>2.9ulp") == []
    assert failed("noise>2.9ulp", dtype="float64") != []
    assert failed("noise>3.3x") == ["noise>3.3x: the port's noise is 3.4 times the reference's"]
    assert failed("noise>3.5x") == []
    assert failed("noise>3e-7") == ["noise>3e-07: the port's noise is 3.4e-07"]
    assert failed("noise>4e-7") == []


def test_gap_and_ulp() -> None:
    assert failed("gap>1e-15") == ["gap>1e-15: the gap is 2.1e-15"]
    assert failed("gap>1e-14") == []
    rows = tuple(dataclasses.replace(row, ulp=7.0) for row in samples.equivalent().tensors)
    assert failed("ulp>6", tensors=rows) == ["ulp>6: output logits is 7 ulp apart in float32"]
    assert failed("ulp>7", tensors=rows) == []
    assert failed("ulp>7", tensors=()) == []


def test_drift() -> None:
    change = Change("gap", 1e-9, 5e-9, 5.0, "1e-09 -> 5e-09")
    drift = Drift("a.py::t", verdict="equivalent", changes=(change,))
    assert failed("drift", drift=drift) == ["drift>2x: gap 1e-09 -> 5e-09"]
    assert failed("drift>5x", drift=drift) == []
    assert failed("semantic", drift=drift) == []
    assert failed("drift") == [], "without a baseline nothing drifts"
    missing = Drift("a.py::t", whose="record it: ...")
    assert failed("drift", drift=missing) == ["no baseline: record it: ..."]
    assert failed("drift", drift=dataclasses.replace(missing, whose="")) == []
