"""The parts of a comparison: its tensors, examples, weights, places, timings and drift.

Units: seconds and bytes. `gap`, `noise` and `jitter` are relative to the largest magnitude of the
reference's float64 tensor (the scale: max|ref64|).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Verdict = Literal["equivalent", "semantic", "precision", "subgradient", "nonfinite", "error"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


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
class Difference:
    """A further place where the port parts from the reference, which the first does not explain.

    Attributes:
        culprit: path of the reference's submodule where it begins; "" for glue code (then
            `between` names its neighbours).
        port_culprit: the same for the port; None where that is not known.
        cause: one word of the cause table, proved by `evidence`; None otherwise.
        evidence: sentences with numbers.
    """

    culprit: str | None
    between: tuple[str, str] | None = None
    port_culprit: str | None = None
    cause: str | None = None
    evidence: tuple[str, ...] = ()


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
            wrong on some backends only; "undecided": nothing to hold it against; "unasked": for
            the reason in the notes.
        backends: of Keras, those that give something else.
        answers: of every implementation that was asked.
        notes: what else should be known.
    """

    layer: str
    kind: str
    documented: str
    fault: Literal["port", "keras", "backend", "undecided", "unasked"]
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
        if self.fault == "unasked":
            return "Keras or the backend: not asked"
        return "Keras or the backend: cannot be told"

    @property
    def advice(self) -> str:
        """What to do about Keras or its backend; "" where there is nothing to do about them."""
        if self.fault not in ("keras", "backend"):
            return ""
        if self.kind != self.documented and self.documented:
            return f"change {self.kind}, or hold it against something else than {self.documented}"
        if self.fault == "keras":
            return f"report it to Keras; until it is mended, write {self.kind} with keras.ops"
        start = "keras on "
        right = [
            answer.who.removeprefix(start)
            for answer in self.answers
            if answer.agrees and answer.backward is not None and answer.who.startswith(start)
        ]
        raw = [answer.agrees for answer in self.answers if answer.who.startswith("raw ")]
        whose = " and ".join(self.backends)
        to = "Keras" if raw == [True] else whose if raw == [False] else f"Keras or {whose}"
        meanwhile = f"; until it is mended, run Keras on {' or '.join(right)}" if right else ""
        return f"report it to {to}{meanwhile}"


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
