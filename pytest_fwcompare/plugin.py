"""Pytest hooks and nothing else."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_fwcompare import options
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.fixtures import (  # noqa: F401  fixtures are found by being here
    fwcompare_build,
    fwcompare_network,
    fwcompare_port,
    not_compared,
)
from pytest_fwcompare.items import (
    CASE,
    CURRENT,
    FIXTURES,
    GATE,
    GOLDEN,
    RECORDS,
    SETTINGS,
    item_case,
    item_frameworks,
    item_group,
)

MARKER = (
    "fwcompare(frameworks, devices, dtypes, modes, examples): narrows the axes of the "
    "comparisons made in a test; the test is skipped without --fwcompare"
)

MISTAKES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    try:
        settings = options.read_settings(config)
        if settings.enabled:
            from pytest_fwcompare.workers import grouping
            from pytest_fwcompare.workers.plugin import WorkerHooks

            hooks = WorkerHooks(config, settings.workers)
            config.pluginmanager.register(hooks, "fwcompare-workers")
            grouping.register(config, item_frameworks)
        if settings.enabled and settings.axes["frameworks"].named:
            options.check_frameworks(settings.axes["frameworks"])
    except UsageError as error:
        raise pytest.UsageError(f"fwcompare: {error}") from None
    config.stash[SETTINGS] = settings
    config.stash[MISTAKES] = []
    if not settings.enabled:
        return
    collector = None
    if not hasattr(config, "workerinput"):
        from pytest_fwcompare.report.plugin import Collector

        collector = Collector(config)
    if settings.golden.record is not None or settings.golden.replay is not None:
        from pytest_fwcompare.golden.session import GoldenSession

        config.stash[GOLDEN] = GoldenSession(settings.golden.record, settings.golden.replay)
    if settings.gate.baseline is not None:
        from pytest_fwcompare.gate.plugin import register

        try:
            config.stash[GATE] = register(config, collector.results if collector else None)
        except UsageError as error:
            raise pytest.UsageError(f"fwcompare: --fwcompare-baseline: {error}") from None
    if collector is not None:
        collector.register()


def pytest_report_header(config: pytest.Config) -> str | None:
    settings = config.stash[SETTINGS]
    if not settings.enabled:
        return None
    from pytest_fwcompare.report.terminal import header

    return header(settings)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that compares its axes.

    The axes are a parameter that no fixture takes: the fixtures live as long as the session, so
    that they can be used under `@given`, and find the case of the running item by themselves. A
    session-wide parametrised fixture would also make pytest reorder the tests of others.
    """
    used = FIXTURES.intersection(metafunc.fixturenames)
    markers = list(metafunc.definition.iter_markers("fwcompare"))
    if not used and not markers:
        return
    config = metafunc.config
    try:
        marked: dict[str, Any] = {}
        for marker in reversed(markers):  # the closest one has the last word
            marked.update(options.marker_values(marker.args, marker.kwargs))
    except UsageError as error:
        _mistake(config, f"{metafunc.definition.nodeid}: {error}")
        return
    if not used:
        return
    made = options.cases(
        config.stash[SETTINGS],
        marked,
        frameworks="fwcompare_network" in used,
        modes=used != {"fwcompare_build"},
    )
    if isinstance(made, str):
        none = pytest.param(None, marks=pytest.mark.skip(reason=made), id="none")
        values = [none]
    else:
        values = [pytest.param(case, id=case.id) for case in made]
    metafunc.fixturenames.append(CASE)
    metafunc.parametrize(CASE, values)


def _mistake(config: pytest.Config, text: str) -> None:
    """Remember a usage error that was found while collecting.

    A worker of pytest-xdist can only hand it over as a failed collection; elsewhere it ends the
    run as any wrong option does, all mistakes together.
    """
    if hasattr(config, "workerinput"):
        pytest.fail(text, pytrace=False)
    config.stash[MISTAKES].append(text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if mistakes := config.stash[MISTAKES]:
        raise pytest.UsageError(*(f"fwcompare: {text}" for text in dict.fromkeys(mistakes)))
    if config.stash[SETTINGS].enabled:
        return
    skip = pytest.mark.skip(reason="needs --fwcompare")
    for item in items:
        used = FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if used or item.get_closest_marker("fwcompare"):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    stash = item.config.stash
    before = stash.get(CURRENT, None)
    stash[CURRENT] = item
    try:
        return (yield)
    finally:
        stash[CURRENT] = before


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if RECORDS in item.stash:
        del item.stash[RECORDS]  # the item runs again, as under pytest-rerunfailures
    case = item_case(item)
    if case is None or not item.config.stash[SETTINGS].enabled:
        return
    from pytest_fwcompare.selection import obstacle

    found = obstacle(case)
    if found is not None and found.fails:
        pytest.fail(found.reason, pytrace=False)
    elif found is not None:
        # A marker, read right after this hook, so that the reason is shown at the test.
        item.add_marker(pytest.mark.skip(reason=found.reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    records = item.stash.get(RECORDS, None)
    if records is not None:
        # A report's attributes travel from the workers of pytest-xdist if they are plain data.
        taken = records.take(item.nodeid, item_group(item), report.outcome)
        report.fwcompare = taken  # type: ignore[attr-defined]
    elif report.failed and (missing := not_compared(item, call.excinfo)):
        report.fwcompare = missing  # type: ignore[attr-defined]
    return report
