"""Tables added to scores: slopes of distances, rows of a parameter by relative position."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
from attentions import (
    HEADS,
    SEQUENCE,
    SIZES,
    attention,
    buckets,
    clipped,
    net,
    plain,
    relative,
    slopes,
)
from twofold import PAIRS, diagnose_twofold, each_with_pairs

UPWARD = np.arange(1, HEADS + 1)

FAULTS = {
    "slopes of another progression": (
        slopes(),
        slopes(2.0**-UPWARD),
        "the table times 2, 4, 8, 16 by head",
    ),
    "slopes of no progression": (
        slopes(),
        slopes(np.array([0.3, 0.25, 0.2, 0.01])),
        "the table times 1.2, 4, 12.8, 2.56 by head",
    ),
    "slopes from one on": (slopes(), slopes(2.0 ** (2 - 2 * UPWARD)), "4 times the table"),
    "heads of slopes reversed": (slopes(), slopes(order=[3, 2, 1, 0]), "order (3, 2, 1, 0)"),
    "the other sign": (slopes(), slopes(distance="more"), "-1 times the table"),
    "steps before alone": (slopes(), slopes(distance="before"), "of min(j - i, 0) (reference"),
    "steps on both sides": (slopes(distance="before"), slopes(), "of -|j - i| (reference"),
    "no slopes": (slopes(), plain, "the table not added"),
    "distances turned": (
        relative(clipped()),
        relative(clipped(sign=-1)),
        "the table transposed",
    ),
    "clipped nearer": (
        relative(clipped()),
        relative(clipped(3, centre=5)),
        "rows 2 2 2 3 4 5 6 7 8 8 8 of the table",
    ),
    "clipped farther": (
        relative(clipped(3)),
        relative(clipped(4)),
        "rows 0 0 1 2 3 4 5 6 7 8 8 of the table",
    ),
    "heads of the table reversed": (
        relative(clipped()),
        relative(clipped()[:, :], change=lambda np, t: np.stack([t[h] for h in (3, 2, 1, 0)], 0)),
        "heads of the table in the order (3, 2, 1, 0)",
    ),
    "scaled with the scores": (
        relative(clipped()),
        relative(clipped(), change=lambda np, t: t * 0.5),
        "0.5 times the table",
    ),
    "no table": (relative(clipped()), plain, "the table not added"),
    "buckets up to another distance": (
        relative(buckets(), "buckets"),
        relative(buckets(farthest=8), "buckets"),
        "rows 3 3 2 2 1 0 5 6 6 7 7",
    ),
    "another number of buckets": (
        relative(buckets(), "buckets"),
        relative(buckets(16), "buckets"),
        "rows 4 4 3 2 1 0 9 10 11 12 12",
    ),
    "buckets of one side": (
        relative(buckets(), "buckets"),
        relative(buckets(both=False), "buckets"),
        "rows 4 4 3 2 1 0 0 0 0 0 0",
    ),
}


def diagnosed(right, wrong, pair):
    nets = [net(attention(scores)) for scores in (right, wrong)]
    return diagnose_twofold(*nets, pair, SIZES, SEQUENCE)


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(FAULTS))
def test_other_tables(name: str, pair: tuple[str, str]) -> None:
    right, wrong, text = FAULTS[name]
    found = diagnosed(right, wrong, pair)
    assert found.cause == "position", found
    assert text in found.evidence[0]
    assert not found.others


def waved(np, table):
    return table + 0.1 * np.sin(3 * table)


def of_the_data(np, p, q, k, v):
    return plain(np, p, q, k, v) + 0.1 * np.sin(plain(np, p, q, k, v))


def warmer(np, p, q, k, v):
    """Each head at another temperature: what differs is a multiple of scores, not of a table."""
    return slopes()(np, p, q, k, v) * np.array([[[1.2]], [[0.9]], [[1.0]], [[1.1]]], q)


def shuffled(rows):
    """Some pairs looked up in no row of the table, but half way to the next one."""
    return lambda np, table: table + 0.5 * np.array(rows == rows.max(), table)


ALIKE = {
    "slopes of squares": (slopes(), slopes(distance="squared")),
    "slopes of roots": (slopes(), slopes(distance="roots")),
    "a bent table": (relative(clipped()), relative(clipped(), change=waved)),
    "rows that are none": (
        relative(clipped()),
        relative(clipped(), change=shuffled(clipped())),
    ),
    "scores that are bent": (relative(clipped()), of_the_data),
    "a temperature by head": (slopes(), warmer),
}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(ALIKE))
def test_what_is_not_made_of_the_table(name: str, pair: tuple[str, str]) -> None:
    found = diagnosed(*ALIKE[name], pair)
    assert found.culprit is not None
    assert found.cause is None, found


@pytest.mark.parametrize("pair", PAIRS)
def test_scores_in_other_heads_are_no_table_of_other_heads(pair: tuple[str, str]) -> None:
    def exchanged(np, p, q, k, v):
        order = (1, 0, 2, 3)
        made = np.stack([plain(np, p, q, k, v)[:, head] for head in order], 1)
        return made + relative(clipped())(np, p, q, k, v) - plain(np, p, q, k, v)

    found = diagnosed(relative(clipped()), exchanged, pair)
    assert found.culprit is not None
    assert found.cause != "position", found
