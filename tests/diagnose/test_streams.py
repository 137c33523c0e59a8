"""Residual streams: where the norms are, what sublayers take, what is added and how much of it."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
from attentions import SEQUENCE, SIZES, block, net
from twofold import diagnose_twofold, each_with_pairs

FAULTS = {
    "norms behind the sums": (block(), block("after"), "sums normalised instead"),
    "norms before the sublayers": (
        block("after"),
        block(),
        "what goes into the sublayers normalised instead of the sums",
    ),
    "norms behind the sublayers": (block(), block("behind"), "what comes of the sublayers"),
    "beside each other": (block(), block("beside"), ""),
    "one after the other": (block("beside"), block(), "the sum with the result of"),
    "from further back": (block(), block("from further back"), "added instead of its own"),
    "from what is normed": (block(), block("normed"), "added instead of its own"),
    "no learned scale": (block(scale="learned"), block(), "the summand not scaled"),
    "a learned scale twice": (
        block(scale="learned"),
        block(scale="squared"),
        "the summand scaled twice",
    ),
    "no scale": (block(scale=0.5), block(), "no scale (reference 0.5)"),
    "another scale": (block(scale=0.5), block(scale=0.7), "scale=0.7 (reference 0.5)"),
}


def diagnosed(right, wrong, pair):
    return diagnose_twofold(net(right), net(wrong), pair, SIZES, SEQUENCE)


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(FAULTS))
def test_residuals(name: str, pair: tuple[str, str]) -> None:
    right, wrong, text = FAULTS[name]
    found = diagnosed(right, wrong, pair)
    assert found.cause == "residual", found
    assert text in found.evidence[0]


ALIKE = {
    "a function before the norm": (block(), block("bent")),
    "a scale that is another power": (
        block(scale="learned"),
        lambda np, p, x: block(scale=p["scale"] ** 2 + 0.1)(np, p, x),
    ),
}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(ALIKE))
def test_what_is_no_residual_from_elsewhere(name: str, pair: tuple[str, str]) -> None:
    found = diagnosed(*ALIKE[name], pair)
    assert found.culprit is not None
    assert found.cause not in ("residual", "reduction", "norm-affine"), found
