"""Random parameters that keep a network well conditioned and leave nothing at its default."""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.networks.base import ParameterSpec
from pytest_fwcompare.networks.graph import Network


def random_parameters(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Values for every parameter and buffer of a described network.

    Kernels have standard deviation 1 / sqrt(fan in), so that unit inputs give unit outputs; biases
    and shifts 0.3; tables 1; scales lie in [0.5, 1.5], slopes in [0.1, 0.4], means have standard
    deviation 0.3, variances lie in [0.3, 1.5].

    Args:
        network: the description.
        seed: the same seed gives the same values.

    Returns:
        By parameter name, float64 arrays of numbers that float32 holds exactly.
    """
    generator = np.random.default_rng(seed)
    return {name: random_values(spec, generator) for name, spec in network.parameters().items()}


def random_values(spec: ParameterSpec, generator: np.random.Generator) -> np.ndarray:
    """Values for one parameter; see `random_parameters`."""
    ranges = {"scale": (0.5, 1.5), "slope": (0.1, 0.4), "variance": (0.3, 1.5)}
    if spec.role in ranges:
        values = generator.uniform(*ranges[spec.role], spec.shape)
    else:
        deviation = {"kernel": spec.fan_in**-0.5, "table": 1.0}.get(spec.role, 0.3)
        values = generator.normal(0.0, deviation, spec.shape)
    return values.astype(np.float32).astype(np.float64)
