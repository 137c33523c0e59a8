"""Which operations of a record count: those whose value reaches an output."""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.backends.base import Recorded
from pytest_fwcompare.diagnose.graph import Graph


def record(index, gradient, inputs=()):
    return Recorded(index, "", "op", np.ones(3) * index, inputs=inputs, gradient=gradient)


def test_the_last_state_of_a_loop_that_nobody_uses_is_not_live():
    used, none = np.ones(3), np.zeros(3)
    records = [
        record(0, used),
        record(1, none, (0,)),  # the loop's last state: differentiated, and never used
        record(2, used, (0,)),  # its sequence
        record(3, None, (2,)),
    ]
    assert Graph(records).live == {0, 2}
    # A gradient of zeros on the way to an output is one that saturated or was stopped.
    records[3] = record(3, used, (1, 2))
    assert Graph(records).live == {0, 1, 2, 3}
