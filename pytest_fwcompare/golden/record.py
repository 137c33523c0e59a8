"""Records a reference: everything that a comparison with any port may ask of it.

The port is not needed. Each example is run in both precisions at its point and at the nearby
points by which a verdict is confirmed, and the jitter is drawn in every number of moves that the
judge may want.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.comparing.request import Request
from pytest_fwcompare.comparing.steadiness import between_calls
from pytest_fwcompare.comparing.trial import NEIGHBOURS, runs_alone
from pytest_fwcompare.comparison import FIRST_EXAMPLES, calm_threads
from pytest_fwcompare.encoding import encode
from pytest_fwcompare.errors import FwcompareError, ModelError
from pytest_fwcompare.golden import keys
from pytest_fwcompare.golden.recorder import Recorder, RecordingSide
from pytest_fwcompare.golden.store import GoldenError, Writer
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.inputs.search import search
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.randomness import seeded
from pytest_fwcompare.running.observing import Observer
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point, arguments
from pytest_fwcompare.sides import Opened

TELLING = 3
"""Examples whose intermediate tensors are kept: those by which a place is looked for."""

DRAWS = (1, 3)
"""Numbers of moved runs that the judge takes the jitter from."""


def record(reference: Any, folder: Path, case: str, request: Request) -> int:
    """Record a reference as `request` asks for it to be compared.

    Args:
        reference: as for `compare`.
        folder: to write to.
        case: what the traces are of; a replay asks for the same.
        request: of the comparison.

    Returns:
        Bytes written.

    Raises:
        GoldenError: what it gives cannot be replayed.
        ModelError: it runs none of the examples.
    """
    if callable(request.weights):
        raise GoldenError(
            "golden traces: weights is a function that copies from the reference's model, which a "
            "replay does not have; say weights={port name: reference name}"
        )
    recorder = Recorder(Writer(folder))
    with ExitStack() as stack:
        axes = {"dtype": request.dtype, "device": request.device, "mode": request.mode}
        with seeded(request.seed):
            real = open_side(reference, "reference", **axes)
        stack.callback(real.side.close)
        opened = replace(real, side=RecordingSide(real.side, recorder))
        stack.enter_context(calm_threads(opened))
        _prepare(opened, request)
        given = recorder.refs(opened.side.read())  # before others are loaded
        pair = Pair(
            opened,
            opened,
            request.plan,
            mapping=None,
            share_weights=request.weights != "given",
            checks=request.checks,
            dtype=request.dtype,
        )
        _record_examples(pair, request, recorder)
        facts = _facts(opened, case, request, recorder)
        return recorder.writer.finish({**facts, "given": given})


def _prepare(opened: Opened, request: Request) -> None:
    """As `comparison.prepare` does it, with the weights that the reference came with."""
    for example in list(request.plan.planned(FIRST_EXAMPLES)):
        given = arguments(request.plan, opened, "reference", request.plan.arrays(example))
        try:
            opened.side.prepare(given)
            opened.side.forward(given, precision="working", gradients=False)
        except ModelError:
            continue
        return
    if request.plan.searched:
        from pytest_fwcompare.inputs.strategies import first_example

        arrays = request.plan.arrays(first_example(request.plan))
        opened.side.prepare(arguments(request.plan, opened, "reference", arrays))


def _record_examples(pair: Pair, request: Request, recorder: Recorder) -> None:
    ran: list[Example] = []
    reasons: list[ModelError] = []

    def visit(example: Example) -> float:
        _keep_example(pair, example, recorder)
        try:
            _record_example(pair, example, request, recorder, first=not ran)
        except ModelError as error:
            reasons.append(error)  # kept: a replay leaves the example out for the same reason
            runs_alone(pair, example)
        else:
            ran.append(example)
        return 0.0

    searched = request.examples if request.plan.searched else 0
    for example in request.plan.planned(request.examples - searched):
        visit(example)
    if searched:
        search(request.plan, searched, visit, request.seed)
    if not ran:
        raise reasons[0] if reasons else GoldenError("golden traces: no example was drawn")
    if not pair.source.large:
        _record_intermediates(pair, ran, request)


def _record_intermediates(pair: Pair, ran: Sequence[Example], request: Request) -> None:
    """The tensors in between, on the first example, for the mapping, and on the telling ones."""
    telling = sorted(ran, key=lambda example: example.telling, reverse=True)[:TELLING]
    for example in [ran[0], *(one for one in telling if one is not ran[0])]:
        point = pair.point(example)
        for training in modes(request):
            try:
                pair.run("reference", point, "double", training=training, record=True)
            except FwcompareError:
                return  # the side cannot tell; a replay says so if it is asked


def modes(request: Request) -> tuple[bool, ...]:
    """Out of training mode, and in it where that is compared."""
    return (False, True) if "training" in request.checks else (False,)


def _keep_example(pair: Pair, example: Example, recorder: Recorder) -> None:
    weights, _ = pair.supply.weights(example)
    seed = str(example.weights_seed)
    if weights is not None and example.weights == "randomised" and seed not in recorder.weights:
        recorder.weights[seed] = recorder.refs({n: compact(v) for n, v in weights.items()})
    recorder.examples.append(
        {
            "told": str(example),
            "sizes": dict(example.sizes),
            "draws": {name: encode(draw) for name, draw in example.draws},
            "arrays": recorder.refs(pair.plan.arrays(example)),
            "weights": example.weights,
            "weights_seed": example.weights_seed,
        }
    )


def compact(value: Array) -> Array:
    """The values in float32 where that is exact, as it is for weights of the working dtype."""
    if value.dtype != np.float64:
        return value
    with np.errstate(over="ignore"):
        narrow = value.astype(np.float32)
    return narrow if np.array_equal(narrow, value, equal_nan=True) else value


def _record_example(
    pair: Pair, example: Example, request: Request, recorder: Recorder, *, first: bool
) -> None:
    point = pair.point(example)
    if first and between_calls(pair, "reference", point, lambda text: None) is not None:
        raise GoldenError(
            "golden traces: the reference differs from itself between two equal calls (dropout "
            "left on?), so what it gave once is nothing to judge by"
        )
    observer = Observer(pair, 1)
    for training in modes(request):
        for near in _points(pair, point):
            still = pair.run("reference", near, "double", training=training)
            pair.run("reference", near, "working", training=training)
            _record_jitter(observer, near, still, recorder, training=training)


def _points(pair: Pair, point: Point) -> Iterator[Point]:
    """The point, then those nearby; the cotangents are made by the run at the first."""
    yield point
    for seed in range(1, NEIGHBOURS + 1):
        yield pair.near(point, seed)


def _record_jitter(
    observer: Observer, point: Point, still: Any, recorder: Recorder, *, training: bool
) -> None:
    recorder.paused = True
    try:
        for draws in DRAWS:
            made = observer.jitter(point, still, draws, training)
            recorder.jitters[keys.of_jitter(point, draws, training=training)] = {
                name: float(spread) for name, spread in made.items()
            }
    finally:
        recorder.paused = False


def _facts(opened: Opened, case: str, request: Request, recorder: Recorder) -> dict[str, Any]:
    """What the index holds beside its files and the given weights."""
    side = opened.side
    return {
        "case": case,
        "numpy": np.__version__,
        "framework": side.framework,
        "environment": encode(opened.backend.environment()),
        "dtype": request.dtype,
        "device": request.device,
        "mode": request.mode,
        "checks": list(request.checks),
        "shared": request.weights != "given",
        "seed": request.seed,
        "order": list(request.plan.order),
        "parameters": [encode(parameter) for parameter in side.parameters()],
        "weights": recorder.weights,
        "input_axes": encode(opened.input_axes),
        "output_axes": encode(opened.output_axes),
        "notices": list(opened.notices),
        "leaks": list(side.leaks),
        "rounded_constants": list(map(str, side.rounded_constants)),
        "shares_dropout": side.shares_dropout,
        "examples": recorder.examples,
        "passes": recorder.passes,
        "jitters": recorder.jitters,
    }
