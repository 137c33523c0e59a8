"""The equivalence card: one screen of Markdown for whoever reviews a port."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_fwcompare.recording import Result, badness
from pytest_fwcompare.records import Comparison
from pytest_fwcompare.report.numbers import figure, seconds
from pytest_fwcompare.report.text import headline, place, tensor_sentences, worst_tensor

MOST_NAMES = 8


def card(comparison: Comparison, test: str = "") -> str:
    """One comparison: verdict, what was compared, worst case, coverage, versions, command."""
    lines = [f"### {escape(test or f'{comparison.reference} to {comparison.port}')}", ""]
    lines += [f"**{escape(headline(comparison))}**", ""]
    lines += [f"- {line}" for line in _facts(comparison)]
    if comparison.replay:
        lines += ["", "```", *comparison.replay.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def run_to_markdown(results: Sequence[Result]) -> str:
    """A table of all comparisons, and a card for each that is not simply equivalent.

    With one comparison its card is all there is to read.
    """
    ordered = sorted(results, key=lambda result: badness(result.comparison), reverse=True)
    lines = ["# Equivalence card", ""]
    if len(ordered) != 1:
        lines += list(_table(ordered)) if ordered else ["No comparison was made."]
        lines.append("")
    shown = ordered if len(ordered) == 1 else [r for r in ordered if not r.comparison.passed]
    lines += [card(result.comparison, result.test) for result in shown]
    return "\n".join(lines).rstrip() + "\n"


def escape(text: str) -> str:
    """Text that Markdown and HTML take literally."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text).replace("\n", " ")


def _table(results: Iterable[Result]) -> Iterator[str]:
    yield "| test | framework | verdict | gap | noise | forward | backward |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for result in results:
        comparison = result.comparison
        timing = {t.framework: t for t in comparison.timings}.get(comparison.port)
        cells = [
            escape(result.test),
            escape(comparison.port),
            comparison.verdict,
            figure(comparison.gap),
            figure(comparison.noise),
            seconds(timing.forward.median) if timing else "",
            seconds(timing.backward.median) if timing and timing.backward else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _facts(comparison: Comparison) -> Iterator[str]:
    if comparison.message:
        yield escape(comparison.message)
    if where := place(comparison):
        yield f"Where: {escape('; '.join(where))}"
    if comparison.cause is not None:
        yield f"Cause: {escape(comparison.cause)}"
    for sentence in comparison.evidence:
        yield f"Evidence: {escape(sentence)}"
    yield (
        f"Compared: {len(comparison.tensors)} tensors ({', '.join(comparison.checks)}), "
        f"{comparison.examples.count} examples, seed {comparison.seed}"
    )
    row = worst_tensor(comparison)
    if row is not None:
        yield f"Worst: {escape('; '.join(tensor_sentences(row, comparison)))}"
    controls = comparison.controls
    if controls.tried:
        noticed = [control.size for control in controls.tried if control.noticed]
        smallest = f", the smallest of relative size {figure(min(noticed))}" if noticed else ""
        yield (
            f"Sensitivity: {controls.caught} of {len(controls.tried)} disturbances "
            f"noticed{smallest}"
        )
    if controls.uncovered:
        names = ", ".join(controls.uncovered[:MOST_NAMES])
        more = len(controls.uncovered) - MOST_NAMES
        yield f"Not covered: {escape(names)}{f' and {more} more' if more > 0 else ''}"
    for notice in comparison.notices:
        yield f"Notice: {escape(notice)}"
    if versions := _versions(comparison.environment):
        yield f"Versions: {escape(versions)}"


def _versions(environment: Mapping[str, object]) -> str:
    found = []
    for name, facts in environment.items():
        if isinstance(facts, Mapping) and "version" in facts:
            found.append(f"{name} {facts['version']}")
    return ", ".join(found)
