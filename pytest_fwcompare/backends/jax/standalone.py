"""Runs a JAX network for repro.py. Needs NumPy and JAX, and what its factory imports."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as exporting

FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
"""Keyword arguments by which a linen module is told its mode, with their value in training."""

Call = Callable[[Any, list[Any], dict[str, Any]], tuple[Any, Any]]
"""Takes a tree of arrays, positional and keyword inputs; gives the output and the tree after."""


def opened(made: Any, training: bool) -> tuple[Any, Call]:
    """A model as a tree of arrays and what calls it.

    Args:
        made: a module of equinox, flax.nnx or flax.linen (with its variables), or a function with
            its parameters.
        training: call it in training mode.
    """
    if isinstance(made, tuple) and hasattr(made[0], "apply"):
        module, variables = made
        return dict(variables), linen(module, training)
    if isinstance(made, tuple):
        function, tree = made
        return tree, lambda tree, given, named: (function(tree, *given, **named), tree)
    if "flax.nnx" in {kind.__module__.rpartition(".")[0] for kind in type(made).__mro__}:
        return nnx(made, training)
    return made, lambda model, given, named: (model(*given, **named), model)


def linen(module: Any, training: bool) -> Call:
    """A linen module, told its mode by the flags that it takes."""
    known = inspect.signature(type(module).__call__).parameters
    flags = {name: value == training for name, value in FLAGS.items() if name in known}

    def call(variables: Any, given: list[Any], named: dict[str, Any]) -> tuple[Any, Any]:
        if not training:
            return module.apply(variables, *given, **flags, **named), variables
        mutable = [name for name in variables if name != "params"]
        made, after = module.apply(variables, *given, mutable=mutable, **flags, **named)
        return made, {**variables, **after}

    return call


def nnx(model: Any, training: bool) -> tuple[Any, Call]:
    """A model of flax.nnx, split into its structure and its state."""
    from flax import nnx as flax

    graph, state = flax.split(model)

    def call(state: Any, given: list[Any], named: dict[str, Any]) -> tuple[Any, Any]:
        model = flax.merge(graph, state)
        if training and hasattr(model, "train"):
            model.train()
        made = model(*given, **named)
        return made, flax.state(model)

    return state, call


def run(
    source: dict[str, Any],
    weights: dict[str, np.ndarray],
    arguments: list[tuple[str, np.ndarray, bool]],
    cotangents: dict[str, np.ndarray],
    training: bool,
) -> dict[str, np.ndarray]:
    """Outputs, gradients, buffers by name; a parameter's name is its place among the leaves."""
    tensors = [jax.numpy.asarray(value) for _, value, _ in arguments]
    names = [(name, keyword) for name, _, keyword in arguments]
    if source["kind"] == "exported":
        program = exporting.deserialize(bytearray(Path(source["path"]).read_bytes()))
        leaves: list[Any] = []

        def function(held: dict[int, Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
            return list(program.call(*values)), []
    else:
        tree, call = opened(source["factory"](), training)
        leaves, structure = jax.tree_util.tree_flatten(tree)
        leaves = [
            jax.numpy.asarray(weights[str(i)], leaf.dtype) if str(i) in weights else leaf
            for i, leaf in enumerate(leaves)
        ]

        def function(held: dict[int, Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
            full = [held.get(i, leaf) for i, leaf in enumerate(leaves)]
            given = list(zip(names, values, strict=True))
            positional = [v for (_, keyword), v in given if not keyword]
            keywords = {name: v for (name, keyword), v in given if keyword}
            model = jax.tree_util.tree_unflatten(structure, full)
            made, after = call(model, positional, keywords)
            return jax.tree_util.tree_leaves(made), jax.tree_util.tree_leaves(after)

    trained = {int(place): leaves[int(place)] for place in weights if leaves}
    floats = {
        i: t for i, t in enumerate(tensors) if jax.numpy.issubdtype(t.dtype, jax.numpy.floating)
    }

    def pure(trained: dict[int, Any], floats: dict[int, Any]) -> tuple[list[Any], list[Any]]:
        return function(trained, [floats.get(i, t) for i, t in enumerate(tensors)])

    outputs, pull, after = jax.vjp(pure, trained, floats, has_aux=True)
    found = {f"output {i}": value for i, value in enumerate(outputs)}
    if training:
        found.update({f"buffer {i}": after[i] for i in trained if i < len(after)})
    if cotangents:
        seeds = [
            jax.numpy.asarray(cotangents.get(str(i), np.zeros(v.shape)), v.dtype)
            if jax.numpy.issubdtype(v.dtype, jax.numpy.floating)
            else np.zeros(v.shape, jax.dtypes.float0)
            for i, v in enumerate(outputs)
        ]
        by_parameter, by_input = pull(seeds)
        found.update({f"parameter {i}": value for i, value in by_parameter.items()})
        found.update({f"input {names[i][0]}": value for i, value in by_input.items()})
    return {name: np.asarray(value, float) for name, value in found.items()}
