"""Single layers of a Keras model: found by path, and watched while they are called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.base import Array

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: the Keras layer.
        path: its path in the model.
        structure: positional and keyword arguments as plain data; `alone.packed` reads it.
        tensors: the arrays among them.
        weights: of the layer during the call, in the order of `layer.weights`.
        keywords: names of keyword arguments that hold tensors.
        options: further arguments that are neither None nor False, by name; positional ones by
            number.
        reason: why the call cannot be repeated; "" if it can.
    """

    layer: Any
    path: str
    structure: Any = None
    tensors: tuple[Array, ...] = ()
    weights: tuple[Array, ...] = ()
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
        None if there is no such layer, or if it is code of the user's own; see `why_none`.
    """
    nearest = _nearest(model, path)
    if nearest is None:
        return None
    found, layer, around = nearest
    parts = found.split("/") if found else []
    for depth, outer in enumerate((*around, layer)):
        if own_class(outer):
            path = "/".join(parts[:depth]) or str(outer.name)
            return None if is_foreign(outer) else (path, outer)
    return None


def why_none(model: Any, path: str) -> str:
    """Why `find_layer` finds nothing."""
    nearest = _nearest(model, path)
    if nearest is None:
        return f"no layer of the Keras model is called {path!r}"
    _, layer, around = nearest
    own = [one for one in (*around, layer) if not type(one).__module__.startswith("keras.")]
    if not own:
        return f"{path} is a model of layers ({type(layer).__name__}), and none of them"
    name = type(own[-1]).__name__
    return f"{path} is code of your own ({name}), of which Keras documents nothing"


def _nearest(model: Any, path: str) -> tuple[str, Any, tuple[Any, ...]] | None:
    """The layer whose path has the most names in common with another one, from its end."""
    wanted = re.split("[./]", path)
    best: tuple[int, str, Any, tuple[Any, ...]] | None = None
    for found, layer, around in layer_paths(model):
        names = re.split("[./]", found or str(layer.name))
        if names[-1] != wanted[-1]:
            continue
        shared = _ending(names, wanted)
        if best is None or shared > best[0]:
            best = shared, found, layer, around
    return None if best is None else best[1:]


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
        if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
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
        weights = weights_of(layer)
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
        weights,
        tuple(keywords),
        options,
    )


def weights_of(layer: Any) -> tuple[Array, ...]:
    """Values of a layer's weights as they are just now, not narrowed by a policy that is mixed."""
    with keras.src.backend.common.variables.AutocastScope(None):
        return tuple(array_of(weight.value) for weight in layer.weights)


def array_of(tensor: Any) -> Array:
    """Values of a tensor or variable; those of 16 bits as float32, which holds them exactly."""
    held = tensor.value if isinstance(tensor, keras.Variable) else tensor
    if hasattr(held, "detach"):  # torch's; Keras' own conversion has NumPy warn of it
        held = held.detach().cpu()
        held = (held.float() if str(held.dtype) == "torch.bfloat16" else held).numpy()
    value = np.array(keras.ops.convert_to_numpy(held))
    return value.astype(np.float32) if value.dtype.name in ("bfloat16", "float16") else value


def number_of(layer: Any, attribute: str) -> str:
    """Name ("weight 0") of the weight that a dotted attribute of a layer holds.

    Raises:
        AttributeError: there is none.
    """
    holder = layer
    for name in attribute.split("."):
        holder = getattr(holder, name)
    for number, weight in enumerate(layer.weights):
        if weight is holder:
            return f"weight {number}"
    raise AttributeError(attribute)
