"""Windows and patches cut and put together otherwise, told from heads read otherwise."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
from attentions import IMAGE, SIZES, attention, net, patches, windows
from twofold import PAIRS, diagnose_twofold, each_with_pairs

FAULTS = {
    "no windows": (windows(), windows(None, None)),
    "not put back": (windows(), windows(back=None)),
    "not cut": (windows(), windows(there=None)),
    "columns of windows first": (windows(), windows((0, 3, 1, 2, 4, 5))),
    "cells put back by columns": (windows(), windows(back=(0, 1, 4, 2, 3, 5))),
    "channels before cells": (patches(), patches((0, 1, 3, 5, 2, 4))),
    "cells by columns": (patches(), patches((0, 1, 3, 4, 2, 5))),
    "patches by columns": (patches(), patches((0, 3, 1, 2, 4, 5))),
    "no patches": (patches(), patches(None)),
}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(FAULTS))
def test_places_in_another_order(name: str, pair: tuple[str, str]) -> None:
    right, wrong = FAULTS[name]
    found = diagnose_twofold(net(right), net(wrong), pair, SIZES, IMAGE)
    assert found.cause == "flatten-order", found
    assert not found.others


@pytest.mark.parametrize("name", ["no windows", "not cut", "not put back"])
def test_the_evidence_says_which_way_was_left_out(name: str) -> None:
    right, wrong = FAULTS[name]
    found = diagnose_twofold(net(right), net(wrong), PAIRS[0], SIZES, IMAGE)
    assert ("there and back" in found.evidence[0]) == (name == "no windows"), found.evidence


@pytest.mark.parametrize("pair", PAIRS[:2])
def test_the_same_windows_are_no_fault(pair: tuple[str, str]) -> None:
    """Windows do not see each other: in which order they lie between is nobody's business."""
    other = windows((0, 3, 1, 2, 4, 5), (0, 2, 3, 1, 4, 5))
    for same in (windows(), other):
        assert diagnose_twofold(net(windows()), net(same), pair, SIZES, IMAGE).culprit is None


def as_it_lies(np, q, k, v):
    def read(y):
        batch, heads, time, size = y.shape
        return np.turn(y, 0, 2, 1, 3).reshape(batch, heads, time, size)

    return read(q), read(k), read(v)


@pytest.mark.parametrize("pair", PAIRS)
def test_heads_within_windows_stay_heads(pair: tuple[str, str]) -> None:
    port = windows(inner=attention(turn=as_it_lies))
    found = diagnose_twofold(net(windows()), net(port), pair, SIZES, IMAGE)
    assert found.cause == "head-split", found


def rolled(np, p, x):
    return windows()(np, p, np.roll(x, 1, 1))


def some_rows(np, p, x):
    return windows()(np, p, np.cat([x[:, :2], np.roll(x[:, 2:], 1, 2)], 1))


ALIKE = {"a roll before": rolled, "a roll of some rows": some_rows}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(ALIKE))
def test_other_places_in_windows_are_no_order_of_axes(name: str, pair: tuple[str, str]) -> None:
    found = diagnose_twofold(net(windows()), net(ALIKE[name]), pair, SIZES, IMAGE)
    assert found.culprit is not None
    assert found.cause not in ("flatten-order", "head-split", "channel-order"), found
