"""Mixed precision of JAX models by a policy of casts.

JAX has no autocast. What its users write is a policy of casts, as in
https://github.com/google-deepmind/jmp: parameters are kept in float32 and cast on the way in,
inputs too, and outputs are cast back. Running statistics stay in float32; an operation that meets
one goes on in float32, as JAX promotes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import jax

from pytest_fwcompare.backends.jax.leaves import Values, is_float
from pytest_fwcompare.backends.jax.outputs import Outputs

Function = Callable[..., tuple[Outputs, Values]]


def mixed(function: Function, computed: str, trained: Set[str]) -> Function:
    """The function computed in a narrower dtype between float32 inputs and float32 outputs.

    Args:
        function: of arrays by name, inputs in order and inputs by name.
        computed: "float16" or "bfloat16".
        trained: names of the arrays that are cast.
    """

    def run(values: Values, inputs: Sequence[Any], keywords: Values) -> tuple[Outputs, Values]:
        outputs, changed = function(
            {n: _cast(v, computed) if n in trained else v for n, v in values.items()},
            [_cast(value, computed) for value in inputs],
            {name: _cast(value, computed) for name, value in keywords.items()},
        )
        arrays = [_cast(array, "float32") for array in outputs.arrays]
        return Outputs(outputs.names, arrays, outputs.skipped), {
            name: _cast(value, "float32") for name, value in changed.items()
        }

    return run


def _cast(value: Any, dtype: str) -> Any:
    return jax.numpy.asarray(value).astype(dtype) if is_float(value) else value
