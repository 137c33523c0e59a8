"""Gathers what all examples said into one verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pytest_fwcompare.judge.verdict import Assessment
from pytest_fwcompare.records import TensorRow, Verdict

ORDER: tuple[Verdict, ...] = ("semantic", "nonfinite", "precision", "subgradient", "equivalent")
"""From the one that decides to the one that is left when nothing else was found."""

TRAINING = "training "
"""Begins the names of tensors of a step in training mode."""

T = TypeVar("T")


@dataclass(frozen=True)
class Finding(Generic[T]):
    """One example's verdict, confirmed, with its assessments.

    Attributes:
        example: what was judged.
        number: its position.
        verdict: of the example as a whole.
        assessments: of every tensor.
        notices: said of this example.
    """

    example: T
    number: int
    verdict: Verdict
    assessments: tuple[Assessment, ...]
    notices: tuple[str, ...] = ()

    @property
    def in_gradients_only(self) -> bool:
        """Outputs and buffers agree; what is wrong shows in gradients alone."""
        wrong = [item for item in self.assessments if item.verdict == self.verdict]
        return all(item.kind in ("input gradient", "parameter gradient") for item in wrong)

    @property
    def in_training(self) -> bool:
        """What is wrong shows in training mode alone."""
        calm = self.verdict == "equivalent"
        wrong = [a for a in self.assessments if (a.hidden if calm else a.verdict == self.verdict)]
        return bool(wrong) and all(item.name.startswith(TRAINING) for item in wrong)

    @property
    def ratio(self) -> float:
        """The largest gap over what rounding explains."""
        return max((a.semantic_ratio for a in self.assessments), default=0.0)

    @property
    def hidden_ratio(self) -> float:
        """The largest gap over the rounding of float64 among tensors judged equivalent."""
        return max((a.hidden_ratio for a in self.assessments if a.hidden), default=0.0)

    @property
    def severity(self) -> float:
        """Orders findings of one verdict."""
        wrong = [a.severity for a in self.assessments if a.verdict != "equivalent"]
        return max(wrong, default=self.ratio)


@dataclass
class Tally(Generic[T]):
    """All findings of a comparison."""

    findings: list[Finding[T]] = field(default_factory=list)

    def add(self, finding: Finding[T]) -> None:
        """Take in one example."""
        self.findings.append(finding)

    @property
    def verdict(self) -> Verdict:
        """The verdict over all examples.

        A function that differs in exact arithmetic differs on most examples on which it can be
        told; where NaN on one side is what most examples show, the few finite differences are
        what is left of an overflow, so `nonfinite` decides. Accuracy lost in gradients alone
        must show on half of the examples: where a saturated softmax cancels, one framework's
        formula is exact by luck and another's is not, which is no fault of the port's.
        """
        counts = Counter(finding.verdict for finding in self.findings)
        if counts["precision"] and all(
            finding.in_gradients_only
            for finding in self.findings
            if finding.verdict == "precision"
        ):
            counts["precision"] *= 2 * counts["precision"] >= len(self.findings)
        if counts["semantic"] and counts["nonfinite"] > counts["semantic"]:
            return "nonfinite"
        return next((verdict for verdict in ORDER if counts[verdict]), "equivalent")

    def worst(self) -> Finding[T] | None:
        """The example that shows the verdict most."""
        verdict = self.verdict
        mine = [finding for finding in self.findings if finding.verdict == verdict]
        return max(mine, key=lambda finding: finding.severity, default=None)

    def showing(self) -> list[Finding[T]]:
        """All examples that show the verdict."""
        verdict = self.verdict
        return [finding for finding in self.findings if finding.verdict == verdict]

    def most_hidden(self) -> Finding[T] | None:
        """The example whose hidden difference stands out most, if there is one."""
        hidden = [finding for finding in self.findings if finding.hidden_ratio > 0]
        return max(hidden, key=lambda finding: finding.hidden_ratio, default=None)

    def rows(self) -> tuple[TensorRow, ...]:
        """One row a tensor: of its worst example.

        Where that example needed no jitter, as float64's own rounding explains the gap, the
        largest that was drawn for the tensor in any example is given.
        """
        best: dict[str, tuple[tuple[int, float], TensorRow]] = {}
        jitters: dict[str, float] = {}
        for finding in self.findings:
            for item in finding.assessments:
                if item.jitter >= 0:  # drawn
                    jitters[item.name] = max(item.jitter, jitters.get(item.name, 0.0))
                key = (-ORDER.index(item.verdict), item.severity)
                if item.name not in best or key > best[item.name][0]:
                    best[item.name] = (key, item.row(finding.number))
        return tuple(
            row if row.jitter >= 0 else replace(row, jitter=jitters.get(name, 0.0))
            for name, (_, row) in best.items()
        )


def plain_verdict(assessments: Sequence[Assessment]) -> Verdict:
    """The verdict of one example before it is confirmed at a nearby point."""
    found = {item.verdict for item in assessments}
    return next((verdict for verdict in ORDER if verdict in found), "equivalent")
