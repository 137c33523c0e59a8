"""Eager JAX in one program: compiled once a shape instead of once an operation and shape.

Run operation by operation, JAX compiles each of them for each new shape, which takes ten times as
long as compiling all of them together. Compiled together, XLA would simplify across operations
(log(exp(x)) becomes x, which never overflows) and round elsewhere than the user's eager program.
A barrier after every operation keeps them apart: each is computed and rounded as if alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from pytest_fwcompare.backends.jax.leaves import is_float
from pytest_fwcompare.backends.jax.shadow import bind

MOVES = ("transpose", "reshape", "squeeze", "broadcast_in_dim", "rev")
"""Operations that compute nothing, so that nothing is rounded elsewhere without a barrier.

XLA's CPU compiler (jaxlib 0.10) aborts the process where one stands between a transpose and the
product of matrices that reads it: "Check failed: shape.has_layout()" in dot_op_emitter.cc.
"""


def barred(value: Any) -> Any:
    """The same value behind a barrier, if it is a float."""
    return jax.lax.optimization_barrier(value) if is_float(value) else value


def stepwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its operations kept apart; to be compiled and differentiated.

    What eager JAX runs as one program (a jitted function, a loop) stays one.
    """

    def run(*arguments: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        flat = apart(jaxpr, jax.tree_util.tree_leaves(arguments))
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shape), flat)

    return run


def apart(jaxpr: Any, arguments: list[Any]) -> list[Any]:
    """Outputs of a closed jaxpr, its operations kept apart."""
    inner = jaxpr.jaxpr
    environment: dict[Any, Any] = dict(zip(inner.constvars, jaxpr.consts, strict=True))
    environment.update(zip(inner.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else environment[variable]

    for equation in inner.eqns:
        outputs = bind(equation, [read(v) for v in equation.invars], equation.params)
        kept = outputs if equation.primitive.name in MOVES else list(map(barred, outputs))
        environment.update(zip(equation.outvars, kept, strict=True))
    return [read(variable) for variable in inner.outvars]
