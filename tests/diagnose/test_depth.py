"""Numbers are solved for in deep networks, whose layers all have tensors of one size."""

from __future__ import annotations

import numpy as np
from tape import Tape

from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.prove import CLOSEST, NEXT, Prover
from pytest_fwcompare.diagnose.replay import Replay

RNG = np.random.default_rng(6)
X, W = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 4))
RIGHT, WRONG = np.tanh(X @ W), 3 * np.sin(X @ W)


def reference():
    tape = Tape()
    product = tape.run("matmul", X @ W, tape.input(X), path="a", constants=(W,))
    tape.run("act", RIGHT, product, path="b")
    return tape.records


def port():
    """Its own tensors before, then the same product, the wrong value, and many later ones."""
    tape = Tape()
    start = last = tape.input(X)
    for step in range(NEXT + 2):
        last = tape.run("own", np.cos(X + step), last, path="before")
    last = tape.run("act", WRONG, tape.run("matmul", X @ W, start, path="a"), path="b")
    for step in range(1, 20):
        last = tape.run("next", RIGHT + 0.01 * step * RIGHT**2, last, path=f"layer{step}")
    return tape.records


def test_what_the_port_computes_next_is_a_target_though_others_are_closer():
    sides = Sides(reference(), port())
    (culprit,) = sides.culprits()
    found = Prover(sides, Replay(sides.graph), culprit).targets(RIGHT)
    assert CLOSEST < len(found) <= CLOSEST + NEXT
    assert any(np.array_equal(target, WRONG) for target in found)
    # Those that are closest come first, as they always did.
    assert np.array_equal(found[0], RIGHT + 0.01 * RIGHT**2)


def test_without_a_culprit_nothing_is_next_to_it():
    sides = Sides(reference(), port())
    found = Prover(sides, Replay(sides.graph)).targets(RIGHT)
    assert not any(np.array_equal(target, WRONG) for target in found)
