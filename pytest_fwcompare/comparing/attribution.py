"""Is it Keras or the backend? Runs one layer of Keras in every way there is, and asks the judge.

The layer runs as it is on Keras' present backend; by its documented formula in NumPy and in raw
operations of TensorFlow; and, where that leaves a question open, in Keras on its other installed
backends, each in a process of its own. `diagnose.attribute` judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array
from pytest_fwcompare.backends.keras import keras_on
from pytest_fwcompare.backends.registry import backend
from pytest_fwcompare.comparing.link import telling_example
from pytest_fwcompare.diagnose.attribute import Given, judge
from pytest_fwcompare.errors import FwcompareError, UsageError
from pytest_fwcompare.inputs.examples import plan
from pytest_fwcompare.judge.distances import unit_roundoff
from pytest_fwcompare.records import Attribution
from pytest_fwcompare.running.points import Point, arguments
from pytest_fwcompare.sides import open_side

if TYPE_CHECKING:
    from pytest_fwcompare.backends.keras.adopt import KerasSide
    from pytest_fwcompare.backends.keras.calls import Call
    from pytest_fwcompare.backends.keras.documented import Documented
    from pytest_fwcompare.running.pair import Pair

HAIR = 1e-7
"""How far a point is moved to see whether it is a kink, relative to the largest value."""

MOST = 20_000_000
"""Elements of inputs and weights up to which a formula is computed in NumPy."""

NEAR = 2
"""Directions in which a point is moved, forth and back."""


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
    as it is, by its documented formula in NumPy and in raw TensorFlow, and in Keras on its other
    backends. The answers are "your port: Keras does what it documents", "Keras: wrong on every
    backend", "backend: only tensorflow", or that it cannot be told. NumPy as a backend of Keras
    has no gradients. The model is left as it was found.

    Args:
        model: a Keras 3 layer or model, on its TensorFlow backend.
        inputs: an array, a list of arrays, or {name: array, `TensorSpec` or strategy}.
        backends: other backends of Keras to ask; by default all that are installed, () for none.
            Each starts a process, which takes a few seconds.
        dtype: working dtype.
        seed: of generated inputs and of the cotangents.

    Returns:
        One record for each layer of Keras, in the order of their first calls; layers inside
        other layers of Keras (the cell of an LSTM) are part of those.

    Raises:
        UsageError: it is no Keras layer, or an unknown backend was asked for.
        ModelError: it cannot be run on these inputs.
    """
    keras = backend("keras")
    if not keras.owns(model):
        raise UsageError(
            f"attribute: expected a Keras 3 layer or model, got {type(model).__name__}"
        )
    if (on := keras_on()) != "tensorflow":
        raise UsageError(
            f"attribute: Keras runs on {on!r} in this process; layers are asked about from its "
            f"TensorFlow backend, and {on!r} is one of those that are asked then"
        )
    if not isinstance(inputs, Mapping):
        given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        inputs = {f"x{number}": np.asarray(value) for number, value in enumerate(given)}
    made = plan(inputs, ("given",), seed)
    opened = open_side(model, "model", dtype=dtype, device="cpu", mode="eager")
    from pytest_fwcompare.backends.keras import calls, others

    installed = others.installed()
    if unknown := [name for name in backends or () if name not in installed]:
        raise UsageError(
            f"attribute: backend {unknown[0]!r} of Keras cannot be asked here; those that can "
            f"are {', '.join(installed)}"
        )
    with opened.side:
        side = cast("KerasSide", opened.side)
        given = arguments(made, opened, "reference", made.arrays(telling_example(made)))
        side.prepare(given)
        noted = calls.calls_of(side, given, calls.keras_layers(model))
        chosen = installed if backends is None else tuple(backends)
        cases = [_own_case(call, dtype, side.device, seed) for call in noted]
        return tuple(_examined(cases, chosen, dtype, side.device, always=True))


def attribute_culprit(
    pair: Pair, point: Point, culprit: str | None, port_culprit: str | None, proved: bool
) -> Attribution | None:
    """The answer for the culprit of a comparison, where it is a layer of Keras.

    Other backends are asked only if the layer does not do what it documents, or if nothing is
    known of its formula and no cause is proved.

    Args:
        pair: both sides.
        point: the inputs and weights of the telling example.
        culprit: path of the reference's layer.
        port_culprit: path of the port's.
        proved: whether a cause is proved already.

    Returns:
        None where the culprit is no layer of Keras, or where nothing could be added to its cause.
    """
    if keras_on() != "tensorflow":
        return None
    for role, path in (("port", port_culprit), ("reference", culprit)):
        opened = pair.port if role == "port" else pair.reference
        # A side in a worker has no model here; no framework is imported to find that out.
        if not path or "KerasSide" not in (kind.__name__ for kind in type(opened.side).__mro__):
            continue
        from pytest_fwcompare.backends.keras import calls, others

        side = cast("KerasSide", opened.side)
        found = calls.find_layer(side.model, path)
        if found is None:
            continue
        pair.run(role, point, "working", backward=False)  # the weights of this point
        noted = calls.calls_of(side, pair.arguments(role, point.inputs), [found])
        dtype, device = str(side.dtype.name), side.device
        cases = [_own_case(call, dtype, device, 0) for call in noted]
        if not cases or (proved and cases[0].formula is None):
            return None
        (made,) = _examined(cases, others.installed(), dtype, device, always=False)
        return made
    return None


class Shaker:
    """Moves arrays by a hair, to see whether a gradient jumps there.

    Args:
        seed: of the direction.
        sign: 1.0 or -1.0, so that every kink has points on both of its sides.
    """

    def __init__(self, seed: int, sign: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.sign = sign

    def __call__(self, value: Array) -> Array:
        """The array moved; integers stay."""
        if value.dtype.kind != "f":
            return value
        size = self.sign * HAIR * (float(np.abs(value).max(initial=0.0)) or 1.0)
        moved: Array = value.astype(np.float64) + size * self.rng.standard_normal(value.shape)
        return moved


def _still(value: Array) -> Array:
    return value


@dataclass
class Case:
    """One call with what has been learned of it.

    Attributes:
        call: of the layer.
        own: what the layer itself gave.
        cotangents: by output.
        documented: its formula; None where none is known.
        formula, raw: what the formula gave in NumPy and in raw TensorFlow.
        others: what Keras gave on other backends.
        notes: reasons and remarks for the record.
    """

    call: Call
    own: Given = field(default_factory=lambda: Given("keras on tensorflow"))
    cotangents: dict[str, Array] = field(default_factory=dict)
    documented: Documented | None = None
    formula: Given | None = None
    raw: Given | None = None
    others: list[Given] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _examined(
    cases: Sequence[Case], backends: Sequence[str], dtype: str, device: str, *, always: bool
) -> list[Attribution]:
    """Records of calls; the other backends are asked about all open questions at once."""
    found = [_judged(case, dtype, device) for case in cases]
    open_cases = [
        case
        for case, first in zip(cases, found, strict=True)
        if case.own.outputs and (always or first.fault != "port")
    ]
    if not open_cases or not backends:
        return found
    from pytest_fwcompare.backends.keras.others import ask

    # Not every backend has the narrower dtypes on a CPU.
    asked = dtype if dtype in ("float32", "float64") else "float32"
    answers = ask(
        backends, [case.call for case in open_cases], [c.cotangents for c in open_cases], asked
    )
    for name, given in answers.items():
        for case, one in zip(open_cases, given, strict=True):
            case.others.append(_given(f"keras on {name}", one, asked))
    return [_judged(case, dtype, device) for case in cases]


def _given(who: str, found: Mapping[str, Array] | str, dtype: str) -> Given:
    """An answer of another process, sorted."""
    if isinstance(found, str):
        return Given(who, reason=found)

    def part(start: str) -> dict[str, Array]:
        return {
            name.removeprefix(start): value
            for name, value in found.items()
            if name.startswith(start)
        }

    outputs = {f"output {n}": v for n, v in part("float64 output ").items()}
    working = {f"output {n}": _wide(v) for n, v in part(f"{dtype} output ").items()}
    gradients = part("float64 gradient ")
    reason = "" if gradients else "it has no gradients"
    return Given(who, outputs, gradients, working, reason, coarse=True)


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _own_case(call: Call, dtype: str, device: str, seed: int) -> Case:
    """The layer itself and its formula."""
    from pytest_fwcompare.backends.keras import calls

    case = Case(call)
    if call.reason:
        case.own = replace(case.own, reason=call.reason)
        return case
    try:
        side = calls.layer_side(call, dtype, device)
        with side:
            outputs, gradients = calls.run_own(side, call.tensors, case.cotangents, "double", seed)
            working, _ = calls.run_own(side, call.tensors, case.cotangents, "working")
    except FwcompareError as error:
        case.own = replace(case.own, reason=str(error))
        return case
    working = {name: _wide(value) for name, value in working.items()}
    case.own = replace(case.own, outputs=outputs, gradients=gradients, working=working)
    _document(case, dtype)
    return case


def _document(case: Case, dtype: str) -> None:
    """Run the documented formula, in NumPy and in raw TensorFlow."""
    from pytest_fwcompare.backends.keras.calls import overrides, own_class
    from pytest_fwcompare.backends.keras.documented import Undocumented, documented

    call = case.call
    kind = own_class(call.layer)
    if (other := overrides(call.layer)) and kind:
        case.notes.append(
            f"{other} is no class of Keras itself; it is held against the documentation of {kind}"
        )
    size = sum(tensor.size for tensor in call.tensors) + call.layer.count_params()
    try:
        if size > MOST:
            raise Undocumented(f"{size:,} values are too many for NumPy")
        if left := [name for name in call.keywords if name not in ("inputs", "value", "query")]:
            raise Undocumented(f"called with {', '.join(left)}")
        case.documented = documented(
            kind,
            call.layer.get_config(),
            [tensor.shape for tensor in call.tensors],
            [tensor.dtype.name for tensor in call.tensors],
            call.options,
        )
        case.formula = _formula(case, "numpy", "numpy", dtype)
        case.raw = _formula(case, "tensorflow", "raw tensorflow", dtype)
    except Undocumented as error:
        case.documented = case.formula = case.raw = None
        case.notes.append(f"no documented formula to hold it against: {error}")
    except (FwcompareError, KeyError, AttributeError, NotImplementedError) as error:
        case.documented = case.formula = case.raw = None
        case.notes.append(f"its formula could not be run: {type(error).__name__}: {error}")


def _formula(
    case: Case, framework: str, who: str, dtype: str, move: Callable[[Array], Array] = _still
) -> Given:
    """What the documented formula gives in a framework, in the layout of the Keras layer."""
    from pytest_fwcompare.backends.keras.calls import weight_of

    assert case.documented is not None
    network, stored = case.documented.network, case.documented.stored
    shapes = {name: spec.shape for name, spec in network.parameters().items()}
    values: dict[str, Array] = {}
    numbers = {}
    for attribute_name, names, transform in stored:
        numbers[attribute_name], value = weight_of(case.call.layer, attribute_name)
        parts = transform.adjoint(
            move(value.astype(np.float64)), *(shapes[name] for name in names)
        )
        values |= dict(zip(names, parts, strict=True))
    tensors = [move(tensor) for tensor in case.call.tensors]
    runner = backend(framework)
    working = dtype if dtype in runner.dtypes else "float32"
    built = runner.build(network, dtype=working)
    side = runner.adopt(built.model, dtype=working, device="cpu", mode="eager", own=True)
    given = [Argument(f"x{n}", tensor) for n, tensor in enumerate(tensors)]
    native = {
        place.parameter: place.transform.apply(*(values[name] for name in place.sources))
        for place in built.placements
    }
    with side:
        side.prepare(given)
        side.load(native, "double")
        passed = side.forward(given, precision="double")
        found = passed.backward(dict.fromkeys(passed.outputs, case.cotangents["output 0"]))
        narrow: dict[str, Array] = {}
        if move is _still:
            side.load(native, "working")
            narrow = side.forward(given, precision="working", gradients=False).outputs
    canonical: dict[str, Array] = {}
    for place in built.placements:
        gradient = found.parameters.get(place.parameter)
        if gradient is not None:
            parts = place.transform.adjoint(gradient, *(shapes[name] for name in place.sources))
            canonical |= dict(zip(place.sources, parts, strict=True))
    gradients = {f"input {n[1:]}": g for n, g in found.inputs.items() if g is not None}
    for attribute_name, names, transform in stored:
        if all(name in canonical for name in names):
            gradients[numbers[attribute_name]] = transform.apply(*(canonical[n] for n in names))
    return Given(
        who,
        {f"output {n}": value for n, value in enumerate(passed.outputs.values())},
        gradients,
        {f"output {n}": _wide(value) for n, value in enumerate(narrow.values())},
    )


def _judged(case: Case, dtype: str, device: str) -> Attribution:
    """The judge's word; where only gradients differ, with those of points nearby."""
    near: list[Mapping[str, Array]] = []
    first = _judge(case, dtype, near)
    if any(
        answer.agrees is False and answer.reason == "other gradients" for answer in first.answers
    ):
        near = _near(case, dtype, device)
        return _judge(case, dtype, near)
    return first


def _judge(case: Case, dtype: str, near: Sequence[Mapping[str, Array]]) -> Attribution:
    from pytest_fwcompare.backends.keras.calls import own_class

    return judge(
        case.call.path,
        case.call.kind,
        own_class(case.call.layer) if case.formula is not None else "",
        case.own,
        case.formula,
        case.raw,
        case.others,
        near,
        unit_roundoff(dtype),
        case.notes,
        (_largest(case.call.tensors), _largest(case.cotangents.values())),
    )


def _largest(values: Iterable[Array]) -> float:
    """Largest magnitude of floats."""
    floats = (value for value in values if value.dtype.kind == "f" and value.size)
    return max((float(np.abs(value).max()) for value in floats), default=0.0)


def _near(case: Case, dtype: str, device: str) -> list[Mapping[str, Array]]:
    """Gradients at points moved by a hair, of the formula or else of the layer itself."""
    from pytest_fwcompare.backends.keras import calls

    made: list[Mapping[str, Array]] = []
    for seed, sign in product(range(NEAR), (1.0, -1.0)):
        move = Shaker(seed, sign)
        if case.formula is not None:
            made.append(_formula(case, "numpy", "numpy", dtype, move).gradients)
            continue
        tensors = [move(tensor) for tensor in case.call.tensors]
        side = calls.layer_side(case.call, dtype, device)
        with side:
            made.append(calls.run_own(side, tensors, case.cotangents, "double")[1])
    return made
