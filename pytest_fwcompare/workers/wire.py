"""What crosses between the processes: builtin types, and arrays as plain bytes. No pickle.

Both halves use this file, so it imports NumPy and this package's value types only. A message that
came in is data to be checked: dtypes are looked up in a list, sizes must agree with the bytes, and
classes are those of a fixed table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Argument, Gradients, Parameter, Placement, Recorded
from pytest_fwcompare.backends.keras.examined import Examined, Formula, Job, Ran
from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.networks.plain import from_plain, to_plain
from pytest_fwcompare.weights import transforms

PROTOCOL = 3
"""Raised with every change of what is sent; both halves must agree."""

TAG = "~"
"""The key of a dict that stands for something that is no builtin."""

DTYPES = frozenset(
    ["|b1", "|i1", "|u1"]
    + [f"{order}{kind}" for order in "<>" for kind in ("i2", "u2", "i4", "u4", "i8", "u8")]
    + [f"{order}{kind}" for order in "<>" for kind in ("f2", "f4", "f8", "c8", "c16")]
)
"""Dtypes that are let in: numbers and booleans, which no byte pattern can make dangerous."""

PLAIN = (type(None), bool, int, float, str, bytes)

LEAST_INTEGER = -(2**31)
"""Integers below it cannot be written by the serialiser of execnet 2.1."""

VALUES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Argument,
        Gradients,
        Parameter,
        Placement,
        Recorded,
        Examined,
        Formula,
        Job,
        Ran,
        *(
            kind
            for kind in vars(transforms).values()
            if isinstance(kind, type)
            and issubclass(kind, transforms.Transform)
            and kind is not transforms.Transform
        ),
    )
}
"""Dataclasses that cross, field by field."""

Array = np.ndarray
Store = Callable[[Array], int | None]
"""Puts a large array into shared memory and gives its offset; None: send it in the message."""

Fetch = Callable[[int, int], Array]
"""Bytes of shared memory at an offset."""


class WireError(FwcompareError):
    """A message is not what the protocol says."""


def encode(value: Any, store: Store) -> Any:
    """A value as execnet can carry it.

    Args:
        value: plain data, arrays, and the dataclasses of `VALUES`, nested at will. Anything else
            becomes its text: it can only be a fact for a person to read.
        store: where large arrays go.
    """
    if type(value) is int and value < LEAST_INTEGER:
        return {TAG: "integer", "text": str(value)}
    if type(value) in PLAIN:
        return value
    if isinstance(value, Array):
        return _encode_array(value, store)
    if isinstance(value, np.generic):
        return encode(value.item(), store)
    for plain in (int, float, str, bytes):
        if isinstance(value, plain):  # a subclass, such as an enumeration's member
            return encode(plain(value), store)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        items = [(encode(key, store), encode(item, store)) for key, item in value.items()]
        if TAG in value:
            return {TAG: "dict", "items": items}
        return dict(items)
    if isinstance(value, tuple):
        return tuple(encode(item, store) for item in value)
    if isinstance(value, (list, set, frozenset)):
        return [encode(item, store) for item in value]
    if isinstance(value, slice):
        return {TAG: "slice", "parts": (value.start, value.stop, value.step)}
    if value is Ellipsis:
        return {TAG: "ellipsis"}
    if isinstance(value, Network):
        return {TAG: "Network", "data": encode(to_plain(value), store)}
    if VALUES.get(type(value).__name__) is type(value):
        content = {each.name: encode(getattr(value, each.name), store) for each in fields(value)}
        return {TAG: type(value).__name__, "fields": content}
    return str(value)


def decode(value: Any, fetch: Fetch) -> Any:
    """What `encode` was given.

    Raises:
        WireError: it is nothing that `encode` makes.
    """
    if isinstance(value, tuple):
        return tuple(decode(item, fetch) for item in value)
    if isinstance(value, list):
        return [decode(item, fetch) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: decode(item, fetch) for key, item in value.items()}
    kind = value[TAG]
    if kind == "array":
        return _decode_array(value, fetch)
    if kind == "dict":
        return {decode(key, fetch): decode(item, fetch) for key, item in value["items"]}
    if kind == "integer":
        return int(value["text"])
    if kind == "slice":
        return slice(*value["parts"])
    if kind == "ellipsis":
        return Ellipsis
    if kind == "Network":
        return from_plain(decode(value["data"], fetch))
    if kind in VALUES:
        made = {name: decode(item, fetch) for name, item in value["fields"].items()}
        return VALUES[kind](**made)
    raise WireError(f"expected a value of the protocol, got one marked {kind!r}")


def _encode_array(value: Array, store: Store) -> dict[str, Any]:
    dtype = value.dtype.str
    if dtype not in DTYPES:
        raise WireError(f"an array of dtype {value.dtype} cannot be sent to another process")
    made = {TAG: "array", "dtype": dtype, "shape": value.shape}
    at = store(value)
    return made | ({"data": value.tobytes()} if at is None else {"at": at})


def _decode_array(message: Mapping[str, Any], fetch: Fetch) -> Array:
    dtype, shape = message.get("dtype"), message.get("shape")
    if dtype not in DTYPES:
        raise WireError(f"expected an array of numbers, got the dtype {dtype!r}")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError(f"expected the shape of an array, got {shape!r}")
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    data = message["data"] if "data" in message else fetch(message["at"], size)
    if not isinstance(data, (bytes, Array)) or len(data) != size:
        raise WireError(f"expected {size} bytes for an array of shape {shape} and dtype {dtype}")
    if isinstance(data, bytes):
        return np.frombuffer(bytearray(data), kind).reshape(shape)
    flat: Array = data.view(kind)
    return flat.reshape(shape)
