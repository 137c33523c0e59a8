"""What a standalone script needs of a JAX side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.jax.leaves import path_name
from pytest_fwcompare.backends.jax.twins import TreeTwin


def keys(side: Any) -> dict[str, str]:
    """Parameters go by their place among the leaves of the model's tree."""
    twin, model = side.twin, side.model
    if type(twin).__name__ == "NetworkTwin":
        return {}
    if isinstance(twin, TreeTwin):
        tree = model[1] if isinstance(model, tuple) else model
        leaves = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    else:
        leaves = [name for name, _, _ in twin.leaves()]  # flax: in the order of the tree
    names = {parameter.name for parameter in side.parameters()}
    return {name: str(place) for place, name in enumerate(leaves) if name in names}


def export(side: Any, arguments: Sequence[Argument], folder: Path, role: str) -> str:
    """Write the model as a serialised StableHLO program for these shapes, with its gradient."""
    from jax import export as exporting

    trained, floats, fixed, call = side.given(arguments, "working")
    every = {**floats, **call.others}
    names = [argument.name for argument in arguments]

    def run(*values: Any) -> list[Any]:
        given = dict(zip(names, values, strict=True))
        positional = [given[name] for name, keyword in call.order if not keyword]
        keywords = {name: given[name] for name, keyword in call.order if keyword}
        outputs, _ = side.function(False)({**fixed, **trained}, positional, keywords)
        return list(outputs.arrays)

    program = exporting.export(jax.jit(run))(*(every[name] for name in names))
    (folder / f"{role}.stablehlo").write_bytes(program.serialize(vjp_order=1))
    return f"{role}.stablehlo"
