"""JAX's devices by the names of the device axis."""

from __future__ import annotations

from typing import Any

import jax

from pytest_fwcompare.errors import FrameworkUnavailable


def gpus() -> list[Any]:
    """NVIDIA GPUs, whichever platform is JAX's first."""
    try:
        return list(jax.devices("cuda"))
    except RuntimeError:
        return []


def names() -> list[str]:
    """The CPU and each GPU, as the axis calls them."""
    return ["cpu", *(f"cuda:{place}" for place in range(len(gpus())))]


def device_of(name: str) -> Any:
    """JAX's device of "cpu" or "cuda[:N]".

    Raises:
        FrameworkUnavailable: it is not here.
    """
    platform, _, number = name.partition(":")
    try:
        found = gpus() if platform == "cuda" else jax.devices(platform)
        return found[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        raise FrameworkUnavailable(
            f"jax: device {name!r} was asked for, but there is only {', '.join(names())} ({error})"
        ) from None


def is_cpu(device: Any) -> bool:
    """Whether compiling for few runs pays there, and products are as exact as the dtype."""
    return bool(device.platform == "cpu")
