"""How far a comparison is, told to whoever listens; nobody does by default.

What compares calls `tell`; who shows it wraps the comparison in `listening`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Step(NamedTuple):
    """What a comparison is at.

    Attributes:
        stage: in words: "example", "looking for the place".
        number: which of several, counted from 1; 0 where there is but one.
        of: how many there are; 0 where that is not known.
    """

    stage: str
    number: int = 0
    of: int = 0

    def __str__(self) -> str:
        if not self.number:
            return self.stage
        return f"{self.stage} {self.number}" + (f" of {self.of}" if self.of else "")


TIMING = "timing"
"""The stage in which nothing else should run, this package's own display included."""

Listener = Callable[[Step], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("fwcompare_listener", default=None)


def tell(stage: str, number: int = 0, of: int = 0) -> None:
    """Say what begins now."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(Step(stage, number, of))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear what comparisons tell meanwhile."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
