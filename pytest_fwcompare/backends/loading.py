"""Values that a side is given to load: held against its parameters before any of them is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.errors import UsageError


def check_values(role: str, parameters: Iterable[Parameter], values: Mapping[str, Array]) -> None:
    """Refuse values that no parameter takes, so that a side loads all that it is given or nothing.

    Args:
        role: of the side, for the message.
        parameters: all that the side has.
        values: by parameter name, in the side's own layout; they need not be all. Those that a
            mapping makes when they are asked for are made for these very shapes, and are not
            made a second time to be looked at.

    Raises:
        UsageError: a name is unknown or a shape differs.
    """
    shapes = {parameter.name: parameter.shape for parameter in parameters}
    if unknown := [name for name in values if name not in shapes]:
        raise UsageError(
            f"{role}: no parameter {', '.join(map(repr, unknown))} in the model; its parameters "
            f"are {', '.join(shapes) or 'none'}"
        )
    for name, value in values.items() if isinstance(values, dict) else ():
        if np.shape(value) != shapes[name]:
            raise UsageError(
                f"{role}: parameter {name!r} has shape {shapes[name]}, got values of shape "
                f"{np.shape(value)}"
            )
