"""What is asked of a comparison, checked, and what becomes known on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_fwcompare.comparing.steadiness import Unsteady
from pytest_fwcompare.errors import ModelError, UsageError
from pytest_fwcompare.inputs.examples import Example, Plan, plan
from pytest_fwcompare.inputs.spec import TensorSpec, dtype_name
from pytest_fwcompare.judge.tally import Tally
from pytest_fwcompare.sides import check_axes

CHECKS = ("forward", "backward", "training")


@dataclass(frozen=True)
class Repro:
    """Where a script that shows a failure goes, and what was given to make both sides of."""

    folder: Path
    reference: Any
    port: Any


@dataclass(frozen=True)
class Request:
    """The arguments of `compare`, checked."""

    plan: Plan
    weights: Any
    outputs: Mapping[str, TensorSpec] | None
    checks: tuple[str, ...]
    dtype: str
    device: str
    mode: str
    examples: int
    seed: int
    explain: bool
    timings: bool
    repro: Repro | None = None
    distributions: bool = False
    deterministic: bool = False
    thorough: bool = False


@dataclass
class Story:
    """What became known on the way, for the record."""

    tally: Tally[Example] = field(default_factory=Tally)
    notices: dict[str, None] = field(default_factory=dict)
    unstable: tuple[str, float] | None = None
    unsteady: Unsteady | None = None
    discarded: dict[str, int] = field(default_factory=dict)
    trained: int = 0
    untrained: ModelError | None = None


def check_request(
    inputs: Mapping[str, Any],
    weights: Any,
    outputs: Mapping[str, TensorSpec] | None,
    checks: Sequence[str],
    dtype: str,
    device: str,
    mode: str,
    examples: int,
    seed: int,
    explain: bool,
    timings: bool,
) -> Request:
    """Refuse what cannot be done, before anything is built.

    Raises:
        UsageError: with what was expected and what came.
    """
    dtype = dtype_name(dtype)
    check_axes(dtype, device, mode)
    if isinstance(checks, str) or not checks or any(check not in CHECKS for check in checks):
        raise UsageError(
            f"checks: expected some of {', '.join(CHECKS)}, as a tuple; got {checks!r}"
        )
    for name, value, least in (("examples", examples, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name}: expected an integer of at least {least}, got {value!r}")
    if outputs is not None and not (
        isinstance(outputs, Mapping)
        and all(isinstance(spec, TensorSpec) for spec in outputs.values())
    ):
        raise UsageError(f"outputs: expected a dict {{name: TensorSpec}}, got {outputs!r}")
    states = ("given",) if isinstance(weights, str) and weights == "given" else None
    return Request(
        plan(inputs, states or ("randomised", "given"), seed),
        weights,
        outputs,
        tuple(check for check in CHECKS if check in checks),
        dtype,
        device,
        mode,
        examples,
        seed,
        explain,
        timings,
    )
