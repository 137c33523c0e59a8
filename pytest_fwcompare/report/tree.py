"""The reference's modules as a short tree: what matches, where it breaks, what follows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_fwcompare.records import Comparison, DepthRow
from pytest_fwcompare.report.numbers import figure

MOST_LINES = 15
WIDEST = 44
"""Columns for the modules' names; longer ones push the rest of their line."""

GLUE = "(code)"
"""Stands for what a container does between its modules."""

ONE = {"matched": "matches", "after": "after it", "unmatched": "not found in the port"}
MANY = {"matched": "match", "after": "after it", "unmatched": "not found in the port"}


@dataclass
class Branch:
    """A module with what it runs, in data-flow order.

    Attributes:
        name: last part of its path; that of several where a chain was joined.
        row: its own row, for a leaf.
        parts: its submodules and the code between them.
    """

    name: str
    row: DepthRow | None = None
    parts: list[Branch] = field(default_factory=list)

    def rows(self) -> list[DepthRow]:
        """Its own row and those of everything in it."""
        own = [] if self.row is None else [self.row]
        return own + [row for part in self.parts for row in part.rows()]

    @property
    def states(self) -> set[str]:
        """Statuses in it."""
        return {row.status for row in self.rows()}


def tree_lines(comparison: Comparison) -> list[str]:
    """At most `MOST_LINES` lines; none where nothing differs from the port in depth."""
    rows = comparison.depth
    if not any(row.status == "culprit" for row in rows):
        return []
    root = grown(rows)
    # The narrower view leaves out what lies beside the culprits, level by level.
    for deepest in (None, 3, 2, 1, 0):
        lines = [(left, right) for left, right in _drawn(root, "", deepest)]
        if len(lines) <= MOST_LINES:
            break
    if len(lines) > MOST_LINES:
        lines = _around_culprits(lines)
    width = min(max(len(left) for left, _ in lines), WIDEST)
    return [f"{left.ljust(width)}  {right}".rstrip() for left, right in lines]


def grown(rows: Sequence[DepthRow]) -> Branch:
    """The tree of rows by their paths. A module that is left and entered again is there twice."""
    root = Branch("")
    paths = [tuple(re.split("[./]", row.path)) if row.path else () for row in rows]
    containers = {path[:count] for path in paths for count in range(len(path))}
    for row, path in zip(rows, paths, strict=True):
        here, glue = root, path in containers or not path
        for part in path if glue else path[:-1]:
            if not here.parts or here.parts[-1].name != part or here.parts[-1].row is not None:
                here.parts.append(Branch(part))
            here = here.parts[-1]
        here.parts.append(Branch(f"{GLUE} {row.kind}" if glue else path[-1], row))
    return root


def _drawn(branch: Branch, margin: str, deepest: int | None) -> Iterator[tuple[str, str]]:
    """Name and remark of each line below a branch."""
    run: list[Branch] = []
    for part in branch.parts:
        if "culprit" not in part.states and (not run or _state(run[-1]) == _state(part)):
            run.append(part)
            continue
        yield from _run_line(run, margin)
        run = []
        if "culprit" not in part.states:
            run = [part]
        elif part.row is not None:
            yield f"{margin}{part.name}", _culprit(part.row)
        else:
            yield from _opened(part, margin, deepest)
    yield from _run_line(run, margin)


def _opened(part: Branch, margin: str, deepest: int | None) -> Iterator[tuple[str, str]]:
    """A module with a culprit inside; a chain of single modules is one line."""
    name = part.name
    while len(part.parts) == 1 and part.parts[0].row is None:
        part = part.parts[0]
        name = f"{name}.{part.name}"
    if deepest == 0:
        # Only the culprits themselves, under their paths.
        for row in part.rows():
            if row.status == "culprit":
                yield f"{margin}{row.path or GLUE}", _culprit(row)
        return
    yield f"{margin}{name}", ""
    yield from _drawn(part, margin + "  ", None if deepest is None else deepest - 1)


def _run_line(run: Sequence[Branch], margin: str) -> Iterator[tuple[str, str]]:
    """One line for modules side by side that fare alike."""
    if not run:
        return
    rows = [row for part in run for row in part.rows()]
    name = run[0].name if len(run) == 1 else f"{run[0].name} ... {run[-1].name}"
    state = _state(run[0])
    said = ONE[state] if len(rows) == 1 else f"{len(rows)} {MANY[state]}"
    gaps = [row.gap for row in rows if row.gap is not None]
    exact = f" to {figure(max(gaps))}" if gaps and state == "matched" else ""
    yield f"{margin}{name}", f"{said}{exact}"


def _state(branch: Branch) -> str:
    """How a module without a culprit fares, everything in it together."""
    states = branch.states
    if states == {"matched"}:
        return "matched"
    return "after" if "after" in states else "unmatched"


def _culprit(row: DepthRow) -> str:
    parts = ["the difference begins here"]
    if row.gap is not None and (row.backward_gap is None or row.gap > 1e-7):
        parts.append(f"gap {figure(row.gap)}")
    elif row.backward_gap is not None and row.backward_gap > 1e-7:
        parts.append(f"gap of the gradient {figure(row.backward_gap)}")
    return "<- " + ", ".join(parts)


def _around_culprits(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first culprits of very many, and how many lines were left out."""
    marked = [line for line in lines if line[1].startswith("<-")]
    shown = marked[: MOST_LINES - 1]
    rest = len(marked) - len(shown)
    return [*shown, (f"and {rest} more", "")] if rest else shown
