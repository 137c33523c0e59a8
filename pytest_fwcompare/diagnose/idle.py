"""Functions that do nothing to the values at hand: a limit that none of them reaches.

Where the port has such a one in the place of an activation, it looks as if it had none.
"""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.operations import understand

LIMITERS = frozenset(
    (
        *("clamp", "relu", "maximum", "minimum", "leaky_relu", "elu", "celu", "prelu"),
        *("relu6", "hardtanh", "threshold", "soft_cap", "abs"),
    )
)
"""Functions that hand on unchanged what lies on the right side of a limit."""


def limits(record: Recorded) -> str | None:
    """The name of a limiting function, if the operation is one."""
    operation = understand(record)
    name = None if operation is None else operation.options.get("function")
    return str(name) if name in LIMITERS else None


def idle_function(sides: Sides, value: Array) -> str | None:
    """The limiting function through which the port passes a tensor without a change, if any.

    Args:
        sides: both passes, aligned.
        value: a tensor that the port holds before and after that function.
    """
    port, size = sides.port, value.size
    found = sides.index.find(value, sides.tolerance)
    twins = sorted(m.index for m in found if port.records[m.index].value.size == size)
    places = [*twins]
    for last in reversed(twins[1:]):
        before = port.upstream([last])
        for first in twins:
            if first in before and first != last:
                places += sorted(before & port.downstream([first]) - {first})
    for place in places:
        name = limits(port.records[place]) if _is_idle(port, place) else None
        if name is not None:
            return name
    return None


def _is_idle(port: Graph, place: int) -> bool:
    """Whether an operation gives one of its arguments."""
    record = port.records[place]
    return any(
        argument.shape == record.value.shape and np.array_equal(argument, record.value)
        for argument in record.arguments
    )
