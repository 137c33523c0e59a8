"""Float64 shadows: a traced JAX function evaluated with every narrower float widened.

The function is traced with float64 parameters and inputs. What is narrow nevertheless (casts in
the code, float32 constants, carries of loops) is widened equation by equation; rules for
derivatives that the code defines itself (custom_jvp, custom_vjp) are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from pytest_fwcompare.backends.jax.dropout import is_factor
from pytest_fwcompare.backends.jax.modes import x64
from pytest_fwcompare.backends.jax.widths import is_narrow, meant, wide, widen

INLINED = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "core_closed_call",
    "remat",
    "remat2",
    "checkpoint",
)
"""Calls whose body is evaluated in their place."""


def source_of(equation: Any) -> str:
    """File and line of the user's code that made an equation, "" where unknown."""
    with contextlib.suppress(Exception):
        from jax._src import source_info_util

        return str(source_info_util.summarize(equation.source_info))
    return ""


def closed(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants, of an open or a closed one."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


class Lift:
    """Evaluates jaxprs in float64.

    Attributes:
        leaks: equations that computed in a narrower dtype nevertheless, and where.
        rounded: constants that are known to working precision only.
        as_written: the code was traced in float32, so rules for derivatives are, too.
    """

    as_written = False

    def __init__(self) -> None:
        self.leaks: dict[str, None] = {}
        self.rounded: dict[str, None] = {}
        self._known: dict[int, tuple[Any, bool]] = {}

    # What there is to lift

    def touches(self, jaxpr: Any) -> bool:
        """True if anything in a jaxpr, nested ones included, is narrow."""
        inner, constants = closed(jaxpr)
        if id(inner) not in self._known:
            self._known[id(inner)] = (inner, self._touches(inner, constants))
        return self._known[id(inner)][1]

    def _touches(self, jaxpr: Any, constants: Sequence[Any]) -> bool:
        if any(is_narrow(v.aval.dtype) for v in jaxpr.invars if hasattr(v.aval, "dtype")):
            return True
        if any(self._is_rounded(constant) for constant in constants):
            return True
        for equation in jaxpr.eqns:
            if equation.primitive.name == "reduce_precision":
                return True
            for variable in equation.outvars:
                if hasattr(variable.aval, "dtype") and is_narrow(variable.aval.dtype):
                    return True
            for variable in equation.invars:
                if isinstance(variable, core.Literal) and self._is_rounded(variable.val):
                    return True
            if any(self.touches(inner) for inner in nested(equation)):
                return True
        return False

    @staticmethod
    def _is_rounded(value: Any) -> bool:
        if is_narrow(getattr(value, "dtype", np.int32)):
            return True
        found, _ = meant(value)
        return found is not value

    # Evaluation

    def constant(self, value: Any, where: str) -> Any:
        """A constant in float64, restored where it is recognised."""
        found, exact = meant(value)
        if not exact:
            array = np.asarray(value)
            text = f"{array.dtype}{list(array.shape)}" if array.ndim else repr(float(array))
            self.rounded[f"{text} {where}".strip()] = None
        return found

    def evaluate(self, jaxpr: Any, *arguments: Any) -> list[Any]:
        """Outputs of a jaxpr for arguments that are wide already."""
        inner, constants = closed(jaxpr)
        environment: dict[Any, Any] = {}

        def read(variable: Any) -> Any:
            if isinstance(variable, core.Literal):
                return self.constant(variable.val, "in the traced code")
            return environment[variable]

        for variable, value in zip(inner.constvars, constants, strict=True):
            environment[variable] = self.constant(value, "held by the model's code")
        environment.update(zip(inner.invars, arguments, strict=True))
        for equation in inner.eqns:
            outputs = self.step(equation, [read(variable) for variable in equation.invars])
            environment.update(zip(equation.outvars, outputs, strict=True))
        return [read(variable) for variable in inner.outvars]

    def step(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Outputs of one equation."""
        name = equation.primitive.name
        if name in INLINED:
            return self.evaluate(body(equation), *inputs)
        changed = any(
            is_narrow(v.aval.dtype)
            for v in (*equation.invars, *equation.outvars)
            if hasattr(v.aval, "dtype")
        ) or any(self.touches(inner) for inner in nested(equation))
        if name == "reduce_precision":
            return [inputs[0]]
        if is_factor(equation):
            return _factor(equation, inputs)
        if not changed:
            return bind(equation, inputs, equation.params)
        if (rule := RULES.get(name)) is not None:
            return rule(self, equation, inputs)
        return self._widened(equation, inputs)

    def _widened(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """An equation with all its narrow inputs and dtype parameters widened."""
        with contextlib.suppress(Exception):
            params = {
                key: self._rewritten(value) if hasattr(value, "eqns") else value
                for key, value in wide_params(equation).items()
            }
            outputs = bind(equation, inputs, params)
            if not any(is_narrow(getattr(o, "dtype", np.int32)) for o in outputs):
                return outputs
        return self.narrowly(equation, inputs)

    def _rewritten(self, jaxpr: Any) -> Any:
        """A wide copy of a small jaxpr, such as the addition that a scatter accumulates with."""
        inner, _ = closed(jaxpr)
        wide_ones = [jax.ShapeDtypeStruct(v.aval.shape, wide(v.aval.dtype)) for v in inner.invars]
        made = jax.make_jaxpr(lambda *values: self.evaluate(jaxpr, *values))(*wide_ones)
        return made if hasattr(jaxpr, "consts") else made.jaxpr

    def narrowly(self, equation: Any, inputs: list[Any], *, harmless: bool = False) -> list[Any]:
        """An equation computed as it was written, its outputs widened; named as a leak."""
        if not harmless:
            where = source_of(equation)
            self.leaks[f"{equation.primitive.name}{f' at {where}' if where else ''}"] = None
        given = [
            jax.lax.convert_element_type(value, variable.aval.dtype)
            if hasattr(variable.aval, "dtype") and is_narrow(variable.aval.dtype)
            else value
            for variable, value in zip(equation.invars, inputs, strict=True)
        ]
        return [widen(output) for output in bind(equation, given, equation.params)]


def body(equation: Any) -> Any:
    """The jaxpr of a plain call."""
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


def nested(equation: Any) -> list[Any]:
    """Jaxprs among the parameters of an equation."""
    found = []
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns"):
                found.append(item)
    return found


def bind(equation: Any, inputs: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """Outputs of a primitive for inputs and parameters of one's own."""
    manager = getattr(getattr(equation, "ctx", None), "manager", None)
    with manager or contextlib.nullcontext():
        made = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(params))
    return list(made) if equation.primitive.multiple_results else [made]


def wide_params(equation: Any) -> dict[str, Any]:
    """Parameters of an equation with narrow dtypes widened and narrow algorithms left out."""
    params = dict(equation.params)
    for key, value in params.items():
        if isinstance(value, (np.dtype, type)) or hasattr(value, "type"):
            with contextlib.suppress(TypeError):
                params[key] = wide(np.dtype(value)) if is_narrow(value) else value
        elif key == "precision" and type(value).__name__.startswith("DotAlgorithm"):
            params[key] = None
    return params


def _scan(lift: Lift, equation: Any, inputs: list[Any]) -> list[Any]:
    params = equation.params
    consts, carries = params["num_consts"], params["num_carry"]
    fixed, initial = inputs[:consts], inputs[consts : consts + carries]

    def step(carry: Any, item: Any) -> Any:
        outputs = lift.evaluate(params["jaxpr"], *fixed, *carry, *item)
        return tuple(outputs[:carries]), tuple(outputs[carries:])

    last, stacked = jax.lax.scan(
        step,
        tuple(initial),
        tuple(inputs[consts + carries :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*last, *stacked]


def _while(lift: Lift, equation: Any, inputs: list[Any]) -> list[Any]:
    params = equation.params
    test, step = params["cond_nconsts"], params["body_nconsts"]
    for_test, for_step = inputs[:test], inputs[test : test + step]
    return list(
        jax.lax.while_loop(
            lambda state: lift.evaluate(params["cond_jaxpr"], *for_test, *state)[0],
            lambda state: tuple(lift.evaluate(params["body_jaxpr"], *for_step, *state)),
            tuple(inputs[test + step :]),
        )
    )


def _cond(lift: Lift, equation: Any, inputs: list[Any]) -> list[Any]:
    def branch(jaxpr: Any) -> Callable[..., Any]:
        return lambda *arguments: tuple(lift.evaluate(jaxpr, *arguments))

    index, *operands = inputs
    branches = [branch(jaxpr) for jaxpr in equation.params["branches"]]
    return list(jax.lax.switch(index.astype(np.int32), branches, *operands))


def _custom_jvp(lift: Lift, equation: Any, inputs: list[Any]) -> list[Any]:
    params = equation.params
    skip = params["num_consts"]
    floats = [jax.dtypes.issubdtype(v.aval.dtype, np.inexact) for v in equation.invars][skip:]

    def primal(*arguments: Any) -> Any:
        return tuple(lift.evaluate(params["call_jaxpr"], *arguments))

    def derivative(primals: Any, tangents: Any) -> Any:
        # The rule is asked for its jaxpr: which tangents are zeros, in; which are, out.
        with x64(not lift.as_written):
            jaxpr, constants, zeros = params["jvp_jaxpr_fun"].call_wrapped(
                *(not f for f in floats)
            )
        given = [t for t, is_one in zip(tangents[skip:], floats, strict=True) if is_one]
        outputs = lift.evaluate(core.ClosedJaxpr(jaxpr, constants), *primals[skip:], *given)
        values = outputs[: len(zeros)]
        moved = iter(outputs[len(zeros) :])
        return tuple(values), tuple(
            _zero_tangent(value) if is_zero else next(moved)
            for value, is_zero in zip(values, zeros, strict=True)
        )

    lifted = jax.custom_jvp(primal)
    lifted.defjvp(derivative)
    return list(lifted(*inputs))


def _zero_tangent(value: Any) -> Any:
    if jax.dtypes.issubdtype(value.dtype, np.inexact):
        return jax.numpy.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)


def _custom_vjp(lift: Lift, equation: Any, inputs: list[Any]) -> list[Any]:
    params = equation.params
    _, forward_of, backward_of = equation.primitive.get_bind_params(params)["subfuns"]
    outputs_of = [v.aval for v in equation.outvars]
    inputs_of = [v.aval for v in equation.invars]
    residuals: list[Any] = []

    def primal(*arguments: Any) -> Any:
        return tuple(lift.evaluate(params["call_jaxpr"], *arguments))

    def forward(*arguments: Any) -> Any:
        def run(*values: Any) -> Any:
            # Each value is followed by whether its tangent is wanted; constants have none.
            wanted = (index >= params["num_consts"] for index in range(len(values)))
            flat = (item for pair in zip(values, wanted, strict=True) for item in pair)
            return forward_of.call_wrapped(*flat)

        with x64(not lift.as_written):
            jaxpr = jax.make_jaxpr(run)(*_structs(inputs_of))
        outputs = lift.evaluate(jaxpr, *arguments)
        kept = len(outputs) - len(outputs_of)
        # Residuals that are inputs are not among the outputs, but named by their place.
        trees = params["out_trees"]()
        places = trees[2] if len(trees) > 2 else [None] * kept
        made = iter(zip(outputs[:kept], jaxpr.out_avals[:kept], strict=True))
        pairs = [
            next(made) if place is None else (arguments[place], inputs_of[place])
            for place in places
        ]
        residuals[:] = [aval for _, aval in pairs]
        return tuple(outputs[kept:]), tuple(value for value, _ in pairs)

    def backward(kept: Any, cotangents: Any) -> Any:
        def run(*values: Any) -> Any:
            call = getattr(backward_of, "call_wrapped", backward_of)
            return [
                jax.numpy.zeros(aval.shape, aval.dtype) if _is_zero(given) else given
                for given, aval in zip(call(*values), inputs_of, strict=True)
                if jax.dtypes.issubdtype(aval.dtype, np.inexact)
            ]

        with x64(not lift.as_written):
            jaxpr = jax.make_jaxpr(run)(*_structs(residuals), *_structs(outputs_of))
        moved = iter(lift.evaluate(jaxpr, *kept, *cotangents))
        return tuple(
            next(moved)
            if jax.dtypes.issubdtype(aval.dtype, np.inexact)
            else np.zeros(aval.shape, jax.dtypes.float0)
            for aval in inputs_of
        )

    lifted = jax.custom_vjp(primal)
    lifted.defvjp(forward, backward)
    return list(lifted(*inputs))


def _structs(avals: Sequence[Any]) -> list[Any]:
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]


def _is_zero(cotangent: Any) -> bool:
    return type(cotangent).__name__ in ("Zero", "SymbolicZero")


def _convert(lift: Lift, equation: Any, inputs: list[Any]) -> list[Any]:
    return [jax.lax.convert_element_type(inputs[0], wide(equation.params["new_dtype"]))]


def _bitcast(lift: Lift, equation: Any, inputs: list[Any]) -> list[Any]:
    # Random numbers are made of bits: their values are kept exactly. Reading the bits of a
    # float is a leak.
    to_float = is_narrow(equation.params["new_dtype"])
    return lift.narrowly(equation, inputs, harmless=to_float)


def _factor(equation: Any, inputs: list[Any]) -> list[Any]:
    """What a shared dropout keeps, which has the dtype of what goes into it."""
    avals = tuple(aval.update(dtype=np.float64) for aval in equation.params["result_avals"])
    still = [jax.lax.stop_gradient(value) for value in inputs]
    return bind(equation, still, {**equation.params, "result_avals": avals})


RULES: dict[str, Callable[[Lift, Any, list[Any]], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "custom_vjp_call_jaxpr": _custom_vjp,
    "convert_element_type": _convert,
    "bitcast_convert_type": _bitcast,
}


def traced(function: Callable[..., Any], lift: Lift, *arguments: Any) -> tuple[Any, Any]:
    """Jaxpr of a function and the tree of its output, for arguments that are wide.

    Traced in float64, where numbers in the code keep all their digits. Code that insists on
    float32 in a way that no longer fits (the state of a loop made in float32, the body's result
    in float64) is traced as it was written, in float32, and its constants are restored.
    """
    try:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    except Exception:
        structs = jax.tree_util.tree_map(_narrow_struct, arguments)
        try:
            with x64(False):
                jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*structs)
        except Exception:
            jaxpr = None
        if jaxpr is None:
            raise
        lift.as_written = True
    return jaxpr, jax.tree_util.tree_structure(shape)


def _narrow_struct(value: Any) -> Any:
    dtype = np.float32 if value.dtype == np.float64 else value.dtype
    return jax.ShapeDtypeStruct(value.shape, dtype)


def lifted(function: Callable[..., Any], lift: Lift) -> Callable[..., Any]:
    """The function evaluated in float64, for arguments that are wide. Call it under x64."""

    def run(*arguments: Any) -> Any:
        jaxpr, structure = traced(function, lift, *arguments)
        flat = jax.tree_util.tree_leaves(arguments)
        return jax.tree_util.tree_unflatten(structure, lift.evaluate(jaxpr, *flat))

    return run
