"""Interleaved rounds on a simulated machine, where the true durations are known."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.backends.base import Stopwatch
from pytest_fwcompare.timing import rounds
from pytest_fwcompare.timing.rounds import (
    LEAST_ROUNDS,
    LONG_S,
    Durations,
    fastest,
    measure,
    quartiles,
    ratio,
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
    """The machine gets half as slow again during the run; equal frameworks stay equal."""
    machine = Machine(drift=0.5)
    made = measure(
        {name: machine.stopwatch(3e-3, 3e-3) for name in ("one", "other", "third")},
        clock=machine.clock,
    )
    medians = [statistics.median(durations.forward) for durations in made.values()]
    assert max(medians) / min(medians) < 1.1
    drifted = made["one"].forward
    assert max(drifted) > 1.3 * min(drifted), "the planted drift did not show at all"


class Caches:
    """A processor whose caches are those of the last framework that ran."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.owner, self.calls = machine, "", 0

    def work(self, seconds: float, name: str) -> None:
        self.calls = self.calls + 1 if name == self.owner else 0
        self.owner = name
        # As measured for LeNet in four frameworks: 2.7, 1.7, 1.4, 1.3, 1.2, ...
        self.machine.work(seconds * (1 + 1.7 / (1 + self.calls) ** 1.3), name)


@pytest.mark.parametrize("settles", [True, False])
def test_what_others_left_in_the_caches_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, settles: bool
) -> None:
    if not settles:
        monkeypatch.setattr(rounds, "SETTLING_CALLS", 1)
    machine = Machine()
    caches = Caches(machine)
    made = measure(
        {
            name: Stopwatch(lambda name=name: caches.work(3e-3, name), None)  # type: ignore[misc]
            for name in ("one", "other")
        },
        clock=machine.clock,
    )
    found = [quartiles(durations.forward).median / 3e-3 for durations in made.values()]
    if settles:
        assert max(found) < 1.15
    else:
        assert min(found) > 1.25, "the planted caches did not show at all"


def test_no_framework_always_goes_first() -> None:
    machine = Machine()
    # Slow calls: after the first round one a slot, so the log shows the order of the slots.
    measure(
        {name: machine.stopwatch(2 * LONG_S, None, name) for name in ("one", "other")},
        clock=machine.clock,
        budget_s=5.0,
    )
    slots = machine.log[-2 * (LEAST_ROUNDS - 1) :]
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


@pytest.mark.parametrize(
    ("count", "outside"), [(1, 0), (5, 0), (6, 0), (9, 1), (20, 5), (200, 85)]
)
def test_the_interval_leaves_out_as_many_as_the_tables_say(count: int, outside: int) -> None:
    """Ranks of a distribution-free 95 % interval of the median, as tabled by Hahn and Meeker."""
    found = ratio([float(i + 1) for i in range(count)], [1.0] * count)
    assert (found.low, found.high) == (1.0 + outside, count - outside)
    assert found.rounds == count


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    generator = random.Random(0)
    missed = 0
    for _ in range(400):
        mine = [generator.lognormvariate(0.0, 0.5) for _ in range(25)]
        others = [generator.lognormvariate(0.0, 0.5) for _ in range(25)]
        found = ratio(mine, others)
        missed += not found.low <= 1.0 <= found.high
    assert 4 <= missed <= 32  # 5 % of 400, and some luck


def test_a_ratio_is_of_the_same_rounds() -> None:
    """The machine gets ten times slower on the way; round by round the ratio is exact."""
    slower = [1.0 * 10 ** (i / 20) for i in range(21)]
    found = ratio([1.5 * value for value in slower], slower)
    assert (found.low, found.median, found.high) == pytest.approx((1.5, 1.5, 1.5))
    with pytest.raises(ValueError, match="at least one round"):
        ratio([], [])
    with pytest.raises(ValueError):  # noqa: PT011  not the same rounds
        ratio([1.0, 2.0], [1.0])


def test_the_fastest_is_whom_nobody_beats_round_by_round() -> None:
    """Its median over all rounds is the larger one here: the machine changed its pace."""
    rounds = {"slow": [1.1, 1.1, 1.1, 2.9, 2.9], "fast": [1.0, 1.0, 3.0, 2.8, 2.8]}
    assert statistics.median(rounds["fast"]) > statistics.median(rounds["slow"])
    assert fastest(rounds) == "fast"
    assert ratio(rounds["slow"], rounds["fast"]).median > 1.0


@given(
    st.lists(
        st.tuples(*[st.floats(1e-6, 1.0)] * 3),
        min_size=1,
        max_size=9,
    )
)
def test_the_fastest_is_beaten_by_one_only_where_each_is(rounds: list[tuple[float, ...]]) -> None:
    named = dict(zip("abc", zip(*rounds, strict=True), strict=True))
    beaten = {
        name: any(ratio(mine, others).median > 1.0 for others in named.values())
        for name, mine in named.items()
    }
    assert not beaten[fastest(named)] or all(beaten.values())


def test_each_round_is_kept_whole() -> None:
    machine = Machine()
    made = measure(
        {"one": machine.stopwatch(2e-3, 5e-3), "two": machine.stopwatch(4e-3, 10e-3)},
        clock=machine.clock,
    )
    assert len(made["one"].rounds) == len(made["two"].rounds) >= LEAST_ROUNDS
    assert ratio(made["two"].rounds, made["one"].rounds).median == pytest.approx(2.0, rel=1e-3)


def test_settings_stand_around_every_call_and_are_entered_for_many() -> None:
    machine, inside, entered = Machine(), [False], [0]

    @contextmanager
    def settings() -> Iterator[None]:
        entered[0] += 1
        inside[0] = True
        try:
            yield
        finally:
            inside[0] = False

    def call() -> None:
        assert inside[0]
        machine.work(1e-4)

    made = measure({"one": Stopwatch(call, None, settings=settings)}, clock=machine.clock)["one"]
    assert entered[0] < len(made.forward) / 10


def test_host_and_device_come_apart() -> None:
    machine, queued = Machine(), [0.0]

    def queue() -> None:
        machine.work(1e-5)
        queued[0] += 3e-3

    def forward() -> None:
        queue()
        machine.work(queued[0])
        queued[0] = 0.0

    made = measure(
        {"one": Stopwatch(forward, None, queue=queue, on_device=lambda: 3e-3)},
        clock=machine.clock,
    )["one"]
    assert made.host_s == pytest.approx(1e-5, rel=1e-2)
    assert made.device_s == 3e-3
    assert quartiles(made.forward).median == pytest.approx(3.01e-3, rel=1e-2)
    waits = measure({"one": machine.stopwatch(1e-3, None)}, clock=machine.clock)["one"]
    assert (waits.host_s, waits.device_s) == (None, None)
