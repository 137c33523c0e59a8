"""The equivalence card: one screen of Markdown for whoever reviews a port."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Comparison
from pytest_fwcompare.report.facts import (
    Fact,
    command,
    facts,
    failed_anyway,
    measured,
    name_of,
    rank,
    run_facts,
    title,
)
from pytest_fwcompare.report.host import Host
from pytest_fwcompare.report.numbers import figure, seconds
from pytest_fwcompare.report.text import headline

MOST_CARDS = 10
"""Failing comparisons that have a card of their own."""

MOST_ROWS = 200
"""Comparisons in the table: GitHub takes a summary of 1 MiB."""


def card(comparison: Comparison, test: str = "", note: str = "") -> str:
    """One comparison: verdict, what was compared, worst case, coverage, versions, command.

    Args:
        comparison: what is told.
        test: heads the card.
        note: what there is to say of the test beside the verdict.
    """
    lines = [f"### {escape(test or f'{comparison.reference} to {comparison.port}')}", ""]
    lines += [f"**{escape(headline(comparison))}**", ""]
    if note:
        lines += [f"**{note}**, though the comparison holds", ""]
    if comparison.message:
        lines.append(f"- {escape(comparison.message)}")
    lines += _listed(facts(comparison))
    lines += _fenced(comparison.replay)
    return "\n".join(lines) + "\n"


def run_to_markdown(results: Sequence[Result], host: Host | None = None) -> str:
    """How the run went, a table of all comparisons, and a card for each that does not hold.

    With one comparison its card is all there is to read. Of many that fail, the worst have cards:
    the page is meant to be read.
    """
    ordered = sorted(results, key=rank, reverse=True)
    lines = ["# Equivalence card", ""]
    if len(ordered) == 1:
        shown = ordered
    else:
        lines += [f"**{title(results)}**", ""]
        if ordered:
            lines += [*_listed(run_facts(results, host)), "", *_table(ordered)]
            lines += _fenced(command(results, host))
        lines.append("")
        failed = [result for result in ordered if not result.fine]
        shown = failed[:MOST_CARDS]
        if len(failed) > len(shown):
            lines += [f"The {MOST_CARDS} worst of {len(failed)}:", ""]
    lines += [card(r.comparison, name_of(r), failed_anyway(r)) for r in shown]
    return "\n".join(lines).rstrip() + "\n"


def _listed(found: Iterable[Fact]) -> list[str]:
    return [f"- {fact.label}: {escape(fact.text)}" for fact in found]


def _fenced(code: str) -> list[str]:
    """A block of code, with a fence that nothing in it closes."""
    if not code:
        return []
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return ["", fence, *code.splitlines(), fence]


def escape(text: str) -> str:
    """Text that Markdown and HTML take literally."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text).replace("\n", " ")


def _table(results: Iterable[Result]) -> Iterator[str]:
    yield "| test | framework | verdict | gap | noise | forward | backward |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    rows = list(results)
    for result in rows[:MOST_ROWS]:
        comparison = result.comparison
        timing = {t.framework: t for t in comparison.timings}.get(comparison.port)
        cells = [
            escape(name_of(result)),
            escape(comparison.port),
            f"{comparison.verdict}{f' ({note})' if (note := failed_anyway(result)) else ''}",
            figure(comparison.gap) if measured(comparison) else "",
            figure(comparison.noise) if measured(comparison) else "",
            seconds(timing.forward.median) if timing else "",
            seconds(timing.backward.median) if timing and timing.backward else "",
        ]
        yield f"| {' | '.join(cells)} |"
    if len(rows) > MOST_ROWS:
        yield f"\nand {len(rows) - MOST_ROWS} more, none of them worse."
