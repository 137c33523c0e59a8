"""What pytest keeps for this plugin, by its stash keys, and what an item of it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_fwcompare.options import Case, Settings

if TYPE_CHECKING:
    from pytest_fwcompare.golden.session import GoldenSession
    from pytest_fwcompare.recording import ItemRecords
    from pytest_fwcompare.records import Comparison

FIXTURES = frozenset({"fwcompare_build", "fwcompare_network", "fwcompare_port"})

CASE = "fwcompare_case"
"""Name of the parameter that carries an item's case."""


class Gate(Protocol):
    """What the fixtures ask of a run with a baseline."""

    def examined(self, comparison: Comparison, item: pytest.Item, index: int) -> Comparison:
        """The comparison with its drift."""


SETTINGS = pytest.StashKey[Settings]()
CURRENT = pytest.StashKey["pytest.Item | None"]()
GOLDEN: pytest.StashKey[GoldenSession] = pytest.StashKey()
GATE: pytest.StashKey[Gate] = pytest.StashKey()
RECORDS: pytest.StashKey[ItemRecords] = pytest.StashKey()


def item_case(item: pytest.Item) -> Case | None:
    """The axes of an item, None if it has none."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(CASE)


def item_frameworks(item: pytest.Item) -> tuple[str, ...] | None:
    """The frameworks that an item builds in, None if it compares nothing.

    A test that brings its own models has none, unless its marker names them.
    """
    case = item_case(item)
    if case is None:
        return None
    if case.framework is not None:
        return (case.framework,)
    marked = any("frameworks" in mark.kwargs for mark in item.iter_markers("fwcompare"))
    return case.frameworks.values if case.mode is None or marked else ()


def differentiates(framework: str) -> bool:
    """Whether a framework gives gradients; Keras on NumPy does not."""
    from pytest_fwcompare.backends.registry import backend

    return backend(framework).can_differentiate


def item_group(item: pytest.Item) -> str:
    """The node id without the framework: items that share it are ranked by speed."""
    case = item_case(item)
    return item.nodeid if case is None else item.nodeid.replace(case.id, case.rest)


def place(item: pytest.Item, comparison: Comparison, repeated: bool) -> int:
    """Which of the item's comparisons this is, 1 for the first; see `ItemRecords.add`."""
    records = item.stash.get(RECORDS, None)
    return 1 if records is None else records.place(comparison, repeated=repeated) + 1
