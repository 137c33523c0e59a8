"""Masks of steps, keys and queries, filled in, added, multiplied, or used behind the softmax."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
from attentions import KEPT, SEQUENCE, SIZES, attention, masked, net
from twofold import diagnose_twofold, each_with_pairs

FAULTS = {
    "sees the next step": (masked(0), masked(1)),
    "does not see itself": (masked(0), masked(-1)),
    "sees all": (masked(0), None),
    "sees none of the later": (None, masked(0)),
    "an added mask, shifted": (masked(0, how="add"), masked(1, how="add")),
    "one minus a mask, shifted": (masked(0, how="one minus"), masked(1, how="one minus")),
    "multiplied instead of added": (masked(0, how="add"), masked(0, how="times")),
    "behind the softmax": (masked(0), masked(0, how="behind")),
}

PADDED = {
    "padding forgotten": (masked(over="keys"), None),
    "padding forgotten, steps kept": (masked(0, "keys"), masked(0)),
    "steps forgotten, padding kept": (masked(0, "keys"), masked(over="keys")),
    "queries instead of keys": (masked(over="keys"), masked(over="queries")),
    "queries as well as keys": (masked(over="keys"), masked(over="keys queries")),
    "one minus a mask, of queries": (
        masked(over="keys", how="one minus"),
        masked(over="queries", how="one minus"),
    ),
    "a weak fill": (
        masked(over="keys", how="one minus"),
        masked(over="keys", how="one minus", fill=-1.0),
    ),
}


def diagnosed(right, wrong, pair, *more):
    nets = [net(attention(weigh=w)) for w in (right, wrong)]

    def run(one):  # a mask that is not used is an input nevertheless
        return lambda np, p, x, *kept: one(np, p, x, *kept)

    return diagnose_twofold(*(run(one) for one in nets), pair, SIZES, SEQUENCE, *more)


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(FAULTS))
def test_masks_of_steps(name: str, pair: tuple[str, str]) -> None:
    found = diagnosed(*(weigh or unmasked for weigh in FAULTS[name]), pair)
    assert found.cause == "mask", found


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(PADDED))
def test_masks_of_padding(name: str, pair: tuple[str, str]) -> None:
    found = diagnosed(*(weigh or unmasked for weigh in PADDED[name]), pair, KEPT)
    assert found.cause == "mask", found


def unmasked(np, scores, *kept):
    return np.softmax(scores)


def hotter(np, scores, *kept):
    return masked(0)(np, scores * 1.3)


def weights_halved(np, scores, *kept):
    return masked(0)(np, scores) * 0.5


def weights_to_the_power(np, scores, *kept):
    return masked(0)(np, scores) ** 1.1


ALIKE = {
    "another temperature": hotter,
    "weights halved": weights_halved,
    "a power of the weights": weights_to_the_power,
}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(ALIKE))
def test_what_looks_like_a_mask(name: str, pair: tuple[str, str]) -> None:
    found = diagnosed(masked(0), ALIKE[name], pair)
    assert found.culprit is not None
    assert found.cause not in ("mask", "activation-place"), found
