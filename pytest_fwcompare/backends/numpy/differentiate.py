"""Vector-Jacobian products of functions of named arrays, by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from autograd import make_vjp
from autograd.builtins import tuple as traced_tuple
from autograd.extend import defvjp

from pytest_fwcompare.backends.numpy.traced import Array, Value, primitive


@primitive
def leaf(trigger: float, value: Array, keep: Callable[[Array], None]) -> Array:
    """The value, traced as if it came from the trigger; `keep` is given its whole gradient.

    With the leaves of a network in a tuple, autograd would build a tuple of zeros for each of
    them: time by their number squared.
    """
    return value


def _leaf_vjp(
    answer: Array, trigger: float, value: Array, keep: Callable[[Array], None]
) -> Callable[[Array], float]:
    def pull(g: Array) -> float:
        keep(np.asarray(g))
        return 0.0

    return pull


defvjp(leaf, _leaf_vjp)


def pulled(
    function: Callable[[dict[str, Value]], dict[str, Value]], leaves: Mapping[str, Array]
) -> tuple[dict[str, Array], Callable[[Mapping[str, Array]], dict[str, Array | None]]]:
    """Run a function and get ready to run it backward.

    Args:
        function: from arrays by name to arrays by name.
        leaves: its arguments, all of floats.

    Returns:
        The outputs, and a function from cotangents by output name (zero where left out) to
        gradients by argument name: None where no output depends on the argument.
    """
    names: list[str] = []
    gradients: dict[str, Array | None] = {}

    def traced(trigger: Value) -> Value:
        boxes = {
            name: leaf(trigger, value, partial(gradients.__setitem__, name))
            for name, value in leaves.items()
        }
        made = function(boxes)
        names.extend(made)
        # The trigger among the outputs: autograd warns where nothing depends on anything.
        return traced_tuple((*made.values(), trigger))

    vjp, (*answers, _) = make_vjp(traced)(0.0)
    values = {name: np.asarray(value) for name, value in zip(names, answers, strict=True)}

    def pull(cotangents: Mapping[str, Array]) -> dict[str, Array | None]:
        seeds = tuple(
            np.asarray(cotangents[name], value.dtype)
            if name in cotangents
            else np.zeros_like(value)
            for name, value in values.items()
        )
        gradients.clear()
        with np.errstate(all="ignore"):
            vjp((*seeds, 0.0))
        return {name: gradients.get(name) for name in leaves}

    return values, pull
