"""What is built in one framework stays in one process of pytest-xdist, under `--dist loadgroup`.

pytest-xdist tells groups from the ids that its processes report: `test_net[torch]@group`. They get
them by overwriting a private attribute of the items, which pytest 9.2 does not read any more
(xdist 3.8), and where it is read every report, JUnit file and baseline has other ids than a run
without xdist. So an item bears its group's name only while its process reports what it collected.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

Frameworks = Callable[[pytest.Item], Sequence[str] | None]
"""The frameworks that an item builds in, as far as that is known before it runs.

None for items that compare nothing.
"""

PREFIX = "fwcompare-"
"""Of the names of this package's groups."""

IDS = ("_id", "_nodeid")
"""Where an item keeps its id: pytest 9.2, and before."""

NOTICE = (
    "fwcompare: --dist loadgroup: this pytest keeps its ids where they are not found, "
    "so a framework's items may run in several processes"
)


def register(config: pytest.Config, frameworks_of: Frameworks) -> None:
    """Group the items of a process of pytest-xdist; tell the one that starts them of reports.

    Args:
        config: of the run.
        frameworks_of: of an item.
    """
    if getattr(config.option, "loadgroup", False):
        config.pluginmanager.register(Grouping(frameworks_of), "fwcompare-grouping")
    elif getattr(config.option, "dist", "no") == "loadgroup":
        config.pluginmanager.register(Reports(), "fwcompare-grouping")


def group_of(item: pytest.Item) -> str:
    """The name of an item's group as pytest-xdist makes it of its marks; "" if it has none."""
    names = {
        str(mark.args[0] if mark.args else mark.kwargs.get("name", "default"))
        for mark in item.iter_markers("xdist_group")
    }
    return "_".join(sorted(names))


class Grouping:
    """In a process that runs items: marks them, and shows their groups to pytest-xdist.

    Args:
        frameworks_of: of an item.
    """

    def __init__(self, frameworks_of: Frameworks) -> None:
        self._frameworks_of = frameworks_of

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark the items of the same frameworks as a group, unless the user has grouped them."""
        for item in items:
            frameworks = self._frameworks_of(item)
            if frameworks and not group_of(item):
                name = PREFIX + "+".join(sorted(frameworks))
                item.add_marker(pytest.mark.xdist_group(name))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Ids have their groups while pytest-xdist reads them, and are clean afterwards.

        Where pytest-xdist has written a group of the user's into an id, it stays there, except for
        items of ours: it is by their ids that baselines and references know them.
        """
        before = [(item, kept(item), group_of(item)) for item in session.items]
        for item, _, group in before:
            if group:
                put_id(item, f"{item.nodeid.removesuffix(f'@{group}')}@{group}")
        try:
            return (yield)
        finally:
            for item, ids, group in before:
                for name, made in ids.items():
                    setattr(item, name, made)
                ours = self._frameworks_of(item) is not None
                if ours and group and item.nodeid.endswith(f"@{group}"):
                    put_id(item, item.nodeid.removesuffix(f"@{group}"))


def kept(item: pytest.Item) -> dict[str, Any]:
    """What an item keeps its id in."""
    return {name: getattr(item, name) for name in IDS if hasattr(item, name)}


def put_id(item: pytest.Item, nodeid: str) -> None:
    """Give an item another id."""
    for name, made in kept(item).items():
        setattr(item, name, nodeid if isinstance(made, str) else type(made).parse(nodeid))


class Reports:
    """In the process that starts the others: what it reports itself has the ids of the items."""

    def pytest_report_header(self) -> str | None:
        """A notice where items cannot be grouped."""
        return None if any(hasattr(pytest.Item, name) for name in IDS) else NOTICE

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """An item that took its process down is reported here, by the id of the schedule."""
        name, bracket, _ = report.nodeid.rpartition("]@")
        if bracket:
            report.nodeid = f"{name}]"
