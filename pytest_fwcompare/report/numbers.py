"""Figures as a person reads them."""

from __future__ import annotations

import math


def figure(value: float) -> str:
    """A relative distance with two digits: "2.3e-07", "0", "nan"."""
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else str(value)


def number(value: float) -> str:
    """A tensor's value with enough digits to tell it from its neighbours: "0.52135", "nan"."""
    return f"{value:.9g}"


def times(value: float) -> str:
    """A factor: "41,000", "3.2", "inf"."""
    if not math.isfinite(value):
        return str(value)
    if value >= 1e7:
        return f"{value:.1e}"
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def seconds(value: float) -> str:
    """A duration: "312 us", "4.21 ms", "1.20 s"."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:#.3g} {unit}".replace(". ", " ")
    return f"{value * 1e9:.0f} ns"


def size(count: int) -> str:
    """A number of bytes: "1.5 MiB"."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
