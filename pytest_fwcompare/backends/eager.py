"""Sides whose mode can be switched while they are open. Imports no framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Switched:
    """Mixed into the models of frameworks that look at `mode` at every call, before `Side`."""

    mode: str

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """See `Side.eagerly`."""
        before, self.mode = self.mode, "eager"
        try:
            yield
        finally:
            self.mode = before
