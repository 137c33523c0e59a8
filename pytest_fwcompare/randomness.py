"""Global random states, set for what a factory draws, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import numpy as np

from pytest_fwcompare.backends.registry import imported_backends

SEED: ContextVar[int | None] = ContextVar("SEED", default=None)
"""What factories are seeded with now; None where they draw as they like."""


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Set Python's and NumPy's state, and those of the frameworks that are imported by now.

    A framework that the factory imports itself begins as its import leaves it.

    Args:
        seed: to be set; None leaves everything as it is.
    """
    if seed is None:
        yield
        return
    python, numpy, token = random.getstate(), np.random.get_state(), SEED.set(seed)
    with ExitStack() as stack:
        for backend in imported_backends():
            stack.enter_context(backend.seeded(seed))
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            SEED.reset(token)
