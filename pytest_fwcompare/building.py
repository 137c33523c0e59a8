"""The same described network, with the same weights, as native models of several frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Placement, Side
from pytest_fwcompare.backends.registry import require
from pytest_fwcompare.devices import device_of
from pytest_fwcompare.errors import ModelError, UsageError
from pytest_fwcompare.judge.distances import parts, representable
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.networks.random import random_parameters


def build_identical(
    network: Network,
    frameworks: Iterable[str],
    *,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    values: Mapping[str, Array] | None = None,
) -> dict[str, Any]:
    """Build a network in each framework and fill all with the same random weights.

    Args:
        network: the description.
        frameworks: import names.
        dtype: of the models.
        device: "cpu" or "cuda[:N]".
        seed: of the weights.
        values: canonical weights by "layer.parameter" to use instead of random ones.

    Returns:
        Native models by framework.

    Raises:
        UsageError: `network` is not a described one, or a name in `values` is not a parameter.
        FrameworkUnavailable: a framework is missing.
        ModelError: stage "copy": a weight read back is not the one that was written.
    """
    if not isinstance(network, Network):
        raise UsageError(
            f"fwcompare_build: expected a network described with pytest_fwcompare.networks, got "
            f"{type(network).__name__}"
        )
    canonical = random_parameters(network, seed)
    if unknown := sorted(set(values or ()) - set(canonical)):
        raise UsageError(
            f"{network.name}: no parameter {unknown[0]!r}; the parameters are "
            f"{', '.join(canonical)}"
        )
    canonical.update(values or {})
    models = {}
    for name in frameworks:
        backend = require(name)
        here = "cpu" if name == "numpy" else device_of(device, "port")
        built = backend.build(network, dtype=dtype, device=here)
        with backend.adopt(built.model, dtype=dtype, device=here, mode="eager", own=True) as side:
            side.role = name
            fill(side, built.placements, canonical)
        models[name] = built.model
    return models


def fill(side: Side, placements: Iterable[Placement], canonical: Mapping[str, Array]) -> None:
    """Write canonical weights into a side and make sure, bit for bit, that they arrived.

    Raises:
        ModelError: stage "copy", naming the parameter.
    """
    dtypes = {parameter.name: parameter.dtype for parameter in side.parameters()}
    native = {}
    for placed in placements:
        dtype = dtypes[placed.parameter]
        value = placed.transform.apply(*(canonical[source] for source in placed.sources))
        # NumPy has no bfloat16, whose numbers all sides hand over as float32.
        kept = "float32" if dtype == "bfloat16" else dtype
        native[placed.parameter] = representable(np.asarray(value), dtype).astype(kept)
    side.load(native, "working")
    check_held(side.role, side.read(), native)


def check_held(role: str, held: Mapping[str, Array], written: Mapping[str, Array]) -> None:
    """Make sure, bit for bit, that a side holds what was written to it.

    Args:
        role: how messages call the side.
        held: what was read back, by parameter name.
        written: values that are exact in the parameters' own dtypes.

    Raises:
        ModelError: stage "copy", naming the parameter.
    """
    for name, value in written.items():
        value, found = np.asarray(value), held[name]
        if not all(_equal(*pair) for _, pair in parts(found, value)):
            raise ModelError(
                role,
                "copy",
                f"parameter {name!r} of shape {value.shape} does not hold the values that were "
                f"written to it",
            )


def _equal(held: Array, written: Array) -> bool:
    """Whether values are the same in the dtype in which they are held."""
    expected = written.astype(held.dtype)
    return np.array_equal(held, expected, equal_nan=expected.dtype.kind == "f")
