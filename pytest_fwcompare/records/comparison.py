"""The comparison itself: verdict, place, cause and figures of one port, to and from JSON."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_fwcompare.encoding import decode, encode
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.records.parts import (
    Attribution,
    Controls,
    DepthRow,
    Difference,
    Digest,
    Distribution,
    Drift,
    Examples,
    TensorRow,
    Timing,
    Verdict,
    WeightRow,
)

FORMAT = 1
"""Version of the JSON form; a reader refuses a newer one."""


@dataclass(frozen=True)
class Comparison:
    """The result of one comparison. Plain data: can be written, read and rendered anywhere.

    Attributes:
        reference, port: framework names.
        culprit: path of the reference's submodule where the difference begins; "" for glue code
            (then `between` names its neighbours); None if none was found.
        port_culprit: the same for the port.
        cause: one word of the cause table, proved by `evidence`; None otherwise.
        evidence: sentences with numbers.
        further: other places where a difference begins, in data-flow order: each was looked for
            with those before it repaired.
        hints: options that differ between layers that belong together; only where no cause is
            proved, and never proofs themselves.
        gap: largest over all tensors; noise: largest of the port.
        environment: versions, device, threads, flags by framework.
        notices: things worth knowing that fail nothing.
        depth: the reference's modules with how far the port follows them; only after a failure.
        unsupported: "mode" or "dtype" where a side failed that runs eagerly, or in float32: the
            framework or the model cannot do this, and nothing was judged; "" otherwise.
        unlike_itself: "reference" or "port" where that side is not what it is compared as: its
            mode computes another function than it computes eagerly (verdict "semantic"), or two
            equal calls differ ("precision"). Nobody else is accused then; "" otherwise.
        attribution: whether Keras, its backend or the port is at fault, where the culprit is a
            layer of Keras.
        seconds: wall time of the comparison.
        replay: command or code that repeats it.
        distributions: parameters and gradients of both sides; only where that was asked for.
        digest: what both sides gave on the first example; only where that was asked for.
        drift: the change against a baseline, in a run that has one.
    """

    verdict: Verdict
    reference: str
    port: str
    dtype: str = "float32"
    device: str = "cpu"
    mode: str = "eager"
    checks: tuple[str, ...] = ("forward", "backward")
    seed: int = 0
    message: str = ""
    culprit: str | None = None
    port_culprit: str | None = None
    between: tuple[str, str] | None = None
    cause: str | None = None
    evidence: tuple[str, ...] = ()
    further: tuple[Difference, ...] = ()
    hints: tuple[str, ...] = ()
    gap: float = 0.0
    noise: float = 0.0
    tensors: tuple[TensorRow, ...] = ()
    examples: Examples = field(default_factory=lambda: Examples(0))
    weights: tuple[WeightRow, ...] = ()
    controls: Controls = field(default_factory=Controls)
    timings: tuple[Timing, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    depth: tuple[DepthRow, ...] = ()
    attribution: Attribution | None = None
    seconds: float = 0.0
    replay: str = ""
    unsupported: str = ""
    unlike_itself: str = ""
    distributions: tuple[Distribution, ...] = ()
    digest: Digest | None = None
    drift: Drift | None = None

    @property
    def passed(self) -> bool:
        """True for the verdicts that fail nothing by default."""
        return self.verdict in ("equivalent", "subgradient")

    def to_json(self) -> str:
        """The comparison as JSON text; NaN and infinities are strings, so it is strict JSON."""
        return json.dumps({"format": FORMAT, **encode(self)}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """The comparison that `to_json` wrote.

        Raises:
            UsageError: the text is not such JSON, or was written by a newer version.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise UsageError(f"Comparison.from_json: not JSON: {error}") from None
        if not isinstance(data, dict) or not isinstance(data.get("format"), int):
            raise UsageError("Comparison.from_json: expected an object with a 'format' number")
        if data["format"] > FORMAT:
            raise UsageError(
                f"Comparison.from_json: format {data['format']} was written by a newer "
                f"pytest-fwcompare; this one reads up to {FORMAT}. Upgrade it"
            )
        del data["format"]
        return typing.cast(Comparison, decode(data, cls, "comparison"))

    def summary(self) -> str:
        """What a person reads: verdict, place, numbers, example, what to do."""
        from pytest_fwcompare.report.text import summary

        return summary(self)

    def assert_equivalent(self, fail_on: tuple[str, ...] | None = None) -> None:
        """Raise AssertionError with the summary unless the comparison passed.

        Args:
            fail_on: verdicts that fail; by default all but `equivalent` and `subgradient`.
        """
        __tracebackhide__ = True
        failed = not self.passed if fail_on is None else self.verdict in fail_on
        if failed:
            raise AssertionError(self.summary())
