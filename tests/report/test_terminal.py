from __future__ import annotations

import pytest
import samples

from pytest_fwcompare.recording import Result
from pytest_fwcompare.report.terminal import shortened, table


def result(framework: str, milliseconds: float, **keywords: object) -> Result:
    comparison = samples.equivalent(
        reference="numpy",
        port=framework,
        timings=(
            samples.timing("numpy", 9.0),
            samples.timing("torch", 1.0),
            samples.timing(framework, milliseconds, **keywords),
        ),
    )
    return Result(f"t.py::test_net[{framework}-cpu]", "t.py::test_net[cpu]", 1, 1, comparison)


def test_ratios_are_to_the_fastest_of_the_same_test() -> None:
    lines = table([result("torch", 1.0), result("keras", 2.5)], 120)
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "t.py::test_net[cpu] numpy (reference) 9.00 ms 18.0 ms 9.00",
        "t.py::test_net[cpu] torch equivalent 2.1e-15 3.4e-07 1.00 ms 2.00 ms 1.00",
        "t.py::test_net[cpu] keras equivalent 2.1e-15 3.4e-07 2.50 ms 5.00 ms 2.50",
    ]


def test_columns_line_up() -> None:
    lines = table([result("torch", 1.0), result("tensorflow", 123.4)], 120)
    ends = {len(line) for line in lines}
    assert len(ends) == 1


def test_unreliable_times_are_marked_and_explained() -> None:
    lines = table([result("jax", 1.0, synchronised=False)], 120)
    assert "?1.00 ms" in lines[-2]
    assert lines[-1] == "? calls returned before their work was done; the times mislead"


def test_without_timings_the_columns_stay_empty() -> None:
    made = Result("t.py::test", "t.py::test", 1, 1, samples.equivalent(timings=()))
    (line,) = table([made], 120)[1:]
    assert line.split() == ["t.py::test", "keras", "equivalent", "2.1e-15", "3.4e-07"]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (40, "tests/unit/test_net.py::test_lenet[cpu]"),
        (30, "test_net.py::test_lenet[cpu]"),
        (20, "test_lenet[cpu]"),
        (12, "test_l\u2026[cpu]"),
        (13, "test_le\u2026[cpu]"),
    ],
)
def test_long_names_lose_folders_then_the_file_then_their_end(width: int, expected: str) -> None:
    assert shortened("tests/unit/test_net.py::test_lenet[cpu]", width) == expected


def test_the_odd_framework_of_a_test_is_named_under_the_table() -> None:
    def judged(framework: str, right: bool) -> Result:
        make = samples.equivalent if right else samples.semantic
        made = make(reference="numpy", port=framework, timings=())
        return Result(f"t.py::test_net[{framework}-cpu]", "t.py::test_net[cpu]", 1, 1, made)

    agreeing = table([judged("torch", True), judged("jax", True)], 120)
    lines = table([judged("torch", True), judged("keras", False)], 120)
    assert lines[-1] == ("t.py::test_net[cpu]: keras is the odd one out: numpy and torch agree")
    assert not any("odd" in line for line in agreeing)
    alone = Result("t.py::test", "t.py::test", 1, 1, samples.semantic(timings=()))
    assert not any("odd" in line or "open" in line for line in table([alone], 120))
