"""64-bit mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def x64(enabled: bool) -> Iterator[None]:
    """64-bit mode on or off for a while; the user's setting is left as it was found."""
    if hasattr(jax, "enable_x64"):
        context = jax.enable_x64(enabled)
    else:
        from jax.experimental import enable_x64

        context = enable_x64(enabled)
    with context:
        yield
