"""The plain values of a comparison: frozen dataclasses, to and from JSON, no framework, no pytest.

Units: seconds and bytes. `gap`, `noise` and `jitter` are relative to the largest magnitude of the
reference's float64 tensor (the scale: max|ref64|).
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pytest_fwcompare.encoding import decode, encode
from pytest_fwcompare.errors import UsageError

Verdict = Literal["equivalent", "semantic", "precision", "subgradient", "nonfinite", "error"]
VERDICTS: tuple[str, ...] = get_args(Verdict)

FORMAT = 1
"""Version of the JSON form; a reader refuses a newer one."""


@dataclass(frozen=True)
class TensorRow:
    """One compared tensor over all examples; the figures are those of its worst example.

    Attributes:
        name: "output scores", "gradient of input images", "gradient of fc.weight",
            "buffer bn.running_mean".
        kind: what it is.
        verdict: of this tensor alone.
        gap: max|port64 - ref64| / scale.
        reference_noise, port_noise: max|side32 - side64| / scale.
        jitter: spread of ref64 when inputs and weights move by half a unit in the last place.
        ulp: largest distance of the working-precision values, in units in the last place of the
            working dtype at scale.
        index: place of the largest difference, in the reference's axis order.
        expected, obtained: the reference's and the port's value there (float64 shadows for
            `semantic`, working precision otherwise).
        example: number of the example the figures come from.
    """

    name: str
    kind: Literal["output", "input gradient", "parameter gradient", "buffer", "update"]
    verdict: Verdict
    gap: float
    reference_noise: float
    port_noise: float
    jitter: float
    ulp: float = 0.0
    index: tuple[int, ...] = ()
    expected: float = 0.0
    obtained: float = 0.0
    example: int = 0


@dataclass(frozen=True)
class ExampleRecord:
    """One generated example, small enough to read.

    Attributes:
        description: how it was drawn, e.g. "batch=1, height=4; images: normal, scale 0.01".
        shapes: sizes of each input.
        values: the inputs as nested lists where they are small, else None.
        weights: "randomised" or "given".
        ratio: the largest gap over jitter of its tensors.
    """

    number: int
    description: str
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Any] | None
    weights: str
    ratio: float


@dataclass(frozen=True)
class Examples:
    """How many examples ran; the worst, in its smallest form where it failed.

    Attributes:
        ratios: gap over what rounding explains, the largest of its tensors, an example each.
    """

    count: int
    worst: ExampleRecord | None = None
    ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class DepthRow:
    """One module of the reference, in data-flow order, as the diagnosis of a failure saw it.

    Code that a module runs itself between its submodules has a row of its own, with the path of
    that module. A module that is called twice has two rows.

    Attributes:
        path: of the reference's module; "" for the root's own code.
        kind: class of the module or name of the operation.
        status: "matched": found in the port; "culprit": the difference begins here; "after": it
            depends on a culprit; "unmatched": not found, but needed by nothing that is.
        port_path: of the port's layer that holds the same value; None where none was found.
        gap: relative difference of its value to the port's, forward; None where not compared.
        backward_gap: the same for the gradient of its value.
    """

    path: str
    kind: str
    status: Literal["matched", "culprit", "after", "unmatched"]
    port_path: str | None = None
    gap: float | None = None
    backward_gap: float | None = None


@dataclass(frozen=True)
class Answer:
    """What one implementation of a layer gave, held against what is taken as right.

    Attributes:
        who: "keras on tensorflow", "raw tensorflow", "numpy", "keras on torch", ...
        agrees: whether it gives the same function; None where it gave nothing.
        forward: largest relative difference of an output, in float64.
        backward: the same of a gradient by an input or a weight; None where there is none.
        noise: the same of the outputs in the working dtype.
        reason: why it gave nothing, or what it disagrees in.
    """

    who: str
    agrees: bool | None
    forward: float | None = None
    backward: float | None = None
    noise: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Attribution:
    """Whose fault it is where a layer of Keras is the culprit: the port's, Keras' or a backend's.

    Attributes:
        layer: its path in the model.
        kind: its class.
        documented: the class of Keras whose documentation it was held against; "" if there is no
            formula for it.
        fault: "port": Keras does what it documents; "keras": wrong on every backend; "backend":
            wrong on some backends only; "undecided": nothing to hold it against.
        backends: of Keras, those that give something else.
        answers: of every implementation that was asked.
        notes: what else should be known.
    """

    layer: str
    kind: str
    documented: str
    fault: Literal["port", "keras", "backend", "undecided"]
    backends: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The answer as a sentence."""
        if self.fault == "port":
            return "your port: Keras does what it documents"
        if self.fault == "keras":
            return "Keras: wrong on every backend"
        if self.fault == "backend":
            return f"backend: only {' and '.join(self.backends)}"
        return "Keras or the backend: cannot be told"


@dataclass(frozen=True)
class WeightRow:
    """How one parameter of the port was filled.

    Attributes:
        port: its name; "" for a parameter of the reference that nothing in the port takes.
        references: names it was made from.
        transform: code of the transform, "Identity()" for a plain copy.
        reason: why this pair was chosen, or why there is none.
    """

    port: str
    references: tuple[str, ...]
    transform: str
    reason: str


@dataclass(frozen=True)
class Control:
    """One deliberate disturbance of the port after a pass.

    Attributes:
        target: the parameter, buffer or hyper-parameter disturbed.
        size: relative amount.
        noticed: whether the judge objected.
        ratio: largest gap over jitter that it caused.
    """

    target: str
    size: float
    noticed: bool
    ratio: float


@dataclass(frozen=True)
class Controls:
    """Disturbances tried; parameters whose disturbance nothing noticed are uncovered."""

    tried: tuple[Control, ...] = ()
    uncovered: tuple[str, ...] = ()

    @property
    def caught(self) -> int:
        """Number of disturbances that the judge noticed."""
        return sum(control.noticed for control in self.tried)


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of raw durations in seconds."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Ratio:
    """How many times longer than the fastest: median of the rounds, and its 95 % interval."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Timing:
    """Durations of one framework.

    Attributes:
        first_call_s: the first call, tracing and compilation included.
        forward, backward: after warm-up, interleaved with the other frameworks.
        threads: threads the framework was given.
        shapes: sizes of the timed call.
        shared_machine: True under pytest-xdist, where other workers disturb the clock.
        peak_bytes: peak memory of the run, None where it was not measured.
        peak_of: what `peak_bytes` was measured in: "device": of the device, by the framework's
            own statistics; "process": resident memory above that after the framework's import, in
            a process of its own; "rise": how far this process rose, a lower bound.
        ratio: time of a forward and a backward pass over the fastest framework's.
        host_s: until a forward call that does not wait returns.
        device_s: that the device is busy with a forward call, by its own clock.
        synchronised: False if calls returned before their work was done; the figures mislead.
        own_process: True if it was timed alone in its worker, not in turns with the others.
        settings: of the framework where they are others than those it was judged with, such as
            {"onednn": "on"}.
    """

    framework: str
    first_call_s: float
    forward: Quartiles
    backward: Quartiles | None
    threads: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mode: str = "eager"
    device: str = "cpu"
    shared_machine: bool = False
    peak_bytes: int | None = None
    synchronised: bool = True
    peak_of: str = ""
    ratio: Ratio | None = None
    host_s: float | None = None
    device_s: float | None = None
    own_process: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Distribution:
    """The values of one parameter or gradient of one side, as a histogram.

    Attributes:
        name: of the reference's parameter; of the port's where it has no single counterpart.
        role: whose.
        edges: of the bins, one more than there are counts; all values lie within.
        counts: values in each bin.
        total, squares: sums of the values and of their squares.
        nonfinite: values that are NaN or infinite, which the bins leave out.
    """

    name: str
    kind: Literal["parameter", "gradient"]
    role: Literal["reference", "port"]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    squares: float
    nonfinite: int = 0


@dataclass(frozen=True)
class Fingerprint:
    """One group of tensors of one pass, told apart by a few numbers.

    Attributes:
        norm: Euclidean norm of all values.
        projections: sums of the values times two fixed waves; twelve digits of the norm.
    """

    norm: float
    projections: tuple[float, ...]


@dataclass(frozen=True)
class Digest:
    """Both sides on the first example, small enough to be kept: tells later which side moved.

    Attributes:
        inputs, weights: of the point; equal ones make the rest comparable.
        passes: by role, precision and group: "reference float64 outputs", "port working
            gradients".
    """

    inputs: Fingerprint
    weights: Fingerprint
    passes: Mapping[str, Fingerprint]


@dataclass(frozen=True)
class Change:
    """One figure that moved against the baseline.

    Attributes:
        figure: "gap", "noise of the port", "noise of the reference", "ulp of output scores",
            "sensitivity", "verdict", "tensor output scores".
        before, after: the baseline's figure and this run's; NaN for what is no number.
        times: how much worse, in multiples of the baseline's figure or of rounding, whichever is
            larger; infinite for a graver verdict or a tensor that is no longer compared.
        text: in words: "2.1e-15 -> 1.8e-06", "equivalent -> precision".
    """

    figure: str
    before: float
    after: float
    times: float
    text: str


@dataclass(frozen=True)
class Drift:
    """How a case changed against its recorded baseline.

    Attributes:
        case: key in the baseline: the test's id, " #2" behind it for a second comparison.
        axes: the part of the id that names them, "keras-cpu-float32-eager".
        baseline: the file, as it was given.
        verdict: the baseline's; None if it has no such case.
        gap, reference_noise, port_noise: the baseline's figures.
        limit: factor from which a change counts.
        changes: figures that grew, the worst first.
        moved: which side gives other values than when the baseline was recorded: "nothing",
            "port", "reference", "both"; "inputs" if it was given other inputs or weights, so that
            nobody can tell; "" if that is not known.
        whose: a sentence that says whose doing it was.
        versions: what changed of the environment, by "torch version", before and after.
    """

    case: str
    axes: str = ""
    baseline: str = ""
    verdict: Verdict | None = None
    gap: float = math.nan
    reference_noise: float = math.nan
    port_noise: float = math.nan
    limit: float = 2.0
    changes: tuple[Change, ...] = ()
    moved: Literal["", "nothing", "port", "reference", "both", "inputs"] = ""
    whose: str = ""
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Whether a figure moved by more than the limit."""
        return any(change.times > self.limit for change in self.changes)


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
