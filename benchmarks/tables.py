"""Tables of figures: printed as they come, and written to `results/` with what they depend on."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_fwcompare.backends import registry

RESULTS = Path(__file__).parent / "results"


class Table:
    """Lines of Markdown that are printed at once and kept for a file."""

    def __init__(self, title: str, frameworks: Iterable[str], facts: str = "") -> None:
        self.lines: list[str] = []
        self.say(f"# {title}", "")
        versions = ", ".join(f"{name} {registry.backend(name).version()}" for name in frameworks)
        self.say(
            f"{datetime.date.today().isoformat()}; {versions}; Python "
            f"{platform.python_version()}, {sys.platform}, {os.cpu_count()} processors, load "
            f"average {os.getloadavg()[0]:.0f}{'; ' if facts else ''}{facts}",
            "",
        )

    def say(self, *lines: str) -> None:
        """Print lines and keep them."""
        self.lines += lines
        print("\n".join(lines), flush=True)

    def head(self, names: Sequence[str], right: Iterable[str] = ()) -> None:
        """The head of a table; columns named in `right` are figures."""
        self.row(*names)
        self.row(*("---:" if name in right else "---" for name in names))

    def row(self, *cells: str) -> None:
        """One row."""
        self.say(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")

    def write(self, name: str) -> None:
        """To `results/NAME.md`, whole or not at all."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.md"
        partial = path.with_suffix(".part")
        partial.write_text("\n".join(self.lines) + "\n")
        partial.replace(path)
        print(f"\nwritten to {path}")
