"""Tables of the page: text for people, and the exact figure beside it for machines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_fwcompare.records import Comparison, Quartiles, Timing
from pytest_fwcompare.report.facts import ratio_of
from pytest_fwcompare.report.numbers import figure, number, seconds, size, times


class Cell(NamedTuple):
    """What a cell shows.

    Attributes:
        exact: the figure with all its digits; "" where the text is all there is.
        kind: "text", "number", "name" (of a tensor or module) or "verdict".
        note: said beside it.
    """

    text: str
    exact: str = ""
    kind: str = "text"
    note: str = ""


class Table(NamedTuple):
    """A table with its caption; the first cell of each row is its heading.

    Attributes:
        numbers: columns, counted from 0, that hold figures.
        open: whether it is seen without being asked for.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    open: bool = False

    @property
    def numbers(self) -> frozenset[int]:
        """Columns, counted from 0, that hold figures."""
        return frozenset(
            place for row in self.rows for place, cell in enumerate(row) if cell.kind == "number"
        )


def name(text: str) -> Cell:
    """A tensor, a parameter or a module."""
    return Cell(text, kind="name")


def measured(value: float | None, text: str | None = None) -> Cell:
    """A figure; nothing where there is none."""
    if value is None:
        return Cell("", kind="number")
    return Cell(figure(value) if text is None else text, repr(value), "number")


def counted(value: int) -> Cell:
    """A whole number."""
    return Cell(f"{value:,}", str(value), "number")


def tensors(comparison: Comparison) -> Table:
    """Every compared tensor, in the order in which they were compared."""
    rows = tuple(
        (
            name(row.name),
            Cell(row.verdict, kind="verdict"),
            measured(row.gap),
            measured(row.reference_noise),
            measured(row.port_noise),
            measured(row.jitter),
            measured(row.ulp, times(row.ulp)),
            Cell(f"[{', '.join(map(str, row.index))}]" if row.index else ""),
            measured(row.expected, number(row.expected)),
            measured(row.obtained, number(row.obtained)),
            counted(row.example),
        )
        for row in comparison.tensors
    )
    headings = (
        "Tensor",
        "Verdict",
        "Gap",
        "Noise, reference",
        "Noise, port",
        "Explained by rounding",
        "ULP",
        "Worst at",
        "Expected",
        "Obtained",
        "Example",
    )
    return Table("Compared tensors", headings, rows)


def depth(comparison: Comparison) -> Table:
    """The reference's modules in data-flow order, and where the port departs."""
    rows = tuple(
        (
            name(row.path or "(the root's own code)"),
            Cell(row.kind),
            Cell(row.status),
            name(row.port_path or ""),
            measured(row.gap),
            measured(row.backward_gap),
        )
        for row in comparison.depth
    )
    headings = ("Module of the reference", "Kind", "Status", "In the port", "Gap", "Backward gap")
    return Table("Modules in the order of the data", headings, rows)


def attribution(comparison: Comparison) -> Table:
    """What every implementation of a Keras layer gave, against its documented formula."""
    found = comparison.attribution
    rows = tuple(
        (
            name(answer.who),
            Cell({True: "agrees", False: "differs", None: "no answer"}[answer.agrees]),
            measured(answer.forward),
            measured(answer.backward),
            measured(answer.noise),
            Cell(answer.reason),
        )
        for answer in (() if found is None else found.answers)
    )
    headings = ("Implementation", "Answer", "Forward", "Backward", "Noise", "Reason")
    return Table("Keras or the backend", headings, rows)


def examples(comparison: Comparison) -> Table:
    """The ratio of every example."""
    rows = tuple(
        (counted(place), measured(ratio)) for place, ratio in enumerate(comparison.examples.ratios)
    )
    return Table("Gap over what rounding explains", ("Example", "Ratio"), rows)


def timings(comparison: Comparison, best: float) -> Table:
    """Medians with quartiles, ratio to the fastest of the test, memory.

    Args:
        comparison: whose timings.
        best: seconds of the fastest framework of the test.
    """
    split = any(t.host_s is not None or t.device_s is not None for t in comparison.timings)
    headings = (
        "Framework",
        "Forward",
        "Backward",
        "Ratio",
        "First call",
        *(("Host", "Device") if split else ()),
        "Peak memory",
        "Rounds",
        "Threads",
        "Mode",
        "Notes",
    )
    rows = tuple(_timing(timing, best, split) for timing in comparison.timings)
    if not any(row[-1].text for row in rows):
        headings, rows = headings[:-1], tuple(row[:-1] for row in rows)
    return Table("Timings", headings, rows, open=True)


def _timing(timing: Timing, best: float, split: bool) -> tuple[Cell, ...]:
    notes = []
    if timing.shared_machine:
        notes.append("other workers used the machine")
    if not timing.synchronised:
        notes.append("calls returned before their work was done: the times mislead")
    return (
        Cell(timing.framework),
        *speed(timing, best),
        duration(timing.first_call_s),
        *((duration(timing.host_s), duration(timing.device_s)) if split else ()),
        memory(timing),
        counted(timing.forward.rounds),
        counted(timing.threads),
        Cell(f"{timing.mode}, {timing.device}"),
        Cell("; ".join(notes)),
    )


def speed(timing: Timing, best: float) -> tuple[Cell, Cell, Cell]:
    """Forward and backward with their quartiles, and the ratio with its interval."""
    ratio, interval = ratio_of(timing, best), ""
    if timing.ratio is not None and timing.ratio.high > timing.ratio.low:
        interval = f"{timing.ratio.low:.2f} to {timing.ratio.high:.2f} (95 %)"
    text = None if ratio is None else f"{ratio:.2f}"
    return (
        _spread(timing.forward),
        _spread(timing.backward),
        measured(ratio, text)._replace(note=interval),
    )


def _spread(found: Quartiles | None) -> Cell:
    if found is None:
        return measured(None)
    cell = measured(found.median, seconds(found.median))
    return cell._replace(note=f"{seconds(found.low)} to {seconds(found.high)}")


def duration(value: float | None) -> Cell:
    """Seconds, where they were measured."""
    return measured(value, None if value is None else seconds(value))


MEMORY = {
    "device": "of the device",
    "process": "in a process of its own",
    "rise": "at least",
}


def memory(timing: Timing) -> Cell:
    """Peak memory and what it was measured in."""
    if timing.peak_bytes is None:
        return measured(None)
    note = MEMORY.get(timing.peak_of, "")
    return Cell(size(timing.peak_bytes), str(timing.peak_bytes), "number", note)


def _known(value: float, text: str) -> Cell:
    """A figure where there is one: a verdict that got graver did so by no number."""
    return measured(value, text) if math.isfinite(value) else measured(None)


def drift(comparison: Comparison) -> Table:
    """What moved against the baseline."""
    found = comparison.drift
    rows = tuple(
        (
            name(change.figure),
            Cell(change.text),
            *(_known(value, figure(value)) for value in (change.before, change.after)),
            _known(change.times, times(change.times)),
        )
        for change in (found.changes if found is not None else ())
    )
    headings = ("Figure", "Change", "Baseline", "Now", "Times worse")
    return Table("Drift against the baseline", headings, rows, open=True)


def controls(comparison: Comparison) -> Table:
    """The disturbances of the port after a pass."""
    rows = tuple(
        (
            name(control.target),
            measured(control.size),
            Cell("yes" if control.noticed else "no"),
            measured(control.ratio, times(control.ratio)),
        )
        for control in comparison.controls.tried
    )
    headings = ("Disturbed", "Relative size", "Noticed", "Gap over rounding")
    return Table("Disturbances of the port, which the judge must notice", headings, rows)


def uncovered(comparison: Comparison) -> Table:
    """All parameters that the comparison says nothing about."""
    rows = tuple((name(parameter),) for parameter in comparison.controls.uncovered)
    return Table("Not covered: parameters whose change nothing notices", ("Parameter",), rows)


def weights(comparison: Comparison) -> Table:
    """How the port's parameters were filled."""
    rows = tuple(
        (
            name(row.port or "(nothing in the port)"),
            name(", ".join(row.references)),
            name(row.transform),
            Cell(row.reason),
        )
        for row in comparison.weights
    )
    return Table(
        "Weights: what each parameter of the port was filled with",
        ("Parameter of the port", "From the reference's", "Transform", "Why"),
        rows,
    )


def environment(known: Mapping[str, object]) -> Table:
    """Versions, device, threads and flags of each framework."""
    rows = tuple(
        (Cell(framework), name(key), name(str(value)))
        for framework, facts in known.items()
        for key, value in _flat(facts)
    )
    return Table("Environment", ("Framework", "Fact", "Value"), rows)


def _flat(facts: object, before: str = "") -> Iterable[tuple[str, object]]:
    if not isinstance(facts, Mapping):
        yield before, facts
        return
    for key, value in facts.items():
        place = f"{before}.{key}" if before else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, place)
        else:
            yield place, value


def without_empty(found: Sequence[Table]) -> tuple[Table, ...]:
    """The tables that have rows."""
    return tuple(table for table in found if table.rows)
