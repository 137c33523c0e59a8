"""Single layers of a Keras model: found by path, watched while they are called, run alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import Argument, Array, Precision
from pytest_fwcompare.backends.keras.adopt import KerasSide
from pytest_fwcompare.backends.keras.documented import FORMULAS
from pytest_fwcompare.backends.keras.runner import packed

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: the Keras layer.
        path: its path in the model.
        structure: positional and keyword arguments as plain data; `runner.packed` reads it.
        tensors: the arrays among them.
        keywords: names of keyword arguments that hold tensors.
        options: further arguments that are neither None nor False, by name; positional ones by
            number.
        reason: why the call cannot be repeated; "" if it can.
    """

    layer: Any
    path: str
    structure: Any = None
    tensors: tuple[Array, ...] = ()
    keywords: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def kind(self) -> str:
        """The layer's class."""
        return type(self.layer).__name__


def own_class(layer: Any) -> str:
    """Name of the class of Keras that the layer is, or derives from; "" for models and others."""
    for kind in type(layer).__mro__:
        if kind.__module__.startswith("keras.src.models"):
            return ""
        if kind.__module__.startswith("keras.src.layers."):
            return "" if kind.__name__ in ("Layer", "Wrapper") else str(kind.__name__)
    return ""


def overrides(layer: Any) -> str:
    """The class that changes what Keras' own class computes; "" for Keras' own."""
    kind = type(layer)
    return "" if kind.__module__.startswith("keras.") else str(kind.__name__)


def is_foreign(layer: Any) -> bool:
    """Whether parts of the layer are of the user's own making, such as the cell of an RNN."""
    parts = (part for _, part, around in layer_paths(layer) if around)
    return any(not type(part).__module__.startswith("keras.") for part in parts)


def layer_paths(model: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Path, layer and the layers around it, outermost first, for all layers; parents first."""
    seen: set[int] = set()

    def walk(layer: Any, path: str, around: tuple[Any, ...]) -> Iterator[Any]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer, around
        for part in layer._layers:
            inner = f"{path}/{part.name}" if path else str(part.name)
            yield from walk(part, inner, (*around, layer))

    yield from walk(model, "", ())


def find_layer(model: Any, path: str) -> tuple[str, Any] | None:
    """The layer of Keras at a path, as a recording names it, with its own path.

    A part of a layer of Keras (a projection of an attention, the cell of an LSTM) stands for the
    whole layer.

    Returns:
        None if there is no such layer, or if it is code of the user's own.
    """
    wanted = re.split("[./]", path)
    best: tuple[int, str, Any, tuple[Any, ...]] | None = None
    for found, layer, around in layer_paths(model):
        names = re.split("[./]", found or str(layer.name))
        if names[-1] != wanted[-1]:
            continue
        shared = _ending(names, wanted)
        if best is None or shared > best[0]:
            best = shared, found, layer, around
    if best is None:
        return None
    _, found, layer, around = best
    parts = found.split("/") if found else []
    for depth, outer in enumerate((*around, layer)):
        if own_class(outer):
            path = "/".join(parts[:depth]) or str(outer.name)
            return None if is_foreign(outer) else (path, outer)
    return None


def _ending(names: Sequence[str], wanted: Sequence[str]) -> int:
    """How many names from the end agree."""
    count = 0
    for one, other in zip(reversed(names), reversed(wanted), strict=False):
        if one != other:
            break
        count += 1
    return count


def keras_layers(model: Any) -> list[tuple[str, Any]]:
    """Path and layer of all layers of Keras that compute something, the outermost ones."""
    found = []
    for path, layer, around in layer_paths(model):
        outermost = not any(own_class(outer) for outer in around)
        if own_class(layer) not in ("", "InputLayer") and outermost and not is_foreign(layer):
            found.append((path or str(layer.name), layer))
    return found


@contextmanager
def watched(layers: Sequence[tuple[str, Any]]) -> Iterator[list[Call]]:
    """Notes the first call of each layer while the model runs eagerly."""
    calls: list[Call] = []
    patched = []
    for path, layer in layers:
        original = layer.call

        def note(*args: Any, _of: Any = (path, layer, original), **kwargs: Any) -> Any:
            where, called, run = _of
            if not any(call.layer is called for call in calls):
                calls.append(_noted(where, called, args, kwargs))
            return run(*args, **kwargs)

        layer.__dict__["call"] = note
        patched.append(layer)
    try:
        yield calls
    finally:
        for layer in patched:
            layer.__dict__.pop("call", None)


def _noted(path: str, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    tensors: list[Array] = []

    def plain(value: Any) -> Any:
        if isinstance(value, (tf.Tensor, tf.Variable)):
            tensors.append(array_of(value))
            return {"tensor": len(tensors) - 1}
        if isinstance(value, PLAIN):
            return {"value": value}
        if isinstance(value, dict):
            return {"dict": {str(key): plain(item) for key, item in value.items()}}
        if isinstance(value, (list, tuple)):
            items = [plain(item) for item in value]
            return {"tuple": items} if isinstance(value, tuple) else items
        raise TypeError(f"an argument is no tensor but {type(value).__name__}")

    try:
        positional = {"tuple": [plain(value) for value in args]}
        before = len(tensors)
        named = {key: plain(value) for key, value in kwargs.items()}
    except (TypeError, AttributeError, NotImplementedError) as error:
        return Call(layer, path, reason=f"its call cannot be repeated: {error}")
    keywords = [] if len(tensors) == before else [k for k, v in named.items() if "value" not in v]
    options = {
        key: value["value"]
        for key, value in named.items()
        if isinstance(value, dict) and value.get("value") not in (None, False)
    }
    return Call(
        layer,
        path,
        {"tuple": [positional, {"dict": named}]},
        tuple(tensors),
        tuple(keywords),
        options,
    )


def array_of(tensor: Any) -> Array:
    """Values of a tensor or variable; those of 16 bits as float32, which holds them exactly."""
    value = np.array(tensor.numpy())
    return value.astype(np.float32) if value.dtype.name in ("bfloat16", "float16") else value


def calls_of(side: KerasSide, arguments: Sequence[Argument], layers: Sequence[Any]) -> list[Call]:
    """First calls of layers in one eager run of a model."""
    with watched(layers) as calls, side.explained("forward"), side.placed():
        side.call(arguments, side.tensors(arguments), False)
    return calls


class LayerSide(KerasSide):
    """One layer as it is in its model, called as it was called there."""

    structure: Any = None

    def call(self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool) -> Any:
        """The noted call with these tensors."""
        args, kwargs = packed(self.structure, tensors)
        return self.model(*args, **kwargs)

    def named_weights(self) -> dict[str, str]:
        """Names by which the side knows the layer's weights: {"weight 0": name}."""
        by_variable = {id(owned.variable): owned.parameter.name for owned in self.entries()}
        return {
            f"weight {number}": by_variable[id(weight.value)]
            for number, weight in enumerate(self.model.weights)
            if id(weight.value) in by_variable
        }


def layer_side(call: Call, dtype: str, device: str) -> LayerSide:
    """A side for one layer; it leaves the layer as it was found.

    Args:
        call: of the layer.
        dtype: working dtype.
        device: TensorFlow's name of it.
    """
    side = LayerSide(call.layer, dtype=dtype, device="cpu", mode="eager", own=False)
    side.device = device
    side.structure = call.structure
    return side


def arguments_of(tensors: Sequence[Array]) -> list[Argument]:
    """Inputs of a layer, by number."""
    return [Argument(f"input {number}", value) for number, value in enumerate(tensors)]


def run_own(
    side: LayerSide,
    tensors: Sequence[Array],
    cotangents: dict[str, Array],
    precision: Precision,
    seed: int = 0,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs by "output 0", ..., and gradients by "input 0", "weight 0", ...

    Args:
        side: of the layer.
        tensors: inputs.
        cotangents: by output; filled at random where it is empty.
        precision: of the pass; gradients in double precision only.
        seed: of the cotangents.
    """
    passed = side.forward(
        arguments_of(tensors), precision=precision, gradients=precision == "double"
    )
    names = {name: f"output {number}" for number, name in enumerate(passed.outputs)}
    outputs = {names[name]: np.asarray(value) for name, value in passed.outputs.items()}
    if precision != "double":
        return outputs, {}
    if not cotangents:
        rng = np.random.default_rng(seed)
        for name, value in outputs.items():
            drawn = rng.standard_normal(value.shape).astype(np.float32)
            cotangents[name] = drawn.astype(np.float64)
    found = passed.backward(
        {
            name: cotangents[names[name]]
            for name, value in passed.outputs.items()
            if value.dtype.kind == "f"
        }
    )
    gradients = {name: g for name, g in found.inputs.items() if g is not None}
    for key, name in side.named_weights().items():
        gradient = found.parameters.get(name)
        if gradient is not None:
            gradients[key] = gradient
    return outputs, gradients


def weight_of(layer: Any, attribute: str) -> tuple[str, Array]:
    """Number and value of the weight that a dotted attribute of a layer holds.

    Raises:
        AttributeError: there is none.
    """
    holder = layer
    for name in attribute.split("."):
        holder = getattr(holder, name)
    for number, weight in enumerate(layer.weights):
        if weight is holder:
            return f"weight {number}", array_of(weight.value)
    raise AttributeError(attribute)


def is_documented(layer: Any) -> bool:
    """Whether there is a formula for its class."""
    return own_class(layer) in FORMULAS
