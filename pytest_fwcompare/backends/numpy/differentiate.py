"""Vector-Jacobian products of functions of named arrays, by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from autograd import make_vjp
from autograd.builtins import tuple as traced_tuple

from pytest_fwcompare.backends.numpy.traced import Array, Value


def pulled(
    function: Callable[[dict[str, Value]], dict[str, Value]], leaves: Mapping[str, Array]
) -> tuple[dict[str, Array], Callable[[Mapping[str, Array]], dict[str, Array]]]:
    """Run a function and get ready to run it backward.

    Args:
        function: from arrays by name to arrays by name.
        leaves: its arguments, all of floats.

    Returns:
        The outputs, and a function from cotangents by output name (zero where left out) to
        gradients by argument name.
    """
    names = tuple(leaves)
    outputs: list[str] = []

    def positional(values: Any) -> Any:
        made = function({name: values[i] for i, name in enumerate(names)})
        outputs.extend(made)
        # An argument among the outputs: autograd warns where nothing depends on anything.
        return traced_tuple((*made.values(), values[0]))

    if not leaves:
        return {k: np.asarray(v) for k, v in function({}).items()}, lambda cotangents: {}
    vjp, (*answers, first) = make_vjp(positional)(tuple(leaves[name] for name in names))
    values = {name: np.asarray(value) for name, value in zip(outputs, answers, strict=True)}

    def pull(cotangents: Mapping[str, Array]) -> dict[str, Array]:
        seeds = tuple(
            np.asarray(cotangents[name], value.dtype)
            if name in cotangents
            else np.zeros_like(value)
            for name, value in values.items()
        )
        with np.errstate(all="ignore"):
            gradients = vjp((*seeds, np.zeros_like(first)))
        return {
            name: np.asarray(gradient) for name, gradient in zip(names, gradients, strict=True)
        }

    return values, pull
