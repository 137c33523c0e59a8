"""What a backend is: the one place that knows a framework.

Nothing in this file imports a framework. A backend turns a framework's model into a `Side`; a side
turns NumPy arrays into NumPy arrays. Everything above works on these values alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from pytest_fwcompare.backends.keras.examined import Examined
    from pytest_fwcompare.networks import Network
    from pytest_fwcompare.records import Timing
    from pytest_fwcompare.weights.transforms import Transform

Array = np.ndarray

HYPERPARAMETERS = ("eps", "epsilon", "negative_slope", "alpha", "slope")
"""Attributes of layers that `Side.hyperparameters` looks for."""

Precision = Literal["working", "double"]
"""`working`: the dtype the comparison is about. `double`: the float64 shadow."""


@dataclass(frozen=True)
class Parameter:
    """One parameter or buffer of a side.

    Attributes:
        name: unique within the side, e.g. "encoder.0.attention.query.weight".
        shape: in the framework's own layout.
        dtype: NumPy name of the dtype, e.g. "float32".
        trainable: False for buffers (running statistics, tables).
        layer: path of the layer or module that owns it, "" where there is none.
        kind: class name of the owning layer, e.g. "Linear", "Dense", "Conv2D"; "" if unknown.
        role: last word of the name: "weight", "kernel", "gamma", "running_mean", ...
        options: plain facts of the owning layer that a mapping needs, e.g. {"groups": 2,
            "reset_after": True, "hidden_size": 8, "num_heads": 4}.
        aliases: other names of the same storage (tied weights); they are not listed again.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    layer: str = ""
    kind: str = ""
    role: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Argument:
    """One input of a call: passed by position, or by name where `keyword` is True.

    `value` has the side's own axis order. Floating values are cast to the precision of the call.
    """

    name: str
    value: Array
    keyword: bool = False


@dataclass(frozen=True)
class Gradients:
    """Vector-Jacobian products, in the side's own axis orders.

    Attributes:
        inputs: by input name; float inputs only; zeros where nothing depends on the input.
        parameters: by parameter name; trainable float parameters only; None where the
            framework says that nothing depends on the parameter.
    """

    inputs: Mapping[str, Array | None]
    parameters: Mapping[str, Array | None]


@dataclass(frozen=True)
class Recorded:
    """One intermediate tensor of a recorded float64 pass.

    Attributes:
        index: position in execution order.
        path: path of the module or layer that ran the operation, "" for the root.
        operation: the framework's name for it: "layer_norm", "MatMul", "dot_general".
        value: float64 array in the framework's axis order.
        inputs: indices of the recorded tensors it was computed from.
        parameters: names of the parameters it was computed from directly.
        attributes: plain keyword facts of the call ({"eps": 1e-5, "padding": (1, 1)}), as far
            as the backend can tell, for `diagnose`.
        arguments: input arrays of the call in order (tensors only), for recomputation; empty
            where they were not kept.
        gradient: derivative of sum(outputs * cotangents) by this tensor, once the pass has run
            backward; None if nothing depends on it.
        place: stable key of the call site, the same in every run of one side.
        is_module: True if this is the output of a whole module or layer, not of an operation.
    """

    index: int
    path: str
    operation: str
    value: Array
    inputs: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[Array, ...] = ()
    gradient: Array | None = None
    place: str = ""
    is_module: bool = False


class Pass(ABC):
    """One forward pass that can be taken back once.

    Attributes:
        outputs: nested outputs flattened to names in order ("logits", "0", "states.1"; a single
            tensor is "output"), in the side's axis order, at the dtype of the precision
            (bfloat16 is handed over as float32).
        skipped: names of outputs that were None or not tensors, with the reason.
    """

    outputs: dict[str, Array]
    skipped: dict[str, str]

    @abstractmethod
    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        """Vector-Jacobian product with one cotangent an output (float outputs only).

        Args:
            cotangents: by output name, each of its output's shape.

        Raises:
            ModelError: stage "backward", if the framework raised.
        """

    def backward_each(
        self, cotangents: Mapping[str, Array], take: Callable[[str, Array | None], None]
    ) -> Mapping[str, Array | None]:
        """As `backward`, for large networks: gradients of parameters are handed over one by one.

        A side that can compute them one after the other need never hold them all.

        Args:
            cotangents: by output name.
            take: called once a trainable parameter with its name and gradient, in any order; the
                array is the side's own and may be gone after the call.

        Returns:
            The gradients of the inputs.
        """
        found = self.backward(cotangents)
        for name, gradient in found.parameters.items():
            take(name, gradient)
        return found.inputs

    def buffers(self) -> dict[str, Array]:
        """Buffers after the pass, by parameter name (of use after a pass in training mode)."""
        return {}

    def recorded(self) -> list[Recorded]:
        """Intermediates of a pass made with `record=True`, with gradients once backward ran."""
        return []


@dataclass(frozen=True)
class Stopwatch:
    """Bare calls for timing, on values prepared beforehand; each synchronises before it returns.

    Attributes:
        forward: one forward pass.
        forward_backward: one forward and one backward pass; backward alone is the difference
            unless `backward` is given.
        backward: repeats the backward pass of one kept forward pass.
        settings: a block with the device and the arithmetic of the working dtype, entered around
            many calls, so that no call pays for it.
        queue: the forward pass handed over to the device without waiting for it; None where a
            call cannot return before its work is done.
        on_device: seconds that the device was busy with one forward pass, by its own clock; None
            where it has none.
    """

    forward: Callable[[], None]
    forward_backward: Callable[[], None] | None
    backward: Callable[[], None] | None = None
    settings: Callable[[], AbstractContextManager[Any]] = nullcontext
    queue: Callable[[], None] | None = None
    on_device: Callable[[], float] | None = None


class Side(ABC):
    """One model, adopted: NumPy in, NumPy out. The user's object is left as it was found.

    A side works on a twin of the model where the framework can copy one, and otherwise on the
    model itself, whose state `close` puts back. Use as a context manager.

    Attributes:
        framework: import name, e.g. "torch"; in a worker with a tag also that: "torch@old".
        role: "reference" or "port"; set by `compare`, used in messages.
        model: the native object that `run` uses; a copy function given by the user may change
            its weights in place, followed by `read()`.
        leaks: after a pass in double precision, operations that computed in a narrower dtype
            although the shadow should be float64 (name of the operation and where).
        rounded_constants: constants of the double shadow known only to working precision.
        shares_dropout: training passes ask `pytest_fwcompare.dropout.current()` what to keep.
        reduced: what let working passes compute products less exactly than the dtype, though
            nobody asked for that: TF32 that the model switched on while it ran; "" if nothing.
    """

    framework: str
    role: str = "side"
    model: Any
    leaks: list[str]
    rounded_constants: list[str]
    shares_dropout: bool = False
    reduced: str = ""

    def eagerly(self) -> AbstractContextManager[None] | None:
        """A block in which working passes run in eager mode; None if the side cannot switch."""
        return None

    def note_reduced(self, what: str) -> None:
        """Remember what `reduced` says."""
        self.reduced = what

    @property
    def library(self) -> str:
        """The framework's import name without the tag of a worker: "torch" of "torch@old"."""
        return self.framework.partition("@")[0]

    def prepare(self, arguments: Sequence[Argument]) -> None:
        """Build a model that builds itself on its first call, before it is asked anything."""

    @abstractmethod
    def parameters(self) -> list[Parameter]:
        """Float parameters and buffers in definition order, tied ones once."""

    @abstractmethod
    def read(self) -> dict[str, Array]:
        """Current values by parameter name, as the model holds them (bfloat16 as float32)."""

    def value(self, name: str) -> Array:
        """The current value of one parameter, where reading all of a large network is too much."""
        return self.read()[name]

    def original(self, name: str) -> Array | None:
        """The value that a parameter came with, in the working dtype; it must not be written to.

        None if the side holds none that is not its own working copy: then it is read before
        anything is loaded.
        """
        return None

    def release(self, precision: Precision) -> None:
        """Free what only passes in that precision need; weights are loaded again before the next.

        A side of a large network that can make its shadow again should do so; others do nothing.
        """

    @abstractmethod
    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        """Set all named parameters for the passes in that precision; the others keep theirs."""

    def drawn(self, name: str, seed: int) -> Array | None:
        """A randomised weight that was kept for a seed; None if it is drawn when it is needed."""
        return None

    @abstractmethod
    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        """Run the model once.

        Args:
            arguments: inputs in order.
            precision: with the weights last loaded for that precision (the model's own before).
            training: in training mode; state that the pass changes is put back afterwards and
                handed out by `Pass.buffers`.
            gradients: False if `backward` will not be called.
            record: keep intermediates (double precision only).

        Raises:
            ModelError: stage "forward" (or "shadow" in double precision).
        """

    def examine_layers(
        self, arguments: Sequence[Argument], paths: Sequence[str] | None, dtype: str, seed: int
    ) -> list[Examined]:
        """What layers of a Keras model give alone, on the values that reach them; see `Examined`.

        Args:
            arguments: of the model, whose working weights are those last loaded.
            paths: of the layers that are asked about; None: all of them.
            dtype: working dtype.
            seed: of the cotangents.

        Returns:
            One for each layer of Keras, in the order of `paths`, or of their first calls; none for
            models of others.
        """
        return []

    def hyperparameters(self) -> dict[str, float]:
        """Epsilons and slopes of layers that `changed` can change, by "layer.attribute"."""
        return {}

    @contextmanager
    def changed(self, name: str, value: float) -> Iterator[None]:
        """Run with one of `hyperparameters` at another value, in double precision."""
        yield

    @abstractmethod
    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        """Bare calls in working precision for timing."""

    def time_apart(
        self,
        name: str,
        arguments: Sequence[Argument],
        shapes: Mapping[str, tuple[int, ...]],
        backward: bool,
    ) -> Timing | None:
        """The timing of a side that is in a process of its own, taken there; None for others."""
        return None

    def close(self) -> None:
        """Leave the user's model, random state and process as they were found."""

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Placement:
    """Where a canonical parameter of a described network lives in a native model.

    `parameter` is a `Parameter.name` of the adopted native model. `transform` turns the canonical
    arrays named in `sources` into it.
    """

    parameter: str
    sources: tuple[str, ...]
    transform: Transform


@dataclass(frozen=True)
class Built:
    """A described network built in a framework.

    Attributes:
        model: the native object, in the framework's own layout, ready to train and save.
        placements: one for each native parameter.
        input_axes: by input name, the permutation from canonical to native axes, e.g.
            (0, 3, 1, 2); inputs left out are canonical.
        output_axes: the same for outputs (canonical to native).
        notices: e.g. that the framework keeps a constant in float32 somewhere.
    """

    model: Any
    placements: tuple[Placement, ...]
    input_axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output_axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


class Backend(ABC):
    """Knows one framework. Registered by entry point `pytest_fwcompare.backends`.

    Attributes:
        name: import name of the framework.
        distribution: what to install with pip when it is missing.
        imports: the modules to import, in order.
        can_build: builds described networks.
        can_differentiate: gives gradients.
        devices: device kinds it can use at all.
        modes: of "eager", "graph", "compiled", those it has.
        dtypes: working dtypes it can compute in.
    """

    name: ClassVar[str]
    distribution: ClassVar[str]
    imports: ClassVar[tuple[str, ...]]
    can_build: ClassVar[bool] = True
    can_differentiate: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    modes: ClassVar[tuple[str, ...]] = ("eager",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64")

    def unavailable(self) -> str | None:
        """Why the framework cannot be used here, or None. Imports nothing."""
        from importlib.util import find_spec

        for module in self.imports:
            if find_spec(module) is None:
                return f"{module} is not installed (pip install {self.distribution})"
        return None

    def tagged(self, tag: str) -> Backend:
        """What the framework can do under the tag of a worker, where the tag says that."""
        return self

    @abstractmethod
    def version(self) -> str:
        """Version of the framework, with the build where that matters (2.13.0+cpu)."""

    def device_names(self) -> list[str]:
        """Devices present: "cpu", "cuda:0", ..."""
        return ["cpu"]

    def without_gpu(self) -> str:
        """Why it sees no GPU, as far as it tells: "torch 2.13.0+cpu is a build without CUDA"."""
        return ""

    @abstractmethod
    def owns(self, model: object) -> bool:
        """True if `model` is one of this framework's.

        Must not import the framework: looks at the classes of the object only.
        """

    @abstractmethod
    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        """Take a model as it is.

        Args:
            model: an object for which `owns` is true.
            dtype: working dtype.
            device: "cpu" or "cuda[:N]".
            mode: "eager", "graph" or "compiled".
            own: True if the caller made the model for this comparison, so it need not be
                preserved.
        """

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        """Build a described network as a native model in inference mode."""
        raise NotImplementedError(f"{self.name} does not build described networks")

    def placing(self, device: str) -> AbstractContextManager[Any]:
        """Around a factory's call: what it makes lives on the device, if there is such a one.

        A framework that moves every model that it adopts has nothing to do.
        """
        return nullcontext()

    def environment(self) -> dict[str, Any]:
        """Plain facts for the record: version, threads, TF32 and determinism flags."""
        return {"version": self.version()}

    def seeded(self, seed: int) -> AbstractContextManager[None]:
        """Global random state set to a seed for a while; the framework is imported by now.

        A framework that keeps none, as every draw is given its key, has nothing to do.
        """
        return nullcontext()

    def lacking(self, mode: str, device: str) -> str | None:
        """Why a mode of `modes` cannot be had here on that device, such as a missing compiler."""
        return None

    def thread_count(self) -> int | None:
        """Threads that it computes with on a CPU, for the record; None where it does not tell."""
        return self.threads()

    def device_peak(self, device: str, call: Callable[[], None]) -> int | None:
        """Most bytes of a device's memory that were taken while `call` ran.

        What was taken before counts: parameters, inputs, and what a kept pass holds.

        Returns:
            Bytes, or None on a CPU and where the framework keeps no such statistics.
        """
        return None

    def release_memory(self) -> None:
        """Give back device memory that nothing uses any more; after memory ran out."""

    def threads(self) -> int | None:
        """How many threads it uses now, or None where that cannot be changed or told."""
        return None

    def set_threads(self, count: int) -> None:
        """Use that many threads, where the framework lets one choose after its import."""
