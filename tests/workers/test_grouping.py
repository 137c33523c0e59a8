"""Groups of pytest-xdist: which items have one, and that their ids bear it for a moment only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_fwcompare.workers import grouping
from pytest_fwcompare.workers.grouping import Grouping, Reports, group_of


class OldId:
    """How pytest before 9.2 keeps an id."""

    def __init__(self, text: str) -> None:
        self._nodeid = text

    @property
    def nodeid(self) -> str:
        return self._nodeid


class Structured:
    """An id with parts, as since pytest 9.2."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def parse(cls, text: str) -> Structured:
        return cls(text)


class NewId:
    def __init__(self, text: str) -> None:
        self._id = Structured(text)

    @property
    def nodeid(self) -> str:
        return self._id.text


def item(kind: Any, text: str, *groups: str) -> Any:
    """An item of the frameworks in its id's brackets; of none of ours without brackets."""
    made = kind(text)
    made.marks = [SimpleNamespace(args=(group,), kwargs={}) for group in groups]
    made.iter_markers = lambda name: made.marks
    made.add_marker = lambda mark: made.marks.append(mark.mark)
    return made


def frameworks_of(found: Any) -> list[str] | None:
    text = found.nodeid.partition("[")[2].partition("]")[0]
    return text.split("-") if "[" in found.nodeid else None


def while_reported(items: list[Any]) -> list[str]:
    """The ids that pytest-xdist sees."""
    hooks = Grouping(frameworks_of)
    hooks.pytest_collection_modifyitems(items)
    steps = hooks.pytest_collection_finish(SimpleNamespace(items=items))
    next(steps)
    seen = [each.nodeid for each in items]
    with pytest.raises(StopIteration):
        next(steps)
    return seen


@pytest.mark.parametrize("kind", [OldId, NewId])
def test_an_id_bears_its_group_while_it_is_reported_and_no_longer(kind):
    texts = ["a.py::test[torch]", "a.py::test[keras-jax]", "a.py::other"]
    items = [item(kind, text) for text in texts]
    assert while_reported(items) == [
        "a.py::test[torch]@fwcompare-torch",
        "a.py::test[keras-jax]@fwcompare-jax+keras",
        "a.py::other",
    ]
    assert [each.nodeid for each in items] == texts


@pytest.mark.parametrize("kind", [OldId, NewId])
def test_the_groups_of_the_user_outweigh_ours(kind):
    items = [item(kind, "a.py::test[torch]", "z", "b"), item(kind, "a.py::other", "b")]
    assert while_reported(items) == ["a.py::test[torch]@b_z", "a.py::other@b"]
    assert [each.nodeid for each in items] == ["a.py::test[torch]", "a.py::other"]


def test_what_xdist_has_written_is_written_once_and_leaves_our_items_only():
    """The version of pytest-xdist that can writes the groups itself, for good."""
    items = [item(OldId, "a.py::test[torch]@b", "b"), item(OldId, "a.py::other@b", "b")]
    assert while_reported(items) == ["a.py::test[torch]@b", "a.py::other@b"]
    assert [each.nodeid for each in items] == ["a.py::test[torch]", "a.py::other@b"]


def test_a_pytest_that_hides_its_ids_is_told_of(monkeypatch):
    assert Reports().pytest_report_header() is None
    monkeypatch.setattr(grouping, "IDS", ("_hidden",))
    assert Reports().pytest_report_header() == grouping.NOTICE
    items = [item(NewId, "a.py::test[torch]")]
    assert while_reported(items) == ["a.py::test[torch]"]
    assert group_of(items[0]) == "fwcompare-torch"  # a later pytest-xdist may read the mark


def test_the_report_of_a_lost_process_has_the_id_of_the_item():
    for told, expected in (
        ("a.py::test[torch@old-cpu]@fwcompare-torch@old", "a.py::test[torch@old-cpu]"),
        ("a.py::test[torch@old-cpu]", "a.py::test[torch@old-cpu]"),
        ("a.py::test@mine", "a.py::test@mine"),
    ):
        report = SimpleNamespace(nodeid=told)
        Reports().pytest_handlecrashitem(report)
        assert report.nodeid == expected
