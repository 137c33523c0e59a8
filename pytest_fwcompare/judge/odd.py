"""With three or more sides: which one is the odd one out, and when that stays open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.records import Comparison, TensorRow

SHARED = 1e-4
"""Share of their distance from the reference up to which two ports count as giving one value."""


@dataclass(frozen=True)
class OddOneOut:
    """Sides that disagree with a majority.

    Attributes:
        names: frameworks that are odd, the reference's among them if it is; () if none is, or if
            that stays open.
        tie: True if sides disagree and no majority says which are right.
        text: the same in a sentence.
    """

    names: tuple[str, ...]
    tie: bool
    text: str


def odd_one_out(
    comparisons: Sequence[Comparison] | Mapping[str, Comparison],
) -> OddOneOut:
    """Name the sides that disagree with the majority, from comparisons against one reference.

    Ports that pass agree with the reference. Two that fail agree with each other if they gave the
    same wrong values: the same tensors, examples and places, and values far closer to each other
    than to the reference's. The largest group is the majority; where two could be the largest, it
    is a tie.

    Args:
        comparisons: each of another port with the same reference, made with the same inputs and
            seed; a mapping gives the ports names of its own.

    Raises:
        UsageError: fewer than one comparison, several references, or a name twice.
    """
    named = _named(comparisons)
    reference = next(iter(named.values())).reference
    reference = f"{reference} (reference)" if reference in named else reference
    unknown = [name for name, made in named.items() if made.verdict == "error"]
    judged = {name: made for name, made in named.items() if name not in unknown}
    note = f"; {_list(unknown)} could not be compared" if unknown else ""
    failed = [name for name, made in judged.items() if not made.passed]
    agreeing = [reference, *(name for name in judged if name not in failed)]
    if not failed:
        return OddOneOut((), False, f"{_list(agreeing)} agree{note}")
    certain, possible = _groups({name: judged[name] for name in failed})
    groups = [agreeing, *certain]
    largest = max(groups, key=len)
    rivals = [group for group in (agreeing, *possible) if not set(group) <= set(largest)]
    if all(len(group) < len(largest) for group in rivals):
        odd = tuple(name for group in groups if group is not largest for name in group)
        verb = "is the odd one out" if len(odd) == 1 else "are the odd ones out"
        word = "agrees" if len(largest) == 1 else "agree"
        return OddOneOut(odd, False, f"{_list(odd)} {verb}: {_list(largest)} {word}{note}")
    sides = " against ".join(_list(group) for group in groups)
    return OddOneOut((), True, f"open which is right: {sides}{note}")


def _named(
    comparisons: Sequence[Comparison] | Mapping[str, Comparison],
) -> dict[str, Comparison]:
    if isinstance(comparisons, Mapping):
        named = dict(comparisons)
    else:
        named = {made.port: made for made in comparisons}
        if len(named) < len(comparisons):
            ports = ", ".join(made.port for made in comparisons)
            raise UsageError(
                f"odd_one_out: several comparisons of one framework ({ports}); pass a mapping "
                f"{{name: comparison}}"
            )
    if not named:
        raise UsageError("odd_one_out: expected comparisons, got none")
    references = {made.reference for made in named.values()}
    if len(references) > 1:
        raise UsageError(
            f"odd_one_out: expected comparisons against one reference, got "
            f"{', '.join(sorted(references))}"
        )
    return named


def _groups(failed: Mapping[str, Comparison]) -> tuple[list[list[str]], list[list[str]]]:
    """Ports that gave the same wrong values, and ports that may have."""
    certain: list[list[str]] = []
    for name, made in failed.items():
        for group in certain:
            if all(agree(made, failed[other]) is True for other in group):
                group.append(name)
                break
        else:
            certain.append([name])
    possible = [
        [o for o, other in failed.items() if o == name or agree(made, other) is not False]
        for name, made in failed.items()
    ]
    return certain, possible


def agree(one: Comparison, two: Comparison) -> bool | None:
    """Whether two failing ports gave the same wrong values; None if that cannot be told."""
    others = {row.name: row for row in two.tensors if row.verdict != "equivalent"}
    wrong = {row.name: row for row in one.tensors if row.verdict != "equivalent"}
    if one.verdict != two.verdict or set(wrong) != set(others):
        return False
    found = [_alike(row, others[name]) for name, row in wrong.items()]
    told = [alike for alike in found if alike is not None]
    if False in told:
        return False
    return True if told else None


def _alike(one: TensorRow, two: TensorRow) -> bool | None:
    """Whether two rows show the same wrong value; None where they show other places."""
    if (one.example, one.index) != (two.example, two.index):
        return None
    if one.expected != two.expected:
        return None
    distance = max(abs(one.obtained - one.expected), abs(two.obtained - two.expected))
    apart = abs(one.obtained - two.obtained)
    if distance != distance or apart != apart:
        return None
    return apart <= SHARED * distance


def _list(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
