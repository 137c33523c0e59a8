"""Interleaved rounds on a simulated machine, where the true durations are known."""

from __future__ import annotations

import gc
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.backends.base import Stopwatch
from pytest_fwcompare.timing.rounds import (
    LEAST_ROUNDS,
    Durations,
    measure,
    quartiles,
    tightness,
)


class Machine:
    """A clock that calls move on; `drift` slows everything down by that much a second."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.drift = 0.0, drift
        self.log: list[str] = []

    def clock(self) -> float:
        self.now += 1e-8
        return self.now

    def work(self, seconds: float, name: str = "") -> None:
        self.log.append(name)
        self.now += seconds * (1 + self.drift * self.now)

    def stopwatch(self, forward: float, backward: float | None, name: str = "") -> Stopwatch:
        if backward is None:
            return Stopwatch(lambda: self.work(forward, name), None)
        return Stopwatch(
            lambda: self.work(forward, name), lambda: self.work(forward + backward, name)
        )


def test_forward_and_backward_come_apart() -> None:
    machine = Machine()
    made = measure({"one": machine.stopwatch(2e-3, 5e-3)}, clock=machine.clock)["one"]
    assert quartiles(made.forward).median == pytest.approx(2e-3, rel=1e-3)
    assert quartiles(made.backward).median == pytest.approx(5e-3, rel=1e-3)


def test_a_backward_of_its_own_is_preferred_to_a_difference() -> None:
    machine = Machine()
    stopwatch = Stopwatch(
        lambda: machine.work(2e-3), lambda: machine.work(99.0), lambda: machine.work(1e-3)
    )
    made = measure({"one": stopwatch}, clock=machine.clock)["one"]
    assert quartiles(made.backward).median == pytest.approx(1e-3, rel=1e-3)


def test_no_backward_pass_gives_no_backward_time() -> None:
    machine = Machine()
    assert (
        measure({"one": machine.stopwatch(1e-3, None)}, clock=machine.clock)["one"].backward == []
    )


def test_the_first_call_stands_apart() -> None:
    machine = Machine()
    costs = iter([5.0])
    stopwatch = Stopwatch(lambda: machine.work(next(costs, 1e-3)), None)
    made = measure({"one": stopwatch}, clock=machine.clock)["one"]
    assert made.first_call_s == pytest.approx(5.0)
    assert max(made.forward) < 2e-3


def test_a_drifting_machine_hurts_all_alike() -> None:
    """The machine gets three times slower during the run; equal frameworks stay equal."""
    machine = Machine(drift=2.0)
    made = measure(
        {name: machine.stopwatch(3e-3, 3e-3) for name in ("one", "other", "third")},
        clock=machine.clock,
    )
    medians = [statistics.median(durations.forward) for durations in made.values()]
    assert max(medians) / min(medians) < 1.1
    drifted = made["one"].forward
    assert max(drifted) > 1.3 * min(drifted), "the planted drift did not show at all"


def test_no_framework_always_goes_first() -> None:
    machine = Machine()
    # Slow calls: one a slot, so the log shows the order of the slots.
    measure(
        {name: machine.stopwatch(0.05, None, name) for name in ("one", "other")},
        clock=machine.clock,
        budget_s=5.0,
    )
    slots = machine.log[-2 * LEAST_ROUNDS :]
    firsts = slots[::2]
    assert {"one", "other"} == set(slots)
    assert all(set(slots[i : i + 2]) == {"one", "other"} for i in range(0, len(slots), 2))
    assert len(set(firsts)) == 2


def test_a_slow_framework_still_gets_its_rounds_and_no_more() -> None:
    machine = Machine()
    made = measure({"slow": machine.stopwatch(7.0, None)}, clock=machine.clock)["slow"]
    assert len(made.forward) == LEAST_ROUNDS


def test_tight_quartiles_end_the_rounds_before_the_budget_is_spent() -> None:
    machine = Machine()
    measure({"one": machine.stopwatch(1e-3, None)}, clock=machine.clock, budget_s=1000.0)
    assert machine.now < 1.0


def test_calls_too_short_for_the_clock_are_read_in_groups() -> None:
    """Steps of 1 ms and calls of 10 us: single readings would be 0 or 1 ms."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1e-6
        return round(now[0], 3)

    def call() -> None:
        now[0] += 1e-5

    made = measure({"one": Stopwatch(call, None)}, clock=clock)["one"]
    assert quartiles(made.forward).median == pytest.approx(1e-5, rel=0.05)


def test_garbage_is_not_collected_while_measuring_and_is_again_after() -> None:
    machine = Machine()
    seen: list[bool] = []

    def call() -> None:
        seen.append(gc.isenabled())
        machine.work(1.0)

    assert gc.isenabled()
    measure({"one": Stopwatch(call, None)}, clock=machine.clock)
    assert seen[-LEAST_ROUNDS:] == [False] * LEAST_ROUNDS
    assert gc.isenabled()


def test_noise_does_not_make_time_negative() -> None:
    machine = Machine()
    stopwatch = Stopwatch(lambda: machine.work(2e-3), lambda: machine.work(1e-3))
    made = measure({"one": stopwatch}, clock=machine.clock)["one"]
    assert set(made.backward) == {0.0}


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50))
def test_quartiles_are_ordered_and_within_the_sample(durations: list[float]) -> None:
    found = quartiles(durations)
    assert found.rounds == len(durations)
    slack = 1 + 1e-12
    assert min(durations) <= found.low * slack
    assert found.low <= found.median * slack
    assert found.median <= found.high * slack
    assert found.high <= max(durations) * slack


def test_quartiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one duration"):
        quartiles([])


def test_few_rounds_are_never_tight() -> None:
    assert tightness([1.0] * (LEAST_ROUNDS - 1)) == float("inf")
    assert tightness([1.0] * LEAST_ROUNDS) == 0.0
    assert not Durations(forward=[1.0, 9.0] * 5).is_tight()
