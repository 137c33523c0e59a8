"""Hypothesis strategies for network inputs: cheap for large arrays, shrinking to readable ones.

Structure is drawn (sizes, scale, pattern, places of special values) and a seed, never elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import Queue
from random import Random
from threading import Thread

import numpy as np
from hypothesis import (
    HealthCheck,
    Phase,
    currently_in_test_context,
    find,
    given,
    settings,
    target,
)
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import DrawFn, SearchStrategy

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.inputs.examples import Example, Plan
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.inputs.values import (
    SCALES,
    SPECIAL_VALUES,
    Draw,
    concrete,
    patterns,
    values,
)

SHRINKING_SCALES = (1.0, 10.0, 0.1, 100.0, 0.01, 1000.0, 0.001)
assert set(SHRINKING_SCALES) == set(SCALES)


@st.composite
def draws(draw: DrawFn, spec: TensorSpec, special: tuple[str, ...] = ()) -> Draw:
    """How the values of one tensor are made: pattern, scale, seed, special values.

    Args:
        draw: given by Hypothesis.
        spec: what the tensor looks like.
        special: names of special values that may occur ("nan", "inf", "-inf", "subnormal",
            "negative zero").
    """
    for name in special:
        if name not in SPECIAL_VALUES:
            raise UsageError(
                f"special: unknown value {name!r}; there are {', '.join(SPECIAL_VALUES)}"
            )
    simplest_first = sorted(patterns(spec), key=["zeros", "one-hot", "constant"].__contains__)
    simplest_first = simplest_first[::-1] if spec.kind is None else simplest_first
    pattern = draw(st.sampled_from(simplest_first))
    scale = draw(st.sampled_from(SHRINKING_SCALES))
    chosen = draw(st.lists(st.sampled_from(special), unique=True)) if special else []
    return Draw(pattern, scale, draw(st.integers(0, 2**16 - 1)), tuple(chosen))


@st.composite
def arrays(
    draw: DrawFn,
    spec: TensorSpec,
    sizes: Mapping[str, int | SearchStrategy[int]] | None = None,
    special: tuple[str, ...] = (),
) -> np.ndarray:
    """Arrays of a spec: (*shape) of its dtype.

    Args:
        draw: given by Hypothesis.
        spec: what the tensor looks like.
        sizes: its free sizes, fixed or drawn; those left out are drawn from 1 to 8.
        special: special values that may occur, by name.
    """
    filled = {}
    for size in spec.shape:
        if isinstance(size, str) and size not in filled:
            wanted = (sizes or {}).get(size, st.integers(1, 8))
            filled[size] = wanted if isinstance(wanted, int) else draw(wanted)
    return values(spec, concrete(spec, filled), draw(draws(spec, special)))


def floats(
    *shape: int | str, kind: str | None = None, special: tuple[str, ...] = ()
) -> SearchStrategy[np.ndarray]:
    """Float arrays over six decades of scale and all patterns, or of one kind."""
    return arrays(TensorSpec(shape, kind=kind), special=special)  # type: ignore[arg-type]


def tokens(*shape: int | str, high: int, low: int = 0) -> SearchStrategy[np.ndarray]:
    """Integer arrays with values in [low, high)."""
    return arrays(TensorSpec(shape, dtype="int64", low=low, high=high))


@st.composite
def masks(draw: DrawFn, *shape: int | str, empty_rows: bool = False) -> np.ndarray:
    """Boolean arrays, True where something is there: full, ragged, scattered, or empty rows.

    Args:
        draw: given by Hypothesis.
        shape: sizes; free ones are drawn from 1 to 8.
        empty_rows: allow rows with no True along the last axis.
    """
    kinds = ["full", "ragged", "mask", *(["empty"] if empty_rows else [])]
    kind = draw(st.sampled_from(kinds))
    spec = TensorSpec(shape, dtype="bool", kind="ragged" if kind == "ragged" else "mask")
    mask = draw(arrays(spec))
    if kind == "full":
        return np.ones_like(mask)
    if kind == "empty" and mask.size:
        rows = mask.reshape(-1, mask.shape[-1])
        rows[draw(st.integers(0, len(rows) - 1))] = False
    return mask


@st.composite
def examples(draw: DrawFn, plan: Plan) -> Example:
    """Whole examples of a comparison."""
    drawn = {name: draw(draws(spec)) for name, spec in plan.specs.items()}
    found = {name: draw(strategy) for name, strategy in plan.searched.items()}
    for name, value in found.items():
        if not isinstance(value, (np.ndarray, np.generic)):
            raise UsageError(
                f"inputs[{name!r}]: the strategy must draw NumPy arrays, it drew "
                f"{type(value).__name__}"
            )
    sizes = draw(st.sampled_from(plan.size_choices()))
    state = draw(st.sampled_from(plan.weight_states))
    return plan.example(sizes, drawn, state, draw(st.integers(0, 3)), found)


def run_search(plan: Plan, count: int, evaluate: Callable[[Example], float], seed: int) -> None:
    """See `examples.search`. Runs inside or outside of another Hypothesis test alike."""
    if currently_in_test_context():
        _search_aside(plan, count, evaluate, seed)
    else:
        _search_here(plan, count, evaluate, seed)


def _search_here(plan: Plan, count: int, evaluate: Callable[[Example], float], seed: int) -> None:
    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
    )
    @given(examples(plan))
    def visit(example: Example) -> None:
        figure = evaluate(example)
        if np.isfinite(figure) and figure > 0:
            target(float(np.log10(figure)), label="gap over rounding")

    visit()


def _search_aside(plan: Plan, count: int, evaluate: Callable[[Example], float], seed: int) -> None:
    """A search inside a test under `@given`: Hypothesis has one test a thread.

    The other thread only draws; examples are evaluated here, where the frameworks are used to run.
    """
    questions: Queue[Example | None] = Queue()
    answers: Queue[float | None] = Queue()
    raised: list[BaseException] = []

    def ask(example: Example) -> float:
        questions.put(example)
        answer = answers.get()
        if answer is None:
            raise _Abandoned
        return answer

    def draw() -> None:
        try:
            _search_here(plan, count, ask, seed)
        except _Abandoned:
            pass
        except BaseException as error:
            raised.append(error)
        finally:
            questions.put(None)

    thread = Thread(target=draw, name="fwcompare-search", daemon=True)
    thread.start()
    try:
        while (example := questions.get()) is not None:
            answers.put(evaluate(example))
    except BaseException:
        answers.put(None)
        raise
    finally:
        thread.join()
    if raised:
        raise raised[0]


class _Abandoned(BaseException):
    """Evaluating failed, so nothing more is to be drawn."""


def find_smaller(
    plan: Plan, example: Example, still_fails: Callable[[Example], bool], budget: int
) -> Example:
    """The smallest failing example that Hypothesis finds in a bounded number of evaluations.

    Inside another test under `@given` the example stays as it is: that test shrinks it.
    """
    if currently_in_test_context():
        return example
    known: dict[str, bool] = {}

    def fails(candidate: Example) -> bool:
        words = repr(candidate)
        if words not in known:
            known[words] = len(known) < 2 * budget and still_fails(candidate)
        return known[words]

    quiet = settings(
        max_examples=budget, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    try:
        found = find(examples(plan), fails, settings=quiet, random=Random(plan.seed))
    except NoSuchExample:
        return example
    return found if still_fails(found) else example


def first_example(plan: Plan) -> Example:
    """The simplest example that the user's strategies give."""
    found: list[Example] = []

    def keep(example: Example) -> float:
        found.append(example)
        return 0.0

    run_search(plan, 1, keep, plan.seed)
    return found[0]
