"""What stands for a test that compares several times."""

from __future__ import annotations

import dataclasses

import samples
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.recording import SEVERITY, ItemRecords, Result, badness, properties
from pytest_fwcompare.records import VERDICTS


def test_all_verdicts_are_ranked() -> None:
    assert sorted(SEVERITY) == sorted(VERDICTS)
    assert SEVERITY[0] == "equivalent"


def test_a_result_travels_as_plain_data() -> None:
    made = Result("t", "g", 2, 5, samples.semantic())
    plain = made.to_plain()
    assert all(type(value) in (str, int) for value in plain.values())
    assert Result.from_plain(plain) == made


def test_a_gap_that_is_no_number_is_the_worst_of_its_verdict() -> None:
    nan, large = samples.semantic(gap=float("nan")), samples.semantic(gap=1e9)
    assert max(large, nan, key=badness) is nan


def test_properties_of_nothing() -> None:
    assert properties([]) == []


@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.floats(0, 1)), min_size=1, max_size=6))
def test_repeated_comparisons_keep_the_worst(made: list[tuple[str, float]]) -> None:
    records = ItemRecords()
    for verdict, gap in made:
        records.add(samples.equivalent(verdict=verdict, gap=gap, timings=()), repeated=True)
    (kept,) = records.comparisons
    worst = max(made, key=lambda pair: (SEVERITY.index(pair[0]), pair[1]))
    assert (kept.verdict, kept.gap) == worst
    ((entry),) = records.take("t", "g")
    assert entry["calls"] == len(made)
    assert records.take("t", "g") == []


def test_other_axes_are_another_record_even_when_repeated() -> None:
    records = ItemRecords()
    records.add(samples.equivalent(), repeated=True)
    records.add(samples.equivalent(dtype="float64"), repeated=True)
    records.add(samples.equivalent(), repeated=True)
    assert [c.dtype for c in records.comparisons] == ["float32", "float64"]


def test_each_of_several_is_numbered_with_its_own_times() -> None:
    first = samples.equivalent()
    second = dataclasses.replace(first, timings=(samples.timing("keras", 7.0),))
    found = dict(properties([first, second]))
    assert found["fwcompare.keras.forward_s"] == 2.5e-3
    assert found["fwcompare.2.keras.forward_s"] == 7e-3
    assert all(type(value) in (str, int, float, bool) for value in found.values())
