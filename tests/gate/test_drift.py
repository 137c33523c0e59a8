"""What counts as drift, what does not, and whose doing it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.gate.drift import drift_of
from pytest_fwcompare.records import Comparison, Control, Controls, Drift, TensorRow

from .conftest import baseline_of, digest

Make = Callable[..., Comparison]


def drift(before: Comparison, after: Comparison) -> Drift:
    return drift_of(after, baseline_of({"a.py::t": before}), "a.py::t", "cpu-float32-eager", 2.0)


def figures(found: Drift) -> list[str]:
    return [change.figure for change in found.changes if change.times > found.limit]


def row(**fields: Any) -> tuple[TensorRow, ...]:
    made = TensorRow("output y", "output", "equivalent", 1e-15, 1e-7, 1e-7, 6e-8, ulp=2.0)
    return (dataclasses.replace(made, **fields),)


def test_nothing_changed(comparison: Make) -> None:
    found = drift(comparison(), comparison())
    assert not found.drifted
    assert found.changes == ()
    assert found.moved == "nothing"
    assert found.versions == {}
    assert (found.verdict, found.gap, found.port_noise) == ("equivalent", 2.1e-15, 3.4e-7)


def test_rounding_is_no_drift(comparison: Make) -> None:
    assert not drift(comparison(gap=1e-17), comparison(gap=3e-17)).drifted
    assert not drift(comparison(gap=0.0), comparison(gap=2e-15)).drifted
    assert not drift(comparison(noise=1e-12), comparison(noise=2e-7)).drifted
    before, after = comparison(tensors=row(ulp=0.0)), comparison(tensors=row(ulp=6.0))
    assert not drift(before, after).drifted


def test_another_order_of_sums_is_no_drift(comparison: Make) -> None:
    """Even where the port was the reference, bit for bit, when the baseline was recorded."""
    same = row(ulp=0.0, port_noise=3e-7, reference_noise=3e-7)
    before = comparison(tensors=same, noise=1e-12)
    close = row(ulp=9.0, port_noise=5e-7, reference_noise=3e-7)
    assert not drift(before, comparison(tensors=close, noise=5e-7)).drifted
    far = row(ulp=11.0, port_noise=7e-7, reference_noise=3e-7)
    found = drift(before, comparison(tensors=far, noise=7e-7))
    assert figures(found) == ["noise of the port", "ulp of output y"]


def test_a_network_that_amplifies_rounding_has_more_of_it(comparison: Make) -> None:
    calm, wild = row(), row(jitter=1e-3)
    assert drift(comparison(tensors=calm), comparison(gap=2e-12, tensors=calm)).drifted
    assert not drift(comparison(tensors=wild), comparison(gap=2e-12, tensors=wild)).drifted


@pytest.mark.parametrize(
    ("before", "after", "figure", "text"),
    [
        ({"gap": 2e-9}, {"gap": 6e-9}, "gap", "2e-09 -> 6e-09"),
        ({"noise": 1e-6}, {"noise": 2.5e-6}, "noise of the port", "1e-06 -> 2.5e-06"),
        (
            {"tensors": row(reference_noise=1e-6)},
            {"tensors": row(reference_noise=1e-5)},
            "noise of the reference",
            "1e-06 -> 1e-05",
        ),
        (
            {"tensors": row(ulp=10.0)},
            {"tensors": row(ulp=30.0)},
            "ulp of output y",
            "10 -> 30",
        ),
        ({}, {"verdict": "precision"}, "verdict", "equivalent -> precision"),
        ({}, {"verdict": "error"}, "verdict", "equivalent -> error"),
        ({"tensors": row()}, {"tensors": ()}, "tensor output y", "no longer compared"),
        ({}, {"noise": float("nan")}, "noise of the port", "3.4e-07 -> nan"),
    ],
)
def test_what_grew_is_drift(
    comparison: Make, before: dict[str, Any], after: dict[str, Any], figure: str, text: str
) -> None:
    found = drift(comparison(**before), comparison(**after))
    assert figures(found) == [figure]
    assert found.changes[0].text == text
    back = (
        drift(comparison(**after), comparison(**before))
        if after.get("verdict") != "error"
        else None
    )
    assert back is None or not back.drifted, "what got better has not drifted"


def control(ratio: float, noticed: bool = True) -> Control:
    return Control("w", 1e-3, noticed, ratio)


def test_a_gate_that_notices_less_is_drift(comparison: Make) -> None:
    sharp = comparison(controls=Controls((control(500.0), control(900.0)), ()))
    blunt = comparison(controls=Controls((control(50.0), control(900.0)), ()))
    blind = comparison(controls=Controls((control(500.0), control(1.0, False)), ("w",)))
    none = comparison(controls=Controls())
    assert figures(drift(sharp, blunt)) == ["sensitivity"]
    assert figures(drift(sharp, blind)) == ["coverage", "controls"]
    assert figures(drift(sharp, none)) == ["controls"]
    assert not drift(blind, sharp).drifted
    assert not drift(none, sharp).drifted


@given(st.floats(1e-12, 1.0), st.floats(0.1, 10.0))
def test_the_factor_decides(gap: float, factor: float) -> None:
    import samples

    before = dataclasses.replace(samples.equivalent(), gap=gap)
    found = drift(before, dataclasses.replace(before, gap=gap * factor))
    if not 1.98 < factor < 2.02:  # the file keeps three digits
        assert found.drifted == (factor > 2)


NEW = {"torch": {"version": "2.14.0"}, "keras": {"version": "3.15.1"}}


@pytest.mark.parametrize(
    ("fields", "moved", "said"),
    [
        (
            {"digest": digest(port_float64=1e-3, port_working=1e-3)},
            "port",
            "only the port moved: its float64 shadow too, by 0.001 (outputs), so it computes "
            "another function now; nothing under it was upgraded, so the port was changed",
        ),
        (
            {"digest": digest(port_working=1e-6)},
            "port",
            "only the port moved: its float64 shadow did not, so it computes the same function "
            "in another way (by 1e-06); nothing under it was upgraded, so the port was changed",
        ),
        (
            {"digest": digest(reference_float64=1e-3, port_working=1e-8), "environment": NEW},
            "reference",
            "only the reference moved: its float64 shadow too, by 0.001 (outputs), so it computes "
            "another function now; since the baseline torch version 2.13.0+cpu -> 2.14.0, or the "
            "reference was changed",
        ),
        (
            {"digest": digest(port_float64=1e-3), "environment": NEW},
            "port",
            "only the port moved: its float64 shadow too, by 0.001 (outputs), so it computes "
            "another function now; nothing under it was upgraded, so the port was changed",
        ),
        (
            {
                "digest": digest(reference_working=1e-6, port_working=3e-6),
                "environment": NEW,
            },
            "both",
            "both sides moved, as the environment did: torch version 2.13.0+cpu -> 2.14.0",
        ),
        (
            {"digest": digest(reference_working=1e-6, port_working=3e-6)},
            "both",
            "both sides moved, though no version or flag did: another processor or number of "
            "threads, or both models were changed",
        ),
        (
            {"digest": digest(inputs=0.1, port_float64=1.0)},
            "inputs",
            "whose doing it was cannot be told: the inputs are other ones than the baseline's; no "
            "version or flag changed",
        ),
        (
            {"digest": digest(weights=0.1)},
            "inputs",
            "whose doing it was cannot be told: the weights are other ones than the baseline's; "
            "no version or flag changed",
        ),
        (
            {"environment": NEW},
            "nothing",
            "both sides give what they gave on the first example; torch version 2.13.0+cpu -> "
            "2.14.0",
        ),
        (
            {"digest": None},
            "",
            "whose doing it was is not known: there is no digest of both sides",
        ),
    ],
)
def test_whose_doing(comparison: Make, fields: dict[str, Any], moved: str, said: str) -> None:
    found = drift(comparison(), comparison(**fields))
    assert (found.moved, found.whose) == (moved, said)


def test_only_what_is_under_a_side_is_held_against_it(comparison: Make) -> None:
    """Keras was upgraded and the torch reference moved: Keras did not do that."""
    newer = {"torch": {"version": "2.13.0+cpu"}, "keras": {"version": "3.16"}}
    found = drift(comparison(), comparison(environment=newer, digest=digest(port_float64=1e-3)))
    assert found.whose.endswith(
        "since the baseline keras version 3.15.1 -> 3.16, or the port was changed"
    )
    found = drift(
        comparison(), comparison(environment=newer, digest=digest(reference_float64=1e-3))
    )
    assert found.whose.endswith("nothing under it was upgraded, so the reference was changed")
    assert found.versions == {"keras version": ("3.15.1", "3.16")}


def test_another_number_of_examples_is_said(comparison: Make) -> None:
    from pytest_fwcompare.records import Examples

    found = drift(comparison(), comparison(examples=Examples(5)))
    assert found.whose.endswith("; 20 examples were judged then, 5 now")
