"""Puts baselines of several CI jobs together; what they do not agree on is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_fwcompare.gate.baseline import Baseline, BaselineError, Entry, Environment, as_text


@dataclass(frozen=True)
class Fact:
    """A case of one baseline; equal ones have equal text, as NaN is not equal to itself."""

    entry: Entry
    environment: Environment
    text: str


class MergeConflict(BaselineError):
    """Cases for which two baselines have different figures.

    Args:
        cases: by id, the names of the baselines that differ.
    """

    def __init__(self, cases: Mapping[str, Sequence[str]]) -> None:
        lines = [f"  {case}: {', '.join(names)}" for case, names in cases.items()]
        count = f"{len(cases)} case{'s' * (len(cases) > 1)}"
        super().__init__(
            f"different figures for {count}; nothing was written:\n"
            + "\n".join(lines)
            + "\ngive the common ancestor with --base OLD.json, or say which file outweighs the "
            "others with --prefer FILE.json"
        )
        self.cases = cases


def merge_all(
    baselines: Mapping[str, Baseline], base: Baseline | None = None, prefer: str | None = None
) -> Baseline:
    """One baseline with the cases of all.

    Args:
        baselines: by name, for messages.
        base: what they were made from: what only some changed is taken from those, and what only
            some removed is removed.
        prefer: name of the one that decides where others differ.

    Raises:
        MergeConflict: figures differ and nothing says which are right.
    """
    ancestor = {} if base is None else _facts(base)
    found = {name: _facts(baseline) for name, baseline in baselines.items()}
    cases: dict[str, Entry] = {}
    environments: dict[str, Environment] = {}
    conflicts: dict[str, list[str]] = {}
    for case in sorted({case for facts in found.values() for case in facts}):
        have = {name: facts[case] for name, facts in found.items() if case in facts}
        old = ancestor[case].text if case in ancestor else None
        changed = {name: fact for name, fact in have.items() if fact.text != old}
        if not changed and len(have) < len(found):
            continue  # it is as it was, and somebody removed it
        candidates = list((changed or have).values())
        if prefer in have:
            candidates = [have[prefer]]
        if any(fact.text != candidates[0].text for fact in candidates):
            conflicts[case] = list(changed)
            continue
        cases[case] = candidates[0].entry
        environments[cases[case].environment] = candidates[0].environment
    if conflicts:
        raise MergeConflict(conflicts)
    return Baseline(cases, environments)


def _facts(baseline: Baseline) -> dict[str, Fact]:
    return {
        case: Fact(entry, baseline.environment(case), as_text(entry))
        for case, entry in baseline.cases.items()
    }
