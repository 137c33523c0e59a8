"""What a person reads of a comparison: the verdict first, then where, why, how to see it again."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from itertools import chain

from pytest_fwcompare.records import (
    Attribution,
    Comparison,
    Difference,
    ExampleRecord,
    TensorRow,
    Timing,
)
from pytest_fwcompare.report.drift import drift_sentences
from pytest_fwcompare.report.numbers import figure, number, seconds, size, times
from pytest_fwcompare.report.tree import tree_lines

WIDTH = 92
INDENT = 12
MOST_ROWS = 6
MOST_NAMES = 8
MOST_FURTHER = 4
MOST_VALUES = 400
"""Characters of an input's values that are shown."""

SENTENCES = {
    "equivalent": "{port} computes the same function as {reference}",
    "semantic": "{port} does not compute the same function as {reference}",
    "precision": "{port} computes the same function as {reference}, but less accurately than "
    "{dtype} allows",
    "subgradient": "{port} differs from {reference} only where the function has no derivative",
    "nonfinite": "NaN or infinity on one side only: {port} against {reference}",
    "error": "{port} could not be compared with {reference}",
}


UNLIKE_ITSELF = {
    "semantic": "{framework} in mode {mode!r} does not compute what it computes eagerly: "
    "the {role}",
    "precision": "{framework} differs from itself between two equal calls: the {role}",
}
"""Where the fault is not between the sides."""


def summary(comparison: Comparison) -> str:
    """The comparison in 10 to 30 lines, for a terminal."""
    lines = [headline(comparison)]
    if comparison.message:
        lines += _wrap(comparison.message, indent=2)
    for label, texts in _sections(comparison):
        lines += _labelled(label, texts)
    return "\n".join(lines)


def headline(comparison: Comparison) -> str:
    """One line: the verdict, who, and on which axes."""
    if "unknown" in (comparison.reference, comparison.port):
        return f"{comparison.verdict}: nothing was compared ({axes(comparison)})"
    if comparison.unlike_itself:
        role = comparison.unlike_itself
        sentence = UNLIKE_ITSELF[comparison.verdict].format(
            framework=getattr(comparison, role), mode=comparison.mode, role=role
        )
        return f"{comparison.verdict}: {sentence} ({axes(comparison)})"
    sentence = SENTENCES[comparison.verdict].format(
        port=f"the {comparison.port} port",
        reference=f"the {comparison.reference} reference",
        dtype=comparison.dtype,
    )
    return f"{comparison.verdict}: {sentence} ({axes(comparison)})"


def axes(comparison: Comparison) -> str:
    """Device, dtype and mode."""
    return f"{comparison.device}, {comparison.dtype}, {comparison.mode}"


def worst_tensor(comparison: Comparison) -> TensorRow | None:
    """The tensor that shows the verdict best: an output if one does, with the largest figure."""
    rows = [row for row in comparison.tensors if row.verdict == comparison.verdict]
    if comparison.verdict != "equivalent":
        rows = [row for row in rows if row.kind == "output"] or rows
    return max(rows or comparison.tensors, key=_weight, default=None)


def _weight(row: TensorRow) -> float:
    value = row.port_noise if row.verdict == "precision" else row.gap
    return float("inf") if value != value else value


def _sections(comparison: Comparison) -> Iterator[tuple[str, Iterable[str]]]:
    yield "where", place(comparison)
    yield "cause", _cause(comparison)
    yield "also", chain.from_iterable(further(comparison))
    yield "hints", comparison.hints
    yield "keras", attribution_lines(comparison.attribution)
    yield "modules", tree_lines(comparison)
    row = worst_tensor(comparison)
    if comparison.unlike_itself:
        pass  # figures of one side against the other would only accuse somebody
    elif row is not None and comparison.verdict != "equivalent":
        yield "worst", tensor_sentences(row, comparison)
        yield "tensors", _tensors(comparison)
        yield "input", _example(comparison)
    elif row is not None or comparison.verdict != "error":
        yield "judged", _judged(comparison)
    yield "controls", _controls(comparison)
    yield "drift", drift_sentences(comparison)
    yield "time", [timing_sentence(timing) for timing in comparison.timings]
    yield "notice", comparison.notices
    yield "replay", comparison.replay.splitlines()


def place(comparison: Comparison, at: Difference | None = None) -> list[str]:
    """Where the difference begins, in the reference and in the port.

    Args:
        comparison: a failed one.
        at: one of its further differences; the first without.
    """
    found = comparison if at is None else at
    lines = []
    if found.culprit:
        lines.append(f"{found.culprit} of the {comparison.reference} reference")
    elif found.between is not None:
        before, after = (name or "(the ends)" for name in found.between)
        lines.append(f"code between {before} and {after} of the {comparison.reference} reference")
    elif found.culprit == "":
        lines.append(f"code of the {comparison.reference} reference outside its layers")
    if found.port_culprit:
        lines.append(f"{found.port_culprit} of the {comparison.port} port")
    return lines


def further(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """The further places where a difference begins, each with why."""
    for other in comparison.further[:MOST_FURTHER]:
        why = ": ".join([other.cause or "no cause could be proved", *other.evidence[:1]])
        yield "; ".join(place(comparison, other)), why
    left = len(comparison.further) - MOST_FURTHER
    if left > 0:
        yield f"at {left} more", "the tree of modules shows where"


def _cause(comparison: Comparison) -> list[str]:
    if comparison.cause is None:
        return list(comparison.evidence)
    return [comparison.cause, *comparison.evidence]


def attribution_lines(found: Attribution | None) -> list[str]:
    """Whether it is Keras or the backend, with the figures of everyone who was asked."""
    if found is None:
        return []
    lines = [found.answer]
    if found.documented:
        lines.append(
            f"{found.layer} against the documented formula of {found.documented} in NumPy:"
        )
    elif found.answers:
        lines.append(f"{found.layer} ({found.kind}):")
    width = max((len(answer.who) for answer in found.answers), default=0)
    for answer in found.answers:
        if answer.who == "numpy":
            continue
        said = [answer.who.ljust(width)]
        if answer.forward is not None:
            said.append(f"forward {figure(answer.forward).rjust(7)}")
        if answer.backward is not None:
            said.append(f"backward {figure(answer.backward).rjust(7)}")
        if answer.reason:
            said.append(answer.reason.splitlines()[0])
        lines.append("  ".join(said))
    return [*lines, *found.notes, *([f"to do: {found.advice}"] if found.advice else ())]


def tensor_sentences(row: TensorRow, comparison: Comparison) -> list[str]:
    """Where in the tensor, what was expected and obtained, and how far that is from rounding."""
    index = f"[{', '.join(map(str, row.index))}]" if row.index else ""
    # The figures are those of the example as drawn, the input that is shown is its smallest form.
    drawn = "" if comparison.examples.worst is None else f" of example {row.example}"
    lines = [
        f"{row.name}{index}{drawn}: expected {number(row.expected)}, obtained "
        f"{number(row.obtained)}"
    ]
    if row.verdict == "precision":
        allowed = max(row.reference_noise, row.jitter)
        lines.append(
            f"noise {figure(row.port_noise)} against {figure(row.reference_noise)} of the "
            f"reference and jitter {figure(row.jitter)}{_factor(row.port_noise, allowed)}; in "
            f"float64 both agree to {figure(row.gap)}"
        )
    elif row.verdict != "nonfinite":
        lines.append(
            f"gap {figure(row.gap)} of the largest value, in float64; rounding the inputs and "
            f"weights to {comparison.dtype} explains {figure(row.jitter)}"
            f"{_factor(row.gap, row.jitter)}"
        )
        lines.append(
            f"noise of {comparison.dtype}: reference {figure(row.reference_noise)}, port "
            f"{figure(row.port_noise)}"
        )
    if row.ulp:
        lines.append(f"{times(row.ulp)} ULP apart in {comparison.dtype}")
    return lines


def _factor(value: float, allowed: float) -> str:
    return f" ({times(value / allowed)} times that)" if allowed > 0 and value > allowed else ""


def _tensors(comparison: Comparison) -> list[str]:
    """The tensors that differ, worst first, and how many do not."""
    differ = [row for row in comparison.tensors if row.verdict != "equivalent"]
    if len(differ) < 2:
        count = len(comparison.tensors) - len(differ)
        return [f"{count} others agree"] if differ and count else []
    head = (
        f"{len(differ)} of {len(comparison.tensors)} differ",
        "verdict",
        "gap",
        "jitter",
        "ULP",
    )
    rows = [head] + [
        (row.name, row.verdict, figure(row.gap), figure(row.jitter), times(row.ulp))
        for row in sorted(differ, key=_weight, reverse=True)[:MOST_ROWS]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
            + [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        )
        for row in rows
    ]
    if len(differ) > MOST_ROWS:
        lines.append(f"and {len(differ) - MOST_ROWS} more")
    return lines


def _example(comparison: Comparison) -> list[str]:
    worst = comparison.examples.worst
    if worst is None:
        return []
    found = f"from example {worst.number} of {comparison.examples.count}"
    return [
        f"the smallest that shows it, {found}: {worst.description}",
        *example_values(worst),
    ]


def example_values(worst: ExampleRecord) -> Iterator[str]:
    """The inputs as "name = values", cut where they are long; shapes alone where none are kept."""
    for name, shape in worst.shapes.items():
        value = None if worst.values is None else worst.values.get(name)
        if value is None:
            yield f"{name}: shape {tuple(shape)}"
            continue
        shown = json.dumps(value)
        yield f"{name} = {shown if len(shown) <= MOST_VALUES else shown[:MOST_VALUES] + ' ...'}"


def _judged(comparison: Comparison) -> list[str]:
    row = worst_tensor(comparison)
    counted = (
        f"{len(comparison.tensors)} tensors ({', '.join(comparison.checks)}) over "
        f"{comparison.examples.count} generated examples"
    )
    if row is None:
        return [counted] if comparison.examples.count else []
    return [
        counted,
        f"largest gap {figure(comparison.gap)} in float64 ({row.name}), where rounding to "
        f"{comparison.dtype} explains {figure(row.jitter)}; noise of the port "
        f"{figure(comparison.noise)}",
    ]


def _controls(comparison: Comparison) -> list[str]:
    controls = comparison.controls
    lines = []
    if controls.tried:
        lines.append(
            f"{controls.caught} of {len(controls.tried)} deliberate disturbances were noticed"
        )
    if controls.uncovered:
        names = list(controls.uncovered[:MOST_NAMES])
        if len(controls.uncovered) > MOST_NAMES:
            names.append(f"and {len(controls.uncovered) - MOST_NAMES} more")
        lines.append(f"not covered, nothing notices a change of: {', '.join(names)}")
    return lines


def timing_sentence(timing: Timing) -> str:
    """Forward, backward and first call of one framework."""
    parts = [f"forward {seconds(timing.forward.median)}"]
    if timing.backward is not None:
        parts.append(f"backward {seconds(timing.backward.median)}")
    parts.append(f"first call {seconds(timing.first_call_s)}")
    if timing.device_s is not None:
        parts.append(f"of it the device {seconds(timing.device_s)}")
    if timing.host_s is not None and timing.device != "cpu":
        parts.append(f"the host {seconds(timing.host_s)}")
    if timing.peak_bytes is not None:
        place = {"device": " of the device", "process": " in a process of its own"}
        parts.append(f"peak {size(timing.peak_bytes)}{place.get(timing.peak_of, '')}")
    if timing.ratio is not None and timing.ratio.median != 1.0:
        low, high = timing.ratio.low, timing.ratio.high
        parts.append(f"{timing.ratio.median:.2f} ({low:.2f} to {high:.2f}) times the fastest")
    threads = f"{timing.threads} thread{'s' if timing.threads != 1 else ''}"
    shared = ", shared machine" if timing.shared_machine else ""
    waits = "" if timing.synchronised else "; not synchronised: the figures mislead"
    apart = ", in its own process" if timing.own_process else ""
    others = "".join(f", {name} {value}" for name, value in timing.settings.items())
    return f"{timing.framework}: {', '.join(parts)} ({threads}{shared}{apart}{others}{waits})"


def _labelled(label: str, texts: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        lines += _wrap(text, indent=INDENT)
    if lines:
        lines[0] = f"  {label}".ljust(INDENT) + lines[0][INDENT:]
    return lines


def _wrap(text: str, indent: int) -> list[str]:
    """Long lines broken between words; a table's row or a command is kept as it is."""
    margin = " " * indent
    lines: list[str] = []
    for line in text.splitlines():
        if len(line) + indent <= WIDTH or line.startswith("pytest ") or "  " in line:
            lines.append(margin + line)
        else:
            lines += textwrap.wrap(
                line,
                WIDTH,
                initial_indent=margin,
                subsequent_indent=margin,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines
