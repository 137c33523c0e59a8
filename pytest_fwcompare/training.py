"""Steps of training: the user's own optimizers on both sides, judged on parameter updates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_fwcompare.comparing.request import Request, Story, check_request
from pytest_fwcompare.comparison import blank_of, calm_threads, make_pair, prepare
from pytest_fwcompare.errors import ModelError, UsageError
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.losses import check_loss
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.progress import tell
from pytest_fwcompare.records import Comparison
from pytest_fwcompare.running.outputs import StructureError
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.steps import ROLES, Run, Schedule, Training

SCALES = (1.0, 1e-3, 1e-6)
"""Factors of the loss. Small gradients are where the places of Adam's epsilon part."""


def compare_training(
    reference: Any,
    port: Any,
    *,
    inputs: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    loss: Mapping[str, Any] | None = None,
    targets: Mapping[str, Any] | None = None,
    steps: int = 5,
    learning_rate_schedule: Schedule | Mapping[str, Schedule] | None = None,
    scales: tuple[float, ...] = SCALES,
    weights: Any = "auto",
    outputs: Mapping[str, TensorSpec] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    mode: str = "eager",
    seed: int = 0,
    explain: bool = True,
) -> Comparison:
    """Judge whether `port` is trained as `reference` is: gradients, loss, and every update.

    Each part is judged by itself, on equal ground. At every step both networks get the same
    weights and batch, and their gradients are compared as `compare` does, in training mode where
    nothing random is in it. Then both optimizers get the same gradients and weights, each keeps
    its own state, and what they add to the weights is compared, in float64 and in the working
    dtype. The weights follow the reference. All is done once for each factor of the loss.

    Args:
        reference: as for `compare`.
        port: as for `compare`.
        inputs: as for `compare`; each step has a batch of its own.
        optimizer: {"reference": ..., "port": ...}. For torch a function of the list of
            parameters (`lambda params: torch.optim.Adam(params)`), which may also return
            (optimizer, scheduler) or (optimizer, function to run before each step, for clipping);
            a keras optimizer for Keras and TensorFlow; an optax transformation for JAX; a `Rule`
            of `pytest_fwcompare.diagnose.optimizers` for any side.
        loss: {"reference": ..., "port": ...}, each a native function loss(*outputs, *targets)
            that gives a scalar; None takes a fixed random projection of the outputs.
        targets: what the losses take beside the outputs, like `inputs`.
        steps: number of optimizer steps.
        learning_rate_schedule: learning rate by step (0, 1, ...), for both sides or by role; None
            leaves each optimizer its own.
        scales: factors of the loss.
        weights: as for `compare`.
        outputs: as for `compare`.
        dtype: working dtype.
        device: "cpu" or "cuda[:N]"; the optimizers step on the CPU.
        mode: "eager", "graph" or "compiled", of the networks.
        seed: of batches and starting weights.
        explain: name the setting of the optimizer that is odd, where that can be proved.

    Raises:
        UsageError: an argument asks for something that cannot be done.
        MappingError: the parameters cannot be paired.
    """
    started = time.perf_counter()
    training = check_training(optimizer, loss, targets, steps, learning_rate_schedule, scales)
    names = list(inputs)
    request = check_request(
        {**inputs, **(targets or {})},
        weights,
        outputs,
        ("backward", "training"),
        dtype,
        device,
        mode,
        steps,
        seed,
        explain,
        False,
    )
    if training.loss.targets:
        aims = replace(request.plan, order=training.loss.targets)
        training = replace(training, loss=replace(training.loss, plan=aims))
    request = replace(request, plan=replace(request.plan, order=tuple(names)))
    with ExitStack() as stack:
        opened = []
        for role, given in zip(ROLES, (reference, port), strict=True):
            tell(f"opening the {role}")
            opened.append(open_side(given, role, dtype=request.dtype, device=device, mode=mode))
            stack.callback(opened[-1].side.close)
        made = train_opened(opened[0], opened[1], request, training)
    return replace(made, seconds=time.perf_counter() - started)


def check_training(
    optimizer: Any,
    loss: Any,
    targets: Mapping[str, Any] | None,
    steps: int,
    schedule: Any,
    scales: tuple[float, ...],
) -> Training:
    """Refuse what cannot be done, before anything is built.

    Raises:
        UsageError: with what was expected and what came.
    """
    if not isinstance(optimizer, Mapping) or set(optimizer) != set(ROLES):
        raise UsageError(
            f'optimizer: expected {{"reference": ..., "port": ...}}, got {optimizer!r}'
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UsageError(f"steps: expected an integer of at least 1, got {steps!r}")
    if not scales or any(not np.isfinite(scale) or scale <= 0 for scale in scales):
        raise UsageError(f"scales: expected positive factors of the loss, got {scales!r}")
    schedules = schedule if isinstance(schedule, Mapping) else dict.fromkeys(ROLES, schedule)
    if set(schedules) != set(ROLES) or not all(
        s is None or callable(s) for s in schedules.values()
    ):
        raise UsageError(
            f"learning_rate_schedule: expected a function of the step, or one by role "
            f'{{"reference": ..., "port": ...}}, got {schedule!r}'
        )
    return Training(
        optimizer, check_loss(loss, tuple(targets or ())), steps, schedules, tuple(scales)
    )


def train_opened(ours: Opened, theirs: Opened, request: Request, training: Training) -> Comparison:
    """The comparison of two opened sides; they stay open."""
    blank = replace(blank_of(ours, theirs, request), checks=("training",))
    story = Story()
    try:
        telling = prepare(ours, theirs, request)
        with calm_threads(ours, theirs):
            tell("pairing the weights")
            pair = make_pair(ours, theirs, request, story, telling)
            run = Run(pair, request, training, story, telling)
            run.all_scales()
    except (ModelError, StructureError) as error:
        return replace(blank, message=str(error))
    return run.conclude(blank)
