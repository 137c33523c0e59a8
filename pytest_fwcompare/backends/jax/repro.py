"""What a standalone script needs of a JAX side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.jax.models import TreeTwin, path_name
from pytest_fwcompare.errors import UsageError


def keys(side: Any) -> dict[str, str]:
    """Leaves of the tree go by their place.

    Raises:
        UsageError: the model is no tree of arrays (flax).
    """
    if type(side.twin).__name__ == "NetworkTwin":
        return {}
    if not isinstance(side.twin, TreeTwin):
        raise UsageError(
            f"repro: the {side.role} is a flax model, for which no script is written yet; "
            f"equinox modules and (function, params) pairs can be reproduced"
        )
    model = side.model
    tree = model[1] if isinstance(model, tuple) else model
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = {parameter.name for parameter in side.parameters()}
    return {path_name(p): str(place) for place, (p, _) in enumerate(flat) if path_name(p) in names}


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
