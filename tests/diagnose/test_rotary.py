"""Rotary positions: what is turned, which features of it, and by how much."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
from attentions import SEQUENCE, SIZES, attention, net, plain, rotary
from twofold import PAIRS, diagnose_twofold, each_with_pairs

from pytest_fwcompare.diagnose.repairs.rotary import turn_between

FAULTS = {
    "queries not turned": (rotary(), rotary("k"), "not turned by position in one"),
    "keys not turned": (rotary(), rotary("q"), "not turned by position in one"),
    "nothing turned": (rotary(), None, "not turned by position the"),
    "values turned as well": (rotary(), rotary("qkv"), "values turned by position as well"),
    "values left as they are": (rotary("qkv"), rotary(), "values not turned by position"),
    "the first half turned": (rotary(), rotary(part=2), "features 0 to 1 turned"),
    "the last half turned": (
        rotary(part=2),
        rotary(part=2, begin=2),
        "",
    ),
    "all turned": (rotary(part=2), rotary(), "features 0 to 3 turned, halves paired"),
    "another base": (rotary(), rotary(base=1234.0), "1234 (reference 10000)"),
    "keys one step on": (rotary(), rotary(shift=1, only="k"), ""),
    "queries three steps on": (rotary(), rotary(shift=3, only="q"), ""),
    "the other way": (rotary(), rotary(way=-1.0), ""),
    "neighbours paired": (rotary(), rotary(neighbours=True), "parts interleaved"),
    "given tables, queries not turned": (
        rotary(given=True),
        rotary("k", given=True),
        "not turned by position in one",
    ),
    "given tables, another base": (
        rotary(given=True),
        rotary(given=True, base=777.0),
        "777 (reference 10000)",
    ),
    "given tables, all turned": (
        rotary(given=True, part=2),
        rotary(given=True),
        "features 0 to 3 turned, halves paired",
    ),
    "slower steps": (rotary(), rotary(times=0.25), ""),
}


def diagnosed(right, wrong, pair):
    nets = [net(attention(turn=turn)) for turn in (right, wrong)]
    return diagnose_twofold(*nets, pair, SIZES, SEQUENCE)


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(FAULTS))
def test_other_turns(name: str, pair: tuple[str, str]) -> None:
    right, wrong, text = FAULTS[name]
    found = diagnosed(right, wrong, pair)
    assert found.cause == "position", found
    assert text in found.evidence[0]


@pytest.mark.parametrize("pair", PAIRS)
def test_both_from_another_step_on_are_turned_alike(pair: tuple[str, str]) -> None:
    """Scores see distances alone, so nothing is wrong."""
    found = diagnosed(rotary(), rotary(shift=2), pair)
    assert found.culprit is None, found


def squeezed(names, q, k, v):
    q, k, v = rotary()(names, q, k, v)
    return q * 0.5, k * 2.5, v


def mirrored(names, q, k, v):
    """Rows keep their length, but by a reflection that no position has a part in."""
    signs = names.array(np.array([1.0, -1.0, 1.0, 1.0]), q)
    q, k, v = rotary()(names, q, k, v)
    return q * signs, k, v


def bent(names, q, k, v):
    """Angles that grow with the square of the step."""
    steps = names.array(np.arange(q.shape[-2]) ** 2 * 0.1, q)[:, None]
    cos, sin = names.cos(steps), names.sin(steps)

    def turned(x):
        a, b = x[..., :2], x[..., 2:]
        return names.cat([a * cos - b * sin, a * sin + b * cos], -1)

    return turned(q), turned(k), v


ALIKE = {"other lengths": squeezed, "a reflection": mirrored, "squares of steps": bent}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(ALIKE))
def test_what_is_no_turn_by_steps(name: str, pair: tuple[str, str]) -> None:
    found = diagnosed(rotary(), ALIKE[name], pair)
    assert found.culprit is not None
    assert found.cause != "position", found


def scores_with(noise):
    def scores(names, p, q, k, v):
        return plain(names, p, q, k, v) + names.array(noise, q)

    return scores


@pytest.mark.parametrize("pair", PAIRS)
def test_scores_moved_by_something_else(pair: tuple[str, str]) -> None:
    noise = np.random.default_rng(2).normal(size=(6, 6))
    nets = [net(attention(turn=rotary())), net(attention(scores_with(noise), rotary()))]
    found = diagnose_twofold(*nets, pair, SIZES, SEQUENCE)
    assert found.culprit is not None
    assert found.cause is None, found


def test_a_turn_is_read_from_rows_before_and_after() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 8))
    rates = 100.0 ** (-np.arange(3) / 3)
    angles = np.arange(5)[:, None, None] * rates
    y = x.copy()
    first, second = x[..., 1:4], x[..., 4:7]
    y[..., 1:4] = first * np.cos(angles) - second * np.sin(angles)
    y[..., 4:7] = first * np.sin(angles) + second * np.cos(angles)
    found = turn_between(x, y)
    assert found is not None
    assert (found.first.tolist(), found.second.tolist()) == ([1, 2, 3], [4, 5, 6])
    assert found.axis == -3
    np.testing.assert_allclose(found.rates, rates, rtol=1e-9)
    np.testing.assert_allclose(found.apply(x), y, atol=1e-12)


@pytest.mark.parametrize("other", ["itself", "negative", "shuffled", "of other lengths"])
def test_no_turn_is_read_where_there_is_none(other: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 8))
    made = {
        "itself": x,
        "negative": -x,
        "shuffled": x[..., ::-1],
        "of other lengths": x * np.linspace(1, 2, 5)[:, None, None],
    }[other]
    assert turn_between(x, made) is None
