"""What is learned of a layer of Keras where its model is: plain data, which a worker can send.

Imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.weights.transforms import Transform

Array = np.ndarray


@dataclass(frozen=True)
class Ran:
    """What one implementation of a layer gave.

    Attributes:
        outputs: in float64, by "output 0", ...
        gradients: in float64, by "input 0", ... and "weight 0", ...
        working: outputs in the working dtype, by the same names.
        reason: why some of it is missing; "" if nothing is.
        coarse: some of the float64 pass was computed in a narrower dtype.
    """

    outputs: Mapping[str, Array] = field(default_factory=dict)
    gradients: Mapping[str, Array] = field(default_factory=dict)
    working: Mapping[str, Array] = field(default_factory=dict)
    reason: str = ""
    coarse: bool = False


@dataclass(frozen=True)
class Job:
    """A layer with one call of it, to be made and run in any process.

    Attributes:
        layer: its configuration, as JSON; "" if it cannot be written, for `reason`.
        sources: modules of classes that are not Keras' own: {"module": name, "file": path}.
        structure: of the call's arguments as plain data; `alone.packed` reads it.
        tensors: the arrays among them.
        weights: of the layer, in the order of `layer.weights`.
        cotangents: of its outputs, by "output 0", ...
        reason: why no other process can make it.
    """

    layer: str = ""
    sources: tuple[dict[str, str], ...] = ()
    structure: Any = None
    tensors: tuple[Array, ...] = ()
    weights: tuple[Array, ...] = ()
    cotangents: Mapping[str, Array] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Formula:
    """What Keras documents of a layer, as a described network.

    Attributes:
        network: computes it; its inputs are "x0", "x1", ...
        stored: its parameters in the layer: ("weight 0", canonical names, how they lie there).
    """

    network: Network
    stored: tuple[tuple[str, tuple[str, ...], Transform], ...]


@dataclass(frozen=True)
class Examined:
    """One call of a layer of Keras, with what was found out on the backend of its process.

    Attributes:
        path: of the layer in its model.
        kind: its class.
        on: Keras' backend there.
        documented: the class of Keras that it is, or derives from; "" if nothing is documented.
        own: what the layer itself gave.
        raw: what its formula gave in raw operations of that backend.
        formula: None where none is known.
        near: where no formula is known, gradients of the layer at points moved by a hair.
        job: for other processes.
        notes: reasons and remarks.
        foreign: why nothing can be asked of it: it is code of the user's own, or is not there.
    """

    path: str
    kind: str
    on: str
    documented: str = ""
    own: Ran = field(default_factory=Ran)
    raw: Ran | None = None
    formula: Formula | None = None
    near: tuple[Mapping[str, Array], ...] = ()
    job: Job = field(default_factory=Job)
    notes: tuple[str, ...] = ()
    foreign: str = ""
