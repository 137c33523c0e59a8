"""Runs a JAX network for repro.py. Needs NumPy and JAX, and what its factory imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as exporting


def run(
    source: dict[str, Any],
    weights: dict[str, np.ndarray],
    arguments: list[tuple[str, np.ndarray, bool]],
    cotangents: dict[str, np.ndarray],
    training: bool,
) -> dict[str, np.ndarray]:
    """Outputs and gradients by name; a parameter's name is its place among the tree's leaves."""
    tensors = [jax.numpy.asarray(value) for _, value, _ in arguments]
    names = [(name, keyword) for name, _, keyword in arguments]
    if source["kind"] == "exported":
        program = exporting.deserialize(bytearray(Path(source["path"]).read_bytes()))
        leaves: list[Any] = []

        def function(held: dict[int, Any], values: list[Any]) -> list[Any]:
            return list(program.call(*values))
    else:
        made = source["factory"]()
        apply, tree = made if isinstance(made, tuple) else (None, made)
        leaves, structure = jax.tree_util.tree_flatten(tree)
        leaves = [
            jax.numpy.asarray(weights[str(i)], leaf.dtype) if str(i) in weights else leaf
            for i, leaf in enumerate(leaves)
        ]

        def function(held: dict[int, Any], values: list[Any]) -> list[Any]:
            full = [held.get(i, leaf) for i, leaf in enumerate(leaves)]
            model = jax.tree_util.tree_unflatten(structure, full)
            given = list(zip(names, values, strict=True))
            positional = [v for (_, keyword), v in given if not keyword]
            keywords = {name: v for (name, keyword), v in given if keyword}
            if apply is None:
                return list(jax.tree_util.tree_leaves(model(*positional, **keywords)))
            return list(jax.tree_util.tree_leaves(apply(model, *positional, **keywords)))

    trained = {int(place): leaves[int(place)] for place in weights if leaves}
    floats = {
        i: t for i, t in enumerate(tensors) if jax.numpy.issubdtype(t.dtype, jax.numpy.floating)
    }

    def pure(trained: dict[int, Any], floats: dict[int, Any]) -> list[Any]:
        return function(trained, [floats.get(i, t) for i, t in enumerate(tensors)])

    outputs, pull = jax.vjp(pure, trained, floats)
    found = {f"output {i}": value for i, value in enumerate(outputs)}
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
