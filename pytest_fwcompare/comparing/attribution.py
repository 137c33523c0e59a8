"""Is it Keras or the backend? Runs one layer of Keras in every way there is, and asks the judge.

The layer runs where its model is, in this process or in a worker: as it is on Keras' backend
there, and by its documented formula in raw operations of that backend. The formula is run in
NumPy, too; and where that leaves a question open, Keras is asked on its other installed backends,
each in a worker. `diagnose.attribute` judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.keras.examined import Examined, Ran
from pytest_fwcompare.backends.keras.formula import run_formula
from pytest_fwcompare.comparing import elsewhere
from pytest_fwcompare.diagnose.attribute import Given, judge
from pytest_fwcompare.errors import FwcompareError, UsageError
from pytest_fwcompare.inputs.examples import plan
from pytest_fwcompare.inputs.search import telling_example
from pytest_fwcompare.judge.distances import unit_roundoff
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.records import Attribution
from pytest_fwcompare.running.points import Point, arguments

if TYPE_CHECKING:
    from pytest_fwcompare.running.pair import Pair

MOST_LAYERS = 32
"""Layers with parameters up to which all of a model are asked about where no culprit is known."""

IN_TRAINING = "it differs only in training mode, for which no formula is known here"


def attribute(
    model: Any,
    inputs: Any,
    *,
    backends: Sequence[str] | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> tuple[Attribution, ...]:
    """Tell for each Keras layer whether it does what Keras documents, on every backend.

    Example:
        >>> (found,) = fwc.attribute(keras.layers.Activation("celu"), np.zeros((1, 3), "float32"))
        >>> found.answer

    Every layer is run on the value that reaches it, with its own weights, forward and backward:
    as it is, by its documented formula in NumPy and in raw operations of Keras' backend, and in
    Keras on its other backends. The answers are "your port: Keras does what it documents",
    "Keras: wrong on every backend", "backend: only tensorflow", or that it cannot be told. NumPy
    as a backend of Keras has no gradients. The model is left as it was found.

    Args:
        model: a Keras 3 layer or model on any backend, or one in a worker (`in_worker`).
        inputs: an array, a list of arrays, or {name: array, `TensorSpec` or strategy}.
        backends: other backends of Keras to ask; by default all that are installed, () for none.
            Each starts a worker, which takes a few seconds.
        dtype: working dtype.
        seed: of generated inputs and of the cotangents.

    Returns:
        One record for each layer of Keras, in the order of their first calls; layers inside
        other layers of Keras (the cell of an LSTM) are part of those.

    Raises:
        UsageError: it is no Keras layer, or an unknown backend was asked for.
        ModelError: it cannot be run on these inputs.
    """
    for name in backends or ():
        reason = elsewhere.missing(name) if name in elsewhere.BACKENDS else "there is no such one"
        if reason is not None:
            raise UsageError(f"attribute: backend {name!r} of Keras cannot be asked: {reason}")
    if not isinstance(inputs, Mapping):
        given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        inputs = {f"x{number}": np.asarray(value) for number, value in enumerate(given)}
    made = plan(inputs, ("given",), seed)
    opened = open_side(model, "model", dtype=dtype, device="cpu", mode="eager")
    with opened.side:
        if opened.side.library != "keras":
            raise UsageError(
                f"attribute: expected a Keras 3 layer or model, got {type(model).__name__}"
            )
        given = arguments(made, opened, "reference", made.arrays(telling_example(made)))
        opened.side.prepare(given)
        noted = opened.side.examine_layers(given, None, dtype, seed)
        return tuple(attributed(noted, backends, dtype, always=True))


def attribute_culprit(
    pair: Pair,
    point: Point,
    culprit: str | None,
    port_culprit: str | None,
    *,
    proved: bool,
    training: bool = False,
    backward: bool = False,
    users: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Attribution | None:
    """The answer for the culprit of a comparison of which a side is in Keras.

    Other backends are asked only if the layer does not do what it documents, or if nothing is
    known of its formula and no cause is proved. Where both sides are in Keras, the port's layer
    is asked about first, and the reference's if the port's does what it documents.

    Args:
        pair: both sides.
        point: the inputs and weights of the telling example.
        culprit: path of the reference's layer.
        port_culprit: path of the port's.
        proved: whether a cause is proved already.
        training: whether it fails only in training mode.
        backward: whether only gradients differ.
        users: by role, paths of layers that use what the culprit gives, where they may be at
            fault as well: any of them may send a wrong gradient back.

    Returns:
        None where neither side is in Keras.
    """
    answers = []
    for role, path in (("port", port_culprit), ("reference", culprit)):
        if pair.opened(role).side.library != "keras":
            continue
        others = users.get(role, ())
        known = {"proved": proved, "backward": backward, "training": training}
        made = _of_role(pair, point, role, path, others, **known)
        if made.fault in ("keras", "backend"):
            answers = [made]
            break
        answers.append(made)
    if not answers:
        return None
    answer = min(answers, key=lambda made: made.fault == "unasked")
    if training and answer.fault not in ("keras", "backend"):
        return unasked(answer.layer, IN_TRAINING)
    return answer


def _of_role(
    pair: Pair,
    point: Point,
    role: str,
    path: str | None,
    users: Sequence[str],
    *,
    proved: bool,
    backward: bool,
    training: bool,
) -> Attribution:
    """The answer for the culprit of one side."""
    paths = [*([path] if path else ()), *users]
    lost = f"the difference begins in no layer of the {role} to be asked about"
    if not paths:
        few = len({one.layer for one in pair.opened(role).side.parameters()}) <= MOST_LAYERS
        everywhere = few and not proved and not training
        return _of_all(pair, point, role, lost) if everywhere else unasked("", lost)
    found = _examined(pair, point, role, paths)
    known = [one for one in found if not one.foreign]
    foreign = [one.foreign for one in found if one.foreign]
    if not known:
        why = "it is a recording, or is not called in inference"
        reasons = foreign or [f"{paths[0]} of the {role} cannot be run alone: {why}"]
        return unasked(paths[0], *reasons)
    if proved and all(one.formula is None for one in known):
        reasons = [*known[0].notes, "its cause is proved, so no other backend was asked"]
        return replace(unasked(known[0].path, *reasons), kind=known[0].kind)
    first, *others = attributed(known, None, pair.dtype, always=False)
    if first.fault in ("keras", "backend"):
        return first
    for made in others:
        if made.fault in ("keras", "backend"):
            said = "it sends a wrong gradient back to" if backward else "it uses what comes from"
            return replace(made, notes=(*made.notes, f"{said} {first.layer}"))
    right = [made.layer for made in others if made.fault == "port"]
    if right and first.fault == "port":
        foreign.insert(0, f"so do the layers that use its value: {', '.join(right)}")
    return replace(first, notes=(*first.notes, *foreign))


def _examined(pair: Pair, point: Point, role: str, paths: Sequence[str] | None) -> list[Examined]:
    """Layers of a side, with its weights and values at a point."""
    pair.run(role, point, "working", backward=False)  # loads the weights of this point
    side, given = pair.opened(role).side, pair.arguments(role, point.inputs)
    return side.examine_layers(given, paths, pair.dtype, 0)


def _of_all(pair: Pair, point: Point, role: str, lost: str) -> Attribution:
    """The first layer of a side that is not what Keras documents, where no culprit is known."""
    answers = attributed(_examined(pair, point, role, None), None, pair.dtype, always=False)
    for made in answers:
        if made.fault in ("keras", "backend"):
            return replace(made, notes=(*made.notes, f"{lost}, so all of them were asked about"))
    right = sum(made.fault == "port" for made in answers)
    said = f"; of its {len(answers)} layers of Keras, {right} alone do what Keras documents"
    return unasked("", lost + said)


def unasked(layer: str, *notes: str) -> Attribution:
    """Nothing was asked, for reasons."""
    return Attribution(layer, "", "", "unasked", notes=notes)


@dataclass
class Case:
    """One examined layer with what has been learned of it elsewhere.

    Attributes:
        examined: what its own process knows.
        formula: what the formula gave in NumPy.
        others: what Keras gave on other backends.
        notes: reasons and remarks for the record.
    """

    examined: Examined
    formula: Given | None = None
    others: list[Given] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def attributed(
    examined: Sequence[Examined], backends: Sequence[str] | None, dtype: str, *, always: bool
) -> list[Attribution]:
    """Records of layers; the other backends are asked about all open questions at once.

    Args:
        examined: the layers, on one backend all of them.
        backends: to ask; None for all that Keras has.
        dtype: working dtype.
        always: ask about layers that do what they document, too.
    """
    cases = [_case(one, dtype) for one in examined]
    found = [_judged(case, dtype) for case in cases]
    open_cases = [
        case
        for case, first in zip(cases, found, strict=True)
        if case.examined.own.outputs and (always or first.fault != "port")
    ]
    if not open_cases:
        return found
    present = open_cases[0].examined.on
    names = [
        name for name in (elsewhere.BACKENDS if backends is None else backends) if name != present
    ]
    answers = elsewhere.ask(names, [case.examined.job for case in open_cases])
    for name, ran in answers.items():
        for case, one in zip(open_cases, ran, strict=True):
            # Asked in float32, whose rounding is none of another dtype.
            made = one if dtype == "float32" else replace(one, working={})
            case.others.append(_given(f"keras on {name}", made))
    return [_judged(case, dtype) for case in cases]


def _given(who: str, ran: Ran) -> Given:
    return Given(who, ran.outputs, ran.gradients, ran.working, ran.reason, ran.coarse)


def _case(examined: Examined, dtype: str) -> Case:
    """With the formula run in NumPy."""
    case = Case(examined, notes=list(examined.notes))
    try:
        if examined.formula is not None:
            case.formula = _given("numpy", _in_numpy(examined, dtype))
    except (FwcompareError, KeyError, AttributeError, NotImplementedError) as error:
        case.notes.append(f"its formula could not be run: {type(error).__name__}: {error}")
    return case


def _still(value: Array) -> Array:
    return value


def _in_numpy(examined: Examined, dtype: str, move: Callable[[Array], Array] = _still) -> Ran:
    assert examined.formula is not None
    job = examined.job
    tensors = [move(value) for value in job.tensors]
    weights = [move(value.astype(np.float64)) for value in job.weights]
    return run_formula(examined.formula, "numpy", tensors, weights, job.cotangents, dtype)


def _judged(case: Case, dtype: str) -> Attribution:
    """The judge's word; where only gradients differ, with those of points nearby."""
    first = _judge(case, dtype, ())
    if any(
        answer.agrees is False and answer.reason == "other gradients" for answer in first.answers
    ):
        return _judge(case, dtype, _near(case, dtype))
    return first


def _judge(case: Case, dtype: str, near: Sequence[Mapping[str, Array]]) -> Attribution:
    examined = case.examined
    raw = None if examined.raw is None else _given(f"raw {examined.on}", examined.raw)
    return judge(
        examined.path,
        examined.kind,
        examined.documented if case.formula is not None else "",
        _given(f"keras on {examined.on}", examined.own),
        case.formula,
        raw if case.formula is not None else None,
        case.others,
        near,
        unit_roundoff(dtype),
        case.notes,
        (_largest(examined.job.tensors), _largest(examined.job.cotangents.values())),
    )


def _largest(values: Iterable[Array]) -> float:
    """Largest magnitude of floats."""
    floats = (value for value in values if value.dtype.kind == "f" and value.size)
    return max((float(np.abs(value).max()) for value in floats), default=0.0)


def _near(case: Case, dtype: str) -> Sequence[Mapping[str, Array]]:
    """Gradients at points moved by a hair, of the formula or else of the layer itself."""
    if case.formula is None:
        return case.examined.near
    from pytest_fwcompare.backends.keras.hair import shakers

    return [_in_numpy(case.examined, dtype, move).gradients for move in shakers()]
