"""The fixtures: plain callables that live as long as the session.

Hypothesis forbids function-scoped fixtures under `@given`, rightly, so nothing here belongs to one
test: each callable looks up the item that runs when it is called.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_fwcompare.errors import FwcompareError, UsageError
from pytest_fwcompare.items import (
    CURRENT,
    GATE,
    GOLDEN,
    RECORDS,
    SETTINGS,
    differentiates,
    item_case,
    item_group,
    place,
)
from pytest_fwcompare.options import Case, Settings, cases
from pytest_fwcompare.workers.grouping import group_of

if TYPE_CHECKING:
    from pytest_fwcompare.gate.conditions import Condition
    from pytest_fwcompare.networks import Network
    from pytest_fwcompare.records import Comparison, Timing


class Fixture:
    """What the three callables share: the item that runs, its case, its record."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @property
    def item(self) -> pytest.Item:
        """The item that runs now.

        Raises:
            UsageError: none does.
        """
        item = self._config.stash.get(CURRENT, None)
        if item is None:
            raise UsageError("fwcompare fixtures can only be called while a test runs")
        return item

    @property
    def case(self) -> Case:
        """The axes of the item that runs now: framework, device, dtype, mode.

        A test that got its fixture by `request.getfixturevalue` has no axes of its own; it runs
        the first of what was selected.
        """
        case = item_case(self.item)
        if case is None:
            made = cases(self._config.stash[SETTINGS], {}, frameworks=False, modes=True)
            if isinstance(made, str):
                raise UsageError(made)
            case = next(iter(made))
        return case

    def _made(self) -> int:
        """How many comparisons the running item has recorded."""
        records = self.item.stash.get(RECORDS, None)
        return 0 if records is None else len(records.comparisons)

    def _wants_timings(self) -> bool:
        """Not under `--fwcompare-no-timings`, and once only where Hypothesis repeats the test."""
        wanted = self._config.stash[SETTINGS].timings
        return wanted and not (in_hypothesis() and self._made())

    def _compare(
        self,
        reference: Any,
        port: Any,
        keywords: dict[str, Any],
        fail_on: tuple[str, ...] | None,
        time: Callable[[dict[str, Any]], tuple[Timing, ...]] | None = None,
    ) -> Comparison:
        """Compare on the item's axes, record, and fail if it must; `time` gives the timings."""
        __tracebackhide__ = True
        settings, case, item = self._config.stash[SETTINGS], self.case, self.item
        check_keywords(keywords, type(self).__name__)
        for key in ("device", "dtype", "mode"):
            keywords.setdefault(key, getattr(case, key))
        if case.examples is not None:
            keywords["examples"] = case.examples
        if settings.report.tensorboard is not None:
            keywords.setdefault("distributions", True)
        if settings.thorough:
            keywords.setdefault("thorough", True)
        if settings.repro is not None:
            name = re.sub(r"[^\w.-]+", "-", item.nodeid).strip("-")
            made = 0 if in_hypothesis() else self._made()
            keywords.setdefault("repro", settings.repro / (f"{name}-{made + 1}" if made else name))
        gate = self._config.stash.get(GATE, None)
        if gate is not None:
            keywords.setdefault("deterministic", True)
        conditions = self._conditions(fail_on)
        try:
            comparison = self._make(reference, port, keywords)
            timings = comparison.timings if time is None else time(keywords)
        except FwcompareError as error:
            reraise(error)
        if comparison.unsupported:
            pytest.skip(" ".join(comparison.message.split()))
        shared = hasattr(self._config, "workerinput")
        comparison = dataclasses.replace(
            comparison,
            replay=replay(item.nodeid, settings, comparison.replay),
            timings=tuple(dataclasses.replace(t, shared_machine=shared) for t in timings),
        )
        repeated = in_hypothesis()
        if gate is not None:
            comparison = gate.examined(comparison, item, place(item, comparison, repeated))
        record(item, comparison, repeated=repeated)
        fail_if(comparison, conditions)
        return comparison

    def _make(self, reference: Any, port: Any, keywords: dict[str, Any]) -> Comparison:
        """The comparison itself."""
        import pytest_fwcompare

        return pytest_fwcompare.compare(reference, port, **keywords)

    def _conditions(self, fail_on: tuple[str, ...] | None) -> tuple[Condition, ...]:
        """What fails the comparison: what the call says, else what the run says."""
        settings = self._config.stash[SETTINGS].gate
        if fail_on is None:
            return settings.conditions
        from pytest_fwcompare.gate.conditions import parse

        found = parse(",".join(fail_on), "fail_on") if fail_on else ()
        return tuple(c for c in found if not (settings.update and c.what == "drift"))


class FwcomparePort(Fixture):
    """`fwcompare_port(reference, port, inputs=..., ...)`: as `compare`, on the item's axes."""

    def __call__(
        self, reference: Any, port: Any, *, fail_on: tuple[str, ...] | None = None, **keywords: Any
    ) -> Comparison:
        """Compare and record; fail the test unless the port is equivalent.

        Args:
            reference: model, factory or Network that is taken as right.
            port: the one that is judged.
            fail_on: conditions that fail, instead of those of `--fwcompare-fail-on`.
            **keywords: of `compare`; device, dtype and mode come from the item where not given.

        Raises:
            AssertionError: with the comparison's summary.
            FwcompareError: it could not be made.
        """
        __tracebackhide__ = True
        keywords.setdefault("timings", self._wants_timings())
        return self._compare(reference, port, keywords, fail_on)

    def _make(self, reference: Any, port: Any, keywords: dict[str, Any]) -> Comparison:
        """The comparison; with golden traces its reference is recorded, or replayed."""
        golden = self._config.stash.get(GOLDEN, None)
        if golden is None:
            return super()._make(reference, port, keywords)
        if in_hypothesis():
            raise UsageError(
                "golden traces: a test under @given draws other comparisons each time; give the "
                "strategies to fwcompare_port(inputs=...) instead"
            )
        from pytest_fwcompare.gate.entries import case_key

        case = case_key(self.item.nodeid, self._made() + 1)
        return golden.compare(super()._make, reference, port, keywords, case)


class FwcompareNetwork(Fixture):
    """`fwcompare_network(network, inputs=..., ...)`: one framework against the NumPy reference.

    The frameworks of a test's other items are timed in turns with this one, once for all of them:
    times taken minutes apart would compare the machine with itself.
    """

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self._timings: dict[tuple[str, str, int], tuple[Timing, ...]] = {}

    def __call__(
        self,
        network: Network,
        inputs: Mapping[str, Any] | None = None,
        *,
        fail_on: tuple[str, ...] | None = None,
        **keywords: Any,
    ) -> Comparison:
        """Build the network in the item's framework and judge it; record, and fail if it differs.

        Args:
            network: the description.
            inputs: as for `compare`; None takes the network's own.
            fail_on: conditions that fail, instead of those of `--fwcompare-fail-on`.
            **keywords: of `compare`.

        Raises:
            AssertionError: with the comparison's summary.
            FwcompareError: it could not be made.
        """
        __tracebackhide__ = True
        from pytest_fwcompare.networks import Network
        from pytest_fwcompare.sides import InFramework

        framework = self.case.framework
        if framework is None:
            raise UsageError(
                "fwcompare_network: this test has no framework axis; take the fixture as an "
                "argument of the test, not by request.getfixturevalue"
            )
        if not isinstance(network, Network):
            raise UsageError(
                f"fwcompare_network: expected a network described with "
                f"pytest_fwcompare.networks, got {type(network).__name__}; fwcompare_port takes "
                f"models"
            )
        keywords["inputs"] = network.inputs if inputs is None else inputs
        if not differentiates(framework):
            keywords.setdefault("checks", ("forward",))
        wanted = keywords.pop("timings", self._wants_timings())

        def time(used: dict[str, Any]) -> tuple[Timing, ...]:
            return self._time(network, used) if wanted else ()

        return self._compare(
            InFramework(network, "numpy"), InFramework(network, framework), keywords, fail_on, time
        )

    def _timed_as(self, item: pytest.Item) -> tuple[str, str]:
        """Items that have this in common are timed together.

        Not those that pytest-xdist keeps in another process, where each framework is timed alone
        in its worker: there is no turn to take, and their workers would be started here for it.
        """
        apart = self._config.stash[SETTINGS].workers.isolate == "framework"
        return item_group(item), group_of(item) if apart else ""

    def _time(self, network: Network, keywords: Mapping[str, Any]) -> tuple[Timing, ...]:
        """Timings of all frameworks that items of this test in this run are judged in."""
        from pytest_fwcompare.timing import sides

        group = self._timed_as(self.item)
        key = (*group, self._made())
        if key not in self._timings:
            others = [i for i in self.item.session.items if self._timed_as(i) == group]
            judged = [case for item in others if (case := item_case(item)) is not None]
            self._timings[key] = sides.time_network(
                network,
                list(dict.fromkeys(["numpy", *(c.framework for c in judged if c.framework)])),
                keywords["inputs"],
                dtype=keywords["dtype"],
                device=keywords["device"],
                mode=keywords["mode"],
                backward="backward" in keywords.get("checks", ("backward",)),
                memory=self._config.stash[SETTINGS].costs.memory,
            )
        return self._timings[key]


class FwcompareBuild(Fixture):
    """`fwcompare_build(network)`: the same network, with the same weights, in every framework."""

    def __call__(self, network: Network, *, seed: int = 0) -> dict[str, Any]:
        """Build a network in every selected framework.

        Args:
            network: the description.
            seed: of the random weights.

        Returns:
            Native models by framework, "numpy" among them.

        Raises:
            FwcompareError: a framework asked for by name is missing, or cannot build it.
        """
        __tracebackhide__ = True
        from pytest_fwcompare.building import build_identical
        from pytest_fwcompare.selection import build_frameworks

        case = self.case
        try:
            names = build_frameworks(case)
            return build_identical(network, names, dtype=case.dtype, device=case.device, seed=seed)
        except FwcompareError as error:
            reraise(error)


@pytest.fixture(scope="session")
def fwcompare_build(pytestconfig: pytest.Config) -> Callable[..., dict[str, Any]]:
    """Builds a described network in every framework, with the same weights: `FwcompareBuild`."""
    return FwcompareBuild(pytestconfig)


@pytest.fixture(scope="session")
def fwcompare_network(pytestconfig: pytest.Config) -> Callable[..., Comparison]:
    """Judges a described network in one framework against NumPy: `FwcompareNetwork`."""
    return FwcompareNetwork(pytestconfig)


@pytest.fixture(scope="session")
def fwcompare_port(pytestconfig: pytest.Config) -> Callable[..., Comparison]:
    """Compares two models: `FwcomparePort`."""
    return FwcomparePort(pytestconfig)


NAMES = {"FwcomparePort": "fwcompare_port", "FwcompareNetwork": "fwcompare_network"}


def check_keywords(keywords: Mapping[str, Any], caller: str) -> None:
    """Refuse what `compare` does not take, in the words of the fixture that was called.

    Raises:
        UsageError: an unknown keyword, with the nearest known one; or no inputs.
    """
    __tracebackhide__ = True
    import difflib
    import inspect

    from pytest_fwcompare.comparison import compare

    name = NAMES.get(caller, caller)
    known = [*list(inspect.signature(compare).parameters)[2:], "fail_on"]
    for key in keywords:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{name}: unknown keyword {key!r}; it takes {', '.join(known)}{hint}")
    if "inputs" not in keywords:
        raise UsageError(
            f"{name}: inputs= is missing; say what the models take, in order, such as "
            f'inputs={{"x": TensorSpec(("batch", 8))}}'
        )


def record(item: pytest.Item, comparison: Comparison, *, repeated: bool) -> None:
    """Keep a comparison with its item and bring the item's properties up to date."""
    from pytest_fwcompare.recording import PREFIX, ItemRecords

    records = item.stash.setdefault(RECORDS, ItemRecords())
    records.add(comparison, repeated=repeated)
    item.user_properties[:] = [
        entry for entry in item.user_properties if not entry[0].startswith(PREFIX)
    ] + records.properties()


def not_compared(
    item: pytest.Item, error: pytest.ExceptionInfo[BaseException] | None
) -> list[dict[str, str | int]]:
    """What is reported of a test that failed before it compared anything, lest it be missing.

    Nothing of tests that are not there to compare.
    """
    case, settings = item_case(item), item.config.stash[SETTINGS]
    if case is None or case.mode is None or not settings.enabled:
        return []
    from pytest_fwcompare.recording import Result
    from pytest_fwcompare.records import Comparison

    message = "the test failed before anything was compared"
    if error is not None:
        message = f"{message}: {error.exconly(tryshort=True)}"
    made = Comparison(
        "error",
        "unknown" if case.framework is None else "numpy",
        case.framework or "unknown",
        dtype=case.dtype,
        device=case.device,
        mode=case.mode,
        message=message,
        replay=replay(item.nodeid, settings, ""),
    )
    return [Result(item.nodeid, item_group(item), 1, 1, made, "failed").to_plain()]


def fail_if(comparison: Comparison, conditions: tuple[Condition, ...]) -> None:
    """Raise AssertionError with the comparison's summary if it meets one of the conditions."""
    __tracebackhide__ = True
    from pytest_fwcompare.gate.conditions import exceeded, verdicts

    said = exceeded(comparison, conditions)
    if said:
        raise AssertionError("\n".join([*said, comparison.summary()]))
    comparison.assert_equivalent(verdicts(conditions))


def in_hypothesis() -> bool:
    """True inside a test body that Hypothesis runs; never imports it."""
    hypothesis = sys.modules.get("hypothesis")
    return hypothesis is not None and bool(hypothesis.currently_in_test_context())


def replay(nodeid: str, settings: Settings, further: str) -> str:
    """The command that runs one item again, and what `compare` has to add to it."""
    command = " ".join(shlex.quote(part) for part in ("pytest", *settings.command, nodeid))
    return f"{command}\n{further}" if further else command


def reraise(error: FwcompareError) -> NoReturn:
    """Raise an error again without this package's frames: the user's line is what matters."""
    __tracebackhide__ = True
    raise error.with_traceback(None) from error.__cause__
